/* Launchers of sum.cu: weighted sums of many equal tensors and their gradients. Variants V1, V4 (channels to a thread),
 * and both in bf16.
 * The terms of an item lie in device memory, at most DASS_K_TERMS of them; longer sums are done in several stages.
 */
#ifndef DASS_KERNELS_SUM_H
#define DASS_KERNELS_SUM_H

#include "kernels.h"

#define DASS_K_TERMS 64
#define DASS_K_SUM_LANES 16 /* threads side by side over channels, so at most 64 channels to a block */

/* What both sums take; terms: dass_k_wsum_term or dass_k_gsum_term. */
typedef struct dass_k_sum {
    dass_k_head head;
    dass_k_reduce r; /* no counter */
    const float *p;  /* NULL when every index is -1 */
    const void *terms;
    uint32_t n_terms;
    int32_t add; /* begin with dst */
    void *dst;
} dass_k_sum;

/* dst = [dst +] sum_k f_k t_k over (M, C) data, f_k = p[index_k] or 1 when index_k < 0. t_k = x_k, or normalised when
 * it has a mean. Bytes: 4 M C (T + 1). */
typedef struct dass_k_wsum_term {
    dass_k_norm in;
    int32_t index;
    int32_t pad_;
} dass_k_wsum_term;
DASS_K_API int dass_k_wsum_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* dst = [dst +] sum_k t_k: f_k d_k, or A d_k + B x_k + C0 per channel with coef (3, C). dst may be one of the plain
 * d_k. Bytes: 4 M C (plain terms + 2 others + 1). */
typedef struct dass_k_gsum_term {
    const void *d, *x; /* x and coef both or neither */
    const float *coef;
    int32_t index;
    int32_t pad_;
} dass_k_gsum_term;
DASS_K_API int dass_k_gsum_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* Gradient of wsum for terms that want any. With f the factor, S1 = sum d_y (C), S2 = sum d_y xh (or d_y x, raw) (C):
 *     share of d_p[index] = sum_c gamma S2 + beta S1 (raw: sum_c S2)
 *     coef (3, C) = A, B, C0: A = f gamma rstd, B = -A rstd S2 / M, C0 = -A S1 / M - B mean;  d_gamma = f S2, d_beta =
 * f S1 d_p = acc_dp + the shares x may be NULL where S2 is not wanted. counters: n_terms + 1 zeros, zero again after.
 * part: 2 C floats per chunk and term; share: n_terms doubles. Grid (chunks, channel groups * n_terms). Bytes: 4 M C
 * read per x, and d_y once from memory and n_terms times from the cache. */
typedef struct dass_k_wsum_bwd_term {
    dass_k_norm in;
    float *coef, *d_gamma, *d_beta; /* each or NULL */
    int32_t index;
    int32_t pad_;
} dass_k_wsum_bwd_term;
typedef struct dass_k_wsum_bwd {
    dass_k_head head;
    dass_k_reduce r; /* its counter unused */
    const void *d_y;
    const float *p, *acc_dp; /* may be NULL */
    const dass_k_wsum_bwd_term *terms;
    uint32_t *counters;
    float *part;
    double *share;
    float *d_p; /* or NULL */
    uint32_t n_terms, n_p, groups;
} dass_k_wsum_bwd;
DASS_K_API int dass_k_wsum_bwd_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

#endif
