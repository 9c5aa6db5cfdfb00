/* Launchers of optim.cu: optimisers and the other updates of flat vectors of n entries. Variants V1, V4: entries to a
 * thread; V4 wants 16-byte alignment, n may be anything. Outputs may take the storage of the inputs they replace.
 *
 * Rates are read from the step block in device memory when the kernel runs, so that a captured launch follows them.
 * source of the formulas: the builder functions in graph.h.
 */
#ifndef DASS_KERNELS_OPTIM_H
#define DASS_KERNELS_OPTIM_H

#include <stddef.h>

#include "dass/step_block.h"
#include "kernels.h"

/* s = clip > 0 and norm2 given ? min(1, clip / (sqrt(norm2) + 1e-6)) : 1
 * m' = momentum m + s grad + decay theta, decay only where the bit is set;  theta' = theta - lr m'. Bytes: 20 n (+
 * n/8).
 */
typedef struct dass_k_sgd {
    dass_k_head head;
    const float *theta, *m, *grad;
    const dass_step_block *step;
    const float *norm2;   /* (1), NULL: no clip */
    const uint32_t *bits; /* NULL: all set */
    float *theta_out, *m_out;
    size_t n;
    uint32_t group; /* of lr and weight_decay */
    uint32_t pad_;
} dass_k_sgd;
DASS_K_API int dass_k_sgd_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* d = grad + decay theta;  m' = b1 m + (1 - b1) d;  v' = b2 v + (1 - b2) d^2
 * theta' = theta - lr (m' / (1 - b1^t)) / (sqrt(v' / (1 - b2^t)) + eps). Bytes: 28 n. */
typedef struct dass_k_adam {
    dass_k_head head;
    const float *theta, *m, *v, *grad;
    const dass_step_block *step;
    float *theta_out, *m_out, *v_out;
    size_t n;
    uint32_t group;
    uint32_t pad_;
} dass_k_adam;
DASS_K_API int dass_k_adam_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* avg' = avg + (1 - step.ema) (x - avg). Bytes: 12 n. */
typedef struct dass_k_ema {
    dass_k_head head;
    const float *avg, *x;
    const dass_step_block *step;
    float *avg_out;
    size_t n;
} dass_k_ema;
DASS_K_API int dass_k_ema_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* dst = saved - xi (momentum m + grad + decay saved), decay only where the bit is set. Bytes: 16 n (+ n/8). */
typedef struct dass_k_unroll {
    dass_k_head head;
    const float *saved, *m, *grad;
    const dass_step_block *step;
    const uint32_t *bits; /* NULL: all set */
    float *dst;
    size_t n;
    uint32_t group;
    uint32_t pad_;
} dass_k_unroll;
DASS_K_API int dass_k_unroll_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* dst = saved + length / sqrt(norm2) v;  norm2 = 0: dst = saved. length has the sign. Bytes: 12 n. */
typedef struct dass_k_shift {
    dass_k_head head;
    const float *saved, *v, *norm2;
    float *dst;
    size_t n;
    double length;
} dass_k_shift;
DASS_K_API int dass_k_shift_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* d_alpha' = d_alpha - xi (p - q) sqrt(norm2) / (2 length). Bytes: 16 n. */
typedef struct dass_k_hvp {
    dass_k_head head;
    const float *d_alpha, *p, *q, *norm2;
    const dass_step_block *step;
    float *dst;
    size_t n;
    double length;
} dass_k_hvp;
DASS_K_API int dass_k_hvp_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

#endif
