/* Fragment of host_ref.c: convolution and its gradients, seven plain loops each. Weights are (OC,
 * IC/groups, KH, KW) stored as written; activations NHWC. Output pixel (oh, ow) and tap (r, s) meet
 * the input at h = oh stride - pad + r dil,   w = ow stride - pad + s dil and taps outside the
 * image read zero. oc belongs to group oc / (OC/groups), whose input channels are group (IC/groups)
 * + ic.
 */

static int64_t tap(dass_conv_attr a, int64_t o, int64_t r)
{
    return o * a.stride - a.pad + r * a.dil;
}

/* y(n,oc,oh,ow) = bias(oc) + sum over ic, r, s of w(oc,ic,r,s) relu(x(n, group ic, h, w))
 * then act. in: x, w, bias or 0    out: y */
static dass_status run_conv(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_conv_attr a = attr(k)->conv;
    const real *x = src(k, 0);
    const real *w = src(k, 1);
    const real *bias = src(k, 2);
    real *y = dst(k, 0);
    const dims dx = in_dims(k, 0);
    const dims dy = out_dims(k, 0);
    const int64_t icg = dx.c / a.groups;
    const int64_t ocg = dy.c / a.groups;
    for (int64_t n = 0; n < dy.n; n++)
        for (int64_t oh = 0; oh < dy.h; oh++)
            for (int64_t ow = 0; ow < dy.w; ow++)
                for (int64_t oc = 0; oc < dy.c; oc++) {
                    double sum = ld_or(bias, oc, 0);
                    for (int64_t ic = 0; ic < icg; ic++)
                        for (int64_t r = 0; r < a.kh; r++)
                            for (int64_t s = 0; s < a.kw; s++) {
                                const int64_t h = tap(a, oh, r);
                                const int64_t wd = tap(a, ow, s);
                                if (!inside(dx, h, wd))
                                    continue;
                                sum += ld(w, ((oc * icg + ic) * a.kh + r) * a.kw + s) *
                                       activate(ld(x, at(dx, n, h, wd, oc / ocg * icg + ic)), a.relu);
                            }
                    st(y, at(dy, n, oh, ow, oc), activate(sum, a.act));
                }
    return DASS_OK;
}

/* d_x(n,c,h,w) = sum of w(oc,ic,r,s) d_y(n,oc,oh,ow) over the taps that read (h, w):
 *     oh = (h + pad - r dil) / stride when that is a whole number inside d_y, likewise ow
 * in: d_y, w    out: d_x */
static dass_status run_conv_bwd_data(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_conv_attr a = attr(k)->conv;
    const real *d_y = src(k, 0);
    const real *w = src(k, 1);
    real *d_x = dst(k, 0);
    const dims dy = in_dims(k, 0);
    const dims dx = out_dims(k, 0);
    const int64_t icg = dx.c / a.groups;
    const int64_t ocg = dy.c / a.groups;
    for (int64_t n = 0; n < dx.n; n++)
        for (int64_t h = 0; h < dx.h; h++)
            for (int64_t wd = 0; wd < dx.w; wd++)
                for (int64_t c = 0; c < dx.c; c++) {
                    double sum = 0;
                    for (int64_t r = 0; r < a.kh; r++)
                        for (int64_t s = 0; s < a.kw; s++) {
                            const int64_t th = h + a.pad - r * a.dil;
                            const int64_t tw = wd + a.pad - s * a.dil;
                            if (th < 0 || tw < 0 || th % a.stride || tw % a.stride)
                                continue;
                            if (!inside(dy, th / a.stride, tw / a.stride))
                                continue;
                            for (int64_t o = 0; o < ocg; o++) {
                                const int64_t oc = c / icg * ocg + o;
                                sum += ld(w, ((oc * icg + c % icg) * a.kh + r) * a.kw + s) *
                                       ld(d_y, at(dy, n, th / a.stride, tw / a.stride, oc));
                            }
                        }
                    st(d_x, at(dx, n, h, wd, c), sum);
                }
    return DASS_OK;
}

/* d_w(oc,ic,r,s) = sum over n, oh, ow of d_y(n,oc,oh,ow) x(n, group ic, h, w)
 * in: x, d_y    out: d_w (OC, IC/groups, KH, KW) */
static dass_status run_conv_bwd_weights(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_conv_attr a = attr(k)->conv;
    const real *x = src(k, 0);
    const real *d_y = src(k, 1);
    real *d_w = dst(k, 0);
    const dims dx = in_dims(k, 0);
    const dims dy = in_dims(k, 1);
    const int64_t icg = dx.c / a.groups;
    const int64_t ocg = dy.c / a.groups;
    for (int64_t oc = 0; oc < dy.c; oc++)
        for (int64_t ic = 0; ic < icg; ic++)
            for (int64_t r = 0; r < a.kh; r++)
                for (int64_t s = 0; s < a.kw; s++) {
                    double sum = 0;
                    for (int64_t n = 0; n < dy.n; n++)
                        for (int64_t oh = 0; oh < dy.h; oh++)
                            for (int64_t ow = 0; ow < dy.w; ow++) {
                                const int64_t h = tap(a, oh, r);
                                const int64_t wd = tap(a, ow, s);
                                if (!inside(dx, h, wd))
                                    continue;
                                sum += ld(d_y, at(dy, n, oh, ow, oc)) * ld(x, at(dx, n, h, wd, oc / ocg * icg + ic));
                            }
                    st(d_w, ((oc * icg + ic) * a.kh + r) * a.kw + s, sum);
                }
    return DASS_OK;
}
