/* Programs: executors over one arena, as large as the largest plan. They never overlap in time, so they share it. */
#include "exec_private.h"

#include <string.h>

struct dass_program {
    dass_backend *be;
    dass_exec **execs;
    uint32_t n_execs;
    void **bufs;
    void *arena;
    size_t arena_bytes;
};

dass_status dass_program_make(dass_backend *be, dass_exec *const *execs, uint32_t n_execs, void *const *bufs,
                              uint32_t n_bufs, dass_program **out)
{
    *out = NULL;
    dass_status st = DASS_OK;
    void *mem = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass_program), "program", &mem));
    dass_program *p = mem;
    p->be = be;
    DASS_TRY_TO(dass_mem_alloc(n_execs * sizeof *p->execs, "program", &mem), st, out);
    p->execs = mem;
    DASS_TRY_TO(dass_mem_alloc((n_bufs + 1) * sizeof *p->bufs, "program", &mem), st, out);
    p->bufs = mem;
    memcpy(p->bufs, bufs, n_bufs * sizeof *p->bufs);
    for (uint32_t i = 0; i < n_execs; i++) {
        if (execs[i]->be != be) {
            st = DASS_FAIL(DASS_ARG, "program: executor %u belongs to another device", i);
            goto out;
        }
        p->execs[i] = execs[i];
        const size_t bytes = dass_exec_plan(execs[i])->peak_bytes;
        p->arena_bytes = bytes > p->arena_bytes ? bytes : p->arena_bytes;
    }
    p->n_execs = n_execs;
    if (be->ops == &dass__backend_null)
        goto out;
    DASS_TRY_TO(be->ops->alloc(be, p->arena_bytes, "arena of temporaries", &p->arena), st, out);
    for (uint32_t i = 0; i < n_execs; i++)
        DASS_TRY_TO(dass__exec_bind(p->execs[i], p->arena, p->bufs, n_bufs), st, out);
out:
    if (st != DASS_OK) {
        dass_program_free(p);
        p = NULL;
    }
    *out = p;
    return st;
}

void dass_program_free(dass_program *p)
{
    if (!p)
        return;
    if (p->arena)
        p->be->ops->free(p->be, p->arena);
    dass_mem_free(p->execs);
    dass_mem_free(p->bufs);
    dass_mem_free(p);
}

static dass_status runnable(const dass_program *p, uint32_t i)
{
    if (!p->arena)
        return DASS_FAIL(DASS_UNSUPPORTED, "program: device '%s' plans but does not compute", p->be->ops->name);
    if (i >= p->n_execs)
        return DASS_FAIL(DASS_ARG, "program: executor %u of %u", i, p->n_execs);
    return DASS_OK;
}

dass_status dass_program_run_one(dass_program *p, uint32_t i)
{
    DASS_TRY(runnable(p, i));
    if (p->execs[i]->opt.guard)
        return dass__exec_run_guarded(p->execs[i], p->arena, p->bufs);
    DASS_TRY(dass__exec_run(p->execs[i]));
    return p->be->ops->sync(p->be);
}

dass_status dass_program_run(dass_program *p)
{
    for (uint32_t i = 0; i < p->n_execs; i++)
        DASS_TRY(dass_program_run_one(p, i));
    return DASS_OK;
}

dass_status dass_program_profile(dass_program *p, uint32_t i, double *sec)
{
    DASS_TRY(runnable(p, i));
    memset(sec, 0, p->execs[i]->g->n_nodes * sizeof *sec);
    return dass__exec_profile(p->execs[i], sec);
}

size_t dass_program_arena_bytes(const dass_program *p)
{
    return p->arena_bytes;
}
