/* Networks as graphs: stems, the one cell builder that serves supernet and discrete network, and
 * the choice between cells and zoo. No training, no phases. Invariants: parameters are mentioned in
 * forward order under names that depend only on the architecture, and the supernet and a discrete
 * network differ in what sits on an edge, nothing else.
 *
 *     stem -> s0, s1 ;  cell i: (s0, s1) <- (s1, cell(s0, s1)) ;  classifier(s1)
 */
#include <string.h>

#include "model.h"

/* What a cell needs beside its inputs. */
typedef struct cell {
    const dass_arch *arch;
    int32_t number;        /* position in the network, for names */
    int32_t channels;      /* C of the nodes */
    bool reduction;        /* edges from the cell's inputs have stride 2 */
    bool reduction_before; /* the previous cell halved the image, so input 0 must be halved too */
    dass_val p;            /* supernet: softmaxed alphas (2 n_edges, 8); 0 otherwise */
} cell;

/* none leaves no term behind */
_Static_assert((DASS_MAX_NODES + 1) * (DASS_N_PRIMS - 1) <= DASS_MAX_TERMS, "a node sums all its edges");

/* ---- configuration ------------------------------------------------------------------------- */

static dass_status check_size(const char *key, int32_t value, int32_t lo, int32_t hi)
{
    if (value >= lo && value <= hi)
        return DASS_OK;
    return DASS_FAIL(DASS_CONFIG, "%s is %d, must be %d to %d", key, (int)value, (int)lo, (int)hi);
}

static bool reduces(const dass_arch *arch, int32_t number)
{
    return number == arch->layers / 3 || number == 2 * arch->layers / 3;
}

static dass_status check_cells(const dass_arch *arch)
{
    DASS_TRY(check_size("net.channels", arch->channels, 2, DASS_MAX_CHANNELS));
    DASS_TRY(check_size("net.layers", arch->layers, 1, DASS_MAX_LAYERS));
    DASS_TRY(check_size("net.nodes", arch->nodes, 1, DASS_MAX_NODES));
    if (arch->kind == DASS_NET_CELLS && arch->genotype.n_nodes != arch->nodes)
        return DASS_FAIL(DASS_CONFIG, "net.nodes is %d and the genotype has %d nodes",
                         (int)arch->nodes, (int)arch->genotype.n_nodes);
    int32_t halvings = arch->form == DASS_FORM_IMAGENET ? 3 : 0;
    for (int32_t i = 0; i < arch->layers; i++)
        halvings += reduces(arch, i);
    /* the two halves of a factorized reduction must be equally large */
    if (arch->image % (1 << halvings) != 0)
        return DASS_FAIL(DASS_CONFIG,
                         "net.image is %d and the network halves it %d times; use a multiple of %d",
                         (int)arch->image, (int)halvings, 1 << halvings);
    return DASS_OK;
}

dass_status dass__arch_check(const dass_arch *arch)
{
    DASS_TRY(check_size("net.classes", arch->classes, 2, DASS_MAX_CLASSES));
    DASS_TRY(check_size("net.in_channels", arch->in_channels, 1, DASS_MAX_IMAGE_CHANNELS));
    DASS_TRY(check_size("net.image", arch->image, DASS_MIN_IMAGE, DASS_MAX_IMAGE));
    if (arch->form != DASS_FORM_CIFAR && arch->form != DASS_FORM_IMAGENET)
        return DASS_FAIL(DASS_CONFIG, "net.form %d does not exist", (int)arch->form);
    if (arch->kind == DASS_NET_SUPERNET || arch->kind == DASS_NET_CELLS)
        return check_cells(arch);
    if (arch->kind == DASS_NET_MOBILENET_V2 || arch->kind == DASS_NET_RESNET18)
        return DASS_OK;
    return DASS_FAIL(DASS_CONFIG, "network kind %d does not exist", (int)arch->kind);
}

/* Settings are 64-bit; a value outside int32 is outside every range, and clamping keeps it so. */
static int32_t narrow(int64_t v)
{
    return v > INT32_MAX ? INT32_MAX : v < INT32_MIN ? INT32_MIN : (int32_t)v;
}

dass_status dass_arch_from_config(const dass_config *c, dass_arch *out)
{
    dass_arch a = {
        .kind = DASS_NET_SUPERNET,
        .channels = narrow(c->net_channels),
        .layers = narrow(c->net_layers),
        .nodes = narrow(c->net_nodes),
        .classes = narrow(c->net_classes),
        .in_channels = narrow(c->net_in_channels),
        .image = narrow(c->net_image),
    };
    if (strcmp(c->net_form, "cifar") == 0)
        a.form = DASS_FORM_CIFAR;
    else if (strcmp(c->net_form, "imagenet") == 0)
        a.form = DASS_FORM_IMAGENET;
    else
        return DASS_FAIL(DASS_CONFIG, "%s: net.form '%s' is not one of cifar, imagenet",
                         c->origin[DASS_KEY_net_form], c->net_form);
    if (c->net_name[0] && c->net_genotype[0])
        return DASS_FAIL(
            DASS_CONFIG,
            "net.name '%s' (%s) and net.genotype '%s' (%s) exclude each other; clear one",
            c->net_name, c->origin[DASS_KEY_net_name], c->net_genotype,
            c->origin[DASS_KEY_net_genotype]);
    if (c->net_name[0])
        DASS_TRY(dass__zoo_find(c->net_name, &a.kind));
    if (c->net_genotype[0]) {
        DASS_TRY(dass_genotype_read(c->net_genotype, &a.genotype));
        a.kind = DASS_NET_CELLS;
        if (strcmp(c->origin[DASS_KEY_net_nodes], "default") == 0)
            a.nodes = a.genotype.n_nodes;
    }
    DASS_TRY(dass__arch_check(&a));
    *out = a;
    return DASS_OK;
}

/* ---- cells --------------------------------------------------------------------------------- */

/* All operations of the supernet on the edge src -> node. Returns how many terms were added. */
static uint32_t mixed_edge(dass__builder *b, const cell *c, dass_val x, int32_t row,
                           const char *name, int32_t stride, dass_term *terms)
{
    uint32_t n = 0;
    for (int32_t op = 0; op < DASS_N_PRIMS; op++) {
        if (!dass__primitive_build(b, (dass_primitive)op, x, name, c->channels, stride, &terms[n]))
            continue;
        terms[n++].index = row * DASS_N_PRIMS + op;
    }
    return n;
}

/* A discrete edge's term behind drop-path, in training. Identities never drop, as published: a
 * node keeps a way through. */
static void drop_path(dass__builder *b, dass_primitive op, int32_t stride, const char *name,
                      dass_term *term)
{
    if (!b->extras->drop_path || (op == DASS_PRIM_SKIP && stride == 1) || b->g->status != DASS_OK)
        return;
    dass_graph_scope(b->g, name);
    term->x = dass_drop_path(b->g, term->x, b->extras->samples, b->extras->step,
                             dass_name_hash(name));
}

/* Terms of node i (0: the first intermediate one) from the states before it. */
static uint32_t node_terms(dass__builder *b, const cell *c, const dass_val *states, int32_t i,
                           dass_term *terms)
{
    uint32_t n = 0;
    const dass_gene *genes =
        (c->reduction ? c->arch->genotype.reduce : c->arch->genotype.normal) + 2 * i;
    const int32_t first_row = (c->reduction ? dass_n_edges(c->arch->nodes) : 0) + dass_n_edges(i);
    const int32_t n_edges = b->relaxed ? i + 2 : 2;
    for (int32_t e = 0; e < n_edges; e++) {
        const int32_t src = b->relaxed ? e : genes[e].src;
        const int32_t stride = c->reduction && src < 2 ? 2 : 1;
        const dass__name name =
            dass__name_of("cells.%d.n%d.e%d", (int)c->number, (int)i + 2, (int)src);
        if (b->relaxed) {
            n += mixed_edge(b, c, states[src], first_row + src, name.text, stride, terms + n);
        } else if (dass__primitive_build(b, genes[e].op, states[src], name.text, c->channels,
                                         stride, &terms[n])) {
            drop_path(b, genes[e].op, stride, name.text, &terms[n]);
            n++;
        }
    }
    return n;
}

/* s0, s1: outputs of the two cells before. -> (N, n_concat C, H', W') */
static dass_val build_cell(dass__builder *b, const cell *c, dass_val s0, dass_val s1)
{
    const dass_arch *a = c->arch;
    const dass__name pre0 = dass__name_of("cells.%d.pre0", (int)c->number);
    const dass__name pre1 = dass__name_of("cells.%d.pre1", (int)c->number);
    dass_val states[DASS_MAX_NODES + 2];
    states[0] = c->reduction_before ? dass__factorized_reduce(b, s0, pre0.text, c->channels)
                                    : dass__relu_conv_bn(b, s0, pre0.text, c->channels);
    states[1] = dass__relu_conv_bn(b, s1, pre1.text, c->channels);
    for (int32_t i = 0; i < a->nodes; i++) {
        dass_term terms[(DASS_MAX_NODES + 1) * DASS_N_PRIMS];
        const uint32_t n = node_terms(b, c, states, i, terms);
        if (b->g->status != DASS_OK)
            return 0;
        dass_graph_scope(b->g, dass__name_of("cells.%d.n%d", (int)c->number, (int)i + 2).text);
        states[i + 2] = dass_wsum(b->g, c->p, terms, n);
    }
    dass_val outputs[DASS_MAX_NODES];
    int32_t n_concat = a->nodes;
    for (int32_t i = 0; i < a->nodes; i++)
        outputs[i] = states[i + 2];
    if (!b->relaxed) {
        n_concat = c->reduction ? a->genotype.n_reduce_concat : a->genotype.n_normal_concat;
        const int32_t *nodes = c->reduction ? a->genotype.reduce_concat : a->genotype.normal_concat;
        for (int32_t i = 0; i < n_concat; i++)
            outputs[i] = states[nodes[i]];
    }
    dass_graph_scope(b->g, dass__name_of("cells.%d", (int)c->number).text);
    return n_concat == 1 ? outputs[0] : dass_concat(b->g, outputs, (uint32_t)n_concat);
}

/* The alphas as one matrix, normal rows first. */
static dass_val build_alphas(dass__builder *b, int32_t n_nodes)
{
    static const char *const names[] = {"alpha.normal", "alpha.reduce"};
    const int32_t n_edges = dass_n_edges(n_nodes);
    uint32_t index[2];
    for (int i = 0; i < 2 && b->g->status == DASS_OK; i++) {
        const dass_param desc = {.name = names[i],
                                 .group = DASS_GROUP_ALPHA,
                                 .kind = DASS_KIND_OTHER,
                                 .init = DASS_INIT_ALPHA,
                                 .rank = 2,
                                 .dim = {n_edges, DASS_N_PRIMS, 1, 1}};
        b->g->status = dass_store_param(b->s, &desc, &index[i]);
    }
    if (b->g->status != DASS_OK)
        return 0;
    const int64_t offset = dass_store_get(b->s, index[0])->offset;
    DASS_ASSERT(dass_store_get(b->s, index[1])->offset == offset + (int64_t)n_edges * DASS_N_PRIMS);
    const int32_t dim[4] = {2 * n_edges, DASS_N_PRIMS, 1, 1};
    dass_graph_scope(b->g, "alpha");
    return dass_softmax(b->g,
                        dass_ref(b->g, "alpha", DASS_BUF_ALPHA, offset, DASS_LAYOUT_FLAT, 2, dim));
}

/* The stem's batch norms are affine in the supernet too, as published. */
static void build_stem(dass__builder *b, const dass_arch *a, dass_val x, dass_val *s0, dass_val *s1)
{
    dass__conv_shape conv = {
        .kind = DASS_KIND_STEM, .channels = 3 * a->channels, .k = 3, .stride = 1, .pad = 1};
    if (a->form == DASS_FORM_CIFAR) {
        const dass_val y = dass__conv(b, x, "stem.conv", conv);
        *s0 = *s1 = dass__bn(b, y, "stem.bn", true, DASS_ACT_NONE);
        return;
    }
    conv.stride = 2;
    conv.channels = a->channels / 2;
    dass_val y = dass__conv(b, x, "stem0.conv1", conv);
    y = dass__bn(b, y, "stem0.bn1", true, DASS_ACT_RELU);
    conv.kind = DASS_KIND_CONV;
    conv.channels = a->channels;
    y = dass__conv(b, y, "stem0.conv2", conv);
    *s0 = dass__bn(b, y, "stem0.bn2", true, DASS_ACT_NONE);
    if (b->g->status != DASS_OK)
        return;
    dass_graph_scope(b->g, "stem1");
    y = dass__conv(b, dass_relu(b->g, *s0, DASS_ACT_RELU), "stem1.conv", conv);
    *s1 = dass__bn(b, y, "stem1.bn", true, DASS_ACT_NONE);
}

static dass_val build_cells(dass__builder *b, const dass_arch *a, dass_val x, dass_val *aux_logits)
{
    dass_val s0 = 0;
    dass_val s1 = 0;
    dass_val tap = 0; /* where the auxiliary head sits */
    const int32_t tapped = 2 * a->layers / 3;
    cell c = {.arch = a,
              .channels = a->channels,
              .reduction_before = a->form == DASS_FORM_IMAGENET};
    if (b->relaxed)
        c.p = build_alphas(b, a->nodes);
    build_stem(b, a, x, &s0, &s1);
    for (c.number = 0; c.number < a->layers; c.number++) {
        c.reduction = reduces(a, c.number);
        if (c.reduction)
            c.channels *= 2;
        const dass_val out = build_cell(b, &c, s0, s1);
        s0 = s1;
        s1 = out;
        if (c.number == tapped)
            tap = out;
        c.reduction_before = c.reduction;
    }
    const dass_val logits = dass__classifier(b, s1, a->classes);
    if (b->extras->auxiliary)
        *aux_logits = dass__auxiliary_head(b, a, tap, tapped);
    return logits;
}

static dass_status check_extras(const dass_arch *arch, const dass_net_extras *extras)
{
    if (!extras || arch->kind == DASS_NET_CELLS)
        return DASS_OK;
    if (extras->drop_path)
        return DASS_FAIL(DASS_CONFIG, "drop-path works on derived cell networks; give a "
                                      "net.genotype or leave train.drop_path at 0");
    if (extras->auxiliary)
        return DASS_FAIL(DASS_CONFIG, "the auxiliary head works on derived cell networks; give a "
                                      "net.genotype or leave train.auxiliary at 0");
    return DASS_OK;
}

dass_status dass_net_build(dass_graph *g, dass_store *s, const dass_arch *arch,
                           dass_weights weights, dass_norm norm, dass_val x,
                           const dass_net_extras *extras, dass_val *logits, dass_val *aux_logits)
{
    static const dass_net_extras none;
    dass_val aux = 0;
    *logits = 0;
    if (aux_logits)
        *aux_logits = 0;
    DASS_TRY(g->status);
    DASS_TRY(dass__arch_check(arch));
    DASS_TRY(check_extras(arch, extras));
    const int32_t *d = g->vals[x].dim;
    if (d[1] != arch->in_channels || d[2] != arch->image || d[3] != arch->image)
        return DASS_FAIL(DASS_ARG,
                         "network input is (N,%d,%d,%d), the architecture wants (N,%d,%d,%d)",
                         (int)d[1], (int)d[2], (int)d[3], (int)arch->in_channels, (int)arch->image,
                         (int)arch->image);
    dass__builder b = {.g = g,
                       .s = s,
                       .weights = weights,
                       .norm = norm,
                       .relaxed = arch->kind == DASS_NET_SUPERNET,
                       .extras = extras ? extras : &none};
    switch (arch->kind) {
    case DASS_NET_SUPERNET:
    case DASS_NET_CELLS:
        *logits = build_cells(&b, arch, x, &aux);
        break;
    case DASS_NET_MOBILENET_V2:
        *logits = dass__mobilenet_v2(&b, arch, x);
        break;
    case DASS_NET_RESNET18:
        *logits = dass__resnet18(&b, arch, x);
        break;
    }
    dass_graph_scope(g, NULL);
    if (aux_logits)
        *aux_logits = aux;
    return g->status;
}
