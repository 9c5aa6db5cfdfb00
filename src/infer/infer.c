/* The compiled object: checks what is asked of the device, makes the graph, puts the constants and the buffers on the
 * device, and runs. Invariant: the constants are there before the program is bound and never change, so that a library
 * may look at them once; a run allocates nothing.
 */
#include <string.h>

#include "infer_private.h"

#include "dass/bf16.h"
#include "dass/step_block.h"

struct dass_infer {
    dass_backend *be;
    dass_graph *graph;
    dass_exec *exec;
    dass_program *program;
    void *buf[DASS__N_INFER_BUFS];
    bool images;
    int64_t n_input, n_logits;
    void *staging; /* reals of the device's type: input or logits */
    dass_infer_stats stats;
};

/* ---- compiling --------------------------------------------------------------------------------------------------- */

static dass_status check_options(const dass_infer_source *src, const dass_infer_options *opt, dass_backend *be)
{
    const char *device = be->ops->name;
    if (opt->fuse && opt->format != DASS_INFER_OWN)
        return DASS_FAIL(DASS_ARG, "infer: blocks are kernels of our own: fuse wants format OWN, not %d",
                         (int)opt->format);
    if (!(opt->below >= 0.0 && opt->below <= 2.0) || (opt->mean == NULL) != (opt->std == NULL))
        return DASS_FAIL(DASS_ARG, "infer: below is %g, must be 0 to 2; mean and std are given together", opt->below);
    if (opt->format == DASS_INFER_LIBRARY && (be->ops->library == NULL || be->ops->library(be, DASS_OP_SPCONV) == NULL))
        return DASS_FAIL(DASS_UNSUPPORTED,
                         "infer: device '%s' has no library of sparse products (cuda has cuSPARSE); use our kernels or "
                         "dense ones",
                         device);
    if (opt->format == DASS_INFER_OWN && !be->ops->can(be, DASS_OP_SPCONV))
        return DASS_FAIL(DASS_UNSUPPORTED, "infer: device '%s' has no sparse products; use dense ones", device);
    if (opt->fuse && !be->ops->can(be, DASS_OP_IRBLOCK))
        return DASS_FAIL(DASS_UNSUPPORTED, "infer: device '%s' has no kernel of whole blocks; compile without fuse",
                         device);
    if (src->g->status != DASS_OK)
        return src->g->status;
    return src->x != 0 && src->logits != 0 ? DASS_OK
                                           : DASS_FAIL(DASS_ARG, "infer: the source has no input or no logits");
}

static dass_status open_rewrite(dass__rewrite *r)
{
    const dass_graph *g = r->src->g;
    DASS_TRY(dass_arena_make("infer", &r->mem));
    r->fate = dass_arena_alloc(r->mem, g->n_nodes * sizeof *r->fate); /* zeroed */
    r->n_users = dass_arena_alloc(r->mem, g->n_vals * sizeof *r->n_users);
    r->alias = dass_arena_alloc(r->mem, g->n_vals * sizeof *r->alias);
    r->map = dass_arena_alloc(r->mem, g->n_vals * sizeof *r->map);
    return r->fate != NULL && r->n_users != NULL && r->alias != NULL && r->map != NULL ? DASS_OK : DASS_NOMEM;
}

static size_t real_bytes(const dass_infer *f)
{
    return dass_dtype_bytes(f->be->ops->real);
}

/* n reals into the device's type. */
static void convert(const dass_infer *f, const double *x, size_t n, void *to)
{
    if (f->be->ops->real == DASS_F64) {
        memcpy(to, x, n * sizeof *x);
        return;
    }
    for (size_t i = 0; i < n; i++)
        ((float *)to)[i] = (float)x[i];
}

static dass_status alloc_buffers(dass_infer *f, const dass__rewrite *r)
{
    const dass_backend_ops *ops = f->be->ops;
    const size_t real = real_bytes(f);
    const size_t bytes[DASS__N_INFER_BUFS] = {
        [DASS__BUF_INPUT] = (size_t)f->n_input * (f->images ? 1 : real),
        [DASS__BUF_SAMPLES] = (size_t)r->src->g->vals[r->src->x].dim[0] * sizeof(int32_t),
        [DASS__BUF_STEP] = sizeof(dass_step_block),
        [DASS__BUF_REALS] = (r->reals.n + 1) * real,
        [DASS__BUF_STORED] = (r->stored.n + 1) * dass_dtype_bytes(DASS_BF16),
        [DASS__BUF_INTS] = (r->n_ints + 1) * sizeof(int32_t),
        [DASS__BUF_LOGITS] = (size_t)f->n_logits * real,
    };
    for (int b = DASS__BUF_INPUT; b < DASS__N_INFER_BUFS; b++)
        DASS_TRY(ops->alloc(f->be, bytes[b], "inference buffer", &f->buf[b]));
    f->stats.const_bytes = r->reals.n * real + r->stored.n * dass_dtype_bytes(DASS_BF16) + r->n_ints * sizeof(int32_t);
    return DASS_OK;
}

static dass_status write_constants(dass_infer *f, const dass__rewrite *r)
{
    const dass_backend_ops *ops = f->be->ops;
    const size_t most = r->reals.n > r->stored.n ? r->reals.n : r->stored.n;
    void *p = NULL;
    DASS_TRY(dass_mem_alloc((most + 1) * real_bytes(f), "constants", &p));
    uint16_t *const half = p;
    convert(f, r->reals.x, r->reals.n, p);
    dass_status st = ops->write(f->be, f->buf[DASS__BUF_REALS], p, r->reals.n * real_bytes(f));
    for (size_t i = 0; st == DASS_OK && i < r->stored.n; i++)
        half[i] = dass_bf16_of((float)r->stored.x[i]);
    if (st == DASS_OK)
        st = ops->write(f->be, f->buf[DASS__BUF_STORED], half, r->stored.n * sizeof *half);
    if (st == DASS_OK)
        st = ops->write(f->be, f->buf[DASS__BUF_INTS], r->ints, r->n_ints * sizeof *r->ints);
    dass_mem_free(p);
    return st;
}

static dass_status build(dass_infer *f, dass__rewrite *r)
{
    DASS_TRY(open_rewrite(r));
    DASS_TRY(dass__infer_decide(r));
    DASS_TRY(dass__infer_emit(r, f->be->ops->real, f->be->stored));
    f->n_input = dass_value_count(&r->src->g->vals[r->src->x]);
    f->n_logits = dass_value_count(&r->src->g->vals[r->src->logits]);
    f->images = r->opt->mean != NULL;
    f->stats = r->stats;
    for (dass_node n = 1; n < r->out->n_nodes; n++)
        f->stats.macs += dass_node_cost(r->out, n).macs;
    DASS_TRY(dass_exec_make(f->be, r->out, &r->opt->exec, &f->exec));
    DASS_TRY(dass_mem_alloc((size_t)(f->n_input > f->n_logits ? f->n_input : f->n_logits) * real_bytes(f), "staging",
                            &f->staging));
    DASS_TRY(alloc_buffers(f, r));
    DASS_TRY(write_constants(f, r));
    DASS_TRY(dass_program_make(f->be, &f->exec, 1, f->buf, DASS__N_INFER_BUFS, &f->program));
    f->stats.arena_bytes = dass_program_arena_bytes(f->program);
    return DASS_OK;
}

dass_status dass_infer_compile(const dass_infer_source *src, const dass_infer_options *opt, dass_backend *be,
                               dass_infer **out)
{
    *out = NULL;
    void *p = NULL;
    DASS_TRY(check_options(src, opt, be));
    DASS_TRY(dass_mem_alloc(sizeof(dass_infer), "compiled network", &p));
    dass_infer *f = p;
    f->be = be;
    dass__rewrite r = {.src = src, .opt = opt, .acts_on_load = be->stored == be->ops->real ? be->ops->acts_on_load : 0};
    const dass_status st = build(f, &r);
    f->graph = r.out; /* its executor goes first, also after an error */
    dass_mem_free(r.reals.x);
    dass_mem_free(r.stored.x);
    dass_mem_free(r.ints);
    dass_arena_free(r.mem);
    if (st != DASS_OK) {
        dass_infer_free(f);
        return st;
    }
    *out = f;
    return DASS_OK;
}

void dass_infer_free(dass_infer *f)
{
    if (f == NULL)
        return;
    dass_program_free(f->program);
    dass_exec_free(f->exec);
    dass_graph_free(f->graph);
    for (int b = DASS__BUF_INPUT; b < DASS__N_INFER_BUFS; b++)
        if (f->buf[b] != NULL)
            f->be->ops->free(f->be, f->buf[b]);
    dass_mem_free(f->staging);
    dass_mem_free(f);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

dass_status dass_infer_feed_images(dass_infer *f, const uint8_t *images)
{
    if (!f->images)
        return DASS_FAIL(DASS_ARG, "infer: this network was compiled for reals; give mean and std for images");
    return f->be->ops->write(f->be, f->buf[DASS__BUF_INPUT], images, (size_t)f->n_input);
}

dass_status dass_infer_feed(dass_infer *f, const double *x)
{
    if (f->images)
        return DASS_FAIL(DASS_ARG, "infer: this network was compiled for images; leave mean and std away for reals");
    convert(f, x, (size_t)f->n_input, f->staging);
    return f->be->ops->write(f->be, f->buf[DASS__BUF_INPUT], f->staging, (size_t)f->n_input * real_bytes(f));
}

dass_status dass_infer_run(dass_infer *f)
{
    return dass_program_run(f->program);
}

dass_status dass_infer_read(dass_infer *f, double *logits)
{
    DASS_TRY(f->be->ops->read(f->be, f->staging, f->buf[DASS__BUF_LOGITS], (size_t)f->n_logits * real_bytes(f)));
    for (int64_t i = 0; i < f->n_logits; i++)
        logits[i] =
            f->be->ops->real == DASS_F64 ? ((const double *)f->staging)[i] : (double)((const float *)f->staging)[i];
    return DASS_OK;
}

dass_infer_stats dass_infer_get_stats(const dass_infer *f)
{
    return f->stats;
}

const dass_graph *dass_infer_graph(const dass_infer *f)
{
    return f->graph;
}

const dass_exec *dass_infer_exec(const dass_infer *f)
{
    return f->exec;
}
