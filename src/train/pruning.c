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

/* How many scores of each weight tensor are not 0: of what was removed, they are. limit: one number a segment. */
static void count_left(const dass_store *s, const double *scores, int64_t *limit)
{
    for (uint32_t i = 0; i < dass_store_n_params(s); ++i) {
        const dass_param *p = dass_store_get(s, i);
        if (p->group != DASS_GROUP_W)
            continue;
        *limit = 0;
        for (int64_t k = p->offset; k < p->offset + p->count; ++k)
            *limit += scores[k] != 0.0;
        ++limit;
    }
}

/* some_removed: of weights whose score is 0 none is counted on. Scores are weights up to a factor per tensor, which is
 * what the allocation "global" wants. */
static dass_status allocate(dass__session *s, const char *allocation, double density, bool some_removed)
{
    dass_allocation policy;
    DASS_TRY(dass_allocation_parse(allocation, &policy));
    const int64_t n = dass_store_count(s->store, DASS_GROUP_W);
    void *scores = NULL;
    dass_status st = DASS_OK;
    dass_arena_free(s->mem); /* holds nothing but the table before */
    s->mem = NULL;
    s->segments = NULL;
    s->n_segments = 0;
    DASS_TRY(dass_arena_make("kept counts", &s->mem));
    int64_t *limit = NULL;
    if (policy == DASS_ALLOC_GLOBAL || some_removed) {
        DASS_TRY(dass_mem_alloc((size_t)n * sizeof(double), "scores", &scores));
        DASS_TRY_TO(dass_store_read_real(s->store, DASS_BUF_SCORE, scores, n), st, out);
    }
    if (some_removed) {
        limit = dass_arena_alloc(s->mem, ((size_t)dass_store_n_params(s->store) + 1) * sizeof *limit);
        if (limit == NULL) {
            st = DASS_NOMEM;
            goto out;
        }
        count_left(s->store, scores, limit);
    }
    DASS_TRY_TO(dass_density_allocate_within(s->store, policy, density, scores, limit, s->mem, &s->segments,
                                             &s->n_segments),
                st, out);
out:
    dass_mem_free(scores);
    return st;
}

dass_status dass__scores_start(dass__session *s, const char *allocation, double density)
{
    DASS_TRY(dass_store_commit(s->store, s->be, bit(DASS_BUF_SCORE) | bit(DASS_BUF_BITS)));
    DASS_TRY(dass_store_init_scores(s->store));
    DASS_TRY(allocate(s, allocation, density, s->start_density < 1.0));
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

/* Zhu & Gupta 2017. */
double dass__gradual_density(double start, double target, double t)
{
    const double left = 1.0 - fmin(fmax(t, 0.0), 1.0);
    return start - (start - target) * (1.0 - left * left * left);
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
    DASS_TRY(allocate(s, allocation, density, !first || s->start_density < 1.0));
    DASS_TRY(dass__mask_freeze(s));
    return DASS_OK;
}

/* ---- a network that was pruned before ---------------------------------------------------------------------------- */

/* Weights without their bit become 0. */
static dass_status zero_removed(dass__session *s, const uint64_t *bits)
{
    const int64_t n = dass_store_count(s->store, DASS_GROUP_W);
    void *weights = NULL;
    DASS_TRY(dass_mem_alloc((size_t)n * sizeof(double), "weights", &weights));
    dass_status st = dass_store_read_real(s->store, DASS_BUF_W, weights, n);
    for (int64_t i = 0; i < n; ++i)
        if (!(bits[i / 64] >> (i % 64) & 1))
            ((double *)weights)[i] = 0.0;
    if (st == DASS_OK)
        st = dass_store_write_real(s->store, DASS_BUF_W, weights, n);
    dass_mem_free(weights);
    return st;
}

/* What is left decides what may be asked for. */
static dass_status check_density(dass__session *s, const uint64_t *bits, const char *path)
{
    const double density = s->cfg->prune_density;
    int64_t n_weights = 0;
    int64_t n_left = 0;
    int64_t total = 0;
    for (uint32_t i = 0; i < dass_store_n_params(s->store); ++i) {
        const dass_param *p = dass_store_get(s->store, i);
        if (p->group != DASS_GROUP_W || p->auxiliary)
            continue;
        n_weights += p->count;
        total += dass_kept_count(p->count, density);
        for (int64_t k = p->offset; k < p->offset + p->count; ++k)
            n_left += bits[k / 64] >> (k % 64) & 1;
    }
    s->start_density = n_weights > 0 ? (double)n_left / (double)n_weights : 1.0;
    if (total <= n_left)
        return DASS_OK;
    return DASS_FAIL(DASS_CONFIG,
                     "%s: prune.density = %g keeps %lld weights, but %s is pruned already and has %lld of %lld left "
                     "(%.4g): what was removed does not come back; give a lower density, or prune the dense run",
                     s->cfg->origin[DASS_KEY_prune_density], density, (long long)total, path, (long long)n_left,
                     (long long)n_weights, s->start_density);
}

/* A weight of 0 has a score of 0, and the score's gradient is the weight times something: it stays 0, and counts as
 * gone wherever counts are made (allocate). */
dass_status dass__start_from_pruned(dass__session *s, const dass_params *from)
{
    void *bits = NULL;
    DASS_TRY(dass_mem_alloc(dass_store_buf_bytes(s->store, DASS_BUF_BITS), "mask", &bits));
    dass_status st = dass_params_mask(from, s->store, bits);
    if (st == DASS_OK)
        st = check_density(s, bits, from->path);
    if (st == DASS_OK && !s->resumed)
        st = zero_removed(s, bits);
    dass_mem_free(bits);
    return st;
}
