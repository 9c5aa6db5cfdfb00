/* Launcher of irblock.cu, of variants float and bf16: a whole inverted residual block with sparse pointwise
 * convolutions. Matrices are stored by rows as spconv.h says, both of them; the second is walked by chunks of hidden
 * channels, which its ascending columns allow.
 *
 *     e = act(E x + b_e), 0 outside of the image;  d = act(3x3 depthwise of e + b_dw);  y = P d + b_p + residual
 *
 * x (n, h, w, ic), E (hidden, ic), w_dw (hidden, 9), P (oc, hidden), y and residual (n, oh, ow, oc); each bias and the
 * residual may be NULL.
 *
 * A block makes th x tw outputs of one image, blocks over tiles in x. In shared memory, in floats, with S the odd
 * number above 32 ceil(pixels / 32) pixels of the tile of x with its halo, and T the same of the tile of y:
 *
 *     mask S | x ic S | e chunk S | d chunk T | y oc T | next entry of every row of P, oc
 *
 * Bytes: 4 (halo ic + 2 oc per output) a tile and 8 (nnz E + nnz P) + 40 hidden, which all blocks read, from the L2
 * cache. The 4 (h w + oh ow) hidden of e and d, most of an unfused block, do not leave the multiprocessor.
 */
#ifndef DASS_KERNELS_IRBLOCK_H
#define DASS_KERNELS_IRBLOCK_H

#include "kernels.h"

typedef struct dass_k_csr {
    const void *values; /* of the stored type */
    const int32_t *columns, *starts;
} dass_k_csr;

typedef struct dass_k_irblock {
    dass_k_head head;
    const void *x, *w_dw, *residual;
    const float *b_expand, *b_dw, *b_project;
    dass_k_csr expand, project;
    void *y;
    int32_t h, w, oh, ow;
    uint32_t ic, hidden, oc;
    int32_t stride, act;
    int32_t th, tw;  /* outputs of a tile */
    uint32_t chunk;  /* hidden channels at once */
    uint32_t shared; /* bytes */
} dass_k_irblock;
DASS_K_API int dass_k_irblock_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* Floats between two channels of a tile of `pixels`. */
static inline uint32_t dass_k_ir_side(uint32_t pixels)
{
    return (pixels + 31) / 32 * 32 + 1;
}
/* Pixels of x that a tile of t outputs reads along one axis. */
static inline uint32_t dass_k_ir_halo(uint32_t t, uint32_t stride)
{
    return (t - 1) * stride + 3;
}
/* Shared memory of a block, in bytes. */
static inline uint64_t dass_k_ir_shared(const dass_k_irblock *a)
{
    const uint64_t s = dass_k_ir_side(dass_k_ir_halo((uint32_t)a->th, (uint32_t)a->stride) *
                                      dass_k_ir_halo((uint32_t)a->tw, (uint32_t)a->stride));
    const uint64_t t = dass_k_ir_side((uint32_t)(a->th * a->tw));
    return 4 * (s + a->ic * s + a->chunk * (s + t) + a->oc * t + a->oc);
}

#endif
