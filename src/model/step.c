/* Phases made runnable; see step.h. Not a training loop: no schedule, no order of samples. Invariant: a dass_steps is
 * either closed (all zero) or owns its graphs, executors and program, in that order of making.
 */
#include "dass/step.h"

#include <string.h>

#include "dass/log.h"

static uint64_t bit(dass_buf b)
{
    return (uint64_t)1 << b;
}

uint64_t dass_graph_bufs(const dass_graph *g)
{
    uint64_t bufs = 0;
    for (uint32_t v = 1; v < g->n_vals; ++v)
        if (g->vals[v].buf != 0)
            bufs |= bit(g->vals[v].buf);
    return bufs;
}

static dass_status add_exec(dass_steps *p, dass_graph *g, const dass_exec_options *opt)
{
    DASS_ASSERT(p->n < DASS_MAX_STEPS);
    p->graph[p->n++] = g; /* owned from here on, exec or not */
    DASS_TRY(dass_exec_make(p->be, g, opt, &p->exec[p->n - 1]));
    return DASS_OK;
}

dass_status dass_steps_plan(dass_store *s, const dass_arch *arch, const dass_phase *phase, uint32_t n, dass_backend *be,
                            const dass_exec_options *opt, dass_steps *out)
{
    memset(out, 0, sizeof *out);
    out->be = be;
    dass_status st = DASS_OK;
    for (uint32_t i = 0; i < n; ++i) {
        dass_graph *g = NULL;
        DASS_TRY_TO(dass_phase_build(s, arch, &phase[i], be->ops->real, be, &g), st, fail);
        out->inputs[i] = phase[i].inputs;
        DASS_TRY_TO(add_exec(out, g, opt), st, fail);
    }
    return DASS_OK;
fail:
    dass_steps_close(out);
    return st;
}

dass_status dass_steps_wrap(dass_graph *g, dass_backend *be, const dass_exec_options *opt, dass_steps *out)
{
    memset(out, 0, sizeof *out);
    out->be = be;
    const dass_status st = add_exec(out, g, opt);
    if (st != DASS_OK)
        dass_steps_close(out);
    return st;
}

dass_status dass_steps_bind(dass_store *s, dass_steps *p)
{
    uint64_t bufs = bit(DASS_BUF_W) | bit(DASS_BUF_AF) | bit(DASS_BUF_ALPHA) | bit(DASS_BUF_STAT) | bit(DASS_BUF_STEP) |
                    bit(DASS_BUF_LOSS) | bit(DASS_BUF_CORRECT) | bit(DASS_BUF_IMAGES) | bit(DASS_BUF_LABELS) |
                    bit(DASS_BUF_SAMPLES);
    for (uint32_t i = 0; i < p->n; ++i)
        bufs |= dass_graph_bufs(p->graph[i]);
    DASS_TRY(dass_store_commit(s, p->be, bufs));
    DASS_TRY(dass_program_make(p->be, p->exec, p->n, dass_store_ptrs(s), DASS_N_BUFS, &p->program));
    return DASS_OK;
}

dass_status dass_steps_feed(dass_store *s, dass_inputs to, const uint8_t *images, size_t image_bytes,
                            const int32_t *labels, const int32_t *samples, int32_t rows)
{
    const size_t n = (size_t)rows;
    const bool val = to == DASS_INPUTS_VALIDATION;
    DASS_TRY(dass_store_write(s, val ? DASS_BUF_VAL_IMAGES : DASS_BUF_IMAGES, images, n * image_bytes));
    DASS_TRY(dass_store_write(s, val ? DASS_BUF_VAL_LABELS : DASS_BUF_LABELS, labels, n * sizeof *labels));
    DASS_TRY(dass_store_write(s, val ? DASS_BUF_VAL_SAMPLES : DASS_BUF_SAMPLES, samples, n * sizeof *samples));
    return DASS_OK;
}

/* ---- a data set in the store --------------------------------------------------------------------------------- */

static double mib(size_t bytes)
{
    return (double)bytes / 1048576.0;
}

dass_status dass_resident_choose(const dass_config *c, dass_backend *be, int64_t n, size_t image_bytes,
                                 const char *what, bool *out)
{
    const bool automatic = strcmp(c->data_resident, "auto") == 0;
    const bool own_memory = be->ops->room != NULL;
    *out = false;
    if (strcmp(c->data_resident, "off") == 0 || (automatic && !own_memory))
        return DASS_OK;
    const size_t need = (size_t)n * (image_bytes + 3 * sizeof(int32_t)); /* with a label and two entries of orders */
    size_t room = 0;
    if (own_memory)
        DASS_TRY(be->ops->room(be, &room));
    if (automatic && need > room / 2) {
        dass_log(
            DASS_LOG_WARN,
            "%s: the training images need %.1f MiB, more than half of the %.1f MiB that are free on %s: every step "
            "copies its batch",
            what, mib(need), mib(room), c->run_device);
        return DASS_OK;
    }
    if (own_memory && need > room)
        return DASS_FAIL(DASS_NOMEM,
                         "%s: data.resident = on: the training images need %zu bytes, of %zu free on %s; give auto or "
                         "off, or a smaller data.limit",
                         c->origin[DASS_KEY_data_resident], need, room, c->run_device);
    *out = true;
    return DASS_OK;
}

dass_status dass_resident_write(dass_store *s, dass_backend *be, dass_resident r, bool validation,
                                const uint8_t *images, size_t image_bytes, const int32_t *labels)
{
    const size_t n = (size_t)r.n;
    dass_store_size(s, DASS_BUF_DATA_IMAGES, (int64_t)(n * image_bytes));
    dass_store_size(s, DASS_BUF_DATA_LABELS, r.n);
    dass_store_size(s, DASS_BUF_ORDER, r.length);
    if (validation)
        dass_store_size(s, DASS_BUF_VAL_ORDER, r.length);
    DASS_TRY(dass_store_commit(s, be,
                               bit(DASS_BUF_DATA_IMAGES) | bit(DASS_BUF_DATA_LABELS) | bit(DASS_BUF_ORDER) |
                                   (validation ? bit(DASS_BUF_VAL_ORDER) : 0)));
    DASS_TRY(dass_store_write(s, DASS_BUF_DATA_IMAGES, images, n * image_bytes));
    return dass_store_write(s, DASS_BUF_DATA_LABELS, labels, n * sizeof *labels);
}

/* ---- running --------------------------------------------------------------------------------------------------- */

/* What is read after a run, with one wait for all of it. */
typedef struct scalars {
    dass_buf buf[4];
    double *to[4];
    uint32_t n;
} scalars;

static void want(scalars *r, dass_inputs from, double *loss, double *correct)
{
    const bool val = from == DASS_INPUTS_VALIDATION;
    const dass_buf buf[2] = {val ? DASS_BUF_VAL_LOSS : DASS_BUF_LOSS, val ? DASS_BUF_VAL_CORRECT : DASS_BUF_CORRECT};
    double *const to[2] = {loss, correct};
    for (int i = 0; i < 2; ++i) {
        if (to[i] == NULL)
            continue;
        r->buf[r->n] = buf[i];
        r->to[r->n++] = to[i];
    }
}

static dass_status run_some(dass_store *s, dass_steps *p, uint32_t first, uint32_t n, const dass_step_block *block,
                            const scalars *r)
{
    DASS_TRY(dass_store_write(s, DASS_BUF_STEP, block, sizeof *block));
    DASS_TRY(dass_program_start_some(p->program, first, n));
    return r->n > 0 ? dass_store_read_scalars(s, r->buf, r->to, r->n) : p->be->ops->sync(p->be);
}

dass_status dass_steps_run(dass_store *s, dass_steps *p, uint32_t i, const dass_step_block *block, double *loss,
                           double *correct)
{
    scalars r = {.n = 0};
    want(&r, p->inputs[i], loss, correct);
    return run_some(s, p, i, 1, block, &r);
}

dass_status dass_steps_run_all(dass_store *s, dass_steps *p, const dass_step_block *block, double *loss,
                               double *correct, double *val_loss, double *val_correct)
{
    scalars r = {.n = 0};
    bool validates = false;
    for (uint32_t i = 0; i < p->n; ++i)
        validates = validates || p->inputs[i] == DASS_INPUTS_VALIDATION;
    want(&r, DASS_INPUTS_MAIN, loss, correct);
    if (validates)
        want(&r, DASS_INPUTS_VALIDATION, val_loss, val_correct);
    return run_some(s, p, 0, p->n, block, &r);
}

void dass_steps_close(dass_steps *p)
{
    dass_program_free(p->program);
    for (uint32_t i = 0; i < p->n; ++i) {
        dass_exec_free(p->exec[i]);
        dass_graph_free(p->graph[i]);
    }
    memset(p, 0, sizeof *p);
}

dass_status dass_threshold_build(const dass_store *s, const dass_segment *segments, int64_t n_segments, dass_dtype real,
                                 dass_graph **out)
{
    *out = NULL;
    dass_graph *g = NULL;
    const int32_t n = (int32_t)dass_store_count(s, DASS_GROUP_W);
    DASS_TRY(dass_graph_make(real, &g));
    const dass_val scores = dass_ref(g, "scores", DASS_BUF_SCORE, 0, DASS_LAYOUT_FLAT, 1, &n);
    const dass_val bits = dass_ref_typed(g, "bits", DASS_BITS, DASS_BUF_BITS, 0, DASS_LAYOUT_FLAT, 1, &n);
    dass_mask_threshold(g, scores, bits, segments, n_segments);
    const dass_status st = dass_graph_finish(g);
    if (st != DASS_OK) {
        dass_graph_free(g);
        return st;
    }
    *out = g;
    return DASS_OK;
}
