/* Networks as graphs: the relaxed supernet and the discrete network of a genotype from one cell builder, and the fixed
 * networks of the zoo; and the graphs of each phase around them. A phase is another graph over the same store.
 */
#ifndef DASS_NET_H
#define DASS_NET_H

#include "dass/config.h"
#include "dass/space.h"

typedef enum dass_net_kind {
    DASS_NET_SUPERNET,
    DASS_NET_CELLS,
    DASS_NET_MOBILENET_V2,
    DASS_NET_RESNET18
} dass_net_kind;
typedef enum dass_form { DASS_FORM_CIFAR, DASS_FORM_IMAGENET } dass_form;

typedef struct dass_arch {
    dass_net_kind kind;
    dass_form form;
    int32_t channels, layers, nodes, classes, in_channels, image;
    dass_genotype genotype; /* CELLS */
} dass_arch;
/* From the configuration: net.genotype read if set, net.name looked up in the zoo. DASS_CONFIG, FORMAT, IO. */
dass_status dass_arch_from_config(const dass_config *c, dass_arch *out);

/* How the weights reach the convolutions. */
typedef enum dass_weights { DASS_WEIGHTS_DENSE, DASS_WEIGHTS_MASKED } dass_weights; /* buffer W, or buffer MASKED */
/* Which batch statistics. */
typedef enum dass_norm { DASS_NORM_BATCH, DASS_NORM_BATCH_TRACK, DASS_NORM_RUNNING } dass_norm;

/* What a derived cell network has in training only. */
typedef struct dass_net_extras {
    dass_val samples, step; /* drop_path: sample numbers i32 (N) and the step block, else 0 */
    bool drop_path;         /* on every edge but identities; a key is the edge's name: "cells.3.n4.e1" */
    bool auxiliary;         /* a second classifier on cell 2 layers/3: "auxiliary.conv1", ".bn1", ".conv2",
                             * ".bn2", ".classifier"; its parameters are flagged auxiliary and come last */
} dass_net_extras;

/* Build the network: x (N,C,H,W) -> logits (N,classes,1,1). Parameters are found or added in forward order by name.
 * SUPERNET  stem conv 3x3 to 3C with affine batch norm, `layers` cells, reductions at layers/3 and 2 layers/3
 *           (C doubles), non-affine batch norms, each mixed op softmaxed from ALPHA (normal rows first, then reduce),
 *           global pool, linear
 * CELLS     affine batch norms, no batch norm after pools; stems by form. Source: DARTS (Liu et al. 2019)
 * Weights' names: "stem.conv", "cells.3.pre0.conv", "cells.3.n4.e1.sep_conv_3x3.dw1" / ".pw1" / ".dw2" / ".pw2",
 * "classifier.weight".
 * extras: NULL for none. *aux_logits (N,classes,1,1): of the auxiliary head, 0 without one; may be NULL.
 * Errors: DASS_CONFIG for extras of a network other than CELLS, and for an image that the head does not fit. */
dass_status dass_net_build(dass_graph *g, dass_store *s, const dass_arch *arch, dass_weights weights, dass_norm norm,
                           dass_val x, const dass_net_extras *extras, dass_val *logits, dass_val *aux_logits);

/* A discrete network alone as evaluation runs it: the graph from x, reals (N,C,H,W) in buffer IMAGES, to the logits
 * with running statistics, not finished; and what its parameters hold, as doubles: data[b] of buffer b, NULL where none
 * lies. What src/infer compiles. */
typedef struct dass_net_eval {
    dass_graph *g;
    dass_val x, logits;
    double *data[DASS_N_BUFS];
} dass_net_eval;
/* The store is committed with AF, STAT and the buffer of `weights`. Errors: DASS_ARG for a supernet. */
dass_status dass_net_eval_make(dass_store *s, const dass_arch *arch, dass_weights weights, int32_t batch,
                               dass_net_eval *out);
void dass_net_eval_free(dass_net_eval *e); /* all-zero is fine */

/* ---- the graphs of the phases (phase.c) ------------------------------------------------------------------------ */

typedef enum dass_stage { DASS_STAGE_DENSE, DASS_STAGE_SCORE, DASS_STAGE_FINETUNE } dass_stage;

typedef enum dass_task {
    DASS_TASK_WEIGHTS, /* T_w: training batch -> gradients of weights (or scores) -> clip -> SGD */
    DASS_TASK_ALPHA,   /* V: validation batch -> gradient of alpha -> Adam */
    DASS_TASK_EVAL,    /* loss and correct only, running statistics for discrete networks */
    /* the second-order step of alpha, in this order; see below */
    DASS_TASK_UNROLL,         /* training batch: theta saved, theta <- theta' */
    DASS_TASK_UNROLLED_ALPHA, /* validation batch at theta': gradient of alpha, v; theta <- saved + eps v */
    DASS_TASK_HESSIAN_P,      /* training batch at saved + eps v: p; theta <- saved - eps v */
    DASS_TASK_HESSIAN_N       /* training batch at saved - eps v: n; theta <- saved; correction, Adam */
} dass_task;

/* Where a graph finds its batch and leaves loss and correct: IMAGES, LABELS, SAMPLES, LOSS, CORRECT, or the VAL_
 * buffers. With batches of their own, all graphs of a search step can run without a word from the host in between. */
typedef enum dass_inputs { DASS_INPUTS_MAIN, DASS_INPUTS_VALIDATION } dass_inputs;

/* A data set that lies in the store whole, in DATA_IMAGES and DATA_LABELS, and an order of its samples, in ORDER or
 * VAL_ORDER by the phase's inputs: the graph itself takes the batch at step.position out of it (dass_gather). */
typedef struct dass_resident {
    int32_t n;      /* samples; 0: the caller copies each batch into the buffers of dass_inputs */
    int32_t length; /* entries of the order */
} dass_resident;

typedef struct dass_phase {
    dass_task task;
    dass_inputs inputs;
    dass_resident resident;
    dass_stage stage; /* which of dense / scores / finetune: picks mask nodes and the trained groups */
    int32_t batch;
    unsigned lower; /* dass_lower_pass bits */
    double label_smoothing;
    int32_t pad, cutout; /* augmentation; eval ignores them */
    bool flip;
    const double *mean, *std;     /* in_channels each */
    const dass_segment *segments; /* SCORE stage: the table of kept counts */
    int64_t n_segments;
    /* of task WEIGHTS; the others leave them away */
    bool drop_path;   /* derived cell networks: dass_net_extras */
    double auxiliary; /* weight of the auxiliary head's loss; 0 = no head */
    bool ema;         /* averages of what the step changed: dass_ema into W_EMA (not in the score stage), AF_EMA,
                       * STAT_EMA, whose first values are the caller's */
} dass_phase;

/* Forward graph of a phase, lowered for `be` (be NULL: everything can), gradient taken, optimiser nodes appended,
 * finished:
 *
 *   WEIGHTS  dense     W -> net; gradients of W and AF; norm2 over both; sgd W, sgd AF
 *            score     threshold(SCORE) -> BITS, apply -> MASKED -> net; gradients of MASKED and AF; bwd_scores;
 *                      norm2 over SCORE_GRAD; sgd SCORE (group 2); sgd AF, clipped by a norm of its own
 *            finetune  apply -> MASKED -> net; gradients; bwd_weights (gradient times bit); norm2;
 *                      sgd W (decay on kept entries only), sgd AF
 *   ALPHA    the same heads, gradient of ALPHA only, Adam
 *   EVAL     loss and correct only
 *
 * The second-order step of alpha (unrolled.c) is four graphs over theta = W and AF, run in this order with one step
 * block, the training batch of the first given again to the last two; WEIGHTS follows on that batch. Dense and finetune
 * (the heads above; gradient of MASKED times bit is that of W). xi, momentum and weight decay are the step block's.
 *
 *   UNROLL          grad = gradients of W and AF, unclipped;  W_SAVED, AF_SAVED = theta;
 *                   theta = saved - xi (momentum m + grad + weight_decay saved), decay on kept entries only
 *   UNROLLED_ALPHA  ALPHA_GRAD = gradient of alpha;  v = gradients of W and AF, left in W_GRAD and AF_GRAD;
 *                   NORM2 = |v|^2 over both;  theta = saved + eps v,  eps = 0.01 / |v|
 *   HESSIAN_P       ALPHA_GRAD_P = gradient of alpha;  theta = saved - eps v
 *   HESSIAN_N       ALPHA_GRAD_N = gradient of alpha;  theta = saved, the same bytes;
 *                   ALPHA_GRAD -= xi (P - N) / (2 eps);  Adam
 *
 * They store activations as real numbers also for a device that is opened with bf16, in which a weight shifted by
 * eps v would mostly be the weight itself.
 *
 * No other graph may run in between: they share v and its norm. In the score stage these tasks are DASS_UNSUPPORTED:
 * weights move the loss there through a mask that scores decide, and scores that are shifted flip its bits, so that the
 * difference of gradients is of two networks and no derivative. That stage uses ALPHA (dass_alpha_tasks says so).
 *
 * Loss and correct, those of the main classifier, land in buffers LOSS and CORRECT. Inputs: STEP, and IMAGES, LABELS,
 * SAMPLES or what dass_resident says. Graphs that mask refer to the whole of group W, so a phase with an auxiliary head
 * is built first, or the head's parameters are in the store before. Where the store has a head that the phase does not
 * train, its gradient is 0. be, or NULL: whose fused ops may be used, and in which type activations are stored. */
dass_status dass_phase_build(dass_store *s, const dass_arch *arch, const dass_phase *phase, dass_dtype real,
                             dass_backend *be, dass_graph **out);

#define DASS_MAX_ALPHA_TASKS 4
/* The graphs that move alpha once, in their order; returns how many. order 1, or the score stage: ALPHA alone; order 2:
 * the four above. */
uint32_t dass_alpha_tasks(dass_stage stage, int64_t order, dass_task tasks[DASS_MAX_ALPHA_TASKS]);
/* The same as a configured search has them: none in the score stage where search.alpha.in_score is off. */
uint32_t dass_search_tasks(const dass_config *c, dass_stage stage, dass_task tasks[DASS_MAX_ALPHA_TASKS]);
/* Whether a graph of a search reads the validation batch (ALPHA, UNROLLED_ALPHA, EVAL) or the training batch. */
bool dass_task_validates(dass_task task);

/* Sizes of a network, counted from its graph and store (auxiliary parameters left out). */
typedef struct dass_net_count {
    int64_t weights;  /* maskable */
    int64_t params;   /* weights + unpruned */
    int64_t unpruned; /* batch norm and biases */
    int64_t alphas;
    int64_t macs_per_image;
    int64_t nodes_forward; /* of the lowered forward graph */
} dass_net_count;
dass_status dass_net_measure(const dass_arch *arch, unsigned lower, dass_net_count *out);

#endif
