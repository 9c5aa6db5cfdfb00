/* Fragment of host_ref.c: pointwise convolutions by sparse matrices stored by rows, alone and around a depthwise one.
 */

typedef struct csr {
    const real *values;
    const int32_t *columns, *starts;
} csr;
static csr csr_at(const dass__impl *k, uint32_t first)
{
    return (csr){src(k, first), src(k, first + 1), src(k, first + 2)};
}
/* none + sum over the entries of row r of value x[column stride] */
static double csr_row(csr s, int64_t r, const real *x, double none)
{
    double sum = none;
    for (int32_t e = s.starts[r]; e < s.starts[r + 1]; e++)
        sum += ld(s.values, e) * ld(x, s.columns[e]);
    return sum;
}

/* y(p,oc) = act(bias(oc) + sum over entries of row oc of value x(p,column) + residual(p,oc))
 * in: x, values, columns, starts, bias or 0, residual or 0    out: y */
static dass_status run_spconv(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const real *x = src(k, 0);
    const real *residual = src(k, 5);
    real *y = dst(k, 0);
    const csr s = csr_at(k, 1);
    const dims dx = in_dims(k, 0);
    const dims dy = out_dims(k, 0);
    for (int64_t p = 0; p < dy.pixels; p++)
        for (int64_t oc = 0; oc < dy.c; oc++) {
            const double u = csr_row(s, oc, x + p * dx.c, ld_or(src(k, 4), oc, 0));
            st(y, p * dy.c + oc, activate(u + ld_or(residual, p * dy.c + oc, 0), attr(k)->sparse.act));
        }
    return DASS_OK;
}

/* Scratch of irblock: the expanded image, and one pixel behind the depthwise convolution. */
static size_t ws_irblock(const dass_graph *g, dass_node n)
{
    const dims dx = dims_of(dass__in(g, n, 0));
    const int64_t hidden = dass__in(g, n, 5)->dim[0];
    return (size_t)((dx.h * dx.w + 1) * hidden) * sizeof(real);
}

/* e = act(E x + b_e) of image n */
static void expand_image(const dass__impl *k, const real *x, dims dx, int64_t hidden, real *e)
{
    const csr s = csr_at(k, 1);
    for (int64_t p = 0; p < dx.h * dx.w; p++)
        for (int64_t h = 0; h < hidden; h++)
            st(e, p * hidden + h, activate(csr_row(s, h, x + p * dx.c, ld_or(src(k, 4), h, 0)), attr(k)->irblock.act));
}

/* act(b_dw + the nine taps of e around output (oh, ow)); a tap outside of the image is 0 */
static double block_depthwise(const dass__impl *k, const real *e, dims de, int64_t oh, int64_t ow, int64_t c)
{
    double sum = ld_or(src(k, 6), c, 0);
    for (int64_t t = 0; t < 9; t++) {
        const int64_t h = oh * attr(k)->irblock.stride - 1 + t / 3;
        const int64_t w = ow * attr(k)->irblock.stride - 1 + t % 3;
        if (inside(de, h, w))
            sum += ld(src(k, 5), c * 9 + t) * ld(e, at(de, 0, h, w, c));
    }
    return activate(sum, attr(k)->irblock.act);
}

/* in: x, E (values, columns, starts), b_e, w_dw, b_dw, P (values, columns, starts), b_p, residual    out: y */
static dass_status run_irblock(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const real *x = src(k, 0);
    real *y = dst(k, 0);
    real *e = k->ws;
    const csr project = csr_at(k, 7);
    const dims dx = in_dims(k, 0);
    const dims dy = out_dims(k, 0);
    const int64_t hidden = dass__in(k->g, k->n, 5)->dim[0];
    const dims de = {1, hidden, dx.h, dx.w, dx.h * dx.w};
    real *d = e + de.pixels * hidden;
    for (int64_t n = 0; n < dy.n; n++) {
        expand_image(k, x + at(dx, n, 0, 0, 0), dx, hidden, e);
        for (int64_t p = 0; p < dy.h * dy.w; p++) {
            for (int64_t h = 0; h < hidden; h++)
                st(d, h, block_depthwise(k, e, de, p / dy.w, p % dy.w, h));
            for (int64_t oc = 0; oc < dy.c; oc++) {
                const int64_t i = (n * dy.h * dy.w + p) * dy.c + oc;
                st(y, i, csr_row(project, oc, d, ld_or(src(k, 10), oc, 0)) + ld_or(src(k, 11), i, 0));
            }
        }
    }
    return DASS_OK;
}
