/* What kernels with matrices stored by rows share. Everything here is uniform in a warp but the lane. Device code only.
 */
#ifndef DASS_SPARSE_CUH
#define DASS_SPARSE_CUH

#include "common.cuh"

/* First of the entries [from, end) of a row whose column is not below `limit`; end when all are. The columns ascend. */
__device__ __forceinline__ int32_t k_row_until(const int32_t *columns, int32_t from, int32_t end, int32_t limit)
{
    const int32_t lane = (int32_t)(threadIdx.x % 32);
    for (; from < end; from += 32) {
        const bool below = from + lane < end && columns[from + lane] < limit;
        const int32_t n = __popc(__ballot_sync(~0u, below));
        if (n < 32)
            return from + n;
    }
    return end;
}

/* sum + entries [from, to) times this lane's column of the tile: channel c of it lies at tile[(c - first) side]. */
template <class T>
__device__ __forceinline__ float k_row_times(const T *values, const int32_t *columns, int32_t from, int32_t to,
                                             const float *tile, int32_t first, uint32_t side, float sum)
{
#pragma unroll 4
    for (int32_t e = from; e < to; e++)
        sum += k_float(values[e]) * tile[(uint32_t)(columns[e] - first) * side];
    return sum;
}

#endif
