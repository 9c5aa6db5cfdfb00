/* Which of cuDNN's engines runs a convolution: its heuristics propose, the notes of the engines and the workspace limit
 * dispose, the first that finalises is taken; and a plan from its text. Invariant: no engine that a precision forbids
 * ever gets into a plan.
 */
#include "cuda_dnn_private.h"

#include <stdio.h>

#include "dass/mem.h"

#define NOTE(name) (1u << CUDNN_NUMERICAL_NOTE_##name)
#define WINOGRAD (NOTE(WINOGRAD) | NOTE(WINOGRAD_TILE_4x4) | NOTE(WINOGRAD_TILE_6x6) | NOTE(WINOGRAD_TILE_13x13))

/* What a precision forbids. Inputs cast to half lose their range and sums kept in half lose everything: never
 * wanted. Strict fp32 promises what our own kernels promise, agreement with a double-precision sum to 1e-5 of the
 * tensor's size: tensor cores round fp32 factors to TF32 (1e-3), and Winograd's and FFT's transforms add and subtract
 * numbers much larger than the result (Winograd 4x4 reaches 1e-4), so none of them can keep it. BF16 promises as much
 * of what is rounded last: tensor cores multiply bf16 exactly and may do it, the transforms may not. */
static unsigned forbidden(dass_precision p)
{
    const unsigned never = NOTE(DOWN_CONVERT_INPUTS) | NOTE(REDUCED_PRECISION_REDUCTION);
    const unsigned transforms = NOTE(FFT) | WINOGRAD;
    return never | (p != DASS_PRECISION_TF32 ? transforms : 0) | (p == DASS_PRECISION_FP32 ? NOTE(TENSOR_CORE) : 0);
}

static dass_status read_engine(descriptor e, dass__dnn_engine *out)
{
    cudnnBackendNumericalNote_t note[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    cudnnBackendBehaviorNote_t behaviour[CUDNN_BEHAVIOR_NOTE_TYPE_COUNT];
    int64_t n = 0, m = 0, one = 0;
    *out = (dass__dnn_engine){0};
    DNN_TRY(cudnnBackendGetAttribute(e, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &one, &out->index));
    DNN_TRY(cudnnBackendGetAttribute(e, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                     CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n, note));
    DNN_TRY(cudnnBackendGetAttribute(e, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE,
                                     CUDNN_BEHAVIOR_NOTE_TYPE_COUNT, &m, behaviour));
    /* A library newer than these headers may have notes that they do not name: the lists would then be cut. */
    if (n > CUDNN_NUMERICAL_NOTE_TYPE_COUNT || m > CUDNN_BEHAVIOR_NOTE_TYPE_COUNT)
        return DASS_FAIL(DASS_INTERNAL, "cuDNN: engine %lld has %lld and %lld notes; build with this library's headers",
                         (long long)out->index, (long long)n, (long long)m);
    for (int64_t i = 0; i < n; ++i)
        out->notes |= (unsigned)note[i] < 32 ? 1u << note[i] : 0;
    for (int64_t i = 0; i < m; ++i)
        out->rtc |= behaviour[i] == CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION;
    return DASS_OK;
}

/* The engine of a configuration. */
dass_status dass__dnn_engine_of(descriptor config, dass__dnn_engine *out)
{
    descriptor e = NULL;
    int64_t n = 0;
    DNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &e));
    dass_status st;
    DNN_TRY_TO(cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &e),
               st, done);
    DASS_TRY_TO(read_engine(e, out), st, done);
done:
    dass__dnn_drop(&e);
    return st;
}

void dass__dnn_name(dass__dnn_plan *p, const dass__dnn_engine *e)
{
    static const struct {
        unsigned bits;
        const char *word;
    } words[] = {
        {NOTE(TENSOR_CORE), "tc"},
        {NOTE(DOWN_CONVERT_INPUTS), "downcvt"},
        {NOTE(REDUCED_PRECISION_REDUCTION), "redprec"},
        {NOTE(FFT), "fft"},
        {WINOGRAD, "wino"},
        {NOTE(NONDETERMINISTIC), "nondet"},
    };
    size_t used = (size_t)snprintf(p->name, sizeof p->name, "cudnn:eng%lld", (long long)e->index);
    for (size_t i = 0; i < sizeof words / sizeof *words; ++i)
        if (e->notes & words[i].bits)
            used += (size_t)snprintf(p->name + used, sizeof p->name - used, "+%s", words[i].word);
    if (e->rtc)
        (void)snprintf(p->name + used, sizeof p->name - used, "+rtc");
}

/* ---- choosing ---------------------------------------------------------------------------------------------------- */

/* What became of the candidates. */
typedef struct tally {
    int seen, rounding, random, workspace, failed;
    char last[DASS__DNN_ERROR]; /* cuDNN's last refusal */
} tally;

static void note_failure(tally *t, cudnnStatus_t s)
{
    char text[DASS__DNN_ERROR];
    (void)snprintf(t->last, sizeof t->last, "%d (%s): %.400s", (int)s, cudnnGetErrorString(s),
                   dass__dnn_last_error(text, sizeof text));
}

/* Who is asked, and how. */
typedef struct inquiry {
    const dass__dnn *d;
    cudnnHandle_t handle; /* NULL: by the description of the card */
    size_t ws_limit;
    tally t;
} inquiry;

/* What a plan is for: the card behind a handle, or the described one. */
static dass_status set_place(const dass__dnn *d, descriptor plan, cudnnHandle_t handle)
{
    if (handle != NULL)
        DNN_SET(plan, EXECUTION_PLAN_HANDLE, HANDLE, 1, &handle);
    else
        DNN_SET(plan, EXECUTION_PLAN_DEVICEPROP, BACKEND_DESCRIPTOR, 1, &d->device);
    return DASS_OK;
}

/* Finalise one configuration. *out stays NULL when cuDNN refuses it or it wants too much workspace: no error. */
static dass_status try_config(inquiry *q, descriptor config, descriptor *out, size_t *ws)
{
    descriptor plan = NULL;
    dass_status st = DASS_OK;
    DNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan));
    DNN_TRY_TO(cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                        &config),
               st, done);
    DASS_TRY_TO(set_place(q->d, plan, q->handle), st, done);
    const cudnnStatus_t s = cudnnBackendFinalize(plan);
    if (s != CUDNN_STATUS_SUCCESS) {
        q->t.failed++;
        note_failure(&q->t, s);
        goto done;
    }
    int64_t n = 0, bytes = 0;
    DNN_TRY_TO(cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n,
                                        &bytes),
               st, done);
    if (bytes < 0 || (size_t)bytes > q->ws_limit) {
        q->t.workspace++;
        goto done;
    }
    *ws = (size_t)bytes;
    *out = plan;
    return DASS_OK;
done:
    dass__dnn_drop(&plan);
    return st;
}

/* Go through the configurations in cuDNN's order. The one that serves is moved from the list to the plan. */
static dass_status try_configs(inquiry *q, dass__dnn_plan *p, descriptor *config, int64_t n)
{
    const unsigned no = forbidden(p->c.precision);
    for (int64_t i = 0; i < n; ++i) {
        dass__dnn_engine e;
        DASS_TRY(dass__dnn_engine_of(config[i], &e));
        q->t.seen++;
        if (e.notes & no) {
            q->t.rounding++;
        } else if (q->d->deterministic && (e.notes & NOTE(NONDETERMINISTIC))) {
            q->t.random++;
        } else {
            DASS_TRY(try_config(q, config[i], &p->plan, &p->ws));
            if (p->plan != NULL) {
                dass__dnn_name(p, &e);
                p->own[p->n_own++] = config[i];
                config[i] = NULL;
                return DASS_OK;
            }
        }
    }
    return DASS_OK;
}

/* Ask the heuristics of one mode. That they know nothing is no error. */
static dass_status try_mode(inquiry *q, dass__dnn_plan *p, descriptor graph, cudnnBackendHeurMode_t mode)
{
    descriptor heur = NULL, *config = NULL;
    int64_t room = 0, n = 0;
    dass_status st = DASS_OK;
    const cudnnBackendAttributeType_t type = CUDNN_TYPE_BACKEND_DESCRIPTOR;
    DNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &heur));
    DNN_TRY_TO(cudnnBackendSetAttribute(heur, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, type, 1, &graph), st, done);
    DNN_TRY_TO(cudnnBackendSetAttribute(heur, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode), st, done);
    if (q->handle == NULL)
        DNN_TRY_TO(cudnnBackendSetAttribute(heur, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, type, 1, &q->d->device), st, done);
    const cudnnStatus_t s = cudnnBackendFinalize(heur);
    if (s != CUDNN_STATUS_SUCCESS) {
        note_failure(&q->t, s);
        goto done;
    }
    DNN_TRY_TO(cudnnBackendGetAttribute(heur, CUDNN_ATTR_ENGINEHEUR_RESULTS, type, 0, &room, NULL), st, done);
    if (room <= 0)
        goto done;
    void *block = NULL;
    DASS_TRY_TO(dass_mem_alloc((size_t)room * sizeof *config, "cuDNN engine configurations", &block), st, done);
    config = block;
    for (int64_t i = 0; i < room; ++i)
        DNN_TRY_TO(cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &config[i]), st, done);
    DNN_TRY_TO(cudnnBackendGetAttribute(heur, CUDNN_ATTR_ENGINEHEUR_RESULTS, type, room, &n, config), st, done);
    DASS_TRY_TO(try_configs(q, p, config, n < room ? n : room), st, done);
done:
    for (int64_t i = 0; config != NULL && i < room; ++i)
        dass__dnn_drop(&config[i]);
    dass_mem_free(config);
    dass__dnn_drop(&heur);
    return st;
}

dass_status dass__dnn_choose(const dass__dnn *d, dass__dnn_plan *p, cudnnHandle_t handle, size_t ws_limit)
{
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    descriptor graph = NULL;
    inquiry q = {.d = d, .handle = handle, .ws_limit = ws_limit, .t = {.last = "none"}};
    DASS_TRY(dass__dnn_graph(p, handle, &graph));
    for (size_t i = 0; i < sizeof modes / sizeof *modes && p->plan == NULL; ++i)
        DASS_TRY(try_mode(&q, p, graph, modes[i]));
    if (p->plan != NULL)
        return DASS_OK;
    char text[DASS__DNN_TEXT];
    return DASS_FAIL(DASS_UNSUPPORTED,
                     "cuDNN %zu has no plan for '%s': of %d candidates %d were dropped for their rounding, %d as "
                     "nondeterministic, %d for wanting more than %zu bytes of workspace, %d were refused, the last "
                     "error being %s; use other kernels for this node",
                     cudnnGetVersion(), dass__dnn_conv_text(&p->c, text, sizeof text), q.t.seen, q.t.rounding,
                     q.t.random, q.t.workspace, ws_limit, q.t.failed, q.t.last);
}

/* ---- a plan from its text ---------------------------------------------------------------------------------------- */

dass_status dass__dnn_plan_of_text(const dass__dnn *d, dass__dnn_plan *p, const char *json, size_t n)
{
    descriptor plan = NULL, config = NULL;
    dass__dnn_engine e;
    int64_t one = 0, bytes = 0;
    dass_status st;
    DNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan));
    DASS_TRY_TO(set_place(d, plan, d->handle), st, done); /* before the text, or cuDNN crashes */
    DNN_TRY_TO(cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                        (int64_t)n, json),
               st, done);
    DNN_TRY_TO(cudnnBackendFinalize(plan), st, done);
    DNN_TRY_TO(cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &one,
                                        &bytes),
               st, done);
    DNN_TRY_TO(cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &config), st, done);
    DNN_TRY_TO(cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                        &one, &config),
               st, done);
    DASS_TRY_TO(dass__dnn_engine_of(config, &e), st, done);
    if (bytes < 0 || (size_t)bytes > d->ws_limit) {
        st = DASS_FAIL(DASS_FORMAT, "a plan of %lld bytes of workspace, where at most %zu are allowed",
                       (long long)bytes, d->ws_limit);
        goto done;
    }
    dass__dnn_name(p, &e);
    p->ws = (size_t)bytes;
    p->plan = plan;
    plan = NULL;
done:
    dass__dnn_drop(&config);
    dass__dnn_drop(&plan);
    return st;
}
