/* Rows of softmax and cross-entropy over kernels/loss.h. */
#include "cuda.h"

#include "kernels/loss.h"

/* A warp to a row, eight to a block. */
static dass_k_grid grid_of_rows(const dass_cuda *c, int32_t rows)
{
    return dass__cuda_flat_grid(c, (uint64_t)rows * 32, DASS_K_V1);
}

/* ---- softmax: a -> p; softmax_bwd: d_p, p -> d_a ---------------------------------------------------------------- */

static dass_status prepare_softmax(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    void *p = NULL;
    DASS_TRY(
        dass__cuda_add(mem, k, dass_k_softmax_run, "softmax", grid_of_rows(c, x->dim[0]), sizeof(dass_k_softmax), &p));
    dass_k_softmax *a = p;
    a->rows = (uint32_t)x->dim[0];
    a->cols = (uint32_t)x->dim[1];
    return DASS_OK;
}

static dass_status bind_softmax(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                void *const *args, void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_softmax *a = dass__cuda_args(impl, 0);
    a->x = args[0];
    a->p = args[1];
    return DASS_OK;
}

static dass_status prepare_softmax_bwd(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *p_in = dass__cuda_in(g, n, 1);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_softmax_bwd_run, "softmax_bwd", grid_of_rows(c, p_in->dim[0]),
                            sizeof(dass_k_softmax_bwd), &p));
    dass_k_softmax_bwd *a = p;
    a->rows = (uint32_t)p_in->dim[0];
    a->cols = (uint32_t)p_in->dim[1];
    return DASS_OK;
}

static dass_status bind_softmax_bwd(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                    void *const *args, void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_softmax_bwd *a = dass__cuda_args(impl, 0);
    a->d_p = args[0];
    a->p = args[1];
    a->d_x = args[2];
    return DASS_OK;
}

/* ---- xent: logits, labels, step -> loss, correct, probs; xent_bwd: probs, labels, step -> d_logits -------------- */

static dass_status prepare_xent(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    dass_k_grid grid = grid_of_rows(c, x->dim[0]);
    grid.variant |= dass__cuda_stored(x);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_xent_run, "xent", grid, sizeof(dass_k_xent), &p));
    dass_k_xent *a = p;
    DASS_TRY(dass__cuda_counter(c, k, &a->counter));
    a->rows = (uint32_t)x->dim[0];
    a->cols = (uint32_t)x->dim[1];
    a->smoothing = g->nodes[n].attr.scalar.value;
    k->ws_bytes = (size_t)a->rows * 2 * sizeof(double);
    return DASS_OK;
}

static dass_status bind_xent(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                             void *ws)
{
    (void)c, (void)g, (void)n;
    dass_k_xent *a = dass__cuda_args(impl, 0);
    a->logits = args[0];
    a->labels = args[1];
    a->step = args[2];
    a->loss = args[3];
    a->correct = args[4];
    a->probs = args[5];
    a->part = ws;
    return DASS_OK;
}

static dass_status prepare_xent_bwd(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    const uint32_t v = dass__cuda_variant(g, n);
    const dass_k_grid grid = dass__cuda_flat_grid(c, (uint64_t)dass_value_count(x) / dass__cuda_width(v), v);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_xent_bwd_run, "xent_bwd", grid, sizeof(dass_k_xent_bwd), &p));
    dass_k_xent_bwd *a = p;
    a->rows = (uint32_t)x->dim[0];
    a->cols = (uint32_t)x->dim[1];
    a->smoothing = g->nodes[n].attr.scalar.value;
    return DASS_OK;
}

static dass_status bind_xent_bwd(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                 void *const *args, void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_xent_bwd *a = dass__cuda_args(impl, 0);
    a->probs = args[0];
    a->labels = args[1];
    a->step = args[2];
    a->d_logits = args[3];
    return DASS_OK;
}

#define ROW(OP, fn)                                                                                           \
    {                                                                                                         \
        .op = DASS_OP_##OP, .name = #fn, .fits = dass__cuda_small, .prepare = prepare_##fn, .bind = bind_##fn \
    }
const dass__cuda_row dass__cuda_rows_loss[] = {
    ROW(SOFTMAX, softmax),   ROW(SOFTMAX_BWD, softmax_bwd), ROW(XENT, xent),
    ROW(XENT_BWD, xent_bwd), {.op = DASS_OP_NONE},
};
