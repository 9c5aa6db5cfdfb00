/* Launchers of pool.cu: pools over windows and over whole images, and their gradients. Variants V1, V4, and both in
 * bf16. x, d_x
 * (N,C,H,W), y, d_y (N,C,OH,OW). Window of output (oh, ow): rows oh stride - pad + r, columns ow stride - pad + s, r
 * and s in [0, k); at least one of its positions is inside the image. Nothing here adds across threads: a pixel of the
 * input collects from the windows that hold it.
 */
#ifndef DASS_KERNELS_POOL_H
#define DASS_KERNELS_POOL_H

#include "kernels.h"

typedef struct dass_k_window {
    uint32_t n, c, h, w, oh, ow;
    int32_t k, stride, pad;
} dass_k_window;

/* y = max over the positions inside, index u8 (shape of y, or NULL) = r k + s of the first maximum; a NaN wins. V4:
 * index at a multiple of 4 bytes. Bytes: 4 N C H W + 5 N C OH OW. */
typedef struct dass_k_max_pool {
    dass_k_head head;
    dass_k_window win;
    const void *x;
    void *y;
    uint8_t *index;
} dass_k_max_pool;
DASS_K_API int dass_k_max_pool_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* y = mean over the positions inside. Bytes: 4 N C (H W + OH OW). */
typedef struct dass_k_avg_pool {
    dass_k_head head;
    dass_k_window win;
    const void *x;
    void *y;
} dass_k_avg_pool;
DASS_K_API int dass_k_avg_pool_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* d_x = acc + sum over the windows that hold the pixel: of d_y where index names it (max), or of d_y / positions inside
 * (average; index NULL). acc: NULL = 0, may be d_x. Bytes: 4 N C H W (8 with acc) + 5 N C OH OW. */
typedef struct dass_k_pool_bwd {
    dass_k_head head;
    dass_k_window win;
    const void *d_y, *acc;
    const uint8_t *index;
    void *d_x;
} dass_k_pool_bwd;
DASS_K_API int dass_k_max_pool_bwd_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);
DASS_K_API int dass_k_avg_pool_bwd_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* y (N, C) = mean over H W. r: chunks are images, no counter; grid (N, channel groups). Bytes: 4 N C H W. */
typedef struct dass_k_global_pool {
    dass_k_head head;
    dass_k_reduce r;
    const void *x;
    void *y;
} dass_k_global_pool;
DASS_K_API int dass_k_global_pool_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* d_x = acc + d_y (N, C) / area, area = H W. acc: NULL = 0, may be d_x. Bytes: 4 N C H W (8 with acc). */
typedef struct dass_k_global_pool_bwd {
    dass_k_head head;
    const void *d_y, *acc;
    void *d_x;
    uint32_t n, c, area;
} dass_k_global_pool_bwd;
DASS_K_API int dass_k_global_pool_bwd_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

#endif
