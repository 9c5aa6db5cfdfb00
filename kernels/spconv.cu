/* Sparse pointwise convolutions. A block takes 32 pixels and 8 R rows of the matrix; a lane is a pixel, so an entry of
 * the matrix is the same for a whole warp (one broadcast load of value and column) and meets 32 neighbouring words of
 * shared memory. Rows are summed in the order of their columns by one thread each: no atomics, always the same bits.
 */
#include "spconv.h"

#include "common.cuh"
#include "sparse.cuh"

/* 96 -> 24 channels of 56 x 56 at a density of 0.1: 1.5 MB moved, 0.7 M multiply-adds. 12.7 KB of shared memory, so
 * eight blocks to a multiprocessor; 960 -> 160 takes two turns of 60 KB, three blocks to one of 227 KB. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 3) k_spconv(K_PARAM P p)
{
    constexpr int R = S & 15;
    K_STORED_TYPE(S);
    K_ITEM(p);
    K_DYNAMIC(float, tile);
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t pixel = blockIdx.x * DASS_K_SP_PIXELS;
    const uint32_t row = blockIdx.y * (DASS_K_SP_WARPS * R);
    float sum[R];
    int32_t at[R];
    int32_t end[R];
#pragma unroll
    for (uint32_t i = 0; i < R; i++) {
        const uint32_t r = row + i * DASS_K_SP_WARPS + warp;
        sum[i] = r < a.oc && a.bias ? a.bias[r] : 0.0f;
        at[i] = r < a.oc ? a.starts[r] : 0;
        end[i] = r < a.oc ? a.starts[r + 1] : 0;
    }
    for (uint32_t first = 0; first < a.ic; first += a.chunk) {
        const uint32_t n = min(a.chunk, a.ic - first);
        if (first > 0)
            __syncthreads();
        for (uint32_t q = warp; q < DASS_K_SP_PIXELS; q += DASS_K_SP_WARPS) {
            const T *const x = k_as<T>(a.x) + (size_t)(pixel + q) * a.ic + first;
            for (uint32_t c = lane; c < n; c += 32)
                tile[c * DASS_K_SP_SIDE + q] = pixel + q < a.m ? k_float(x[c]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (uint32_t i = 0; i < R; i++) {
            const int32_t to = first + n == a.ic ? end[i] : k_row_until(a.columns, at[i], end[i], (int32_t)(first + n));
            sum[i] = k_row_times(k_as<T>(a.values), a.columns, at[i], to, tile + lane, (int32_t)first, DASS_K_SP_SIDE,
                                 sum[i]);
            at[i] = to;
        }
    }
    __syncthreads(); /* the tile becomes that of y, to be written in lines of channels */
#pragma unroll
    for (uint32_t i = 0; i < R; i++)
        tile[(i * DASS_K_SP_WARPS + warp) * DASS_K_SP_SIDE + lane] = sum[i];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < DASS_K_SP_PIXELS * DASS_K_SP_WARPS * R; i += K_THREADS) {
        const uint32_t q = i / (DASS_K_SP_WARPS * R);
        const uint32_t r = i % (DASS_K_SP_WARPS * R);
        if (pixel + q >= a.m || row + r >= a.oc)
            continue;
        const size_t to = (size_t)(pixel + q) * a.oc + row + r;
        const float u = tile[r * DASS_K_SP_SIDE + q] + (a.residual ? k_float(k_as<T>(a.residual)[to]) : 0.0f);
        k_store(k_as<T>(a.y) + to, k_vec<1>{{k_activate(u, a.act)}});
    }
}

#define ENTRIES(R)                                                             \
    {"dass_k_spconv_run R" #R, dass_k_spconv_run, R},                          \
    {                                                                          \
        "dass_k_spconv_run R" #R " bf16", dass_k_spconv_run, (R) | DASS_K_BF16 \
    }
static k_entry entries_spconv[] = {ENTRIES(1), ENTRIES(2), ENTRIES(4), ENTRIES(8)};
#undef ENTRIES

DASS_K_API int dass_k_spconv_run(const void *items, uint32_t n, dass_k_grid g, void *stream)
{
    const dass_k_spconv *const a = static_cast<const dass_k_spconv *>(items);
    uint32_t shared = 0;
    K_COUNT(entries_spconv, g.variant, n);
    for (uint32_t i = 0; i < n; i++)
        shared = a[i].shared > shared ? a[i].shared : shared;
#define ROWS(R)                                                                                               \
    case R:                                                                                                   \
        K_LAUNCH_PACKS_SHARED(dass_k_spconv, k_spconv, R, K_THREADS, shared, items, n, g, stream);            \
        break;                                                                                                \
    case R | DASS_K_BF16:                                                                                     \
        K_LAUNCH_PACKS_SHARED(dass_k_spconv, k_spconv, R | K_S_BF16, K_THREADS, shared, items, n, g, stream); \
        break
    switch (g.variant) {
        ROWS(1);
        ROWS(2);
        ROWS(4);
        ROWS(8);
    default:
        return 1; /* cudaErrorInvalidValue */
    }
#undef ROWS
    return k_launched();
}

/* 56 x 56 x 24: 0.6 MB. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_bias_act(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const size_t n = (size_t)a.m * (a.c / V);
    for (size_t i = (size_t)blockIdx.x * K_THREADS + threadIdx.x; i < n; i += (size_t)a.head.gx * K_THREADS) {
        k_vec<V> u = k_load<V>(a.x + i * V);
        const k_vec<V> b = k_channels<V>(a.bias, (uint32_t)(i % (a.c / V)) * V, 0.0f);
        const k_vec<V> r = a.residual ? k_load<V>(k_as<T>(a.residual) + i * V) : k_vec<V>{};
#pragma unroll
        for (int k = 0; k < V; k++)
            u[k] = k_activate(u[k] + b[k] + r[k], a.act);
        k_store(k_as<T>(a.y) + i * V, u);
    }
}
K_LAUNCHER_S(dass_k_bias_act_run, dass_k_bias_act, k_bias_act, K_THREADS)
