/* Private to src/bench: what the measurements share. */
#ifndef DASS_BENCH_PRIVATE_H
#define DASS_BENCH_PRIVATE_H

#include "dass/bench.h"

/* Sort n times, ascending. */
void dass__times_sort(double *sec, int n);
/* Of sorted times, the one that the part q in [0, 1] of them does not exceed, by the nearest rank; in milliseconds. */
double dass__times_quantile_ms(const double *sec, int n, double q);

#endif
