/* Is the CUDA device of this test the double of tests/fakecuda? For tests that make it misbehave, by variables of the
 * environment that a real device knows nothing of.
 */
#ifndef DASS_TESTS_DOUBLE_H
#define DASS_TESTS_DOUBLE_H

#include <dlfcn.h>
#include <stdlib.h>

#include "check.h"

#include "dass/exec.h"

/* NULL when the device can be opened. */
static inline const char *why_no_cuda(void)
{
    for (size_t i = 0; dass_backend_name(i) != NULL; i++)
        if (strcmp(dass_backend_name(i), "cuda") == 0)
            return dass_backend_why_not(i);
    return "this build knows no such device";
}

static inline void need_cuda(void)
{
    const char *why = why_no_cuda();
    if (why == NULL)
        return;
    print_message("cuda: skipped: %s\n", why);
    skip();
}

/* A function that the double exports; NULL on a real device. */
static inline void *double_symbol(const char *name)
{
    const char *path = getenv("DASS_CUDA_PLUGIN");
    void *library = path != NULL ? dlopen(path, RTLD_NOW | RTLD_NOLOAD) : NULL;
    return library != NULL ? dlsym(library, name) : NULL;
}

static inline void need_double(void)
{
    need_cuda();
    if (double_symbol("fake_cuda_traffic") == NULL)
        leave_out("a real device cannot be made to fail");
}

/* What this process writes to stderr between begin and end, NUL-ended. A device does not survive a fork, so this is not
 * stderr_of. */
typedef struct overheard {
    FILE *to;
    int stderr_was;
} overheard;

static inline overheard overhear_begin(void)
{
    overheard o = {.to = tmpfile()};
    assert_non_null(o.to);
    (void)fflush(stderr);
    o.stderr_was = dup(STDERR_FILENO);
    assert_true(o.stderr_was >= 0 && dup2(fileno(o.to), STDERR_FILENO) >= 0);
    return o;
}

static inline void overhear_end(overheard *o, char *text, size_t n)
{
    (void)fflush(stderr);
    assert_true(dup2(o->stderr_was, STDERR_FILENO) >= 0);
    (void)close(o->stderr_was);
    rewind(o->to);
    text[fread(text, 1, n - 1, o->to)] = '\0';
    (void)fclose(o->to);
}

static inline int times_in(const char *text, const char *word)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, word)) != NULL; p++)
        n++;
    return n;
}

#endif
