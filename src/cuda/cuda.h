/* Private header of the CUDA plugin: the device object, the selection table, and what its files share.
 *
 * cuda.c owns the vtable and the ordered table of rows; cuda_*.c contribute rows. A row either fits a node or not; the
 * first that fits prepares the kernel, or the next when that one finds out that it cannot (DASS_UNSUPPORTED). A
 * prepared node is a short list of stages, launches of kernels/ or calls of a library, that run in order on the one
 * stream. Nodes whose stages are launches of the same kernels, and that do not depend on one another, can be merged
 * into one node whose launches cover them all (`merge` of backend.h).
 *
 * Files here are plain C built by gcc; nvcc sees only kernels/.
 */
#ifndef DASS__PLUGIN_CUDA_H
#define DASS__PLUGIN_CUDA_H

#include "dass/backend.h"

#include "kernels/kernels.h"

#define DASS__MAX_STAGES 8
#define DASS__MAX_REPLAYS 64   /* recordings alive at once */
#define DASS__PINNED_READS 4096
#define DASS__PINNED_WRITES 65536
#define DASS__N_COUNTERS 65536 /* nodes with a reduction, of all executors alive */

typedef struct dass_cuda {
    dass_backend base;
    int ordinal;
    dass_precision precision;
    void *stream; /* cudaStream_t, non-blocking */
    int n_sm;
    uint32_t max_shared; /* bytes of shared memory that a block can ask for */
    char device[128];
    uint32_t *counters; /* device: zeros between launches; see kernels/common.cuh */
    uint32_t *free_counters;
    uint32_t n_free_counters;
    dass_replay *replays; /* DASS__MAX_REPLAYS slots, so that recording allocates nothing of ours (cuda_replay.c) */
    struct dass__cuda_timer *timer; /* cuda_replay.c's; NULL until something is timed */
    bool recording;                 /* between capture_begin and capture_end */
    bool told_refusal;              /* that a row refused and the next took the node */
    /* Page-locked host memory that small transfers go through, so that none of them waits by itself: READS bytes that
     * read fills and empties, then WRITES bytes, of which the first `staged` may still be on their way. */
    unsigned char *pinned;
    size_t staged;
    void *dnn;            /* cuda_conv.c, opened by the first node that wants it */
    void *blas;           /* cuda_blas.c's; NULL until its first node is prepared */
    void *sparse;         /* cuda_sparse.c's, the same */
} dass_cuda;

/* Whom a call goes to. */
typedef enum dass__library {
    DASS__LIBRARY_COPY, /* the runtime's copies */
    DASS__LIBRARY_CUDNN,
    DASS__LIBRARY_CUBLASLT,
    DASS__LIBRARY_CUSPARSE,
    DASS__N_LIBRARIES
} dass__library;

/* One step of a prepared node. A launch has fn and args; a library call has call and object. */
typedef struct dass__launch {
    dass_k_launcher fn;
    dass_k_grid grid;
    void *args; /* argument structs, n_items of them, each item_bytes */
    uint32_t n_items, item_bytes;
    dass_status (*call)(dass_cuda *c, void *object);
    void *object;
    const char *name; /* for messages */
    dass__library library; /* of a call */
} dass__launch;

struct dass__cuda_row;
typedef struct dass__cuda_impl {
    const struct dass__cuda_row *row;
    uint32_t n_stages;
    dass__launch stage[DASS__MAX_STAGES];
    uint32_t counter[DASS__MAX_STAGES]; /* index + 1 of the counter a stage uses; 0: none */
    void *table;                        /* device memory of this node; NULL: none */
    void *own;                          /* what the row's file keeps */
} dass__cuda_impl;

typedef struct dass__cuda_row {
    dass_op op;
    const char *name;
    bool (*fits)(const dass_cuda *c, const dass_graph *g, dass_node n); /* NULL = always */
    /* Add the stages with everything that the shape decides. DASS_UNSUPPORTED: the next row that fits is asked. */
    dass_status (*prepare)(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k);
    /* Fill in the pointers: args as backend.h says. */
    dass_status (*bind)(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                        void *ws);
    void (*drop)(dass_cuda *c, dass__cuda_impl *impl); /* NULL = nothing but counters and table, which cuda.c drops */
} dass__cuda_row;

/* Add a launch; *args is its zeroed argument struct of `bytes`, head filled from grid. */
dass_status dass__cuda_add(dass_arena *mem, dass_kernel *k, dass_k_launcher fn, const char *name, dass_k_grid grid,
                           uint32_t bytes, void **args);
/* Add act in place on output 0 behind what was added so far, where a convolution's attribute asks for it
 * (cuda_shape.c); bind it with the address of that output. Nothing for DASS_ACT_NONE. */
dass_status dass__cuda_add_act(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k);
void dass__cuda_bind_act(const dass_graph *g, dass_node n, const dass__cuda_impl *impl, void *y);
/* Add a stage that turns n elements from float into bf16 or back (cuda_flat.c); wide: both begin at a multiple of 4 of
 * their elements. Bind x and y of its dass_k_cast. */
dass_status dass__cuda_add_cast(dass_cuda *c, dass_arena *mem, dass_kernel *k, int64_t n, bool wide, dass_dtype to);
/* Add a call of a library; name is for messages. */
dass_status dass__cuda_add_call(dass_kernel *k, dass__library library, const char *name,
                                dass_status (*call)(dass_cuda *c, void *object), void *object);
/* The name of library i, as kernels are counted, with its calls so far; NULL past the end. */
const char *dass__cuda_library_name(uint32_t i, uint64_t *calls);
/* A zeroed counter for the newest stage; it goes back when the kernel is dropped. Errors: DASS_NOMEM. */
dass_status dass__cuda_counter(dass_cuda *c, dass_kernel *k, uint32_t **out);
/* Device memory of this node that holds a copy of `bytes` at host; freed when the kernel is dropped. Once a node. */
dass_status dass__cuda_table(dass_cuda *c, dass__cuda_impl *impl, const void *host, size_t bytes, const void **out);

static inline dass__cuda_impl *dass__cuda_impl_of(const dass_kernel *k)
{
    return k->impl;
}
static inline void *dass__cuda_args(const dass__cuda_impl *impl, uint32_t stage)
{
    return impl->stage[stage].args;
}
static inline const dass_value *dass__cuda_in(const dass_graph *g, dass_node n, uint32_t i)
{
    return &g->vals[dass_node_in(g, n)[i]];
}
static inline const dass_value *dass__cuda_out(const dass_graph *g, dass_node n, uint32_t i)
{
    return &g->vals[dass_node_out(g, n)[i]];
}
/* Pixels of an activation, N H W. */
static inline uint32_t dass__cuda_pixels(const dass_value *v)
{
    return (uint32_t)v->dim[0] * (uint32_t)v->dim[2] * (uint32_t)v->dim[3];
}
/* Can a thread take 4 neighbouring elements of v at once? Temporaries and buffers begin at 256-byte boundaries. */
static inline bool dass__cuda_vec4(const dass_value *v, int32_t row)
{
    return row % 4 == 0 && (v->buf == 0 || v->offset % 4 == 0);
}
/* bind_FN of a node x -> y whose argument struct A has members x and y. */
#define DASS__BIND_X_Y(fn, A)                                                                           \
    static dass_status bind_##fn(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, \
                                 void *const *args, void *ws)                                           \
    {                                                                                                   \
        (void)c, (void)g, (void)n, (void)ws;                                                            \
        A *a = dass__cuda_args(impl, 0);                                                                \
        a->x = args[0];                                                                                 \
        a->y = args[1];                                                                                 \
        return DASS_OK;                                                                                 \
    }
/* Are all values of the node below 2^31 elements? Kernels that number their threads in 32 bits ask for it. */
bool dass__cuda_small(const dass_cuda *c, const dass_graph *g, dass_node n);
/* DASS_K_BF16 when v is in bf16, else 0: part of the variant of every launcher with stored tensors. */
static inline uint32_t dass__cuda_stored(const dass_value *v)
{
    return v->dtype == DASS_BF16 ? DASS_K_BF16 : 0;
}
/* Channels to a thread. */
static inline uint32_t dass__cuda_width(uint32_t variant)
{
    return (variant & ~(uint32_t)DASS_K_BF16) == DASS_K_V4 ? 4 : 1;
}
/* DASS_K_V4 when 4 channels of every activation of the node can be taken at once, else DASS_K_V1; with DASS_K_BF16 when
 * any of them is in bf16. */
uint32_t dass__cuda_variant(const dass_graph *g, dass_node n);
/* Grid of an elementwise kernel over n threads' worth of work: at most a few waves of the device. */
dass_k_grid dass__cuda_flat_grid(const dass_cuda *c, uint64_t n, uint32_t variant);
/* Grid of a kernel whose threads keep what belongs to their channels in registers, or their block in shared memory, and
 * walk over pixels: at most `lanes` threads side by side over channels, a wave of blocks, 4 pixels or more to a thread.
 * out: no counter. */
dass_k_grid dass__cuda_walk_grid(const dass_cuda *c, uint32_t m, uint32_t n_c, uint32_t variant, uint32_t lanes,
                                 dass_k_reduce *out);
/* Plan of a reduction over m pixels of c channels, with its grid; counter is left NULL. max_chunks bounds the scratch.
 */
dass_k_grid dass__cuda_reduce_grid(const dass_cuda *c, uint32_t m, uint32_t n_c, uint32_t variant, dass_k_reduce *out);

/* A CUDA runtime status as ours, quoting the call and the runtime's text; clears what is not sticky. */
dass_status dass__cuda_fail(int code, const char *call, const char *file, int line);
#define CUDA_TRY(call)                                                \
    do {                                                              \
        const int code_ = (int)(call);                                \
        if (code_ != 0)                                               \
            return dass__cuda_fail(code_, #call, __FILE__, __LINE__); \
    } while (0)
#define CUDA_TRY_TO(call, st, label)                                  \
    do {                                                              \
        const int code_ = (int)(call);                                \
        if (code_ != 0) {                                             \
            (st) = dass__cuda_fail(code_, #call, __FILE__, __LINE__); \
            goto label;                                               \
        }                                                             \
    } while (0)

/* Recordings and times of launches (cuda_replay.c); the rest is backend.h's. */
dass_status dass__cuda_replay_open(dass_cuda *c);
void dass__cuda_replay_close(dass_cuda *c);
/* DASS_DEVICE, naming `what`, when it made the recording invalid. */
dass_status dass__cuda_still_recording(dass_cuda *c, const char *what);
dass_status dass__cuda_capture_begin(dass_backend *be);
dass_status dass__cuda_capture_end(dass_backend *be, dass_replay **out);
dass_status dass__cuda_replay(dass_backend *be, dass_replay *r);
void dass__cuda_replay_free(dass_backend *be, dass_replay *r);
size_t dass__cuda_replay_nodes(const dass_replay *r);
dass_status dass__cuda_time_each(dass_backend *be, const dass_kernel *const *k, uint32_t n, double *sec);

void dass__cuda_conv_close(dass_cuda *c);
/* Give back cuBLASLt if it was opened; every node that used it was dropped. */
void dass__blas_close(dass_cuda *c);
/* The same of cuSPARSE, and its version: 12600 is 12.6.0. */
void dass__sparse_close(dass_cuda *c);
int dass__sparse_version(void);

extern const dass_backend_ops dass_backend_cuda; /* cuda.c */

/* Tables contributed by the files, each ended by a row with op DASS_OP_NONE. */
extern const dass__cuda_row dass__cuda_rows_dwpw[];      /* cuda_dwpw.c: the fused separable half */
extern const dass__cuda_row dass__cuda_rows_depthwise[]; /* cuda_depthwise.c: depthwise convolutions */
extern const dass__cuda_row dass__cuda_rows_norm[];      /* cuda_norm.c: batch norm, channel_sum */
extern const dass__cuda_row dass__cuda_rows_sum[];       /* cuda_sum.c: wsum, wsum_bwd, gsum */
extern const dass__cuda_row dass__cuda_rows_pool[];      /* cuda_pool.c */
extern const dass__cuda_row dass__cuda_rows_shape[];     /* cuda_shape.c: relu, concat, gather, augment, ... */
extern const dass__cuda_row dass__cuda_rows_loss[];      /* cuda_loss.c: softmax, cross-entropy */
extern const dass__cuda_row dass__cuda_rows_flat[];      /* cuda_flat.c: masks, optimisers, norm2, fill, copy */
extern const dass__cuda_row dass__cuda_rows_sparse[];    /* cuda_sparse.c: sparse convolutions, cuSPARSE */
extern const dass__cuda_row dass__cuda_rows_blas[];      /* cuda_blas.c: pointwise products by cuBLASLt */
extern const dass__cuda_row dass__cuda_rows_conv[];      /* cuda_conv.c: cuDNN, what convolutions are left */

#endif
