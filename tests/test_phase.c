/* The graphs of the phases: what each contains, and, in double on the reference, that their
 * gradients are the derivatives of their own loss and their updates the documented ones. The
 * networks are small, not simplified: every primitive, both kinds of cells, fused and unfused.
 */
#include <math.h>
#include <stdlib.h>

#include "rig.h"

enum { BATCH = 2, IMAGE = 8, CLASSES = 4, PIXELS = BATCH * 3 * IMAGE * IMAGE };

static const double mean[3] = {0.5, 0.4, 0.45};
static const double dev[3] = {0.25, 0.2, 0.3};

static dass_arch supernet(void)
{
    return (dass_arch){.kind = DASS_NET_SUPERNET,
                       .channels = 2,
                       .layers = 3,
                       .nodes = 2,
                       .classes = CLASSES,
                       .in_channels = 3,
                       .image = IMAGE};
}

static dass_arch discrete(void)
{
    dass_arch a = supernet();
    a.kind = DASS_NET_CELLS;
    a.genotype = dass_genotype_random(3, a.nodes);
    a.genotype.normal[0].op = DASS_PRIM_SEP_3;
    a.genotype.normal[1].op = DASS_PRIM_MAX_POOL_3;
    a.genotype.reduce[0].op = DASS_PRIM_SKIP;
    a.genotype.reduce[1].op = DASS_PRIM_DIL_5;
    return a;
}

static dass_phase phase_of(dass_task task, dass_stage stage, unsigned lower)
{
    return (dass_phase){
        .task = task, .stage = stage, .batch = BATCH, .lower = lower, .mean = mean, .std = dev};
}

static void write_batch(rig *r)
{
    static uint8_t images[PIXELS];
    int32_t labels[BATCH];
    int32_t samples[BATCH];
    dass_rng rng = dass_rng_make(5, DASS_RNG_TEST, dass_name_hash("batch"), 0);
    for (int i = 0; i < PIXELS; i++)
        images[i] = (uint8_t)dass_rng_below(&rng, 256);
    for (int i = 0; i < BATCH; i++) {
        labels[i] = i % CLASSES;
        samples[i] = i;
    }
    check_ok(dass_store_write(r->s, DASS_BUF_IMAGES, images, sizeof images));
    check_ok(dass_store_write(r->s, DASS_BUF_LABELS, labels, sizeof labels));
    check_ok(dass_store_write(r->s, DASS_BUF_SAMPLES, samples, sizeof samples));
}

/* density: of the table for score phases, 0 when there are none. */
static void rig_open(rig *r, const dass_arch *a, dass_phase *phases, uint32_t n, double density)
{
    memset(r, 0, sizeof *r);
    check_ok(dass_backend_open("ref64", NULL, &r->be));
    check_ok(dass_store_make(DASS_F64, &r->s));
    check_ok(dass_arena_make("test", &r->mem));
    if (density > 0.0) {
        dass_graph *g = NULL;
        const dass_phase plain = phase_of(DASS_TASK_EVAL, DASS_STAGE_DENSE, 0);
        check_ok(dass_phase_build(r->s, a, &plain, DASS_F64, r->be, &g));
        dass_graph_free(g);
        check_ok(dass_density_allocate(r->s, DASS_ALLOC_UNIFORM, density, NULL, r->mem,
                                       &r->segments, &r->n_segments));
    }
    for (uint32_t i = 0; i < n; i++) {
        phases[i].segments = r->segments;
        phases[i].n_segments = r->n_segments;
    }
    check_ok(
        dass_steps_plan(r->s, a, phases, n, r->be, &(dass_exec_options){.guard = true}, &r->steps));
    check_ok(dass_steps_bind(r->s, &r->steps));
    check_ok(dass_store_init(r->s, 11));
    write_batch(r);
    r->block = (dass_step_block){.beta1 = 0.5,
                                 .beta2 = 0.999,
                                 .adam_eps = 1e-8,
                                 .adam_step = 1}; /* learning rates 0 */
}

/* d loss / d buffer[i] by central differences of phase's own loss, which must not move the
 * parameters. */
static double difference(rig *r, uint32_t phase, dass_buf b, int64_t i)
{
    const double h = 1e-5;
    const int64_t n = dass_store_buf_count(r->s, b);
    double *x = rig_read(r, b);
    const double at = x[i];
    x[i] = at + h;
    check_ok(dass_store_write_real(r->s, b, x, n));
    const double up = rig_run(r, phase);
    x[i] = at - h;
    check_ok(dass_store_write_real(r->s, b, x, n));
    const double down = rig_run(r, phase);
    x[i] = at;
    check_ok(dass_store_write_real(r->s, b, x, n));
    return (up - down) / (2.0 * h);
}

static void check_gradient(rig *r, uint32_t phase, dass_buf b, const double *grad, int64_t i)
{
    const double want = difference(r, phase, b, i);
    if (fabs(want - grad[i]) > 1e-6 * (1.0 + fabs(want)))
        fail_msg("%s[%lld]: gradient %.12g, difference quotient %.12g", dass_buf_name(b),
                 (long long)i, grad[i], want);
}

/* Every stride-th tensor of a group, the first and the last among them: its middle entry. */
static void check_group(rig *r, uint32_t phase, dass_group group, dass_buf b, dass_buf grad_buf,
                        uint32_t stride)
{
    uint32_t n = 0;
    rig_run(r, phase);
    const double *grad = rig_read(r, grad_buf);
    const int64_t end = dass_store_count(r->s, group);
    for (uint32_t i = 0; i < dass_store_n_params(r->s); i++) {
        const dass_param *p = dass_store_get(r->s, i);
        if (p->group != group || (n++ % stride && p->offset + p->count < end))
            continue;
        check_gradient(r, phase, b, grad, p->offset + p->count / 2);
    }
}

/* Differences against a second buffer, as largest absolute one. */
static double distance(const double *a, const double *b, int64_t n)
{
    double d = 0.0;
    for (int64_t i = 0; i < n; i++)
        d = fmax(d, fabs(a[i] - b[i]));
    return d;
}

/* ---- structure ----------------------------------------------------------------------------- */

static uint32_t count_ops(const dass_graph *g, dass_op op)
{
    uint32_t n = 0;
    for (dass_node i = 1; i < g->n_nodes; i++)
        n += g->nodes[i].op == op;
    return n;
}

static void phases_contain_what_they_need(void **state)
{
    (void)state;
    const dass_arch a = supernet();
    dass_phase p[] = {
        phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE, DASS_LOWER_ALL),
        phase_of(DASS_TASK_ALPHA, DASS_STAGE_DENSE, DASS_LOWER_ALL),
        phase_of(DASS_TASK_EVAL, DASS_STAGE_DENSE, DASS_LOWER_ALL),
        phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_SCORE, DASS_LOWER_ALL),
        phase_of(DASS_TASK_ALPHA, DASS_STAGE_SCORE, DASS_LOWER_ALL),
        phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_FINETUNE, DASS_LOWER_ALL),
        phase_of(DASS_TASK_EVAL, DASS_STAGE_FINETUNE, DASS_LOWER_ALL),
    };
    rig r;
    rig_open(&r, &a, p, N_OF(p), 0.5);
    for (uint32_t i = 0; i < N_OF(p); i++) {
        const dass_graph *g = r.steps.graph[i];
        const bool weights = p[i].task == DASS_TASK_WEIGHTS;
        const bool masked = p[i].stage != DASS_STAGE_DENSE;
        const uint64_t bufs = dass_graph_bufs(g);
        assert_int_equal(bufs >> DASS_BUF_W_GRAD & 1, weights);
        assert_int_equal(bufs >> DASS_BUF_AF_GRAD & 1, weights);
        assert_int_equal(bufs >> DASS_BUF_SCORE_GRAD & 1,
                         weights && p[i].stage == DASS_STAGE_SCORE);
        assert_int_equal(bufs >> DASS_BUF_ALPHA_GRAD & 1, p[i].task == DASS_TASK_ALPHA);
        assert_int_equal(count_ops(g, DASS_OP_ADAM), p[i].task == DASS_TASK_ALPHA);
        assert_int_equal(count_ops(g, DASS_OP_SGD), weights ? 2 : 0);
        assert_int_equal(count_ops(g, DASS_OP_MASK_THRESHOLD), p[i].stage == DASS_STAGE_SCORE);
        assert_int_equal(count_ops(g, DASS_OP_MASK_APPLY), masked);
        assert_int_equal(count_ops(g, DASS_OP_MASK_BWD_WEIGHTS),
                         weights && p[i].stage == DASS_STAGE_FINETUNE);
        assert_int_equal(count_ops(g, DASS_OP_MASK_BWD_SCORES),
                         weights && p[i].stage == DASS_STAGE_SCORE);
        assert_int_equal(count_ops(g, DASS_OP_BN_RUNNING), 0);
        if (!weights)
            assert_int_equal(count_ops(g, DASS_OP_CONV_BWD_WEIGHTS), 0);
    }
    rig_close(&r);
}

/* Every weight's gradient is written once, by the node that computes it, and never overwritten. */
static void gradients_tile_their_buffer(void **state)
{
    (void)state;
    const dass_arch archs[] = {supernet(), discrete()};
    for (size_t k = 0; k < N_OF(archs); k++) {
        dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE, DASS_LOWER_ALL),
                          phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_SCORE, DASS_LOWER_ALL),
                          phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_FINETUNE, 0)};
        rig r;
        rig_open(&r, &archs[k], p, N_OF(p), 0.5);
        for (uint32_t i = 0; i < N_OF(p); i++) {
            const dass_graph *g = r.steps.graph[i];
            int64_t written = 0;
            for (dass_node n = 1; n < g->n_nodes; n++) {
                if (g->nodes[n].op == DASS_OP_MASK_BWD_WEIGHTS)
                    continue;
                for (uint32_t o = 0; o < g->nodes[n].n_out; o++) {
                    const dass_value *v = &g->vals[dass_node_out(g, n)[o]];
                    if (v->buf == DASS_BUF_W_GRAD)
                        written += dass_value_count(v);
                }
            }
            assert_int_equal(written, dass_store_count(r.s, DASS_GROUP_W));
        }
        rig_close(&r);
    }
}

static void bad_phases_are_refused(void **state)
{
    (void)state;
    const dass_arch a = discrete();
    dass_store *s = NULL;
    dass_graph *g = NULL;
    check_ok(dass_store_make(DASS_F64, &s));
    dass_phase p = phase_of(DASS_TASK_ALPHA, DASS_STAGE_DENSE, 0);
    assert_int_equal(dass_phase_build(s, &a, &p, DASS_F64, NULL, &g), DASS_ARG);
    p = phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_SCORE, 0);
    assert_int_equal(dass_phase_build(s, &a, &p, DASS_F64, NULL, &g), DASS_ARG); /* no table */
    p = phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE, 0);
    p.batch = 0;
    assert_int_equal(dass_phase_build(s, &a, &p, DASS_F64, NULL, &g), DASS_ARG);
    p.batch = BATCH;
    p.mean = NULL;
    assert_int_equal(dass_phase_build(s, &a, &p, DASS_F64, NULL, &g), DASS_ARG);
    assert_null(g);
    dass_store_free(s);
}

/* Any allocation may fail: the build says so, leaves nothing behind, and the store can be used
 * again. */
static void builds_survive_lack_of_memory(void **state)
{
    (void)state;
    const dass_arch a = discrete();
    const dass_phase p = phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE, DASS_LOWER_ALL);
    const size_t live = dass_mem_get_stats().n_live;
    dass_status st = DASS_NOMEM;
    size_t k = 1;
    for (; st != DASS_OK && k < 1000; k++) {
        dass_store *s = NULL;
        dass_graph *g = NULL;
        dass_mem_fail_at(k);
        st = dass_store_make(DASS_F64, &s);
        if (st == DASS_OK)
            st = dass_phase_build(s, &a, &p, DASS_F64, NULL, &g);
        dass_mem_fail_at(0);
        assert_true(st == DASS_OK || st == DASS_NOMEM);
        assert_true((st == DASS_OK) == (g != NULL));
        if (s && st == DASS_NOMEM) {
            check_ok(dass_phase_build(s, &a, &p, DASS_F64, NULL, &g));
        }
        dass_graph_free(g);
        dass_store_free(s);
        assert_int_equal(dass_mem_get_stats().n_live, live);
    }
    assert_true(k > 20 && k < 1000);
}

/* ---- gradients ----------------------------------------------------------------------------- */

static void dense_gradients_are_derivatives(void **state)
{
    (void)state;
    const dass_arch archs[] = {supernet(), discrete()};
    for (size_t k = 0; k < N_OF(archs); k++) {
        dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE, DASS_LOWER_ALL)};
        p[0].label_smoothing = 0.1;
        rig r;
        rig_open(&r, &archs[k], p, 1, 0.0);
        check_group(&r, 0, DASS_GROUP_W, DASS_BUF_W, DASS_BUF_W_GRAD, k ? 1 : 4);
        check_group(&r, 0, DASS_GROUP_AF, DASS_BUF_AF, DASS_BUF_AF_GRAD, 2);
        rig_close(&r);
    }
}

static void alpha_gradients_are_derivatives(void **state)
{
    (void)state;
    const dass_arch a = supernet();
    dass_phase p[] = {phase_of(DASS_TASK_ALPHA, DASS_STAGE_DENSE, DASS_LOWER_ALL),
                      phase_of(DASS_TASK_ALPHA, DASS_STAGE_SCORE, DASS_LOWER_ALL)};
    rig r;
    rig_open(&r, &a, p, 2, 0.3);
    check_ok(dass_store_init_scores(r.s));
    for (uint32_t k = 0; k < 2; k++) {
        rig_run(&r, k);
        const double *grad = rig_read(&r, DASS_BUF_ALPHA_GRAD);
        for (int64_t i = k; i < dass_store_count(r.s, DASS_GROUP_ALPHA);
             i += 3) /* every row and every operation */
            check_gradient(&r, k, DASS_BUF_ALPHA, grad, i);
    }
    rig_close(&r);
}

static void lowering_keeps_the_gradients(void **state)
{
    (void)state;
    const dass_arch archs[] = {supernet(), discrete()};
    for (size_t k = 0; k < N_OF(archs); k++) {
        dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE, 0),
                          phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE, DASS_LOWER_DWPW),
                          phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE, DASS_LOWER_WSUM_BN),
                          phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE, DASS_LOWER_ALL)};
        rig r;
        rig_open(&r, &archs[k], p, N_OF(p), 0.0);
        const double loss = rig_run(&r, 0);
        const double *w = rig_read(&r, DASS_BUF_W_GRAD);
        const double *af = rig_read(&r, DASS_BUF_AF_GRAD);
        for (uint32_t i = 1; i < N_OF(p); i++) {
            assert_true(fabs(rig_run(&r, i) - loss) < 1e-12);
            assert_true(distance(w, rig_read(&r, DASS_BUF_W_GRAD),
                                 dass_store_count(r.s, DASS_GROUP_W)) < 1e-10);
            assert_true(distance(af, rig_read(&r, DASS_BUF_AF_GRAD),
                                 dass_store_count(r.s, DASS_GROUP_AF)) < 1e-10);
        }
        rig_close(&r);
    }
}

/* ---- masks --------------------------------------------------------------------------------- */

static bool bit_of(const uint64_t *bits, int64_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

static uint64_t *read_bits(const rig *r)
{
    const size_t bytes = dass_store_buf_bytes(r->s, DASS_BUF_BITS);
    uint64_t *bits = dass_arena_alloc(r->mem, bytes);
    check_ok(dass_store_read(r->s, DASS_BUF_BITS, bits, bytes));
    return bits;
}

static void score_stage_masks_and_passes_gradients_through(void **state)
{
    (void)state;
    const dass_arch a = supernet();
    dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_SCORE, DASS_LOWER_ALL)};
    rig r;
    rig_open(&r, &a, p, 1, 0.4);
    check_ok(dass_store_init_scores(r.s));
    rig_run(&r, 0);
    const int64_t n = dass_store_count(r.s, DASS_GROUP_W);
    const double *w = rig_read(&r, DASS_BUF_W);
    const double *masked = rig_read(&r, DASS_BUF_MASKED);
    const double *score = rig_read(&r, DASS_BUF_SCORE);
    const double *g = rig_read(&r, DASS_BUF_W_GRAD);
    const double *g_score = rig_read(&r, DASS_BUF_SCORE_GRAD);
    const uint64_t *bits = read_bits(&r);
    for (int64_t i = 0; i < r.n_segments; i++) {
        const dass_segment *seg = &r.segments[i];
        int64_t kept = 0;
        for (int64_t k = seg->offset; k < seg->offset + seg->count; k++)
            kept += bit_of(bits, k);
        assert_int_equal(kept, seg->kept);
        /* scaled scores: the first mask is magnitude pruning, so nothing kept is smaller than
         * anything pruned */
        double smallest_kept = INFINITY;
        double largest_pruned = 0.0;
        for (int64_t k = seg->offset; k < seg->offset + seg->count; k++) {
            if (bit_of(bits, k))
                smallest_kept = fmin(smallest_kept, fabs(w[k]));
            else
                largest_pruned = fmax(largest_pruned, fabs(w[k]));
        }
        assert_true(smallest_kept >= largest_pruned);
    }
    double most = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double sign = (double)((score[i] > 0.0) - (score[i] < 0.0));
        assert_true(masked[i] == (bit_of(bits, i) ? w[i] : 0.0));
        assert_true(fabs(g_score[i] - g[i] * w[i] * sign) <= 1e-15 * fabs(g_score[i]));
        most = fmax(most, bit_of(bits, i) ? 0.0 : fabs(g_score[i]));
    }
    assert_true(most > 0.0); /* pruned entries have gradients, so they can come back */
    for (int64_t i = 0; i < n; i += n / 20)
        if (bit_of(bits, i))
            check_gradient(&r, 0, DASS_BUF_W, g, i);
    check_group(&r, 0, DASS_GROUP_AF, DASS_BUF_AF, DASS_BUF_AF_GRAD, 1);
    rig_close(&r);
}

static void score_stage_moves_scores_and_batch_norm_only(void **state)
{
    (void)state;
    const dass_arch a = discrete();
    dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_SCORE, DASS_LOWER_ALL)};
    rig r;
    rig_open(&r, &a, p, 1, 0.4);
    check_ok(dass_store_init_scores(r.s));
    r.block.lr[0] = 0.5;
    r.block.lr[1] = 0.01;
    r.block.lr[2] = 0.1;
    r.block.clip = 0.05; /* both norms are above it */
    const double *w = rig_read(&r, DASS_BUF_W);
    const double *af = rig_read(&r, DASS_BUF_AF);
    const double *score = rig_read(&r, DASS_BUF_SCORE);
    rig_run(&r, 0);
    const int64_t n = dass_store_count(r.s, DASS_GROUP_W);
    const int64_t n_af = dass_store_count(r.s, DASS_GROUP_AF);
    const dass_buf grads[2] = {DASS_BUF_SCORE_GRAD, DASS_BUF_AF_GRAD};
    const double *now[2] = {rig_read(&r, DASS_BUF_SCORE), rig_read(&r, DASS_BUF_AF)};
    const double *before[2] = {score, af};
    assert_true(distance(w, rig_read(&r, DASS_BUF_W), n) == 0.0);
    for (int k = 0; k < 2; k++) { /* each clipped by its own norm */
        const double *g = rig_read(&r, grads[k]);
        const int64_t count = k ? n_af : n;
        double norm2 = 0.0;
        for (int64_t i = 0; i < count; i++)
            norm2 += g[i] * g[i];
        assert_true(norm2 > r.block.clip * r.block.clip);
        const double s = r.block.clip / (sqrt(norm2) + 1e-6);
        for (int64_t i = 0; i < count; i++)
            assert_true(fabs(now[k][i] - (before[k][i] - r.block.lr[k ? 1 : 2] * s * g[i])) <
                        1e-12);
    }
    rig_close(&r);
}

static void finetune_leaves_pruned_weights_alone(void **state)
{
    (void)state;
    const dass_arch a = discrete();
    dass_phase p[] = {phase_of(DASS_TASK_EVAL, DASS_STAGE_SCORE, DASS_LOWER_ALL),
                      phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_FINETUNE, DASS_LOWER_ALL)};
    rig r;
    rig_open(&r, &a, p, 2, 0.4);
    check_ok(dass_store_init_scores(r.s));
    rig_run(&r, 0); /* makes the bits */
    const uint64_t *bits = read_bits(&r);
    const int64_t n = dass_store_count(r.s, DASS_GROUP_W);
    rig_run(&r, 1);
    const double *g = rig_read(&r, DASS_BUF_W_GRAD);
    for (int64_t i = 0; i < n; i++)
        if (!bit_of(bits, i))
            assert_true(g[i] == 0.0);
    for (int64_t i = 0; i < n; i += n / 20)
        if (bit_of(bits, i))
            check_gradient(&r, 1, DASS_BUF_W, g, i);

    r.block.lr[0] = r.block.lr[1] = 0.1;
    r.block.weight_decay[0] = 0.01;
    const double *before = rig_read(&r, DASS_BUF_W);
    rig_run(&r, 1);
    const double *after = rig_read(&r, DASS_BUF_W);
    for (int64_t i = 0; i < n; i++) {
        const double want =
            bit_of(bits, i) ? before[i] - 0.1 * (g[i] + 0.01 * before[i]) : before[i];
        assert_true(fabs(after[i] - want) < 1e-12);
    }
    rig_close(&r);
}

/* ---- updates ------------------------------------------------------------------------------- */

static void dense_step_clips_weights_and_batch_norm_together(void **state)
{
    (void)state;
    const dass_arch a = supernet();
    dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE, DASS_LOWER_ALL)};
    rig r;
    rig_open(&r, &a, p, 1, 0.0);
    r.block.lr[0] = r.block.lr[1] = 0.2;
    r.block.weight_decay[0] = r.block.weight_decay[1] = 3e-4;
    r.block.clip = 0.3;
    const double *w = rig_read(&r, DASS_BUF_W);
    const double *alpha = rig_read(&r, DASS_BUF_ALPHA);
    rig_run(&r, 0);
    const int64_t n = dass_store_count(r.s, DASS_GROUP_W);
    const double *g = rig_read(&r, DASS_BUF_W_GRAD);
    const double *g_af = rig_read(&r, DASS_BUF_AF_GRAD);
    const double *now = rig_read(&r, DASS_BUF_W);
    double norm2 = 0.0;
    for (int64_t i = 0; i < n; i++)
        norm2 += g[i] * g[i];
    for (int64_t i = 0; i < dass_store_count(r.s, DASS_GROUP_AF); i++)
        norm2 += g_af[i] * g_af[i];
    const double s = fmin(1.0, 0.3 / (sqrt(norm2) + 1e-6));
    assert_true(s < 1.0);
    assert_true(fabs(rig_read(&r, DASS_BUF_NORM2)[0] - norm2) < 1e-9 * norm2);
    for (int64_t i = 0; i < n; i++)
        assert_true(fabs(now[i] - (w[i] - 0.2 * (s * g[i] + 3e-4 * w[i]))) < 1e-12);
    assert_true(distance(alpha, rig_read(&r, DASS_BUF_ALPHA),
                         dass_store_count(r.s, DASS_GROUP_ALPHA)) == 0.0);
    rig_close(&r);
}

static void discrete_networks_learn_and_track(void **state)
{
    (void)state;
    const dass_arch a = discrete();
    dass_phase p[] = {phase_of(DASS_TASK_WEIGHTS, DASS_STAGE_DENSE, DASS_LOWER_ALL),
                      phase_of(DASS_TASK_EVAL, DASS_STAGE_DENSE, DASS_LOWER_ALL)};
    rig r;
    rig_open(&r, &a, p, 2, 0.0);
    r.block.lr[0] = r.block.lr[1] = 0.05;
    r.block.momentum = 0.9;
    r.block.clip = 5;
    const double first = rig_run(&r, 0);
    double last = first;
    for (int i = 0; i < 60; i++)
        last = rig_run(&r, 0);
    assert_true(last < 0.3 * first);
    /* the running statistics have become the batch's, so evaluation sees nearly the training loss
     */
    double loss = 0.0;
    double correct = 0.0;
    check_ok(dass_steps_run(r.s, &r.steps, 1, &r.block, &loss, &correct));
    assert_true(correct == BATCH);
    assert_true(loss < 0.5 * first);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phases_contain_what_they_need),
        cmocka_unit_test(gradients_tile_their_buffer),
        cmocka_unit_test(bad_phases_are_refused),
        cmocka_unit_test(builds_survive_lack_of_memory),
        cmocka_unit_test(dense_gradients_are_derivatives),
        cmocka_unit_test(alpha_gradients_are_derivatives),
        cmocka_unit_test(lowering_keeps_the_gradients),
        cmocka_unit_test(score_stage_masks_and_passes_gradients_through),
        cmocka_unit_test(score_stage_moves_scores_and_batch_norm_only),
        cmocka_unit_test(finetune_leaves_pruned_weights_alone),
        cmocka_unit_test(dense_step_clips_weights_and_batch_norm_together),
        cmocka_unit_test(discrete_networks_learn_and_track),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
