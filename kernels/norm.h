/* Launchers of norm.cu: batch norm. M = N H W pixels, C channels, x and d_y (M, C), vectors (C). Variants V1, V4, and
 * both in bf16.
 * source: Ioffe and Szegedy 2015. */
#ifndef DASS_KERNELS_NORM_H
#define DASS_KERNELS_NORM_H

#include "kernels.h"

/* mean, rstd = 1 / sqrt(var + eps), var biased, about the first pixel of each channel so that a large mean costs no
 * digits. part: 2 C floats per chunk. Bytes: 4 M C read. */
typedef struct dass_k_bn_stats {
    dass_k_head head;
    dass_k_reduce r;
    const void *x;
    float *part, *mean, *rstd;
    float eps;
} dass_k_bn_stats;
DASS_K_API int dass_k_bn_stats_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* dst = act(gamma (x - mean) rstd + beta), in place allowed. Bytes: 8 M C. When `var` is set rstd is made of it as
 * 1 / sqrt(var + eps) (evaluation by running statistics). */
typedef struct dass_k_bn_apply {
    dass_k_head head;
    dass_k_reduce r; /* no counter */
    dass_k_norm in;
    const float *var;
    void *dst;
    int32_t act;
    float eps;
} dass_k_bn_apply;
DASS_K_API int dass_k_bn_apply_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* d_beta = sum g, d_gamma = sum g xh, g = d_y where the activation of u passes. part: 2 C per chunk. Bytes: 8 M C read.
 */
typedef struct dass_k_bn_bwd_reduce {
    dass_k_head head;
    dass_k_reduce r;
    dass_k_norm in;
    const void *d_y;
    float *part, *d_beta, *d_gamma;
    int32_t act;
} dass_k_bn_bwd_reduce;
DASS_K_API int dass_k_bn_bwd_reduce_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* d_x = gamma rstd (g - d_beta / M - xh d_gamma / M), d_x may be d_y. Bytes: 12 M C. */
typedef struct dass_k_bn_bwd_apply {
    dass_k_head head;
    dass_k_reduce r; /* no counter */
    dass_k_norm in;
    const void *d_y;
    const float *d_beta, *d_gamma;
    void *d_x;
    int32_t act;
} dass_k_bn_bwd_apply;
DASS_K_API int dass_k_bn_bwd_apply_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* dst (C) = sum over pixels. part: C per chunk. Bytes: 4 M C read. */
typedef struct dass_k_channel_sum {
    dass_k_head head;
    dass_k_reduce r;
    const void *x;
    float *part, *dst;
} dass_k_channel_sum;
DASS_K_API int dass_k_channel_sum_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* run_mean += momentum (mean - run_mean), run_var += momentum (var M / (M - 1) - run_var), var = 1 / rstd^2 - eps. */
typedef struct dass_k_bn_running {
    dass_k_head head;
    const float *mean, *rstd;
    const float *run_mean_in, *run_var_in;
    float *run_mean, *run_var;
    uint32_t c;
    double eps, momentum, unbias; /* unbias: M / (M - 1) */
} dass_k_bn_running;
DASS_K_API int dass_k_bn_running_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

#endif
