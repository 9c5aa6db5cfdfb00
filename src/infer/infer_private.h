/* Private to src/infer: the rewriting of a graph, shared by its two halves. fold.c decides what becomes of every node
 * of the source; emit.c writes the new graph and its constants by that. infer.c makes it run.
 */
#ifndef DASS_INFER_PRIVATE_H
#define DASS_INFER_PRIVATE_H

#include "dass/infer.h"

/* Buffers of a compiled graph. */
enum {
    DASS__BUF_INPUT = 1,
    DASS__BUF_SAMPLES,
    DASS__BUF_STEP,
    DASS__BUF_REALS,
    DASS__BUF_STORED, /* weights, where the device stores them in another type than reals */
    DASS__BUF_INTS,
    DASS__BUF_LOGITS,
    DASS__N_INFER_BUFS
};

/* What a node of the source becomes. Entries of nodes that are no convolution use `gone` alone. */
typedef struct dass__fate {
    bool gone;                   /* part of another node */
    bool sparse;                 /* a convolution as a matrix of its entries */
    int32_t act;                 /* dass_act behind everything else */
    int32_t load;                /* dass_act before everything else, of a depthwise convolution */
    dass_node norm;              /* the batch norm that it takes in; 0: none */
    int32_t channel;             /* first of its channels there */
    int64_t nnz;                 /* weights that are not 0 */
    dass_node at;                /* the node in whose place it is written; itself, or the sum that it takes in */
    dass_val plus;               /* what that sum adds; 0: none */
    dass_node expand, depthwise; /* of a projection: the block is one node; 0: not */
} dass__fate;

typedef struct dass__constants {
    double *x;
    size_t n, cap;
} dass__constants;

typedef struct dass__rewrite {
    const dass_infer_source *src;
    const dass_infer_options *opt;
    dass_arena *mem;
    dass__fate *fate;  /* per node */
    uint32_t *n_users; /* per value */
    dass_val *alias;   /* per value: the value of the node that took its node in, or 0 */
    dass_val *map;     /* per value: in the new graph */
    dass_graph *out;
    dass__constants reals, stored;
    int32_t *ints;
    size_t n_ints, cap_ints;
    dass_val logits;
    dass_infer_stats stats;
    unsigned acts_on_load; /* of the backend */
} dass__rewrite;

static inline const dass_val *dass__infer_in(const dass__rewrite *r, dass_node n)
{
    return dass_node_in(r->src->g, n);
}
static inline dass_val dass__infer_out(const dass__rewrite *r, dass_node n)
{
    return dass_node_out(r->src->g, n)[0];
}
static inline dass_val dass__infer_root(const dass__rewrite *r, dass_val v)
{
    while (r->alias[v] != 0)
        v = r->alias[v];
    return v;
}
/* Contents of parameter v on the host; NULL when v is 0. */
static inline const double *dass__infer_data(const dass__rewrite *r, dass_val v)
{
    const dass_value *x = &r->src->g->vals[v];
    return v != 0 ? r->src->data[x->buf] + x->offset : NULL;
}

/* fold.c: fills fate, n_users and alias. */
dass_status dass__infer_decide(dass__rewrite *r);
/* emit.c: makes the new graph, unfinished, and the constants; free reals, stored and ints also on error. */
dass_status dass__infer_emit(dass__rewrite *r, dass_dtype real, dass_dtype stored);

#endif
