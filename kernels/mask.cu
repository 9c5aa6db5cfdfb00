/* Selection of the kept entries of segments, and masks applied to vectors. The selection is described in mask.h; it
 * works in integers throughout, so it is exact. Invariant: every loop with a barrier or a ballot in it has bounds that
 * are the same for all threads of the block.
 */
#include "mask.h"

#include "common.cuh"

#define K_WARPS (K_THREADS / 32)
#define K_BATCH 4 /* loads in flight to a thread while counting */

/* Digit d of a magnitude: `width` bits from `shift` on. */
struct digit_place {
    uint32_t shift, width;
};
static __device__ __forceinline__ digit_place place_of(uint32_t d)
{
    return d == 0 ? digit_place{20, 11} : d == 1 ? digit_place{10, 10} : digit_place{0, 10};
}

/* Bits of |s|: as integers they are ordered as |s| is, with a NaN above everything. */
static __device__ __forceinline__ uint32_t magnitude(float s)
{
    return __float_as_uint(s) & 0x7fffffffu;
}

/* Sum of v over the threads before this one; *total over all. Barriers inside. */
static __device__ __forceinline__ uint32_t sum_before(uint32_t v, uint32_t *total)
{
    K_SHARED uint32_t of_warp[K_WARPS];
    const uint32_t lane = threadIdx.x % 32;
    uint32_t s = v;
    for (uint32_t d = 1; d < 32; d *= 2) {
        const uint32_t t = __shfl_up_sync(~0u, s, d);
        s += lane >= d ? t : 0;
    }
    __syncthreads();
    if (lane == 31)
        of_warp[threadIdx.x / 32] = s;
    __syncthreads();
    uint32_t before = 0;
    *total = 0;
    for (uint32_t w = 0; w < K_WARPS; w++) {
        before += w < threadIdx.x / 32 ? of_warp[w] : 0;
        *total += of_warp[w];
    }
    return before + s - v;
}

/* Add to bin[] the digits of the entries of [begin, end) that have all digits above it in common with `known`. */
static __device__ __forceinline__ void count_digit(uint32_t *bin, const float *scores, uint32_t begin, uint32_t end,
                                                   digit_place at, uint32_t known)
{
    const uint32_t top = at.shift + at.width;
    const uint32_t mask = (1u << at.width) - 1;
    for (uint32_t first = begin; first < end; first += K_BATCH * K_THREADS) {
        uint32_t key[K_BATCH];
#pragma unroll
        for (uint32_t k = 0; k < K_BATCH; k++) {
            const uint32_t i = first + k * K_THREADS + threadIdx.x;
            key[k] = i < end ? magnitude(scores[i]) : ~0u; /* no magnitude: its highest bit is set */
        }
#pragma unroll
        for (uint32_t k = 0; k < K_BATCH; k++)
            if (key[k] >> top == known >> top)
                atomicAdd(&bin[key[k] >> at.shift & mask], 1u);
    }
}

/* The digit that the kept-th largest of the counted entries has, 1 <= kept <= their number. *kept becomes its rank
 * among those with that digit, *equal their number. bin[] may be in shared or in device memory. */
static __device__ __forceinline__ uint32_t pick_digit(const uint32_t *bin, uint32_t *kept, uint32_t *equal)
{
    K_SHARED uint32_t found[3];
    const uint32_t each = DASS_K_MASK_BINS / K_THREADS;
    const uint32_t top = DASS_K_MASK_BINS - 1 - threadIdx.x * each; /* the first thread has the highest bins */
    uint32_t mine = 0;
    for (uint32_t k = 0; k < each; k++)
        mine += bin[top - k];
    uint32_t total;
    uint32_t above = sum_before(mine, &total);
    if (above < *kept && *kept <= above + mine)
        for (uint32_t k = 0; k < each; k++) {
            const uint32_t here = bin[top - k];
            if (above < *kept && *kept <= above + here) {
                found[0] = top - k;
                found[1] = *kept - above;
                found[2] = here;
            }
            above += here;
        }
    __syncthreads();
    *kept = found[1];
    *equal = found[2];
    return found[0];
}

/* Clear the bits of the dropped entries of [begin, end): those below t, and the first `drop` that equal it. A warp
 * takes a word at a time, a thread an entry. */
static __device__ __forceinline__ void clear_bits(uint32_t *bits, const float *scores, uint32_t begin, uint32_t end,
                                                  uint32_t t, uint32_t drop)
{
    K_SHARED uint32_t ties_of[2][K_WARPS];
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t last = (end - 1) / 32;
    uint32_t seen = 0; /* entries that equal t so far */
    uint32_t turn = 0;
    for (uint32_t first = begin / 32; first <= last; first += K_WARPS, turn ^= 1) {
        const uint32_t i = (first + warp) * 32 + lane;
        const bool inside = first + warp <= last && i >= begin && i < end;
        const uint32_t key = inside ? magnitude(scores[i]) : ~0u;
        bool keep = key >= t;
        if (drop > 0) { /* the same for the whole block */
            const uint32_t tied = __ballot_sync(~0u, key == t && inside);
            if (lane == 0)
                ties_of[turn][warp] = __popc(tied);
            __syncthreads();
            uint32_t before = seen;
            for (uint32_t w = 0; w < K_WARPS; w++) {
                before += w < warp ? ties_of[turn][w] : 0;
                seen += ties_of[turn][w];
            }
            if (key == t && inside)
                keep = before + __popc(tied & ((1u << lane) - 1)) >= drop;
        }
        const uint32_t word = __ballot_sync(~0u, keep);
        if (lane == 0 && word != ~0u)
            atomicAnd(&bits[first + warp], word);
    }
}

/* ---- stages ------------------------------------------------------------------------------------------------------ */

/* n / 8 bytes and 8 KB per long segment written. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_mask_start(K_PARAM P p)
{
    K_ITEM(p);
    const uint32_t step = a.head.gx * K_THREADS;
    const uint32_t me = blockIdx.x * K_THREADS + threadIdx.x;
    for (uint32_t w = me; w < a.n_words; w += step) {
        const uint32_t first = w * 32;
        a.bits[w] = first >= a.n ? 0u : a.n - first >= 32 ? ~0u : (1u << (a.n - first)) - 1;
    }
    for (uint32_t w = me; w < a.n_zero; w += step)
        a.zero[w] = 0;
}
K_LAUNCHER(dass_k_mask_start_run, dass_k_mask_start, k_mask_start, K_THREADS)

/* One block per segment: the 1400 layers of a supernet, a few thousand entries each, are two waves of blocks on 132
 * multiprocessors, which read their scores four times, after the first time from cache. The largest segment, 128 KB,
 * is 512 KB through one multiprocessor, at 32 bytes a clock about 10 us, and the atomics. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_mask_small(K_PARAM P p)
{
    K_ITEM(p);
    K_SHARED uint32_t bin[DASS_K_MASK_BINS];
    const dass_k_mask_segment seg = a.segments[blockIdx.x];
    const uint32_t end = seg.offset + seg.count;
    uint32_t t = seg.kept == 0 ? 0x80000000u : 0; /* above every magnitude */
    uint32_t rank = seg.kept;
    uint32_t equal = seg.kept;
    for (uint32_t d = 0; seg.kept > 0 && d < DASS_K_MASK_DIGITS; d++) {
        const digit_place at = place_of(d);
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < DASS_K_MASK_BINS; i += K_THREADS)
            bin[i] = 0;
        __syncthreads();
        count_digit(bin, a.scores, seg.offset, end, at, t);
        __syncthreads();
        t |= pick_digit(bin, &rank, &equal) << at.shift;
    }
    clear_bits(a.bits, a.scores, seg.offset, end, t, equal - rank);
}
K_LAUNCHER(dass_k_mask_small_run, dass_k_mask_small, k_mask_small, K_THREADS)

/* A chunk of 32 KB to a block: 2.5 million weights are 305 blocks and 10 MB, about 5 us a digit. A block's counts go to
 * the segment's by at most 2048 atomics, few for the first digit. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_mask_count(K_PARAM P p)
{
    K_ITEM(p);
    K_SHARED uint32_t bin[DASS_K_MASK_BINS];
    const dass_k_mask_chunk chunk = a.chunks[blockIdx.x];
    const dass_k_mask_segment &seg = a.segments[chunk.segment];
    dass_k_mask_state &state = a.state[chunk.segment];
    const digit_place at = place_of(a.digit);
    const uint32_t known = state.magnitude; /* read by every block before its last one changes it */
    for (uint32_t i = threadIdx.x; i < DASS_K_MASK_BINS; i += K_THREADS)
        bin[i] = 0;
    __syncthreads();
    count_digit(bin, a.scores, chunk.begin, chunk.end, at, known);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < DASS_K_MASK_BINS; i += K_THREADS)
        if (bin[i] != 0)
            atomicAdd(&state.bin[i], bin[i]);
    if (!k_last_block(&state.counter, seg.n_chunks))
        return;
    uint32_t rank = a.digit == 0 ? seg.kept : state.rank;
    uint32_t equal = 0;
    const uint32_t digit = pick_digit(state.bin, &rank, &equal);
    for (uint32_t i = threadIdx.x; i < DASS_K_MASK_BINS; i += K_THREADS)
        state.bin[i] = 0;
    if (threadIdx.x == 0) {
        state.magnitude = known | digit << at.shift;
        state.rank = rank;
        state.equal = equal;
    }
}
K_LAUNCHER(dass_k_mask_count_run, dass_k_mask_long, k_mask_count, K_THREADS)

/* Ties cut by the threshold are rare in scores that are trained: then a launch of blocks that return. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_mask_ties(K_PARAM P p)
{
    K_ITEM(p);
    const dass_k_mask_chunk chunk = a.chunks[blockIdx.x];
    const dass_k_mask_state &state = a.state[chunk.segment];
    if (state.rank == state.equal)
        return;
    uint32_t mine = 0;
#pragma unroll 4
    for (uint32_t i = chunk.begin + threadIdx.x; i < chunk.end; i += K_THREADS)
        mine += magnitude(a.scores[i]) == state.magnitude;
    uint32_t total;
    (void)sum_before(mine, &total);
    if (threadIdx.x == 0)
        a.ties[blockIdx.x] = total;
}
K_LAUNCHER(dass_k_mask_ties_run, dass_k_mask_long, k_mask_ties, K_THREADS)

/* 4 n bytes read, the words of dropped entries written. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_mask_clear(K_PARAM P p)
{
    K_ITEM(p);
    const dass_k_mask_chunk chunk = a.chunks[blockIdx.x];
    const dass_k_mask_state &state = a.state[chunk.segment];
    uint32_t drop = state.equal - state.rank; /* of the whole segment, lowest indices first */
    if (drop > 0) {
        uint32_t mine = 0;
        for (uint32_t c = a.segments[chunk.segment].first + threadIdx.x; c < blockIdx.x; c += K_THREADS)
            mine += a.ties[c];
        uint32_t before;
        (void)sum_before(mine, &before);
        drop = drop > before ? drop - before : 0;
    }
    clear_bits(a.bits, a.scores, chunk.begin, chunk.end, state.magnitude, drop);
}
K_LAUNCHER(dass_k_mask_clear_run, dass_k_mask_long, k_mask_clear, K_THREADS)

/* ---- application ------------------------------------------------------------------------------------------------- */

struct apply_op {
    const dass_k_mask_apply &a;
    template <int V> __device__ __forceinline__ void at(size_t i) const
    {
        k_vec<V> x = k_load<V>(a.x + i);
        const uint32_t bits = k_bits<V>(a.bits, i);
#pragma unroll
        for (int k = 0; k < V; k++)
            x[k] = bits >> k & 1u ? x[k] : 0.0f;
        k_store(a.dst + i, x);
    }
};

/* 8 n bytes: 7 us for 2.5 million weights at 3 TB/s. Eight threads share a word of bits. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_mask_apply(K_PARAM P p)
{
    K_ITEM(p);
    k_flat<V>(apply_op{a}, a.n, a.head.gx);
}
K_LAUNCHER_V(dass_k_mask_apply_run, dass_k_mask_apply, k_mask_apply, K_THREADS)

struct scores_op {
    const dass_k_mask_scores &a;
    template <int V> __device__ __forceinline__ void at(size_t i) const
    {
        k_vec<V> d = k_load<V>(a.d + i);
        const k_vec<V> w = k_load<V>(a.weights + i);
        const k_vec<V> s = k_load<V>(a.scores + i);
#pragma unroll
        for (int k = 0; k < V; k++)
            d[k] *= w[k] * (s[k] > 0.0f ? 1.0f : s[k] < 0.0f ? -1.0f : 0.0f);
        k_store(a.dst + i, d);
    }
};

/* 16 n bytes. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_mask_scores(K_PARAM P p)
{
    K_ITEM(p);
    k_flat<V>(scores_op{a}, a.n, a.head.gx);
}
K_LAUNCHER_V(dass_k_mask_scores_run, dass_k_mask_scores, k_mask_scores, K_THREADS)
