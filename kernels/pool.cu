/* Pools. Memory-bound: a thread owns V neighbouring channels of one pixel of its result and walks over what that needs;
 * windows overlap, so a value is asked for several times, but by threads of the same block or of its neighbours: all
 * but the first are answered by L1 or L2.
 */
#include "pool.h"

#include "place.cuh"

/* The part [begin, end) of window positions r that lie inside an image of `size` rows; `first`: row of r = 0. */
struct k_span {
    int begin, end;
};
__device__ __forceinline__ k_span k_inside(int first, int k, uint32_t size)
{
    return k_span{first < 0 ? -first : 0, min(k, (int)size - first)};
}

/* 64 x 32 x 32 x 16, 3x3 stride 1: 4.2 MB read, 5.2 MB written, 3 us at 3 TB/s. Blocks of 256: 16 KB of outputs, whose
 * windows lie in a few rows of one image. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_max_pool(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const dass_k_window &g = a.win;
    const uint32_t n = g.n * g.oh * g.ow * (g.c / V);
    for (uint32_t i = blockIdx.x * K_THREADS + threadIdx.x; i < n; i += a.head.gx * K_THREADS) {
        const k_place at = k_place_of<V>(i, g.c, g.oh, g.ow);
        const int h0 = (int)at.y * g.stride - g.pad;
        const int w0 = (int)at.x * g.stride - g.pad;
        const k_span rows = k_inside(h0, g.k, g.h);
        const k_span cols = k_inside(w0, g.k, g.w);
        k_vec<V> best;
        uint32_t first[V];
#pragma unroll
        for (int k = 0; k < V; k++) {
            best[k] = -INFINITY;
            first[k] = (uint32_t)(rows.begin * g.k + cols.begin);
        }
        for (int r = rows.begin; r < rows.end; r++) {
            const size_t pixel = (size_t)(at.n * g.h + (uint32_t)(h0 + r)) * g.w + (uint32_t)(w0 + cols.begin);
            const T *x = k_as<T>(a.x) + pixel * g.c + at.c;
            for (int s = cols.begin; s < cols.end; s++, x += g.c) {
                const k_vec<V> v = k_load<V>(x);
#pragma unroll
                for (int k = 0; k < V; k++) {
                    if (!(v[k] <= best[k]) && best[k] == best[k]) { /* larger, or the first NaN */
                        best[k] = v[k];
                        first[k] = (uint32_t)(r * g.k + s);
                    }
                }
            }
        }
        const size_t to = (size_t)i * V;
        k_store(k_as<T>(a.y) + to, best);
        if (!a.index)
            continue;
        if constexpr (V == 4)
            *reinterpret_cast<uint32_t *>(a.index + to) = first[0] | first[1] << 8 | first[2] << 16 | first[3] << 24;
        else
            a.index[to] = (uint8_t)first[0];
    }
}
K_LAUNCHER_S(dass_k_max_pool_run, dass_k_max_pool, k_max_pool, K_THREADS)

/* As k_max_pool: 8.4 MB for 64 x 32 x 32 x 16. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_avg_pool(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const dass_k_window &g = a.win;
    const uint32_t n = g.n * g.oh * g.ow * (g.c / V);
    for (uint32_t i = blockIdx.x * K_THREADS + threadIdx.x; i < n; i += a.head.gx * K_THREADS) {
        const k_place at = k_place_of<V>(i, g.c, g.oh, g.ow);
        const int h0 = (int)at.y * g.stride - g.pad;
        const int w0 = (int)at.x * g.stride - g.pad;
        const k_span rows = k_inside(h0, g.k, g.h);
        const k_span cols = k_inside(w0, g.k, g.w);
        k_vec<V> sum = {};
        for (int r = rows.begin; r < rows.end; r++) {
            const size_t pixel = (size_t)(at.n * g.h + (uint32_t)(h0 + r)) * g.w + (uint32_t)(w0 + cols.begin);
            const T *x = k_as<T>(a.x) + pixel * g.c + at.c;
            for (int s = cols.begin; s < cols.end; s++, x += g.c) {
                const k_vec<V> v = k_load<V>(x);
#pragma unroll
                for (int k = 0; k < V; k++)
                    sum[k] += v[k];
            }
        }
        const float f = 1.0f / (float)((rows.end - rows.begin) * (cols.end - cols.begin));
#pragma unroll
        for (int k = 0; k < V; k++)
            sum[k] *= f;
        k_store(k_as<T>(a.y) + (size_t)i * V, sum);
    }
}
K_LAUNCHER_S(dass_k_avg_pool_run, dass_k_avg_pool, k_avg_pool, K_THREADS)

/* The outputs [begin, end) of one axis whose windows hold position x = (their first row + r), 0 <= r < k. */
__device__ __forceinline__ k_span k_holding(uint32_t x, const dass_k_window &g, uint32_t n_out)
{
    const int last = (int)x + g.pad; /* r = last - o stride */
    const int over = last - g.k;     /* the greatest last that is too far on */
    return k_span{over < 0 ? 0 : over / g.stride + 1, min((int)n_out, last / g.stride + 1)};
}

/* V indices; V = 4 is one 32-bit access. */
template <int V> struct k_bytes {
    uint32_t all;
    __device__ __forceinline__ uint32_t operator[](int i) const
    {
        return all >> (8 * i) & 0xffu;
    }
};
template <int V> __device__ __forceinline__ k_bytes<V> k_load_bytes(const uint8_t *p)
{
    if constexpr (V == 4)
        return k_bytes<V>{*reinterpret_cast<const uint32_t *>(p)};
    else
        return k_bytes<V>{*p};
}

/* 64 x 32 x 32 x 16, 3x3 stride 1: 5.2 MB read (9.4 with acc), 4.2 MB written. d_y is loaded before the index has
 * come: two loads in flight are worth more than the bytes saved where no channel matches. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_max_pool_bwd(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const dass_k_window &g = a.win;
    const uint32_t n = g.n * g.h * g.w * (g.c / V);
    for (uint32_t i = blockIdx.x * K_THREADS + threadIdx.x; i < n; i += a.head.gx * K_THREADS) {
        const k_place at = k_place_of<V>(i, g.c, g.h, g.w);
        const k_span rows = k_holding(at.y, g, g.oh);
        const k_span cols = k_holding(at.x, g, g.ow);
        k_vec<V> sum = a.acc ? k_load<V>(k_as<T>(a.acc) + (size_t)i * V) : k_vec<V>{};
        for (int oh = rows.begin; oh < rows.end; oh++) {
            const int r = (int)at.y + g.pad - oh * g.stride;
            const size_t pixel = (size_t)(at.n * g.oh + (uint32_t)oh) * g.ow;
            for (int ow = cols.begin; ow < cols.end; ow++) {
                const uint32_t mine = (uint32_t)(r * g.k + (int)at.x + g.pad - ow * g.stride);
                const size_t from = (pixel + (uint32_t)ow) * g.c + at.c;
                const k_vec<V> d = k_load<V>(k_as<T>(a.d_y) + from);
                const k_bytes<V> index = k_load_bytes<V>(a.index + from);
#pragma unroll
                for (int k = 0; k < V; k++)
                    sum[k] += index[k] == mine ? d[k] : 0.0f;
            }
        }
        k_store(k_as<T>(a.d_x) + (size_t)i * V, sum);
    }
}
K_LAUNCHER_S(dass_k_max_pool_bwd_run, dass_k_pool_bwd, k_max_pool_bwd, K_THREADS)

/* As k_max_pool_bwd without the indices. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_avg_pool_bwd(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const dass_k_window &g = a.win;
    const uint32_t n = g.n * g.h * g.w * (g.c / V);
    for (uint32_t i = blockIdx.x * K_THREADS + threadIdx.x; i < n; i += a.head.gx * K_THREADS) {
        const k_place at = k_place_of<V>(i, g.c, g.h, g.w);
        const k_span rows = k_holding(at.y, g, g.oh);
        const k_span cols = k_holding(at.x, g, g.ow);
        k_vec<V> sum = a.acc ? k_load<V>(k_as<T>(a.acc) + (size_t)i * V) : k_vec<V>{};
        for (int oh = rows.begin; oh < rows.end; oh++) {
            const k_span in_h = k_inside(oh * g.stride - g.pad, g.k, g.h);
            const size_t pixel = (size_t)(at.n * g.oh + (uint32_t)oh) * g.ow;
            for (int ow = cols.begin; ow < cols.end; ow++) {
                const k_span in_w = k_inside(ow * g.stride - g.pad, g.k, g.w);
                const float f = 1.0f / (float)((in_h.end - in_h.begin) * (in_w.end - in_w.begin));
                const k_vec<V> d = k_load<V>(k_as<T>(a.d_y) + (pixel + (uint32_t)ow) * g.c + at.c);
#pragma unroll
                for (int k = 0; k < V; k++)
                    sum[k] += f * d[k];
            }
        }
        k_store(k_as<T>(a.d_x) + (size_t)i * V, sum);
    }
}
K_LAUNCHER_S(dass_k_avg_pool_bwd_run, dass_k_pool_bwd, k_avg_pool_bwd, K_THREADS)

/* 64 x 8 x 8 x 256: 4.2 MB read. One block for an image and up to 256 lanes of channels; its threads add their pixels,
 * then one another in a fixed order. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_global_pool(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const k_lane l = k_lane_of<V>(a.r);
    k_vec<V> s = {};
    for (uint32_t q = l.live ? l.p : l.end; q < l.end; q += l.step) {
        const k_vec<V> x = k_load<V>(k_as<T>(a.x) + (size_t)q * a.r.c + l.c);
#pragma unroll
        for (int i = 0; i < V; i++)
            s[i] += x[i];
    }
    s = k_sum_rows<V>(l, s);
    if (!l.live || l.ty != 0)
        return;
    const float f = 1.0f / (float)a.r.chunk;
#pragma unroll
    for (int i = 0; i < V; i++)
        s[i] *= f;
    k_store(k_as<T>(a.y) + (size_t)blockIdx.x * a.r.c + l.c, s);
}
K_LAUNCHER_S(dass_k_global_pool_run, dass_k_global_pool, k_global_pool, K_THREADS)

/* 64 x 8 x 8 x 256: 4.2 MB written, as much read with acc; d_y stays in L1. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_global_pool_bwd(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const float f = 1.0f / (float)a.area;
    const uint32_t n = a.n * a.area * (a.c / V);
    for (uint32_t i = blockIdx.x * K_THREADS + threadIdx.x; i < n; i += a.head.gx * K_THREADS) {
        const k_place at = k_place_of<V>(i, a.c, 1, a.area);
        const k_vec<V> d = k_load<V>(k_as<T>(a.d_y) + (size_t)at.n * a.c + at.c);
        k_vec<V> sum = a.acc ? k_load<V>(k_as<T>(a.acc) + (size_t)i * V) : k_vec<V>{};
#pragma unroll
        for (int k = 0; k < V; k++)
            sum[k] += f * d[k];
        k_store(k_as<T>(a.d_x) + (size_t)i * V, sum);
    }
}
K_LAUNCHER_S(dass_k_global_pool_bwd_run, dass_k_global_pool_bwd, k_global_pool_bwd, K_THREADS)
