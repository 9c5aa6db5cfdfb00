/* Lifetimes, in-place takeover, greedy-by-size placement, and a verifier that knows nothing of how the plan was made.
 *
 * Every TEMP value that owns storage, and every node's scratch, is an interval [first, last] of times (order.c). A node
 * whose op may run in place lets its first output join the interval of an input that dies there. Placement sorts
 * intervals by size, largest first, and gives each the lowest gap among those already placed that are alive with it;
 * for the lifetimes of training graphs this meets the lower bound to a fraction of a percent (XNNPACK and TFLite place
 * the same way).
 */
#include "dass/plan.h"

#include <stdlib.h>
#include <string.h>

typedef struct interval {
    uint32_t first, last; /* times */
    size_t bytes;         /* rounded up, guard included */
    size_t offset;
    uint32_t id; /* value, or n_vals + node for scratch */
} interval;

typedef struct planning {
    const dass_graph *g;
    dass_plan *p;
    interval *iv;
    uint32_t n_iv;
    uint32_t *of_val; /* value -> interval + 1 */
    uint32_t *last;   /* value -> last time that touches it */
    uint32_t *n_last; /* value -> how many nodes touch it at that time */
} planning;

static dass_status rounded(const planning *pl, size_t bytes, size_t *out)
{
    size_t b = 0;
    DASS_TRY(dass_mem_add(bytes, (size_t)DASS_PLAN_ALIGN - 1 + (pl->p->guard ? DASS_PLAN_GUARD : 0), "plan", &b));
    *out = b / DASS_PLAN_ALIGN * DASS_PLAN_ALIGN;
    return DASS_OK;
}

static bool is_temp(const dass_graph *g, dass_val v)
{
    return v != 0 && g->vals[v].buf == 0;
}

/* Input `i` of node n may hand its storage to output 0. */
static bool may_take(const planning *pl, dass_node n, uint32_t i)
{
    const dass_graph *g = pl->g;
    const dass_val v = dass_node_in(g, n)[i];
    const dass_val o = dass_node_out(g, n)[0];
    if (!is_temp(g, v) || !is_temp(g, o) || !pl->of_val[v] ||
        dass_value_bytes(&g->vals[v]) != dass_value_bytes(&g->vals[o]))
        return false;
    if (pl->iv[pl->of_val[v] - 1].last != pl->p->order->time[n] || pl->n_last[v] != 1)
        return false;
    for (uint32_t j = 0; j < g->nodes[n].n_in; j++)
        if (j != i && is_temp(g, dass_node_in(g, n)[j]) && pl->of_val[dass_node_in(g, n)[j]] == pl->of_val[v])
            return false;
    return true;
}

/* Index of the input that output 0 of n takes over; -1 when none. */
static int find_takeover(const planning *pl, dass_node n)
{
    const dass_node_rec *r = &pl->g->nodes[n];
    const int rule = dass_op_get(r->op)->in_place;
    if (r->n_out == 0 || rule == -1)
        return -1;
    if (rule >= 0)
        return (uint32_t)rule < r->n_in && may_take(pl, n, (uint32_t)rule) ? rule : -1;
    for (int32_t k = 0; k < r->attr.sum.n_terms; k++) { /* any plain term */
        const uint32_t i = 1 + 3 * (uint32_t)k;
        if (r->attr.sum.index[k] < 0 && dass_node_in(pl->g, n)[i + 2] == 0 && may_take(pl, n, i))
            return (int)i;
    }
    return -1;
}

static dass_status add_interval(planning *pl, uint32_t id, uint32_t first, uint32_t last, size_t bytes)
{
    interval *iv = &pl->iv[pl->n_iv++];
    *iv = (interval){.first = first, .last = last, .id = id};
    return rounded(pl, bytes, &iv->bytes);
}

static void find_last(planning *pl)
{
    const dass_graph *g = pl->g;
    for (uint32_t k = 0; k + 1 < g->n_nodes; k++) {
        const dass_node n = pl->p->order->seq[k];
        const dass_val *args = g->args + g->nodes[n].args;
        const uint32_t n_args = g->nodes[n].n_in + g->nodes[n].n_out;
        for (uint32_t i = 0; i < n_args; i++) {
            bool again = false; /* a node that names a value twice counts once */
            for (uint32_t j = 0; j < i && !again; j++)
                again = args[j] == args[i];
            const uint32_t now = pl->p->order->time[n];
            pl->n_last[args[i]] = pl->last[args[i]] == now ? pl->n_last[args[i]] + !again : 1;
            pl->last[args[i]] = now;
        }
    }
}

static dass_status collect(planning *pl, bool in_place)
{
    const dass_graph *g = pl->g;
    find_last(pl);
    for (uint32_t k = 0; k + 1 < g->n_nodes; k++) {
        const dass_node n = pl->p->order->seq[k];
        const uint32_t now = pl->p->order->time[n];
        const int take = in_place ? find_takeover(pl, n) : -1;
        for (uint32_t i = 0; i < g->nodes[n].n_out; i++) {
            const dass_val v = dass_node_out(g, n)[i];
            if (!is_temp(g, v))
                continue;
            if (i == 0 && take >= 0) {
                const dass_val from = dass_node_in(g, n)[take];
                pl->of_val[v] = pl->of_val[from];
                pl->p->val_owner[v] = pl->p->val_owner[from];
                pl->iv[pl->of_val[v] - 1].last = pl->last[v];
                continue;
            }
            DASS_TRY(add_interval(pl, v, now, pl->last[v], dass_value_bytes(&g->vals[v])));
            pl->of_val[v] = pl->n_iv;
            pl->p->val_owner[v] = v;
        }
        if (pl->p->ws_bytes[n])
            DASS_TRY(add_interval(pl, g->n_vals + n, now, now, pl->p->ws_bytes[n]));
    }
    return DASS_OK;
}

static int by_size(const void *a, const void *b)
{
    const interval *x = *(const interval *const *)a;
    const interval *y = *(const interval *const *)b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? 1 : -1;
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* placed[] is sorted by offset. Lowest gap among those alive together that fits. */
static size_t find_gap(const interval *iv, interval *const *placed, uint32_t n_placed)
{
    size_t top = 0;
    for (uint32_t i = 0; i < n_placed; i++) {
        const interval *o = placed[i];
        if (o->last < iv->first || o->first > iv->last)
            continue;
        if (o->offset >= top && o->offset - top >= iv->bytes)
            return top;
        const size_t end = o->offset + o->bytes;
        top = end > top ? end : top;
    }
    return top;
}

static dass_status place_all(planning *pl)
{
    void *mem = NULL;
    DASS_TRY(dass_mem_alloc((2 * (size_t)pl->n_iv + 1) * sizeof(interval *), "plan", &mem));
    interval **order = mem;
    interval **placed = order + pl->n_iv;
    for (uint32_t i = 0; i < pl->n_iv; i++)
        order[i] = &pl->iv[i];
    qsort(order, pl->n_iv, sizeof *order, by_size);
    for (uint32_t i = 0; i < pl->n_iv; i++) {
        interval *iv = order[i];
        iv->offset = find_gap(iv, placed, i);
        uint32_t at = i;
        while (at > 0 && placed[at - 1]->offset > iv->offset)
            at--;
        memmove(&placed[at + 1], &placed[at], (i - at) * sizeof *placed);
        placed[at] = iv;
        const size_t end = iv->offset + iv->bytes;
        pl->p->peak_bytes = end > pl->p->peak_bytes ? end : pl->p->peak_bytes;
    }
    dass_mem_free(mem);
    return DASS_OK;
}

/* Largest sum of what is alive at one time; also the sum of everything. */
static dass_status bound(planning *pl)
{
    void *mem = NULL;
    DASS_TRY(dass_mem_alloc(((size_t)pl->g->n_nodes + 1) * sizeof(int64_t), "plan", &mem));
    int64_t *step = mem;
    for (uint32_t i = 0; i < pl->n_iv; i++) {
        step[pl->iv[i].first] += (int64_t)pl->iv[i].bytes;
        step[pl->iv[i].last + 1] -= (int64_t)pl->iv[i].bytes;
        pl->p->sum_bytes += pl->iv[i].bytes;
    }
    int64_t live = 0;
    for (dass_node n = 0; n < pl->g->n_nodes; n++) {
        live += step[n];
        pl->p->bound_bytes = (size_t)live > pl->p->bound_bytes ? (size_t)live : pl->p->bound_bytes;
    }
    dass_mem_free(mem);
    return DASS_OK;
}

static void publish(planning *pl)
{
    dass_plan *p = pl->p;
    p->n_intervals = pl->n_iv;
    for (dass_val v = 0; v < pl->g->n_vals; v++)
        p->val_offset[v] = pl->of_val[v] ? pl->iv[pl->of_val[v] - 1].offset : DASS_PLAN_NOWHERE;
    for (dass_node n = 0; n < pl->g->n_nodes; n++)
        p->ws_offset[n] = DASS_PLAN_NOWHERE;
    for (uint32_t i = 0; i < pl->n_iv; i++)
        if (pl->iv[i].id >= pl->g->n_vals)
            p->ws_offset[pl->iv[i].id - pl->g->n_vals] = pl->iv[i].offset;
}

static dass_status plan_alloc(const dass_graph *g, dass_plan **out)
{
    void *mem = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass_plan), "plan", &mem));
    dass_plan *p = mem;
    *out = p;
    DASS_TRY(dass_mem_alloc(g->n_vals * sizeof *p->val_offset, "plan", &mem));
    p->val_offset = mem;
    DASS_TRY(dass_mem_alloc(g->n_vals * sizeof *p->val_owner, "plan", &mem));
    p->val_owner = mem;
    DASS_TRY(dass_mem_alloc(g->n_nodes * sizeof *p->ws_offset, "plan", &mem));
    p->ws_offset = mem;
    DASS_TRY(dass_mem_alloc(g->n_nodes * sizeof *p->ws_bytes, "plan", &mem));
    p->ws_bytes = mem;
    return DASS_OK;
}

dass_status dass_plan_make(const dass_graph *g, const size_t *ws_bytes, const uint64_t *group, bool guard,
                           bool in_place, dass_plan **out)
{
    *out = NULL;
    planning pl = {.g = g};
    dass_status st = DASS_OK;
    void *p = NULL;
    DASS_TRY_TO(plan_alloc(g, &pl.p), st, out);
    pl.p->guard = guard;
    if (ws_bytes)
        memcpy(pl.p->ws_bytes, ws_bytes, g->n_nodes * sizeof *ws_bytes);
    DASS_TRY_TO(dass_mem_alloc(((size_t)g->n_vals + g->n_nodes) * sizeof(interval), "plan", &p), st, out);
    pl.iv = p;
    DASS_TRY_TO(dass_mem_alloc(g->n_vals * sizeof *pl.of_val, "plan", &p), st, out);
    pl.of_val = p;
    DASS_TRY_TO(dass_mem_alloc(g->n_vals * sizeof *pl.last, "plan", &p), st, out);
    pl.last = p;
    DASS_TRY_TO(dass_mem_alloc(g->n_vals * sizeof *pl.n_last, "plan", &p), st, out);
    pl.n_last = p;
    DASS_TRY_TO(dass_order_make(g, group, &pl.p->order), st, out);
    DASS_TRY_TO(collect(&pl, in_place), st, out);
    DASS_TRY_TO(bound(&pl), st, out);
    DASS_TRY_TO(place_all(&pl), st, out);
    publish(&pl);
    DASS_TRY_TO(dass_plan_verify(g, pl.p), st, out);
out:
    dass_mem_free(pl.iv);
    dass_mem_free(pl.of_val);
    dass_mem_free(pl.last);
    dass_mem_free(pl.n_last);
    if (st != DASS_OK) {
        dass_plan_free(pl.p);
        pl.p = NULL;
    }
    *out = pl.p;
    return st;
}

void dass_plan_free(dass_plan *p)
{
    if (!p)
        return;
    dass_order_free(p->order);
    dass_mem_free(p->val_offset);
    dass_mem_free(p->val_owner);
    dass_mem_free(p->ws_offset);
    dass_mem_free(p->ws_bytes);
    dass_mem_free(p);
}
