/* Checkpoints: everything that the next step depends on and that the configuration does not already say, in one
 * safetensors file. Parameters, momenta, Adam's moments, scores, mask bits, running statistics, averages, the table of
 * kept counts, and progress. Not here: gradients and masked weights, which each step makes anew; random states, which
 * do not exist (every draw is a function of seed, epoch and sample).
 *
 * Invariant: a run that goes on from a checkpoint writes the same bytes as one that was never stopped. So what is saved
 * depends on the state alone: on no clock, on no path.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "session.h"
#include "tensors.h"

#define FORMAT_WORD "dass-checkpoint-1"
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
    DASS_TRY(dass__writer_meta(w, "format", FORMAT_WORD));
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

static dass_status write_state(dass__session *s, const char *path)
{
    dass__tensor_writer w;
    dass_status st = DASS_OK;
    DASS_TRY(dass__writer_open(s->store, N_STATE + 1, &w));
    DASS_TRY_TO(add_progress(s, &w), st, out);
    DASS_TRY_TO(add_kept(s, &w), st, out);
    for (size_t i = 0; i < N_STATE; ++i)
        if (committed(s, state[i].buf))
            DASS_TRY_TO(dass__writer_group(&w, state[i].group, state[i].buf, state[i].prefix, true), st, out);
    if (committed(s, DASS_BUF_BITS))
        DASS_TRY_TO(dass__writer_mask(&w), st, out);
    DASS_TRY_TO(dass_st_write(path, &w.file), st, out);
out:
    dass__writer_close(&w);
    return st;
}

static const char *epoch_path(const dass__session *s, int64_t number, char *buf, size_t n)
{
    char file[64];
    (void)snprintf(file, sizeof file, FOLDER "/epoch-%06" PRId64 ".safetensors", number);
    return dass__in_folder(s, file, buf, n);
}

/* Numbers of the epochs that have a checkpoint, newest first. Names that are not ours are left alone. */
static dass_status list_epochs(const dass__session *s, dass_arena *mem, int64_t **out, size_t *n_out)
{
    char path[PATH_BYTES];
    size_t n = 0;
    size_t room = 64;
    *out = NULL;
    *n_out = 0;
    DIR *d = opendir(dass__in_folder(s, FOLDER, path, sizeof path));
    if (d == NULL)
        return errno == ENOENT ? DASS_OK : DASS_FAIL(DASS_IO, "%s: %s", path, strerror(errno));
    int64_t *list = dass_arena_alloc(mem, room * sizeof *list);
    for (const struct dirent *e = readdir(d); list != NULL && e != NULL; e = readdir(d)) {
        int64_t number = 0;
        int end = 0;
        if (sscanf(e->d_name, "epoch-%" SCNd64 ".safetensors%n", &number, &end) != 1 || end == 0 ||
            e->d_name[end] != '\0' || number < 0)
            continue;
        if (n == room) {
            int64_t *more = dass_arena_alloc(mem, 2 * room * sizeof *more);
            if (more != NULL)
                memcpy(more, list, n * sizeof *list);
            list = more;
            room *= 2;
        }
        if (list == NULL)
            break;
        size_t at = n++; /* insertion: there are a handful */
        for (; at > 0 && list[at - 1] < number; --at)
            list[at] = list[at - 1];
        list[at] = number;
    }
    (void)closedir(d);
    *out = list;
    *n_out = n;
    return list != NULL ? DASS_OK : DASS_FAIL(DASS_NOMEM, "no memory to list %s", path);
}

/* All but the newest `keep`, and the partial one. */
static dass_status remove_old(const dass__session *s, size_t keep)
{
    char path[PATH_BYTES];
    dass_arena *mem = NULL;
    int64_t *list = NULL;
    size_t n = 0;
    dass_status st = DASS_OK;
    DASS_TRY(dass_arena_make("checkpoints", &mem));
    DASS_TRY_TO(list_epochs(s, mem, &list, &n), st, out);
    for (size_t i = keep; i < n; ++i)
        if (unlink(epoch_path(s, list[i], path, sizeof path)) != 0 && errno != ENOENT)
            dass_log(DASS_LOG_WARN, "%s: cannot remove this old checkpoint: %s", path, strerror(errno));
    if (unlink(dass__in_folder(s, PARTIAL, path, sizeof path)) != 0 && errno != ENOENT)
        dass_log(DASS_LOG_WARN, "%s: cannot remove this old checkpoint: %s", path, strerror(errno));
out:
    dass_arena_free(mem);
    return st;
}

dass_status dass__checkpoint_sweep(const dass__session *s)
{
    static const char end[] = ".safetensors.tmp";
    char path[PATH_BYTES];
    DIR *d = opendir(dass__in_folder(s, FOLDER, path, sizeof path));
    if (d == NULL)
        return errno == ENOENT ? DASS_OK : DASS_FAIL(DASS_IO, "%s: %s", path, strerror(errno));
    dass_status st = DASS_OK;
    for (const struct dirent *e = readdir(d); st == DASS_OK && e != NULL; e = readdir(d)) {
        const size_t n = strlen(e->d_name);
        const bool ours = strncmp(e->d_name, "epoch-", 6) == 0 || strncmp(e->d_name, "partial.", 8) == 0;
        if (ours && n > sizeof end && strcmp(e->d_name + n + 1 - sizeof end, end) == 0 &&
            unlinkat(dirfd(d), e->d_name, 0) != 0 && errno != ENOENT)
            st =
                DASS_FAIL(DASS_IO, "%s/%s: cannot remove what a killed run left: %s", path, e->d_name, strerror(errno));
    }
    (void)closedir(d);
    return st;
}

dass_status dass__checkpoint_forget(dass__session *s)
{
    return remove_old(s, 0);
}

dass_status dass__checkpoint_save(dass__session *s, bool partial)
{
    char path[PATH_BYTES];
    if (s->opt->out_dir == NULL)
        return DASS_OK;
    if (mkdir(dass__in_folder(s, FOLDER, path, sizeof path), 0777) != 0 && errno != EEXIST)
        return DASS_FAIL(DASS_IO, "%s: %s", path, strerror(errno));
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
    if (!partial)
        DASS_TRY(remove_old(s, (size_t)s->cfg->run_keep));
    s->last_saved = dass_now_sec();
    return DASS_OK;
}

/* ---- loading -------------------------------------------------------------------------------------------------- */

static dass_status get_progress(const dass__session *s, const char *path, const dass_st_file *f, dass__progress *out)
{
    const char *format = dass_st_get(f, "format");
    const char *command = dass_st_get(f, "command");
    const char *text = dass_st_get(f, "progress");
    if (format == NULL || strcmp(format, FORMAT_WORD) != 0 || command == NULL || text == NULL)
        return DASS_FAIL(DASS_FORMAT,
                         "%s: not a checkpoint of this program (metadata format is '%s', not " FORMAT_WORD ")", path,
                         format != NULL ? format : "");
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
static dass_status get_kept(dass__session *s, const char *path, const dass_st_file *f)
{
    const dass_st_tensor *t = dass_st_find(f, "kept");
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
    s->segments = segments;
    s->n_segments = n;
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

static dass_status restore_state(dass__session *s, const char *path, const dass_st_file *f)
{
    uint64_t bufs = 0;
    for (size_t i = 0; i < N_STATE; ++i)
        if (in_file(s, f, state[i].group, state[i].prefix))
            bufs |= (uint64_t)1 << state[i].buf;
    const bool mask = in_file(s, f, DASS_GROUP_W, "mask.");
    if (mask)
        bufs |= (uint64_t)1 << DASS_BUF_BITS;
    DASS_TRY(dass_store_commit(s->store, s->be, bufs));
    for (size_t i = 0; i < N_STATE; ++i)
        if (committed(s, state[i].buf))
            DASS_TRY(dass__tensors_restore(f, path, s->store, state[i].group, state[i].buf, state[i].prefix, true));
    if (mask)
        DASS_TRY(dass__tensors_restore_mask(f, path, s->store));
    DASS_TRY(get_kept(s, path, f));
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
    struct stat sb;
    dass_status st = DASS_OK;
    if (s->opt->out_dir == NULL)
        return DASS_OK;
    DASS_TRY(dass_arena_make("checkpoints", &mem));
    DASS_TRY_TO(list_epochs(s, mem, &list, &n), st, out);
    if (stat(dass__in_folder(s, PARTIAL, path, sizeof path), &sb) == 0)
        DASS_TRY_TO(try_take(s, path, n > 0 ? list[0] : 0, &n_damaged), st, out);
    const bool within = s->resumed;
    for (size_t i = 0; i < n && !s->resumed; ++i)
        DASS_TRY_TO(try_take(s, epoch_path(s, list[i], path, sizeof path), 0, &n_damaged), st, out);
    if (!s->resumed && n_damaged > 0)
        st = DASS_FAIL(DASS_FORMAT, "%s: all %d checkpoints are damaged; --restart begins anew", s->opt->out_dir,
                       n_damaged);
    else if (s->resumed && !within) /* a run that was killed here had not come to it */
        st = remove_old(s, (size_t)s->cfg->run_keep);
out:
    dass_arena_free(mem);
    return st;
}
