/* Data sets as bytes, and batches as lists of sample numbers.
 *
 * A data set is u8 images in NHWC order and i32 labels, whole in host memory; cropping, mirroring and normalising are
 * an op of the graph (dass_augment). Which samples form batch i of epoch e is a pure function of (seed, name, e, i):
 * not of threads, of earlier epochs or of the batch source's age.
 *
 *     DASS_TRY(dass_dataset_load(cfg, &data));
 *     DASS_TRY(dass_data_split(data->train.n, 0.5, seed, &index));      index[0 .. n/2) trains, the rest validates
 *     DASS_TRY(dass_source_make(data, &data->train, index, n / 2, &opt, &src));
 *     dass_source_start(src, epoch);
 *     for (i = 0; i < dass_source_steps(src); ++i) DASS_TRY(dass_source_next(src, &batch)) ...
 */
#ifndef DASS_DATA_H
#define DASS_DATA_H

#include "dass/config.h"

/* One part of a data set. */
typedef struct dass_part {
    int64_t n;
    uint8_t *images; /* (n, h, w, c) */
    int32_t *labels; /* (n), each in [0, classes) */
} dass_part;

typedef struct dass_dataset {
    const char *name;
    int32_t h, w, c, classes;
    dass_part train, test;
    double mean[DASS_MAX_IMAGE_CHANNELS]; /* per channel, of values in [0, 1] over the training images; 0 and 1 when
                                             data.normalize is off */
    double std[DASS_MAX_IMAGE_CHANNELS];
} dass_dataset;

/* Load data.name from data.path, at most data.limit and data.test_limit images (0 = all). "random" makes images of
 * net.in_channels x net.image x net.image from run.seed, data.limit and data.test_limit of them (2048 and 512 when 0).
 * Errors: DASS_IO, naming the file and the package or page it comes from; DASS_FORMAT, naming file and byte offset. */
dass_status dass_dataset_load(const dass_config *c, dass_dataset **out);
void dass_dataset_free(dass_dataset *d); /* NULL is fine */
/* Whether the network of `c` fits the data: image size, channels, classes. DASS_CONFIG naming key, value and origin. */
dass_status dass_dataset_check(const dass_dataset *d, const dass_config *c);
/* Give net.image, net.in_channels and net.classes the data's values where they are still defaults; the origin says so.
 */
dass_status dass_dataset_fit(dass_config *c);
/* Constants of a data set by name, without reading it: h, w, c, classes, mean and std. DASS_CONFIG for unknown words.
 */
dass_status dass_dataset_describe(const dass_config *c, dass_dataset *out);

/* ---- formats: each fills the parts of *d, whose other fields are set ------------------------------------------- */

/* A file's content, or its compressed form (gzip, xz), that lies in memory. */
typedef struct dass_bytes {
    const char *name; /* begins messages, as a file's path would */
    const void *data;
    size_t n;
} dass_bytes;

/* IDX (LeCun): {train,t10k}-images-idx3-ubyte and -labels-idx1-ubyte, each plain, .gz or .xz, in folder `path`. */
dass_status dass_idx_load(const char *path, int64_t limit, int64_t test_limit, dass_dataset *d);
/* One part of it. *p: all zero before; on error it may own blocks, which dass_mem_free takes. */
dass_status dass_idx_parse(dass_bytes images, dass_bytes labels, int64_t limit, const dass_dataset *d, dass_part *p);
/* CIFAR binary, each file plain, .gz or .xz. CIFAR-10: data_batch_1 ... 5.bin and test_batch.bin, in `path` or in its
 * folder cifar-10-batches-bin; a record is one label byte, then c planes of h x w bytes. CIFAR-100 (d->name
 * "cifar100"): train.bin and test.bin, in `path` or in its folder cifar-100-binary; a record has a coarse label byte
 * before the (fine) label. Fewer images than the original has are read with a warning, more records in a file are an
 * error. */
dass_status dass_cifar_load(const char *path, int64_t limit, int64_t test_limit, dass_dataset *d);
/* The records of one training file, at most `limit` (0 = all) of them; *p as above. */
dass_status dass_cifar_parse(dass_bytes file, int64_t limit, const dass_dataset *d, dass_part *p);
/* Images of class-dependent brightness patterns plus noise, so that something can be learnt from them. */
dass_status dass_random_load(uint64_t seed, int64_t n, int64_t test_n, dass_dataset *d);

/* ---- order ------------------------------------------------------------------------------------------------- */

/* A permutation of [0, n), the same for the same (seed, n). The first *n_first = floor(part n) are one side. index: a
 * block of n int32, freed by the caller with dass_mem_free. */
dass_status dass_data_split(int64_t n, double part, uint64_t seed, int32_t **index, int64_t *n_first);

typedef struct dass_source dass_source;
typedef struct dass_source_options {
    int32_t batch; /* rows of every batch */
    uint64_t seed;
    const char *name; /* streams of different names are unrelated; outlives the source */
    bool shuffle;     /* false: the order of `index` */
    bool pad_last;    /* true: the last batch is filled up with its own first row and `valid` says how many count;
                         false: only full batches, the remainder of the epoch is dropped */
    bool prefetch;    /* a thread gathers up to two batches ahead of the caller; the batches are the same */
} dass_source_options;

typedef struct dass_batch {
    const uint8_t *images;  /* (rows, h, w, c) */
    const int32_t *labels;  /* (rows) */
    const int32_t *samples; /* (rows): index in the part, key of the augmentation's draws */
    size_t image_bytes;     /* of one image */
    int32_t rows;
    int32_t valid; /* rows that count, the first ones */
} dass_batch;

/* Batches of the samples index[0 .. n) (NULL: all n of the part). d, part and index are borrowed, must outlive the
 * source and not change; its staging buffers (three with prefetch, else one) and its thread are made here, none later.
 * The thread blocks all signals. One caller's thread at a time. Errors: DASS_CONFIG when n gives no single batch;
 * DASS_NOMEM, also when the system refuses a thread. */
dass_status dass_source_make(const dass_dataset *d, const dass_part *part, const int32_t *index, int64_t n,
                             const dass_source_options *opt, dass_source **out);
void dass_source_free(dass_source *s);           /* NULL is fine; ends the thread */
int64_t dass_source_steps(const dass_source *s); /* batches of an epoch */
int64_t dass_source_samples(const dass_source *s);
/* Go to the first batch of an epoch. */
void dass_source_start(dass_source *s, uint32_t epoch);
/* Go where start(epoch) and `batch` (>= 0) calls of next lead, computed: past the end of the epoch into its later
 * passes. A batch already handed out stays valid. */
void dass_source_seek(dass_source *s, uint32_t epoch, int64_t batch);
/* The samples of the epoch's first `batches` batches, those of later passes included, one batch after another: what as
 * many calls of next after start(epoch) would hand out as samples. order: batches * batch entries, the caller's. Where
 * the source stands does not change. For a source without prefetch; errors as next. */
dass_status dass_source_order(dass_source *s, uint32_t epoch, int64_t batches, int32_t *order);
/* The next batch, valid until the next call. Past the end of the epoch a new pass begins, with an order of its own: a
 * pure function of (seed, name, epoch, pass). After an error every call gives it again, until start or seek.
 * Errors: DASS_ARG when an entry of index has left the part. */
dass_status dass_source_next(dass_source *s, dass_batch *out);

#endif
