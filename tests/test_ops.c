/* Every op has a name, a reference and cases, and every backend of this build agrees with the
 * reference on all of them: with inputs in buffers and in temporaries, in guard mode, on each
 * instruction set that the machine can run. Gradients are test_grad.c's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"
#include "double.h"

/* Largest difference from the double reference, relative to the largest entry of the output (or
 * 0.01). Sums of a few thousand products of numbers up to 8 in float stay well below it. */
static const double tolerance = 1e-5;
/* The same where the output was rounded to bf16: half a unit of 8 bits. */
static const double stored_tolerance = 1.0 / 256 + 1e-5;

static const int max_reported = 20;

/* ---- the list itself ---------------------------------------------------------------- */

static void every_op_has_a_name(void **state)
{
    (void)state;
    for (int op = 1; op < DASS_N_OPS; op++) {
        const dass_op_info *info = dass_op_get((dass_op)op);
        assert_non_null(info);
        assert_non_null(info->name);
        assert_true(info->name[0] != 0);
        for (int other = 1; other < op; other++)
            assert_string_not_equal(info->name, dass_op_get((dass_op)other)->name);
    }
}

static void every_op_has_cases(void **state)
{
    (void)state;
    size_t n;
    const test_case *all = cases_all(&n);
    int missing = 0;
    for (int op = 1; op < DASS_N_OPS; op++) {
        size_t count = 0;
        for (size_t i = 0; i < n; i++)
            count += all[i].op == (dass_op)op;
        if (count == 0) {
            print_error("op '%s' has no case: add a family to tests/cases_*.c\n", dass_op_get((dass_op)op)->name);
            missing++;
        }
    }
    assert_int_equal(missing, 0);
}

static bool builds_op(const case_graph *cg, dass_op op)
{
    for (dass_node n = 1; n < cg->g->n_nodes; n++)
        if (cg->g->nodes[n].op == op)
            return true;
    return false;
}

/* A case builds the op it is listed under; its gradient graph builds too when the op is
 * differentiable. That the gradient is right is test_grad.c's business: it checks every case of
 * every differentiable op. */
static void every_case_builds_its_op(void **state)
{
    (void)state;
    size_t n;
    const test_case *all = cases_all(&n);
    int wrong = 0;
    for (size_t i = 0; i < n; i++) {
        const bool differentiable = dass_op_get(all[i].op)->flags & DASS_OPF_D;
        for (int mode = CASE_PLAIN; mode <= (differentiable ? CASE_GRADIENT : CASE_TEMP); mode++) {
            case_graph *cg = NULL;
            const dass_status st = case_graph_make(&all[i], DASS_F64, (case_mode)mode, mode == CASE_GRADIENT, &cg);
            char name[160];
            case_name(&all[i], name, sizeof(name));
            if (st != DASS_OK) {
                print_error("%s (mode %d): %s\n", name, mode, dass_error_text());
                wrong++;
            } else if (!builds_op(cg, all[i].op) || cg->n_out == 0) {
                print_error("%s (mode %d): the graph lacks the op, or has no output\n", name, mode);
                wrong++;
            }
            case_graph_free(cg);
        }
    }
    assert_int_equal(wrong, 0);
}

/* ---- agreement ---------------------------------------------------------------------- */

typedef struct subject {
    char name[48];
    const char *backend;
    const char *cpu; /* DASS_CPU, or NULL */
    size_t i_registry;
    dass_precision precision;
} subject;

static dass_status open_subject(const subject *s, int n_threads, dass_backend **out)
{
    if (s->cpu)
        setenv("DASS_CPU", s->cpu, 1);
    else
        unsetenv("DASS_CPU");
    const dass_backend_options opt = {.n_threads = n_threads, .precision = s->precision};
    const dass_status st = dass_backend_open(s->backend, &opt, out);
    unsetenv("DASS_CPU");
    return st;
}

/* Skips the test when this build or machine has no such backend, and says why. Only the registry,
 * or an instruction set that the processor lacks, is a reason. */
static dass_backend *open_or_skip(const subject *s, int n_threads)
{
    const char *why = dass_backend_why_not(s->i_registry);
    dass_backend *be = NULL;
    const dass_status st = why ? DASS_UNSUPPORTED : open_subject(s, n_threads, &be);
    if (why || (st == DASS_UNSUPPORTED && s->cpu)) {
        print_message("%s: skipped: %s\n", s->name, why ? why : dass_error_text());
        skip();
    }
    if (st != DASS_OK)
        fail_msg("%s does not open: %s", s->name, dass_error_text());
    return be;
}

static dass_status run_case(dass_backend *be, const test_case *t, case_mode mode, bool guard, case_graph **cg,
                            case_data *d)
{
    case_program p = {0};
    dass_status st = DASS_OK;
    DASS_TRY_TO(case_graph_make(t, be->ops->real, mode, false, cg), st, out);
    DASS_TRY_TO(case_data_make(*cg, d), st, out);
    DASS_TRY_TO(case_program_make(be, *cg, &(dass_exec_options){.guard = guard}, &p), st, out);
    DASS_TRY_TO(case_program_run(&p, d), st, out);
out:
    case_program_free(&p);
    return st;
}

/* Of whole words: the bits behind the last entry are fixed too. */
static int64_t bits_that_differ(const uint64_t *a, const uint64_t *b, int64_t first, int64_t n)
{
    int64_t wrong = 0;
    for (int64_t i = first; i < first + n; i++)
        wrong += (a[i / 64] >> (i % 64) & 1) != (b[i / 64] >> (i % 64) & 1);
    return wrong;
}

/* 0 when output i agrees; otherwise the error, infinite for an integer or bit output that is not
 * equal. */
static double output_error(const case_graph *cg, uint32_t i, const case_data *got, const case_graph *cg_want,
                           const case_data *want)
{
    const case_tensor *t = &cg->out[i];
    const case_tensor *u = &cg_want->out[i];
    if (t->dtype == DASS_BITS)
        return bits_that_differ(got->buf[t->buf], want->buf[t->buf], t->offset, (t->count + 63) / 64 * 64) ? INFINITY
                                                                                                           : 0;
    if (t->dtype == DASS_U8 || t->dtype == DASS_I32) {
        const size_t size = dass_dtype_bytes(t->dtype);
        return memcmp((const uint8_t *)got->buf[t->buf] + (size_t)t->offset * size,
                      (const uint8_t *)want->buf[u->buf] + (size_t)u->offset * size, (size_t)t->count * size)
                   ? INFINITY
                   : 0;
    }
    const double *a = (const double *)got->buf[t->buf] + t->offset;
    const double *b = (const double *)want->buf[u->buf] + u->offset;
    double scale = 0.01;
    double worst = 0;
    for (int64_t k = 0; k < t->count; k++) {
        scale = fabs(b[k]) > scale ? fabs(b[k]) : scale;
        worst = fabs(a[k] - b[k]) > worst || isnan(a[k]) ? fabs(a[k] - b[k]) : worst;
        if (isnan(worst))
            return worst;
    }
    return worst / scale;
}

/* What was rounded to bf16 is off by half a unit of its own last digit, whatever its size, and by what fp32 allows of
 * the largest. Entries that are farther off. */
static int64_t rounded_twice(const case_tensor *t, const case_data *got, const case_tensor *u, const case_data *want)
{
    const double *a = (const double *)got->buf[t->buf] + t->offset;
    const double *b = (const double *)want->buf[u->buf] + u->offset;
    double scale = 0.01;
    int64_t n = 0;
    for (int64_t k = 0; k < t->count; k++)
        scale = fabs(b[k]) > scale ? fabs(b[k]) : scale;
    for (int64_t k = 0; k < t->count; k++) {
        int exponent = 0;
        (void)frexp(fabs(b[k]), &exponent); /* 8 bits: the unit is 2^(exponent - 8) */
        n += !(fabs(a[k] - b[k]) <= (b[k] == 0 ? 0 : ldexp(0.5, exponent - 8)) + tolerance * scale);
    }
    return n;
}

/* Put the outputs back to what the buffers held before, so that what remains different was
 * overwritten by mistake. */
static dass_buf stray_write(const case_graph *cg, case_data *d)
{
    case_data before;
    dass_buf found = 0;
    if (case_data_make(cg, &before) != DASS_OK)
        return 0;
    for (uint32_t i = 0; i < cg->n_out; i++) {
        const case_tensor *t = &cg->out[i];
        size_t size = case_is_real(t->buf) ? sizeof(double) : dass_dtype_bytes(t->dtype);
        size_t first = (size_t)t->offset * size;
        size_t bytes = (size_t)t->count * size;
        if (t->dtype == DASS_BITS) { /* the rest of the last word belongs to the value */
            first = (size_t)t->offset / 8;
            bytes = ((size_t)t->count + 63) / 64 * 8;
        }
        memcpy((char *)d->buf[t->buf] + first, (const char *)before.buf[t->buf] + first, bytes);
    }
    for (dass_buf b = 1; b < CASE_N_BUFS && !found; b++)
        if (before.bytes[b] && memcmp(before.buf[b], d->buf[b], before.bytes[b]) != 0)
            found = b;
    case_data_free(&before);
    return found;
}

/* One case on one backend against the double reference; returns 0 when it agrees. */
static int compare_case(dass_backend *be, dass_backend *ref, const test_case *t, case_mode mode, double allowed,
                        double *worst)
{
    case_graph *cg[2] = {NULL, NULL};
    case_data d[2] = {{{0}, {0}}, {{0}, {0}}};
    char name[160];
    int wrong = 0;
    case_name(t, name, sizeof(name));
    const bool stored = mode == CASE_STORED || mode == CASE_STORED_TEMP;
    dass_status st = run_case(ref, t, stored ? CASE_STORED : CASE_PLAIN, false, &cg[0], &d[0]);
    if (st == DASS_OK)
        st = run_case(be, t, mode, true, &cg[1], &d[1]);
    if (st != DASS_OK) {
        print_error("%s (mode %d): %s\n", name, (int)mode, dass_error_text());
        wrong = 1;
    }
    for (uint32_t i = 0; !wrong && i < cg[1]->n_out; i++) {
        const double e = output_error(cg[1], i, &d[1], cg[0], &d[0]);
        const double limit = cg[1]->out[i].stored && allowed < stored_tolerance ? stored_tolerance : allowed;
        if (!(e <= limit)) {
            print_error("%s (mode %d): %s differs from the reference by %.3g\n", name, (int)mode, cg[1]->out[i].name,
                        e);
            wrong = 1;
        }
        *worst = e > *worst ? e : *worst;
        const bool narrow = cg[1]->out[i].stored && be->stored == DASS_BF16;
        const int64_t twice = narrow ? rounded_twice(&cg[1]->out[i], &d[1], &cg[0]->out[i], &d[0]) : 0;
        if (twice > 0) {
            print_error("%s (mode %d): %lld entries of %s are off by more than their own rounding\n", name, (int)mode,
                        (long long)twice, cg[1]->out[i].name);
            wrong = 1;
        }
    }
    const dass_buf stray = wrong ? 0 : stray_write(cg[1], &d[1]);
    if (stray) {
        print_error("%s (mode %d): wrote outside its outputs, in buffer %d\n", name, (int)mode, (int)stray);
        wrong = 1;
    }
    for (int k = 0; k < 2; k++) {
        case_data_free(&d[k]);
        case_graph_free(cg[k]);
    }
    return wrong;
}

/* Where a backend counts the launches of its kernels, the cases must have reached every one of them. */
static int kernels_never_launched(const char *backend)
{
    uint64_t launches = 0;
    int missing = 0;
    const char *name = NULL;
    for (uint32_t i = 0; (name = dass_backend_kernel(backend, i, &launches)) != NULL; i++) {
        if (launches > 0)
            continue;
        print_error("%s: no case reaches kernel %s\n", backend, name);
        missing++;
    }
    return missing;
}

static void backend_agrees_with_reference(void **state)
{
    const subject *s = *state;
    dass_backend *be = open_or_skip(s, 2);
    dass_backend *ref = NULL;
    assert_int_equal(dass_backend_open("ref64", NULL, &ref), DASS_OK);
    size_t n;
    const test_case *all = cases_all(&n);
    int wrong = 0;
    double worst = 0;
    const char *only = getenv("DASS_TEST_OP"); /* name of one op: for whoever works on its kernel */
    for (size_t i = 0; i < n && wrong < max_reported; i++)
        for (int mode = only && strcmp(only, dass_op_get(all[i].op)->name) != 0 ? CASE_TEMP + 1 : CASE_PLAIN;
             mode <= CASE_TEMP; mode++)
            wrong += compare_case(be, ref, &all[i], (case_mode)mode, tolerance, &worst);
    print_message("%s: %zu cases, largest error %.2g\n", s->name, n, worst);
    dass_backend_close(ref);
    dass_backend_close(be);
    assert_int_equal(wrong, 0);
}

/* The cases of the tests before this one have reached all kernels of the device. */
static void every_kernel_is_reached(void **state)
{
    const subject *s = *state;
    dass_backend_close(open_or_skip(s, 2));
    if (getenv("DASS_TEST_OP") != NULL)
        skip();
    assert_int_equal(kernels_never_launched(s->backend), 0);
}

/* ---- bf16 --------------------------------------------------------------------------- */

/* Does the case have images or weights? */
static bool case_is_stored(const test_case *t)
{
    case_graph *cg = NULL;
    const dass_status st = case_graph_make(t, DASS_F32, CASE_STORED, false, &cg);
    bool any = st != DASS_OK; /* to be reported */
    for (dass_val v = 1; st == DASS_OK && v < cg->g->n_vals; v++)
        any = any || cg->g->vals[v].dtype == DASS_BF16;
    case_graph_free(cg);
    return any;
}

/* With activations and weights in bf16, what is stored so agrees to half a unit of its last digit, and everything else
 * (statistics, sums, gradients of weights, losses) as well as ever: nothing is rounded on the way. */
static void bf16_rounds_what_is_stored(void **state)
{
    const subject *s = *state;
    const char *backend = getenv("DASS_TEST_BACKEND");
    if (backend && strcmp(s->backend, backend) != 0) {
        print_message("left out: DASS_TEST_BACKEND asks for %s alone\n", backend);
        skip();
    }
    dass_backend *be = open_or_skip(s, 2);
    dass_backend *ref = NULL;
    assert_int_equal(dass_backend_open("ref64", NULL, &ref), DASS_OK);
    size_t n;
    const test_case *all = cases_all(&n);
    int wrong = 0;
    int compared = 0;
    double worst = 0;
    const char *only = getenv("DASS_TEST_OP");
    for (size_t i = 0; i < n && wrong < max_reported; i++) {
        if ((only && strcmp(only, dass_op_get(all[i].op)->name) != 0) || !case_is_stored(&all[i]))
            continue;
        compared++;
        wrong += compare_case(be, ref, &all[i], CASE_STORED, tolerance, &worst);
        wrong += compare_case(be, ref, &all[i], CASE_STORED_TEMP, tolerance, &worst);
    }
    print_message("%s: %d cases, largest error %.2g\n", s->name, compared, worst);
    dass_backend_close(ref);
    dass_backend_close(be);
    assert_int_equal(wrong, 0);
    assert_true(only || worst > 1e-4);
}

/* ---- precision ---------------------------------------------------------------------- */

/* With TF32 convolutions agree to ten bits of mantissa, and no longer to those of fp32: the switch reaches the
 * libraries. Depthwise products are ours, and stay fp32. */
static void tf32_rounds_factors_of_convolutions(void **state)
{
    const subject *s = *state;
    dass_backend *be = open_or_skip(s, 2);
    dass_backend *ref = NULL;
    assert_int_equal(dass_backend_open("ref64", NULL, &ref), DASS_OK);
    size_t n;
    const test_case *all = cases_all(&n);
    static const dass_op ops[] = {DASS_OP_CONV, DASS_OP_CONV_BWD_DATA, DASS_OP_CONV_BWD_WEIGHTS};
    for (size_t k = 0; k < sizeof(ops) / sizeof(*ops); k++) {
        int wrong = 0;
        double worst = 0;
        for (size_t i = 0; i < n; i++)
            if (all[i].op == ops[k])
                wrong += compare_case(be, ref, &all[i], CASE_PLAIN, 4e-3, &worst);
        print_message("%s, %s: largest error %.2g\n", s->name, dass_op_get(ops[k])->name, worst);
        assert_int_equal(wrong, 0);
        assert_true(worst > 2e-5);
    }
    dass_backend_close(ref);
    dass_backend_close(be);
}

/* Is its convolution one that cuBLASLt takes? */
static bool is_pointwise(const test_case *t)
{
    case_graph *cg = NULL;
    bool is = false;
    assert_int_equal(case_graph_make(t, DASS_F32, CASE_PLAIN, false, &cg), DASS_OK);
    for (dass_node n = 1; n < cg->g->n_nodes; n++) {
        const dass_conv_attr *a = &cg->g->nodes[n].attr.conv;
        is = is || (cg->g->nodes[n].op == t->op && a->kh == 1 && a->kw == 1 && a->stride == 1 && a->pad == 0 &&
                    a->groups == 1);
    }
    case_graph_free(cg);
    return is;
}

/* Launches of a library, or of what else the backend counts under that name. */
static uint64_t calls_of(const char *backend, const char *library)
{
    uint64_t calls = 0;
    const char *name = NULL;
    for (uint32_t i = 0; (name = dass_backend_kernel(backend, i, &calls)) != NULL; i++)
        if (strcmp(name, library) == 0)
            return calls;
    fail_msg("%s counts no %s", backend, library);
    return 0;
}

/* Where cuBLASLt has no algorithm, pointwise products are cuDNN's, with the same numbers and one warning; where cuDNN
 * has no plan either, its error is the user's. */
static void a_row_that_refuses_leaves_the_node_to_the_next(void **state)
{
    (void)state;
    need_double();
    static char text[1 << 14];
    static const dass_op ops[] = {DASS_OP_CONV, DASS_OP_CONV_BWD_DATA, DASS_OP_CONV_BWD_WEIGHTS};
    dass_backend *be = NULL;
    dass_backend *ref = NULL;
    size_t n;
    const test_case *all = cases_all(&n);
    int wrong = 0;
    double worst = 0;
    assert_int_equal(dass_backend_open("cuda", NULL, &be), DASS_OK);
    assert_int_equal(dass_backend_open("ref64", NULL, &ref), DASS_OK);
    const uint64_t before = calls_of("cuda", "cublaslt");
    setenv("FAKE_CUBLASLT_REFUSE", "1", 1);
    overheard o = overhear_begin();
    for (size_t k = 0; k < N_OF(ops); k++)
        for (size_t i = 0; i < n; i++)
            if (all[i].op == ops[k])
                wrong += compare_case(be, ref, &all[i], CASE_PLAIN, tolerance, &worst);
    overhear_end(&o, text, sizeof(text));
    assert_int_equal(wrong, 0);
    assert_int_equal(calls_of("cuda", "cublaslt"), before);
    if (times_in(text, "refuses node") != 1 || strstr(text, "cublaslt_pointwise refuses node") == NULL ||
        strstr(text, "cudnn is asked instead") == NULL)
        fail_msg("stderr is:\n%s", text);
    setenv("FAKE_CUDNN_REFUSE", "plans", 1);
    case_graph *cg = NULL;
    case_data d = {{0}, {0}};
    size_t pointwise = 0;
    while (pointwise < n && (all[pointwise].op != DASS_OP_CONV || !is_pointwise(&all[pointwise])))
        pointwise++;
    assert_true(pointwise < n);
    const dass_status st = run_case(be, &all[pointwise], CASE_PLAIN, false, &cg, &d);
    unsetenv("FAKE_CUDNN_REFUSE");
    unsetenv("FAKE_CUBLASLT_REFUSE");
    assert_fails_with(st, DASS_UNSUPPORTED, "has no plan for 'forward");
    case_data_free(&d);
    case_graph_free(cg);
    dass_backend_close(ref);
    dass_backend_close(be);
}

/* A device without it says so; it does not compute in another precision. */
static void precisions_are_refused_where_they_are_not(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        dass_precision precision;
    } none[] = {{"host", DASS_PRECISION_TF32},
                {"ref", DASS_PRECISION_TF32},
                {"null", DASS_PRECISION_TF32},
                {"ref64", DASS_PRECISION_TF32},
                {"ref64", DASS_PRECISION_BF16}};
    for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++) {
        dass_backend *be = NULL;
        const dass_backend_options opt = {.precision = none[i].precision};
        assert_false(dass_backend_has(none[i].name, none[i].precision));
        assert_int_equal(dass_backend_open(none[i].name, &opt, &be), DASS_UNSUPPORTED);
        assert_null(be);
        assert_non_null(strstr(dass_error_text(), "run.precision"));
    }
}

/* ---- threads ------------------------------------------------------------------------ */

/* Kernels of ours give the same bits with any number of threads; a library behind a kernel promises
 * nothing of the sort. */
static bool all_kernels_ours(dass_backend *be, const case_graph *cg)
{
    dass_exec *e = NULL;
    bool ours = dass_exec_make(be, cg->g, &(dass_exec_options){0}, &e) == DASS_OK;
    for (dass_node n = 1; ours && n < cg->g->n_nodes; n++)
        ours = strncmp(dass_exec_kernel_name(e, n), "onednn", 6) != 0;
    dass_exec_free(e);
    return ours;
}

static void result_is_independent_of_threads(void **state)
{
    const subject *s = *state;
    dass_backend *be[2] = {open_or_skip(s, 1), NULL};
    assert_int_equal(open_subject(s, 3, &be[1]), DASS_OK);
    size_t n;
    const test_case *all = cases_all(&n);
    int wrong = 0;
    size_t compared = 0;
    for (size_t i = 0; i < n && wrong < max_reported; i++) {
        case_graph *cg[2] = {NULL, NULL};
        case_data d[2] = {{{0}, {0}}, {{0}, {0}}};
        char name[160];
        case_name(&all[i], name, sizeof(name));
        for (int k = 0; k < 2; k++)
            if (run_case(be[k], &all[i], CASE_PLAIN, false, &cg[k], &d[k]) != DASS_OK)
                fail_msg("%s: %s", name, dass_error_text());
        if (all_kernels_ours(be[0], cg[0]) && all_kernels_ours(be[1], cg[1])) {
            compared++;
            for (dass_buf b = 1; b < CASE_N_BUFS; b++)
                if (d[0].bytes[b] && memcmp(d[0].buf[b], d[1].buf[b], d[0].bytes[b]) != 0) {
                    print_error("%s: 1 and 3 threads give different bits\n", name);
                    wrong++;
                }
        }
        for (int k = 0; k < 2; k++) {
            case_data_free(&d[k]);
            case_graph_free(cg[k]);
        }
    }
    print_message("%s: %zu of %zu cases run on our own kernels\n", s->name, compared, n);
    dass_backend_close(be[0]);
    dass_backend_close(be[1]);
    assert_int_equal(wrong, 0);
}

/* ---- the tests, made from the registry ---------------------------------------------- */

static const char *const host_sets[] = {"avx512", "avx2", "portable", "wide"};

static size_t add_subjects(subject *out, size_t max)
{
    const char *only = getenv("DASS_TEST_BACKEND"); /* for slow tools around the device's part of this test */
    size_t n = 0;
    for (size_t i = 0; dass_backend_name(i); i++) {
        const char *name = dass_backend_name(i);
        const bool host = strcmp(name, "host") == 0;
        if (strcmp(name, "null") == 0 || strcmp(name, "ref64") == 0) /* never computes; is the reference */
            continue;
        if (only && strcmp(name, only) != 0)
            continue;
        for (size_t k = 0; k < (host ? 4u : 1u); k++) {
            DASS_ASSERT(n < max);
            subject *s = &out[n++];
            *s = (subject){.backend = name, .cpu = host ? host_sets[k] : NULL, .i_registry = i};
            snprintf(s->name, sizeof(s->name), "%s%s%s", name, host ? "/" : "", host ? host_sets[k] : "");
        }
    }
    return n;
}

/* Position in the registry; its end when there is none of that name. */
static size_t registered(const char *backend)
{
    size_t i = 0;
    while (dass_backend_name(i) && strcmp(dass_backend_name(i), backend) != 0)
        i++;
    return i;
}

int main(void)
{
    static subject subjects[16];
    static char names[2][16][128];
    static subject tf32 = {.name = "cuda/tf32", .backend = "cuda", .precision = DASS_PRECISION_TF32};
    static subject bf16[3] = {{.name = "ref/bf16", .backend = "ref", .precision = DASS_PRECISION_BF16},
                              {.name = "host/bf16", .backend = "host", .precision = DASS_PRECISION_BF16},
                              {.name = "cuda/bf16", .backend = "cuda", .precision = DASS_PRECISION_BF16}};
    struct CMUnitTest tests[10 + 2 * 16] = {
        cmocka_unit_test(every_op_has_a_name),
        cmocka_unit_test(every_op_has_cases),
        cmocka_unit_test(every_case_builds_its_op),
        cmocka_unit_test(precisions_are_refused_where_they_are_not),
        cmocka_unit_test(a_row_that_refuses_leaves_the_node_to_the_next),
        {.name = "cuda with TF32 rounds the factors of convolutions",
         .test_func = tf32_rounds_factors_of_convolutions,
         .initial_state = &tf32},
        {.name = "the reference with bf16 rounds what is stored",
         .test_func = bf16_rounds_what_is_stored,
         .initial_state = &bf16[0]},
        {.name = "host with bf16 rounds what is stored",
         .test_func = bf16_rounds_what_is_stored,
         .initial_state = &bf16[1]},
        {.name = "cuda with bf16 rounds what is stored",
         .test_func = bf16_rounds_what_is_stored,
         .initial_state = &bf16[2]},
    };
    size_t n_tests = 9;
    const size_t n = add_subjects(subjects, 16);
    tf32.i_registry = registered("cuda");
    for (size_t i = 0; i < 3; i++)
        bf16[i].i_registry = registered(bf16[i].backend);
    for (size_t i = 0; i < n; i++) {
        snprintf(names[0][i], sizeof(names[0][i]), "%.47s agrees with the reference", subjects[i].name);
        tests[n_tests++] = (struct CMUnitTest){.name = names[0][i],
                                               .test_func = backend_agrees_with_reference,
                                               .initial_state = &subjects[i]};
        if (!subjects[i].cpu)
            continue;
        snprintf(names[1][i], sizeof(names[1][i]), "%.47s does not depend on the number of threads", subjects[i].name);
        tests[n_tests++] = (struct CMUnitTest){.name = names[1][i],
                                               .test_func = result_is_independent_of_threads,
                                               .initial_state = &subjects[i]};
    }
    tests[n_tests++] = (struct CMUnitTest){.name = "every kernel of cuda is reached",
                                           .test_func = every_kernel_is_reached,
                                           .initial_state = &tf32};
    return _cmocka_run_group_tests("ops", tests, n_tests, NULL, NULL);
}
