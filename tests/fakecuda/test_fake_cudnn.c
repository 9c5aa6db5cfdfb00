/* The cuDNN module (src/cuda/cuda_dnn*.c) and its double (fake_cudnn.c), without a GPU: convolutions in all kinds
 * against plain loops that share nothing with either, the faults that the double must report, the filters of engines,
 * the cache of plans, and running out of memory. Numbers of a real card are not tested here.
 *
 *     gcc -std=gnu11 -O2 -g -Iinclude -Itests -Isrc/cuda -isystem /usr/local/cuda/include \
 *         tests/fakecuda/test_fake_cudnn.c tests/fakecuda/fake_cudnn.c src/cuda/cuda_dnn*.c \
 *         src/base/{status,mem,log,file}.c -L/usr/local/cuda/lib64 -lcudnn -lcmocka -ljansson -ldl -lm -lpthread \
 *         -o test_fake_cudnn
 *     LD_LIBRARY_PATH=FOLDER_OF_ZERO_DEVICES:/usr/local/cuda/lib64 ./test_fake_cudnn
 *
 * from the root of the repository, FOLDER_OF_ZERO_DEVICES holding what tests/cudnn_plans/zero_devices.c builds.
 */
#include "check.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>

#include "cuda_dnn_private.h"
#include "dass/mem.h"
#include "fake_cudnn.h"

#define GUARD 64 /* bytes around every block, in which nothing may be written */

/* ---- a tiny device memory ---------------------------------------------------------------------------------------- */

typedef struct block {
    char *p;
    size_t bytes;
    bool live;
} block;

static block blocks[64];
static int n_blocks;

bool fake_cuda_inside(const void *p, size_t bytes)
{
    for (int i = 0; i < n_blocks; i++) {
        const block *const b = &blocks[i];
        const char *const at = p;
        if (b->live && at >= b->p && at <= b->p + b->bytes && bytes <= (size_t)(b->p + b->bytes - at))
            return true;
    }
    return false;
}

/* Filled with NaNs, so that what nobody wrote shows. */
static void *device(size_t bytes)
{
    char *const all = aligned_alloc(64, (bytes + 2 * GUARD + 63) / 64 * 64);
    assert_non_null(all);
    memset(all, 0x5a, bytes + 2 * GUARD);
    memset(all + GUARD, 0xff, bytes);
    assert_true(n_blocks < (int)N_OF(blocks));
    blocks[n_blocks++] = (block){all + GUARD, bytes, true};
    return all + GUARD;
}

static void device_reset(void)
{
    for (int i = 0; i < n_blocks; i++) {
        for (int k = 0; k < GUARD; k++) {
            assert_int_equal(blocks[i].p[-1 - k], 0x5a);
            assert_int_equal(blocks[i].p[blocks[i].bytes + (size_t)k], 0x5a);
        }
        free(blocks[i].p - GUARD);
    }
    n_blocks = 0;
}

/* ---- one convolution: memory, plan, and the plain loops ---------------------------------------------------------- */

typedef struct rig {
    dass__dnn_conv c;
    int64_t oh, ow, nx, nw, ny;
    size_t bytes, w_bytes; /* of an element of x and y, of w */
    void *x, *w, *y, *bias, *ws;
    dass__dnn_plan *plan;
} rig;

static char *card; /* JSON of the card */
static char folder[] = "/tmp/test_fake_cudnn.XXXXXX";

static uint32_t seed = 1;

static double draw(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (double)(seed >> 8) / (double)(1 << 24) * 2.0 - 1.0;
}

static size_t bytes_of(const rig *r, const void *p)
{
    return p == r->w ? r->w_bytes : r->bytes;
}

static double get(const rig *r, const void *p, int64_t i)
{
    if (bytes_of(r, p) == 4)
        return (double)((const float *)p)[i];
    const uint32_t bits = (uint32_t)((const uint16_t *)p)[i] << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return (double)f;
}

/* bf16 by cutting: the inputs are then exact. */
static void fill(const rig *r, void *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float f = (float)draw();
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        if (bytes_of(r, p) == 4)
            ((float *)p)[i] = f;
        else
            ((uint16_t *)p)[i] = (uint16_t)(bits >> 16);
    }
}

/* Plan it and give it memory; x, w or y is left as it is (NaN) when it is the output. */
static void rig_make(rig *r, dass__dnn *dnn, dass__dnn_conv c)
{
    const bool bf16 = c.precision == DASS_PRECISION_BF16;
    *r = (rig){.c = c, .bytes = bf16 ? 2 : 4, .w_bytes = bf16 && c.kind != DASS__DNN_WEIGHTS ? 2 : 4};
    r->oh = (c.ih + 2 * c.pad - c.dil * (c.kh - 1) - 1) / c.stride + 1;
    r->ow = (c.iw + 2 * c.pad - c.dil * (c.kw - 1) - 1) / c.stride + 1;
    r->nx = (int64_t)c.n * c.ih * c.iw * c.ic;
    r->nw = (int64_t)c.oc * c.kh * c.kw * (c.ic / c.groups);
    r->ny = (int64_t)c.n * r->oh * r->ow * c.oc;
    r->x = device((size_t)r->nx * r->bytes);
    r->w = device((size_t)r->nw * r->w_bytes);
    r->y = device((size_t)r->ny * r->bytes);
    if (c.kind != DASS__DNN_DATA)
        fill(r, r->x, r->nx);
    if (c.kind != DASS__DNN_WEIGHTS)
        fill(r, r->w, r->nw);
    if (c.kind != DASS__DNN_FORWARD)
        fill(r, r->y, r->ny);
    if (c.bias) {
        r->bias = device((size_t)c.oc * sizeof(float));
        for (int32_t k = 0; k < c.oc; k++)
            ((float *)r->bias)[k] = (float)(4.0 * draw());
    }
    check_ok(dass__dnn_plan_make(dnn, &c, &r->plan));
    if (dass__dnn_plan_ws(r->plan) > 0)
        r->ws = device(dass__dnn_plan_ws(r->plan));
}

static dass_status rig_bind(rig *r)
{
    if (r->c.kind == DASS__DNN_FORWARD)
        return dass__dnn_plan_bind(r->plan, r->x, r->w, r->bias, r->y, r->ws);
    if (r->c.kind == DASS__DNN_DATA)
        return dass__dnn_plan_bind(r->plan, r->y, r->w, NULL, r->x, r->ws);
    return dass__dnn_plan_bind(r->plan, r->x, r->y, NULL, r->w, r->ws);
}

static void rig_free(rig *r)
{
    dass__dnn_plan_free(r->plan);
    device_reset();
}

/* Visit every product x[i] * w[j] that y[k] sums. */
static void products(const rig *r, void (*visit)(const rig *, int64_t i, int64_t j, int64_t k, double *out),
                     double *out)
{
    const dass__dnn_conv *const c = &r->c;
    const int64_t cg = c->ic / c->groups, kg = c->oc / c->groups;
    for (int64_t b = 0; b < c->n; b++)
        for (int64_t o = 0; o < c->oc; o++)
            for (int64_t p = 0; p < r->oh; p++)
                for (int64_t q = 0; q < r->ow; q++)
                    for (int64_t a = 0; a < cg; a++)
                        for (int64_t s = 0; s < c->kh; s++)
                            for (int64_t t = 0; t < c->kw; t++) {
                                const int64_t h = p * c->stride + s * c->dil - c->pad;
                                const int64_t w = q * c->stride + t * c->dil - c->pad;
                                if (h < 0 || h >= c->ih || w < 0 || w >= c->iw)
                                    continue;
                                visit(r, ((b * c->ih + h) * c->iw + w) * c->ic + o / kg * cg + a,
                                      ((o * c->kh + s) * c->kw + t) * cg + a, ((b * r->oh + p) * r->ow + q) * c->oc + o,
                                      out);
                            }
}

static void to_y(const rig *r, int64_t i, int64_t j, int64_t k, double *out)
{
    out[k] += get(r, r->x, i) * get(r, r->w, j);
}

static void to_x(const rig *r, int64_t i, int64_t j, int64_t k, double *out)
{
    out[i] += get(r, r->y, k) * get(r, r->w, j);
}

static void to_w(const rig *r, int64_t i, int64_t j, int64_t k, double *out)
{
    out[j] += get(r, r->x, i) * get(r, r->y, k);
}

static double activate(const rig *r, int64_t i, double v)
{
    if (r->c.bias)
        v += (double)((const float *)r->bias)[i % r->c.oc];
    if (r->c.act != DASS_ACT_NONE && v < 0.0)
        v = 0.0;
    return r->c.act == DASS_ACT_RELU6 && v > 6.0 ? 6.0 : v;
}

/* The output against the plain sum, to `tolerance` of the largest number in it. */
static void compare(const rig *r, double tolerance)
{
    void (*const to[])(const rig *, int64_t, int64_t, int64_t, double *) = {to_y, to_x, to_w};
    const void *const got[] = {r->y, r->x, r->w};
    const int64_t n = ((const int64_t[]){r->ny, r->nx, r->nw})[r->c.kind];
    double *const want = calloc((size_t)n, sizeof *want);
    assert_non_null(want);
    products(r, to[r->c.kind], want);
    double size = 0.0, worst = 0.0;
    for (int64_t i = 0; i < n; i++) {
        want[i] = r->c.kind == DASS__DNN_FORWARD ? activate(r, i, want[i]) : want[i];
        size = fmax(size, fabs(want[i]));
    }
    assert_true(size > 0.1);
    for (int64_t i = 0; i < n; i++) {
        const double e = fabs(get(r, got[r->c.kind], i) - want[i]) / size;
        worst = e <= worst ? worst : e; /* a NaN is the worst */
    }
    free(want);
    char text[DASS__DNN_TEXT];
    if (!(worst <= tolerance)) {
        print_error("%s by %s: error %g\n", dass__dnn_conv_text(&r->c, text, sizeof text), dass__dnn_plan_name(r->plan),
                    worst);
        fail();
    }
}

static dass__dnn *open_with(dass__dnn_options opt)
{
    dass__dnn *dnn = NULL;
    opt.device_json = card;
    check_ok(dass__dnn_open(0, NULL, &opt, &dnn));
    return dnn;
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

/* The twelve shapes; kind and precision are set by the tests. */
static const dass__dnn_conv shapes[] = {
    {.n = 2, .ic = 8, .ih = 9, .iw = 7, .oc = 16, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .dil = 1, .groups = 1},
    {.n = 2, .ic = 8, .ih = 9, .iw = 7, .oc = 16, .kh = 3, .kw = 3, .stride = 2, .pad = 1, .dil = 1, .groups = 1},
    {.n = 3, .ic = 3, .ih = 8, .iw = 8, .oc = 16, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .dil = 1, .groups = 1},
    {.n = 2, .ic = 3, .ih = 16, .iw = 16, .oc = 32, .kh = 3, .kw = 3, .stride = 2, .pad = 1, .dil = 1, .groups = 1},
    {.n = 1, .ic = 3, .ih = 17, .iw = 17, .oc = 8, .kh = 7, .kw = 7, .stride = 2, .pad = 3, .dil = 1, .groups = 1},
    {.n = 2, .ic = 8, .ih = 9, .iw = 9, .oc = 8, .kh = 3, .kw = 3, .stride = 1, .pad = 2, .dil = 2, .groups = 1},
    {.n = 2, .ic = 16, .ih = 6, .iw = 5, .oc = 8, .kh = 3, .kw = 3, .stride = 1, .pad = 1, .dil = 1, .groups = 4},
    {.n = 2, .ic = 8, .ih = 9, .iw = 9, .oc = 8, .kh = 5, .kw = 5, .stride = 2, .pad = 4, .dil = 2, .groups = 8},
    {.n = 2, .ic = 5, .ih = 6, .iw = 7, .oc = 7, .kh = 3, .kw = 3, .stride = 1, .pad = 0, .dil = 1, .groups = 1},
    {.n = 2, .ic = 16, .ih = 5, .iw = 5, .oc = 24, .kh = 1, .kw = 1, .stride = 1, .pad = 0, .dil = 1, .groups = 1},
    {.n = 2, .ic = 8, .ih = 8, .iw = 8, .oc = 16, .kh = 1, .kw = 1, .stride = 2, .pad = 0, .dil = 1, .groups = 1},
    {.n = 4, .ic = 20, .ih = 1, .iw = 1, .oc = 10, .kh = 1, .kw = 1, .stride = 1, .pad = 0, .dil = 1, .groups = 1},
};

static void run_case(dass__dnn *dnn, dass__dnn_conv c, double tolerance)
{
    rig r;
    rig_make(&r, dnn, c);
    check_ok(rig_bind(&r));
    const long before = fake_cudnn_runs();
    for (int twice = 0; twice < 2; twice++)
        check_ok(dass__dnn_run(dnn, r.plan));
    assert_int_equal(fake_cudnn_runs(), before + 2);
    compare(&r, tolerance);
    rig_free(&r);
}

static void run_all(dass_precision precision, double tolerance)
{
    dass__dnn *dnn = open_with((dass__dnn_options){.deterministic = true});
    for (size_t i = 0; i < N_OF(shapes); i++)
        for (int k = 0; k < DASS__DNN_KINDS; k++) {
            dass__dnn_conv c = shapes[i];
            c.kind = (dass__dnn_kind)k;
            c.precision = precision;
            if (dass__dnn_conv_exists(&c))
                run_case(dnn, c, k == DASS__DNN_WEIGHTS ? 1e-5 : tolerance);
        }
    dass__dnn_close(dnn);
}

static void test_three_kinds(void **state)
{
    (void)state;
    run_all(DASS_PRECISION_FP32, 1e-5);
}

static void test_bf16(void **state)
{
    (void)state;
    run_all(DASS_PRECISION_BF16, 4e-3); /* half a unit of 8 bits */
}

/* Gradients of weights whose sums no engine keeps in fp32 are refused, not rounded. */
static void test_bf16_sums(void **state)
{
    (void)state;
    dass__dnn *dnn = open_with((dass__dnn_options){.deterministic = true});
    int refused = 0;
    for (size_t i = 0; i < N_OF(shapes); i++) {
        dass__dnn_plan *p = NULL;
        dass__dnn_conv c = shapes[i];
        c.precision = DASS_PRECISION_BF16;
        c.kind = DASS__DNN_WEIGHTS;
        if (dass__dnn_conv_exists(&c))
            continue;
        assert_int_equal(dass__dnn_plan_make(dnn, &c, &p), DASS_UNSUPPORTED);
        assert_null(p);
        assert_non_null(strstr(dass_error_text(), "widen its inputs"));
        refused++;
    }
    assert_true(refused > 0 && refused < (int)N_OF(shapes));
    dass__dnn_close(dnn);
}

static void test_bias_and_activation(void **state)
{
    (void)state;
    dass__dnn *dnn = open_with((dass__dnn_options){.deterministic = true});
    for (size_t i = 0; i < N_OF(shapes); i += 2)
        for (int k = 1; k < 6; k++) {
            dass__dnn_conv c = shapes[i];
            c.bias = k & 1;
            c.act = (dass_act)(k / 2);
            run_case(dnn, c, 1e-5);
        }
    dass__dnn_conv c = shapes[0];
    c.precision = DASS_PRECISION_BF16;
    c.bias = true;
    c.act = DASS_ACT_RELU6;
    run_case(dnn, c, 4e-3);
    dass__dnn_close(dnn);
}

/* ---- faults ------------------------------------------------------------------------------------------------------ */

static dass__dnn *fault_dnn;
static rig *fault_rig;
static dass_status fault_status;

static void run_fault(void)
{
    fault_status = dass__dnn_run(fault_dnn, fault_rig->plan);
    (void)fprintf(stderr, "status %s: %s\n", dass_status_name(fault_status), dass_error_text());
}

/* Running fails, with these words of the double. */
static void assert_reported(rig *r, dass__dnn *dnn, const char *words)
{
    char buf[4096];
    fault_dnn = dnn;
    fault_rig = r;
    const int status = stderr_of(run_fault, buf, sizeof buf);
    assert_true(WIFEXITED(status));
    if (strstr(buf, words) == NULL || strstr(buf, "CUDNN_STATUS_BAD_PARAM") == NULL) {
        print_error("wanted '%s', got:\n%s", words, buf);
        fail();
    }
}

static const block *block_of(const void *p)
{
    for (int i = 0; i < n_blocks; i++)
        if (blocks[i].p == p)
            return &blocks[i];
    fail();
    return NULL;
}

static void test_faults_in_memory(void **state)
{
    (void)state;
    dass__dnn *dnn = open_with((dass__dnn_options){0});
    dass__dnn_conv c = shapes[0];
    rig r;
    rig_make(&r, dnn, c);
    check_ok(rig_bind(&r));
    check_ok(dass__dnn_run(dnn, r.plan));
    /* too small by one byte; freed */
    block *const y = &blocks[block_of(r.y) - blocks];
    y->bytes--;
    assert_reported(&r, dnn, "are not in one live allocation of the device");
    y->bytes++;
    y->live = false;
    assert_reported(&r, dnn, "tensor 3: the ");
    y->live = true;
    /* host memory */
    void *const x = r.x;
    r.x = aligned_alloc(64, (size_t)r.nx * 4 / 64 * 64 + 64);
    assert_non_null(r.x);
    check_ok(rig_bind(&r));
    assert_reported(&r, dnn, "tensor 1: the ");
    free(r.x);
    /* the output over an input */
    r.x = r.y;
    check_ok(rig_bind(&r));
    assert_reported(&r, dnn, "tensor 3 is written over tensor 1");
    r.x = x;
    r.w = r.y;
    check_ok(rig_bind(&r));
    assert_reported(&r, dnn, "tensor 3 is written over tensor 2");
    rig_free(&r);
    dass__dnn_close(dnn);
}

static void test_faults_in_workspace(void **state)
{
    (void)state;
    dass__dnn *dnn = open_with((dass__dnn_options){.deterministic = true});
    dass__dnn_conv c = shapes[0];
    c.kind = DASS__DNN_DATA;
    rig r;
    rig_make(&r, dnn, c);
    assert_true(dass__dnn_plan_ws(r.plan) > 0);
    void *const ws = r.ws;
    r.ws = NULL;
    assert_int_equal(rig_bind(&r), DASS_ARG);
    assert_non_null(strstr(dass_error_text(), "without its workspace"));
    /* what bind refuses, the double must see too */
    descriptor pack = NULL;
    const int64_t uid[3] = {DASS__DNN_X, DASS__DNN_W, DASS__DNN_Y};
    void *const ptr[3] = {r.x, r.w, r.y};
    assert_int_equal(cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack), 0);
    assert_int_equal(cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 3, uid), 0);
    assert_int_equal(cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 3, ptr),
                     0);
    r.plan->pack = pack;
    assert_reported(&r, dnn, "variant pack that is not alive or not finalised");
    assert_int_equal(cudnnBackendFinalize(pack), 0);
    assert_reported(&r, dnn, "and the pack has none");
    r.ws = ws;
    check_ok(rig_bind(&r));
    check_ok(dass__dnn_run(dnn, r.plan));
    compare(&r, 1e-5);
    for (size_t i = 0; i < dass__dnn_plan_ws(r.plan); i++)
        assert_int_equal(((unsigned char *)ws)[i], 0xff);
    blocks[block_of(ws) - blocks].bytes--;
    assert_reported(&r, dnn, "workspace: the ");
    blocks[block_of(ws) - blocks].bytes++;
    /* the workspace over a tensor */
    if (dass__dnn_plan_ws(r.plan) <= block_of(r.y)->bytes) {
        r.ws = r.y;
        check_ok(rig_bind(&r));
        assert_reported(&r, dnn, "lies in the workspace");
    }
    rig_free(&r);
    dass__dnn_close(dnn);
}

static void test_faults_in_binding(void **state)
{
    (void)state;
    dass__dnn *dnn = open_with((dass__dnn_options){0});
    dass__dnn_conv c = shapes[0];
    c.bias = true;
    rig r;
    rig_make(&r, dnn, c);
    assert_int_equal(dass__dnn_run(dnn, r.plan), DASS_ARG);
    assert_non_null(strstr(dass_error_text(), "was not bound"));
    assert_int_equal(dass__dnn_plan_bind(r.plan, r.x, NULL, r.bias, r.y, r.ws), DASS_ARG);
    assert_non_null(strstr(dass_error_text(), "without its second input"));
    assert_int_equal(dass__dnn_plan_bind(r.plan, r.x, r.w, NULL, r.y, r.ws), DASS_ARG);
    assert_non_null(strstr(dass_error_text(), "without a bias"));
    assert_int_equal(dass__dnn_plan_bind(r.plan, (char *)r.x + 4, r.w, r.bias, r.y, r.ws), DASS_ARG);
    assert_non_null(strstr(dass_error_text(), "not aligned to 16"));
    assert_int_equal(dass__dnn_plan_bind(r.plan, r.x, r.w, (char *)r.bias + 2, r.y, r.ws), DASS_ARG);
    assert_non_null(strstr(dass_error_text(), "not aligned to 4"));
    rig_free(&r);
    c.bias = false;
    rig_make(&r, dnn, c);
    assert_int_equal(dass__dnn_plan_bind(r.plan, r.x, r.w, r.x, r.y, r.ws), DASS_ARG);
    assert_non_null(strstr(dass_error_text(), "does not take"));
    rig_free(&r);
    dass__dnn_close(dnn);
}

/* An input that nobody wrote reaches the output, through the activation too. */
static void test_unwritten_input_shows(void **state)
{
    (void)state;
    dass__dnn *dnn = open_with((dass__dnn_options){0});
    dass__dnn_conv c = shapes[0];
    c.bias = true;
    c.act = DASS_ACT_RELU6;
    rig r;
    rig_make(&r, dnn, c);
    memset(r.x, 0xff, 4);
    check_ok(rig_bind(&r));
    check_ok(dass__dnn_run(dnn, r.plan));
    assert_true(isnan(get(&r, r.y, 0)));
    assert_false(isnan(get(&r, r.y, r.ny - 1)));
    rig_free(&r);
    dass__dnn_close(dnn);
}

static void test_no_card(void **state)
{
    (void)state;
    dass__dnn *dnn = NULL;
    fake_cudnn_no_device(true);
    assert_int_equal(dass__dnn_open(0, NULL, NULL, &dnn), DASS_DEVICE);
    assert_null(dnn);
    assert_non_null(strstr(dass_error_text(), "cudnnCreate returned 1001"));
    dnn = open_with((dass__dnn_options){0});
    fake_cudnn_no_device(false);
    assert_false(dass__dnn_can_run(dnn));
    rig r;
    rig_make(&r, dnn, shapes[0]);
    check_ok(rig_bind(&r));
    assert_int_equal(dass__dnn_run(dnn, r.plan), DASS_DEVICE);
    assert_non_null(strstr(dass_error_text(), "without a card"));
    rig_free(&r);
    assert_non_null(strstr(dass__dnn_device_json(dnn), "\"deviceVer\":"));
    dass__dnn_close(dnn);
    const dass__dnn_options bad = {.device_json = "{\"deviceVer\":900}"};
    assert_int_equal(dass__dnn_open(0, NULL, &bad, &dnn), DASS_FORMAT);
    assert_non_null(strstr(dass_error_text(), "is refused by cuDNN"));
}

/* ---- choosing ---------------------------------------------------------------------------------------------------- */

static void test_impossible(void **state)
{
    (void)state;
    dass__dnn *dnn = open_with((dass__dnn_options){0});
    dass__dnn_conv bad[8];
    for (size_t i = 0; i < N_OF(bad); i++)
        bad[i] = shapes[0];
    bad[0].n = 0;
    bad[1].groups = 3;
    bad[2].kh = 12;
    bad[3].stride = 0;
    bad[4].kind = DASS__DNN_DATA;
    bad[4].bias = true;
    bad[5].kind = DASS__DNN_WEIGHTS;
    bad[5].act = DASS_ACT_RELU;
    bad[6].kind = (dass__dnn_kind)3;
    bad[7].n = bad[7].ih = bad[7].iw = INT32_MAX;
    for (size_t i = 0; i < N_OF(bad); i++) {
        dass__dnn_plan *plan = NULL;
        assert_int_equal(dass__dnn_plan_make(dnn, &bad[i], &plan), DASS_ARG);
        assert_non_null(strstr(dass_error_text(), "impossible convolution"));
        assert_null(plan);
    }
    dass__dnn_close(dnn);
}

static bool has(const dass__dnn_plan *p, const char *note)
{
    return strstr(dass__dnn_plan_name(p), note) != NULL;
}

/* Each filter is seen to turn down what cuDNN would have taken first, and what no engine serves is told in full. */
static void test_filters(void **state)
{
    (void)state;
    const dass__dnn_conv wide = {.n = 64,
                                 .ic = 64,
                                 .ih = 32,
                                 .iw = 32,
                                 .oc = 64,
                                 .kh = 3,
                                 .kw = 3,
                                 .stride = 1,
                                 .pad = 1,
                                 .dil = 1,
                                 .groups = 1};
    const dass__dnn_conv stem = {.kind = DASS__DNN_WEIGHTS,
                                 .n = 64,
                                 .ic = 3,
                                 .ih = 32,
                                 .iw = 32,
                                 .oc = 48,
                                 .kh = 3,
                                 .kw = 3,
                                 .stride = 1,
                                 .pad = 1,
                                 .dil = 1,
                                 .groups = 1};
    dass__dnn_plan *p = NULL;
    dass__dnn *any = open_with((dass__dnn_options){0});
    dass__dnn *same = open_with((dass__dnn_options){.deterministic = true});
    dass__dnn_conv c = wide;
    c.precision = DASS_PRECISION_TF32;
    check_ok(dass__dnn_plan_make(any, &c, &p));
    assert_true(has(p, "+tc"));
    dass__dnn_plan_free(p);
    c.precision = DASS_PRECISION_FP32;
    check_ok(dass__dnn_plan_make(any, &c, &p));
    assert_false(has(p, "+tc") || has(p, "+wino") || has(p, "+fft"));
    dass__dnn_plan_free(p);
    check_ok(dass__dnn_plan_make(any, &stem, &p));
    assert_true(has(p, "+nondet"));
    dass__dnn_plan_free(p);
    check_ok(dass__dnn_plan_make(same, &stem, &p));
    assert_false(has(p, "+nondet"));
    dass__dnn_plan_free(p);
    c = wide;
    c.groups = 64;
    c.act = DASS_ACT_RELU;
    c.precision = DASS_PRECISION_BF16;
    assert_int_equal(dass__dnn_plan_make(any, &c, &p), DASS_UNSUPPORTED);
    assert_null(p);
    assert_non_null(strstr(dass_error_text(),
                           "has no plan for 'forward n=64 ic=64 ih=32 iw=32 oc=64 kh=3 kw=3 stride=1 "
                           "pad=1 dil=1 groups=64 bias=0 act=relu precision=bf16': of 0 candidates"));
    dass__dnn_close(same);
    dass__dnn_close(any);
}

/* Where the first choice wants workspace and none is allowed, another comes, or the limit is named. Which shapes want
 * some differs from card to card; some do on each. */
static void test_workspace_limit(void **state)
{
    (void)state;
    dass__dnn *rich = open_with((dass__dnn_options){0});
    dass__dnn *poor = open_with((dass__dnn_options){.ws_limit = 1});
    int n = 0;
    for (size_t i = 0; i < N_OF(shapes); i++) {
        dass__dnn_conv c = shapes[i];
        c.kind = DASS__DNN_DATA;
        dass__dnn_plan *p = NULL;
        check_ok(dass__dnn_plan_make(rich, &c, &p));
        const bool wants = dass__dnn_plan_ws(p) > 1;
        dass__dnn_plan_free(p);
        n += wants;
        const dass_status st = dass__dnn_plan_make(poor, &c, &p);
        if (st == DASS_OK)
            assert_true(dass__dnn_plan_ws(p) <= 1);
        else if (!wants || st != DASS_UNSUPPORTED || strstr(dass_error_text(), "wanting more than 1 bytes") == NULL)
            check_ok(st);
        dass__dnn_plan_free(p);
    }
    assert_true(n > 0);
    dass__dnn_close(poor);
    dass__dnn_close(rich);
}

/* ---- the cache --------------------------------------------------------------------------------------------------- */

static void cached_file(char *path, size_t n)
{
    DIR *const d = opendir(folder);
    assert_non_null(d);
    int found = 0;
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.') {
            (void)snprintf(path, n, "%s/%s", folder, e->d_name);
            found++;
        }
    (void)closedir(d);
    assert_int_equal(found, 1);
}

static size_t read_file(const char *path, char *buf, size_t n)
{
    FILE *const f = fopen(path, "rb");
    assert_non_null(f);
    const size_t got = fread(buf, 1, n, f);
    (void)fclose(f);
    assert_true(got > 0 && got < n);
    return got;
}

static void write_file(const char *path, const char *buf, size_t n)
{
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(buf, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* A plan that the cache has to give, or to make anew. */
static void expect_plan(const dass__dnn_conv *c, bool cached)
{
    dass__dnn *dnn = open_with((dass__dnn_options){.cache_dir = folder, .deterministic = true});
    rig r;
    rig_make(&r, dnn, *c);
    assert_int_equal(dass__dnn_plan_cached(r.plan), cached);
    check_ok(rig_bind(&r));
    check_ok(dass__dnn_run(dnn, r.plan));
    compare(&r, 1e-5);
    rig_free(&r);
    dass__dnn_close(dnn);
}

/* Damage in every place that matters: each time the plan is made anew, the file is made good, and the next one reads.
 */
static void test_damaged_cache(void **state)
{
    (void)state;
    static char good[1 << 20], bad[1 << 20];
    char path[512];
    dass__dnn_conv c = shapes[0];
    c.kind = DASS__DNN_DATA;
    expect_plan(&c, false);
    expect_plan(&c, true);
    cached_file(path, sizeof path);
    const size_t n = read_file(path, good, sizeof good);
    assert_memory_equal(good, "dass cudnn plan 1 ", 18);
    const size_t at[] = {0, 16, 20, 40, 54, n / 2, n - 1};
    for (size_t i = 0; i < N_OF(at); i++) {
        memcpy(bad, good, n);
        bad[at[i]] ^= 1;
        write_file(path, bad, n);
        expect_plan(&c, false);
        expect_plan(&c, true);
    }
    const size_t cut[] = {1, 30, n / 2, n - 1};
    for (size_t i = 0; i < N_OF(cut); i++) {
        write_file(path, good, cut[i]);
        expect_plan(&c, false);
    }
    write_file(path, "", 0);
    expect_plan(&c, false);
    /* another plan's file under this name, whole in itself */
    assert_int_equal(unlink(path), 0);
    dass__dnn_conv other = c;
    other.oc = 24;
    expect_plan(&other, false);
    char other_path[512];
    cached_file(other_path, sizeof other_path);
    assert_string_not_equal(path, other_path);
    assert_int_equal(rename(other_path, path), 0);
    expect_plan(&c, false);
    expect_plan(&c, true);
    cached_file(path, sizeof path);
    assert_int_equal(unlink(path), 0);
}

static void test_cache_folder(void **state)
{
    (void)state;
    dass__dnn *dnn = NULL;
    const dass__dnn_options opt = {.device_json = card, .cache_dir = "/dev/null/plans"};
    assert_int_equal(dass__dnn_open(0, NULL, &opt, &dnn), DASS_IO);
    assert_null(dnn);
    assert_int_equal(dass_mem_get_stats().n_live, 0);
}

/* ---- what a card refuses ----------------------------------------------------------------------------------------- */

/* Two convolutions on a double that refuses `what`, with the numbers of the plain loops; its warnings go to stderr. */
static void run_refused(const char *what)
{
    (void)setenv("FAKE_CUDNN_REFUSE", what, 1);
    dass__dnn *dnn = open_with((dass__dnn_options){.deterministic = true});
    for (int i = 0; i < 2; i++) { /* the second refusal is not told */
        dass__dnn_conv c = shapes[i];
        c.bias = true;
        rig r;
        rig_make(&r, dnn, c);
        check_ok(rig_bind(&r));
        check_ok(dass__dnn_run(dnn, r.plan));
        compare(&r, 1e-5);
        memset(r.y, 0xff, (size_t)r.ny * r.bytes);
        check_ok(dass__dnn_run(dnn, r.plan));
        compare(&r, 1e-5);
        rig_free(&r);
    }
    dass__dnn_close(dnn);
    (void)unsetenv("FAKE_CUDNN_REFUSE");
    assert_int_equal(dass_mem_get_stats().n_live, 0);
}

static int times(const char *text, const char *word)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, word)) != NULL; p++)
        n++;
    return n;
}

static void run_refused_text(void)
{
    run_refused("text");
}
static void run_refused_run(void)
{
    run_refused("run");
}
static void run_unrefused(void)
{
    run_refused("");
}

/* Read from its text or run for the first time: a plan that the card refuses is made on the card, and told once with
 * cuDNN's status. A card that refuses nothing is told nothing of. */
static void test_refused_plans_are_made_on_the_card(void **state)
{
    (void)state;
    static const struct {
        void (*run)(void);
        const char *status;
    } cases[] = {{run_refused_text, "returned 4000 (CUDNN_STATUS_INTERNAL_ERROR)"},
                 {run_refused_run, "cudnnBackendExecute returned 5000 (CUDNN_STATUS_EXECUTION_FAILED)"}};
    char buf[8192];
    for (size_t i = 0; i < N_OF(cases); i++) {
        const int status = stderr_of(cases[i].run, buf, sizeof buf);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || times(buf, "made on the card does") != 1 ||
            times(buf, cases[i].status) != 1)
            fail_msg("case %zu: status %d, got:\n%s", i, status, buf);
    }
    const int status = stderr_of(run_unrefused, buf, sizeof buf);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(times(buf, "warning"), 0);
}

/* Where the card's own plan fails too, the error says both. */
static void test_both_plans_refused(void **state)
{
    (void)state;
    dass__dnn *dnn = open_with((dass__dnn_options){.deterministic = true});
    dass__dnn_plan *plan = NULL;
    (void)setenv("FAKE_CUDNN_REFUSE", "text,card", 1);
    assert_int_equal(dass__dnn_plan_make(dnn, &shapes[0], &plan), DASS_UNSUPPORTED);
    assert_null(plan);
    assert_non_null(strstr(dass_error_text(), "returned 4000"));
    assert_non_null(strstr(dass_error_text(), "and a plan made on the card: cuDNN"));
    (void)setenv("FAKE_CUDNN_REFUSE", "run,card", 1);
    rig r;
    rig_make(&r, dnn, shapes[0]);
    check_ok(rig_bind(&r));
    assert_int_equal(dass__dnn_run(dnn, r.plan), DASS_UNSUPPORTED);
    assert_non_null(strstr(dass_error_text(), "returned 5000"));
    assert_int_equal(dass__dnn_run(dnn, r.plan), DASS_DEVICE);
    assert_non_null(strstr(dass_error_text(), "had no other"));
    rig_free(&r);
    (void)unsetenv("FAKE_CUDNN_REFUSE");
    dass__dnn_close(dnn);
    assert_int_equal(dass_mem_get_stats().n_live, 0);
}

/* The cache keeps the card's plan, not the one that the card refused. */
static void test_cards_plan_is_kept(void **state)
{
    (void)state;
    char path[512], again[512];
    expect_plan(&shapes[0], false);
    cached_file(path, sizeof path);
    dass__dnn *dnn = open_with((dass__dnn_options){.cache_dir = folder, .deterministic = true});
    rig r;
    rig_make(&r, dnn, shapes[0]);
    assert_true(dass__dnn_plan_cached(r.plan));
    check_ok(rig_bind(&r));
    assert_int_equal(unlink(path), 0);
    (void)setenv("FAKE_CUDNN_REFUSE", "run", 1);
    check_ok(dass__dnn_run(dnn, r.plan));
    (void)unsetenv("FAKE_CUDNN_REFUSE");
    assert_false(dass__dnn_plan_cached(r.plan));
    compare(&r, 1e-5);
    cached_file(again, sizeof again);
    assert_string_equal(path, again);
    rig_free(&r);
    dass__dnn_close(dnn);
    expect_plan(&shapes[0], true);
    assert_int_equal(unlink(path), 0);
}

/* The double refuses what no handle was given to. */
static void run_without_handle(void)
{
    fake_cudnn_no_device(true);
    dass__dnn *dnn = open_with((dass__dnn_options){0});
    fake_cudnn_no_device(false);
    rig r;
    rig_make(&r, dnn, shapes[0]);
    check_ok(rig_bind(&r));
    cudnnHandle_t h = NULL;
    assert_int_equal(cudnnCreate(&h), CUDNN_STATUS_SUCCESS);
    assert_int_equal(cudnnBackendExecute(h, r.plan->plan, r.plan->pack), CUDNN_STATUS_BAD_PARAM);
}

static void test_handle_is_needed(void **state)
{
    (void)state;
    char buf[4096];
    const int status = stderr_of(run_without_handle, buf, sizeof buf);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_non_null(strstr(buf, "finalised without a handle"));
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static dass_status plan_once(void)
{
    dass__dnn *dnn = NULL;
    dass__dnn_plan *p = NULL;
    const dass__dnn_options opt = {.device_json = card, .cache_dir = folder, .deterministic = true};
    dass_status st = dass__dnn_open(0, NULL, &opt, &dnn);
    if (st == DASS_OK)
        st = dass__dnn_plan_make(dnn, &shapes[0], &p);
    dass__dnn_plan_free(p);
    dass__dnn_close(dnn);
    return st;
}

/* Whichever allocation fails: a clean error or (where it was the cache's) a plan; never a leak. */
static void test_out_of_memory(void **state)
{
    (void)state;
    int failures = 0;
    for (size_t k = 1; k < 64; k++) {
        const size_t before = dass_mem_get_stats().n_allocs;
        dass_mem_fail_at(k);
        const dass_status st = plan_once();
        dass_mem_fail_at(0);
        assert_true(st == DASS_OK || st == DASS_NOMEM);
        assert_int_equal(dass_mem_get_stats().n_live, 0);
        failures += st == DASS_NOMEM;
        if (dass_mem_get_stats().n_allocs - before < k)
            break; /* it had less to allocate */
    }
    assert_true(failures >= 4);
    char path[512];
    cached_file(path, sizeof path);
    assert_int_equal(unlink(path), 0);
}

/* Running allocates nothing of ours. */
static void test_run_allocates_nothing(void **state)
{
    (void)state;
    dass__dnn *dnn = open_with((dass__dnn_options){0});
    rig r;
    rig_make(&r, dnn, shapes[0]);
    check_ok(rig_bind(&r));
    dass_mem_seal(true);
    check_ok(dass__dnn_run(dnn, r.plan));
    dass_mem_seal(false);
    rig_free(&r);
    dass__dnn_close(dnn);
    assert_int_equal(dass_mem_get_stats().n_live, 0);
}

static int setup(void **state)
{
    (void)state;
    static char text[1 << 16];
    const char *const own = getenv("DASS_FAKE_DEVICE");
    const char *const path = own != NULL ? own : "tests/cudnn_plans/h100.json";
    (void)setenv("DASS_CUDNN_DEVICE", path, 1); /* the card behind the double's handles */
    text[read_file(path, text, sizeof text - 1)] = '\0';
    card = text;
    return mkdtemp(folder) == NULL;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_three_kinds),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_bf16_sums),
        cmocka_unit_test(test_bias_and_activation),
        cmocka_unit_test(test_faults_in_memory),
        cmocka_unit_test(test_faults_in_workspace),
        cmocka_unit_test(test_faults_in_binding),
        cmocka_unit_test(test_unwritten_input_shows),
        cmocka_unit_test(test_no_card),
        cmocka_unit_test(test_impossible),
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_workspace_limit),
        cmocka_unit_test(test_damaged_cache),
        cmocka_unit_test(test_cache_folder),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_run_allocates_nothing),
        cmocka_unit_test(test_refused_plans_are_made_on_the_card),
        cmocka_unit_test(test_both_plans_refused),
        cmocka_unit_test(test_cards_plan_is_kept),
        cmocka_unit_test(test_handle_is_needed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
