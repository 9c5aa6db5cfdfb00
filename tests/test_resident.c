/* The data set on the device: what the gather op takes out of it, that runs end in the same bytes with it and without,
 * also when they are stopped in the middle of an epoch or change over between two parts, what a step moves over the
 * bus, and what happens when the images do not fit. On the host, and on the CUDA device, real or simulated, where there
 * is one.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>

#include "double.h"
#include "dass/log.h"
#include "dass/run.h"

#include "fakecuda/fake.h"

static char folder[64];

static const char *at(const char *name)
{
    static char path[8][256];
    static int turn;
    turn = (turn + 1) % 8;
    (void)snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "%s", "/tmp/dass_test_resident_XXXXXX");
    dass_log_set_level(DASS_LOG_ERROR);
    return mkdtemp(folder) == NULL;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    dass_log_set_level(DASS_LOG_ERROR);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

typedef void (*traffic_fn)(fake_traffic *out);

/* The double's counter; skips on a real device. */
static traffic_fn double_counter(void)
{
    traffic_fn fn = NULL;
    need_double();
    *(void **)&fn = double_symbol("fake_cuda_traffic");
    return fn;
}

static void set(dass_config *c, const char *assignment)
{
    check_ok(dass_config_set(c, assignment, "test"));
}

static void set_all(dass_config *c, const char *const *settings, size_t n)
{
    dass_config_defaults(c);
    for (size_t i = 0; i < n; i++)
        set(c, settings[i]);
}

/* ---- the op ----------------------------------------------------------------------------------------------------- */

enum { IMAGES = 1, LABELS, ORDER, STEP, TO_IMAGES, TO_LABELS, TO_SAMPLES, N_BUFFERS };
enum { N = 5, LENGTH = 7, ROWS = 3, IMAGE = 2 * 4 * 4 };

static const int32_t labels[N] = {70, 71, 72, 73, 74};
static const int32_t order[LENGTH] = {4, 0, 3, 3, -8, 2, 99};

typedef struct gatherer {
    dass_backend *be;
    dass_graph *g;
    dass_exec *e;
    dass_program *p;
    void *buf[N_BUFFERS];
} gatherer;

static dass_val flat(dass_graph *g, const char *name, dass_dtype type, dass_buf b, int32_t n)
{
    return dass_ref_typed(g, name, type, b, 0, DASS_LAYOUT_FLAT, 1, &n);
}

static void open_gatherer(gatherer *r, const char *device)
{
    static const size_t bytes[N_BUFFERS] = {0,   (size_t)N * IMAGE,    sizeof labels, sizeof order,
                                            256, (size_t)ROWS * IMAGE, ROWS * 4,      ROWS * 4};
    uint8_t images[N * IMAGE];
    dass_val out[3];
    memset(r, 0, sizeof *r);
    check_ok(dass_backend_open(device, NULL, &r->be));
    check_ok(dass_graph_make(r->be->ops->real, &r->g));
    const dass_val x =
        dass_ref_typed(r->g, "images", DASS_U8, IMAGES, 0, DASS_LAYOUT_NHWC, 4, (const int32_t[]){N, 2, 4, 4});
    dass_gather(r->g, x, flat(r->g, "labels", DASS_I32, LABELS, N), flat(r->g, "order", DASS_I32, ORDER, LENGTH),
                flat(r->g, "step", DASS_U8, STEP, 256), ROWS, &out[0], &out[1], &out[2]);
    for (int i = 0; i < 3; i++)
        dass_place(r->g, out[i], (dass_buf)(TO_IMAGES + i), 0);
    check_ok(dass_graph_finish(r->g));
    for (int b = 1; b < N_BUFFERS; b++)
        check_ok(r->be->ops->alloc(r->be, bytes[b], "test", &r->buf[b]));
    for (size_t i = 0; i < sizeof images; i++)
        images[i] = (uint8_t)(i / IMAGE * 50 + i % IMAGE);
    check_ok(r->be->ops->write(r->be, r->buf[IMAGES], images, sizeof images));
    check_ok(r->be->ops->write(r->be, r->buf[LABELS], labels, sizeof labels));
    check_ok(r->be->ops->write(r->be, r->buf[ORDER], order, sizeof order));
    check_ok(dass_exec_make(r->be, r->g, NULL, &r->e));
    check_ok(dass_program_make(r->be, &r->e, 1, r->buf, N_BUFFERS, &r->p));
}

static void close_gatherer(gatherer *r)
{
    dass_program_free(r->p);
    dass_exec_free(r->e);
    dass_graph_free(r->g);
    for (int b = 1; b < N_BUFFERS; b++)
        r->be->ops->free(r->be, r->buf[b]);
    dass_backend_close(r->be);
}

static void gathered(gatherer *r, uint32_t position, const int32_t want[ROWS])
{
    uint8_t images[ROWS * IMAGE];
    int32_t got[2][ROWS];
    const dass_step_block block = {.position = position};
    check_ok(r->be->ops->write(r->be, r->buf[STEP], &block, sizeof block));
    check_ok(dass_program_run(r->p));
    check_ok(r->be->ops->read(r->be, images, r->buf[TO_IMAGES], sizeof images));
    check_ok(r->be->ops->read(r->be, got[0], r->buf[TO_LABELS], sizeof got[0]));
    check_ok(r->be->ops->read(r->be, got[1], r->buf[TO_SAMPLES], sizeof got[1]));
    for (int i = 0; i < ROWS; i++) {
        assert_int_equal(got[0][i], labels[want[i]]);
        assert_int_equal(got[1][i], want[i]);
        for (int k = 0; k < IMAGE; k++)
            assert_int_equal(images[i * IMAGE + k], want[i] * 50 + k);
    }
}

/* Two batches within the order; then what a caller must not ask for: the third is cut, and everything behind it, up to
 * the largest position, is the last entry again. Sample -8 is read as 0, sample 99 as the last of the five. */
static void gather_takes_the_rows_of_its_position(void **state)
{
    (void)state;
    static const char *const devices[] = {"host", "ref", "ref64", "cuda"};
    for (size_t i = 0; i < N_OF(devices); i++) {
        if (strcmp(devices[i], "cuda") == 0 && why_no_cuda() != NULL)
            continue;
        gatherer r;
        open_gatherer(&r, devices[i]);
        gathered(&r, 0, (const int32_t[]){4, 0, 3});
        gathered(&r, 1, (const int32_t[]){3, 0, 2});
        gathered(&r, 2, (const int32_t[]){4, 4, 4});
        gathered(&r, 0, (const int32_t[]){4, 0, 3});
        gathered(&r, 3, (const int32_t[]){4, 4, 4});
        gathered(&r, UINT32_MAX, (const int32_t[]){4, 4, 4});
        close_gatherer(&r);
    }
}

static void gather_refuses_what_does_not_fit(void **state)
{
    (void)state;
    static const struct {
        int32_t n_labels, length, rows, step;
        const char *text;
    } bad[] = {{N - 1, LENGTH, ROWS, 256, "labels 'labels' (4) are not one i32 for each of images 'images' (5,2,4,4)"},
               {N, LENGTH, LENGTH + 1, 256, "a batch of 8 rows is not in order 'order' (7)"},
               {N, LENGTH, 0, 256, "a batch of 0 rows"},
               {N, LENGTH, ROWS, 128, "step 'step' (128) is not the 256-byte step block"}};
    for (size_t i = 0; i < N_OF(bad); i++) {
        dass_graph *g = NULL;
        dass_val out[3];
        check_ok(dass_graph_make(DASS_F32, &g));
        const dass_val x =
            dass_ref_typed(g, "images", DASS_U8, IMAGES, 0, DASS_LAYOUT_NHWC, 4, (const int32_t[]){N, 2, 4, 4});
        dass_gather(g, x, flat(g, "labels", DASS_I32, LABELS, bad[i].n_labels),
                    flat(g, "order", DASS_I32, ORDER, bad[i].length), flat(g, "step", DASS_U8, STEP, bad[i].step),
                    bad[i].rows, &out[0], &out[1], &out[2]);
        assert_fails_with(g->status, DASS_ARG, bad[i].text);
        assert_true(out[0] == 0 && out[1] == 0 && out[2] == 0);
        dass_graph_free(g);
    }
}

/* ---- whole runs ------------------------------------------------------------------------------------------------- */

/* 90 images of 8x8. train_part is not a half: a shorter validation half goes through itself again within an epoch. */
static dass_config tiny(void)
{
    static const char *const settings[] = {
        "data.name=random",
        "data.limit=90",
        "data.test_limit=20",
        "data.pad=1",
        "net.image=8",
        "net.in_channels=2",
        "net.classes=3",
        "net.channels=4",
        "net.layers=3",
        "net.nodes=2",
        "train.batch=10",
        "run.eval_batch=8",
        "search.train_part=0.7",
        "search.epochs.score=2",
        "search.epochs.pretrain=2",
        "search.density=0.3",
        "search.epochs.finetune=1",
        "train.epochs=3",
        "prune.density=0.25",
        "prune.epochs.score=2",
        "prune.epochs.finetune=2",
        "run.threads=1",
        "train.drop_path=0.3",
        "train.ema=0.9",
    };
    dass_config c;
    set_all(&c, settings, N_OF(settings));
    return c;
}

static dass_run_options options(const dass_config *c, const char *out)
{
    return (dass_run_options){.config = c, .out_dir = out, .build_id = "test", .command = "test"};
}

/* One of the commands with data.resident as given, in `name`. prune prunes what `dense` left. */
static dass_status run(const char *command, dass_config *c, const char *resident, const char *name, const char *dense,
                       const volatile sig_atomic_t *stop)
{
    char assignment[64];
    dass_genotype g;
    dass_run_options opt = options(c, at(name));
    (void)snprintf(assignment, sizeof assignment, "data.resident=%s", resident);
    set(c, assignment);
    opt.stop = stop;
    if (strcmp(command, "search") == 0)
        return dass_run_search(&opt, &g);
    return strcmp(command, "train") == 0 ? dass_run_train(&opt) : dass_run_prune(&opt, at(dense));
}

/* All files but those that quote the configuration, or the time. */
static void assert_same_run(const char *a, const char *b)
{
    char command[768];
    (void)snprintf(command, sizeof command, "diff -r -x config.yaml -x run.json -x times.jsonl '%s' '%s' >&2", at(a),
                   at(b));
    if (system(command) != 0)
        fail_msg("%s and %s differ", a, b);
}

static void write_cell(dass_config *c)
{
    const dass_genotype g = dass_genotype_random(3, 2);
    dass_arena *mem = NULL;
    check_ok(dass_arena_make("test", &mem));
    const char *text = dass_genotype_print(&g, mem);
    check_ok(dass_file_write(at("cell.json"), text, strlen(text)));
    dass_arena_free(mem);
    (void)snprintf(c->net_genotype, sizeof c->net_genotype, "%s", at("cell.json"));
}

static void runs_end_in_the_same_bytes(void **state)
{
    (void)state;
    dass_config c = tiny();
    for (int order_of_search = 1; order_of_search <= 2; order_of_search++) {
        c.search_order = order_of_search;
        set(&c, order_of_search == 1 ? "search.train_part=0.7" : "search.train_part=0.3");
        char name[2][32];
        for (int i = 0; i < 2; i++) {
            (void)snprintf(name[i], sizeof name[i], "search%d.%d", order_of_search, i);
            check_ok(run("search", &c, i == 0 ? "off" : "on", name[i], NULL, NULL));
        }
        assert_same_run(name[0], name[1]);
    }
    write_cell(&c);
    check_ok(run("train", &c, "off", "dense.off", NULL, NULL));
    check_ok(run("train", &c, "on", "dense.on", NULL, NULL));
    assert_same_run("dense.off", "dense.on");
    check_ok(run("prune", &c, "off", "pruned.off", "dense.off", NULL));
    check_ok(run("prune", &c, "on", "pruned.on", "dense.off", NULL));
    assert_same_run("pruned.off", "pruned.on");
}

/* Stopped after every step, of an epoch or its last, and gone on with in turns with the images here and there. */
static void stopped_runs_end_in_the_same_bytes(void **state)
{
    (void)state;
    static const volatile sig_atomic_t stop = SIGTERM;
    static const char *const commands[] = {"search", "train", "prune"};
    static const char *const ways[] = {"on", "on", "off"};
    dass_config c = tiny();
    write_cell(&c);
    dass_config supernet = tiny();
    check_ok(run("train", &c, "off", "dense", NULL, NULL));
    for (size_t k = 0; k < N_OF(commands); k++) {
        dass_config *of = k == 0 ? &supernet : &c;
        char whole[32];
        char parts[32];
        dass_status st = DASS_STOPPED;
        int n_parts = 0;
        (void)snprintf(whole, sizeof whole, "%s.whole", commands[k]);
        (void)snprintf(parts, sizeof parts, "%s.parts", commands[k]);
        check_ok(run(commands[k], of, "off", whole, "dense", NULL));
        char before[256] = "";
        for (; st == DASS_STOPPED && n_parts < 200; n_parts++) {
            (void)snprintf(before, sizeof before, "%.255s", n_parts > 0 ? dass_error_text() : "");
            st = run(commands[k], of, ways[n_parts % 3], parts, "dense", &stop);
            if (st == DASS_STOPPED && strncmp(before, dass_error_text(), 255) == 0) /* no step left: the evaluation */
                st = run(commands[k], of, ways[n_parts % 3], parts, "dense", NULL);
        }
        check_ok(st);
        assert_true(n_parts > 20);
        assert_same_run(whole, parts);
    }
}

/* ---- the device ------------------------------------------------------------------------------------------------- */

/* A supernet of one cell of one node; two images of 4x4 a step. */
static dass_config small(void)
{
    static const char *const settings[] = {
        "run.device=cuda",
        "data.name=random",
        "data.test_limit=2",
        "data.pad=1",
        "net.image=4",
        "net.in_channels=2",
        "net.classes=3",
        "net.channels=4",
        "net.layers=1",
        "net.nodes=1",
        "train.batch=2",
        "search.density=0.3",
        "search.epochs.score=1",
        "search.epochs.pretrain=1",
        "search.epochs.finetune=1",
        "data.limit=12",
    };
    dass_config c;
    set_all(&c, settings, N_OF(settings));
    return c;
}

static void device_runs_end_in_the_same_bytes(void **state)
{
    (void)state;
    need_cuda();
    static const volatile sig_atomic_t stop = SIGTERM;
    dass_config c = small();
    check_ok(run("search", &c, "off", "off", NULL, NULL));
    assert_int_equal(run("search", &c, "auto", "auto", NULL, &stop), DASS_STOPPED); /* after one of three steps */
    check_ok(run("search", &c, "auto", "auto", NULL, NULL));
    assert_same_run("off", "auto");
}

/* What a search of one dense epoch on `limit` images moves. */
static fake_traffic traffic_of(traffic_fn count, const char *limit)
{
    dass_config c = small();
    dass_genotype g;
    set(&c, "search.method=darts");
    set(&c, "search.epochs.score=0");
    set(&c, "search.epochs.finetune=0");
    set(&c, limit);
    dass_run_options opt = options(&c, NULL);
    fake_traffic before;
    fake_traffic after;
    count(&before);
    check_ok(dass_run_search(&opt, &g));
    count(&after);
    return (fake_traffic){.copies = after.copies - before.copies,
                          .bytes_down = after.bytes_down - before.bytes_down,
                          .bytes_up = after.bytes_up - before.bytes_up,
                          .waits = after.waits - before.waits};
}

/* Two runs that differ by three steps, and by 12 images with their labels and an epoch's orders. */
static void a_search_step_waits_once(void **state)
{
    (void)state;
    const traffic_fn count = double_counter();
    const fake_traffic few = traffic_of(count, "data.limit=16");
    const fake_traffic more = traffic_of(count, "data.limit=28");
    const unsigned long steps = 3;
    const unsigned long data = 12 * (2 * 4 * 4 + sizeof(int32_t));
    const unsigned long orders = 2 * steps * 2 * sizeof(int32_t);
    assert_int_equal(more.waits - few.waits, steps);
    assert_int_equal(more.bytes_down - few.bytes_down, steps * sizeof(dass_step_block) + data + orders);
    assert_int_equal(more.bytes_up - few.bytes_up, steps * 4 * sizeof(float)); /* loss, correct, of both batches */
    assert_int_equal(more.copies - few.copies, steps * 5);
}

/* More small writes than are staged at once, from one block of the caller's. */
static void small_writes_keep_their_bytes(void **state)
{
    (void)state;
    need_cuda();
    enum { PART = 1000, PARTS = 200 };
    static uint8_t got[PART * PARTS];
    uint8_t part[PART];
    void *buf = NULL;
    dass_backend *be = NULL;
    check_ok(dass_backend_open("cuda", NULL, &be));
    check_ok(be->ops->alloc(be, sizeof got, "test", &buf));
    for (int i = 0; i < PARTS; i++) {
        memset(part, i, sizeof part);
        check_ok(be->ops->write(be, (uint8_t *)buf + (size_t)i * PART, part, sizeof part));
    }
    check_ok(be->ops->read(be, got, buf, sizeof got));
    for (int i = 0; i < PART * PARTS; i++)
        assert_int_equal(got[i], i / PART);
    const dass_transfer t[3] = {{part, (uint8_t *)buf + 999, 3},
                                {part + 3, buf, 0},
                                {part + 3, (uint8_t *)buf + 5000, 1}};
    memset(part, 77, sizeof part);
    check_ok(be->ops->read_many(be, t, N_OF(t)));
    const uint8_t want[5] = {0, 1, 1, 5, 77};
    assert_memory_equal(part, want, sizeof want);
    be->ops->free(be, buf);
    dass_backend_close(be);
}

/* ---- what does not fit ------------------------------------------------------------------------------------------ */

/* What a run says on stderr; it is stopped after its first step. */
static dass_status said_by(dass_config *c, const char *resident, char *text, size_t n)
{
    static const volatile sig_atomic_t stop = SIGTERM;
    dass_log_set_level(DASS_LOG_INFO);
    (void)fflush(stderr);
    const int before = dup(STDERR_FILENO);
    const int to = open(at("said"), O_CREAT | O_TRUNC | O_RDWR, 0600);
    assert_true(before >= 0 && to >= 0 && dup2(to, STDERR_FILENO) >= 0);
    const dass_status st = run("search", c, resident, resident, NULL, &stop);
    (void)fflush(stderr);
    (void)dup2(before, STDERR_FILENO);
    (void)close(before);
    const ssize_t got = pread(to, text, n - 1, 0);
    assert_true(got >= 0);
    text[got] = '\0';
    (void)close(to);
    dass_log_set_level(DASS_LOG_ERROR);
    return st;
}

/* 30,000 images and what belongs to them are 1.26 MiB: too much for a device of 1 MiB, more than half of 2 MiB, and
 * less than half of 4. */
static int forget_the_size(void **state)
{
    unsetenv("FAKE_CUDA_BYTES"); /* also after a failure */
    return teardown(state);
}

static void images_that_do_not_fit_are_copied_aloud(void **state)
{
    (void)state;
    need_double();
    static char text[8192];
    dass_config c = small();
    set(&c, "data.limit=30000");
    (void)setenv("FAKE_CUDA_BYTES", "2097152", 1);
    assert_int_equal(said_by(&c, "auto", text, sizeof text), DASS_STOPPED);
    if (strstr(text, "search: the training images need 1.3 MiB, more than half of the 1.") == NULL ||
        strstr(text, " MiB that are free on cuda: every step copies its batch") == NULL)
        fail_msg("auto said: %s", text);
    (void)setenv("FAKE_CUDA_BYTES", "1048576", 1);
    assert_fails_with(said_by(&c, "on", text, sizeof text), DASS_NOMEM,
                      "test: data.resident = on: the training images need 1320000 bytes, of ");
    (void)setenv("FAKE_CUDA_BYTES", "4194304", 1);
    assert_int_equal(said_by(&c, "auto", text, sizeof text), DASS_STOPPED); /* goes on where the copies stopped */
    if (strstr(text, "search: 30000 training images stay on cuda, 0.9 MiB") == NULL)
        fail_msg("auto said: %s", text);
    assert_int_equal(said_by(&c, "off", text, sizeof text), DASS_STOPPED);
    assert_null(strstr(text, "training images stay"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gather_takes_the_rows_of_its_position),
        cmocka_unit_test(gather_refuses_what_does_not_fit),
        cmocka_unit_test_setup_teardown(runs_end_in_the_same_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(stopped_runs_end_in_the_same_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(device_runs_end_in_the_same_bytes, setup, teardown),
        cmocka_unit_test(a_search_step_waits_once),
        cmocka_unit_test(small_writes_keep_their_bytes),
        cmocka_unit_test_setup_teardown(images_that_do_not_fit_are_copied_aloud, setup, forget_the_size),
    };
    return cmocka_run_group_tests_name("resident", tests, NULL, NULL);
}
