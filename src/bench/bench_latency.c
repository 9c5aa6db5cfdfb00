/* Latency of one network's evaluation: image bytes to class scores, on this machine, by one or several ways of running
 * it. All are compiled from the same weights with batch norms folded, and timed in turns in one process, so that what
 * else the machine does meets all of them. No accuracy. Invariant: after the warm-up nothing is allocated, and every
 * run is timed by itself, so that the spread is that of single answers.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_private.h"
#include "dass/clock.h"
#include "dass/infer.h"

#define N_WARM 30
#define MIN_REPEATS 200
#define MAX_REPEATS 2000
#define ENOUGH_SEC 5.0 /* for each; no more than MIN_REPEATS after this long */

static const struct {
    const char *word;
    dass_infer_format format;
    bool fuse;
} executions[DASS_N_EXECUTIONS] = {
    [DASS_EXECUTION_DENSE] = {"dense", DASS_INFER_DENSE, false},
    [DASS_EXECUTION_LIBRARY] = {"library", DASS_INFER_LIBRARY, false},
    [DASS_EXECUTION_SPARSE] = {"sparse", DASS_INFER_OWN, false},
    [DASS_EXECUTION_BLOCK] = {"block", DASS_INFER_OWN, true},
};

const char *dass_execution_name(dass_execution e)
{
    return (unsigned)e < DASS_N_EXECUTIONS ? executions[e].word : NULL;
}

/* One of the ways. */
typedef struct way {
    dass_infer *infer;
    double sec[MAX_REPEATS];
} way;

typedef struct latency {
    const dass_config *cfg;
    const dass_arch *arch;
    const dass_bench_latency_options *opt;
    dass_backend *be;
    dass_store *store;
    dass_net_eval net;
    dass_arena *mem;
    uint8_t *images;
    double *logits;
    int64_t n_logits;
    way *ways; /* opt->n */
    int n;     /* timed answers of each */
} latency;

/* ---- weights ----------------------------------------------------------------------------------------------------- */

static int by_magnitude(const void *a, const void *b)
{
    const double x = fabs(*(const double *)a);
    const double y = fabs(*(const double *)b);
    return (x < y) - (x > y);
}

/* Of every tensor the `kept` largest stay. */
static dass_status prune_segment(dass_arena *mem, const dass_segment *s, double *w)
{
    double *sorted = dass_arena_alloc(mem, ((size_t)s->count + 1) * sizeof *sorted);
    if (sorted == NULL)
        return DASS_NOMEM;
    memcpy(sorted, w + s->offset, (size_t)s->count * sizeof *sorted);
    qsort(sorted, (size_t)s->count, sizeof *sorted, by_magnitude);
    const double least = s->kept > 0 ? fabs(sorted[s->kept - 1]) : HUGE_VAL;
    int64_t left = s->kept;
    for (int64_t i = s->offset; i < s->offset + s->count; i++) {
        const bool stays = fabs(w[i]) >= least && left > 0;
        left -= stays;
        w[i] = stays ? w[i] : 0.0;
    }
    return DASS_OK;
}

static dass_status prune_random(latency *l)
{
    dass_allocation policy = DASS_ALLOC_UNIFORM;
    dass_segment *segments = NULL;
    int64_t n = 0;
    const int64_t count = dass_store_count(l->store, DASS_GROUP_W);
    double *const w = l->net.data[DASS_BUF_W];
    double *scores = dass_arena_alloc(l->mem, ((size_t)count + 1) * sizeof *scores);
    if (scores == NULL)
        return DASS_NOMEM;
    for (int64_t i = 0; i < count; i++)
        scores[i] = fabs(w[i]);
    DASS_TRY(dass_allocation_parse(l->cfg->prune_allocation, &policy));
    DASS_TRY(dass_density_allocate(l->store, policy, l->cfg->prune_density, scores, l->mem, &segments, &n));
    for (int64_t i = 0; i < n; i++)
        DASS_TRY(prune_segment(l->mem, &segments[i], w));
    return DASS_OK;
}

/* A run's mask. */
static dass_status apply_mask(latency *l)
{
    const int64_t count = dass_store_count(l->store, DASS_GROUP_W);
    const size_t bytes = dass_store_buf_bytes(l->store, DASS_BUF_BITS);
    uint64_t *bits = dass_arena_alloc(l->mem, bytes);
    if (bits == NULL)
        return DASS_NOMEM;
    DASS_TRY(dass_store_read(l->store, DASS_BUF_BITS, bits, bytes));
    for (int64_t i = 0; i < count; i++)
        if (!(bits[i / 64] >> (i % 64) & 1))
            l->net.data[DASS_BUF_W][i] = 0.0;
    return DASS_OK;
}

static bool only_dense(const dass_bench_latency_options *opt)
{
    for (uint32_t i = 0; i < opt->n; i++)
        if (opt->execution[i] != DASS_EXECUTION_DENSE)
            return false;
    return true;
}

/* The store knows its parameters from a graph that nobody runs. */
static dass_status open_store(latency *l)
{
    static const double half[DASS_MAX_IMAGE_CHANNELS] = {.5, .5, .5, .5, .5, .5, .5, .5,
                                                         .5, .5, .5, .5, .5, .5, .5, .5};
    const dass_phase phase = {.task = DASS_TASK_EVAL, .batch = 1, .mean = half, .std = half};
    dass_graph *g = NULL;
    uint64_t bufs = 0;
    DASS_TRY(dass_store_make(l->be->ops->real, &l->store));
    DASS_TRY(dass_phase_build(l->store, l->arch, &phase, l->be->ops->real, NULL, &g));
    dass_graph_free(g);
    const dass_buf used[] = {DASS_BUF_W, DASS_BUF_AF, DASS_BUF_ALPHA, DASS_BUF_STAT, DASS_BUF_BITS};
    for (size_t i = 0; i < sizeof used / sizeof *used; i++)
        bufs |= (uint64_t)1 << used[i];
    return dass_store_commit(l->store, l->be, bufs);
}

static dass_status open_net(latency *l)
{
    bool masked = false;
    DASS_TRY(open_store(l));
    if (l->opt->load != NULL)
        DASS_TRY(l->opt->load(l->opt->ctx, l->store, &masked));
    else
        DASS_TRY(dass_store_init(l->store, (uint64_t)l->cfg->run_seed));
    DASS_TRY(dass_net_eval_make(l->store, l->arch, DASS_WEIGHTS_DENSE, l->opt->batch, &l->net));
    if (masked)
        return apply_mask(l);
    return l->opt->load == NULL && !only_dense(l->opt) ? prune_random(l) : DASS_OK;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static dass_status open_inputs(latency *l)
{
    const dass_arch *a = l->arch;
    const size_t n = (size_t)l->opt->batch * (size_t)a->image * (size_t)a->image * (size_t)a->in_channels;
    l->n_logits = (int64_t)l->opt->batch * a->classes;
    l->images = dass_arena_alloc(l->mem, n);
    l->logits = dass_arena_alloc(l->mem, (size_t)l->n_logits * sizeof *l->logits);
    l->ways = dass_arena_alloc(l->mem, l->opt->n * sizeof *l->ways);
    if (l->images == NULL || l->logits == NULL || l->ways == NULL)
        return DASS_NOMEM;
    dass_rng r = dass_rng_make((uint64_t)l->cfg->run_seed, DASS_RNG_TEST, 0, 0);
    for (size_t i = 0; i < n; ++i)
        l->images[i] = (uint8_t)dass_rng_below(&r, 256);
    return DASS_OK;
}

static dass_status compile(latency *l)
{
    static const double half[DASS_MAX_IMAGE_CHANNELS] = {.5, .5, .5, .5, .5, .5, .5, .5,
                                                         .5, .5, .5, .5, .5, .5, .5, .5};
    const dass_infer_source src = {l->net.g, l->net.x, l->net.logits, l->net.data};
    for (uint32_t i = 0; i < l->opt->n; i++) {
        const dass_execution e = l->opt->execution[i];
        const dass_infer_options opt = {.format = executions[e].format,
                                        .fuse = executions[e].fuse,
                                        .mean = half,
                                        .std = half};
        DASS_TRY(dass_infer_compile(&src, &opt, l->be, &l->ways[i].infer));
    }
    return DASS_OK;
}

static dass_status answer(latency *l, way *w, double *sec)
{
    const double began = dass_now_sec();
    DASS_TRY(dass_infer_feed_images(w->infer, l->images));
    DASS_TRY(dass_infer_run(w->infer));
    DASS_TRY(dass_infer_read(w->infer, l->logits));
    *sec = dass_now_sec() - began;
    for (int64_t i = 0; i < l->n_logits; i++)
        if (!isfinite(l->logits[i]))
            return DASS_FAIL(DASS_NUMERIC, "bench latency: score %lld is %g: the network's output is not finite",
                             (long long)i, l->logits[i]);
    return DASS_OK;
}

static dass_status time_answers(latency *l)
{
    double sec = 0.0;
    for (int i = 0; i < N_WARM; ++i)
        for (uint32_t k = 0; k < l->opt->n; k++)
            DASS_TRY(answer(l, &l->ways[k], &sec));
    const double began = dass_now_sec();
    while (l->n < MAX_REPEATS && (l->n < MIN_REPEATS || dass_now_sec() - began < ENOUGH_SEC * l->opt->n)) {
        for (uint32_t k = 0; k < l->opt->n; k++)
            DASS_TRY(answer(l, &l->ways[k], &l->ways[k].sec[l->n]));
        l->n++;
    }
    return DASS_OK;
}

static void report(latency *l, uint32_t k, dass_bench_latency *out)
{
    double *const sec = l->ways[k].sec;
    const dass_infer_stats stats = dass_infer_get_stats(l->ways[k].infer);
    dass__times_sort(sec, l->n);
    *out = (dass_bench_latency){.execution = l->opt->execution[k],
                                .batch = l->opt->batch,
                                .n_warm = N_WARM,
                                .n_repeats = l->n,
                                .best_ms = 1e3 * sec[0],
                                .median_ms = dass__times_quantile_ms(sec, l->n, 0.5),
                                .p10_ms = dass__times_quantile_ms(sec, l->n, 0.1),
                                .p90_ms = dass__times_quantile_ms(sec, l->n, 0.9),
                                .p99_ms = dass__times_quantile_ms(sec, l->n, 0.99),
                                .macs_per_image = stats.macs / l->opt->batch,
                                .n_dense = stats.n_dense,
                                .n_sparse = stats.n_sparse,
                                .n_blocks = stats.n_blocks};
    out->gflops = 2e-6 * (double)stats.macs / out->median_ms;
}

static dass_status measure(latency *l, dass_bench_latency *out)
{
    DASS_TRY(dass_arena_make("latency", &l->mem));
    DASS_TRY(dass_backend_open_for(l->cfg, l->cfg->run_device, &l->be));
    DASS_TRY(open_net(l));
    DASS_TRY(open_inputs(l));
    DASS_TRY(compile(l));
    dass_mem_seal(true);
    const dass_status st = time_answers(l);
    dass_mem_seal(false);
    DASS_TRY(st);
    for (uint32_t k = 0; k < l->opt->n; k++)
        report(l, k, &out[k]);
    return DASS_OK;
}

static void close_latency(latency *l)
{
    for (uint32_t k = 0; l->ways != NULL && k < l->opt->n; k++)
        dass_infer_free(l->ways[k].infer);
    dass_net_eval_free(&l->net);
    dass_store_free(l->store);
    dass_backend_close(l->be);
    dass_arena_free(l->mem);
}

dass_status dass_bench_latency_run(const dass_config *c, const dass_arch *arch, const dass_bench_latency_options *opt,
                                   dass_bench_latency *out)
{
    if (arch->kind == DASS_NET_SUPERNET)
        return DASS_FAIL(DASS_ARG,
                         "bench latency: a supernet has no latency of its own: give --genotype FILE, --net NAME "
                         "or a RUN of train or prune");
    latency l = {.cfg = c, .arch = arch, .opt = opt};
    const dass_status st = measure(&l, out);
    close_latency(&l);
    return st;
}
