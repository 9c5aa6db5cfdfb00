/* Round ticks. Invariant: lo <= data <= hi, and both ends are ticks.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "plot_private.h"

/* The nearest of 1, 2, 5 times a power of ten that is not below x > 0. */
static double round_step(double x)
{
    const double power = pow(10.0, floor(log10(x)));
    static const double factors[] = {1.0, 2.0, 5.0};
    for (int i = 0; i < 3; ++i)
        if (factors[i] * power >= x * (1.0 - 1e-9))
            return factors[i] * power;
    return 10.0 * power;
}

dass__axis dass__axis_make(double lo, double hi, int want)
{
    DASS_ASSERT(lo <= hi && fabs(lo) <= DASS__MAX_VALUE && fabs(hi) <= DASS__MAX_VALUE);
    const double size = fmax(fabs(lo), fabs(hi));
    const double least = size > 1e-12 ? 1e-6 * size : 1e-6; /* a constant still has an axis that doubles can count */
    if (hi - lo < least) {
        const double mid = 0.5 * (lo + hi);
        const double half = size > 1e-12 ? 0.05 * size : 0.5;
        lo = mid - half;
        hi = mid + half;
    }
    dass__axis a = {.step = round_step((hi - lo) / want)};
    const double first = floor(lo / a.step + 1e-9);
    const double last = ceil(hi / a.step - 1e-9);
    a.lo = fmin(first * a.step, lo); /* the slack above must not lose a point */
    a.hi = fmax(last * a.step, hi);
    a.n = (int)(last - first) + 1;
    return a;
}

void dass__axis_text(const dass__axis *a, int i, char *buf, size_t n)
{
    const double size = fmax(fabs(a->lo), fabs(a->hi));
    double x = a->lo + i * a->step;
    if (fabs(x) < 1e-6 * a->step)
        x = 0.0;
    const int digit = (int)floor(log10(a->step) + 1e-9); /* the decimal place of a step */
    if (size < 1e5 && digit >= -4)
        (void)snprintf(buf, n, "%.*f", digit < 0 ? -digit : 0, x);
    else
        (void)snprintf(buf, n, "%.*e", (int)fmin(7.0, fmax(0.0, floor(log10(size) + 1e-9) - digit)), x);
    /* The locale's decimal point, which may be several bytes. */
    const size_t lead = strspn(buf, "-0123456789");
    const size_t point = strcspn(buf + lead, "0123456789e");
    if (buf[lead] != '\0' && buf[lead] != 'e') {
        buf[lead] = '.';
        memmove(buf + lead + 1, buf + lead + point, strlen(buf + lead + point) + 1);
    }
}

int dass__epoch_step(int n, int want)
{
    return (int)fmax(1.0, round_step((double)n / want));
}
