/* bf16 for backends whose rows know real numbers only. A node with values in bf16 is shown to the backend as a graph of
 * its own, the same node over real values: its inputs in bf16 are widened into scratch, the row chosen for that graph
 * runs on it, and what it made is rounded into place. So an op rounds what it stores, once, and nothing between, which
 * is what graph.h says of a stored type. It costs the conversions: this is how a processor computes what a device would
 * store, not a way to be faster. Invariants: no allocation in run; an output may share the storage of an input, since
 * all inputs are read before.
 */
#include "host.h"

#include "dass/bf16.h"

typedef struct widened {
    dass__impl head; /* row NULL: what tells this impl from a row's */
    const dass_graph *alone;
    dass_kernel inner;
    void **given; /* per argument, as bound; NULL where it is real */
    void **wide;  /* per argument, as the row sees it */
    size_t *at;   /* per argument: offset in scratch; one more: its end */
} widened;

enum { ALONE = 1 }; /* the node, in its own graph; its arguments are values 1, 2, ... */

static const dass_value *value_of(const dass_graph *g, dass_node n, uint32_t i)
{
    return &g->vals[g->args[g->nodes[n].args + i]];
}

static void widen(const uint16_t *from, float *to, int64_t n)
{
#pragma omp parallel for simd schedule(static) if (n >= 65536)
    for (int64_t i = 0; i < n; i++)
        to[i] = dass_bf16_float(from[i]);
}

static void narrow(const float *from, uint16_t *to, int64_t n)
{
#pragma omp parallel for simd schedule(static) if (n >= 65536)
    for (int64_t i = 0; i < n; i++)
        to[i] = dass_bf16_of(from[i]);
}

static dass_status run_widened(dass_backend *be, void *impl)
{
    const widened *w = impl;
    const uint32_t n_in = w->head.n_in;
    for (uint32_t i = 0; i < n_in; i++)
        if (w->given[i])
            widen(w->given[i], w->wide[i], dass_value_count(value_of(w->head.g, w->head.n, i)));
    DASS_TRY(w->inner.run(be, w->inner.impl));
    for (uint32_t i = n_in; i < n_in + w->head.n_out; i++)
        if (w->given[i])
            narrow(w->wide[i], w->given[i], dass_value_count(value_of(w->head.g, w->head.n, i)));
    return DASS_OK;
}

bool dass__is_widened(const dass_kernel *k)
{
    return k->run == run_widened;
}

bool dass__wants_widening(const dass_graph *g, dass_node n)
{
    for (uint32_t i = 0; i < g->nodes[n].n_in + g->nodes[n].n_out; i++)
        if (value_of(g, n, i)->dtype == DASS_BF16)
            return true;
    return false;
}

/* The node over real values. An argument that is named twice is one value twice. */
static dass_graph *node_alone(dass_arena *mem, const dass_graph *g, dass_node n)
{
    const dass_node_rec *r = &g->nodes[n];
    const uint32_t n_args = r->n_in + r->n_out;
    dass_graph *a = dass_arena_alloc(mem, sizeof *a);
    dass_value *vals = dass_arena_alloc(mem, (n_args + 1) * sizeof *vals);
    dass_node_rec *nodes = dass_arena_alloc(mem, 2 * sizeof *nodes);
    dass_val *args = dass_arena_alloc(mem, n_args * sizeof *args);
    if (!a || !vals || !nodes || !args)
        return NULL;
    vals[0] = g->vals[0];
    nodes[ALONE] = *r;
    nodes[ALONE].args = 0;
    for (uint32_t i = 0; i < n_args; i++) {
        const dass_val v = g->args[r->args + i];
        uint32_t first = 0;
        while (g->args[r->args + first] != v)
            first++;
        args[i] = v ? first + 1 : 0;
        vals[first + 1] = g->vals[v];
        vals[first + 1].def = first >= r->n_in ? ALONE : 0;
        if (g->vals[v].dtype != DASS_BF16)
            continue;
        vals[first + 1].dtype = g->real;
        vals[first + 1].buf = 0; /* scratch lies as a temporary does */
    }
    *a = (dass_graph){.real = g->real,
                      .stored = g->real,
                      .vals = vals,
                      .n_vals = n_args + 1,
                      .nodes = nodes,
                      .n_nodes = 2,
                      .args = args,
                      .n_args = n_args};
    return a;
}

dass_status dass__widened_select(dass_backend *be, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *out)
{
    *out = (dass_kernel){0};
    widened *w = dass__impl_make(mem, g, n, sizeof *w, out);
    const uint32_t n_args = g->nodes[n].n_in + g->nodes[n].n_out;
    if (w == NULL || (w->alone = node_alone(mem, g, n)) == NULL)
        return DASS_NOMEM;
    w->given = dass_arena_alloc(mem, n_args * sizeof *w->given);
    w->wide = dass_arena_alloc(mem, n_args * sizeof *w->wide);
    w->at = dass_arena_alloc(mem, (n_args + 1) * sizeof *w->at);
    if (!w->given || !w->wide || !w->at)
        return DASS_NOMEM;
    out->run = run_widened;
    DASS_TRY(be->ops->select(be, mem, w->alone, ALONE, &w->inner));
    for (uint32_t i = 0; i < n_args; i++) {
        const dass_value *v = value_of(g, n, i);
        const size_t bytes = v->dtype == DASS_BF16 ? (size_t)dass_value_count(v) * dass_dtype_bytes(g->real) : 0;
        w->at[i + 1] = w->at[i] + (bytes + 63) / 64 * 64;
    }
    out->ws_bytes = w->at[n_args] + w->inner.ws_bytes;
    out->name = w->inner.name;
    return DASS_OK;
}

dass_status dass__widened_bind(dass_backend *be, const dass_kernel *k, void *const *args, void *ws)
{
    widened *w = k->impl;
    const uint32_t n_args = w->head.n_in + w->head.n_out;
    unsigned char *scratch = ws;
    for (uint32_t i = 0; i < n_args; i++) {
        const bool half = args[i] != NULL && value_of(w->head.g, w->head.n, i)->dtype == DASS_BF16;
        w->given[i] = half ? args[i] : NULL;
        w->wide[i] = half ? scratch + w->at[i] : args[i];
    }
    void *rest = w->inner.ws_bytes ? scratch + w->at[n_args] : NULL;
    return be->ops->bind(be, w->alone, ALONE, &w->inner, w->wide, rest);
}

void dass__widened_drop(dass_backend *be, const dass_kernel *k)
{
    widened *w = k->impl;
    if (w->inner.impl != NULL && be->ops->drop != NULL)
        be->ops->drop(be, &w->inner);
}
