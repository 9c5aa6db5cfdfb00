/* Order statistics of measured times. Nothing is averaged: a time that is reported is one that was seen. */
#include <stdlib.h>

#include "bench_private.h"

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return x < y ? -1 : x > y;
}

void dass__times_sort(double *sec, int n)
{
    qsort(sec, (size_t)n, sizeof *sec, by_value);
}

double dass__times_quantile_ms(const double *sec, int n, double q)
{
    return 1e3 * sec[(int)(q * (double)(n - 1) + 0.5)];
}
