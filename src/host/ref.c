/* The backends "ref" and "ref64": the reference rows of host_ref.c behind the vtable, in float and
 * in double. Nothing here chooses: every op has exactly one row. Also the allocation of impls,
 * which all files of this folder share.
 */
#include "host.h"

#include <string.h>

void *dass__impl_make(dass_arena *mem, const dass_graph *g, dass_node n, size_t bytes, dass_kernel *k)
{
    DASS_ASSERT(bytes >= sizeof(dass__impl));
    dass__impl *impl = dass_arena_alloc(mem, bytes);
    if (!impl)
        return NULL;
    impl->g = g;
    impl->n = n;
    impl->n_in = g->nodes[n].n_in;
    impl->n_out = g->nodes[n].n_out;
    impl->arg = dass_arena_alloc(mem, (impl->n_in + impl->n_out) * sizeof(*impl->arg));
    if (!impl->arg)
        return NULL;
    k->impl = impl;
    return impl;
}

static dass_status ref_open_as(const dass_backend_ops *ops, dass_backend **out)
{
    *out = NULL;
    void *block;
    DASS_TRY(dass_mem_alloc(sizeof(dass_backend), "reference backend", &block));
    *out = block;
    (*out)->ops = ops;
    return DASS_OK;
}

static dass_status ref_open(const dass_backend_options *opt, dass_backend **out)
{
    (void)opt;
    return ref_open_as(&dass_backend_ref, out);
}

static dass_status ref64_open(const dass_backend_options *opt, dass_backend **out)
{
    (void)opt;
    return ref_open_as(&dass_backend_ref64, out);
}

static void ref_close(dass_backend *be)
{
    dass_mem_free(be);
}

static dass_status ref_alloc(dass_backend *be, size_t bytes, const char *what, void **out)
{
    (void)be;
    return dass_mem_alloc(bytes, what, out);
}

static void ref_free(dass_backend *be, void *p)
{
    (void)be;
    dass_mem_free(p);
}

static dass_status ref_copy(dass_backend *be, void *dst, const void *src, size_t bytes)
{
    (void)be;
    if (bytes)
        memcpy(dst, src, bytes);
    return DASS_OK;
}

static dass_status ref_fill(dass_backend *be, void *dst, uint32_t word, size_t bytes)
{
    (void)be;
    uint32_t *p = dst;
    for (size_t i = 0; i < bytes / 4; i++)
        p[i] = word;
    return DASS_OK;
}

static dass_status ref_sync(dass_backend *be)
{
    (void)be;
    return DASS_OK;
}

static dass_status ref_select(dass_backend *be, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *out)
{
    char text[256];
    const dass_op op = g->nodes[n].op;
    if (g->real != be->ops->real) {
        dass_node_print(g, n, text, sizeof(text));
        return DASS_FAIL(DASS_UNSUPPORTED,
                         "%s: computes in %s, but the graph of node '%s' is in %s; build the graph in the type "
                         "of its backend",
                         be->ops->name, be->ops->real == DASS_F64 ? "f64" : "f32", text,
                         g->real == DASS_F64 ? "f64" : "f32");
    }
    if (dass__wants_widening(g, n))
        return dass__widened_select(be, mem, g, n, out);
    const dass__row *row = be->ops->real == DASS_F64 ? dass__rows_ref64 : dass__rows_ref;
    while (row->op != DASS_OP_NONE && row->op != op)
        row++;
    if (row->op == DASS_OP_NONE) {
        dass_node_print(g, n, text, sizeof(text));
        return DASS_FAIL(DASS_UNSUPPORTED, "%s: no kernel for node '%s'; every op of ops.def needs a row in host_ref.c",
                         be->ops->name, text);
    }
    *out = (dass_kernel){.name = row->name};
    DASS_TRY(row->prepare(NULL, mem, g, n, out));
    ((dass__impl *)out->impl)->row = row;
    return DASS_OK;
}

static dass_status ref_bind(dass_backend *be, const dass_graph *g, dass_node n, dass_kernel *k, void *const *args,
                            void *ws)
{
    (void)g;
    (void)n;
    dass__impl *impl = k->impl;
    if (dass__is_widened(k))
        return dass__widened_bind(be, k, args, ws);
    for (uint32_t i = 0; i < impl->n_in + impl->n_out; i++)
        impl->arg[i] = args[i];
    impl->ws = ws;
    return DASS_OK;
}

static void ref_drop(dass_backend *be, dass_kernel *k)
{
    (void)be; /* rows of the reference hold nothing, and so do widened ones */
    (void)k;
}

static bool ref_can(dass_backend *be, dass_op op)
{
    (void)be;
    (void)op;
    return true;
}

#define REF_OPS(text, open_fn, type, more)                                                                  \
    {                                                                                                  \
        .name = (text), .open = (open_fn), .close = ref_close, .alloc = ref_alloc, .free = ref_free,   \
        .write = ref_copy, .read = ref_copy, .fill = ref_fill, .sync = ref_sync, .select = ref_select, \
        .bind = ref_bind, .drop = ref_drop, .can = ref_can, .real = (type), .precisions = (more)        \
    }

const dass_backend_ops dass_backend_ref = REF_OPS("ref", ref_open, DASS_F32, 1u << DASS_PRECISION_BF16);
const dass_backend_ops dass_backend_ref64 = REF_OPS("ref64", ref64_open, DASS_F64, 0);
