/* The fused separable half, forward: depthwise tile into shared memory, product with w_pw out of it, statistics of y on
 * the way out. z is never stored.
 */
#include "dwpw.cuh"

#define K_PITCH (K_SLICE + 4) /* of w_pw in shared memory: transposing writes then meet no bank twice */

/* w_pw of input channels [c0, c0 + n), n a multiple of 4, and outputs [oc0, oc0 + n_oc) to [c][K_PITCH], zeros past the
 * edges. A warp takes 8 inputs of 4 outputs: whole sectors, and 32 banks. */
template <class E>
static __device__ __forceinline__ void load_pointwise(const dass_k_dwpw_shape &s, const E *w_pw, uint32_t c0,
                                                      uint32_t n, uint32_t oc0, uint32_t n_oc, float *to)
{
    const uint32_t wide = (n + 7) / 8;
    const uint32_t units = wide * ((n_oc + 3) / 4);
    for (uint32_t u = threadIdx.x / 32; u < units; u += K_THREADS / 32) {
        const uint32_t c = u % wide * 8 + (threadIdx.x & 7);
        const uint32_t o = u / wide * 4 + (threadIdx.x / 8 & 3);
        const bool in = c0 + c < s.c && oc0 + o < s.oc;
        if (c < n)
            to[c * K_PITCH + o] = in ? k_float(w_pw[(size_t)(oc0 + o) * s.c + c0 + c]) : 0.0f;
    }
}

/* Means and sums of squares about them, of all blocks' pixels together, in order of the block (Chan, Golub and LeVeque
 * 1983). The threads stand in columns, one a channel; red: K_THREADS. */
static __device__ __forceinline__ void finish_statistics(const dass_k_dwpw &a, double *red)
{
    const uint32_t oc = a.s.oc;
    const size_t pitch = (size_t)3 * oc + 1;
    uint32_t cols = 1;
    while (cols < oc && cols < 64)
        cols *= 2;
    const uint32_t rows = K_THREADS / cols;
    const uint32_t row = threadIdx.x / cols;
    const double m = (double)((uint64_t)a.s.out.rows * a.s.out.w);
    for (uint32_t c0 = 0; c0 < oc; c0 += cols) {
        const uint32_t c = c0 + threadIdx.x % cols;
        double mean = 0.0;
        double var = 0.0;
        for (int pass = 0; pass < 2; pass++) {
            double sum = 0.0;
            for (uint32_t b = row; c < oc && b < a.head.gx; b += rows) {
                const float *from = a.part + b * pitch;
                const double n = (double)__float_as_uint(from[3 * oc]);
                const double d = (double)from[c] + (double)from[oc + c] - mean;
                sum += pass == 0 ? n * d : (double)from[2 * oc + c] + n * d * d;
            }
            __syncthreads();
            red[threadIdx.x] = sum;
            __syncthreads();
            sum = 0.0;
            for (uint32_t r = 0; r < rows; r++)
                sum += red[r * cols + threadIdx.x % cols];
            if (pass == 0)
                mean = sum / m;
            else
                var = sum / m;
        }
        if (c < oc && row == 0) {
            a.mean[c] = (float)mean;
            a.rstd[c] = (float)(1.0 / sqrt((var > 0.0 || var != var ? var : 0.0) + (double)a.eps));
        }
    }
}

/* Sums of a block about `shift` to its part: of the threads with the same columns, s1 in the lower half of the tile and
 * s2 in the upper, in order of g. pixels: those of the block, set by all threads. */
static __device__ __forceinline__ void put_statistics(const dass_k_dwpw &a, const k_patch &me, const k_vec<4> &s1,
                                                      const k_vec<4> &s2, uint32_t oc0, uint32_t n_oc,
                                                      const float *shift, const uint32_t &pixels, float *tile)
{
    const uint32_t at = (me.g << a.s.group_bits) + me.q;
    float *const upper = tile + DASS_K_DWPW_TILE / 2;
    k_store(tile + at * 4, s1);
    k_store(upper + at * 4, s2);
    for (uint32_t half = K_THREADS >> a.s.group_bits >> 1; half > 0; half /= 2) {
        __syncthreads();
        const uint32_t other = at + (half << a.s.group_bits);
        for (uint32_t j = 0; me.g < half && j < 4; j++) {
            tile[at * 4 + j] += tile[other * 4 + j];
            upper[at * 4 + j] += upper[other * 4 + j];
        }
    }
    __syncthreads();
    float *part = a.part + (size_t)blockIdx.x * (3 * a.s.oc + 1);
    if (threadIdx.x < n_oc) { /* the block's mean as its two summands: in one float it would lose the second's digits */
        const double n = pixels > 0 ? (double)pixels : 1.0;
        const double off = (double)tile[threadIdx.x] / n;
        float *to = part + oc0 + threadIdx.x;
        to[0] = shift[threadIdx.x];
        to[a.s.oc] = (float)off;
        to[2 * a.s.oc] = (float)((double)upper[threadIdx.x] - n * off * off);
    }
    if (blockIdx.y == 0 && threadIdx.x == 0)
        part[3 * a.s.oc] = __uint_as_float(pixels);
}

/* N = 64, C = OC = 16, 32 x 32: 4.2 MB read and 4.2 MB written, 2.8 us at 3 TB/s; 52 MFLOP (3 x 3) or 86 (5 x 5) and
 * about half as many operations again to normalise, 1 to 2 us at 60 TFLOP/s. Window columns come from the first-level
 * cache, 18 (40) 16-byte loads for 4 pixels x 4 channels. Tiles of 256 pixels x 16 channels, 128 x 32 or 64 x 64, so
 * that 256 threads have one strip x 4 channels each in the first half and 4 x 4 results each in the second; two blocks
 * or more a multiprocessor, one at its loads while another multiplies. */
template <int CODE, class P> __global__ void K_BOUNDS(K_THREADS, 2) k_dwpw(K_PARAM P p)
{
    K_ITEM(p);
    constexpr int V = k_dwpw_code<CODE>::V;
    using E = typename k_dwpw_code<CODE>::E;
    alignas(16) K_SHARED float tile[DASS_K_DWPW_TILE];
    alignas(16) K_SHARED float matrix[K_SLICE * K_PITCH];
    alignas(16) K_SHARED float taps[k_dwpw_code<CODE>::TAPS * K_SLICE];
    alignas(16) K_SHARED float shift[K_SLICE];
    K_SHARED k_strip strip[K_MOST_TILE];
    K_SHARED double red[K_THREADS];
    K_SHARED uint32_t pixels;
    const dass_k_dwpw_shape &s = a.s;
    const uint32_t oc0 = blockIdx.y * K_SLICE;
    const uint32_t n_oc = s.oc - oc0 < K_SLICE ? s.oc - oc0 : K_SLICE;
    const k_patch me = k_patch_of(s.group_bits);
    const bool working = me.g < s.tile && me.q * 4 < n_oc;
    const uint32_t begin = blockIdx.x * s.per_block;
    const uint32_t end = begin + s.per_block < s.n_tiles ? begin + s.per_block : s.n_tiles;
    const bool sliced = s.c > K_SLICE;
    k_affine<V> f = {};
    k_vec<4> s1 = {};
    k_vec<4> s2 = {};
    uint32_t mine = 0; /* pixels of strips that this thread has set up */
    if (threadIdx.x == 0)
        pixels = 0;
    for (uint32_t t = begin; t < end; t++) {
        k_vec<4> sum[K_STRIP] = {};
        for (uint32_t c0 = 0; c0 < s.c; c0 += K_SLICE) {
            const uint32_t n_c = s.c - c0 < K_SLICE ? (s.c - c0 + 3) & ~3u : K_SLICE;
            __syncthreads(); /* the product before is done with all of it */
            if (c0 == 0 && threadIdx.x < s.tile) {
                strip[threadIdx.x] = k_out_strip(s, t * s.tile + threadIdx.x);
                mine += (uint32_t)strip[threadIdx.x].n;
            }
            if (sliced || t == begin) {
                const uint32_t c = c0 + (threadIdx.x & ((1u << s.lane_bits) - 1)) * V;
                if (c < s.c)
                    f = k_affine_of<V>(a.in, c, s.relu);
                if constexpr (k_dwpw_code<CODE>::K > 0)
                    k_load_taps<k_dwpw_code<CODE>::K>(k_as<E>(a.w_dw), c0, n_c, taps);
                load_pointwise(s, k_as<E>(a.w_pw), c0, n_c, oc0, n_oc, matrix);
            }
            __syncthreads();
            k_depthwise_tile<CODE>(s, a.in.x, f, a.w_dw, taps, strip, c0, tile);
            __syncthreads();
            if (working)
                k_multiply(tile, s.tile, s.swizzle, me.g, n_c, matrix + me.q * 4, K_PITCH, sum);
        }
        if (t == begin) { /* sums are taken about the block's first pixel: a large mean costs no digits */
            uint32_t first = 0;
            while (first < s.tile - 1 && strip[first].n == 0)
                first++;
            if (working && me.g == first)
                k_store(shift + me.q * 4, sum[0]);
            __syncthreads();
        }
        if (!working)
            continue;
        const k_strip at = strip[me.g];
        const k_vec<4> about = k_load<4>(shift + me.q * 4);
        k_store_patch<V>(k_as<E>(a.y), s.oc, s.out.apart, oc0 + me.q * 4, at, sum);
#pragma unroll
        for (int i = 0; i < K_STRIP; i++) {
#pragma unroll
            for (int j = 0; j < 4 && i < at.n; j++) {
                const float d = sum[i][j] - about[j];
                s1[j] += d;
                s2[j] += d * d;
            }
        }
    }
    if (!a.mean)
        return;
    __syncthreads();
    if (mine > 0)
        atomicAdd(&pixels, mine);
    put_statistics(a, me, s1, s2, oc0, n_oc, shift, pixels, tile);
    if (k_last_block(a.counter, a.head.gx * a.head.gy))
        finish_statistics(a, red);
}
K_LAUNCHER_DWPW(dass_k_dwpw_run, dass_k_dwpw, k_dwpw)
