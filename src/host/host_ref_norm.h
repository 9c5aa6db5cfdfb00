/* Fragment of host_ref.c: batch normalisation, split into statistics, application, and the two
 * halves of its gradient. Everything is per channel c over the M = N*H*W elements behind it. Ioffe
 * and Szegedy, 2015.
 */

/* mean = sum x / M, rstd = 1 / sqrt(sum (x - mean)^2 / M + eps), in two passes. */
static void channel_stats(const real *x, dims d, double eps, real *mean, real *rstd)
{
    for (int64_t c = 0; c < d.c; c++) {
        double sum = 0;
        for (int64_t p = 0; p < d.pixels; p++)
            sum += ld(x, p * d.c + c);
        const double mu = sum / (double)d.pixels;
        double sq = 0;
        for (int64_t p = 0; p < d.pixels; p++)
            sq += (ld(x, p * d.c + c) - mu) * (ld(x, p * d.c + c) - mu);
        st(mean, c, mu);
        st(rstd, c, 1 / sqrt(sq / (double)d.pixels + eps));
    }
}

/* in: x    out: mean (C), rstd (C) */
static dass_status run_bn_stats(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    channel_stats(src(k, 0), in_dims(k, 0), attr(k)->bn.eps, dst(k, 0), dst(k, 1));
    return DASS_OK;
}

/* y = act(gamma (x - mean) rstd + beta)
 * in: x, mean, rstd, gamma or 0, beta or 0    out: y, may share x */
static dass_status run_bn_apply(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const normed b = normed_at(k, 0);
    const dims d = in_dims(k, 0);
    for (int64_t p = 0; p < d.pixels; p++)
        for (int64_t c = 0; c < d.c; c++)
            st(dst(k, 0), p * d.c + c, activate(normed_value(b, p * d.c + c, c), attr(k)->bn.act));
    return DASS_OK;
}

/* y = act(gamma (x - run_mean) / sqrt(run_var + eps) + beta)
 * in: x, run_mean, run_var, gamma or 0, beta or 0    out: y, may share x */
static dass_status run_bn_infer(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const normed b = normed_at(k, 0); /* b.rstd points at the running variance here */
    const dims d = in_dims(k, 0);
    for (int64_t p = 0; p < d.pixels; p++)
        for (int64_t c = 0; c < d.c; c++) {
            const double rstd = 1 / sqrt(ld(b.rstd, c) + attr(k)->bn.eps);
            const double hat = (ld(b.x, p * d.c + c) - ld(b.mean, c)) * rstd;
            const double u = ld_or(b.gamma, c, 1) * hat + ld_or(b.beta, c, 0);
            st(dst(k, 0), p * d.c + c, activate(u, attr(k)->bn.act));
        }
    return DASS_OK;
}

/* run_mean += momentum (mean - run_mean)
 * run_var  += momentum (var M/(M-1) - run_var),  var = 1/rstd^2 - eps;  M = 1: no correction (there
 * is nothing to correct) in: mean, rstd, run_mean, run_var    out: run_mean', run_var', the same
 * storage as inputs 2 and 3 */
static dass_status run_bn_running(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_bn_attr a = attr(k)->bn;
    const double unbiased = a.count > 1 ? (double)a.count / (double)(a.count - 1) : 1;
    for (int64_t c = 0; c < in_count(k, 0); c++) {
        const double rstd = ld(src(k, 1), c);
        const double var = 1 / (rstd * rstd) - a.eps;
        const double run_mean = ld(src(k, 2), c);
        const double run_var = ld(src(k, 3), c);
        st(dst(k, 0), c, run_mean + a.momentum * (ld(src(k, 0), c) - run_mean));
        st(dst(k, 1), c, run_var + a.momentum * (var * unbiased - run_var));
    }
    return DASS_OK;
}

/* s(c) = sum over n, h, w of x
 * in: x    out: s (C) */
static dass_status run_channel_sum(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dims d = in_dims(k, 0);
    for (int64_t c = 0; c < d.c; c++) {
        double sum = 0;
        for (int64_t p = 0; p < d.pixels; p++)
            sum += ld(src(k, 0), p * d.c + c);
        st(dst(k, 0), c, sum);
    }
    return DASS_OK;
}

/* g of element i: d_y where act passes u = gamma xh + beta, else 0. */
static double bn_g(const real *d_y, normed b, int act, int64_t i, int64_t c)
{
    return passes(normed_value(b, i, c), act) ? ld(d_y, i) : 0;
}

/* d_beta = sum g, d_gamma = sum g xh
 * in: d_y, x, mean, rstd, gamma or 0, beta or 0    out: d_beta (C), d_gamma (C) */
static dass_status run_bn_bwd_reduce(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const normed b = normed_at(k, 1);
    const dims d = in_dims(k, 1);
    for (int64_t c = 0; c < d.c; c++) {
        double s1 = 0;
        double s2 = 0;
        for (int64_t p = 0; p < d.pixels; p++) {
            const double g = bn_g(src(k, 0), b, attr(k)->bn.act, p * d.c + c, c);
            s1 += g;
            s2 += g * normed_hat(b, p * d.c + c, c);
        }
        st(dst(k, 0), c, s1);
        st(dst(k, 1), c, s2);
    }
    return DASS_OK;
}

/* d_x = gamma rstd (g - d_beta/M - xh d_gamma/M)
 * in: d_y, x, mean, rstd, gamma or 0, beta or 0, d_beta, d_gamma    out: d_x, may share d_y */
static dass_status run_bn_bwd_apply(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const normed b = normed_at(k, 1);
    const dims d = in_dims(k, 1);
    const double m = (double)d.pixels;
    for (int64_t p = 0; p < d.pixels; p++)
        for (int64_t c = 0; c < d.c; c++) {
            const int64_t i = p * d.c + c;
            const double g = bn_g(src(k, 0), b, attr(k)->bn.act, i, c);
            const double inner = g - ld(src(k, 6), c) / m - normed_hat(b, i, c) * ld(src(k, 7), c) / m;
            st(dst(k, 0), i, ld_or(b.gamma, c, 1) * ld(b.rstd, c) * inner);
        }
    return DASS_OK;
}
