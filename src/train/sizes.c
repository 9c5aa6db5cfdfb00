/* How large a configuration is: every graph of every stage, planned and measured, nothing allocated or run. What `dass
 * plan` prints. Invariant: the graphs are those that the commands run, built by the same calls.
 */
#include <string.h>

#include "session.h"

typedef struct stage_row {
    const char *stage, *task;
    dass_stage stage_id;
    dass_task task_id;
} stage_row;

static const char *const stage_words[] = {
    [DASS_STAGE_DENSE] = "dense", [DASS_STAGE_SCORE] = "score", [DASS_STAGE_FINETUNE] = "finetune"};
static const char *const alpha_words[] = {[DASS_TASK_ALPHA] = "alpha",
                                          [DASS_TASK_UNROLL] = "unroll",
                                          [DASS_TASK_UNROLLED_ALPHA] = "unrolled",
                                          [DASS_TASK_HESSIAN_P] = "hessian+",
                                          [DASS_TASK_HESSIAN_N] = "hessian-"};
static const stage_row discrete_rows[] = {
    {"dense", "weights", DASS_STAGE_DENSE, DASS_TASK_WEIGHTS},
    {"score", "weights", DASS_STAGE_SCORE, DASS_TASK_WEIGHTS},
    {"finetune", "weights", DASS_STAGE_FINETUNE, DASS_TASK_WEIGHTS},
    {"dense", "eval", DASS_STAGE_DENSE, DASS_TASK_EVAL},
    {"finetune", "eval", DASS_STAGE_FINETUNE, DASS_TASK_EVAL},
};

static const double zeros[DASS_MAX_IMAGE_CHANNELS];
static const double ones[DASS_MAX_IMAGE_CHANNELS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* What the measuring carries around. */
typedef struct measure {
    const dass_config *cfg;
    dass_arch arch;
    dass_backend *be;
    dass_store *store;
    dass_arena *mem;
    dass_segment *segments;
    int64_t n_segments;
    uint64_t bufs;
} measure;

/* Kept counts by the policy; global's total is uniform's, and without scores that is all there is to know. */
static dass_status count_kept(measure *m, dass_sizes *out)
{
    const dass_config *c = m->cfg;
    dass_allocation policy;
    DASS_TRY(dass_allocation_parse(out->supernet ? c->search_allocation : c->prune_allocation, &policy));
    if (policy == DASS_ALLOC_GLOBAL)
        policy = DASS_ALLOC_UNIFORM;
    const double density = out->supernet ? c->search_density : c->prune_density;
    DASS_TRY(dass_density_allocate(m->store, policy, density, NULL, m->mem, &m->segments, &m->n_segments));
    for (int64_t i = 0; i < m->n_segments; ++i)
        out->kept += m->segments[i].kept;
    for (uint32_t i = 0; i < dass_store_n_params(m->store); ++i) {
        const dass_param *p = dass_store_get(m->store, i);
        if (p->group == DASS_GROUP_W && p->auxiliary)
            out->kept -= p->count;
    }
    out->density = out->count.weights > 0 ? (double)out->kept / (double)out->count.weights : 1.0;
    return DASS_OK;
}

/* ---- the largest values --------------------------------------------------------------------------------------- */

typedef struct life {
    uint32_t first, last;
} life;

/* Nodes that write or read each interval, by the value that owns it. */
static life *find_lives(const dass_graph *g, const dass_plan *plan, dass_arena *mem)
{
    life *lives = dass_arena_alloc(mem, g->n_vals * sizeof *lives);
    if (lives == NULL)
        return NULL;
    for (dass_node n = 1; n < g->n_nodes; ++n) {
        const dass_node_rec *r = &g->nodes[n];
        for (uint32_t i = 0; i < r->n_in + r->n_out; ++i) {
            const dass_val v = g->args[r->args + i];
            if (v == 0 || plan->val_offset[v] == DASS_PLAN_NOWHERE)
                continue;
            life *l = &lives[plan->val_owner[v]];
            if (l->first == 0)
                l->first = n;
            l->last = n;
        }
    }
    return lives;
}

/* Insert into a list that is sorted by falling size. */
static void keep_big(dass_sizes *out, const dass_big_value *b)
{
    uint32_t at = out->n_big;
    while (at > 0 && out->big[at - 1].bytes < b->bytes)
        --at;
    if (at >= DASS_N_BIG_VALUES)
        return;
    const uint32_t n = out->n_big < DASS_N_BIG_VALUES ? out->n_big : DASS_N_BIG_VALUES - 1;
    memmove(&out->big[at + 1], &out->big[at], (n - at) * sizeof out->big[0]);
    out->big[at] = *b;
    out->n_big = n + 1;
}

static dass_status list_big(const dass_graph *g, const dass_plan *plan, dass_sizes *out)
{
    dass_arena *mem = NULL;
    DASS_TRY(dass_arena_make("lifetimes", &mem));
    const life *lives = find_lives(g, plan, mem);
    out->n_big = 0;
    for (dass_val v = 1; lives != NULL && v < g->n_vals; ++v) {
        const dass_value *x = &g->vals[v];
        if (plan->val_offset[v] == DASS_PLAN_NOWHERE || plan->val_owner[v] != v)
            continue;
        dass_big_value b = {.bytes = dass_value_bytes(x), .first = lives[v].first, .last = lives[v].last};
        if (out->n_big == DASS_N_BIG_VALUES && b.bytes <= out->big[out->n_big - 1].bytes)
            continue;
        (void)snprintf(b.text, sizeof b.text, "%-10s (%d,%d,%d,%d) %.100s",
                       x->def != 0 ? dass_op_get(g->nodes[x->def].op)->name : "input", x->dim[0], x->dim[1], x->dim[2],
                       x->dim[3], x->name != NULL ? x->name : "");
        keep_big(out, &b);
    }
    dass_arena_free(mem);
    return lives != NULL ? DASS_OK : DASS_NOMEM;
}

/* ---- stages --------------------------------------------------------------------------------------------------- */

static dass_status measure_stage(measure *m, const stage_row *row, dass_sizes *out)
{
    dass_phase phase = dass__phase_of(m->cfg, row->task_id, row->stage_id);
    phase.mean = zeros; /* sizes do not depend on the data */
    phase.std = ones;
    if (!out->supernet && row->task_id == DASS_TASK_WEIGHTS) {
        phase.drop_path = m->cfg->train_drop_path > 0.0;
        phase.auxiliary = m->cfg->train_auxiliary;
        phase.ema = m->cfg->train_ema > 0.0 && row->stage_id != DASS_STAGE_SCORE;
    }
    phase.segments = m->segments;
    phase.n_segments = m->n_segments;
    dass_steps steps;
    DASS_TRY(dass_steps_plan(m->store, &m->arch, &phase, 1, m->be, NULL, &steps));
    const dass_plan *plan = dass_exec_plan(steps.exec[0]);
    const dass_exec_stats stats = dass_exec_get_stats(steps.exec[0]);
    m->bufs |= dass_graph_bufs(steps.graph[0]);
    DASS_ASSERT(out->n_stages < DASS_MAX_STAGE_SIZES);
    dass_stage_size *s = &out->stage[out->n_stages];
    *s = (dass_stage_size){.stage = row->stage,
                           .task = row->task,
                           .batch = phase.batch,
                           .nodes = (int64_t)steps.graph[0]->n_nodes - 1,
                           .launches_alone = stats.n_launches_alone,
                           .launches = stats.n_launches,
                           .peak_bytes = plan->peak_bytes,
                           .bound_bytes = plan->bound_bytes,
                           .sum_bytes = plan->sum_bytes};
    dass_status st = DASS_OK;
    if (out->n_stages == 0 || s->peak_bytes > out->stage[out->largest].peak_bytes) {
        out->largest = out->n_stages;
        st = list_big(steps.graph[0], plan, out);
    }
    out->n_stages++;
    if (row->stage_id == DASS_STAGE_DENSE && row->task_id != DASS_TASK_EVAL)
        out->nodes_step += s->nodes;
    dass_steps_close(&steps);
    return st;
}

/* The weights' graph of every stage, and those that move alpha there. */
static dass_status measure_supernet(measure *m, dass_sizes *out)
{
    for (int i = DASS_STAGE_DENSE; i <= DASS_STAGE_FINETUNE; ++i) {
        const dass_stage stage = (dass_stage)i;
        dass_task tasks[DASS_MAX_ALPHA_TASKS];
        const uint32_t n = dass_search_tasks(m->cfg, stage, tasks);
        stage_row row = {stage_words[i], "weights", stage, DASS_TASK_WEIGHTS};
        DASS_TRY(measure_stage(m, &row, out));
        for (uint32_t k = 0; k < n; ++k) {
            row.task = alpha_words[tasks[k]];
            row.task_id = tasks[k];
            DASS_TRY(measure_stage(m, &row, out));
        }
    }
    return DASS_OK;
}

static dass_status measure_all(measure *m, dass_sizes *out)
{
    DASS_TRY(dass_net_measure(&m->arch, DASS_LOWER_ALL, &out->count));
    DASS_TRY(dass__register_params(m->store, &m->arch, !out->supernet && m->cfg->train_auxiliary > 0.0));
    DASS_TRY(count_kept(m, out));
    if (out->supernet)
        DASS_TRY(measure_supernet(m, out));
    for (size_t i = 0; !out->supernet && i < sizeof discrete_rows / sizeof *discrete_rows; ++i)
        DASS_TRY(measure_stage(m, &discrete_rows[i], out));
    for (dass_buf b = 1; b < DASS_N_BUFS; ++b) {
        if (!(m->bufs >> b & 1))
            continue;
        size_t *to = dass_buf_is_input(b) ? &out->input_bytes : &out->param_bytes;
        *to += dass_store_buf_bytes(m->store, b);
    }
    return DASS_OK;
}

dass_status dass_sizes_measure(const dass_config *c, const char *device, dass_sizes *out)
{
    memset(out, 0, sizeof *out);
    measure m = {.cfg = c};
    DASS_TRY(dass_config_check(c));
    DASS_TRY(dass_arch_from_config(c, &m.arch));
    out->supernet = m.arch.kind == DASS_NET_SUPERNET;
    out->batch = (int32_t)c->train_batch;
    dass__network_text(&m.arch, out->network, sizeof out->network);
    (void)snprintf(out->backend, sizeof out->backend, "%.15s", device);
    (void)snprintf(out->precision, sizeof out->precision, "%.7s", c->run_precision);
    dass_status st = DASS_OK;
    DASS_TRY_TO(dass_arena_make("sizes", &m.mem), st, out);
    DASS_TRY_TO(dass_backend_open_for(c, device, &m.be), st, out);
    DASS_TRY_TO(dass_store_make(m.be->ops->real, &m.store), st, out);
    DASS_TRY_TO(measure_all(&m, out), st, out);
out:
    dass_store_free(m.store);
    dass_backend_close(m.be);
    dass_arena_free(m.mem);
    return st;
}
