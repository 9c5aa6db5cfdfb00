/* What exec.c, program.c, guard.c and null.c share. */
#ifndef DASS_EXEC_PRIVATE_H
#define DASS_EXEC_PRIVATE_H

#include "dass/exec.h"
#include "dass/plugin.h"

#define DASS__MAX_MERGED 256 /* nodes in one run; more of one time make several runs */

/* The nodes of one time that one kernel runs: one node, or several merged. */
typedef struct dass__run {
    dass_kernel kernel;
    dass_node node; /* the first of them */
    uint32_t n_nodes;
} dass__run;

struct dass_exec {
    dass_backend *be;
    const dass_graph *g;
    dass_exec_options opt;
    dass_arena *mem;      /* impls of the kernels */
    dass_kernel *kernels; /* per node */
    size_t *ws_bytes;     /* per node */
    uint32_t n_selected;  /* kernels[1 .. n_selected) are to be dropped */
    dass_plan *plan;
    dass__run *runs; /* in order; made when bound */
    uint32_t n_runs;
    dass_exec_watch_fn watch; /* NULL: nobody looks on */
    void *watch_ctx;
};

extern const dass_backend_ops dass__backend_null;

/* The CUDA plugin, loaded when first asked for. *why: NULL when a device can be opened, else what is missing. Returns
 * NULL when there is no plugin at all. (plugin_load.c) */
const dass_plugin *dass__plugin_cuda(const char **why);

/* Address of a value: in the arena, or in its buffer. */
void *dass__exec_pointer(const dass_exec *e, dass_val v, unsigned char *arena, void *const *bufs);
dass_status dass__exec_bind(dass_exec *e, unsigned char *arena, void *const *bufs, uint32_t n_bufs);
dass_status dass__exec_run(dass_exec *e);
dass_status dass__exec_profile(dass_exec *e, double *sec);
dass_status dass__exec_profile_in_place(dass_exec *e, double *sec);
/* Run with redzones: outputs start as NaN, and after each node its tails and its finiteness are checked (guard.c). */
dass_status dass__exec_run_guarded(dass_exec *e, unsigned char *arena, void *const *bufs);

#endif
