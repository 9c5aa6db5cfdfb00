/* `dass info --coverage`: what of the engine a device has run, as a table. */
#include <jansson.h>
#include <stdio.h>

#include "cli.h"
#include "dass/bench.h"
#include "dass/exec.h"

static json_t *to_json(const char *device, const dass_bench_coverage *c)
{
    json_t *ops = json_object();
    json_t *kernels = json_object();
    json_t *graphs = json_array();
    for (int op = 1; op < DASS_N_OPS; op++)
        (void)json_object_set_new(ops, dass_op_get((dass_op)op)->name, json_integer((json_int_t)c->op_nodes[op]));
    uint64_t launches = 0;
    const char *name = NULL;
    for (uint32_t i = 0; (name = dass_backend_kernel(device, i, &launches)) != NULL; i++)
        (void)json_object_set_new(kernels, name, json_integer((json_int_t)launches));
    for (uint32_t i = 0; i < c->n_graphs; i++)
        (void)json_array_append_new(graphs, json_pack("{s:s, s:I, s:I, s:I, s:I}", "what", c->graph[i].what, "nodes",
                                                      (json_int_t)c->graph[i].nodes, "launches_alone",
                                                      (json_int_t)c->graph[i].launches_alone, "launches",
                                                      (json_int_t)c->graph[i].launches, "recorded",
                                                      (json_int_t)c->graph[i].recorded));
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:o, s:o, s:o}", "device", device, "ops", DASS_N_OPS - 1, "ops_run",
                     (int)c->n_ops_run, "kernels", (int)c->n_kernels, "kernels_run", (int)c->n_kernels_run, "graphs",
                     graphs, "op_nodes", ops, "kernel_launches", kernels);
}

static void print_table(const char *device, const dass_bench_coverage *c)
{
    (void)printf("%-40s %8s %10s %10s %10s\n", "one step of", "nodes", "launches", "merged", "recorded");
    for (uint32_t i = 0; i < c->n_graphs; i++)
        (void)printf("%-40s %8llu %10llu %10llu %10llu\n", c->graph[i].what, (unsigned long long)c->graph[i].nodes,
                     (unsigned long long)c->graph[i].launches_alone, (unsigned long long)c->graph[i].launches,
                     (unsigned long long)c->graph[i].recorded);
    (void)printf("operations run on %s: %u of %d\n", device, c->n_ops_run, DASS_N_OPS - 1);
    for (int op = 1; op < DASS_N_OPS; op++)
        if (c->op_nodes[op] == 0)
            (void)printf("  not in these graphs: %s\n", dass_op_get((dass_op)op)->name);
    if (c->n_kernels == 0)
        return;
    (void)printf("kernels run on %s: %u of %u\n", device, c->n_kernels_run, c->n_kernels);
    uint64_t launches = 0;
    const char *name = NULL;
    for (uint32_t i = 0; (name = dass_backend_kernel(device, i, &launches)) != NULL; i++)
        if (launches == 0)
            (void)printf("  not launched: %s\n", name);
}

dass_status dass__print_coverage(const dass__opts *o)
{
    static dass_bench_coverage c;
    const char *device = o->device != NULL ? o->device : "host";
    DASS_TRY(dass_bench_coverage_run(device, &c));
    if (!o->json) {
        print_table(device, &c);
        return DASS_OK;
    }
    json_t *root = to_json(device, &c);
    const int bad = root == NULL || json_dumpf(root, stdout, JSON_COMPACT) != 0;
    json_decref(root);
    (void)printf("\n");
    return bad ? DASS_FAIL(DASS_IO, "info: cannot write the JSON object to stdout") : DASS_OK;
}
