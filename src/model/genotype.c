/* Genotypes: a strict JSON reader, a printer, derivation from alphas, random ones. Pure functions;
 * the text is the interface between commands. Invariant: what is accepted prints and parses back to
 * the same genotype, and can be built.
 */
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "dass/file.h"
#include "model.h"

#define GENOTYPE_BYTES_MAX 65536

/* ---- reading ------------------------------------------------------------------------------- */

/* Length of an array under `key`, checked against [lo, hi]. */
static dass_status array_of(const char *name, const json_t *root, const char *key, size_t lo,
                            size_t hi, const json_t **out)
{
    const json_t *a = json_object_get(root, key);
    if (!json_is_array(a))
        return DASS_FAIL(DASS_FORMAT, "%s: \"%s\" must be a list", name, key);
    if (json_array_size(a) < lo || json_array_size(a) > hi)
        return DASS_FAIL(DASS_FORMAT, "%s: \"%s\" has %zu entries, must have %zu to %zu", name, key,
                         json_array_size(a), lo, hi);
    *out = a;
    return DASS_OK;
}

static dass_status read_genes(const char *name, const json_t *root, const char *key,
                              dass_gene *genes, size_t *n_genes)
{
    const json_t *list = NULL;
    DASS_TRY(array_of(name, root, key, 2, 2 * DASS_MAX_NODES, &list));
    *n_genes = json_array_size(list);
    for (size_t i = 0; i < *n_genes; i++) {
        const json_t *pair = json_array_get(list, i);
        const json_t *op = json_array_get(pair, 0);
        const json_t *src = json_array_get(pair, 1);
        if (!json_is_array(pair) || json_array_size(pair) != 2 || !json_is_string(op) ||
            !json_is_integer(src))
            return DASS_FAIL(DASS_FORMAT, "%s: %s[%zu] must be [\"operation\", source]", name, key,
                             i);
        const int node = (int)(i / 2) + 2;
        const json_int_t from = json_integer_value(src);
        if (from < 0 || from >= node)
            return DASS_FAIL(DASS_FORMAT,
                             "%s: %s[%zu] has source %lld; node %d reads states 0 to %d", name, key,
                             i, (long long)from, node, node - 1);
        if (dass_primitive_parse(json_string_value(op), &genes[i].op) != DASS_OK) {
            char why[256]; /* the text is about to be replaced by one that says where */
            (void)snprintf(why, sizeof why, "%s", dass_error_text());
            return DASS_FAIL(DASS_FORMAT, "%s: %s[%zu]: %s", name, key, i, why);
        }
        if (genes[i].op == DASS_PRIM_NONE)
            return DASS_FAIL(DASS_FORMAT, "%s: %s[%zu]: 'none' cannot stand in a genotype", name,
                             key, i);
        genes[i].src = (int32_t)from;
        if (i % 2 && genes[i].src == genes[i - 1].src)
            return DASS_FAIL(DASS_FORMAT, "%s: %s[%zu]: node %d reads state %lld twice", name, key,
                             i, node, (long long)from);
    }
    if (*n_genes % 2)
        return DASS_FAIL(DASS_FORMAT, "%s: \"%s\" has %zu entries; each node needs two", name, key,
                         *n_genes);
    return DASS_OK;
}

static dass_status read_concat(const char *name, const json_t *root, const char *key,
                               int32_t n_nodes, int32_t *nodes, int32_t *n)
{
    const json_t *list = NULL;
    DASS_TRY(array_of(name, root, key, 1, (size_t)n_nodes, &list));
    *n = (int32_t)json_array_size(list);
    for (int32_t i = 0; i < *n; i++) {
        const json_t *entry = json_array_get(list, (size_t)i);
        const json_int_t node = json_is_integer(entry) ? json_integer_value(entry) : -1;
        if (node < 2 || node > n_nodes + 1)
            return DASS_FAIL(DASS_FORMAT, "%s: %s[%d] must be a node, 2 to %d", name, key, (int)i,
                             (int)n_nodes + 1);
        for (int32_t k = 0; k < i; k++)
            if (nodes[k] == (int32_t)node)
                return DASS_FAIL(DASS_FORMAT, "%s: %s[%d] repeats node %d", name, key, (int)i,
                                 (int)node);
        nodes[i] = (int32_t)node;
    }
    return DASS_OK;
}

static dass_status check_keys(const char *name, json_t *root)
{
    static const char *const keys[] = {"version", "normal", "normal_concat", "reduce",
                                       "reduce_concat"};
    const size_t n = sizeof keys / sizeof keys[0];
    if (!json_is_object(root))
        return DASS_FAIL(DASS_FORMAT, "%s: a genotype is a JSON object", name);
    for (void *it = json_object_iter(root); it; it = json_object_iter_next(root, it)) {
        const char *key = json_object_iter_key(it);
        size_t i = 0;
        while (i < n && strcmp(keys[i], key) != 0)
            i++;
        if (i < n)
            continue;
        const char *near = dass_nearest(key, keys, n);
        return DASS_FAIL(DASS_FORMAT, "%s: unknown key \"%.40s\"%s%s%s", name, key,
                         near ? " (did you mean \"" : "", near ? near : "", near ? "\"?)" : "");
    }
    for (size_t i = 0; i < n; i++)
        if (!json_object_get(root, keys[i]))
            return DASS_FAIL(DASS_FORMAT, "%s: key \"%s\" is missing", name, keys[i]);
    const json_t *version = json_object_get(root, "version");
    if (!json_is_integer(version) || json_integer_value(version) != 1)
        return DASS_FAIL(DASS_FORMAT,
                         "%s: \"version\" must be 1, the only schema this program knows", name);
    return DASS_OK;
}

static dass_status read_root(const char *name, json_t *root, dass_genotype *out)
{
    dass_genotype g = {0};
    size_t n_normal = 0;
    size_t n_reduce = 0;
    DASS_TRY(check_keys(name, root));
    DASS_TRY(read_genes(name, root, "normal", g.normal, &n_normal));
    DASS_TRY(read_genes(name, root, "reduce", g.reduce, &n_reduce));
    if (n_normal != n_reduce)
        return DASS_FAIL(
            DASS_FORMAT,
            "%s: \"normal\" has %zu entries and \"reduce\" %zu; both cells have the same nodes",
            name, n_normal, n_reduce);
    g.n_nodes = (int32_t)(n_normal / 2);
    DASS_TRY(
        read_concat(name, root, "normal_concat", g.n_nodes, g.normal_concat, &g.n_normal_concat));
    DASS_TRY(
        read_concat(name, root, "reduce_concat", g.n_nodes, g.reduce_concat, &g.n_reduce_concat));
    *out = g;
    return DASS_OK;
}

dass_status dass_genotype_parse(const char *name, const char *text, size_t n_bytes,
                                dass_genotype *out)
{
    if (n_bytes > GENOTYPE_BYTES_MAX)
        return DASS_FAIL(DASS_FORMAT, "%s: %zu bytes; a genotype has at most %d", name, n_bytes,
                         GENOTYPE_BYTES_MAX);
    json_error_t error;
    json_t *root = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return DASS_FAIL(DASS_FORMAT, "%s:%d:%d: %s", name, error.line, error.column, error.text);
    const dass_status st = read_root(name, root, out);
    json_decref(root);
    return st;
}

dass_status dass_genotype_read(const char *path, dass_genotype *out)
{
    void *text = NULL;
    size_t n = 0;
    DASS_TRY(dass_file_read(path, GENOTYPE_BYTES_MAX, "genotype file", &text, &n));
    const dass_status st = dass_genotype_parse(path, text, n, out);
    dass_mem_free(text);
    return st;
}

/* ---- writing ------------------------------------------------------------------------------- */

typedef struct text {
    char *at, *end;
} text;

static void put(text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(text *t, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(t->at, (size_t)(t->end - t->at), fmt, args);
    va_end(args);
    DASS_ASSERT(n >= 0 && n < t->end - t->at);
    t->at += n;
}

static void put_genes(text *t, const char *key, const dass_gene *genes, int32_t n)
{
    put(t, ",\"%s\":[", key);
    for (int32_t i = 0; i < n; i++)
        put(t, "%s[\"%s\",%d]", i ? "," : "", dass_primitive_name(genes[i].op), (int)genes[i].src);
    put(t, "]");
}

static void put_concat(text *t, const char *key, const int32_t *nodes, int32_t n)
{
    put(t, ",\"%s\":[", key);
    for (int32_t i = 0; i < n; i++)
        put(t, "%s%d", i ? "," : "", (int)nodes[i]);
    put(t, "]");
}

char *dass_genotype_print(const dass_genotype *g, dass_arena *mem)
{
    char line[2048]; /* 32 genes of at most 19 characters, 16 nodes, keys */
    text t = {line, line + sizeof line};
    put(&t, "{\"version\":1");
    put_genes(&t, "normal", g->normal, 2 * g->n_nodes);
    put_concat(&t, "normal_concat", g->normal_concat, g->n_normal_concat);
    put_genes(&t, "reduce", g->reduce, 2 * g->n_nodes);
    put_concat(&t, "reduce_concat", g->reduce_concat, g->n_reduce_concat);
    put(&t, "}");
    return dass_arena_text(mem, line, (size_t)(t.at - line));
}

/* ---- making -------------------------------------------------------------------------------- */

static void concat_all(dass_genotype *g)
{
    g->n_normal_concat = g->n_reduce_concat = g->n_nodes;
    for (int32_t i = 0; i < g->n_nodes; i++)
        g->normal_concat[i] = g->reduce_concat[i] = i + 2;
}

/* Best op other than none on an edge and its softmax weight; the first of equals. */
static dass_gene best_op(const double *row, int32_t src, double *weight)
{
    double largest = row[0];
    int best = -1;
    for (int k = 0; k < DASS_N_PRIMS; k++) {
        largest = fmax(largest, row[k]);
        if (k != DASS_PRIM_NONE && (best < 0 || row[k] > row[best]))
            best = k;
    }
    double sum = 0.0;
    for (int k = 0; k < DASS_N_PRIMS; k++)
        sum += exp(row[k] - largest);
    *weight = exp(row[best] - largest) / sum;
    return (dass_gene){.op = (dass_primitive)best, .src = src};
}

static void derive_cell(const double *alpha, int32_t n_nodes, dass_gene *genes)
{
    for (int32_t node = 0; node < n_nodes; node++) {
        double weight[2] = {-1.0, -1.0};
        dass_gene *top = genes + 2 * node;
        for (int32_t src = 0; src < node + 2; src++, alpha += DASS_N_PRIMS) {
            double w = 0.0;
            const dass_gene gene = best_op(alpha, src, &w);
            if (w > weight[0]) {
                weight[1] = weight[0];
                top[1] = top[0];
                weight[0] = w;
                top[0] = gene;
            } else if (w > weight[1]) {
                weight[1] = w;
                top[1] = gene;
            }
        }
    }
}

static dass_status check_nodes(int32_t n_nodes)
{
    if (n_nodes >= 1 && n_nodes <= DASS_MAX_NODES)
        return DASS_OK;
    return DASS_FAIL(DASS_ARG, "a cell of %d nodes; must have 1 to %d", (int)n_nodes,
                     DASS_MAX_NODES);
}

dass_status dass_genotype_derive(const double *alpha_normal, const double *alpha_reduce,
                                 int32_t n_nodes, dass_genotype *out)
{
    DASS_TRY(check_nodes(n_nodes));
    const int32_t n = dass_n_edges(n_nodes) * DASS_N_PRIMS;
    for (int32_t i = 0; i < n; i++)
        if (!isfinite(alpha_normal[i]) || !isfinite(alpha_reduce[i]))
            return DASS_FAIL(
                DASS_NUMERIC,
                "alpha of edge %d, operation %s is not finite; the search has diverged",
                (int)(i / DASS_N_PRIMS), dass_primitive_name((dass_primitive)(i % DASS_N_PRIMS)));
    dass_genotype g = {.n_nodes = n_nodes};
    derive_cell(alpha_normal, n_nodes, g.normal);
    derive_cell(alpha_reduce, n_nodes, g.reduce);
    concat_all(&g);
    *out = g;
    return DASS_OK;
}

static void random_cell(dass_rng *rng, int32_t n_nodes, dass_gene *genes)
{
    for (int32_t node = 0; node < n_nodes; node++) {
        const int32_t n_src = node + 2;
        int32_t a = (int32_t)dass_rng_below(rng, (uint32_t)n_src);
        int32_t b = (int32_t)dass_rng_below(rng, (uint32_t)n_src - 1);
        if (b >= a)
            b++;
        const int32_t src[2] = {a < b ? a : b, a < b ? b : a};
        for (int k = 0; k < 2; k++)
            genes[2 * node + k] =
                (dass_gene){.op = (dass_primitive)(1 + dass_rng_below(rng, DASS_N_PRIMS - 1)),
                            .src = src[k]};
    }
}

dass_genotype dass_genotype_random(uint64_t seed, int32_t n_nodes)
{
    DASS_ASSERT(n_nodes >= 1 && n_nodes <= DASS_MAX_NODES);
    dass_rng rng = dass_rng_make(seed, DASS_RNG_SEARCH, dass_name_hash("genotype"), 0);
    dass_genotype g = {.n_nodes = n_nodes};
    random_cell(&rng, n_nodes, g.normal);
    random_cell(&rng, n_nodes, g.reduce);
    concat_all(&g);
    return g;
}
