/* Launchers of dwpw.cu and dwpw_bwd.cu: the fused separable half y = PW . DW( relu?( bn?(x) ) ) with the batch
 * statistics of y, and its gradient.
 *
 *     u = gamma (x - mean) rstd + beta, or x;  v = max(u, 0) with relu, else u;  v = 0 outside the image
 *     z(p,c) = sum over taps of w_dw(c,r,s) v(c, oh stride - pad + r dil, ow stride - pad + s dil)
 *     y(p,oc) = sum over c of w_pw(oc,c) z(p,c)
 *
 * x (N,H,W,C), y (N,OH,OW,OC), w_dw (C,KH,KW), w_pw (OC,C). M = N H W, M' = N OH OW.
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
 * with v 1 or 4. */
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

/* y, and mean, rstd = 1 / sqrt(var + eps) of y (var over M'); mean NULL: no statistics. Grid (blocks over tiles, slices
 * of y). part: (2 OC + 1) floats a block of x. Bytes: 4 M C + 4 M' OC for each slice of y. */
typedef struct dass_k_dwpw {
    dass_k_head head;
    dass_k_dwpw_shape s;
    dass_k_norm in;
    const float *w_dw, *w_pw;
    float *y, *mean, *rstd;
    float *part;
    uint32_t *counter;
    float eps;
} dass_k_dwpw;
DASS_K_API int dass_k_dwpw_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

#endif
