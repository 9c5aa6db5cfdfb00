/* Buffers as named tensors; see tensors.h. Knows no file format beyond the container's table of tensors. Invariant:
 * writing and then reading a buffer gives its bytes back: f32 as F32, and f64 as F64 when exactness is asked for.
 */
#include "tensors.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

dass_buf dass__group_buf(dass_group g)
{
    switch (g) {
    case DASS_GROUP_W:
        return DASS_BUF_W;
    case DASS_GROUP_AF:
        return DASS_BUF_AF;
    case DASS_GROUP_ALPHA:
        return DASS_BUF_ALPHA;
    case DASS_GROUP_STAT:
        return DASS_BUF_STAT;
    case DASS_N_GROUPS:
        break;
    }
    DASS_ASSERT(!"a group");
    return 0;
}

/* A store of f64 writes F64 where the bytes must come back. */
static dass_st_type real_type(const dass_store *s, bool exact)
{
    return exact && dass_store_real(s) == DASS_F64 ? DASS_ST_F64 : DASS_ST_F32;
}

static size_t element_bytes(dass_st_type t)
{
    return t == DASS_ST_F64 ? sizeof(double) : t == DASS_ST_F32 ? sizeof(float) : 1;
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

dass_status dass__writer_open(dass_store *s, size_t n_groups, dass__tensor_writer *w)
{
    *w = (dass__tensor_writer){.s = s, .max_tensors = (size_t)dass_store_n_params(s) * n_groups + 4};
    DASS_TRY(dass_arena_make("tensor file", &w->mem));
    w->file.tensors = dass_arena_alloc(w->mem, w->max_tensors * sizeof *w->file.tensors);
    w->file.meta = dass_arena_alloc(w->mem, DASS__MAX_META * sizeof *w->file.meta);
    if (w->file.tensors == NULL || w->file.meta == NULL) {
        dass__writer_close(w);
        return DASS_NOMEM;
    }
    return DASS_OK;
}

void dass__writer_close(dass__tensor_writer *w)
{
    dass_arena_free(w->mem);
    memset(w, 0, sizeof *w);
}

dass_status dass__writer_meta(dass__tensor_writer *w, const char *key, const char *value)
{
    if (value == NULL)
        return DASS_NOMEM;
    DASS_ASSERT(w->file.n_meta < DASS__MAX_META);
    w->file.meta[w->file.n_meta++] = (dass_st_meta){key, value};
    return DASS_OK;
}

dass_status dass__writer_tensor(dass__tensor_writer *w, const dass_st_tensor *t)
{
    DASS_ASSERT(w->file.n_tensors < w->max_tensors);
    w->file.tensors[w->file.n_tensors++] = *t;
    return DASS_OK;
}

static dass_status add_param(dass__tensor_writer *w, const char *prefix, dass_st_type type, const dass_param *p,
                             const void *values)
{
    const size_t unit = element_bytes(type);
    dass_st_tensor t = {.name = dass_arena_printf(w->mem, "%s%s", prefix, p->name),
                        .type = type,
                        .rank = p->rank,
                        .bytes = (size_t)p->count * unit,
                        .data = (const uint8_t *)values + (size_t)p->offset * unit};
    if (t.name == NULL)
        return DASS_NOMEM;
    for (int32_t i = 0; i < p->rank; ++i)
        t.dim[i] = p->dim[i];
    return dass__writer_tensor(w, &t);
}

static dass_status add_params(dass__tensor_writer *w, const char *prefix, dass_st_type type, dass_group group,
                              const void *values)
{
    for (uint32_t i = 0; i < dass_store_n_params(w->s); ++i) {
        const dass_param *p = dass_store_get(w->s, i);
        if (p->group == group)
            DASS_TRY(add_param(w, prefix, type, p, values));
    }
    return DASS_OK;
}

static const char *number_word(double x)
{
    return isnan(x) ? "nan" : x > 0.0 ? "inf" : "-inf";
}

static dass_status check_finite(const dass_store *s, dass_group group, const char *prefix, dass_st_type type,
                                const double *values)
{
    for (uint32_t i = 0; i < dass_store_n_params(s); ++i) {
        const dass_param *p = dass_store_get(s, i);
        if (p->group != group)
            continue;
        for (int64_t k = 0; k < p->count; ++k) {
            const double x = values[p->offset + k];
            const double saved = type == DASS_ST_F32 ? (double)(float)x : x;
            if (!isfinite(saved))
                return DASS_FAIL(DASS_NUMERIC, "%s%s[%lld] is %s", prefix, p->name, (long long)k, number_word(saved));
        }
    }
    return DASS_OK;
}

dass_status dass__writer_group(dass__tensor_writer *w, dass_group group, dass_buf b, const char *prefix, bool exact)
{
    const int64_t n = dass_store_count(w->s, group);
    if (n == 0)
        return DASS_OK;
    const dass_st_type type = real_type(w->s, exact);
    double *values = dass_arena_alloc(w->mem, (size_t)n * sizeof *values);
    if (values == NULL)
        return DASS_NOMEM;
    DASS_TRY(dass_store_read_real(w->s, b, values, n));
    DASS_TRY(check_finite(w->s, group, prefix, type, values));
    if (type == DASS_ST_F32) { /* packed in place: element i never lies behind the doubles still to be read */
        float *packed = (float *)values;
        for (int64_t i = 0; i < n; ++i) {
            const float x = (float)values[i];
            memcpy(&packed[i], &x, sizeof x);
        }
    }
    return add_params(w, prefix, type, group, values);
}

dass_status dass__writer_mask(dass__tensor_writer *w)
{
    const int64_t n = dass_store_count(w->s, DASS_GROUP_W);
    const size_t bytes = dass_store_buf_bytes(w->s, DASS_BUF_BITS);
    uint64_t *bits = dass_arena_alloc(w->mem, bytes + 8);
    uint8_t *mask = dass_arena_alloc(w->mem, (size_t)n + 1);
    if (bits == NULL || mask == NULL)
        return DASS_NOMEM;
    DASS_TRY(dass_store_read(w->s, DASS_BUF_BITS, bits, bytes));
    for (int64_t i = 0; i < n; ++i)
        mask[i] = bits[i / 64] >> (i % 64) & 1;
    return add_params(w, "mask.", DASS_ST_U8, DASS_GROUP_W, mask);
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

static dass_status find_tensor(const dass_st_file *f, const char *path, const char *prefix, const dass_param *p,
                               dass_st_type type, const dass_st_tensor **out)
{
    char name[512];
    (void)snprintf(name, sizeof name, "%s%s", prefix, p->name);
    const dass_st_tensor *t = dass_st_find(f, name);
    if (t == NULL)
        return DASS_FAIL(DASS_FORMAT, "%s: tensor '%s' is missing: a file of another network", path, name);
    bool same = t->type == type && t->rank == p->rank;
    for (int32_t i = 0; same && i < p->rank; ++i)
        same = t->dim[i] == p->dim[i];
    if (!same)
        return DASS_FAIL(DASS_FORMAT, "%s: tensor '%s' has another type or shape than the network's", path, name);
    *out = t;
    return DASS_OK;
}

static double element(const dass_st_tensor *t, int64_t k)
{
    const uint8_t *at = (const uint8_t *)t->data + (size_t)k * element_bytes(t->type);
    float x = 0.0f;
    double y = 0.0;
    if (t->type == DASS_ST_F64) {
        memcpy(&y, at, sizeof y);
        return y;
    }
    memcpy(&x, at, sizeof x);
    return (double)x;
}

dass_status dass__tensors_values(const dass_st_file *f, const char *path, const dass_store *s, dass_group group,
                                 const char *prefix, bool exact, double *out)
{
    for (uint32_t i = 0; i < dass_store_n_params(s); ++i) {
        const dass_param *p = dass_store_get(s, i);
        if (p->group != group)
            continue;
        const dass_st_tensor *t = NULL;
        DASS_TRY(find_tensor(f, path, prefix, p, real_type(s, exact), &t));
        for (int64_t k = 0; k < p->count; ++k) {
            const double x = element(t, k);
            if (out != NULL)
                out[p->offset + k] = x;
            if (!isfinite(x))
                return DASS_FAIL(DASS_FORMAT, "%s: tensor '%s%s': element %lld is not finite", path, prefix, p->name,
                                 (long long)k);
        }
    }
    return DASS_OK;
}

dass_status dass__tensors_restore(const dass_st_file *f, const char *path, dass_store *s, dass_group group, dass_buf b,
                                  const char *prefix, bool exact)
{
    const int64_t n = dass_store_count(s, group);
    if (n == 0)
        return DASS_OK;
    void *values = NULL;
    DASS_TRY(dass_mem_alloc((size_t)n * sizeof(double), "parameters to restore", &values));
    dass_status st = dass__tensors_values(f, path, s, group, prefix, exact, values);
    if (st == DASS_OK)
        st = dass_store_write_real(s, b, values, n);
    dass_mem_free(values);
    return st;
}

dass_status dass__tensors_mask(const dass_st_file *f, const char *path, const dass_store *s, uint64_t *bits)
{
    if (bits != NULL)
        memset(bits, 0, dass_store_buf_bytes(s, DASS_BUF_BITS));
    for (uint32_t i = 0; i < dass_store_n_params(s); ++i) {
        const dass_param *p = dass_store_get(s, i);
        if (p->group != DASS_GROUP_W)
            continue;
        const dass_st_tensor *t = NULL;
        DASS_TRY(find_tensor(f, path, "mask.", p, DASS_ST_U8, &t));
        const uint8_t *m = t->data;
        for (int64_t k = 0; k < p->count; ++k) {
            if (m[k] > 1)
                return DASS_FAIL(DASS_FORMAT, "%s: mask of '%s': element %lld is %u", path, p->name, (long long)k,
                                 m[k]);
            if (bits != NULL)
                bits[(p->offset + k) / 64] |= (uint64_t)m[k] << ((p->offset + k) % 64);
        }
    }
    return DASS_OK;
}

dass_status dass__tensors_restore_mask(const dass_st_file *f, const char *path, dass_store *s)
{
    const size_t bytes = dass_store_buf_bytes(s, DASS_BUF_BITS);
    void *bits = NULL;
    DASS_TRY(dass_mem_alloc(bytes, "mask to restore", &bits));
    dass_status st = dass__tensors_mask(f, path, s, bits);
    if (st == DASS_OK)
        st = dass_store_write(s, DASS_BUF_BITS, bits, bytes);
    dass_mem_free(bits);
    return st;
}
