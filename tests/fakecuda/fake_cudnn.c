/* Runs cuDNN's plans where there is no GPU. The real library builds, checks and plans every graph; this file stands in
 * front of it, notes what goes into the variant packs, and executes a plan from the plan's own JSON with plain loops in
 * double precision, rounding where a tensor is stored. So wiring, shapes, strides, sizes and lifetimes are those that
 * the GPU would get. Not a model of a GPU: it knows neither speed nor the
 * engine's rounding. Where fake_cudart.cc is linked too, a plan runs when its stream's turn comes.
 *
 * It refuses, with a line on stderr and CUDNN_STATUS_BAD_PARAM: tensors that do not lie in live device memory with all
 * bytes their strides span, or not aligned as declared, or not in the pack; a workspace too small or missing; memory
 * that is written while something else lies there; handles, plans and packs that are not alive or not finalised; plans
 * that were not finalised with a handle. The card behind a handle is the one that $DASS_CUDNN_DEVICE describes. The
 * workspace is filled with NaNs before every run, and a NaN that was read reaches the output.
 *
 * Link it, or preload it as a shared object, in front of libcudnn.so.9, together with an fake_cuda_inside().
 */
#define _GNU_SOURCE
#include "fake_cudnn.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cudnn.h>
#include <jansson.h>

typedef cudnnBackendDescriptor_t descriptor;

#define MAX_TENSORS 16
#define MAX_NODES 8
#define MAX_POINTERS 16

/* Of fake_cudart.cc; absent where this file is tested alone. */
#pragma weak fake_fault
#pragma weak fake_enqueue_c

static cudnnStatus_t refuse(cudnnStatus_t s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static cudnnStatus_t refuse(cudnnStatus_t s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "fake cudnn: ");
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    if (fake_fault != NULL)
        fake_fault("cuDNN was given what it must refuse");
    return s;
}
#define REFUSE(...) return refuse(CUDNN_STATUS_BAD_PARAM, __VA_ARGS__)

static void *must(void *p)
{
    if (p == NULL) {
        fprintf(stderr, "fake cudnn: out of memory\n");
        abort();
    }
    return p;
}

/* The real function. The library may have been opened for a plugin only; then it is not behind us in the global order.
 */
static void *real(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);
    if (f == NULL) {
        void *lib = dlopen("libcudnn.so.9", RTLD_LAZY | RTLD_NOLOAD);
        f = lib != NULL ? dlsym(lib, name) : NULL;
    }
    if (f == NULL) {
        fprintf(stderr, "fake cudnn: the real %s was not found; is libcudnn.so.9 loaded?\n", name);
        abort();
    }
    return f;
}
/* A function pointer from dlsym's data pointer, without a cast that ISO C forbids. */
#define REAL(f)                     \
    static __typeof__(&f) f##_real; \
    if (f##_real == NULL)           \
    *(void **)&f##_real = real(#f)

/* ---- what is known of descriptors ------------------------------------------------------------------------------- */

typedef struct tensor {
    char uid[24];
    bool bf16, inside; /* inside: virtual, exists in the plan only */
    int64_t dim[4], stride[4], align, span, count;
    char *p;     /* where it lies in this run */
    double *val; /* its numbers, n,h,w,c, in this run */
    bool written;
} tensor;

typedef enum op { CONV_FORWARD, CONV_DATA, CONV_WEIGHTS, ADD, RELU, IDENTITY } op;

typedef struct node {
    op op;
    int x, w, y; /* tensors: w is the second operand of ADD */
    int64_t pad[2], stride[2], dil[2];
    double lower, upper;
} node;

typedef struct program {
    tensor t[MAX_TENSORS];
    node n[MAX_NODES];
    int n_tensors, n_nodes;
    int64_t ws;
} program;

/* A variant pack, a plan or an operation graph that is alive. */
typedef struct record {
    descriptor d;
    bool finalized;
    bool is_plan;
    bool with_handle, from_text; /* of a plan; with_handle of a graph too */
    int64_t n_uid, n_ptr;
    int64_t uid[MAX_POINTERS];
    void *ptr[MAX_POINTERS];
    void *ws;
    program *plan;
} record;

struct fake_handle {
    cudaStream_t stream;
    struct fake_handle *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static record *records;
static size_t n_records, room_records;
static struct fake_handle *handles;
static long n_runs;
static bool no_device;

static record *find(descriptor d)
{
    for (size_t i = 0; i < n_records; ++i)
        if (records[i].d == d)
            return &records[i];
    return NULL;
}

static record *find_or_add(descriptor d)
{
    record *r = find(d);
    if (r != NULL)
        return r;
    if (n_records == room_records) {
        room_records = room_records ? 2 * room_records : 64;
        records = must(realloc(records, room_records * sizeof *records));
    }
    r = &records[n_records++];
    *r = (record){.d = d};
    return r;
}

/* An address may come back as another descriptor. */
static void forget(descriptor d)
{
    record *const r = find(d);
    if (r == NULL)
        return;
    free(r->plan);
    *r = records[--n_records];
}

long fake_cudnn_runs(void)
{
    return n_runs;
}

void fake_cudnn_no_device(bool on)
{
    no_device = on;
}

/* ---- handles ---------------------------------------------------------------------------------------------------- */

static struct fake_handle *live(cudnnHandle_t h)
{
    for (struct fake_handle *p = handles; p != NULL; p = p->next)
        if ((cudnnHandle_t)p == h)
            return p;
    return NULL;
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *h)
{
    if (no_device)
        return CUDNN_STATUS_NOT_INITIALIZED;
    struct fake_handle *const p = must(calloc(1, sizeof *p));
    pthread_mutex_lock(&lock);
    p->next = handles;
    handles = p;
    pthread_mutex_unlock(&lock);
    *h = (cudnnHandle_t)p;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t h)
{
    pthread_mutex_lock(&lock);
    struct fake_handle **at = &handles;
    while (*at != NULL && (cudnnHandle_t)*at != h)
        at = &(*at)->next;
    struct fake_handle *const p = *at;
    if (p != NULL)
        *at = p->next;
    pthread_mutex_unlock(&lock);
    if (p == NULL)
        REFUSE("cudnnDestroy of a handle that is not alive");
    free(p);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t stream)
{
    pthread_mutex_lock(&lock);
    struct fake_handle *const p = live(h);
    if (p != NULL)
        p->stream = stream;
    pthread_mutex_unlock(&lock);
    if (p == NULL)
        REFUSE("cudnnSetStream on a handle that is not alive");
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetStream(cudnnHandle_t h, cudaStream_t *stream)
{
    pthread_mutex_lock(&lock);
    const struct fake_handle *const p = live(h);
    if (p != NULL)
        *stream = p->stream;
    pthread_mutex_unlock(&lock);
    if (p == NULL)
        REFUSE("cudnnGetStream on a handle that is not alive");
    return CUDNN_STATUS_SUCCESS;
}

/* ---- the card behind a handle ----------------------------------------------------------------------------------- */

static bool asked_to_refuse(const char *word)
{
    const char *const words = getenv("FAKE_CUDNN_REFUSE");
    return words != NULL && strstr(words, word) != NULL;
}

/* The description that the real library plans for instead of asking a card. Made once, kept. */
static descriptor card(void)
{
    static descriptor d;
    static char json[1 << 16];
    REAL(cudnnBackendCreateDescriptor);
    REAL(cudnnBackendSetAttribute);
    REAL(cudnnBackendFinalize);
    const char *const path = getenv("DASS_CUDNN_DEVICE");
    if (d != NULL)
        return d;
    FILE *const f = path != NULL ? fopen(path, "rb") : NULL;
    const size_t n = f != NULL ? fread(json, 1, sizeof json - 1, f) : 0;
    if (f != NULL)
        fclose(f);
    descriptor made = NULL;
    if (n == 0 ||
        cudnnBackendCreateDescriptor_real(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &made) != CUDNN_STATUS_SUCCESS ||
        cudnnBackendSetAttribute_real(made, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)n,
                                      json) != CUDNN_STATUS_SUCCESS ||
        cudnnBackendFinalize_real(made) != CUDNN_STATUS_SUCCESS) {
        fprintf(stderr, "fake cudnn: DASS_CUDNN_DEVICE=%s describes no card\n", path != NULL ? path : "");
        abort();
    }
    d = made;
    return d;
}

/* Attributes that a handle is behind: the real library gets the description of the card in its place. */
static cudnnStatus_t set_handle(descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                int64_t n, const void *v)
{
    REAL(cudnnBackendSetAttribute);
    cudnnHandle_t h = NULL;
    if (type != CUDNN_TYPE_HANDLE || n != 1)
        REFUSE("a handle of type %d, %" PRId64 " of them", (int)type, n);
    memcpy(&h, v, sizeof h);
    pthread_mutex_lock(&lock);
    const bool alive = live(h) != NULL;
    if (alive)
        find_or_add(d)->with_handle = true;
    pthread_mutex_unlock(&lock);
    if (!alive)
        REFUSE("a descriptor for a handle that is not alive");
    if (name == CUDNN_ATTR_OPERATIONGRAPH_HANDLE)
        return CUDNN_STATUS_SUCCESS;
    descriptor c = card();
    return cudnnBackendSetAttribute_real(d, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c);
}

/* Heuristics of a graph with a handle know the card; of one without they must be told. */
static cudnnStatus_t set_graph(descriptor heur, const void *v)
{
    REAL(cudnnBackendSetAttribute);
    descriptor graph = NULL, c = card();
    memcpy(&graph, v, sizeof graph);
    cudnnStatus_t s = cudnnBackendSetAttribute_real(heur, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
                                                    CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph);
    pthread_mutex_lock(&lock);
    const record *const r = find(graph);
    const bool known = r != NULL && r->with_handle;
    pthread_mutex_unlock(&lock);
    if (s == CUDNN_STATUS_SUCCESS && known)
        s = cudnnBackendSetAttribute_real(heur, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c);
    return s;
}

/* ---- variant packs ---------------------------------------------------------------------------------------------- */

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, descriptor *d)
{
    REAL(cudnnBackendCreateDescriptor);
    const cudnnStatus_t s = cudnnBackendCreateDescriptor_real(type, d);
    if (s != CUDNN_STATUS_SUCCESS ||
        (type != CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR && type != CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR &&
         type != CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR))
        return s;
    pthread_mutex_lock(&lock);
    *find_or_add(*d) = (record){.d = *d, .is_plan = type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR};
    pthread_mutex_unlock(&lock);
    return s;
}

cudnnStatus_t cudnnBackendSetAttribute(descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                       int64_t n, const void *v)
{
    REAL(cudnnBackendSetAttribute);
    if (name == CUDNN_ATTR_EXECUTION_PLAN_HANDLE || name == CUDNN_ATTR_OPERATIONGRAPH_HANDLE)
        return set_handle(d, name, type, n, v);
    if (name == CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH && type == CUDNN_TYPE_BACKEND_DESCRIPTOR && n == 1)
        return set_graph(d, v);
    const cudnnStatus_t s = cudnnBackendSetAttribute_real(d, name, type, n, v);
    if (s == CUDNN_STATUS_SUCCESS && name == CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION) {
        pthread_mutex_lock(&lock);
        find_or_add(d)->from_text = true;
        pthread_mutex_unlock(&lock);
    }
    const bool uids = name == CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS;
    const bool ptrs = name == CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS;
    const bool ws = name == CUDNN_ATTR_VARIANT_PACK_WORKSPACE;
    if (s != CUDNN_STATUS_SUCCESS || (!uids && !ptrs && !ws))
        return s;
    if (n > MAX_POINTERS)
        REFUSE("a pack of %" PRId64 " tensors is more than this double holds", n);
    pthread_mutex_lock(&lock);
    record *const r = find_or_add(d);
    if (uids) {
        r->n_uid = n;
        memcpy(r->uid, v, (size_t)n * sizeof *r->uid);
    } else if (ptrs) {
        r->n_ptr = n;
        memcpy(r->ptr, v, (size_t)n * sizeof *r->ptr);
    } else {
        memcpy(&r->ws, v, sizeof r->ws);
    }
    pthread_mutex_unlock(&lock);
    return s;
}

cudnnStatus_t cudnnBackendFinalize(descriptor d)
{
    REAL(cudnnBackendFinalize);
    pthread_mutex_lock(&lock);
    record *r = find(d);
    const bool plan = r != NULL && r->is_plan;
    const bool text = plan && r->with_handle && r->from_text, made = plan && r->with_handle && !r->from_text;
    pthread_mutex_unlock(&lock);
    if (plan && asked_to_refuse("plans"))
        return CUDNN_STATUS_NOT_SUPPORTED;
    if ((text && asked_to_refuse("text")) || (made && asked_to_refuse("card")))
        return CUDNN_STATUS_INTERNAL_ERROR;
    const cudnnStatus_t s = cudnnBackendFinalize_real(d);
    pthread_mutex_lock(&lock);
    r = find(d);
    if (s == CUDNN_STATUS_SUCCESS && r != NULL)
        r->finalized = true;
    pthread_mutex_unlock(&lock);
    return s;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(descriptor d)
{
    REAL(cudnnBackendDestroyDescriptor);
    pthread_mutex_lock(&lock);
    forget(d);
    pthread_mutex_unlock(&lock);
    return cudnnBackendDestroyDescriptor_real(d);
}

/* ---- a plan's JSON as a program ---------------------------------------------------------------------------------- */

static const char *text(const json_t *o, const char *key)
{
    const char *const s = json_string_value(json_object_get(o, key));
    return s != NULL ? s : "";
}

static bool ints(const json_t *o, const char *key, int64_t *to, size_t n)
{
    const json_t *const a = json_object_get(o, key);
    if (json_array_size(a) != n)
        return false;
    for (size_t i = 0; i < n; ++i) {
        if (!json_is_integer(json_array_get(a, i)))
            return false;
        to[i] = (int64_t)json_integer_value(json_array_get(a, i));
    }
    return true;
}

static cudnnStatus_t read_tensor(const json_t *o, tensor *t)
{
    const char *const type = text(o, "dataType");
    *t = (tensor){.inside = json_is_true(json_object_get(o, "isVirtual")),
                  .bf16 = strcmp(type, "CUDNN_DATA_BFLOAT16") == 0};
    snprintf(t->uid, sizeof t->uid, "%s", text(o, "name"));
    t->align = json_integer_value(json_object_get(o, "ptrAlignment"));
    if (!t->bf16 && strcmp(type, "CUDNN_DATA_FLOAT") != 0)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "tensor %s of type %s", t->uid, type);
    if (!ints(o, "dim", t->dim, 4) || !ints(o, "stride", t->stride, 4) || t->align <= 0 ||
        json_integer_value(json_object_get(o, "vectCount")) != 1 || json_is_true(json_object_get(o, "isByValue")))
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "tensor %s is not a plain one of rank 4", t->uid);
    t->span = t->count = 1;
    for (int i = 0; i < 4; ++i) {
        t->span += (t->dim[i] - 1) * t->stride[i];
        t->count *= t->dim[i];
    }
    return CUDNN_STATUS_SUCCESS;
}

static int tensor_of(const program *p, const json_t *o, const char *key)
{
    const char *const uid = text(o, key);
    for (int i = 0; i < p->n_tensors; ++i)
        if (strcmp(p->t[i].uid, uid) == 0)
            return i;
    return -1;
}

static bool is_number(const json_t *o, const char *key, double want)
{
    const json_t *const v = json_object_get(o, key);
    return v != NULL && json_number_value(v) == want;
}

static cudnnStatus_t read_conv(const program *p, const json_t *o, node *n)
{
    static const char *const names[3][3] = {{"X", "W", "Y"}, {"dX", "W", "dY"}, {"X", "dW", "dY"}};
    n->x = tensor_of(p, o, names[n->op][0]);
    n->w = tensor_of(p, o, names[n->op][1]);
    n->y = tensor_of(p, o, names[n->op][2]);
    if (n->x < 0 || n->w < 0 || n->y < 0 || !ints(o, "pad", n->pad, 2) || !ints(o, "stride", n->stride, 2) ||
        !ints(o, "dilation", n->dil, 2) || strcmp(text(o, "mode"), "CUDNN_CROSS_CORRELATION") != 0 ||
        strcmp(text(o, "mathPrec"), "CUDNN_DATA_FLOAT") != 0 || !is_number(o, "alpha", 1.0) ||
        !is_number(o, "beta", 0.0))
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "a convolution with other attributes than this double knows");
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t read_pointwise(const program *p, const json_t *o, node *n)
{
    const char *const mode = text(o, "pointwiseMode");
    n->x = tensor_of(p, o, "X");
    n->y = tensor_of(p, o, "Y");
    n->w = tensor_of(p, o, "B");
    if (strcmp(mode, "CUDNN_POINTWISE_ADD") == 0 && n->w >= 0) {
        n->op = ADD;
    } else if (strcmp(mode, "CUDNN_POINTWISE_IDENTITY") == 0) {
        n->op = IDENTITY;
    } else if (strcmp(mode, "CUDNN_POINTWISE_RELU_FWD") == 0 && is_number(o, "lowerClipSlope", 0.0)) {
        n->op = RELU;
        n->lower = json_number_value(json_object_get(o, "lowerClip"));
        n->upper = json_number_value(json_object_get(o, "upperClip"));
    } else {
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "pointwise %s", mode);
    }
    if (n->x < 0 || n->y < 0 || !is_number(o, "alpha1", 1.0) || !is_number(o, "alpha2", 1.0))
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "pointwise %s with other attributes than this double knows", mode);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t read_node(const program *p, const json_t *o, node *n)
{
    static const char *const conv[3] = {"CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR",
                                        "CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR",
                                        "CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR"};
    const char *const name = text(o, "operation");
    for (int i = 0; i < 3; ++i)
        if (strcmp(name, conv[i]) == 0) {
            n->op = (op)i;
            return read_conv(p, o, n);
        }
    if (strcmp(name, "CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR") == 0)
        return read_pointwise(p, o, n);
    return refuse(CUDNN_STATUS_NOT_SUPPORTED, "operation %s", name);
}

static cudnnStatus_t read_program(const json_t *root, program *p)
{
    const json_t *const graph = json_object_get(root, "operationGraph");
    const json_t *const tensors = json_object_get(graph, "tensors"), *const nodes = json_object_get(graph, "nodes");
    if (json_array_size(tensors) > MAX_TENSORS || json_array_size(nodes) > MAX_NODES || json_array_size(nodes) == 0)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "a plan of %zu tensors and %zu operations", json_array_size(tensors),
                      json_array_size(nodes));
    cudnnStatus_t s = CUDNN_STATUS_SUCCESS;
    for (size_t i = 0; i < json_array_size(tensors) && s == CUDNN_STATUS_SUCCESS; ++i)
        s = read_tensor(json_array_get(tensors, i), &p->t[p->n_tensors++]);
    for (size_t i = 0; i < json_array_size(nodes) && s == CUDNN_STATUS_SUCCESS; ++i)
        s = read_node(p, json_array_get(nodes, i), &p->n[p->n_nodes++]);
    return s;
}

/* Ask the library for the plan's text and workspace. */
static cudnnStatus_t load(descriptor plan, program **out)
{
    REAL(cudnnBackendGetAttribute);
    int64_t n = 0, got = 0;
    program *const p = must(calloc(1, sizeof *p));
    cudnnStatus_t s = cudnnBackendGetAttribute_real(plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION,
                                                    CUDNN_TYPE_CHAR, 0, &n, NULL);
    char *json = NULL;
    if (s == CUDNN_STATUS_SUCCESS) {
        json = must(calloc(1, (size_t)n + 1));
        s = cudnnBackendGetAttribute_real(plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, n, &got,
                                          json);
    }
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendGetAttribute_real(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &got,
                                          &p->ws);
    if (s != CUDNN_STATUS_SUCCESS) {
        (void)refuse(s, "the plan cannot be read");
    } else {
        json_error_t error;
        json_t *const root = json_loads(json, 0, &error);
        s = root != NULL ? read_program(root, p)
                         : refuse(CUDNN_STATUS_INTERNAL_ERROR, "the plan's JSON: %s", error.text);
        json_decref(root);
    }
    free(json);
    if (s == CUDNN_STATUS_SUCCESS)
        *out = p;
    else
        free(p);
    return s;
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

static double load_one(const tensor *t, int64_t i)
{
    if (!t->bf16) {
        float f;
        memcpy(&f, t->p + 4 * i, sizeof f);
        return (double)f;
    }
    uint16_t h;
    memcpy(&h, t->p + 2 * i, sizeof h);
    const uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return (double)f;
}

/* Nearest, ties to even; a NaN stays one. */
static uint16_t to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return 0x7fff;
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static void store_one(const tensor *t, int64_t i, double v)
{
    const float f = (float)v;
    if (!t->bf16) {
        memcpy(t->p + 4 * i, &f, sizeof f);
        return;
    }
    const uint16_t h = to_bf16(f);
    memcpy(t->p + 2 * i, &h, sizeof h);
}

/* From memory, in whatever strides, to n,h,w,c; or back. */
static void move(tensor *t, bool out)
{
    double *v = t->val;
    for (int64_t n = 0; n < t->dim[0]; ++n)
        for (int64_t h = 0; h < t->dim[2]; ++h)
            for (int64_t w = 0; w < t->dim[3]; ++w)
                for (int64_t c = 0; c < t->dim[1]; ++c, ++v) {
                    const int64_t i = n * t->stride[0] + c * t->stride[1] + h * t->stride[2] + w * t->stride[3];
                    if (out)
                        store_one(t, i, *v);
                    else
                        *v = load_one(t, i);
                }
}

/* All three directions are the same sum over (image, output pixel, tap, output channel): of x * w into y, of y * w into
 * x, or of x * y into w, always along the input channels of a group, which are neighbours. */
static void run_conv(const node *n, tensor *x, tensor *w, tensor *y)
{
    const int64_t ic = x->dim[1], ih = x->dim[2], iw = x->dim[3], cg = w->dim[1], kh = w->dim[2], kw = w->dim[3];
    const int64_t oc = y->dim[1], oh = y->dim[2], ow = y->dim[3], kg = oc / (ic / cg);
    for (int64_t i = 0; i < x->dim[0] * oh * ow * kh * kw; ++i) {
        const int64_t s = i % kw, r = i / kw % kh, q = i / (kw * kh) % ow, p = i / (kw * kh * ow) % oh;
        const int64_t b = i / (kw * kh * ow * oh);
        const int64_t h = p * n->stride[0] - n->pad[0] + r * n->dil[0];
        const int64_t v = q * n->stride[1] - n->pad[1] + s * n->dil[1];
        if (h < 0 || h >= ih || v < 0 || v >= iw)
            continue;
        double *const px = x->val + ((b * ih + h) * iw + v) * ic;
        double *const py = y->val + ((b * oh + p) * ow + q) * oc;
        for (int64_t k = 0; k < oc; ++k) {
            double *const xx = px + k / kg * cg;
            double *const ww = w->val + ((k * kh + r) * kw + s) * cg;
            double sum = 0.0;
            for (int64_t c = 0; c < cg; ++c)
                if (n->op == CONV_FORWARD)
                    sum += xx[c] * ww[c];
                else if (n->op == CONV_DATA)
                    xx[c] += py[k] * ww[c];
                else
                    ww[c] += py[k] * xx[c];
            py[k] += sum;
        }
    }
}

static cudnnStatus_t check_conv(const node *n, const tensor *x, const tensor *w, const tensor *y)
{
    bool good = w->dim[1] > 0 && x->dim[1] % w->dim[1] == 0 && y->dim[1] % (x->dim[1] / w->dim[1]) == 0 &&
                y->dim[1] == w->dim[0] && x->dim[0] == y->dim[0];
    for (int i = 0; i < 2; ++i)
        good = good && y->dim[2 + i] ==
                           (x->dim[2 + i] + 2 * n->pad[i] - n->dil[i] * (w->dim[2 + i] - 1) - 1) / n->stride[i] + 1;
    if (!good)
        REFUSE("a convolution whose shapes do not go together");
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t run_pointwise(const node *n, const tensor *x, const tensor *b, tensor *y)
{
    for (int i = 0; i < 4; ++i)
        if (x->dim[i] != y->dim[i] || (b != NULL && b->dim[i] != y->dim[i] && b->dim[i] != 1))
            REFUSE("a pointwise operation whose shapes do not go together");
    for (int64_t i = 0; i < y->count; ++i) {
        double v = x->val[i];
        if (n->op == ADD) {
            const int64_t c = i % y->dim[1], w = i / y->dim[1] % y->dim[3], h = i / (y->dim[1] * y->dim[3]) % y->dim[2];
            const int64_t m = i / (y->dim[1] * y->dim[3] * y->dim[2]);
            v += b->val[((m % b->dim[0] * b->dim[2] + h % b->dim[2]) * b->dim[3] + w % b->dim[3]) * b->dim[1] +
                        c % b->dim[1]];
        } else if (n->op == RELU) { /* written so that a NaN stays one */
            v = v < n->lower ? n->lower : v > n->upper ? n->upper : v;
        }
        y->val[i] = v;
    }
    return CUDNN_STATUS_SUCCESS;
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

static size_t bytes_of(const tensor *t)
{
    return (size_t)t->span * (t->bf16 ? 2 : 4);
}

static bool overlap(const char *a, size_t n, const char *b, size_t m)
{
    return a < b + m && b < a + n;
}

/* Give every tensor its place in memory, and check the place. */
static cudnnStatus_t place(program *p, const record *pack)
{
    if (pack->n_uid != pack->n_ptr)
        REFUSE("a pack of %" PRId64 " ids and %" PRId64 " pointers", pack->n_uid, pack->n_ptr);
    int64_t used = 0;
    for (int i = 0; i < p->n_tensors; ++i) {
        tensor *const t = &p->t[i];
        t->p = NULL;
        if (t->inside)
            continue;
        for (int64_t k = 0; k < pack->n_uid; ++k)
            if (pack->uid[k] == strtoll(t->uid, NULL, 10)) {
                t->p = pack->ptr[k];
                used++;
            }
        if (t->p == NULL)
            REFUSE("tensor %s has no pointer in the pack", t->uid);
        if ((uintptr_t)t->p % (uintptr_t)t->align != 0)
            REFUSE("tensor %s at %p is not aligned to the %" PRId64 " bytes that were declared", t->uid, (void *)t->p,
                   t->align);
        if (!fake_cuda_inside(t->p, bytes_of(t)))
            REFUSE("tensor %s: the %zu bytes at %p that it spans are not in one live allocation of the device", t->uid,
                   bytes_of(t), (void *)t->p);
    }
    if (used != pack->n_uid)
        REFUSE("the pack has %" PRId64 " pointers, the plan takes %" PRId64, pack->n_uid, used);
    return CUDNN_STATUS_SUCCESS;
}

/* What is written must not lie on anything else; the workspace is written too. */
static cudnnStatus_t check_places(const program *p, const record *pack)
{
    const size_t ws = (size_t)p->ws;
    if (ws > 0 && pack->ws == NULL)
        REFUSE("the plan wants %zu bytes of workspace, and the pack has none", ws);
    if (ws > 0 && !fake_cuda_inside(pack->ws, ws))
        REFUSE("workspace: the %zu bytes at %p are not in one live allocation of the device", ws, pack->ws);
    for (int i = 0; i < p->n_tensors; ++i) {
        const tensor *const t = &p->t[i];
        if (t->inside)
            continue;
        if (ws > 0 && overlap(t->p, bytes_of(t), pack->ws, ws))
            REFUSE("tensor %s lies in the workspace", t->uid);
        for (int k = 0; k < p->n_tensors; ++k)
            if (k != i && t->written && !p->t[k].inside && overlap(t->p, bytes_of(t), p->t[k].p, bytes_of(&p->t[k])))
                REFUSE("tensor %s is written over tensor %s", t->uid, p->t[k].uid);
    }
    return CUDNN_STATUS_SUCCESS;
}

static int output_of(const node *n)
{
    return n->op == CONV_DATA ? n->x : n->op == CONV_WEIGHTS ? n->w : n->y;
}

static cudnnStatus_t run_node(program *p, const node *n)
{
    tensor *const x = &p->t[n->x], *const w = n->w >= 0 ? &p->t[n->w] : NULL, *const y = &p->t[n->y];
    tensor *const out = &p->t[output_of(n)];
    cudnnStatus_t s;
    memset(out->val, 0, (size_t)out->count * sizeof *out->val);
    if (n->op <= CONV_WEIGHTS) {
        s = check_conv(n, x, w, y);
        if (s == CUDNN_STATUS_SUCCESS)
            run_conv(n, x, w, y);
    } else {
        s = run_pointwise(n, x, w, y);
    }
    /* What is stored is rounded; between two operations of a plan it is rounded to float. */
    for (int64_t i = 0; i < out->count && out->inside; ++i)
        out->val[i] = (double)(float)out->val[i];
    if (s == CUDNN_STATUS_SUCCESS && !out->inside)
        move(out, true);
    return s;
}

static cudnnStatus_t run_program(program *p, const record *pack)
{
    for (int i = 0; i < p->n_nodes; ++i)
        p->t[output_of(&p->n[i])].written = true;
    cudnnStatus_t s = place(p, pack);
    if (s == CUDNN_STATUS_SUCCESS)
        s = check_places(p, pack);
    if (s != CUDNN_STATUS_SUCCESS)
        return s;
    if (p->ws > 0)
        memset(pack->ws, 0xff, (size_t)p->ws);
    for (int i = 0; i < p->n_tensors; ++i) {
        tensor *const t = &p->t[i];
        t->val = must(calloc((size_t)t->count, sizeof *t->val));
        if (!t->written)
            move(t, false);
    }
    for (int i = 0; i < p->n_nodes && s == CUDNN_STATUS_SUCCESS; ++i)
        s = run_node(p, &p->n[i]);
    for (int i = 0; i < p->n_tensors; ++i)
        free(p->t[i].val);
    return s;
}

/* A plan with the pointers it was given, waiting for its turn. */
typedef struct work {
    descriptor plan;
    record pack;
} work;

static void run_later(void *data)
{
    const work *w = data;
    pthread_mutex_lock(&lock);
    const record *r = find(w->plan);
    if (r == NULL || r->plan == NULL)
        (void)refuse(CUDNN_STATUS_BAD_PARAM, "a plan was destroyed before the stream came to it");
    else
        n_runs += run_program(r->plan, &w->pack) == CUDNN_STATUS_SUCCESS;
    pthread_mutex_unlock(&lock);
}

static cudnnStatus_t execute(cudnnHandle_t h, descriptor plan, descriptor pack)
{
    if (live(h) == NULL)
        REFUSE("cudnnBackendExecute with a handle that is not alive");
    const record *const p = find(pack);
    record *const r = find(plan);
    if (p == NULL || !p->finalized || p->n_uid == 0)
        REFUSE("cudnnBackendExecute with a variant pack that is not alive or not finalised");
    if (r == NULL || !r->finalized)
        REFUSE("cudnnBackendExecute with a plan that is not alive or not finalised");
    if (!r->with_handle)
        REFUSE("cudnnBackendExecute with a plan that was finalised without a handle");
    if (r->from_text && asked_to_refuse("run"))
        return CUDNN_STATUS_EXECUTION_FAILED;
    if (r->plan == NULL) {
        const cudnnStatus_t s = load(plan, &r->plan);
        if (s != CUDNN_STATUS_SUCCESS)
            return s;
    }
    if (fake_enqueue_c != NULL) {
        const work w = {plan, *p};
        fake_enqueue_c(live(h)->stream, "a cuDNN plan", run_later, &w, sizeof w);
        return CUDNN_STATUS_SUCCESS;
    }
    const cudnnStatus_t s = run_program(r->plan, p);
    n_runs += s == CUDNN_STATUS_SUCCESS;
    return s;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, descriptor plan, descriptor pack)
{
    pthread_mutex_lock(&lock);
    const cudnnStatus_t s = execute(h, plan, pack);
    pthread_mutex_unlock(&lock);
    return s;
}
