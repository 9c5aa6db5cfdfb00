/* Argument struct and list of the functions in vec_sparse.c. Included by vec_api.h only. */
#ifndef DASS_VEC_SPARSE_H
#define DASS_VEC_SPARSE_H

#define DASS__SPARSE_TILE 32 /* pixels of one call, at most */

/* A sparse pointwise convolution, as dass_spconv defines it; bias NULL: 0. */
typedef struct dass__v_spconv {
    const float *values, *bias;
    const int32_t *columns, *starts;
    int32_t ic, oc;
    int32_t act;
} dass__v_spconv;

/* Floats of scratch that one call wants. */
static inline int64_t dass__spconv_scratch(int32_t ic, int32_t oc)
{
    return (int64_t)DASS__SPARSE_TILE * ((int64_t)ic + oc);
}

/* spconv: n <= DASS__SPARSE_TILE pixels of x (n, ic), residual (n, oc) or NULL, y (n, oc) */
#define DASS__VEC_SPARSE(X) \
    X(void, spconv,         \
      (const dass__v_spconv *a, const float *x, const float *residual, float *y, int32_t n, float *scratch))

#endif
