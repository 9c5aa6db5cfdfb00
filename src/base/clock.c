/* The monotonic clock in seconds. Nothing else. */
#include "dass/clock.h"

#include <time.h>

double dass_now_sec(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
