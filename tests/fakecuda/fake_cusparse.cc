/* A double of cuSPARSE: exactly the calls of src/cuda/cuda_sparse.c, the product as a plain loop summed in double. What
 * the library leaves to its caller is checked and said as a fault: descriptors that do not fit, operands outside of
 * device memory or off 16 bytes, a buffer that is too small, was not prepared, or was written since, a pattern that
 * changed since it was prepared, columns out of range or not ascending, objects that were not destroyed or are used
 * after. The pattern is looked at when the stream comes to it, not when the call is made.
 */
#include <cusparse.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>

#include "fake.h"

namespace {
enum kind { handle_kind = 1, sparse_kind, dense_kind };
const char *const kind_name[] = {"", "handle", "sparse matrix", "dense matrix"};

struct handle_state {
    cudaStream_t stream = nullptr;
};
struct sparse_state {
    int64_t rows, cols, nnz;
    const int32_t *starts, *columns;
    const void *values;
    cudaDataType type;
};
struct dense_state {
    int64_t rows, cols, ld;
    void *values;
    cudaDataType type;
};
struct prepared { /* what lies in the buffer */
    uint64_t magic, pattern;
};
constexpr uint64_t magic = 0x5b53c0de5b53c0deu;
constexpr size_t buffer_bytes = 256 + sizeof(prepared);

std::map<const void *, kind> live;

struct at_exit {
    ~at_exit()
    {
        for (const auto &l : live)
            fake_fault("a cuSPARSE %s was never destroyed", kind_name[l.second]);
        if (!live.empty())
            std::_Exit(70);
    }
} check_at_exit;

bool is_live(const void *p, kind k)
{
    const auto it = live.find(p);
    if (it != live.end() && it->second == k)
        return true;
    fake_fault("a cuSPARSE %s that does not exist, or was destroyed", kind_name[k]);
    return false;
}
template <class S> cusparseStatus_t destroy(const void *p, kind k)
{
    if (!is_live(p, k))
        return CUSPARSE_STATUS_INVALID_VALUE;
    live.erase(p);
    delete static_cast<const S *>(p);
    return CUSPARSE_STATUS_SUCCESS;
}

bool is_type(cudaDataType t)
{
    return t == CUDA_R_32F || t == CUDA_R_16BF;
}

double entry(const void *values, cudaDataType type, int64_t i)
{
    if (type == CUDA_R_32F)
        return (double)static_cast<const float *>(values)[i];
    const uint32_t bits = (uint32_t) static_cast<const uint16_t *>(values)[i] << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return (double)x;
}

bool device(const char *what, const void *p, int64_t words, cudaDataType type = CUDA_R_32F)
{
    if (fake_cuda_inside(p, (size_t)words * (type == CUDA_R_32F ? 4 : 2)) && reinterpret_cast<uintptr_t>(p) % 16 == 0)
        return true;
    fake_fault("cuSPARSE: %s, %ld entries at %p, is not in device memory or not aligned to 16 bytes", what, (long)words,
               p);
    return false;
}

uint64_t pattern_of(const sparse_state &s)
{
    uint64_t h = 14695981039346656037u;
    for (int64_t i = 0; i <= s.rows; i++)
        h = (h ^ (uint32_t)s.starts[i]) * 1099511628211u;
    for (int64_t i = 0; i < s.nnz; i++)
        h = (h ^ (uint32_t)s.columns[i]) * 1099511628211u;
    return h;
}

bool is_pattern(const sparse_state &s)
{
    bool good = s.starts[0] == 0 && s.starts[s.rows] == s.nnz;
    for (int64_t r = 0; good && r < s.rows; r++) {
        good = s.starts[r] <= s.starts[r + 1];
        for (int32_t e = s.starts[r]; good && e < s.starts[r + 1]; e++)
            good = s.columns[e] >= 0 && s.columns[e] < s.cols && (e == s.starts[r] || s.columns[e - 1] < s.columns[e]);
    }
    if (!good)
        fake_fault("cuSPARSE: a pattern of %ld rows and %ld entries is none", (long)s.rows, (long)s.nnz);
    return good;
}

struct work {
    sparse_state s;
    dense_state x, y;
    prepared *buffer;
};

/* Everything that can be said of the operands before the stream runs. */
bool take(cusparseHandle_t handle, cusparseOperation_t op_s, cusparseOperation_t op_x, const void *alpha,
          cusparseConstSpMatDescr_t s, cusparseConstDnMatDescr_t x, const void *beta, cusparseDnMatDescr_t y,
          cudaDataType type, cusparseSpMMAlg_t alg, work *out)
{
    if (!is_live(handle, handle_kind) || !is_live(s, sparse_kind) || !is_live(x, dense_kind) || !is_live(y, dense_kind))
        return false;
    out->s = *reinterpret_cast<const sparse_state *>(s);
    out->x = *reinterpret_cast<const dense_state *>(x);
    out->y = *reinterpret_cast<const dense_state *>(y);
    if (op_s != CUSPARSE_OPERATION_NON_TRANSPOSE || op_x != CUSPARSE_OPERATION_NON_TRANSPOSE ||
        *static_cast<const float *>(alpha) != 1.0f || *static_cast<const float *>(beta) != 0.0f || type != CUDA_R_32F) {
        fake_fault("cuSPARSE: the double knows Y = S X in float only");
        return false;
    }
    if (out->s.type != out->x.type ||
        out->y.type != CUDA_R_32F) { /* what the plugin asks for; the library knows bf16 results too */
        fake_fault("cuSPARSE: factors of types %d and %d into type %d", (int)out->s.type, (int)out->x.type,
                   (int)out->y.type);
        return false;
    }
    if (alg != CUSPARSE_SPMM_CSR_ALG3) {
        fake_fault("cuSPARSE: the order of the sums of algorithm %d is not fixed", (int)alg);
        return false;
    }
    if (out->s.cols == out->x.rows && out->s.rows == out->y.rows && out->x.cols == out->y.cols)
        return true;
    fake_fault("cuSPARSE: (%ld, %ld) times (%ld, %ld) is not (%ld, %ld)", (long)out->s.rows, (long)out->s.cols,
               (long)out->x.rows, (long)out->x.cols, (long)out->y.rows, (long)out->y.cols);
    return false;
}

bool take_buffer(void *buffer, work *w)
{
    w->buffer = static_cast<prepared *>(buffer);
    if (fake_cuda_inside(buffer, buffer_bytes))
        return true;
    fake_fault("cuSPARSE: the buffer of %zu bytes is not in device memory", buffer_bytes);
    return false;
}

void prepare(const work &w)
{
    *w.buffer = {magic, pattern_of(w.s)};
}

void multiply(const work &w)
{
    if (w.buffer->magic != magic || w.buffer->pattern != pattern_of(w.s)) {
        fake_fault("cuSPARSE: the buffer was not prepared for this pattern, or was written since");
        return;
    }
    if (!is_pattern(w.s))
        return;
    for (int64_t j = 0; j < w.y.cols; j++)
        for (int64_t r = 0; r < w.s.rows; r++) {
            double sum = 0.0;
            for (int32_t e = w.s.starts[r]; e < w.s.starts[r + 1]; e++)
                sum += entry(w.s.values, w.s.type, e) * entry(w.x.values, w.x.type, w.s.columns[e] + j * w.x.ld);
            static_cast<float *>(w.y.values)[r + j * w.y.ld] = (float)sum;
        }
}
} // namespace

extern "C" {

const char *cusparseGetErrorName(cusparseStatus_t e)
{
    return e == CUSPARSE_STATUS_SUCCESS ? "CUSPARSE_STATUS_SUCCESS" : "CUSPARSE_STATUS_FAKE";
}
const char *cusparseGetErrorString(cusparseStatus_t e)
{
    return e == CUSPARSE_STATUS_SUCCESS ? "no error" : "fake error";
}
cusparseStatus_t cusparseGetProperty(libraryPropertyType type, int *value)
{
    *value = type == MAJOR_VERSION   ? CUSPARSE_VER_MAJOR
             : type == MINOR_VERSION ? CUSPARSE_VER_MINOR
                                     : CUSPARSE_VER_PATCH;
    return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseCreate(cusparseHandle_t *out)
{
    *out = reinterpret_cast<cusparseHandle_t>(new handle_state);
    live[*out] = handle_kind;
    return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseDestroy(cusparseHandle_t handle)
{
    const cusparseStatus_t e = destroy<handle_state>(handle, handle_kind);
    for (const auto &l : live)
        if (l.second != handle_kind)
            fake_fault("a cuSPARSE %s outlives the handle", kind_name[l.second]);
    return e;
}
cusparseStatus_t cusparseSetStream(cusparseHandle_t handle, cudaStream_t stream)
{
    if (!is_live(handle, handle_kind))
        return CUSPARSE_STATUS_INVALID_VALUE;
    reinterpret_cast<handle_state *>(handle)->stream = stream;
    return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseCreateCsr(cusparseSpMatDescr_t *out, int64_t rows, int64_t cols, int64_t nnz, void *starts,
                                   void *columns, void *values, cusparseIndexType_t start_type,
                                   cusparseIndexType_t column_type, cusparseIndexBase_t base, cudaDataType type)
{
    if (rows < 1 || cols < 1 || nnz < 1 || start_type != CUSPARSE_INDEX_32I || column_type != CUSPARSE_INDEX_32I ||
        base != CUSPARSE_INDEX_BASE_ZERO || !is_type(type) || !device("row starts", starts, rows + 1) ||
        !device("columns", columns, nnz) || !device("values", values, nnz, type)) {
        fake_fault("cuSPARSE: a matrix of (%ld, %ld) with %ld entries", (long)rows, (long)cols, (long)nnz);
        return CUSPARSE_STATUS_INVALID_VALUE;
    }
    *out =
        reinterpret_cast<cusparseSpMatDescr_t>(new sparse_state{rows, cols, nnz, static_cast<const int32_t *>(starts),
                                                                static_cast<const int32_t *>(columns), values, type});
    live[*out] = sparse_kind;
    return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseDestroySpMat(cusparseConstSpMatDescr_t s)
{
    return destroy<sparse_state>(s, sparse_kind);
}
cusparseStatus_t cusparseCreateDnMat(cusparseDnMatDescr_t *out, int64_t rows, int64_t cols, int64_t ld, void *values,
                                     cudaDataType type, cusparseOrder_t order)
{
    if (rows < 1 || cols < 1 || ld < rows || !is_type(type) || order != CUSPARSE_ORDER_COL ||
        !device("a dense matrix", values, ld * (cols - 1) + rows, type)) {
        fake_fault("cuSPARSE: a dense matrix of (%ld, %ld), leading dimension %ld", (long)rows, (long)cols, (long)ld);
        return CUSPARSE_STATUS_INVALID_VALUE;
    }
    *out = reinterpret_cast<cusparseDnMatDescr_t>(new dense_state{rows, cols, ld, values, type});
    live[*out] = dense_kind;
    return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseDestroyDnMat(cusparseConstDnMatDescr_t x)
{
    return destroy<dense_state>(x, dense_kind);
}
cusparseStatus_t cusparseSpMM_bufferSize(cusparseHandle_t handle, cusparseOperation_t op_s, cusparseOperation_t op_x,
                                         const void *alpha, cusparseConstSpMatDescr_t s, cusparseConstDnMatDescr_t x,
                                         const void *beta, cusparseDnMatDescr_t y, cudaDataType type,
                                         cusparseSpMMAlg_t alg, size_t *bytes)
{
    work w;
    if (!take(handle, op_s, op_x, alpha, s, x, beta, y, type, alg, &w))
        return CUSPARSE_STATUS_INVALID_VALUE;
    *bytes = buffer_bytes;
    return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseSpMM_preprocess(cusparseHandle_t handle, cusparseOperation_t op_s, cusparseOperation_t op_x,
                                         const void *alpha, cusparseConstSpMatDescr_t s, cusparseConstDnMatDescr_t x,
                                         const void *beta, cusparseDnMatDescr_t y, cudaDataType type,
                                         cusparseSpMMAlg_t alg, void *buffer)
{
    work w;
    if (!take(handle, op_s, op_x, alpha, s, x, beta, y, type, alg, &w) || !take_buffer(buffer, &w))
        return CUSPARSE_STATUS_INVALID_VALUE;
    fake_enqueue(reinterpret_cast<handle_state *>(handle)->stream, "cusparseSpMM_preprocess", [w] { prepare(w); });
    return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseSpMM(cusparseHandle_t handle, cusparseOperation_t op_s, cusparseOperation_t op_x,
                              const void *alpha, cusparseConstSpMatDescr_t s, cusparseConstDnMatDescr_t x,
                              const void *beta, cusparseDnMatDescr_t y, cudaDataType type, cusparseSpMMAlg_t alg,
                              void *buffer)
{
    work w;
    if (!take(handle, op_s, op_x, alpha, s, x, beta, y, type, alg, &w) || !take_buffer(buffer, &w))
        return CUSPARSE_STATUS_INVALID_VALUE;
    fake_enqueue(reinterpret_cast<handle_state *>(handle)->stream, "cusparseSpMM", [w] { multiply(w); });
    return CUSPARSE_STATUS_SUCCESS;
}

} // extern "C"
