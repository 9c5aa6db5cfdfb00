/* Launchers of spconv.cu: pointwise convolutions by a sparse matrix S (oc, ic), stored by rows: entry e of row r has
 * starts[r] <= e < starts[r + 1], value values[e], column columns[e]; the columns of a row ascend.
 */
#ifndef DASS_KERNELS_SPCONV_H
#define DASS_KERNELS_SPCONV_H

#include "kernels.h"

#define DASS_K_SP_PIXELS 32  /* of a block: a lane each */
#define DASS_K_SP_WARPS 8    /* of a block */
#define DASS_K_SP_MAX_ROWS 8 /* of a warp, at most: the variant */
#define DASS_K_SP_SIDE 33    /* floats between two channels of a tile in shared memory: no bank conflict either way */

/* y(p, r) = act(sum over row r of value x(p, column) + bias(r) + residual(p, r)); x (m, ic), y and residual (m, oc);
 * bias and residual may be NULL. Variants 1, 2, 4, 8: R rows of S to a warp; each in bf16 too. Blocks of 32 pixels in
 * x, of 8 R rows in y. Shared memory: 132 max(chunk, 8 R) bytes; `chunk` channels of x are there at once, and all of
 * them pass in turn. Bytes: 4 m (ic groups + oc), with ceil(oc / (8 R)) groups of which all but the first read x from
 * the L2 cache, and 8 nnz + 4 oc for each of the m / 32 tiles, from the L2 cache too. */
typedef struct dass_k_spconv {
    dass_k_head head;
    const void *x, *values, *residual;
    const float *bias;
    const int32_t *columns, *starts;
    void *y;
    uint32_t m, ic, oc;
    uint32_t chunk;
    int32_t act;
    uint32_t shared; /* bytes */
} dass_k_spconv;
DASS_K_API int dass_k_spconv_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* y = act(x + bias + residual), x float, y and residual (m, c); bias and residual may be NULL, x may be y where y is
 * float. Variants V1, V4, and both in bf16. Bytes: 8 m c, 4 m c more with a residual. */
typedef struct dass_k_bias_act {
    dass_k_head head;
    const float *x, *bias;
    const void *residual;
    void *y;
    uint32_t m, c;
    int32_t act;
    int32_t pad_;
} dass_k_bias_act;
DASS_K_API int dass_k_bias_act_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

#endif
