/* Batches: the split, the order of epochs, seeking, what a thread that reads ahead must not change, the last batch of
 * an evaluation, and that a sample is augmented the same way in any row and by any number of threads.
 */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "dass/data.h"
#include "dass/exec.h"
#include "dass/mem.h"
#include "dass/rng.h"

/* ---- split and order ------------------------------------------------------------------------------------------ */

static dass_dataset *random_data(int64_t n, int64_t n_test)
{
    dass_config c;
    dass_config_defaults(&c);
    assert_int_equal(dass_config_set(&c, "data.name=random", "test"), DASS_OK);
    c.net_image = 4;
    c.data_limit = n;
    c.data_test_limit = n_test;
    dass_dataset *d = NULL;
    assert_int_equal(dass_dataset_load(&c, &d), DASS_OK);
    return d;
}

static void split_is_a_permutation(void **state)
{
    (void)state;
    enum { N = 1001 };
    int32_t *a = NULL;
    int32_t *b = NULL;
    int32_t *other = NULL;
    int64_t n_a = 0;
    assert_int_equal(dass_data_split(N, 0.5, 3, &a, &n_a), DASS_OK);
    assert_int_equal(n_a, 500);
    assert_int_equal(dass_data_split(N, 0.5, 3, &b, &n_a), DASS_OK);
    assert_int_equal(dass_data_split(N, 0.5, 4, &other, &n_a), DASS_OK);
    assert_memory_equal(a, b, N * sizeof *a);
    assert_memory_not_equal(a, other, N * sizeof *a);
    bool seen[N] = {false};
    for (int i = 0; i < N; ++i) {
        assert_in_range(a[i], 0, N - 1);
        assert_false(seen[a[i]]);
        seen[a[i]] = true;
    }
    dass_mem_free(a);
    dass_mem_free(b);
    dass_mem_free(other);
    assert_fails_with(dass_data_split(0, 0.5, 3, &a, &n_a), DASS_ARG, "split of 0 samples");
}

/* Samples of one epoch, in order. */
static int64_t epoch_of(dass_source *s, uint32_t epoch, int32_t *out)
{
    int64_t n = 0;
    dass_source_start(s, epoch);
    for (int64_t i = 0; i < dass_source_steps(s); ++i) {
        dass_batch b;
        assert_int_equal(dass_source_next(s, &b), DASS_OK);
        for (int32_t k = 0; k < b.valid; ++k)
            out[n++] = b.samples[k];
    }
    return n;
}

static void order_is_a_function_of_seed_and_epoch(void **state)
{
    (void)state;
    dass_dataset *d = random_data(50, 7);
    const dass_source_options opt = {.batch = 8, .seed = 5, .name = "train", .shuffle = true};
    dass_source_options validation = opt;
    validation.name = "validation";
    dass_source *a = NULL;
    dass_source *b = NULL;
    dass_source *v = NULL;
    int32_t first[50];
    int32_t again[50];
    assert_int_equal(dass_source_make(d, &d->train, NULL, 50, &opt, &a), DASS_OK);
    assert_int_equal(dass_source_make(d, &d->train, NULL, 50, &opt, &b), DASS_OK);
    assert_int_equal(dass_source_make(d, &d->train, NULL, 50, &validation, &v), DASS_OK);
    assert_int_equal(dass_source_steps(a), 6); /* full batches only: two samples are dropped */
    assert_int_equal(epoch_of(a, 7, first), 48);
    (void)epoch_of(b, 0, again); /* b's past is another */
    (void)epoch_of(b, 3, again);
    (void)epoch_of(b, 7, again);
    assert_memory_equal(first, again, 48 * sizeof *first);
    (void)epoch_of(b, 8, again);
    assert_memory_not_equal(first, again, 48 * sizeof *first);
    (void)epoch_of(v, 7, again);
    assert_memory_not_equal(first, again, 48 * sizeof *first);
    bool seen[50] = {false};
    for (int i = 0; i < 48; ++i) {
        assert_false(seen[first[i]]);
        seen[first[i]] = true;
    }
    dass_source_free(a);
    dass_source_free(b);
    dass_source_free(v);
    dass_dataset_free(d);
}

/* What a source says it will hand out is what another hands out, for epochs and passes, and asking moves nothing. */
static void order_is_what_next_hands_out(void **state)
{
    (void)state;
    enum { N = 23, BATCH = 4, BATCHES = 17 };
    dass_dataset *d = random_data(N, 7);
    for (int way = 0; way < 4; ++way) {
        const dass_source_options opt = {
            .batch = BATCH, .seed = 5, .name = "train", .shuffle = way % 2 == 0, .pad_last = way / 2 == 1};
        dass_source *a = NULL;
        dass_source *b = NULL;
        int32_t order[BATCHES * BATCH + 1];
        check_ok(dass_source_make(d, &d->train, NULL, N, &opt, &a));
        check_ok(dass_source_make(d, &d->train, NULL, N, &opt, &b));
        for (uint32_t epoch = 0; epoch < 3; ++epoch) {
            dass_batch batch;
            dass_source_seek(a, epoch + 1, 3);
            order[BATCHES * BATCH] = -7;
            check_ok(dass_source_order(a, epoch, BATCHES, order));
            assert_int_equal(order[BATCHES * BATCH], -7);
            dass_source_start(b, epoch);
            for (int i = 0; i < BATCHES; ++i) {
                check_ok(dass_source_next(b, &batch));
                assert_memory_equal(order + (ptrdiff_t)i * BATCH, batch.samples, sizeof(int32_t[BATCH]));
            }
            dass_source_seek(b, epoch + 1, 3);
            check_ok(dass_source_next(b, &batch));
            memcpy(order, batch.samples, sizeof(int32_t[BATCH]));
            check_ok(dass_source_next(a, &batch));
            assert_memory_equal(order, batch.samples, sizeof(int32_t[BATCH]));
        }
        dass_source_free(a);
        dass_source_free(b);
    }
    dass_dataset_free(d);
}

static void batches_hold_the_images_of_their_samples(void **state)
{
    (void)state;
    dass_dataset *d = random_data(20, 7);
    static const int32_t index[] = {3, 19, 0, 7, 11};
    const dass_source_options opt = {.batch = 2, .seed = 5, .name = "train", .shuffle = true};
    dass_source *s = NULL;
    assert_int_equal(dass_source_make(d, &d->train, index, 5, &opt, &s), DASS_OK);
    const size_t n = 4 * 4 * 3;
    for (int i = 0; i < 7; ++i) { /* more than an epoch: new passes begin */
        dass_batch b;
        assert_int_equal(dass_source_next(s, &b), DASS_OK);
        assert_int_equal(b.valid, 2);
        for (int k = 0; k < 2; ++k) {
            bool listed = false;
            for (int j = 0; j < 5; ++j)
                listed |= b.samples[k] == index[j];
            assert_true(listed);
            assert_memory_equal(b.images + (size_t)k * n, d->train.images + (size_t)b.samples[k] * n, n);
            assert_int_equal(b.labels[k], d->train.labels[b.samples[k]]);
        }
    }
    dass_source_free(s);
    dass_dataset_free(d);
}

static void evaluation_pads_and_says_what_counts(void **state)
{
    (void)state;
    dass_dataset *d = random_data(20, 7);
    const dass_source_options opt = {.batch = 3, .seed = 5, .name = "test", .pad_last = true};
    dass_source *s = NULL;
    assert_int_equal(dass_source_make(d, &d->test, NULL, 7, &opt, &s), DASS_OK);
    assert_int_equal(dass_source_steps(s), 3);
    dass_batch b = {0};
    for (int i = 0; i < 3; ++i)
        assert_int_equal(dass_source_next(s, &b), DASS_OK);
    assert_int_equal(b.rows, 3);
    assert_int_equal(b.valid, 1);
    assert_int_equal(b.samples[0], 6);
    assert_int_equal(b.samples[2], 6); /* a copy of the first row */
    dass_source_free(s);

    const dass_source_options full = {.batch = 8, .seed = 5, .name = "train"};
    assert_fails_with(dass_source_make(d, &d->test, NULL, 7, &full, &s), DASS_CONFIG, "do not fill one batch of 8");
    assert_null(s);
    dass_dataset_free(d);
}

static void nothing_is_allocated_after_make(void **state)
{
    (void)state;
    dass_dataset *d = random_data(20, 7);
    for (int prefetch = 0; prefetch < 2; ++prefetch) {
        const dass_source_options opt = {
            .batch = 4, .seed = 5, .name = "train", .shuffle = true, .prefetch = prefetch != 0};
        dass_source *s = NULL;
        dass_batch b;
        assert_int_equal(dass_source_make(d, &d->train, NULL, 20, &opt, &s), DASS_OK);
        dass_mem_seal(true);
        for (uint32_t e = 0; e < 3; ++e) {
            dass_source_start(s, e);
            for (int i = 0; i < 5; ++i)
                assert_int_equal(dass_source_next(s, &b), DASS_OK);
        }
        dass_mem_seal(false);
        dass_source_free(s);
    }
    dass_dataset_free(d);
}

/* ---- seeking and reading ahead -------------------------------------------------------------------------------- */

static void same_batch(const dass_batch *a, const dass_batch *b)
{
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->valid, b->valid);
    assert_int_equal(a->image_bytes, b->image_bytes);
    assert_memory_equal(a->samples, b->samples, (size_t)a->rows * sizeof *a->samples);
    assert_memory_equal(a->labels, b->labels, (size_t)a->rows * sizeof *a->labels);
    assert_memory_equal(a->images, b->images, (size_t)a->rows * a->image_bytes);
}

static void next_is_ok(dass_source *s, dass_batch *b)
{
    assert_int_equal(dass_source_next(s, b), DASS_OK);
}

/* Seek against counting, forwards and backwards, within the first pass and far behind it. */
static void check_seek(const dass_dataset *d, int64_t n, const dass_source_options *opt)
{
    static const int64_t places[] = {0, 1, 3, 2, 7, 30, 29, 5, 0, 64, 4};
    dass_source_options plain = *opt;
    plain.prefetch = false;
    dass_source *jumps = NULL;
    dass_source *counts = NULL;
    assert_int_equal(dass_source_make(d, &d->train, NULL, n, opt, &jumps), DASS_OK);
    assert_int_equal(dass_source_make(d, &d->train, NULL, n, &plain, &counts), DASS_OK);
    for (size_t i = 0; i < N_OF(places); ++i) {
        dass_batch a;
        dass_batch b;
        const uint32_t epoch = (uint32_t)(i % 3);
        dass_source_start(counts, epoch);
        for (int64_t k = 0; k < places[i]; ++k)
            next_is_ok(counts, &b);
        dass_source_seek(jumps, epoch, places[i]);
        for (int k = 0; k < 4; ++k) { /* the next ones follow as they should */
            next_is_ok(jumps, &a);
            next_is_ok(counts, &b);
            same_batch(&a, &b);
        }
    }
    dass_source_free(jumps);
    dass_source_free(counts);
}

static void seek_equals_counting(void **state)
{
    (void)state;
    dass_dataset *d = random_data(50, 7);
    static const int32_t shape[][2] = {{50, 8}, {50, 50}, {50, 25}, {7, 3}, {3, 1}, {1, 1}}; /* n, batch */
    for (size_t i = 0; i < N_OF(shape); ++i)
        for (int k = 0; k < 8; ++k) {
            const dass_source_options opt = {.batch = shape[i][1],
                                             .seed = 11,
                                             .name = "train",
                                             .shuffle = (k & 1) != 0,
                                             .pad_last = (k & 2) != 0,
                                             .prefetch = (k & 4) != 0};
            check_seek(d, shape[i][0], &opt);
        }
    dass_dataset_free(d);
}

/* A pass that nobody can count up to is reached all the same, and has an order of its own. */
static void seek_is_computed(void **state)
{
    (void)state;
    dass_dataset *d = random_data(50, 7);
    const dass_source_options opt = {.batch = 25, .seed = 11, .name = "train", .shuffle = true, .prefetch = true};
    dass_source *s = NULL;
    dass_batch b;
    int32_t first[25];
    assert_int_equal(dass_source_make(d, &d->train, NULL, 50, &opt, &s), DASS_OK);
    dass_source_seek(s, 4, INT64_MAX - 5);
    next_is_ok(s, &b);
    memcpy(first, b.samples, sizeof first);
    dass_source_seek(s, 4, INT64_MAX - 7);
    next_is_ok(s, &b);
    assert_memory_not_equal(first, b.samples, sizeof first);
    dass_source_seek(s, 4, INT64_MAX - 5);
    next_is_ok(s, &b);
    assert_memory_equal(first, b.samples, sizeof first);
    dass_source_free(s);
    dass_dataset_free(d);
}

static void nap(long microseconds)
{
    const struct timespec t = {.tv_nsec = 1000 * microseconds};
    (void)nanosleep(&t, NULL);
}

/* The same calls on a source with and on one without a thread, which is given time to be ahead or none. */
static void reading_ahead_changes_no_batch(void **state)
{
    (void)state;
    dass_dataset *d = random_data(40, 7);
    static const int32_t index[] = {3, 19, 0, 7, 11, 39, 20, 5, 30, 1, 2};
    dass_source_options opt = {.batch = 3, .seed = 5, .name = "train", .shuffle = true};
    dass_source *plain = NULL;
    dass_source *ahead = NULL;
    assert_int_equal(dass_source_make(d, &d->train, index, N_OF(index), &opt, &plain), DASS_OK);
    opt.prefetch = true;
    assert_int_equal(dass_source_make(d, &d->train, index, N_OF(index), &opt, &ahead), DASS_OK);
    dass_rng r = dass_rng_make(1, DASS_RNG_TEST, 2, 3);
    uint8_t held[3 * 48];
    dass_batch a;
    dass_batch b;
    next_is_ok(plain, &a); /* without a start: epoch 0 */
    next_is_ok(ahead, &b);
    same_batch(&a, &b);
    for (int i = 0; i < 400; ++i) {
        const uint32_t what = dass_rng_below(&r, 8);
        if (what == 0)
            nap((long)dass_rng_below(&r, 300));
        if (what == 1 || what == 2) {
            const uint32_t epoch = dass_rng_below(&r, 5);
            const int64_t batch = what == 2 ? dass_rng_below(&r, 20) : 0;
            assert_int_equal(b.rows * b.image_bytes, sizeof held);
            memcpy(held, b.images, sizeof held);
            dass_source_seek(plain, epoch, batch);
            dass_source_seek(ahead, epoch, batch);
            nap((long)dass_rng_below(&r, 100));
            assert_memory_equal(held, b.images, sizeof held); /* handed out before: still the caller's */
        } else {
            next_is_ok(plain, &a);
            next_is_ok(ahead, &b);
            same_batch(&a, &b);
        }
    }
    dass_source_free(plain);
    dass_source_free(ahead);
    dass_dataset_free(d);
}

/* Freed unused, after a start, while it is ahead, with a batch in the caller's hands. */
static void a_source_that_reads_ahead_can_stop_anywhere(void **state)
{
    (void)state;
    dass_dataset *d = random_data(40, 7);
    const dass_source_options opt = {.batch = 8, .seed = 5, .name = "train", .shuffle = true, .prefetch = true};
    const size_t before = dass_mem_get_stats().n_live;
    for (int i = 0; i < 100; ++i) {
        dass_source *s = NULL;
        dass_batch b;
        assert_int_equal(dass_source_make(d, &d->train, NULL, 40, &opt, &s), DASS_OK);
        for (int k = 0; k < i % 7; ++k) {
            dass_source_start(s, (uint32_t)k);
            if (i % 2)
                next_is_ok(s, &b);
        }
        if (i % 5 == 0)
            nap(50);
        dass_source_free(s);
    }
    for (size_t k = 1; k < 40; ++k) { /* every allocation of make fails once */
        dass_source *s = NULL;
        dass_mem_fail_at(k);
        const dass_status st = dass_source_make(d, &d->train, NULL, 40, &opt, &s);
        dass_mem_fail_at(0);
        assert_true((st == DASS_OK) == (s != NULL));
        assert_true(st == DASS_OK || st == DASS_NOMEM);
        assert_true(k > 1 || st == DASS_NOMEM);
        dass_source_free(s);
        if (st == DASS_OK)
            break;
        assert_true(k < 39);
    }
    assert_int_equal(dass_mem_get_stats().n_live, before);
    dass_dataset_free(d);
}

/* An index that is damaged after make: the batches before the damage come, then the error, with its text, again and
 * again; from another place on all is well. */
static void an_error_ahead_reaches_the_caller(void **state)
{
    (void)state;
    dass_dataset *d = random_data(20, 7);
    for (int prefetch = 0; prefetch < 2; ++prefetch) {
        int32_t index[] = {1, 2, 3, 4, 5, 6, 7, 8};
        const dass_source_options opt = {.batch = 2, .seed = 5, .name = "broken", .prefetch = prefetch != 0};
        dass_source *s = NULL;
        dass_batch b;
        assert_int_equal(dass_source_make(d, &d->train, index, 8, &opt, &s), DASS_OK);
        index[5] = 20;
        dass_source_start(s, 3);
        for (int i = 0; i < 2; ++i) {
            next_is_ok(s, &b);
            assert_int_equal(b.samples[0], 1 + 2 * i);
        }
        for (int i = 0; i < 3; ++i) {
            dass_error_clear();
            assert_fails_with(dass_source_next(s, &b), DASS_ARG, "broken: epoch 3, pass 0, row 5: sample 20 of 20");
        }
        index[5] = 6;
        dass_source_seek(s, 3, 2);
        next_is_ok(s, &b);
        assert_int_equal(b.samples[1], 6);
        dass_source_free(s);
    }
    dass_dataset_free(d);
}

static volatile sig_atomic_t n_alarms;

static void count_alarm(int number)
{
    (void)number;
    n_alarms++;
}

/* While this thread blocks a signal and the source's thread is there, the signal must wait for this one. */
static void signals_stay_with_their_threads(void **state)
{
    (void)state;
    dass_dataset *d = random_data(20, 7);
    const dass_source_options opt = {.batch = 4, .seed = 5, .name = "train", .shuffle = true, .prefetch = true};
    dass_source *s = NULL;
    dass_batch b;
    const struct sigaction count = {.sa_handler = count_alarm};
    struct sigaction old;
    sigset_t term;
    sigset_t before;
    sigset_t waiting;
    (void)sigemptyset(&term);
    (void)sigaddset(&term, SIGTERM);
    assert_int_equal(sigaction(SIGTERM, &count, &old), 0);
    assert_int_equal(dass_source_make(d, &d->train, NULL, 20, &opt, &s), DASS_OK);
    assert_int_equal(pthread_sigmask(SIG_BLOCK, &term, &before), 0);
    assert_int_equal(sigismember(&before, SIGTERM), 0); /* make has put the mask back */
    n_alarms = 0;
    next_is_ok(s, &b);
    assert_int_equal(kill(getpid(), SIGTERM), 0);
    for (int i = 0; i < 20; ++i) {
        next_is_ok(s, &b);
        nap(500);
    }
    assert_int_equal(n_alarms, 0);
    assert_int_equal(sigpending(&waiting), 0);
    assert_int_equal(sigismember(&waiting, SIGTERM), 1);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
    nap(1);
    assert_int_equal(n_alarms, 1);
    assert_int_equal(sigaction(SIGTERM, &old, NULL), 0);
    dass_source_free(s);
    dass_dataset_free(d);
}

/* ---- augmentation --------------------------------------------------------------------------------------------- */

#define EDGE 9
#define IMAGE (EDGE * EDGE * 3)
#define ROWS 7

/* What the augment op makes of `n` rows: row i is the image and number of samples[i]. */
static void augment(int n_threads, int32_t n, const int32_t *samples, uint32_t epoch, float *out)
{
    enum { IMAGES = 1, SAMPLES, STEP, OUT, N_BUFS };
    static const double half[3] = {0.5, 0.5, 0.5};
    uint8_t images[ROWS * IMAGE];
    dass_step_block step = {.seed = 77, .epoch = epoch};
    for (int32_t i = 0; i < n; ++i)
        for (int k = 0; k < IMAGE; ++k)
            images[i * IMAGE + k] = (uint8_t)(31 * samples[i] + 5 * k);
    const size_t size[N_BUFS] = {0, (size_t)n * IMAGE, (size_t)n * sizeof *samples, sizeof step,
                                 (size_t)n * IMAGE * sizeof *out};
    const void *const from[N_BUFS] = {NULL, images, samples, &step, NULL};
    void *bufs[N_BUFS] = {NULL};
    dass_graph *g = NULL;
    dass_backend *be = NULL;
    dass_exec *e = NULL;
    dass_program *p = NULL;
    assert_int_equal(dass_graph_make(DASS_F32, &g), DASS_OK);
    const dass_val x = dass_ref_typed(g, "x", DASS_U8, IMAGES, 0, DASS_LAYOUT_NHWC, 4, (int32_t[]){n, 3, EDGE, EDGE});
    const dass_val k = dass_ref_typed(g, "samples", DASS_I32, SAMPLES, 0, DASS_LAYOUT_FLAT, 1, &n);
    const dass_val b =
        dass_ref_typed(g, "step", DASS_U8, STEP, 0, DASS_LAYOUT_FLAT, 1, (int32_t[]){(int32_t)sizeof step});
    dass_place(g, dass_augment(g, x, k, b, half, half, 3, true, 4), OUT, 0);
    assert_int_equal(dass_graph_finish(g), DASS_OK);
    assert_int_equal(dass_backend_open("host", &(dass_backend_options){.n_threads = n_threads}, &be), DASS_OK);
    for (size_t i = 1; i < N_BUFS; ++i) {
        assert_int_equal(dass_mem_alloc(size[i], "test", &bufs[i]), DASS_OK); /* the host's memory is ours */
        if (from[i] != NULL)
            memcpy(bufs[i], from[i], size[i]);
    }
    assert_int_equal(dass_exec_make(be, g, &(dass_exec_options){0}, &e), DASS_OK);
    assert_int_equal(dass_program_make(be, &e, 1, bufs, N_BUFS, &p), DASS_OK);
    assert_int_equal(dass_program_run(p), DASS_OK);
    memcpy(out, bufs[OUT], size[OUT]);
    dass_program_free(p);
    dass_exec_free(e);
    dass_backend_close(be);
    dass_graph_free(g);
    for (size_t i = 1; i < N_BUFS; ++i)
        dass_mem_free(bufs[i]);
}

static void a_sample_looks_the_same_in_any_row(void **state)
{
    (void)state;
    static const int32_t samples[ROWS] = {40, 5, 77777, 0, 12, 5, 9};
    static float want[ROWS * IMAGE];
    static float got[ROWS * IMAGE];
    augment(1, ROWS, samples, 3, want);
    assert_memory_equal(want + 1 * IMAGE, want + 5 * IMAGE, IMAGE * sizeof *want); /* sample 5 twice */
    augment(1, ROWS, samples, 4, got);
    int same = 0;
    for (int i = 0; i < ROWS; ++i)
        same += memcmp(want + i * IMAGE, got + i * IMAGE, IMAGE * sizeof *want) == 0;
    assert_true(same < ROWS); /* the epoch counts, so the comparisons below can fail */
    for (int n_threads = 1; n_threads <= 3; ++n_threads) {
        augment(n_threads, ROWS, samples, 3, got);
        assert_memory_equal(want, got, sizeof want);
        for (int32_t n = 1; n <= 4; n += 3) /* other batches, other rows */
            for (int first = 0; first < ROWS; ++first) {
                int32_t some[4];
                for (int i = 0; i < n; ++i)
                    some[i] = samples[(first + 2 * i) % ROWS];
                augment(n_threads, n, some, 3, got);
                for (int i = 0; i < n; ++i)
                    assert_memory_equal(got + (int64_t)i * IMAGE, want + (int64_t)((first + 2 * i) % ROWS) * IMAGE,
                                        IMAGE * sizeof *got);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_is_a_permutation),
        cmocka_unit_test(order_is_a_function_of_seed_and_epoch),
        cmocka_unit_test(order_is_what_next_hands_out),
        cmocka_unit_test(batches_hold_the_images_of_their_samples),
        cmocka_unit_test(evaluation_pads_and_says_what_counts),
        cmocka_unit_test(nothing_is_allocated_after_make),
        cmocka_unit_test(seek_equals_counting),
        cmocka_unit_test(seek_is_computed),
        cmocka_unit_test(reading_ahead_changes_no_batch),
        cmocka_unit_test(a_source_that_reads_ahead_can_stop_anywhere),
        cmocka_unit_test(an_error_ahead_reaches_the_caller),
        cmocka_unit_test(signals_stay_with_their_threads),
        cmocka_unit_test(a_sample_looks_the_same_in_any_row),
    };
    return cmocka_run_group_tests_name("source", tests, NULL, NULL);
}
