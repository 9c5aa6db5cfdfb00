/* cuDNN opened on one stream; plans made, bound and run. The only files that know cuDNN are cuda_dnn*.c, and only its
 * graph API in C (neither the legacy calls nor the C++ frontend). Not the place where nodes become convolutions, nor
 * where layouts are changed.
 *
 * A plan is made from the card's description, written as text, and read back with the handle that will run it: so what
 * is tested without a card is what runs on one, and a plan of the cache is like a fresh one. Should the card refuse
 * such a plan, when it is read or when it first runs, one is made on the card. Invariant: with a handle, no plan is
 * executed that was finalised without.
 */
#include "cuda_dnn_private.h"

#include <stdio.h>
#include <string.h>

#include "dass/file.h"
#include "dass/log.h"
#include "dass/mem.h"

#define WS_LIMIT ((size_t)256 << 20)
#define PATH_BYTES 4096

/* ---- cuDNN's answers --------------------------------------------------------------------------------------------- */

/* cuDNN's own words for the last failure of this thread, on one line. */
const char *dass__dnn_last_error(char *buf, size_t n)
{
    buf[0] = '\0';
    cudnnGetLastErrorString(buf, n);
    for (char *p = buf; *p != '\0'; ++p)
        if (*p == '\n')
            *p = ' ';
    return buf;
}

dass_status dass__dnn_check(cudnnStatus_t s, const char *call)
{
    if (s == CUDNN_STATUS_SUCCESS)
        return DASS_OK;
    dass_status st = DASS_INTERNAL;
    const int category = CUDNN_STATUS_CATEGORY((int)s);
    if (s == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED)
        st = DASS_NOMEM;
    else if (category == CUDNN_STATUS_NOT_SUPPORTED)
        st = DASS_UNSUPPORTED;
    else if (category == CUDNN_STATUS_EXECUTION_FAILED || s == CUDNN_STATUS_NOT_INITIALIZED)
        st = DASS_DEVICE;
    char text[DASS__DNN_ERROR];
    return DASS_FAIL(st, "cuDNN: %s returned %d (%s): %s", call, (int)s, cudnnGetErrorString(s),
                     dass__dnn_last_error(text, sizeof text));
}

void dass__dnn_drop(descriptor *d)
{
    if (*d != NULL)
        (void)cudnnBackendDestroyDescriptor(*d);
    *d = NULL;
}

void dass__dnn_drop_plan(dass__dnn_plan *p)
{
    dass__dnn_drop(&p->plan);
    while (p->n_own > 0)
        dass__dnn_drop(&p->own[--p->n_own]);
}

/* A text attribute as a NUL-ended block; free with dass_mem_free. */
dass_status dass__dnn_text_of(descriptor d, cudnnBackendAttributeName_t name, const char *what, char **out)
{
    int64_t n = 0, got = 0;
    DNN_TRY(cudnnBackendGetAttribute(d, name, CUDNN_TYPE_CHAR, 0, &n, NULL));
    if (n <= 0 || (size_t)n > DASS__DNN_PLAN_MAX)
        return DASS_FAIL(DASS_INTERNAL, "cuDNN: %s has %lld bytes", what, (long long)n);
    void *block = NULL;
    DASS_TRY(dass_mem_alloc((size_t)n + 1, what, &block));
    const dass_status st = dass__dnn_check(cudnnBackendGetAttribute(d, name, CUDNN_TYPE_CHAR, n, &got, block), what);
    if (st != DASS_OK) {
        dass_mem_free(block);
        return dass__hop(st, __FILE__, __LINE__);
    }
    *out = block;
    return DASS_OK;
}

/* ---- open and close ---------------------------------------------------------------------------------------------- */

static dass_status copy_text(const char *text, const char *what, char **out)
{
    void *block = NULL;
    const size_t n = strlen(text) + 1;
    DASS_TRY(dass_mem_alloc(n, what, &block));
    memcpy(block, text, n);
    *out = block;
    return DASS_OK;
}

/* The handle. With a described card, having none is fine. */
static dass_status open_handle(dass__dnn *d, void *stream, bool described)
{
    const cudnnStatus_t s = cudnnCreate(&d->handle);
    if (s != CUDNN_STATUS_SUCCESS) {
        d->handle = NULL;
        if (described)
            return DASS_OK;
        char text[DASS__DNN_ERROR];
        return DASS_FAIL(DASS_DEVICE,
                         "cuDNN %zu does not start: cudnnCreate returned %d (%s): %s; is there a GPU, and "
                         "a driver for this version?",
                         cudnnGetVersion(), (int)s, cudnnGetErrorString(s), dass__dnn_last_error(text, sizeof text));
    }
    DNN_TRY(cudnnSetStream(d->handle, stream));
    return DASS_OK;
}

static dass_status open_device(dass__dnn *d, int ordinal, const char *json)
{
    DNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &d->device));
    if (json == NULL) {
        const int32_t id = ordinal;
        DNN_SET(d->device, DEVICEPROP_DEVICE_ID, INT32, 1, &id);
        DNN_TRY(cudnnBackendFinalize(d->device));
    } else {
        cudnnStatus_t s = cudnnBackendSetAttribute(d->device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                                                   CUDNN_TYPE_CHAR, (int64_t)strlen(json), json);
        if (s == CUDNN_STATUS_SUCCESS)
            s = cudnnBackendFinalize(d->device);
        char text[DASS__DNN_ERROR];
        if (s != CUDNN_STATUS_SUCCESS)
            return DASS_FAIL(DASS_FORMAT, "the description of the card, '%.40s...', is refused by cuDNN: %d (%s): %s",
                             json, (int)s, cudnnGetErrorString(s), dass__dnn_last_error(text, sizeof text));
    }
    return dass__dnn_text_of(d->device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, "description of the card",
                             &d->device_json);
}

dass_status dass__dnn_open(int ordinal, void *stream, const dass__dnn_options *opt, dass__dnn **out)
{
    static const dass__dnn_options none;
    *out = NULL;
    if (opt == NULL)
        opt = &none;
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass__dnn), "cuDNN module", &block));
    dass__dnn *const d = block;
    d->ws_limit = opt->ws_limit != 0 ? opt->ws_limit : WS_LIMIT;
    d->deterministic = opt->deterministic;
    dass_status st;
    DASS_TRY_TO(open_handle(d, stream, opt->device_json != NULL), st, failed);
    DASS_TRY_TO(open_device(d, ordinal, opt->device_json), st, failed);
    if (opt->cache_dir != NULL) {
        DASS_TRY_TO(dass_folder_make(opt->cache_dir), st, failed);
        DASS_TRY_TO(copy_text(opt->cache_dir, "name of the plan cache", &d->cache_dir), st, failed);
    }
    *out = d;
    return DASS_OK;
failed:
    dass__dnn_close(d);
    return st;
}

void dass__dnn_close(dass__dnn *d)
{
    if (d == NULL)
        return;
    dass__dnn_drop(&d->device);
    if (d->handle != NULL)
        (void)cudnnDestroy(d->handle);
    dass_mem_free(d->device_json);
    dass_mem_free(d->cache_dir);
    dass_mem_free(d);
}

const char *dass__dnn_device_json(const dass__dnn *d)
{
    return d->device_json;
}

bool dass__dnn_can_run(const dass__dnn *d)
{
    return d->handle != NULL;
}

/* ---- plans ------------------------------------------------------------------------------------------------------- */

/* A plan by the description of the card, for the handle where there is one. */
static dass_status plan_described(const dass__dnn *d, dass__dnn_plan *p)
{
    char *json = NULL;
    DASS_TRY(dass__dnn_choose(d, p, NULL, d->ws_limit));
    if (d->handle == NULL)
        return DASS_OK;
    DASS_TRY(dass__dnn_text_of(p->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, "plan", &json));
    dass__dnn_drop_plan(p);
    const dass_status st = dass__dnn_plan_of_text(d, p, json, strlen(json));
    dass_mem_free(json);
    return st;
}

/* A plan made on the card, in the place of a described one that failed with `why`. */
static dass_status plan_on_card(dass__dnn *d, dass__dnn_plan *p, size_t ws_limit, const char *why)
{
    char text[DASS__DNN_TEXT];
    dass__dnn_drop_plan(p);
    const dass_status st = dass__dnn_choose(d, p, d->handle, ws_limit);
    if (st != DASS_OK)
        return DASS_FAIL(st, "%s; and a plan made on the card: %s", why, dass_error_text());
    p->on_card = true;
    p->cached = false;
    if (!d->told)
        dass_log(DASS_LOG_WARN,
                 "cuDNN: the card does not run the plan that was made for it from its description, %s made on the card "
                 "does (further ones are not told): %s: %s",
                 p->name, dass__dnn_conv_text(&p->c, text, sizeof text), why);
    d->told = true;
    dass_error_clear();
    return DASS_OK;
}

static dass_status plan(dass__dnn *d, dass__dnn_plan *p)
{
    char why[DASS__DNN_ERROR];
    const dass_status st = plan_described(d, p);
    if (st == DASS_OK || st == DASS_NOMEM || d->handle == NULL)
        return st;
    (void)snprintf(why, sizeof why, "%s", dass_error_text());
    return plan_on_card(d, p, d->ws_limit, why);
}

static void save(const dass__dnn *d, const dass__dnn_plan *p)
{
    char path[PATH_BYTES];
    const unsigned long long key = dass__dnn_cache_key(d, &p->c);
    if (dass__dnn_cache_path(d, key, path, sizeof path) == DASS_OK && dass__dnn_cache_save(p, key, path) == DASS_OK)
        return;
    dass_log(DASS_LOG_WARN, "plan cache: not written: %s", dass_error_text());
    dass_error_clear();
}

/* The cache saves time and nothing else: what goes wrong with it is told, and the plan is made without it. */
static dass_status load_or_plan(dass__dnn *d, dass__dnn_plan *p)
{
    if (d->cache_dir == NULL)
        return plan(d, p);
    char path[PATH_BYTES];
    const unsigned long long key = dass__dnn_cache_key(d, &p->c);
    DASS_TRY(dass__dnn_cache_path(d, key, path, sizeof path));
    if (dass__dnn_cache_load(d, p, key, path) != DASS_OK) {
        dass_log(DASS_LOG_WARN, "plan cache: %s is made anew: %s", path, dass_error_text());
        dass_error_clear();
    }
    if (p->plan != NULL)
        return DASS_OK;
    DASS_TRY(plan(d, p));
    save(d, p);
    return DASS_OK;
}

dass_status dass__dnn_plan_make(dass__dnn *d, const dass__dnn_conv *c, dass__dnn_plan **out)
{
    *out = NULL;
    DASS_TRY(dass__dnn_conv_check(c));
    char text[DASS__DNN_TEXT];
    if (!dass__dnn_conv_exists(c))
        return DASS_FAIL(DASS_UNSUPPORTED,
                         "cuDNN sums '%s' in bf16 or not at all; widen its inputs and plan it in fp32",
                         dass__dnn_conv_text(c, text, sizeof text));
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass__dnn_plan), "cuDNN plan", &block));
    dass__dnn_plan *const p = block;
    p->c = *c;
    const dass_status st = load_or_plan(d, p);
    if (st != DASS_OK) {
        dass__dnn_plan_free(p);
        return dass__hop(st, __FILE__, __LINE__);
    }
    *out = p;
    return DASS_OK;
}

void dass__dnn_plan_free(dass__dnn_plan *p)
{
    if (p == NULL)
        return;
    dass__dnn_drop(&p->pack);
    dass__dnn_drop_plan(p);
    dass_mem_free(p);
}

size_t dass__dnn_plan_ws(const dass__dnn_plan *p)
{
    return p->ws;
}

const char *dass__dnn_plan_name(const dass__dnn_plan *p)
{
    return p->name;
}

bool dass__dnn_plan_cached(const dass__dnn_plan *p)
{
    return p->cached;
}

/* ---- binding and running ----------------------------------------------------------------------------------------- */

static dass_status check_pointer(const dass__dnn_plan *p, const void *ptr, const char *what, bool wanted, size_t align)
{
    char text[DASS__DNN_TEXT];
    (void)dass__dnn_conv_text(&p->c, text, sizeof text);
    if (wanted && ptr == NULL)
        return DASS_FAIL(DASS_ARG, "'%s' was bound without %s", text, what);
    if (!wanted && ptr != NULL)
        return DASS_FAIL(DASS_ARG, "'%s' was bound with %s, which it does not take", text, what);
    if ((uintptr_t)ptr % align != 0)
        return DASS_FAIL(DASS_ARG, "'%s': %s at %p is not aligned to %zu bytes; copy it to where it is", text, what,
                         ptr, align);
    return DASS_OK;
}

dass_status dass__dnn_plan_bind(dass__dnn_plan *p, const void *in0, const void *in1, const void *bias, void *out,
                                void *ws)
{
    static const int64_t order[DASS__DNN_KINDS][3] = {
        [DASS__DNN_FORWARD] = {DASS__DNN_X, DASS__DNN_W, DASS__DNN_Y},
        [DASS__DNN_DATA] = {DASS__DNN_Y, DASS__DNN_W, DASS__DNN_X},
        [DASS__DNN_WEIGHTS] = {DASS__DNN_X, DASS__DNN_Y, DASS__DNN_W},
    };
    DASS_TRY(check_pointer(p, in0, "its first input", true, DASS__DNN_ALIGN));
    DASS_TRY(check_pointer(p, in1, "its second input", true, DASS__DNN_ALIGN));
    DASS_TRY(check_pointer(p, out, "its output", true, DASS__DNN_ALIGN));
    DASS_TRY(check_pointer(p, bias, "a bias", p->c.bias, DASS__DNN_BIAS_ALIGN));
    DASS_TRY(check_pointer(p, ws, "its workspace", p->ws > 0 || ws != NULL, DASS__DNN_ALIGN));
    const int64_t uid[4] = {order[p->c.kind][0], order[p->c.kind][1], order[p->c.kind][2], DASS__DNN_BIAS};
    const void *const ptr[4] = {in0, in1, out, bias};
    const int64_t n = p->c.bias ? 4 : 3;
    dass__dnn_drop(&p->pack);
    descriptor pack = NULL;
    dass_status st;
    DNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack));
    DNN_TRY_TO(cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, uid), st,
               failed);
    DNN_TRY_TO(cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, ptr), st,
               failed);
    DNN_TRY_TO(cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &ws), st,
               failed);
    DNN_TRY_TO(cudnnBackendFinalize(pack), st, failed);
    p->pack = pack;
    return DASS_OK;
failed:
    dass__dnn_drop(&pack);
    return st;
}

/* The first run of a described plan failed with `why`: a plan of the card, within the scratch that was bound. The pack
 * serves both, because all plans number their tensors alike. */
static dass_status run_on_card(dass__dnn *d, dass__dnn_plan *p, const char *why)
{
    DASS_TRY(plan_on_card(d, p, p->ws, why));
    if (d->cache_dir != NULL)
        save(d, p);
    DNN_TRY(cudnnBackendExecute(d->handle, p->plan, p->pack));
    return DASS_OK;
}

dass_status dass__dnn_run(dass__dnn *d, dass__dnn_plan *p)
{
    if (d->handle == NULL)
        return DASS_FAIL(DASS_DEVICE, "%s cannot run: cuDNN was opened from a description of a card, without a card",
                         p->name);
    if (p->pack == NULL)
        return DASS_FAIL(DASS_ARG, "%s cannot run: it was not bound to its tensors", p->name);
    if (p->plan == NULL)
        return DASS_FAIL(DASS_DEVICE,
                         "%s cannot run: the card refused it and had no other; see the error of its first run",
                         p->name);
    dass_status st = dass__dnn_check(cudnnBackendExecute(d->handle, p->plan, p->pack), "cudnnBackendExecute");
    if (st != DASS_OK && !p->ran && !p->on_card) {
        char why[DASS__DNN_ERROR];
        (void)snprintf(why, sizeof why, "%s", dass_error_text());
        st = run_on_card(d, p, why);
    }
    p->ran = p->ran || st == DASS_OK;
    return st;
}
