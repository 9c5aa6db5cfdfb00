/* Pictures of a run folder as SVG files: the two cells of a genotype, the alphas of a search, the curves of training.
 * Everything is drawn from the files that a run leaves; nothing is computed again.
 *
 *     genotype.json   ->  cell_normal.svg, cell_reduce.svg
 *     alphas.jsonl    ->  alphas.svg    {"stage":"score","epoch":3,"normal":[[8 raw alphas] per edge],"reduce":[...]}
 *     metrics.jsonl   ->  curves.svg    {"stage":"dense","epoch":3,"epochs":20,"train_loss":...,"train_top1":...}, with
 *                                       "val_loss" and "val_top1" or without; last {"stage":"test","test_loss":...,
 *                                       "test_top1":...}
 *
 * In both .jsonl files the epochs of a stage count from 1 without a gap, accuracies are in [0, 1], and a last line that
 * is still being written is passed over. The same input gives the same bytes, whatever the locale.
 */
#ifndef DASS_PLOT_H
#define DASS_PLOT_H

#include "dass/space.h"

#define DASS_PLOT_MAX_FILES 4
#define DASS_PLOT_PATH 4096

typedef struct dass_plot_files {
    int n;
    char path[DASS_PLOT_MAX_FILES][DASS_PLOT_PATH];
} dass_plot_files;

/* Every picture whose source `from` holds, into out_dir (made if missing; NULL: into from), each file complete or
 * absent. from: a run folder, or a genotype file, which needs out_dir. *out: what was written, in the order above; on
 * error what was written before it. A source without a complete epoch yet is a warning. Errors: DASS_IO, DASS_ARG,
 * DASS_FORMAT naming file and line; DASS_IO when there is nothing to draw. */
dass_status dass_plot_run(const char *from, const char *out_dir, dass_plot_files *out);

/* One picture as NUL-ended text; free with dass_mem_free. The normal cell or the reduction cell of a genotype: one
 * arrow per gene, labelled, and one per node of the concat. */
dass_status dass_plot_cell(const dass_genotype *g, bool reduce, char **svg);
/* The same of n_bytes of alphas.jsonl and metrics.jsonl; `name` stands for the file in errors. *svg is NULL when there
 * is no complete epoch. Errors: DASS_FORMAT. */
dass_status dass_plot_alphas(const char *name, const char *text, size_t n_bytes, char **svg);
dass_status dass_plot_curves(const char *name, const char *text, size_t n_bytes, char **svg);

#endif
