/* What the files of src/graph share: growth, hash-consing, sticky errors. Not for anybody above. */
#ifndef DASS_GRAPH_PRIVATE_H
#define DASS_GRAPH_PRIVATE_H

#include "dass/graph.h"

#define DASS__MAX_BUFS 64

struct dass__graph_private {
    dass_arena *arena;      /* names, tables */
    uint32_t cap_vals, cap_nodes, cap_args;
    uint32_t *cons;         /* open addressing: node numbers, 0 = free */
    uint32_t n_cons_slots, n_cons;
    uint32_t *refs;         /* open addressing: value numbers of buffer references */
    uint32_t n_ref_slots, n_refs;
    struct dass__blob *blobs[1024]; /* interned tables and names, chained */
    const char *scope;
    uint32_t buf_version[DASS__MAX_BUFS]; /* bumped when an effect writes the buffer */
    bool finished;
};

/* Shape of a value about to be made; dtype DASS__NO_OUT leaves the output 0. */
#define DASS__NO_OUT ((dass_dtype)255)
typedef struct dass__shape {
    dass_dtype dtype;
    dass_layout layout;
    int32_t rank;
    int32_t dim[4];
} dass__shape;

dass_val dass__graph_fail(dass_graph *g, dass_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), cold));
/* Add a node, or find its equal when the op is pure. outs[i] is filled, 0 for DASS__NO_OUT. `dst[i]` (or NULL) makes
 * output i a new version of that buffer value instead of a TEMP. On failure outs are 0. */
void dass__node_add(dass_graph *g, dass_op op, const dass_val *in, uint32_t n_in, const dass_attr *attr,
                    const dass__shape *shape, uint32_t n_out, const dass_val *dst, dass_val *outs);
/* Content-interned copy of a table: equal bytes, equal pointer. NULL on failure (recorded). */
const void *dass__graph_intern(dass_graph *g, const void *data, size_t bytes);
/* New value number with room made; 0 on failure. */
dass_val dass__val_add(dass_graph *g, const dass_value *v);

dass__shape dass__shape_of(const dass_graph *g, dass_val v);
dass__shape dass__shape_nhwc(const dass_graph *g, int32_t n, int32_t c, int32_t h, int32_t w);
dass__shape dass__shape_flat(const dass_graph *g, int32_t n);
dass__shape dass__shape_rows(const dass_graph *g, int32_t rows, int32_t cols);
bool dass__same_shape(const dass_graph *g, dass_val a, dass_val b);
/* "name (64,16,32,32)" in one of eight rotating thread-local buffers, for messages. */
const char *dass__show(const dass_graph *g, dass_val v);
/* Output size of a window along one axis; 0 or less when it does not fit. */
int32_t dass__window_out(int32_t size, int32_t k, int32_t stride, int32_t pad, int32_t dil);

/* Node maker with one output. */
/* Bytes of the member of dass_attr that nodes of `op` carry; 0 for none. The others are not compared. */
size_t dass__attr_bytes(dass_op op);
dass_val dass__node1(dass_graph *g, dass_op op, const dass_val *in, uint32_t n_in, const dass_attr *attr,
                     dass__shape shape);

#endif
