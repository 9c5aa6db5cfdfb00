/* Private header of the host backend: the device object, the selection table, and what its files share.
 *
 * host.c owns the vtable and the ordered table of rows; every other file of this folder contributes rows. A row either
 * fits a node or not; the first that fits prepares the kernel. The last row of every op is the reference (host_ref.c).
 * Work is split over OpenMP threads here; what one thread does with one item is a function of vec.h, built once per
 * instruction set. Our own kernels do not depend on the number of threads: work items are fixed by the shape, and
 * partial sums are added in index order.
 */
#ifndef DASS_HOST_H
#define DASS_HOST_H

#include "dass/backend.h"

struct dass__vec;

typedef struct dass_host {
    dass_backend base;
    int n_threads;
    const struct dass__vec *vec; /* functions of the instruction set in use */
    const char *isa;             /* "avx512", "avx2", "portable", "wide" */
    void *onednn;                /* engine and stream of host_onednn.c, NULL without it */
} dass_host;

typedef struct dass__row {
    dass_op op;
    const char *name;
    bool (*fits)(const dass_host *h, const dass_graph *g, dass_node n); /* NULL = always */
    dass_status (*prepare)(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k);
    /* host.c has already copied args and ws into the dass__impl at k->impl; NULL = nothing more to do. */
    dass_status (*bind)(dass_host *h, const dass_graph *g, dass_node n, dass_kernel *k, void *const *args, void *ws);
    void (*drop)(dass_host *h, dass_kernel *k);
} dass__row;

/* The usual head of an impl: what run needs, fixed at select and bind. Larger impls start with it. */
typedef struct dass__impl {
    const dass__row *row; /* set by host.c */
    const dass_graph *g;
    dass_node n;
    uint32_t n_in, n_out;
    void **arg; /* n_in + n_out pointers, inputs first */
    void *ws;
} dass__impl;

/* Allocate an impl of `bytes` (>= sizeof(dass__impl)) with its head filled, and attach it. NULL on error (recorded). */
void *dass__impl_make(dass_arena *mem, const dass_graph *g, dass_node n, size_t bytes, dass_kernel *k);

static inline const dass_value *dass__in(const dass_graph *g, dass_node n, uint32_t i)
{
    return &g->vals[dass_node_in(g, n)[i]];
}
static inline const dass_value *dass__out(const dass_graph *g, dass_node n, uint32_t i)
{
    return &g->vals[dass_node_out(g, n)[i]];
}

/* widen.c: nodes with values in bf16, through the backend's own select, bind and drop for the same node over real
 * values. A kernel that widened_select made is bound and dropped by the other two. */
bool dass__wants_widening(const dass_graph *g, dass_node n);
bool dass__is_widened(const dass_kernel *k);
dass_status dass__widened_select(dass_backend *be, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *out);
dass_status dass__widened_bind(dass_backend *be, const dass_kernel *k, void *const *args, void *ws);
void dass__widened_drop(dass_backend *be, const dass_kernel *k);

extern const dass_backend_ops dass_backend_host; /* host.c */
extern const dass_backend_ops dass_backend_ref;  /* ref.c: the reference in f32 */
extern const dass_backend_ops dass_backend_ref64; /* ref.c: in f64 */

/* Engine and stream behind h->onednn, which stays NULL in builds without oneDNN. close: h->onednn NULL is fine. */
dass_status dass__onednn_open(dass_host *h);
void dass__onednn_close(dass_host *h);

/* Tables contributed by the files, each ended by a row with op DASS_OP_NONE. host.c asks them in this order. */
extern const dass__row dass__rows_dwpw[];      /* host_dwpw.c */
extern const dass__row dass__rows_depthwise[]; /* host_depthwise.c */
extern const dass__row dass__rows_norm[];      /* host_norm.c: batch norm, channel_sum */
extern const dass__row dass__rows_sum[];       /* host_sum.c: wsum, wsum_bwd, gsum */
extern const dass__row dass__rows_pool[];      /* host_pool.c: pools, relu, concat, slice, augment, drop-path, ... */
extern const dass__row dass__rows_flat[];      /* host_flat.c: masks, optimisers, ema, norm2, fill, copy */
extern const dass__row dass__rows_sparse[];    /* host_sparse.c: spconv */
extern const dass__row dass__rows_onednn[];    /* host_onednn.c; an empty table in builds without oneDNN */
extern const dass__row dass__rows_ref[];       /* host_ref.c in f32: every op */
extern const dass__row dass__rows_ref64[];     /* the same file in f64 */

#endif
