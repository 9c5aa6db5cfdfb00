/* Argument structs and list of the functions in vec_depthwise.c. Included by vec_api.h only. */
#ifndef DASS_VEC_DEPTHWISE_H
#define DASS_VEC_DEPTHWISE_H

#include <stdbool.h>
#include <stdint.h>

/* One image of a depthwise convolution: y[i, j] = sum over taps (r, s) of w[r kw + s] x[i stride + r dil + top,
 * j stride + s dil + left], per channel; what lies outside x counts as 0. The gradient with respect to x is the same
 * thing with other numbers: see host_depthwise.c. */
struct dass__dw {
    const float *x;       /* (h, w, c) */
    const float *taps;    /* (kh kw, c) */
    float *y;             /* output (0, 0) */
    int64_t y_row, y_col; /* floats from one output to the next below, to the right */
    int32_t h, w, c;      /* of x */
    int32_t n_cols;       /* outputs in a row */
    int32_t kh, kw, stride, dil;
    int32_t top, left; /* minus the padding */
};

/* One image of the gradient of the taps: part[t, c] += sum over output pixels (i, j) of rows [row0, row1) of
 * d_y[i, j] x[i stride + r dil - pad, j stride + s dil - pad]. */
struct dass__dw_grad {
    const float *x;   /* (h, w, c) */
    const float *d_y; /* (oh, ow, c) */
    float *part;      /* (k k, width): see dass__dw_slot for where channel c lies */
    int32_t h, w, c, ow;
    int32_t k, stride, dil, pad;
    int32_t width; /* c rounded up to whole vectors */
};

/* Channels go through whole vectors; when c is no multiple of the lanes the last vector ends at c and overlaps the one
 * before. In `part` it has a place of its own. */
static inline int32_t dass__dw_slot(int32_t c, int32_t n_channels, int32_t lanes)
{
    const int32_t whole = n_channels / lanes * lanes;
    return c < whole || n_channels < lanes ? c : c - n_channels + lanes + whole;
}

/* Is the convolution built for these numbers? k: kw of a whole kernel, stride and dil 1 or 2. */
static inline bool dass__dw_built(int32_t k, int32_t stride, int32_t dil)
{
    return (k == 3 || k == 5 || k == 7) && (stride == 1 || stride == 2) && (dil == 1 || dil == 2);
}

#define DASS__VEC_DEPTHWISE(X)                                                 \
    X(void, depthwise, (const struct dass__dw *a, int32_t row0, int32_t row1)) \
    X(void, depthwise_taps, (const struct dass__dw_grad *a, int32_t row0, int32_t row1))

#endif
