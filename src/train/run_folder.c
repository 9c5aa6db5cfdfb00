/* The run folder: what a command leaves behind and finds again.
 *
 *     config.yaml            every setting, its origin, build and command     written once, compared ever after
 *     run.json               command, build, seed, what it began from         the same
 *     metrics.jsonl          one object per epoch, and the test               cut back to the checkpoint on resuming
 *     alphas.jsonl           the alphas after each epoch of a search          the same
 *     times.jsonl            wall time, of every part of the run              only ever appended to
 *     genotype.json          the genotype so far                              replaced
 *     params.safetensors     the result; its presence says the run is complete
 *     checkpoint/            see checkpoint.c
 *     being_removed          only while --restart removes the run, which it may not live to end
 *
 * Invariants: what is in the folder belongs to one configuration of one command; another is refused, naming the key.
 * Nothing in it is written through a link. And only a file that is not there counts as absent: any other error says
 * nothing about the run, and ends the command before it touches one.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "session.h"
#include "dass/text.h"

#define PATH_BYTES 4096
#define IDENTITY_BYTES 65536 /* of run.json: a command line and two names */
#define MARK "being_removed"

/* Where the data lies, how often is saved and what is timed changes no result. */
static const dass_config_key free_keys[] = {DASS_KEY_data_path, DASS_KEY_data_resident, DASS_KEY_run_checkpoint_minutes,
                                            DASS_KEY_run_keep, DASS_KEY_bench_batch};

/* What --restart removes; and with .tmp behind it, what a killed process may have left of them. */
static const char *const own_files[] = {"config.yaml", "run.json",      "metrics.jsonl",     "alphas.jsonl",
                                        "times.jsonl", "genotype.json", "params.safetensors"};

const char *dass__in_folder(const dass__session *s, const char *file, char *buf, size_t n)
{
    (void)snprintf(buf, n, "%s/%s", s->opt->out_dir, file);
    return buf;
}

/* The kernel lets go of the lock when the process ends, however it ends. */
static dass_status lock_folder(dass__session *s)
{
    s->folder.lock = open(s->opt->out_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->folder.lock < 0)
        return DASS_FAIL(DASS_IO, "run folder %s: %s", s->opt->out_dir, strerror(errno));
    if (flock(s->folder.lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return DASS_FAIL(DASS_IO, "run folder %s: another dass is running in it; wait for it, or name another -o",
                         s->opt->out_dir);
    return DASS_OK; /* a file system without locks: go on */
}

dass_status dass__folder_sync(const dass__session *s)
{
    if (fsync(s->folder.lock) != 0 && errno != EINVAL)
        return DASS_FAIL(DASS_IO, "run folder %s: fsync: %s", s->opt->out_dir, strerror(errno));
    return DASS_OK;
}

/* ---- the configuration ---------------------------------------------------------------------------------------- */

/* The command as it was typed, as one line that people and JSON can read. */
static const char *command_line(const dass__session *s, char *buf, size_t n)
{
    const char *line = s->opt->command != NULL ? s->opt->command : s->command;
    const int wanted = snprintf(buf, n, "%s", line);
    if (wanted >= 0 && (size_t)wanted >= n)
        buf[dass_text_fit(buf, n - 4)] = '\0'; /* a character has at most four bytes */
    dass_text_clean(buf);
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
        char line[PATH_BYTES];
        size_t at = 0;
        at += (size_t)snprintf(text + at, size - at, "# %s\n# %s\n",
                               s->opt->build_id != NULL ? s->opt->build_id : "dass, unknown build",
                               command_line(s, line, sizeof line));
        for (dass_config_key k = 0; k < DASS_N_KEYS; ++k) {
            char value[DASS_CONFIG_PRINT_MAX];
            dass_config_print(s->cfg, k, value, sizeof value);
            at += (size_t)snprintf(text + at, size - at, "%s: %s # %s\n", dass_config_key_name(k), value,
                                   s->cfg->origin[k]);
        }
        char path[PATH_BYTES];
        st = dass_file_write(dass__in_folder(s, "config.yaml", path, sizeof path), text, at);
    }
    dass_arena_free(mem);
    return st;
}

static bool is_free(dass_config_key k)
{
    for (size_t i = 0; i < sizeof free_keys / sizeof *free_keys; ++i)
        if (free_keys[i] == k)
            return true;
    return false;
}

/* A run folder's settings, of which it has at least n. Fewer: the file was emptied or cut, and its defaults would pass
 * for what the run was begun with. */
static dass_status read_settings(const char *path, int64_t n, dass_config *out)
{
    int64_t given = 0;
    dass_config_defaults(out); /* a key that is newer than the folder has its default */
    DASS_TRY(dass_config_read(out, path));
    for (dass_config_key k = 0; k < DASS_N_KEYS; ++k)
        given += strcmp(out->origin[k], "default") != 0;
    if (given < n)
        return DASS_FAIL(DASS_FORMAT,
                         "%s gives %lld settings of the %lld that its run was begun with: the file was emptied or cut; "
                         "put it back",
                         path, (long long)given, (long long)n);
    return DASS_OK;
}

static dass_status compare_config(const dass__session *s, int64_t n)
{
    void *block = NULL;
    char path[PATH_BYTES];
    DASS_TRY(dass_mem_alloc(sizeof(dass_config), "configuration of the run folder", &block));
    dass_config *then = block;
    dass_status st = DASS_OK;
    DASS_TRY_TO(read_settings(dass__in_folder(s, "config.yaml", path, sizeof path), n, then), st, out);
    for (dass_config_key k = 0; k < DASS_N_KEYS; ++k) {
        char was[DASS_CONFIG_PRINT_MAX];
        char is[DASS_CONFIG_PRINT_MAX];
        dass_config_print(then, k, was, sizeof was);
        dass_config_print(s->cfg, k, is, sizeof is);
        if (is_free(k) || strcmp(was, is) == 0)
            continue;
        st = DASS_FAIL(DASS_CONFIG,
                       "%s: %s is %s, but the run in %s was begun with %s: set it back to go on, name another -o, or "
                       "give --restart to begin anew",
                       s->cfg->origin[k], dass_config_key_name(k), is, s->opt->out_dir, was);
        goto out;
    }
out:
    dass_mem_free(block);
    return st;
}

/* ---- run.json ------------------------------------------------------------------------------------------------- */

/* What identifies the parameters that a run began from: the hash their file carries. */
static const char *origin_hash(const dass_params *from)
{
    const char *hash = from != NULL ? dass_st_get(from->file, "xxh64") : NULL;
    return hash != NULL ? hash : "";
}

static dass_status save_identity(const dass__session *s, const dass_params *from)
{
    char path[PATH_BYTES];
    char line[PATH_BYTES];
    char source[PATH_BYTES];
    (void)snprintf(source, sizeof source, "%s", from != NULL ? from->path : "");
    dass_text_clean(source);
    json_t *o = json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s}", "command", s->command, "build",
                          s->opt->build_id != NULL ? s->opt->build_id : "unknown", "line",
                          command_line(s, line, sizeof line), "seed", (json_int_t)s->cfg->run_seed, "settings",
                          (json_int_t)DASS_N_KEYS, "from", source, "from_xxh64", origin_hash(from));
    char *text = o != NULL ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    if (text == NULL)
        return DASS_FAIL(DASS_NOMEM, "%s: no memory for run.json", s->opt->out_dir);
    const dass_status st = dass_file_write(dass__in_folder(s, "run.json", path, sizeof path), text, strlen(text));
    json_free_t release = NULL;
    json_get_alloc_funcs(NULL, &release);
    release(text);
    return st;
}

/* *out: an object, for json_decref. */
static dass_status read_identity(const char *path, json_t **out)
{
    void *text = NULL;
    size_t n = 0;
    json_error_t error;
    DASS_TRY(dass_file_read(path, IDENTITY_BYTES, "identity of the run", &text, &n));
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    dass_mem_free(text);
    if (*out == NULL)
        return DASS_FAIL(DASS_FORMAT, "%s: line %d: %s; --restart begins anew", path, error.line, error.text);
    return DASS_OK;
}

/* What config.yaml must hold; an older folder does not say. */
static int64_t count_settings(const json_t *identity)
{
    const json_int_t n = json_integer_value(json_object_get(identity, "settings"));
    return n > 0 ? n : 1;
}

/* *n_settings: how many config.yaml must hold. */
static dass_status compare_identity(const dass__session *s, const dass_params *from, int64_t *n_settings)
{
    char path[PATH_BYTES];
    json_t *o = NULL;
    DASS_TRY(read_identity(dass__in_folder(s, "run.json", path, sizeof path), &o));
    *n_settings = count_settings(o);
    const char *command = json_string_value(json_object_get(o, "command"));
    const char *hash = json_string_value(json_object_get(o, "from_xxh64"));
    const char *build = json_string_value(json_object_get(o, "build"));
    dass_status st = DASS_OK;
    if (command == NULL || hash == NULL || build == NULL)
        st = DASS_FAIL(DASS_FORMAT, "%s: no command, build or from_xxh64; --restart begins anew", path);
    else if (strcmp(command, s->command) != 0)
        st = DASS_FAIL(DASS_CONFIG,
                       "-o %s holds a run of `dass %s`; name another folder, or give --restart to begin anew",
                       s->opt->out_dir, command);
    else if (strcmp(hash, origin_hash(from)) != 0)
        st = DASS_FAIL(DASS_CONFIG,
                       "%s is not the file that the run in %s began from (content %s, then %s); name another -o, or "
                       "give --restart to begin anew",
                       from != NULL ? from->path : "nothing", s->opt->out_dir, origin_hash(from), hash);
    else if (s->opt->build_id != NULL && strcmp(build, s->opt->build_id) != 0)
        dass_log(DASS_LOG_WARN, "%s was begun by %s; this is %s: the rest of the run may differ in rounding",
                 s->opt->out_dir, build, s->opt->build_id);
    json_decref(o);
    return st;
}

dass_status dass_run_settings(const char *folder, dass_config *c, bool *found)
{
    char path[PATH_BYTES];
    int64_t n_settings = 1;
    bool has_identity = false;
    const int n = snprintf(path, sizeof path, "%s/config.yaml", folder);
    if (n < 0 || (size_t)n >= sizeof path)
        return DASS_FAIL(DASS_ARG, "a folder name of %zu characters", strlen(folder));
    DASS_TRY(dass_file_there(path, found));
    if (!*found)
        return DASS_OK;
    (void)snprintf(path, sizeof path, "%s/run.json", folder);
    DASS_TRY(dass_file_there(path, &has_identity));
    if (has_identity) {
        json_t *o = NULL;
        DASS_TRY(read_identity(path, &o));
        n_settings = count_settings(o);
        json_decref(o);
    }
    (void)snprintf(path, sizeof path, "%s/config.yaml", folder);
    return read_settings(path, n_settings, c);
}

/* ---- opening -------------------------------------------------------------------------------------------------- */

static dass_status remove_file(const char *path)
{
    if (unlink(path) != 0 && errno != ENOENT)
        return DASS_FAIL(DASS_IO, "%s: cannot remove it: %s", path, strerror(errno));
    return DASS_OK;
}

static dass_status sweep(const dass__session *s)
{
    char path[PATH_BYTES];
    char file[64];
    for (size_t i = 0; i < sizeof own_files / sizeof *own_files; ++i) {
        (void)snprintf(file, sizeof file, "%s.tmp", own_files[i]);
        DASS_TRY(remove_file(dass__in_folder(s, file, path, sizeof path)));
    }
    DASS_TRY(remove_file(dass__in_folder(s, MARK ".tmp", path, sizeof path)));
    return dass__checkpoint_sweep(s);
}

/* Removes the run. Whoever is killed in the middle leaves a folder that says so: half a run could be taken for one, or
 * for something that is none of ours. */
static dass_status forget(dass__session *s)
{
    static const char text[] = "The run in this folder is being removed; give --restart again.\n";
    char path[PATH_BYTES];
    DASS_TRY(dass_file_write(dass__in_folder(s, MARK, path, sizeof path), text, sizeof text - 1));
    DASS_TRY(dass__checkpoint_forget(s));
    for (size_t i = 0; i < sizeof own_files / sizeof *own_files; ++i)
        DASS_TRY(remove_file(dass__in_folder(s, own_files[i], path, sizeof path)));
    DASS_TRY(sweep(s));
    DASS_TRY(dass__folder_sync(s));
    DASS_TRY(remove_file(dass__in_folder(s, MARK, path, sizeof path)));
    return DASS_OK;
}

static dass_status go_on(const dass__session *s, const dass_params *from)
{
    int64_t n_settings = 0;
    DASS_TRY(compare_identity(s, from, &n_settings));
    DASS_TRY(compare_config(s, n_settings));
    return sweep(s);
}

dass_status dass__folder_open(dass__session *s, const dass_params *from)
{
    char path[PATH_BYTES];
    bool there = false;
    s->folder.lock = -1;
    if (s->opt->out_dir == NULL)
        return DASS_OK;
    if (strlen(s->opt->out_dir) + 64 > sizeof path)
        return DASS_FAIL(DASS_ARG, "-o: a folder name of %zu characters", strlen(s->opt->out_dir));
    DASS_TRY(dass_folder_make(s->opt->out_dir));
    DASS_TRY(lock_folder(s));
    if (s->opt->restart)
        DASS_TRY(forget(s));
    DASS_TRY(dass_file_there(dass__in_folder(s, MARK, path, sizeof path), &there));
    if (there)
        return DASS_FAIL(DASS_CONFIG,
                         "-o %s: --restart was stopped while it removed the run in it; give --restart again, or name "
                         "another folder",
                         s->opt->out_dir);
    DASS_TRY(dass_file_there(dass__in_folder(s, "run.json", path, sizeof path), &there));
    if (there)
        return go_on(s, from);
    /* run.json is written last: without it the folder is empty, or holds files that no run of ours can go on from. */
    DASS_TRY(dass_file_there(dass__in_folder(s, "params.safetensors", path, sizeof path), &there));
    if (there)
        return DASS_FAIL(DASS_CONFIG,
                         "-o %s: %s is there but no run.json: not a run of this program; name another "
                         "folder, or give --restart to replace it",
                         s->opt->out_dir, path);
    DASS_TRY(save_config(s));
    DASS_TRY(save_identity(s, from));
    return DASS_OK;
}

/* A log, cut to the bytes that the checkpoint knows. */
static dass_status open_log(const dass__session *s, const char *file, int64_t bytes, FILE **out)
{
    char path[PATH_BYTES];
    struct stat sb;
    int fd = -1;
    DASS_TRY(dass_file_create(dass__in_folder(s, file, path, sizeof path), O_APPEND, &fd));
    *out = fdopen(fd, "a");
    if (*out == NULL) {
        const dass_status st = DASS_FAIL(DASS_IO, "%s: %s", path, strerror(errno));
        (void)close(fd);
        return st;
    }
    if (bytes < 0)
        return DASS_OK;
    if (fstat(fileno(*out), &sb) != 0)
        return DASS_FAIL(DASS_IO, "%s: %s", path, strerror(errno));
    if (sb.st_size < bytes)
        return DASS_FAIL(DASS_FORMAT,
                         "%s has %lld bytes, the checkpoint knows of %lld: the file was changed; --restart "
                         "begins anew",
                         path, (long long)sb.st_size, (long long)bytes);
    if (ftruncate(fileno(*out), bytes) != 0)
        return DASS_FAIL(DASS_IO, "%s: %s", path, strerror(errno));
    return DASS_OK;
}

dass_status dass__folder_logs(dass__session *s)
{
    if (s->opt->out_dir == NULL)
        return DASS_OK;
    DASS_TRY(open_log(s, "metrics.jsonl", s->at.metrics_bytes, &s->folder.metrics));
    DASS_TRY(open_log(s, "times.jsonl", -1, &s->folder.times));
    if (dass_store_count(s->store, DASS_GROUP_ALPHA) > 0)
        DASS_TRY(open_log(s, "alphas.jsonl", s->at.alphas_bytes, &s->folder.alphas));
    DASS_TRY(dass__folder_sync(s));
    return DASS_OK;
}

void dass__folder_close(dass__session *s)
{
    FILE *const logs[] = {s->folder.metrics, s->folder.alphas, s->folder.times};
    for (size_t i = 0; i < sizeof logs / sizeof *logs; ++i)
        if (logs[i] != NULL)
            (void)fclose(logs[i]);
    if (s->opt != NULL && s->opt->out_dir != NULL && s->folder.lock >= 0)
        (void)close(s->folder.lock);
    s->folder = (dass__folder){.lock = -1};
}

/* ---- files ---------------------------------------------------------------------------------------------------- */

static dass_status write_line(const dass__session *s, FILE *f, json_t *line, int64_t *bytes)
{
    if (f == NULL) {
        json_decref(line);
        return DASS_OK;
    }
    const size_t n = json_dumpb(line, NULL, 0, JSON_COMPACT | JSON_REAL_PRECISION(9));
    const int bad = n == 0 || json_dumpf(line, f, JSON_COMPACT | JSON_REAL_PRECISION(9)) != 0;
    json_decref(line);
    if (bad || fputc('\n', f) == EOF || fflush(f) != 0)
        return DASS_FAIL(DASS_IO, "%s: writing a line of metrics failed: %s", s->opt->out_dir, strerror(errno));
    if (bytes != NULL)
        *bytes += (int64_t)n + 1;
    return DASS_OK;
}

dass_status dass__metrics_line(dass__session *s, json_t *line)
{
    return write_line(s, s->folder.metrics, line, &s->at.metrics_bytes);
}

dass_status dass__alphas_line(dass__session *s, json_t *line)
{
    return write_line(s, s->folder.alphas, line, &s->at.alphas_bytes);
}

dass_status dass__times_line(dass__session *s, const char *stage)
{
    const int64_t steps = s->at.steps_done - s->timed_steps;
    const double now = dass_now_sec();
    const double sec = now - s->timed;
    if (s->folder.times == NULL || steps <= 0)
        return DASS_OK;
    s->timed = now;
    s->timed_steps = s->at.steps_done;
    json_t *line =
        json_pack("{s:s, s:I, s:I, s:f, s:f}", "stage", stage, "epoch", (json_int_t)s->at.epochs_done, "steps",
                  (json_int_t)steps, "seconds", sec, "images_per_s", (double)steps * (double)s->cfg->train_batch / sec);
    return line == NULL ? DASS_FAIL(DASS_NOMEM, "no memory for a line of times")
                        : write_line(s, s->folder.times, line, NULL);
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
    const dass_status st =
        line == NULL ? DASS_NOMEM
                     : dass_file_write(dass__in_folder(s, "genotype.json", path, sizeof path), line, strlen(line));
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
    const dass_status st =
        dass_params_save(dass__in_folder(s, "params.safetensors", path, sizeof path), s->store, &info, mask, mask);
    if (st == DASS_NUMERIC) /* the text says which tensor */
        return DASS_FAIL(st, "%s: %s: %s is not written; lower the learning rate; %s/%s is intact", s->command,
                         dass_error_text(), path, s->opt->out_dir, s->saved);
    return st;
}
