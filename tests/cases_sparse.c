/* Cases of what only inference graphs have: convolutions that end in an activation, sparse pointwise convolutions, and
 * inverted residual blocks around them. Matrices have empty and full rows (cases.h), and some none or all of the
 * entries; sizes are chosen so that every number of rows to a warp, tiles that end outside of the image, and more
 * channels than the shared memory of a block holds occur.
 */
#include "cases.h"

#define CONV_ACT_ARGS "n c h w oc k s groups bias act load"
static const int32_t conv_act_args[][CASE_MAX_ARGS] = {
    {2, 8, 6, 6, 12, 1, 1, 1, 1, DASS_ACT_RELU},  {2, 8, 6, 6, 12, 1, 1, 1, 1, DASS_ACT_RELU6},
    {1, 5, 7, 5, 9, 1, 1, 1, 0, DASS_ACT_RELU},   {1, 5, 7, 5, 9, 1, 1, 1, 0, DASS_ACT_RELU6},
    {2, 3, 9, 8, 16, 3, 2, 1, 1, DASS_ACT_RELU6}, {1, 16, 8, 8, 8, 3, 1, 1, 0, DASS_ACT_RELU},
    {1, 5, 7, 7, 5, 3, 1, 5, 1, DASS_ACT_RELU},   {2, 16, 9, 9, 16, 3, 2, 16, 1, DASS_ACT_RELU6},
    {1, 8, 9, 9, 8, 5, 1, 8, 0, DASS_ACT_RELU},   {3, 7, 1, 1, 10, 1, 1, 1, 1, DASS_ACT_RELU},
    /* an activation on load, too */
    {2, 16, 9, 9, 16, 3, 2, 16, 1, DASS_ACT_RELU6, DASS_ACT_RELU6},
    {1, 8, 7, 9, 8, 3, 1, 8, 1, DASS_ACT_RELU6, DASS_ACT_RELU6},
    {1, 5, 7, 7, 5, 3, 1, 5, 0, DASS_ACT_NONE, DASS_ACT_RELU},
    {1, 12, 9, 8, 12, 5, 2, 12, 1, DASS_ACT_NONE, DASS_ACT_RELU},
    {1, 8, 9, 8, 8, 7, 1, 8, 1, DASS_ACT_RELU, DASS_ACT_RELU6},
};

static void build_conv_act(case_graph *cg, const int32_t *a)
{
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_WIDE);
    const dass_val w = case_weights(cg, "w", a[4], a[1] / a[7], a[5], a[5]);
    const dass_val bias = a[8] ? case_vector(cg, "bias", a[4], FILL_UNIFORM) : 0;
    /* such a convolution has no gradient: test_infer says that it is refused */
    const dass_conv_attr at = {.kh = a[5],
                               .kw = a[5],
                               .stride = a[6],
                               .pad = a[5] / 2,
                               .dil = 1,
                               .groups = a[7],
                               .act = cg->grad ? DASS_ACT_NONE : a[9],
                               .relu = cg->grad ? DASS_ACT_NONE : a[10]};
    case_out(cg, "y", dass_conv(cg->g, x, w, bias, at));
}

#define SPCONV_ARGS "n ic h w oc permille bias residual act library"
static const int32_t spconv_args[][CASE_MAX_ARGS] = {
    {1, 3, 1, 1, 5, 400, 1, 0, DASS_ACT_NONE, 0},
    {2, 20, 7, 5, 9, 300, 1, 0, DASS_ACT_RELU, 0},
    {1, 16, 6, 6, 24, 150, 0, 1, DASS_ACT_NONE, 0},
    {3, 8, 5, 5, 36, 200, 1, 1, DASS_ACT_RELU6, 0},
    {1, 12, 4, 9, 8, 0, 1, 0, DASS_ACT_RELU, 0},
    {2, 10, 4, 4, 10, 0, 0, 0, DASS_ACT_NONE, 0},
    {1, 24, 6, 5, 13, 1000, 1, 0, DASS_ACT_RELU6, 0},
    /* rows to a warp: 8, 4, 2 where four multiprocessors have enough of them; more grid than blocks of one sort */
    {2, 6, 15, 15, 70, 250, 1, 1, DASS_ACT_RELU, 0},
    {2, 6, 8, 8, 40, 250, 1, 0, DASS_ACT_RELU, 0},
    {1, 40, 8, 8, 64, 100, 0, 0, DASS_ACT_RELU6, 0},
    /* the same on a card with up to 200 of them */
    {8, 4, 40, 40, 64, 250, 1, 0, DASS_ACT_RELU, 0},
    {8, 4, 40, 40, 32, 250, 1, 1, DASS_ACT_RELU, 0},
    {8, 4, 40, 40, 16, 250, 0, 0, DASS_ACT_RELU, 0},
    /* several turns of channels: entries of a row in some, all or none of them, more than a warp's lanes in one */
    {1, 1000, 5, 7, 18, 60, 1, 1, DASS_ACT_RELU, 0},
    {1, 450, 3, 3, 9, 1000, 1, 0, DASS_ACT_NONE, 0},
    {1, 900, 4, 4, 8, 0, 1, 0, DASS_ACT_NONE, 0},
    /* by the library, where there is one */
    {2, 20, 7, 5, 9, 300, 1, 0, DASS_ACT_RELU, 1},
    {1, 16, 6, 6, 24, 150, 0, 1, DASS_ACT_RELU6, 1},
    {3, 8, 5, 5, 36, 200, 0, 0, DASS_ACT_NONE, 1},
    {1, 12, 4, 9, 8, 0, 1, 1, DASS_ACT_RELU, 1},
    {1, 24, 6, 5, 13, 1000, 1, 1, DASS_ACT_NONE, 1},
};

static void build_spconv(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[9] != 0;
    const dass_val x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM);
    const dass_csr s = case_csr(cg, "s", a[4], a[1], a[5]);
    const dass_val bias = a[6] ? case_vector(cg, "bias", a[4], a[8] == DASS_ACT_RELU6 ? FILL_WIDE : FILL_UNIFORM) : 0;
    const dass_val residual = a[7] ? case_image(cg, "residual", a[0], a[4], a[2], a[3], FILL_UNIFORM) : 0;
    case_out(cg, "y", dass_spconv(cg->g, x, s, bias, residual, (dass_act)a[8], a[9] != 0));
}

#define IRBLOCK_ARGS "n ic h w hidden oc s permille bias residual act"
static const int32_t irblock_args[][CASE_MAX_ARGS] = {
    {1, 8, 8, 8, 16, 8, 1, 300, 1, 1, DASS_ACT_RELU6},
    {2, 5, 9, 7, 21, 12, 2, 300, 1, 0, DASS_ACT_RELU},
    {2, 12, 5, 6, 40, 12, 1, 200, 1, 1, DASS_ACT_RELU},
    {1, 3, 1, 1, 9, 4, 2, 400, 1, 0, DASS_ACT_RELU6},
    {1, 6, 19, 21, 70, 10, 1, 150, 0, 0, DASS_ACT_RELU},
    {1, 6, 18, 17, 36, 9, 2, 1000, 1, 1, DASS_ACT_RELU6},
    {1, 4, 6, 6, 8, 6, 1, 0, 1, 0, DASS_ACT_RELU},
    {3, 7, 2, 3, 10, 5, 1, 500, 1, 0, DASS_ACT_NONE},
    /* too many channels for large tiles, then for all but the smallest */
    {1, 160, 7, 7, 96, 160, 1, 60, 1, 1, DASS_ACT_RELU6},
    {1, 96, 9, 9, 48, 200, 2, 80, 1, 0, DASS_ACT_RELU6},
};

static void build_irblock(case_graph *cg, const int32_t *a)
{
    const int32_t oh = (a[2] - 1) / a[6] + 1;
    const int32_t ow = (a[3] - 1) / a[6] + 1;
    dass_irblock_in in = {.x = case_image(cg, "x", a[0], a[1], a[2], a[3], FILL_UNIFORM)};
    in.expand = case_csr(cg, "expand", a[4], a[1], a[7]);
    in.w_dw = case_weights(cg, "w_dw", a[4], 1, 3, 3);
    in.project = case_csr(cg, "project", a[5], a[4], a[7]);
    if (a[8]) {
        in.b_expand = case_vector(cg, "b_expand", a[4], FILL_UNIFORM); /* not 0 where the padding is */
        in.b_dw = case_vector(cg, "b_dw", a[4], FILL_UNIFORM);
        in.b_project = case_vector(cg, "b_project", a[5], FILL_UNIFORM);
    }
    in.residual = a[9] ? case_image(cg, "residual", a[0], a[5], oh, ow, FILL_UNIFORM) : 0;
    case_out(cg, "y", dass_irblock(cg->g, &in, a[6], (dass_act)a[10]));
}

const case_family cases_sparse[] = {
    FAMILY(CONV, conv_act, CONV_ACT_ARGS, conv_act_args),
    FAMILY(SPCONV, spconv, SPCONV_ARGS, spconv_args),
    FAMILY(IRBLOCK, irblock, IRBLOCK_ARGS, irblock_args),
    {0},
};
