/* Builder functions of the ops that gradients are made of. They are emitted by grad.c with shapes that already fit, and
 * by tests; checks here are short but complete enough that a kernel never reads past its arguments.
 */
#include "graph_private.h"

#include <string.h>


static bool fits(dass_graph *g, const char *op, bool ok, dass_val a, dass_val b)
{
    if (g->status != DASS_OK)
        return false;
    if (!ok)
        dass__graph_fail(g, DASS_ARG, "%s: %s does not fit %s", op, dass__show(g, a), dass__show(g, b));
    return ok;
}

/* acc is 0 or shaped (n, c, h, w). */
static bool acc_ok(dass_graph *g, const char *op, dass_val acc, dass__shape s)
{
    if (acc == 0 || (g->vals[acc].dtype == s.dtype && memcmp(g->vals[acc].dim, s.dim, sizeof s.dim) == 0))
        return true;
    dass__graph_fail(g, DASS_ARG, "%s: acc %s does not have the shape (%d,%d,%d,%d) of the result", op,
                     dass__show(g, acc), s.dim[0], s.dim[1], s.dim[2], s.dim[3]);
    return false;
}

static dass_conv_attr plain_conv(dass_conv_attr a)
{
    a.relu = 0;
    a.eps = 0;
    a.act = DASS_ACT_NONE;
    return a;
}

dass_val dass_conv_bwd_data(dass_graph *g, dass_val d_y, dass_val w, int32_t h, int32_t wd, dass_conv_attr a)
{
    if (g->status != DASS_OK)
        return 0;
    const dass_value *y = &g->vals[d_y];
    const dass_value *wv = &g->vals[w];
    if (!fits(g, "conv_bwd_data",
              d_y && w && y->dtype == g->stored && wv->dtype == g->stored && wv->dim[0] == y->dim[1] &&
                  wv->dim[2] == a.kh && wv->dim[3] == a.kw &&
                  dass__window_out(h, a.kh, a.stride, a.pad, a.dil) == y->dim[2] &&
                  dass__window_out(wd, a.kw, a.stride, a.pad, a.dil) == y->dim[3],
              d_y, w))
        return 0;
    const dass_attr attr = {.conv = plain_conv(a)};
    const dass_val in[] = {d_y, w};
    return dass__node1(g, DASS_OP_CONV_BWD_DATA, in, 2, &attr,
                       dass__shape_nhwc(g, y->dim[0], wv->dim[1] * a.groups, h, wd));
}

dass_val dass_conv_bwd_weights(dass_graph *g, dass_val x, dass_val d_y, dass_conv_attr a)
{
    if (g->status != DASS_OK)
        return 0;
    const dass_value *xv = &g->vals[x];
    const dass_value *y = &g->vals[d_y];
    if (!fits(g, "conv_bwd_weights",
              x && d_y && xv->dtype == g->stored && y->dtype == g->stored && xv->dim[0] == y->dim[0] &&
                  xv->dim[1] % a.groups == 0 &&
                  dass__window_out(xv->dim[2], a.kh, a.stride, a.pad, a.dil) == y->dim[2] &&
                  dass__window_out(xv->dim[3], a.kw, a.stride, a.pad, a.dil) == y->dim[3],
              x, d_y))
        return 0;
    const dass_attr attr = {.conv = plain_conv(a)};
    const dass_val in[] = {x, d_y};
    const dass__shape s = {.dtype = g->real,
                           .layout = DASS_LAYOUT_OIHW,
                           .rank = 4,
                           .dim = {y->dim[1], xv->dim[1] / a.groups, a.kh, a.kw}};
    return dass__node1(g, DASS_OP_CONV_BWD_WEIGHTS, in, 2, &attr, s);
}

dass_val dass_channel_sum(dass_graph *g, dass_val x)
{
    if (!fits(g, "channel_sum", x != 0, x, x))
        return 0;
    return dass__node1(g, DASS_OP_CHANNEL_SUM, &x, 1, NULL, dass__shape_flat(g, g->vals[x].dim[1]));
}

void dass_bn_bwd_reduce(dass_graph *g, dass_val d_y, dass_val x, dass_val mean, dass_val rstd, dass_val gamma,
                        dass_val beta, dass_act act, dass_val *d_beta, dass_val *d_gamma)
{
    *d_beta = *d_gamma = 0;
    if (!fits(g, "bn_bwd_reduce", d_y && x && mean && rstd && dass__same_shape(g, d_y, x), d_y, x))
        return;
    const dass_attr a = {.bn = {.act = (int32_t)act}};
    const dass_val in[] = {d_y, x, mean, rstd, gamma, beta};
    const dass__shape s[] = {dass__shape_flat(g, g->vals[x].dim[1]), dass__shape_flat(g, g->vals[x].dim[1])};
    dass_val out[2];
    dass__node_add(g, DASS_OP_BN_BWD_REDUCE, in, 6, &a, s, 2, NULL, out);
    *d_beta = out[0];
    *d_gamma = out[1];
}

dass_val dass_bn_bwd_apply(dass_graph *g, dass_val d_y, dass_val x, dass_val mean, dass_val rstd, dass_val gamma,
                           dass_val beta, dass_act act, dass_val d_beta, dass_val d_gamma)
{
    if (!fits(g, "bn_bwd_apply", d_y && x && mean && rstd && d_beta && d_gamma && dass__same_shape(g, d_y, x), d_y, x))
        return 0;
    const dass_attr a = {.bn = {.act = (int32_t)act}};
    const dass_val in[] = {d_y, x, mean, rstd, gamma, beta, d_beta, d_gamma};
    return dass__node1(g, DASS_OP_BN_BWD_APPLY, in, 8, &a, dass__shape_of(g, x));
}

dass_val dass_relu_bwd(dass_graph *g, dass_val d_y, dass_val y, dass_act act)
{
    if (!fits(g, "relu_bwd", d_y && y && dass__same_shape(g, d_y, y), d_y, y))
        return 0;
    const dass_attr a = {.act = (int32_t)act};
    const dass_val in[] = {d_y, y};
    return dass__node1(g, DASS_OP_RELU_BWD, in, 2, &a, dass__shape_of(g, y));
}

/* The shape (N, C, h, w) of what a pool or sampling read, given the gradient of what it wrote. */
static dass__shape input_shape(const dass_graph *g, dass_val d_y, int32_t h, int32_t w)
{
    return dass__shape_nhwc(g, g->vals[d_y].dim[0], g->vals[d_y].dim[1], h, w);
}

static bool pool_fits(dass_graph *g, const char *op, dass_val d_y, int32_t h, int32_t w, dass_pool_attr a)
{
    return fits(g, op,
                d_y && dass__window_out(h, a.k, a.stride, a.pad, 1) == g->vals[d_y].dim[2] &&
                    dass__window_out(w, a.k, a.stride, a.pad, 1) == g->vals[d_y].dim[3],
                d_y, d_y);
}

dass_val dass_max_pool_bwd(dass_graph *g, dass_val d_y, dass_val index, dass_val acc, int32_t h, int32_t w,
                           dass_pool_attr a)
{
    const char *op = "max_pool_bwd";
    if (!pool_fits(g, op, d_y, h, w, a) || !fits(g, op, index && g->vals[index].dtype == DASS_U8, index, d_y) ||
        !acc_ok(g, op, acc, input_shape(g, d_y, h, w)))
        return 0;
    const dass_attr attr = {.pool = a};
    const dass_val in[] = {d_y, index, acc};
    return dass__node1(g, DASS_OP_MAX_POOL_BWD, in, 3, &attr, input_shape(g, d_y, h, w));
}

dass_val dass_avg_pool_bwd(dass_graph *g, dass_val d_y, dass_val acc, int32_t h, int32_t w, dass_pool_attr a)
{
    const char *op = "avg_pool_bwd";
    if (!pool_fits(g, op, d_y, h, w, a) || !acc_ok(g, op, acc, input_shape(g, d_y, h, w)))
        return 0;
    const dass_attr attr = {.pool = a};
    const dass_val in[] = {d_y, acc};
    return dass__node1(g, DASS_OP_AVG_POOL_BWD, in, 2, &attr, input_shape(g, d_y, h, w));
}

dass_val dass_global_pool_bwd(dass_graph *g, dass_val d_y, dass_val acc, int32_t h, int32_t w)
{
    const char *op = "global_pool_bwd";
    if (!fits(g, op, d_y && h > 0 && w > 0 && g->vals[d_y].dim[2] == 1 && g->vals[d_y].dim[3] == 1, d_y, d_y) ||
        !acc_ok(g, op, acc, input_shape(g, d_y, h, w)))
        return 0;
    const dass_val in[] = {d_y, acc};
    return dass__node1(g, DASS_OP_GLOBAL_POOL_BWD, in, 2, NULL, input_shape(g, d_y, h, w));
}

dass_val dass_subsample_bwd(dass_graph *g, dass_val d_y, dass_val acc, int32_t h, int32_t w, int32_t stride,
                            int32_t offset)
{
    const char *op = "subsample_bwd";
    if (!fits(g, op,
              d_y && stride > 0 && offset >= 0 && (h - offset + stride - 1) / stride == g->vals[d_y].dim[2] &&
                  (w - offset + stride - 1) / stride == g->vals[d_y].dim[3],
              d_y, d_y) ||
        !acc_ok(g, op, acc, input_shape(g, d_y, h, w)))
        return 0;
    const dass_attr a = {.scalar = {.i = stride, .j = offset}};
    const dass_val in[] = {d_y, acc};
    return dass__node1(g, DASS_OP_SUBSAMPLE_BWD, in, 2, &a, input_shape(g, d_y, h, w));
}

dass_val dass_slice(dass_graph *g, dass_val x, int32_t first, int32_t count)
{
    if (!fits(g, "slice", x && first >= 0 && count > 0 && first + count <= g->vals[x].dim[1], x, x))
        return 0;
    const dass_value *v = &g->vals[x];
    const dass_attr a = {.scalar = {.i = first, .j = count}};
    return dass__node1(g, DASS_OP_SLICE, &x, 1, &a, dass__shape_nhwc(g, v->dim[0], count, v->dim[2], v->dim[3]));
}

void dass_wsum_bwd(dass_graph *g, dass_val d_y, dass_val p, dass_val acc_dp, const dass_term *terms, uint32_t n,
                   bool want_dp, const uint8_t *want, dass_val *d_p, dass_wsum_grad *out)
{
    if (d_p)
        *d_p = 0;
    memset(out, 0, n * sizeof *out);
    if (!fits(g, "wsum_bwd", d_y && n >= 1 && n <= DASS_MAX_TERMS && (!want_dp || p), d_y, p) ||
        (acc_dp && !acc_ok(g, "wsum_bwd", acc_dp, dass__shape_of(g, p))))
        return;
    const int32_t c = g->vals[d_y].dim[1];
    const dass__shape none = {.dtype = DASS__NO_OUT};
    dass_val in[3 + 5 * DASS_MAX_TERMS];
    dass__shape s[1 + 3 * DASS_MAX_TERMS];
    dass_val outs[1 + 3 * DASS_MAX_TERMS];
    int32_t index[DASS_MAX_TERMS];
    in[0] = d_y;
    in[1] = p;
    in[2] = acc_dp;
    s[0] = want_dp ? dass__shape_of(g, p) : none;
    for (uint32_t k = 0; k < n; k++) {
        const dass_term *t = &terms[k];
        const bool needs_x = (want[k] & 3) || (want_dp && t->index >= 0);
        const dass_val a[5] = {needs_x ? t->x : 0, t->mean, t->rstd, t->gamma, t->beta};
        memcpy(&in[3 + 5 * k], a, sizeof a);
        index[k] = t->index;
        s[1 + 3 * k] = (want[k] & 1) ? dass__shape_rows(g, 3, c) : none;
        s[2 + 3 * k] = s[3 + 3 * k] = (want[k] & 2) ? dass__shape_flat(g, c) : none;
    }
    const dass_attr attr = {.sum = {.index = dass__graph_intern(g, index, n * sizeof *index), .n_terms = (int32_t)n}};
    dass__node_add(g, DASS_OP_WSUM_BWD, in, 3 + 5 * n, &attr, s, 1 + 3 * n, NULL, outs);
    if (d_p)
        *d_p = outs[0];
    for (uint32_t k = 0; k < n; k++)
        out[k] = (dass_wsum_grad){outs[1 + 3 * k], outs[2 + 3 * k], outs[3 + 3 * k]};
}

dass_val dass_gsum(dass_graph *g, dass_val p, const dass_gterm *terms, uint32_t n)
{
    if (!fits(g, "gsum", n >= 1 && n <= DASS_MAX_TERMS && terms[0].d, n ? terms[0].d : 0, p))
        return 0;
    dass_val in[1 + 3 * DASS_MAX_TERMS];
    int32_t index[DASS_MAX_TERMS];
    in[0] = p;
    for (uint32_t k = 0; k < n; k++) {
        const dass_gterm *t = &terms[k];
        const bool ok = t->d && dass__same_shape(g, t->d, terms[0].d) &&
                        (t->coef == 0 || (t->x && dass__same_shape(g, t->x, t->d) &&
                                          dass_value_count(&g->vals[t->coef]) == 3 * (int64_t)g->vals[t->x].dim[1])) &&
                        (t->index < 0 || (p && t->index < dass_value_count(&g->vals[p])));
        if (!fits(g, "gsum", ok, t->d, terms[0].d))
            return 0;
        memcpy(&in[1 + 3 * k], (const dass_val[]){t->d, t->x, t->coef}, 3 * sizeof *in);
        index[k] = t->index;
    }
    const dass_attr a = {.sum = {.index = dass__graph_intern(g, index, n * sizeof *index), .n_terms = (int32_t)n}};
    return dass__node1(g, DASS_OP_GSUM, in, 1 + 3 * n, &a, dass__shape_of(g, terms[0].d));
}

dass_val dass_softmax_bwd(dass_graph *g, dass_val d_p, dass_val p)
{
    if (!fits(g, "softmax_bwd", d_p && p && dass__same_shape(g, d_p, p), d_p, p))
        return 0;
    const dass_val in[] = {d_p, p};
    return dass__node1(g, DASS_OP_SOFTMAX_BWD, in, 2, NULL, dass__shape_of(g, p));
}

dass_val dass_xent_bwd(dass_graph *g, dass_val probs, dass_val labels, dass_val step, double smoothing)
{
    if (!fits(g, "xent_bwd", probs && labels && step && g->vals[probs].dtype == g->real, probs, labels))
        return 0;
    const dass_attr a = {.scalar = {.value = smoothing}};
    const dass_val in[] = {probs, labels, step};
    dass__shape s = dass__shape_of(g, probs);
    s.dtype = g->stored;
    return dass__node1(g, DASS_OP_XENT_BWD, in, 3, &a, s);
}

/* Gradients of weights are sums: real. */
static dass__shape real_shape_of(const dass_graph *g, dass_val v)
{
    dass__shape s = dass__shape_of(g, v);
    s.dtype = g->real;
    return s;
}

dass_dwpw_grad dass_dwpw_bwd(dass_graph *g, dass_dwpw_in in, dass_val y, dass_val d, dass_val coef, dass_val acc,
                             dass_conv_attr a, unsigned want)
{
    dass_dwpw_grad r = {0};
    if (!fits(g, "dwpw_bwd", in.x && in.w_dw && in.w_pw && d && (coef == 0 || y), d, in.x) ||
        !fits(g, "dwpw_bwd",
              dass__window_out(g->vals[in.x].dim[2], a.kh, a.stride, a.pad, a.dil) == g->vals[d].dim[2] &&
                  g->vals[in.w_pw].dim[0] == g->vals[d].dim[1] && g->vals[in.x].dtype == g->stored &&
                  g->vals[d].dtype == g->stored && g->vals[in.w_dw].dtype == g->stored &&
                  g->vals[in.w_pw].dtype == g->stored && (y == 0 || g->vals[y].dtype == g->stored),
              d, in.x) ||
        !acc_ok(g, "dwpw_bwd", acc, dass__shape_of(g, in.x)) ||
        !fits(g, "dwpw_bwd", acc == 0 || in.mean == 0, acc, in.mean))
        return r;
    const int32_t c = g->vals[in.x].dim[1];
    const dass__shape none = {.dtype = DASS__NO_OUT};
    const bool norm = in.mean != 0;
    a.groups = c;
    a.eps = 0;
    const dass_attr attr = {.conv = a};
    const dass_val args[] = {in.x, in.mean, in.rstd, in.gamma, in.beta, in.w_dw, in.w_pw, coef ? y : 0, d, coef, acc};
    const dass__shape s[] = {
        (want & 1) ? dass__shape_of(g, in.x) : none,        (want & 1) && norm ? dass__shape_rows(g, 3, c) : none,
        (want & 2) && norm ? dass__shape_flat(g, c) : none, (want & 2) && norm ? dass__shape_flat(g, c) : none,
        (want & 4) ? real_shape_of(g, in.w_dw) : none,      (want & 4) ? real_shape_of(g, in.w_pw) : none,
    };
    dass_val out[6];
    dass__node_add(g, DASS_OP_DWPW_BWD, args, 11, &attr, s, 6, NULL, out);
    return (dass_dwpw_grad){out[0], out[1], out[2], out[3], out[4], out[5]};
}
