/* Geometry of a layered graph: the order of the items on each rank, then their heights. Ranks are given; nothing is
 * drawn here. Method: Sugiyama, Tagawa and Toda (1981): sweeps that put every item at the mean place of its neighbours,
 * then exchanges of neighbours, from several random starts; positions minimise the weighted squares of the vertical
 * steps, and then, by reweighting, their absolute values, which makes one bend of many slight ones. Invariant: items of
 * a rank never overlap, and the same graph gets the same layout.
 */
#include <math.h>
#include <string.h>

#include "plot_private.h"
#include "dass/rng.h"

#define N_STARTS 48
#define N_SWEEPS 8
#define GAP 11.0        /* between items of a rank */
#define STRAIGHT 8.0    /* weight of a step inside a long edge, against 1 at a node */
#define ROUGH_ROUNDS 60 /* of positions, to compare orders */
#define FINE_ROUNDS 600
#define N_WEIGHTINGS 40 /* each with ROUGH_ROUNDS of positions */
#define LEVEL 0.5       /* pixels: steps below this count as none */

typedef struct ranks {
    int order[DASS__MAX_RANKS][DASS__MAX_PER_RANK];
} ranks;

int dass__layout_item(dass__layout *g, int rank, bool real, double height)
{
    DASS_ASSERT(g->n_items < DASS__MAX_ITEMS && rank >= 0 && rank < DASS__MAX_RANKS);
    DASS_ASSERT(g->n_on[rank] < DASS__MAX_PER_RANK);
    g->item[g->n_items] = (dass__item){.rank = rank, .real = real, .height = height};
    g->order[rank][g->n_on[rank]++] = g->n_items;
    if (rank >= g->n_ranks)
        g->n_ranks = rank + 1;
    return g->n_items++;
}

void dass__layout_link(dass__layout *g, int from, int to)
{
    DASS_ASSERT(g->n_links < DASS__MAX_ITEMS && g->item[to].rank == g->item[from].rank + 1);
    g->link[g->n_links++] = (dass__link){.from = from, .to = to};
}

/* ---- order ---------------------------------------------------------------------------------------------------- */

static void places(const dass__layout *g, int *place)
{
    for (int r = 0; r < g->n_ranks; ++r)
        for (int i = 0; i < g->n_on[r]; ++i)
            place[g->order[r][i]] = i;
}

/* Crossings between ranks r and r + 1. */
static int crossings_at(const dass__layout *g, const int *place, int r)
{
    int from[DASS__MAX_ITEMS];
    int to[DASS__MAX_ITEMS];
    int n = 0;
    int found = 0;
    for (int k = 0; k < g->n_links; ++k) {
        if (g->item[g->link[k].from].rank != r)
            continue;
        from[n] = place[g->link[k].from];
        to[n] = place[g->link[k].to];
        for (int i = 0; i < n; ++i)
            found += (from[i] - from[n]) * (to[i] - to[n]) < 0;
        ++n;
    }
    return found;
}

int dass__layout_crossings(const dass__layout *g)
{
    int place[DASS__MAX_ITEMS];
    int n = 0;
    places(g, place);
    for (int r = 0; r + 1 < g->n_ranks; ++r)
        n += crossings_at(g, place, r);
    return n;
}

/* Sort rank r by the mean place of the neighbours one rank before (side -1) or after (+1); who has none stays. */
static void sort_rank(dass__layout *g, int r, int side)
{
    int place[DASS__MAX_ITEMS];
    double sum[DASS__MAX_ITEMS] = {0};
    int count[DASS__MAX_ITEMS] = {0};
    places(g, place);
    for (int k = 0; k < g->n_links; ++k) {
        const int here = side < 0 ? g->link[k].to : g->link[k].from;
        const int there = side < 0 ? g->link[k].from : g->link[k].to;
        sum[here] += place[there];
        count[here]++;
    }
    int *row = g->order[r];
    for (int i = 0; i < g->n_on[r]; ++i)
        sum[row[i]] = count[row[i]] > 0 ? sum[row[i]] / count[row[i]] : i;
    for (int i = 1; i < g->n_on[r]; ++i) {
        const int item = row[i];
        int k = i;
        for (; k > 0 && sum[row[k - 1]] > sum[item]; --k)
            row[k] = row[k - 1];
        row[k] = item;
    }
}

static void swap(int *a, int *b)
{
    const int keep = *a;
    *a = *b;
    *b = keep;
}

/* Exchange neighbours while that removes a crossing. */
static void exchange(dass__layout *g)
{
    int place[DASS__MAX_ITEMS];
    places(g, place);
    for (bool better = true; better;) {
        better = false;
        for (int r = 0; r < g->n_ranks; ++r) {
            int now = crossings_at(g, place, r - 1) + crossings_at(g, place, r);
            for (int i = 0; i + 1 < g->n_on[r] && now > 0; ++i) {
                int *pair = g->order[r] + i;
                swap(&place[pair[0]], &place[pair[1]]);
                const int then = crossings_at(g, place, r - 1) + crossings_at(g, place, r);
                if (then < now) {
                    swap(&pair[0], &pair[1]);
                    now = then;
                    better = true;
                } else {
                    swap(&place[pair[0]], &place[pair[1]]);
                }
            }
        }
    }
}

static void shuffle(dass__layout *g, dass_rng *rng)
{
    for (int r = 0; r < g->n_ranks; ++r)
        for (int i = g->n_on[r] - 1; i > 0; --i)
            swap(&g->order[r][i], &g->order[r][dass_rng_below(rng, (uint32_t)i + 1)]);
}

static void flip(dass__layout *g)
{
    for (int r = 0; r < g->n_ranks; ++r)
        for (int i = 0; i < g->n_on[r] / 2; ++i)
            swap(&g->order[r][i], &g->order[r][g->n_on[r] - 1 - i]);
}

/* ---- positions ------------------------------------------------------------------------------------------------ */

/* Links at a node leave and arrive side by side, in the order of their other ends. */
static void set_ports(dass__layout *g, double port)
{
    int place[DASS__MAX_ITEMS];
    places(g, place);
    for (int k = 0; k < g->n_links; ++k) {
        dass__link *a = &g->link[k];
        int out_before = 0;
        int out_after = 0;
        int in_before = 0;
        int in_after = 0;
        for (int i = 0; i < g->n_links; ++i) {
            const dass__link *b = &g->link[i];
            if (b->from == a->from) {
                out_before += place[b->to] < place[a->to] || (b->to == a->to && i < k);
                out_after += place[b->to] > place[a->to] || (b->to == a->to && i > k);
            }
            if (b->to == a->to) {
                in_before += place[b->from] < place[a->from] || (b->from == a->from && i < k);
                in_after += place[b->from] > place[a->from] || (b->from == a->from && i > k);
            }
        }
        a->from_port = 0.5 * port * (out_before - out_after);
        a->to_port = 0.5 * port * (in_before - in_after);
    }
}

static double step_of(const dass__layout *g, const dass__link *k)
{
    return g->item[k->to].y + k->to_port - g->item[k->from].y - k->from_port;
}

static double base_weight(const dass__layout *g, const dass__link *k)
{
    return g->item[k->from].real || g->item[k->to].real ? 1.0 : STRAIGHT;
}

/* absolute: w / |step| times step squared is w |step|. */
static void set_weights(dass__layout *g, bool absolute)
{
    for (int i = 0; i < g->n_links; ++i) {
        dass__link *k = &g->link[i];
        k->weight = base_weight(g, k) / (absolute ? fmax(fabs(step_of(g, k)), LEVEL) : 1.0);
    }
}

/* The positions of rank r that are nearest, in weighted squares, to `want`, without overlap: pooling of neighbours that
 * press on each other. Measured from each item's place in a stack without gaps, so that the constraint is "not less".
 */
static void settle_rank(dass__layout *g, int r, const double *want, const double *weight)
{
    double mean[DASS__MAX_PER_RANK];
    double mass[DASS__MAX_PER_RANK];
    int size[DASS__MAX_PER_RANK];
    double stack[DASS__MAX_PER_RANK];
    int n = 0;
    for (int i = 0; i < g->n_on[r]; ++i) {
        const dass__item *t = &g->item[g->order[r][i]];
        stack[i] = i == 0 ? 0.0 : stack[i - 1] + 0.5 * (g->item[g->order[r][i - 1]].height + t->height) + GAP;
        mean[n] = want[i] - stack[i];
        mass[n] = weight[i];
        size[n++] = 1;
        for (; n > 1 && mean[n - 2] > mean[n - 1]; --n) {
            const double sum = mass[n - 2] + mass[n - 1];
            mean[n - 2] = (mean[n - 2] * mass[n - 2] + mean[n - 1] * mass[n - 1]) / sum;
            mass[n - 2] = sum;
            size[n - 2] += size[n - 1];
        }
    }
    for (int b = 0, i = 0; b < n; ++b)
        for (int k = 0; k < size[b]; ++k, ++i)
            g->item[g->order[r][i]].y = stack[i] + mean[b];
}

static void place_rank(dass__layout *g, int r)
{
    double sum[DASS__MAX_ITEMS] = {0};
    double weight[DASS__MAX_ITEMS] = {0};
    double want[DASS__MAX_PER_RANK];
    double mass[DASS__MAX_PER_RANK];
    for (int k = 0; k < g->n_links; ++k) {
        const dass__link *l = &g->link[k];
        const double w = l->weight;
        const double step = l->from_port - l->to_port;
        sum[l->to] += w * (g->item[l->from].y + step);
        weight[l->to] += w;
        sum[l->from] += w * (g->item[l->to].y - step);
        weight[l->from] += w;
    }
    for (int i = 0; i < g->n_on[r]; ++i) {
        const int t = g->order[r][i];
        mass[i] = weight[t] > 0.0 ? weight[t] : 0.01;
        want[i] = weight[t] > 0.0 ? sum[t] / weight[t] : g->item[t].y;
    }
    settle_rank(g, r, want, mass);
}

/* Every rank as a stack around 0. */
static void stack_all(dass__layout *g)
{
    for (int r = 0; r < g->n_ranks; ++r) {
        double y = 0.0;
        for (int i = 0; i < g->n_on[r]; ++i) {
            dass__item *t = &g->item[g->order[r][i]];
            t->y = y + 0.5 * t->height;
            y += t->height + GAP;
        }
        for (int i = 0; i < g->n_on[r]; ++i)
            g->item[g->order[r][i]].y -= 0.5 * y;
    }
}

/* Rank by rank, to and fro: each step lowers one convex sum, so the rounds end at its minimum. */
static void place_all(dass__layout *g, int rounds)
{
    for (int k = 0; k < rounds; ++k)
        for (int r = 0; r < g->n_ranks; ++r)
            place_rank(g, k % 2 ? g->n_ranks - 1 - r : r);
}

/* What the eye follows: vertical way of all links. */
static double vertical(const dass__layout *g)
{
    double sum = 0.0;
    for (int k = 0; k < g->n_links; ++k)
        sum += base_weight(g, &g->link[k]) * fabs(step_of(g, &g->link[k]));
    return sum;
}

void dass__layout_run(dass__layout *g, int top, double port)
{
    dass_rng rng = dass_rng_make(0, DASS_RNG_SEARCH, dass_name_hash("layout"), 0);
    ranks best;
    int least = -1;
    double shortest = 0.0;
    for (int start = 0; start < N_STARTS; ++start) {
        if (start > 0)
            shuffle(g, &rng);
        for (int k = 0; k < N_SWEEPS; ++k)
            for (int r = 0; r < g->n_ranks; ++r)
                sort_rank(g, k % 2 ? g->n_ranks - 1 - r : r, k % 2 ? 1 : -1);
        exchange(g);
        const int crossings = dass__layout_crossings(g);
        if (least >= 0 && crossings > least)
            continue;
        if (g->order[0][0] != top)
            flip(g); /* the mirror image is as good */
        set_ports(g, port);
        set_weights(g, false);
        stack_all(g);
        place_all(g, ROUGH_ROUNDS);
        const double way = vertical(g);
        if (crossings == least && way >= shortest)
            continue;
        least = crossings;
        shortest = way;
        memcpy(best.order, g->order, sizeof best.order);
    }
    memcpy(g->order, best.order, sizeof best.order);
    set_ports(g, port);
    set_weights(g, false);
    stack_all(g);
    place_all(g, FINE_ROUNDS);
    for (int k = 0; k < N_WEIGHTINGS; ++k) {
        set_weights(g, true);
        place_all(g, ROUGH_ROUNDS);
    }
}
