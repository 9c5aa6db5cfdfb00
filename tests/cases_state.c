/* The cases of ops on flat buffers: fills, masks, norms, optimisers. Lengths lie around 64-bit
 * words and vectors. */
#include "cases.h"

#define FLAT_ARGS "n aligned"
static const int32_t flat_args[][CASE_MAX_ARGS] = {{1},    {7},    {63},    {64},    {65},     {1000},
                                                   {4099}, {3, 1}, {64, 1}, {65, 1}, {1002, 1}, {4099, 1}};

static void build_fill(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[1];
    const dass_val dst = case_state(cg, "dst", a[0], FILL_UNIFORM);
    dass_fill(cg->g, dst, -0.375);
    case_out_state(cg, "dst", dst);
}

static void build_fill_bytes(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[1];
    const dass_val dst = case_bytes(cg, "dst", 1, a[0], 1, 1, 256);
    dass_fill(cg->g, dst, 201);
    case_out_state(cg, "dst", dst);
}

static void build_fill_ints(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[1];
    const dass_val dst = case_ints(cg, "dst", a[0], 100);
    dass_fill(cg->g, dst, -70000);
    case_out_state(cg, "dst", dst);
}

#define FILL_BITS_ARGS "n value"
static const int32_t fill_bits_args[][CASE_MAX_ARGS] = {{1, 1}, {64, 0}, {65, 1}, {1000, 0}, {4099, 1}};

static void build_fill_bits(case_graph *cg, const int32_t *a)
{
    const dass_val dst = case_bits(cg, "dst", a[0]);
    dass_fill(cg->g, dst, a[1]);
    case_out_state(cg, "dst", dst);
}

static void build_copy(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[1];
    const dass_val src = case_vector(cg, "src", a[0], FILL_UNIFORM);
    const dass_val dst = case_state(cg, "dst", a[0], FILL_POSITIVE);
    dass_copy(cg->g, src, dst);
    case_out_state(cg, "dst", dst);
}

static void build_copy_bits(case_graph *cg, const int32_t *a)
{
    const dass_val src = case_bits(cg, "src", a[0]);
    const dass_val dst = case_bits(cg, "dst", a[0]);
    dass_copy(cg->g, src, dst);
    case_out_state(cg, "dst", dst);
}

static void build_copy_bytes(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[1];
    const dass_val src = case_bytes(cg, "src", 1, a[0], 1, 1, 256);
    const dass_val dst = case_bytes(cg, "dst", 1, a[0], 1, 1, 256);
    dass_copy(cg->g, src, dst);
    case_out_state(cg, "dst", dst);
}

static void build_copy_ints(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[1];
    const dass_val src = case_ints(cg, "src", a[0], 1000);
    const dass_val dst = case_ints(cg, "dst", a[0], 1000);
    dass_copy(cg->g, src, dst);
    case_out_state(cg, "dst", dst);
}

/* Equal segments one entry apart, so that some entries belong to none. coarse = scores with many
 * ties. */
#define THRESHOLD_ARGS "n segments kept_permille coarse"
static const int32_t threshold_args[][CASE_MAX_ARGS] = {
    {9, 1, 300, 0}, {64, 1, 500, 1},   {65, 2, 100, 1},   {1000, 7, 50, 0},  {1000, 3, 1000, 1},
    {500, 4, 0, 0}, {5000, 1, 100, 1}, {5000, 9, 900, 0}, {20000, 2, 10, 0},
    /* long segments: without and with ties at the threshold, kept as a whole or not at all */
    {33001, 1, 100, 0}, {70001, 2, 50, 0}, {70001, 2, 400, 1}, {50000, 1, 999, 1}, {40000, 1, 0, 0},
    {40000, 1, 1000, 0},
};

static void build_mask_threshold(case_graph *cg, const int32_t *a)
{
    dass_segment segments[9];
    const int64_t each = a[0] / a[1];
    for (int32_t s = 0; s < a[1]; s++)
        segments[s] = (dass_segment){.offset = s * each, .count = each - 1, .kept = (each - 1) * a[2] / 1000};
    const dass_val scores = case_vector(cg, "scores", a[0], a[3] ? FILL_COARSE : FILL_UNIFORM);
    const dass_val bits = case_bits(cg, "bits", a[0]);
    dass_mask_threshold(cg->g, scores, bits, segments, a[1]);
    case_out_state(cg, "bits", bits);
}

/* Long segments beside short ones, at odd places. */
#define MIXED_ARGS "coarse"
static const int32_t mixed_args[][CASE_MAX_ARGS] = {{0}, {1}};

static void build_mask_threshold_mixed(case_graph *cg, const int32_t *a)
{
    static const dass_segment segments[] = {
        {.offset = 3, .count = 30, .kept = 10},         {.offset = 33, .count = 40000, .kept = 13001},
        {.offset = 40033, .count = 1, .kept = 0},       {.offset = 40034, .count = 900, .kept = 900},
        {.offset = 40950, .count = 32768, .kept = 700}, {.offset = 73718, .count = 32769, .kept = 32768},
        {.offset = 106487, .count = 100, .kept = 1},
    };
    const int32_t n = 106600;
    const dass_val scores = case_vector(cg, "scores", n, a[0] ? FILL_COARSE : FILL_UNIFORM);
    const dass_val bits = case_bits(cg, "bits", n);
    dass_mask_threshold(cg->g, scores, bits, segments, sizeof segments / sizeof *segments);
    case_out_state(cg, "bits", bits);
}

static void build_mask_apply(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[1];
    const dass_val weights = case_vector(cg, "weights", a[0], FILL_UNIFORM);
    const dass_val masked = case_state(cg, "masked", a[0], FILL_POSITIVE);
    dass_mask_apply(cg->g, weights, case_bits(cg, "bits", a[0]), masked);
    case_out_state(cg, "masked", masked);
}

static void build_mask_bwd_weights(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[1];
    const dass_val grad = case_state(cg, "d_masked", a[0], FILL_UNIFORM);
    dass_mask_bwd_weights(cg->g, grad, case_bits(cg, "bits", a[0]));
    case_out_state(cg, "d_weights", grad);
}

static void build_mask_bwd_scores(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[1];
    const dass_val d_masked = case_vector(cg, "d_masked", a[0], FILL_UNIFORM);
    const dass_val weights = case_vector(cg, "weights", a[0], FILL_UNIFORM);
    const dass_val scores = case_vector(cg, "scores", a[0], FILL_COARSE);
    const dass_val d_scores = case_state(cg, "d_scores", a[0], FILL_UNIFORM);
    dass_mask_bwd_scores(cg->g, d_masked, weights, scores, d_scores);
    case_out_state(cg, "d_scores", d_scores);
}

#define NORM2_ARGS "inputs n0 n1 n2 n3 aligned"
static const int32_t norm2_args[][CASE_MAX_ARGS] = {{1, 1}, {2, 17, 100003}, {4, 64, 1, 4096, 4097}, {3, 1000, 33, 8},
                                                    {1, 8192, 0, 0, 0, 1}, {4, 3, 8193, 50001, 1, 1}};

static void build_norm2(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[5];
    dass_val x[4];
    for (int32_t i = 0; i < a[0]; i++)
        x[i] = case_vector(cg, case_text(cg, "x", (uint32_t)i), a[1 + i], FILL_UNIFORM);
    case_out(cg, "norm2", dass_norm2(cg->g, x, (uint32_t)a[0]));
}

/* clip in thousandths, 0 = off. */
#define SGD_ARGS "n group norm2 bits clip aligned"
static const int32_t sgd_args[][CASE_MAX_ARGS] = {{1, 0, 0, 0, 5000}, {65, 0, 1, 0, 500}, {1000, 0, 1, 1, 100},
                                                  {333, 1, 1, 0, 0},  {4099, 2, 0, 1, 0}, {64, 0, 1, 1, 900000},
                                                  {65, 3, 0, 0, 0, 1}, {1002, 0, 1, 1, 100, 1}, {4099, 1, 0, 1, 0, 1}};

static void build_sgd(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[5];
    cg->step.clip = a[4] / 1000.0;
    const dass_val theta = case_state(cg, "theta", a[0], FILL_UNIFORM);
    const dass_val m = case_state(cg, "m", a[0], FILL_UNIFORM);
    const dass_val grad = case_vector(cg, "grad", a[0], FILL_UNIFORM);
    const dass_val norm2 = a[2] ? dass_norm2(cg->g, &grad, 1) : 0;
    dass_sgd(cg->g, theta, m, grad, case_step(cg), norm2, a[3] ? case_bits(cg, "bits", a[0]) : 0, a[1]);
    case_out_state(cg, "theta", theta);
    case_out_state(cg, "m", m);
}

#define ADAM_ARGS "n group steps aligned"
static const int32_t adam_args[][CASE_MAX_ARGS] = {{1, 3},         {112, 3},        {1000, 0},          {4099, 2},
                                                   {65, 3, 1, 1}, {1002, 1, 7, 1}, {4099, 0, 60000, 1}, {33, 0, 2}};

static void build_adam(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[3];
    if (a[2])
        cg->step.adam_step = a[2];
    const dass_val theta = case_state(cg, "theta", a[0], FILL_UNIFORM);
    const dass_val m = case_state(cg, "m", a[0], FILL_UNIFORM);
    const dass_val v = case_state(cg, "v", a[0], FILL_POSITIVE);
    const dass_val grad = case_vector(cg, "grad", a[0], FILL_UNIFORM);
    dass_adam(cg->g, theta, m, v, grad, case_step(cg), a[1]);
    case_out_state(cg, "theta", theta);
    case_out_state(cg, "m", m);
    case_out_state(cg, "v", v);
}

/* decay in thousandths. */
#define EMA_ARGS "n decay aligned"
static const int32_t ema_args[][CASE_MAX_ARGS] = {{1, 900},     {65, 999},    {1000, 0},     {333, 1000},
                                                  {40000, 990}, {65, 999, 1}, {4099, 990, 1}};

static void build_ema(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[2];
    cg->step.ema = a[1] / 1000.0;
    const dass_val avg = case_state(cg, "avg", a[0], FILL_UNIFORM);
    dass_ema(cg->g, avg, case_vector(cg, "x", a[0], FILL_UNIFORM), case_step(cg));
    case_out_state(cg, "avg", avg);
}

#define UNROLL_ARGS "n group bits aligned"
static const int32_t unroll_args[][CASE_MAX_ARGS] = {{1, 0, 0}, {65, 1, 0}, {64, 0, 1}, {1000, 0, 1}, {4099, 2, 1},
                                                     {65, 3, 0, 1}, {1002, 0, 1, 1}, {4099, 1, 1, 1}};

static void build_unroll(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[3];
    cg->step.xi = 0.35;
    const dass_val dst = case_state(cg, "dst", a[0], FILL_POSITIVE);
    const dass_val saved = case_vector(cg, "saved", a[0], FILL_UNIFORM);
    const dass_val m = case_vector(cg, "m", a[0], FILL_UNIFORM);
    const dass_val grad = case_vector(cg, "grad", a[0], FILL_UNIFORM);
    dass_unroll(cg->g, dst, saved, m, grad, case_step(cg), a[2] ? case_bits(cg, "bits", a[0]) : 0, a[1]);
    case_out_state(cg, "dst", dst);
}

#define SHIFT_ARGS "n sign aligned"
static const int32_t shift_args[][CASE_MAX_ARGS] = {{1, 1},     {7, -1},    {65, 1},      {1000, 1},
                                                    {4099, -1}, {65, 1, 1}, {4099, -1, 1}};

static void build_shift(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[2];
    const dass_val dst = case_state(cg, "dst", a[0], FILL_POSITIVE);
    const dass_val saved = case_vector(cg, "saved", a[0], FILL_UNIFORM);
    const dass_val v = case_vector(cg, "v", a[0], FILL_UNIFORM);
    dass_shift(cg->g, dst, saved, v, dass_norm2(cg->g, &v, 1), a[1]);
    case_out_state(cg, "dst", dst);
}

static void build_hvp(case_graph *cg, const int32_t *a)
{
    cg->aligned = a[1];
    cg->step.xi = 0.02;
    const dass_val d_alpha = case_state(cg, "d_alpha", a[0], FILL_UNIFORM);
    const dass_val p = case_vector(cg, "p", a[0], FILL_UNIFORM);
    const dass_val n = case_vector(cg, "n", a[0], FILL_UNIFORM);
    dass_hvp(cg->g, d_alpha, p, n, case_vector(cg, "norm2", 1, FILL_POSITIVE), case_step(cg));
    case_out_state(cg, "d_alpha", d_alpha);
}

const case_family cases_state[] = {
    FAMILY(FILL, fill, FLAT_ARGS, flat_args),
    FAMILY(FILL, fill_bytes, FLAT_ARGS, flat_args),
    FAMILY(FILL, fill_ints, FLAT_ARGS, flat_args),
    FAMILY(FILL, fill_bits, FILL_BITS_ARGS, fill_bits_args),
    FAMILY(COPY, copy, FLAT_ARGS, flat_args),
    FAMILY(COPY, copy_bytes, FLAT_ARGS, flat_args),
    FAMILY(COPY, copy_ints, FLAT_ARGS, flat_args),
    FAMILY(COPY, copy_bits, FLAT_ARGS, flat_args),
    FAMILY(MASK_THRESHOLD, mask_threshold, THRESHOLD_ARGS, threshold_args),
    FAMILY(MASK_THRESHOLD, mask_threshold_mixed, MIXED_ARGS, mixed_args),
    FAMILY(MASK_APPLY, mask_apply, FLAT_ARGS, flat_args),
    FAMILY(MASK_BWD_WEIGHTS, mask_bwd_weights, FLAT_ARGS, flat_args),
    FAMILY(MASK_BWD_SCORES, mask_bwd_scores, FLAT_ARGS, flat_args),
    FAMILY(NORM2, norm2, NORM2_ARGS, norm2_args),
    FAMILY(SGD, sgd, SGD_ARGS, sgd_args),
    FAMILY(ADAM, adam, ADAM_ARGS, adam_args),
    FAMILY(EMA, ema, EMA_ARGS, ema_args),
    FAMILY(UNROLL, unroll, UNROLL_ARGS, unroll_args),
    FAMILY(SHIFT, shift, SHIFT_ARGS, shift_args),
    FAMILY(HVP, hvp, FLAT_ARGS, flat_args),
    {0},
};
