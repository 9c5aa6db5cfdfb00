/* The compiled graph, node by node of the source by what fold.c decided, and the constants it reads: weights with the
 * batch norm's scale in them, biases, and the matrices of sparse products by rows. All constants of a type lie in one
 * buffer, each at a multiple of 64 elements. Sums of products are formed in double and rounded once.
 */
#include <math.h>
#include <string.h>

#include "infer_private.h"

#include "dass/step_block.h"

enum { UNIT = 64 }; /* elements: 256 bytes of floats */

/* ---- constants --------------------------------------------------------------------------------------------------- */

/* Room for n more entries of `size` bytes behind `used` of *array, which is rounded up to whole units. */
static dass_status make_room(void **array, size_t *used, size_t *cap, size_t n, size_t size)
{
    *used = (*used + UNIT - 1) / UNIT * UNIT;
    size_t want = *cap > 0 ? *cap : 4096;
    while (want < *used + n)
        want *= 2;
    if (want == *cap)
        return DASS_OK;
    DASS_TRY(dass_mem_grow(*cap * size, want * size, "constants", array));
    *cap = want;
    return DASS_OK;
}

static dass_val add_constants(dass__rewrite *r, dass_buf buf, const char *name, const double *x, dass_layout layout,
                              int32_t rank, const int32_t *dim)
{
    const bool stored = buf == DASS__BUF_STORED;
    dass__constants *to = stored ? &r->stored : &r->reals;
    size_t n = 1;
    for (int32_t i = 0; i < rank; i++)
        n *= (size_t)dim[i];
    void *p = to->x;
    const dass_status st = make_room(&p, &to->n, &to->cap, n, sizeof *x);
    to->x = p;
    if (st != DASS_OK) {
        r->out->status = r->out->status != DASS_OK ? r->out->status : st;
        return 0;
    }
    memcpy(to->x + to->n, x, n * sizeof *x);
    const dass_val v =
        dass_ref_typed(r->out, name, stored ? r->out->stored : r->out->real, buf, (int64_t)to->n, layout, rank, dim);
    to->n += n;
    return v;
}

static dass_val add_reals(dass__rewrite *r, const char *name, const double *x, dass_layout layout, int32_t rank,
                          const int32_t *dim)
{
    return add_constants(r, DASS__BUF_REALS, name, x, layout, rank, dim);
}

/* Weights: constants of the stored type. */
static dass_val add_weights(dass__rewrite *r, const char *name, const double *x, dass_layout layout, int32_t rank,
                            const int32_t *dim)
{
    const bool same = r->out->stored == r->out->real;
    return add_constants(r, same ? DASS__BUF_REALS : DASS__BUF_STORED, name, x, layout, rank, dim);
}

static dass_val add_ints(dass__rewrite *r, const char *name, const int32_t *x, int32_t n)
{
    void *p = r->ints;
    const dass_status st = make_room(&p, &r->n_ints, &r->cap_ints, (size_t)n, sizeof *x);
    r->ints = p;
    if (st != DASS_OK) {
        r->out->status = r->out->status != DASS_OK ? r->out->status : st;
        return 0;
    }
    memcpy(r->ints + r->n_ints, x, (size_t)n * sizeof *x);
    const dass_val v =
        dass_ref_typed(r->out, name, DASS_I32, DASS__BUF_INTS, (int64_t)r->n_ints, DASS_LAYOUT_FLAT, 1, &n);
    r->n_ints += (size_t)n;
    return v;
}

static dass_val copy_param(dass__rewrite *r, dass_val v)
{
    const dass_value *x = &r->src->g->vals[v];
    return v != 0 ? add_reals(r, x->name, dass__infer_data(r, v), x->layout, x->rank, x->dim) : 0;
}

/* ---- folding ----------------------------------------------------------------------------------------------------- */

/* A convolution with what it took in: weights (OC, IC/groups KH KW) and bias on the host. */
typedef struct folded {
    double *w, *bias;
    int64_t row; /* IC/groups KH KW */
    int32_t oc;
    bool has_bias;
} folded;

/* norm: scale = gamma / sqrt(var + eps), w' = scale w, bias' = scale bias + beta - scale mean. */
static dass_status fold(const dass__rewrite *r, dass_node n, folded *out)
{
    const dass_graph *g = r->src->g;
    const dass__fate *f = &r->fate[n];
    const dass_val *in = dass__infer_in(r, n);
    const double *const w = dass__infer_data(r, in[1]);
    const double *const bias = dass__infer_data(r, in[2]);
    const int64_t count = dass_value_count(&g->vals[in[1]]);
    *out = (folded){.oc = g->vals[in[1]].dim[0], .has_bias = bias != NULL || f->norm != 0};
    out->row = count / out->oc;
    out->w = dass_arena_alloc(r->mem, (size_t)count * sizeof *out->w);
    out->bias = dass_arena_alloc(r->mem, (size_t)out->oc * sizeof *out->bias);
    if (out->w == NULL || out->bias == NULL)
        return DASS_NOMEM;
    const dass_val *bn = f->norm != 0 ? dass__infer_in(r, f->norm) : NULL;
    for (int32_t i = 0; i < out->oc; i++) {
        double scale = 1.0;
        double shift = 0.0;
        if (bn != NULL) {
            const int64_t c = f->channel + i;
            const double eps = g->nodes[f->norm].attr.bn.eps;
            scale = (bn[3] ? dass__infer_data(r, bn[3])[c] : 1.0) / sqrt(dass__infer_data(r, bn[2])[c] + eps);
            shift = (bn[4] ? dass__infer_data(r, bn[4])[c] : 0.0) - scale * dass__infer_data(r, bn[1])[c];
        }
        for (int64_t k = 0; k < out->row; k++)
            out->w[i * out->row + k] = scale * w[i * out->row + k];
        out->bias[i] = scale * (bias != NULL ? bias[i] : 0.0) + shift;
    }
    return DASS_OK;
}

static dass_val bias_of(dass__rewrite *r, const folded *f)
{
    return f->has_bias ? add_reals(r, "bias", f->bias, DASS_LAYOUT_FLAT, 1, &f->oc) : 0;
}

/* By rows; which weights are entries is decided by the source's, so that a scale of 0 does not change the count. */
static dass_status matrix_of(dass__rewrite *r, dass_node n, const folded *f, dass_csr *out)
{
    const double *const w = dass__infer_data(r, dass__infer_in(r, n)[1]);
    const int64_t nnz = r->fate[n].nnz;
    const int32_t room = (int32_t)(nnz > 0 ? nnz : 1);
    double *const values = dass_arena_alloc(r->mem, (size_t)room * sizeof *values);
    int32_t *const columns = dass_arena_alloc(r->mem, (size_t)room * sizeof *columns);
    int32_t *const starts = dass_arena_alloc(r->mem, ((size_t)f->oc + 1) * sizeof *starts);
    if (values == NULL || columns == NULL || starts == NULL)
        return DASS_NOMEM;
    values[0] = 0.0; /* where there is no entry */
    columns[0] = 0;
    int32_t e = 0;
    for (int32_t i = 0; i < f->oc; i++) {
        starts[i] = e;
        for (int64_t k = 0; k < f->row; k++)
            if (w[i * f->row + k] != 0.0) {
                values[e] = f->w[i * f->row + k];
                columns[e++] = (int32_t)k;
            }
    }
    starts[f->oc] = e;
    *out = (dass_csr){.values = add_weights(r, "values", values, DASS_LAYOUT_FLAT, 1, &room),
                      .columns = add_ints(r, "columns", columns, room),
                      .starts = add_ints(r, "starts", starts, f->oc + 1),
                      .nnz = nnz};
    return r->out->status;
}

/* ---- nodes ------------------------------------------------------------------------------------------------------- */

static dass_val mapped(const dass__rewrite *r, dass_val v)
{
    return r->map[dass__infer_root(r, v)];
}

static dass_status emit_dense(dass__rewrite *r, dass_node n)
{
    folded f;
    dass_conv_attr a = r->src->g->nodes[n].attr.conv;
    const dass_value *w = &r->src->g->vals[dass__infer_in(r, n)[1]];
    DASS_TRY(fold(r, n, &f));
    const dass_val weights = add_weights(r, w->name, f.w, w->layout, w->rank, w->dim);
    a.act = r->fate[n].act;
    a.relu = r->fate[n].load;
    r->map[dass__infer_out(r, n)] = dass_conv(r->out, mapped(r, dass__infer_in(r, n)[0]), weights, bias_of(r, &f), a);
    r->stats.n_dense++;
    return r->out->status;
}

static dass_status emit_sparse(dass__rewrite *r, dass_node n)
{
    folded f;
    dass_csr s;
    const dass__fate *fate = &r->fate[n];
    DASS_TRY(fold(r, n, &f));
    DASS_TRY(matrix_of(r, n, &f, &s));
    r->map[dass__infer_out(r, n)] =
        dass_spconv(r->out, mapped(r, dass__infer_in(r, n)[0]), s, bias_of(r, &f),
                    fate->plus ? mapped(r, fate->plus) : 0, (dass_act)fate->act, r->opt->format == DASS_INFER_LIBRARY);
    r->stats.n_sparse++;
    return r->out->status;
}

static dass_status emit_block(dass__rewrite *r, dass_node n)
{
    const dass__fate *fate = &r->fate[n];
    const dass_value *w = &r->src->g->vals[dass__infer_in(r, fate->depthwise)[1]];
    folded e;
    folded d;
    folded p;
    DASS_TRY(fold(r, fate->expand, &e));
    DASS_TRY(fold(r, fate->depthwise, &d));
    DASS_TRY(fold(r, n, &p));
    dass_irblock_in in = {.x = mapped(r, dass__infer_in(r, fate->expand)[0])};
    DASS_TRY(matrix_of(r, fate->expand, &e, &in.expand));
    DASS_TRY(matrix_of(r, n, &p, &in.project));
    in.b_expand = bias_of(r, &e);
    in.w_dw = add_weights(r, w->name, d.w, w->layout, w->rank, w->dim);
    in.b_dw = bias_of(r, &d);
    in.b_project = bias_of(r, &p);
    in.residual = fate->plus ? mapped(r, fate->plus) : 0;
    r->map[dass__infer_out(r, n)] = dass_irblock(r->out, &in, r->src->g->nodes[fate->depthwise].attr.conv.stride,
                                                 (dass_act)r->fate[fate->expand].act);
    return r->out->status;
}

static dass_status emit_conv(dass__rewrite *r, dass_node n)
{
    if (r->fate[n].expand != 0)
        return emit_block(r, n);
    return r->fate[n].sparse ? emit_sparse(r, n) : emit_dense(r, n);
}

static dass_val emit_concat(dass__rewrite *r, dass_node n)
{
    dass_val parts[64];
    const uint32_t n_parts = r->src->g->nodes[n].n_in;
    for (uint32_t i = 0; i < n_parts && i < 64; i++)
        parts[i] = mapped(r, dass__infer_in(r, n)[i]);
    return dass_concat(r->out, parts, n_parts);
}

/* Of plain terms: a network in evaluation has no other sums. */
static dass_status emit_sum(dass__rewrite *r, dass_node n)
{
    const dass_sum_attr *a = &r->src->g->nodes[n].attr.sum;
    const dass_val *in = dass__infer_in(r, n);
    dass_term terms[64];
    for (int32_t k = 0; k < a->n_terms; k++) {
        if (in[2 + 5 * k] != 0 || a->index[k] != -1)
            return DASS_FAIL(DASS_UNSUPPORTED,
                             "infer: sum '%s' has weighted or normalised terms; only derived networks "
                             "can be compiled",
                             r->src->g->vals[dass__infer_out(r, n)].name);
        terms[k] = (dass_term){.x = mapped(r, in[1 + 5 * k]), .index = -1};
    }
    r->map[dass__infer_out(r, n)] = dass_wsum(r->out, 0, terms, (uint32_t)a->n_terms);
    return r->out->status;
}

/* Nodes other than convolutions and sums. */
static dass_status emit_other(dass__rewrite *r, dass_node n)
{
    const dass_attr *a = &r->src->g->nodes[n].attr;
    const dass_val *in = dass__infer_in(r, n);
    const dass_val x = mapped(r, in[0]);
    dass_val *const y = &r->map[dass__infer_out(r, n)];
    switch ((int)r->src->g->nodes[n].op) {
    case DASS_OP_BN_INFER:
        *y = dass_bn_infer(r->out, x, copy_param(r, in[1]), copy_param(r, in[2]), copy_param(r, in[3]),
                           copy_param(r, in[4]), a->bn.eps, (dass_act)a->bn.act);
        break;
    case DASS_OP_RELU:
        *y = dass_relu(r->out, x, (dass_act)a->act);
        break;
    case DASS_OP_MAX_POOL:
        *y = dass_max_pool(r->out, x, a->pool);
        break;
    case DASS_OP_AVG_POOL:
        *y = dass_avg_pool(r->out, x, a->pool);
        break;
    case DASS_OP_GLOBAL_POOL:
        *y = dass_global_pool(r->out, x);
        break;
    case DASS_OP_SUBSAMPLE:
        *y = dass_subsample(r->out, x, a->scalar.i, a->scalar.j);
        break;
    case DASS_OP_CONCAT:
        *y = emit_concat(r, n);
        break;
    default:
        return DASS_FAIL(DASS_UNSUPPORTED,
                         "infer: the network has a node '%s', which evaluation of derived networks does not",
                         dass_op_get(r->src->g->nodes[n].op)->name);
    }
    return r->out->status;
}

static dass_node taken_at(const dass__rewrite *r, dass_node sum)
{
    const dass_val root = dass__infer_root(r, dass__infer_out(r, sum));
    return r->src->g->vals[root].def;
}

static dass_status emit_node(dass__rewrite *r, dass_node n)
{
    const dass__fate *f = &r->fate[n];
    const dass_op op = r->src->g->nodes[n].op;
    if (op == DASS_OP_WSUM && f->gone)
        return emit_conv(r, taken_at(r, n));
    if (f->gone || (op == DASS_OP_CONV && f->at != n))
        return DASS_OK;
    if (op == DASS_OP_CONV)
        return emit_conv(r, n);
    return op == DASS_OP_WSUM ? emit_sum(r, n) : emit_other(r, n);
}

/* ---- input and output -------------------------------------------------------------------------------------------- */

static dass_val in_stored(dass_graph *g, dass_val x)
{
    return g->stored == g->real ? x : dass_cast(g, x, g->stored);
}

static dass_val emit_input(dass__rewrite *r)
{
    const dass_value *x = &r->src->g->vals[r->src->x];
    if (r->opt->mean == NULL)
        return in_stored(r->out, dass_ref(r->out, "x", DASS__BUF_INPUT, 0, DASS_LAYOUT_NHWC, 4, x->dim));
    const int32_t bytes = (int32_t)sizeof(dass_step_block);
    const dass_val images = dass_ref_typed(r->out, "images", DASS_U8, DASS__BUF_INPUT, 0, DASS_LAYOUT_NHWC, 4, x->dim);
    const dass_val samples =
        dass_ref_typed(r->out, "samples", DASS_I32, DASS__BUF_SAMPLES, 0, DASS_LAYOUT_FLAT, 1, x->dim);
    const dass_val step = dass_ref_typed(r->out, "step", DASS_U8, DASS__BUF_STEP, 0, DASS_LAYOUT_FLAT, 1, &bytes);
    return dass_augment(r->out, images, samples, step, r->opt->mean, r->opt->std, 0, false, 0);
}

dass_status dass__infer_emit(dass__rewrite *r, dass_dtype real, dass_dtype stored)
{
    DASS_TRY(dass_graph_make_stored(real, stored, &r->out));
    r->map[r->src->x] = emit_input(r);
    for (dass_node n = 1; n < r->src->g->n_nodes; n++) {
        dass_graph_scope(r->out, r->src->g->vals[dass__infer_out(r, n)].name);
        DASS_TRY(emit_node(r, n));
    }
    dass_graph_scope(r->out, NULL);
    r->logits = mapped(r, r->src->logits);
    if (stored != real)
        r->logits = dass_cast(r->out, r->logits, real);
    dass_place(r->out, r->logits, DASS__BUF_LOGITS, 0);
    return dass_graph_finish(r->out);
}
