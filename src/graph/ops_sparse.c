/* Builder functions of the sparse forward ops: shape inference and its errors. Formulas stand in graph.h. What a matrix
 * holds is not known here; its sizes are.
 */
#include "graph_private.h"

static bool is_image(dass_graph *g, const char *op, const char *what, dass_val x)
{
    if (g->status != DASS_OK)
        return false;
    if (x != 0 && g->vals[x].layout == DASS_LAYOUT_NHWC && g->vals[x].dtype == g->stored)
        return true;
    dass__graph_fail(g, DASS_ARG, "%s: %s is %s, expected a (N,C,H,W) activation of the stored type", op, what,
                     dass__show(g, x));
    return false;
}

static int64_t count_of(const dass_graph *g, dass_val v)
{
    return dass_value_count(&g->vals[v]);
}

/* The matrix has `rows` rows (0: any) and can have `cols` columns. */
static bool is_csr(dass_graph *g, const char *op, const char *what, const dass_csr *s, int32_t rows, int32_t cols)
{
    if (g->status != DASS_OK)
        return false;
    const int64_t n = s->nnz > 1 ? s->nnz : 1;
    const bool sizes = s->values && s->columns && s->starts && g->vals[s->values].dtype == g->stored &&
                       g->vals[s->columns].dtype == DASS_I32 && g->vals[s->starts].dtype == DASS_I32 &&
                       count_of(g, s->values) == n && count_of(g, s->columns) == n && count_of(g, s->starts) >= 2 &&
                       (rows == 0 || count_of(g, s->starts) == (int64_t)rows + 1);
    if (sizes && s->nnz >= 0 && s->nnz <= (count_of(g, s->starts) - 1) * cols && s->nnz <= INT32_MAX)
        return true;
    dass__graph_fail(g, DASS_ARG,
                     "%s: values %s, columns %s, starts %s are no %s matrix of %lld entries and %d columns", op,
                     dass__show(g, s->values), dass__show(g, s->columns), dass__show(g, s->starts), what,
                     (long long)s->nnz, cols);
    return false;
}

/* v has n entries, or is 0. */
static bool is_bias(dass_graph *g, const char *op, dass_val v, int32_t n)
{
    if (g->status != DASS_OK)
        return false;
    if (v == 0 || (count_of(g, v) == n && g->vals[v].dtype == g->real))
        return true;
    dass__graph_fail(g, DASS_ARG, "%s: bias %s does not have %d entries", op, dass__show(g, v), n);
    return false;
}

/* residual is shaped (n, c, h, w), or 0. */
static bool is_residual(dass_graph *g, const char *op, dass_val v, int32_t n, int32_t c, int32_t h, int32_t w)
{
    if (v == 0)
        return g->status == DASS_OK;
    if (!is_image(g, op, "the residual", v))
        return false;
    const int32_t *const d = g->vals[v].dim;
    if (d[0] == n && d[1] == c && d[2] == h && d[3] == w)
        return true;
    dass__graph_fail(g, DASS_ARG, "%s: residual %s does not have the shape (%d,%d,%d,%d) of the result", op,
                     dass__show(g, v), n, c, h, w);
    return false;
}

static bool is_act(dass_graph *g, const char *op, dass_act act)
{
    if (g->status == DASS_OK && act != DASS_ACT_NONE && act != DASS_ACT_RELU && act != DASS_ACT_RELU6)
        dass__graph_fail(g, DASS_ARG, "%s: activation %d is none of dass_act", op, (int)act);
    return g->status == DASS_OK;
}

dass_val dass_spconv(dass_graph *g, dass_val x, dass_csr s, dass_val bias, dass_val residual, dass_act act,
                     bool library)
{
    if (!is_image(g, "spconv", "x", x) || !is_act(g, "spconv", act) ||
        !is_csr(g, "spconv", "(OC, IC)", &s, 0, g->vals[x].dim[1]))
        return 0;
    const int32_t *const d = g->vals[x].dim;
    const int32_t oc = (int32_t)count_of(g, s.starts) - 1;
    if (!is_bias(g, "spconv", bias, oc) || !is_residual(g, "spconv", residual, d[0], oc, d[2], d[3]))
        return 0;
    const dass_attr attr = {.sparse = {.nnz = s.nnz, .act = (int32_t)act, .library = library}};
    const dass_val in[] = {x, s.values, s.columns, s.starts, bias, residual};
    return dass__node1(g, DASS_OP_SPCONV, in, 6, &attr, dass__shape_nhwc(g, d[0], oc, d[2], d[3]));
}

dass_val dass_irblock(dass_graph *g, const dass_irblock_in *in, int32_t stride, dass_act act)
{
    static const char op[] = "irblock";
    if (!is_image(g, op, "x", in->x) || !is_act(g, op, act))
        return 0;
    const int32_t *const d = g->vals[in->x].dim;
    const dass_value *const dw = &g->vals[in->w_dw];
    const int32_t hidden = dw->dim[0];
    if (in->w_dw == 0 || dw->layout != DASS_LAYOUT_OIHW || dw->dtype != g->stored || dw->dim[1] != 1 ||
        dw->dim[2] != 3 || dw->dim[3] != 3 || (stride != 1 && stride != 2))
        return dass__graph_fail(g, DASS_ARG, "irblock: weights %s must be (K,1,3,3), stride %d must be 1 or 2",
                                dass__show(g, in->w_dw), stride);
    if (!is_csr(g, op, "expanding", &in->expand, hidden, d[1]) || !is_csr(g, op, "projecting", &in->project, 0, hidden))
        return 0;
    const int32_t oc = (int32_t)count_of(g, in->project.starts) - 1;
    const int32_t oh = (d[2] - 1) / stride + 1;
    const int32_t ow = (d[3] - 1) / stride + 1;
    if (!is_bias(g, op, in->b_expand, hidden) || !is_bias(g, op, in->b_dw, hidden) ||
        !is_bias(g, op, in->b_project, oc) || !is_residual(g, op, in->residual, d[0], oc, oh, ow))
        return 0;
    const dass_attr attr = {.irblock = {.nnz_expand = in->expand.nnz,
                                        .nnz_project = in->project.nnz,
                                        .stride = stride,
                                        .act = (int32_t)act}};
    const dass_val args[] = {
        in->x,    in->expand.values,  in->expand.columns,  in->expand.starts,  in->b_expand,  in->w_dw,
        in->b_dw, in->project.values, in->project.columns, in->project.starts, in->b_project, in->residual};
    return dass__node1(g, DASS_OP_IRBLOCK, args, 12, &attr, dass__shape_nhwc(g, d[0], oc, oh, ow));
}
