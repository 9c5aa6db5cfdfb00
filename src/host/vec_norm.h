/* Argument structs and list of the functions in vec_norm.c. Included by vec_api.h only.
 *
 * All of them walk a run of n floats that starts at a pixel; `period` is a multiple of both the channels and the
 * vector, and coefficient arrays hold one period (see host_items.h). act: dass_act. Outputs may share the storage of
 * inputs.
 */
#ifndef DASS_VEC_NORM_H
#define DASS_VEC_NORM_H

/* Coefficients of one batch norm: u = (x - mean) a + b with a = gamma rstd, b = beta. */
typedef struct dass__v_bn {
    const float *mean, *a, *b;
    int32_t period, act;
} dass__v_bn;

/* norm_sum       s += x
 * norm_stats     s += x - shift, q += (x - shift)^2
 * norm_apply     dst = act(u)
 * norm_reduce    s += g, q += g (x - mean), with g = d_y where act passes u, else 0
 * norm_bwd       d_x = a g + k1 + k2 (x - mean) */
#define DASS__VEC_NORM(X)                                                                                           \
    X(void, norm_sum, (const float *x, int64_t n, int32_t period, double *s))                                       \
    X(void, norm_stats, (const float *x, int64_t n, int32_t period, const float *shift, double *s, double *q))      \
    X(void, norm_apply, (const dass__v_bn *bn, const float *x, int64_t n, float *dst))                              \
    X(void, norm_reduce, (const dass__v_bn *bn, const float *d_y, const float *x, int64_t n, double *s, double *q)) \
    X(void, norm_bwd,                                                                                               \
      (const dass__v_bn *bn, const float *k1, const float *k2, const float *d_y, const float *x, int64_t n,         \
       float *d_x))

#endif
