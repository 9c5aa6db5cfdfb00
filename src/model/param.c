/* The parameter store: descriptors by name, flat groups, and the caller-owned buffers on a backend.
 * It is not a serialiser and knows nothing of networks. Invariants: segments of a group are
 * contiguous and in the order of their first mention; after the first commit offsets and counts
 * never change, so a graph built later over the same store points at the same elements.
 */
#include "dass/param.h"

#include <math.h>
#include <string.h>

#include "model.h"

#define STORE_ALIGN 256u
/* Host staging of real <-> double transfers, so that a sealed loop can read. */
#define STAGE_BYTES ((size_t)1 << 20)

/* Words of DASS_BUF_MAP as numbers. Negative lengths are groups. */
#define BUF_DTYPE_REAL (-1)
#define BUF_DTYPE_BITS DASS_BITS
#define BUF_DTYPE_U8 DASS_U8
#define BUF_DTYPE_I32 DASS_I32
#define BUF_DTYPE_BF16 DASS_BF16
#define BUF_LENGTH_W (-1 - DASS_GROUP_W)
#define BUF_LENGTH_AF (-1 - DASS_GROUP_AF)
#define BUF_LENGTH_ALPHA (-1 - DASS_GROUP_ALPHA)
#define BUF_LENGTH_STAT (-1 - DASS_GROUP_STAT)
#define BUF_LENGTH_256 256
#define BUF_LENGTH_1 1
#define BUF_LENGTH_0 0

typedef struct buf_info {
    const char *name;
    int dtype;  /* dass_dtype, or -1: the store's real */
    int length; /* see above; 0 = an input */
} buf_info;

static const buf_info buf_table[DASS_N_BUFS] = {{"TEMP", DASS_U8, 0},
#define X(name, dtype, length) {#name, BUF_DTYPE_##dtype, BUF_LENGTH_##length},
                                                DASS_BUF_MAP(X)
#undef X
};

struct dass_store {
    dass_dtype real;
    dass_arena *mem; /* descriptors and names */
    dass_param **params;
    uint32_t n_params, cap_params;
    uint32_t *slots;  /* open addressing over name hashes: index + 1, 0 = free */
    uint32_t n_slots; /* power of two, at least twice n_params */
    int64_t count[DASS_N_GROUPS];
    int64_t input[DASS_N_BUFS]; /* asked for by dass_store_size */
    dass_backend *be;           /* of the first commit; not owned */
    bool frozen;
    void *blocks[DASS_N_BUFS]; /* one per commit that allocated anything */
    uint32_t n_blocks;
    void *ptr[DASS_N_BUFS];
    int64_t held[DASS_N_BUFS]; /* elements committed */
    size_t bytes;
    void *stage;
};

const char *dass_buf_name(dass_buf b)
{
    return b < DASS_N_BUFS ? buf_table[b].name : "?";
}

dass_status dass_store_make(dass_dtype real, dass_store **out)
{
    *out = NULL;
    if (real != DASS_F32 && real != DASS_F64)
        return DASS_FAIL(DASS_ARG, "store: type %d is not a floating type; use F32 or F64",
                         (int)real);
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass_store), "store", &block));
    dass_store *s = block;
    s->real = real;
    const dass_status st = dass_arena_make("store", &s->mem);
    if (st != DASS_OK) {
        dass_mem_free(s);
        return dass__hop(st, __FILE__, __LINE__);
    }
    *out = s;
    return DASS_OK;
}

dass_dtype dass_store_real(const dass_store *s)
{
    return s->real;
}

void dass_store_free(dass_store *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->n_blocks; i++)
        s->be->ops->free(s->be, s->blocks[i]);
    dass_mem_free(s->stage);
    dass_mem_free(s->params);
    dass_mem_free(s->slots);
    dass_arena_free(s->mem);
    dass_mem_free(s);
}

/* ---- descriptors --------------------------------------------------------------------------- */

/* Slot of a name, or the free slot where it belongs. n_slots > 0. */
static uint32_t find_slot(const dass_store *s, const char *name)
{
    uint32_t i = (uint32_t)dass_name_hash(name) & (s->n_slots - 1);
    while (s->slots[i] && strcmp(s->params[s->slots[i] - 1]->name, name) != 0)
        i = (i + 1) & (s->n_slots - 1);
    return i;
}

static dass_status grow(dass_store *s)
{
    if (s->n_params == s->cap_params) {
        const uint32_t cap = s->cap_params ? 2 * s->cap_params : 256;
        void *block = s->params;
        DASS_TRY(dass_mem_grow(s->cap_params * sizeof *s->params, cap * sizeof *s->params,
                               "parameter table", &block));
        s->params = block;
        s->cap_params = cap;
    }
    if (2 * (s->n_params + 1) <= s->n_slots)
        return DASS_OK;
    const uint32_t n = s->n_slots ? 2 * s->n_slots : 1024;
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(n * sizeof *s->slots, "parameter names", &block));
    dass_mem_free(s->slots);
    s->slots = block;
    s->n_slots = n;
    for (uint32_t p = 0; p < s->n_params; p++)
        s->slots[find_slot(s, s->params[p]->name)] = p + 1;
    return DASS_OK;
}

static bool same_shape(const dass_param *a, const dass_param *b)
{
    return a->group == b->group && a->rank == b->rank && memcmp(a->dim, b->dim, sizeof a->dim) == 0;
}

static dass_status count_of(const dass_param *p, int64_t *count)
{
    int64_t n = 1;
    for (int i = 0; i < 4; i++) {
        if (p->dim[i] < 1 || (i >= p->rank && p->dim[i] != 1))
            return DASS_FAIL(
                DASS_ARG, "parameter %s: dim %d is %d (rank %d); dims are positive, unused ones 1",
                p->name, i, (int)p->dim[i], (int)p->rank);
        if (__builtin_mul_overflow(n, (int64_t)p->dim[i], &n) || n > INT32_MAX)
            return DASS_FAIL(DASS_ARG, "parameter %s: more than %d elements", p->name, INT32_MAX);
    }
    *count = n;
    return DASS_OK;
}

dass_status dass_store_param(dass_store *s, const dass_param *desc, uint32_t *index)
{
    DASS_ASSERT(desc->name && desc->name[0] && (unsigned)desc->group < DASS_N_GROUPS);
    if (desc->rank < 1 || desc->rank > 4)
        return DASS_FAIL(DASS_ARG, "parameter %s: rank %d, must be 1 to 4", desc->name,
                         (int)desc->rank);
    if (s->n_slots) {
        const uint32_t at = s->slots[find_slot(s, desc->name)];
        if (at) {
            const dass_param *p = s->params[at - 1];
            if (!same_shape(p, desc))
                return DASS_FAIL(
                    DASS_ARG,
                    "parameter %s: asked for as group %d (%d,%d,%d,%d), in the store as group %d "
                    "(%d,%d,%d,%d); graphs over one store need one architecture",
                    p->name, (int)desc->group, (int)desc->dim[0], (int)desc->dim[1],
                    (int)desc->dim[2], (int)desc->dim[3], (int)p->group, (int)p->dim[0],
                    (int)p->dim[1], (int)p->dim[2], (int)p->dim[3]);
            *index = at - 1;
            return DASS_OK;
        }
    }
    if (s->frozen)
        return DASS_FAIL(DASS_ARG,
                         "parameter %s: new after the store was committed; build every graph first",
                         desc->name);
    int64_t count = 0;
    DASS_TRY(count_of(desc, &count));
    if (s->count[desc->group] + count > INT32_MAX)
        return DASS_FAIL(DASS_ARG, "parameter %s: its group would pass %d elements", desc->name,
                         INT32_MAX);
    DASS_TRY(grow(s));
    dass_param *p = dass_arena_alloc(s->mem, sizeof *p);
    char *name = p ? dass_arena_text(s->mem, desc->name, strlen(desc->name)) : NULL;
    if (!name)
        return dass__hop(DASS_NOMEM, __FILE__, __LINE__);
    *p = *desc;
    p->name = name;
    p->offset = s->count[p->group];
    p->count = count;
    s->count[p->group] += count;
    s->params[s->n_params++] = p;
    s->slots[find_slot(s, name)] = s->n_params;
    *index = s->n_params - 1;
    return DASS_OK;
}

uint32_t dass_store_n_params(const dass_store *s)
{
    return s->n_params;
}

const dass_param *dass_store_get(const dass_store *s, uint32_t index)
{
    DASS_ASSERT(index < s->n_params);
    return s->params[index];
}

int64_t dass_store_count(const dass_store *s, dass_group group)
{
    DASS_ASSERT((unsigned)group < DASS_N_GROUPS);
    return s->count[group];
}

int64_t dass__fan_in(const dass_param *p)
{
    return p->count / p->dim[0];
}

bool dass__store_frozen(const dass_store *s)
{
    return s->frozen;
}

/* ---- buffers ------------------------------------------------------------------------------- */

static dass_dtype buf_dtype(const dass_store *s, dass_buf b)
{
    return buf_table[b].dtype < 0 ? s->real : (dass_dtype)buf_table[b].dtype;
}

static bool is_input(dass_buf b)
{
    return b != DASS_BUF_TEMP && buf_table[b].length == 0;
}

bool dass_buf_is_input(dass_buf b)
{
    return b == DASS_BUF_STEP || is_input(b);
}

int64_t dass_store_buf_count(const dass_store *s, dass_buf b)
{
    DASS_ASSERT(b > DASS_BUF_TEMP && b < DASS_N_BUFS);
    if (is_input(b))
        return s->input[b];
    return buf_table[b].length < 0 ? s->count[-1 - buf_table[b].length] : buf_table[b].length;
}

/* Storage of n elements of buffer b. Counts stay below 2^31 (inputs: below 2^40), so products
 * cannot overflow. */
static size_t bytes_of(const dass_store *s, dass_buf b, int64_t n)
{
    const dass_dtype t = buf_dtype(s, b);
    return t == DASS_BITS ? ((size_t)n + 63) / 64 * 8 : (size_t)n * dass_dtype_bytes(t);
}

size_t dass_store_buf_bytes(const dass_store *s, dass_buf b)
{
    return bytes_of(s, b, dass_store_buf_count(s, b));
}

void dass_store_size(dass_store *s, dass_buf input, int64_t count)
{
    DASS_ASSERT(input < DASS_N_BUFS && is_input(input) && count >= 0 && count < (int64_t)1 << 40);
    if (count > s->input[input])
        s->input[input] = count;
}

dass_status dass__store_check_inputs(const dass_store *s)
{
    for (dass_buf b = 1; b < DASS_N_BUFS; b++) {
        if (!s->ptr[b] || s->held[b] >= dass_store_buf_count(s, b))
            continue;
        return DASS_FAIL(DASS_ARG,
                         "store: buffer %s was committed with %lld elements and now needs %lld; "
                         "build every graph before "
                         "the commit",
                         dass_buf_name(b), (long long)s->held[b],
                         (long long)dass_store_buf_count(s, b));
    }
    return DASS_OK;
}

/* One block for all new buffers of a commit: device memory is asked for a handful of times per run.
 * A buffer without elements still gets an address, which no graph reads. */
dass_status dass_store_commit(dass_store *s, dass_backend *be, uint64_t bufs)
{
    if (bufs >> DASS_N_BUFS || bufs & 1)
        return DASS_FAIL(DASS_ARG, "store: commit of buffers %#llx; bits 1 to %d name buffers",
                         (unsigned long long)bufs, DASS_N_BUFS - 1);
    if (be->ops->real != s->real)
        return DASS_FAIL(DASS_ARG,
                         "store: real numbers of %zu bytes on backend %s, which computes in %zu; "
                         "make the store of "
                         "the backend's type",
                         dass_dtype_bytes(s->real), be->ops->name, dass_dtype_bytes(be->ops->real));
    if (s->be && s->be != be)
        return DASS_FAIL(DASS_ARG, "store: committed on backend %s before, now on another",
                         s->be->ops->name);
    DASS_TRY(dass__store_check_inputs(s));
    size_t offset[DASS_N_BUFS];
    size_t total = 0;
    for (dass_buf b = 1; b < DASS_N_BUFS; b++) {
        if (!(bufs >> b & 1) || s->ptr[b])
            continue;
        offset[b] = total;
        size_t padded = 0;
        DASS_TRY(dass_mem_add(dass_store_buf_bytes(s, b), STORE_ALIGN, "store", &padded));
        DASS_TRY(dass_mem_add(total, padded & ~(size_t)(STORE_ALIGN - 1), "store", &total));
    }
    if (!s->stage)
        DASS_TRY(dass_mem_alloc(STAGE_BYTES, "store staging", &s->stage));
    s->frozen = true;
    s->be = be;
    if (!total)
        return DASS_OK;
    void *block = NULL;
    DASS_TRY(be->ops->alloc(be, total, "parameter store", &block));
    s->blocks[s->n_blocks++] = block;
    s->bytes += total;
    for (dass_buf b = 1; b < DASS_N_BUFS; b++) {
        if (!(bufs >> b & 1) || s->ptr[b])
            continue;
        s->ptr[b] = (char *)block + offset[b];
        s->held[b] = dass_store_buf_count(s, b);
    }
    return DASS_OK;
}

void *const *dass_store_ptrs(const dass_store *s)
{
    return s->ptr;
}

size_t dass_store_bytes(const dass_store *s)
{
    return s->bytes;
}

/* ---- transfers ----------------------------------------------------------------------------- */

/* Inputs may be shorter than their buffer (the largest batch sized it); everything else moves
 * whole. */
static dass_status check_transfer(const dass_store *s, dass_buf b, size_t have, size_t want,
                                  const char *unit)
{
    DASS_ASSERT(b > DASS_BUF_TEMP && b < DASS_N_BUFS);
    if (!s->ptr[b])
        return DASS_FAIL(DASS_ARG, "store: buffer %s has not been committed", dass_buf_name(b));
    if (have == want || (is_input(b) && have < want))
        return DASS_OK;
    return DASS_FAIL(DASS_ARG, "store: transfer of %zu %s to or from buffer %s, which has %zu",
                     have, unit, dass_buf_name(b), want);
}

dass_status dass_store_write(dass_store *s, dass_buf b, const void *src, size_t bytes)
{
    DASS_TRY(check_transfer(s, b, bytes, bytes_of(s, b, s->held[b]), "bytes"));
    return bytes ? s->be->ops->write(s->be, s->ptr[b], src, bytes) : DASS_OK;
}

dass_status dass_store_read(dass_store *s, dass_buf b, void *dst, size_t bytes)
{
    DASS_TRY(check_transfer(s, b, bytes, bytes_of(s, b, s->held[b]), "bytes"));
    return bytes ? s->be->ops->read(s->be, dst, s->ptr[b], bytes) : DASS_OK;
}

static dass_status check_real(const dass_store *s, dass_buf b, int64_t count)
{
    DASS_ASSERT(b > DASS_BUF_TEMP && b < DASS_N_BUFS);
    if (buf_table[b].dtype >= 0)
        return DASS_FAIL(DASS_ARG, "store: buffer %s does not hold real numbers; move it raw",
                         dass_buf_name(b));
    return check_transfer(s, b, (size_t)count, (size_t)s->held[b], "elements");
}

dass_status dass_store_write_real(dass_store *s, dass_buf b, const double *src, int64_t count)
{
    DASS_TRY(check_real(s, b, count));
    if (!count)
        return DASS_OK;
    if (s->real == DASS_F64)
        return s->be->ops->write(s->be, s->ptr[b], src, (size_t)count * sizeof *src);
    float *stage = s->stage;
    const int64_t step = (int64_t)(STAGE_BYTES / sizeof *stage);
    for (int64_t at = 0; at < count; at += step) {
        const int64_t n = count - at < step ? count - at : step;
        for (int64_t i = 0; i < n; i++)
            stage[i] = (float)src[at + i];
        DASS_TRY(
            s->be->ops->write(s->be, (float *)s->ptr[b] + at, stage, (size_t)n * sizeof *stage));
        DASS_TRY(s->be->ops->sync(s->be)); /* the stage is used again */
    }
    return DASS_OK;
}

dass_status dass_store_read_real(dass_store *s, dass_buf b, double *dst, int64_t count)
{
    DASS_TRY(check_real(s, b, count));
    if (!count)
        return DASS_OK;
    if (s->real == DASS_F64)
        return s->be->ops->read(s->be, dst, s->ptr[b], (size_t)count * sizeof *dst);
    const float *stage = s->stage;
    const int64_t step = (int64_t)(STAGE_BYTES / sizeof *stage);
    for (int64_t at = 0; at < count; at += step) {
        const int64_t n = count - at < step ? count - at : step;
        DASS_TRY(s->be->ops->read(s->be, s->stage, (const float *)s->ptr[b] + at,
                                  (size_t)n * sizeof *stage));
        for (int64_t i = 0; i < n; i++)
            dst[at + i] = (double)stage[i];
    }
    return DASS_OK;
}

static dass_status read_parts(dass_backend *be, const dass_transfer *t, uint32_t n)
{
    if (be->ops->read_many != NULL)
        return be->ops->read_many(be, t, n);
    for (uint32_t i = 0; i < n; i++)
        DASS_TRY(be->ops->read(be, t[i].to, t[i].from, t[i].bytes));
    return DASS_OK;
}

dass_status dass_store_read_scalars(dass_store *s, const dass_buf *b, double *const *dst, uint32_t n)
{
    DASS_ASSERT(n <= DASS_MAX_SCALARS);
    dass_transfer t[DASS_MAX_SCALARS];
    float narrow[DASS_MAX_SCALARS];
    const bool wide = s->real == DASS_F64;
    for (uint32_t i = 0; i < n; i++) {
        DASS_TRY(check_real(s, b[i], s->held[b[i]]));
        t[i] =
            (dass_transfer){wide ? (void *)dst[i] : &narrow[i], s->ptr[b[i]], wide ? sizeof *dst[i] : sizeof *narrow};
    }
    DASS_TRY(read_parts(s->be, t, n));
    for (uint32_t i = 0; i < n && !wide; i++)
        *dst[i] = (double)narrow[i];
    return DASS_OK;
}

dass_status dass_store_zero(dass_store *s, dass_buf b)
{
    DASS_ASSERT(b > DASS_BUF_TEMP && b < DASS_N_BUFS);
    if (!s->ptr[b])
        return DASS_FAIL(DASS_ARG, "store: buffer %s has not been committed", dass_buf_name(b));
    const size_t bytes =
        (bytes_of(s, b, s->held[b]) + 3) & ~(size_t)3; /* padded to 256, so the tail is ours */
    return bytes ? s->be->ops->fill(s->be, s->ptr[b], 0, bytes) : DASS_OK;
}

/* ---- initial values ------------------------------------------------------------------------ */

static void init_values(const dass_param *p, uint64_t seed, double *dst)
{
    dass_rng rng = dass_rng_make(seed, DASS_RNG_INIT, dass_name_hash(p->name), 0);
    const double bound = 1.0 / sqrt((double)dass__fan_in(p));
    for (int64_t i = 0; i < p->count; i++) {
        switch (p->init) {
        case DASS_INIT_ZERO:
            dst[i] = 0.0;
            break;
        case DASS_INIT_ONE:
            dst[i] = 1.0;
            break;
        case DASS_INIT_KAIMING:
            dst[i] = (2.0 * dass_rng_uniform(&rng) - 1.0) * bound;
            break;
        case DASS_INIT_ALPHA:
            dst[i] = 1e-3 * dass_rng_normal(&rng);
            break;
        }
    }
}

/* A group whose buffer was not committed is passed over: no graph reads it. None at all is an
 * error. */
dass_status dass_store_init(dass_store *s, uint64_t seed)
{
    static const dass_buf value_buf[DASS_N_GROUPS] = {DASS_BUF_W, DASS_BUF_AF, DASS_BUF_ALPHA,
                                                      DASS_BUF_STAT};
    int64_t most = 0;
    for (int i = 0; i < DASS_N_GROUPS; i++)
        if (s->ptr[value_buf[i]] && s->count[i] > most)
            most = s->count[i];
    if (!most)
        return DASS_FAIL(DASS_ARG, "store: nothing to initialise; commit parameter buffers first");
    void *block = NULL;
    DASS_TRY(dass_mem_alloc((size_t)most * sizeof(double), "initial values", &block));
    double *values = block;
    dass_status st = DASS_OK;
    for (int i = 0; i < DASS_N_GROUPS; i++) {
        if (!s->ptr[value_buf[i]] || !s->count[i])
            continue;
        for (uint32_t p = 0; p < s->n_params; p++)
            if (s->params[p]->group == (dass_group)i)
                init_values(s->params[p], seed, values + s->params[p]->offset);
        DASS_TRY_TO(dass_store_write_real(s, value_buf[i], values, s->count[i]), st, out);
    }
out:
    dass_mem_free(block);
    return st;
}

/* The mask of the first score step then keeps each tensor's largest weights: |S| is monotone in |W|
 * inside a tensor. */
dass_status dass_store_init_scores(dass_store *s)
{
    const int64_t n = s->count[DASS_GROUP_W];
    void *block = NULL;
    DASS_TRY(dass_mem_alloc((size_t)n * sizeof(double), "initial scores", &block));
    double *w = block;
    dass_status st = DASS_OK;
    DASS_TRY_TO(dass_store_read_real(s, DASS_BUF_W, w, n), st, out);
    for (uint32_t i = 0; i < s->n_params; i++) {
        const dass_param *p = s->params[i];
        if (p->group != DASS_GROUP_W)
            continue;
        double *t = w + p->offset;
        double largest = 0.0;
        for (int64_t k = 0; k < p->count; k++)
            largest = fmax(largest, fabs(t[k]));
        if (largest == 0.0)
            continue; /* a tensor of zeros has scores of zero */
        const double scale = sqrt(6.0 / (double)dass__fan_in(p));
        for (int64_t k = 0; k < p->count; k++)
            t[k] = scale * t[k] / largest;
    }
    DASS_TRY_TO(dass_store_write_real(s, DASS_BUF_SCORE, w, n), st, out);
out:
    dass_mem_free(block);
    return st;
}
