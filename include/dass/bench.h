/* Measurements: what this machine can do at best, and what one step of search or training costs on it. Times are of the
 * real step over random images; nothing is learnt.
 */
#ifndef DASS_BENCH_H
#define DASS_BENCH_H

#include "dass/net.h"

/* Ceilings of the machine, all threads, the best of several short runs. */
typedef struct dass_peak {
    int threads;
    const char *isa; /* vector set of the multiply-add loop: "avx512", "avx2", "sse2"; a device's: "library" */
    double gflops;   /* f32 fused multiply-adds from registers, two operations each; a device's: of a large product */
    double read_gbs; /* GB/s of a sum over memory larger than the caches */
    double copy_gbs; /* GB/s of memcpy, bytes read plus bytes written */
} dass_peak;
/* threads 0: all. Takes about half a second. Errors: DASS_NOMEM. */
dass_status dass_peak_measure(int threads, dass_peak *out);
/* The same of a device that is not the processor, in the precision it was opened with (peak_device.c). */
typedef struct dass_peak_size {
    size_t bytes; /* of memory summed and copied, a multiple of 4, below 8 GiB: more than the caches hold */
    int32_t rows; /* n of a product (2n x n) times (n x n) */
} dass_peak_size;
#define DASS_PEAK_SIZE ((dass_peak_size){.bytes = (size_t)512 << 20, .rows = 4096})
/* Errors: DASS_NOMEM and those of the device. */
dass_status dass_peak_measure_device(dass_backend *be, dass_peak_size size, dass_peak *out);

/* Time of one kind of operation, or of one node. */
typedef struct dass_bench_row {
    char name[200];
    int64_t count;       /* nodes in a step */
    double sec;          /* alone: the same launch again and again, its inputs in the cache as far as they go in */
    double in_place_sec; /* where it stands in a step, behind what ran before it: median of many steps */
    double flops, bytes;
} dass_bench_row;

#define DASS_BENCH_MAX_OPS 64
#define DASS_BENCH_TOP 12

typedef struct dass_bench_step {
    char network[64];
    const char *stage;
    int32_t batch;
    int n_repeats;
    double step_ms, step_p90_ms;         /* the whole step, as training does it: median, 90th percentile */
    double weight_step_ms, arch_step_ms; /* its graphs alone, medians; a fixed network has one: the whole, and 0 */
    double images_per_s;                 /* training images per second of the whole step */
    size_t peak_rss_bytes, planned_bytes, groups_bytes, input_bytes;
    int64_t nodes;
    bool has_ops; /* the following are filled */
    dass_peak peak;
    double ops_sec, ops_in_place_sec; /* all operations together */
    int n_in_place;                   /* steps that were timed in place */
    uint32_t n_ops, n_top;
    dass_bench_row op[DASS_BENCH_MAX_OPS]; /* by falling time in place */
    dass_bench_row top[DASS_BENCH_TOP];
} dass_bench_step;
typedef struct dass_bench_step_options {
    const char *stage;   /* "dense", "score", "finetune" */
    bool ops;            /* also time every node, in place and alone, and measure the machine */
    dass_peak_size peak; /* of that measurement on a device; zero: DASS_PEAK_SIZE */
    dass_exec_options exec;
    double enough_sec; /* no more steps are timed after this long; 0: 15 */
} dass_bench_step_options;
/* The step of a supernet is alpha's then the weights', on one batch each. */
dass_status dass_bench_step_run(const dass_config *c, const dass_bench_step_options *opt, dass_bench_step *out);

/* Ways to run a trained network (infer.h): dense products; sparse products by the device's library, by our kernels, by
 * our kernels with whole inverted residual blocks in one. */
typedef enum dass_execution {
    DASS_EXECUTION_DENSE,
    DASS_EXECUTION_LIBRARY,
    DASS_EXECUTION_SPARSE,
    DASS_EXECUTION_BLOCK,
    DASS_N_EXECUTIONS
} dass_execution;
const char *dass_execution_name(dass_execution e); /* "dense" "library" "sparse" "block"; NULL past the end */

typedef struct dass_bench_latency_options {
    int32_t batch;
    dass_execution execution[DASS_N_EXECUTIONS]; /* timed in turns */
    uint32_t n;                                  /* of them */
    /* Fill W, AF and STAT of the store, and with *masked set BITS. NULL: random weights, and, when an execution is not
     * dense, pruned by magnitude to prune.density by prune.allocation. */
    dass_status (*load)(void *ctx, dass_store *s, bool *masked);
    void *ctx;
} dass_bench_latency_options;

/* Time from image bytes to class scores, batch images at a time, each answer timed by itself. */
typedef struct dass_bench_latency {
    dass_execution execution;
    int32_t batch;
    int n_warm, n_repeats;
    double best_ms, median_ms, p10_ms, p90_ms, p99_ms;
    int64_t macs_per_image;               /* computed: entries of sparse matrices only */
    double gflops;                        /* two operations per multiply-accumulate, at the median */
    uint32_t n_dense, n_sparse, n_blocks; /* convolutions; sparse products; blocks of three convolutions */
} dass_bench_latency;
/* arch: discrete or of the zoo. out: opt->n of them. Errors: DASS_ARG for a supernet, DASS_NUMERIC, DASS_UNSUPPORTED
 * for an execution that the device does not have, those of the device. */
dass_status dass_bench_latency_run(const dass_config *c, const dass_arch *arch, const dass_bench_latency_options *opt,
                                   dass_bench_latency *out);

/* What the nodes of one training step of a stage must move at least: dass_node_cost over all its graphs, built without
 * fusion and with the fusion that `device` takes. Merging launches moves no other byte. */
#define DASS_TRAFFIC_STAGES 3 /* dense, score, finetune */
typedef struct dass_bench_traffic {
    const char *stage;
    int64_t nodes_unfused, nodes;
    double bytes_unfused, bytes;
} dass_bench_traffic;
/* Builds graphs, plans and runs nothing. Errors: DASS_UNSUPPORTED for images of too many channels, and those of opening
 * the device. */
dass_status dass_bench_traffic_measure(const dass_config *c, const char *device,
                                       dass_bench_traffic out[DASS_TRAFFIC_STAGES]);

/* What of the engine a device runs: steps of every command at small sizes, and a graph of each operation at odd shapes,
 * each run twice (enqueued, then recorded and replayed) and counted; and what a search step of full size would launch,
 * planned and not run; all of it in the precision that the configuration gives, then in bf16 where the device has it. A
 * kind is a kernel of the device or a library, as dass_backend_kernel counts them. */
#define DASS_COVERAGE_STEPS 32
#define DASS_COVERAGE_KINDS 384
typedef struct dass_coverage_step {
    char what[64];
    bool run;                                 /* else only planned */
    uint64_t nodes, launches_alone, launches; /* launches 0 where the device launches nothing */
    uint64_t of[DASS_COVERAGE_KINDS];         /* launches of each kind, by the plan with merging */
    uint64_t executed;                        /* launches that the device counted in one run of the step */
    uint64_t recorded;                        /* launches in the recording of the step; 0: the device records nothing */
} dass_coverage_step;
typedef struct dass_bench_coverage {
    uint64_t op_nodes[DASS_N_OPS]; /* nodes of each operation that ran */
    uint32_t n_ops_run;            /* operations with any, of DASS_N_OPS - 1 */
    uint32_t n_kinds, n_kinds_run;
    const char *kind[DASS_COVERAGE_KINDS]; /* the backend's, until it is unloaded */
    uint64_t launches[DASS_COVERAGE_KINDS];
    char search[64];                 /* the planned step */
    uint32_t n_needed, n_needed_run; /* kinds that the planned steps launch */
    uint32_t n_graphs;               /* of single operations */
    uint32_t n_steps;
    dass_coverage_step step[DASS_COVERAGE_STEPS];
} dass_bench_coverage;
/* c: the search of full size; its network is a supernet. device: NAME or NAME:NUMBER. Errors: DASS_ARG for another
 * network; those of the device; DASS_UNSUPPORTED names the first operation that it has no kernel for; DASS_INTERNAL
 * when a step's plan names a launch that the device does not count, or the counts of a run are not the plan's. */
dass_status dass_bench_coverage_run(const dass_config *c, const char *device, dass_bench_coverage *out);
/* DASS_INTERNAL, naming the first, when an operation of ops.def or a kind was never run. */
dass_status dass_bench_coverage_check(const char *device, const dass_bench_coverage *c);

#endif
