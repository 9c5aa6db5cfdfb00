/* Pools, activations, sampling, concatenation, augmentation and drop-path: the rows, and the split over threads.
 *
 * Everything here is a map without sums across items, except for the mean over one image, so nothing depends on the
 * number of threads. Pools, sampling and augmentation go image by image; scratch is one block per thread.
 */
#include "host_items.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#include "dass/rng.h"

typedef struct pool_impl {
    dass__impl head;
    dass__v_pool p;
    dass__items it;
    int64_t n;      /* images */
    size_t scratch; /* bytes per thread */
    float *table;   /* augment: 256 values per channel */
} pool_impl;

static void *arg_in(const pool_impl *m, uint32_t i)
{
    return m->head.arg[i];
}
static void *arg_out(const pool_impl *m, uint32_t i)
{
    return m->head.arg[m->head.n_in + i];
}
static const dass_attr *attr(const pool_impl *m)
{
    return &m->head.g->nodes[m->head.n].attr;
}

/* Scratch of the calling thread. */
static void *scratch(const pool_impl *m)
{
#ifdef _OPENMP
    return (char *)m->head.ws + (size_t)omp_get_thread_num() * m->scratch;
#else
    return m->head.ws;
#endif
}

/* A tensor's image i. */
static int64_t big(const pool_impl *m, int64_t i)
{
    return i * m->p.h * m->p.w * m->p.c;
}
static int64_t small(const pool_impl *m, int64_t i)
{
    return i * m->p.oh * m->p.ow * m->p.c;
}

/* ---- pools --------------------------------------------------------------------------------------------------- */

static dass_status run_max_pool(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const float *x = arg_in(m, 0);
    float *y = arg_out(m, 0);
    uint8_t *index = arg_out(m, 1);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->n; i++)
        h->vec->max_pool(&m->p, x + big(m, i), y + small(m, i), index ? index + small(m, i) : NULL, scratch(m));
    return DASS_OK;
}

static dass_status run_avg_pool(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const float *x = arg_in(m, 0);
    float *y = arg_out(m, 0);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->n; i++)
        h->vec->avg_pool(&m->p, x + big(m, i), y + small(m, i), scratch(m));
    return DASS_OK;
}

static dass_status run_max_pool_bwd(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const float *d_y = arg_in(m, 0);
    const uint8_t *index = arg_in(m, 1);
    const float *acc = arg_in(m, 2);
    float *d_x = arg_out(m, 0);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->n; i++)
        h->vec->max_pool_bwd(&m->p, d_y + small(m, i), index + small(m, i), acc ? acc + big(m, i) : NULL,
                             d_x + big(m, i), scratch(m));
    return DASS_OK;
}

static dass_status run_avg_pool_bwd(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const float *d_y = arg_in(m, 0);
    const float *acc = arg_in(m, 1);
    float *d_x = arg_out(m, 0);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->n; i++)
        h->vec->avg_pool_bwd(&m->p, d_y + small(m, i), acc ? acc + big(m, i) : NULL, d_x + big(m, i), scratch(m));
    return DASS_OK;
}

/* Mean over an image: sums per position of a period in double, folded onto the channels. */
static dass_status run_global_pool(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const dass__items *it = &m->it;
    const float *x = arg_in(m, 0);
    float *y = arg_out(m, 0);
    const int64_t pixels = (int64_t)m->p.h * m->p.w;
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->n; i++) {
        double *s = scratch(m);
        memset(s, 0, (size_t)it->period * sizeof *s);
        h->vec->norm_sum(x + big(m, i), pixels * it->c, it->period, s);
        for (int32_t j = it->c; j < it->period; j++)
            s[j % it->c] += s[j];
        for (int32_t c = 0; c < it->c; c++)
            y[i * it->c + c] = (float)(s[c] / (double)pixels);
    }
    return DASS_OK;
}

static dass_status run_global_pool_bwd(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const dass__items *it = &m->it;
    const float *d_y = arg_in(m, 0);
    const float *acc = arg_in(m, 1);
    float *d_x = arg_out(m, 0);
    const int64_t pixels = (int64_t)m->p.h * m->p.w;
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->n; i++) {
        float *g = scratch(m);
        for (int32_t c = 0; c < it->c; c++)
            g[c] = (float)((double)d_y[i * it->c + c] / (double)pixels);
        for (int32_t j = it->c; j < it->period; j++)
            g[j] = g[j - it->c];
        h->vec->add_period(acc ? acc + big(m, i) : NULL, g, pixels * it->c, it->period, d_x + big(m, i));
    }
    return DASS_OK;
}

/* ---- activations --------------------------------------------------------------------------------------------- */

static dass_status run_relu(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const dass__items *it = &m->it;
    const float *x = arg_in(m, 0);
    float *y = arg_out(m, 0);
    const int act = attr(m)->act;
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < it->count; i++)
        h->vec->relu(x + i * it->step, dass__item_len(it, i), act, y + i * it->step);
    return DASS_OK;
}

static dass_status run_relu_bwd(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const dass__items *it = &m->it;
    const float *d_y = arg_in(m, 0);
    const float *y = arg_in(m, 1);
    float *d_x = arg_out(m, 0);
    const int act = attr(m)->act;
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < it->count; i++)
        h->vec->relu_bwd(d_y + i * it->step, y + i * it->step, dass__item_len(it, i), act, d_x + i * it->step);
    return DASS_OK;
}

/* ---- pixels and channels moved about ------------------------------------------------------------------------- */

static dass_status run_subsample(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const dass__v_pool *p = &m->p;
    const float *x = arg_in(m, 0);
    float *y = arg_out(m, 0);
    const int64_t offset = attr(m)->scalar.j;
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->n; i++)
        for (int64_t r = 0; r < p->oh; r++)
            h->vec->copy_rows(y + small(m, i) + r * p->ow * p->c, p->c,
                              x + big(m, i) + ((offset + r * p->stride) * p->w + offset) * p->c,
                              (int64_t)p->stride * p->c, p->c, p->ow);
    return DASS_OK;
}

static dass_status run_subsample_bwd(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const dass__v_pool *p = &m->p;
    const float *d_y = arg_in(m, 0);
    const float *acc = arg_in(m, 1);
    float *d_x = arg_out(m, 0);
    const int64_t offset = attr(m)->scalar.j;
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->n; i++) {
        float *d = d_x + big(m, i);
        const size_t bytes = (size_t)big(m, 1) * sizeof(float);
        if (!acc)
            memset(d, 0, bytes);
        else if (acc != d_x)
            memcpy(d, acc + big(m, i), bytes);
        for (int64_t r = 0; r < p->oh; r++)
            h->vec->add_rows(d + ((offset + r * p->stride) * p->w + offset) * p->c, (int64_t)p->stride * p->c,
                             d_y + small(m, i) + r * p->ow * p->c, p->c, p->c, p->ow);
    }
    return DASS_OK;
}

static dass_status run_concat(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const dass__items *it = &m->it;
    float *y = arg_out(m, 0);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < it->count; i++) {
        const int64_t pixel = i * it->step / it->c;
        const int64_t pixels = dass__item_len(it, i) / it->c;
        int64_t first = 0;
        for (uint32_t t = 0; t < m->head.n_in; t++) {
            const int64_t c = dass__in(m->head.g, m->head.n, t)->dim[1];
            h->vec->copy_rows(y + pixel * it->c + first, it->c, (const float *)arg_in(m, t) + pixel * c, c, c, pixels);
            first += c;
        }
    }
    return DASS_OK;
}

static dass_status run_slice(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const dass__items *it = &m->it;
    const int64_t from = dass__in(m->head.g, m->head.n, 0)->dim[1];
    const float *x = (const float *)arg_in(m, 0) + attr(m)->scalar.i;
    float *y = arg_out(m, 0);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < it->count; i++) {
        const int64_t pixel = i * it->step / it->c;
        h->vec->copy_rows(y + pixel * it->c, it->c, x + pixel * from, from, it->c, dass__item_len(it, i) / it->c);
    }
    return DASS_OK;
}

/* ---- augmentation -------------------------------------------------------------------------------------------- */

/* Where one sample's output comes from. */
typedef struct view {
    int32_t dy, dx; /* output row h reads image row h + dy */
    bool mirror;
    int32_t top, bottom, left, right; /* zeroed square, in the output */
} view;

static view view_of(const dass_augment_attr *a, const dass_step_block *step, int32_t sample, int32_t h, int32_t w)
{
    const uint32_t counter[4] = {(uint32_t)sample, step->epoch, 0, 0};
    const uint32_t key[2] = {(uint32_t)step->seed ^ (uint32_t)DASS_RNG_AUGMENT, (uint32_t)(step->seed >> 32)};
    uint32_t r[4];
    dass_philox(counter, key, r);
    view v = {0};
    if (a->pad > 0) {
        const uint32_t span = 2 * (uint32_t)a->pad + 1;
        v.dy = (int32_t)(r[0] % span) - a->pad;
        v.dx = (int32_t)((r[0] >> 16) % span) - a->pad;
    }
    v.mirror = a->flip && (r[1] & 1);
    if (a->cutout > 0) {
        v.top = (int32_t)(r[2] % (uint32_t)h) - a->cutout / 2;
        v.left = (int32_t)(r[3] % (uint32_t)w) - a->cutout / 2;
        v.bottom = v.top + a->cutout;
        v.right = v.left + a->cutout;
    }
    return v;
}

static void augment_image(const pool_impl *m, const view *v, const uint8_t *src, float *dst)
{
    const int32_t n_h = m->p.h;
    const int32_t n_w = m->p.w;
    const int32_t n_c = m->p.c;
    for (int32_t h = 0; h < n_h; h++)
        for (int32_t w = 0; w < n_w; w++, dst += n_c) {
            const int32_t ih = h + v->dy;
            const int32_t iw = (v->mirror ? n_w - 1 - w : w) + v->dx;
            const bool inside = ih >= 0 && ih < n_h && iw >= 0 && iw < n_w;
            const uint8_t *pixel = src + ((int64_t)ih * n_w + iw) * n_c * (inside ? 1 : 0);
            if (h >= v->top && h < v->bottom && w >= v->left && w < v->right)
                for (int32_t c = 0; c < n_c; c++)
                    dst[c] = 0;
            else
                for (int32_t c = 0; c < n_c; c++)
                    dst[c] = m->table[c * 256 + (inside ? pixel[c] : 0)];
        }
}

static dass_status run_augment(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const uint8_t *images = arg_in(m, 0);
    const int32_t *samples = arg_in(m, 1);
    const dass_step_block *step = arg_in(m, 2);
    float *dst = arg_out(m, 0);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->n; i++) {
        const view v = view_of(&attr(m)->augment, step, samples[i], m->p.h, m->p.w);
        augment_image(m, &v, images + big(m, i), dst + big(m, i));
    }
    return DASS_OK;
}

/* ---- drop-path ----------------------------------------------------------------------------------------------- */

/* Factor of one sample's row, as graph.h defines it. */
static float path_factor(const dass_step_block *step, int32_t sample, uint64_t name)
{
    const uint32_t counter[4] = {(uint32_t)sample, step->epoch, step->step, (uint32_t)name ^ (uint32_t)(name >> 32)};
    const uint32_t key[2] = {(uint32_t)step->seed ^ (uint32_t)DASS_RNG_DROP_PATH, (uint32_t)(step->seed >> 32)};
    uint32_t r[4];
    dass_philox(counter, key, r);
    return r[0] / 4294967296.0 < step->drop_path ? 0 : (float)(1 / (1 - step->drop_path));
}

/* Bound by memory: the compiler's vectors are enough, and a dropped row is not read. */
static dass_status run_drop_path(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const pool_impl *m = impl;
    const float *x = arg_in(m, 0);
    const int32_t *samples = arg_in(m, 1);
    const dass_step_block *step = arg_in(m, 2);
    float *y = arg_out(m, 0);
    const uint64_t name = (uint64_t)attr(m)->scalar.n;
    const int64_t row = big(m, 1);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->n; i++) {
        const float f = path_factor(step, samples[i], name);
        const float *from = x + i * row;
        float *to = y + i * row;
        if (f == 0) {
            memset(to, 0, (size_t)row * sizeof *to);
            continue;
        }
#pragma omp simd
        for (int64_t j = 0; j < row; j++)
            to[j] = f * from[j];
    }
    return DASS_OK;
}

/* ---- preparation and rows ------------------------------------------------------------------------------------ */

static pool_impl *make(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                       dass_status (*run)(dass_backend *be, void *impl), const dass_value *from, const dass_value *to)
{
    pool_impl *m = dass__impl_run(mem, g, n, sizeof *m, k, run);
    if (!m)
        return NULL;
    m->n = from->dim[0];
    m->p = (dass__v_pool){.c = from->dim[1], .h = from->dim[2], .w = from->dim[3], .oh = to->dim[2], .ow = to->dim[3]};
    m->it = dass__items_of(h, from);
    return m;
}

/* big: the value of the larger images, small: of the smaller ones. */
static dass_status prepare_pool(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                                dass_status (*run)(dass_backend *be, void *impl), const dass_value *from,
                                const dass_value *to)
{
    pool_impl *m = make(h, mem, g, n, k, run, from, to);
    if (!m)
        return DASS_NOMEM;
    const dass_pool_attr *a = &g->nodes[n].attr.pool;
    m->p.k = a->k;
    m->p.stride = a->stride;
    m->p.pad = a->pad;
    m->scratch = dass__line((size_t)dass__pool_scratch(&m->p) * sizeof(float));
    k->ws_bytes = (size_t)h->n_threads * m->scratch;
    return DASS_OK;
}

static dass_status prepare_global(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                                  dass_status (*run)(dass_backend *be, void *impl), const dass_value *from,
                                  const dass_value *to)
{
    pool_impl *m = make(h, mem, g, n, k, run, from, to);
    if (!m)
        return DASS_NOMEM;
    m->scratch = dass__line((size_t)m->it.period * sizeof(double));
    k->ws_bytes = (size_t)h->n_threads * m->scratch;
    return DASS_OK;
}

static dass_status prepare_sample(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                                  dass_status (*run)(dass_backend *be, void *impl), const dass_value *from,
                                  const dass_value *to)
{
    pool_impl *m = make(h, mem, g, n, k, run, from, to);
    if (!m)
        return DASS_NOMEM;
    m->p.stride = g->nodes[n].attr.scalar.i;
    return DASS_OK;
}

static dass_status prepare_items(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                                 dass_status (*run)(dass_backend *be, void *impl), const dass_value *from,
                                 const dass_value *to)
{
    return make(h, mem, g, n, k, run, from, to) ? DASS_OK : DASS_NOMEM;
}

static dass_status prepare_flat(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                                dass_status (*run)(dass_backend *be, void *impl), const dass_value *from,
                                const dass_value *to)
{
    pool_impl *m = make(h, mem, g, n, k, run, from, to);
    if (!m)
        return DASS_NOMEM;
    m->it = dass__items_cut(dass_value_count(from), 1, h->vec->lanes);
    return DASS_OK;
}

/* The 256 values of each channel, as the formula gives them in double; 0 also stands for the padding. */
static dass_status prepare_table(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                                 dass_status (*run)(dass_backend *be, void *impl), const dass_value *from,
                                 const dass_value *to)
{
    pool_impl *m = make(h, mem, g, n, k, run, from, to);
    if (!m)
        return DASS_NOMEM;
    const double *mean_std = g->nodes[n].attr.augment.mean_std;
    m->table = dass_arena_alloc(mem, (size_t)m->p.c * 256 * sizeof *m->table);
    if (!m->table)
        return DASS_NOMEM;
    for (int32_t c = 0; c < m->p.c; c++)
        for (int v = 0; v < 256; v++)
            m->table[c * 256 + v] = (float)((v / 255.0 - mean_std[c]) / mean_std[m->p.c + c]);
    return DASS_OK;
}

#define PREPARE(name, how, from, to)                                                                                   \
    static dass_status prepare_##name(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k) \
    {                                                                                                                  \
        return how(h, mem, g, n, k, run_##name, from(g, n, 0), to(g, n, 0));                                           \
    }
PREPARE(max_pool, prepare_pool, dass__in, dass__out)
PREPARE(avg_pool, prepare_pool, dass__in, dass__out)
PREPARE(max_pool_bwd, prepare_pool, dass__out, dass__in)
PREPARE(avg_pool_bwd, prepare_pool, dass__out, dass__in)
PREPARE(global_pool, prepare_global, dass__in, dass__out)
PREPARE(global_pool_bwd, prepare_global, dass__out, dass__in)
PREPARE(subsample, prepare_sample, dass__in, dass__out)
PREPARE(subsample_bwd, prepare_sample, dass__out, dass__in)
PREPARE(concat, prepare_items, dass__out, dass__out)
PREPARE(slice, prepare_items, dass__out, dass__out)
PREPARE(relu, prepare_flat, dass__out, dass__out)
PREPARE(relu_bwd, prepare_flat, dass__out, dass__out)
PREPARE(augment, prepare_table, dass__out, dass__out)
PREPARE(drop_path, prepare_items, dass__out, dass__out)

static bool fits(const dass_host *h, const dass_graph *g, dass_node n)
{
    (void)h;
    return dass__is_f32_nhwc(dass__out(g, n, 0));
}

static bool fits_flat(const dass_host *h, const dass_graph *g, dass_node n)
{
    (void)h;
    return dass__out(g, n, 0)->dtype == DASS_F32;
}

/* Every window must hold a position of the image, and a code must fit a byte. */
static bool fits_pool(const dass_host *h, const dass_graph *g, dass_node n)
{
    const dass_pool_attr *a = &g->nodes[n].attr.pool;
    return fits(h, g, n) && a->k >= 1 && a->k <= DASS__POOL_MAX_K && a->stride >= 1 && a->pad >= 0 && a->pad < a->k;
}

const dass__row dass__rows_pool[] = {
    {DASS_OP_MAX_POOL, "max_pool", fits_pool, prepare_max_pool, NULL, NULL},
    {DASS_OP_AVG_POOL, "avg_pool", fits_pool, prepare_avg_pool, NULL, NULL},
    {DASS_OP_MAX_POOL_BWD, "max_pool_bwd", fits_pool, prepare_max_pool_bwd, NULL, NULL},
    {DASS_OP_AVG_POOL_BWD, "avg_pool_bwd", fits_pool, prepare_avg_pool_bwd, NULL, NULL},
    {DASS_OP_GLOBAL_POOL, "global_pool", fits, prepare_global_pool, NULL, NULL},
    {DASS_OP_GLOBAL_POOL_BWD, "global_pool_bwd", fits, prepare_global_pool_bwd, NULL, NULL},
    {DASS_OP_SUBSAMPLE, "subsample", fits, prepare_subsample, NULL, NULL},
    {DASS_OP_SUBSAMPLE_BWD, "subsample_bwd", fits, prepare_subsample_bwd, NULL, NULL},
    {DASS_OP_CONCAT, "concat", fits, prepare_concat, NULL, NULL},
    {DASS_OP_SLICE, "slice", fits, prepare_slice, NULL, NULL},
    {DASS_OP_RELU, "relu", fits_flat, prepare_relu, NULL, NULL},
    {DASS_OP_RELU_BWD, "relu_bwd", fits_flat, prepare_relu_bwd, NULL, NULL},
    {DASS_OP_AUGMENT, "augment", fits, prepare_augment, NULL, NULL},
    {DASS_OP_DROP_PATH, "drop_path", fits, prepare_drop_path, NULL, NULL},
    {DASS_OP_NONE, NULL, NULL, NULL, NULL, NULL},
};
