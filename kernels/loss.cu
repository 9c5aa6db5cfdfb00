/* Softmax and cross-entropy. A row belongs to one warp, lane j to columns j, j + 32, ...; lanes add by a fixed tree, so
 * the bits depend on nothing but the row. Rows are short (operations of an edge, classes): what is read twice or thrice
 * comes from L1.
 */
#include "loss.h"

#include "common.cuh"

#define K_WARPS (K_THREADS / 32)

/* All lanes get the same bits: each step adds the same two numbers in both orders. */
__device__ __forceinline__ double k_warp_sum(double v)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_xor_sync(~0u, v, d);
    return v;
}

/* Largest of a row and where it comes first; NaNs are passed over. */
struct k_peak {
    float value;
    uint32_t at;
};
template <class T> __device__ __forceinline__ k_peak k_row_peak(const T *x, uint32_t n, uint32_t lane)
{
    k_peak m = {-INFINITY, lane};
    for (uint32_t i = lane; i < n; i += 32) {
        const float v = k_float(x[i]);
        if (v > m.value)
            m = k_peak{v, i};
    }
    if (lane >= n)
        m.at = 0xffffffffu;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
        const k_peak o = {__shfl_xor_sync(~0u, m.value, d), __shfl_xor_sync(~0u, m.at, d)};
        if (o.value > m.value || (o.value == m.value && o.at < m.at))
            m = o;
    }
    return m;
}

/* 14 x 8 to 28 x 64: a few kilobytes, so the launch is all it costs; eight rows to a block. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_softmax(K_PARAM P p)
{
    K_ITEM(p);
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t r = blockIdx.x * K_WARPS + threadIdx.x / 32; r < a.rows; r += a.head.gx * K_WARPS) {
        const float *x = a.x + (size_t)r * a.cols;
        float *y = a.p + (size_t)r * a.cols;
        const float top = k_row_peak(x, a.cols, lane).value;
        float s = 0.0f;
        for (uint32_t i = lane; i < a.cols; i += 32)
            s += expf(x[i] - top);
        const float f = (float)(1.0 / k_warp_sum((double)s));
        for (uint32_t i = lane; i < a.cols; i += 32)
            y[i] = expf(x[i] - top) * f;
    }
}
K_LAUNCHER(dass_k_softmax_run, dass_k_softmax, k_softmax, K_THREADS)

/* As k_softmax. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_softmax_bwd(K_PARAM P p)
{
    K_ITEM(p);
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t r = blockIdx.x * K_WARPS + threadIdx.x / 32; r < a.rows; r += a.head.gx * K_WARPS) {
        const size_t first = (size_t)r * a.cols;
        float s = 0.0f;
        for (uint32_t i = lane; i < a.cols; i += 32)
            s += a.d_p[first + i] * a.p[first + i];
        const float dot = (float)k_warp_sum((double)s);
        for (uint32_t i = lane; i < a.cols; i += 32)
            a.d_x[first + i] = a.p[first + i] * (a.d_p[first + i] - dot);
    }
}
K_LAUNCHER(dass_k_softmax_bwd_run, dass_k_softmax_bwd, k_softmax_bwd, K_THREADS)

__device__ __forceinline__ uint32_t k_valid_rows(const dass_step_block *step, uint32_t rows)
{
    return step->valid == 0 || step->valid > rows ? rows : step->valid;
}

/* Sum of part[0 .. n) by the whole block, in an order that n alone decides. */
__device__ __forceinline__ double k_block_sum(const double *part, uint32_t n)
{
    K_SHARED double of_warp[K_WARPS];
    double s = 0.0;
    for (uint32_t i = threadIdx.x; i < n; i += K_THREADS)
        s += part[i];
    s = k_warp_sum(s);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = s;
    __syncthreads();
    s = 0.0;
    for (uint32_t i = 0; i < K_WARPS; i++)
        s += of_warp[i];
    return s;
}

/* 256 x 1000: 1 MB read and written. -sum t log p is formed about the maximum, L = log sum exp(x - max), d_c = x_c -
 * max: (1 - s) (L - d_label) + s / C (C L - sum d)
 */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_xent(K_PARAM P p)
{
    K_STORED_TYPE(S);
    K_ITEM(p);
    const uint32_t n_valid = k_valid_rows(a.step, a.rows);
    const uint32_t lane = threadIdx.x % 32;
    const double classes = (double)a.cols;
    for (uint32_t r = blockIdx.x * K_WARPS + threadIdx.x / 32; r < a.rows; r += a.head.gx * K_WARPS) {
        const T *const x = k_as<T>(a.logits) + (size_t)r * a.cols;
        const k_peak top = k_row_peak(x, a.cols, lane);
        float s_exp = 0.0f;
        float s_d = 0.0f;
        for (uint32_t i = lane; i < a.cols; i += 32) {
            const float d = k_float(x[i]) - top.value;
            s_exp += expf(d);
            s_d += d;
        }
        const double sum = k_warp_sum((double)s_exp);
        const double sum_d = k_warp_sum((double)s_d);
        const float f = (float)(1.0 / sum);
        for (uint32_t i = lane; i < a.cols; i += 32)
            a.probs[(size_t)r * a.cols + i] = expf(k_float(x[i]) - top.value) * f;
        if (lane != 0)
            continue;
        const int32_t label = a.labels[r];
        const double log_sum = log(sum);
        double loss = a.smoothing / classes * (classes * log_sum - sum_d);
        if (label >= 0 && (uint32_t)label < a.cols) /* a label that is no class has no target, as in the reference */
            loss += (1.0 - a.smoothing) * (log_sum - ((double)k_float(x[label]) - (double)top.value));
        const uint32_t first = k_float(x[0]) == k_float(x[0]) ? top.at : 0; /* nothing is larger than a NaN in front */
        a.part[r] = r < n_valid ? loss : 0.0;
        a.part[a.rows + r] = r < n_valid && label >= 0 && first == (uint32_t)label ? 1.0 : 0.0;
    }
    if (!k_last_block(a.counter, a.head.gx))
        return;
    const double loss = k_block_sum(a.part, a.rows);
    const double correct = k_block_sum(a.part + a.rows, a.rows);
    if (threadIdx.x == 0) {
        *a.loss = (float)(loss / (double)n_valid);
        *a.correct = (float)correct;
    }
}
K_LAUNCHER_S1(dass_k_xent_run, dass_k_xent, k_xent, K_THREADS)

/* 256 x 1000: 1 MB read, 1 MB written; a thread to V columns. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_xent_bwd(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const uint32_t n_valid = k_valid_rows(a.step, a.rows);
    const float f = 1.0f / (float)n_valid;
    const float elsewhere = (float)(a.smoothing / (double)a.cols);
    const float on_label = (float)(1.0 - a.smoothing + a.smoothing / (double)a.cols);
    const uint32_t lanes = a.cols / V;
    const uint32_t n = a.rows * lanes;
    for (uint32_t i = blockIdx.x * K_THREADS + threadIdx.x; i < n; i += a.head.gx * K_THREADS) {
        const uint32_t r = i / lanes;
        const uint32_t label = (uint32_t)a.labels[r] - (i - r * lanes) * V; /* from the thread's first column */
        k_vec<V> q = {};
        if (r < n_valid) {
            q = k_load<V>(a.probs + (size_t)i * V);
#pragma unroll
            for (int k = 0; k < V; k++)
                q[k] = (q[k] - (label == (uint32_t)k ? on_label : elsewhere)) * f;
        }
        k_store(k_as<T>(a.d_logits) + (size_t)i * V, q);
    }
}
K_LAUNCHER_S(dass_k_xent_bwd_run, dass_k_xent_bwd, k_xent_bwd, K_THREADS)
