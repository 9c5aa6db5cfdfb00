/* Activations, sampling, channel copies, batches, augmentation, drop-path: each value is read at most once and written
 * once, so all of them run at the speed of memory. Threads go over the result in the order in which it lies.
 */
#include "shape.h"

#include "philox.cuh"
#include "place.cuh"

/* 64 x 32 x 32 x 16: 4.2 MB read, 4.2 MB written. Blocks of 256 with one 16-byte access each way: any size would do. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_relu(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const size_t n = a.n / V;
    for (size_t i = (size_t)blockIdx.x * K_THREADS + threadIdx.x; i < n; i += (size_t)a.head.gx * K_THREADS) {
        k_vec<V> x = k_load<V>(k_as<T>(a.x) + i * V);
#pragma unroll
        for (int k = 0; k < V; k++)
            x[k] = k_activate(x[k], a.act);
        k_store(k_as<T>(a.y) + i * V, x);
    }
}
K_LAUNCHER_S(dass_k_relu_run, dass_k_relu, k_relu, K_THREADS)

/* 64 x 32 x 32 x 16: 8.4 MB read, 4.2 MB written. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_relu_bwd(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const size_t n = a.n / V;
    for (size_t i = (size_t)blockIdx.x * K_THREADS + threadIdx.x; i < n; i += (size_t)a.head.gx * K_THREADS) {
        const k_vec<V> y = k_load<V>(k_as<T>(a.y) + i * V);
        k_vec<V> d = k_load<V>(k_as<T>(a.d_y) + i * V);
#pragma unroll
        for (int k = 0; k < V; k++)
            d[k] = k_passes(y[k], a.act) ? d[k] : 0.0f;
        k_store(k_as<T>(a.d_x) + i * V, d);
    }
}
K_LAUNCHER_S(dass_k_relu_bwd_run, dass_k_relu_bwd, k_relu_bwd, K_THREADS)

/* 64 x 32 x 32 x 16 by 2: 1 MB read (2 MB of sectors when C < 8), 1 MB written. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_subsample(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const dass_k_sampling &g = a.at;
    const uint32_t n = g.n * g.oh * g.ow * (g.c / V);
    for (uint32_t i = blockIdx.x * K_THREADS + threadIdx.x; i < n; i += a.head.gx * K_THREADS) {
        const k_place at = k_place_of<V>(i, g.c, g.oh, g.ow);
        const size_t pixel = (size_t)(at.n * g.h + g.offset + g.stride * at.y) * g.w + g.offset + g.stride * at.x;
        k_store(k_as<T>(a.y) + (size_t)i * V, k_load<V>(k_as<T>(a.x) + pixel * g.c + at.c));
    }
}
K_LAUNCHER_S(dass_k_subsample_run, dass_k_subsample, k_subsample, K_THREADS)

/* 64 x 32 x 32 x 16 by 2: 1 MB read and 4.2 MB written; 2 MB and 1 MB where acc is d_x. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_subsample_bwd(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const dass_k_sampling &g = a.at;
    const uint32_t n = g.n * g.h * g.w * (g.c / V);
    for (uint32_t i = blockIdx.x * K_THREADS + threadIdx.x; i < n; i += a.head.gx * K_THREADS) {
        const k_place at = k_place_of<V>(i, g.c, g.h, g.w);
        const uint32_t y = (at.y - g.offset) / g.stride; /* meaningless before the first sample: hit is false there */
        const uint32_t x = (at.x - g.offset) / g.stride;
        const bool hit =
            at.y >= g.offset && at.x >= g.offset && y * g.stride + g.offset == at.y && x * g.stride + g.offset == at.x;
        if (!hit && a.acc == a.d_x)
            continue;
        k_vec<V> sum = a.acc ? k_load<V>(k_as<T>(a.acc) + (size_t)i * V) : k_vec<V>{};
        if (hit) {
            const k_vec<V> d = k_load<V>(k_as<T>(a.d_y) + ((size_t)(at.n * g.oh + y) * g.ow + x) * g.c + at.c);
#pragma unroll
            for (int k = 0; k < V; k++)
                sum[k] += d[k];
        }
        k_store(k_as<T>(a.d_x) + (size_t)i * V, sum);
    }
}
K_LAUNCHER_S(dass_k_subsample_bwd_run, dass_k_subsample_bwd, k_subsample_bwd, K_THREADS)

/* Four parts of 64 x 32 x 32 x 16: 17 MB read, 17 MB written in runs of 64 bytes. A part is a row of blocks, so that
 * every thread of a block has the same addresses to add to. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_channel_copy(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const dass_k_channel_part t = a.table ? a.table[blockIdx.y] : a.part[blockIdx.y];
    const uint32_t lanes = t.c / V;
    const uint32_t n = a.pixels * lanes;
    for (uint32_t i = blockIdx.x * K_THREADS + threadIdx.x; i < n; i += a.head.gx * K_THREADS) {
        const uint32_t pixel = i / lanes;
        const uint32_t c = (i - pixel * lanes) * V;
        k_store(k_as<T>(t.to) + (size_t)pixel * t.to_c + c, k_load<V>(k_as<T>(t.from) + (size_t)pixel * t.from_c + c));
    }
}
K_LAUNCHER_S(dass_k_channel_copy_run, dass_k_channel_copy, k_channel_copy, K_THREADS)

/* 64 x 32 x 32 x 3: 0.2 MB read, 0.2 MB written. A block stays within one image, so the reads behind one another
 * (position, order, pixels) are three trips to memory however large the batch is. */
template <int V, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_gather(K_PARAM P p)
{
    K_ITEM(p);
    const uint64_t entry = (uint64_t)a.step->position * a.head.gx + blockIdx.x;
    const int32_t e = a.order[entry < a.length ? entry : a.length - 1];
    const uint32_t s = e < 0 ? 0 : (uint32_t)e < a.n ? (uint32_t)e : a.n - 1;
    const uint8_t *from = a.images + (size_t)s * a.image;
    uint8_t *to = a.to_images + (size_t)blockIdx.x * a.image;
    const size_t n = V == 4 ? a.image / 16 : a.image;
    for (size_t i = (size_t)blockIdx.y * K_THREADS + threadIdx.x; i < n; i += (size_t)a.head.gy * K_THREADS) {
        if (V == 4)
            reinterpret_cast<uint4 *>(to)[i] = reinterpret_cast<const uint4 *>(from)[i];
        else
            to[i] = from[i];
    }
    if (blockIdx.y == 0 && threadIdx.x == 0) {
        a.to_labels[blockIdx.x] = a.labels[s];
        a.to_samples[blockIdx.x] = (int32_t)s;
    }
}
K_LAUNCHER_V(dass_k_gather_run, dass_k_gather, k_gather, K_THREADS)

/* 64 x 32 x 32 x 3: 0.2 MB read, 0.8 MB written. A thread makes one pixel, drawing its sample's numbers again: that is
 * some 60 multiplications, and no memory. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_augment(K_PARAM P p)
{
    K_STORED_TYPE(S);
    K_ITEM(p);
    const uint32_t n = a.n * a.h * a.w;
    for (uint32_t i = blockIdx.x * K_THREADS + threadIdx.x; i < n; i += a.head.gx * K_THREADS) {
        const k_place at = k_place_of<1>(i, 1, a.h, a.w);
        const k_draw d = k_philox(a.step, a.purpose, (uint32_t)a.samples[at.n], 0, 0);
        const uint32_t span = 2 * (uint32_t)a.pad + 1;
        const bool mirror = a.flip && (d.r[1] & 1);
        const int h = (int)at.y + (int)(d.r[0] % span) - a.pad;
        const int w = (int)(mirror ? a.w - 1 - at.x : at.x) + (int)((d.r[0] >> 16) % span) - a.pad;
        const int top = (int)(d.r[2] % a.h) - a.cutout / 2;
        const int left = (int)(d.r[3] % a.w) - a.cutout / 2;
        const bool cut =
            (int)at.y >= top && (int)at.y < top + a.cutout && (int)at.x >= left && (int)at.x < left + a.cutout;
        const bool inside = h >= 0 && h < (int)a.h && w >= 0 && w < (int)a.w;
        const size_t from = inside ? ((size_t)(at.n * a.h + (uint32_t)h) * a.w + (uint32_t)w) * a.c : 0;
        for (uint32_t c = 0; c < a.c; c++) {
            const float u = inside ? (float)a.images[from + c] / 255.0f : 0.0f;
            k_store(k_as<T>(a.dst) + (size_t)i * a.c + c, k_vec<1>{{cut ? 0.0f : (u - a.mean[c]) / a.std[c]}});
        }
    }
}
K_LAUNCHER_S1(dass_k_augment_run, dass_k_augment, k_augment, K_THREADS)

/* 64 x 32 x 32 x 16: 4.2 MB read, 4.2 MB written. A block stays within one sample, so one draw serves its loop. */
template <int S, class P> __global__ void K_BOUNDS(K_THREADS, 4) k_drop_path(K_PARAM P p)
{
    K_STORED(S);
    K_ITEM(p);
    const k_draw d = k_philox(a.step, a.purpose, (uint32_t)a.samples[blockIdx.x], a.step->step, a.fold);
    const double chance = a.step->drop_path;
    const bool dropped = (double)d.r[0] / 4294967296.0 < chance;
    const float f = (float)(1.0 / (1.0 - chance));
    const size_t first = (size_t)blockIdx.x * a.row;
    const size_t n = a.row / V;
    for (size_t i = (size_t)blockIdx.y * K_THREADS + threadIdx.x; i < n; i += (size_t)a.head.gy * K_THREADS) {
        k_vec<V> x = {};
        if (!dropped) {
            x = k_load<V>(k_as<T>(a.x) + first + i * V);
#pragma unroll
            for (int k = 0; k < V; k++)
                x[k] *= f;
        }
        k_store(k_as<T>(a.y) + first + i * V, x);
    }
}
K_LAUNCHER_S(dass_k_drop_path_run, dass_k_drop_path, k_drop_path, K_THREADS)
