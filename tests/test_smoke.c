/* What a device must do before anything else is worth trying on it, one thing a test: it is found, runs a kernel of
 * ours and a product of its library, records and replays, and copies. Every answer is known exactly. A name as argument
 * runs that test alone, so that one that hangs takes no other along.
 *
 * Skips where there is neither a GPU nor the double.
 */
#include <stdlib.h>

#include "double.h"

#include "dass/clock.h"
#include "dass/exec.h"
#include "dass/mem.h"

enum { BUF_NONE, BUF_X, BUF_W, BUF_Y, N_BUFS };

typedef struct rig {
    dass_backend *be;
    dass_graph *g;
    dass_exec *e;
    dass_program *p;
    void *bufs[N_BUFS];
} rig;

/* Integers from -6 to 6: sums of some products of them are exact in fp32. */
static float number(size_t i)
{
    return (float)((int)(i * 7919 % 13) - 6);
}

static float *host_block(size_t bytes)
{
    void *block = NULL;
    check_ok(dass_mem_alloc(bytes, "test", &block));
    return block;
}

static void rig_open(rig *r, size_t bytes)
{
    *r = (rig){0};
    need_cuda();
    check_ok(dass_backend_open("cuda", NULL, &r->be));
    for (int i = 1; i < N_BUFS; i++)
        check_ok(r->be->ops->alloc(r->be, bytes, "test", &r->bufs[i]));
    check_ok(dass_graph_make(DASS_F32, &r->g));
}

static void rig_plan(rig *r)
{
    check_ok(dass_graph_finish(r->g));
    check_ok(dass_exec_make(r->be, r->g, NULL, &r->e));
    check_ok(dass_program_make(r->be, &r->e, 1, r->bufs, N_BUFS, &r->p));
    for (dass_node n = 1; n < r->g->n_nodes; n++)
        print_message("  %s\n", dass_exec_kernel_name(r->e, n));
}

static void rig_close(rig *r)
{
    dass_program_free(r->p);
    dass_exec_free(r->e);
    dass_graph_free(r->g);
    for (int i = 1; i < N_BUFS; i++)
        r->be->ops->free(r->be, r->bufs[i]);
    dass_backend_close(r->be);
}

static void rig_write(const rig *r, int buf, const float *x, size_t n)
{
    check_ok(r->be->ops->write(r->be, r->bufs[buf], x, n * sizeof *x));
}

/* Buffer Y has these numbers. */
static void rig_expect(const rig *r, const float *want, size_t n)
{
    float *got = host_block(n * sizeof *got);
    check_ok(r->be->ops->read(r->be, got, r->bufs[BUF_Y], n * sizeof *got));
    for (size_t i = 0; i < n; i++)
        if (got[i] != want[i])
            fail_msg("element %zu of %zu is %.9g, not %.9g", i, n, (double)got[i], (double)want[i]);
    dass_mem_free(got);
}

static void a_device_is_found(void **state)
{
    (void)state;
    rig r;
    char text[2048];
    rig_open(&r, 256);
    dass_backend_describe("cuda", text, sizeof text);
    print_message("%s\n", text);
    rig_close(&r);
}

static void one_kernel(void **state)
{
    (void)state;
    enum { N = 8 * 8 * 16 };
    static const int32_t dim[4] = {1, 16, 8, 8};
    float x[N];
    float want[N];
    rig r;
    rig_open(&r, sizeof x);
    dass_place(r.g, dass_relu(r.g, dass_ref(r.g, "x", BUF_X, 0, DASS_LAYOUT_NHWC, 4, dim), DASS_ACT_RELU), BUF_Y, 0);
    rig_plan(&r);
    for (size_t i = 0; i < N; i++) {
        x[i] = number(i);
        want[i] = x[i] > 0 ? x[i] : 0;
    }
    rig_write(&r, BUF_X, x, N);
    check_ok(dass_program_run(r.p));
    rig_expect(&r, want, N);
    rig_close(&r);
}

static void one_product(void **state)
{
    (void)state;
    enum { ROWS = 64, IN = 32, OUT = 48 };
    float x[ROWS * IN];
    float w[OUT * IN];
    float want[ROWS * OUT];
    rig r;
    rig_open(&r, sizeof want);
    const dass_val a = dass_ref(r.g, "x", BUF_X, 0, DASS_LAYOUT_NHWC, 4, (const int32_t[]){ROWS, IN, 1, 1});
    const dass_val b = dass_ref(r.g, "w", BUF_W, 0, DASS_LAYOUT_OIHW, 4, (const int32_t[]){OUT, IN, 1, 1});
    const dass_conv_attr pointwise = {.kh = 1, .kw = 1, .stride = 1, .dil = 1, .groups = 1};
    dass_place(r.g, dass_conv(r.g, a, b, 0, pointwise), BUF_Y, 0);
    rig_plan(&r);
    for (size_t i = 0; i < N_OF(x); i++)
        x[i] = number(i);
    for (size_t i = 0; i < N_OF(w); i++)
        w[i] = number(3 * i + 1);
    for (size_t row = 0; row < ROWS; row++)
        for (size_t o = 0; o < OUT; o++) {
            float sum = 0;
            for (size_t i = 0; i < IN; i++)
                sum += x[row * IN + i] * w[o * IN + i];
            want[row * OUT + o] = sum;
        }
    rig_write(&r, BUF_X, x, N_OF(x));
    rig_write(&r, BUF_W, w, N_OF(w));
    check_ok(dass_program_run(r.p));
    rig_expect(&r, want, N_OF(want));
    rig_close(&r);
}

/* The second run records and the third replays: each sees the input of its time. */
static void capture_and_replay(void **state)
{
    (void)state;
    enum { N = 1024 };
    static const int32_t n = N;
    static const int32_t dim[4] = {1, 16, 8, 8};
    float x[N];
    float want[N];
    rig r;
    rig_open(&r, sizeof x);
    dass_place(r.g, dass_relu(r.g, dass_ref(r.g, "x", BUF_X, 0, DASS_LAYOUT_NHWC, 4, dim), DASS_ACT_RELU), BUF_W, 0);
    (void)dass_copy(r.g, dass_ref(r.g, "from", BUF_W, 0, DASS_LAYOUT_FLAT, 1, &n),
                    dass_ref(r.g, "to", BUF_Y, 0, DASS_LAYOUT_FLAT, 1, &n));
    rig_plan(&r);
    for (size_t run = 0; run < 3; run++) {
        for (size_t i = 0; i < N; i++) {
            x[i] = number(i + run);
            want[i] = x[i] > 0 ? x[i] : 0;
        }
        rig_write(&r, BUF_X, x, N);
        check_ok(dass_program_run(r.p));
        rig_expect(&r, want, N);
    }
    if (dass_program_recorded(r.p, 0, 1) == 0)
        fail_msg("the device recorded nothing");
    rig_close(&r);
}

static void a_copy_of_64_megabytes(void **state)
{
    (void)state;
    enum { N = 16000000 };
    static const int32_t n = N;
    const double gb = N * sizeof(float) * 1e-9;
    rig r;
    rig_open(&r, N * sizeof(float));
    float *x = host_block(N * sizeof *x);
    (void)dass_copy(r.g, dass_ref(r.g, "from", BUF_X, 0, DASS_LAYOUT_FLAT, 1, &n),
                    dass_ref(r.g, "to", BUF_Y, 0, DASS_LAYOUT_FLAT, 1, &n));
    rig_plan(&r);
    for (size_t i = 0; i < N; i++)
        x[i] = number(i);
    double at[4] = {dass_now_sec()};
    rig_write(&r, BUF_X, x, N);
    check_ok(r.be->ops->sync(r.be));
    at[1] = dass_now_sec();
    check_ok(dass_program_run(r.p));
    at[2] = dass_now_sec();
    rig_expect(&r, x, N);
    at[3] = dass_now_sec();
    print_message("  down %.2f GB/s, there (the first time) %.2f GB/s, up and compared %.2f GB/s\n",
                  gb / (at[1] - at[0]), 2 * gb / (at[2] - at[1]), gb / (at[3] - at[2]));
    dass_mem_free(x);
    rig_close(&r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_is_found),
        cmocka_unit_test(one_kernel),
        cmocka_unit_test(one_product),
        cmocka_unit_test(capture_and_replay),
        cmocka_unit_test(a_copy_of_64_megabytes),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("smoke", tests, NULL, NULL);
}
