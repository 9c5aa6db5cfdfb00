/* Launchers of shape.cu: activations, what moves samples, pixels or channels about, and what is drawn for a sample.
 * Variants V1, V4, and both in bf16, unless
 * said otherwise.
 */
#ifndef DASS_KERNELS_SHAPE_H
#define DASS_KERNELS_SHAPE_H

#include <stddef.h>

#include "dass/step_block.h"

#include "kernels.h"

/* y = act(x) over n numbers of any shape, in place allowed; V4: n % 4 = 0. Bytes: 8 n. */
typedef struct dass_k_relu {
    dass_k_head head;
    const void *x;
    void *y;
    size_t n;
    int32_t act;
} dass_k_relu;
DASS_K_API int dass_k_relu_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* d_x = d_y where the activation passed (0 < y, and y < 6), else 0; d_x may be d_y. Bytes: 12 n. */
typedef struct dass_k_relu_bwd {
    dass_k_head head;
    const void *d_y, *y;
    void *d_x;
    size_t n;
    int32_t act;
} dass_k_relu_bwd;
DASS_K_API int dass_k_relu_bwd_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* x (N,C,H,W), y (N,C,OH,OW): y(h, w) = x(offset + stride h, offset + stride w). Bytes: 8 N C OH OW. */
typedef struct dass_k_sampling {
    uint32_t n, c, h, w, oh, ow, stride, offset;
} dass_k_sampling;
typedef struct dass_k_subsample {
    dass_k_head head;
    dass_k_sampling at;
    const void *x;
    void *y;
} dass_k_subsample;
DASS_K_API int dass_k_subsample_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* d_x = acc + d_y where a pixel was sampled, acc elsewhere. acc: NULL = 0; where it is d_x, pixels that were not
 * sampled are left alone. Bytes: 4 N C (H W + OH OW), or 12 N C OH OW in place. */
typedef struct dass_k_subsample_bwd {
    dass_k_head head;
    dass_k_sampling at;
    const void *d_y, *acc;
    void *d_x;
} dass_k_subsample_bwd;
DASS_K_API int dass_k_subsample_bwd_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* Copies of c channels of every pixel: to[p to_c + i] = from[p from_c + i]. Concatenation is one such part for each
 * input, a slice is one. Parts lie in the struct, or all of them in device memory when `table` is set; grid
 * (., n_parts). V4: every c, from_c, to_c % 4 = 0. Bytes: 8 pixels sum c. */
#define DASS_K_PARTS 16
typedef struct dass_k_channel_part {
    const void *from;
    void *to;
    uint32_t from_c, to_c, c, pad_;
} dass_k_channel_part;
typedef struct dass_k_channel_copy {
    dass_k_head head;
    const dass_k_channel_part *table;
    uint32_t pixels, n_parts;
    dass_k_channel_part part[DASS_K_PARTS];
} dass_k_channel_copy;
DASS_K_API int dass_k_channel_copy_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* A batch out of a data set, as dass_gather of graph.h says: row r of the grid's (rows, chunks of an image) is sample
 * order[position rows + r], clamped to the `length` entries of the order and the n samples. image: bytes of one.
 * Variants: V1 moves bytes; V4 moves 16 at once: image % 16 = 0, both images at multiples of 16. Bytes: 2 rows (image +
 * 8), and 4 rows of order. */
typedef struct dass_k_gather {
    dass_k_head head;
    const uint8_t *images;
    const int32_t *labels, *order;
    const dass_step_block *step;
    uint8_t *to_images;
    int32_t *to_labels, *to_samples;
    size_t image;
    uint32_t n, length;
} dass_k_gather;
DASS_K_API int dass_k_gather_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* Crop, normalise, mirror, cut a square out, as dass_augment of graph.h says. images u8 and dst (N,C,H,W), C <= 16;
 * samples (N). purpose: DASS_RNG_AUGMENT. Variants: float, bf16. Bytes: 5 N C H W. */
#define DASS_K_AUGMENT_CHANNELS 16
typedef struct dass_k_augment {
    dass_k_head head;
    const uint8_t *images;
    const int32_t *samples;
    const dass_step_block *step;
    void *dst;
    uint32_t n, c, h, w, purpose;
    int32_t pad, flip, cutout;
    float mean[DASS_K_AUGMENT_CHANNELS], std[DASS_K_AUGMENT_CHANNELS];
} dass_k_augment;
DASS_K_API int dass_k_augment_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* y = 0 in the rows that are dropped, x / (1 - p) in the others, p = step.drop_path; `row` numbers a sample, in place
 * allowed. fold: key lo ^ key hi; purpose: DASS_RNG_DROP_PATH. Grid (N, chunks of a row). V4: row % 4 = 0. Bytes: 8 N
 * row, less what dropped rows do not read. */
typedef struct dass_k_drop_path {
    dass_k_head head;
    const void *x;
    const int32_t *samples;
    const dass_step_block *step;
    void *y;
    size_t row;
    uint32_t fold, purpose;
} dass_k_drop_path;
DASS_K_API int dass_k_drop_path_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

#endif
