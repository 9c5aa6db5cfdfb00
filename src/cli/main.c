/* The program: a table of commands, one status, one exit. Everything that can fail says so through the status; this is
 * the only place that prints an error and exits.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "dass/log.h"
#include "dass/mem.h"

#define OPT_RUN (DASS__OPT_CONFIG | DASS__OPT_OUT | DASS__OPT_GUARD | DASS__OPT_RESTART)

static dass_status cmd_help(dass__opts *o);

static const dass__command commands[] = {
    {"info", "", "what this build and machine can do", DASS__OPT_JSON | DASS__OPT_CONFIG | DASS__OPT_COVERAGE, 0, 0,
     dass__cmd_info},
    {"plan", "", "size, cost and memory of a configuration; runs nothing", DASS__OPT_CONFIG | DASS__OPT_JSON, 0, 0,
     dass__cmd_plan},
    {"search", "", "find an architecture", OPT_RUN, 0, 0, dass__cmd_search},
    {"derive", "RUN", "genotype of a search, on stdout", 0, 1, 1, dass__cmd_derive},
    {"train", "", "train a genotype or a network of the zoo", OPT_RUN, 0, 0, dass__cmd_train},
    {"prune", "RUN", "learn the mask of a trained network, then train what it keeps", OPT_RUN, 1, 1, dass__cmd_prune},
    {"eval", "RUN...", "test accuracy of trained and pruned networks",
     DASS__OPT_CONFIG | DASS__OPT_JSON | DASS__OPT_GUARD, 1, DASS__MAX_WORDS, dass__cmd_eval},
    {"bench", "KIND [RUN...]", "step: time of a step of search or training; latency: of an answer, dense or sparse",
     DASS__OPT_CONFIG | DASS__OPT_JSON | DASS__OPT_OPS | DASS__OPT_STAGE | DASS__OPT_EXECUTION, 1, DASS__MAX_WORDS,
     dass__cmd_bench},
    {"plot", "RUN...", "pictures of a run: cells, alphas, curves", DASS__OPT_OUT, 1, DASS__MAX_WORDS, dass__cmd_plot},
    {"help", "[COMMAND|config]", "this text, a command's options, or every setting", 0, 0, 1, cmd_help},
    {NULL, NULL, NULL, 0, 0, 0, NULL},
};

static dass_status cmd_help(dass__opts *o)
{
    if (o->n_words == 0) {
        dass__help(commands, NULL);
        return DASS_OK;
    }
    if (strcmp(o->words[0], "config") == 0) {
        dass__help_config();
        return DASS_OK;
    }
    for (const dass__command *c = commands; c->name != NULL; ++c) {
        if (strcmp(c->name, o->words[0]) != 0)
            continue;
        dass__help(commands, c);
        return DASS_OK;
    }
    return DASS_FAIL(DASS_ARG, "help: no command '%s'; `dass help` lists them", o->words[0]);
}

static dass_status run(int argc, char **argv)
{
    static dass__opts o; /* large */
    DASS_TRY(dass__opts_parse(argc, argv, commands, &o));
    if (o.help || o.command == NULL) {
        dass__help(commands, o.command);
        return DASS_OK;
    }
    if (o.quiet)
        dass_log_set_level(DASS_LOG_WARN);
    DASS_TRY(o.command->run(&o));
    return DASS_OK;
}

/* A closed descriptor 0, 1 or 2 would be the next file's, and what is meant for people would go into it. */
static void open_standard(void)
{
    for (int fd = 0; fd <= 2; ++fd)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            (void)open("/dev/null", O_RDWR); /* the lowest free one: this */
}

/* Jansson answers a lack of memory like a mistake in the text, and a file would be called damaged. It is said here, and
 * that ends the program: there is no result to save, and what is on the disk is whole. */
static void *json_memory(size_t n_bytes)
{
    void *block = dass_mem_plain(n_bytes);
    if (block == NULL) {
        (void)fprintf(stderr, "dass: error: out of memory (%zu bytes for JSON)\n", n_bytes);
        exit(DASS_NOMEM);
    }
    return block;
}

/* Threads that wait for each other spin, and libgomp's default is to spin for about a millisecond: on a crowded machine
 * a step of thousands of short kernels then waits for threads that are not running. Measured on two cores, a demo
 * step: alone 0.29 s by default, 0.30 s with 5000 turns, 0.32 s with 1000; beside four other busy processes 3.9 s by
 * default, 2.3 s with 20000, 0.9 s with 1000. libgomp reads its environment when it is loaded, before main, so the
 * program sets it and starts itself once more. */
static void bound_spinning(char **argv)
{
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY"))
        return;
    char path[4096]; /* by its own name, which ps and top then show */
    const ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0 || setenv("GOMP_SPINCOUNT", "5000", 1) != 0)
        return;
    path[n] = '\0';
    (void)execv(path, argv); /* when it returns, the default spinning is only slower */
}

int main(int argc, char **argv)
{
    open_standard();
    (void)signal(SIGPIPE, SIG_IGN); /* who stops reading the log does not stop the run */
    bound_spinning(argv);
    json_set_alloc_funcs(json_memory, dass_mem_plain_free);
    dass_status st = run(argc, argv);
    const bool failed = ferror(stdout) != 0; /* earlier; the reason is forgotten */
    if ((fflush(stdout) != 0 || failed) && st == DASS_OK)
        st = DASS_FAIL(DASS_IO, "standard output: %s", failed ? "a write failed" : strerror(errno));
    if (st != DASS_OK) {
        const char *text = dass_error_text();
        const bool asked = st == DASS_STOPPED || st == DASS_INTERRUPTED;
        (void)fprintf(stderr, "dass: %s%s\n", asked ? "" : "error: ", text[0] != '\0' ? text : dass_status_text(st));
        if (dass_log_get_level() >= DASS_LOG_DEBUG)
            (void)fprintf(stderr, "dass: debug: at %s\n", dass_error_where());
    }
    exit(st);
}
