/* Programs: executors over one arena, as large as the largest plan. They never overlap in time, so they share it. */
#include "exec_private.h"

#include <stdio.h>
#include <string.h>

#include "dass/log.h"

#define MAX_RECORDINGS 16

/* Executors that were run one after another, to be replayed as one from the second time on. */
typedef struct recording {
    uint32_t first, n;
    bool warm, failed; /* ran once; could not be recorded */
    dass_replay *replay;
} recording;

struct dass_program {
    dass_backend *be;
    dass_exec **execs;
    uint32_t n_execs;
    void **bufs;
    void *arena;
    size_t arena_bytes;
    recording recording[MAX_RECORDINGS];
    uint32_t n_recordings;
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
    for (uint32_t i = 0; i < p->n_recordings; i++)
        if (p->recording[i].replay != NULL)
            p->be->ops->replay_free(p->be, p->recording[i].replay);
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

static dass_status run_plainly(dass_program *p, uint32_t first, uint32_t n)
{
    for (uint32_t i = first; i < first + n; i++) {
        if (p->execs[i]->opt.guard)
            DASS_TRY(dass__exec_run_guarded(p->execs[i], p->arena, p->bufs));
        else
            DASS_TRY(dass__exec_run(p->execs[i]));
    }
    return DASS_OK;
}

/* Recording wants a run before it: libraries load their kernels at first use, which must not happen in a recording. */
static dass_status try_to_record(dass_program *p, recording *r)
{
    const dass_backend_ops *ops = p->be->ops;
    dass_replay *replay = NULL;
    DASS_TRY(ops->capture_begin(p->be));
    const dass_status ran = run_plainly(p, r->first, r->n);
    char why[512]; /* what the end says of a recording that failed is less than what made it fail */
    (void)snprintf(why, sizeof why, "%s", dass_error_text());
    const dass_status ended = ops->capture_end(p->be, &replay);
    if (ran == DASS_OK && ended == DASS_OK) {
        r->replay = replay;
        return DASS_OK;
    }
    ops->replay_free(p->be, replay);
    return ran != DASS_OK ? DASS_FAIL(ran, "%s", why) : ended;
}

/* A step that cannot be recorded is slower, not wrong: nothing of it was executed. */
static void record(dass_program *p, recording *r)
{
    if (try_to_record(p, r) == DASS_OK)
        return;
    r->failed = true;
    dass_log(DASS_LOG_WARN, "device '%s': %u graph%s cannot be recorded and run node by node, which takes longer: %s",
             p->be->ops->name, r->n, r->n == 1 ? "" : "s", dass_error_text());
    dass_error_clear();
}

static bool may_record(const dass_program *p, uint32_t first, uint32_t n)
{
    bool may = p->be->ops->capture_begin != NULL;
    for (uint32_t i = first; i < first + n; i++)
        may = may && !p->execs[i]->opt.guard && !p->execs[i]->opt.no_capture;
    return may;
}

/* The recording of these executors; NULL when there is no room for another. */
static recording *find_recording(dass_program *p, uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < p->n_recordings; i++)
        if (p->recording[i].first == first && p->recording[i].n == n)
            return &p->recording[i];
    if (p->n_recordings == MAX_RECORDINGS)
        return NULL;
    p->recording[p->n_recordings] = (recording){.first = first, .n = n};
    return &p->recording[p->n_recordings++];
}

dass_status dass_program_start_some(dass_program *p, uint32_t first, uint32_t n)
{
    for (uint32_t i = first; i < first + n; i++)
        DASS_TRY(runnable(p, i));
    recording *r = may_record(p, first, n) ? find_recording(p, first, n) : NULL;
    if (r != NULL && r->warm && !r->failed && r->replay == NULL)
        record(p, r);
    if (r != NULL && r->replay != NULL) {
        DASS_TRY(p->be->ops->replay(p->be, r->replay));
    } else {
        DASS_TRY(run_plainly(p, first, n));
        if (r != NULL)
            r->warm = true;
    }
    return DASS_OK;
}

dass_status dass_program_run_some(dass_program *p, uint32_t first, uint32_t n)
{
    DASS_TRY(dass_program_start_some(p, first, n));
    return p->be->ops->sync(p->be);
}

size_t dass_program_recorded(const dass_program *p, uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < p->n_recordings; i++)
        if (p->recording[i].first == first && p->recording[i].n == n && p->recording[i].replay != NULL)
            return p->be->ops->replay_nodes(p->recording[i].replay);
    return 0;
}

dass_status dass_program_run_one(dass_program *p, uint32_t i)
{
    return dass_program_run_some(p, i, 1);
}

dass_status dass_program_run(dass_program *p)
{
    return dass_program_run_some(p, 0, p->n_execs);
}

dass_status dass_program_profile(dass_program *p, uint32_t i, double *sec)
{
    DASS_TRY(runnable(p, i));
    memset(sec, 0, p->execs[i]->g->n_nodes * sizeof *sec);
    return dass__exec_profile(p->execs[i], sec);
}

dass_status dass_program_profile_in_place(dass_program *p, uint32_t i, double *sec)
{
    DASS_TRY(runnable(p, i));
    memset(sec, 0, p->execs[i]->g->n_nodes * sizeof *sec);
    return dass__exec_profile_in_place(p->execs[i], sec);
}

size_t dass_program_arena_bytes(const dass_program *p)
{
    return p->arena_bytes;
}
