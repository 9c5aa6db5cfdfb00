/* Sessions: opening run folder, backend, data and network, in that order, so that a mistake in the first costs no wait
 * for the others. No training here; see stage.c. Invariant: once open, every parameter exists and has its value: the
 * newest checkpoint's, the given file's, or the seed's.
 */
#include "session.h"

#include <stdlib.h>
#include <string.h>

void dass__network_text(const dass_arch *a, char *buf, size_t n)
{
    switch (a->kind) {
    case DASS_NET_SUPERNET:
        (void)snprintf(buf, n, "supernet C%d L%d", a->channels, a->layers);
        break;
    case DASS_NET_CELLS:
        (void)snprintf(buf, n, "cells C%d L%d", a->channels, a->layers);
        break;
    case DASS_NET_MOBILENET_V2:
        (void)snprintf(buf, n, "mobilenet_v2");
        break;
    case DASS_NET_RESNET18:
        (void)snprintf(buf, n, "resnet18");
        break;
    }
}

dass_status dass__register_params(dass_store *s, const dass_arch *arch, bool auxiliary)
{
    dass_graph *g = NULL;
    DASS_TRY(dass_graph_make(DASS_F32, &g));
    const int32_t dim[4] = {1, arch->in_channels, arch->image, arch->image};
    const dass_val x = dass_ref(g, "x", DASS_BUF_IMAGES, 0, DASS_LAYOUT_NHWC, 4, dim);
    const dass_net_extras extras = {.auxiliary = auxiliary};
    dass_val logits = 0;
    dass_val aux_logits = 0;
    dass_status st =
        dass_net_build(g, s, arch, DASS_WEIGHTS_DENSE, DASS_NORM_BATCH_TRACK, x, &extras, &logits, &aux_logits);
    if (st == DASS_OK)
        st = g->status;
    dass_graph_free(g);
    return st;
}

dass_phase dass__phase_of(const dass_config *c, dass_task task, dass_stage stage)
{
    dass_phase p = {.task = task, .stage = stage, .batch = (int32_t)c->train_batch, .lower = DASS_LOWER_ALL};
    if (task == DASS_TASK_EVAL) {
        p.batch = (int32_t)c->run_eval_batch;
        return p;
    }
    p.inputs = dass_task_validates(task) ? DASS_INPUTS_VALIDATION : DASS_INPUTS_MAIN;
    p.pad = (int32_t)c->data_pad;
    p.flip = c->data_flip;
    p.cutout = (int32_t)c->data_cutout;
    return p;
}

dass_status dass__feed(dass__session *s, dass_source *src, dass_batch *out)
{
    DASS_TRY(dass_source_next(src, out));
    return dass__feed_batch(s, DASS_INPUTS_MAIN, out);
}

dass_status dass__feed_batch(dass__session *s, dass_inputs to, const dass_batch *batch)
{
    return dass_steps_feed(s->store, to, batch->images, batch->image_bytes, batch->labels, batch->samples, batch->rows);
}

/* ---- opening -------------------------------------------------------------------------------------------------- */

static dass_status open_store(dass__session *s, const dass_params *from)
{
    const dass_config *c = s->cfg;
    DASS_TRY(dass_store_make(s->be->ops->real, &s->store));
    const bool trains = strcmp(s->command, "train") == 0 || strcmp(s->command, "prune") == 0;
    DASS_TRY(dass__register_params(s->store, &s->arch, trains && c->train_auxiliary > 0.0));
    const int64_t rows = c->train_batch > c->run_eval_batch ? c->train_batch : c->run_eval_batch;
    dass_store_size(s->store, DASS_BUF_IMAGES, rows * s->data->h * s->data->w * s->data->c);
    dass_store_size(s->store, DASS_BUF_LABELS, rows);
    dass_store_size(s->store, DASS_BUF_SAMPLES, rows);
    uint64_t bufs = 0;
    static const dass_buf base[] = {DASS_BUF_W, DASS_BUF_AF, DASS_BUF_ALPHA, DASS_BUF_STAT};
    for (size_t i = 0; i < sizeof base / sizeof *base; ++i)
        bufs |= (uint64_t)1 << base[i];
    DASS_TRY(dass_store_commit(s->store, s->be, bufs));
    DASS_TRY(dass__checkpoint_load(s));
    if (!s->resumed && from != NULL)
        DASS_TRY(dass_params_restore(from, s->store));
    else if (!s->resumed)
        DASS_TRY(dass_store_init(s->store, (uint64_t)c->run_seed));
    const int64_t n_alpha = dass_store_count(s->store, DASS_GROUP_ALPHA);
    if (n_alpha > 0) {
        void *block = NULL;
        DASS_TRY(dass_mem_alloc((size_t)n_alpha * sizeof(double), "alpha", &block));
        s->alpha = block;
    }
    return DASS_OK;
}

static dass_status open_parts(dass__session *s, const dass_params *from)
{
    const dass_config *c = s->cfg;
    DASS_TRY(dass_arena_make("kept counts", &s->mem));
    DASS_TRY(dass__folder_open(s, from));
    DASS_TRY(dass_dataset_load(c, &s->data));
    DASS_TRY(dass_dataset_check(s->data, c));
    DASS_TRY(dass_backend_open_for(c, c->run_device, &s->be));
    DASS_TRY(open_store(s, from));
    DASS_TRY(dass__resident_decide(s));
    DASS_TRY(dass__folder_logs(s));
    s->block.seed = (uint64_t)c->run_seed;
    char network[64];
    dass__network_text(&s->arch, network, sizeof network);
    dass_log(DASS_LOG_INFO,
             "%s: %s, %lld weights, %lld batch norm and bias, %lld alphas | %s: %lld training, %lld test "
             "images | %s",
             s->command, network, (long long)dass_store_count(s->store, DASS_GROUP_W),
             (long long)dass_store_count(s->store, DASS_GROUP_AF),
             (long long)dass_store_count(s->store, DASS_GROUP_ALPHA), s->data->name, (long long)s->data->train.n,
             (long long)s->data->test.n, c->run_device);
    return DASS_OK;
}

dass_status dass__session_open(const dass_run_options *opt, const char *command, const dass_arch *arch,
                               const dass_params *from, dass__session *s)
{
    memset(s, 0, sizeof *s);
    s->opt = opt;
    s->cfg = opt->config;
    s->command = command;
    s->arch = *arch;
    s->folder.lock = -1;
    s->start_density = 1.0;
    const dass_status st = open_parts(s, from);
    if (st != DASS_OK)
        dass__session_close(s);
    return st;
}

void dass__session_close(dass__session *s)
{
    dass__folder_close(s);
    dass_mem_free(s->alpha);
    dass_mem_free(s->order);
    dass_store_free(s->store);
    dass_backend_close(s->be);
    dass_dataset_free(s->data);
    dass_arena_free(s->mem);
    memset(s, 0, sizeof *s);
}
