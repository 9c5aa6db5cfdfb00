/* The search space and the networks made of it: genotype files, derivation, and sizes of every
 * network against published counts, to the unit.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dass/net.h"

#define N_ALPHAS (14 * DASS_N_PRIMS)

static const char *const genotype_names[] = {"dass_99",      "dass_95",        "dass_90",
                                             "dass_one_for", "darts_orig_120", "darts_v2"};
enum { N_GENOTYPES = sizeof genotype_names / sizeof genotype_names[0] };

static dass_genotype read_genotype(const char *name)
{
    const char *root = getenv("DASS_TEST_ROOT");
    char path[1024];
    dass_genotype g;
    (void)snprintf(path, sizeof path, "%s/configs/genotypes/%s.json", root ? root : ".", name);
    if (dass_genotype_read(path, &g) != DASS_OK)
        fail_msg("%s", dass_error_text());
    return g;
}

static void assert_same_genotype(const dass_genotype *a, const dass_genotype *b)
{
    dass_arena *mem = NULL;
    assert_int_equal(dass_arena_make("test", &mem), DASS_OK);
    assert_string_equal(dass_genotype_print(a, mem), dass_genotype_print(b, mem));
    assert_memory_equal(a, b, sizeof *a);
    dass_arena_free(mem);
}

/* ---- primitives ---------------------------------------------------------------------------- */

static void primitives_have_the_published_words(void **state)
{
    (void)state;
    static const char *const words[] = {"none",         "max_pool_3x3", "avg_pool_3x3",
                                        "skip_connect", "sep_conv_3x3", "sep_conv_5x5",
                                        "dil_conv_3x3", "dil_conv_5x5"};
    for (int i = 0; i < DASS_N_PRIMS; i++) {
        dass_primitive p = DASS_N_PRIMS;
        assert_string_equal(dass_primitive_name((dass_primitive)i), words[i]);
        assert_int_equal(dass_primitive_parse(words[i], &p), DASS_OK);
        assert_int_equal(p, i);
    }
    dass_primitive p;
    assert_int_equal(dass_primitive_parse("sep_conv_3x4", &p), DASS_FORMAT);
    assert_non_null(strstr(dass_error_text(), "sep_conv_3x3"));
    assert_int_equal(dass_n_edges(4), 14);
    assert_int_equal(dass_n_edges(1), 2);
}

/* ---- genotypes ----------------------------------------------------------------------------- */

static void files_round_trip(void **state)
{
    (void)state;
    dass_arena *mem = NULL;
    assert_int_equal(dass_arena_make("test", &mem), DASS_OK);
    for (int i = 0; i < N_GENOTYPES; i++) {
        const dass_genotype g = read_genotype(genotype_names[i]);
        dass_genotype back;
        const char *text = dass_genotype_print(&g, mem);
        assert_null(strchr(text, '\n'));
        assert_int_equal(dass_genotype_parse("print", text, strlen(text), &back), DASS_OK);
        assert_same_genotype(&g, &back);
    }
    dass_arena_free(mem);
}

static void print_is_the_schema(void **state)
{
    (void)state;
    const dass_genotype g = read_genotype("dass_99");
    dass_arena *mem = NULL;
    assert_int_equal(dass_arena_make("test", &mem), DASS_OK);
    assert_string_equal(
        dass_genotype_print(&g, mem),
        "{\"version\":1,"
        "\"normal\":[[\"avg_pool_3x3\",0],[\"skip_connect\",1],[\"dil_conv_5x5\",1],[\"skip_"
        "connect\",2],"
        "[\"avg_pool_3x3\",2],[\"skip_connect\",1],[\"skip_connect\",4],[\"skip_connect\",3]],"
        "\"normal_concat\":[2,3,4,5],"
        "\"reduce\":[[\"max_pool_3x3\",1],[\"sep_conv_3x3\",0],[\"max_pool_3x3\",1],[\"dil_conv_"
        "3x3\",2],"
        "[\"skip_connect\",0],[\"dil_conv_3x3\",2],[\"max_pool_3x3\",1],[\"skip_connect\",4]],"
        "\"reduce_concat\":[2,3,4,5]}");
    dass_arena_free(mem);
}

/* Alphas that a genotype is derived from: per node its first gene strongest, its second next; other
 * edges carry a huge "none", which must not help them, and small weights elsewhere. */
static void alphas_for(const dass_gene *genes, double *alpha)
{
    for (int i = 0; i < N_ALPHAS; i++)
        alpha[i] = 1e-3 * (double)(i * 7 % 11);
    for (int node = 0; node < 4; node++) {
        double *rows = alpha + (size_t)(dass_n_edges(node) * DASS_N_PRIMS);
        for (int src = 0; src < node + 2; src++)
            rows[src * DASS_N_PRIMS + DASS_PRIM_NONE] = 4.0;
        for (int k = 0; k < 2; k++) {
            const dass_gene gene = genes[2 * node + k];
            rows[gene.src * DASS_N_PRIMS + DASS_PRIM_NONE] = 0.5;
            rows[gene.src * DASS_N_PRIMS + (int)gene.op] = 3.0 - k;
        }
    }
}

static void derive_finds_the_published_cells(void **state)
{
    (void)state;
    for (int i = 0; i < N_GENOTYPES; i++) {
        const dass_genotype want = read_genotype(genotype_names[i]);
        double normal[N_ALPHAS];
        double reduce[N_ALPHAS];
        dass_genotype got;
        alphas_for(want.normal, normal);
        alphas_for(want.reduce, reduce);
        assert_int_equal(dass_genotype_derive(normal, reduce, 4, &got), DASS_OK);
        assert_same_genotype(&got, &want);
    }
}

static void derive_breaks_ties_downwards(void **state)
{
    (void)state;
    double alpha[N_ALPHAS] = {0};
    dass_genotype g;
    assert_int_equal(dass_genotype_derive(alpha, alpha, 4, &g), DASS_OK);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(g.normal[i].op, DASS_PRIM_MAX_POOL_3);
        assert_int_equal(g.normal[i].src, i % 2);
    }
    /* a large none lowers the weight of every operation of its edge */
    alpha[DASS_PRIM_NONE] = 1.0;
    assert_int_equal(dass_genotype_derive(alpha, alpha, 4, &g), DASS_OK);
    assert_int_equal(g.reduce[0].src, 1);
    assert_int_equal(g.reduce[1].src, 0);
    /* large values do not overflow */
    alpha[DASS_PRIM_SEP_5] = 1e6;
    assert_int_equal(dass_genotype_derive(alpha, alpha, 4, &g), DASS_OK);
    assert_int_equal(g.normal[0].op, DASS_PRIM_SEP_5);
    alpha[3] = (double)NAN;
    assert_int_equal(dass_genotype_derive(alpha, alpha, 4, &g), DASS_NUMERIC);
    assert_int_equal(dass_genotype_derive(alpha, alpha, 9, &g), DASS_ARG);
}

static void random_genotypes_are_valid_and_uniform(void **state)
{
    (void)state;
    enum { N = 1000 };
    int ops[DASS_N_PRIMS] = {0};
    int pairs[6] = {0}; /* of node 4: (0,1) (0,2) (1,2) (0,3) (1,3) (2,3) */
    dass_arena *mem = NULL;
    assert_int_equal(dass_arena_make("test", &mem), DASS_OK);
    for (uint64_t seed = 0; seed < N; seed++) {
        const dass_genotype g = dass_genotype_random(seed, 4);
        const char *text = dass_genotype_print(&g, mem);
        dass_genotype back;
        if (dass_genotype_parse("random", text, strlen(text), &back) != DASS_OK)
            fail_msg("%s", dass_error_text());
        assert_memory_equal(&g, &back, sizeof g);
        for (int i = 0; i < 8; i++)
            ops[g.normal[i].op]++, ops[g.reduce[i].op]++;
        const int a = g.normal[4].src;
        const int b = g.normal[5].src;
        pairs[a + (b - 1) * b / 2]++;
    }
    assert_int_equal(ops[DASS_PRIM_NONE], 0);
    for (int i = 1; i < DASS_N_PRIMS; i++)
        assert_in_range(ops[i], 2285 - 240, 2285 + 240); /* 5.4 sigma */
    for (int i = 0; i < 6; i++)
        assert_in_range(pairs[i], 167 - 60, 167 + 60); /* 5 sigma */
    const dass_genotype a = dass_genotype_random(7, 4);
    const dass_genotype b = dass_genotype_random(7, 4);
    assert_memory_equal(&a, &b, sizeof a);
    dass_arena_free(mem);
}

#define HEAD \
    "{\"version\":1,\"normal\":[[\"skip_connect\",0],[\"skip_connect\",1]],\"normal_concat\":[2],"
#define GOOD HEAD "\"reduce\":[[\"skip_connect\",0],[\"skip_connect\",1]],\"reduce_concat\":[2]}"

static void malformed_genotypes_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "t.json:1:"},
        {"[]", "JSON object"},
        {"{\"version\":1}", "\"normal\" is missing"},
        {GOOD "x", "end of file expected"},
        {"{\"version\":2,\"normal\":1,\"normal_concat\":1,\"reduce\":1,\"reduce_concat\":1}",
         "\"version\" must be 1"},
        {"{\"version\":1,\"version\":1}", "uplicate"},
        {HEAD "\"reduse\":[],\"reduce_concat\":[2]}", "did you mean \"reduce\"?"},
        {HEAD "\"reduce\":7,\"reduce_concat\":[2]}", "\"reduce\" must be a list"},
        {HEAD "\"reduce\":[],\"reduce_concat\":[2]}", "0 entries"},
        {HEAD "\"reduce\":[[\"skip_connect\",0],[\"skip_connect\",1],[\"skip_connect\",1]],"
              "\"reduce_concat\":[2]}",
         "each node needs two"},
        {HEAD "\"reduce\":[[\"skip_connect\",0],[\"skip_connect\",2]],\"reduce_concat\":[2]}",
         "node 2 reads states 0 to 1"},
        {HEAD "\"reduce\":[[\"skip_connect\",0],[\"skip_connect\",-1]],\"reduce_concat\":[2]}",
         "reduce[1] has source -1"},
        {HEAD
         "\"reduce\":[[\"skip_connect\",0],[\"skip_connect\",4294967296]],\"reduce_concat\":[2]}",
         "has source"},
        {HEAD "\"reduce\":[[\"skip_connect\",0],[\"skip_connect\",0]],\"reduce_concat\":[2]}",
         "reads state 0 twice"},
        {HEAD "\"reduce\":[[\"skip_connect\",0],[\"skip_conect\",1]],\"reduce_concat\":[2]}",
         "did you mean 'skip_connect'?"},
        {HEAD "\"reduce\":[[\"skip_connect\",0],[\"none\",1]],\"reduce_concat\":[2]}",
         "'none' cannot stand"},
        {HEAD "\"reduce\":[[\"skip_connect\",0],[\"skip_connect\",1.0]],\"reduce_concat\":[2]}",
         "[\"operation\", source]"},
        {HEAD "\"reduce\":[[\"skip_connect\",0],\"skip_connect\"],\"reduce_concat\":[2]}",
         "[\"operation\", source]"},
        {HEAD "\"reduce\":[[\"skip_connect\",0],[\"skip_connect\",1,2]],\"reduce_concat\":[2]}",
         "[\"operation\", source]"},
        {HEAD "\"reduce\":[[\"skip_connect\",0],[\"skip_connect\",1]],\"reduce_concat\":[]}",
         "0 entries"},
        {HEAD "\"reduce\":[[\"skip_connect\",0],[\"skip_connect\",1]],\"reduce_concat\":[1]}",
         "must be a node, 2 to 2"},
        {HEAD "\"reduce\":[[\"skip_connect\",0],[\"skip_connect\",1]],\"reduce_concat\":[2,2]}",
         "2 entries"},
        {HEAD "\"reduce\":[[\"skip_connect\",0],[\"skip_connect\",1],[\"skip_connect\",0],[\"skip_"
              "connect\",1]],"
              "\"reduce_concat\":[2]}",
         "both cells have the same nodes"},
    };
    dass_genotype g;
    assert_int_equal(dass_genotype_parse("good", GOOD, strlen(GOOD), &g), DASS_OK);
    assert_int_equal(g.n_nodes, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(dass_genotype_parse("t.json", cases[i].text, strlen(cases[i].text), &g),
                         DASS_FORMAT);
        if (!strstr(dass_error_text(), "t.json") || !strstr(dass_error_text(), cases[i].says))
            fail_msg("case %zu: '%s' does not say '%s'", i, dass_error_text(), cases[i].says);
    }
    assert_int_equal(dass_genotype_parse("t.json", GOOD, strlen(GOOD) - 1, &g),
                     DASS_FORMAT); /* cut short */
    assert_int_equal(dass_genotype_read("/nonexistent/g.json", &g), DASS_IO);
}

/* ---- sizes --------------------------------------------------------------------------------- */

typedef struct size_case {
    const char *label, *genotype; /* genotype NULL: fixed network or supernet */
    dass_net_kind kind;
    dass_form form;
    int32_t channels, layers;
    int64_t params, weights, macs, kept;
} size_case;

static const size_case size_cases[] = {
    {"Tiny", "dass_99", DASS_NET_CELLS, DASS_FORM_CIFAR, 30, 16, 988510, 979860, 158036160, 9805},
    {"Small", "dass_99", DASS_NET_CELLS, DASS_FORM_CIFAR, 36, 20, 1713790, 1701468, 275103360,
     17045},
    {"Medium", "dass_99", DASS_NET_CELLS, DASS_FORM_CIFAR, 86, 12, 5379052, 5359950, 969972672,
     53621},
    {"Large", "dass_99", DASS_NET_CELLS, DASS_FORM_CIFAR, 108, 14, 10568782, 10540908, 1739297664,
     105440},
    {"95 % cell", "dass_95", DASS_NET_CELLS, DASS_FORM_CIFAR, 36, 20, 3962134, 3913524, 611800704,
     39299},
    {"90 % cell", "dass_90", DASS_NET_CELLS, DASS_FORM_CIFAR, 36, 20, 3936430, 3889548, 623772288,
     39021},
    {"DARTS-V2", "darts_v2", DASS_NET_CELLS, DASS_FORM_CIFAR, 36, 20, 3349342, 3308940, 528359040,
     33251},
    {"DARTS_ORIG_120", "darts_orig_120", DASS_NET_CELLS, DASS_FORM_CIFAR, 36, 20, 2118142, 2098476,
     339661440, 21057},
    {"ResNet-18", NULL, DASS_NET_RESNET18, DASS_FORM_CIFAR, 0, 0, 11173962, 11164352, 555422720,
     111653},
    {"MobileNet-v2", NULL, DASS_NET_MOBILENET_V2, DASS_FORM_CIFAR, 0, 0, 2296922, 2261824, 91154944,
     22638},
    {"ImageNet MobileNet-v2", NULL, DASS_NET_MOBILENET_V2, DASS_FORM_IMAGENET, 0, 0, 3504872,
     3469760, 300774272, 34715},
    {"ImageNet ResNet-18", NULL, DASS_NET_RESNET18, DASS_FORM_IMAGENET, 0, 0, 11689512, 11678912,
     1814073344, 116798},
    {"ImageNet DASS", "dass_99", DASS_NET_CELLS, DASS_FORM_IMAGENET, 48, 14, 2900704, 2887368,
     312737280, 28914},
    {"supernet", NULL, DASS_NET_SUPERNET, DASS_FORM_CIFAR, 16, 8, 1930618, 1930512, 300255744,
     19701},
};
enum { N_SIZES = sizeof size_cases / sizeof size_cases[0] };

static dass_arch arch_of(const size_case *c)
{
    const bool imagenet = c->form == DASS_FORM_IMAGENET;
    dass_arch a = {.kind = c->kind,
                   .form = c->form,
                   .channels = c->channels,
                   .layers = c->layers,
                   .nodes = 4,
                   .classes = imagenet ? 1000 : 10,
                   .in_channels = 3,
                   .image = imagenet ? 224 : 32};
    if (c->genotype)
        a.genotype = read_genotype(c->genotype);
    return a;
}

/* The network alone on a graph, its parameters in the store. */
static void build(const dass_arch *a, dass_store *s, dass_weights weights, dass_norm norm,
                  dass_graph **g)
{
    const int32_t dim[4] = {2, a->in_channels, a->image, a->image};
    dass_val logits = 0;
    assert_int_equal(dass_graph_make(DASS_F32, g), DASS_OK);
    const dass_val x = dass_ref(*g, "x", DASS_BUF_IMAGES, 0, DASS_LAYOUT_NHWC, 4, dim);
    if (dass_net_build(*g, s, a, weights, norm, x, NULL, &logits, NULL) != DASS_OK)
        fail_msg("%s", dass_error_text());
    assert_int_equal((*g)->vals[logits].dim[0], 2);
    assert_int_equal((*g)->vals[logits].dim[1], a->classes);
    assert_int_equal((*g)->vals[logits].dim[2], 1);
}

static int64_t kept_of(const dass_store *s, dass_allocation policy, double density)
{
    dass_arena *mem = NULL;
    dass_segment *seg = NULL;
    int64_t n = 0;
    int64_t kept = 0;
    assert_int_equal(dass_arena_make("test", &mem), DASS_OK);
    if (dass_density_allocate(s, policy, density, NULL, mem, &seg, &n) != DASS_OK)
        fail_msg("%s", dass_error_text());
    for (int64_t i = 0; i < n; i++)
        kept += seg[i].kept;
    dass_arena_free(mem);
    return kept;
}

static void networks_have_the_published_sizes(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZES; i++) {
        const size_case *c = &size_cases[i];
        const dass_arch a = arch_of(c);
        dass_net_count n;
        dass_store *s = NULL;
        dass_graph *g = NULL;
        if (dass_net_measure(&a, DASS_LOWER_ALL, &n) != DASS_OK)
            fail_msg("%s: %s", c->label, dass_error_text());
        assert_int_equal(dass_store_make(DASS_F32, &s), DASS_OK);
        build(&a, s, DASS_WEIGHTS_DENSE, DASS_NORM_BATCH, &g);
        const int64_t kept = kept_of(s, DASS_ALLOC_UNIFORM, 0.01);
        if (n.params != c->params || n.weights != c->weights || n.macs_per_image != c->macs ||
            kept != c->kept)
            fail_msg("%s: params %lld weights %lld macs %lld kept %lld", c->label,
                     (long long)n.params, (long long)n.weights, (long long)n.macs_per_image,
                     (long long)kept);
        assert_int_equal(n.unpruned, n.params - n.weights);
        assert_int_equal(n.alphas, c->kind == DASS_NET_SUPERNET ? 224 : 0);
        assert_int_equal(dass_store_count(s, DASS_GROUP_W), c->weights);
        assert_int_equal(kept_of(s, DASS_ALLOC_ERK, 0.01), c->kept);
        dass_graph_free(g);
        dass_store_free(s);
    }
}

static void other_densities_keep_the_published_counts(void **state)
{
    (void)state;
    static const struct {
        int which;
        double thousands_10, thousands_5;
    } cases[] = {{0, 98.0, 49.0}, {1, 170, 85.1}, {2, 536, 268}, {3, 1054, 527}, {4, 392, 196},
                 {5, 389, 195},   {6, 331, 166},  {7, 210, 105}, {8, 1116, 558}, {9, 226, 113}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const dass_arch a = arch_of(&size_cases[cases[i].which]);
        dass_store *s = NULL;
        dass_graph *g = NULL;
        assert_int_equal(dass_store_make(DASS_F32, &s), DASS_OK);
        build(&a, s, DASS_WEIGHTS_DENSE, DASS_NORM_BATCH, &g);
        /* published to three or four digits */
        assert_true(
            fabs((double)kept_of(s, DASS_ALLOC_UNIFORM, 0.1) / 1e3 - cases[i].thousands_10) <= 0.5);
        assert_true(
            fabs((double)kept_of(s, DASS_ALLOC_UNIFORM, 0.05) / 1e3 - cases[i].thousands_5) <= 0.5);
        dass_graph_free(g);
        dass_store_free(s);
    }
}

static void lowering_leaves_fewer_nodes(void **state)
{
    (void)state;
    const dass_arch a = arch_of(&size_cases[N_SIZES - 1]);
    dass_net_count plain;
    dass_net_count lowered;
    assert_int_equal(dass_net_measure(&a, 0, &plain), DASS_OK);
    assert_int_equal(dass_net_measure(&a, DASS_LOWER_ALL, &lowered), DASS_OK);
    assert_int_equal(plain.macs_per_image, lowered.macs_per_image);
    assert_true(2 * lowered.nodes_forward < plain.nodes_forward);
}

/* ---- structure ----------------------------------------------------------------------------- */

static const dass_param *find_param(const dass_store *s, const char *name)
{
    for (uint32_t i = 0; i < dass_store_n_params(s); i++)
        if (strcmp(dass_store_get(s, i)->name, name) == 0)
            return dass_store_get(s, i);
    fail_msg("no parameter %s", name);
    return NULL;
}

static void parameters_are_named_and_laid_out(void **state)
{
    (void)state;
    const dass_arch a = arch_of(&size_cases[N_SIZES - 1]);
    dass_store *s = NULL;
    dass_graph *g = NULL;
    assert_int_equal(dass_store_make(DASS_F32, &s), DASS_OK);
    build(&a, s, DASS_WEIGHTS_DENSE, DASS_NORM_BATCH, &g);
    const dass_param *stem = find_param(s, "stem.conv");
    const dass_param *dw = find_param(s, "cells.3.n4.e1.sep_conv_3x3.dw1");
    const dass_param *pw = find_param(s, "cells.3.n4.e1.sep_conv_3x3.pw2");
    assert_int_equal(stem->kind, DASS_KIND_STEM);
    assert_int_equal(stem->offset, 0);
    assert_int_equal(stem->dim[0], 48);
    assert_int_equal(dw->kind, DASS_KIND_DEPTHWISE);
    assert_int_equal(dw->dim[0], 32); /* one reduction before cell 3 */
    assert_int_equal(dw->dim[1], 1);
    assert_int_equal(dw->dim[2], 3);
    assert_int_equal(pw->kind, DASS_KIND_CONV);
    assert_int_equal(pw->dim[1], 32);
    assert_int_equal(find_param(s, "cells.2.n2.e0.skip_connect.conv2")->dim[0], 16);
    assert_int_equal(find_param(s, "classifier.weight")->kind, DASS_KIND_LINEAR);
    assert_int_equal(find_param(s, "classifier.bias")->group, DASS_GROUP_AF);
    assert_int_equal(find_param(s, "alpha.reduce")->offset, 112);
    assert_int_equal(dass_store_count(s, DASS_GROUP_STAT), 0); /* the supernet tracks nothing */
    int64_t end[DASS_N_GROUPS] = {0};
    for (uint32_t i = 0; i < dass_store_n_params(s); i++) {
        const dass_param *p = dass_store_get(s, i);
        assert_int_equal(p->offset, end[p->group]);
        end[p->group] += p->count;
    }
    dass_graph_free(g);
    dass_store_free(s);
}

/* Every graph over a store finds the parameters of the first, whatever its weights and norm. */
static void graphs_share_one_layout(void **state)
{
    (void)state;
    const dass_norm norms[] = {DASS_NORM_BATCH, DASS_NORM_BATCH_TRACK, DASS_NORM_RUNNING};
    for (int i = 0; i < N_SIZES; i++) {
        const dass_arch a = arch_of(&size_cases[i]);
        dass_store *s = NULL;
        uint32_t n_params = 0;
        assert_int_equal(dass_store_make(DASS_F32, &s), DASS_OK);
        for (int k = 0; k < 6; k++) {
            dass_graph *g = NULL;
            build(&a, s, k % 2 ? DASS_WEIGHTS_MASKED : DASS_WEIGHTS_DENSE, norms[k / 2], &g);
            if (k == 0)
                n_params = dass_store_n_params(s);
            assert_int_equal(dass_store_n_params(s), n_params);
            for (dass_val v = 1; v < g->n_vals; v++)
                assert_int_not_equal(g->vals[v].buf, k % 2 ? DASS_BUF_W : DASS_BUF_MASKED);
            dass_graph_free(g);
        }
        dass_store_free(s);
    }
}

static uint32_t count_ops(const dass_graph *g, dass_op op)
{
    uint32_t n = 0;
    for (dass_node i = 1; i < g->n_nodes; i++)
        n += g->nodes[i].op == op;
    return n;
}

static void norms_differ_as_documented(void **state)
{
    (void)state;
    const dass_arch cells = arch_of(&size_cases[6]);
    dass_store *s = NULL;
    dass_graph *track = NULL;
    dass_graph *running = NULL;
    assert_int_equal(dass_store_make(DASS_F32, &s), DASS_OK);
    build(&cells, s, DASS_WEIGHTS_DENSE, DASS_NORM_BATCH_TRACK, &track);
    build(&cells, s, DASS_WEIGHTS_DENSE, DASS_NORM_RUNNING, &running);
    assert_int_equal(count_ops(track, DASS_OP_BN_INFER), 0);
    assert_int_equal(count_ops(track, DASS_OP_BN_RUNNING), count_ops(track, DASS_OP_BN_STATS));
    assert_int_equal(count_ops(running, DASS_OP_BN_STATS), 0);
    assert_int_equal(count_ops(running, DASS_OP_BN_INFER), count_ops(track, DASS_OP_BN_STATS));
    dass_graph_free(track);
    dass_graph_free(running);
    dass_store_free(s);

    const dass_arch supernet = arch_of(&size_cases[N_SIZES - 1]);
    assert_int_equal(dass_store_make(DASS_F32, &s), DASS_OK);
    build(&supernet, s, DASS_WEIGHTS_DENSE, DASS_NORM_BATCH_TRACK, &track);
    build(&supernet, s, DASS_WEIGHTS_DENSE, DASS_NORM_RUNNING, &running);
    assert_int_equal(count_ops(track, DASS_OP_BN_RUNNING), 0);
    assert_int_equal(count_ops(running, DASS_OP_BN_INFER), 0);
    dass_graph_free(track);
    dass_graph_free(running);
    dass_store_free(s);
}

/* Mixed operations read their own alpha: 8 cells of 14 edges, 7 operations each, rows of the cell's
 * kind. */
static void mixed_operations_use_their_alphas(void **state)
{
    (void)state;
    const dass_arch a = arch_of(&size_cases[N_SIZES - 1]);
    dass_store *s = NULL;
    dass_graph *g = NULL;
    int uses[224] = {0};
    assert_int_equal(dass_store_make(DASS_F32, &s), DASS_OK);
    build(&a, s, DASS_WEIGHTS_DENSE, DASS_NORM_BATCH, &g);
    for (dass_node n = 1; n < g->n_nodes; n++) {
        if (g->nodes[n].op != DASS_OP_WSUM)
            continue;
        assert_int_not_equal(dass_node_in(g, n)[0], 0);
        for (int32_t k = 0; k < g->nodes[n].attr.sum.n_terms; k++)
            uses[g->nodes[n].attr.sum.index[k]]++;
    }
    for (int i = 0; i < 224; i++) {
        const int want = i % 8 == DASS_PRIM_NONE ? 0 : i < 112 ? 6 : 2;
        assert_int_equal(uses[i], want);
    }
    dass_graph_free(g);
    dass_store_free(s);
}

static void impossible_networks_are_refused(void **state)
{
    (void)state;
    dass_config c;
    dass_arch a;
    dass_net_count n;
    dass_config_defaults(&c);
    assert_int_equal(dass_arch_from_config(&c, &a), DASS_OK);
    assert_int_equal(a.kind, DASS_NET_SUPERNET);
    assert_int_equal(a.channels, 16);
    (void)snprintf(c.net_name, sizeof c.net_name, "resnet_18");
    assert_int_equal(dass_arch_from_config(&c, &a), DASS_CONFIG);
    assert_non_null(strstr(dass_error_text(), "resnet18"));
    (void)snprintf(c.net_name, sizeof c.net_name, "resnet18");
    assert_int_equal(dass_arch_from_config(&c, &a), DASS_OK);
    assert_int_equal(a.kind, DASS_NET_RESNET18);
    (void)snprintf(c.net_genotype, sizeof c.net_genotype, "x.json");
    assert_int_equal(dass_arch_from_config(&c, &a), DASS_CONFIG); /* both */
    c.net_name[0] = 0;
    assert_int_equal(dass_arch_from_config(&c, &a), DASS_IO);
    c.net_genotype[0] = 0;
    c.net_image = 30; /* halved twice */
    assert_int_equal(dass_arch_from_config(&c, &a), DASS_CONFIG);
    assert_non_null(strstr(dass_error_text(), "multiple of 4"));
    c.net_image = 32;
    c.net_layers = (int64_t)1 << 40;
    assert_int_equal(dass_arch_from_config(&c, &a), DASS_CONFIG);
    a = arch_of(&size_cases[0]);
    a.nodes = 3;
    assert_int_equal(dass_net_measure(&a, 0, &n), DASS_CONFIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(primitives_have_the_published_words),
        cmocka_unit_test(files_round_trip),
        cmocka_unit_test(print_is_the_schema),
        cmocka_unit_test(derive_finds_the_published_cells),
        cmocka_unit_test(derive_breaks_ties_downwards),
        cmocka_unit_test(random_genotypes_are_valid_and_uniform),
        cmocka_unit_test(malformed_genotypes_are_refused),
        cmocka_unit_test(networks_have_the_published_sizes),
        cmocka_unit_test(other_densities_keep_the_published_counts),
        cmocka_unit_test(lowering_leaves_fewer_nodes),
        cmocka_unit_test(parameters_are_named_and_laid_out),
        cmocka_unit_test(graphs_share_one_layout),
        cmocka_unit_test(norms_differ_as_documented),
        cmocka_unit_test(mixed_operations_use_their_alphas),
        cmocka_unit_test(impossible_networks_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
