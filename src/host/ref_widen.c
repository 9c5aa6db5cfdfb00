/* bf16 in the reference: a node's values in bf16 are widened into scratch, the row for real numbers runs on that, and
 * what it made is rounded into place. So an op rounds what it stores, once, and nothing between, which is what graph.h
 * says of a stored type. Invariants: serial, no allocation in run; an output may share the storage of an input, since
 * all inputs are read before.
 */
#include "host.h"

#include <string.h>

typedef struct widened {
    dass__impl *inner;
    dass_status (*run)(dass_backend *be, void *impl);
    void **given; /* per argument, as bound; NULL where it is real */
    size_t *at;   /* per argument: offset in scratch */
} widened;

static const dass_value *value_of(const dass__impl *k, uint32_t i)
{
    return &k->g->vals[k->g->args[k->g->nodes[k->n].args + i]];
}

static float wide(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To nearest, ties to even; a NaN stays one. */
static uint16_t narrow(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

dass_status dass__ref_run_widened(dass_backend *be, void *impl)
{
    const widened *w = impl;
    const dass__impl *k = w->inner;
    for (uint32_t i = 0; i < k->n_in; i++) {
        float *to = k->arg[i];
        for (int64_t e = 0; w->given[i] && e < dass_value_count(value_of(k, i)); e++)
            to[e] = wide(((const uint16_t *)w->given[i])[e]);
    }
    DASS_TRY(w->run(be, w->inner));
    for (uint32_t i = k->n_in; i < k->n_in + k->n_out; i++) {
        const float *from = k->arg[i];
        for (int64_t e = 0; w->given[i] && e < dass_value_count(value_of(k, i)); e++)
            ((uint16_t *)w->given[i])[e] = narrow(from[e]);
    }
    return DASS_OK;
}

dass__impl *dass__ref_bind_widened(void *impl, void *const *args, void **ws)
{
    widened *w = impl;
    dass__impl *k = w->inner;
    unsigned char *scratch = *ws;
    for (uint32_t i = 0; i < k->n_in + k->n_out; i++) {
        const bool half = args[i] != NULL && value_of(k, i)->dtype == DASS_BF16;
        w->given[i] = half ? args[i] : NULL;
        k->arg[i] = half ? scratch + w->at[i] : args[i];
    }
    *ws = scratch + w->at[k->n_in + k->n_out];
    return k;
}

dass_status dass__ref_widen(dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    dass__impl *inner = k->impl;
    const uint32_t n_args = inner->n_in + inner->n_out;
    bool any = false;
    for (uint32_t i = 0; i < n_args; i++)
        any = any || value_of(inner, i)->dtype == DASS_BF16;
    if (!any || g->nodes[n].op == DASS_OP_COPY) /* a copy moves bytes */
        return DASS_OK;
    widened *w = dass_arena_alloc(mem, sizeof *w);
    void **given = dass_arena_alloc(mem, n_args * sizeof *given);
    size_t *at = dass_arena_alloc(mem, (n_args + 1) * sizeof *at);
    if (!w || !given || !at)
        return DASS_NOMEM;
    *w = (widened){.inner = inner, .run = k->run, .given = given, .at = at};
    size_t end = 0;
    for (uint32_t i = 0; i < n_args; i++) {
        at[i] = end;
        if (value_of(inner, i)->dtype == DASS_BF16)
            end += ((size_t)dass_value_count(value_of(inner, i)) * sizeof(float) + 63) / 64 * 64;
    }
    at[n_args] = end;
    k->ws_bytes += end;
    k->impl = w;
    k->run = dass__ref_run_widened;
    return DASS_OK;
}
