/* Fuzzes the readers of IDX files and CIFAR records, plain, gzip and xz: what is accepted has labels in range and all
 * its images, a limit reads the same first images, and plain records come out as the format says. The first byte
 * chooses the format and the limit; for IDX the next two say where the images end and the labels begin. Images are of 2
 * x 2 pixels, so that inputs stay short. Invariant: no input crashes, leaks or reads outside its bytes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dass/data.h"
#include "dass/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void free_part(dass_part *p)
{
    dass_mem_free(p->images);
    dass_mem_free(p->labels);
    *p = (dass_part){.n = 0};
}

static void check_part(const dass_part *p, const dass_dataset *d)
{
    if (p->n < 1)
        abort();
    volatile uint8_t sum = 0;
    for (int64_t i = 0; i < p->n * d->h * d->w * d->c; ++i)
        sum = (uint8_t)(sum + p->images[i]);
    for (int64_t i = 0; i < p->n; ++i)
        if (p->labels[i] < 0 || p->labels[i] >= d->classes)
            abort();
}

/* `some` was read with a limit, `all` without one. */
static void check_limit(const dass_part *all, const dass_part *some, int64_t limit, const dass_dataset *d)
{
    if (some->n != (limit < all->n ? limit : all->n))
        abort();
    if (memcmp(all->images, some->images, (size_t)some->n * (size_t)d->h * (size_t)d->w * (size_t)d->c) != 0)
        abort();
    if (memcmp(all->labels, some->labels, (size_t)some->n * sizeof *some->labels) != 0)
        abort();
}

static bool is_packed(const uint8_t *data, size_t size)
{
    return size >= 2 && ((data[0] == 0x1F && data[1] == 0x8B) || (data[0] == 0xFD && data[1] == '7'));
}

static void check_records(const uint8_t *data, size_t size, int n_labels, const dass_part *p)
{
    const size_t record = (size_t)n_labels + 12;
    if ((size_t)p->n * record != size)
        abort();
    for (int64_t i = 0; i < p->n; ++i, data += record) {
        if (p->labels[i] != data[n_labels - 1])
            abort();
        for (int k = 0; k < 12; ++k)
            if (p->images[12 * i + k] != data[n_labels + k % 3 * 4 + k / 3])
                abort();
    }
}

static void fuzz_cifar(const uint8_t *data, size_t size, bool hundred, int64_t limit)
{
    const dass_dataset d = {
        .name = hundred ? "cifar100" : "cifar10", .h = 2, .w = 2, .c = 3, .classes = hundred ? 100 : 10};
    const dass_bytes file = {.name = "fuzz", .data = data, .n = size};
    dass_part all = {.n = 0};
    dass_part some = {.n = 0};
    if (dass_cifar_parse(file, 0, &d, &all) == DASS_OK) {
        check_part(&all, &d);
        if (!is_packed(data, size))
            check_records(data, size, hundred ? 2 : 1, &all);
        if (dass_cifar_parse(file, limit, &d, &some) != DASS_OK)
            abort();
        check_limit(&all, &some, limit, &d);
    }
    free_part(&all);
    free_part(&some);
}

static void fuzz_idx(const uint8_t *data, size_t size, int64_t limit)
{
    if (size < 2)
        return;
    const size_t wish = (size_t)data[0] << 8 | data[1];
    const size_t n_images = wish < size - 2 ? wish : size - 2;
    const dass_dataset d = {.name = "idx", .h = 2, .w = 2, .c = 1, .classes = 10};
    const dass_bytes images = {.name = "images", .data = data + 2, .n = n_images};
    const dass_bytes labels = {.name = "labels", .data = data + 2 + n_images, .n = size - 2 - n_images};
    dass_part all = {.n = 0};
    dass_part some = {.n = 0};
    if (dass_idx_parse(images, labels, 0, &d, &all) == DASS_OK) {
        check_part(&all, &d);
        if (dass_idx_parse(images, labels, limit, &d, &some) != DASS_OK)
            abort();
        check_limit(&all, &some, limit, &d);
    }
    free_part(&all);
    free_part(&some);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    const int64_t limit = 1 + data[0] / 4 % 8;
    if (data[0] % 4 < 2)
        fuzz_idx(data + 1, size - 1, limit);
    else
        fuzz_cifar(data + 1, size - 1, data[0] % 4 == 3, limit);
    return 0;
}
