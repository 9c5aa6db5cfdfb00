/* How elementwise work over channels-last tensors is cut, and how per-channel numbers meet vectors.
 *
 * A tensor is a stream of pixels of C floats. With period = lcm(C, lanes), the channel of element i of a run that
 * starts at a pixel is fixed by i mod period, so coefficients repeated to one period make every C look like a multiple
 * of the vector; only the end of a run is left to a scalar loop. An item is a run of whole pixels (a multiple of 16,
 * hence of whole periods, except for the last). Items depend on the shape and on the vector length, never on the number
 * of threads: sums per item, added in index order, give the same bits on any number of cores.
 */
#ifndef DASS_HOST_ITEMS_H
#define DASS_HOST_ITEMS_H

#include <math.h>

#include "host.h"
#include "vec.h"

#define DASS__ITEM_FLOATS 16384 /* of one tensor, at least: 64 KiB */
#define DASS__MAX_ITEMS 128     /* beyond this, items grow */

typedef struct dass__items {
    int64_t n_pix, n;  /* pixels and floats of the tensor */
    int64_t step;      /* floats of an item; the last has what is left */
    int64_t count;     /* items */
    int32_t c, period; /* channels, floats per period */
} dass__items;

static inline int32_t dass__period(int32_t c, int32_t lanes)
{
    int32_t a = c;
    int32_t b = lanes;
    while (b) {
        const int32_t r = a % b;
        a = b;
        b = r;
    }
    return c / a * lanes;
}

static inline dass__items dass__items_cut(int64_t n_pix, int32_t c, int32_t lanes)
{
    int64_t pix = (DASS__ITEM_FLOATS + c - 1) / c;
    const int64_t least = (n_pix + DASS__MAX_ITEMS - 1) / DASS__MAX_ITEMS;
    if (pix < least)
        pix = least;
    pix = (pix + 15) / 16 * 16;
    return (dass__items){.n_pix = n_pix,
                         .n = n_pix * c,
                         .step = pix * c,
                         .count = (n_pix + pix - 1) / pix,
                         .c = c,
                         .period = dass__period(c, lanes)};
}

/* Of an NHWC value. */
static inline dass__items dass__items_of(const dass_host *h, const dass_value *v)
{
    return dass__items_cut((int64_t)v->dim[0] * v->dim[2] * v->dim[3], v->dim[1], h->vec->lanes);
}

static inline int64_t dass__item_len(const dass__items *it, int64_t i)
{
    const int64_t left = it->n - i * it->step;
    return left < it->step ? left : it->step;
}

/* Repeat c numbers to a period. NULL: the constant `otherwise`. */
static inline void dass__spread(const dass__items *it, const float *src, float otherwise, float *dst)
{
    for (int32_t i = 0; i < it->c; i++)
        dst[i] = src ? src[i] : otherwise;
    for (int32_t i = it->c; i < it->period; i++)
        dst[i] = dst[i - it->c];
}

/* Bytes rounded up to a cache line, so that no two threads share one. */
static inline size_t dass__line(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static inline bool dass__is_f32_nhwc(const dass_value *v)
{
    return v->dtype == DASS_F32 && v->layout == DASS_LAYOUT_NHWC;
}

/* The usual prepare: an impl of `bytes` with its head filled, attached with what runs it. NULL on error (recorded). */
static inline void *dass__impl_run(dass_arena *mem, const dass_graph *g, dass_node n, size_t bytes, dass_kernel *k,
                                   dass_status (*run)(dass_backend *be, void *impl))
{
    k->run = run;
    return dass__impl_make(mem, g, n, bytes, k);
}

#endif
