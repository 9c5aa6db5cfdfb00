/* Depthwise convolution of one image, channels last, and the gradient of its taps. Borders are not padded: the loops
 * run over input columns, each loaded once for all the outputs that use it, so a column outside the image is one
 * skipped load. Kernel width, stride and dilation are compile-time constants of the inner blocks. Not here: threads,
 * images, layouts of weights (host_depthwise.c). Invariant: what is computed for one channel does not depend on how
 * channels fall on vectors.
 */
#include "vec.h"

#define X(ret, name, args) ret DASS_VEC(name) args;
DASS__VEC_DEPTHWISE(X)
#undef X

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

enum {
    MAX_K = 7,
    WIDE = 8,   /* outputs of a forward block: 8 accumulators, k taps and one column fit 16 registers for k <= 5 */
    NARROW = 4, /* where a row has fewer outputs; also the pixels of a gradient block */
};

#define MARGIN_OF(kw, dil) (((kw)-1) * (dil) / 2 + ((kw) % 2 == 0)) /* even: the phases of a stride */

/* Which columns of a block may lie outside the image: none, those in the margin of "same" padding, or any. */
typedef enum edge { INSIDE, MARGIN, ANYWHERE } edge;

/* Must column m of columns 0 .. reach be looked at? */
INLINE bool doubtful(edge e, int m, int reach, int margin)
{
    return e == ANYWHERE || (e == MARGIN && (m < margin || m > reach - margin));
}

INLINE edge edge_of(int32_t col0, int32_t w, int reach, int margin)
{
    if (col0 >= 0 && col0 + reach < w)
        return INSIDE;
    return col0 >= -margin && col0 + reach < w + margin ? MARGIN : ANYWHERE;
}

/* ---- forward ------------------------------------------------------------------------------------------------- */

/* Outputs j0 .. j0+n-1 of row i, one vector of channels at c0. */
INLINE void block(const struct dass__dw *a, int32_t c0, int32_t i, int32_t j0, const int kw, const int stride,
                  const int dil, const int n, const edge e)
{
    const ptrdiff_t c = a->c;
    const int reach = (n - 1) * stride + (kw - 1) * dil;
    const int32_t col0 = j0 * stride + a->left;
    vf acc[WIDE];
    UNROLL for (int q = 0; q < n; q++) acc[q] = (vf){0};
    for (int32_t r = 0; r < a->kh; r++) {
        const int32_t row = i * stride + r * dil + a->top;
        if ((uint32_t)row >= (uint32_t)a->h)
            continue;
        const float *const x = a->x + c0;
        const ptrdiff_t first = ((ptrdiff_t)row * a->w + col0) * c;
        const float *const t = a->taps + r * kw * c + c0;
        vf tap[MAX_K];
        UNROLL for (int s = 0; s < kw; s++) tap[s] = VLOAD(t + s * c);
        UNROLL for (int m = 0; m <= reach; m++)
        {
            if (doubtful(e, m, reach, MARGIN_OF(kw, dil)) && (uint32_t)(col0 + m) >= (uint32_t)a->w)
                continue;
            const vf v = VLOAD(x + (first + m * c));
            UNROLL for (int s = 0; s < kw; s++)
            {
                const int d = m - s * dil;
                if (d >= 0 && d % stride == 0 && d / stride < n)
                    acc[d / stride] += v * tap[s];
            }
        }
    }
    float *const y = a->y + i * a->y_row + j0 * a->y_col + c0;
    UNROLL for (int q = 0; q < n; q++) VSTORE(y + q * a->y_col, acc[q]);
}

/* Ask for what the next block of the row reads first: the columns after this one's, of the input rows that no earlier
 * output row has read; and for where it writes. At the end of a row both run on into the next, as the loop does. */
INLINE void ask_ahead(const struct dass__dw *a, int32_t i, int32_t j0, const int kw, const int stride, const int dil,
                      const int n)
{
    const intptr_t c = a->c;
    const intptr_t floats = (intptr_t)n * stride * c;
    const intptr_t col = (intptr_t)(j0 + n - 1) * stride + (kw - 1) * dil + a->left + 1;
    for (int r = 0; r < stride; r++) {
        const intptr_t row = (intptr_t)i * stride + (a->kh - 1) * dil + a->top - r;
        const char *const x = (const char *)((intptr_t)a->x + (row * a->w + col) * c * (intptr_t)sizeof(float));
        for (intptr_t at = 0; at < floats * (intptr_t)sizeof(float); at += 64)
            __builtin_prefetch(x + at, 0, 3);
    }
    const char *const y =
        (const char *)((intptr_t)a->y + (i * a->y_row + (j0 + n) * a->y_col) * (intptr_t)sizeof(float));
    for (intptr_t at = 0; at < n * a->y_col * (intptr_t)sizeof(float); at += 64)
        __builtin_prefetch(y + at, 1, 3);
}

/* n outputs from column j0 on, all channels: innermost, so that memory is walked in order. The last vector may overlap
 * the one before, as the last block of a row may: an output is then computed twice, to the same bits. Returns false,
 * having done nothing, where the padding is wider than "same" and columns beyond the margin are missing. */
INLINE bool columns(const struct dass__dw *a, int32_t i, int32_t j0, const int kw, const int stride, const int dil,
                    const int n)
{
    const int32_t col0 = j0 * stride + a->left;
    const edge e = n == 1 ? ANYWHERE : edge_of(col0, a->w, (n - 1) * stride + (kw - 1) * dil, MARGIN_OF(kw, dil));
    if (n > 1 && e == ANYWHERE)
        return false;
    ask_ahead(a, i, j0, kw, stride, dil, n);
    for (int32_t b = 0; b < a->c; b += DASS_VL) {
        const int32_t c0 = b + DASS_VL <= a->c ? b : a->c - DASS_VL;
        if (n == 1)
            block(a, c0, i, j0, kw, stride, dil, 1, ANYWHERE);
        else if (n == WIDE && e == INSIDE)
            block(a, c0, i, j0, kw, stride, dil, n, INSIDE);
        else
            block(a, c0, i, j0, kw, stride, dil, n, MARGIN);
    }
    return true;
}

INLINE void row_of(const struct dass__dw *a, int32_t i, const int kw, const int stride, const int dil)
{
    const int32_t n = a->n_cols;
    for (int32_t j = 0; j < n;) {
        if (n >= WIDE) {
            const int32_t j0 = j + WIDE <= n ? j : n - WIDE;
            if (columns(a, i, j0, kw, stride, dil, WIDE)) {
                j = j0 + WIDE;
                continue;
            }
        } else if (j + NARROW <= n && columns(a, i, j, kw, stride, dil, NARROW)) {
            j += NARROW;
            continue;
        }
        columns(a, i, j++, kw, stride, dil, 1);
    }
}

#define ROW(kw, stride, dil)                                                                               \
    static __attribute__((noinline)) void row_##kw##_##stride##_##dil(const struct dass__dw *a, int32_t i) \
    {                                                                                                      \
        row_of(a, i, kw, stride, dil);                                                                     \
    }
ROW(1, 1, 1)
ROW(2, 1, 1)
ROW(3, 1, 1)
ROW(4, 1, 1)
ROW(5, 1, 1)
ROW(7, 1, 1)
ROW(3, 1, 2)
ROW(5, 1, 2)
ROW(7, 1, 2)
ROW(3, 2, 1)
ROW(5, 2, 1)
ROW(7, 2, 1)
ROW(3, 2, 2)
ROW(5, 2, 2)
ROW(7, 2, 2)

/* Fewer channels than lanes: one at a time. */
static void row_scalar(const struct dass__dw *a, int32_t i)
{
    for (int32_t j = 0; j < a->n_cols; j++)
        for (int32_t ch = 0; ch < a->c; ch++) {
            float sum = 0;
            for (int32_t r = 0; r < a->kh; r++) {
                const int32_t row = i * a->stride + r * a->dil + a->top;
                if ((uint32_t)row >= (uint32_t)a->h)
                    continue;
                for (int32_t s = 0; s < a->kw; s++) {
                    const int32_t col = j * a->stride + s * a->dil + a->left;
                    if ((uint32_t)col >= (uint32_t)a->w)
                        continue;
                    sum += a->x[((ptrdiff_t)row * a->w + col) * a->c + ch] * a->taps[(r * a->kw + s) * a->c + ch];
                }
            }
            a->y[i * a->y_row + j * a->y_col + ch] = sum;
        }
}

typedef void (*row_fn)(const struct dass__dw *a, int32_t i);

void DASS_VEC(depthwise)(const struct dass__dw *a, int32_t row0, int32_t row1)
{
    static const row_fn rows[MAX_K + 1][2][2] = {
        /* width, stride - 1, dilation - 1 */
        [1] = {{row_1_1_1}},
        [2] = {{row_2_1_1}},
        [3] = {{row_3_1_1, row_3_1_2}, {row_3_2_1, row_3_2_2}},
        [4] = {{row_4_1_1}},
        [5] = {{row_5_1_1, row_5_1_2}, {row_5_2_1, row_5_2_2}},
        [7] = {{row_7_1_1, row_7_1_2}, {row_7_2_1, row_7_2_2}},
    };
    const row_fn row = a->c < DASS_VL ? row_scalar : rows[a->kw][a->stride - 1][a->dil - 1];
    for (int32_t i = row0; i < row1; i++)
        row(a, i);
}

/* ---- gradient of the taps ------------------------------------------------------------------------------------ */

/* Tap rows kept in registers together: all 9 taps of a 3x3; 2 rows of a 5x5, or all of it in 32 registers. */
#ifdef __AVX512F__
enum { ROWS3 = 3, ROWS5 = 5, ROWS7 = 3 };
#else
enum { ROWS3 = 3, ROWS5 = 2, ROWS7 = 1 };
#endif
enum { MAX_ROWS = 5 };

/* n pixels of d_y from column j0 on, against n_rows tap rows whose input rows start at x[.] (NULL: outside the image).
 */
INLINE void grad_block(const float *d_y, const float *const *x, int32_t col0, int32_t w, ptrdiff_t c, vf *acc,
                       const int k, const int stride, const int dil, const int n_rows, const int n, const edge e)
{
    const int reach = (n - 1) * stride + (k - 1) * dil;
    vf d[NARROW];
    UNROLL for (int q = 0; q < n; q++) d[q] = VLOAD(d_y + q * c);
    UNROLL for (int r = 0; r < n_rows; r++)
    {
        if (x[r] == NULL)
            continue;
        UNROLL for (int m = 0; m <= reach; m++)
        {
            if (doubtful(e, m, reach, MARGIN_OF(k, dil)) && (uint32_t)(col0 + m) >= (uint32_t)w)
                continue;
            const vf v = VLOAD(x[r] + (col0 + m) * c);
            UNROLL for (int s = 0; s < k; s++)
            {
                const int q = m - s * dil;
                if (q >= 0 && q % stride == 0 && q / stride < n)
                    acc[r * k + s] += v * d[q / stride];
            }
        }
    }
}

/* Tap rows r0 .. r0+n_rows-1 over output rows [row0, row1), one vector of channels; sums go on from what part holds. */
INLINE void grad_strip(const struct dass__dw_grad *a, int32_t c0, float *part, int32_t row0, int32_t row1, int32_t r0,
                       const int k, const int stride, const int dil, const int n_rows)
{
    const ptrdiff_t c = a->c;
    const int reach = (NARROW - 1) * stride + (k - 1) * dil;
    vf acc[MAX_ROWS * MAX_K];
    UNROLL for (int t = 0; t < n_rows * k; t++) acc[t] = VLOAD(part + t * a->width);
    for (int32_t i = row0; i < row1; i++) {
        const float *x[MAX_ROWS];
        UNROLL for (int r = 0; r < n_rows; r++)
        {
            const int32_t row = i * stride + (r0 + r) * dil - a->pad;
            x[r] = (uint32_t)row < (uint32_t)a->h ? a->x + (ptrdiff_t)row * a->w * c + c0 : NULL;
        }
        const float *const d_y = a->d_y + (ptrdiff_t)i * a->ow * c + c0;
        for (int32_t j = 0; j < a->ow;) {
            const int32_t col0 = j * stride - a->pad;
            const float *const at = d_y + j * c;
            const edge e = j + NARROW <= a->ow ? edge_of(col0, a->w, reach, MARGIN_OF(k, dil)) : ANYWHERE;
            if (e == INSIDE)
                grad_block(at, x, col0, a->w, c, acc, k, stride, dil, n_rows, NARROW, INSIDE);
            else if (e == MARGIN)
                grad_block(at, x, col0, a->w, c, acc, k, stride, dil, n_rows, NARROW, MARGIN);
            else
                grad_block(at, x, col0, a->w, c, acc, k, stride, dil, n_rows, 1, ANYWHERE);
            j += e == ANYWHERE ? 1 : NARROW;
        }
    }
    UNROLL for (int t = 0; t < n_rows * k; t++) VSTORE(part + t * a->width, acc[t]);
}

/* All taps, vector by vector of channels; some rows at a time, so that the image rows in use stay in the first cache.
 */
INLINE void grad_of(const struct dass__dw_grad *a, int32_t row0, int32_t row1, const int k, const int stride,
                    const int dil, const int n_rows)
{
    const int32_t step = a->ow >= 64 ? 1 : (64 + a->ow - 1) / a->ow;
    for (int32_t i = row0; i < row1; i += step) {
        const int32_t end = i + step < row1 ? i + step : row1;
        for (int32_t b = 0; b < a->c; b += DASS_VL) {
            const int32_t c0 = b + DASS_VL <= a->c ? b : a->c - DASS_VL;
            int32_t r = 0;
            for (; r + n_rows <= k; r += n_rows)
                grad_strip(a, c0, a->part + r * k * a->width + b, i, end, r, k, stride, dil, n_rows);
            if (k % n_rows != 0) /* 2 of 5 leave 1, 3 of 7 leave 1 */
                grad_strip(a, c0, a->part + r * k * a->width + b, i, end, r, k, stride, dil, 1);
        }
    }
}

#define GRAD(k, stride, dil)                                                                                       \
    static __attribute__((noinline)) void grad_##k##_##stride##_##dil(const struct dass__dw_grad *a, int32_t row0, \
                                                                      int32_t row1)                                \
    {                                                                                                              \
        grad_of(a, row0, row1, k, stride, dil, ROWS##k);                                                           \
    }
GRAD(3, 1, 1)
GRAD(5, 1, 1)
GRAD(7, 1, 1)
GRAD(3, 1, 2)
GRAD(5, 1, 2)
GRAD(7, 1, 2)
GRAD(3, 2, 1)
GRAD(5, 2, 1)
GRAD(7, 2, 1)
GRAD(3, 2, 2)
GRAD(5, 2, 2)
GRAD(7, 2, 2)

static void grad_scalar(const struct dass__dw_grad *a, int32_t row0, int32_t row1)
{
    for (int32_t r = 0; r < a->k; r++)
        for (int32_t s = 0; s < a->k; s++)
            for (int32_t i = row0; i < row1; i++) {
                const int32_t row = i * a->stride + r * a->dil - a->pad;
                if ((uint32_t)row >= (uint32_t)a->h)
                    continue;
                for (int32_t j = 0; j < a->ow; j++) {
                    const int32_t col = j * a->stride + s * a->dil - a->pad;
                    if ((uint32_t)col >= (uint32_t)a->w)
                        continue;
                    for (int32_t ch = 0; ch < a->c; ch++)
                        a->part[(r * a->k + s) * a->width + ch] += a->d_y[((ptrdiff_t)i * a->ow + j) * a->c + ch] *
                                                                   a->x[((ptrdiff_t)row * a->w + col) * a->c + ch];
                }
            }
}

typedef void (*grad_fn)(const struct dass__dw_grad *a, int32_t row0, int32_t row1);

void DASS_VEC(depthwise_taps)(const struct dass__dw_grad *a, int32_t row0, int32_t row1)
{
    static const grad_fn grads[MAX_K + 1][2][2] = {
        [3] = {{grad_3_1_1, grad_3_1_2}, {grad_3_2_1, grad_3_2_2}},
        [5] = {{grad_5_1_1, grad_5_1_2}, {grad_5_2_1, grad_5_2_2}},
        [7] = {{grad_7_1_1, grad_7_1_2}, {grad_7_2_1, grad_7_2_2}},
    };
    (a->c < DASS_VL ? grad_scalar : grads[a->k][a->stride - 1][a->dil - 1])(a, row0, row1);
}
