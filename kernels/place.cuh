/* Where the thread with flat number i works: V channels of one pixel. Neighbouring threads stand on neighbouring
 * channels, then pixels, so that a warp's accesses lie together. Device code only. */
#ifndef DASS_PLACE_CUH
#define DASS_PLACE_CUH

#include "common.cuh"

struct k_place {
    uint32_t n, y, x, c; /* image, row, column, first channel */
    uint32_t pixel;      /* (n H + y) W + x */
};
/* i in (N, H, W, C / V); numbers of threads are below 2^31 (dass__cuda_small), so 32 bits do. */
template <int V> __device__ __forceinline__ k_place k_place_of(uint32_t i, uint32_t c, uint32_t h, uint32_t w)
{
    k_place r;
    const uint32_t lanes = c / V;
    r.pixel = i / lanes;
    r.c = (i - r.pixel * lanes) * V;
    const uint32_t row = r.pixel / w;
    r.x = r.pixel - row * w;
    r.n = row / h;
    r.y = row - r.n * h;
    return r;
}

#endif
