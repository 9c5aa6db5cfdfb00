/* Lowering: graph -> graph passes that fuse what spans nodes, before the gradient is taken. A pass copies the graph
 * node by node into a new one and writes a fused op where it recognises a pattern; whatever lost its readers is left to
 * the dead-code removal of dass_graph_finish. Every op it writes has a reference and a gradient rule, so the result is
 * checked like any other graph.
 */
#include "graph_private.h"

#include <string.h>

typedef struct lowering {
    const dass_graph *g;
    dass_graph *out;
    unsigned passes;
    dass_val *map;        /* old value -> new value */
    uint32_t *first_user; /* per value, into users */
    dass_node *users;
} lowering;

static const dass_node_rec *def_of(const lowering *l, dass_val v, dass_op op)
{
    const dass_node n = l->g->vals[v].def;
    return v && n && l->g->nodes[n].op == op ? &l->g->nodes[n] : NULL;
}

static const dass_val *rec_in(const lowering *l, const dass_node_rec *r)
{
    return l->g->args + r->args;
}

static uint32_t n_users(const lowering *l, dass_val v)
{
    return l->first_user[v + 1] - l->first_user[v];
}

/* The user of v with that op; 0 when there is none. */
static dass_node user_with(const lowering *l, dass_val v, dass_op op)
{
    for (uint32_t i = l->first_user[v]; i < l->first_user[v + 1]; i++)
        if (l->g->nodes[l->users[i]].op == op)
            return l->users[i];
    return 0;
}

static bool all_users_are(const lowering *l, dass_val v, dass_op op)
{
    for (uint32_t i = l->first_user[v]; i < l->first_user[v + 1]; i++)
        if (l->g->nodes[l->users[i]].op != op)
            return false;
    return true;
}

static bool is_depthwise(const lowering *l, const dass_node_rec *r)
{
    const dass_val *in = rec_in(l, r);
    const dass_value *x = &l->g->vals[in[0]];
    const dass_value *w = &l->g->vals[in[1]];
    return in[2] == 0 && r->attr.conv.act == DASS_ACT_NONE && r->attr.conv.relu == DASS_ACT_NONE &&
           r->attr.conv.groups == x->dim[1] && w->dim[0] == x->dim[1] && r->attr.conv.kh == r->attr.conv.kw &&
           r->attr.conv.kh <= 7;
}

static bool is_pointwise(const lowering *l, const dass_node_rec *r)
{
    const dass_conv_attr *a = &r->attr.conv;
    return rec_in(l, r)[2] == 0 && a->groups == 1 && a->kh == 1 && a->kw == 1 && a->stride == 1 && a->pad == 0;
}

/* bn_apply of x by its own statistics. */
static bool is_own_norm(const lowering *l, const dass_node_rec *bn)
{
    const dass_val *in = rec_in(l, bn);
    const dass_node_rec *stats = def_of(l, in[1], DASS_OP_BN_STATS);
    return stats && rec_in(l, stats)[0] == in[0];
}

/* Pattern: [bn_apply ->] [relu ->] depthwise -> pointwise -> bn_stats, seen from the pointwise convolution. */
static bool try_dwpw(lowering *l, dass_node n)
{
    const dass_graph *g = l->g;
    const dass_node_rec *pw = &g->nodes[n];
    const dass_val y = dass_node_out(g, n)[0];
    const dass_node stats = user_with(l, y, DASS_OP_BN_STATS);
    if (!is_pointwise(l, pw) || !stats)
        return false;
    const dass_val z = rec_in(l, pw)[0];
    const dass_node_rec *dw = def_of(l, z, DASS_OP_CONV);
    if (!dw || n_users(l, z) != 1 || !is_depthwise(l, dw))
        return false;
    dass_conv_attr a = dw->attr.conv;
    a.eps = g->nodes[stats].attr.bn.eps;
    dass_val u = rec_in(l, dw)[0];
    const dass_node_rec *relu = def_of(l, u, DASS_OP_RELU);
    bool alone = n_users(l, u) == 1;
    if (relu && relu->attr.act == DASS_ACT_RELU) {
        a.relu = 1;
        u = rec_in(l, relu)[0];
        alone = alone && n_users(l, u) == 1;
    }
    dass_dwpw_in in = {.x = l->map[u], .w_dw = l->map[rec_in(l, dw)[1]], .w_pw = l->map[rec_in(l, pw)[1]]};
    const dass_node_rec *bn = def_of(l, u, DASS_OP_BN_APPLY);
    if (bn && alone && is_own_norm(l, bn) &&
        (bn->attr.bn.act == DASS_ACT_NONE || (bn->attr.bn.act == DASS_ACT_RELU && !a.relu))) {
        const dass_val *b = rec_in(l, bn);
        a.relu = a.relu || bn->attr.bn.act == DASS_ACT_RELU;
        in.x = l->map[b[0]];
        in.mean = l->map[b[1]];
        in.rstd = l->map[b[2]];
        in.gamma = l->map[b[3]];
        in.beta = l->map[b[4]];
    }
    dass_val mean = 0;
    dass_val rstd = 0;
    l->map[y] = dass_dwpw(l->out, in, a, &mean, &rstd);
    l->map[dass_node_out(g, stats)[0]] = mean;
    l->map[dass_node_out(g, stats)[1]] = rstd;
    return true;
}

/* Weighted sum whose bn_apply terms are normalised on load. */
static bool try_wsum(lowering *l, dass_node n)
{
    const dass_graph *g = l->g;
    const dass_node_rec *r = &g->nodes[n];
    const dass_val *in = dass_node_in(g, n);
    dass_term terms[DASS_MAX_TERMS];
    bool any = false;
    for (uint32_t k = 0; k < (uint32_t)r->attr.sum.n_terms; k++) {
        const dass_val *a = &in[1 + 5 * k];
        const dass_node_rec *bn = a[1] ? NULL : def_of(l, a[0], DASS_OP_BN_APPLY);
        if (bn && bn->attr.bn.act == DASS_ACT_NONE && all_users_are(l, a[0], DASS_OP_WSUM) && is_own_norm(l, bn)) {
            a = rec_in(l, bn); /* x, mean, rstd, gamma, beta: the same five in the same order */
            any = true;
        }
        terms[k] =
            (dass_term){l->map[a[0]], l->map[a[1]], l->map[a[2]], l->map[a[3]], l->map[a[4]], r->attr.sum.index[k]};
    }
    if (any)
        l->map[dass_node_out(g, n)[0]] = dass_wsum(l->out, l->map[in[0]], terms, (uint32_t)r->attr.sum.n_terms);
    return any;
}

/* Give the copy the scope of the original: its value's name without the op. */
static void copy_scope(lowering *l, dass_node n)
{
    char scope[256] = "";
    for (uint32_t i = 0; i < l->g->nodes[n].n_out; i++) {
        const dass_val v = dass_node_out(l->g, n)[i];
        const char *slash = v && l->g->vals[v].name ? strrchr(l->g->vals[v].name, '/') : NULL;
        if (!slash || (size_t)(slash - l->g->vals[v].name) >= sizeof scope)
            continue;
        memcpy(scope, l->g->vals[v].name, (size_t)(slash - l->g->vals[v].name));
        scope[slash - l->g->vals[v].name] = 0;
        break;
    }
    dass_graph_scope(l->out, scope[0] ? scope : NULL);
}

/* Tables inside attributes belong to a graph: intern them in the new one. */
static dass_attr copy_attr(lowering *l, const dass_node_rec *r)
{
    dass_attr a = r->attr;
    const int32_t c = r->op == DASS_OP_AUGMENT ? l->g->vals[rec_in(l, r)[0]].dim[1] : 0;
    switch (dass_op_get(r->op)->attr) {
    case DASS_ATTR_sum:
        a.sum.index = dass__graph_intern(l->out, a.sum.index, (size_t)a.sum.n_terms * sizeof *a.sum.index);
        break;
    case DASS_ATTR_mask:
        a.mask.segments =
            dass__graph_intern(l->out, a.mask.segments, (size_t)a.mask.n_segments * sizeof *a.mask.segments);
        break;
    case DASS_ATTR_augment:
        a.augment.mean_std = dass__graph_intern(l->out, a.augment.mean_std, 2 * (size_t)c * sizeof(double));
        break;
    case DASS_ATTR_none: /* these hold numbers alone; a member with a pointer has a case above */
    case DASS_ATTR_conv:
    case DASS_ATTR_pool:
    case DASS_ATTR_bn:
    case DASS_ATTR_scalar:
    case DASS_ATTR_sparse:
    case DASS_ATTR_irblock:
    case DASS_ATTR_act:
        break;
    }
    return a;
}

static void copy_node(lowering *l, dass_node n)
{
    const dass_graph *g = l->g;
    const dass_node_rec *r = &g->nodes[n];
    dass_val in[DASS_MAX_NODE_IN];
    dass_val out[DASS_MAX_NODE_OUT];
    dass_val dst[DASS_MAX_NODE_OUT];
    dass__shape shape[DASS_MAX_NODE_OUT];
    if (r->n_in > DASS_MAX_NODE_IN || r->n_out > DASS_MAX_NODE_OUT) {
        dass__graph_fail(l->out, DASS_INTERNAL, "lower: %s with %u inputs", dass_op_get(r->op)->name, r->n_in);
        return;
    }
    const bool effect = (dass_op_get(r->op)->flags & DASS_OPF_E) != 0;
    const dass_attr a = copy_attr(l, r);
    for (uint32_t i = 0; i < r->n_in; i++)
        in[i] = l->map[dass_node_in(g, n)[i]];
    for (uint32_t i = 0; i < r->n_out; i++) {
        const dass_val v = dass_node_out(g, n)[i];
        const dass_value *o = &g->vals[v];
        shape[i] = v ? dass__shape_of(g, v) : (dass__shape){.dtype = DASS__NO_OUT};
        dst[i] = effect ? dass_ref_typed(l->out, o->name, o->dtype, o->buf, o->offset, o->layout, o->rank, o->dim) : 0;
    }
    dass__node_add(l->out, r->op, in, r->n_in, &a, shape, r->n_out, effect ? dst : NULL, out);
    for (uint32_t i = 0; i < r->n_out && l->out->status == DASS_OK; i++)
        l->map[dass_node_out(g, n)[i]] = out[i];
    l->map[0] = 0;
}

/* What the original wrote into a buffer, its copy or fusion writes there too. */
static void copy_places(lowering *l, dass_node n)
{
    for (uint32_t i = 0; i < l->g->nodes[n].n_out && l->out->status == DASS_OK; i++) {
        const dass_val v = dass_node_out(l->g, n)[i];
        const dass_value *x = &l->g->vals[v];
        if (v && x->buf && l->map[v] && l->out->vals[l->map[v]].buf == 0)
            dass_place(l->out, l->map[v], x->buf, x->offset);
    }
}

/* References are translated when first met in node order, so that they see the same buffer versions. */
static void map_refs(lowering *l, dass_node n)
{
    for (uint32_t i = 0; i < l->g->nodes[n].n_in; i++) {
        const dass_val v = dass_node_in(l->g, n)[i];
        const dass_value *x = &l->g->vals[v];
        if (v && !l->map[v] && x->def == 0)
            l->map[v] = dass_ref_typed(l->out, x->name, x->dtype, x->buf, x->offset, x->layout, x->rank, x->dim);
    }
}

/* References that nobody reads stay too: their gradient is zero, and the gradient pass must know of them. Stale ones
 * only named the place of a write. */
static void map_unread(lowering *l)
{
    for (dass_val v = 1; v < l->g->n_vals; v++) {
        const dass_value *x = &l->g->vals[v];
        if (!l->map[v] && x->def == 0 && x->version == l->g->priv->buf_version[x->buf])
            l->map[v] = dass_ref_typed(l->out, x->name, x->dtype, x->buf, x->offset, x->layout, x->rank, x->dim);
    }
}

/* Counting sort of (value, user) pairs: users of v are users[first_user[v]] ... users[first_user[v + 1] - 1]. */
static void count_users(lowering *l)
{
    const dass_graph *g = l->g;
    uint32_t *first = l->first_user; /* n_vals + 2 entries, zero */
    for (dass_node n = 1; n < g->n_nodes; n++)
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
            first[dass_node_in(g, n)[i] + 2]++;
    for (dass_val v = 1; v < g->n_vals + 2; v++)
        first[v] += first[v - 1];
    for (dass_node n = 1; n < g->n_nodes; n++)
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
            l->users[first[dass_node_in(g, n)[i] + 1]++] = n;
}

dass_status dass_graph_lower(const dass_graph *g, unsigned passes, bool (*can)(void *ctx, dass_op op), void *ctx,
                             dass_val *keep, uint32_t n_keep, dass_graph **out)
{
    *out = NULL;
    if (g->status != DASS_OK)
        return g->status;
    lowering l = {.g = g, .passes = passes};
    if (can && !can(ctx, DASS_OP_DWPW))
        l.passes &= ~(unsigned)DASS_LOWER_DWPW;
    if (can && !can(ctx, DASS_OP_WSUM))
        l.passes &= ~(unsigned)DASS_LOWER_WSUM_BN;
    dass_status st = DASS_OK;
    void *p = NULL;
    DASS_TRY_TO(dass_graph_make_stored(g->real, g->stored, &l.out), st, out);
    DASS_TRY_TO(dass_mem_alloc(g->n_vals * sizeof *l.map, "lowering", &p), st, out);
    l.map = p;
    DASS_TRY_TO(dass_mem_alloc((g->n_vals + 2) * sizeof *l.first_user, "lowering", &p), st, out);
    l.first_user = p;
    DASS_TRY_TO(dass_mem_alloc((g->n_args + 1) * sizeof *l.users, "lowering", &p), st, out);
    l.users = p;
    count_users(&l);
    for (dass_node n = 1; n < g->n_nodes && l.out->status == DASS_OK; n++) {
        map_refs(&l, n);
        copy_scope(&l, n);
        const dass_val first = g->nodes[n].n_out ? dass_node_out(g, n)[0] : 0;
        if (first && l.map[first]) { /* statistics, made with an earlier fusion */
            copy_places(&l, n);
            continue;
        }
        const bool fused = ((l.passes & DASS_LOWER_DWPW) && g->nodes[n].op == DASS_OP_CONV && try_dwpw(&l, n)) ||
                           ((l.passes & DASS_LOWER_WSUM_BN) && g->nodes[n].op == DASS_OP_WSUM && try_wsum(&l, n));
        if (!fused)
            copy_node(&l, n);
        copy_places(&l, n);
    }
    dass_graph_scope(l.out, NULL);
    map_unread(&l);
    for (uint32_t i = 0; i < n_keep; i++)
        keep[i] = l.map[keep[i]];
    st = l.out->status;
out:
    dass_mem_free(l.map);
    dass_mem_free(l.first_user);
    dass_mem_free(l.users);
    if (st != DASS_OK) {
        dass_graph_free(l.out);
        l.out = NULL;
    }
    *out = l.out;
    return st;
}
