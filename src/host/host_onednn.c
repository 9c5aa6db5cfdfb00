/* Everything that knows oneDNN 2.6 (its v2 API): convolutions and their two gradients, dense, grouped and depthwise,
 * for whatever our own rows did not take. Activations are NHWC and weights OIHW outside; inside a node oneDNN may want
 * other layouts, and then reorders run as part of the node, through scratch the planner owns. Invariant: oneDNN
 * allocates nothing while running (scratchpads are the node's workspace, memory objects only point). Built without
 * DASS_ONEDNN the table is empty. The instruction set is oneDNN's own choice; DASS_CPU does not reach it.
 */
#include "host.h"

#ifndef DASS_ONEDNN
#define DASS_ONEDNN 0
#endif

#if !DASS_ONEDNN

dass_status dass__onednn_open(dass_host *h)
{
    h->onednn = NULL;
    return DASS_OK;
}

void dass__onednn_close(dass_host *h)
{
    (void)h;
}

const dass__row dass__rows_onednn[] = {{.op = DASS_OP_NONE}};

#else

#include <dnnl.h>
#include <dnnl_debug.h>
#include <omp.h>
#include <string.h>

#include "dass/mem.h"

typedef struct onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
} onednn;

/* oneDNN has no text for its failures: quote the call and the name of the status. */
static dass_status dnnl_check(dnnl_status_t s, const char *call)
{
    if (s == dnnl_success)
        return DASS_OK;
    const dass_status st = s == dnnl_out_of_memory   ? DASS_NOMEM
                           : s == dnnl_unimplemented ? DASS_UNSUPPORTED
                                                     : DASS_INTERNAL;
    return DASS_FAIL(st, "oneDNN: %s returned %d (%s); build with ONEDNN=0 to do without it", call, (int)s,
                     dnnl_status2str(s));
}
#define DNNL_TRY(call) DASS_TRY(dnnl_check((call), #call))
#define DNNL_TRY_TO(call, st, label) DASS_TRY_TO(dnnl_check((call), #call), st, label)

dass_status dass__onednn_open(dass_host *h)
{
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(onednn), "oneDNN engine", &block));
    onednn *const o = block;
    h->onednn = o; /* from here on the caller's close cleans up */
    DNNL_TRY(dnnl_engine_create(&o->engine, dnnl_cpu, 0));
    DNNL_TRY(dnnl_stream_create(&o->stream, o->engine, dnnl_stream_default_flags));
    return DASS_OK;
}

void dass__onednn_close(dass_host *h)
{
    onednn *const o = h->onednn;
    if (o == NULL)
        return;
    if (o->stream != NULL)
        (void)dnnl_stream_destroy(o->stream);
    if (o->engine != NULL)
        (void)dnnl_engine_destroy(o->engine);
    dass_mem_free(o);
    h->onednn = NULL;
}

/* ---- one convolution ----------------------------------------------------------------------------------------- */

typedef enum direction { FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS } direction;
enum { X, W, Y, N_TENSORS }; /* input side, weights, output side: the same three in every direction */

/* One tensor of the node: as the graph stores it, and, where oneDNN wants another layout, its copy in the workspace. */
typedef struct tensor {
    dnnl_memory_desc_t md;   /* the graph's layout */
    dnnl_memory_t user, own; /* own: NULL when the layouts agree */
    dnnl_primitive_t reorder;
    dnnl_exec_arg_t reorder_arg[3]; /* from, to, scratchpad */
    size_t own_offset;              /* in the workspace */
    uint32_t arg;                   /* index in the node's arguments */
} tensor;

typedef struct conv_impl {
    dass__impl head;
    direction dir;
    int output; /* X, W or Y */
    tensor t[N_TENSORS];
    dnnl_primitive_t conv;
    dnnl_memory_t bias, scratch; /* bias: NULL without one */
    dnnl_exec_arg_t arg[5];
    int n_arg;
} conv_impl;

/* Shape of the convolution, filled from the node. */
typedef struct conv_shape {
    const dass_value *x, *y;
    dass_conv_attr a;
    bool has_bias;
} conv_shape;

static conv_shape shape_of(const dass_graph *g, dass_node n)
{
    const dass_node_rec *const r = &g->nodes[n];
    conv_shape s = {.a = r->attr.conv};
    switch (r->op == DASS_OP_CONV ? FORWARD : r->op == DASS_OP_CONV_BWD_DATA ? BACKWARD_DATA : BACKWARD_WEIGHTS) {
    case FORWARD:
        s.x = dass__in(g, n, 0);
        s.y = dass__out(g, n, 0);
        s.has_bias = r->n_in > 2 && dass_node_in(g, n)[2] != 0;
        break;
    case BACKWARD_DATA:
        s.x = dass__out(g, n, 0);
        s.y = dass__in(g, n, 0);
        break;
    case BACKWARD_WEIGHTS:
        s.x = dass__in(g, n, 0);
        s.y = dass__in(g, n, 1);
        break;
    }
    return s;
}

/* Does oneDNN's own blocked layout pay for the reorders of the activations? All implementations below are jit:avx2 or
 * jit_1x1:avx2 in both layouts. Measured on one Zen 3 core, batch 64: time in NHWC / time blocked with its reorders.
 *
 *                          forward   by data   by weights
 *   3x3   3->48  32x32       0.8       1.6       0.7
 *   3x3  64->64  32x32       1.1       1.3       1.4
 *   3x3  64->128 32x32 s2    1.4       1.4       1.4
 *   3x3 128->128 16x16       1.2       1.3       1.1
 *   3x3 128->256 16x16 s2    1.4       1.1       1.1
 *   3x3 256->256 8x8         1.2       1.0       1.0
 *   3x3 256->512 8x8 s2      1.1       1.0       1.0
 *   3x3 512->512 4x4         1.2       0.8       1.3
 *   3x3  64->64  16x16 4 groups 1.3    1.2       1.5
 *   1x1  64->16, 48->16, 16->96, 96->24 at 32x32: 0.6 to 0.8 everywhere
 *   1x1 256->64, 64->64, 192->64, 384->96 at 8x8: 0.8, 0.8, 1.0 to 1.2
 *   1x1 576->160, 960->320, 320->1280 at 4x4:     0.9, 1.0, 1.3 to 1.5
 *   1x1 256->512 8x8 s2      0.9       0.9       1.3
 *   1x1  64->128 32x32 s2    0.7       0.9       0.8
 *
 * On AVX-512, 3x3 convolutions of 16 and 64 channels in NHWC ran at 78 to 99 % of peak: nothing to gain there. A linear
 * layer (512->10) takes 0.05 ms at most. */
static bool wants_blocked(const conv_shape *s, direction dir)
{
    const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    if (isa != dnnl_cpu_isa_avx2 && isa != dnnl_cpu_isa_avx2_vnni)
        return false;
    if (s->x->dim[1] < 64 || s->y->dim[1] < 64 || s->a.groups == s->x->dim[1])
        return false;
    const int32_t pixels = s->x->dim[2] * s->x->dim[3];
    if (s->a.kh == 1 && s->a.kw == 1)
        return dir == BACKWARD_WEIGHTS && pixels > 1 && pixels <= 64;
    return dir != BACKWARD_DATA || pixels >= 256;
}

/* Descriptors of the three tensors as the graph stores them. Weights are flat OIHW, which is GOIHW too. */
static dass_status describe(const conv_shape *s, conv_impl *c)
{
    const int32_t *const xd = s->x->dim;
    const int32_t *const yd = s->y->dim;
    const dnnl_dims_t x = {xd[0], xd[1], xd[2], xd[3]};
    const dnnl_dims_t y = {yd[0], yd[1], yd[2], yd[3]};
    const int32_t groups = s->a.groups;
    const dnnl_dims_t w = {yd[1], xd[1], s->a.kh, s->a.kw};
    const dnnl_dims_t gw = {groups, yd[1] / groups, xd[1] / groups, s->a.kh, s->a.kw};
    DNNL_TRY(dnnl_memory_desc_init_by_tag(&c->t[X].md, 4, x, dnnl_f32, dnnl_nhwc));
    DNNL_TRY(dnnl_memory_desc_init_by_tag(&c->t[Y].md, 4, y, dnnl_f32, dnnl_nhwc));
    if (groups > 1)
        DNNL_TRY(dnnl_memory_desc_init_by_tag(&c->t[W].md, 5, gw, dnnl_f32, dnnl_goihw));
    else
        DNNL_TRY(dnnl_memory_desc_init_by_tag(&c->t[W].md, 4, w, dnnl_f32, dnnl_oihw));
    return DASS_OK;
}

/* The descriptor of what oneDNN is free to lay out: same shape, layout "any". */
static dass_status as_any(const dnnl_memory_desc_t *from, dnnl_memory_desc_t *to)
{
    DNNL_TRY(dnnl_memory_desc_init_by_tag(to, from->ndims, from->dims, from->data_type, dnnl_format_tag_any));
    return DASS_OK;
}

/* Choose the implementation. *out is the caller's to destroy, also on failure (NULL then). */
static dass_status choose(const onednn *o, const conv_shape *s, const conv_impl *c, const_dnnl_primitive_attr_t attr,
                          dnnl_primitive_desc_t *out)
{
    dnnl_memory_desc_t x = c->t[X].md, w, y = c->t[Y].md, bias;
    DASS_TRY(as_any(&c->t[W].md, &w));
    if (wants_blocked(s, c->dir)) {
        DASS_TRY(as_any(&c->t[X].md, &x));
        DASS_TRY(as_any(&c->t[Y].md, &y));
    }
    const dnnl_dims_t n_bias = {s->y->dim[1]};
    DNNL_TRY(dnnl_memory_desc_init_by_tag(&bias, 1, n_bias, dnnl_f32, dnnl_x));
    const dnnl_dims_t stride = {s->a.stride, s->a.stride};
    const dnnl_dims_t dil = {s->a.dil - 1, s->a.dil - 1}; /* oneDNN counts the gaps */
    const dnnl_dims_t pad = {s->a.pad, s->a.pad};
    const dnnl_alg_kind_t alg = dnnl_convolution_direct;
    dnnl_convolution_desc_t desc;
    DNNL_TRY(dnnl_dilated_convolution_forward_desc_init(&desc, dnnl_forward_training, alg, &x, &w,
                                                        s->has_bias ? &bias : NULL, &y, stride, dil, pad, pad));
    dnnl_primitive_desc_t forward = NULL;
    DNNL_TRY(dnnl_primitive_desc_create(&forward, &desc, attr, o->engine, NULL));
    if (c->dir == FORWARD) {
        *out = forward;
        return DASS_OK;
    }
    /* A gradient wants the forward's descriptor as a hint. */
    dass_status st = DASS_OK;
    if (c->dir == BACKWARD_DATA)
        DNNL_TRY_TO(dnnl_dilated_convolution_backward_data_desc_init(&desc, alg, &x, &w, &y, stride, dil, pad, pad), st,
                    done);
    else
        DNNL_TRY_TO(dnnl_dilated_convolution_backward_weights_desc_init(&desc, alg, &x, &w, NULL, &y, stride, dil, pad,
                                                                        pad),
                    st, done);
    DNNL_TRY_TO(dnnl_primitive_desc_create(out, &desc, attr, o->engine, forward), st, done);
done:
    (void)dnnl_primitive_desc_destroy(forward);
    return st;
}

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* Memory objects of tensor i, and the reorder between the graph's layout and oneDNN's `want` where they differ. */
static dass_status make_tensor(const onednn *o, conv_impl *c, int i, const dnnl_memory_desc_t *want,
                               const_dnnl_primitive_attr_t attr, dass_kernel *k, size_t *n_scratch)
{
    tensor *const t = &c->t[i];
    DNNL_TRY(dnnl_memory_create(&t->user, &t->md, o->engine, DNNL_MEMORY_NONE));
    if (dnnl_memory_desc_equal(&t->md, want))
        return DASS_OK;
    DNNL_TRY(dnnl_memory_create(&t->own, want, o->engine, DNNL_MEMORY_NONE));
    t->own_offset = k->ws_bytes;
    k->ws_bytes += align64(dnnl_memory_desc_get_size(want));
    const bool in = i != c->output;
    dnnl_primitive_desc_t pd = NULL;
    DNNL_TRY(
        dnnl_reorder_primitive_desc_create(&pd, in ? &t->md : want, o->engine, in ? want : &t->md, o->engine, attr));
    const size_t n = dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
    if (n > *n_scratch)
        *n_scratch = n;
    const dnnl_status_t s = dnnl_primitive_create(&t->reorder, pd);
    (void)dnnl_primitive_desc_destroy(pd);
    DNNL_TRY(s);
    t->reorder_arg[0] = (dnnl_exec_arg_t){DNNL_ARG_FROM, in ? t->user : t->own};
    t->reorder_arg[1] = (dnnl_exec_arg_t){DNNL_ARG_TO, in ? t->own : t->user};
    return DASS_OK;
}

/* The scratchpad, shared by the convolution and its reorders, which run one after the other. */
static dass_status make_scratch(const onednn *o, conv_impl *c, size_t n, dass_kernel *k)
{
    const dnnl_dims_t bytes = {(dnnl_dim_t)(n > 0 ? n : 1)};
    dnnl_memory_desc_t md;
    DNNL_TRY(dnnl_memory_desc_init_by_tag(&md, 1, bytes, dnnl_u8, dnnl_x));
    DNNL_TRY(dnnl_memory_create(&c->scratch, &md, o->engine, DNNL_MEMORY_NONE));
    k->ws_bytes += align64((size_t)bytes[0]); /* last, at the end of the workspace */
    return DASS_OK;
}

static dass_status make_bias(const onednn *o, conv_impl *c, int64_t n)
{
    const dnnl_dims_t dim = {n};
    dnnl_memory_desc_t md;
    DNNL_TRY(dnnl_memory_desc_init_by_tag(&md, 1, dim, dnnl_f32, dnnl_x));
    DNNL_TRY(dnnl_memory_create(&c->bias, &md, o->engine, DNNL_MEMORY_NONE));
    c->arg[c->n_arg++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, c->bias};
    return DASS_OK;
}

/* Everything after the choice: memory objects, reorders, the primitive, its argument list. */
static dass_status build(const onednn *o, const conv_shape *s, conv_impl *c, const_dnnl_primitive_desc_t pd,
                         const_dnnl_primitive_attr_t attr, dass_kernel *k)
{
    static const dnnl_query_t query[3][N_TENSORS] = {
        [FORWARD] = {dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_dst_md},
        [BACKWARD_DATA] = {dnnl_query_diff_src_md, dnnl_query_weights_md, dnnl_query_diff_dst_md},
        [BACKWARD_WEIGHTS] = {dnnl_query_src_md, dnnl_query_diff_weights_md, dnnl_query_diff_dst_md},
    };
    static const int name[3][N_TENSORS] = {
        [FORWARD] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
        [BACKWARD_DATA] = {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
        [BACKWARD_WEIGHTS] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST},
    };
    static const uint32_t place[3][N_TENSORS] = {
        /* inputs, then the output */
        [FORWARD] = {0, 1, UINT32_MAX},
        [BACKWARD_DATA] = {UINT32_MAX, 1, 0},
        [BACKWARD_WEIGHTS] = {0, UINT32_MAX, 1},
    };
    size_t n_scratch = dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
    for (int i = 0; i < N_TENSORS; i++) {
        c->t[i].arg = place[c->dir][i] == UINT32_MAX ? c->head.n_in : place[c->dir][i];
        const dnnl_memory_desc_t *const want = dnnl_primitive_desc_query_md(pd, query[c->dir][i], 0);
        DASS_TRY(make_tensor(o, c, i, want, attr, k, &n_scratch));
        c->arg[c->n_arg++] = (dnnl_exec_arg_t){name[c->dir][i], c->t[i].own != NULL ? c->t[i].own : c->t[i].user};
    }
    if (s->has_bias)
        DASS_TRY(make_bias(o, c, s->y->dim[1]));
    DASS_TRY(make_scratch(o, c, n_scratch, k));
    c->arg[c->n_arg++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, c->scratch};
    for (int i = 0; i < N_TENSORS; i++)
        c->t[i].reorder_arg[2] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, c->scratch};
    DNNL_TRY(dnnl_primitive_create(&c->conv, pd));
    return DASS_OK;
}

static void conv_drop(dass_host *h, dass_kernel *k)
{
    (void)h;
    conv_impl *const c = k->impl;
    for (int i = 0; i < N_TENSORS; i++) {
        tensor *const t = &c->t[i];
        if (t->reorder != NULL)
            (void)dnnl_primitive_destroy(t->reorder);
        if (t->user != NULL)
            (void)dnnl_memory_destroy(t->user);
        if (t->own != NULL)
            (void)dnnl_memory_destroy(t->own);
        *t = (tensor){.arg = t->arg};
    }
    if (c->conv != NULL)
        (void)dnnl_primitive_destroy(c->conv);
    if (c->bias != NULL)
        (void)dnnl_memory_destroy(c->bias);
    if (c->scratch != NULL)
        (void)dnnl_memory_destroy(c->scratch);
    c->conv = NULL;
    c->bias = c->scratch = NULL;
}

/* oneDNN fixes its number of threads when a primitive is made, and takes it from OpenMP. That setting is the program's:
 * it is borrowed for a call. Returns what to give back. */
static int borrow_threads(const dass_host *h)
{
    const int before = omp_get_max_threads();
    if (before != h->n_threads)
        omp_set_num_threads(h->n_threads);
    return before;
}

static void return_threads(const dass_host *h, int before)
{
    if (before != h->n_threads)
        omp_set_num_threads(before);
}

static dass_status execute(const onednn *o, const conv_impl *c)
{
    for (int i = 0; i < N_TENSORS; i++)
        if (i != c->output && c->t[i].reorder != NULL)
            DNNL_TRY(dnnl_primitive_execute(c->t[i].reorder, o->stream, 3, c->t[i].reorder_arg));
    DNNL_TRY(dnnl_primitive_execute(c->conv, o->stream, c->n_arg, c->arg));
    const tensor *const out = &c->t[c->output];
    if (out->reorder != NULL)
        DNNL_TRY(dnnl_primitive_execute(out->reorder, o->stream, 3, out->reorder_arg));
    DNNL_TRY(dnnl_stream_wait(o->stream));
    return DASS_OK;
}

static dass_status conv_run(dass_backend *be, void *impl)
{
    const dass_host *const h = (const dass_host *)be;
    const int before = borrow_threads(h);
    const dass_status st = execute(h->onednn, impl);
    return_threads(h, before);
    return st;
}

/* What the convolution alone has beside its scratchpad: the activation, applied before its result is stored. */
static dass_status add_activation(dnnl_primitive_attr_t attr, int32_t act)
{
    dnnl_post_ops_t after = NULL;
    dass_status st = DASS_OK;
    if (act == DASS_ACT_NONE)
        return DASS_OK;
    const dnnl_alg_kind_t alg = act == DASS_ACT_RELU6 ? dnnl_eltwise_clip : dnnl_eltwise_relu;
    DNNL_TRY(dnnl_post_ops_create(&after));
    DNNL_TRY_TO(dnnl_post_ops_append_eltwise(after, 1.0f, alg, 0.0f, act == DASS_ACT_RELU6 ? 6.0f : 0.0f), st, done);
    DNNL_TRY_TO(dnnl_primitive_attr_set_post_ops(attr, after), st, done);
done:
    (void)dnnl_post_ops_destroy(after);
    return st;
}

static dass_status conv_prepare(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const onednn *const o = h->onednn;
    conv_impl *const c = dass__impl_make(mem, g, n, sizeof *c, k);
    if (c == NULL)
        return DASS_NOMEM;
    const dass_op op = g->nodes[n].op;
    c->dir = op == DASS_OP_CONV ? FORWARD : op == DASS_OP_CONV_BWD_DATA ? BACKWARD_DATA : BACKWARD_WEIGHTS;
    c->output = c->dir == FORWARD ? Y : c->dir == BACKWARD_DATA ? X : W;
    k->run = conv_run;
    const int before = borrow_threads(h);
    const conv_shape s = shape_of(g, n);
    dnnl_primitive_attr_t attr = NULL, conv_attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dass_status st = DASS_OK;
    const char *text = NULL;
    DNNL_TRY_TO(dnnl_primitive_attr_create(&attr), st, done);
    DNNL_TRY_TO(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), st, done);
    DNNL_TRY_TO(dnnl_primitive_attr_clone(&conv_attr, attr), st, done);
    DASS_TRY_TO(add_activation(conv_attr, s.a.act), st, done);
    DASS_TRY_TO(describe(&s, c), st, done);
    DASS_TRY_TO(choose(o, &s, c, conv_attr, &pd), st, done);
    DASS_TRY_TO(build(o, &s, c, pd, attr, k), st, done);
    DNNL_TRY_TO(dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &text), st, done);
    k->name = dass_arena_printf(mem, "onednn:%s%s", text, c->t[X].own != NULL || c->t[Y].own != NULL ? ":blocked" : "");
    if (k->name == NULL)
        st = DASS_NOMEM;
done:
    if (pd != NULL)
        (void)dnnl_primitive_desc_destroy(pd);
    if (attr != NULL)
        (void)dnnl_primitive_attr_destroy(attr);
    if (conv_attr != NULL)
        (void)dnnl_primitive_attr_destroy(conv_attr);
    return_threads(h, before);
    if (st != DASS_OK)
        conv_drop(h, k);
    return st;
}

static dass_status conv_bind(dass_host *h, const dass_graph *g, dass_node n, dass_kernel *k, void *const *args,
                             void *ws)
{
    (void)h;
    (void)g;
    (void)n;
    conv_impl *const c = k->impl;
    char *const base = ws;
    size_t end = 0;
    for (int i = 0; i < N_TENSORS; i++) {
        const tensor *const t = &c->t[i];
        DNNL_TRY(dnnl_memory_set_data_handle(t->user, args[t->arg]));
        if (t->own == NULL)
            continue;
        DNNL_TRY(dnnl_memory_set_data_handle(t->own, base + t->own_offset));
        const dnnl_memory_desc_t *md = NULL;
        DNNL_TRY(dnnl_memory_get_memory_desc(t->own, &md));
        end = t->own_offset + align64(dnnl_memory_desc_get_size(md));
    }
    DNNL_TRY(dnnl_memory_set_data_handle(c->scratch, base + end));
    if (c->bias != NULL)
        DNNL_TRY(dnnl_memory_set_data_handle(c->bias, args[2]));
    return DASS_OK;
}

/* An activation on load is the reference's: no network compiled for the host asks for one. */
static bool conv_fits(const dass_host *h, const dass_graph *g, dass_node n)
{
    (void)h;
    return g->nodes[n].attr.conv.relu == DASS_ACT_NONE;
}

const dass__row dass__rows_onednn[] = {
    {DASS_OP_CONV, "onednn", conv_fits, conv_prepare, conv_bind, conv_drop},
    {DASS_OP_CONV_BWD_DATA, "onednn", NULL, conv_prepare, conv_bind, conv_drop},
    {DASS_OP_CONV_BWD_WEIGHTS, "onednn", NULL, conv_prepare, conv_bind, conv_drop},
    {.op = DASS_OP_NONE},
};

#endif
