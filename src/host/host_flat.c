/* Masks, optimisers, and the rest of the ops on flat buffers: the rows and the split over threads.
 *
 * Buffers are cut into fixed chunks; segments of a mask are independent of each other. Invariant: results do not depend
 * on the number of threads, and no two threads write one word of a bit mask (kept entries are bytes in scratch until
 * all segments are done, and are packed by whole words).
 */
#include "host_items.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#define CHUNK 16384      /* entries per item; whole words of a bit mask */
#define NORM2_CHUNK 4096 /* entries per partial sum */
#define MAX_BINS 2048

typedef struct flat_impl {
    dass__impl head;
    int64_t n; /* entries */
    int64_t chunks;
} flat_impl;

static void *arg_in(const flat_impl *m, uint32_t i)
{
    return m->head.arg[i];
}
static void *arg_out(const flat_impl *m, uint32_t i)
{
    return m->head.arg[m->head.n_in + i];
}
static const dass_attr *attr(const flat_impl *m)
{
    return &m->head.g->nodes[m->head.n].attr;
}

static int64_t chunk_len(const flat_impl *m, int64_t i)
{
    const int64_t left = m->n - i * CHUNK;
    return left < CHUNK ? left : CHUNK;
}

static void *prepare(dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                     dass_status (*run)(dass_backend *be, void *impl), int64_t entries)
{
    flat_impl *m = dass__impl_run(mem, g, n, sizeof *m, k, run);
    if (!m)
        return NULL;
    m->n = entries;
    m->chunks = (entries + CHUNK - 1) / CHUNK;
    return m;
}

/* ---- mask: selection ----------------------------------------------------------------------------------------- */

/* Bits of |s|: as integers they are ordered as |s| is, with a NaN above everything. */
static uint32_t magnitude(float s)
{
    uint32_t b;
    memcpy(&b, &s, sizeof b);
    return b & 0x7fffffffu;
}

/* The digit of `width` bits at `shift` that the kept-th largest of n keys has. *kept becomes its rank among the keys
 * with that digit. */
static uint32_t pick_digit(const uint32_t *bin, int width, int64_t *kept)
{
    uint32_t digit = (1u << width) - 1;
    while (digit > 0 && (int64_t)bin[digit] < *kept)
        *kept -= bin[digit--];
    return digit;
}

/* The kept-th largest magnitude of a segment, 1 <= kept <= n. keys: scratch of n. *rank becomes how many entries of
 * exactly that magnitude are among the kept, *equal how many there are. Digit by digit from the top; after the first
 * digit only the keys that share it are left. */
static uint32_t select_magnitude(const float *s, int64_t n, int64_t kept, uint32_t *keys, int64_t *rank, int64_t *equal)
{
    static const int wide[] = {20, 10, 0};      /* digits of 11, 10, 10 bits */
    static const int narrow[] = {23, 15, 7, 0}; /* of 8, 8, 8, 7: few keys, few bins */
    const bool many = n >= MAX_BINS;
    const int n_digits = many ? 3 : 4;
    uint32_t bin[MAX_BINS];
    uint32_t result = 0;
    int top = 31;
    int64_t left = n;
    for (int d = 0; d < n_digits; d++) {
        const int shift = many ? wide[d] : narrow[d];
        const int width = top - shift;
        const uint32_t mask = (1u << width) - 1;
        memset(bin, 0, sizeof *bin << width);
        if (d == 0)
            for (int64_t i = 0; i < n; i++)
                bin[magnitude(s[i]) >> shift]++;
        else
            for (int64_t i = 0; i < left; i++)
                bin[keys[i] >> shift & mask]++;
        const uint32_t digit = pick_digit(bin, width, &kept);
        int64_t to = 0;
        for (int64_t i = 0; i < left; i++) {
            const uint32_t key = d == 0 ? magnitude(s[i]) : keys[i];
            keys[to] = key; /* kept only when `to` moves on; to <= i, so nothing unread is lost */
            to += (key >> shift & mask) == digit;
        }
        left = to;
        result |= digit << shift;
        top = shift;
    }
    *rank = kept;
    *equal = left;
    return result;
}

/* keep[i] = 1 for the `kept` largest by (|s|, index). */
static void select_segment(const dass_host *h, const float *s, int64_t n, int64_t kept, uint32_t *keys, uint8_t *keep)
{
    if (kept <= 0) {
        memset(keep, 0, (size_t)n);
        return;
    }
    if (kept >= n)
        return; /* they are 1 already */
    int64_t rank = 0;
    int64_t equal = 0;
    const uint32_t t = select_magnitude(s, n, kept, keys, &rank, &equal);
    h->vec->mask_above(s, n, t, rank == equal, keep);
    if (rank == equal)
        return;
    for (int64_t i = n - 1; rank > 0; i--)
        if (magnitude(s[i]) == t) {
            keep[i] = 1;
            rank--;
        }
}

static dass_status run_threshold(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const flat_impl *m = impl;
    const dass_mask_attr *a = &attr(m)->mask;
    const float *s = arg_in(m, 0);
    uint64_t *bits = arg_out(m, 0);
    uint32_t *keys = m->head.ws;
    uint8_t *keep = (uint8_t *)(keys + m->n);
#pragma omp parallel num_threads(h->n_threads)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < m->chunks; i++)
            memset(keep + i * CHUNK, 1, (size_t)chunk_len(m, i));
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < a->n_segments; i++) {
            const dass_segment *seg = &a->segments[i];
            select_segment(h, s + seg->offset, seg->count, seg->kept, keys + seg->offset, keep + seg->offset);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < m->chunks; i++)
            h->vec->mask_pack(keep + i * CHUNK, chunk_len(m, i), bits + i * (CHUNK / 64));
    }
    return DASS_OK;
}

static dass_status prepare_threshold(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    (void)h;
    const int64_t entries = dass_value_count(dass__in(g, n, 0));
    if (!prepare(mem, g, n, k, run_threshold, entries))
        return DASS_NOMEM;
    k->ws_bytes = (size_t)entries * (sizeof(uint32_t) + 1);
    return DASS_OK;
}

/* ---- mask: application and gradients --------------------------------------------------------------------------- */

/* Also mask_bwd_weights: the same map with the gradient in the place of the weights. */
static dass_status run_mask_apply(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const flat_impl *m = impl;
    const float *x = arg_in(m, 0);
    const uint64_t *bits = arg_in(m, 1);
    float *dst = arg_out(m, 0);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->chunks; i++)
        h->vec->mask_apply(x + i * CHUNK, bits + i * (CHUNK / 64), chunk_len(m, i), dst + i * CHUNK);
    return DASS_OK;
}

static dass_status run_mask_scores(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const flat_impl *m = impl;
    const float *d = arg_in(m, 0);
    const float *w = arg_in(m, 1);
    const float *s = arg_in(m, 2);
    float *dst = arg_out(m, 0);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->chunks; i++)
        h->vec->mask_scores(d + i * CHUNK, w + i * CHUNK, s + i * CHUNK, chunk_len(m, i), dst + i * CHUNK);
    return DASS_OK;
}

/* ---- norm and optimisers --------------------------------------------------------------------------------------- */

static dass_status run_norm2(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const flat_impl *m = impl;
    double *part = m->head.ws;
    double sum = 0;
    for (uint32_t t = 0; t < m->head.n_in; t++) {
        const float *x = arg_in(m, t);
        const int64_t n = x ? dass_value_count(dass__in(m->head.g, m->head.n, t)) : 0;
        const int64_t chunks = (n + NORM2_CHUNK - 1) / NORM2_CHUNK;
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
        for (int64_t i = 0; i < chunks; i++) {
            const int64_t left = n - i * NORM2_CHUNK;
            part[i] = h->vec->norm2(x + i * NORM2_CHUNK, left < NORM2_CHUNK ? left : NORM2_CHUNK);
        }
        for (int64_t i = 0; i < chunks; i++)
            sum += part[i];
    }
    *(float *)arg_out(m, 0) = (float)sum;
    return DASS_OK;
}

static dass_status prepare_norm2(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    (void)h;
    int64_t most = 0;
    for (uint32_t t = 0; t < g->nodes[n].n_in; t++) {
        const int64_t count = dass_node_in(g, n)[t] ? dass_value_count(dass__in(g, n, t)) : 0;
        if (count > most)
            most = count;
    }
    if (!prepare(mem, g, n, k, run_norm2, most))
        return DASS_NOMEM;
    k->ws_bytes = (size_t)((most + NORM2_CHUNK - 1) / NORM2_CHUNK) * sizeof(double);
    return DASS_OK;
}

static dass_status run_sgd(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const flat_impl *m = impl;
    const float *theta = arg_in(m, 0);
    const float *moment = arg_in(m, 1);
    const float *grad = arg_in(m, 2);
    const dass_step_block *step = arg_in(m, 3);
    const float *norm2 = arg_in(m, 4);
    const uint64_t *bits = arg_in(m, 5);
    float *theta_out = arg_out(m, 0);
    float *moment_out = arg_out(m, 1);
    const int32_t group = attr(m)->scalar.i;
    double scale = 1;
    if (norm2 && step->clip > 0) {
        scale = step->clip / (sqrt((double)*norm2) + 1e-6);
        if (scale > 1)
            scale = 1; /* a NaN norm stays visible */
    }
    const dass__v_sgd a = {.scale = (float)scale,
                           .decay = (float)step->weight_decay[group],
                           .momentum = (float)step->momentum,
                           .lr = (float)step->lr[group]};
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->chunks; i++) {
        const int64_t at = i * CHUNK;
        h->vec->sgd(&a, theta + at, moment + at, grad + at, bits ? bits + at / 64 : NULL, chunk_len(m, i),
                    theta_out + at, moment_out + at);
    }
    return DASS_OK;
}

static dass_status run_adam(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const flat_impl *m = impl;
    const float *theta = arg_in(m, 0);
    const float *m1 = arg_in(m, 1);
    const float *m2 = arg_in(m, 2);
    const float *grad = arg_in(m, 3);
    const dass_step_block *step = arg_in(m, 4);
    float *theta_out = arg_out(m, 0);
    float *m1_out = arg_out(m, 1);
    float *m2_out = arg_out(m, 2);
    const int32_t group = attr(m)->scalar.i;
    const dass__v_adam a = {.decay = (float)step->weight_decay[group],
                            .lr = (float)step->lr[group],
                            .eps = (float)step->adam_eps,
                            .beta1 = (float)step->beta1,
                            .rest1 = (float)(1 - step->beta1),
                            .correct1 = (float)(1 / (1 - pow(step->beta1, step->adam_step))),
                            .beta2 = (float)step->beta2,
                            .rest2 = (float)(1 - step->beta2),
                            .correct2 = (float)(1 / (1 - pow(step->beta2, step->adam_step)))};
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->chunks; i++) {
        const int64_t at = i * CHUNK;
        h->vec->adam(&a, theta + at, m1 + at, m2 + at, grad + at, chunk_len(m, i), theta_out + at, m1_out + at,
                     m2_out + at);
    }
    return DASS_OK;
}

/* Bound by memory, as fill and copy below: the compiler's vectors are enough. */
static dass_status run_ema(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const flat_impl *m = impl;
    const float *avg = arg_in(m, 0);
    const float *x = arg_in(m, 1);
    const dass_step_block *step = arg_in(m, 2);
    float *avg_out = arg_out(m, 0);
    const float rest = (float)(1 - step->ema);
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->chunks; i++) {
        const int64_t end = i * CHUNK + chunk_len(m, i);
#pragma omp simd
        for (int64_t j = i * CHUNK; j < end; j++)
            avg_out[j] = avg[j] + rest * (x[j] - avg[j]);
    }
    return DASS_OK;
}

/* ---- second order: unrolled weights, shifts, the correction ---------------------------------------------------- */

static dass_status run_unroll(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const flat_impl *m = impl;
    const float *saved = arg_in(m, 0);
    const float *moment = arg_in(m, 1);
    const float *grad = arg_in(m, 2);
    const dass_step_block *step = arg_in(m, 3);
    const uint64_t *bits = arg_in(m, 4);
    float *dst = arg_out(m, 0);
    const dass__v_unroll a = {.decay = (float)step->weight_decay[attr(m)->scalar.i],
                              .momentum = (float)step->momentum,
                              .xi = (float)step->xi};
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->chunks; i++) {
        const int64_t at = i * CHUNK;
        h->vec->unroll(&a, saved + at, moment + at, grad + at, bits ? bits + at / 64 : NULL, chunk_len(m, i), dst + at);
    }
    return DASS_OK;
}

static dass_status run_shift(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const flat_impl *m = impl;
    const float *saved = arg_in(m, 0);
    const float *v = arg_in(m, 1);
    const double norm2 = (double)*(const float *)arg_in(m, 2);
    float *dst = arg_out(m, 0);
    /* a NaN norm stays visible */
    const float eps = norm2 == 0 ? 0 : (float)(attr(m)->scalar.i * DASS_SHIFT_LENGTH / sqrt(norm2));
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->chunks; i++)
        h->vec->shift(eps, saved + i * CHUNK, v + i * CHUNK, chunk_len(m, i), dst + i * CHUNK);
    return DASS_OK;
}

static dass_status run_hvp(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const flat_impl *m = impl;
    const float *d = arg_in(m, 0);
    const float *p = arg_in(m, 1);
    const float *n = arg_in(m, 2);
    const double norm2 = (double)*(const float *)arg_in(m, 3);
    const dass_step_block *step = arg_in(m, 4);
    float *dst = arg_out(m, 0);
    const float rate = (float)(step->xi * sqrt(norm2) / (2 * DASS_SHIFT_LENGTH));
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->chunks; i++)
        h->vec->hvp(rate, d + i * CHUNK, p + i * CHUNK, n + i * CHUNK, chunk_len(m, i), dst + i * CHUNK);
    return DASS_OK;
}

/* ---- fill and copy --------------------------------------------------------------------------------------------- */

static dass_status run_fill(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const flat_impl *m = impl;
    float *dst = arg_out(m, 0);
    const float value = (float)attr(m)->scalar.value;
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->chunks; i++)
        for (int64_t j = 0; j < chunk_len(m, i); j++)
            dst[i * CHUNK + j] = value;
    return DASS_OK;
}

/* n is in bytes here. */
static dass_status run_copy(dass_backend *be, void *impl)
{
    const dass_host *h = (const dass_host *)be;
    const flat_impl *m = impl;
    const char *src = arg_in(m, 0);
    char *dst = arg_out(m, 0);
    if (src == dst)
        return DASS_OK;
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t i = 0; i < m->chunks; i++)
        memcpy(dst + i * CHUNK, src + i * CHUNK, (size_t)chunk_len(m, i));
    return DASS_OK;
}

/* ---- rows ------------------------------------------------------------------------------------------------------ */

#define PREPARE(name, entries)                                                                                         \
    static dass_status prepare_##name(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k) \
    {                                                                                                                  \
        (void)h;                                                                                                       \
        return prepare(mem, g, n, k, run_##name, (int64_t)entries(dass__out(g, n, 0))) ? DASS_OK : DASS_NOMEM;         \
    }
PREPARE(mask_apply, dass_value_count)
PREPARE(mask_scores, dass_value_count)
PREPARE(sgd, dass_value_count)
PREPARE(adam, dass_value_count)
PREPARE(ema, dass_value_count)
PREPARE(unroll, dass_value_count)
PREPARE(shift, dass_value_count)
PREPARE(hvp, dass_value_count)
PREPARE(fill, dass_value_count)
PREPARE(copy, dass_value_bytes)

static bool fits(const dass_host *h, const dass_graph *g, dass_node n)
{
    (void)h;
    return dass__out(g, n, 0)->dtype == DASS_F32;
}

const dass__row dass__rows_flat[] = {
    {DASS_OP_MASK_THRESHOLD, "mask_threshold", NULL, prepare_threshold, NULL, NULL},
    {DASS_OP_MASK_APPLY, "mask_apply", NULL, prepare_mask_apply, NULL, NULL},
    {DASS_OP_MASK_BWD_WEIGHTS, "mask_bwd_weights", NULL, prepare_mask_apply, NULL, NULL},
    {DASS_OP_MASK_BWD_SCORES, "mask_bwd_scores", NULL, prepare_mask_scores, NULL, NULL},
    {DASS_OP_NORM2, "norm2", NULL, prepare_norm2, NULL, NULL},
    {DASS_OP_SGD, "sgd", NULL, prepare_sgd, NULL, NULL},
    {DASS_OP_ADAM, "adam", NULL, prepare_adam, NULL, NULL},
    {DASS_OP_EMA, "ema", NULL, prepare_ema, NULL, NULL},
    {DASS_OP_UNROLL, "unroll", NULL, prepare_unroll, NULL, NULL},
    {DASS_OP_SHIFT, "shift", NULL, prepare_shift, NULL, NULL},
    {DASS_OP_HVP, "hvp", NULL, prepare_hvp, NULL, NULL},
    {DASS_OP_FILL, "fill", fits, prepare_fill, NULL, NULL},
    {DASS_OP_COPY, "copy", NULL, prepare_copy, NULL, NULL},
    {DASS_OP_NONE, NULL, NULL, NULL, NULL, NULL},
};
