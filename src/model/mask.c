/* Density: how many weights each tensor keeps. Pure functions that fill a table of counts for the
 * threshold node; no mask is made here. Invariant: every policy keeps the same total, uniform's, as
 * integers per tensor, so that policies compare at one budget.
 */
#include <math.h>
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
    return DASS_FAIL(DASS_ARG, "allocation '%s' is not one of uniform, erk, global, floor%s%s%s",
                     word, near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

int64_t dass_kept_count(int64_t n, double density)
{
    return n - (int64_t)floor((1.0 - density) * (double)n);
}

/* One tensor in a division of the budget. */
typedef struct share {
    const dass_param *p;
    dass_segment *seg;
    double want; /* real-valued count */
    bool fixed;  /* at its bound: takes no part in scaling any more */
} share;

/* Round `want` down, then hand out what is missing from `total`, largest fractional part first,
 * lower index first, to tensors that are not full. Sums of want equal total up to rounding. */
static void round_shares(share *sh, int64_t n, int64_t total)
{
    int64_t given = 0;
    for (int64_t i = 0; i < n; i++) {
        double whole = floor(sh[i].want);
        if (whole < 0.0)
            whole = 0.0;
        sh[i].seg->kept = (int64_t)whole < sh[i].seg->count ? (int64_t)whole : sh[i].seg->count;
        sh[i].want -= (double)sh[i].seg->kept;
        given += sh[i].seg->kept;
    }
    while (given < total) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++)
            if (sh[i].seg->kept < sh[i].seg->count && (best < 0 || sh[i].want > sh[best].want))
                best = i;
        DASS_ASSERT(best >= 0);
        sh[best].seg->kept++;
        sh[best].want -= 1.0;
        given++;
    }
    DASS_ASSERT(given ==
                total); /* floors of numbers that add up to total within rounding never pass it */
}

/* Erdos-Renyi kernel density: want = scale * (IC/g + OC + KH + KW), as n times the density of the
 * formula. Tensors that would pass their size are full, and the rest shares what remains, until
 * nothing changes. */
static void allocate_erk(share *sh, int64_t n, int64_t total)
{
    for (bool again = true; again;) {
        double budget = (double)total;
        double weight = 0.0;
        for (int64_t i = 0; i < n; i++) {
            const int32_t *d = sh[i].p->dim;
            if (sh[i].fixed)
                budget -= (double)sh[i].seg->count;
            else
                weight += (double)d[0] + d[1] + d[2] + d[3];
        }
        const double scale = weight > 0.0 ? budget / weight : 0.0;
        again = false;
        for (int64_t i = 0; i < n; i++) {
            const int32_t *d = sh[i].p->dim;
            if (!sh[i].fixed) {
                sh[i].want = scale * ((double)d[0] + d[1] + d[2] + d[3]);
                sh[i].fixed = sh[i].want >= (double)sh[i].seg->count;
                again |= sh[i].fixed;
            }
            if (sh[i].fixed)
                sh[i].want = (double)sh[i].seg->count;
        }
    }
    round_shares(sh, n, total);
}

/* want = max(OC, d n) with the density d that meets the total: tensors below one weight per output
 * channel are lifted to it, and all others give, at one common density. */
static dass_status allocate_floor(share *sh, int64_t n, int64_t total, double density)
{
    int64_t floors = 0;
    for (int64_t i = 0; i < n; i++)
        floors += sh[i].p->dim[0];
    if (floors > total)
        return DASS_FAIL(DASS_ARG,
                         "allocation floor: one weight per output channel needs %lld weights, "
                         "density %g keeps %lld; "
                         "raise the density or use erk",
                         (long long)floors, density, (long long)total);
    for (bool again = true; again;) {
        double budget = (double)total;
        double size = 0.0;
        for (int64_t i = 0; i < n; i++) {
            if (sh[i].fixed)
                budget -= (double)sh[i].p->dim[0];
            else
                size += (double)sh[i].seg->count;
        }
        const double d = size > 0.0 ? budget / size : 0.0;
        again = false;
        for (int64_t i = 0; i < n; i++) {
            if (!sh[i].fixed) {
                sh[i].want = d * (double)sh[i].seg->count;
                sh[i].fixed = sh[i].want < (double)sh[i].p->dim[0];
                again |= sh[i].fixed;
            }
            if (sh[i].fixed)
                sh[i].want = (double)sh[i].p->dim[0];
        }
    }
    round_shares(sh, n, total);
    return DASS_OK;
}

/* Magnitudes of doubles order like their bits. */
static uint64_t magnitude_bits(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u & ~(UINT64_C(1) << 63);
}

/* Bits of the total-th largest magnitude over all shares by radix selection, 16 bits a pass; *above
 * gets how many are larger. hist: 65536 counters. total >= 1. */
static uint64_t select_magnitude(const share *sh, int64_t n, const double *scores, int64_t total,
                                 int64_t *hist, int64_t *above)
{
    uint64_t prefix = 0;
    uint64_t mask = 0;
    *above = 0;
    for (int shift = 48; shift >= 0; shift -= 16) {
        memset(hist, 0, 65536 * sizeof *hist);
        for (int64_t i = 0; i < n; i++) {
            const double *t = scores + sh[i].seg->offset;
            for (int64_t k = 0; k < sh[i].seg->count; k++) {
                const uint64_t u = magnitude_bits(t[k]);
                if ((u & mask) == prefix)
                    hist[u >> shift & 0xffff]++;
            }
        }
        uint64_t digit = 0xffff;
        while (*above + hist[digit] < total)
            *above += hist[digit--];
        prefix |= digit << shift;
        mask |= UINT64_C(0xffff) << shift;
    }
    return prefix;
}

/* One top-K over everything. Ties at the threshold keep the higher index, as the threshold node
 * does. */
static dass_status allocate_global(share *sh, int64_t n, int64_t total, const double *scores)
{
    if (!scores)
        return DASS_FAIL(DASS_ARG,
                         "allocation global needs the scores; it ranks them over all tensors");
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < sh[i].seg->count; k++)
            if (isnan(scores[sh[i].seg->offset + k]))
                return DASS_FAIL(DASS_NUMERIC,
                                 "allocation global: score %lld of %s is not a number",
                                 (long long)k, sh[i].p->name);
    if (!total)
        return DASS_OK; /* no tensors */
    void *hist = NULL;
    DASS_TRY(dass_mem_alloc(65536 * sizeof(int64_t), "score histogram", &hist));
    int64_t above = 0;
    const uint64_t tau = select_magnitude(sh, n, scores, total, hist, &above);
    dass_mem_free(hist);
    int64_t ties = total - above;
    for (int64_t i = n - 1; i >= 0; i--) {
        sh[i].seg->kept = 0;
        for (int64_t k = sh[i].seg->count - 1; k >= 0; k--) {
            const uint64_t u = magnitude_bits(scores[sh[i].seg->offset + k]);
            const bool tied = u == tau && ties > 0;
            if (tied)
                ties--;
            sh[i].seg->kept += u > tau || tied;
        }
    }
    return DASS_OK;
}

dass_status dass_density_allocate(const dass_store *s, dass_allocation policy, double density,
                                  const double *scores, dass_arena *mem, dass_segment **segments,
                                  int64_t *n_segments)
{
    *segments = NULL;
    *n_segments = 0;
    if (!(density > 0.0 && density <= 1.0))
        return DASS_FAIL(DASS_ARG,
                         "density %g is not in (0, 1]: it is the fraction of weights that is kept",
                         density);
    const uint32_t n_params = dass_store_n_params(s);
    dass_segment *seg = dass_arena_alloc(mem, (n_params + 1) * sizeof *seg);
    share *sh = seg ? dass_arena_alloc(mem, (n_params + 1) * sizeof *sh) : NULL;
    if (!sh)
        return dass__hop(DASS_NOMEM, __FILE__, __LINE__);
    int64_t n_seg = 0;
    int64_t n = 0;
    int64_t total = 0;
    for (uint32_t i = 0; i < n_params; i++) {
        const dass_param *p = dass_store_get(s, i);
        if (p->group != DASS_GROUP_W)
            continue;
        seg[n_seg] = (dass_segment){.offset = p->offset, .count = p->count, .kept = p->count};
        if (dass__budgeted(p)) {
            seg[n_seg].kept = dass_kept_count(p->count, density);
            total += seg[n_seg].kept;
            sh[n++] = (share){.p = p, .seg = &seg[n_seg]};
        }
        n_seg++;
    }
    switch (policy) {
    case DASS_ALLOC_UNIFORM:
        break;
    case DASS_ALLOC_ERK:
        allocate_erk(sh, n, total);
        break;
    case DASS_ALLOC_GLOBAL:
        DASS_TRY(allocate_global(sh, n, total, scores));
        break;
    case DASS_ALLOC_FLOOR:
        DASS_TRY(allocate_floor(sh, n, total, density));
        break;
    default:
        return DASS_FAIL(DASS_ARG, "allocation %d does not exist", (int)policy);
    }
    *segments = seg;
    *n_segments = n_seg;
    return DASS_OK;
}
