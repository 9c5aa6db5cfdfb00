/* Log lines and the progress line, on stderr.
 *
 * Not for results, which belong to stdout. A line is formatted on the stack and written with one
 * call under one lock, so lines of different threads never mix and nothing is allocated.
 * Invariant: on a terminal at most one unfinished progress line stands, and it is wiped before
 * anything else is said.
 */
#include "dass/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "dass/text.h"

enum {
    LINE_BYTES = 4096,
    LEVEL_UNSET = -1,
    EVERY_SEC = 10 /* pause between progress lines where they cannot be rewritten */
};

static const char *const level_words[] = {"error", "warn", "info", "debug"};
static const char *const level_titles[] = {"error: ", "warning: ", "", "debug: "};
enum { N_LEVELS = sizeof level_words / sizeof level_words[0] };

static atomic_int current_level = LEVEL_UNSET;

/* What stands on the terminal and when a progress line was last written; guarded by the lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool unfinished;
static bool progress_begun;
static time_t progress_at;

/* Level from the environment. An unknown word is said once, not swallowed. */
static int level_from_env(void)
{
    const char *word = getenv("DASS_LOG");
    if (word == NULL || word[0] == '\0')
        return DASS_LOG_INFO;
    for (int i = 0; i < N_LEVELS; i++) {
        if (strcmp(word, level_words[i]) == 0)
            return i;
    }
    char shown[41];
    (void)snprintf(shown, sizeof shown, "%s", word);
    dass_text_clean(shown);
    (void)fprintf(
        stderr,
        "dass: warning: DASS_LOG='%s' is not one of error, warn, info, debug; using info\n",
        shown);
    return DASS_LOG_INFO;
}

void dass_log_set_level(dass_log_level level)
{
    atomic_store(&current_level, (int)level);
}

dass_log_level dass_log_get_level(void)
{
    int level = atomic_load_explicit(&current_level, memory_order_relaxed);
    if (level == LEVEL_UNSET) {
        const int wanted = level_from_env();
        if (atomic_compare_exchange_strong(&current_level, &level, wanted))
            level = wanted;
    }
    return (dass_log_level)level;
}

/* Append formatted text to line[0..*used), leaving room for a newline; what does not fit is cut, what may not be shown
 * is replaced. */
static void append(char *line, size_t *used, const char *fmt, va_list args)
    __attribute__((format(printf, 3, 0)));
static void append(char *line, size_t *used, const char *fmt, va_list args)
{
    const size_t room = LINE_BYTES - *used - 1;
    char *text = line + *used;
    const int n = vsnprintf(text, room, fmt, args);
    if (n <= 0)
        return;
    if ((size_t)n >= room)
        text[dass_text_fit(text, room - 4)] = '\0'; /* a character has at most four bytes */
    dass_text_clean(text);
    *used += strlen(text);
}

static void append_text(char *line, size_t *used, const char *text)
{
    const size_t n = strlen(text);
    memcpy(line + *used, text, n);
    *used += n;
}

void dass_log(dass_log_level level, const char *fmt, ...)
{
    if (level > dass_log_get_level())
        return;
    char line[LINE_BYTES];
    size_t used = 0;
    append_text(line, &used, "dass: ");
    append_text(line, &used, level_titles[level]);
    va_list args;
    va_start(args, fmt);
    append(line, &used, fmt, args);
    va_end(args);
    line[used++] = '\n';

    (void)pthread_mutex_lock(&lock);
    if (unfinished)
        (void)fputs("\r\033[K", stderr);
    unfinished = false;
    (void)fwrite(line, 1, used, stderr);
    (void)fflush(stderr);
    (void)pthread_mutex_unlock(&lock);
}

/* Bytes a line may have before the terminal wraps it: a wrapped line cannot be rewritten. */
static size_t terminal_bytes(void)
{
    struct winsize size = {0};
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 2)
        return 79;
    return (size_t)size.ws_col - 1;
}

void dass_log_progress(bool done, const char *fmt, ...)
{
    if (dass_log_get_level() < DASS_LOG_INFO)
        return;
    const bool terminal = isatty(STDERR_FILENO) == 1;
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);

    char line[LINE_BYTES];
    size_t used = 0;
    if (terminal)
        append_text(line, &used, "\r\033[K");
    const size_t start = used;
    append_text(line, &used, "dass: ");
    va_list args;
    va_start(args, fmt);
    append(line, &used, fmt, args);
    va_end(args);
    if (terminal && used - start > terminal_bytes())
        used = start + dass_text_fit(line + start, terminal_bytes());
    if (done || !terminal)
        line[used++] = '\n';

    (void)pthread_mutex_lock(&lock);
    const bool due = !progress_begun || now.tv_sec - progress_at >= EVERY_SEC;
    if (terminal || done || due) {
        (void)fwrite(line, 1, used, stderr);
        (void)fflush(stderr);
        progress_at = now.tv_sec;
        progress_begun = !done;
        unfinished = terminal && !done;
    }
    (void)pthread_mutex_unlock(&lock);
}
