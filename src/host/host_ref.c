/* The reference: every op of ops.def in the obvious loop form. It is the specification in
 * executable form, not a fast path; where another kernel disagrees with it beyond rounding, the
 * other kernel is wrong. It is compiled twice, in float (dass__rows_ref) and with -DDASS_REF_F64=1
 * in double (dass__rows_ref64), from the fragments host_ref_*.h.
 *
 * Invariants: serial; no allocation (scratch is the planner's); no value is kept between runs; sums
 * are formed in double and in index order in both builds; an output may share the storage of the
 * input that ops.def names as in_place.
 */
#include "host.h"

#include <math.h>
#include <string.h>

#include "dass/rng.h"

#ifndef DASS_REF_F64
#define DASS_REF_F64 0
#endif

#if DASS_REF_F64
typedef double real;
typedef uint64_t real_bits; /* bits of |x|: as unsigned integers they are ordered as |x| is */
#define REF_ROWS dass__rows_ref64
#define REF_PREFIX "ref64:"
#else
typedef float real;
typedef uint32_t real_bits;
#define REF_ROWS dass__rows_ref
#define REF_PREFIX "ref:"
#endif

/* ---- what every op below uses ------------------------------------------------------- */

/* Input i and output i of the node behind an impl; NULL where the value is 0. */
static void *src(const dass__impl *k, uint32_t i)
{
    return k->arg[i];
}
static void *dst(const dass__impl *k, uint32_t i)
{
    return k->arg[k->n_in + i];
}
static const dass_attr *attr(const dass__impl *k)
{
    return &k->g->nodes[k->n].attr;
}

/* Element i as a double; `none` when the optional tensor p is absent. */
static double ld(const real *p, int64_t i)
{
    return (double)p[i];
}
static double ld_or(const real *p, int64_t i, double none)
{
    return p ? (double)p[i] : none;
}
static void st(real *p, int64_t i, double v)
{
    p[i] = (real)v;
}

/* Logical (N, C, H, W) of an activation. `pixels` = N*H*W, so element (pixel, c) of NHWC storage is
 * pixel*C + c. */
typedef struct dims {
    int64_t n, c, h, w, pixels;
} dims;
static dims dims_of(const dass_value *v)
{
    dims d = {v->dim[0], v->dim[1], v->dim[2], v->dim[3], 0};
    d.pixels = d.n * d.h * d.w;
    return d;
}
static dims in_dims(const dass__impl *k, uint32_t i)
{
    return dims_of(dass__in(k->g, k->n, i));
}
static dims out_dims(const dass__impl *k, uint32_t i)
{
    return dims_of(dass__out(k->g, k->n, i));
}
static int64_t in_count(const dass__impl *k, uint32_t i)
{
    return dass_value_count(dass__in(k->g, k->n, i));
}
static int64_t out_count(const dass__impl *k, uint32_t i)
{
    return dass_value_count(dass__out(k->g, k->n, i));
}
/* NHWC storage. */
static int64_t at(dims d, int64_t n, int64_t h, int64_t w, int64_t c)
{
    return ((n * d.h + h) * d.w + w) * d.c + c;
}
static bool inside(dims d, int64_t h, int64_t w)
{
    return h >= 0 && h < d.h && w >= 0 && w < d.w;
}

static double activate(double u, int act)
{
    if (act == DASS_ACT_NONE)
        return u;
    if (u < 0)
        return 0; /* written so that a NaN stays one */
    return act == DASS_ACT_RELU6 && u > 6 ? 6 : u;
}
/* Does the gradient pass an activation whose argument (or result) is u? */
static bool passes(double u, int act)
{
    return act == DASS_ACT_NONE || (u > 0 && !(act == DASS_ACT_RELU6 && u >= 6));
}

/* The five pointers of a batch-normalised operand, as they follow one another in the inputs of a
 * node. */
typedef struct normed {
    const real *x, *mean, *rstd, *gamma, *beta;
} normed;
static normed normed_at(const dass__impl *k, uint32_t first)
{
    return (normed){src(k, first), src(k, first + 1), src(k, first + 2), src(k, first + 3), src(k, first + 4)};
}
/* xh = (x - mean) rstd of element i, channel c. */
static double normed_hat(normed b, int64_t i, int64_t c)
{
    return (ld(b.x, i) - ld(b.mean, c)) * ld(b.rstd, c);
}
/* gamma xh + beta, or x itself when there is no mean. */
static double normed_value(normed b, int64_t i, int64_t c)
{
    return b.mean ? ld_or(b.gamma, c, 1) * normed_hat(b, i, c) + ld_or(b.beta, c, 0) : ld(b.x, i);
}

static bool bit_at(const uint64_t *bits, int64_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

#include "host_ref_conv.h"
#include "host_ref_dwpw.h"
#include "host_ref_norm.h"
#include "host_ref_pool.h"
#include "host_ref_sparse.h"
#include "host_ref_sum.h"
#include "host_ref_state.h"

/* ---- rows --------------------------------------------------------------------------- */

static dass_status prepare(dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k, const char *name,
                           dass_status (*run)(dass_backend *, void *), size_t ws_bytes)
{
    if (!dass__impl_make(mem, g, n, sizeof(dass__impl), k))
        return DASS_NOMEM;
    k->run = run;
    k->ws_bytes = ws_bytes;
    k->name = name;
    return DASS_OK;
}

static size_t ws_none(const dass_graph *g, dass_node n)
{
    (void)g;
    (void)n;
    return 0;
}

/* One row: prepare_<op> attaches run_<op> with the scratch that ws(g, n) asks for. */
#define REF_OPS(R)                                 \
    R(GATHER, gather, ws_none)                     \
    R(AUGMENT, augment, ws_none)                   \
    R(CONV, conv, ws_none)                         \
    R(BN_STATS, bn_stats, ws_none)                 \
    R(BN_APPLY, bn_apply, ws_none)                 \
    R(BN_INFER, bn_infer, ws_none)                 \
    R(RELU, relu, ws_none)                         \
    R(MAX_POOL, max_pool, ws_none)                 \
    R(AVG_POOL, avg_pool, ws_none)                 \
    R(GLOBAL_POOL, global_pool, ws_none)           \
    R(SUBSAMPLE, subsample, ws_none)               \
    R(CONCAT, concat, ws_none)                     \
    R(WSUM, wsum, ws_none)                         \
    R(SOFTMAX, softmax, ws_none)                   \
    R(XENT, xent, ws_none)                         \
    R(DROP_PATH, drop_path, ws_none)               \
    R(CAST, cast, ws_none)                         \
    R(DWPW, dwpw, ws_dwpw)                         \
    R(SPCONV, spconv, ws_none)                     \
    R(IRBLOCK, irblock, ws_irblock)                \
    R(CONV_BWD_DATA, conv_bwd_data, ws_none)       \
    R(CONV_BWD_WEIGHTS, conv_bwd_weights, ws_none) \
    R(CHANNEL_SUM, channel_sum, ws_none)           \
    R(BN_BWD_REDUCE, bn_bwd_reduce, ws_none)       \
    R(BN_BWD_APPLY, bn_bwd_apply, ws_none)         \
    R(RELU_BWD, relu_bwd, ws_none)                 \
    R(MAX_POOL_BWD, max_pool_bwd, ws_none)         \
    R(AVG_POOL_BWD, avg_pool_bwd, ws_none)         \
    R(GLOBAL_POOL_BWD, global_pool_bwd, ws_none)   \
    R(SUBSAMPLE_BWD, subsample_bwd, ws_none)       \
    R(SLICE, slice, ws_none)                       \
    R(WSUM_BWD, wsum_bwd, ws_wsum_bwd)             \
    R(GSUM, gsum, ws_none)                         \
    R(SOFTMAX_BWD, softmax_bwd, ws_none)           \
    R(XENT_BWD, xent_bwd, ws_none)                 \
    R(DWPW_BWD, dwpw_bwd, ws_dwpw_bwd)             \
    R(FILL, fill, ws_none)                         \
    R(COPY, copy, ws_none)                         \
    R(BN_RUNNING, bn_running, ws_none)             \
    R(MASK_THRESHOLD, mask_threshold, ws_none)     \
    R(MASK_APPLY, mask_apply, ws_none)             \
    R(MASK_BWD_WEIGHTS, mask_bwd_weights, ws_none) \
    R(MASK_BWD_SCORES, mask_bwd_scores, ws_none)   \
    R(NORM2, norm2, ws_none)                       \
    R(SGD, sgd, ws_none)                           \
    R(ADAM, adam, ws_none)                         \
    R(EMA, ema, ws_none)                           \
    R(UNROLL, unroll, ws_none)                     \
    R(SHIFT, shift, ws_none)                       \
    R(HVP, hvp, ws_none)

#define R(OP, fn, ws)                                                                                                \
    static dass_status prepare_##fn(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k) \
    {                                                                                                                \
        (void)h;                                                                                                     \
        return prepare(mem, g, n, k, REF_PREFIX #fn, run_##fn, ws(g, n));                                            \
    }
REF_OPS(R)
#undef R

const dass__row REF_ROWS[] = {
#define R(OP, fn, ws) {.op = DASS_OP_##OP, .name = REF_PREFIX #fn, .prepare = prepare_##fn},
    REF_OPS(R)
#undef R
        {.op = DASS_OP_NONE},
};
