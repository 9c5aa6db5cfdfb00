/* The builder: hash-consing, dead-code removal, buffer versions, shape errors word for word, and lowering's patterns.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "dass/graph.h"

enum { BUF_X = 1, BUF_W, BUF_G, BUF_OUT, BUF_LABEL, BUF_STEP };

static dass_graph *make(void)
{
    dass_graph *g = NULL;
    assert_int_equal(dass_graph_make(DASS_F32, &g), DASS_OK);
    return g;
}

static dass_val image(dass_graph *g, int32_t n, int32_t c, int32_t h, int32_t w)
{
    return dass_ref(g, "x", BUF_X, 0, DASS_LAYOUT_NHWC, 4, (int32_t[]){n, c, h, w});
}

static dass_val weight(dass_graph *g, int64_t offset, int32_t oc, int32_t ic, int32_t k)
{
    return dass_ref(g, "w", BUF_W, offset, DASS_LAYOUT_OIHW, 4, (int32_t[]){oc, ic, k, k});
}

static dass_conv_attr conv(int32_t k, int32_t groups)
{
    return (dass_conv_attr){.kh = k, .kw = k, .stride = 1, .pad = k / 2, .dil = 1, .groups = groups};
}

static void equal_nodes_are_one(void **state)
{
    (void)state;
    dass_graph *g = make();
    const dass_val x = image(g, 2, 4, 8, 8);
    assert_int_equal(x, image(g, 2, 4, 8, 8));
    const dass_val a = dass_relu(g, x, DASS_ACT_RELU);
    assert_int_equal(a, dass_relu(g, x, DASS_ACT_RELU));
    assert_int_not_equal(a, dass_relu(g, x, DASS_ACT_RELU6));
    const dass_term t[] = {{a, 0, 0, 0, 0, -1}, {x, 0, 0, 0, 0, -1}};
    assert_int_equal(dass_wsum(g, 0, t, 2), dass_wsum(g, 0, t, 2));
    assert_int_equal(g->n_nodes, 4);
    dass_graph_free(g);
}

static void many_nodes_survive_growth(void **state)
{
    (void)state;
    dass_graph *g = make();
    dass_val first = 0;
    for (int round = 0; round < 2; round++) {
        dass_val y = image(g, 1, 1, 4, 4);
        for (int i = 0; i < 5000; i++)
            y = dass_concat(g, (dass_val[]){dass_relu(g, y, DASS_ACT_RELU)}, 1);
        first = round ? first : y;
        assert_int_equal(first, y);
    }
    assert_int_equal(g->n_nodes, 10001);
    dass_graph_free(g);
}

static void writes_make_new_versions(void **state)
{
    (void)state;
    dass_graph *g = make();
    const dass_val before = weight(g, 0, 4, 4, 1);
    const dass_val x = image(g, 1, 4, 4, 4);
    const dass_val y0 = dass_conv(g, x, before, 0, conv(1, 1));
    dass_fill(g, dass_ref(g, "W", BUF_W, 0, DASS_LAYOUT_FLAT, 1, (int32_t[]){16}), 0);
    const dass_val after = weight(g, 0, 4, 4, 1);
    assert_int_not_equal(before, after);
    assert_int_not_equal(y0, dass_conv(g, x, after, 0, conv(1, 1)));
    dass_graph_free(g);
}

static void dead_nodes_go(void **state)
{
    (void)state;
    dass_graph *g = make();
    const dass_val x = image(g, 1, 4, 4, 4);
    const dass_val a = dass_relu(g, x, DASS_ACT_RELU);
    (void)dass_relu(g, dass_relu(g, x, DASS_ACT_RELU6), DASS_ACT_RELU);
    dass_place(g, a, BUF_OUT, 0);
    assert_int_equal(dass_graph_finish(g), DASS_OK);
    assert_int_equal(g->n_nodes, 2);
    assert_int_equal(g->vals[dass_node_out(g, 1)[0]].buf, BUF_OUT);
    assert_int_equal(dass_relu(g, 1, DASS_ACT_RELU), 0); /* finished: nothing can be added */
    dass_graph_free(g);
}

static void shape_errors_name_everything(void **state)
{
    (void)state;
    dass_graph *g = make();
    dass_graph_scope(g, "cells.3.pre0");
    const dass_val x = image(g, 64, 16, 32, 32);
    const dass_val y = dass_conv(g, x, weight(g, 0, 16, 8, 3), 0, conv(3, 1));
    assert_int_equal(y, 0);
    assert_int_equal(dass_relu(g, y, DASS_ACT_RELU), 0); /* the chain goes on quietly */
    assert_int_equal(dass_graph_finish(g), DASS_ARG);
    assert_string_equal(dass_error_text(), "cells.3.pre0: conv: weights 'w' (16,8,3,3) do not fit x 'x' (64,16,32,32) "
                                           "with kernel 3x3 and 1 groups");
    dass_graph_free(g);

    g = make();
    const dass_val p = dass_max_pool(g, image(g, 1, 2, 2, 2), (dass_pool_attr){.k = 5, .stride = 1, .pad = 0});
    assert_int_equal(p, 0);
    assert_string_equal(dass_error_text(), "max_pool: window 5x5 stride 1 pad 0 does not fit x 'x' (1,2,2,2)");
    dass_graph_free(g);

    g = make();
    const dass_val v[] = {image(g, 1, 2, 4, 4),
                          dass_ref(g, "z", BUF_X, 99, DASS_LAYOUT_NHWC, 4, (int32_t[]){1, 2, 4, 5})};
    assert_int_equal(dass_concat(g, v, 2), 0);
    assert_string_equal(dass_error_text(), "concat: 'z' (1,2,4,5) does not fit 'x' (1,2,4,4)");
    dass_graph_free(g);
}

/* relu -> dw -> pw -> bn -> relu -> dw -> pw -> bn -> wsum: the separable convolution of the search space. */
static dass_val separable(dass_graph *g, dass_val x)
{
    int64_t at = 0;
    for (int half = 0; half < 2; half++) {
        const dass_val r = dass_relu(g, x, DASS_ACT_RELU);
        const dass_val dw = dass_conv(g, r, weight(g, at, 8, 1, 3), 0, conv(3, 8));
        const dass_val pw = dass_conv(g, dw, weight(g, at + 72, 8, 8, 1), 0, conv(1, 1));
        dass_val mean = 0;
        dass_val rstd = 0;
        dass_bn_stats(g, pw, 1e-5, &mean, &rstd);
        x = dass_bn_apply(g, pw, mean, rstd, 0, 0, DASS_ACT_NONE);
        at += 136;
    }
    return x;
}

static int count_op(const dass_graph *g, dass_op op)
{
    int n = 0;
    for (dass_node i = 1; i < g->n_nodes; i++)
        n += g->nodes[i].op == op;
    return n;
}

static void lowering_fuses_the_separable_convolution(void **state)
{
    (void)state;
    dass_graph *g = make();
    const dass_val x = image(g, 2, 8, 6, 6);
    const dass_term t[] = {{separable(g, x), 0, 0, 0, 0, -1}, {x, 0, 0, 0, 0, -1}};
    dass_val y = dass_wsum(g, 0, t, 2);
    dass_place(g, y, BUF_OUT, 0);
    dass_graph *low = NULL;
    assert_int_equal(dass_graph_lower(g, DASS_LOWER_ALL, NULL, NULL, &y, 1, &low), DASS_OK);
    assert_int_equal(low->vals[y].buf, BUF_OUT);
    assert_int_equal(dass_graph_finish(low), DASS_OK);
    assert_int_equal(low->n_nodes - 1, 3);
    assert_int_equal(count_op(low, DASS_OP_DWPW), 2);
    assert_int_equal(count_op(low, DASS_OP_WSUM), 1);
    const dass_val *in = dass_node_in(low, 3);
    assert_int_not_equal(in[2], 0); /* the first term is normalised on load */
    assert_int_equal(in[7], 0);     /* the second is raw */
    int64_t macs[2] = {0, 0};
    assert_int_equal(dass_graph_finish(g), DASS_OK);
    for (dass_node n = 1; n < g->n_nodes; n++)
        macs[0] += dass_node_cost(g, n).macs;
    for (dass_node n = 1; n < low->n_nodes; n++)
        macs[1] += dass_node_cost(low, n).macs;
    assert_int_equal(macs[0], 2 * 2 * 36 * 8 * (9 + 8));
    assert_int_equal(macs[0], macs[1]);
    dass_graph_free(low);
    dass_graph_free(g);
}

static bool can_nothing(void *ctx, dass_op op)
{
    (void)ctx, (void)op;
    return false;
}

static void lowering_asks_the_backend(void **state)
{
    (void)state;
    dass_graph *g = make();
    dass_val y = separable(g, image(g, 2, 8, 6, 6));
    dass_place(g, y, BUF_OUT, 0);
    dass_graph *low = NULL;
    assert_int_equal(dass_graph_lower(g, DASS_LOWER_ALL, can_nothing, NULL, &y, 1, &low), DASS_OK);
    assert_int_equal(dass_graph_finish(low), DASS_OK);
    assert_int_equal(dass_graph_finish(g), DASS_OK);
    assert_int_equal(low->n_nodes, g->n_nodes);
    assert_int_equal(count_op(low, DASS_OP_DWPW), 0);
    dass_graph_free(low);
    dass_graph_free(g);
}

/* Asking for one buffer emits nothing for another. */
static void unwanted_gradients_cost_nothing(void **state)
{
    (void)state;
    int n_nodes[2];
    for (int alpha_only = 0; alpha_only < 2; alpha_only++) {
        dass_graph *g = make();
        const dass_val a = dass_ref(g, "alpha", BUF_LABEL + 2, 0, DASS_LAYOUT_FLAT, 2, (int32_t[]){1, 2});
        const dass_val p = dass_softmax(g, a);
        const dass_val x = image(g, 2, 8, 6, 6);
        const dass_term t[] = {{separable(g, x), 0, 0, 0, 0, 0}, {x, 0, 0, 0, 0, 1}};
        const dass_val y = dass_wsum(g, p, t, 2);
        const dass_val seed = dass_ref(g, "seed", BUF_X, 5000, DASS_LAYOUT_NHWC, 4, g->vals[y].dim);
        const dass_wrt wrt[] = {{BUF_LABEL + 2, BUF_LABEL + 3}, {BUF_W, BUF_G}};
        assert_int_equal(dass_graph_grad_seeded(g, &y, &seed, 1, wrt, alpha_only ? 1 : 2), DASS_OK);
        assert_int_equal(dass_graph_finish(g), DASS_OK);
        n_nodes[alpha_only] = (int)g->n_nodes;
        assert_int_equal(count_op(g, DASS_OP_CONV_BWD_WEIGHTS), alpha_only ? 0 : 4);
        assert_int_equal(count_op(g, DASS_OP_CONV_BWD_DATA), alpha_only ? 0 : 3);
        dass_graph_free(g);
    }
    assert_true(n_nodes[1] < n_nodes[0]);
}

/* A seed that no rule can take back is an error, not a gradient of zero. */
static void seeds_without_a_rule_are_refused(void **state)
{
    (void)state;
    dass_graph *g = make();
    const dass_val x = image(g, 2, 8, 1, 1);
    const dass_val y = dass_conv(g, x, weight(g, 0, 8, 8, 1), 0, conv(1, 1));
    const dass_val labels = dass_ref_typed(g, "labels", DASS_I32, BUF_LABEL, 0, DASS_LAYOUT_FLAT, 1, (int32_t[]){2});
    const dass_val step = dass_ref_typed(g, "step", DASS_U8, BUF_STEP, 0, DASS_LAYOUT_FLAT, 1, (int32_t[]){256});
    dass_val loss = 0;
    dass_val correct = 0;
    dass_xent(g, y, labels, step, 0, &loss, &correct);
    const dass_val seed = dass_ref(g, "seed", BUF_X, 500, DASS_LAYOUT_FLAT, 1, (int32_t[]){1});
    const dass_wrt wrt = {BUF_W, BUF_G};
    assert_int_equal(dass_graph_grad_seeded(g, &loss, &seed, 1, &wrt, 1), DASS_UNSUPPORTED);
    assert_non_null(strstr(dass_error_text(), "gradient: xent"));
    dass_graph_free(g);
}

static void out_of_memory_is_clean(void **state)
{
    (void)state;
    const size_t live = dass_mem_get_stats().n_live;
    int n_failures = 0;
    for (size_t k = 1; k < 200; k++) {
        dass_mem_fail_at(k);
        dass_graph *g = NULL;
        dass_status st = dass_graph_make(DASS_F32, &g);
        dass_graph *low = NULL;
        if (st == DASS_OK) {
            dass_val y = separable(g, image(g, 2, 8, 6, 6));
            dass_place(g, y, BUF_OUT, 0);
            st = dass_graph_lower(g, DASS_LOWER_ALL, NULL, NULL, &y, 1, &low);
            st = st == DASS_OK ? dass_graph_finish(low) : st;
        }
        dass_mem_fail_at(0);
        dass_graph_free(low);
        dass_graph_free(g);
        assert_int_equal(dass_mem_get_stats().n_live, live);
        if (st == DASS_OK)
            break;
        assert_int_equal(st, DASS_NOMEM);
        n_failures++;
    }
    assert_true(n_failures > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_nodes_are_one),
        cmocka_unit_test(many_nodes_survive_growth),
        cmocka_unit_test(writes_make_new_versions),
        cmocka_unit_test(dead_nodes_go),
        cmocka_unit_test(shape_errors_name_everything),
        cmocka_unit_test(lowering_fuses_the_separable_convolution),
        cmocka_unit_test(lowering_asks_the_backend),
        cmocka_unit_test(unwanted_gradients_cost_nothing),
        cmocka_unit_test(seeds_without_a_rule_are_refused),
        cmocka_unit_test(out_of_memory_is_clean),
    };
    return cmocka_run_group_tests_name("graph", tests, NULL, NULL);
}
