/* Executors: replay equals the first run bit for bit, a step allocates nothing, guard mode names the node that
 * misbehaves, a device that cannot do something says so, and lack of memory is clean.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <math.h>

#include "dass/bf16.h"
#include "dass/net.h"

static const double half[3] = {0.5, 0.5, 0.5};

static const dass_arch tiny = {
    .kind = DASS_NET_SUPERNET, .channels = 4, .layers = 3, .nodes = 2, .classes = 5, .in_channels = 3, .image = 8};

typedef struct rig {
    dass_backend *be;
    dass_store *s;
    dass_graph *g[2];
    dass_exec *e[2];
    dass_program *p;
} rig;

static dass_status rig_try(rig *r, const char *device, bool guard)
{
    *r = (rig){0};
    const dass_dtype real = dass_backend_real(device);
    DASS_TRY(dass_backend_open(device, &(dass_backend_options){.n_threads = 2}, &r->be));
    DASS_TRY(dass_store_make(real, &r->s));
    for (int t = 0; t < 2; t++) {
        const dass_phase ph = {.task = t ? DASS_TASK_WEIGHTS : DASS_TASK_ALPHA,
                               .stage = DASS_STAGE_DENSE,
                               .batch = 4,
                               .lower = DASS_LOWER_ALL,
                               .mean = half,
                               .std = half,
                               .pad = 1,
                               .flip = true};
        DASS_TRY(dass_phase_build(r->s, &tiny, &ph, real, r->be, &r->g[t]));
        DASS_TRY(dass_exec_make(r->be, r->g[t], &(dass_exec_options){.guard = guard}, &r->e[t]));
    }
    DASS_TRY(dass_store_commit(r->s, r->be, ((uint64_t)1 << DASS_N_BUFS) - 2));
    return dass_program_make(r->be, r->e, 2, dass_store_ptrs(r->s), DASS_N_BUFS, &r->p);
}

static void rig_close(rig *r)
{
    dass_program_free(r->p);
    for (int t = 0; t < 2; t++) {
        dass_exec_free(r->e[t]);
        dass_graph_free(r->g[t]);
    }
    dass_store_free(r->s);
    dass_backend_close(r->be);
}

static void feed(rig *r)
{
    uint8_t images[4 * 8 * 8 * 3];
    int32_t labels[4];
    int32_t samples[4];
    dass_rng rng = dass_rng_make(5, DASS_RNG_TEST, 1, 0);
    for (size_t i = 0; i < sizeof images; i++)
        images[i] = (uint8_t)dass_rng_below(&rng, 256);
    for (int i = 0; i < 4; i++) {
        labels[i] = i;
        samples[i] = 10 * i;
    }
    const dass_step_block step = {.lr = {0.05, 0.05, 0.1, 0.01},
                                  .weight_decay = {3e-4, 3e-4, 3e-4, 1e-3},
                                  .momentum = 0.9,
                                  .clip = 5,
                                  .beta1 = 0.5,
                                  .beta2 = 0.999,
                                  .adam_eps = 1e-8,
                                  .adam_step = 1,
                                  .seed = 3};
    assert_int_equal(dass_store_write(r->s, DASS_BUF_IMAGES, images, sizeof images), DASS_OK);
    assert_int_equal(dass_store_write(r->s, DASS_BUF_LABELS, labels, sizeof labels), DASS_OK);
    assert_int_equal(dass_store_write(r->s, DASS_BUF_SAMPLES, samples, sizeof samples), DASS_OK);
    assert_int_equal(dass_store_write(r->s, DASS_BUF_STEP, &step, sizeof step), DASS_OK);
}

/* Everything that a few steps change, as bytes. Caller frees. */
static unsigned char *run_steps(rig *r, int n, size_t *n_bytes)
{
    assert_int_equal(dass_store_init(r->s, 7), DASS_OK);
    static const dass_buf moved[] = {DASS_BUF_W_MOM, DASS_BUF_AF_MOM, DASS_BUF_ALPHA_M, DASS_BUF_ALPHA_V};
    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++)
        assert_int_equal(dass_store_zero(r->s, moved[i]), DASS_OK);
    feed(r);
    for (int i = 0; i < n; i++)
        assert_int_equal(dass_program_run(r->p), DASS_OK);
    static const dass_buf out[] = {DASS_BUF_W, DASS_BUF_AF, DASS_BUF_ALPHA, DASS_BUF_W_MOM, DASS_BUF_LOSS};
    size_t total = 0;
    for (size_t i = 0; i < sizeof out / sizeof *out; i++)
        total += dass_store_buf_bytes(r->s, out[i]);
    unsigned char *bytes = test_malloc(total);
    size_t at = 0;
    for (size_t i = 0; i < sizeof out / sizeof *out; i++) {
        const size_t n_here = dass_store_buf_bytes(r->s, out[i]);
        assert_int_equal(dass_store_read(r->s, out[i], bytes + at, n_here), DASS_OK);
        at += n_here;
    }
    *n_bytes = total;
    return bytes;
}

static void replay_is_bit_exact(void **state)
{
    (void)state;
    static const char *const devices[] = {"host", "ref", "ref64"};
    for (size_t d = 0; d < 3; d++) {
        rig r;
        const dass_status st = rig_try(&r, devices[d], false);
        if (st != DASS_OK)
            print_error("%s\n", dass_error_text());
        assert_int_equal(st, DASS_OK);
        size_t n = 0;
        unsigned char *a = run_steps(&r, 3, &n);
        unsigned char *b = run_steps(&r, 3, &n);
        assert_memory_equal(a, b, n);
        unsigned char *c = run_steps(&r, 2, &n);
        assert_true(memcmp(a, c, n) != 0); /* the steps do something */
        test_free(a);
        test_free(b);
        test_free(c);
        rig_close(&r);
    }
}

static void a_step_allocates_nothing(void **state)
{
    (void)state;
    rig r;
    assert_int_equal(rig_try(&r, "host", false), DASS_OK);
    size_t n = 0;
    unsigned char *a = run_steps(&r, 1, &n);
    test_free(a);
    const size_t before = dass_mem_get_stats().n_allocs;
    dass_mem_seal(true);
    for (int i = 0; i < 3; i++)
        assert_int_equal(dass_program_run(r.p), DASS_OK);
    dass_mem_seal(false);
    assert_int_equal(dass_mem_get_stats().n_allocs, before);
    rig_close(&r);
}

static void guard_passes_on_good_kernels(void **state)
{
    (void)state;
    static const char *const devices[] = {"host", "ref64"};
    for (size_t d = 0; d < 2; d++) {
        rig r;
        assert_int_equal(rig_try(&r, devices[d], true), DASS_OK);
        assert_int_equal(dass_store_init(r.s, 7), DASS_OK);
        feed(&r);
        const dass_status st = dass_program_run(r.p);
        if (st != DASS_OK)
            print_error("%s\n", dass_error_text());
        assert_int_equal(st, DASS_OK);
        rig_close(&r);
    }
}

/* ---- a device that misbehaves: the reference, with the relu's kernel replaced ---------------------------------- */

enum { FAULT_OVERRUN, FAULT_UNWRITTEN, FAULT_NAN };
static int planted;

typedef struct bad_relu {
    void *dst;
    int64_t n;
    bool half; /* bf16 */
} bad_relu;

static void bad_put(const bad_relu *b, int64_t i, float x)
{
    if (b->half)
        ((uint16_t *)b->dst)[i] = dass_bf16_of(x);
    else
        ((float *)b->dst)[i] = x;
}

static dass_status bad_run(dass_backend *be, void *impl)
{
    (void)be;
    const bad_relu *b = impl;
    for (int64_t i = 0; i < b->n - (planted == FAULT_UNWRITTEN); i++)
        bad_put(b, i, planted == FAULT_NAN && i == 3 ? NAN : 1.0f);
    if (planted == FAULT_OVERRUN)
        bad_put(b, b->n + 5, 1.0f);
    return DASS_OK;
}

static dass_backend_ops bad_ops;
static const dass_backend_ops *good_ops;

static dass_status bad_select(dass_backend *be, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *out)
{
    if (g->nodes[n].op != DASS_OP_RELU)
        return good_ops->select(be, mem, g, n, out);
    bad_relu *b = dass_arena_alloc(mem, sizeof *b);
    assert_non_null(b);
    b->n = dass_value_count(&g->vals[dass_node_out(g, n)[0]]);
    b->half = g->vals[dass_node_out(g, n)[0]].dtype == DASS_BF16;
    *out = (dass_kernel){.run = bad_run, .impl = b, .name = "bad:relu"};
    return DASS_OK;
}

static dass_status bad_bind(dass_backend *be, const dass_graph *g, dass_node n, dass_kernel *k, void *const *args,
                            void *ws)
{
    if (g->nodes[n].op != DASS_OP_RELU)
        return good_ops->bind(be, g, n, k, args, ws);
    ((bad_relu *)k->impl)->dst = args[1];
    return DASS_OK;
}

static void bad_drop(dass_backend *be, dass_kernel *k)
{
    if (k->run != bad_run && good_ops->drop)
        good_ops->drop(be, k);
}

static void plant(dass_precision precision, const char *expected)
{
    static const int32_t dim[] = {1, 3, 6, 6};
    dass_backend *be = NULL;
    assert_int_equal(dass_backend_open("ref", &(dass_backend_options){.precision = precision}, &be), DASS_OK);
    good_ops = be->ops;
    bad_ops = *good_ops;
    bad_ops.select = bad_select;
    bad_ops.bind = bad_bind;
    bad_ops.drop = bad_drop;
    be->ops = &bad_ops;
    dass_graph *g = NULL;
    assert_int_equal(dass_graph_make_stored(DASS_F32, be->stored, &g), DASS_OK);
    dass_val x = dass_cast(g, dass_ref(g, "x", 1, 0, DASS_LAYOUT_NHWC, 4, dim), g->stored);
    x = dass_avg_pool(g, x, (dass_pool_attr){.k = 3, .stride = 1, .pad = 1});
    x = dass_cast(g, dass_relu(g, x, DASS_ACT_RELU), g->real);
    dass_copy(g, x, dass_ref(g, "y", 2, 0, DASS_LAYOUT_NHWC, 4, dim));
    assert_int_equal(dass_graph_finish(g), DASS_OK);
    dass_exec *e = NULL;
    assert_int_equal(dass_exec_make(be, g, &(dass_exec_options){.guard = true, .no_in_place = true}, &e), DASS_OK);
    float buf[2][108] = {{0}};
    void *bufs[3] = {NULL, buf[0], buf[1]};
    dass_program *p = NULL;
    assert_int_equal(dass_program_make(be, &e, 1, bufs, 3, &p), DASS_OK);
    assert_int_not_equal(dass_program_run(p), DASS_OK);
    if (!strstr(dass_error_text(), expected))
        print_error("got: %s\n", dass_error_text());
    assert_non_null(strstr(dass_error_text(), expected));
    dass_program_free(p);
    dass_exec_free(e);
    dass_graph_free(g);
    be->ops = good_ops;
    dass_backend_close(be);
}

static void guard_names_the_culprit(void **state)
{
    (void)state;
    static const char *const expected[] = {"bad:relu wrote 20 bytes past the end of relu",
                                           "element 107 of 'relu' is not finite (or was never written) after node 3",
                                           "element 3 of 'relu' is not finite"};
    for (planted = 0; planted < 3; planted++)
        plant(DASS_PRECISION_FP32, expected[planted]);
    for (planted = 0; planted < 3; planted++) /* the tail is looked at by words of 4 bytes */
        plant(DASS_PRECISION_BF16, planted == 0 ? "bad:relu wrote 8 bytes past the end of relu" : expected[planted]);
}

static void refusals_say_why(void **state)
{
    (void)state;
    dass_backend *be = NULL;
    for (size_t i = 0; dass_backend_name(i) != NULL; i++) {
        if (dass_backend_why_not(i) == NULL)
            continue;
        assert_int_equal(dass_backend_open(dass_backend_name(i), NULL, &be), DASS_UNSUPPORTED);
        assert_null(be);
        assert_non_null(strstr(dass_error_text(), dass_backend_why_not(i)));
    }
    assert_int_equal(dass_backend_open("gpu", NULL, &be), DASS_ARG);
    assert_string_equal(dass_error_text(), "no backend is called 'gpu'; there are host, ref, ref64, null, cuda");
    rig r;
    assert_int_equal(rig_try(&r, "null", false), DASS_UNSUPPORTED); /* plans, but owns no memory */
    rig_close(&r);
    dass_graph *g = NULL;
    assert_int_equal(dass_graph_make(DASS_F64, &g), DASS_OK);
    assert_int_equal(dass_graph_finish(g), DASS_OK);
    assert_int_equal(dass_backend_open("host", NULL, &be), DASS_OK);
    dass_exec *e = NULL;
    assert_int_equal(dass_exec_make(be, g, NULL, &e), DASS_ARG);
    assert_string_equal(dass_error_text(), "exec: the graph is in f64, device 'host' computes in f32");
    dass_graph_free(g);
    dass_backend_close(be);
}

static void out_of_memory_is_clean(void **state)
{
    (void)state;
    const size_t live = dass_mem_get_stats().n_live;
    size_t n_failures = 0;
    for (size_t k = 1; k < 2000; k += 1 + k / 16) {
        rig r;
        dass_mem_fail_at(k);
        const dass_status st = rig_try(&r, "host", false);
        dass_mem_fail_at(0);
        rig_close(&r);
        assert_int_equal(dass_mem_get_stats().n_live, live);
        if (st == DASS_OK)
            break;
        assert_int_equal(st, DASS_NOMEM);
        n_failures++;
    }
    assert_true(n_failures > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replay_is_bit_exact),
        cmocka_unit_test(a_step_allocates_nothing),
        cmocka_unit_test(guard_passes_on_good_kernels),
        cmocka_unit_test(guard_names_the_culprit),
        cmocka_unit_test(refusals_say_why),
        cmocka_unit_test(out_of_memory_is_clean),
    };
    return cmocka_run_group_tests_name("exec", tests, NULL, NULL);
}
