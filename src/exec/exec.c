/* The registry of backends, and executors: select every node, plan, bind, run. Backends are known by their table only;
 * this file is the one place that names them. The run loop is a flat walk over prepared kernels: it allocates nothing
 * and decides nothing.
 */
#include "dass/clock.h"
#include "dass/log.h"
#include "exec_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const dass_backend_ops dass_backend_host;
extern const dass_backend_ops dass_backend_ref;
extern const dass_backend_ops dass_backend_ref64;

typedef struct registry_row {
    const char *name;
    const dass_backend_ops *ops; /* NULL: in a plugin */
    const dass_plugin *(*plugin)(const char **why);
} registry_row;

static const registry_row registry[] = {
    {"host", &dass_backend_host, NULL},  {"ref", &dass_backend_ref, NULL},  {"ref64", &dass_backend_ref64, NULL},
    {"null", &dass__backend_null, NULL}, {"cuda", NULL, dass__plugin_cuda},
};

#define PROFILE_SEC 1e-3 /* of one launch repeated in a recording, to time it */
#define PROFILE_MOST 64  /* repetitions of the shortest */
#define N_BACKENDS (sizeof registry / sizeof registry[0])

const char *dass_backend_name(size_t i)
{
    return i < N_BACKENDS ? registry[i].name : NULL;
}

const char *dass_backend_why_not(size_t i)
{
    const char *why = NULL;
    if (i >= N_BACKENDS)
        return "no such backend";
    if (registry[i].plugin != NULL)
        (void)registry[i].plugin(&why);
    return why;
}

static const registry_row *find_backend(const char *name)
{
    for (size_t i = 0; i < N_BACKENDS; i++)
        if (strcmp(registry[i].name, name) == 0)
            return &registry[i];
    return NULL;
}

const char *dass_backend_kernel(const char *name, uint32_t i, uint64_t *launches)
{
    const char *why = NULL;
    const registry_row *r = find_backend(name);
    const dass_plugin *p = r != NULL && r->plugin != NULL ? r->plugin(&why) : NULL;
    *launches = 0;
    return p != NULL ? p->kernel(i, launches) : NULL;
}

void dass_backend_describe(const char *name, char *text, size_t n_text)
{
    const char *why = NULL;
    const registry_row *r = find_backend(name);
    const dass_plugin *p = r != NULL && r->plugin != NULL ? r->plugin(&why) : NULL;
    text[0] = '\0';
    if (p != NULL)
        p->describe(text, n_text);
}

dass_dtype dass_backend_real(const char *name)
{
    const registry_row *r = find_backend(name);
    return r && r->ops ? r->ops->real : DASS_F32;
}

bool dass_backend_has(const char *name, dass_precision precision)
{
    const char *why = NULL;
    const registry_row *r = find_backend(name);
    const dass_plugin *p = r != NULL && r->plugin != NULL ? r->plugin(&why) : NULL;
    const dass_backend_ops *ops = p != NULL ? p->backend : r != NULL ? r->ops : NULL;
    return ops != NULL && (precision == DASS_PRECISION_FP32 || (ops->precisions & 1u << precision) != 0);
}

static const char *const precisions[DASS_N_PRECISIONS] = {"fp32", "tf32", "bf16"};

dass_status dass_backend_open(const char *name, const dass_backend_options *opt, dass_backend **out)
{
    *out = NULL;
    const registry_row *r = find_backend(name);
    if (!r)
        return DASS_FAIL(DASS_ARG, "no backend is called '%s'; there are host, ref, ref64, null, cuda", name);
    const dass_backend_ops *ops = r->ops;
    if (r->plugin != NULL) {
        const char *why = NULL;
        const dass_plugin *p = r->plugin(&why);
        if (why != NULL)
            return DASS_FAIL(DASS_UNSUPPORTED, "device '%s': %s; or use --device host", name, why);
        ops = p->backend;
    }
    const dass_backend_options none = {0};
    const dass_backend_options *o = opt ? opt : &none;
    if (o->precision != DASS_PRECISION_FP32 && (ops->precisions & 1u << o->precision) == 0)
        return DASS_FAIL(DASS_UNSUPPORTED, "device '%s' has no %s; leave run.precision at fp32", name,
                         precisions[o->precision]);
    DASS_TRY(ops->open(o, out));
    (*out)->stored = o->precision == DASS_PRECISION_BF16 ? DASS_BF16 : ops->real;
    return DASS_OK;
}

static dass_precision precision_of(const char *word)
{
    int p = 0;
    while (p < DASS_N_PRECISIONS && strcmp(word, precisions[p]) != 0)
        p++;
    DASS_ASSERT(p < DASS_N_PRECISIONS); /* the configuration lets no other word through */
    return (dass_precision)p;
}

dass_status dass_backend_open_for(const dass_config *c, const char *device, dass_backend **out)
{
    char name[DASS_TEXT_MAX];
    (void)snprintf(name, sizeof name, "%s", device);
    dass_backend_options opt = {.n_threads = (int)c->run_threads, .precision = precision_of(c->run_precision)};
    char *colon = strchr(name, ':');
    if (colon != NULL) {
        char *end = NULL;
        const long ordinal = strtol(colon + 1, &end, 10);
        if (end == colon + 1 || *end != '\0' || ordinal < 0 || ordinal > 1023)
            return DASS_FAIL(DASS_CONFIG, "%s: run.device: '%s' is not NAME or NAME:NUMBER",
                             c->origin[DASS_KEY_run_device], device);
        opt.ordinal = (int)ordinal;
        *colon = '\0';
    }
    return dass_backend_open(name, &opt, out);
}

void dass_backend_close(dass_backend *be)
{
    if (be)
        be->ops->close(be);
}

/* ---- executors ------------------------------------------------------------------------------------------- */

static dass_status select_all(dass_exec *e)
{
    for (dass_node n = 1; n < e->g->n_nodes; n++) {
        e->n_selected = n + 1; /* one that fails half-way is dropped too */
        DASS_TRY(e->be->ops->select(e->be, e->mem, e->g, n, &e->kernels[n]));
        e->ws_bytes[n] = e->kernels[n].ws_bytes;
    }
    e->n_selected = e->g->n_nodes;
    return DASS_OK;
}

/* Lifetimes depend on what runs together, so the plan is made with the groups that the kernels asked for. */
static dass_status make_plan(dass_exec *e)
{
    void *p = NULL;
    uint64_t *group = NULL;
    if (e->be->ops->merge != NULL && !e->opt.no_merge) {
        DASS_TRY(dass_mem_alloc(e->g->n_nodes * sizeof *group, "groups", &p));
        group = p;
        for (dass_node n = 1; n < e->g->n_nodes; n++)
            group[n] = e->kernels[n].group;
    }
    const dass_status st = dass_plan_make(e->g, e->ws_bytes, group, e->opt.guard, !e->opt.no_in_place, &e->plan);
    dass_mem_free(group);
    return st;
}

/* Merge what runs at one time. A group of many kernels may hold several sorts only if two groups hash alike, which the
 * order keeps apart: one time is one group. */
static dass_status make_runs(dass_exec *e)
{
    const dass_order *o = e->plan->order;
    const uint32_t n = e->g->n_nodes - 1;
    e->n_runs = 0;
    for (uint32_t i = 0, end = 0; i < n; i = end) {
        const dass_kernel *k[DASS__MAX_MERGED];
        const uint32_t now = o->time[o->seq[i]];
        for (end = i; end < n && end - i < DASS__MAX_MERGED && o->time[o->seq[end]] == now; end++)
            k[end - i] = &e->kernels[o->seq[end]];
        dass__run *r = &e->runs[e->n_runs++];
        *r = (dass__run){.node = o->seq[i], .n_nodes = end - i, .kernel = e->kernels[o->seq[i]]};
        if (end - i > 1)
            DASS_TRY(e->be->ops->merge(e->be, e->mem, k, end - i, &r->kernel));
    }
    return DASS_OK;
}

dass_status dass_exec_make(dass_backend *be, const dass_graph *g, const dass_exec_options *opt, dass_exec **out)
{
    *out = NULL;
    if (g->status != DASS_OK)
        return g->status;
    if (g->real != be->ops->real && be->ops != &dass__backend_null)
        return DASS_FAIL(DASS_ARG, "exec: the graph is in %s, device '%s' computes in %s",
                         g->real == DASS_F64 ? "f64" : "f32", be->ops->name, be->ops->real == DASS_F64 ? "f64" : "f32");
    if (g->stored != g->real && g->stored != be->stored)
        return DASS_FAIL(DASS_ARG, "exec: the graph stores activations in bf16, device '%s' was opened without",
                         be->ops->name);
    dass_status st = DASS_OK;
    void *p = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass_exec), "executor", &p));
    dass_exec *e = p;
    e->be = be;
    e->g = g;
    e->opt = opt ? *opt : (dass_exec_options){0};
    DASS_TRY_TO(dass_arena_make("executor", &e->mem), st, out);
    DASS_TRY_TO(dass_mem_alloc(g->n_nodes * sizeof *e->kernels, "kernels", &p), st, out);
    e->kernels = p;
    DASS_TRY_TO(dass_mem_alloc(g->n_nodes * sizeof *e->ws_bytes, "kernels", &p), st, out);
    e->ws_bytes = p;
    DASS_TRY_TO(select_all(e), st, out);
    DASS_TRY_TO(dass_mem_alloc(g->n_nodes * sizeof *e->runs, "kernels", &p), st, out);
    e->runs = p;
    DASS_TRY_TO(make_plan(e), st, out);
    DASS_TRY_TO(make_runs(e), st, out); /* for the counts; again when the pointers are known */
out:
    if (st != DASS_OK) {
        dass_exec_free(e);
        e = NULL;
    }
    *out = e;
    return st;
}

void dass_exec_free(dass_exec *e)
{
    if (!e)
        return;
    for (dass_node n = 1; e->kernels && n < e->n_selected; n++)
        if (e->be->ops->drop)
            e->be->ops->drop(e->be, &e->kernels[n]);
    dass_plan_free(e->plan);
    dass_mem_free(e->runs);
    dass_mem_free(e->kernels);
    dass_mem_free(e->ws_bytes);
    dass_arena_free(e->mem);
    dass_mem_free(e);
}

const dass_plan *dass_exec_plan(const dass_exec *e)
{
    return e->plan;
}

const dass_graph *dass_exec_graph(const dass_exec *e)
{
    return e->g;
}

void dass_exec_watch(dass_exec *e, dass_exec_watch_fn fn, void *ctx)
{
    e->watch = fn;
    e->watch_ctx = ctx;
}

dass_exec_stats dass_exec_get_stats(const dass_exec *e)
{
    dass_exec_stats s = {.n_nodes = e->g->n_nodes - 1, .n_runs = e->n_runs};
    for (dass_node n = 1; n < e->g->n_nodes; n++)
        s.n_launches_alone += e->kernels[n].n_launches;
    for (uint32_t i = 0; i < e->n_runs; i++)
        s.n_launches += e->runs[i].kernel.n_launches;
    return s;
}

void dass_exec_each_launch(const dass_exec *e, void (*fn)(void *ctx, const char *name), void *ctx)
{
    const char *name = NULL;
    for (uint32_t r = 0; r < e->n_runs && e->be->ops->launch != NULL; r++)
        for (uint32_t i = 0; (name = e->be->ops->launch(&e->runs[r].kernel, i)) != NULL; i++)
            fn(ctx, name);
}

const char *dass_exec_kernel_name(const dass_exec *e, dass_node n)
{
    return e->kernels[n].name ? e->kernels[n].name : "";
}

void *dass__exec_pointer(const dass_exec *e, dass_val v, unsigned char *arena, void *const *bufs)
{
    const dass_value *x = &e->g->vals[v];
    if (v == 0)
        return NULL;
    if (x->buf == 0)
        return arena + e->plan->val_offset[v];
    /* bits at an offset are addressed by whole words */
    const size_t skip = x->dtype == DASS_BITS ? (size_t)x->offset / 8 : (size_t)x->offset * dass_dtype_bytes(x->dtype);
    return (unsigned char *)bufs[x->buf] + skip;
}

dass_status dass__exec_bind(dass_exec *e, unsigned char *arena, void *const *bufs, uint32_t n_bufs)
{
    void *args[1024];
    for (dass_node n = 1; n < e->g->n_nodes; n++) {
        const dass_node_rec *r = &e->g->nodes[n];
        if (r->n_in + r->n_out > 1024)
            return DASS_FAIL(DASS_INTERNAL, "exec: node %u has %u arguments", n, r->n_in + r->n_out);
        for (uint32_t i = 0; i < r->n_in + r->n_out; i++) {
            const dass_val v = e->g->args[r->args + i];
            const dass_buf b = e->g->vals[v].buf;
            if (v && b && (b >= n_bufs || !bufs[b]))
                return DASS_FAIL(DASS_ARG, "exec: %s '%s' lies in buffer %u, which has no memory",
                                 dass_op_get(r->op)->name, e->g->vals[v].name, b);
            args[i] = dass__exec_pointer(e, v, arena, bufs);
        }
        void *ws = e->ws_bytes[n] ? arena + e->plan->ws_offset[n] : NULL;
        DASS_TRY(e->be->ops->bind(e->be, e->g, n, &e->kernels[n], args, ws));
    }
    return make_runs(e);
}

/* The failure of run i, with the node that it was. */
static dass_status name_node(const dass_exec *e, uint32_t i, dass_status st)
{
    char line[256];
    dass_node_print(e->g, e->runs[i].node, line, sizeof line);
    return DASS_FAIL(st, "%s; node %u (%s): %s", dass_error_text(), (unsigned)e->runs[i].node,
                     dass_exec_kernel_name(e, e->runs[i].node), line);
}

dass_status dass__exec_run(dass_exec *e)
{
    for (uint32_t i = 0; i < e->n_runs; i++) {
        const dass_kernel *k = &e->runs[i].kernel;
        const dass_status st = k->run(e->be, k->impl);
        if (st != DASS_OK)
            return name_node(e, i, st);
    }
    return DASS_OK;
}

void dass_exec_leaders(const dass_exec *e, dass_node *leader)
{
    const dass_order *o = e->plan->order;
    uint32_t at = 0;
    for (uint32_t i = 0; i < e->n_runs; i++)
        for (uint32_t k = 0; k < e->runs[i].n_nodes; k++)
            leader[o->seq[at++]] = e->runs[i].node;
}

/* Seconds of `runs` runs of a kernel, enqueued one by one. */
static dass_status time_enqueued(dass_exec *e, const dass_kernel *k, int runs, double *sec)
{
    const dass_kernel *same[PROFILE_MOST];
    double each[PROFILE_MOST];
    for (int i = 0; i < runs; i++)
        same[i] = k;
    DASS_TRY(e->be->ops->time_each(e->be, same, (uint32_t)runs, each));
    *sec = 0.0;
    for (int i = 0; i < runs; i++)
        *sec += each[i];
    return DASS_OK;
}

/* Seconds of `runs` runs of a kernel in one recording. */
static dass_status time_recorded(dass_exec *e, const dass_kernel *k, int runs, double *sec)
{
    const dass_backend_ops *ops = e->be->ops;
    dass_replay *replay = NULL;
    DASS_TRY(ops->capture_begin(e->be));
    dass_status st = DASS_OK;
    for (int i = 0; i < runs && st == DASS_OK; i++)
        st = k->run(e->be, k->impl);
    const dass_status ended = ops->capture_end(e->be, &replay);
    DASS_TRY_TO(st != DASS_OK ? st : ended, st, out);
    DASS_TRY_TO(ops->replay(e->be, replay), st, out);
    DASS_TRY_TO(ops->sync(e->be), st, out);
    const double began = dass_now_sec();
    DASS_TRY_TO(ops->replay(e->be, replay), st, out);
    DASS_TRY_TO(ops->sync(e->be), st, out);
    *sec = dass_now_sec() - began;
out:
    ops->replay_free(e->be, replay);
    return st;
}

/* A kernel that no recording holds is timed without one. */
static dass_status time_runs(dass_exec *e, const dass_kernel *k, int runs, double *sec)
{
    if (time_recorded(e, k, runs, sec) == DASS_OK)
        return DASS_OK;
    dass_log(DASS_LOG_DEBUG, "%s is timed without a recording: %s", k->name, dass_error_text());
    dass_error_clear();
    return time_enqueued(e, k, runs, sec);
}

/* Launched one by one on a device that works while the host waits, a short kernel would cost its way there and back: it
 * is recorded so often that this hardly counts. */
static dass_status time_on_device(dass_exec *e, const dass_kernel *k, double *sec)
{
    DASS_TRY(k->run(e->be, k->impl)); /* libraries load at first use, which must not happen in a recording */
    DASS_TRY(e->be->ops->sync(e->be));
    double once = 0.0;
    DASS_TRY(time_runs(e, k, 1, &once));
    const int runs = once > PROFILE_SEC                  ? 1
                     : once * PROFILE_MOST < PROFILE_SEC ? PROFILE_MOST
                                                         : (int)(PROFILE_SEC / once);
    if (runs > 1)
        DASS_TRY(time_runs(e, k, runs, &once));
    *sec += once / runs;
    return DASS_OK;
}

dass_status dass__exec_profile(dass_exec *e, double *sec)
{
    if (e->be->ops->capture_begin == NULL || e->opt.no_capture)
        return dass__exec_profile_in_place(e, sec);
    for (uint32_t i = 0; i < e->n_runs; i++)
        DASS_TRY(time_on_device(e, &e->runs[i].kernel, &sec[e->runs[i].node]));
    return DASS_OK;
}

static dass_status time_by_clock(dass_exec *e, double *sec)
{
    double before = dass_now_sec();
    for (uint32_t i = 0; i < e->n_runs; i++) {
        const dass__run *r = &e->runs[i];
        DASS_TRY(r->kernel.run(e->be, r->kernel.impl));
        DASS_TRY(e->be->ops->sync(e->be));
        const double after = dass_now_sec();
        sec[r->node] += after - before;
        before = after;
    }
    return DASS_OK;
}

dass_status dass__exec_profile_in_place(dass_exec *e, double *sec)
{
    if (e->be->ops->time_each == NULL)
        return time_by_clock(e, sec);
    for (uint32_t i = 0, n = 0; i < e->n_runs; i += n) {
        const dass_kernel *k[DASS_MAX_TIMED];
        double each[DASS_MAX_TIMED];
        for (n = 0; n < DASS_MAX_TIMED && i + n < e->n_runs; n++)
            k[n] = &e->runs[i + n].kernel;
        DASS_TRY(e->be->ops->time_each(e->be, k, n, each));
        for (uint32_t j = 0; j < n; j++)
            sec[e->runs[i + j].node] += each[j];
    }
    return DASS_OK;
}
