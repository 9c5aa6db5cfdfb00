/* Gradients against central finite differences in double, through the double reference: every case
 * of every differentiable op, then compositions in which gradients travel in the forms that single
 * ops do not show (affine ones between fused halves, scaled ones through weighted sums, shared
 * factors of several cells). The scalar that is differentiated is sum(seed * outputs) with fixed
 * random seeds, or the loss of the case.
 *
 * Kinks. Inputs of cases stay farther than the step from the kinks of relu and max pool wherever
 * they meet one directly. Behind a batch norm that cannot be arranged, so a coordinate that
 * disagrees is tried again with a tenth of the step: a difference that straddled a kink then
 * agrees, and a wrong gradient does not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"
#include "dass/rng.h"

static const double step_sizes[] = {1e-5, 1e-6};
/* Relative to the largest entry of the gradient of one tensor (or 0.01). The second step has ten
 * times the rounding. */
static const double tolerances[] = {1e-7, 1e-6};
static const int64_t max_coordinates = 60; /* per tensor; drawn when there are more */
static const int max_reported = 20;

typedef struct checker {
    dass_backend *be;
    case_graph *forward;
    case_graph *backward;
    case_program run_forward;
    case_data data;
    case_data gradient;
} checker;

static dass_status checker_make(dass_backend *be, const test_case *t, case_mode forward, case_mode backward, checker *c)
{
    *c = (checker){.be = be};
    DASS_TRY(case_graph_make(t, DASS_F64, forward, false, &c->forward));
    DASS_TRY(case_graph_make(t, DASS_F64, backward, true, &c->backward));
    DASS_TRY(case_data_make(c->forward, &c->data));
    DASS_TRY(case_data_make(c->backward, &c->gradient));
    /* gradients are written, not added to: what was there before must not matter */
    for (size_t i = 0; i < c->gradient.bytes[CASE_GRAD] / sizeof(double); i++)
        ((double *)c->gradient.buf[CASE_GRAD])[i] = 77;
    DASS_TRY(case_program_make(be, c->forward, &(dass_exec_options){0}, &c->run_forward));
    case_program p;
    dass_status st = case_program_make(be, c->backward, &(dass_exec_options){.guard = true}, &p);
    if (st == DASS_OK)
        st = case_program_run(&p, &c->gradient);
    case_program_free(&p);
    return st;
}

static void checker_free(checker *c)
{
    case_program_free(&c->run_forward);
    case_data_free(&c->data);
    case_data_free(&c->gradient);
    case_graph_free(c->forward);
    case_graph_free(c->backward);
}

/* The scalar whose gradient is taken, from the outputs of one run. */
static dass_status scalar(checker *c, double *out)
{
    DASS_TRY(case_program_run(&c->run_forward, &c->data));
    const case_graph *cg = c->forward;
    const double *y = c->data.buf[CASE_OUT];
    const double *seed = c->data.buf[CASE_SEED];
    *out = 0;
    for (uint32_t i = 0; i < cg->n_out; i++)
        for (int64_t k = cg->out[i].offset; k < cg->out[i].offset + cg->out[i].count; k++)
            *out += (cg->loss ? 1 : seed[k]) * y[k];
    return DASS_OK;
}

static dass_status difference(checker *c, int64_t at, double h, double *out)
{
    double *theta = (double *)c->data.buf[CASE_PARAM] + at;
    const double start = *theta;
    double up;
    double down;
    *theta = start + h;
    DASS_TRY(scalar(c, &up));
    *theta = start - h;
    DASS_TRY(scalar(c, &down));
    *theta = start;
    *out = (up - down) / (2 * h);
    return DASS_OK;
}

/* Coordinates of one input tensor; returns how many are wrong, after reporting the first. */
static int check_tensor(checker *c, const char *name, const case_tensor *t, double *worst)
{
    const double *g = (const double *)c->gradient.buf[CASE_GRAD] + t->offset;
    dass_rng r = dass_rng_make(2, DASS_RNG_TEST, dass_name_hash(t->name), 0);
    const int64_t n = t->count < max_coordinates ? t->count : max_coordinates;
    double scale = 0.01;
    int wrong = 0;
    for (int64_t i = 0; i < t->count; i++)
        scale = fabs(g[i]) > scale ? fabs(g[i]) : scale;
    for (int64_t k = 0; k < n; k++) {
        const int64_t i = n == t->count ? k : (int64_t)dass_rng_below(&r, (uint32_t)t->count);
        double error = INFINITY;
        double d = 0;
        for (size_t try = 0; try < 2 && !(error <= tolerances[try ? try - 1 : 0]); try++) {
            if (difference(c, t->offset + i, step_sizes[try], &d) != DASS_OK) {
                print_error("%s: %s\n", name, dass_error_text());
                return 1;
            }
            error = fabs(d - g[i]) / scale;
            if (try == 1 && error <= tolerances[1])
                error = 0; /* the first difference straddled a kink */
        }
        if (!(error <= tolerances[0])) {
            if (wrong++ == 0)
                print_error("%s: d %s[%lld] is %.12g, the difference %.12g (relative %.2g)\n", name, t->name,
                            (long long)i, g[i], d, error);
        } else if (error > *worst) {
            *worst = error;
        }
    }
    return wrong;
}

static int check_case(dass_backend *be, const test_case *t, const char *name, case_mode forward, case_mode backward,
                      double *worst)
{
    checker c;
    int wrong = 0;
    if (checker_make(be, t, forward, backward, &c) != DASS_OK) {
        print_error("%s: %s\n", name, dass_error_text());
        wrong = 1;
    }
    for (uint32_t i = 0; !wrong && i < c.forward->n_in; i++)
        if (c.forward->in[i].buf == CASE_PARAM)
            wrong += check_tensor(&c, name, &c.forward->in[i], worst);
    checker_free(&c);
    return wrong != 0;
}

static void run_cases(const test_case *all, size_t n, const char *const *names, case_mode forward, case_mode backward)
{
    dass_backend *be = NULL;
    assert_int_equal(dass_backend_open("ref64", NULL, &be), DASS_OK);
    int wrong = 0;
    size_t checked = 0;
    double worst = 0;
    for (size_t i = 0; i < n && wrong < max_reported; i++) {
        if (!(dass_op_get(all[i].op)->flags & DASS_OPF_D))
            continue;
        char name[160];
        case_name(&all[i], name, sizeof(name));
        checked++;
        wrong += check_case(be, &all[i], names ? names[i] : name, forward, backward, &worst);
    }
    print_message("%zu cases, largest relative error %.2g\n", checked, worst);
    dass_backend_close(be);
    assert_int_equal(wrong, 0);
}

static void every_differentiable_op(void **state)
{
    (void)state;
    size_t n;
    const test_case *all = cases_all(&n);
    for (int op = 1; op < DASS_N_OPS; op++) {
        size_t count = 0;
        for (size_t i = 0; i < n; i++)
            count += all[i].op == (dass_op)op;
        if ((dass_op_get((dass_op)op)->flags & DASS_OPF_D) && count == 0)
            fail_msg("differentiable op '%s' has no case", dass_op_get((dass_op)op)->name);
    }
    run_cases(all, n, NULL, CASE_GRADIENT, CASE_GRADIENT);
}

/* ---- compositions ------------------------------------------------------------------- */

static const double eps = 1e-3;

static dass_conv_attr half_attr(int32_t k, int32_t stride, int32_t dil)
{
    return (dass_conv_attr){
        .kh = k, .kw = k, .stride = stride, .pad = dil * (k - 1) / 2, .dil = dil, .groups = 1, .relu = 1, .eps = eps};
}

static const dass_conv_attr pointwise = {.kh = 1, .kw = 1, .stride = 1, .dil = 1, .groups = 1};

typedef struct normed_val {
    dass_val y, mean, rstd;
} normed_val;

/* relu, depthwise and pointwise convolution and statistics, in one op or in four (five with the
 * batch norm of the input). */
static normed_val separable_half(case_graph *cg, const char *name, dass_dwpw_in in, int32_t c, int32_t oc,
                                 dass_conv_attr a)
{
    dass_graph *g = cg->g;
    normed_val r;
    char text[40];
    snprintf(text, sizeof(text), "%s_dw", name);
    in.w_dw = case_weights(cg, text, c, 1, a.kh, a.kw);
    snprintf(text, sizeof(text), "%s_pw", name);
    in.w_pw = case_weights(cg, text, oc, c, 1, 1);
    if (!cg->unfused) {
        r.y = dass_dwpw(g, in, a, &r.mean, &r.rstd);
        return r;
    }
    dass_val u = in.x;
    if (in.mean)
        u = dass_bn_apply(g, u, in.mean, in.rstd, in.gamma, in.beta, DASS_ACT_NONE);
    u = dass_relu(g, u, DASS_ACT_RELU);
    a.groups = c;
    a.relu = DASS_ACT_NONE;
    r.y = dass_conv(g, dass_conv(g, u, in.w_dw, 0, a), in.w_pw, 0, pointwise);
    dass_bn_stats(g, r.y, eps, &r.mean, &r.rstd);
    return r;
}

/* A normalised term of a weighted sum, or the sum's view of a batch norm before it. */
static dass_term normed_term(case_graph *cg, normed_val v, int32_t index)
{
    if (!cg->unfused)
        return (dass_term){v.y, v.mean, v.rstd, 0, 0, index};
    const dass_val y = dass_bn_apply(cg->g, v.y, v.mean, v.rstd, 0, 0, DASS_ACT_NONE);
    return (dass_term){.x = y, .index = index};
}

/* A separable convolution: two halves, the second normalising the first on load; with and without
 * scales, and read twice. */
static void build_sepconv(case_graph *cg, const int32_t *a)
{
    const dass_val x = case_image(cg, "x", 2, 5, 6, 6, FILL_APART);
    const normed_val first = separable_half(cg, "first", (dass_dwpw_in){.x = x}, 5, 5, half_attr(a[0], a[1], 1));
    dass_dwpw_in in = {.x = first.y, .mean = first.mean, .rstd = first.rstd};
    if (a[2]) {
        in.gamma = case_vector(cg, "gamma", 5, FILL_POSITIVE);
        in.beta = case_vector(cg, "beta", 5, FILL_UNIFORM);
    }
    const normed_val second = separable_half(cg, "second", in, 5, 8, half_attr(a[0], 1, 1));
    case_out(cg, "y", dass_bn_apply(cg->g, second.y, second.mean, second.rstd, 0, 0, DASS_ACT_NONE));
    if (a[3]) { /* another reader of the normalised middle */
        const normed_val third = separable_half(cg, "third", in, 5, 3, half_attr(3, 1, 1));
        const dass_term t[] = {normed_term(cg, third, 1), normed_term(cg, third, 0)};
        case_out(cg, "z", dass_wsum(cg->g, case_vector(cg, "p", 3, FILL_APART), t, 2));
    }
}

/* A mixed edge: every kind of branch into one weighted sum, factors from a softmax. */
static dass_val mixed(case_graph *cg, const char *name, dass_val x, dass_val p, int32_t row, int32_t c)
{
    dass_term t[5] = {{0}};
    const int32_t first = 6 * row;
    const dass_pool_attr pool = {.k = 3, .stride = 1, .pad = 1};
    char text[32];
    const dass_val pools[2] = {dass_max_pool(cg->g, x, pool), dass_avg_pool(cg->g, x, pool)};
    for (int i = 0; i < 2; i++) {
        normed_val v = {.y = pools[i]};
        dass_bn_stats(cg->g, pools[i], eps, &v.mean, &v.rstd);
        t[i] = normed_term(cg, v, first + 1 + i);
    }
    t[2] = (dass_term){.x = x, .index = first + 3};
    for (int i = 0; i < 2; i++) {
        snprintf(text, sizeof(text), "%.20s_%d", name, i);
        const normed_val h = separable_half(cg, text, (dass_dwpw_in){.x = x}, c, c, half_attr(3, 1, 1 + i));
        t[3 + i] = normed_term(cg, h, first + 4 + i);
    }
    return dass_wsum(cg->g, p, t, 5);
}

/* Cells that share one softmax: two nodes in each, every state read by the nodes behind it and by
 * the concatenation. */
static void build_cells(case_graph *cg, const int32_t *a)
{
    const int32_t c = 3;
    const dass_val p = dass_softmax(cg->g, case_matrix(cg, "alpha", 3, 6, FILL_UNIFORM));
    const dass_val q = dass_softmax(cg->g, case_matrix(cg, "alpha_reduce", 3, 6, FILL_UNIFORM));
    dass_val x = case_image(cg, "x", 2, c, 5, 5, FILL_DISTINCT);
    for (int32_t cell = 0; cell < a[0]; cell++) {
        const dass_val factors = a[1] && cell % 2 ? q : p;
        char text[3][32];
        for (int i = 0; i < 3; i++)
            snprintf(text[i], sizeof(text[i]), "cell%d_%d", cell, i);
        const dass_val s1 = mixed(cg, text[0], x, factors, 0, c);
        const dass_val e1 = mixed(cg, text[1], x, factors, 1, c);
        const dass_val e2 = mixed(cg, text[2], s1, factors, 2, c);
        const dass_term both[] = {{.x = e1, .index = -1}, {.x = e2, .index = -1}};
        const dass_val s2 = dass_wsum(cg->g, 0, both, 2);
        const dass_val cat = dass_concat(cg->g, (const dass_val[]){s1, s2}, 2);
        snprintf(text[0], sizeof(text[0]), "pre%d", cell);
        const dass_val w = case_weights(cg, text[0], c, 2 * c, 1, 1);
        const dass_val y = dass_conv(cg->g, dass_relu(cg->g, cat, DASS_ACT_RELU), w, 0, pointwise);
        dass_val mean;
        dass_val rstd;
        dass_bn_stats(cg->g, y, eps, &mean, &rstd);
        x = dass_bn_apply(cg->g, y, mean, rstd, 0, 0, DASS_ACT_NONE);
    }
    const dass_val w = case_weights(cg, "classifier", 4, c, 1, 1);
    const dass_val bias = case_vector(cg, "bias", 4, FILL_UNIFORM);
    const dass_val logits = dass_conv(cg->g, dass_global_pool(cg->g, x), w, bias, pointwise);
    dass_val correct;
    dass_xent(cg->g, logits, case_ints(cg, "labels", 2, 4), case_step(cg), 0.1, &cg->loss, &correct);
    case_out(cg, "loss", cg->loss);
}

/* Factorised reduction: two shifted samplings of one input, each through its own convolution,
 * concatenated. */
static void build_reduce(case_graph *cg, const int32_t *a)
{
    (void)a;
    const dass_val x = dass_relu(cg->g, case_image(cg, "x", 2, 4, 6, 6, FILL_APART), DASS_ACT_RELU);
    dass_val y[2];
    for (int32_t i = 0; i < 2; i++)
        y[i] = dass_conv(cg->g, dass_subsample(cg->g, x, 2, i),
                         case_weights(cg, case_text(cg, "w", (uint32_t)i), 3, 4, 1, 1), 0, pointwise);
    const dass_val cat = dass_concat(cg->g, y, 2);
    dass_val mean;
    dass_val rstd;
    dass_bn_stats(cg->g, cat, eps, &mean, &rstd);
    const dass_val gamma = case_vector(cg, "gamma", 6, FILL_POSITIVE);
    const dass_val beta = case_vector(cg, "beta", 6, FILL_UNIFORM);
    case_out(cg, "y", dass_bn_apply(cg->g, cat, mean, rstd, gamma, beta, DASS_ACT_RELU));
}

/* One parameter read by several nodes, and one that nothing reads. */
static void build_shared(case_graph *cg, const int32_t *a)
{
    (void)a;
    const dass_conv_attr k3 = {.kh = 3, .kw = 3, .stride = 1, .pad = 1, .dil = 1, .groups = 1};
    const dass_val w = case_weights(cg, "w", 3, 3, 3, 3);
    (void)case_vector(cg, "unread", 5, FILL_UNIFORM);
    dass_val x = case_image(cg, "x", 1, 3, 5, 4, FILL_UNIFORM);
    for (int i = 0; i < 3; i++)
        x = dass_conv(cg->g, x, w, 0, k3);
    const dass_term twice[] = {{.x = x, .index = -1}, {.x = x, .index = 0}, {.x = x, .index = 0}};
    case_out(cg, "y", dass_wsum(cg->g, case_vector(cg, "p", 1, FILL_APART), twice, 3));
}

static const test_case composed[] = {
    {DASS_OP_DWPW, "", build_sepconv, {3, 1, 0, 0}}, {DASS_OP_DWPW, "", build_sepconv, {5, 2, 1, 0}},
    {DASS_OP_DWPW, "", build_sepconv, {3, 1, 1, 1}}, {DASS_OP_DWPW, "", build_sepconv, {3, 2, 0, 1}},
    {DASS_OP_WSUM, "", build_cells, {1, 0}},         {DASS_OP_WSUM, "", build_cells, {2, 0}},
    {DASS_OP_WSUM, "", build_cells, {3, 1}},         {DASS_OP_SUBSAMPLE, "", build_reduce, {0}},
    {DASS_OP_CONV, "", build_shared, {0}},
};
static const char *const composed_names[] = {
    "separable 3x3",
    "separable 5x5 stride 2, scales",
    "separable, middle read twice, scales",
    "separable stride 2, middle read twice",
    "one cell",
    "two cells, one softmax",
    "three cells, two softmaxes",
    "factorised reduction",
    "shared parameter",
};
static const size_t n_composed = sizeof(composed) / sizeof(*composed);

static void compositions_of_fused_ops(void **state)
{
    (void)state;
    run_cases(composed, n_composed, composed_names, CASE_GRADIENT, CASE_GRADIENT);
}

static void compositions_of_primitive_ops(void **state)
{
    (void)state;
    run_cases(composed, n_composed, composed_names, CASE_UNFUSED, CASE_UNFUSED);
}

/* The gradient of the lowered graph against differences of the graph before lowering. */
static void lowering_keeps_the_gradient(void **state)
{
    (void)state;
    run_cases(composed, n_composed, composed_names, CASE_UNFUSED, CASE_LOWERED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_differentiable_op),
        cmocka_unit_test(compositions_of_fused_ops),
        cmocka_unit_test(compositions_of_primitive_ops),
        cmocka_unit_test(lowering_keeps_the_gradient),
    };
    return cmocka_run_group_tests_name("grad", tests, NULL, NULL);
}
