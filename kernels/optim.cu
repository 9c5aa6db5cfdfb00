/* Optimisers and the other updates of flat vectors. Bandwidth-bound: each vector is read once and written once, 16
 * bytes to an access. Entries are worked on in float. What depends on the step alone is worked out by one thread of a
 * block and shared: differences that lose digits (1 - b) in double, which some cards do at a 64th of the rate of float,
 * and the rest in float, where it is well conditioned.
 */
#include "optim.h"

#include "common.cuh"

/* ---- SGD --------------------------------------------------------------------------------------------------------- */

struct sgd_rates {
    float scale, decay, momentum, lr;
};
struct sgd_op {
    const dass_k_sgd &a;
    const sgd_rates r;
    template <int V> __device__ __forceinline__ void at(size_t i) const
    {
        k_vec<V> theta = k_load<V>(a.theta + i);
        k_vec<V> m = k_load<V>(a.m + i);
        const k_vec<V> grad = k_load<V>(a.grad + i);
        const uint32_t bits = a.bits ? k_bits<V>(a.bits, i) : ~0u;
#pragma unroll
        for (int k = 0; k < V; k++) {
            const float decay = bits >> k & 1u ? r.decay * theta[k] : 0.0f;
            m[k] = r.momentum * m[k] + r.scale * grad[k] + decay;
            theta[k] -= r.lr * m[k];
        }
        k_store(a.m_out + i, m);
        k_store(a.theta_out + i, theta);
    }
};

/* 20 n bytes: 17 us for 2.5 million weights at 3 TB/s. One wave of blocks, 48 bytes in flight to a thread. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_sgd(K_PARAM P p)
{
    K_ITEM(p);
    K_SHARED sgd_rates shared;
    if (threadIdx.x == 0) {
        const float clip = (float)a.step->clip;
        float scale = 1.0f;
        if (a.norm2 && clip > 0.0f) {
            scale = clip / (sqrtf(*a.norm2) + 1e-6f);
            if (scale > 1.0f)
                scale = 1.0f; /* a NaN norm stays visible */
        }
        shared.scale = scale;
        shared.decay = (float)a.step->weight_decay[a.group];
        shared.momentum = (float)a.step->momentum;
        shared.lr = (float)a.step->lr[a.group];
    }
    __syncthreads();
    k_flat<V>(sgd_op{a, shared}, a.n, a.head.gx);
}
K_LAUNCHER_V(dass_k_sgd_run, dass_k_sgd, k_sgd, K_THREADS)

/* ---- Adam -------------------------------------------------------------------------------------------------------- */

struct adam_rates {
    float decay, lr, eps, beta1, rest1, correct1, beta2, rest2, correct2;
};
struct adam_op {
    const dass_k_adam &a;
    const adam_rates r;
    template <int V> __device__ __forceinline__ void at(size_t i) const
    {
        k_vec<V> theta = k_load<V>(a.theta + i);
        k_vec<V> m = k_load<V>(a.m + i);
        k_vec<V> v = k_load<V>(a.v + i);
        const k_vec<V> grad = k_load<V>(a.grad + i);
#pragma unroll
        for (int k = 0; k < V; k++) {
            const float d = grad[k] + r.decay * theta[k];
            m[k] = r.beta1 * m[k] + r.rest1 * d;
            v[k] = r.beta2 * v[k] + r.rest2 * d * d;
            theta[k] -= r.lr * (m[k] * r.correct1) / (sqrtf(v[k] * r.correct2) + r.eps);
        }
        k_store(a.m_out + i, m);
        k_store(a.v_out + i, v);
        k_store(a.theta_out + i, theta);
    }
};

/* 1 / (1 - b^t), given 1 - b: nothing cancels, so float is enough and costs no pow in double. */
static __device__ __forceinline__ float correction(float rest, float t)
{
    return -1.0f / expm1f(t * log1pf(-rest));
}

/* 28 n bytes. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_adam(K_PARAM P p)
{
    K_ITEM(p);
    K_SHARED adam_rates shared;
    if (threadIdx.x == 0) {
        const float t = (float)a.step->adam_step;
        shared.decay = (float)a.step->weight_decay[a.group];
        shared.lr = (float)a.step->lr[a.group];
        shared.eps = (float)a.step->adam_eps;
        shared.beta1 = (float)a.step->beta1;
        shared.beta2 = (float)a.step->beta2;
        shared.rest1 = (float)(1.0 - a.step->beta1);
        shared.rest2 = (float)(1.0 - a.step->beta2);
        shared.correct1 = correction(shared.rest1, t);
        shared.correct2 = correction(shared.rest2, t);
    }
    __syncthreads();
    k_flat<V>(adam_op{a, shared}, a.n, a.head.gx);
}
K_LAUNCHER_V(dass_k_adam_run, dass_k_adam, k_adam, K_THREADS)

/* ---- moving average ---------------------------------------------------------------------------------------------- */

struct ema_op {
    const dass_k_ema &a;
    const float rest;
    template <int V> __device__ __forceinline__ void at(size_t i) const
    {
        k_vec<V> avg = k_load<V>(a.avg + i);
        const k_vec<V> x = k_load<V>(a.x + i);
#pragma unroll
        for (int k = 0; k < V; k++)
            avg[k] += rest * (x[k] - avg[k]);
        k_store(a.avg_out + i, avg);
    }
};

/* 12 n bytes. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_ema(K_PARAM P p)
{
    K_ITEM(p);
    K_SHARED float rest;
    if (threadIdx.x == 0)
        rest = (float)(1.0 - a.step->ema);
    __syncthreads();
    k_flat<V>(ema_op{a, rest}, a.n, a.head.gx);
}
K_LAUNCHER_V(dass_k_ema_run, dass_k_ema, k_ema, K_THREADS)

/* ---- second order ------------------------------------------------------------------------------------------------ */

struct unroll_rates {
    float xi, momentum, decay;
};
struct unroll_op {
    const dass_k_unroll &a;
    const unroll_rates r;
    template <int V> __device__ __forceinline__ void at(size_t i) const
    {
        k_vec<V> saved = k_load<V>(a.saved + i);
        const k_vec<V> m = k_load<V>(a.m + i);
        const k_vec<V> grad = k_load<V>(a.grad + i);
        const uint32_t bits = a.bits ? k_bits<V>(a.bits, i) : ~0u;
#pragma unroll
        for (int k = 0; k < V; k++) {
            const float decay = bits >> k & 1u ? r.decay * saved[k] : 0.0f;
            saved[k] -= r.xi * (r.momentum * m[k] + grad[k] + decay);
        }
        k_store(a.dst + i, saved);
    }
};

/* 16 n bytes. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_unroll(K_PARAM P p)
{
    K_ITEM(p);
    K_SHARED unroll_rates shared;
    if (threadIdx.x == 0) {
        shared.xi = (float)a.step->xi;
        shared.momentum = (float)a.step->momentum;
        shared.decay = (float)a.step->weight_decay[a.group];
    }
    __syncthreads();
    k_flat<V>(unroll_op{a, shared}, a.n, a.head.gx);
}
K_LAUNCHER_V(dass_k_unroll_run, dass_k_unroll, k_unroll, K_THREADS)

struct shift_op {
    const dass_k_shift &a;
    const float eps;
    template <int V> __device__ __forceinline__ void at(size_t i) const
    {
        k_vec<V> saved = k_load<V>(a.saved + i);
        const k_vec<V> v = k_load<V>(a.v + i);
#pragma unroll
        for (int k = 0; k < V; k++)
            saved[k] += eps * v[k];
        k_store(a.dst + i, saved);
    }
};

/* 12 n bytes. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_shift(K_PARAM P p)
{
    K_ITEM(p);
    K_SHARED float eps;
    if (threadIdx.x == 0) {
        const float norm2 = *a.norm2;
        eps = norm2 == 0.0f ? 0.0f : (float)a.length / sqrtf(norm2); /* a NaN norm stays visible */
    }
    __syncthreads();
    k_flat<V>(shift_op{a, eps}, a.n, a.head.gx);
}
K_LAUNCHER_V(dass_k_shift_run, dass_k_shift, k_shift, K_THREADS)

struct hvp_op {
    const dass_k_hvp &a;
    const float rate;
    template <int V> __device__ __forceinline__ void at(size_t i) const
    {
        k_vec<V> d = k_load<V>(a.d_alpha + i);
        const k_vec<V> x = k_load<V>(a.p + i);
        const k_vec<V> y = k_load<V>(a.q + i);
#pragma unroll
        for (int k = 0; k < V; k++)
            d[k] -= rate * (x[k] - y[k]);
        k_store(a.dst + i, d);
    }
};

/* 16 n bytes, n the number of architecture parameters: a block or two. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_hvp(K_PARAM P p)
{
    K_ITEM(p);
    K_SHARED float rate;
    if (threadIdx.x == 0)
        rate = (float)(a.step->xi / (2.0 * a.length)) * sqrtf(*a.norm2);
    __syncthreads();
    k_flat<V>(hvp_op{a, rate}, a.n, a.head.gx);
}
K_LAUNCHER_V(dass_k_hvp_run, dass_k_hvp, k_hvp, K_THREADS)
