/* Private to src/train: what the commands share. A session is a backend, a network with its store, a data set and a run
 * folder; a stage is a number of epochs of one kind over it; progress says how far a list of stages has come.
 */
#ifndef DASS_TRAIN_SESSION_H
#define DASS_TRAIN_SESSION_H

#include <jansson.h>
#include <stdio.h>

#include "dass/clock.h"
#include "dass/log.h"
#include "dass/run.h"

/* How far a run has come: in every checkpoint, and enough to go on from one. X(TYPE, name), TYPE INT or REAL. */
#define DASS__PROGRESS_MAP(X)                                                              \
    X(INT, stage)       /* index in the command's list of stages */                        \
    X(INT, epoch)       /* finished epochs of that stage */                                \
    X(INT, step)        /* finished steps of the epoch after these */                      \
    X(INT, epochs_done) /* over all stages: the epoch number of orders and augmentation */ \
    X(INT, steps_done)  /* over all stages */                                              \
    X(INT, alpha_steps) /* Adam's t */                                                     \
    X(REAL, train_loss) /* sums over `step` steps */                                       \
    X(REAL, train_correct)                                                                 \
    X(REAL, val_loss)                                                                      \
    X(REAL, val_correct)                                                                   \
    X(INT, metrics_bytes) /* how much of the logs belongs to this state */                 \
    X(INT, alphas_bytes)                                                                   \
    X(INT, warned) /* bits of what has been warned of */

typedef struct dass__progress {
#define DASS__PROGRESS_INT int64_t
#define DASS__PROGRESS_REAL double
#define X(type, name) DASS__PROGRESS_##type name;
    DASS__PROGRESS_MAP(X)
#undef X
} dass__progress;

/* Files of a run folder that grow. NULL without a folder. */
typedef struct dass__folder {
    int lock; /* of the folder; -1 without */
    FILE *metrics, *alphas, *times;
} dass__folder;

typedef struct dass__session {
    const dass_run_options *opt;
    const dass_config *cfg;
    const char *command; /* "search", "train", "prune", "eval" */
    dass_backend *be;
    dass_arch arch;
    dass_dataset *data;
    dass_store *store;
    dass_arena *mem; /* the table of kept counts */
    dass_segment *segments;
    int64_t n_segments;
    double start_density; /* of prune: what part of the weights the given network still has; 1: all */
    dass__folder folder;
    dass_step_block block; /* what the next step reads */
    bool resident;         /* training batches are taken on the device: resident.c */
    dass_resident data_set; /* what the phases need to know of it */
    int32_t *order;         /* of an epoch, on its way to the device */
    double *alpha;         /* the ALPHA group, read after each epoch; NULL without */
    dass__progress at;
    char saved[64];           /* the newest checkpoint, in the folder; "" as long as there is none */
    bool resumed;             /* `at` came from a checkpoint, in the middle of the stage it names */
    double total_steps;       /* of all stages, for the remaining time */
    double began, last_saved; /* seconds of the monotonic clock */
    int64_t began_steps;      /* at.steps_done when this process began */
    int64_t timed_steps;      /* at.steps_done at the last line of times.jsonl */
    double timed;             /* and its time */
} dass__session;

/* What one stage trains and how. Peaks of learning rates; 0 for what it leaves alone. */
typedef struct dass__stage dass__stage;
struct dass__stage {
    const char *name; /* "dense", "score", "finetune", "gradual" */
    dass_stage stage;
    int64_t epochs, warmup;
    double lr_weights, lr_af, lr_scores, lr_min;
    bool alpha;        /* a step of alpha on a validation batch before each step of weights */
    bool second_order; /* alpha's gradient through one unrolled step of the weights */
    double label_smoothing;
    double drop_path; /* at the end of a run of drop_path_epochs, rising linearly from 0 */
    int64_t drop_path_epochs;
    double auxiliary, ema;
    /* Before the stage's first step, not when it is resumed; NULL: nothing. */
    dass_status (*enter)(dass__session *s, const dass__stage *stage);
    /* Before a step, when at.step of all steps of the stage is a multiple of `every`; NULL: nothing. May allocate. */
    dass_status (*change)(dass__session *s, const dass__stage *stage, int64_t done, int64_t total);
    int64_t every;
    dass_config_key rate; /* the setting to lower when the stage diverges */
};

/* ---- session.c ------------------------------------------------------------------------------------------------ */

/* Open backend, data and network. The run folder is locked and its configuration compared; parameters come from its
 * newest checkpoint, or from `from`, or, NULL, from run.seed. arch: borrowed. On error *s is closed. */
dass_status dass__session_open(const dass_run_options *opt, const char *command, const dass_arch *arch,
                               const dass_params *from, dass__session *s);
void dass__session_close(dass__session *s);
/* "cells C16 L8", "mobilenet_v2" ... */
void dass__network_text(const dass_arch *a, char *buf, size_t n);
/* Phase of a stage by the configuration; the caller adds mean and std, and what a score stage needs. */
dass_phase dass__phase_of(const dass_config *c, dass_task task, dass_stage stage);
/* The next batch of a source into the store; *out (not NULL): the batch. */
dass_status dass__feed(dass__session *s, dass_source *src, dass_batch *out);
/* A batch into the store. */
dass_status dass__feed_batch(dass__session *s, dass_inputs to, const dass_batch *batch);
/* Every parameter of the network into the store, those of the auxiliary head too if it is wanted. */
dass_status dass__register_params(dass_store *s, const dass_arch *arch, bool auxiliary);

/* ---- stage.c -------------------------------------------------------------------------------------------------- */

/* Run a list of stages from where s->at stands, checkpointing. weights: source of training batches; validation: of
 * alpha's, NULL without. Momenta begin at zero in each stage. DASS_STOPPED or DASS_INTERRUPTED, with a checkpoint
 * written, when the caller's flag asks for it. */
dass_status dass__stages_run(dass__session *s, const dass__stage *stages, int64_t n, dass_source *weights,
                             dass_source *validation);

/* The signal that asked the run to end; 0: none. */
int dass__stop_asked(const dass__session *s);
/* The run ends between two steps because of that signal, with everything saved: DASS_STOPPED or DASS_INTERRUPTED. */
dass_status dass__stopped(const dass__session *s, int signal_number);

/* ---- resident.c: the training images in the store --------------------------------------------------------------- */

/* Whether they go there, by data.resident: s->resident. Nothing is allocated yet. */
dass_status dass__resident_decide(dass__session *s);
/* Room in the store for images, labels and the orders of both sources (validation: NULL for none); the data set is
 * copied there. Without s->resident, nothing. */
dass_status dass__resident_open(dass__session *s, const dass_source *weights, const dass_source *validation);
/* Both sources' orders of an epoch into the store, from its first step on. Without s->resident the sources are sent to
 * step `step` of the epoch instead. */
dass_status dass__resident_epoch(dass__session *s, dass_source *weights, dass_source *validation, uint32_t epoch,
                                 int64_t step);

/* ---- report.c: what people and metrics.jsonl get to see ------------------------------------------------------- */

void dass__report_progress(const dass__session *s, const dass__stage *stage, int64_t n_steps, double epoch_began,
                           bool done);
/* Lines of metrics.jsonl and alphas.jsonl for the epoch that s->at has just finished, genotype.json, and warnings. */
dass_status dass__report_epoch(dass__session *s, const dass__stage *stage);
/* "test" line of metrics.jsonl, and a log line. */
dass_status dass__report_test(dass__session *s, double loss, double top1);
/* The closing lines of a command, on stderr. */
void dass__report_end(const dass__session *s);

/* ---- pruning.c: masks ----------------------------------------------------------------------------------------- */

/* Scaled scores of the present weights, and the table of kept counts. */
dass_status dass__scores_start(dass__session *s, const char *allocation, double density);
/* The mask of the present scores, into BITS. */
dass_status dass__mask_freeze(dass__session *s);
/* Mask by magnitude of the weights that are still kept, at `density`: what is pruned stays pruned. */
dass_status dass__mask_shrink(dass__session *s, const char *allocation, double density);
/* Density of gradual pruning after the part t in [0, 1] of its steps: start - (start - target)(1 - (1 - t)^3). */
double dass__gradual_density(double start, double target, double t);
/* Of a network that is pruned already: its removed weights become 0 and s->start_density says what is left. DASS_CONFIG
 * when prune.density keeps more than that. */
dass_status dass__start_from_pruned(dass__session *s, const dass_params *from);

/* ---- eval.c --------------------------------------------------------------------------------------------------- */

/* Test images with running statistics. */
dass_status dass__session_eval(dass__session *s, bool masked, double *loss, double *top1);

/* ---- run_folder.c: nothing happens without a folder ----------------------------------------------------------- */

/* Make and lock the folder; compare the configuration with what an earlier run of it left, or write it. */
dass_status dass__folder_open(dass__session *s, const dass_params *from);
/* Open the growing files, cut to what s->at says. */
dass_status dass__folder_logs(dass__session *s);
void dass__folder_close(dass__session *s);
/* Names that were made in the folder reach the disk. */
dass_status dass__folder_sync(const dass__session *s);
const char *dass__in_folder(const dass__session *s, const char *file, char *buf, size_t n);
dass_status dass__save_params(dass__session *s, const char *state, double density, const char *allocation);
dass_status dass__save_genotype(dass__session *s, const dass_genotype *g);
/* One line; takes the reference of `line`. s->at.metrics_bytes and alphas_bytes grow. */
dass_status dass__metrics_line(dass__session *s, json_t *line);
dass_status dass__alphas_line(dass__session *s, json_t *line);
/* Wall time since the last such line. */
dass_status dass__times_line(dass__session *s, const char *stage);

/* ---- checkpoint.c --------------------------------------------------------------------------------------------- */

/* All state, atomically: checkpoint/epoch-NNNNNN.safetensors after an epoch (the last run.keep of them stay), or
 * checkpoint/partial.safetensors within one. DASS_NUMERIC, naming the tensor, when something of it is not finite; then
 * nothing is written and nothing removed. */
dass_status dass__checkpoint_save(dass__session *s, bool partial);
/* The newest readable one into the store and s->at; s->resumed says whether there was one. A damaged one is reported
 * and the one before it taken; DASS_FORMAT when none of several can be read. */
dass_status dass__checkpoint_load(dass__session *s);
/* DASS_NUMERIC, "NAME[element] is inf", when something of the state is not finite. */
dass_status dass__state_check(dass__session *s);
/* Remove all of them. */
dass_status dass__checkpoint_forget(dass__session *s);
/* Remove halves of checkpoints that a killed process was writing. The folder is locked. */
dass_status dass__checkpoint_sweep(const dass__session *s);

#endif
