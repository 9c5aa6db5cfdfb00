/* Layers: the few groups of nodes that cells and fixed networks are made of, with their parameters.
 * No control flow of a network is here. Invariants: every convolution is without bias (a batch norm
 * follows it), all weights including the stem's and the classifier's are maskable and lie in group
 * W, batch-norm parameters and the classifier's bias in AF.
 */
#include <stdarg.h>
#include <stdio.h>

#include "model.h"

dass__name dass__name_of(const char *fmt, ...)
{
    dass__name n;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(n.text, sizeof n.text, fmt, args);
    va_end(args);
    return n;
}

int32_t dass__channels(const dass__builder *b, dass_val x)
{
    return x ? b->g->vals[x].dim[1] : 0;
}

static bool failed(const dass__builder *b)
{
    return b->g->status != DASS_OK;
}

/* Reference to a parameter, found or added. A failure of the store becomes the graph's. */
static dass_val parameter(dass__builder *b, dass_buf buf, const dass_param *desc)
{
    if (failed(b))
        return 0;
    uint32_t index = 0;
    const dass_status st = dass_store_param(b->s, desc, &index);
    if (st != DASS_OK) {
        b->g->status = st;
        return 0;
    }
    const dass_param *p = dass_store_get(b->s, index);
    const dass_layout layout = p->rank == 4 ? DASS_LAYOUT_OIHW : DASS_LAYOUT_FLAT;
    const dass_dtype dtype = p->group == DASS_GROUP_W ? b->g->stored : b->g->real;
    return dass_ref_typed(b->g, p->name, dtype, buf, p->offset, layout, p->rank, p->dim);
}

static dass_val weight(dass__builder *b, const char *name, dass_kind kind, int32_t oc, int32_t ic,
                       int32_t k)
{
    const dass_param desc = {.name = name,
                             .group = DASS_GROUP_W,
                             .kind = kind,
                             .init = DASS_INIT_KAIMING,
                             .rank = 4,
                             .dim = {oc, ic, k, k},
                             .auxiliary = b->auxiliary};
    return parameter(b, dass__weights_buf(b->g, b->weights == DASS_WEIGHTS_MASKED), &desc);
}

/* One value per channel. */
static dass_val per_channel(dass__builder *b, const char *name, dass_group group, dass_init init,
                            int32_t channels)
{
    const dass_param desc = {.name = name,
                             .group = group,
                             .kind = DASS_KIND_OTHER,
                             .init = init,
                             .rank = 1,
                             .dim = {channels, 1, 1, 1},
                             .auxiliary = b->auxiliary};
    return parameter(b, group == DASS_GROUP_STAT ? DASS_BUF_STAT : DASS_BUF_AF, &desc);
}

dass_val dass__conv(dass__builder *b, dass_val x, const char *name, dass__conv_shape a)
{
    if (failed(b))
        return 0;
    const int32_t groups = a.groups ? a.groups : 1;
    const dass_val w = weight(b, name, a.kind, a.channels, dass__channels(b, x) / groups, a.k);
    dass_graph_scope(b->g, name);
    return dass_conv(b->g, x, w, 0,
                     (dass_conv_attr){.kh = a.k,
                                      .kw = a.k,
                                      .stride = a.stride,
                                      .pad = a.pad,
                                      .dil = a.dil ? a.dil : 1,
                                      .groups = groups});
}

/* The supernet keeps no running statistics: its weights are never used alone, and every graph over
 * it, evaluation too, takes the statistics of its batch, as the published search does. In discrete
 * networks running statistics are parameters of the store whatever the norm, so that layouts do not
 * depend on which graph was built first. */
dass_val dass__bn(dass__builder *b, dass_val x, const char *name, bool affine, dass_act act)
{
    if (failed(b))
        return 0;
    const int32_t c = dass__channels(b, x);
    dass_val gamma = 0;
    dass_val beta = 0;
    if (affine) {
        gamma =
            per_channel(b, dass__name_of("%s.gamma", name).text, DASS_GROUP_AF, DASS_INIT_ONE, c);
        beta =
            per_channel(b, dass__name_of("%s.beta", name).text, DASS_GROUP_AF, DASS_INIT_ZERO, c);
    }
    dass_val run_mean = 0;
    dass_val run_var = 0;
    if (!b->relaxed) {
        run_mean = per_channel(b, dass__name_of("%s.running_mean", name).text, DASS_GROUP_STAT,
                               DASS_INIT_ZERO, c);
        run_var = per_channel(b, dass__name_of("%s.running_var", name).text, DASS_GROUP_STAT,
                              DASS_INIT_ONE, c);
    }
    if (failed(b))
        return 0;
    dass_graph_scope(b->g, name);
    if (b->norm == DASS_NORM_RUNNING && !b->relaxed)
        return dass_bn_infer(b->g, x, run_mean, run_var, gamma, beta, DASS__BN_EPS, act);
    dass_val mean = 0;
    dass_val rstd = 0;
    dass_bn_stats(b->g, x, DASS__BN_EPS, &mean, &rstd);
    if (failed(b))
        return 0;
    if (b->norm == DASS_NORM_BATCH_TRACK && !b->relaxed) {
        const int32_t *d = b->g->vals[x].dim;
        dass_bn_running(b->g, mean, rstd, run_mean, run_var, DASS__BN_EPS, DASS__BN_MOMENTUM,
                        (int64_t)d[0] * d[2] * d[3]);
    }
    return dass_bn_apply(b->g, x, mean, rstd, gamma, beta, act);
}

static dass_val relu(dass__builder *b, dass_val x, const char *name)
{
    if (failed(b))
        return 0;
    dass_graph_scope(b->g, name);
    return dass_relu(b->g, x, DASS_ACT_RELU);
}

dass_val dass__relu_conv_bn(dass__builder *b, dass_val x, const char *name, int32_t channels)
{
    const dass__conv_shape pointwise = {.kind = DASS_KIND_CONV,
                                        .channels = channels,
                                        .k = 1,
                                        .stride = 1};
    const dass_val r = relu(b, x, name);
    const dass_val y = dass__conv(b, r, dass__name_of("%s.conv", name).text, pointwise);
    return dass__bn(b, y, dass__name_of("%s.bn", name).text, !b->relaxed, DASS_ACT_NONE);
}

/* A 1x1 convolution of stride 2 reads the even pixels; the published second one, on the input
 * shifted by one pixel, reads the odd ones. */
dass_val dass__factorized_reduce(dass__builder *b, dass_val x, const char *name, int32_t channels)
{
    const dass_val r = relu(b, x, name);
    dass_val half[2];
    for (int32_t i = 0; i < 2; i++) {
        if (failed(b))
            return 0;
        const dass__conv_shape pointwise = {.kind = DASS_KIND_CONV,
                                            .k = 1,
                                            .stride = 1,
                                            .channels = i ? channels - channels / 2 : channels / 2};
        dass_graph_scope(b->g, name);
        const dass_val pixels = dass_subsample(b->g, r, 2, i);
        half[i] =
            dass__conv(b, pixels, dass__name_of("%s.conv%d", name, (int)i + 1).text, pointwise);
    }
    if (failed(b))
        return 0;
    dass_graph_scope(b->g, name);
    const dass_val y = dass_concat(b->g, half, 2);
    return dass__bn(b, y, dass__name_of("%s.bn", name).text, !b->relaxed, DASS_ACT_NONE);
}

dass_val dass__linear(dass__builder *b, dass_val x, const char *name, int32_t classes)
{
    const dass_val w = weight(b, dass__name_of("%s.weight", name).text, DASS_KIND_LINEAR, classes,
                              dass__channels(b, x), 1);
    const dass_val bias = per_channel(b, dass__name_of("%s.bias", name).text, DASS_GROUP_AF,
                                      DASS_INIT_ZERO, classes);
    if (failed(b))
        return 0;
    dass_graph_scope(b->g, name);
    return dass_conv(
        b->g, x, w, bias,
        (dass_conv_attr){.kh = 1, .kw = 1, .stride = 1, .pad = 0, .dil = 1, .groups = 1});
}

dass_val dass__classifier(dass__builder *b, dass_val x, int32_t classes)
{
    if (failed(b))
        return 0;
    dass_graph_scope(b->g, "classifier");
    return dass__linear(b, dass_global_pool(b->g, x), "classifier", classes);
}

/* The head's pool and 2x2 convolution, both without padding, want a pool that comes out at 2x2. */
static bool auxiliary_fits(dass__builder *b, const dass_arch *arch, int32_t size, int32_t number,
                           dass_pool_attr pool)
{
    if (size >= pool.k && (size - pool.k) / pool.stride == 1)
        return true;
    const int32_t least = pool.k + pool.stride;
    const int32_t most = pool.k + 2 * pool.stride - 1;
    const int32_t halved = arch->image / size;
    b->g->status = DASS_FAIL(
        DASS_CONFIG,
        "net.image is %d, so cell %d gives %dx%d pixels, and train.auxiliary puts a head there "
        "that needs %d to %d; use a net.image of %d to %d in steps of %d, or no auxiliary head",
        (int)arch->image, (int)number, (int)size, (int)size, (int)least, (int)most,
        (int)(halved * least), (int)(halved * most), (int)halved);
    return false;
}

dass_val dass__auxiliary_head(dass__builder *b, const dass_arch *arch, dass_val x, int32_t number)
{
    const dass_pool_attr pool = {.k = 5, .stride = arch->form == DASS_FORM_CIFAR ? 3 : 2};
    const dass__conv_shape first = {.kind = DASS_KIND_CONV, .channels = 128, .k = 1, .stride = 1};
    const dass__conv_shape second = {.kind = DASS_KIND_CONV, .channels = 768, .k = 2, .stride = 1};
    if (failed(b) || !auxiliary_fits(b, arch, b->g->vals[x].dim[2], number, pool))
        return 0;
    b->auxiliary = true;
    dass_val y = relu(b, x, "auxiliary");
    if (!failed(b))
        y = dass_avg_pool(b->g, y, pool);
    y = dass__conv(b, y, "auxiliary.conv1", first);
    y = dass__bn(b, y, "auxiliary.bn1", true, DASS_ACT_RELU);
    y = dass__conv(b, y, "auxiliary.conv2", second);
    y = dass__bn(b, y, "auxiliary.bn2", true, DASS_ACT_RELU);
    y = dass__linear(b, y, "auxiliary.classifier", arch->classes);
    b->auxiliary = false;
    return y;
}

dass_val dass__add(dass__builder *b, dass_val a, dass_val c)
{
    if (failed(b))
        return 0;
    const dass_term terms[2] = {{.x = a, .index = -1}, {.x = c, .index = -1}};
    return dass_wsum(b->g, 0, terms, 2);
}
