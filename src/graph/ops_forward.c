/* Builder functions of the forward and state ops: shape inference and its errors. Formulas stand in graph.h. A message
 * names the op, both shapes and the values' names.
 */
#include "graph_private.h"

#include <string.h>

dass__shape dass__shape_of(const dass_graph *g, dass_val v)
{
    dass__shape s = {.dtype = g->vals[v].dtype, .layout = g->vals[v].layout, .rank = g->vals[v].rank};
    memcpy(s.dim, g->vals[v].dim, sizeof s.dim);
    return s;
}

dass__shape dass__shape_nhwc(const dass_graph *g, int32_t n, int32_t c, int32_t h, int32_t w)
{
    return (dass__shape){.dtype = g->stored, .layout = DASS_LAYOUT_NHWC, .rank = 4, .dim = {n, c, h, w}};
}

dass__shape dass__shape_flat(const dass_graph *g, int32_t n)
{
    return (dass__shape){.dtype = g->real, .layout = DASS_LAYOUT_FLAT, .rank = 1, .dim = {n, 1, 1, 1}};
}

dass__shape dass__shape_rows(const dass_graph *g, int32_t rows, int32_t cols)
{
    return (dass__shape){.dtype = g->real, .layout = DASS_LAYOUT_FLAT, .rank = 2, .dim = {rows, cols, 1, 1}};
}

bool dass__same_shape(const dass_graph *g, dass_val a, dass_val b)
{
    return g->vals[a].dtype == g->vals[b].dtype && g->vals[a].layout == g->vals[b].layout &&
           memcmp(g->vals[a].dim, g->vals[b].dim, sizeof g->vals[a].dim) == 0;
}

int32_t dass__window_out(int32_t size, int32_t k, int32_t stride, int32_t pad, int32_t dil)
{
    const int64_t span = (int64_t)size + 2 * (int64_t)pad - (int64_t)dil * (k - 1) - 1;
    return span < 0 || stride < 1 ? 0 : (int32_t)(span / stride + 1);
}

static bool is_image(dass_graph *g, const char *op, dass_val x)
{
    if (g->status != DASS_OK)
        return false;
    if (x != 0 && g->vals[x].layout == DASS_LAYOUT_NHWC && g->vals[x].dtype == g->stored)
        return true;
    dass__graph_fail(g, DASS_ARG, "%s: x is %s, expected a (N,C,H,W) activation of the stored type", op,
                     dass__show(g, x));
    return false;
}

/* v is a vector with one entry per channel of x, or (optional) 0. */
static bool is_per_channel(dass_graph *g, const char *op, const char *what, dass_val v, dass_val x, bool optional)
{
    if (g->status != DASS_OK)
        return false;
    if (v == 0 && optional)
        return true;
    if (v != 0 && dass_value_count(&g->vals[v]) == g->vals[x].dim[1] && g->vals[v].dtype == g->real)
        return true;
    dass__graph_fail(g, DASS_ARG, "%s: %s %s does not have one entry per channel of x %s", op, what, dass__show(g, v),
                     dass__show(g, x));
    return false;
}

static bool is_ints(const dass_graph *g, dass_val v)
{
    return v != 0 && g->vals[v].dtype == DASS_I32 && g->vals[v].layout == DASS_LAYOUT_FLAT;
}

void dass_gather(dass_graph *g, dass_val images, dass_val labels, dass_val order, dass_val step, int32_t rows,
                 dass_val *images_out, dass_val *labels_out, dass_val *samples_out)
{
    *images_out = *labels_out = *samples_out = 0;
    if (g->status != DASS_OK)
        return;
    const dass_value *x = &g->vals[images];
    if (images == 0 || x->dtype != DASS_U8 || x->layout != DASS_LAYOUT_NHWC) {
        dass__graph_fail(g, DASS_ARG, "gather: images %s must be u8 NHWC", dass__show(g, images));
        return;
    }
    if (!is_ints(g, labels) || dass_value_count(&g->vals[labels]) != x->dim[0] || !is_ints(g, order)) {
        dass__graph_fail(g, DASS_ARG, "gather: labels %s are not one i32 for each of images %s, or order %s is not i32",
                         dass__show(g, labels), dass__show(g, images), dass__show(g, order));
        return;
    }
    if (step == 0 || dass_value_bytes(&g->vals[step]) != sizeof(dass_step_block) || rows < 1 ||
        rows > dass_value_count(&g->vals[order])) {
        dass__graph_fail(g, DASS_ARG,
                         "gather: step %s is not the 256-byte step block, or a batch of %d rows is not in order %s",
                         dass__show(g, step), rows, dass__show(g, order));
        return;
    }
    const dass_attr a = {.scalar = {.i = rows}};
    const dass_val in[] = {images, labels, order, step};
    dass__shape out[3] = {dass__shape_nhwc(g, rows, x->dim[1], x->dim[2], x->dim[3]), dass__shape_flat(g, rows),
                          dass__shape_flat(g, rows)};
    out[0].dtype = DASS_U8;
    out[1].dtype = out[2].dtype = DASS_I32;
    dass_val made[3];
    dass__node_add(g, DASS_OP_GATHER, in, 4, &a, out, 3, NULL, made);
    *images_out = made[0];
    *labels_out = made[1];
    *samples_out = made[2];
}

dass_val dass_augment(dass_graph *g, dass_val images, dass_val samples, dass_val step, const double *mean,
                      const double *std, int32_t pad, bool flip, int32_t cutout)
{
    if (g->status != DASS_OK)
        return 0;
    const dass_value *x = &g->vals[images];
    if (images == 0 || x->dtype != DASS_U8 || x->layout != DASS_LAYOUT_NHWC || x->dim[1] > 16)
        return dass__graph_fail(g, DASS_ARG, "augment: images %s must be u8 NHWC with at most 16 channels",
                                dass__show(g, images));
    if (samples == 0 || g->vals[samples].dtype != DASS_I32 || dass_value_count(&g->vals[samples]) != x->dim[0])
        return dass__graph_fail(g, DASS_ARG, "augment: samples %s do not number images %s", dass__show(g, samples),
                                dass__show(g, images));
    if (step == 0 || dass_value_bytes(&g->vals[step]) != sizeof(dass_step_block) || pad < 0 || cutout < 0)
        return dass__graph_fail(g, DASS_ARG,
                                "augment: step %s is not the 256-byte step block, or pad %d, cutout %d "
                                "are negative",
                                dass__show(g, step), pad, cutout);
    double table[32];
    memcpy(table, mean, (size_t)x->dim[1] * sizeof(double));
    memcpy(table + x->dim[1], std, (size_t)x->dim[1] * sizeof(double));
    const dass_attr a = {.augment = {.mean_std = dass__graph_intern(g, table, 2 * (size_t)x->dim[1] * sizeof(double)),
                                     .pad = pad,
                                     .flip = flip,
                                     .cutout = cutout}};
    const dass_val in[] = {images, samples, step};
    return dass__node1(g, DASS_OP_AUGMENT, in, 3, &a, dass__shape_nhwc(g, x->dim[0], x->dim[1], x->dim[2], x->dim[3]));
}

dass_val dass_drop_path(dass_graph *g, dass_val x, dass_val samples, dass_val step, uint64_t key)
{
    if (!is_image(g, "drop_path", x))
        return 0;
    if (samples == 0 || g->vals[samples].dtype != DASS_I32 || dass_value_count(&g->vals[samples]) != g->vals[x].dim[0])
        return dass__graph_fail(g, DASS_ARG, "drop_path: samples %s do not number the rows of x %s",
                                dass__show(g, samples), dass__show(g, x));
    if (step == 0 || dass_value_bytes(&g->vals[step]) != sizeof(dass_step_block))
        return dass__graph_fail(g, DASS_ARG, "drop_path: step %s is not the 256-byte step block", dass__show(g, step));
    dass_attr a = {.scalar = {.n = 0}};
    memcpy(&a.scalar.n, &key, sizeof key);
    const dass_val in[] = {x, samples, step};
    return dass__node1(g, DASS_OP_DROP_PATH, in, 3, &a, dass__shape_of(g, x));
}

static bool conv_attr_ok(dass_graph *g, const char *op, dass_conv_attr a)
{
    if (a.kh >= 1 && a.kw >= 1 && a.stride >= 1 && a.pad >= 0 && a.dil >= 1 && a.groups >= 1)
        return true;
    dass__graph_fail(g, DASS_ARG, "%s: kernel %dx%d stride %d pad %d dilation %d groups %d is not a convolution", op,
                     a.kh, a.kw, a.stride, a.pad, a.dil, a.groups);
    return false;
}

dass_val dass_conv(dass_graph *g, dass_val x, dass_val w, dass_val bias, dass_conv_attr a)
{
    if (!is_image(g, "conv", x) || !conv_attr_ok(g, "conv", a))
        return 0;
    const dass_value *xv = &g->vals[x];
    const dass_value *wv = &g->vals[w];
    if (w == 0 || wv->layout != DASS_LAYOUT_OIHW || wv->dtype != g->stored || wv->dim[2] != a.kh ||
        wv->dim[3] != a.kw || (int64_t)wv->dim[1] * a.groups != xv->dim[1] || wv->dim[0] % a.groups != 0)
        return dass__graph_fail(g, DASS_ARG, "conv: weights %s do not fit x %s with kernel %dx%d and %d groups",
                                dass__show(g, w), dass__show(g, x), a.kh, a.kw, a.groups);
    if (bias && dass_value_count(&g->vals[bias]) != wv->dim[0])
        return dass__graph_fail(g, DASS_ARG, "conv: bias %s does not fit weights %s", dass__show(g, bias),
                                dass__show(g, w));
    const int32_t oh = dass__window_out(xv->dim[2], a.kh, a.stride, a.pad, a.dil);
    const int32_t ow = dass__window_out(xv->dim[3], a.kw, a.stride, a.pad, a.dil);
    if (oh < 1 || ow < 1)
        return dass__graph_fail(g, DASS_ARG, "conv: kernel %dx%d dilation %d is larger than padded x %s", a.kh, a.kw,
                                a.dil, dass__show(g, x));
    if (a.act != DASS_ACT_NONE && a.act != DASS_ACT_RELU && a.act != DASS_ACT_RELU6)
        return dass__graph_fail(g, DASS_ARG, "conv: activation %d of x %s is none of dass_act", a.act,
                                dass__show(g, x));
    if (a.relu != DASS_ACT_NONE &&
        (a.groups != xv->dim[1] || wv->dim[0] != a.groups || (a.relu != DASS_ACT_RELU && a.relu != DASS_ACT_RELU6)))
        return dass__graph_fail(
            g, DASS_ARG, "conv: activation %d on loading x %s; only depthwise convolutions have one, of dass_act",
            a.relu, dass__show(g, x));
    a.eps = 0;
    const dass_attr attr = {.conv = a};
    const dass_val in[] = {x, w, bias};
    return dass__node1(g, DASS_OP_CONV, in, 3, &attr, dass__shape_nhwc(g, xv->dim[0], wv->dim[0], oh, ow));
}

void dass_bn_stats(dass_graph *g, dass_val x, double eps, dass_val *mean, dass_val *rstd)
{
    *mean = *rstd = 0;
    if (!is_image(g, "bn_stats", x))
        return;
    const dass_attr a = {.bn = {.eps = eps}};
    const dass__shape s[] = {dass__shape_flat(g, g->vals[x].dim[1]), dass__shape_flat(g, g->vals[x].dim[1])};
    dass_val out[2];
    dass__node_add(g, DASS_OP_BN_STATS, &x, 1, &a, s, 2, NULL, out);
    *mean = out[0];
    *rstd = out[1];
}

static bool bn_args_ok(dass_graph *g, const char *op, dass_val x, dass_val mean, dass_val rstd, dass_val gamma,
                       dass_val beta)
{
    if (!is_image(g, op, x) || !is_per_channel(g, op, "mean", mean, x, false) ||
        !is_per_channel(g, op, "rstd", rstd, x, false) || !is_per_channel(g, op, "gamma", gamma, x, true) ||
        !is_per_channel(g, op, "beta", beta, x, true))
        return false;
    if ((gamma == 0) == (beta == 0))
        return true;
    dass__graph_fail(g, DASS_ARG, "%s: gamma %s and beta %s must be given together", op, dass__show(g, gamma),
                     dass__show(g, beta));
    return false;
}

dass_val dass_bn_apply(dass_graph *g, dass_val x, dass_val mean, dass_val rstd, dass_val gamma, dass_val beta,
                       dass_act act)
{
    if (!bn_args_ok(g, "bn_apply", x, mean, rstd, gamma, beta))
        return 0;
    const dass_attr a = {.bn = {.act = (int32_t)act}};
    const dass_val in[] = {x, mean, rstd, gamma, beta};
    return dass__node1(g, DASS_OP_BN_APPLY, in, 5, &a, dass__shape_of(g, x));
}

dass_val dass_bn_infer(dass_graph *g, dass_val x, dass_val run_mean, dass_val run_var, dass_val gamma, dass_val beta,
                       double eps, dass_act act)
{
    if (!bn_args_ok(g, "bn_infer", x, run_mean, run_var, gamma, beta))
        return 0;
    const dass_attr a = {.bn = {.eps = eps, .act = (int32_t)act}};
    const dass_val in[] = {x, run_mean, run_var, gamma, beta};
    return dass__node1(g, DASS_OP_BN_INFER, in, 5, &a, dass__shape_of(g, x));
}

void dass_bn_running(dass_graph *g, dass_val mean, dass_val rstd, dass_val run_mean, dass_val run_var, double eps,
                     double momentum, int64_t count)
{
    if (g->status != DASS_OK)
        return;
    if (!mean || !rstd || !run_mean || !run_var || !g->vals[run_mean].buf || !g->vals[run_var].buf || count < 1 ||
        dass_value_count(&g->vals[mean]) != dass_value_count(&g->vals[run_mean]) ||
        dass_value_count(&g->vals[rstd]) != dass_value_count(&g->vals[run_var])) {
        dass__graph_fail(g, DASS_ARG, "bn_running: mean %s, rstd %s do not update %s, %s over %lld elements",
                         dass__show(g, mean), dass__show(g, rstd), dass__show(g, run_mean), dass__show(g, run_var),
                         (long long)count);
        return;
    }
    const dass_attr a = {.bn = {.eps = eps, .momentum = momentum, .count = count}};
    const dass_val in[] = {mean, rstd, run_mean, run_var};
    const dass_val dst[] = {run_mean, run_var};
    const dass__shape s[] = {dass__shape_of(g, run_mean), dass__shape_of(g, run_var)};
    dass_val out[2];
    dass__node_add(g, DASS_OP_BN_RUNNING, in, 4, &a, s, 2, dst, out);
}

dass_val dass_relu(dass_graph *g, dass_val x, dass_act act)
{
    if (g->status != DASS_OK)
        return 0;
    if (x == 0 || (act != DASS_ACT_RELU && act != DASS_ACT_RELU6))
        return dass__graph_fail(g, DASS_ARG, "relu: x %s, activation %d", dass__show(g, x), (int)act);
    const dass_attr a = {.act = (int32_t)act};
    return dass__node1(g, DASS_OP_RELU, &x, 1, &a, dass__shape_of(g, x));
}

/* Shared by both pools: 0 when the window does not fit. */
static bool pool_shape(dass_graph *g, const char *op, dass_val x, dass_pool_attr a, dass__shape *s)
{
    if (!is_image(g, op, x))
        return false;
    const dass_value *v = &g->vals[x];
    const int32_t oh = dass__window_out(v->dim[2], a.k, a.stride, a.pad, 1);
    const int32_t ow = dass__window_out(v->dim[3], a.k, a.stride, a.pad, 1);
    if (a.k < 1 || a.k > 15 || a.pad < 0 || 2 * a.pad > a.k || oh < 1 || ow < 1) {
        dass__graph_fail(g, DASS_ARG, "%s: window %dx%d stride %d pad %d does not fit x %s", op, a.k, a.k, a.stride,
                         a.pad, dass__show(g, x));
        return false;
    }
    *s = dass__shape_nhwc(g, v->dim[0], v->dim[1], oh, ow);
    return true;
}

dass_val dass_max_pool(dass_graph *g, dass_val x, dass_pool_attr a)
{
    dass__shape s[2];
    if (!pool_shape(g, "max_pool", x, a, &s[0]))
        return 0;
    s[1] = s[0];
    s[1].dtype = DASS_U8;
    const dass_attr attr = {.pool = a};
    dass_val out[2];
    dass__node_add(g, DASS_OP_MAX_POOL, &x, 1, &attr, s, 2, NULL, out);
    return out[0];
}

dass_val dass_avg_pool(dass_graph *g, dass_val x, dass_pool_attr a)
{
    dass__shape s;
    if (!pool_shape(g, "avg_pool", x, a, &s))
        return 0;
    const dass_attr attr = {.pool = a};
    return dass__node1(g, DASS_OP_AVG_POOL, &x, 1, &attr, s);
}

dass_val dass_global_pool(dass_graph *g, dass_val x)
{
    if (!is_image(g, "global_pool", x))
        return 0;
    return dass__node1(g, DASS_OP_GLOBAL_POOL, &x, 1, NULL,
                       dass__shape_nhwc(g, g->vals[x].dim[0], g->vals[x].dim[1], 1, 1));
}

dass_val dass_subsample(dass_graph *g, dass_val x, int32_t stride, int32_t offset)
{
    if (!is_image(g, "subsample", x))
        return 0;
    const dass_value *v = &g->vals[x];
    if (stride < 1 || offset < 0 || offset >= v->dim[2] || offset >= v->dim[3])
        return dass__graph_fail(g, DASS_ARG, "subsample: stride %d from %d does not fit x %s", stride, offset,
                                dass__show(g, x));
    const dass_attr a = {.scalar = {.i = stride, .j = offset}};
    return dass__node1(g, DASS_OP_SUBSAMPLE, &x, 1, &a,
                       dass__shape_nhwc(g, v->dim[0], v->dim[1], (v->dim[2] - offset + stride - 1) / stride,
                                        (v->dim[3] - offset + stride - 1) / stride));
}

dass_val dass_concat(dass_graph *g, const dass_val *x, uint32_t n)
{
    if (n < 1 || n > 64 || !is_image(g, "concat", n ? x[0] : 0))
        return n < 1 || n > 64 ? dass__graph_fail(g, DASS_ARG, "concat: %u inputs, 1 to 64 expected", n) : 0;
    int64_t c = 0;
    const dass_value *a = &g->vals[x[0]];
    for (uint32_t i = 0; i < n; i++) {
        if (!is_image(g, "concat", x[i]))
            return 0;
        const dass_value *b = &g->vals[x[i]];
        if (b->dim[0] != a->dim[0] || b->dim[2] != a->dim[2] || b->dim[3] != a->dim[3])
            return dass__graph_fail(g, DASS_ARG, "concat: %s does not fit %s", dass__show(g, x[i]),
                                    dass__show(g, x[0]));
        c += b->dim[1];
    }
    return dass__node1(g, DASS_OP_CONCAT, x, n, NULL, dass__shape_nhwc(g, a->dim[0], (int32_t)c, a->dim[2], a->dim[3]));
}

dass_val dass_cast(dass_graph *g, dass_val x, dass_dtype to)
{
    if (g->status != DASS_OK)
        return 0;
    const dass_dtype from = g->vals[x].dtype;
    if (x == 0 || (from != g->real && from != g->stored) || (to != g->real && to != g->stored))
        return dass__graph_fail(g, DASS_ARG, "cast: %s to type %d, both must be of the graph's real or stored type",
                                dass__show(g, x), (int)to);
    const dass_attr a = {.scalar = {.i = (int32_t)to}};
    dass__shape s = dass__shape_of(g, x);
    s.dtype = to;
    return dass__node1(g, DASS_OP_CAST, &x, 1, &a, s);
}

dass_val dass_wsum(dass_graph *g, dass_val p, const dass_term *terms, uint32_t n)
{
    if (g->status != DASS_OK)
        return 0;
    if (n < 1 || n > DASS_MAX_TERMS)
        return dass__graph_fail(g, DASS_ARG, "wsum: %u terms, 1 to %d expected", n, DASS_MAX_TERMS);
    dass_val in[1 + 5 * DASS_MAX_TERMS];
    int32_t index[DASS_MAX_TERMS];
    in[0] = p;
    for (uint32_t k = 0; k < n; k++) {
        const dass_term *t = &terms[k];
        if (!is_image(g, "wsum", t->x))
            return 0;
        if (!dass__same_shape(g, t->x, terms[0].x))
            return dass__graph_fail(g, DASS_ARG, "wsum: term %u %s does not fit term 0 %s", k, dass__show(g, t->x),
                                    dass__show(g, terms[0].x));
        if ((t->mean || t->rstd || t->gamma || t->beta) &&
            !bn_args_ok(g, "wsum", t->x, t->mean, t->rstd, t->gamma, t->beta))
            return 0;
        if (t->index < -1 || (t->index >= 0 && (p == 0 || t->index >= dass_value_count(&g->vals[p]))))
            return dass__graph_fail(g, DASS_ARG, "wsum: term %u takes factor %d of p %s", k, t->index,
                                    dass__show(g, p));
        memcpy(&in[1 + 5 * k], (const dass_val[]){t->x, t->mean, t->rstd, t->gamma, t->beta}, 5 * sizeof *in);
        index[k] = t->index;
    }
    const dass_attr a = {.sum = {.index = dass__graph_intern(g, index, n * sizeof *index), .n_terms = (int32_t)n}};
    return dass__node1(g, DASS_OP_WSUM, in, 1 + 5 * n, &a, dass__shape_of(g, terms[0].x));
}

dass_val dass_softmax(dass_graph *g, dass_val a)
{
    if (g->status != DASS_OK)
        return 0;
    if (a == 0 || g->vals[a].rank != 2 || g->vals[a].dtype != g->real)
        return dass__graph_fail(g, DASS_ARG, "softmax: %s is not a real matrix", dass__show(g, a));
    return dass__node1(g, DASS_OP_SOFTMAX, &a, 1, NULL, dass__shape_of(g, a));
}

void dass_xent(dass_graph *g, dass_val logits, dass_val labels, dass_val step, double smoothing, dass_val *loss,
               dass_val *correct)
{
    *loss = *correct = 0;
    if (!is_image(g, "xent", logits))
        return;
    const dass_value *x = &g->vals[logits];
    if (x->dim[2] != 1 || x->dim[3] != 1 || labels == 0 || g->vals[labels].dtype != DASS_I32 ||
        dass_value_count(&g->vals[labels]) != x->dim[0] || step == 0 || smoothing < 0 || smoothing >= 1) {
        dass__graph_fail(g, DASS_ARG,
                         "xent: logits %s must be (N,classes,1,1), labels %s (N) i32, smoothing %g in [0,1)",
                         dass__show(g, logits), dass__show(g, labels), smoothing);
        return;
    }
    const dass_attr a = {.scalar = {.value = smoothing}};
    const dass_val in[] = {logits, labels, step};
    dass__shape s[] = {dass__shape_flat(g, 1), dass__shape_flat(g, 1), dass__shape_of(g, logits)};
    s[2].dtype = g->real;
    dass_val out[3];
    dass__node_add(g, DASS_OP_XENT, in, 3, &a, s, 3, NULL, out);
    *loss = out[0];
    *correct = out[1];
}

dass_val dass_dwpw(dass_graph *g, dass_dwpw_in in, dass_conv_attr a, dass_val *mean, dass_val *rstd)
{
    *mean = *rstd = 0;
    if (!is_image(g, "dwpw", in.x) || !conv_attr_ok(g, "dwpw", a))
        return 0;
    if ((in.mean || in.rstd || in.gamma || in.beta) &&
        !bn_args_ok(g, "dwpw", in.x, in.mean, in.rstd, in.gamma, in.beta))
        return 0;
    const dass_value *x = &g->vals[in.x];
    const dass_value *dw = &g->vals[in.w_dw];
    const dass_value *pw = &g->vals[in.w_pw];
    if (!in.w_dw || !in.w_pw || dw->dtype != g->stored || pw->dtype != g->stored || dw->dim[0] != x->dim[1] ||
        dw->dim[1] != 1 || dw->dim[2] != a.kh || dw->dim[3] != a.kw || pw->dim[1] != x->dim[1] || pw->dim[2] != 1 ||
        pw->dim[3] != 1)
        return dass__graph_fail(g, DASS_ARG, "dwpw: depthwise %s and pointwise %s do not fit x %s with kernel %dx%d",
                                dass__show(g, in.w_dw), dass__show(g, in.w_pw), dass__show(g, in.x), a.kh, a.kw);
    const int32_t oh = dass__window_out(x->dim[2], a.kh, a.stride, a.pad, a.dil);
    const int32_t ow = dass__window_out(x->dim[3], a.kw, a.stride, a.pad, a.dil);
    if (oh < 1 || ow < 1)
        return dass__graph_fail(g, DASS_ARG, "dwpw: kernel %dx%d dilation %d is larger than padded x %s", a.kh, a.kw,
                                a.dil, dass__show(g, in.x));
    a.groups = x->dim[1];
    a.act = DASS_ACT_NONE;
    const dass_attr attr = {.conv = a};
    const dass_val args[] = {in.x, in.mean, in.rstd, in.gamma, in.beta, in.w_dw, in.w_pw};
    const dass__shape s[] = {dass__shape_nhwc(g, x->dim[0], pw->dim[0], oh, ow), dass__shape_flat(g, pw->dim[0]),
                             dass__shape_flat(g, pw->dim[0])};
    dass_val out[3];
    dass__node_add(g, DASS_OP_DWPW, args, 7, &attr, s, 3, NULL, out);
    *mean = out[1];
    *rstd = out[2];
    return out[0];
}
