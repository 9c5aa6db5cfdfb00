/* Parameters as flat groups, and everything else a graph keeps outside the arena: the store.
 *
 * A group is one flat buffer of values with buffers of equal length beside it: gradient, momentum. A tensor is a
 * segment of a group; segments lie in forward order, so gradients complete from the end and optimisers, masks,
 * checkpoints and all-reduces are single passes over flat memory.
 *
 *     W    | stem.conv | cell0.pre0 | cell0.e0.sep3.dw1 | ...        weights: everything that a mask may prune
 *     W_GRAD, W_MOM, SCORE, SCORE_GRAD, SCORE_MOM, MASKED, BITS, W_EMA      the same offsets
 *     W_STORED                                  W or MASKED as convolutions read them in bf16
 *     AF   | stem.gamma | stem.beta | ... | classifier.bias          never pruned
 */
#ifndef DASS_PARAM_H
#define DASS_PARAM_H

#include "dass/exec.h"
#include "dass/rng.h"

/* X(NAME, dtype, length): length W, AF, ALPHA, STAT = elements of that group; a number = that many elements; 0 = set by
 * dass_store_size (inputs). */
#define DASS_BUF_MAP(X)        \
    X(W, REAL, W)              \
    X(W_GRAD, REAL, W)         \
    X(W_MOM, REAL, W)          \
    X(SCORE, REAL, W)          \
    X(SCORE_GRAD, REAL, W)     \
    X(SCORE_MOM, REAL, W)      \
    X(MASKED, REAL, W)         \
    X(BITS, BITS, W)           \
    X(AF, REAL, AF)            \
    X(AF_GRAD, REAL, AF)       \
    X(AF_MOM, REAL, AF)        \
    X(ALPHA, REAL, ALPHA)      \
    X(ALPHA_GRAD, REAL, ALPHA) \
    X(ALPHA_M, REAL, ALPHA)    \
    X(ALPHA_V, REAL, ALPHA)    \
    X(STAT, REAL, STAT)        \
    X(W_EMA, REAL, W)          \
    X(AF_EMA, REAL, AF)        \
    X(STAT_EMA, REAL, STAT)    \
    X(STEP, U8, 256)           \
    X(LOSS, REAL, 1)           \
    X(CORRECT, REAL, 1)        \
    X(NORM2, REAL, 1)          \
    X(AUX_WEIGHT, REAL, 1)     \
    X(IMAGES, U8, 0)           \
    X(LABELS, I32, 0)          \
    X(SAMPLES, I32, 0)         \
    X(W_SAVED, REAL, W)        \
    X(AF_SAVED, REAL, AF)      \
    X(ALPHA_GRAD_P, REAL, ALPHA) \
    X(ALPHA_GRAD_N, REAL, ALPHA) \
    X(VAL_IMAGES, U8, 0)       \
    X(VAL_LABELS, I32, 0)      \
    X(VAL_SAMPLES, I32, 0)     \
    X(VAL_LOSS, REAL, 1)       \
    X(VAL_CORRECT, REAL, 1)     \
    X(DATA_IMAGES, U8, 0)       \
    X(DATA_LABELS, I32, 0)      \
    X(ORDER, I32, 0)            \
    X(VAL_ORDER, I32, 0)            \
    X(W_STORED, BF16, W)

enum {
    DASS_BUF_TEMP,
#define X(name, dtype, length) DASS_BUF_##name,
    DASS_BUF_MAP(X)
#undef X
    DASS_N_BUFS
};
const char *dass_buf_name(dass_buf b);

typedef enum dass_group { DASS_GROUP_W, DASS_GROUP_AF, DASS_GROUP_ALPHA, DASS_GROUP_STAT, DASS_N_GROUPS } dass_group;
typedef enum dass_init {
    DASS_INIT_ZERO,
    DASS_INIT_ONE,
    DASS_INIT_KAIMING, /* uniform in +-1/sqrt(fan_in): PyTorch's default of conv and linear */
    DASS_INIT_ALPHA    /* 1e-3 N(0, 1) */
} dass_init;
/* What a weight segment is, for density policies. */
typedef enum dass_kind {
    DASS_KIND_CONV,
    DASS_KIND_DEPTHWISE,
    DASS_KIND_STEM,
    DASS_KIND_LINEAR,
    DASS_KIND_OTHER
} dass_kind;

typedef struct dass_param {
    const char *name; /* unique in the store */
    dass_group group;
    dass_kind kind;
    dass_init init;
    int32_t rank;
    int32_t dim[4];
    int64_t offset, count; /* elements, in the group */
    bool auxiliary;        /* the auxiliary head: in no count, never pruned */
} dass_param;

typedef struct dass_store dass_store;
dass_status dass_store_make(dass_dtype real, dass_store **out);
dass_dtype dass_store_real(const dass_store *s); /* F32 or F64 */
void dass_store_free(dass_store *s); /* frees device memory too; close the backend afterwards */

/* Find or add a parameter: the first graph built over a store adds, later ones find. Errors: DASS_ARG when a name comes
 * back with another shape or group, or after dass_store_commit when it is new. */
dass_status dass_store_param(dass_store *s, const dass_param *desc, uint32_t *index);
uint32_t dass_store_n_params(const dass_store *s);
const dass_param *dass_store_get(const dass_store *s, uint32_t index);
int64_t dass_store_count(const dass_store *s, dass_group group);
/* Elements of a buffer (by the map above). */
int64_t dass_store_buf_count(const dass_store *s, dass_buf b);
size_t dass_store_buf_bytes(const dass_store *s, dass_buf b);
void dass_store_size(dass_store *s, dass_buf input, int64_t count); /* an input: the largest wins */

/* Allocate every buffer in `bufs` bit set (bit i = buffer i) on the backend, and freeze the layout. */
dass_status dass_store_commit(dass_store *s, dass_backend *be, uint64_t bufs);
void *const *dass_store_ptrs(const dass_store *s); /* DASS_N_BUFS entries */
size_t dass_store_bytes(const dass_store *s);      /* committed */
/* Whole-buffer transfers of real buffers as double, or raw. count checked. */
dass_status dass_store_write(dass_store *s, dass_buf b, const void *src, size_t bytes);
dass_status dass_store_read(dass_store *s, dass_buf b, void *dst, size_t bytes);
dass_status dass_store_write_real(dass_store *s, dass_buf b, const double *src, int64_t count);
dass_status dass_store_read_real(dass_store *s, dass_buf b, double *dst, int64_t count);
/* The first element of n buffers of real numbers (at most DASS_MAX_SCALARS), with one wait for the device. */
#define DASS_MAX_SCALARS 8
dass_status dass_store_read_scalars(dass_store *s, const dass_buf *b, double *const *dst, uint32_t n);
dass_status dass_store_zero(dass_store *s, dass_buf b);
/* Whether a buffer holds what a step reads from outside (batches, the data set, its orders, the step block), not
 * parameters or what belongs to them. */
bool dass_buf_is_input(dass_buf b);

/* Initial values of W, AF, ALPHA, STAT from (seed, parameter name): the same whatever else is in the store. */
dass_status dass_store_init(dass_store *s, uint64_t seed);
/* Scaled score init, HYDRA: scores = sqrt(6 / fan_in) * w / max|w| per tensor (zeros where the tensor is zero). */
dass_status dass_store_init_scores(dass_store *s);

/* ---- density (mask.c) ---------------------------------------------------------------------------------------- */

typedef enum dass_allocation {
    DASS_ALLOC_UNIFORM,
    DASS_ALLOC_ERK,
    DASS_ALLOC_GLOBAL,
    DASS_ALLOC_FLOOR
} dass_allocation;
dass_status dass_allocation_parse(const char *word, dass_allocation *out);
/* n - floor((1 - density) n), the product in double as the published code has it; at least 1 of n > 0. */
int64_t dass_kept_count(int64_t n, double density);
/* Fill one segment per weight tensor (arena memory) with the kept count, at least 1. Every policy keeps uniform's
 * total. ERK: density proportional to (IC/g + OC + KH + KW) / (IC/g OC KH KW), capped at 1, largest remainder. GLOBAL:
 * one ranking by LAMP's scores, w^2 / (w^2 + all larger squares of the tensor), of `weights`, the group's n values
 * up to a factor per tensor; the other policies take NULL. FLOOR: at least one per output channel, the rest uniform.
 * Auxiliary tensors keep everything and are not in the total. Errors: DASS_ARG; DASS_NUMERIC naming tensor and index of
 * a weight that is not finite. */
dass_status dass_density_allocate(const dass_store *s, dass_allocation policy, double density, const double *weights,
                                  dass_arena *mem, dass_segment **segments, int64_t *n_segments);
/* The same of a network that has lost weights before: limit[i] is how many the i-th weight tensor has left, in the
 * order of the segments (NULL: all). No tensor keeps more; what one cannot take, the others share by the policy's rule;
 * the total is at most what is left. Errors: DASS_ARG also for a tensor that has none left. */
dass_status dass_density_allocate_within(const dass_store *s, dass_allocation policy, double density,
                                         const double *weights, const int64_t *limit, dass_arena *mem,
                                         dass_segment **segments, int64_t *n_segments);

#endif
