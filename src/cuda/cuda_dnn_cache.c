/* Finished plans on disk, so that engines that are compiled for a shape are compiled once. Not a database: one file per
 * plan, and any file may go at any time. Invariant: a plan is only taken from a file whose name, key and hash agree.
 */
#include "cuda_dnn_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "dass/file.h"
#include "dass/mem.h"

/* A file is a line "dass cudnn plan 1 KEY HASH BYTES" and the plan's JSON, of BYTES bytes and hash HASH. KEY says what
 * the plan is for and is the file's name too. */
#define CACHE_LINE "dass cudnn plan 1 %016llx %016llx %zu\n"

static unsigned long long hash(const char *text, size_t n)
{
    return (unsigned long long)XXH64(text, n, 0);
}

/* Everything that decides which plan comes out. */
unsigned long long dass__dnn_cache_key(const dass__dnn *d, const dass__dnn_conv *c)
{
    char conv[DASS__DNN_TEXT], rest[128];
    (void)dass__dnn_conv_text(c, conv, sizeof conv);
    (void)snprintf(rest, sizeof rest, "cudnn=%zu ws=%zu deterministic=%d x=%d w=%d y=%d", cudnnGetVersion(),
                   d->ws_limit, d->deterministic, (int)dass__dnn_type(c, DASS__DNN_X),
                   (int)dass__dnn_type(c, DASS__DNN_W), (int)dass__dnn_type(c, DASS__DNN_Y));
    XXH64_state_t s;
    (void)XXH64_reset(&s, 0);
    const char *const part[] = {conv, d->device_json, rest};
    for (size_t i = 0; i < sizeof part / sizeof *part; ++i)
        (void)XXH64_update(&s, part[i], strlen(part[i]) + 1);
    return (unsigned long long)XXH64_digest(&s);
}

dass_status dass__dnn_cache_path(const dass__dnn *d, unsigned long long key, char *path, size_t n)
{
    const int len = snprintf(path, n, "%s/cudnn-%016llx.plan", d->cache_dir, key);
    if (len < 0 || (size_t)len >= n)
        return DASS_FAIL(DASS_ARG, "path of the plan cache is too long: %.60s...", d->cache_dir);
    return DASS_OK;
}

/* The whole file as a NUL-ended block; *out stays NULL when there is none. */
static dass_status read_file(const char *path, char **out, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL) {
        if (errno == ENOENT)
            return DASS_OK;
        return DASS_FAIL(DASS_IO, "%s: %s", path, strerror(errno));
    }
    struct stat sb;
    void *block = NULL;
    dass_status st = DASS_OK;
    if (fstat(fileno(f), &sb) != 0 || !S_ISREG(sb.st_mode) || sb.st_size <= 0 ||
        (size_t)sb.st_size > DASS__DNN_PLAN_MAX)
        st = DASS_FAIL(DASS_FORMAT, "%s is not a file of 1 to %zu bytes", path, DASS__DNN_PLAN_MAX);
    if (st == DASS_OK)
        st = dass_mem_alloc((size_t)sb.st_size + 1, "cached plan", &block);
    if (st == DASS_OK && fread(block, 1, (size_t)sb.st_size, f) != (size_t)sb.st_size) {
        st = DASS_FAIL(DASS_IO, "%s: cannot be read whole", path);
        dass_mem_free(block);
    }
    (void)fclose(f);
    if (st == DASS_OK) {
        *out = block;
        *n = (size_t)sb.st_size;
    }
    return st;
}

/* The JSON in a file, or NULL when the file is damaged or for another plan. */
static const char *cache_body(const char *file, size_t n, unsigned long long key, size_t *n_body)
{
    const char *const end = memchr(file, '\n', n);
    if (end == NULL)
        return NULL;
    const char *const body = end + 1;
    *n_body = n - (size_t)(body - file);
    char line[128];
    const int len = snprintf(line, sizeof line, CACHE_LINE, key, hash(body, *n_body), *n_body);
    return len == (int)(body - file) && memcmp(file, line, (size_t)len) == 0 ? body : NULL;
}

dass_status dass__dnn_cache_load(const dass__dnn *d, dass__dnn_plan *p, unsigned long long key, const char *path)
{
    char *file = NULL;
    size_t n = 0, n_body = 0;
    DASS_TRY(read_file(path, &file, &n));
    if (file == NULL)
        return DASS_OK;
    const char *const body = cache_body(file, n, key, &n_body);
    const dass_status st = body != NULL ? dass__dnn_plan_of_text(d, p, body, n_body)
                                        : DASS_FAIL(DASS_FORMAT, "it is damaged or of another version");
    p->cached = st == DASS_OK;
    dass_mem_free(file);
    return st;
}

dass_status dass__dnn_cache_save(const dass__dnn_plan *p, unsigned long long key, const char *path)
{
    char *json = NULL, line[128];
    DASS_TRY(dass__dnn_text_of(p->plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, "plan", &json));
    const size_t n = strlen(json);
    const int len = snprintf(line, sizeof line, CACHE_LINE, key, hash(json, n), n);
    const dass_status st = dass_file_write_parts(path, (const dass_file_part[]){{line, (size_t)len}, {json, n}}, 2);
    dass_mem_free(json);
    return st;
}
