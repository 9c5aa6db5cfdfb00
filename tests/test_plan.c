/* The planner: random graphs are placed without overlap, never below the lower bound, and planted faults are rejected.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "dass/plan.h"
#include "dass/rng.h"

enum { BUF_X = 1, BUF_OUT = 2 };

/* A random graph of elementwise and pooling nodes over one image size per "level", with in-place candidates. */
static dass_graph *random_graph(uint64_t seed, int n_ops)
{
    dass_rng r = dass_rng_make(seed, DASS_RNG_TEST, dass_name_hash("plan"), 0);
    dass_graph *g = NULL;
    assert_int_equal(dass_graph_make(DASS_F32, &g), DASS_OK);
    dass_val pool[512];
    int n = 0;
    pool[n++] = dass_ref(g, "x", BUF_X, 0, DASS_LAYOUT_NHWC, 4, (int32_t[]){2, 3, 16, 16});
    for (int i = 0; i < n_ops && n < 500; i++) {
        const dass_val a = pool[dass_rng_below(&r, (uint32_t)n)];
        const dass_val b = pool[dass_rng_below(&r, (uint32_t)n)];
        const dass_value *av = &g->vals[a];
        dass_val y = 0;
        switch (dass_rng_below(&r, 5)) {
        case 0:
            y = dass_relu(g, a, DASS_ACT_RELU);
            break;
        case 1:
            y = dass_avg_pool(g, a,
                              (dass_pool_attr){.k = 3, .stride = av->dim[2] >= 4 && i % 3 == 0 ? 2 : 1, .pad = 1});
            break;
        case 2:
            y = dass_concat(g, (dass_val[]){a, a}, av->dim[1] < 24 ? 2 : 1);
            break;
        case 3:
            if (memcmp(g->vals[a].dim, g->vals[b].dim, sizeof av->dim) == 0)
                y = dass_gsum(g, 0, (dass_gterm[]){{a, 0, 0, -1}, {b, 0, 0, -1}}, 2);
            else
                y = dass_relu(g, b, DASS_ACT_RELU6);
            break;
        default:
            y = dass_slice(g, a, 0, (av->dim[1] + 1) / 2);
            break;
        }
        assert_int_equal(g->status, DASS_OK);
        pool[n++] = y;
    }
    for (int i = 1; i < n; i += 5)
        if (g->vals[pool[i]].buf == 0) {
            const dass_val dst = dass_ref(g, "out", BUF_OUT, i * 100000, DASS_LAYOUT_NHWC, 4, g->vals[pool[i]].dim);
            dass_copy(g, pool[i], dst);
        }
    assert_int_equal(dass_graph_finish(g), DASS_OK);
    return g;
}

/* Quadratic and independent: every pair of temporaries alive at one time must be disjoint unless one was taken over. */
static void check_pairs(const dass_graph *g, const dass_plan *p)
{
    const uint32_t *time = p->order->time;
    for (dass_val a = 1; a < g->n_vals; a++) {
        for (dass_val b = a + 1; b < g->n_vals; b++) {
            if (g->vals[a].buf || g->vals[b].buf)
                continue;
            const uint32_t first_a = time[g->vals[a].def];
            const uint32_t first_b = time[g->vals[b].def];
            uint32_t last_a = first_a;
            uint32_t last_b = first_b;
            for (dass_node n = 1; n < g->n_nodes; n++)
                for (uint32_t i = 0; i < g->nodes[n].n_in; i++) {
                    if (dass_node_in(g, n)[i] == a && time[n] > last_a)
                        last_a = time[n];
                    if (dass_node_in(g, n)[i] == b && time[n] > last_b)
                        last_b = time[n];
                }
            const bool together = first_a <= last_b && first_b <= last_a;
            const bool handover = p->val_owner[a] == p->val_owner[b] && (last_a == first_b || last_b == first_a);
            if (!together || handover)
                continue;
            const size_t a0 = p->val_offset[a];
            const size_t b0 = p->val_offset[b];
            assert_true(a0 + dass_value_bytes(&g->vals[a]) <= b0 || b0 + dass_value_bytes(&g->vals[b]) <= a0);
        }
    }
}

static void random_graphs_are_placed(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        dass_graph *g = random_graph(seed, 20 + (int)(seed * 3));
        for (int mode = 0; mode < 4; mode++) {
            dass_plan *p = NULL;
            assert_int_equal(dass_plan_make(g, NULL, NULL, mode & 1, mode & 2, &p), DASS_OK);
            assert_true(p->peak_bytes >= p->bound_bytes);
            assert_true((double)p->peak_bytes <= 1.25 * (double)p->bound_bytes);
            assert_true(p->sum_bytes >= p->peak_bytes);
            check_pairs(g, p);
            dass_plan_free(p);
        }
        dass_graph_free(g);
    }
}

/* Do the elements of two buffer values overlap? */
static bool overlap(const dass_value *a, const dass_value *b)
{
    return a->buf != 0 && a->buf == b->buf && a->offset < b->offset + dass_value_count(b) &&
           b->offset < a->offset + dass_value_count(a);
}

/* Every pair of nodes that must not change places runs in node order, at different times. */
static void check_order(const dass_graph *g, const dass_order *o)
{
    uint32_t seen = 0;
    for (uint32_t i = 0; i + 1 < g->n_nodes; i++) {
        assert_true(i == 0 || o->time[o->seq[i]] == o->time[o->seq[i - 1]] ||
                    o->time[o->seq[i]] == o->time[o->seq[i - 1]] + 1);
        seen += o->seq[i];
    }
    assert_int_equal(seen, g->n_nodes * (g->n_nodes - 1) / 2);
    for (dass_node m = 1; m < g->n_nodes; m++)
        for (dass_node n = m + 1; n < g->n_nodes; n++)
            for (uint32_t i = 0; i < g->nodes[m].n_in + g->nodes[m].n_out; i++)
                for (uint32_t j = 0; j < g->nodes[n].n_in + g->nodes[n].n_out; j++) {
                    const dass_val a = g->args[g->nodes[m].args + i];
                    const dass_val b = g->args[g->nodes[n].args + j];
                    const bool wrote = i >= g->nodes[m].n_in || j >= g->nodes[n].n_in;
                    if (a && b && ((a == b && wrote) || (wrote && overlap(&g->vals[a], &g->vals[b]))))
                        assert_true(o->time[m] < o->time[n]);
                }
}

/* Groups at random: what may run together does, and nothing else moves. */
static void groups_run_together(void **state)
{
    (void)state;
    uint32_t joined = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        dass_graph *g = random_graph(seed, 20 + (int)(seed * 3));
        uint64_t group[600];
        assert_true(g->n_nodes < 600);
        for (dass_node n = 0; n < g->n_nodes; n++)
            group[n] = (uint64_t)g->nodes[n].op * (n % 9 != 0); /* some would rather be alone */
        for (int mode = 0; mode < 4; mode++) {
            dass_plan *p = NULL;
            assert_int_equal(dass_plan_make(g, NULL, group, mode & 1, mode & 2, &p), DASS_OK);
            check_order(g, p->order);
            check_pairs(g, p);
            for (uint32_t i = 1; i + 1 < g->n_nodes; i++) {
                const dass_node a = p->order->seq[i - 1];
                const dass_node b = p->order->seq[i];
                if (p->order->time[a] != p->order->time[b])
                    continue;
                assert_true(group[a] != 0 && group[a] == group[b]);
                joined++;
            }
            dass_plan_free(p);
        }
        dass_graph_free(g);
    }
    assert_true(joined > 500);
}

/* Two effects on one place keep their order, two on neighbouring places need not. */
static void effects_keep_their_place(void **state)
{
    (void)state;
    dass_graph *g = NULL;
    assert_int_equal(dass_graph_make(DASS_F32, &g), DASS_OK);
    const int32_t n = 8;
    for (int i = 0; i < 4; i++)
        dass_fill(g, dass_ref(g, "out", BUF_OUT, i < 2 ? 0 : 8 * i, DASS_LAYOUT_FLAT, 1, &n), i);
    assert_int_equal(dass_graph_finish(g), DASS_OK);
    const uint64_t group[5] = {0, 7, 7, 7, 7};
    dass_order *o = NULL;
    assert_int_equal(dass_order_make(g, group, &o), DASS_OK);
    check_order(g, o);
    assert_int_equal(o->n_times, 2);
    assert_int_equal(o->time[1], 1);
    assert_int_equal(o->time[2], 2);
    assert_int_equal(o->time[3], 1);
    assert_int_equal(o->time[4], 1);
    dass_order_free(o);
    dass_graph_free(g);
}

static void in_place_saves_memory(void **state)
{
    (void)state;
    dass_graph *g = NULL;
    assert_int_equal(dass_graph_make(DASS_F32, &g), DASS_OK);
    dass_val x = dass_ref(g, "x", BUF_X, 0, DASS_LAYOUT_NHWC, 4, (int32_t[]){1, 1, 64, 64});
    dass_val y = dass_avg_pool(g, x, (dass_pool_attr){.k = 3, .stride = 1, .pad = 1});
    for (int i = 0; i < 4; i++)
        y = dass_relu(g, y, i & 1 ? DASS_ACT_RELU : DASS_ACT_RELU6);
    dass_copy(g, y, dass_ref(g, "out", BUF_OUT, 0, DASS_LAYOUT_NHWC, 4, g->vals[y].dim));
    assert_int_equal(dass_graph_finish(g), DASS_OK);
    dass_plan *with = NULL;
    dass_plan *without = NULL;
    assert_int_equal(dass_plan_make(g, NULL, NULL, false, true, &with), DASS_OK);
    assert_int_equal(dass_plan_make(g, NULL, NULL, false, false, &without), DASS_OK);
    assert_int_equal(with->peak_bytes, 64 * 64 * 4);
    assert_int_equal(without->peak_bytes, 2 * 64 * 64 * 4);
    dass_plan_free(with);
    dass_plan_free(without);
    dass_graph_free(g);
}

static void scratch_is_planned(void **state)
{
    (void)state;
    dass_graph *g = random_graph(7, 60);
    size_t ws[600] = {0};
    assert_true(g->n_nodes < 600);
    for (dass_node n = 1; n < g->n_nodes; n++)
        ws[n] = 1000 * (n % 7);
    dass_plan *p = NULL;
    assert_int_equal(dass_plan_make(g, ws, NULL, true, true, &p), DASS_OK);
    for (dass_node n = 1; n < g->n_nodes; n++)
        assert_true((ws[n] == 0) == (p->ws_offset[n] == DASS_PLAN_NOWHERE));
    assert_true(p->peak_bytes >= p->bound_bytes);
    dass_plan_free(p);
    dass_graph_free(g);
}

/* Every planted fault must be found by the verifier. */
static void planted_faults_are_rejected(void **state)
{
    (void)state;
    dass_graph *g = random_graph(11, 80);
    dass_plan *p = NULL;
    assert_int_equal(dass_plan_make(g, NULL, NULL, false, true, &p), DASS_OK);
    assert_int_equal(dass_plan_verify(g, p), DASS_OK);
    int n_found = 0;
    for (dass_val v = 1; v < g->n_vals; v++) {
        if (g->vals[v].buf)
            continue;
        const size_t keep = p->val_offset[v];
        p->val_offset[v] = p->peak_bytes; /* outside */
        assert_int_equal(dass_plan_verify(g, p), DASS_INTERNAL);
        p->val_offset[v] = keep + 4; /* not aligned */
        assert_int_equal(dass_plan_verify(g, p), DASS_INTERNAL);
        /* on top of an input that outlives the node */
        const dass_node def = g->vals[v].def;
        for (uint32_t i = 0; i < g->nodes[def].n_in; i++) {
            const dass_val u = dass_node_in(g, def)[i];
            if (!u || g->vals[u].buf || p->val_offset[u] == keep)
                continue;
            p->val_offset[v] = p->val_offset[u];
            n_found += dass_plan_verify(g, p) == DASS_INTERNAL;
        }
        p->val_offset[v] = keep;
    }
    assert_true(n_found > 10);
    assert_int_equal(dass_plan_verify(g, p), DASS_OK);
    dass_error_clear();
    dass_plan_free(p);
    dass_graph_free(g);
}

static void out_of_memory_is_clean(void **state)
{
    (void)state;
    dass_graph *g = random_graph(3, 30);
    const size_t live = dass_mem_get_stats().n_live;
    int n_failures = 0;
    for (size_t k = 1; k < 100; k++) {
        dass_plan *p = NULL;
        dass_mem_fail_at(k);
        const dass_status st = dass_plan_make(g, NULL, NULL, false, true, &p);
        dass_mem_fail_at(0);
        if (st == DASS_OK) {
            dass_plan_free(p);
            break;
        }
        assert_int_equal(st, DASS_NOMEM);
        assert_null(p);
        assert_int_equal(dass_mem_get_stats().n_live, live);
        n_failures++;
    }
    assert_true(n_failures >= 5);
    dass_graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_graphs_are_placed), cmocka_unit_test(groups_run_together),
        cmocka_unit_test(effects_keep_their_place), cmocka_unit_test(in_place_saves_memory),
        cmocka_unit_test(scratch_is_planned),       cmocka_unit_test(planted_faults_are_rejected),
        cmocka_unit_test(out_of_memory_is_clean),
    };
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
