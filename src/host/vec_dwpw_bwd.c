/* Gradient of the fused separable half, one image per call: the gradient e of y a block at a time, from it the
 * pointwise weights' gradient (with z computed again) and dz in padded planes; then, over the whole image, the
 * depthwise weights' gradient and the input's. What is not wanted is not computed. Invariant: each image is computed
 * the same way whatever thread runs it, and sums over images are the caller's.
 */
#include "vec_dwpw_rows.h"

#define X(ret, name, args) ret DASS_VEC(name) args;
DASS__VEC_DWPW(X)
#undef X

/* ---- backward: gradient of y, pointwise weights, gradient of z ---------------------------------------------- */

/* e of the block's n pixels, [pixel][ocp]: d, or A d + B y + C0. Two vectors at a time, as load_rows. */
static void load_e(const dass__dwpw *s, const dass__dwpw_pack *k, const float *d, const float *y, float *e, int n)
{
    const ptrdiff_t oc = s->oc, ocp = s->ocp;
    int b = 0;
    for (; (b + 2) * VL <= s->oc; b += 2) {
        const float *dp = d + b * VL, *yp = k->coef_a ? y + b * VL : NULL;
        float *ep = e + b * VL;
        if (!yp) {
            for (int p = 0; p < n; p++, dp += oc, ep += ocp) {
                ASTORE(ep, VLOAD(dp));
                ASTORE(ep + VL, VLOAD(dp + VL));
            }
            continue;
        }
        const float *ca = k->coef_a + b * VL, *cb = k->coef_b + b * VL, *cc = k->coef_c + b * VL;
        const vf a0 = ALOAD(ca), b0 = ALOAD(cb), c0 = ALOAD(cc);
        const vf a1 = ALOAD(ca + VL), b1 = ALOAD(cb + VL), c1 = ALOAD(cc + VL);
        for (int p = 0; p < n; p++, dp += oc, yp += oc, ep += ocp) {
            ASTORE(ep, VLOAD(dp) * a0 + (VLOAD(yp) * b0 + c0));
            ASTORE(ep + VL, VLOAD(dp + VL) * a1 + (VLOAD(yp + VL) * b1 + c1));
        }
    }
    for (; b < s->ocv; b++) {
        const int lanes = s->oc - b * VL, at = b * VL;
        for (int p = 0; p < n; p++) {
            vf t = load_lanes(d + p * oc + at, lanes, at);
            if (k->coef_a)
                t = t * ALOAD(k->coef_a + at) +
                    (load_lanes(y + p * oc + at, lanes, at) * ALOAD(k->coef_b + at) + ALOAD(k->coef_c + at));
            ASTORE(e + p * ocp + at, t);
        }
    }
}

#define WP2(i, x0, x1) if (i < mr) { const float b = e[i]; t.x0 += b * z0; t.x1 += b * z1; }
#define WP2_END(i, x0, x1)                                                             \
    if (i < mr) {                                                                      \
        ASTORE(out + i * ldo, ALOAD(out + i * ldo) + t.x0);                            \
        ASTORE(out + i * ldo + VL, ALOAD(out + i * ldo + VL) + t.x1);                  \
    }
#define WP2_ALL(X) X(0, a0, a1) X(1, a2, a3) X(2, a4, a5) X(3, a6, a7) X(4, a8, a9) X(5, a10, a11)
/* mr output channels by two vectors of input channels: out += sum over n pixels of e[pixel][oc] z[pixel][c]. */
INLINE void wp_tile_2(const float *e, ptrdiff_t lde, const float *z, ptrdiff_t ldz, int n, float *out, ptrdiff_t ldo,
                      const int mr)
{
    tile12 t = {{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}};
    for (int p = 0; p < n; p++) {
        const vf z0 = ALOAD(z), z1 = ALOAD(z + VL);
        WP2_ALL(WP2)
        e += lde;
        z += ldz;
    }
    WP2_ALL(WP2_END)
}

#define WP1(i) if (i < mr) t.a##i += e[i] * z0;
#define WP1_END(i) if (i < mr) ASTORE(out + i * ldo, ALOAD(out + i * ldo) + t.a##i);
INLINE void wp_tile_1(const float *e, ptrdiff_t lde, const float *z, ptrdiff_t ldz, int n, float *out, ptrdiff_t ldo,
                      const int mr)
{
    tile8 t = {{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}};
    for (int p = 0; p < n; p++) {
        const vf z0 = ALOAD(z);
        EACH8(WP1)
        e += lde;
        z += ldz;
    }
    EACH8(WP1_END)
}

/* d_wpw [ocp][cp] += e^T z over the block. ocp is a multiple of four. */
static void wp_block(const dass__dwpw *s, const float *e, const float *z, int n, float *p_pw)
{
    const ptrdiff_t lde = s->ocp, ldz = s->cp;
    for (int b = 0; b < s->cv; b += 2) {
        const bool pair = b + 1 < s->cv;
        const float *zb = z + b * VL;
        for (int o = 0; o < s->ocp;) {
            const int left = s->ocp - o;
            float *out = p_pw + o * ldz + b * VL;
            if (pair && left >= 6 && left != 8) {
                wp_tile_2(e + o, lde, zb, ldz, n, out, ldz, 6);
                o += 6;
            } else if (pair && left >= 4) {
                wp_tile_2(e + o, lde, zb, ldz, n, out, ldz, 4);
                o += 4;
            } else if (pair) {
                wp_tile_2(e + o, lde, zb, ldz, n, out, ldz, 2);
                o += 2;
            } else if (left >= 8) {
                wp_tile_1(e + o, lde, zb, ldz, n, out, ldz, 8);
                o += 8;
            } else {
                wp_tile_1(e + o, lde, zb, ldz, n, out, ldz, 4);
                o += 4;
            }
        }
    }
}

/* One panel of two vectors of input channels, and of one, into planes g_plane floats apart. */
static __attribute__((noinline)) void dz_panel_2(const float *e, ptrdiff_t lde, const float *w, int kk, float *g0,
                                                 float *g1, const int32_t *at, int n, fetch_ahead *next)
{
    float buf[12 * VL] __attribute__((aligned(64)));
    for (int p = 0; p < n; p += 6, e += 6 * lde, at += 6) {
        fetch_some(next);
        const tile12 t = mm_6x2(e, lde, w, kk);
        if (n - p < 6) {
            tile_dump(buf, t);
            for (int i = 0; i < n - p; i++) {
                ASTORE(g0 + at[i], ALOAD(buf + i * 2 * VL));
                ASTORE(g1 + at[i], ALOAD(buf + (i * 2 + 1) * VL));
            }
            return;
        }
#define STEP(i, x0, x1) ASTORE(g0 + at[i], t.x0); ASTORE(g1 + at[i], t.x1);
        STEP(0, a0, a1) STEP(1, a2, a3) STEP(2, a4, a5) STEP(3, a6, a7) STEP(4, a8, a9) STEP(5, a10, a11)
#undef STEP
    }
}

static __attribute__((noinline)) void dz_panel_1(const float *e, ptrdiff_t lde, const float *w, int kk, float *g,
                                                 const int32_t *at, int n)
{
    float buf[12 * VL] __attribute__((aligned(64)));
    for (int p = 0; p < n; p += 12, e += 12 * lde, at += 12) {
        const tile12 t = mm_12x1(e, lde, w, kk);
        if (n - p < 12) {
            tile_dump(buf, t);
            for (int i = 0; i < n - p; i++) ASTORE(g + at[i], ALOAD(buf + i * VL));
            return;
        }
#define STEP(i) ASTORE(g + at[i], t.a##i);
        EACH8(STEP) STEP(8) STEP(9) STEP(10) STEP(11)
#undef STEP
    }
}

/* dz = e W of the block's n pixels into the g planes; g: place of the block's first pixel in the first plane. */
static void dz_block(const dass__dwpw *s, const dass__dwpw_pack *k, const float *e, float *g, int n, fetch_ahead *next)
{
    const float *w = k->w_pw_t;
    int b = 0;
    for (; b + 2 <= s->cv; b += 2) {
        float *const g0 = g + b * s->g_plane;
        dz_panel_2(e, s->ocp, w, s->ocp, g0, g0 + s->g_plane, k->g_at, n, next);
        w += (ptrdiff_t)s->ocp * 2 * VL;
    }
    if (b < s->cv) dz_panel_1(e, s->ocp, w, s->ocp, g + b * s->g_plane, k->g_at, n);
}

/* ---- backward: depthwise weights ---------------------------------------------------------------------------- */

#define WD_T(r, t, o, j) if (t < ks && (j) == (o)*st + (t)*d) a##r##t += g##o * x;
#define WD_TO(r, t, j) WD_T(r, t, 0, j) WD_T(r, t, 1, j) WD_T(r, t, 2, j) WD_T(r, t, 3, j)
#define WD_J(r, j)                                                                     \
    if (r < nr && (j) <= 3 * st + (ks - 1) * d) {                                      \
        const vf x = ALOAD(p##r + (j)*VL);                                             \
        WD_TO(r, 0, j) WD_TO(r, 1, j) WD_TO(r, 2, j) WD_TO(r, 3, j) WD_TO(r, 4, j)     \
    }
#define WD_ROW(r)                                                                      \
    WD_J(r, 0) WD_J(r, 1) WD_J(r, 2) WD_J(r, 3) WD_J(r, 4) WD_J(r, 5) WD_J(r, 6) WD_J(r, 7) WD_J(r, 8) \
    WD_J(r, 9) WD_J(r, 10) WD_J(r, 11) WD_J(r, 12) WD_J(r, 13) WD_J(r, 14)
#define WD_ALL(X, r) X(r, 0) X(r, 1) X(r, 2) X(r, 3) X(r, 4)
#define WD_ZERO(r, t) vf a##r##t = {0};
#define WD_END(r, t) if (r < nr && t < ks) ASTORE(out + (r * ks + t) * VL, ALOAD(out + (r * ks + t) * VL) + a##r##t);

/* out [nr][ks] += sum over `rows` rows and ow pixels (rounded up to four: g is zero there) of g[pixel] v[pixel + tap],
 * for nr tap rows at once, so that there are enough independent sums. */
INLINE void wd_taps(const float *g, ptrdiff_t g_step, const float *v, ptrdiff_t v_step, ptrdiff_t tap_row, int rows,
                    int ow, float *out, const int nr, const int ks, const int d, const int st)
{
    WD_ALL(WD_ZERO, 0) WD_ALL(WD_ZERO, 1) WD_ALL(WD_ZERO, 2)
    for (int h = 0; h < rows; h++) {
        const float *gp = g + h * g_step;
        const float *p0 = v + h * v_step;
        for (int q = 0; q < ow; q += 4) {
            const float *p1 = p0 + tap_row, *p2 = p1 + tap_row;
            const vf g0 = ALOAD(gp), g1 = ALOAD(gp + VL), g2 = ALOAD(gp + 2 * VL), g3 = ALOAD(gp + 3 * VL);
            WD_ROW(0) WD_ROW(1) WD_ROW(2)
            if (nr == 3) PIN(IN_REG(a00), IN_REG(a01), IN_REG(a02), IN_REG(a10), IN_REG(a11), IN_REG(a12), IN_REG(a20),
                             IN_REG(a21), IN_REG(a22));
            if (nr < 3) PIN(IN_REG(a00), IN_REG(a01), IN_REG(a02), IN_REG(a03), IN_REG(a04), IN_REG(a10), IN_REG(a11),
                            IN_REG(a12), IN_REG(a13), IN_REG(a14));
            gp += 4 * VL;
            p0 += 4 * st * VL;
        }
    }
    WD_ALL(WD_END, 0) WD_ALL(WD_END, 1) WD_ALL(WD_END, 2)
}

/* All taps of one vector of channels over `rows` rows of output. */
typedef void wd_fn(const dass__dwpw *s, const float *g, const float *v, int rows, float *out);
#define WD_FN(ks, d, st, most)                                                                                \
    static void wd_##ks##_##d##_##st(const dass__dwpw *s, const float *g, const float *v, int rows, float *out) \
    {                                                                                                         \
        const ptrdiff_t g_step = (ptrdiff_t)s->g_w * VL, tap_row = (ptrdiff_t)s->v_w * d * VL;                \
        const ptrdiff_t v_step = (ptrdiff_t)s->v_w * st * VL;                                                 \
        int r = 0;                                                                                            \
        for (; r + most <= s->kh; r += most)                                                                  \
            wd_taps(g, g_step, v + r * tap_row, v_step, tap_row, rows, s->ow, out + r * ks * VL, most, ks, d, st); \
        for (; r < s->kh; r++)                                                                                \
            wd_taps(g, g_step, v + r * tap_row, v_step, tap_row, rows, s->ow, out + r * ks * VL, 1, ks, d, st); \
    }
WD_FN(3, 1, 1, 3)
WD_FN(5, 1, 1, 2)
WD_FN(3, 2, 1, 3)
WD_FN(5, 2, 1, 2)
WD_FN(3, 1, 2, 3)
WD_FN(5, 1, 2, 2)
WD_FN(3, 2, 2, 3)
WD_FN(5, 2, 2, 2)
static void wd_any(const dass__dwpw *s, const float *g, const float *v, int rows, float *out)
{
    const ptrdiff_t st = (ptrdiff_t)s->stride * VL;
    for (int r = 0; r < s->kh; r++)
        for (int t = 0; t < s->kw; t++) {
            vf a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0};
            for (int h = 0; h < rows; h++) {
                const float *gp = g + (ptrdiff_t)h * s->g_w * VL;
                const float *p = v + ((ptrdiff_t)(h * s->stride + r * s->dil) * s->v_w + t * s->dil) * VL;
                for (int q = 0; q < s->ow; q += 4) {
                    a0 += ALOAD(gp) * ALOAD(p);
                    a1 += ALOAD(gp + VL) * ALOAD(p + st);
                    a2 += ALOAD(gp + 2 * VL) * ALOAD(p + 2 * st);
                    a3 += ALOAD(gp + 3 * VL) * ALOAD(p + 3 * st);
                    gp += 4 * VL;
                    p += 4 * st;
                }
            }
            ASTORE(out, ALOAD(out) + ((a0 + a1) + (a2 + a3)));
            out += VL;
        }
}

static void wd_image(const dass__dwpw *s, const float *g, const float *v, float *p_dw)
{
    static wd_fn *const table[9] = {wd_3_1_1, wd_5_1_1, wd_3_2_1, wd_5_2_1, wd_3_1_2,
                                    wd_5_1_2, wd_3_2_2, wd_5_2_2, wd_any};
    wd_fn *const taps = table[shape_index(s->kw, s->dil, s->stride)];
    for (int h0 = 0; h0 < s->oh; h0 += s->rows) {
        const int rows = s->oh - h0 < s->rows ? s->oh - h0 : s->rows;
        for (int b = 0; b < s->cv; b++)
            taps(s, g + b * s->g_plane + ((ptrdiff_t)(h0 + s->g_top) * s->g_w + s->g_left) * VL,
                 v + b * s->v_plane + (ptrdiff_t)h0 * s->stride * s->v_w * VL, rows,
                 p_dw + (ptrdiff_t)b * s->kh * s->kw * VL);
    }
}

/* ---- backward: gradient of the input ------------------------------------------------------------------------ */

/* Rows of one class of rows and columns of one vector of channels. */
typedef struct dx_job {
    const float *src, *w; /* first source row and column; taps [kr][ks][lane] */
    ptrdiff_t row_step;   /* floats between source rows of neighbouring taps */
    int kr, ks, d;
    int n, rows;          /* outputs of a row; rows */
    int lanes, before;    /* valid lanes; channels in front of them */
    ptrdiff_t ahead;      /* floats to what the next block writes; 0 where a neighbour asks for it */
    ptrdiff_t step;       /* floats between neighbouring outputs */
    ptrdiff_t src_row, out_row; /* floats between neighbouring rows */
    const float *x, *acc;
    float *d_x;
    float *s1, *s2;       /* sum q, sum q (x - mean); NULL without batch norm */
    vf scale, shift, mean;
    vi pass;              /* all ones where there is no relu */
} dx_job;

/* q of up to eight outputs where a tile is not whole. */
static __attribute__((noinline)) void dx_ragged(const dx_job *j, const tile8 *t, ptrdiff_t at, int n)
{
    float b[8 * VL] __attribute__((aligned(64)));
#define STEP(i) ASTORE(b + i * VL, t->a##i);
    EACH8(STEP)
#undef STEP
    for (int i = 0; i < n; i++, at += j->step) {
        const int lanes = j->lanes < VL ? j->lanes : VL;
        const vf x = load_lanes(j->x + at, lanes, j->before);
        const vf zero = {0};
        vf q = ALOAD(b + i * VL);
        const vf u = j->s1 ? x * j->scale + j->shift : x;
        q = (vf)((vi)q & ((vi)(u > zero) | j->pass));
        if (j->s1) {
            ASTORE(j->s1, ALOAD(j->s1) + q);
            ASTORE(j->s2, ALOAD(j->s2) + q * (x - j->mean));
        } else if (j->acc) {
            q += load_lanes(j->acc + at, lanes, j->before);
        }
        if (j->d_x) store_lanes(j->d_x + at, q, lanes);
    }
}

/* What happens to q: stored; added to acc and stored; stored and summed; any of these on any lanes, by dx_ragged. */
enum { DX_STORE, DX_ADD, DX_SUM, DX_RAGGED };

#define DX_STORE_1(i)                                                                  \
    {                                                                                  \
        const vf x = VLOAD(xp + i * step);                                             \
        VSTORE(dp + i * step, (vf)((vi)t.a##i & ((vi)(x > zero) | pass)));             \
    }
#define DX_ADD_1(i)                                                                    \
    {                                                                                  \
        const vf x = VLOAD(xp + i * step);                                             \
        VSTORE(dp + i * step, (vf)((vi)t.a##i & ((vi)(x > zero) | pass)) + VLOAD(ap + i * step)); \
        FETCH(ap + i * step, ahead);                                                   \
    }
#define DX_SUM_1(i, s1, s2)                                                            \
    {                                                                                  \
        const vf x = VLOAD(xp + i * step);                                             \
        const vf q = (vf)((vi)t.a##i & ((vi)(x * scale + shift > zero) | pass));       \
        s1 += q;                                                                       \
        s2 += q * (x - mean);                                                          \
        VSTORE(dp + i * step, q);                                                      \
        FETCH_W(dp + i * step, ahead);                                                 \
    }

/* The rows of a job for kernels of ks columns d apart (0: any). What the loops use is copied out of the job first:
 * the stores of activations could otherwise change it. */
INLINE void dx_job_run(const dx_job *j, const int ks, const int d, const int mode)
{
    const ptrdiff_t step = j->step, ahead = j->ahead, row_step = j->row_step;
    const int n = j->n, rows = j->rows, kr = j->kr;
    const vf zero = {0}, scale = j->scale, shift = j->shift, mean = j->mean;
    const vi pass = j->pass;
    const float *const w = j->w;
    vf s1 = {0}, s2 = {0};
    for (int r = 0; r < rows; r++) {
        const float *src = j->src + r * j->src_row;
        ptrdiff_t at = r * j->out_row;
        for (int o = 0; o < n; o += 8, src += 8 * VL, at += 8 * step) {
            const tile8 t = ks ? dw_tile(src, row_step, w, kr, ks, d, 1)
                               : dw_tile_any(src, row_step, w, kr, j->ks, j->d, 1);
            const float *xp = j->x + at, *ap = mode == DX_ADD ? j->acc + at : NULL;
            float *dp = mode == DX_RAGGED ? NULL : j->d_x + at;
            if (mode == DX_RAGGED || n - o < 8) {
                const tile8 copy = t; /* so that t itself stays in registers */
                dx_ragged(j, &copy, at, n - o < 8 ? n - o : 8);
            } else if (mode == DX_SUM) {
                vf p1 = {0}, q1 = {0}, p2 = {0}, q2 = {0};
                DX_SUM_1(0, p1, p2) DX_SUM_1(1, q1, q2) DX_SUM_1(2, p1, p2) DX_SUM_1(3, q1, q2)
                DX_SUM_1(4, p1, p2) DX_SUM_1(5, q1, q2) DX_SUM_1(6, p1, p2) DX_SUM_1(7, q1, q2)
                s1 += p1 + q1;
                s2 += p2 + q2;
            } else if (mode == DX_ADD) {
                EACH8(DX_ADD_1)
            } else {
                EACH8(DX_STORE_1)
            }
        }
    }
    if (mode == DX_SUM) {
        ASTORE(j->s1, ALOAD(j->s1) + s1);
        ASTORE(j->s2, ALOAD(j->s2) + s2);
    }
}

typedef void dx_fn(const dx_job *j);
#define DX_FN(ks, d)                                                                   \
    static void dx_store_##ks##_##d(const dx_job *j) { dx_job_run(j, ks, d, DX_STORE); } \
    static void dx_add_##ks##_##d(const dx_job *j) { dx_job_run(j, ks, d, DX_ADD); }   \
    static void dx_sum_##ks##_##d(const dx_job *j) { dx_job_run(j, ks, d, DX_SUM); }
DX_FN(1, 1)
DX_FN(2, 1)
DX_FN(3, 1)
DX_FN(5, 1)
DX_FN(3, 2)
DX_FN(5, 2)
DX_FN(0, 1)
static void dx_ragged_0_1(const dx_job *j) { dx_job_run(j, 0, 1, DX_RAGGED); }

static dx_fn *dx_pick(const dx_job *j)
{
    static dx_fn *const table[7][3] = {
        {dx_store_0_1, dx_add_0_1, dx_sum_0_1}, {dx_store_1_1, dx_add_1_1, dx_sum_1_1},
        {dx_store_2_1, dx_add_2_1, dx_sum_2_1}, {dx_store_3_1, dx_add_3_1, dx_sum_3_1},
        {dx_store_5_1, dx_add_5_1, dx_sum_5_1}, {dx_store_3_2, dx_add_3_2, dx_sum_3_2},
        {dx_store_5_2, dx_add_5_2, dx_sum_5_2}};
    const int mode = j->s1 ? DX_SUM : j->acc ? DX_ADD : DX_STORE;
    if (j->lanes < VL || !j->d_x) return dx_ragged_0_1;
    if (j->ks == 1) return table[1][mode];
    if (j->d == 1) return table[j->ks == 2 ? 2 : j->ks == 3 ? 3 : j->ks == 5 ? 4 : 0][mode];
    if (j->d == 2) return table[j->ks == 3 ? 5 : j->ks == 5 ? 6 : 0][mode];
    return table[0][mode];
}

/* Gradient of input rows [h0, h1) of row class ri, h0 the first of them. sum: s1 (cp), s2 (cp) so far. */
static void dx_rows(const dass__dwpw *s, const dass__dwpw_pack *k, const dass__dwpw_bwd *a, const float *g,
                    int64_t image_at, int h0, int h1, float *sum)
{
    const dass__dwpw_class *rc = &s->row_class[h0 % s->stride];
    const int64_t row_at = image_at + (int64_t)h0 * s->w * s->c;
    for (int b = 0; b < s->cv; b++) {
        for (int ci = 0; ci < s->stride && ci < s->w; ci++) {
            const dass__dwpw_class *cc = &s->col_class[ci];
            const int64_t at = row_at + (int64_t)ci * s->c + b * VL;
            dx_job j = {.kr = cc->n ? rc->n : 0, .ks = cc->n, .d = s->src_dil, .lanes = s->c - b * VL, .before = b * VL,
                        .n = (s->w - ci + s->stride - 1) / s->stride, .step = (ptrdiff_t)s->stride * s->c,
                        .rows = (h1 - h0 + s->stride - 1) / s->stride, .row_step = (ptrdiff_t)s->src_dil * s->g_w * VL,
                        .src_row = (ptrdiff_t)s->g_w * VL, .out_row = (ptrdiff_t)s->stride * s->w * s->c};
            j.src = g + b * s->g_plane;
            if (j.kr)
                j.src += ((ptrdiff_t)(h0 / s->stride + rc->off + s->g_top) * s->g_w + cc->off + s->g_left) * VL;
            else
                j.src_row = 0;
            j.w = k->w_dw_t + s->w_class[h0 % s->stride][ci] + (ptrdiff_t)b * rc->n * cc->n * VL;
            j.ahead = b % 2 == 0 ? (ptrdiff_t)(h1 - h0) * s->w * s->c : 0;
            j.x = a->x + at;
            j.acc = a->acc ? a->acc + at : NULL;
            j.d_x = a->d_x ? a->d_x + at : NULL;
            j.pass = s->relu ? (vi){0} : ~(vi){0};
            if (k->scale) {
                j.s1 = sum + b * VL;
                j.s2 = sum + s->cp + b * VL;
                j.scale = ALOAD(k->scale + b * VL);
                j.shift = ALOAD(k->shift + b * VL);
                j.mean = ALOAD(k->mean + b * VL);
            }
            dx_pick(&j)(&j);
        }
    }
}

void DASS_VEC(dwpw_bwd)(const dass__dwpw *s, const dass__dwpw_pack *k, const dass__dwpw_bwd *a, int64_t img,
                        float *scratch, float *p_dw, float *p_pw)
{
    const dass__dwpw_scratch l = dass__dwpw_layout(s, 1);
    float *const v = scratch + l.v, *const g = scratch + l.g, *const z = scratch + l.z, *const e = scratch + l.e;
    float *const sum = scratch + l.sum;
    const int64_t x_at = img * s->h * s->w * s->c, y_at = img * s->oh * s->ow * s->oc;
    int loaded = 0;
    for (int h0 = 0; h0 < s->oh; h0 += s->rows) {
        const int h1 = h0 + s->rows < s->oh ? h0 + s->rows : s->oh;
        const int n = (h1 - h0) * s->ow;
        const int64_t at = y_at + (int64_t)h0 * s->ow * s->oc;
        const int tiles = (n + 5) / 6 * (s->cv > 1 ? s->cv / 2 : 1);
        const ptrdiff_t out = (ptrdiff_t)n * s->oc;
        const ptrdiff_t in = (ptrdiff_t)(h1 - h0) * s->stride * s->w * s->c;
        fetch_ahead next;
        load_e(s, k, a->d + at, k->coef_a ? a->y + at : NULL, e, n);
        fetch_plan(&next, 0, a->d + at, out, out, tiles);
        fetch_plan(&next, 1, k->coef_a ? a->y + at : NULL, out, out, tiles);
        /* without weights, x is first read by the input's gradient, after this loop: rows of this block then */
        const int x_row = a->want_dw || a->want_pw ? rows_needed(s, h1) : h0 * s->stride;
        fetch_plan(&next, 2, a->x + x_at, (ptrdiff_t)x_row * s->w * s->c, in, tiles);
        if (a->want_dw || a->want_pw) {
            const int need = rows_needed(s, h1);
            load_rows(s, k, a->x + x_at, v, loaded, need);
            loaded = need;
        }
        if (a->want_pw) {
            z_rows(s, k, v, z, h0, h1);
            wp_block(s, e, z, n, p_pw);
        }
        if (a->want_q || a->want_dw)
            dz_block(s, k, e, g + ((ptrdiff_t)(h0 + s->g_top) * s->g_w + s->g_left) * VL, n, &next);
    }
    if (a->want_dw) wd_image(s, g, v, p_dw);
    if (!a->want_q) return;
    double *const sums = a->sums ? a->sums + img * 2 * s->cp : NULL;
    if (sums) memset(sums, 0, 2 * (size_t)s->cp * sizeof *sums);
    const int rows = s->dx_rows;
    for (int h0 = 0; h0 < s->h; h0 += rows) {
        const int h1 = h0 + rows < s->h ? h0 + rows : s->h;
        memset(sum, 0, 2 * (size_t)s->cp * sizeof *sum);
        for (int i = 0; i < s->stride && h0 + i < h1; i++) dx_rows(s, k, a, g, x_at, h0 + i, h1, sum);
        if (sums) add_to_double(sums, sum, 2 * s->cp);
    }
}
