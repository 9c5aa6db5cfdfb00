/* What people and the metrics files get to see: the progress line, one record per epoch, warnings, the closing lines.
 * Decides nothing about training. Invariant: metrics.jsonl and alphas.jsonl depend on the state of the run alone; wall
 * times go to times.jsonl and to the terminal.
 */
#include <math.h>
#include <string.h>

#include "session.h"

#define STUCK_PART 0.005 /* a mean loss this close to ln(classes), relatively, is no better than guessing */
#define STUCK_STEPS 20   /* fewer say nothing */
enum { WARNED_STUCK = 1, WARNED_SKIPS = 2 };

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

static double entropy_now(const dass__session *s)
{
    return dass_alpha_entropy(s->alpha, dass_store_count(s->store, DASS_GROUP_ALPHA) / DASS_N_PRIMS, DASS_N_PRIMS);
}

/* Of numbers that have been checked, so that only memory is left as a reason. */
static dass_status fail_line(void)
{
    return DASS_FAIL(DASS_NOMEM, "no memory for a line of metrics");
}

static double shown_rate(const dass__session *s, const dass__stage *stage)
{
    return stage->stage == DASS_STAGE_SCORE ? s->block.lr[2] : s->block.lr[0];
}

/* "3 h 05 m", "12 m 40 s", "55 s". */
static void print_span(double sec, char *buf, size_t n)
{
    const int64_t t = (int64_t)(sec + 0.5);
    if (t >= 3600)
        (void)snprintf(buf, n, "%lld h %02lld m", (long long)(t / 3600), (long long)(t / 60 % 60));
    else if (t >= 60)
        (void)snprintf(buf, n, "%lld m %02lld s", (long long)(t / 60), (long long)(t % 60));
    else
        (void)snprintf(buf, n, "%lld s", (long long)t);
}

void dass__report_progress(const dass__session *s, const dass__stage *stage, int64_t n_steps, double epoch_began,
                           bool done)
{
    const dass__progress *m = &s->at;
    if (s->opt->quiet || m->step == 0)
        return;
    const double n = (double)m->step;
    const double rows = (double)s->cfg->train_batch;
    const double now = dass_now_sec();
    const double mine =
        (double)(m->steps_done - s->began_steps); /* steps of this process: what it was resumed with took none */
    const double sec = mine > 0.0 ? (now - s->began) / mine : 0.0;
    char validation[64] = "";
    char alpha[32] = "";
    char left[32];
    char spent[32];
    const double correct = stage->alpha ? m->val_correct : m->train_correct;
    if (stage->alpha)
        (void)snprintf(validation, sizeof validation, " val %.4f", m->val_loss / n);
    if (s->alpha != NULL)
        (void)snprintf(alpha, sizeof alpha, " | H(a) %.2f", entropy_now(s));
    print_span(sec * (s->total_steps - (double)m->steps_done), left, sizeof left);
    print_span(now - epoch_began, spent, sizeof spent);
    dass_log_progress(
        done, "%s  %s e %lld/%lld  s %lld/%lld | train %.4f%s top1 %.1f%%%s | lr %.1e | %.0f ms %.0f img/s | %s%s",
        s->command, stage->name, (long long)m->epoch + 1, (long long)stage->epochs, (long long)m->step,
        (long long)n_steps, m->train_loss / n, validation, 100.0 * correct / (n * rows), alpha, shown_rate(s, stage),
        1e3 * sec, sec > 0.0 ? rows / sec : 0.0, done ? spent : left, done ? "" : " left");
}

/* ---- one epoch ------------------------------------------------------------------------------------------------ */

static int64_t count_skips(const dass_gene *genes, int32_t n_nodes)
{
    int64_t n = 0;
    for (int32_t i = 0; i < 2 * n_nodes; ++i)
        n += genes[i].op == DASS_PRIM_SKIP;
    return n;
}

static json_t *matrix(const double *a, int32_t rows, int32_t cols)
{
    json_t *m = json_array();
    int bad = m == NULL;
    for (int32_t i = 0; i < rows; ++i) {
        json_t *row = json_array();
        for (int32_t k = 0; k < cols; ++k)
            bad |= json_array_append_new(row, json_real(a[i * cols + k]));
        bad |= json_array_append_new(m, row);
    }
    if (bad) {
        json_decref(m);
        return NULL;
    }
    return m;
}

/* Alpha's part of an epoch: its own line, and entropy, the genotype it would give now, and its skip connections. */
static dass_status add_alpha(dass__session *s, const dass__stage *stage, json_t *line, dass_genotype *g)
{
    const int32_t rows = dass_n_edges(s->arch.nodes);
    const double *reduce = s->alpha + (size_t)rows * DASS_N_PRIMS;
    DASS_TRY(dass_genotype_derive(s->alpha, reduce, s->arch.nodes, g));
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
    json_t *alphas =
        json_pack("{s:s, s:I, s:o, s:o}", "stage", stage->name, "epoch", (json_int_t)s->at.epoch + 1, "normal",
                  matrix(s->alpha, rows, DASS_N_PRIMS), "reduce", matrix(reduce, rows, DASS_N_PRIMS));
    if (bad || alphas == NULL) {
        json_decref(alphas);
        return fail_line();
    }
    return dass__alphas_line(s, alphas);
}

/* A network that a mask or a rate has silenced gives every class the same chance: ln(classes). */
static void warn_stuck(dass__session *s, const dass__stage *stage)
{
    const double guess = log((double)s->arch.classes);
    const double loss = s->at.train_loss / (double)s->at.step;
    if ((s->at.warned & WARNED_STUCK) || s->at.step < STUCK_STEPS || fabs(loss - guess) > STUCK_PART * guess)
        return;
    s->at.warned |= WARNED_STUCK;
    dass_log(DASS_LOG_WARN, "%s: %s stage, epoch %lld: the mean loss %.4f is ln(%d) = %.4f, that of guessing: %s",
             s->command, stage->name, (long long)s->at.epoch + 1, loss, s->arch.classes, guess,
             stage->stage == DASS_STAGE_DENSE ? "the learning rate may be too high or far too low"
                                              : "the mask may have cut every path; try a larger density or the floor "
                                                "allocation");
}

/* Most of a cell's edges as skip connections is how a DARTS search collapses; at a low density it may be right. */
static void warn_skips(dass__session *s, const dass__stage *stage, const dass_genotype *g)
{
    const int64_t skips = count_skips(g->normal, g->n_nodes);
    if ((s->at.warned & WARNED_SKIPS) || 4 * skips < 3 * 2 * (int64_t)g->n_nodes)
        return;
    s->at.warned |= WARNED_SKIPS;
    dass_log(
        DASS_LOG_WARN,
        "%s: %s stage, epoch %lld: %lld of the %d edges of the normal cell are skip connections: the search may have "
        "collapsed; judge by the accuracy of the pruned network, or stop at an earlier epoch (metrics.jsonl has its "
        "genotype)",
        s->command, stage->name, (long long)s->at.epoch + 1, (long long)skips, 2 * g->n_nodes);
}

static dass_status report_alpha(dass__session *s, const dass__stage *stage, json_t *line)
{
    dass_genotype g;
    DASS_TRY(add_alpha(s, stage, line, &g));
    DASS_TRY(dass__save_genotype(s, &g));
    if (!s->opt->quiet)
        dass_log(DASS_LOG_INFO, "%s: %s epoch %lld: H(alpha) %.3f, skip connections %lld normal, %lld reduce",
                 s->command, stage->name, (long long)s->at.epoch + 1, entropy_now(s),
                 (long long)count_skips(g.normal, g.n_nodes), (long long)count_skips(g.reduce, g.n_nodes));
    warn_skips(s, stage, &g);
    return DASS_OK;
}

dass_status dass__report_epoch(dass__session *s, const dass__stage *stage)
{
    const dass__progress *m = &s->at;
    const double n = (double)m->step;
    const double rows = (double)s->cfg->train_batch;
    json_t *line = json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:f}", "command", s->command, "stage", stage->name,
                             "epoch", (json_int_t)m->epoch + 1, "epochs", (json_int_t)stage->epochs, "steps",
                             (json_int_t)m->step, "train_loss", m->train_loss / n, "train_top1",
                             m->train_correct / (n * rows), "lr", shown_rate(s, stage));
    if (line == NULL)
        return fail_line();
    if (stage->alpha) {
        int bad = json_object_set_new(line, "val_loss", json_real(m->val_loss / n));
        bad |= json_object_set_new(line, "val_top1", json_real(m->val_correct / (n * rows)));
        if (bad) {
            json_decref(line);
            return fail_line();
        }
    }
    if (s->alpha != NULL) {
        const dass_status st = report_alpha(s, stage, line);
        if (st != DASS_OK) {
            json_decref(line);
            return st;
        }
    }
    DASS_TRY(dass__metrics_line(s, line));
    warn_stuck(s, stage);
    return DASS_OK;
}

/* ---- the end -------------------------------------------------------------------------------------------------- */

dass_status dass__report_test(dass__session *s, double loss, double top1)
{
    dass_log(DASS_LOG_INFO, "%s: test loss %.4f, top1 %.2f %% of %lld images", s->command, loss, 100.0 * top1,
             (long long)s->data->test.n);
    json_t *line = json_pack("{s:s, s:s, s:f, s:f, s:I}", "command", s->command, "stage", "test", "test_loss", loss,
                             "test_top1", top1, "images", (json_int_t)s->data->test.n);
    if (line == NULL)
        return fail_line();
    DASS_TRY(dass__metrics_line(s, line));
    return DASS_OK;
}

void dass__report_end(const dass__session *s)
{
    if (s->opt->quiet)
        return;
    char spent[32];
    print_span(dass_now_sec() - s->began, spent, sizeof spent);
    dass_log(DASS_LOG_INFO, "%s: done: %lld steps of %lld images; this part took %s%s%s", s->command,
             (long long)s->at.steps_done, (long long)s->cfg->train_batch, spent,
             s->opt->out_dir != NULL ? "; results in " : "", s->opt->out_dir != NULL ? s->opt->out_dir : "");
}
