/* The safetensors container: a strict reader, and a writer that leaves a complete file or none. Knows nothing of
 * networks. Invariant: a tensor handed out lies inside the block it was read from, and its bytes agree with its shape.
 *
 * Format: u64 little-endian header length, a JSON object name -> {dtype, shape, data_offsets: [begin, end)}, optionally
 * "__metadata__" of strings, then the data, which the tensors cover exactly once. Files of ours carry an XXH64 of
 * everything else in the metadata; the reader checks it where it is present.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "dass/ckpt.h"

#define MAX_HEADER ((uint64_t)100 << 20)
#define WHAT "tensor file"

static const struct {
    const char *word;
    size_t bytes;
} types[DASS_N_ST_TYPES] = {
    [DASS_ST_F32] = {"F32", 4}, [DASS_ST_U8] = {"U8", 1},   [DASS_ST_I32] = {"I32", 4},
    [DASS_ST_I64] = {"I64", 8}, [DASS_ST_F64] = {"F64", 8},
};

typedef struct owned {
    dass_st_file file; /* first: the pointer handed out */
    dass_arena *mem;
    size_t *begin; /* of each tensor, in the data */
    void *block;   /* the data; NULL when borrowed */
} owned;

/* ---- integrity ------------------------------------------------------------------------------------------------ */

#define HASH_KEY "xxh64"
#define HASH_TEXT 17 /* 16 hexadecimal digits and the end */

static void hash_text(XXH64_state_t *h, const char *text)
{
    (void)XXH64_update(h, text, strlen(text) + 1);
}

/* Over names, types, shapes and bytes of the tensors and all metadata but the hash itself, in their order. */
static void hash_file(const dass_st_file *f, char text[HASH_TEXT])
{
    XXH64_state_t h;
    (void)XXH64_reset(&h, 0);
    for (size_t i = 0; i < f->n_meta; ++i) {
        if (strcmp(f->meta[i].key, HASH_KEY) == 0)
            continue;
        hash_text(&h, f->meta[i].key);
        hash_text(&h, f->meta[i].value);
    }
    for (size_t i = 0; i < f->n_tensors; ++i) {
        const dass_st_tensor *t = &f->tensors[i];
        hash_text(&h, t->name);
        hash_text(&h, types[t->type].word);
        (void)XXH64_update(&h, t->dim, (size_t)t->rank * sizeof *t->dim);
        (void)XXH64_update(&h, t->data, t->bytes);
    }
    (void)snprintf(text, HASH_TEXT, "%016llx", (unsigned long long)XXH64_digest(&h));
}

static dass_status check_hash(const char *name, const dass_st_file *f)
{
    const char *said = dass_st_get(f, HASH_KEY);
    if (said == NULL) /* another program's file */
        return DASS_OK;
    char found[HASH_TEXT];
    hash_file(f, found);
    if (strcmp(said, found) != 0)
        return DASS_FAIL(DASS_FORMAT, "%s: damaged: its content hashes to %s, it was written with %.40s", name, found,
                         said);
    return DASS_OK;
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

/* One entry of the header, which data_bytes follow; its tensor begins at byte *at of them. */
static dass_status parse_tensor(const char *file, const char *name, const json_t *entry, size_t data_bytes,
                                dass_st_tensor *t, size_t *at)
{
    const json_t *dtype = json_object_get(entry, "dtype");
    const json_t *shape = json_object_get(entry, "shape");
    const json_t *offsets = json_object_get(entry, "data_offsets");
    if (!json_is_object(entry) || json_object_size(entry) != 3 || !json_is_string(dtype) || !json_is_array(shape) ||
        !json_is_array(offsets) || json_array_size(offsets) != 2)
        return DASS_FAIL(DASS_FORMAT, "%s: tensor '%s': not {dtype, shape, data_offsets: [begin, end]}", file, name);
    size_t type = 0;
    while (type < DASS_N_ST_TYPES && strcmp(types[type].word, json_string_value(dtype)) != 0)
        ++type;
    if (type == DASS_N_ST_TYPES)
        return DASS_FAIL(DASS_FORMAT, "%s: tensor '%s': type %s; F32, F64, U8, I32 and I64 are read", file, name,
                         json_string_value(dtype));
    t->type = (dass_st_type)type;
    const size_t rank = json_array_size(shape);
    if (rank > DASS_ST_MAX_RANK)
        return DASS_FAIL(DASS_FORMAT, "%s: tensor '%s': rank %zu, at most %d are read", file, name, rank,
                         DASS_ST_MAX_RANK);
    t->rank = (int32_t)rank;
    t->bytes = types[type].bytes;
    for (size_t i = 0; i < rank; ++i) {
        const json_t *d = json_array_get(shape, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return DASS_FAIL(DASS_FORMAT, "%s: tensor '%s': dimension %zu is not a count", file, name, i);
        t->dim[i] = json_integer_value(d);
        if (__builtin_mul_overflow(t->bytes, (size_t)t->dim[i], &t->bytes))
            return DASS_FAIL(DASS_FORMAT, "%s: tensor '%s': the shape overflows", file, name);
    }
    const json_t *b = json_array_get(offsets, 0);
    const json_t *e = json_array_get(offsets, 1);
    const json_int_t begin = json_integer_value(b);
    const json_int_t end = json_integer_value(e);
    if (!json_is_integer(b) || !json_is_integer(e) || begin < 0 || end < begin || (uint64_t)end > data_bytes)
        return DASS_FAIL(DASS_FORMAT,
                         "%s: tensor '%s': bytes [%lld, %lld) are outside the %zu bytes of data: the file "
                         "is truncated or damaged",
                         file, name, (long long)begin, (long long)end, data_bytes);
    if ((uint64_t)(end - begin) != t->bytes)
        return DASS_FAIL(DASS_FORMAT, "%s: tensor '%s': %lld bytes for a shape of %zu", file, name,
                         (long long)(end - begin), t->bytes);
    *at = (size_t)begin;
    return DASS_OK;
}

typedef struct place {
    size_t begin;
    const dass_st_tensor *tensor;
} place;

static int by_place(const void *a, const void *b)
{
    const place *x = a;
    const place *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->tensor->bytes < y->tensor->bytes ? -1 : x->tensor->bytes > y->tensor->bytes; /* empty ones first */
}

/* The tensors cover the data exactly once: no hidden bytes, no sharing. */
static dass_status check_cover(const char *name, const owned *o, size_t data_bytes)
{
    const size_t n = o->file.n_tensors;
    place *sorted = dass_arena_alloc(o->mem, (n + 1) * sizeof *sorted);
    if (sorted == NULL)
        return DASS_NOMEM;
    for (size_t i = 0; i < n; ++i)
        sorted[i] = (place){o->begin[i], &o->file.tensors[i]};
    qsort(sorted, n, sizeof *sorted, by_place);
    size_t at = 0;
    for (size_t i = 0; i < n; ++i) {
        if (sorted[i].begin != at)
            return DASS_FAIL(DASS_FORMAT,
                             "%s: tensor '%s' does not begin where the one before ends (byte %zu of the "
                             "data)",
                             name, sorted[i].tensor->name, at);
        at += sorted[i].tensor->bytes;
    }
    if (at != data_bytes)
        return DASS_FAIL(DASS_FORMAT, "%s: %zu bytes of data, the tensors cover %zu: the file is damaged", name,
                         data_bytes, at);
    return DASS_OK;
}

static dass_status parse_meta(const char *name, json_t *meta, owned *o)
{
    if (!json_is_object(meta))
        return DASS_FAIL(DASS_FORMAT, "%s: __metadata__ is not an object", name);
    o->file.meta = dass_arena_alloc(o->mem, (json_object_size(meta) + 1) * sizeof *o->file.meta);
    if (o->file.meta == NULL)
        return DASS_NOMEM;
    for (void *it = json_object_iter(meta); it != NULL; it = json_object_iter_next(meta, it)) {
        const char *key = json_object_iter_key(it);
        const char *value = json_string_value(json_object_iter_value(it));
        if (value == NULL)
            return DASS_FAIL(DASS_FORMAT, "%s: __metadata__ '%s' is not text", name, key);
        dass_st_meta *m = &o->file.meta[o->file.n_meta++];
        m->key = dass_arena_text(o->mem, key, strlen(key));
        m->value = dass_arena_text(o->mem, value, strlen(value));
        if (m->key == NULL || m->value == NULL)
            return DASS_NOMEM;
    }
    return DASS_OK;
}

static int by_name(const void *a, const void *b)
{
    const dass_st_tensor *x = *(const dass_st_tensor *const *)a;
    const dass_st_tensor *y = *(const dass_st_tensor *const *)b;
    return strcmp(x->name, y->name);
}

static dass_status sort_names(owned *o)
{
    const size_t n = o->file.n_tensors;
    o->file.by_name = dass_arena_alloc(o->mem, (n + 1) * sizeof *o->file.by_name);
    if (o->file.by_name == NULL)
        return DASS_NOMEM;
    for (size_t i = 0; i < n; ++i)
        o->file.by_name[i] = &o->file.tensors[i];
    qsort(o->file.by_name, n, sizeof *o->file.by_name, by_name);
    return DASS_OK;
}

static dass_status parse_root(const char *name, json_t *root, size_t data_bytes, owned *o)
{
    if (!json_is_object(root))
        return DASS_FAIL(DASS_FORMAT, "%s: byte 8: the header is not a JSON object", name);
    o->file.tensors = dass_arena_alloc(o->mem, (json_object_size(root) + 1) * sizeof *o->file.tensors);
    o->begin = dass_arena_alloc(o->mem, (json_object_size(root) + 1) * sizeof *o->begin);
    if (o->file.tensors == NULL || o->begin == NULL)
        return DASS_NOMEM;
    for (void *it = json_object_iter(root); it != NULL; it = json_object_iter_next(root, it)) {
        const char *key = json_object_iter_key(it);
        if (strcmp(key, "__metadata__") == 0) {
            DASS_TRY(parse_meta(name, json_object_iter_value(it), o));
            continue;
        }
        const size_t i = o->file.n_tensors++;
        dass_st_tensor *t = &o->file.tensors[i];
        t->name = dass_arena_text(o->mem, key, strlen(key));
        if (t->name == NULL)
            return DASS_NOMEM;
        DASS_TRY(parse_tensor(name, key, json_object_iter_value(it), data_bytes, t, &o->begin[i]));
    }
    DASS_TRY(check_cover(name, o, data_bytes));
    DASS_TRY(sort_names(o));
    return DASS_OK;
}

/* The header's length, which the first 8 bytes of a file of n_bytes say. */
static dass_status header_length(const char *name, const uint8_t *p, size_t n_bytes, size_t *out)
{
    uint64_t header = 0;
    for (int i = 0; i < 8; ++i)
        header |= (uint64_t)p[i] << (8 * i);
    if (header > MAX_HEADER || header > n_bytes - 8)
        return DASS_FAIL(DASS_FORMAT,
                         "%s: byte 0: a header of %llu bytes in a file of %zu: truncated, or not a "
                         "safetensors file",
                         name, (unsigned long long)header, n_bytes);
    *out = (size_t)header;
    return DASS_OK;
}

/* Everything but the data, which follows the header in data_bytes. */
static dass_status parse_header(const char *name, const uint8_t *header, size_t n, size_t data_bytes, owned **out)
{
    json_error_t error;
    json_t *root = json_loadb((const char *)header, n, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL)
        return DASS_FAIL(DASS_FORMAT, "%s: byte %d: the header is not JSON: %s", name, 8 + error.position, error.text);
    dass_status st = DASS_OK;
    void *block = NULL;
    DASS_TRY_TO(dass_mem_alloc(sizeof(owned), "tensor file", &block), st, out);
    owned *o = block;
    st = dass_arena_make("tensor file", &o->mem);
    if (st == DASS_OK)
        st = parse_root(name, root, data_bytes, o);
    if (st == DASS_OK)
        *out = o;
    else
        dass_st_free(&o->file);
out:
    json_decref(root);
    return st;
}

static dass_status attach_data(const char *name, owned *o, const uint8_t *data)
{
    for (size_t i = 0; i < o->file.n_tensors; ++i)
        o->file.tensors[i].data = data + o->begin[i];
    return check_hash(name, &o->file);
}

dass_status dass_st_parse(const char *name, const void *data, size_t n_bytes, dass_st_file **out)
{
    *out = NULL;
    const uint8_t *p = data;
    owned *o = NULL;
    size_t header = 0;
    if (n_bytes < 8)
        return DASS_FAIL(DASS_FORMAT, "%s: %zu bytes, a safetensors file has at least 8", name, n_bytes);
    DASS_TRY(header_length(name, p, n_bytes, &header));
    DASS_TRY(parse_header(name, p + 8, header, n_bytes - 8 - header, &o));
    const dass_status st = attach_data(name, o, p + 8 + header);
    if (st == DASS_OK)
        *out = &o->file;
    else
        dass_st_free(&o->file);
    return st;
}

/* The next n_bytes into a new block. */
static dass_status read_block(const char *path, int fd, size_t n_bytes, void **block)
{
    size_t got = 0;
    DASS_TRY(dass_mem_alloc(n_bytes + 1, WHAT, block));
    dass_status st = dass_file_get(fd, path, WHAT, *block, n_bytes, &got);
    if (st == DASS_OK && got != n_bytes)
        st = DASS_FAIL(DASS_IO, "%s: became shorter while it was read", path);
    if (st != DASS_OK) {
        dass_mem_free(*block);
        *block = NULL;
    }
    return st;
}

/* The header first: a file that is none of ours is refused before its gigabytes are read. */
static dass_status read_parts(const char *path, int fd, size_t n_bytes, owned **out)
{
    uint8_t first[8];
    size_t got = 0;
    size_t header = 0;
    void *text = NULL;
    DASS_TRY(dass_file_get(fd, path, WHAT, first, sizeof first, &got));
    if (got < sizeof first || n_bytes < sizeof first)
        return DASS_FAIL(DASS_FORMAT, "%s: %zu bytes, a safetensors file has at least 8", path, got);
    DASS_TRY(header_length(path, first, n_bytes, &header));
    DASS_TRY(read_block(path, fd, header, &text));
    dass_status st = parse_header(path, text, header, n_bytes - 8 - header, out);
    dass_mem_free(text);
    DASS_TRY(st);
    st = read_block(path, fd, n_bytes - 8 - header, &(*out)->block);
    if (st == DASS_OK)
        st = attach_data(path, *out, (*out)->block);
    if (st != DASS_OK) {
        dass_st_free(&(*out)->file);
        *out = NULL;
    }
    return st;
}

dass_status dass_st_read(const char *path, dass_st_file **out)
{
    *out = NULL;
    int fd = -1;
    int64_t n_bytes = 0;
    owned *o = NULL;
    DASS_TRY(dass_file_open(path, WHAT, &fd, &n_bytes));
    const dass_status st = read_parts(path, fd, (size_t)n_bytes, &o);
    (void)close(fd);
    if (st == DASS_OK)
        *out = &o->file;
    return st;
}

void dass_st_free(dass_st_file *f)
{
    if (f == NULL)
        return;
    owned *o = (owned *)(void *)f;
    dass_arena_free(o->mem);
    dass_mem_free(o->block);
    dass_mem_free(o);
}

const dass_st_tensor *dass_st_find(const dass_st_file *f, const char *name)
{
    const dass_st_tensor key = {.name = name};
    const dass_st_tensor *const k = &key;
    const dass_st_tensor **found = bsearch(&k, f->by_name, f->n_tensors, sizeof *f->by_name, by_name);
    return found != NULL ? *found : NULL;
}

const char *dass_st_get(const dass_st_file *f, const char *key)
{
    for (size_t i = 0; i < f->n_meta; ++i)
        if (strcmp(f->meta[i].key, key) == 0)
            return f->meta[i].value;
    return NULL;
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

static dass_status header_json(const dass_st_file *f, json_t **out)
{
    json_t *root = json_object();
    int bad = root == NULL;
    char hash[HASH_TEXT];
    hash_file(f, hash);
    json_t *meta = json_object();
    for (size_t i = 0; i < f->n_meta; ++i)
        bad |= json_object_set_new(meta, f->meta[i].key, json_string(f->meta[i].value));
    bad |= json_object_set_new(meta, HASH_KEY, json_string(hash));
    bad |= json_object_set_new(root, "__metadata__", meta);
    size_t at = 0;
    for (size_t i = 0; i < f->n_tensors; ++i) {
        const dass_st_tensor *t = &f->tensors[i];
        json_t *shape = json_array();
        for (int32_t k = 0; k < t->rank; ++k)
            bad |= json_array_append_new(shape, json_integer(t->dim[k]));
        bad |= json_object_get(root, t->name) != NULL;
        bad |= json_object_set_new(root, t->name,
                                   json_pack("{s:s, s:o, s:[I, I]}", "dtype", types[t->type].word, "shape", shape,
                                             "data_offsets", (json_int_t)at, (json_int_t)(at + t->bytes)));
        at += t->bytes;
    }
    *out = root;
    return bad ? DASS_FAIL(DASS_INTERNAL, "tensor file header: repeated name, text that is not UTF-8, or no memory")
               : DASS_OK;
}

dass_status dass_st_write(const char *path, const dass_st_file *f)
{
    json_t *root = NULL;
    void *block = NULL;
    dass_arena *mem = NULL;
    dass_status st = DASS_OK;
    DASS_TRY_TO(header_json(f, &root), st, out);
    const size_t n = json_dumpb(root, NULL, 0, JSON_COMPACT);
    const size_t padded = (n + 7) & ~(size_t)7; /* data stays 8-byte aligned */
    DASS_TRY_TO(dass_mem_alloc(8 + padded, "tensor file header", &block), st, out);
    uint8_t *head = block;
    for (int i = 0; i < 8; ++i)
        head[i] = (uint8_t)(padded >> (8 * i));
    if (n == 0 || json_dumpb(root, (char *)head + 8, n, JSON_COMPACT) != n) {
        st = DASS_FAIL(DASS_NOMEM, "%s: no memory for the header", path);
        goto out;
    }
    memset(head + 8 + n, ' ', padded - n);
    DASS_TRY_TO(dass_arena_make("tensor file", &mem), st, out);
    dass_file_part *parts = dass_arena_alloc(mem, (f->n_tensors + 1) * sizeof *parts);
    if (parts == NULL) {
        st = DASS_NOMEM;
        goto out;
    }
    parts[0] = (dass_file_part){head, 8 + padded};
    for (size_t i = 0; i < f->n_tensors; ++i)
        parts[i + 1] = (dass_file_part){f->tensors[i].data, f->tensors[i].bytes};
    st = dass_file_write_parts(path, parts, f->n_tensors + 1);
out:
    dass_arena_free(mem);
    dass_mem_free(block);
    json_decref(root);
    return st;
}
