/* Runs on bad days: what diverges, what a disk or a person does to a run folder, what the system refuses for a moment.
 * The run must never be lost, never be another one, and the message must say what to do.
 *
 * System calls fail here on request: the program's own functions of their names come before the C library's.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT */
#endif
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "check.h"
#include "dass/log.h"
#include "dass/run.h"

/* ---- calls that fail, and a record of them ---------------------------------------------------------------------- */

static struct {
    const char *call;   /* "readdir", "lstat", "open", "unlink"; NULL: none fails */
    const char *suffix; /* of the path, where the call has one */
    int error;
    int skip; /* so many succeed before the first that fails */
} fault;
static volatile sig_atomic_t stop; /* what a signal would set */
static int threads_before_stop;    /* stop is set when so many have been started; 0: never */
static int n_writes;
static const char *watched; /* a run folder whose creations and synchronisations are written into events */
static char events[256];

/* The C library's own; each call is a pointer of its type. */
#define REAL(name)                 \
    __typeof__(&name) real = NULL; \
    *(void **)&real = dlsym(RTLD_NEXT, #name)

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text);
    const size_t m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static bool must_fail(const char *call, const char *path)
{
    if (fault.call == NULL || strcmp(call, fault.call) != 0 || (path != NULL && !ends_with(path, fault.suffix)))
        return false;
    if (fault.skip-- > 0)
        return false;
    errno = fault.error;
    return true;
}

static void note(char event)
{
    const size_t n = strlen(events);
    if (watched != NULL && n + 1 < sizeof events)
        events[n] = event;
}

struct dirent *readdir(DIR *d)
{
    REAL(readdir);
    return must_fail("readdir", NULL) ? NULL : real(d);
}

int lstat(const char *path, struct stat *sb)
{
    REAL(lstat);
    return must_fail("lstat", path) ? -1 : real(path, sb);
}

int stat(const char *path, struct stat *sb)
{
    REAL(stat);
    return must_fail("lstat", path) ? -1 : real(path, sb);
}

int open(const char *path, int flags, ...)
{
    REAL(open);
    va_list args;
    va_start(args, flags);
    const mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    if (ends_with(path, ".jsonl"))
        note('L');
    if (ends_with(path, ".safetensors.tmp"))
        note('C');
    return must_fail("open", path) ? -1 : real(path, flags, mode);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir);
    if (ends_with(path, "/checkpoint"))
        note('M');
    return real(path, mode);
}

int fsync(int fd)
{
    REAL(fsync);
    struct stat sb;
    struct stat run;
    if (watched != NULL && fstat(fd, &sb) == 0 && stat(watched, &run) == 0 && sb.st_ino == run.st_ino)
        note('S');
    return real(fd);
}

int unlink(const char *path)
{
    REAL(unlink);
    return must_fail("unlink", path) ? -1 : real(path);
}

ssize_t write(int fd, const void *data, size_t n)
{
    REAL(write);
    n_writes++;
    return real(fd, data, n);
}

ssize_t writev(int fd, const struct iovec *v, int n)
{
    REAL(writev);
    n_writes++;
    return real(fd, v, n);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *), void *arg)
{
    REAL(pthread_create);
    if (threads_before_stop > 0 && --threads_before_stop == 0)
        stop = SIGTERM;
    return real(thread, attr, body, arg);
}

/* ---- a small run ------------------------------------------------------------------------------------------------ */

static char folder[64];

static const char *at(const char *name)
{
    static char path[8][256];
    static int turn;
    turn = (turn + 1) % 8;
    (void)snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void shell(const char *command)
{
    char line[1024];
    (void)snprintf(line, sizeof line, "cd '%s' && %s", folder, command);
    assert_int_equal(system(line), 0);
}

static bool there(const char *name)
{
    struct stat sb;
    return stat(at(name), &sb) == 0;
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "%s", "/tmp/dass_test_robust_XXXXXX");
    dass_log_set_level(DASS_LOG_ERROR);
    if (mkdtemp(folder) == NULL)
        return -1;
    const dass_genotype g = dass_genotype_random(3, 2);
    dass_arena *mem = NULL;
    check_ok(dass_arena_make("test", &mem));
    const char *text = dass_genotype_print(&g, mem);
    check_ok(dass_file_write(at("cell.json"), text, strlen(text)));
    dass_arena_free(mem);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    memset(&fault, 0, sizeof fault);
    stop = 0;
    threads_before_stop = 0;
    watched = NULL;
    shell("rm -rf \"$PWD\"");
    return 0;
}

static void set(dass_config *c, const char *assignment)
{
    check_ok(dass_config_set(c, assignment, "test"));
}

/* 40 images of 8x8, three classes, a cell of two nodes three times; four steps an epoch. */
static dass_config tiny(void)
{
    static const char *const settings[] = {
        "data.name=random",
        "data.limit=40",
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
        "train.epochs=2",
        "prune.density=0.25",
        "prune.epochs.score=3",
        "prune.epochs.finetune=2",
        "run.threads=1",
        "search.density=0.3",
        "search.epochs.pretrain=1",
        "search.epochs.score=1",
        "search.epochs.finetune=1",
    };
    dass_config c;
    dass_config_defaults(&c);
    for (size_t i = 0; i < N_OF(settings); ++i)
        set(&c, settings[i]);
    return c;
}

static dass_config tiny_cells(void)
{
    dass_config c = tiny();
    (void)snprintf(c.net_genotype, sizeof c.net_genotype, "%s", at("cell.json"));
    return c;
}

static dass_run_options options(const dass_config *c, const char *name)
{
    return (dass_run_options){
        .config = c, .out_dir = at(name), .build_id = "test", .command = "test", .stop = &stop, .quiet = true};
}

static dass_status train(const dass_config *c, const char *name, bool restart)
{
    dass_run_options opt = options(c, name);
    opt.restart = restart;
    return dass_run_train(&opt);
}

/* Whether a file of tensors has only finite ones; there must be some. */
static bool is_finite_file(const char *path)
{
    dass_st_file *f = NULL;
    bool finite = true;
    size_t n = 0;
    check_ok(dass_st_read(path, &f));
    for (size_t i = 0; i < f->n_tensors; ++i)
        for (size_t k = 0; f->tensors[i].type == DASS_ST_F32 && k < f->tensors[i].bytes / 4; ++k, ++n)
            finite = finite && isfinite(((const float *)f->tensors[i].data)[k]);
    dass_st_free(f);
    assert_true(n > 100);
    return finite;
}

/* Writes a file of tensors again with one element of one tensor changed, so that its hash is right. */
static void poison(const char *path, const char *name, float value)
{
    dass_st_file *f = NULL;
    check_ok(dass_st_read(path, &f));
    dass_st_file copy = *f;
    const dass_st_tensor *t = dass_st_find(f, name);
    assert_non_null(t);
    void *block = NULL;
    check_ok(dass_mem_alloc(t->bytes, "test", &block));
    memcpy(block, t->data, t->bytes);
    memcpy((uint8_t *)block + t->bytes - 4, &value, 4);
    copy.tensors[t - f->tensors].data = block;
    dass_st_meta meta[32]; /* all but the hash, which is made anew */
    copy.meta = meta;
    copy.n_meta = 0;
    for (size_t i = 0; i < f->n_meta; ++i)
        if (strcmp(f->meta[i].key, "xxh64") != 0)
            meta[copy.n_meta++] = f->meta[i];
    check_ok(dass_st_write(path, &copy));
    dass_mem_free(block);
    dass_st_free(f);
}

/* ---- divergence ------------------------------------------------------------------------------------------------- */

/* Warm-up to a rate at which running variances leave the numbers while every loss is one: what is not finite is not
 * saved, the last good epoch stays, and is what a second start goes on from and what is evaluated. */
static void a_diverged_run_keeps_its_last_good_epoch(void **state)
{
    (void)state;
    dass_config c = tiny_cells();
    set(&c, "train.epochs=16");
    set(&c, "train.warmup=15");
    set(&c, "train.lr=60");
    set(&c, "train.weight_decay=0.05");
    set(&c, "train.clip=1e9");
    set(&c, "train.momentum=0");
    set(&c, "run.keep=100");
    char first[2048];
    char epochs[2048] = "";
    for (int start = 0; start < 2; ++start) {
        assert_int_equal(train(&c, "run", false), DASS_NUMERIC);
        assert_non_null(strstr(dass_error_text(), "] is "));
        assert_non_null(strstr(dass_error_text(), "lower train.lr (60)"));
        assert_non_null(strstr(dass_error_text(), "/run/checkpoint/epoch-0"));
        if (start == 0)
            (void)snprintf(first, sizeof first, "%s", dass_error_text());
        assert_string_equal(dass_error_text(), first);
    }
    int n_good = 0;
    char name[64];
    for (int e = 1; e <= 16; ++e) {
        (void)snprintf(name, sizeof name, "run/checkpoint/epoch-%06d.safetensors", e);
        if (!there(name))
            continue;
        assert_true(is_finite_file(at(name)));
        n_good = e;
        (void)snprintf(epochs, sizeof epochs, "%s is intact", name);
    }
    assert_true(n_good >= 2 && n_good < 16);
    assert_non_null(strstr(first, epochs));
    assert_false(there("run/params.safetensors"));
    dass_eval e;
    dass_eval named;
    dass_run_options opt = options(&c, "run");
    opt.out_dir = NULL;
    check_ok(dass_run_eval(&opt, at("run"), &e));
    assert_true(isfinite(e.loss));
    (void)snprintf(name, sizeof name, "run/checkpoint/epoch-%06d.safetensors", n_good);
    check_ok(dass_run_eval(&opt, at(name), &named));
    assert_true(e.loss == named.loss && e.top1 == named.top1);
    opt.out_dir = at("pruned"); /* not by mistake of a run that has no result */
    assert_fails_with(dass_run_prune(&opt, at("run")), DASS_ARG, "did not come to its end");
}

/* Good epochs of scores, then a rate for the weights that ends it at once. */
static void a_diverged_stage_keeps_the_stage_before(void **state)
{
    (void)state;
    dass_config c = tiny_cells();
    check_ok(train(&c, "dense", false));
    set(&c, "prune.lr_finetune=1000");
    set(&c, "train.weight_decay=1");
    set(&c, "train.clip=1e9");
    dass_run_options opt = options(&c, "run");
    assert_fails_with(dass_run_prune(&opt, at("dense")), DASS_NUMERIC, "lower prune.lr_finetune (1000)");
    assert_non_null(strstr(dass_error_text(), "] is "));
    assert_non_null(strstr(dass_error_text(), "epoch-000005.safetensors is intact"));
    assert_true(is_finite_file(at("run/checkpoint/epoch-000004.safetensors")));
    assert_true(is_finite_file(at("run/checkpoint/epoch-000005.safetensors")));
    dass_eval e;
    opt.out_dir = NULL;
    check_ok(dass_run_eval(&opt, at("run"), &e));
    assert_string_equal(e.state, "pruned");
    assert_true(e.kept >= e.weights / 4 && e.kept < e.weights / 2 && isfinite(e.loss));
}

/* A search too; and what a folder holds that an older program left, which saved what it had. */
static void what_is_not_finite_is_passed_over(void **state)
{
    (void)state;
    dass_genotype g;
    dass_config c = tiny();
    dass_run_options opt = options(&c, "whole");
    check_ok(dass_run_search(&opt, &g));
    shell("cp -r whole run && rm run/params.safetensors run/checkpoint/epoch-000003.safetensors");
    shell("ls whole/checkpoint | grep -q epoch-000002");
    c.run_keep = 5; /* changes no result */
    opt = options(&c, "again");
    check_ok(dass_run_search(&opt, &g));
    shell("cp again/checkpoint/epoch-000001.safetensors run/checkpoint");
    /* Epoch 2 has scores and a mask, which epoch 1 does not know; its alphas come last. */
    poison(at("run/checkpoint/epoch-000002.safetensors"), "alpha.reduce", NAN);
    opt = options(&c, "run");
    check_ok(dass_run_search(&opt, &g));
    shell("cmp run/params.safetensors whole/params.safetensors");
    shell("cmp run/metrics.jsonl whole/metrics.jsonl");
    shell("cmp run/checkpoint/epoch-000002.safetensors whole/checkpoint/epoch-000002.safetensors");
    /* Evaluation and derivation refuse it as well. */
    poison(at("run/params.safetensors"), "alpha.normal", INFINITY);
    assert_fails_with(dass_run_derive(at("run"), &g), DASS_FORMAT, "not finite");
}

/* Finite parameters whose outputs are not: a numerical failure, in training's last evaluation as in `eval`. */
static void an_infinite_test_loss_is_a_numerical_failure(void **state)
{
    (void)state;
    dass_config c = tiny_cells();
    check_ok(train(&c, "run", false));
    poison(at("run/params.safetensors"), "stem.bn.gamma", 3e38f);
    poison(at("run/params.safetensors"), "stem.conv", 3e38f);
    assert_true(is_finite_file(at("run/params.safetensors")));
    dass_eval e;
    dass_run_options opt = options(&c, "run");
    opt.out_dir = NULL;
    assert_fails_with(dass_run_eval(&opt, at("run"), &e), DASS_NUMERIC, "the test loss is ");
}

/* Averages are the network of a run's end, and so of a checkpoint's evaluation. */
static void a_checkpoint_is_evaluated_like_the_result(void **state)
{
    (void)state;
    dass_config c = tiny_cells();
    set(&c, "train.ema=0.9");
    check_ok(train(&c, "run", false));
    dass_eval result;
    dass_eval checkpoint;
    dass_run_options opt = options(&c, "run");
    opt.out_dir = NULL;
    check_ok(dass_run_eval(&opt, at("run"), &result));
    shell("rm run/params.safetensors");
    check_ok(dass_run_eval(&opt, at("run"), &checkpoint));
    assert_memory_equal(&result, &checkpoint, sizeof result);
    shell("rm -r run/checkpoint");
    assert_fails_with(dass_run_eval(&opt, at("run"), &checkpoint), DASS_IO, "no params.safetensors and no checkpoint");
}

/* ---- what the system refuses for a moment ----------------------------------------------------------------------- */

/* One call that fails is an error of that call: nothing is begun anew, nothing is removed, nobody is told to. */
static void a_passing_error_is_no_absence(void **state)
{
    (void)state;
    static const struct {
        const char *call, *suffix;
        int error;
    } cases[] = {
        {"readdir", "", EIO},
        {"open", "/checkpoint", EMFILE},
        {"lstat", "run.json", EIO},
        {"open", "run.json", EMFILE},
        {"open", "config.yaml", EACCES},
        {"lstat", "partial.safetensors", EIO},
        {"open", "partial.safetensors", EIO},
        {"lstat", "/being_removed", EIO},
    };
    dass_config c = tiny_cells();
    check_ok(train(&c, "run", false));
    shell("cp run/checkpoint/epoch-000002.safetensors run/checkpoint/partial.safetensors");
    shell("cp -r run before");
    for (size_t i = 0; i < N_OF(cases); ++i) {
        fault.call = cases[i].call;
        fault.suffix = cases[i].suffix;
        fault.error = cases[i].error;
        fault.skip = 0;
        const dass_status st = train(&c, "run", false);
        fault.call = NULL;
        assert_fails_with(st, DASS_IO, cases[i].suffix);
        assert_non_null(strstr(dass_error_text(), strerror(cases[i].error)));
        assert_null(strstr(dass_error_text(), "--restart"));
        shell("diff -r run before");
    }
    check_ok(train(&c, "run", false));
}

static void an_emptied_config_is_not_the_defaults(void **state)
{
    (void)state;
    static const char *const damage[] = {": > run/config.yaml", "head -n 30 before/config.yaml > run/config.yaml"};
    dass_config c = tiny_cells();
    dass_run_options opt = options(&c, "run");
    check_ok(dass_run_train(&opt));
    shell("cp -r run before");
    for (size_t i = 0; i < N_OF(damage); ++i) {
        shell(damage[i]);
        assert_fails_with(dass_run_train(&opt), DASS_FORMAT, "emptied or cut");
        dass_config read;
        bool found = false;
        assert_fails_with(dass_run_settings(at("run"), &read, &found), DASS_FORMAT, "emptied or cut");
    }
    shell("cp before/config.yaml run");
    check_ok(dass_run_train(&opt));
}

/* A folder is at each moment of a removal a run, or says that it is being removed; never half a run. */
static void a_removal_that_is_cut_short_says_so(void **state)
{
    (void)state;
    dass_config c = tiny_cells();
    check_ok(train(&c, "run", false));
    shell("cp -r run before");
    int n_calls = 0;
    const int stride = getenv("DASS_TEST_SHORT") != NULL ? 4 : 1;
    for (bool failed = true; failed && n_calls < 40; n_calls += stride) {
        shell("rm -rf run && cp -r before run");
        fault.call = "unlink";
        fault.suffix = "";
        fault.error = EIO;
        fault.skip = n_calls;
        const dass_status st = train(&c, "run", true);
        failed = fault.skip < 0;
        fault.call = NULL;
        if (!failed)
            continue;
        if (st == DASS_OK) /* an old checkpoint of the new run that stays is only said */
            break;
        assert_fails_with(st, DASS_IO, "cannot remove");
        assert_fails_with(train(&c, "run", false), DASS_CONFIG, "give --restart again");
        shell("grep -q 'give --restart again' run/being_removed");
        check_ok(train(&c, "run", true));
        shell("cmp run/params.safetensors before/params.safetensors && ! ls run | grep being_removed");
    }
    assert_in_range(n_calls, 8, 39);
}

/* ---- links and pipes -------------------------------------------------------------------------------------------- */

/* The folder itself may be a link, what is in it may not: nothing outside it is written. And nothing waits for a pipe.
 */
static void nothing_is_written_through_a_link(void **state)
{
    (void)state;
    static const struct {
        const char *make, *name;
    } cases[] = {
        {"rm run/metrics.jsonl && ln -s ../victim run/metrics.jsonl", "run/metrics.jsonl"},
        {"rm run/times.jsonl && ln -s ../victim run/times.jsonl", "run/times.jsonl"},
        {"mv run/checkpoint aside && ln -s ../aside run/checkpoint", "run/checkpoint"},
        {"rm -r run && mkdir run && ln -s ../victim run/config.yaml.tmp", "run/config.yaml.tmp"},
        {"rm -r run && mkdir run && ln -s ../victim run/metrics.jsonl", "run/metrics.jsonl"},
        {"rm -r run && mkdir run && ln -s ../aside run/checkpoint", "run/checkpoint"},
        {"rm run/metrics.jsonl && mkfifo run/metrics.jsonl", "run/metrics.jsonl"},
        {"rm run/run.json && mkfifo run/run.json", "run/run.json"},
        {"rm run/config.yaml && mkfifo run/config.yaml", "run/config.yaml"},
        {"rm run/checkpoint/*2.safetensors && mkfifo run/checkpoint/epoch-000002.safetensors",
         "run/checkpoint/epoch-000002.safetensors"},
        {"rm -r run && mkdir run && mkfifo run/config.yaml.tmp", "run/config.yaml.tmp"},
    };
    dass_config c = tiny_cells();
    check_ok(train(&c, "real", false));
    shell("ln -s real linked && echo victim >victim && cp victim victim_before");
    check_ok(train(&c, "linked", false));
    for (size_t i = 0; i < N_OF(cases); ++i) {
        shell("rm -rf run aside && cp -r real run && mkdir -p aside");
        shell(cases[i].make);
        shell("ls aside >aside_before");
        (void)alarm(20); /* a program that waits for a pipe is ended, and the test with it */
        const dass_status st = train(&c, "run", false);
        (void)alarm(0);
        assert_fails_with(st, DASS_IO, at(cases[i].name));
        shell("cmp victim victim_before && ls aside | cmp - aside_before");
    }
    dass_genotype g;
    shell("mkfifo pipe");
    (void)alarm(20);
    assert_fails_with(dass_genotype_read(at("pipe"), &g), DASS_IO, "not a regular file");
    assert_fails_with(dass_config_read(&c, at("pipe")), DASS_IO, "not a regular file");
    (void)alarm(0);
}

/* ---- words from outside ----------------------------------------------------------------------------------------- */

/* A command line of any bytes, and a settings file whose name goes over two lines: config.yaml stays what it says. */
static void names_cannot_change_the_settings(void **state)
{
    (void)state;
    dass_config c = tiny_cells();
    check_ok(dass_config_set(&c, "data.flip=false", "evil.yaml\nrun.seed: 99\n#:1"));
    dass_run_options opt = options(&c, "run");
    char line[4000];
    memset(line, 'x', sizeof line);
    for (size_t i = 1; i + 1 < sizeof line; i += 2)
        memcpy(line + i, "\xc3\xa4", 2);
    memcpy(line, "dass \xff\xc3\nrun.seed: 98\n", 22);
    line[sizeof line - 1] = '\0';
    opt.command = line;
    check_ok(dass_run_train(&opt));
    dass_config then;
    dass_config_defaults(&then);
    check_ok(dass_config_read(&then, at("run/config.yaml")));
    assert_int_equal(then.run_seed, 1);
    assert_false(then.data_flip);
    shell("iconv -f UTF-8 -t UTF-8 run/config.yaml run/run.json >converted");
    check_ok(dass_run_train(&opt));
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

/* Gigabytes that are none of ours are refused for their first bytes. */
static void a_huge_file_is_refused_by_its_header(void **state)
{
    (void)state;
    static const char header[] = "\x02\0\0\0\0\0\0\0[]";
    dass_st_file *f = NULL;
    FILE *file = fopen(at("huge"), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(header, 1, sizeof header - 1, file), sizeof header - 1);
    assert_int_equal(ftruncate(fileno(file), (off_t)5 << 30), 0);
    (void)fclose(file);
    const size_t before = dass_mem_get_stats().peak_bytes;
    assert_fails_with(dass_st_read(at("huge"), &f), DASS_FORMAT, "not a JSON object");
    assert_true(dass_mem_get_stats().peak_bytes < before + ((size_t)64 << 20));
}

static void many_tensors_take_few_writes(void **state)
{
    (void)state;
    enum { N = 500 };
    static char names[N][16];
    static float values[N][3];
    static dass_st_tensor t[N];
    for (size_t i = 0; i < N; ++i) {
        const size_t n = i % 4; /* empty ones too */
        (void)snprintf(names[i], sizeof names[i], "t%zu", i);
        for (size_t k = 0; k < 3; ++k)
            values[i][k] = (float)(3 * i + k);
        t[i] = (dass_st_tensor){
            .name = names[i], .type = DASS_ST_F32, .rank = 1, .dim = {(int64_t)n}, .bytes = 4 * n, .data = values[i]};
    }
    for (size_t i = 3; i < N; i += 4) { /* three values */
        t[i].bytes = 12;
        t[i].dim[0] = 3;
    }
    const dass_st_file f = {.tensors = t, .n_tensors = N};
    dass_st_file *read = NULL;
    n_writes = 0;
    check_ok(dass_st_write(at("many"), &f));
    assert_in_range(n_writes, 1, 12);
    check_ok(dass_st_read(at("many"), &read));
    for (size_t i = 0; i < N; ++i)
        assert_memory_equal(dass_st_find(read, names[i])->data, values[i], t[i].bytes);
    dass_st_free(read);
}

/* The names of the logs and of the folder of checkpoints reach the disk before what counts on them. */
static void new_names_are_synchronised(void **state)
{
    (void)state;
    dass_config c = tiny_cells();
    set(&c, "train.epochs=1");
    memset(events, 0, sizeof events);
    check_ok(dass_folder_make(at("run")));
    watched = at("run");
    const dass_status st = train(&c, "run", false);
    watched = NULL;
    check_ok(st);
    char *last_log = strrchr(events, 'L');
    char *made = strchr(events, 'M');
    char *first = strchr(events, 'C');
    assert_non_null(last_log);
    assert_true(made > last_log && first > made);
    *first = '\0';
    assert_non_null(strchr(made, 'S'));
    *made = '\0';
    assert_non_null(strchr(last_log, 'S'));
}

/* ---- signals ---------------------------------------------------------------------------------------------------- */

/* A signal during the last evaluation: the run stops, and the same command ends it with the same bytes. */
static void a_signal_in_the_last_evaluation_is_heard(void **state)
{
    (void)state;
    dass_config c = tiny_cells();
    check_ok(train(&c, "whole", false));
    threads_before_stop = 2; /* the reader of training images, then that of test images */
    assert_fails_with(train(&c, "run", false), DASS_STOPPED, "the same command goes on");
    assert_false(there("run/params.safetensors"));
    shell("test $(wc -l <run/metrics.jsonl) = 2"); /* two epochs, no test */
    stop = 0;
    check_ok(train(&c, "run", false));
    shell("cmp run/params.safetensors whole/params.safetensors && cmp run/metrics.jsonl whole/metrics.jsonl");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_diverged_run_keeps_its_last_good_epoch),
        TEST(a_diverged_stage_keeps_the_stage_before),
        TEST(what_is_not_finite_is_passed_over),
        TEST(an_infinite_test_loss_is_a_numerical_failure),
        TEST(a_checkpoint_is_evaluated_like_the_result),
        TEST(a_passing_error_is_no_absence),
        TEST(an_emptied_config_is_not_the_defaults),
        TEST(a_removal_that_is_cut_short_says_so),
        TEST(nothing_is_written_through_a_link),
        TEST(names_cannot_change_the_settings),
        TEST(a_huge_file_is_refused_by_its_header),
        TEST(many_tensors_take_few_writes),
        TEST(new_names_are_synchronised),
        TEST(a_signal_in_the_last_evaluation_is_heard),
    };
    return cmocka_run_group_tests_name("robust", tests, NULL, NULL);
}
