/* Argument structs and list of the functions in vec_flat.c. Included by vec_api.h only. */
#ifndef DASS_VEC_FLAT_H
#define DASS_VEC_FLAT_H

typedef struct dass__v_sgd {
    float scale, decay, momentum, lr; /* scale: of the gradient */
} dass__v_sgd;

/* rest: 1 - beta, correct: 1 / (1 - beta^t), formed in double */
typedef struct dass__v_adam {
    float decay, lr, eps;
    float beta1, rest1, correct1;
    float beta2, rest2, correct2;
} dass__v_adam;

typedef struct dass__v_unroll {
    float decay, momentum, xi;
} dass__v_unroll;

/* n floats each; `bits` starts at a word boundary, entry i is bit i % 64 of word i / 64.
 * mask_apply     dst = x where the bit is set, else 0; dst may be x
 * mask_scores    dst = d w sign(s)
 * mask_above     keep[i] = bits of |s_i|, as an integer, > t (or >= t when `equal`)
 * mask_pack      bit i = byte i (0 or 1), bits behind n are 0
 * norm2          sum of squares
 * sgd, adam      as dass_sgd and dass_adam define them; bits NULL = decay everywhere
 * unroll         as dass_unroll defines it; bits as above
 * shift          dst = x + eps v
 * hvp            dst = d - rate (p - q) */
#define DASS__VEC_FLAT(X)                                                                                            \
    X(void, mask_apply, (const float *x, const uint64_t *bits, int64_t n, float *dst))                               \
    X(void, mask_scores, (const float *d, const float *w, const float *s, int64_t n, float *dst))                    \
    X(void, mask_above, (const float *s, int64_t n, uint32_t t, bool equal, uint8_t *keep))                          \
    X(void, mask_pack, (const uint8_t *keep, int64_t n, uint64_t *bits))                                             \
    X(double, norm2, (const float *x, int64_t n))                                                                    \
    X(void, sgd,                                                                                                     \
      (const dass__v_sgd *a, const float *theta, const float *m, const float *grad, const uint64_t *bits, int64_t n, \
       float *theta_out, float *m_out))                                                                              \
    X(void, adam,                                                                                                    \
      (const dass__v_adam *a, const float *theta, const float *m, const float *v, const float *grad, int64_t n,      \
       float *theta_out, float *m_out, float *v_out))                                                                 \
    X(void, unroll,                                                                                                  \
      (const dass__v_unroll *a, const float *saved, const float *m, const float *grad, const uint64_t *bits,         \
       int64_t n, float *dst))                                                                                       \
    X(void, shift, (float eps, const float *x, const float *v, int64_t n, float *dst))                               \
    X(void, hvp, (float rate, const float *d, const float *p, const float *q, int64_t n, float *dst))

#endif
