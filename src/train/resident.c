/* The training images on the device. A step that copies its batch there moves some hundred kilobytes and waits for
 * every part of it; with the data set in the store, and the order of an epoch beside it, the graphs take their batches
 * out of it themselves (dass_gather), and the step block is all that a step writes. Which samples a batch has is the
 * source's answer either way, so that the results are the same bytes, and a run may change over between two
 * checkpoints.
 *
 * Not for the test images: each is read once a run, so that keeping them would move the same bytes.
 */
#include <string.h>

#include "session.h"

static size_t image_bytes(const dass_dataset *d)
{
    return (size_t)d->h * (size_t)d->w * (size_t)d->c;
}

dass_status dass__resident_decide(dass__session *s)
{
    if (strcmp(s->command, "eval") == 0)
        return DASS_OK;
    DASS_TRY(dass_resident_choose(s->cfg, s->be, s->data->train.n, image_bytes(s->data), s->command, &s->resident));
    return DASS_OK;
}

/* An order has as many batches as the weights have steps; a shorter validation half goes into further passes, as its
 * source would. */
dass_status dass__resident_open(dass__session *s, const dass_source *weights, const dass_source *validation)
{
    if (!s->resident)
        return DASS_OK;
    const dass_part *part = &s->data->train;
    const int64_t length = dass_source_steps(weights) * s->cfg->train_batch;
    const size_t bytes = image_bytes(s->data);
    void *block = NULL;
    DASS_TRY(dass_mem_alloc((size_t)length * sizeof *s->order, "order of an epoch", &block));
    s->order = block;
    s->data_set = (dass_resident){.n = (int32_t)part->n, .length = (int32_t)length};
    DASS_TRY(dass_resident_write(s->store, s->be, s->data_set, validation != NULL, part->images, bytes, part->labels));
    if (!s->opt->quiet)
        dass_log(DASS_LOG_INFO, "%s: %lld training images stay on %s, %.1f MiB", s->command, (long long)part->n,
                 s->cfg->run_device, (double)bytes * (double)part->n / 1048576.0);
    return DASS_OK;
}

static dass_status write_order(dass__session *s, dass_source *src, uint32_t epoch, dass_buf to)
{
    const int64_t length = s->data_set.length;
    DASS_TRY(dass_source_order(src, epoch, length / s->cfg->train_batch, s->order));
    DASS_TRY(dass_store_write(s->store, to, s->order, (size_t)length * sizeof *s->order));
    return DASS_OK;
}

dass_status dass__resident_epoch(dass__session *s, dass_source *weights, dass_source *validation, uint32_t epoch,
                                 int64_t step)
{
    if (s->resident) {
        DASS_TRY(write_order(s, weights, epoch, DASS_BUF_ORDER));
        return validation != NULL ? write_order(s, validation, epoch, DASS_BUF_VAL_ORDER) : DASS_OK;
    }
    dass_source_seek(weights, epoch, step);
    if (validation != NULL)
        dass_source_seek(validation, epoch, step);
    return DASS_OK;
}
