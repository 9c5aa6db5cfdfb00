/* What of the engine a device has really run: the graphs of every command, built by the calls that the commands make,
 * at sizes that a simulated device can bear, each run twice (enqueued, then recorded and replayed), and the graphs of
 * coverage_graphs.c. Counts come from the plans and from the backend's own counters, and have to be equal; the lists
 * are ops.def and the kernels that the backend names, not lists of this file.
 */
#include <stdio.h>
#include <string.h>

#include "bench_private.h"
#include "dass/bench.h"
#include "dass/step.h"

enum { BATCH = 4, IMAGE = 8, CLASSES = 5 };

/* More channels than images have. */
static const double mean[16] = {0.5, 0.5, 0.5};
static const double dev[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

const dass_step_block dass__coverage_block = {.lr = {0.01, 0.01, 0.01, 0.01},
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
    const char *suffix; /* of the names of steps: what the precision of this round is, "" in the first */
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

/* Of a row's graphs: what the networks leave open. */
typedef struct sizes {
    int32_t batch, pad, cutout;
    bool second_order;
} sizes;

/* Learn the parameters from a graph that is dropped, so that the table of kept counts can be made. */
static dass_status make_segments(coverage *c, const dass_arch *a, dass_phase first)
{
    dass_graph *g = NULL;
    first.stage = DASS_STAGE_DENSE;
    DASS_TRY(dass_phase_build(c->s, a, &first, c->be->ops->real, NULL, &g));
    dass_graph_free(g);
    return dass_density_allocate(c->s, DASS_ALLOC_UNIFORM, 0.3, NULL, c->mem, &c->segments, &c->n_segments);
}

static dass_status plan_row(coverage *c, const row *r, const dass_arch *a, sizes z)
{
    dass_phase phase[DASS_MAX_STEPS];
    dass_task task[DASS_MAX_STEPS] = {DASS_TASK_EVAL};
    uint32_t n = 1;
    DASS_TRY(dass_store_make(c->be->ops->real, &c->s));
    DASS_TRY(dass_arena_make("coverage", &c->mem));
    if (!r->eval) {
        n = a->kind == DASS_NET_SUPERNET ? dass_alpha_tasks(r->stage, z.second_order ? 2 : 1, task) : 0;
        task[n++] = DASS_TASK_WEIGHTS;
    }
    c->resident = !r->eval && c->be->ops->room != NULL;
    const bool cells = a->kind == DASS_NET_CELLS && !r->eval;
    for (uint32_t i = 0; i < n; i++)
        phase[i] =
            (dass_phase){.task = task[i],
                         .inputs = !r->eval && dass_task_validates(task[i]) ? DASS_INPUTS_VALIDATION : DASS_INPUTS_MAIN,
                         .resident = {.n = c->resident ? z.batch : 0, .length = z.batch},
                         .stage = r->stage,
                         .batch = z.batch,
                         .lower = DASS_LOWER_ALL,
                         .label_smoothing = 0.1,
                         .pad = z.pad,
                         .flip = true,
                         .cutout = z.cutout,
                         .mean = mean,
                         .std = dev,
                         .drop_path = cells && r->stage == DASS_STAGE_DENSE,
                         .ema = cells};
    DASS_TRY(make_segments(c, a, phase[n - 1]));
    for (uint32_t i = 0; i < n; i++) {
        phase[i].segments = c->segments;
        phase[i].n_segments = c->n_segments;
    }
    return dass_steps_plan(c->s, a, phase, n, c->be, NULL, &c->steps);
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

/* ---- counting ---------------------------------------------------------------------------------------------------- */

static dass_status list_kinds(coverage *c)
{
    dass_bench_coverage *o = c->out;
    uint64_t launches = 0;
    const char *name = NULL;
    for (o->n_kinds = 0; (name = dass_backend_kernel(c->be->ops->name, o->n_kinds, &launches)) != NULL; o->n_kinds++) {
        if (o->n_kinds == DASS_COVERAGE_KINDS)
            return DASS_FAIL(DASS_INTERNAL, "coverage: more than %d kinds of launches", DASS_COVERAGE_KINDS);
        o->kind[o->n_kinds] = name;
    }
    return DASS_OK;
}

static uint64_t all_launches(const coverage *c)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < c->out->n_kinds; i++) {
        uint64_t launches = 0;
        (void)dass_backend_kernel(c->be->ops->name, i, &launches);
        sum += launches;
    }
    return sum;
}

typedef struct tally {
    const dass_bench_coverage *out;
    dass_coverage_step *to;
    const char *unknown;
} tally;

static void count_launch(void *ctx, const char *name)
{
    tally *t = ctx;
    uint32_t i = 0;
    while (i < t->out->n_kinds && strcmp(t->out->kind[i], name) != 0)
        i++;
    if (i < t->out->n_kinds)
        t->to->of[i]++;
    else
        t->unknown = name;
}

/* What the plans of the row's graphs launch. */
static dass_status count_plan(coverage *c, const char *what, dass_coverage_step **out)
{
    dass_bench_coverage *o = c->out;
    DASS_ASSERT(o->n_steps < DASS_COVERAGE_STEPS);
    dass_coverage_step *to = &o->step[o->n_steps++];
    tally t = {.out = o, .to = to};
    (void)snprintf(to->what, sizeof to->what, "%s%s", what, c->suffix);
    for (uint32_t i = 0; i < c->steps.n; i++) {
        const dass_exec_stats s = dass_exec_get_stats(c->steps.exec[i]);
        to->nodes += s.n_nodes;
        to->launches_alone += s.n_launches_alone;
        to->launches += s.n_launches;
        dass_exec_each_launch(c->steps.exec[i], count_launch, &t);
    }
    *out = to;
    return t.unknown == NULL ? DASS_OK
                             : DASS_FAIL(DASS_INTERNAL,
                                         "coverage: %s: the plan launches '%s', which device '%s' does "
                                         "not count",
                                         what, t.unknown, c->be->ops->name);
}

static void count_nodes(const coverage *c)
{
    for (uint32_t i = 0; i < c->steps.n; i++) {
        const dass_graph *g = c->steps.graph[i];
        for (dass_node n = 1; n < g->n_nodes; n++)
            c->out->op_nodes[g->nodes[n].op]++;
    }
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static dass_status run_row(coverage *c, const row *r)
{
    const dass_arch a = arch_of(r->kind);
    double loss = 0.0;
    double val_loss = 0.0;
    dass_coverage_step *to = NULL;
    DASS_TRY(plan_row(c, r, &a, (sizes){.batch = BATCH, .pad = 1, .cutout = 2, .second_order = r->second_order}));
    DASS_TRY(dass_steps_bind(c->s, &c->steps));
    DASS_TRY(count_plan(c, r->what, &to));
    DASS_TRY(fill(c, &a));
    const uint64_t before = all_launches(c);
    DASS_TRY(dass_steps_run_all(c->s, &c->steps, &dass__coverage_block, &loss, NULL, &val_loss, NULL));
    to->run = true;
    to->executed = all_launches(c) - before;
    if (to->executed != to->launches)
        return DASS_FAIL(DASS_INTERNAL, "coverage: %s: the plan has %llu launches, device '%s' counted %llu", r->what,
                         (unsigned long long)to->launches, c->be->ops->name, (unsigned long long)to->executed);
    DASS_TRY(dass_steps_run_all(c->s, &c->steps, &dass__coverage_block, &loss, NULL, &val_loss, NULL));
    to->recorded = dass_program_recorded(c->steps.program, 0, c->steps.n);
    count_nodes(c);
    return DASS_OK;
}

/* The search of full size: its three kinds of step, as far as plans. */
static dass_status plan_search(coverage *c, const dass_config *cfg)
{
    dass_arch a;
    DASS_TRY(dass_arch_from_config(cfg, &a));
    if (a.kind != DASS_NET_SUPERNET)
        return DASS_FAIL(DASS_ARG, "coverage: the configuration is not of a search; leave net.name and net.genotype "
                                   "away");
    const sizes z = {(int32_t)cfg->train_batch, (int32_t)cfg->data_pad, (int32_t)cfg->data_cutout,
                     cfg->search_order == 2};
    (void)snprintf(c->out->search, sizeof c->out->search, "C=%d, %d cells, batch %d, %s order", a.channels, a.layers,
                   z.batch, z.second_order ? "second" : "first");
    static const row stages[] = {{"dense stage", DASS_NET_SUPERNET, DASS_STAGE_DENSE, false, false},
                                 {"score stage", DASS_NET_SUPERNET, DASS_STAGE_SCORE, false, false},
                                 {"finetune stage", DASS_NET_SUPERNET, DASS_STAGE_FINETUNE, false, false}};
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        dass_coverage_step *to = NULL;
        dass_status st = plan_row(c, &stages[i], &a, z);
        if (st == DASS_OK)
            st = count_plan(c, stages[i].what, &to);
        close_row(c);
        DASS_TRY(st);
    }
    return DASS_OK;
}

static dass_status run_round(coverage *c, const dass_config *cfg)
{
    uint32_t n_graphs = 0;
    DASS_TRY(list_kinds(c));
    DASS_TRY(plan_search(c, cfg));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const dass_status st = run_row(c, &rows[i]);
        close_row(c);
        DASS_TRY(st);
    }
    const dass_status st = dass__coverage_graphs_run(c->be, c->out->op_nodes, &n_graphs);
    c->out->n_graphs += n_graphs;
    return st;
}

static void sum_up(const coverage *c)
{
    dass_bench_coverage *o = c->out;
    o->n_ops_run = o->n_kinds_run = o->n_needed = o->n_needed_run = 0; /* counts are of all rounds */
    for (int op = 1; op < DASS_N_OPS; op++)
        o->n_ops_run += o->op_nodes[op] > 0;
    for (uint32_t i = 0; i < o->n_kinds; i++) {
        uint64_t needed = 0;
        for (uint32_t k = 0; k < o->n_steps; k++)
            needed += o->step[k].run ? 0 : o->step[k].of[i];
        (void)dass_backend_kernel(c->be->ops->name, i, &o->launches[i]);
        o->n_kinds_run += o->launches[i] > 0;
        o->n_needed += needed > 0;
        o->n_needed_run += needed > 0 && o->launches[i] > 0;
    }
}

static dass_status open_and_run(coverage *c, const dass_config *cfg, const char *device)
{
    DASS_TRY(dass_backend_open_for(cfg, device, &c->be));
    const dass_status st = run_round(c, cfg);
    sum_up(c);
    return st;
}

dass_status dass_bench_coverage_run(const dass_config *cfg, const char *device, dass_bench_coverage *out)
{
    static dass_config half; /* large */
    memset(out, 0, sizeof *out);
    coverage c = {.out = out, .suffix = ""};
    dass_status st = open_and_run(&c, cfg, device);
    if (st == DASS_OK && c.be->stored == c.be->ops->real && dass_backend_has(c.be->ops->name, DASS_PRECISION_BF16)) {
        dass_backend_close(c.be);
        half = *cfg;
        (void)snprintf(half.run_precision, sizeof half.run_precision, "bf16");
        c = (coverage){.out = out, .suffix = ", bf16"};
        st = open_and_run(&c, &half, device);
    }
    dass_backend_close(c.be);
    return st;
}

dass_status dass_bench_coverage_check(const char *device, const dass_bench_coverage *c)
{
    for (int op = 1; op < DASS_N_OPS; op++)
        if (c->op_nodes[op] == 0)
            return DASS_FAIL(DASS_INTERNAL,
                             "coverage: operation %s never ran on %s; add a graph to "
                             "src/bench/coverage_graphs.c",
                             dass_op_get((dass_op)op)->name, device);
    for (uint32_t i = 0; i < c->n_kinds; i++)
        if (c->launches[i] == 0)
            return DASS_FAIL(DASS_INTERNAL,
                             "coverage: %s was never launched on %s; add the shape that selects it to "
                             "src/bench/coverage_graphs.c",
                             c->kind[i], device);
    return DASS_OK;
}
