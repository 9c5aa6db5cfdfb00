/* Fixed networks that searched ones are compared with: MobileNet-v2 (Sandler et al. 2018) and
 * ResNet-18 (He et al. 2016). The CIFAR forms are those of kuangliu's pytorch-cifar, the ImageNet
 * forms torchvision's, since published figures are of these. Invariant: parameter and multiply
 * counts equal the originals'.
 */
#include <string.h>

#include "model.h"

static const struct {
    const char *name;
    dass_net_kind kind;
} zoo[] = {
    {"mobilenet_v2", DASS_NET_MOBILENET_V2},
    {"resnet18", DASS_NET_RESNET18},
};
enum { N_ZOO = sizeof zoo / sizeof zoo[0] };

dass_status dass__zoo_find(const char *name, dass_net_kind *out)
{
    const char *names[N_ZOO];
    for (int i = 0; i < N_ZOO; i++) {
        names[i] = zoo[i].name;
        if (strcmp(zoo[i].name, name) != 0)
            continue;
        *out = zoo[i].kind;
        return DASS_OK;
    }
    const char *near = dass_nearest(name, names, N_ZOO);
    return DASS_FAIL(DASS_CONFIG, "net.name '%s' is not in the zoo (mobilenet_v2, resnet18)%s%s%s",
                     name, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

/* Convolution then batch norm: PREFIX.convI, PREFIX.bnI; i 0 leaves the number away. */
static dass_val conv_bn(dass__builder *b, dass_val x, const char *prefix, int i, dass__conv_shape a,
                        dass_act act)
{
    char digit[2] = {0};
    if (i)
        digit[0] = (char)('0' + i);
    const dass_val y = dass__conv(b, x, dass__name_of("%s.conv%s", prefix, digit).text, a);
    return dass__bn(b, y, dass__name_of("%s.bn%s", prefix, digit).text, true, act);
}

static dass__conv_shape square(int32_t channels, int32_t k, int32_t stride)
{
    return (dass__conv_shape){
        .kind = DASS_KIND_CONV, .channels = channels, .k = k, .stride = stride, .pad = k / 2};
}

/* Inverted residual. The CIFAR form expands also by 1 and projects the shortcut where channels
 * change at stride 1; the ImageNet form leaves both away. */
static dass_val inverted_residual(dass__builder *b, const dass_arch *arch, dass_val x,
                                  const char *name, int32_t expansion, int32_t channels,
                                  int32_t stride)
{
    const bool cifar = arch->form == DASS_FORM_CIFAR;
    const dass_act act = cifar ? DASS_ACT_RELU : DASS_ACT_RELU6;
    const int32_t in = dass__channels(b, x);
    const int32_t hidden = expansion * in;
    dass__conv_shape depthwise = square(hidden, 3, stride);
    depthwise.kind = DASS_KIND_DEPTHWISE;
    depthwise.groups = hidden;
    dass_val y = x;
    if (cifar || expansion != 1)
        y = conv_bn(b, y, name, 1, square(hidden, 1, 1), act);
    y = conv_bn(b, y, name, 2, depthwise, act);
    y = conv_bn(b, y, name, 3, square(channels, 1, 1), DASS_ACT_NONE);
    if (stride != 1 || (!cifar && in != channels))
        return y;
    if (in == channels)
        return dass__add(b, y, x);
    const dass__name shortcut = dass__name_of("%s.shortcut", name);
    return dass__add(b, y, conv_bn(b, x, shortcut.text, 0, square(channels, 1, 1), DASS_ACT_NONE));
}

dass_val dass__mobilenet_v2(dass__builder *b, const dass_arch *arch, dass_val x)
{
    static const struct {
        int32_t expansion, channels, n_blocks, stride;
    } stages[] = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                  {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};
    const bool cifar = arch->form == DASS_FORM_CIFAR;
    const dass_act act = cifar ? DASS_ACT_RELU : DASS_ACT_RELU6;
    dass__conv_shape stem = square(32, 3, cifar ? 1 : 2);
    stem.kind = DASS_KIND_STEM;
    dass_val y = conv_bn(b, x, "stem", 0, stem, act);
    int block = 0;
    for (size_t s = 0; s < sizeof stages / sizeof stages[0]; s++) {
        /* small images: the second stage keeps its size, as the stem does */
        const int32_t first = cifar && s == 1 ? 1 : stages[s].stride;
        for (int32_t i = 0; i < stages[s].n_blocks; i++)
            y = inverted_residual(b, arch, y, dass__name_of("blocks.%d", block++).text,
                                  stages[s].expansion, stages[s].channels, i ? 1 : first);
    }
    y = conv_bn(b, y, "head", 0, square(1280, 1, 1), act);
    return dass__classifier(b, y, arch->classes);
}

static dass_val basic_block(dass__builder *b, dass_val x, const char *name, int32_t channels,
                            int32_t stride)
{
    dass_val shortcut = x;
    dass_val y = conv_bn(b, x, name, 1, square(channels, 3, stride), DASS_ACT_RELU);
    y = conv_bn(b, y, name, 2, square(channels, 3, 1), DASS_ACT_NONE);
    if (stride != 1 || dass__channels(b, x) != channels)
        shortcut = conv_bn(b, x, dass__name_of("%s.shortcut", name).text, 0,
                           square(channels, 1, stride), DASS_ACT_NONE);
    if (b->g->status != DASS_OK)
        return 0;
    dass_graph_scope(b->g, name);
    return dass_relu(b->g, dass__add(b, y, shortcut), DASS_ACT_RELU);
}

dass_val dass__resnet18(dass__builder *b, const dass_arch *arch, dass_val x)
{
    const bool cifar = arch->form == DASS_FORM_CIFAR;
    dass__conv_shape stem = square(64, cifar ? 3 : 7, cifar ? 1 : 2);
    stem.kind = DASS_KIND_STEM;
    dass_val y = conv_bn(b, x, "stem", 0, stem, DASS_ACT_RELU);
    if (!cifar && b->g->status == DASS_OK)
        y = dass_max_pool(b->g, y, (dass_pool_attr){.k = 3, .stride = 2, .pad = 1});
    for (int i = 0; i < 8; i++) {
        const int32_t channels = 64 << (i / 2);
        y = basic_block(b, y, dass__name_of("blocks.%d", i).text, channels,
                        i % 2 == 0 && i ? 2 : 1);
    }
    return dass__classifier(b, y, arch->classes);
}
