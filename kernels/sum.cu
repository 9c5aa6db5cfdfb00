/* Weighted sums of many tensors. Memory-bound: each term is read once and nothing but the sum is written. What depends
 * on term and channel alone (a factor, a mean) is worked out once a block, in shared memory; then a thread walks over
 * its pixels with V channels in registers. Blocks cover at most 64 channels, so that 64 terms fit in 32 KB.
 */
#include "sum.h"

#include "common.cuh"

#define K_SUM_CHANNELS (DASS_K_SUM_LANES * 4)

/* t = s (x - m) for each term, and the sum of the betas as the start: a large mean costs no digits. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_wsum(K_PARAM P p)
{
    K_ITEM(p);
    K_SHARED float scale[DASS_K_TERMS * K_SUM_CHANNELS];
    K_SHARED float mean[DASS_K_TERMS * K_SUM_CHANNELS];
    K_SHARED const float *from[DASS_K_TERMS];
    const k_lane l = k_lane_of<V>(a.r);
    const uint32_t width = l.n_tx * V;
    const uint32_t first = blockIdx.y * width;
    for (uint32_t i = threadIdx.x; i < a.n_terms * width; i += K_THREADS) {
        const dass_k_wsum_term &t = a.terms[i / width];
        const uint32_t c = first + i % width;
        const float f = t.index < 0 ? 1.0f : a.p[t.index];
        const bool in = c < a.r.c;
        mean[i] = in && t.in.mean ? t.in.mean[c] : 0.0f;
        scale[i] = in && t.in.mean ? f * (t.in.gamma ? t.in.gamma[c] : 1.0f) * t.in.rstd[c] : f;
        if (i % width == 0)
            from[i / width] = t.in.x;
    }
    k_vec<V> start = {};
    for (uint32_t k = 0; l.live && k < a.n_terms; k++) {
        const dass_k_wsum_term &t = a.terms[k];
        const float f = t.index < 0 ? 1.0f : a.p[t.index];
        if (t.in.beta) {
#pragma unroll
            for (int i = 0; i < V; i++)
                start[i] += f * t.in.beta[l.c + (uint32_t)i];
        }
    }
    __syncthreads();
    if (!l.live)
        return;
    for (uint32_t q = l.p; q < l.end; q += l.step) {
        const size_t at = (size_t)q * a.r.c + l.c;
        k_vec<V> s = start;
        if (a.add) {
            const k_vec<V> d = k_load<V>(a.dst + at);
#pragma unroll
            for (int i = 0; i < V; i++)
                s[i] += d[i];
        }
        for (uint32_t k = 0; k < a.n_terms; k++) {
            const k_vec<V> x = k_load<V>(from[k] + at);
#pragma unroll
            for (int i = 0; i < V; i++) {
                const uint32_t j = k * width + l.tx * V + (uint32_t)i;
                s[i] += scale[j] * (x[i] - mean[j]);
            }
        }
        k_store(a.dst + at, s);
    }
}
K_LAUNCHER_V(dass_k_wsum_run, dass_k_wsum, k_wsum, K_THREADS)

template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_gsum(K_PARAM P p)
{
    K_ITEM(p);
    K_SHARED float of_d[DASS_K_TERMS * K_SUM_CHANNELS];
    K_SHARED float of_x[DASS_K_TERMS * K_SUM_CHANNELS];
    K_SHARED const float *d_k[DASS_K_TERMS];
    K_SHARED const float *x_k[DASS_K_TERMS];
    const k_lane l = k_lane_of<V>(a.r);
    const uint32_t width = l.n_tx * V;
    const uint32_t first = blockIdx.y * width;
    for (uint32_t i = threadIdx.x; i < a.n_terms * width; i += K_THREADS) {
        const dass_k_gsum_term &t = a.terms[i / width];
        const uint32_t c = first + i % width;
        const bool in = c < a.r.c;
        of_d[i] = t.coef ? (in ? t.coef[c] : 0.0f) : t.index < 0 ? 1.0f : a.p[t.index];
        of_x[i] = t.coef && in ? t.coef[a.r.c + c] : 0.0f;
        if (i % width == 0) {
            d_k[i / width] = t.d;
            x_k[i / width] = t.coef ? t.x : nullptr;
        }
    }
    k_vec<V> start = {};
    for (uint32_t k = 0; l.live && k < a.n_terms; k++) {
        const dass_k_gsum_term &t = a.terms[k];
        if (t.coef) {
#pragma unroll
            for (int i = 0; i < V; i++)
                start[i] += t.coef[2 * a.r.c + l.c + (uint32_t)i];
        }
    }
    __syncthreads();
    if (!l.live)
        return;
    for (uint32_t q = l.p; q < l.end; q += l.step) {
        const size_t at = (size_t)q * a.r.c + l.c;
        k_vec<V> s = start;
        if (a.add) {
            const k_vec<V> d = k_load<V>(a.dst + at);
#pragma unroll
            for (int i = 0; i < V; i++)
                s[i] += d[i];
        }
        for (uint32_t k = 0; k < a.n_terms; k++) {
            const k_vec<V> d = k_load<V>(d_k[k] + at);
            const k_vec<V> x = x_k[k] ? k_load<V>(x_k[k] + at) : k_vec<V>{};
#pragma unroll
            for (int i = 0; i < V; i++) {
                const uint32_t j = k * width + l.tx * V + (uint32_t)i;
                s[i] += of_d[j] * d[i] + (x_k[k] ? of_x[j] * x[i] : 0.0f);
            }
        }
        k_store(a.dst + at, s);
    }
}
K_LAUNCHER_V(dass_k_gsum_run, dass_k_gsum, k_gsum, K_THREADS)
