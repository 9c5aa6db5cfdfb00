/* `dass plan`: the sizes of a configuration, as one JSON object or as a table. Measures through the same graphs that
 * the commands run, by default on the backend that computes nothing.
 */
#include <jansson.h>
#include <stdio.h>

#include "cli.h"
#include "dass/bench.h"
#include "dass/run.h"

static double mib(size_t bytes)
{
    return (double)bytes / 1048576.0;
}

static json_t *stages_json(const dass_sizes *s)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < s->n_stages; ++i) {
        const dass_stage_size *t = &s->stage[i];
        (void)json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:I}", "stage", t->stage, "task",
                                                    t->task, "batch", t->batch, "nodes", (json_int_t)t->nodes,
                                                    "peak_bytes", (json_int_t)t->peak_bytes, "bound_bytes",
                                                    (json_int_t)t->bound_bytes, "sum_bytes", (json_int_t)t->sum_bytes));
    }
    return list;
}

static json_t *traffic_json(const dass_bench_traffic *t)
{
    json_t *list = json_array();
    for (int i = 0; i < DASS_TRAFFIC_STAGES; ++i)
        (void)json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:I, s:I}", "stage", t[i].stage, "nodes_unfused",
                                                    (json_int_t)t[i].nodes_unfused, "nodes", (json_int_t)t[i].nodes,
                                                    "bytes_unfused", (json_int_t)t[i].bytes_unfused, "bytes",
                                                    (json_int_t)t[i].bytes));
    return list;
}

static dass_status print_json(const dass_sizes *s, const dass_bench_traffic *traffic)
{
    const dass_stage_size *big = &s->stage[s->largest];
    const dass_net_count *n = &s->count;
    json_t *root = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:o, s:o}",
        "network", s->network, "backend", s->backend, "precision", s->precision, "weights", (json_int_t)n->weights,
        "params", (json_int_t)n->params, "unpruned", (json_int_t)n->unpruned, "alphas", (json_int_t)n->alphas, "kept",
        (json_int_t)s->kept, "density", s->density, "macs_per_image", (json_int_t)n->macs_per_image, "nodes_forward",
        (json_int_t)n->nodes_forward, "nodes_step", (json_int_t)s->nodes_step, "peak_bytes",
        (json_int_t)big->peak_bytes, "bound_bytes", (json_int_t)big->bound_bytes, "sum_bytes",
        (json_int_t)big->sum_bytes, "param_bytes", (json_int_t)s->param_bytes, "input_bytes",
        (json_int_t)s->input_bytes, "batch", s->batch, "stages", stages_json(s), "steps", traffic_json(traffic));
    const int bad = root == NULL || json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) != 0;
    json_decref(root);
    (void)printf("\n");
    return bad ? DASS_FAIL(DASS_IO, "plan: cannot write the JSON object to stdout") : DASS_OK;
}

static void print_traffic(const dass_bench_traffic *t)
{
    (void)printf("\n  %-9s %18s %18s %14s\n", "a step of", "nodes, unfused", "MiB they move", "unfused");
    for (int i = 0; i < DASS_TRAFFIC_STAGES; ++i)
        (void)printf("  %-9s %8lld %9lld %18.1f %14.1f\n", t[i].stage, (long long)t[i].nodes,
                     (long long)t[i].nodes_unfused, t[i].bytes / 1048576.0, t[i].bytes_unfused / 1048576.0);
}

static void print_table(const dass_sizes *s, const dass_bench_traffic *traffic)
{
    const dass_net_count *n = &s->count;
    (void)printf("%s on %s, %s, batch %d\n", s->network, s->backend, s->precision, s->batch);
    (void)printf("  %-16s %lld weights + %lld batch norm and biases = %lld\n", "parameters", (long long)n->weights,
                 (long long)n->unpruned, (long long)n->params);
    if (s->supernet)
        (void)printf("  %-16s %lld\n", "alphas", (long long)n->alphas);
    (void)printf("  %-16s %lld weights at density %.4g\n", "kept", (long long)s->kept, s->density);
    (void)printf("  %-16s %lld multiply-accumulates per image\n", "work", (long long)n->macs_per_image);
    (void)printf("  %-16s %lld forward, %lld a step\n", "operations", (long long)n->nodes_forward,
                 (long long)s->nodes_step);
    (void)printf("  %-16s %.1f MiB parameters and optimiser, %.1f MiB inputs\n\n", "buffers", mib(s->param_bytes),
                 mib(s->input_bytes));
    (void)printf("  %-9s %-8s %6s %8s %12s %12s %12s\n", "stage", "task", "batch", "nodes", "peak MiB", "bound MiB",
                 "no reuse MiB");
    for (uint32_t i = 0; i < s->n_stages; ++i) {
        const dass_stage_size *t = &s->stage[i];
        (void)printf("  %-9s %-8s %6d %8lld %12.1f %12.1f %12.1f%s\n", t->stage, t->task, t->batch, (long long)t->nodes,
                     mib(t->peak_bytes), mib(t->bound_bytes), mib(t->sum_bytes), i == s->largest ? "  largest" : "");
        if (t->launches_alone > 0)
            (void)printf("  %-9s %lld launches node by node, %lld merged\n", "", (long long)t->launches_alone,
                         (long long)t->launches);
    }
    print_traffic(traffic);
    (void)printf("\n  the largest values of %s %s\n  %10s  %-13s  %s\n", s->stage[s->largest].stage,
                 s->stage[s->largest].task, "MiB", "nodes alive", "made by, shape, name");
    for (uint32_t i = 0; i < s->n_big; ++i)
        (void)printf("  %10.2f  %5u .. %5u  %s\n", mib(s->big[i].bytes), s->big[i].first, s->big[i].last,
                     s->big[i].text);
}

dass_status dass__cmd_plan(dass__opts *o)
{
    static dass_config c; /* large */
    static dass_sizes s;
    DASS_TRY(dass__opts_config(o, NULL, &c));
    DASS_TRY(dass_config_check(&c));
    DASS_TRY(dass__check_use(&c, NULL, DASS_USE_TRAIN | DASS_USE_PRUNE | DASS_USE_EVAL));
    const char *device = o->device != NULL ? o->device : "null";
    dass_bench_traffic traffic[DASS_TRAFFIC_STAGES];
    DASS_TRY(dass_sizes_measure(&c, device, &s));
    DASS_TRY(dass_bench_traffic_measure(&c, device, traffic));
    if (o->json)
        return print_json(&s, traffic);
    print_table(&s, traffic);
    return DASS_OK;
}
