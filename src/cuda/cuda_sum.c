/* Rows of weighted sums over kernels/sum.h. The terms of a node go to device memory once, when pointers are known. */
#include <string.h>

#include "cuda.h"
#include "dass/mem.h"
#include "kernels/sum.h"

/* What an elementwise sum walks over: rows and columns. Data without channels is one row of as many channels. */
typedef struct extent {
    uint32_t m, c, variant;
} extent;

static extent extent_of(const dass_graph *g, dass_node n, const dass_value *y)
{
    extent e = {.m = 1, .c = (uint32_t)dass_value_count(y)};
    if (y->layout == DASS_LAYOUT_NHWC) {
        e.m = dass__cuda_pixels(y);
        e.c = (uint32_t)y->dim[1];
    }
    bool wide = dass__cuda_vec4(y, (int32_t)(e.c % 4));
    for (uint32_t i = 0; i < g->nodes[n].n_in; i++) {
        const dass_val v = dass_node_in(g, n)[i];
        if (v && dass_value_count(&g->vals[v]) == dass_value_count(y))
            wide = wide && dass__cuda_vec4(&g->vals[v], (int32_t)(e.c % 4));
    }
    e.variant = (wide ? DASS_K_V4 : DASS_K_V1) | dass__cuda_stored(y);
    return e;
}

static dass_k_grid sum_grid(const dass_cuda *c, extent e, dass_k_reduce *r)
{
    return dass__cuda_walk_grid(c, e.m, e.c, e.variant, DASS_K_SUM_LANES, r);
}

static uint32_t n_terms_of(const dass_graph *g, dass_node n)
{
    return (uint32_t)g->nodes[n].attr.sum.n_terms;
}

/* ---- stages of DASS_K_TERMS terms, of either sum ----------------------------------------------------------------- */

static dass_status add_stages(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                              dass_k_launcher fn, const char *name, size_t term_bytes)
{
    dass_k_reduce r;
    const dass_k_grid grid = sum_grid(c, extent_of(g, n, dass__cuda_out(g, n, 0)), &r);
    const uint32_t n_terms = n_terms_of(g, n);
    for (uint32_t at = 0; at < n_terms; at += DASS_K_TERMS) {
        void *p = NULL;
        DASS_TRY(dass__cuda_add(mem, k, fn, name, grid, sizeof(dass_k_sum), &p));
        dass_k_sum *a = p;
        a->r = r;
        a->n_terms = n_terms - at < DASS_K_TERMS ? n_terms - at : DASS_K_TERMS;
        a->add = at > 0;
    }
    dass__cuda_impl_of(k)->own = dass_arena_alloc(mem, n_terms * term_bytes);
    return dass__cuda_impl_of(k)->own != NULL ? DASS_OK : DASS_NOMEM;
}

/* The terms in impl->own go to the device. */
static dass_status bind_stages(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                               size_t term_bytes)
{
    const void *table = NULL;
    DASS_TRY(dass__cuda_table(c, impl, impl->own, n_terms_of(g, n) * term_bytes, &table));
    for (uint32_t s = 0; s < impl->n_stages; s++) {
        dass_k_sum *a = dass__cuda_args(impl, s);
        a->terms = (const unsigned char *)table + (size_t)s * DASS_K_TERMS * term_bytes;
        a->p = args[0];
        a->dst = args[g->nodes[n].n_in];
    }
    return DASS_OK;
}

/* ---- wsum: p, (x, mean, rstd, gamma, beta) per term -> y -------------------------------------------------------- */

static dass_status prepare_wsum(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    return add_stages(c, mem, g, n, k, dass_k_wsum_run, "wsum", sizeof(dass_k_wsum_term));
}

static dass_status bind_wsum(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                             void *ws)
{
    (void)ws;
    dass_k_wsum_term *t = impl->own;
    for (uint32_t i = 0; i < n_terms_of(g, n); i++) {
        void *const *x = args + 1 + 5 * i;
        t[i] = (dass_k_wsum_term){.in = {x[0], x[1], x[2], x[3], x[4]}, .index = g->nodes[n].attr.sum.index[i]};
    }
    return bind_stages(c, g, n, impl, args, sizeof *t);
}

/* ---- gsum: p, (d, x, coef) per term -> y ------------------------------------------------------------------------ */

/* In a sum of several stages, the term whose storage dst takes over must be read by the first: put it there. */
static void order_terms(const dass_graph *g, dass_node n, void *const *args, dass_k_gsum_term *t)
{
    const uint32_t n_terms = n_terms_of(g, n);
    void *const dst = args[g->nodes[n].n_in];
    for (uint32_t i = 0; i < n_terms; i++) {
        void *const *d = args + 1 + 3 * i;
        t[i] = (dass_k_gsum_term){.d = d[0], .x = d[1], .coef = d[2], .index = g->nodes[n].attr.sum.index[i]};
        if (d[0] == dst && i > 0) {
            const dass_k_gsum_term mine = t[i];
            t[i] = t[0];
            t[0] = mine;
        }
    }
}

static dass_status prepare_gsum(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    return add_stages(c, mem, g, n, k, dass_k_gsum_run, "gsum", sizeof(dass_k_gsum_term));
}

static dass_status bind_gsum(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                             void *ws)
{
    (void)ws;
    order_terms(g, n, args, impl->own);
    return bind_stages(c, g, n, impl, args, sizeof(dass_k_gsum_term));
}

/* ---- wsum_bwd: d_y, p, acc_dp, (x, mean, rstd, gamma, beta) per term -> d_p, (coef, d_gamma, d_beta) per term -- */

/* Does anybody want something of term i? */
static bool is_wanted(const dass_graph *g, dass_node n, uint32_t i)
{
    const dass_val *out = dass_node_out(g, n);
    return out[1 + 3 * i] != 0 || out[2 + 3 * i] != 0 || out[3 + 3 * i] != 0 ||
           (out[0] != 0 && g->nodes[n].attr.sum.index[i] >= 0);
}

static uint32_t n_wanted(const dass_graph *g, dass_node n)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n_terms_of(g, n); i++)
        count += is_wanted(g, n, i);
    return count > 0 ? count : 1; /* a term without x, so that acc_dp is passed on */
}

static dass_status prepare_wsum_bwd(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const uint32_t n_terms = n_wanted(g, n);
    const extent e = extent_of(g, n, dass__cuda_in(g, n, 0));
    dass_k_reduce r;
    dass_k_grid grid = dass__cuda_reduce_grid(c, e.m, e.c, e.variant, &r);
    const uint32_t groups = grid.y;
    /* The terms fill the device already: fewer chunks, down to four waves of blocks. */
    const uint32_t most = ((uint32_t)c->n_sm * 4 + n_terms * groups - 1) / (n_terms * groups);
    if (grid.x > most) {
        r.chunk = (e.m + most - 1) / most;
        grid.x = (e.m + r.chunk - 1) / r.chunk;
    }
    grid.y = groups * n_terms;
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_wsum_bwd_run, "wsum_bwd", grid, sizeof(dass_k_wsum_bwd), &p));
    dass_k_wsum_bwd *a = p;
    a->r = r;
    a->n_terms = n_terms;
    a->groups = groups;
    a->n_p = dass_node_in(g, n)[1] != 0 ? (uint32_t)dass_value_count(dass__cuda_in(g, n, 1)) : 0;
    k->ws_bytes = n_terms * sizeof(double) + (size_t)grid.x * n_terms * 2 * e.c * sizeof(float);
    /* terms, then counters */
    dass__cuda_impl_of(k)->own =
        dass_arena_alloc(mem, n_terms * sizeof(dass_k_wsum_bwd_term) + (n_terms + 1) * sizeof(uint32_t));
    return dass__cuda_impl_of(k)->own != NULL ? DASS_OK : DASS_NOMEM;
}

static dass_status bind_wsum_bwd(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                 void *const *args, void *ws)
{
    dass_k_wsum_bwd *a = dass__cuda_args(impl, 0);
    dass_k_wsum_bwd_term *t = impl->own;
    void *const *out = args + g->nodes[n].n_in;
    uint32_t at = 0;
    t[0] = (dass_k_wsum_bwd_term){.index = -1};
    for (uint32_t i = 0; i < n_terms_of(g, n); i++) {
        void *const *x = args + 3 + 5 * i;
        if (is_wanted(g, n, i))
            t[at++] = (dass_k_wsum_bwd_term){.in = {x[0], x[1], x[2], x[3], x[4]},
                                             .coef = out[1 + 3 * i],
                                             .d_gamma = out[2 + 3 * i],
                                             .d_beta = out[3 + 3 * i],
                                             .index = g->nodes[n].attr.sum.index[i]};
    }
    const size_t terms_bytes = a->n_terms * sizeof *t;
    const void *table = NULL;
    DASS_TRY(dass__cuda_table(c, impl, t, terms_bytes + (a->n_terms + 1) * sizeof(uint32_t), &table));
    a->terms = table;
    a->counters = (uint32_t *)((uintptr_t)table + terms_bytes);
    a->d_y = args[0];
    a->p = args[1];
    a->acc_dp = args[2];
    a->d_p = out[0];
    a->share = ws;
    a->part = (float *)(a->share + a->n_terms);
    return DASS_OK;
}

#define ROW(OP, fn)                                                                 \
    {                                                                               \
        .op = DASS_OP_##OP, .name = #fn, .prepare = prepare_##fn, .bind = bind_##fn \
    }
const dass__cuda_row dass__cuda_rows_sum[] = {
    ROW(WSUM, wsum),
    ROW(GSUM, gsum),
    ROW(WSUM_BWD, wsum_bwd),
    {.op = DASS_OP_NONE},
};
