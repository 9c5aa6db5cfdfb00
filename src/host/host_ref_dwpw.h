/* Fragment of host_ref.c: the fused separable half and its gradient.
 *
 *     u = x, or gamma (x - mean) rstd + beta when in_mean is there;   v = relu(u) when a.relu, else
 * u z = depthwise conv of v with w_dw (C,1,kh,kw), zero padding (of v);   y = z times w_pw
 * (OC,C,1,1)
 *
 * v and z are never stored: z is recomputed a pixel at a time in scratch of C doubles.
 */

static size_t ws_dwpw(const dass_graph *g, dass_node n)
{
    return (size_t)dass__in(g, n, 0)->dim[1] * sizeof(double);
}

/* v of element i, channel c. */
static double dwpw_v(normed b, dass_conv_attr a, int64_t i, int64_t c)
{
    return activate(normed_value(b, i, c), a.relu ? DASS_ACT_RELU : DASS_ACT_NONE);
}

/* z(c) of output pixel (n, oh, ow). */
static void dwpw_z(normed b, const real *w_dw, dass_conv_attr a, dims dx, int64_t n, int64_t oh, int64_t ow, double *z)
{
    for (int64_t c = 0; c < dx.c; c++) {
        z[c] = 0;
        for (int64_t r = 0; r < a.kh; r++)
            for (int64_t s = 0; s < a.kw; s++) {
                const int64_t h = tap(a, oh, r);
                const int64_t w = tap(a, ow, s);
                if (inside(dx, h, w))
                    z[c] += ld(w_dw, (c * a.kh + r) * a.kw + s) * dwpw_v(b, a, at(dx, n, h, w, c), c);
            }
    }
}

static void channel_stats(const real *x, dims d, double eps, real *mean, real *rstd);

/* y(n,oc,oh,ow) = sum over c of w_pw(oc,c) z(n,c,oh,ow);  mean, rstd: batch statistics of y as
 * bn_stats gives them in: x, in_mean, in_rstd, in_gamma, in_beta (or 0), w_dw, w_pw    out: y, mean
 * (OC), rstd (OC), the last two or 0 */
static dass_status run_dwpw(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_conv_attr a = attr(k)->conv;
    const normed b = normed_at(k, 0);
    const real *w_dw = src(k, 5);
    const real *w_pw = src(k, 6);
    real *y = dst(k, 0);
    const dims dx = in_dims(k, 0);
    const dims dy = out_dims(k, 0);
    double *z = k->ws;
    for (int64_t n = 0; n < dy.n; n++)
        for (int64_t oh = 0; oh < dy.h; oh++)
            for (int64_t ow = 0; ow < dy.w; ow++) {
                dwpw_z(b, w_dw, a, dx, n, oh, ow, z);
                for (int64_t oc = 0; oc < dy.c; oc++) {
                    double sum = 0;
                    for (int64_t c = 0; c < dx.c; c++)
                        sum += ld(w_pw, oc * dx.c + c) * z[c];
                    st(y, at(dy, n, oh, ow, oc), sum);
                }
            }
    if (dst(k, 1))
        channel_stats(y, dy, a.eps, dst(k, 1), dst(k, 2));
    return DASS_OK;
}

/* Scratch of the gradient, all doubles: dz (N,OH,OW,C), z (C), d_wdw (C,kh,kw), d_wpw (OC,C), sums
 * of q and q xh (C). */
static size_t ws_dwpw_bwd(const dass_graph *g, dass_node n)
{
    const dims dx = dims_of(dass__in(g, n, 0));
    const dims dy = dims_of(dass__in(g, n, 8));
    const dass_conv_attr *a = &g->nodes[n].attr.conv;
    return (size_t)(dx.c * (dy.pixels + 1 + (int64_t)a->kh * a->kw + dy.c + 2)) * sizeof(double);
}

/* e(oc) of output pixel p: d, or A d + B y + C0. */
static double dwpw_e(const dass__impl *k, int64_t oc, int64_t n_oc, int64_t i)
{
    const real *y = src(k, 7);
    const real *d = src(k, 8);
    const real *coef = src(k, 9);
    if (!coef)
        return ld(d, i);
    return ld(coef, oc) * ld(d, i) + ld(coef, n_oc + oc) * ld(y, i) + ld(coef, 2 * n_oc + oc);
}

/* Through the pointwise product: dz(c) = sum over oc of w_pw(oc,c) e(oc) for every output pixel,
 * and d_wpw(oc,c) = sum over pixels of e(oc) z(c), d_wdw(c,r,s) = sum over pixels of dz(c)
 * v(c,h,w). */
static void dwpw_bwd_outer(const dass__impl *k, double *dz, double *z, double *d_wdw, double *d_wpw)
{
    const dass_conv_attr a = attr(k)->conv;
    const normed b = normed_at(k, 0);
    const real *w_pw = src(k, 6);
    const dims dx = in_dims(k, 0);
    const dims dy = in_dims(k, 8);
    for (int64_t n = 0; n < dy.n; n++)
        for (int64_t oh = 0; oh < dy.h; oh++)
            for (int64_t ow = 0; ow < dy.w; ow++) {
                const int64_t p = (n * dy.h + oh) * dy.w + ow;
                dwpw_z(b, src(k, 5), a, dx, n, oh, ow, z);
                for (int64_t c = 0; c < dx.c; c++)
                    dz[p * dx.c + c] = 0;
                for (int64_t oc = 0; oc < dy.c; oc++) {
                    const double e = dwpw_e(k, oc, dy.c, p * dy.c + oc);
                    for (int64_t c = 0; c < dx.c; c++) {
                        dz[p * dx.c + c] += ld(w_pw, oc * dx.c + c) * e;
                        d_wpw[oc * dx.c + c] += e * z[c];
                    }
                }
                for (int64_t c = 0; c < dx.c; c++)
                    for (int64_t r = 0; r < a.kh; r++)
                        for (int64_t s = 0; s < a.kw; s++) {
                            const int64_t h = tap(a, oh, r);
                            const int64_t w = tap(a, ow, s);
                            if (!inside(dx, h, w))
                                continue;
                            d_wdw[(c * a.kh + r) * a.kw + s] += dz[p * dx.c + c] * dwpw_v(b, a, at(dx, n, h, w, c), c);
                        }
            }
}

/* q(n,c,h,w): the taps that read (h, w) give w_dw(c,r,s) dz(n,c,oh,ow); zero where a.relu and not v
 * > 0. */
static double dwpw_q(const dass__impl *k, const double *dz, int64_t n, int64_t h, int64_t w, int64_t c)
{
    const dass_conv_attr a = attr(k)->conv;
    const normed b = normed_at(k, 0);
    const real *w_dw = src(k, 5);
    const dims dx = in_dims(k, 0);
    const dims dy = in_dims(k, 8);
    if (a.relu && !(dwpw_v(b, a, at(dx, n, h, w, c), c) > 0))
        return 0;
    double q = 0;
    for (int64_t r = 0; r < a.kh; r++)
        for (int64_t s = 0; s < a.kw; s++) {
            const int64_t th = h + a.pad - r * a.dil;
            const int64_t tw = w + a.pad - s * a.dil;
            if (th < 0 || tw < 0 || th % a.stride || tw % a.stride)
                continue;
            if (!inside(dy, th / a.stride, tw / a.stride))
                continue;
            q += ld(w_dw, (c * a.kh + r) * a.kw + s) *
                 dz[((n * dy.h + th / a.stride) * dy.w + tw / a.stride) * dx.c + c];
        }
    return q;
}

/* Gradient of dwpw from e, the effective gradient of y: e = d, or A d + B y + C0 with coef (3,OC).
 *     without in_mean: d_x = acc + q
 *     with    in_mean: d_x = q, d_beta = sum q, d_gamma = sum q xh, and in_coef (3,C) with gradient
 * of x = A d_x + B x + C0: A = gamma rstd, B = -A rstd d_gamma/M, C0 = -A d_beta/M - B mean in: x,
 * in_mean, in_rstd, in_gamma, in_beta, w_dw, w_pw, y, d, coef, acc out: d_x, in_coef, d_gamma,
 * d_beta, d_wdw, d_wpw, each or 0 */
static dass_status run_dwpw_bwd(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_conv_attr a = attr(k)->conv;
    const normed b = normed_at(k, 0);
    const dims dx = in_dims(k, 0);
    const dims dy = in_dims(k, 8);
    const real *acc = src(k, 10);
    const int64_t n_dw = dx.c * a.kh * a.kw;
    double *dz = k->ws;
    double *z = dz + dy.pixels * dx.c;
    double *d_wdw = z + dx.c;
    double *d_wpw = d_wdw + n_dw;
    double *s1 = d_wpw + dy.c * dx.c;
    double *s2 = s1 + dx.c;
    memset(d_wdw, 0, (size_t)(n_dw + dy.c * dx.c + 2 * dx.c) * sizeof(double));
    dwpw_bwd_outer(k, dz, z, d_wdw, d_wpw);

    for (int64_t n = 0; n < dx.n; n++)
        for (int64_t h = 0; h < dx.h; h++)
            for (int64_t w = 0; w < dx.w; w++)
                for (int64_t c = 0; c < dx.c; c++) {
                    const int64_t i = at(dx, n, h, w, c);
                    const double q = dwpw_q(k, dz, n, h, w, c);
                    s1[c] += q;
                    if (b.mean)
                        s2[c] += q * normed_hat(b, i, c);
                    if (dst(k, 0))
                        st(dst(k, 0), i, q + ld_or(acc, i, 0));
                }
    for (int64_t c = 0; c < dx.c && b.mean; c++) {
        const double m = (double)dx.pixels;
        const double ca = ld_or(b.gamma, c, 1) * ld(b.rstd, c);
        const double cb = -ca * ld(b.rstd, c) * s2[c] / m;
        if (dst(k, 1)) {
            st(dst(k, 1), c, ca);
            st(dst(k, 1), dx.c + c, cb);
            st(dst(k, 1), 2 * dx.c + c, -ca * s1[c] / m - cb * ld(b.mean, c));
        }
        if (dst(k, 2))
            st(dst(k, 2), c, s2[c]);
        if (dst(k, 3))
            st(dst(k, 3), c, s1[c]);
    }
    for (int64_t i = 0; i < n_dw && dst(k, 4); i++)
        st(dst(k, 4), i, d_wdw[i]);
    for (int64_t i = 0; i < dy.c * dx.c && dst(k, 5); i++)
        st(dst(k, 5), i, d_wpw[i]);
    return DASS_OK;
}
