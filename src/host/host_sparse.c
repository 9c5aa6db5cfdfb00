/* Sparse pointwise convolutions: tiles of pixels over threads, each tile by a function of vec_sparse.c. A pixel's sums
 * do not depend on its tile, nor on the number of threads. The activations are channels-last as everywhere in the
 * graph.
 */
#include "host_items.h"

#include <omp.h>

typedef struct sparse_impl {
    dass__impl head;
    dass__v_spconv a;
    int64_t n_pixels;
    size_t scratch; /* floats of one thread */
} sparse_impl;

static dass_status spconv_run(dass_backend *be, void *impl)
{
    const dass_host *const h = (const dass_host *)be;
    const sparse_impl *const s = impl;
    void *const *const arg = s->head.arg;
    dass__v_spconv a = s->a;
    a.values = arg[1];
    a.columns = arg[2];
    a.starts = arg[3];
    a.bias = arg[4];
    const float *const x = arg[0];
    const float *const residual = arg[5];
    float *const y = arg[6];
    const int64_t n_tiles = (s->n_pixels + DASS__SPARSE_TILE - 1) / DASS__SPARSE_TILE;
#pragma omp parallel for schedule(static) num_threads(h->n_threads)
    for (int64_t t = 0; t < n_tiles; t++) {
        const int64_t first = t * DASS__SPARSE_TILE;
        const int64_t left = s->n_pixels - first;
        float *const scratch = (float *)s->head.ws + s->scratch * (size_t)omp_get_thread_num();
        h->vec->spconv(&a, x + first * a.ic, residual ? residual + first * a.oc : NULL, y + first * a.oc,
                       (int32_t)(left < DASS__SPARSE_TILE ? left : DASS__SPARSE_TILE), scratch);
    }
    return DASS_OK;
}

static dass_status spconv_prepare(dass_host *h, dass_arena *mem, const dass_graph *g, dass_node n, dass_kernel *k)
{
    sparse_impl *const s = dass__impl_run(mem, g, n, sizeof *s, k, spconv_run);
    if (s == NULL)
        return DASS_NOMEM;
    const dass_value *const y = dass__out(g, n, 0);
    s->a.ic = dass__in(g, n, 0)->dim[1];
    s->a.oc = y->dim[1];
    s->a.act = g->nodes[n].attr.sparse.act;
    s->n_pixels = (int64_t)y->dim[0] * y->dim[2] * y->dim[3];
    s->scratch = dass__line((size_t)dass__spconv_scratch(s->a.ic, s->a.oc) * sizeof(float)) / sizeof(float);
    k->ws_bytes = s->scratch * sizeof(float) * (size_t)h->n_threads;
    return DASS_OK;
}

const dass__row dass__rows_sparse[] = {
    {DASS_OP_SPCONV, "spconv", NULL, spconv_prepare, NULL, NULL},
    {.op = DASS_OP_NONE},
};
