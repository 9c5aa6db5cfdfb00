/* Bytes that the nodes of a step must move, before and after fusion. Graphs alone: nothing is planned or run.
 * Invariant: both graphs are those of one phase over one store; only the lowering passes differ.
 */
#include "bench_private.h"

#include "dass/data.h"
#include "dass/exec.h"

typedef struct traffic {
    const dass_config *cfg;
    dass_arch arch;
    dass_backend *be;
    dass_store *store;
    dass_arena *mem;
    dass_segment *segments;
    int64_t n_segments;
} traffic;

static const char *const stage_words[] = {"dense", "score", "finetune"};
static const double zeros[DASS_MAX_IMAGE_CHANNELS];
static const double ones[DASS_MAX_IMAGE_CHANNELS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static dass_phase phase_of(const traffic *t, dass_stage stage, dass_task task)
{
    const dass_config *c = t->cfg;
    dass_phase p = {.task = task,
                    .stage = stage,
                    .batch = (int32_t)c->train_batch,
                    .inputs = dass_task_validates(task) ? DASS_INPUTS_VALIDATION : DASS_INPUTS_MAIN,
                    .pad = (int32_t)c->data_pad,
                    .flip = c->data_flip,
                    .cutout = (int32_t)c->data_cutout,
                    .mean = zeros,
                    .std = ones,
                    .segments = t->segments,
                    .n_segments = t->n_segments};
    if (t->arch.kind != DASS_NET_SUPERNET && task == DASS_TASK_WEIGHTS) {
        p.drop_path = c->train_drop_path > 0.0;
        p.auxiliary = c->train_auxiliary;
        p.ema = c->train_ema > 0.0 && stage != DASS_STAGE_SCORE;
    }
    return p;
}

static dass_status add_graph(traffic *t, dass_phase p, unsigned lower, int64_t *nodes, double *bytes)
{
    dass_graph *g = NULL;
    p.lower = lower;
    DASS_TRY(dass_phase_build(t->store, &t->arch, &p, t->be->ops->real, t->be, &g));
    *nodes += (int64_t)g->n_nodes - 1;
    for (dass_node n = 1; n < g->n_nodes; n++)
        *bytes += dass_node_cost(g, n).bytes;
    dass_graph_free(g);
    return DASS_OK;
}

/* Learn the parameters from a graph that is dropped, so that the table of kept counts can be made; how many are kept
 * moves no byte. */
static dass_status make_segments(traffic *t)
{
    int64_t nodes = 0;
    double bytes = 0.0;
    DASS_TRY(add_graph(t, phase_of(t, DASS_STAGE_DENSE, DASS_TASK_WEIGHTS), 0, &nodes, &bytes));
    return dass_density_allocate(t->store, DASS_ALLOC_UNIFORM, 0.5, NULL, t->mem, &t->segments, &t->n_segments);
}

static dass_status measure_stage(traffic *t, dass_stage stage, dass_bench_traffic *out)
{
    dass_task task[DASS_MAX_ALPHA_TASKS + 1];
    uint32_t n = t->arch.kind == DASS_NET_SUPERNET ? dass_search_tasks(t->cfg, stage, task) : 0;
    task[n++] = DASS_TASK_WEIGHTS;
    *out = (dass_bench_traffic){.stage = stage_words[stage]};
    for (uint32_t i = 0; i < n; i++) {
        const dass_phase p = phase_of(t, stage, task[i]);
        DASS_TRY(add_graph(t, p, 0, &out->nodes_unfused, &out->bytes_unfused));
        DASS_TRY(add_graph(t, p, DASS_LOWER_ALL, &out->nodes, &out->bytes));
    }
    return DASS_OK;
}

dass_status dass_bench_traffic_measure(const dass_config *c, const char *device,
                                       dass_bench_traffic out[DASS_TRAFFIC_STAGES])
{
    traffic t = {.cfg = c};
    dass_status st = DASS_OK;
    DASS_TRY(dass_arch_from_config(c, &t.arch));
    DASS_TRY_TO(dass_arena_make("traffic", &t.mem), st, out);
    DASS_TRY_TO(dass_backend_open_for(c, device, &t.be), st, out);
    DASS_TRY_TO(dass_store_make(t.be->ops->real, &t.store), st, out);
    DASS_TRY_TO(make_segments(&t), st, out);
    for (int i = 0; i < DASS_TRAFFIC_STAGES; i++)
        DASS_TRY_TO(measure_stage(&t, (dass_stage)i, &out[i]), st, out);
out:
    dass_store_free(t.store);
    dass_backend_close(t.be);
    dass_arena_free(t.mem);
    return st;
}
