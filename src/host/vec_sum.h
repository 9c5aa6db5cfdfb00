/* Argument structs and list of the functions in vec_sum.c. Included by vec_api.h only. */
#ifndef DASS_VEC_SUM_H
#define DASS_VEC_SUM_H

#define DASS__SUM_GROUP 8 /* streams added at a time in sum_affine */

/* dst = bias + sum_k a_k x_k over a run of n floats that starts at float `at` of every tensor (a pixel).
 * coef: per group of up to DASS__SUM_GROUP streams, period/lanes blocks of (streams in the group) vectors, so that the
 * loop reads it straight through: see sum_coef_at. dst may be x[0], ..., x[DASS__SUM_GROUP - 1], no later one. */
typedef struct dass__v_sum {
    const float *const *x;
    const float *coef;
    const float *bias; /* a period, or NULL for 0 */
    int32_t n_x, period;
} dass__v_sum;

/* Where the coefficient of stream k at position c of the period stands in `coef`. */
static inline int64_t dass__sum_coef_at(int32_t k, int32_t c, int32_t n_x, int32_t period, int32_t lanes)
{
    const int32_t first = k / DASS__SUM_GROUP * DASS__SUM_GROUP;
    const int32_t width = n_x - first < DASS__SUM_GROUP ? n_x - first : DASS__SUM_GROUP;
    return (int64_t)first * period + (int64_t)(c / lanes) * width * lanes + (int64_t)(k - first) * lanes + c % lanes;
}

/* s1[c] += sum d_y, s2[k][c] += sum d_y (x_k - mean_k) over a run of n floats from float `at`; [..][period] each. */
typedef struct dass__v_sum_bwd {
    const float *d_y;
    const float *const *x;
    const float *mean; /* (n_x, period) */
    int32_t n_x, period;
} dass__v_sum_bwd;

#define DASS__VEC_SUM(X)                                                                     \
    X(void, sum_affine, (const dass__v_sum *a, int64_t at, int64_t n, float *dst))           \
    X(void, sum_bwd, (const dass__v_sum_bwd *a, int64_t at, int64_t n, float *s1, float *s2))

#endif
