/* Private header of the model layer: the builder that carries graph, store and choices through the
 * layers, the layers shared by cells and zoo, and the primitives of the search space. Everything
 * here only adds nodes to a graph and parameters to a store; errors stick to the graph
 * (dass_graph.status), so chains are checked once by their caller.
 */
#ifndef DASS_MODEL_H
#define DASS_MODEL_H

#include "dass/net.h"

#define DASS__BN_EPS 1e-5
#define DASS__BN_MOMENTUM 0.1
#define DASS__NAME_MAX 160

typedef struct dass__builder {
    dass_graph *g;
    dass_store *s;
    dass_weights weights;
    dass_norm norm;
    bool relaxed; /* the supernet: batch norms outside the stem are not affine, none keeps running
                     statistics */
    const dass_net_extras *extras; /* never NULL */
    bool auxiliary;                /* what is built now belongs to the auxiliary head */
} dass__builder;

/* A dotted parameter name by value: dass__name_of("%s.dw%d", prefix, i).text. Cut at DASS__NAME_MAX
 * - 1. */
typedef struct dass__name {
    char text[DASS__NAME_MAX];
} dass__name;
dass__name dass__name_of(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* One convolution: everything but its input and its weights' name. */
typedef struct dass__conv_shape {
    dass_kind kind;
    int32_t channels; /* OC */
    int32_t k, stride, pad;
    int32_t dil, groups; /* 0 = 1 */
} dass__conv_shape;

/* ---- layer.c: x (N,C,H,W) NHWC everywhere ---- */

/* Channels of a value; 0 for value 0. */
int32_t dass__channels(const dass__builder *b, dass_val x);
/* Convolution without bias; its weights are parameter `name` (OC, C/groups, k, k). */
dass_val dass__conv(dass__builder *b, dass_val x, const char *name, dass__conv_shape a);
/* Batch norm by the builder's norm; parameters name.gamma, name.beta, name.running_mean,
 * name.running_var. */
dass_val dass__bn(dass__builder *b, dass_val x, const char *name, bool affine, dass_act act);
/* relu, 1x1 convolution, batch norm: name.conv, name.bn. */
dass_val dass__relu_conv_bn(dass__builder *b, dass_val x, const char *name, int32_t channels);
/* Halve height and width: relu, two 1x1 convolutions on the even and the odd pixels, concat, batch
 * norm. */
dass_val dass__factorized_reduce(dass__builder *b, dass_val x, const char *name, int32_t channels);
/* Linear: name.weight, name.bias. x (N,C,1,1) -> (N,classes,1,1) */
dass_val dass__linear(dass__builder *b, dass_val x, const char *name, int32_t classes);
/* Global pool and linear: "classifier.weight", "classifier.bias". -> (N,classes,1,1) */
dass_val dass__classifier(dass__builder *b, dass_val x, int32_t classes);
/* DARTS's auxiliary classifier on the output x of cell `number`. 0 with the graph failed (DASS_CONFIG)
 * when the image's size does not come out at 1x1. -> (N,classes,1,1) */
dass_val dass__auxiliary_head(dass__builder *b, const dass_arch *arch, dass_val x, int32_t number);
/* t_0 + t_1: a weighted sum with factors of 1. */
dass_val dass__add(dass__builder *b, dass_val a, dass_val c);

/* ---- space.c ---- */

/* Output of primitive p on x; false when it contributes nothing (none). The value goes into *out as
 * a raw term with index -1. `name` is the edge's; parameters are name.PRIMITIVE.*. channels: C of
 * the cell; stride 1 or 2. */
bool dass__primitive_build(dass__builder *b, dass_primitive p, dass_val x, const char *name,
                           int32_t channels, int32_t stride, dass_term *out);

/* ---- net.c, zoo.c ---- */

/* Sizes that make sense and halve exactly where they must. DASS_CONFIG. */
dass_status dass__arch_check(const dass_arch *arch);
dass_status dass__zoo_find(const char *name, dass_net_kind *out);
dass_val dass__mobilenet_v2(dass__builder *b, const dass_arch *arch, dass_val x);
dass_val dass__resnet18(dass__builder *b, const dass_arch *arch, dass_val x);

/* ---- phase.c, unrolled.c ---- */

/* Reference to a whole buffer of the store, flat, as it is at this place of the graph; and to the step block. */
dass_val dass__whole(dass_graph *g, const dass_store *s, dass_buf b);
dass_val dass__step_ref(dass_graph *g);
/* Where convolutions of a graph find their weights: the buffer that a gradient is taken with respect to. */
dass_buf dass__weights_buf(const dass_graph *g, bool masked);
/* Gradient and effects of the four tasks of a second-order step, behind the loss of their forward graph. */
dass_status dass__unrolled_build(dass_graph *g, const dass_store *s, const dass_phase *phase, dass_val loss);
bool dass__task_is_unrolled(dass_task task);
/* DASS_UNSUPPORTED in the score stage. */
dass_status dass__unrolled_check(const dass_phase *phase);

/* ---- param.c ---- */

/* Elements behind one output: product of all dims but the first. */
int64_t dass__fan_in(const dass_param *p);
bool dass__store_frozen(const dass_store *s);
/* DASS_ARG when a committed input buffer is smaller than now asked for. */
dass_status dass__store_check_inputs(const dass_store *s);
/* Whether the descriptor's group is maskable weight and counts in a budget. */
static inline bool dass__budgeted(const dass_param *p)
{
    return p->group == DASS_GROUP_W && !p->auxiliary;
}

#endif
