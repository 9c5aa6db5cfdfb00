/* Sequential reading of plain, gzip and xz files: zlib and liblzma behind one interface. Not a general input layer:
 * no seeking, no writing. Invariant: offsets count bytes of the decompressed stream, and an error names file and
 * offset.
 */
#include "reader.h"

#include <errno.h>
#include <limits.h>
#include <lzma.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#include "dass/mem.h"

#define LZMA_MEMORY ((uint64_t)256 << 20) /* largest dictionary accepted: xz -9 needs 65 MiB */
#define IN_BYTES ((size_t)1 << 16)

struct dass__reader {
    char path[DASS__PATH_MAX];
    int64_t offset, file_bytes;
    gzFile gz; /* plain and gzip files: zlib passes plain ones through */
    FILE *xz;  /* xz files */
    lzma_stream lz;
    bool lz_ready, lz_ended;
    uint8_t in[IN_BYTES];
};

/* Find which variant of the file exists. */
static dass_status find_file(const char *path, const char *hint, dass__reader *r)
{
    static const char *const suffix[] = {"", ".gz", ".xz"};
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; ++i) {
        const int n = snprintf(r->path, sizeof r->path, "%s%s", path, suffix[i]);
        if (n < 0 || (size_t)n >= sizeof r->path)
            return DASS_FAIL(DASS_ARG, "path of %zu characters is too long: %.60s...", strlen(path), path);
        struct stat sb;
        if (stat(r->path, &sb) == 0) {
            if (!S_ISREG(sb.st_mode))
                return DASS_FAIL(DASS_IO, "%s is not a regular file", r->path);
            r->file_bytes = sb.st_size;
            return DASS_OK;
        }
        if (errno != ENOENT && errno != ENOTDIR)
            return DASS_FAIL(DASS_IO, "%s: %s", r->path, strerror(errno));
    }
    return DASS_FAIL(DASS_IO, "%s (plain, .gz or .xz) does not exist: %s", path, hint);
}

static dass_status open_xz(dass__reader *r)
{
    r->xz = fopen(r->path, "rb");
    if (r->xz == NULL)
        return DASS_FAIL(DASS_IO, "%s: %s", r->path, strerror(errno));
    r->lz = (lzma_stream)LZMA_STREAM_INIT;
    if (lzma_stream_decoder(&r->lz, LZMA_MEMORY, LZMA_CONCATENATED) != LZMA_OK)
        return DASS_FAIL(DASS_NOMEM, "%s: no memory for the xz decoder", r->path);
    r->lz_ready = true;
    return DASS_OK;
}

dass_status dass__reader_open(const char *path, const char *hint, dass__reader **out)
{
    *out = NULL;
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass__reader), "file reader", &block));
    dass__reader *r = block;
    dass_status st = DASS_OK;
    DASS_TRY_TO(find_file(path, hint, r), st, fail);

    FILE *f = fopen(r->path, "rb");
    if (f == NULL) {
        st = DASS_FAIL(DASS_IO, "%s: %s", r->path, strerror(errno));
        goto fail;
    }
    static const uint8_t magic[6] = {0xFD, '7', 'z', 'X', 'Z', 0};
    uint8_t head[sizeof magic] = {0};
    const size_t n_head = fread(head, 1, sizeof head, f);
    (void)fclose(f);
    if (n_head == sizeof magic && memcmp(head, magic, sizeof magic) == 0) {
        DASS_TRY_TO(open_xz(r), st, fail);
    } else {
        r->gz = gzopen(r->path, "rb");
        if (r->gz == NULL) {
            st = DASS_FAIL(DASS_IO, "%s: %s", r->path, errno != 0 ? strerror(errno) : "no memory for zlib");
            goto fail;
        }
        (void)gzbuffer(r->gz, 1u << 17);
    }
    *out = r;
    return DASS_OK;
fail:
    dass__reader_close(r);
    return st;
}

void dass__reader_close(dass__reader *r)
{
    if (r == NULL)
        return;
    if (r->gz != NULL)
        (void)gzclose_r(r->gz);
    if (r->lz_ready)
        lzma_end(&r->lz);
    if (r->xz != NULL)
        (void)fclose(r->xz);
    dass_mem_free(r);
}

const char *dass__reader_path(const dass__reader *r)
{
    return r->path;
}

int64_t dass__reader_offset(const dass__reader *r)
{
    return r->offset;
}

int64_t dass__reader_file_bytes(const dass__reader *r)
{
    return r->file_bytes;
}

static dass_status some_gz(dass__reader *r, uint8_t *dst, size_t bytes, size_t *got)
{
    while (*got < bytes) {
        const size_t left = bytes - *got;
        const unsigned chunk = left < (1u << 30) ? (unsigned)left : 1u << 30;
        const int n = gzread(r->gz, dst + *got, chunk);
        if (n > 0) {
            *got += (size_t)n;
            continue;
        }
        int code = Z_OK;
        const char *text = gzerror(r->gz, &code);
        const long long at = (long long)(r->offset + (int64_t)*got);
        if (code == Z_ERRNO)
            return DASS_FAIL(DASS_IO, "%s: read failed at byte %lld: %s", r->path, at, strerror(errno));
        if (code == Z_MEM_ERROR)
            return DASS_FAIL(DASS_NOMEM, "%s: no memory for zlib", r->path);
        if (n < 0 || code == Z_BUF_ERROR)
            return DASS_FAIL(DASS_FORMAT,
                             "%s: damaged or truncated gzip stream at byte %lld of its content (%s): "
                             "fetch the file again",
                             r->path, at, text);
        break;
    }
    return DASS_OK;
}

static dass_status some_xz(dass__reader *r, uint8_t *dst, size_t bytes, size_t *got)
{
    r->lz.next_out = dst;
    r->lz.avail_out = bytes;
    while (r->lz.avail_out > 0 && !r->lz_ended) {
        if (r->lz.avail_in == 0 && !feof(r->xz)) {
            r->lz.next_in = r->in;
            r->lz.avail_in = fread(r->in, 1, IN_BYTES, r->xz);
            if (ferror(r->xz))
                return DASS_FAIL(DASS_IO, "%s: read failed: %s", r->path, strerror(errno));
        }
        const lzma_ret ret = lzma_code(&r->lz, feof(r->xz) ? LZMA_FINISH : LZMA_RUN);
        if (ret == LZMA_STREAM_END) {
            r->lz_ended = true;
        } else if (ret != LZMA_OK) {
            const long long at = (long long)(r->offset + (int64_t)(bytes - r->lz.avail_out));
            if (ret == LZMA_MEM_ERROR || ret == LZMA_MEMLIMIT_ERROR)
                return DASS_FAIL(DASS_NOMEM, "%s: the xz stream wants more than %llu MiB", r->path,
                                 (unsigned long long)(LZMA_MEMORY >> 20));
            return DASS_FAIL(DASS_FORMAT,
                             "%s: damaged or truncated xz stream at byte %lld of its content (liblzma "
                             "code %d): fetch the file again",
                             r->path, at, (int)ret);
        }
    }
    *got = bytes - r->lz.avail_out;
    return DASS_OK;
}

dass_status dass__reader_some(dass__reader *r, void *dst, size_t bytes, size_t *got)
{
    *got = 0;
    if (r->gz != NULL)
        DASS_TRY(some_gz(r, dst, bytes, got));
    else
        DASS_TRY(some_xz(r, dst, bytes, got));
    r->offset += (int64_t)*got;
    return DASS_OK;
}

dass_status dass__reader_exact(dass__reader *r, void *dst, size_t bytes, const char *what)
{
    size_t got = 0;
    DASS_TRY(dass__reader_some(r, dst, bytes, &got));
    if (got != bytes)
        return DASS_FAIL(DASS_FORMAT,
                         "%s: ends at byte %lld, inside %s (%zu of %zu bytes): the file is truncated, "
                         "fetch it again",
                         r->path, (long long)r->offset, what, got, bytes);
    return DASS_OK;
}

dass_status dass__reader_end(dass__reader *r)
{
    uint8_t extra = 0;
    size_t got = 0;
    const long long at = (long long)r->offset;
    DASS_TRY(dass__reader_some(r, &extra, 1, &got));
    if (got != 0)
        return DASS_FAIL(DASS_FORMAT, "%s: unexpected data after byte %lld: the header announces less", r->path, at);
    return DASS_OK;
}
