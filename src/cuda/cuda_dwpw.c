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
    const dass_k_grid grid = {cut_tiles(&s, (uint32_t)c->n_sm * 2 / slices), slices, variant};
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_dwpw_run, "dwpw", grid, sizeof(dass_k_dwpw), &p));
    dass_k_dwpw *a = p;
    DASS_TRY(dass__cuda_counter(c, k, &a->counter));
    a->s = s;
    a->eps = (float)at->eps;
    k->ws_bytes = (size_t)grid.x * (2 * (size_t)s.oc + 1) * sizeof(float);
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

#define ROW(OP, fn)                                                                 \
    {                                                                               \
        .op = DASS_OP_##OP, .name = #fn, .prepare = prepare_##fn, .bind = bind_##fn \
    }
const dass__cuda_row dass__cuda_rows_dwpw[] = {
    ROW(DWPW, dwpw),
    {.op = DASS_OP_NONE},
};
