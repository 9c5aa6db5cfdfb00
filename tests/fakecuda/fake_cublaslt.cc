/* A double of cuBLASLt: exactly the calls of src/cuda/cuda_blas.c, products as plain loops summed in double; the sum is
 * rounded to float, as the library keeps it, and to D's type. What the library leaves to its caller is checked and said
 * as a fault: layouts that do not fit the product, types that it has no product of, operands outside of device memory
 * or less aligned than the heuristic was promised, an algorithm of another problem, too little scratch, reductions
 * whose order is not fixed, descriptors that were not destroyed or are used after.
 *
 * While $FAKE_CUBLASLT_REFUSE is set, the heuristic has no algorithm for anything.
 *
 * A product over more than `split_from` terms asks for scratch and does its sum in two parts there, as a real one may.
 */
#include <cublasLt.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "fake.h"

namespace {
constexpr uint64_t split_from = 40;

enum kind { handle_kind = 1, desc_kind, layout_kind, preference_kind };
const char *const kind_name[] = {"", "handle", "operation descriptor", "layout", "preference"};

uint32_t bytes_of(cudaDataType_t type)
{
    return type == CUDA_R_16BF ? 2 : 4;
}

struct desc_state {
    cublasComputeType_t compute;
    int32_t op[2] = {CUBLAS_OP_N, CUBLAS_OP_N};
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    const void *bias = nullptr;
};
struct layout_state {
    uint64_t rows, cols;
    int64_t ld;
    cudaDataType_t type;
    uint64_t bytes() const
    {
        return ((uint64_t)ld * (cols - 1) + rows) * bytes_of(type);
    }
};
struct preference_state {
    uint64_t max_ws = 0;
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
    uint32_t align[4] = {256, 256, 256, 256}; /* A, B, C, D */
};
struct problem {
    uint64_t m, n, k;
    int32_t op[2];
    uint32_t epilogue;
    cudaDataType_t type[3]; /* A, B, C and D */
    bool bias() const
    {
        return epilogue & CUBLASLT_EPILOGUE_BIAS;
    }
    bool relu() const
    {
        return epilogue & CUBLASLT_EPILOGUE_RELU;
    }
};
struct algo_state { /* what lies in a cublasLtMatmulAlgo_t */
    uint64_t m, n, k, ws;
    uint16_t op[2], align[4], type[3], epilogue, bias_align;
    uint32_t magic;
};
static_assert(sizeof(algo_state) <= sizeof(cublasLtMatmulAlgo_t), "an algorithm is 64 bytes");
constexpr uint32_t magic = 0x0b1a5a16u;

std::map<const void *, kind> live;

struct at_exit {
    ~at_exit()
    {
        for (const auto &l : live)
            fake_fault("a cuBLASLt %s was never destroyed", kind_name[l.second]);
        if (!live.empty())
            std::_Exit(70);
    }
} check_at_exit;

template <class S, class P> cublasStatus_t make(P **out, S *state, kind k)
{
    *out = reinterpret_cast<P *>(state);
    live[*out] = k;
    return CUBLAS_STATUS_SUCCESS;
}
bool is_live(const void *p, kind k)
{
    const auto it = live.find(p);
    if (it != live.end() && it->second == k)
        return true;
    fake_fault("a cuBLASLt %s that does not exist, or was destroyed", kind_name[k]);
    return false;
}
template <class S> cublasStatus_t destroy(const void *p, kind k)
{
    if (!is_live(p, k))
        return CUBLAS_STATUS_INVALID_VALUE;
    live.erase(p);
    delete static_cast<const S *>(p);
    return CUBLAS_STATUS_SUCCESS;
}

template <class T> cublasStatus_t take(T *to, const void *from, size_t bytes)
{
    if (from == nullptr || bytes != sizeof(T)) {
        fake_fault("a cuBLASLt attribute of %zu bytes where %zu are wanted", bytes, sizeof(T));
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    std::memcpy(to, from, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

uint32_t alignment(const void *p)
{
    const uintptr_t at = reinterpret_cast<uintptr_t>(p);
    return at % 256 == 0 ? 256 : static_cast<uint32_t>(at & (~at + 1));
}

const layout_state &layout_of(cublasLtMatrixLayout_t l)
{
    return *reinterpret_cast<const layout_state *>(l);
}

/* The rows of the documentation's table of types that are used here: fp32 throughout, or factors in bf16 and D in bf16
 * or fp32; C is of D's type, and so is a bias (CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE cannot say otherwise for these). */
bool types_exist(cublasComputeType_t compute, const cudaDataType_t *type, cudaDataType_t c)
{
    const bool narrow = type[0] == CUDA_R_16BF && type[1] == CUDA_R_16BF && compute == CUBLAS_COMPUTE_32F;
    const bool single = type[0] == CUDA_R_32F && type[1] == CUDA_R_32F && type[2] == CUDA_R_32F &&
                        (compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_FAST_TF32);
    if (c == type[2] && (narrow || single))
        return true;
    fake_fault("cuBLASLt: no product of types %d, %d, %d to %d, computed as %d", (int)type[0], (int)type[1], (int)c,
               (int)type[2], (int)compute);
    return false;
}

/* m, n, k of a product whose descriptors fit each other. */
bool problem_of(const void *handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, problem *out)
{
    if (!is_live(handle, handle_kind) || !is_live(desc, desc_kind) || !is_live(a, layout_kind) ||
        !is_live(b, layout_kind) || !is_live(c, layout_kind) || !is_live(d, layout_kind))
        return false;
    const desc_state &s = *reinterpret_cast<const desc_state *>(desc);
    const layout_state &la = layout_of(a);
    const layout_state &lb = layout_of(b);
    const layout_state &lc = layout_of(c);
    const layout_state &ld = layout_of(d);
    const bool na = s.op[0] == CUBLAS_OP_N;
    const bool nb = s.op[1] == CUBLAS_OP_N;
    *out = {ld.rows, ld.cols, na ? la.cols : la.rows, {s.op[0], s.op[1]}, s.epilogue, {la.type, lb.type, ld.type}};
    if (!types_exist(s.compute, out->type, lc.type))
        return false;
    if (s.epilogue != CUBLASLT_EPILOGUE_DEFAULT && s.epilogue != CUBLASLT_EPILOGUE_BIAS &&
        s.epilogue != CUBLASLT_EPILOGUE_RELU && s.epilogue != CUBLASLT_EPILOGUE_RELU_BIAS) {
        fake_fault("cuBLASLt: the double does not know epilogue %u", s.epilogue);
        return false;
    }
    if ((na ? la.rows : la.cols) == out->m && (nb ? lb.cols : lb.rows) == out->n &&
        (nb ? lb.rows : lb.cols) == out->k && lc.rows == out->m && lc.cols == out->n)
        return true;
    fake_fault("cuBLASLt: layouts (%lu, %lu), (%lu, %lu) and (%lu, %lu) do not make a product", la.rows, la.cols,
               lb.rows, lb.cols, ld.rows, ld.cols);
    return false;
}

bool same(const algo_state &g, const problem &p)
{
    return g.magic == magic && g.m == p.m && g.n == p.n && g.k == p.k && g.op[0] == p.op[0] && g.op[1] == p.op[1] &&
           g.epilogue == p.epilogue && g.type[0] == p.type[0] && g.type[1] == p.type[1] && g.type[2] == p.type[2];
}

bool operand(const char *name, const void *p, uint64_t bytes, uint32_t promised, cudaDataType_t type)
{
    if (!fake_cuda_inside(p, bytes)) {
        fake_fault("cuBLASLt: %s, %lu bytes, is not in device memory", name, bytes);
        return false;
    }
    if (promised < bytes_of(type)) {
        fake_fault("cuBLASLt: %s was promised to be aligned to %u bytes, less than an element", name, promised);
        return false;
    }
    if (alignment(p) < promised) {
        fake_fault("cuBLASLt: %s is aligned to %u bytes and was promised to be to %u", name, alignment(p), promised);
        return false;
    }
    return true;
}

bool overlap(const void *p, uint64_t n, const void *q, uint64_t m)
{
    const char *const a = static_cast<const char *>(p);
    const char *const b = static_cast<const char *>(q);
    return a < b + m && b < a + n;
}

struct work {
    problem p;
    const void *a, *b, *bias;
    void *d;
    float *ws;
    int64_t lda, ldb, ldd;
    bool split, tf32;
};

/* A factor as the tensor cores take it: fp32 rounded to 10 bits of mantissa, ties away from zero. */
float rounded_to_tf32(float x)
{
    uint32_t u;
    std::memcpy(&u, &x, sizeof u);
    u = (u + 0x1000u) & ~0x1fffu;
    std::memcpy(&x, &u, sizeof x);
    return x;
}

float load(const void *p, uint64_t i, cudaDataType_t type)
{
    float x;
    if (type == CUDA_R_16BF) {
        const uint32_t u = (uint32_t) static_cast<const uint16_t *>(p)[i] << 16;
        std::memcpy(&x, &u, sizeof x);
    } else {
        x = static_cast<const float *>(p)[i];
    }
    return x;
}
/* To nearest, ties to even; a NaN stays one. */
void store(void *p, uint64_t i, cudaDataType_t type, float x)
{
    uint32_t u;
    std::memcpy(&u, &x, sizeof u);
    if (type != CUDA_R_16BF)
        static_cast<float *>(p)[i] = x;
    else if (x != x)
        static_cast<uint16_t *>(p)[i] = 0x7fff;
    else
        static_cast<uint16_t *>(p)[i] = (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}
double factor(const work &w, const void *p, uint64_t i, cudaDataType_t type)
{
    const float x = load(p, i, type);
    return (double)(w.tf32 ? rounded_to_tf32(x) : x);
}

double sum_of(const work &w, uint64_t i, uint64_t j, uint64_t from, uint64_t to)
{
    double s = 0.0;
    for (uint64_t k = from; k < to; k++) {
        const uint64_t at_a = w.p.op[0] == CUBLAS_OP_N ? i + k * (uint64_t)w.lda : k + i * (uint64_t)w.lda;
        const uint64_t at_b = w.p.op[1] == CUBLAS_OP_N ? k + j * (uint64_t)w.ldb : j + k * (uint64_t)w.ldb;
        s += factor(w, w.a, at_a, w.p.type[0]) * factor(w, w.b, at_b, w.p.type[1]);
    }
    return s;
}

void multiply(const work &w)
{
    const uint64_t half = w.split ? w.p.k / 2 : w.p.k;
    for (uint64_t part = 0; w.split && part < 2; part++)
        for (uint64_t i = 0; i < w.p.m; i++)
            for (uint64_t j = 0; j < w.p.n; j++)
                w.ws[(part * w.p.m + i) * w.p.n + j] =
                    (float)sum_of(w, i, j, part == 0 ? 0 : half, part == 0 ? half : w.p.k);
    for (uint64_t i = 0; i < w.p.m; i++)
        for (uint64_t j = 0; j < w.p.n; j++) {
            double s = 0.0;
            if (w.split)
                s = (double)w.ws[i * w.p.n + j] + (double)w.ws[(w.p.m + i) * w.p.n + j];
            else
                s = sum_of(w, i, j, 0, w.p.k);
            s += w.bias != nullptr ? (double)load(w.bias, i, w.p.type[2]) : 0.0;
            store(w.d, i + j * (uint64_t)w.ldd, w.p.type[2], (float)(w.p.relu() && s < 0.0 ? 0.0 : s));
        }
}
} // namespace

extern "C" {

size_t cublasLtGetVersion(void)
{
    return CUBLAS_VERSION;
}
const char *cublasLtGetStatusName(cublasStatus_t e)
{
    return e == CUBLAS_STATUS_SUCCESS ? "CUBLAS_STATUS_SUCCESS" : "CUBLAS_STATUS_FAKE";
}
const char *cublasLtGetStatusString(cublasStatus_t e)
{
    return e == CUBLAS_STATUS_SUCCESS ? "no error" : "fake error";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    return make(out, new int(0), handle_kind);
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    const cublasStatus_t e = destroy<int>(handle, handle_kind);
    bool last = true; /* objects do not say whose they are: ask when the last handle goes */
    for (const auto &l : live)
        last = last && l.second != handle_kind;
    for (const auto &l : live)
        if (last)
            fake_fault("a cuBLASLt %s outlives the handle", kind_name[l.second]);
    return e;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute, cudaDataType_t scale)
{
    if (scale != CUDA_R_32F) {
        fake_fault("cuBLASLt: scale type %d", (int)scale);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    desc_state *s = new desc_state;
    s->compute = compute;
    return make(out, s, desc_kind);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    return destroy<desc_state>(desc, desc_kind);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attr,
                                              const void *value, size_t bytes)
{
    if (!is_live(desc, desc_kind))
        return CUBLAS_STATUS_INVALID_VALUE;
    desc_state *s = reinterpret_cast<desc_state *>(desc);
    switch (attr) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return take(&s->op[0], value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return take(&s->op[1], value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return take(&s->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return take(&s->bias, value, bytes);
    default:
        fake_fault("cuBLASLt: attribute %d of an operation descriptor", (int)attr);
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t ld)
{
    if ((type != CUDA_R_32F && type != CUDA_R_16BF) || rows == 0 || cols == 0 || ld < (int64_t)rows) {
        fake_fault("cuBLASLt: layout (%lu, %lu), leading dimension %ld, type %d", rows, cols, ld, (int)type);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    return make(out, new layout_state{rows, cols, ld, type}, layout_kind);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return destroy<layout_state>(layout, layout_kind);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    return make(out, new preference_state, preference_kind);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t pref)
{
    return destroy<preference_state>(pref, preference_kind);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
                                                    cublasLtMatmulPreferenceAttributes_t attr, const void *value,
                                                    size_t bytes)
{
    if (!is_live(pref, preference_kind))
        return CUBLAS_STATUS_INVALID_VALUE;
    preference_state *s = reinterpret_cast<preference_state *>(pref);
    switch (attr) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return take(&s->max_ws, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return take(&s->schemes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return take(&s->align[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return take(&s->align[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return take(&s->align[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return take(&s->align[3], value, bytes);
    default:
        fake_fault("cuBLASLt: preference %d", (int)attr);
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t pref, int n_wanted,
                                              cublasLtMatmulHeuristicResult_t *out, int *n_out)
{
    problem p;
    *n_out = 0;
    if (n_wanted < 1 || !is_live(pref, preference_kind) || !problem_of(handle, desc, a, b, c, d, &p))
        return CUBLAS_STATUS_INVALID_VALUE;
    const desc_state &s = *reinterpret_cast<const desc_state *>(desc);
    const preference_state &want = *reinterpret_cast<const preference_state *>(pref);
    if (want.schemes & CUBLASLT_REDUCTION_SCHEME_INPLACE)
        fake_fault("cuBLASLt: a reduction in place is allowed; its order is not fixed");
    if (std::getenv("FAKE_CUBLASLT_REFUSE") != nullptr)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const uint64_t ws = 2 * p.m * p.n * sizeof(float);
    const bool split = p.k > split_from && ws <= want.max_ws && (want.schemes & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    algo_state g = {};
    g.m = p.m;
    g.n = p.n;
    g.k = p.k;
    g.ws = split ? ws : 0;
    for (int i = 0; i < 2; i++)
        g.op[i] = (uint16_t)p.op[i];
    for (int i = 0; i < 4; i++)
        g.align[i] = (uint16_t)want.align[i];
    for (int i = 0; i < 3; i++)
        g.type[i] = (uint16_t)p.type[i];
    g.epilogue = (uint16_t)p.epilogue;
    g.bias_align = (uint16_t)alignment(s.bias);
    g.magic = magic;
    std::memset(out, 0, sizeof *out);
    std::memcpy(&out->algo, &g, sizeof g);
    out->workspaceSize = g.ws;
    out->state = CUBLAS_STATUS_SUCCESS;
    *n_out = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb, const void *beta,
                              const void *c, cublasLtMatrixLayout_t lc, void *d, cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t *algo, void *ws, size_t ws_bytes, cudaStream_t stream)
{
    problem p;
    if (!problem_of(handle, desc, la, lb, lc, ld, &p))
        return CUBLAS_STATUS_INVALID_VALUE;
    const desc_state &s = *reinterpret_cast<const desc_state *>(desc);
    algo_state g = {};
    if (algo != nullptr)
        std::memcpy(&g, algo, sizeof g);
    if (!same(g, p)) {
        fake_fault("cuBLASLt: the algorithm was not chosen for this product");
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (*static_cast<const float *>(alpha) != 1.0f || *static_cast<const float *>(beta) != 0.0f || c != d) {
        fake_fault("cuBLASLt: the double knows D = A B only");
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    const uint64_t n_a = layout_of(la).bytes();
    const uint64_t n_b = layout_of(lb).bytes();
    const uint64_t n_d = layout_of(ld).bytes();
    if (!operand("A", a, n_a, g.align[0], p.type[0]) || !operand("B", b, n_b, g.align[1], p.type[1]) ||
        !operand("D", d, n_d, g.align[3], p.type[2]) ||
        (p.bias() && !operand("the bias", s.bias, p.m * bytes_of(p.type[2]), g.bias_align, p.type[2])))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (overlap(d, n_d, a, n_a) || overlap(d, n_d, b, n_b)) {
        fake_fault("cuBLASLt: D overlaps an operand");
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (ws_bytes < g.ws || (ws_bytes > 0 && !fake_cuda_inside(ws, ws_bytes)) || (ws_bytes > 0 && alignment(ws) < 256)) {
        fake_fault("cuBLASLt: %zu bytes of scratch at %p, %lu are needed", ws_bytes, ws, g.ws);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (ws_bytes > 0 &&
        (overlap(ws, ws_bytes, d, n_d) || overlap(ws, ws_bytes, a, n_a) || overlap(ws, ws_bytes, b, n_b))) {
        fake_fault("cuBLASLt: the scratch overlaps an operand");
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const work w = {p,
                    a,
                    b,
                    p.bias() ? s.bias : nullptr,
                    d,
                    static_cast<float *>(ws),
                    layout_of(la).ld,
                    layout_of(lb).ld,
                    layout_of(ld).ld,
                    g.ws > 0,
                    s.compute == CUBLAS_COMPUTE_32F_FAST_TF32};
    fake_enqueue(stream, "cublasLtMatmul", [w] { multiply(w); });
    return CUBLAS_STATUS_SUCCESS;
}

} // extern "C"
