/* The primitives of the search space as one table: a word and a function that builds it. Not a
 * place for cells or networks. Adding a primitive is an enum entry in space.h and a row here.
 * Structure: DARTS (Liu et al. 2019).
 */
#include <string.h>

#include "model.h"

/* What an edge hands to its primitive. */
typedef struct edge {
    dass_val x;       /* (N,C',H,W): the source state */
    const char *name; /* parameter prefix, the primitive's word included */
    int32_t channels; /* C of the cell */
    int32_t stride;
} edge;

/* Pools keep C; the supernet evens out their scale with a batch norm that the discrete network
 * drops. */
static dass_val after_pool(dass__builder *b, dass_val pooled, const edge *e)
{
    return b->relaxed
               ? dass__bn(b, pooled, dass__name_of("%s.bn", e->name).text, false, DASS_ACT_NONE)
               : pooled;
}

static dass_val build_max_pool(dass__builder *b, const edge *e)
{
    dass_graph_scope(b->g, e->name);
    return after_pool(
        b, dass_max_pool(b->g, e->x, (dass_pool_attr){.k = 3, .stride = e->stride, .pad = 1}), e);
}

static dass_val build_avg_pool(dass__builder *b, const edge *e)
{
    dass_graph_scope(b->g, e->name);
    return after_pool(
        b, dass_avg_pool(b->g, e->x, (dass_pool_attr){.k = 3, .stride = e->stride, .pad = 1}), e);
}

static dass_val build_skip(dass__builder *b, const edge *e)
{
    return e->stride == 1 ? e->x : dass__factorized_reduce(b, e->x, e->name, e->channels);
}

/* relu, depthwise k x k, pointwise, batch norm: one separable half, `i` in its names (0 = none). */
static dass_val separable(dass__builder *b, dass_val x, const edge *e, int i, int32_t k,
                          int32_t stride, int32_t dil)
{
    char digit[2] = {0};
    if (i)
        digit[0] = (char)('0' + i);
    const int32_t c = dass__channels(b, x);
    const dass__conv_shape dw = {.kind = DASS_KIND_DEPTHWISE,
                                 .channels = c,
                                 .k = k,
                                 .stride = stride,
                                 .pad = dil * (k / 2),
                                 .dil = dil,
                                 .groups = c};
    const dass__conv_shape pw = {.kind = DASS_KIND_CONV,
                                 .channels = e->channels,
                                 .k = 1,
                                 .stride = 1};
    dass_graph_scope(b->g, e->name);
    const dass_val r = dass_relu(b->g, x, DASS_ACT_RELU);
    const dass_val z = dass__conv(b, r, dass__name_of("%s.dw%s", e->name, digit).text, dw);
    const dass_val y = dass__conv(b, z, dass__name_of("%s.pw%s", e->name, digit).text, pw);
    return dass__bn(b, y, dass__name_of("%s.bn%s", e->name, digit).text, !b->relaxed,
                    DASS_ACT_NONE);
}

static dass_val build_sep(dass__builder *b, const edge *e, int32_t k)
{
    const dass_val half = separable(b, e->x, e, 1, k, e->stride, 1);
    return separable(b, half, e, 2, k, 1, 1);
}

static dass_val build_sep_3(dass__builder *b, const edge *e)
{
    return build_sep(b, e, 3);
}
static dass_val build_sep_5(dass__builder *b, const edge *e)
{
    return build_sep(b, e, 5);
}
static dass_val build_dil_3(dass__builder *b, const edge *e)
{
    return separable(b, e->x, e, 0, 3, e->stride, 2);
}
static dass_val build_dil_5(dass__builder *b, const edge *e)
{
    return separable(b, e->x, e, 0, 5, e->stride, 2);
}

typedef struct primitive {
    const char *name;
    dass_val (*build)(dass__builder *b, const edge *e); /* NULL: contributes nothing */
} primitive;

static const primitive primitives[DASS_N_PRIMS] = {
    [DASS_PRIM_NONE] = {"none", NULL},
    [DASS_PRIM_MAX_POOL_3] = {"max_pool_3x3", build_max_pool},
    [DASS_PRIM_AVG_POOL_3] = {"avg_pool_3x3", build_avg_pool},
    [DASS_PRIM_SKIP] = {"skip_connect", build_skip},
    [DASS_PRIM_SEP_3] = {"sep_conv_3x3", build_sep_3},
    [DASS_PRIM_SEP_5] = {"sep_conv_5x5", build_sep_5},
    [DASS_PRIM_DIL_3] = {"dil_conv_3x3", build_dil_3},
    [DASS_PRIM_DIL_5] = {"dil_conv_5x5", build_dil_5},
};

const char *dass_primitive_name(dass_primitive p)
{
    return (unsigned)p < DASS_N_PRIMS ? primitives[p].name : "?";
}

dass_status dass_primitive_parse(const char *word, dass_primitive *out)
{
    const char *words[DASS_N_PRIMS];
    for (int i = 0; i < DASS_N_PRIMS; i++) {
        words[i] = primitives[i].name;
        if (strcmp(words[i], word) != 0)
            continue;
        *out = (dass_primitive)i;
        return DASS_OK;
    }
    const char *near = dass_nearest(word, words, DASS_N_PRIMS);
    return DASS_FAIL(DASS_FORMAT, "'%.40s' is not an operation of the search space%s%s%s", word,
                     near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

int32_t dass_n_edges(int32_t n_nodes)
{
    return n_nodes * (n_nodes + 3) / 2;
}

bool dass__primitive_build(dass__builder *b, dass_primitive p, dass_val x, const char *name,
                           int32_t channels, int32_t stride, dass_term *out)
{
    DASS_ASSERT((unsigned)p < DASS_N_PRIMS);
    if (!primitives[p].build)
        return false;
    const dass__name full = dass__name_of("%s.%s", name, primitives[p].name);
    const edge e = {.x = x, .name = full.text, .channels = channels, .stride = stride};
    *out = (dass_term){.x = primitives[p].build(b, &e), .index = -1};
    return true;
}
