/* Data sets: parsers on small files made here (plain, gzip, xz; truncated and corrupt). Batches are test_source.c's. */
#include <lzma.h>
#include <stdlib.h>
#include <zlib.h>

#include "check.h"
#include "dass/data.h"
#include "dass/log.h"
#include "dass/mem.h"

#define N_TRAIN 12
#define N_TEST 5

/* ---- files ---------------------------------------------------------------------------------------------------- */

typedef struct bytes {
    uint8_t data[65536];
    size_t n;
} bytes;

typedef enum packing { PLAIN, GZIP, XZ } packing;

static char folder[64];

static const char *in_folder(const char *name)
{
    static char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_bytes(const char *name, const void *data, size_t n)
{
    FILE *f = fopen(in_folder(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void write_packed(const char *name, const bytes *b, packing how)
{
    static uint8_t out[1 << 17];
    char full[128];
    (void)snprintf(full, sizeof full, "%s%s", name, how == GZIP ? ".gz" : how == XZ ? ".xz" : "");
    if (how == PLAIN) {
        write_bytes(full, b->data, b->n);
    } else if (how == GZIP) {
        gzFile f = gzopen(in_folder(full), "wb");
        assert_non_null(f);
        assert_int_equal(gzwrite(f, b->data, (unsigned)b->n), (int)b->n);
        assert_int_equal(gzclose(f), Z_OK);
    } else {
        size_t n = 0;
        assert_int_equal(lzma_easy_buffer_encode(1, LZMA_CHECK_CRC64, NULL, b->data, b->n, out, &n, sizeof out),
                         LZMA_OK);
        write_bytes(full, out, n);
    }
}

static void put_be32(bytes *b, uint32_t x)
{
    for (int i = 3; i >= 0; --i)
        b->data[b->n++] = (uint8_t)(x >> (8 * i));
}

/* Pixel k of image i. */
static uint8_t pixel(int i, int k)
{
    return (uint8_t)(31 * i + k);
}
static uint8_t label(int i)
{
    return (uint8_t)((7 * i + 3) % 10);
}

static bytes idx_images(int n)
{
    bytes b = {.n = 0};
    put_be32(&b, 0x803);
    put_be32(&b, (uint32_t)n);
    put_be32(&b, 28);
    put_be32(&b, 28);
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < 28 * 28; ++k)
            b.data[b.n++] = pixel(i, k);
    return b;
}

static bytes idx_labels(int n)
{
    bytes b = {.n = 0};
    put_be32(&b, 0x801);
    put_be32(&b, (uint32_t)n);
    for (int i = 0; i < n; ++i)
        b.data[b.n++] = label(i);
    return b;
}

static void write_idx(packing how)
{
    const bytes train = idx_images(N_TRAIN);
    const bytes train_labels = idx_labels(N_TRAIN);
    const bytes test = idx_images(N_TEST);
    const bytes test_labels = idx_labels(N_TEST);
    write_packed("train-images-idx3-ubyte", &train, how);
    write_packed("train-labels-idx1-ubyte", &train_labels, how);
    write_packed("t10k-images-idx3-ubyte", &test, how);
    write_packed("t10k-labels-idx1-ubyte", &test_labels, how);
}

static dass_config config(const char *name)
{
    dass_config c;
    dass_config_defaults(&c);
    char text[600];
    (void)snprintf(text, sizeof text, "data.name=%s", name);
    assert_int_equal(dass_config_set(&c, text, "test"), DASS_OK);
    (void)snprintf(text, sizeof text, "data.path=%s", folder);
    assert_int_equal(dass_config_set(&c, text, "test"), DASS_OK);
    return c;
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "%s", "/tmp/dass_test_data_XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

/* ---- IDX ------------------------------------------------------------------------------------------------------ */

static void check_idx(const dass_dataset *d, int64_t n)
{
    assert_int_equal(d->h, 28);
    assert_int_equal(d->w, 28);
    assert_int_equal(d->c, 1);
    assert_int_equal(d->train.n, n);
    assert_int_equal(d->test.n, N_TEST);
    for (int i = 0; i < n; ++i) {
        assert_int_equal(d->train.labels[i], label(i));
        for (int k = 0; k < 784; ++k)
            assert_int_equal(d->train.images[784 * i + k], pixel(i, k));
    }
}

static void idx_reads_plain_gzip_and_xz(void **state)
{
    (void)state;
    const dass_config c = config("fashion_mnist");
    static const packing ways[] = {XZ, GZIP, PLAIN}; /* plain is preferred where several lie side by side */
    for (size_t i = 0; i < N_OF(ways); ++i) {
        dass_dataset *d = NULL;
        write_idx(ways[i]);
        assert_int_equal(dass_dataset_load(&c, &d), DASS_OK);
        check_idx(d, N_TRAIN);
        dass_dataset_free(d);
    }
}

static void idx_limit_reads_the_first(void **state)
{
    (void)state;
    dass_config c = config("fashion_mnist");
    c.data_limit = 4;
    dass_dataset *d = NULL;
    write_idx(GZIP);
    assert_int_equal(dass_dataset_load(&c, &d), DASS_OK);
    check_idx(d, 4);
    dass_dataset_free(d);
}

static void idx_missing_says_how_to_get_it(void **state)
{
    (void)state;
    dass_config c = config("fashion_mnist");
    (void)snprintf(c.data_path, sizeof c.data_path, "%s/nowhere", folder);
    dass_dataset *d = NULL;
    assert_fails_with(dass_dataset_load(&c, &d), DASS_IO, "dataset-fashion-mnist");
    assert_null(d);
}

static void idx_faults_name_file_and_byte(void **state)
{
    (void)state;
    const dass_config c = config("fashion_mnist");
    dass_dataset *d = NULL;
    write_idx(PLAIN);

    bytes b = idx_images(N_TRAIN);
    write_bytes("train-images-idx3-ubyte", b.data, b.n - 100);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "train-images-idx3-ubyte: ends at byte 9324");
    write_bytes("train-images-idx3-ubyte", b.data, 7);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "ends at byte 7, inside the header");
    b.data[b.n++] = 0;
    write_bytes("train-images-idx3-ubyte", b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "unexpected data after byte 9424");
    b = idx_images(N_TRAIN);
    b.data[3] = 1;
    write_bytes("train-images-idx3-ubyte", b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "byte 0: magic 00000801");
    b = idx_images(N_TRAIN);
    memset(b.data + 4, 0x7F, 4); /* two thousand million images in a file of ten kilobytes */
    write_bytes("train-images-idx3-ubyte", b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "cannot hold");
    memset(b.data + 4, 0xFF, 4);
    write_bytes("train-images-idx3-ubyte", b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "out of range");
    b = idx_images(N_TRAIN);
    b.data[11] = 27;
    write_bytes("train-images-idx3-ubyte", b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "images of 27x28");

    write_idx(PLAIN);
    b = idx_labels(N_TRAIN);
    b.data[8 + 5] = 10;
    write_bytes("train-labels-idx1-ubyte", b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "train-labels-idx1-ubyte: byte 13: label 10");
    b = idx_labels(N_TRAIN - 1);
    write_bytes("train-labels-idx1-ubyte", b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "11 labels for 12 images");
    assert_null(d);
}

static void idx_labels_must_belong_to_the_images(void **state)
{
    (void)state;
    dass_config c = config("fashion_mnist");
    dass_dataset *d = NULL;
    write_idx(PLAIN);
    const char *const name = "train-labels-idx1-ubyte";
    bytes b = idx_labels(N_TRAIN + 1);
    write_bytes(name, b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT,
                      "train-labels-idx1-ubyte: byte 4: 13 labels for 12 images");
    c.data_limit = 3; /* both files belong together, however little of them is read */
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "byte 4: 13 labels for 12 images");
    c.data_limit = 0;
    b = idx_labels(N_TRAIN);
    write_bytes(name, b.data, b.n - 2);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT,
                      "train-labels-idx1-ubyte: ends at byte 18, inside the labels");
    write_bytes(name, b.data, 5);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT,
                      "train-labels-idx1-ubyte: ends at byte 5, inside the header");
    write_bytes(name, b.data, 0);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT,
                      "train-labels-idx1-ubyte: ends at byte 0, inside the header");
    b.data[b.n++] = 1;
    write_bytes(name, b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "train-labels-idx1-ubyte: unexpected data after byte 20");
    b = idx_labels(N_TRAIN);
    b.data[2] = 13; /* floats */
    write_bytes(name, b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "train-labels-idx1-ubyte: byte 0: magic 00000d01");
    b = idx_labels(N_TRAIN);
    memset(b.data + 4, 0, 4);
    write_bytes(name, b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT,
                      "train-labels-idx1-ubyte: byte 4: size 0 is out of range");
    memset(b.data + 4, 0x7F, 4);
    write_bytes(name, b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT,
                      "train-labels-idx1-ubyte: byte 4: the header announces 2139062143");
    assert_int_equal(remove(in_folder(name)), 0);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_IO, "train-labels-idx1-ubyte (plain, .gz or .xz) does not exist");

    write_idx(PLAIN);
    b = idx_labels(N_TEST);
    b.data[8] = 255;
    write_bytes("t10k-labels-idx1-ubyte", b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "t10k-labels-idx1-ubyte: byte 8: label 255");
    assert_int_equal(remove(in_folder("t10k-images-idx3-ubyte")), 0);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_IO, "t10k-images-idx3-ubyte (plain, .gz or .xz) does not exist");
    assert_null(d);
}

/* Content of a file in the folder. */
static size_t read_bytes(const char *name, uint8_t *to, size_t n_max)
{
    FILE *f = fopen(in_folder(name), "rb");
    assert_non_null(f);
    const size_t n = fread(to, 1, n_max, f);
    assert_int_equal(fclose(f), 0);
    assert_true(n > 0 && n < n_max);
    return n;
}

/* Cut a packed file at many places, flip bits of it at many places (behind the gzip header, most of which means
 * nothing), put bytes behind it: always an error that names the file and a byte. */
static void damage(const dass_config *c, const char *name)
{
    static uint8_t file[1 << 17];
    char byte[160];
    const size_t n = read_bytes(name, file, sizeof file - 1);
    (void)snprintf(byte, sizeof byte, "%s: ", name);
    dass_dataset *d = NULL;
    for (size_t cut = 10; cut < n; cut += cut + 1 < n && cut + n / 7 >= n ? n - 1 - cut : n / 7 + 1) {
        write_bytes(name, file, cut);
        assert_fails_with(dass_dataset_load(c, &d), DASS_FORMAT, byte);
        assert_non_null(strstr(dass_error_text(), "at byte "));
    }
    for (size_t at = 12; at < n; at += n / 23 + 1) {
        file[at] ^= 0x55;
        write_bytes(name, file, n);
        assert_fails_with(dass_dataset_load(c, &d), DASS_FORMAT, byte);
        assert_non_null(strstr(dass_error_text(), "byte "));
        file[at] ^= 0x55;
    }
    file[n] = 1;
    write_bytes(name, file, n + 1);
    assert_fails_with(dass_dataset_load(c, &d), DASS_FORMAT, byte);
    assert_null(d);
    write_bytes(name, file, n);
    assert_int_equal(dass_dataset_load(c, &d), DASS_OK);
    dass_dataset_free(d);
}

static void damaged_streams_are_errors(void **state)
{
    (void)state;
    const dass_config c = config("fashion_mnist");
    write_idx(XZ);
    damage(&c, "train-images-idx3-ubyte.xz");
    damage(&c, "t10k-labels-idx1-ubyte.xz");
    write_idx(GZIP); /* tried before .xz */
    damage(&c, "train-images-idx3-ubyte.gz");
    damage(&c, "t10k-labels-idx1-ubyte.gz");
}

/* gzip and xz files may be several streams, one after the other. */
static void joined_streams_are_one_file(void **state)
{
    (void)state;
    static uint8_t file[1 << 17];
    static const char *const suffix[] = {"", ".gz", ".xz"};
    const dass_config c = config("fashion_mnist");
    for (int how = GZIP; how <= XZ; ++how) {
        char name[64];
        dass_dataset *d = NULL;
        bytes part = idx_images(N_TRAIN);
        const size_t whole = part.n;
        const size_t half = 1000;
        write_idx((packing)how);
        part.n = half;
        write_packed("train-images-idx3-ubyte", &part, (packing)how);
        (void)snprintf(name, sizeof name, "train-images-idx3-ubyte%s", suffix[how]);
        const size_t n = read_bytes(name, file, sizeof file);
        part.n = whole - half;
        memmove(part.data, part.data + half, part.n);
        write_packed("train-images-idx3-ubyte", &part, (packing)how);
        const size_t n_second = read_bytes(name, file + n, sizeof file - n);
        write_bytes(name, file, n + n_second);
        assert_int_equal(dass_dataset_load(&c, &d), DASS_OK);
        check_idx(d, N_TRAIN);
        dass_dataset_free(d);
        for (size_t i = 0; how == GZIP && i < 4; ++i) { /* .xz comes last in the search */
            static const char *const stem[] = {"train-images-idx3", "train-labels-idx1", "t10k-images-idx3",
                                               "t10k-labels-idx1"};
            (void)snprintf(name, sizeof name, "%s-ubyte.gz", stem[i]);
            assert_int_equal(remove(in_folder(name)), 0);
        }
    }
}

static void idx_parses_bytes_in_memory(void **state)
{
    (void)state;
    const dass_config c = config("fashion_mnist");
    static uint8_t file[1 << 17];
    dass_dataset d;
    const bytes images = idx_images(N_TRAIN);
    const bytes labels = idx_labels(N_TRAIN);
    assert_int_equal(dass_dataset_describe(&c, &d), DASS_OK);
    write_packed("i", &images, XZ);
    const size_t n = read_bytes("i.xz", file, sizeof file);
    for (int packed = 0; packed < 2; ++packed) {
        const dass_bytes from = {.name = "images", .data = packed ? file : images.data, .n = packed ? n : images.n};
        dass_part p = {.n = 0};
        assert_int_equal(dass_idx_parse(from, (dass_bytes){"labels", labels.data, labels.n}, 0, &d, &p), DASS_OK);
        d.train = p;
        d.test.n = N_TEST; /* as check_idx wants it */
        check_idx(&d, N_TRAIN);
        dass_mem_free(p.images);
        dass_mem_free(p.labels);
        p = (dass_part){.n = 0};
        assert_fails_with(dass_idx_parse(from, (dass_bytes){"labels", labels.data, labels.n - 1}, 0, &d, &p),
                          DASS_FORMAT, "labels: ends at byte 19");
        dass_mem_free(p.images);
        dass_mem_free(p.labels);
    }
}

/* ---- CIFAR ---------------------------------------------------------------------------------------------------- */

static bytes cifar_file(int first, int n)
{
    bytes b = {.n = 0};
    for (int i = first; i < first + n; ++i) {
        b.data[b.n++] = label(i);
        for (int k = 0; k < 3072; ++k)
            b.data[b.n++] = pixel(i, k % 1024 + 77 * (k / 1024));
    }
    return b;
}

static void write_cifar(packing how)
{
    for (int f = 0; f < 5; ++f) {
        char name[32];
        const bytes b = cifar_file(2 * f, 2);
        (void)snprintf(name, sizeof name, "data_batch_%d.bin", f + 1);
        write_packed(name, &b, how);
    }
    const bytes test = cifar_file(0, 3);
    write_packed("test_batch.bin", &test, how);
}

static void cifar_reads_planes_as_nhwc(void **state)
{
    (void)state;
    const dass_config c = config("cifar10");
    static const packing ways[] = {XZ, GZIP, PLAIN};
    for (size_t w = 0; w < N_OF(ways); ++w) {
        dass_dataset *d = NULL;
        write_cifar(ways[w]);
        assert_int_equal(dass_dataset_load(&c, &d), DASS_OK);
        assert_int_equal(d->train.n, 10);
        assert_int_equal(d->test.n, 3);
        for (int i = 0; i < 10; ++i) {
            assert_int_equal(d->train.labels[i], label(i));
            for (int p = 0; p < 1024; ++p)
                for (int ch = 0; ch < 3; ++ch)
                    assert_int_equal(d->train.images[(i * 1024 + p) * 3 + ch], pixel(i, p + 77 * ch));
        }
        dass_dataset_free(d);
    }
}

static void cifar_faults_name_file_and_byte(void **state)
{
    (void)state;
    dass_config c = config("cifar10");
    dass_dataset *d = NULL;
    write_cifar(PLAIN);
    bytes b = cifar_file(0, 2);
    write_bytes("data_batch_2.bin", b.data, b.n - 1);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT,
                      "data_batch_2.bin: ends at byte 6145, inside the record that begins");
    b.data[3073] = 200;
    write_bytes("data_batch_2.bin", b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "data_batch_2.bin: byte 3073: label 200");
    write_bytes("data_batch_2.bin", b.data, 0);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "empty");
    c.data_limit = 2; /* the second file is not needed then */
    assert_int_equal(dass_dataset_load(&c, &d), DASS_OK);
    assert_int_equal(d->train.n, 2);
    dass_dataset_free(d);
    (void)snprintf(c.data_path, sizeof c.data_path, "%s/nowhere", folder);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_IO, "cifar-10-binary.tar.gz");
}

static void cifar_damage_is_an_error(void **state)
{
    (void)state;
    const dass_config c = config("cifar10");
    dass_dataset *d = NULL;
    write_cifar(XZ);
    damage(&c, "data_batch_2.bin.xz");
    damage(&c, "test_batch.bin.xz");
    write_cifar(GZIP);
    damage(&c, "data_batch_2.bin.gz");
    damage(&c, "test_batch.bin.gz");
    assert_int_equal(remove(in_folder("data_batch_4.bin.gz")), 0);
    assert_int_equal(remove(in_folder("data_batch_4.bin.xz")), 0);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_IO, "data_batch_4.bin (plain, .gz or .xz) does not exist");
    assert_null(d);
}

/* A file of the right count, one with a record more, and one with a byte more. */
static void cifar_files_have_ten_thousand_records(void **state)
{
    (void)state;
    static uint8_t record[3073];
    dass_config c = config("cifar10");
    c.data_limit = 10000;
    c.data_test_limit = 3;
    write_cifar(PLAIN);
    assert_int_equal(remove(in_folder("data_batch_1.bin")), 0);
    static const int more[] = {0, 1, (int)sizeof record};
    for (size_t i = 0; i < N_OF(more); ++i) {
        dass_dataset *d = NULL;
        gzFile f = gzopen(in_folder("data_batch_1.bin.gz"), "wb1");
        assert_non_null(f);
        for (int k = 0; k < 10000; ++k)
            assert_int_equal(gzwrite(f, record, sizeof record), (int)sizeof record);
        if (more[i] > 0)
            assert_int_equal(gzwrite(f, record, (unsigned)more[i]), more[i]);
        assert_int_equal(gzclose(f), Z_OK);
        if (more[i] == 0)
            assert_int_equal(dass_dataset_load(&c, &d), DASS_OK);
        else
            assert_fails_with(
                dass_dataset_load(&c, &d), DASS_FORMAT,
                "data_batch_1.bin.gz: unexpected data after byte 30730000: the data set has no more records");
        dass_dataset_free(d);
    }
}

static void load_cifar_subset(void)
{
    const dass_config c = config("cifar10");
    dass_dataset *d = NULL;
    dass_log_set_level(DASS_LOG_WARN);
    if (dass_dataset_load(&c, &d) != DASS_OK)
        (void)fprintf(stderr, "%s", dass_error_text());
    dass_dataset_free(d);
}

static void cifar_subset_is_said_to_be_one(void **state)
{
    (void)state;
    char text[2048];
    write_cifar(PLAIN);
    (void)stderr_of(load_cifar_subset, text, sizeof text);
    assert_non_null(strstr(text, "warning: "));
    assert_non_null(strstr(text, "10 training images, cifar10 has 50000"));
    assert_non_null(strstr(text, "3 test images, cifar10 has 10000"));
}

/* ---- CIFAR-100 ------------------------------------------------------------------------------------------------ */

static uint8_t fine_label(int i)
{
    return (uint8_t)(99 - 13 * i);
}

static bytes cifar100_file(int first, int n)
{
    bytes b = {.n = 0};
    for (int i = first; i < first + n; ++i) {
        b.data[b.n++] = (uint8_t)(19 - i);
        b.data[b.n++] = fine_label(i);
        for (int k = 0; k < 3072; ++k)
            b.data[b.n++] = pixel(i, k % 1024 + 77 * (k / 1024));
    }
    return b;
}

static void write_cifar100(const char *below, packing how)
{
    char name[64];
    const bytes train = cifar100_file(0, 6);
    const bytes test = cifar100_file(4, 3);
    (void)snprintf(name, sizeof name, "%strain.bin", below);
    write_packed(name, &train, how);
    (void)snprintf(name, sizeof name, "%stest.bin", below);
    write_packed(name, &test, how);
}

static void check_cifar100(const dass_part *p, int first, int n)
{
    assert_int_equal(p->n, n);
    for (int i = 0; i < n; ++i) {
        assert_int_equal(p->labels[i], fine_label(first + i));
        for (int k = 0; k < 1024; ++k)
            for (int ch = 0; ch < 3; ++ch)
                assert_int_equal(p->images[(i * 1024 + k) * 3 + ch], pixel(first + i, k + 77 * ch));
    }
}

static void cifar100_reads_fine_labels(void **state)
{
    (void)state;
    dass_config c = config("cifar100");
    static const packing ways[] = {XZ, GZIP, PLAIN};
    dass_dataset *d = NULL;
    for (size_t w = 0; w < N_OF(ways); ++w) {
        write_cifar100("", ways[w]);
        assert_int_equal(dass_dataset_load(&c, &d), DASS_OK);
        assert_int_equal(d->classes, 100);
        check_cifar100(&d->train, 0, 6);
        check_cifar100(&d->test, 4, 3);
        dass_dataset_free(d);
    }
    c.data_limit = 2;
    c.data_test_limit = 1;
    assert_int_equal(dass_dataset_load(&c, &d), DASS_OK);
    check_cifar100(&d->train, 0, 2);
    check_cifar100(&d->test, 4, 1);
    dass_dataset_free(d);

    char command[256]; /* the archive's own folder is preferred */
    (void)snprintf(command, sizeof command, "mkdir '%s/cifar-100-binary' && : > '%s/train.bin'", folder, folder);
    assert_int_equal(system(command), 0);
    write_cifar100("cifar-100-binary/", GZIP);
    assert_int_equal(dass_dataset_load(&c, &d), DASS_OK);
    check_cifar100(&d->train, 0, 2);
    dass_dataset_free(d);
}

static void cifar100_faults_name_file_and_byte(void **state)
{
    (void)state;
    dass_config c = config("cifar100");
    dass_dataset *d = NULL;
    write_cifar100("", PLAIN);
    bytes b = cifar100_file(0, 6);
    b.data[3074 + 1] = 100;
    write_bytes("train.bin", b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT,
                      "train.bin: byte 3075: label 100, cifar100 has classes 0 to 99");
    b.data[3074] = 20;
    write_bytes("train.bin", b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT,
                      "train.bin: byte 3074: coarse label 20, cifar100 has coarse classes 0 to 19");
    b = cifar100_file(0, 6);
    write_bytes("train.bin", b.data, b.n - 3073);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT,
                      "train.bin: ends at byte 15371, inside the record that begins at byte 15370");
    b.data[b.n++] = 0;
    write_bytes("train.bin", b.data, b.n);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT,
                      "train.bin: ends at byte 18445, inside the record that begins at byte 18444 (1 of 3074 bytes)");
    write_bytes("train.bin", b.data, 0);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_FORMAT, "train.bin: byte 0: the file is empty");
    write_cifar100("", PLAIN);
    assert_int_equal(remove(in_folder("test.bin")), 0);
    assert_fails_with(dass_dataset_load(&c, &d), DASS_IO, "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz");
    assert_fails_with(dass_dataset_load(&c, &d), DASS_IO, "test.bin (plain, .gz or .xz) does not exist");
    assert_null(d);

    dass_dataset k;
    dass_part p = {.n = 0};
    b = cifar100_file(0, 6);
    assert_int_equal(dass_dataset_describe(&c, &k), DASS_OK);
    assert_int_equal(dass_cifar_parse((dass_bytes){"bytes", b.data, b.n}, 5, &k, &p), DASS_OK);
    check_cifar100(&p, 0, 5);
    dass_mem_free(p.images);
    dass_mem_free(p.labels);
    p = (dass_part){.n = 0};
    assert_fails_with(dass_cifar_parse((dass_bytes){"bytes", b.data, b.n - 1}, 0, &k, &p), DASS_FORMAT,
                      "bytes: ends at byte 18443");
    dass_mem_free(p.images);
    dass_mem_free(p.labels);
}

/* ---- settings ------------------------------------------------------------------------------------------------- */

static void settings_must_fit_the_data(void **state)
{
    (void)state;
    dass_config c = config("fashion_mnist");
    dass_dataset d;
    assert_int_equal(dass_dataset_describe(&c, &d), DASS_OK);
    assert_fails_with(dass_dataset_check(&d, &c), DASS_CONFIG,
                      "net.image: 32 does not fit data.name fashion_mnist, which needs 28");
    assert_int_equal(dass_dataset_fit(&c), DASS_OK);
    assert_int_equal(dass_dataset_check(&d, &c), DASS_OK);
    assert_int_equal(c.net_in_channels, 1);
    c = config("cifar100");
    assert_int_equal(dass_dataset_fit(&c), DASS_OK);
    assert_int_equal(c.net_classes, 100);
    assert_int_equal(c.net_image, 32);
    assert_int_equal(dass_dataset_describe(&c, &d), DASS_OK);
    assert_int_equal(dass_dataset_check(&d, &c), DASS_OK);
}

int main(void)
{
    dass_log_set_level(DASS_LOG_ERROR); /* the files here are far smaller than the original ones */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(idx_reads_plain_gzip_and_xz, setup, teardown),
        cmocka_unit_test_setup_teardown(idx_limit_reads_the_first, setup, teardown),
        cmocka_unit_test_setup_teardown(idx_missing_says_how_to_get_it, setup, teardown),
        cmocka_unit_test_setup_teardown(idx_faults_name_file_and_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(idx_labels_must_belong_to_the_images, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_streams_are_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(joined_streams_are_one_file, setup, teardown),
        cmocka_unit_test_setup_teardown(idx_parses_bytes_in_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(cifar_reads_planes_as_nhwc, setup, teardown),
        cmocka_unit_test_setup_teardown(cifar_faults_name_file_and_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(cifar_damage_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(cifar_files_have_ten_thousand_records, setup, teardown),
        cmocka_unit_test_setup_teardown(cifar_subset_is_said_to_be_one, setup, teardown),
        cmocka_unit_test_setup_teardown(cifar100_reads_fine_labels, setup, teardown),
        cmocka_unit_test_setup_teardown(cifar100_faults_name_file_and_byte, setup, teardown),
        cmocka_unit_test(settings_must_fit_the_data),
    };
    return cmocka_run_group_tests_name("data", tests, NULL, NULL);
}
