/* Weighted sums of many tensors. Memory-bound: each term is read once and nothing but the sum is written. What depends
 * on term and channel alone (a factor, a mean) is worked out once a block, in shared memory; then a thread walks over
 * its pixels with V channels in registers. Blocks cover at most 64 channels, so that 64 terms fit in 32 KB.
 */
#include "sum.h"

#include "common.cuh"

#define K_SUM_CHANNELS (DASS_K_SUM_LANES * 4)

/* dst = start [+ dst] + the terms over the pixels of a lane; add(s, k, at) adds term k at element `at`. */
template <int V, class T, class Add>
__device__ __forceinline__ void k_sum_walk(const dass_k_sum &a, const k_lane &l, k_vec<V> start, const Add &add)
{
    for (uint32_t q = l.p; l.live && q < l.end; q += l.step) {
        const size_t at = (size_t)q * a.r.c + l.c;
        k_vec<V> s = start;
        if (a.add) {
            const k_vec<V> d = k_load<V>(k_as<T>(a.dst) + at);
#pragma unroll
            for (int i = 0; i < V; i++)
                s[i] += d[i];
        }
        for (uint32_t k = 0; k < a.n_terms; k++)
            add(s, k, at);
        k_store(k_as<T>(a.dst) + at, s);
    }
}

/* t = s (x - m) for each term, and the sum of the betas as the start: a large mean costs no digits. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 3) k_wsum(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    K_SHARED float scale[DASS_K_TERMS * K_SUM_CHANNELS];
    K_SHARED float mean[DASS_K_TERMS * K_SUM_CHANNELS];
    K_SHARED const T *from[DASS_K_TERMS];
    const auto *const terms = static_cast<const dass_k_wsum_term *>(a.terms);
    const k_lane l = k_lane_of<V>(a.r);
    const uint32_t width = l.n_tx * V;
    const uint32_t first = blockIdx.y * width;
    for (uint32_t i = threadIdx.x; i < a.n_terms * width; i += K_THREADS) {
        const dass_k_wsum_term &t = terms[i / width];
        const uint32_t c = first + i % width;
        const float f = t.index < 0 ? 1.0f : a.p[t.index];
        const bool in = c < a.r.c;
        mean[i] = in && t.in.mean ? t.in.mean[c] : 0.0f;
        scale[i] = in && t.in.mean ? f * (t.in.gamma ? t.in.gamma[c] : 1.0f) * t.in.rstd[c] : f;
        if (i % width == 0)
            from[i / width] = k_as<T>(t.in.x);
    }
    k_vec<V> start = {};
    for (uint32_t k = 0; l.live && k < a.n_terms; k++) {
        const dass_k_wsum_term &t = terms[k];
        const float f = t.index < 0 ? 1.0f : a.p[t.index];
        if (t.in.beta) {
#pragma unroll
            for (int i = 0; i < V; i++)
                start[i] += f * t.in.beta[l.c + (uint32_t)i];
        }
    }
    __syncthreads();
    k_sum_walk<V, T>(a, l, start, [&](k_vec<V> &s, uint32_t k, size_t at) {
        const k_vec<V> x = k_load<V>(from[k] + at);
#pragma unroll
        for (int i = 0; i < V; i++) {
            const uint32_t j = k * width + l.tx * V + (uint32_t)i;
            s[i] += scale[j] * (x[i] - mean[j]);
        }
    });
}
K_LAUNCHER_S(dass_k_wsum_run, dass_k_sum, k_wsum, K_THREADS)

template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 3) k_gsum(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    K_SHARED float of_d[DASS_K_TERMS * K_SUM_CHANNELS];
    K_SHARED float of_x[DASS_K_TERMS * K_SUM_CHANNELS];
    K_SHARED const T *d_k[DASS_K_TERMS];
    K_SHARED const T *x_k[DASS_K_TERMS];
    const auto *const terms = static_cast<const dass_k_gsum_term *>(a.terms);
    const k_lane l = k_lane_of<V>(a.r);
    const uint32_t width = l.n_tx * V;
    const uint32_t first = blockIdx.y * width;
    for (uint32_t i = threadIdx.x; i < a.n_terms * width; i += K_THREADS) {
        const dass_k_gsum_term &t = terms[i / width];
        const uint32_t c = first + i % width;
        const bool in = c < a.r.c;
        of_d[i] = t.coef ? (in ? t.coef[c] : 0.0f) : t.index < 0 ? 1.0f : a.p[t.index];
        of_x[i] = t.coef && in ? t.coef[a.r.c + c] : 0.0f;
        if (i % width == 0) {
            d_k[i / width] = k_as<T>(t.d);
            x_k[i / width] = t.coef ? k_as<T>(t.x) : nullptr;
        }
    }
    k_vec<V> start = {};
    for (uint32_t k = 0; l.live && k < a.n_terms; k++) {
        const dass_k_gsum_term &t = terms[k];
        if (t.coef) {
#pragma unroll
            for (int i = 0; i < V; i++)
                start[i] += t.coef[2 * a.r.c + l.c + (uint32_t)i];
        }
    }
    __syncthreads();
    k_sum_walk<V, T>(a, l, start, [&](k_vec<V> &s, uint32_t k, size_t at) {
        const k_vec<V> d = k_load<V>(d_k[k] + at);
        const k_vec<V> x = x_k[k] ? k_load<V>(x_k[k] + at) : k_vec<V>{};
#pragma unroll
        for (int i = 0; i < V; i++) {
            const uint32_t j = k * width + l.tx * V + (uint32_t)i;
            s[i] += of_d[j] * d[i] + (x_k[k] ? of_x[j] * x[i] : 0.0f);
        }
    });
}
K_LAUNCHER_S(dass_k_gsum_run, dass_k_sum, k_gsum, K_THREADS)

/* What a term's sums are for, by the last of its blocks; returns its share of d_p, in thread 0. */
template <class A>
__device__ __forceinline__ double k_finish_term(const A &a, const dass_k_wsum_bwd_term &t, uint32_t k, double *sums)
{
    const double m = (double)a.r.m;
    const double f = t.index < 0 ? 1.0 : (double)a.p[t.index];
    const uint32_t stride = a.n_terms * 2 * a.r.c;
    double share = 0.0;
    for (uint32_t c = threadIdx.x; c < a.r.c; c += K_THREADS) {
        const float *part = a.part + (size_t)k * 2 * a.r.c + c;
        const double s1 = k_sum_chunks(part, a.head.gx, stride);
        const double s2 = k_sum_chunks(part + a.r.c, a.head.gx, stride);
        const double gamma = t.in.gamma ? (double)t.in.gamma[c] : 1.0;
        const double beta = t.in.beta ? (double)t.in.beta[c] : 0.0;
        share += t.in.mean ? gamma * s2 + beta * s1 : s2;
        if (t.coef) {
            const double rstd = (double)t.in.rstd[c];
            const double ca = f * gamma * rstd;
            const double cb = -ca * rstd * s2 / m;
            t.coef[c] = (float)ca;
            t.coef[a.r.c + c] = (float)cb;
            t.coef[2 * a.r.c + c] = (float)(-ca * s1 / m - cb * (double)t.in.mean[c]);
        }
        if (t.d_gamma)
            t.d_gamma[c] = (float)(f * s2);
        if (t.d_beta)
            t.d_beta[c] = (float)(f * s1);
    }
    sums[threadIdx.x] = share;
    for (uint32_t half = K_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    return sums[0];
}

/* Each block sums one term over one chunk: d_y comes from the second-level cache for all terms but the first. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 3) k_wsum_bwd(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    K_SHARED double sums[K_THREADS];
    const uint32_t k = blockIdx.y / a.groups;
    const dass_k_wsum_bwd_term t = a.terms[k];
    const k_lane l = k_lane_in<V>(a.r, blockIdx.y % a.groups);
    k_vec<V> s1 = {};
    k_vec<V> s2 = {};
    if (l.live) {
        const k_vec<V> mean = k_channels<V>(t.in.mean, l.c, 0.0f);
        const k_vec<V> rstd = k_channels<V>(t.in.rstd, l.c, 1.0f);
        for (uint32_t q = l.p; q < l.end; q += l.step) {
            const size_t at = (size_t)q * a.r.c + l.c;
            const k_vec<V> d = k_load<V>(k_as<T>(a.d_y) + at);
            const k_vec<V> x = t.in.x ? k_load<V>(k_as<T>(t.in.x) + at) : k_vec<V>{};
#pragma unroll
            for (int i = 0; i < V; i++) {
                s1[i] += d[i];
                s2[i] += d[i] * ((x[i] - mean[i]) * rstd[i]);
            }
        }
    }
    s1 = k_sum_rows<V>(l, s1);
    s2 = k_sum_rows<V>(l, s2);
    if (l.live && l.ty == 0) {
        float *to = a.part + ((size_t)blockIdx.x * a.n_terms + k) * 2 * a.r.c + l.c;
#pragma unroll
        for (int i = 0; i < V; i++) {
            to[i] = s1[i];
            to[a.r.c + (uint32_t)i] = t.in.x ? s2[i] : 0.0f;
        }
    }
    if (!k_last_block(&a.counters[k], a.head.gx * a.groups))
        return;
    const double share = k_finish_term(a, t, k, sums);
    if (threadIdx.x == 0)
        a.share[k] = share;
    if (!a.d_p || !k_last_block(&a.counters[a.n_terms], a.n_terms))
        return;
    for (uint32_t i = threadIdx.x; i < a.n_p; i += K_THREADS) {
        double s = a.acc_dp ? (double)a.acc_dp[i] : 0.0;
        for (uint32_t j = 0; j < a.n_terms; j++)
            s += a.terms[j].index == (int32_t)i ? a.share[j] : 0.0;
        a.d_p[i] = (float)s;
    }
}
K_LAUNCHER_S(dass_k_wsum_bwd_run, dass_k_wsum_bwd, k_wsum_bwd, K_THREADS)
