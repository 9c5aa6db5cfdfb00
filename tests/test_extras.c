/* What training adds to a network and evaluation never sees: drop-path, the auxiliary head, averages of the parameters.
 * Draws are held against their formula and their frequency, gradients against differences of a graph that this file
 * builds itself, averages against a plain loop; the host backend against the reference. The networks are small in
 * channels only: a head needs 8x8 pixels behind two reductions.
 */
#include <math.h>
#include <stdlib.h>

#include "rig.h"

enum { BATCH = 5, IMAGE = 32, CLASSES = 4, PIXELS = 3 * IMAGE * IMAGE };

static const double mean[3] = {0.5, 0.4, 0.45};
static const double dev[3] = {0.25, 0.2, 0.3};
static const double aux_weight = 0.4;

/* Every operation, and identities of both strides. */
static dass_arch cells(void)
{
    return (dass_arch){.kind = DASS_NET_CELLS,
                       .channels = 2,
                       .layers = 3,
                       .nodes = 3,
                       .classes = CLASSES,
                       .in_channels = 3,
                       .image = IMAGE,
                       .genotype = {.n_nodes = 3,
                                    .normal = {{DASS_PRIM_SEP_3, 0},
                                               {DASS_PRIM_SKIP, 1},
                                               {DASS_PRIM_AVG_POOL_3, 0},
                                               {DASS_PRIM_DIL_5, 2},
                                               {DASS_PRIM_MAX_POOL_3, 1},
                                               {DASS_PRIM_SKIP, 2}},
                                    .reduce = {{DASS_PRIM_SKIP, 0},
                                               {DASS_PRIM_DIL_3, 1},
                                               {DASS_PRIM_SKIP, 2},
                                               {DASS_PRIM_MAX_POOL_3, 1},
                                               {DASS_PRIM_SEP_5, 0},
                                               {DASS_PRIM_AVG_POOL_3, 3}},
                                    .n_normal_concat = 3,
                                    .n_reduce_concat = 3,
                                    .normal_concat = {2, 3, 4},
                                    .reduce_concat = {2, 3, 4}}};
}

static dass_phase phase_of(dass_task task, dass_stage stage)
{
    return (dass_phase){.task = task,
                        .stage = stage,
                        .batch = BATCH,
                        .lower = DASS_LOWER_ALL,
                        .label_smoothing = 0.1,
                        .mean = mean,
                        .std = dev,
                        .drop_path = true,
                        .auxiliary = aux_weight,
                        .ema = true};
}

/* ---- a store with its phases --------------------------------------------------------------------------------- */

static void write_batch(const rig *r)
{
    static uint8_t images[BATCH * PIXELS];
    int32_t labels[BATCH];
    int32_t samples[BATCH];
    dass_rng rng = dass_rng_make(5, DASS_RNG_TEST, dass_name_hash("batch"), 0);
    for (size_t i = 0; i < sizeof images; i++)
        images[i] = (uint8_t)dass_rng_below(&rng, 256);
    for (int i = 0; i < BATCH; i++) {
        labels[i] = i % CLASSES;
        samples[i] = 1000 + 7 * i;
    }
    check_ok(dass_steps_feed(r->s, DASS_INPUTS_MAIN, images, PIXELS, labels, samples, BATCH));
}

/* The first phase has the head, when any has. Learning rates are 0 unless the test sets them. */
static void rig_open(rig *r, const char *backend, const dass_arch *a, dass_phase *phases, uint32_t n)
{
    memset(r, 0, sizeof *r);
    check_ok(dass_backend_open(backend, NULL, &r->be));
    check_ok(dass_store_make(r->be->ops->real, &r->s));
    check_ok(dass_arena_make("test", &r->mem));
    dass_graph *g = NULL;
    dass_phase first = phases[0];
    first.stage = DASS_STAGE_DENSE;
    check_ok(dass_phase_build(r->s, a, &first, r->be->ops->real, r->be, &g));
    dass_graph_free(g);
    check_ok(dass_density_allocate(r->s, DASS_ALLOC_UNIFORM, 0.3, NULL, r->mem, &r->segments, &r->n_segments));
    for (uint32_t i = 0; i < n; i++) {
        phases[i].segments = r->segments;
        phases[i].n_segments = r->n_segments;
    }
    check_ok(dass_steps_plan(r->s, a, phases, n, r->be, &(dass_exec_options){.guard = true}, &r->steps));
    check_ok(dass_steps_bind(r->s, &r->steps));
    check_ok(dass_store_init(r->s, 11));
    write_batch(r);
    r->block = (dass_step_block){.seed = 0x123456789abcdefu, .epoch = 2, .step = 17, .drop_path = 0.3, .ema = 0.9};
}

static uint32_t count_ops(const dass_graph *g, dass_op op)
{
    uint32_t n = 0;
    for (dass_node i = 1; i < g->n_nodes; i++)
        n += g->nodes[i].op == op;
    return n;
}

/* ---- draws --------------------------------------------------------------------------------------------------- */

enum { ROWS = 4096, B_X = 1, B_SAMPLES, B_STEP, B_Y, N_BUFS };

/* y = drop_path(x) of rows of two ones, run on the double reference. */
static void draw(const int32_t *samples, int32_t rows, const dass_step_block *step, const char *name, double *y)
{
    static double x[2 * ROWS];
    for (int i = 0; i < 2 * ROWS; i++)
        x[i] = 1.0;
    const int32_t image[4] = {rows, 2, 1, 1};
    const int32_t step_bytes = (int32_t)sizeof *step;
    dass_step_block block = *step;
    int32_t own[ROWS];
    memcpy(own, samples, (size_t)rows * sizeof *own);
    dass_backend *be = NULL;
    dass_graph *g = NULL;
    dass_exec *e = NULL;
    dass_program *p = NULL;
    check_ok(dass_backend_open("ref64", NULL, &be));
    check_ok(dass_graph_make(DASS_F64, &g));
    const dass_val s = dass_ref_typed(g, "samples", DASS_I32, B_SAMPLES, 0, DASS_LAYOUT_FLAT, 1, &rows);
    const dass_val b = dass_ref_typed(g, "step", DASS_U8, B_STEP, 0, DASS_LAYOUT_FLAT, 1, &step_bytes);
    const dass_val v =
        dass_drop_path(g, dass_ref(g, "x", B_X, 0, DASS_LAYOUT_NHWC, 4, image), s, b, dass_name_hash(name));
    dass_place(g, v, B_Y, 0);
    check_ok(dass_graph_finish(g));
    check_ok(dass_exec_make(be, g, &(dass_exec_options){0}, &e));
    void *const bufs[N_BUFS] = {NULL, x, own, &block, y};
    check_ok(dass_program_make(be, &e, 1, bufs, N_BUFS, &p));
    check_ok(dass_program_run(p));
    dass_program_free(p);
    dass_exec_free(e);
    dass_graph_free(g);
    dass_backend_close(be);
}

/* Rows that two draws both keep or both drop. */
static int agreement(const double *a, const double *b)
{
    int n = 0;
    for (int i = 0; i < ROWS; i++)
        n += (a[2 * i] == 0.0) == (b[2 * i] == 0.0);
    return n;
}

static void draws_have_their_frequency(void **state)
{
    (void)state;
    static int32_t samples[ROWS];
    static double y[2 * ROWS];
    for (int i = 0; i < ROWS; i++)
        samples[i] = i;
    const double rates[] = {0.05, 0.3, 0.5, 0.9};
    for (size_t k = 0; k < N_OF(rates); k++) {
        const double p = rates[k];
        draw(samples, ROWS, &(dass_step_block){.seed = 9, .epoch = 1, .step = 3, .drop_path = p}, "cells.0.n2.e0", y);
        int dropped = 0;
        double sum = 0.0;
        for (int i = 0; i < ROWS; i++) {
            assert_true(y[2 * i] == y[2 * i + 1]); /* rows drop as a whole */
            assert_true(y[2 * i] == 0.0 || y[2 * i] == 1.0 / (1.0 - p));
            dropped += y[2 * i] == 0.0;
            sum += y[2 * i];
        }
        const double sigma = sqrt(p * (1.0 - p) / ROWS); /* four of them: once in 16,000 seeds */
        assert_true(fabs((double)dropped / ROWS - p) < 4.0 * sigma);
        assert_true(fabs(sum / ROWS - 1.0) < 4.0 * sigma / (1.0 - p));
    }
    draw(samples, ROWS, &(dass_step_block){.drop_path = 0.0}, "a", y);
    for (int i = 0; i < 2 * ROWS; i++)
        assert_true(y[i] == 1.0);
    draw(samples, ROWS, &(dass_step_block){.drop_path = 1.0}, "a", y);
    assert_true(all_zero(y, sizeof y));
}

/* The formula of graph.h, written out once more, and what it makes the draw depend on. */
static void draws_follow_their_formula(void **state)
{
    (void)state;
    static int32_t samples[ROWS];
    static double first[2 * ROWS];
    static double y[2 * ROWS];
    const dass_step_block block = {.seed = 0xfedcba9876543210u, .epoch = 5, .step = 40, .drop_path = 0.4};
    const char *name = "cells.3.n4.e1";
    for (int i = 0; i < ROWS; i++)
        samples[i] = 3 * i + 1;
    draw(samples, ROWS, &block, name, first);
    const uint64_t h = dass_name_hash(name);
    for (int i = 0; i < ROWS; i++) {
        const uint32_t counter[4] = {(uint32_t)samples[i], 5, 40, (uint32_t)h ^ (uint32_t)(h >> 32)};
        const uint32_t key[2] = {0x76543210u ^ DASS_RNG_DROP_PATH, 0xfedcba98u};
        uint32_t word[4];
        dass_philox(counter, key, word);
        assert_true((first[2 * i] == 0.0) == (word[0] / 4294967296.0 < 0.4));
    }
    /* another row of a smaller batch, in another order */
    int32_t some[] = {samples[700], samples[2], samples[4095], samples[2], samples[0]};
    const int at[] = {700, 2, 4095, 2, 0};
    draw(some, (int32_t)N_OF(some), &block, name, y);
    for (size_t i = 0; i < N_OF(some); i++)
        assert_true(y[2 * i] == first[2 * at[i]]);
    /* anything else gives other draws: they agree by chance, 0.4^2 + 0.6^2 of the rows */
    dass_step_block other[] = {block, block, block, block};
    other[0].epoch++;
    other[1].step++;
    other[2].seed ^= (uint64_t)1 << 40;
    for (size_t i = 0; i < N_OF(other); i++) {
        draw(samples, ROWS, &other[i], i == 3 ? "cells.3.n4.e0" : name, y);
        assert_true(abs(agreement(first, y) - (int)(0.52 * ROWS)) < 4.0 * sqrt(0.52 * 0.48 * ROWS));
    }
}

static void bad_drop_paths_are_refused(void **state)
{
    (void)state;
    const int32_t image[4] = {3, 2, 1, 1};
    const int32_t sizes[] = {3, 4, 256, 255};
    for (int i = 0; i < 4; i++) {
        dass_graph *g = NULL;
        check_ok(dass_graph_make(DASS_F64, &g));
        const dass_val x = dass_ref(g, "x", B_X, 0, DASS_LAYOUT_NHWC, 4, image);
        const dass_val s = dass_ref_typed(g, "samples", DASS_I32, B_SAMPLES, 0, DASS_LAYOUT_FLAT, 1, &sizes[i == 1]);
        const dass_val b = dass_ref_typed(g, "step", DASS_U8, B_STEP, 0, DASS_LAYOUT_FLAT, 1, &sizes[2 + (i == 2)]);
        const dass_val y = dass_drop_path(g, x, i == 3 ? 0 : s, b, 1);
        assert_int_equal(g->status, i ? DASS_ARG : DASS_OK);
        assert_int_equal(y == 0, i != 0);
        dass_graph_free(g);
    }
}

/* ---- what graphs contain ------------------------------------------------------------------------------------- */

/* Edges of the network that drop: all but identities of stride 1. */
static uint32_t dropping_edges(const dass_arch *a)
{
    uint32_t n = 0;
    for (int32_t c = 0; c < a->layers; c++) {
        const bool reduces = c == a->layers / 3 || c == 2 * a->layers / 3;
        const dass_gene *genes = reduces ? a->genotype.reduce : a->genotype.normal;
        for (int32_t i = 0; i < 2 * a->nodes; i++)
            n += !(genes[i].op == DASS_PRIM_SKIP && !(reduces && genes[i].src < 2));
    }
    return n;
}

static bool mentions_head(const dass_graph *g)
{
    for (dass_val v = 1; v < g->n_vals; v++)
        if (strncmp(g->vals[v].name, "auxiliary", 9) == 0)
            return true;
    return false;
}

static bool uses(const dass_graph *g, dass_buf b)
{
    return dass_graph_bufs(g) >> b & 1;
}

static void only_training_has_extras(void **state)
{
    (void)state;
    const dass_arch a = cells();
    dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE), phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_SCORE),
                      phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_FINETUNE), phase_of(DASS_TASK_EVAL, DASS_STAGE_DENSE),
                      phase_of(DASS_TASK_EVAL, DASS_STAGE_SCORE)};
    rig r;
    rig_open(&r, "ref64", &a, p, N_OF(p));
    for (uint32_t i = 0; i < N_OF(p); i++) {
        const dass_graph *g = r.steps.graph[i];
        const bool trains = p[i].task == DASS_TASK_WEIGHTS;
        const bool scores = p[i].stage == DASS_STAGE_SCORE;
        const uint32_t forward = dropping_edges(&a);
        /* gradients of paths into the stem too, so as many again */
        assert_int_equal(count_ops(g, DASS_OP_DROP_PATH), trains ? 2 * forward : 0);
        assert_int_equal(mentions_head(g), trains);
        assert_int_equal(count_ops(g, DASS_OP_XENT), trains ? 2 : 1);
        assert_int_equal(count_ops(g, DASS_OP_EMA), !trains ? 0 : scores ? 2 : 3);
        assert_int_equal(uses(g, DASS_BUF_W_EMA), trains && !scores);
        assert_int_equal(uses(g, DASS_BUF_STAT_EMA), trains);
    }
    assert_int_equal(dropping_edges(&a), 14); /* by hand: 4 of a normal cell, 5 of a reduction */
    rig_close(&r);
}

/* The head comes last, is in no count and leaves the main network's layout alone. */
static void head_stands_aside(void **state)
{
    (void)state;
    const dass_arch a = cells();
    dass_phase with[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE)};
    dass_phase without[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE)};
    without[0].auxiliary = 0.0;
    rig r[2];
    rig_open(&r[0], "ref64", &a, without, 1);
    rig_open(&r[1], "ref64", &a, with, 1);
    const uint32_t n = dass_store_n_params(r[0].s);
    const uint32_t all = dass_store_n_params(r[1].s);
    int64_t aux_w = 0;
    for (uint32_t i = 0; i < all; i++) {
        const dass_param *p = dass_store_get(r[1].s, i);
        assert_int_equal(p->auxiliary, i >= n);
        assert_int_equal(p->auxiliary, strncmp(p->name, "auxiliary.", 10) == 0);
        aux_w += p->auxiliary && p->group == DASS_GROUP_W ? p->count : 0;
        if (i >= n)
            continue;
        const dass_param *q = dass_store_get(r[0].s, i);
        assert_string_equal(p->name, q->name);
        assert_int_equal(p->group, q->group);
        assert_int_equal(p->offset, q->offset);
    }
    const int32_t c = 4 * 2 * 3; /* channels at the tap: two reductions, three nodes */
    assert_int_equal(aux_w, 128 * c + 768 * 128 * 4 + CLASSES * 768);
    dass_net_count count;
    check_ok(dass_net_measure(&a, DASS_LOWER_ALL, &count));
    assert_int_equal(count.weights, dass_store_count(r[0].s, DASS_GROUP_W));
    assert_int_equal(count.weights, dass_store_count(r[1].s, DASS_GROUP_W) - aux_w);
    assert_int_equal(count.unpruned, dass_store_count(r[0].s, DASS_GROUP_AF));
    for (int64_t i = 0; i < r[1].n_segments; i++) {
        const bool main_network = i < r[0].n_segments;
        assert_int_equal(r[1].segments[i].kept, main_network ? r[0].segments[i].kept : r[1].segments[i].count);
    }
    rig_close(&r[0]);
    rig_close(&r[1]);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    dass_arch a = cells();
    const dass_phase p = phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE);
    dass_store *s = NULL;
    dass_graph *g = NULL;
    check_ok(dass_store_make(DASS_F32, &s));
    a.image = 28;
    assert_fails(dass_phase_build(s, &a, &p, DASS_F32, NULL, &g), DASS_CONFIG,
                 "net.image is 28, so cell 2 gives 7x7 pixels, and train.auxiliary puts a head there that needs 8 to "
                 "10; use a net.image of 32 to 40 in steps of 4, or no auxiliary head");
    a.image = 44;
    assert_int_equal(dass_phase_build(s, &a, &p, DASS_F32, NULL, &g), DASS_CONFIG);
    dass_phase q = p;
    q.auxiliary = -1.0;
    assert_int_equal(dass_phase_build(s, &a, &q, DASS_F32, NULL, &g), DASS_ARG);
    q.auxiliary = (double)NAN;
    assert_int_equal(dass_phase_build(s, &a, &q, DASS_F32, NULL, &g), DASS_ARG);
    dass_store_free(s);
    const dass_net_kind others[] = {DASS_NET_SUPERNET, DASS_NET_RESNET18, DASS_NET_MOBILENET_V2};
    for (size_t i = 0; i < 2 * N_OF(others); i++) { /* each extra alone */
        a = cells();
        a.kind = others[i / 2];
        q = p;
        q.drop_path = i % 2;
        q.auxiliary = i % 2 ? 0.0 : aux_weight;
        check_ok(dass_store_make(DASS_F32, &s));
        assert_int_equal(dass_phase_build(s, &a, &q, DASS_F32, NULL, &g), DASS_CONFIG);
        assert_non_null(strstr(dass_error_text(), "derived cell networks"));
        dass_store_free(s);
    }
    assert_null(g);
}

/* The sizes that the message of the last test promises do fit, and ImageNet's form has its own. */
static void heads_fit_the_promised_sizes(void **state)
{
    (void)state;
    static const struct {
        dass_form form;
        int32_t image;
        dass_status want;
    } tries[] = {{DASS_FORM_CIFAR, 32, DASS_OK},         {DASS_FORM_CIFAR, 40, DASS_OK},
                 {DASS_FORM_IMAGENET, 224, DASS_OK},     {DASS_FORM_IMAGENET, 256, DASS_OK},
                 {DASS_FORM_IMAGENET, 192, DASS_CONFIG}, {DASS_FORM_IMAGENET, 288, DASS_CONFIG}};
    for (size_t i = 0; i < N_OF(tries); i++) {
        dass_arch a = cells();
        a.form = tries[i].form;
        a.image = tries[i].image;
        dass_store *s = NULL;
        dass_graph *g = NULL;
        check_ok(dass_store_make(DASS_F32, &s));
        check_ok(dass_graph_make(DASS_F32, &g));
        const int32_t dim[4] = {2, 3, a.image, a.image};
        const dass_val x = dass_ref(g, "x", DASS_BUF_IMAGES, 0, DASS_LAYOUT_NHWC, 4, dim);
        dass_val logits[2] = {0, 0};
        const dass_net_extras extras = {.auxiliary = true};
        assert_int_equal(dass_net_build(g, s, &a, DASS_WEIGHTS_DENSE, DASS_NORM_BATCH, x, &extras, &logits[0],
                                        &logits[1]),
                         tries[i].want);
        for (int k = 0; k < 2 && tries[i].want == DASS_OK; k++) {
            const int32_t want[4] = {2, CLASSES, 1, 1};
            assert_memory_equal(g->vals[logits[k]].dim, want, sizeof want);
        }
        dass_graph_free(g);
        dass_store_free(s);
    }
}

/* ---- gradients ----------------------------------------------------------------------------------------------- */

static dass_val input(dass_graph *g, const char *name, dass_dtype t, dass_buf b, int32_t rank, const int32_t *dim)
{
    return dass_ref_typed(g, name, t, b, 0, rank == 4 ? DASS_LAYOUT_NHWC : DASS_LAYOUT_FLAT, rank, dim);
}

/* Both losses, forward only and never lowered: the main one in LOSS, the head's in NORM2. */
static void forward_graph(const rig *r, const dass_arch *a, dass_graph **out)
{
    const int32_t image[4] = {BATCH, 3, IMAGE, IMAGE};
    const int32_t rows = BATCH;
    const int32_t bytes = (int32_t)sizeof(dass_step_block);
    dass_graph *g = NULL;
    check_ok(dass_graph_make(DASS_F64, &g));
    const dass_val step = input(g, "step", DASS_U8, DASS_BUF_STEP, 1, &bytes);
    const dass_val labels = input(g, "labels", DASS_I32, DASS_BUF_LABELS, 1, &rows);
    const dass_val samples = input(g, "samples", DASS_I32, DASS_BUF_SAMPLES, 1, &rows);
    const dass_val images = input(g, "images", DASS_U8, DASS_BUF_IMAGES, 4, image);
    const dass_val x = dass_augment(g, images, samples, step, mean, dev, 0, false, 0);
    const dass_net_extras extras = {.samples = samples, .step = step, .drop_path = true, .auxiliary = true};
    dass_val logits[2] = {0, 0};
    check_ok(dass_net_build(g, r->s, a, DASS_WEIGHTS_DENSE, DASS_NORM_BATCH, x, &extras, &logits[0], &logits[1]));
    for (int k = 0; k < 2; k++) {
        dass_val loss = 0;
        dass_val correct = 0;
        dass_xent(g, logits[k], labels, step, 0.1, &loss, &correct);
        dass_place(g, loss, k ? DASS_BUF_NORM2 : DASS_BUF_LOSS, 0);
    }
    check_ok(dass_graph_finish(g));
    *out = g;
}

static double joint_loss(rig *r, dass_steps *f)
{
    double loss = 0.0;
    check_ok(dass_steps_run(r->s, f, 0, &r->block, &loss, NULL));
    return loss + aux_weight * rig_read(r, DASS_BUF_NORM2)[0];
}

/* Relative to the largest entry of the tensor's gradient, as a batch norm behind a tensor makes much of it tiny. A
 * second, smaller step for differences that straddle a kink. */
static void check_param(rig *r, dass_steps *f, const dass_param *p, dass_buf b, const double *grad)
{
    static const double steps[] = {1e-5, 1e-6};
    const int64_t n = dass_store_buf_count(r->s, b);
    double *x = rig_read(r, b);
    double scale = 1e-3;
    int64_t at = p->offset;
    for (int64_t i = p->offset; i < p->offset + p->count; i++)
        at = fabs(grad[i]) > fabs(grad[at]) ? i : at;
    scale = fmax(scale, fabs(grad[at]));
    double error = INFINITY;
    double want = 0.0;
    for (size_t k = 0; k < N_OF(steps) && !(error < 1e-5); k++) {
        const double start = x[at];
        double side[2];
        for (int i = 0; i < 2; i++) {
            x[at] = start + (i ? -steps[k] : steps[k]);
            check_ok(dass_store_write_real(r->s, b, x, n));
            side[i] = joint_loss(r, f);
        }
        x[at] = start;
        check_ok(dass_store_write_real(r->s, b, x, n));
        want = (side[0] - side[1]) / (2.0 * steps[k]);
        error = fabs(want - grad[at]) / scale;
    }
    if (!(error < 1e-5))
        fail_msg("%s: gradient %.12g, difference quotient %.12g", p->name, grad[at], want);
}

static void gradient_is_that_of_both_losses(void **state)
{
    (void)state;
    const dass_arch a = cells();
    dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE), phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE)};
    p[1].auxiliary = 0.0;
    rig r;
    rig_open(&r, "ref64", &a, p, 2);
    dass_graph *g = NULL;
    dass_steps f;
    forward_graph(&r, &a, &g);
    check_ok(dass_steps_wrap(g, r.be, &(dass_exec_options){0}, &f));
    check_ok(dass_steps_bind(r.s, &f));
    const double loss = rig_run(&r, 0);
    const double *w = rig_read(&r, DASS_BUF_W_GRAD);
    const double *af = rig_read(&r, DASS_BUF_AF_GRAD);
    double main_loss = 0.0;
    check_ok(dass_steps_run(r.s, &f, 0, &r.block, &main_loss, NULL));
    assert_true(fabs(loss - main_loss) < 1e-12); /* LOSS is the main classifier's alone */
    assert_true(loss == rig_run(&r, 1));
    for (uint32_t i = 0; i < dass_store_n_params(r.s); i++) {
        const dass_param *q = dass_store_get(r.s, i);
        if (q->group == DASS_GROUP_W)
            check_param(&r, &f, q, DASS_BUF_W, w);
        else if (q->group == DASS_GROUP_AF && (q->auxiliary || i % 3 == 0))
            check_param(&r, &f, q, DASS_BUF_AF, af);
        double most = 0.0;
        for (int64_t k = 0; k < q->count && q->auxiliary && q->group == DASS_GROUP_W; k++)
            most = fmax(most, fabs(w[q->offset + k]));
        assert_int_equal(most > 0.0, q->auxiliary && q->group == DASS_GROUP_W);
    }
    dass_steps_close(&f);
    rig_close(&r);
}

static void bad_losses_are_refused(void **state)
{
    (void)state;
    const int32_t sizes[] = {2, 256, 1};
    const int32_t dim[4] = {2, CLASSES, 1, 1};
    for (int i = 0; i < 3; i++) { /* in order; the logits are no loss; a weight is one number */
        dass_graph *g = NULL;
        check_ok(dass_graph_make(DASS_F64, &g));
        const dass_val x = dass_relu(g, dass_ref(g, "x", DASS_BUF_W, 0, DASS_LAYOUT_NHWC, 4, dim), DASS_ACT_RELU);
        const dass_val labels = input(g, "labels", DASS_I32, DASS_BUF_LABELS, 1, &sizes[0]);
        const dass_val step = input(g, "step", DASS_U8, DASS_BUF_STEP, 1, &sizes[1]);
        const dass_val one = input(g, "weight", DASS_F64, DASS_BUF_AUX_WEIGHT, 1, &sizes[i == 2 ? 0 : 2]);
        dass_val loss = 0;
        dass_val correct = 0;
        dass_xent(g, x, labels, step, 0.0, &loss, &correct);
        const dass_val losses[] = {loss, i == 1 ? x : loss};
        const dass_val weights[] = {0, one};
        assert_int_equal(dass_graph_grad_losses(g, losses, weights, 2, &(dass_wrt){DASS_BUF_W, DASS_BUF_W_GRAD}, 1),
                         i ? DASS_ARG : DASS_OK);
        dass_graph_free(g);
    }
}

/* A probability of 0 is no drop-path, to the last bit. Lowering is off for the sums: a batch norm in front of a dropped
 * path is not part of a weighted sum, which rounds differently. */
static void probability_zero_changes_nothing(void **state)
{
    (void)state;
    const dass_arch a = cells();
    const char *const backends[] = {"ref64", "host"};
    for (size_t k = 0; k < N_OF(backends); k++) {
        dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE), phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE)};
        p[0].lower = p[1].lower = DASS_LOWER_DWPW;
        p[1].drop_path = false;
        rig r;
        rig_open(&r, backends[k], &a, p, 2);
        const double dropped = rig_run(&r, 0);
        const double *before = rig_read(&r, DASS_BUF_W_GRAD);
        r.block.drop_path = 0.0;
        const double loss = rig_run(&r, 0);
        const double *w = rig_read(&r, DASS_BUF_W_GRAD);
        const double *af = rig_read(&r, DASS_BUF_AF_GRAD);
        const size_t n = (size_t)dass_store_count(r.s, DASS_GROUP_W) * sizeof *w;
        assert_true(loss != dropped);
        assert_memory_not_equal(w, before, n);
        assert_true(loss == rig_run(&r, 1));
        assert_memory_equal(w, rig_read(&r, DASS_BUF_W_GRAD), n);
        assert_memory_equal(af, rig_read(&r, DASS_BUF_AF_GRAD),
                            (size_t)dass_store_count(r.s, DASS_GROUP_AF) * sizeof *af);
        rig_close(&r);
    }
}

/* ---- masks --------------------------------------------------------------------------------------------------- */

static void masks_keep_the_head_whole(void **state)
{
    (void)state;
    const dass_arch a = cells();
    dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_SCORE), phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_FINETUNE)};
    rig r;
    rig_open(&r, "ref64", &a, p, 2);
    check_ok(dass_store_init_scores(r.s));
    rig_run(&r, 0);
    const double *w = rig_read(&r, DASS_BUF_W);
    const double *masked = rig_read(&r, DASS_BUF_MASKED);
    const double *score_grad = rig_read(&r, DASS_BUF_SCORE_GRAD);
    double norm2 = 0.0;
    for (uint32_t i = 0; i < dass_store_n_params(r.s); i++) {
        const dass_param *q = dass_store_get(r.s, i);
        if (q->group != DASS_GROUP_W)
            continue;
        int64_t kept = 0;
        for (int64_t k = q->offset; k < q->offset + q->count; k++) {
            assert_true(masked[k] == w[k] || masked[k] == 0.0);
            kept += masked[k] == w[k];
            norm2 += score_grad[k] * score_grad[k];
            assert_true(!q->auxiliary || score_grad[k] == 0.0);
        }
        assert_int_equal(kept, q->auxiliary ? q->count : dass_kept_count(q->count, 0.3));
    }
    assert_true(norm2 > 0.0);
    assert_true(fabs(rig_read(&r, DASS_BUF_NORM2)[0] - norm2) <= 1e-12 * norm2);
    rig_run(&r, 1);
    const double *grad = rig_read(&r, DASS_BUF_W_GRAD);
    for (uint32_t i = 0; i < dass_store_n_params(r.s); i++) { /* the head trains on */
        const dass_param *q = dass_store_get(r.s, i);
        double most = 0.0;
        for (int64_t k = 0; k < q->count && q->group == DASS_GROUP_W; k++)
            most = fmax(most, fabs(grad[q->offset + k]));
        assert_true(!q->auxiliary || q->group != DASS_GROUP_W || most > 0.0);
    }
    rig_close(&r);
}

/* A phase without the head, over a store that has one, moves none of it, whatever was in the gradient. */
static void an_unused_head_rests(void **state)
{
    (void)state;
    const dass_arch a = cells();
    dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE), phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE)};
    p[1].auxiliary = 0.0;
    rig r;
    rig_open(&r, "ref64", &a, p, 2);
    rig_run(&r, 0);
    r.block.lr[0] = r.block.lr[1] = 0.1;
    const double *w[2] = {rig_read(&r, DASS_BUF_W), NULL};
    const double *af[2] = {rig_read(&r, DASS_BUF_AF), NULL};
    check_ok(dass_store_zero(r.s, DASS_BUF_W_MOM));
    check_ok(dass_store_zero(r.s, DASS_BUF_AF_MOM));
    rig_run(&r, 1);
    w[1] = rig_read(&r, DASS_BUF_W);
    af[1] = rig_read(&r, DASS_BUF_AF);
    for (uint32_t i = 0; i < dass_store_n_params(r.s); i++) {
        const dass_param *q = dass_store_get(r.s, i);
        if (q->group != DASS_GROUP_W && q->group != DASS_GROUP_AF)
            continue;
        const double *const *x = q->group == DASS_GROUP_W ? w : af;
        const size_t bytes = (size_t)q->count * sizeof(double);
        assert_int_equal(memcmp(x[0] + q->offset, x[1] + q->offset, bytes) == 0, q->auxiliary);
    }
    rig_close(&r);
}

/* ---- averages ------------------------------------------------------------------------------------------------ */

static void averages_follow_a_plain_loop(void **state)
{
    (void)state;
    static const dass_buf pairs[3][2] = {{DASS_BUF_W, DASS_BUF_W_EMA},
                                         {DASS_BUF_AF, DASS_BUF_AF_EMA},
                                         {DASS_BUF_STAT, DASS_BUF_STAT_EMA}};
    const dass_arch a = cells();
    const char *const backends[] = {"ref64", "host"};
    for (size_t b = 0; b < N_OF(backends); b++) {
        dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE), phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_SCORE),
                          phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_FINETUNE)};
        rig r;
        rig_open(&r, backends[b], &a, p, N_OF(p));
        check_ok(dass_store_init_scores(r.s));
        r.block.lr[0] = r.block.lr[1] = r.block.lr[2] = 0.05;
        r.block.momentum = 0.9;
        double *want[3];
        for (int k = 0; k < 3; k++) {
            want[k] = rig_read(&r, pairs[k][0]);
            check_ok(dass_store_write_real(r.s, pairs[k][1], want[k], dass_store_buf_count(r.s, pairs[k][0])));
        }
        for (uint32_t t = 0; t < 6; t++) {
            r.block.step++;
            rig_run(&r, t / 2); /* two steps of each stage */
            for (int k = 0; k < 3; k++) {
                const double *x = rig_read(&r, pairs[k][0]);
                const double *got = rig_read(&r, pairs[k][1]);
                double moved = 0.0;
                for (int64_t i = 0; i < dass_store_buf_count(r.s, pairs[k][0]); i++) {
                    if (k || t / 2 != 1) /* the score stage leaves weights alone, and their average */
                        want[k][i] += 0.1 * (x[i] - want[k][i]);
                    assert_true(fabs(got[i] - want[k][i]) <= (b ? 1e-5 : 1e-14) * (1.0 + fabs(want[k][i])));
                    moved = fmax(moved, fabs(x[i] - got[i]));
                }
                assert_true(moved > 1e-6);
            }
        }
        rig_close(&r);
    }
}

/* ---- the host ------------------------------------------------------------------------------------------------ */

static void host_agrees_with_the_reference(void **state)
{
    (void)state;
    const dass_arch a = cells();
    const char *const backends[] = {"ref64", "host"};
    dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE)};
    const dass_buf bufs[] = {DASS_BUF_W_GRAD, DASS_BUF_AF_GRAD, DASS_BUF_STAT, DASS_BUF_STAT_EMA};
    rig r[2];
    double loss[2];
    for (int k = 0; k < 2; k++) {
        rig_open(&r[k], backends[k], &a, p, 1);
        check_ok(dass_store_zero(r[k].s, DASS_BUF_STAT_EMA));
        loss[k] = rig_run(&r[k], 0);
    }
    assert_true(fabs(loss[0] - loss[1]) < 1e-5 * loss[0]);
    for (size_t b = 0; b < N_OF(bufs); b++) {
        const double *want = rig_read(&r[0], bufs[b]);
        const double *got = rig_read(&r[1], bufs[b]);
        const int64_t n = dass_store_buf_count(r[0].s, bufs[b]);
        double scale = 0.0;
        double worst = 0.0;
        for (int64_t i = 0; i < n; i++) {
            scale = fmax(scale, fabs(want[i]));
            worst = fmax(worst, fabs(want[i] - got[i]));
        }
        if (!(worst <= 1e-4 * scale))
            fail_msg("%s: off by %g of %g", dass_buf_name(bufs[b]), worst, scale);
    }
    rig_close(&r[0]);
    rig_close(&r[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_have_their_frequency),
        cmocka_unit_test(draws_follow_their_formula),
        cmocka_unit_test(bad_drop_paths_are_refused),
        cmocka_unit_test(only_training_has_extras),
        cmocka_unit_test(head_stands_aside),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(heads_fit_the_promised_sizes),
        cmocka_unit_test(gradient_is_that_of_both_losses),
        cmocka_unit_test(bad_losses_are_refused),
        cmocka_unit_test(probability_zero_changes_nothing),
        cmocka_unit_test(masks_keep_the_head_whole),
        cmocka_unit_test(an_unused_head_rests),
        cmocka_unit_test(averages_follow_a_plain_loop),
        cmocka_unit_test(host_agrees_with_the_reference),
    };
    return cmocka_run_group_tests_name("extras", tests, NULL, NULL);
}
