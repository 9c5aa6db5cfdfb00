/* A network alone with what its parameters hold, for those who rewrite it with the weights at hand. Invariant: the
 * graph and the contents are of one moment; nothing here refers to the store afterwards.
 */
#include <string.h>

#include "dass/net.h"

static dass_status read_buffer(dass_store *s, dass_buf b, dass_net_eval *out)
{
    const int64_t n = dass_store_buf_count(s, b);
    void *p = NULL;
    if (n == 0)
        return DASS_OK;
    DASS_TRY(dass_mem_alloc((size_t)n * sizeof *out->data[b], "parameters", &p));
    out->data[b] = p;
    return dass_store_read_real(s, b, out->data[b], n);
}

dass_status dass_net_eval_make(dass_store *s, const dass_arch *arch, dass_weights weights, int32_t batch,
                               dass_net_eval *out)
{
    memset(out, 0, sizeof *out);
    if (arch->kind == DASS_NET_SUPERNET)
        return DASS_FAIL(DASS_ARG, "net: a supernet is not evaluated alone; derive a network from it");
    const int32_t dim[4] = {batch, arch->in_channels, arch->image, arch->image};
    const dass_buf w = weights == DASS_WEIGHTS_MASKED ? DASS_BUF_MASKED : DASS_BUF_W;
    dass_status st = DASS_OK;
    DASS_TRY(dass_graph_make(DASS_F64, &out->g)); /* the contents are doubles */
    out->x = dass_ref(out->g, "x", DASS_BUF_IMAGES, 0, DASS_LAYOUT_NHWC, 4, dim);
    DASS_TRY_TO(dass_net_build(out->g, s, arch, weights, DASS_NORM_RUNNING, out->x, NULL, &out->logits, NULL), st, out);
    DASS_TRY_TO(read_buffer(s, w, out), st, out);
    DASS_TRY_TO(read_buffer(s, DASS_BUF_AF, out), st, out);
    DASS_TRY_TO(read_buffer(s, DASS_BUF_STAT, out), st, out);
out:
    if (st != DASS_OK)
        dass_net_eval_free(out);
    return st;
}

void dass_net_eval_free(dass_net_eval *e)
{
    dass_graph_free(e->g);
    for (int b = 0; b < DASS_N_BUFS; b++)
        dass_mem_free(e->data[b]);
    memset(e, 0, sizeof *e);
}
