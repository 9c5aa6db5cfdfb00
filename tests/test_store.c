/* The parameter store: descriptors, layout, buffers on a backend, transfers, initial values. */
#include <math.h>
#include <stdlib.h>

#include "check.h"

#include "dass/param.h"

static uint32_t add(dass_store *s, const char *name, dass_group group, dass_init init, int32_t a,
                    int32_t b, int32_t k)
{
    uint32_t index = 0;
    const bool flat = k == 0;
    const dass_param p = {.name = name,
                          .group = group,
                          .init = init,
                          .rank = flat ? (b > 1 ? 2 : 1) : 4,
                          .dim = {a, b, flat ? 1 : k, flat ? 1 : k}};
    check_ok(dass_store_param(s, &p, &index));
    return index;
}

static void add_some(dass_store *s)
{
    (void)add(s, "conv", DASS_GROUP_W, DASS_INIT_KAIMING, 8, 4, 3);
    (void)add(s, "gamma", DASS_GROUP_AF, DASS_INIT_ONE, 8, 1, 0);
    (void)add(s, "beta", DASS_GROUP_AF, DASS_INIT_ZERO, 8, 1, 0);
    (void)add(s, "var", DASS_GROUP_STAT, DASS_INIT_ONE, 8, 1, 0);
    (void)add(s, "linear", DASS_GROUP_W, DASS_INIT_KAIMING, 10, 8, 1);
    (void)add(s, "alpha", DASS_GROUP_ALPHA, DASS_INIT_ALPHA, 14, 8, 0);
}

static const uint64_t value_bufs = (1ull << DASS_BUF_W) | (1ull << DASS_BUF_AF) |
                                   (1ull << DASS_BUF_ALPHA) | (1ull << DASS_BUF_STAT);

typedef struct rig {
    dass_backend *be;
    dass_store *s;
} rig;

static rig open_rig(dass_dtype real)
{
    rig r;
    check_ok(dass_backend_open(real == DASS_F32 ? "ref" : "ref64", NULL, &r.be));
    check_ok(dass_store_make(real, &r.s));
    return r;
}

static void close_rig(rig *r)
{
    dass_store_free(r->s);
    dass_backend_close(r->be);
}

/* ---- descriptors --------------------------------------------------------------------------- */

static void parameters_are_found_again(void **state)
{
    (void)state;
    dass_store *s = NULL;
    check_ok(dass_store_make(DASS_F32, &s));
    add_some(s);
    assert_int_equal(dass_store_n_params(s), 6);
    assert_int_equal(dass_store_count(s, DASS_GROUP_W), 8 * 4 * 9 + 80);
    assert_int_equal(dass_store_get(s, 4)->offset, 288);
    add_some(s);
    assert_int_equal(dass_store_n_params(s), 6);
    const dass_param *first = dass_store_get(s, 0);
    for (int i = 0; i < 5000; i++) { /* the table grows; descriptors stay where they are */
        char name[32];
        (void)snprintf(name, sizeof name, "w%d", i);
        assert_int_equal(add(s, name, DASS_GROUP_W, DASS_INIT_ZERO, 2, 1, 1), 6 + i);
    }
    for (int i = 0; i < 5000; i += 61) {
        char name[32];
        (void)snprintf(name, sizeof name, "w%d", i);
        assert_int_equal(add(s, name, DASS_GROUP_W, DASS_INIT_ZERO, 2, 1, 1), 6 + i);
    }
    assert_ptr_equal(dass_store_get(s, 0), first);
    assert_string_equal(first->name, "conv");
    dass_store_free(s);
}

static void contradictions_are_refused(void **state)
{
    (void)state;
    rig r = open_rig(DASS_F32);
    uint32_t index = 0;
    add_some(r.s);
    dass_param p = *dass_store_get(r.s, 0);
    p.dim[0] = 9;
    assert_int_equal(dass_store_param(r.s, &p, &index), DASS_ARG);
    assert_non_null(strstr(dass_error_text(), "conv"));
    p = *dass_store_get(r.s, 1);
    p.group = DASS_GROUP_STAT;
    assert_int_equal(dass_store_param(r.s, &p, &index), DASS_ARG);
    p = (dass_param){.name = "zero", .group = DASS_GROUP_W, .rank = 4, .dim = {4, 0, 1, 1}};
    assert_int_equal(dass_store_param(r.s, &p, &index), DASS_ARG);
    p = (dass_param){.name = "huge",
                     .group = DASS_GROUP_W,
                     .rank = 4,
                     .dim = {1 << 20, 1 << 20, 1 << 20, 1 << 20}};
    assert_int_equal(dass_store_param(r.s, &p, &index), DASS_ARG);
    check_ok(dass_store_commit(r.s, r.be, value_bufs));
    p = (dass_param){.name = "late", .group = DASS_GROUP_W, .rank = 1, .dim = {4, 1, 1, 1}};
    assert_int_equal(dass_store_param(r.s, &p, &index), DASS_ARG);
    assert_non_null(strstr(dass_error_text(), "late"));
    add_some(r.s); /* known ones are still found */
    dass_store *half = NULL;
    assert_int_equal(dass_store_make(DASS_U8, &half), DASS_ARG);
    assert_null(half);
    close_rig(&r);
}

/* ---- buffers ------------------------------------------------------------------------------- */

static void buffers_have_the_sizes_of_the_map(void **state)
{
    (void)state;
    rig r = open_rig(DASS_F32);
    add_some(r.s);
    dass_store_size(r.s, DASS_BUF_IMAGES, 100);
    dass_store_size(r.s, DASS_BUF_IMAGES, 50);
    assert_int_equal(dass_store_buf_count(r.s, DASS_BUF_IMAGES), 100);
    assert_int_equal(dass_store_buf_bytes(r.s, DASS_BUF_IMAGES), 100);
    assert_int_equal(dass_store_buf_bytes(r.s, DASS_BUF_W_MOM), 368 * 4);
    assert_int_equal(dass_store_buf_bytes(r.s, DASS_BUF_BITS), 6 * 8); /* 368 bits */
    assert_int_equal(dass_store_buf_bytes(r.s, DASS_BUF_STEP), sizeof(dass_step_block));
    assert_int_equal(dass_store_buf_bytes(r.s, DASS_BUF_LOSS), 4);
    assert_string_equal(dass_buf_name(DASS_BUF_SCORE_MOM), "SCORE_MOM");
    close_rig(&r);
}

static void commits_add_up(void **state)
{
    (void)state;
    rig r = open_rig(DASS_F32);
    add_some(r.s);
    dass_store_size(r.s, DASS_BUF_IMAGES, 1000);
    check_ok(dass_store_commit(r.s, r.be, 1ull << DASS_BUF_W | 1ull << DASS_BUF_IMAGES));
    void *const *ptrs = dass_store_ptrs(r.s);
    void *w = ptrs[DASS_BUF_W];
    const size_t bytes = dass_store_bytes(r.s);
    assert_non_null(w);
    assert_null(ptrs[DASS_BUF_SCORE]);
    check_ok(dass_store_commit(r.s, r.be, 1ull << DASS_BUF_W | 1ull << DASS_BUF_SCORE));
    assert_ptr_equal(ptrs[DASS_BUF_W], w);
    assert_non_null(ptrs[DASS_BUF_SCORE]);
    assert_true(dass_store_bytes(r.s) >= bytes + 368 * 4);
    for (dass_buf b = 1; b < DASS_N_BUFS; b++)
        assert_int_equal((uintptr_t)ptrs[b] % 64, 0);
    dass_store_size(r.s, DASS_BUF_IMAGES, 1001); /* too late */
    assert_int_equal(dass_store_commit(r.s, r.be, 1ull << DASS_BUF_AF), DASS_ARG);
    assert_non_null(strstr(dass_error_text(), "IMAGES"));
    dass_backend *other = NULL;
    check_ok(dass_backend_open("ref64", NULL, &other));
    assert_int_equal(dass_store_commit(r.s, other, 1ull << DASS_BUF_AF), DASS_ARG);
    dass_backend_close(other);
    close_rig(&r);
}

static void transfers_convert_and_check(void **state)
{
    (void)state;
    const dass_dtype types[] = {DASS_F32, DASS_F64};
    enum { N = 700001 }; /* more than one staging block of floats */
    double *x = test_malloc(N * sizeof *x);
    double *y = test_malloc(N * sizeof *y);
    for (int t = 0; t < 2; t++) {
        rig r = open_rig(types[t]);
        (void)add(r.s, "w", DASS_GROUP_W, DASS_INIT_KAIMING, N, 1, 1);
        assert_int_equal(dass_store_write_real(r.s, DASS_BUF_W, x, N),
                         DASS_ARG); /* not committed */
        dass_store_size(r.s, DASS_BUF_LABELS, 8);
        check_ok(dass_store_commit(r.s, r.be,
                                   1ull << DASS_BUF_W | 1ull << DASS_BUF_BITS |
                                       1ull << DASS_BUF_LABELS));
        for (int i = 0; i < N; i++)
            x[i] = 1.0 / (i + 3);
        check_ok(dass_store_write_real(r.s, DASS_BUF_W, x, N));
        const size_t before = dass_mem_get_stats().n_allocs;
        check_ok(dass_store_read_real(r.s, DASS_BUF_W, y, N));
        assert_int_equal(dass_mem_get_stats().n_allocs, before);
        for (int i = 0; i < N; i++)
            assert_true(y[i] == (t ? x[i] : (double)(float)x[i]));
        assert_int_equal(dass_store_write_real(r.s, DASS_BUF_W, x, N - 1), DASS_ARG);
        assert_int_equal(dass_store_read_real(r.s, DASS_BUF_BITS, x, N), DASS_ARG); /* not real */
        assert_int_equal(dass_store_read(r.s, DASS_BUF_W, y, 4), DASS_ARG);
        const int32_t labels[9] = {1, 2, 3};
        check_ok(dass_store_write(r.s, DASS_BUF_LABELS, labels,
                                  3 * sizeof *labels)); /* a smaller batch */
        assert_int_equal(dass_store_write(r.s, DASS_BUF_LABELS, labels, sizeof labels), DASS_ARG);
        check_ok(dass_store_zero(r.s, DASS_BUF_W));
        check_ok(dass_store_read_real(r.s, DASS_BUF_W, y, N));
        for (int i = 0; i < N; i++)
            assert_true(y[i] == 0.0);
        close_rig(&r);
    }
    test_free(x);
    test_free(y);
}

/* ---- initial values ------------------------------------------------------------------------ */

static void initial_values_have_their_distributions(void **state)
{
    (void)state;
    rig r = open_rig(DASS_F64);
    static double w[40000 + 368];
    static double af[16];
    static double alpha[112];
    (void)add(r.s, "wide", DASS_GROUP_W, DASS_INIT_KAIMING, 400, 4, 5);
    add_some(r.s);
    assert_int_equal(dass_store_init(r.s, 1), DASS_ARG); /* nothing committed */
    check_ok(dass_store_commit(r.s, r.be, value_bufs));
    check_ok(dass_store_init(r.s, 1));
    check_ok(dass_store_read_real(r.s, DASS_BUF_W, w, 40000 + 368));
    check_ok(dass_store_read_real(r.s, DASS_BUF_AF, af, 16));
    check_ok(dass_store_read_real(r.s, DASS_BUF_ALPHA, alpha, 112));
    double sum = 0.0;
    double sum2 = 0.0;
    double most = 0.0;
    for (int i = 0; i < 40000; i++) { /* uniform in +-1/sqrt(100): variance 0.01 / 3 */
        sum += w[i];
        sum2 += w[i] * w[i];
        most = fmax(most, fabs(w[i]));
    }
    assert_true(most <= 0.1 && most > 0.0999);
    assert_true(fabs(sum / 40000) < 5 * 0.0577 / 200);
    assert_true(fabs(sum2 / 40000 - 0.01 / 3) < 1e-4);
    for (int i = 0; i < 8; i++)
        assert_true(af[i] == 1.0 && af[8 + i] == 0.0);
    sum2 = 0.0;
    for (int i = 0; i < 112; i++)
        sum2 += alpha[i] * alpha[i];
    assert_true(sqrt(sum2 / 112) > 0.7e-3 && sqrt(sum2 / 112) < 1.3e-3);
    close_rig(&r);
}

/* The values of a tensor depend on seed and name, not on what else there is or on the floating
 * type. */
static void initial_values_depend_on_name_and_seed(void **state)
{
    (void)state;
    double w[3][368];
    for (int k = 0; k < 3; k++) {
        double all[368 + 8];
        rig r = open_rig(DASS_F64);
        if (k == 1)
            (void)add(r.s, "before", DASS_GROUP_W, DASS_INIT_KAIMING, 8, 1, 1);
        add_some(r.s);
        check_ok(dass_store_commit(r.s, r.be, value_bufs));
        check_ok(dass_store_init(r.s, k == 2 ? 8 : 7));
        check_ok(dass_store_read_real(r.s, DASS_BUF_W, all, k == 1 ? 376 : 368));
        memcpy(w[k], all + (k == 1 ? 8 : 0), sizeof w[k]);
        close_rig(&r);
    }
    assert_memory_equal(w[0], w[1], sizeof w[0]);
    assert_memory_not_equal(w[0], w[2], sizeof w[0]);
}

static void scores_start_as_scaled_weights(void **state)
{
    (void)state;
    rig r = open_rig(DASS_F64);
    double w[368];
    double score[368];
    add_some(r.s);
    check_ok(dass_store_commit(r.s, r.be, value_bufs | 1ull << DASS_BUF_SCORE));
    check_ok(dass_store_init(r.s, 3));
    check_ok(dass_store_read_real(r.s, DASS_BUF_W, w, 368));
    for (int i = 288; i < 368; i++)
        w[i] = 0.0; /* the classifier */
    check_ok(dass_store_write_real(r.s, DASS_BUF_W, w, 368));
    check_ok(dass_store_init_scores(r.s));
    check_ok(dass_store_read_real(r.s, DASS_BUF_SCORE, score, 368));
    double most = 0.0;
    for (int i = 0; i < 288; i++)
        most = fmax(most, fabs(w[i]));
    for (int i = 0; i < 288; i++)
        assert_true(fabs(score[i] - sqrt(6.0 / 36.0) * w[i] / most) < 1e-15);
    for (int i = 288; i < 368; i++)
        assert_true(score[i] == 0.0);
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_are_found_again),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(buffers_have_the_sizes_of_the_map),
        cmocka_unit_test(commits_add_up),
        cmocka_unit_test(transfers_convert_and_check),
        cmocka_unit_test(initial_values_have_their_distributions),
        cmocka_unit_test(initial_values_depend_on_name_and_seed),
        cmocka_unit_test(scores_start_as_scaled_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
