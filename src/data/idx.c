/* IDX files (the MNIST family): a big-endian header, then bytes. Reads whole parts of a data set, from files or from
 * memory; writes nothing.
 * Invariant: sizes from a header are checked against the file before anything of that size is allocated.
 *
 * Format: 4 bytes 0, 0, type (8 = u8), rank; then rank big-endian u32 sizes; then the elements. Described at
 * LeCun's MNIST page.
 */
#include <stdio.h>
#include <string.h>

#include "dass/data.h"
#include "dass/mem.h"
#include "reader.h"

/* No deflate or realistic xz stream of images expands more than this; a header that promises more is damaged. */
#define MAX_EXPANSION 1100

static const char HINT[] = "install the Debian package dataset-fashion-mnist (apt-get install dataset-fashion-mnist), "
                           "or set data.path to the folder of the IDX files";

static uint32_t big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Header of `rank` sizes; checks magic and that the content can be in the file. */
static dass_status read_header(dass__reader *r, int rank, uint32_t *size)
{
    uint8_t head[16];
    DASS_TRY(dass__reader_exact(r, head, 4 + 4 * (size_t)rank, "the header"));
    if (head[0] != 0 || head[1] != 0 || head[2] != 8 || head[3] != rank)
        return DASS_FAIL(DASS_FORMAT, "%s: byte 0: magic %02x%02x%02x%02x is not 0000080%d (IDX of bytes, rank %d)",
                         dass__reader_path(r), head[0], head[1], head[2], head[3], rank, rank);
    int64_t total = 1;
    for (int i = 0; i < rank; ++i) {
        size[i] = big_endian(head + 4 + 4 * i);
        if (size[i] == 0 || size[i] > INT32_MAX || total > INT64_MAX / size[i])
            return DASS_FAIL(DASS_FORMAT, "%s: byte %d: size %u is out of range", dass__reader_path(r), 4 + 4 * i,
                             size[i]);
        total *= size[i];
    }
    if (total / MAX_EXPANSION > dass__reader_file_bytes(r))
        return DASS_FAIL(DASS_FORMAT,
                         "%s: byte 4: the header announces %lld bytes, which a file of %lld bytes cannot "
                         "hold",
                         dass__reader_path(r), (long long)total, (long long)dass__reader_file_bytes(r));
    return DASS_OK;
}

/* *announced: how many images the file holds, of which p->n are read. */
static dass_status read_images(dass__reader *r, int64_t limit, const dass_dataset *d, dass_part *p, uint32_t *announced)
{
    uint32_t size[3] = {0};
    DASS_TRY(read_header(r, 3, size));
    if ((int32_t)size[1] != d->h || (int32_t)size[2] != d->w)
        return DASS_FAIL(DASS_FORMAT, "%s: byte 8: images of %ux%u, %s has %dx%d", dass__reader_path(r), size[1],
                         size[2], d->name, d->h, d->w);
    *announced = size[0];
    p->n = limit > 0 && limit < size[0] ? limit : size[0];
    size_t bytes = 0;
    DASS_TRY(dass_mem_mul((size_t)d->h * (size_t)d->w, (size_t)p->n, "images", &bytes));
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(bytes, "images", &block));
    p->images = block;
    DASS_TRY(dass__reader_exact(r, p->images, bytes, "the images"));
    if (p->n == size[0])
        DASS_TRY(dass__reader_end(r, "the header announces less"));
    return DASS_OK;
}

static dass_status read_labels(dass__reader *r, uint32_t n_images, const dass_dataset *d, dass_part *p)
{
    uint32_t size[1] = {0};
    DASS_TRY(read_header(r, 1, size));
    if (size[0] != n_images)
        return DASS_FAIL(DASS_FORMAT, "%s: byte 4: %u labels for %u images", dass__reader_path(r), size[0], n_images);
    void *block = NULL;
    size_t bytes = 0;
    DASS_TRY(dass_mem_mul((size_t)p->n, sizeof(int32_t), "labels", &bytes));
    DASS_TRY(dass_mem_alloc(bytes, "labels", &block));
    p->labels = block;
    uint8_t chunk[4096];
    for (int64_t at = 0; at < p->n; at += (int64_t)sizeof chunk) {
        const int64_t left = p->n - at;
        const size_t n = left < (int64_t)sizeof chunk ? (size_t)left : sizeof chunk;
        DASS_TRY(dass__reader_exact(r, chunk, n, "the labels"));
        for (size_t i = 0; i < n; ++i) {
            if (chunk[i] >= d->classes)
                return DASS_FAIL(DASS_FORMAT, "%s: byte %lld: label %u, %s has classes 0 to %d", dass__reader_path(r),
                                 (long long)(8 + at + (int64_t)i), chunk[i], d->name, d->classes - 1);
            p->labels[at + (int64_t)i] = chunk[i];
        }
    }
    if (p->n == size[0])
        DASS_TRY(dass__reader_end(r, "the header announces less"));
    return DASS_OK;
}

static dass_status read_part(dass__reader *images, dass__reader *labels, int64_t limit, const dass_dataset *d,
                             dass_part *p)
{
    uint32_t announced = 0;
    DASS_TRY(read_images(images, limit, d, p, &announced));
    DASS_TRY(read_labels(labels, announced, d, p));
    return DASS_OK;
}

static dass_status load_part(const char *path, const char *stem, int64_t limit, const dass_dataset *d, dass_part *p)
{
    char name[64];
    dass__reader *images = NULL;
    dass__reader *labels = NULL;
    dass_status st = DASS_OK;
    (void)snprintf(name, sizeof name, "%s-images-idx3-ubyte", stem);
    DASS_TRY_TO(dass__reader_open(path, name, HINT, &images), st, out);
    (void)snprintf(name, sizeof name, "%s-labels-idx1-ubyte", stem);
    DASS_TRY_TO(dass__reader_open(path, name, HINT, &labels), st, out);
    DASS_TRY_TO(read_part(images, labels, limit, d, p), st, out);
out:
    dass__reader_close(images);
    dass__reader_close(labels);
    return st;
}

dass_status dass_idx_parse(dass_bytes images, dass_bytes labels, int64_t limit, const dass_dataset *d, dass_part *p)
{
    dass__reader *r_images = NULL;
    dass__reader *r_labels = NULL;
    dass_status st = DASS_OK;
    DASS_TRY_TO(dass__reader_bytes(images, &r_images), st, out);
    DASS_TRY_TO(dass__reader_bytes(labels, &r_labels), st, out);
    DASS_TRY_TO(read_part(r_images, r_labels, limit, d, p), st, out);
out:
    dass__reader_close(r_images);
    dass__reader_close(r_labels);
    return st;
}

dass_status dass_idx_load(const char *path, int64_t limit, int64_t test_limit, dass_dataset *d)
{
    DASS_ASSERT(d->c == 1);
    DASS_TRY(load_part(path, "train", limit, d, &d->train));
    DASS_TRY(load_part(path, "t10k", test_limit, d, &d->test));
    return DASS_OK;
}
