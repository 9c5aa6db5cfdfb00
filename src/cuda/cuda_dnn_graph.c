/* A convolution as text and as cuDNN's operation graph. Chooses nothing. Invariant: the tensors of every plan carry the
 * same unique ids, so a plan from the cache is bound like a fresh one.
 */
#include "cuda_dnn_private.h"

#include <stdio.h>

const char *dass__dnn_conv_text(const dass__dnn_conv *c, char *buf, size_t n)
{
    static const char *const kind[DASS__DNN_KINDS] = {"forward", "data", "weights"};
    static const char *const precision[DASS_N_PRECISIONS] = {"fp32", "tf32", "bf16"};
    static const char *const act[] = {[DASS_ACT_NONE] = "none", [DASS_ACT_RELU] = "relu", [DASS_ACT_RELU6] = "relu6"};
    (void)snprintf(buf, n,
                   "%s n=%d ic=%d ih=%d iw=%d oc=%d kh=%d kw=%d stride=%d pad=%d dil=%d groups=%d bias=%d act=%s "
                   "precision=%s",
                   (unsigned)c->kind < DASS__DNN_KINDS ? kind[c->kind] : "?", c->n, c->ic, c->ih, c->iw, c->oc, c->kh,
                   c->kw, c->stride, c->pad, c->dil, c->groups, c->bias,
                   (unsigned)c->act <= DASS_ACT_RELU6 ? act[c->act] : "?",
                   (unsigned)c->precision < DASS_N_PRECISIONS ? precision[c->precision] : "?");
    return buf;
}

typedef struct dims {
    int64_t d[4]; /* n, c, h, w */
} dims;

static dims dims_x(const dass__dnn_conv *c)
{
    return (dims){{c->n, c->ic, c->ih, c->iw}};
}

static dims dims_w(const dass__dnn_conv *c)
{
    return (dims){{c->oc, c->ic / c->groups, c->kh, c->kw}};
}

static int64_t out_size(const dass__dnn_conv *c, int64_t in, int64_t k)
{
    const int64_t room = in + 2 * (int64_t)c->pad - (int64_t)c->dil * (k - 1) - 1;
    return room < 0 ? 0 : room / c->stride + 1;
}

static dims dims_y(const dass__dnn_conv *c)
{
    return (dims){{c->n, c->oc, out_size(c, c->ih, c->kh), out_size(c, c->iw, c->kw)}};
}

/* Are all four positive, and does a tensor of them have a size that can be counted? */
static bool countable(dims t)
{
    int64_t n = 4; /* bytes of an element */
    for (int i = 0; i < 4; ++i)
        if (t.d[i] <= 0 || __builtin_mul_overflow(n, t.d[i], &n))
            return false;
    return true;
}

dass_status dass__dnn_conv_check(const dass__dnn_conv *c)
{
    const bool known = (unsigned)c->kind < DASS__DNN_KINDS && (unsigned)c->precision < DASS_N_PRECISIONS &&
                       (unsigned)c->act <= DASS_ACT_RELU6;
    const bool plain = c->kind == DASS__DNN_FORWARD || (!c->bias && c->act == DASS_ACT_NONE);
    const bool sane =
        c->stride > 0 && c->pad >= 0 && c->dil > 0 && c->groups > 0 && c->ic % c->groups == 0 && c->oc % c->groups == 0;
    char text[DASS__DNN_TEXT];
    if (!known || !plain || !sane || !countable(dims_x(c)) || !countable(dims_w(c)) || !countable(dims_y(c)))
        return DASS_FAIL(DASS_ARG, "impossible convolution '%s': %s", dass__dnn_conv_text(c, text, sizeof text),
                         plain ? "every size must be positive, channels a multiple of groups, and the kernel must fit "
                                 "into the padded image"
                               : "only a forward convolution has a bias or an activation");
    return DASS_OK;
}

bool dass__dnn_conv_exists(const dass__dnn_conv *c)
{
    return c->precision != DASS_PRECISION_BF16 || c->kind != DASS__DNN_WEIGHTS ||
           (c->groups == 1 && c->ic % 4 == 0 && c->oc % 4 == 0);
}

/* ---- the operation graph ----------------------------------------------------------------------------------------- */

enum { UID_CONV = DASS__DNN_BIAS + 1, UID_SUM }; /* what lives inside the plan only */

cudnnDataType_t dass__dnn_type(const dass__dnn_conv *c, int64_t uid)
{
    const bool sums = uid == DASS__DNN_BIAS || (uid == DASS__DNN_W && c->kind == DASS__DNN_WEIGHTS);
    return c->precision == DASS_PRECISION_BF16 && !sums && uid < UID_CONV ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
}

/* A descriptor that the plan keeps. */
static dass_status make(dass__dnn_plan *p, cudnnBackendDescriptorType_t type, descriptor *out)
{
    DASS_ASSERT(p->n_own < (int)(sizeof p->own / sizeof *p->own));
    DNN_TRY(cudnnBackendCreateDescriptor(type, out));
    p->own[p->n_own++] = *out;
    return DASS_OK;
}

static dass_status make_tensor(dass__dnn_plan *p, int64_t uid, dims t, descriptor *out)
{
    const cudnnDataType_t type = dass__dnn_type(&p->c, uid);
    const int64_t stride[4] = {t.d[1] * t.d[2] * t.d[3], 1, t.d[1] * t.d[3], t.d[1]};
    const int64_t align = uid == DASS__DNN_BIAS ? DASS__DNN_BIAS_ALIGN : DASS__DNN_ALIGN;
    const bool inside = uid >= UID_CONV;
    DASS_TRY(make(p, CUDNN_BACKEND_TENSOR_DESCRIPTOR, out));
    DNN_SET(*out, TENSOR_DATA_TYPE, DATA_TYPE, 1, &type);
    DNN_SET(*out, TENSOR_DIMENSIONS, INT64, 4, t.d);
    DNN_SET(*out, TENSOR_STRIDES, INT64, 4, stride);
    DNN_SET(*out, TENSOR_UNIQUE_ID, INT64, 1, &uid);
    DNN_SET(*out, TENSOR_BYTE_ALIGNMENT, INT64, 1, &align);
    DNN_SET(*out, TENSOR_IS_VIRTUAL, BOOLEAN, 1, &inside);
    DNN_TRY(cudnnBackendFinalize(*out));
    return DASS_OK;
}

static dass_status make_window(dass__dnn_plan *p, descriptor *out)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t rank = 2;
    const int64_t pad[2] = {p->c.pad, p->c.pad};
    const int64_t stride[2] = {p->c.stride, p->c.stride};
    const int64_t dil[2] = {p->c.dil, p->c.dil};
    DASS_TRY(make(p, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, out));
    DNN_SET(*out, CONVOLUTION_COMP_TYPE, DATA_TYPE, 1, &type);
    DNN_SET(*out, CONVOLUTION_CONV_MODE, CONVOLUTION_MODE, 1, &mode);
    DNN_SET(*out, CONVOLUTION_SPATIAL_DIMS, INT64, 1, &rank);
    DNN_SET(*out, CONVOLUTION_PRE_PADDINGS, INT64, 2, pad);
    DNN_SET(*out, CONVOLUTION_POST_PADDINGS, INT64, 2, pad);
    DNN_SET(*out, CONVOLUTION_FILTER_STRIDES, INT64, 2, stride);
    DNN_SET(*out, CONVOLUTION_DILATIONS, INT64, 2, dil);
    DNN_TRY(cudnnBackendFinalize(*out));
    return DASS_OK;
}

/* The three kinds differ in the names of everything and in nothing else. */
static const struct {
    cudnnBackendDescriptorType_t op;
    cudnnBackendAttributeName_t window, x, w, y, alpha, beta;
} conv_names[DASS__DNN_KINDS] = {
    [DASS__DNN_FORWARD] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
    [DASS__DNN_DATA] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
    [DASS__DNN_WEIGHTS] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
};

static dass_status make_conv(dass__dnn_plan *p, descriptor x, descriptor w, descriptor y, descriptor *out)
{
    const float alpha = 1.0f, beta = 0.0f;
    const dass__dnn_kind k = p->c.kind;
    descriptor window = NULL;
    DASS_TRY(make_window(p, &window));
    DASS_TRY(make(p, conv_names[k].op, out));
    const cudnnBackendAttributeType_t type = CUDNN_TYPE_BACKEND_DESCRIPTOR;
    DNN_TRY(cudnnBackendSetAttribute(*out, conv_names[k].window, type, 1, &window));
    DNN_TRY(cudnnBackendSetAttribute(*out, conv_names[k].x, type, 1, &x));
    DNN_TRY(cudnnBackendSetAttribute(*out, conv_names[k].w, type, 1, &w));
    DNN_TRY(cudnnBackendSetAttribute(*out, conv_names[k].y, type, 1, &y));
    DNN_TRY(cudnnBackendSetAttribute(*out, conv_names[k].alpha, CUDNN_TYPE_FLOAT, 1, &alpha));
    DNN_TRY(cudnnBackendSetAttribute(*out, conv_names[k].beta, CUDNN_TYPE_FLOAT, 1, &beta));
    DNN_TRY(cudnnBackendFinalize(*out));
    return DASS_OK;
}

/* y = x + b when there is a b, else y = act(x). */
static dass_status make_pointwise(dass__dnn_plan *p, descriptor x, descriptor b, descriptor y, descriptor *out)
{
    const cudnnPointwiseMode_t mode = b != NULL                   ? CUDNN_POINTWISE_ADD
                                      : p->c.act == DASS_ACT_NONE ? CUDNN_POINTWISE_IDENTITY
                                                                  : CUDNN_POINTWISE_RELU_FWD;
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    descriptor what = NULL;
    DASS_TRY(make(p, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, &what));
    DNN_SET(what, POINTWISE_MODE, POINTWISE_MODE, 1, &mode);
    DNN_SET(what, POINTWISE_MATH_PREC, DATA_TYPE, 1, &type);
    if (b == NULL && p->c.act == DASS_ACT_RELU6) {
        const double upper = 6.0;
        DNN_SET(what, POINTWISE_RELU_UPPER_CLIP, DOUBLE, 1, &upper);
    }
    DNN_TRY(cudnnBackendFinalize(what));
    DASS_TRY(make(p, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, out));
    DNN_SET(*out, OPERATION_POINTWISE_PW_DESCRIPTOR, BACKEND_DESCRIPTOR, 1, &what);
    DNN_SET(*out, OPERATION_POINTWISE_XDESC, BACKEND_DESCRIPTOR, 1, &x);
    if (b != NULL)
        DNN_SET(*out, OPERATION_POINTWISE_BDESC, BACKEND_DESCRIPTOR, 1, &b);
    DNN_SET(*out, OPERATION_POINTWISE_YDESC, BACKEND_DESCRIPTOR, 1, &y);
    DNN_TRY(cudnnBackendFinalize(*out));
    return DASS_OK;
}

/* conv -> add bias -> activation, whichever of the last two there are; what lies between is fp32. No engine takes bf16
 * and returns fp32 gradients of weights as such; with an identity behind the convolution the compiled engines do. */
dass_status dass__dnn_graph(dass__dnn_plan *p, cudnnHandle_t handle, descriptor *out)
{
    const dass__dnn_conv *const c = &p->c;
    const bool identity = c->precision == DASS_PRECISION_BF16 && c->kind == DASS__DNN_WEIGHTS;
    const bool act = c->act != DASS_ACT_NONE;
    descriptor op[3], x, w, y, b = NULL, conv = NULL, sum = NULL, d_w = NULL;
    int n = 0;
    DASS_TRY(make_tensor(p, DASS__DNN_X, dims_x(c), &x));
    DASS_TRY(make_tensor(p, DASS__DNN_W, dims_w(c), &w));
    DASS_TRY(make_tensor(p, DASS__DNN_Y, dims_y(c), &y));
    conv = sum = y;
    d_w = w;
    if (c->bias && act)
        DASS_TRY(make_tensor(p, UID_SUM, dims_y(c), &sum));
    if (c->bias || act)
        DASS_TRY(make_tensor(p, UID_CONV, dims_y(c), &conv));
    if (identity)
        DASS_TRY(make_tensor(p, UID_CONV, dims_w(c), &d_w));
    DASS_TRY(make_conv(p, x, d_w, conv, &op[n++]));
    if (identity)
        DASS_TRY(make_pointwise(p, d_w, NULL, w, &op[n++]));
    if (c->bias) {
        DASS_TRY(make_tensor(p, DASS__DNN_BIAS, (dims){{1, c->oc, 1, 1}}, &b));
        DASS_TRY(make_pointwise(p, conv, b, sum, &op[n++]));
    }
    if (act)
        DASS_TRY(make_pointwise(p, c->bias ? sum : conv, NULL, y, &op[n++]));
    DASS_TRY(make(p, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, out));
    DNN_SET(*out, OPERATIONGRAPH_OPS, BACKEND_DESCRIPTOR, n, op);
    if (handle != NULL)
        DNN_SET(*out, OPERATIONGRAPH_HANDLE, HANDLE, 1, &handle);
    DNN_TRY(cudnnBackendFinalize(*out));
    return DASS_OK;
}
