/* One list of cases per op, walked by several tests: every backend against the reference, gradients
 * against finite differences, timings. A case builds a tiny graph for one op from named inputs;
 * what the inputs hold is a pure function of their names. A case is not a test: it asserts nothing.
 *
 * The same build function serves three graphs:
 *     plain   inputs are references to buffers, outputs are placed in CASE_OUT
 *     temp    inputs and outputs go through arena temporaries, so that kernels work in place and
 * inside guarded memory grad    inputs avoid kinks, statistics come from the data they normalise,
 * and the real inputs in CASE_PARAM are those that gradients are wanted for
 */
#ifndef DASS_TESTS_CASES_H
#define DASS_TESTS_CASES_H

#include "dass/exec.h"

typedef enum case_buf {
    CASE_NONE,
    CASE_PARAM, /* real inputs that a gradient check differentiates by, and the state of effects */
    CASE_CONST, /* real inputs that it does not */
    CASE_U8,
    CASE_I32,
    CASE_STEP,
    CASE_BITS,
    CASE_SEED, /* gradient check: weights of the outputs in the scalar that is differentiated */
    CASE_OUT,
    CASE_OUT_U8,
    CASE_OUT_I32,
    CASE_GRAD, /* gradient check: gradients, at the offsets of CASE_PARAM */
    CASE_NARROW, /* images and weights in the stored type: made by the graph, never copied */
    CASE_N_BUFS
} case_buf;

typedef enum case_fill {
    FILL_UNIFORM,  /* [-1, 1] */
    FILL_POSITIVE, /* [0.5, 1.5] */
    FILL_WIDE,     /* [-8, 8], farther than 0.1 from 0 and 6 */
    FILL_APART,    /* [-1, 1], farther than 0.1 from 0 */
    FILL_DISTINCT, /* a permutation of equally spaced values in [-1, 1] */
    FILL_COARSE,   /* multiples of 1/4 in [-1, 1]: ties and zeros */
    FILL_BELOW,    /* integers in [0, below) */
    FILL_STARTS,   /* of a case_csr: row starts, columns */
    FILL_COLUMNS
} case_fill;

typedef struct case_tensor {
    char name[32];
    dass_val val; /* while building only: finishing renumbers values */
    dass_dtype dtype;
    dass_buf buf;
    int64_t offset, count;
    case_fill fill;
    int32_t below; /* FILL_BELOW; FILL_STARTS and FILL_COLUMNS: columns of the matrix */
    int32_t rows, permille;
    bool stored; /* an input that the graph casts to the stored type, an output that it casts from it */
} case_tensor;

#define CASE_MAX_TENSORS 192

typedef struct case_graph {
    dass_graph *g;
    bool temp, grad, unfused;
    bool stored;  /* images and weights are in the stored type: bf16 in a graph of f32 */
    bool aligned; /* vectors too start at multiples of 16 elements; a build function may set it */
    bool astray;  /* activations too start at odd offsets; a build function may set it */
    dass_buf into; /* where real inputs go: CASE_PARAM (default) or CASE_CONST */
    case_tensor in[CASE_MAX_TENSORS];
    case_tensor out[CASE_MAX_TENSORS];
    uint32_t n_in, n_out;
    int64_t used[CASE_N_BUFS]; /* elements */
    dass_step_block step;      /* contents of CASE_STEP; the build function may change them */
    char text[32];             /* of case_text */
    dass_val loss;             /* set by cases whose gradient starts at a loss of their own */
} case_graph;

#define CASE_MAX_ARGS 12

typedef struct test_case {
    dass_op op;
    const char *args; /* names of the arguments, for messages: "n c h w" */
    void (*build)(case_graph *cg, const int32_t *arg);
    int32_t arg[CASE_MAX_ARGS];
} test_case;

/* Cases that share a build function: one per row of `table`. */
typedef struct case_family {
    dass_op op;
    const char *args;
    void (*build)(case_graph *cg, const int32_t *arg);
    const int32_t (*table)[CASE_MAX_ARGS];
    size_t n;
} case_family;
#define FAMILY(OP, fn, ARGS, table)                                             \
    {                                                                           \
        DASS_OP_##OP, ARGS, build_##fn, table, sizeof(table) / sizeof(*(table)) \
    }
/* Ended by a family of op NONE. */
extern const case_family cases_plain[]; /* cases_list.c */
extern const case_family cases_fused[]; /* cases_fused.c */
extern const case_family cases_state[]; /* cases_state.c */
extern const case_family cases_sparse[]; /* cases_sparse.c */

/* All cases. */
const test_case *cases_all(size_t *n);
/* "conv n=2 c=3 …"; buf NUL-ended. */
void case_name(const test_case *t, char *buf, size_t n_buf);

/* ---- for build functions ------------------------------------------------------------ */

dass_val case_image(case_graph *cg, const char *name, int32_t n, int32_t c, int32_t h, int32_t w, case_fill fill);
dass_val case_weights(case_graph *cg, const char *name, int32_t oc, int32_t ic, int32_t kh, int32_t kw);
dass_val case_vector(case_graph *cg, const char *name, int32_t n, case_fill fill);
dass_val case_matrix(case_graph *cg, const char *name, int32_t rows, int32_t cols, case_fill fill);
/* A flat vector that an effect may write: never a temporary. */
dass_val case_state(case_graph *cg, const char *name, int32_t n, case_fill fill);
dass_val case_bytes(case_graph *cg, const char *name, int32_t n, int32_t c, int32_t h, int32_t w, int32_t below);
dass_val case_ints(case_graph *cg, const char *name, int32_t n, int32_t below);
/* A sparse matrix: row r has no entry where r % 7 = 3, all where r % 7 = 5, else about permille of 1000; permille 0
 * and 1000: none and all in every row. */
dass_csr case_csr(case_graph *cg, const char *name, int32_t rows, int32_t cols, int32_t permille);
dass_val case_bits(case_graph *cg, const char *name, int32_t n);
dass_val case_step(case_graph *cg);
/* "stem<i>", valid until the next call; inputs keep a copy of their names. */
const char *case_text(case_graph *cg, const char *stem, uint32_t i);
/* What is compared: a value some node writes (moved to CASE_OUT), or a buffer reference that an
 * effect writes. 0 is fine. */
void case_out(case_graph *cg, const char *name, dass_val v);
void case_out_state(case_graph *cg, const char *name, dass_val ref);

/* ---- building and running ----------------------------------------------------------- */

typedef enum case_mode {
    CASE_PLAIN,
    CASE_TEMP,
    CASE_GRADIENT,
    CASE_UNFUSED, /* as GRADIENT, but cases that know how build primitive ops instead of fused ones */
    CASE_LOWERED, /* the graph of UNFUSED after all lowering passes */
    CASE_STORED,  /* as PLAIN, and as TEMP, with images and weights in bf16; in f64, of numbers that bf16 has */
    CASE_STORED_TEMP
} case_mode;

/* Builds, lowers and finishes. `backward` appends the gradient of sum(seed * out), or of the loss,
 * with respect to CASE_PARAM. Free with case_graph_free, also after an error. */
dass_status case_graph_make(const test_case *t, dass_dtype real, case_mode mode, bool backward, case_graph **out);
void case_graph_free(case_graph *cg);

/* Contents of all buffers, reals as doubles that are exact in float; bits and integers as stored.
 */
typedef struct case_data {
    void *buf[CASE_N_BUFS];
    size_t bytes[CASE_N_BUFS];
} case_data;
bool case_is_real(dass_buf b);
dass_status case_data_make(const case_graph *cg, case_data *out);
void case_data_free(case_data *d);

typedef struct case_program {
    dass_backend *be;
    const case_graph *cg;
    dass_exec *exec;
    dass_program *program;
    void *buf[CASE_N_BUFS]; /* on the device */
    void *staging;          /* host, as large as the largest buffer */
} case_program;
dass_status case_program_make(dass_backend *be, const case_graph *cg, const dass_exec_options *opt, case_program *out);
void case_program_free(case_program *p);
/* Copy the buffers to the device, run once, copy them back. */
dass_status case_program_run(case_program *p, case_data *d);

#endif
