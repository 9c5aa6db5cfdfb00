/* The ceilings of a device that is not the processor: one large product by the library behind pointwise convolutions,
 * in the precision the device was opened with and on tensors of the type it stores, and one long sum and one long copy
 * by its own kernels. What the device does at best with what the engine has, so a share of it says how far a node is
 * from that; the data sheet's figures are higher. Invariant: operands are random numbers, since a card runs zeros
 * faster.
 */
#include <string.h>

#include "dass/bench.h"
#include "dass/bf16.h"
#include "dass/mem.h"
#include "dass/rng.h"

#define N_RUNS 3

enum { BUF_NONE, BUF_X, BUF_W, BUF_Y, BUF_SUM, N_BUFS };

typedef struct rig {
    dass_backend *be;
    dass_graph *graph;
    dass_exec *exec;
    dass_program *program;
    void *bufs[N_BUFS];
    double *sec;
} rig;

static dass_status build(dass_graph *g, dass_peak_size size)
{
    const int32_t n = size.rows;
    const int32_t floats = (int32_t)(size.bytes / sizeof(float));
    const int32_t x_dim[4] = {2 * n, n, 1, 1};
    const int32_t w_dim[4] = {n, n, 1, 1};
    const dass_val x = dass_ref_typed(g, "x", g->stored, BUF_X, 0, DASS_LAYOUT_NHWC, 4, x_dim);
    const dass_val w = dass_ref_typed(g, "w", g->stored, BUF_W, 0, DASS_LAYOUT_OIHW, 4, w_dim);
    const dass_val y = dass_conv(g, x, w, 0, (dass_conv_attr){.kh = 1, .kw = 1, .stride = 1, .dil = 1, .groups = 1});
    dass_place(g, y, BUF_Y, 0);
    const dass_val from = dass_ref(g, "from", BUF_X, 0, DASS_LAYOUT_FLAT, 1, &floats);
    dass_place(g, dass_norm2(g, &from, 1), BUF_SUM, 0);
    dass_copy(g, from, dass_ref(g, "to", BUF_Y, 0, DASS_LAYOUT_FLAT, 1, &floats));
    return dass_graph_finish(g);
}

static dass_status fill(rig *r, void *dst, size_t bytes)
{
    enum { PART = 1 << 20 };
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(PART * sizeof(float), "random numbers", &block));
    float *x = block;
    dass_rng random = dass_rng_make(1, DASS_RNG_TEST, 0, 0);
    for (size_t i = 0; i < PART; ++i) {
        x[i] = (float)dass_rng_below(&random, 1u << 24) * 0x1p-24f - 0.5f;
        if (r->be->stored == DASS_BF16) { /* two numbers as bf16, and as a float about the second */
            const uint32_t lower = dass_bf16_of((float)dass_rng_below(&random, 1u << 24) * 0x1p-24f - 0.5f);
            const uint32_t pair = (uint32_t)dass_bf16_of(x[i]) << 16 | lower;
            memcpy(&x[i], &pair, sizeof pair);
        }
    }
    dass_status st = DASS_OK;
    for (size_t at = 0; st == DASS_OK && at < bytes; at += PART * sizeof(float)) {
        const size_t left = bytes - at;
        st = r->be->ops->write(r->be, (char *)dst + at, x, left < PART * sizeof(float) ? left : PART * sizeof(float));
    }
    dass_mem_free(block);
    return st;
}

static dass_status open_rig(rig *r, dass_peak_size size)
{
    const size_t n = (size_t)size.rows;
    const size_t product = 2 * n * n * sizeof(float);
    const size_t most = size.bytes > product ? size.bytes : product;
    const size_t bytes[N_BUFS] = {0, most, n * n * sizeof(float), most, 256};
    for (int i = 1; i < N_BUFS; ++i)
        DASS_TRY(r->be->ops->alloc(r->be, bytes[i], "peak measurement", &r->bufs[i]));
    DASS_TRY(fill(r, r->bufs[BUF_X], bytes[BUF_X]));
    DASS_TRY(fill(r, r->bufs[BUF_W], bytes[BUF_W]));
    DASS_TRY(dass_graph_make_stored(r->be->ops->real, r->be->stored, &r->graph));
    DASS_TRY(build(r->graph, size));
    DASS_TRY(dass_exec_make(r->be, r->graph, NULL, &r->exec));
    DASS_TRY(dass_program_make(r->be, &r->exec, 1, r->bufs, N_BUFS, &r->program));
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(r->graph->n_nodes * sizeof *r->sec, "peak times", &block));
    r->sec = block;
    return DASS_OK;
}

static void close_rig(rig *r)
{
    dass_program_free(r->program);
    dass_exec_free(r->exec);
    dass_graph_free(r->graph);
    for (int i = 1; i < N_BUFS; ++i)
        if (r->bufs[i] != NULL)
            r->be->ops->free(r->be, r->bufs[i]);
    dass_mem_free(r->sec);
}

static void keep_best(const rig *r, dass_peak *out)
{
    for (dass_node n = 1; n < r->graph->n_nodes; ++n) {
        const dass_cost cost = dass_node_cost(r->graph, n);
        const dass_op op = r->graph->nodes[n].op;
        double *best = op == DASS_OP_CONV ? &out->gflops : op == DASS_OP_COPY ? &out->copy_gbs : &out->read_gbs;
        const double rate = (op == DASS_OP_CONV ? cost.flops : cost.bytes) / r->sec[n] * 1e-9;
        if (rate > *best)
            *best = rate;
    }
}

dass_status dass_peak_measure_device(dass_backend *be, dass_peak_size size, dass_peak *out)
{
    rig r = {.be = be};
    *out = (dass_peak){.isa = "library"};
    dass_status st = DASS_OK;
    DASS_TRY_TO(open_rig(&r, size), st, out);
    for (int i = 0; i < N_RUNS; ++i) {
        DASS_TRY_TO(dass_program_profile(r.program, 0, r.sec), st, out);
        keep_best(&r, out);
    }
out:
    close_rig(&r);
    return st;
}
