/* Checks that tests of several files share, on top of cmocka.
 *
 * Not for tensors, whose comparison is in cases.h.
 */
#ifndef DASS_TESTS_CHECK_H
#define DASS_TESTS_CHECK_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "dass/status.h"

#define N_OF(a) (sizeof(a) / sizeof(a)[0])

/* What `body` writes to stderr, NUL-ended. In a child process, so that it may abort; the child's
 * wait status is returned. */
static inline int stderr_of(void (*body)(void), char *buf, size_t n)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    (void)fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)signal(SIGABRT, SIG_DFL); /* the runner's handler would go on with the next test */
        (void)dup2(ends[1], STDERR_FILENO);
        (void)close(ends[0]);
        (void)close(ends[1]);
        body();
        (void)fflush(stderr);
        _exit(0);
    }
    (void)close(ends[1]);
    size_t used = 0;
    for (ssize_t got = 1; got > 0 && used + 1 < n;) {
        got = read(ends[0], buf + used, n - 1 - used);
        if (got > 0)
            used += (size_t)got;
    }
    buf[used] = '\0';
    (void)close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

/* The status and, word for word, the text of the failure. */
static inline void assert_fails(dass_status st, dass_status want, const char *text)
{
    if (st != want || strcmp(dass_error_text(), text) != 0) {
        print_error("got  %s: %s\nwant %s: %s\n", dass_status_name(st), dass_error_text(),
                    dass_status_name(want), text);
        fail();
    }
}

/* Skip what is no part of this run by choice, not for lack of something. `make gpu-check` takes every other skip of a
 * device's test for a failure. */
static inline void leave_out(const char *why)
{
    print_message("left out: %s\n", why);
    skip();
}

/* Success, or the failure's text and place. */
static inline void check_ok(dass_status st)
{
    if (st != DASS_OK)
        fail_msg("%s: %s (%s)", dass_status_name(st), dass_error_text(), dass_error_where());
}

/* The status and a part of the text of the failure. */
static inline void assert_fails_with(dass_status st, dass_status want, const char *part)
{
    if (st != want || strstr(dass_error_text(), part) == NULL)
        fail_msg("got %s: %s\nwant %s with: %s", dass_status_name(st), dass_error_text(), dass_status_name(want), part);
}

static inline bool all_zero(const void *block, size_t n)
{
    const unsigned char *p = block;
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0)
            return false;
    }
    return true;
}

#endif
