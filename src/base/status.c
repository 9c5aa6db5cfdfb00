/* Status names, and the text and place of the last failure of each thread.
 *
 * Not a log: recording a failure prints nothing (at debug level the way it travels is logged).
 * Everything here works without allocating, so that running out of memory can be reported like any
 * other fault.
 * Invariant: the text of a thread is always NUL-ended, one line of printable UTF-8 whatever a file or
 * a library put into it, and changes only in dass__fail and dass_error_clear.
 */
#include "dass/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dass/log.h"
#include "dass/text.h"

enum { TEXT_BYTES = 2048, WHERE_BYTES = 256 };

static _Thread_local char error_text[TEXT_BYTES];
static _Thread_local char error_where[WHERE_BYTES];

const char *dass_status_name(dass_status st)
{
    switch (st) {
#define X(name, number, text) \
    case DASS_##name:         \
        return #name;
        DASS_STATUS_MAP(X)
#undef X
    }
    return "UNKNOWN";
}

const char *dass_status_text(dass_status st)
{
    switch (st) {
#define X(name, number, text) \
    case DASS_##name:         \
        return text;
        DASS_STATUS_MAP(X)
#undef X
    }
    return "unknown status";
}

const char *dass_error_text(void)
{
    return error_text;
}

const char *dass_error_where(void)
{
    return error_where;
}

void dass_error_clear(void)
{
    error_text[0] = '\0';
    error_where[0] = '\0';
}

/* Last component of a path: messages do not depend on where the tree was built. */
static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

dass_status dass__fail(dass_status st, const char *file, int line, const char *fmt, ...)
{
    /* Formatted aside first: the arguments may contain dass_error_text() itself. */
    char text[TEXT_BYTES];
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0) {
        (void)snprintf(text, sizeof text, "%s (its text could not be formatted)",
                       dass_status_text(st));
    } else if ((size_t)n >= sizeof text) {
        memcpy(text + dass_text_fit(text, sizeof text - 4), "...", 4);
    }
    dass_text_clean(text);
    memcpy(error_text, text, sizeof error_text);
    (void)snprintf(error_where, sizeof error_where, "%s:%d", base_name(file), line);
    if (dass_log_get_level() >= DASS_LOG_DEBUG) {
        dass_log(DASS_LOG_DEBUG, "%s at %s: %s", dass_status_name(st), error_where, error_text);
    }
    return st;
}

dass_status dass__hop(dass_status st, const char *file, int line)
{
    if (dass_log_get_level() >= DASS_LOG_DEBUG) {
        dass_log(DASS_LOG_DEBUG, "%s passed on at %s:%d", dass_status_name(st), base_name(file),
                 line);
    }
    return st;
}

void dass__assert_fail(const char *cond, const char *file, int line)
{
    (void)fprintf(stderr, "dass: assertion failed at %s:%d: %s\n", base_name(file), line, cond);
    (void)fflush(stderr);
    abort();
}
