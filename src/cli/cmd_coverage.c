/* `dass info --coverage`: what of the engine a device has run, as a table, and what a search step needs of it. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "dass/bench.h"
#include "dass/exec.h"

static bool is_kernel(const char *kind)
{
    return strncmp(kind, DASS_KERNEL_PREFIX, strlen(DASS_KERNEL_PREFIX)) == 0;
}

/* Launches of kernels of ours in one step; the other kinds are libraries and copies. */
static uint64_t kernels_of(const dass_bench_coverage *c, const dass_coverage_step *s)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < c->n_kinds; i++)
        sum += is_kernel(c->kind[i]) ? s->of[i] : 0;
    return sum;
}

static json_t *step_json(const dass_bench_coverage *c, const dass_coverage_step *s)
{
    json_t *of = json_object();
    for (uint32_t i = 0; i < c->n_kinds; i++)
        if (s->of[i] > 0)
            (void)json_object_set_new(of, c->kind[i], json_integer((json_int_t)s->of[i]));
    json_t *step = json_pack("{s:s, s:b, s:I, s:I, s:I, s:I, s:o}", "what", s->what, "run", s->run, "nodes",
                             (json_int_t)s->nodes, "launches_alone", (json_int_t)s->launches_alone, "launches",
                             (json_int_t)s->launches, "recorded", (json_int_t)s->recorded, "launches_of", of);
    if (s->run)
        (void)json_object_set_new(step, "executed", json_integer((json_int_t)s->executed));
    return step;
}

static json_t *to_json(const char *device, const dass_bench_coverage *c)
{
    json_t *ops = json_object();
    json_t *kinds = json_object();
    json_t *steps = json_array();
    for (int op = 1; op < DASS_N_OPS; op++)
        (void)json_object_set_new(ops, dass_op_get((dass_op)op)->name, json_integer((json_int_t)c->op_nodes[op]));
    for (uint32_t i = 0; i < c->n_kinds; i++)
        (void)json_object_set_new(kinds, c->kind[i], json_integer((json_int_t)c->launches[i]));
    for (uint32_t i = 0; i < c->n_steps; i++)
        (void)json_array_append_new(steps, step_json(c, &c->step[i]));
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:o, s:o, s:o}", "device", device, "ops", DASS_N_OPS - 1,
                     "ops_run", (int)c->n_ops_run, "kinds", (int)c->n_kinds, "kinds_run", (int)c->n_kinds_run,
                     "search_needs", (int)c->n_needed, "search_needs_run", (int)c->n_needed_run, "graphs",
                     (int)c->n_graphs, "steps", steps, "op_nodes", ops, "launches", kinds);
}

static void print_number(bool there, uint64_t n)
{
    if (there)
        (void)printf(" %9llu", (unsigned long long)n);
    else
        (void)printf(" %9s", "-");
}

/* Steps that were run, or those that were only planned. */
static void print_steps(const dass_bench_coverage *c, const char *title, bool run)
{
    (void)printf("%-50s %9s %9s %9s", title, "nodes", "launches", "merged");
    if (c->n_kinds > 0)
        (void)printf(" %9s", "kernels");
    for (uint32_t i = 0; i < c->n_kinds; i++)
        if (!is_kernel(c->kind[i]))
            (void)printf(" %9s", c->kind[i]);
    (void)printf(" %9s %9s\n", "executed", "recorded");
    for (uint32_t k = 0; k < c->n_steps; k++) {
        const dass_coverage_step *s = &c->step[k];
        if (s->run != run)
            continue;
        (void)printf("%-50s", s->what);
        print_number(true, s->nodes);
        print_number(true, s->launches_alone);
        print_number(true, s->launches);
        if (c->n_kinds > 0)
            print_number(true, kernels_of(c, s));
        for (uint32_t i = 0; i < c->n_kinds; i++)
            if (!is_kernel(c->kind[i]))
                print_number(true, s->of[i]);
        print_number(run, s->executed);
        print_number(run, s->recorded);
        (void)printf("\n");
    }
}

static void print_table(const char *device, const dass_bench_coverage *c)
{
    char title[96];
    print_steps(c, "one step of", true);
    (void)snprintf(title, sizeof title, "search, %s", c->search);
    print_steps(c, title, false);
    (void)printf("graphs of single operations at odd shapes, run on %s: %u\n", device, c->n_graphs);
    (void)printf("operations run on %s: %u of %d\n", device, c->n_ops_run, DASS_N_OPS - 1);
    for (int op = 1; op < DASS_N_OPS; op++)
        if (c->op_nodes[op] == 0)
            (void)printf("  never ran: %s\n", dass_op_get((dass_op)op)->name);
    if (c->n_kinds == 0)
        return;
    (void)printf("kernels, libraries and copies launched on %s: %u of %u\n", device, c->n_kinds_run, c->n_kinds);
    for (uint32_t i = 0; i < c->n_kinds; i++)
        if (c->launches[i] == 0)
            (void)printf("  never launched: %s\n", c->kind[i]);
    (void)printf("of those that the planned search steps launch: %u of %u\n", c->n_needed_run, c->n_needed);
}

static dass_status print_json(const char *device, const dass_bench_coverage *c)
{
    json_t *root = to_json(device, c);
    const int bad = root == NULL || json_dumpf(root, stdout, JSON_COMPACT) != 0;
    json_decref(root);
    (void)printf("\n");
    return bad ? DASS_FAIL(DASS_IO, "info: cannot write the JSON object to stdout") : DASS_OK;
}

dass_status dass__print_coverage(const dass__opts *o)
{
    static dass_config cfg; /* large */
    static dass_bench_coverage c;
    const char *device = o->device != NULL ? o->device : "host";
    DASS_TRY(dass__opts_config(o, NULL, &cfg));
    DASS_TRY(dass_bench_coverage_run(&cfg, device, &c));
    if (o->json)
        DASS_TRY(print_json(device, &c));
    else
        print_table(device, &c);
    return dass_bench_coverage_check(device, &c);
}
