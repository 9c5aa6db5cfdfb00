/* What is known of every op without running it: its row of ops.def, the work it does, how to print it. */
#include "graph_private.h"

#include <stdio.h>
#include <string.h>

static const dass_op_info op_info[DASS_N_OPS] = {
    [DASS_OP_NONE] = {.name = "none", .in_place = -1},
#define X(op, text, kind, place, op_flags) \
    [DASS_OP_##op] = {.name = text, .attr = DASS_ATTR_##kind, .in_place = place, .flags = op_flags},
#include "dass/ops.def"
#undef X
};

const dass_op_info *dass_op_get(dass_op op)
{
    DASS_ASSERT((unsigned)op < DASS_N_OPS);
    return &op_info[op];
}

size_t dass__attr_bytes(dass_op op)
{
    switch (dass_op_get(op)->attr) {
#define SIZE(kind)         \
    case DASS_ATTR_##kind: \
        return sizeof((dass_attr *)NULL)->kind;
        SIZE(conv)
        SIZE(pool)
        SIZE(bn)
        SIZE(sum)
        SIZE(mask)
        SIZE(augment)
        SIZE(scalar)
        SIZE(sparse)
        SIZE(irblock)
        SIZE(act)
#undef SIZE
    case DASS_ATTR_none:
        break;
    }
    return 0;
}

size_t dass_dtype_bytes(dass_dtype t)
{
    switch (t) {
    case DASS_F32:
    case DASS_I32:
        return 4;
    case DASS_F64:
        return 8;
    case DASS_BF16:
        return 2;
    case DASS_U8:
        return 1;
    case DASS_BITS:
        return 0;
    }
    return 0;
}

int64_t dass_value_count(const dass_value *v)
{
    return (int64_t)v->dim[0] * v->dim[1] * v->dim[2] * v->dim[3];
}

size_t dass_value_bytes(const dass_value *v)
{
    const size_t n = (size_t)dass_value_count(v);
    return v->dtype == DASS_BITS ? (n + 63) / 64 * 8 : n * dass_dtype_bytes(v->dtype);
}

/* ---- cost ------------------------------------------------------------------------------------------------------- */

static int64_t out_pixels(const dass_value *y)
{
    return (int64_t)y->dim[0] * y->dim[2] * y->dim[3];
}

static int64_t conv_macs(const dass_value *w, const dass_value *y)
{
    return out_pixels(y) * w->dim[0] * w->dim[1] * w->dim[2] * w->dim[3];
}

/* Multiply-accumulates of a convolution-like node; 0 for others. Backward nodes count what they compute. */
static int64_t node_macs(const dass_graph *g, dass_node n)
{
    const dass_val *in = dass_node_in(g, n);
    const dass_val *out = dass_node_out(g, n);
    const dass_value *v = g->vals;
    switch ((int)g->nodes[n].op) {
    case DASS_OP_CONV:
        return conv_macs(&v[in[1]], &v[out[0]]);
    case DASS_OP_CONV_BWD_DATA:
        return conv_macs(&v[in[1]], &v[in[0]]);
    case DASS_OP_CONV_BWD_WEIGHTS:
        return conv_macs(&v[out[0]], &v[in[1]]);
    case DASS_OP_DWPW:
        return conv_macs(&v[in[5]], &v[out[0]]) + conv_macs(&v[in[6]], &v[out[0]]);
    case DASS_OP_SPCONV:
        return g->nodes[n].attr.sparse.nnz * out_pixels(&v[out[0]]);
    case DASS_OP_IRBLOCK:
        return g->nodes[n].attr.irblock.nnz_expand * out_pixels(&v[in[0]]) +
               (9 * (int64_t)v[in[5]].dim[0] + g->nodes[n].attr.irblock.nnz_project) * out_pixels(&v[out[0]]);
    case DASS_OP_DWPW_BWD: {
        const int64_t once = conv_macs(&v[in[5]], &v[in[8]]) + conv_macs(&v[in[6]], &v[in[8]]);
        return (out[0] ? once : 0) + (out[4] || out[5] ? once : 0);
    }
    default:
        return 0;
    }
}

/* Floating operations per element of the first output (or input) of the elementwise families. */
static double per_element(dass_op op, uint32_t n_in)
{
    switch ((int)op) {
    case DASS_OP_BN_STATS:
    case DASS_OP_BN_BWD_REDUCE:
        return 4;
    case DASS_OP_BN_APPLY:
    case DASS_OP_BN_INFER:
        return 2;
    case DASS_OP_BN_BWD_APPLY:
        return 5;
    case DASS_OP_MAX_POOL:
    case DASS_OP_AVG_POOL:
    case DASS_OP_MAX_POOL_BWD:
    case DASS_OP_AVG_POOL_BWD:
        return 9;
    case DASS_OP_WSUM:
        return 2.0 * (n_in - 1) / 5;
    case DASS_OP_WSUM_BWD:
        return 3.0 * (n_in - 3) / 5;
    case DASS_OP_GSUM:
        return 2.0 * (n_in - 1) / 3;
    case DASS_OP_SGD:
        return 6;
    case DASS_OP_ADAM:
        return 14;
    case DASS_OP_UNROLL:
        return 6;
    case DASS_OP_SHIFT:
        return 2;
    case DASS_OP_EMA:
    case DASS_OP_HVP:
        return 3;
    default:
        return 1;
    }
}

/* Bytes that move at least: each input and output once, but only the rows that a gather takes of its data set. */
static double node_bytes(const dass_graph *g, const dass_node_rec *r)
{
    double bytes = 0;
    for (uint32_t i = r->op == DASS_OP_GATHER ? r->n_in : 0; i < r->n_in + r->n_out; i++)
        if (g->args[r->args + i])
            bytes += (double)dass_value_bytes(&g->vals[g->args[r->args + i]]);
    return r->op == DASS_OP_GATHER ? 2 * bytes : bytes;
}

dass_cost dass_node_cost(const dass_graph *g, dass_node n)
{
    const dass_node_rec *r = &g->nodes[n];
    dass_cost c = {.macs = node_macs(g, n), .bytes = node_bytes(g, r)};
    double largest = 0;
    for (uint32_t i = 0; i < r->n_in + r->n_out; i++) {
        const dass_val v = g->args[r->args + i];
        const double count = v ? (double)dass_value_count(&g->vals[v]) : 0;
        largest = count > largest ? count : largest;
    }
    if (r->op == DASS_OP_GATHER)
        return c; /* copies */
    c.flops = c.macs ? 2.0 * (double)c.macs : largest * per_element(r->op, r->n_in);
    return c;
}

/* ---- printing --------------------------------------------------------------------------------------------------- */

const char *dass__show(const dass_graph *g, dass_val v)
{
    static _Thread_local char ring[8][160];
    static _Thread_local unsigned turn;
    char *buf = ring[turn++ % 8];
    if (v == 0 || v >= g->n_vals) {
        snprintf(buf, sizeof ring[0], "none");
        return buf;
    }
    const dass_value *x = &g->vals[v];
    int len = snprintf(buf, sizeof ring[0], "'%.90s' (", x->name);
    for (int32_t i = 0; i < x->rank && len < 140; i++)
        len += snprintf(buf + len, sizeof ring[0] - (size_t)len, "%s%d", i ? "," : "", x->dim[i]);
    snprintf(buf + len, sizeof ring[0] - (size_t)len, ")");
    return buf;
}

static const char *act_text(int32_t act)
{
    return act == DASS_ACT_RELU ? " ->relu" : act == DASS_ACT_RELU6 ? " ->relu6" : "";
}

static const char *load_text(int32_t act)
{
    return act == DASS_ACT_RELU ? " relu" : act == DASS_ACT_RELU6 ? " relu6" : "";
}

static int print_attr(const dass_node_rec *r, char *buf, size_t n)
{
    switch ((int)r->op) {
    case DASS_OP_CONV:
    case DASS_OP_CONV_BWD_DATA:
    case DASS_OP_CONV_BWD_WEIGHTS:
    case DASS_OP_DWPW:
    case DASS_OP_DWPW_BWD:
        return snprintf(buf, n, " %dx%d s%d p%d d%d g%d%s%s", r->attr.conv.kh, r->attr.conv.kw, r->attr.conv.stride,
                        r->attr.conv.pad, r->attr.conv.dil, r->attr.conv.groups, load_text(r->attr.conv.relu),
                        act_text(r->attr.conv.act));
    case DASS_OP_SPCONV:
        return snprintf(buf, n, " %lld entries%s%s", (long long)r->attr.sparse.nnz, act_text(r->attr.sparse.act),
                        r->attr.sparse.library ? " library" : "");
    case DASS_OP_IRBLOCK:
        return snprintf(buf, n, " s%d %lld and %lld entries%s", r->attr.irblock.stride,
                        (long long)r->attr.irblock.nnz_expand, (long long)r->attr.irblock.nnz_project,
                        act_text(r->attr.irblock.act));
    case DASS_OP_MAX_POOL:
    case DASS_OP_AVG_POOL:
    case DASS_OP_MAX_POOL_BWD:
    case DASS_OP_AVG_POOL_BWD:
        return snprintf(buf, n, " %dx%d s%d p%d", r->attr.pool.k, r->attr.pool.k, r->attr.pool.stride,
                        r->attr.pool.pad);
    case DASS_OP_WSUM:
    case DASS_OP_WSUM_BWD:
    case DASS_OP_GSUM:
        return snprintf(buf, n, " %d terms", r->attr.sum.n_terms);
    case DASS_OP_DROP_PATH:
        return snprintf(buf, n, " key %016llx", (unsigned long long)r->attr.scalar.n);
    case DASS_OP_UNROLL:
        return snprintf(buf, n, " group %d", r->attr.scalar.i);
    case DASS_OP_SHIFT:
        return snprintf(buf, n, " %+d", r->attr.scalar.i);
    default:
        return 0;
    }
}

void dass_node_print(const dass_graph *g, dass_node n, char *buf, size_t n_buf)
{
    const dass_node_rec *r = &g->nodes[n];
    size_t len = (size_t)snprintf(buf, n_buf, "%s", dass_op_get(r->op)->name);
    if (len < n_buf)
        len += (size_t)print_attr(r, buf + len, n_buf - len);
    for (uint32_t i = 0; i < r->n_out && len < n_buf; i++)
        if (dass_node_out(g, n)[i])
            len +=
                (size_t)snprintf(buf + len, n_buf - len, "%s %s", i ? "," : "", dass__show(g, dass_node_out(g, n)[i]));
    if (len < n_buf)
        len += (size_t)snprintf(buf + len, n_buf - len, " <-");
    for (uint32_t i = 0; i < r->n_in && len < n_buf; i++)
        if (dass_node_in(g, n)[i])
            len +=
                (size_t)snprintf(buf + len, n_buf - len, "%s %s", i ? "," : "", dass__show(g, dass_node_in(g, n)[i]));
}

void dass_graph_dump(const dass_graph *g, FILE *f)
{
    char line[1024];
    for (dass_node n = 1; n < g->n_nodes; n++) {
        dass_node_print(g, n, line, sizeof line);
        fprintf(f, "%6u  %s\n", n, line);
    }
}
