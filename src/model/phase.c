/* The graphs of the phases: input, masks, network and loss, then gradient and optimiser, as net.h
 * lists them. Which phase it is decides only which nodes are emitted: nothing is frozen by a flag.
 * Invariant: masks come first in a graph, so that every later reference to MASKED means the masked
 * weights of this step, and whole-buffer references come last, so that they see the gradients.
 */
#include "model.h"

typedef struct loss_values {
    dass_val loss, correct;
    dass_val aux; /* loss of the auxiliary head, or 0 */
} loss_values;

/* Reference to a whole buffer of the store, flat. */
dass_val dass__whole(dass_graph *g, const dass_store *s, dass_buf b)
{
    const int32_t dim[4] = {(int32_t)dass_store_buf_count(s, b), 1, 1, 1};
    if (b == DASS_BUF_BITS)
        return dass_ref_typed(g, "BITS", DASS_BITS, b, 0, DASS_LAYOUT_FLAT, 1, dim);
    return dass_ref(g, dass_buf_name(b), b, 0, DASS_LAYOUT_FLAT, 1, dim);
}

dass_val dass__step_ref(dass_graph *g)
{
    const int32_t dim[4] = {(int32_t)sizeof(dass_step_block), 1, 1, 1};
    return dass_ref_typed(g, "step", DASS_U8, DASS_BUF_STEP, 0, DASS_LAYOUT_FLAT, 1, dim);
}

static dass_val whole(dass_graph *g, const dass_store *s, dass_buf b)
{
    return dass__whole(g, s, b);
}

static dass_val step_block(dass_graph *g)
{
    return dass__step_ref(g);
}

/* MASKED of this step. The score stage decides anew which entries are kept; the finetune stage
 * reads the bits. */
static void build_masks(dass_graph *g, const dass_store *s, const dass_phase *phase)
{
    if (phase->stage == DASS_STAGE_DENSE)
        return;
    dass_graph_scope(g, "mask");
    if (phase->stage == DASS_STAGE_SCORE)
        dass_mask_threshold(g, whole(g, s, DASS_BUF_SCORE), whole(g, s, DASS_BUF_BITS),
                            phase->segments, phase->n_segments);
    dass_mask_apply(g, whole(g, s, DASS_BUF_W), whole(g, s, DASS_BUF_BITS),
                    whole(g, s, DASS_BUF_MASKED));
}

dass_buf dass__weights_buf(const dass_graph *g, bool masked)
{
    if (g->stored != g->real)
        return DASS_BUF_W_STORED;
    return masked ? DASS_BUF_MASKED : DASS_BUF_W;
}

/* What convolutions read, when it is not W or MASKED itself. */
static void build_stored(dass_graph *g, const dass_store *s, const dass_phase *phase)
{
    if (g->stored == g->real)
        return;
    dass_graph_scope(g, "stored");
    const dass_buf from = phase->stage == DASS_STAGE_DENSE ? DASS_BUF_W : DASS_BUF_MASKED;
    dass_place(g, dass_cast(g, whole(g, s, from), g->stored), DASS_BUF_W_STORED, 0);
}

typedef struct batch_values {
    dass_val images, labels, samples;
} batch_values;

/* The batch as the caller copied it, or taken out of the data set in the store. */
static batch_values build_batch(dass_graph *g, const dass_arch *arch, const dass_phase *phase, dass_val step)
{
    const bool val = phase->inputs == DASS_INPUTS_VALIDATION;
    const dass_resident *of = &phase->resident;
    const bool resident = of->n != 0;
    const int32_t n = resident ? of->n : phase->batch;
    const int32_t pixels[4] = {n, arch->in_channels, arch->image, arch->image};
    const dass_buf images = resident ? DASS_BUF_DATA_IMAGES : val ? DASS_BUF_VAL_IMAGES : DASS_BUF_IMAGES;
    const dass_buf labels = resident ? DASS_BUF_DATA_LABELS : val ? DASS_BUF_VAL_LABELS : DASS_BUF_LABELS;
    const dass_buf samples = val ? DASS_BUF_VAL_SAMPLES : DASS_BUF_SAMPLES;
    batch_values b = {.labels = dass_ref_typed(g, "labels", DASS_I32, labels, 0, DASS_LAYOUT_FLAT, 1, &n)};
    if (!resident)
        b.samples = dass_ref_typed(g, "samples", DASS_I32, samples, 0, DASS_LAYOUT_FLAT, 1, &n);
    b.images = dass_ref_typed(g, "images", DASS_U8, images, 0, DASS_LAYOUT_NHWC, 4, pixels);
    if (!resident)
        return b;
    const dass_val order = dass_ref_typed(g, "order", DASS_I32, val ? DASS_BUF_VAL_ORDER : DASS_BUF_ORDER, 0,
                                          DASS_LAYOUT_FLAT, 1, &of->length);
    dass_gather(g, b.images, b.labels, order, step, phase->batch, &b.images, &b.labels, &b.samples);
    return b;
}

/* Images to loss. Evaluation sees plain images and the plain loss. */
static dass_status build_forward(dass_graph *g, dass_store *s, const dass_arch *arch,
                                 const dass_phase *phase, loss_values *out)
{
    const bool eval = phase->task == DASS_TASK_EVAL;
    const dass_val step = step_block(g);
    dass_graph_scope(g, "input");
    const batch_values b = build_batch(g, arch, phase, step);
    const dass_val x = dass_augment(g, b.images, b.samples, step, phase->mean, phase->std, eval ? 0 : phase->pad,
                                    eval ? false : phase->flip, eval ? 0 : phase->cutout);
    dass_norm norm = DASS_NORM_BATCH;
    if (eval)
        norm = DASS_NORM_RUNNING;
    else if (phase->task == DASS_TASK_WEIGHTS)
        norm = DASS_NORM_BATCH_TRACK;
    const bool trains = phase->task == DASS_TASK_WEIGHTS;
    const dass_net_extras extras = {.samples = b.samples,
                                    .step = step,
                                    .drop_path = trains && phase->drop_path,
                                    .auxiliary = trains && phase->auxiliary > 0.0};
    dass_val logits = 0;
    dass_val aux_logits = 0;
    DASS_TRY(
        dass_net_build(g, s, arch,
                       phase->stage == DASS_STAGE_DENSE ? DASS_WEIGHTS_DENSE : DASS_WEIGHTS_MASKED,
                       norm, x, &extras, &logits, &aux_logits));
    dass_graph_scope(g, "loss");
    dass_xent(g, logits, b.labels, step, eval ? 0.0 : phase->label_smoothing, &out->loss, &out->correct);
    out->aux = 0;
    dass_val aux_correct = 0;
    if (aux_logits)
        dass_xent(g, aux_logits, b.labels, step, phase->label_smoothing, &out->aux, &aux_correct);
    return g->status;
}

/* The network alone on a graph that is thrown away, so that the store knows its counts before masks
 * refer to whole buffers. */
static dass_status add_parameters(dass_store *s, const dass_arch *arch, const dass_phase *phase,
                                  dass_dtype real)
{
    dass_graph *g = NULL;
    DASS_TRY(dass_graph_make(real, &g));
    const int32_t dim[4] = {1, arch->in_channels, arch->image, arch->image};
    dass_val logits = 0;
    const dass_val x = dass_ref(g, "x", DASS_BUF_IMAGES, 0, DASS_LAYOUT_NHWC, 4, dim);
    const dass_net_extras extras = {.auxiliary = phase->task == DASS_TASK_WEIGHTS &&
                                                 phase->auxiliary > 0.0};
    const dass_status st = dass_net_build(g, s, arch, DASS_WEIGHTS_DENSE, DASS_NORM_BATCH, x,
                                          &extras, &logits, NULL);
    dass_graph_free(g);
    return st;
}

/* ---- optimisers ---------------------------------------------------------------------------- */

static void sgd(dass_graph *g, const dass_store *s, const dass_buf bufs[3], dass_val norm2,
                dass_val bits, int32_t group)
{
    if (!dass_store_buf_count(s, bufs[0]))
        return;
    dass_graph_scope(g, "sgd");
    dass_sgd(g, whole(g, s, bufs[0]), whole(g, s, bufs[1]), whole(g, s, bufs[2]), step_block(g),
             norm2, bits, group);
}

static const dass_buf w_bufs[3] = {DASS_BUF_W, DASS_BUF_W_MOM, DASS_BUF_W_GRAD};
static const dass_buf af_bufs[3] = {DASS_BUF_AF, DASS_BUF_AF_MOM, DASS_BUF_AF_GRAD};
static const dass_buf score_bufs[3] = {DASS_BUF_SCORE, DASS_BUF_SCORE_MOM, DASS_BUF_SCORE_GRAD};

/* The auxiliary head's part of a gradient buffer is 0: nobody writes it. group: W or AF. */
static void zero_auxiliary(dass_graph *g, const dass_store *s, dass_group group, dass_buf grad)
{
    for (uint32_t i = 0; i < dass_store_n_params(s); i++) {
        const dass_param *p = dass_store_get(s, i);
        if (!p->auxiliary || p->group != group)
            continue;
        const int32_t dim[4] = {(int32_t)p->count, 1, 1, 1};
        dass_fill(g, dass_ref(g, p->name, grad, p->offset, DASS_LAYOUT_FLAT, 1, dim), 0.0);
    }
}

/* Gradient of the loss, plus its weight times the auxiliary one; what convolutions read into W_GRAD,
 * AF into AF_GRAD. */
static dass_status take_gradient(dass_graph *g, const dass_store *s, const dass_phase *phase,
                                 const loss_values *values, dass_buf weights)
{
    const dass_wrt wrt[2] = {{weights, DASS_BUF_W_GRAD}, {DASS_BUF_AF, DASS_BUF_AF_GRAD}};
    if (!values->aux) {
        DASS_TRY(dass_graph_grad(g, values->loss, wrt, 2));
        zero_auxiliary(g, s, DASS_GROUP_W, DASS_BUF_W_GRAD);
        zero_auxiliary(g, s, DASS_GROUP_AF, DASS_BUF_AF_GRAD);
        return g->status;
    }
    dass_fill(g, whole(g, s, DASS_BUF_AUX_WEIGHT), phase->auxiliary);
    const dass_val losses[2] = {values->loss, values->aux};
    const dass_val weights_of[2] = {0, whole(g, s, DASS_BUF_AUX_WEIGHT)};
    return dass_graph_grad_losses(g, losses, weights_of, 2, wrt, 2);
}

/* Gradients of weights and AF, clipped together; decay of pruned weights is left away, since
 * nothing would undo it. */
static dass_status step_weights(dass_graph *g, const dass_store *s, const dass_phase *phase,
                                const loss_values *values)
{
    const bool masked = phase->stage == DASS_STAGE_FINETUNE;
    DASS_TRY(take_gradient(g, s, phase, values, dass__weights_buf(g, masked)));
    dass_graph_scope(g, "update");
    const dass_val bits = masked ? whole(g, s, DASS_BUF_BITS) : 0;
    if (masked)
        dass_mask_bwd_weights(g, whole(g, s, DASS_BUF_W_GRAD), bits);
    const dass_val grads[2] = {whole(g, s, DASS_BUF_W_GRAD), whole(g, s, DASS_BUF_AF_GRAD)};
    const dass_val norm2 = dass_norm2(g, grads, 2);
    dass_place(g, norm2, DASS_BUF_NORM2, 0);
    sgd(g, s, w_bufs, norm2, bits, 0);
    sgd(g, s, af_bufs, norm2, 0, 1);
    return g->status;
}

/* The mask is straight-through: the gradient of the masked weights, pruned entries included,
 * becomes that of the scores. Scores are clipped by their own norm; batch norm and biases, which
 * keep the weights' learning rate, by theirs. The auxiliary head is kept whole, so its scores
 * decide nothing and have no part in the norm. */
static dass_status step_scores(dass_graph *g, const dass_store *s, const dass_phase *phase,
                               const loss_values *values)
{
    DASS_TRY(take_gradient(g, s, phase, values, dass__weights_buf(g, true)));
    dass_graph_scope(g, "update");
    dass_mask_bwd_scores(g, whole(g, s, DASS_BUF_W_GRAD), whole(g, s, DASS_BUF_W),
                         whole(g, s, DASS_BUF_SCORE), whole(g, s, DASS_BUF_SCORE_GRAD));
    zero_auxiliary(g, s, DASS_GROUP_W, DASS_BUF_SCORE_GRAD);
    const dass_val score_grad = whole(g, s, DASS_BUF_SCORE_GRAD);
    const dass_val af_grad = whole(g, s, DASS_BUF_AF_GRAD);
    const dass_val score_norm2 = dass_norm2(g, &score_grad, 1);
    const dass_val af_norm2 = dass_norm2(g, &af_grad, 1);
    dass_place(g, score_norm2, DASS_BUF_NORM2, 0);
    sgd(g, s, score_bufs, score_norm2, 0, 2);
    sgd(g, s, af_bufs, af_norm2, 0, 1);
    return g->status;
}

static dass_status step_alpha(dass_graph *g, const dass_store *s, dass_val loss)
{
    DASS_TRY(dass_graph_grad(g, loss, &(dass_wrt){DASS_BUF_ALPHA, DASS_BUF_ALPHA_GRAD}, 1));
    dass_graph_scope(g, "update");
    dass_adam(g, whole(g, s, DASS_BUF_ALPHA), whole(g, s, DASS_BUF_ALPHA_M),
              whole(g, s, DASS_BUF_ALPHA_V), whole(g, s, DASS_BUF_ALPHA_GRAD), step_block(g), 3);
    return g->status;
}

/* Averages of what this step has changed: weights, batch norm, running statistics. */
static void average(dass_graph *g, const dass_store *s, const dass_phase *phase)
{
    static const dass_buf pairs[3][2] = {{DASS_BUF_W_EMA, DASS_BUF_W},
                                         {DASS_BUF_AF_EMA, DASS_BUF_AF},
                                         {DASS_BUF_STAT_EMA, DASS_BUF_STAT}};
    dass_graph_scope(g, "average");
    for (int i = phase->stage == DASS_STAGE_SCORE; i < 3; i++)
        if (dass_store_buf_count(s, pairs[i][1]))
            dass_ema(g, whole(g, s, pairs[i][0]), whole(g, s, pairs[i][1]), step_block(g));
}

/* ---- the phase ----------------------------------------------------------------------------- */

static dass_status check_phase(const dass_arch *arch, const dass_phase *phase)
{
    DASS_TRY(dass__arch_check(arch));
    if (phase->batch < 1 || phase->batch > 1 << 20)
        return DASS_FAIL(DASS_ARG, "phase: batch %d, must be 1 to %d", (int)phase->batch, 1 << 20);
    if (!phase->mean || !phase->std)
        return DASS_FAIL(DASS_ARG,
                         "phase: mean and standard deviation of the %d image channels are missing",
                         (int)arch->in_channels);
    if (phase->stage == DASS_STAGE_SCORE && (!phase->segments || phase->n_segments < 1))
        return DASS_FAIL(
            DASS_ARG,
            "phase: the score stage needs the table of kept counts (dass_density_allocate)");
    const bool unrolled = dass__task_is_unrolled(phase->task);
    if ((phase->task == DASS_TASK_ALPHA || unrolled) && arch->kind != DASS_NET_SUPERNET)
        return DASS_FAIL(DASS_ARG,
                         "phase: only the supernet has alphas to train; this network is discrete");
    if (!(phase->auxiliary >= 0.0 && phase->auxiliary <= 1e6))
        return DASS_FAIL(DASS_ARG, "phase: weight %g of the auxiliary loss, must be 0 to 1e6",
                         phase->auxiliary);
    return unrolled ? dass__unrolled_check(phase) : DASS_OK;
}

static void size_inputs(dass_store *s, const dass_arch *arch, const dass_phase *phase)
{
    const bool val = phase->inputs == DASS_INPUTS_VALIDATION;
    const int64_t image = (int64_t)arch->in_channels * arch->image * arch->image;
    if (phase->resident.n > 0) {
        dass_store_size(s, DASS_BUF_DATA_IMAGES, phase->resident.n * image);
        dass_store_size(s, DASS_BUF_DATA_LABELS, phase->resident.n);
        dass_store_size(s, val ? DASS_BUF_VAL_ORDER : DASS_BUF_ORDER, phase->resident.length);
        return;
    }
    dass_store_size(s, val ? DASS_BUF_VAL_IMAGES : DASS_BUF_IMAGES, phase->batch * image);
    dass_store_size(s, val ? DASS_BUF_VAL_LABELS : DASS_BUF_LABELS, phase->batch);
    dass_store_size(s, val ? DASS_BUF_VAL_SAMPLES : DASS_BUF_SAMPLES, phase->batch);
}

static bool backend_can(void *ctx, dass_op op)
{
    dass_backend *be = ctx;
    return be->ops->can(be, op);
}

/* The four graphs of a second-order step take the difference of two gradients at weights that are shifted by less than
 * half a unit of bf16: they store real numbers whatever the device stores. */
static dass_dtype stored_by(const dass_phase *phase, dass_dtype real, const dass_backend *be)
{
    return be != NULL && real == be->ops->real && !dass__task_is_unrolled(phase->task) ? be->stored : real;
}

/* Forward on a graph of its own, lowered into *out with loss and correct placed. *out is the
 * caller's on success. */
static dass_status lowered_forward(dass_store *s, const dass_arch *arch, const dass_phase *phase,
                                   dass_dtype real, dass_backend *be, dass_graph **out,
                                   loss_values *values)
{
    dass_graph *forward = NULL;
    dass_graph *g = NULL;
    dass_val keep[3];
    dass_status st = DASS_OK;
    DASS_TRY(dass_graph_make_stored(real, stored_by(phase, real, be), &forward));
    build_masks(forward, s, phase);
    build_stored(forward, s, phase);
    DASS_TRY_TO(build_forward(forward, s, arch, phase, values), st, out);
    keep[0] = values->loss;
    keep[1] = values->correct;
    keep[2] = values->aux;
    DASS_TRY_TO(dass_graph_lower(forward, phase->lower, be ? backend_can : NULL, be, keep, 3, &g),
                st, out);
    const bool val = phase->inputs == DASS_INPUTS_VALIDATION;
    dass_place(g, keep[0], val ? DASS_BUF_VAL_LOSS : DASS_BUF_LOSS, 0);
    dass_place(g, keep[1], val ? DASS_BUF_VAL_CORRECT : DASS_BUF_CORRECT, 0);
    *values = (loss_values){keep[0], keep[1], keep[2]};
    *out = g;
out:
    dass_graph_free(forward);
    return st;
}

dass_status dass_phase_build(dass_store *s, const dass_arch *arch, const dass_phase *phase,
                             dass_dtype real, dass_backend *be, dass_graph **out)
{
    *out = NULL;
    DASS_TRY(check_phase(arch, phase));
    if (!dass__store_frozen(s))
        DASS_TRY(add_parameters(s, arch, phase, real));
    size_inputs(s, arch, phase);
    DASS_TRY(dass__store_check_inputs(s));
    dass_graph *g = NULL;
    loss_values values;
    dass_status st = DASS_OK;
    DASS_TRY_TO(lowered_forward(s, arch, phase, real, be, &g, &values), st, fail);
    switch (phase->task) {
    case DASS_TASK_WEIGHTS:
        if (phase->stage == DASS_STAGE_SCORE)
            DASS_TRY_TO(step_scores(g, s, phase, &values), st, fail);
        else
            DASS_TRY_TO(step_weights(g, s, phase, &values), st, fail);
        if (phase->ema)
            average(g, s, phase);
        break;
    case DASS_TASK_ALPHA:
        DASS_TRY_TO(step_alpha(g, s, values.loss), st, fail);
        break;
    case DASS_TASK_UNROLL:
    case DASS_TASK_UNROLLED_ALPHA:
    case DASS_TASK_HESSIAN_P:
    case DASS_TASK_HESSIAN_N:
        DASS_TRY_TO(dass__unrolled_build(g, s, phase, values.loss), st, fail);
        break;
    case DASS_TASK_EVAL:
        break;
    }
    DASS_TRY_TO(dass_graph_finish(g), st, fail);
    *out = g;
    return DASS_OK;
fail:
    dass_graph_free(g);
    return st;
}

/* ---- counting ------------------------------------------------------------------------------ */

static void count_parameters(const dass_store *s, dass_net_count *out)
{
    for (uint32_t i = 0; i < dass_store_n_params(s); i++) {
        const dass_param *p = dass_store_get(s, i);
        if (p->auxiliary)
            continue;
        if (p->group == DASS_GROUP_W)
            out->weights += p->count;
        if (p->group == DASS_GROUP_AF)
            out->unpruned += p->count;
        if (p->group == DASS_GROUP_ALPHA)
            out->alphas += p->count;
    }
    out->params = out->weights + out->unpruned;
}

static int64_t n_nodes_of(const dass_graph *g)
{
    return (int64_t)g->n_nodes - 1;
}

dass_status dass_net_measure(const dass_arch *arch, unsigned lower, dass_net_count *out)
{
    static const double zeros[DASS_MAX_IMAGE_CHANNELS];
    static const double ones[DASS_MAX_IMAGE_CHANNELS] = {1, 1, 1, 1, 1, 1, 1, 1,
                                                          1, 1, 1, 1, 1, 1, 1, 1};
    const dass_phase phase = {.task = DASS_TASK_ALPHA,
                              .stage = DASS_STAGE_DENSE,
                              .batch = 1,
                              .lower = lower,
                              .mean = zeros,
                              .std = ones};
    *out = (dass_net_count){0};
    DASS_TRY(dass__arch_check(arch));
    dass_store *s = NULL;
    dass_graph *plain = NULL;
    dass_graph *lowered = NULL;
    loss_values values;
    dass_status st = DASS_OK;
    DASS_TRY(dass_store_make(DASS_F32, &s));
    DASS_TRY_TO(dass_graph_make(DASS_F32, &plain), st, out);
    DASS_TRY_TO(build_forward(plain, s, arch, &phase, &values), st, out);
    for (dass_node n = 1; n < plain->n_nodes; n++)
        out->macs_per_image += dass_node_cost(plain, n).macs;
    count_parameters(s, out);
    DASS_TRY_TO(lowered_forward(s, arch, &phase, DASS_F32, NULL, &lowered, &values), st, out);
    DASS_TRY_TO(dass_graph_finish(lowered), st, out);
    out->nodes_forward = n_nodes_of(lowered);
out:
    dass_graph_free(lowered);
    dass_graph_free(plain);
    dass_store_free(s);
    return st;
}
