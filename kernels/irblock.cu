/* Inverted residual blocks in one kernel. Lanes are pixels as in spconv.cu; warps take (row, 32 pixels) pairs of each
 * product. Every sum belongs to one thread and is formed in the order of the matrix: no atomics, always the same bits.
 * Neighbouring tiles expand the pixels between them twice, once each.
 */
#include "irblock.h"

#include "common.cuh"
#include "sparse.cuh"

namespace {
constexpr uint32_t n_warps = K_THREADS / 32;

/* What a block has in shared memory, and where it stands. */
struct k_ir_tile {
    float *mask, *x, *e, *d, *y;
    int32_t *next;
    uint32_t s, t;           /* floats from channel to channel: of mask, x, e; of d, y */
    uint32_t n_in, n_out;    /* pixels, with the halo; outputs */
    uint32_t width;          /* pixels to a row of the halo */
    int32_t image, oh0, ow0; /* first output */
};

__device__ __forceinline__ k_ir_tile k_ir_place(const dass_k_irblock &a, float *shared)
{
    k_ir_tile b;
    const uint32_t across = (uint32_t)((a.ow + a.tw - 1) / a.tw);
    const uint32_t down = (uint32_t)((a.oh + a.th - 1) / a.th);
    b.ow0 = (int32_t)(blockIdx.x % across) * a.tw;
    b.oh0 = (int32_t)(blockIdx.x / across % down) * a.th;
    b.image = (int32_t)(blockIdx.x / across / down);
    b.width = (uint32_t)((a.tw - 1) * a.stride + 3);
    b.n_in = b.width * (uint32_t)((a.th - 1) * a.stride + 3);
    b.n_out = (uint32_t)(a.th * a.tw);
    b.s = (b.n_in + 31) / 32 * 32 + 1;
    b.t = (b.n_out + 31) / 32 * 32 + 1;
    b.mask = shared;
    b.x = b.mask + b.s;
    b.e = b.x + a.ic * b.s;
    b.d = b.e + a.chunk * b.s;
    b.y = b.d + a.chunk * b.t;
    b.next = reinterpret_cast<int32_t *>(b.y + a.oc * b.t);
    return b;
}

/* The tile of x with its halo, zero outside of the image, and which pixels are inside; y starts at its bias. */
template <class T>
__device__ __forceinline__ void k_ir_load(const dass_k_irblock &a, const k_ir_tile &b, uint32_t warp, uint32_t lane)
{
    for (uint32_t q = warp; q < b.s - 1; q += n_warps) {
        const int32_t h = b.oh0 * a.stride - 1 + (int32_t)(q / b.width);
        const int32_t w = b.ow0 * a.stride - 1 + (int32_t)(q % b.width);
        const bool inside = q < b.n_in && h >= 0 && h < a.h && w >= 0 && w < a.w;
        const size_t at = inside ? (((size_t)b.image * (size_t)a.h + (size_t)h) * (size_t)a.w + (size_t)w) * a.ic : 0;
        for (uint32_t c = lane; c < a.ic; c += 32)
            b.x[c * b.s + q] = inside ? k_float(k_as<T>(a.x)[at + c]) : 0.0f;
        if (lane == 0)
            b.mask[q] = inside ? 1.0f : 0.0f;
    }
    for (uint32_t r = warp; r < a.oc; r += n_warps) {
        for (uint32_t q = lane; q < b.t - 1; q += 32)
            b.y[r * b.t + q] = a.b_project ? a.b_project[r] : 0.0f;
        if (lane == 0)
            b.next[r] = a.project.starts[r];
    }
}

/* Hidden channels [first, first + n) of e. */
template <class T>
__device__ __forceinline__ void k_ir_expand(const dass_k_irblock &a, const k_ir_tile &b, uint32_t first, uint32_t n,
                                            uint32_t warp, uint32_t lane)
{
    const uint32_t groups = (b.s - 1) / 32;
    for (uint32_t i = warp; i < n * groups; i += n_warps) {
        const uint32_t k = i / groups;
        const uint32_t q = i % groups * 32 + lane;
        const float bias = a.b_expand ? a.b_expand[first + k] : 0.0f;
        const float u = k_row_times(k_as<T>(a.expand.values), a.expand.columns, a.expand.starts[first + k],
                                    a.expand.starts[first + k + 1], b.x + q, 0, b.s, bias);
        b.e[k * b.s + q] = b.mask[q] != 0.0f ? k_activate(u, a.act) : 0.0f;
    }
}

template <class T>
__device__ __forceinline__ void k_ir_depthwise(const dass_k_irblock &a, const k_ir_tile &b, uint32_t first, uint32_t n,
                                               uint32_t warp, uint32_t lane)
{
    const uint32_t groups = (b.t - 1) / 32;
    for (uint32_t i = warp; i < n * groups; i += n_warps) {
        const uint32_t k = i / groups;
        const uint32_t q = i % groups * 32 + lane;
        const uint32_t o = q < b.n_out ? q : 0; /* lanes behind the tile compute its first output and nobody reads it */
        const float *const e =
            b.e + k * b.s + o / (uint32_t)a.tw * (uint32_t)a.stride * b.width + o % (uint32_t)a.tw * (uint32_t)a.stride;
        const T *const w = k_as<T>(a.w_dw) + (size_t)(first + k) * 9;
        float u = a.b_dw ? a.b_dw[first + k] : 0.0f;
#pragma unroll
        for (uint32_t t = 0; t < 9; t++)
            u += k_float(w[t]) * e[t / 3 * b.width + t % 3];
        b.d[k * b.t + q] = k_activate(u, a.act);
    }
}

/* y += what the entries of P in columns [first, first + n) add. A row belongs to one warp in every chunk. */
template <class T>
__device__ __forceinline__ void k_ir_project(const dass_k_irblock &a, const k_ir_tile &b, uint32_t first, uint32_t n,
                                             uint32_t warp, uint32_t lane)
{
    for (uint32_t r = warp; r < a.oc; r += n_warps) {
        const int32_t from = b.next[r];
        const int32_t to = k_row_until(a.project.columns, from, a.project.starts[r + 1], (int32_t)(first + n));
        for (uint32_t q = lane; q < b.t - 1; q += 32)
            b.y[r * b.t + q] = k_row_times(k_as<T>(a.project.values), a.project.columns, from, to, b.d + q,
                                           (int32_t)first, b.t, b.y[r * b.t + q]);
        __syncwarp();
        if (lane == 0)
            b.next[r] = to;
    }
}
} // namespace

/* 24 -> 144 -> 24 of 56 x 56 at a density of 0.1: 0.9 MB moved (1.1 with the halos)
 * where three kernels move 8.1 MB. Tiles of 8 x 8 and a
 * chunk of 32: 129 x 57 + 65 x 56 floats and a little, 44 KB, five blocks to a multiprocessor of 227 KB. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 2) k_irblock(K_PARAM P p)
{
    K_STORED_TYPE(S);
    K_ITEM(p);
    K_DYNAMIC(float, shared);
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t lane = threadIdx.x % 32;
    const k_ir_tile b = k_ir_place(a, shared);
    k_ir_load<T>(a, b, warp, lane);
    __syncthreads();
    for (uint32_t first = 0; first < a.hidden; first += a.chunk) {
        const uint32_t n = min(a.chunk, a.hidden - first);
        k_ir_expand<T>(a, b, first, n, warp, lane);
        __syncthreads(); /* also: everybody is done with the d of the chunk before */
        k_ir_depthwise<T>(a, b, first, n, warp, lane);
        __syncthreads();
        k_ir_project<T>(a, b, first, n, warp, lane);
    }
    __syncthreads();
    for (uint32_t q = warp; q < b.n_out; q += n_warps) {
        const int32_t oh = b.oh0 + (int32_t)q / a.tw;
        const int32_t ow = b.ow0 + (int32_t)q % a.tw;
        if (oh >= a.oh || ow >= a.ow)
            continue;
        const size_t at = (((size_t)b.image * (size_t)a.oh + (size_t)oh) * (size_t)a.ow + (size_t)ow) * a.oc;
        for (uint32_t r = lane; r < a.oc; r += 32)
            k_store(k_as<T>(a.y) + at + r,
                    k_vec<1>{{b.y[r * b.t + q] + (a.residual ? k_float(k_as<T>(a.residual)[at + r]) : 0.0f)}});
    }
}

static k_entry entries_irblock[] = {
    {"dass_k_irblock_run bf16", dass_k_irblock_run, DASS_K_V1 | DASS_K_BF16},
    {"dass_k_irblock_run", dass_k_irblock_run, DASS_K_V1},
};

DASS_K_API int dass_k_irblock_run(const void *items, uint32_t n, dass_k_grid g, void *stream)
{
    const dass_k_irblock *const a = static_cast<const dass_k_irblock *>(items);
    uint32_t shared = 0;
    for (uint32_t i = 0; i < n; i++)
        shared = a[i].shared > shared ? a[i].shared : shared;
    K_COUNT(entries_irblock, g.variant, n);
    if (g.variant & DASS_K_BF16)
        K_LAUNCH_PACKS_SHARED(dass_k_irblock, k_irblock, 1 | K_S_BF16, K_THREADS, shared, items, n, g, stream);
    else
        K_LAUNCH_PACKS_SHARED(dass_k_irblock, k_irblock, 1, K_THREADS, shared, items, n, g, stream);
    return k_launched();
}
