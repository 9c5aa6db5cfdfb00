/* Device code of depthwise convolutions, for depthwise.cu and for kernels that fuse one: taps in shared memory, a run
 * of outputs, a pixel of d_x, a run's share in the taps' gradients. depthwise.h says what a run is.
 *
 * `In` is applied to every vector that is read inside the image (a norm, an activation); padding stays zero. E is the
 * stored type; taps in shared memory are floats.
 */
#ifndef DASS_DEPTHWISE_CUH
#define DASS_DEPTHWISE_CUH

#include "common.cuh"
#include "depthwise.h"

struct k_dw_activated {
    int act;
    template <int V> __device__ __forceinline__ k_vec<V> operator()(k_vec<V> v) const
    {
#pragma unroll
        for (int i = 0; i < V; i++)
            v[i] = k_activate(v[i], act);
        return v;
    }
};

struct k_dw_plain {
    template <int V> __device__ __forceinline__ k_vec<V> operator()(k_vec<V> v) const
    {
        return v;
    }
};

/* First output column of run q of a row. */
template <int R> __device__ __forceinline__ int32_t k_dw_run_start(const dass_k_dw_map &m, uint32_t q)
{
    const uint32_t step = (uint32_t)m.step;
    return (int32_t)(step == 1 ? q * R : q / step * R * step + q % step);
}

/* Taps of channels [first, first + width) from (C, KH, KW) to [tap][channel] in shared memory, element by element:
 * weights may begin anywhere. The caller waits. */
template <class E>
__device__ __forceinline__ void k_dw_load_taps(const E *w, const dass_k_dw_map &m, uint32_t first, uint32_t width,
                                               bool mirror, float *taps)
{
    const uint32_t n_taps = (uint32_t)(m.kh * m.kw);
    const uint32_t left = (uint32_t)m.c - first;
    const uint32_t n = n_taps * (left < width ? left : width);
    for (uint32_t i = threadIdx.x; i < n; i += K_THREADS) {
        const uint32_t tap = i % n_taps;
        taps[(mirror ? n_taps - 1 - tap : tap) * width + i / n_taps] = k_float(w[(size_t)first * n_taps + i]);
    }
}

/* acc[j] += outputs ow0 + j step of row oh, for K x K taps. x: pixel (0, 0) of the image, taps: tap 0, both at the
 * thread's channel; width: floats from tap to tap. K rows of R T + K - T loads of V floats. */
template <int V, int K, int T, int R, class In, class E>
__device__ __forceinline__ void k_dw_outputs(const In &in, const dass_k_dw_map &m, const E *x, const float *taps,
                                             uint32_t width, int32_t oh, int32_t ow0, k_vec<V> (&acc)[R])
{
    const int32_t w0 = ow0 * m.stride - m.pad;
    int32_t h = oh * m.stride - m.pad;
#pragma unroll 1
    for (int r = 0; r < K; r++, h += m.dil, taps += K * width) {
        if ((uint32_t)h >= (uint32_t)m.h)
            continue;
        const E *const row = x + (size_t)h * (size_t)m.w * (size_t)m.c;
        k_vec<V> t[K];
#pragma unroll
        for (int s = 0; s < K; s++)
            t[s] = k_load<V>(taps + s * width);
#pragma unroll
        for (int i = 0; i < (R - 1) * T + K; i++) {
            const int32_t w = w0 + i * m.unit;
            k_vec<V> v = {};
            if ((uint32_t)w < (uint32_t)m.w)
                v = in(k_load<V>(row + (size_t)w * (size_t)m.c));
#pragma unroll
            for (int s = 0; s < K; s++) {
                const int j = (i - s) / T; /* the output whose tap s this column is */
                if (i >= s && (i - s) % T == 0 && j < R) {
#pragma unroll
                    for (int k = 0; k < V; k++)
                        acc[j][k] += t[s][k] * v[k];
                }
            }
        }
    }
}

/* One output of any kernel. */
template <int V, class In, class E>
__device__ __forceinline__ k_vec<V> k_dw_output(const In &in, const dass_k_dw_map &m, const E *x, const float *taps,
                                                uint32_t width, int32_t oh, int32_t ow, k_vec<V> acc)
{
    for (int r = 0; r < m.kh; r++) {
        const int32_t h = oh * m.stride - m.pad + r * m.dil;
        if ((uint32_t)h >= (uint32_t)m.h)
            continue;
        for (int s = 0; s < m.kw; s++) {
            const int32_t w = ow * m.stride - m.pad + s * m.dil;
            if ((uint32_t)w >= (uint32_t)m.w)
                continue;
            const k_vec<V> v = in(k_load<V>(x + ((size_t)h * (size_t)m.w + (size_t)w) * (size_t)m.c));
            const k_vec<V> t = k_load<V>(taps + (uint32_t)(r * m.kw + s) * width);
#pragma unroll
            for (int k = 0; k < V; k++)
                acc[k] += t[k] * v[k];
        }
    }
    return acc;
}

/* The taps first, first + step, ... < k that read position p - pad of x with stride 2: all of one parity when dil is
 * odd, else all of them or none. */
struct k_dw_phase {
    int32_t first, step;
};
__device__ __forceinline__ k_dw_phase k_dw_phase_of(int32_t p, int32_t dil, int32_t k)
{
    if (dil % 2 != 0)
        return k_dw_phase{p & 1, 2};
    return k_dw_phase{p & 1 ? k : 0, 1};
}

/* d_x of pixel (h, w) for stride 2. d_y: pixel (0, 0) of the image at the thread's channel. A quarter of the taps on
 * average. */
template <int V, class E>
__device__ __forceinline__ k_vec<V> k_dw_gather2(const dass_k_dw_map &m, const E *d_y, const float *taps,
                                                 uint32_t width, int32_t h, int32_t w)
{
    const k_dw_phase pr = k_dw_phase_of(h + m.pad, m.dil, m.kh);
    const k_dw_phase ps = k_dw_phase_of(w + m.pad, m.dil, m.kw);
    k_vec<V> acc = {};
    for (int32_t r = pr.first; r < m.kh; r += pr.step) {
        const int32_t th = h + m.pad - r * m.dil;
        if (th < 0 || th / 2 >= m.oh)
            continue;
        const E *const row = d_y + (size_t)(th / 2) * (size_t)m.ow * (size_t)m.c;
        for (int32_t s = ps.first; s < m.kw; s += ps.step) {
            const int32_t tw = w + m.pad - s * m.dil;
            if (tw < 0 || tw / 2 >= m.ow)
                continue;
            const k_vec<V> d = k_load<V>(row + (size_t)(tw / 2) * (size_t)m.c);
            const k_vec<V> t = k_load<V>(taps + (uint32_t)(r * m.kw + s) * width);
#pragma unroll
            for (int k = 0; k < V; k++)
                acc[k] += t[k] * d[k];
        }
    }
    return acc;
}

/* V values that wait in registers: four in bf16 as they lay in memory, in half as many. As
 * floats they would make the bf16 kernel of 5 x 5 taps spill. */
template <int V, class E> struct k_dw_held {
    k_vec<V> v;
    __device__ __forceinline__ void load(const E *p)
    {
        v = k_load<V>(p);
    }
    __device__ __forceinline__ float operator[](int i) const
    {
        return v[i];
    }
};
template <> struct k_dw_held<4, k_bf16> {
    uint32_t pair[2];
    __device__ __forceinline__ void load(const k_bf16 *p)
    {
        const uint2 q = *reinterpret_cast<const uint2 *>(p);
        pair[0] = q.x;
        pair[1] = q.y;
    }
    __device__ __forceinline__ float operator[](int i) const
    {
        return __uint_as_float(i % 2 == 0 ? pair[i / 2] << 16 : pair[i / 2] & 0xffff0000u);
    }
};

/* acc[s] += sum over the run's outputs of d_y x, for the taps s < KW <= K of one tap row. x: the row that the taps
 * read; d_y: row of the outputs, both at the thread's channel. R + R T + K - T loads of V floats. */
template <int V, int K, int T, int R, class In, class E>
__device__ __forceinline__ void k_dw_taps(const In &in, const dass_k_dw_map &m, const E *x, const E *d_y, int32_t ow0,
                                          k_vec<V> (&acc)[K])
{
    k_dw_held<V, E> d[R];
#pragma unroll
    for (int j = 0; j < R; j++) {
        const int32_t ow = ow0 + j * m.step;
        d[j] = k_dw_held<V, E>{};
        if (ow < m.ow)
            d[j].load(d_y + (size_t)ow * (size_t)m.c);
    }
    const int32_t w0 = ow0 * m.stride - m.pad;
#pragma unroll
    for (int i = 0; i < (R - 1) * T + K; i++) {
        const int32_t w = w0 + i * m.unit;
        k_vec<V> v = {};
        if ((uint32_t)w < (uint32_t)m.w && (R > 1 || i < m.kw))
            v = in(k_load<V>(x + (size_t)w * (size_t)m.c));
#pragma unroll
        for (int s = 0; s < K; s++) {
            const int j = (i - s) / T;
            if (i >= s && (i - s) % T == 0 && j < R) {
#pragma unroll
                for (int k = 0; k < V; k++)
                    acc[s][k] += d[j][k] * v[k];
            }
        }
    }
}

/* By one whole block: put(i, sum over chunks of part[chunk n + i]) for i < n, n a multiple of V, in double. A sum is
 * cut into as many pieces as the block has threads for, joined in order; loads are issued 8 at a time, because one
 * block alone waits for memory most of its time. */
template <int V, class Put>
__device__ __forceinline__ void k_dw_finish(const float *part, uint32_t n_chunks, uint32_t n, const Put &put)
{
    K_SHARED double piece[K_THREADS * V];
    const uint32_t lanes = n / V;
    const uint32_t pieces = lanes < K_THREADS ? K_THREADS / lanes : 1;
    const uint32_t q = lanes < K_THREADS ? threadIdx.x / lanes : 0;
    for (uint32_t base = 0; base < lanes; base += K_THREADS) {
        const uint32_t l = base + threadIdx.x - q * lanes;
        double s[V] = {};
        if (q < pieces && l < lanes) {
            const uint32_t end = n_chunks * (q + 1) / pieces;
#pragma unroll 8
            for (uint32_t i = n_chunks * q / pieces; i < end; i++) {
                const k_vec<V> v = k_load<V>(part + (size_t)i * n + l * V);
#pragma unroll
                for (int k = 0; k < V; k++)
                    s[k] += (double)v[k];
            }
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < V; k++)
            piece[threadIdx.x * V + (uint32_t)k] = s[k];
        __syncthreads();
        if (q == 0 && l < lanes) {
            for (uint32_t i = 1; i < pieces; i++)
#pragma unroll
                for (int k = 0; k < V; k++)
                    s[k] += piece[(i * lanes + l) * V + (uint32_t)k];
#pragma unroll
            for (int k = 0; k < V; k++)
                put(l * V + (uint32_t)k, s[k]);
        }
    }
}

#endif
