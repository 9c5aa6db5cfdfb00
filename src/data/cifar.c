/* CIFAR-10 and CIFAR-100 in their binary form: records of one or two label bytes and three planes, turned into NHWC
 * while reading. Invariant: records are read one by one, so a damaged file costs no more memory than its good part.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "dass/data.h"
#include "dass/log.h"
#include "dass/mem.h"
#include "reader.h"

#define MAX_LABELS 2
#define MAX_RECORD (MAX_LABELS + 4 * 64 * 64)

typedef struct layout {
    const char *name, *folder, *hint;
    const char *train[6], *test; /* files; train ends with NULL */
    int64_t n_train, n_test;     /* records of one training file, of the test file */
    int32_t n_labels, coarse;    /* label bytes, the last is ours; the one before it is below `coarse` */
} layout;

static const layout layouts[] = {
    {.name = "cifar10",
     .folder = "cifar-10-batches-bin",
     .hint = "download the binary version of CIFAR-10 (cifar-10-binary.tar.gz, "
             "https://www.cs.toronto.edu/~kriz/cifar.html), unpack it and set data.path to its folder",
     .train = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"},
     .test = "test_batch.bin",
     .n_train = 10000,
     .n_test = 10000,
     .n_labels = 1},
    {.name = "cifar100",
     .folder = "cifar-100-binary",
     .hint = "download the binary version of CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz), "
             "unpack it and set data.path to its folder",
     .train = {"train.bin"},
     .test = "test.bin",
     .n_train = 50000,
     .n_test = 10000,
     .n_labels = 2,
     .coarse = 20},
};

static const layout *layout_of(const dass_dataset *d)
{
    const size_t n = sizeof layouts / sizeof *layouts;
    size_t i = 0;
    while (i < n && strcmp(layouts[i].name, d->name) != 0)
        ++i;
    DASS_ASSERT(i < n);
    return &layouts[i];
}

/* Make room for one more image, doubling. */
static dass_status reserve(dass_part *p, int64_t *capacity, size_t image_bytes)
{
    if (p->n < *capacity)
        return DASS_OK;
    const int64_t more = *capacity == 0 ? 1024 : 2 * *capacity;
    if (more > INT32_MAX)
        return DASS_FAIL(DASS_FORMAT, "more than 2^30 images in one data set");
    size_t old_bytes = 0, new_bytes = 0;
    void *block = p->images;
    DASS_TRY(dass_mem_mul((size_t)*capacity, image_bytes, "images", &old_bytes));
    DASS_TRY(dass_mem_mul((size_t)more, image_bytes, "images", &new_bytes));
    DASS_TRY(dass_mem_grow(old_bytes, new_bytes, "images", &block));
    p->images = block;
    block = p->labels;
    DASS_TRY(dass_mem_grow((size_t)*capacity * sizeof(int32_t), (size_t)more * sizeof(int32_t), "labels", &block));
    p->labels = block;
    *capacity = more;
    return DASS_OK;
}

/* One record of the file; *got is less than its size only at the end. */
static dass_status read_record(dass__reader *r, const layout *l, const dass_dataset *d, uint8_t *record, size_t bytes,
                               size_t *got)
{
    const long long at = (long long)dass__reader_offset(r);
    DASS_TRY(dass__reader_some(r, record, bytes, got));
    if (*got == 0)
        return DASS_OK;
    if (*got != bytes)
        return DASS_FAIL(DASS_FORMAT,
                         "%s: ends at byte %lld, inside the record that begins at byte %lld (%zu of %zu bytes): the "
                         "file is truncated or has bytes too many, fetch it again",
                         dass__reader_path(r), at + (long long)*got, at, *got, bytes);
    for (int32_t i = 0; i < l->n_labels; ++i) {
        const int32_t classes = i + 1 == l->n_labels ? d->classes : l->coarse;
        if (record[i] >= classes)
            return DASS_FAIL(DASS_FORMAT, "%s: byte %lld: %slabel %u, %s has %sclasses 0 to %d", dass__reader_path(r),
                             at + i, i + 1 == l->n_labels ? "" : "coarse ", record[i], d->name,
                             i + 1 == l->n_labels ? "" : "coarse ", classes - 1);
    }
    return DASS_OK;
}

/* Append the records of one file, at most n_max of them and until the part has `limit`. */
static dass_status read_records(dass__reader *r, int64_t n_max, int64_t limit, const dass_dataset *d, dass_part *p,
                                int64_t *capacity)
{
    const layout *l = layout_of(d);
    const size_t plane = (size_t)d->h * (size_t)d->w;
    const size_t n_c = (size_t)d->c;
    const size_t bytes = (size_t)l->n_labels + plane * n_c;
    uint8_t record[MAX_RECORD];
    DASS_ASSERT(bytes <= sizeof record);
    int64_t n = 0;
    for (; n < n_max && (limit == 0 || p->n < limit); ++n) {
        size_t got = 0;
        DASS_TRY(read_record(r, l, d, record, bytes, &got));
        if (got == 0)
            break;
        DASS_TRY(reserve(p, capacity, plane * n_c));
        const uint8_t *src = record + l->n_labels;
        uint8_t *dst = p->images + (size_t)p->n * plane * n_c;
        for (size_t c = 0; c < n_c; ++c)
            for (size_t i = 0; i < plane; ++i)
                dst[i * n_c + c] = src[c * plane + i];
        p->labels[p->n++] = record[l->n_labels - 1];
    }
    if (n == n_max)
        DASS_TRY(dass__reader_end(r, "the data set has no more records than these"));
    if (n == 0)
        return DASS_FAIL(DASS_FORMAT, "%s: byte 0: the file is empty", dass__reader_path(r));
    return DASS_OK;
}

static dass_status load_file(const char *path, const char *name, int64_t n_max, int64_t limit, const dass_dataset *d,
                             dass_part *p, int64_t *capacity)
{
    dass__reader *r = NULL;
    DASS_TRY(dass__reader_open(path, name, layout_of(d)->hint, &r));
    const dass_status st = read_records(r, n_max, limit, d, p, capacity);
    dass__reader_close(r);
    DASS_TRY(st);
    return DASS_OK;
}

dass_status dass_cifar_parse(dass_bytes file, int64_t limit, const dass_dataset *d, dass_part *p)
{
    int64_t capacity = 0;
    dass__reader *r = NULL;
    DASS_TRY(dass__reader_bytes(file, &r));
    const dass_status st = read_records(r, layout_of(d)->n_train, limit, d, p, &capacity);
    dass__reader_close(r);
    DASS_TRY(st);
    return DASS_OK;
}

/* A subset is fine to try things on, but what is measured on it is not the data set's. */
static void warn_of_subset(const char *path, const char *what, const layout *l, int64_t n, int64_t whole, int64_t limit)
{
    if (n < whole && (limit == 0 || n < limit))
        dass_log(DASS_LOG_WARN, "%s: %lld %s images, %s has %lld", path, (long long)n, what, l->name, (long long)whole);
}

dass_status dass_cifar_load(const char *path, int64_t limit, int64_t test_limit, dass_dataset *d)
{
    const layout *l = layout_of(d);
    char folder[DASS__PATH_MAX];
    struct stat sb;
    const int n = snprintf(folder, sizeof folder, "%s/%s", path, l->folder);
    if (n < 0 || (size_t)n >= sizeof folder)
        return DASS_FAIL(DASS_ARG, "data.path of %zu characters is too long", strlen(path));
    if (stat(folder, &sb) == 0 && S_ISDIR(sb.st_mode))
        path = folder;

    int64_t capacity = 0;
    int64_t whole = 0;
    for (int i = 0; l->train[i] != NULL; ++i)
        whole += l->n_train;
    for (int i = 0; l->train[i] != NULL && (limit == 0 || d->train.n < limit); ++i)
        DASS_TRY(load_file(path, l->train[i], l->n_train, limit, d, &d->train, &capacity));
    warn_of_subset(path, "training", l, d->train.n, whole, limit);
    capacity = 0;
    DASS_TRY(load_file(path, l->test, l->n_test, test_limit, d, &d->test, &capacity));
    warn_of_subset(path, "test", l, d->test.n, l->n_test, test_limit);
    return DASS_OK;
}
