/* A preloaded library whose Nth allocation fails: malloc, calloc, realloc, posix_memalign, aligned_alloc, and mmap
 * of memory, of the program and of the libraries that it gives its files to. A failure here, unlike a limit on memory,
 * meets each single place, and the same one every time.
 *
 * Not counted: what libgomp, oneDNN, the C++ runtime and the loader ask for themselves. libgomp ends the process by
 * exit(1) when it gets none, which no caller can change.
 *
 * The file named by FAULT_ALLOC_FILE is mapped and shared with whoever started the process: `fail_at` is read, `n`
 * and what failed are written. Without it nothing fails.
 */
#define _GNU_SOURCE
#include "failing_alloc.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static fault_alloc_page *page;
/* In this library: what dladdr or dlsym ask for is not counted. The address sanitizer replaces the function that other
 * kinds of thread-local variables are found with, and is not ready when the first memory is asked for. */
static _Thread_local bool inside __attribute__((tls_model("initial-exec")));

static void *(*next_malloc)(size_t);
static void *(*next_calloc)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);
static void *(*next_mmap)(void *, size_t, int, int, int, off_t);
static int (*next_posix_memalign)(void **, size_t, size_t);
static void *(*next_aligned_alloc)(size_t, size_t);

/* dlsym may ask for a little memory before the next allocator is known. It is never given back. */
static char first_bytes[4096] __attribute__((aligned(16)));
static size_t first_used;

static void *first_alloc(size_t bytes)
{
    const size_t rounded = (bytes + 15) / 16 * 16;
    if (rounded > sizeof first_bytes - first_used)
        return NULL;
    void *block = first_bytes + first_used;
    first_used += rounded;
    return block;
}

static void *look_up(const char *name)
{
    inside = true;
    void *symbol = dlsym(RTLD_NEXT, name);
    inside = false;
    if (symbol == NULL)
        _exit(99);
    return symbol;
}

#define NEXT(name)                                          \
    do {                                                    \
        if (next_##name == NULL) {                          \
            void *symbol_ = look_up(#name);                 \
            memcpy(&next_##name, &symbol_, sizeof(void *)); \
        }                                                   \
    } while (0)

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULT_ALLOC_FILE");
    const int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *p = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    (void)close(fd);
    page = p != MAP_FAILED ? p : NULL;
}

static bool is_counted(const char *module)
{
    static const char *const others[] = {"libgomp",   "libdnnl", "libstdc++", "libgcc",          "ld-linux",
                                         "libOpenCL", "libasan", "libubsan",  "libfailing_alloc"};
    const char *slash = strrchr(module, '/');
    const char *name = slash != NULL ? slash + 1 : module;
    for (size_t i = 0; i < sizeof others / sizeof *others; ++i)
        if (strncmp(name, others[i], strlen(others[i])) == 0)
            return false;
    return true;
}

/* True for the one allocation that was chosen. */
static bool must_fail(size_t bytes, const char *function, void *caller)
{
    Dl_info info = {0};
    const bool block = strstr("posix_memalign aligned_alloc mmap", function) != NULL;
    if (page == NULL || inside || (page->blocks != 0 && !block))
        return false;
    inside = true;
    const bool known = dladdr(caller, &info) != 0 && info.dli_fname != NULL;
    inside = false;
    if (known && !is_counted(info.dli_fname))
        return false;
    const long n = __atomic_add_fetch(&page->n, 1, __ATOMIC_SEQ_CST);
    if (n != page->fail_at)
        return false;
    const char *slash = known ? strrchr(info.dli_fname, '/') : NULL;
    const size_t offset = known ? (size_t)((char *)caller - (char *)info.dli_fbase) : 0;
    (void)snprintf(page->what, sizeof page->what, "%s of %zu bytes by %s+0x%zx%s%s", function, bytes,
                   slash != NULL ? slash + 1 : "?", offset, info.dli_sname != NULL ? " in " : "",
                   info.dli_sname != NULL ? info.dli_sname : "");
    errno = ENOMEM;
    return true;
}

void *malloc(size_t bytes)
{
    if (next_malloc == NULL && inside)
        return first_alloc(bytes);
    NEXT(malloc);
    return must_fail(bytes, "malloc", __builtin_return_address(0)) ? NULL : next_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    if (next_calloc == NULL && inside)
        return first_alloc(n * bytes);
    NEXT(calloc);
    return must_fail(n * bytes, "calloc", __builtin_return_address(0)) ? NULL : next_calloc(n, bytes);
}

void *realloc(void *block, size_t bytes)
{
    NEXT(realloc);
    return must_fail(bytes, "realloc", __builtin_return_address(0)) ? NULL : next_realloc(block, bytes);
}

int posix_memalign(void **out, size_t align, size_t bytes)
{
    NEXT(posix_memalign);
    return must_fail(bytes, "posix_memalign", __builtin_return_address(0)) ? ENOMEM
                                                                           : next_posix_memalign(out, align, bytes);
}

void *aligned_alloc(size_t align, size_t bytes)
{
    NEXT(aligned_alloc);
    return must_fail(bytes, "aligned_alloc", __builtin_return_address(0)) ? NULL : next_aligned_alloc(align, bytes);
}

void *mmap(void *where, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    NEXT(mmap);
    if (fd < 0 && must_fail(bytes, "mmap", __builtin_return_address(0)))
        return MAP_FAILED;
    return next_mmap(where, bytes, protection, flags, fd, offset);
}
