/* Philox 4x32-10 on the device, bit for bit src/base/rng.c's. Device code only.
 * source: Salmon, Moraes, Dror, Shaw, SC 2011. */
#ifndef DASS_PHILOX_CUH
#define DASS_PHILOX_CUH

#include "dass/step_block.h"

#include "common.cuh"

struct k_draw {
    uint32_t r[4];
};

/* The draw of `sample` for a purpose (dass_rng_purpose) in this epoch; c2 and c3 say what else it depends on. */
__device__ __forceinline__ k_draw k_philox(const dass_step_block *step, uint32_t purpose, uint32_t sample, uint32_t c2,
                                           uint32_t c3)
{
    uint32_t c0 = sample;
    uint32_t c1 = step->epoch;
    uint32_t k0 = (uint32_t)step->seed ^ purpose;
    uint32_t k1 = (uint32_t)(step->seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t hi0 = __umulhi(0xD2511F53u, c0);
        const uint32_t lo0 = 0xD2511F53u * c0;
        const uint32_t hi1 = __umulhi(0xCD9E8D57u, c2);
        const uint32_t lo1 = 0xCD9E8D57u * c2;
        c0 = hi1 ^ c1 ^ k0;
        c1 = lo1;
        c2 = hi0 ^ c3 ^ k1;
        c3 = lo0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return k_draw{{c0, c1, c2, c3}};
}

#endif
