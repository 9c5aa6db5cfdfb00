/* Files read whole, atomic files, folders. Knows no format. Invariant: a written file's place holds what it held before
 * or the whole new file, and nothing is left beside it; no link is written through, and nothing but a regular file is
 * read or written.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "dass/file.h"
#include "dass/mem.h"

#define PATH_BYTES 4096
#define BATCH 64 /* pieces of one write */

/* ---- reading -------------------------------------------------------------------------------------------------- */

dass_status dass_file_open(const char *path, const char *what, int *fd, int64_t *n_bytes)
{
    struct stat sb = {0};
    const char *why = NULL;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not make us wait before it is refused */
    if (*fd < 0)
        return DASS_FAIL(DASS_IO, "%s: cannot open the %s: %s", path, what, strerror(errno));
    if (fstat(*fd, &sb) != 0)
        why = strerror(errno);
    else if (!S_ISREG(sb.st_mode))
        why = S_ISDIR(sb.st_mode) ? strerror(EISDIR) : "not a regular file";
    *n_bytes = sb.st_size;
    if (why == NULL)
        return DASS_OK;
    (void)close(*fd);
    *fd = -1;
    return DASS_FAIL(DASS_IO, "%s: cannot read the %s: %s", path, what, why);
}

dass_status dass_file_get(int fd, const char *path, const char *what, void *to, size_t n_bytes, size_t *got)
{
    uint8_t *p = to;
    *got = 0;
    while (*got < n_bytes) {
        const ssize_t n = read(fd, p + *got, n_bytes - *got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return DASS_FAIL(DASS_IO, "%s: cannot read the %s: %s", path, what, strerror(errno));
        if (n == 0)
            break;
        *got += (size_t)n;
    }
    return DASS_OK;
}

dass_status dass_file_read(const char *path, size_t max_bytes, const char *what, void **block, size_t *n_bytes)
{
    int fd = -1;
    int64_t size = 0;
    *block = NULL;
    *n_bytes = 0;
    DASS_TRY(dass_file_open(path, what, &fd, &size));
    dass_status st = DASS_OK;
    DASS_TRY_TO(dass_mem_alloc(max_bytes + 2, what, block), st, out);
    DASS_TRY_TO(dass_file_get(fd, path, what, *block, max_bytes + 1, n_bytes), st, out);
out:
    (void)close(fd); /* only read: nothing can be lost */
    if (st != DASS_OK) {
        dass_mem_free(*block);
        *block = NULL;
    }
    return st;
}

dass_status dass_file_there(const char *path, bool *there)
{
    struct stat sb;
    *there = lstat(path, &sb) == 0;
    if (!*there && errno != ENOENT)
        return DASS_FAIL(DASS_IO, "%s: cannot tell whether it is there: %s", path, strerror(errno));
    return DASS_OK;
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

/* What was opened for writing must be a file, and the one of this name: a link could lead anywhere, a pipe may have no
 * reader. */
static dass_status fail_open(const char *path)
{
    if (errno == ELOOP)
        return DASS_FAIL(DASS_IO, "%s is a symbolic link, which is not written through; remove it", path);
    if (errno == ENXIO)
        return DASS_FAIL(DASS_IO, "%s is not a regular file; remove it", path);
    return DASS_FAIL(DASS_IO, "%s: %s", path, strerror(errno));
}

dass_status dass_file_create(const char *path, int flags, int *fd)
{
    struct stat sb;
    *fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | flags, 0666);
    if (*fd < 0)
        return fail_open(path);
    if (fstat(*fd, &sb) == 0 && S_ISREG(sb.st_mode))
        return DASS_OK;
    (void)close(*fd);
    *fd = -1;
    return DASS_FAIL(DASS_IO, "%s is not a regular file; remove it", path);
}

/* Many pieces with few calls: a checkpoint has hundreds of tensors, most of them small. */
static dass_status write_all(int fd, const dass_file_part *parts, size_t n, const char *path)
{
    struct iovec v[BATCH];
    size_t at = 0;   /* the part that comes next */
    size_t done = 0; /* bytes of it that are written */
    while (at < n) {
        int k = 0;
        for (size_t i = at; i < n && k < BATCH; ++i) {
            const size_t skip = i == at ? done : 0;
            if (parts[i].bytes > skip)
                v[k++] = (struct iovec){(uint8_t *)(uintptr_t)parts[i].data + skip, parts[i].bytes - skip};
        }
        const ssize_t wrote = k > 0 ? writev(fd, v, k) : 0;
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0 || (k > 0 && wrote == 0))
            return DASS_FAIL(DASS_IO, "%s: write failed: %s", path, strerror(errno));
        done += (size_t)wrote;
        for (; at < n && done >= parts[at].bytes; ++at)
            done -= parts[at].bytes;
    }
    return DASS_OK;
}

/* The rename itself must reach the disk: synchronise the folder. */
static dass_status sync_folder(const char *path)
{
    char folder[PATH_BYTES];
    (void)snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash == NULL)
        (void)snprintf(folder, sizeof folder, ".");
    else
        slash[slash == folder ? 1 : 0] = '\0';
    const int fd = open(folder, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return DASS_FAIL(DASS_IO, "%s: %s", folder, strerror(errno));
    const int bad = fsync(fd);
    (void)close(fd);
    if (bad != 0 && errno != EINVAL)
        return DASS_FAIL(DASS_IO, "%s: fsync: %s", folder, strerror(errno));
    return DASS_OK;
}

dass_status dass_file_write_parts(const char *path, const dass_file_part *parts, size_t n)
{
    char tmp[PATH_BYTES];
    const int len = snprintf(tmp, sizeof tmp, "%s.tmp", path);
    if (len < 0 || (size_t)len >= sizeof tmp)
        return DASS_FAIL(DASS_ARG, "path is too long: %.60s...", path);
    int fd = -1;
    DASS_TRY(dass_file_create(tmp, O_TRUNC, &fd));
    dass_status st = write_all(fd, parts, n, tmp);
    if (st == DASS_OK && fsync(fd) != 0)
        st = DASS_FAIL(DASS_IO, "%s: fsync: %s", tmp, strerror(errno));
    if (close(fd) != 0 && st == DASS_OK)
        st = DASS_FAIL(DASS_IO, "%s: close: %s", tmp, strerror(errno));
    if (st == DASS_OK && rename(tmp, path) != 0)
        st = DASS_FAIL(DASS_IO, "%s: %s", path, strerror(errno));
    if (st != DASS_OK) {
        (void)unlink(tmp);
        return st;
    }
    DASS_TRY(sync_folder(path));
    return DASS_OK;
}

dass_status dass_file_write(const char *path, const void *data, size_t n_bytes)
{
    return dass_file_write_parts(path, &(dass_file_part){data, n_bytes}, 1);
}

dass_status dass_folder_make(const char *path)
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
    if (stat(path, &sb) != 0)
        return DASS_FAIL(DASS_IO, "run folder %s: %s", path, strerror(errno));
    if (!S_ISDIR(sb.st_mode))
        return DASS_FAIL(DASS_IO, "run folder %s is not a folder", path);
    return DASS_OK;
}
