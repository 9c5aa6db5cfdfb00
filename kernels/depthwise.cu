/* Depthwise convolution and its gradients. Each float takes part in K^2 products, so the kernels are bound by memory
 * and the first-level cache: a block's threads stand side by side over channels, then over neighbouring runs, so that x
 * comes once from memory and the overlap of rows out of the caches; the overlap inside a run stays in registers.
 */
#include "depthwise.h"

#include "depthwise.cuh"

/* How a kernel over the variants of depthwise.h is compiled: template parameter CODE is the variant. First line of such
 * a kernel: K_DW_CODE(CODE) names the window F = 10 K + T, or DASS_K_DW_ANY, and the stored type E. */
#define K_DW_CODE(CODE)                      \
    constexpr int F = (CODE) & ~DASS_K_BF16; \
    using E = typename k_stored<((CODE)&DASS_K_BF16) != 0>::type

/* Blocks to a multiprocessor that the registers leave room for. */
#define K_DW_BLOCKS(CODE) \
    (((CODE) & ~DASS_K_BF16) == DASS_K_DW(3, 1) || ((CODE) & ~DASS_K_BF16) == DASS_K_DW(5, 1) ? 3 : 2)

/* Run by run of the whole tensor: n, oh and the start of the run. */
struct k_dw_place {
    uint32_t row; /* n OH + oh */
    int32_t n, oh, ow0;
};
template <int R> __device__ __forceinline__ k_dw_place k_dw_place_of(const dass_k_dw_map &m, uint32_t t)
{
    k_dw_place p;
    p.row = t / m.runs;
    p.ow0 = k_dw_run_start<R>(m, t - p.row * m.runs);
    p.n = (int32_t)(p.row / (uint32_t)m.oh);
    p.oh = (int32_t)(p.row - (uint32_t)p.n * (uint32_t)m.oh);
    return p;
}

/* 8 MiB for 64 x 32 x 32 x 16 at K = 5: 2.8 us at 3 TB/s; the 10 loads of 16 bytes per output make 40 MiB of
 * first-level reads. 80 registers hold a row of taps, 4 outputs and the loads in flight; the wider window of T = 2
 * takes more. */
template <int CODE, class P> __global__ void K_BOUNDS(K_THREADS, K_DW_BLOCKS(CODE)) k_dw_forward(K_PARAM P p)
{
    K_DW_CODE(CODE);
    constexpr int K = F / 10;
    constexpr int T = F % 10;
    constexpr int V = 4;
    constexpr int R = DASS_K_DW_RUN;
    K_ITEM(p);
    alignas(16) K_SHARED float taps[K * K * DASS_K_DW_LANES * V];
    const dass_k_dw_map &m = a.m;
    const uint32_t ty = threadIdx.x / m.tx;
    const uint32_t n_ty = K_THREADS / m.tx;
    const uint32_t tx = threadIdx.x - ty * m.tx;
    const uint32_t first = blockIdx.y * m.tx * V;
    const uint32_t c = first + tx * V;
    k_dw_load_taps(k_as<E>(a.w), m, first, m.tx * V, a.mirror != 0, taps);
    __syncthreads();
    if (ty >= n_ty || c >= (uint32_t)m.c)
        return;
    const k_vec<V> bias = k_channels<V>(a.bias, c, 0.0f);
    const uint32_t n_runs = (uint32_t)m.n * (uint32_t)m.oh * m.runs;
    for (uint32_t t = blockIdx.x * n_ty + ty; t < n_runs; t += a.head.gx * n_ty) {
        const k_dw_place at = k_dw_place_of<R>(m, t);
        k_vec<V> y[R];
#pragma unroll
        for (int j = 0; j < R; j++)
            y[j] = bias;
        const E *const x = k_as<E>(a.x) + (size_t)at.n * (size_t)m.h * (size_t)m.w * (size_t)m.c + c;
        k_dw_outputs<V, K, T, R>(k_dw_activated{a.load}, m, x, taps + tx * V, m.tx * V, at.oh, at.ow0, y);
#pragma unroll
        for (int j = 0; j < R; j++) {
            const int32_t ow = at.ow0 + j * m.step;
#pragma unroll
            for (int v = 0; v < V; v++)
                y[j][v] = k_activate(y[j][v], a.act);
            if (ow < m.ow)
                k_store(k_as<E>(a.y) + ((size_t)at.row * (size_t)m.ow + (size_t)ow) * (size_t)m.c + c, y[j]);
        }
    }
}

/* Any kernel, any number of channels: an output to a thread. */
template <int CODE, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_dw_forward_any(K_PARAM P p)
{
    using E = typename k_stored<(CODE & DASS_K_BF16) != 0>::type;
    K_ITEM(p);
    K_SHARED float taps[DASS_K_DW_MAX * DASS_K_DW_MAX * DASS_K_DW_LANES];
    const dass_k_dw_map &m = a.m;
    const uint32_t ty = threadIdx.x / m.tx;
    const uint32_t n_ty = K_THREADS / m.tx;
    const uint32_t tx = threadIdx.x - ty * m.tx;
    const uint32_t first = blockIdx.y * m.tx;
    const uint32_t c = first + tx;
    k_dw_load_taps(k_as<E>(a.w), m, first, m.tx, a.mirror != 0, taps);
    __syncthreads();
    if (ty >= n_ty || c >= (uint32_t)m.c)
        return;
    const k_vec<1> bias = k_channels<1>(a.bias, c, 0.0f);
    const uint32_t n_runs = (uint32_t)m.n * (uint32_t)m.oh * m.runs;
    for (uint32_t t = blockIdx.x * n_ty + ty; t < n_runs; t += a.head.gx * n_ty) {
        const k_dw_place at = k_dw_place_of<1>(m, t);
        if (at.ow0 >= m.ow)
            continue;
        const E *const x = k_as<E>(a.x) + (size_t)at.n * (size_t)m.h * (size_t)m.w * (size_t)m.c + c;
        k_vec<1> y = k_dw_output<1>(k_dw_activated{a.load}, m, x, taps + tx, m.tx, at.oh, at.ow0, bias);
        y[0] = k_activate(y[0], a.act);
        k_store(k_as<E>(a.y) + ((size_t)at.row * (size_t)m.ow + (size_t)at.ow0) * (size_t)m.c + c, y);
    }
}

/* The launcher of a kernel over the variants of depthwise.h; `any`: the kernel of DASS_K_DW_ANY. */
#define K_DW_ENTRY(fn, k, t, text, stored) k_entry(#fn " " #k "x" #k " T" #t text, fn, DASS_K_DW(k, t) | (stored))
#define K_DW_ENTRIES(fn, text, stored)                                                                              \
    K_DW_ENTRY(fn, 3, 1, text, stored), K_DW_ENTRY(fn, 3, 2, text, stored), K_DW_ENTRY(fn, 5, 1, text, stored),     \
        K_DW_ENTRY(fn, 5, 2, text, stored), K_DW_ENTRY(fn, 7, 1, text, stored), K_DW_ENTRY(fn, 7, 2, text, stored), \
        k_entry(#fn " any" text, fn, DASS_K_DW_ANY | (stored))
#define K_DW_CASE(A, kernel, code)                                         \
    case code:                                                             \
        K_LAUNCH_PACKS(A, kernel, (code), K_THREADS, items, n, g, stream); \
        break
#define K_DW_CASES(A, kernel, stored)                 \
    K_DW_CASE(A, kernel, DASS_K_DW(3, 1) | (stored)); \
    K_DW_CASE(A, kernel, DASS_K_DW(3, 2) | (stored)); \
    K_DW_CASE(A, kernel, DASS_K_DW(5, 1) | (stored)); \
    K_DW_CASE(A, kernel, DASS_K_DW(5, 2) | (stored)); \
    K_DW_CASE(A, kernel, DASS_K_DW(7, 1) | (stored)); \
    K_DW_CASE(A, kernel, DASS_K_DW(7, 2) | (stored))
#define K_LAUNCHER_DW(fn, A, kernel, any)                                          \
    static k_entry entries_##fn[] = {                                              \
        K_DW_ENTRIES(fn, " bf16", DASS_K_BF16),                                    \
        K_DW_ENTRIES(fn, "", 0),                                                   \
    };                                                                             \
    DASS_K_API int fn(const void *items, uint32_t n, dass_k_grid g, void *stream)  \
    {                                                                              \
        K_COUNT(entries_##fn, g.variant, n);                                       \
        switch (g.variant) {                                                       \
            K_DW_CASES(A, kernel, 0);                                              \
            K_DW_CASES(A, kernel, DASS_K_BF16);                                    \
            K_DW_CASE(A, any, DASS_K_DW_ANY | DASS_K_BF16);                        \
        default:                                                                   \
            K_LAUNCH_PACKS(A, any, DASS_K_DW_ANY, K_THREADS, items, n, g, stream); \
        }                                                                          \
        return k_launched();                                                       \
    }
K_LAUNCHER_DW(dass_k_dw_forward_run, dass_k_dw_forward, k_dw_forward, k_dw_forward_any)

/* A pixel of d_x to a thread; columns of even number first, because neighbours of one parity meet the same taps and a
 * warp does not diverge. 5 MiB for d_x 64 x 32 x 32 x 16: 1.7 us; 6.25 loads a pixel at K = 5. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_dw_data(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    alignas(16) K_SHARED float taps[DASS_K_DW_MAX * DASS_K_DW_MAX * DASS_K_DW_LANES * V];
    const dass_k_dw_map &m = a.m;
    const uint32_t ty = threadIdx.x / m.tx;
    const uint32_t n_ty = K_THREADS / m.tx;
    const uint32_t tx = threadIdx.x - ty * m.tx;
    const uint32_t first = blockIdx.y * m.tx * V;
    const uint32_t c = first + tx * V;
    k_dw_load_taps(k_as<T>(a.w), m, first, m.tx * V, false, taps);
    __syncthreads();
    if (ty >= n_ty || c >= (uint32_t)m.c)
        return;
    const uint32_t width = (uint32_t)m.w;
    const uint32_t n_even = (width + 1) / 2;
    const uint32_t n_pixels = (uint32_t)m.n * (uint32_t)m.h * width;
    for (uint32_t t = blockIdx.x * n_ty + ty; t < n_pixels; t += a.head.gx * n_ty) {
        const uint32_t row = t / width;
        const uint32_t q = t - row * width;
        const uint32_t w = q < n_even ? 2 * q : 2 * (q - n_even) + 1;
        const uint32_t n = row / (uint32_t)m.h;
        const T *const d_y = k_as<T>(a.d_y) + (size_t)n * (size_t)m.oh * (size_t)m.ow * (size_t)m.c + c;
        k_store(k_as<T>(a.d_x) + ((size_t)row * width + w) * (size_t)m.c + c,
                k_dw_gather2<V>(m, d_y, taps + tx * V, m.tx * V, (int32_t)(row - n * (uint32_t)m.h), (int32_t)w));
    }
}
K_LAUNCHER_S(dass_k_dw_data_run, dass_k_dw_data, k_dw_data, K_THREADS)

/* A thread owns V channels of one tap row and a share of the chunk's runs; the tap rows of a run stand in one block, so
 * that the K reads of x and d_y leave it as one. 8 MiB read for 64 x 32 x 32 x 16: 2.8 us at 3 TB/s; K V sums, the
 * run's d_y and the loads in flight make 80 registers (128 for T = 2 and K = 7). 36 KB of shared memory at K = 7. */
template <int CODE, class P> __global__ void K_BOUNDS(K_THREADS, K_DW_BLOCKS(CODE)) k_dw_taps_of(K_PARAM P p)
{
    K_DW_CODE(CODE);
    constexpr int K = F == DASS_K_DW_ANY ? DASS_K_DW_MAX : F / 10;
    constexpr int T = F == DASS_K_DW_ANY ? 1 : F % 10;
    constexpr int V = F == DASS_K_DW_ANY ? 1 : 4;
    constexpr int R = F == DASS_K_DW_ANY ? 1 : DASS_K_DW_RUN;
    K_ITEM(p);
    K_SHARED float part[K * V * K_THREADS];
    const dass_k_dw_map &m = a.m;
    const uint32_t kh = (uint32_t)m.kh;
    const uint32_t kw = (uint32_t)m.kw;
    const uint32_t n_ty = K_THREADS / (m.tx * kh);
    const uint32_t tx = threadIdx.x % m.tx;
    const uint32_t r = threadIdx.x / m.tx % kh;
    const uint32_t ty = threadIdx.x / (m.tx * kh);
    const uint32_t first = blockIdx.y * m.tx * V;
    const uint32_t c = first + tx * V;
    k_vec<V> acc[K] = {};
    if (ty < n_ty && c < (uint32_t)m.c) {
        const uint32_t n_runs = (uint32_t)m.n * (uint32_t)m.oh * m.runs;
        const uint32_t begin = blockIdx.x * a.chunk;
        const uint32_t end = n_runs - begin < a.chunk ? n_runs : begin + a.chunk;
        for (uint32_t t = begin + ty; t < end; t += n_ty) {
            const k_dw_place at = k_dw_place_of<R>(m, t);
            const int32_t h = at.oh * m.stride - m.pad + (int32_t)r * m.dil;
            if ((uint32_t)h >= (uint32_t)m.h)
                continue;
            const E *const x = k_as<E>(a.x) + ((size_t)at.n * (size_t)m.h + (size_t)h) * (size_t)m.w * (size_t)m.c + c;
            const E *const d_y = k_as<E>(a.d_y) + (size_t)at.row * (size_t)m.ow * (size_t)m.c + c;
            k_dw_taps<V, K, T, R>(k_dw_plain{}, m, x, d_y, at.ow0, acc);
        }
    }
#pragma unroll
    for (int s = 0; s < K; s++)
#pragma unroll
        for (int i = 0; i < V; i++)
            part[(s * V + i) * K_THREADS + threadIdx.x] = acc[s][i];
    __syncthreads();
    const uint32_t row = m.tx * kh; /* threads of one ty */
    for (uint32_t e = threadIdx.x; e < kw * V * row; e += K_THREADS) {
        const uint32_t si = e / row; /* s V + i */
        const uint32_t of = e - si * row;
        const uint32_t ce = first + of % m.tx * V + si % V;
        if (ce >= (uint32_t)m.c)
            continue;
        float sum = 0.0f;
        for (uint32_t y = 0; y < n_ty; y++)
            sum += part[si * K_THREADS + y * row + of];
        const uint32_t tap = of / m.tx * kw + si / V;
        a.part[((size_t)blockIdx.x * kh * kw + tap) * (size_t)m.c + ce] = sum;
    }
    if (!k_last_block(a.counter, a.head.gx * a.head.gy))
        return;
    const uint32_t n_c = (uint32_t)m.c;
    float *const d_w = a.d_w;
    k_dw_finish<V>(a.part, a.head.gx, kh * kw * n_c,
                   [=](uint32_t i, double sum) { d_w[(size_t)(i % n_c) * kh * kw + i / n_c] = (float)sum; });
}

K_LAUNCHER_DW(dass_k_dw_taps_run, dass_k_dw_taps, k_dw_taps_of, k_dw_taps_of)
