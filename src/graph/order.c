/* The order in which the nodes of a graph run, and which of them run together.
 *
 * A node depends on whoever writes what it reads and, in buffers, on whoever read or wrote the same elements before it:
 * effects keep their place among the accesses they could disturb, and nothing else does. Its level is one more than the
 * highest level it depends on. Nodes of one level are independent; those of one level and one group share a time.
 * Without groups, nodes run one by one as they were built.
 */
#include "dass/plan.h"

#include <stdlib.h>
#include <string.h>

typedef struct access {
    int64_t begin, end; /* elements of the buffer */
    uint32_t level;
    bool write;
    uint32_t before; /* index + 1 of the access to the same buffer before this one */
} access;

typedef struct ordering {
    const dass_graph *g;
    uint32_t *level;     /* per node */
    access *accesses;    /* at most one per argument */
    uint32_t n_accesses;
    uint32_t *last;      /* per buffer: index + 1 of its last access */
} ordering;

/* Whole words of a bit mask: two nodes that write neighbouring bits write the same word. */
static void range_of(const dass_value *v, int64_t *begin, int64_t *end)
{
    *begin = v->offset;
    *end = v->offset + dass_value_count(v);
    if (v->dtype == DASS_BITS) {
        *begin = *begin / 64 * 64;
        *end = (*end + 63) / 64 * 64;
    }
}

/* Highest level among the earlier accesses that a new one has to wait for. */
static uint32_t level_of_conflicts(const ordering *o, const dass_value *v, bool write)
{
    int64_t begin = 0;
    int64_t end = 0;
    uint32_t level = 0;
    range_of(v, &begin, &end);
    for (uint32_t i = o->last[v->buf]; i != 0; i = o->accesses[i - 1].before) {
        const access *a = &o->accesses[i - 1];
        if ((write || a->write) && a->begin < end && begin < a->end && a->level > level)
            level = a->level;
    }
    return level;
}

static void record(ordering *o, const dass_value *v, uint32_t level, bool write)
{
    access *a = &o->accesses[o->n_accesses++];
    *a = (access){.level = level, .write = write, .before = o->last[v->buf]};
    range_of(v, &a->begin, &a->end);
    o->last[v->buf] = o->n_accesses;
}

static void find_levels(ordering *o)
{
    const dass_graph *g = o->g;
    for (dass_node n = 1; n < g->n_nodes; n++) {
        const dass_node_rec *r = &g->nodes[n];
        const dass_val *args = g->args + r->args;
        uint32_t level = 0;
        for (uint32_t i = 0; i < r->n_in + r->n_out; i++) {
            const dass_value *v = &g->vals[args[i]];
            const bool write = i >= r->n_in;
            uint32_t wait = 0;
            if (args[i] != 0 && v->buf != 0)
                wait = level_of_conflicts(o, v, write);
            else if (args[i] != 0 && !write)
                wait = o->level[v->def];
            level = wait > level ? wait : level;
        }
        o->level[n] = ++level;
        for (uint32_t i = 0; i < r->n_in + r->n_out; i++)
            if (args[i] != 0 && g->vals[args[i]].buf != 0)
                record(o, &g->vals[args[i]], level, i >= r->n_in);
    }
}

typedef struct place {
    uint32_t level;
    dass_node first; /* lowest node of the same level and group: groups of a level run in the order of these */
    dass_node node;
    uint64_t group;
} place;

static int by_group(const void *a, const void *b)
{
    const place *x = a;
    const place *y = b;
    if (x->level != y->level)
        return x->level < y->level ? -1 : 1;
    if (x->group != y->group)
        return x->group < y->group ? -1 : 1;
    return x->node < y->node ? -1 : 1;
}

static int by_place(const void *a, const void *b)
{
    const place *x = a;
    const place *y = b;
    if (x->level != y->level)
        return x->level < y->level ? -1 : 1;
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return x->node < y->node ? -1 : 1;
}

static void by_levels(const ordering *o, const uint64_t *group, place *p, dass_order *out)
{
    const uint32_t n = o->g->n_nodes - 1;
    for (uint32_t i = 0; i < n; i++)
        p[i] = (place){.level = o->level[i + 1], .node = i + 1, .group = group[i + 1]};
    qsort(p, n, sizeof *p, by_group);
    for (uint32_t i = 0; i < n; i++) {
        const bool same = i > 0 && p[i].group != 0 && p[i].level == p[i - 1].level && p[i].group == p[i - 1].group;
        p[i].first = same ? p[i - 1].first : p[i].node;
    }
    qsort(p, n, sizeof *p, by_place);
    for (uint32_t i = 0; i < n; i++) {
        const bool same = i > 0 && p[i].first == p[i - 1].first;
        out->n_times += same ? 0 : 1;
        out->seq[i] = p[i].node;
        out->time[p[i].node] = out->n_times;
    }
}

static dass_status make_levels(const dass_graph *g, const uint64_t *group, dass_order *out)
{
    ordering o = {.g = g};
    void *p = NULL;
    dass_status st = DASS_OK;
    place *places = NULL;
    DASS_TRY_TO(dass_mem_alloc(g->n_nodes * sizeof *o.level, "order", &p), st, out);
    o.level = p;
    DASS_TRY_TO(dass_mem_alloc((g->n_args + 1) * sizeof *o.accesses, "order", &p), st, out);
    o.accesses = p;
    DASS_TRY_TO(dass_mem_alloc(((size_t)UINT16_MAX + 1) * sizeof *o.last, "order", &p), st, out);
    o.last = p;
    DASS_TRY_TO(dass_mem_alloc(g->n_nodes * sizeof *places, "order", &p), st, out);
    places = p;
    find_levels(&o);
    by_levels(&o, group, places, out);
out:
    dass_mem_free(o.level);
    dass_mem_free(o.accesses);
    dass_mem_free(o.last);
    dass_mem_free(places);
    return st;
}

dass_status dass_order_make(const dass_graph *g, const uint64_t *group, dass_order **out)
{
    *out = NULL;
    void *p = NULL;
    dass_status st = DASS_OK;
    DASS_TRY(dass_mem_alloc(sizeof(dass_order), "order", &p));
    dass_order *o = p;
    DASS_TRY_TO(dass_mem_alloc(g->n_nodes * sizeof *o->seq, "order", &p), st, out);
    o->seq = p;
    DASS_TRY_TO(dass_mem_alloc(g->n_nodes * sizeof *o->time, "order", &p), st, out);
    o->time = p;
    if (group != NULL) {
        st = make_levels(g, group, o);
        goto out;
    }
    for (dass_node n = 1; n < g->n_nodes; n++) {
        o->seq[n - 1] = n;
        o->time[n] = n;
    }
    o->n_times = g->n_nodes - 1;
out:
    if (st != DASS_OK) {
        dass_order_free(o);
        o = NULL;
    }
    *out = o;
    return st;
}

void dass_order_free(dass_order *o)
{
    if (o == NULL)
        return;
    dass_mem_free(o->seq);
    dass_mem_free(o->time);
    dass_mem_free(o);
}
