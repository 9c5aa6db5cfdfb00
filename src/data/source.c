/* Batch sources: the order of an epoch and the gathering of its batches into staging buffers. Invariant: the samples of
 * batch i are a pure function of (seed, name, epoch, i); nothing is allocated after make. Gathering happens inside
 * dass_source_next and touches only the source, so a thread may later do it ahead of the caller.
 */
#include <string.h>

#include "dass/data.h"
#include "dass/mem.h"
#include "dass/rng.h"

struct dass_source {
    const dass_dataset *data;
    const dass_part *part;
    dass_source_options opt;
    int64_t n;
    const int32_t *index; /* NULL: 0 .. n */
    int32_t *order;       /* (n): samples of this pass, in order */
    int64_t at;           /* next entry of order */
    uint32_t epoch, pass;
    uint8_t *images; /* staging: (batch, h, w, c) */
    int32_t *labels, *samples;
};

static size_t image_bytes(const dass_dataset *d)
{
    return (size_t)d->h * (size_t)d->w * (size_t)d->c;
}

static dass_status alloc_ints(int64_t n, const char *what, int32_t **out)
{
    void *block = NULL;
    size_t bytes = 0;
    DASS_TRY(dass_mem_mul((size_t)n, sizeof(int32_t), what, &bytes));
    DASS_TRY(dass_mem_alloc(bytes, what, &block));
    *out = block;
    return DASS_OK;
}

dass_status dass_source_make(const dass_dataset *d, const dass_part *part, const int32_t *index, int64_t n,
                             const dass_source_options *opt, dass_source **out)
{
    *out = NULL;
    if (opt->batch < 1)
        return DASS_FAIL(DASS_ARG, "%s: batch of %d images", opt->name, opt->batch);
    if (index == NULL && n > part->n)
        return DASS_FAIL(DASS_ARG, "%s: %lld of %lld images", opt->name, (long long)n, (long long)part->n);
    if (n < 1 || (!opt->pad_last && n < opt->batch))
        return DASS_FAIL(DASS_CONFIG,
                         "%s: %lld images do not fill one batch of %d: use a smaller train.batch or more "
                         "images (data.limit, search.train_part)",
                         opt->name, (long long)n, opt->batch);
    for (int64_t i = 0; index != NULL && i < n; ++i)
        if (index[i] < 0 || index[i] >= part->n)
            return DASS_FAIL(DASS_ARG, "%s: entry %lld is sample %d of %lld", opt->name, (long long)i, index[i],
                             (long long)part->n);
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass_source), "batch source", &block));
    dass_source *s = block;
    s->data = d;
    s->part = part;
    s->opt = *opt;
    s->n = n;
    s->index = index;
    dass_status st = DASS_OK;
    size_t bytes = 0;
    DASS_TRY_TO(alloc_ints(n, "epoch order", &s->order), st, fail);
    DASS_TRY_TO(alloc_ints(opt->batch, "batch labels", &s->labels), st, fail);
    DASS_TRY_TO(alloc_ints(opt->batch, "batch samples", &s->samples), st, fail);
    DASS_TRY_TO(dass_mem_mul(image_bytes(d), (size_t)opt->batch, "batch images", &bytes), st, fail);
    DASS_TRY_TO(dass_mem_alloc(bytes, "batch images", &block), st, fail);
    s->images = block;
    dass_source_start(s, 0);
    *out = s;
    return DASS_OK;
fail:
    dass_source_free(s);
    return st;
}

void dass_source_free(dass_source *s)
{
    if (s == NULL)
        return;
    dass_mem_free(s->order);
    dass_mem_free(s->labels);
    dass_mem_free(s->samples);
    dass_mem_free(s->images);
    dass_mem_free(s);
}

int64_t dass_source_steps(const dass_source *s)
{
    return s->opt.pad_last ? (s->n + s->opt.batch - 1) / s->opt.batch : s->n / s->opt.batch;
}

int64_t dass_source_samples(const dass_source *s)
{
    return s->n;
}

/* Fisher-Yates from the order of `index`, so that a pass does not depend on the one before. */
static void begin_pass(dass_source *s)
{
    for (int64_t i = 0; i < s->n; ++i)
        s->order[i] = s->index != NULL ? s->index[i] : (int32_t)i;
    s->at = 0;
    if (!s->opt.shuffle)
        return;
    const uint64_t stream = dass_name_hash(s->opt.name) + s->pass * UINT64_C(0x9E3779B97F4A7C15);
    dass_rng r = dass_rng_make(s->opt.seed, DASS_RNG_SHUFFLE, stream, s->epoch);
    for (int64_t i = s->n - 1; i > 0; --i) {
        const uint32_t j = dass_rng_below(&r, (uint32_t)i + 1);
        const int32_t swap = s->order[i];
        s->order[i] = s->order[j];
        s->order[j] = swap;
    }
}

void dass_source_start(dass_source *s, uint32_t epoch)
{
    s->epoch = epoch;
    s->pass = 0;
    begin_pass(s);
}

void dass_source_seek(dass_source *s, uint32_t epoch, int64_t batch)
{
    const int64_t per_pass = dass_source_steps(s);
    s->epoch = epoch;
    s->pass = (uint32_t)(batch / per_pass);
    begin_pass(s);
    s->at = batch % per_pass * s->opt.batch;
}

dass_status dass_source_next(dass_source *s, dass_batch *out)
{
    const int64_t left = s->n - s->at;
    if (left == 0 || (left < s->opt.batch && !s->opt.pad_last)) {
        s->pass++;
        begin_pass(s);
    }
    const size_t bytes = image_bytes(s->data);
    const int64_t have = s->n - s->at;
    const int32_t valid = have < s->opt.batch ? (int32_t)have : s->opt.batch;
    for (int32_t i = 0; i < s->opt.batch; ++i) {
        const int32_t sample = s->order[s->at + (i < valid ? i : 0)];
        memcpy(s->images + (size_t)i * bytes, s->part->images + (size_t)sample * bytes, bytes);
        s->labels[i] = s->part->labels[sample];
        s->samples[i] = sample;
    }
    s->at += valid;
    *out = (dass_batch){.images = s->images,
                        .labels = s->labels,
                        .samples = s->samples,
                        .image_bytes = bytes,
                        .rows = s->opt.batch,
                        .valid = valid};
    return DASS_OK;
}
