/* Reverse-mode gradient as a graph -> graph function: one sweep from the last node to the first, each node's rule
 * turning the gradient of its outputs into contributions to the gradients of its inputs.
 *
 * A contribution is not yet a tensor. It has one of three forms, and stays in it as long as its reader can take it so:
 *     plain    d
 *     scaled   p[index] * d             what a weighted sum sends to a raw term: never materialised by itself
 *     affine   A d + B x + C0           what a normalised term or input sends to the tensor behind the batch norm
 * take() joins whatever has arrived into one value (a GSUM when there is more than one thing to add). Ops that can add
 * to their result take a plain contribution as `acc` and grow it in place.
 *
 * Batch norm: bn_stats has no rule. Whoever applies the statistics (bn_apply, a wsum term, a dwpw input) owns the full
 * gradient, including the path through mean and rstd, so the statistics must come from the tensor they are applied to;
 * anything else is refused.
 */
#include "graph_private.h"

#include <string.h>

typedef struct contribution {
    dass_val d, x, coef, p;
    int32_t index;
    uint32_t next; /* 1-based position in the pool; 0 ends */
} contribution;

typedef struct sweep {
    dass_graph *g;
    const dass_wrt *wrt;
    uint32_t n_wrt;
    uint32_t n_vals, n_nodes; /* of the forward graph */
    uint8_t *need;            /* per value: does it depend on something wanted */
    uint32_t *head;           /* per value: latest contribution */
    contribution *pool;
    uint32_t n_pool, cap_pool;
} sweep;

static const dass_wrt *find_wrt(const sweep *s, dass_val v)
{
    for (uint32_t i = 0; i < s->n_wrt; i++)
        if (s->g->vals[v].buf == s->wrt[i].buf)
            return &s->wrt[i];
    return NULL;
}

static void push(sweep *s, dass_val v, contribution c)
{
    dass_graph *g = s->g;
    if (v == 0 || c.d == 0 || v >= s->n_vals || !s->need[v] || g->status != DASS_OK)
        return;
    if (s->n_pool == s->cap_pool) {
        void *p = s->pool;
        const dass_status st = dass_mem_grow(s->cap_pool * sizeof *s->pool, 2 * s->cap_pool * sizeof *s->pool,
                                             "gradient contributions", &p);
        if (st != DASS_OK) {
            g->status = st;
            return;
        }
        s->pool = p;
        s->cap_pool *= 2;
    }
    c.next = s->head[v];
    s->pool[s->n_pool++] = c;
    s->head[v] = s->n_pool;
}

static void push_plain(sweep *s, dass_val v, dass_val d)
{
    push(s, v, (contribution){.d = d, .index = -1});
}

static bool is_plain(const contribution *c)
{
    return c->coef == 0 && c->index < 0;
}

/* Remove and return one plain contribution, to be grown in place; 0 when there is none. */
static dass_val take_acc(sweep *s, dass_val v)
{
    for (uint32_t *at = &s->head[v]; *at; at = &s->pool[*at - 1].next) {
        const contribution *c = &s->pool[*at - 1];
        if (is_plain(c)) {
            const dass_val d = c->d;
            *at = c->next;
            return d;
        }
    }
    return 0;
}


/* Join contributions into one value. Terms with different p (normal and reduction cells) need separate sums. */
static dass_val take(sweep *s, dass_val v)
{
    while (s->head[v] && s->g->status == DASS_OK) {
        const contribution first = s->pool[s->head[v] - 1];
        if (!first.next && is_plain(&first)) {
            s->head[v] = 0;
            return first.d;
        }
        dass_gterm terms[DASS_MAX_TERMS];
        uint32_t n = 0;
        dass_val p = 0;
        for (uint32_t *at = &s->head[v]; *at && n < DASS_MAX_TERMS;) {
            const contribution *c = &s->pool[*at - 1];
            if (c->index >= 0 && p && c->p != p) {
                at = &s->pool[*at - 1].next;
                continue;
            }
            p = c->index >= 0 ? c->p : p;
            terms[n++] = (dass_gterm){c->d, c->x, c->coef, c->index};
            *at = c->next;
        }
        push_plain(s, v, dass_gsum(s->g, p, terms, n));
    }
    return 0;
}

/* One affine contribution as it is (d and coef), or anything else joined into a plain d with coef 0. */
static dass_val take_affine(sweep *s, dass_val v, dass_val *coef)
{
    *coef = 0;
    const uint32_t h = s->head[v];
    if (h && s->pool[h - 1].next == 0 && s->pool[h - 1].coef && s->pool[h - 1].x == v) {
        s->head[v] = 0;
        *coef = s->pool[h - 1].coef;
        return s->pool[h - 1].d;
    }
    return take(s, v);
}

/* mean must be the statistics of x: bn_stats(x), or the second output of the dwpw that made x. */
static bool stats_of(sweep *s, dass_val x, dass_val mean)
{
    const dass_graph *g = s->g;
    const dass_node def = g->vals[mean].def;
    const bool ok = def && ((g->nodes[def].op == DASS_OP_BN_STATS && dass_node_in(g, def)[0] == x) ||
                            (g->nodes[def].op == DASS_OP_DWPW && dass_node_out(g, def)[0] == x));
    if (!ok)
        dass__graph_fail(s->g, DASS_UNSUPPORTED, "gradient: batch norm of %s by statistics %s of another tensor",
                         dass__show(g, x), dass__show(g, mean));
    return ok;
}

/* ---- rules ----------------------------------------------------------------------------------------------- */

typedef struct node_view { /* a copy of a forward node's arguments: the pool moves while nodes are added */
    dass_node_rec r;
    dass_val in[DASS_MAX_NODE_IN], out[8];
} node_view;

static void conv_rule(sweep *s, const node_view *v)
{
    dass_graph *g = s->g;
    const dass_val dy = take(s, v->out[0]);
    const dass_val x = v->in[0];
    const dass_val w = v->in[1];
    if (v->r.attr.conv.act != DASS_ACT_NONE || v->r.attr.conv.relu != DASS_ACT_NONE) {
        dass__graph_fail(g, DASS_UNSUPPORTED,
                         "gradient: conv %s applies an activation itself, which only inference graphs do; use a relu",
                         dass__show(g, v->out[0]));
        return;
    }
    if (s->need[w])
        push_plain(s, w, dass_conv_bwd_weights(g, x, dy, v->r.attr.conv));
    if (v->in[2] && s->need[v->in[2]])
        push_plain(s, v->in[2], dass_channel_sum(g, dy));
    if (s->need[x])
        push_plain(s, x, dass_conv_bwd_data(g, dy, w, g->vals[x].dim[2], g->vals[x].dim[3], v->r.attr.conv));
}

static void bn_apply_rule(sweep *s, const node_view *v)
{
    dass_graph *g = s->g;
    const dass_val *in = v->in;
    const dass_act act = (dass_act)v->r.attr.bn.act;
    if (!stats_of(s, in[0], in[1]))
        return;
    const dass_val dy = take(s, v->out[0]);
    dass_val d_beta = 0;
    dass_val d_gamma = 0;
    dass_bn_bwd_reduce(g, dy, in[0], in[1], in[2], in[3], in[4], act, &d_beta, &d_gamma);
    push_plain(s, in[3], d_gamma);
    push_plain(s, in[4], d_beta);
    if (s->need[in[0]])
        push_plain(s, in[0], dass_bn_bwd_apply(g, dy, in[0], in[1], in[2], in[3], in[4], act, d_beta, d_gamma));
}

static void pool_rule(sweep *s, const node_view *v)
{
    dass_graph *g = s->g;
    const dass_val x = v->in[0];
    const int32_t h = g->vals[x].dim[2];
    const int32_t w = g->vals[x].dim[3];
    const dass_val dy = take(s, v->out[0]);
    const dass_val acc = take_acc(s, x);
    dass_val d = 0;
    switch ((int)v->r.op) {
    case DASS_OP_MAX_POOL:
        d = dass_max_pool_bwd(g, dy, v->out[1], acc, h, w, v->r.attr.pool);
        break;
    case DASS_OP_AVG_POOL:
        d = dass_avg_pool_bwd(g, dy, acc, h, w, v->r.attr.pool);
        break;
    case DASS_OP_GLOBAL_POOL:
        d = dass_global_pool_bwd(g, dy, acc, h, w);
        break;
    default:
        d = dass_subsample_bwd(g, dy, acc, h, w, v->r.attr.scalar.i, v->r.attr.scalar.j);
        break;
    }
    push_plain(s, x, d);
}

static void concat_rule(sweep *s, const node_view *v)
{
    const dass_val dy = take(s, v->out[0]);
    int32_t first = 0;
    for (uint32_t i = 0; i < v->r.n_in; i++) {
        const int32_t c = s->g->vals[v->in[i]].dim[1];
        if (s->need[v->in[i]])
            push_plain(s, v->in[i], dass_slice(s->g, dy, first, c));
        first += c;
    }
}

static void wsum_rule(sweep *s, const node_view *v)
{
    dass_graph *g = s->g;
    const uint32_t n = (uint32_t)v->r.attr.sum.n_terms;
    const dass_val p = v->in[0];
    const bool want_dp = p && s->need[p];
    dass_term terms[DASS_MAX_TERMS];
    uint8_t want[DASS_MAX_TERMS] = {0};
    bool pass = want_dp; /* does anything need a pass over the data */
    for (uint32_t k = 0; k < n; k++) {
        const dass_val *a = &v->in[1 + 5 * k];
        terms[k] = (dass_term){a[0], a[1], a[2], a[3], a[4], v->r.attr.sum.index[k]};
        if (!a[1])
            continue;
        if (!stats_of(s, a[0], a[1]))
            return;
        want[k] = (uint8_t)((s->need[a[0]] ? 1 : 0) | (a[3] && s->need[a[3]] ? 2 : 0));
        pass = pass || want[k];
    }
    const dass_val dy = take(s, v->out[0]);
    dass_wsum_grad grad[DASS_MAX_TERMS] = {{0}};
    if (pass) {
        dass_val d_p = 0;
        const dass_val acc = want_dp ? take_acc(s, p) : 0;
        dass_wsum_bwd(g, dy, p, acc, terms, n, want_dp, want, &d_p, grad);
        if (want_dp)
            push_plain(s, p, d_p);
    }
    for (uint32_t k = 0; k < n; k++) {
        const dass_term *t = &terms[k];
        if (t->mean) {
            push_plain(s, t->gamma, grad[k].d_gamma);
            push_plain(s, t->beta, grad[k].d_beta);
            push(s, t->x, (contribution){.d = grad[k].coef ? dy : 0, .x = t->x, .coef = grad[k].coef, .index = -1});
        } else {
            push(s, t->x, (contribution){.d = dy, .p = t->index >= 0 ? p : 0, .index = t->index});
        }
    }
}

static void dwpw_rule(sweep *s, const node_view *v)
{
    dass_graph *g = s->g;
    const dass_val *a = v->in;
    const dass_dwpw_in in = {a[0], a[1], a[2], a[3], a[4], a[5], a[6]};
    const unsigned want = (s->need[in.x] ? 1u : 0) | (in.gamma && s->need[in.gamma] ? 2u : 0) |
                          (s->need[in.w_dw] || s->need[in.w_pw] ? 4u : 0);
    dass_val coef = 0;
    const dass_val d = take_affine(s, v->out[0], &coef);
    if (in.mean && !stats_of(s, in.x, in.mean))
        return;
    const dass_val acc = (want & 1) && !in.mean ? take_acc(s, in.x) : 0;
    const dass_dwpw_grad r = dass_dwpw_bwd(g, in, v->out[0], d, coef, acc, v->r.attr.conv, want);
    push_plain(s, in.w_dw, r.d_wdw);
    push_plain(s, in.w_pw, r.d_wpw);
    push_plain(s, in.gamma, r.d_gamma);
    push_plain(s, in.beta, r.d_beta);
    if (in.mean)
        push(s, in.x, (contribution){.d = r.d_x, .x = in.x, .coef = r.in_coef, .index = -1});
    else
        push_plain(s, in.x, r.d_x);
}

/* Linear, with the draws of the forward pass: the same op on d_y. */
static void drop_path_rule(sweep *s, const node_view *v)
{
    uint64_t key;
    memcpy(&key, &v->r.attr.scalar.n, sizeof key);
    push_plain(s, v->in[0], dass_drop_path(s->g, take(s, v->out[0]), v->in[1], v->in[2], key));
}

static void apply_rule(sweep *s, const node_view *v)
{
    dass_graph *g = s->g;
    switch ((int)v->r.op) {
    case DASS_OP_CONV:
        conv_rule(s, v);
        break;
    case DASS_OP_BN_APPLY:
        bn_apply_rule(s, v);
        break;
    case DASS_OP_RELU:
        push_plain(s, v->in[0], dass_relu_bwd(g, take(s, v->out[0]), v->out[0], (dass_act)v->r.attr.act));
        break;
    case DASS_OP_MAX_POOL:
    case DASS_OP_AVG_POOL:
    case DASS_OP_GLOBAL_POOL:
    case DASS_OP_SUBSAMPLE:
        pool_rule(s, v);
        break;
    case DASS_OP_CONCAT:
        concat_rule(s, v);
        break;
    case DASS_OP_WSUM:
        wsum_rule(s, v);
        break;
    case DASS_OP_SOFTMAX:
        push_plain(s, v->in[0], dass_softmax_bwd(g, take(s, v->out[0]), v->out[0]));
        break;
    case DASS_OP_DWPW:
        dwpw_rule(s, v);
        break;
    case DASS_OP_DROP_PATH:
        drop_path_rule(s, v);
        break;
    case DASS_OP_CAST:
        push_plain(s, v->in[0], dass_cast(s->g, take(s, v->out[0]), s->g->vals[v->in[0]].dtype));
        break;
    case DASS_OP_BN_STATS:
        break; /* see the head of the file */
    default:
        dass__graph_fail(g, DASS_UNSUPPORTED, "gradient: %s %s has no rule", dass_op_get(v->r.op)->name,
                         dass__show(g, v->out[0]));
        break;
    }
}

/* ---- the sweep ------------------------------------------------------------------------------------------- */

/* What of the graph depends on a wanted buffer. Effects do not carry gradients. */
static void mark_need(sweep *s)
{
    const dass_graph *g = s->g;
    /* a reference that later writes have made stale only named the place of such a write */
    for (dass_val v = 1; v < s->n_vals; v++)
        s->need[v] =
            g->vals[v].def == 0 && find_wrt(s, v) != NULL && g->vals[v].version == g->priv->buf_version[g->vals[v].buf];
    for (dass_node n = 1; n < s->n_nodes; n++) {
        bool need = false;
        for (uint32_t i = 0; i < g->nodes[n].n_in && !need; i++)
            need = s->need[dass_node_in(g, n)[i]];
        if (!need || (dass_op_get(g->nodes[n].op)->flags & (DASS_OPF_E | DASS_OPF_U)))
            continue;
        for (uint32_t i = 0; i < g->nodes[n].n_out; i++)
            if (dass_node_out(g, n)[i])
                s->need[dass_node_out(g, n)[i]] = 1;
    }
}

static void sweep_back(sweep *s)
{
    dass_graph *g = s->g;
    node_view v;
    for (dass_node n = s->n_nodes - 1; n > 0 && g->status == DASS_OK; n--) {
        bool arrived = false;
        v.r = g->nodes[n];
        for (uint32_t i = 0; i < v.r.n_out; i++)
            arrived = arrived || (dass_node_out(g, n)[i] && s->head[dass_node_out(g, n)[i]]);
        if (!arrived)
            continue;
        if (v.r.n_in > DASS_MAX_NODE_IN || v.r.n_out > 8) {
            dass__graph_fail(g, DASS_INTERNAL, "gradient: %s with %u inputs and %u outputs, at most %d and 8",
                             dass_op_get(v.r.op)->name, v.r.n_in, v.r.n_out, DASS_MAX_NODE_IN);
            return;
        }
        if (v.r.n_in)
            memcpy(v.in, dass_node_in(g, n), v.r.n_in * sizeof *v.in);
        memcpy(v.out, dass_node_out(g, n), v.r.n_out * sizeof *v.out);
        apply_rule(s, &v);
    }
}

/* Put each wanted gradient where it belongs. */
static void deliver(sweep *s)
{
    dass_graph *g = s->g;
    for (dass_val v = 1; v < s->n_vals && g->status == DASS_OK; v++) {
        const dass_wrt *w = s->need[v] && g->vals[v].def == 0 ? find_wrt(s, v) : NULL;
        if (!w)
            continue;
        const dass_value pv = g->vals[v];
        const dass_val d = take(s, v);
        if (d && g->vals[d].buf == 0 && g->vals[d].def != 0) {
            dass_place(g, d, w->grad_buf, pv.offset);
            continue;
        }
        const dass_val dst = dass_ref(g, pv.name, w->grad_buf, pv.offset, pv.layout, pv.rank, pv.dim);
        if (d)
            dass_copy(g, d, dst);
        else
            dass_fill(g, dst, 0);
    }
}

/* v is the loss of a cross-entropy. */
static bool is_loss(const dass_graph *g, dass_val v)
{
    const dass_node def = g->vals[v].def;
    return v != 0 && def != 0 && g->nodes[def].op == DASS_OP_XENT && dass_node_out(g, def)[0] == v;
}

/* Start at a loss, times weight (1), or 1 when that is 0. */
static void push_loss(sweep *s, dass_val loss, dass_val weight)
{
    dass_graph *g = s->g;
    const dass_node xent = g->vals[loss].def;
    const dass_val logits = dass_node_in(g, xent)[0];
    const dass_val labels = dass_node_in(g, xent)[1];
    const dass_val step = dass_node_in(g, xent)[2];
    const dass_val d = dass_xent_bwd(g, dass_node_out(g, xent)[2], labels, step, g->nodes[xent].attr.scalar.value);
    push(s, logits, (contribution){.d = d, .p = weight, .index = weight ? 0 : -1});
}

static dass_status run_sweep(dass_graph *g, const dass_val *y, const dass_val *d_y, uint32_t n, bool losses,
                             const dass_wrt *wrt, uint32_t n_wrt)
{
    sweep s = {.g = g, .wrt = wrt, .n_wrt = n_wrt, .n_vals = g->n_vals, .n_nodes = g->n_nodes, .cap_pool = 1024};
    dass_status st = DASS_OK;
    void *p = NULL;
    DASS_TRY_TO(dass_mem_alloc(s.n_vals, "gradient marks", &p), st, out);
    s.need = p;
    DASS_TRY_TO(dass_mem_alloc(s.n_vals * sizeof *s.head, "gradient lists", &p), st, out);
    s.head = p;
    DASS_TRY_TO(dass_mem_alloc(s.cap_pool * sizeof *s.pool, "gradient contributions", &p), st, out);
    s.pool = p;
    mark_need(&s);
    dass_graph_scope(g, "grad");
    for (uint32_t i = 0; i < n; i++) {
        if (losses)
            push_loss(&s, y[i], d_y[i]);
        else
            push_plain(&s, y[i], d_y[i]);
    }
    sweep_back(&s);
    deliver(&s);
    dass_graph_scope(g, NULL);
    st = g->status;
out:
    dass_mem_free(s.need);
    dass_mem_free(s.head);
    dass_mem_free(s.pool);
    return st;
}

dass_status dass_graph_grad(dass_graph *g, dass_val loss, const dass_wrt *wrt, uint32_t n_wrt)
{
    return dass_graph_grad_losses(g, &loss, &(dass_val){0}, 1, wrt, n_wrt);
}

dass_status dass_graph_grad_losses(dass_graph *g, const dass_val *loss, const dass_val *weight, uint32_t n,
                                   const dass_wrt *wrt, uint32_t n_wrt)
{
    if (g->status != DASS_OK)
        return g->status;
    for (uint32_t i = 0; i < n; i++) {
        if (!is_loss(g, loss[i]))
            return g->status =
                       DASS_FAIL(DASS_ARG, "gradient: %s is not the loss of a cross-entropy", dass__show(g, loss[i]));
        if (weight[i] && !dass__same_shape(g, loss[i], weight[i]))
            return g->status = DASS_FAIL(DASS_ARG, "gradient: weight %s does not fit loss %s", dass__show(g, weight[i]),
                                         dass__show(g, loss[i]));
    }
    return run_sweep(g, loss, weight, n, true, wrt, n_wrt);
}

dass_status dass_graph_grad_seeded(dass_graph *g, const dass_val *y, const dass_val *d_y, uint32_t n,
                                   const dass_wrt *wrt, uint32_t n_wrt)
{
    if (g->status != DASS_OK)
        return g->status;
    for (uint32_t i = 0; i < n; i++)
        if (!y[i] || !d_y[i] || !dass__same_shape(g, y[i], d_y[i]))
            return g->status = DASS_FAIL(DASS_ARG, "gradient: seed %s does not fit %s", dass__show(g, d_y[i]),
                                         dass__show(g, y[i]));
    return run_sweep(g, y, d_y, n, false, wrt, n_wrt);
}
