/* The commands, end to end on a tiny random data set: search, derive, train, prune, eval; what each may and may not
 * change; the parameter file; and the safetensors reader against damaged files.
 */
#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "dass/log.h"
#include "dass/run.h"

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
    (void)snprintf(folder, sizeof folder, "%s", "/tmp/dass_test_run_XXXXXX");
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

/* 120 images of 8x8, three classes, a supernet of three cells of two nodes. */
static dass_config tiny(void)
{
    static const char *const settings[] = {
        "data.name=random",
        "data.limit=120",
        "data.test_limit=30",
        "data.pad=1",
        "net.image=8",
        "net.in_channels=2",
        "net.classes=3",
        "net.channels=4",
        "net.layers=3",
        "net.nodes=2",
        "train.batch=10",
        "run.eval_batch=8",
        "search.epochs.pretrain=1",
        "search.epochs.score=1",
        "search.epochs.finetune=1",
        "search.density=0.3",
        "train.epochs=2",
        "prune.density=0.25",
        "prune.epochs.score=1",
        "prune.epochs.finetune=1",
        "run.threads=1",
    };
    dass_config c;
    dass_config_defaults(&c);
    for (size_t i = 0; i < N_OF(settings); ++i)
        check_ok(dass_config_set(&c, settings[i], "test"));
    return c;
}

static dass_run_options options(const dass_config *c, const char *out)
{
    return (dass_run_options){
        .config = c, .out_dir = out, .restart = true, .build_id = "test", .command = "test", .quiet = true};
}

static size_t read_bytes(const char *path, char *buf, size_t n)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    const size_t got = fread(buf, 1, n, f);
    assert_true(got < n);
    (void)fclose(f);
    return got;
}

static void assert_same_file(const char *a, const char *b)
{
    static char x[1 << 20];
    static char y[1 << 20];
    const size_t n = read_bytes(a, x, sizeof x);
    assert_int_equal(read_bytes(b, y, sizeof y), n);
    assert_memory_equal(x, y, n);
}

static int64_t count_lines(const char *path)
{
    static char x[1 << 20];
    const size_t n = read_bytes(path, x, sizeof x);
    int64_t lines = 0;
    for (size_t i = 0; i < n; ++i)
        lines += x[i] == '\n';
    return lines;
}

/* ---- end to end ----------------------------------------------------------------------------------------------- */

static void search_to_eval(void **state)
{
    (void)state;
    dass_config c = tiny();
    dass_genotype found;
    dass_genotype derived;
    dass_run_options opt = options(&c, at("search"));
    check_ok(dass_run_search(&opt, &found));
    check_ok(dass_run_derive(at("search"), &derived));
    assert_memory_equal(&found, &derived, sizeof found);
    check_ok(dass_genotype_read(at("search/genotype.json"), &derived));
    assert_memory_equal(&found, &derived, sizeof found);
    assert_int_equal(count_lines(at("search/metrics.jsonl")), 3);

    (void)snprintf(c.net_genotype, sizeof c.net_genotype, "%s", at("search/genotype.json"));
    opt.out_dir = at("dense");
    check_ok(dass_run_train(&opt));
    assert_int_equal(count_lines(at("dense/metrics.jsonl")), 3); /* two epochs and the test */

    opt.out_dir = at("pruned");
    check_ok(dass_run_prune(&opt, at("dense")));

    dass_eval dense;
    dass_eval pruned;
    opt.out_dir = NULL;
    check_ok(dass_run_eval(&opt, at("dense"), &dense));
    check_ok(dass_run_eval(&opt, at("pruned/params.safetensors"), &pruned));
    assert_string_equal(dense.state, "dense");
    assert_string_equal(pruned.state, "pruned");
    assert_int_equal(dense.kept, dense.weights);
    assert_int_equal(dense.macs, dense.sparse_macs);
    assert_int_equal(pruned.weights, dense.weights);
    assert_int_equal(pruned.unpruned, dense.unpruned);
    assert_true(pruned.kept >= dense.weights / 4 && pruned.kept < dense.weights / 2);
    assert_true(pruned.sparse_macs < pruned.macs / 2 && pruned.sparse_macs > 0);
    assert_true(isfinite(dense.loss) && isfinite(pruned.loss));
    assert_true(dense.top1 >= 0.0 && dense.top1 <= 1.0);
    assert_int_equal(dense.n, 30); /* in batches of 8: the last is padded */
}

/* Padding, batch size: neither may change an evaluation by more than rounding. */
static void eval_does_not_depend_on_the_batch(void **state)
{
    (void)state;
    dass_config c = tiny();
    (void)snprintf(c.net_name, sizeof c.net_name, "%s", "resnet18");
    check_ok(dass_config_set(&c, "train.epochs=1", "test"));
    check_ok(dass_config_set(&c, "data.limit=10", "test"));
    dass_run_options opt = options(&c, at("zoo"));
    check_ok(dass_run_train(&opt));
    dass_eval a;
    dass_eval b;
    opt.out_dir = NULL;
    check_ok(dass_run_eval(&opt, at("zoo"), &a));
    c.run_eval_batch = 30;
    check_ok(dass_run_eval(&opt, at("zoo"), &b));
    assert_true(fabs(a.loss - b.loss) < 1e-4 * fabs(b.loss));
    assert_true(a.top1 == b.top1);
}

static void same_command_same_bytes(void **state)
{
    (void)state;
    static const char *const names[] = {"a", "b"};
    dass_genotype g;
    for (int i = 0; i < 2; ++i) {
        dass_config c = tiny();
        dass_run_options opt = options(&c, at(names[i]));
        check_ok(dass_run_search(&opt, &g));
    }
    assert_same_file(at("a/params.safetensors"), at("b/params.safetensors"));
    assert_same_file(at("a/genotype.json"), at("b/genotype.json"));
    assert_same_file(at("a/config.yaml"), at("b/config.yaml"));
    dass_config c = tiny();
    c.run_seed = 2;
    dass_run_options opt = options(&c, at("c"));
    static char x[1 << 20];
    static char y[1 << 20];
    check_ok(dass_run_search(&opt, &g));
    const size_t n = read_bytes(at("a/params.safetensors"), x, sizeof x);
    assert_int_equal(read_bytes(at("c/params.safetensors"), y, sizeof y), n);
    assert_memory_not_equal(x, y, n);
}

/* ---- what may change ------------------------------------------------------------------------------------------- */

static void read_group(const char *path, dass_group group, double **out, int64_t *n)
{
    dass_params p;
    dass_store *s = NULL;
    dass_graph *g = NULL;
    check_ok(dass_params_open(path, &p));
    check_ok(dass_store_make(DASS_F32, &s));
    const double zero[4] = {0};
    const double one[4] = {1, 1, 1, 1};
    const dass_phase phase = {.task = DASS_TASK_WEIGHTS, .batch = 1, .mean = zero, .std = one};
    check_ok(dass_phase_build(s, &p.info.arch, &phase, DASS_F32, NULL, &g));
    *n = dass_store_count(s, group);
    void *block = NULL;
    check_ok(dass_mem_alloc((size_t)*n * sizeof(double), "test", &block));
    *out = block;
    check_ok(dass_params_group(&p, s, group, *out));
    dass_graph_free(g);
    dass_store_free(s);
    dass_params_close(&p);
}

static void run_search(dass_config *c, const char *name)
{
    dass_genotype g;
    const dass_run_options opt = options(c, at(name));
    check_ok(dass_run_search(&opt, &g));
}

/* With an Adam rate that rounds to nothing alpha stays where it began, however hard the weights are trained: the weight
 * optimiser does not touch it. And it does move at a rate above zero. */
static void weights_do_not_move_alpha(void **state)
{
    (void)state;
    double *start = NULL;
    double *still = NULL;
    double *moved = NULL;
    int64_t n = 0;
    dass_config c = tiny();
    c.search_epochs_pretrain = c.search_epochs_score = c.search_epochs_finetune = 0;
    run_search(&c, "start");
    c = tiny();
    c.search_lr = 0.5;
    c.search_alpha_lr = 1e-300;
    run_search(&c, "still");
    c = tiny();
    run_search(&c, "moved");
    read_group(at("start"), DASS_GROUP_ALPHA, &start, &n);
    assert_int_equal(n, 2 * 5 * 8);
    read_group(at("still"), DASS_GROUP_ALPHA, &still, &n);
    read_group(at("moved"), DASS_GROUP_ALPHA, &moved, &n);
    assert_memory_equal(start, still, (size_t)n * sizeof *start);
    for (int64_t i = 0; i < n; ++i)
        assert_true(start[i] != moved[i]);
    dass_mem_free(start);
    dass_mem_free(still);
    dass_mem_free(moved);
}

static const uint8_t *mask_of(const dass_params *p, const char *name, int64_t *n)
{
    char full[256];
    (void)snprintf(full, sizeof full, "mask.%s", name);
    const dass_st_tensor *t = dass_st_find(p->file, full);
    assert_non_null(t);
    *n = (int64_t)t->bytes;
    return t->data;
}

/* Trains "base" (dense), prunes it with the epochs of c into "pruned", and opens both. */
static void prune_pair(dass_config *c, dass_params *dense, dass_params *pruned)
{
    const dass_genotype g = dass_genotype_random(3, 2);
    dass_arena *mem = NULL;
    check_ok(dass_arena_make("test", &mem));
    const char *text = dass_genotype_print(&g, mem);
    check_ok(dass_file_write(at("g.json"), text, strlen(text)));
    dass_arena_free(mem);
    (void)snprintf(c->net_genotype, sizeof c->net_genotype, "%s", at("g.json"));
    dass_run_options opt = options(c, at("base"));
    check_ok(dass_run_train(&opt));
    opt.out_dir = at("pruned");
    check_ok(dass_run_prune(&opt, at("base")));
    check_ok(dass_params_open(at("base"), dense));
    check_ok(dass_params_open(at("pruned"), pruned));
}

/* The score stage trains scores and leaves every weight; finetuning leaves the pruned weights. */
static void stages_train_what_they_say(void **state)
{
    (void)state;
    static const int64_t finetune_epochs[] = {0, 2};
    for (size_t k = 0; k < N_OF(finetune_epochs); ++k) {
        dass_params dense;
        dass_params pruned;
        dass_config c = tiny();
        c.prune_epochs_finetune = finetune_epochs[k];
        prune_pair(&c, &dense, &pruned);
        int64_t n_tensors = 0;
        int64_t n_changed = 0;
        for (size_t i = 0; i < dense.file->n_tensors; ++i) {
            const dass_st_tensor *t = &dense.file->tensors[i];
            char score[256];
            (void)snprintf(score, sizeof score, "score.%s", t->name);
            if (dass_st_find(pruned.file, score) == NULL)
                continue; /* batch norm */
            ++n_tensors;
            int64_t n = 0;
            const float *before = t->data;
            const float *after = dass_st_find(pruned.file, t->name)->data;
            const uint8_t *mask = mask_of(&pruned, t->name, &n);
            int64_t kept = 0;
            for (int64_t j = 0; j < n; ++j) {
                if (before[j] != after[j]) {
                    assert_int_equal(mask[j], 1);
                    ++n_changed;
                }
                kept += mask[j];
            }
            assert_int_equal(kept, dass_kept_count(n, 0.25));
        }
        assert_true(n_tensors > 5);
        if (finetune_epochs[k] == 0)
            assert_int_equal(n_changed, 0);
        else
            assert_true(n_changed > 0);
        dass_params_close(&dense);
        dass_params_close(&pruned);
    }
}

/* Scaled score initialisation without score training is magnitude pruning, tensor by tensor. */
static void no_score_epochs_is_magnitude_pruning(void **state)
{
    (void)state;
    dass_params dense;
    dass_params pruned;
    dass_config c = tiny();
    c.prune_epochs_score = 0;
    c.prune_epochs_finetune = 0;
    prune_pair(&c, &dense, &pruned);
    int64_t n_tensors = 0;
    for (size_t i = 0; i < dense.file->n_tensors; ++i) {
        const dass_st_tensor *t = &dense.file->tensors[i];
        char name[256];
        (void)snprintf(name, sizeof name, "mask.%s", t->name);
        if (dass_st_find(pruned.file, name) == NULL)
            continue;
        int64_t n = 0;
        const float *w = t->data;
        const uint8_t *mask = mask_of(&pruned, t->name, &n);
        double least_kept = INFINITY;
        double most_cut = 0.0;
        for (int64_t j = 0; j < n; ++j) {
            const double a = fabs((double)w[j]);
            if (mask[j])
                least_kept = fmin(least_kept, a);
            else
                most_cut = fmax(most_cut, a);
        }
        assert_true(least_kept >= most_cut);
        ++n_tensors;
    }
    assert_true(n_tensors > 5);
    dass_params_close(&dense);
    dass_params_close(&pruned);
}

/* ---- refusals -------------------------------------------------------------------------------------------------- */

static void what_is_refused(void **state)
{
    (void)state;
    dass_genotype g;
    dass_eval e;
    dass_config c = tiny();
    dass_run_options opt = options(&c, at("x"));
    assert_fails_with(dass_run_train(&opt), DASS_CONFIG, "--genotype");
    assert_fails_with(dass_run_eval(&opt, at("nowhere"), &e), DASS_IO, "nowhere");
    c.search_lr = 1000; /* decay alone multiplies the weights by -999 a step */
    c.search_weight_decay = 1;
    c.search_epochs_pretrain = 10;
    assert_fails_with(dass_run_search(&opt, &g), DASS_NUMERIC, "dense stage, epoch");
    c = tiny();
    c.search_epochs_pretrain = c.search_epochs_score = c.search_epochs_finetune = 0;
    check_ok(dass_run_search(&opt, &g));
    assert_fails_with(dass_run_eval(&opt, at("x"), &e), DASS_UNSUPPORTED, "supernet");
    assert_fails_with(dass_run_prune(&opt, at("x")), DASS_ARG, "would be lost");
    c.net_image = 9;
    assert_fails_with(dass_run_search(&opt, &g), DASS_CONFIG, "net.image");
}

static void methods(void **state)
{
    (void)state;
    dass_genotype a;
    dass_genotype b;
    dass_config c = tiny();
    (void)snprintf(c.search_method, sizeof c.search_method, "%s", "darts");
    dass_run_options opt = options(&c, at("darts"));
    check_ok(dass_run_search(&opt, &a));
    dass_params p;
    check_ok(dass_params_open(at("darts"), &p));
    assert_null(dass_st_find(p.file, "mask.stem.conv"));
    dass_params_close(&p);
    assert_int_equal(count_lines(at("darts/metrics.jsonl")), 3);
    (void)snprintf(c.search_method, sizeof c.search_method, "%s", "random");
    check_ok(dass_run_search(&opt, &a));
    b = dass_genotype_random(1, 2);
    assert_memory_equal(&a, &b, sizeof a);
}

/* With every weight kept, the masked stage is the dense one: the search is DARTS, to the byte. */
static void density_one_is_darts(void **state)
{
    (void)state;
    double *a = NULL;
    double *b = NULL;
    int64_t n = 0;
    dass_config c = tiny();
    c.search_density = 1.0;
    c.search_epochs_pretrain = c.search_epochs_score = 0;
    c.search_epochs_finetune = 2;
    run_search(&c, "one");
    (void)snprintf(c.search_method, sizeof c.search_method, "%s", "darts");
    run_search(&c, "darts_two");
    static const dass_group groups[] = {DASS_GROUP_W, DASS_GROUP_AF, DASS_GROUP_ALPHA};
    for (size_t i = 0; i < N_OF(groups); ++i) {
        read_group(at("one"), groups[i], &a, &n);
        read_group(at("darts_two"), groups[i], &b, &n);
        assert_true(n > 10);
        assert_memory_equal(a, b, (size_t)n * sizeof *a);
        dass_mem_free(a);
        dass_mem_free(b);
    }
}

/* Second order moves alpha elsewhere, leaves the weights' part of a step alone, and is as repeatable. */
static void second_order_searches(void **state)
{
    (void)state;
    double *first = NULL;
    double *second = NULL;
    int64_t n = 0;
    dass_config c = tiny();
    run_search(&c, "first");
    c.search_order = 2;
    run_search(&c, "second");
    run_search(&c, "again");
    assert_same_file(at("second/params.safetensors"), at("again/params.safetensors"));
    read_group(at("first"), DASS_GROUP_ALPHA, &first, &n);
    read_group(at("second"), DASS_GROUP_ALPHA, &second, &n);
    int64_t n_other = 0;
    for (int64_t i = 0; i < n; ++i) {
        assert_true(isfinite(second[i]));
        n_other += first[i] != second[i];
    }
    assert_true(n_other > n / 2);
    dass_mem_free(first);
    dass_mem_free(second);
    /* Alpha that cannot move: the weights go the way of the first order, byte for byte, so theta was restored. */
    c.search_alpha_lr = 1e-300;
    run_search(&c, "second_still");
    c.search_order = 1;
    run_search(&c, "first_still");
    assert_same_file(at("first_still/params.safetensors"), at("second_still/params.safetensors"));
}

/* Drop-path, the auxiliary head, the average, warm-up: they change what is learnt, not what is counted; the head's
 * parameters are in the file for a later pruning and in no count; evaluation knows nothing of them. */
static void training_options(void **state)
{
    (void)state;
    const dass_genotype g = dass_genotype_random(3, 2);
    dass_arena *mem = NULL;
    check_ok(dass_arena_make("test", &mem));
    const char *text = dass_genotype_print(&g, mem);
    check_ok(dass_file_write(at("cell.json"), text, strlen(text)));
    dass_arena_free(mem);
    static const char *const options_[] = {"run.seed=1",    "train.drop_path=0.4", "train.auxiliary=0.4",
                                           "train.ema=0.9", "train.warmup=1",      "train.label_smoothing=0.1"};
    char name[64];
    dass_eval plain = {0};
    for (size_t i = 0; i < N_OF(options_); ++i) {
        dass_config c = tiny();
        check_ok(dass_config_set(&c, "net.image=32", "test"));
        check_ok(dass_config_set(&c, "data.limit=40", "test"));
        check_ok(dass_config_set(&c, options_[i], "test"));
        (void)snprintf(c.net_genotype, sizeof c.net_genotype, "%s", at("cell.json"));
        (void)snprintf(name, sizeof name, "option%zu", i);
        dass_run_options opt = options(&c, at(name));
        check_ok(dass_run_train(&opt));
        dass_params p;
        check_ok(dass_params_open(at(name), &p));
        assert_int_equal(dass_st_find(p.file, "auxiliary.conv1") != NULL, strstr(options_[i], "auxiliary") != NULL);
        dass_params_close(&p);
        dass_eval e;
        opt.out_dir = NULL;
        check_ok(dass_run_eval(&opt, at(name), &e));
        assert_true(isfinite(e.loss));
        if (i == 0)
            plain = e;
        assert_int_equal(e.weights, plain.weights);
        assert_int_equal(e.unpruned, plain.unpruned);
        assert_true(i == 0 || e.loss != plain.loss);
        if (strstr(options_[i], "auxiliary") == NULL)
            continue;
        (void)snprintf(name, sizeof name, "option%zu_pruned", i);
        opt.out_dir = at(name);
        check_ok(dass_run_prune(&opt, at("option2")));
        opt.out_dir = NULL;
        check_ok(dass_run_eval(&opt, at(name), &e));
        assert_int_equal(e.weights, plain.weights);
        assert_true(e.kept < plain.weights / 2);
    }
}

/* ---- pruning methods ------------------------------------------------------------------------------------------- */

static int64_t count_kept(const dass_params *p)
{
    int64_t kept = 0;
    for (size_t i = 0; i < p->file->n_tensors; ++i) {
        const dass_st_tensor *t = &p->file->tensors[i];
        if (strncmp(t->name, "mask.", 5) != 0)
            continue;
        for (size_t k = 0; k < t->bytes; ++k)
            kept += ((const uint8_t *)t->data)[k];
    }
    return kept;
}

/* One shot and gradual: magnitude alone decides, the kept count is uniform's, and gradual masks are nested: a weight
 * that was pruned has not moved since, so its value is that of an earlier state. */
static void magnitude_methods(void **state)
{
    (void)state;
    static const char *const methods_[] = {"oneshot", "gradual"};
    for (size_t m = 0; m < N_OF(methods_); ++m) {
        dass_params dense;
        dass_params pruned;
        dass_config c = tiny();
        (void)snprintf(c.prune_method, sizeof c.prune_method, "%s", methods_[m]);
        c.prune_every = 3;
        prune_pair(&c, &dense, &pruned);
        int64_t want = 0;
        int64_t n_smaller = 0;
        for (size_t i = 0; i < dense.file->n_tensors; ++i) {
            const dass_st_tensor *t = &dense.file->tensors[i];
            char name[256];
            (void)snprintf(name, sizeof name, "mask.%s", t->name);
            if (dass_st_find(pruned.file, name) == NULL)
                continue;
            int64_t n = 0;
            const uint8_t *mask = mask_of(&pruned, t->name, &n);
            want += dass_kept_count(n, 0.25);
            const float *w = t->data;
            for (int64_t k = 0; m == 0 && k < n; ++k) /* no kept weight of the dense network below a pruned one */
                for (int64_t j = 0; j < n; ++j)
                    n_smaller += mask[k] == 1 && mask[j] == 0 && fabsf(w[k]) < fabsf(w[j]);
        }
        assert_int_equal(count_kept(&pruned), want);
        assert_int_equal(n_smaller, 0);
        dass_params_close(&dense);
        dass_params_close(&pruned);
    }
}

/* ---- pruning what is pruned ------------------------------------------------------------------------------------ */

/* Every weight of `after` was in `before`, and there are as many as asked for. */
static void assert_nothing_came_back(const dass_params *before, const dass_params *after, double density)
{
    int64_t want = 0;
    int64_t n_back = 0;
    for (size_t i = 0; i < before->file->n_tensors; ++i) {
        const dass_st_tensor *t = &before->file->tensors[i];
        if (strncmp(t->name, "mask.", 5) != 0)
            continue;
        int64_t n = 0;
        const uint8_t *now = mask_of(after, t->name + 5, &n);
        const uint8_t *was = t->data;
        for (int64_t k = 0; k < n; ++k)
            n_back += now[k] > was[k];
        want += dass_kept_count(n, density);
    }
    assert_int_equal(n_back, 0);
    assert_int_equal(count_kept(after), want);
}

static void prune_again(dass_config *c, const char *method, const char *allocation, const dass_params *before)
{
    (void)snprintf(c->prune_method, sizeof c->prune_method, "%s", method);
    (void)snprintf(c->prune_allocation, sizeof c->prune_allocation, "%s", allocation);
    dass_params after;
    const dass_run_options opt = options(c, at("again"));
    check_ok(dass_run_prune(&opt, at("pruned")));
    check_ok(dass_params_open(at("again"), &after));
    assert_nothing_came_back(before, &after, c->prune_density);
    dass_params_close(&after);
}

/* By every method, also where the new allocation wants more of a tensor than the old one left in it. */
static void what_was_removed_does_not_come_back(void **state)
{
    (void)state;
    static const char *const methods_[] = {"learned", "oneshot", "gradual"};
    static const char *const allocations[] = {"uniform", "erk", "global"};
    dass_params dense;
    dass_params once;
    dass_config c = tiny();
    c.prune_density = 0.4;
    c.prune_every = 3;
    (void)snprintf(c.prune_allocation, sizeof c.prune_allocation, "%s", "global");
    prune_pair(&c, &dense, &once);
    dass_params_close(&dense);
    c.prune_density = 0.3;
    c.prune_lr_score = 1.0; /* enough to turn scores over */
    for (size_t m = 0; m < N_OF(methods_); ++m)
        for (size_t a = 0; a < N_OF(allocations); ++a)
            prune_again(&c, methods_[m], allocations[a], &once);

    c.prune_density = 0.41;
    const dass_run_options opt = options(&c, at("more"));
    assert_fails_with(dass_run_prune(&opt, at("pruned")), DASS_CONFIG, "what was removed does not come back");
    dass_params_close(&once);
}

/* Stopped after every step, the same bytes. */
static void pruning_again_goes_on(void **state)
{
    (void)state;
    dass_config c = tiny();
    c.prune_density = 0.4;
    dass_params dense;
    dass_params once;
    prune_pair(&c, &dense, &once);
    dass_params_close(&dense);
    dass_params_close(&once);
    static const char *const methods_[] = {"learned", "gradual"};
    for (size_t m = 0; m < N_OF(methods_); ++m) {
        (void)snprintf(c.prune_method, sizeof c.prune_method, "%s", methods_[m]);
        c.prune_density = 0.3;
        c.prune_every = 3;
        dass_run_options opt = options(&c, at("whole"));
        check_ok(dass_run_prune(&opt, at("pruned")));
        const volatile sig_atomic_t stop = SIGTERM;
        char pieces[256];
        (void)snprintf(pieces, sizeof pieces, "%s", at("pieces"));
        opt = options(&c, pieces);
        opt.stop = &stop;
        for (int i = 0; i < 24; ++i) { /* the last one is stopped in the final evaluation */
            assert_int_equal(dass_run_prune(&opt, at("pruned")), DASS_STOPPED);
            opt.restart = false;
        }
        opt.stop = NULL;
        check_ok(dass_run_prune(&opt, at("pruned")));
        assert_same_file(at("whole/params.safetensors"), at("pieces/params.safetensors"));
        assert_same_file(at("whole/metrics.jsonl"), at("pieces/metrics.jsonl"));
    }
}

/* ---- parameter files ------------------------------------------------------------------------------------------- */

static const float numbers[6] = {1, 2, 3, 4, 5, 6};

static void write_small(const char *path)
{
    dass_st_tensor t[2] = {
        {.name = "a", .type = DASS_ST_F32, .rank = 2, .dim = {2, 2}, .bytes = 16, .data = numbers},
        {.name = "b", .type = DASS_ST_F32, .rank = 1, .dim = {2}, .bytes = 8, .data = numbers + 4},
    };
    dass_st_meta m = {"key", "value"};
    const dass_st_file f = {.tensors = t, .n_tensors = 2, .meta = &m, .n_meta = 1};
    check_ok(dass_st_write(path, &f));
}

static void tensors_round_trip(void **state)
{
    (void)state;
    dass_st_file *f = NULL;
    write_small(at("small.safetensors"));
    check_ok(dass_st_read(at("small.safetensors"), &f));
    assert_int_equal(f->n_tensors, 2);
    assert_string_equal(dass_st_get(f, "key"), "value");
    assert_null(dass_st_get(f, "other"));
    const dass_st_tensor *b = dass_st_find(f, "b");
    assert_non_null(b);
    assert_int_equal(b->rank, 1);
    assert_memory_equal(b->data, numbers + 4, 8);
    dass_st_free(f);
    assert_fails_with(dass_st_read(at("absent"), &f), DASS_IO, "absent");
}

static dass_status parse(const char *header, size_t data_bytes)
{
    static uint8_t buf[4096];
    const size_t n = strlen(header);
    memset(buf, 0, sizeof buf);
    for (int i = 0; i < 8; ++i)
        buf[i] = (uint8_t)(n >> (8 * i));
    memcpy(buf + 8, header, n);
    dass_st_file *f = NULL;
    const dass_status st = dass_st_parse("file", buf, 8 + n + data_bytes, &f);
    dass_st_free(f);
    return st;
}

static void tensor_files_are_read_strictly(void **state)
{
    (void)state;
#define T(dtype, shape, offsets) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
    check_ok(parse("{\"a\":" T("F32", "[2]", "[0,8]") "}", 8));
    check_ok(parse("{}", 0));
    assert_fails_with(parse("{\"a\":" T("F32", "[2]", "[0,8]") "}", 7), DASS_FORMAT, "truncated");
    assert_fails_with(parse("{\"a\":" T("F32", "[2]", "[0,8]") "}", 9), DASS_FORMAT,
                      "9 bytes of data, the tensors cover 8");
    assert_fails_with(parse("{\"a\":" T("F32", "[3]", "[0,8]") "}", 8), DASS_FORMAT, "8 bytes for a shape of 12");
    assert_fails_with(parse("{\"a\":" T("F32", "[2]", "[8,0]") "}", 8), DASS_FORMAT, "outside");
    assert_fails_with(parse("{\"a\":" T("F32", "[-2]", "[0,8]") "}", 8), DASS_FORMAT, "not a count");
    assert_fails_with(parse("{\"a\":" T("F16", "[4]", "[0,8]") "}", 8), DASS_FORMAT, "type F16");
    assert_fails_with(parse("{\"a\":" T("F32", "[4611686018427387904,8]", "[0,8]") "}", 8), DASS_FORMAT, "overflows");
    assert_fails_with(parse("{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[0,4]") "}", 4), DASS_FORMAT,
                      "does not begin");
    assert_fails_with(parse("{\"a\":" T("F32", "[1]", "[4,8]") "}", 8), DASS_FORMAT, "does not begin");
    assert_fails_with(parse("{\"a\":" T("F32", "[2]", "[0,8]") ",\"a\":" T("F32", "[2]", "[0,8]") "}", 8), DASS_FORMAT,
                      "not JSON");
    assert_fails_with(parse("{\"a\":1}", 0), DASS_FORMAT, "not {dtype");
    assert_fails_with(parse("[]", 0), DASS_FORMAT, "not a JSON object");
    assert_fails_with(parse("{", 0), DASS_FORMAT, "not JSON");
    assert_fails_with(parse("{\"__metadata__\":{\"a\":1}}", 0), DASS_FORMAT, "not text");
    dass_st_file *f = NULL;
    assert_fails_with(dass_st_parse("file", "\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10, &f), DASS_FORMAT, "byte 0");
    assert_fails_with(dass_st_parse("file", "1234567", 7, &f), DASS_FORMAT, "at least 8");
#undef T
}

/* Every cut and many flips of a good file are a named error or a readable file, never a crash. */
static void damaged_tensor_files(void **state)
{
    (void)state;
    static char bytes[4096];
    write_small(at("small.safetensors"));
    const size_t n = read_bytes(at("small.safetensors"), bytes, sizeof bytes);
    for (size_t cut = 0; cut < n; ++cut) {
        dass_st_file *f = NULL;
        assert_int_equal(dass_st_parse("cut", bytes, cut, &f), DASS_FORMAT);
        assert_null(f);
    }
    for (size_t i = 0; i < n; ++i) {
        for (int b = 0; b < 8; ++b) {
            dass_st_file *f = NULL;
            bytes[i] = (char)(bytes[i] ^ (1 << b));
            const dass_status st = dass_st_parse("flip", bytes, n, &f);
            assert_true(st == DASS_OK || st == DASS_FORMAT);
            dass_st_free(f);
            bytes[i] = (char)(bytes[i] ^ (1 << b));
        }
    }
}

static void files_of_other_networks_are_refused(void **state)
{
    (void)state;
    dass_params p;
    write_small(at("small.safetensors"));
    assert_fails_with(dass_params_open(at("small.safetensors"), &p), DASS_FORMAT, "not a parameter file of dass");
    dass_config c = tiny();
    c.search_epochs_pretrain = c.search_epochs_score = c.search_epochs_finetune = 0;
    run_search(&c, "start");
    check_ok(dass_params_open(at("start"), &p));
    p.info.arch.channels = 6;
    dass_store *s = NULL;
    dass_graph *g = NULL;
    double *values = NULL;
    const double zero[4] = {0};
    const double one[4] = {1, 1, 1, 1};
    const dass_phase phase = {.task = DASS_TASK_WEIGHTS, .batch = 1, .mean = zero, .std = one};
    check_ok(dass_store_make(DASS_F32, &s));
    check_ok(dass_phase_build(s, &p.info.arch, &phase, DASS_F32, NULL, &g));
    void *block = NULL;
    check_ok(dass_mem_alloc((size_t)dass_store_count(s, DASS_GROUP_W) * sizeof *values, "test", &block));
    values = block;
    assert_fails_with(dass_params_group(&p, s, DASS_GROUP_W, values), DASS_FORMAT, "another type or shape");
    dass_mem_free(values);
    dass_graph_free(g);
    dass_store_free(s);
    dass_params_close(&p);
}

/* ---- schedules and sizes ---------------------------------------------------------------------------------------- */

static void schedules(void **state)
{
    (void)state;
    assert_true(fabs(dass_cosine(0.1, 0.001, 0, 10) - 0.1) < 1e-15);
    assert_true(fabs(dass_cosine(0.1, 0.001, 5, 10) - 0.0505) < 1e-15);
    assert_true(fabs(dass_cosine(0.1, 0.001, 10, 10) - 0.001) < 1e-15);
    const double alpha[8] = {3, 3, 3, 3, 3, 3, 3, 3};
    assert_true(fabs(dass_alpha_entropy(alpha, 1, 8) - log(8.0)) < 1e-12);
    const double sharp[8] = {900, 0, 0, 0, 0, 0, 0, 0};
    assert_true(fabs(dass_alpha_entropy(sharp, 1, 8)) < 1e-12);
    const double two[4] = {0, 0, 0, log(3.0)}; /* rows (1/2, 1/2) and (1/4, 3/4) */
    const double second = -(0.25 * log(0.25) + 0.75 * log(0.75));
    assert_true(fabs(dass_alpha_entropy(two, 2, 2) - 0.5 * (log(2.0) + second)) < 1e-12);
}

static void sizes_of_the_published_networks(void **state)
{
    (void)state;
    dass_config c;
    dass_sizes s;
    dass_config_defaults(&c);
    check_ok(dass_sizes_measure(&c, "null", &s));
    assert_true(s.supernet);
    assert_int_equal(s.count.weights, 1930512);
    assert_int_equal(s.count.alphas, 224);
    assert_int_equal(s.count.macs_per_image, 300255744);
    assert_int_equal(s.kept, 19701);
    assert_int_equal(s.n_stages, 6);
    for (uint32_t i = 0; i < s.n_stages; ++i) {
        assert_true(s.stage[i].peak_bytes >= s.stage[i].bound_bytes);
        assert_true(s.stage[i].sum_bytes >= s.stage[i].peak_bytes);
    }
    assert_int_equal(s.nodes_step, s.stage[0].nodes + s.stage[1].nodes);
    assert_int_equal(s.n_big, DASS_N_BIG_VALUES);
    const size_t param_bytes = s.param_bytes;
    c.search_order = 2; /* four graphs of alpha in the dense and the finetune stage, copies of theta, two gradients */
    check_ok(dass_sizes_measure(&c, "null", &s));
    assert_int_equal(s.n_stages, 12);
    assert_string_equal(s.stage[2].task, "unrolled");
    assert_string_equal(s.stage[6].stage, "score");
    assert_string_equal(s.stage[6].task, "alpha");
    assert_int_equal(s.param_bytes - param_bytes, 4 * (s.count.params + 2 * s.count.alphas));
    c.search_order = 1;
    const char *root = getenv("DASS_TEST_ROOT");
    (void)snprintf(c.net_genotype, sizeof c.net_genotype, "%s/configs/genotypes/dass_99.json",
                   root != NULL ? root : ".");
    c.net_channels = 36;
    c.net_layers = 20;
    check_ok(dass_sizes_measure(&c, "null", &s));
    assert_int_equal(s.count.params, 1713790);
    assert_int_equal(s.count.macs_per_image, 275103360);
    assert_int_equal(s.kept, 17045);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(search_to_eval, setup, teardown),
        cmocka_unit_test_setup_teardown(eval_does_not_depend_on_the_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(same_command_same_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(weights_do_not_move_alpha, setup, teardown),
        cmocka_unit_test_setup_teardown(stages_train_what_they_say, setup, teardown),
        cmocka_unit_test_setup_teardown(no_score_epochs_is_magnitude_pruning, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(methods, setup, teardown),
        cmocka_unit_test_setup_teardown(density_one_is_darts, setup, teardown),
        cmocka_unit_test_setup_teardown(second_order_searches, setup, teardown),
        cmocka_unit_test_setup_teardown(training_options, setup, teardown),
        cmocka_unit_test_setup_teardown(magnitude_methods, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_removed_does_not_come_back, setup, teardown),
        cmocka_unit_test_setup_teardown(pruning_again_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(tensors_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(tensor_files_are_read_strictly, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_tensor_files, setup, teardown),
        cmocka_unit_test_setup_teardown(files_of_other_networks_are_refused, setup, teardown),
        cmocka_unit_test(schedules),
        cmocka_unit_test(sizes_of_the_published_networks),
    };
    return cmocka_run_group_tests_name("run", tests, NULL, NULL);
}
