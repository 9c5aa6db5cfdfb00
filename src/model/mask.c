/* Density: how many weights each tensor keeps. Pure functions that fill a table of counts for the
 * threshold node; no mask is made here. Invariant: every policy keeps the same total, uniform's, as
 * integers per tensor, so that policies compare at one budget, and at least one weight of every tensor.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* X(ENUM, word) */
#define ALLOCATION_MAP(X) X(UNIFORM, "uniform") X(ERK, "erk") X(GLOBAL, "global") X(FLOOR, "floor")

dass_status dass_allocation_parse(const char *word, dass_allocation *out)
{
    static const char *const words[] = {
#define X(name, text) [DASS_ALLOC_##name] = (text),
        ALLOCATION_MAP(X)
#undef X
    };
    const size_t n = sizeof words / sizeof words[0];
    for (size_t i = 0; i < n; i++) {
        if (strcmp(words[i], word) != 0)
            continue;
        *out = (dass_allocation)i;
        return DASS_OK;
    }
    const char *near = dass_nearest(word, words, n);
    return DASS_FAIL(DASS_ARG, "allocation '%s' is not one of uniform, erk, global, floor%s%s%s", word,
                     near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

int64_t dass_kept_count(int64_t n, double density)
{
    const int64_t kept = n - (int64_t)floor((1.0 - density) * (double)n);
    return kept > 0 || n == 0 ? kept : 1; /* a density below half a unit of 1.0 */
}

/* One tensor in a division of the budget. Its count is `want` rounded: scale * size between its bounds, with one scale
 * for all. */
typedef struct share {
    const dass_param *p;
    dass_segment *seg;
    double size;
    int64_t low, high;
    double want;
} share;

static double clamp_want(const share *sh, double scale)
{
    return fmin(fmax(scale * sh->size, (double)sh->low), (double)sh->high);
}

/* The scale at which the wants add up to total: the sum grows with it, so it is halved in on; then it is computed once
 * more from the tensors that it leaves between their bounds, which makes those exact. Sums of bounds enclose total. */
static double find_scale(const share *sh, int64_t n, int64_t total)
{
    double low = 0.0;
    double high = 1.0;
    for (int64_t i = 0; i < n; i++)
        high = fmax(high, (double)sh[i].high / sh[i].size);
    for (int turn = 0; turn < 200 && low < high; turn++) {
        const double middle = 0.5 * (low + high);
        double sum = 0.0;
        for (int64_t i = 0; i < n; i++)
            sum += clamp_want(&sh[i], middle);
        if (middle <= low || middle >= high)
            break;
        if (sum < (double)total)
            low = middle;
        else
            high = middle;
    }
    double budget = (double)total;
    double size = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double want = high * sh[i].size;
        if (want > (double)sh[i].low && want < (double)sh[i].high)
            size += sh[i].size;
        else
            budget -= clamp_want(&sh[i], high);
    }
    return size > 0.0 ? budget / size : high;
}

/* Round the wants down, then hand out what is missing from `total`, largest fractional part first, lower index first,
 * to tensors that are not at their upper bound. */
static void share_out(share *sh, int64_t n, int64_t total)
{
    const double scale = find_scale(sh, n, total);
    int64_t given = 0;
    for (int64_t i = 0; i < n; i++) {
        sh[i].want = clamp_want(&sh[i], scale);
        sh[i].seg->kept = (int64_t)floor(sh[i].want);
        sh[i].want -= (double)sh[i].seg->kept;
        given += sh[i].seg->kept;
    }
    while (given < total) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++)
            if (sh[i].seg->kept < sh[i].high && (best < 0 || sh[i].want > sh[best].want))
                best = i;
        DASS_ASSERT(best >= 0);
        sh[best].seg->kept++;
        sh[best].want -= 1.0;
        given++;
    }
    DASS_ASSERT(given == total); /* floors of numbers that add up to total within rounding never pass it */
}

/* Uniform's own counts, rounded up tensor by tensor as published; where a tensor has fewer weights left than its part,
 * the others take over at one density. */
static void allocate_uniform(share *sh, int64_t n, int64_t total, double density)
{
    bool fits = true;
    for (int64_t i = 0; i < n; i++) {
        sh[i].seg->kept = dass_kept_count(sh[i].seg->count, density);
        fits &= sh[i].seg->kept <= sh[i].high;
        sh[i].size = (double)sh[i].seg->count;
    }
    if (!fits)
        share_out(sh, n, total);
}

/* Erdos-Renyi kernel density: want = scale * (IC/g + OC + KH + KW), as n times the density of the formula. Source: Evci
 * et al. 2020 (RigL), with at least one weight a tensor. */
static void allocate_erk(share *sh, int64_t n, int64_t total)
{
    for (int64_t i = 0; i < n; i++) {
        const int32_t *d = sh[i].p->dim;
        sh[i].size = (double)d[0] + d[1] + d[2] + d[3];
    }
    share_out(sh, n, total);
}

/* want = max(OC, d n) with the density d that meets the total: tensors below one weight per output channel are lifted
 * to it, and all others give, at one common density. */
static dass_status allocate_floor(share *sh, int64_t n, int64_t total, double density)
{
    int64_t floors = 0;
    for (int64_t i = 0; i < n; i++) {
        sh[i].size = (double)sh[i].seg->count;
        sh[i].low = sh[i].p->dim[0] < sh[i].high ? sh[i].p->dim[0] : sh[i].high;
        floors += sh[i].low;
    }
    if (floors > total)
        return DASS_FAIL(DASS_ARG,
                         "allocation floor: one weight per output channel needs %lld weights, density %g keeps %lld; "
                         "raise the density or use erk",
                         (long long)floors, density, (long long)total);
    share_out(sh, n, total);
    return DASS_OK;
}

/* ---- global: one ranking over all tensors ------------------------------------------------------------------------ */

#define FIRST 2.0 /* of a tensor's largest weight: before every LAMP score, which is at most 1 */

static int by_falling_size(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return x > y ? -1 : x < y;
}

/* LAMP's scores of one tensor's weights, in falling order: w^2 over the sum of w^2 and all larger squares, so that they
 * compare between tensors of any scale and size. out: seg->count numbers, the first share.high of which may be kept.
 * Source: Lee et al. 2021, Layer-adaptive sparsity for the magnitude-based pruning. */
static void lamp_scores(const share *sh, const double *weights, double *out)
{
    const int64_t count = sh->seg->count;
    double sum = 0.0;
    for (int64_t k = 0; k < count; k++)
        out[k] = fabs(weights[sh->seg->offset + k]);
    qsort(out, (size_t)count, sizeof *out, by_falling_size);
    const double largest = out[0] > 0.0 ? out[0] : 1.0; /* squares of what is left neither overflow nor all vanish */
    for (int64_t k = 0; k < count; k++) {
        const double w = out[k] / largest;
        sum += w * w;
        out[k] = k == 0 ? FIRST : sum > 0.0 ? w * w / sum : 0.0;
    }
}

/* Non-negative doubles order like their bits. */
static uint64_t bits_of(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/* Bits of the total-th largest of the n numbers >= 0 at x by radix selection, 16 bits a pass; *above gets how many are
 * larger. hist: 65536 counters. 1 <= total <= n. */
static uint64_t select_largest(const double *x, int64_t n, int64_t total, int64_t *hist, int64_t *above)
{
    uint64_t prefix = 0;
    uint64_t mask = 0;
    *above = 0;
    for (int shift = 48; shift >= 0; shift -= 16) {
        memset(hist, 0, 65536 * sizeof *hist);
        for (int64_t k = 0; k < n; k++)
            if ((bits_of(x[k]) & mask) == prefix)
                hist[bits_of(x[k]) >> shift & 0xffff]++;
        uint64_t digit = 0xffff;
        while (*above + hist[digit] < total)
            *above += hist[digit--];
        prefix |= digit << shift;
        mask |= UINT64_C(0xffff) << shift;
    }
    return prefix;
}

/* The counts of one top-K over all LAMP scores, after the largest weight of every tensor: an empty layer would end the
 * network. work: as many doubles as the tensors of the budget have weights; hist: 65536 counters. */
static void rank_globally(share *sh, int64_t n, int64_t total, const double *weights, double *work, int64_t *hist)
{
    int64_t used = 0;
    for (int64_t i = 0; i < n; i++) {
        lamp_scores(&sh[i], weights, work + used);
        used += sh[i].high; /* the next tensor's begin over those that may not be kept */
    }
    int64_t above = 0;
    const uint64_t tau = select_largest(work, used, total, hist, &above);
    int64_t ties = total - above;
    const double *at = work;
    for (int64_t i = 0; i < n; at += sh[i++].high) {
        sh[i].seg->kept = 0;
        for (int64_t k = 0; k < sh[i].high; k++) {
            const bool tied = bits_of(at[k]) == tau && ties > 0;
            ties -= tied;
            sh[i].seg->kept += bits_of(at[k]) > tau || tied;
        }
    }
}

static dass_status allocate_global(share *sh, int64_t n, int64_t total, const double *weights)
{
    int64_t n_weights = 0;
    if (weights == NULL)
        return DASS_FAIL(DASS_ARG, "allocation global needs the weights; it ranks them over all tensors");
    for (int64_t i = 0; i < n; i++) {
        n_weights += sh[i].seg->count;
        for (int64_t k = 0; k < sh[i].seg->count; k++)
            if (!isfinite(weights[sh[i].seg->offset + k]))
                return DASS_FAIL(DASS_NUMERIC, "allocation global: weight %lld of %s is %g", (long long)k,
                                 sh[i].p->name, weights[sh[i].seg->offset + k]);
    }
    if (n == 0)
        return DASS_OK;
    void *work = NULL;
    void *hist = NULL;
    dass_status st = DASS_OK;
    DASS_TRY(dass_mem_alloc((size_t)n_weights * sizeof(double), "LAMP scores", &work));
    DASS_TRY_TO(dass_mem_alloc(65536 * sizeof(int64_t), "score histogram", &hist), st, out);
    rank_globally(sh, n, total, weights, work, hist);
out:
    dass_mem_free(hist);
    dass_mem_free(work);
    return st;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static dass_status divide(share *sh, int64_t n, dass_allocation policy, double density, const double *weights)
{
    int64_t total = 0;
    int64_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        if (sh[i].high < 1)
            return DASS_FAIL(DASS_ARG,
                             "%s has no weight left to keep: nothing would pass this layer; prune a run that "
                             "keeps some of it",
                             sh[i].p->name);
        total += dass_kept_count(sh[i].seg->count, density);
        most += sh[i].high;
    }
    if (total > most)
        total = most;
    switch (policy) {
    case DASS_ALLOC_UNIFORM:
        allocate_uniform(sh, n, total, density);
        return DASS_OK;
    case DASS_ALLOC_ERK:
        allocate_erk(sh, n, total);
        return DASS_OK;
    case DASS_ALLOC_GLOBAL:
        return allocate_global(sh, n, total, weights);
    case DASS_ALLOC_FLOOR:
        return allocate_floor(sh, n, total, density);
    }
    return DASS_FAIL(DASS_ARG, "allocation %d does not exist", (int)policy);
}

dass_status dass_density_allocate_within(const dass_store *s, dass_allocation policy, double density,
                                         const double *weights, const int64_t *limit, dass_arena *mem,
                                         dass_segment **segments, int64_t *n_segments)
{
    *segments = NULL;
    *n_segments = 0;
    if (!(density > 0.0 && density <= 1.0))
        return DASS_FAIL(DASS_ARG, "density %g is not in (0, 1]: it is the fraction of weights that is kept", density);
    const uint32_t n_params = dass_store_n_params(s);
    dass_segment *seg = dass_arena_alloc(mem, (n_params + 1) * sizeof *seg);
    share *sh = seg ? dass_arena_alloc(mem, (n_params + 1) * sizeof *sh) : NULL;
    if (!sh)
        return dass__hop(DASS_NOMEM, __FILE__, __LINE__);
    int64_t n_seg = 0;
    int64_t n = 0;
    for (uint32_t i = 0; i < n_params; i++) {
        const dass_param *p = dass_store_get(s, i);
        if (p->group != DASS_GROUP_W)
            continue;
        seg[n_seg] = (dass_segment){.offset = p->offset, .count = p->count, .kept = p->count};
        if (dass__budgeted(p)) {
            const int64_t high = limit != NULL && limit[n_seg] < p->count ? limit[n_seg] : p->count;
            sh[n++] = (share){.p = p, .seg = &seg[n_seg], .low = 1, .high = high};
        }
        n_seg++;
    }
    DASS_TRY(divide(sh, n, policy, density, weights));
    *segments = seg;
    *n_segments = n_seg;
    return DASS_OK;
}

dass_status dass_density_allocate(const dass_store *s, dass_allocation policy, double density, const double *weights,
                                  dass_arena *mem, dass_segment **segments, int64_t *n_segments)
{
    return dass_density_allocate_within(s, policy, density, weights, NULL, mem, segments, n_segments);
}
