/* Time for measuring, never for deciding what is computed. */
#ifndef DASS_CLOCK_H
#define DASS_CLOCK_H

/* Seconds of the monotonic clock since some moment of this machine's run. */
double dass_now_sec(void);

#endif
