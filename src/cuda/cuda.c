/* The CUDA backend: opens a device, owns its memory and its one stream, walks the ordered table of rows and merges
 * nodes. It computes nothing: rows come from the other files of this folder, recordings and times from cuda_replay.c.
 * Invariants: run() enqueues and returns; only large writes, reads, fill's callers through sync, and close wait for the
 * device. What is staged of small writes is overwritten only after a wait.
 */
#include "cuda.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

#include "dass/log.h"
#include "dass/mem.h"

#include "kernels/flat.h"

dass_status dass__cuda_fail(int code, const char *call, const char *file, int line)
{
    const cudaError_t e = (cudaError_t)code;
    (void)cudaGetLastError(); /* else the next call reports this one */
    const dass_status st = e == cudaErrorMemoryAllocation ? DASS_NOMEM : DASS_DEVICE;
    return DASS_FAIL(st, "cuda: %s: %s (%s) at %s:%d", call, cudaGetErrorString(e), cudaGetErrorName(e), file, line);
}

/* ---- device ------------------------------------------------------------------------------------------------------ */

static void cuda_close(dass_backend *be)
{
    if (be == NULL)
        return;
    dass_cuda *c = (dass_cuda *)be;
    if (c->stream != NULL) {
        if (cudaStreamSynchronize(c->stream) != cudaSuccess)
            dass_log(DASS_LOG_WARN, "cuda: the device reports an error on closing");
        dass__blas_close(c);
        dass__sparse_close(c);
        dass__cuda_conv_close(c);
        dass__cuda_replay_close(c);
        (void)cudaStreamDestroy(c->stream);
    }
    (void)cudaFreeHost(c->pinned);
    (void)cudaFree(c->counters);
    dass_mem_free(c->free_counters);
    dass_mem_free(c);
}

static dass_status open_counters(dass_cuda *c)
{
    void *p = NULL;
    DASS_TRY(dass_mem_alloc(DASS__N_COUNTERS * sizeof *c->free_counters, "cuda counters", &p));
    c->free_counters = p;
    CUDA_TRY(cudaMalloc(&p, DASS__N_COUNTERS * sizeof *c->counters));
    c->counters = p;
    CUDA_TRY(cudaMemsetAsync(c->counters, 0, DASS__N_COUNTERS * sizeof *c->counters, c->stream));
    for (uint32_t i = 0; i < DASS__N_COUNTERS; i++) /* the lowest on top */
        c->free_counters[i] = DASS__N_COUNTERS - 1 - i;
    c->n_free_counters = DASS__N_COUNTERS;
    return DASS_OK;
}

static dass_status open_device(dass_cuda *c)
{
    int n = 0;
    CUDA_TRY(cudaGetDeviceCount(&n));
    if (c->ordinal < 0 || c->ordinal >= n)
        return DASS_FAIL(DASS_ARG, "cuda: device %d does not exist; this machine has %d: cuda:0 to cuda:%d", c->ordinal,
                         n, n - 1);
    CUDA_TRY(cudaSetDevice(c->ordinal));
    struct cudaDeviceProp prop;
    CUDA_TRY(cudaGetDeviceProperties(&prop, c->ordinal));
    c->n_sm = prop.multiProcessorCount;
    c->max_shared = (uint32_t)prop.sharedMemPerBlockOptin;
    (void)snprintf(c->device, sizeof c->device, "%.100s, sm_%d%d", prop.name, prop.major, prop.minor);
    cudaStream_t stream = NULL;
    CUDA_TRY(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    c->stream = stream;
    void *pinned = NULL;
    CUDA_TRY(cudaMallocHost(&pinned, DASS__PINNED_READS + DASS__PINNED_WRITES));
    c->pinned = pinned;
    DASS_TRY(dass__cuda_replay_open(c));
    return open_counters(c);
}

static dass_status cuda_open(const dass_backend_options *opt, dass_backend **out)
{
    *out = NULL;
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass_cuda), "cuda backend", &block));
    dass_cuda *c = block;
    c->base.ops = &dass_backend_cuda;
    c->ordinal = opt->ordinal;
    c->precision = opt->precision;
    const dass_status st = open_device(c);
    if (st != DASS_OK) {
        cuda_close(&c->base);
        return st;
    }
    *out = &c->base;
    return DASS_OK;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static dass_status cuda_alloc(dass_backend *be, size_t bytes, const char *what, void **out)
{
    dass_cuda *c = (dass_cuda *)be;
    *out = NULL;
    void *p = NULL;
    const cudaError_t e = cudaMalloc(&p, bytes > 0 ? bytes : 1);
    if (e == cudaErrorMemoryAllocation) {
        size_t free_bytes = 0;
        size_t total = 0;
        (void)cudaGetLastError();
        (void)cudaMemGetInfo(&free_bytes, &total);
        return DASS_FAIL(DASS_NOMEM, "cuda: %s needs %zu bytes, of %zu free on %s; lower the batch or the channels",
                         what, bytes, free_bytes, c->device);
    }
    CUDA_TRY(e);
    const cudaError_t set = cudaMemsetAsync(p, 0, bytes > 0 ? bytes : 1, c->stream);
    if (set != cudaSuccess) {
        (void)cudaFree(p);
        CUDA_TRY(set);
    }
    *out = p;
    return DASS_OK;
}

static void cuda_free(dass_backend *be, void *p)
{
    dass_cuda *c = (dass_cuda *)be;
    if (p == NULL)
        return;
    (void)cudaStreamSynchronize(c->stream); /* cudaFree does not wait for a non-blocking stream's use of it */
    (void)cudaFree(p);
}

static dass_status wait_for(dass_cuda *c)
{
    CUDA_TRY(cudaStreamSynchronize(c->stream));
    c->staged = 0;
    return DASS_OK;
}

static dass_status write_staged(dass_cuda *c, void *dst, const void *host_src, size_t bytes)
{
    const size_t room = (bytes + 63) / 64 * 64;
    if (c->staged + room > DASS__PINNED_WRITES)
        DASS_TRY(wait_for(c));
    unsigned char *at = c->pinned + DASS__PINNED_READS + c->staged;
    memcpy(at, host_src, bytes);
    CUDA_TRY(cudaMemcpyAsync(dst, at, bytes, cudaMemcpyHostToDevice, c->stream));
    c->staged += room;
    return DASS_OK;
}

static dass_status cuda_write(dass_backend *be, void *dst, const void *host_src, size_t bytes)
{
    dass_cuda *c = (dass_cuda *)be;
    if (bytes == 0)
        return DASS_OK;
    if (bytes <= DASS__PINNED_WRITES / 16)
        return write_staged(c, dst, host_src, bytes);
    CUDA_TRY(cudaMemcpyAsync(dst, host_src, bytes, cudaMemcpyHostToDevice, c->stream));
    return wait_for(c); /* the caller may change its memory now */
}

/* Into page-locked memory as far as that goes: a copy into any other makes the call itself wait. */
static dass_status cuda_read_many(dass_backend *be, const dass_transfer *t, uint32_t n)
{
    dass_cuda *c = (dass_cuda *)be;
    size_t total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += t[i].bytes;
    if (total == 0)
        return DASS_OK;
    const bool staged = total <= DASS__PINNED_READS;
    const unsigned char *from = c->pinned;
    unsigned char *to = c->pinned;
    for (uint32_t i = 0; i < n; to += t[i++].bytes)
        if (t[i].bytes > 0)
            CUDA_TRY(cudaMemcpyAsync(staged ? to : t[i].to, t[i].from, t[i].bytes, cudaMemcpyDeviceToHost, c->stream));
    DASS_TRY(wait_for(c));
    for (uint32_t i = 0; staged && i < n; from += t[i++].bytes)
        if (t[i].bytes > 0)
            memcpy(t[i].to, from, t[i].bytes);
    return DASS_OK;
}

static dass_status cuda_read(dass_backend *be, void *host_dst, const void *src, size_t bytes)
{
    return cuda_read_many(be, &(dass_transfer){host_dst, src, bytes}, 1);
}

static dass_status cuda_room(dass_backend *be, size_t *bytes)
{
    size_t total = 0;
    (void)be; /* the device is the thread's */
    CUDA_TRY(cudaMemGetInfo(bytes, &total));
    return DASS_OK;
}

static dass_status cuda_sync(dass_backend *be)
{
    return wait_for((dass_cuda *)be);
}

/* ---- stages ------------------------------------------------------------------------------------------------------ */

static dass_status next_stage(dass_kernel *k, const char *name, dass__launch **out)
{
    dass__cuda_impl *impl = dass__cuda_impl_of(k);
    DASS_ASSERT(impl->n_stages < DASS__MAX_STAGES);
    *out = &impl->stage[impl->n_stages++];
    (*out)->name = name;
    return DASS_OK;
}

dass_status dass__cuda_add(dass_arena *mem, dass_kernel *k, dass_k_launcher fn, const char *name, dass_k_grid grid,
                           uint32_t bytes, void **args)
{
    dass__launch *s = NULL;
    DASS_TRY(next_stage(k, name, &s));
    s->fn = fn;
    s->grid = grid;
    s->n_items = 1;
    s->item_bytes = bytes;
    s->args = dass_arena_alloc(mem, bytes);
    if (s->args == NULL)
        return DASS_NOMEM;
    *(dass_k_head *)s->args = (dass_k_head){grid.x, grid.y};
    *args = s->args;
    return DASS_OK;
}

/* Counted like the launches of our kernels, since the plugin was loaded. */
static struct {
    const char *name;
    uint64_t calls;
} libraries[DASS__N_LIBRARIES] = {[DASS__LIBRARY_COPY] = {"copy", 0},
                                  [DASS__LIBRARY_CUDNN] = {"cudnn", 0},
                                  [DASS__LIBRARY_CUBLASLT] = {"cublaslt", 0},
                                  [DASS__LIBRARY_CUSPARSE] = {"cusparse", 0}};

const char *dass__cuda_library_name(uint32_t i, uint64_t *calls)
{
    *calls = i < DASS__N_LIBRARIES ? libraries[i].calls : 0;
    return i < DASS__N_LIBRARIES ? libraries[i].name : NULL;
}

dass_status dass__cuda_add_call(dass_kernel *k, dass__library library, const char *name,
                                dass_status (*call)(dass_cuda *c, void *object), void *object)
{
    dass__launch *s = NULL;
    DASS_TRY(next_stage(k, name, &s));
    s->library = library;
    s->call = call;
    s->object = object;
    return DASS_OK;
}

dass_status dass__cuda_counter(dass_cuda *c, dass_kernel *k, uint32_t **out)
{
    dass__cuda_impl *impl = dass__cuda_impl_of(k);
    if (c->n_free_counters == 0)
        return DASS_FAIL(DASS_NOMEM, "cuda: more than %u reductions are prepared at once", DASS__N_COUNTERS);
    const uint32_t i = c->free_counters[--c->n_free_counters];
    impl->counter[impl->n_stages - 1] = i + 1;
    *out = c->counters + i;
    return DASS_OK;
}

dass_status dass__cuda_table(dass_cuda *c, dass__cuda_impl *impl, const void *host, size_t bytes, const void **out)
{
    if (impl->table == NULL)
        CUDA_TRY(cudaMalloc(&impl->table, bytes));
    CUDA_TRY(cudaMemcpyAsync(impl->table, host, bytes, cudaMemcpyHostToDevice, c->stream));
    CUDA_TRY(cudaStreamSynchronize(c->stream));
    *out = impl->table;
    return DASS_OK;
}

bool dass__cuda_small(const dass_cuda *c, const dass_graph *g, dass_node n)
{
    (void)c;
    for (uint32_t i = 0; i < g->nodes[n].n_in + g->nodes[n].n_out; i++)
        if (dass_value_count(&g->vals[dass_node_in(g, n)[i]]) > INT32_MAX) /* outputs follow the inputs */
            return false;
    return true;
}

uint32_t dass__cuda_variant(const dass_graph *g, dass_node n)
{
    uint32_t width = DASS_K_V4;
    uint32_t stored = 0;
    for (uint32_t i = 0; i < g->nodes[n].n_in + g->nodes[n].n_out; i++) {
        const dass_value *v = &g->vals[dass_node_in(g, n)[i]];
        if (dass_node_in(g, n)[i] == 0 || v->layout != DASS_LAYOUT_NHWC)
            continue;
        stored |= dass__cuda_stored(v);
        if (!dass__cuda_vec4(v, v->dim[1]))
            width = DASS_K_V1;
    }
    return width | stored;
}

dass_k_grid dass__cuda_flat_grid(const dass_cuda *c, uint64_t n, uint32_t variant)
{
    const uint64_t blocks = (n + 255) / 256;
    const uint64_t most = (uint64_t)c->n_sm * 8; /* 2048 threads a multiprocessor: one wave */
    return (dass_k_grid){(uint32_t)(blocks < 1 ? 1 : blocks > most ? most : blocks), 1, variant};
}

dass_k_grid dass__cuda_walk_grid(const dass_cuda *c, uint32_t m, uint32_t n_c, uint32_t variant, uint32_t lanes,
                                 dass_k_reduce *out)
{
    const uint32_t v = dass__cuda_width(variant);
    const uint32_t all = (n_c + v - 1) / v;
    uint32_t tx = 1;
    while (tx < all && tx < lanes)
        tx *= 2;
    const uint32_t groups = (all + tx - 1) / tx;
    const uint32_t rows = 256 / tx;
    uint32_t n_chunks = (m + 4 * rows - 1) / (4 * rows);
    const uint32_t most = ((uint32_t)c->n_sm * 8 + groups - 1) / groups;
    n_chunks = n_chunks > most ? most : n_chunks;
    const uint32_t chunk = (m + n_chunks - 1) / n_chunks;
    *out = (dass_k_reduce){.m = m, .c = n_c, .tx = tx, .chunk = chunk};
    return (dass_k_grid){(m + chunk - 1) / chunk, groups, variant};
}

dass_k_grid dass__cuda_reduce_grid(const dass_cuda *c, uint32_t m, uint32_t n_c, uint32_t variant, dass_k_reduce *out)
{
    const uint32_t v = dass__cuda_width(variant);
    const uint32_t lanes = (n_c + v - 1) / v;
    uint32_t tx = 1;
    while (tx < lanes && tx < 32) /* a warp reads a whole line of a pixel; more pixels beat more channels a block */
        tx *= 2;
    const uint32_t groups = (lanes + tx - 1) / tx;
    const uint32_t rows = 256 / tx;
    /* Two blocks a multiprocessor over all channel groups, but at least 8 pixels to a thread. */
    uint32_t n_chunks = (uint32_t)c->n_sm * 2 / groups;
    const uint32_t most = (m + 8 * rows - 1) / (8 * rows);
    n_chunks = n_chunks > most ? most : n_chunks;
    n_chunks = n_chunks < 1 ? 1 : n_chunks;
    const uint32_t chunk = (m + n_chunks - 1) / n_chunks;
    *out = (dass_k_reduce){.m = m, .c = n_c, .tx = tx, .chunk = chunk};
    return (dass_k_grid){(m + chunk - 1) / chunk, groups, variant};
}

/* ---- kernels ----------------------------------------------------------------------------------------------------- */

/* The ordered table of tables: the first row that fits a node runs it. cuDNN's rows take what convolutions are left. */
static const dass__cuda_row *const tables[] = {
    dass__cuda_rows_dwpw,   dass__cuda_rows_depthwise, dass__cuda_rows_norm, dass__cuda_rows_sum,
    dass__cuda_rows_pool,   dass__cuda_rows_shape,     dass__cuda_rows_loss, dass__cuda_rows_flat,
    dass__cuda_rows_sparse, dass__cuda_rows_blas,      dass__cuda_rows_conv,
};

/* The first row behind `after` that fits; from the beginning when that is NULL. NULL: no further row does. */
static const dass__cuda_row *next_row(const dass_cuda *c, const dass_graph *g, dass_node n, const dass__cuda_row *after)
{
    bool behind = after == NULL;
    for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++)
        for (const dass__cuda_row *r = tables[t]; r->op != DASS_OP_NONE; r++) {
            if (behind && r->op == g->nodes[n].op && (r->fits == NULL || r->fits(c, g, n)))
                return r;
            behind = behind || r == after;
        }
    return NULL;
}

static dass_status enqueue(dass_cuda *c, const dass__launch *s)
{
    if (s->fn == NULL) {
        libraries[s->library].calls++;
        DASS_TRY(s->call(c, s->object));
    } else {
        const int code = s->fn(s->args, s->n_items, s->grid, c->stream);
        if (code != 0)
            return dass__cuda_fail(code, s->name, __FILE__, __LINE__);
    }
    return c->recording ? dass__cuda_still_recording(c, s->name) : DASS_OK;
}

static dass_status run_stages(dass_backend *be, void *impl)
{
    dass_cuda *c = (dass_cuda *)be;
    const dass__cuda_impl *k = impl;
    for (uint32_t i = 0; i < k->n_stages; i++)
        DASS_TRY(enqueue(c, &k->stage[i]));
    return DASS_OK;
}

/* What must be equal for two nodes to be merged: the launchers and variants of all stages. 0: a library call is in it.
 */
static uint64_t group_of(const dass__cuda_impl *impl)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a over words */
    for (uint32_t i = 0; i < impl->n_stages; i++) {
        if (impl->stage[i].fn == NULL)
            return 0;
        const uint64_t word[2] = {(uint64_t)(uintptr_t)impl->stage[i].fn, impl->stage[i].grid.variant};
        for (int w = 0; w < 2; w++)
            h = (h ^ word[w]) * 1099511628211u;
    }
    return h | 1;
}

static void cuda_drop(dass_backend *be, dass_kernel *k)
{
    dass_cuda *c = (dass_cuda *)be;
    dass__cuda_impl *impl = k->impl;
    if (impl == NULL)
        return;
    if (impl->row->drop != NULL)
        impl->row->drop(c, impl);
    for (uint32_t i = 0; i < DASS__MAX_STAGES; i++)
        if (impl->counter[i] != 0)
            c->free_counters[c->n_free_counters++] = impl->counter[i] - 1;
    if (impl->table != NULL)
        cuda_free(be, impl->table);
    k->impl = NULL;
}

/* Nothing of a row that refused remains. */
static dass_status prepare(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, const dass__cuda_row *row,
                           dass_kernel *out)
{
    *out = (dass_kernel){.run = run_stages};
    dass__cuda_impl *impl = dass_arena_alloc(mem, sizeof *impl);
    if (impl == NULL)
        return DASS_NOMEM;
    impl->row = row;
    out->impl = impl;
    const dass_status st = row->prepare(c, mem, g, n, out);
    if (st != DASS_OK)
        cuda_drop(&c->base, out);
    return st;
}

/* The next row costs time, not numbers: said once, so that a slow run explains itself. */
static void tell_refusal(dass_cuda *c, dass_node n, const dass__cuda_row *row, const dass__cuda_row *next)
{
    if (!c->told_refusal)
        dass_log(DASS_LOG_WARN, "cuda: %s refuses node %u, %s is asked instead (further refusals are not told): %s",
                 row->name, (unsigned)n, next->name, dass_error_text());
    c->told_refusal = true;
    dass_error_clear();
}

static dass_status cuda_select(dass_backend *be, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *out)
{
    dass_cuda *c = (dass_cuda *)be;
    *out = (dass_kernel){.run = run_stages};
    if (g->real != DASS_F32)
        return DASS_FAIL(DASS_UNSUPPORTED,
                         "cuda: the graph is in double and this backend computes in float; use ref64");
    const dass__cuda_row *row = next_row(c, g, n, NULL);
    if (row == NULL) {
        char line[256];
        dass_node_print(g, n, line, sizeof line);
        return DASS_FAIL(DASS_UNSUPPORTED, "cuda: no kernel for node %u: %s; change its shape or use --device host",
                         (unsigned)n, line);
    }
    dass_status st = DASS_OK;
    while ((st = prepare(c, mem, g, n, row, out)) == DASS_UNSUPPORTED) {
        const dass__cuda_row *next = next_row(c, g, n, row);
        if (next == NULL)
            break;
        tell_refusal(c, n, row, next);
        row = next;
    }
    DASS_TRY(st);
    const dass__cuda_impl *impl = out->impl;
    if (out->name == NULL)
        out->name = dass_arena_printf(mem, "cuda:%s", impl->row->name);
    out->group = group_of(impl);
    out->n_launches = impl->n_stages;
    return out->name != NULL ? DASS_OK : DASS_NOMEM;
}

static dass_status cuda_bind(dass_backend *be, const dass_graph *g, dass_node n, dass_kernel *k, void *const *args,
                             void *ws)
{
    dass__cuda_impl *impl = k->impl;
    return impl->row->bind((dass_cuda *)be, g, n, impl, args, ws);
}

/* Stage by stage, the argument structs one after another and the larger of the grids. */
static dass_status cuda_merge(dass_backend *be, dass_arena *mem, const dass_kernel *const *k, uint32_t n,
                              dass_kernel *out)
{
    (void)be;
    const dass__cuda_impl *first = k[0]->impl;
    dass__cuda_impl *impl = dass_arena_alloc(mem, sizeof *impl);
    if (impl == NULL)
        return DASS_NOMEM;
    impl->row = first->row;
    impl->n_stages = first->n_stages;
    for (uint32_t i = 1; i < n; i++) /* equal groups are equal hashes, no more */
        DASS_ASSERT(((const dass__cuda_impl *)k[i]->impl)->n_stages == first->n_stages);
    for (uint32_t s = 0; s < first->n_stages; s++) {
        dass__launch *to = &impl->stage[s];
        *to = first->stage[s];
        to->n_items = n;
        unsigned char *args = dass_arena_alloc(mem, (size_t)n * to->item_bytes);
        if (args == NULL)
            return DASS_NOMEM;
        to->args = args;
        for (uint32_t i = 0; i < n; i++) {
            const dass__launch *from = &((const dass__cuda_impl *)k[i]->impl)->stage[s];
            DASS_ASSERT(from->fn == to->fn && from->grid.variant == to->grid.variant);
            DASS_ASSERT(from->item_bytes == to->item_bytes);
            memcpy(args + (size_t)i * to->item_bytes, from->args, to->item_bytes);
            to->grid.x = from->grid.x > to->grid.x ? from->grid.x : to->grid.x;
            to->grid.y = from->grid.y > to->grid.y ? from->grid.y : to->grid.y;
        }
    }
    *out = (dass_kernel){.run = run_stages, .impl = impl, .name = k[0]->name};
    for (uint32_t s = 0; s < impl->n_stages; s++)
        out->n_launches += (n + DASS_K_ITEMS - 1) / DASS_K_ITEMS;
    return DASS_OK;
}

static const char *cuda_launch(const dass_kernel *k, uint32_t i)
{
    const dass__cuda_impl *impl = k->impl;
    for (uint32_t s = 0; s < impl->n_stages; s++) {
        const dass__launch *l = &impl->stage[s];
        const uint32_t n = l->fn == NULL ? 1 : (l->n_items + DASS_K_ITEMS - 1) / DASS_K_ITEMS;
        const char *name = l->fn == NULL ? libraries[l->library].name : dass_k_launcher_of(l->fn, l->grid.variant);
        if (i < n)
            return name != NULL ? name : "a launcher without this variant";
        i -= n;
    }
    return NULL;
}

static bool cuda_can(dass_backend *be, dass_op op)
{
    (void)be;
    return op == DASS_OP_DWPW || op == DASS_OP_WSUM || op == DASS_OP_SPCONV || op == DASS_OP_IRBLOCK;
}

static const char *cuda_library(dass_backend *be, dass_op op)
{
    (void)be;
    return op == DASS_OP_SPCONV ? "cuSPARSE" : NULL;
}

static dass_status cuda_fill(dass_backend *be, void *dst, uint32_t word, size_t bytes)
{
    dass_cuda *c = (dass_cuda *)be;
    if (bytes % 4 != 0)
        return DASS_FAIL(DASS_ARG, "cuda: fill of %zu bytes; give a multiple of 4", bytes);
    const int code = dass_k_fill_words(dst, word, bytes / 4, c->stream);
    return code == 0 ? DASS_OK : dass__cuda_fail(code, "fill", __FILE__, __LINE__);
}

const dass_backend_ops dass_backend_cuda = {
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .write = cuda_write,
    .read = cuda_read,
    .read_many = cuda_read_many,
    .room = cuda_room,
    .fill = cuda_fill,
    .sync = cuda_sync,
    .select = cuda_select,
    .bind = cuda_bind,
    .drop = cuda_drop,
    .can = cuda_can,
    .library = cuda_library,
    .merge = cuda_merge,
    .launch = cuda_launch,
    .capture_begin = dass__cuda_capture_begin,
    .capture_end = dass__cuda_capture_end,
    .replay = dass__cuda_replay,
    .replay_free = dass__cuda_replay_free,
    .replay_nodes = dass__cuda_replay_nodes,
    .time_each = dass__cuda_time_each,
    .real = DASS_F32,
    .acts_on_load = 1u << DASS_ACT_RELU6, /* cuBLASLt has an epilogue for RELU */
    .precisions = 1u << DASS_PRECISION_TF32 | 1u << DASS_PRECISION_BF16,
};
