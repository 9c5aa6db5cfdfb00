/* Philox 4x32-10 and the sequential streams made of it.
 *
 * Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 * Not cryptographic.
 * Invariant: a stream is a pure function of (seed, purpose, name, step); draw i needs no other.
 */
#include "dass/rng.h"

#include <math.h>

#include "dass/status.h"

/* The multipliers and Weyl constants of the paper. */
#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u /* golden ratio */
#define PHILOX_W1 0xBB67AE85u /* sqrt(3) - 1 */

enum { PHILOX_ROUNDS = 10, BLOCK_WORDS = 4 };

void dass_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0];
    uint32_t c1 = counter[1];
    uint32_t c2 = counter[2];
    uint32_t c3 = counter[3];
    uint32_t k0 = key[0];
    uint32_t k1 = key[1];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        const uint64_t p0 = (uint64_t)PHILOX_M0 * c0;
        const uint64_t p1 = (uint64_t)PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint64_t dass_name_hash(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (const char *p = name; *p != '\0'; p++) {
        h ^= (uint8_t)*p;
        h *= 0x100000001b3u;
    }
    return h;
}

dass_rng dass_rng_make(uint64_t seed, dass_rng_purpose purpose, uint64_t name, uint32_t step)
{
    return (dass_rng){
        .key = {(uint32_t)seed ^ (uint32_t)purpose, (uint32_t)(seed >> 32)},
        .counter = {0, step, (uint32_t)name, (uint32_t)(name >> 32)},
        .used = BLOCK_WORDS,
    };
}

uint32_t dass_rng_u32(dass_rng *r)
{
    if (r->used == BLOCK_WORDS) {
        /* The last block index is never used: a stream that long (2^34 draws) would start over
         * unnoticed. */
        DASS_ASSERT(r->counter[0] != UINT32_MAX);
        dass_philox(r->counter, r->key, r->block);
        r->counter[0]++;
        r->used = 0;
    }
    return r->block[r->used++];
}

/* Lemire, "Fast random integer generation in an interval", 2019: the high word of draw * n is
 * uniform once the 2^32 mod n smallest low words are drawn again. */
uint32_t dass_rng_below(dass_rng *r, uint32_t n)
{
    DASS_ASSERT(n > 0);
    uint64_t product = (uint64_t)dass_rng_u32(r) * n;
    if ((uint32_t)product < n) {
        const uint32_t reject = (0u - n) % n;
        while ((uint32_t)product < reject)
            product = (uint64_t)dass_rng_u32(r) * n;
    }
    return (uint32_t)(product >> 32);
}

double dass_rng_uniform(dass_rng *r)
{
    return dass_rng_u32(r) * 0x1p-32;
}

double dass_rng_normal(dass_rng *r)
{
    const double two_pi = 6.283185307179586476925286766559;
    /* (0, 1], so that the logarithm is finite; the largest deviate is sqrt(64 ln 2) = 6.66. */
    const double u = (dass_rng_u32(r) + 1.0) * 0x1p-32;
    const double v = dass_rng_u32(r) * 0x1p-32;
    return sqrt(-2.0 * log(u)) * cos(two_pi * v);
}
