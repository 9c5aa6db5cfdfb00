/* Data: parsers on small files made here (plain, gzip, xz; truncated and corrupt), the split, the order of epochs, and
 * the last batch of an evaluation.
 */
#include <lzma.h>
#include <stdlib.h>
#include <zlib.h>

#include "check.h"
#include "dass/data.h"
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

static void expect(dass_status st, dass_status want, const char *part)
{
    if (st != want || strstr(dass_error_text(), part) == NULL)
        print_error("got %s: %s\nwant %s with: %s\n", dass_status_name(st), dass_error_text(), dass_status_name(want),
                    part);
    assert_int_equal(st, want);
    assert_non_null(strstr(dass_error_text(), part));
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
    expect(dass_dataset_load(&c, &d), DASS_IO, "dataset-fashion-mnist");
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
    expect(dass_dataset_load(&c, &d), DASS_FORMAT, "train-images-idx3-ubyte: ends at byte 9324");
    write_bytes("train-images-idx3-ubyte", b.data, 7);
    expect(dass_dataset_load(&c, &d), DASS_FORMAT, "ends at byte 7, inside the header");
    b.data[b.n++] = 0;
    write_bytes("train-images-idx3-ubyte", b.data, b.n);
    expect(dass_dataset_load(&c, &d), DASS_FORMAT, "unexpected data after byte 9424");
    b = idx_images(N_TRAIN);
    b.data[3] = 1;
    write_bytes("train-images-idx3-ubyte", b.data, b.n);
    expect(dass_dataset_load(&c, &d), DASS_FORMAT, "byte 0: magic 00000801");
    b = idx_images(N_TRAIN);
    memset(b.data + 4, 0x7F, 4); /* two thousand million images in a file of ten kilobytes */
    write_bytes("train-images-idx3-ubyte", b.data, b.n);
    expect(dass_dataset_load(&c, &d), DASS_FORMAT, "cannot hold");
    memset(b.data + 4, 0xFF, 4);
    write_bytes("train-images-idx3-ubyte", b.data, b.n);
    expect(dass_dataset_load(&c, &d), DASS_FORMAT, "out of range");
    b = idx_images(N_TRAIN);
    b.data[11] = 27;
    write_bytes("train-images-idx3-ubyte", b.data, b.n);
    expect(dass_dataset_load(&c, &d), DASS_FORMAT, "images of 27x28");

    write_idx(PLAIN);
    b = idx_labels(N_TRAIN);
    b.data[8 + 5] = 10;
    write_bytes("train-labels-idx1-ubyte", b.data, b.n);
    expect(dass_dataset_load(&c, &d), DASS_FORMAT, "train-labels-idx1-ubyte: byte 13: label 10");
    b = idx_labels(N_TRAIN - 1);
    write_bytes("train-labels-idx1-ubyte", b.data, b.n);
    expect(dass_dataset_load(&c, &d), DASS_FORMAT, "11 labels for 12 images");
    assert_null(d);
}

/* Cut or flip a packed file at many places: a named error or, where nothing that is read changed, success. */
static void damaged_streams_are_errors(void **state)
{
    (void)state;
    const dass_config c = config("fashion_mnist");
    static const packing ways[] = {GZIP, XZ};
    for (size_t w = 0; w < N_OF(ways); ++w) {
        static uint8_t file[65536];
        const char *name = w == 0 ? "train-images-idx3-ubyte.gz" : "train-images-idx3-ubyte.xz";
        (void)remove(in_folder("train-images-idx3-ubyte"));
        (void)remove(in_folder("train-images-idx3-ubyte.gz"));
        (void)remove(in_folder("train-images-idx3-ubyte.xz"));
        write_idx(ways[w]);
        (void)remove(in_folder("train-images-idx3-ubyte"));
        FILE *f = fopen(in_folder(name), "rb");
        assert_non_null(f);
        const size_t n = fread(file, 1, sizeof file, f);
        (void)fclose(f);
        for (size_t cut = 10; cut < n; cut += n / 7) {
            dass_dataset *d = NULL;
            write_bytes(name, file, cut);
            expect(dass_dataset_load(&c, &d), DASS_FORMAT, name);
            assert_null(d);
        }
        for (size_t at = 12; at < n; at += n / 11) {
            dass_dataset *d = NULL;
            file[at] ^= 0x55;
            write_bytes(name, file, n);
            const dass_status st = dass_dataset_load(&c, &d);
            if (st == DASS_OK)
                check_idx(d, N_TRAIN);
            else
                assert_int_equal(st, DASS_FORMAT);
            dass_dataset_free(d);
            file[at] ^= 0x55;
        }
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
    expect(dass_dataset_load(&c, &d), DASS_FORMAT,
           "data_batch_2.bin: ends at byte 6145, inside the record that begins");
    b.data[3073] = 200;
    write_bytes("data_batch_2.bin", b.data, b.n);
    expect(dass_dataset_load(&c, &d), DASS_FORMAT, "data_batch_2.bin: byte 3073: label 200");
    write_bytes("data_batch_2.bin", b.data, 0);
    expect(dass_dataset_load(&c, &d), DASS_FORMAT, "empty");
    c.data_limit = 2; /* the second file is not needed then */
    assert_int_equal(dass_dataset_load(&c, &d), DASS_OK);
    assert_int_equal(d->train.n, 2);
    dass_dataset_free(d);
    (void)snprintf(c.data_path, sizeof c.data_path, "%s/nowhere", folder);
    expect(dass_dataset_load(&c, &d), DASS_IO, "cifar-10-binary.tar.gz");
}

/* ---- split and order ------------------------------------------------------------------------------------------ */

static dass_dataset *random_data(int64_t n, int64_t n_test)
{
    dass_config c = config("random");
    c.net_image = 4;
    c.data_limit = n;
    c.data_test_limit = n_test;
    dass_dataset *d = NULL;
    assert_int_equal(dass_dataset_load(&c, &d), DASS_OK);
    return d;
}

static void split_is_a_permutation(void **state)
{
    (void)state;
    enum { N = 1001 };
    int32_t *a = NULL;
    int32_t *b = NULL;
    int32_t *other = NULL;
    int64_t n_a = 0;
    assert_int_equal(dass_data_split(N, 0.5, 3, &a, &n_a), DASS_OK);
    assert_int_equal(n_a, 500);
    assert_int_equal(dass_data_split(N, 0.5, 3, &b, &n_a), DASS_OK);
    assert_int_equal(dass_data_split(N, 0.5, 4, &other, &n_a), DASS_OK);
    assert_memory_equal(a, b, N * sizeof *a);
    assert_memory_not_equal(a, other, N * sizeof *a);
    bool seen[N] = {false};
    for (int i = 0; i < N; ++i) {
        assert_in_range(a[i], 0, N - 1);
        assert_false(seen[a[i]]);
        seen[a[i]] = true;
    }
    dass_mem_free(a);
    dass_mem_free(b);
    dass_mem_free(other);
    expect(dass_data_split(0, 0.5, 3, &a, &n_a), DASS_ARG, "split of 0 samples");
}

/* Samples of one epoch, in order. */
static int64_t epoch_of(dass_source *s, uint32_t epoch, int32_t *out)
{
    int64_t n = 0;
    dass_source_start(s, epoch);
    for (int64_t i = 0; i < dass_source_steps(s); ++i) {
        dass_batch b;
        assert_int_equal(dass_source_next(s, &b), DASS_OK);
        for (int32_t k = 0; k < b.valid; ++k)
            out[n++] = b.samples[k];
    }
    return n;
}

static void order_is_a_function_of_seed_and_epoch(void **state)
{
    (void)state;
    dass_dataset *d = random_data(50, 7);
    const dass_source_options opt = {.batch = 8, .seed = 5, .name = "train", .shuffle = true};
    dass_source_options validation = opt;
    validation.name = "validation";
    dass_source *a = NULL;
    dass_source *b = NULL;
    dass_source *v = NULL;
    int32_t first[50];
    int32_t again[50];
    assert_int_equal(dass_source_make(d, &d->train, NULL, 50, &opt, &a), DASS_OK);
    assert_int_equal(dass_source_make(d, &d->train, NULL, 50, &opt, &b), DASS_OK);
    assert_int_equal(dass_source_make(d, &d->train, NULL, 50, &validation, &v), DASS_OK);
    assert_int_equal(dass_source_steps(a), 6); /* full batches only: two samples are dropped */
    assert_int_equal(epoch_of(a, 7, first), 48);
    (void)epoch_of(b, 0, again); /* b's past is another */
    (void)epoch_of(b, 3, again);
    (void)epoch_of(b, 7, again);
    assert_memory_equal(first, again, 48 * sizeof *first);
    (void)epoch_of(b, 8, again);
    assert_memory_not_equal(first, again, 48 * sizeof *first);
    (void)epoch_of(v, 7, again);
    assert_memory_not_equal(first, again, 48 * sizeof *first);
    bool seen[50] = {false};
    for (int i = 0; i < 48; ++i) {
        assert_false(seen[first[i]]);
        seen[first[i]] = true;
    }
    dass_source_free(a);
    dass_source_free(b);
    dass_source_free(v);
    dass_dataset_free(d);
}

static void batches_hold_the_images_of_their_samples(void **state)
{
    (void)state;
    dass_dataset *d = random_data(20, 7);
    static const int32_t index[] = {3, 19, 0, 7, 11};
    const dass_source_options opt = {.batch = 2, .seed = 5, .name = "train", .shuffle = true};
    dass_source *s = NULL;
    assert_int_equal(dass_source_make(d, &d->train, index, 5, &opt, &s), DASS_OK);
    const size_t n = 4 * 4 * 3;
    for (int i = 0; i < 7; ++i) { /* more than an epoch: new passes begin */
        dass_batch b;
        assert_int_equal(dass_source_next(s, &b), DASS_OK);
        assert_int_equal(b.valid, 2);
        for (int k = 0; k < 2; ++k) {
            bool listed = false;
            for (int j = 0; j < 5; ++j)
                listed |= b.samples[k] == index[j];
            assert_true(listed);
            assert_memory_equal(b.images + (size_t)k * n, d->train.images + (size_t)b.samples[k] * n, n);
            assert_int_equal(b.labels[k], d->train.labels[b.samples[k]]);
        }
    }
    dass_source_free(s);
    dass_dataset_free(d);
}

static void evaluation_pads_and_says_what_counts(void **state)
{
    (void)state;
    dass_dataset *d = random_data(20, 7);
    const dass_source_options opt = {.batch = 3, .seed = 5, .name = "test", .pad_last = true};
    dass_source *s = NULL;
    assert_int_equal(dass_source_make(d, &d->test, NULL, 7, &opt, &s), DASS_OK);
    assert_int_equal(dass_source_steps(s), 3);
    dass_batch b = {0};
    for (int i = 0; i < 3; ++i)
        assert_int_equal(dass_source_next(s, &b), DASS_OK);
    assert_int_equal(b.rows, 3);
    assert_int_equal(b.valid, 1);
    assert_int_equal(b.samples[0], 6);
    assert_int_equal(b.samples[2], 6); /* a copy of the first row */
    dass_source_free(s);

    const dass_source_options full = {.batch = 8, .seed = 5, .name = "train"};
    expect(dass_source_make(d, &d->test, NULL, 7, &full, &s), DASS_CONFIG, "do not fill one batch of 8");
    assert_null(s);
    dass_dataset_free(d);
}

static void nothing_is_allocated_after_make(void **state)
{
    (void)state;
    dass_dataset *d = random_data(20, 7);
    const dass_source_options opt = {.batch = 4, .seed = 5, .name = "train", .shuffle = true};
    dass_source *s = NULL;
    dass_batch b;
    assert_int_equal(dass_source_make(d, &d->train, NULL, 20, &opt, &s), DASS_OK);
    dass_mem_seal(true);
    for (uint32_t e = 0; e < 3; ++e) {
        dass_source_start(s, e);
        for (int i = 0; i < 5; ++i)
            assert_int_equal(dass_source_next(s, &b), DASS_OK);
    }
    dass_mem_seal(false);
    dass_source_free(s);
    dass_dataset_free(d);
}

static void settings_must_fit_the_data(void **state)
{
    (void)state;
    dass_config c = config("fashion_mnist");
    dass_dataset d;
    assert_int_equal(dass_dataset_describe(&c, &d), DASS_OK);
    expect(dass_dataset_check(&d, &c), DASS_CONFIG,
           "net.image: 32 does not fit data.name fashion_mnist, which needs 28");
    assert_int_equal(dass_dataset_fit(&c), DASS_OK);
    assert_int_equal(dass_dataset_check(&d, &c), DASS_OK);
    assert_int_equal(c.net_in_channels, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(idx_reads_plain_gzip_and_xz, setup, teardown),
        cmocka_unit_test_setup_teardown(idx_limit_reads_the_first, setup, teardown),
        cmocka_unit_test_setup_teardown(idx_missing_says_how_to_get_it, setup, teardown),
        cmocka_unit_test_setup_teardown(idx_faults_name_file_and_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_streams_are_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(cifar_reads_planes_as_nhwc, setup, teardown),
        cmocka_unit_test_setup_teardown(cifar_faults_name_file_and_byte, setup, teardown),
        cmocka_unit_test(split_is_a_permutation),
        cmocka_unit_test(order_is_a_function_of_seed_and_epoch),
        cmocka_unit_test(batches_hold_the_images_of_their_samples),
        cmocka_unit_test(evaluation_pads_and_says_what_counts),
        cmocka_unit_test(nothing_is_allocated_after_make),
        cmocka_unit_test(settings_must_fit_the_data),
    };
    return cmocka_run_group_tests_name("data", tests, NULL, NULL);
}
