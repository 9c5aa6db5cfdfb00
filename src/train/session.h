/* Private to src/train: what the commands share. A session is a backend, a network with its store, a data set and a run
 * folder; a stage is a number of epochs of one kind over it.
 */
#ifndef DASS_TRAIN_SESSION_H
#define DASS_TRAIN_SESSION_H

#include <jansson.h>
#include <stdio.h>

#include "dass/log.h"
#include "dass/run.h"

typedef struct dass__session {
    const dass_run_options *opt;
    const dass_config *cfg;
    const char *command; /* "search", "train", "prune", "eval" */
    dass_backend *be;
    dass_arch arch;
    dass_dataset *data;
    dass_store *store;
    dass_arena *mem; /* tables of kept counts */
    dass_segment *segments;
    int64_t n_segments;
    FILE *metrics;         /* NULL without a run folder */
    dass_step_block block; /* what the next step reads */
    double *alpha;         /* the ALPHA group, read after each epoch; NULL without */
    int64_t epochs_done;   /* over all stages: the epoch number of orders and augmentation */
} dass__session;

/* What one stage trains and how. Peaks of learning rates; 0 for what it leaves alone. */
typedef struct dass__stage {
    const char *name; /* "dense", "score", "finetune" */
    dass_stage stage;
    int64_t epochs;
    double lr_weights, lr_af, lr_scores, lr_min;
    bool alpha; /* a step of alpha on a validation batch before each step of weights */
    double label_smoothing;
} dass__stage;

/* Open backend, data and network; parameters from `from` or, NULL, from run.seed. The run folder gets config.yaml and
 * an empty metrics.jsonl. arch: borrowed. On error *s is closed. */
dass_status dass__session_open(const dass_run_options *opt, const char *command, const dass_arch *arch,
                               const dass_params *from, dass__session *s);
void dass__session_close(dass__session *s);

/* Zero the momenta, then train. weights: source of training batches; validation: of alpha's, NULL without. */
dass_status dass__stage_run(dass__session *s, const dass__stage *stage, dass_source *weights, dass_source *validation);
/* Scores from the weights, and the table of kept counts for the score stage. */
dass_status dass__scores_start(dass__session *s, const char *allocation, double density);
/* The mask of the present scores, into BITS. */
dass_status dass__mask_freeze(dass__session *s);
/* Test images with running statistics. */
dass_status dass__session_eval(dass__session *s, bool masked, double *loss, double *top1);
/* "final" line of metrics.jsonl, and a log line. */
dass_status dass__session_report(dass__session *s, double loss, double top1);

/* Files of the run folder; nothing happens without one. */
dass_status dass__save_params(dass__session *s, const char *state, double density, const char *allocation);
dass_status dass__save_genotype(dass__session *s, const dass_genotype *g);
/* One line of metrics.jsonl; takes the reference. */
dass_status dass__metrics_line(dass__session *s, json_t *line);

/* "cells C16 L8", "mobilenet_v2" ... */
void dass__network_text(const dass_arch *a, char *buf, size_t n);
/* Phase of a stage by the configuration; the caller adds mean and std, and what a score stage needs. */
dass_phase dass__phase_of(const dass_config *c, dass_task task, dass_stage stage);
/* The next batch of a source into the store; *out (not NULL): the batch. */
dass_status dass__feed(dass__session *s, dass_source *src, dass_batch *out);
/* Backend by "name" or "name:ordinal". */
dass_status dass__backend_open(const dass_config *c, const char *device, dass_backend **out);
/* Every parameter of the network into the store. */
dass_status dass__register_params(dass_store *s, const dass_arch *arch);

#endif
