/* The graph object: growth, references to buffers, hash-consing, dead-code removal. Shapes and formulas of single ops
 * are in ops_forward.c and ops_backward.c. Invariant: inputs of a node have smaller definition numbers than the node,
 * so node order is always a valid order of execution, and reads of a buffer see the version that was current when they
 * were built.
 */
#include "graph_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dass__blob {
    struct dass__blob *next;
    size_t bytes;
    uint64_t hash;
    _Alignas(16) unsigned char data[];
};

static uint64_t hash_bytes(const void *data, size_t n, uint64_t h)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++) {
        h ^= p[i];
        h *= 1099511628211u;
    }
    return h;
}

static const uint64_t hash_start = 14695981039346656037u;

/* FNV's low bits are weak for tables of a power of two: finish with a multiply-shift. */
static uint32_t hash_slot(uint64_t h, uint32_t n_slots)
{
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 40) & (n_slots - 1);
}

dass_status dass_graph_make(dass_dtype real, dass_graph **out)
{
    return dass_graph_make_stored(real, real, out);
}

dass_status dass_graph_make_stored(dass_dtype real, dass_dtype stored, dass_graph **out)
{
    *out = NULL;
    if (real != DASS_F32 && real != DASS_F64)
        return DASS_FAIL(DASS_ARG, "graph: real type %d is neither f32 nor f64", (int)real);
    if (stored != real && (stored != DASS_BF16 || real != DASS_F32))
        return DASS_FAIL(DASS_ARG, "graph: activations stored as type %d, real numbers are %s; only bf16 beside f32",
                         (int)stored, real == DASS_F64 ? "f64" : "f32");
    dass_arena *arena = NULL;
    DASS_TRY(dass_arena_make("graph", &arena));
    dass_status st = DASS_OK;
    void *mem = NULL;
    void *priv = NULL;
    DASS_TRY_TO(dass_mem_alloc(sizeof(dass_graph), "graph", &mem), st, out);
    DASS_TRY_TO(dass_mem_alloc(sizeof(struct dass__graph_private), "graph", &priv), st, out);
    dass_graph *g = mem;
    g->real = real;
    g->stored = stored;
    g->priv = priv;
    g->priv->arena = arena;
    g->n_vals = 1; /* value 0 and node 0 are "none" */
    g->n_nodes = 1;
    const uint32_t start = 1024;
    g->priv->cap_vals = g->priv->cap_nodes = g->priv->cap_args = start;
    g->priv->n_cons_slots = g->priv->n_ref_slots = start;
    void *p = NULL;
    DASS_TRY_TO(dass_mem_alloc(start * sizeof(dass_value), "graph values", &p), st, parts);
    g->vals = p;
    DASS_TRY_TO(dass_mem_alloc(start * sizeof(dass_node_rec), "graph nodes", &p), st, parts);
    g->nodes = p;
    DASS_TRY_TO(dass_mem_alloc(start * sizeof(dass_val), "graph arguments", &p), st, parts);
    g->args = p;
    DASS_TRY_TO(dass_mem_alloc(start * sizeof(uint32_t), "graph index", &p), st, parts);
    g->priv->cons = p;
    DASS_TRY_TO(dass_mem_alloc(start * sizeof(uint32_t), "graph index", &p), st, parts);
    g->priv->refs = p;
    g->vals[0].name = "none";
    *out = g;
    return DASS_OK;
parts:
    dass_graph_free(g);
    return st;
out:
    dass_mem_free(mem);
    dass_arena_free(arena);
    return st;
}

void dass_graph_free(dass_graph *g)
{
    if (!g)
        return;
    dass_mem_free(g->vals);
    dass_mem_free(g->nodes);
    dass_mem_free(g->args);
    dass_mem_free(g->priv->cons);
    dass_mem_free(g->priv->refs);
    dass_arena_free(g->priv->arena);
    dass_mem_free(g->priv);
    dass_mem_free(g);
}

dass_val dass__graph_fail(dass_graph *g, dass_status st, const char *fmt, ...)
{
    if (g->status == DASS_OK) {
        char text[512];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        g->status = DASS_FAIL(st, "%s%s%s", g->priv->scope ? g->priv->scope : "", g->priv->scope ? ": " : "", text);
    }
    return 0;
}

const void *dass__graph_intern(dass_graph *g, const void *data, size_t bytes)
{
    const uint64_t h = hash_bytes(data, bytes, hash_start);
    struct dass__blob **head = &g->priv->blobs[hash_slot(h, 1024)];
    for (struct dass__blob *b = *head; b; b = b->next)
        if (b->hash == h && b->bytes == bytes && memcmp(b->data, data, bytes) == 0)
            return b->data;
    struct dass__blob *b = dass_arena_alloc(g->priv->arena, sizeof *b + bytes);
    if (!b) {
        g->status = g->status != DASS_OK ? g->status : DASS_NOMEM;
        return NULL;
    }
    b->bytes = bytes;
    b->hash = h;
    memcpy(b->data, data, bytes);
    b->next = *head;
    *head = b;
    return b->data;
}

void dass_graph_scope(dass_graph *g, const char *prefix)
{
    g->priv->scope = prefix ? dass__graph_intern(g, prefix, strlen(prefix) + 1) : NULL;
}

/* Make room for n more entries of `size` bytes behind *array. */
static bool grow(dass_graph *g, void **array, uint32_t used, uint32_t n, uint32_t *cap, size_t size)
{
    if ((uint64_t)used + n <= *cap)
        return true;
    uint64_t want = *cap;
    while (want < (uint64_t)used + n)
        want *= 2;
    if (want > UINT32_MAX / 2) {
        dass__graph_fail(g, DASS_NOMEM, "graph: more than %u entries", UINT32_MAX / 2);
        return false;
    }
    const dass_status st = dass_mem_grow(*cap * size, want * size, "graph", array);
    if (st != DASS_OK) {
        g->status = g->status != DASS_OK ? g->status : st;
        return false;
    }
    *cap = (uint32_t)want;
    return true;
}

dass_val dass__val_add(dass_graph *g, const dass_value *v)
{
    void *p = g->vals;
    const bool ok = grow(g, &p, g->n_vals, 1, &g->priv->cap_vals, sizeof(dass_value));
    g->vals = p;
    if (!ok)
        return 0;
    g->vals[g->n_vals] = *v;
    return g->n_vals++;
}

/* ---- hash-consing ------------------------------------------------------------------------------------------ */

static uint64_t node_hash(dass_op op, const dass_attr *attr, const dass_val *in, uint32_t n_in)
{
    uint64_t h = hash_bytes(&op, sizeof op, hash_start);
    h = hash_bytes(attr, dass__attr_bytes(op), h);
    return hash_bytes(in, n_in * sizeof *in, h);
}

static bool node_equal(const dass_graph *g, dass_node n, dass_op op, const dass_attr *attr, const dass_val *in,
                       uint32_t n_in, uint32_t n_out)
{
    const dass_node_rec *r = &g->nodes[n];
    return r->op == op && r->n_in == n_in && r->n_out == n_out && memcmp(&r->attr, attr, dass__attr_bytes(op)) == 0 &&
           (n_in == 0 || memcmp(dass_node_in(g, n), in, n_in * sizeof *in) == 0);
}

/* Double an index of `kind` (nodes or references) when it is half full; entries are re-inserted by their own hash. */
static bool index_grow(dass_graph *g, bool refs);

static uint64_t ref_hash(const dass_value *v)
{
    uint64_t h = hash_bytes(&v->buf, sizeof v->buf, hash_start);
    h = hash_bytes(&v->offset, sizeof v->offset, h);
    return hash_bytes(&v->version, sizeof v->version, h);
}

static void index_put(const dass_graph *g, uint32_t *slots, uint32_t n_slots, uint32_t id, bool refs)
{
    const uint64_t h = refs ? ref_hash(&g->vals[id])
                            : node_hash(g->nodes[id].op, &g->nodes[id].attr, dass_node_in(g, id), g->nodes[id].n_in);
    uint32_t i = hash_slot(h, n_slots);
    while (slots[i])
        i = (i + 1) & (n_slots - 1);
    slots[i] = id;
}

static bool index_grow(dass_graph *g, bool refs)
{
    struct dass__graph_private *p = g->priv;
    uint32_t **slots = refs ? &p->refs : &p->cons;
    uint32_t *n_slots = refs ? &p->n_ref_slots : &p->n_cons_slots;
    if (2 * (refs ? p->n_refs : p->n_cons) < *n_slots)
        return true;
    void *fresh = NULL;
    const dass_status st = dass_mem_alloc(2 * (size_t)*n_slots * sizeof(uint32_t), "graph index", &fresh);
    if (st != DASS_OK) {
        g->status = g->status != DASS_OK ? g->status : st;
        return false;
    }
    for (uint32_t i = 0; i < *n_slots; i++)
        if ((*slots)[i])
            index_put(g, fresh, 2 * *n_slots, (*slots)[i], refs);
    dass_mem_free(*slots);
    *slots = fresh;
    *n_slots *= 2;
    return true;
}

static dass_node find_equal(const dass_graph *g, dass_op op, const dass_attr *attr, const dass_val *in, uint32_t n_in,
                            uint32_t n_out)
{
    uint32_t i = hash_slot(node_hash(op, attr, in, n_in), g->priv->n_cons_slots);
    for (; g->priv->cons[i]; i = (i + 1) & (g->priv->n_cons_slots - 1))
        if (node_equal(g, g->priv->cons[i], op, attr, in, n_in, n_out))
            return g->priv->cons[i];
    return 0;
}

/* Outputs that equal nodes must agree on as well: which of them are wanted. */
static bool outs_match(const dass_graph *g, dass_node n, const dass__shape *shape, uint32_t n_out)
{
    for (uint32_t i = 0; i < n_out; i++)
        if ((dass_node_out(g, n)[i] == 0) != (shape[i].dtype == DASS__NO_OUT))
            return false;
    return true;
}

static dass_val make_out(dass_graph *g, dass_node n, dass_op op, const dass__shape *s, dass_val dst)
{
    if (s->dtype == DASS__NO_OUT)
        return 0;
    dass_value v = {.dtype = s->dtype, .layout = s->layout, .rank = s->rank, .def = n};
    memcpy(v.dim, s->dim, sizeof v.dim);
    if (dst) {
        v = g->vals[dst];
        v.def = n;
        v.version = ++g->priv->buf_version[v.buf];
        return dass__val_add(g, &v);
    }
    char name[256];
    const int len = snprintf(name, sizeof name, "%s%s%s", g->priv->scope ? g->priv->scope : "",
                             g->priv->scope ? "/" : "", dass_op_get(op)->name);
    const size_t n_name = len < (int)sizeof name ? (size_t)len : sizeof name - 1;
    name[n_name] = 0;
    v.name = dass__graph_intern(g, name, n_name + 1);
    return v.name ? dass__val_add(g, &v) : 0;
}

void dass__node_add(dass_graph *g, dass_op op, const dass_val *in, uint32_t n_in, const dass_attr *attr,
                    const dass__shape *shape, uint32_t n_out, const dass_val *dst, dass_val *outs)
{
    for (uint32_t i = 0; i < n_out; i++)
        outs[i] = 0;
    if (g->status != DASS_OK)
        return;
    if (g->priv->finished) {
        dass__graph_fail(g, DASS_ARG, "%s: the graph is finished, nothing can be added", dass_op_get(op)->name);
        return;
    }
    static const dass_attr no_attr;
    attr = attr ? attr : &no_attr;
    const bool pure = (dass_op_get(op)->flags & DASS_OPF_E) == 0 && !dst;
    if (pure) {
        const dass_node n = find_equal(g, op, attr, in, n_in, n_out);
        if (n && outs_match(g, n, shape, n_out)) {
            memcpy(outs, dass_node_out(g, n), n_out * sizeof *outs);
            return;
        }
    }
    void *nodes = g->nodes;
    void *args = g->args;
    bool ok = grow(g, &nodes, g->n_nodes, 1, &g->priv->cap_nodes, sizeof(dass_node_rec));
    g->nodes = nodes;
    ok = ok && grow(g, &args, g->n_args, n_in + n_out, &g->priv->cap_args, sizeof(dass_val));
    g->args = args;
    if (!ok)
        return;
    const dass_node n = g->n_nodes++;
    g->nodes[n] = (dass_node_rec){.op = op, .n_in = n_in, .n_out = n_out, .args = g->n_args, .attr = *attr};
    if (n_in)
        memcpy(g->args + g->n_args, in, n_in * sizeof *in);
    memset(g->args + g->n_args + n_in, 0, n_out * sizeof *outs);
    g->n_args += n_in + n_out;
    for (uint32_t i = 0; i < n_out; i++) {
        outs[i] = make_out(g, n, op, &shape[i], dst ? dst[i] : 0);
        g->args[g->nodes[n].args + n_in + i] = outs[i];
    }
    if (pure && index_grow(g, false)) {
        index_put(g, g->priv->cons, g->priv->n_cons_slots, n, false);
        g->priv->n_cons++;
    }
}

dass_val dass__node1(dass_graph *g, dass_op op, const dass_val *in, uint32_t n_in, const dass_attr *attr,
                     dass__shape shape)
{
    dass_val out = 0;
    dass__node_add(g, op, in, n_in, attr, &shape, 1, NULL, &out);
    return out;
}

/* ---- references ---------------------------------------------------------------------------------------------- */

dass_val dass_ref_typed(dass_graph *g, const char *name, dass_dtype dtype, dass_buf buf, int64_t offset,
                        dass_layout layout, int32_t rank, const int32_t *dim)
{
    if (g->status != DASS_OK)
        return 0;
    if (buf == 0 || buf >= DASS__MAX_BUFS || offset < 0 || rank < 1 || rank > 4)
        return dass__graph_fail(g, DASS_ARG, "ref '%s': buffer %u, offset %lld, rank %d are not valid", name, buf,
                                (long long)offset, rank);
    dass_value v = {.dtype = dtype,
                    .layout = layout,
                    .rank = rank,
                    .dim = {1, 1, 1, 1},
                    .buf = buf,
                    .offset = offset,
                    .version = g->priv->buf_version[buf]};
    for (int32_t i = 0; i < rank; i++) {
        if (dim[i] < 1)
            return dass__graph_fail(g, DASS_ARG, "ref '%s': dimension %d is %d, must be positive", name, i, dim[i]);
        v.dim[i] = dim[i];
    }
    uint32_t i = hash_slot(ref_hash(&v), g->priv->n_ref_slots);
    for (; g->priv->refs[i]; i = (i + 1) & (g->priv->n_ref_slots - 1)) {
        const dass_value *o = &g->vals[g->priv->refs[i]];
        if (o->buf == v.buf && o->offset == v.offset && o->version == v.version && o->dtype == v.dtype &&
            o->layout == v.layout && o->rank == v.rank && memcmp(o->dim, v.dim, sizeof v.dim) == 0)
            return g->priv->refs[i];
    }
    v.name = dass__graph_intern(g, name, strlen(name) + 1);
    const dass_val id = v.name ? dass__val_add(g, &v) : 0;
    if (id && index_grow(g, true)) {
        index_put(g, g->priv->refs, g->priv->n_ref_slots, id, true);
        g->priv->n_refs++;
    }
    return id;
}

dass_val dass_ref(dass_graph *g, const char *name, dass_buf buf, int64_t offset, dass_layout layout, int32_t rank,
                  const int32_t *dim)
{
    return dass_ref_typed(g, name, g->real, buf, offset, layout, rank, dim);
}

void dass_place(dass_graph *g, dass_val v, dass_buf buf, int64_t offset)
{
    if (g->status != DASS_OK)
        return;
    dass_value *val = &g->vals[v];
    if (v == 0 || val->buf != 0 || val->def == 0 || buf == 0 || buf >= DASS__MAX_BUFS) {
        dass__graph_fail(g, DASS_ARG, "place '%s': only a temporary that a node writes can move to a buffer (%u)",
                         val->name, buf);
        return;
    }
    val->buf = buf;
    val->offset = offset;
    val->version = ++g->priv->buf_version[buf];
}

/* ---- finishing ------------------------------------------------------------------------------------------------- */

static void mark_live(const dass_graph *g, uint8_t *keep, uint8_t *used)
{
    for (dass_node n = g->n_nodes - 1; n > 0; n--) {
        bool live = (dass_op_get(g->nodes[n].op)->flags & DASS_OPF_E) != 0;
        for (uint32_t i = 0; i < g->nodes[n].n_out && !live; i++) {
            const dass_val v = dass_node_out(g, n)[i];
            live = v && (used[v] || g->vals[v].buf != 0);
        }
        keep[n] = live;
        for (uint32_t i = 0; live && i < g->nodes[n].n_in; i++)
            used[dass_node_in(g, n)[i]] = 1;
    }
}

/* Slide live nodes and the values they touch down; order is kept. */
static void compact(dass_graph *g, const uint8_t *keep, uint8_t *used, uint32_t *val_map)
{
    for (dass_node n = 1; n < g->n_nodes; n++)
        for (uint32_t i = 0; keep[n] && i < g->nodes[n].n_out; i++)
            used[dass_node_out(g, n)[i]] = 1;
    uint32_t n_vals = 1;
    for (dass_val v = 1; v < g->n_vals; v++) {
        if (!used[v])
            continue;
        val_map[v] = n_vals;
        g->vals[n_vals++] = g->vals[v];
    }
    uint32_t n_nodes = 1;
    uint32_t n_args = 0;
    for (dass_node n = 1; n < g->n_nodes; n++) {
        if (!keep[n])
            continue;
        dass_node_rec r = g->nodes[n];
        for (uint32_t i = 0; i < r.n_in + r.n_out; i++)
            g->args[n_args + i] = val_map[g->args[r.args + i]];
        for (uint32_t i = 0; i < r.n_out; i++)
            if (g->args[n_args + r.n_in + i])
                g->vals[g->args[n_args + r.n_in + i]].def = n_nodes;
        r.args = n_args;
        n_args += r.n_in + r.n_out;
        g->nodes[n_nodes++] = r;
    }
    g->n_vals = n_vals;
    g->n_nodes = n_nodes;
    g->n_args = n_args;
}

dass_status dass_graph_finish(dass_graph *g)
{
    if (g->status != DASS_OK)
        return g->status;
    if (g->priv->finished)
        return DASS_FAIL(DASS_ARG, "graph: finished twice");
    void *keep = NULL;
    void *used = NULL;
    void *map = NULL;
    dass_status st = DASS_OK;
    DASS_TRY_TO(dass_mem_alloc(g->n_nodes, "graph marks", &keep), st, out);
    DASS_TRY_TO(dass_mem_alloc(g->n_vals, "graph marks", &used), st, out);
    DASS_TRY_TO(dass_mem_alloc(g->n_vals * sizeof(uint32_t), "graph marks", &map), st, out);
    mark_live(g, keep, used);
    compact(g, keep, used, map);
    g->priv->finished = true;
out:
    dass_mem_free(keep);
    dass_mem_free(used);
    dass_mem_free(map);
    return st;
}
