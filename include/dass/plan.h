/* Where every temporary lies: lifetimes, placement, proof. A pure function of (graph, scratch sizes).
 *
 *     offset
 *       ^   +-----------+        +--------+
 *       |   |  a        |        |   d    |        a, b, c, d: values (or scratch of one node)
 *       |   +-----+-----+--------+--------+        width: first definition ... last use, in times
 *       |   |  b  |      c       |                 height: bytes, 256-aligned
 *       +---+-----+--------------+---------> time
 *
 * Placement is greedy by size (largest first, lowest gap that fits among those alive together), XNNPACK's and TFLite's.
 */
#ifndef DASS_PLAN_H
#define DASS_PLAN_H

#include "dass/graph.h"

#define DASS_PLAN_ALIGN 256u
#define DASS_PLAN_GUARD 256u /* bytes of pattern behind every interval in guard mode */
#define DASS_PLAN_NOWHERE SIZE_MAX

/* Node seq[i] runs i-th, at time[node] = 1, 2, ...; nodes of one time do not depend on one another and may run in any
 * order, or as one. */
typedef struct dass_order {
    uint32_t *seq;  /* n_nodes - 1 nodes */
    uint32_t *time; /* per node */
    uint32_t n_times;
} dass_order;

/* group: per node (n_nodes entries), 0 or a number; equal numbers would like to run together, and do where no
 * dependency forbids it. NULL: node order, one at a time. */
dass_status dass_order_make(const dass_graph *g, const uint64_t *group, dass_order **out);
void dass_order_free(dass_order *o); /* NULL is fine */

typedef struct dass_plan {
    dass_order *order;
    size_t *val_offset;  /* per value: bytes in the arena; NOWHERE for buffer values and unused ones */
    size_t *ws_offset;   /* per node: scratch in the arena; NOWHERE when it has none */
    uint32_t *val_owner; /* per value: the value whose interval it lives in (itself, or one taken over in place) */
    size_t *ws_bytes;    /* per node */
    size_t peak_bytes;   /* size of the arena */
    size_t bound_bytes;  /* largest sum of live intervals over the times: no placement can be smaller */
    size_t sum_bytes;    /* without any reuse */
    uint32_t n_intervals;
    bool guard;
} dass_plan;

/* ws_bytes: scratch per node (n_nodes entries), or NULL for none. group: see dass_order_make. guard: leave
 * DASS_PLAN_GUARD bytes behind each interval. in_place: allow dying inputs to be taken over. The plan is verified
 * before it is returned. Errors: DASS_NOMEM (also when sizes overflow), DASS_INTERNAL from verification. */
dass_status dass_plan_make(const dass_graph *g, const size_t *ws_bytes, const uint64_t *group, bool guard,
                           bool in_place, dass_plan **out);
void dass_plan_free(dass_plan *p);
/* No two intervals alive at one time overlap in bytes; every TEMP read was written before; offsets aligned and inside
 * the arena. DASS_INTERNAL names the values and the node. Independent of how the plan was made. */
dass_status dass_plan_verify(const dass_graph *g, const dass_plan *p);

#endif
