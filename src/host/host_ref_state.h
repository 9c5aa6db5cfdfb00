/* Fragment of host_ref.c: masks, optimisers and the other ops on flat buffers. */

/* dst = value, in the type of dst; bits are all set or all clear.
 * in: none    out: dst */
static dass_status run_fill(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_value *v = dass__out(k->g, k->n, 0);
    const double value = attr(k)->scalar.value;
    if (v->dtype == DASS_BITS) {
        memset(dst(k, 0), value != 0 ? 0xff : 0, dass_value_bytes(v));
        return DASS_OK;
    }
    for (int64_t i = 0; i < dass_value_count(v); i++) {
        if (v->dtype == DASS_U8)
            ((uint8_t *)dst(k, 0))[i] = (uint8_t)value;
        else if (v->dtype == DASS_I32)
            ((int32_t *)dst(k, 0))[i] = (int32_t)value;
        else
            st(dst(k, 0), i, value);
    }
    return DASS_OK;
}

/* dst = src, any one type
 * in: src    out: dst */
static dass_status run_copy(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    memmove(dst(k, 0), src(k, 0), dass_value_bytes(dass__out(k->g, k->n, 0)));
    return DASS_OK;
}

/* dst = src: what is in bf16 was widened before, and is rounded afterwards (widen.c)
 * in: x    out: dst */
static dass_status run_cast(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    for (int64_t i = 0; i < out_count(k, 0); i++)
        st(dst(k, 0), i, ld(src(k, 0), i));
    return DASS_OK;
}

/* Bits of |x|. */
static real_bits magnitude(real x)
{
    const real abs_x = (real)fabs((double)x);
    real_bits b;
    memcpy(&b, &abs_x, sizeof(b));
    return b;
}

static int64_t count_at_least(const real *s, int64_t n, real_bits t)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += magnitude(s[i]) >= t;
    return count;
}

/* Bits of the kept entries, per segment the `kept` largest by (|score|, index): with t the kept-th
 * largest magnitude, all entries above t, and of those equal to t the ones of highest index. t is
 * the largest number with at least `kept` entries not below it, found bit by bit on the integer
 * form. Entries outside every segment are kept; bits behind the last entry are 0. in: scores (n)
 * out: bits (n) */
static dass_status run_mask_threshold(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_mask_attr a = attr(k)->mask;
    uint64_t *bits = dst(k, 0);
    const int64_t n = in_count(k, 0);
    memset(bits, 0, dass_value_bytes(dass__out(k->g, k->n, 0)));
    for (int64_t i = 0; i < n; i++)
        bits[i / 64] |= (uint64_t)1 << (i % 64);
    for (int64_t g = 0; g < a.n_segments; g++) {
        const dass_segment seg = a.segments[g];
        const real *s = (const real *)src(k, 0) + seg.offset;
        real_bits t = 0;
        for (int b = (int)sizeof(real_bits) * 8 - 2; b >= 0; b--) {
            const real_bits higher = t | (real_bits)1 << b;
            if (count_at_least(s, seg.count, higher) >= seg.kept)
                t = higher;
        }
        int64_t ties = seg.kept;
        for (int64_t i = 0; i < seg.count; i++)
            ties -= magnitude(s[i]) > t;
        for (int64_t i = seg.count - 1; i >= 0; i--) {
            const real_bits m = magnitude(s[i]);
            const bool keep = m > t || (m == t && ties > 0);
            if (m == t && ties > 0)
                ties--;
            if (!keep)
                bits[(seg.offset + i) / 64] &= ~((uint64_t)1 << ((seg.offset + i) % 64));
        }
    }
    return DASS_OK;
}

/* masked = weights where the bit is set, else 0
 * in: weights (n), bits (n)    out: masked (n) */
static dass_status run_mask_apply(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    for (int64_t i = 0; i < in_count(k, 0); i++)
        st(dst(k, 0), i, bit_at(src(k, 1), i) ? ld(src(k, 0), i) : 0);
    return DASS_OK;
}

/* d_weights = d_masked where the bit is set, else 0
 * in: d_masked (n), bits (n)    out: d_weights, the same storage as d_masked */
static dass_status run_mask_bwd_weights(dass_backend *be, void *impl)
{
    return run_mask_apply(be, impl);
}

/* d_scores = d_masked weights sign(scores), sign(0) = 0, for all entries: straight through the
 * selection. in: d_masked (n), weights (n), scores (n)    out: d_scores (n) Ramanujan et al. 2020,
 * "What's hidden in a randomly weighted neural network" */
static dass_status run_mask_bwd_scores(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    for (int64_t i = 0; i < in_count(k, 0); i++) {
        const double s = ld(src(k, 2), i);
        st(dst(k, 0), i, ld(src(k, 0), i) * ld(src(k, 1), i) * (s > 0 ? 1 : s < 0 ? -1 : 0));
    }
    return DASS_OK;
}

/* s = sum of x^2 over all inputs
 * in: x_0 ... x_3, flat    out: s (1) */
static dass_status run_norm2(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    double sum = 0;
    for (uint32_t t = 0; t < k->n_in; t++)
        for (int64_t i = 0; src(k, t) && i < in_count(k, t); i++)
            sum += ld(src(k, t), i) * ld(src(k, t), i);
    st(dst(k, 0), 0, sum);
    return DASS_OK;
}

/* s = clip > 0 and norm2 given ? min(1, clip / (sqrt(norm2) + 1e-6)) : 1;   d = s grad +
 * weight_decay theta, the decay only where the bit is set when bits are given;   m' = momentum m +
 * d;   theta' = theta - lr m' in: theta, m, grad, step block, norm2 (1) or 0, bits or 0    out:
 * theta', m', the same storage as theta and m */
static dass_status run_sgd(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_step_block *step = src(k, 3);
    const real *norm2 = src(k, 4);
    const uint64_t *bits = src(k, 5);
    const int group = attr(k)->scalar.i;
    double scale = 1;
    if (step->clip > 0 && norm2)
        scale = fmin(1, step->clip / (sqrt(ld(norm2, 0)) + 1e-6));
    for (int64_t i = 0; i < in_count(k, 0); i++) {
        const double theta = ld(src(k, 0), i);
        const double decay = bits && !bit_at(bits, i) ? 0 : step->weight_decay[group];
        const double m = step->momentum * ld(src(k, 1), i) + scale * ld(src(k, 2), i) + decay * theta;
        st(dst(k, 1), i, m);
        st(dst(k, 0), i, theta - step->lr[group] * m);
    }
    return DASS_OK;
}

/* d = grad + weight_decay theta;   m' = b1 m + (1 - b1) d;   v' = b2 v + (1 - b2) d^2
 * theta' = theta - lr (m' / (1 - b1^t)) / (sqrt(v' / (1 - b2^t)) + eps),  t = adam_step
 * in: theta, m, v, grad, step block    out: theta', m', v', the same storage.   Kingma and Ba 2015;
 * torch.optim.Adam */
static dass_status run_adam(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_step_block *step = src(k, 4);
    const int group = attr(k)->scalar.i;
    const double b1 = step->beta1;
    const double b2 = step->beta2;
    const double c1 = 1 - pow(b1, step->adam_step);
    const double c2 = 1 - pow(b2, step->adam_step);
    for (int64_t i = 0; i < in_count(k, 0); i++) {
        const double theta = ld(src(k, 0), i);
        const double d = ld(src(k, 3), i) + step->weight_decay[group] * theta;
        const double m = b1 * ld(src(k, 1), i) + (1 - b1) * d;
        const double v = b2 * ld(src(k, 2), i) + (1 - b2) * d * d;
        st(dst(k, 1), i, m);
        st(dst(k, 2), i, v);
        st(dst(k, 0), i, theta - step->lr[group] * (m / c1) / (sqrt(v / c2) + step->adam_eps));
    }
    return DASS_OK;
}

/* avg' = avg + (1 - decay) (x - avg), decay = step.ema
 * in: avg, x, step block    out: avg', the same storage */
static dass_status run_ema(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_step_block *step = src(k, 2);
    for (int64_t i = 0; i < in_count(k, 0); i++) {
        const double avg = ld(src(k, 0), i);
        st(dst(k, 0), i, avg + (1 - step->ema) * (ld(src(k, 1), i) - avg));
    }
    return DASS_OK;
}

/* dst = saved - xi (momentum m + grad + weight_decay saved), the decay only where the bit is set when bits are given
 * in: saved, m, grad, step block, bits or 0    out: dst.   Liu et al. 2019, DARTS */
static dass_status run_unroll(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_step_block *step = src(k, 3);
    const uint64_t *bits = src(k, 4);
    for (int64_t i = 0; i < in_count(k, 0); i++) {
        const double saved = ld(src(k, 0), i);
        const double decay = bits && !bit_at(bits, i) ? 0 : step->weight_decay[attr(k)->scalar.i];
        const double d = step->momentum * ld(src(k, 1), i) + ld(src(k, 2), i) + decay * saved;
        st(dst(k, 0), i, saved - step->xi * d);
    }
    return DASS_OK;
}

/* dst = saved + sign length / sqrt(norm2) v;   norm2 = 0: dst = saved
 * in: saved, v, norm2 (1)    out: dst */
static dass_status run_shift(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const double norm2 = ld(src(k, 2), 0);
    const double eps = norm2 == 0 ? 0 : attr(k)->scalar.i * DASS_SHIFT_LENGTH / sqrt(norm2);
    for (int64_t i = 0; i < in_count(k, 0); i++)
        st(dst(k, 0), i, ld(src(k, 0), i) + eps * ld(src(k, 1), i));
    return DASS_OK;
}

/* d_alpha' = d_alpha - xi (p - n) sqrt(norm2) / (2 length)
 * in: d_alpha, p, n, norm2 (1), step block    out: d_alpha', the same storage */
static dass_status run_hvp(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_step_block *step = src(k, 4);
    const double rate = step->xi * sqrt(ld(src(k, 3), 0)) / (2 * DASS_SHIFT_LENGTH);
    for (int64_t i = 0; i < in_count(k, 0); i++)
        st(dst(k, 0), i, ld(src(k, 0), i) - rate * (ld(src(k, 1), i) - ld(src(k, 2), i)));
    return DASS_OK;
}
