/* The second-order step of alpha. Its ops on a bilevel problem whose answer is known; its four graphs, in double on the
 * reference, against difference quotients of the validation loss at weights that plain loops here unrolled; theta and
 * everything else that is not alpha, byte for byte, on every backend. The networks are small, not simplified.
 */
#include <math.h>
#include <stdlib.h>

#include "rig.h"

enum { MAX_ALPHA = 128, BATCH = 4, IMAGE = 8, CLASSES = 4, PIXELS = BATCH * 3 * IMAGE * IMAGE };

static const double mean[3] = {0.5, 0.4, 0.45};
static const double dev[3] = {0.25, 0.2, 0.3};

/* A network and where it starts from. */
typedef struct setting {
    int32_t layers, nodes, image;
    uint64_t seed;
} setting;
static const setting plain = {3, 2, IMAGE, 11};

static dass_arch supernet(const setting *set)
{
    return (dass_arch){.kind = DASS_NET_SUPERNET,
                       .channels = 2,
                       .layers = set->layers,
                       .nodes = set->nodes,
                       .classes = CLASSES,
                       .in_channels = 3,
                       .image = set->image};
}

/* ---- a store, its graphs, two batches --------------------------------------------------------------------------- */

/* Positions of the graphs of a rig. */
enum { WEIGHTS, ALPHA, UNROLL, UNROLLED_ALPHA, HESSIAN_P, HESSIAN_N, N_GRAPHS };
static const dass_task tasks[N_GRAPHS] = {DASS_TASK_WEIGHTS,        DASS_TASK_ALPHA,     DASS_TASK_UNROLL,
                                          DASS_TASK_UNROLLED_ALPHA, DASS_TASK_HESSIAN_P, DASS_TASK_HESSIAN_N};
enum { TRAINING, VALIDATION };

static void write_buf(const rig *r, dass_buf b, const double *x)
{
    check_ok(dass_store_write_real(r->s, b, x, dass_store_buf_count(r->s, b)));
}

/* Random numbers in [-scale, scale], the same on every backend. */
static void fill_random(const rig *r, dass_buf b, double scale)
{
    const int64_t n = dass_store_buf_count(r->s, b);
    double *x = dass_arena_alloc(r->mem, (size_t)n * sizeof *x);
    dass_rng rng = dass_rng_make(9, DASS_RNG_TEST, dass_name_hash(dass_buf_name(b)), 0);
    for (int64_t i = 0; i < n; i++)
        x[i] = (double)(float)(scale * (2 * dass_rng_uniform(&rng) - 1));
    write_buf(r, b, x);
}

static void feed(const rig *r, int which)
{
    static uint8_t images[PIXELS];
    int32_t labels[BATCH];
    int32_t samples[BATCH];
    dass_rng rng = dass_rng_make(5, DASS_RNG_TEST, dass_name_hash(which == TRAINING ? "training" : "validation"), 0);
    for (int i = 0; i < BATCH * r->image_bytes; i++)
        images[i] = (uint8_t)dass_rng_below(&rng, 256);
    for (int i = 0; i < BATCH; i++) {
        labels[i] = (i + which) % CLASSES;
        samples[i] = i + 100 * which;
    }
    check_ok(dass_steps_feed(r->s, DASS_INPUTS_MAIN, images, (size_t)r->image_bytes, labels, samples, BATCH));
}

static int64_t n_of(const rig *r, dass_group group)
{
    return dass_store_count(r->s, group);
}

/* Bits of the finetune stage, and scores to go with them. */
static void make_mask(rig *r)
{
    check_ok(dass_store_commit(r->s, r->be, (uint64_t)1 << DASS_BUF_SCORE | (uint64_t)1 << DASS_BUF_BITS));
    check_ok(dass_store_init_scores(r->s));
    rig_freeze(r);
}

static void rig_open(rig *r, const char *backend, dass_stage stage, const setting *set)
{
    const dass_arch a = supernet(set);
    memset(r, 0, sizeof *r);
    r->image_bytes = 3 * set->image * set->image;
    check_ok(dass_backend_open(backend, &(dass_backend_options){.n_threads = 2}, &r->be));
    check_ok(dass_store_make(r->be->ops->real, &r->s));
    check_ok(dass_arena_make("test", &r->mem));
    dass_phase phase[N_GRAPHS];
    for (int i = 0; i < N_GRAPHS; i++)
        phase[i] = (dass_phase){.task = tasks[i],
                                .stage = stage,
                                .batch = BATCH,
                                .lower = DASS_LOWER_ALL,
                                .mean = mean,
                                .std = dev,
                                .pad = 1,
                                .flip = true};
    check_ok(dass_steps_plan(r->s, &a, phase, N_GRAPHS, r->be, &(dass_exec_options){.guard = true}, &r->steps));
    check_ok(dass_steps_bind(r->s, &r->steps));
    check_ok(dass_store_init(r->s, set->seed));
    check_ok(dass_density_allocate(r->s, DASS_ALLOC_UNIFORM, 0.5, NULL, r->mem, &r->segments, &r->n_segments));
    if (stage == DASS_STAGE_FINETUNE)
        make_mask(r);
    fill_random(r, DASS_BUF_W_MOM, 0.1);
    fill_random(r, DASS_BUF_AF_MOM, 0.1);
    fill_random(r, DASS_BUF_ALPHA, 0.5); /* operations weigh differently */
    r->block = (dass_step_block){.weight_decay = {0.02, 0.03, 0, 0},
                                 .momentum = 0.9,
                                 .clip = 1e-3, /* must not act on the unrolled step */
                                 .beta1 = 0.5,
                                 .beta2 = 0.999,
                                 .adam_eps = 1e-8,
                                 .adam_step = 1,
                                 .xi = 0.2,
                                 .seed = 3}; /* learning rates 0 */
}

/* The four graphs as a search runs them. ALPHA_GRAD is the hypergradient afterwards. */
static void second_order(rig *r)
{
    dass_task order[DASS_MAX_ALPHA_TASKS];
    assert_int_equal(dass_alpha_tasks(DASS_STAGE_DENSE, 2, order), 4);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(order[i], tasks[UNROLL + i]);
        feed(r, dass_task_validates(order[i]) ? VALIDATION : TRAINING);
        rig_run(r, UNROLL + i);
    }
}

/* ---- the same, composed here ------------------------------------------------------------------------------------ */

/* Everything that a composition starts from: read once, never written. */
typedef struct start {
    const double *w, *af, *w_mom, *af_mom, *alpha;
    const uint64_t *bits; /* NULL: dense */
    double xi;
} start;

static bool kept(const start *s, int64_t i)
{
    return !s->bits || (s->bits[i / 64] >> (i % 64) & 1);
}

static start start_of(const rig *r, bool masked)
{
    start s = {rig_read(r, DASS_BUF_W),
               rig_read(r, DASS_BUF_AF),
               rig_read(r, DASS_BUF_W_MOM),
               rig_read(r, DASS_BUF_AF_MOM),
               rig_read(r, DASS_BUF_ALPHA),
               NULL,
               r->block.xi};
    if (masked) {
        const size_t bytes = dass_store_buf_bytes(r->s, DASS_BUF_BITS);
        void *bits = dass_arena_alloc(r->mem, bytes);
        check_ok(dass_store_read(r->s, DASS_BUF_BITS, bits, bytes));
        s.bits = bits;
    }
    return s;
}

/* theta = theta + factor * step, from plain arrays into the store. */
static void put_theta(const rig *r, const start *s, double factor, const double *dw, const double *daf)
{
    double *w = dass_arena_alloc(r->mem, (size_t)n_of(r, DASS_GROUP_W) * sizeof *w);
    double *af = dass_arena_alloc(r->mem, (size_t)n_of(r, DASS_GROUP_AF) * sizeof *af);
    for (int64_t i = 0; i < n_of(r, DASS_GROUP_W); i++)
        w[i] = s->w[i] + factor * dw[i];
    for (int64_t i = 0; i < n_of(r, DASS_GROUP_AF); i++)
        af[i] = s->af[i] + factor * daf[i];
    write_buf(r, DASS_BUF_W, w);
    write_buf(r, DASS_BUF_AF, af);
}

static void put_back(const rig *r, const start *s)
{
    write_buf(r, DASS_BUF_W, s->w);
    write_buf(r, DASS_BUF_AF, s->af);
    write_buf(r, DASS_BUF_W_MOM, s->w_mom);
    write_buf(r, DASS_BUF_AF_MOM, s->af_mom);
    write_buf(r, DASS_BUF_ALPHA, s->alpha);
}

/* theta' of the present alphas: the gradient is the weights graph's (its learning rates are 0), the step is loops. */
static void put_unrolled(rig *r, const start *s)
{
    feed(r, TRAINING);
    rig_run(r, WEIGHTS);
    double *dw = rig_read(r, DASS_BUF_W_GRAD);
    double *daf = rig_read(r, DASS_BUF_AF_GRAD);
    for (int64_t i = 0; i < n_of(r, DASS_GROUP_W); i++)
        if (kept(s, i))
            dw[i] += 0.9 * s->w_mom[i] + 0.02 * s->w[i];
    for (int64_t i = 0; i < n_of(r, DASS_GROUP_AF); i++)
        daf[i] += 0.9 * s->af_mom[i] + 0.03 * s->af[i];
    put_theta(r, s, -s->xi, dw, daf);
}

/* F(alpha) = L_val(theta'(alpha), alpha) */
static double unrolled_loss(rig *r, const start *s)
{
    put_unrolled(r, s);
    feed(r, VALIDATION);
    const double loss = rig_run(r, ALPHA);
    put_back(r, s);
    return loss;
}

static double difference(rig *r, const start *s, int64_t i)
{
    const double h = 1e-6;
    double *alpha = dass_arena_alloc(r->mem, (size_t)n_of(r, DASS_GROUP_ALPHA) * sizeof *alpha);
    double at[2];
    for (int k = 0; k < 2; k++) {
        memcpy(alpha, s->alpha, (size_t)n_of(r, DASS_GROUP_ALPHA) * sizeof *alpha);
        alpha[i] += k ? h : -h;
        write_buf(r, DASS_BUF_ALPHA, alpha);
        at[k] = unrolled_loss(r, s);
    }
    return (at[1] - at[0]) / (2 * h);
}

/* Gradient of alpha at theta + factor * v, training batch. */
static const double *shifted_gradient(rig *r, const start *s, double factor, const double *vw, const double *vaf)
{
    put_theta(r, s, factor, vw, vaf);
    feed(r, TRAINING);
    rig_run(r, ALPHA);
    put_back(r, s);
    return rig_read(r, DASS_BUF_ALPHA_GRAD);
}

/* The hypergradient with shifts of `length`, by gradients of the first-order graphs. first: without the correction. */
static double *composed(rig *r, const start *s, double length, double *first)
{
    put_unrolled(r, s);
    feed(r, VALIDATION);
    rig_run(r, ALPHA);
    double *d = rig_read(r, DASS_BUF_ALPHA_GRAD);
    rig_run(r, WEIGHTS);
    const double *vw = rig_read(r, DASS_BUF_W_GRAD);
    const double *vaf = rig_read(r, DASS_BUF_AF_GRAD);
    put_back(r, s);
    double norm2 = 0;
    for (int64_t i = 0; i < n_of(r, DASS_GROUP_W); i++)
        norm2 += vw[i] * vw[i];
    for (int64_t i = 0; i < n_of(r, DASS_GROUP_AF); i++)
        norm2 += vaf[i] * vaf[i];
    const double eps = length / sqrt(norm2);
    const double *p = shifted_gradient(r, s, eps, vw, vaf);
    const double *n = shifted_gradient(r, s, -eps, vw, vaf);
    for (int64_t i = 0; i < n_of(r, DASS_GROUP_ALPHA); i++) {
        first[i] = d[i];
        d[i] -= s->xi * (p[i] - n[i]) / (2 * eps);
    }
    return d;
}

static double distance(const double *a, const double *b, int64_t n)
{
    double d = 0.0;
    for (int64_t i = 0; i < n; i++)
        d = fmax(d, fabs(a[i] - b[i]));
    return d;
}

static double largest(const double *a, int64_t n)
{
    double d = 0.0;
    for (int64_t i = 0; i < n; i++)
        d = fmax(d, fabs(a[i]));
    return d;
}

/* Largest distance of `grad` from difference quotients of F, over every stride-th alpha. */
static double off_by(rig *r, const start *s, const double *grad, int64_t stride)
{
    double worst = 0;
    for (int64_t i = 0; i < n_of(r, DASS_GROUP_ALPHA); i += stride)
        worst = fmax(worst, fabs(grad[i] - difference(r, s, i)));
    return worst;
}

/* A network of both kinds of cells. Somewhere within a shift of 0.01 lie kinks of its relus and maxima, so the graphs'
 * quotient is compared with the same quotient composed here, and the composition, with a shift shorter than the way to
 * the nearest kink, with the derivative. */
static void check_composition(dass_stage stage)
{
    rig r;
    rig_open(&r, "ref64", stage, &plain);
    assert_true(n_of(&r, DASS_GROUP_ALPHA) <= MAX_ALPHA);
    const start s = start_of(&r, stage == DASS_STAGE_FINETUNE);
    second_order(&r);
    const double *got = rig_read(&r, DASS_BUF_ALPHA_GRAD);
    double first[MAX_ALPHA];
    const double *same = composed(&r, &s, DASS_SHIFT_LENGTH, first);
    if (distance(got, same, n_of(&r, DASS_GROUP_ALPHA)) > 1e-10)
        fail_msg("graphs and composition differ by %g", distance(got, same, n_of(&r, DASS_GROUP_ALPHA)));
    const double *fine = composed(&r, &s, 1e-7, first);
    const double correction = distance(fine, first, n_of(&r, DASS_GROUP_ALPHA));
    assert_true(correction > 0.05 * largest(first, n_of(&r, DASS_GROUP_ALPHA))); /* else there is little to see */
    const double off = off_by(&r, &s, fine, 7); /* every operation, edges of both kinds of cell */
    if (!(off < 1e-6 * correction))
        fail_msg("correction %g, off by %g", correction, off);
    rig_close(&r);
}

/* One cell of one node, started where no kink is near: the graphs' own result is the derivative up to the error of a
 * central quotient, which is a hundredth for a shift of a tenth. */
static void check_directly(dass_stage stage, uint64_t seed)
{
    const setting smooth = {1, 1, 4, seed};
    rig r;
    rig_open(&r, "ref64", stage, &smooth);
    assert_true(n_of(&r, DASS_GROUP_ALPHA) <= MAX_ALPHA);
    const start s = start_of(&r, stage == DASS_STAGE_FINETUNE);
    second_order(&r);
    const double *got = rig_read(&r, DASS_BUF_ALPHA_GRAD);
    double first[MAX_ALPHA];
    const double *tenth = composed(&r, &s, 0.1 * DASS_SHIFT_LENGTH, first);
    const double correction = distance(tenth, first, n_of(&r, DASS_GROUP_ALPHA));
    assert_true(correction > 0.2 * largest(first, n_of(&r, DASS_GROUP_ALPHA)));
    const double off = off_by(&r, &s, got, 1);
    const double tenth_off = off_by(&r, &s, tenth, 1);
    if (!(off < 1e-3 * correction && off > 80 * tenth_off && off < 120 * tenth_off))
        fail_msg("correction %g, off by %g, by %g with a tenth of the shift", correction, off, tenth_off);
    rig_close(&r);
}

static void dense_hypergradient_is_the_derivative(void **state)
{
    (void)state;
    check_composition(DASS_STAGE_DENSE);
    check_directly(DASS_STAGE_DENSE, 131);
}

static void finetune_hypergradient_is_the_derivative(void **state)
{
    (void)state;
    check_composition(DASS_STAGE_FINETUNE);
    check_directly(DASS_STAGE_FINETUNE, 149);
}

/* With xi = 0 nothing is unrolled and nothing corrected. */
static void without_a_step_it_is_the_first_order_gradient(void **state)
{
    (void)state;
    const dass_stage stages[] = {DASS_STAGE_DENSE, DASS_STAGE_FINETUNE};
    for (size_t k = 0; k < N_OF(stages); k++) {
        rig r;
        rig_open(&r, "ref64", stages[k], &plain);
        r.block.xi = 0;
        second_order(&r);
        const double *got = rig_read(&r, DASS_BUF_ALPHA_GRAD);
        feed(&r, VALIDATION);
        rig_run(&r, ALPHA);
        const double *want = rig_read(&r, DASS_BUF_ALPHA_GRAD);
        assert_true(largest(want, n_of(&r, DASS_GROUP_ALPHA)) > 1e-3);
        assert_true(distance(got, want, n_of(&r, DASS_GROUP_ALPHA)) == 0.0);
        rig_close(&r);
    }
}

/* ---- what must not change, what must ---------------------------------------------------------------------------- */

static void *read_bytes(const rig *r, dass_buf b, size_t *bytes)
{
    *bytes = dass_store_buf_bytes(r->s, b);
    void *p = dass_arena_alloc(r->mem, *bytes);
    check_ok(dass_store_read(r->s, b, p, *bytes));
    return p;
}

static void check_untouched(const char *backend, dass_stage stage)
{
    static const dass_buf bufs[] = {DASS_BUF_W,     DASS_BUF_AF,    DASS_BUF_W_MOM, DASS_BUF_AF_MOM,
                                    DASS_BUF_ALPHA, DASS_BUF_SCORE, DASS_BUF_BITS};
    const size_t n = stage == DASS_STAGE_FINETUNE ? 7 : 5;
    void *before[N_OF(bufs)];
    size_t bytes[N_OF(bufs)];
    rig r;
    rig_open(&r, backend, stage, &plain);
    for (size_t i = 0; i < n; i++)
        before[i] = read_bytes(&r, bufs[i], &bytes[i]);
    for (int times = 0; times < 3; times++) {
        for (uint32_t t = UNROLL; t <= HESSIAN_N; t++) {
            size_t w_bytes = 0;
            feed(&r, dass_task_validates(tasks[t]) ? VALIDATION : TRAINING);
            rig_run(&r, t);
            const void *w = read_bytes(&r, DASS_BUF_W, &w_bytes);
            assert_int_equal(memcmp(w, before[0], w_bytes) == 0, t == HESSIAN_N); /* it did move */
        }
        for (size_t i = 0; i < n; i++) { /* the learning rate of alpha is 0 */
            size_t now = 0;
            if (memcmp(read_bytes(&r, bufs[i], &now), before[i], bytes[i]) != 0)
                fail_msg("%s: %s has changed", backend, dass_buf_name(bufs[i]));
        }
    }
    rig_close(&r);
}

static void theta_comes_back_byte_for_byte(void **state)
{
    (void)state;
    const char *const backends[] = {"ref64", "ref", "host"};
    for (size_t i = 0; i < N_OF(backends); i++) {
        check_untouched(backends[i], DASS_STAGE_DENSE);
        check_untouched(backends[i], DASS_STAGE_FINETUNE);
    }
}

/* Gradient and v of pruned weights are zero, so they never move while theta is shifted. */
static void pruned_weights_are_not_shifted(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, "ref64", DASS_STAGE_FINETUNE, &plain);
    check_ok(dass_store_zero(r.s, DASS_BUF_W_MOM)); /* as at the start of the stage */
    const start s = start_of(&r, true);
    int64_t n_pruned = 0;
    for (uint32_t t = UNROLL; t <= HESSIAN_P; t++) {
        feed(&r, dass_task_validates(tasks[t]) ? VALIDATION : TRAINING);
        rig_run(&r, t);
        const double *w = rig_read(&r, DASS_BUF_W);
        for (int64_t i = 0; i < n_of(&r, DASS_GROUP_W); i++) {
            assert_true(kept(&s, i) || w[i] == s.w[i]);
            n_pruned += !kept(&s, i);
        }
    }
    assert_true(n_pruned > n_of(&r, DASS_GROUP_W) / 3);
    rig_close(&r);
}

static void adam_takes_the_hypergradient(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, "ref64", DASS_STAGE_DENSE, &plain);
    r.block.lr[3] = 0.01;
    r.block.weight_decay[3] = 0.1;
    fill_random(&r, DASS_BUF_ALPHA_M, 0.1);
    const double *m = rig_read(&r, DASS_BUF_ALPHA_M);
    const double *alpha = rig_read(&r, DASS_BUF_ALPHA);
    check_ok(dass_store_zero(r.s, DASS_BUF_ALPHA_V));
    second_order(&r);
    const double *g = rig_read(&r, DASS_BUF_ALPHA_GRAD);
    const double *now = rig_read(&r, DASS_BUF_ALPHA);
    for (int64_t i = 0; i < n_of(&r, DASS_GROUP_ALPHA); i++) {
        const double d = g[i] + 0.1 * alpha[i];
        const double want = alpha[i] - 0.01 * ((0.5 * m[i] + 0.5 * d) / 0.5) / (fabs(d) + 1e-8);
        assert_true(fabs(now[i] - want) < 1e-12 * (1 + fabs(want)));
    }
    rig_close(&r);
}

/* ---- backends and refusals -------------------------------------------------------------------------------------- */

/* A network in float: rounding and what batch norm over a few pixels makes of it, 1e-5 of the gradients. The two
 * gradients of the quotient cancel, and what is left of their errors is multiplied by xi / (2 eps). */
static void backends_agree(void **state)
{
    (void)state;
    const double tolerance = 3e-5;
    const dass_stage stages[] = {DASS_STAGE_DENSE, DASS_STAGE_FINETUNE};
    for (size_t k = 0; k < N_OF(stages); k++) {
        const char *const names[] = {"ref64", "ref", "host"};
        double got[3][MAX_ALPHA];
        double p[3][MAX_ALPHA];
        for (size_t i = 0; i < N_OF(names); i++) {
            rig r;
            rig_open(&r, names[i], stages[k], &plain);
            second_order(&r);
            assert_true(n_of(&r, DASS_GROUP_ALPHA) <= MAX_ALPHA);
            memcpy(got[i], rig_read(&r, DASS_BUF_ALPHA_GRAD), (size_t)n_of(&r, DASS_GROUP_ALPHA) * sizeof(double));
            memcpy(p[i], rig_read(&r, DASS_BUF_ALPHA_GRAD_P), (size_t)n_of(&r, DASS_GROUP_ALPHA) * sizeof(double));
            const double scale = largest(p[0], n_of(&r, DASS_GROUP_ALPHA));
            const double factor = r.block.xi * sqrt(rig_read(&r, DASS_BUF_NORM2)[0]) / (2 * DASS_SHIFT_LENGTH);
            const double p_off = distance(p[i], p[0], n_of(&r, DASS_GROUP_ALPHA));
            const double off = distance(got[i], got[0], n_of(&r, DASS_GROUP_ALPHA));
            if (!(p_off < tolerance * scale && off < tolerance * scale * (1 + factor)))
                fail_msg("%s: gradient %g differs by %g; hypergradient by %g, factor %g", names[i], scale, p_off, off,
                         factor);
            rig_close(&r);
        }
    }
}

static void score_stage_and_fixed_networks_are_refused(void **state)
{
    (void)state;
    dass_arch a = supernet(&plain);
    const dass_segment segment = {0, 1, 1};
    dass_store *s = NULL;
    dass_graph *g = NULL;
    dass_task order[DASS_MAX_ALPHA_TASKS];
    check_ok(dass_store_make(DASS_F64, &s));
    for (int i = UNROLL; i <= HESSIAN_N; i++) {
        dass_phase p = {.task = tasks[i],
                        .stage = DASS_STAGE_SCORE,
                        .batch = 1,
                        .mean = mean,
                        .std = dev,
                        .segments = &segment,
                        .n_segments = 1};
        assert_int_equal(dass_phase_build(s, &a, &p, DASS_F64, NULL, &g), DASS_UNSUPPORTED);
        assert_non_null(strstr(dass_error_text(), "flip bits of the mask"));
        p.stage = DASS_STAGE_DENSE;
        a.kind = DASS_NET_RESNET18;
        assert_int_equal(dass_phase_build(s, &a, &p, DASS_F64, NULL, &g), DASS_ARG);
        a.kind = DASS_NET_SUPERNET;
        assert_null(g);
    }
    dass_store_free(s);
    for (int order_of = 1; order_of <= 2; order_of++)
        for (int stage = DASS_STAGE_DENSE; stage <= DASS_STAGE_FINETUNE; stage++) {
            const bool second = order_of == 2 && stage != DASS_STAGE_SCORE;
            assert_int_equal(dass_alpha_tasks((dass_stage)stage, order_of, order), second ? 4 : 1);
            assert_int_equal(order[0], second ? DASS_TASK_UNROLL : DASS_TASK_ALPHA);
        }
}

/* ---- the ops alone: L_train = |w - A alpha|^2 / 2, L_val = |w - b|^2 / 2 + |alpha - c|^2 / 2 -------------------- */

enum { TOY_W = 130, TOY_ALPHA = 6 };

typedef struct toy {
    double a[TOY_W][TOY_ALPHA], b[TOY_W], c[TOY_ALPHA];
    double w[TOY_W], m[TOY_W], alpha[TOY_ALPHA];
} toy;

static void make_toy(toy *t)
{
    dass_rng rng = dass_rng_make(1, DASS_RNG_TEST, dass_name_hash("toy"), 0);
    double *x = &t->a[0][0];
    for (size_t i = 0; i < sizeof *t / sizeof *x; i++)
        x[i] = (double)(float)(2 * dass_rng_uniform(&rng) - 1);
}

/* Gradient of L_train by w, or by alpha. */
static void toy_by_w(const toy *t, const double *w, double *d)
{
    for (int i = 0; i < TOY_W; i++) {
        d[i] = w[i];
        for (int k = 0; k < TOY_ALPHA; k++)
            d[i] -= t->a[i][k] * t->alpha[k];
    }
}

static void toy_by_alpha(const toy *t, const double *w, double *d)
{
    double r[TOY_W];
    toy_by_w(t, w, r);
    for (int k = 0; k < TOY_ALPHA; k++) {
        d[k] = 0;
        for (int i = 0; i < TOY_W; i++)
            d[k] -= t->a[i][k] * r[i];
    }
}

static dass_val flat(dass_graph *g, dass_buf b, int32_t n)
{
    return dass_ref(g, dass_buf_name(b), b, 0, DASS_LAYOUT_FLAT, 1, &n);
}

/* Graphs: 0 copy and unroll, 1 norm and shift up, 2 shift down, 3 restore and correct. */
static dass_graph *toy_graph(int which, dass_dtype real, bool masked)
{
    const int32_t n_step = (int32_t)sizeof(dass_step_block);
    const int32_t n_w = TOY_W;
    dass_graph *g = NULL;
    check_ok(dass_graph_make(real, &g));
    const dass_val step = dass_ref_typed(g, "step", DASS_U8, DASS_BUF_STEP, 0, DASS_LAYOUT_FLAT, 1, &n_step);
    const dass_val bits = dass_ref_typed(g, "bits", DASS_BITS, DASS_BUF_BITS, 0, DASS_LAYOUT_FLAT, 1, &n_w);
    const dass_val w = flat(g, DASS_BUF_W, TOY_W);
    const dass_val v = flat(g, DASS_BUF_W_GRAD, TOY_W);
    if (which == 0)
        dass_copy(g, w, flat(g, DASS_BUF_W_SAVED, TOY_W));
    const dass_val saved = flat(g, DASS_BUF_W_SAVED, TOY_W);
    if (which == 0)
        dass_unroll(g, w, saved, flat(g, DASS_BUF_W_MOM, TOY_W), v, step, masked ? bits : 0, 0);
    if (which == 1)
        dass_place(g, dass_norm2(g, &v, 1), DASS_BUF_NORM2, 0);
    const dass_val norm2 = flat(g, DASS_BUF_NORM2, 1);
    if (which == 1 || which == 2)
        dass_shift(g, w, saved, v, norm2, which == 1 ? 1 : -1);
    if (which == 3) {
        dass_copy(g, saved, w);
        dass_hvp(g, flat(g, DASS_BUF_ALPHA_GRAD, TOY_ALPHA), flat(g, DASS_BUF_ALPHA_GRAD_P, TOY_ALPHA),
                 flat(g, DASS_BUF_ALPHA_GRAD_N, TOY_ALPHA), norm2, step);
    }
    check_ok(dass_graph_finish(g));
    return g;
}

static void toy_run(rig *r, int which, bool masked)
{
    dass_steps one;
    check_ok(
        dass_steps_wrap(toy_graph(which, r->be->ops->real, masked), r->be, &(dass_exec_options){.guard = true}, &one));
    check_ok(dass_steps_bind(r->s, &one));
    check_ok(dass_steps_run(r->s, &one, 0, &r->block, NULL, NULL));
    dass_steps_close(&one);
}

static void toy_open(rig *r, const char *backend)
{
    static const dass_param params[] = {
        {.name = "w", .group = DASS_GROUP_W, .kind = DASS_KIND_OTHER, .rank = 1, .dim = {TOY_W, 1, 1, 1}},
        {.name = "af", .group = DASS_GROUP_AF, .kind = DASS_KIND_OTHER, .rank = 1, .dim = {1, 1, 1, 1}},
        {.name = "alpha", .group = DASS_GROUP_ALPHA, .kind = DASS_KIND_OTHER, .rank = 1, .dim = {TOY_ALPHA, 1, 1, 1}},
        {.name = "stat", .group = DASS_GROUP_STAT, .kind = DASS_KIND_OTHER, .rank = 1, .dim = {1, 1, 1, 1}}};
    memset(r, 0, sizeof *r);
    check_ok(dass_backend_open(backend, &(dass_backend_options){.n_threads = 2}, &r->be));
    check_ok(dass_store_make(r->be->ops->real, &r->s));
    check_ok(dass_arena_make("test", &r->mem));
    for (size_t i = 0; i < N_OF(params); i++) {
        uint32_t index = 0;
        check_ok(dass_store_param(r->s, &params[i], &index));
    }
    dass_store_size(r->s, DASS_BUF_IMAGES, 1);
    dass_store_size(r->s, DASS_BUF_LABELS, 1);
    dass_store_size(r->s, DASS_BUF_SAMPLES, 1);
    check_ok(dass_store_commit(r->s, r->be, ((uint64_t)1 << DASS_N_BUFS) - 2));
    r->block = (dass_step_block){.weight_decay = {0.25, 0, 0, 0}, .momentum = 0.5, .xi = 0.125};
}

static void near(const double *a, const double *b, int n, double tolerance)
{
    for (int i = 0; i < n; i++)
        if (!(fabs(a[i] - b[i]) <= tolerance * (1 + fabs(b[i]))))
            fail_msg("[%d]: %.17g, expected %.17g within %g", i, a[i], b[i], tolerance);
}

/* b = w' asks for v = 0: nothing is shifted, nothing corrected. */
static void solve_toy(const char *backend, bool masked, bool at_optimum, double tolerance)
{
    toy t;
    rig r;
    double d[TOY_W];
    double w[TOY_W];
    uint64_t bits[3] = {0x5555aaaa0f0f3333u, 0x123456789abcdef0u, 2};
    make_toy(&t);
    toy_open(&r, backend);
    check_ok(dass_store_write(r.s, DASS_BUF_BITS, bits, sizeof bits));
    write_buf(&r, DASS_BUF_W, t.w);
    write_buf(&r, DASS_BUF_W_MOM, t.m);
    toy_by_w(&t, t.w, d);
    write_buf(&r, DASS_BUF_W_GRAD, d);
    toy_run(&r, 0, masked);
    for (int i = 0; i < TOY_W; i++) {
        const double decay = !masked || (bits[i / 64] >> (i % 64) & 1) ? 0.25 : 0;
        w[i] = t.w[i] - 0.125 * (0.5 * t.m[i] + d[i] + decay * t.w[i]);
    }
    near(rig_read(&r, DASS_BUF_W), w, TOY_W, tolerance);

    double v[TOY_W];
    double norm2 = 0;
    for (int i = 0; i < TOY_W; i++) {
        v[i] = at_optimum ? 0 : w[i] - t.b[i];
        norm2 += v[i] * v[i];
    }
    write_buf(&r, DASS_BUF_W_GRAD, v);
    double hyper[TOY_ALPHA];
    for (int k = 0; k < TOY_ALPHA; k++)
        hyper[k] = t.alpha[k] - t.c[k];
    write_buf(&r, DASS_BUF_ALPHA_GRAD, hyper);
    const double *first = rig_read(&r, DASS_BUF_ALPHA_GRAD); /* rounded to the store's type */
    for (int sign = 0; sign < 2; sign++) {
        double shifted[TOY_W];
        double by_alpha[TOY_ALPHA];
        toy_run(&r, 1 + sign, masked);
        for (int i = 0; i < TOY_W; i++)
            shifted[i] = t.w[i] + (at_optimum ? 0 : (sign ? -1 : 1) * 0.01 / sqrt(norm2) * v[i]);
        const double *got = rig_read(&r, DASS_BUF_W);
        near(got, shifted, TOY_W, tolerance);
        if (at_optimum)
            assert_memory_equal(got, t.w, sizeof t.w);
        toy_by_alpha(&t, got, by_alpha);
        write_buf(&r, sign ? DASS_BUF_ALPHA_GRAD_N : DASS_BUF_ALPHA_GRAD_P, by_alpha);
    }
    near(rig_read(&r, DASS_BUF_NORM2), &norm2, 1, tolerance);
    toy_run(&r, 3, masked);
    assert_memory_equal(rig_read(&r, DASS_BUF_W), t.w, sizeof t.w);
    for (int k = 0; k < TOY_ALPHA; k++) /* grad_alpha grad_w L_train = -A, so the correction is xi A^T v */
        for (int i = 0; i < TOY_W; i++)
            hyper[k] += 0.125 * t.a[i][k] * v[i];
    near(rig_read(&r, DASS_BUF_ALPHA_GRAD), hyper, TOY_ALPHA, 1e3 * tolerance);
    if (at_optimum)
        assert_memory_equal(rig_read(&r, DASS_BUF_ALPHA_GRAD), first, sizeof hyper);
    rig_close(&r);
}

static void a_bilevel_problem_with_a_known_answer(void **state)
{
    (void)state;
    for (int masked = 0; masked < 2; masked++)
        for (int at_optimum = 0; at_optimum < 2; at_optimum++) {
            solve_toy("ref64", masked, at_optimum, 1e-14);
            solve_toy("ref", masked, at_optimum, 1e-6);
            solve_toy("host", masked, at_optimum, 1e-6);
        }
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        dass_graph *g = NULL;
        const int32_t n_step = (int32_t)sizeof(dass_step_block);
        check_ok(dass_graph_make(DASS_F32, &g));
        const dass_val step = dass_ref_typed(g, "step", DASS_U8, DASS_BUF_STEP, 0, DASS_LAYOUT_FLAT, 1, &n_step);
        const dass_val x = flat(g, DASS_BUF_W, 8);
        const dass_val y = flat(g, DASS_BUF_W_SAVED, 8);
        const dass_val other = flat(g, DASS_BUF_W_GRAD, 7);
        const dass_val one = flat(g, DASS_BUF_NORM2, 1);
        if (i == 0)
            dass_unroll(g, x, y, y, other, step, 0, 0);
        if (i == 1)
            dass_unroll(g, x, y, y, y, step, 0, 4);
        if (i == 2)
            dass_shift(g, x, y, y, one, 2);
        if (i == 3)
            dass_hvp(g, x, y, y, y, step);
        assert_int_equal(dass_graph_finish(g), DASS_ARG);
        dass_graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest list[] = {
        cmocka_unit_test(a_bilevel_problem_with_a_known_answer),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(dense_hypergradient_is_the_derivative),
        cmocka_unit_test(finetune_hypergradient_is_the_derivative),
        cmocka_unit_test(without_a_step_it_is_the_first_order_gradient),
        cmocka_unit_test(theta_comes_back_byte_for_byte),
        cmocka_unit_test(pruned_weights_are_not_shifted),
        cmocka_unit_test(adam_takes_the_hypergradient),
        cmocka_unit_test(backends_agree),
        cmocka_unit_test(score_stage_and_fixed_networks_are_refused),
    };
    return cmocka_run_group_tests(list, NULL, NULL);
}
