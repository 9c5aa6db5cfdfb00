/* `dass bench step` as a function: on the host, and on the CUDA device or its double, whose times mean nothing but
 * whose path is the one of a card: recordings, launches that several nodes share, the ceilings measured by a graph.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dass/bench.h"
#include "dass/run.h"

static void config_of(const char *device, dass_config *c)
{
    static const char *const pairs[] = {"net.channels=4", "net.layers=3",  "net.nodes=1",
                                        "net.image=8",    "train.batch=4", "run.threads=2"};
    dass_config_defaults(c);
    for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++)
        check_ok(dass_config_set(c, pairs[i], "test"));
    char pair[64];
    (void)snprintf(pair, sizeof(pair), "run.device=%s", device);
    check_ok(dass_config_set(c, pair, "test"));
}

static void check_rows(const dass_bench_row *rows, uint32_t n, const dass_bench_step *b)
{
    for (uint32_t i = 0; i < n; i++) {
        assert_true(rows[i].count > 0);
        assert_true(rows[i].sec > 0 && rows[i].sec <= b->ops_sec);
        assert_true(rows[i].in_place_sec > 0 && rows[i].in_place_sec <= b->ops_in_place_sec);
        assert_true(i == 0 || rows[i].in_place_sec <= rows[i - 1].in_place_sec);
    }
}

/* Every node stands in one row, every row has a time, and the parts are no longer than the whole. */
static void check_step(const dass_bench_step *b)
{
    int64_t nodes = 0;
    double sec = 0;
    double in_place = 0;
    assert_true(b->step_ms > 0 && b->step_p90_ms >= b->step_ms);
    assert_true(b->weight_step_ms > 0 && b->arch_step_ms > 0);
    assert_true(fabs(b->images_per_s * b->step_ms - 4e3) < 1);
    assert_true(b->has_ops);
    for (uint32_t i = 0; i < b->n_ops; i++) {
        nodes += b->op[i].count;
        sec += b->op[i].sec;
        in_place += b->op[i].in_place_sec;
    }
    assert_int_equal(nodes, b->nodes);
    assert_true(fabs(sec - b->ops_sec) <= 1e-9 + 1e-6 * sec);
    assert_int_equal(b->n_top, DASS_BENCH_TOP);
    assert_true(fabs(in_place - b->ops_in_place_sec) <= 1e-9 + 1e-6 * in_place);
    assert_true(b->n_in_place >= 3);
    check_rows(b->op, b->n_ops, b);
    check_rows(b->top, b->n_top, b);
    assert_true(b->peak.gflops > 0 && b->peak.read_gbs > 0 && b->peak.copy_gbs > 0);
}

static void run_step(const char *device, bool alone, dass_bench_step *out)
{
    static dass_config c; /* large */
    config_of(device, &c);
    const dass_bench_step_options opt = {.stage = "finetune",
                                         .ops = true,
                                         .peak = {.bytes = 1u << 16, .rows = 16},
                                         .exec = {.no_merge = alone, .no_capture = alone},
                                         .enough_sec = 1};
    check_ok(dass_bench_step_run(&c, &opt, out));
    check_step(out);
}

static void host_step_adds_up(void **state)
{
    (void)state;
    static dass_bench_step b;
    run_step("host", false, &b);
    assert_int_equal(b.peak.threads, 2);
}

static void device_step_adds_up(void **state)
{
    (void)state;
    static dass_bench_step b;
    for (size_t i = 0; dass_backend_name(i) != NULL; i++) {
        const char *why = dass_backend_why_not(i);
        if (strcmp(dass_backend_name(i), "cuda") != 0 || why == NULL)
            continue;
        print_message("cuda: skipped: %s\n", why);
        skip();
    }
    if (getenv("DASS_TEST_SHORT") != NULL)
        leave_out("half a minute on the double, minutes under a sanitizer");
    for (int alone = 0; alone < 2; alone++) {
        run_step("cuda", alone != 0, &b);
        assert_string_equal(b.peak.isa, "library");
        int64_t most = 0;
        for (uint32_t i = 0; i < b.n_top; i++)
            most = b.top[i].count > most ? b.top[i].count : most;
        assert_true((most > 1) == (alone == 0)); /* nodes that share a launch are one row */
    }
}

/* The step that is timed is the one that `plan` counts: second order, alpha left alone while scores train, and a fixed
 * network with everything that training adds to it. */
static void the_step_is_the_one_of_plan(void **state)
{
    (void)state;
    static const struct {
        const char *pairs[6];
        const char *stage;
    } steps[] = {
        {{"search.order=2"}, "dense"},
        {{"search.order=2"}, "score"},
        {{"search.order=2"}, "finetune"},
        {{"search.alpha.in_score=false"}, "score"},
        {{"net.name=resnet18", "net.image=32", "train.ema=0.9"}, "dense"},
    };
    static dass_config c; /* large */
    static dass_bench_step b;
    static dass_sizes s;
    for (size_t i = 0; i < N_OF(steps); i++) {
        config_of("host", &c);
        for (size_t k = 0; steps[i].pairs[k] != NULL; k++)
            check_ok(dass_config_set(&c, steps[i].pairs[k], "test"));
        check_ok(dass_sizes_measure(&c, "null", &s));
        const dass_bench_step_options opt = {.stage = steps[i].stage, .enough_sec = 0.01};
        check_ok(dass_bench_step_run(&c, &opt, &b));
        int64_t nodes = 0;
        for (uint32_t k = 0; k < s.n_stages; k++)
            if (strcmp(s.stage[k].stage, steps[i].stage) == 0 && strcmp(s.stage[k].task, "eval") != 0)
                nodes += s.stage[k].nodes;
        assert_int_equal(b.nodes, nodes);
        if (strcmp(steps[i].stage, "dense") == 0)
            assert_int_equal(b.nodes, s.nodes_step);
    }
}

/* Eight nodes and sixteen channels are what the settings allow. */
static void the_limits_of_a_network_can_be_planned(void **state)
{
    (void)state;
    static const char *const pairs[] = {"net.nodes=8", "net.in_channels=16"};
    static dass_config c; /* large */
    static dass_sizes s;
    for (size_t i = 0; i < N_OF(pairs); i++) {
        dass_bench_traffic t[DASS_TRAFFIC_STAGES];
        config_of("host", &c);
        check_ok(dass_config_set(&c, pairs[i], "test"));
        check_ok(dass_sizes_measure(&c, "null", &s));
        check_ok(dass_bench_traffic_measure(&c, "null", t));
    }
}

/* Fusion leaves fewer nodes that move fewer bytes. */
static void fusion_moves_fewer_bytes(void **state)
{
    (void)state;
    static dass_config c; /* large */
    dass_bench_traffic t[DASS_TRAFFIC_STAGES];
    config_of("host", &c);
    check_ok(dass_bench_traffic_measure(&c, "host", t));
    for (int i = 0; i < DASS_TRAFFIC_STAGES; i++) {
        assert_true(t[i].nodes > 0 && t[i].nodes < t[i].nodes_unfused);
        assert_true(t[i].bytes > 0 && t[i].bytes < t[i].bytes_unfused);
    }
    assert_true(t[1].bytes_unfused > t[0].bytes_unfused); /* masks, scores and their threshold */
}

/* Every input and output of every node once, added up here from the two graphs of one phase. */
static void bytes_are_those_of_the_nodes(void **state)
{
    (void)state;
    static dass_config c;
    static const double zero[3] = {0};
    static const double one[3] = {1, 1, 1};
    dass_bench_traffic t[DASS_TRAFFIC_STAGES];
    dass_arch a;
    dass_store *s = NULL;
    dass_graph *g = NULL;
    config_of("null", &c);
    check_ok(dass_config_set(&c, "net.name=resnet18", "test"));
    check_ok(dass_bench_traffic_measure(&c, "null", t));
    check_ok(dass_arch_from_config(&c, &a));
    check_ok(dass_store_make(DASS_F32, &s));
    dass_phase p = {.task = DASS_TASK_WEIGHTS,
                    .batch = (int32_t)c.train_batch,
                    .pad = (int32_t)c.data_pad,
                    .flip = c.data_flip,
                    .cutout = (int32_t)c.data_cutout,
                    .mean = zero,
                    .std = one};
    for (int fused = 0; fused < 2; fused++) {
        size_t bytes = 0;
        p.lower = fused ? DASS_LOWER_ALL : 0;
        check_ok(dass_phase_build(s, &a, &p, DASS_F32, NULL, &g));
        for (dass_node n = 1; n < g->n_nodes; n++)
            for (uint32_t i = 0; i < g->nodes[n].n_in + g->nodes[n].n_out; i++)
                if (g->args[g->nodes[n].args + i] != 0)
                    bytes += dass_value_bytes(&g->vals[g->args[g->nodes[n].args + i]]);
        assert_int_equal(fused ? t[0].nodes : t[0].nodes_unfused, g->n_nodes - 1);
        assert_int_equal((size_t)(fused ? t[0].bytes : t[0].bytes_unfused), bytes);
        dass_graph_free(g);
    }
    dass_store_free(s);
}

/* What was never run is an error that names it. */
static void a_gap_in_the_coverage_is_an_error(void **state)
{
    (void)state;
    static dass_bench_coverage c;
    for (int op = 1; op < DASS_N_OPS; op++)
        c.op_nodes[op] = 1;
    c.n_kinds = 2;
    c.kind[0] = "one";
    c.kind[1] = "two";
    c.launches[0] = c.launches[1] = 1;
    check_ok(dass_bench_coverage_check("cuda", &c));
    c.launches[1] = 0;
    assert_int_equal(dass_bench_coverage_check("cuda", &c), DASS_INTERNAL);
    assert_non_null(strstr(dass_error_text(), "two"));
    c.op_nodes[DASS_OP_SHIFT] = 0;
    assert_int_equal(dass_bench_coverage_check("cuda", &c), DASS_INTERNAL);
    assert_non_null(strstr(dass_error_text(), "shift"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_step_adds_up),
        cmocka_unit_test(device_step_adds_up),
        cmocka_unit_test(the_step_is_the_one_of_plan),
        cmocka_unit_test(the_limits_of_a_network_can_be_planned),
        cmocka_unit_test(fusion_moves_fewer_bytes),
        cmocka_unit_test(bytes_are_those_of_the_nodes),
        cmocka_unit_test(a_gap_in_the_coverage_is_an_error),
    };
    return cmocka_run_group_tests_name("bench", tests, NULL, NULL);
}
