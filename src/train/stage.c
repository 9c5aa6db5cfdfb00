/* The training loop: epochs of steps over bound graphs, schedules, and what people and metrics.jsonl get to see. One
 * loop serves search, train and prune; they differ in the stages they ask for. Invariant: between two epoch ends
 * nothing is allocated, and alpha is written by the alpha graph alone.
 */
#include <math.h>
#include <string.h>
#include <time.h>

#include "session.h"

#define STUCK_PART 0.005 /* a mean loss this close to ln(classes), relatively, is no better than guessing */

#define STUCK_STEPS 20 /* fewer say nothing */

/* Sums over the steps of an epoch. */
typedef struct epoch_sums {
    int64_t e, n_steps, done;
    double train_loss, train_correct, val_loss, val_correct; /* sums over steps */
    double rows;                                             /* images per step */
    double began;
} epoch_sums;

double dass_cosine(double peak, double min, int64_t e, int64_t n)
{
    return n > 0 ? min + 0.5 * (peak - min) * (1.0 + cos(acos(-1.0) * (double)e / (double)n)) : peak;
}

double dass_alpha_entropy(const double *alpha, int64_t n_rows, int32_t n_cols)
{
    double sum = 0.0;
    for (int64_t r = 0; r < n_rows; ++r) {
        const double *a = alpha + r * n_cols;
        double largest = a[0];
        double z = 0.0;
        double mean = 0.0;
        for (int32_t i = 1; i < n_cols; ++i)
            largest = fmax(largest, a[i]);
        for (int32_t i = 0; i < n_cols; ++i) {
            const double p = exp(a[i] - largest);
            z += p;
            mean += p * (a[i] - largest);
        }
        sum += log(z) - mean / z; /* H = ln z - sum p ln p, with p unnormalised */
    }
    return n_rows > 0 ? sum / (double)n_rows : 0.0;
}

static double now_sec(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- one step ------------------------------------------------------------------------------------------------- */

static dass_status check_loss(const dass__session *s, const dass__stage *stage, const epoch_sums *sums, double loss,
                              const char *what)
{
    if (isfinite(loss))
        return DASS_OK;
    return DASS_FAIL(DASS_NUMERIC,
                     "%s: %s stage, epoch %lld, step %lld: the %s loss is %g: lower the learning rate, or "
                     "run with --guard to see which operation made it",
                     s->command, stage->name, (long long)sums->e + 1, (long long)sums->done + 1, what, loss);
}

/* Phase 0 of `steps` trains weights or scores, phase 1 alpha; alpha goes first and sees the weights before the step. */
static dass_status run_step(dass__session *s, const dass__stage *stage, dass_steps *steps, dass_source *weights,
                            dass_source *validation, epoch_sums *sums)
{
    double loss = 0.0;
    double correct = 0.0;
    dass_batch batch;
    if (stage->alpha) {
        DASS_TRY(dass__feed(s, validation, &batch));
        s->block.adam_step += 1.0;
        DASS_TRY(dass_steps_run(s->store, steps, 1, &s->block, &loss, &correct));
        DASS_TRY(check_loss(s, stage, sums, loss, "validation"));
        sums->val_loss += loss;
        sums->val_correct += correct;
    }
    DASS_TRY(dass__feed(s, weights, &batch));
    DASS_TRY(dass_steps_run(s->store, steps, 0, &s->block, &loss, &correct));
    DASS_TRY(check_loss(s, stage, sums, loss, "training"));
    sums->train_loss += loss;
    sums->train_correct += correct;
    sums->done++;
    s->block.step++;
    return DASS_OK;
}

/* ---- schedules ------------------------------------------------------------------------------------------------ */

static void set_rates(dass__session *s, const dass__stage *stage, int64_t e)
{
    const dass_config *c = s->cfg;
    const bool search = strcmp(s->command, "search") == 0;
    dass_step_block *b = &s->block;
    const double wd = search ? c->search_weight_decay : c->train_weight_decay;
    const double peak[3] = {stage->lr_weights, stage->lr_af, stage->lr_scores};
    for (int i = 0; i < 3; ++i) {
        b->lr[i] = peak[i] > 0.0 ? dass_cosine(peak[i], fmin(stage->lr_min, peak[i]), e, stage->epochs) : 0.0;
        b->weight_decay[i] = wd;
    }
    b->lr[3] = c->search_alpha_lr;
    b->weight_decay[3] = c->search_alpha_weight_decay;
    b->momentum = search ? c->search_momentum : c->train_momentum;
    b->clip = search ? c->search_clip : c->train_clip;
    b->beta1 = c->search_alpha_beta1;
    b->beta2 = c->search_alpha_beta2;
    b->adam_eps = 1e-8;
    b->epoch = (uint32_t)s->epochs_done;
    b->valid = 0;
}

static double shown_rate(const dass__session *s, const dass__stage *stage)
{
    return stage->stage == DASS_STAGE_SCORE ? s->block.lr[2] : s->block.lr[0];
}

/* ---- what people see ------------------------------------------------------------------------------------------ */

static double entropy_now(const dass__session *s)
{
    return dass_alpha_entropy(s->alpha, dass_store_count(s->store, DASS_GROUP_ALPHA) / DASS_N_PRIMS, DASS_N_PRIMS);
}

static void show(const dass__session *s, const dass__stage *stage, const epoch_sums *m, double entropy, bool done)
{
    if (s->opt->quiet || m->done == 0)
        return;
    const double n = (double)m->done;
    const double sec = now_sec() - m->began;
    char validation[64] = "";
    char alpha[32] = "";
    const double correct = stage->alpha ? m->val_correct : m->train_correct;
    if (stage->alpha)
        (void)snprintf(validation, sizeof validation, " val %.4f", m->val_loss / n);
    if (s->alpha != NULL)
        (void)snprintf(alpha, sizeof alpha, " | H(a) %.2f", entropy);
    dass_log_progress(done,
                      "%s  %s e %lld/%lld  s %lld/%lld | train %.4f%s top1 %.1f%%%s | lr %.1e | %.0f ms %.0f img/s",
                      s->command, stage->name, (long long)m->e + 1, (long long)stage->epochs, (long long)m->done,
                      (long long)m->n_steps, m->train_loss / n, validation, 100.0 * correct / (n * m->rows), alpha,
                      shown_rate(s, stage), 1e3 * sec / n, n * m->rows / sec);
}

static int64_t count_skips(const dass_gene *genes, int32_t n_nodes)
{
    int64_t n = 0;
    for (int32_t i = 0; i < 2 * n_nodes; ++i)
        n += genes[i].op == DASS_PRIM_SKIP;
    return n;
}

/* Alpha's part of an epoch's line: entropy, the genotype it would give now, and its skip connections. */
static dass_status add_alpha(const dass__session *s, json_t *line, dass_genotype *g)
{
    const int32_t rows = dass_n_edges(s->arch.nodes);
    DASS_TRY(dass_genotype_derive(s->alpha, s->alpha + (size_t)rows * DASS_N_PRIMS, s->arch.nodes, g));
    dass_arena *mem = NULL;
    DASS_TRY(dass_arena_make("genotype", &mem));
    const char *text = dass_genotype_print(g, mem);
    int bad = text == NULL;
    bad |= json_object_set_new(line, "alpha_entropy", json_real(entropy_now(s)));
    bad |= json_object_set_new(line, "skips_normal", json_integer(count_skips(g->normal, g->n_nodes)));
    bad |= json_object_set_new(line, "skips_reduce", json_integer(count_skips(g->reduce, g->n_nodes)));
    if (text != NULL)
        bad |= json_object_set_new(line, "genotype", json_loads(text, 0, NULL));
    dass_arena_free(mem);
    return bad ? DASS_FAIL(DASS_NOMEM, "no memory for a line of metrics") : DASS_OK;
}

static dass_status record(dass__session *s, const dass__stage *stage, const epoch_sums *m)
{
    const double n = (double)m->done;
    const double sec = now_sec() - m->began;
    json_t *line =
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "command", s->command, "stage", stage->name,
                  "epoch", (json_int_t)m->e + 1, "epochs", (json_int_t)stage->epochs, "steps", (json_int_t)m->done,
                  "train_loss", m->train_loss / n, "train_top1", m->train_correct / (n * m->rows), "lr",
                  shown_rate(s, stage), "seconds", sec, "images_per_s", n * m->rows / sec);
    if (line == NULL)
        return DASS_FAIL(DASS_NOMEM, "no memory for a line of metrics");
    if (stage->alpha) {
        (void)json_object_set_new(line, "val_loss", json_real(m->val_loss / n));
        (void)json_object_set_new(line, "val_top1", json_real(m->val_correct / (n * m->rows)));
    }
    if (s->alpha != NULL) {
        dass_genotype g;
        const dass_status st = add_alpha(s, line, &g);
        if (st != DASS_OK) {
            json_decref(line);
            return st;
        }
        if (!s->opt->quiet)
            dass_log(DASS_LOG_INFO, "%s: %s epoch %lld: H(alpha) %.3f, skip connections %lld normal, %lld reduce",
                     s->command, stage->name, (long long)m->e + 1, entropy_now(s),
                     (long long)count_skips(g.normal, g.n_nodes), (long long)count_skips(g.reduce, g.n_nodes));
    }
    DASS_TRY(dass__metrics_line(s, line));
    return DASS_OK;
}

/* A network that a mask or a rate has silenced gives every class the same chance: ln(classes). */
static void warn_stuck(const dass__session *s, const dass__stage *stage, const epoch_sums *m, bool *warned)
{
    const double guess = log((double)s->arch.classes);
    const double loss = m->train_loss / (double)m->done;
    if (*warned || m->done < STUCK_STEPS || fabs(loss - guess) > STUCK_PART * guess)
        return;
    *warned = true;
    dass_log(DASS_LOG_WARN, "%s: %s stage, epoch %lld: the mean loss %.4f is ln(%d) = %.4f, that of guessing: %s",
             s->command, stage->name, (long long)m->e + 1, loss, s->arch.classes, guess,
             stage->stage == DASS_STAGE_DENSE ? "the learning rate may be too high or far too low"
                                              : "the mask may have cut every path; try a larger density or the floor "
                                                "allocation");
}

/* ---- epochs --------------------------------------------------------------------------------------------------- */

static dass_status run_epoch(dass__session *s, const dass__stage *stage, dass_steps *steps, dass_source *weights,
                             dass_source *validation, epoch_sums *m)
{
    const double entropy = s->alpha != NULL ? entropy_now(s) : 0.0;
    m->began = now_sec();
    dass_source_start(weights, (uint32_t)s->epochs_done);
    if (stage->alpha)
        dass_source_start(validation, (uint32_t)s->epochs_done);
    while (m->done < m->n_steps) {
        DASS_TRY(run_step(s, stage, steps, weights, validation, m));
        if (m->done < m->n_steps)
            show(s, stage, m, entropy, false);
    }
    return DASS_OK;
}

static dass_status run_epochs(dass__session *s, const dass__stage *stage, dass_steps *steps, dass_source *weights,
                              dass_source *validation)
{
    bool warned = false;
    for (int64_t e = 0; e < stage->epochs; ++e) {
        epoch_sums m = {.e = e, .n_steps = dass_source_steps(weights), .rows = (double)s->cfg->train_batch};
        set_rates(s, stage, e);
        dass_mem_seal(true);
        const dass_status st = run_epoch(s, stage, steps, weights, validation, &m);
        dass_mem_seal(false);
        DASS_TRY(st);
        if (s->alpha != NULL)
            DASS_TRY(
                dass_store_read_real(s->store, DASS_BUF_ALPHA, s->alpha, dass_store_count(s->store, DASS_GROUP_ALPHA)));
        show(s, stage, &m, s->alpha != NULL ? entropy_now(s) : 0.0, true);
        DASS_TRY(record(s, stage, &m));
        warn_stuck(s, stage, &m, &warned);
        s->epochs_done++;
    }
    return DASS_OK;
}

static dass_status zero_momenta(dass__session *s)
{
    static const dass_buf bufs[] = {DASS_BUF_W_MOM, DASS_BUF_AF_MOM, DASS_BUF_SCORE_MOM};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; ++i)
        if (dass_store_ptrs(s->store)[bufs[i]] != NULL)
            DASS_TRY(dass_store_zero(s->store, bufs[i]));
    return DASS_OK;
}

static void log_stage(const dass__session *s, const dass__stage *stage, const dass_steps *steps)
{
    uint32_t nodes = 0;
    for (uint32_t i = 0; i < steps->n; ++i)
        nodes += steps->graph[i]->n_nodes - 1;
    if (!s->opt->quiet)
        dass_log(DASS_LOG_INFO,
                 "%s: %s stage, %lld epochs: %u operations a step, %.1f MiB of temporaries, %.1f MiB of "
                 "parameters and inputs",
                 s->command, stage->name, (long long)stage->epochs, nodes,
                 (double)dass_program_arena_bytes(steps->program) / 1048576.0,
                 (double)dass_store_bytes(s->store) / 1048576.0);
}

dass_status dass__stage_run(dass__session *s, const dass__stage *stage, dass_source *weights, dass_source *validation)
{
    if (stage->epochs <= 0)
        return DASS_OK;
    DASS_ASSERT(!stage->alpha || validation != NULL);
    dass_phase phase[2] = {dass__phase_of(s->cfg, DASS_TASK_WEIGHTS, stage->stage),
                           dass__phase_of(s->cfg, DASS_TASK_ALPHA, stage->stage)};
    for (int i = 0; i < 2; ++i) {
        phase[i].mean = s->data->mean;
        phase[i].std = s->data->std;
        phase[i].segments = s->segments;
        phase[i].n_segments = s->n_segments;
        phase[i].label_smoothing = stage->label_smoothing;
    }
    const dass_exec_options opt = {.guard = s->opt->guard};
    dass_steps steps;
    DASS_TRY(dass_steps_plan(s->store, &s->arch, phase, stage->alpha ? 2 : 1, s->be, &opt, &steps));
    dass_status st = DASS_OK;
    DASS_TRY_TO(dass_steps_bind(s->store, &steps), st, out);
    DASS_TRY_TO(zero_momenta(s), st, out);
    if (s->alpha != NULL)
        DASS_TRY_TO(dass_store_read_real(s->store, DASS_BUF_ALPHA, s->alpha,
                                         dass_store_count(s->store, DASS_GROUP_ALPHA)),
                    st, out);
    log_stage(s, stage, &steps);
    DASS_TRY_TO(run_epochs(s, stage, &steps, weights, validation), st, out);
out:
    dass_steps_close(&steps);
    return st;
}

/* ---- masks ---------------------------------------------------------------------------------------------------- */

/* The allocation "global" ranks |score| over the whole network, so scores come first. */
dass_status dass__scores_start(dass__session *s, const char *allocation, double density)
{
    dass_allocation policy;
    DASS_TRY(dass_allocation_parse(allocation, &policy));
    const int64_t n = dass_store_count(s->store, DASS_GROUP_W);
    void *block = NULL;
    dass_status st = DASS_OK;
    DASS_TRY(dass_store_commit(s->store, s->be, (uint64_t)1 << DASS_BUF_SCORE | (uint64_t)1 << DASS_BUF_BITS));
    DASS_TRY(dass_store_init_scores(s->store));
    if (policy == DASS_ALLOC_GLOBAL) {
        DASS_TRY(dass_mem_alloc((size_t)n * sizeof(double), "scores", &block));
        double *scores = block;
        DASS_TRY_TO(dass_store_read_real(s->store, DASS_BUF_SCORE, scores, n), st, out);
        for (int64_t i = 0; i < n; ++i)
            scores[i] = fabs(scores[i]);
    }
    DASS_TRY_TO(dass_density_allocate(s->store, policy, density, block, s->mem, &s->segments, &s->n_segments), st, out);
out:
    dass_mem_free(block);
    return st;
}

dass_status dass__mask_freeze(dass__session *s)
{
    dass_graph *g = NULL;
    DASS_TRY(dass_threshold_build(s->store, s->segments, s->n_segments, s->be->ops->real, &g));
    dass_steps steps;
    DASS_TRY(dass_steps_wrap(g, s->be, &(dass_exec_options){.guard = s->opt->guard}, &steps));
    dass_status st = dass_steps_bind(s->store, &steps);
    if (st == DASS_OK)
        st = dass_steps_run(s->store, &steps, 0, &s->block, NULL, NULL);
    dass_steps_close(&steps);
    return st;
}
