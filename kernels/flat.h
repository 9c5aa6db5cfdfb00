/* Launchers of flat.cu: vectors without a shape. */
#ifndef DASS_KERNELS_FLAT_H
#define DASS_KERNELS_FLAT_H

#include <stddef.h>

#include "kernels.h"

/* n words of 4 bytes. Not a node: the backend's own fill. */
DASS_K_API int dass_k_fill_words(void *dst, uint32_t word, size_t n, void *stream);

/* Bytes to an access. Pointers are multiples of it; n need not be. */
enum { DASS_K_B1 = 1, DASS_K_B4 = 4, DASS_K_B16 = 16 };

/* The 4 bytes of `word` over and over, dst + 0 its lowest byte; with B1 all four are equal. Bytes: n written. */
typedef struct dass_k_fill {
    dass_k_head head;
    void *dst;
    size_t n; /* bytes */
    uint32_t word;
    uint32_t pad_;
} dass_k_fill;
DASS_K_API int dass_k_fill_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* dst = src, n bytes; dst may be src. Bytes: 2 n. */
typedef struct dass_k_copy {
    dass_k_head head;
    const void *src;
    void *dst;
    size_t n; /* bytes */
} dass_k_copy;
DASS_K_API int dass_k_copy_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* y = x, n elements, one of them float and the other bf16: y with DASS_K_BF16, else x. Variants V1, V4: elements to an
 * access. Bytes: 6 n. */
typedef struct dass_k_cast {
    dass_k_head head;
    const void *x;
    void *y;
    size_t n;
} dass_k_cast;
DASS_K_API int dass_k_cast_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* dst (1) = sum of the squares of up to four vectors. A block takes DASS_K_NORM2_CHUNK entries of one of them, so the
 * result depends on the lengths and on the variant, not on the device. Variants V1, V4: entries to an access. part: one
 * double per block. counter: one zero, zero again after. Bytes: 4 n read. */
#define DASS_K_NORM2_CHUNK 8192
typedef struct dass_k_norm2 {
    dass_k_head head; /* gx = sum of the blocks */
    const float *x[4];
    size_t n[4];
    uint32_t blocks[4]; /* ceil(n / chunk); 0: no such vector */
    double *part;
    float *dst;
    uint32_t *counter;
} dass_k_norm2;
DASS_K_API int dass_k_norm2_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

#endif
