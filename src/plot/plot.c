/* A run folder's sources to its pictures: which there are, reading them whole, writing what is drawn. Draws nothing.
 * Invariant: a picture is complete or absent, and one that is listed was written.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plot_private.h"
#include "dass/file.h"
#include "dass/log.h"

#define MAX_SOURCE ((size_t)1 << 30) /* bytes; ten thousand epochs of the largest cell are 150 MB */

typedef dass_status (*text_plot)(const char *name, const char *text, size_t n_bytes, char **svg);

static dass_status join(const char *folder, const char *file, char *path)
{
    const int n = snprintf(path, DASS_PLOT_PATH, "%s/%s", folder, file);
    if (n < 0 || n >= DASS_PLOT_PATH - 8)
        return DASS_FAIL(DASS_ARG, "plot: a folder name of %zu bytes is too long: %.60s...", strlen(folder), folder);
    return DASS_OK;
}

/* Whether a source is there; anything but its absence is left to who reads it. */
static bool exists(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

/* *svg is written and released; NULL is a source without an epoch. */
static dass_status save(const char *source, const char *folder, const char *file, char *svg, dass_plot_files *out)
{
    if (svg == NULL) {
        dass_log(DASS_LOG_WARN, "%s has no complete epoch yet: %s is not drawn", source, file);
        return DASS_OK;
    }
    dass_status st = join(folder, file, out->path[out->n]);
    if (st == DASS_OK)
        st = dass_file_write(out->path[out->n], svg, strlen(svg));
    if (st == DASS_OK)
        out->n++;
    dass_mem_free(svg);
    return st;
}

static dass_status plot_cells(const char *source, const char *folder, dass_plot_files *out)
{
    dass_genotype g;
    DASS_TRY(dass_genotype_read(source, &g));
    for (int reduce = 0; reduce < 2; ++reduce) {
        char *svg = NULL;
        DASS_TRY(dass_plot_cell(&g, reduce, &svg));
        DASS_TRY(save(source, folder, reduce ? "cell_reduce.svg" : "cell_normal.svg", svg, out));
    }
    return DASS_OK;
}

/* The whole file, *block for dass_mem_free. It may grow meanwhile: what is there at the start is read. */
static dass_status read_whole(const char *path, int fd, int64_t size, void **block, size_t *n)
{
    if ((unsigned long long)size > MAX_SOURCE)
        return DASS_FAIL(DASS_FORMAT, "%s: %lld bytes; at most %zu are drawn", path, (long long)size, MAX_SOURCE);
    DASS_TRY(dass_mem_alloc((size_t)size, "source of a picture", block));
    DASS_TRY(dass_file_get(fd, path, "source of a picture", *block, (size_t)size, n));
    return DASS_OK;
}

static dass_status plot_text(const char *source, const char *folder, const char *file, text_plot plot,
                             dass_plot_files *out)
{
    void *block = NULL;
    size_t n = 0;
    char *svg = NULL;
    int fd = -1;
    int64_t size = 0;
    DASS_TRY(dass_file_open(source, "source of a picture", &fd, &size));
    dass_status st = read_whole(source, fd, size, &block, &n);
    (void)close(fd);
    if (st == DASS_OK)
        st = plot(source, block, n, &svg);
    dass_mem_free(block);
    DASS_TRY(st);
    DASS_TRY(save(source, folder, file, svg, out));
    return DASS_OK;
}

static dass_status plot_folder(const char *from, const char *folder, dass_plot_files *out)
{
    char source[DASS_PLOT_PATH];
    int n_sources = 0;
    DASS_TRY(join(from, "genotype.json", source));
    if (exists(source)) {
        ++n_sources;
        DASS_TRY(plot_cells(source, folder, out));
    }
    DASS_TRY(join(from, "alphas.jsonl", source));
    if (exists(source)) {
        ++n_sources;
        DASS_TRY(plot_text(source, folder, "alphas.svg", dass_plot_alphas, out));
    }
    DASS_TRY(join(from, "metrics.jsonl", source));
    if (exists(source)) {
        ++n_sources;
        DASS_TRY(plot_text(source, folder, "curves.svg", dass_plot_curves, out));
    }
    if (n_sources == 0)
        return DASS_FAIL(DASS_IO,
                         "%s: nothing to draw: it holds no genotype.json, alphas.jsonl or metrics.jsonl; name "
                         "a run folder (-o of search, train or prune) or a genotype file",
                         from);
    return DASS_OK;
}

dass_status dass_plot_run(const char *from, const char *out_dir, dass_plot_files *out)
{
    struct stat sb;
    out->n = 0;
    if (stat(from, &sb) != 0)
        return DASS_FAIL(DASS_IO, "%s: %s; name a run folder (-o of search, train or prune) or a genotype file", from,
                         strerror(errno));
    const bool is_folder = S_ISDIR(sb.st_mode);
    if (!is_folder && out_dir == NULL)
        return DASS_FAIL(DASS_ARG, "%s is a file; say with -o DIR where its pictures go", from);
    if (out_dir != NULL)
        DASS_TRY(dass_folder_make(out_dir));
    if (is_folder)
        DASS_TRY(plot_folder(from, out_dir != NULL ? out_dir : from, out));
    else
        DASS_TRY(plot_cells(from, out_dir, out));
    return DASS_OK;
}
