/* Launchers of depthwise.cu: convolutions with one input channel to an output channel, and their gradients. x (N, H, W,
 * C), y (N, OH, OW, C), w (C, 1, KH, KW), all of the stored type, KH, KW <= 7. Tap (r, s) of output (oh, ow) reads
 *
 *     h = oh stride - pad + r dil      w = ow stride - pad + s dil
 *
 * and zero outside of x. The gradient of x for stride 1 is the forward launcher on d_y with mirrored taps.
 *
 * A thread works on V channels of a run: R outputs of one row, `step` columns apart, chosen so that the columns they
 * read are `unit` apart and neighbours share most of them: output j and tap s read column j T + s of the run's window.
 */
#ifndef DASS_KERNELS_DEPTHWISE_H
#define DASS_KERNELS_DEPTHWISE_H

#include "kernels.h"

#define DASS_K_DW_MAX 7    /* taps to a side */
#define DASS_K_DW_RUN 4    /* R, the outputs of a run, where K is a constant */
#define DASS_K_DW_LANES 16 /* threads side by side over channels, at most */

/* Variants of forward and taps: K taps to both sides known to the compiler and T = 1 or 2, with V = 4, R = 4; or
 * DASS_K_DW_ANY, for any kernel, V = 1, R = 1; each also in bf16. */
#define DASS_K_DW(k, t) ((k)*10u + (t))
enum { DASS_K_DW_ANY = 0 };

typedef struct dass_k_dw_map {
    int32_t n, c, h, w, oh, ow; /* what is read (h, w), what is written or was written (oh, ow) */
    int32_t kh, kw, stride, pad, dil;
    int32_t step, unit; /* stride 1 or dil even: step = dil / stride; else step = dil. unit = dil */
    uint32_t runs;      /* to a row: ceil(ow / (R step)) step */
    uint32_t tx;        /* threads side by side, V channels each; blocks (..., ceil(c / (tx V))) */
} dass_k_dw_map;

/* y = act(bias + x * w); bias may be NULL. mirror: tap (r, s) uses w(KH-1-r, KW-1-s). Runs in x, channel groups in y.
 * Bytes: 4 C (N H W + N OH OW); the taps' overlap comes out of the caches. */
typedef struct dass_k_dw_forward {
    dass_k_head head;
    dass_k_dw_map m;
    const void *x, *w;
    const float *bias;
    void *y;
    int32_t mirror;
    int32_t load, act; /* activations: of x, of the result */
    int32_t pad_;
} dass_k_dw_forward;
DASS_K_API int dass_k_dw_forward_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* d_x for stride 2, gathered: m is that of the forward pass. Variants V1, V4, and both in bf16. Bytes as above. */
typedef struct dass_k_dw_data {
    dass_k_head head;
    dass_k_dw_map m; /* step, unit, runs are not used */
    const void *d_y, *w;
    void *d_x;
} dass_k_dw_data;
DASS_K_API int dass_k_dw_data_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* d_w(c, r, s) = sum over n, oh, ow of d_y x. Chunks of `chunk` runs in x, channel groups in y. part: KH KW C floats a
 * chunk. counter: one zero, zero again after. Bytes: 4 C (N H W + N OH OW) read. */
typedef struct dass_k_dw_taps {
    dass_k_head head;
    dass_k_dw_map m;
    const void *x, *d_y;
    float *part, *d_w;
    uint32_t *counter;
    uint32_t chunk;
} dass_k_dw_taps;
DASS_K_API int dass_k_dw_taps_run(const void *items, uint32_t n, dass_k_grid grid, void *stream);

#endif
