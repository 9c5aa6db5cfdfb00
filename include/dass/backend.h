/* The contract of a backend: describe -> choose -> bind -> run. No code, no state.
 *
 * select() looks at one node and fills a kernel: what will run it, and how much scratch it wants. bind() hands over the
 * final pointers, once. run() is the hot path: it never blocks longer than the work, never allocates, never decides.
 * A node a backend cannot run is DASS_UNSUPPORTED with op and shapes in the text; nothing falls back silently.
 */
#ifndef DASS_BACKEND_H
#define DASS_BACKEND_H

#include "dass/graph.h"

typedef struct dass_backend dass_backend;
typedef struct dass_replay dass_replay; /* a captured sequence of runs */

/* One prepared node. */
typedef struct dass_kernel {
    dass_status (*run)(dass_backend *be, void *impl);
    void *impl;          /* backend-private, allocated from the arena given to select */
    size_t ws_bytes;     /* scratch alive only during run; planned like a tensor, 256-aligned */
    const char *name;    /* "host:dwpw_avx2", "onednn:jit_1x1:avx2", shown by plan and profile */
    uint64_t group;      /* kernels of one non-zero group that do not depend on one another may be merged; 0: never */
    uint32_t n_launches; /* what run enqueues on a device; 0 where nothing is launched */
} dass_kernel;

/* What may happen to numbers. FP32: the rounding of single precision, nothing else. TF32: factors of convolutions and
 * of linear layers may be rounded to 10 bits of mantissa, and transforms (Winograd, FFT) used; tensors and sums stay
 * fp32. BF16: graphs store activations and the weights that convolutions read in bf16 (8 bits), see graph.h;
 * parameters, sums and statistics stay fp32, and fp32 tensors are not touched. */
typedef enum dass_precision {
    DASS_PRECISION_FP32,
    DASS_PRECISION_TF32,
    DASS_PRECISION_BF16,
    DASS_N_PRECISIONS
} dass_precision;

typedef struct dass_backend_options {
    int ordinal;   /* device number */
    int n_threads; /* host: 0 = all cores */
    dass_precision precision;
} dass_backend_options;

typedef struct dass_transfer { /* from the device to the host */
    void *to;
    const void *from;
    size_t bytes;
} dass_transfer;

#define DASS_MAX_TIMED 128 /* so that a device's queue holds them all, however many launches each is */

typedef struct dass_backend_ops {
    const char *name;
    dass_status (*open)(const dass_backend_options *opt, dass_backend **out);
    void (*close)(dass_backend *be); /* NULL is fine */
    /* Memory: a handful of calls per run of the program, never per tensor. Blocks are zeroed. */
    dass_status (*alloc)(dass_backend *be, size_t bytes, const char *what, void **out);
    void (*free)(dass_backend *be, void *p);
    /* The bytes are taken when it returns, and what runs later sees them; it need not wait for what runs now. */
    dass_status (*write)(dass_backend *be, void *dst, const void *host_src, size_t bytes);
    dass_status (*read)(dass_backend *be, void *host_dst, const void *src, size_t bytes); /* waits for what runs now */
    /* Optional (NULL: read says the same): n reads that wait once. */
    dass_status (*read_many)(dass_backend *be, const dass_transfer *t, uint32_t n);
    /* Optional (NULL: it works in the host's memory, where a copy of host data would gain nothing): bytes of its own
     * memory that are free now. */
    dass_status (*room)(dass_backend *be, size_t *bytes);
    dass_status (*fill)(dass_backend *be, void *dst, uint32_t word, size_t bytes); /* bytes: multiple of 4 */
    dass_status (*sync)(dass_backend *be);
    /* Kernels. impl comes from `mem`, which outlives the kernel. */
    dass_status (*select)(dass_backend *be, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *out);
    /* args: the node's inputs then outputs, NULL where the value is 0. ws: ws_bytes of scratch, NULL when 0. */
    dass_status (*bind)(dass_backend *be, const dass_graph *g, dass_node n, dass_kernel *k, void *const *args,
                        void *ws);
    void (*drop)(dass_backend *be, dass_kernel *k); /* library objects behind impl; the memory is the arena's */
    /* Asked by lowering passes: is this (fused) op worth making here? */
    bool (*can)(dass_backend *be, dass_op op);
    /* Optional (NULL: none): the library that runs op here when a node's attribute asks for one; NULL: none does. */
    const char *(*library)(dass_backend *be, dass_op op);
    /* Optional (NULL): one kernel that does what n bound kernels of one group do, in any order among them. It is as
     * good as the kernels it was made of: they stay bound and are dropped as before; it is never bound nor dropped. */
    dass_status (*merge)(dass_backend *be, dass_arena *mem, const dass_kernel *const *k, uint32_t n, dass_kernel *out);
    /* Optional (NULL): what run() of a selected or merged kernel enqueues as its i-th of n_launches, by the name under
     * which dass_backend_kernel counts it; NULL past the end. */
    const char *(*launch)(const dass_kernel *k, uint32_t i);
    /* Optional, all or none: what run() enqueues between begin and end is recorded instead of executed, and replay
     * enqueues all of it at once, as often as one likes. After a failed run, end must still be called. When any of this
     * fails nothing was executed, and the same runs can be enqueued as if it had never been tried. */
    dass_status (*capture_begin)(dass_backend *be);
    dass_status (*capture_end)(dass_backend *be, dass_replay **out);
    dass_status (*replay)(dass_backend *be, dass_replay *r);
    void (*replay_free)(dass_backend *be, dass_replay *r); /* NULL is fine */
    size_t (*replay_nodes)(const dass_replay *r);          /* launches and copies in it */
    /* Optional (NULL: the work is done when run() returns, and the host's clock tells): run k[0..n) in order, wait, and
     * say how many seconds the device took over each. n: at most DASS_MAX_TIMED. */
    dass_status (*time_each)(dass_backend *be, const dass_kernel *const *k, uint32_t n, double *sec);
    dass_dtype real; /* the floating type it computes in: graphs of the other are refused */
    /* Bit a: dass_act a behind a pointwise convolution of real numbers costs a launch of its own here, so that the
     * depthwise convolution that reads the result had better apply it on load. */
    unsigned acts_on_load;
    unsigned precisions; /* bit p: precision p, beside FP32; others are refused */
} dass_backend_ops;

/* Every backend starts with its ops, so that a pointer is enough. */
struct dass_backend {
    const dass_backend_ops *ops;
    dass_dtype stored; /* in which graphs for it store activations: ops->real, or BF16; set by dass_backend_open */
};

#endif
