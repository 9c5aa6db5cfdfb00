/* What the kernel files share: packs of arguments, vectors of channels, reductions over pixels. Device code only.
 *
 * Reductions. A sum over the M pixels of NHWC data for each of C channels is made by a grid of (chunks, channel groups)
 * blocks. Inside a block, thread (tx, ty) owns V neighbouring channels and every TY-th pixel of the chunk; the TY
 * partial sums are added in order of ty in shared memory; the block that finishes last adds the chunks' partial sums in
 * order of the chunk, in double. So the result does not depend on the order in which blocks run, and there is one
 * launch. The last block finds itself by a counter in device memory, which it puts back to zero.
 */
#ifndef DASS_COMMON_CUH
#define DASS_COMMON_CUH

#include "kernels.h"
#include "simt.cuh"

#define K_THREADS 256

template <class A, int N> struct k_pack {
    A item[N];
};

/* The body of a launcher: kernel<V, pack> for one item or for DASS_K_ITEMS at a time, with `shared` bytes of K_DYNAMIC
 * memory for each block. */
#define K_LAUNCH_PACKS_SHARED(A, kernel, V, block, shared, items, n, g, stream)                                      \
    do {                                                                                                             \
        const A *const from_ = static_cast<const A *>(items);                                                        \
        if ((n) == 1) {                                                                                              \
            k_pack<A, 1> one_;                                                                                       \
            one_.item[0] = from_[0];                                                                                 \
            K_LAUNCH((kernel<V, k_pack<A, 1>>), dim3((g).x, (g).y, 1), block, shared, stream, one_);                 \
        }                                                                                                            \
        for (uint32_t at_ = 0; (n) > 1 && at_ < (n); at_ += DASS_K_ITEMS) {                                          \
            k_pack<A, DASS_K_ITEMS> many_;                                                                           \
            const uint32_t here_ = (n)-at_ < DASS_K_ITEMS ? (n)-at_ : DASS_K_ITEMS;                                  \
            for (uint32_t i_ = 0; i_ < DASS_K_ITEMS; i_++)                                                           \
                many_.item[i_] = from_[at_ + (i_ < here_ ? i_ : 0)];                                                 \
            K_LAUNCH((kernel<V, k_pack<A, DASS_K_ITEMS>>), dim3((g).x, (g).y, here_), block, shared, stream, many_); \
        }                                                                                                            \
    } while (0)
#define K_LAUNCH_PACKS(A, kernel, V, block, items, n, g, stream) \
    K_LAUNCH_PACKS_SHARED(A, kernel, V, block, 0, items, n, g, stream)

/* Every launcher enters its variants here when the library is loaded, each with a count of its launches. */
struct k_entry {
    const char *name;
    dass_k_launcher fn;
    uint32_t variant;
    uint64_t launches;
    k_entry *next;
    static k_entry *&first();
    k_entry(const char *n, dass_k_launcher f, uint32_t v) : name(n), fn(f), variant(v), launches(0), next(first())
    {
        first() = this;
    }
};
/* The entry of a variant; nullptr: there is none. */
template <int N> k_entry *k_entry_of(k_entry (&all)[N], uint32_t variant)
{
    int i = 0;
    while (i < N && all[i].variant != variant)
        i++;
    return i < N ? &all[i] : nullptr;
}
/* First line of a launcher: n items of a variant of it are launched; another variant is cudaErrorInvalidValue. */
#define K_COUNT(all, variant, n)                                     \
    do {                                                             \
        k_entry *const entry_ = k_entry_of(all, variant);            \
        if (entry_ == nullptr)                                       \
            return 1;                                                \
        entry_->launches += ((n) + DASS_K_ITEMS - 1) / DASS_K_ITEMS; \
    } while (0)

/* A launcher of a kernel without variants, or with the variants V = 1 and 4 channels to a thread. */
#define K_LAUNCHER(fn, A, kernel, block)                                          \
    static k_entry entries_##fn[] = {{#fn, fn, DASS_K_V1}};                       \
    DASS_K_API int fn(const void *items, uint32_t n, dass_k_grid g, void *stream) \
    {                                                                             \
        K_COUNT(entries_##fn, g.variant, n);                                      \
        K_LAUNCH_PACKS(A, kernel, 1, block, items, n, g, stream);                 \
        return k_launched();                                                      \
    }
#define K_LAUNCHER_V(fn, A, kernel, block)                                        \
    static k_entry entries_##fn[] = {                                             \
        {#fn " V4", fn, DASS_K_V4},                                               \
        {#fn " V1", fn, DASS_K_V1},                                               \
    };                                                                            \
    DASS_K_API int fn(const void *items, uint32_t n, dass_k_grid g, void *stream) \
    {                                                                             \
        K_COUNT(entries_##fn, g.variant, n);                                      \
        if (g.variant == DASS_K_V4)                                               \
            K_LAUNCH_PACKS(A, kernel, 4, block, items, n, g, stream);             \
        else                                                                      \
            K_LAUNCH_PACKS(A, kernel, 1, block, items, n, g, stream);             \
        return k_launched();                                                      \
    }
/* The same over the stored type: kernel<S, pack>, see K_STORED. */
#define K_LAUNCHER_S(fn, A, kernel, block)                                        \
    static k_entry entries_##fn[] = {                                             \
        {#fn " V4", fn, DASS_K_V4},                                               \
        {#fn " V1 bf16", fn, DASS_K_V1 | DASS_K_BF16},                            \
        {#fn " V4 bf16", fn, DASS_K_V4 | DASS_K_BF16},                            \
        {#fn " V1", fn, DASS_K_V1},                                               \
    };                                                                            \
    DASS_K_API int fn(const void *items, uint32_t n, dass_k_grid g, void *stream) \
    {                                                                             \
        K_COUNT(entries_##fn, g.variant, n);                                      \
        switch (g.variant) {                                                      \
        case DASS_K_V4:                                                           \
            K_LAUNCH_PACKS(A, kernel, 4, block, items, n, g, stream);             \
            break;                                                                \
        case DASS_K_V4 | DASS_K_BF16:                                             \
            K_LAUNCH_PACKS(A, kernel, K_S_BF16 | 4, block, items, n, g, stream);  \
            break;                                                                \
        case DASS_K_V1 | DASS_K_BF16:                                             \
            K_LAUNCH_PACKS(A, kernel, K_S_BF16 | 1, block, items, n, g, stream);  \
            break;                                                                \
        default:                                                                  \
            K_LAUNCH_PACKS(A, kernel, 1, block, items, n, g, stream);             \
        }                                                                         \
        return k_launched();                                                      \
    }

/* A launcher over the stored type whose kernel takes one element at a time: kernel<S, pack>. */
#define K_LAUNCHER_S1(fn, A, kernel, block)                                       \
    static k_entry entries_##fn[] = {                                             \
        {#fn " bf16", fn, DASS_K_V1 | DASS_K_BF16},                               \
        {#fn, fn, DASS_K_V1},                                                     \
    };                                                                            \
    DASS_K_API int fn(const void *items, uint32_t n, dass_k_grid g, void *stream) \
    {                                                                             \
        K_COUNT(entries_##fn, g.variant, n);                                      \
        if (g.variant & DASS_K_BF16)                                              \
            K_LAUNCH_PACKS(A, kernel, K_S_BF16 | 1, block, items, n, g, stream);  \
        else                                                                      \
            K_LAUNCH_PACKS(A, kernel, 1, block, items, n, g, stream);             \
        return k_launched();                                                      \
    }

/* First line of every kernel: the item, and a block outside its extent has nothing to do. */
#define K_ITEM(p)                                           \
    const auto &a = (p).item[blockIdx.z];                   \
    if (blockIdx.x >= a.head.gx || blockIdx.y >= a.head.gy) \
    return

/* bf16: the upper half of a float. k_bf16_pair (simt.cuh) rounds two. */
struct k_bf16 {
    uint16_t bits;
};
__device__ __forceinline__ float k_float(float x)
{
    return x;
}
__device__ __forceinline__ float k_float(k_bf16 x)
{
    return __uint_as_float((uint32_t)x.bits << 16);
}

/* How a kernel over the stored type is compiled: template parameter S is the vector's width, and K_S_BF16 for bf16.
 * First line of such a kernel: K_STORED(S) names V and T, K_STORED_TYPE(S) T alone. */
#define K_S_BF16 16
template <bool BF16> struct k_stored {
    using type = float;
};
template <> struct k_stored<true> {
    using type = k_bf16;
};
#define K_STORED_TYPE(S) using T = typename k_stored<((S)&K_S_BF16) != 0>::type
#define K_STORED(S)           \
    constexpr int V = (S)&15; \
    K_STORED_TYPE(S)
/* A pointer to the stored type. */
template <class T> __device__ __forceinline__ const T *k_as(const void *p)
{
    return static_cast<const T *>(p);
}
template <class T> __device__ __forceinline__ T *k_as(void *p)
{
    return static_cast<T *>(p);
}

/* V floats that lie together; V = 2 and 4 are one access of 8 or 16 bytes and want alignment. */
template <int V> struct k_vec {
    float v[V];
    __device__ __forceinline__ float &operator[](int i)
    {
        return v[i];
    }
    __device__ __forceinline__ const float &operator[](int i) const
    {
        return v[i];
    }
};
template <int V> __device__ __forceinline__ k_vec<V> k_load(const float *p);
template <> __device__ __forceinline__ k_vec<1> k_load<1>(const float *p)
{
    return k_vec<1>{{*p}};
}
template <> __device__ __forceinline__ k_vec<2> k_load<2>(const float *p)
{
    const float2 q = *reinterpret_cast<const float2 *>(p);
    return k_vec<2>{{q.x, q.y}};
}
template <> __device__ __forceinline__ k_vec<4> k_load<4>(const float *p)
{
    const float4 q = *reinterpret_cast<const float4 *>(p);
    return k_vec<4>{{q.x, q.y, q.z, q.w}};
}
template <int V> __device__ __forceinline__ k_vec<V> k_load(const k_bf16 *p);
template <> __device__ __forceinline__ k_vec<1> k_load<1>(const k_bf16 *p)
{
    return k_vec<1>{{k_float(*p)}};
}
template <> __device__ __forceinline__ k_vec<2> k_load<2>(const k_bf16 *p)
{
    const uint32_t q = *reinterpret_cast<const uint32_t *>(p);
    return k_vec<2>{{__uint_as_float(q << 16), __uint_as_float(q & 0xffff0000u)}};
}
template <> __device__ __forceinline__ k_vec<4> k_load<4>(const k_bf16 *p)
{
    const uint2 q = *reinterpret_cast<const uint2 *>(p);
    return k_vec<4>{{__uint_as_float(q.x << 16), __uint_as_float(q.x & 0xffff0000u), __uint_as_float(q.y << 16),
                     __uint_as_float(q.y & 0xffff0000u)}};
}
__device__ __forceinline__ void k_store(k_bf16 *p, k_vec<1> v)
{
    p->bits = (uint16_t)k_bf16_pair(v[0], 0.0f);
}
__device__ __forceinline__ void k_store(k_bf16 *p, k_vec<2> v)
{
    *reinterpret_cast<uint32_t *>(p) = k_bf16_pair(v[0], v[1]);
}
__device__ __forceinline__ void k_store(k_bf16 *p, k_vec<4> v)
{
    *reinterpret_cast<uint2 *>(p) = make_uint2(k_bf16_pair(v[0], v[1]), k_bf16_pair(v[2], v[3]));
}
__device__ __forceinline__ void k_store(float *p, k_vec<1> v)
{
    *p = v[0];
}
__device__ __forceinline__ void k_store(float *p, k_vec<2> v)
{
    *reinterpret_cast<float2 *>(p) = make_float2(v[0], v[1]);
}
__device__ __forceinline__ void k_store(float *p, k_vec<4> v)
{
    *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
}
/* V values of a small per-channel vector, which need not be aligned; `none` when there is none. */
template <int V> __device__ __forceinline__ k_vec<V> k_channels(const float *p, uint32_t c, float none)
{
    k_vec<V> r;
#pragma unroll
    for (int i = 0; i < V; i++)
        r[i] = p ? p[c + (uint32_t)i] : none;
    return r;
}

/* Written so that a NaN stays one. */
__device__ __forceinline__ float k_activate(float u, int act)
{
    if (act == DASS_K_NONE)
        return u;
    if (u < 0.0f)
        return 0.0f;
    return act == DASS_K_RELU6 && u > 6.0f ? 6.0f : u;
}
__device__ __forceinline__ bool k_passes(float u, int act)
{
    return act == DASS_K_NONE || (u > 0.0f && !(act == DASS_K_RELU6 && u >= 6.0f));
}

/* Where a thread stands in a reduction over pixels: channels [c, c + V), pixels p, p + step, ... < end. */
struct k_lane {
    uint32_t c;
    uint32_t p, end, step;
    uint32_t tx, ty, n_ty, n_tx;
    bool live;
};
template <int V> __device__ __forceinline__ k_lane k_lane_in(const dass_k_reduce &r, uint32_t group)
{
    k_lane l;
    l.n_tx = r.tx;
    l.n_ty = K_THREADS / r.tx;
    l.tx = threadIdx.x % r.tx;
    l.ty = threadIdx.x / r.tx;
    l.c = (group * r.tx + l.tx) * V;
    const uint32_t begin = blockIdx.x * r.chunk;
    l.p = begin + l.ty;
    l.end = begin + r.chunk < r.m ? begin + r.chunk : r.m;
    l.step = l.n_ty;
    l.live = l.c < r.c;
    return l;
}
template <int V> __device__ __forceinline__ k_lane k_lane_of(const dass_k_reduce &r)
{
    return k_lane_in<V>(r, blockIdx.y);
}

/* Sum of `v` over the TY threads of each channel lane, in order of ty; valid in the threads of ty = 0. */
template <int V> __device__ __forceinline__ k_vec<V> k_sum_rows(const k_lane &l, k_vec<V> v)
{
    K_SHARED float part[K_THREADS * V];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < V; i++)
        part[threadIdx.x * V + (uint32_t)i] = v[i];
    for (uint32_t half = l.n_ty / 2; half > 0; half /= 2) {
        __syncthreads();
        if (l.ty < half) {
#pragma unroll
            for (int i = 0; i < V; i++)
                part[threadIdx.x * V + (uint32_t)i] += part[(threadIdx.x + half * l.n_tx) * V + (uint32_t)i];
        }
    }
    k_vec<V> r;
#pragma unroll
    for (int i = 0; i < V; i++)
        r[i] = part[threadIdx.x * V + (uint32_t)i];
    return r;
}

/* Has every other block of this item passed here? Then its writes before are seen by this one. All threads of the block
 * get the same answer. */
__device__ __forceinline__ bool k_last_block(uint32_t *counter, uint32_t n_blocks)
{
    K_SHARED uint32_t is_last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = atomicAdd(counter, 1u) == n_blocks - 1;
        if (is_last)
            *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return is_last != 0;
}

/* Sum over the chunks of one partial value: part[chunk * stride], in order, in double. */
__device__ __forceinline__ double k_sum_chunks(const float *part, uint32_t n_chunks, uint32_t stride)
{
    double s = 0.0;
#pragma unroll 8
    for (uint32_t i = 0; i < n_chunks; i++) /* loads of eight chunks on their way at once */
        s += (double)part[(size_t)i * stride];
    return s;
}

/* op.at<V>(i) for every V-th i below n, by all threads of the item; the entries left over by op.at<1>. */
template <int V, class Op> __device__ __forceinline__ void k_flat(const Op &op, size_t n, uint32_t gx)
{
    const size_t end = (n + V - 1) / V;
    for (size_t q = (size_t)blockIdx.x * K_THREADS + threadIdx.x; q < end; q += (size_t)gx * K_THREADS) {
        if (V == 1 || (q + 1) * V <= n)
            op.template at<V>(q * V);
        else
            for (size_t i = q * V; i < n; i++)
                op.template at<1>(i);
    }
}

/* The V bits of a mask from entry i on, entry i lowest; V divides i. */
template <int V> __device__ __forceinline__ uint32_t k_bits(const uint32_t *bits, size_t i)
{
    return bits[i / 32] >> (i % 32) & ((1u << V) - 1);
}

#endif
