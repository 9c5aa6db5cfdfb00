/* Batch norm: statistics, application, and both gradients. Memory-bound: every kernel reads each activation once, a
 * thread owning V neighbouring channels so that a warp reads whole 128-byte lines when C V >= 32 floats lie together
 * (NHWC: they always do).
 */
#include "norm.h"

#include "common.cuh"

/* 4 M C bytes read: 0.7 us for 64 x 32 x 32 x 16 at 3 TB/s; blocks of 256 keep 16 KB in flight. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_bn_stats(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const k_lane l = k_lane_of<V>(a.r);
    k_vec<V> first = {};
    k_vec<V> s1 = {};
    k_vec<V> s2 = {};
    if (l.live) {
        first = k_load<V>(k_as<T>(a.x) + l.c);
        for (uint32_t q = l.p; q < l.end; q += l.step) {
            const k_vec<V> x = k_load<V>(k_as<T>(a.x) + (size_t)q * a.r.c + l.c);
#pragma unroll
            for (int i = 0; i < V; i++) {
                const float d = x[i] - first[i];
                s1[i] += d;
                s2[i] += d * d;
            }
        }
    }
    s1 = k_sum_rows<V>(l, s1);
    s2 = k_sum_rows<V>(l, s2);
    if (l.live && l.ty == 0) {
        float *to = a.part + (size_t)blockIdx.x * 2 * a.r.c + l.c;
#pragma unroll
        for (int i = 0; i < V; i++) {
            to[i] = s1[i];
            to[a.r.c + (uint32_t)i] = s2[i];
        }
    }
    if (!k_last_block(a.r.counter, a.head.gx * a.head.gy))
        return;
    for (uint32_t c = threadIdx.x; c < a.r.c; c += K_THREADS) {
        const double m = (double)a.r.m;
        const double d1 = k_sum_chunks(a.part + c, a.head.gx, 2 * a.r.c) / m;
        const double d2 = k_sum_chunks(a.part + a.r.c + c, a.head.gx, 2 * a.r.c) / m;
        const double var = d2 - d1 * d1;
        a.mean[c] = (float)((double)k_float(k_as<T>(a.x)[c]) + d1);
        a.rstd[c] = (float)(1.0 / sqrt((var > 0.0 || var != var ? var : 0.0) + (double)a.eps));
    }
}
K_LAUNCHER_S(dass_k_bn_stats_run, dass_k_bn_stats, k_bn_stats, K_THREADS)

/* What belongs to a channel is worked out once a thread; then it walks over its pixels. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_bn_apply(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const k_lane l = k_lane_of<V>(a.r);
    if (!l.live)
        return;
    const k_vec<V> mean = k_channels<V>(a.in.mean, l.c, 0.0f);
    const k_vec<V> gamma = k_channels<V>(a.in.gamma, l.c, 1.0f);
    const k_vec<V> beta = k_channels<V>(a.in.beta, l.c, 0.0f);
    k_vec<V> rstd = k_channels<V>(a.var ? a.var : a.in.rstd, l.c, 1.0f);
#pragma unroll
    for (int i = 0; a.var && i < V; i++)
        rstd[i] = (float)(1.0 / sqrt((double)rstd[i] + (double)a.eps));
    for (uint32_t q = l.p; q < l.end; q += l.step) {
        const size_t at = (size_t)q * a.r.c + l.c;
        k_vec<V> x = k_load<V>(k_as<T>(a.in.x) + at);
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float hat = (x[i] - mean[i]) * rstd[i];
            x[i] = k_activate(gamma[i] * hat + beta[i], a.act);
        }
        k_store(k_as<T>(a.dst) + at, x);
    }
}
K_LAUNCHER_S(dass_k_bn_apply_run, dass_k_bn_apply, k_bn_apply, K_THREADS)

/* 8 M C bytes read. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_bn_bwd_reduce(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const k_lane l = k_lane_of<V>(a.r);
    k_vec<V> s1 = {};
    k_vec<V> s2 = {};
    if (l.live) {
        const k_vec<V> mean = k_channels<V>(a.in.mean, l.c, 0.0f);
        const k_vec<V> rstd = k_channels<V>(a.in.rstd, l.c, 1.0f);
        const k_vec<V> gamma = k_channels<V>(a.in.gamma, l.c, 1.0f);
        const k_vec<V> beta = k_channels<V>(a.in.beta, l.c, 0.0f);
        for (uint32_t q = l.p; q < l.end; q += l.step) {
            const size_t at = (size_t)q * a.r.c + l.c;
            const k_vec<V> x = k_load<V>(k_as<T>(a.in.x) + at);
            const k_vec<V> d = k_load<V>(k_as<T>(a.d_y) + at);
#pragma unroll
            for (int i = 0; i < V; i++) {
                const float hat = (x[i] - mean[i]) * rstd[i];
                const float g = k_passes(gamma[i] * hat + beta[i], a.act) ? d[i] : 0.0f;
                s1[i] += g;
                s2[i] += g * hat;
            }
        }
    }
    s1 = k_sum_rows<V>(l, s1);
    s2 = k_sum_rows<V>(l, s2);
    if (l.live && l.ty == 0) {
        float *to = a.part + (size_t)blockIdx.x * 2 * a.r.c + l.c;
#pragma unroll
        for (int i = 0; i < V; i++) {
            to[i] = s1[i];
            to[a.r.c + (uint32_t)i] = s2[i];
        }
    }
    if (!k_last_block(a.r.counter, a.head.gx * a.head.gy))
        return;
    for (uint32_t c = threadIdx.x; c < a.r.c; c += K_THREADS) {
        a.d_beta[c] = (float)k_sum_chunks(a.part + c, a.head.gx, 2 * a.r.c);
        a.d_gamma[c] = (float)k_sum_chunks(a.part + a.r.c + c, a.head.gx, 2 * a.r.c);
    }
}
K_LAUNCHER_S(dass_k_bn_bwd_reduce_run, dass_k_bn_bwd_reduce, k_bn_bwd_reduce, K_THREADS)

template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_bn_bwd_apply(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const k_lane l = k_lane_of<V>(a.r);
    if (!l.live)
        return;
    const float m = (float)a.r.m;
    const k_vec<V> mean = k_channels<V>(a.in.mean, l.c, 0.0f);
    const k_vec<V> rstd = k_channels<V>(a.in.rstd, l.c, 1.0f);
    const k_vec<V> gamma = k_channels<V>(a.in.gamma, l.c, 1.0f);
    const k_vec<V> beta = k_channels<V>(a.in.beta, l.c, 0.0f);
    k_vec<V> of_beta = k_channels<V>(a.d_beta, l.c, 0.0f);
    k_vec<V> of_gamma = k_channels<V>(a.d_gamma, l.c, 0.0f);
#pragma unroll
    for (int i = 0; i < V; i++) {
        of_beta[i] /= m;
        of_gamma[i] /= m;
    }
    for (uint32_t q = l.p; q < l.end; q += l.step) {
        const size_t at = (size_t)q * a.r.c + l.c;
        const k_vec<V> x = k_load<V>(k_as<T>(a.in.x) + at);
        k_vec<V> d = k_load<V>(k_as<T>(a.d_y) + at);
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float hat = (x[i] - mean[i]) * rstd[i];
            const float g = k_passes(gamma[i] * hat + beta[i], a.act) ? d[i] : 0.0f;
            d[i] = gamma[i] * rstd[i] * (g - of_beta[i] - hat * of_gamma[i]);
        }
        k_store(k_as<T>(a.d_x) + at, d);
    }
}
K_LAUNCHER_S(dass_k_bn_bwd_apply_run, dass_k_bn_bwd_apply, k_bn_bwd_apply, K_THREADS)

/* 4 M C bytes read. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_channel_sum(K_PARAM P p)
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
    if (l.live && l.ty == 0) {
#pragma unroll
        for (int i = 0; i < V; i++)
            a.part[(size_t)blockIdx.x * a.r.c + l.c + (uint32_t)i] = s[i];
    }
    if (!k_last_block(a.r.counter, a.head.gx * a.head.gy))
        return;
    for (uint32_t c = threadIdx.x; c < a.r.c; c += K_THREADS)
        a.dst[c] = (float)k_sum_chunks(a.part + c, a.head.gx, a.r.c);
}
K_LAUNCHER_S(dass_k_channel_sum_run, dass_k_channel_sum, k_channel_sum, K_THREADS)

/* A few hundred bytes: one block. In double, as the reference: var is a small difference when rstd is large. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 1) k_bn_running(K_PARAM P p)
{
    K_ITEM(p);
    for (uint32_t c = blockIdx.x * K_THREADS + threadIdx.x; c < a.c; c += a.head.gx * K_THREADS) {
        const double r = (double)a.rstd[c];
        const double var = 1.0 / (r * r) - a.eps;
        const double m0 = (double)a.run_mean_in[c];
        const double v0 = (double)a.run_var_in[c];
        a.run_mean[c] = (float)(m0 + a.momentum * ((double)a.mean[c] - m0));
        a.run_var[c] = (float)(v0 + a.momentum * (var * a.unbias - v0));
    }
}
K_LAUNCHER(dass_k_bn_running_run, dass_k_bn_running, k_bn_running, K_THREADS)
