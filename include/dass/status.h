/* Status codes, the error text of the current thread, and the macros that carry both upwards.
 *
 * Every fallible function returns a dass_status. The function that finds the fault records what, where, the
 * offending value and the remedy with DASS_FAIL; everybody above passes the code on with DASS_TRY. Only main()
 * prints and exits. The idea of goto-able check macros is NCCL's.
 */
#ifndef DASS_STATUS_H
#define DASS_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* name, number (also the exit code of the program), what it means */
#define DASS_STATUS_MAP(X)                                    \
    X(OK, 0, "success")                                       \
    X(INTERNAL, 1, "internal error, please report it")        \
    X(ARG, 2, "invalid argument")                             \
    X(CONFIG, 3, "invalid configuration")                     \
    X(IO, 4, "input or output failed")                        \
    X(FORMAT, 5, "malformed file")                            \
    X(NOMEM, 6, "out of memory")                              \
    X(DEVICE, 7, "device failure")                            \
    X(UNSUPPORTED, 8, "not supported")                        \
    X(NUMERIC, 9, "numerical failure")                        \
    X(COMM, 10, "communication failure")                      \
    X(STOPPED, 75, "stopped by a signal; the same command goes on from its checkpoint") \
    X(INTERRUPTED, 130, "interrupted; the same command goes on from its checkpoint")

typedef enum dass_status {
#define X(name, number, text) DASS_##name = (number),
    DASS_STATUS_MAP(X)
#undef X
} dass_status;

/* Name ("CONFIG") and meaning of a status; never NULL. */
const char *dass_status_name(dass_status st);
const char *dass_status_text(dass_status st);

/* Text of the last failure recorded on this thread; "" when there is none. Owned by the library, valid until the
 * next failure on this thread. */
const char *dass_error_text(void);
/* "file:line" of that failure, for logs. */
const char *dass_error_where(void);
void dass_error_clear(void);

/* Record a failure and return its code. The text must say what, where, the value and the remedy. */
#define DASS_FAIL(code, ...) dass__fail((code), __FILE__, __LINE__, __VA_ARGS__)

/* Pass a failure on. */
#define DASS_TRY(expr)                                                     \
    do {                                                                   \
        const dass_status try_st_ = (expr);                                \
        if (try_st_ != DASS_OK) return dass__hop(try_st_, __FILE__, __LINE__); \
    } while (0)

/* The same, to the single cleanup label of the function: `st` keeps the first error. */
#define DASS_TRY_TO(expr, st, label)                                       \
    do {                                                                   \
        (st) = (expr);                                                     \
        if ((st) != DASS_OK) {                                             \
            (void)dass__hop((st), __FILE__, __LINE__);                     \
            goto label;                                                    \
        }                                                                  \
    } while (0)

/* For our own bugs only; stays on in release builds. Prints the condition and aborts. */
#define DASS_ASSERT(cond) ((cond) ? (void)0 : dass__assert_fail(#cond, __FILE__, __LINE__))

dass_status dass__fail(dass_status st, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5), cold));
dass_status dass__hop(dass_status st, const char *file, int line) __attribute__((cold));
void dass__assert_fail(const char *cond, const char *file, int line) __attribute__((noreturn, cold));

#endif
