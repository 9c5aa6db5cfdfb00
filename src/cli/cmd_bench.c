/* `dass bench`: the measurements of src/bench as text or JSON. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "dass/bench.h"
#include "dass/run.h"

static double percent(double part, double whole)
{
    return whole > 0.0 ? 100.0 * part / whole : 0.0;
}

/* The nearer of the two ceilings: what an operation of these flops and bytes could take at least, over what it took. */
static double of_roof(const dass_bench_row *r, const dass_peak *p)
{
    const double compute = r->flops / (1e9 * p->gflops);
    const double memory = r->bytes / (1e9 * p->read_gbs);
    return r->sec > 0.0 ? 100.0 * (compute > memory ? compute : memory) / r->sec : 0.0;
}

/* ---- text ----------------------------------------------------------------------------------------------------- */

static void print_rows(const dass_bench_row *rows, uint32_t n, const dass_bench_step *b, int name_width)
{
    for (uint32_t i = 0; i < n; ++i) {
        const dass_bench_row *r = &rows[i];
        (void)printf("  %6.2f%% %9.3f %6lld %9.2f %8.2f %7.1f%% %7.1f%%  %-*s\n", percent(r->sec, b->ops_sec),
                     1e3 * r->sec, (long long)r->count, r->flops / r->sec / 1e9, r->bytes / r->sec / 1e9,
                     percent(r->flops / r->sec / 1e9, b->peak.gflops), of_roof(r, &b->peak), name_width, r->name);
    }
}

static void print_ops(const dass_bench_step *b)
{
    static const char head[] = "   share        ms  nodes   GFLOP/s     GB/s   of peak  of roof  ";
    if (b->peak.threads > 0)
        (void)printf("\nmachine, in this run: %.1f GFLOP/s (%s, %d threads), ", b->peak.gflops, b->peak.isa,
                     b->peak.threads);
    else
        (void)printf("\ndevice, in this run: %.1f GFLOP/s (a large product), ", b->peak.gflops);
    (void)printf("memory read %.1f GB/s, copy %.1f GB/s\n", b->peak.read_gbs, b->peak.copy_gbs);
    (void)printf("of peak: GFLOP/s over the machine's. of roof: the time that flops or bytes need at least, over the "
                 "time taken\n(bytes from cache may pass 100 %%)\n\n%soperation\n",
                 head);
    print_rows(b->op, b->n_ops, b, 0);
    (void)printf("  100.00%% %9.3f %6lld\n\n%skernel and node\n", 1e3 * b->ops_sec, (long long)b->nodes, head);
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
        (void)json_array_append_new(list, json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "name", r->name,
                                                    "nodes", (json_int_t)r->count, "ms", 1e3 * r->sec, "share",
                                                    percent(r->sec, b->ops_sec) / 100.0, "gflops",
                                                    r->flops / r->sec / 1e9, "gbs", r->bytes / r->sec / 1e9, "of_peak",
                                                    percent(r->flops / r->sec / 1e9, b->peak.gflops) / 100.0, "of_roof",
                                                    of_roof(r, &b->peak) / 100.0));
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
        (void)json_object_set_new(root, "ops", rows_json(b->op, b->n_ops, b));
        (void)json_object_set_new(root, "top", rows_json(b->top, b->n_top, b));
    }
    const int bad = root == NULL || json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)) != 0;
    json_decref(root);
    (void)printf("\n");
    return bad ? DASS_FAIL(DASS_IO, "bench: cannot write the JSON object to stdout") : DASS_OK;
}

/* ---- latency --------------------------------------------------------------------------------------------------- */

static dass_status print_latency(const dass__opts *o, const char *name, const dass_bench_latency *l)
{
    if (!o->json) {
        (void)printf("%-24s %6d %10.3f %10.3f %10.3f %10.3f %10.1f %8.1f\n", name, l->batch, l->median_ms, l->p10_ms,
                     l->p90_ms, l->p99_ms, (double)l->macs_per_image * 1e-6, l->gflops);
        (void)fflush(stdout);
        return DASS_OK;
    }
    json_t *root = json_pack("{s:s, s:s, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:I, s:f}", "network", name, "execution",
                             "dense", "batch", l->batch, "warm_up", l->n_warm, "repeats", l->n_repeats, "median_ms",
                             l->median_ms, "p10_ms", l->p10_ms, "p90_ms", l->p90_ms, "p99_ms", l->p99_ms, "macs",
                             (json_int_t)l->macs_per_image, "gflops", l->gflops);
    const int bad = root == NULL || json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)) != 0;
    json_decref(root);
    (void)printf("\n");
    return bad ? DASS_FAIL(DASS_IO, "bench: cannot write the JSON object to stdout") : DASS_OK;
}

static dass_status latency_of(dass__opts *o, const char *run, dass_config *c)
{
    dass_arch arch;
    dass_bench_latency l;
    if (run == NULL) {
        DASS_TRY(dass__opts_config(o, NULL, c));
        DASS_TRY(dass_arch_from_config(c, &arch));
    } else {
        dass_params params;
        DASS_TRY(dass__run_config(o, run, c));
        DASS_TRY(dass_params_open(run, &params));
        arch = params.info.arch;
        dass_params_close(&params);
    }
    DASS_TRY(dass_config_check(c));
    DASS_TRY(dass_bench_latency_run(c, &arch, (int32_t)c->bench_batch, &l));
    const char *name = run != NULL ? run : c->net_name[0] != '\0' ? c->net_name : c->net_genotype;
    return print_latency(o, name, &l);
}

static dass_status bench_latency(dass__opts *o, dass_config *c)
{
    if (!o->json)
        (void)printf("%-24s %6s %10s %10s %10s %10s %10s %8s\n", "dense execution", "batch", "median ms", "p10", "p90",
                     "p99", "M MACs", "GFLOP/s");
    if (o->n_words == 1)
        return latency_of(o, NULL, c);
    for (int i = 1; i < o->n_words; ++i)
        DASS_TRY(latency_of(o, o->words[i], c));
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
    const dass_bench_step_options opt = {.stage = o->stage != NULL ? o->stage : "dense", .ops = o->ops};
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
