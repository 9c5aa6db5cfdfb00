/* Evaluation: the test images once, with running statistics, and the counts that stand beside an accuracy in a table.
 * No choice is made on the test images anywhere. Invariant: padded rows of the last batch count in nothing.
 */
#include <math.h>
#include <string.h>

#include "session.h"

dass_status dass__session_eval(dass__session *s, bool masked, double *loss, double *top1)
{
    dass_phase phase = dass__phase_of(s->cfg, DASS_TASK_EVAL, masked ? DASS_STAGE_FINETUNE : DASS_STAGE_DENSE);
    phase.mean = s->data->mean;
    phase.std = s->data->std;
    if (phase.batch > s->data->test.n)
        phase.batch = (int32_t)s->data->test.n;
    dass_steps steps;
    DASS_TRY(
        dass_steps_plan(s->store, &s->arch, &phase, 1, s->be, &(dass_exec_options){.guard = s->opt->guard}, &steps));
    const dass_source_options opt = {
        .batch = phase.batch, .seed = s->block.seed, .name = "test", .pad_last = true, .prefetch = true};
    dass_source *src = NULL;
    dass_status st = DASS_OK;
    double loss_sum = 0.0;
    double correct_sum = 0.0;
    DASS_TRY_TO(dass_steps_bind(s->store, &steps), st, out);
    DASS_TRY_TO(dass_source_make(s->data, &s->data->test, NULL, s->data->test.n, &opt, &src), st, out);
    for (int64_t i = 0; i < dass_source_steps(src); ++i) {
        dass_batch batch;
        double batch_loss = 0.0;
        double correct = 0.0;
        const int asked = dass__stop_asked(s);
        if (asked) { /* of the end of a run: every epoch is in a checkpoint */
            st = dass__stopped(s, asked);
            goto out;
        }
        DASS_TRY_TO(dass__feed(s, src, &batch), st, out);
        s->block.valid = (uint32_t)batch.valid;
        DASS_TRY_TO(dass_steps_run(s->store, &steps, 0, &s->block, &batch_loss, &correct), st, out);
        loss_sum += batch_loss * batch.valid;
        correct_sum += correct;
    }
    *loss = loss_sum / (double)s->data->test.n;
    *top1 = correct_sum / (double)s->data->test.n;
    if (!isfinite(*loss))
        st = DASS_FAIL(
            DASS_NUMERIC,
            "%s: the test loss is %g: the parameters are finite but their outputs are not; train with a lower "
            "learning rate",
            s->command, *loss);
out:
    s->block.valid = 0;
    dass_source_free(src);
    dass_steps_close(&steps);
    return st;
}

/* ---- counts --------------------------------------------------------------------------------------------------- */

/* Kept weights of [offset, offset + count); bits NULL: all. */
static int64_t count_kept(const uint64_t *bits, int64_t offset, int64_t count)
{
    if (bits == NULL)
        return count;
    int64_t n = 0;
    for (int64_t i = offset; i < offset + count; ++i)
        n += bits[i / 64] >> (i % 64) & 1;
    return n;
}

/* Multiply-accumulates of convolutions for one image, whole and weighted with the kept part of each weight tensor. */
static dass_status count_macs(dass__session *s, const uint64_t *bits, dass_eval *out)
{
    dass_graph *g = NULL;
    const dass_arch *a = &s->arch;
    DASS_TRY(dass_graph_make(DASS_F32, &g));
    const int32_t dim[4] = {1, a->in_channels, a->image, a->image};
    dass_val logits = 0;
    const dass_val x = dass_ref(g, "x", DASS_BUF_IMAGES, 0, DASS_LAYOUT_NHWC, 4, dim);
    const dass_status st = dass_net_build(g, s->store, a, DASS_WEIGHTS_DENSE, DASS_NORM_BATCH, x, NULL, &logits, NULL);
    for (dass_node n = 1; st == DASS_OK && n < g->n_nodes; ++n) {
        if (g->nodes[n].op != DASS_OP_CONV)
            continue;
        const dass_value *w = &g->vals[dass_node_in(g, n)[1]];
        const int64_t macs = dass_node_cost(g, n).macs;
        const int64_t count = dass_value_count(w);
        out->macs += macs;
        out->sparse_macs += macs / count * count_kept(bits, w->offset, count);
    }
    dass_graph_free(g);
    return st;
}

static dass_status count_all(dass__session *s, bool masked, dass_eval *out)
{
    void *bits = NULL;
    dass_status st = DASS_OK;
    if (masked) {
        const size_t bytes = dass_store_buf_bytes(s->store, DASS_BUF_BITS);
        DASS_TRY(dass_mem_alloc(bytes, "mask", &bits));
        DASS_TRY_TO(dass_store_read(s->store, DASS_BUF_BITS, bits, bytes), st, out);
    }
    for (uint32_t i = 0; i < dass_store_n_params(s->store); ++i) {
        const dass_param *p = dass_store_get(s->store, i);
        if (p->auxiliary)
            continue;
        if (p->group == DASS_GROUP_AF)
            out->unpruned += p->count;
        if (p->group != DASS_GROUP_W)
            continue;
        out->weights += p->count;
        out->kept += count_kept(bits, p->offset, p->count);
    }
    DASS_TRY_TO(count_macs(s, bits, out), st, out);
out:
    dass_mem_free(bits);
    return st;
}

static dass_status eval_params(const dass_run_options *opt, const dass_params *params, dass_eval *out)
{
    if (params->info.arch.kind == DASS_NET_SUPERNET)
        return DASS_FAIL(DASS_UNSUPPORTED,
                         "%s: a supernet, which keeps no running statistics: `dass derive` its genotype "
                         "and `dass train` that",
                         params->path);
    dass__session s;
    const bool masked = strcmp(params->info.state, "pruned") == 0;
    DASS_TRY(dass__session_open(opt, "eval", &params->info.arch, params, &s));
    dass_status st = DASS_OK;
    (void)snprintf(out->state, sizeof out->state, "%s", params->info.state);
    dass__network_text(&s.arch, out->network, sizeof out->network);
    out->n = s.data->test.n;
    if (masked) {
        DASS_TRY_TO(dass_store_commit(s.store, s.be, (uint64_t)1 << DASS_BUF_BITS), st, out);
        DASS_TRY_TO(dass_params_restore_mask(params, s.store), st, out);
    }
    DASS_TRY_TO(count_all(&s, masked, out), st, out);
    DASS_TRY_TO(dass__session_eval(&s, masked, &out->loss, &out->top1), st, out);
out:
    dass__session_close(&s);
    return st;
}

dass_status dass_run_eval(const dass_run_options *opt, const char *from, dass_eval *out)
{
    memset(out, 0, sizeof *out);
    dass_params params;
    DASS_TRY(dass_params_open(from, &params));
    const dass_status st = eval_params(opt, &params, out);
    dass_params_close(&params);
    return st;
}
