/* Launchers of weights.cu: filters between the layout of parameters and that of a library. */
#ifndef DASS_KERNELS_WEIGHTS_H
#define DASS_KERNELS_WEIGHTS_H

#include "kernels.h"

/* dst[o][j][i] = src[o][i][j] for o < rows, i < n_i, j < n_j: OIHW to OHWI with n_i = IC/groups, n_j = KH KW; and back
 * with the two exchanged. Of the stored type: variant V1, and V1 in bf16. Bytes: 8 rows n_i n_j; filters are small, so
 * the kernel is as long as its launch. */
typedef struct dass_k_transpose {
    dass_k_head head;
    const void *src;
    void *dst;
    uint32_t rows, n_i, n_j;
} dass_k_transpose;
DASS_K_API int dass_k_transpose_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

#endif
