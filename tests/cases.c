/* Case graphs: their inputs and outputs in numbered buffers, what the inputs hold, and one run on a
 * backend. The cases themselves are in cases_list.c. Everything here is deterministic.
 */
#include "cases.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "dass/rng.h"

/* ---- inputs and outputs ------------------------------------------------------------- */

/* Activations start at multiples of 16 elements, as in the arena; weights, vectors and bytes at odd
 * offsets, as they do inside flat parameter groups, unless the case says otherwise. */
static int64_t next_offset(case_graph *cg, dass_buf buf, dass_layout layout, dass_dtype dtype)
{
    const int64_t unit = dtype == DASS_BITS ? 64 : 16;
    const int64_t start = (cg->used[buf] + unit - 1) / unit * unit;
    const bool image = layout == DASS_LAYOUT_NHWC && dtype != DASS_U8;
    return (image && !cg->astray) || dtype == DASS_BITS || cg->aligned ? start : start + 3;
}

static void fail_full(case_graph *cg)
{
    if (cg->g->status == DASS_OK)
        cg->g->status = DASS_FAIL(DASS_INTERNAL, "case: more than %d inputs or outputs", CASE_MAX_TENSORS);
}

static dass_val add_input(case_graph *cg, const char *name, dass_dtype dtype, dass_buf buf, dass_layout layout,
                          int32_t rank, const int32_t *dim, case_fill fill, int32_t below)
{
    if (cg->n_in == CASE_MAX_TENSORS) {
        fail_full(cg);
        return 0;
    }
    const int64_t offset = next_offset(cg, buf, layout, dtype);
    const dass_val v = dass_ref_typed(cg->g, name, dtype, buf, offset, layout, rank, dim);
    int64_t count = 1;
    for (int32_t i = 0; i < rank; i++)
        count *= dim[i];
    cg->used[buf] = offset + count;
    if (!v)
        return 0;
    case_tensor *t = &cg->in[cg->n_in++];
    *t = (case_tensor){.val = v, .dtype = dtype, .buf = buf, .offset = offset, .count = count};
    t->fill = fill;
    t->below = below;
    snprintf(t->name, sizeof(t->name), "%s", name);
    return v;
}

/* The identity as a node: its output is a temporary. */
static dass_val through_temp(case_graph *cg, dass_val v)
{
    return dass_gsum(cg->g, 0, &(dass_gterm){.d = v, .index = -1}, 1);
}

static dass_val add_real(case_graph *cg, const char *name, dass_layout layout, int32_t rank, const int32_t *dim,
                         case_fill fill)
{
    dass_val v = add_input(cg, name, cg->g->real, cg->into, layout, rank, dim, fill, 0);
    if (cg->stored && layout != DASS_LAYOUT_FLAT && v) {
        cg->in[cg->n_in - 1].stored = true;
        v = dass_cast(cg->g, v, cg->g->stored);
        const int64_t offset = next_offset(cg, CASE_NARROW, layout, cg->g->stored);
        if (!cg->temp) {
            cg->used[CASE_NARROW] = offset + dass_value_count(&cg->g->vals[v]);
            dass_place(cg->g, v, CASE_NARROW, offset);
        }
    }
    return cg->temp ? through_temp(cg, v) : v;
}

dass_val case_image(case_graph *cg, const char *name, int32_t n, int32_t c, int32_t h, int32_t w, case_fill fill)
{
    return add_real(cg, name, DASS_LAYOUT_NHWC, 4, (const int32_t[]){n, c, h, w}, fill);
}

dass_val case_weights(case_graph *cg, const char *name, int32_t oc, int32_t ic, int32_t kh, int32_t kw)
{
    return add_real(cg, name, DASS_LAYOUT_OIHW, 4, (const int32_t[]){oc, ic, kh, kw}, FILL_UNIFORM);
}

dass_val case_vector(case_graph *cg, const char *name, int32_t n, case_fill fill)
{
    return add_real(cg, name, DASS_LAYOUT_FLAT, 1, &n, fill);
}

dass_val case_matrix(case_graph *cg, const char *name, int32_t rows, int32_t cols, case_fill fill)
{
    return add_real(cg, name, DASS_LAYOUT_FLAT, 2, (const int32_t[]){rows, cols}, fill);
}

dass_val case_state(case_graph *cg, const char *name, int32_t n, case_fill fill)
{
    return add_input(cg, name, cg->g->real, cg->into, DASS_LAYOUT_FLAT, 1, &n, fill, 0);
}

dass_val case_bytes(case_graph *cg, const char *name, int32_t n, int32_t c, int32_t h, int32_t w, int32_t below)
{
    return add_input(cg, name, DASS_U8, CASE_U8, DASS_LAYOUT_NHWC, 4, (const int32_t[]){n, c, h, w}, FILL_BELOW, below);
}

dass_val case_ints(case_graph *cg, const char *name, int32_t n, int32_t below)
{
    return add_input(cg, name, DASS_I32, CASE_I32, DASS_LAYOUT_FLAT, 1, &n, FILL_BELOW, below);
}

static bool csr_has(uint64_t hash, int32_t permille, int32_t row, int32_t col)
{
    if (permille == 0 || permille == 1000 || row % 7 == 5)
        return permille != 0;
    if (row % 7 == 3)
        return false;
    dass_rng r = dass_rng_make(hash, DASS_RNG_TEST, (uint32_t)row, (uint32_t)col);
    return dass_rng_below(&r, 1000) < (uint32_t)permille;
}

dass_csr case_csr(case_graph *cg, const char *name, int32_t rows, int32_t cols, int32_t permille)
{
    char text[3][32];
    dass_csr s = {0};
    for (int32_t r = 0; r < rows; r++)
        for (int32_t c = 0; c < cols; c++)
            s.nnz += csr_has((uint64_t)rows, permille, r, c);
    const int32_t n = s.nnz > 0 ? (int32_t)s.nnz : 1;
    const int32_t n_starts = rows + 1;
    snprintf(text[0], sizeof(text[0]), "%s.values", name);
    snprintf(text[1], sizeof(text[1]), "%s.columns", name);
    snprintf(text[2], sizeof(text[2]), "%s.starts", name);
    s.values = case_vector(cg, text[0], n, FILL_UNIFORM);
    if (cg->stored && s.values) { /* a temporary, at a multiple of 16 bytes */
        cg->in[cg->n_in - 1].stored = true;
        s.values = dass_cast(cg->g, s.values, cg->g->stored);
    }
    s.columns = add_input(cg, text[1], DASS_I32, CASE_I32, DASS_LAYOUT_FLAT, 1, &n, FILL_COLUMNS, cols);
    s.starts = add_input(cg, text[2], DASS_I32, CASE_I32, DASS_LAYOUT_FLAT, 1, &n_starts, FILL_STARTS, cols);
    for (uint32_t i = cg->n_in - 2; i < cg->n_in && s.starts != 0; i++) {
        cg->in[i].rows = rows;
        cg->in[i].permille = permille;
    }
    return s;
}

dass_val case_bits(case_graph *cg, const char *name, int32_t n)
{
    return add_input(cg, name, DASS_BITS, CASE_BITS, DASS_LAYOUT_FLAT, 1, &n, FILL_BELOW, 2);
}

dass_val case_step(case_graph *cg)
{
    const int32_t n = (int32_t)sizeof(dass_step_block);
    cg->used[CASE_STEP] = n;
    return dass_ref_typed(cg->g, "step", DASS_U8, CASE_STEP, 0, DASS_LAYOUT_FLAT, 1, &n);
}

const char *case_text(case_graph *cg, const char *stem, uint32_t i)
{
    snprintf(cg->text, sizeof(cg->text), "%s%u", stem, i);
    return cg->text;
}

static void add_output(case_graph *cg, const char *name, dass_val v)
{
    if (cg->n_out == CASE_MAX_TENSORS) {
        fail_full(cg);
        return;
    }
    const dass_value *w = &cg->g->vals[v];
    case_tensor *t = &cg->out[cg->n_out++];
    *t = (case_tensor){.val = v, .dtype = w->dtype, .buf = w->buf, .offset = w->offset};
    t->count = dass_value_count(w);
    snprintf(t->name, sizeof(t->name), "%s", name);
}

void case_out(case_graph *cg, const char *name, dass_val v)
{
    if (!v || cg->g->status != DASS_OK)
        return;
    const bool stored = cg->g->vals[v].dtype != cg->g->real && cg->g->vals[v].dtype == cg->g->stored;
    if (cg->temp && (stored || cg->g->vals[v].dtype == cg->g->real))
        v = through_temp(cg, v);
    if (stored)
        v = dass_cast(cg->g, v, cg->g->real);
    const dass_dtype dtype = cg->g->vals[v].dtype;
    const dass_buf buf = dtype == DASS_U8 ? CASE_OUT_U8 : dtype == DASS_I32 ? CASE_OUT_I32 : CASE_OUT;
    const int64_t offset = next_offset(cg, buf, DASS_LAYOUT_NHWC, dtype);
    cg->used[buf] = offset + dass_value_count(&cg->g->vals[v]);
    dass_place(cg->g, v, buf, offset);
    if (cg->g->status != DASS_OK)
        return;
    add_output(cg, name, v);
    cg->out[cg->n_out - 1].stored = stored;
}

void case_out_state(case_graph *cg, const char *name, dass_val ref)
{
    if (ref && cg->g->status == DASS_OK)
        add_output(cg, name, ref);
}

/* ---- building ----------------------------------------------------------------------- */

void case_name(const test_case *t, char *buf, size_t n_buf)
{
    size_t used = (size_t)snprintf(buf, n_buf, "%s", dass_op_get(t->op)->name);
    const char *p = t->args;
    for (int i = 0; i < CASE_MAX_ARGS && *p; i++) {
        const size_t n = strcspn(p, " ");
        if (used < n_buf)
            used += (size_t)snprintf(buf + used, n_buf - used, " %.*s=%d", (int)n, p, t->arg[i]);
        p += n + (p[n] == ' ');
    }
}

const test_case *cases_all(size_t *n)
{
    static test_case all[1024];
    static size_t count;
    const case_family *const lists[] = {cases_plain, cases_fused, cases_state, cases_sparse};
    const size_t n_lists = count == 0 ? sizeof(lists) / sizeof(*lists) : 0; /* made once */
    for (size_t i = 0; i < n_lists; i++) {
        for (const case_family *f = lists[i]; f->op != DASS_OP_NONE; f++)
            for (size_t k = 0; k < f->n; k++) {
                DASS_ASSERT(count < sizeof(all) / sizeof(*all));
                test_case *t = &all[count++];
                *t = (test_case){.op = f->op, .args = f->args, .build = f->build};
                memcpy(t->arg, f->table[k], sizeof(t->arg));
            }
    }
    *n = count;
    return all;
}

/* The step block that cases start from. */
static dass_step_block default_step(void)
{
    return (dass_step_block){.lr = {0.05, 0.1, 0.2, 3e-4},
                             .weight_decay = {3e-4, 0, 1e-3, 1e-2},
                             .momentum = 0.9,
                             .clip = 5,
                             .beta1 = 0.5,
                             .beta2 = 0.999,
                             .adam_eps = 1e-8,
                             .adam_step = 3,
                             .seed = 0x0123456789abcdefu,
                             .epoch = 7,
                             .step = 11};
}

static dass_status append_gradient(case_graph *cg)
{
    const dass_wrt wrt = {CASE_PARAM, CASE_GRAD};
    cg->used[CASE_GRAD] = cg->used[CASE_PARAM];
    if (cg->loss)
        return dass_graph_grad(cg->g, cg->loss, &wrt, 1);
    dass_val y[CASE_MAX_TENSORS];
    dass_val d_y[CASE_MAX_TENSORS];
    for (uint32_t i = 0; i < cg->n_out; i++) {
        y[i] = cg->out[i].val;
        const dass_value v = cg->g->vals[y[i]]; /* a copy: the table may move */
        d_y[i] = dass_ref(cg->g, "seed", CASE_SEED, cg->out[i].offset, v.layout, v.rank, v.dim);
    }
    return dass_graph_grad_seeded(cg->g, y, d_y, cg->n_out, &wrt, 1);
}

/* Replace the graph by its lowered form; outputs and loss keep their meaning. */
static dass_status lower(case_graph *cg)
{
    dass_val keep[CASE_MAX_TENSORS + 1];
    dass_graph *low = NULL;
    for (uint32_t i = 0; i < cg->n_out; i++)
        keep[i] = cg->out[i].val;
    keep[cg->n_out] = cg->loss;
    DASS_TRY(dass_graph_lower(cg->g, DASS_LOWER_ALL, NULL, NULL, keep, cg->n_out + 1, &low));
    for (uint32_t i = 0; i < cg->n_out; i++)
        cg->out[i].val = keep[i];
    cg->loss = keep[cg->n_out];
    dass_graph_free(cg->g);
    cg->g = low;
    return DASS_OK;
}

dass_status case_graph_make(const test_case *t, dass_dtype real, case_mode mode, bool backward, case_graph **out)
{
    *out = NULL;
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(case_graph), "case graph", &block));
    case_graph *cg = block;
    *out = cg;
    cg->temp = mode == CASE_TEMP || mode == CASE_STORED_TEMP;
    cg->stored = mode == CASE_STORED || mode == CASE_STORED_TEMP;
    cg->grad = mode >= CASE_GRADIENT && !cg->stored;
    cg->unfused = mode == CASE_UNFUSED || mode == CASE_LOWERED;
    cg->into = CASE_PARAM;
    cg->step = default_step();
    DASS_TRY(dass_graph_make_stored(real, cg->stored && real == DASS_F32 ? DASS_BF16 : real, &cg->g));
    t->build(cg, t->arg);
    DASS_TRY(cg->g->status);
    cg->used[CASE_SEED] = cg->used[CASE_OUT];
    for (dass_buf b = CASE_PARAM; b < CASE_N_BUFS; b++) /* room behind the last tensor, which nobody may touch */
        cg->used[b] += cg->used[b] && b != CASE_STEP ? 64 : 0;
    if (mode == CASE_LOWERED)
        DASS_TRY(lower(cg));
    if (backward)
        DASS_TRY(append_gradient(cg));
    return dass_graph_finish(cg->g);
}

void case_graph_free(case_graph *cg)
{
    if (!cg)
        return;
    dass_graph_free(cg->g);
    dass_mem_free(cg);
}

/* ---- contents ----------------------------------------------------------------------- */

bool case_is_real(dass_buf b)
{
    return b == CASE_PARAM || b == CASE_CONST || b == CASE_SEED || b == CASE_OUT || b == CASE_GRAD;
}

/* What a buffer takes on the side of the test: nothing where only the graph reads and writes. */
static size_t host_bytes(const case_graph *cg, dass_buf b, dass_dtype real)
{
    const size_t n = b == CASE_NARROW ? 0 : (size_t)cg->used[b];
    if (case_is_real(b))
        return n * dass_dtype_bytes(real);
    if (b == CASE_I32 || b == CASE_OUT_I32)
        return n * 4;
    return b == CASE_BITS ? (n + 63) / 64 * 8 : n;
}

static double draw(dass_rng *r, const case_tensor *t, int64_t i)
{
    const double u = 2 * dass_rng_uniform(r) - 1;
    switch (t->fill) {
    case FILL_UNIFORM:
        return u;
    case FILL_POSITIVE:
        return 1 + u / 2;
    case FILL_WIDE: {
        const double x = 8 * u;
        return fabs(x) < 0.1 ? x + 0.25 : fabs(x - 6) < 0.1 ? x + 0.25 : x;
    }
    case FILL_APART:
        return u < 0 ? 0.9 * u - 0.1 : 0.9 * u + 0.1;
    case FILL_DISTINCT:
        return 2.0 * (double)i / (double)t->count - 1; /* shuffled by the caller */
    case FILL_COARSE:
        return nearbyint(4 * u) / 4;
    case FILL_BELOW:
        return (double)dass_rng_below(r, (uint32_t)t->below);
    case FILL_STARTS:
    case FILL_COLUMNS:
        break; /* fill_csr */
    }
    return 0;
}

/* The nearest number of 8 bits of mantissa, as bf16 has. */
static double to_8_bits(double x)
{
    int exponent = 0;
    const double m = frexp(x, &exponent);
    return ldexp(nearbyint(ldexp(m, 8)), exponent - 8);
}

static void fill_real(const case_tensor *t, double *x)
{
    dass_rng r = dass_rng_make(1, DASS_RNG_TEST, dass_name_hash(t->name), (uint32_t)t->count);
    for (int64_t i = 0; i < t->count; i++)
        x[i] = t->stored ? to_8_bits(draw(&r, t, i)) : (double)(float)draw(&r, t, i);
    for (int64_t i = t->count - 1; i > 0 && t->fill == FILL_DISTINCT; i--) {
        const uint32_t j = dass_rng_below(&r, (uint32_t)i + 1);
        const double swap = x[i];
        x[i] = x[j];
        x[j] = swap;
    }
}

static void fill_csr(const case_tensor *t, int32_t *to)
{
    int32_t n = 0;
    for (int32_t r = 0; r < t->rows; r++) {
        if (t->fill == FILL_STARTS)
            to[r] = n;
        for (int32_t c = 0; c < t->below; c++) {
            if (!csr_has((uint64_t)t->rows, t->permille, r, c))
                continue;
            if (t->fill == FILL_COLUMNS)
                to[n] = c;
            n++;
        }
    }
    if (t->fill == FILL_STARTS)
        to[t->rows] = n;
}

static void fill_integers(const case_tensor *t, void *base)
{
    if (t->fill == FILL_STARTS || t->fill == FILL_COLUMNS) {
        fill_csr(t, (int32_t *)base + t->offset);
        return;
    }
    dass_rng r = dass_rng_make(1, DASS_RNG_TEST, dass_name_hash(t->name), (uint32_t)t->count);
    for (int64_t i = 0; i < t->count; i++) {
        const uint32_t v = dass_rng_below(&r, (uint32_t)t->below);
        const int64_t at = t->offset + i;
        if (t->dtype == DASS_U8)
            ((uint8_t *)base)[at] = (uint8_t)v;
        else if (t->dtype == DASS_I32)
            ((int32_t *)base)[at] = (int32_t)v;
        else if (v)
            ((uint64_t *)base)[at / 64] |= (uint64_t)1 << (at % 64);
    }
}

dass_status case_data_make(const case_graph *cg, case_data *out)
{
    *out = (case_data){0};
    for (dass_buf b = 1; b < CASE_N_BUFS; b++) {
        out->bytes[b] = host_bytes(cg, b, DASS_F64);
        DASS_TRY(dass_mem_alloc(out->bytes[b], "case data", &out->buf[b]));
    }
    for (uint32_t i = 0; i < cg->n_in; i++) {
        const case_tensor *t = &cg->in[i];
        if (case_is_real(t->buf))
            fill_real(t, (double *)out->buf[t->buf] + t->offset);
        else
            fill_integers(t, out->buf[t->buf]);
    }
    if (cg->used[CASE_STEP])
        memcpy(out->buf[CASE_STEP], &cg->step, sizeof(cg->step));
    fill_real(&(case_tensor){.name = "seed", .count = cg->used[CASE_SEED]}, out->buf[CASE_SEED]);
    return DASS_OK;
}

void case_data_free(case_data *d)
{
    for (dass_buf b = 1; b < CASE_N_BUFS; b++)
        dass_mem_free(d->buf[b]);
    *d = (case_data){0};
}

/* ---- running ------------------------------------------------------------------------ */

dass_status case_program_make(dass_backend *be, const case_graph *cg, const dass_exec_options *opt, case_program *out)
{
    *out = (case_program){.be = be, .cg = cg};
    size_t largest = 8;
    for (dass_buf b = 1; b < CASE_N_BUFS; b++) {
        const size_t narrow = (size_t)cg->used[CASE_NARROW] * dass_dtype_bytes(cg->g->stored);
        const size_t bytes = b == CASE_NARROW ? narrow : host_bytes(cg, b, cg->g->real);
        largest = bytes > largest ? bytes : largest;
        DASS_TRY(be->ops->alloc(be, bytes ? bytes : 8, "case buffer", &out->buf[b]));
    }
    DASS_TRY(dass_mem_alloc(largest, "case staging", &out->staging));
    DASS_TRY(dass_exec_make(be, cg->g, opt, &out->exec));
    return dass_program_make(be, &out->exec, 1, out->buf, CASE_N_BUFS, &out->program);
}

void case_program_free(case_program *p)
{
    if (!p->be)
        return;
    dass_program_free(p->program);
    dass_exec_free(p->exec);
    dass_mem_free(p->staging);
    for (dass_buf b = 1; b < CASE_N_BUFS; b++)
        if (p->buf[b])
            p->be->ops->free(p->be, p->buf[b]);
    *p = (case_program){0};
}

static dass_status write_buffer(case_program *p, const case_data *d, dass_buf b)
{
    const size_t bytes = host_bytes(p->cg, b, p->cg->g->real);
    if (!bytes)
        return DASS_OK;
    if (!case_is_real(b) || p->cg->g->real == DASS_F64)
        return p->be->ops->write(p->be, p->buf[b], d->buf[b], bytes);
    for (size_t i = 0; i < bytes / sizeof(float); i++)
        ((float *)p->staging)[i] = (float)((const double *)d->buf[b])[i];
    return p->be->ops->write(p->be, p->buf[b], p->staging, bytes);
}

static dass_status read_buffer(case_program *p, case_data *d, dass_buf b)
{
    const size_t bytes = host_bytes(p->cg, b, p->cg->g->real);
    if (!bytes)
        return DASS_OK;
    if (!case_is_real(b) || p->cg->g->real == DASS_F64)
        return p->be->ops->read(p->be, d->buf[b], p->buf[b], bytes);
    DASS_TRY(p->be->ops->read(p->be, p->staging, p->buf[b], bytes));
    for (size_t i = 0; i < bytes / sizeof(float); i++)
        ((double *)d->buf[b])[i] = (double)((const float *)p->staging)[i];
    return DASS_OK;
}

dass_status case_program_run(case_program *p, case_data *d)
{
    for (dass_buf b = 1; b < CASE_N_BUFS; b++) {
        DASS_TRY(write_buffer(p, d, b));
        DASS_TRY(p->be->ops->sync(p->be)); /* the staging block is used again */
    }
    DASS_TRY(dass_program_run(p->program));
    DASS_TRY(p->be->ops->sync(p->be));
    for (dass_buf b = 1; b < CASE_N_BUFS; b++)
        DASS_TRY(read_buffer(p, d, b));
    return DASS_OK;
}
