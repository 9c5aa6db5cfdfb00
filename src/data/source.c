/* Batch sources: the order of an epoch, and the gathering of its batches into staging buffers, by the caller itself or
 * by a thread of the source that stays up to two batches ahead of it. Not a loader: samples come from memory.
 * Invariant: the samples of batch i are a pure function of (seed, name, epoch, pass, i), with and without the thread;
 * nothing is allocated after make.
 *
 *     slots   | held by the caller | ready | ready or being made |     a ring; without a thread one slot
 *               ^ first
 *
 * The maker (the thread, or the caller where there is none) alone touches `order`, `order_place`, `now` and the slot
 * being made; what follows `lock` in the struct is shared under it.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "dass/data.h"
#include "dass/mem.h"
#include "dass/rng.h"

#define AHEAD 2

typedef struct slot {
    uint8_t *images; /* (batch, h, w, c) */
    int32_t *labels, *samples;
    int32_t valid;
} slot;

typedef struct place {
    uint32_t epoch;
    int64_t pass, at; /* at: next entry of the pass's order */
} place;

struct dass_source {
    const dass_dataset *data;
    const dass_part *part;
    dass_source_options opt;
    int64_t n;
    const int32_t *index; /* NULL: 0 .. n */

    int32_t *order; /* (n): samples of the pass order_place, in order */
    place order_place;
    bool have_order;
    place now; /* of the next batch to be made */
    slot slots[1 + AHEAD];
    int32_t n_slots;

    bool has_thread;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;   /* the thread has something to do */
    pthread_cond_t result; /* a batch is ready, or making one failed */
    bool awake;            /* somebody asked for a place or a batch */
    bool moved;            /* `target` is not yet the thread's place */
    bool stop;
    place target;
    int32_t first, held, ready; /* slots: the oldest, whether the caller has it, how many full ones follow */
    dass_status failed;         /* of the batch after the ready ones */
    char failed_text[512];
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

/* ---- making batches --------------------------------------------------------------------------------------------- */

/* Fisher-Yates from the order of `index`, so that a pass does not depend on the one before. */
static void order_pass(dass_source *s)
{
    if (s->have_order && s->order_place.epoch == s->now.epoch && s->order_place.pass == s->now.pass)
        return;
    s->order_place = s->now;
    s->have_order = true;
    for (int64_t i = 0; i < s->n; ++i)
        s->order[i] = s->index != NULL ? s->index[i] : (int32_t)i;
    if (!s->opt.shuffle)
        return;
    const uint64_t stream = dass_name_hash(s->opt.name) + (uint64_t)s->now.pass * UINT64_C(0x9E3779B97F4A7C15);
    dass_rng r = dass_rng_make(s->opt.seed, DASS_RNG_SHUFFLE, stream, s->now.epoch);
    for (int64_t i = s->n - 1; i > 0; --i) {
        const uint32_t j = dass_rng_below(&r, (uint32_t)i + 1);
        const int32_t swap = s->order[i];
        s->order[i] = s->order[j];
        s->order[j] = swap;
    }
}

/* The samples of the batch at `now`, and on to the next. On error `now` stays: asked again, it fails again. */
static dass_status pick_samples(dass_source *s, int32_t *samples, int32_t *valid)
{
    const int64_t left = s->n - s->now.at;
    if (left == 0 || (left < s->opt.batch && !s->opt.pad_last)) {
        s->now.pass++;
        s->now.at = 0;
    }
    order_pass(s);
    const int64_t have = s->n - s->now.at;
    *valid = have < s->opt.batch ? (int32_t)have : s->opt.batch;
    for (int32_t i = 0; i < s->opt.batch; ++i) {
        const int32_t sample = s->order[s->now.at + (i < *valid ? i : 0)];
        /* make checked the index, which is the caller's: what it became since must not read outside the images. */
        if (sample < 0 || sample >= s->part->n) {
            s->have_order = false;
            return DASS_FAIL(DASS_ARG,
                             "%s: epoch %u, pass %lld, row %lld: sample %d of %lld: the index changed after "
                             "the source was made",
                             s->opt.name, s->now.epoch, (long long)s->now.pass, (long long)s->now.at + i, sample,
                             (long long)s->part->n);
        }
        samples[i] = sample;
    }
    s->now.at += *valid;
    return DASS_OK;
}

/* The batch at `now` into *to, and on to the next. */
static dass_status make_batch(dass_source *s, slot *to)
{
    DASS_TRY(pick_samples(s, to->samples, &to->valid));
    const size_t bytes = image_bytes(s->data);
    for (int32_t i = 0; i < s->opt.batch; ++i) {
        const int32_t sample = to->samples[i];
        memcpy(to->images + (size_t)i * bytes, s->part->images + (size_t)sample * bytes, bytes);
        to->labels[i] = s->part->labels[sample];
    }
    return DASS_OK;
}

/* ---- the thread ------------------------------------------------------------------------------------------------- */

/* Sleep until there is a batch to make; false: the source is being freed. Called with the lock held. */
static bool wait_for_work(dass_source *s)
{
    while (!s->stop && !s->moved && (!s->awake || s->failed != DASS_OK || s->held + s->ready == s->n_slots))
        (void)pthread_cond_wait(&s->work, &s->lock);
    return !s->stop;
}

static void *read_ahead(void *source)
{
    dass_source *s = source;
    (void)pthread_mutex_lock(&s->lock);
    while (wait_for_work(s)) {
        if (s->moved)
            s->now = s->target;
        s->moved = false;
        slot *const to = &s->slots[(s->first + s->held + s->ready) % s->n_slots];
        (void)pthread_mutex_unlock(&s->lock);
        const dass_status st = make_batch(s, to);
        (void)pthread_mutex_lock(&s->lock);
        if (s->moved)
            continue; /* the caller went elsewhere meanwhile: nobody wants this batch, or its error */
        if (st == DASS_OK) {
            s->ready++;
        } else {
            (void)snprintf(s->failed_text, sizeof s->failed_text, "%s", dass_error_text());
            s->failed = st;
        }
        (void)pthread_cond_signal(&s->result);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void destroy_locks(dass_source *s)
{
    (void)pthread_cond_destroy(&s->work);
    (void)pthread_cond_destroy(&s->result);
    (void)pthread_mutex_destroy(&s->lock);
}

/* Signals sent to the process are for the threads that were there before; a fault of this thread still ends it. */
static dass_status start_thread(dass_source *s)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    sigset_t blocked;
    sigset_t before;
    (void)sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; ++i)
        (void)sigdelset(&blocked, faults[i]);
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_cond_init(&s->work, NULL);
    (void)pthread_cond_init(&s->result, NULL);
    (void)pthread_sigmask(SIG_BLOCK, &blocked, &before);
    const int error = pthread_create(&s->thread, NULL, read_ahead, s);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    s->has_thread = error == 0;
    if (error == 0)
        return DASS_OK;
    destroy_locks(s);
    return DASS_FAIL(DASS_NOMEM, "%s: no thread to read ahead: %s: raise the limit of processes (ulimit -u)",
                     s->opt.name, strerror(error));
}

static void stop_thread(dass_source *s)
{
    (void)pthread_mutex_lock(&s->lock);
    s->stop = true;
    (void)pthread_cond_signal(&s->work);
    (void)pthread_mutex_unlock(&s->lock);
    (void)pthread_join(s->thread, NULL);
    destroy_locks(s);
}

/* Give the held slot back and wait for the next one. */
static dass_status take_slot(dass_source *s, const slot **out)
{
    (void)pthread_mutex_lock(&s->lock);
    s->first = (s->first + s->held) % s->n_slots;
    s->held = 0;
    s->awake = true;
    (void)pthread_cond_signal(&s->work);
    while (s->ready == 0 && s->failed == DASS_OK)
        (void)pthread_cond_wait(&s->result, &s->lock);
    dass_status st = DASS_OK;
    if (s->ready > 0) {
        s->ready--;
        s->held = 1;
        *out = &s->slots[s->first];
    } else {
        st = DASS_FAIL(s->failed, "%s", s->failed_text);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return st;
}

/* ---- sources ---------------------------------------------------------------------------------------------------- */

static dass_status check_options(const dass_part *part, const int32_t *index, int64_t n, const dass_source_options *opt)
{
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
    return DASS_OK;
}

static dass_status alloc_slot(const dass_source *s, slot *out)
{
    size_t bytes = 0;
    void *block = NULL;
    DASS_TRY(alloc_ints(s->opt.batch, "batch labels", &out->labels));
    DASS_TRY(alloc_ints(s->opt.batch, "batch samples", &out->samples));
    DASS_TRY(dass_mem_mul(image_bytes(s->data), (size_t)s->opt.batch, "batch images", &bytes));
    DASS_TRY(dass_mem_alloc(bytes, "batch images", &block));
    out->images = block;
    return DASS_OK;
}

dass_status dass_source_make(const dass_dataset *d, const dass_part *part, const int32_t *index, int64_t n,
                             const dass_source_options *opt, dass_source **out)
{
    *out = NULL;
    DASS_TRY(check_options(part, index, n, opt));
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass_source), "batch source", &block));
    dass_source *s = block;
    s->data = d;
    s->part = part;
    s->opt = *opt;
    s->n = n;
    s->index = index;
    s->n_slots = opt->prefetch ? 1 + AHEAD : 1;
    dass_status st = DASS_OK;
    DASS_TRY_TO(alloc_ints(n, "epoch order", &s->order), st, fail);
    for (int32_t i = 0; i < s->n_slots; ++i)
        DASS_TRY_TO(alloc_slot(s, &s->slots[i]), st, fail);
    if (opt->prefetch)
        DASS_TRY_TO(start_thread(s), st, fail);
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
    if (s->has_thread)
        stop_thread(s);
    dass_mem_free(s->order);
    for (int32_t i = 0; i < s->n_slots; ++i) {
        dass_mem_free(s->slots[i].labels);
        dass_mem_free(s->slots[i].samples);
        dass_mem_free(s->slots[i].images);
    }
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

void dass_source_start(dass_source *s, uint32_t epoch)
{
    dass_source_seek(s, epoch, 0);
}

void dass_source_seek(dass_source *s, uint32_t epoch, int64_t batch)
{
    DASS_ASSERT(batch >= 0);
    const int64_t steps = dass_source_steps(s);
    const place to = {.epoch = epoch, .pass = batch / steps, .at = batch % steps * s->opt.batch};
    if (!s->has_thread) {
        s->now = to;
        return;
    }
    (void)pthread_mutex_lock(&s->lock);
    s->target = to;
    s->moved = true;
    s->awake = true;
    s->ready = 0;
    s->failed = DASS_OK;
    (void)pthread_cond_signal(&s->work);
    (void)pthread_mutex_unlock(&s->lock);
}

dass_status dass_source_order(dass_source *s, uint32_t epoch, int64_t batches, int32_t *order)
{
    DASS_ASSERT(!s->has_thread && batches >= 0);
    const place before = s->now;
    dass_status st = DASS_OK;
    s->now = (place){.epoch = epoch};
    for (int64_t i = 0; i < batches && st == DASS_OK; ++i) {
        int32_t valid = 0;
        st = pick_samples(s, order + i * s->opt.batch, &valid);
    }
    s->now = before;
    return st;
}

dass_status dass_source_next(dass_source *s, dass_batch *out)
{
    const slot *from = &s->slots[0];
    if (s->has_thread)
        DASS_TRY(take_slot(s, &from));
    else
        DASS_TRY(make_batch(s, &s->slots[0]));
    *out = (dass_batch){.images = from->images,
                        .labels = from->labels,
                        .samples = from->samples,
                        .image_bytes = image_bytes(s->data),
                        .rows = s->opt.batch,
                        .valid = from->valid};
    return DASS_OK;
}
