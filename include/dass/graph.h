/* Graphs: integer-numbered values and nodes, a hash-consing builder, shape inference, reverse-mode gradient as a
 * graph -> graph function, and lowering passes. Nothing here runs or allocates device memory.
 *
 * A worked example, y = relu(conv(x, w)) and the gradient of a loss with respect to everything in buffer W:
 *
 *     dass_graph *g;
 *     DASS_TRY(dass_graph_make(DASS_F32, &g));
 *     dass_val x = dass_temp_input(g, "x", BUF_X, 8, 3, 32, 32);
 *     dass_val w = dass_ref(g, "w", BUF_W, 0, DASS_LAYOUT_OIHW, 4, (int32_t[]){16, 3, 3, 3});
 *     dass_val y = dass_relu(g, dass_conv(g, x, w, 0, (dass_conv_attr){.kh = 3, .kw = 3, .stride = 1, .pad = 1,
 *                                                                     .dil = 1, .groups = 1}), DASS_ACT_RELU);
 *     ...
 *     DASS_TRY(dass_graph_grad(g, loss, &(dass_wrt){BUF_W, BUF_W_GRAD}, 1));
 *     DASS_TRY(dass_graph_finish(g));     // the sticky error of the whole chain; removes dead nodes
 *
 * A builder function that fails records the error in the graph and returns value 0; every later call on value 0 of a
 * failed graph returns 0 too, so chains read well and are checked once.
 *
 * Storage. A value is either TEMP (the planner gives it an offset in the arena) or lies in a numbered buffer that
 * the caller owns, at an element offset (parameters, gradients, state, inputs, results). Value 0 is "none": legal
 * wherever a doc block says "or 0".
 *
 * Types. "real" is the graph's floating type, f32 or f64: a graph built in f64 runs on the reference in double.
 * "stored" is the type in which activations (NHWC), their gradients and the weights of convolutions lie in memory:
 * real, or bf16 in a graph of f32. Whatever the type, every op computes in real from what it loads and rounds once, to
 * nearest even, what it stores; statistics, sums over pixels, gradients of weights, probabilities and all that is flat
 * are real.
 */
#ifndef DASS_GRAPH_H
#define DASS_GRAPH_H

#include <stdio.h>

#include "dass/mem.h"
#include "dass/status.h"
#include "dass/step_block.h"

typedef uint32_t dass_val;  /* index into the graph's values; 0 = none */
typedef uint32_t dass_node; /* index into the graph's nodes            */
typedef uint16_t dass_buf;  /* number of a caller-owned buffer; 0 = TEMP, in the planned arena */

typedef enum dass_dtype { DASS_F32, DASS_F64, DASS_U8, DASS_I32, DASS_BITS, DASS_BF16 } dass_dtype;
/* NHWC: dim (N,C,H,W) stored n,h,w,c. OIHW: weights (OC, IC/groups, KH, KW) stored as written. FLAT: dim[0] elements
 * (rank 1) or rows x cols (rank 2), row major. BITS: element i is bit i%64 of word i/64. */
typedef enum dass_layout { DASS_LAYOUT_FLAT, DASS_LAYOUT_NHWC, DASS_LAYOUT_OIHW } dass_layout;
typedef enum dass_act { DASS_ACT_NONE, DASS_ACT_RELU, DASS_ACT_RELU6 } dass_act;

#define DASS_OPF_D 1u
#define DASS_OPF_E 2u
#define DASS_OPF_G 4u
#define DASS_OPF_U 8u

typedef enum dass_op {
    DASS_OP_NONE,
#define X(name, text, attr, in_place, flags) DASS_OP_##name,
#include "dass/ops.def"
#undef X
    DASS_N_OPS
} dass_op;

/* Members of dass_attr, by name. */
typedef enum dass_attr_kind {
    DASS_ATTR_none,
    DASS_ATTR_conv,
    DASS_ATTR_pool,
    DASS_ATTR_bn,
    DASS_ATTR_sum,
    DASS_ATTR_mask,
    DASS_ATTR_augment,
    DASS_ATTR_scalar,
    DASS_ATTR_sparse,
    DASS_ATTR_irblock,
    DASS_ATTR_act
} dass_attr_kind;

typedef struct dass_op_info {
    const char *name;
    dass_attr_kind attr;
    int in_place;
    unsigned flags;
} dass_op_info;
const dass_op_info *dass_op_get(dass_op op);

/* ---- attributes ------------------------------------------------------------------------------------------- */

typedef struct dass_conv_attr { /* conv and its gradients; dwpw: kh, kw, stride, pad, dil of the depthwise part */
    int32_t kh, kw;
    int32_t stride, pad, dil; /* the same in both axes; output size floor((H + 2 pad - dil (k-1) - 1) / stride) + 1 */
    int32_t groups;
    int32_t relu; /* dass_act on load: dwpw NONE or RELU, after the input's batch norm if it has one; depthwise conv of
                     inference graphs any, where padding stays 0; other convs NONE */
    int32_t act;  /* conv of inference graphs only: dass_act applied to the result; it has no gradient */
    double eps; /* dwpw only: of its output's batch-norm statistics */
} dass_conv_attr;
typedef struct dass_pool_attr {
    int32_t k, stride, pad;
} dass_pool_attr;
typedef struct dass_bn_attr {
    double eps, momentum;
    int64_t count; /* bn_running: elements per channel behind the statistics */
    int32_t act;   /* dass_act applied after the normalisation */
    int32_t pad_;
} dass_bn_attr;
typedef struct dass_sum_attr {
    const int32_t *index; /* per term: position of its factor in p; -1 = factor 1. Graph-owned. */
    int32_t n_terms;
    int32_t pad_;
} dass_sum_attr;
typedef struct dass_segment { /* one parameter tensor inside a flat group */
    int64_t offset, count, kept;
} dass_segment;
typedef struct dass_mask_attr {
    const dass_segment *segments; /* graph-owned copy */
    int64_t n_segments;
} dass_mask_attr;
typedef struct dass_augment_attr {
    const double *mean_std; /* C means then C standard deviations, of values in [0, 1]. Graph-owned copy. */
    int32_t pad, flip, cutout;
    int32_t pad_;
} dass_augment_attr;
typedef struct dass_scalar_attr {
    double value; /* fill: the value; xent: label smoothing */
    int32_t i, j; /* slice: first channel, channels; subsample: stride, offset; sgd: see there; gather: rows */
    int64_t n;    /* drop_path: the key's bits */
} dass_scalar_attr;

typedef struct dass_sparse_attr { /* spconv */
    int64_t nnz;
    int32_t act;     /* dass_act applied last */
    int32_t library; /* 1: by the library that backend->library names; the result is the same */
} dass_sparse_attr;
typedef struct dass_irblock_attr {
    int64_t nnz_expand, nnz_project;
    int32_t stride; /* of the depthwise convolution: 1 or 2 */
    int32_t act;    /* dass_act after the expansion and after the depthwise convolution */
} dass_irblock_attr;

typedef union dass_attr { /* which member: ops.def; the bytes beyond it say nothing. Members have no padding */
    dass_conv_attr conv;
    dass_pool_attr pool;
    dass_bn_attr bn;
    dass_sum_attr sum;
    dass_mask_attr mask;
    dass_augment_attr augment;
    dass_scalar_attr scalar;
    dass_sparse_attr sparse;
    dass_irblock_attr irblock;
    int32_t act; /* relu, relu_bwd */
    uint64_t raw[6];
} dass_attr;

/* Terms of one weighted sum, and arguments of a node: a node of a cell sums at most DASS_MAX_NODES + 1 edges of seven
 * operations (model/net.c asserts it), and the gradient of a sum has the most arguments of all. */
#define DASS_MAX_TERMS 64
#define DASS_MAX_NODE_IN (3 + 5 * DASS_MAX_TERMS)
#define DASS_MAX_NODE_OUT (1 + 3 * DASS_MAX_TERMS)

/* ---- values and nodes ------------------------------------------------------------------------------------- */

typedef struct dass_value {
    dass_dtype dtype;
    dass_layout layout;
    int32_t rank;
    int32_t dim[4];   /* unused dims are 1 */
    dass_buf buf;     /* 0 = TEMP */
    int64_t offset;   /* elements, in buf */
    dass_node def;    /* node that writes it; 0 = nobody in this graph */
    uint32_t version; /* of the buffer when it was referred to: a read after a write is another value */
    const char *name;
} dass_value;

typedef struct dass_node_rec {
    dass_op op;
    uint32_t n_in, n_out;
    uint32_t args; /* first of n_in inputs then n_out outputs in graph->args */
    dass_attr attr;
} dass_node_rec;

typedef struct dass_graph {
    dass_dtype real;   /* F32 or F64 */
    dass_dtype stored; /* real, or BF16 */
    dass_value *vals;
    uint32_t n_vals; /* vals[0] is none */
    dass_node_rec *nodes;
    uint32_t n_nodes; /* nodes[0] is none */
    dass_val *args;
    uint32_t n_args;
    dass_status status; /* sticky */
    struct dass__graph_private *priv;
} dass_graph;

dass_status dass_graph_make(dass_dtype real, dass_graph **out); /* stored as real */
/* The same, with activations and weights of convolutions stored as `stored`. Errors: DASS_ARG unless that is real, or
 * BF16 and real is F32. */
dass_status dass_graph_make_stored(dass_dtype real, dass_dtype stored, dass_graph **out);
void dass_graph_free(dass_graph *g);
/* Sticky error of the chain, then dead-code removal: a node stays when it is an effect, writes a buffer, or feeds one
 * that stays. Node and value numbers change; order does not. Call once, last. */
dass_status dass_graph_finish(dass_graph *g);

static inline const dass_val *dass_node_in(const dass_graph *g, dass_node n)
{
    return g->args + g->nodes[n].args;
}
static inline const dass_val *dass_node_out(const dass_graph *g, dass_node n)
{
    return g->args + g->nodes[n].args + g->nodes[n].n_in;
}
int64_t dass_value_count(const dass_value *v); /* elements */
size_t dass_value_bytes(const dass_value *v);  /* storage; BITS: whole 64-bit words */
size_t dass_dtype_bytes(dass_dtype t);         /* DASS_BITS: 0 */
/* Work of a node: multiply-adds times two plus a small count for elementwise ops, and bytes that must move at least
 * (each input and output once). macs: multiply-accumulates of convolutions only, 0 otherwise. */
typedef struct dass_cost {
    double flops, bytes;
    int64_t macs;
} dass_cost;
dass_cost dass_node_cost(const dass_graph *g, dass_node n);
/* Human-readable line of a node: "conv y (64,16,32,32) <- x (…), w (…) 3x3 s1 p1". buf NUL-ended. */
void dass_node_print(const dass_graph *g, dass_node n, char *buf, size_t n_buf);

/* ---- references and relocation ----------------------------------------------------------------------------- */

/* A tensor that lies in a buffer. Hash-consed on (buf, offset, version). dtype real unless dass_ref_typed. */
dass_val dass_ref(dass_graph *g, const char *name, dass_buf buf, int64_t offset, dass_layout layout, int32_t rank,
                  const int32_t *dim);
dass_val dass_ref_typed(dass_graph *g, const char *name, dass_dtype dtype, dass_buf buf, int64_t offset,
                        dass_layout layout, int32_t rank, const int32_t *dim);
/* Make TEMP value v, which some node writes, live in a buffer instead: the node writes there. */
void dass_place(dass_graph *g, dass_val v, dass_buf buf, int64_t offset);
/* Name given to the values built next: "prefix/name". NULL clears. Kept until changed. For messages and dumps. */
void dass_graph_scope(dass_graph *g, const char *prefix);

/* ---- forward ops --------------------------------------------------------------------------------------------
 * Shapes are logical (N, C, H, W); activations are NHWC. M = N*H*W, the elements behind a channel's statistics.
 */

/* A batch out of a data set that lies in memory whole: the one at step.position of an order of samples. images u8
 * (n,C,H,W) NHWC; labels i32 (n); order i32 (L): sample numbers; step: the step block. Outputs of the node: a batch of
 * `rows` images u8 (rows,C,H,W), labels i32 (rows), samples i32 (rows), all temporaries. Row r:
 *     e = order[min(position rows + r, L - 1)],  s = min(max(e, 0), n - 1)
 *     images'[r] = images[s],  labels'[r] = labels[s],  samples'[r] = s
 * Whoever runs the graph gives a position whose rows all lie in the order, and an order of samples that exist. The two
 * clamps are for the others: no backend reads outside its memory, and all give the same bytes. */
void dass_gather(dass_graph *g, dass_val images, dass_val labels, dass_val order, dass_val step, int32_t rows,
                 dass_val *images_out, dass_val *labels_out, dass_val *samples_out);

/* Images to network input. images u8 (N,C,H,W) NHWC; samples i32 (N): global sample numbers, keys of the random
 * draws; step: the step block (dass_step_block, u8 FLAT of 256 bytes).
 * dst = (crop(images / 255) - mean) / std, then flip, then cutout square set to 0. Padding is 0 before normalising
 * (so it becomes -mean/std, as torchvision's RandomCrop before Normalize gives).
 * Per sample, from Philox counter (sample, epoch, 0, 0), key (seed lo ^ DASS_RNG_AUGMENT, seed hi), words r[0..3]:
 *     pad>0:    dy = r[0] % (2 pad + 1), dx = (r[0] >> 16) % (2 pad + 1);
 *               pixel (h, w) reads (h + dy - pad, w + dx - pad)
 *     flip:     r[1] & 1 mirrors the cropped image: output w reads crop column W-1-w
 *     cutout>0: centre (r[2] % H, r[3] % W);
 *               rows and columns [c - cutout/2, c - cutout/2 + cutout) clipped */
dass_val dass_augment(dass_graph *g, dass_val images, dass_val samples, dass_val step, const double *mean,
                      const double *std, int32_t pad, bool flip, int32_t cutout);

/* Drop-path (Larsson et al. 2017): the whole row of a sample is 0 with probability p = step.drop_path, in [0, 1], and
 * scaled by 1/(1-p) otherwise, so that the mean stays. x (N,C,H,W), samples i32 (N): global sample numbers. Row n:
 *     r = Philox counter (samples[n], epoch, step, key lo ^ key hi), key (seed lo ^ DASS_RNG_DROP_PATH, seed hi)
 *     dst = 0 when r[0] / 2^32 < p (computed in double), else x / (1-p)
 * key: dass_name_hash of the path's name. A draw depends on neither row, rank nor the rest of the batch; p = 0 copies x
 * bit for bit. Linear: its gradient is the same op on d_y. Node inputs: x, samples, step. */
dass_val dass_drop_path(dass_graph *g, dass_val x, dass_val samples, dass_val step, uint64_t key);

/* Convolution of a.relu(x), NHWC by OIHW. x (N,IC,H,W), w (OC,IC/groups,KH,KW), bias (OC) or 0 -> (N,OC,OH,OW), then
 * a.act. A linear layer is a 1x1 convolution on (N,C,1,1). */
dass_val dass_conv(dass_graph *g, dass_val x, dass_val w, dass_val bias, dass_conv_attr a);

/* Batch statistics per channel: mean (C), rstd (C) = 1/sqrt(var + eps), var biased (over M). */
void dass_bn_stats(dass_graph *g, dass_val x, double eps, dass_val *mean, dass_val *rstd);
/* dst = act(gamma * (x - mean) * rstd + beta); gamma, beta (C) both or both 0 (then 1 and 0). */
dass_val dass_bn_apply(dass_graph *g, dass_val x, dass_val mean, dass_val rstd, dass_val gamma, dass_val beta,
                       dass_act act);
/* The same from running statistics: run_mean, run_var (C). rstd = 1/sqrt(run_var + eps). Evaluation only. */
dass_val dass_bn_infer(dass_graph *g, dass_val x, dass_val run_mean, dass_val run_var, dass_val gamma, dass_val beta,
                       double eps, dass_act act);
/* Effect: run_mean += momentum (mean - run_mean), run_var += momentum (var M/(M-1) - run_var),
 * with var = 1/rstd^2 - eps.
 * Inputs of the node: mean, rstd, run_mean, run_var; outputs: run_mean', run_var' (same storage). */
void dass_bn_running(dass_graph *g, dass_val mean, dass_val rstd, dass_val run_mean, dass_val run_var, double eps,
                     double momentum, int64_t count);

/* max(x, 0), or min(max(x, 0), 6). */
dass_val dass_relu(dass_graph *g, dass_val x, dass_act act);

/* Pools over k x k windows, padding never counts. max: second output index u8 (dst shape): r*k + s of the first maximum
 * in window order (r, s over the k x k window, padding positions included in the numbering). avg: divides by the
 * positions inside the image. */
dass_val dass_max_pool(dass_graph *g, dass_val x, dass_pool_attr a);
dass_val dass_avg_pool(dass_graph *g, dass_val x, dass_pool_attr a);
/* Mean over H, W: (N,C,H,W) -> (N,C,1,1). */
dass_val dass_global_pool(dass_graph *g, dass_val x);
/* Every stride-th pixel from `offset` on, both axes: (N,C,H,W) -> (N,C,ceil((H-offset)/stride), ...).
 * dst[h] = x[offset + stride h] */
dass_val dass_subsample(dass_graph *g, dass_val x, int32_t stride, int32_t offset);
/* Along C, in order. */
dass_val dass_concat(dass_graph *g, const dass_val *x, uint32_t n);

/* The same numbers in another type, the graph's real one or the stored one: dst = x, rounded to nearest even. Any
 * shape. Its gradient is the cast back. */
dass_val dass_cast(dass_graph *g, dass_val x, dass_dtype to);

/* n-ary weighted sum, each term optionally batch-normalised on load:
 *     dst = sum_k  f_k * t_k,   f_k = p[index_k] or 1 when index_k = -1
 *     t_k = x_k                                         when mean_k = 0
 *         = gamma_k (x_k - mean_k) rstd_k + beta_k      otherwise (gamma, beta 0: 1 and 0)
 * p (real, any rank) or 0 when all index are -1. All x_k have one shape (N,C,H,W).
 * Node inputs: p, then (x, mean, rstd, gamma, beta) per term. index is copied. */
typedef struct dass_term {
    dass_val x, mean, rstd, gamma, beta;
    int32_t index;
} dass_term;
dass_val dass_wsum(dass_graph *g, dass_val p, const dass_term *terms, uint32_t n);

/* Row-wise softmax of a (rows, cols) matrix. */
dass_val dass_softmax(dass_graph *g, dass_val a);

/* Cross-entropy of logits (N,C,1,1) against labels i32 (N), with label smoothing s: target (1-s) on the label plus s/C
 * everywhere. Rows >= step.valid (0 means all) contribute nothing. Outputs of the node: loss (1) = mean over valid
 * rows, correct (1) = number of valid rows whose first maximum is the label, probs (N,C,1,1) real, kept for the
 * gradient. Node inputs: logits, labels, step. */
void dass_xent(dass_graph *g, dass_val logits, dass_val labels, dass_val step, double smoothing, dass_val *loss,
               dass_val *correct);

/* Fused separable half (made by lowering): y = PW . DW( relu?( bn?(x) ) ) and the statistics of y.
 *     u = x, or gamma (x - mean) rstd + beta when in_mean != 0;  v = max(u, 0) when a.relu, else u
 *     z = depthwise conv of v with w_dw (C,1,kh,kw), zero padded;  y = z times w_pw (OC,C,1,1)
 *     mean, rstd = batch statistics of y with a.eps
 * Node inputs: x, in_mean, in_rstd, in_gamma, in_beta, w_dw, w_pw; outputs y (N,OC,OH,OW), mean (OC), rstd (OC). */
typedef struct dass_dwpw_in {
    dass_val x, mean, rstd, gamma, beta, w_dw, w_pw;
} dass_dwpw_in;
dass_val dass_dwpw(dass_graph *g, dass_dwpw_in in, dass_conv_attr a, dass_val *mean, dass_val *rstd);

/* ---- sparse forward ops: inference only, no gradient ------------------------------------------------------------- */

/* A sparse matrix of (rows, columns) by rows: entry e of row r, starts[r] <= e < starts[r + 1], has columns[e] and
 * values[e]; the columns of a row ascend; starts[rows] = nnz. values stored, as weights are, columns and starts i32,
 * all FLAT, of max(nnz, 1), max(nnz, 1) and rows + 1 elements. Rows without entries, full rows and nnz = 0 are legal.
 * The contents are the caller's to keep right, kernels trust them, and where the entries stand may not change between
 * runs. */
typedef struct dass_csr {
    dass_val values, columns, starts;
    int64_t nnz;
} dass_csr;

/* Sparse pointwise convolution: y = act(S x + bias + residual) in every pixel. x (N,IC,H,W), s (OC, IC), bias (OC) or
 * 0, residual (N,OC,H,W) or 0 -> (N,OC,H,W). Node inputs: x, values, columns, starts, bias, residual. */
dass_val dass_spconv(dass_graph *g, dass_val x, dass_csr s, dass_val bias, dass_val residual, dass_act act,
                     bool library);

/* Inverted residual block (Sandler et al. 2018) with sparse pointwise convolutions, in evaluation:
 *     e = act(E x + b_e);  d = act(depthwise 3x3, pad 1, of e with w_dw, + b_dw);  y = P d + b_p + residual
 * x (N,IC,H,W), expand E (K, IC), w_dw (K,1,3,3), project P (OC, K), biases (K), (K), (OC) or 0; residual of y's shape
 * or 0 -> (N,OC,OH,OW). The padding is of e: outside of the image e is 0, not act(b_e).
 * Node inputs (12): x, E values, columns, starts, b_e, w_dw, b_dw, P values, columns, starts, b_p, residual. */
typedef struct dass_irblock_in {
    dass_val x;
    dass_csr expand;
    dass_val b_expand, w_dw, b_dw;
    dass_csr project;
    dass_val b_project, residual;
} dass_irblock_in;
dass_val dass_irblock(dass_graph *g, const dass_irblock_in *in, int32_t stride, dass_act act);

/* ---- backward ops: emitted by dass_graph_grad, public so that tests can build them ----------------------------- */

/* d_x (N,IC,H,W) of conv; h, w: size of x. */
dass_val dass_conv_bwd_data(dass_graph *g, dass_val d_y, dass_val w, int32_t h, int32_t wd, dass_conv_attr a);
/* d_w, shape oc, ic/groups, kh, kw, real. */
dass_val dass_conv_bwd_weights(dass_graph *g, dass_val x, dass_val d_y, dass_conv_attr a);
/* Sum over N, H, W: (N,C,H,W) -> (C). Gradient of a bias. */
dass_val dass_channel_sum(dass_graph *g, dass_val x);
/* With xh = (x - mean) rstd, u = gamma xh + beta, g = d_y where act passes u (0 < u, and u < 6 for RELU6), else 0:
 * d_beta (C) = sum g, d_gamma (C) = sum g xh. Node inputs: d_y, x, mean, rstd, gamma, beta. */
void dass_bn_bwd_reduce(dass_graph *g, dass_val d_y, dass_val x, dass_val mean, dass_val rstd, dass_val gamma,
                        dass_val beta, dass_act act, dass_val *d_beta, dass_val *d_gamma);
/* d_x = gamma rstd (g - d_beta/M - xh d_gamma/M). Node inputs: d_y, x, mean, rstd, gamma, beta, d_beta, d_gamma. */
dass_val dass_bn_bwd_apply(dass_graph *g, dass_val d_y, dass_val x, dass_val mean, dass_val rstd, dass_val gamma,
                           dass_val beta, dass_act act, dass_val d_beta, dass_val d_gamma);
/* d_y where the activation passes, else 0. `y` is the output: passes where 0 < y (and y < 6). Node inputs: d_y, y. */
dass_val dass_relu_bwd(dass_graph *g, dass_val d_y, dass_val y, dass_act act);
/* Pool and sampling gradients; acc (shape of x) or 0 is added: d_x = acc + grad. d_x may share acc's storage.
 * Inputs: max (d_y, index, acc), avg (d_y, acc), global (d_y, acc), subsample (d_y, acc). */
dass_val dass_max_pool_bwd(dass_graph *g, dass_val d_y, dass_val index, dass_val acc, int32_t h, int32_t w,
                           dass_pool_attr a);
dass_val dass_avg_pool_bwd(dass_graph *g, dass_val d_y, dass_val acc, int32_t h, int32_t w, dass_pool_attr a);
dass_val dass_global_pool_bwd(dass_graph *g, dass_val d_y, dass_val acc, int32_t h, int32_t w);
dass_val dass_subsample_bwd(dass_graph *g, dass_val d_y, dass_val acc, int32_t h, int32_t w, int32_t stride,
                            int32_t offset);
/* Channels [first, first + count) of x. */
dass_val dass_slice(dass_graph *g, dass_val x, int32_t first, int32_t count);

/* Gradient of wsum that needs a pass over the data. Node inputs: d_y, p, acc_dp, then (x, mean, rstd, gamma, beta) per
 * term; outputs: d_p, then (coef, d_gamma, d_beta) per term; any output may be 0 = not wanted, and x_k may be 0 where
 * neither d_p nor coef_k needs it. With S1 = sum d_y (C), S2_k = sum d_y xh_k (C), f_k the factor:
 *     d_p[i]    = acc_dp[i] + sum over terms k with index_k = i of:  sum d_y x_k (raw), sum_c gamma S2_k + beta S1 (bn)
 *     coef_k    (3,C) rows A, B, C0 with d_x_k = A d_y + B x_k + C0, the batch-norm gradient with the factor inside:
 *               A = f gamma rstd, B = -A rstd S2/M, C0 = -A S1/M - B mean
 *     d_gamma_k = f S2_k, d_beta_k = f S1 */
typedef struct dass_wsum_grad {
    dass_val coef, d_gamma, d_beta;
} dass_wsum_grad;
/* want_dp: d_p is returned in *d_p (shape of p); want[k] bit 0: coef_k, bit 1: d_gamma_k and d_beta_k. */
void dass_wsum_bwd(dass_graph *g, dass_val d_y, dass_val p, dass_val acc_dp, const dass_term *terms, uint32_t n,
                   bool want_dp, const uint8_t *want, dass_val *d_p, dass_wsum_grad *out);

/* Sum of gradient contributions: dst = sum_k t_k,
 *     t_k = f_k d_k                        when coef_k = 0, f_k = p[index_k] or 1 when index_k = -1
 *         = A d_k + B x_k + C0 per channel  when coef_k = (3,C)
 * All of one shape, any layout; coef only with NHWC. Node inputs: p or 0, then (d, x, coef) per term. dst may share the
 * storage of any plain term (coef 0, index -1). */
typedef struct dass_gterm {
    dass_val d, x, coef;
    int32_t index;
} dass_gterm;
dass_val dass_gsum(dass_graph *g, dass_val p, const dass_gterm *terms, uint32_t n);

/* d_a = p (d_p - sum_row d_p p). Inputs: d_p, p. */
dass_val dass_softmax_bwd(dass_graph *g, dass_val d_p, dass_val p);
/* d_logits = (probs - target) / n_valid, 0 in rows that do not count. Inputs: probs, labels, step. */
dass_val dass_xent_bwd(dass_graph *g, dass_val probs, dass_val labels, dass_val step, double smoothing);

/* Gradient of dwpw. Effective gradient of y: e = d (coef 0), or A d + B y + C0 per channel (coef (3,OC)).
 * Node inputs (11): x, in_mean, in_rstd, in_gamma, in_beta, w_dw, w_pw, y, d, coef, acc.
 * Outputs (6), each 0 when not wanted: d_x, in_coef, d_gamma, d_beta, d_wdw, d_wpw.
 *     q = gradient with respect to u (after the relu mask v > 0, when a.relu)
 *     without in_mean: d_x = acc + q  (acc or 0; may share storage).   in_coef, d_gamma, d_beta: 0
 *     with    in_mean: d_x = q (acc must be 0), d_beta = sum q, d_gamma = sum q xh, in_coef (3,C) with
 *                      gradient of x = A d_x + B x + C0:
 *                      A = gamma rstd, B = -A rstd d_gamma/M, C0 = -A d_beta/M - B mean
 * y is read only when coef != 0. */
typedef struct dass_dwpw_grad {
    dass_val d_x, in_coef, d_gamma, d_beta, d_wdw, d_wpw;
} dass_dwpw_grad;
/* want: bit 0 d_x (with in_coef when in_mean), bit 1 d_gamma and d_beta, bit 2 weights. */
dass_dwpw_grad dass_dwpw_bwd(dass_graph *g, dass_dwpw_in in, dass_val y, dass_val d, dass_val coef, dass_val acc,
                             dass_conv_attr a, unsigned want);

/* ---- state ops: flat buffers -------------------------------------------------------------------------------- */

void dass_fill(dass_graph *g, dass_val dst_ref, double value); /* effect on a buffer value; node: () -> dst */
void dass_copy(dass_graph *g, dass_val src, dass_val dst_ref); /* effect; node: src -> dst */

/* Bits of the kept entries: per segment the `kept` largest by (|score|, index), ties keep the higher index, so the
 * lower index is dropped first. Entries outside every segment are kept. scores (n) flat; bits (n) BITS in a buffer. */
void dass_mask_threshold(dass_graph *g, dass_val scores, dass_val bits_ref, const dass_segment *segments,
                         int64_t n_segments);
/* masked = weights where the bit is set, else 0. All (n) flat, masked in a buffer. Inputs: weights, bits. */
void dass_mask_apply(dass_graph *g, dass_val weights, dass_val bits, dass_val masked_ref);
/* d_weights = d_masked * bit, in place on the gradient buffer. Inputs: d_masked, bits. Output: the same storage. */
void dass_mask_bwd_weights(dass_graph *g, dass_val d_masked_ref, dass_val bits);
/* d_scores = d_masked * weights * sign(scores), sign(0) = 0, for ALL entries. Inputs: d_masked, weights, scores. */
void dass_mask_bwd_scores(dass_graph *g, dass_val d_masked, dass_val weights, dass_val scores, dass_val d_scores_ref);

/* Sum of squares of up to 4 flat values -> (1), summed in fixed-size chunks in index order, in double. */
dass_val dass_norm2(dass_graph *g, const dass_val *x, uint32_t n);
/* SGD with momentum, coupled L2 and clip by global norm, in place:
 *     s = clip > 0 and norm2 != 0 given ? min(1, clip / (sqrt(norm2) + 1e-6)) : 1
 *     d = s grad + weight_decay theta;  m = momentum m + d;  theta -= lr m
 * lr and weight_decay are entry `group` of the step block. bits or 0: decay only where the bit is set.
 * Inputs: theta, m, grad, step, norm2 or 0, bits or 0. Outputs: theta', m' (same storage). attr.scalar.i = group */
void dass_sgd(dass_graph *g, dass_val theta_ref, dass_val m_ref, dass_val grad, dass_val step, dass_val norm2,
              dass_val bits, int32_t group);
/* Adam with coupled L2 (torch.optim.Adam): d = grad + wd theta; m = b1 m + (1-b1) d; v = b2 v + (1-b2) d^2;
 *     theta -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
 * Inputs: theta, m, v, grad, step. Outputs: theta', m', v'. attr.scalar.i = group */
void dass_adam(dass_graph *g, dass_val theta_ref, dass_val m_ref, dass_val v_ref, dass_val grad, dass_val step,
               int32_t group);
/* Exponential moving average of a flat value, in place: avg += (1 - step.ema) (x - avg). The caller gives avg its first
 * value. avg, x (n). Inputs: avg, x, step. Output: avg' (same storage). */
void dass_ema(dass_graph *g, dass_val avg_ref, dass_val x, dass_val step);
/* One step of SGD that is looked at and then taken back (DARTS): momentum is read, not written, nothing is clipped.
 *     dst = saved - xi (momentum m + grad + weight_decay saved)
 * weight_decay is entry `group` of the step block. bits or 0: decay only where the bit is set.
 * Inputs: saved, m, grad, step, bits or 0. Output: dst, in a buffer. attr.scalar.i = group */
void dass_unroll(dass_graph *g, dass_val dst_ref, dass_val saved, dass_val m, dass_val grad, dass_val step,
                 dass_val bits, int32_t group);
/* A small way along a direction, of length DASS_SHIFT_LENGTH over all values that norm2 was taken of:
 *     dst = saved + sign eps v,  eps = DASS_SHIFT_LENGTH / sqrt(norm2);  norm2 = 0: dst = saved
 * sign: 1 or -1. Inputs: saved, v, norm2 (1). Output: dst, in a buffer. attr.scalar.i = sign */
#define DASS_SHIFT_LENGTH 0.01
void dass_shift(dass_graph *g, dass_val dst_ref, dass_val saved, dass_val v, dass_val norm2, int32_t sign);
/* Correction of an unrolled gradient by a product of the mixed second derivative with v, from the gradients p and n at
 * the two ends of a shift along v (eps as there), in place:
 *     d_alpha -= xi (p - n) / (2 eps)
 * Inputs: d_alpha, p, n, norm2 (1), step. Output: d_alpha', the same storage. */
void dass_hvp(dass_graph *g, dass_val d_alpha_ref, dass_val p, dass_val n, dass_val norm2, dass_val step);

/* ---- graph -> graph ------------------------------------------------------------------------------------------ */

/* Reverse mode. For every value of the graph that lies in wrt[i].buf, its gradient is written at the same offset of
 * wrt[i].grad_buf (zeros when the loss does not depend on it). Only nodes that some wanted gradient needs are emitted:
 * asking for alpha alone emits no weight gradient; "freezing" has no other form. loss: (1). */
typedef struct dass_wrt {
    dass_buf buf, grad_buf;
} dass_wrt;
dass_status dass_graph_grad(dass_graph *g, dass_val loss, const dass_wrt *wrt, uint32_t n_wrt);
/* The same of a weighted sum of cross-entropies: weight[i] (1) is that of loss[i]; 0 stands for a weight of 1. */
dass_status dass_graph_grad_losses(dass_graph *g, const dass_val *loss, const dass_val *weight, uint32_t n,
                                   const dass_wrt *wrt, uint32_t n_wrt);
/* The same from given output gradients: d_y[i] (shape of y[i], any value of the graph) is dL/dy[i]. */
dass_status dass_graph_grad_seeded(dass_graph *g, const dass_val *y, const dass_val *d_y, uint32_t n,
                                   const dass_wrt *wrt, uint32_t n_wrt);

/* Fusion, on a forward graph, before the gradient is taken (fused ops have gradient rules of their own, so the
 * backward pass needs no patterns):
 *     relu -> depthwise -> pointwise -> bn_stats, with a batch norm before the relu when nobody else reads it -> DWPW
 *     bn_apply (no activation) whose readers are all wsum terms                              -> a normalised term
 * can(op) is the backend's answer; NULL = everything. passes: bits of dass_lower_pass. *out is a new graph; `keep`
 * values (n_keep) are translated in place. */
typedef enum dass_lower_pass { DASS_LOWER_DWPW = 1, DASS_LOWER_WSUM_BN = 2, DASS_LOWER_ALL = 3 } dass_lower_pass;
dass_status dass_graph_lower(const dass_graph *g, unsigned passes, bool (*can)(void *ctx, dass_op op), void *ctx,
                             dass_val *keep, uint32_t n_keep, dass_graph **out);

/* Text dump, one node a line. Caller's FILE. */

void dass_graph_dump(const dass_graph *g, FILE *f);

#endif
