/* Counter-based random numbers: a draw is a pure function of its key, so neither threads, ranks nor batch order
 * change it. Philox 4x32-10 (Salmon et al., SC 2011).
 *
 * Key = (seed, purpose), counter = (step, sample, hash of a NAME, index). Never an index of a node or a row.
 */
#ifndef DASS_RNG_H
#define DASS_RNG_H

#include <stdint.h>

typedef enum dass_rng_purpose {
    DASS_RNG_INIT = 1,
    DASS_RNG_SHUFFLE,
    DASS_RNG_SPLIT,
    DASS_RNG_AUGMENT,
    DASS_RNG_DROP_PATH,
    DASS_RNG_SEARCH,
    DASS_RNG_TEST
} dass_rng_purpose;

/* Ten rounds of Philox 4x32: out = f(counter, key). */
void dass_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* 64-bit FNV-1a of a NUL-ended name. */
uint64_t dass_name_hash(const char *name);

/* A sequential stream for host-side use (initialisation, shuffles): draws i = 0, 1, ... of the key. */
typedef struct dass_rng {
    uint32_t key[2];
    uint32_t counter[4];
    uint32_t block[4];
    unsigned used; /* words of `block` handed out; 4 = refill */
} dass_rng;
/* Stream of (seed, purpose, name hash, step). */
dass_rng dass_rng_make(uint64_t seed, dass_rng_purpose purpose, uint64_t name, uint32_t step);
uint32_t dass_rng_u32(dass_rng *r);
uint32_t dass_rng_below(dass_rng *r, uint32_t n); /* uniform in [0, n), unbiased; n > 0 */
double dass_rng_uniform(dass_rng *r);             /* in [0, 1), 32 bits */
double dass_rng_normal(dass_rng *r); /* Box-Muller, one draw of two kept per call pair: no state beyond the stream */

#endif
