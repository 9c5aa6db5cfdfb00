/* The commands as functions: search, derive, train, prune, eval. Each reads a configuration, leaves its results in a
 * run folder, and returns a status; nothing is printed on stdout here.
 *
 *     search   supernet: dense -> score -> finetune stages, alpha trained against the masked network
 *              -> config.yaml, metrics.jsonl, genotype.json, params.safetensors
 *     derive   params of a supernet -> genotype
 *     train    a genotype or a network of the zoo, dense, cosine schedule -> config, metrics, params
 *     prune    params -> scores trained, mask frozen, kept weights trained -> config, metrics, params with mask
 *     eval     params -> accuracy on the test images with running batch-norm statistics
 *
 * A run that was stopped, by a signal or by anything else, goes on when it is asked for again with the same folder and
 * configuration, from its newest checkpoint, and then leaves the same bytes (config, metrics, genotype, checkpoints,
 * parameters) as one that was never stopped. A run that is complete is completed once more, which changes nothing.
 */
#ifndef DASS_RUN_H
#define DASS_RUN_H

#include <signal.h>

#include "dass/ckpt.h"
#include "dass/data.h"
#include "dass/step.h"

typedef struct dass_run_options {
    const dass_config *config;
    const char *out_dir; /* made if missing; a run in it goes on, DASS_CONFIG if it has another configuration;
                            NULL: nothing is written */
    bool restart;        /* remove the run that is there first */
    const volatile sig_atomic_t *stop; /* when it becomes a signal's number: finish the step, checkpoint, return
                             DASS_INTERRUPTED for SIGINT, DASS_STOPPED for others; NULL: never */
    const char *build_id;              /* for config.yaml; NULL = unknown */
    const char *command;               /* the same: the command line */
    bool guard;                        /* executors in guard mode */
    bool quiet;                        /* no progress lines */
} dass_run_options;

/* search.method dass: the three stages. darts: one dense stage of as many epochs. random: no training at all, a
 * genotype from run.seed. search.order 2: alpha's gradient through one unrolled step, but first order in
 * the score stage (net.h says why). *out: the genotype. */
dass_status dass_run_search(const dass_run_options *opt, dass_genotype *out);
dass_status dass_run_derive(const char *from, dass_genotype *out);
dass_status dass_run_train(const dass_run_options *opt);
/* from: folder or file that train left. The network is the file's; net.* of the configuration must agree. */
dass_status dass_run_prune(const dass_run_options *opt, const char *from);

/* What is about to be done with a configuration. */
enum {
    DASS_USE_SEARCH = 1u << 0,
    DASS_USE_TRAIN = 1u << 1,
    DASS_USE_PRUNE = 1u << 2,
    DASS_USE_EVAL = 1u << 3,
    DASS_USE_LATENCY = 1u << 4
};
typedef struct dass_use {
    unsigned commands;      /* DASS_USE_* bits; of `plan` and `bench step` all that the configuration describes */
    const char *who;        /* "dass train", for messages; NULL: the network */
    dass_net_kind kind;
    bool of_run;            /* the network is a run's, not that of net.* */
    bool dense_only;        /* of LATENCY: nothing sparse is timed */
    const char *quiet_file; /* the run's own config.yaml, of which nothing is said; NULL: none */
} dass_use;
/* A setting given on the command line that nothing reads is DASS_CONFIG naming it and why, unless its value switches
 * something off (0, false, off, '', auto). Settings from a file, which may serve several networks and methods, are
 * listed in one line of the log, and drop-path and auxiliary head are switched off where the network has none; those of
 * other commands' sections are passed over. */
dass_status dass_config_check_use(dass_config *c, const dass_use *use);

typedef struct dass_eval {
    char state[16];                  /* "dense", "pruned" */
    char network[64];                /* "cells C8 L5", "resnet18" */
    int64_t n;                       /* images */
    double loss, top1;               /* top1 in [0, 1] */
    int64_t weights, kept, unpruned; /* maskable, of these kept, batch norm and biases */
    int64_t macs, sparse_macs;       /* per image, of convolutions: all, those with a kept weight */
} dass_eval;
dass_status dass_run_eval(const dass_run_options *opt, const char *from, dass_eval *out);

/* Defaults, then the settings of a run folder. *found: whether it has a config.yaml, without which *c is left alone.
 * DASS_FORMAT when the file was emptied or cut. */
dass_status dass_run_settings(const char *folder, dass_config *c, bool *found);
/* Copy the network of a parameter file into net.* and say so in the origins, so that later stages size themselves by
 * it. DASS_CONFIG when a value given on the command line differs. */
dass_status dass_run_adopt(dass_config *c, const dass_params *p);

/* peak -> min over n epochs, at epoch e in [0, n). */
double dass_cosine(double peak, double min, int64_t e, int64_t n);
/* Mean entropy of the rows of softmax(alpha), in nats. */
double dass_alpha_entropy(const double *alpha, int64_t n_rows, int32_t n_cols);

/* ---- sizes, for `dass plan` ----------------------------------------------------------------------------------- */

typedef struct dass_stage_size {
    const char *stage; /* "dense" "score" "finetune" */
    const char *task;  /* "weights" "eval" "alpha", or "unroll" "unrolled" "hessian+" "hessian-" in second order */
    int32_t batch;
    int64_t nodes;
    int64_t launches_alone, launches; /* on a device, node by node and merged; 0 where nothing is launched */
    size_t peak_bytes, bound_bytes, sum_bytes;
} dass_stage_size;

typedef struct dass_big_value {
    char text[160]; /* name, shape and maker */
    size_t bytes;
    uint32_t first, last; /* nodes of its life */
} dass_big_value;

#define DASS_MAX_STAGE_SIZES 12
#define DASS_N_BIG_VALUES 10

typedef struct dass_sizes {
    bool supernet;
    char network[64];
    char backend[16], precision[8]; /* run.precision */
    dass_net_count count;
    int64_t kept;
    double density;     /* kept / weights */
    int64_t nodes_step; /* supernet: weight graph + alpha graphs of a dense step; else the training graph */
    size_t param_bytes; /* buffers other than inputs that any stage uses */
    size_t input_bytes;
    int32_t batch;
    uint32_t n_stages, largest; /* largest: index of the stage with the highest peak */
    dass_stage_size stage[DASS_MAX_STAGE_SIZES];
    uint32_t n_big;
    dass_big_value big[DASS_N_BIG_VALUES]; /* of the largest stage */
} dass_sizes;
/* Graphs and plans of every stage on backend `device`; allocates no parameters. */
dass_status dass_sizes_measure(const dass_config *c, const char *device, dass_sizes *out);

#endif
