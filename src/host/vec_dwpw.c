/* Fused relu, depthwise, pointwise convolution and batch statistics, one image per call.
 *
 * Everything of one image stays in the second-level cache: the input goes into scratch planes with a zero border (one
 * vector of channels each, so that a depthwise tap is a constant displacement), a block of rows of the depthwise
 * result goes into scratch pixel by pixel, and the pointwise product is taken from there. Invariant: each image is
 * computed the same way whatever thread runs it. The gradient is in vec_dwpw_bwd.c.
 */
#include "vec_dwpw_rows.h"

#define X(ret, name, args) ret DASS_VEC(name) args;
DASS__VEC_DWPW(X)
#undef X

/* Sums of (y - K) and its square over the block so far; sum: K (ocp), s1 (ocp), s2 (ocp), at one vector. */
INLINE void stat6(float *sum, ptrdiff_t ocp, vf a, vf b, vf c, vf d, vf e, vf f)
{
    const vf shift = ALOAD(sum);
    a -= shift;
    b -= shift;
    c -= shift;
    d -= shift;
    e -= shift;
    f -= shift;
    ASTORE(sum + ocp, ALOAD(sum + ocp) + (((a + b) + (c + d)) + (e + f)));
    vf q = a * a, r = b * b;
    q += c * c;
    r += d * d;
    q += e * e;
    r += f * f;
    ASTORE(sum + 2 * ocp, ALOAD(sum + 2 * ocp) + (q + r));
}

/* n pixels of one panel where a whole tile does not fit: few pixels or few channels. b: tile_dump of nv vectors. */
static void y_ragged(const float *b, int nv, float *y, ptrdiff_t oc, int n, int channels, float *sum, ptrdiff_t ocp)
{
    for (int p = 0; p < n; p++)
        for (int i = 0; i < nv; i++) {
            const vf v = ALOAD(b + (p * nv + i) * VL);
            const vf dev = v - ALOAD(sum + i * VL);
            store_lanes(y + p * oc + i * VL, v, channels - i * VL);
            ASTORE(sum + ocp + i * VL, ALOAD(sum + ocp + i * VL) + dev);
            ASTORE(sum + 2 * ocp + i * VL, ALOAD(sum + 2 * ocp + i * VL) + dev * dev);
        }
}

/* One panel of two whole vectors of output channels; and of one. */
static __attribute__((noinline)) void y_panel_2(const float *z, ptrdiff_t ldz, const float *w, int kk, float *y,
                                                ptrdiff_t oc, int n, float *sum, ptrdiff_t ocp, fetch_ahead *next)
{
    float buf[12 * VL] __attribute__((aligned(64)));
    for (int p = 0; p < n; p += 6, z += 6 * ldz, y += 6 * oc) {
        fetch_some(next);
        const tile12 t = mm_6x2(z, ldz, w, kk);
        if (n - p < 6) {
            tile_dump(buf, t);
            y_ragged(buf, 2, y, oc, n - p, 2 * VL, sum, ocp);
            return;
        }
#define STEP(i, x0, x1) VSTORE(y + i * oc, t.x0); VSTORE(y + i * oc + VL, t.x1); FETCH_W(y + i * oc, n * oc);
        STEP(0, a0, a1) STEP(1, a2, a3) STEP(2, a4, a5) STEP(3, a6, a7) STEP(4, a8, a9) STEP(5, a10, a11)
#undef STEP
        stat6(sum, ocp, t.a0, t.a2, t.a4, t.a6, t.a8, t.a10);
        stat6(sum + VL, ocp, t.a1, t.a3, t.a5, t.a7, t.a9, t.a11);
    }
}

static __attribute__((noinline)) void y_panel_1(const float *z, ptrdiff_t ldz, const float *w, int kk, float *y,
                                                ptrdiff_t oc, int n, float *sum, ptrdiff_t ocp)
{
    float buf[12 * VL] __attribute__((aligned(64)));
    for (int p = 0; p < n; p += 12, z += 12 * ldz, y += 12 * oc) {
        const tile12 t = mm_12x1(z, ldz, w, kk);
        if (n - p < 12) {
            tile_dump(buf, t);
            y_ragged(buf, 1, y, oc, n - p, VL, sum, ocp);
            return;
        }
#define STEP(i) VSTORE(y + i * oc, t.a##i);
        EACH8(STEP) STEP(8) STEP(9) STEP(10) STEP(11)
#undef STEP
        stat6(sum, ocp, t.a0, t.a1, t.a2, t.a3, t.a4, t.a5);
        stat6(sum, ocp, t.a6, t.a7, t.a8, t.a9, t.a10, t.a11);
    }
}

/* The last panel where its channels do not fill it: nv vectors. */
static void y_panel_ragged(const float *z, ptrdiff_t ldz, const float *w, int kk, float *y, ptrdiff_t oc, int n,
                           float *sum, ptrdiff_t ocp, int nv, int channels)
{
    float buf[12 * VL] __attribute__((aligned(64)));
    const int mr = nv == 2 ? 6 : 12;
    for (int p = 0; p < n; p += mr) {
        if (nv == 2) tile_dump(buf, mm_6x2(z + p * ldz, ldz, w, kk));
        else tile_dump(buf, mm_12x1(z + p * ldz, ldz, w, kk));
        y_ragged(buf, nv, y + p * oc, oc, n - p < mr ? n - p : mr, channels, sum, ocp);
    }
}

/* y of the block's n pixels, and its sums. */
static void y_block(const dass__dwpw *s, const dass__dwpw_pack *k, const float *z, float *y, int n, float *sum,
                    fetch_ahead *next)
{
    const float *w = k->w_pw;
    for (int b = 0; b < s->ocv; b += 2) {
        const int nv = s->ocv - b < 2 ? 1 : 2;
        const int channels = s->oc - b * VL;
        if (channels < nv * VL)
            y_panel_ragged(z, s->cp, w, s->cp, y + b * VL, s->oc, n, sum + b * VL, s->ocp, nv, channels);
        else if (nv == 2)
            y_panel_2(z, s->cp, w, s->cp, y + b * VL, s->oc, n, sum + b * VL, s->ocp, next);
        else
            y_panel_1(z, s->cp, w, s->cp, y + b * VL, s->oc, n, sum + b * VL, s->ocp);
        w += (ptrdiff_t)s->cp * nv * VL;
    }
}

/* The shift of the image's statistics: y of its first pixel, which is where the block starts. */
static void first_pixel(const dass__dwpw *s, const dass__dwpw_pack *k, const float *z, float *sum)
{
    const float *w = k->w_pw;
    for (int b = 0; b < s->ocv; b += 2) {
        const int nv = s->ocv - b < 2 ? 1 : 2;
        for (int j = 0; j < nv; j++) {
            vf a = {0};
            for (int i = 0; i < s->cp; i++) a += z[i] * ALOAD(w + (i * nv + j) * VL);
            ASTORE(sum + (b + j) * VL, a);
        }
        w += (ptrdiff_t)s->cp * nv * VL;
    }
}

void DASS_VEC(dwpw_fwd)(const dass__dwpw *s, const dass__dwpw_pack *k, const dass__dwpw_fwd *a, int64_t img,
                        float *scratch)
{
    const dass__dwpw_scratch l = dass__dwpw_layout(s, 0);
    float *const v = scratch + l.v, *const z = scratch + l.z, *const sum = scratch + l.sum;
    const float *const x = a->x + img * s->h * s->w * s->c;
    float *const y = a->y + img * s->oh * s->ow * s->oc;
    double *const mean = a->stats + img * 2 * s->ocp, *const m2 = mean + s->ocp;
    const double count = (double)s->oh * (double)s->ow;
    int loaded = 0;
    memset(mean, 0, 2 * (size_t)s->ocp * sizeof *mean);
    for (int h0 = 0; h0 < s->oh; h0 += s->rows) {
        const int h1 = h0 + s->rows < s->oh ? h0 + s->rows : s->oh;
        const int need = rows_needed(s, h1);
        load_rows(s, k, x, v, loaded, need);
        loaded = need;
        z_rows(s, k, v, z, h0, h1);
        if (h0 == 0) first_pixel(s, k, z, sum);
        memset(sum + s->ocp, 0, 2 * (size_t)s->ocp * sizeof *sum);
        const int n = (h1 - h0) * s->ow;
        fetch_ahead next = {{0}, {0}};
        fetch_plan(&next, 0, x, (ptrdiff_t)need * s->w * s->c, (ptrdiff_t)(h1 - h0) * s->stride * s->w * s->c,
                  (n + 5) / 6 * (s->ocv > 1 ? s->ocv / 2 : 1));
        y_block(s, k, z, y + (ptrdiff_t)h0 * s->ow * s->oc, n, sum, &next);
        add_to_double(mean, sum + s->ocp, s->ocp);
        add_to_double(m2, sum + 2 * s->ocp, s->ocp);
    }
    for (int i = 0; i < s->ocp; i++) {
        m2[i] -= mean[i] * mean[i] / count;
        mean[i] = mean[i] / count + (double)sum[i];
    }
}
