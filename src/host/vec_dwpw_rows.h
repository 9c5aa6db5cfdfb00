/* Rows of the fused separable half that both directions need: the input into the v planes, and the depthwise result z
 * of a block. They write the inside of the planes only; the borders stay zero.
 */
#ifndef DASS_VEC_DWPW_ROWS_H
#define DASS_VEC_DWPW_ROWS_H

#include "vec_dwpw_tile.h"

/* ---- input planes ------------------------------------------------------------------------------------------ */

/* w pixels of two or one (nv) vectors of channels; q1 = q0 when there is one. */
INLINE void load_row(const float *p, ptrdiff_t step, float *q0, float *q1, int w, const int nv, const vf *sc,
                     const vf *sh, const int norm, const int relu)
{
    for (int i = 0; i < w; i++) {
        vf t0 = VLOAD(p), t1 = nv > 1 ? (vf)VLOAD(p + VL) : t0;
        if (norm) {
            t0 = t0 * sc[0] + sh[0];
            t1 = t1 * sc[1] + sh[1];
        }
        if (relu) {
            t0 = relu_keep_nan(t0);
            t1 = relu_keep_nan(t1);
        }
        ASTORE(q0 + i * VL, t0);
        if (nv > 1) ASTORE(q1 + i * VL, t1);
        p += step;
    }
}

/* The vector of channels that is not whole. */
static void load_row_ragged(const float *p, ptrdiff_t step, float *q, int w, int lanes, int before, vf sc, vf sh,
                            int norm, int relu)
{
    for (int i = 0; i < w; i++) {
        vf t = load_lanes(p + i * step, lanes, before);
        if (norm) t = t * sc + sh;
        if (relu) t = relu_keep_nan(t);
        ASTORE(q + i * VL, t);
    }
}

/* Rows [r0, r1) of the input, normalised and rectified, into the v planes. x: the image. Two vectors of channels at a
 * time, so that a cache line is read once. */
static void load_rows(const dass__dwpw *s, const dass__dwpw_pack *k, const float *x, float *v, int r0, int r1)
{
    const ptrdiff_t step = s->c;
    const int norm = k->scale != NULL;
    for (int r = r0; r < r1; r++) {
        for (int b = 0; b < s->cv; b += 2) {
            const int lanes = s->c - b * VL;
            const int nv = lanes >= 2 * VL ? 2 : 1;
            const float *p = x + (ptrdiff_t)r * s->w * step + b * VL;
            float *q = v + b * s->v_plane + ((ptrdiff_t)(r + s->pad) * s->v_w + s->pad) * VL;
            vf sc[2] = {{0}, {0}}, sh[2] = {{0}, {0}};
            for (int i = 0; norm && i < 2 && b + i < s->cv; i++) {
                sc[i] = ALOAD(k->scale + (b + i) * VL);
                sh[i] = ALOAD(k->shift + (b + i) * VL);
            }
            if (nv == 2 && norm && s->relu) {
                load_row(p, step, q, q + s->v_plane, s->w, 2, sc, sh, 1, 1);
            } else if (nv == 2 && s->relu) {
                load_row(p, step, q, q + s->v_plane, s->w, 2, sc, sh, 0, 1);
            } else if (nv == 2) {
                load_row(p, step, q, q + s->v_plane, s->w, 2, sc, sh, norm, 0);
            } else {
                if (lanes >= VL) load_row(p, step, q, q, s->w, 1, sc, sh, norm, s->relu);
                else load_row_ragged(p, step, q, s->w, lanes, b * VL, sc[0], sh[0], norm, s->relu);
                if (lanes > VL)
                    load_row_ragged(p + VL, step, q + s->v_plane, s->w, lanes - VL, (b + 1) * VL, sc[1], sh[1], norm,
                                    s->relu);
            }
        }
    }
}

/* ---- depthwise result of a block -------------------------------------------------------------------------- */

/* Rows of the forward depthwise result of one vector of channels, pixel by pixel into z. Writes whole tiles, so up to
 * seven pixels too many: rows are made in rising order and z has slack. */
typedef void z_rows_fn(const dass__dwpw *s, const float *src, const float *w, float *z, int rows);
INLINE void z_tile_store(float *z, ptrdiff_t ldz, tile8 t)
{
#define STEP(i) ASTORE(z + i * ldz, t.a##i);
    EACH8(STEP)
#undef STEP
}
/* ks 0: any kernel. */
INLINE void z_rows_of(const dass__dwpw *s, const float *src0, const float *w, float *z0, int rows, const int ks,
                      const int d, const int st)
{
    const ptrdiff_t row_step = (ptrdiff_t)s->v_w * d * VL, ldz = s->cp, next = (ptrdiff_t)s->v_w * st * VL;
    const int ow = s->ow, kh = s->kh;
    for (int r = 0; r < rows; r++, src0 += next, z0 += ow * ldz) {
        const float *src = src0;
        float *z = z0;
        for (int q = 0; q < ow; q += 8, src += 8 * st * VL, z += 8 * ldz)
            z_tile_store(z, ldz, ks ? dw_tile(src, row_step, w, kh, ks, d, st)
                                    : dw_tile_any(src, row_step, w, kh, s->kw, d, st));
    }
}
#define Z_ROWS(ks, d, st)                                                              \
    static void z_rows_##ks##_##d##_##st(const dass__dwpw *s, const float *src, const float *w, float *z, int rows) \
    {                                                                                  \
        z_rows_of(s, src, w, z, rows, ks, d, st);                                      \
    }
Z_ROWS(3, 1, 1)
Z_ROWS(5, 1, 1)
Z_ROWS(3, 2, 1)
Z_ROWS(5, 2, 1)
Z_ROWS(3, 1, 2)
Z_ROWS(5, 1, 2)
Z_ROWS(3, 2, 2)
Z_ROWS(5, 2, 2)
static void z_rows_any(const dass__dwpw *s, const float *src, const float *w, float *z, int rows)
{
    z_rows_of(s, src, w, z, rows, 0, s->dil, s->stride);
}

/* Index of (ks, d, st) with ks 3 or 5, d and st 1 or 2 in tables of eight; 8 for others. */
static int shape_index(int ks, int d, int st)
{
    if ((ks != 3 && ks != 5) || d < 1 || d > 2 || st < 1 || st > 2) return 8;
    return (ks == 5) + 2 * (d - 1) + 4 * (st - 1);
}

/* Output rows [h0, h1) of the depthwise part into z, [pixel][cp]. */
static void z_rows(const dass__dwpw *s, const dass__dwpw_pack *k, const float *v, float *z, int h0, int h1)
{
    static z_rows_fn *const table[9] = {z_rows_3_1_1, z_rows_5_1_1, z_rows_3_2_1, z_rows_5_2_1, z_rows_3_1_2,
                                        z_rows_5_1_2, z_rows_3_2_2, z_rows_5_2_2, z_rows_any};
    z_rows_fn *const fn = table[shape_index(s->kw, s->dil, s->stride)];
    for (int b = 0; b < s->cv; b++)
        fn(s, v + b * s->v_plane + (ptrdiff_t)h0 * s->stride * s->v_w * VL, k->w_dw + (ptrdiff_t)b * s->kh * s->kw * VL,
           z + b * VL, h1 - h0);
}

/* Input rows that output rows [.., h1) need. */
static int rows_needed(const dass__dwpw *s, int h1)
{
    const int r = (h1 - 1) * s->stride + (s->kh - 1) * s->dil + 1 - s->pad;
    return h1 >= s->oh || r > s->h ? s->h : r < 0 ? 0 : r;
}

#endif
