/* Rows of depthwise convolutions (one input channel to an output channel) over kernels/depthwise.h: forward, gradient
 * of the input, gradient of the taps. Strides 1 and 2, square kernels up to 7x7, any dilation; other shapes are left to
 * the rows behind. Shapes are fixed in prepare, pointers in bind.
 */
#include "cuda.h"

#include "kernels/depthwise.h"

enum { THREADS = 256, RUNS_A_THREAD = 4 }; /* RUNS_A_THREAD: at least, in the gradient of the taps */

static bool is_depthwise(const dass_graph *g, dass_node n, const dass_value *x, const dass_value *y)
{
    const dass_conv_attr *a = &g->nodes[n].attr.conv;
    return a->groups == x->dim[1] && x->dim[1] == y->dim[1] && a->kh == a->kw && a->kh <= DASS_K_DW_MAX &&
           a->stride <= 2;
}

/* Threads side by side over channels and the number of such groups, as equal as can be. */
static uint32_t lanes_of(uint32_t c, uint32_t v, uint32_t *groups)
{
    const uint32_t lanes = (c + v - 1) / v;
    *groups = (lanes + DASS_K_DW_LANES - 1) / DASS_K_DW_LANES;
    return (lanes + *groups - 1) / *groups;
}

/* From x (n, c, h, w) to y, both of one type, by attributes a. Returns the variant: the window's, or that of
 * DASS_K_DW_ANY for one output to a thread. */
static uint32_t map_of(const dass_conv_attr *a, const dass_value *x, const dass_value *y, bool wide, dass_k_dw_map *m,
                       uint32_t *groups)
{
    *m = (dass_k_dw_map){.n = x->dim[0],
                         .c = x->dim[1],
                         .h = x->dim[2],
                         .w = x->dim[3],
                         .oh = y->dim[2],
                         .ow = y->dim[3],
                         .kh = a->kh,
                         .kw = a->kw,
                         .stride = a->stride,
                         .pad = a->pad,
                         .dil = a->dil,
                         .step = 1,
                         .unit = a->dil,
                         .runs = (uint32_t)y->dim[3]};
    wide = wide && (a->kh == 3 || a->kh == 5 || a->kh == 7);
    m->tx = lanes_of((uint32_t)m->c, wide ? 4 : 1, groups);
    if (!wide)
        return DASS_K_DW_ANY | dass__cuda_stored(x);
    const bool shares = a->dil % a->stride == 0;
    m->step = shares ? a->dil / a->stride : a->dil;
    const uint32_t span = DASS_K_DW_RUN * (uint32_t)m->step;
    m->runs = ((uint32_t)m->ow + span - 1) / span * (uint32_t)m->step;
    return DASS_K_DW(a->kh, shares ? 1 : a->stride) | dass__cuda_stored(x);
}

/* Blocks of THREADS / tx units of work in x: at most two waves at three blocks to a multiprocessor. */
static dass_k_grid grid_of(const dass_cuda *c, uint64_t units, uint32_t tx, uint32_t groups, uint32_t variant)
{
    const uint64_t rows = THREADS / tx;
    const uint64_t most = ((uint64_t)c->n_sm * 6 + groups - 1) / groups;
    const uint64_t blocks = (units + rows - 1) / rows;
    return (dass_k_grid){(uint32_t)(blocks > most ? most : blocks), groups, variant};
}

static bool both_wide(const dass_value *x, const dass_value *y)
{
    return dass__cuda_vec4(x, x->dim[1]) && dass__cuda_vec4(y, y->dim[1]);
}

/* ---- forward: x, w, bias -> y ------------------------------------------------------------------------------------ */

static bool fits_forward(const dass_cuda *c, const dass_graph *g, dass_node n)
{
    (void)c;
    return is_depthwise(g, n, dass__cuda_in(g, n, 0), dass__cuda_out(g, n, 0));
}

static dass_status add_forward(dass_cuda *c, dass_arena *mem, dass_kernel *k, const dass_conv_attr *at,
                               const dass_value *x, const dass_value *y, const char *name, bool mirror)
{
    dass_k_dw_map m;
    uint32_t groups = 0;
    const uint32_t variant = map_of(at, x, y, both_wide(x, y), &m, &groups);
    const uint64_t n_runs = (uint64_t)m.n * (uint64_t)m.oh * m.runs;
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_dw_forward_run, name, grid_of(c, n_runs, m.tx, groups, variant),
                            sizeof(dass_k_dw_forward), &p));
    dass_k_dw_forward *a = p;
    a->m = m;
    a->mirror = mirror;
    a->load = at->relu; /* a gradient's are none */
    a->act = at->act;
    return DASS_OK;
}

static dass_status prepare_forward(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    return add_forward(c, mem, k, &g->nodes[n].attr.conv, dass__cuda_in(g, n, 0), dass__cuda_out(g, n, 0), "depthwise",
                       false);
}

static dass_status bind_forward(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl,
                                void *const *args, void *ws)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_dw_forward *a = dass__cuda_args(impl, 0);
    a->x = args[0];
    a->w = args[1];
    a->bias = args[2];
    a->y = args[3];
    return DASS_OK;
}

/* ---- gradient of the input: d_y, w -> d_x ------------------------------------------------------------------------ */

static bool fits_data(const dass_cuda *c, const dass_graph *g, dass_node n)
{
    (void)c;
    return is_depthwise(g, n, dass__cuda_out(g, n, 0), dass__cuda_in(g, n, 0));
}

static dass_status prepare_data(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    dass_conv_attr at = g->nodes[n].attr.conv;
    const dass_value *d_y = dass__cuda_in(g, n, 0);
    const dass_value *d_x = dass__cuda_out(g, n, 0);
    if (at.stride == 1) { /* d_y convolved with the mirrored taps */
        at.pad = (at.kh - 1) * at.dil - at.pad;
        return add_forward(c, mem, k, &at, d_y, d_x, "depthwise_bwd_data", true);
    }
    dass_k_dw_map m;
    uint32_t groups = 0;
    const bool wide = both_wide(d_x, d_y);
    (void)map_of(&at, d_x, d_y, wide, &m, &groups);
    m.tx = lanes_of((uint32_t)m.c, wide ? 4 : 1, &groups);
    void *p = NULL;
    const uint32_t variant = (wide ? DASS_K_V4 : DASS_K_V1) | dass__cuda_stored(d_y);
    DASS_TRY(dass__cuda_add(mem, k, dass_k_dw_data_run, "depthwise_bwd_data",
                            grid_of(c, dass__cuda_pixels(d_x), m.tx, groups, variant), sizeof(dass_k_dw_data), &p));
    ((dass_k_dw_data *)p)->m = m;
    return DASS_OK;
}

static dass_status bind_data(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                             void *ws)
{
    (void)c, (void)ws;
    if (g->nodes[n].attr.conv.stride == 1) {
        dass_k_dw_forward *a = dass__cuda_args(impl, 0);
        a->x = args[0];
        a->w = args[1];
        a->y = args[2];
    } else {
        dass_k_dw_data *a = dass__cuda_args(impl, 0);
        a->d_y = args[0];
        a->w = args[1];
        a->d_x = args[2];
    }
    return DASS_OK;
}

/* ---- gradient of the taps: x, d_y -> d_w ------------------------------------------------------------------------- */

static bool fits_taps(const dass_cuda *c, const dass_graph *g, dass_node n)
{
    (void)c;
    return is_depthwise(g, n, dass__cuda_in(g, n, 0), dass__cuda_in(g, n, 1));
}

/* Three blocks to a multiprocessor over all channel groups; few enough that a chunk's partial sums, one per tap, are
 * little against what the chunk reads. */
static dass_k_grid taps_grid(const dass_cuda *c, const dass_k_dw_map *m, uint32_t groups, uint32_t variant,
                             uint32_t *chunk)
{
    const uint32_t n_runs = (uint32_t)m->n * (uint32_t)m->oh * m->runs;
    const uint32_t least = RUNS_A_THREAD * (THREADS / (m->tx * (uint32_t)m->kh));
    uint32_t n_chunks = (uint32_t)c->n_sm * 3 / groups;
    const uint32_t most = (n_runs + least - 1) / least;
    n_chunks = n_chunks > most ? most : n_chunks;
    n_chunks = n_chunks < 1 ? 1 : n_chunks;
    *chunk = (n_runs + n_chunks - 1) / n_chunks;
    return (dass_k_grid){(n_runs + *chunk - 1) / *chunk, groups, variant};
}

static dass_status prepare_taps(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    const dass_value *d_y = dass__cuda_in(g, n, 1);
    dass_k_dw_map m;
    uint32_t groups = 0;
    uint32_t chunk = 0;
    const uint32_t variant = map_of(&g->nodes[n].attr.conv, x, d_y, both_wide(x, d_y), &m, &groups);
    const dass_k_grid grid = taps_grid(c, &m, groups, variant, &chunk);
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_dw_taps_run, "depthwise_bwd_weights", grid, sizeof(dass_k_dw_taps), &p));
    dass_k_dw_taps *a = p;
    DASS_TRY(dass__cuda_counter(c, k, &a->counter));
    a->m = m;
    a->chunk = chunk;
    k->ws_bytes = (size_t)grid.x * (size_t)(m.kh * m.kw) * (size_t)m.c * sizeof(float);
    return DASS_OK;
}

static dass_status bind_taps(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, void *const *args,
                             void *ws)
{
    (void)c, (void)g, (void)n;
    dass_k_dw_taps *a = dass__cuda_args(impl, 0);
    a->x = args[0];
    a->d_y = args[1];
    a->d_w = args[2];
    a->part = ws;
    return DASS_OK;
}

#define ROW(OP, fn, text)                                                                               \
    {                                                                                                   \
        .op = DASS_OP_##OP, .name = text, .fits = fits_##fn, .prepare = prepare_##fn, .bind = bind_##fn \
    }
const dass__cuda_row dass__cuda_rows_depthwise[] = {
    ROW(CONV, forward, "depthwise"),
    ROW(CONV_BWD_DATA, data, "depthwise_bwd_data"),
    ROW(CONV_BWD_WEIGHTS, taps, "depthwise_bwd_weights"),
    {.op = DASS_OP_NONE},
};
