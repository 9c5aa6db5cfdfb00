/* What dwpw.cu and dwpw_bwd.cu share: strips of pixels, the depthwise product of a strip, tiles in shared memory and
 * the loop that multiplies one by a matrix. Device code only.
 *
 * A tile of channels by pixels lies in shared memory as rows of pixels, one row a channel, in groups of four pixels (a
 * strip): element (c, strip, i) at c * 4 tile + 4 (strip ^ k_swizzled(c)) + i. The exclusive or puts what the threads
 * of a warp write at once, neighbouring channels of one strip, into different banks, while a row stays a permutation of
 * itself, so that readers of one channel and neighbouring strips do not collide either.
 *
 * E is the stored type of tensors and weights; what lies in shared memory are floats.
 */
#ifndef DASS_DWPW_CUH
#define DASS_DWPW_CUH

#include "common.cuh"
#include "dwpw.h"

#define K_STRIP DASS_K_DWPW_STRIP
#define K_SLICE DASS_K_DWPW_SLICE
#define K_MOST_TILE 64 /* strips in a tile */

/* What a variant of dwpw.h says, which is the template parameter of the kernels. */
template <int CODE> struct k_dwpw_code {
    using E = typename k_stored<(CODE & DASS_K_BF16) != 0>::type;
    static constexpr int V = CODE & 15;
    static constexpr int K = CODE >> 4 & 15;
    static constexpr int T = CODE >> 8 & 15;
    static constexpr int TAPS = K > 0 ? K *K : 1; /* kept in shared memory */
};

/* A strip of outputs: pixel numbers out + i apart, i < n. ih, iw: the first tap of pixel 0; image: number of the first
 * pixel of the image in x. */
struct k_strip {
    uint32_t out, image;
    int32_t n, ih, iw;
};

/* Where strip i of some rows begins: row and column of its first pixel; how many of its pixels exist. */
__device__ __forceinline__ int32_t k_strip_at(const dass_k_strips &s, uint32_t i, uint32_t &row, uint32_t &col)
{
    row = i / s.per_row;
    const uint32_t k = i - row * s.per_row;
    const uint32_t block = k / s.apart;
    col = block * K_STRIP * s.apart + (k - block * s.apart);
    if (i >= s.n || col >= s.w)
        return 0;
    const uint32_t left = (s.w - col + s.apart - 1) / s.apart;
    return left < K_STRIP ? (int32_t)left : K_STRIP;
}

__device__ __forceinline__ k_strip k_out_strip(const dass_k_dwpw_shape &s, uint32_t i)
{
    uint32_t row;
    uint32_t col;
    k_strip r = {};
    r.n = k_strip_at(s.out, i, row, col);
    if (r.n > 0) {
        const uint32_t image = row / (uint32_t)s.oh;
        r.out = row * s.out.w + col;
        r.image = image * (uint32_t)s.h * (uint32_t)s.w;
        r.ih = (int32_t)(row - image * (uint32_t)s.oh) * s.stride - s.pad;
        r.iw = (int32_t)col * s.stride - s.pad;
    }
    return r;
}

/* V channels of a normalised operand, u = scale (x - mean) + beta; floor is 0 with relu, else -infinity. */
template <int V> struct k_affine {
    k_vec<V> mean, scale, beta;
    float floor;
};
template <int V> __device__ __forceinline__ k_affine<V> k_affine_of(const dass_k_norm &in, uint32_t c, int32_t relu)
{
    k_affine<V> f;
    f.mean = k_channels<V>(in.mean, c, 0.0f);
    f.scale = k_channels<V>(in.mean ? in.gamma : nullptr, c, 1.0f);
    f.beta = k_channels<V>(in.mean ? in.beta : nullptr, c, 0.0f);
    const k_vec<V> rstd = k_channels<V>(in.mean ? in.rstd : nullptr, c, 1.0f);
#pragma unroll
    for (int i = 0; i < V; i++)
        f.scale[i] *= rstd[i];
    f.floor = relu ? 0.0f : -INFINITY;
    return f;
}
/* v of x; a NaN stays one. */
template <int V> __device__ __forceinline__ k_vec<V> k_relued(const k_affine<V> &f, k_vec<V> x)
{
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float u = f.scale[i] * (x[i] - f.mean[i]) + f.beta[i];
        x[i] = u < f.floor ? f.floor : u;
    }
    return x;
}

/* z of a strip for V channels from c on, window known: each of the 3 T + K columns of a row is loaded once. taps: w_dw
 * of these channels as [tap][K_SLICE]. */
template <int V, int K, int T, class E>
__device__ __forceinline__ void k_depthwise(const dass_k_dwpw_shape &s, const E *x, const k_affine<V> &f,
                                            const float *taps, const k_strip &at, uint32_t c, k_vec<V> (&z)[K_STRIP])
{
#pragma unroll
    for (int r = 0; r < K; r++) {
        const int32_t ih = at.ih + r * s.dil;
        if (ih < 0 || ih >= s.h)
            continue;
        const E *row = x + (size_t)(at.image + (uint32_t)(ih * s.w)) * s.c + c;
        k_vec<V> w[K];
#pragma unroll
        for (int q = 0; q < K; q++)
            w[q] = k_load<V>(taps + (r * K + q) * K_SLICE);
#pragma unroll
        for (int j = 0; j < (K_STRIP - 1) * T + K; j++) {
            const int32_t iw = at.iw + j * s.dil;
            if (iw < 0 || iw >= s.w)
                continue;
            const k_vec<V> v = k_relued<V>(f, k_load<V>(row + (size_t)((uint32_t)iw * s.c)));
#pragma unroll
            for (int i = 0; i < K_STRIP; i++) {
                if (j < i * T || j >= i * T + K)
                    continue;
#pragma unroll
                for (int k = 0; k < V; k++)
                    z[i][k] += w[j - i * T][k] * v[k];
            }
        }
    }
}

/* The same for any window, w_dw where it lies. */
template <int V, class E>
__device__ __forceinline__ void k_depthwise_any(const dass_k_dwpw_shape &s, const E *x, const k_affine<V> &f,
                                                const E *w_dw, const k_strip &at, uint32_t c, k_vec<V> (&z)[K_STRIP])
{
    const uint32_t n_taps = (uint32_t)(s.kh * s.kw);
    const int32_t step = (int32_t)s.out.apart * s.stride;
    for (int32_t r = 0; r < s.kh; r++) {
        const int32_t ih = at.ih + r * s.dil;
        if (ih < 0 || ih >= s.h)
            continue;
        const E *row = x + (size_t)(at.image + (uint32_t)(ih * s.w)) * s.c + c;
        for (int32_t q = 0; q < s.kw; q++) {
            k_vec<V> w;
#pragma unroll
            for (int k = 0; k < V; k++)
                w[k] = k_float(w_dw[(size_t)(c + (uint32_t)k) * n_taps + (uint32_t)(r * s.kw + q)]);
#pragma unroll
            for (int i = 0; i < K_STRIP; i++) {
                const int32_t iw = at.iw + q * s.dil + i * step;
                if (iw < 0 || iw >= s.w)
                    continue;
                const k_vec<V> v = k_relued<V>(f, k_load<V>(row + (size_t)((uint32_t)iw * s.c)));
#pragma unroll
                for (int k = 0; k < V; k++)
                    z[i][k] += w[k] * v[k];
            }
        }
    }
}

/* w_dw of the slice of n channels from c0 on to [tap][K_SLICE], by all threads, element by element: weights may begin
 * anywhere. */
template <int K, class E>
__device__ __forceinline__ void k_load_taps(const E *w_dw, uint32_t c0, uint32_t n, float *taps)
{
    for (uint32_t i = threadIdx.x; i < n * (K * K); i += K_THREADS)
        taps[i % (K * K) * K_SLICE + i / (K * K)] = k_float(w_dw[(size_t)c0 * (K * K) + i]);
}

__device__ __forceinline__ uint32_t k_swizzled(uint32_t c, uint32_t shift)
{
    return c / 4 << shift & 7;
}

/* Four pixels of a strip for V channels from local channel c on, to the tile. */
template <int V>
__device__ __forceinline__ void k_put(float *tile, uint32_t strips, uint32_t shift, uint32_t c, uint32_t strip,
                                      const k_vec<V> (&z)[K_STRIP])
{
    const uint32_t at = (strip ^ k_swizzled(c, shift)) * K_STRIP;
#pragma unroll
    for (int k = 0; k < V; k++)
        k_store(tile + (c + (uint32_t)k) * strips * K_STRIP + at, k_vec<4>{{z[0][k], z[1][k], z[2][k], z[3][k]}});
}

/* z of the tile's strips for the slice of channels from c0 on; rows of channels past the last up to a multiple of 4 are
 * zeros. Each thread keeps to its V channels, those that f is of. */
template <int CODE>
__device__ __forceinline__ void k_depthwise_tile(const dass_k_dwpw_shape &s, const void *x,
                                                 const k_affine<k_dwpw_code<CODE>::V> &f, const void *w_dw,
                                                 const float *taps, const k_strip *strip, uint32_t c0, float *tile)
{
    constexpr int V = k_dwpw_code<CODE>::V;
    using E = typename k_dwpw_code<CODE>::E;
    const uint32_t lane = (threadIdx.x & ((1u << s.lane_bits) - 1)) * V;
    const uint32_t c = c0 + lane;
    if (lane >= K_SLICE || c >= ((s.c + 3) & ~3u))
        return;
    for (uint32_t g = threadIdx.x >> s.lane_bits; g < s.tile; g += K_THREADS >> s.lane_bits) {
        const k_strip at = strip[g];
        k_vec<V> z[K_STRIP] = {};
        if (at.n > 0 && c < s.c) {
            if constexpr (k_dwpw_code<CODE>::K > 0)
                k_depthwise<V, k_dwpw_code<CODE>::K, k_dwpw_code<CODE>::T>(s, k_as<E>(x), f, taps + lane, at, c, z);
            else
                k_depthwise_any<V>(s, k_as<E>(x), f, k_as<E>(w_dw), at, c, z);
        }
        k_put<V>(tile, s.tile, s.swizzle, lane, g, z);
    }
}

/* Which 4 pixels by 4 columns of a tile's product a thread makes: strip g, columns from 4 q on. The threads of a warp
 * form a rectangle of 8 strips and 4 column groups where there are as many. */
struct k_patch {
    uint32_t g, q;
};
__device__ __forceinline__ k_patch k_patch_of(uint32_t group_bits)
{
    const uint32_t t = threadIdx.x;
    if (group_bits < 2)
        return k_patch{t >> group_bits, t & ((1u << group_bits) - 1)};
    const uint32_t warp = t / 32;
    const uint32_t wide = group_bits - 2; /* log2 of warps side by side */
    return k_patch{(t / 4 & 7) + 8 * (warp >> wide), (t & 3) + 4 * (warp & ((1u << wide) - 1))};
}

/* sum(i, j) += over rows c < n, a multiple of 4, of tile(c, g, i) matrix[c * pitch + j]. */
__device__ __forceinline__ void k_multiply(const float *tile, uint32_t strips, uint32_t shift, uint32_t g, uint32_t n,
                                           const float *matrix, uint32_t pitch, k_vec<4> (&sum)[K_STRIP])
{
    for (uint32_t c = 0; c < n; c += 4) {
        const uint32_t at = (g ^ k_swizzled(c, shift)) * K_STRIP;
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            const k_vec<4> z = k_load<4>(tile + (c + k) * strips * K_STRIP + at);
            const k_vec<4> w = k_load<4>(matrix + (c + k) * pitch);
#pragma unroll
            for (int i = 0; i < K_STRIP; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sum[i][j] += z[i] * w[j];
            }
        }
    }
}

/* A patch to memory: columns of a tensor of n_c channels from c on, those that exist. */
template <int V, class E>
__device__ __forceinline__ void k_store_patch(E *y, uint32_t n_c, uint32_t apart, uint32_t c, const k_strip &at,
                                              const k_vec<4> (&sum)[K_STRIP])
{
#pragma unroll
    for (int i = 0; i < K_STRIP; i++) {
        if (i >= at.n)
            continue;
        E *to = y + (size_t)(at.out + (uint32_t)i * apart) * n_c + c;
        if constexpr (V == 4) {
            k_store(to, sum[i]);
        } else {
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                if (c + j < n_c)
                    k_store(to + j, k_vec<1>{{sum[i][j]}});
            }
        }
    }
}

/* The launcher of a kernel over the variants of dwpw.h. */
#define K_DWPW_CASE(A, kernel, code)                                       \
    case code:                                                             \
        K_LAUNCH_PACKS(A, kernel, (code), K_THREADS, items, n, g, stream); \
        break
#define K_DWPW_CASES(A, kernel, stored)                      \
    K_DWPW_CASE(A, kernel, DASS_K_DWPW(4, 3, 1) | (stored)); \
    K_DWPW_CASE(A, kernel, DASS_K_DWPW(4, 3, 2) | (stored)); \
    K_DWPW_CASE(A, kernel, DASS_K_DWPW(4, 5, 1) | (stored)); \
    K_DWPW_CASE(A, kernel, DASS_K_DWPW(4, 5, 2) | (stored)); \
    K_DWPW_CASE(A, kernel, DASS_K_DWPW(4, 0, 0) | (stored))
#define K_LAUNCHER_DWPW(fn, A, kernel)                                                       \
    static k_entry entries_##fn[] = {                                                        \
        {#fn " V4 3x3 T1", fn, DASS_K_DWPW(4, 3, 1)},                                        \
        {#fn " V4 3x3 T2", fn, DASS_K_DWPW(4, 3, 2)},                                        \
        {#fn " V4 5x5 T1", fn, DASS_K_DWPW(4, 5, 1)},                                        \
        {#fn " V4 5x5 T2", fn, DASS_K_DWPW(4, 5, 2)},                                        \
        {#fn " V4", fn, DASS_K_DWPW(4, 0, 0)},                                               \
        {#fn " V4 3x3 T1 bf16", fn, DASS_K_DWPW(4, 3, 1) | DASS_K_BF16},                     \
        {#fn " V4 3x3 T2 bf16", fn, DASS_K_DWPW(4, 3, 2) | DASS_K_BF16},                     \
        {#fn " V4 5x5 T1 bf16", fn, DASS_K_DWPW(4, 5, 1) | DASS_K_BF16},                     \
        {#fn " V4 5x5 T2 bf16", fn, DASS_K_DWPW(4, 5, 2) | DASS_K_BF16},                     \
        {#fn " V4 bf16", fn, DASS_K_DWPW(4, 0, 0) | DASS_K_BF16},                            \
        {#fn " V1 bf16", fn, DASS_K_DWPW(1, 0, 0) | DASS_K_BF16},                            \
        {#fn " V1", fn, DASS_K_DWPW(1, 0, 0)},                                               \
    };                                                                                       \
    DASS_K_API int fn(const void *items, uint32_t n, dass_k_grid g, void *stream)            \
    {                                                                                        \
        K_COUNT(entries_##fn, g.variant, n);                                                 \
        switch (g.variant) {                                                                 \
            K_DWPW_CASES(A, kernel, 0u);                                                     \
            K_DWPW_CASES(A, kernel, DASS_K_BF16);                                            \
            K_DWPW_CASE(A, kernel, DASS_K_DWPW(1, 0, 0) | DASS_K_BF16);                      \
        default:                                                                             \
            K_LAUNCH_PACKS(A, kernel, DASS_K_DWPW(1, 0, 0), K_THREADS, items, n, g, stream); \
        }                                                                                    \
        return k_launched();                                                                 \
    }

#endif
