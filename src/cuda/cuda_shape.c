/* Rows of activations, sampling, channel copies, batches, augmentation and drop-path over kernels/shape.h. */
#include "cuda.h"

#include "dass/mem.h"
#include "dass/rng.h"

#include "kernels/shape.h"

/* Of the first n_in inputs and output 0 as runs of `row` elements. */
static uint32_t run_variant(const dass_graph *g, dass_node n, uint32_t n_in, int64_t row)
{
    const int32_t rest = (int32_t)(row % 4);
    bool wide = dass__cuda_vec4(dass__cuda_out(g, n, 0), rest);
    for (uint32_t i = 0; i < n_in; i++)
        wide = wide && dass__cuda_vec4(dass__cuda_in(g, n, i), rest);
    return (wide ? DASS_K_V4 : DASS_K_V1) | dass__cuda_stored(dass__cuda_out(g, n, 0));
}

/* ---- relu: x -> y; relu_bwd: d_y, y -> d_x ---------------------------------------------------------------------- */

static dass_status prepare_relu(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const int64_t count = dass_value_count(dass__cuda_in(g, n, 0));
    const uint32_t v = run_variant(g, n, 1, count);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_relu_run, "relu",
                            dass__cuda_flat_grid(c, (uint64_t)count / dass__cuda_width(v), v), sizeof(dass_k_relu),
                            &p));
    dass_k_relu *a = p;
    a->n = (size_t)count;
    a->act = g->nodes[n].attr.act;
    return DASS_OK;
}

DASS__BIND_X_Y(relu, dass_k_relu)

dass_status dass__cuda_add_act(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const int32_t act = g->nodes[n].attr.conv.act;
    const dass_value *y = dass__cuda_out(g, n, 0);
    const int64_t count = dass_value_count(y);
    if (act == DASS_ACT_NONE)
        return DASS_OK;
    const bool wide = count % 4 == 0 && (y->buf == 0 || y->offset % 4 == 0);
    const uint32_t v = (wide ? DASS_K_V4 : DASS_K_V1) | dass__cuda_stored(y);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_relu_run, "activation",
                            dass__cuda_flat_grid(c, (uint64_t)count / dass__cuda_width(v), v), sizeof(dass_k_relu),
                            &p));
    dass_k_relu *a = p;
    a->n = (size_t)count;
    a->act = act;
    return DASS_OK;
}

void dass__cuda_bind_act(const dass_graph *g, dass_node n, const dass__cuda_impl *impl, void *y)
{
    if (g->nodes[n].attr.conv.act == DASS_ACT_NONE)
        return;
    dass_k_relu *a = dass__cuda_args(impl, impl->n_stages - 1); /* it was added last */
    a->x = y;
    a->y = y;
}

static dass_status prepare_relu_bwd(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const int64_t count = dass_value_count(dass__cuda_in(g, n, 0));
    const uint32_t v = run_variant(g, n, 2, count);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_relu_bwd_run, "relu_bwd",
                            dass__cuda_flat_grid(c, (uint64_t)count / dass__cuda_width(v), v), sizeof(dass_k_relu_bwd),
                            &p));
    dass_k_relu_bwd *a = p;
    a->n = (size_t)count;
    a->act = g->nodes[n].attr.act;
    return DASS_OK;
}

static dass_status bind_relu_bwd(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                 void *const *args, void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_relu_bwd *a = dass__cuda_args(impl, 0);
    a->d_y = args[0];
    a->y = args[1];
    a->d_x = args[2];
    return DASS_OK;
}

/* ---- subsample: x -> y; subsample_bwd: d_y, acc -> d_x ---------------------------------------------------------- */

static dass_k_sampling sampling_of(const dass_value *x, const dass_value *y, const dass_scalar_attr *a)
{
    return (dass_k_sampling){
        .n = (uint32_t)x->dim[0],
        .c = (uint32_t)x->dim[1],
        .h = (uint32_t)x->dim[2],
        .w = (uint32_t)x->dim[3],
        .oh = (uint32_t)y->dim[2],
        .ow = (uint32_t)y->dim[3],
        .stride = (uint32_t)a->i,
        .offset = (uint32_t)a->j,
    };
}

static dass_status prepare_subsample(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *y = dass__cuda_out(g, n, 0);
    const uint32_t v = dass__cuda_variant(g, n);
    const dass_k_grid grid = dass__cuda_flat_grid(c, (uint64_t)dass_value_count(y) / dass__cuda_width(v), v);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_subsample_run, "subsample", grid, sizeof(dass_k_subsample), &p));
    ((dass_k_subsample *)p)->at = sampling_of(dass__cuda_in(g, n, 0), y, &g->nodes[n].attr.scalar);
    return DASS_OK;
}

DASS__BIND_X_Y(subsample, dass_k_subsample)

static dass_status prepare_subsample_bwd(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n,
                                         dass_kernel *k)
{
    const dass_value *d_x = dass__cuda_out(g, n, 0);
    const uint32_t v = dass__cuda_variant(g, n);
    const dass_k_grid grid = dass__cuda_flat_grid(c, (uint64_t)dass_value_count(d_x) / dass__cuda_width(v), v);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_subsample_bwd_run, "subsample_bwd", grid, sizeof(dass_k_subsample_bwd), &p));
    ((dass_k_subsample_bwd *)p)->at = sampling_of(d_x, dass__cuda_in(g, n, 0), &g->nodes[n].attr.scalar);
    return DASS_OK;
}

static dass_status bind_subsample_bwd(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                      void *const *args, void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_subsample_bwd *a = dass__cuda_args(impl, 0);
    a->d_y = args[0];
    a->acc = args[1];
    a->d_x = args[2];
    return DASS_OK;
}

/* ---- concat: x_0, x_1, ... -> y; slice: x -> y ------------------------------------------------------------------ */

static dass_status prepare_concat(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const uint32_t n_parts = g->nodes[n].n_in;
    const uint32_t v = dass__cuda_variant(g, n);
    int64_t largest = 0;
    for (uint32_t i = 0; i < n_parts; i++) {
        const int64_t count = dass_value_count(dass__cuda_in(g, n, i));
        largest = count > largest ? count : largest;
    }
    dass_k_grid grid = dass__cuda_flat_grid(c, (uint64_t)largest / dass__cuda_width(v), v);
    grid.y = n_parts;
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_channel_copy_run, "concat", grid, sizeof(dass_k_channel_copy), &p));
    dass_k_channel_copy *a = p;
    a->pixels = dass__cuda_pixels(dass__cuda_out(g, n, 0));
    a->n_parts = n_parts;
    if (n_parts <= DASS_K_PARTS)
        return DASS_OK;
    dass__cuda_impl_of(k)->own = dass_arena_alloc(mem, n_parts * sizeof(dass_k_channel_part));
    return dass__cuda_impl_of(k)->own != NULL ? DASS_OK : DASS_NOMEM;
}

static dass_status bind_concat(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                               void *ws)
{
    (void)ws;
    dass_k_channel_copy *a = dass__cuda_args(impl, 0);
    const uint32_t all = (uint32_t)dass__cuda_out(g, n, 0)->dim[1];
    const size_t size = dass_dtype_bytes(dass__cuda_out(g, n, 0)->dtype);
    unsigned char *to = args[a->n_parts];
    dass_k_channel_part *part = impl->own != NULL ? impl->own : a->part;
    for (uint32_t i = 0; i < a->n_parts; i++) {
        const uint32_t channels = (uint32_t)dass__cuda_in(g, n, i)->dim[1];
        part[i] = (dass_k_channel_part){.from = args[i], .to = to, .from_c = channels, .to_c = all, .c = channels};
        to += channels * size;
    }
    if (impl->own == NULL)
        return DASS_OK;
    const void *table = NULL;
    DASS_TRY(dass__cuda_table(c, impl, part, a->n_parts * sizeof *part, &table));
    a->table = table;
    return DASS_OK;
}

static dass_status prepare_slice(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *y = dass__cuda_out(g, n, 0);
    const uint32_t v = g->nodes[n].attr.scalar.i % 4 == 0 ? dass__cuda_variant(g, n) : DASS_K_V1 | dass__cuda_stored(y);
    const dass_k_grid grid = dass__cuda_flat_grid(c, (uint64_t)dass_value_count(y) / dass__cuda_width(v), v);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_channel_copy_run, "slice", grid, sizeof(dass_k_channel_copy), &p));
    dass_k_channel_copy *a = p;
    a->pixels = dass__cuda_pixels(y);
    a->n_parts = 1;
    return DASS_OK;
}

static dass_status bind_slice(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                              void *ws)
{
    (void)c, (void)ws;
    dass_k_channel_copy *a = dass__cuda_args(impl, 0);
    const uint32_t channels = (uint32_t)dass__cuda_out(g, n, 0)->dim[1];
    const size_t skip = (size_t)g->nodes[n].attr.scalar.i * dass_dtype_bytes(dass__cuda_out(g, n, 0)->dtype);
    a->part[0] = (dass_k_channel_part){
        .from = (const unsigned char *)args[0] + skip,
        .to = args[1],
        .from_c = (uint32_t)dass__cuda_in(g, n, 0)->dim[1],
        .to_c = channels,
        .c = channels,
    };
    return DASS_OK;
}

/* ---- gather: images, labels, order, step -> images, labels, samples --------------------------------------------- */

static bool at_16(const dass_value *v)
{
    return v->buf == 0 || v->offset % 16 == 0;
}

static dass_status prepare_gather(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    const dass_value *y = dass__cuda_out(g, n, 0);
    const size_t image = (size_t)dass_value_count(y) / (size_t)y->dim[0];
    const bool wide = image % 16 == 0 && at_16(x) && at_16(y);
    const uint32_t rows = (uint32_t)y->dim[0];
    const uint64_t chunks = (image / (wide ? 16 : 1) + 255) / 256;
    const uint32_t most = ((uint32_t)c->n_sm * 8 + rows - 1) / rows; /* one wave in all */
    const dass_k_grid grid = {rows, chunks < most ? (uint32_t)chunks : most, wide ? DASS_K_V4 : DASS_K_V1};
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_gather_run, "gather", grid, sizeof(dass_k_gather), &p));
    dass_k_gather *a = p;
    a->image = image;
    a->n = (uint32_t)x->dim[0];
    a->length = (uint32_t)dass__cuda_in(g, n, 2)->dim[0];
    return DASS_OK;
}

static dass_status bind_gather(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                               void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_gather *a = dass__cuda_args(impl, 0);
    a->images = args[0];
    a->labels = args[1];
    a->order = args[2];
    a->step = args[3];
    a->to_images = args[4];
    a->to_labels = args[5];
    a->to_samples = args[6];
    return DASS_OK;
}

/* ---- augment: images, samples, step -> y; drop_path: x, samples, step -> y -------------------------------------- */

static dass_status prepare_augment(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *y = dass__cuda_out(g, n, 0);
    const dass_augment_attr *at = &g->nodes[n].attr.augment;
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_augment_run, "augment",
                            dass__cuda_flat_grid(c, dass__cuda_pixels(y), DASS_K_V1 | dass__cuda_stored(y)),
                            sizeof(dass_k_augment), &p));
    dass_k_augment *a = p;
    a->n = (uint32_t)y->dim[0];
    a->c = (uint32_t)y->dim[1];
    a->h = (uint32_t)y->dim[2];
    a->w = (uint32_t)y->dim[3];
    a->purpose = DASS_RNG_AUGMENT;
    a->pad = at->pad;
    a->flip = at->flip;
    a->cutout = at->cutout;
    DASS_ASSERT(a->c <= DASS_K_AUGMENT_CHANNELS); /* the builder's limit too */
    for (uint32_t i = 0; i < a->c; i++) {
        a->mean[i] = (float)at->mean_std[i];
        a->std[i] = (float)at->mean_std[a->c + i];
    }
    return DASS_OK;
}

static dass_status bind_augment(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                void *const *args, void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_augment *a = dass__cuda_args(impl, 0);
    a->images = args[0];
    a->samples = args[1];
    a->step = args[2];
    a->dst = args[3];
    return DASS_OK;
}

static dass_status prepare_drop_path(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    const int64_t row = dass_value_count(x) / x->dim[0];
    const uint32_t v = run_variant(g, n, 1, row);
    const uint32_t samples = (uint32_t)x->dim[0];
    const dass_k_grid of_row = dass__cuda_flat_grid(c, (uint64_t)row / dass__cuda_width(v), v);
    const uint32_t most = ((uint32_t)c->n_sm * 8 + samples - 1) / samples; /* one wave in all */
    const uint64_t key = (uint64_t)g->nodes[n].attr.scalar.n;
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_drop_path_run, "drop_path",
                            (dass_k_grid){samples, of_row.x < most ? of_row.x : most, v}, sizeof(dass_k_drop_path),
                            &p));
    dass_k_drop_path *a = p;
    a->row = (size_t)row;
    a->fold = (uint32_t)key ^ (uint32_t)(key >> 32);
    a->purpose = DASS_RNG_DROP_PATH;
    return DASS_OK;
}

static dass_status bind_drop_path(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                  void *const *args, void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_drop_path *a = dass__cuda_args(impl, 0);
    a->x = args[0];
    a->samples = args[1];
    a->step = args[2];
    a->y = args[3];
    return DASS_OK;
}

#define ROW(OP, fn, can)                                                                         \
    {                                                                                            \
        .op = DASS_OP_##OP, .name = #fn, .fits = can, .prepare = prepare_##fn, .bind = bind_##fn \
    }
const dass__cuda_row dass__cuda_rows_shape[] = {
    ROW(RELU, relu, NULL),
    ROW(RELU_BWD, relu_bwd, NULL),
    ROW(SUBSAMPLE, subsample, dass__cuda_small),
    ROW(SUBSAMPLE_BWD, subsample_bwd, dass__cuda_small),
    ROW(CONCAT, concat, dass__cuda_small),
    ROW(SLICE, slice, dass__cuda_small),
    ROW(GATHER, gather, NULL),
    ROW(AUGMENT, augment, dass__cuda_small),
    ROW(DROP_PATH, drop_path, NULL),
    {.op = DASS_OP_NONE},
};
