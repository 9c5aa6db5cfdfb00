/* Compiled networks against the evaluation graph that they were made from: every format, on every device of this build,
 * with running statistics, scales and shifts that are far from those of a new network. And what is refused: by a
 * device, by the gradient.
 */
#include <math.h>
#include <stdlib.h>

#include "check.h"

#include "dass/infer.h"
#include "dass/net.h"

enum { BATCH = 2, IMAGE = 8, CLASSES = 5, N_INPUT = BATCH * 3 * IMAGE * IMAGE, N_LOGITS = BATCH * CLASSES };

/* Relative to the largest logit. Floats through some sixty layers, against doubles. */
static const double tolerance = 1e-5;
/* With weights and activations in bf16, relative to the largest logit too. */
static const double stored_tolerance = 0.03;
static const double mean[3] = {0.5, 0.4, 0.45};
static const double dev[3] = {0.25, 0.2, 0.3};

static const char *why_not(const char *device)
{
    for (size_t i = 0; dass_backend_name(i) != NULL; i++)
        if (strcmp(dass_backend_name(i), device) == 0)
            return dass_backend_why_not(i);
    return "this build knows no such device";
}

static dass_backend *open_in(const char *device, dass_precision precision)
{
    const char *why = why_not(device);
    dass_backend *be = NULL;
    if (why != NULL) {
        print_message("%s: skipped: %s\n", device, why);
        skip();
    }
    check_ok(dass_backend_open(device, &(dass_backend_options){.n_threads = 2, .precision = precision}, &be));
    return be;
}

static dass_backend *open_or_skip(const char *device)
{
    return open_in(device, DASS_PRECISION_FP32);
}

static dass_arch arch_of(dass_net_kind kind)
{
    dass_arch a = {.kind = kind,
                   .form = DASS_FORM_CIFAR,
                   .channels = 4,
                   .layers = 3,
                   .nodes = 4,
                   .classes = CLASSES,
                   .in_channels = 3,
                   .image = IMAGE};
    if (kind == DASS_NET_CELLS)
        a.genotype = dass_genotype_random(1, a.nodes);
    return a;
}

/* ---- a pruned network ------------------------------------------------------------------------------------------- */

/* A tenth of the depthwise and other small tensors is pruned too, most of the pointwise ones; one row in seven whole.
 */
static void prune(const dass_store *s, double *w)
{
    dass_rng rng = dass_rng_make(7, DASS_RNG_TEST, 0, 0);
    for (uint32_t i = 0; i < dass_store_n_params(s); i++) {
        const dass_param *p = dass_store_get(s, i);
        if (p->group != DASS_GROUP_W)
            continue;
        const bool pointwise = p->dim[2] == 1 && p->dim[1] > 1;
        const int64_t row = p->count / p->dim[0];
        for (int64_t k = 0; k < p->count; k++)
            if (dass_rng_below(&rng, 100) >= (pointwise ? 20u : 90u) || (pointwise && k / row % 7 == 3))
                w[p->offset + k] = 0.0;
    }
}

static void make_net_of(const dass_arch arch, dass_net_eval *out)
{
    dass_backend *be = NULL;
    dass_store *s = NULL;
    dass_graph *g = NULL;
    check_ok(dass_backend_open("ref64", NULL, &be));
    check_ok(dass_store_make(DASS_F64, &s));
    const dass_phase phase = {.task = DASS_TASK_EVAL, .batch = BATCH, .mean = mean, .std = dev};
    check_ok(dass_phase_build(s, &arch, &phase, DASS_F64, NULL, &g)); /* registers the parameters */
    dass_graph_free(g);
    check_ok(dass_store_commit(s, be,
                               (uint64_t)1 << DASS_BUF_W | (uint64_t)1 << DASS_BUF_AF | (uint64_t)1 << DASS_BUF_STAT |
                                   (uint64_t)1 << DASS_BUF_ALPHA));
    check_ok(dass_store_init(s, 3));
    check_ok(dass_net_eval_make(s, &arch, DASS_WEIGHTS_DENSE, BATCH, out));
    dass_rng rng = dass_rng_make(5, DASS_RNG_TEST, 0, 0);
    for (int64_t i = 0; i < dass_store_count(s, DASS_GROUP_AF); i++)
        out->data[DASS_BUF_AF][i] += dass_rng_uniform(&rng) - 0.5;
    for (uint32_t i = 0; i < dass_store_n_params(s); i++) {
        const dass_param *p = dass_store_get(s, i);
        const bool variance = strstr(p->name, "running_var") != NULL;
        for (int64_t k = 0; p->group == DASS_GROUP_STAT && k < p->count; k++)
            out->data[DASS_BUF_STAT][p->offset + k] =
                variance ? 0.02 + 0.1 * dass_rng_uniform(&rng) : 0.2 * (dass_rng_uniform(&rng) - 0.5);
    }
    prune(s, out->data[DASS_BUF_W]);
    dass_store_free(s);
    dass_backend_close(be);
}

static void make_net(dass_net_kind kind, dass_net_eval *out)
{
    make_net_of(arch_of(kind), out);
}

static void make_input(const char *name, double *x, uint8_t *images)
{
    dass_rng rng = dass_rng_make(5, DASS_RNG_TEST, dass_name_hash(name), 0);
    for (int i = 0; i < N_INPUT; i++) {
        images[i] = (uint8_t)dass_rng_below(&rng, 256);
        x[i] = (images[i] / 255.0 - mean[i % 3]) / dev[i % 3];
    }
}

/* The source itself, as it is, in double. Its buffers are the device's: the reference computes in place. */
static void run_source(dass_net_kind kind, double *x, double *logits)
{
    dass_net_eval net;
    dass_backend *be = NULL;
    dass_exec *e = NULL;
    dass_program *p = NULL;
    make_net(kind, &net);
    dass_place(net.g, net.logits, DASS_BUF_W_GRAD, 0);
    check_ok(dass_graph_finish(net.g));
    check_ok(dass_backend_open("ref64", NULL, &be));
    void *bufs[DASS_N_BUFS];
    for (int b = 0; b < DASS_N_BUFS; b++)
        bufs[b] = net.data[b];
    bufs[DASS_BUF_IMAGES] = x;
    bufs[DASS_BUF_W_GRAD] = logits;
    check_ok(dass_exec_make(be, net.g, NULL, &e));
    check_ok(dass_program_make(be, &e, 1, bufs, DASS_N_BUFS, &p));
    check_ok(dass_program_run(p));
    dass_program_free(p);
    dass_exec_free(e);
    dass_backend_close(be);
    dass_net_eval_free(&net);
}

static double largest(const double *a, const double *b, int n)
{
    double worst = 0.0;
    for (int i = 0; i < n; i++)
        worst = fmax(worst, fabs(a[i] - (b != NULL ? b[i] : 0.0)));
    return worst;
}

/* ---- agreement -------------------------------------------------------------------------------------------------- */

typedef struct setting {
    const char *name;
    dass_infer_format format;
    bool fuse, guard;
} setting;
static const setting settings[] = {
    {"dense", DASS_INFER_DENSE, false, false}, {"library", DASS_INFER_LIBRARY, false, false},
    {"own", DASS_INFER_OWN, false, false},     {"own, guarded", DASS_INFER_OWN, false, true},
    {"blocks", DASS_INFER_OWN, true, false},   {"blocks, guarded", DASS_INFER_OWN, true, true},
};

static bool is_refused(dass_backend *be, const setting *s)
{
    if (s->format == DASS_INFER_LIBRARY && (be->ops->library == NULL || !be->ops->library(be, DASS_OP_SPCONV)))
        return true;
    return s->fuse && !be->ops->can(be, DASS_OP_IRBLOCK);
}

static void check_counts(dass_net_kind kind, const setting *s, dass_infer_stats n)
{
    assert_int_equal(n.n_norms, 0);
    assert_true(n.n_folded > 0);
    if (s->format == DASS_INFER_DENSE)
        assert_int_equal(n.n_sparse + n.n_blocks, 0);
    else if (!s->fuse)
        assert_true(n.n_sparse > (kind == DASS_NET_RESNET18 ? 0 : 8) && n.n_blocks == 0);
    else if (kind == DASS_NET_MOBILENET_V2)
        assert_int_equal(n.n_blocks, 17);
}

static void check_setting(dass_backend *be, dass_net_kind kind, const setting *s, const double *want)
{
    double x[N_INPUT];
    uint8_t images[N_INPUT];
    double got[N_LOGITS];
    dass_net_eval net;
    dass_infer *f = NULL;
    make_net(kind, &net);
    make_input("other", x, images);
    const dass_infer_options opt = {.format = s->format, .below = 0.5, .fuse = s->fuse, .exec = {.guard = s->guard}};
    const dass_infer_source src = {net.g, net.x, net.logits, net.data};
    check_ok(dass_infer_compile(&src, &opt, be, &f));
    dass_net_eval_free(&net); /* nothing of it is needed any more */
    check_counts(kind, s, dass_infer_get_stats(f));
    for (int i = 0; i < 4; i++) { /* enqueued, recorded, replayed; then another input through the recording */
        if (i == 3)
            make_input("x", x, images);
        check_ok(dass_infer_feed(f, x));
        check_ok(dass_infer_run(f));
        check_ok(dass_infer_read(f, got));
        if (i < 3)
            assert_true(largest(got, want, N_LOGITS) > 1e-2 * largest(want, NULL, N_LOGITS));
    }
    const double error = largest(got, want, N_LOGITS) / largest(want, NULL, N_LOGITS);
    print_message("  %-16s %.1e, %u dense, %u sparse, %u blocks\n", s->name, error, dass_infer_get_stats(f).n_dense,
                  dass_infer_get_stats(f).n_sparse, dass_infer_get_stats(f).n_blocks);
    assert_true(error <= (be->stored == DASS_BF16 ? stored_tolerance : tolerance));
    assert_true(be->stored != DASS_BF16 || error > tolerance); /* the weights and activations were rounded */
    dass_infer_free(f);
}

static void compiled_agrees(const char *device, dass_precision precision, dass_net_kind kind)
{
    dass_backend *be = open_in(device, precision);
    double x[N_INPUT];
    uint8_t images[N_INPUT];
    double want[N_LOGITS];
    make_input("x", x, images);
    run_source(kind, x, want);
    assert_true(largest(want, NULL, N_LOGITS) > 0.1);
    for (size_t i = 0; i < N_OF(settings); i++)
        if (!is_refused(be, &settings[i]))
            check_setting(be, kind, &settings[i], want);
    dass_backend_close(be);
}

#define AGREES(device, kind, NAME, PRECISION)                                  \
    static void device##_##kind##_##PRECISION(void **state)                    \
    {                                                                          \
        (void)state;                                                           \
        compiled_agrees(#device, DASS_PRECISION_##PRECISION, DASS_NET_##NAME); \
    }
AGREES(ref64, cells, CELLS, FP32)
AGREES(ref, cells, CELLS, FP32)
AGREES(host, cells, CELLS, FP32)
AGREES(cuda, cells, CELLS, FP32)
AGREES(ref64, mobilenet, MOBILENET_V2, FP32)
AGREES(host, mobilenet, MOBILENET_V2, FP32)
AGREES(cuda, mobilenet, MOBILENET_V2, FP32)
AGREES(host, resnet, RESNET18, FP32)
AGREES(ref, cells, CELLS, BF16)
AGREES(host, mobilenet, MOBILENET_V2, BF16)
AGREES(cuda, cells, CELLS, BF16)
AGREES(cuda, mobilenet, MOBILENET_V2, BF16)

static void count_relu(void *ctx, const char *name)
{
    *(int *)ctx += strstr(name, "k_relu") != NULL;
}

/* Logits of MobileNet-v2 in its ImageNet form, dense, on a device; how many launches are activations alone. */
static void run_imagenet_form(const char *device, double *logits, int *n_relu)
{
    enum { SIZE = 32 };
    static double x[BATCH * 3 * SIZE * SIZE];
    dass_arch arch = arch_of(DASS_NET_MOBILENET_V2);
    dass_backend *be = open_or_skip(device);
    dass_net_eval net;
    dass_infer *f = NULL;
    arch.form = DASS_FORM_IMAGENET;
    arch.image = SIZE;
    make_net_of(arch, &net);
    dass_rng rng = dass_rng_make(7, DASS_RNG_TEST, 0, 0);
    for (size_t i = 0; i < N_OF(x); i++)
        x[i] = 4 * dass_rng_uniform(&rng) - 2;
    check_ok(
        dass_infer_compile(&(dass_infer_source){net.g, net.x, net.logits, net.data}, &(dass_infer_options){0}, be, &f));
    *n_relu = 0;
    dass_exec_each_launch(dass_infer_exec(f), count_relu, n_relu);
    check_ok(dass_infer_feed(f, x));
    check_ok(dass_infer_run(f));
    check_ok(dass_infer_read(f, logits));
    dass_infer_free(f);
    dass_net_eval_free(&net);
    dass_backend_close(be);
}

/* The dense rival of sparse products is as good as it can be: the stem's ReLU6 is in cuDNN's plan, those of the
 * expansions are applied by the depthwise convolutions; the last product alone, whose library knows ReLU only, needs a
 * launch for its own. */
static void a_dense_network_launches_one_activation(void **state)
{
    (void)state;
    double got[N_LOGITS];
    double want[N_LOGITS];
    int n_relu = 0;
    run_imagenet_form("cuda", got, &n_relu);
    assert_int_equal(n_relu, 1);
    run_imagenet_form("ref", want, &n_relu);
    assert_true(largest(got, want, N_LOGITS) <= tolerance * largest(want, NULL, N_LOGITS));
}

/* The same network from bytes. */
static void images_are_normalised(void **state)
{
    (void)state;
    dass_backend *be = open_or_skip("host");
    double x[N_INPUT];
    uint8_t images[N_INPUT];
    double want[N_LOGITS];
    double got[N_LOGITS];
    dass_net_eval net;
    dass_infer *f = NULL;
    make_input("x", x, images);
    run_source(DASS_NET_CELLS, x, want);
    make_net(DASS_NET_CELLS, &net);
    const dass_infer_options opt = {.format = DASS_INFER_OWN, .below = 0.5, .mean = mean, .std = dev};
    check_ok(dass_infer_compile(&(dass_infer_source){net.g, net.x, net.logits, net.data}, &opt, be, &f));
    assert_int_equal(dass_infer_feed(f, x), DASS_ARG);
    check_ok(dass_infer_feed_images(f, images));
    dass_mem_seal(true);
    const dass_status st = dass_infer_run(f);
    dass_mem_seal(false);
    check_ok(st);
    check_ok(dass_infer_read(f, got));
    assert_true(largest(got, want, N_LOGITS) <= tolerance * largest(want, NULL, N_LOGITS));
    dass_infer_free(f);
    dass_net_eval_free(&net);
    dass_backend_close(be);
}

/* ---- refusals --------------------------------------------------------------------------------------------------- */

static void refused(const char *device, const dass_infer_options *opt, dass_status want, const char *word)
{
    dass_backend *be = open_or_skip(device);
    dass_net_eval net;
    dass_infer *f = NULL;
    make_net(DASS_NET_CELLS, &net);
    assert_int_equal(dass_infer_compile(&(dass_infer_source){net.g, net.x, net.logits, net.data}, opt, be, &f), want);
    assert_null(f);
    assert_non_null(strstr(dass_error_text(), word));
    dass_net_eval_free(&net);
    dass_backend_close(be);
}

static void what_a_device_lacks_is_refused(void **state)
{
    (void)state;
    refused("host", &(dass_infer_options){.format = DASS_INFER_LIBRARY}, DASS_UNSUPPORTED, "'host' has no library");
    refused("ref", &(dass_infer_options){.format = DASS_INFER_LIBRARY}, DASS_UNSUPPORTED, "'ref' has no library");
    refused("host", &(dass_infer_options){.format = DASS_INFER_OWN, .fuse = true}, DASS_UNSUPPORTED, "whole blocks");
    refused("host", &(dass_infer_options){.format = DASS_INFER_DENSE, .fuse = true}, DASS_ARG, "format OWN");
    refused("host", &(dass_infer_options){.below = -1.0}, DASS_ARG, "below is -1");
}

/* A block of more channels than any tile leaves room for. */
static void a_block_without_room_is_refused(void **state)
{
    (void)state;
    dass_backend *be = open_or_skip("cuda");
    dass_graph *g = NULL;
    dass_exec *e = NULL;
    enum { IC = 4000, HIDDEN = 8 };
    check_ok(dass_graph_make(DASS_F32, &g));
    const int32_t one = 1, n_e = HIDDEN + 1, n_p = 3;
    dass_irblock_in in = {.x = dass_ref(g, "x", 1, 0, DASS_LAYOUT_NHWC, 4, (const int32_t[]){1, IC, 2, 2}),
                          .w_dw = dass_ref(g, "w", 1, 16000, DASS_LAYOUT_OIHW, 4, (const int32_t[]){HIDDEN, 1, 3, 3})};
    const dass_val values = dass_ref(g, "v", 2, 0, DASS_LAYOUT_FLAT, 1, &one);
    const dass_val columns = dass_ref_typed(g, "c", DASS_I32, 3, 0, DASS_LAYOUT_FLAT, 1, &one);
    in.expand = (dass_csr){values, columns, dass_ref_typed(g, "e", DASS_I32, 3, 64, DASS_LAYOUT_FLAT, 1, &n_e), 1};
    in.project = (dass_csr){values, columns, dass_ref_typed(g, "p", DASS_I32, 3, 128, DASS_LAYOUT_FLAT, 1, &n_p), 1};
    dass_place(g, dass_irblock(g, &in, 1, DASS_ACT_RELU), 4, 0);
    check_ok(dass_graph_finish(g));
    assert_int_equal(dass_exec_make(be, g, NULL, &e), DASS_UNSUPPORTED);
    assert_non_null(strstr(dass_error_text(), "irblock"));
    dass_graph_free(g);
    dass_backend_close(be);
}

static void an_activation_in_a_convolution_has_no_gradient(void **state)
{
    (void)state;
    dass_graph *g = NULL;
    check_ok(dass_graph_make(DASS_F32, &g));
    const dass_val x = dass_ref(g, "x", 1, 0, DASS_LAYOUT_NHWC, 4, (const int32_t[]){1, 2, 1, 1});
    const dass_val w = dass_ref(g, "w", 2, 0, DASS_LAYOUT_OIHW, 4, (const int32_t[]){1, 2, 1, 1});
    const dass_val y =
        dass_conv(g, x, w, 0,
                  (dass_conv_attr){.kh = 1, .kw = 1, .stride = 1, .dil = 1, .groups = 1, .act = DASS_ACT_RELU});
    const dass_val seed = dass_ref(g, "seed", 3, 0, DASS_LAYOUT_NHWC, 4, (const int32_t[]){1, 1, 1, 1});
    assert_int_equal(dass_graph_grad_seeded(g, &y, &seed, 1, &(dass_wrt){2, 4}, 1), DASS_UNSUPPORTED);
    assert_non_null(strstr(dass_error_text(), "activation itself"));
    dass_graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref64_cells_FP32),
        cmocka_unit_test(ref_cells_FP32),
        cmocka_unit_test(host_cells_FP32),
        cmocka_unit_test(cuda_cells_FP32),
        cmocka_unit_test(ref64_mobilenet_FP32),
        cmocka_unit_test(host_mobilenet_FP32),
        cmocka_unit_test(cuda_mobilenet_FP32),
        cmocka_unit_test(host_resnet_FP32),
        cmocka_unit_test(ref_cells_BF16),
        cmocka_unit_test(host_mobilenet_BF16),
        cmocka_unit_test(cuda_cells_BF16),
        cmocka_unit_test(cuda_mobilenet_BF16),
        cmocka_unit_test(a_dense_network_launches_one_activation),
        cmocka_unit_test(images_are_normalised),
        cmocka_unit_test(what_a_device_lacks_is_refused),
        cmocka_unit_test(a_block_without_room_is_refused),
        cmocka_unit_test(an_activation_in_a_convolution_has_no_gradient),
    };
    return cmocka_run_group_tests_name("infer", tests, NULL, NULL);
}
