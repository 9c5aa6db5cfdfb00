/* Rows of batch norm and channel sums over kernels/norm.h. Shapes are fixed in prepare, pointers in bind. */
#include "cuda.h"

#include "kernels/norm.h"

/* ---- bn_stats: x -> mean, rstd ---------------------------------------------------------------------------------- */

static dass_status prepare_bn_stats(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    dass_k_reduce r;
    const dass_k_grid grid =
        dass__cuda_reduce_grid(c, dass__cuda_pixels(x), (uint32_t)x->dim[1], dass__cuda_variant(g, n), &r);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_bn_stats_run, "bn_stats", grid, sizeof(dass_k_bn_stats), &p));
    dass_k_bn_stats *a = p;
    DASS_TRY(dass__cuda_counter(c, k, &r.counter));
    a->r = r;
    a->eps = (float)g->nodes[n].attr.bn.eps;
    k->ws_bytes = (size_t)grid.x * 2 * r.c * sizeof(float);
    return DASS_OK;
}

static dass_status bind_bn_stats(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                 void *const *args, void *ws)
{
    (void)c, (void)g, (void)n;
    dass_k_bn_stats *a = dass__cuda_args(impl, 0);
    a->x = args[0];
    a->mean = args[1];
    a->rstd = args[2];
    a->part = ws;
    return DASS_OK;
}

/* ---- bn_apply and bn_infer -------------------------------------------------------------------------------------- */

/* A warp side by side over channels: whole lines of a pixel. */
static dass_k_grid apply_grid(const dass_cuda *c, const dass_graph *g, dass_node n, const dass_value *x,
                              dass_k_reduce *r)
{
    return dass__cuda_walk_grid(c, dass__cuda_pixels(x), (uint32_t)x->dim[1], dass__cuda_variant(g, n), 32, r);
}

static dass_status prepare_bn_apply(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    dass_k_reduce r;
    const dass_k_grid grid = apply_grid(c, g, n, dass__cuda_in(g, n, 0), &r);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_bn_apply_run, "bn_apply", grid, sizeof(dass_k_bn_apply), &p));
    dass_k_bn_apply *a = p;
    a->r = r;
    a->act = g->nodes[n].attr.bn.act;
    a->eps = (float)g->nodes[n].attr.bn.eps;
    return DASS_OK;
}

static dass_status bind_bn_apply(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                 void *const *args, void *ws)
{
    (void)c, (void)ws;
    dass_k_bn_apply *a = dass__cuda_args(impl, 0);
    const bool infer = g->nodes[n].op == DASS_OP_BN_INFER; /* the second vector is a variance */
    a->in = (dass_k_norm){args[0], args[1], infer ? NULL : args[2], args[3], args[4]};
    a->var = infer ? args[2] : NULL;
    a->dst = args[5];
    return DASS_OK;
}

/* ---- gradients -------------------------------------------------------------------------------------------------- */

static dass_status prepare_bn_bwd_reduce(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n,
                                         dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 1);
    const uint32_t v = dass__cuda_variant(g, n);
    dass_k_reduce r;
    const dass_k_grid grid = dass__cuda_reduce_grid(c, dass__cuda_pixels(x), (uint32_t)x->dim[1], v, &r);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_bn_bwd_reduce_run, "bn_bwd_reduce", grid, sizeof(dass_k_bn_bwd_reduce), &p));
    dass_k_bn_bwd_reduce *a = p;
    DASS_TRY(dass__cuda_counter(c, k, &r.counter));
    a->r = r;
    a->act = g->nodes[n].attr.bn.act;
    k->ws_bytes = (size_t)grid.x * 2 * r.c * sizeof(float);
    return DASS_OK;
}

static dass_status bind_bn_bwd_reduce(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                      void *const *args, void *ws)
{
    (void)c, (void)g, (void)n;
    dass_k_bn_bwd_reduce *a = dass__cuda_args(impl, 0);
    a->d_y = args[0];
    a->in = (dass_k_norm){args[1], args[2], args[3], args[4], args[5]};
    a->d_beta = args[6];
    a->d_gamma = args[7];
    a->part = ws;
    return DASS_OK;
}

static dass_status prepare_bn_bwd_apply(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    dass_k_reduce r;
    const dass_k_grid grid = apply_grid(c, g, n, dass__cuda_in(g, n, 1), &r);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_bn_bwd_apply_run, "bn_bwd_apply", grid, sizeof(dass_k_bn_bwd_apply), &p));
    dass_k_bn_bwd_apply *a = p;
    a->r = r;
    a->act = g->nodes[n].attr.bn.act;
    return DASS_OK;
}

static dass_status bind_bn_bwd_apply(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                     void *const *args, void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_bn_bwd_apply *a = dass__cuda_args(impl, 0);
    a->d_y = args[0];
    a->in = (dass_k_norm){args[1], args[2], args[3], args[4], args[5]};
    a->d_beta = args[6];
    a->d_gamma = args[7];
    a->d_x = args[8];
    return DASS_OK;
}

/* ---- channel_sum and bn_running --------------------------------------------------------------------------------- */

static dass_status prepare_channel_sum(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    dass_k_reduce r;
    const dass_k_grid grid =
        dass__cuda_reduce_grid(c, dass__cuda_pixels(x), (uint32_t)x->dim[1], dass__cuda_variant(g, n), &r);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_channel_sum_run, "channel_sum", grid, sizeof(dass_k_channel_sum), &p));
    dass_k_channel_sum *a = p;
    DASS_TRY(dass__cuda_counter(c, k, &r.counter));
    a->r = r;
    k->ws_bytes = (size_t)grid.x * r.c * sizeof(float);
    return DASS_OK;
}

static dass_status bind_channel_sum(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                    void *const *args, void *ws)
{
    (void)c, (void)g, (void)n;
    dass_k_channel_sum *a = dass__cuda_args(impl, 0);
    a->x = args[0];
    a->dst = args[1];
    a->part = ws;
    return DASS_OK;
}

static dass_status prepare_bn_running(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_bn_attr *at = &g->nodes[n].attr.bn;
    const int64_t n_c = dass_value_count(dass__cuda_in(g, n, 0));
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_bn_running_run, "bn_running",
                            dass__cuda_flat_grid(c, (uint64_t)n_c, DASS_K_V1), sizeof(dass_k_bn_running), &p));
    dass_k_bn_running *a = p;
    a->c = (uint32_t)n_c;
    a->eps = at->eps;
    a->momentum = at->momentum;
    a->unbias = at->count > 1 ? (double)at->count / (double)(at->count - 1) : 1.0;
    return DASS_OK;
}

static dass_status bind_bn_running(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                   void *const *args, void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_bn_running *a = dass__cuda_args(impl, 0);
    a->mean = args[0];
    a->rstd = args[1];
    a->run_mean_in = args[2];
    a->run_var_in = args[3];
    a->run_mean = args[4];
    a->run_var = args[5];
    return DASS_OK;
}

#define ROW(OP, fn)                                                                 \
    {                                                                               \
        .op = DASS_OP_##OP, .name = #fn, .prepare = prepare_##fn, .bind = bind_##fn \
    }
const dass__cuda_row dass__cuda_rows_norm[] = {
    ROW(BN_STATS, bn_stats),         ROW(BN_APPLY, bn_apply),
    ROW(BN_INFER, bn_apply),         ROW(BN_BWD_REDUCE, bn_bwd_reduce),
    ROW(BN_BWD_APPLY, bn_bwd_apply), ROW(CHANNEL_SUM, channel_sum),
    ROW(BN_RUNNING, bn_running),     {.op = DASS_OP_NONE},
};
