/* Rows of the fused separable half (dwpw) and its gradient: geometry, packing, threads, and the sums over images.
 *
 * The arithmetic is in vec_dwpw.c and vec_dwpw_bwd.c. A work item is an image; weight gradients are summed over a
 * number of chunks of images that depends on the shape alone, and everything that crosses images is added here in index
 * order and in double, so that results do not depend on the number of threads. All scratch lies in the planned
 * workspace.
 */
#include "host.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "vec.h"

#define DWPW_PIXELS 96                /* of a block, where the channels are few: a multiple of the pixel tiles */
#define DWPW_BLOCK_BYTES (24 * 1024)  /* of depthwise results in a block: they are read from the first-level cache */
#define DWPW_DX_BYTES (64 * 1024)     /* of input gradient in a block: shorter ones spend their time on setting up */
#define DWPW_MIN_CHUNKS 16
#define DWPW_PARTIAL_BYTES (512 * 1024) /* more chunks than the minimum only while partials stay below this */

typedef struct dwpw_impl {
    dass__impl head;
    const struct dass__vec *vec;
    int threads;
    bool backward;
    dass__dwpw s;
    dass__dwpw_scratch scratch;
    int64_t part_dw, part_pw; /* floats of one partial weight gradient, padded to cache lines */
    int32_t *g_at;            /* see dass__dwpw_pack */
    /* byte offsets in the workspace */
    size_t at_w_dw, at_w_dw_t, at_w_pw, at_w_pw_t, at_scale, at_coef, at_stats, at_part, at_scratch, ws_bytes;
    double eps;
} dwpw_impl;

/* ---- geometry ---------------------------------------------------------------------------------------------- */

static int gcd(int a, int b) { return b == 0 ? a : gcd(b, a % b); }
static int imax(int a, int b) { return a > b ? a : b; }
static int imin(int a, int b) { return a < b ? a : b; }

/* Class i of one axis with k taps; source positions are (i + pad - tap dil) / stride. */
static dass__dwpw_class make_class(int i, int k, int stride, int pad, int dil)
{
    dass__dwpw_class c = {0, 0, 0};
    for (int r = k - 1; r >= 0; r--) {
        if ((i + pad - r * dil) % stride != 0) continue;
        if (c.n == 0) {
            c.first = r;
            c.off = (i + pad - r * dil) / stride;
        }
        c.n++;
    }
    return c;
}

/* Classes of one axis of input size `size` and output size `out`; returns the plane's size, *lead its first border. */
static int make_axis(const dass__dwpw *s, int size, int out, int k, int out_padded, dass__dwpw_class *cls, int *lead)
{
    int low = 0, high = out_padded - 1;
    for (int i = 0; i < s->stride && i < size; i++) {
        cls[i] = make_class(i, k, s->stride, s->pad, s->dil);
        if (cls[i].n == 0) continue;
        low = imin(low, cls[i].off);
        high = imax(high, (size - 1 - i) / s->stride + cls[i].off + (cls[i].n - 1) * s->src_dil);
    }
    *lead = -low;
    return imax(high, out - 1) - low + 1;
}

static void make_geometry(dass__dwpw *s, const dass_value *x, const dass_value *y, const dass_conv_attr *a, int lanes)
{
    s->n = x->dim[0], s->c = x->dim[1], s->h = x->dim[2], s->w = x->dim[3];
    s->oc = y->dim[1], s->oh = y->dim[2], s->ow = y->dim[3];
    s->kh = a->kh, s->kw = a->kw, s->stride = a->stride, s->pad = a->pad, s->dil = a->dil, s->relu = a->relu;
    s->vl = lanes;
    s->cv = (s->c + lanes - 1) / lanes, s->ocv = (s->oc + lanes - 1) / lanes;
    s->cp = s->cv * lanes, s->ocp = s->ocv * lanes;
    s->v_h = imax(s->pad + s->h, (s->oh - 1) * s->stride + (s->kh - 1) * s->dil + 1);
    s->v_w = imax(s->pad + s->w, (s->ow - 1) * s->stride + (s->kw - 1) * s->dil + 1);
    s->v_plane = (int64_t)s->v_h * s->v_w * lanes;
    const int g = gcd(s->dil, s->stride);
    s->tap_step = s->stride / g, s->src_dil = s->dil / g;
    s->g_h = make_axis(s, s->h, s->oh, s->kh, s->oh, s->row_class, &s->g_top);
    s->g_w = make_axis(s, s->w, s->ow, s->kw, (s->ow + 3) / 4 * 4, s->col_class, &s->g_left);
    s->g_plane = (int64_t)s->g_h * s->g_w * lanes;
    int64_t at = 0;
    for (int i = 0; i < s->stride; i++)
        for (int j = 0; j < s->stride; j++) {
            s->w_class[i][j] = at;
            at += (int64_t)s->row_class[i].n * s->col_class[j].n * s->cp;
        }
    const int pixels = imin(DWPW_PIXELS, imax(1, DWPW_BLOCK_BYTES / (4 * s->cp)));
    s->rows = imin(s->oh, imax(1, pixels / s->ow));
    s->block = s->rows * s->ow;
    s->dx_rows = s->stride * imax(1, imin(s->h, DWPW_DX_BYTES / (4 * s->cp) / s->w) / s->stride);
}

static size_t take(size_t *at, int64_t bytes)
{
    const size_t here = *at;
    *at += ((size_t)bytes + 63) & ~(size_t)63;
    return here;
}

static dass_status dwpw_run(dass_backend *be, void *impl);
static dass_status dwpw_bwd_run(dass_backend *be, void *impl);

static dass_status prepare(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                           bool backward)
{
    dwpw_impl *p = dass__impl_make(mem, g, n, sizeof *p, k);
    if (!p) return DASS_NOMEM;
    dass__dwpw *s = &p->s;
    const dass_conv_attr *a = &g->nodes[n].attr.conv;
    p->vec = h->vec;
    p->backward = backward;
    p->eps = a->eps;
    make_geometry(s, dass__in(g, n, 0), backward ? dass__in(g, n, 8) : dass__out(g, n, 0), a, h->vec->lanes);
    p->scratch = dass__dwpw_layout(s, backward);
    p->part_dw = ((int64_t)s->cp * s->kh * s->kw + 15) & ~(int64_t)15;
    p->part_pw = ((int64_t)s->cp * s->ocp + 15) & ~(int64_t)15;
    const int64_t part = backward ? (p->part_dw + p->part_pw) * 4 : 0;
    s->n_chunks = imin(s->n, backward ? imax(DWPW_MIN_CHUNKS, (int)(DWPW_PARTIAL_BYTES / part)) : s->n);
    p->threads = imax(1, imin(h->n_threads, s->n_chunks));
    if (backward) {
        const int n_at = s->block + DASS__DWPW_SLACK;
        p->g_at = dass_arena_alloc(mem, (size_t)n_at * sizeof *p->g_at);
        if (!p->g_at) return DASS_NOMEM;
        for (int i = 0; i < s->block; i++) p->g_at[i] = (i / s->ow * s->g_w + i % s->ow) * s->vl;
    }
    size_t at = 0;
    p->at_w_dw = take(&at, p->part_dw * 4);
    p->at_w_dw_t = take(&at, backward ? p->part_dw * 4 : 0);
    p->at_w_pw = take(&at, backward ? 0 : p->part_pw * 4);
    p->at_w_pw_t = take(&at, backward ? p->part_pw * 4 : 0);
    p->at_scale = take(&at, (int64_t)s->cp * 3 * 4);
    p->at_coef = take(&at, backward ? (int64_t)s->ocp * 3 * 4 : 0);
    p->at_stats = take(&at, (int64_t)s->n * 2 * (backward ? s->cp : s->ocp) * 8);
    p->at_part = take(&at, s->n_chunks * part);
    p->at_scratch = take(&at, p->threads * p->scratch.total * 4);
    k->ws_bytes = p->ws_bytes = at;
    k->run = backward ? dwpw_bwd_run : dwpw_run;
    return DASS_OK;
}

static dass_status prepare_fwd(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    return prepare(h, mem, g, n, k, false);
}

static dass_status prepare_bwd(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    return prepare(h, mem, g, n, k, true);
}

/* Outside: other types and layouts, strides above 4, and images whose planes do not fit 31 bits of floats. */
static bool fits(const dass_host *h, const dass_graph *g, dass_node n)
{
    (void)h;
    const dass_conv_attr *a = &g->nodes[n].attr.conv;
    const dass_value *x = dass__in(g, n, 0);
    const dass_value *w = dass__in(g, n, 6);
    const int64_t ch = (x->dim[1] > w->dim[0] ? x->dim[1] : w->dim[0]) + 16;
    const int64_t side_h = (int64_t)x->dim[2] + 2 * (int64_t)a->pad + (int64_t)a->dil * a->kh;
    const int64_t side_w = (int64_t)x->dim[3] + 2 * (int64_t)a->pad + (int64_t)a->dil * a->kw;
    if (x->dtype != DASS_F32 || x->layout != DASS_LAYOUT_NHWC || x->rank != 4) return false;
    if (a->stride < 1 || a->stride > DASS__DWPW_MAX_STRIDE || a->dil < 1 || a->pad < 0) return false;
    if (side_h > 1 << 20 || side_w > 1 << 20 || ch > 1 << 20) return false;
    return side_h * side_w <= INT32_MAX / ch;
}

/* ---- packing, once per run --------------------------------------------------------------------------------- */

/* (C,1,kh,kw) -> [cv][tap][lane] */
static void pack_dw(const dass__dwpw *s, const float *w, float *out)
{
    const int taps = s->kh * s->kw;
    for (int c = 0; c < s->cp; c++)
        for (int t = 0; t < taps; t++)
            out[((c / s->vl) * taps + t) * s->vl + c % s->vl] = c < s->c ? w[c * taps + t] : 0.0f;
}

/* Per pair of classes [cv][row taps][column taps][lane], taps in order of rising source position. */
static void pack_dw_t(const dass__dwpw *s, const float *w, float *out)
{
    for (int i = 0; i < s->stride; i++)
        for (int j = 0; j < s->stride; j++) {
            const dass__dwpw_class *rc = &s->row_class[i], *cc = &s->col_class[j];
            float *o = out + s->w_class[i][j];
            for (int b = 0; b < s->cv; b++)
                for (int r = 0; r < rc->n; r++)
                    for (int t = 0; t < cc->n; t++)
                        for (int l = 0; l < s->vl; l++) {
                            const int c = b * s->vl + l;
                            const int tap = (rc->first - r * s->tap_step) * s->kw + cc->first - t * s->tap_step;
                            *o++ = c < s->c ? w[c * s->kh * s->kw + tap] : 0.0f;
                        }
        }
}

/* Panels of two vectors of columns of a (rows, cols) matrix, element (r, c) at w[r r_step + c c_step]:
 * [panel][row, padded to whole vectors][column of the panel]. */
static void pack_panels(const float *w, int rows, int cols, int r_step, int c_step, int vl, float *out)
{
    const int rows_p = (rows + vl - 1) / vl * vl, cols_p = (cols + vl - 1) / vl * vl;
    for (int c0 = 0; c0 < cols_p; c0 += 2 * vl) {
        const int width = imin(2 * vl, cols_p - c0);
        for (int r = 0; r < rows_p; r++)
            for (int c = c0; c < c0 + width; c++) *out++ = r < rows && c < cols ? w[r * r_step + c * c_step] : 0.0f;
    }
}

/* u = scale x + shift of the input's batch norm; mean as given. Padded channels get zeros. */
static void pack_norm(const dass__dwpw *s, void *const *arg, float *scale)
{
    const float *mean = arg[1], *rstd = arg[2], *gamma = arg[3], *beta = arg[4];
    float *shift = scale + s->cp, *m = shift + s->cp;
    for (int c = 0; c < s->cp; c++) {
        const bool in = c < s->c;
        const double f = in ? (gamma ? (double)gamma[c] : 1.0) * (double)rstd[c] : 0.0;
        m[c] = in ? mean[c] : 0.0f;
        scale[c] = (float)f;
        shift[c] = in ? (float)((beta ? (double)beta[c] : 0.0) - (double)mean[c] * f) : 0.0f;
    }
}

static float *at_float(const dwpw_impl *p, size_t at) { return (float *)(void *)((char *)p->head.ws + at); }

static dass__dwpw_pack pack(const dwpw_impl *p)
{
    const dass__dwpw *s = &p->s;
    void *const *arg = p->head.arg;
    dass__dwpw_pack k = {0};
    k.w_dw = at_float(p, p->at_w_dw);
    pack_dw(s, arg[5], k.w_dw);
    if (arg[1]) {
        k.scale = at_float(p, p->at_scale);
        k.shift = k.scale + s->cp;
        k.mean = k.shift + s->cp;
        pack_norm(s, arg, k.scale);
    }
    if (!p->backward) {
        k.w_pw = at_float(p, p->at_w_pw);
        pack_panels(arg[6], s->c, s->oc, 1, s->c, s->vl, k.w_pw);
        return k;
    }
    k.w_dw_t = at_float(p, p->at_w_dw_t);
    pack_dw_t(s, arg[5], k.w_dw_t);
    k.w_pw_t = at_float(p, p->at_w_pw_t);
    pack_panels(arg[6], s->oc, s->c, s->c, 1, s->vl, k.w_pw_t);
    k.g_at = p->g_at;
    if (arg[9]) {
        const float *coef = arg[9];
        k.coef_a = at_float(p, p->at_coef);
        k.coef_b = k.coef_a + s->ocp;
        k.coef_c = k.coef_b + s->ocp;
        for (int c = 0; c < s->ocp; c++) {
            k.coef_a[c] = c < s->oc ? coef[c] : 0.0f;
            k.coef_b[c] = c < s->oc ? coef[s->oc + c] : 0.0f;
            k.coef_c[c] = c < s->oc ? coef[2 * s->oc + c] : 0.0f;
        }
    }
    return k;
}

static int share(int64_t n, int part, int parts) { return (int)(n * part / parts); }

/* ---- forward ----------------------------------------------------------------------------------------------- */

/* Chan's combination of the images' means and squared deviations, in index order. */
static void combine_stats(const dwpw_impl *p, float *mean, float *rstd)
{
    const dass__dwpw *s = &p->s;
    const double *st = (const double *)(const void *)((const char *)p->head.ws + p->at_stats);
    const double each = (double)s->oh * (double)s->ow;
    for (int c = 0; c < s->oc; c++) {
        double m = 0.0, m2 = 0.0, count = 0.0;
        for (int i = 0; i < s->n; i++) {
            const double *im = st + (int64_t)i * 2 * s->ocp;
            const double d = im[c] - m;
            const double total = count + each;
            m += d * each / total;
            m2 += im[s->ocp + c] + d * d * count * each / total;
            count = total;
        }
        const double var = m2 > 0.0 ? m2 / count : m2 / count * (m2 < 0.0 ? 0.0 : 1.0); /* NaN stays */
        if (mean) mean[c] = (float)m;
        if (rstd) rstd[c] = (float)(1.0 / sqrt(var + p->eps));
    }
}

static dass_status dwpw_run(dass_backend *be, void *impl)
{
    (void)be;
    const dwpw_impl *p = impl;
    const dass__dwpw *s = &p->s;
    void *const *arg = p->head.arg;
    const dass__dwpw_pack k = pack(p);
    const dass__dwpw_fwd a = {arg[0], arg[7], (double *)(void *)((char *)p->head.ws + p->at_stats)};
#pragma omp parallel num_threads(p->threads)
    {
        const int t = omp_get_thread_num(), nt = omp_get_num_threads();
        float *scratch = at_float(p, p->at_scratch) + t * p->scratch.total;
        memset(scratch, 0, (size_t)p->scratch.total * sizeof *scratch);
        for (int i = share(s->n, t, nt); i < share(s->n, t + 1, nt); i++) p->vec->dwpw_fwd(s, &k, &a, i, scratch);
    }
    if (arg[8] || arg[9]) combine_stats(p, arg[8], arg[9]);
    return DASS_OK;
}

/* ---- backward ---------------------------------------------------------------------------------------------- */

/* Channels [c0, c1) of d_gamma, d_beta and in_coef from the images' sums of q and q (x - mean). */
static void combine_sums(const dwpw_impl *p, int c0, int c1)
{
    const dass__dwpw *s = &p->s;
    void *const *arg = p->head.arg;
    const float *mean = arg[1], *rstd = arg[2], *gamma = arg[3];
    float *coef = arg[12], *d_gamma = arg[13], *d_beta = arg[14];
    const double *sums = (const double *)(const void *)((const char *)p->head.ws + p->at_stats);
    const double m = (double)s->n * (double)s->h * (double)s->w;
    for (int c = c0; c < c1; c++) {
        double s1 = 0.0, s2 = 0.0;
        for (int i = 0; i < s->n; i++) {
            s1 += sums[(int64_t)i * 2 * s->cp + c];
            s2 += sums[(int64_t)i * 2 * s->cp + s->cp + c];
        }
        const double r = (double)rstd[c];
        const double dg = s2 * r;
        const double fa = (gamma ? (double)gamma[c] : 1.0) * r;
        const double fb = -fa * r * dg / m;
        if (d_gamma) d_gamma[c] = (float)dg;
        if (d_beta) d_beta[c] = (float)s1;
        if (coef) {
            coef[c] = (float)fa;
            coef[s->c + c] = (float)fb;
            coef[2 * s->c + c] = (float)(-fa * s1 / m - fb * (double)mean[c]);
        }
    }
}

/* Share t of nt of the weight gradients: partials added in index order. */
static void combine_weights(const dwpw_impl *p, int t, int nt)
{
    const dass__dwpw *s = &p->s;
    float *d_wdw = p->head.arg[15], *d_wpw = p->head.arg[16];
    const float *part = at_float(p, p->at_part);
    const int64_t stride = p->part_dw + p->part_pw;
    const int taps = s->kh * s->kw;
    for (int c = share(s->c, t, nt); d_wdw && c < share(s->c, t + 1, nt); c++)
        for (int tap = 0; tap < taps; tap++) {
            const int64_t at = ((int64_t)(c / s->vl) * taps + tap) * s->vl + c % s->vl;
            double sum = 0.0;
            for (int i = 0; i < s->n_chunks; i++) sum += (double)part[i * stride + at];
            d_wdw[c * taps + tap] = (float)sum;
        }
    for (int o = share(s->oc, t, nt); d_wpw && o < share(s->oc, t + 1, nt); o++)
        for (int c = 0; c < s->c; c++) {
            const int64_t at = p->part_dw + (int64_t)o * s->cp + c;
            double sum = 0.0;
            for (int i = 0; i < s->n_chunks; i++) sum += (double)part[i * stride + at];
            d_wpw[o * s->c + c] = (float)sum;
        }
}

static dass_status dwpw_bwd_run(dass_backend *be, void *impl)
{
    (void)be;
    const dwpw_impl *p = impl;
    const dass__dwpw *s = &p->s;
    void *const *arg = p->head.arg;
    const dass__dwpw_pack k = pack(p);
    const bool bn = arg[1] != NULL;
    const bool sums = bn && (arg[12] || arg[13] || arg[14]);
    const dass__dwpw_bwd a = {.x = arg[0], .y = arg[7], .d = arg[8], .acc = bn ? NULL : arg[10], .d_x = arg[11],
                              .sums = sums ? (double *)(void *)((char *)p->head.ws + p->at_stats) : NULL,
                              .want_q = arg[11] != NULL || sums,
                              .want_dw = arg[15] != NULL,
                              .want_pw = arg[16] != NULL};
#pragma omp parallel num_threads(p->threads)
    {
        const int t = omp_get_thread_num(), nt = omp_get_num_threads();
        float *scratch = at_float(p, p->at_scratch) + t * p->scratch.total;
        memset(scratch, 0, (size_t)p->scratch.total * sizeof *scratch);
        for (int i = share(s->n_chunks, t, nt); i < share(s->n_chunks, t + 1, nt); i++) {
            float *part = at_float(p, p->at_part) + i * (p->part_dw + p->part_pw);
            if (a.want_dw) memset(part, 0, (size_t)p->part_dw * sizeof *part);
            if (a.want_pw) memset(part + p->part_dw, 0, (size_t)p->part_pw * sizeof *part);
            for (int j = share(s->n, i, s->n_chunks); j < share(s->n, i + 1, s->n_chunks); j++)
                p->vec->dwpw_bwd(s, &k, &a, j, scratch, part, part + p->part_dw);
        }
#pragma omp barrier
        if (sums) combine_sums(p, share(s->c, t, nt), share(s->c, t + 1, nt));
        combine_weights(p, t, nt);
    }
    return DASS_OK;
}

const dass__row dass__rows_dwpw[] = {
    {DASS_OP_DWPW, "dwpw", fits, prepare_fwd, NULL, NULL},
    {DASS_OP_DWPW_BWD, "dwpw_bwd", fits, prepare_bwd, NULL, NULL},
    {DASS_OP_NONE, NULL, NULL, NULL, NULL, NULL},
};
