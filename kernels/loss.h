/* Launchers of loss.cu: softmax over rows, cross-entropy, and their gradients. A warp to a row; sums over a row are
 * formed in double across the warp. No variants unless said.
 */
#ifndef DASS_KERNELS_LOSS_H
#define DASS_KERNELS_LOSS_H

#include "dass/step_block.h"

#include "kernels.h"

/* p = exp(x - max) / sum exp(x - max) of each row of x (rows, cols); p may be x. Bytes: 8 rows cols. */
typedef struct dass_k_softmax {
    dass_k_head head;
    const float *x;
    float *p;
    uint32_t rows, cols;
} dass_k_softmax;
DASS_K_API int dass_k_softmax_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* d_x = p (d_p - sum over the row of d_p p); d_x may be d_p. Bytes: 12 rows cols. */
typedef struct dass_k_softmax_bwd {
    dass_k_head head;
    const float *d_p, *p;
    float *d_x;
    uint32_t rows, cols;
} dass_k_softmax_bwd;
DASS_K_API int dass_k_softmax_bwd_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* logits and probs (rows, cols), labels (rows); a row counts when it is below step.valid (0: all), n_valid of them.
 * With t_c = (1 - smoothing) [c = label] + smoothing / cols: loss = mean over rows that count of -sum_c t_c log p_c,
 * correct = number of them whose first maximum is the label probs = softmax of every row. part: 2 rows doubles.
 * counter: as in dass_k_reduce. Variants: float, bf16 logits. Bytes: 8 rows cols. */
typedef struct dass_k_xent {
    dass_k_head head;
    const void *logits;
    const int32_t *labels;
    const dass_step_block *step;
    float *loss, *correct, *probs;
    double *part;
    uint32_t *counter;
    double smoothing;
    uint32_t rows, cols;
} dass_k_xent;
DASS_K_API int dass_k_xent_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* d_logits = (probs - t) / n_valid, 0 in rows that do not count; probs are float whatever d_logits is, which may be
 * probs only when both are. Variants V1, V4 (cols % 4 = 0), and both in bf16.
 * Bytes: 8 rows cols. */
typedef struct dass_k_xent_bwd {
    dass_k_head head;
    const float *probs;
    const int32_t *labels;
    const dass_step_block *step;
    void *d_logits;
    double smoothing;
    uint32_t rows, cols;
} dass_k_xent_bwd;
DASS_K_API int dass_k_xent_bwd_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

#endif
