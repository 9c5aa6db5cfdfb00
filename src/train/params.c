/* The parameter file: a store's groups as named tensors, with the network in the metadata, so that train, prune and
 * eval can be separate commands. Invariant: what is restored has exactly the names and shapes of the store; a file of
 * another network is refused, never fitted.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tensors.h"

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

/* ---- saving --------------------------------------------------------------------------------------------------- */

dass_status dass__writer_info(dass__tensor_writer *w, const dass_params_info *info)
{
    const dass_arch *a = &info->arch;
    DASS_TRY(dass__writer_meta(
        w, "arch",
        dass_arena_printf(w->mem,
                          "{\"kind\":\"%s\",\"form\":\"%s\",\"channels\":%d,\"layers\":%d,\"nodes\":%d,"
                          "\"classes\":%d,\"in_channels\":%d,\"image\":%d}",
                          kind_word[a->kind], form_word[a->form], a->channels, a->layers, a->nodes, a->classes,
                          a->in_channels, a->image)));
    if (a->kind == DASS_NET_CELLS)
        DASS_TRY(dass__writer_meta(w, "genotype", dass_genotype_print(&a->genotype, w->mem)));
    DASS_TRY(dass__writer_meta(w, "state", dass_arena_printf(w->mem, "%s", info->state)));
    DASS_TRY(dass__writer_meta(w, "density", dass_arena_printf(w->mem, "%.17g", info->density)));
    DASS_TRY(dass__writer_meta(w, "allocation", dass_arena_printf(w->mem, "%s", info->allocation)));
    return DASS_OK;
}

dass_status dass_params_save(const char *path, dass_store *s, const dass_params_info *info, bool scores, bool mask)
{
    dass__tensor_writer w;
    dass_status st = DASS_OK;
    DASS_TRY(dass__writer_open(s, 3, &w));
    DASS_TRY_TO(dass__writer_meta(&w, "format", FORMAT_WORD), st, out);
    DASS_TRY_TO(dass__writer_info(&w, info), st, out);
    for (dass_group g = 0; g < DASS_N_GROUPS; ++g)
        DASS_TRY_TO(dass__writer_group(&w, g, dass__group_buf(g), "", false), st, out);
    if (scores)
        DASS_TRY_TO(dass__writer_group(&w, DASS_GROUP_W, DASS_BUF_SCORE, "score.", false), st, out);
    if (mask)
        DASS_TRY_TO(dass__writer_mask(&w), st, out);
    DASS_TRY_TO(dass_st_write(path, &w.file), st, out);
out:
    dass__writer_close(&w);
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
    if (format == NULL || (strcmp(format, FORMAT_WORD) != 0 && strcmp(format, DASS__CHECKPOINT_WORD) != 0))
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

/* A folder's result, or, of a run that did not come to its end, its newest checkpoint. */
static dass_status find_in_folder(const char *folder, dass_params *out)
{
    bool there = false;
    out->path = dass_arena_printf(out->mem, "%s/params.safetensors", folder);
    if (out->path == NULL)
        return DASS_NOMEM;
    DASS_TRY(dass_file_there(out->path, &there));
    if (there)
        return DASS_OK;
    DASS_TRY(dass__checkpoint_newest(folder, out->mem, &out->path));
    if (out->path == NULL)
        return DASS_FAIL(DASS_IO,
                         "%s holds no params.safetensors and no checkpoint: it is no run folder, or its run did not "
                         "come so far",
                         folder);
    out->unfinished = true;
    return DASS_OK;
}

/* Whether the file has averages, which become the network when the run ends. */
static bool has_averages(const dass_st_file *f)
{
    for (size_t i = 0; i < f->n_tensors; ++i)
        if (strncmp(f->tensors[i].name, "ema.", 4) == 0)
            return true;
    return false;
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
    if (S_ISDIR(sb.st_mode)) {
        DASS_TRY_TO(find_in_folder(path, out), st, fail);
    } else {
        out->path = dass_arena_text(out->mem, path, strlen(path));
        if (out->path == NULL) {
            st = DASS_NOMEM;
            goto fail;
        }
    }
    DASS_TRY_TO(dass_st_read(out->path, &out->file), st, fail);
    DASS_TRY_TO(get_info(out->path, out->file, &out->info), st, fail);
    out->checkpoint = strcmp(dass_st_get(out->file, "format"), DASS__CHECKPOINT_WORD) == 0;
    out->averaged = out->checkpoint && has_averages(out->file);
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

static const char *prefix_of(const dass_params *f, dass_group group)
{
    return f->averaged && group != DASS_GROUP_ALPHA ? "ema." : "";
}

dass_status dass_params_group(const dass_params *f, const dass_store *s, dass_group group, double *out)
{
    return dass__tensors_values(f->file, f->path, s, group, prefix_of(f, group), f->checkpoint, out);
}

dass_status dass_params_restore(const dass_params *f, dass_store *s)
{
    for (dass_group g = 0; g < DASS_N_GROUPS; ++g)
        DASS_TRY(dass__tensors_restore(f->file, f->path, s, g, dass__group_buf(g), prefix_of(f, g), f->checkpoint));
    return DASS_OK;
}

dass_status dass_params_mask(const dass_params *f, const dass_store *s, uint64_t *bits)
{
    return dass__tensors_mask(f->file, f->path, s, bits);
}

dass_status dass_params_restore_mask(const dass_params *f, dass_store *s)
{
    return dass__tensors_restore_mask(f->file, f->path, s);
}
