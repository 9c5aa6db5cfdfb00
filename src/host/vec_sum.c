/* Vector loops of the n-ary sums: many tensors are read once, one is written once.
 *
 * A block of the output stays in the first-level cache while groups of streams are added to it, so the only traffic is
 * one read of every stream. The gradient keeps a block of d_y there and runs down columns of it, a few streams at a
 * time, with one accumulator per stream and position.
 */
#include "vec.h"

#define X(ret, name, args) ret DASS_VEC(name) args;
DASS__VEC_SUM(X)
#undef X

#define BLOCK 4096 /* floats of the tensor that stays */
#define INLINE static inline __attribute__((always_inline))

/* Rows of a period in a block. */
static int64_t block_rows(int32_t period)
{
    return period < BLOCK ? BLOCK / period : 1;
}

/* dst = start + sum of `width` streams, over n floats; start: dst itself, the bias, or 0. */
INLINE void add_group(const float *const *x, const float *coef, const float *bias, int32_t period, int64_t n,
                      float *dst, bool first, int width)
{
    const float *p[DASS__SUM_GROUP];
    for (int k = 0; k < width; k++)
        p[k] = x[k];
    int64_t i = 0;
    while (i + period <= n) {
        const float *a = coef;
        for (int32_t c = 0; c < period; c += DASS_VL, i += DASS_VL, a += width * DASS_VL) {
            vf sum = first ? (bias ? (vf)VLOAD(bias + c) : (vf){0}) : (vf)VLOAD(dst + i);
            for (int k = 0; k < width; k++)
                sum += VLOAD(p[k] + i) * VLOAD(a + k * DASS_VL);
            VSTORE(dst + i, sum);
        }
    }
    for (int32_t c = 0; i < n; i++, c++) {
        float sum = first ? (bias ? bias[c] : 0) : dst[i];
        const float *a = coef + (int64_t)(c / DASS_VL) * width * DASS_VL + c % DASS_VL;
        for (int k = 0; k < width; k++)
            sum += p[k][i] * a[k * DASS_VL];
        dst[i] = sum;
    }
}

#define CASE(w)                                             \
    case w:                                                 \
        add_group(x, coef, bias, period, n, dst, first, w); \
        break;

static void add_some(const float *const *x, const float *coef, const float *bias, int32_t period, int64_t n, float *dst,
                     bool first, int width)
{
    switch (width) {
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
        CASE(7)
        CASE(8)
    default:
        break;
    }
}

void DASS_VEC(sum_affine)(const dass__v_sum *a, int64_t at, int64_t n, float *dst)
{
    const int64_t step = block_rows(a->period) * a->period;
    for (int64_t i = 0; i < n; i += step) {
        const int64_t some = n - i < step ? n - i : step;
        for (int32_t k = 0; k < a->n_x; k += DASS__SUM_GROUP) {
            const int32_t left = a->n_x - k;
            const int width = left < DASS__SUM_GROUP ? left : DASS__SUM_GROUP;
            const float *x[DASS__SUM_GROUP];
            for (int j = 0; j < width; j++)
                x[j] = a->x[k + j] + at + i;
            add_some(x, a->coef + (int64_t)k * a->period, a->bias, a->period, some, dst + at + i, k == 0, width);
        }
    }
}

/* ---- gradient ------------------------------------------------------------------------------------------------ */

/* Streams taken together, over at most WIDTH vectors of the period. Whole rows of 16 to 64 channels are then read
 * straight through, four streams at a time; with eight vectors the accumulators no longer fit the registers, which
 * costs less than what both alternatives lose, one stream at a time (0.75 to 0.9 of this rate) or narrow columns of
 * wide rows (0.6). */
#define STREAMS 4
#define WIDTH 8

/* s2 of `width` streams at nv vectors of the period, over `rows` rows. */
INLINE void bwd_column(const float *d_y, const float *const *x, const float *mean, int64_t rows, int32_t period,
                       float *s2, int width, int nv)
{
    vf acc[STREAMS * WIDTH];
    const float *p[STREAMS];
    for (int i = 0; i < width * nv; i++)
        acc[i] = (vf){0};
    for (int k = 0; k < width; k++)
        p[k] = x[k];
    for (int64_t r = 0, i = 0; r < rows; r++, i += period)
        for (int v = 0; v < nv; v++) {
            const vf d = VLOAD(d_y + i + v * DASS_VL);
            for (int k = 0; k < width; k++)
                acc[k * nv + v] +=
                    d * (VLOAD(p[k] + i + v * DASS_VL) - VLOAD(mean + (int64_t)k * period + v * DASS_VL));
        }
    for (int k = 0; k < width; k++)
        for (int v = 0; v < nv; v++) {
            float *s = s2 + (int64_t)k * period + v * DASS_VL;
            VSTORE(s, VLOAD(s) + acc[k * nv + v]);
        }
}

/* nv vectors at c of every stream; the block of d_y is at `at`. */
INLINE void bwd_streams(const dass__v_sum_bwd *a, int64_t at, int64_t rows, int32_t c, float *s2, int nv)
{
    int32_t k = 0;
    for (; k + STREAMS <= a->n_x; k += STREAMS) {
        const float *x[STREAMS];
        for (int j = 0; j < STREAMS; j++)
            x[j] = a->x[k + j] + at + c;
        const int64_t row = (int64_t)k * a->period + c;
        bwd_column(a->d_y + at + c, x, a->mean + row, rows, a->period, s2 + row, STREAMS, nv);
    }
    for (; k < a->n_x; k++) {
        const float *x = a->x[k] + at + c;
        const int64_t row = (int64_t)k * a->period + c;
        bwd_column(a->d_y + at + c, &x, a->mean + row, rows, a->period, s2 + row, 1, nv);
    }
}

/* s1 of a block. */
static void bwd_block_sum(const float *d_y, int64_t rows, int32_t period, float *s1)
{
    for (int32_t c = 0; c < period; c += DASS_VL) {
        vf even = {0};
        vf odd = {0};
        int64_t r = 0;
        for (; r + 2 <= rows; r += 2) {
            even += VLOAD(d_y + r * period + c);
            odd += VLOAD(d_y + (r + 1) * period + c);
        }
        if (r < rows)
            even += VLOAD(d_y + r * period + c);
        VSTORE(s1 + c, VLOAD(s1 + c) + even + odd);
    }
}

void DASS_VEC(sum_bwd)(const dass__v_sum_bwd *a, int64_t at, int64_t n, float *s1, float *s2)
{
    const int32_t period = a->period;
    const int64_t all = n / period;
    const int64_t step = block_rows(period);
    for (int64_t r = 0; r < all; r += step) {
        const int64_t rows = all - r < step ? all - r : step;
        const int64_t i = at + r * period;
        bwd_block_sum(a->d_y + i, rows, period, s1);
        int32_t c = 0;
        for (; c + WIDTH * DASS_VL <= period; c += WIDTH * DASS_VL)
            bwd_streams(a, i, rows, c, s2, WIDTH);
        for (; c + 4 * DASS_VL <= period; c += 4 * DASS_VL)
            bwd_streams(a, i, rows, c, s2, 4);
        for (; c + 2 * DASS_VL <= period; c += 2 * DASS_VL)
            bwd_streams(a, i, rows, c, s2, 2);
        for (; c < period; c += DASS_VL)
            bwd_streams(a, i, rows, c, s2, 1);
    }
    for (int64_t i = all * period, c = 0; i < n; i++, c++) {
        const float d = a->d_y[at + i];
        s1[c] += d;
        for (int32_t k = 0; k < a->n_x; k++)
            s2[(int64_t)k * period + c] += d * (a->x[k][at + i] - a->mean[(int64_t)k * period + c]);
    }
}
