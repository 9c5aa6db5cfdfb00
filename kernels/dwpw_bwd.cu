/* The fused separable half, backward. dz is stored once, as scratch; z and v are made again where they are needed. The
 * sums over pixels leave a kernel as one partial sum a block, and dwpw_finish adds them in order.
 *
 * N = 64, C = OC = 16, 32 x 32, stride 1, coef given: 4.2 MB a tensor; dwpw_outer reads d, y, x and writes dz,
 * dwpw_inner reads dz, x and writes d_x: 29 MB, 10 us at 3 TB/s if nothing stayed in the second-level cache. 5 x 5:
 * 0.36 GFLOP, 6 us at 60 TFLOP/s (3 x 3: 0.18); the two overlap.
 */
#include "dwpw.cuh"

/* ---- through the pointwise product ------------------------------------------------------------------------------ */

/* e of the tile's strips for the slice of y from oc0 on, zeros past the edges. */
template <int V, class E>
static __device__ __forceinline__ void load_e(const dass_k_dwpw_outer &a, const k_strip *strip, uint32_t oc0,
                                              float *tile)
{
    const uint32_t lane = (threadIdx.x & ((1u << a.lane_bits) - 1)) * V;
    const uint32_t oc = oc0 + lane;
    const uint32_t n_oc = a.s.oc;
    if (lane >= K_SLICE || oc >= ((n_oc + 3) & ~3u))
        return;
    k_vec<V> of_d = {};
    k_vec<V> of_y = {};
    k_vec<V> of_1 = {};
    if (a.coef && oc < n_oc) {
        of_d = k_load<V>(a.coef + oc);
        of_y = k_load<V>(a.coef + n_oc + oc);
        of_1 = k_load<V>(a.coef + 2 * n_oc + oc);
    }
    for (uint32_t g = threadIdx.x >> a.lane_bits; g < a.s.tile; g += K_THREADS >> a.lane_bits) {
        const k_strip at = strip[g];
        k_vec<V> e[K_STRIP] = {};
#pragma unroll
        for (int i = 0; i < K_STRIP; i++) {
            if (i >= at.n || oc >= n_oc)
                continue;
            const size_t from = (size_t)(at.out + (uint32_t)i * a.s.out.apart) * n_oc + oc;
            e[i] = k_load<V>(k_as<E>(a.d) + from);
            if (a.coef) {
                const k_vec<V> y = k_load<V>(k_as<E>(a.y) + from);
#pragma unroll
                for (int k = 0; k < V; k++)
                    e[i][k] = of_d[k] * e[i][k] + of_y[k] * y[k] + of_1[k];
            }
        }
        k_put<V>(tile, a.s.tile, a.swizzle, lane, g, e);
    }
}

/* w_pw of outputs [oc0, oc0 + n_oc) and inputs [c0, c0 + n_c), both multiples of 4, as it lies, to [oc][n_c]; zeros
 * past the edges. */
template <class E>
static __device__ __forceinline__ void load_matrix(const dass_k_dwpw_shape &s, const E *w_pw, uint32_t oc0,
                                                   uint32_t n_oc, uint32_t c0, uint32_t n_c, float *to)
{
    const uint32_t bits = s.group_bits + 2;
    const uint32_t c = threadIdx.x & ((1u << bits) - 1);
    for (uint32_t o = threadIdx.x >> bits; c < n_c && o < n_oc; o += K_THREADS >> bits)
        to[o * n_c + c] = oc0 + o < s.oc && c0 + c < s.c ? k_float(w_pw[(size_t)(oc0 + o) * s.c + c0 + c]) : 0.0f;
}

/* A thread's 4 outputs by 4 inputs of d_w_pw, over every n_splits-th strip. */
struct k_outer {
    uint32_t o, c, split, n_splits, n_pairs;
};
static __device__ __forceinline__ k_outer outer_of(uint32_t n_oc, uint32_t n_c)
{
    const uint32_t wide = n_c / 4;
    k_outer r;
    r.n_pairs = n_oc / 4 * wide;
    r.n_splits = K_THREADS / r.n_pairs;
    r.split = threadIdx.x / r.n_pairs;
    const uint32_t pair = threadIdx.x - r.split * r.n_pairs;
    r.o = pair / wide * 4;
    r.c = (pair - pair / wide * wide) * 4;
    return r;
}
static __device__ __forceinline__ void add_outer(const dass_k_dwpw_outer &a, const k_outer &me, const float *e,
                                                 const float *z, k_vec<4> (&sum)[4])
{
    const uint32_t row = a.s.tile * K_STRIP;
    if (me.split >= me.n_splits)
        return;
    for (uint32_t g = me.split; g < a.s.tile; g += me.n_splits) {
        const uint32_t at_e = me.o * row + (g ^ k_swizzled(me.o, a.swizzle)) * K_STRIP;
        const uint32_t at_z = me.c * row + (g ^ k_swizzled(me.c, a.s.swizzle)) * K_STRIP;
        k_vec<4> zs[4];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            zs[j] = k_load<4>(z + at_z + j * row);
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            const k_vec<4> es = k_load<4>(e + at_e + k * row);
#pragma unroll
            for (int j = 0; j < 4; j++) {
#pragma unroll
                for (int i = 0; i < K_STRIP; i++)
                    sum[k][j] += es[i] * zs[j][i];
            }
        }
    }
}
/* The splits' sums added in order, to this block's part. red: 16 K_THREADS. */
static __device__ __forceinline__ void put_outer(const dass_k_dwpw_outer &a, const k_outer &me, uint32_t oc0,
                                                 uint32_t n_oc, uint32_t c0, uint32_t n_c, const k_vec<4> (&sum)[4],
                                                 float *red)
{
    __syncthreads();
#pragma unroll
    for (uint32_t k = 0; k < 4; k++) {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            red[(k * 4 + j) * K_THREADS + threadIdx.x] = sum[k][j];
    }
    __syncthreads();
    float *to = a.part + (size_t)blockIdx.x * a.s.oc * a.s.c;
    for (uint32_t i = threadIdx.x; i < n_oc * n_c; i += K_THREADS) {
        const uint32_t o = i / n_c;
        const uint32_t c = i - o * n_c;
        const float *from = red + (o % 4 * 4 + c % 4) * K_THREADS + o / 4 * (n_c / 4) + c / 4;
        float s = 0.0f;
        for (uint32_t k = 0; k < me.n_splits; k++)
            s += from[k * me.n_pairs];
        if (oc0 + o < a.s.oc && c0 + c < a.s.c)
            to[(size_t)(oc0 + o) * a.s.c + c0 + c] = s;
    }
}

/* 17 MB for the shape above, 5.6 us; 34 MFLOP for each of the two products and the depthwise product once more. Tiles
 * as forward; the matrix is needed before z is, so they take turns in the same 16 KB. */
template <int CODE, class P> __global__ void K_BOUNDS(K_THREADS, 2) k_dwpw_outer(K_PARAM P p)
{
    K_ITEM(p);
    constexpr int V = k_dwpw_code<CODE>::V;
    using E = typename k_dwpw_code<CODE>::E;
    alignas(16) K_SHARED float e[DASS_K_DWPW_TILE];
    alignas(16) K_SHARED float z[DASS_K_DWPW_TILE];
    alignas(16) K_SHARED float taps[k_dwpw_code<CODE>::TAPS * K_SLICE];
    K_SHARED k_strip strip[K_MOST_TILE];
    const dass_k_dwpw_shape &s = a.s;
    const uint32_t slices_c = (s.c + K_SLICE - 1) / K_SLICE;
    const uint32_t slice_oc = blockIdx.y / slices_c;
    const uint32_t c0 = (blockIdx.y - slice_oc * slices_c) * K_SLICE;
    const uint32_t n_c = s.c - c0 < K_SLICE ? (s.c - c0 + 3) & ~3u : K_SLICE;
    const uint32_t oc0 = slice_oc * K_SLICE;
    const uint32_t n_oc = s.oc - oc0 < K_SLICE ? (s.oc - oc0 + 3) & ~3u : K_SLICE;
    const bool with_dz = a.dz && slice_oc == 0; /* then all of y is gone through, this block's slice last */
    const uint32_t top = with_dz ? (s.oc - 1) / K_SLICE * K_SLICE : oc0;
    const k_patch me = k_patch_of(s.group_bits);
    const bool working = with_dz && me.g < s.tile && me.q * 4 < n_c;
    const k_outer mine = outer_of(n_oc, n_c);
    const uint32_t begin = blockIdx.x * s.per_block;
    const uint32_t end = begin + s.per_block < s.n_tiles ? begin + s.per_block : s.n_tiles;
    const uint32_t lane = c0 + (threadIdx.x & ((1u << s.lane_bits) - 1)) * V;
    k_vec<4> d_w[4] = {};
    if constexpr (k_dwpw_code<CODE>::K > 0) {
        if (a.part)
            k_load_taps<k_dwpw_code<CODE>::K>(k_as<E>(a.w_dw), c0, s.c - c0 < n_c ? s.c - c0 : n_c, taps);
    }
    for (uint32_t t = begin; t < end; t++) {
        k_vec<4> sum[K_STRIP] = {};
        __syncthreads(); /* the tile before is done with all of it */
        if (threadIdx.x < s.tile)
            strip[threadIdx.x] = k_out_strip(s, t * s.tile + threadIdx.x);
        for (uint32_t o = top;; o -= K_SLICE) {
            const uint32_t n_o = s.oc - o < K_SLICE ? (s.oc - o + 3) & ~3u : K_SLICE;
            __syncthreads();
            load_e<V, E>(a, strip, o, e);
            if (with_dz)
                load_matrix(s, k_as<E>(a.w_pw), o, n_o, c0, n_c, z);
            __syncthreads();
            if (working)
                k_multiply(e, s.tile, a.swizzle, me.g, n_o, z + me.q * 4, n_c, sum);
            if (o == oc0)
                break;
        }
        if (working) {
            const k_strip at = strip[me.g];
            k_store_patch<V>(a.dz, s.c, s.out.apart, c0 + me.q * 4, at, sum);
        }
        if (!a.part)
            continue;
        __syncthreads();
        k_affine<V> f = {};
        if (lane < s.c)
            f = k_affine_of<V>(a.in, lane, s.relu);
        k_depthwise_tile<CODE>(s, a.in.x, f, a.w_dw, taps, strip, c0, z);
        __syncthreads();
        add_outer(a, mine, e, z, d_w);
    }
    if (a.part)
        put_outer(a, mine, oc0, n_oc, c0, n_c, d_w, z);
}
K_LAUNCHER_DWPW(dass_k_dwpw_outer_run, dass_k_dwpw_outer, k_dwpw_outer)

/* ---- sums over the pixels of a block ---------------------------------------------------------------------------- */

/* Thread (tx, ty) owns V channels from c on and every n_ty-th strip. */
struct k_column {
    uint32_t c, tx, ty, n_tx, n_ty;
    bool live;
};
template <int V> static __device__ __forceinline__ k_column column_of(uint32_t tx, uint32_t group, uint32_t n_c)
{
    k_column l;
    l.n_tx = tx;
    l.n_ty = K_THREADS / tx;
    l.tx = threadIdx.x & (tx - 1);
    l.ty = threadIdx.x / tx;
    l.c = (group * tx + l.tx) * V;
    l.live = l.c < n_c;
    return l;
}

/* N sums of V channels over the threads of each column, first inside the warps, then over the warps in order, to
 * to[k * pitch + c]. tx <= 32. red: N * 8 warps * 32 V. */
template <int N, int V>
static __device__ __forceinline__ void fold(const k_column &l, const k_vec<V> (&v)[N], float *red, float *to,
                                            uint32_t n_c)
{
    const uint32_t wide = l.n_tx * V;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < N; k++) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            float s = v[k][i];
            for (uint32_t step = 16; step >= l.n_tx; step /= 2)
                s += __shfl_xor_sync(0xffffffffu, s, (int)step);
            if ((threadIdx.x & 31) < l.n_tx)
                red[((uint32_t)k * (K_THREADS / 32) + threadIdx.x / 32) * wide + l.tx * V + (uint32_t)i] = s;
        }
    }
    __syncthreads();
    const uint32_t first = l.c - l.tx * V;
    for (uint32_t i = threadIdx.x; i < N * wide; i += K_THREADS) {
        const uint32_t k = i / wide;
        const uint32_t j = i - k * wide;
        float s = 0.0f;
        for (uint32_t w = 0; w < K_THREADS / 32; w++)
            s += red[(k * (K_THREADS / 32) + w) * wide + j];
        if (first + j < n_c)
            to[(size_t)k * n_c + first + j] = s;
    }
}

/* ---- through the depthwise product ------------------------------------------------------------------------------ */

/* A strip of x: pixel numbers at + i apart, i < n; row h of its image, column w of pixel 0; image: the first pixel of
 * its image in y. */
struct k_in_strip {
    uint32_t at, image;
    int32_t n, h, w;
};
static __device__ __forceinline__ k_in_strip in_strip(const dass_k_dwpw_inner &a, uint32_t i)
{
    uint32_t row;
    uint32_t col;
    k_in_strip r;
    r.n = k_strip_at(a.at, i, row, col);
    const uint32_t image = row / (uint32_t)a.s.h;
    r.at = row * a.at.w + col;
    r.image = image * (uint32_t)a.s.oh * (uint32_t)a.s.ow;
    r.h = (int32_t)(row - image * (uint32_t)a.s.h);
    r.w = (int32_t)col;
    return r;
}

/* q of a strip at stride 1 and, in d_w, v dz for each tap: column j of a row of dz meets tap s of pixel i where j = i -
 * s
 * + K - 1. */
template <int V, int K>
static __device__ __forceinline__ void gather(const dass_k_dwpw_inner &a, const k_in_strip &at, uint32_t c,
                                              const float *taps, const k_vec<V> (&v)[K_STRIP], k_vec<V> (&q)[K_STRIP],
                                              k_vec<V> (&d_w)[K][K])
{
    const dass_k_dwpw_shape &s = a.s;
#pragma unroll
    for (int r = 0; r < K; r++) {
        const int32_t oh = at.h + s.pad - r * s.dil;
        if (oh < 0 || oh >= s.oh)
            continue;
        const float *row = a.dz + (size_t)(at.image + (uint32_t)(oh * s.ow)) * s.c + c;
        const int32_t first = at.w + s.pad - (K - 1) * s.dil;
        k_vec<V> w[K];
#pragma unroll
        for (int t = 0; t < K; t++)
            w[t] = k_load<V>(taps + (r * K + t) * K_SLICE);
#pragma unroll
        for (int j = 0; j < K_STRIP + K - 1; j++) {
            const int32_t ow = first + j * s.dil;
            if (ow < 0 || ow >= s.ow)
                continue;
            const k_vec<V> dz = k_load<V>(row + (size_t)((uint32_t)ow * s.c));
#pragma unroll
            for (int i = 0; i < K_STRIP; i++) {
                const int t = i + K - 1 - j;
                if (t < 0 || t >= K)
                    continue;
#pragma unroll
                for (int k = 0; k < V; k++) {
                    q[i][k] += w[t][k] * dz[k];
                    d_w[r][t][k] += v[i][k] * dz[k];
                }
            }
        }
    }
}

/* The first of `taps` taps that reads pixel x of an axis, with the output that it belongs to; then every period-th. */
static __device__ __forceinline__ int32_t first_tap(const dass_k_dwpw_inner &a, int32_t x, int32_t &out)
{
    for (int32_t r = 0; r < a.period; r++) {
        const int32_t to = x + a.s.pad - r * a.s.dil;
        if (to < 0)
            break;
        out = to / a.s.stride;
        if (out * a.s.stride == to)
            return r;
    }
    return INT32_MAX;
}

/* q of pixel i of a strip, any window. */
template <int V, class E>
static __device__ __forceinline__ k_vec<V> gather_any(const dass_k_dwpw_inner &a, const k_in_strip &at, int i,
                                                      uint32_t c)
{
    const dass_k_dwpw_shape &s = a.s;
    const uint32_t n_taps = (uint32_t)(s.kh * s.kw);
    k_vec<V> q = {};
    int32_t oh = 0;
    int32_t right = 0;
    const int32_t left_tap = first_tap(a, at.w + i * (int32_t)a.at.apart, right);
    for (int32_t r = first_tap(a, at.h, oh); r < s.kh && oh >= 0; r += a.period, oh -= a.backward) {
        int32_t ow = right;
        for (int32_t t = left_tap; oh < s.oh && t < s.kw && ow >= 0; t += a.period, ow -= a.backward) {
            if (ow >= s.ow)
                continue;
            const k_vec<V> dz = k_load<V>(a.dz + (size_t)(at.image + (uint32_t)(oh * s.ow + ow)) * s.c + c);
#pragma unroll
            for (int k = 0; k < V; k++)
                q[k] += k_float(k_as<E>(a.w_dw)[(size_t)(c + (uint32_t)k) * n_taps + (uint32_t)(r * s.kw + t)]) * dz[k];
        }
    }
    return q;
}

/* 12.6 MB for the shape above, 4.2 us, and 50 (18) multiply-adds for each element of 32 MB: 1.8 us. Sums for 25 taps
 * stay in registers, so two channels to a thread and not four; 4 strips or more to a thread make up for folding them.
 */
template <int CODE, class P> __global__ void K_BOUNDS(K_THREADS, 2) k_dwpw_inner(K_PARAM P p)
{
    K_ITEM(p);
    constexpr int V = k_dwpw_code<CODE>::V;
    constexpr int K = k_dwpw_code<CODE>::K;
    using E = typename k_dwpw_code<CODE>::E;
    constexpr int N = K > 2 ? K : 2;
    K_SHARED float red[N * K_THREADS * V];
    alignas(16) K_SHARED float taps[k_dwpw_code<CODE>::TAPS * K_SLICE];
    const dass_k_dwpw_shape &s = a.s;
    const k_column l = column_of<V>(a.tx, blockIdx.y, s.c);
    const uint32_t begin = blockIdx.x * a.chunk;
    const uint32_t end = begin + a.chunk < a.at.n ? begin + a.chunk : a.at.n;
    k_affine<V> f = {};
    k_vec<V> sums[2] = {};
    k_vec<V> d_w[K > 0 ? K : 1][K > 0 ? K : 1] = {};
    if (l.live)
        f = k_affine_of<V>(a.in, l.c, s.relu);
    if constexpr (K > 0) {
        const uint32_t c0 = blockIdx.y * l.n_tx * V;
        k_load_taps<K>(k_as<E>(a.w_dw), c0, s.c - c0 < K_SLICE ? s.c - c0 : K_SLICE, taps);
        __syncthreads();
    }
    for (uint32_t j = begin + l.ty; l.live && j < end; j += l.n_ty) {
        const k_in_strip at = in_strip(a, j);
        if (at.n <= 0)
            continue;
        k_vec<V> v[K_STRIP] = {};
        k_vec<V> q[K_STRIP] = {};
#pragma unroll
        for (int i = 0; i < K_STRIP; i++) {
            if (i >= at.n)
                continue;
            v[i] = k_relued<V>(f, k_load<V>(k_as<E>(a.in.x) + (size_t)(at.at + (uint32_t)i * a.at.apart) * s.c + l.c));
        }
        if constexpr (K > 0)
            gather<V, K>(a, at, l.c, taps + l.tx * V, v, q, d_w);
#pragma unroll
        for (int i = 0; i < K_STRIP; i++) {
            if (i >= at.n)
                continue;
            if constexpr (K == 0)
                q[i] = gather_any<V, E>(a, at, i, l.c);
            const size_t to = (size_t)(at.at + (uint32_t)i * a.at.apart) * s.c + l.c;
            const k_vec<V> x =
                a.in.mean ? k_load<V>(k_as<E>(a.in.x) + to) : k_vec<V>{}; /* again: registers are dearer */
#pragma unroll
            for (int k = 0; k < V; k++) {
                if (s.relu && !(v[i][k] > 0.0f))
                    q[i][k] = 0.0f;
                sums[0][k] += q[i][k];
                sums[1][k] += q[i][k] * (x[k] - f.mean[k]);
            }
            if (const E *const acc = k_as<E>(a.acc)) {
                const k_vec<V> more = k_load<V>(acc + to);
#pragma unroll
                for (int k = 0; k < V; k++)
                    q[i][k] += more[k];
            }
            if (E *const d_x = k_as<E>(a.d_x))
                k_store(d_x + to, q[i]);
        }
    }
    if (!a.part)
        return;
    float *to = a.part + (size_t)blockIdx.x * (a.taps ? 2 + K * K : 2) * s.c;
    fold<2, V>(l, sums, red, to, s.c);
    if constexpr (K > 0) {
#pragma unroll
        for (int r = 0; r < K; r++) {
            if (a.taps)
                fold<K, V>(l, d_w[r], red, to + (size_t)(2 + r * K) * s.c, s.c);
        }
    }
}

static k_entry entries_inner[] = {
    {"dass_k_dwpw_inner_run V2 3x3", dass_k_dwpw_inner_run, DASS_K_DWPW(2, 3, 1)},
    {"dass_k_dwpw_inner_run V2 5x5", dass_k_dwpw_inner_run, DASS_K_DWPW(2, 5, 1)},
    {"dass_k_dwpw_inner_run V4", dass_k_dwpw_inner_run, DASS_K_DWPW(4, 0, 0)},
    {"dass_k_dwpw_inner_run V2 3x3 bf16", dass_k_dwpw_inner_run, DASS_K_DWPW(2, 3, 1) | DASS_K_BF16},
    {"dass_k_dwpw_inner_run V2 5x5 bf16", dass_k_dwpw_inner_run, DASS_K_DWPW(2, 5, 1) | DASS_K_BF16},
    {"dass_k_dwpw_inner_run V4 bf16", dass_k_dwpw_inner_run, DASS_K_DWPW(4, 0, 0) | DASS_K_BF16},
    {"dass_k_dwpw_inner_run V1 bf16", dass_k_dwpw_inner_run, DASS_K_DWPW(1, 0, 0) | DASS_K_BF16},
    {"dass_k_dwpw_inner_run V1", dass_k_dwpw_inner_run, DASS_K_DWPW(1, 0, 0)},
};

DASS_K_API int dass_k_dwpw_inner_run(const void *items, uint32_t n, dass_k_grid g, void *stream)
{
    K_COUNT(entries_inner, g.variant, n);
    switch (g.variant) {
        K_DWPW_CASE(dass_k_dwpw_inner, k_dwpw_inner, DASS_K_DWPW(2, 3, 1));
        K_DWPW_CASE(dass_k_dwpw_inner, k_dwpw_inner, DASS_K_DWPW(2, 5, 1));
        K_DWPW_CASE(dass_k_dwpw_inner, k_dwpw_inner, DASS_K_DWPW(4, 0, 0));
        K_DWPW_CASE(dass_k_dwpw_inner, k_dwpw_inner, DASS_K_DWPW(2, 3, 1) | DASS_K_BF16);
        K_DWPW_CASE(dass_k_dwpw_inner, k_dwpw_inner, DASS_K_DWPW(2, 5, 1) | DASS_K_BF16);
        K_DWPW_CASE(dass_k_dwpw_inner, k_dwpw_inner, DASS_K_DWPW(4, 0, 0) | DASS_K_BF16);
        K_DWPW_CASE(dass_k_dwpw_inner, k_dwpw_inner, DASS_K_DWPW(1, 0, 0) | DASS_K_BF16);
    default:
        K_LAUNCH_PACKS(dass_k_dwpw_inner, k_dwpw_inner, DASS_K_DWPW(1, 0, 0), K_THREADS, items, n, g, stream);
    }
    return k_launched();
}

/* ---- gradient of the taps, where dwpw_inner does not make it ---------------------------------------------------- */

/* Stride 2, C = OC = 16, 32 x 32 to 16 x 16, 5 x 5: five rows that each read dz (1 MB) and half of x (2.1 MB), mostly
 * from the second-level cache: 16 MB, 3 to 5 us. */
template <int CODE, class P> __global__ void K_BOUNDS(K_THREADS, 2) k_dwpw_taps(K_PARAM P p)
{
    K_ITEM(p);
    constexpr int V = k_dwpw_code<CODE>::V;
    constexpr int K = k_dwpw_code<CODE>::K > 0 ? k_dwpw_code<CODE>::K : 1;
    constexpr int T = k_dwpw_code<CODE>::K > 0 ? k_dwpw_code<CODE>::T : 1;
    using E = typename k_dwpw_code<CODE>::E;
    K_SHARED float red[K * K_THREADS * V];
    const dass_k_dwpw_shape &s = a.s;
    const uint32_t unit = blockIdx.y / a.groups; /* row of taps, or tap */
    const k_column l = column_of<V>(a.tx, blockIdx.y - unit * a.groups, s.c);
    const int32_t r = k_dwpw_code<CODE>::K > 0 ? (int32_t)unit : (int32_t)unit / s.kw;
    const int32_t shift = k_dwpw_code<CODE>::K > 0 ? 0 : ((int32_t)unit - r * s.kw) * s.dil;
    const int32_t step = k_dwpw_code<CODE>::K > 0 ? s.dil : s.stride * (int32_t)s.out.apart;
    const uint32_t begin = blockIdx.x * a.chunk;
    const uint32_t end = begin + a.chunk < s.out.n ? begin + a.chunk : s.out.n;
    k_affine<V> f = {};
    k_vec<V> d_w[K] = {};
    if (l.live)
        f = k_affine_of<V>(a.in, l.c, s.relu);
    for (uint32_t j = begin + l.ty; l.live && j < end; j += l.n_ty) {
        const k_strip at = k_out_strip(s, j);
        const int32_t ih = at.ih + r * s.dil;
        if (at.n <= 0 || ih < 0 || ih >= s.h)
            continue;
        const E *row = k_as<E>(a.in.x) + (size_t)(at.image + (uint32_t)(ih * s.w)) * s.c + l.c;
        k_vec<V> dz[K_STRIP] = {};
#pragma unroll
        for (int i = 0; i < K_STRIP; i++) {
            if (i < at.n)
                dz[i] = k_load<V>(a.dz + (size_t)(at.out + (uint32_t)i * s.out.apart) * s.c + l.c);
        }
#pragma unroll
        for (int m = 0; m < (K_STRIP - 1) * T + K; m++) {
            const int32_t iw = at.iw + shift + m * step;
            if (iw < 0 || iw >= s.w)
                continue;
            const k_vec<V> v = k_relued<V>(f, k_load<V>(row + (size_t)((uint32_t)iw * s.c)));
#pragma unroll
            for (int i = 0; i < K_STRIP; i++) {
                if (m < i * T || m >= i * T + K)
                    continue;
#pragma unroll
                for (int k = 0; k < V; k++)
                    d_w[m - i * T][k] += dz[i][k] * v[k];
            }
        }
    }
    float *to = a.part + ((size_t)blockIdx.x * (uint32_t)(s.kh * s.kw) + unit * K) * s.c;
    fold<K, V>(l, d_w, red, to, s.c);
}
K_LAUNCHER_DWPW(dass_k_dwpw_taps_run, dass_k_dwpw_taps, k_dwpw_taps)

/* ---- the last sums ---------------------------------------------------------------------------------------------- */

/* Sum of element i of n blocks' partial sums: every warp takes each 8th block, then the warps' sums in order, in
 * double. Valid in the first warp. */
static __device__ __forceinline__ double sum_blocks(const float *part, size_t pitch, uint32_t n, uint32_t i, bool in,
                                                    double *red)
{
    double s = 0.0;
    for (uint32_t b = threadIdx.x / 32; in && b < n; b += K_THREADS / 32)
        s += (double)part[b * pitch + i];
    __syncthreads();
    red[threadIdx.x] = s;
    __syncthreads();
    s = 0.0;
    for (uint32_t w = 0; w < K_THREADS / 32; w++)
        s += red[w * 32 + (threadIdx.x & 31)];
    return s;
}

/* Each partial sum is read once: 256 blocks of 16 x 16, 0.3 MB. 32 results to a block, neighbours in memory. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 2) k_dwpw_finish(K_PARAM P p)
{
    K_ITEM(p);
    K_SHARED double red[K_THREADS];
    const bool first = threadIdx.x < 32;
    uint32_t block = blockIdx.x;
    if (block < a.blocks_pw) {
        const uint32_t i = block * 32 + (threadIdx.x & 31);
        const bool in = i < a.oc * a.c;
        const double s = sum_blocks(a.of_pw, (size_t)a.oc * a.c, a.n_pw, i, in, red);
        if (in && first)
            a.d_wpw[i] = (float)s;
        return;
    }
    block -= a.blocks_pw;
    if (block < a.blocks_dw) {
        const uint32_t i = block * 32 + (threadIdx.x & 31);
        const bool in = i < a.taps * a.c;
        const double s = sum_blocks(a.of_dw, a.at_dw, a.n_dw, i, in, red);
        const uint32_t tap = i / a.c;
        if (in && first)
            a.d_wdw[(i - tap * a.c) * a.taps + tap] = (float)s;
        return;
    }
    const uint32_t c = (block - a.blocks_dw) * 32 + (threadIdx.x & 31);
    const bool in = c < a.c;
    const double s1 = sum_blocks(a.of_sums, a.at_sums, a.n_sums, c, in, red);
    const double off = sum_blocks(a.of_sums + a.c, a.at_sums, a.n_sums, c, in, red);
    if (!in || !first)
        return;
    const double rstd = (double)a.in.rstd[c];
    const double s2 = off * rstd;
    const double of_d = (a.in.gamma ? (double)a.in.gamma[c] : 1.0) * rstd;
    const double of_x = -of_d * rstd * s2 / (double)a.m;
    if (a.in_coef) {
        a.in_coef[c] = (float)of_d;
        a.in_coef[a.c + c] = (float)of_x;
        a.in_coef[2 * a.c + c] = (float)(-of_d * s1 / (double)a.m - of_x * (double)a.in.mean[c]);
    }
    if (a.d_gamma)
        a.d_gamma[c] = (float)s2;
    if (a.d_beta)
        a.d_beta[c] = (float)s1;
}
K_LAUNCHER(dass_k_dwpw_finish_run, dass_k_dwpw_finish, k_dwpw_finish, K_THREADS)
