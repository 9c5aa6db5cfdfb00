/* Tests of the allocator: blocks, checked sizes, running out, the seal, and arenas.
 *
 * Not a test of running out across the library: that fails every allocation of a whole run in turn.
 * Invariant: a test leaves the hooks (seal, fail-at) as it found them.
 */
#include <pthread.h>
#include <stdlib.h>

#include "check.h"
#include "dass/mem.h"
#include "dass/rng.h"

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)

/* ---- blocks ---- */

static void test_mem_blocks(void **state)
{
    (void)state;
    static const size_t sizes[] = {0,    1,      63,          64,      65,
                                   4096, 100000, 4 * MIB - 1, 4 * MIB, 9 * MIB + 5};
    const dass_mem_stats before = dass_mem_get_stats();
    for (size_t i = 0; i < N_OF(sizes); i++) {
        void *block = NULL;
        assert_int_equal(dass_mem_alloc(sizes[i], "test block", &block), DASS_OK);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % (sizes[i] >= 4 * MIB ? 2 * MIB : 64), 0);
        assert_true(all_zero(block, sizes[i]));
        memset(block, 0xa5, sizes[i]);
        const dass_mem_stats now = dass_mem_get_stats();
        assert_int_equal(now.n_allocs, before.n_allocs + i + 1);
        assert_int_equal(now.n_live, before.n_live + 1);
        assert_int_equal(now.live_bytes, before.live_bytes + sizes[i]);
        assert_true(now.peak_bytes >= now.live_bytes);
        dass_mem_free(block);
    }
    dass_mem_free(NULL);
    const dass_mem_stats after = dass_mem_get_stats();
    assert_int_equal(after.n_live, before.n_live);
    assert_int_equal(after.live_bytes, before.live_bytes);
    assert_true(after.peak_bytes >= before.live_bytes + 9 * MIB + 5);
}

static void test_mem_grow(void **state)
{
    (void)state;
    void *block = NULL;
    assert_int_equal(dass_mem_grow(0, 100, "table", &block), DASS_OK);
    memset(block, 1, 100);
    assert_int_equal(dass_mem_grow(100, 5 * MIB, "table", &block), DASS_OK);
    const unsigned char *p = block;
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(p[i], 1);
    assert_true(all_zero(p + 100, 5 * MIB - 100));
    /* Shrinking keeps the block; growing again within it zeroes the tail once more. */
    void *same = block;
    memset(block, 2, 5 * MIB);
    assert_int_equal(dass_mem_grow(5 * MIB, 10, "table", &block), DASS_OK);
    assert_int_equal(dass_mem_grow(10, 50, "table", &block), DASS_OK);
    assert_ptr_equal(block, same);
    assert_int_equal(p[9], 2);
    assert_true(all_zero(p + 10, 40));
    /* A failure leaves the block alone. */
    assert_int_equal(dass_mem_grow(50, SIZE_MAX - 100, "table", &block), DASS_NOMEM);
    assert_ptr_equal(block, same);
    assert_int_equal(p[9], 2);
    dass_mem_free(block);
}

static void test_mem_checked_sizes(void **state)
{
    (void)state;
    size_t out = 7;
    assert_int_equal(dass_mem_mul(3, 5, "weights", &out), DASS_OK);
    assert_int_equal(out, 15);
    assert_int_equal(dass_mem_mul(SIZE_MAX, 0, "weights", &out), DASS_OK);
    assert_int_equal(out, 0);
    assert_fails(dass_mem_mul(SIZE_MAX / 2 + 1, 2, "weights", &out), DASS_NOMEM,
                 "size of weights: 9223372036854775808 x 2 is more than an address can reach");
    assert_int_equal(dass_mem_add(SIZE_MAX - 1, 1, "weights", &out), DASS_OK);
    assert_true(out == SIZE_MAX);
    assert_fails(dass_mem_add(SIZE_MAX, 1, "weights", &out), DASS_NOMEM,
                 "size of weights: 18446744073709551615 + 1 is more than an address can reach");
}

/* The message without the amount available, which changes from run to run. */
static void assert_nomem(const char *start, const char *end)
{
    const char *text = dass_error_text();
    const size_t n_start = strlen(start);
    const size_t n_end = strlen(end);
    const bool good = strlen(text) > n_start + n_end && strncmp(text, start, n_start) == 0 &&
                      strcmp(text + strlen(text) - n_end, end) == 0 &&
                      strstr(text + n_start, "iB available") != NULL;
    if (!good) {
        print_error("got  %s\nwant %s...%s\n", text, start, end);
        fail();
    }
}

#define REMEDY "; use a smaller batch, image or network, or free memory"

static void test_mem_out_of_memory(void **state)
{
    (void)state;
    int local = 0;
    void *block = &local;
    assert_int_equal(dass_mem_alloc(SIZE_MAX - 5, "activations", &block), DASS_NOMEM);
    assert_null(block);
    assert_nomem("out of memory: activations asked for 16.00 EiB (18446744073709551610 bytes), ",
                 "iB available, more than an address can reach" REMEDY);
    /* 8 TiB: more than the machine has, less than it may be willing to promise. */
    assert_int_equal(dass_mem_alloc(8192 * 1024 * MIB, "activations", &block), DASS_NOMEM);
    assert_null(block);
    assert_nomem("out of memory: activations asked for 8.00 TiB (8796093022208 bytes), ", REMEDY);
    /* Just above what is there, swap included. */
    const size_t available = dass_mem_available();
    assert_true(available > 0);
    const dass_mem_stats before = dass_mem_get_stats();
    assert_int_equal(dass_mem_alloc(4 * available + 64 * 1024 * MIB, "images", &block), DASS_NOMEM);
    assert_nomem("out of memory: images asked for ", REMEDY);
    assert_int_equal(dass_mem_get_stats().n_live, before.n_live);
    assert_true(dass_mem_peak_rss() > MIB);
}

static void test_mem_fail_at(void **state)
{
    (void)state;
    void *block[3] = {NULL};
    dass_mem_fail_at(2);
    assert_int_equal(dass_mem_alloc(10, "first", &block[0]), DASS_OK);
    assert_int_equal(dass_mem_alloc(1536, "second", &block[1]), DASS_NOMEM);
    assert_nomem("out of memory: second asked for 1.50 KiB (1536 bytes), ",
                 "iB available (failure injected by a test)" REMEDY);
    assert_null(block[1]);
    assert_int_equal(dass_mem_alloc(10, "third", &block[2]), DASS_OK);
    dass_mem_free(block[0]);
    dass_mem_free(block[2]);
    dass_mem_fail_at(1);
    dass_mem_fail_at(0);
    assert_int_equal(dass_mem_alloc(10, "fourth", &block[0]), DASS_OK);
    dass_mem_free(block[0]);
}

static void alloc_sealed(void)
{
    void *block = NULL;
    dass_mem_seal(true);
    (void)dass_mem_alloc(10, "epoch buffer", &block);
}

static void free_sealed(void)
{
    void *block = NULL;
    (void)dass_mem_alloc(10, "epoch buffer", &block);
    dass_mem_seal(true);
    dass_mem_free(block);
    dass_mem_seal(false);
    (void)dass_mem_alloc(10, "epoch buffer", &block);
    dass_mem_free(block);
}

static void test_mem_seal(void **state)
{
    (void)state;
    char said[512];
    const int status = stderr_of(alloc_sealed, said, sizeof said);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(said, ": no allocation while memory is sealed, but epoch buffer asked "
                                 "for 10 bytes\n"));
    assert_int_equal(stderr_of(free_sealed, said, sizeof said), 0);
}

static void free_wild(void)
{
    static char wild[256];
    dass_mem_free(wild + 128);
}

static void test_mem_free_checks(void **state)
{
    (void)state;
    char said[512];
    const int status = stderr_of(free_wild, said, sizeof said);
    assert_true(WIFSIGNALED(status));
    assert_non_null(strstr(said, "dass: assertion failed at mem.c:"));
}

enum { N_THREADS = 4, N_ROUNDS = 2000 };

static void *alloc_in_thread(void *arg)
{
    (void)arg;
    for (size_t i = 0; i < N_ROUNDS; i++) {
        void *block = NULL;
        if (dass_mem_alloc(i % 300, "thread block", &block) != DASS_OK)
            return NULL;
        dass_mem_free(block);
    }
    return NULL;
}

static void test_mem_threads(void **state)
{
    (void)state;
    const dass_mem_stats before = dass_mem_get_stats();
    pthread_t threads[N_THREADS];
    for (size_t i = 0; i < N_THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, alloc_in_thread, NULL), 0);
    }
    for (size_t i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    const dass_mem_stats after = dass_mem_get_stats();
    assert_int_equal(after.n_allocs - before.n_allocs, N_THREADS * N_ROUNDS);
    assert_int_equal(after.n_live, before.n_live);
    assert_int_equal(after.live_bytes, before.live_bytes);
}

/* ---- arenas ---- */

static void test_arena_blocks(void **state)
{
    (void)state;
    const dass_mem_stats before = dass_mem_get_stats();
    dass_arena *a = NULL;
    assert_int_equal(dass_arena_make("test arena", &a), DASS_OK);
    enum { N_BLOCKS = 3000 };
    static unsigned char *blocks[N_BLOCKS];
    static size_t sizes[N_BLOCKS];
    dass_rng r = dass_rng_make(1, DASS_RNG_TEST, dass_name_hash("arena"), 0);
    for (size_t i = 0; i < N_BLOCKS; i++) {
        /* Mostly small, some larger than the chunk due. */
        sizes[i] = dass_rng_below(&r, i % 100 == 7 ? 300000 : 200);
        blocks[i] = dass_arena_alloc(a, sizes[i]);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % 16, 0);
        assert_true(all_zero(blocks[i], sizes[i]));
        memset(blocks[i], (int)(i % 251) + 1, sizes[i]);
    }
    /* No block was touched by another: they do not overlap. */
    for (size_t i = 0; i < N_BLOCKS; i++) {
        for (size_t j = 0; j < sizes[i]; j++)
            assert_int_equal(blocks[i][j], i % 251 + 1);
    }
    assert_true(dass_mem_get_stats().n_allocs - before.n_allocs < 60);
    dass_arena_free(a);
    dass_arena_free(NULL);
    const dass_mem_stats after = dass_mem_get_stats();
    assert_int_equal(after.n_live, before.n_live);
    assert_int_equal(after.live_bytes, before.live_bytes);
}

static void test_arena_chunks_grow(void **state)
{
    (void)state;
    const dass_mem_stats before = dass_mem_get_stats();
    dass_arena *a = NULL;
    assert_int_equal(dass_arena_make("test arena", &a), DASS_OK);
    /* 32 MiB in pieces of 1 KiB take 4, 8, ... KiB chunks: about 13. */
    for (size_t i = 0; i < 32 * KIB; i++)
        assert_non_null(dass_arena_alloc(a, KIB));
    assert_in_range(dass_mem_get_stats().n_allocs - before.n_allocs, 10, 18);
    /* A large block does not waste the free end of the chunk in use. */
    char *first = dass_arena_alloc(a, 16);
    assert_non_null(dass_arena_alloc(a, 40 * MIB));
    char *second = dass_arena_alloc(a, 16);
    assert_ptr_equal(second, first + 16);
    dass_arena_free(a);
    assert_int_equal(dass_mem_get_stats().live_bytes, before.live_bytes);
}

static void test_arena_text(void **state)
{
    (void)state;
    dass_arena *a = NULL;
    assert_int_equal(dass_arena_make("test arena", &a), DASS_OK);
    assert_string_equal(dass_arena_text(a, "conv/weights", 4), "conv");
    assert_string_equal(dass_arena_text(a, NULL, 0), "");
    assert_string_equal(dass_arena_printf(a, "cell %d/edge %s", 3, "0-2"), "cell 3/edge 0-2");
    char *wide = dass_arena_printf(a, "%20000d", 5);
    assert_int_equal(strlen(wide), 20000);
    dass_arena_free(a);
}

static void test_arena_out_of_memory(void **state)
{
    (void)state;
    const dass_mem_stats before = dass_mem_get_stats();
    dass_arena *a = NULL;
    dass_mem_fail_at(1);
    assert_int_equal(dass_arena_make("test arena", &a), DASS_NOMEM);
    assert_null(a);
    assert_int_equal(dass_arena_make("test arena", &a), DASS_OK);
    dass_mem_fail_at(1);
    assert_null(dass_arena_alloc(a, 100 * KIB));
    assert_nomem("out of memory: test arena asked for 100.03 KiB (102432 bytes), ",
                 "(failure injected by a test)" REMEDY);
    assert_non_null(dass_arena_alloc(a, 100 * KIB));
    assert_null(dass_arena_alloc(a, SIZE_MAX));
    assert_nomem("out of memory: test arena asked for 16.00 EiB (18446744073709551615 bytes), ",
                 "more than an address can reach" REMEDY);
    assert_null(dass_arena_text(a, "x", SIZE_MAX));
    dass_arena_free(a);
    assert_int_equal(dass_mem_get_stats().n_live, before.n_live);
}

static void arena_sealed(void)
{
    dass_arena *a = NULL;
    (void)dass_arena_make("graph", &a);
    dass_mem_seal(true);
    (void)dass_arena_alloc(a, 8);
}

static void test_arena_seal(void **state)
{
    (void)state;
    char said[512];
    assert_true(WIFSIGNALED(stderr_of(arena_sealed, said, sizeof said)));
    assert_non_null(strstr(said, "sealed, but graph asked for 8 bytes\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mem_blocks),        cmocka_unit_test(test_mem_grow),
        cmocka_unit_test(test_mem_checked_sizes), cmocka_unit_test(test_mem_out_of_memory),
        cmocka_unit_test(test_mem_fail_at),       cmocka_unit_test(test_mem_seal),
        cmocka_unit_test(test_mem_free_checks),   cmocka_unit_test(test_mem_threads),
        cmocka_unit_test(test_arena_blocks),      cmocka_unit_test(test_arena_chunks_grow),
        cmocka_unit_test(test_arena_text),        cmocka_unit_test(test_arena_out_of_memory),
        cmocka_unit_test(test_arena_seal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
