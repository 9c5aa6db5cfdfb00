/* Masks for the stages that have them: scores from weights, tables of kept counts, thresholds, and the schedule of
 * gradual pruning. No loop and no accuracy here. Invariant: the kept counts of a mask are those of its table, to the
 * unit.
 */
#include <math.h>
#include <string.h>

#include "session.h"

static uint64_t bit(dass_buf b)
{
    return (uint64_t)1 << b;
}

/* The allocation "global" ranks |score| over the whole network, so scores come first. */
dass_status dass__allocate(dass__session *s, const char *allocation, double density)
{
    dass_allocation policy;
    DASS_TRY(dass_allocation_parse(allocation, &policy));
    const int64_t n = dass_store_count(s->store, DASS_GROUP_W);
    void *block = NULL;
    dass_status st = DASS_OK;
    if (policy == DASS_ALLOC_GLOBAL) {
        DASS_TRY(dass_mem_alloc((size_t)n * sizeof(double), "scores", &block));
        double *scores = block;
        DASS_TRY_TO(dass_store_read_real(s->store, DASS_BUF_SCORE, scores, n), st, out);
        for (int64_t i = 0; i < n; ++i)
            scores[i] = fabs(scores[i]);
    }
    dass_arena_free(s->mem); /* holds nothing but the table before */
    s->mem = NULL;
    DASS_TRY_TO(dass_arena_make("kept counts", &s->mem), st, out);
    DASS_TRY_TO(dass_density_allocate(s->store, policy, density, block, s->mem, &s->segments, &s->n_segments), st, out);
out:
    dass_mem_free(block);
    return st;
}

dass_status dass__scores_start(dass__session *s, const char *allocation, double density)
{
    DASS_TRY(dass_store_commit(s->store, s->be, bit(DASS_BUF_SCORE) | bit(DASS_BUF_BITS)));
    DASS_TRY(dass_store_init_scores(s->store));
    DASS_TRY(dass__allocate(s, allocation, density));
    return DASS_OK;
}

dass_status dass__mask_freeze(dass__session *s)
{
    dass_graph *g = NULL;
    DASS_TRY(dass_threshold_build(s->store, s->segments, s->n_segments, s->be->ops->real, &g));
    dass_steps steps;
    DASS_TRY(dass_steps_wrap(g, s->be, &(dass_exec_options){.guard = s->opt->guard}, &steps));
    dass_status st = dass_steps_bind(s->store, &steps);
    if (st == DASS_OK)
        st = dass_steps_run(s->store, &steps, 0, &s->block, NULL, NULL);
    dass_steps_close(&steps);
    return st;
}

/* ---- gradual -------------------------------------------------------------------------------------------------- */

/* Zhu & Gupta 2017 with an initial sparsity of 0. */
double dass__gradual_density(double target, double t)
{
    const double left = 1.0 - fmin(fmax(t, 0.0), 1.0);
    return 1.0 - (1.0 - target) * (1.0 - left * left * left);
}

/* Scores of pruned weights become 0, so that no later mask chooses them while a kept weight is left. */
static dass_status zero_pruned(dass__session *s)
{
    const int64_t n = dass_store_count(s->store, DASS_GROUP_W);
    const size_t bytes = dass_store_buf_bytes(s->store, DASS_BUF_BITS);
    void *scores = NULL;
    void *bits = NULL;
    dass_status st = DASS_OK;
    DASS_TRY(dass_mem_alloc((size_t)n * sizeof(double), "scores", &scores));
    DASS_TRY_TO(dass_mem_alloc(bytes, "mask", &bits), st, out);
    DASS_TRY_TO(dass_store_read_real(s->store, DASS_BUF_SCORE, scores, n), st, out);
    DASS_TRY_TO(dass_store_read(s->store, DASS_BUF_BITS, bits, bytes), st, out);
    for (int64_t i = 0; i < n; ++i)
        if (!(((const uint64_t *)bits)[i / 64] >> (i % 64) & 1))
            ((double *)scores)[i] = 0.0;
    DASS_TRY_TO(dass_store_write_real(s->store, DASS_BUF_SCORE, scores, n), st, out);
out:
    dass_mem_free(bits);
    dass_mem_free(scores);
    return st;
}

dass_status dass__mask_shrink(dass__session *s, const char *allocation, double density)
{
    const bool first = s->n_segments == 0;
    DASS_TRY(dass_store_commit(s->store, s->be, bit(DASS_BUF_SCORE) | bit(DASS_BUF_BITS)));
    DASS_TRY(dass_store_init_scores(s->store)); /* by weights alone: the scale of a tensor's scores is its own */
    if (!first)
        DASS_TRY(zero_pruned(s));
    DASS_TRY(dass__allocate(s, allocation, density));
    DASS_TRY(dass__mask_freeze(s));
    return DASS_OK;
}
