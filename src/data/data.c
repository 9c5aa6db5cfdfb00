/* Data sets: which there are, what is constant about them, loading by name, the random one, and the split. Files are
 * read by idx.c and cifar.c, batches are made by source.c. Invariant: a loaded part has n > 0 images with labels in
 * range.
 */
#include "dass/data.h"
#include "dass/mem.h"
#include "dass/rng.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define RANDOM_TRAIN 2048
#define RANDOM_TEST 512

/* One row per word of data.name. mean and std: of the training images in [0, 1]. */
static const struct {
    const char *name;
    int32_t h, w, c, classes;
    double mean[DASS_MAX_IMAGE_CHANNELS], std[DASS_MAX_IMAGE_CHANNELS];
} known[] = {
    {"fashion_mnist", 28, 28, 1, 10, {0.2860}, {0.3530}},
    {"cifar10", 32, 32, 3, 10, {0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}},
    {"cifar100", 32, 32, 3, 100, {0.5071, 0.4865, 0.4409}, {0.2673, 0.2564, 0.2762}},
};

static dass_status describe(const dass_config *c, dass_dataset *out)
{
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i) {
        if (strcmp(c->data_name, known[i].name) != 0)
            continue;
        *out = (dass_dataset){
            .name = known[i].name, .h = known[i].h, .w = known[i].w, .c = known[i].c, .classes = known[i].classes};
        memcpy(out->mean, known[i].mean, sizeof out->mean);
        memcpy(out->std, known[i].std, sizeof out->std);
        return DASS_OK;
    }
    if (strcmp(c->data_name, "random") != 0)
        return DASS_FAIL(DASS_CONFIG, "%s: data.name: '%s' is not fashion_mnist, cifar10, cifar100 or random",
                         c->origin[DASS_KEY_data_name], c->data_name);
    if (c->net_in_channels < 1 || c->net_in_channels > DASS_MAX_IMAGE_CHANNELS)
        return DASS_FAIL(DASS_CONFIG, "%s: net.in_channels: %lld, random images have 1 to %d channels",
                         c->origin[DASS_KEY_net_in_channels], (long long)c->net_in_channels, DASS_MAX_IMAGE_CHANNELS);
    if (c->net_image < 1 || c->net_image > 4096 || c->net_classes < 2 || c->net_classes > 100000)
        return DASS_FAIL(DASS_CONFIG, "net.image %lld or net.classes %lld is out of range for random images",
                         (long long)c->net_image, (long long)c->net_classes);
    *out = (dass_dataset){.name = "random",
                          .h = (int32_t)c->net_image,
                          .w = (int32_t)c->net_image,
                          .c = (int32_t)c->net_in_channels,
                          .classes = (int32_t)c->net_classes};
    for (int i = 0; i < DASS_MAX_IMAGE_CHANNELS; ++i) {
        out->mean[i] = 0.5;
        out->std[i] = 0.29;
    }
    return DASS_OK;
}

dass_status dass_dataset_describe(const dass_config *c, dass_dataset *out)
{
    DASS_TRY(describe(c, out));
    for (int i = 0; !c->data_normalize && i < DASS_MAX_IMAGE_CHANNELS; ++i) {
        out->mean[i] = 0.0;
        out->std[i] = 1.0;
    }
    return DASS_OK;
}

dass_status dass_dataset_load(const dass_config *c, dass_dataset **out)
{
    *out = NULL;
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(sizeof(dass_dataset), "data set", &block));
    dass_dataset *d = block;
    dass_status st = DASS_OK;
    DASS_TRY_TO(dass_dataset_describe(c, d), st, fail);
    if (strcmp(d->name, "fashion_mnist") == 0)
        st = dass_idx_load(c->data_path, c->data_limit, c->data_test_limit, d);
    else if (strcmp(d->name, "cifar10") == 0 || strcmp(d->name, "cifar100") == 0)
        st = dass_cifar_load(c->data_path, c->data_limit, c->data_test_limit, d);
    else
        st = dass_random_load((uint64_t)c->run_seed, c->data_limit > 0 ? c->data_limit : RANDOM_TRAIN,
                              c->data_test_limit > 0 ? c->data_test_limit : RANDOM_TEST, d);
    if (st != DASS_OK)
        goto fail;
    *out = d;
    return DASS_OK;
fail:
    dass_dataset_free(d);
    return st;
}

void dass_dataset_free(dass_dataset *d)
{
    if (d == NULL)
        return;
    dass_mem_free(d->train.images);
    dass_mem_free(d->train.labels);
    dass_mem_free(d->test.images);
    dass_mem_free(d->test.labels);
    dass_mem_free(d);
}

static dass_status check_key(const dass_dataset *d, const dass_config *c, dass_config_key key, int64_t value,
                             int64_t want)
{
    if (value == want)
        return DASS_OK;
    return DASS_FAIL(DASS_CONFIG, "%s: %s: %lld does not fit data.name %s, which needs %lld", c->origin[key],
                     dass_config_key_name(key), (long long)value, d->name, (long long)want);
}

dass_status dass_dataset_check(const dass_dataset *d, const dass_config *c)
{
    DASS_TRY(check_key(d, c, DASS_KEY_net_image, c->net_image, d->h));
    DASS_TRY(check_key(d, c, DASS_KEY_net_in_channels, c->net_in_channels, d->c));
    DASS_TRY(check_key(d, c, DASS_KEY_net_classes, c->net_classes, d->classes));
    return DASS_OK;
}

dass_status dass_dataset_fit(dass_config *c)
{
    dass_dataset d;
    DASS_TRY(dass_dataset_describe(c, &d));
    const struct {
        dass_config_key key;
        int32_t value;
    } fit[] = {{DASS_KEY_net_image, d.h}, {DASS_KEY_net_in_channels, d.c}, {DASS_KEY_net_classes, d.classes}};
    dass_text origin;
    (void)snprintf(origin, sizeof origin, "data.name %s", d.name);
    for (size_t i = 0; i < sizeof fit / sizeof *fit; ++i) {
        if (strcmp(c->origin[fit[i].key], "default") != 0)
            continue;
        char text[64];
        (void)snprintf(text, sizeof text, "%s=%d", dass_config_key_name(fit[i].key), fit[i].value);
        DASS_TRY(dass_config_set(c, text, origin));
    }
    return DASS_OK;
}

/* ---- random ---------------------------------------------------------------------------------------------------- */

static dass_status random_part(uint64_t seed, const char *name, int64_t n, const dass_dataset *d, dass_part *p)
{
    size_t image_bytes = (size_t)d->h * (size_t)d->w * (size_t)d->c;
    size_t bytes = 0;
    void *block = NULL;
    DASS_TRY(dass_mem_mul(image_bytes, (size_t)n, "images", &bytes));
    DASS_TRY(dass_mem_alloc(bytes, "images", &block));
    p->images = block;
    DASS_TRY(dass_mem_alloc((size_t)n * sizeof(int32_t), "labels", &block));
    p->labels = block;
    p->n = n;
    for (int64_t i = 0; i < n; ++i) {
        dass_rng r = dass_rng_make(seed, DASS_RNG_TEST, dass_name_hash(name), (uint32_t)i);
        const uint32_t label = dass_rng_below(&r, (uint32_t)d->classes);
        p->labels[i] = (int32_t)label;
        uint8_t *dst = p->images + (size_t)i * image_bytes;
        for (size_t k = 0; k < image_bytes;) {
            const uint32_t noise = dass_rng_u32(&r);
            for (int b = 0; b < 4 && k < image_bytes; ++b, ++k) {
                /* A band of rows, whose place tells the class, is brighter by half the range. */
                const size_t row = k / ((size_t)d->w * (size_t)d->c);
                const bool band = row * (size_t)d->classes / (size_t)d->h == label;
                dst[k] = (uint8_t)(((noise >> (8 * b)) & 0xFF) / 2 + (band ? 128 : 0));
            }
        }
    }
    return DASS_OK;
}

dass_status dass_random_load(uint64_t seed, int64_t n, int64_t test_n, dass_dataset *d)
{
    if (n < 1 || test_n < 1 || n > INT32_MAX || test_n > INT32_MAX)
        return DASS_FAIL(DASS_ARG, "random data: %lld training and %lld test images; both must be 1 to 2^31 - 1",
                         (long long)n, (long long)test_n);
    DASS_TRY(random_part(seed, "random train", n, d, &d->train));
    DASS_TRY(random_part(seed, "random test", test_n, d, &d->test));
    return DASS_OK;
}

/* ---- split ----------------------------------------------------------------------------------------------------- */

dass_status dass_data_split(int64_t n, double part, uint64_t seed, int32_t **index, int64_t *n_first)
{
    *index = NULL;
    *n_first = 0;
    if (n < 1 || n > INT32_MAX || !(part >= 0.0 && part <= 1.0))
        return DASS_FAIL(DASS_ARG, "split of %lld samples at %g: needs 1 to 2^31 - 1 samples and a part in [0, 1]",
                         (long long)n, part);
    void *block = NULL;
    DASS_TRY(dass_mem_alloc((size_t)n * sizeof(int32_t), "split", &block));
    int32_t *p = block;
    for (int64_t i = 0; i < n; ++i)
        p[i] = (int32_t)i;
    dass_rng r = dass_rng_make(seed, DASS_RNG_SPLIT, dass_name_hash("split"), 0);
    for (int64_t i = n - 1; i > 0; --i) {
        const uint32_t j = dass_rng_below(&r, (uint32_t)i + 1);
        const int32_t swap = p[i];
        p[i] = p[j];
        p[j] = swap;
    }
    *index = p;
    *n_first = (int64_t)floor(part * (double)n);
    return DASS_OK;
}
