/* Rows of pointwise convolutions and of linear layers (1x1 on (N,C,1,1)) through cuBLASLt: an NHWC activation is a
 * matrix of M = N H W rows. No operand is copied or transposed: what is row-major (rows, cols) here is column-major
 * (cols, rows) there, so the products are
 *
 *     y'   (OC, M)  = w (OC, IC) x' (IC, M)        w' stored, transposed
 *     d_x' (IC, M)  = w' (IC, OC) d_y' (OC, M)
 *     d_w' (IC, OC) = x' (IC, M) d_y (M, OC)       d_y' stored, transposed
 *
 * Factors in bf16 are multiplied exactly and summed in fp32, whatever run.precision is, and the sum is rounded once.
 * The library adds a bias of D's type only, so a forward product in bf16 with a bias is left to cuDNN's rows.
 *
 * The algorithm is the heuristic's first, chosen in prepare, with the node's own scratch; run neither allocates nor
 * decides. Invariant: the same shapes give the same bits, because sums that are split over K may only be joined in the
 * scratch and in order.
 */
#include <cublasLt.h>
#include <string.h>

#include "cuda.h"
#include "dass/mem.h"

typedef struct blas_options {
    cublasComputeType_t compute; /* of factors in fp32 */
    uint64_t max_ws;             /* bytes of scratch for one product, at most */
} blas_options;

static const cublasComputeType_t compute_of[DASS_N_PRECISIONS] = {[DASS_PRECISION_FP32] = CUBLAS_COMPUTE_32F,
                                                                  [DASS_PRECISION_TF32] = CUBLAS_COMPUTE_32F_FAST_TF32,
                                                                  [DASS_PRECISION_BF16] = CUBLAS_COMPUTE_32F};

typedef struct blas {
    cublasLtHandle_t handle;
    blas_options opt;
} blas;

/* One prepared product D = op(A) op(B) (+ bias of the rows). */
typedef struct product {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t layout_a, layout_b, layout_d;
    cublasLtMatmulAlgo_t algo;
    const void *a, *b;
    void *d, *ws;
    size_t ws_bytes;
} product;

/* What a product is made of, in cuBLASLt's column-major terms: D (m, n), sum over k. bias may be NULL. */
typedef struct recipe {
    uint64_t m, n, k;
    cublasOperation_t op_a, op_b;
    const dass_value *a, *b, *d, *bias;
    bool relu; /* D = max(that, 0) */
    const char *name;
} recipe;

static dass_status blas_fail(cublasStatus_t e, const char *call, const char *file, int line)
{
    return DASS_FAIL(e == CUBLAS_STATUS_ALLOC_FAILED ? DASS_NOMEM : DASS_DEVICE, "cuda: %s: %s (%s) at %s:%d", call,
                     cublasLtGetStatusString(e), cublasLtGetStatusName(e), file, line);
}
#define BLAS_TRY(call)                                          \
    do {                                                        \
        const cublasStatus_t code_ = (call);                    \
        if (code_ != CUBLAS_STATUS_SUCCESS)                     \
            return blas_fail(code_, #call, __FILE__, __LINE__); \
    } while (0)

/* ---- the library ------------------------------------------------------------------------------------------------- */

static dass_status blas_of(dass_cuda *c, blas **out)
{
    if (c->blas == NULL) {
        void *p = NULL;
        DASS_TRY(dass_mem_alloc(sizeof(blas), "cuBLASLt", &p));
        blas *b = p;
        b->opt = (blas_options){.compute = compute_of[c->precision], .max_ws = 8u << 20};
        const cublasStatus_t e = cublasLtCreate(&b->handle);
        if (e != CUBLAS_STATUS_SUCCESS) {
            dass_mem_free(b);
            return blas_fail(e, "cublasLtCreate", __FILE__, __LINE__);
        }
        c->blas = b;
    }
    *out = c->blas;
    return DASS_OK;
}

void dass__blas_close(dass_cuda *c)
{
    blas *b = c->blas;
    if (b == NULL)
        return;
    (void)cublasLtDestroy(b->handle);
    dass_mem_free(b);
    c->blas = NULL;
}

/* ---- a product --------------------------------------------------------------------------------------------------- */

static void product_free(product *p)
{
    if (p->desc != NULL)
        (void)cublasLtMatmulDescDestroy(p->desc);
    if (p->layout_a != NULL)
        (void)cublasLtMatrixLayoutDestroy(p->layout_a);
    if (p->layout_b != NULL)
        (void)cublasLtMatrixLayoutDestroy(p->layout_b);
    if (p->layout_d != NULL)
        (void)cublasLtMatrixLayoutDestroy(p->layout_d);
    memset(p, 0, sizeof *p);
}

/* Bytes that the address of v is sure to be a multiple of, as far as the library asks. Temporaries and buffers begin at
 * 256. */
static uint32_t alignment_of(const dass_value *v)
{
    const uint64_t at = v->buf == 0 ? 0 : (uint64_t)v->offset * dass_dtype_bytes(v->dtype);
    return at % 256 == 0 ? 256 : (uint32_t)(at & -at);
}

static cudaDataType_t type_of(const dass_value *v)
{
    return v->dtype == DASS_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static dass_status describe(const blas_options *opt, const recipe *r, product *p)
{
    const cublasComputeType_t compute = r->a->dtype == DASS_BF16 ? CUBLAS_COMPUTE_32F : opt->compute;
    BLAS_TRY(cublasLtMatmulDescCreate(&p->desc, compute, CUDA_R_32F));
    BLAS_TRY(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &r->op_a, sizeof r->op_a));
    BLAS_TRY(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &r->op_b, sizeof r->op_b));
    if (r->bias != NULL || r->relu) {
        const cublasLtEpilogue_t after = r->bias == NULL ? CUBLASLT_EPILOGUE_RELU
                                         : r->relu       ? CUBLASLT_EPILOGUE_RELU_BIAS
                                                         : CUBLASLT_EPILOGUE_BIAS;
        BLAS_TRY(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &after, sizeof after));
    }
    if (r->bias != NULL) {
        /* The heuristic has no word for the alignment of a bias but its address: one as odd as the true one will be. */
        const void *const like = (const void *)(uintptr_t)alignment_of(r->bias);
        BLAS_TRY(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &like, sizeof like));
    }
    const uint64_t a_rows = r->op_a == CUBLAS_OP_N ? r->m : r->k;
    const uint64_t b_rows = r->op_b == CUBLAS_OP_N ? r->k : r->n;
    const cudaDataType_t type_d = type_of(r->d);
    BLAS_TRY(cublasLtMatrixLayoutCreate(&p->layout_a, type_of(r->a), a_rows, r->m * r->k / a_rows, (int64_t)a_rows));
    BLAS_TRY(cublasLtMatrixLayoutCreate(&p->layout_b, type_of(r->b), b_rows, r->k * r->n / b_rows, (int64_t)b_rows));
    BLAS_TRY(cublasLtMatrixLayoutCreate(&p->layout_d, type_d, r->m, r->n, (int64_t)r->m));
    return DASS_OK;
}

static dass_status set_preference(cublasLtMatmulPreference_t pref, const blas_options *opt, const recipe *r)
{
    /* The other schemes join what was split over K in the order in which blocks finish. */
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t align_a = alignment_of(r->a);
    const uint32_t align_b = alignment_of(r->b);
    const uint32_t align_d = alignment_of(r->d);
#define PREF(attr, value) \
    BLAS_TRY(cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_##attr, &(value), sizeof(value)))
    PREF(MAX_WORKSPACE_BYTES, opt->max_ws);
    PREF(REDUCTION_SCHEME_MASK, schemes);
    PREF(MIN_ALIGNMENT_A_BYTES, align_a);
    PREF(MIN_ALIGNMENT_B_BYTES, align_b);
    PREF(MIN_ALIGNMENT_C_BYTES, align_d);
    PREF(MIN_ALIGNMENT_D_BYTES, align_d);
#undef PREF
    return DASS_OK;
}

static dass_status choose(const blas *b, const recipe *r, product *p)
{
    cublasLtMatmulPreference_t pref = NULL;
    cublasLtMatmulHeuristicResult_t best;
    int n = 0;
    memset(&best, 0, sizeof best);
    BLAS_TRY(cublasLtMatmulPreferenceCreate(&pref));
    dass_status st = set_preference(pref, &b->opt, r);
    cublasStatus_t e = CUBLAS_STATUS_SUCCESS;
    if (st == DASS_OK)
        e = cublasLtMatmulAlgoGetHeuristic(b->handle, p->desc, p->layout_a, p->layout_b, p->layout_d, p->layout_d, pref,
                                           1, &best, &n);
    (void)cublasLtMatmulPreferenceDestroy(pref);
    if (st != DASS_OK)
        return st;
    if (e == CUBLAS_STATUS_SUCCESS && n > 0)
        e = best.state;
    if (e == CUBLAS_STATUS_NOT_SUPPORTED || (e == CUBLAS_STATUS_SUCCESS && n == 0))
        return DASS_FAIL(DASS_UNSUPPORTED,
                         "cuda: cuBLASLt has no algorithm for %s, a product (%llu x %llu) times (%llu x %llu); change "
                         "the number of channels or use --device host",
                         r->name, (unsigned long long)r->m, (unsigned long long)r->k, (unsigned long long)r->k,
                         (unsigned long long)r->n);
    if (e != CUBLAS_STATUS_SUCCESS)
        return blas_fail(e, "cublasLtMatmulAlgoGetHeuristic", __FILE__, __LINE__);
    p->algo = best.algo;
    p->ws_bytes = best.workspaceSize;
    return DASS_OK;
}

static dass_status run_product(dass_cuda *c, void *object)
{
    static const float one = 1.0f;
    static const float zero = 0.0f;
    const product *p = object;
    BLAS_TRY(cublasLtMatmul(((blas *)c->blas)->handle, p->desc, &one, p->a, p->layout_a, p->b, p->layout_b, &zero, p->d,
                            p->layout_d, p->d, p->layout_d, &p->algo, p->ws, p->ws_bytes, c->stream));
    return DASS_OK;
}

static dass_status add_product(dass_cuda *c, dass_arena *mem, const recipe *r, dass_kernel *k)
{
    dass_status st = DASS_OK;
    blas *b = NULL;
    product *p = dass_arena_alloc(mem, sizeof *p);
    if (p == NULL)
        return DASS_NOMEM;
    DASS_TRY(blas_of(c, &b));
    DASS_TRY_TO(describe(&b->opt, r, p), st, fail);
    DASS_TRY_TO(choose(b, r, p), st, fail);
    DASS_TRY_TO(dass__cuda_add_call(k, DASS__LIBRARY_CUBLASLT, r->name, run_product, p), st, fail);
    dass__cuda_impl_of(k)->own = p;
    k->ws_bytes = p->ws_bytes;
    return DASS_OK;
fail:
    product_free(p);
    return st;
}

static void drop_product(dass_cuda *c, dass__cuda_impl *impl)
{
    (void)c;
    if (impl->own != NULL)
        product_free(impl->own);
    impl->own = NULL;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static bool fits_pointwise(const dass_cuda *c, const dass_graph *g, dass_node n)
{
    (void)c;
    const dass_conv_attr *a = &g->nodes[n].attr.conv;
    return a->kh == 1 && a->kw == 1 && a->stride == 1 && a->pad == 0 && a->groups == 1;
}

static bool fits_forward(const dass_cuda *c, const dass_graph *g, dass_node n)
{
    const bool bias = dass_node_in(g, n)[2] != 0;
    return fits_pointwise(c, g, n) && !(bias && dass__cuda_out(g, n, 0)->dtype == DASS_BF16);
}

/* x, w, bias -> y */
static dass_status prepare_forward(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    const dass_value *y = dass__cuda_out(g, n, 0);
    const recipe r = {.m = (uint64_t)y->dim[1],
                      .n = dass__cuda_pixels(x),
                      .k = (uint64_t)x->dim[1],
                      .op_a = CUBLAS_OP_T,
                      .op_b = CUBLAS_OP_N,
                      .a = dass__cuda_in(g, n, 1),
                      .b = x,
                      .d = y,
                      .bias = dass_node_in(g, n)[2] ? dass__cuda_in(g, n, 2) : NULL,
                      .relu = g->nodes[n].attr.conv.act == DASS_ACT_RELU,
                      .name = "pointwise"};
    DASS_TRY(add_product(c, mem, &r, k));
    return r.relu ? DASS_OK : dass__cuda_add_act(c, mem, g, n, k);
}

static dass_status bind_forward(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                void *const *args, void *ws)
{
    (void)c;
    product *p = impl->own;
    p->a = args[1];
    p->b = args[0];
    p->d = args[3];
    p->ws = ws;
    if (g->nodes[n].attr.conv.act != DASS_ACT_RELU)
        dass__cuda_bind_act(g, n, impl, args[3]);
    if (args[2] != NULL)
        BLAS_TRY(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &args[2], sizeof args[2]));
    return DASS_OK;
}

/* d_y, w -> d_x */
static dass_status prepare_data(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *d_y = dass__cuda_in(g, n, 0);
    const dass_value *d_x = dass__cuda_out(g, n, 0);
    const recipe r = {.m = (uint64_t)d_x->dim[1],
                      .n = dass__cuda_pixels(d_y),
                      .k = (uint64_t)d_y->dim[1],
                      .op_a = CUBLAS_OP_N,
                      .op_b = CUBLAS_OP_N,
                      .a = dass__cuda_in(g, n, 1),
                      .b = d_y,
                      .d = d_x,
                      .name = "pointwise_bwd_data"};
    return add_product(c, mem, &r, k);
}

static dass_status bind_data(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                             void *ws)
{
    (void)c, (void)g, (void)n;
    product *p = impl->own;
    p->a = args[1];
    p->b = args[0];
    p->d = args[2];
    p->ws = ws;
    return DASS_OK;
}

/* x, d_y -> d_w */
static dass_status prepare_weights(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    const dass_value *d_y = dass__cuda_in(g, n, 1);
    const recipe r = {.m = (uint64_t)x->dim[1],
                      .n = (uint64_t)d_y->dim[1],
                      .k = dass__cuda_pixels(x),
                      .op_a = CUBLAS_OP_N,
                      .op_b = CUBLAS_OP_T,
                      .a = x,
                      .b = d_y,
                      .d = dass__cuda_out(g, n, 0),
                      .name = "pointwise_bwd_weights"};
    return add_product(c, mem, &r, k);
}

static dass_status bind_weights(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                void *const *args, void *ws)
{
    (void)c, (void)g, (void)n;
    product *p = impl->own;
    p->a = args[0];
    p->b = args[1];
    p->d = args[2];
    p->ws = ws;
    return DASS_OK;
}

#define ROW(OP, can, fn, text)                                                                            \
    {                                                                                                     \
        .op = DASS_OP_##OP, .name = text, .fits = fits_##can, .prepare = prepare_##fn, .bind = bind_##fn, \
        .drop = drop_product                                                                              \
    }
const dass__cuda_row dass__cuda_rows_blas[] = {
    ROW(CONV, forward, forward, "cublaslt_pointwise"),
    ROW(CONV_BWD_DATA, pointwise, data, "cublaslt_pointwise_bwd_data"),
    ROW(CONV_BWD_WEIGHTS, pointwise, weights, "cublaslt_pointwise_bwd_weights"),
    {.op = DASS_OP_NONE},
};
