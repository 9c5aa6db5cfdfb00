/* Builder functions of the ops on flat buffers: fills, masks, optimisers. Each writes its outputs into buffers in place
 * of the reference it was given, so they are effects: never shared, never dead.
 */
#include "graph_private.h"

#include <string.h>

static bool flat_ok(dass_graph *g, const char *op, const char *what, dass_val v, int64_t count, bool in_buffer)
{
    if (g->status != DASS_OK)
        return false;
    if (v != 0 && dass_value_count(&g->vals[v]) == count && (!in_buffer || g->vals[v].buf != 0))
        return true;
    dass__graph_fail(g, DASS_ARG, "%s: %s %s does not hold %lld elements%s", op, what, dass__show(g, v),
                     (long long)count, in_buffer ? " of a buffer" : "");
    return false;
}

static int64_t count_of(const dass_graph *g, dass_val v)
{
    return dass_value_count(&g->vals[v]);
}

/* An effect node with one output written over dst. */
static void effect1(dass_graph *g, dass_op op, const dass_val *in, uint32_t n_in, const dass_attr *a, dass_val dst)
{
    const dass__shape s = dass__shape_of(g, dst);
    dass_val out = 0;
    dass__node_add(g, op, in, n_in, a, &s, 1, &dst, &out);
}

void dass_fill(dass_graph *g, dass_val dst_ref, double value)
{
    if (!flat_ok(g, "fill", "destination", dst_ref, dst_ref ? count_of(g, dst_ref) : 1, true))
        return;
    const dass_attr a = {.scalar = {.value = value}};
    effect1(g, DASS_OP_FILL, NULL, 0, &a, dst_ref);
}

void dass_copy(dass_graph *g, dass_val src, dass_val dst_ref)
{
    if (!flat_ok(g, "copy", "source", src, dst_ref ? count_of(g, dst_ref) : 1, false) ||
        !flat_ok(g, "copy", "destination", dst_ref, count_of(g, src), true))
        return;
    effect1(g, DASS_OP_COPY, &src, 1, NULL, dst_ref);
}

void dass_mask_threshold(dass_graph *g, dass_val scores, dass_val bits_ref, const dass_segment *segments,
                         int64_t n_segments)
{
    if (!flat_ok(g, "mask_threshold", "bits", bits_ref, scores ? count_of(g, scores) : 1, true))
        return;
    const int64_t n = count_of(g, scores);
    int64_t end = 0;
    for (int64_t i = 0; i < n_segments; i++) {
        const dass_segment *s = &segments[i];
        if (s->offset < end || s->count < 1 || s->count > n - s->offset || s->kept < 0 || s->kept > s->count) {
            dass__graph_fail(g, DASS_ARG,
                             "mask_threshold: segment %lld (offset %lld, count %lld, kept %lld) does not "
                             "fit scores %s",
                             (long long)i, (long long)s->offset, (long long)s->count, (long long)s->kept,
                             dass__show(g, scores));
            return;
        }
        end = s->offset + s->count;
    }
    const dass_attr a = {.mask = {.segments = dass__graph_intern(g, segments, (size_t)n_segments * sizeof *segments),
                                  .n_segments = n_segments}};
    effect1(g, DASS_OP_MASK_THRESHOLD, &scores, 1, &a, bits_ref);
}

void dass_mask_apply(dass_graph *g, dass_val weights, dass_val bits, dass_val masked_ref)
{
    const int64_t n = weights ? count_of(g, weights) : 1;
    if (!flat_ok(g, "mask_apply", "bits", bits, n, false) || !flat_ok(g, "mask_apply", "masked", masked_ref, n, true))
        return;
    const dass_val in[] = {weights, bits};
    effect1(g, DASS_OP_MASK_APPLY, in, 2, NULL, masked_ref);
}

void dass_mask_bwd_weights(dass_graph *g, dass_val d_masked_ref, dass_val bits)
{
    const int64_t n = d_masked_ref ? count_of(g, d_masked_ref) : 1;
    if (!flat_ok(g, "mask_bwd_weights", "bits", bits, n, false) ||
        !flat_ok(g, "mask_bwd_weights", "gradient", d_masked_ref, n, true))
        return;
    const dass_val in[] = {d_masked_ref, bits};
    effect1(g, DASS_OP_MASK_BWD_WEIGHTS, in, 2, NULL, d_masked_ref);
}

void dass_mask_bwd_scores(dass_graph *g, dass_val d_masked, dass_val weights, dass_val scores, dass_val d_scores_ref)
{
    const int64_t n = d_masked ? count_of(g, d_masked) : 1;
    if (!flat_ok(g, "mask_bwd_scores", "weights", weights, n, false) ||
        !flat_ok(g, "mask_bwd_scores", "scores", scores, n, false) ||
        !flat_ok(g, "mask_bwd_scores", "gradient", d_scores_ref, n, true))
        return;
    const dass_val in[] = {d_masked, weights, scores};
    effect1(g, DASS_OP_MASK_BWD_SCORES, in, 3, NULL, d_scores_ref);
}

dass_val dass_norm2(dass_graph *g, const dass_val *x, uint32_t n)
{
    if (g->status != DASS_OK)
        return 0;
    bool ok = n >= 1 && n <= 4;
    for (uint32_t i = 0; ok && i < n; i++)
        ok = x[i] != 0 && g->vals[x[i]].dtype == g->real;
    if (!ok)
        return dass__graph_fail(g, DASS_ARG, "norm2: %u inputs, 1 to 4 real values expected", n);
    return dass__node1(g, DASS_OP_NORM2, x, n, NULL, dass__shape_flat(g, 1));
}

static bool step_ok(dass_graph *g, const char *op, dass_val step, int32_t group)
{
    if (g->status == DASS_OK && step != 0 && dass_value_bytes(&g->vals[step]) == sizeof(dass_step_block) &&
        group >= 0 && group < 4)
        return true;
    dass__graph_fail(g, DASS_ARG, "%s: step %s is not the 256-byte step block, or group %d is not 0..3", op,
                     dass__show(g, step), group);
    return false;
}

void dass_sgd(dass_graph *g, dass_val theta_ref, dass_val m_ref, dass_val grad, dass_val step, dass_val norm2,
              dass_val bits, int32_t group)
{
    const int64_t n = theta_ref ? count_of(g, theta_ref) : 1;
    if (!flat_ok(g, "sgd", "theta", theta_ref, n, true) || !flat_ok(g, "sgd", "momentum", m_ref, n, true) ||
        !flat_ok(g, "sgd", "gradient", grad, n, false) || !step_ok(g, "sgd", step, group) ||
        (norm2 && !flat_ok(g, "sgd", "norm2", norm2, 1, false)) || (bits && !flat_ok(g, "sgd", "bits", bits, n, false)))
        return;
    const dass_attr a = {.scalar = {.i = group}};
    const dass_val in[] = {theta_ref, m_ref, grad, step, norm2, bits};
    const dass_val dst[] = {theta_ref, m_ref};
    const dass__shape s[] = {dass__shape_of(g, theta_ref), dass__shape_of(g, m_ref)};
    dass_val out[2];
    dass__node_add(g, DASS_OP_SGD, in, 6, &a, s, 2, dst, out);
}

void dass_adam(dass_graph *g, dass_val theta_ref, dass_val m_ref, dass_val v_ref, dass_val grad, dass_val step,
               int32_t group)
{
    const int64_t n = theta_ref ? count_of(g, theta_ref) : 1;
    if (!flat_ok(g, "adam", "theta", theta_ref, n, true) || !flat_ok(g, "adam", "m", m_ref, n, true) ||
        !flat_ok(g, "adam", "v", v_ref, n, true) || !flat_ok(g, "adam", "gradient", grad, n, false) ||
        !step_ok(g, "adam", step, group))
        return;
    const dass_attr a = {.scalar = {.i = group}};
    const dass_val in[] = {theta_ref, m_ref, v_ref, grad, step};
    const dass_val dst[] = {theta_ref, m_ref, v_ref};
    const dass__shape s[] = {dass__shape_of(g, theta_ref), dass__shape_of(g, m_ref), dass__shape_of(g, v_ref)};
    dass_val out[3];
    dass__node_add(g, DASS_OP_ADAM, in, 5, &a, s, 3, dst, out);
}

void dass_ema(dass_graph *g, dass_val avg_ref, dass_val x, dass_val step)
{
    const int64_t n = avg_ref ? count_of(g, avg_ref) : 1;
    if (!flat_ok(g, "ema", "average", avg_ref, n, true) || !flat_ok(g, "ema", "x", x, n, false) ||
        !step_ok(g, "ema", step, 0))
        return;
    const dass_val in[] = {avg_ref, x, step};
    effect1(g, DASS_OP_EMA, in, 3, NULL, avg_ref);
}

void dass_unroll(dass_graph *g, dass_val dst_ref, dass_val saved, dass_val m, dass_val grad, dass_val step,
                 dass_val bits, int32_t group)
{
    const int64_t n = saved ? count_of(g, saved) : 1;
    if (!flat_ok(g, "unroll", "destination", dst_ref, n, true) || !flat_ok(g, "unroll", "saved", saved, n, false) ||
        !flat_ok(g, "unroll", "momentum", m, n, false) || !flat_ok(g, "unroll", "gradient", grad, n, false) ||
        !step_ok(g, "unroll", step, group) || (bits && !flat_ok(g, "unroll", "bits", bits, n, false)))
        return;
    const dass_attr a = {.scalar = {.i = group}};
    const dass_val in[] = {saved, m, grad, step, bits};
    effect1(g, DASS_OP_UNROLL, in, 5, &a, dst_ref);
}

void dass_shift(dass_graph *g, dass_val dst_ref, dass_val saved, dass_val v, dass_val norm2, int32_t sign)
{
    const int64_t n = saved ? count_of(g, saved) : 1;
    if (!flat_ok(g, "shift", "destination", dst_ref, n, true) || !flat_ok(g, "shift", "saved", saved, n, false) ||
        !flat_ok(g, "shift", "direction", v, n, false) || !flat_ok(g, "shift", "norm2", norm2, 1, false))
        return;
    if (sign != 1 && sign != -1) {
        dass__graph_fail(g, DASS_ARG, "shift: sign %d of %s, must be 1 or -1", sign, dass__show(g, dst_ref));
        return;
    }
    const dass_attr a = {.scalar = {.i = sign}};
    const dass_val in[] = {saved, v, norm2};
    effect1(g, DASS_OP_SHIFT, in, 3, &a, dst_ref);
}

void dass_hvp(dass_graph *g, dass_val d_alpha_ref, dass_val p, dass_val n, dass_val norm2, dass_val step)
{
    const int64_t count = d_alpha_ref ? count_of(g, d_alpha_ref) : 1;
    if (!flat_ok(g, "hvp", "gradient", d_alpha_ref, count, true) || !flat_ok(g, "hvp", "p", p, count, false) ||
        !flat_ok(g, "hvp", "n", n, count, false) || !flat_ok(g, "hvp", "norm2", norm2, 1, false) ||
        !step_ok(g, "hvp", step, 0))
        return;
    const dass_val in[] = {d_alpha_ref, p, n, norm2, step};
    effect1(g, DASS_OP_HVP, in, 5, NULL, d_alpha_ref);
}
