/* Convolutions by cuDNN's graph API: describe -> plan -> bind -> run. Private to src/cuda.
 *
 * A plan is one operation graph (a convolution, with bias and activation where asked) for which one of cuDNN's engines
 * was found; it is made once, bound once to its pointers, then run without deciding or allocating anything. Plans are
 * made from a description of the card, so the same path runs where there is none: with options.device_json a module
 * opens without a GPU and makes plans, and only running them is refused. On the card itself one is made only where it
 * refuses the described one; the first such refusal of a module is a warning with cuDNN's status.
 *
 * Not thread safe: one module per stream, used by one thread at a time.
 */
#ifndef DASS__DNN_H
#define DASS__DNN_H

#include "dass/backend.h"
#include "dass/graph.h"

typedef struct dass__dnn dass__dnn;
typedef struct dass__dnn_plan dass__dnn_plan;

typedef enum dass__dnn_kind { DASS__DNN_FORWARD, DASS__DNN_DATA, DASS__DNN_WEIGHTS } dass__dnn_kind;
#define DASS__DNN_KINDS 3

/* One convolution. Tensors are dense NHWC: x (N,IC,IH,IW) stored n,h,w,c and y (N,OC,OH,OW) alike; filters are
 * (OC,IC/groups,KH,KW) stored oc,kh,kw,ic: KRSC, which for 1x1 is what dass's OIHW is. OH and OW follow, as in
 * dass_conv_attr. Compared and hashed by its text, so padding bytes do not matter.
 *
 * precision says what the tensors are and what may happen to the numbers. FP32: tensors are fp32, and nothing happens
 * beyond the rounding of single precision (see cuda_dnn_engine.c). TF32: tensors are fp32, products may round their
 * factors to 10 bits of mantissa, Winograd and FFT are allowed. BF16: x, w, y and the gradients of x and y are bf16 in
 * memory, the bias and the gradient of w are fp32; products and sums are as with FP32, and what is stored is rounded
 * once. */
typedef struct dass__dnn_conv {
    dass__dnn_kind kind;
    dass_precision precision;
    int32_t n, ic, ih, iw, oc, kh, kw;
    int32_t stride, pad, dil, groups; /* the same in both axes */
    bool bias;                        /* FORWARD only: one fp32 number per output channel is added */
    dass_act act;                     /* FORWARD only: applied last */
} dass__dnn_conv;

/* Can it be planned in its precision? All can but BF16 gradients of weights: the engines that sum them in fp32 take
 * groups = 1 and channels by fours (by twos they are compiled for a quarter of a minute, and are slow). For the others
 * plan_make returns DASS_UNSUPPORTED; widen x and dy, in which nothing is lost, and plan in FP32. */
bool dass__dnn_conv_exists(const dass__dnn_conv *c);

typedef struct dass__dnn_options {
    size_t ws_limit;         /* bytes of workspace that a plan may want; 0 = 256 MiB */
    bool deterministic;      /* drop engines that may give other bits in another run */
    const char *cache_dir;   /* folder of finished plans, made if it is missing; NULL = none. Its files hold code for
                                the card: it must be as trusted as the program */
    const char *device_json; /* NULL: the card `ordinal`. Else plan for the card this text describes */
} dass__dnn_options;

/* Open cuDNN on a stream (a cudaStream_t). The caller has made `ordinal` the current device. opt may be NULL.
 * Errors: DASS_DEVICE when there is no card and no device_json, DASS_FORMAT when device_json is refused, DASS_IO when
 * the cache's folder cannot be made. */
dass_status dass__dnn_open(int ordinal, void *stream, const dass__dnn_options *opt, dass__dnn **out);
/* Plans must be gone before. NULL is fine. */
void dass__dnn_close(dass__dnn *dnn);
/* cuDNN's description of the card, as device_json takes it. Lives as long as dnn. */
const char *dass__dnn_device_json(const dass__dnn *dnn);
/* Can plans be run, or only made? */
bool dass__dnn_can_run(const dass__dnn *dnn);

/* The text form of a description: "forward n=64 ic=3 ih=32 iw=32 oc=16 kh=3 kw=3 stride=1 pad=1 dil=1 groups=1 bias=0
 * act=none precision=fp32". Cut at n like snprintf; DASS__DNN_TEXT bytes always suffice. Returns buf. */
#define DASS__DNN_TEXT 256
const char *dass__dnn_conv_text(const dass__dnn_conv *c, char *buf, size_t n);

/* The first plan that cuDNN's heuristics propose, that passes the filters of precision and options and that finalises;
 * or the one of the cache. Takes milliseconds, or seconds where the engine is compiled for the shape. Free with
 * dass__dnn_plan_free. Errors: DASS_ARG for an impossible description; DASS_UNSUPPORTED where dass__dnn_conv_exists
 * says no, and when nothing is left, with the description, how many candidates each filter dropped and cuDNN's last
 * error. */
dass_status dass__dnn_plan_make(dass__dnn *dnn, const dass__dnn_conv *c, dass__dnn_plan **out);
void dass__dnn_plan_free(dass__dnn_plan *plan); /* NULL is fine */
/* Bytes of workspace that bind wants. */
size_t dass__dnn_plan_ws(const dass__dnn_plan *plan);
/* "cudnn:eng33+tc+rtc": the engine's number and its notes: tc tensor cores, downcvt, redprec, fft, wino, nondet, rtc
 * compiled at run time. Lives as long as the plan. */
const char *dass__dnn_plan_name(const dass__dnn_plan *plan);
/* Did it come from the cache's folder? */
bool dass__dnn_plan_cached(const dass__dnn_plan *plan);

/* Fix the device pointers. in0, in1 -> out: FORWARD x, w -> y; DATA dy, w -> dx; WEIGHTS x, dy -> dw. Tensors and
 * workspace are aligned to 16 bytes, bias to 4; bias is NULL without one. ws: dass__dnn_plan_ws bytes, NULL when 0.
 * A second bind replaces the first. Errors: DASS_ARG for a missing or misaligned pointer. */
dass_status dass__dnn_plan_bind(dass__dnn_plan *plan, const void *in0, const void *in1, const void *bias, void *out,
                                void *ws);
/* Queue the plan on the stream. Allocates nothing of ours, but where the first run of a described plan fails and
 * another is made on the card. Errors: DASS_DEVICE when dnn was opened without a card or the card failed, DASS_ARG when
 * the plan was never bound, DASS_INTERNAL when cuDNN finds fault with what it was given.
 */
dass_status dass__dnn_run(dass__dnn *dnn, dass__dnn_plan *plan);

#endif
