/* Settings: the table made from config.def, its defaults, --set, the ranges and the printing.
 *
 * Not the reader of files, which is config_yaml.c.
 * Invariant: a value enters the struct only through dass__config_assign, which checks its type and
 * notes its origin; what is printed reads back as the same value.
 */
#include "dass/config.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config_private.h"
#include "dass/text.h"

enum {
    WORD_BYTES = 128, /* longest word dass_nearest looks at */
    SHOWN_BYTES = 64  /* of a wrong value, quoted in a message */
};
_Static_assert(SHOWN_BYTES + 4 <= sizeof(dass__config_quote), "a cut value and its dots fit");

/* ---- the table ---- */

typedef enum value_type { TYPE_INT, TYPE_REAL, TYPE_BOOL, TYPE_TEXT, TYPE_ENUM } value_type;

typedef struct entry {
    value_type type;
    size_t offset;
    const char *name;
    const char *def;
    const char *help;
} entry;

static const entry table[DASS_N_KEYS] = {
#define X(type, key, field, def, help) {TYPE_##type, offsetof(dass_config, field), #key, def, help},
#include "dass/config.def"
#undef X
};

static const char *const key_names[DASS_N_KEYS] = {
#define X(type, key, field, def, help) #key,
#include "dass/config.def"
#undef X
};

const char *dass_config_key_name(dass_config_key k)
{
    return table[k].name;
}

const char *dass_config_key_help(dass_config_key k)
{
    return table[k].help;
}

const char *dass_config_key_default(dass_config_key k)
{
    return table[k].def;
}

/* The next of the words {a|b|c} of an enum's help: *at starts at NULL. Returns its length, 0 after
 * the last. */
static size_t next_word(const entry *e, const char **at)
{
    const char *p = *at == NULL ? strchr(e->help, '{') : *at + strcspn(*at, "|}");
    DASS_ASSERT(p != NULL);
    if (*p == '}' || *p == '\0')
        return 0;
    *at = p + 1;
    return strcspn(*at, "|}");
}

/* ---- the nearest word ---- */

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Levenshtein distance of two words of at most WORD_BYTES bytes. */
static size_t edit_distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
    size_t row[WORD_BYTES + 1];
    for (size_t j = 0; j <= n_b; j++)
        row[j] = j;
    for (size_t i = 1; i <= n_a; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            const size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = min_size(replaced, 1 + min_size(row[j], row[j - 1]));
        }
    }
    return row[n_b];
}

/* A third of the letters may be wrong, two always; but a word wrong in every letter is near
 * nothing. */
const char *dass_nearest(const char *word, const char *const *words, size_t n)
{
    const size_t n_word = strlen(word);
    if (n_word > WORD_BYTES)
        return NULL;
    const size_t limit = n_word / 3 > 2 ? n_word / 3 : 2;
    const char *best = NULL;
    size_t best_distance = min_size(limit + 1, n_word);
    for (size_t i = 0; i < n; i++) {
        const size_t n_i = strlen(words[i]);
        if (n_i > WORD_BYTES)
            continue;
        const size_t d = edit_distance(word, n_word, words[i], n_i);
        if (d < best_distance) {
            best_distance = d;
            best = words[i];
        }
    }
    return best;
}

/* ---- messages ---- */

const char *dass__config_show(const char *value, dass__config_quote buf)
{
    size_t n = 0;
    for (; value[n] != '\0' && n < SHOWN_BYTES; n++) {
        const unsigned char b = (unsigned char)value[n];
        buf[n] = value[n];
        if (b < 0x20 || b == 0x7f)
            buf[n] = '?';
    }
    if (value[n] == '\0') {
        buf[n] = '\0';
        return buf;
    }
    /* Do not cut within a character. */
    while (n > 0 && ((unsigned char)value[n] & 0xc0) == 0x80)
        n--;
    memcpy(buf + n, "...", 4);
    return buf;
}

/* A key that only lacks its section ("density") is met by the first key that ends with it. */
static const char *nearest_key(const char *path)
{
    const char *near = dass_nearest(path, key_names, DASS_N_KEYS);
    const size_t n_path = strlen(path);
    for (size_t k = 0; near == NULL && k < DASS_N_KEYS; k++) {
        const size_t n_key = strlen(key_names[k]);
        if (n_path > 0 && n_key > n_path && key_names[k][n_key - n_path - 1] == '.' &&
            strcmp(key_names[k] + n_key - n_path, path) == 0) {
            near = key_names[k];
        }
    }
    return near;
}

dass_status dass__config_fail_unknown(const char *origin, const char *path)
{
    dass__config_quote buf;
    const char *near = nearest_key(path);
    if (near != NULL) {
        return DASS_FAIL(DASS_CONFIG, "%s: unknown key '%s' (did you mean '%s'?)", origin,
                         dass__config_show(path, buf), near);
    }
    return DASS_FAIL(DASS_CONFIG, "%s: unknown key '%s' ('dass help config' lists the keys)",
                     origin, dass__config_show(path, buf));
}

static dass_status fail_value(const entry *e, const char *value, const char *origin,
                              const char *expected)
{
    dass__config_quote buf;
    return DASS_FAIL(DASS_CONFIG, "%s: %s: '%s' is not %s (%s)", origin, e->name,
                     dass__config_show(value, buf), expected, e->help);
}

/* ---- values ---- */

static dass_status assign_int(const entry *e, const char *value, const char *origin, int64_t *out)
{
    const size_t n = strspn(value, "+-0123456789");
    char *end = NULL;
    errno = 0;
    const long long x = strtoll(value, &end, 10);
    if (n == 0 || value[n] != '\0' || *end != '\0')
        return fail_value(e, value, origin, "an integer");
    if (errno == ERANGE)
        return fail_value(e, value, origin, "an integer of 64 bits");
    *out = x;
    return DASS_OK;
}

static dass_status assign_real(const entry *e, const char *value, const char *origin, double *out)
{
    /* Only decimal numbers: strtod would take hexadecimals, infinities and nan(...) too. */
    const size_t n = strspn(value, "+-.0123456789eE");
    char *end = NULL;
    errno = 0;
    const double x = strtod(value, &end);
    if (n == 0 || value[n] != '\0' || end == value || *end != '\0') {
        return fail_value(e, value, origin, "a finite number");
    }
    /* A subnormal sets ERANGE as well but is a number like others. */
    if (!isfinite(x) || (errno == ERANGE && x == 0.0)) {
        return fail_value(e, value, origin, "a number a double can hold");
    }
    *out = x;
    return DASS_OK;
}

static dass_status assign_bool(const entry *e, const char *value, const char *origin, bool *out)
{
    static const struct {
        const char *word;
        bool value;
    } words[] = {{"true", true}, {"false", false}, {"yes", true},
                 {"no", false},  {"on", true},     {"off", false}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(value, words[i].word) == 0) {
            *out = words[i].value;
            return DASS_OK;
        }
    }
    return fail_value(e, value, origin, "true or false");
}

/* Only what dass_config_print can write so that it reads back the same. */
static dass_status assign_text(const entry *e, const char *value, const char *origin, dass_text out)
{
    const size_t n = strlen(value);
    if (n >= DASS_TEXT_MAX)
        return fail_value(e, value, origin, "a text of at most 511 bytes");
    for (size_t i = 0; i < n;) {
        const size_t step = dass_text_char(value + i);
        if (step == 0)
            return fail_value(e, value, origin, "a text of printable UTF-8 on one line");
        i += step;
    }
    memcpy(out, value, n + 1);
    return DASS_OK;
}

static dass_status assign_enum(const entry *e, const char *value, const char *origin, dass_text out)
{
    char copies[8][32];
    const char *words[8];
    char listed[160] = "";
    size_t n_words = 0;
    const char *at = NULL;
    for (size_t n = next_word(e, &at); n > 0; n = next_word(e, &at)) {
        DASS_ASSERT(n_words < 8 && n < sizeof copies[0]);
        memcpy(copies[n_words], at, n);
        copies[n_words][n] = '\0';
        words[n_words] = copies[n_words];
        if (strcmp(value, words[n_words]) == 0) {
            memcpy(out, value, n + 1);
            return DASS_OK;
        }
        const size_t used = strlen(listed);
        (void)snprintf(listed + used, sizeof listed - used, "%s%s", n_words > 0 ? ", " : "",
                       words[n_words]);
        n_words++;
    }
    dass__config_quote buf;
    const char *near = dass_nearest(value, words, n_words);
    if (near != NULL) {
        return DASS_FAIL(DASS_CONFIG, "%s: %s: '%s' is not one of %s (did you mean '%s'?)", origin,
                         e->name, dass__config_show(value, buf), listed, near);
    }
    return DASS_FAIL(DASS_CONFIG, "%s: %s: '%s' is not one of %s", origin, e->name,
                     dass__config_show(value, buf), listed);
}

dass_status dass__config_assign(dass_config *c, size_t k, const char *value, const char *origin)
{
    const entry *e = &table[k];
    void *field = (char *)c + e->offset;
    switch (e->type) {
    case TYPE_INT:
        DASS_TRY(assign_int(e, value, origin, field));
        break;
    case TYPE_REAL:
        DASS_TRY(assign_real(e, value, origin, field));
        break;
    case TYPE_BOOL:
        DASS_TRY(assign_bool(e, value, origin, field));
        break;
    case TYPE_TEXT:
        DASS_TRY(assign_text(e, value, origin, field));
        break;
    case TYPE_ENUM:
        DASS_TRY(assign_enum(e, value, origin, field));
        break;
    }
    (void)snprintf(c->origin[k], sizeof c->origin[k], "%s", origin);
    dass_text_clean(c->origin[k]); /* a file may have any name; this one becomes a comment on one line */
    return DASS_OK;
}

/* Index of a key; DASS_N_KEYS when there is none. */
size_t dass__config_find_key(const char *path)
{
    size_t k = 0;
    while (k < DASS_N_KEYS && strcmp(table[k].name, path) != 0)
        k++;
    return k;
}

/* Index of the first key below a section; DASS_N_KEYS when there is none. */
size_t dass__config_find_section(const char *path)
{
    const size_t n = strlen(path);
    size_t k = 0;
    while (k < DASS_N_KEYS && !(strncmp(table[k].name, path, n) == 0 && table[k].name[n] == '.'))
        k++;
    return k;
}

void dass_config_defaults(dass_config *c)
{
    memset(c, 0, sizeof *c);
    for (size_t k = 0; k < DASS_N_KEYS; k++) {
        DASS_ASSERT(dass__config_assign(c, k, table[k].def, "default") == DASS_OK);
    }
}

dass_status dass_config_set(dass_config *c, const char *assignment, const char *origin)
{
    dass__config_quote buf;
    const char *equals = strchr(assignment, '=');
    if (equals == NULL) {
        return DASS_FAIL(DASS_CONFIG, "%s: '%s' is not of the form key=value", origin,
                         dass__config_show(assignment, buf));
    }
    const size_t n = (size_t)(equals - assignment);
    if (n >= DASS__CONFIG_KEY_MAX) {
        return DASS_FAIL(DASS_CONFIG, "%s: the key '%s' is too long", origin,
                         dass__config_show(assignment, buf));
    }
    char path[DASS__CONFIG_KEY_MAX];
    memcpy(path, assignment, n);
    path[n] = '\0';
    const size_t k = dass__config_find_key(path);
    if (k < DASS_N_KEYS)
        return dass__config_assign(c, k, equals + 1, origin);
    if (dass__config_find_section(path) < DASS_N_KEYS) {
        return DASS_FAIL(DASS_CONFIG, "%s: '%s' is a section; set one of its keys, such as '%s'",
                         origin, path, table[dass__config_find_section(path)].name);
    }
    return dass__config_fail_unknown(origin, path);
}

/* ---- ranges ---- */

typedef struct range {
    enum { NO_RANGE, CLOSED, OPEN_LOW, OPEN_HIGH, OPEN_BOTH } ends; /* open = excluded */
    double low;
    double high;
} range;

/* Every number has a range: a key added to the table without one fails the assertion below. The
 * upper ends are far beyond use; they keep products of a few settings away from overflow. */
static const range ranges[DASS_N_KEYS] = {
    [DASS_KEY_net_channels] = {CLOSED, 2, DASS_MAX_CHANNELS},
    [DASS_KEY_net_layers] = {CLOSED, 1, DASS_MAX_LAYERS},
    [DASS_KEY_net_nodes] = {CLOSED, 1, DASS_MAX_NODES},
    [DASS_KEY_net_classes] = {CLOSED, 2, DASS_MAX_CLASSES},
    [DASS_KEY_net_in_channels] = {CLOSED, 1, DASS_MAX_IMAGE_CHANNELS},
    [DASS_KEY_net_image] = {CLOSED, DASS_MIN_IMAGE, DASS_MAX_IMAGE},
    [DASS_KEY_search_density] = {OPEN_LOW, 0, 1},
    [DASS_KEY_search_order] = {CLOSED, 1, 2},
    [DASS_KEY_search_epochs_pretrain] = {CLOSED, 0, 1e6},
    [DASS_KEY_search_epochs_score] = {CLOSED, 0, 1e6},
    [DASS_KEY_search_epochs_finetune] = {CLOSED, 0, 1e6},
    [DASS_KEY_search_lr] = {OPEN_LOW, 0, 1e3},
    [DASS_KEY_search_lr_score] = {OPEN_LOW, 0, 1e3},
    [DASS_KEY_search_lr_min] = {CLOSED, 0, 1e3},
    [DASS_KEY_search_momentum] = {OPEN_HIGH, 0, 1},
    [DASS_KEY_search_weight_decay] = {CLOSED, 0, 1},
    [DASS_KEY_search_clip] = {OPEN_LOW, 0, 1e9},
    [DASS_KEY_search_alpha_lr] = {OPEN_LOW, 0, 1e3},
    [DASS_KEY_search_alpha_beta1] = {OPEN_HIGH, 0, 1},
    [DASS_KEY_search_alpha_beta2] = {OPEN_HIGH, 0, 1},
    [DASS_KEY_search_alpha_weight_decay] = {CLOSED, 0, 1},
    [DASS_KEY_search_train_part] = {OPEN_BOTH, 0, 1},
    [DASS_KEY_train_epochs] = {CLOSED, 1, 1e6},
    [DASS_KEY_train_batch] = {CLOSED, 1, 65536},
    [DASS_KEY_train_lr] = {OPEN_LOW, 0, 1e3},
    [DASS_KEY_train_lr_min] = {CLOSED, 0, 1e3},
    [DASS_KEY_train_momentum] = {OPEN_HIGH, 0, 1},
    [DASS_KEY_train_weight_decay] = {CLOSED, 0, 1},
    [DASS_KEY_train_clip] = {OPEN_LOW, 0, 1e9},
    [DASS_KEY_train_warmup] = {CLOSED, 0, 1e6},
    [DASS_KEY_train_drop_path] = {OPEN_HIGH, 0, 1},
    [DASS_KEY_train_auxiliary] = {CLOSED, 0, 100},
    [DASS_KEY_train_ema] = {OPEN_HIGH, 0, 1},
    [DASS_KEY_train_label_smoothing] = {OPEN_HIGH, 0, 1},
    [DASS_KEY_prune_density] = {OPEN_LOW, 0, 1},
    [DASS_KEY_prune_every] = {CLOSED, 1, 1e9},
    [DASS_KEY_prune_epochs_score] = {CLOSED, 0, 1e6},
    [DASS_KEY_prune_epochs_finetune] = {CLOSED, 0, 1e6},
    [DASS_KEY_prune_lr_score] = {OPEN_LOW, 0, 1e3},
    [DASS_KEY_prune_lr_finetune] = {OPEN_LOW, 0, 1e3},
    [DASS_KEY_data_limit] = {CLOSED, 0, 2147483647},
    [DASS_KEY_data_test_limit] = {CLOSED, 0, 2147483647},
    [DASS_KEY_data_pad] = {CLOSED, 0, 256},
    [DASS_KEY_data_cutout] = {CLOSED, 0, 4096},
    [DASS_KEY_run_threads] = {CLOSED, 0, 4096},
    [DASS_KEY_run_seed] = {CLOSED, 0, 0x1p63},
    [DASS_KEY_run_eval_batch] = {CLOSED, 1, 65536},
    [DASS_KEY_bench_batch] = {CLOSED, 1, 65536},
    [DASS_KEY_run_checkpoint_minutes] = {OPEN_LOW, 0, 1e6},
    [DASS_KEY_run_keep] = {CLOSED, 1, 1e6},
};

static dass_status check_range(const dass_config *c, size_t k)
{
    const entry *e = &table[k];
    const range *g = &ranges[k];
    if (e->type != TYPE_INT && e->type != TYPE_REAL)
        return DASS_OK;
    DASS_ASSERT(g->ends != NO_RANGE);
    const void *field = (const char *)c + e->offset;
    const double x = e->type == TYPE_INT ? (double)*(const int64_t *)field : *(const double *)field;
    const bool open_low = g->ends == OPEN_LOW || g->ends == OPEN_BOTH;
    const bool open_high = g->ends == OPEN_HIGH || g->ends == OPEN_BOTH;
    const bool good =
        (open_low ? x > g->low : x >= g->low) && (open_high ? x < g->high : x <= g->high);
    if (good)
        return DASS_OK;
    char value[DASS_CONFIG_PRINT_MAX];
    dass_config_print(c, (dass_config_key)k, value, sizeof value);
    return DASS_FAIL(DASS_CONFIG, "%s: %s = %s is out of range: expected %s%.10g and %s%.10g (%s)",
                     c->origin[k], e->name, value, open_low ? "more than " : "at least ", g->low,
                     open_high ? "less than " : "at most ", g->high, e->help);
}

/* Two settings that contradict each other; the one to change is named with its origin. */
static dass_status check_lr(const dass_config *c, dass_config_key k_min, double lr_min,
                            dass_config_key k_lr, double lr)
{
    if (lr_min <= lr)
        return DASS_OK;
    return DASS_FAIL(DASS_CONFIG,
                     "%s: %s = %g is above %s = %g (%s); the cosine falls from %s to %s",
                     c->origin[k_min], table[k_min].name, lr_min, table[k_lr].name, lr,
                     c->origin[k_lr], table[k_lr].name, table[k_min].name);
}

dass_status dass_config_check(const dass_config *c)
{
    for (size_t k = 0; k < DASS_N_KEYS; k++)
        DASS_TRY(check_range(c, k));
    DASS_TRY(
        check_lr(c, DASS_KEY_search_lr_min, c->search_lr_min, DASS_KEY_search_lr, c->search_lr));
    DASS_TRY(check_lr(c, DASS_KEY_train_lr_min, c->train_lr_min, DASS_KEY_train_lr, c->train_lr));
    if (c->train_warmup >= c->train_epochs && c->train_warmup > 0)
        return DASS_FAIL(DASS_CONFIG,
                         "%s: train.warmup = %lld leaves no epoch of train.epochs = %lld (%s) to the cosine",
                         c->origin[DASS_KEY_train_warmup], (long long)c->train_warmup, (long long)c->train_epochs,
                         c->origin[DASS_KEY_train_epochs]);
    if (c->net_name[0] != '\0' && c->net_genotype[0] != '\0') {
        return DASS_FAIL(
            DASS_CONFIG,
            "%s: net.genotype = '%s' contradicts net.name = '%s' (%s): a network has one source; "
            "clear one of them",
            c->origin[DASS_KEY_net_genotype], c->net_genotype, c->net_name,
            c->origin[DASS_KEY_net_name]);
    }
    return DASS_OK;
}

/* ---- printing ---- */

/* The fewest digits that read back as the same double. */
static void print_real(double x, char *buf, size_t n)
{
    char digits[40];
    if (x == floor(x) && fabs(x) < 1e6) { /* 10, not 1e+01 */
        (void)snprintf(buf, n, "%.0f", x);
        return;
    }
    for (int precision = 1; precision <= 17; precision++) {
        (void)snprintf(digits, sizeof digits, "%.*g", precision, x);
        if (strtod(digits, NULL) == x)
            break;
    }
    (void)snprintf(buf, n, "%s", digits);
}

/* A text YAML reads back unquoted: a word of harmless bytes that other readers do not take for a
 * number or a truth. */
static bool is_plain(const char *text)
{
    static const char *const taken[] = {"true", "false", "yes", "no", "on",
                                        "off",  "null",  "y",   "n"};
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) {
        if (strcmp(text, taken[i]) == 0)
            return false;
    }
    const char first = text[0];
    const bool letter =
        (first >= 'a' && first <= 'z') || (first >= 'A' && first <= 'Z') || first == '/';
    const size_t n =
        strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-");
    return letter && text[n] == '\0';
}

static void print_text(const char *text, char *buf, size_t n)
{
    if (is_plain(text)) {
        (void)snprintf(buf, n, "%s", text);
        return;
    }
    char quoted[2 * DASS_TEXT_MAX + 2];
    size_t used = 0;
    quoted[used++] = '\'';
    for (const char *p = text; *p != '\0'; p++) {
        quoted[used++] = *p;
        if (*p == '\'')
            quoted[used++] = '\'';
    }
    quoted[used++] = '\'';
    quoted[used] = '\0';
    (void)snprintf(buf, n, "%s", quoted);
}

void dass_config_print(const dass_config *c, dass_config_key k, char *buf, size_t n)
{
    const entry *e = &table[k];
    const void *field = (const char *)c + e->offset;
    switch (e->type) {
    case TYPE_INT:
        (void)snprintf(buf, n, "%" PRId64, *(const int64_t *)field);
        break;
    case TYPE_REAL:
        print_real(*(const double *)field, buf, n);
        break;
    case TYPE_BOOL:
        (void)snprintf(buf, n, "%s", *(const bool *)field ? "true" : "false");
        break;
    case TYPE_TEXT:
    case TYPE_ENUM:
        print_text(field, buf, n);
        break;
    }
}
