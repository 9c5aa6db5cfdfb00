/* Argument structs and list of the functions in vec_dwpw.c and vec_dwpw_bwd.c. Included by vec_api.h only. */
#ifndef DASS_VEC_DWPW_H
#define DASS_VEC_DWPW_H

#include <stdint.h>

#define DASS__DWPW_MAX_STRIDE 4
#define DASS__DWPW_TILE 8   /* output pixels of one depthwise tile */
#define DASS__DWPW_SLACK 16 /* pixels a tile may write or read past the end of a block */

/* Output positions S a + i of one axis of the depthwise part's transpose: which taps reach them, and from where. */
typedef struct dass__dwpw_class {
    int32_t n;     /* taps that reach this class, in order of rising source position */
    int32_t first; /* the first of them; the next is `tap_step` lower */
    int32_t off;   /* source position of output a is a + off for the first tap, plus src_dil for each further one */
} dass__dwpw_class;

/* Everything that follows from the shape and the number of lanes, fixed when the kernel is selected. Planes are scratch
 * images of one vector of channels, [row][column][lane], with a border of zeros: the "v" planes hold the depthwise
 * part's input, the "g" planes the gradient of its output. A block is `rows` whole rows of output pixels. */
typedef struct dass__dwpw {
    int32_t n, c, h, w, oc, oh, ow;
    int32_t kh, kw, stride, pad, dil, relu;
    int32_t vl, cv, ocv, cp, ocp; /* lanes; vectors of c and oc; cv * vl, ocv * vl */
    int32_t v_h, v_w, g_h, g_w, g_top, g_left;
    int32_t rows, block; /* of output a block has; rows * ow */
    int32_t tap_step, src_dil;
    int32_t dx_rows;     /* input rows of a block of the input's gradient; a multiple of the stride */
    int32_t n_chunks; /* images are summed into this many partial weight gradients */
    int64_t v_plane, g_plane; /* floats */
    dass__dwpw_class row_class[DASS__DWPW_MAX_STRIDE], col_class[DASS__DWPW_MAX_STRIDE];
    int64_t w_class[DASS__DWPW_MAX_STRIDE][DASS__DWPW_MAX_STRIDE]; /* where a class pair's taps lie in w_dw_t */
} dass__dwpw;

/* Packed weights and per-channel vectors (padded with zeros to whole vectors), shared by the threads.
 * w_dw    [cv][kh kw][lane]
 * w_dw_t  per pair of classes [cv][row taps][column taps][lane]
 * w_pw    panels of two vectors (the last one may be one) of output channels: [c, padded][panel width]
 * w_pw_t  the same of the transposed matrix: [oc, padded][panel width] */
typedef struct dass__dwpw_pack {
    float *w_dw, *w_dw_t, *w_pw, *w_pw_t;
    float *scale, *shift, *mean;        /* of the input's batch norm; scale NULL without one */
    float *coef_a, *coef_b, *coef_c;    /* of the output's gradient; coef_a NULL without */
    const int32_t *g_at;                /* place of each pixel of a block in a g plane, floats from the block's first */
} dass__dwpw_pack;

typedef struct dass__dwpw_fwd {
    const float *x; /* (N,C,H,W) NHWC */
    float *y;       /* (N,OC,OH,OW) NHWC */
    double *stats;  /* per image: mean (ocp), then sum of squared deviations from it (ocp) */
} dass__dwpw_fwd;

typedef struct dass__dwpw_bwd {
    const float *x, *y, *d, *acc; /* y only with coef; acc may be NULL or d_x itself */
    float *d_x;                   /* NULL: not wanted */
    double *sums;                 /* per image: sum q (cp), sum q (x - mean) (cp); NULL: not wanted */
    int want_q, want_dw, want_pw; /* q: d_x or sums */
} dass__dwpw_bwd;

/* dwpw_fwd: image `img` and its statistics. dwpw_bwd: image `img`; weight gradients are added to p_dw [cv][kh kw][lane]
 * and p_pw [ocp][cp]. scratch: one thread's, its planes' borders zero, laid out by dass__dwpw_layout. */
#define DASS__VEC_DWPW(X)                                                                                     \
    X(void, dwpw_fwd, (const dass__dwpw *s, const dass__dwpw_pack *k, const dass__dwpw_fwd *a, int64_t img,   \
                       float *scratch))                                                                       \
    X(void, dwpw_bwd, (const dass__dwpw *s, const dass__dwpw_pack *k, const dass__dwpw_bwd *a, int64_t img,   \
                       float *scratch, float *p_dw, float *p_pw))

/* Offsets of the parts of one thread's scratch, in floats; all multiples of 16. */
typedef struct dass__dwpw_scratch {
    int64_t v, g, z, e, sum, total;
} dass__dwpw_scratch;
static inline dass__dwpw_scratch dass__dwpw_layout(const dass__dwpw *s, int backward)
{
    const int64_t slack = (int64_t)DASS__DWPW_SLACK * s->vl * (s->stride + s->dil * s->kw);
    const int64_t pixels = s->block + DASS__DWPW_SLACK;
    dass__dwpw_scratch l = {0};
    l.v = 0;
    l.g = l.v + ((s->cv * s->v_plane + slack + 15) & ~(int64_t)15);
    l.z = l.g + (backward ? ((s->cv * s->g_plane + slack + 15) & ~(int64_t)15) : 0);
    l.e = l.z + ((pixels * s->cp + 15) & ~(int64_t)15);
    l.sum = l.e + (backward ? ((pixels * s->ocp + 15) & ~(int64_t)15) : 0);
    l.total = l.sum + ((3 * (int64_t)(s->cp > s->ocp ? s->cp : s->ocp) + 31) & ~(int64_t)15);
    return l;
}

#endif
