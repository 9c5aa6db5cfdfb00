/* Launchers of dwpw.cu and dwpw_bwd.cu: the fused separable half y = PW . DW( relu?( bn?(x) ) ) with the batch
 * statistics of y, and its gradient.
 *
 *     u = gamma (x - mean) rstd + beta, or x;  v = max(u, 0) with relu, else u;  v = 0 outside the image
 *     z(p,c) = sum over taps of w_dw(c,r,s) v(c, oh stride - pad + r dil, ow stride - pad + s dil)
 *     y(p,oc) = sum over c of w_pw(oc,c) z(p,c)
 *
 * x (N,H,W,C), y (N,OH,OW,OC), w_dw (C,KH,KW), w_pw (OC,C), all of the stored type, as d, acc and d_x are; dz and the
 * sums are floats. M = N H W, M' = N OH OW.
 *
 * A strip is four pixels of one row, `apart` from each other, so that neighbours in it read the same columns: a thread
 * loads each column once for all four. A tile is `tile` strips. Channels go in slices of at most DASS_K_DWPW_SLICE.
 */
#ifndef DASS_KERNELS_DWPW_H
#define DASS_KERNELS_DWPW_H

#include "kernels.h"

#define DASS_K_DWPW_STRIP 4   /* pixels */
#define DASS_K_DWPW_SLICE 64  /* channels, of x and of y */
#define DASS_K_DWPW_TILE 4096 /* floats in shared memory: pixels of a tile times channels of a slice */

/* Variants: v channels to a thread (1; 4 when C and OC are multiples of 4 and all is aligned), k x k taps with columns
 * of the strip t taps apart; k = t = 0: any window. Those that exist: v = 4 with k 3 or 5 and t 1 or 2, and k = t = 0
 * with v 1 or 4; each also in bf16. */
#define DASS_K_DWPW(v, k, t) ((uint32_t)(v) | (uint32_t)(k) << 4 | (uint32_t)(t) << 8)

/* Strips of rows of `w` pixels. */
typedef struct dass_k_strips {
    uint32_t rows, w; /* rows of all images */
    uint32_t apart;
    uint32_t per_row; /* ceil(w / (4 apart)) apart */
    uint32_t n;       /* rows per_row */
} dass_k_strips;

typedef struct dass_k_dwpw_shape {
    uint32_t c, oc;
    int32_t h, w, oh, ow;
    int32_t kh, kw, stride, pad, dil;
    int32_t relu;
    dass_k_strips out;           /* of y */
    uint32_t tile;               /* strips to a tile: a power of two, at least 16 */
    uint32_t n_tiles, per_block; /* tiles, and how many follow one another in a block */
    uint32_t lane_bits;          /* log2 of the lanes over the channels of a slice, v to a lane */
    uint32_t group_bits;         /* log2 of the groups of 4 channels of a slice of y (forward) or of x (backward) */
    uint32_t swizzle;            /* shift of k_swizzled for slices of x */
} dass_k_dwpw_shape;

/* y, and mean, rstd = 1 / sqrt(var + eps) of y before it is rounded (var over M'); mean NULL: no statistics. Grid
 * (blocks over tiles, slices of y). part: (3 OC + 1) floats a block of x. Bytes: 4 M C + 4 M' OC for each slice of y.
 */
typedef struct dass_k_dwpw {
    dass_k_head head;
    dass_k_dwpw_shape s;
    dass_k_norm in;
    const void *w_dw, *w_pw;
    void *y;
    float *mean, *rstd, *part;
    uint32_t *counter;
    float eps;
} dass_k_dwpw;
DASS_K_API int dass_k_dwpw_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* The gradient, from e = d, or A d + B y + C0 per channel with coef (3,OC), the gradient with respect to y. Stages:
 * dwpw_outer, dwpw_inner, dwpw_taps where the window is not one that dwpw_inner knows, dwpw_finish.
 *
 * dwpw_outer: dz(p,c) = sum over oc of w_pw(oc,c) e(p,oc), and sums over the pixels of a block of e(p,oc) z(p,c). dz
 * (M', C) or NULL; part (OC,C) a block or NULL; y only with coef. Grid (blocks over tiles, slices of x by slices of y,
 * x fastest), or only slices of x when part is NULL. Bytes: 4 M' OC (8 with coef) + 4 M' C written + 4 M C for part. */
typedef struct dass_k_dwpw_outer {
    dass_k_head head;
    dass_k_dwpw_shape s;
    dass_k_norm in;
    const void *w_dw, *w_pw, *y, *d;
    const float *coef;
    float *dz, *part;
    uint32_t lane_bits, swizzle; /* as in the shape, for slices of y */
} dass_k_dwpw_outer;
DASS_K_API int dass_k_dwpw_outer_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* dwpw_inner: q(i,c) = sum over the taps that read pixel i of w_dw dz, 0 where relu stops v; d_x = q, plus acc; sums
 * over the pixels of a block of q and q (x - mean), and, with a window that is known, of v dz for each tap. Variants
 * DASS_K_DWPW(2, 3 or 5, 1) at stride 1, `in` strips dil apart; DASS_K_DWPW(1 or 4, 0, 0): any window, no sums for
 * taps; each also in bf16. part: (2 + taps, C) a block, the taps last; NULL: nobody wants sums. Grid (blocks of `chunk`
 * strips, groups of tx v channels). Bytes: 4 M' C + 8 M C, 12 with acc. */
typedef struct dass_k_dwpw_inner {
    dass_k_head head;
    dass_k_dwpw_shape s;
    dass_k_strips at; /* of x */
    dass_k_norm in;
    const void *w_dw;
    const float *dz;
    const void *acc;
    void *d_x; /* or NULL; acc may be d_x */
    float *part;
    uint32_t tx, chunk;
    int32_t taps;             /* sums for taps are wanted */
    int32_t period, backward; /* taps to the next that reads a pixel, outputs back then: stride, dil over their gcd */
} dass_k_dwpw_inner;
DASS_K_API int dass_k_dwpw_inner_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* dwpw_taps: sums over the pixels of a block of v dz for each tap. Variants DASS_K_DWPW(4, 3 or 5, 1 or 2): a row of
 * taps to a block; DASS_K_DWPW(1 or 4, 0, 0): one tap; each also in bf16. part: (taps, C) a block of x. Grid (blocks of
 * `chunk` strips, rows or taps by groups of tx v channels, groups fastest). Bytes: 4 (M' + M) C for each row or tap,
 * from the second level. */
typedef struct dass_k_dwpw_taps {
    dass_k_head head;
    dass_k_dwpw_shape s;
    dass_k_norm in;
    const float *dz;
    float *part;
    uint32_t tx, chunk, groups;
} dass_k_dwpw_taps;
DASS_K_API int dass_k_dwpw_taps_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* dwpw_finish: partial sums added in order of the block, in double. n_*: blocks; at_*: floats to the next block's. Any
 * of the results may be NULL. m: M. Grid (ceil(OC C / 32) for d_wpw + ceil(taps C / 32) for d_wdw + ceil(C / 32) when
 * in.mean is set), each term only where wanted. */
typedef struct dass_k_dwpw_finish {
    dass_k_head head;
    dass_k_norm in;
    const float *of_pw, *of_dw, *of_sums;
    float *d_wpw, *d_wdw, *in_coef, *d_gamma, *d_beta;
    uint32_t n_pw, n_dw, n_sums;
    uint32_t at_dw, at_sums;
    uint32_t c, oc, taps, m;
    uint32_t blocks_pw, blocks_dw;
} dass_k_dwpw_finish;
DASS_K_API int dass_k_dwpw_finish_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

#endif
