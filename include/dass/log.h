/* Log lines for people, on stderr. stdout belongs to results. */
#ifndef DASS_LOG_H
#define DASS_LOG_H

#include <stdbool.h>

typedef enum dass_log_level { DASS_LOG_ERROR, DASS_LOG_WARN, DASS_LOG_INFO, DASS_LOG_DEBUG } dass_log_level;

/* Lines above `level` are dropped. Default INFO; the environment's DASS_LOG=error|warn|info|debug overrides. */
void dass_log_set_level(dass_log_level level);
dass_log_level dass_log_get_level(void);
/* One line: "dass: warning: text". No newline at the end of fmt. Thread safe. */
void dass_log(dass_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A progress line: rewritten in place on a terminal, a plain line every `every_sec` seconds elsewhere.
 * `done` ends it with a newline. */
void dass_log_progress(bool done, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
