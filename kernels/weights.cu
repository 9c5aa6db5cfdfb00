/* Filters between layouts. Neighbouring threads write neighbouring elements; what they read lies in the caches. */
#include "weights.h"

#include "common.cuh"

template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_transpose(K_PARAM P p)
{
    K_ITEM(p);
    K_STORED_TYPE(S);
    const T *const src = k_as<T>(a.src);
    T *const dst = k_as<T>(a.dst);
    const size_t n = (size_t)a.rows * a.n_i * a.n_j;
    for (size_t k = (size_t)blockIdx.x * K_THREADS + threadIdx.x; k < n; k += (size_t)a.head.gx * K_THREADS) {
        const uint32_t i = (uint32_t)(k % a.n_i);
        const uint32_t j = (uint32_t)(k / a.n_i % a.n_j);
        const size_t o = k / ((size_t)a.n_i * a.n_j);
        dst[k] = src[(o * a.n_i + i) * a.n_j + j];
    }
}

K_LAUNCHER_S1(dass_k_transpose_run, dass_k_transpose, k_transpose, K_THREADS)
