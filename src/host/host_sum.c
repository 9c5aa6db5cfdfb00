/* Weighted sums: wsum, gsum, and the reductions behind wsum's gradient.
 *
 * Both sums become the same thing: distinct tensors ("streams"), each with one coefficient per channel, and one bias
 * per channel; terms that share a tensor share its coefficient. A batch-normalised term f (gamma (x - mean) rstd +
 * beta) is the stream x with a = f gamma rstd and f beta - a mean added to the bias; a gradient term A d + B x + C0 is
 * two streams. Coefficients and bias are formed in double once a run. Invariant: results do not depend on the number of
 * threads.
 */
#include "host_items.h"

/* ---- sums ---------------------------------------------------------------------------------------------------- */

/* One contribution to the coefficient of a stream. */
typedef enum share_kind { SHARE_FACTOR, SHARE_NORM, SHARE_COEF_A, SHARE_COEF_B } share_kind;
typedef struct share {
    int32_t stream;
    share_kind kind;
    int32_t index; /* of the factor in p, -1 = 1 */
    uint32_t in;   /* norm: input number of the mean; coef: of the coefficients */
} share;

typedef struct sum_impl {
    dass__impl head;
    dass__items it;
    share *shares; /* ordered by stream */
    uint32_t n_shares;
    uint32_t *stream_in; /* input number of each stream's tensor */
    const float **x;     /* per stream, in the order the loop takes them */
    int32_t *place;      /* position of stream i in x */
    int32_t n_x;
} sum_impl;

/* Where the scratch of a sum lies. */
typedef struct sum_scratch {
    double *a, *bias_sum; /* (C) each */
    float *bias, *coef;   /* a period, n_x periods */
    size_t bytes;
} sum_scratch;

static sum_scratch sum_layout(const sum_impl *m)
{
    char *ws = m->head.ws;
    const size_t c_bytes = dass__line((size_t)m->it.c * sizeof(double));
    const size_t p_bytes = dass__line((size_t)m->it.period * sizeof(float));
    return (sum_scratch){.a = (double *)ws,
                         .bias_sum = (double *)(ws + c_bytes),
                         .bias = (float *)(ws + 2 * c_bytes),
                         .coef = (float *)(ws + 2 * c_bytes + p_bytes),
                         .bytes = 2 * c_bytes + p_bytes * (size_t)(m->n_x + 1)};
}

static int32_t stream_of(sum_impl *m, uint32_t in)
{
    const dass_val *v = dass_node_in(m->head.g, m->head.n);
    for (int32_t s = 0; s < m->n_x; s++)
        if (v[m->stream_in[s]] == v[in])
            return s;
    m->stream_in[m->n_x] = in;
    return m->n_x++;
}

static void add_share(sum_impl *m, uint32_t tensor, share_kind kind, int32_t index, uint32_t in)
{
    const int32_t stream = stream_of(m, tensor);
    uint32_t at = m->n_shares++;
    for (; at > 0 && m->shares[at - 1].stream > stream; at--)
        m->shares[at] = m->shares[at - 1];
    m->shares[at] = (share){.stream = stream, .kind = kind, .index = index, .in = in};
}

static void add_wsum_term(sum_impl *m, uint32_t k, int32_t index)
{
    const dass_val *v = dass_node_in(m->head.g, m->head.n);
    const uint32_t in = 1 + 5 * k;
    add_share(m, in, v[in + 1] ? SHARE_NORM : SHARE_FACTOR, index, in + 1);
}

static void add_gsum_term(sum_impl *m, uint32_t k, int32_t index)
{
    const dass_val *v = dass_node_in(m->head.g, m->head.n);
    const uint32_t in = 1 + 3 * k;
    if (v[in + 2]) {
        add_share(m, in, SHARE_COEF_A, -1, in + 2);
        add_share(m, in + 1, SHARE_COEF_B, -1, in + 2);
    } else {
        add_share(m, in, SHARE_FACTOR, index, 0);
    }
}

/* a (C) += the share, bias (C) += what it adds to every pixel. */
static void add_coefficients(const sum_impl *m, const share *s, double *a, double *bias)
{
    void **arg = m->head.arg;
    const float *p = arg[0];
    const int32_t n_c = m->it.c;
    const double f = s->index < 0 ? 1 : (double)p[s->index];
    const float *c0 = arg[s->in]; /* mean, or the coefficients; unused for a plain factor */
    switch (s->kind) {
    case SHARE_FACTOR:
        for (int32_t c = 0; c < n_c; c++)
            a[c] += f;
        break;
    case SHARE_NORM: {
        const float *rstd = arg[s->in + 1];
        const float *gamma = arg[s->in + 2];
        const float *beta = arg[s->in + 3];
        for (int32_t c = 0; c < n_c; c++) {
            const double scale = f * (gamma ? (double)gamma[c] : 1) * (double)rstd[c];
            a[c] += scale;
            bias[c] += f * (beta ? (double)beta[c] : 0) - scale * (double)c0[c];
        }
        break;
    }
    case SHARE_COEF_A:
        for (int32_t c = 0; c < n_c; c++) {
            a[c] += (double)c0[c];
            bias[c] += (double)c0[2 * n_c + c];
        }
        break;
    case SHARE_COEF_B:
        for (int32_t c = 0; c < n_c; c++)
            a[c] += (double)c0[n_c + c];
        break;
    }
}

/* Fill bias and coefficients, and the order of the streams: the one that shares its storage with dst goes first. */
static void fill_sum(sum_impl *m, const sum_scratch *ws, const float *dst, int32_t lanes)
{
    const dass__items *it = &m->it;
    int32_t first = 0;
    for (int32_t s = 0; s < m->n_x; s++) {
        m->place[s] = s;
        m->x[s] = m->head.arg[m->stream_in[s]];
        if (m->x[s] == dst)
            first = s;
    }
    m->place[0] = first;
    m->place[first] = 0;
    m->x[first] = m->head.arg[m->stream_in[0]];
    m->x[0] = m->head.arg[m->stream_in[first]];
    memset(ws->bias_sum, 0, (size_t)it->c * sizeof(double));
    const share *s = m->shares;
    for (int32_t k = 0; k < m->n_x; k++) {
        memset(ws->a, 0, (size_t)it->c * sizeof(double));
        for (; s < m->shares + m->n_shares && s->stream == k; s++)
            add_coefficients(m, s, ws->a, ws->bias_sum);
        for (int32_t i = 0, c = 0; i < it->period; i++, c = c + 1 < it->c ? c + 1 : 0)
            ws->coef[dass__sum_coef_at(m->place[k], i, m->n_x, it->period, lanes)] = (float)ws->a[c];
    }
    for (int32_t c = 0; c < it->c; c++)
        ws->bias[c] = (float)ws->bias_sum[c];
    for (int32_t i = it->c; i < it->period; i++)
        ws->bias[i] = ws->bias[i - it->c];
}

static dass_status run_sum(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    sum_impl *m = impl;
    const sum_scratch ws = sum_layout(m);
    float *dst = m->head.arg[m->head.n_in];
    fill_sum(m, &ws, dst, h->vec->lanes);
    const dass__v_sum a = {.x = m->x, .coef = ws.coef, .bias = ws.bias, .n_x = m->n_x, .period = m->it.period};
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->it.count; i++)
        h->vec->sum_affine(&a, i * m->it.step, dass__item_len(&m->it, i), dst);
    return DASS_OK;
}

static dass_status prepare_sum(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    sum_impl *m = dass__impl_run(mem, g, n, sizeof *m, k, run_sum);
    if (!m)
        return DASS_NOMEM;
    const dass_sum_attr *a = &g->nodes[n].attr.sum;
    const bool wsum = g->nodes[n].op == DASS_OP_WSUM;
    const dass_value *out = dass__out(g, n, 0);
    m->it = out->layout == DASS_LAYOUT_NHWC ? dass__items_of(h, out)
                                            : dass__items_cut(dass_value_count(out), 1, h->vec->lanes);
    const size_t most = 2 * (size_t)a->n_terms + 1;
    m->shares = dass_arena_alloc(mem, most * sizeof *m->shares);
    m->stream_in = dass_arena_alloc(mem, most * sizeof *m->stream_in);
    m->x = dass_arena_alloc(mem, most * sizeof *m->x);
    m->place = dass_arena_alloc(mem, most * sizeof *m->place);
    if (!m->shares || !m->stream_in || !m->x || !m->place)
        return DASS_NOMEM;
    for (int32_t t = 0; t < a->n_terms; t++) {
        if (wsum)
            add_wsum_term(m, (uint32_t)t, a->index[t]);
        else
            add_gsum_term(m, (uint32_t)t, a->index[t]);
    }
    k->ws_bytes = sum_layout(m).bytes;
    return DASS_OK;
}

static bool fits_sum(const dass_host *h, const dass_graph *g, dass_node n)
{
    (void)h;
    const dass_value *out = dass__out(g, n, 0);
    return out->dtype == DASS_F32 && g->nodes[n].attr.sum.n_terms > 0 &&
           (out->layout == DASS_LAYOUT_NHWC || g->nodes[n].op == DASS_OP_GSUM);
}

/* ---- gradient of wsum ------------------------------------------------------------------------------------------ */

#define FOLD_ALONE 262144 /* bytes of partial sums that one thread adds up in about the time of a barrier */

/* What one term of wsum_bwd needs and writes. */
typedef struct bwd_term {
    uint32_t in, out; /* first of its inputs and outputs */
    int32_t index;    /* of the d_p it adds to, -1 = none */
    int32_t stream;   /* its S2, -1 = not needed */
} bwd_term;

typedef struct bwd_impl {
    dass__impl head;
    dass__items it;
    bwd_term *terms;
    const float **x;
    uint32_t *stream_term; /* term of each stream */
    int32_t n_terms, n_x;
    size_t part; /* bytes of partial sums per item: S1 and the S2 in float */
} bwd_impl;

typedef struct bwd_scratch {
    float *mean, *parts;
    double *sums; /* (1 + n_x, C): S1, then sum d_y (x_k - mean_k) */
    size_t bytes;
} bwd_scratch;

static bwd_scratch bwd_layout(const bwd_impl *m)
{
    char *ws = m->head.ws;
    const size_t mean = dass__line((size_t)m->n_x * (size_t)m->it.period * sizeof(float));
    const size_t sums = dass__line((size_t)(m->n_x + 1) * (size_t)m->it.c * sizeof(double));
    return (bwd_scratch){.mean = (float *)ws,
                         .sums = (double *)(ws + mean),
                         .parts = (float *)(ws + mean + sums),
                         .bytes = mean + sums + (size_t)m->it.count * m->part};
}

static float *bwd_part(const bwd_impl *m, const bwd_scratch *ws, int64_t i)
{
    return (float *)((char *)ws->parts + (size_t)i * m->part);
}

/* Row r of the partial sums (0: S1, 1 + k: S2 of stream k), summed over items in index order. */
static void bwd_fold(const bwd_impl *m, const bwd_scratch *ws, int32_t r)
{
    double *sum = ws->sums + (int64_t)r * m->it.c;
    memset(sum, 0, (size_t)m->it.c * sizeof *sum);
    for (int64_t i = 0; i < m->it.count; i++) {
        const float *p = bwd_part(m, ws, i) + (int64_t)r * m->it.period;
        for (int32_t j = 0; j < m->it.period; j += m->it.c)
            for (int32_t c = 0; c < m->it.c; c++)
                sum[c] += (double)p[j + c];
    }
}

/* Coefficients and parameter gradients of a batch-normalised term; returns what it adds to d_p. s2: sum d_y (x - mean).
 */
static double bwd_norm_term(const bwd_impl *m, const bwd_term *t, const double *s1, const double *s2)
{
    void **in = m->head.arg + t->in;
    void **out = m->head.arg + t->out;
    const float *mean = in[1];
    const float *rstd = in[2];
    const float *gamma = in[3];
    const float *beta = in[4];
    float *coef = out[0];
    float *d_gamma = out[1];
    float *d_beta = out[2];
    const int32_t index = m->head.g->nodes[m->head.n].attr.sum.index[t - m->terms];
    const double f = index < 0 ? 1 : (double)((const float *)m->head.arg[1])[index];
    const int32_t n_c = m->it.c;
    double to_p = 0;
    for (int32_t c = 0; c < n_c; c++) {
        const double r = (double)rstd[c];
        const double ga = gamma ? (double)gamma[c] : 1;
        const double hat = s2 ? s2[c] * r : 0;
        to_p += ga * hat + (beta ? (double)beta[c] : 0) * s1[c];
        if (coef) {
            const double a = f * ga * r;
            const double b = -a * r * hat / (double)m->it.n_pix;
            coef[c] = (float)a;
            coef[n_c + c] = (float)b;
            coef[2 * n_c + c] = (float)(-a * s1[c] / (double)m->it.n_pix - b * (double)mean[c]);
        }
        if (d_gamma)
            d_gamma[c] = (float)(f * hat);
        if (d_beta)
            d_beta[c] = (float)(f * s1[c]);
    }
    return to_p;
}

/* All outputs from the sums. d_p is collected in double, one element after another: terms of one element are few. */
static void bwd_finish(const bwd_impl *m, const bwd_scratch *ws, double *to_p)
{
    const double *s1 = ws->sums;
    for (int32_t t = 0; t < m->n_terms; t++) {
        const bwd_term *term = m->terms + t;
        const double *s2 = term->stream < 0 ? NULL : ws->sums + (int64_t)(1 + term->stream) * m->it.c;
        to_p[t] = 0;
        if (m->head.arg[term->in + 1]) {
            to_p[t] = bwd_norm_term(m, term, s1, s2);
        } else if (s2) {
            for (int32_t c = 0; c < m->it.c; c++)
                to_p[t] += s2[c];
        }
    }
    float *d_p = m->head.arg[m->head.n_in];
    const float *acc = m->head.arg[2];
    if (!d_p)
        return;
    const int64_t n_p = dass_value_count(dass__out(m->head.g, m->head.n, 0));
    for (int64_t i = 0; i < n_p; i++) {
        double sum = acc ? (double)acc[i] : 0;
        for (int32_t t = 0; t < m->n_terms; t++)
            if (m->terms[t].index == i)
                sum += to_p[t];
        d_p[i] = (float)sum;
    }
}

static dass_status run_bwd(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const bwd_impl *m = impl;
    const bwd_scratch ws = bwd_layout(m);
    const dass__items *it = &m->it;
    for (int32_t k = 0; k < m->n_x; k++) {
        const uint32_t in = m->terms[m->stream_term[k]].in;
        m->x[k] = m->head.arg[in];
        dass__spread(it, m->head.arg[in + 1], 0, ws.mean + (int64_t)k * it->period);
    }
    const dass__v_sum_bwd a = {.d_y = m->head.arg[0], .x = m->x, .mean = ws.mean, .n_x = m->n_x, .period = it->period};
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < it->count; i++) {
        float *s = bwd_part(m, &ws, i);
        memset(s, 0, m->part);
        h->vec->sum_bwd(&a, i * it->step, dass__item_len(it, i), s, s + it->period);
    }
    /* a second start of the threads pays only for long sums */
#pragma omp parallel for schedule(static) num_threads(h->n_threads) if ((size_t)it->count * m->part >= FOLD_ALONE)
    for (int32_t r = 0; r < m->n_x + 1; r++)
        bwd_fold(m, &ws, r);
    bwd_finish(m, &ws, (double *)ws.parts); /* the partial sums are done with */
    return DASS_OK;
}

static dass_status prepare_bwd(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    bwd_impl *m = dass__impl_run(mem, g, n, sizeof *m, k, run_bwd);
    if (!m)
        return DASS_NOMEM;
    const dass_sum_attr *a = &g->nodes[n].attr.sum;
    const dass_val *in = dass_node_in(g, n);
    const dass_val *out = dass_node_out(g, n);
    m->it = dass__items_of(h, dass__in(g, n, 0));
    m->n_terms = a->n_terms;
    m->terms = dass_arena_alloc(mem, (size_t)a->n_terms * sizeof *m->terms);
    m->x = dass_arena_alloc(mem, (size_t)a->n_terms * sizeof *m->x);
    m->stream_term = dass_arena_alloc(mem, (size_t)a->n_terms * sizeof *m->stream_term);
    if (!m->terms || !m->x || !m->stream_term)
        return DASS_NOMEM;
    for (uint32_t t = 0; t < (uint32_t)a->n_terms; t++) {
        const uint32_t o = 1 + 3 * t;
        bwd_term *term = m->terms + t;
        *term = (bwd_term){.in = 3 + 5 * t, .out = m->head.n_in + o, .index = out[0] ? a->index[t] : -1, .stream = -1};
        if (term->index < 0 && !out[o] && !out[o + 1])
            continue;
        if (!in[term->in])
            continue;
        term->stream = m->n_x;
        m->stream_term[m->n_x++] = t;
    }
    m->part = dass__line((size_t)(m->n_x + 1) * (size_t)m->it.period * sizeof(float));
    k->ws_bytes = bwd_layout(m).bytes;
    const size_t shares = (size_t)a->n_terms * sizeof(double); /* bwd_finish puts one per term over the partial sums */
    if ((size_t)m->it.count * m->part < shares)
        k->ws_bytes += shares;
    return DASS_OK;
}

static bool fits_bwd(const dass_host *h, const dass_graph *g, dass_node n)
{
    (void)h;
    return dass__is_f32_nhwc(dass__in(g, n, 0)) && g->nodes[n].attr.sum.n_terms > 0;
}

const dass__row dass__rows_sum[] = {
    {DASS_OP_WSUM, "wsum", fits_sum, prepare_sum, NULL, NULL},
    {DASS_OP_WSUM_BWD, "wsum_bwd", fits_bwd, prepare_bwd, NULL, NULL},
    {DASS_OP_GSUM, "gsum", fits_sum, prepare_sum, NULL, NULL},
    {DASS_OP_NONE, NULL, NULL, NULL, NULL, NULL},
};
