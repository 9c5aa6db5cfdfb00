/* Argument structs and list of the functions in vec_pool.c. Included by vec_api.h only. */
#ifndef DASS_VEC_POOL_H
#define DASS_VEC_POOL_H

#define DASS__POOL_MAX_K 16 /* window codes fit a byte */

/* One image. h, w: of the larger side (input of the pool, output of its gradient); oh, ow: of the smaller. */
typedef struct dass__v_pool {
    int32_t c, h, w, oh, ow;
    int32_t k, stride, pad;
} dass__v_pool;

/* Floats of scratch that one call wants: rings of k rows of values and codes, with margins. */
static inline int64_t dass__pool_row(const dass__v_pool *p)
{
    return (int64_t)((p->w > p->ow ? p->w : p->ow) + 2 * p->k) * p->c + 32;
}
static inline int64_t dass__pool_scratch(const dass__v_pool *p)
{
    return (2 * (int64_t)p->k + 1) * dass__pool_row(p);
}

/* max_pool, avg_pool and gradients: one image; index may be NULL, acc may be NULL or d_x
 * relu, relu_bwd: n floats
 * copy_rows, add_rows: `rows` rows of n floats, dst_ld and src_ld apart
 * add_period: dst = acc (or 0) + g[i mod period] */
#define DASS__VEC_POOL(X)                                                                                            \
    X(void, max_pool, (const dass__v_pool *p, const float *x, float *y, uint8_t *index, float *scratch))             \
    X(void, avg_pool, (const dass__v_pool *p, const float *x, float *y, float *scratch))                             \
    X(void, max_pool_bwd,                                                                                            \
      (const dass__v_pool *p, const float *d_y, const uint8_t *index, const float *acc, float *d_x, float *scratch)) \
    X(void, avg_pool_bwd, (const dass__v_pool *p, const float *d_y, const float *acc, float *d_x, float *scratch))   \
    X(void, relu, (const float *x, int64_t n, int act, float *dst))                                                  \
    X(void, relu_bwd, (const float *d_y, const float *y, int64_t n, int act, float *d_x))                            \
    X(void, copy_rows, (float *dst, int64_t dst_ld, const float *src, int64_t src_ld, int64_t n, int64_t rows))      \
    X(void, add_rows, (float *dst, int64_t dst_ld, const float *src, int64_t src_ld, int64_t n, int64_t rows))       \
    X(void, add_period, (const float *acc, const float *g, int64_t n, int32_t period, float *dst))

#endif
