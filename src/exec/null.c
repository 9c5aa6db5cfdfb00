/* The null backend: accepts every op, wants no scratch, owns no memory and never computes. For `dass plan` and planner
 * tests; graphs of either real type are planned.
 */
#include "exec_private.h"

#include <string.h>

static dass_status null_open(const dass_backend_options *opt, dass_backend **out)
{
    (void)opt;
    void *p = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass_backend), "null backend", &p));
    *out = p;
    (*out)->ops = &dass__backend_null;
    return DASS_OK;
}

static void null_close(dass_backend *be)
{
    dass_mem_free(be);
}

static dass_status refuse(void)
{
    return DASS_FAIL(DASS_UNSUPPORTED, "device 'null' plans but has no memory and does not compute");
}

static dass_status null_alloc(dass_backend *be, size_t bytes, const char *what, void **out)
{
    (void)be, (void)bytes, (void)what;
    *out = NULL;
    return refuse();
}

static void null_free(dass_backend *be, void *p)
{
    (void)be, (void)p;
}

static dass_status null_write(dass_backend *be, void *dst, const void *src, size_t bytes)
{
    (void)be, (void)dst, (void)src, (void)bytes;
    return refuse();
}

static dass_status null_fill(dass_backend *be, void *dst, uint32_t word, size_t bytes)
{
    (void)be, (void)dst, (void)word, (void)bytes;
    return refuse();
}

static dass_status null_sync(dass_backend *be)
{
    (void)be;
    return DASS_OK;
}

static dass_status null_run(dass_backend *be, void *impl)
{
    (void)be, (void)impl;
    return refuse();
}

static dass_status null_select(dass_backend *be, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *out)
{
    (void)be, (void)mem, (void)g, (void)n;
    *out = (dass_kernel){.run = null_run, .name = "null"};
    return DASS_OK;
}

static dass_status null_bind(dass_backend *be, const dass_graph *g, dass_node n, dass_kernel *k, void *const *args,
                             void *ws)
{
    (void)be, (void)g, (void)n, (void)k, (void)args, (void)ws;
    return DASS_OK;
}

static bool null_can(dass_backend *be, dass_op op)
{
    (void)be, (void)op;
    return true;
}

const dass_backend_ops dass__backend_null = {
    .name = "null",
    .open = null_open,
    .close = null_close,
    .alloc = null_alloc,
    .free = null_free,
    .write = null_write,
    .read = null_write,
    .fill = null_fill,
    .sync = null_sync,
    .select = null_select,
    .bind = null_bind,
    .drop = NULL,
    .can = null_can,
    .real = DASS_F32,
    .precisions = 1u << DASS_PRECISION_BF16,
};
