/* Atomic files and folders. Knows no format. Invariant: the file's place holds what it held before or the whole new
 * file, and nothing is left beside it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dass/file.h"

#define PATH_BYTES 4096

static dass_status write_all(int fd, const void *data, size_t n_bytes, const char *path)
{
    const uint8_t *p = data;
    while (n_bytes > 0) {
        const ssize_t n = write(fd, p, n_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return DASS_FAIL(DASS_IO, "%s: write failed: %s", path, strerror(errno));
        p += n;
        n_bytes -= (size_t)n;
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
    const int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return DASS_FAIL(DASS_IO, "%s: %s", tmp, strerror(errno));
    dass_status st = DASS_OK;
    for (size_t i = 0; i < n && st == DASS_OK; ++i)
        st = write_all(fd, parts[i].data, parts[i].bytes, tmp);
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
    if (stat(path, &sb) != 0 || !S_ISDIR(sb.st_mode))
        return DASS_FAIL(DASS_IO, "run folder %s is not a folder", path);
    return DASS_OK;
}
