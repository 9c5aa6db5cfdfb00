/* The host backend: opens the device object, picks the instruction set, owns memory through dass_mem_*, and walks the
 * ordered table of kernel rows. It computes nothing: rows come from the other files of this folder. Invariant: the
 * first row that fits a node runs it, and the order of the tables below is the only place where that preference stands.
 */
#include "host.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "dass/mem.h"
#include "vec.h"

/* ---- instruction sets ---------------------------------------------------------------------------------------- */

/* The first feature of the processor (and system) that a set needs and that is missing; NULL when it can run. */
static const char *missing_avx2(void)
{
    return !__builtin_cpu_supports("avx2") ? "avx2" : !__builtin_cpu_supports("fma") ? "fma" : NULL;
}

static const char *missing_avx512(void)
{
    if (!__builtin_cpu_supports("avx512f"))
        return "avx512f";
    if (!__builtin_cpu_supports("avx512bw"))
        return "avx512bw";
    if (!__builtin_cpu_supports("avx512vl"))
        return "avx512vl";
    if (!__builtin_cpu_supports("avx512dq"))
        return "avx512dq";
    return missing_avx2();
}

static const char *missing_none(void)
{
    return NULL;
}

/* In order of preference. "wide" comes last: it is for tests, and never picked by itself. */
static const struct isa {
    const char *name;
    const struct dass__vec *vec;
    const char *(*missing)(void);
} isas[] = {
    {"avx512", &dass__vec_avx512, missing_avx512},
    {"avx2", &dass__vec_avx2, missing_avx2},
    {"portable", &dass__vec_portable, missing_none},
    {"wide", &dass__vec_wide, missing_avx2},
};

static dass_status pick_isa(dass_host *h)
{
    const char *const want = getenv("DASS_CPU");
    const bool forced = want != NULL && want[0] != '\0';
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        if (forced && strcmp(want, isas[i].name) != 0)
            continue;
        const char *const missing = isas[i].missing();
        if (forced && missing != NULL)
            return DASS_FAIL(DASS_UNSUPPORTED, "DASS_CPU=%s: this machine lacks %s; unset it, or choose another set",
                             want, missing);
        if (missing != NULL)
            continue;
        h->vec = isas[i].vec;
        h->isa = isas[i].name;
        return DASS_OK;
    }
    return DASS_FAIL(DASS_ARG, "DASS_CPU=%s: no such instruction set; use avx512, avx2, portable or wide, or unset it",
                     want);
}

/* ---- device and memory --------------------------------------------------------------------------------------- */

static void host_close(dass_backend *be)
{
    if (be == NULL)
        return;
    dass_host *const h = (dass_host *)be;
    dass__onednn_close(h);
    dass_mem_free(h);
}

static dass_status host_open(const dass_backend_options *opt, dass_backend **out)
{
    *out = NULL;
    const int n_threads = opt != NULL ? opt->n_threads : 0;
    if (opt != NULL && opt->ordinal != 0)
        return DASS_FAIL(DASS_ARG, "host: device %d does not exist; the host is device 0", opt->ordinal);
    if (n_threads < 0 || n_threads > 4096)
        return DASS_FAIL(DASS_ARG, "host: %d threads; give 1 to 4096, or 0 for all cores", n_threads);
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass_host), "host backend", &block));
    dass_host *const h = block;
    h->base.ops = &dass_backend_host;
    h->n_threads = n_threads > 0 ? n_threads : omp_get_num_procs();
    dass_status st = DASS_OK;
    DASS_TRY_TO(pick_isa(h), st, fail);
    DASS_TRY_TO(dass__onednn_open(h), st, fail);
    *out = &h->base;
    return DASS_OK;
fail:
    host_close(&h->base);
    return st;
}

static dass_status host_alloc(dass_backend *be, size_t bytes, const char *what, void **out)
{
    (void)be;
    return dass_mem_alloc(bytes, what, out);
}

static void host_free(dass_backend *be, void *p)
{
    (void)be;
    dass_mem_free(p);
}

static dass_status host_write(dass_backend *be, void *dst, const void *host_src, size_t bytes)
{
    (void)be;
    if (bytes > 0)
        memcpy(dst, host_src, bytes);
    return DASS_OK;
}

static dass_status host_read(dass_backend *be, void *host_dst, const void *src, size_t bytes)
{
    (void)be;
    if (bytes > 0)
        memcpy(host_dst, src, bytes);
    return DASS_OK;
}

static dass_status host_fill(dass_backend *be, void *dst, uint32_t word, size_t bytes)
{
    if (bytes % 4 != 0)
        return DASS_FAIL(DASS_ARG, "host: fill of %zu bytes; give a multiple of 4", bytes);
    uint32_t *const p = dst;
    const size_t n = bytes / 4;
#pragma omp parallel for simd schedule(static) num_threads(((const dass_host *)be)->n_threads) if (n >= 65536)
    for (size_t i = 0; i < n; i++)
        p[i] = word;
    return DASS_OK;
}

static dass_status host_sync(dass_backend *be)
{
    (void)be; /* every run returns when its work is done */
    return DASS_OK;
}

/* ---- kernels ------------------------------------------------------------------------------------------------- */

/* The ordered table of tables. Fused and own kernels come before oneDNN and say in their `fits`, with the measurement,
 * where they are the faster ones; the reference takes what is left. */
static const struct table {
    const dass__row *rows;
    bool vector; /* built per instruction set: the kernel's name says which one runs */
} tables[] = {
    {dass__rows_dwpw, true},   {dass__rows_depthwise, true}, {dass__rows_norm, true},
    {dass__rows_sum, true},    {dass__rows_pool, true},      {dass__rows_flat, true},
    {dass__rows_sparse, true}, {dass__rows_onednn, false},   {dass__rows_ref, false},
};

static const dass__row *find_row(const dass_host *h, const dass_graph *g, dass_node n, bool *vector)
{
    for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++) {
        for (const dass__row *r = tables[t].rows; r->op != DASS_OP_NONE; r++) {
            if (r->op != g->nodes[n].op)
                continue;
            if (r->fits != NULL && !r->fits(h, g, n))
                continue;
            *vector = tables[t].vector;
            return r;
        }
    }
    return NULL;
}

static dass_status host_select(dass_backend *be, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *out)
{
    dass_host *const h = (dass_host *)be;
    *out = (dass_kernel){0};
    if (g->real != DASS_F32)
        return DASS_FAIL(DASS_UNSUPPORTED,
                         "host: the graph is in double and this backend computes in float; use ref64");
    if (dass__wants_widening(g, n))
        return dass__widened_select(be, mem, g, n, out);
    bool vector = false;
    const dass__row *const row = find_row(h, g, n, &vector);
    if (row == NULL) {
        char line[256];
        dass_node_print(g, n, line, sizeof line);
        return DASS_FAIL(DASS_UNSUPPORTED,
                         "host: no kernel for node %u: %s; change its shape or choose another backend", (unsigned)n,
                         line);
    }
    DASS_TRY(row->prepare(h, mem, g, n, out));
    DASS_ASSERT(out->impl != NULL && out->run != NULL);
    ((dass__impl *)out->impl)->row = row;
    if (out->name == NULL)
        out->name = vector ? dass_arena_printf(mem, "host:%s:%s", row->name, h->isa)
                           : dass_arena_printf(mem, "host:%s", row->name);
    return out->name != NULL ? DASS_OK : DASS_NOMEM;
}

static dass_status host_bind(dass_backend *be, const dass_graph *g, dass_node n, dass_kernel *k, void *const *args,
                             void *ws)
{
    dass__impl *const impl = k->impl;
    if (dass__is_widened(k))
        return dass__widened_bind(be, k, args, ws);
    for (uint32_t i = 0; i < impl->n_in + impl->n_out; i++)
        impl->arg[i] = args[i];
    impl->ws = ws;
    if (impl->row->bind == NULL)
        return DASS_OK;
    return impl->row->bind((dass_host *)be, g, n, k, args, ws);
}

static void host_drop(dass_backend *be, dass_kernel *k)
{
    const dass__impl *const impl = k->impl;
    if (dass__is_widened(k))
        dass__widened_drop(be, k);
    else if (impl != NULL && impl->row != NULL && impl->row->drop != NULL)
        impl->row->drop((dass_host *)be, k);
}

static bool host_can(dass_backend *be, dass_op op)
{
    (void)be;
    return op == DASS_OP_DWPW || op == DASS_OP_WSUM || op == DASS_OP_SPCONV;
}

const dass_backend_ops dass_backend_host = {
    .name = "host",
    .open = host_open,
    .close = host_close,
    .alloc = host_alloc,
    .free = host_free,
    .write = host_write,
    .read = host_read,
    .fill = host_fill,
    .sync = host_sync,
    .select = host_select,
    .bind = host_bind,
    .drop = host_drop,
    .can = host_can,
    .real = DASS_F32,
    .precisions = 1u << DASS_PRECISION_BF16,
};
