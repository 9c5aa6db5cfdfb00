/* Phases made runnable: the graphs of a step, their executors, and one program over one arena. What training, the
 * step benchmark and `dass plan` have in common; it decides nothing about learning.
 *
 *     DASS_TRY(dass_steps_plan(store, &arch, phase, 2, be, &opt, &steps));   graphs and plans; no device memory yet
 *     DASS_TRY(dass_steps_bind(store, &steps));                              commits the buffers they use, binds
 *     DASS_TRY(dass_steps_run(store, &steps, 0, &block, &loss, &correct));
 *     dass_steps_close(&steps);
 */
#ifndef DASS_STEP_H
#define DASS_STEP_H

#include "dass/net.h"

#define DASS_MAX_STEPS 8

typedef struct dass_steps {
    dass_backend *be;
    uint32_t n;
    dass_graph *graph[DASS_MAX_STEPS];
    dass_exec *exec[DASS_MAX_STEPS];
    dass_inputs inputs[DASS_MAX_STEPS];
    dass_program *program;
} dass_steps;

/* Build and plan n phases. On error nothing stays open. */
dass_status dass_steps_plan(dass_store *s, const dass_arch *arch, const dass_phase *phase, uint32_t n, dass_backend *be,
                            const dass_exec_options *opt, dass_steps *out);
/* The same around one finished graph, which is taken over (freed on error too). */
dass_status dass_steps_wrap(dass_graph *g, dass_backend *be, const dass_exec_options *opt, dass_steps *out);
/* Commit every buffer the graphs use, and the groups and inputs, then make the program. */
dass_status dass_steps_bind(dass_store *s, dass_steps *p);
/* Copy a batch of `rows` images, labels and sample numbers into the store's inputs; image_bytes: of one image. */
dass_status dass_steps_feed(dass_store *s, dass_inputs to, const uint8_t *images, size_t image_bytes,
                            const int32_t *labels, const int32_t *samples, int32_t rows);
/* Whether n training images of image_bytes go into the store, as config.def says of data.resident. auto asks the
 * backend for its room: half of it is left to what a stage needs beside them, and where they want more, a warning that
 * `what` begins gives both numbers. Errors: DASS_NOMEM when it is `on` and they are more than all of the room. */
dass_status dass_resident_choose(const dass_config *c, dass_backend *be, int64_t n, size_t image_bytes,
                                 const char *what, bool *out);
/* Make room in the store for r.n images with their labels and one order of r.length, two with `validation`; then copy
 * the images and labels there. The orders (ORDER, VAL_ORDER) are the caller's to write. */
dass_status dass_resident_write(dass_store *s, dass_backend *be, dass_resident r, bool validation,
                                const uint8_t *images, size_t image_bytes, const int32_t *labels);
/* Write the step block, run phase i, read loss and correct (each may be NULL). The device is waited for once. */
dass_status dass_steps_run(dass_store *s, dass_steps *p, uint32_t i, const dass_step_block *block, double *loss,
                           double *correct);
/* The same for all phases in order, as one: loss and correct are those of the last phase with main inputs; val_loss and
 * val_correct those of the last with validation inputs, untouched when there is none. */
dass_status dass_steps_run_all(dass_store *s, dass_steps *p, const dass_step_block *block, double *loss,
                               double *correct, double *val_loss, double *val_correct);
void dass_steps_close(dass_steps *p); /* all-zero is fine */
/* Bit set of the buffers that values of g lie in. */
uint64_t dass_graph_bufs(const dass_graph *g);
/* Threshold graph alone: SCORE -> BITS by the table of kept counts. */
dass_status dass_threshold_build(const dass_store *s, const dass_segment *segments, int64_t n_segments, dass_dtype real,
                                 dass_graph **out);

#endif
