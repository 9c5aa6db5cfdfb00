/* Where every temporary lies: lifetimes, placement, proof. A pure function of (graph, scratch sizes).
 *
 *     offset
 *       ^   +-----------+        +--------+
 *       |   |  a        |        |   d    |        a, b, c, d: values (or scratch of one node)
 *       |   +-----+-----+--------+--------+        width: first definition ... last use, in node numbers
 *       |   |  b  |      c       |                 height: bytes, 256-aligned
 *       +---+-----+--------------+---------> node
 *
 * Placement is greedy by size (largest first, lowest gap that fits among those alive together), XNNPACK's and TFLite's.
 */
#ifndef DASS_PLAN_H
#define DASS_PLAN_H

#include "dass/graph.h"

#define DASS_PLAN_ALIGN 256u
#define DASS_PLAN_GUARD 256u /* bytes of pattern behind every interval in guard mode */
#define DASS_PLAN_NOWHERE SIZE_MAX

typedef struct dass_plan {
    size_t *val_offset;  /* per value: bytes in the arena; NOWHERE for buffer values and unused ones */
    size_t *ws_offset;   /* per node: scratch in the arena; NOWHERE when it has none */
    uint32_t *val_owner; /* per value: the value whose interval it lives in (itself, or one taken over in place) */
    size_t *ws_bytes;    /* per node */
    size_t peak_bytes;   /* size of the arena */
    size_t bound_bytes;  /* largest sum of live intervals over the nodes: no placement can be smaller */
    size_t sum_bytes;    /* without any reuse */
    uint32_t n_intervals;
    bool guard;
} dass_plan;

/* ws_bytes: scratch per node (n_nodes entries), or NULL for none. guard: leave DASS_PLAN_GUARD bytes behind each
 * interval. in_place: allow dying inputs to be taken over. The plan is verified before it is returned.
 * Errors: DASS_NOMEM (also when sizes overflow), DASS_INTERNAL from verification. */
dass_status dass_plan_make(const dass_graph *g, const size_t *ws_bytes, bool guard, bool in_place, dass_plan **out);
void dass_plan_free(dass_plan *p);
/* No two intervals alive at one node overlap in bytes; every TEMP read was written before; offsets aligned and inside
 * the arena. DASS_INTERNAL names the values and the node. Independent of how the plan was made. */
dass_status dass_plan_verify(const dass_graph *g, const dass_plan *p);

#endif
