/* CIFAR-10 in its binary form: records of one label byte and three planes, turned into NHWC while reading. Invariant:
 * records are read one by one, so a damaged file costs no more memory than its good part.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "dass/data.h"
#include "dass/mem.h"
#include "reader.h"

#define N_TRAIN_FILES 5
#define MAX_RECORD (1 + 4 * 64 * 64)

static const char HINT[] = "download the binary version of CIFAR-10 (cifar-10-binary.tar.gz, "
                           "https://www.cs.toronto.edu/~kriz/cifar.html), unpack it and set data.path to its folder";

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

/* Append the records of one file. */
static dass_status read_records(dass__reader *r, int64_t limit, const dass_dataset *d, dass_part *p, int64_t *capacity)
{
    const size_t plane = (size_t)d->h * (size_t)d->w;
    const size_t n_c = (size_t)d->c;
    const size_t record_bytes = 1 + plane * n_c;
    uint8_t record[MAX_RECORD];
    DASS_ASSERT(record_bytes <= sizeof record);
    while (limit == 0 || p->n < limit) {
        const long long at = (long long)dass__reader_offset(r);
        size_t got = 0;
        DASS_TRY(dass__reader_some(r, record, record_bytes, &got));
        if (got == 0) {
            if (at == 0)
                return DASS_FAIL(DASS_FORMAT, "%s: byte 0: the file is empty", dass__reader_path(r));
            return DASS_OK;
        }
        if (got != record_bytes)
            return DASS_FAIL(DASS_FORMAT,
                             "%s: ends at byte %lld, inside the record that begins at byte %lld (%zu of "
                             "%zu bytes): the file is truncated, fetch it again",
                             dass__reader_path(r), at + (long long)got, at, got, record_bytes);
        if (record[0] >= d->classes)
            return DASS_FAIL(DASS_FORMAT, "%s: byte %lld: label %u, %s has classes 0 to %d", dass__reader_path(r), at,
                             record[0], d->name, d->classes - 1);
        DASS_TRY(reserve(p, capacity, plane * n_c));
        uint8_t *dst = p->images + (size_t)p->n * plane * n_c;
        for (size_t c = 0; c < n_c; ++c)
            for (size_t i = 0; i < plane; ++i)
                dst[i * n_c + c] = record[1 + c * plane + i];
        p->labels[p->n++] = record[0];
    }
    return DASS_OK;
}

static dass_status load_file(const char *path, const char *name, int64_t limit, const dass_dataset *d, dass_part *p,
                             int64_t *capacity)
{
    char file[DASS__PATH_MAX];
    dass__reader *r = NULL;
    (void)snprintf(file, sizeof file, "%s/%s", path, name);
    DASS_TRY(dass__reader_open(file, HINT, &r));
    const dass_status st = read_records(r, limit, d, p, capacity);
    dass__reader_close(r);
    DASS_TRY(st);
    return DASS_OK;
}

dass_status dass_cifar_load(const char *path, int64_t limit, int64_t test_limit, dass_dataset *d)
{
    char folder[DASS__PATH_MAX];
    struct stat sb;
    const int n = snprintf(folder, sizeof folder, "%s/cifar-10-batches-bin", path);
    if (n < 0 || (size_t)n >= sizeof folder)
        return DASS_FAIL(DASS_ARG, "data.path of %zu characters is too long", strlen(path));
    if (stat(folder, &sb) == 0 && S_ISDIR(sb.st_mode))
        path = folder;

    int64_t capacity = 0;
    for (int i = 1; i <= N_TRAIN_FILES && (limit == 0 || d->train.n < limit); ++i) {
        char name[32];
        (void)snprintf(name, sizeof name, "data_batch_%d.bin", i);
        DASS_TRY(load_file(path, name, limit, d, &d->train, &capacity));
    }
    capacity = 0;
    DASS_TRY(load_file(path, "test_batch.bin", test_limit, d, &d->test, &capacity));
    return DASS_OK;
}
