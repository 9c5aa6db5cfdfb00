/* Launchers of mask.cu: selection of the kept entries, and masks applied. A mask is a vector of bits, entry i at bit
 * i % 32 of word i / 32.
 */
#ifndef DASS_KERNELS_MASK_H
#define DASS_KERNELS_MASK_H

#include <stddef.h>

#include "kernels.h"

/* ---- selection: per segment the `kept` largest by (bits of |score|, index) --------------------------------------
 *
 * A radix selection over the 31 magnitude bits by histograms of integers: digits of 11, 10 and 10 bits from the top;
 * after the last, the kept-th largest magnitude t is known, and how many of the entries equal to t are kept: those of
 * the highest indices. Stages of a node:
 *
 *     start    every bit set, scratch zeroed
 *     small    one block per segment of at most DASS_K_MASK_SMALL entries does all of it
 *     count    three launches over the chunks of the longer segments, one per digit; a segment's last block picks it
 *     ties     entries equal to t per chunk; nothing to do unless some of them are dropped
 *     clear    each chunk clears the bits of its dropped entries
 *
 * Neighbouring segments share words, so bits are cleared by atomicAnd, which commutes. Every atomic is of integers: the
 * result does not depend on any order. Nothing here reads a segment of which all entries are kept.
 */
#define DASS_K_MASK_SMALL 32768
#define DASS_K_MASK_CHUNK 8192
#define DASS_K_MASK_DIGITS 3
#define DASS_K_MASK_BINS 2048

typedef struct dass_k_mask_segment {
    uint32_t offset, count, kept; /* kept < count; 0 only in a small segment */
    uint32_t first, n_chunks;     /* of a long segment: its chunks in the table of chunks */
} dass_k_mask_segment;
typedef struct dass_k_mask_chunk {
    uint32_t begin, end, segment; /* entries, of all scores; index in the table of long segments */
} dass_k_mask_chunk;
/* What is known of a long segment so far. In scratch. */
typedef struct dass_k_mask_state {
    uint32_t magnitude; /* digits found, 0 below them */
    uint32_t rank;      /* how many of the entries with those digits are kept */
    uint32_t equal;     /* how many there are */
    uint32_t counter;
    uint32_t bin[DASS_K_MASK_BINS]; /* zero between launches */
} dass_k_mask_state;

/* Bytes: n / 8 written, and the scratch. */
typedef struct dass_k_mask_start {
    dass_k_head head;
    uint32_t *bits; /* n_words, those behind the last entry too */
    uint32_t *zero; /* n_zero words of scratch */
    uint32_t n, n_words, n_zero;
} dass_k_mask_start;
DASS_K_API int dass_k_mask_start_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* grid.x: segments. Bytes: 16 n read, 4 n of them from device memory. */
typedef struct dass_k_mask_small {
    dass_k_head head;
    const float *scores;
    uint32_t *bits;
    const dass_k_mask_segment *segments;
} dass_k_mask_small;
DASS_K_API int dass_k_mask_small_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* grid.x: chunks, of all three. Bytes: 4 n read by each of count, ties (if any), clear. */
typedef struct dass_k_mask_long {
    dass_k_head head;
    const float *scores;
    uint32_t *bits;
    const dass_k_mask_segment *segments;
    const dass_k_mask_chunk *chunks;
    dass_k_mask_state *state; /* per segment */
    uint32_t *ties;           /* per chunk */
    uint32_t digit;           /* count: 0, 1, 2 */
    uint32_t pad_;
} dass_k_mask_long;
DASS_K_API int dass_k_mask_count_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);
DASS_K_API int dass_k_mask_ties_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);
DASS_K_API int dass_k_mask_clear_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* ---- application. Variants V1, V4: entries to a thread ----------------------------------------------------------- */

/* dst = x where the bit is set, else 0; dst may be x. Bytes: 8 n + n / 8. */
typedef struct dass_k_mask_apply {
    dass_k_head head;
    const float *x;
    const uint32_t *bits;
    float *dst;
    size_t n;
} dass_k_mask_apply;
DASS_K_API int dass_k_mask_apply_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* dst = d weights sign(scores), sign(0) = 0. Bytes: 16 n. source: Ramanujan et al. 2020. */
typedef struct dass_k_mask_scores {
    dass_k_head head;
    const float *d, *weights, *scores;
    float *dst;
    size_t n;
} dass_k_mask_scores;
DASS_K_API int dass_k_mask_scores_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

#endif
