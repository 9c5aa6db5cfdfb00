/* Vector loops of pools, activations and copies.
 *
 * A k x k window is taken apart: along the row first, into a ring of k row results, then down the column. With stride 1
 * the inner part of a row is one run of width * channels floats, so channels need not be a multiple of the vector; the
 * few windows at the edges are runs of one pixel. Codes of a maximum are r * k + s of the first one; because rows are
 * compared in order and each row keeps its first, the split order gives the same winner. A NaN wins and stays.
 */
#include "vec.h"

#include "dass/graph.h"

#define X(ret, name, args) ret DASS_VEC(name) args;
DASS__VEC_POOL(X)
#undef X

#define INLINE static inline __attribute__((always_inline))

typedef int32_t viu __attribute__((vector_size(DASS_VL * 4), aligned(4), may_alias));
#define ILOAD(p) (*(const viu *)(p))
#define ISTORE(p, v) (*(viu *)(p) = (v))

/* Codes are bytes in memory and 32 bits in vectors. Plain loops: the compiler widens and narrows whole registers here,
 * which it does not do for a single vector. */
static void widen(const uint8_t *restrict src, int64_t n, int32_t *restrict dst)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] = src[i];
}
static void narrow(const int32_t *restrict src, int64_t n, uint8_t *restrict dst)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] = (uint8_t)src[i];
}

/* ---- runs ---------------------------------------------------------------------------------------------------- */

/* Does v replace the best so far? */
INLINE vi beats(vf v, vf best)
{
    return ~(best >= v) & (best == best);
}
INLINE bool beats1(float v, float best)
{
    return !(best >= v) && best == best;
}

/* best[i], code[i] of n_taps values x[i], x[i + ld], ..., whose codes are code0, code0 + 1, ... */
INLINE void max_taps_of(const float *x, int64_t ld, int32_t code0, int64_t n, float *best, int32_t *code, int n_taps)
{
    int64_t i = 0;
    for (; i + DASS_VL <= n; i += DASS_VL) {
        vf b = VLOAD(x + i);
        vi k = (vi){0} + code0;
        for (int t = 1; t < n_taps; t++) {
            const vf v = VLOAD(x + t * ld + i);
            const vi m = beats(v, b);
            b = VSELECT(m, v, b);
            k = (m & ((vi){0} + (code0 + t))) | (~m & k);
        }
        VSTORE(best + i, b);
        ISTORE(code + i, k);
    }
    for (; i < n; i++) {
        best[i] = x[i];
        code[i] = code0;
        for (int t = 1; t < n_taps; t++)
            if (beats1(x[t * ld + i], best[i])) {
                best[i] = x[t * ld + i];
                code[i] = code0 + t;
            }
    }
}

static void max_taps(const float *x, int64_t ld, int32_t code0, int64_t n, float *best, int32_t *code, int n_taps)
{
    if (n_taps == 3)
        max_taps_of(x, ld, code0, n, best, code, 3);
    else if (n_taps == 2)
        max_taps_of(x, ld, code0, n, best, code, 2);
    else
        max_taps_of(x, ld, code0, n, best, code, n_taps);
}

/* y = max over rows, out = code of its first. best[r], code[r]: row r's; codes of row r + 1 are k higher. */
INLINE void max_rows_of(const float *const *best, const int32_t *const *code, int32_t code0, int32_t k, int64_t n,
                        float *y, int32_t *out, int n_rows)
{
    int64_t i = 0;
    for (; i + DASS_VL <= n; i += DASS_VL) {
        vf b = VLOAD(best[0] + i);
        vi c = ILOAD(code[0] + i) + code0;
        for (int r = 1; r < n_rows; r++) {
            const vf v = VLOAD(best[r] + i);
            const vi m = beats(v, b);
            b = VSELECT(m, v, b);
            c = (m & (ILOAD(code[r] + i) + (code0 + r * k))) | (~m & c);
        }
        VSTORE(y + i, b);
        ISTORE(out + i, c);
    }
    for (; i < n; i++) {
        y[i] = best[0][i];
        out[i] = code[0][i] + code0;
        for (int r = 1; r < n_rows; r++)
            if (beats1(best[r][i], y[i])) {
                y[i] = best[r][i];
                out[i] = code[r][i] + code0 + r * k;
            }
    }
}

static void max_rows(const float *const *best, const int32_t *const *code, int32_t code0, int32_t k, int64_t n,
                     float *y, int32_t *out, int n_rows)
{
    if (n_rows == 3)
        max_rows_of(best, code, code0, k, n, y, out, 3);
    else if (n_rows == 2)
        max_rows_of(best, code, code0, k, n, y, out, 2);
    else
        max_rows_of(best, code, code0, k, n, y, out, n_rows);
}

/* dst = scale (x[i] + x[i + ld] + ...) */
INLINE void sum_taps_of(const float *x, int64_t ld, int64_t n, float scale, float *dst, int n_taps)
{
    int64_t i = 0;
    for (; i + DASS_VL <= n; i += DASS_VL) {
        vf s = VLOAD(x + i);
        for (int t = 1; t < n_taps; t++)
            s += VLOAD(x + t * ld + i);
        VSTORE(dst + i, s * scale);
    }
    for (; i < n; i++) {
        float s = x[i];
        for (int t = 1; t < n_taps; t++)
            s += x[t * ld + i];
        dst[i] = s * scale;
    }
}

static void sum_taps(const float *x, int64_t ld, int64_t n, float scale, float *dst, int n_taps)
{
    if (n_taps == 3)
        sum_taps_of(x, ld, n, scale, dst, 3);
    else if (n_taps == 2)
        sum_taps_of(x, ld, n, scale, dst, 2);
    else if (n_taps == 1)
        sum_taps_of(x, ld, n, scale, dst, 1);
    else
        sum_taps_of(x, ld, n, scale, dst, n_taps);
}

/* dst = acc (or 0) + scale (x_0 + x_1 + ...) */
INLINE void sum_rows_of(const float *const *x, int64_t n, float scale, const float *acc, float *dst, int n_rows)
{
    int64_t i = 0;
    for (; i + DASS_VL <= n; i += DASS_VL) {
        vf s = {0};
        for (int r = 0; r < n_rows; r++)
            s += VLOAD(x[r] + i);
        s *= scale;
        VSTORE(dst + i, acc ? (vf)VLOAD(acc + i) + s : s);
    }
    for (; i < n; i++) {
        float s = 0;
        for (int r = 0; r < n_rows; r++)
            s += x[r][i];
        dst[i] = acc ? acc[i] + s * scale : s * scale;
    }
}

static void sum_rows(const float *const *x, int64_t n, float scale, const float *acc, float *dst, int n_rows)
{
    if (n_rows == 3)
        sum_rows_of(x, n, scale, acc, dst, 3);
    else if (n_rows == 2)
        sum_rows_of(x, n, scale, acc, dst, 2);
    else
        sum_rows_of(x, n, scale, acc, dst, n_rows);
}

/* ---- windows ------------------------------------------------------------------------------------------------- */

/* Taps of window o along an axis of `size` positions: first position, first tap, number of taps. */
typedef struct taps {
    int32_t at, first, n;
} taps;

INLINE taps taps_of(const dass__v_pool *p, int32_t o, int32_t size)
{
    const int32_t low = o * p->stride - p->pad;
    const int32_t first = low < 0 ? -low : 0;
    const int32_t end = size - low < p->k ? size - low : p->k;
    return (taps){.at = low + first, .first = first, .n = end - first};
}

/* Windows from ow on that can be taken as one run: with stride 1, all whole ones that follow. */
INLINE int32_t run_length(const dass__v_pool *p, int32_t ow, taps t)
{
    return p->stride == 1 && t.n == p->k ? p->w - p->k + p->pad - ow + 1 : 1;
}

/* ---- max ----------------------------------------------------------------------------------------------------- */

static void max_row(const dass__v_pool *p, const float *x, float *best, int32_t *code)
{
    const int64_t c = p->c;
    for (int32_t ow = 0; ow < p->ow;) {
        const taps t = taps_of(p, ow, p->w);
        const int32_t run = run_length(p, ow, t);
        max_taps(x + t.at * c, c, t.first, run * c, best + ow * c, code + ow * c, t.n);
        ow += run;
    }
}

void DASS_VEC(max_pool)(const dass__v_pool *p, const float *x, float *y, uint8_t *index, float *scratch)
{
    const int64_t ld = dass__pool_row(p);
    const int64_t n = (int64_t)p->ow * p->c;
    int32_t *codes = (int32_t *)(scratch + p->k * ld);
    int32_t next = 0; /* first input row that is not in the ring yet */
    for (int32_t oh = 0; oh < p->oh; oh++) {
        const taps t = taps_of(p, oh, p->h);
        const float *best[DASS__POOL_MAX_K];
        const int32_t *code[DASS__POOL_MAX_K];
        if (next < t.at)
            next = t.at;
        for (; next < t.at + t.n; next++) {
            const int64_t slot = (next % p->k) * ld;
            max_row(p, x + (int64_t)next * p->w * p->c, scratch + slot, codes + slot);
        }
        for (int r = 0; r < t.n; r++) {
            const int64_t slot = ((t.at + r) % p->k) * ld;
            best[r] = scratch + slot;
            code[r] = codes + slot;
        }
        max_rows(best, code, t.first * p->k, p->k, n, y + oh * n, codes + p->k * ld, t.n);
        if (index)
            narrow(codes + p->k * ld, n, index + oh * n);
    }
}

/* One input row, at window columns: the gradient of the row's maximum there, and which tap s it was (-1: nobody chose
 * this row). Row r of the window is d_y[r], code[r], for r in [r0, r0 + n_rows). All windows that choose a row at one
 * column agree on s, because s is that of the row's own first maximum: so the taps can be or-ed together. */
INLINE void max_bwd_column_of(const float *const *d_y, const int32_t *const *code, int32_t r0, int32_t k, int64_t n,
                              float *d, int32_t *s, int n_rows)
{
    int64_t i = 0;
    for (; i + DASS_VL <= n; i += DASS_VL) {
        vf sum = {0};
        vi tap = {0};
        vi any = {0};
        for (int r = 0; r < n_rows; r++) {
            const vi t = ILOAD(code[r] + i) - (r0 + r) * k;
            const vi m = (t > -1) & (t < k);
            sum += (vf)(m & (vi)VLOAD(d_y[r] + i));
            tap |= m & t;
            any |= m;
        }
        VSTORE(d + i, sum);
        ISTORE(s + i, tap | ~any);
    }
    for (; i < n; i++) {
        d[i] = 0;
        s[i] = -1;
        for (int r = 0; r < n_rows; r++) {
            const int32_t t = code[r][i] - (r0 + r) * k;
            if (t < 0 || t >= k)
                continue;
            d[i] += d_y[r][i];
            s[i] = t;
        }
    }
}

static void max_bwd_column(const float *const *d_y, const int32_t *const *code, int32_t r0, int32_t k, int64_t n,
                           float *d, int32_t *s, int n_rows)
{
    if (n_rows == 3)
        max_bwd_column_of(d_y, code, r0, k, n, d, s, 3);
    else if (n_rows == 2)
        max_bwd_column_of(d_y, code, r0, k, n, d, s, 2);
    else
        max_bwd_column_of(d_y, code, r0, k, n, d, s, n_rows);
}

/* d_x = acc + d at the windows whose tap is this position: tap k - 1 - t at t * c floats from here. */
INLINE void max_bwd_row_of(const float *d, const int32_t *s, int64_t c, int64_t n, const float *acc, float *d_x, int k)
{
    int64_t i = 0;
    for (; i + DASS_VL <= n; i += DASS_VL) {
        vf sum = acc ? (vf)VLOAD(acc + i) : (vf){0};
        for (int t = 0; t < k; t++)
            sum += (vf)((ILOAD(s + t * c + i) == ((vi){0} + (k - 1 - t))) & (vi)VLOAD(d + t * c + i));
        VSTORE(d_x + i, sum);
    }
    for (; i < n; i++) {
        float sum = acc ? acc[i] : 0;
        for (int t = 0; t < k; t++)
            if (s[t * c + i] == k - 1 - t)
                sum += d[t * c + i];
        d_x[i] = sum;
    }
}

/* Stride 1. The row of column results has margins of k - 1 pixels that nobody chose. */
static void max_bwd_unit(const dass__v_pool *p, const float *d_y, const uint8_t *index, const float *acc, float *d_x,
                         float *scratch)
{
    const int64_t ld = dass__pool_row(p);
    const int64_t n = (int64_t)p->ow * p->c;
    const int64_t n_x = (int64_t)p->w * p->c;
    const int64_t margin = (int64_t)(p->k - 1) * p->c;
    int32_t *codes = (int32_t *)scratch; /* ring of k rows */
    int32_t *s = codes + p->k * ld;
    float *d = scratch + (p->k + 1) * ld;
    memset(s, 255, (size_t)ld * sizeof *s);
    memset(d, 0, (size_t)ld * sizeof *d);
    int32_t next = 0;
    for (int32_t ih = 0; ih < p->h; ih++) {
        const float *row[DASS__POOL_MAX_K];
        const int32_t *code[DASS__POOL_MAX_K];
        const int32_t last = ih + p->pad < p->oh ? ih + p->pad : p->oh - 1;
        for (; next <= last; next++)
            widen(index + next * n, n, codes + (next % p->k) * ld);
        const int32_t r0 = ih + p->pad - last;
        int n_rows = 0;
        for (int32_t oh = last; oh >= 0 && oh > ih + p->pad - p->k; oh--, n_rows++) {
            row[n_rows] = d_y + oh * n;
            code[n_rows] = codes + (oh % p->k) * ld;
        }
        max_bwd_column(row, code, r0, p->k, n, d + margin, s + margin, n_rows);
        const int64_t from = (int64_t)p->pad * p->c;
        const float *acc_row = acc ? acc + ih * n_x : NULL;
        if (p->k == 3)
            max_bwd_row_of(d + from, s + from, p->c, n_x, acc_row, d_x + ih * n_x, 3);
        else
            max_bwd_row_of(d + from, s + from, p->c, n_x, acc_row, d_x + ih * n_x, p->k);
    }
}

/* Start a gradient that is scattered into: acc, or 0. */
INLINE void start(const float *acc, int64_t n, float *d_x)
{
    if (!acc)
        memset(d_x, 0, (size_t)n * sizeof(float));
    else if (acc != d_x)
        memcpy(d_x, acc, (size_t)n * sizeof(float));
}

void DASS_VEC(max_pool_bwd)(const dass__v_pool *p, const float *d_y, const uint8_t *index, const float *acc, float *d_x,
                            float *scratch)
{
    if (p->stride == 1) {
        max_bwd_unit(p, d_y, index, acc, d_x, scratch);
        return;
    }
    int64_t offset[256] = {0};
    for (int i = 0; i < p->k * p->k; i++)
        offset[i] = ((int64_t)(i / p->k) * p->w + i % p->k) * p->c;
    start(acc, (int64_t)p->h * p->w * p->c, d_x);
    for (int32_t oh = 0; oh < p->oh; oh++)
        for (int32_t ow = 0; ow < p->ow; ow++) {
            const int64_t o = ((int64_t)oh * p->ow + ow) * p->c;
            const int64_t corner = ((int64_t)(oh * p->stride - p->pad) * p->w + ow * p->stride - p->pad) * p->c;
            for (int32_t c = 0; c < p->c; c++)
                d_x[corner + offset[index[o + c]] + c] += d_y[o + c];
        }
}

/* ---- average ------------------------------------------------------------------------------------------------- */

void DASS_VEC(avg_pool)(const dass__v_pool *p, const float *x, float *y, float *scratch)
{
    const int64_t ld = dass__pool_row(p);
    const int64_t c = p->c;
    const int64_t n = p->ow * c;
    int32_t next = 0;
    for (int32_t oh = 0; oh < p->oh; oh++) {
        const taps v = taps_of(p, oh, p->h);
        const float *row[DASS__POOL_MAX_K];
        if (next < v.at)
            next = v.at;
        for (; next < v.at + v.n; next++)
            for (int32_t ow = 0; ow < p->ow;) {
                const taps t = taps_of(p, ow, p->w);
                const int32_t run = run_length(p, ow, t);
                sum_taps(x + ((int64_t)next * p->w + t.at) * c, c, run * c, 1.0f / (float)t.n,
                         scratch + (next % p->k) * ld + ow * c, t.n);
                ow += run;
            }
        for (int r = 0; r < v.n; r++)
            row[r] = scratch + ((v.at + r) % p->k) * ld;
        sum_rows(row, n, 1.0f / (float)v.n, NULL, y + oh * n, v.n);
    }
}

/* What row oh of d_y adds to each input row it touches: d_y / (positions inside), spread along the row. */
static void avg_spread_row(const dass__v_pool *p, const float *d_y, int32_t oh, float *flat, float *dst)
{
    const int64_t c = p->c;
    const float scale = 1.0f / (float)taps_of(p, oh, p->h).n;
    float *inner = flat + (p->k - 1) * c; /* the margins of flat are 0 */
    for (int32_t ow = 0; ow < p->ow;) {
        const taps t = taps_of(p, ow, p->w);
        const int32_t run = run_length(p, ow, t);
        sum_taps(d_y + ow * c, 0, run * c, scale / (float)t.n, inner + ow * c, 1);
        ow += run;
    }
    if (p->stride == 1) {
        sum_taps(flat + p->pad * c, c, p->w * c, 1, dst, p->k);
        return;
    }
    memset(dst, 0, (size_t)(p->w * c) * sizeof(float));
    for (int32_t ow = 0; ow < p->ow; ow++) {
        const taps t = taps_of(p, ow, p->w);
        for (int32_t s = 0; s < t.n; s++)
            DASS_VEC(add_rows)(dst + (t.at + s) * c, 0, inner + ow * c, 0, c, 1);
    }
}

void DASS_VEC(avg_pool_bwd)(const dass__v_pool *p, const float *d_y, const float *acc, float *d_x, float *scratch)
{
    const int64_t ld = dass__pool_row(p);
    const int64_t c = p->c;
    float *flat = scratch + p->k * ld;
    memset(flat, 0, (size_t)ld * sizeof(float));
    int32_t next = 0;
    for (int32_t ih = 0; ih < p->h; ih++) {
        const float *row[DASS__POOL_MAX_K];
        int n = 0;
        int32_t last = (ih + p->pad) / p->stride;
        if (last >= p->oh)
            last = p->oh - 1;
        for (; next <= last; next++)
            avg_spread_row(p, d_y + (int64_t)next * p->ow * c, next, flat, scratch + (next % p->k) * ld);
        for (int32_t oh = last; oh >= 0 && oh * p->stride - p->pad + p->k > ih; oh--)
            row[n++] = scratch + (oh % p->k) * ld;
        const int64_t at = (int64_t)ih * p->w * c;
        sum_rows(row, p->w * c, 1, acc ? acc + at : NULL, d_x + at, n);
    }
}

/* ---- activations and copies ---------------------------------------------------------------------------------- */

INLINE void relu_of(const float *x, int64_t n, float *dst, bool six)
{
    const vf top = VSET1(6);
    int64_t i = 0;
    for (; i + DASS_VL <= n; i += DASS_VL) {
        const vf v = vmax0(VLOAD(x + i));
        VSTORE(dst + i, six ? VSELECT(v > top, top, v) : v);
    }
    for (; i < n; i++)
        dst[i] = x[i] < 0 ? 0 : six && x[i] > 6 ? 6 : x[i];
}

void DASS_VEC(relu)(const float *x, int64_t n, int act, float *dst)
{
    if (act == DASS_ACT_RELU6)
        relu_of(x, n, dst, true);
    else
        relu_of(x, n, dst, false);
}

INLINE void relu_bwd_of(const float *d_y, const float *y, int64_t n, float *d_x, bool six)
{
    const vf zero = {0};
    const vf top = VSET1(6);
    int64_t i = 0;
    for (; i + DASS_VL <= n; i += DASS_VL) {
        const vf v = VLOAD(y + i);
        const vi m = six ? (v > zero) & (v < top) : v > zero;
        VSTORE(d_x + i, (vf)(m & (vi)VLOAD(d_y + i)));
    }
    for (; i < n; i++)
        d_x[i] = y[i] > 0 && (!six || y[i] < 6) ? d_y[i] : 0;
}

void DASS_VEC(relu_bwd)(const float *d_y, const float *y, int64_t n, int act, float *d_x)
{
    if (act == DASS_ACT_RELU6)
        relu_bwd_of(d_y, y, n, d_x, true);
    else
        relu_bwd_of(d_y, y, n, d_x, false);
}

void DASS_VEC(copy_rows)(float *dst, int64_t dst_ld, const float *src, int64_t src_ld, int64_t n, int64_t rows)
{
    if (n % DASS_VL) {
        for (int64_t r = 0; r < rows; r++)
            memcpy(dst + r * dst_ld, src + r * src_ld, (size_t)n * sizeof(float));
        return;
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i += DASS_VL)
            VSTORE(dst + r * dst_ld + i, VLOAD(src + r * src_ld + i));
}

void DASS_VEC(add_rows)(float *dst, int64_t dst_ld, const float *src, int64_t src_ld, int64_t n, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++) {
        float *d = dst + r * dst_ld;
        const float *s = src + r * src_ld;
        int64_t i = 0;
        for (; i + DASS_VL <= n; i += DASS_VL)
            VSTORE(d + i, VLOAD(d + i) + VLOAD(s + i));
        for (; i < n; i++)
            d[i] += s[i];
    }
}

void DASS_VEC(add_period)(const float *acc, const float *g, int64_t n, int32_t period, float *dst)
{
    int64_t i = 0;
    for (; i + period <= n; i += period)
        for (int32_t c = 0; c < period; c += DASS_VL)
            VSTORE(dst + i + c, (vf)VLOAD(g + c) + (acc ? (vf)VLOAD(acc + i + c) : (vf){0}));
    for (int32_t c = 0; i < n; i++, c++)
        dst[i] = acc ? acc[i] + g[c] : g[c];
}
