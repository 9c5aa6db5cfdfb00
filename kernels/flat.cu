/* Vectors without a shape: fills, copies, the sum of squares. Bandwidth-bound: 16 bytes to an access where the pointers
 * allow it.
 */
#include "flat.h"

#include "common.cuh"

__global__ void K_BOUNDS(K_THREADS, 4) k_fill_words(uint32_t *dst, uint32_t word, size_t n)
{
    const size_t step = (size_t)gridDim.x * K_THREADS;
    for (size_t i = (size_t)blockIdx.x * K_THREADS + threadIdx.x; i < n; i += step)
        dst[i] = word;
}

DASS_K_API int dass_k_fill_words(void *dst, uint32_t word, size_t n, void *stream)
{
    if (n == 0)
        return 0;
    const size_t blocks = (n + K_THREADS - 1) / K_THREADS;
    K_LAUNCH(k_fill_words, dim3((unsigned)(blocks > 2048 ? 2048 : blocks)), dim3(K_THREADS), 0, stream,
             static_cast<uint32_t *>(dst), word, n);
    return k_launched();
}

/* In a function, so that it is there before the first entry of any file. */
k_entry *&k_entry::first()
{
    static k_entry *list = nullptr;
    return list;
}

DASS_K_API const char *dass_k_launcher_name(uint32_t i, uint64_t *launches)
{
    const k_entry *e = k_entry::first();
    for (; e != nullptr && i > 0; i--)
        e = e->next;
    *launches = e != nullptr ? e->launches : 0;
    return e != nullptr ? e->name : nullptr;
}

DASS_K_API const char *dass_k_launcher_of(dass_k_launcher fn, uint32_t variant)
{
    const k_entry *e = k_entry::first();
    while (e != nullptr && !(e->fn == fn && e->variant == variant))
        e = e->next;
    return e != nullptr ? e->name : nullptr;
}

/* ---- fill and copy ----------------------------------------------------------------------------------------------- */

/* Launchers with the variants of one, four and sixteen bytes to an access. */
#define K_LAUNCHER_BYTES(fn, A, kernel, block)                                    \
    static k_entry entries_##fn[] = {                                             \
        {#fn " B16", fn, DASS_K_B16},                                             \
        {#fn " B4", fn, DASS_K_B4},                                               \
        {#fn " B1", fn, DASS_K_B1},                                               \
    };                                                                            \
    DASS_K_API int fn(const void *items, uint32_t n, dass_k_grid g, void *stream) \
    {                                                                             \
        K_COUNT(entries_##fn, g.variant, n);                                      \
        if (g.variant == DASS_K_B16)                                              \
            K_LAUNCH_PACKS(A, kernel, 16, block, items, n, g, stream);            \
        else if (g.variant == DASS_K_B4)                                          \
            K_LAUNCH_PACKS(A, kernel, 4, block, items, n, g, stream);             \
        else                                                                      \
            K_LAUNCH_PACKS(A, kernel, 1, block, items, n, g, stream);             \
        return k_launched();                                                      \
    }

template <int V> struct k_bytes;
template <> struct k_bytes<1> {
    typedef unsigned char type;
    static __device__ __forceinline__ type repeat(uint32_t word)
    {
        return (type)word;
    }
};
template <> struct k_bytes<4> {
    typedef uint32_t type;
    static __device__ __forceinline__ type repeat(uint32_t word)
    {
        return word;
    }
};
template <> struct k_bytes<16> {
    typedef uint4 type;
    static __device__ __forceinline__ type repeat(uint32_t word)
    {
        uint4 q;
        q.x = q.y = q.z = q.w = word;
        return q;
    }
};

struct fill_op {
    const dass_k_fill &a;
    template <int V> __device__ __forceinline__ void at(size_t i) const
    {
        *reinterpret_cast<typename k_bytes<V>::type *>(static_cast<unsigned char *>(a.dst) + i) =
            k_bytes<V>::repeat(a.word >> i % 4 * 8);
    }
};

/* n bytes written; a whole wave of blocks, each thread a few stores. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_fill(K_PARAM P p)
{
    K_ITEM(p);
    k_flat<V>(fill_op{a}, a.n, a.head.gx);
}
K_LAUNCHER_BYTES(dass_k_fill_run, dass_k_fill, k_fill, K_THREADS)

struct copy_op {
    const dass_k_copy &a;
    template <int V> __device__ __forceinline__ void at(size_t i) const
    {
        typedef typename k_bytes<V>::type T;
        *reinterpret_cast<T *>(static_cast<unsigned char *>(a.dst) + i) =
            *reinterpret_cast<const T *>(static_cast<const unsigned char *>(a.src) + i);
    }
};

/* n bytes read, n written. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_copy(K_PARAM P p)
{
    K_ITEM(p);
    k_flat<V>(copy_op{a}, a.n, a.head.gx);
}
K_LAUNCHER_BYTES(dass_k_copy_run, dass_k_copy, k_copy, K_THREADS)

/* ---- between float and bf16 -------------------------------------------------------------------------------------- */

template <class From, class To> struct cast_op {
    const dass_k_cast &a;
    template <int V> __device__ __forceinline__ void at(size_t i) const
    {
        k_store(k_as<To>(a.y) + i, k_load<V>(k_as<From>(a.x) + i));
    }
};

/* The weights of the CIFAR-10 supernet, 2 million: 8 MB read, 4 MB written, 4 us at 3 TB/s. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_cast(K_PARAM P p)
{
    K_ITEM(p);
    K_STORED(S);
    using From = typename k_stored<(S & K_S_BF16) == 0>::type;
    k_flat<V>(cast_op<From, T>{a}, a.n, a.head.gx);
}
K_LAUNCHER_S(dass_k_cast_run, dass_k_cast, k_cast, K_THREADS)

/* ---- sum of squares ---------------------------------------------------------------------------------------------- */

/* Sum over the threads of the block, as a tree; valid in thread 0. */
static __device__ __forceinline__ double sum_block(double v)
{
    K_SHARED double part[K_THREADS];
    __syncthreads();
    part[threadIdx.x] = v;
    for (uint32_t half = K_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            part[threadIdx.x] += part[threadIdx.x + half];
    }
    return part[threadIdx.x];
}

/* The squares of entries [begin, end), this thread's share: at most chunk / (256 V) in one float. */
template <int V> static __device__ __forceinline__ double squares(const float *x, size_t begin, size_t end)
{
    const size_t whole = begin + (end - begin) / V * V;
    k_vec<V> s = {};
#pragma unroll 4
    for (size_t i = begin + threadIdx.x * V; i < whole; i += K_THREADS * V) {
        const k_vec<V> v = k_load<V>(x + i);
#pragma unroll
        for (int k = 0; k < V; k++)
            s[k] += v[k] * v[k];
    }
    double sum = 0.0;
#pragma unroll
    for (int k = 0; k < V; k++)
        sum += (double)s[k];
    if (whole + threadIdx.x < end)
        sum += (double)x[whole + threadIdx.x] * (double)x[whole + threadIdx.x];
    return sum;
}

/* 4 n bytes read: 3.5 us for 2.5 million weights at 3 TB/s. Chunks of 32 KB: eight loads of 16 bytes to a thread, a few
 * hundred blocks and as many partial sums for the last. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_norm2(K_PARAM P p)
{
    K_ITEM(p);
    uint32_t b = blockIdx.x;
    const float *x = a.x[0];
    size_t n = a.n[0];
    uint32_t before = a.blocks[0];
#pragma unroll
    for (int t = 1; t < 4; t++) { /* no indexing by a variable: the parameters stay in constant memory */
        if (blockIdx.x >= before) {
            b = blockIdx.x - before;
            x = a.x[t];
            n = a.n[t];
        }
        before += a.blocks[t];
    }
    const size_t begin = (size_t)b * DASS_K_NORM2_CHUNK;
    const size_t end = begin + DASS_K_NORM2_CHUNK < n ? begin + DASS_K_NORM2_CHUNK : n;
    const double mine = sum_block(squares<V>(x, begin, end));
    if (threadIdx.x == 0)
        a.part[blockIdx.x] = mine;
    if (!k_last_block(a.counter, a.head.gx))
        return;
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < a.head.gx; i += K_THREADS)
        sum += a.part[i];
    sum = sum_block(sum);
    if (threadIdx.x == 0)
        *a.dst = (float)sum;
}
K_LAUNCHER_V(dass_k_norm2_run, dass_k_norm2, k_norm2, K_THREADS)
