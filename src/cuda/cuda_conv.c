/* Rows of convolutions that cuDNN runs: whatever is neither depthwise nor pointwise, which stand before these rows;
 * and pointwise ones in bf16 with a bias.
 *
 * cuDNN wants filters as OHWI and its tensors on 16-byte boundaries; parameters are OIHW, and lie in their flat buffer
 * where they happen to lie. So a filter is turned into scratch first (or its gradient out of it), unless both orders
 * are one and it lies well, as 1x1 filters of compiled networks do; and an activation that lies badly, which happens in
 * tests alone, is copied. Where cuDNN sums no gradient of weights over bf16 (stems: see dass__dnn_conv_exists), x and
 * d_y are widened into scratch and it is made of fp32: bf16 numbers are fp32 numbers. Scratch: [filter][x copy][y
 * copy][cuDNN's own].
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

#include "cuda.h"
#include "cuda_dnn.h"
#include "dass/mem.h"
#include "kernels/flat.h"
#include "kernels/weights.h"

/* A copy between device memories, as a stage. */
typedef struct copying {
    void *dst;
    const void *src;
    size_t bytes;
} copying;

typedef struct conv_own {
    dass__dnn_plan *plan;
    copying x_copy, y_copy; /* bytes 0: not needed */
    bool wide;              /* the copies are fp32 of bf16, made by stages 0 and 1 */
    bool act_in_plan;
    size_t filter_bytes; /* of the turned filter; 0: it is used where it lies */
    int filter_stage;
} conv_own;

static size_t aligned(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

/* Where plans are kept between runs: $DASS_CUDNN_CACHE (empty: nowhere), else dass/cudnn in the user's cache. */
static const char *cache_folder(char *buf, size_t n)
{
    const char *own = getenv("DASS_CUDNN_CACHE");
    const char *xdg = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (own != NULL)
        (void)snprintf(buf, n, "%s", own);
    else if (xdg != NULL && xdg[0] == '/')
        (void)snprintf(buf, n, "%s/dass/cudnn", xdg);
    else if (home != NULL && home[0] == '/')
        (void)snprintf(buf, n, "%s/.cache/dass/cudnn", home);
    else
        buf[0] = '\0';
    return buf[0] != '\0' ? buf : NULL;
}

/* The description of a card in a file, for planning where there is none; NULL when not asked for. */
static dass_status described_device(dass_arena *mem, const char **out)
{
    const char *path = getenv("DASS_CUDNN_DEVICE");
    *out = NULL;
    if (path == NULL || path[0] == '\0')
        return DASS_OK;
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return DASS_FAIL(DASS_IO, "cuda: DASS_CUDNN_DEVICE=%s cannot be read; unset it to plan for the real card",
                         path);
    char *text = dass_arena_alloc(mem, 16384);
    const size_t got = text != NULL ? fread(text, 1, 16383, f) : 0;
    (void)fclose(f);
    if (text == NULL)
        return DASS_NOMEM;
    text[got] = '\0';
    *out = text;
    return DASS_OK;
}

static dass_status open_dnn(dass_cuda *c, dass_arena *mem)
{
    char folder[1024];
    dass__dnn_options opt = {.deterministic = true, .cache_dir = cache_folder(folder, sizeof folder)};
    if (c->dnn != NULL)
        return DASS_OK;
    DASS_TRY(described_device(mem, &opt.device_json));
    dass__dnn *dnn = NULL;
    DASS_TRY(dass__dnn_open(c->ordinal, c->stream, &opt, &dnn));
    c->dnn = dnn;
    return DASS_OK;
}

void dass__cuda_conv_close(dass_cuda *c)
{
    dass__dnn_close(c->dnn);
    c->dnn = NULL;
}

/* ---- describing -------------------------------------------------------------------------------------------------- */

/* Indices of x, w, y among the arguments (inputs, then the output) of each kind. */
typedef struct places {
    dass__dnn_kind kind;
    uint32_t x, w, y;
} places;

static places places_of(dass_op op)
{
    if (op == DASS_OP_CONV)
        return (places){DASS__DNN_FORWARD, 0, 1, 3};
    if (op == DASS_OP_CONV_BWD_DATA)
        return (places){DASS__DNN_DATA, 2, 1, 0};
    return (places){DASS__DNN_WEIGHTS, 0, 2, 1};
}

static const dass_value *arg(const dass_graph *g, dass_node n, uint32_t i)
{
    return &g->vals[g->args[g->nodes[n].args + i]];
}

/* The tensors say whether it is bf16; fp32 tensors of a device opened with bf16 are computed as with fp32. */
static dass_precision precision_of(const dass_cuda *c, const dass_value *x)
{
    if (x->dtype == DASS_BF16)
        return DASS_PRECISION_BF16;
    return c->precision == DASS_PRECISION_TF32 ? DASS_PRECISION_TF32 : DASS_PRECISION_FP32;
}

static dass__dnn_conv describe(const dass_cuda *c, const dass_graph *g, dass_node n)
{
    const places p = places_of(g->nodes[n].op);
    const dass_conv_attr *a = &g->nodes[n].attr.conv;
    const dass_value *x = arg(g, n, p.x);
    return (dass__dnn_conv){.kind = p.kind,
                            .precision = precision_of(c, x),
                            .n = x->dim[0],
                            .ic = x->dim[1],
                            .ih = x->dim[2],
                            .iw = x->dim[3],
                            .oc = arg(g, n, p.y)->dim[1],
                            .kh = a->kh,
                            .kw = a->kw,
                            .stride = a->stride,
                            .pad = a->pad,
                            .dil = a->dil,
                            .groups = a->groups,
                            .bias = g->nodes[n].op == DASS_OP_CONV && dass_node_in(g, n)[2] != 0,
                            .act = g->nodes[n].op == DASS_OP_CONV ? (dass_act)a->act : DASS_ACT_NONE};
}

static bool lies_well(const dass_value *v)
{
    return v->buf == 0 || (size_t)v->offset * dass_dtype_bytes(v->dtype) % 16 == 0;
}

/* ---- stages ------------------------------------------------------------------------------------------------------ */

static dass_status call_copy(dass_cuda *c, void *object)
{
    const copying *k = object;
    CUDA_TRY(cudaMemcpyAsync(k->dst, k->src, k->bytes, cudaMemcpyDeviceToDevice, c->stream));
    return DASS_OK;
}

static dass_status call_plan(dass_cuda *c, void *object)
{
    return dass__dnn_run(c->dnn, ((conv_own *)object)->plan);
}

static dass_status add_transpose(dass_cuda *c, dass_arena *mem, dass_kernel *k, conv_own *own, const dass__dnn_conv *d,
                                 uint32_t stored)
{
    const bool back = d->kind == DASS__DNN_WEIGHTS;
    const uint32_t n_i = (uint32_t)(d->ic / d->groups);
    const uint32_t n_j = (uint32_t)(d->kh * d->kw);
    const uint64_t n = (uint64_t)d->oc * n_i * n_j;
    void *p = NULL;
    own->filter_stage = (int)dass__cuda_impl_of(k)->n_stages;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_transpose_run, "transpose", dass__cuda_flat_grid(c, n, DASS_K_V1 | stored),
                            sizeof(dass_k_transpose), &p));
    dass_k_transpose *a = p;
    *a = (dass_k_transpose){.head = a->head, .rows = (uint32_t)d->oc, .n_i = back ? n_j : n_i, .n_j = back ? n_i : n_j};
    return DASS_OK;
}

/* v, in bf16, as fp32 in scratch. */
static dass_status add_widening(dass_cuda *c, dass_arena *mem, const dass_value *v, dass_kernel *k, copying *to)
{
    to->bytes = (size_t)dass_value_count(v) * sizeof(float);
    return dass__cuda_add_cast(c, mem, k, dass_value_count(v), dass__cuda_vec4(v, 0), DASS_F32);
}

static void bind_widening(const dass__cuda_impl *impl, uint32_t stage, const copying *k)
{
    dass_k_cast *a = dass__cuda_args(impl, stage);
    a->x = k->src;
    a->y = k->dst;
}

/* With the activation in the plan where cuDNN has one for that, else behind it; gradients of weights that it has in
 * fp32 alone, in fp32. */
static dass_status plan_conv(dass_cuda *c, dass__dnn_conv *d, conv_own *own)
{
    dass_status st = dass__dnn_plan_make(c->dnn, d, &own->plan);
    if (st == DASS_UNSUPPORTED && d->act != DASS_ACT_NONE) {
        dass_error_clear();
        d->act = DASS_ACT_NONE;
        st = dass__dnn_plan_make(c->dnn, d, &own->plan);
    }
    own->act_in_plan = d->act != DASS_ACT_NONE;
    if (st != DASS_UNSUPPORTED || d->kind != DASS__DNN_WEIGHTS || d->precision != DASS_PRECISION_BF16)
        return st;
    dass_error_clear();
    own->wide = true;
    d->precision = DASS_PRECISION_FP32;
    return dass__dnn_plan_make(c->dnn, d, &own->plan);
}

static dass_status prepare_conv(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const places p = places_of(g->nodes[n].op);
    dass__dnn_conv d = describe(c, g, n);
    const dass_value *x = arg(g, n, p.x);
    const dass_value *y = arg(g, n, p.y);
    const dass_value *w = arg(g, n, p.w);
    DASS_TRY(open_dnn(c, mem));
    conv_own *own = dass_arena_alloc(mem, sizeof *own);
    if (own == NULL)
        return DASS_NOMEM;
    dass__cuda_impl_of(k)->own = own;
    DASS_TRY(plan_conv(c, &d, own));
    const bool as_it_lies = (d.kh * d.kw == 1 || d.ic == d.groups) && lies_well(w);
    own->filter_bytes = as_it_lies ? 0 : dass_value_bytes(w);
    if (own->wide) {
        DASS_TRY(add_widening(c, mem, x, k, &own->x_copy));
        DASS_TRY(add_widening(c, mem, y, k, &own->y_copy));
    } else {
        own->x_copy.bytes = lies_well(x) ? 0 : dass_value_bytes(x);
        own->y_copy.bytes = lies_well(y) ? 0 : dass_value_bytes(y);
    }
    k->name = dass_arena_printf(mem, "cuda:%s", dass__dnn_plan_name(own->plan));
    k->ws_bytes = aligned(own->filter_bytes) + aligned(own->x_copy.bytes) + aligned(own->y_copy.bytes) +
                  dass__dnn_plan_ws(own->plan);
    if (d.kind != DASS__DNN_WEIGHTS && !as_it_lies)
        DASS_TRY(add_transpose(c, mem, k, own, &d, dass__cuda_stored(w)));
    if (own->x_copy.bytes > 0 && d.kind != DASS__DNN_DATA && !own->wide)
        DASS_TRY(dass__cuda_add_call(k, DASS__LIBRARY_COPY, "copy x", call_copy, &own->x_copy));
    if (own->y_copy.bytes > 0 && d.kind != DASS__DNN_FORWARD && !own->wide)
        DASS_TRY(dass__cuda_add_call(k, DASS__LIBRARY_COPY, "copy y", call_copy, &own->y_copy));
    DASS_TRY(dass__cuda_add_call(k, DASS__LIBRARY_CUDNN, "cudnn", call_plan, own));
    if (own->x_copy.bytes > 0 && d.kind == DASS__DNN_DATA)
        DASS_TRY(dass__cuda_add_call(k, DASS__LIBRARY_COPY, "copy x", call_copy, &own->x_copy));
    if (own->y_copy.bytes > 0 && d.kind == DASS__DNN_FORWARD)
        DASS_TRY(dass__cuda_add_call(k, DASS__LIBRARY_COPY, "copy y", call_copy, &own->y_copy));
    if (d.kind == DASS__DNN_WEIGHTS && !as_it_lies)
        DASS_TRY(add_transpose(c, mem, k, own, &d, dass__cuda_stored(w)));
    if (d.kind == DASS__DNN_FORWARD && !own->act_in_plan)
        DASS_TRY(dass__cuda_add_act(c, mem, g, n, k));
    return k->name != NULL ? DASS_OK : DASS_NOMEM;
}

/* The pointer cuDNN gets for a tensor, and the copy between it and where the tensor lies. */
static void *staged(copying *copy, void *tensor, bool out, unsigned char **ws)
{
    if (copy->bytes == 0)
        return tensor;
    void *at = *ws;
    *ws += aligned(copy->bytes);
    copy->dst = out ? tensor : at;
    copy->src = out ? at : tensor;
    return at;
}

static dass_status bind_conv(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                             void *ws)
{
    (void)c;
    const places p = places_of(g->nodes[n].op);
    conv_own *own = impl->own;
    unsigned char *at = ws;
    void *filter = own->filter_bytes > 0 ? at : args[p.w];
    at += aligned(own->filter_bytes);
    void *x = staged(&own->x_copy, args[p.x], p.kind == DASS__DNN_DATA, &at);
    void *y = staged(&own->y_copy, args[p.y], p.kind == DASS__DNN_FORWARD, &at);
    void *dnn_ws = dass__dnn_plan_ws(own->plan) > 0 ? at : NULL;
    if (own->wide) {
        bind_widening(impl, 0, &own->x_copy);
        bind_widening(impl, 1, &own->y_copy);
    }
    if (own->filter_bytes > 0) {
        dass_k_transpose *t = dass__cuda_args(impl, (uint32_t)own->filter_stage);
        t->src = p.kind == DASS__DNN_WEIGHTS ? filter : args[p.w];
        t->dst = p.kind == DASS__DNN_WEIGHTS ? args[p.w] : filter;
    }
    switch (p.kind) {
    case DASS__DNN_FORWARD:
        if (!own->act_in_plan)
            dass__cuda_bind_act(g, n, impl, args[p.y]);
        return dass__dnn_plan_bind(own->plan, x, filter, args[2], y, dnn_ws);
    case DASS__DNN_DATA:
        return dass__dnn_plan_bind(own->plan, y, filter, NULL, x, dnn_ws);
    case DASS__DNN_WEIGHTS:
        return dass__dnn_plan_bind(own->plan, x, y, NULL, filter, dnn_ws);
    }
    return DASS_OK;
}

static void drop_conv(dass_cuda *c, dass__cuda_impl *impl)
{
    conv_own *own = impl->own;
    if (own == NULL)
        return;
    (void)cudaStreamSynchronize(c->stream); /* what is enqueued may still use the plan */
    dass__dnn_plan_free(own->plan);
}

/* cuDNN convolves what it is given. */
static bool fits_conv(const dass_cuda *c, const dass_graph *g, dass_node n)
{
    (void)c;
    return g->nodes[n].attr.conv.relu == DASS_ACT_NONE;
}

#define ROW(OP)                                                                                             \
    {                                                                                                       \
        .op = DASS_OP_##OP, .name = "cudnn", .fits = fits_conv, .prepare = prepare_conv, .bind = bind_conv, \
        .drop = drop_conv                                                                                   \
    }
const dass__cuda_row dass__cuda_rows_conv[] = {
    ROW(CONV),
    ROW(CONV_BWD_DATA),
    ROW(CONV_BWD_WEIGHTS),
    {.op = DASS_OP_NONE},
};
