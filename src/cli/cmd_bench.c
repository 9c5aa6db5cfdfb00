/* `dass bench`: the measurements of src/bench as text or JSON. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "dass/bench.h"
#include "dass/run.h"
#include "dass/text.h"

static double percent(double part, double whole)
{
    return whole > 0.0 ? 100.0 * part / whole : 0.0;
}

/* The nearer of the two ceilings: what an operation of these flops and bytes could take at least, over what it took. */
static double of_roof(const dass_bench_row *r, double sec, const dass_peak *p)
{
    const double compute = r->flops / (1e9 * p->gflops);
    const double memory = r->bytes / (1e9 * p->read_gbs);
    return sec > 0.0 ? 100.0 * (compute > memory ? compute : memory) / sec : 0.0;
}

static double giga(double work, double sec)
{
    return sec > 0.0 ? work / sec / 1e9 : 0.0;
}

/* ---- text ----------------------------------------------------------------------------------------------------- */

static void print_rows(const dass_bench_row *rows, uint32_t n, const dass_bench_step *b, int name_width)
{
    for (uint32_t i = 0; i < n; ++i) {
        const dass_bench_row *r = &rows[i];
        const double sec = r->in_place_sec;
        const double gflops = giga(r->flops, sec);
        (void)printf("  %6.2f%% %9.3f %9.3f %6lld %9.2f %8.2f %7.1f%% %7.1f%%  %-*s\n",
                     percent(sec, b->ops_in_place_sec), 1e3 * sec, 1e3 * r->sec, (long long)r->count, gflops,
                     giga(r->bytes, sec), percent(gflops, b->peak.gflops), of_roof(r, sec, &b->peak), name_width,
                     r->name);
    }
}

static void print_ops(const dass_bench_step *b)
{
    static const char head[] = "   share  in place     alone  nodes   GFLOP/s     GB/s   of peak  of roof  ";
    if (b->peak.threads > 0)
        (void)printf("\nmachine, in this run: %.1f GFLOP/s (%s, %d threads), ", b->peak.gflops, b->peak.isa,
                     b->peak.threads);
    else
        (void)printf("\ndevice, in this run: %.1f GFLOP/s (a large product), ", b->peak.gflops);
    (void)printf("memory read %.1f GB/s, copy %.1f GB/s\n", b->peak.read_gbs, b->peak.copy_gbs);
    (void)printf("in place: ms of a step's nodes where they stand, median of %d steps; the other columns go by it\n"
                 "alone: ms of each launch on its own%s\n",
                 b->n_in_place,
                 b->peak.threads > 0 ? ", the least of a few runs" : ", repeated, its inputs in the cache");
    (void)printf("of peak: GFLOP/s over the machine's. of roof: the time that flops or bytes need at least, over the "
                 "time taken\n(bytes from cache may pass 100 %%)\n\n%soperation\n",
                 head);
    print_rows(b->op, b->n_ops, b, 0);
    (void)printf("  100.00%% %9.3f %9.3f %6lld\n\n%skernel and node\n", 1e3 * b->ops_in_place_sec, 1e3 * b->ops_sec,
                 (long long)b->nodes, head);
    print_rows(b->top, b->n_top, b, 0);
}

static void print_text(const dass_bench_step *b)
{
    const double mib = 1.0 / 1048576.0;
    (void)printf("%s, %s step, batch %d, %lld operations, median of %d\n", b->network, b->stage, b->batch,
                 (long long)b->nodes, b->n_repeats);
    (void)printf("  %-18s %10.2f ms (p90 %.2f)\n", "whole step", b->step_ms, b->step_p90_ms);
    if (b->arch_step_ms > 0.0)
        (void)printf("  %-18s %10.2f ms weights, %.2f ms architecture\n", "its graphs alone", b->weight_step_ms,
                     b->arch_step_ms);
    (void)printf("  %-18s %10.1f training images/s\n", "speed", b->images_per_s);
    (void)printf("  %-18s %10.1f MiB temporaries, %.1f MiB parameters and optimiser, %.1f MiB inputs\n", "planned",
                 (double)b->planned_bytes * mib, (double)b->groups_bytes * mib, (double)b->input_bytes * mib);
    (void)printf("  %-18s %10.1f MiB resident at most\n", "memory", (double)b->peak_rss_bytes * mib);
    if (b->has_ops)
        print_ops(b);
}

/* ---- JSON ----------------------------------------------------------------------------------------------------- */

static json_t *rows_json(const dass_bench_row *rows, uint32_t n, const dass_bench_step *b)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; ++i) {
        const dass_bench_row *r = &rows[i];
        const double sec = r->in_place_sec;
        const double gflops = giga(r->flops, r->sec);
        json_t *row =
            json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "name", r->name, "nodes", (json_int_t)r->count, "ms",
                      1e3 * r->sec, "share", percent(r->sec, b->ops_sec) / 100.0, "gflops", gflops, "gbs",
                      giga(r->bytes, r->sec), "of_peak", percent(gflops, b->peak.gflops) / 100.0, "of_roof",
                      of_roof(r, r->sec, &b->peak) / 100.0);
        json_t *place =
            json_pack("{s:f, s:f, s:f, s:f, s:f}", "in_place_ms", 1e3 * sec, "in_place_share",
                      percent(sec, b->ops_in_place_sec) / 100.0, "in_place_gflops", giga(r->flops, sec), "in_place_gbs",
                      giga(r->bytes, sec), "in_place_of_roof", of_roof(r, sec, &b->peak) / 100.0);
        (void)json_object_update(row, place);
        json_decref(place);
        (void)json_array_append_new(list, row);
    }
    return list;
}

static dass_status print_json(const dass_bench_step *b)
{
    json_t *root =
        json_pack("{s:s, s:s, s:i, s:i, s:I, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I}", "network", b->network,
                  "stage", b->stage, "batch", b->batch, "repeats", b->n_repeats, "nodes", (json_int_t)b->nodes,
                  "step_ms", b->step_ms, "step_p90_ms", b->step_p90_ms, "weight_step_ms", b->weight_step_ms,
                  "arch_step_ms", b->arch_step_ms, "images_per_s", b->images_per_s, "peak_rss_bytes",
                  (json_int_t)b->peak_rss_bytes, "planned_bytes", (json_int_t)b->planned_bytes, "groups_bytes",
                  (json_int_t)b->groups_bytes, "input_bytes", (json_int_t)b->input_bytes);
    if (root != NULL && b->has_ops) {
        (void)json_object_set_new(root, "peak",
                                  json_pack("{s:i, s:s, s:f, s:f, s:f}", "threads", b->peak.threads, "isa", b->peak.isa,
                                            "gflops", b->peak.gflops, "read_gbs", b->peak.read_gbs, "copy_gbs",
                                            b->peak.copy_gbs));
        (void)json_object_set_new(root, "ops_ms", json_real(1e3 * b->ops_sec));
        (void)json_object_set_new(root, "ops_in_place_ms", json_real(1e3 * b->ops_in_place_sec));
        (void)json_object_set_new(root, "in_place_repeats", json_integer(b->n_in_place));
        (void)json_object_set_new(root, "ops", rows_json(b->op, b->n_ops, b));
        (void)json_object_set_new(root, "top", rows_json(b->top, b->n_top, b));
    }
    const int bad = root == NULL || json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)) != 0;
    json_decref(root);
    (void)printf("\n");
    return bad ? DASS_FAIL(DASS_IO, "bench: cannot write the JSON object to stdout") : DASS_OK;
}

/* ---- latency --------------------------------------------------------------------------------------------------- */

/* How many times dense takes as long. */
static double times(double dense_ms, double ms)
{
    return ms > 0.0 ? dense_ms / ms : 0.0;
}

/* A list of executions, dense first: what the others are compared with is timed in the same turns. */
static dass_status parse_executions(const char *list, dass_bench_latency_options *opt)
{
    const char *names[DASS_N_EXECUTIONS];
    for (int e = 0; e < DASS_N_EXECUTIONS; e++)
        names[e] = dass_execution_name((dass_execution)e);
    opt->execution[opt->n++] = DASS_EXECUTION_DENSE;
    for (const char *p = list != NULL ? list : ""; *p != '\0'; p += strspn(p, ",")) {
        char word[32];
        const size_t n = strcspn(p, ",");
        (void)snprintf(word, sizeof word, "%.*s", (int)n, p);
        p += n;
        int e = 0;
        while (e < DASS_N_EXECUTIONS && strcmp(word, names[e]) != 0)
            e++;
        if (e == DASS_N_EXECUTIONS) {
            const char *near = dass_nearest(word, names, DASS_N_EXECUTIONS);
            return DASS_FAIL(DASS_ARG,
                             "bench latency: no execution '%s'%s%s%s; there are: dense, library, sparse, block", word,
                             near != NULL ? " (did you mean '" : "", near != NULL ? near : "",
                             near != NULL ? "'?)" : "");
        }
        bool known = false;
        for (uint32_t i = 0; i < opt->n; i++)
            known = known || opt->execution[i] == (dass_execution)e;
        if (!known)
            opt->execution[opt->n++] = (dass_execution)e;
    }
    return DASS_OK;
}

static void print_latency_text(const char *name, const dass_bench_latency *l, const dass_bench_latency *dense,
                               bool several)
{
    (void)printf("%-24s ", name);
    if (several)
        (void)printf("%-8s ", dass_execution_name(l->execution));
    (void)printf("%6d %10.3f %10.3f %10.3f %10.3f %10.1f %8.1f", l->batch, l->median_ms, l->p10_ms, l->p90_ms,
                 l->p99_ms, (double)l->macs_per_image * 1e-6, l->gflops);
    if (several)
        (void)printf(" %8.2f %8.2f %6u %6u %6u", times(dense->best_ms, l->best_ms),
                     times(dense->median_ms, l->median_ms), l->n_dense, l->n_sparse, l->n_blocks);
    (void)printf("\n");
    (void)fflush(stdout);
}

static dass_status print_latency_json(const char *name, const char *precision, const dass_bench_latency *l,
                                      const dass_bench_latency *dense, bool several)
{
    char network[4096]; /* a path, which need not be UTF-8 */
    (void)snprintf(network, sizeof network, "%s", name);
    dass_text_clean(network);
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:I, s:f}", "network", network, "execution",
                  dass_execution_name(l->execution), "precision", precision, "batch", l->batch, "warm_up", l->n_warm,
                  "repeats", l->n_repeats, "median_ms", l->median_ms, "p10_ms", l->p10_ms, "p90_ms", l->p90_ms,
                  "p99_ms", l->p99_ms, "macs", (json_int_t)l->macs_per_image, "gflops", l->gflops);
    if (root != NULL && several) {
        (void)json_object_set_new(root, "best_ms", json_real(l->best_ms));
        (void)json_object_set_new(root, "dense_over_best", json_real(times(dense->best_ms, l->best_ms)));
        (void)json_object_set_new(root, "dense_over_median", json_real(times(dense->median_ms, l->median_ms)));
        (void)json_object_set_new(root, "dense_convolutions", json_integer(l->n_dense));
        (void)json_object_set_new(root, "sparse_products", json_integer(l->n_sparse));
        (void)json_object_set_new(root, "blocks", json_integer(l->n_blocks));
    }
    const int bad = root == NULL || json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)) != 0;
    json_decref(root);
    (void)printf("\n");
    return bad ? DASS_FAIL(DASS_IO, "bench: cannot write the JSON object to stdout") : DASS_OK;
}

static dass_status load_run(void *ctx, dass_store *s, bool *masked)
{
    const dass_params *p = ctx;
    *masked = strcmp(p->info.state, "pruned") == 0;
    DASS_TRY(dass_params_restore(p, s));
    return *masked ? dass_params_restore_mask(p, s) : DASS_OK;
}

static dass_status time_network(const dass__opts *o, const char *name, const dass_config *c, const dass_arch *arch,
                                const dass_bench_latency_options *opt)
{
    dass_bench_latency l[DASS_N_EXECUTIONS];
    DASS_TRY(dass_bench_latency_run(c, arch, opt, l));
    for (uint32_t i = 0; i < opt->n; i++) {
        if (o->json)
            DASS_TRY(print_latency_json(name, c->run_precision, &l[i], &l[0], opt->n > 1));
        else
            print_latency_text(name, &l[i], &l[0], opt->n > 1);
    }
    return DASS_OK;
}

static dass_status latency_of_run(dass__opts *o, const char *run, dass_config *c, dass_bench_latency_options *opt)
{
    dass_params params;
    dass_status st = DASS_OK;
    const dass_use use = {.commands = DASS_USE_LATENCY, .who = "dass bench latency", .dense_only = opt->n == 1};
    DASS_TRY(dass__run_config(o, run, use, c));
    DASS_TRY(dass_params_open(run, &params));
    opt->batch = (int32_t)c->bench_batch;
    opt->load = load_run;
    opt->ctx = &params;
    if (opt->n > 1 && strcmp(params.info.state, "pruned") != 0)
        DASS_TRY_TO(DASS_FAIL(DASS_ARG,
                              "bench latency: %s is %s, nothing in it is sparse; name a RUN of prune, or none and "
                              "--net or --genotype for random weights",
                              run, params.info.state),
                    st, out);
    DASS_TRY_TO(time_network(o, run, c, &params.info.arch, opt), st, out);
out:
    dass_params_close(&params);
    return st;
}

/* Nothing is trained: weights are random. */
static dass_status latency_of_net(dass__opts *o, dass_config *c, dass_bench_latency_options *opt)
{
    dass_arch arch;
    DASS_TRY(dass__opts_config(o, NULL, c));
    DASS_TRY(dass_arch_from_config(c, &arch));
    DASS_TRY(dass_config_check(c));
    DASS_TRY(dass_config_check_use(c, &(dass_use){.commands = DASS_USE_LATENCY,
                                                  .who = "dass bench latency",
                                                  .kind = arch.kind,
                                                  .dense_only = opt->n == 1}));
    opt->batch = (int32_t)c->bench_batch;
    if (opt->n > 1 && !o->json)
        (void)printf("random weights, pruned by magnitude to a density of %g (prune.density), %s\n", c->prune_density,
                     c->prune_allocation);
    return time_network(o, c->net_name[0] != '\0' ? c->net_name : c->net_genotype, c, &arch, opt);
}

static dass_status bench_latency(dass__opts *o, dass_config *c)
{
    dass_bench_latency_options opt = {0};
    DASS_TRY(parse_executions(o->execution, &opt));
    const bool several = opt.n > 1;
    if (!o->json)
        (void)printf("%-24s %s%6s %10s %10s %10s %10s %10s %8s%s\n", several ? "network" : "dense execution",
                     several ? "by       " : "", "batch", "median ms", "p10", "p90", "p99", "M MACs", "GFLOP/s",
                     several ? "     best   median  dense sparse blocks" : "");
    if (o->n_words == 1)
        return latency_of_net(o, c, &opt);
    for (int i = 1; i < o->n_words; ++i)
        DASS_TRY(latency_of_run(o, o->words[i], c, &opt));
    return DASS_OK;
}

/* ---- the command ----------------------------------------------------------------------------------------------- */

static dass_status bench_step(dass__opts *o, dass_config *c)
{
    static dass_bench_step b; /* large */
    if (o->n_words > 1)
        return DASS_FAIL(DASS_ARG,
                         "bench step: '%s' is one argument too many; the network comes from --genotype, --net or "
                         "net.*",
                         o->words[1]);
    DASS_TRY(dass__opts_config(o, NULL, c));
    DASS_TRY(dass_config_check(c));
    DASS_TRY(dass__check_use(c, NULL, DASS_USE_TRAIN | DASS_USE_PRUNE));
    const dass_bench_step_options opt = {.stage = o->stage != NULL ? o->stage : "dense",
                                         .ops = o->ops,
                                         .exec = {.no_capture = o->no_record, .no_merge = o->no_merge},
                                         .enough_sec = o->seconds};
    DASS_TRY(dass_bench_step_run(c, &opt, &b));
    if (o->json)
        return print_json(&b);
    print_text(&b);
    return DASS_OK;
}

dass_status dass__cmd_bench(dass__opts *o)
{
    static dass_config c; /* large */
    static const char *const kinds[] = {"step", "latency"};
    if (strcmp(o->words[0], "step") == 0)
        return bench_step(o, &c);
    if (strcmp(o->words[0], "latency") == 0)
        return bench_latency(o, &c);
    const char *near = dass_nearest(o->words[0], kinds, sizeof kinds / sizeof *kinds);
    if (near != NULL)
        return DASS_FAIL(DASS_ARG, "bench: no measurement '%s' (did you mean '%s'?)", o->words[0], near);
    return DASS_FAIL(DASS_ARG, "bench: no measurement '%s'; there are: step, latency", o->words[0]);
}
