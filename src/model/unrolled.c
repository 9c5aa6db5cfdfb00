/* The four graphs of a second-order (unrolled) step of alpha: what follows their loss. Source: DARTS (Liu et al. 2019);
 * the product with the mixed second derivative is a difference of two gradients. It is not a loop over them: whoever
 * trains runs them in order (net.h). Invariants: every effect on theta stands behind the last node that reads it, and
 * theta is always written from the saved copy, so that no rounding of one shift reaches the next and the last write
 * brings back the bytes of before the step.
 */
#include "model.h"

/* One half of theta: where it is, its copy, its momentum, its gradient (of the training loss, then v). */
typedef struct half {
    dass_buf at, saved, momentum, grad;
    int32_t group; /* of the step block's weight decay */
} half;

static const half halves[2] = {{DASS_BUF_W, DASS_BUF_W_SAVED, DASS_BUF_W_MOM, DASS_BUF_W_GRAD, 0},
                               {DASS_BUF_AF, DASS_BUF_AF_SAVED, DASS_BUF_AF_MOM, DASS_BUF_AF_GRAD, 1}};

bool dass__task_is_unrolled(dass_task task)
{
    return task == DASS_TASK_UNROLL || task == DASS_TASK_UNROLLED_ALPHA || task == DASS_TASK_HESSIAN_P ||
           task == DASS_TASK_HESSIAN_N;
}

dass_status dass__unrolled_check(const dass_phase *phase)
{
    if (phase->stage != DASS_STAGE_SCORE)
        return DASS_OK;
    return DASS_FAIL(
        DASS_UNSUPPORTED,
        "phase: no second-order gradient of alpha in the score stage: shifted scores flip bits of the mask, "
        "so the difference of two gradients is no derivative; use the first-order gradient there "
        "(dass_alpha_tasks)");
}

uint32_t dass_alpha_tasks(dass_stage stage, int64_t order, dass_task tasks[DASS_MAX_ALPHA_TASKS])
{
    if (order < 2 || stage == DASS_STAGE_SCORE) {
        tasks[0] = DASS_TASK_ALPHA;
        return 1;
    }
    tasks[0] = DASS_TASK_UNROLL;
    tasks[1] = DASS_TASK_UNROLLED_ALPHA;
    tasks[2] = DASS_TASK_HESSIAN_P;
    tasks[3] = DASS_TASK_HESSIAN_N;
    return 4;
}

uint32_t dass_search_tasks(const dass_config *c, dass_stage stage, dass_task tasks[DASS_MAX_ALPHA_TASKS])
{
    if (stage == DASS_STAGE_SCORE && !c->search_alpha_in_score)
        return 0;
    return dass_alpha_tasks(stage, c->search_order, tasks);
}

bool dass_task_validates(dass_task task)
{
    return task == DASS_TASK_ALPHA || task == DASS_TASK_UNROLLED_ALPHA || task == DASS_TASK_EVAL;
}

/* Gradients of W and AF, and of alpha when asked for. Only kept weights have one. */
static dass_status theta_gradient(dass_graph *g, const dass_store *s, const dass_phase *phase, dass_val loss,
                                  bool alpha)
{
    const bool masked = phase->stage == DASS_STAGE_FINETUNE;
    const dass_wrt wrt[3] = {{dass__weights_buf(g, masked), DASS_BUF_W_GRAD},
                             {DASS_BUF_AF, DASS_BUF_AF_GRAD},
                             {DASS_BUF_ALPHA, DASS_BUF_ALPHA_GRAD}};
    DASS_TRY(dass_graph_grad(g, loss, wrt, alpha ? 3 : 2));
    dass_graph_scope(g, "unrolled");
    if (masked)
        dass_mask_bwd_weights(g, dass__whole(g, s, DASS_BUF_W_GRAD), dass__whole(g, s, DASS_BUF_BITS));
    return g->status;
}

static dass_status unroll(dass_graph *g, const dass_store *s, const dass_phase *phase, dass_val loss)
{
    DASS_TRY(theta_gradient(g, s, phase, loss, false));
    for (int i = 0; i < 2; i++) {
        const half *h = &halves[i];
        const bool masked = phase->stage == DASS_STAGE_FINETUNE && h->at == DASS_BUF_W;
        dass_copy(g, dass__whole(g, s, h->at), dass__whole(g, s, h->saved));
        dass_unroll(g, dass__whole(g, s, h->at), dass__whole(g, s, h->saved), dass__whole(g, s, h->momentum),
                    dass__whole(g, s, h->grad), dass__step_ref(g), masked ? dass__whole(g, s, DASS_BUF_BITS) : 0,
                    h->group);
    }
    return g->status;
}

/* theta = saved + sign eps v */
static void shift(dass_graph *g, const dass_store *s, int32_t sign)
{
    for (int i = 0; i < 2; i++) {
        const half *h = &halves[i];
        dass_shift(g, dass__whole(g, s, h->at), dass__whole(g, s, h->saved), dass__whole(g, s, h->grad),
                   dass__whole(g, s, DASS_BUF_NORM2), sign);
    }
}

static dass_status unrolled_alpha(dass_graph *g, const dass_store *s, const dass_phase *phase, dass_val loss)
{
    DASS_TRY(theta_gradient(g, s, phase, loss, true));
    const dass_val v[2] = {dass__whole(g, s, halves[0].grad), dass__whole(g, s, halves[1].grad)};
    dass_place(g, dass_norm2(g, v, 2), DASS_BUF_NORM2, 0);
    shift(g, s, 1);
    return g->status;
}

/* Gradient of alpha at a shifted theta. */
static dass_status shifted_alpha(dass_graph *g, dass_val loss, dass_buf into)
{
    DASS_TRY(dass_graph_grad(g, loss, &(dass_wrt){DASS_BUF_ALPHA, into}, 1));
    dass_graph_scope(g, "unrolled");
    return DASS_OK;
}

static void restore(dass_graph *g, const dass_store *s)
{
    for (int i = 0; i < 2; i++)
        dass_copy(g, dass__whole(g, s, halves[i].saved), dass__whole(g, s, halves[i].at));
}

static void correct_and_step(dass_graph *g, const dass_store *s)
{
    dass_hvp(g, dass__whole(g, s, DASS_BUF_ALPHA_GRAD), dass__whole(g, s, DASS_BUF_ALPHA_GRAD_P),
             dass__whole(g, s, DASS_BUF_ALPHA_GRAD_N), dass__whole(g, s, DASS_BUF_NORM2), dass__step_ref(g));
    dass_adam(g, dass__whole(g, s, DASS_BUF_ALPHA), dass__whole(g, s, DASS_BUF_ALPHA_M),
              dass__whole(g, s, DASS_BUF_ALPHA_V), dass__whole(g, s, DASS_BUF_ALPHA_GRAD), dass__step_ref(g), 3);
}

dass_status dass__unrolled_build(dass_graph *g, const dass_store *s, const dass_phase *phase, dass_val loss)
{
    switch ((int)phase->task) {
    case DASS_TASK_UNROLL:
        return unroll(g, s, phase, loss);
    case DASS_TASK_UNROLLED_ALPHA:
        return unrolled_alpha(g, s, phase, loss);
    case DASS_TASK_HESSIAN_P:
        DASS_TRY(shifted_alpha(g, loss, DASS_BUF_ALPHA_GRAD_P));
        shift(g, s, -1);
        return g->status;
    case DASS_TASK_HESSIAN_N:
        DASS_TRY(shifted_alpha(g, loss, DASS_BUF_ALPHA_GRAD_N));
        restore(g, s);
        correct_and_step(g, s);
        return g->status;
    default:
        return DASS_FAIL(DASS_INTERNAL, "phase: task %d is no part of a second-order step", (int)phase->task);
    }
}
