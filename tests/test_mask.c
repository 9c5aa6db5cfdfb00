/* Density: kept counts as the published code has them, and policies that divide one budget. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dass/param.h"

typedef struct fixture {
    dass_store *s;
    dass_arena *mem;
} fixture;

static int setup(void **state)
{
    fixture *f = test_malloc(sizeof *f);
    assert_int_equal(dass_store_make(DASS_F32, &f->s), DASS_OK);
    assert_int_equal(dass_arena_make("test", &f->mem), DASS_OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    dass_store_free(f->s);
    dass_arena_free(f->mem);
    test_free(f);
    return 0;
}

static void add(const fixture *f, const char *name, bool auxiliary, int32_t oc, int32_t ic,
                int32_t k)
{
    uint32_t index = 0;
    const dass_param p = {.name = name,
                          .group = DASS_GROUP_W,
                          .kind = DASS_KIND_CONV,
                          .init = DASS_INIT_KAIMING,
                          .rank = 4,
                          .dim = {oc, ic, k, k},
                          .auxiliary = auxiliary};
    assert_int_equal(dass_store_param(f->s, &p, &index), DASS_OK);
}

/* A stem, separable halves, a large pointwise convolution, a classifier. */
static void add_network(const fixture *f)
{
    add(f, "stem", false, 48, 3, 3);
    add(f, "dw", false, 48, 1, 5);
    add(f, "pw", false, 64, 48, 1);
    add(f, "big", false, 256, 256, 1);
    add(f, "tiny", false, 4, 1, 1);
    add(f, "classifier", false, 10, 256, 1);
}

static dass_segment *allocate(const fixture *f, dass_allocation policy, double density,
                              const double *scores, int64_t n)
{
    dass_segment *seg = NULL;
    int64_t n_seg = 0;
    if (dass_density_allocate(f->s, policy, density, scores, f->mem, &seg, &n_seg) != DASS_OK)
        fail_msg("%s", dass_error_text());
    assert_int_equal(n_seg, n);
    return seg;
}

static int64_t total(const dass_segment *seg, int64_t n)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        assert_true(seg[i].kept >= 0 && seg[i].kept <= seg[i].count);
        kept += seg[i].kept;
    }
    return kept;
}

static const double densities[] = {0.01, 0.05, 0.1, 0.3, 0.5, 0.77, 0.99, 1.0};
enum { N_DENSITIES = sizeof densities / sizeof densities[0] };

/* ---- counts -------------------------------------------------------------------------------- */

static void kept_counts_equal_the_published_code(void **state)
{
    (void)state;
    /* n - int((1 - density) * n), by Python */
    static const struct {
        int64_t n;
        double density;
        int64_t kept;
    } cases[] = {
        {1, 0.01, 1},     {9, 0.01, 1},
        {100, 0.01, 1},   {101, 0.01, 2},
        {2916, 0.01, 30}, {10, 0.9, 10}, /* 1 - 0.9 is a little below 0.1 in double */
        {10, 0.1, 1},     {20, 0.05, 1},
        {1000, 0.1, 100}, {1000, 0.05, 50},
        {7, 1.0, 7},      {11164352, 0.01, 111644},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(dass_kept_count(cases[i].n, cases[i].density), cases[i].kept);
    for (int64_t n = 1; n < 5000; n++)
        assert_true(dass_kept_count(n, 0.01) >= 1);
}

static void words_parse(void **state)
{
    (void)state;
    dass_allocation a;
    assert_int_equal(dass_allocation_parse("uniform", &a), DASS_OK);
    assert_int_equal(a, DASS_ALLOC_UNIFORM);
    assert_int_equal(dass_allocation_parse("floor", &a), DASS_OK);
    assert_int_equal(a, DASS_ALLOC_FLOOR);
    assert_int_equal(dass_allocation_parse("erc", &a), DASS_ARG);
    assert_non_null(strstr(dass_error_text(), "'erk'"));
}

static void uniform_is_per_tensor(void **state)
{
    fixture *f = *state;
    add_network(f);
    for (int d = 0; d < N_DENSITIES; d++) {
        const dass_segment *seg = allocate(f, DASS_ALLOC_UNIFORM, densities[d], NULL, 6);
        int64_t offset = 0;
        for (int i = 0; i < 6; i++) {
            assert_int_equal(seg[i].offset, offset);
            assert_int_equal(seg[i].kept, dass_kept_count(seg[i].count, densities[d]));
            offset += seg[i].count;
        }
        assert_int_equal(offset, dass_store_count(f->s, DASS_GROUP_W));
    }
}

/* ---- policies ------------------------------------------------------------------------------ */

static void every_policy_keeps_the_total(void **state)
{
    fixture *f = *state;
    add_network(f);
    const int64_t n = dass_store_count(f->s, DASS_GROUP_W);
    double *scores = test_malloc((size_t)n * sizeof *scores);
    dass_rng rng = dass_rng_make(1, DASS_RNG_TEST, 0, 0);
    for (int64_t i = 0; i < n; i++)
        scores[i] = dass_rng_normal(&rng);
    for (int d = 0; d < N_DENSITIES; d++) {
        const int64_t want = total(allocate(f, DASS_ALLOC_UNIFORM, densities[d], NULL, 6), 6);
        assert_int_equal(total(allocate(f, DASS_ALLOC_ERK, densities[d], NULL, 6), 6), want);
        assert_int_equal(total(allocate(f, DASS_ALLOC_GLOBAL, densities[d], scores, 6), 6), want);
        assert_int_equal(total(allocate(f, DASS_ALLOC_FLOOR, densities[d], NULL, 6), 6), want);
    }
    test_free(scores);
}

/* Kept counts of tensors that are not full are proportional to IC/g + OC + KH + KW, to within the
 * rounding. */
static void erk_follows_its_formula(void **state)
{
    fixture *f = *state;
    static const double weight[6] = {48 + 3 + 3 + 3, 48 + 1 + 5 + 5, 64 + 48 + 2,
                                     256 + 256 + 2,  4 + 1 + 2,      10 + 256 + 2};
    add_network(f);
    for (int d = 0; d < N_DENSITIES; d++) {
        const dass_segment *seg = allocate(f, DASS_ALLOC_ERK, densities[d], NULL, 6);
        double budget = (double)total(seg, 6);
        double free_weight = 0.0;
        for (int i = 0; i < 6; i++) {
            if (seg[i].kept == seg[i].count)
                budget -= (double)seg[i].count;
            else
                free_weight += weight[i];
        }
        for (int i = 0; i < 6; i++) {
            if (seg[i].kept == seg[i].count)
                continue;
            assert_true(fabs((double)seg[i].kept - budget * weight[i] / free_weight) < 1.0 + 1e-9);
        }
    }
    /* small tensors fill up first */
    assert_int_equal(allocate(f, DASS_ALLOC_ERK, 0.01, NULL, 6)[4].kept, 4);
    assert_int_equal(allocate(f, DASS_ALLOC_ERK, 0.3, NULL, 6)[1].kept, 48 * 25);
}

static void erk_by_hand(void **state)
{
    fixture *f = *state;
    /* weights 2+2+2 = 6 and 20+10+2 = 32; sizes 4 and 200. uniform at 0.1: 1 + 20 = 21 -> 21*6/38
     * = 3.3, 17.7 */
    add(f, "a", false, 2, 2, 1);
    add(f, "b", false, 20, 10, 1);
    const dass_segment *seg = allocate(f, DASS_ALLOC_ERK, 0.1, NULL, 2);
    assert_int_equal(seg[0].kept, 3);
    assert_int_equal(seg[1].kept, 18);
    /* at 0.2: 1 + 40 = 41 -> 6.5 > 4, so a is full and b has the rest */
    seg = allocate(f, DASS_ALLOC_ERK, 0.2, NULL, 2);
    assert_int_equal(seg[0].kept, 4);
    assert_int_equal(seg[1].kept, 37);
}

static void floor_lifts_small_tensors(void **state)
{
    fixture *f = *state;
    static const int64_t oc[6] = {48, 48, 64, 256, 4, 10};
    add_network(f);
    for (int d = 0; d < N_DENSITIES; d++) {
        const dass_segment *seg = allocate(f, DASS_ALLOC_FLOOR, densities[d], NULL, 6);
        for (int i = 0; i < 6; i++)
            assert_true(seg[i].kept >= oc[i]);
        /* what is left after the floors is shared at one density, to within the rounding */
        double budget = (double)total(seg, 6);
        double size = 0.0;
        for (int i = 0; i < 6; i++) {
            if (seg[i].kept == oc[i])
                budget -= (double)oc[i];
            else
                size += (double)seg[i].count;
        }
        for (int i = 0; i < 6; i++) {
            if (seg[i].kept == oc[i])
                continue;
            assert_true(fabs((double)seg[i].kept - budget / size * (double)seg[i].count) <
                        1.0 + 1e-9);
        }
    }
    dass_segment *seg = NULL;
    int64_t n = 0;
    assert_int_equal(dass_density_allocate(f->s, DASS_ALLOC_FLOOR, 0.001, NULL, f->mem, &seg, &n),
                     DASS_ARG);
    assert_non_null(strstr(dass_error_text(), "430"));
}

/* ---- global ----------------------------------------------------------------------------------------------------- */

typedef struct entry {
    double value;
    int tensor;
} entry;

static int by_rank(const void *a, const void *b)
{
    const entry *x = a;
    const entry *y = b;
    return x->value < y->value ? 1 : x->value > y->value ? -1 : 0;
}

/* LAMP as its paper has it: weights in rising order, each square over the sum of its own and all that follow. Then the
 * best of every tensor, and the best of the rest. */
static void rank_by_lamp(const double *w, const dass_segment *seg, int n_seg, int64_t n_kept, int64_t *kept)
{
    int64_t n = 0;
    for (int t = 0; t < n_seg; t++)
        n += seg[t].count;
    entry *all = test_malloc((size_t)n * sizeof *all);
    entry *one = test_malloc((size_t)n * sizeof *one);
    int64_t n_all = 0;
    for (int t = 0; t < n_seg; t++) {
        double behind = 0.0;
        for (int64_t k = 0; k < seg[t].count; k++)
            one[k] = (entry){fabs(w[seg[t].offset + k]), t};
        qsort(one, (size_t)seg[t].count, sizeof *one, by_rank);
        for (int64_t k = 0; k < seg[t].count; k++) {
            behind += one[k].value * one[k].value; /* falling order: the same sums, from the end */
            if (k > 0)
                all[n_all++] = (entry){one[k].value * one[k].value / behind, t};
        }
        kept[t] = 1;
    }
    qsort(all, (size_t)n_all, sizeof *all, by_rank);
    for (int64_t k = 0; k < n_kept - n_seg; k++)
        kept[all[k].tensor]++;
    test_free(all);
    test_free(one);
}

static void draw(double *w, int64_t n, uint32_t stream)
{
    dass_rng rng = dass_rng_make(2, DASS_RNG_TEST, 0, stream);
    for (int64_t i = 0; i < n; i++)
        w[i] = dass_rng_normal(&rng);
}

static void global_ranks_by_lamp(void **state)
{
    fixture *f = *state;
    add_network(f);
    const int64_t n = dass_store_count(f->s, DASS_GROUP_W);
    double *w = test_malloc((size_t)n * sizeof *w);
    draw(w, n, 0);
    for (int d = 0; d < N_DENSITIES; d++) {
        const dass_segment *seg = allocate(f, DASS_ALLOC_GLOBAL, densities[d], w, 6);
        int64_t want[6];
        rank_by_lamp(w, seg, 6, total(seg, 6), want);
        for (int i = 0; i < 6; i++)
            assert_int_equal(seg[i].kept, want[i]);
    }
    test_free(w);
}

/* The scores of a start peak at the square root of 6 / fan_in: by size alone, layers of large fan-in would keep
 * nothing. A factor per tensor must change no count, not even one that is beyond a float. */
static void global_starves_no_tensor(void **state)
{
    fixture *f = *state;
    static const double factor[6] = {1e-3, 1e3, 1e-200, 1e-6, 1e200, 1e-5};
    add_network(f);
    const int64_t n = dass_store_count(f->s, DASS_GROUP_W);
    double *w = test_malloc((size_t)n * sizeof *w);
    double *scaled = test_malloc((size_t)n * sizeof *scaled);
    draw(w, n, 1);
    for (int d = 0; d < N_DENSITIES; d++) {
        const dass_segment *seg = allocate(f, DASS_ALLOC_GLOBAL, densities[d], w, 6);
        for (int i = 0; i < 6; i++)
            for (int64_t k = seg[i].offset; k < seg[i].offset + seg[i].count; k++)
                scaled[k] = factor[i] * w[k];
        const dass_segment *again = allocate(f, DASS_ALLOC_GLOBAL, densities[d], scaled, 6);
        for (int i = 0; i < 6; i++) {
            assert_true(seg[i].kept >= 1);
            assert_int_equal(again[i].kept, seg[i].kept);
        }
    }
    /* tensors that are all zero, and one that holds a single value */
    for (int64_t i = 0; i < n; i++)
        w[i] = i < n / 2 ? 0.0 : -1.0;
    const dass_segment *seg = allocate(f, DASS_ALLOC_GLOBAL, 0.01, w, 6);
    assert_int_equal(total(seg, 6), total(allocate(f, DASS_ALLOC_UNIFORM, 0.01, NULL, 6), 6));
    for (int i = 0; i < 6; i++)
        assert_true(seg[i].kept >= 1);
    test_free(w);
    test_free(scaled);
}

static void global_refuses_what_it_cannot_rank(void **state)
{
    fixture *f = *state;
    dass_segment *seg = NULL;
    int64_t n_seg = 0;
    add_network(f);
    const int64_t n = dass_store_count(f->s, DASS_GROUP_W);
    double *w = test_malloc((size_t)n * sizeof *w);
    draw(w, n, 0);
    const double bad[2] = {(double)NAN, (double)INFINITY};
    for (int i = 0; i < 2; i++) {
        w[77] = bad[i];
        assert_int_equal(dass_density_allocate(f->s, DASS_ALLOC_GLOBAL, 0.1, w, f->mem, &seg, &n_seg), DASS_NUMERIC);
        assert_non_null(strstr(dass_error_text(), "weight 77 of stem"));
    }
    assert_int_equal(dass_density_allocate(f->s, DASS_ALLOC_GLOBAL, 0.1, NULL, f->mem, &seg, &n_seg), DASS_ARG);
    test_free(w);
}

/* ---- networks that have lost weights ---------------------------------------------------------------------------- */

static const dass_allocation policies[] = {DASS_ALLOC_UNIFORM, DASS_ALLOC_ERK, DASS_ALLOC_GLOBAL, DASS_ALLOC_FLOOR};

/* No tensor keeps more than it has left, and what it cannot take goes to the others: the total is the same. */
static void a_tensor_keeps_at_most_what_is_left(void **state)
{
    fixture *f = *state;
    static const int64_t limit[6] = {48, 60, 700, 20000, 4, 12};
    add_network(f);
    const int64_t n = dass_store_count(f->s, DASS_GROUP_W);
    double *w = test_malloc((size_t)n * sizeof *w);
    draw(w, n, 0);
    for (int p = 0; p < 4; p++)
        for (int d = 0; d < N_DENSITIES; d++) {
            dass_segment *seg = NULL;
            int64_t n_seg = 0;
            int64_t want = total(allocate(f, DASS_ALLOC_UNIFORM, densities[d], NULL, 6), 6);
            want = want < 20824 ? want : 20824; /* the sum of the limits */
            if (dass_density_allocate_within(f->s, policies[p], densities[d], w, limit, f->mem, &seg, &n_seg) !=
                DASS_OK)
                fail_msg("%s", dass_error_text());
            assert_int_equal(n_seg, 6);
            assert_int_equal(total(seg, 6), want);
            for (int i = 0; i < 6; i++)
                assert_in_range(seg[i].kept, 1, limit[i]);
        }
    /* where the limits bind nobody they change nothing */
    for (int p = 0; p < 4; p++) {
        static const int64_t all[6] = {1296, 1200, 3072, 65536, 4, 2560};
        dass_segment *seg = NULL;
        int64_t n_seg = 0;
        assert_int_equal(dass_density_allocate_within(f->s, policies[p], 0.1, w, all, f->mem, &seg, &n_seg), DASS_OK);
        const dass_segment *free_of = allocate(f, policies[p], 0.1, w, 6);
        for (int i = 0; i < 6; i++)
            assert_int_equal(seg[i].kept, free_of[i].kept);
    }
    test_free(w);
}

static void an_empty_tensor_is_refused(void **state)
{
    fixture *f = *state;
    static const int64_t limit[6] = {48, 60, 700, 0, 4, 12};
    dass_segment *seg = NULL;
    int64_t n_seg = 0;
    add_network(f);
    assert_int_equal(dass_density_allocate_within(f->s, DASS_ALLOC_ERK, 0.01, NULL, limit, f->mem, &seg, &n_seg),
                     DASS_ARG);
    assert_non_null(strstr(dass_error_text(), "big has no weight left"));
    assert_null(seg);
}

/* Even far below one weight a tensor. */
static void every_tensor_keeps_a_weight(void **state)
{
    fixture *f = *state;
    static const double tiny[] = {1e-3, 1e-6, 1e-12, 1e-17, 1e-300};
    add_network(f);
    const int64_t n = dass_store_count(f->s, DASS_GROUP_W);
    double *w = test_malloc((size_t)n * sizeof *w);
    draw(w, n, 0);
    for (int p = 0; p < 3; p++) /* floor wants more than there is, and says so */
        for (int d = 0; d < 5; d++) {
            const dass_segment *seg = allocate(f, policies[p], tiny[d], w, 6);
            for (int i = 0; i < 6; i++)
                assert_true(seg[i].kept >= 1);
        }
    test_free(w);
}

static void auxiliary_tensors_stand_aside(void **state)
{
    fixture *f = *state;
    add_network(f);
    const int64_t want = total(allocate(f, DASS_ALLOC_UNIFORM, 0.1, NULL, 6), 6);
    add(f, "aux", true, 32, 64, 1);
    const int64_t n = dass_store_count(f->s, DASS_GROUP_W);
    double *scores = test_calloc((size_t)n, sizeof *scores);
    for (int64_t i = n - 2048; i < n; i++)
        scores[i] = 1e9; /* must not eat the budget */
    for (int i = 0; i < 4; i++) {
        const dass_segment *seg = allocate(f, policies[i], 0.1, scores, 7);
        assert_int_equal(seg[6].kept, 2048);
        assert_int_equal(total(seg, 6), want);
    }
    test_free(scores);
}

static void bad_densities_are_refused(void **state)
{
    fixture *f = *state;
    dass_segment *seg = NULL;
    int64_t n = 0;
    add_network(f);
    const double bad[] = {0.0, -0.1, 1.0001, (double)NAN, (double)INFINITY};
    for (int i = 0; i < 5; i++)
        assert_int_equal(dass_density_allocate(f->s, DASS_ALLOC_UNIFORM, bad[i], NULL, f->mem, &seg,
                                               &n),
                         DASS_ARG);
    assert_null(seg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_counts_equal_the_published_code),
        cmocka_unit_test(words_parse),
        cmocka_unit_test_setup_teardown(uniform_is_per_tensor, setup, teardown),
        cmocka_unit_test_setup_teardown(every_policy_keeps_the_total, setup, teardown),
        cmocka_unit_test_setup_teardown(erk_follows_its_formula, setup, teardown),
        cmocka_unit_test_setup_teardown(erk_by_hand, setup, teardown),
        cmocka_unit_test_setup_teardown(floor_lifts_small_tensors, setup, teardown),
        cmocka_unit_test_setup_teardown(global_ranks_by_lamp, setup, teardown),
        cmocka_unit_test_setup_teardown(global_starves_no_tensor, setup, teardown),
        cmocka_unit_test_setup_teardown(global_refuses_what_it_cannot_rank, setup, teardown),
        cmocka_unit_test_setup_teardown(a_tensor_keeps_at_most_what_is_left, setup, teardown),
        cmocka_unit_test_setup_teardown(an_empty_tensor_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(every_tensor_keeps_a_weight, setup, teardown),
        cmocka_unit_test_setup_teardown(auxiliary_tensors_stand_aside, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_densities_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
