/* Fragment of host_ref.c: weighted sums over terms and their gradients, softmax, cross-entropy. */

/* Factor of term t: p[index] or 1. */
static double factor(const real *p, dass_sum_attr a, int32_t t)
{
    return a.index[t] < 0 ? 1 : ld(p, a.index[t]);
}

/* y = sum over terms of f_k t_k, t_k = x_k or gamma_k (x_k - mean_k) rstd_k + beta_k
 * in: p or 0, then x, mean, rstd, gamma, beta per term (the last four or 0)    out: y */
static dass_status run_wsum(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_sum_attr a = attr(k)->sum;
    const dims d = out_dims(k, 0);
    for (int64_t p = 0; p < d.pixels; p++)
        for (int64_t c = 0; c < d.c; c++) {
            double sum = 0;
            for (int32_t t = 0; t < a.n_terms; t++)
                sum += factor(src(k, 0), a, t) * normed_value(normed_at(k, 1 + 5 * (uint32_t)t), p * d.c + c, c);
            st(dst(k, 0), p * d.c + c, sum);
        }
    return DASS_OK;
}

static size_t ws_wsum_bwd(const dass_graph *g, dass_node n)
{
    /* S1 and S2 of the term at hand, d_p in double */
    const int64_t n_p = dass_node_in(g, n)[1] ? dass_value_count(dass__in(g, n, 1)) : 0;
    return (size_t)(2 * dass__in(g, n, 0)->dim[1] + n_p) * sizeof(double);
}

/* Term t of wsum_bwd: its S2 from S1, its coefficients, and its share of d_p. */
static void wsum_bwd_term(const dass__impl *k, int32_t t, const double *s1, double *s2, double *d_p)
{
    const dass_sum_attr a = attr(k)->sum;
    const normed b = normed_at(k, 3 + 5 * (uint32_t)t);
    const real *d_y = src(k, 0);
    const dims d = in_dims(k, 0);
    const double m = (double)d.pixels;
    const double f = factor(src(k, 1), a, t);
    real *coef = dst(k, 1 + 3 * (uint32_t)t);
    real *d_gamma = dst(k, 2 + 3 * (uint32_t)t);
    real *d_beta = dst(k, 3 + 3 * (uint32_t)t);
    const bool share = d_p && a.index[t] >= 0;
    if (!share && !coef && !d_gamma && !d_beta)
        return;
    for (int64_t c = 0; c < d.c; c++) {
        s2[c] = 0;
        for (int64_t p = 0; p < d.pixels && b.x; p++) {
            const int64_t i = p * d.c + c;
            s2[c] += ld(d_y, i) * (b.mean ? normed_hat(b, i, c) : ld(b.x, i));
        }
        if (share && !b.mean)
            d_p[a.index[t]] += s2[c];
        if (share && b.mean)
            d_p[a.index[t]] += ld_or(b.gamma, c, 1) * s2[c] + ld_or(b.beta, c, 0) * s1[c];
        if (coef) {
            const double ca = f * ld_or(b.gamma, c, 1) * ld(b.rstd, c);
            const double cb = -ca * ld(b.rstd, c) * s2[c] / m;
            st(coef, c, ca);
            st(coef, d.c + c, cb);
            st(coef, 2 * d.c + c, -ca * s1[c] / m - cb * ld(b.mean, c));
        }
        if (d_gamma)
            st(d_gamma, c, f * s2[c]);
        if (d_beta)
            st(d_beta, c, f * s1[c]);
    }
}

/* With S1 = sum d_y, S2_k = sum d_y xh_k per channel and f_k the factor:
 *     d_p[i]    = acc_dp[i] + sum over terms k with index_k = i of: sum d_y x_k (raw), sum_c gamma
 * S2_k + beta S1 (bn) coef_k    rows A = f gamma rstd, B = -A rstd S2/M, C0 = -A S1/M - B mean
 *     d_gamma_k = f S2_k, d_beta_k = f S1
 * in: d_y, p, acc_dp or 0, then x, mean, rstd, gamma, beta per term    out: d_p, then coef,
 * d_gamma, d_beta per term, each or 0 */
static dass_status run_wsum_bwd(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dims d = in_dims(k, 0);
    const int64_t n_p = src(k, 1) ? in_count(k, 1) : 0;
    double *s1 = k->ws;
    double *s2 = s1 + d.c;
    double *d_p = dst(k, 0) ? s2 + d.c : NULL;
    for (int64_t c = 0; c < d.c; c++) {
        s1[c] = 0;
        for (int64_t p = 0; p < d.pixels; p++)
            s1[c] += ld(src(k, 0), p * d.c + c);
    }
    for (int64_t i = 0; i < n_p && d_p; i++)
        d_p[i] = ld_or(src(k, 2), i, 0);
    for (int32_t t = 0; t < attr(k)->sum.n_terms; t++)
        wsum_bwd_term(k, t, s1, s2, d_p);
    for (int64_t i = 0; i < n_p && d_p; i++)
        st(dst(k, 0), i, d_p[i]);
    return DASS_OK;
}

/* y = sum over terms of f_k d_k, or of A d_k + B x_k + C0 per channel where coef_k is there
 * in: p or 0, then d, x, coef per term (the last two or 0)    out: y, may share any plain term's d
 */
static dass_status run_gsum(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_sum_attr a = attr(k)->sum;
    const int64_t n_c = dass__out(k->g, k->n, 0)->dim[1]; /* used with coef only, which means NHWC */
    for (int64_t i = 0; i < out_count(k, 0); i++) {
        const int64_t c = i % n_c;
        double sum = 0;
        for (int32_t t = 0; t < a.n_terms; t++) {
            const real *d = src(k, 1 + 3 * (uint32_t)t);
            const real *x = src(k, 2 + 3 * (uint32_t)t);
            const real *coef = src(k, 3 + 3 * (uint32_t)t);
            if (coef)
                sum += ld(coef, c) * ld(d, i) + ld(coef, n_c + c) * ld(x, i) + ld(coef, 2 * n_c + c);
            else
                sum += factor(src(k, 0), a, t) * ld(d, i);
        }
        st(dst(k, 0), i, sum);
    }
    return DASS_OK;
}

/* y = exp(x - max) / sum exp(x - max) of one row of n; y may be x. Returns max + log(sum): log y =
 * x - that. */
static double softmax_row(const real *x, real *y, int64_t n)
{
    double max = ld(x, 0);
    for (int64_t i = 1; i < n; i++)
        max = ld(x, i) > max ? ld(x, i) : max;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += exp(ld(x, i) - max);
    for (int64_t i = 0; i < n; i++)
        st(y, i, exp(ld(x, i) - max) / sum);
    return max + log(sum);
}

/* Row-wise softmax.
 * in: a (rows, cols)    out: p, may share a */
static dass_status run_softmax(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_value *v = dass__in(k->g, k->n, 0);
    const int64_t cols = v->dim[1];
    for (int64_t r = 0; r < v->dim[0]; r++)
        (void)softmax_row((const real *)src(k, 0) + r * cols, (real *)dst(k, 0) + r * cols, cols);
    return DASS_OK;
}

/* d_a = p (d_p - sum over the row of d_p p)
 * in: d_p, p    out: d_a, may share d_p */
static dass_status run_softmax_bwd(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_value *v = dass__in(k->g, k->n, 0);
    const int64_t cols = v->dim[1];
    for (int64_t r = 0; r < v->dim[0]; r++) {
        double dot = 0;
        for (int64_t i = r * cols; i < (r + 1) * cols; i++)
            dot += ld(src(k, 0), i) * ld(src(k, 1), i);
        for (int64_t i = r * cols; i < (r + 1) * cols; i++)
            st(dst(k, 0), i, ld(src(k, 1), i) * (ld(src(k, 0), i) - dot));
    }
    return DASS_OK;
}

/* Rows of an n-row batch that count. */
static int64_t valid_rows(const dass_step_block *step, int64_t n)
{
    return step->valid == 0 || step->valid > n ? n : (int64_t)step->valid;
}

static double smoothed_target(double smoothing, int64_t c, int32_t label, int64_t n_c)
{
    return (c == label ? 1 - smoothing : 0) + smoothing / (double)n_c;
}

/* With t_c = (1 - s) [c = label] + s/C:   loss = mean over valid rows of -sum_c t_c log p_c,
 * correct = number of valid rows whose first maximum is the label, probs = softmax of every row
 * (also of the others) in: logits (N,C,1,1), labels i32 (N), step block    out: loss (1), correct
 * (1), probs (N,C,1,1) */
static dass_status run_xent(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const int32_t *labels = src(k, 1);
    const dims d = in_dims(k, 0);
    const int64_t n_valid = valid_rows(src(k, 2), d.n);
    double loss = 0;
    double correct = 0;
    for (int64_t n = 0; n < d.n; n++) {
        const real *x = (const real *)src(k, 0) + n * d.c;
        const double log_sum = softmax_row(x, (real *)dst(k, 2) + n * d.c, d.c);
        if (n >= n_valid)
            continue;
        int64_t first = 0;
        for (int64_t c = 0; c < d.c; c++) {
            loss -= smoothed_target(attr(k)->scalar.value, c, labels[n], d.c) * (ld(x, c) - log_sum);
            if (ld(x, c) > ld(x, first))
                first = c;
        }
        correct += first == labels[n];
    }
    st(dst(k, 0), 0, loss / (double)n_valid);
    st(dst(k, 1), 0, correct);
    return DASS_OK;
}

/* d_logits = (probs - t) / n_valid, 0 in rows that do not count
 * in: probs, labels, step block    out: d_logits, may share probs */
static dass_status run_xent_bwd(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const int32_t *labels = src(k, 1);
    const dims d = in_dims(k, 0);
    const int64_t n_valid = valid_rows(src(k, 2), d.n);
    for (int64_t n = 0; n < d.n; n++)
        for (int64_t c = 0; c < d.c; c++) {
            const double t = smoothed_target(attr(k)->scalar.value, c, labels[n], d.c);
            st(dst(k, 0), n * d.c + c, n < n_valid ? (ld(src(k, 0), n * d.c + c) - t) / (double)n_valid : 0);
        }
    return DASS_OK;
}
