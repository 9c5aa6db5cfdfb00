/* Rows of the fused separable half and its gradient over kernels/dwpw.h: how pixels are cut into strips, tiles and
 * blocks, and which variant a window takes. Shapes are fixed in prepare, pointers in bind.
 */
#include "cuda.h"

#include "kernels/dwpw.h"

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}
/* Least b with 2^b >= n. */
static uint32_t bits_for(uint32_t n)
{
    uint32_t b = 0;
    while ((1u << b) < n)
        b++;
    return b;
}
static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}
static int32_t gcd(int32_t a, int32_t b)
{
    while (b != 0) {
        const int32_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

static dass_k_strips strips_of(uint32_t rows, uint32_t w, uint32_t apart)
{
    const uint32_t per_row = ceil_div(w, DASS_K_DWPW_STRIP * apart) * apart;
    return (dass_k_strips){.rows = rows, .w = w, .apart = apart, .per_row = per_row, .n = rows * per_row};
}

/* The window's variant for v channels to a thread. Outputs `apart` = dil / gcd(stride, dil) from each other read
 * columns that are t = stride / gcd taps apart. */
static uint32_t variant_of(const dass_conv_attr *a, uint32_t v, uint32_t *apart)
{
    const int32_t t = a->stride / gcd(a->stride, a->dil);
    const bool known = v == 4 && a->kh == a->kw && (a->kh == 3 || a->kh == 5) && t <= 2;
    *apart = known ? (uint32_t)(a->dil / gcd(a->stride, a->dil)) : 1;
    return known ? DASS_K_DWPW(v, a->kh, t) : DASS_K_DWPW(v, 0, 0);
}

/* n_groups: channels whose groups of 4 lie beside one another in a tile's product. */
static dass_k_dwpw_shape shape_of(const dass_value *x, const dass_value *y, const dass_conv_attr *a, uint32_t v,
                                  uint32_t n_columns, uint32_t apart)
{
    const uint32_t slice_c = least((uint32_t)x->dim[1], DASS_K_DWPW_SLICE);
    const uint32_t slice_oc = least((uint32_t)y->dim[1], DASS_K_DWPW_SLICE);
    const uint32_t most_bits = bits_for(ceil_div(slice_c > slice_oc ? slice_c : slice_oc, 4));
    dass_k_dwpw_shape s = {
        .c = (uint32_t)x->dim[1],
        .oc = (uint32_t)y->dim[1],
        .h = x->dim[2],
        .w = x->dim[3],
        .oh = y->dim[2],
        .ow = y->dim[3],
        .kh = a->kh,
        .kw = a->kw,
        .stride = a->stride,
        .pad = a->pad,
        .dil = a->dil,
        .relu = a->relu,
        .out = strips_of((uint32_t)y->dim[0] * (uint32_t)y->dim[2], (uint32_t)y->dim[3], apart),
    };
    s.tile = least(64, DASS_K_DWPW_TILE / (4 * DASS_K_DWPW_STRIP) >> most_bits);
    s.n_tiles = ceil_div(s.out.n, s.tile);
    s.lane_bits = v == 4 ? bits_for(ceil_div(slice_c, 4)) : 2 + bits_for(ceil_div(slice_c, 4));
    s.group_bits = bits_for(ceil_div(least(n_columns, DASS_K_DWPW_SLICE), 4));
    const uint32_t c_bits = bits_for(ceil_div(slice_c, 4));
    s.swizzle = c_bits < 3 ? 3 - c_bits : 0;
    return s;
}

/* Blocks over tiles: at most `most`, each with as many tiles. */
static uint32_t cut_tiles(dass_k_dwpw_shape *s, uint32_t most)
{
    s->per_block = ceil_div(s->n_tiles, most > 0 ? most : 1);
    return ceil_div(s->n_tiles, s->per_block);
}

static bool by_fours(const dass_value *v)
{
    return dass__cuda_vec4(v, v->dim[1]);
}

/* ---- dwpw: x, in_mean, in_rstd, in_gamma, in_beta, w_dw, w_pw -> y, mean, rstd ---------------------------------- */

static dass_status prepare_dwpw(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    const dass_value *y = dass__cuda_out(g, n, 0);
    const dass_conv_attr *at = &g->nodes[n].attr.conv;
    uint32_t apart = 1;
    const uint32_t v = by_fours(x) && by_fours(y) ? 4 : 1;
    const uint32_t variant = variant_of(at, v, &apart);
    dass_k_dwpw_shape s = shape_of(x, y, at, v, (uint32_t)y->dim[1], apart);
    const uint32_t slices = ceil_div(s.oc, DASS_K_DWPW_SLICE);
    const dass_k_grid grid = {cut_tiles(&s, (uint32_t)c->n_sm * 2 / slices), slices, variant | dass__cuda_stored(x)};
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_dwpw_run, "dwpw", grid, sizeof(dass_k_dwpw), &p));
    dass_k_dwpw *a = p;
    DASS_TRY(dass__cuda_counter(c, k, &a->counter));
    a->s = s;
    a->eps = (float)at->eps;
    k->ws_bytes = (size_t)grid.x * (3 * (size_t)s.oc + 1) * sizeof(float);
    return DASS_OK;
}

static dass_status bind_dwpw(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                             void *ws)
{
    (void)c, (void)g, (void)n;
    dass_k_dwpw *a = dass__cuda_args(impl, 0);
    a->in = (dass_k_norm){args[0], args[1], args[2], args[3], args[4]};
    a->w_dw = args[5];
    a->w_pw = args[6];
    a->y = args[7];
    a->mean = args[8];
    a->rstd = args[9];
    a->part = ws;
    return DASS_OK;
}

/* ---- dwpw_bwd: x, in_mean, in_rstd, in_gamma, in_beta, w_dw, w_pw, y, d, coef, acc -> d_x, in_coef, d_gamma, d_beta,
 * d_wdw, d_wpw ----------------------------------------------------------------------------------------------------- */

enum { IN_X, IN_MEAN, IN_RSTD, IN_GAMMA, IN_BETA, IN_WDW, IN_WPW, IN_Y, IN_D, IN_COEF, IN_ACC, N_IN };
enum { OUT_DX, OUT_COEF, OUT_GAMMA, OUT_BETA, OUT_WDW, OUT_WPW };

/* What a gradient is asked for, how it is staged and where its scratch lies, in floats. */
typedef struct bwd_plan {
    bool inner, d_wdw, d_wpw, sums; /* inner: d_x or sums for a batch norm */
    bool known;                     /* dwpw_inner makes d_wdw too */
    bool wide;                      /* 4 channels to a thread */
    uint32_t blocks_outer, blocks_inner, blocks_taps;
    size_t at_outer, at_inner, at_taps, n_floats; /* dz lies at 0 */
} bwd_plan;

static bool there(const dass_graph *g, dass_node n, uint32_t in)
{
    return dass_node_in(g, n)[in] != 0;
}
static bool wanted(const dass_graph *g, dass_node n, uint32_t out)
{
    return dass_node_out(g, n)[out] != 0;
}

static bool bwd_by_fours(const dass_graph *g, dass_node n)
{
    bool wide = by_fours(dass__cuda_in(g, n, IN_X)) && by_fours(dass__cuda_in(g, n, IN_D));
    if (there(g, n, IN_COEF))
        wide = wide && by_fours(dass__cuda_in(g, n, IN_Y)) && by_fours(dass__cuda_in(g, n, IN_COEF));
    if (there(g, n, IN_ACC))
        wide = wide && by_fours(dass__cuda_in(g, n, IN_ACC));
    if (wanted(g, n, OUT_DX))
        wide = wide && by_fours(dass__cuda_out(g, n, OUT_DX));
    return wide;
}

/* Floats of scratch, in whole 256 bytes. */
static size_t reserve(bwd_plan *b, size_t n)
{
    const size_t at = b->n_floats;
    b->n_floats += (n + 63) / 64 * 64;
    return at;
}

static dass_status add_outer(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                             bwd_plan *b)
{
    const dass_value *x = dass__cuda_in(g, n, IN_X);
    const dass_value *d = dass__cuda_in(g, n, IN_D);
    const dass_conv_attr *at = &g->nodes[n].attr.conv;
    const uint32_t v = b->wide ? 4 : 1;
    uint32_t apart = 1;
    const uint32_t variant = variant_of(at, v, &apart);
    dass_k_dwpw_shape s = shape_of(x, d, at, v, (uint32_t)x->dim[1], apart);
    const uint32_t slices_c = ceil_div(s.c, DASS_K_DWPW_SLICE);
    const uint32_t slices = b->d_wpw ? slices_c * ceil_div(s.oc, DASS_K_DWPW_SLICE) : slices_c;
    uint32_t most = (uint32_t)c->n_sm * 2 / slices;
    if (b->d_wpw) /* partial sums are no larger than dz */
        most = least(most, dass__cuda_pixels(d) / s.oc);
    const dass_k_grid grid = {cut_tiles(&s, most), slices, variant | dass__cuda_stored(x)};
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_dwpw_outer_run, "dwpw_outer", grid, sizeof(dass_k_dwpw_outer), &p));
    dass_k_dwpw_outer *a = p;
    a->s = s;
    const uint32_t oc_bits = bits_for(ceil_div(least(s.oc, DASS_K_DWPW_SLICE), 4));
    a->lane_bits = v == 4 ? oc_bits : oc_bits + 2;
    a->swizzle = oc_bits < 3 ? 3 - oc_bits : 0;
    b->blocks_outer = grid.x;
    b->at_outer = reserve(b, b->d_wpw ? (size_t)grid.x * s.oc * s.c : 0);
    return DASS_OK;
}

/* Lanes of v channels side by side in a warp, and chunks of strips: at least 4 to a thread, two blocks a multiprocessor
 * over all `units` and channel groups. Returns the number of channel groups. */
static uint32_t cut_strips(const dass_cuda *c, uint32_t n_c, uint32_t v, uint32_t n_strips, uint32_t units,
                           uint32_t *tx, uint32_t *chunk)
{
    *tx = 1u << bits_for(least(ceil_div(n_c, v), 64 / v < 32 ? 64 / v : 32));
    const uint32_t groups = ceil_div(n_c, *tx * v);
    const uint32_t most = (uint32_t)c->n_sm * 2 / (groups * units);
    const uint32_t even = ceil_div(n_strips, most > 0 ? most : 1);
    const uint32_t enough = 4 * (256 / *tx);
    *chunk = even > enough ? even : enough;
    return groups;
}

static dass_status add_inner(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                             bwd_plan *b)
{
    const dass_value *x = dass__cuda_in(g, n, IN_X);
    const dass_conv_attr *at = &g->nodes[n].attr.conv;
    const uint32_t v = b->known ? 2 : b->wide ? 4 : 1;
    const uint32_t taps = b->known && b->d_wdw ? (uint32_t)(at->kh * at->kw) : 0;
    const dass_k_strips strips =
        strips_of((uint32_t)x->dim[0] * (uint32_t)x->dim[2], (uint32_t)x->dim[3], b->known ? (uint32_t)at->dil : 1);
    uint32_t tx = 0;
    uint32_t chunk = 0;
    const uint32_t groups = cut_strips(c, (uint32_t)x->dim[1], v, strips.n, 1, &tx, &chunk);
    const dass_k_grid grid = {ceil_div(strips.n, chunk), groups,
                              (b->known ? DASS_K_DWPW(2, at->kh, 1) : DASS_K_DWPW(v, 0, 0)) | dass__cuda_stored(x)};
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_dwpw_inner_run, "dwpw_inner", grid, sizeof(dass_k_dwpw_inner), &p));
    dass_k_dwpw_inner *a = p;
    a->s = shape_of(x, dass__cuda_in(g, n, IN_D), at, 1, 1, 1);
    a->at = strips;
    a->tx = tx;
    a->chunk = chunk;
    a->taps = taps > 0;
    a->period = at->stride / gcd(at->stride, at->dil);
    a->backward = at->dil / gcd(at->stride, at->dil);
    b->blocks_inner = grid.x;
    b->at_inner = reserve(b, b->sums || taps > 0 ? (size_t)grid.x * (2 + taps) * a->s.c : 0);
    return DASS_OK;
}

static dass_status add_taps(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                            bwd_plan *b)
{
    const dass_value *x = dass__cuda_in(g, n, IN_X);
    const dass_conv_attr *at = &g->nodes[n].attr.conv;
    const uint32_t v = b->wide ? 4 : 1;
    uint32_t apart = 1;
    const uint32_t variant = variant_of(at, v, &apart);
    const dass_k_dwpw_shape s = shape_of(x, dass__cuda_in(g, n, IN_D), at, v, 1, apart);
    const uint32_t units = (uint32_t)(variant == DASS_K_DWPW(v, 0, 0) ? at->kh * at->kw : at->kh);
    uint32_t tx = 0;
    uint32_t chunk = 0;
    const uint32_t groups = cut_strips(c, s.c, v, s.out.n, units, &tx, &chunk);
    const dass_k_grid grid = {ceil_div(s.out.n, chunk), groups * units, variant | dass__cuda_stored(x)};
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_dwpw_taps_run, "dwpw_taps", grid, sizeof(dass_k_dwpw_taps), &p));
    dass_k_dwpw_taps *a = p;
    a->s = s;
    a->tx = tx;
    a->chunk = chunk;
    a->groups = groups;
    b->blocks_taps = grid.x;
    b->at_taps = reserve(b, (size_t)grid.x * (size_t)(at->kh * at->kw) * s.c);
    return DASS_OK;
}

static dass_status add_finish(dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k, const bwd_plan *b)
{
    const dass_value *x = dass__cuda_in(g, n, IN_X);
    const dass_conv_attr *at = &g->nodes[n].attr.conv;
    const uint32_t n_c = (uint32_t)x->dim[1];
    const uint32_t n_oc = (uint32_t)dass__cuda_in(g, n, IN_D)->dim[1];
    const uint32_t taps = (uint32_t)(at->kh * at->kw);
    const uint32_t blocks_pw = b->d_wpw ? ceil_div(n_oc * n_c, 32) : 0;
    const uint32_t blocks_dw = b->d_wdw ? ceil_div(taps * n_c, 32) : 0;
    const dass_k_grid grid = {blocks_pw + blocks_dw + (b->sums ? ceil_div(n_c, 32) : 0), 1, 0};
    if (grid.x == 0)
        return DASS_OK;
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_dwpw_finish_run, "dwpw_finish", grid, sizeof(dass_k_dwpw_finish), &p));
    dass_k_dwpw_finish *a = p;
    const bool with_taps = b->known && b->d_wdw;
    a->c = n_c;
    a->oc = n_oc;
    a->taps = taps;
    a->m = dass__cuda_pixels(x);
    a->blocks_pw = blocks_pw;
    a->blocks_dw = blocks_dw;
    a->n_pw = b->blocks_outer;
    a->n_sums = b->blocks_inner;
    a->at_sums = (2 + (with_taps ? taps : 0)) * n_c;
    a->n_dw = b->known ? b->blocks_inner : b->blocks_taps;
    a->at_dw = b->known ? a->at_sums : taps * n_c;
    return DASS_OK;
}

static dass_status prepare_dwpw_bwd(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, IN_X);
    const dass_conv_attr *at = &g->nodes[n].attr.conv;
    bwd_plan *b = dass_arena_alloc(mem, sizeof *b);
    if (b == NULL)
        return DASS_NOMEM;
    dass__cuda_impl_of(k)->own = b;
    b->d_wdw = wanted(g, n, OUT_WDW);
    b->d_wpw = wanted(g, n, OUT_WPW);
    b->sums = there(g, n, IN_MEAN) && (wanted(g, n, OUT_COEF) || wanted(g, n, OUT_GAMMA) || wanted(g, n, OUT_BETA));
    b->inner = wanted(g, n, OUT_DX) || b->sums;
    b->wide = bwd_by_fours(g, n);
    b->known = b->wide && at->stride == 1 && at->kh == at->kw && (at->kh == 3 || at->kh == 5);
    if (b->inner || b->d_wdw)
        (void)reserve(b, (size_t)dass__cuda_pixels(dass__cuda_in(g, n, IN_D)) * (size_t)x->dim[1]);
    DASS_TRY(add_outer(c, mem, g, n, k, b));
    if (b->inner || (b->known && b->d_wdw))
        DASS_TRY(add_inner(c, mem, g, n, k, b));
    if (!b->known && b->d_wdw)
        DASS_TRY(add_taps(c, mem, g, n, k, b));
    DASS_TRY(add_finish(mem, g, n, k, b));
    k->ws_bytes = b->n_floats * sizeof(float);
    return DASS_OK;
}

static dass_status bind_dwpw_bwd(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                 void *const *args, void *ws)
{
    (void)c, (void)g, (void)n;
    const bwd_plan *b = impl->own;
    void *const *out = args + N_IN;
    float *const dz = b->inner || b->d_wdw ? ws : NULL;
    const dass_k_norm in = {args[IN_X], args[IN_MEAN], args[IN_RSTD], args[IN_GAMMA], args[IN_BETA]};
    uint32_t stage = 0;
    dass_k_dwpw_outer *outer = dass__cuda_args(impl, stage++);
    outer->in = in;
    outer->w_dw = args[IN_WDW];
    outer->w_pw = args[IN_WPW];
    outer->y = args[IN_Y];
    outer->d = args[IN_D];
    outer->coef = args[IN_COEF];
    outer->dz = dz;
    outer->part = b->d_wpw ? (float *)ws + b->at_outer : NULL;
    float *of_sums = NULL;
    float *of_dw = NULL;
    if (b->blocks_inner > 0) {
        dass_k_dwpw_inner *a = dass__cuda_args(impl, stage++);
        of_sums = b->sums || a->taps ? (float *)ws + b->at_inner : NULL;
        of_dw = a->taps ? of_sums + 2 * (size_t)a->s.c : NULL;
        a->in = in;
        a->w_dw = args[IN_WDW];
        a->dz = dz;
        a->acc = args[IN_ACC];
        a->d_x = out[OUT_DX];
        a->part = of_sums;
    }
    if (b->blocks_taps > 0) {
        dass_k_dwpw_taps *a = dass__cuda_args(impl, stage++);
        of_dw = (float *)ws + b->at_taps;
        a->in = in;
        a->dz = dz;
        a->part = of_dw;
    }
    if (stage == impl->n_stages)
        return DASS_OK;
    dass_k_dwpw_finish *a = dass__cuda_args(impl, stage);
    a->in = in;
    a->of_pw = outer->part;
    a->of_dw = of_dw;
    a->of_sums = of_sums;
    a->d_wpw = out[OUT_WPW];
    a->d_wdw = out[OUT_WDW];
    a->in_coef = out[OUT_COEF];
    a->d_gamma = out[OUT_GAMMA];
    a->d_beta = out[OUT_BETA];
    return DASS_OK;
}

#define ROW(OP, fn)                                                                 \
    {                                                                               \
        .op = DASS_OP_##OP, .name = #fn, .prepare = prepare_##fn, .bind = bind_##fn \
    }
const dass__cuda_row dass__cuda_rows_dwpw[] = {
    ROW(DWPW, dwpw),
    ROW(DWPW_BWD, dwpw_bwd),
    {.op = DASS_OP_NONE},
};
