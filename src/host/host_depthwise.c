/* Depthwise convolutions with our own kernels: forward, gradient of the input, gradient of the taps. Splits images over
 * threads, transposes the taps to channels-last once per run, and turns the gradient of the input into forward
 * convolutions. Invariants: items are fixed by the shape and partial sums are added in index order, so results do not
 * depend on the number of threads; a row fits only where it was measured faster than oneDNN.
 */
#include "host.h"

#include <string.h>

#include "host_items.h"
#include "vec.h"

enum { MAX_CHUNKS = 64, CHUNK_ROWS = 8 };

typedef struct dw_impl {
    dass__impl head;
    dass_conv_attr a;
    const dass_value *x, *y; /* input side, output side */
    int32_t bands;           /* items per image */
    int32_t n_chunks;        /* of all N*OH rows of d_y: partial sums of the taps */
    int32_t width;           /* channels rounded up to vectors */
} dw_impl;

/* Taps (C, k, k) to (k, k, C), mirrored for the gradient of the input. */
static void transpose_taps(const float *w, int32_t c, int32_t n, bool mirror, float *out)
{
    for (int32_t t = 0; t < n; t++)
        for (int32_t i = 0; i < c; i++)
            out[t * c + i] = w[i * n + (mirror ? n - 1 - t : t)];
}

/* Rows of band b of n. */
static int32_t band_start(int32_t rows, int32_t b, int32_t n)
{
    return (int32_t)((int64_t)rows * b / n);
}

/* ---- forward ------------------------------------------------------------------------------------------------- */

static dass_status forward_run(dass_backend *be, void *impl)
{
    const dass_host *const h = (const dass_host *)be;
    const dw_impl *const p = impl;
    const dass_value *const x = p->x;
    const dass_value *const y = p->y;
    const int32_t c = x->dim[1];
    const int32_t oh = y->dim[2];
    const float *const src = p->head.arg[0];
    float *const dst = p->head.arg[p->head.n_in];
    float *const taps = p->head.ws;
    transpose_taps(p->head.arg[1], c, p->a.kh * p->a.kw, false, taps);
    const struct dass__dw image = {
        .taps = taps,
        .y_row = (int64_t)y->dim[3] * c,
        .y_col = c,
        .h = x->dim[2],
        .w = x->dim[3],
        .c = c,
        .n_cols = y->dim[3],
        .kh = p->a.kh,
        .kw = p->a.kw,
        .stride = p->a.stride,
        .dil = p->a.dil,
        .top = -p->a.pad,
        .left = -p->a.pad,
    };
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int32_t item = 0; item < x->dim[0] * p->bands; item++) {
        const int64_t n = item / p->bands;
        const int32_t b = item % p->bands;
        struct dass__dw a = image;
        a.x = src + n * x->dim[2] * x->dim[3] * c;
        a.y = dst + n * oh * y->dim[3] * c;
        h->vec->depthwise(&a, band_start(oh, b, p->bands), band_start(oh, b + 1, p->bands));
    }
    return DASS_OK;
}

/* ---- gradient of the input ----------------------------------------------------------------------------------- */

/* Pixels of d_x whose row (column) is first, first + 2, ... meet these taps: k0, k0 + step, ... (n of them), the first
 * of them at d_y row `start`, each next one row earlier. */
typedef struct phase {
    int32_t first, n_pixels, k0, step, n, start;
} phase;

/* With stride 1 there is one phase. With stride 2, output i of the forward pass reads row 2i + r dil - pad, so row v of
 * x meets tap r at i = (v + pad - r dil) / 2, where that is whole: every other tap with dilation 1, all or none with 2.
 */
static phase phase_of(const dass_conv_attr *a, int32_t size, int32_t k, int32_t parity)
{
    phase p = {.first = parity, .n_pixels = (size - parity + 1) / 2, .step = 1, .n = k};
    const int32_t at = parity + a->pad;
    if (a->dil == 1) {
        p.k0 = at % 2;
        p.step = 2;
        p.n = (k - p.k0 + 1) / 2;
    } else if (at % 2 != 0) {
        p.n = 0;
    }
    p.start = (at - p.k0 * a->dil) / 2; /* even by construction wherever n > 0 */
    return p;
}

/* The taps of two phases, mirrored, so that each next tap reads one row (column) further. */
static void pick_taps(const float *w, int32_t c, int32_t k, const phase *v, const phase *u, float *out)
{
    for (int32_t r = 0; r < v->n; r++)
        for (int32_t s = 0; s < u->n; s++) {
            const int32_t t = (v->k0 + (v->n - 1 - r) * v->step) * k + u->k0 + (u->n - 1 - s) * u->step;
            for (int32_t i = 0; i < c; i++)
                out[(r * u->n + s) * c + i] = w[i * k * k + t];
        }
}

/* The (up to four) convolutions that make d_x, without the image's pointers; returns how many. */
static int plan_data(const dw_impl *p, const float *w, float *taps, struct dass__dw *out, int64_t *offset)
{
    const int32_t c = p->x->dim[1];
    const int32_t k = p->a.kh;
    const int32_t wd = p->x->dim[3];
    const struct dass__dw base = {.h = p->y->dim[2], .w = p->y->dim[3], .c = c, .stride = 1};
    if (p->a.stride == 1) {
        out[0] = base;
        out[0].taps = taps;
        out[0].y_row = (int64_t)wd * c;
        out[0].y_col = c;
        out[0].n_cols = wd;
        out[0].kh = out[0].kw = k;
        out[0].dil = p->a.dil;
        out[0].top = out[0].left = p->a.pad - (k - 1) * p->a.dil;
        offset[0] = 0;
        transpose_taps(w, c, k * k, true, taps);
        return 1;
    }
    for (int32_t q = 0; q < 4; q++) {
        const phase v = phase_of(&p->a, p->x->dim[2], k, q / 2);
        const phase u = phase_of(&p->a, wd, k, q % 2);
        struct dass__dw *const d = &out[q];
        *d = base;
        d->taps = taps;
        d->y_row = 2 * (int64_t)wd * c;
        d->y_col = 2 * c;
        d->n_cols = u.n_pixels;
        d->kh = v.n;
        d->kw = u.n;
        d->dil = 1;
        d->top = v.start - (v.n - 1);
        d->left = u.start - (u.n - 1);
        offset[q] = ((int64_t)v.first * wd + u.first) * c;
        pick_taps(w, c, k, &v, &u, taps);
        taps += v.n * u.n * c;
    }
    return 4;
}

/* Pixels that no tap meets (stride and dilation 2). */
static void zero_rows(const struct dass__dw *a, int32_t row0, int32_t row1)
{
    for (int32_t i = row0; i < row1; i++)
        for (int32_t j = 0; j < a->n_cols; j++)
            memset(a->y + i * a->y_row + j * a->y_col, 0, (size_t)a->c * sizeof(float));
}

static dass_status data_run(dass_backend *be, void *impl)
{
    const dass_host *const h = (const dass_host *)be;
    const dw_impl *const p = impl;
    const dass_value *const x = p->x;
    const dass_value *const y = p->y;
    const float *const d_y = p->head.arg[0];
    float *const d_x = p->head.arg[p->head.n_in];
    struct dass__dw conv[4];
    int64_t offset[4];
    const int n_conv = plan_data(p, p->head.arg[1], p->head.ws, conv, offset);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int32_t item = 0; item < x->dim[0] * p->bands; item++) {
        const int64_t n = item / p->bands;
        const int32_t b = item % p->bands;
        for (int q = 0; q < n_conv; q++) {
            struct dass__dw a = conv[q];
            const int32_t rows = n_conv == 1 ? x->dim[2] : (x->dim[2] - q / 2 + 1) / 2;
            a.x = d_y + n * y->dim[2] * y->dim[3] * a.c;
            a.y = d_x + n * x->dim[2] * x->dim[3] * a.c + offset[q];
            const int32_t row0 = band_start(rows, b, p->bands);
            const int32_t row1 = band_start(rows, b + 1, p->bands);
            if (a.kh > 0 && a.kw > 0)
                h->vec->depthwise(&a, row0, row1);
            else
                zero_rows(&a, row0, row1);
        }
    }
    return DASS_OK;
}

/* ---- gradient of the taps ------------------------------------------------------------------------------------ */

/* Chunk `i` of the rows of d_y, all images in one line; a chunk may end inside an image. */
static void taps_chunk(const dass_host *h, const dw_impl *p, int32_t i)
{
    const dass_value *const x = p->x;
    const dass_value *const y = p->y;
    const int32_t oh = y->dim[2];
    const int64_t rows = (int64_t)y->dim[0] * oh;
    const size_t n_part = (size_t)(p->a.kh * p->a.kw) * (size_t)p->width;
    struct dass__dw_grad a = {
        .part = (float *)p->head.ws + n_part * (size_t)i,
        .h = x->dim[2],
        .w = x->dim[3],
        .c = x->dim[1],
        .ow = y->dim[3],
        .k = p->a.kh,
        .stride = p->a.stride,
        .dil = p->a.dil,
        .pad = p->a.pad,
        .width = p->width,
    };
    memset(a.part, 0, n_part * sizeof(float));
    const int64_t end = rows * (i + 1) / p->n_chunks;
    for (int64_t row = rows * i / p->n_chunks; row < end;) {
        const int64_t n = row / oh;
        const int32_t first = (int32_t)(row - n * oh);
        const int32_t last = end - n * oh < oh ? (int32_t)(end - n * oh) : oh;
        a.x = (const float *)p->head.arg[0] + n * a.h * a.w * a.c;
        a.d_y = (const float *)p->head.arg[1] + n * oh * a.ow * a.c;
        h->vec->depthwise_taps(&a, first, last);
        row = n * oh + last;
    }
}

/* d_w of tap t: the chunks' sums, in index order, in double. Channel ch lies at the same place of every chunk. */
static void reduce_tap(const dass_host *h, const dw_impl *p, int32_t t)
{
    const int32_t c = p->x->dim[1];
    const int32_t n_taps = p->a.kh * p->a.kw;
    const size_t n_part = (size_t)n_taps * (size_t)p->width;
    const float *const part = (const float *)p->head.ws + (size_t)t * (size_t)p->width;
    float *const d_w = p->head.arg[p->head.n_in];
    double sum[64];
    const int32_t n_sum = (int32_t)(sizeof sum / sizeof sum[0]); /* a multiple of the lanes */
    for (int32_t at = 0; at < p->width; at += n_sum) {
        const int32_t n = p->width - at < n_sum ? p->width - at : n_sum;
        memset(sum, 0, sizeof sum);
        for (int32_t i = 0; i < p->n_chunks; i++) {
            const float *const from = part + n_part * (size_t)i + at;
            for (int32_t j = 0; j < n; j++)
                sum[j] += (double)from[j];
        }
        for (int32_t ch = 0; ch < c; ch++) {
            const int32_t slot = dass__dw_slot(ch, c, h->vec->lanes) - at;
            if (slot >= 0 && slot < n)
                d_w[ch * n_taps + t] = (float)sum[slot];
        }
    }
}

static dass_status taps_run(dass_backend *be, void *impl)
{
    const dass_host *const h = (const dass_host *)be;
    const dw_impl *const p = impl;
#pragma omp parallel num_threads(h->n_threads)
    {
#pragma omp for schedule(static)
        for (int32_t i = 0; i < p->n_chunks; i++)
            taps_chunk(h, p, i);
#pragma omp for schedule(static)
        for (int32_t t = 0; t < p->a.kh * p->a.kw; t++)
            reduce_tap(h, p, t);
    }
    return DASS_OK;
}

/* ---- rows ---------------------------------------------------------------------------------------------------- */

/* Where our kernels beat oneDNN 2.6.3 in NHWC: time of oneDNN / time of ours, interleaved in one process on one Zen 3
 * core (AVX2), processor time, best of 15, batch 64, "same" padding; C16 and C64 at 32x32, C144 at 16x16. Repeats on a
 * busy machine moved the ratios near 1 by 0.15.
 *
 *                 forward             gradient of input   gradient of taps
 *                  C16   C64  C144     C16   C64  C144     C16   C64  C144
 *   3x3 d1 s1     0.8   0.8   1.0     1.5   0.8   1.2     1.3   1.9   1.1
 *   3x3 d1 s2     0.9   0.9   1.0     1.8   1.0   1.0     0.8   0.9   0.9
 *   3x3 d2 s1     0.9   0.9   1.2      11   6.3   4.4      38    34    18
 *   3x3 d2 s2     0.9   0.7   0.6      30    43    58      52    25    56
 *   5x5 d1 s1     1.1   1.3   1.1     1.7   1.4   1.6     7.3   6.4   2.7
 *   5x5 d1 s2     0.8   1.5   1.3     1.9   1.2   1.2     5.5   2.7   4.3
 *   5x5 d2 s1     1.0   1.2   1.1      11   8.7   8.1      33    28    25
 *   5x5 d2 s2     0.8   0.8   0.7      88    61    77      50    31    49
 *
 * Other images, 3x3 s1, forward, input, taps: C64 8x8 0.8 1.6 0.7; C32 16x16 0.8 1.6 0.9; C384 8x8 0.9 1.1 0.9;
 * C96 56x56 (batch 4) 0.9 0.9 1.9; C64 112x112 (batch 1) 0.7 0.8 1.3. 7x7: C16 s1 1.2 1.6 6.1; C64 s2 0.9 1.8 3.8; C16
 * d2 52 11 35. Where the ratio jumps oneDNN has left its depthwise code for a dense or a GEMM one. Without oneDNN ours
 * take everything they are built for. */
typedef struct dw_case {
    const dass_value *x, *y; /* input side, output side */
    int32_t k, stride, dil;
    bool built; /* our kernels can */
    bool only;  /* nobody else is there */
} dw_case;

static dw_case case_of(const dass_host *h, const dass_graph *g, dass_node n, const dass_value *x, const dass_value *y)
{
    const dass_conv_attr *const a = &g->nodes[n].attr.conv;
    dw_case c = {.x = x, .y = y, .k = a->kw, .stride = a->stride, .dil = a->dil, .only = h->onednn == NULL};
    c.built = a->groups == x->dim[1] && y->dim[1] == x->dim[1] && a->kh == a->kw && dass__is_f32_nhwc(x) &&
              dass__is_f32_nhwc(y) && dass__dw_built(a->kw, a->stride, a->dil) &&
              (c.only || x->dim[1] >= h->vec->lanes); /* fewer channels than lanes: scalar code */
    return c;
}

static bool forward_fits(const dass_host *h, const dass_graph *g, dass_node n)
{
    if (g->nodes[n].n_in > 2 && dass_node_in(g, n)[2] != 0)
        return false; /* a bias */
    if (g->nodes[n].attr.conv.act != DASS_ACT_NONE || g->nodes[n].attr.conv.relu != DASS_ACT_NONE)
        return false; /* only the rows behind can do it */
    const dw_case c = case_of(h, g, n, dass__in(g, n, 0), dass__out(g, n, 0));
    if (!c.built || c.only)
        return c.built;
    if (c.k == 3)
        return false;
    if (c.stride == 1 || (c.k == 7 && c.dil == 2))
        return true;
    return c.k == 5 && c.dil == 1 && c.x->dim[1] >= 32;
}

static bool data_fits(const dass_host *h, const dass_graph *g, dass_node n)
{
    const dw_case c = case_of(h, g, n, dass__out(g, n, 0), dass__in(g, n, 0));
    if (!c.built || c.only || c.k > 3 || c.dil > 1)
        return c.built;
    if (c.stride == 2)
        return c.x->dim[3] >= 32;
    return (int64_t)c.x->dim[1] * c.x->dim[2] * c.x->dim[3] <= 40000; /* of an image: C144 16x16 yes, C64 32x32 no */
}

static bool taps_fits(const dass_host *h, const dass_graph *g, dass_node n)
{
    const dw_case c = case_of(h, g, n, dass__in(g, n, 0), dass__in(g, n, 1));
    if (!c.built || c.only || c.k > 3 || c.dil > 1)
        return c.built;
    return c.stride == 1 && c.x->dim[3] >= 16;
}

/* The head common to the three; ws is set by each. */
static dw_impl *make(dass_arena *mem, const dass_graph *g, dass_node n, const dass_value *x, const dass_value *y,
                     dass_status (*run)(dass_backend *be, void *impl), dass_kernel *k)
{
    dw_impl *const p = dass__impl_make(mem, g, n, sizeof *p, k);
    if (p == NULL)
        return NULL;
    p->a = g->nodes[n].attr.conv;
    p->x = x;
    p->y = y;
    p->bands = x->dim[0] >= 32 ? 1 : (32 + x->dim[0] - 1) / x->dim[0];
    k->run = run;
    k->ws_bytes = (size_t)x->dim[1] * (size_t)(p->a.kh * p->a.kw) * sizeof(float);
    return p;
}

static dass_status forward_prepare(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    (void)h;
    return make(mem, g, n, dass__in(g, n, 0), dass__out(g, n, 0), forward_run, k) != NULL ? DASS_OK : DASS_NOMEM;
}

static dass_status data_prepare(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    (void)h;
    return make(mem, g, n, dass__out(g, n, 0), dass__in(g, n, 0), data_run, k) != NULL ? DASS_OK : DASS_NOMEM;
}

static dass_status taps_prepare(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    dw_impl *const p = make(mem, g, n, dass__in(g, n, 0), dass__in(g, n, 1), taps_run, k);
    if (p == NULL)
        return DASS_NOMEM;
    const int32_t lanes = h->vec->lanes;
    const int64_t rows = (int64_t)p->y->dim[0] * p->y->dim[2];
    const int64_t chunks = rows / CHUNK_ROWS;
    p->n_chunks = chunks < 1 ? 1 : chunks > MAX_CHUNKS ? MAX_CHUNKS : (int32_t)chunks;
    p->width = (p->x->dim[1] + lanes - 1) / lanes * lanes;
    size_t bytes = (size_t)(p->a.kh * p->a.kw) * sizeof(float);
    DASS_TRY(dass_mem_mul(bytes, (size_t)p->width, "partial sums of depthwise taps", &bytes));
    DASS_TRY(dass_mem_mul(bytes, (size_t)p->n_chunks, "partial sums of depthwise taps", &k->ws_bytes));
    return DASS_OK;
}

const dass__row dass__rows_depthwise[] = {
    {DASS_OP_CONV, "depthwise", forward_fits, forward_prepare, NULL, NULL},
    {DASS_OP_CONV_BWD_DATA, "depthwise_data", data_fits, data_prepare, NULL, NULL},
    {DASS_OP_CONV_BWD_WEIGHTS, "depthwise_taps", taps_fits, taps_prepare, NULL, NULL},
    {.op = DASS_OP_NONE},
};
