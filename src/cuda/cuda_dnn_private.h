/* What the files of the cuDNN module share: the two structs, the checks of cuDNN's answers, and what each file offers
 * the others. cuda_dnn.c opens, binds and runs; _graph.c describes; _engine.c chooses; _cache.c keeps.
 */
#ifndef DASS__DNN_PRIVATE_H
#define DASS__DNN_PRIVATE_H

#include "cuda_dnn.h"

#include <cudnn.h>

#define DASS__DNN_ERROR 512
#define DASS__DNN_PLAN_MAX ((size_t)64 << 20) /* bytes; a plan's text is 2 KiB, or 250 KiB with a compiled kernel */

typedef cudnnBackendDescriptor_t descriptor;

struct dass__dnn {
    cudnnHandle_t handle; /* NULL: plans can be made, not run */
    descriptor device;
    char *device_json;
    char *cache_dir; /* NULL: no cache */
    size_t ws_limit;
    bool deterministic;
    bool told; /* that a described plan failed on the card */
};

struct dass__dnn_plan {
    dass__dnn_conv c;
    descriptor own[24]; /* the graph below `plan`, in the order of making; empty when it came from its text */
    int n_own;
    descriptor plan, pack; /* pack: NULL before bind */
    size_t ws;
    bool cached;
    bool on_card; /* made on the card: nothing else is left to try */
    bool ran;     /* without an error, once */
    char name[96];
};

/* ---- cuda_dnn.c: cuDNN's answers ---- */

/* cuDNN's own words for the last failure of this thread, on one line. Returns buf. */
const char *dass__dnn_last_error(char *buf, size_t n);
/* The status of a call, with the call and cuDNN's words in the error text. */
dass_status dass__dnn_check(cudnnStatus_t s, const char *call);
#define DNN_TRY(call) DASS_TRY(dass__dnn_check((call), #call))
#define DNN_TRY_TO(call, st, label) DASS_TRY_TO(dass__dnn_check((call), #call), st, label)
/* Attribute and type without their prefixes. */
#define DNN_SET(d, attribute, type, n, p) \
    DNN_TRY(cudnnBackendSetAttribute(d, CUDNN_ATTR_##attribute, CUDNN_TYPE_##type, n, p))

/* Destroy and forget; a NULL descriptor is fine. */
void dass__dnn_drop(descriptor *d);
/* Drop the plan and the graph below it, but not the pack. */
void dass__dnn_drop_plan(dass__dnn_plan *p);
/* A text attribute as a NUL-ended block; free with dass_mem_free. */
dass_status dass__dnn_text_of(descriptor d, cudnnBackendAttributeName_t name, const char *what, char **out);

/* ---- cuda_dnn_graph.c ---- */

enum { DASS__DNN_X = 1, DASS__DNN_W, DASS__DNN_Y, DASS__DNN_BIAS }; /* unique ids of a plan's tensors */
#define DASS__DNN_ALIGN                                                                          \
    16 /* of x, w, y: engines with wide loads need it; 4 would leave a quarter of the candidates \
        */
#define DASS__DNN_BIAS_ALIGN 4 /* costs nothing: the same engines */

/* DASS_ARG unless every size is positive and countable and the combination exists. */
dass_status dass__dnn_conv_check(const dass__dnn_conv *c);
/* The type of a tensor of the plan, by its id. */
cudnnDataType_t dass__dnn_type(const dass__dnn_conv *c, int64_t uid);
/* The finalised operation graph of p->c, owned by the plan like everything below it. handle: NULL for a described card.
 */
dass_status dass__dnn_graph(dass__dnn_plan *p, cudnnHandle_t handle, descriptor *out);

/* ---- cuda_dnn_engine.c ---- */

typedef struct dass__dnn_engine {
    int64_t index;
    unsigned notes; /* bits by cudnnBackendNumericalNote_t */
    bool rtc;       /* compiled at run time */
} dass__dnn_engine;

/* The engine of a configuration. */
dass_status dass__dnn_engine_of(descriptor config, dass__dnn_engine *out);
/* Write p->name. */
void dass__dnn_name(dass__dnn_plan *p, const dass__dnn_engine *e);
/* Build the graph and set p->plan, p->ws and p->name by the heuristics; at most ws_limit bytes of workspace. handle:
 * d->handle to ask and plan on the card, NULL to do so by its description. DASS_UNSUPPORTED when nothing passes. */
dass_status dass__dnn_choose(const dass__dnn *d, dass__dnn_plan *p, cudnnHandle_t handle, size_t ws_limit);
/* Set p->plan, p->ws and p->name from a plan's text of n bytes: with the handle, so that it runs there; without one, by
 * the description. */
dass_status dass__dnn_plan_of_text(const dass__dnn *d, dass__dnn_plan *p, const char *json, size_t n);

/* ---- cuda_dnn_cache.c ---- */

/* Everything that decides which plan comes out, hashed. */
unsigned long long dass__dnn_cache_key(const dass__dnn *d, const dass__dnn_conv *c);
dass_status dass__dnn_cache_path(const dass__dnn *d, unsigned long long key, char *path, size_t n);
/* Set p->plan from the file. p->plan stays NULL when there is no file; a file that does not serve is an error. */
dass_status dass__dnn_cache_load(const dass__dnn *d, dass__dnn_plan *p, unsigned long long key, const char *path);
dass_status dass__dnn_cache_save(const dass__dnn_plan *p, unsigned long long key, const char *path);

#endif
