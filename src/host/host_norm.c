/* Batch normalisation and channel sums: the rows, the split over threads, and the sums over items.
 *
 * One pass over each tensor. Statistics are shifted sums per item (the shift is the item's first pixel) combined with
 * Chan's formula in double, so a mean far from zero costs no digits. Invariant: results do not depend on the number of
 * threads (items are fixed by the shape, partial sums are added in index order).
 */
#include "host_items.h"

typedef struct norm_impl {
    dass__impl head;
    dass__items it;
    size_t part; /* bytes of partial sums per item */
} norm_impl;

static void *arg_in(const norm_impl *m, uint32_t i)
{
    return m->head.arg[i];
}
static void *arg_out(const norm_impl *m, uint32_t i)
{
    return m->head.arg[m->head.n_in + i];
}

/* Element `i` of a channel's positions in the period, summed. */
static double fold(const double *s, const dass__items *it, int32_t c)
{
    double sum = 0;
    for (int32_t i = c; i < it->period; i += it->c)
        sum += s[i];
    return sum;
}

/* ---- sums --------------------------------------------------------------------------------------------------- */

/* Partial sums of an item in scratch: s, then q, then the shift (a period each). */
static double *part_of(const norm_impl *m, int64_t i)
{
    return (double *)((char *)m->head.ws + (size_t)i * m->part);
}

static dass_status prepare_sums(dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                                const dass__items *it, dass_status (*run)(dass_backend *be, void *impl))
{
    norm_impl *m = dass__impl_run(mem, g, n, sizeof *m, k, run);
    if (!m)
        return DASS_NOMEM;
    m->it = *it;
    m->part = dass__line((size_t)it->period * (2 * sizeof(double) + sizeof(float)));
    /* behind the partial sums: three periods of coefficients, used by bwd_reduce */
    k->ws_bytes = (size_t)it->count * m->part + dass__line(3 * (size_t)it->period * sizeof(float));
    return DASS_OK;
}

static void stats_item(const dass_host *h, const norm_impl *m, int64_t i)
{
    const dass__items *it = &m->it;
    const float *x = (const float *)arg_in(m, 0) + i * it->step;
    double *s = part_of(m, i);
    float *shift = (float *)(s + 2 * it->period);
    memset(s, 0, 2 * (size_t)it->period * sizeof(double));
    dass__spread(it, x, 0, shift);
    h->vec->norm_stats(x, dass__item_len(it, i), it->period, shift, s, s + it->period);
}

/* Mean and 1/sqrt(var + eps) of a channel from its shifted sums per item: the mean first, then the squares about it
 * from those about each item's own mean (Chan, Golub and LeVeque 1983). */
static void stats_channel(const norm_impl *m, int32_t c, double eps, float *mean, float *rstd)
{
    const dass__items *it = &m->it;
    const double n = (double)it->n_pix;
    double sum = 0;
    for (int64_t i = 0; i < it->count; i++) {
        const double *s = part_of(m, i);
        const float *shift = (const float *)(s + 2 * it->period);
        sum += fold(s, it, c) + (double)(dass__item_len(it, i) / it->c) * (double)shift[c];
    }
    const double mu = sum / n;
    double m2 = 0;
    for (int64_t i = 0; i < it->count; i++) {
        const double *s = part_of(m, i);
        const float *shift = (const float *)(s + 2 * it->period);
        const double n_i = (double)(dass__item_len(it, i) / it->c);
        const double about = fold(s, it, c) / n_i; /* the item's mean, seen from the shift */
        const double own = fold(s + it->period, it, c) - about * about * n_i;
        const double delta = (double)shift[c] + about - mu;
        m2 += (own < 0 ? 0 : own) + delta * delta * n_i;
    }
    mean[c] = (float)mu;
    rstd[c] = (float)(1 / sqrt(m2 / n + eps));
}

static dass_status run_stats(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const norm_impl *m = impl;
    const double eps = m->head.g->nodes[m->head.n].attr.bn.eps;
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->it.count; i++)
        stats_item(h, m, i);
    for (int32_t c = 0; c < m->it.c; c++)
        stats_channel(m, c, eps, arg_out(m, 0), arg_out(m, 1));
    return DASS_OK;
}

static dass_status run_channel_sum(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const norm_impl *m = impl;
    const dass__items *it = &m->it;
    float *dst = arg_out(m, 0);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < it->count; i++) {
        double *s = part_of(m, i);
        memset(s, 0, (size_t)it->period * sizeof(double));
        h->vec->norm_sum((const float *)arg_in(m, 0) + i * it->step, dass__item_len(it, i), it->period, s);
    }
    for (int32_t c = 0; c < it->c; c++) {
        double sum = 0;
        for (int64_t i = 0; i < it->count; i++)
            sum += fold(part_of(m, i), it, c);
        dst[c] = (float)sum;
    }
    return DASS_OK;
}

/* ---- coefficients -------------------------------------------------------------------------------------------- */

/* mean, rstd, gamma, beta from input `first` on, into three periods at `coef`. rstd NULL there means 1/sqrt(var + eps)
 * with var in its place: `infer`. */
static dass__v_bn spread_bn(const norm_impl *m, uint32_t first, bool infer, float *coef)
{
    const dass__items *it = &m->it;
    const dass_bn_attr *a = &m->head.g->nodes[m->head.n].attr.bn;
    const float *rstd = arg_in(m, first + 1);
    const float *gamma = arg_in(m, first + 2);
    float *scale = coef + it->period;
    dass__spread(it, arg_in(m, first), 0, coef);
    for (int32_t c = 0; c < it->c; c++) {
        const double r = infer ? 1 / sqrt((double)rstd[c] + a->eps) : (double)rstd[c];
        scale[c] = (float)((gamma ? (double)gamma[c] : 1) * r);
    }
    for (int32_t c = it->c; c < it->period; c++)
        scale[c] = scale[c - it->c];
    dass__spread(it, arg_in(m, first + 3), 0, coef + 2 * it->period);
    return (dass__v_bn){.mean = coef, .a = scale, .b = coef + 2 * it->period, .period = it->period, .act = a->act};
}

static dass_status prepare_map(dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k, const dass__items *it,
                               dass_status (*run)(dass_backend *be, void *impl))
{
    norm_impl *m = dass__impl_run(mem, g, n, sizeof *m, k, run);
    if (!m)
        return DASS_NOMEM;
    m->it = *it;
    k->ws_bytes = 5 * (size_t)it->period * sizeof(float);
    return DASS_OK;
}

static void apply(const dass_host *h, const norm_impl *m, bool infer)
{
    const dass__items *it = &m->it;
    const dass__v_bn bn = spread_bn(m, 1, infer, m->head.ws);
    const float *x = arg_in(m, 0);
    float *dst = arg_out(m, 0);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < it->count; i++)
        h->vec->norm_apply(&bn, x + i * it->step, dass__item_len(it, i), dst + i * it->step);
}

static dass_status run_apply(dass_backend *be, void *impl)
{
    apply((const dass_host *)be, impl, false);
    return DASS_OK;
}

static dass_status run_infer(dass_backend *be, void *impl)
{
    apply((const dass_host *)be, impl, true);
    return DASS_OK;
}

/* ---- gradient ------------------------------------------------------------------------------------------------ */

static dass_status run_bwd_reduce(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const norm_impl *m = impl;
    const dass__items *it = &m->it;
    const dass__v_bn bn = spread_bn(m, 2, false, (float *)((char *)m->head.ws + (size_t)it->count * m->part));
    const float *rstd = arg_in(m, 3);
    float *d_beta = arg_out(m, 0);
    float *d_gamma = arg_out(m, 1);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < it->count; i++) {
        double *s = part_of(m, i);
        memset(s, 0, 2 * (size_t)it->period * sizeof(double));
        h->vec->norm_reduce(&bn, (const float *)arg_in(m, 0) + i * it->step, (const float *)arg_in(m, 1) + i * it->step,
                            dass__item_len(it, i), s, s + it->period);
    }
    for (int32_t c = 0; c < it->c; c++) {
        double s = 0;
        double q = 0;
        for (int64_t i = 0; i < it->count; i++) {
            s += fold(part_of(m, i), it, c);
            q += fold(part_of(m, i) + it->period, it, c);
        }
        if (d_beta)
            d_beta[c] = (float)s;
        if (d_gamma)
            d_gamma[c] = (float)(q * (double)rstd[c]);
    }
    return DASS_OK;
}

static dass_status run_bwd_apply(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const norm_impl *m = impl;
    const dass__items *it = &m->it;
    const dass__v_bn bn = spread_bn(m, 2, false, m->head.ws);
    float *k1 = (float *)m->head.ws + 3 * it->period;
    float *k2 = k1 + it->period;
    const float *rstd = arg_in(m, 3);
    const float *d_beta = arg_in(m, 6);
    const float *d_gamma = arg_in(m, 7);
    for (int32_t c = 0; c < it->c; c++) {
        const double a = (double)bn.a[c] / (double)it->n_pix;
        k1[c] = (float)(-a * (double)d_beta[c]);
        k2[c] = (float)(-a * (double)d_gamma[c] * (double)rstd[c]);
    }
    for (int32_t c = it->c; c < it->period; c++) {
        k1[c] = k1[c - it->c];
        k2[c] = k2[c - it->c];
    }
    const float *d_y = arg_in(m, 0);
    const float *x = arg_in(m, 1);
    float *d_x = arg_out(m, 0);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < it->count; i++)
        h->vec->norm_bwd(&bn, k1, k2, d_y + i * it->step, x + i * it->step, dass__item_len(it, i), d_x + i * it->step);
    return DASS_OK;
}

/* run_mean += momentum (mean - run_mean), run_var likewise with the unbiased variance behind rstd. A single element has
 * no unbiased variance: the biased one is taken. */
static dass_status run_running(dass_backend *be, void *impl)
{
    (void)be;
    const norm_impl *m = impl;
    const dass_bn_attr *a = &m->head.g->nodes[m->head.n].attr.bn;
    const float *mean = arg_in(m, 0);
    const float *rstd = arg_in(m, 1);
    const float *old_mean = arg_in(m, 2);
    const float *old_var = arg_in(m, 3);
    float *run_mean = arg_out(m, 0);
    float *run_var = arg_out(m, 1);
    const double unbiased = a->count > 1 ? (double)a->count / (double)(a->count - 1) : 1;
    for (int32_t c = 0; c < m->it.c; c++) {
        const double r = (double)rstd[c];
        const double var = (1 / (r * r) - a->eps) * unbiased;
        const double mu = (double)old_mean[c];
        const double v = (double)old_var[c];
        run_mean[c] = (float)(mu + a->momentum * ((double)mean[c] - mu));
        run_var[c] = (float)(v + a->momentum * (var - v));
    }
    return DASS_OK;
}

/* ---- rows ---------------------------------------------------------------------------------------------------- */

#define PREPARE(name, how, input)                                                                                      \
    static dass_status prepare_##name(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k) \
    {                                                                                                                  \
        const dass__items it = dass__items_of(h, dass__in(g, n, input));                                               \
        return how(mem, g, n, k, &it, run_##name);                                                                     \
    }
PREPARE(stats, prepare_sums, 0)
PREPARE(apply, prepare_map, 0)
PREPARE(infer, prepare_map, 0)
PREPARE(bwd_reduce, prepare_sums, 1)
PREPARE(bwd_apply, prepare_map, 1)
PREPARE(channel_sum, prepare_sums, 0)

static dass_status prepare_running(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass__items it = dass__items_cut(1, (int32_t)dass_value_count(dass__in(g, n, 0)), h->vec->lanes);
    norm_impl *m = dass__impl_run(mem, g, n, sizeof *m, k, run_running);
    if (!m)
        return DASS_NOMEM;
    m->it = it;
    return DASS_OK;
}

static bool fits(const dass_host *h, const dass_graph *g, dass_node n)
{
    (void)h;
    return dass__is_f32_nhwc(dass__in(g, n, 0));
}

const dass__row dass__rows_norm[] = {
    {DASS_OP_BN_STATS, "bn_stats", fits, prepare_stats, NULL, NULL},
    {DASS_OP_BN_APPLY, "bn_apply", fits, prepare_apply, NULL, NULL},
    {DASS_OP_BN_INFER, "bn_infer", fits, prepare_infer, NULL, NULL},
    {DASS_OP_BN_RUNNING, "bn_running", NULL, prepare_running, NULL, NULL},
    {DASS_OP_BN_BWD_REDUCE, "bn_bwd_reduce", fits, prepare_bwd_reduce, NULL, NULL},
    {DASS_OP_BN_BWD_APPLY, "bn_bwd_apply", fits, prepare_bwd_apply, NULL, NULL},
    {DASS_OP_CHANNEL_SUM, "channel_sum", fits, prepare_channel_sum, NULL, NULL},
    {DASS_OP_NONE, NULL, NULL, NULL, NULL, NULL},
};
