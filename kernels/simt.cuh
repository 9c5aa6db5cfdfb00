/* What lets the same kernel source compile under nvcc and, for tests, as C++ on the CPU.
 *
 * A kernel file uses the ordinary CUDA names (threadIdx, __syncthreads, __shfl_xor_sync, ...) and these macros:
 *
 *     K_LAUNCH(kernel, grid, block, shared, stream, args...)   launch, with `shared` bytes for K_DYNAMIC
 *     K_SHARED T name[n]                                shared memory of the block, not initialised
 *     K_DYNAMIC(T, name)                                T *name: the shared memory that the launch gave, the same
 *     K_BOUNDS(threads, blocks)                         launch bounds
 *     K_PARAM                                           a parameter that stays where the launch put it
 *
 * Under nvcc they are what one would write. Under a C++ compiler each block runs as a set of fibers on one operating
 * system thread, switching only where the threads of a block wait for each other: barriers, shuffles and ballots. What
 * that finds: wrong indices, missing barriers (SIMT_ORDER=reverse runs the threads of a block from the last to the
 * first), divergent barriers, and under the address sanitizer every access outside an allocation. What it cannot find:
 * speed, races between blocks, memory ordering, bank conflicts, rounding of the device's fast intrinsics (which kernels
 * here do not use).
 */
#ifndef DASS_SIMT_CUH
#define DASS_SIMT_CUH

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_runtime.h>
/* Two floats to bf16, a in the lower half: to nearest, ties to even; a NaN stays one. */
static __device__ __forceinline__ unsigned k_bf16_pair(float a, float b)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return (unsigned)__bfloat16_as_ushort(v.y) << 16 | __bfloat16_as_ushort(v.x);
}
/* Above 48 KB a kernel must be told first that it may; a refusal is the launch's error. */
#define K_LAUNCH(kernel, grid, block, shared, stream, ...)                                                  \
    do {                                                                                                    \
        if ((shared) > 49152)                                                                               \
            (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(shared)); \
        kernel<<<(grid), (block), (shared), (cudaStream_t)(stream)>>>(__VA_ARGS__);                         \
    } while (0)
#define K_SHARED __shared__
#define K_DYNAMIC(T, name)                                     \
    extern __shared__ __align__(16) unsigned char k_dynamic[]; \
    T *const name = reinterpret_cast<T *>(k_dynamic)
#define K_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define K_PARAM const __grid_constant__
/* Errors of a launch: the configuration is wrong or the device is lost. Clears what is not sticky. */
static inline int k_launched(void)
{
    return (int)cudaGetLastError();
}

#else

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define K_BOUNDS(threads, blocks)
#define K_PARAM const
/* One copy per operating system thread, that is, per running block. */
#define K_SHARED static thread_local

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
static inline uint2 make_uint2(unsigned a, unsigned b)
{
    return uint2{a, b};
}
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static inline float4 make_float4(float a, float b, float c, float d)
{
    return float4{a, b, c, d};
}
static inline float2 make_float2(float a, float b)
{
    return float2{a, b};
}

namespace simt {
struct fiber; /* defined in simt.cc */
struct block_state {
    dim3 thread, block, block_dim, grid_dim; /* of the running fiber */
    unsigned linear;                         /* its number in the block */
    unsigned n_threads;
    void *shared;        /* of K_DYNAMIC */
    uint64_t slot[1024]; /* what the threads of a warp show each other */
};
/* Of the block that runs on this thread of the operating system. A bare pointer: an object with a constructor would be
 * asked at each use of threadIdx whether it is made yet. */
extern __thread block_state *now;
enum wait_kind { wait_block = 1, wait_warp };
/* Give up the processor until all threads of the block (or the living ones of the warp) wait in the same way. */
void wait(wait_kind kind);
/* Enqueue a run of every block of the grid on the stream. `name` is for messages. A launch that is not legal leaves its
 * CUDA error for last_launch(). */
void launch(const char *name, dim3 grid, dim3 block, size_t shared, void *stream, std::function<void()> body);
int last_launch(); /* 0 or the error of a launch since the last call; clears it */

template <class T> T exchange(T v, unsigned lane)
{
    static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
    const unsigned me = now->linear;
    uint64_t bits = 0;
    std::memcpy(&bits, &v, sizeof v);
    now->slot[me] = bits;
    wait(wait_warp);
    const unsigned from = (me & ~31u) + (lane & 31u);
    if (from < now->n_threads)
        bits = now->slot[from];
    wait(wait_warp);
    std::memcpy(&v, &bits, sizeof v);
    return v;
}
} // namespace simt

#define threadIdx (simt::now->thread)
#define blockIdx (simt::now->block)
#define blockDim (simt::now->block_dim)
#define gridDim (simt::now->grid_dim)
#define K_LAUNCH(kernel, grid, block, shared, stream, ...) \
    simt::launch(#kernel, dim3(grid), dim3(block), (shared), (stream), [=] { kernel(__VA_ARGS__); })
#define K_DYNAMIC(T, name) T *const name = static_cast<T *>(simt::now->shared)
static inline int k_launched(void)
{
    return simt::last_launch();
}

static inline void __syncthreads()
{
    simt::wait(simt::wait_block);
}
static inline void __syncwarp(unsigned = ~0u)
{
    simt::wait(simt::wait_warp);
}
static inline void __threadfence()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
template <class T> T __shfl_sync(unsigned, T v, int lane, int = 32)
{
    return simt::exchange(v, (unsigned)lane);
}
template <class T> T __shfl_xor_sync(unsigned, T v, int mask, int = 32)
{
    return simt::exchange(v, (simt::now->linear & 31u) ^ (unsigned)mask);
}
template <class T> T __shfl_down_sync(unsigned, T v, unsigned d, int = 32)
{
    const unsigned lane = simt::now->linear & 31u;
    return simt::exchange(v, lane + d < 32 ? lane + d : lane);
}
template <class T> T __shfl_up_sync(unsigned, T v, unsigned d, int = 32)
{
    const unsigned lane = simt::now->linear & 31u;
    return simt::exchange(v, lane >= d ? lane - d : lane);
}
static inline unsigned __ballot_sync(unsigned, int p)
{
    const unsigned base = simt::now->linear & ~31u;
    simt::now->slot[simt::now->linear] = p != 0;
    simt::wait(simt::wait_warp);
    unsigned bits = 0;
    for (unsigned i = 0; i < 32 && base + i < simt::now->n_threads; i++)
        bits |= (unsigned)simt::now->slot[base + i] << i;
    simt::wait(simt::wait_warp);
    return bits;
}
static inline unsigned atomicAdd(unsigned *p, unsigned v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
static inline int atomicAdd(int *p, int v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
static inline unsigned atomicExch(unsigned *p, unsigned v)
{
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
static inline unsigned atomicAnd(unsigned *p, unsigned v)
{
    return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST);
}
template <class T> T __ldg(const T *p)
{
    return *p;
}
static inline int __popcll(unsigned long long v)
{
    return __builtin_popcountll(v);
}
static inline int __popc(unsigned v)
{
    return __builtin_popcount(v);
}
static inline unsigned __float_as_uint(float f)
{
    unsigned u;
    std::memcpy(&u, &f, 4);
    return u;
}
static inline float __uint_as_float(unsigned u)
{
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
static inline unsigned k_bf16_pair(float a, float b)
{
    unsigned r[2];
    const float x[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        const unsigned u = __float_as_uint(x[i]);
        r[i] = (u & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    }
    return r[1] << 16 | r[0];
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline float rsqrtf(float x)
{
    return 1.0f / std::sqrt(x);
}
template <class T> static inline T min(T a, T b)
{
    return b < a ? b : a;
}
template <class T> static inline T max(T a, T b)
{
    return a < b ? b : a;
}

#endif
#endif
