/* Sequential reading of plain, gzip and xz files, or of bytes in memory that are such a file: zlib and liblzma behind
 * one interface. Not a general input layer: no seeking, no writing. Invariant: offsets count bytes of the decompressed
 * stream, and an error names file and offset; a compressed stream counts as read only when its checksum was right.
 */
#include "reader.h"

#include <errno.h>
#include <limits.h>
#include <lzma.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#define ZLIB_CONST
#include <zlib.h>

#include "dass/mem.h"

#define LZMA_MEMORY ((uint64_t)256 << 20) /* largest dictionary accepted: xz -9 needs 65 MiB */
#define IN_BYTES ((size_t)1 << 16)

typedef enum packing { PLAIN, GZIP, XZ } packing;

struct dass__reader {
    char path[DASS__PATH_MAX];
    int64_t offset, file_bytes;
    FILE *file;              /* NULL: the bytes are in memory */
    const uint8_t *next;     /* input not yet decoded: in `in`, or in the caller's memory */
    size_t avail;            /* bytes of it */
    bool no_more;            /* the file has no more than these */
    bool gz_ready, lz_ready; /* the decoder exists */
    bool between;            /* a gzip member has ended, and no other has begun */
    bool ended;              /* nothing more will come out of the decoder */
    packing kind;
    z_stream gz;
    lzma_stream lz;
    uint8_t in[IN_BYTES];
};

/* Find which variant of the file exists. */
static dass_status find_file(const char *folder, const char *name, const char *hint, dass__reader *r)
{
    static const char *const suffix[] = {"", ".gz", ".xz"};
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; ++i) {
        const int n = snprintf(r->path, sizeof r->path, "%s/%s%s", folder, name, suffix[i]);
        if (n < 0 || (size_t)n >= sizeof r->path)
            return DASS_FAIL(DASS_ARG, "path of %d characters is too long: %.60s...", n, folder);
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
    return DASS_FAIL(DASS_IO, "%s/%s (plain, .gz or .xz) does not exist: %s", folder, name, hint);
}

/* More input, if there is none left and the file has some. */
static dass_status fill(dass__reader *r)
{
    if (r->avail > 0 || r->no_more)
        return DASS_OK;
    if (r->file == NULL) {
        r->no_more = true;
        return DASS_OK;
    }
    r->next = r->in;
    r->avail = fread(r->in, 1, IN_BYTES, r->file);
    if (ferror(r->file))
        return DASS_FAIL(DASS_IO, "%s: read failed at byte %lld of its content: %s", r->path, (long long)r->offset,
                         strerror(errno));
    r->no_more = feof(r->file) != 0;
    return DASS_OK;
}

/* Tell the format by the first bytes and make its decoder. */
static dass_status begin(dass__reader *r)
{
    static const uint8_t xz_magic[6] = {0xFD, '7', 'z', 'X', 'Z', 0};
    static const uint8_t gz_magic[2] = {0x1F, 0x8B};
    DASS_TRY(fill(r));
    if (r->avail >= sizeof xz_magic && memcmp(r->next, xz_magic, sizeof xz_magic) == 0) {
        r->kind = XZ;
        r->lz = (lzma_stream)LZMA_STREAM_INIT;
        if (lzma_stream_decoder(&r->lz, LZMA_MEMORY, LZMA_CONCATENATED) != LZMA_OK)
            return DASS_FAIL(DASS_NOMEM, "%s: no memory for the xz decoder", r->path);
        r->lz_ready = true;
    } else if (r->avail >= sizeof gz_magic && memcmp(r->next, gz_magic, sizeof gz_magic) == 0) {
        r->kind = GZIP;
        if (inflateInit2(&r->gz, 16 + MAX_WBITS) != Z_OK) /* 16: with a gzip header */
            return DASS_FAIL(DASS_NOMEM, "%s: no memory for the gzip decoder", r->path);
        r->gz_ready = true;
    }
    return DASS_OK;
}

dass_status dass__reader_open(const char *folder, const char *name, const char *hint, dass__reader **out)
{
    *out = NULL;
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass__reader), "file reader", &block));
    dass__reader *r = block;
    dass_status st = DASS_OK;
    DASS_TRY_TO(find_file(folder, name, hint, r), st, fail);
    r->file = fopen(r->path, "rb");
    if (r->file == NULL) {
        st = DASS_FAIL(DASS_IO, "%s: %s", r->path, strerror(errno));
        goto fail;
    }
    DASS_TRY_TO(begin(r), st, fail);
    *out = r;
    return DASS_OK;
fail:
    dass__reader_close(r);
    return st;
}

dass_status dass__reader_bytes(dass_bytes bytes, dass__reader **out)
{
    *out = NULL;
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass__reader), "file reader", &block));
    dass__reader *r = block;
    (void)snprintf(r->path, sizeof r->path, "%s", bytes.name);
    r->file_bytes = (int64_t)bytes.n;
    r->next = bytes.data;
    r->avail = bytes.n;
    dass_status st = DASS_OK;
    DASS_TRY_TO(begin(r), st, fail);
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
    if (r->gz_ready)
        (void)inflateEnd(&r->gz);
    if (r->lz_ready)
        lzma_end(&r->lz);
    if (r->file != NULL)
        (void)fclose(r->file);
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

static dass_status damaged(const dass__reader *r, size_t got, const char *detail)
{
    return DASS_FAIL(DASS_FORMAT,
                     "%s: damaged or truncated %s stream at byte %lld of its content (%s): fetch the file again",
                     r->path, r->kind == GZIP ? "gzip" : "xz", (long long)r->offset + (long long)got, detail);
}

static dass_status some_plain(dass__reader *r, uint8_t *dst, size_t bytes, size_t *got)
{
    while (*got < bytes) {
        DASS_TRY(fill(r));
        if (r->avail == 0)
            break;
        const size_t n = r->avail < bytes - *got ? r->avail : bytes - *got;
        memcpy(dst + *got, r->next, n);
        r->next += n;
        r->avail -= n;
        *got += n;
    }
    return DASS_OK;
}

/* A gzip file is one member after the other; what follows a member and is none is damage. */
static dass_status some_gz(dass__reader *r, uint8_t *dst, size_t bytes, size_t *got)
{
    while (*got < bytes && !r->ended) {
        DASS_TRY(fill(r));
        if (r->between && r->avail == 0) {
            r->ended = true;
            break;
        }
        r->between = false;
        const uInt n_in = r->avail < UINT_MAX ? (uInt)r->avail : UINT_MAX;
        const uInt n_out = bytes - *got < UINT_MAX ? (uInt)(bytes - *got) : UINT_MAX;
        r->gz.next_in = r->next;
        r->gz.avail_in = n_in;
        r->gz.next_out = dst + *got;
        r->gz.avail_out = n_out;
        const int ret = inflate(&r->gz, Z_NO_FLUSH);
        r->next += n_in - r->gz.avail_in;
        r->avail -= n_in - r->gz.avail_in;
        *got += n_out - r->gz.avail_out;
        if (ret == Z_MEM_ERROR)
            return DASS_FAIL(DASS_NOMEM, "%s: no memory for the gzip decoder", r->path);
        if (ret == Z_BUF_ERROR) /* no progress: it wants input, and the file has no more */
            return damaged(r, *got, "unexpected end of file");
        if (ret == Z_STREAM_END) {
            r->between = true;
            (void)inflateReset(&r->gz); /* fails only for a stream that was never begun */
        } else if (ret != Z_OK) {
            return damaged(r, *got, r->gz.msg != NULL ? r->gz.msg : "no reason given");
        }
    }
    return DASS_OK;
}

static dass_status some_xz(dass__reader *r, uint8_t *dst, size_t bytes, size_t *got)
{
    r->lz.next_out = dst;
    r->lz.avail_out = bytes;
    while (r->lz.avail_out > 0 && !r->ended) {
        DASS_TRY(fill(r));
        r->lz.next_in = r->next;
        r->lz.avail_in = r->avail;
        const lzma_ret ret = lzma_code(&r->lz, r->no_more ? LZMA_FINISH : LZMA_RUN);
        r->next = r->lz.next_in;
        r->avail = r->lz.avail_in;
        *got = bytes - r->lz.avail_out;
        if (ret == LZMA_MEM_ERROR || ret == LZMA_MEMLIMIT_ERROR)
            return DASS_FAIL(DASS_NOMEM, "%s: the xz stream wants more than %llu MiB", r->path,
                             (unsigned long long)(LZMA_MEMORY >> 20));
        if (ret == LZMA_STREAM_END)
            r->ended = true;
        else if (ret == LZMA_BUF_ERROR)
            return damaged(r, *got, "unexpected end of file");
        else if (ret != LZMA_OK)
            return damaged(r, *got, ret == LZMA_DATA_ERROR ? "corrupt data" : "not a supported xz stream");
    }
    return DASS_OK;
}

dass_status dass__reader_some(dass__reader *r, void *dst, size_t bytes, size_t *got)
{
    *got = 0;
    switch (r->kind) {
    case PLAIN:
        DASS_TRY(some_plain(r, dst, bytes, got));
        break;
    case GZIP:
        DASS_TRY(some_gz(r, dst, bytes, got));
        break;
    case XZ:
        DASS_TRY(some_xz(r, dst, bytes, got));
        break;
    }
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

dass_status dass__reader_end(dass__reader *r, const char *why)
{
    uint8_t extra = 0;
    size_t got = 0;
    const long long at = (long long)r->offset;
    DASS_TRY(dass__reader_some(r, &extra, 1, &got));
    if (got != 0)
        return DASS_FAIL(DASS_FORMAT, "%s: unexpected data after byte %lld: %s", r->path, at, why);
    return DASS_OK;
}
