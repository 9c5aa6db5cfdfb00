/* Latency of one network's dense evaluation: image bytes to class scores, on this machine. No accuracy, and no sparse
 * kernel: masked weights would cost here what dense ones cost. Invariant: after the warm-up nothing is allocated, and
 * every run is timed by itself, so that the spread is that of single answers.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench_private.h"
#include "dass/clock.h"
#include "dass/step.h"

#define N_WARM 30
#define MIN_REPEATS 200
#define MAX_REPEATS 2000
#define ENOUGH_SEC 5.0 /* no more than MIN_REPEATS after this long */

typedef struct latency {
    const dass_config *cfg;
    const dass_arch *arch;
    dass_backend *be;
    dass_store *store;
    dass_steps steps;
    dass_step_block block;
    uint8_t *images;
    int32_t *labels;
    size_t image_bytes;
    double sec[MAX_REPEATS];
    int n;
} latency;

static dass_status open_inputs(latency *l, int32_t batch)
{
    const dass_arch *a = l->arch;
    void *block = NULL;
    l->image_bytes = (size_t)a->image * (size_t)a->image * (size_t)a->in_channels;
    DASS_TRY(dass_mem_alloc((size_t)batch * l->image_bytes, "images", &block));
    l->images = block;
    DASS_TRY(dass_mem_alloc((size_t)batch * sizeof *l->labels, "labels", &block));
    l->labels = block;
    dass_rng r = dass_rng_make((uint64_t)l->cfg->run_seed, DASS_RNG_TEST, 0, 0);
    for (size_t i = 0; i < (size_t)batch * l->image_bytes; ++i)
        l->images[i] = (uint8_t)dass_rng_below(&r, 256);
    return DASS_OK;
}

static dass_status open_latency(latency *l, int32_t batch)
{
    static const double half[16] = {.5, .5, .5, .5, .5, .5, .5, .5, .5, .5, .5, .5, .5, .5, .5, .5};
    const dass_phase phase = {.task = DASS_TASK_EVAL,
                              .stage = DASS_STAGE_DENSE,
                              .batch = batch,
                              .lower = DASS_LOWER_ALL,
                              .mean = half,
                              .std = half};
    DASS_TRY(dass_backend_open_for(l->cfg, l->cfg->run_device, &l->be));
    DASS_TRY(dass_store_make(l->be->ops->real, &l->store));
    DASS_TRY(dass_steps_plan(l->store, l->arch, &phase, 1, l->be, NULL, &l->steps));
    DASS_TRY(dass_steps_bind(l->store, &l->steps));
    DASS_TRY(dass_store_init(l->store, (uint64_t)l->cfg->run_seed));
    DASS_TRY(open_inputs(l, batch));
    return DASS_OK;
}

static void close_latency(latency *l)
{
    dass_steps_close(&l->steps);
    dass_store_free(l->store);
    dass_backend_close(l->be);
    dass_mem_free(l->images);
    dass_mem_free(l->labels);
}

static dass_status answer(latency *l, int32_t batch, double *sec)
{
    double loss = 0.0;
    const double began = dass_now_sec();
    DASS_TRY(dass_steps_feed(l->store, DASS_INPUTS_MAIN, l->images, l->image_bytes, l->labels, l->labels, batch));
    DASS_TRY(dass_steps_run(l->store, &l->steps, 0, &l->block, &loss, NULL));
    *sec = dass_now_sec() - began;
    if (!isfinite(loss))
        return DASS_FAIL(DASS_NUMERIC, "bench latency: the loss is %g: the network's output is not finite", loss);
    return DASS_OK;
}

static dass_status time_answers(latency *l, int32_t batch)
{
    double sec = 0.0;
    for (int i = 0; i < N_WARM; ++i)
        DASS_TRY(answer(l, batch, &sec));
    const double began = dass_now_sec();
    while (l->n < MAX_REPEATS && (l->n < MIN_REPEATS || dass_now_sec() - began < ENOUGH_SEC))
        DASS_TRY(answer(l, batch, &l->sec[l->n++]));
    return DASS_OK;
}

static dass_status measure(latency *l, int32_t batch, dass_bench_latency *out)
{
    dass_net_count count;
    DASS_TRY(dass_net_measure(l->arch, DASS_LOWER_ALL, &count));
    DASS_TRY(open_latency(l, batch));
    dass_mem_seal(true);
    const dass_status st = time_answers(l, batch);
    dass_mem_seal(false);
    DASS_TRY(st);
    dass__times_sort(l->sec, l->n);
    out->n_warm = N_WARM;
    out->n_repeats = l->n;
    out->median_ms = dass__times_quantile_ms(l->sec, l->n, 0.5);
    out->p10_ms = dass__times_quantile_ms(l->sec, l->n, 0.1);
    out->p90_ms = dass__times_quantile_ms(l->sec, l->n, 0.9);
    out->p99_ms = dass__times_quantile_ms(l->sec, l->n, 0.99);
    out->macs_per_image = count.macs_per_image;
    out->gflops = 2e-6 * (double)count.macs_per_image * (double)batch / out->median_ms;
    return DASS_OK;
}

dass_status dass_bench_latency_run(const dass_config *c, const dass_arch *arch, int32_t batch, dass_bench_latency *out)
{
    memset(out, 0, sizeof *out);
    if (arch->kind == DASS_NET_SUPERNET)
        return DASS_FAIL(DASS_ARG,
                         "bench latency: a supernet has no latency of its own: give --genotype FILE, --net NAME "
                         "or a RUN of train or prune");
    if (arch->in_channels > 16)
        return DASS_FAIL(DASS_UNSUPPORTED, "bench latency: images of %d channels, at most 16", arch->in_channels);
    out->batch = batch;
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(latency), "latency measurement", &block));
    latency *l = block;
    l->cfg = c;
    l->arch = arch;
    const dass_status st = measure(l, batch, out);
    close_latency(l);
    dass_mem_free(l);
    return st;
}
