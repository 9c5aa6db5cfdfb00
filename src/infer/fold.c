/* What becomes of every node: which convolutions take in the batch norm, the activation and the sum behind them, which
 * are sparse enough to be products of their entries, and which three are one block. Nothing is written here. Invariant:
 * a node is taken in only when the value between has no other reader, so that no value is lost that somebody needs.
 */
#include "infer_private.h"

static dass_node def_of(const dass__rewrite *r, dass_val v, dass_op op)
{
    const dass_node n = v != 0 ? r->src->g->vals[v].def : 0;
    return n != 0 && r->src->g->nodes[n].op == op ? n : 0;
}

/* The convolution whose result v is, with all that it took in; 0: none, or v has other readers. */
static dass_node conv_behind(const dass__rewrite *r, dass_val v)
{
    return r->n_users[v] == 1 ? def_of(r, dass__infer_root(r, v), DASS_OP_CONV) : 0;
}

static const dass_conv_attr *conv_of(const dass__rewrite *r, dass_node n)
{
    return &r->src->g->nodes[n].attr.conv;
}

static bool is_pointwise(const dass_conv_attr *a)
{
    return a->kh == 1 && a->kw == 1 && a->stride == 1 && a->pad == 0 && a->groups == 1;
}

static void take_in(dass__rewrite *r, dass_node n, dass_val into)
{
    r->fate[n].gone = true;
    r->alias[dass__infer_out(r, n)] = into;
}

/* ---- convolutions alone ------------------------------------------------------------------------------------------ */

static void count_entries(dass__rewrite *r, dass_node n)
{
    const dass_val w = dass__infer_in(r, n)[1];
    const double *const data = dass__infer_data(r, w);
    const int64_t count = dass_value_count(&r->src->g->vals[w]);
    const dass_conv_attr *a = conv_of(r, n);
    dass__fate *f = &r->fate[n];
    for (int64_t i = 0; i < count; i++)
        f->nnz += data[i] != 0.0;
    f->at = n;
    f->act = a->act;
    const double below = r->opt->below > 0.0 ? r->opt->below : DASS_INFER_BELOW;
    f->sparse = r->opt->format != DASS_INFER_DENSE && is_pointwise(a) && (double)f->nnz < below * (double)count;
}

/* ---- batch norms and activations --------------------------------------------------------------------------------- */

static bool can_take_norm(const dass__rewrite *r, dass_val v)
{
    const dass_node conv = conv_behind(r, v);
    return conv != 0 && r->fate[conv].norm == 0 && r->fate[conv].plus == 0 && r->fate[conv].act == DASS_ACT_NONE;
}

static void give_norm(dass__rewrite *r, dass_node norm, dass_val v, int32_t channel)
{
    dass__fate *f = &r->fate[conv_behind(r, v)];
    f->norm = norm;
    f->channel = channel;
    f->act = r->src->g->nodes[norm].attr.bn.act;
}

/* Of a convolution, or of convolutions side by side, each of which takes its channels. */
static void decide_norm(dass__rewrite *r, dass_node n)
{
    const dass_val x = dass__infer_in(r, n)[0];
    const dass_node concat = r->n_users[x] == 1 ? def_of(r, x, DASS_OP_CONCAT) : 0;
    const dass_val *parts = concat != 0 ? dass__infer_in(r, concat) : &x;
    const uint32_t n_parts = concat != 0 ? r->src->g->nodes[concat].n_in : 1;
    bool all = true;
    for (uint32_t i = 0; i < n_parts; i++)
        all = all && can_take_norm(r, parts[i]);
    r->stats.n_folded += all;
    r->stats.n_norms += !all;
    int32_t channel = 0;
    for (uint32_t i = 0; all && i < n_parts; i++) {
        give_norm(r, n, parts[i], channel);
        channel += r->src->g->vals[parts[i]].dim[1];
    }
    if (all)
        take_in(r, n, x);
}

static void decide_relu(dass__rewrite *r, dass_node n)
{
    const dass_val x = dass__infer_in(r, n)[0];
    const dass_node conv = conv_behind(r, x);
    if (conv == 0 || r->fate[conv].act != DASS_ACT_NONE || r->fate[conv].expand != 0)
        return;
    r->fate[conv].act = r->src->g->nodes[n].attr.act;
    take_in(r, n, x);
}

/* ---- blocks and sums --------------------------------------------------------------------------------------------- */

/* expand (sparse, with act) -> depthwise 3x3 (with the same act) -> this projection (sparse). */
static void decide_block(dass__rewrite *r, dass_node project)
{
    const dass_val d = dass__infer_in(r, project)[0];
    const dass_node depthwise = conv_behind(r, d);
    if (depthwise == 0 || !r->fate[project].sparse)
        return;
    const dass_conv_attr *a = conv_of(r, depthwise);
    const dass_val e = dass__infer_in(r, depthwise)[0];
    const dass_node expand = conv_behind(r, e);
    if (expand == 0 || !r->fate[expand].sparse || r->fate[expand].plus != 0 || r->fate[expand].expand != 0 ||
        r->fate[expand].act != r->fate[depthwise].act || a->kh != 3 || a->kw != 3 || a->pad != 1 || a->dil != 1 ||
        a->stride > 2 || a->groups != r->src->g->vals[d].dim[1] || a->groups != r->src->g->vals[e].dim[1])
        return;
    r->fate[project].expand = expand;
    r->fate[project].depthwise = depthwise;
    r->fate[expand].gone = true;
    r->fate[depthwise].gone = true;
    r->stats.n_blocks++;
}

/* A sum of two, unweighted, of which one is a sparse convolution's: that one is written where the sum stands. */
static void decide_sum(dass__rewrite *r, dass_node n)
{
    const dass_sum_attr *a = &r->src->g->nodes[n].attr.sum;
    const dass_val *in = dass__infer_in(r, n);
    if (a->n_terms != 2 || in[2] != 0 || in[7] != 0 || a->index[0] != -1 || a->index[1] != -1 || in[1] == in[6])
        return;
    for (int k = 0; k < 2; k++) {
        const dass_val x = in[1 + 5 * k];
        const dass_node conv = conv_behind(r, x);
        dass__fate *f = &r->fate[conv];
        if (conv == 0 || !f->sparse || f->plus != 0 || f->act != DASS_ACT_NONE)
            continue;
        f->plus = in[1 + 5 * (1 - k)];
        f->at = n;
        take_in(r, n, x);
        return;
    }
}

/* ---- activations that had better wait ---------------------------------------------------------------------------- */

/* From a dense pointwise convolution to this depthwise one, if nobody else reads what lies between. */
static void decide_load(dass__rewrite *r, dass_node n)
{
    const dass_val x = dass__infer_in(r, n)[0];
    const dass_node before = conv_behind(r, x);
    const int32_t c = r->src->g->vals[x].dim[1];
    if (r->fate[n].gone || conv_of(r, n)->groups != c || r->src->g->vals[dass__infer_out(r, n)].dim[1] != c ||
        before == 0)
        return;
    dass__fate *f = &r->fate[before];
    if (f->gone || f->sparse || f->at != before || !is_pointwise(conv_of(r, before)) ||
        (r->acts_on_load & 1u << f->act) == 0)
        return;
    r->fate[n].load = f->act;
    f->act = DASS_ACT_NONE;
}

dass_status dass__infer_decide(dass__rewrite *r)
{
    const dass_graph *g = r->src->g;
    for (dass_node n = 1; n < g->n_nodes; n++)
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
            r->n_users[dass_node_in(g, n)[i]]++;
    r->n_users[r->src->logits]++;
    for (dass_node n = 1; n < g->n_nodes; n++) /* in order: what a node could take in stands before it */
        switch ((int)g->nodes[n].op) {
        case DASS_OP_CONV:
            count_entries(r, n);
            break;
        case DASS_OP_BN_INFER:
            decide_norm(r, n);
            break;
        case DASS_OP_RELU:
            decide_relu(r, n);
            break;
        case DASS_OP_WSUM:
            decide_sum(r, n);
            break;
        default:
            break;
        }
    /* Blocks last: what their parts end in is known only now. */
    for (dass_node n = 1; r->opt->fuse && n < g->n_nodes; n++)
        if (g->nodes[n].op == DASS_OP_CONV && r->fate[n].act == DASS_ACT_NONE)
            decide_block(r, n);
    for (dass_node n = 1; r->acts_on_load != 0 && n < g->n_nodes; n++)
        if (g->nodes[n].op == DASS_OP_CONV)
            decide_load(r, n);
    return DASS_OK;
}
