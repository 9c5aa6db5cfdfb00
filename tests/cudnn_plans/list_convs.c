/* Prints every distinct convolution that the shipped networks have in fp32 and in bf16, in the text form of
 * src/cuda/cuda_dnn.h: what cudnn_plans.c reads. The graphs are those of the commands, one of each kind of step; a
 * batch is the configuration's.
 *
 *     list_convs CONFIG...        from the root of the repository
 *
 * The graphs are not asked which kernel runs a node: depthwise and pointwise convolutions, for which other kernels
 * stand in front of cuDNN, are listed too unless lowering has taken them up. Not so in bf16, whose engines are compiled
 * for the shape: there it is what cuda_conv.c asks for, and its gradients of weights that are made in fp32 are left
 * out, being those of the fp32 graphs. Behind them come those of MobileNet-v2 compiled for latency, with their biases
 * and activations.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_dnn.h"
#include "dass/exec.h"
#include "dass/infer.h"
#include "dass/net.h"

static char (*lines)[DASS__DNN_TEXT];
static size_t n_lines;

static void fatal(const char *what)
{
    fprintf(stderr, "list_convs: %s: %s\n", what, dass_error_text());
    exit(2);
}

static void add(const dass__dnn_conv *c)
{
    char line[DASS__DNN_TEXT];
    if (!dass__dnn_conv_exists(c))
        return;
    (void)dass__dnn_conv_text(c, line, sizeof line);
    for (size_t i = 0; i < n_lines; i++)
        if (strcmp(lines[i], line) == 0)
            return;
    lines = realloc(lines, (n_lines + 1) * sizeof *lines);
    if (lines == NULL)
        fatal("out of memory");
    memcpy(lines[n_lines++], line, sizeof line);
    puts(line);
}

/* compiled: only what cuda_conv.c asks for, in both precisions. */
static void list(const dass_graph *g, bool compiled)
{
    for (dass_node n = 1; n < g->n_nodes; n++) {
        const dass_op op = g->nodes[n].op;
        if (op != DASS_OP_CONV && op != DASS_OP_CONV_BWD_DATA && op != DASS_OP_CONV_BWD_WEIGHTS)
            continue;
        const dass_val *in = dass_node_in(g, n);
        const dass_conv_attr *a = &g->nodes[n].attr.conv;
        const dass_value *x = &g->vals[op == DASS_OP_CONV_BWD_DATA ? dass_node_out(g, n)[0] : in[0]];
        const dass_value *y = &g->vals[op == DASS_OP_CONV            ? dass_node_out(g, n)[0]
                                       : op == DASS_OP_CONV_BWD_DATA ? in[0]
                                                                     : in[1]];
        const bool bf16 = x->dtype == DASS_BF16;
        const bool pointwise = a->kh == 1 && a->kw == 1 && a->stride == 1 && a->pad == 0;
        const bool bias = op == DASS_OP_CONV && in[2] != 0;
        if ((bf16 || compiled) && ((pointwise && !(bf16 && bias)) || a->groups > 1))
            continue;
        add(&(dass__dnn_conv){.kind = op == DASS_OP_CONV            ? DASS__DNN_FORWARD
                                      : op == DASS_OP_CONV_BWD_DATA ? DASS__DNN_DATA
                                                                    : DASS__DNN_WEIGHTS,
                              .precision = bf16 ? DASS_PRECISION_BF16 : DASS_PRECISION_FP32,
                              .n = x->dim[0],
                              .ic = x->dim[1],
                              .ih = x->dim[2],
                              .iw = x->dim[3],
                              .oc = y->dim[1],
                              .kh = a->kh,
                              .kw = a->kw,
                              .stride = a->stride,
                              .pad = a->pad,
                              .dil = a->dil,
                              .groups = a->groups,
                              .bias = bias,
                              .act = op == DASS_OP_CONV ? (dass_act)a->act : DASS_ACT_NONE});
    }
}

static void list_phase(const dass_config *c, const dass_arch *arch, dass_task task, dass_backend *be)
{
    static const double stats[4] = {0.5, 0.5, 0.5, 0.5};
    dass_store *s = NULL;
    dass_graph *g = NULL;
    const dass_phase phase = {.task = task,
                              .batch = (int32_t)(task == DASS_TASK_EVAL ? c->run_eval_batch : c->train_batch),
                              .lower = DASS_LOWER_ALL,
                              .mean = stats,
                              .std = stats};
    if (dass_store_make(DASS_F32, &s) != DASS_OK || dass_phase_build(s, arch, &phase, DASS_F32, be, &g) != DASS_OK)
        fatal("a graph");
    list(g, false);
    dass_graph_free(g);
    dass_store_free(s);
}

static void list_net(const dass_config *c, dass_backend *be)
{
    dass_arch arch;
    if (dass_arch_from_config(c, &arch) != DASS_OK)
        fatal("a network");
    list_phase(c, &arch, DASS_TASK_WEIGHTS, be);
    if (arch.kind == DASS_NET_SUPERNET)
        list_phase(c, &arch, DASS_TASK_ALPHA, be);
    else
        list_phase(c, &arch, DASS_TASK_EVAL, be);
}

static void list_compiled(dass_precision precision)
{
    const dass_arch arch = {
        .kind = DASS_NET_MOBILENET_V2, .form = DASS_FORM_IMAGENET, .classes = 1000, .in_channels = 3, .image = 224};
    static const double stats[4] = {0.5, 0.5, 0.5, 0.5};
    const dass_phase phase = {.task = DASS_TASK_EVAL, .batch = 1, .mean = stats, .std = stats};
    const uint64_t bufs = (uint64_t)1 << DASS_BUF_W | (uint64_t)1 << DASS_BUF_AF | (uint64_t)1 << DASS_BUF_ALPHA |
                          (uint64_t)1 << DASS_BUF_STAT;
    const dass_backend_options opt = {.precision = precision};
    const dass_infer_options dense = {.format = DASS_INFER_DENSE};
    dass_backend *be = NULL;
    dass_store *s = NULL;
    dass_graph *g = NULL;
    dass_net_eval net;
    dass_infer *f = NULL;
    if (dass_backend_open("ref", &opt, &be) != DASS_OK || dass_store_make(DASS_F32, &s) != DASS_OK ||
        dass_phase_build(s, &arch, &phase, DASS_F32, NULL, &g) != DASS_OK ||
        dass_store_commit(s, be, bufs) != DASS_OK || dass_store_init(s, 1) != DASS_OK ||
        dass_net_eval_make(s, &arch, DASS_WEIGHTS_DENSE, 1, &net) != DASS_OK ||
        dass_infer_compile(&(dass_infer_source){net.g, net.x, net.logits, net.data}, &dense, be, &f) != DASS_OK)
        fatal("a compiled network");
    list(dass_infer_graph(f), true);
    dass_infer_free(f);
    dass_net_eval_free(&net);
    dass_graph_free(g);
    dass_store_free(s);
    dass_backend_close(be);
}

int main(int argc, char **argv)
{
    static const char *const nets[] = {"", "net.name=mobilenet_v2", "net.name=resnet18",
                                       "net.genotype=configs/genotypes/darts_v2.json",
                                       "net.genotype=configs/genotypes/dass_99.json"};
    const dass_backend_options narrow = {.precision = DASS_PRECISION_BF16};
    dass_backend *bf16 = NULL;
    if (dass_backend_open("null", &narrow, &bf16) != DASS_OK)
        fatal("a device for graphs in bf16");
    for (int i = 1; i < argc; i++)
        for (size_t k = 0; k < sizeof nets / sizeof *nets; k++) {
            dass_config c;
            dass_config_defaults(&c);
            if (dass_config_read(&c, argv[i]) != DASS_OK)
                fatal(argv[i]);
            if (strncmp(nets[k], "net.genotype", 12) == 0 && c.net_nodes != 4)
                continue; /* of a smaller space */
            if (nets[k][0] != '\0' && dass_config_set(&c, nets[k], "list_convs") != DASS_OK)
                fatal(nets[k]);
            list_net(&c, NULL);
            list_net(&c, bf16);
        }
    list_compiled(DASS_PRECISION_FP32);
    list_compiled(DASS_PRECISION_BF16);
    dass_backend_close(bf16);
    free(lines);
    return n_lines == 0;
}
