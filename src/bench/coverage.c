/* What of the engine a device has really run: the graphs of every command, built by the calls that the commands make,
 * at sizes that a simulated device can bear, each run twice (enqueued, then recorded and replayed). Counts come from
 * the plans and from the backend's own counters; the lists are ops.def and the kernels that the backend names, not
 * lists of this file.
 */
#include <stdio.h>
#include <string.h>

#include "bench_private.h"
#include "dass/bench.h"
#include "dass/step.h"

enum { BATCH = 4, IMAGE = 8, CLASSES = 5 };

static const double mean[3] = {0.5, 0.5, 0.5};
static const double dev[3] = {0.25, 0.25, 0.25};

/* One network in one stage: its alpha graphs, then its weight graph; or its evaluation. */
typedef struct row {
    const char *what;
    dass_net_kind kind;
    dass_stage stage;
    bool second_order, eval;
} row;

static const row rows[] = {
    {"search, dense stage", DASS_NET_SUPERNET, DASS_STAGE_DENSE, false, false},
    {"search, score stage", DASS_NET_SUPERNET, DASS_STAGE_SCORE, false, false},
    {"search, finetune stage, second order", DASS_NET_SUPERNET, DASS_STAGE_FINETUNE, true, false},
    {"train, derived cells", DASS_NET_CELLS, DASS_STAGE_DENSE, false, false},
    {"prune, score stage, derived cells", DASS_NET_CELLS, DASS_STAGE_SCORE, false, false},
    {"eval, derived cells, pruned", DASS_NET_CELLS, DASS_STAGE_FINETUNE, false, true},
    {"train, MobileNet-v2", DASS_NET_MOBILENET_V2, DASS_STAGE_DENSE, false, false},
    {"eval, MobileNet-v2, pruned", DASS_NET_MOBILENET_V2, DASS_STAGE_FINETUNE, false, true},
    {"train, ResNet-18", DASS_NET_RESNET18, DASS_STAGE_DENSE, false, false},
};

typedef struct coverage {
    dass_backend *be;
    dass_store *s;
    dass_arena *mem;
    dass_steps steps;
    bool resident; /* the graphs of this row take their batches themselves, as those of the commands do */
    dass_segment *segments;
    int64_t n_segments;
    dass_bench_coverage *out;
} coverage;

static dass_arch arch_of(dass_net_kind kind)
{
    dass_arch a = {
        .kind = kind, .channels = 4, .layers = 3, .nodes = 2, .classes = CLASSES, .in_channels = 3, .image = IMAGE};
    if (kind == DASS_NET_CELLS) {
        a.nodes = 4;
        a.genotype = dass_genotype_random(1, a.nodes);
    }
    return a;
}

static dass_status open_row(coverage *c, const row *r, const dass_arch *a)
{
    dass_phase phase[DASS_MAX_STEPS];
    dass_task task[DASS_MAX_STEPS] = {DASS_TASK_EVAL};
    uint32_t n = 1;
    dass_graph *g = NULL;
    DASS_TRY(dass_store_make(c->be->ops->real, &c->s));
    DASS_TRY(dass_arena_make("coverage", &c->mem));
    if (!r->eval) {
        n = a->kind == DASS_NET_SUPERNET ? dass_alpha_tasks(r->stage, r->second_order ? 2 : 1, task) : 0;
        task[n++] = DASS_TASK_WEIGHTS;
    }
    c->resident = !r->eval && c->be->ops->room != NULL;
    const bool cells = a->kind == DASS_NET_CELLS && !r->eval;
    for (uint32_t i = 0; i < n; i++)
        phase[i] =
            (dass_phase){.task = task[i],
                         .inputs = !r->eval && dass_task_validates(task[i]) ? DASS_INPUTS_VALIDATION : DASS_INPUTS_MAIN,
                         .resident = {.n = c->resident ? BATCH : 0, .length = BATCH},
                         .stage = r->stage,
                         .batch = BATCH,
                         .lower = DASS_LOWER_ALL,
                         .label_smoothing = 0.1,
                         .pad = 1,
                         .flip = true,
                         .cutout = 2,
                         .mean = mean,
                         .std = dev,
                         .drop_path = cells && r->stage == DASS_STAGE_DENSE,
                         .ema = cells};
    /* a graph that only registers the parameters, so that the table of kept counts can be made */
    dass_phase first = phase[n - 1];
    first.stage = DASS_STAGE_DENSE;
    DASS_TRY(dass_phase_build(c->s, a, &first, c->be->ops->real, NULL, &g));
    dass_graph_free(g);
    DASS_TRY(dass_density_allocate(c->s, DASS_ALLOC_UNIFORM, 0.3, NULL, c->mem, &c->segments, &c->n_segments));
    for (uint32_t i = 0; i < n; i++) {
        phase[i].segments = c->segments;
        phase[i].n_segments = c->n_segments;
    }
    DASS_TRY(dass_steps_plan(c->s, a, phase, n, c->be, NULL, &c->steps));
    return dass_steps_bind(c->s, &c->steps);
}

static void close_row(coverage *c)
{
    dass_steps_close(&c->steps);
    dass_store_free(c->s);
    dass_arena_free(c->mem);
    c->s = NULL;
    c->mem = NULL;
}

/* The batch as a data set of as many images, in the order of its labels. */
static dass_status fill_data_set(coverage *c, const uint8_t *images, const int32_t *labels, bool search)
{
    const size_t bytes = BATCH * sizeof *labels;
    DASS_TRY(
        dass_resident_write(c->s, c->be, (dass_resident){BATCH, BATCH}, search, images, 3 * IMAGE * IMAGE, labels));
    DASS_TRY(dass_store_write(c->s, DASS_BUF_ORDER, labels, bytes));
    return search ? dass_store_write(c->s, DASS_BUF_VAL_ORDER, labels, bytes) : DASS_OK;
}

static dass_status fill(coverage *c, const dass_arch *a)
{
    static uint8_t images[BATCH * 3 * IMAGE * IMAGE];
    const int32_t labels[BATCH] = {0, 1, 2, 3};
    const int32_t samples[BATCH] = {5, 6, 7, 8};
    for (size_t i = 0; i < sizeof images; i++)
        images[i] = (uint8_t)(i * 37 % 251);
    DASS_TRY(dass_store_init(c->s, 11));
    DASS_TRY(dass_store_commit(c->s, c->be, (uint64_t)1 << DASS_BUF_SCORE | (uint64_t)1 << DASS_BUF_BITS));
    DASS_TRY(dass_store_init_scores(c->s));
    if (c->resident)
        return fill_data_set(c, images, labels, a->kind == DASS_NET_SUPERNET);
    for (int to = 0; to < (a->kind == DASS_NET_SUPERNET ? 2 : 1); to++)
        DASS_TRY(dass_steps_feed(c->s, (dass_inputs)to, images, 3 * IMAGE * IMAGE, labels, samples, BATCH));
    return DASS_OK;
}

static void count(coverage *c, const row *r)
{
    dass_bench_coverage *o = c->out;
    dass_coverage_graph *to = &o->graph[o->n_graphs++];
    (void)snprintf(to->what, sizeof to->what, "%s", r->what);
    for (uint32_t i = 0; i < c->steps.n; i++) {
        const dass_graph *g = c->steps.graph[i];
        const dass_exec_stats s = dass_exec_get_stats(c->steps.exec[i]);
        to->nodes += s.n_nodes;
        to->launches_alone += s.n_launches_alone;
        to->launches += s.n_launches;
        for (dass_node n = 1; n < g->n_nodes; n++)
            o->op_nodes[g->nodes[n].op]++;
    }
    to->recorded = dass_program_recorded(c->steps.program, 0, c->steps.n);
}

static dass_status run_row(coverage *c, const row *r)
{
    const dass_arch a = arch_of(r->kind);
    dass_step_block block = {.lr = {0.01, 0.01, 0.01, 0.01},
                             .momentum = 0.9,
                             .clip = 5,
                             .beta1 = 0.5,
                             .beta2 = 0.999,
                             .adam_eps = 1e-8,
                             .adam_step = 1,
                             .seed = 1,
                             .drop_path = 0.2,
                             .ema = 0.9,
                             .xi = 0.01};
    double loss = 0.0;
    double val_loss = 0.0;
    DASS_TRY(open_row(c, r, &a));
    DASS_TRY(fill(c, &a));
    for (int i = 0; i < 2; i++)
        DASS_TRY(dass_steps_run_all(c->s, &c->steps, &block, &loss, NULL, &val_loss, NULL));
    count(c, r);
    return DASS_OK;
}

dass_status dass_bench_coverage_run(const char *device, dass_bench_coverage *out)
{
    memset(out, 0, sizeof *out);
    coverage c = {.out = out};
    DASS_TRY(dass_backend_open(device, NULL, &c.be));
    dass_status st = DASS_OK;
    for (size_t i = 0; i < sizeof rows / sizeof *rows && st == DASS_OK; i++) {
        st = run_row(&c, &rows[i]);
        close_row(&c);
    }
    dass_backend_close(c.be);
    for (int op = 1; op < DASS_N_OPS; op++)
        out->n_ops_run += out->op_nodes[op] > 0;
    uint64_t launches = 0;
    for (uint32_t i = 0; dass_backend_kernel(device, i, &launches) != NULL; i++) {
        out->n_kernels++;
        out->n_kernels_run += launches > 0;
    }
    return st;
}
