/* Fragment of host_ref.c: taking a batch out of a data set, input augmentation, activations, pools, and what moves
 * channels or pixels about. */

/* Row r is sample s = order[position rows + r], both clamped to what there is.
 * in: images u8 (n,C,H,W), labels i32 (n), order i32 (L), step block
 * out: images u8 (rows,C,H,W), labels i32 (rows), samples i32 (rows) */
static dass_status run_gather(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_step_block *step = src(k, 3);
    const int32_t *labels = src(k, 1);
    const int32_t *order = src(k, 2);
    const int64_t n = in_dims(k, 0).n;
    const int64_t rows = out_dims(k, 0).n;
    const size_t bytes = (size_t)(in_count(k, 0) / n);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t entry = (int64_t)step->position * rows + r;
        const int64_t last = in_count(k, 2) - 1;
        const int64_t e = order[entry < last ? entry : last];
        const int64_t s = e < 0 ? 0 : e < n ? e : n - 1;
        memcpy((uint8_t *)dst(k, 0) + (size_t)r * bytes, (const uint8_t *)src(k, 0) + (size_t)s * bytes, bytes);
        ((int32_t *)dst(k, 1))[r] = labels[s];
        ((int32_t *)dst(k, 2))[r] = (int32_t)s;
    }
    return DASS_OK;
}

/* Random part of one sample's augmentation, as the header defines it. */
typedef struct augment_draw {
    int64_t dy, dx, cy, cx;
    bool mirror;
} augment_draw;

static augment_draw augment_draw_of(const dass_step_block *step, int32_t sample, dass_augment_attr a, dims d)
{
    const uint32_t counter[4] = {(uint32_t)sample, step->epoch, 0, 0};
    const uint32_t key[2] = {(uint32_t)step->seed ^ (uint32_t)DASS_RNG_AUGMENT, (uint32_t)(step->seed >> 32)};
    uint32_t r[4];
    dass_philox(counter, key, r);
    const uint32_t span = (uint32_t)(2 * a.pad + 1);
    return (augment_draw){.dy = a.pad > 0 ? r[0] % span : 0,
                          .dx = a.pad > 0 ? (r[0] >> 16) % span : 0,
                          .cy = r[2] % (uint32_t)d.h,
                          .cx = r[3] % (uint32_t)d.w,
                          .mirror = a.flip && (r[1] & 1)};
}

/* y = (crop(images / 255) - mean) / std, mirrored when drawn, 0 inside the cutout square.
 * Output (h, w) reads crop column cw = W-1-w when mirrored, else w; crop (h, cw) reads image (h +
 * dy - pad, cw + dx - pad), which is 0 outside the image. The square lies in output coordinates,
 * clipped. in: images u8 (N,C,H,W), samples i32 (N), step block    out: y (N,C,H,W) */
static dass_status run_augment(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_augment_attr a = attr(k)->augment;
    const uint8_t *images = src(k, 0);
    const int32_t *samples = src(k, 1);
    const dims d = out_dims(k, 0);
    for (int64_t n = 0; n < d.n; n++) {
        const augment_draw r = augment_draw_of(src(k, 2), samples[n], a, d);
        const int64_t top = r.cy - a.cutout / 2;
        const int64_t left = r.cx - a.cutout / 2;
        for (int64_t h = 0; h < d.h; h++)
            for (int64_t w = 0; w < d.w; w++)
                for (int64_t c = 0; c < d.c; c++) {
                    const int64_t ih = h + r.dy - a.pad;
                    const int64_t iw = (r.mirror ? d.w - 1 - w : w) + r.dx - a.pad;
                    const double pixel = inside(d, ih, iw) ? images[at(d, n, ih, iw, c)] / 255.0 : 0;
                    const bool cut = h >= top && h < top + a.cutout && w >= left && w < left + a.cutout;
                    st(dst(k, 0), at(d, n, h, w, c), cut ? 0 : (pixel - a.mean_std[c]) / a.mean_std[d.c + c]);
                }
    }
    return DASS_OK;
}

/* y = f x per sample, f = 0 with probability p, else 1 / (1 - p), p = step.drop_path; also its own gradient
 * in: x, samples i32 (N), step block    out: y, may share x.   Larsson et al. 2017, "FractalNet" */
static dass_status run_drop_path(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const int32_t *samples = src(k, 1);
    const dass_step_block *step = src(k, 2);
    const uint64_t name = (uint64_t)attr(k)->scalar.n;
    const uint32_t fold = (uint32_t)name ^ (uint32_t)(name >> 32);
    const int64_t n = in_dims(k, 0).n;
    const int64_t row = in_count(k, 0) / n;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t counter[4] = {(uint32_t)samples[i], step->epoch, step->step, fold};
        const uint32_t key[2] = {(uint32_t)step->seed ^ (uint32_t)DASS_RNG_DROP_PATH, (uint32_t)(step->seed >> 32)};
        uint32_t r[4];
        dass_philox(counter, key, r);
        const bool dropped = r[0] / 4294967296.0 < step->drop_path;
        for (int64_t j = i * row; j < (i + 1) * row; j++)
            st(dst(k, 0), j, dropped ? 0 : ld(src(k, 0), j) / (1 - step->drop_path));
    }
    return DASS_OK;
}

/* y = max(x, 0), or min(max(x, 0), 6)
 * in: x    out: y, may share x */
static dass_status run_relu(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    for (int64_t i = 0; i < in_count(k, 0); i++)
        st(dst(k, 0), i, activate(ld(src(k, 0), i), attr(k)->act));
    return DASS_OK;
}

/* d_x = d_y where 0 < y (and y < 6), else 0
 * in: d_y, y    out: d_x, may share d_y */
static dass_status run_relu_bwd(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    for (int64_t i = 0; i < in_count(k, 0); i++)
        st(dst(k, 0), i, passes(ld(src(k, 1), i), attr(k)->act) ? ld(src(k, 0), i) : 0);
    return DASS_OK;
}

/* Window of output (oh, ow): rows h = oh stride - pad + r, columns w = ow stride - pad + s, r and s
 * in [0, k). */

/* y = max of the window's positions inside the image, index = r k + s of the first maximum
 * in: x    out: y, index u8 (shape of y) or 0 */
static dass_status run_max_pool(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_pool_attr a = attr(k)->pool;
    const real *x = src(k, 0);
    uint8_t *index = dst(k, 1);
    const dims dx = in_dims(k, 0);
    const dims dy = out_dims(k, 0);
    for (int64_t n = 0; n < dy.n; n++)
        for (int64_t oh = 0; oh < dy.h; oh++)
            for (int64_t ow = 0; ow < dy.w; ow++)
                for (int64_t c = 0; c < dy.c; c++) {
                    double best = -INFINITY;
                    int first = -1;
                    for (int r = 0; r < a.k; r++)
                        for (int s = 0; s < a.k; s++) {
                            const int64_t h = oh * a.stride - a.pad + r;
                            const int64_t w = ow * a.stride - a.pad + s;
                            if (!inside(dx, h, w))
                                continue;
                            const double v = ld(x, at(dx, n, h, w, c));
                            if (first >= 0 && !(v > best) && !isnan(v))
                                continue; /* a NaN wins: it must stay visible */
                            if (first >= 0 && isnan(best))
                                continue;
                            best = v;
                            first = r * a.k + s;
                        }
                    st(dst(k, 0), at(dy, n, oh, ow, c), best);
                    if (index)
                        index[at(dy, n, oh, ow, c)] = (uint8_t)first;
                }
    return DASS_OK;
}

/* Positions of the window of output (oh, ow) that lie inside the image. */
static int64_t window_size(dims dx, dass_pool_attr a, int64_t oh, int64_t ow)
{
    int64_t n = 0;
    for (int r = 0; r < a.k; r++)
        for (int s = 0; s < a.k; s++)
            n += inside(dx, oh * a.stride - a.pad + r, ow * a.stride - a.pad + s);
    return n;
}

/* y = mean of the window's positions inside the image
 * in: x    out: y */
static dass_status run_avg_pool(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dass_pool_attr a = attr(k)->pool;
    const dims dx = in_dims(k, 0);
    const dims dy = out_dims(k, 0);
    for (int64_t n = 0; n < dy.n; n++)
        for (int64_t oh = 0; oh < dy.h; oh++)
            for (int64_t ow = 0; ow < dy.w; ow++)
                for (int64_t c = 0; c < dy.c; c++) {
                    double sum = 0;
                    for (int r = 0; r < a.k; r++)
                        for (int s = 0; s < a.k; s++) {
                            const int64_t h = oh * a.stride - a.pad + r;
                            const int64_t w = ow * a.stride - a.pad + s;
                            if (inside(dx, h, w))
                                sum += ld(src(k, 0), at(dx, n, h, w, c));
                        }
                    st(dst(k, 0), at(dy, n, oh, ow, c), sum / (double)window_size(dx, a, oh, ow));
                }
    return DASS_OK;
}

/* Gradient of either pool at input (n, h, w, c): the windows that contain it are oh = (h + pad - r)
 * / stride where that is whole. max (index given): d_y where index names this position; average:
 * d_y / positions inside. */
static double pool_bwd_at(const dass__impl *k, const uint8_t *index, int64_t n, int64_t h, int64_t w, int64_t c)
{
    const dass_pool_attr a = attr(k)->pool;
    const dims dx = out_dims(k, 0);
    const dims dy = in_dims(k, 0);
    double sum = 0;
    for (int r = 0; r < a.k; r++)
        for (int s = 0; s < a.k; s++) {
            const int64_t th = h + a.pad - r;
            const int64_t tw = w + a.pad - s;
            if (th < 0 || tw < 0 || th % a.stride || tw % a.stride)
                continue;
            const int64_t oh = th / a.stride;
            const int64_t ow = tw / a.stride;
            if (!inside(dy, oh, ow))
                continue;
            const int64_t o = at(dy, n, oh, ow, c);
            if (!index)
                sum += ld(src(k, 0), o) / (double)window_size(dx, a, oh, ow);
            else if (index[o] == r * a.k + s)
                sum += ld(src(k, 0), o);
        }
    return sum;
}

static void pool_bwd(const dass__impl *k, const uint8_t *index, const real *acc)
{
    const dims dx = out_dims(k, 0);
    for (int64_t n = 0; n < dx.n; n++)
        for (int64_t h = 0; h < dx.h; h++)
            for (int64_t w = 0; w < dx.w; w++)
                for (int64_t c = 0; c < dx.c; c++) {
                    const int64_t i = at(dx, n, h, w, c);
                    st(dst(k, 0), i, ld_or(acc, i, 0) + pool_bwd_at(k, index, n, h, w, c));
                }
}

/* d_x = acc + sum of d_y over the windows whose index names this position
 * in: d_y, index u8, acc or 0    out: d_x, may share acc */
static dass_status run_max_pool_bwd(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    pool_bwd(k, src(k, 1), src(k, 2));
    return DASS_OK;
}

/* d_x = acc + sum of d_y / (positions inside) over the windows that contain this position
 * in: d_y, acc or 0    out: d_x, may share acc */
static dass_status run_avg_pool_bwd(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    pool_bwd(k, NULL, src(k, 1));
    return DASS_OK;
}

/* y(n,c) = mean over h, w of x
 * in: x    out: y (N,C,1,1) */
static dass_status run_global_pool(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dims d = in_dims(k, 0);
    for (int64_t n = 0; n < d.n; n++)
        for (int64_t c = 0; c < d.c; c++) {
            double sum = 0;
            for (int64_t p = 0; p < d.h * d.w; p++)
                sum += ld(src(k, 0), (n * d.h * d.w + p) * d.c + c);
            st(dst(k, 0), n * d.c + c, sum / (double)(d.h * d.w));
        }
    return DASS_OK;
}

/* d_x = acc + d_y / (H W)
 * in: d_y (N,C,1,1), acc or 0    out: d_x, may share acc */
static dass_status run_global_pool_bwd(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dims d = out_dims(k, 0);
    for (int64_t n = 0; n < d.n; n++)
        for (int64_t p = 0; p < d.h * d.w; p++)
            for (int64_t c = 0; c < d.c; c++) {
                const int64_t i = (n * d.h * d.w + p) * d.c + c;
                st(dst(k, 0), i, ld_or(src(k, 1), i, 0) + ld(src(k, 0), n * d.c + c) / (double)(d.h * d.w));
            }
    return DASS_OK;
}

/* y(h, w) = x(offset + stride h, offset + stride w)
 * in: x    out: y (N, C, ceil((H - offset) / stride), ...) */
static dass_status run_subsample(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const int64_t stride = attr(k)->scalar.i;
    const int64_t offset = attr(k)->scalar.j;
    const real *x = src(k, 0);
    const dims dx = in_dims(k, 0);
    const dims dy = out_dims(k, 0);
    for (int64_t n = 0; n < dy.n; n++)
        for (int64_t h = 0; h < dy.h; h++)
            for (int64_t w = 0; w < dy.w; w++)
                for (int64_t c = 0; c < dy.c; c++)
                    st(dst(k, 0), at(dy, n, h, w, c), ld(x, at(dx, n, offset + stride * h, offset + stride * w, c)));
    return DASS_OK;
}

/* d_x = acc + d_y where a pixel was sampled, acc elsewhere
 * in: d_y, acc or 0    out: d_x, may share acc */
static dass_status run_subsample_bwd(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const int64_t stride = attr(k)->scalar.i;
    const int64_t offset = attr(k)->scalar.j;
    const real *d_y = src(k, 0);
    const real *acc = src(k, 1);
    const dims dy = in_dims(k, 0);
    const dims dx = out_dims(k, 0);
    for (int64_t n = 0; n < dx.n; n++)
        for (int64_t h = 0; h < dx.h; h++)
            for (int64_t w = 0; w < dx.w; w++)
                for (int64_t c = 0; c < dx.c; c++) {
                    const int64_t i = at(dx, n, h, w, c);
                    const int64_t th = h - offset;
                    const int64_t tw = w - offset;
                    const bool hit = th >= 0 && tw >= 0 && th % stride == 0 && tw % stride == 0;
                    st(dst(k, 0), i, ld_or(acc, i, 0) + (hit ? ld(d_y, at(dy, n, th / stride, tw / stride, c)) : 0));
                }
    return DASS_OK;
}

/* y = the inputs one after another along C
 * in: x_0, x_1, ...    out: y */
static dass_status run_concat(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dims dy = out_dims(k, 0);
    int64_t first = 0;
    for (uint32_t t = 0; t < k->n_in; t++) {
        const dims dx = in_dims(k, t);
        for (int64_t p = 0; p < dx.pixels; p++)
            for (int64_t c = 0; c < dx.c; c++)
                st(dst(k, 0), p * dy.c + first + c, ld(src(k, t), p * dx.c + c));
        first += dx.c;
    }
    return DASS_OK;
}

/* y(c) = x(first + c)
 * in: x    out: y (N,count,H,W) */
static dass_status run_slice(dass_backend *be, void *impl)
{
    (void)be;
    const dass__impl *k = impl;
    const dims dx = in_dims(k, 0);
    const dims dy = out_dims(k, 0);
    for (int64_t p = 0; p < dy.pixels; p++)
        for (int64_t c = 0; c < dy.c; c++)
            st(dst(k, 0), p * dy.c + c, ld(src(k, 0), p * dx.c + attr(k)->scalar.i + c));
    return DASS_OK;
}
