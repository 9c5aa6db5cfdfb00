/* The cases of the fused separable half and of the ops at both ends of the network: softmax of the
 * architecture weights, cross-entropy.
 */
#include "cases.h"

/* bn: 0 = x as it is, 1 = normalised on load, 2 = with gamma and beta. tail (gradient checks): who
 * reads y: 0 = y itself, 1 = a batch norm with its statistics, 2 = a weighted sum with its
 * statistics, 3 = y itself and a batch norm. */
#define DWPW_ARGS "n c h w oc k s p d relu bn tail"
static const int32_t dwpw_args[][CASE_MAX_ARGS] = {
    {2, 3, 5, 7, 8, 3, 1, 1, 1, 1, 0, 0},    {1, 5, 8, 9, 3, 3, 2, 1, 1, 1, 0, 1},
    {2, 8, 6, 6, 8, 3, 1, 1, 1, 0, 0, 2},    {2, 16, 5, 5, 16, 5, 1, 2, 1, 1, 1, 1},
    {1, 16, 9, 9, 16, 5, 1, 4, 2, 1, 0, 2},  {2, 16, 8, 8, 20, 3, 2, 1, 1, 1, 1, 3},
    {1, 20, 7, 7, 16, 7, 1, 3, 1, 1, 2, 1},  {1, 20, 8, 6, 36, 3, 1, 2, 2, 0, 1, 1},
    {1, 36, 5, 6, 20, 5, 2, 2, 1, 1, 2, 3},  {1, 36, 9, 9, 36, 3, 2, 2, 2, 1, 0, 1},
    {3, 8, 3, 3, 5, 3, 1, 0, 1, 1, 1, 0},    {1, 5, 11, 10, 16, 5, 2, 4, 2, 1, 2, 2},
    {1, 32, 4, 4, 48, 3, 1, 1, 1, 1, 1, 1},  {2, 64, 2, 3, 64, 3, 1, 1, 1, 1, 2, 1},
    {2, 17, 4, 5, 33, 5, 1, 2, 1, 1, 0, 3},  {1, 16, 16, 16, 16, 3, 1, 1, 1, 1, 0, 0},
    {2, 16, 1, 1, 16, 3, 1, 1, 1, 1, 0, 0},  {3, 64, 14, 15, 68, 3, 1, 1, 1, 1, 2, 1},
    {1, 72, 6, 7, 64, 5, 1, 4, 2, 1, 1, 3},  {1, 130, 5, 6, 70, 3, 1, 1, 1, 1, 2, 1},
    {2, 16, 20, 9, 8, 3, 1, 2, 2, 1, 1, 2},  {2, 8, 17, 41, 12, 5, 1, 2, 1, 1, 2, 1},
    {2, 5, 23, 31, 6, 7, 1, 3, 1, 1, 1, 1},  {3, 16, 30, 31, 16, 5, 2, 2, 1, 1, 2, 1},
    {2, 12, 25, 21, 4, 3, 2, 1, 1, 1, 0, 3}, {2, 40, 11, 11, 24, 5, 2, 4, 2, 1, 2, 1},
};

static dass_conv_attr dwpw_attr_of(const int32_t *a)
{
    return (dass_conv_attr){
        .kh = a[5], .kw = a[5], .stride = a[6], .pad = a[7], .dil = a[8], .groups = a[1], .relu = a[9], .eps = 1e-3};
}

static dass_dwpw_in dwpw_inputs(case_graph *cg, const int32_t *a)
{
    dass_dwpw_in in = {0};
    in.x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_APART);
    if (a[10] && cg->grad)
        dass_bn_stats(cg->g, in.x, 1e-3, &in.mean, &in.rstd);
    if (a[10] && !cg->grad) {
        in.mean = case_vector(cg, "in_mean", a[1], FILL_UNIFORM);
        in.rstd = case_vector(cg, "in_rstd", a[1], FILL_POSITIVE);
    }
    if (a[10] == 2) {
        in.gamma = case_vector(cg, "in_gamma", a[1], FILL_APART);
        in.beta = case_vector(cg, "in_beta", a[1], FILL_UNIFORM);
    }
    in.w_dw = case_weights(cg, "w_dw", a[1], 1, a[5], a[5]);
    in.w_pw = case_weights(cg, "w_pw", a[4], a[1], 1, 1);
    return in;
}

static void build_dwpw(case_graph *cg, const int32_t *a)
{
    dass_val mean;
    dass_val rstd;
    const dass_val y = dass_dwpw(cg->g, dwpw_inputs(cg, a), dwpw_attr_of(a), &mean, &rstd);
    if (!cg->grad) {
        case_out(cg, "y", y);
        case_out(cg, "mean", mean);
        case_out(cg, "rstd", rstd);
        return;
    }
    if (a[11] == 0 || a[11] == 3)
        case_out(cg, "y", y);
    if (a[11] == 1 || a[11] == 3)
        case_out(cg, "bn", dass_bn_apply(cg->g, y, mean, rstd, 0, 0, DASS_ACT_NONE));
    if (a[11] == 2) {
        const dass_val gamma = case_vector(cg, "gamma", a[4], FILL_POSITIVE);
        const dass_val beta = case_vector(cg, "beta", a[4], FILL_UNIFORM);
        const dass_term terms[] = {{y, mean, rstd, 0, 0, 1}, {y, mean, rstd, gamma, beta, 0}};
        case_out(cg, "sum", dass_wsum(cg->g, case_vector(cg, "p", 2, FILL_APART), terms, 2));
    }
}

/* The same shapes, with every subset of what may be wanted. In place of the tail: bit 0 coef, bit 1
 * acc; want from the position in the table. */
static void build_dwpw_bwd_want(case_graph *cg, const int32_t *a, unsigned want)
{
    const dass_dwpw_in in = dwpw_inputs(cg, a);
    const int32_t oh = (a[2] + 2 * a[7] - a[8] * (a[5] - 1) - 1) / a[6] + 1;
    const int32_t ow = (a[3] + 2 * a[7] - a[8] * (a[5] - 1) - 1) / a[6] + 1;
    const dass_val y = case_image(cg, "y", a[0], a[4], oh, ow, FILL_UNIFORM);
    const dass_val d = case_image(cg, "d", a[0], a[4], oh, ow, FILL_UNIFORM);
    const dass_val coef = a[11] & 1 ? case_matrix(cg, "coef", 3, a[4], FILL_UNIFORM) : 0;
    const dass_val acc = (a[11] & 2) && !a[10] ? case_image(cg, "acc", a[0], a[1], a[2], a[3], FILL_UNIFORM) : 0;
    const dass_dwpw_grad r = dass_dwpw_bwd(cg->g, in, y, d, coef, acc, dwpw_attr_of(a), want);
    case_out(cg, "d_x", r.d_x);
    case_out(cg, "in_coef", r.in_coef);
    case_out(cg, "d_gamma", r.d_gamma);
    case_out(cg, "d_beta", r.d_beta);
    case_out(cg, "d_wdw", r.d_wdw);
    case_out(cg, "d_wpw", r.d_wpw);
}

/* Scales are asked for only where there are some. */
static unsigned with_scales(const int32_t *a, unsigned want)
{
    return want | (a[10] == 2 ? 2u : 0u);
}
static void build_dwpw_bwd(case_graph *cg, const int32_t *a)
{
    build_dwpw_bwd_want(cg, a, with_scales(a, 5));
}
static void build_dwpw_bwd_data(case_graph *cg, const int32_t *a)
{
    build_dwpw_bwd_want(cg, a, with_scales(a, 1));
}
static void build_dwpw_bwd_weights(case_graph *cg, const int32_t *a)
{
    build_dwpw_bwd_want(cg, a, 4);
}

#define SOFTMAX_ARGS "rows cols"
static const int32_t softmax_args[][CASE_MAX_ARGS] = {{14, 8}, {1, 1}, {3, 17}, {28, 5}, {5, 70}, {300, 9}};

static void build_softmax(case_graph *cg, const int32_t *a)
{
    case_out(cg, "p", dass_softmax(cg->g, case_matrix(cg, "a", a[0], a[1], FILL_WIDE)));
}

static void build_softmax_bwd(case_graph *cg, const int32_t *a)
{
    const dass_val d_p = case_matrix(cg, "d_p", a[0], a[1], FILL_UNIFORM);
    const dass_val p = case_matrix(cg, "p", a[0], a[1], FILL_POSITIVE);
    case_out(cg, "d_a", dass_softmax_bwd(cg->g, d_p, p));
}

#define XENT_ARGS "n classes valid smoothing_permille"
static const int32_t xent_args[][CASE_MAX_ARGS] = {{4, 10, 0, 0},      {5, 10, 3, 0}, {3, 7, 0, 100},
                                                   {6, 100, 4, 100},   {1, 2, 1, 0},  {9, 1000, 0, 100},
                                                   {300, 10, 277, 100}};

static void build_xent(case_graph *cg, const int32_t *a)
{
    cg->step.valid = (uint32_t)a[2];
    const dass_val logits = case_image(cg, "logits", a[0], a[1], 1, 1, FILL_WIDE);
    const dass_val labels = case_ints(cg, "labels", a[0], a[1]);
    dass_val loss;
    dass_val correct;
    dass_xent(cg->g, logits, labels, case_step(cg), a[3] / 1000.0, &loss, &correct);
    cg->loss = loss;
    const dass_val probs = loss ? dass_node_out(cg->g, cg->g->vals[loss].def)[2] : 0;
    case_out(cg, "loss", loss);
    if (cg->grad)
        return;
    case_out(cg, "correct", correct);
    case_out(cg, "probs", probs);
}

static void build_xent_bwd(case_graph *cg, const int32_t *a)
{
    cg->step.valid = (uint32_t)a[2];
    dass_val probs = case_image(cg, "probs", a[0], a[1], 1, 1, FILL_POSITIVE);
    const dass_val labels = case_ints(cg, "labels", a[0], a[1]);
    if (cg->g->stored != cg->g->real)
        probs = dass_cast(cg->g, probs, cg->g->real);
    case_out(cg, "d_logits", dass_xent_bwd(cg->g, probs, labels, case_step(cg), a[3] / 1000.0));
}

const case_family cases_fused[] = {
    FAMILY(SOFTMAX, softmax, SOFTMAX_ARGS, softmax_args),
    FAMILY(XENT, xent, XENT_ARGS, xent_args),
    FAMILY(DWPW, dwpw, DWPW_ARGS, dwpw_args),
    FAMILY(SOFTMAX_BWD, softmax_bwd, SOFTMAX_ARGS, softmax_args),
    FAMILY(XENT_BWD, xent_bwd, XENT_ARGS, xent_args),
    FAMILY(DWPW_BWD, dwpw_bwd, DWPW_ARGS, dwpw_args),
    FAMILY(DWPW_BWD, dwpw_bwd_data, DWPW_ARGS, dwpw_args),
    FAMILY(DWPW_BWD, dwpw_bwd_weights, DWPW_ARGS, dwpw_args),
    {0},
};
