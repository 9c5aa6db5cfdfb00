/* Rows of the pools over kernels/pool.h. */
#include "cuda.h"

#include "kernels/pool.h"

static dass_k_window window_of(const dass_value *x, const dass_value *y, dass_pool_attr a)
{
    return (dass_k_window){
        .n = (uint32_t)x->dim[0],
        .c = (uint32_t)x->dim[1],
        .h = (uint32_t)x->dim[2],
        .w = (uint32_t)x->dim[3],
        .oh = (uint32_t)y->dim[2],
        .ow = (uint32_t)y->dim[3],
        .k = a.k,
        .stride = a.stride,
        .pad = a.pad,
    };
}

/* A thread for every V channels of every pixel of v. */
static dass_k_grid grid_over(const dass_cuda *c, const dass_value *v, uint32_t variant)
{
    return dass__cuda_flat_grid(c, (uint64_t)dass_value_count(v) / dass__cuda_width(variant), variant);
}

/* ---- max_pool: x -> y, index; avg_pool: x -> y ------------------------------------------------------------------ */

static dass_status prepare_max_pool(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    const dass_value *y = dass__cuda_out(g, n, 0);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_max_pool_run, "max_pool", grid_over(c, y, dass__cuda_variant(g, n)),
                            sizeof(dass_k_max_pool), &p));
    ((dass_k_max_pool *)p)->win = window_of(x, y, g->nodes[n].attr.pool);
    return DASS_OK;
}

static dass_status bind_max_pool(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                 void *const *args, void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_max_pool *a = dass__cuda_args(impl, 0);
    a->x = args[0];
    a->y = args[1];
    a->index = args[2];
    return DASS_OK;
}

static dass_status prepare_avg_pool(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    const dass_value *y = dass__cuda_out(g, n, 0);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_avg_pool_run, "avg_pool", grid_over(c, y, dass__cuda_variant(g, n)),
                            sizeof(dass_k_avg_pool), &p));
    ((dass_k_avg_pool *)p)->win = window_of(x, y, g->nodes[n].attr.pool);
    return DASS_OK;
}

DASS__BIND_X_Y(avg_pool, dass_k_avg_pool)

/* ---- max_pool_bwd: d_y, index, acc -> d_x; avg_pool_bwd: d_y, acc -> d_x ---------------------------------------- */

static dass_status prepare_pool_bwd(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const bool max = g->nodes[n].op == DASS_OP_MAX_POOL_BWD;
    const dass_value *d_y = dass__cuda_in(g, n, 0);
    const dass_value *d_x = dass__cuda_out(g, n, 0);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, max ? dass_k_max_pool_bwd_run : dass_k_avg_pool_bwd_run,
                            max ? "max_pool_bwd" : "avg_pool_bwd", grid_over(c, d_x, dass__cuda_variant(g, n)),
                            sizeof(dass_k_pool_bwd), &p));
    ((dass_k_pool_bwd *)p)->win = window_of(d_x, d_y, g->nodes[n].attr.pool);
    return DASS_OK;
}

static dass_status bind_pool_bwd(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                 void *const *args, void *ws)
{
    (void)c, (void)ws;
    const bool max = g->nodes[n].op == DASS_OP_MAX_POOL_BWD;
    dass_k_pool_bwd *a = dass__cuda_args(impl, 0);
    a->d_y = args[0];
    a->index = max ? args[1] : NULL;
    a->acc = args[max ? 2 : 1];
    a->d_x = args[max ? 3 : 2];
    return DASS_OK;
}

/* ---- global_pool: x -> y; global_pool_bwd: d_y, acc -> d_x ------------------------------------------------------ */

static dass_status prepare_global_pool(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    (void)c;
    const dass_value *x = dass__cuda_in(g, n, 0);
    const uint32_t v = dass__cuda_variant(g, n);
    const uint32_t area = (uint32_t)x->dim[2] * (uint32_t)x->dim[3];
    const uint32_t lanes = (uint32_t)x->dim[1] / dass__cuda_width(v);
    uint32_t tx = 1; /* a line of channels, and more where there are not enough pixels for the threads */
    while (tx < lanes && (tx < 32 || (tx < 256 && 256 / tx > area)))
        tx *= 2;
    const dass_k_grid grid = {(uint32_t)x->dim[0], (lanes + tx - 1) / tx, v};
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_global_pool_run, "global_pool", grid, sizeof(dass_k_global_pool), &p));
    ((dass_k_global_pool *)p)->r =
        (dass_k_reduce){.m = dass__cuda_pixels(x), .c = (uint32_t)x->dim[1], .tx = tx, .chunk = area};
    return DASS_OK;
}

DASS__BIND_X_Y(global_pool, dass_k_global_pool)

static dass_status prepare_global_pool_bwd(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n,
                                           dass_kernel *k)
{
    const dass_value *d_x = dass__cuda_out(g, n, 0);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_global_pool_bwd_run, "global_pool_bwd",
                            grid_over(c, d_x, dass__cuda_variant(g, n)), sizeof(dass_k_global_pool_bwd), &p));
    dass_k_global_pool_bwd *a = p;
    a->n = (uint32_t)d_x->dim[0];
    a->c = (uint32_t)d_x->dim[1];
    a->area = (uint32_t)d_x->dim[2] * (uint32_t)d_x->dim[3];
    return DASS_OK;
}

static dass_status bind_global_pool_bwd(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                        void *const *args, void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_global_pool_bwd *a = dass__cuda_args(impl, 0);
    a->d_y = args[0];
    a->acc = args[1];
    a->d_x = args[2];
    return DASS_OK;
}

#define ROW(OP, fn)                                                                                           \
    {                                                                                                         \
        .op = DASS_OP_##OP, .name = #fn, .fits = dass__cuda_small, .prepare = prepare_##fn, .bind = bind_##fn \
    }
const dass__cuda_row dass__cuda_rows_pool[] = {
    ROW(MAX_POOL, max_pool),     ROW(AVG_POOL, avg_pool),       ROW(MAX_POOL_BWD, pool_bwd),
    ROW(AVG_POOL_BWD, pool_bwd), ROW(GLOBAL_POOL, global_pool), ROW(GLOBAL_POOL_BWD, global_pool_bwd),
    {.op = DASS_OP_NONE},
};
