/* Tests of the base layer: error texts, log lines, and the random streams against published
 * vectors.
 *
 * Not the allocator (test_mem.c) nor the settings (test_config.c).
 * Invariant: the log level is only changed in child processes.
 */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "check.h"
#include "dass/log.h"
#include "dass/rng.h"

/* ---- status ---- */

static void test_status_names(void **state)
{
    (void)state;
    assert_string_equal(dass_status_name(DASS_OK), "OK");
    assert_string_equal(dass_status_name(DASS_NOMEM), "NOMEM");
    assert_string_equal(dass_status_text(DASS_FORMAT), "malformed file");
    assert_string_equal(dass_status_name((dass_status)77), "UNKNOWN");
    assert_int_equal(DASS_COMM, 10);
}

static dass_status fail_here(const char *value)
{
    return DASS_FAIL(DASS_ARG, "width is %s", value);
}

static dass_status pass_on(const char *value)
{
    DASS_TRY(fail_here(value));
    return DASS_OK;
}

static dass_status pass_to(const char *value, int *n_cleanups)
{
    dass_status st = DASS_OK;
    DASS_TRY_TO(fail_here(value), st, out);
    *n_cleanups += 100;
out:
    ++*n_cleanups;
    return st;
}

static void test_status_fail(void **state)
{
    (void)state;
    dass_error_clear();
    assert_string_equal(dass_error_text(), "");
    assert_string_equal(dass_error_where(), "");
    assert_fails(pass_on("-3"), DASS_ARG, "width is -3");
    assert_non_null(strstr(dass_error_where(), "test_base.c:"));
    assert_null(strchr(dass_error_where(), '/'));
    int n_cleanups = 0;
    assert_fails(pass_to("7", &n_cleanups), DASS_ARG, "width is 7");
    assert_int_equal(n_cleanups, 1);
    /* The last text may be part of the next. */
    const dass_status wrapped = DASS_FAIL(DASS_IO, "layer 2: %s", dass_error_text());
    assert_fails(wrapped, DASS_IO, "layer 2: width is 7");
}

static void test_status_cuts_long_text(void **state)
{
    (void)state;
    char value[5000];
    memset(value, 'x', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    assert_int_equal(fail_here(value), DASS_ARG);
    const size_t n = strlen(dass_error_text());
    assert_in_range(n, 1000, 4095);
    assert_string_equal(dass_error_text() + n - 4, "x...");
}

/* What a file may hold and a terminal must not see: escapes, the second block of control characters, line ends, half
 * characters. What people write in other scripts stays. */
#define DIRTY "a\x1b[31mred\x7f\nnext\tx\xff|\xc2\x9b|\xe2\x80\xa8|\xe2\x82|\xc3\xa4\xe2\x82\xac"
#define CLEAN "a?[31mred? next x?|?|?|?|\xc3\xa4\xe2\x82\xac"

static void test_status_cleans_text(void **state)
{
    (void)state;
    assert_fails(fail_here(DIRTY), DASS_ARG, "width is " CLEAN);
    /* Cut between characters: of two bytes each, once with an odd number of bytes before them and once with an even. */
    char value[5000];
    for (size_t odd = 0; odd < 2; odd++) {
        memset(value, 'x', sizeof value);
        for (size_t i = odd; i + 1 < sizeof value; i += 2)
            memcpy(value + i, "\xc3\xa4", 2);
        value[sizeof value - 1] = '\0';
        assert_int_equal(fail_here(value), DASS_ARG);
        const char *text = dass_error_text();
        const size_t n = strlen(text);
        assert_in_range(n, 1000, 4095);
        assert_string_equal(text + n - 5, "\xc3\xa4...");
        assert_null(strchr(text, '?'));
    }
}

static void *fail_in_thread(void *text)
{
    (void)fail_here("another thread's");
    (void)snprintf(text, 64, "%s", dass_error_text());
    return NULL;
}

static void test_status_is_per_thread(void **state)
{
    (void)state;
    char text[64] = "";
    pthread_t thread;
    (void)fail_here("ours");
    assert_int_equal(pthread_create(&thread, NULL, fail_in_thread, text), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_string_equal(text, "width is another thread's");
    assert_string_equal(dass_error_text(), "width is ours");
}

static void break_assertion(void)
{
    const int n_layers = 3;
    DASS_ASSERT(n_layers == 4);
}

static void test_assert_aborts(void **state)
{
    (void)state;
    char said[512];
    const int status = stderr_of(break_assertion, said, sizeof said);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(said, "dass: assertion failed at test_base.c:"));
    assert_non_null(strstr(said, ": n_layers == 4\n"));
}

/* ---- log ---- */

static void log_lines(void)
{
    dass_log_set_level(DASS_LOG_INFO);
    dass_log(DASS_LOG_ERROR, "disk %d", 1);
    dass_log(DASS_LOG_WARN, "slow");
    dass_log(DASS_LOG_INFO, "hello");
    dass_log(DASS_LOG_DEBUG, "not said");
    dass_log_progress(false, "step 1");
    dass_log_progress(false, "step 2 follows too soon to be said");
    dass_log_progress(true, "step 3");
    dass_log_set_level(DASS_LOG_DEBUG);
    (void)pass_on("0");
    dass_log_set_level(DASS_LOG_ERROR);
    dass_log(DASS_LOG_WARN, "not said");
    dass_log_progress(true, "not said");
}

static void test_log(void **state)
{
    (void)state;
    char said[2048];
    assert_int_equal(stderr_of(log_lines, said, sizeof said), 0);
    const char *start = "dass: error: disk 1\ndass: warning: slow\ndass: hello\n"
                        "dass: step 1\ndass: step 3\n"
                        "dass: debug: ARG at test_base.c:";
    assert_memory_equal(said, start, strlen(start));
    assert_non_null(strstr(said, ": width is 0\ndass: debug: ARG passed on at test_base.c:"));
    assert_null(strstr(said, "not said"));
}

static void log_long(void)
{
    char text[10000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    dass_log(DASS_LOG_ERROR, "%s", text);
}

static void test_log_cuts_long_lines(void **state)
{
    (void)state;
    char said[16384];
    assert_int_equal(stderr_of(log_long, said, sizeof said), 0);
    const size_t n = strlen(said);
    assert_in_range(n, 1000, 4096);
    assert_int_equal(said[n - 1], '\n');
    assert_int_equal(said[n - 2], 'x');
}

static void log_dirty(void)
{
    dass_log(DASS_LOG_INFO, "%s", DIRTY);
    dass_log_progress(true, "%s", DIRTY);
}

static void test_log_cleans_lines(void **state)
{
    (void)state;
    char text[1024];
    assert_int_equal(stderr_of(log_dirty, text, sizeof text), 0);
    assert_string_equal(text, "dass: " CLEAN "\ndass: " CLEAN "\n");
}

static void log_from_env(void)
{
    (void)setenv("DASS_LOG", "loud", 1);
    dass_log(DASS_LOG_INFO, "level %d", (int)dass_log_get_level());
}

/* The level is read from the environment once: this needs a process that has not asked yet. */
static void test_log_environment(void **state)
{
    (void)state;
    char said[512];
    assert_int_equal(stderr_of(log_from_env, said, sizeof said), 0);
    assert_string_equal(said,
                        "dass: warning: DASS_LOG='loud' is not one of error, warn, info, debug; "
                        "using info\ndass: level 2\n");
}

/* ---- random numbers ---- */

/* Known answers published with Random123 (kat_vectors, philox4x32 10). */
static void test_rng_philox_vectors(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < N_OF(known); i++) {
        uint32_t out[4];
        dass_philox(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

static void test_rng_name_hash(void **state)
{
    (void)state;
    assert_true(dass_name_hash("") == 0xcbf29ce484222325u);
    assert_true(dass_name_hash("a") == 0xaf63dc4c8601ec8cu);
    assert_true(dass_name_hash("foobar") == 0x85944171f73967e8u);
}

/* A stream is philox of (i, step, name) under (seed ^ purpose): nothing hidden. */
static void test_rng_stream(void **state)
{
    (void)state;
    const uint64_t seed = 0x0123456789abcdefu;
    const uint64_t name = dass_name_hash("stem/conv/weights");
    dass_rng r = dass_rng_make(seed, DASS_RNG_SHUFFLE, name, 42);
    const uint32_t key[2] = {0x89abcdefu ^ DASS_RNG_SHUFFLE, 0x01234567u};
    for (uint32_t i = 0; i < 5; i++) {
        const uint32_t counter[4] = {i, 42, (uint32_t)name, (uint32_t)(name >> 32)};
        uint32_t out[4];
        dass_philox(counter, key, out);
        for (size_t j = 0; j < 4; j++)
            assert_int_equal(dass_rng_u32(&r), out[j]);
    }
    dass_rng other = dass_rng_make(seed, DASS_RNG_SHUFFLE, name, 43);
    dass_rng again = dass_rng_make(seed, DASS_RNG_SHUFFLE, name, 42);
    r = dass_rng_make(seed, DASS_RNG_SHUFFLE, name, 42);
    const uint32_t first = dass_rng_u32(&r);
    assert_int_equal(dass_rng_u32(&again), first);
    assert_int_not_equal(dass_rng_u32(&other), first);
}

/* Pearson's chi-square of draws below n against equal counts. */
static double chi_square(uint32_t n, size_t n_draws)
{
    size_t counts[64] = {0};
    dass_rng r = dass_rng_make(7, DASS_RNG_TEST, dass_name_hash("below"), n);
    for (size_t i = 0; i < n_draws; i++) {
        const uint32_t x = dass_rng_below(&r, n);
        assert_true(x < n);
        counts[x]++;
    }
    const double expected = (double)n_draws / n;
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        const double off = (double)counts[i] - expected;
        sum += off * off / expected;
    }
    return sum;
}

static void test_rng_below(void **state)
{
    (void)state;
    /* For k degrees of freedom mean k, variance 2k: five deviations on either side. */
    static const uint32_t sizes[] = {2, 3, 10, 37, 64};
    for (size_t i = 0; i < N_OF(sizes); i++) {
        const double k = sizes[i] - 1.0;
        const double x = chi_square(sizes[i], 100000);
        assert_true(x < k + 5.0 * sqrt(2.0 * k) + 5.0);
    }
    dass_rng r = dass_rng_make(7, DASS_RNG_TEST, 1, 0);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(dass_rng_below(&r, 1), 0);
    /* 3 * 2^30: without rejection a third of the values would come twice as often. */
    const uint32_t n = 0xc0000000u;
    size_t n_low = 0;
    const size_t n_draws = 30000;
    for (size_t i = 0; i < n_draws; i++) {
        const uint32_t x = dass_rng_below(&r, n);
        assert_true(x < n);
        n_low += x % 3 == 0;
    }
    const double off = (double)n_low - (double)n_draws / 3.0;
    assert_true(fabs(off) < 5.0 * sqrt((double)n_draws * 2.0 / 9.0));
}

static void test_rng_uniform_and_normal(void **state)
{
    (void)state;
    enum { N = 100000 };
    dass_rng r = dass_rng_make(3, DASS_RNG_INIT, dass_name_hash("moments"), 0);
    double sum = 0.0;
    double square = 0.0;
    for (size_t i = 0; i < N; i++) {
        const double x = dass_rng_uniform(&r);
        assert_true(x >= 0.0 && x < 1.0);
        sum += x;
        square += x * x;
    }
    /* Standard errors: sqrt(1/12/N) = 0.0009 and sqrt(4/45/N) = 0.00094. */
    assert_true(fabs(sum / N - 0.5) < 0.005);
    assert_true(fabs(square / N - 1.0 / 3.0) < 0.005);
    double moments[5] = {0.0};
    for (size_t i = 0; i < N; i++) {
        const double x = dass_rng_normal(&r);
        assert_true(isfinite(x) && fabs(x) < 6.7);
        double power = 1.0;
        for (size_t k = 0; k < 5; k++, power *= x)
            moments[k] += power / N;
    }
    /* 0, 1, 0, 3 with standard errors 0.003, 0.0045, 0.012, 0.031. */
    assert_true(fabs(moments[1]) < 0.016);
    assert_true(fabs(moments[2] - 1.0) < 0.023);
    assert_true(fabs(moments[3]) < 0.061);
    assert_true(fabs(moments[4] - 3.0) < 0.155);
    /* Two draws of the stream per deviate, nothing kept between calls. */
    dass_rng once = dass_rng_make(3, DASS_RNG_INIT, 5, 0);
    dass_rng twice = once;
    (void)dass_rng_normal(&once);
    (void)dass_rng_u32(&twice);
    (void)dass_rng_u32(&twice);
    assert_int_equal(dass_rng_u32(&once), dass_rng_u32(&twice));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* First: needs a process whose level was not read yet. */
        cmocka_unit_test(test_log_environment),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_log_cuts_long_lines),
        cmocka_unit_test(test_log_cleans_lines),
        cmocka_unit_test(test_status_names),
        cmocka_unit_test(test_status_fail),
        cmocka_unit_test(test_status_cuts_long_text),
        cmocka_unit_test(test_status_cleans_text),
        cmocka_unit_test(test_status_is_per_thread),
        cmocka_unit_test(test_assert_aborts),
        cmocka_unit_test(test_rng_philox_vectors),
        cmocka_unit_test(test_rng_name_hash),
        cmocka_unit_test(test_rng_stream),
        cmocka_unit_test(test_rng_below),
        cmocka_unit_test(test_rng_uniform_and_normal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
