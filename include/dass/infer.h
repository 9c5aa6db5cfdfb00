/* A trained network compiled for latency: its evaluation graph and its weights become another graph, in which batch
 * norms are gone into the convolutions, pruned pointwise convolutions are sparse products, and, where asked for, whole
 * inverted residual blocks one kernel. The result owns its constants on the device; the store it came from is not
 * needed any more.
 *
 *     DASS_TRY(dass_net_eval_make(store, &arch, DASS_WEIGHTS_MASKED, batch, &net));
 *     DASS_TRY(dass_infer_compile(&(dass_infer_source){net.g, net.x, net.logits, net.data}, &opt, be, &infer));
 *     DASS_TRY(dass_infer_feed_images(infer, images));
 *     DASS_TRY(dass_infer_run(infer));
 *     DASS_TRY(dass_infer_read(infer, logits));
 */
#ifndef DASS_INFER_H
#define DASS_INFER_H

#include "dass/exec.h"

/* Of a pruned pointwise convolution: as dense as it was, by the backend's library for sparse products, by our kernels.
 */
typedef enum dass_infer_format { DASS_INFER_DENSE, DASS_INFER_LIBRARY, DASS_INFER_OWN } dass_infer_format;

/* What is compiled. g: from x to logits, not finished; only reads parameters, and of running statistics. data[b]:
 * contents of buffer b as doubles, for every buffer but x's that a value of g lies in. */
typedef struct dass_infer_source {
    const dass_graph *g;
    dass_val x, logits;
    double *const *data;
} dass_infer_source;

typedef struct dass_infer_options {
    dass_infer_format format;
    double below; /* a pointwise convolution is sparse where its density is below this; 0: DASS_INFER_BELOW */
    bool fuse;    /* with OWN: expansion, depthwise 3x3 and projection become one node */
    const double *mean, *std; /* input is u8 images, of values in [0, 1] as dass_augment has them; NULL: reals */
    dass_exec_options exec;
} dass_infer_options;
/* Where sparse products on a device should pay against dense ones in single precision: estimated from peaks at 0.33,
 * not yet measured; tensor cores, of TF32 or bf16, would move it down. On the processor they do not pay at 0.1 either:
 * the channels-last kernel turns its tiles there and back, which takes most of its time. */
#define DASS_INFER_BELOW 0.3

typedef struct dass_infer dass_infer;
/* Every buffer is allocated and written here. Errors: DASS_UNSUPPORTED when the device has no library or no kernel for
 * what the options ask, or the graph has an op that inference does not know; DASS_ARG for options that exclude one
 * another; those of the device. */
dass_status dass_infer_compile(const dass_infer_source *src, const dass_infer_options *opt, dass_backend *be,
                               dass_infer **out);
void dass_infer_free(dass_infer *f); /* NULL is fine; before the backend is closed */

/* The whole batch: NHWC bytes, or NHWC reals rounded to the device's type. DASS_ARG when the input is the other. */
dass_status dass_infer_feed_images(dass_infer *f, const uint8_t *images);
dass_status dass_infer_feed(dass_infer *f, const double *x);
/* Runs and waits. Allocates nothing; from the second run on it is replayed where the device records. */
dass_status dass_infer_run(dass_infer *f);
/* Logits (N, classes) of the last run. */
dass_status dass_infer_read(dass_infer *f, double *logits);

typedef struct dass_infer_stats {
    int64_t macs;                         /* of one run, of what is computed: entries of sparse matrices only */
    uint32_t n_dense, n_sparse, n_blocks; /* convolutions; sparse products; blocks of three convolutions */
    uint32_t n_folded, n_norms;           /* batch norms that are gone, and that stayed */
    size_t const_bytes, arena_bytes;
} dass_infer_stats;
dass_infer_stats dass_infer_get_stats(const dass_infer *f);
const dass_graph *dass_infer_graph(const dass_infer *f);
const dass_exec *dass_infer_exec(const dass_infer *f);

#endif
