/* What a stream can do with launches beside running them: record them and replay the recording, and say how long each
 * took. Invariant: whatever happens between capture_begin and capture_end, the stream runs again after it, and no error
 * of the recording is left for the next call to report.
 */
#include <cuda_runtime_api.h>
#include <stdatomic.h>

#include "cuda.h"
#include "dass/clock.h"
#include "dass/mem.h"

#define HOLD_SEC 0.1 /* the device is held back no longer, should its queue be full before all is enqueued */

/* A slot of dass_cuda.replays; exec NULL: free. */
struct dass_replay {
    cudaGraphExec_t exec;
    size_t n_nodes;
};

typedef struct dass__cuda_timer {
    cudaEvent_t event[DASS_MAX_TIMED + 1]; /* before each launch, and after the last */
    atomic_bool enqueued;                  /* hold() may return */
} dass__cuda_timer;

dass_status dass__cuda_replay_open(dass_cuda *c)
{
    void *p = NULL;
    DASS_TRY(dass_mem_alloc(DASS__MAX_REPLAYS * sizeof *c->replays, "cuda recordings", &p));
    c->replays = p;
    return DASS_OK;
}

void dass__cuda_replay_close(dass_cuda *c)
{
    for (int i = 0; c->timer != NULL && i <= DASS_MAX_TIMED; i++)
        if (c->timer->event[i] != NULL)
            (void)cudaEventDestroy(c->timer->event[i]);
    dass_mem_free(c->timer);
    dass_mem_free(c->replays);
    c->timer = NULL;
    c->replays = NULL;
}

/* ---- recordings -------------------------------------------------------------------------------------------------- */

/* Relaxed: a library that asks for memory or loads a kernel meanwhile does so at once, as it would outside; in the
 * other modes that call would end the recording. What must not be recorded as if it had been enqueued (a wait for the
 * stream, work on another that is not joined) ends it in every mode. */
dass_status dass__cuda_capture_begin(dass_backend *be)
{
    dass_cuda *c = (dass_cuda *)be;
    CUDA_TRY(cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeRelaxed));
    c->recording = true;
    return DASS_OK;
}

dass_status dass__cuda_still_recording(dass_cuda *c, const char *what)
{
    enum cudaStreamCaptureStatus now = cudaStreamCaptureStatusNone;
    CUDA_TRY(cudaStreamIsCapturing(c->stream, &now));
    if (now != cudaStreamCaptureStatusActive)
        return DASS_FAIL(DASS_DEVICE, "cuda: %s did what a recording cannot hold", what);
    return DASS_OK;
}

/* An invalid recording ends without a graph; the stream is its old self again. */
dass_status dass__cuda_capture_end(dass_backend *be, dass_replay **out)
{
    dass_cuda *c = (dass_cuda *)be;
    dass_status st = DASS_OK;
    cudaGraph_t graph = NULL;
    dass_replay *r = c->replays;
    *out = NULL;
    c->recording = false;
    CUDA_TRY_TO(cudaStreamEndCapture(c->stream, &graph), st, out);
    if (graph == NULL) {
        st = DASS_FAIL(DASS_DEVICE, "cuda: cudaStreamEndCapture gave no graph");
        goto out;
    }
    while (r < c->replays + DASS__MAX_REPLAYS && r->exec != NULL)
        r++;
    if (r == c->replays + DASS__MAX_REPLAYS) {
        st = DASS_FAIL(DASS_NOMEM, "cuda: more than %d recordings are alive at once", DASS__MAX_REPLAYS);
        goto out;
    }
    cudaGraphExec_t exec = NULL;
    CUDA_TRY_TO(cudaGraphGetNodes(graph, NULL, &r->n_nodes), st, out);
    CUDA_TRY_TO(cudaGraphInstantiate(&exec, graph, 0), st, out);
    r->exec = exec;
    *out = r;
out:
    if (graph != NULL)
        (void)cudaGraphDestroy(graph);
    return st;
}

dass_status dass__cuda_replay(dass_backend *be, dass_replay *r)
{
    CUDA_TRY(cudaGraphLaunch(r->exec, ((dass_cuda *)be)->stream));
    return DASS_OK;
}

void dass__cuda_replay_free(dass_backend *be, dass_replay *r)
{
    if (r == NULL)
        return;
    (void)cudaStreamSynchronize(((dass_cuda *)be)->stream);
    (void)cudaGraphExecDestroy(r->exec);
    r->exec = NULL;
}

size_t dass__cuda_replay_nodes(const dass_replay *r)
{
    return r->n_nodes;
}

/* ---- times ------------------------------------------------------------------------------------------------------- */

static dass_status open_timer(dass_cuda *c)
{
    void *p = NULL;
    if (c->timer != NULL)
        return DASS_OK;
    DASS_TRY(dass_mem_alloc(sizeof *c->timer, "cuda events", &p));
    c->timer = p;
    for (int i = 0; i <= DASS_MAX_TIMED; i++)
        CUDA_TRY(cudaEventCreate(&c->timer->event[i]));
    return DASS_OK;
}

/* Keeps the stream until all is enqueued behind it: else a launch shorter than its way to the device would count as
 * long as that. */
static void CUDART_CB hold(void *timer)
{
    dass__cuda_timer *t = timer;
    const double end = dass_now_sec() + HOLD_SEC;
    while (!atomic_load(&t->enqueued) && dass_now_sec() < end)
        ;
}

static dass_status enqueue_timed(dass_cuda *c, const dass_kernel *const *k, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        CUDA_TRY(cudaEventRecord(c->timer->event[i], c->stream));
        DASS_TRY(k[i]->run(&c->base, k[i]->impl));
    }
    CUDA_TRY(cudaEventRecord(c->timer->event[n], c->stream));
    return DASS_OK;
}

/* One event lies between two launches: it ends the one and begins the other. */
dass_status dass__cuda_time_each(dass_backend *be, const dass_kernel *const *k, uint32_t n, double *sec)
{
    dass_cuda *c = (dass_cuda *)be;
    DASS_ASSERT(n <= DASS_MAX_TIMED);
    DASS_TRY(open_timer(c));
    dass__cuda_timer *t = c->timer;
    atomic_store(&t->enqueued, false);
    CUDA_TRY(cudaLaunchHostFunc(c->stream, hold, t));
    const dass_status st = enqueue_timed(c, k, n);
    atomic_store(&t->enqueued, true);
    const dass_status waited = be->ops->sync(be);
    DASS_TRY(st);
    DASS_TRY(waited);
    for (uint32_t i = 0; i < n; i++) {
        float ms = 0.0f;
        CUDA_TRY(cudaEventElapsedTime(&ms, t->event[i], t->event[i + 1]));
        sec[i] = 1e-3 * (double)ms;
    }
    return DASS_OK;
}
