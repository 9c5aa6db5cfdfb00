/* Private to src/bench: what the measurements share. */
#ifndef DASS_BENCH_PRIVATE_H
#define DASS_BENCH_PRIVATE_H

#include "dass/bench.h"

/* Sort n times, ascending. */
void dass__times_sort(double *sec, int n);
/* Of sorted times, the one that the part q in [0, 1] of them does not exceed, by the nearest rank; in milliseconds. */
double dass__times_quantile_ms(const double *sec, int n, double q);

/* Rates and decays under which a step of any kind stays finite. (coverage.c) */
extern const dass_step_block dass__coverage_block;

/* Run a graph of each operation at each of a table of shapes, with its gradient, on be; op_nodes[op] grows by the nodes
 * that ran. Errors: DASS_NUMERIC names a node that left something that is no number, DASS_INTERNAL an operation without
 * a graph, and those of the device. (coverage_graphs.c) */
dass_status dass__coverage_graphs_run(dass_backend *be, uint64_t *op_nodes, uint32_t *n_graphs);

#endif
