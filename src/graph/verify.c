/* Proof of a plan, from the graph alone: plays the nodes in order over a list of live byte ranges. Any two ranges alive
 * at one node must be disjoint, except an output that takes over an input's range where its op allows that; every
 * temporary must be written before it is read. Cost: nodes times values alive together.
 */
#include "graph_private.h"

#include "dass/plan.h"

#include <string.h>

typedef struct range {
    size_t begin, end;
    dass_val val;   /* 0: scratch */
    uint32_t last;  /* node after which it is dead */
} range;

typedef struct proof {
    const dass_graph *g;
    const dass_plan *p;
    range *live;
    uint32_t n_live;
    uint32_t *last;
    uint8_t *written;
} proof;

static const char *what(const proof *pr, dass_val v)
{
    return v ? dass__show(pr->g, v) : "scratch";
}

static bool can_take(const proof *pr, dass_node n, dass_val dying, dass_val out)
{
    const dass_node_rec *r = &pr->g->nodes[n];
    const int rule = dass_op_get(r->op)->in_place;
    if (!dying || !out || dass_node_out(pr->g, n)[0] != out || pr->last[dying] != n)
        return false;
    if (rule >= 0)
        return dass_node_in(pr->g, n)[rule] == dying;
    for (int32_t k = 0; rule == -2 && k < r->attr.sum.n_terms; k++)
        if (dass_node_in(pr->g, n)[1 + 3 * k] == dying && r->attr.sum.index[k] < 0 &&
            dass_node_in(pr->g, n)[3 + 3 * k] == 0)
            return true;
    return false;
}

/* Insert [offset, offset + bytes) at node n, or say what it overlaps. */
static dass_status occupy(proof *pr, dass_node n, dass_val v, size_t offset, size_t bytes, uint32_t last)
{
    const size_t guard = pr->p->guard ? DASS_PLAN_GUARD : 0;
    const size_t end = offset + bytes + guard;
    if (offset == DASS_PLAN_NOWHERE || offset % DASS_PLAN_ALIGN || end < offset || end > pr->p->peak_bytes)
        return DASS_FAIL(DASS_INTERNAL, "plan: %s at node %u lies at %zu + %zu, outside the arena of %zu bytes or not "
                         "aligned", what(pr, v), n, offset, bytes, pr->p->peak_bytes);
    for (uint32_t i = 0; i < pr->n_live; i++) {
        range *o = &pr->live[i];
        if (o->begin >= end || o->end <= offset)
            continue;
        if (o->begin == offset && o->end == end && can_take(pr, n, o->val, v)) {
            o->val = v;
            o->last = last;
            return DASS_OK;
        }
        return DASS_FAIL(DASS_INTERNAL, "plan: %s and %s share bytes %zu..%zu while both are alive at node %u",
                         what(pr, v), what(pr, o->val), offset, end, n);
    }
    pr->live[pr->n_live++] = (range){offset, end, v, last};
    return DASS_OK;
}

static dass_status play(proof *pr)
{
    const dass_graph *g = pr->g;
    for (dass_node n = 1; n < g->n_nodes; n++) {
        const dass_node_rec *r = &g->nodes[n];
        for (uint32_t i = 0; i < r->n_in; i++) {
            const dass_val v = dass_node_in(g, n)[i];
            if (v && g->vals[v].buf == 0 && !pr->written[v])
                return DASS_FAIL(DASS_INTERNAL, "plan: node %u (%s) reads %s before anything wrote it", n,
                                 dass_op_get(r->op)->name, dass__show(g, v));
        }
        if (pr->p->ws_bytes[n])
            DASS_TRY(occupy(pr, n, 0, pr->p->ws_offset[n], pr->p->ws_bytes[n], n));
        for (uint32_t i = 0; i < r->n_out; i++) {
            const dass_val v = dass_node_out(g, n)[i];
            if (!v || g->vals[v].buf != 0)
                continue;
            pr->written[v] = 1;
            DASS_TRY(occupy(pr, n, v, pr->p->val_offset[v], dass_value_bytes(&g->vals[v]), pr->last[v]));
        }
        uint32_t kept = 0;
        for (uint32_t i = 0; i < pr->n_live; i++)
            if (pr->live[i].last > n)
                pr->live[kept++] = pr->live[i];
        pr->n_live = kept;
    }
    return DASS_OK;
}

dass_status dass_plan_verify(const dass_graph *g, const dass_plan *p)
{
    proof pr = {.g = g, .p = p};
    dass_status st = DASS_OK;
    void *mem = NULL;
    DASS_TRY_TO(dass_mem_alloc(((size_t)g->n_vals + 1) * sizeof *pr.live, "plan proof", &mem), st, out);
    pr.live = mem;
    DASS_TRY_TO(dass_mem_alloc(g->n_vals * sizeof *pr.last, "plan proof", &mem), st, out);
    pr.last = mem;
    DASS_TRY_TO(dass_mem_alloc(g->n_vals, "plan proof", &mem), st, out);
    pr.written = mem;
    for (dass_node n = 1; n < g->n_nodes; n++)
        for (uint32_t i = 0; i < g->nodes[n].n_in + g->nodes[n].n_out; i++)
            pr.last[g->args[g->nodes[n].args + i]] = n;
    st = play(&pr);
out:
    dass_mem_free(pr.live);
    dass_mem_free(pr.last);
    dass_mem_free(pr.written);
    return st;
}
