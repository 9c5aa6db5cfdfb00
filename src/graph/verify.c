/* Proof of a plan, from the graph alone: plays the nodes in order over a list of live byte ranges. Any two ranges alive
 * at one time must be disjoint, except an output that takes over an input's range where its op allows that and no other
 * node of that time touches the input; every temporary must be written at an earlier time than it is read. Cost: nodes
 * times values alive together.
 */
#include "graph_private.h"

#include "dass/plan.h"

#include <string.h>

typedef struct range {
    size_t begin, end;
    dass_val val;   /* 0: scratch */
    uint32_t last;  /* time after which it is dead */
} range;

typedef struct proof {
    const dass_graph *g;
    const dass_plan *p;
    range *live;
    uint32_t n_live;
    uint32_t *last;
    dass_node *last_node; /* of the nodes that touch a value, one of the last time; n_nodes: several */
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
    if (!dying || !out || dass_node_out(pr->g, n)[0] != out || pr->last_node[dying] != n)
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

static void touch(proof *pr, dass_node n)
{
    const dass_graph *g = pr->g;
    const uint32_t now = pr->p->order->time[n];
    for (uint32_t i = 0; i < g->nodes[n].n_in + g->nodes[n].n_out; i++) {
        const dass_val v = g->args[g->nodes[n].args + i];
        if (pr->last[v] < now)
            pr->last_node[v] = n;
        else if (pr->last[v] == now && pr->last_node[v] != n)
            pr->last_node[v] = g->n_nodes;
        pr->last[v] = pr->last[v] < now ? now : pr->last[v];
    }
}

static dass_status check_reads(const proof *pr, dass_node n)
{
    const dass_graph *g = pr->g;
    for (uint32_t i = 0; i < g->nodes[n].n_in; i++) {
        const dass_val v = dass_node_in(g, n)[i];
        if (v && g->vals[v].buf == 0 && !pr->written[v])
            return DASS_FAIL(DASS_INTERNAL, "plan: node %u (%s) reads %s before anything wrote it", n,
                             dass_op_get(g->nodes[n].op)->name, dass__show(g, v));
    }
    return DASS_OK;
}

static dass_status write_outputs(proof *pr, dass_node n)
{
    const dass_graph *g = pr->g;
    const uint32_t now = pr->p->order->time[n];
    if (pr->p->ws_bytes[n])
        DASS_TRY(occupy(pr, n, 0, pr->p->ws_offset[n], pr->p->ws_bytes[n], now));
    for (uint32_t i = 0; i < g->nodes[n].n_out; i++) {
        const dass_val v = dass_node_out(g, n)[i];
        if (!v || g->vals[v].buf != 0)
            continue;
        pr->written[v] = 1;
        DASS_TRY(occupy(pr, n, v, pr->p->val_offset[v], dass_value_bytes(&g->vals[v]), pr->last[v]));
    }
    return DASS_OK;
}

/* The nodes of one time: all read before any has written, nothing is dead before all have run. */
static dass_status play(proof *pr)
{
    const dass_graph *g = pr->g;
    const dass_order *o = pr->p->order;
    for (uint32_t i = 0, end = 0; i + 1 < g->n_nodes; i = end) {
        const uint32_t now = o->time[o->seq[i]];
        for (end = i; end + 1 < g->n_nodes && o->time[o->seq[end]] == now; end++)
            DASS_TRY(check_reads(pr, o->seq[end]));
        for (uint32_t k = i; k < end; k++)
            DASS_TRY(write_outputs(pr, o->seq[k]));
        uint32_t kept = 0;
        for (uint32_t k = 0; k < pr->n_live; k++)
            if (pr->live[k].last > now)
                pr->live[kept++] = pr->live[k];
        pr->n_live = kept;
    }
    return DASS_OK;
}

dass_status dass_plan_verify(const dass_graph *g, const dass_plan *p)
{
    proof pr = {.g = g, .p = p};
    dass_status st = DASS_OK;
    void *mem = NULL;
    DASS_TRY_TO(dass_mem_alloc(((size_t)g->n_vals + g->n_nodes) * sizeof *pr.live, "plan proof", &mem), st, out);
    pr.live = mem;
    DASS_TRY_TO(dass_mem_alloc(g->n_vals * sizeof *pr.last, "plan proof", &mem), st, out);
    pr.last = mem;
    DASS_TRY_TO(dass_mem_alloc(g->n_vals * sizeof *pr.last_node, "plan proof", &mem), st, out);
    pr.last_node = mem;
    DASS_TRY_TO(dass_mem_alloc(g->n_vals, "plan proof", &mem), st, out);
    pr.written = mem;
    for (dass_node n = 1; n < g->n_nodes; n++)
        touch(&pr, n);
    st = play(&pr);
out:
    dass_mem_free(pr.live);
    dass_mem_free(pr.last);
    dass_mem_free(pr.last_node);
    dass_mem_free(pr.written);
    return st;
}
