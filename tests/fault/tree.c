/* Folders as a whole; see tree.h. */
#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 4096
#define MAX_BYTES ((size_t)1 << 20)

_Noreturn void tree_fail(const char *what, const char *path)
{
    (void)fprintf(stderr, "fault: %s %s: %s\n", what, path, strerror(errno));
    (void)fflush(stderr);
    _exit(96);
}

static char *read_all(const char *path, size_t *n)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat sb;
    if (fd < 0 || fstat(fd, &sb) != 0)
        tree_fail("cannot read", path);
    char *text = malloc((size_t)sb.st_size + 1);
    if (text == NULL)
        tree_fail("no memory for", path);
    *n = 0;
    while (*n < (size_t)sb.st_size) {
        const ssize_t got = read(fd, text + *n, (size_t)sb.st_size - *n);
        if (got <= 0)
            break;
        *n += (size_t)got;
    }
    (void)close(fd);
    text[*n] = '\0';
    return text;
}

char *tree_text(const char *path)
{
    struct stat sb;
    size_t n = 0;
    if (stat(path, &sb) != 0 || (size_t)sb.st_size > MAX_BYTES) {
        char *none = calloc(1, 1);
        if (none == NULL)
            tree_fail("no memory for", path);
        return none;
    }
    return read_all(path, &n);
}

void tree_write(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(data, 1, n, f) != n || fclose(f) != 0)
        tree_fail("cannot write", path);
}

/* FNV-1a. */
static uint64_t mix(uint64_t h, const void *data, size_t n)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < n; ++i)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}
#define HASH_START 0xcbf29ce484222325u

static void add(tree *t, const char *root, const char *path, bool folder)
{
    if (t->n == t->room) {
        t->room = t->room > 0 ? 2 * t->room : 64;
        t->file = realloc(t->file, t->room * sizeof *t->file);
        if (t->file == NULL)
            tree_fail("no memory for", path);
    }
    tree_file *f = &t->file[t->n++];
    *f = (tree_file){.folder = folder};
    (void)snprintf(f->path, sizeof f->path, "%s", path);
    const char *slash = strrchr(path, '/');
    if (folder || strcmp(slash != NULL ? slash + 1 : path, "times.jsonl") == 0)
        return;
    char full[PATH_BYTES];
    size_t n = 0;
    (void)snprintf(full, sizeof full, "%s/%s", root, path);
    char *text = read_all(full, &n);
    f->hash = mix(HASH_START, text, n);
    free(text);
}

typedef void visit(void *ctx, const char *root, const char *path, bool folder);

/* A folder comes before what it holds, or after it when `after` is set. */
static void walk(const char *root, const char *below, bool after, visit *f, void *ctx)
{
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof path, "%s/%s", root, below);
    DIR *dir = opendir(path);
    if (dir == NULL)
        tree_fail("cannot list", path);
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        struct stat sb;
        char name[PATH_BYTES];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        (void)snprintf(name, sizeof name, "%s%s%s", below, below[0] != '\0' ? "/" : "", e->d_name);
        (void)snprintf(path, sizeof path, "%.2000s/%.2000s", root, name);
        if (lstat(path, &sb) != 0)
            tree_fail("cannot look at", path);
        const bool folder = S_ISDIR(sb.st_mode);
        if (!after)
            f(ctx, root, name, folder);
        if (folder)
            walk(root, name, after, f, ctx);
        if (after)
            f(ctx, root, name, folder);
    }
    (void)closedir(dir);
}

static void visit_read(void *ctx, const char *root, const char *path, bool folder)
{
    add(ctx, root, path, folder);
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const tree_file *)a)->path, ((const tree_file *)b)->path);
}

void tree_read(const char *root, tree *out)
{
    *out = (tree){0};
    walk(root, "", false, visit_read, out);
    if (out->n > 0)
        qsort(out->file, out->n, sizeof *out->file, by_path);
}

void tree_free(tree *t)
{
    free(t->file);
    *t = (tree){0};
}

uint64_t tree_hash(const tree *t)
{
    uint64_t h = HASH_START;
    for (size_t i = 0; i < t->n; ++i) {
        h = mix(h, t->file[i].path, strlen(t->file[i].path) + 1);
        h = mix(h, &t->file[i].hash, sizeof t->file[i].hash);
    }
    return h;
}

const char *tree_differs(const tree *wanted, const tree *t, char *buf, size_t n)
{
    size_t i = 0;
    size_t k = 0;
    while (i < wanted->n || k < t->n) {
        const int order = i == wanted->n ? 1 : k == t->n ? -1 : strcmp(wanted->file[i].path, t->file[k].path);
        if (order == 0 && wanted->file[i].hash == t->file[k].hash) {
            ++i;
            ++k;
            continue;
        }
        (void)snprintf(buf, n, "%s %s", order < 0 ? wanted->file[i].path : t->file[k].path,
                       order < 0   ? "is missing"
                       : order > 0 ? "is too many"
                                   : "has other bytes");
        return buf;
    }
    return NULL;
}

const char *tree_half_written(const tree *t)
{
    for (size_t i = 0; i < t->n; ++i) {
        const size_t n = strlen(t->file[i].path);
        if (n > 4 && strcmp(t->file[i].path + n - 4, ".tmp") == 0)
            return t->file[i].path;
    }
    return NULL;
}

static void visit_copy(void *ctx, const char *root, const char *path, bool folder)
{
    char from[PATH_BYTES];
    char to[PATH_BYTES];
    size_t n = 0;
    (void)snprintf(from, sizeof from, "%.2000s/%.2000s", root, path);
    (void)snprintf(to, sizeof to, "%.2000s/%.2000s", (const char *)ctx, path);
    if (folder) {
        if (mkdir(to, 0777) != 0)
            tree_fail("cannot make", to);
        return;
    }
    char *text = read_all(from, &n);
    tree_write(to, text, n);
    free(text);
}

void tree_copy(const char *from, const char *to)
{
    if (mkdir(to, 0777) != 0)
        tree_fail("cannot make", to);
    walk(from, "", false, visit_copy, (void *)(uintptr_t)to);
}

static void visit_remove(void *ctx, const char *root, const char *path, bool folder)
{
    char full[PATH_BYTES];
    (void)ctx;
    (void)snprintf(full, sizeof full, "%.2000s/%.2000s", root, path);
    if ((folder ? rmdir(full) : unlink(full)) != 0)
        tree_fail("cannot remove", full);
}

void tree_remove(const char *root)
{
    struct stat sb;
    if (lstat(root, &sb) != 0)
        return;
    walk(root, "", true, visit_remove, NULL);
    if (rmdir(root) != 0)
        tree_fail("cannot remove", root);
}
