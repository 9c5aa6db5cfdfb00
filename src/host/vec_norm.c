/* Vector loops of batch normalisation: sums per position of a period, and maps with coefficients of a period.
 *
 * Sums run down columns of up to WIDTH vectors with one accumulator per position, in float over ROWS rows and in double
 * beyond, so that the rounding error does not grow with the run. Maps run straight through memory.
 */
#include "vec.h"

#include "dass/graph.h"

#define X(ret, name, args) ret DASS_VEC(name) args;
DASS__VEC_NORM(X)
#undef X

#define ROWS 64
#define WIDTH 8 /* vectors of a column, at most: whole rows of up to 64 channels are read straight through */
#define INLINE static inline __attribute__((always_inline))

/* Where the activation passes u. */
INLINE vi passes(vf u, int act)
{
    const vf zero = {0};
    if (act == DASS_ACT_RELU) return u > zero;
    return (u > zero) & (u < VSET1(6));
}

INLINE vf activate(vf u, int act)
{
    if (act == DASS_ACT_NONE) return u;
    const vf v = vmax0(u);
    if (act == DASS_ACT_RELU) return v;
    return VSELECT(v > VSET1(6), VSET1(6), v);
}

INLINE float activate1(float u, int act)
{
    if (act == DASS_ACT_NONE) return u;
    if (u < 0) return 0;
    return act == DASS_ACT_RELU6 && u > 6 ? 6 : u;
}

INLINE bool passes1(float u, int act)
{
    return act == DASS_ACT_NONE || (u > 0 && (act == DASS_ACT_RELU || u < 6));
}

INLINE void add_lanes(double *s, const vf *acc, int nv, int nr)
{
    for (int v = 0; v < nv; v++) {
        vf t = acc[v];
        for (int r = 1; r < nr; r++) t += acc[r * nv + v];
        for (int l = 0; l < DASS_VL; l++) s[v * DASS_VL + l] += (double)t[l];
    }
}

/* One column of nv vectors over `rows` rows, nr rows at a time. */
INLINE void stats_column(const float *x, int64_t rows, int32_t period, const float *shift, double *s, double *q, int nv,
                         int nr)
{
    vf as[WIDTH] = {{0}};
    vf aq[WIDTH] = {{0}};
    vf sh[WIDTH];
    for (int v = 0; v < nv; v++) sh[v] = shift ? (vf)VLOAD(shift + v * DASS_VL) : (vf){0};
    int64_t row = 0;
    for (; row + nr <= rows; row += nr, x += nr * period)
        for (int i = 0; i < nv * nr; i++) {
            const vf t = VLOAD(x + (i / nv) * period + (i % nv) * DASS_VL) - sh[i % nv];
            as[i] += t;
            if (q) aq[i] += t * t;
        }
    for (; row < rows; row++, x += period)
        for (int v = 0; v < nv; v++) {
            const vf t = VLOAD(x + v * DASS_VL) - sh[v];
            as[v] += t;
            if (q) aq[v] += t * t;
        }
    add_lanes(s, as, nv, nr);
    if (q) add_lanes(q, aq, nv, nr);
}

INLINE void stats(const float *x, int64_t n, int32_t period, const float *shift, double *s, double *q)
{
    const int64_t rows = n / period;
    for (int64_t at = 0; at < rows; at += ROWS) {
        const int64_t some = rows - at < ROWS ? rows - at : ROWS;
        const float *p = x + at * period;
        int32_t c = 0;
        for (; c + WIDTH * DASS_VL <= period; c += WIDTH * DASS_VL)
            stats_column(p + c, some, period, shift ? shift + c : NULL, s + c, q ? q + c : NULL, WIDTH, 1);
        for (; c + 4 * DASS_VL <= period; c += 4 * DASS_VL)
            stats_column(p + c, some, period, shift ? shift + c : NULL, s + c, q ? q + c : NULL, 4, 1);
        for (; c + 2 * DASS_VL <= period; c += 2 * DASS_VL)
            stats_column(p + c, some, period, shift ? shift + c : NULL, s + c, q ? q + c : NULL, 2, 2);
        for (; c < period; c += DASS_VL)
            stats_column(p + c, some, period, shift ? shift + c : NULL, s + c, q ? q + c : NULL, 1, 4);
    }
    const float *rest = x + rows * period;
    for (int64_t i = 0; i < n - rows * period; i++) {
        const float t = shift ? rest[i] - shift[i] : rest[i];
        s[i] += (double)t;
        if (q) q[i] += (double)(t * t);
    }
}

void DASS_VEC(norm_sum)(const float *x, int64_t n, int32_t period, double *s)
{
    stats(x, n, period, NULL, s, NULL);
}

void DASS_VEC(norm_stats)(const float *x, int64_t n, int32_t period, const float *shift, double *s, double *q)
{
    stats(x, n, period, shift, s, q);
}

INLINE void apply(const dass__v_bn *bn, const float *x, int64_t n, float *dst, int act)
{
    const int32_t period = bn->period;
    int64_t i = 0;
    for (; i + period <= n; i += period)
        for (int32_t c = 0; c < period; c += DASS_VL) {
            const vf u = (VLOAD(x + i + c) - VLOAD(bn->mean + c)) * VLOAD(bn->a + c) + VLOAD(bn->b + c);
            VSTORE(dst + i + c, activate(u, act));
        }
    for (int32_t c = 0; i < n; i++, c++) dst[i] = activate1((x[i] - bn->mean[c]) * bn->a[c] + bn->b[c], act);
}

void DASS_VEC(norm_apply)(const dass__v_bn *bn, const float *x, int64_t n, float *dst)
{
    if (bn->act == DASS_ACT_NONE) apply(bn, x, n, dst, DASS_ACT_NONE);
    else if (bn->act == DASS_ACT_RELU) apply(bn, x, n, dst, DASS_ACT_RELU);
    else apply(bn, x, n, dst, DASS_ACT_RELU6);
}

/* g of one vector; t = x - mean. */
INLINE vf masked(vf d_y, vf t, const float *a, const float *b, int act)
{
    if (act == DASS_ACT_NONE) return d_y;
    return (vf)(passes(t * VLOAD(a) + VLOAD(b), act) & (vi)d_y);
}

INLINE void reduce_column(const dass__v_bn *bn, const float *d_y, const float *x, int64_t rows, int32_t c, double *s,
                          double *q, int act, int nv, int nr)
{
    const int32_t period = bn->period;
    vf as[WIDTH] = {{0}};
    vf aq[WIDTH] = {{0}};
    int64_t row = 0;
    for (; row + nr <= rows; row += nr, x += nr * period, d_y += nr * period)
        for (int i = 0; i < nv * nr; i++) {
            const int v = (i % nv) * DASS_VL;
            const vf t = VLOAD(x + (i / nv) * period + v) - VLOAD(bn->mean + c + v);
            const vf g = masked(VLOAD(d_y + (i / nv) * period + v), t, bn->a + c + v, bn->b + c + v, act);
            as[i] += g;
            aq[i] += g * t;
        }
    for (; row < rows; row++, x += period, d_y += period)
        for (int i = 0; i < nv; i++) {
            const int v = i * DASS_VL;
            const vf t = VLOAD(x + v) - VLOAD(bn->mean + c + v);
            const vf g = masked(VLOAD(d_y + v), t, bn->a + c + v, bn->b + c + v, act);
            as[i] += g;
            aq[i] += g * t;
        }
    add_lanes(s + c, as, nv, nr);
    add_lanes(q + c, aq, nv, nr);
}

INLINE void reduce(const dass__v_bn *bn, const float *d_y, const float *x, int64_t n, double *s, double *q, int act)
{
    const int32_t period = bn->period;
    const int64_t rows = n / period;
    for (int64_t at = 0; at < rows; at += ROWS) {
        const int64_t some = rows - at < ROWS ? rows - at : ROWS;
        const float *px = x + at * period;
        const float *pd = d_y + at * period;
        int32_t c = 0;
        for (; c + WIDTH * DASS_VL <= period; c += WIDTH * DASS_VL)
            reduce_column(bn, pd + c, px + c, some, c, s, q, act, WIDTH, 1);
        for (; c + 4 * DASS_VL <= period; c += 4 * DASS_VL)
            reduce_column(bn, pd + c, px + c, some, c, s, q, act, 4, 1);
        for (; c + 2 * DASS_VL <= period; c += 2 * DASS_VL)
            reduce_column(bn, pd + c, px + c, some, c, s, q, act, 2, 2);
        for (; c < period; c += DASS_VL) reduce_column(bn, pd + c, px + c, some, c, s, q, act, 1, 4);
    }
    for (int64_t i = rows * period, c = 0; i < n; i++, c++) {
        const float t = x[i] - bn->mean[c];
        const float g = passes1(t * bn->a[c] + bn->b[c], act) ? d_y[i] : 0;
        s[c] += (double)g;
        q[c] += (double)(g * t);
    }
}

void DASS_VEC(norm_reduce)(const dass__v_bn *bn, const float *d_y, const float *x, int64_t n, double *s, double *q)
{
    if (bn->act == DASS_ACT_NONE) reduce(bn, d_y, x, n, s, q, DASS_ACT_NONE);
    else if (bn->act == DASS_ACT_RELU) reduce(bn, d_y, x, n, s, q, DASS_ACT_RELU);
    else reduce(bn, d_y, x, n, s, q, DASS_ACT_RELU6);
}

INLINE void bwd(const dass__v_bn *bn, const float *k1, const float *k2, const float *d_y, const float *x, int64_t n,
                float *d_x, int act)
{
    const int32_t period = bn->period;
    int64_t i = 0;
    for (; i + period <= n; i += period)
        for (int32_t c = 0; c < period; c += DASS_VL) {
            const vf t = VLOAD(x + i + c) - VLOAD(bn->mean + c);
            const vf g = masked(VLOAD(d_y + i + c), t, bn->a + c, bn->b + c, act);
            VSTORE(d_x + i + c, g * VLOAD(bn->a + c) + (t * VLOAD(k2 + c) + VLOAD(k1 + c)));
        }
    for (int32_t c = 0; i < n; i++, c++) {
        const float t = x[i] - bn->mean[c];
        const float g = passes1(t * bn->a[c] + bn->b[c], act) ? d_y[i] : 0;
        d_x[i] = g * bn->a[c] + (t * k2[c] + k1[c]);
    }
}

void DASS_VEC(norm_bwd)(const dass__v_bn *bn, const float *k1, const float *k2, const float *d_y, const float *x,
                        int64_t n, float *d_x)
{
    if (bn->act == DASS_ACT_NONE) bwd(bn, k1, k2, d_y, x, n, d_x, DASS_ACT_NONE);
    else if (bn->act == DASS_ACT_RELU) bwd(bn, k1, k2, d_y, x, n, d_x, DASS_ACT_RELU);
    else bwd(bn, k1, k2, d_y, x, n, d_x, DASS_ACT_RELU6);
}
