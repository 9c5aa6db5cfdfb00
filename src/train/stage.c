/* The training loop: a list of stages, epochs of steps over bound graphs, schedules, checkpoints, and stopping. One
 * loop serves search, train and prune; they differ in the stages they ask for. Invariants: between two checkpoints
 * nothing is allocated by a step; alpha is written by the alpha graphs alone; and a loop that begins at any s->at does
 * what the one from the beginning would have done from there on.
 */
#include <math.h>
#include <signal.h>
#include <string.h>

#include "session.h"

#define MAX_PHASES (DASS_MAX_ALPHA_TASKS + 1)
#define PATH_BYTES 4096

/* The graphs of a stage and what runs them: alpha's first, which see the weights before the step, then the weights'. */
typedef struct loop {
    dass__session *s;
    const dass__stage *stage;
    dass_source *weights, *validation;
    dass_steps steps;
    dass_task task[MAX_PHASES];
    int64_t n_steps; /* of an epoch */
    double epoch_began;
} loop;

double dass_cosine(double peak, double min, int64_t e, int64_t n)
{
    return n > 0 ? min + 0.5 * (peak - min) * (1.0 + cos(acos(-1.0) * (double)e / (double)n)) : peak;
}

/* Linear from peak / (warmup + 1) over the first epochs, then the cosine over the others. */
static double rate(const dass__stage *stage, double peak, int64_t e)
{
    if (peak <= 0.0)
        return 0.0;
    if (e < stage->warmup)
        return peak * (double)(e + 1) / (double)(stage->warmup + 1);
    return dass_cosine(peak, fmin(stage->lr_min, peak), e - stage->warmup, stage->epochs - stage->warmup);
}

/* ---- divergence ------------------------------------------------------------------------------------------------ */

/* Ends the run after a step that made something infinite. loss: "the training loss is nan"; NULL when the state alone
 * shows it. */
static dass_status diverged(const loop *l, const char *loss)
{
    dass__session *s = l->s;
    char part[256] = "its state is not finite"; /* or NAME[element] is inf */
    char value[DASS_CONFIG_PRINT_MAX];
    char kept[PATH_BYTES] = "";
    dass_mem_seal(false);
    if (dass__state_check(s) == DASS_NUMERIC)
        (void)snprintf(part, sizeof part, "%s", dass_error_text());
    else if (loss != NULL)
        part[0] = '\0';
    const bool alpha = strncmp(part, "alpha.", 6) == 0 || strncmp(part, "adam_", 5) == 0;
    const dass_config_key key = alpha ? DASS_KEY_search_alpha_lr : l->stage->rate;
    dass_config_print(s->cfg, key, value, sizeof value);
    if (s->saved[0] != '\0')
        (void)snprintf(kept, sizeof kept, "; %s/%s is intact", s->opt->out_dir, s->saved);
    const bool ended = loss == NULL && s->at.step == 0; /* the epoch is counted already */
    const int64_t step = ended ? l->n_steps : s->at.step + (loss != NULL);
    return DASS_FAIL(DASS_NUMERIC,
                     "%s: %s stage, epoch %lld, step %lld: %s%s%s: lower %s (%s), or run with --guard to see which "
                     "operation made it%s",
                     s->command, l->stage->name, (long long)s->at.epoch + !ended, (long long)step,
                     loss != NULL ? loss : "", loss != NULL && part[0] != '\0' ? ", " : "", part,
                     dass_config_key_name(key), value, kept);
}

/* ---- one step ------------------------------------------------------------------------------------------------- */

static dass_status check_loss(const loop *l, double loss, const char *what)
{
    char text[64];
    if (isfinite(loss))
        return DASS_OK;
    (void)snprintf(text, sizeof text, "the %s loss is %s", what, isnan(loss) ? "nan" : loss > 0.0 ? "inf" : "-inf");
    return diverged(l, text);
}

/* A decay that grows from 0 with the steps, so that the first ones do not stay in the average for ever. */
static double ema_decay(double decay, int64_t step)
{
    return fmin(decay, (double)step / (10.0 + (double)step));
}

/* What the graphs of the step read, into the store; with a resident data set they find it there themselves. */
static dass_status feed_step(loop *l)
{
    dass__session *s = l->s;
    dass_batch batch = {0};
    s->block.position = (uint32_t)s->at.step;
    if (s->resident)
        return DASS_OK;
    if (l->stage->alpha) {
        DASS_TRY(dass_source_next(l->validation, &batch));
        DASS_TRY(dass__feed_batch(s, DASS_INPUTS_VALIDATION, &batch));
    }
    return dass__feed(s, l->weights, &batch);
}

static dass_status run_step(loop *l)
{
    dass__session *s = l->s;
    double loss = 0.0;
    double correct = 0.0;
    double val_loss = 0.0;
    double val_correct = 0.0;
    s->at.alpha_steps += l->stage->alpha;
    DASS_TRY(feed_step(l));
    s->block.adam_step = (double)s->at.alpha_steps;
    s->block.step = (uint32_t)s->at.steps_done;
    s->block.ema = ema_decay(l->stage->ema, s->at.epoch * l->n_steps + s->at.step);
    DASS_TRY(dass_steps_run_all(s->store, &l->steps, &s->block, &loss, &correct, &val_loss, &val_correct));
    DASS_TRY(check_loss(l, val_loss, "validation"));
    DASS_TRY(check_loss(l, loss, "training"));
    s->at.train_loss += loss;
    s->at.train_correct += correct;
    s->at.val_loss += val_loss;
    s->at.val_correct += val_correct;
    s->at.step++;
    s->at.steps_done++;
    return DASS_OK;
}

/* ---- schedules ------------------------------------------------------------------------------------------------ */

static void set_rates(dass__session *s, const dass__stage *stage)
{
    const dass_config *c = s->cfg;
    const int64_t e = s->at.epoch;
    const bool search = strcmp(s->command, "search") == 0;
    dass_step_block *b = &s->block;
    const double wd = search ? c->search_weight_decay : c->train_weight_decay;
    const double peak[3] = {stage->lr_weights, stage->lr_af, stage->lr_scores};
    for (int i = 0; i < 3; ++i) {
        b->lr[i] = rate(stage, peak[i], e);
        b->weight_decay[i] = wd;
    }
    b->lr[3] = c->search_alpha_lr;
    b->weight_decay[3] = c->search_alpha_weight_decay;
    b->momentum = search ? c->search_momentum : c->train_momentum;
    b->clip = search ? c->search_clip : c->train_clip;
    b->beta1 = c->search_alpha_beta1;
    b->beta2 = c->search_alpha_beta2;
    b->adam_eps = 1e-8;
    b->xi = b->lr[0];
    b->drop_path =
        stage->drop_path_epochs > 0 ? stage->drop_path * fmin((double)e / (double)stage->drop_path_epochs, 1.0) : 0.0;
    b->epoch = (uint32_t)s->at.epochs_done;
    b->valid = 0;
}

/* ---- stopping and saving -------------------------------------------------------------------------------------- */

int dass__stop_asked(const dass__session *s)
{
    return s->opt->stop != NULL ? (int)*s->opt->stop : 0;
}

static dass_status save(loop *l, bool partial)
{
    dass__session *s = l->s;
    DASS_TRY(dass__times_line(s, l->stage->name));
    const dass_status st = dass__checkpoint_save(s, partial);
    return st == DASS_NUMERIC ? diverged(l, NULL) : st;
}

dass_status dass__stopped(const dass__session *s, int signal_number)
{
    const dass_status st = signal_number == SIGINT ? DASS_INTERRUPTED : DASS_STOPPED;
    if (s->opt->out_dir == NULL)
        return DASS_FAIL(st, "%s: stopped by %s after %lld steps; without -o DIR nothing was kept", s->command,
                         strsignal(signal_number), (long long)s->at.steps_done);
    return DASS_FAIL(st, "%s: stopped by %s after %lld steps, all in %s; the same command goes on from there",
                     s->command, strsignal(signal_number), (long long)s->at.steps_done, s->opt->out_dir);
}

/* Between two steps of an epoch: a checkpoint when one is due or the run is to end. */
static dass_status save_if_due(loop *l)
{
    dass__session *s = l->s;
    const int asked = dass__stop_asked(s);
    const bool due = dass_now_sec() - s->last_saved >= 60.0 * s->cfg->run_checkpoint_minutes;
    if (!asked && !due)
        return DASS_OK;
    dass_mem_seal(false);
    DASS_TRY(save(l, true));
    if (asked)
        return dass__stopped(s, asked);
    dass_mem_seal(true);
    return DASS_OK;
}

/* ---- epochs --------------------------------------------------------------------------------------------------- */

static dass_status run_change(loop *l)
{
    const int64_t done = l->s->at.epoch * l->n_steps + l->s->at.step;
    if (l->stage->change == NULL || done % l->stage->every != 0)
        return DASS_OK;
    dass_mem_seal(false);
    DASS_TRY(l->stage->change(l->s, l->stage, done, l->stage->epochs * l->n_steps));
    dass_mem_seal(true);
    return DASS_OK;
}

/* From at.step on. Sealed on entry and on success. */
static dass_status run_epoch(loop *l)
{
    dass__session *s = l->s;
    while (s->at.step < l->n_steps) {
        DASS_TRY(run_change(l));
        DASS_TRY(run_step(l));
        if (s->at.step == l->n_steps)
            break;
        dass__report_progress(s, l->stage, l->n_steps, l->epoch_began, false);
        DASS_TRY(save_if_due(l));
    }
    return DASS_OK;
}

static dass_status read_alpha(dass__session *s)
{
    if (s->alpha != NULL)
        DASS_TRY(
            dass_store_read_real(s->store, DASS_BUF_ALPHA, s->alpha, dass_store_count(s->store, DASS_GROUP_ALPHA)));
    return DASS_OK;
}

static bool alpha_is_finite(const dass__session *s)
{
    bool finite = true;
    for (int64_t i = 0; s->alpha != NULL && i < dass_store_count(s->store, DASS_GROUP_ALPHA); ++i)
        finite = finite && isfinite(s->alpha[i]);
    return finite;
}

static dass_status end_epoch(loop *l)
{
    dass__session *s = l->s;
    DASS_TRY(read_alpha(s));
    if (!alpha_is_finite(s))
        return diverged(l, NULL);
    dass__report_progress(s, l->stage, l->n_steps, l->epoch_began, true);
    DASS_TRY(dass__report_epoch(s, l->stage));
    s->at.epoch++;
    s->at.epochs_done++;
    s->at.step = 0;
    s->at.train_loss = s->at.train_correct = s->at.val_loss = s->at.val_correct = 0.0;
    DASS_TRY(save(l, false));
    return DASS_OK;
}

static dass_status run_epochs(loop *l)
{
    dass__session *s = l->s;
    while (s->at.epoch < l->stage->epochs) {
        const uint32_t epoch = (uint32_t)s->at.epochs_done;
        set_rates(s, l->stage);
        l->epoch_began = dass_now_sec();
        DASS_TRY(dass__resident_epoch(s, l->weights, l->stage->alpha ? l->validation : NULL, epoch, s->at.step));
        dass_mem_seal(true);
        const dass_status st = run_epoch(l);
        dass_mem_seal(false);
        DASS_TRY(st);
        DASS_TRY(end_epoch(l));
        const int asked = dass__stop_asked(s);
        if (asked)
            return dass__stopped(s, asked);
    }
    return DASS_OK;
}

/* ---- stages --------------------------------------------------------------------------------------------------- */

static dass_status zero_momenta(dass__session *s)
{
    static const dass_buf bufs[] = {DASS_BUF_W_MOM, DASS_BUF_AF_MOM, DASS_BUF_SCORE_MOM};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; ++i)
        if (dass_store_ptrs(s->store)[bufs[i]] != NULL)
            DASS_TRY(dass_store_zero(s->store, bufs[i]));
    return DASS_OK;
}

static void log_stage(const loop *l)
{
    const dass__session *s = l->s;
    uint32_t nodes = 0;
    for (uint32_t i = 0; i < l->steps.n; ++i)
        nodes += l->steps.graph[i]->n_nodes - 1;
    if (s->opt->quiet)
        return;
    dass_log(DASS_LOG_INFO,
             "%s: %s stage, %lld epochs: %u operations a step, %.1f MiB of temporaries, %.1f MiB of "
             "parameters and inputs",
             s->command, l->stage->name, (long long)l->stage->epochs, nodes,
             (double)dass_program_arena_bytes(l->steps.program) / 1048576.0,
             (double)dass_store_bytes(s->store) / 1048576.0);
}

static dass_status plan_stage(loop *l)
{
    const dass__stage *stage = l->stage;
    dass__session *s = l->s;
    uint32_t n = 0;
    if (stage->alpha)
        n = dass_alpha_tasks(stage->stage, stage->second_order ? 2 : 1, l->task);
    l->task[n++] = DASS_TASK_WEIGHTS;
    dass_phase phase[MAX_PHASES];
    for (uint32_t i = 0; i < n; ++i) {
        phase[i] = dass__phase_of(s->cfg, l->task[i], stage->stage);
        phase[i].resident = s->data_set;
        phase[i].mean = s->data->mean;
        phase[i].std = s->data->std;
        phase[i].segments = s->segments;
        phase[i].n_segments = s->n_segments;
        phase[i].label_smoothing = stage->label_smoothing;
        phase[i].drop_path = stage->drop_path > 0.0;
        phase[i].auxiliary = stage->auxiliary;
        phase[i].ema = stage->ema > 0.0;
    }
    const dass_exec_options opt = {.guard = s->opt->guard};
    DASS_TRY(dass_steps_plan(s->store, &s->arch, phase, n, s->be, &opt, &l->steps));
    DASS_TRY(dass_steps_bind(s->store, &l->steps));
    return DASS_OK;
}

/* What a stage begins with when no checkpoint has begun it already. */
static dass_status enter_stage(dass__session *s, const dass__stage *stage)
{
    s->at.epoch = 0;
    s->at.step = 0;
    if (stage->enter != NULL)
        DASS_TRY(stage->enter(s, stage));
    DASS_TRY(zero_momenta(s));
    return DASS_OK;
}

static dass_status run_stage(loop *l)
{
    if (l->s->at.epoch >= l->stage->epochs)
        return DASS_OK;
    dass_status st = DASS_OK;
    DASS_TRY_TO(plan_stage(l), st, out);
    DASS_TRY_TO(read_alpha(l->s), st, out);
    log_stage(l);
    DASS_TRY_TO(run_epochs(l), st, out);
out:
    dass_steps_close(&l->steps);
    return st;
}

static void begin_clocks(dass__session *s, const dass__stage *stages, int64_t n, int64_t n_steps)
{
    s->began = s->last_saved = s->timed = dass_now_sec();
    s->began_steps = s->timed_steps = s->at.steps_done;
    s->total_steps = 0.0;
    for (int64_t i = 0; i < n; ++i)
        s->total_steps += (double)stages[i].epochs * (double)n_steps;
}

dass_status dass__stages_run(dass__session *s, const dass__stage *stages, int64_t n, dass_source *weights,
                             dass_source *validation)
{
    const int64_t n_steps = dass_source_steps(weights);
    DASS_TRY(dass__resident_open(s, weights, validation));
    begin_clocks(s, stages, n, n_steps);
    if (s->resumed)
        dass_log(DASS_LOG_INFO, "%s: going on in %s after %lld steps", s->command, s->opt->out_dir,
                 (long long)s->at.steps_done);
    for (; s->at.stage < n; s->at.stage++) {
        loop l = {
            .s = s, .stage = &stages[s->at.stage], .weights = weights, .validation = validation, .n_steps = n_steps};
        DASS_ASSERT(!l.stage->alpha || validation != NULL);
        if (!s->resumed)
            DASS_TRY(enter_stage(s, l.stage));
        s->resumed = false;
        DASS_TRY(run_stage(&l));
    }
    return DASS_OK;
}
