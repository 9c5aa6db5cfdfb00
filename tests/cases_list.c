/* The cases of every op of ops.def: a build function per op and a table of arguments per family,
 * expanded once into one list. Channels are chosen around the widths of vectors (3, 5, 8, 16, 20,
 * 36), sizes are odd where that can matter, and every optional input is given in some case and left
 * out in another.
 */
#include "cases.h"

#include <string.h>

#include "dass/rng.h"

/* ---- convolution -------------------------------------------------------------------- */

#define CONV_ARGS "n ic h w oc kh kw s p d g bias"
static const int32_t conv_args[][CASE_MAX_ARGS] = {
    {2, 3, 7, 5, 8, 1, 1, 1, 0, 1, 1, 0},
    {1, 16, 6, 6, 20, 1, 1, 1, 0, 1, 1, 1},
    {3, 36, 5, 5, 16, 1, 1, 2, 0, 1, 1, 0},
    {2, 3, 8, 8, 16, 3, 3, 1, 1, 1, 1, 0},
    {2, 5, 7, 9, 8, 3, 3, 2, 1, 1, 1, 1},
    {1, 8, 9, 9, 8, 3, 3, 1, 2, 2, 1, 0},
    {2, 8, 7, 7, 5, 5, 5, 1, 2, 1, 1, 0},
    {1, 4, 5, 9, 6, 1, 7, 1, 3, 1, 1, 0},
    {1, 3, 9, 9, 4, 7, 7, 1, 3, 1, 1, 0},
    {1, 16, 8, 8, 16, 3, 3, 1, 0, 1, 1, 0},
    {2, 8, 6, 6, 12, 3, 3, 1, 1, 1, 2, 1},
    {1, 6, 7, 7, 12, 3, 3, 2, 1, 1, 6, 0},
    {3, 20, 1, 1, 10, 1, 1, 1, 0, 1, 1, 1},
    {1, 3, 1, 1, 5, 1, 1, 1, 0, 1, 1, 1},
    {2, 48, 3, 5, 12, 1, 1, 1, 0, 1, 1, 1},
    /* depthwise */
    {2, 3, 7, 7, 3, 3, 3, 1, 1, 1, 3, 0},
    {1, 5, 6, 9, 5, 3, 3, 2, 1, 1, 5, 0},
    {1, 8, 9, 8, 8, 3, 3, 1, 2, 2, 8, 0},
    {2, 16, 8, 8, 16, 5, 5, 1, 2, 1, 16, 0},
    {1, 20, 9, 7, 20, 5, 5, 2, 2, 1, 20, 0},
    {1, 36, 9, 9, 36, 5, 5, 1, 4, 2, 36, 0},
    {1, 16, 9, 9, 16, 7, 7, 1, 3, 1, 16, 0},
    {1, 5, 8, 8, 5, 7, 7, 2, 3, 1, 5, 0},
    {1, 8, 11, 10, 8, 5, 5, 2, 4, 2, 8, 1},
    {1, 36, 5, 4, 36, 3, 3, 2, 2, 2, 36, 0},
    {3, 16, 1, 1, 16, 3, 3, 1, 1, 1, 16, 0},
    {1, 20, 2, 3, 20, 5, 5, 1, 2, 1, 20, 0},
    {1, 16, 7, 9, 16, 3, 3, 2, 1, 1, 16, 1},
    {1, 8, 12, 13, 8, 3, 3, 2, 3, 3, 8, 0},
    {2, 8, 8, 9, 8, 7, 7, 2, 3, 1, 8, 0},
    {1, 35, 6, 7, 35, 4, 4, 1, 1, 1, 35, 0},
    {1, 33, 14, 14, 33, 3, 3, 2, 1, 1, 33, 0},
    {1, 33, 14, 14, 33, 3, 3, 1, 0, 1, 33, 1},
    {2, 132, 8, 12, 132, 3, 3, 2, 1, 1, 132, 0},
    {2, 132, 24, 1, 132, 3, 3, 1, 4, 4, 132, 0},
    /* more padding than taps */
    {1, 8, 5, 6, 8, 3, 3, 1, 3, 1, 8, 0},
};

static dass_conv_attr conv_attr_of(const int32_t *a)
{
    return (dass_conv_attr){.kh = a[5], .kw = a[6], .stride = a[7], .pad = a[8], .dil = a[9], .groups = a[10]};
}

static int32_t window_out(int32_t size, int32_t k, int32_t stride, int32_t pad, int32_t dil)
{
    return (size + 2 * pad - dil * (k - 1) - 1) / stride + 1;
}

static void build_conv(case_graph *cg, const int32_t *a)
{
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM);
    const dass_val w = case_weights(cg, "w", a[4], a[1] / a[10], a[5], a[6]);
    const dass_val bias = a[11] ? case_vector(cg, "bias", a[4], FILL_UNIFORM) : 0;
    case_out(cg, "y", dass_conv(cg->g, x, w, bias, conv_attr_of(a)));
}

static dass_val conv_d_y(case_graph *cg, const int32_t *a)
{
    return case_image(cg, "d_y", a[0], a[4], window_out(a[2], a[5], a[7], a[8], a[9]),
                      window_out(a[3], a[6], a[7], a[8], a[9]), FILL_UNIFORM);
}

static void build_conv_bwd_data(case_graph *cg, const int32_t *a)
{
    const dass_val d_y = conv_d_y(cg, a);
    const dass_val w = case_weights(cg, "w", a[4], a[1] / a[10], a[5], a[6]);
    case_out(cg, "d_x", dass_conv_bwd_data(cg->g, d_y, w, a[2], a[3], conv_attr_of(a)));
}

static void build_conv_bwd_weights(case_graph *cg, const int32_t *a)
{
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM);
    const dass_val d_y = conv_d_y(cg, a);
    case_out(cg, "d_w", dass_conv_bwd_weights(cg->g, x, d_y, conv_attr_of(a)));
}

/* The same with activations at odd places, where libraries take none. */
static const int32_t conv_astray_args[][CASE_MAX_ARGS] = {
    {2, 8, 6, 7, 12, 3, 3, 1, 1, 1, 1, 1},
    {1, 5, 7, 6, 4, 3, 3, 2, 1, 1, 1, 0},
    {2, 16, 5, 5, 8, 1, 1, 1, 0, 1, 1, 1},
    {1, 16, 7, 8, 16, 3, 3, 1, 1, 1, 16, 1},
};

static void build_conv_astray(case_graph *cg, const int32_t *a)
{
    cg->astray = true;
    build_conv(cg, a);
}

static void build_conv_bwd_data_astray(case_graph *cg, const int32_t *a)
{
    cg->astray = true;
    build_conv_bwd_data(cg, a);
}

static void build_conv_bwd_weights_astray(case_graph *cg, const int32_t *a)
{
    cg->astray = true;
    build_conv_bwd_weights(cg, a);
}

/* ---- batch norm --------------------------------------------------------------------- */

#define BN_ARGS "n c h w affine act"
static const int32_t bn_args[][CASE_MAX_ARGS] = {
    {2, 3, 4, 5, 0, DASS_ACT_NONE},  {1, 5, 7, 3, 1, DASS_ACT_NONE},   {2, 8, 3, 3, 1, DASS_ACT_RELU},
    {3, 16, 4, 4, 0, DASS_ACT_NONE}, {1, 20, 5, 5, 1, DASS_ACT_RELU6}, {2, 36, 3, 5, 0, DASS_ACT_RELU},
    {1, 36, 5, 3, 1, DASS_ACT_NONE}, {16, 16, 1, 1, 1, DASS_ACT_NONE},
};
static const double bn_eps = 1e-3; /* large enough to be noticed when left out */

typedef struct bn_vals {
    dass_val mean, rstd, gamma, beta;
} bn_vals;

/* Statistics and scales of x (c channels). In a gradient check the statistics are those of x. */
static bn_vals bn_inputs(case_graph *cg, dass_val x, uint32_t k, int32_t c, bool affine, case_fill gamma_fill)
{
    bn_vals b = {0};
    if (cg->grad) {
        dass_bn_stats(cg->g, x, bn_eps, &b.mean, &b.rstd);
    } else {
        b.mean = case_vector(cg, case_text(cg, "mean", k), c, FILL_UNIFORM);
        b.rstd = case_vector(cg, case_text(cg, "rstd", k), c, FILL_POSITIVE);
    }
    if (affine) {
        b.gamma = case_vector(cg, case_text(cg, "gamma", k), c, gamma_fill);
        b.beta = case_vector(cg, case_text(cg, "beta", k), c, FILL_UNIFORM);
    }
    return b;
}

static case_fill gamma_fill_of(int32_t act)
{
    return act == DASS_ACT_RELU6 ? FILL_WIDE : FILL_POSITIVE;
}

static void build_bn_stats(case_graph *cg, const int32_t *a)
{
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM);
    dass_val mean;
    dass_val rstd;
    dass_bn_stats(cg->g, x, bn_eps, &mean, &rstd);
    if (cg->grad) { /* statistics have a gradient through what they normalise */
        case_out(cg, "y", dass_bn_apply(cg->g, x, mean, rstd, 0, 0, DASS_ACT_NONE));
        return;
    }
    case_out(cg, "mean", mean);
    case_out(cg, "rstd", rstd);
}

static void build_bn_apply(case_graph *cg, const int32_t *a)
{
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM);
    const bn_vals b = bn_inputs(cg, x, 0, a[1], a[4], gamma_fill_of(a[5]));
    case_out(cg, "y", dass_bn_apply(cg->g, x, b.mean, b.rstd, b.gamma, b.beta, (dass_act)a[5]));
}

static void build_bn_infer(case_graph *cg, const int32_t *a)
{
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM);
    const bn_vals b = bn_inputs(cg, x, 0, a[1], a[4], gamma_fill_of(a[5]));
    case_out(cg, "y", dass_bn_infer(cg->g, x, b.mean, b.rstd, b.gamma, b.beta, bn_eps, (dass_act)a[5]));
}

static void build_bn_bwd_reduce(case_graph *cg, const int32_t *a)
{
    const dass_val d_y = case_image(cg, "d_y", a[0], a[1], a[2], a[3], FILL_UNIFORM);
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM);
    const bn_vals b = bn_inputs(cg, x, 0, a[1], a[4], gamma_fill_of(a[5]));
    dass_val d_beta;
    dass_val d_gamma;
    dass_bn_bwd_reduce(cg->g, d_y, x, b.mean, b.rstd, b.gamma, b.beta, (dass_act)a[5], &d_beta, &d_gamma);
    case_out(cg, "d_beta", d_beta);
    case_out(cg, "d_gamma", d_gamma);
}

static void build_bn_bwd_apply(case_graph *cg, const int32_t *a)
{
    const dass_val d_y = case_image(cg, "d_y", a[0], a[1], a[2], a[3], FILL_UNIFORM);
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM);
    const bn_vals b = bn_inputs(cg, x, 0, a[1], a[4], gamma_fill_of(a[5]));
    const dass_val d_beta = case_vector(cg, "d_beta", a[1], FILL_WIDE);
    const dass_val d_gamma = case_vector(cg, "d_gamma", a[1], FILL_WIDE);
    case_out(cg, "d_x",
             dass_bn_bwd_apply(cg->g, d_y, x, b.mean, b.rstd, b.gamma, b.beta, (dass_act)a[5], d_beta, d_gamma));
}

static void build_channel_sum(case_graph *cg, const int32_t *a)
{
    case_out(cg, "s", dass_channel_sum(cg->g, case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM)));
}

#define BN_RUNNING_ARGS "c count"
static const int32_t bn_running_args[][CASE_MAX_ARGS] = {{3, 20}, {16, 2}, {36, 100000}};

static void build_bn_running(case_graph *cg, const int32_t *a)
{
    const dass_val mean = case_vector(cg, "mean", a[0], FILL_UNIFORM);
    const dass_val rstd = case_vector(cg, "rstd", a[0], FILL_POSITIVE);
    const dass_val run_mean = case_state(cg, "run_mean", a[0], FILL_UNIFORM);
    const dass_val run_var = case_state(cg, "run_var", a[0], FILL_POSITIVE);
    dass_bn_running(cg->g, mean, rstd, run_mean, run_var, bn_eps, 0.1, a[1]);
    case_out_state(cg, "run_mean", run_mean);
    case_out_state(cg, "run_var", run_var);
}

/* ---- activations, pools, sampling --------------------------------------------------- */

#define RELU_ARGS "n c h w act"
static const int32_t relu_args[][CASE_MAX_ARGS] = {{2, 3, 5, 7, DASS_ACT_RELU},   {1, 16, 4, 4, DASS_ACT_RELU6},
                                                   {3, 5, 1, 1, DASS_ACT_RELU},   {1, 20, 3, 3, DASS_ACT_RELU6},
                                                   {2, 3, 37, 39, DASS_ACT_RELU}, {5, 8, 31, 29, DASS_ACT_RELU6}};

static void build_relu(case_graph *cg, const int32_t *a)
{
    case_out(cg, "y", dass_relu(cg->g, case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_WIDE), (dass_act)a[4]));
}

static void build_relu_bwd(case_graph *cg, const int32_t *a)
{
    const dass_val d_y = case_image(cg, "d_y", a[0], a[1], a[2], a[3], FILL_UNIFORM);
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_WIDE);
    case_out(cg, "d_x", dass_relu_bwd(cg->g, d_y, dass_relu(cg->g, x, (dass_act)a[4]), (dass_act)a[4]));
}

static const int32_t cast_args[][CASE_MAX_ARGS] = {{1, 1, 1, 1}, {2, 3, 5, 7}, {2, 8, 6, 5}, {1, 300, 3, 3}};

/* There and back: what is compared is real. */
static void build_cast(case_graph *cg, const int32_t *a)
{
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_WIDE);
    case_out(cg, "y", dass_cast(cg->g, dass_cast(cg->g, x, cg->g->real), cg->g->stored));
    case_out(cg, "z", dass_cast(cg->g, case_vector(cg, "w", a[1], FILL_UNIFORM), cg->g->stored));
}

#define POOL_ARGS "n c h w k s p acc"
static const int32_t pool_args[][CASE_MAX_ARGS] = {
    {2, 3, 7, 5, 3, 1, 1, 0},
    {1, 5, 8, 9, 3, 2, 1, 1},
    {1, 16, 6, 6, 2, 2, 0, 0},
    {2, 20, 5, 5, 5, 1, 2, 1},
    {1, 36, 4, 7, 3, 2, 0, 1},
    {3, 8, 5, 5, 5, 3, 0, 0},
    {1, 8, 3, 3, 2, 1, 1, 1},
    {1, 16, 1, 1, 3, 1, 1, 0},
    /* auxiliary heads; the last leaves rows and columns that no window holds */
    {2, 20, 8, 8, 5, 3, 0, 1},
    {2, 5, 7, 7, 5, 2, 0, 0},
    {1, 36, 10, 9, 5, 3, 0, 0},
    /* more pixels than a device of few multiprocessors has threads; strides beyond the window */
    {5, 3, 29, 31, 3, 1, 1, 1},
    {2, 8, 9, 10, 2, 4, 0, 1},
    {1, 5, 11, 8, 1, 3, 0, 0},
};

static dass_pool_attr pool_attr_of(const int32_t *a)
{
    return (dass_pool_attr){.k = a[4], .stride = a[5], .pad = a[6]};
}

static dass_val optional_acc(case_graph *cg, const int32_t *a, bool given)
{
    return given ? case_image(cg, "acc", a[0], a[1], a[2], a[3], FILL_UNIFORM) : 0;
}

/* Output `i` of the node that writes v. */
static dass_val sibling(const case_graph *cg, dass_val v, uint32_t i)
{
    return v ? dass_node_out(cg->g, cg->g->vals[v].def)[i] : 0;
}

static void build_max_pool(case_graph *cg, const int32_t *a)
{
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], cg->grad ? FILL_DISTINCT : FILL_COARSE);
    const dass_val y = dass_max_pool(cg->g, x, pool_attr_of(a));
    const dass_val index = sibling(cg, y, 1);
    case_out(cg, "y", y);
    if (!cg->grad)
        case_out(cg, "index", index);
}

static void build_avg_pool(case_graph *cg, const int32_t *a)
{
    case_out(cg, "y", dass_avg_pool(cg->g, case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM), pool_attr_of(a)));
}

static dass_val pool_d_y(case_graph *cg, const int32_t *a)
{
    return case_image(cg, "d_y", a[0], a[1], window_out(a[2], a[4], a[5], a[6], 1),
                      window_out(a[3], a[4], a[5], a[6], 1), FILL_UNIFORM);
}

static void build_max_pool_bwd(case_graph *cg, const int32_t *a)
{
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_COARSE);
    const dass_val index = sibling(cg, dass_max_pool(cg->g, x, pool_attr_of(a)), 1);
    const dass_val d_y = pool_d_y(cg, a);
    const dass_val acc = optional_acc(cg, a, a[7]);
    case_out(cg, "d_x", dass_max_pool_bwd(cg->g, d_y, index, acc, a[2], a[3], pool_attr_of(a)));
}

static void build_avg_pool_bwd(case_graph *cg, const int32_t *a)
{
    const dass_val d_y = pool_d_y(cg, a);
    const dass_val acc = optional_acc(cg, a, a[7]);
    case_out(cg, "d_x", dass_avg_pool_bwd(cg->g, d_y, acc, a[2], a[3], pool_attr_of(a)));
}

#define GLOBAL_POOL_ARGS "n c h w acc"
static const int32_t global_pool_args[][CASE_MAX_ARGS] = {{2, 3, 7, 5, 0},  {1, 20, 4, 4, 1},  {3, 36, 3, 3, 0},
                                                          {1, 16, 1, 1, 1}, {2, 260, 3, 3, 1}, {2, 75, 16, 17, 1}};

static void build_global_pool(case_graph *cg, const int32_t *a)
{
    case_out(cg, "y", dass_global_pool(cg->g, case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM)));
}

static void build_global_pool_bwd(case_graph *cg, const int32_t *a)
{
    const dass_val d_y = case_image(cg, "d_y", a[0], a[1], 1, 1, FILL_UNIFORM);
    const dass_val acc = optional_acc(cg, a, a[4]);
    case_out(cg, "d_x", dass_global_pool_bwd(cg->g, d_y, acc, a[2], a[3]));
}

#define SUBSAMPLE_ARGS "n c h w stride offset acc"
static const int32_t subsample_args[][CASE_MAX_ARGS] = {{2, 3, 7, 5, 2, 0, 0},  {1, 5, 8, 9, 2, 1, 1},
                                                        {1, 16, 7, 7, 3, 2, 0}, {2, 36, 4, 4, 2, 0, 1},
                                                        {1, 20, 5, 3, 1, 0, 0}, {3, 3, 31, 32, 2, 1, 1},
                                                        {2, 8, 9, 11, 3, 2, 1}};

static void build_subsample(case_graph *cg, const int32_t *a)
{
    case_out(cg, "y", dass_subsample(cg->g, case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM), a[4], a[5]));
}

static void build_subsample_bwd(case_graph *cg, const int32_t *a)
{
    const dass_val d_y = case_image(cg, "d_y", a[0], a[1], (a[2] - a[5] + a[4] - 1) / a[4],
                                    (a[3] - a[5] + a[4] - 1) / a[4], FILL_UNIFORM);
    const dass_val acc = optional_acc(cg, a, a[6]);
    case_out(cg, "d_x", dass_subsample_bwd(cg->g, d_y, acc, a[2], a[3], a[4], a[5]));
}

#define CONCAT_ARGS "n h w terms c0 c1 c2 c3"
static const int32_t concat_args[][CASE_MAX_ARGS] = {{2, 3, 5, 2, 3, 5},         {1, 4, 4, 4, 16, 16, 16, 16},
                                                     {3, 1, 1, 3, 8, 1, 20},     {1, 2, 3, 1, 7},
                                                     {2, 3, 3, 19, 4, 8, 12, 4}, {1, 5, 3, 64, 1, 3, 2, 4},
                                                     {1, 2, 2, 16, 8, 4, 8, 4},  {2, 45, 31, 2, 3, 4}};

static void build_concat(case_graph *cg, const int32_t *a)
{
    dass_val x[64];
    for (int32_t t = 0; t < a[3]; t++) /* beyond four inputs the numbers of channels come again */
        x[t] = case_image(cg, case_text(cg, "x", (uint32_t)t), a[0], a[4 + t % 4], a[1], a[2], FILL_UNIFORM);
    case_out(cg, "y", dass_concat(cg->g, x, (uint32_t)a[3]));
}

#define SLICE_ARGS "n c h w first count"
static const int32_t slice_args[][CASE_MAX_ARGS] = {{2, 8, 3, 5, 3, 5},   {1, 36, 4, 4, 16, 20}, {3, 5, 1, 1, 0, 5},
                                                    {1, 20, 2, 2, 19, 1}, {2, 16, 3, 3, 4, 8},   {1, 16, 3, 3, 2, 8}};

static void build_slice(case_graph *cg, const int32_t *a)
{
    case_out(cg, "y", dass_slice(cg->g, case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM), a[4], a[5]));
}

/* samples: entries of the order are below it, so that beyond n they are clamped; so is a position beyond the order. */
#define GATHER_ARGS "n c h w length rows position samples aligned"
static const int32_t gather_args[][CASE_MAX_ARGS] = {
    {20, 3, 7, 5, 24, 4, 3, 20, 0},       {9, 1, 28, 28, 9, 3, 2, 9, 1},  {6, 3, 32, 32, 8, 4, 1, 6, 1},
    {6, 3, 32, 32, 8, 4, 1, 6, 0},        {5, 2, 4, 2, 7, 5, 0, 5, 1},    {1, 1, 1, 1, 3, 1, 2, 1, 0},
    {30, 3, 5, 7, 40, 33, 0, 30, 0},      {7, 1, 28, 28, 12, 5, 2, 7, 0}, {4, 3, 8, 8, 6, 4, 7, 4, 1},
    {4, 1, 3, 3, 12, 4, 1, 1000, 0},      {3, 1, 96, 128, 6, 2, 2, 3, 1}, {3, 3, 41, 31, 5, 2, 1, 3, 0},
    {5, 3, 4, 4, 9, 3, 2147483647, 5, 1},
};

static void build_gather(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[8];
    cg->step.position = (uint32_t)a[6] * (a[6] == INT32_MAX ? 2u : 1u); /* the largest as well */
    dass_val out[3];
    const dass_val images = case_bytes(cg, "images", a[0], a[1], a[2], a[3], 256);
    const dass_val labels = case_ints(cg, "labels", a[0], 1000);
    const dass_val order = case_ints(cg, "order", a[4], a[7]);
    dass_gather(cg->g, images, labels, order, case_step(cg), a[5], &out[0], &out[1], &out[2]);
    case_out(cg, "batch", out[0]);
    case_out(cg, "batch labels", out[1]);
    case_out(cg, "batch samples", out[2]);
}

#define AUGMENT_ARGS "n c h w pad flip cutout"
static const int32_t augment_args[][CASE_MAX_ARGS] = {{3, 3, 9, 8, 2, 1, 4},    {2, 1, 7, 7, 0, 1, 0},
                                                      {2, 3, 6, 6, 4, 0, 3},    {8, 3, 5, 5, 0, 0, 2},
                                                      {1, 3, 32, 32, 4, 1, 16}, {2, 3, 4, 4, 0, 0, 0},
                                                      {9, 1, 31, 30, 3, 1, 9}};

static void build_augment(case_graph *cg, const int32_t *a)
{
    static const double mean[3] = {0.49, 0.48, 0.45};
    static const double std[3] = {0.25, 0.24, 0.26};
    const dass_val images = case_bytes(cg, "images", a[0], a[1], a[2], a[3], 256);
    const dass_val samples = case_ints(cg, "samples", a[0], 1000000);
    case_out(cg, "y", dass_augment(cg->g, images, samples, case_step(cg), mean, std, a[4], a[5], a[6]));
}

/* p in thousandths; samples: they are drawn below it, so that some come twice. */
#define DROP_PATH_ARGS "n c h w p samples"
static const int32_t drop_path_args[][CASE_MAX_ARGS] = {{9, 3, 3, 5, 300, 4},     {8, 16, 4, 4, 500, 1000000},
                                                        {5, 20, 1, 1, 200, 99},   {4, 36, 5, 3, 0, 99},
                                                        {3, 5, 2, 2, 1000, 99},   {33, 1, 1, 3, 900, 1000000},
                                                        {2, 12, 33, 31, 500, 99}, {40, 4, 9, 9, 250, 99}};

static void build_drop_path(case_graph *cg, const int32_t *a)
{
    cg->step.drop_path = a[4] / 1000.0;
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM);
    const dass_val samples = case_ints(cg, "samples", a[0], a[5]);
    case_out(cg, "y", dass_drop_path(cg->g, x, samples, case_step(cg), dass_name_hash("cells.0.n2.e1")));
}

/* ---- sums --------------------------------------------------------------------------- */

/* bn: bit k of a mask = term k is normalised; affine likewise; index: 0 = all -1, 1 = term k takes
 * factor k + 1, 2 = factors -1, 0, 1, 0, 1, ... (shared). dp: 1 = wanted, 2 = with an accumulator.
 */
#define WSUM_ARGS "n c h w terms bn affine index dp want"
static const int32_t wsum_args[][CASE_MAX_ARGS] = {
    {2, 3, 4, 5, 2, 0, 0, 0, 0, 0},
    {1, 5, 3, 3, 3, 0, 0, 1, 1, 0},
    {2, 8, 4, 4, 3, 7, 0, 1, 1, 3},
    {1, 16, 5, 5, 8, 0x7f, 0x2a, 1, 2, 1},
    {1, 20, 4, 3, 4, 5, 4, 2, 2, 3},
    {2, 36, 3, 3, 5, 0x1f, 0x1f, 2, 1, 3},
    {1, 16, 4, 4, 2, 3, 3, 0, 0, 3},
    {1, 36, 3, 5, 1, 1, 0, 1, 1, 1},
    {1, 16, 3, 3, 16, 0xfffc, 0, 1, 1, 1},
    {3, 8, 2, 2, 1, 0, 0, 1, 2, 0},
    {1, 4, 2, 2, DASS_MAX_TERMS, 0x5555, 0x11, 1, 1, 3},
};

static int32_t sum_index(int32_t kind, int32_t t)
{
    return kind == 0 ? -1 : kind == 1 ? t + 1 : (t + 1) % 3 - 1;
}

/* Factors: more than are used, as alphas of several edges lie in one matrix. */
static dass_val sum_factors(case_graph *cg, int32_t terms)
{
    return case_matrix(cg, "p", 2, terms + 2, FILL_APART);
}

static void sum_terms(case_graph *cg, const int32_t *a, dass_term *terms)
{
    for (int32_t t = 0; t < a[4]; t++) {
        const dass_val x = case_image(cg, case_text(cg, "x", (uint32_t)t), a[0], a[1], a[2], a[3], FILL_UNIFORM);
        terms[t] = (dass_term){.x = x, .index = sum_index(a[7], t)};
        if (t < 31 && a[5] >> t & 1) {
            const bn_vals b = bn_inputs(cg, x, (uint32_t)t, a[1], a[6] >> t & 1, FILL_POSITIVE);
            terms[t] = (dass_term){x, b.mean, b.rstd, b.gamma, b.beta, terms[t].index};
        }
    }
}

static void build_wsum(case_graph *cg, const int32_t *a)
{
    dass_term terms[DASS_MAX_TERMS];
    const dass_val p = a[7] ? sum_factors(cg, a[4]) : 0;
    sum_terms(cg, a, terms);
    case_out(cg, "y", dass_wsum(cg->g, p, terms, (uint32_t)a[4]));
}

static void build_wsum_bwd(case_graph *cg, const int32_t *a)
{
    dass_term terms[DASS_MAX_TERMS];
    dass_wsum_grad out[DASS_MAX_TERMS];
    uint8_t want[DASS_MAX_TERMS] = {0};
    const dass_val d_y = case_image(cg, "d_y", a[0], a[1], a[2], a[3], FILL_UNIFORM);
    const dass_val p = a[7] ? sum_factors(cg, a[4]) : 0;
    const dass_val acc = a[8] == 2 ? case_matrix(cg, "acc_dp", 2, a[4] + 2, FILL_UNIFORM) : 0;
    sum_terms(cg, a, terms);
    for (int32_t t = 0; t < a[4]; t++)
        if (terms[t].mean)
            want[t] = (uint8_t)(terms[t].gamma ? a[9] : a[9] & 1);
    dass_val d_p = 0;
    dass_wsum_bwd(cg->g, d_y, p, acc, terms, (uint32_t)a[4], a[8] != 0, want, &d_p, out);
    case_out(cg, "d_p", d_p);
    for (int32_t t = 0; t < a[4]; t++) {
        case_out(cg, "coef", out[t].coef);
        case_out(cg, "d_gamma", out[t].d_gamma);
        case_out(cg, "d_beta", out[t].d_beta);
    }
}

/* coef: bit k = term k has coefficients. flat: the terms are vectors of n*c*h*w. */
#define GSUM_ARGS "n c h w terms coef index flat"
static const int32_t gsum_args[][CASE_MAX_ARGS] = {
    {2, 3, 4, 5, 1, 0, 0, 0},  {1, 5, 3, 3, 3, 0, 1, 0},  {2, 8, 4, 4, 2, 3, 0, 0},   {1, 16, 5, 5, 8, 0x55, 2, 0},
    {1, 20, 3, 3, 4, 4, 1, 0}, {1, 36, 3, 5, 2, 1, 0, 0}, {1, 7, 11, 13, 3, 0, 0, 1}, {1, 16, 4, 4, 14, 0, 1, 0},
    {1, 1, 1, 1, 2, 0, 0, 1},  {2, 16, 3, 3, 3, 6, 0, 0},
};

static void build_gsum(case_graph *cg, const int32_t *a)
{
    dass_gterm terms[16];
    const dass_val p = a[6] ? sum_factors(cg, a[4]) : 0;
    for (int32_t t = 0; t < a[4]; t++) {
        const uint32_t k = (uint32_t)t;
        const bool coef = a[5] >> t & 1;
        terms[t] = (dass_gterm){.index = coef ? -1 : sum_index(a[6], t)};
        if (a[7])
            terms[t].d = case_vector(cg, case_text(cg, "d", k), a[0] * a[1] * a[2] * a[3], FILL_UNIFORM);
        else
            terms[t].d = case_image(cg, case_text(cg, "d", k), a[0], a[1], a[2], a[3], FILL_UNIFORM);
        if (!coef)
            continue;
        terms[t].x = case_image(cg, case_text(cg, "x", k), a[0], a[1], a[2], a[3], FILL_UNIFORM);
        terms[t].coef = case_matrix(cg, case_text(cg, "coef", k), 3, a[1], FILL_UNIFORM);
    }
    case_out(cg, "y", dass_gsum(cg->g, p, terms, (uint32_t)a[4]));
}

const case_family cases_plain[] = {
    FAMILY(GATHER, gather, GATHER_ARGS, gather_args),
    FAMILY(AUGMENT, augment, AUGMENT_ARGS, augment_args),
    FAMILY(CONV, conv, CONV_ARGS, conv_args),
    FAMILY(CONV, conv_astray, CONV_ARGS, conv_astray_args),
    FAMILY(BN_STATS, bn_stats, BN_ARGS, bn_args),
    FAMILY(BN_APPLY, bn_apply, BN_ARGS, bn_args),
    FAMILY(BN_INFER, bn_infer, BN_ARGS, bn_args),
    FAMILY(RELU, relu, RELU_ARGS, relu_args),
    FAMILY(MAX_POOL, max_pool, POOL_ARGS, pool_args),
    FAMILY(AVG_POOL, avg_pool, POOL_ARGS, pool_args),
    FAMILY(GLOBAL_POOL, global_pool, GLOBAL_POOL_ARGS, global_pool_args),
    FAMILY(SUBSAMPLE, subsample, SUBSAMPLE_ARGS, subsample_args),
    FAMILY(CONCAT, concat, CONCAT_ARGS, concat_args),
    FAMILY(WSUM, wsum, WSUM_ARGS, wsum_args),
    FAMILY(CONV_BWD_DATA, conv_bwd_data, CONV_ARGS, conv_args),
    FAMILY(CONV_BWD_DATA, conv_bwd_data_astray, CONV_ARGS, conv_astray_args),
    FAMILY(CONV_BWD_WEIGHTS, conv_bwd_weights, CONV_ARGS, conv_args),
    FAMILY(CONV_BWD_WEIGHTS, conv_bwd_weights_astray, CONV_ARGS, conv_astray_args),
    FAMILY(CHANNEL_SUM, channel_sum, BN_ARGS, bn_args),
    FAMILY(BN_BWD_REDUCE, bn_bwd_reduce, BN_ARGS, bn_args),
    FAMILY(BN_BWD_APPLY, bn_bwd_apply, BN_ARGS, bn_args),
    FAMILY(RELU_BWD, relu_bwd, RELU_ARGS, relu_args),
    FAMILY(MAX_POOL_BWD, max_pool_bwd, POOL_ARGS, pool_args),
    FAMILY(AVG_POOL_BWD, avg_pool_bwd, POOL_ARGS, pool_args),
    FAMILY(GLOBAL_POOL_BWD, global_pool_bwd, GLOBAL_POOL_ARGS, global_pool_args),
    FAMILY(SUBSAMPLE_BWD, subsample_bwd, SUBSAMPLE_ARGS, subsample_args),
    FAMILY(SLICE, slice, SLICE_ARGS, slice_args),
    /* not the first row: without factors and normalised terms there is nothing to compute */
    {DASS_OP_WSUM_BWD, WSUM_ARGS, build_wsum_bwd, wsum_args + 1, sizeof(wsum_args) / sizeof(*wsum_args) - 1},
    FAMILY(GSUM, gsum, GSUM_ARGS, gsum_args),
    FAMILY(BN_RUNNING, bn_running, BN_RUNNING_ARGS, bn_running_args),
    FAMILY(CAST, cast, "n c h w", cast_args),
    FAMILY(DROP_PATH, drop_path, DROP_PATH_ARGS, drop_path_args),
    {0},
};
