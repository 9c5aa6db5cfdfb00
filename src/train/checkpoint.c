/* Checkpoints: everything that the next step depends on and that the configuration does not already say, in one
 * safetensors file. Parameters, momenta, Adam's moments, scores, mask bits, running statistics, averages, the table of
 * kept counts, and progress. Not here: gradients and masked weights, which each step makes anew; random states, which
 * do not exist (every draw is a function of seed, epoch and sample).
 *
 * Invariants: a run that goes on from a checkpoint writes the same bytes as one that was never stopped, so what is
 * saved depends on the state alone: on no clock, on no path. What is saved is finite. And a file that cannot be taken
 * leaves the store as it was.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "session.h"
#include "tensors.h"

#define FOLDER "checkpoint"
#define PARTIAL FOLDER "/partial.safetensors"
#define PATH_BYTES 4096

/* Buffers that are state. Saved when they are committed. */
static const struct {
    dass_group group;
    dass_buf buf;
    const char *prefix;
} state[] = {
    {DASS_GROUP_W, DASS_BUF_W, ""},
    {DASS_GROUP_W, DASS_BUF_W_MOM, "momentum."},
    {DASS_GROUP_W, DASS_BUF_W_EMA, "ema."},
    {DASS_GROUP_W, DASS_BUF_SCORE, "score."},
    {DASS_GROUP_W, DASS_BUF_SCORE_MOM, "score_momentum."},
    {DASS_GROUP_AF, DASS_BUF_AF, ""},
    {DASS_GROUP_AF, DASS_BUF_AF_MOM, "momentum."},
    {DASS_GROUP_AF, DASS_BUF_AF_EMA, "ema."},
    {DASS_GROUP_ALPHA, DASS_BUF_ALPHA, ""},
    {DASS_GROUP_ALPHA, DASS_BUF_ALPHA_M, "adam_m."},
    {DASS_GROUP_ALPHA, DASS_BUF_ALPHA_V, "adam_v."},
    {DASS_GROUP_STAT, DASS_BUF_STAT, ""},
    {DASS_GROUP_STAT, DASS_BUF_STAT_EMA, "ema."},
};
#define N_STATE (sizeof state / sizeof *state)

static bool committed(const dass__session *s, dass_buf b)
{
    return dass_store_ptrs(s->store)[b] != NULL;
}

/* ---- saving --------------------------------------------------------------------------------------------------- */

static dass_status add_progress(const dass__session *s, dass__tensor_writer *w)
{
    json_t *o = json_object();
    int bad = o == NULL;
#define DASS__JSON_INT(x) json_integer(x)
#define DASS__JSON_REAL(x) json_real(x)
#define X(type, name) bad |= json_object_set_new(o, #name, DASS__JSON_##type(s->at.name));
    DASS__PROGRESS_MAP(X)
#undef X
    char text[1024];
    const size_t n = bad ? 0 : json_dumpb(o, text, sizeof text - 1, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(o);
    if (n == 0 || n >= sizeof text)
        return DASS_FAIL(DASS_NOMEM, "no memory for a checkpoint's progress");
    text[n] = '\0';
    DASS_TRY(dass__writer_meta(w, "format", DASS__CHECKPOINT_WORD));
    DASS_TRY(dass__writer_meta(w, "command", s->command));
    DASS_TRY(dass__writer_meta(w, "progress", dass_arena_text(w->mem, text, n)));
    return DASS_OK;
}

static dass_status add_kept(const dass__session *s, dass__tensor_writer *w)
{
    if (s->n_segments == 0)
        return DASS_OK;
    int64_t *kept = dass_arena_alloc(w->mem, (size_t)s->n_segments * sizeof *kept);
    if (kept == NULL)
        return DASS_NOMEM;
    for (int64_t i = 0; i < s->n_segments; ++i)
        kept[i] = s->segments[i].kept;
    DASS_TRY(dass__writer_tensor(w, &(dass_st_tensor){.name = "kept",
                                                      .type = DASS_ST_I64,
                                                      .rank = 1,
                                                      .dim = {s->n_segments},
                                                      .bytes = (size_t)s->n_segments * sizeof *kept,
                                                      .data = kept}));
    return DASS_OK;
}

/* The network, so that a checkpoint can be evaluated by itself. */
static dass_status add_network(const dass__session *s, dass__tensor_writer *w)
{
    const bool search = strcmp(s->command, "search") == 0;
    const bool masked = committed(s, DASS_BUF_BITS);
    dass_params_info info = {.arch = s->arch, .density = 1.0};
    (void)snprintf(info.state, sizeof info.state, "%s", search ? "supernet" : masked ? "pruned" : "dense");
    if (masked) {
        info.density = search ? s->cfg->search_density : s->cfg->prune_density;
        (void)snprintf(info.allocation, sizeof info.allocation, "%.15s",
                       search ? s->cfg->search_allocation : s->cfg->prune_allocation);
    }
    return dass__writer_info(w, &info);
}

static dass_status add_buffers(const dass__session *s, dass__tensor_writer *w)
{
    for (size_t i = 0; i < N_STATE; ++i)
        if (committed(s, state[i].buf))
            DASS_TRY(dass__writer_group(w, state[i].group, state[i].buf, state[i].prefix, true));
    return DASS_OK;
}

static dass_status write_state(dass__session *s, const char *path)
{
    dass__tensor_writer w;
    dass_status st = DASS_OK;
    DASS_TRY(dass__writer_open(s->store, N_STATE + 1, &w));
    DASS_TRY_TO(add_progress(s, &w), st, out);
    DASS_TRY_TO(add_network(s, &w), st, out);
    DASS_TRY_TO(add_kept(s, &w), st, out);
    DASS_TRY_TO(add_buffers(s, &w), st, out);
    if (committed(s, DASS_BUF_BITS))
        DASS_TRY_TO(dass__writer_mask(&w), st, out);
    DASS_TRY_TO(dass_st_write(path, &w.file), st, out);
out:
    dass__writer_close(&w);
    return st;
}

dass_status dass__state_check(dass__session *s)
{
    dass__tensor_writer w;
    DASS_TRY(dass__writer_open(s->store, N_STATE, &w));
    const dass_status st = add_buffers(s, &w);
    dass__writer_close(&w);
    return st;
}

/* ---- the folder ------------------------------------------------------------------------------------------------ */

#define EPOCH_FILE FOLDER "/epoch-%06" PRId64 ".safetensors"

static const char *epoch_path(const dass__session *s, int64_t number, char *buf, size_t n)
{
    char file[64];
    (void)snprintf(file, sizeof file, EPOCH_FILE, number);
    return dass__in_folder(s, file, buf, n);
}

/* The folder of checkpoints, whose path goes into buf; *out NULL: there is none. */
static dass_status open_folder(const char *run, char *buf, size_t n, DIR **out)
{
    *out = NULL;
    (void)snprintf(buf, n, "%s/" FOLDER, run);
    const int fd = open(buf, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return DASS_OK;
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
        return DASS_FAIL(DASS_IO, "%s is a link or a file, not the folder of a run's checkpoints; remove it", buf);
    if (fd < 0)
        return DASS_FAIL(DASS_IO, "%s: %s", buf, strerror(errno));
    *out = fdopendir(fd);
    if (*out != NULL)
        return DASS_OK;
    const dass_status st = DASS_FAIL(DASS_IO, "%s: %s", buf, strerror(errno));
    (void)close(fd);
    return st;
}

/* *out NULL: that was the last. A folder that cannot be read is not an empty one. */
static dass_status next_entry(DIR *d, const char *path, const struct dirent **out)
{
    errno = 0;
    *out = readdir(d);
    if (*out == NULL && errno != 0)
        return DASS_FAIL(DASS_IO, "%s: cannot read the folder: %s", path, strerror(errno));
    return DASS_OK;
}

/* Number of the epoch that a checkpoint is named for; -1: a name that is not ours. */
static int64_t epoch_of(const char *name)
{
    int64_t number = 0;
    int end = 0;
    const bool ours = sscanf(name, "epoch-%" SCNd64 ".safetensors%n", &number, &end) == 1 && end > 0;
    return ours && name[end] == '\0' && number >= 0 ? number : -1;
}

static dass_status read_epochs(DIR *d, const char *path, dass_arena *mem, int64_t **out, size_t *n)
{
    size_t room = 64;
    const struct dirent *e = NULL;
    int64_t *list = dass_arena_alloc(mem, room * sizeof *list);
    if (list == NULL)
        return DASS_NOMEM;
    for (;;) {
        DASS_TRY(next_entry(d, path, &e));
        if (e == NULL)
            break;
        const int64_t number = epoch_of(e->d_name);
        if (number < 0)
            continue;
        if (*n == room) {
            int64_t *more = dass_arena_alloc(mem, 2 * room * sizeof *more);
            if (more == NULL)
                return DASS_NOMEM;
            memcpy(more, list, *n * sizeof *list);
            list = more;
            room *= 2;
        }
        size_t at = (*n)++; /* insertion: there are a handful */
        for (; at > 0 && list[at - 1] < number; --at)
            list[at] = list[at - 1];
        list[at] = number;
    }
    *out = list;
    return DASS_OK;
}

/* Numbers of the epochs that have a checkpoint, newest first. Names that are not ours are left alone. */
static dass_status list_epochs(const char *run, dass_arena *mem, int64_t **out, size_t *n)
{
    char path[PATH_BYTES];
    DIR *d = NULL;
    *out = NULL;
    *n = 0;
    DASS_TRY(open_folder(run, path, sizeof path, &d));
    if (d == NULL)
        return DASS_OK;
    const dass_status st = read_epochs(d, path, mem, out, n);
    (void)closedir(d);
    return st;
}

dass_status dass__checkpoint_newest(const char *folder, dass_arena *mem, char **out)
{
    int64_t *list = NULL;
    size_t n = 0;
    bool there = false;
    DASS_TRY(list_epochs(folder, mem, &list, &n));
    *out = n > 0 ? dass_arena_printf(mem, "%s/" EPOCH_FILE, folder, list[0])
                 : dass_arena_printf(mem, "%s/" PARTIAL, folder);
    if (*out == NULL)
        return DASS_NOMEM;
    DASS_TRY(dass_file_there(*out, &there));
    if (!there)
        *out = NULL;
    return DASS_OK;
}

static dass_status remove_one(const char *path, bool must)
{
    if (unlink(path) == 0 || errno == ENOENT)
        return DASS_OK;
    if (must)
        return DASS_FAIL(DASS_IO, "%s: cannot remove this checkpoint: %s", path, strerror(errno));
    dass_log(DASS_LOG_WARN, "%s: cannot remove this old checkpoint: %s", path, strerror(errno));
    return DASS_OK;
}

/* All but the newest `keep`, and the partial one. must: one that stays is an error, else only said. */
static dass_status remove_old(const dass__session *s, size_t keep, bool must)
{
    char path[PATH_BYTES];
    dass_arena *mem = NULL;
    int64_t *list = NULL;
    size_t n = 0;
    dass_status st = DASS_OK;
    DASS_TRY(dass_arena_make("checkpoints", &mem));
    DASS_TRY_TO(list_epochs(s->opt->out_dir, mem, &list, &n), st, out);
    for (size_t i = keep; i < n; ++i)
        DASS_TRY_TO(remove_one(epoch_path(s, list[i], path, sizeof path), must), st, out);
    DASS_TRY_TO(remove_one(dass__in_folder(s, PARTIAL, path, sizeof path), must), st, out);
out:
    dass_arena_free(mem);
    return st;
}

/* A file of ours that a killed run was writing. */
static bool is_half(const char *name)
{
    static const char end[] = ".safetensors.tmp";
    const size_t n = strlen(name);
    const bool ours = strncmp(name, "epoch-", 6) == 0 || strncmp(name, "partial.", 8) == 0;
    return ours && n > sizeof end && strcmp(name + n + 1 - sizeof end, end) == 0;
}

dass_status dass__checkpoint_sweep(const dass__session *s)
{
    char path[PATH_BYTES];
    DIR *d = NULL;
    const struct dirent *e = NULL;
    DASS_TRY(open_folder(s->opt->out_dir, path, sizeof path, &d));
    if (d == NULL)
        return DASS_OK;
    dass_status st = DASS_OK;
    for (;;) {
        DASS_TRY_TO(next_entry(d, path, &e), st, out);
        if (e == NULL)
            break;
        if (is_half(e->d_name) && unlinkat(dirfd(d), e->d_name, 0) != 0 && errno != ENOENT) {
            st =
                DASS_FAIL(DASS_IO, "%s/%s: cannot remove what a killed run left: %s", path, e->d_name, strerror(errno));
            break;
        }
    }
out:
    (void)closedir(d);
    return st;
}

dass_status dass__checkpoint_forget(dass__session *s)
{
    DASS_TRY(dass__checkpoint_sweep(s));
    return remove_old(s, 0, true);
}

/* The newest state that is safe, for messages. */
static void remember(dass__session *s, const char *path)
{
    (void)snprintf(s->saved, sizeof s->saved, "%s", path + strlen(s->opt->out_dir) + 1);
}

dass_status dass__checkpoint_save(dass__session *s, bool partial)
{
    char path[PATH_BYTES];
    if (s->opt->out_dir == NULL)
        return DASS_OK;
    const bool made = mkdir(dass__in_folder(s, FOLDER, path, sizeof path), 0777) == 0;
    if (!made && errno != EEXIST)
        return DASS_FAIL(DASS_IO, "%s: %s", path, strerror(errno));
    if (made)
        DASS_TRY(dass__folder_sync(s));
    /* The logs first: a checkpoint that counts their bytes must not reach the disk before them. */
    FILE *const logs[] = {s->folder.metrics, s->folder.alphas};
    for (size_t i = 0; i < sizeof logs / sizeof *logs; ++i)
        if (logs[i] != NULL && fdatasync(fileno(logs[i])) != 0)
            return DASS_FAIL(DASS_IO, "%s: fdatasync of the metrics: %s", s->opt->out_dir, strerror(errno));
    if (partial)
        (void)dass__in_folder(s, PARTIAL, path, sizeof path);
    else
        (void)epoch_path(s, s->at.epochs_done, path, sizeof path);
    DASS_TRY(write_state(s, path));
    remember(s, path);
    if (!partial)
        DASS_TRY(remove_old(s, (size_t)s->cfg->run_keep, false));
    s->last_saved = dass_now_sec();
    return DASS_OK;
}

/* ---- loading -------------------------------------------------------------------------------------------------- */

static dass_status get_progress(const dass__session *s, const char *path, const dass_st_file *f, dass__progress *out)
{
    const char *format = dass_st_get(f, "format");
    const char *command = dass_st_get(f, "command");
    const char *text = dass_st_get(f, "progress");
    if (format == NULL || strcmp(format, DASS__CHECKPOINT_WORD) != 0 || command == NULL || text == NULL)
        return DASS_FAIL(DASS_FORMAT,
                         "%s: not a checkpoint of this program (metadata format is '%s', not " DASS__CHECKPOINT_WORD
                         ")",
                         path, format != NULL ? format : "");
    if (strcmp(command, s->command) != 0)
        return DASS_FAIL(DASS_FORMAT, "%s: a checkpoint of `dass %s`, not of `dass %s`", path, command, s->command);
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    bool good = json_is_object(o);
#define DASS__GET_INT(v, to) \
    (json_is_integer(v) && json_integer_value(v) >= 0 ? ((to) = json_integer_value(v), true) : false)
#define DASS__GET_REAL(v, to) (json_is_number(v) ? ((to) = json_number_value(v), true) : false)
#define X(type, name) good = good && DASS__GET_##type(json_object_get(o, #name), out->name);
    DASS__PROGRESS_MAP(X)
#undef X
    json_decref(o);
    if (!good)
        return DASS_FAIL(DASS_FORMAT, "%s: metadata progress is incomplete or no object of counts and sums", path);
    return DASS_OK;
}

/* The table of kept counts: the segments are the store's weights in order. */
static dass_status get_kept(dass__session *s, const char *path, const dass_st_file *f, dass_segment **out,
                            int64_t *n_out)
{
    const dass_st_tensor *t = dass_st_find(f, "kept");
    *out = NULL;
    *n_out = 0;
    if (t == NULL)
        return DASS_OK;
    dass_segment *segments = dass_arena_alloc(s->mem, (dass_store_n_params(s->store) + 1) * sizeof *segments);
    if (segments == NULL)
        return DASS_NOMEM;
    int64_t n = 0;
    for (uint32_t i = 0; i < dass_store_n_params(s->store); ++i) {
        const dass_param *p = dass_store_get(s->store, i);
        if (p->group == DASS_GROUP_W)
            segments[n++] = (dass_segment){.offset = p->offset, .count = p->count};
    }
    if (t->type != DASS_ST_I64 || t->rank != 1 || t->dim[0] != n)
        return DASS_FAIL(DASS_FORMAT, "%s: tensor 'kept' does not have one count for each of %lld weight tensors", path,
                         (long long)n);
    for (int64_t i = 0; i < n; ++i) {
        memcpy(&segments[i].kept, (const uint8_t *)t->data + (size_t)i * sizeof(int64_t), sizeof(int64_t));
        if (segments[i].kept < 0 || segments[i].kept > segments[i].count)
            return DASS_FAIL(DASS_FORMAT, "%s: tensor 'kept': %lld of the %lld weights of tensor %lld", path,
                             (long long)segments[i].kept, (long long)segments[i].count, (long long)i);
    }
    *out = segments;
    *n_out = n;
    return DASS_OK;
}

/* Whether the file has this buffer: whether it has the first parameter's tensor. */
static bool in_file(const dass__session *s, const dass_st_file *f, dass_group group, const char *prefix)
{
    char name[512];
    for (uint32_t i = 0; i < dass_store_n_params(s->store); ++i) {
        const dass_param *p = dass_store_get(s->store, i);
        if (p->group != group)
            continue;
        (void)snprintf(name, sizeof name, "%s%s", prefix, p->name);
        return dass_st_find(f, name) != NULL;
    }
    return false;
}

/* The file is looked through before anything is done with it: one that turns out to be damaged or of another network
 * must not leave half of itself, nor buffers that an older file does not know. */
static dass_status restore_state(dass__session *s, const char *path, const dass_st_file *f)
{
    uint64_t bufs = 0;
    dass_segment *segments = NULL;
    int64_t n_segments = 0;
    for (size_t i = 0; i < N_STATE; ++i) {
        if (in_file(s, f, state[i].group, state[i].prefix))
            bufs |= (uint64_t)1 << state[i].buf;
        else if (!committed(s, state[i].buf))
            continue;
        DASS_TRY(dass__tensors_values(f, path, s->store, state[i].group, state[i].prefix, true, NULL));
    }
    const bool mask = in_file(s, f, DASS_GROUP_W, "mask.");
    if (mask) {
        bufs |= (uint64_t)1 << DASS_BUF_BITS;
        DASS_TRY(dass__tensors_mask(f, path, s->store, NULL));
    }
    DASS_TRY(get_kept(s, path, f, &segments, &n_segments));
    DASS_TRY(dass_store_commit(s->store, s->be, bufs));
    for (size_t i = 0; i < N_STATE; ++i)
        if (committed(s, state[i].buf))
            DASS_TRY(dass__tensors_restore(f, path, s->store, state[i].group, state[i].buf, state[i].prefix, true));
    if (mask)
        DASS_TRY(dass__tensors_restore_mask(f, path, s->store));
    s->segments = segments;
    s->n_segments = n_segments;
    return DASS_OK;
}

/* One file, whole and of this network; what has fewer than `newer_than` epochs is not taken, which is no error. */
static dass_status take(dass__session *s, const char *path, int64_t newer_than, bool *taken)
{
    dass_st_file *f = NULL;
    dass__progress at = {0};
    *taken = false;
    DASS_TRY(dass_st_read(path, &f));
    dass_status st = get_progress(s, path, f, &at);
    if (st == DASS_OK && at.epochs_done >= newer_than) {
        st = restore_state(s, path, f);
        if (st == DASS_OK) {
            s->at = at;
            remember(s, path);
            *taken = true;
        }
    }
    dass_st_free(f);
    return st;
}

/* A damaged file is passed over, aloud; any other failure ends the search. */
static dass_status try_take(dass__session *s, const char *path, int64_t newer_than, int *n_damaged)
{
    bool taken = false;
    const dass_status st = take(s, path, newer_than, &taken);
    if (st == DASS_FORMAT) {
        dass_log(DASS_LOG_WARN, "%s; trying an older checkpoint", dass_error_text());
        dass_error_clear();
        ++*n_damaged;
        return DASS_OK;
    }
    s->resumed |= taken;
    return st;
}

dass_status dass__checkpoint_load(dass__session *s)
{
    char path[PATH_BYTES];
    dass_arena *mem = NULL;
    int64_t *list = NULL;
    size_t n = 0;
    int n_damaged = 0;
    bool there = false;
    dass_status st = DASS_OK;
    if (s->opt->out_dir == NULL)
        return DASS_OK;
    DASS_TRY(dass_arena_make("checkpoints", &mem));
    DASS_TRY_TO(list_epochs(s->opt->out_dir, mem, &list, &n), st, out);
    DASS_TRY_TO(dass_file_there(dass__in_folder(s, PARTIAL, path, sizeof path), &there), st, out);
    if (there)
        DASS_TRY_TO(try_take(s, path, n > 0 ? list[0] : 0, &n_damaged), st, out);
    const bool within = s->resumed;
    for (size_t i = 0; i < n && !s->resumed; ++i)
        DASS_TRY_TO(try_take(s, epoch_path(s, list[i], path, sizeof path), 0, &n_damaged), st, out);
    if (!s->resumed && n_damaged > 0)
        st = DASS_FAIL(DASS_FORMAT, "%s: all %d checkpoints are damaged; --restart begins anew", s->opt->out_dir,
                       n_damaged);
    else if (s->resumed && !within) /* a run that was killed here had not come to it */
        st = remove_old(s, (size_t)s->cfg->run_keep, false);
out:
    dass_arena_free(mem);
    return st;
}
