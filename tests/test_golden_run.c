/* Whole commands against PyTorch: `train`, `prune` of what that left, and `search`, in double on the reference. The
 * files under tests/golden hold the settings and what tools/golden made of them from data, orders, crops and dropped
 * paths of the same seed: the lines of metrics.jsonl, alphas and genotype, the tensors of the last checkpoint as sums,
 * and masks bit by bit. No Python is needed, and a file that is missing is a failure.
 */
#include "golden.h"

#include "dass/log.h"
#include "dass/run.h"

#define TOLERANCE 1e-9       /* relative, of tensors' sums in units of their bound */
#define FLOAT_TOLERANCE 1e-7 /* of what is stored in float */
#define LOG_TOLERANCE 5.2e-9 /* of what the logs round to nine digits */

static char folder[64];

static const char *at(const char *name)
{
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    (void)snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "%s", "/tmp/dass_test_golden_XXXXXX");
    dass_log_set_level(DASS_LOG_ERROR);
    return mkdtemp(folder) == NULL;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static dass_config config_of(const json_t *file)
{
    dass_config c;
    const json_t *settings = member(member(file, "case"), "settings");
    dass_config_defaults(&c);
    check_ok(dass_config_set(&c, "run.device=ref64", "test"));
    for (size_t i = 0; i < json_array_size(settings); i++)
        check_ok(dass_config_set(&c, json_string_value(json_array_get(settings, i)), "golden file"));
    const json_t *genotype = json_object_get(member(file, "case"), "genotype");
    if (genotype) {
        assert_int_equal(json_dump_file(genotype, at("given.json"), JSON_COMPACT), 0);
        (void)snprintf(c.net_genotype, sizeof c.net_genotype, "%s", at("given.json"));
    }
    return c;
}

static dass_run_options options(const dass_config *c, const char *out)
{
    return (dass_run_options){
        .config = c, .out_dir = out, .restart = true, .build_id = "test", .command = "test", .quiet = true};
}

/* ---- comparing ------------------------------------------------------------------------------------------------ */

static void check_near(const char *where, const char *what, double got, double want, double scale, double tol)
{
    if (!(fabs(got - want) <= tol * scale))
        fail_msg("%s: %s: %.17g, PyTorch has %.17g: they differ by %.3g of %.3g, allowed %.3g", where, what, got, want,
                 fabs(got - want) / scale, scale, tol);
}

/* Words, counts and structure exactly, reals nearly, and nothing beside them. */
static void check_json(const char *where, const char *what, const json_t *got, const json_t *want)
{
    const char *key = NULL;
    json_t *v = NULL;
    if (json_is_real(want) && json_is_number(got)) {
        check_near(where, what, json_number_value(got), json_number_value(want), fabs(json_number_value(want)) + 1e-12,
                   LOG_TOLERANCE);
    } else if (json_is_object(want)) {
        assert_int_equal(json_object_size(got), json_object_size(want));
        json_object_foreach((json_t *)(uintptr_t)want, key, v) check_json(where, key, member(got, key), v);
    } else if (json_is_array(want)) {
        assert_int_equal(json_array_size(got), json_array_size(want));
        for (size_t i = 0; i < json_array_size(want); i++)
            check_json(where, what, json_array_get(got, i), json_array_get(want, i));
    } else if (!json_equal((json_t *)(uintptr_t)got, (json_t *)(uintptr_t)want)) {
        char *a = json_dumps(got, JSON_ENCODE_ANY);
        char *b = json_dumps(want, JSON_ENCODE_ANY);
        fail_msg("%s: %s: %s, PyTorch has %s", where, what, a, b);
    }
}

/* Lines of a file as an array. */
static json_t *read_lines(const char *path)
{
    FILE *f = fopen(path, "r");
    json_t *lines = json_array();
    assert_non_null(f);
    for (json_t *v = NULL; (v = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL)) != NULL;)
        assert_int_equal(json_array_append_new(lines, v), 0);
    (void)fclose(f);
    return lines;
}

static void check_metrics(const char *run, const json_t *want)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/metrics.jsonl", run);
    json_t *got = read_lines(at(path));
    assert_int_equal(json_array_size(got), json_array_size(want));
    for (size_t i = 0; i < json_array_size(want); i++) {
        char where[160];
        (void)snprintf(where, sizeof where, "%s, line %zu", path, i + 1);
        check_json(where, "line", json_array_get(got, i), json_array_get(want, i));
    }
    json_decref(got);
}

static double value_of(const dass_st_tensor *t, int64_t i)
{
    double x = 0.0;
    float y = 0.0F;
    if (t->type == DASS_ST_F64) {
        memcpy(&x, (const char *)t->data + (size_t)i * sizeof x, sizeof x);
        return x;
    }
    assert_int_equal(t->type, DASS_ST_F32);
    memcpy(&y, (const char *)t->data + (size_t)i * sizeof y, sizeof y);
    return (double)y;
}

static int64_t count_of(const dass_st_tensor *t)
{
    int64_t n = 1;
    for (int32_t i = 0; i < t->rank; i++)
        n *= t->dim[i];
    return n;
}

/* Sum and sum of squares of each tensor; a sum in units of sqrt(n sum x^2), which bounds it. The file has others. */
static void check_tensors(const char *path, const json_t *want, dass_st_type type, double tol)
{
    dass_st_file *file = NULL;
    check_ok(dass_st_read(at(path), &file));
    const char *name = NULL;
    json_t *pair = NULL;
    json_object_foreach((json_t *)(uintptr_t)want, name, pair)
    {
        const dass_st_tensor *t = dass_st_find(file, name);
        if (!t)
            fail_msg("%s: no tensor %s", path, name);
        assert_int_equal(t->type, type);
        double sum = 0.0;
        double square = 0.0;
        const int64_t n = count_of(t);
        for (int64_t i = 0; i < n; i++) {
            sum += value_of(t, i);
            square += value_of(t, i) * value_of(t, i);
        }
        const double size = entry(pair, 1);
        check_near(path, name, square, size, size + 1e-30, tol);
        check_near(path, name, sum, entry(pair, 0), sqrt((double)n * size) + 1e-30, tol);
    }
    dass_st_free(file);
}

/* How many tensors of a file have none of the prefixes of what is not compared. */
static size_t count_compared(const char *path)
{
    static const char *const others[] = {"momentum.", "score_momentum.", "adam_", "mask.", "kept"};
    dass_st_file *file = NULL;
    check_ok(dass_st_read(at(path), &file));
    size_t n = file->n_tensors;
    for (size_t i = 0; i < file->n_tensors; i++)
        for (size_t k = 0; k < N_OF(others); k++)
            n -= strncmp(file->tensors[i].name, others[k], strlen(others[k])) == 0;
    dass_st_free(file);
    return n;
}

static void check_checkpoint(const char *run, int epoch, const json_t *want)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/checkpoint/epoch-%06d.safetensors", run, epoch);
    check_tensors(path, want, DASS_ST_F64, TOLERANCE);
    assert_int_equal(count_compared(path), json_object_size(want));
}

static int hex_digit(char c)
{
    return c >= 'a' ? c - 'a' + 10 : c - '0';
}

/* Every bit; bit i is bit i % 4 of digit i / 4. Tensors that the file does not name belong to the auxiliary head, which
 * is kept whole. */
static void check_masks(const char *run, const json_t *want)
{
    char path[128];
    dass_st_file *file = NULL;
    size_t found = 0;
    (void)snprintf(path, sizeof path, "%s/params.safetensors", run);
    check_ok(dass_st_read(at(path), &file));
    for (size_t i = 0; i < file->n_tensors; i++) {
        const dass_st_tensor *t = &file->tensors[i];
        if (strncmp(t->name, "mask.", 5) != 0)
            continue;
        const char *digits = json_string_value(json_object_get(want, t->name + 5));
        if (digits == NULL)
            assert_true(strncmp(t->name, "mask.auxiliary.", 15) == 0);
        else
            assert_int_equal(strlen(digits), (t->bytes + 3) / 4);
        found += digits != NULL;
        for (size_t k = 0; k < t->bytes; k++) {
            const int bit = digits != NULL ? hex_digit(digits[k / 4]) >> (k % 4) & 1 : 1;
            if (((const uint8_t *)t->data)[k] != bit)
                fail_msg("%s: %s, element %zu: %d, PyTorch has %d", path, t->name, k, ((const uint8_t *)t->data)[k],
                         bit);
        }
    }
    assert_int_equal(found, json_object_size(want));
    dass_st_free(file);
}

/* ---- the commands --------------------------------------------------------------------------------------------- */

static void train_as_pytorch(void **state)
{
    (void)state;
    json_t *want = load("command_train");
    const dass_config c = config_of(want);
    const dass_run_options opt = options(&c, at("train"));
    check_ok(dass_run_train(&opt));
    check_metrics("train", member(want, "metrics"));
    check_checkpoint("train", (int)c.train_epochs, member(want, "checkpoint"));
    check_tensors("train/params.safetensors", member(want, "result"), DASS_ST_F32, FLOAT_TOLERANCE);
    json_decref(want);
}

/* Of the network of the same settings, trained first. */
static void prune_as_pytorch(void **state)
{
    (void)state;
    json_t *want = load("command_prune");
    const dass_config c = config_of(want);
    dass_run_options opt = options(&c, at("dense"));
    check_ok(dass_run_train(&opt));
    opt.out_dir = at("pruned");
    check_ok(dass_run_prune(&opt, at("dense")));
    check_metrics("pruned", member(want, "metrics"));
    check_checkpoint("pruned", (int)(c.train_epochs + c.prune_epochs_score + c.prune_epochs_finetune),
                     member(want, "checkpoint"));
    check_masks("pruned", member(want, "masks"));
    check_tensors("pruned/params.safetensors", member(want, "result"), DASS_ST_F32, FLOAT_TOLERANCE);
    json_decref(want);
}

static void search_as_pytorch(void **state)
{
    (void)state;
    json_t *want = load("command_search");
    const dass_config c = config_of(want);
    const dass_run_options opt = options(&c, at("search"));
    dass_genotype found;
    check_ok(dass_run_search(&opt, &found));
    check_metrics("search", member(want, "metrics"));
    json_t *alphas = read_lines(at("search/alphas.jsonl"));
    const json_t *rows = member(want, "alphas");
    assert_int_equal(json_array_size(alphas), json_array_size(rows));
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *line = json_array_get(alphas, i);
        check_json("alphas", "normal", member(line, "normal"), member(json_array_get(rows, i), "normal"));
        check_json("alphas", "reduce", member(line, "reduce"), member(json_array_get(rows, i), "reduce"));
    }
    json_decref(alphas);
    json_t *genotype = json_load_file(at("search/genotype.json"), 0, NULL);
    check_json("search", "genotype", genotype, member(want, "genotype"));
    json_decref(genotype);
    check_checkpoint("search", (int)(c.search_epochs_pretrain + c.search_epochs_score + c.search_epochs_finetune),
                     member(want, "checkpoint"));
    check_masks("search", member(want, "masks"));
    json_decref(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(train_as_pytorch),
        cmocka_unit_test(prune_as_pytorch),
        cmocka_unit_test(search_as_pytorch),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
