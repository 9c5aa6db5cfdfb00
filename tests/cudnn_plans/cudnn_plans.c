/* Does cuDNN have a plan for these convolutions on that card? Needs no GPU: plans are made from a description of the
 * card, and each is written to a cache and read back. It proves shape, type and layout support as the library sees it,
 * and that a plan survives the disk; it runs nothing, so neither numbers nor speed.
 *
 *     cudnn_plans DEVICE.json [--all] [--deterministic] [--ws BYTES] < LINES
 *
 * A line is what dass__dnn_conv_text prints; empty lines and lines that begin with # are passed over. --all: each line
 * in all kinds and precisions that exist (bias and activation on the forward ones only). Prints per case what was
 * found, then a summary; exits 1 when a case failed, 2 when the input is no good. Cases run in a child process: one
 * that crashes is one failed case, and the next goes on in a new child.
 *
 *     gcc -std=gnu11 -O1 -Iinclude -Isrc/cuda -isystem /usr/local/cuda/include
 * tests/cudnn_plans/{cudnn_plans,read_conv}.c \ src/cuda/cuda_dnn*.c src/base/{status,mem,log,file}.c
 * -L/usr/local/cuda/lib64 -lcudnn -o cudnn_plans LD_LIBRARY_PATH=FOLDER_OF_ZERO_DEVICES:/usr/local/cuda/lib64
 * ./cudnn_plans tests/cudnn_plans/h100.json < LINES
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cuda_dnn.h"
#include "dass/mem.h"
#include "read_conv.h"

#define LINE_MAX_BYTES 512

typedef struct outcome {
    bool done, found, same; /* same: the plan of the cache is the plan that was written */
    size_t ws;
    double seconds;
    char text[1200]; /* the plan's name, or what went wrong */
} outcome;

typedef struct cases {
    dass__dnn_conv *c;
    size_t n, room;
} cases;

static void fatal(const char *what, const char *text)
{
    fprintf(stderr, "cudnn_plans: %s: %s\n", what, text);
    exit(2);
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

/* Once each: a second time it would come from the cache. */
static void add(cases *list, dass__dnn_conv c)
{
    char text[DASS__DNN_TEXT], other[DASS__DNN_TEXT];
    (void)dass__dnn_conv_text(&c, text, sizeof text);
    for (size_t i = 0; i < list->n; ++i)
        if (strcmp(text, dass__dnn_conv_text(&list->c[i], other, sizeof other)) == 0)
            return;
    if (list->n == list->room) {
        list->room = list->room ? 2 * list->room : 64;
        list->c = realloc(list->c, list->room * sizeof *list->c);
        if (list->c == NULL)
            fatal("list of cases", "out of memory");
    }
    list->c[list->n++] = c;
}

static void read_cases(FILE *f, bool all, cases *list)
{
    char line[LINE_MAX_BYTES], copy[LINE_MAX_BYTES];
    while (fgets(line, sizeof line, f) != NULL) {
        if (line[strspn(line, " \t\n")] == '\0' || line[0] == '#')
            continue;
        memcpy(copy, line, sizeof copy);
        dass__dnn_conv c;
        char text[DASS__DNN_TEXT];
        if (!read_conv(line, &c))
            fatal("not a description", copy);
        copy[strcspn(copy, "\n")] = '\0';
        if (strcmp(copy, dass__dnn_conv_text(&c, text, sizeof text)) != 0)
            fatal("printed and read again it is another text", text);
        if (!all) {
            add(list, c);
            continue;
        }
        for (int k = 0; k < DASS__DNN_KINDS; ++k)
            for (int m = 0; m < DASS_N_PRECISIONS; ++m) {
                dass__dnn_conv v = c;
                v.kind = (dass__dnn_kind)k;
                v.precision = (dass_precision)m;
                v.bias = c.bias && k == DASS__DNN_FORWARD;
                v.act = k == DASS__DNN_FORWARD ? c.act : DASS_ACT_NONE;
                if (dass__dnn_conv_exists(&v))
                    add(list, v);
            }
    }
}

static char *read_text(const char *path)
{
    FILE *f = fopen(path, "rb");
    static char text[1 << 16];
    if (f == NULL)
        fatal(path, "cannot be opened");
    const size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = '\0';
    fclose(f);
    return text;
}

/* ---- one case -------------------------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void try_case(dass__dnn *dnn, const dass__dnn_conv *c, outcome *o)
{
    dass__dnn_plan *plan = NULL, *again = NULL;
    const double start = now();
    o->found = dass__dnn_plan_make(dnn, c, &plan) == DASS_OK;
    o->seconds = now() - start;
    if (!o->found) {
        snprintf(o->text, sizeof o->text, "%s", dass_error_text());
    } else {
        snprintf(o->text, sizeof o->text, "%s", dass__dnn_plan_name(plan));
        o->ws = dass__dnn_plan_ws(plan);
        if (dass__dnn_plan_cached(plan))
            snprintf(o->text, sizeof o->text, "the cache was not empty");
        else if (dass__dnn_plan_make(dnn, c, &again) != DASS_OK)
            snprintf(o->text, sizeof o->text, "read back: %s", dass_error_text());
        else if (!dass__dnn_plan_cached(again))
            snprintf(o->text, sizeof o->text, "%s was not read back from the cache", dass__dnn_plan_name(plan));
        else if (strcmp(dass__dnn_plan_name(again), dass__dnn_plan_name(plan)) != 0 ||
                 dass__dnn_plan_ws(again) != o->ws)
            snprintf(o->text, sizeof o->text, "%s came back as %s", dass__dnn_plan_name(plan),
                     dass__dnn_plan_name(again));
        else
            o->same = true;
    }
    dass__dnn_plan_free(again);
    dass__dnn_plan_free(plan);
    o->done = true;
}

/* The child: cases from `first` on, each outcome to the pipe. */
static void work(const cases *list, size_t first, const dass__dnn_options *opt, int to)
{
    dass__dnn *dnn = NULL;
    if (dass__dnn_open(0, NULL, opt, &dnn) != DASS_OK)
        fatal("open", dass_error_text());
    for (size_t i = first; i < list->n; ++i) {
        outcome o = {0};
        try_case(dnn, &list->c[i], &o);
        if (write(to, &o, sizeof o) != (ssize_t)sizeof o)
            fatal("pipe", "short write");
    }
    dass__dnn_close(dnn);
    if (dass_mem_get_stats().n_live != 0)
        fatal("memory", "blocks of dass/mem.h are left");
}

static bool read_whole(int from, outcome *o)
{
    size_t n = 0;
    while (n < sizeof *o) {
        const ssize_t got = read(from, (char *)o + n, sizeof *o - n);
        if (got <= 0)
            return false;
        n += (size_t)got;
    }
    return true;
}

/* ---- all cases ------------------------------------------------------------------------------------------------- */

static void remove_cache(const char *folder)
{
    char command[64];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0)
        fprintf(stderr, "cudnn_plans: %s is left\n", folder);
}

static bool print_case(const dass__dnn_conv *c, const outcome *o)
{
    char text[DASS__DNN_TEXT];
    const bool good = o->done && o->found && o->same;
    printf("%-4s %s: ", good ? "ok" : "FAIL", dass__dnn_conv_text(c, text, sizeof text));
    if (good)
        printf("%s ws=%zu %.3f s\n", o->text, o->ws, o->seconds);
    else
        printf("%s\n", o->text);
    fflush(stdout);
    return good;
}

/* One child's life. Returns how many cases are settled; *failed counts the bad ones. */
static size_t run_child(const cases *list, size_t first, const dass__dnn_options *opt, size_t *failed)
{
    int ends[2], status = 0;
    if (pipe(ends) != 0)
        fatal("pipe", "cannot be made");
    fflush(NULL);
    const pid_t child = fork();
    if (child < 0)
        fatal("fork", "failed");
    if (child == 0) {
        close(ends[0]);
        work(list, first, opt, ends[1]);
        exit(0);
    }
    close(ends[1]);
    outcome o;
    size_t i = first;
    for (; i < list->n && read_whole(ends[0], &o); ++i)
        *failed += !print_case(&list->c[i], &o);
    close(ends[0]);
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0) { /* it has said why */
        remove_cache(opt->cache_dir);
        exit(WEXITSTATUS(status));
    }
    if (i == list->n && WIFSIGNALED(status)) {
        printf("FAIL after the last case: killed by signal %d\n", WTERMSIG(status));
        ++*failed;
    } else if (i < list->n) {
        o = (outcome){0};
        snprintf(o.text, sizeof o.text, "the library crashed (signal %d)", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
        *failed += !print_case(&list->c[i++], &o);
    }
    return i;
}

int main(int argc, char **argv)
{
    bool all = false;
    const char *device = NULL;
    dass__dnn_options opt = {0};
    for (int i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--all") == 0)
            all = true;
        else if (strcmp(argv[i], "--deterministic") == 0)
            opt.deterministic = true;
        else if (strcmp(argv[i], "--ws") == 0 && i + 1 < argc)
            opt.ws_limit = strtoull(argv[++i], NULL, 10);
        else if (argv[i][0] == '-' || device != NULL)
            fatal("usage", "cudnn_plans DEVICE.json [--all] [--deterministic] [--ws BYTES] < LINES");
        else
            device = argv[i];
    }
    if (device == NULL)
        fatal("usage", "cudnn_plans DEVICE.json [--all] [--deterministic] [--ws BYTES] < LINES");
    cases list = {0};
    read_cases(stdin, all, &list);
    opt.device_json = read_text(device);
    char folder[] = "/tmp/cudnn_plans.XXXXXX"; /* a plan is made anew in every run: the folder is its own */
    if (mkdtemp(folder) == NULL)
        fatal(folder, "cannot be made");
    opt.cache_dir = folder;
    size_t failed = 0;
    const double start = now();
    for (size_t i = 0; i < list.n;)
        i = run_child(&list, i, &opt, &failed);
    remove_cache(folder);
    printf("%s: %zu cases, %zu with a plan, %zu without, %.1f s\n", device, list.n, list.n - failed, failed,
           now() - start);
    free(list.c);
    return failed != 0;
}
