/* The parameter file: a store's groups as named tensors, with the network in the metadata, so that train, prune and
 * eval can be separate commands. Invariant: what is restored has exactly the names and shapes of the store; a file of
 * another network is refused, never fitted.
 */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "dass/ckpt.h"

#define FORMAT_WORD "dass-params-1"
#define PATH_MAX_BYTES 4096

static const char *const kind_word[] = {
    [DASS_NET_SUPERNET] = "supernet",
    [DASS_NET_CELLS] = "cells",
    [DASS_NET_MOBILENET_V2] = "mobilenet_v2",
    [DASS_NET_RESNET18] = "resnet18",
};
static const char *const form_word[] = {[DASS_FORM_CIFAR] = "cifar", [DASS_FORM_IMAGENET] = "imagenet"};
static const char *const state_word[] = {"supernet", "dense", "pruned"};

static int find_word(const char *word, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; ++i)
        if (strcmp(word, words[i]) == 0)
            return (int)i;
    return -1;
}
#define FIND(word, words) find_word(word, words, sizeof(words) / sizeof *(words))

static dass_buf group_buf(dass_group g)
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

/* ---- saving --------------------------------------------------------------------------------------------------- */

typedef struct writer {
    dass_store *s;
    dass_arena *mem;
    dass_st_file file;
} writer;

static void add_tensor(writer *w, const char *name, dass_st_type type, const dass_param *p, const void *data,
                       size_t bytes)
{
    dass_st_tensor *t = &w->file.tensors[w->file.n_tensors++];
    *t = (dass_st_tensor){.name = name, .type = type, .rank = p->rank, .bytes = bytes, .data = data};
    for (int32_t i = 0; i < p->rank; ++i)
        t->dim[i] = p->dim[i];
}

/* A real buffer of the store as floats in arena memory. */
static dass_status read_floats(writer *w, dass_buf b, float **out)
{
    const int64_t n = dass_store_buf_count(w->s, b);
    void *block = NULL;
    DASS_TRY(dass_mem_alloc((size_t)n * sizeof(double), "parameters to save", &block));
    const double *values = block;
    *out = dass_arena_alloc(w->mem, (size_t)(n + 1) * sizeof **out);
    dass_status st = *out == NULL ? DASS_NOMEM : dass_store_read_real(w->s, b, block, n);
    for (int64_t i = 0; st == DASS_OK && i < n; ++i)
        (*out)[i] = (float)values[i];
    dass_mem_free(block);
    return st;
}

static dass_status add_group(writer *w, dass_group group, dass_buf b, const char *prefix)
{
    if (dass_store_count(w->s, group) == 0)
        return DASS_OK;
    float *values = NULL;
    DASS_TRY(read_floats(w, b, &values));
    for (uint32_t i = 0; i < dass_store_n_params(w->s); ++i) {
        const dass_param *p = dass_store_get(w->s, i);
        if (p->group != group)
            continue;
        const char *name = dass_arena_printf(w->mem, "%s%s", prefix, p->name);
        if (name == NULL)
            return DASS_NOMEM;
        add_tensor(w, name, DASS_ST_F32, p, values + p->offset, (size_t)p->count * sizeof(float));
    }
    return DASS_OK;
}

static dass_status add_mask(writer *w)
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
    for (uint32_t i = 0; i < dass_store_n_params(w->s); ++i) {
        const dass_param *p = dass_store_get(w->s, i);
        if (p->group != DASS_GROUP_W)
            continue;
        const char *name = dass_arena_printf(w->mem, "mask.%s", p->name);
        if (name == NULL)
            return DASS_NOMEM;
        add_tensor(w, name, DASS_ST_U8, p, mask + p->offset, (size_t)p->count);
    }
    return DASS_OK;
}

static dass_status add_meta(writer *w, const char *key, const char *value)
{
    if (value == NULL)
        return DASS_NOMEM;
    w->file.meta[w->file.n_meta++] = (dass_st_meta){key, value};
    return DASS_OK;
}

static dass_status add_info(writer *w, const dass_params_info *info)
{
    const dass_arch *a = &info->arch;
    w->file.meta = dass_arena_alloc(w->mem, 8 * sizeof *w->file.meta);
    if (w->file.meta == NULL)
        return DASS_NOMEM;
    DASS_TRY(add_meta(w, "format", FORMAT_WORD));
    DASS_TRY(add_meta(w, "arch",
                      dass_arena_printf(w->mem,
                                        "{\"kind\":\"%s\",\"form\":\"%s\",\"channels\":%d,\"layers\":%d,\"nodes\":%d,"
                                        "\"classes\":%d,\"in_channels\":%d,\"image\":%d}",
                                        kind_word[a->kind], form_word[a->form], a->channels, a->layers, a->nodes,
                                        a->classes, a->in_channels, a->image)));
    if (a->kind == DASS_NET_CELLS)
        DASS_TRY(add_meta(w, "genotype", dass_genotype_print(&a->genotype, w->mem)));
    DASS_TRY(add_meta(w, "state", info->state));
    DASS_TRY(add_meta(w, "density", dass_arena_printf(w->mem, "%.17g", info->density)));
    DASS_TRY(add_meta(w, "allocation", info->allocation));
    return DASS_OK;
}

dass_status dass_params_save(const char *path, dass_store *s, const dass_params_info *info, bool scores, bool mask)
{
    writer w = {.s = s};
    dass_status st = DASS_OK;
    DASS_TRY_TO(dass_arena_make("parameter file", &w.mem), st, out);
    w.file.tensors = dass_arena_alloc(w.mem, ((size_t)dass_store_n_params(s) * 3 + 1) * sizeof *w.file.tensors);
    if (w.file.tensors == NULL) {
        st = DASS_NOMEM;
        goto out;
    }
    DASS_TRY_TO(add_info(&w, info), st, out);
    for (dass_group g = 0; g < DASS_N_GROUPS; ++g)
        DASS_TRY_TO(add_group(&w, g, group_buf(g), ""), st, out);
    if (scores)
        DASS_TRY_TO(add_group(&w, DASS_GROUP_W, DASS_BUF_SCORE, "score."), st, out);
    if (mask)
        DASS_TRY_TO(add_mask(&w), st, out);
    DASS_TRY_TO(dass_st_write(path, &w.file), st, out);
out:
    dass_arena_free(w.mem);
    return st;
}

/* ---- metadata ------------------------------------------------------------------------------------------------- */

static dass_status get_count(const char *path, const json_t *o, const char *key, int32_t *out)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > INT32_MAX)
        return DASS_FAIL(DASS_FORMAT, "%s: metadata: arch.%s is not a positive count", path, key);
    *out = (int32_t)json_integer_value(v);
    return DASS_OK;
}

static dass_status get_arch(const char *path, const json_t *o, dass_arch *a)
{
    const char *kind = json_string_value(json_object_get(o, "kind"));
    const char *form = json_string_value(json_object_get(o, "form"));
    const int k = kind != NULL ? FIND(kind, kind_word) : -1;
    const int f = form != NULL ? FIND(form, form_word) : -1;
    if (k < 0 || f < 0)
        return DASS_FAIL(DASS_FORMAT, "%s: metadata: arch names no network this program knows", path);
    a->kind = (dass_net_kind)k;
    a->form = (dass_form)f;
    DASS_TRY(get_count(path, o, "channels", &a->channels));
    DASS_TRY(get_count(path, o, "layers", &a->layers));
    DASS_TRY(get_count(path, o, "nodes", &a->nodes));
    DASS_TRY(get_count(path, o, "classes", &a->classes));
    DASS_TRY(get_count(path, o, "in_channels", &a->in_channels));
    DASS_TRY(get_count(path, o, "image", &a->image));
    return DASS_OK;
}

static dass_status get_info(const char *path, const dass_st_file *f, dass_params_info *info)
{
    const char *format = dass_st_get(f, "format");
    const char *arch = dass_st_get(f, "arch");
    const char *genotype = dass_st_get(f, "genotype");
    const char *state = dass_st_get(f, "state");
    const char *density = dass_st_get(f, "density");
    const char *allocation = dass_st_get(f, "allocation");
    if (format == NULL || strcmp(format, FORMAT_WORD) != 0)
        return DASS_FAIL(DASS_FORMAT, "%s: not a parameter file of dass (metadata format is '%s', not " FORMAT_WORD ")",
                         path, format != NULL ? format : "");
    if (arch == NULL || state == NULL || density == NULL || allocation == NULL || FIND(state, state_word) < 0 ||
        strlen(allocation) >= sizeof info->allocation)
        return DASS_FAIL(DASS_FORMAT, "%s: metadata arch, state, density or allocation is missing or unknown", path);
    (void)snprintf(info->state, sizeof info->state, "%s", state);
    (void)snprintf(info->allocation, sizeof info->allocation, "%s", allocation);
    char *end = NULL;
    info->density = strtod(density, &end);
    if (end == density || *end != '\0' || !(info->density > 0.0 && info->density <= 1.0))
        return DASS_FAIL(DASS_FORMAT, "%s: metadata density '%s' is not in (0, 1]", path, density);
    json_t *root = json_loads(arch, JSON_REJECT_DUPLICATES, NULL);
    if (root == NULL)
        return DASS_FAIL(DASS_FORMAT, "%s: metadata arch is not JSON", path);
    const dass_status st = get_arch(path, root, &info->arch);
    json_decref(root);
    DASS_TRY(st);
    if (info->arch.kind != DASS_NET_CELLS)
        return DASS_OK;
    if (genotype == NULL)
        return DASS_FAIL(DASS_FORMAT, "%s: metadata genotype is missing", path);
    DASS_TRY(dass_genotype_parse(path, genotype, strlen(genotype), &info->arch.genotype));
    return DASS_OK;
}

dass_status dass_params_open(const char *path, dass_params *out)
{
    memset(out, 0, sizeof *out);
    dass_status st = DASS_OK;
    struct stat sb;
    if (stat(path, &sb) != 0)
        return DASS_FAIL(DASS_IO, "%s: %s; name a run folder (-o of search, train or prune) or a .safetensors file",
                         path, strerror(errno));
    DASS_TRY_TO(dass_arena_make("parameter file", &out->mem), st, fail);
    out->path = dass_arena_printf(out->mem, S_ISDIR(sb.st_mode) ? "%s/params.safetensors" : "%s", path);
    if (out->path == NULL) {
        st = DASS_NOMEM;
        goto fail;
    }
    DASS_TRY_TO(dass_st_read(out->path, &out->file), st, fail);
    DASS_TRY_TO(get_info(out->path, out->file, &out->info), st, fail);
    return DASS_OK;
fail:
    dass_params_close(out);
    return st;
}

void dass_params_close(dass_params *p)
{
    dass_st_free(p->file);
    dass_arena_free(p->mem);
    memset(p, 0, sizeof *p);
}

/* ---- restoring ------------------------------------------------------------------------------------------------ */

static dass_status find_tensor(const dass_params *f, const char *prefix, const dass_param *p, dass_st_type type,
                               const dass_st_tensor **out)
{
    char name[512];
    (void)snprintf(name, sizeof name, "%s%s", prefix, p->name);
    const dass_st_tensor *t = dass_st_find(f->file, name);
    if (t == NULL)
        return DASS_FAIL(DASS_FORMAT, "%s: tensor '%s' is missing: a file of another network", f->path, name);
    bool same = t->type == type && t->rank == p->rank;
    for (int32_t i = 0; same && i < p->rank; ++i)
        same = t->dim[i] == p->dim[i];
    if (!same)
        return DASS_FAIL(DASS_FORMAT, "%s: tensor '%s' has another type or shape than the network's", f->path, name);
    *out = t;
    return DASS_OK;
}

dass_status dass_params_group(const dass_params *f, const dass_store *s, dass_group group, double *out)
{
    for (uint32_t i = 0; i < dass_store_n_params(s); ++i) {
        const dass_param *p = dass_store_get(s, i);
        if (p->group != group)
            continue;
        const dass_st_tensor *t = NULL;
        DASS_TRY(find_tensor(f, "", p, DASS_ST_F32, &t));
        for (int64_t k = 0; k < p->count; ++k) {
            float x = 0.0f;
            memcpy(&x, (const uint8_t *)t->data + (size_t)k * sizeof x, sizeof x);
            if (!isfinite(x))
                return DASS_FAIL(DASS_FORMAT, "%s: tensor '%s': element %lld is not finite", f->path, p->name,
                                 (long long)k);
            out[p->offset + k] = (double)x;
        }
    }
    return DASS_OK;
}

dass_status dass_params_restore(const dass_params *f, dass_store *s)
{
    for (dass_group g = 0; g < DASS_N_GROUPS; ++g) {
        const int64_t n = dass_store_count(s, g);
        if (n == 0)
            continue;
        void *values = NULL;
        DASS_TRY(dass_mem_alloc((size_t)n * sizeof(double), "parameters to restore", &values));
        dass_status st = dass_params_group(f, s, g, values);
        if (st == DASS_OK)
            st = dass_store_write_real(s, group_buf(g), values, n);
        dass_mem_free(values);
        DASS_TRY(st);
    }
    return DASS_OK;
}

dass_status dass_params_restore_mask(const dass_params *f, dass_store *s)
{
    const size_t bytes = dass_store_buf_bytes(s, DASS_BUF_BITS);
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(bytes, "mask to restore", &block));
    uint64_t *bits = block;
    dass_status st = DASS_OK;
    for (uint32_t i = 0; i < dass_store_n_params(s); ++i) {
        const dass_param *p = dass_store_get(s, i);
        if (p->group != DASS_GROUP_W)
            continue;
        const dass_st_tensor *t = NULL;
        DASS_TRY_TO(find_tensor(f, "mask.", p, DASS_ST_U8, &t), st, out);
        const uint8_t *m = t->data;
        for (int64_t k = 0; k < p->count; ++k) {
            if (m[k] > 1) {
                st = DASS_FAIL(DASS_FORMAT, "%s: mask of '%s': element %lld is %u", f->path, p->name, (long long)k,
                               m[k]);
                goto out;
            }
            bits[(p->offset + k) / 64] |= (uint64_t)m[k] << ((p->offset + k) % 64);
        }
    }
    DASS_TRY_TO(dass_store_write(s, DASS_BUF_BITS, bits, bytes), st, out);
out:
    dass_mem_free(block);
    return st;
}
