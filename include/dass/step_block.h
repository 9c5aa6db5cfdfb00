/* The step block: what changes from step to step, so that the graphs, and what is captured of them, never do. Plain
 * data that kernels of every backend read; also compiled as C++.
 */
#ifndef DASS_STEP_BLOCK_H
#define DASS_STEP_BLOCK_H

#include <stdint.h>

/* What changes from step to step; 256 bytes at the head of the run, copied to the device before each one. */
typedef struct dass_step_block {
    double lr[4];                             /* 0 weights, 1 batch norm and biases, 2 scores, 3 alpha */
    double weight_decay[4];                   /* same order */
    double momentum, clip;                    /* SGD; global-norm clip, 0 = off */
    double beta1, beta2, adam_eps, adam_step; /* Adam; adam_step counts from 1 */
    uint64_t seed;
    uint32_t epoch, step;
    uint32_t valid; /* rows of the batch that count; 0 = all */
    uint32_t position;         /* of the batch in the order of its epoch, in batches: dass_gather */
    double drop_path, ema, xi; /* probability of dropping a path; decay of the average; step of the unrolled weights */
    double reserved[12];
} dass_step_block;
#ifndef __cplusplus
_Static_assert(sizeof(dass_step_block) == 256, "the step block is 256 bytes");
#endif

#endif
