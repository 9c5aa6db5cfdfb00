/* Sessions: opening a backend, data, network and run folder, and the files of the folder. No training here; see
 * stage.c. Invariant: once open, every parameter exists and has its value, whichever stage comes first.
 */
#include "session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PATH_BYTES 4096

dass_status dass__backend_open(const dass_config *c, const char *device, dass_backend **out)
{
    char name[DASS_TEXT_MAX];
    (void)snprintf(name, sizeof name, "%s", device);
    dass_backend_options opt = {.n_threads = (int)c->run_threads};
    char *colon = strchr(name, ':');
    if (colon != NULL) {
        char *end = NULL;
        const long ordinal = strtol(colon + 1, &end, 10);
        if (end == colon + 1 || *end != '\0' || ordinal < 0 || ordinal > 1023)
            return DASS_FAIL(DASS_CONFIG, "%s: run.device: '%s' is not NAME or NAME:NUMBER",
                             c->origin[DASS_KEY_run_device], device);
        opt.ordinal = (int)ordinal;
        *colon = '\0';
    }
    DASS_TRY(dass_backend_open(name, &opt, out));
    return DASS_OK;
}

void dass__network_text(const dass_arch *a, char *buf, size_t n)
{
    switch (a->kind) {
    case DASS_NET_SUPERNET:
        (void)snprintf(buf, n, "supernet C%d L%d", a->channels, a->layers);
        break;
    case DASS_NET_CELLS:
        (void)snprintf(buf, n, "cells C%d L%d", a->channels, a->layers);
        break;
    case DASS_NET_MOBILENET_V2:
        (void)snprintf(buf, n, "mobilenet_v2");
        break;
    case DASS_NET_RESNET18:
        (void)snprintf(buf, n, "resnet18");
        break;
    }
}

dass_status dass__register_params(dass_store *s, const dass_arch *arch)
{
    dass_graph *g = NULL;
    DASS_TRY(dass_graph_make(DASS_F32, &g));
    const int32_t dim[4] = {1, arch->in_channels, arch->image, arch->image};
    const dass_val x = dass_ref(g, "x", DASS_BUF_IMAGES, 0, DASS_LAYOUT_NHWC, 4, dim);
    dass_val logits = 0;
    dass_status st = dass_net_build(g, s, arch, DASS_WEIGHTS_DENSE, DASS_NORM_BATCH_TRACK, x, NULL, &logits, NULL);
    if (st == DASS_OK)
        st = g->status;
    dass_graph_free(g);
    return st;
}

dass_phase dass__phase_of(const dass_config *c, dass_task task, dass_stage stage)
{
    dass_phase p = {.task = task, .stage = stage, .batch = (int32_t)c->train_batch, .lower = DASS_LOWER_ALL};
    if (task == DASS_TASK_EVAL) {
        p.batch = (int32_t)c->run_eval_batch;
        return p;
    }
    p.pad = (int32_t)c->data_pad;
    p.flip = c->data_flip;
    p.cutout = (int32_t)c->data_cutout;
    return p;
}

dass_status dass__feed(dass__session *s, dass_source *src, dass_batch *out)
{
    DASS_TRY(dass_source_next(src, out));
    DASS_TRY(dass_steps_feed(s->store, out->images, out->image_bytes, out->labels, out->samples, out->rows));
    return DASS_OK;
}

/* ---- run folder ----------------------------------------------------------------------------------------------- */

/* mkdir -p. */
static dass_status make_folder(const char *path)
{
    char part[PATH_BYTES];
    const int n = snprintf(part, sizeof part, "%s", path);
    if (n <= 0 || (size_t)n >= sizeof part)
        return DASS_FAIL(DASS_ARG, "-o: a folder name of %d characters", n);
    for (char *p = part + 1;; ++p) {
        if (*p != '/' && *p != '\0')
            continue;
        const char keep = *p;
        *p = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return DASS_FAIL(DASS_IO, "run folder %s: %s: %s", path, part, strerror(errno));
        *p = keep;
        if (keep == '\0')
            break;
    }
    struct stat sb;
    if (stat(path, &sb) != 0 || !S_ISDIR(sb.st_mode))
        return DASS_FAIL(DASS_IO, "run folder %s is not a folder", path);
    return DASS_OK;
}

static const char *in_folder(const dass__session *s, const char *file, char *buf, size_t n)
{
    (void)snprintf(buf, n, "%s/%s", s->opt->out_dir, file);
    return buf;
}

/* Every setting with its origin as a comment; read back by -c. */
static dass_status save_config(const dass__session *s)
{
    dass_arena *mem = NULL;
    DASS_TRY(dass_arena_make("resolved configuration", &mem));
    const size_t size = (size_t)DASS_N_KEYS * (2 * DASS_TEXT_MAX + 128) + 2 * PATH_BYTES;
    char *text = dass_arena_alloc(mem, size);
    dass_status st = text == NULL ? DASS_NOMEM : DASS_OK;
    if (text != NULL) {
        size_t at = 0;
        at += (size_t)snprintf(text + at, size - at, "# %s\n# %.3000s\n",
                               s->opt->build_id != NULL ? s->opt->build_id : "dass, unknown build",
                               s->opt->command != NULL ? s->opt->command : s->command);
        for (dass_config_key k = 0; k < DASS_N_KEYS; ++k) {
            char value[2 * DASS_TEXT_MAX];
            dass_config_print(s->cfg, k, value, sizeof value);
            at += (size_t)snprintf(text + at, size - at, "%s: %s # %s\n", dass_config_key_name(k), value,
                                   s->cfg->origin[k]);
        }
        char path[PATH_BYTES];
        st = dass_file_write(in_folder(s, "config.yaml", path, sizeof path), text, at);
    }
    dass_arena_free(mem);
    return st;
}

static dass_status open_folder(dass__session *s)
{
    if (s->opt->out_dir == NULL)
        return DASS_OK;
    char path[PATH_BYTES];
    if (strlen(s->opt->out_dir) + 32 > sizeof path)
        return DASS_FAIL(DASS_ARG, "-o: the folder's name is too long");
    DASS_TRY(make_folder(s->opt->out_dir));
    /* Results of an earlier run must not outlive the start of this one. */
    static const char *const old[] = {"params.safetensors", "genotype.json"};
    for (size_t i = 0; i < sizeof old / sizeof *old; ++i)
        if (remove(in_folder(s, old[i], path, sizeof path)) != 0 && errno != ENOENT)
            return DASS_FAIL(DASS_IO, "%s: %s", path, strerror(errno));
    DASS_TRY(save_config(s));
    s->metrics = fopen(in_folder(s, "metrics.jsonl", path, sizeof path), "w");
    if (s->metrics == NULL)
        return DASS_FAIL(DASS_IO, "%s: %s", path, strerror(errno));
    return DASS_OK;
}

dass_status dass__metrics_line(dass__session *s, json_t *line)
{
    if (s->metrics == NULL) {
        json_decref(line);
        return DASS_OK;
    }
    const int bad = json_dumpf(line, s->metrics, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(line);
    if (bad != 0 || fputc('\n', s->metrics) == EOF || fflush(s->metrics) != 0)
        return DASS_FAIL(DASS_IO, "%s/metrics.jsonl: write failed: %s", s->opt->out_dir, strerror(errno));
    return DASS_OK;
}

dass_status dass__save_genotype(dass__session *s, const dass_genotype *g)
{
    if (s->opt->out_dir == NULL)
        return DASS_OK;
    dass_arena *mem = NULL;
    DASS_TRY(dass_arena_make("genotype", &mem));
    const char *text = dass_genotype_print(g, mem);
    const char *line = text != NULL ? dass_arena_printf(mem, "%s\n", text) : NULL;
    char path[PATH_BYTES];
    const dass_status st = line == NULL
                               ? DASS_NOMEM
                               : dass_file_write(in_folder(s, "genotype.json", path, sizeof path), line, strlen(line));
    dass_arena_free(mem);
    return st;
}

dass_status dass__save_params(dass__session *s, const char *state, double density, const char *allocation)
{
    if (s->opt->out_dir == NULL)
        return DASS_OK;
    dass_params_info info = {.arch = s->arch, .density = density};
    (void)snprintf(info.state, sizeof info.state, "%s", state);
    (void)snprintf(info.allocation, sizeof info.allocation, "%s", allocation);
    char path[PATH_BYTES];
    const bool mask = allocation[0] != '\0';
    DASS_TRY(dass_params_save(in_folder(s, "params.safetensors", path, sizeof path), s->store, &info, mask, mask));
    return DASS_OK;
}

/* ---- opening -------------------------------------------------------------------------------------------------- */

static dass_status open_store(dass__session *s, const dass_params *from)
{
    const dass_config *c = s->cfg;
    DASS_TRY(dass_store_make(s->be->ops->real, &s->store));
    DASS_TRY(dass__register_params(s->store, &s->arch));
    const int64_t rows = c->train_batch > c->run_eval_batch ? c->train_batch : c->run_eval_batch;
    dass_store_size(s->store, DASS_BUF_IMAGES, rows * s->data->h * s->data->w * s->data->c);
    dass_store_size(s->store, DASS_BUF_LABELS, rows);
    dass_store_size(s->store, DASS_BUF_SAMPLES, rows);
    uint64_t bufs = 0;
    static const dass_buf base[] = {DASS_BUF_W, DASS_BUF_AF, DASS_BUF_ALPHA, DASS_BUF_STAT};
    for (size_t i = 0; i < sizeof base / sizeof *base; ++i)
        bufs |= (uint64_t)1 << base[i];
    DASS_TRY(dass_store_commit(s->store, s->be, bufs));
    if (from != NULL)
        DASS_TRY(dass_params_restore(from, s->store));
    else
        DASS_TRY(dass_store_init(s->store, (uint64_t)c->run_seed));
    const int64_t n_alpha = dass_store_count(s->store, DASS_GROUP_ALPHA);
    if (n_alpha > 0) {
        void *block = NULL;
        DASS_TRY(dass_mem_alloc((size_t)n_alpha * sizeof(double), "alpha", &block));
        s->alpha = block;
    }
    return DASS_OK;
}

static dass_status open_parts(dass__session *s, const dass_params *from)
{
    const dass_config *c = s->cfg;
    DASS_TRY(dass_arena_make("session", &s->mem));
    DASS_TRY(dass_dataset_load(c, &s->data));
    DASS_TRY(dass_dataset_check(s->data, c));
    DASS_TRY(dass__backend_open(c, c->run_device, &s->be));
    DASS_TRY(open_store(s, from));
    DASS_TRY(open_folder(s));
    s->block.seed = (uint64_t)c->run_seed;
    char network[64];
    dass__network_text(&s->arch, network, sizeof network);
    dass_log(DASS_LOG_INFO,
             "%s: %s, %lld weights, %lld batch norm and bias, %lld alphas | %s: %lld training, %lld test "
             "images | %s",
             s->command, network, (long long)dass_store_count(s->store, DASS_GROUP_W),
             (long long)dass_store_count(s->store, DASS_GROUP_AF),
             (long long)dass_store_count(s->store, DASS_GROUP_ALPHA), s->data->name, (long long)s->data->train.n,
             (long long)s->data->test.n, c->run_device);
    return DASS_OK;
}

dass_status dass__session_open(const dass_run_options *opt, const char *command, const dass_arch *arch,
                               const dass_params *from, dass__session *s)
{
    memset(s, 0, sizeof *s);
    s->opt = opt;
    s->cfg = opt->config;
    s->command = command;
    s->arch = *arch;
    const dass_status st = open_parts(s, from);
    if (st != DASS_OK)
        dass__session_close(s);
    return st;
}

void dass__session_close(dass__session *s)
{
    if (s->metrics != NULL)
        (void)fclose(s->metrics);
    dass_mem_free(s->alpha);
    dass_store_free(s->store);
    dass_backend_close(s->be);
    dass_dataset_free(s->data);
    dass_arena_free(s->mem);
    memset(s, 0, sizeof *s);
}
