/* Rows of the ops on flat buffers over kernels/flat.h, mask.h and optim.h. What a thread takes at once is decided by
 * the places of the values in their buffers; lengths may be anything.
 */
#include "cuda.h"
#include "dass/bf16.h"
#include "dass/mem.h"
#include "kernels/flat.h"
#include "kernels/mask.h"
#include "kernels/optim.h"

/* Nodes whose real values all hold as many entries as output 0: V4 when all of them begin at 16 bytes. Others among the
 * inputs (the step block, a norm, bits) are read one at a time, or by words. */
static dass_status add_flat(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k,
                            dass_k_launcher fn, const char *name, uint32_t bytes)
{
    const int64_t count = dass_value_count(dass__cuda_out(g, n, 0));
    bool wide = true;
    for (uint32_t i = 0; i < g->nodes[n].n_in; i++) {
        const dass_value *v = dass__cuda_in(g, n, i);
        if (dass_node_in(g, n)[i] != 0 && v->dtype == DASS_F32 && dass_value_count(v) == count)
            wide = wide && dass__cuda_vec4(v, 0);
    }
    for (uint32_t i = 0; i < g->nodes[n].n_out; i++)
        wide = wide && dass__cuda_vec4(dass__cuda_out(g, n, i), 0);
    const uint64_t per_thread = wide ? 4 : 1;
    const dass_k_grid grid =
        dass__cuda_flat_grid(c, ((uint64_t)count + per_thread - 1) / per_thread, wide ? DASS_K_V4 : DASS_K_V1);
    void *args = NULL;
    return dass__cuda_add(mem, k, fn, name, grid, bytes, &args);
}

static size_t count_of(const dass_graph *g, dass_node n)
{
    return (size_t)dass_value_count(dass__cuda_out(g, n, 0));
}

#define BIND(fn)                                                                                        \
    static dass_status bind_##fn(dass_cuda *c, const dass_graph *g, dass_node n, dass__cuda_impl *impl, \
                                 void *const *args, void *ws)
#define PREPARE_FLAT(fn)                                                                                             \
    static dass_status prepare_##fn(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k) \
    {                                                                                                                \
        return add_flat(c, mem, g, n, k, dass_k_##fn##_run, #fn, sizeof(dass_k_##fn));                               \
    }

/* ---- fill and copy ----------------------------------------------------------------------------------------------- */

static uint32_t access_of(const dass_value *v)
{
    if (v->buf == 0)
        return DASS_K_B16;
    const int64_t first = v->dtype == DASS_BITS ? v->offset / 8 : v->offset * (int64_t)dass_dtype_bytes(v->dtype);
    return first % 16 == 0 ? DASS_K_B16 : first % 4 == 0 ? DASS_K_B4 : DASS_K_B1;
}

static dass_k_grid bytes_grid(const dass_cuda *c, size_t bytes, uint32_t width)
{
    return dass__cuda_flat_grid(c, (bytes + width - 1) / width, width);
}

/* The four bytes that a fill repeats. */
static uint32_t word_of(dass_dtype dtype, double value)
{
    union {
        float f;
        int32_t i;
        uint32_t word;
    } u = {.word = 0};
    if (dtype == DASS_BITS)
        return value != 0 ? ~0u : 0u;
    if (dtype == DASS_U8)
        return (uint8_t)value * 0x01010101u;
    if (dtype == DASS_I32)
        u.i = (int32_t)value;
    else if (dtype == DASS_BF16)
        u.word = dass_bf16_of((float)value) * 0x00010001u;
    else
        u.f = (float)value;
    return u.word;
}

static dass_status prepare_fill(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *v = dass__cuda_out(g, n, 0);
    const size_t bytes = dass_value_bytes(v);
    void *p = NULL;
    DASS_TRY(
        dass__cuda_add(mem, k, dass_k_fill_run, "fill", bytes_grid(c, bytes, access_of(v)), sizeof(dass_k_fill), &p));
    dass_k_fill *a = p;
    a->n = bytes;
    a->word = word_of(v->dtype, g->nodes[n].attr.scalar.value);
    return DASS_OK;
}

BIND(fill)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_fill *a = dass__cuda_args(impl, 0);
    a->dst = args[0];
    return DASS_OK;
}

/* ---- cast -------------------------------------------------------------------------------------------------------- */

static dass_status prepare_copy(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k);

dass_status dass__cuda_add_cast(dass_cuda *c, dass_arena *mem, dass_kernel *k, int64_t n, bool wide, dass_dtype to)
{
    const uint32_t v = (wide ? DASS_K_V4 : DASS_K_V1) | (to == DASS_BF16 ? DASS_K_BF16 : 0);
    const uint64_t threads = ((uint64_t)n + 3) / dass__cuda_width(v);
    void *p = NULL;
    DASS_TRY(
        dass__cuda_add(mem, k, dass_k_cast_run, "cast", dass__cuda_flat_grid(c, threads, v), sizeof(dass_k_cast), &p));
    ((dass_k_cast *)p)->n = (size_t)n;
    return DASS_OK;
}

static dass_status prepare_cast(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const dass_value *x = dass__cuda_in(g, n, 0);
    const dass_value *y = dass__cuda_out(g, n, 0);
    if (x->dtype == y->dtype)
        return prepare_copy(c, mem, g, n, k);
    return dass__cuda_add_cast(c, mem, k, dass_value_count(y), dass__cuda_vec4(x, 0) && dass__cuda_vec4(y, 0),
                               y->dtype);
}

BIND(cast)
{
    (void)c, (void)ws;
    if (dass__cuda_in(g, n, 0)->dtype == dass__cuda_out(g, n, 0)->dtype) {
        dass_k_copy *copy = dass__cuda_args(impl, 0);
        copy->src = args[0];
        copy->dst = args[1];
        return DASS_OK;
    }
    dass_k_cast *a = dass__cuda_args(impl, 0);
    a->x = args[0];
    a->y = args[1];
    return DASS_OK;
}

static dass_status prepare_copy(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    const uint32_t of_src = access_of(dass__cuda_in(g, n, 0));
    const uint32_t of_dst = access_of(dass__cuda_out(g, n, 0));
    const size_t bytes = dass_value_bytes(dass__cuda_out(g, n, 0));
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_copy_run, "copy", bytes_grid(c, bytes, of_src < of_dst ? of_src : of_dst),
                            sizeof(dass_k_copy), &p));
    dass_k_copy *a = p;
    a->n = bytes;
    return DASS_OK;
}

BIND(copy)
{
    (void)c, (void)g, (void)n, (void)ws;
    dass_k_copy *a = dass__cuda_args(impl, 0);
    a->src = args[0];
    a->dst = args[1];
    return DASS_OK;
}

/* ---- norm2 ------------------------------------------------------------------------------------------------------- */

static dass_status prepare_norm2(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    dass_k_grid grid = {.x = 0, .y = 1, .variant = DASS_K_V4};
    uint32_t blocks[4] = {0};
    size_t count[4] = {0};
    DASS_ASSERT(g->nodes[n].n_in <= 4);
    for (uint32_t i = 0; i < g->nodes[n].n_in; i++) {
        const dass_value *v = dass__cuda_in(g, n, i);
        if (dass_node_in(g, n)[i] == 0)
            continue;
        count[i] = (size_t)dass_value_count(v);
        blocks[i] = (uint32_t)((count[i] + DASS_K_NORM2_CHUNK - 1) / DASS_K_NORM2_CHUNK);
        grid.x += blocks[i];
        if (!dass__cuda_vec4(v, 0))
            grid.variant = DASS_K_V1;
    }
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_norm2_run, "norm2", grid, sizeof(dass_k_norm2), &p));
    dass_k_norm2 *a = p;
    for (int i = 0; i < 4; i++) {
        a->n[i] = count[i];
        a->blocks[i] = blocks[i];
    }
    k->ws_bytes = grid.x * sizeof(double);
    return dass__cuda_counter(c, k, &a->counter);
}

BIND(norm2)
{
    (void)c;
    dass_k_norm2 *a = dass__cuda_args(impl, 0);
    for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
        a->x[i] = args[i];
    a->dst = args[g->nodes[n].n_in];
    a->part = ws;
    return DASS_OK;
}

/* ---- mask: selection --------------------------------------------------------------------------------------------- */

/* The tables of a node, one after another in device memory in this order, and in scratch. */
typedef struct threshold {
    uint32_t n_long, n_small, n_chunks;
    size_t table_bytes;
    dass_k_mask_segment *long_segment, *small_segment;
    dass_k_mask_chunk *chunk;
} threshold;

/* A segment that keeps nothing needs no selection: it is taken apart into small ones. */
static bool is_long(const dass_segment *s)
{
    return s->kept > 0 && s->count > DASS_K_MASK_SMALL;
}

static uint32_t pieces(int64_t count, int64_t of)
{
    return (uint32_t)((count + of - 1) / of);
}

static void count_tables(const dass_mask_attr *m, threshold *t)
{
    for (int64_t i = 0; i < m->n_segments; i++) {
        const dass_segment *s = &m->segments[i];
        if (s->kept == s->count) /* its bits are set from the start */
            continue;
        t->n_long += is_long(s);
        t->n_chunks += is_long(s) ? pieces(s->count, DASS_K_MASK_CHUNK) : 0;
        t->n_small += is_long(s) ? 0 : pieces(s->count, DASS_K_MASK_SMALL);
    }
    t->table_bytes = (size_t)(t->n_long + t->n_small) * sizeof(dass_k_mask_segment) +
                     (size_t)t->n_chunks * sizeof(dass_k_mask_chunk);
}

static void fill_tables(const dass_mask_attr *m, const threshold *t)
{
    uint32_t at_long = 0;
    uint32_t at_small = 0;
    uint32_t at_chunk = 0;
    for (int64_t i = 0; i < m->n_segments; i++) {
        const dass_segment *s = &m->segments[i];
        if (s->kept == s->count)
            continue;
        const int64_t step = is_long(s) ? DASS_K_MASK_CHUNK : DASS_K_MASK_SMALL;
        if (is_long(s))
            t->long_segment[at_long++] = (dass_k_mask_segment){.offset = (uint32_t)s->offset,
                                                               .count = (uint32_t)s->count,
                                                               .kept = (uint32_t)s->kept,
                                                               .first = at_chunk,
                                                               .n_chunks = pieces(s->count, DASS_K_MASK_CHUNK)};
        for (int64_t from = 0; from < s->count; from += step) {
            const int64_t here = s->count - from < step ? s->count - from : step;
            const uint32_t begin = (uint32_t)(s->offset + from);
            if (is_long(s))
                t->chunk[at_chunk++] = (dass_k_mask_chunk){begin, begin + (uint32_t)here, at_long - 1};
            else
                t->small_segment[at_small++] =
                    (dass_k_mask_segment){.offset = begin, .count = (uint32_t)here, .kept = (uint32_t)s->kept};
        }
    }
}

static dass_status make_tables(dass_arena *mem, const dass_mask_attr *m, threshold **out)
{
    threshold *t = dass_arena_alloc(mem, sizeof *t);
    if (t == NULL)
        return DASS_NOMEM;
    count_tables(m, t);
    t->long_segment = dass_arena_alloc(mem, t->table_bytes > 0 ? t->table_bytes : 1);
    if (t->long_segment == NULL)
        return DASS_NOMEM;
    t->small_segment = t->long_segment + t->n_long;
    t->chunk = (dass_k_mask_chunk *)(t->small_segment + t->n_small);
    fill_tables(m, t);
    *out = t;
    return DASS_OK;
}

static dass_status add_long_stages(dass_arena *mem, dass_kernel *k, const threshold *t)
{
    static const struct {
        dass_k_launcher fn;
        const char *name;
        uint32_t digit;
    } stages[] = {{dass_k_mask_count_run, "mask_count", 0},
                  {dass_k_mask_count_run, "mask_count", 1},
                  {dass_k_mask_count_run, "mask_count", 2},
                  {dass_k_mask_ties_run, "mask_ties", 0},
                  {dass_k_mask_clear_run, "mask_clear", 0}};
    for (size_t i = 0; i < sizeof stages / sizeof stages[0]; i++) {
        void *p = NULL;
        DASS_TRY(dass__cuda_add(mem, k, stages[i].fn, stages[i].name, (dass_k_grid){t->n_chunks, 1, 0},
                                sizeof(dass_k_mask_long), &p));
        ((dass_k_mask_long *)p)->digit = stages[i].digit;
    }
    return DASS_OK;
}

static dass_status prepare_mask_threshold(dass_cuda *c, dass_arena *mem, const dass_graph *g, dass_node n,
                                          dass_kernel *k)
{
    threshold *t = NULL;
    DASS_TRY(make_tables(mem, &g->nodes[n].attr.mask, &t));
    dass__cuda_impl_of(k)->own = t;
    const size_t words = dass_value_bytes(dass__cuda_out(g, n, 0)) / 4;
    const size_t state_bytes = t->n_long * sizeof(dass_k_mask_state);
    const size_t most = words > state_bytes / 4 ? words : state_bytes / 4;
    void *p = NULL;
    DASS_TRY(dass__cuda_add(mem, k, dass_k_mask_start_run, "mask_start", dass__cuda_flat_grid(c, most, 0),
                            sizeof(dass_k_mask_start), &p));
    dass_k_mask_start *a = p;
    a->n = (uint32_t)dass_value_count(dass__cuda_in(g, n, 0));
    a->n_words = (uint32_t)words;
    a->n_zero = (uint32_t)(state_bytes / 4);
    k->ws_bytes = state_bytes + t->n_chunks * sizeof(uint32_t);
    if (t->n_small > 0)
        DASS_TRY(dass__cuda_add(mem, k, dass_k_mask_small_run, "mask_small", (dass_k_grid){t->n_small, 1, 0},
                                sizeof(dass_k_mask_small), &p));
    return t->n_long > 0 ? add_long_stages(mem, k, t) : DASS_OK;
}

BIND(mask_threshold)
{
    (void)g, (void)n;
    const threshold *t = impl->own;
    dass_k_mask_start *start = dass__cuda_args(impl, 0);
    start->bits = args[1];
    start->zero = ws;
    if (t->table_bytes == 0)
        return DASS_OK;
    const void *table = NULL;
    DASS_TRY(dass__cuda_table(c, impl, t->long_segment, t->table_bytes, &table));
    const dass_k_mask_segment *long_segments = table;
    const dass_k_mask_segment *small_segments = long_segments + t->n_long;
    uint32_t s = 1;
    if (t->n_small > 0) {
        dass_k_mask_small *a = dass__cuda_args(impl, s++);
        a->scores = args[0];
        a->bits = args[1];
        a->segments = small_segments;
    }
    for (; s < impl->n_stages; s++) {
        dass_k_mask_long *a = dass__cuda_args(impl, s);
        a->scores = args[0];
        a->bits = args[1];
        a->segments = long_segments;
        a->chunks = (const dass_k_mask_chunk *)(small_segments + t->n_small);
        a->state = ws;
        a->ties = (uint32_t *)((dass_k_mask_state *)ws + t->n_long);
    }
    return DASS_OK;
}

/* ---- mask: application ------------------------------------------------------------------------------------------- */

PREPARE_FLAT(mask_apply)
BIND(mask_apply)
{
    (void)c, (void)ws;
    dass_k_mask_apply *a = dass__cuda_args(impl, 0);
    a->x = args[0];
    a->bits = args[1];
    a->dst = args[2];
    a->n = count_of(g, n);
    return DASS_OK;
}

PREPARE_FLAT(mask_scores)
BIND(mask_scores)
{
    (void)c, (void)ws;
    dass_k_mask_scores *a = dass__cuda_args(impl, 0);
    a->d = args[0];
    a->weights = args[1];
    a->scores = args[2];
    a->dst = args[3];
    a->n = count_of(g, n);
    return DASS_OK;
}

/* ---- optimisers -------------------------------------------------------------------------------------------------- */

PREPARE_FLAT(sgd)
BIND(sgd)
{
    (void)c, (void)ws;
    dass_k_sgd *a = dass__cuda_args(impl, 0);
    a->theta = args[0];
    a->m = args[1];
    a->grad = args[2];
    a->step = args[3];
    a->norm2 = args[4];
    a->bits = args[5];
    a->theta_out = args[6];
    a->m_out = args[7];
    a->n = count_of(g, n);
    a->group = (uint32_t)g->nodes[n].attr.scalar.i;
    return DASS_OK;
}

PREPARE_FLAT(adam)
BIND(adam)
{
    (void)c, (void)ws;
    dass_k_adam *a = dass__cuda_args(impl, 0);
    a->theta = args[0];
    a->m = args[1];
    a->v = args[2];
    a->grad = args[3];
    a->step = args[4];
    a->theta_out = args[5];
    a->m_out = args[6];
    a->v_out = args[7];
    a->n = count_of(g, n);
    a->group = (uint32_t)g->nodes[n].attr.scalar.i;
    return DASS_OK;
}

PREPARE_FLAT(ema)
BIND(ema)
{
    (void)c, (void)ws;
    dass_k_ema *a = dass__cuda_args(impl, 0);
    a->avg = args[0];
    a->x = args[1];
    a->step = args[2];
    a->avg_out = args[3];
    a->n = count_of(g, n);
    return DASS_OK;
}

PREPARE_FLAT(unroll)
BIND(unroll)
{
    (void)c, (void)ws;
    dass_k_unroll *a = dass__cuda_args(impl, 0);
    a->saved = args[0];
    a->m = args[1];
    a->grad = args[2];
    a->step = args[3];
    a->bits = args[4];
    a->dst = args[5];
    a->n = count_of(g, n);
    a->group = (uint32_t)g->nodes[n].attr.scalar.i;
    return DASS_OK;
}

PREPARE_FLAT(shift)
BIND(shift)
{
    (void)c, (void)ws;
    dass_k_shift *a = dass__cuda_args(impl, 0);
    a->saved = args[0];
    a->v = args[1];
    a->norm2 = args[2];
    a->dst = args[3];
    a->n = count_of(g, n);
    a->length = g->nodes[n].attr.scalar.i * DASS_SHIFT_LENGTH;
    return DASS_OK;
}

PREPARE_FLAT(hvp)
BIND(hvp)
{
    (void)c, (void)ws;
    dass_k_hvp *a = dass__cuda_args(impl, 0);
    a->d_alpha = args[0];
    a->p = args[1];
    a->q = args[2];
    a->norm2 = args[3];
    a->step = args[4];
    a->dst = args[5];
    a->n = count_of(g, n);
    a->length = DASS_SHIFT_LENGTH;
    return DASS_OK;
}

#define ROW(OP, fn)                                                                 \
    {                                                                               \
        .op = DASS_OP_##OP, .name = #fn, .prepare = prepare_##fn, .bind = bind_##fn \
    }
const dass__cuda_row dass__cuda_rows_flat[] = {
    ROW(FILL, fill),
    ROW(COPY, copy),
    ROW(CAST, cast),
    ROW(NORM2, norm2),
    ROW(MASK_THRESHOLD, mask_threshold),
    ROW(MASK_APPLY, mask_apply),
    ROW(MASK_BWD_WEIGHTS, mask_apply),
    ROW(MASK_BWD_SCORES, mask_scores),
    ROW(SGD, sgd),
    ROW(ADAM, adam),
    ROW(EMA, ema),
    ROW(UNROLL, unroll),
    ROW(SHIFT, shift),
    ROW(HVP, hvp),
    {.op = DASS_OP_NONE},
};
