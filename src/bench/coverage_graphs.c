/* A graph of each operation of ops.def at each shape of a table, with its gradient where it has one: what the networks
 * leave out, for `dass info --coverage`. Shapes know nothing of kernels: they take channels that vectors divide and
 * channels that they do not, values that begin at vectors and values that do not, windows of every size and stride of
 * the search space and one beyond, images of one pixel, lists longer than a block. Every real output begins as NaN and
 * has to be finite after a run, so that a kernel that wrote nothing is seen.
 */
#include <math.h>
#include <string.h>

#include "bench_private.h"
#include "dass/exec.h"
#include "dass/rng.h"

enum { NONE, PARAM, STATE, BYTES, INTS, COUNT, STEP, BITS, NARROW, SEED, OUT, GRAD, N_BUFS };
enum { MAX_OUT = 8, LINE = 64 }; /* elements: values begin at multiples of it, and `shift` further */

/* The same numbers serve every operation: those that have no window ignore k, stride and dil. */
typedef struct shape {
    int32_t n, c, h, w;
    int32_t k, stride, dil;
    int32_t flat;  /* entries of lists without channels */
    int32_t shift; /* elements by which a value misses its line */
} shape;

static const shape shapes[] = {
    {2, 8, 6, 7, 3, 1, 1, 300, 0}, {2, 8, 7, 6, 3, 2, 1, 64, 0},     {1, 12, 9, 9, 3, 2, 2, 65, 0},
    {1, 16, 9, 9, 5, 1, 2, 7, 0},  {1, 12, 8, 9, 5, 2, 1, 1000, 0},  {2, 8, 12, 9, 5, 2, 2, 1, 0},
    {1, 8, 9, 8, 7, 1, 1, 63, 0},  {1, 4, 10, 9, 7, 2, 1, 40001, 0}, {2, 5, 7, 5, 3, 1, 1, 37, 0},
    {1, 3, 6, 9, 5, 2, 1, 130, 0}, {2, 8, 6, 6, 3, 1, 1, 300, 1},    {3, 20, 1, 1, 3, 1, 1, 40001, 1},
};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

typedef struct builder {
    dass_backend *be;
    dass_graph *g;
    const shape *s;
    int64_t used[N_BUFS];
    dass_val out[MAX_OUT]; /* gradients start here */
    dass_val loss;         /* or here */
    uint32_t n_out;
} builder;

/* ---- values ------------------------------------------------------------------------------------------------------ */

static dass_val place(builder *b, dass_dtype dtype, dass_buf buf, dass_layout layout, int32_t rank, const int32_t *dim)
{
    const int64_t at = (b->used[buf] + LINE - 1) / LINE * LINE + (dtype == DASS_BITS ? 0 : b->s->shift);
    int64_t n = 1;
    for (int32_t i = 0; i < rank; i++)
        n *= dim[i];
    b->used[buf] = at + n;
    return dass_ref_typed(b->g, "odd", dtype, buf, at, layout, rank, dim);
}

/* Real numbers in the stored type, at a place that misses its line as much as any. */
static dass_val stored(builder *b, dass_layout layout, const int32_t *dim)
{
    const dass_val x = place(b, b->g->real, PARAM, layout, 4, dim);
    if (x == 0 || b->g->stored == b->g->real)
        return x;
    const dass_val v = dass_cast(b->g, x, b->g->stored);
    const int64_t at = (b->used[NARROW] + LINE - 1) / LINE * LINE + b->s->shift;
    b->used[NARROW] = at + dass_value_count(&b->g->vals[x]);
    dass_place(b->g, v, NARROW, at);
    return v;
}

static dass_val image_of(builder *b, int32_t c)
{
    const int32_t dim[] = {b->s->n, c, b->s->h, b->s->w};
    return stored(b, DASS_LAYOUT_NHWC, dim);
}

static dass_val image(builder *b)
{
    return image_of(b, b->s->c);
}

static dass_val weights(builder *b, int32_t oc, int32_t ic, int32_t k)
{
    return stored(b, DASS_LAYOUT_OIHW, (const int32_t[]){oc, ic, k, k});
}

static dass_val vector(builder *b, int32_t n)
{
    return place(b, b->g->real, PARAM, DASS_LAYOUT_FLAT, 1, &n);
}

static dass_val list(builder *b)
{
    return vector(b, b->s->flat);
}

static dass_val state(builder *b)
{
    return place(b, b->g->real, STATE, DASS_LAYOUT_FLAT, 1, &b->s->flat);
}

static dass_val bits(builder *b)
{
    return place(b, DASS_BITS, BITS, DASS_LAYOUT_FLAT, 1, &b->s->flat);
}

static dass_val ints(builder *b)
{
    return place(b, DASS_I32, INTS, DASS_LAYOUT_FLAT, 1, &b->s->n);
}

/* 0, 1, 2, ... */
static dass_val counting(builder *b, int32_t n)
{
    return place(b, DASS_I32, COUNT, DASS_LAYOUT_FLAT, 1, &n);
}

/* n rows and columns with one entry in each. */
static dass_csr matrix(builder *b, int32_t n)
{
    const dass_val columns = counting(b, n);
    dass_val values = vector(b, n);
    if (b->g->stored != b->g->real)
        values = dass_cast(b->g, values, b->g->stored);
    return (dass_csr){.values = values, .columns = columns, .starts = counting(b, n + 1), .nnz = n};
}

static dass_val step(builder *b)
{
    const int32_t n = (int32_t)sizeof(dass_step_block);
    b->used[STEP] = n;
    return dass_ref_typed(b->g, "step", DASS_U8, STEP, 0, DASS_LAYOUT_FLAT, 1, &n);
}

/* A result: it stays, and the gradient starts at it. */
static void result(builder *b, dass_val v)
{
    if (v == 0 || b->g->status != DASS_OK)
        return;
    if (b->g->vals[v].dtype != b->g->real)
        v = dass_cast(b->g, v, b->g->real);
    const int64_t at = (b->used[OUT] + LINE - 1) / LINE * LINE + b->s->shift;
    dass_place(b->g, v, OUT, at);
    b->used[OUT] = at + dass_value_count(&b->g->vals[v]);
    b->out[b->n_out++] = v;
}

/* ---- a graph of each operation ----------------------------------------------------------------------------------- */

static dass_conv_attr window(const builder *b, int32_t groups)
{
    const shape *s = b->s;
    return (dass_conv_attr){
        .kh = s->k, .kw = s->k, .stride = s->stride, .pad = s->dil * (s->k - 1) / 2, .dil = s->dil, .groups = groups};
}

static dass_pool_attr pool(const builder *b)
{
    return (dass_pool_attr){.k = b->s->k, .stride = b->s->stride, .pad = b->s->k / 2};
}

enum { MAX_IMAGE_C = 16 }; /* of augment */
static const double half[MAX_IMAGE_C] = {0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5,
                                         0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5};

static void make_gather(builder *b)
{
    const int32_t c = b->s->c < MAX_IMAGE_C ? b->s->c : MAX_IMAGE_C;
    const int32_t dim[] = {b->s->n, c, b->s->h, b->s->w};
    const dass_val data = place(b, DASS_U8, BYTES, DASS_LAYOUT_NHWC, 4, dim);
    const dass_val labels = ints(b);
    dass_val x = 0;
    dass_val y = 0;
    dass_val samples = 0;
    dass_gather(b->g, data, labels, ints(b), step(b), b->s->n, &x, &y, &samples);
    result(b, dass_augment(b->g, x, samples, step(b), half, half, 0, false, 0));
}

/* So many pixels that a card of 200 multiprocessors is full whatever the number of rows that a warp takes. */
static void make_wide_spconv(builder *b, int32_t c)
{
    const dass_val x = stored(b, DASS_LAYOUT_NHWC, (const int32_t[]){8, c, 40, 40});
    const dass_csr s = matrix(b, c);
    result(b, dass_spconv(b->g, x, s, 0, 0, DASS_ACT_NONE, false));
}

/* By our kernels, and by the backend's library where it has one. */
static void make_spconv(builder *b)
{
    for (int32_t wide = 16; b->s->flat == 1 && wide <= 64; wide *= 2)
        make_wide_spconv(b, wide);
    const int32_t c = b->s->c;
    const dass_val x = image(b);
    const bool has_library = b->be->ops->library != NULL && b->be->ops->library(b->be, DASS_OP_SPCONV) != NULL;
    for (int library = 0; library <= has_library; library++) {
        const dass_csr s = matrix(b, c);
        const dass_val bias = vector(b, c);
        result(b, dass_spconv(b->g, x, s, bias, image(b), DASS_ACT_RELU6, library != 0));
    }
}

static void make_irblock(builder *b)
{
    const int32_t c = b->s->c;
    dass_irblock_in in = {.x = image(b), .expand = matrix(b, c), .w_dw = weights(b, c, 1, 3)};
    in.project = matrix(b, c);
    in.b_expand = vector(b, c);
    in.b_dw = vector(b, c);
    in.b_project = vector(b, c);
    result(b, dass_irblock(b->g, &in, b->s->stride, DASS_ACT_RELU6));
}

static void make_augment(builder *b)
{
    const dass_val x = place(b, DASS_U8, BYTES, DASS_LAYOUT_NHWC, 4, (const int32_t[]){b->s->n, 3, b->s->h, b->s->w});
    result(b, dass_augment(b->g, x, ints(b), step(b), half, half, 1, true, 2));
}

/* Dense, depthwise and pointwise, the last with a bias. */
static void make_conv(builder *b)
{
    const int32_t c = b->s->c;
    const dass_conv_attr point = {.kh = 1, .kw = 1, .stride = 1, .dil = 1, .groups = 1};
    const dass_val x = image(b);
    result(b, dass_conv(b->g, x, weights(b, c, c, b->s->k), 0, window(b, 1)));
    result(b, dass_conv(b->g, x, weights(b, c, 1, b->s->k), 0, window(b, c)));
    result(b, dass_conv(b->g, x, weights(b, 2 * c, c, 1), vector(b, 2 * c), point));
}

static void make_norm(builder *b)
{
    const dass_val x = image(b);
    dass_val mean = 0;
    dass_val rstd = 0;
    dass_bn_stats(b->g, x, 1e-3, &mean, &rstd);
    const int32_t c = b->s->c;
    result(b, dass_bn_apply(b->g, x, mean, rstd, vector(b, c), vector(b, c), DASS_ACT_RELU));
}

static void make_bn_infer(builder *b)
{
    const int32_t c = b->s->c;
    const dass_val x = image(b);
    const dass_val mean = vector(b, c);
    const dass_val var = vector(b, c);
    result(b, dass_bn_infer(b->g, x, mean, var, vector(b, c), vector(b, c), 1e-3, DASS_ACT_RELU6));
}

static void make_bn_running(builder *b)
{
    const dass_val mean = list(b);
    const dass_val rstd = list(b);
    const dass_val run_mean = state(b);
    dass_bn_running(b->g, mean, rstd, run_mean, state(b), 1e-3, 0.1, 100);
}

/* Two readers of x, so that its gradient is a sum. */
static void make_relu(builder *b)
{
    const dass_val x = image(b);
    result(b, dass_relu(b->g, x, DASS_ACT_RELU));
    result(b, dass_relu(b->g, x, DASS_ACT_RELU6));
}

static void make_max_pool(builder *b)
{
    result(b, dass_max_pool(b->g, image(b), pool(b)));
}

static void make_avg_pool(builder *b)
{
    result(b, dass_avg_pool(b->g, image(b), pool(b)));
}

static void make_global_pool(builder *b)
{
    result(b, dass_global_pool(b->g, image(b)));
}

static void make_subsample(builder *b)
{
    result(b, dass_subsample(b->g, image(b), b->s->stride, 0));
}

static void make_concat(builder *b)
{
    const dass_val x[] = {image(b), image_of(b, 2 * b->s->c)};
    result(b, dass_concat(b->g, x, 2));
}

/* A plain term and a normalised one; its gradient is per channel, so that a sum of such joins it with that of relu. */
static void make_wsum(builder *b)
{
    const dass_val x = image(b);
    const int32_t c = b->s->c;
    dass_val mean = 0;
    dass_val rstd = 0;
    dass_bn_stats(b->g, x, 1e-3, &mean, &rstd);
    const dass_val p = vector(b, 2);
    const dass_term terms[] = {{.x = image(b), .index = 0}, {x, mean, rstd, vector(b, c), vector(b, c), 1}};
    result(b, dass_wsum(b->g, p, terms, 2));
    result(b, dass_relu(b->g, x, DASS_ACT_RELU));
}

static void make_softmax(builder *b)
{
    const int32_t dim[] = {b->s->c, b->s->k};
    result(b, dass_softmax(b->g, place(b, b->g->real, PARAM, DASS_LAYOUT_FLAT, 2, dim)));
}

static void make_xent(builder *b)
{
    const int32_t dim[] = {b->s->n, b->s->c, 1, 1};
    const dass_val logits = stored(b, DASS_LAYOUT_NHWC, dim);
    dass_val correct = 0;
    dass_xent(b->g, logits, ints(b), step(b), 0.1, &b->loss, &correct);
    result(b, b->loss);
}

static void make_drop_path(builder *b)
{
    result(b, dass_drop_path(b->g, image(b), ints(b), step(b), dass_name_hash("odd")));
}

/* Both ways. */
static void make_cast(builder *b)
{
    const dass_val there = dass_cast(b->g, vector(b, b->s->flat), b->g->stored);
    result(b, dass_cast(b->g, there, b->g->real));
    result(b, dass_cast(b->g, image(b), b->g->real));
}

static void make_dwpw(builder *b)
{
    const int32_t c = b->s->c;
    dass_conv_attr a = window(b, c);
    a.relu = 1;
    a.eps = 1e-3;
    dass_dwpw_in in = {.x = image(b), .w_dw = weights(b, c, 1, a.kh), .w_pw = weights(b, c, c, 1)};
    dass_val mean = 0;
    dass_val rstd = 0;
    dass_bn_stats(b->g, in.x, 1e-3, &in.mean, &in.rstd);
    const dass_val y = dass_dwpw(b->g, in, a, &mean, &rstd);
    result(b, dass_bn_apply(b->g, y, mean, rstd, 0, 0, DASS_ACT_NONE));
}

static void make_fill(builder *b)
{
    dass_fill(b->g, state(b), 0.5);
    dass_fill(b->g, place(b, DASS_U8, BYTES, DASS_LAYOUT_FLAT, 1, &b->s->flat), 7);
    dass_fill(b->g, bits(b), 1);
}

static void make_copy(builder *b)
{
    const dass_val from = place(b, DASS_U8, BYTES, DASS_LAYOUT_FLAT, 1, &b->s->flat);
    dass_copy(b->g, list(b), state(b));
    dass_copy(b->g, from, place(b, DASS_U8, BYTES, DASS_LAYOUT_FLAT, 1, &b->s->flat));
}

/* The whole list is one segment, and half of it is kept. */
static void make_mask_threshold(builder *b)
{
    const dass_segment all = {.offset = 0, .count = b->s->flat, .kept = (b->s->flat + 1) / 2};
    dass_mask_threshold(b->g, list(b), bits(b), &all, 1);
}

static void make_mask_apply(builder *b)
{
    const dass_val w = list(b);
    dass_mask_apply(b->g, w, bits(b), state(b));
}

static void make_mask_bwd_weights(builder *b)
{
    dass_mask_bwd_weights(b->g, state(b), bits(b));
}

static void make_mask_bwd_scores(builder *b)
{
    const dass_val d = list(b);
    const dass_val w = list(b);
    dass_mask_bwd_scores(b->g, d, w, list(b), state(b));
}

static void make_norm2(builder *b)
{
    const dass_val x[] = {list(b), list(b)};
    result(b, dass_norm2(b->g, x, 2));
}

static void make_sgd(builder *b)
{
    const dass_val theta = state(b);
    const dass_val m = state(b);
    const dass_val grad = list(b);
    dass_sgd(b->g, theta, m, grad, step(b), dass_norm2(b->g, &grad, 1), bits(b), 0);
}

static void make_adam(builder *b)
{
    const dass_val theta = state(b);
    const dass_val m = state(b);
    dass_adam(b->g, theta, m, state(b), list(b), step(b), 3);
}

static void make_ema(builder *b)
{
    dass_ema(b->g, state(b), list(b), step(b));
}

static void make_unroll(builder *b)
{
    const dass_val saved = list(b);
    const dass_val m = list(b);
    dass_unroll(b->g, state(b), saved, m, list(b), step(b), bits(b), 0);
}

static void make_shift(builder *b)
{
    const dass_val v = list(b);
    dass_shift(b->g, state(b), list(b), v, dass_norm2(b->g, &v, 1), -1);
}

static void make_hvp(builder *b)
{
    const dass_val p = list(b);
    dass_hvp(b->g, state(b), p, list(b), dass_norm2(b->g, &p, 1), step(b));
}

/* Operations that only gradients emit come with the gradients of these. */
typedef void (*maker)(builder *b);
static const maker makers[DASS_N_OPS] = {
    [DASS_OP_GATHER] = make_gather,
    [DASS_OP_SPCONV] = make_spconv,
    [DASS_OP_IRBLOCK] = make_irblock,
    [DASS_OP_AUGMENT] = make_augment,
    [DASS_OP_CONV] = make_conv,
    [DASS_OP_BN_STATS] = make_norm,
    [DASS_OP_BN_APPLY] = make_norm,
    [DASS_OP_BN_INFER] = make_bn_infer,
    [DASS_OP_RELU] = make_relu,
    [DASS_OP_MAX_POOL] = make_max_pool,
    [DASS_OP_AVG_POOL] = make_avg_pool,
    [DASS_OP_GLOBAL_POOL] = make_global_pool,
    [DASS_OP_SUBSAMPLE] = make_subsample,
    [DASS_OP_CONCAT] = make_concat,
    [DASS_OP_WSUM] = make_wsum,
    [DASS_OP_SOFTMAX] = make_softmax,
    [DASS_OP_XENT] = make_xent,
    [DASS_OP_DROP_PATH] = make_drop_path,
    [DASS_OP_CAST] = make_cast,
    [DASS_OP_DWPW] = make_dwpw,
    [DASS_OP_FILL] = make_fill,
    [DASS_OP_COPY] = make_copy,
    [DASS_OP_BN_RUNNING] = make_bn_running,
    [DASS_OP_MASK_THRESHOLD] = make_mask_threshold,
    [DASS_OP_MASK_APPLY] = make_mask_apply,
    [DASS_OP_MASK_BWD_WEIGHTS] = make_mask_bwd_weights,
    [DASS_OP_MASK_BWD_SCORES] = make_mask_bwd_scores,
    [DASS_OP_NORM2] = make_norm2,
    [DASS_OP_SGD] = make_sgd,
    [DASS_OP_ADAM] = make_adam,
    [DASS_OP_EMA] = make_ema,
    [DASS_OP_UNROLL] = make_unroll,
    [DASS_OP_SHIFT] = make_shift,
    [DASS_OP_HVP] = make_hvp,
};

static dass_status append_gradient(builder *b)
{
    const dass_wrt wrt = {PARAM, GRAD};
    b->used[GRAD] = b->used[PARAM];
    if (b->loss != 0)
        return dass_graph_grad(b->g, b->loss, &wrt, 1);
    dass_val d_y[MAX_OUT];
    b->used[SEED] = b->used[OUT];
    for (uint32_t i = 0; i < b->n_out; i++) {
        const dass_value v = b->g->vals[b->out[i]]; /* a copy: the table may move */
        d_y[i] = dass_ref(b->g, "seed", SEED, v.offset, v.layout, v.rank, v.dim);
    }
    return dass_graph_grad_seeded(b->g, b->out, d_y, b->n_out, &wrt, 1);
}

static dass_status build(builder *b, dass_op op, const shape *s, dass_backend *be)
{
    *b = (builder){.s = s, .be = be};
    if (makers[op] == NULL)
        return DASS_FAIL(DASS_INTERNAL, "coverage: no graph for operation %s; add one to src/bench/coverage_graphs.c",
                         dass_op_get(op)->name);
    DASS_TRY(dass_graph_make_stored(be->ops->real, be->stored, &b->g));
    makers[op](b);
    if (b->g->status == DASS_OK && (dass_op_get(op)->flags & DASS_OPF_D) != 0)
        DASS_TRY(append_gradient(b));
    return dass_graph_finish(b->g);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

typedef struct runner {
    dass_backend *be;
    builder b;
    dass_exec *exec;
    dass_program *program;
    void *buf[N_BUFS];
    unsigned char *host; /* as large as the largest buffer */
    size_t bytes[N_BUFS];
} runner;

static size_t bytes_of(const builder *b, dass_buf buf)
{
    const size_t n = (size_t)b->used[buf];
    if (buf == BITS)
        return (n + 63) / 64 * 8;
    if (buf == BYTES || buf == STEP)
        return n;
    if (buf == NARROW)
        return n * dass_dtype_bytes(b->g->stored);
    return n * dass_dtype_bytes(buf == INTS || buf == COUNT ? DASS_I32 : b->g->real);
}

static void fill_counting(const runner *r)
{
    const dass_graph *g = r->b.g;
    for (dass_val v = 1; v < g->n_vals; v++)
        for (int32_t i = 0; g->vals[v].buf == COUNT && i < g->vals[v].dim[0]; i++)
            ((int32_t *)r->host)[g->vals[v].offset + i] = i;
}

static void fill_host(const runner *r, dass_buf buf)
{
    const size_t n = r->bytes[buf];
    if (buf == STEP)
        memcpy(r->host, &dass__coverage_block, sizeof dass__coverage_block);
    else if (buf == BYTES || buf == BITS)
        for (size_t i = 0; i < n; i++)
            r->host[i] = (unsigned char)(i * 37 % 251);
    else if (buf == INTS)
        memset(r->host, 0, n); /* labels and samples */
    else if (buf == COUNT)
        fill_counting(r);
    else if (r->b.g->real == DASS_F64)
        for (size_t i = 0; i < n / sizeof(double); i++)
            ((double *)r->host)[i] = buf >= OUT ? (double)NAN : 0.5 + (double)(i * 29 % 101) / 101;
    else
        for (size_t i = 0; i < n / sizeof(float); i++)
            ((float *)r->host)[i] = buf >= OUT ? NAN : 0.5f + (float)(i * 29 % 101) / 101;
}

static dass_status open_runner(runner *r)
{
    size_t most = 1;
    void *p = NULL;
    for (dass_buf buf = 1; buf < N_BUFS; buf++) {
        r->bytes[buf] = bytes_of(&r->b, buf);
        most = r->bytes[buf] > most ? r->bytes[buf] : most;
    }
    DASS_TRY(dass_mem_alloc(most, "coverage", &p));
    r->host = p;
    for (dass_buf buf = 1; buf < N_BUFS; buf++) {
        if (r->bytes[buf] == 0)
            continue;
        DASS_TRY(r->be->ops->alloc(r->be, r->bytes[buf], "coverage", &r->buf[buf]));
        fill_host(r, buf);
        DASS_TRY(r->be->ops->write(r->be, r->buf[buf], r->host, r->bytes[buf]));
    }
    DASS_TRY(dass_exec_make(r->be, r->b.g, NULL, &r->exec));
    return dass_program_make(r->be, &r->exec, 1, r->buf, N_BUFS, &r->program);
}

static void close_runner(runner *r)
{
    dass_program_free(r->program);
    dass_exec_free(r->exec);
    for (dass_buf buf = 1; buf < N_BUFS; buf++)
        if (r->buf[buf] != NULL)
            r->be->ops->free(r->be, r->buf[buf]);
    dass_mem_free(r->host);
    dass_graph_free(r->b.g);
}

/* Entries of v that are no numbers, in the copy of its buffer. */
static int64_t count_wrong(const runner *r, const dass_value *v)
{
    int64_t wrong = 0;
    for (int64_t i = v->offset; i < v->offset + dass_value_count(v); i++)
        wrong +=
            !isfinite(r->b.g->real == DASS_F64 ? ((const double *)r->host)[i] : (double)((const float *)r->host)[i]);
    return wrong;
}

/* Whatever a node wrote into a buffer of reals. */
static dass_status check_results(runner *r)
{
    const dass_graph *g = r->b.g;
    for (dass_buf buf = STATE; buf < N_BUFS; buf++) {
        if (r->bytes[buf] == 0 || (buf != STATE && buf < OUT)) /* what NARROW holds is cast from finite numbers */
            continue;
        DASS_TRY(r->be->ops->read(r->be, r->host, r->buf[buf], r->bytes[buf]));
        for (dass_val v = 1; v < g->n_vals; v++) {
            const int64_t wrong = g->vals[v].buf == buf && g->vals[v].def != 0 ? count_wrong(r, &g->vals[v]) : 0;
            if (wrong == 0)
                continue;
            char line[256];
            dass_node_print(g, g->vals[v].def, line, sizeof line);
            return DASS_FAIL(DASS_NUMERIC, "coverage: %lld entries are not finite after node %s", (long long)wrong,
                             line);
        }
    }
    return DASS_OK;
}

static dass_status run_graph(dass_backend *be, dass_op op, const shape *s, uint64_t *op_nodes)
{
    runner r = {.be = be};
    dass_status st = DASS_OK;
    DASS_TRY_TO(build(&r.b, op, s, be), st, out);
    DASS_TRY_TO(open_runner(&r), st, out);
    for (int i = 0; i < 2; i++) /* enqueued, then recorded and replayed */
        DASS_TRY_TO(dass_program_run(r.program), st, out);
    DASS_TRY_TO(check_results(&r), st, out);
    for (dass_node n = 1; n < r.b.g->n_nodes; n++)
        op_nodes[r.b.g->nodes[n].op]++;
out:
    close_runner(&r);
    return st;
}

dass_status dass__coverage_graphs_run(dass_backend *be, uint64_t *op_nodes, uint32_t *n_graphs)
{
    *n_graphs = 0;
    for (int op = 1; op < DASS_N_OPS; op++) {
        if ((dass_op_get((dass_op)op)->flags & DASS_OPF_G) != 0)
            continue;
        for (size_t i = 0; i < N_SHAPES; i++) {
            DASS_TRY(run_graph(be, (dass_op)op, &shapes[i], op_nodes));
            ++*n_graphs;
        }
    }
    return DASS_OK;
}
