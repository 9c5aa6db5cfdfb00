/* Rows of sparse pointwise convolutions: our kernels over kernels/spconv.h and kernels/irblock.h, and, for nodes that
 * ask for the library, cuSPARSE's SpMM with our epilogue behind it. An NHWC activation is a column-major matrix of
 * pixels as columns, so nothing is copied or transposed:
 *
 *     y' (OC, M) = S (OC, IC) x' (IC, M),  S by rows
 *
 * cuSPARSE looks at the pattern once, in the first run, which is never recorded; its memory is taken in bind, because
 * what it finds out has to stay. The algorithm is the one whose sums have a fixed order. Tiles of our kernels are
 * chosen here, from the shape, the entries and what shared memory the device has.
 */
#include <cuda_runtime_api.h>
#include <cusparse.h>
#include <string.h>

#include "cuda.h"
#include "dass/mem.h"
#include "kernels/irblock.h"
#include "kernels/spconv.h"

/* ---- our spconv: x, values, columns, starts, bias, residual -> y ------------------------------------------------ */

enum { SPCONV_SHARED = 64 * 1024 }; /* more channels at once would leave less than three blocks to a multiprocessor */

static uint32_t blocks_of(uint32_t m, uint32_t oc, uint32_t rows)
{
    const uint32_t tall = DASS_K_SP_WARPS * rows;
    return (m + DASS_K_SP_PIXELS - 1) / DASS_K_SP_PIXELS * ((oc + tall - 1) / tall);
}

/* As many rows to a warp as leave two blocks to a multiprocessor: each group of rows reads x again. */
static uint32_t rows_of(const dass_cuda *c, uint32_t m, uint32_t oc)
{
    uint32_t rows = DASS_K_SP_MAX_ROWS;
    while (rows > 1 && (blocks_of(m, oc, rows) < 2 * (uint32_t)c->n_sm || DASS_K_SP_WARPS * rows / 2 >= oc))
        rows /= 2;
    return rows;
}

static bool fits_spconv(const dass_cuda *c, const dass_graph *g, dass_node n)
{
    const dass_value *y = dass__cuda_out(g, n, 0);
    return dass__cuda_small(c, g, n) && y->dim[1] <= 65535 * DASS_K_SP_WARPS; /* rows of the grid */
}

static dass_status prepare_spconv(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const uint32_t side = DASS_K_SP_SIDE * (uint32_t)sizeof(float);
    const uint32_t limit = c->max_shared < SPCONV_SHARED ? c->max_shared : SPCONV_SHARED;
    const uint32_t m = dass__cuda_pixels(dass__cuda_in(g, n, 0));
    const uint32_t ic = (uint32_t)dass__cuda_in(g, n, 0)->dim[1];
    const uint32_t oc = (uint32_t)dass__cuda_out(g, n, 0)->dim[1];
    const uint32_t rows = rows_of(c, m, oc);
    const uint32_t tall = DASS_K_SP_WARPS * rows;
    const uint32_t turns = (ic + limit / side - 1) / (limit / side);
    const dass_k_grid grid = {(m + DASS_K_SP_PIXELS - 1) / DASS_K_SP_PIXELS, (oc + tall - 1) / tall,
                              rows | dass__cuda_stored(dass__cuda_out(g, n, 0))};
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_spconv_run, "spconv", grid, sizeof(dass_k_spconv), &p));
    dass_k_spconv *a = p;
    a->m = m;
    a->ic = ic;
    a->oc = oc;
    a->chunk = (ic + turns - 1) / turns; /* turns as equal as can be */
    a->act = g->nodes[n].attr.sparse.act;
    a->shared = (a->chunk > tall ? a->chunk : tall) * side;
    return DASS_OK;
}

static dass_status bind_spconv(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                               void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_spconv *a = dass__cuda_args(impl, 0);
    a->x = args[0];
    a->values = args[1];
    a->columns = args[2];
    a->starts = args[3];
    a->bias = args[4];
    a->residual = args[5];
    a->y = args[6];
    return DASS_OK;
}

/* ---- irblock: x, E, b_e, w_dw, b_dw, P, b_p, residual -> y ------------------------------------------------------- */

static dass_k_irblock block_of(const dass_graph *g, dass_node n)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    const dass_value *y = dass__cuda_out(g, n, 0);
    return (dass_k_irblock){.h = x->dim[2],
                            .w = x->dim[3],
                            .oh = y->dim[2],
                            .ow = y->dim[3],
                            .ic = (uint32_t)x->dim[1],
                            .hidden = (uint32_t)dass__cuda_in(g, n, 5)->dim[0],
                            .oc = (uint32_t)y->dim[1],
                            .stride = g->nodes[n].attr.irblock.stride,
                            .act = g->nodes[n].attr.irblock.act};
}

static uint32_t tiles_of(const dass_k_irblock *a, int32_t images)
{
    return (uint32_t)(images * ((a->oh + a->th - 1) / a->th) * ((a->ow + a->tw - 1) / a->tw));
}

/* The largest chunk of hidden channels, a multiple of the warps, that the device has room for; false: none. Half of the
 * room if that holds a chunk of 32, so that two blocks share a multiprocessor. */
static bool choose_chunk(const dass_cuda *c, dass_k_irblock *a)
{
    for (uint32_t part = 2; part > 0; part--)
        for (a->chunk = 64; a->chunk >= (part == 2 ? 32 : 8); a->chunk -= 8) {
            const uint64_t bytes = dass_k_ir_shared(a);
            a->shared = (uint32_t)bytes;
            if (bytes <= c->max_shared / part)
                return true;
        }
    return false;
}

/* Work of a multiprocessor, in warp instructions: what the lanes of all tiles do, idle ones too, in as many turns as
 * the blocks take. Barriers of a chunk count as 300. */
static double price_of(const dass_cuda *c, const dass_graph *g, dass_node n, const dass_k_irblock *a)
{
    const dass_irblock_attr *at = &g->nodes[n].attr.irblock;
    const uint32_t halo =
        dass_k_ir_halo((uint32_t)a->th, (uint32_t)a->stride) * dass_k_ir_halo((uint32_t)a->tw, (uint32_t)a->stride);
    const double in = dass_k_ir_side(halo) / 32; /* groups of lanes */
    const double out = dass_k_ir_side((uint32_t)(a->th * a->tw)) / 32;
    const double work = in * (double)at->nnz_expand + out * ((double)at->nnz_project + 9.0 * a->hidden) +
                        halo * ((a->ic + 31) / 32) + 300.0 * ((a->hidden + a->chunk - 1) / a->chunk);
    const uint32_t blocks = tiles_of(a, dass__cuda_in(g, n, 0)->dim[0]);
    return work * ((blocks + (uint32_t)c->n_sm - 1) / (uint32_t)c->n_sm);
}

/* The cheapest of a few tiles for which there is room. */
static bool choose_tile(const dass_cuda *c, const dass_graph *g, dass_node n, dass_k_irblock *out)
{
    static const int32_t sizes[][2] = {{8, 8}, {7, 7}, {4, 8}, {4, 4}, {2, 8}, {2, 4}, {2, 2}, {1, 2}, {1, 1}};
    double best = 0.0;
    bool any = false;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        dass_k_irblock a = block_of(g, n);
        a.th = sizes[i][0] < a.oh ? sizes[i][0] : a.oh;
        a.tw = sizes[i][1] < a.ow ? sizes[i][1] : a.ow;
        if (!choose_chunk(c, &a))
            continue;
        const double price = price_of(c, g, n, &a);
        if (any && price >= best)
            continue;
        any = true;
        best = price;
        *out = a;
    }
    return any;
}

static bool fits_irblock(const dass_cuda *c, const dass_graph *g, dass_node n)
{
    dass_k_irblock a;
    return dass__cuda_small(c, g, n) && choose_tile(c, g, n, &a);
}

static dass_status prepare_irblock(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    dass_k_irblock chosen;
    DASS_ASSERT(choose_tile(c, g, n, &chosen));
    const dass_k_grid grid = {tiles_of(&chosen, dass__cuda_in(g, n, 0)->dim[0]), 1,
                              DASS_K_V1 | dass__cuda_stored(dass__cuda_out(g, n, 0))};
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_irblock_run, "irblock", grid, sizeof chosen, &p));
    dass_k_irblock *a = p;
    chosen.head = a->head;
    *a = chosen;
    return DASS_OK;
}

static dass_status bind_irblock(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                void *const *args, void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_irblock *a = dass__cuda_args(impl, 0);
    a->x = args[0];
    a->expand = (dass_k_csr){args[1], args[2], args[3]};
    a->b_expand = args[4];
    a->w_dw = args[5];
    a->b_dw = args[6];
    a->project = (dass_k_csr){args[7], args[8], args[9]};
    a->b_project = args[10];
    a->residual = args[11];
    a->y = args[12];
    return DASS_OK;
}

/* ---- cuSPARSE ---------------------------------------------------------------------------------------------------- */

/* One prepared product, with what cuSPARSE has found out about its pattern in `buffer`. */
typedef struct spmm {
    cusparseSpMatDescr_t s;
    cusparseDnMatDescr_t x, y;
    void *buffer;
    bool seen; /* the pattern */
} spmm;

static const float one = 1.0f;
static const float zero = 0.0f;
static const cusparseSpMMAlg_t algorithm = CUSPARSE_SPMM_CSR_ALG3;

static dass_status sparse_fail(cusparseStatus_t e, const char *call, const char *file, int line)
{
    return DASS_FAIL(e == CUSPARSE_STATUS_ALLOC_FAILED ? DASS_NOMEM : DASS_DEVICE, "cuda: %s: %s (%s) at %s:%d", call,
                     cusparseGetErrorString(e), cusparseGetErrorName(e), file, line);
}
#define SPARSE_TRY(call)                                          \
    do {                                                          \
        const cusparseStatus_t code_ = (call);                    \
        if (code_ != CUSPARSE_STATUS_SUCCESS)                     \
            return sparse_fail(code_, #call, __FILE__, __LINE__); \
    } while (0)

static dass_status open_sparse(dass_cuda *c)
{
    cusparseHandle_t handle = NULL;
    if (c->sparse != NULL)
        return DASS_OK;
    SPARSE_TRY(cusparseCreate(&handle));
    c->sparse = handle;
    SPARSE_TRY(cusparseSetStream(handle, c->stream));
    return DASS_OK;
}

void dass__sparse_close(dass_cuda *c)
{
    if (c->sparse != NULL)
        (void)cusparseDestroy(c->sparse);
    c->sparse = NULL;
}

int dass__sparse_version(void)
{
    int part[3] = {0, 0, 0};
    (void)cusparseGetProperty(MAJOR_VERSION, &part[0]);
    (void)cusparseGetProperty(MINOR_VERSION, &part[1]);
    (void)cusparseGetProperty(PATCH_LEVEL, &part[2]);
    return part[0] * 1000 + part[1] * 100 + part[2];
}

static bool lies_well(const dass_value *v)
{
    return v->buf == 0 || v->offset * (int64_t)dass_dtype_bytes(v->dtype) % 16 == 0;
}

/* A matrix without entries, and operands off the 16-byte boundaries that the library's vector loads want, which happens
 * in tests alone, are left to our kernel. */
static bool fits_library(const dass_cuda *c, const dass_graph *g, dass_node n)
{
    const dass_sparse_attr *at = &g->nodes[n].attr.sparse;
    bool well = at->library != 0 && at->nnz > 0 && dass__cuda_small(c, g, n) && lies_well(dass__cuda_out(g, n, 0));
    for (uint32_t i = 0; i < 4; i++)
        well = well && lies_well(dass__cuda_in(g, n, i));
    return well;
}

static dass_status run_spmm(dass_cuda *c, void *object)
{
    const cusparseOperation_t as_is = CUSPARSE_OPERATION_NON_TRANSPOSE;
    spmm *p = object;
    if (!p->seen)
        SPARSE_TRY(cusparseSpMM_preprocess(c->sparse, as_is, as_is, &one, p->s, p->x, &zero, p->y, CUDA_R_32F,
                                           algorithm, p->buffer));
    p->seen = true;
    SPARSE_TRY(cusparseSpMM(c->sparse, as_is, as_is, &one, p->s, p->x, &zero, p->y, CUDA_R_32F, algorithm, p->buffer));
    return DASS_OK;
}

/* bf16 factors are multiplied into floats, which the epilogue rounds: the sum with bias and residual is rounded once.
 */
static bool is_narrow(const dass_graph *g, dass_node n)
{
    return dass__cuda_out(g, n, 0)->dtype == DASS_BF16;
}

static bool has_epilogue(const dass_graph *g, dass_node n)
{
    const dass_val *in = dass_node_in(g, n);
    return is_narrow(g, n) || in[4] != 0 || in[5] != 0 || g->nodes[n].attr.sparse.act != DASS_ACT_NONE;
}

static dass_status prepare_library(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *y = dass__cuda_out(g, n, 0);
    const dass_val residual = dass_node_in(g, n)[5];
    DASS_TRY(open_sparse(c));
    spmm *own = dass_arena_alloc(mem, sizeof *own);
    if (own == NULL)
        return DASS_NOMEM;
    dass__cuda_impl_of(k)->own = own;
    DASS_TRY(dass__cuda_add_call(k, DASS__LIBRARY_CUSPARSE, "cusparse spmm", run_spmm, own));
    if (is_narrow(g, n))
        k->ws_bytes = (size_t)dass_value_count(y) * sizeof(float);
    if (!has_epilogue(g, n))
        return DASS_OK;
    const bool wide = dass__cuda_vec4(y, y->dim[1]) && (!residual || dass__cuda_vec4(&g->vals[residual], y->dim[1]));
    const uint64_t threads = (uint64_t)dass_value_count(y) / (wide ? 4 : 1);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_bias_act_run, "bias and activation",
                            dass__cuda_flat_grid(c, threads, (wide ? DASS_K_V4 : DASS_K_V1) | dass__cuda_stored(y)),
                            sizeof(dass_k_bias_act), &p));
    dass_k_bias_act *a = p;
    a->m = dass__cuda_pixels(y);
    a->c = (uint32_t)y->dim[1];
    a->act = g->nodes[n].attr.sparse.act;
    return DASS_OK;
}

static void free_library(dass_cuda *c, spmm *p)
{
    if (p->s != NULL)
        (void)cusparseDestroySpMat(p->s);
    if (p->x != NULL)
        (void)cusparseDestroyDnMat(p->x);
    if (p->y != NULL)
        (void)cusparseDestroyDnMat(p->y);
    if (p->buffer != NULL) {
        (void)cudaStreamSynchronize(c->stream);
        (void)cudaFree(p->buffer);
    }
    memset(p, 0, sizeof *p);
}

/* y: where the product goes, floats. */
static dass_status describe(const dass_graph *g, dass_node n, void *const *args, void *y, spmm *p)
{
    const cudaDataType type = is_narrow(g, n) ? CUDA_R_16BF : CUDA_R_32F;
    const int64_t m = dass__cuda_pixels(dass__cuda_in(g, n, 0));
    const int64_t ic = dass__cuda_in(g, n, 0)->dim[1];
    const int64_t oc = dass__cuda_out(g, n, 0)->dim[1];
    SPARSE_TRY(cusparseCreateCsr(&p->s, oc, ic, g->nodes[n].attr.sparse.nnz, args[3], args[2], args[1],
                                 CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, type));
    SPARSE_TRY(cusparseCreateDnMat(&p->x, ic, m, ic, args[0], type, CUSPARSE_ORDER_COL));
    SPARSE_TRY(cusparseCreateDnMat(&p->y, oc, m, oc, y, CUDA_R_32F, CUSPARSE_ORDER_COL));
    return DASS_OK;
}

static dass_status bind_library(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                void *const *args, void *ws)
{
    const cusparseOperation_t as_is = CUSPARSE_OPERATION_NON_TRANSPOSE;
    spmm *p = impl->own;
    void *const y = is_narrow(g, n) ? ws : args[6];
    size_t bytes = 0;
    free_library(c, p); /* of an earlier bind */
    DASS_TRY(describe(g, n, args, y, p));
    SPARSE_TRY(
        cusparseSpMM_bufferSize(c->sparse, as_is, as_is, &one, p->s, p->x, &zero, p->y, CUDA_R_32F, algorithm, &bytes));
    CUDA_TRY(cudaMalloc(&p->buffer, bytes > 0 ? bytes : 1));
    if (!has_epilogue(g, n))
        return DASS_OK;
    dass_k_bias_act *a = dass__cuda_args(impl, 1);
    a->x = y;
    a->bias = args[4];
    a->residual = args[5];
    a->y = args[6];
    return DASS_OK;
}

static void drop_library(dass_cuda *c, dass__cuda_impl *impl)
{
    if (impl->own != NULL)
        free_library(c, impl->own);
    impl->own = NULL;
}

const dass__cuda_row dass__cuda_rows_sparse[] = {
    {.op = DASS_OP_SPCONV,
     .name = "cusparse_spmm",
     .fits = fits_library,
     .prepare = prepare_library,
     .bind = bind_library,
     .drop = drop_library},
    {.op = DASS_OP_SPCONV, .name = "spconv", .fits = fits_spconv, .prepare = prepare_spconv, .bind = bind_spconv},
    {.op = DASS_OP_IRBLOCK, .name = "irblock", .fits = fits_irblock, .prepare = prepare_irblock, .bind = bind_irblock},
    {.op = DASS_OP_NONE},
};
