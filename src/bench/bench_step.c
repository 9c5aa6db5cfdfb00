/* One step of search or training, timed: the same graphs, inputs and order as in the loop of src/train, on random
 * images. Invariant: time is taken around whole steps (batch, step block, run, scalars read) after warm-up; the profile
 * of single operations is a run of its own and changes no step time.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_private.h"
#include "dass/clock.h"
#include "dass/data.h"
#include "dass/step.h"

#define N_WARM 2
#define MIN_REPEATS 5
#define MAX_REPEATS 400
#define ENOUGH_SEC 15.0 /* no more repeats after this long */
#define N_PROFILES 3
#define MIN_IN_PLACE 3 /* steps timed node by node */
#define MAX_IN_PLACE 50
#define IN_PLACE_SEC 3.0 /* no more of them after this long */
#define N_BATCHES 4      /* of different random images */

typedef struct bench {
    const dass_config *cfg;
    const dass_exec_options *exec;
    dass_peak_size peak;
    double enough_sec;
    dass_arch arch;
    dass_stage stage;
    bool search;      /* a supernet; otherwise a network that is trained and pruned */
    uint32_t n_alpha; /* graphs that move alpha, before the weights' */
    dass_backend *be;
    dass_dataset *data;
    dass_store *store;
    dass_arena *mem;
    dass_steps steps;
    dass_source *source;
    dass_resident resident; /* n = 0: batches are copied */
    dass_step_block block;
} bench;

static const char *const stage_words[] = {"dense", "score", "finetune"};

static dass_status find_stage(const char *word, dass_stage *out)
{
    for (int i = 0; i < 3; ++i) {
        if (strcmp(word, stage_words[i]) != 0)
            continue;
        *out = (dass_stage)i;
        return DASS_OK;
    }
    return DASS_FAIL(DASS_ARG, "--stage %s: not dense, score or finetune", word);
}

/* ---- opening -------------------------------------------------------------------------------------------------- */

static dass_status open_data(bench *b)
{
    const dass_config *c = b->cfg;
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass_dataset), "data set", &block));
    b->data = block;
    *b->data = (dass_dataset){
        .name = "random", .h = b->arch.image, .w = b->arch.image, .c = b->arch.in_channels, .classes = b->arch.classes};
    for (int i = 0; i < DASS_MAX_IMAGE_CHANNELS; ++i) {
        b->data->mean[i] = 0.5;
        b->data->std[i] = 0.29;
    }
    DASS_TRY(dass_random_load((uint64_t)c->run_seed, N_BATCHES * c->train_batch, 1, b->data));
    const dass_source_options opt = {.batch = (int32_t)c->train_batch,
                                     .seed = (uint64_t)c->run_seed,
                                     .name = "bench",
                                     .shuffle = true};
    DASS_TRY(dass_source_make(b->data, &b->data->train, NULL, b->data->train.n, &opt, &b->source));
    return DASS_OK;
}

static size_t image_bytes(const bench *b)
{
    return (size_t)b->data->h * (size_t)b->data->w * (size_t)b->data->c;
}

/* As the commands would: the batches lie on the device, or are copied there. */
static dass_status choose_resident(bench *b)
{
    bool resident = false;
    const int32_t n = (int32_t)b->data->train.n;
    DASS_TRY(dass_resident_choose(b->cfg, b->be, n, image_bytes(b), "bench", &resident));
    b->resident = (dass_resident){.n = resident ? n : 0, .length = n};
    return DASS_OK;
}

static dass_status fill_data_set(bench *b)
{
    const dass_part *part = &b->data->train;
    if (b->resident.n == 0)
        return DASS_OK;
    int32_t *order = dass_arena_alloc(b->mem, (size_t)part->n * sizeof *order);
    if (order == NULL)
        return DASS_NOMEM;
    DASS_TRY(
        dass_resident_write(b->store, b->be, b->resident, b->n_alpha > 0, part->images, image_bytes(b), part->labels));
    DASS_TRY(dass_source_order(b->source, 0, N_BATCHES, order));
    DASS_TRY(dass_store_write(b->store, DASS_BUF_ORDER, order, (size_t)part->n * sizeof *order));
    if (b->n_alpha == 0)
        return DASS_OK;
    DASS_TRY(dass_source_order(b->source, 1, N_BATCHES, order));
    return dass_store_write(b->store, DASS_BUF_VAL_ORDER, order, (size_t)part->n * sizeof *order);
}

static void set_block(bench *b)
{
    const dass_config *c = b->cfg;
    const bool masked = b->stage == DASS_STAGE_FINETUNE;
    const double lr = b->search ? c->search_lr : masked ? c->prune_lr_finetune : c->train_lr;
    const double decay = b->search ? c->search_weight_decay : c->train_weight_decay;
    b->block = (dass_step_block){
        .lr = {lr, lr, b->search ? c->search_lr_score : c->prune_lr_score, c->search_alpha_lr},
        .weight_decay = {decay, decay, decay, c->search_alpha_weight_decay},
        .momentum = b->search ? c->search_momentum : c->train_momentum,
        .clip = b->search ? c->search_clip : c->train_clip,
        .beta1 = c->search_alpha_beta1,
        .beta2 = c->search_alpha_beta2,
        .adam_eps = 1e-8,
        .xi = lr,
        .seed = (uint64_t)c->run_seed,
    };
}

/* Parameters with values, and scores with a mask where the stage has one. */
static dass_status fill_store(bench *b, const dass_segment *segments, int64_t n_segments)
{
    DASS_TRY(dass_store_init(b->store, (uint64_t)b->cfg->run_seed));
    if (b->stage == DASS_STAGE_DENSE)
        return DASS_OK;
    dass_graph *g = NULL;
    dass_steps threshold;
    DASS_TRY(dass_store_commit(b->store, b->be, (uint64_t)1 << DASS_BUF_SCORE));
    DASS_TRY(dass_store_init_scores(b->store));
    DASS_TRY(dass_threshold_build(b->store, segments, n_segments, b->be->ops->real, &g));
    DASS_TRY(dass_steps_wrap(g, b->be, NULL, &threshold));
    dass_status st = dass_steps_bind(b->store, &threshold);
    if (st == DASS_OK)
        st = dass_steps_run(b->store, &threshold, 0, &b->block, NULL, NULL);
    dass_steps_close(&threshold);
    return st;
}

/* A graph of the step as the loop of src/train asks for it. */
static dass_phase phase_of(const bench *b, dass_stage stage, dass_task task)
{
    const dass_config *c = b->cfg;
    dass_phase p = {.task = task,
                    .stage = stage,
                    .inputs = dass_task_validates(task) ? DASS_INPUTS_VALIDATION : DASS_INPUTS_MAIN,
                    .resident = b->resident,
                    .batch = (int32_t)c->train_batch,
                    .lower = DASS_LOWER_ALL,
                    .pad = (int32_t)c->data_pad,
                    .flip = c->data_flip,
                    .cutout = (int32_t)c->data_cutout,
                    .mean = b->data->mean,
                    .std = b->data->std};
    if (!b->search) {
        p.label_smoothing = c->train_label_smoothing;
        p.drop_path = c->train_drop_path > 0.0;
        p.auxiliary = c->train_auxiliary;
        p.ema = c->train_ema > 0.0 && stage != DASS_STAGE_SCORE;
    }
    return p;
}

/* Learn the parameters from a graph that is dropped, so that the table of kept counts can be made. */
static dass_status make_segments(bench *b, dass_segment **segments, int64_t *n_segments)
{
    const dass_config *c = b->cfg;
    dass_graph *g = NULL;
    const dass_phase phase = phase_of(b, DASS_STAGE_DENSE, DASS_TASK_WEIGHTS);
    DASS_TRY(dass_phase_build(b->store, &b->arch, &phase, b->be->ops->real, b->be, &g));
    dass_graph_free(g);
    dass_allocation policy;
    DASS_TRY(dass_allocation_parse(b->search ? c->search_allocation : c->prune_allocation, &policy));
    if (policy == DASS_ALLOC_GLOBAL)
        policy = DASS_ALLOC_UNIFORM; /* no trained scores to rank; the time is the same */
    DASS_TRY(dass_density_allocate(b->store, policy, b->search ? c->search_density : c->prune_density, NULL, b->mem,
                                   segments, n_segments));
    return DASS_OK;
}

static dass_status open_bench(bench *b)
{
    const dass_config *c = b->cfg;
    dass_segment *segments = NULL;
    int64_t n_segments = 0;
    DASS_TRY(dass_arch_from_config(c, &b->arch));
    b->search = b->arch.kind == DASS_NET_SUPERNET;
    DASS_TRY(dass_arena_make("bench", &b->mem));
    DASS_TRY(open_data(b));
    DASS_TRY(dass_backend_open_for(c, c->run_device, &b->be));
    DASS_TRY(dass_store_make(b->be->ops->real, &b->store));
    DASS_TRY(make_segments(b, &segments, &n_segments));
    DASS_TRY(choose_resident(b));
    dass_task task[DASS_MAX_ALPHA_TASKS + 1];
    dass_phase phase[DASS_MAX_ALPHA_TASKS + 1];
    b->n_alpha = b->search ? dass_search_tasks(c, b->stage, task) : 0;
    task[b->n_alpha] = DASS_TASK_WEIGHTS;
    for (uint32_t i = 0; i <= b->n_alpha; ++i) {
        phase[i] = phase_of(b, b->stage, task[i]);
        phase[i].segments = segments;
        phase[i].n_segments = n_segments;
    }
    DASS_TRY(dass_steps_plan(b->store, &b->arch, phase, b->n_alpha + 1, b->be, b->exec, &b->steps));
    DASS_TRY(dass_steps_bind(b->store, &b->steps));
    set_block(b);
    DASS_TRY(fill_store(b, segments, n_segments));
    DASS_TRY(fill_data_set(b));
    return DASS_OK;
}

static void close_bench(bench *b)
{
    dass_steps_close(&b->steps);
    dass_source_free(b->source);
    dass_store_free(b->store);
    dass_backend_close(b->be);
    dass_dataset_free(b->data);
    dass_arena_free(b->mem);
}

/* ---- steps ---------------------------------------------------------------------------------------------------- */

static void next_batches(bench *b)
{
    b->block.position = (b->block.position + 1) % N_BATCHES;
}

static dass_status feed(bench *b, dass_inputs to)
{
    dass_batch batch;
    if (b->resident.n > 0)
        return DASS_OK; /* next_batches has said which */
    DASS_TRY(dass_source_next(b->source, &batch));
    DASS_TRY(dass_steps_feed(b->store, to, batch.images, batch.image_bytes, batch.labels, batch.samples, batch.rows));
    return DASS_OK;
}

static dass_status check_loss(const bench *b, double loss)
{
    return isfinite(loss) ? DASS_OK : DASS_FAIL(DASS_NUMERIC, "bench: step %u: the loss is %g", b->block.step, loss);
}

/* Both batches, as far as the step reads them. */
static dass_status feed_step(bench *b)
{
    next_batches(b);
    if (b->n_alpha > 0) {
        b->block.adam_step += 1.0;
        DASS_TRY(feed(b, DASS_INPUTS_VALIDATION));
    }
    return feed(b, DASS_INPUTS_MAIN);
}

/* As the training loop does it: batches in, everything as one program, the scalars out. */
static dass_status whole_step(bench *b, double *sec)
{
    double scalar[4] = {0};
    const double began = dass_now_sec();
    DASS_TRY(feed_step(b));
    DASS_TRY(dass_steps_run_all(b->store, &b->steps, &b->block, &scalar[0], &scalar[1], &scalar[2], &scalar[3]));
    *sec = dass_now_sec() - began;
    b->block.step++;
    return check_loss(b, scalar[0]);
}

/* The graphs that move alpha, one by one, or the weights' alone. Only a graph with a batch of its own has a loss to
 * look at; those of the second order read the training batch again. */
static dass_status part_step(bench *b, bool alpha, double *sec)
{
    const double began = dass_now_sec();
    DASS_TRY(feed_step(b));
    for (uint32_t i = alpha ? 0 : b->n_alpha; i < (alpha ? b->n_alpha : b->steps.n); ++i) {
        double loss = 0.0;
        double correct = 0.0;
        const bool says = !alpha || b->steps.inputs[i] == DASS_INPUTS_VALIDATION;
        DASS_TRY(dass_steps_run(b->store, &b->steps, i, &b->block, says ? &loss : NULL, says ? &correct : NULL));
        DASS_TRY(check_loss(b, loss));
    }
    *sec = dass_now_sec() - began;
    return DASS_OK;
}

static void summarise(double *sec, int n, double *median_ms, double *p90_ms)
{
    dass__times_sort(sec, n);
    *median_ms = dass__times_quantile_ms(sec, n, 0.5);
    *p90_ms = dass__times_quantile_ms(sec, n, 0.9);
}

static dass_status time_whole(bench *b, dass_bench_step *out)
{
    double sec[MAX_REPEATS];
    for (int i = 0; i < N_WARM; ++i)
        DASS_TRY(whole_step(b, &sec[0]));
    const double began = dass_now_sec();
    int n = 0;
    while (n < MAX_REPEATS && (n < MIN_REPEATS || dass_now_sec() - began < b->enough_sec))
        DASS_TRY(whole_step(b, &sec[n++]));
    out->n_repeats = n;
    summarise(sec, n, &out->step_ms, &out->step_p90_ms);
    out->images_per_s = 1e3 * (double)b->cfg->train_batch / out->step_ms;
    return DASS_OK;
}

static dass_status time_part(bench *b, bool alpha, double *median_ms)
{
    double sec[MIN_REPEATS];
    double p90_ms = 0.0;
    for (int k = 0; k < N_WARM; ++k)
        DASS_TRY(part_step(b, alpha, &sec[0]));
    for (int k = 0; k < MIN_REPEATS; ++k)
        DASS_TRY(part_step(b, alpha, &sec[k]));
    summarise(sec, MIN_REPEATS, median_ms, &p90_ms);
    return DASS_OK;
}

/* The parts last: they let alpha and the weights go different numbers of steps. */
static dass_status time_steps(bench *b, dass_bench_step *out)
{
    DASS_TRY(time_whole(b, out));
    out->weight_step_ms = out->step_ms;
    if (b->n_alpha == 0)
        return DASS_OK;
    DASS_TRY(time_part(b, true, &out->arch_step_ms));
    return time_part(b, false, &out->weight_step_ms);
}

/* ---- operations ----------------------------------------------------------------------------------------------- */

static int by_time(const void *a, const void *b)
{
    const double x = ((const dass_bench_row *)a)->in_place_sec;
    const double y = ((const dass_bench_row *)b)->in_place_sec;
    return x > y ? -1 : x < y;
}

/* Add node n to its operation's row. Depthwise convolutions are a kind of their own: other kernels run them. */
static void add_op(dass_bench_step *out, const dass_graph *g, dass_node n, double sec, double in_place_sec)
{
    const dass_node_rec *r = &g->nodes[n];
    const bool is_conv = r->op == DASS_OP_CONV || r->op == DASS_OP_CONV_BWD_DATA || r->op == DASS_OP_CONV_BWD_WEIGHTS;
    char name[64];
    (void)snprintf(name, sizeof name, "%s%s", dass_op_get(r->op)->name,
                   is_conv && r->attr.conv.groups > 1 ? " depthwise" : "");
    uint32_t i = 0;
    while (i < out->n_ops && strcmp(out->op[i].name, name) != 0)
        ++i;
    if (i == DASS_BENCH_MAX_OPS)
        return;
    dass_bench_row *row = &out->op[i];
    if (i == out->n_ops) {
        out->n_ops++;
        (void)snprintf(row->name, sizeof row->name, "%s", name);
    }
    const dass_cost cost = dass_node_cost(g, n);
    row->count++;
    row->sec += sec;
    row->in_place_sec += in_place_sec;
    row->flops += cost.flops;
    row->bytes += cost.bytes;
    out->ops_sec += sec;
    out->ops_in_place_sec += in_place_sec;
}

/* What one launch does: cost is that of all its nodes. */
static void add_top(dass_bench_step *out, const dass_exec *e, dass_node n, int64_t n_nodes, dass_cost cost, double sec,
                    double in_place_sec)
{
    const dass_graph *g = dass_exec_graph(e);
    uint32_t at = out->n_top;
    while (at > 0 && out->top[at - 1].in_place_sec < in_place_sec)
        --at;
    if (at >= DASS_BENCH_TOP)
        return;
    const uint32_t keep = out->n_top < DASS_BENCH_TOP ? out->n_top : DASS_BENCH_TOP - 1;
    memmove(&out->top[at + 1], &out->top[at], (keep - at) * sizeof out->top[0]);
    dass_bench_row *row = &out->top[at];
    *row = (dass_bench_row){
        .count = n_nodes, .sec = sec, .in_place_sec = in_place_sec, .flops = cost.flops, .bytes = cost.bytes};
    char line[256];
    dass_node_print(g, n, line, sizeof line);
    (void)snprintf(row->name, sizeof row->name, "%-24s %.170s", dass_exec_kernel_name(e, n), line);
    out->n_top = keep + 1;
}

/* One step as the loop runs it, but each launch with its time; sec[i] has an entry for every node of graph i. */
static dass_status step_in_place(bench *b, double *const *sec)
{
    DASS_TRY(feed_step(b));
    DASS_TRY(dass_store_write(b->store, DASS_BUF_STEP, &b->block, sizeof b->block));
    for (uint32_t i = 0; i < b->steps.n; ++i)
        DASS_TRY(dass_program_profile_in_place(b->steps.program, i, sec[i]));
    b->block.step++;
    return DASS_OK;
}

/* Medians per node; median[i] has an entry for every node of graph i. */
static dass_status profile_in_place(bench *b, double **median, int *n_steps)
{
    size_t n_nodes = 0; /* of all graphs; those of graph i begin where those before end */
    for (uint32_t i = 0; i < b->steps.n; ++i)
        n_nodes += b->steps.graph[i]->n_nodes;
    double *all = dass_arena_alloc(b->mem, MAX_IN_PLACE * n_nodes * sizeof *all);
    double *middle = dass_arena_alloc(b->mem, n_nodes * sizeof *middle);
    if (all == NULL || middle == NULL)
        return DASS_NOMEM;
    const double began = dass_now_sec();
    int n = 0;
    while (n < MAX_IN_PLACE && (n < MIN_IN_PLACE || dass_now_sec() - began < IN_PLACE_SEC)) {
        double *sec[DASS_MAX_STEPS];
        double *at = all + (size_t)n * n_nodes;
        for (uint32_t i = 0; i < b->steps.n; at += b->steps.graph[i++]->n_nodes)
            sec[i] = at;
        DASS_TRY(step_in_place(b, sec));
        n++;
    }
    for (size_t k = 0; k < n_nodes; ++k) {
        double of_node[MAX_IN_PLACE];
        for (int s = 0; s < n; ++s)
            of_node[s] = all[(size_t)s * n_nodes + k];
        dass__times_sort(of_node, n);
        middle[k] = 1e-3 * dass__times_quantile_ms(of_node, n, 0.5);
    }
    for (uint32_t i = 0; i < b->steps.n; middle += b->steps.graph[i++]->n_nodes)
        median[i] = middle;
    *n_steps = n;
    return DASS_OK;
}

/* The least of several profiles per node: what shares the machine only ever adds. */
static dass_status best_profile(bench *b, uint32_t i, uint32_t n_nodes, double *best)
{
    double *sec = dass_arena_alloc(b->mem, n_nodes * sizeof *sec);
    if (sec == NULL)
        return DASS_NOMEM;
    for (int k = 0; k < N_PROFILES; ++k) {
        DASS_TRY(dass_program_profile(b->steps.program, i, sec));
        for (dass_node n = 1; n < n_nodes; ++n)
            if (k == 0 || sec[n] < best[n])
                best[n] = sec[n];
    }
    return DASS_OK;
}

static dass_status profile_graph(bench *b, uint32_t i, const double *in_place, dass_bench_step *out)
{
    const dass_graph *g = b->steps.graph[i];
    const dass_exec *e = b->steps.exec[i];
    double *sec = dass_arena_alloc(b->mem, g->n_nodes * sizeof *sec);
    dass_node *leader = dass_arena_alloc(b->mem, g->n_nodes * sizeof *leader);
    dass_cost *cost = dass_arena_alloc(b->mem, g->n_nodes * sizeof *cost);
    int64_t *count = dass_arena_alloc(b->mem, g->n_nodes * sizeof *count);
    if (sec == NULL || leader == NULL || cost == NULL || count == NULL)
        return DASS_NOMEM;
    memset(cost, 0, g->n_nodes * sizeof *cost);
    memset(count, 0, g->n_nodes * sizeof *count);
    DASS_TRY(best_profile(b, i, g->n_nodes, sec));
    dass_exec_leaders(e, leader);
    for (dass_node n = 1; n < g->n_nodes; ++n) {
        const dass_cost one = dass_node_cost(g, n);
        cost[leader[n]].flops += one.flops;
        cost[leader[n]].bytes += one.bytes;
        count[leader[n]]++;
        add_op(out, g, n, sec[n], in_place[n]);
    }
    for (dass_node n = 1; n < g->n_nodes; ++n)
        if (leader[n] == n)
            add_top(out, e, n, count[n], cost[n], sec[n], in_place[n]);
    return DASS_OK;
}

static dass_status profile(bench *b, dass_bench_step *out)
{
    double *in_place[DASS_MAX_STEPS];
    DASS_TRY(profile_in_place(b, in_place, &out->n_in_place)); /* first: the other leaves values that mean nothing */
    for (uint32_t i = 0; i < b->steps.n; ++i)
        DASS_TRY(profile_graph(b, i, in_place[i], out));
    qsort(out->op, out->n_ops, sizeof out->op[0], by_time);
    out->has_ops = true;
    return DASS_OK;
}

/* The machine's ceilings once more, and the better of both: what shares the machine comes and goes. A device that
 * records is not the processor. */
static dass_status better_peak(bench *b, dass_peak *best)
{
    dass_peak p;
    if (b->be->ops->capture_begin != NULL)
        DASS_TRY(dass_peak_measure_device(b->be, b->peak, &p));
    else
        DASS_TRY(dass_peak_measure((int)b->cfg->run_threads, &p));
    if (best->gflops > p.gflops)
        p.gflops = best->gflops;
    if (best->read_gbs > p.read_gbs)
        p.read_gbs = best->read_gbs;
    if (best->copy_gbs > p.copy_gbs)
        p.copy_gbs = best->copy_gbs;
    *best = p;
    return DASS_OK;
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

static dass_status measure(bench *b, bool ops, dass_bench_step *out)
{
    DASS_TRY(open_bench(b));
    switch (b->arch.kind) {
    case DASS_NET_SUPERNET:
        (void)snprintf(out->network, sizeof out->network, "supernet");
        break;
    case DASS_NET_CELLS:
        (void)snprintf(out->network, sizeof out->network, "cells");
        break;
    case DASS_NET_MOBILENET_V2:
        (void)snprintf(out->network, sizeof out->network, "mobilenet_v2");
        break;
    case DASS_NET_RESNET18:
        (void)snprintf(out->network, sizeof out->network, "resnet18");
        break;
    }
    for (uint32_t i = 0; i < b->steps.n; ++i)
        out->nodes += (int64_t)b->steps.graph[i]->n_nodes - 1;
    for (dass_buf f = 1; f < DASS_N_BUFS; ++f)
        if (dass_buf_is_input(f) && dass_store_ptrs(b->store)[f] != NULL)
            out->input_bytes += dass_store_buf_bytes(b->store, f);
    out->planned_bytes = dass_program_arena_bytes(b->steps.program);
    out->groups_bytes = dass_store_bytes(b->store) - out->input_bytes;
    dass_mem_seal(true);
    const dass_status st = time_steps(b, out);
    dass_mem_seal(false);
    DASS_TRY(st);
    out->peak_rss_bytes = dass_mem_peak_rss(); /* before the peak measurement takes memory of its own */
    if (!ops)
        return DASS_OK;
    DASS_TRY(better_peak(b, &out->peak));
    DASS_TRY(profile(b, out));
    DASS_TRY(better_peak(b, &out->peak));
    return DASS_OK;
}

dass_status dass_bench_step_run(const dass_config *c, const dass_bench_step_options *opt, dass_bench_step *out)
{
    memset(out, 0, sizeof *out);
    bench b = {.cfg = c, .exec = &opt->exec, .peak = opt->peak.rows > 0 ? opt->peak : DASS_PEAK_SIZE};
    b.enough_sec = opt->enough_sec > 0 ? opt->enough_sec : ENOUGH_SEC;
    DASS_TRY(dass_config_check(c));
    DASS_TRY(find_stage(opt->stage, &b.stage));
    out->stage = stage_words[b.stage];
    out->batch = (int32_t)c->train_batch;
    const dass_status st = measure(&b, opt->ops, out);
    close_bench(&b);
    return st;
}
