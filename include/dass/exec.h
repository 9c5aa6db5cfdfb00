/* Executors: graph + backend -> something that runs. And programs: several executors over one arena.
 *
 *     be  = dass_backend_open("host", ...)
 *     e   = dass_exec_make(be, g, opt)            select every node, plan the arena (no big memory yet)
 *     p   = dass_program_make(be, {e...}, bufs)   one arena of the largest plan; every kernel bound
 *     dass_program_run(p)                         the executors in order; zero allocations
 */
#ifndef DASS_EXEC_H
#define DASS_EXEC_H

#include "dass/backend.h"
#include "dass/config.h"
#include "dass/plan.h"

/* Names: "host" (the fast paths), "ref" and "ref64" (plain C, f32 and f64), "null" (plans, never computes), "cuda".
 * Errors: DASS_UNSUPPORTED with the reason when this build or machine has no such backend; never another instead. */
dass_status dass_backend_open(const char *name, const dass_backend_options *opt, dass_backend **out);
/* The same by NAME or NAME:NUMBER, with the threads and the precision of a configuration. Errors: also DASS_CONFIG. */
dass_status dass_backend_open_for(const dass_config *c, const char *device, dass_backend **out);
void dass_backend_close(dass_backend *be);
/* Registry, for `dass info`: name and availability text of backend i; NULL past the end. */
const char *dass_backend_name(size_t i);
const char *dass_backend_why_not(size_t i); /* NULL = available */
/* Kernel i of a backend that counts them, with its launches so far; NULL past the end and for other backends. Names of
 * our kernels begin with DASS_KERNEL_PREFIX; calls of a library are counted under its name, copies under "copy". */
#define DASS_KERNEL_PREFIX "dass_k_"
const char *dass_backend_kernel(const char *name, uint32_t i, uint64_t *launches);
/* Versions of the libraries behind a backend and its devices, a line each; "" when it has nothing to say. */
void dass_backend_describe(const char *name, char *text, size_t n_text);
/* Can a backend of this build and machine be opened with that precision, as far as the precision goes? */
bool dass_backend_has(const char *name, dass_precision precision);
dass_dtype dass_backend_real(const char *name); /* type of the graphs to build for it; F32 when unknown */

typedef struct dass_exec dass_exec;
typedef struct dass_exec_options {
    bool guard;       /* 256-byte tails of a pattern, temporaries start as NaN, both checked after each node */
    bool no_in_place; /* every value gets storage of its own */
    bool no_merge;    /* every node runs alone, in node order */
    bool no_capture;  /* every run enqueues its kernels one by one */
} dass_exec_options;

/* g must be finished and outlive the exec. */
dass_status dass_exec_make(dass_backend *be, const dass_graph *g, const dass_exec_options *opt, dass_exec **out);
void dass_exec_free(dass_exec *e);
const dass_plan *dass_exec_plan(const dass_exec *e);
const dass_graph *dass_exec_graph(const dass_exec *e);
const char *dass_exec_kernel_name(const dass_exec *e, dass_node n);

/* In guard mode, what every node leaves in its outputs of real numbers: elements [first, first + n) of value v as
 * doubles, in order, right after the node; at most 512 at a time. To find where two devices part. fn NULL: no more. */
typedef void (*dass_exec_watch_fn)(void *ctx, dass_node node, dass_val v, int64_t first, const double *x, int64_t n);
void dass_exec_watch(dass_exec *e, dass_exec_watch_fn fn, void *ctx);

typedef struct dass_exec_stats {
    uint32_t n_nodes, n_runs;         /* nodes; times at which something runs, after merging */
    uint32_t n_launches_alone;        /* launches of a run without merging; 0 where nothing is launched */
    uint32_t n_launches;              /* with merging */
} dass_exec_stats;
dass_exec_stats dass_exec_get_stats(const dass_exec *e);
/* Launches of one run, with merging, counted by name: fn is called for each, in order. None where nothing is launched.
 */
void dass_exec_each_launch(const dass_exec *e, void (*fn)(void *ctx, const char *name), void *ctx);

typedef struct dass_program dass_program;
/* bufs[i]: device pointer of buffer i (bufs[0] ignored), n_bufs entries; copied. Errors: DASS_NOMEM names the bytes of
 * the arena. With the null backend no arena is allocated and run is DASS_UNSUPPORTED. */
dass_status dass_program_make(dass_backend *be, dass_exec *const *execs, uint32_t n_execs, void *const *bufs,
                              uint32_t n_bufs, dass_program **out);
void dass_program_free(dass_program *p); /* not its execs */
dass_status dass_program_run(dass_program *p);
/* Run executors [first, first + n) in order, and wait for the end. Where the device can, the second such run is
 * recorded and from then on replayed as one; the numbers are the same. A recording that fails is a warning, and the
 * range is enqueued node by node from then on; the numbers are the same again. In guard mode errors are DASS_NUMERIC /
 * DASS_INTERNAL naming the node. */
dass_status dass_program_run_some(dass_program *p, uint32_t first, uint32_t n);
/* The same without the wait: a read of the backend waits, and gets to see what the run left and its errors. */
dass_status dass_program_start_some(dass_program *p, uint32_t first, uint32_t n);
dass_status dass_program_run_one(dass_program *p, uint32_t i);
size_t dass_program_recorded(const dass_program *p, uint32_t first, uint32_t n); /* launches of that replay; 0: none */
size_t dass_program_arena_bytes(const dass_program *p);

/* For each node the first of those that one launch runs, itself when it runs alone. leader has n_nodes entries. The
 * executor is bound. */
void dass_exec_leaders(const dass_exec *e, dass_node *leader);
/* Seconds of every node of executor i: sec has n_nodes entries; what is launched together counts for its leader.
 * Where the device records, each launch is recorded many times over, alone, and the mean taken: its inputs are then as
 * near as the cache can hold them, and what it updates in place is updated many times, so values mean nothing after. */
dass_status dass_program_profile(dass_program *p, uint32_t i, double *sec);
/* The same in place: executor i is run once, in order, nothing recorded, and each launch is timed where it stands, its
 * inputs as far away as its producers and what ran since left them. Values are those of a run. */
dass_status dass_program_profile_in_place(dass_program *p, uint32_t i, double *sec);

#endif
