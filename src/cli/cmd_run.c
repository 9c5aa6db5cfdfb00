/* search, derive, train, prune, eval: options to run options, results to stdout. What the commands do is in src/train.
 */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "dass/log.h"
#include "dass/run.h"
#include "dass/text.h"

static const char *const search_keys[] = {"net.", "search.", "train.batch", "data.", "run.", NULL};
static const char *const train_keys[] = {"net.", "train.", "data.", "run.", NULL};
static const char *const prune_keys[] = {"net.", "train.", "prune.", "data.", "run.", NULL};

/* ---- stopping ------------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t stop_signal;

static void ask_to_stop(int number)
{
    stop_signal = number;
}

/* The first signal asks, a second one of the same kind ends the process at once. SIGUSR1 and SIGHUP are what batch
 * systems and closing terminals send. A write beyond a file size limit is an error of that write, not a death. */
static void listen_for_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};
    struct sigaction asks = {.sa_handler = ask_to_stop, .sa_flags = (int)(SA_RESTART | SA_RESETHAND)};
    (void)sigemptyset(&asks.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; ++i)
        (void)sigaction(numbers[i], &asks, NULL);
    (void)signal(SIGXFSZ, SIG_IGN);
}

static dass_run_options run_options(const dass__opts *o, const dass_config *c)
{
    return (dass_run_options){.config = c,
                              .out_dir = o->out_dir,
                              .build_id = dass__build_text(),
                              .command = o->line,
                              .restart = o->restart,
                              .stop = &stop_signal,
                              .guard = o->guard,
                              .quiet = o->quiet};
}

static void begin_run(const dass__opts *o)
{
    if (o->out_dir == NULL)
        dass_log(DASS_LOG_WARN, "dass %s without -o DIR: the parameters will not be kept", o->command->name);
    listen_for_signals();
}

static dass_status print_genotype(const dass_genotype *g)
{
    dass_arena *mem = NULL;
    DASS_TRY(dass_arena_make("genotype", &mem));
    const char *text = dass_genotype_print(g, mem);
    if (text != NULL)
        (void)printf("%s\n", text);
    dass_arena_free(mem);
    return text != NULL ? DASS_OK : DASS_NOMEM;
}

dass_status dass__check_use(dass_config *c, const char *who, unsigned commands)
{
    dass_arch arch;
    DASS_TRY(dass_arch_from_config(c, &arch));
    const dass_use use = {.commands = arch.kind == DASS_NET_SUPERNET ? DASS_USE_SEARCH : commands,
                          .who = who,
                          .kind = arch.kind};
    return dass_config_check_use(c, &use);
}

dass_status dass__cmd_search(dass__opts *o)
{
    static dass_config c; /* large */
    dass_genotype g;
    DASS_TRY(dass__opts_config(o, NULL, &c));
    DASS_TRY(dass_dataset_fit(&c));
    DASS_TRY(dass_config_check(&c));
    if (c.net_name[0] == '\0' && c.net_genotype[0] == '\0') /* otherwise there is nothing to search, which it says */
        DASS_TRY(dass__check_use(&c, "dass search", DASS_USE_SEARCH));
    dass__opts_box(o, &c, search_keys);
    begin_run(o);
    const dass_run_options run = run_options(o, &c);
    DASS_TRY(dass_run_search(&run, &g));
    DASS_TRY(print_genotype(&g));
    return DASS_OK;
}

dass_status dass__cmd_derive(dass__opts *o)
{
    dass_genotype g;
    DASS_TRY(dass_run_derive(o->words[0], &g));
    DASS_TRY(print_genotype(&g));
    return DASS_OK;
}

dass_status dass__cmd_train(dass__opts *o)
{
    static dass_config c;
    DASS_TRY(dass__opts_config(o, NULL, &c));
    DASS_TRY(dass_dataset_fit(&c));
    DASS_TRY(dass_config_check(&c));
    if (c.net_name[0] != '\0' || c.net_genotype[0] != '\0') /* otherwise there is nothing to train, which it says */
        DASS_TRY(dass__check_use(&c, "dass train", DASS_USE_TRAIN));
    dass__opts_box(o, &c, train_keys);
    begin_run(o);
    const dass_run_options run = run_options(o, &c);
    DASS_TRY(dass_run_train(&run));
    return DASS_OK;
}

/* Folder of the run that a parameter file or a checkpoint belongs to. */
static dass_status folder_of(const dass_params *p, char *buf, size_t n)
{
    const char *slash = strrchr(p->path, '/');
    const int length = slash != NULL ? (int)(slash - p->path) : 0;
    const int wanted = snprintf(buf, n, "%.*s", slash != NULL && length == 0 ? 1 : length, p->path);
    if (wanted < 0 || (size_t)wanted >= n)
        return DASS_FAIL(DASS_ARG, "a path of %d characters is too long: %.60s...", wanted, p->path);
    static const char inner[] = "/checkpoint";
    const size_t used = strlen(buf);
    if (p->checkpoint && strcmp(buf, inner + 1) == 0)
        buf[0] = '\0';
    else if (p->checkpoint && used >= sizeof inner && strcmp(buf + used + 1 - sizeof inner, inner) == 0)
        buf[used + 1 - sizeof inner] = '\0';
    if (buf[0] == '\0')
        (void)snprintf(buf, n, ".");
    return DASS_OK;
}

dass_status dass__run_config(const dass__opts *o, const char *from, dass_use use, dass_config *c)
{
    char folder[4096];
    char settings[sizeof folder + 16];
    dass_params params;
    DASS_TRY(dass_params_open(from, &params));
    dass_status st = DASS_OK;
    if (params.unfinished)
        dass_log(DASS_LOG_WARN, "%s holds no params.safetensors: its run did not come to its end; this is %s", from,
                 params.path);
    DASS_TRY_TO(folder_of(&params, folder, sizeof folder), st, out);
    DASS_TRY_TO(dass__opts_config(o, folder, c), st, out);
    DASS_TRY_TO(dass_run_adopt(c, &params), st, out);
    DASS_TRY_TO(dass_config_check(c), st, out);
    use.kind = params.info.arch.kind;
    use.of_run = true;
    (void)snprintf(settings, sizeof settings, "%s/config.yaml", folder);
    use.quiet_file = settings;
    DASS_TRY_TO(dass_config_check_use(c, &use), st, out);
out:
    dass_params_close(&params);
    return st;
}

dass_status dass__cmd_prune(dass__opts *o)
{
    static dass_config c;
    DASS_TRY(dass__run_config(o, o->words[0], (dass_use){.commands = DASS_USE_PRUNE, .who = "dass prune"}, &c));
    dass__opts_box(o, &c, prune_keys);
    begin_run(o);
    const dass_run_options run = run_options(o, &c);
    DASS_TRY(dass_run_prune(&run, o->words[0]));
    return DASS_OK;
}

/* ---- eval ----------------------------------------------------------------------------------------------------- */

static dass_status print_eval_json(const char *run, const dass_eval *e)
{
    char name[4096]; /* as one line of UTF-8, which a path need not be */
    (void)snprintf(name, sizeof name, "%s", run);
    dass_text_clean(name);
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:s, s:I, s:f, s:f, s:I, s:I, s:I, s:f, s:I, s:I}", "run", name, "network",
                  e->network, "state", e->state, "split", "test", "images", (json_int_t)e->n, "loss", e->loss, "top1",
                  e->top1, "weights", (json_int_t)e->weights, "kept", (json_int_t)e->kept, "unpruned",
                  (json_int_t)e->unpruned, "density", (double)e->kept / (double)e->weights, "macs", (json_int_t)e->macs,
                  "sparse_macs", (json_int_t)e->sparse_macs);
    const int bad = root == NULL || json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) != 0;
    json_decref(root);
    (void)printf("\n");
    return bad ? DASS_FAIL(DASS_IO, "eval: cannot write the JSON object to stdout") : DASS_OK;
}

dass_status dass__cmd_eval(dass__opts *o)
{
    static dass_config c;
    if (!o->json)
        (void)printf("%-24s %-14s %10s %9s %8s %10s %12s\n", "run", "network", "kept", "unpruned", "density",
                     "accuracy", "sparse MACs");
    for (int i = 0; i < o->n_words; ++i) {
        dass_eval e;
        DASS_TRY(dass__run_config(o, o->words[i], (dass_use){.commands = DASS_USE_EVAL, .who = "dass eval"}, &c));
        const dass_run_options run = run_options(o, &c);
        DASS_TRY(dass_run_eval(&run, o->words[i], &e));
        if (o->json) {
            DASS_TRY(print_eval_json(o->words[i], &e));
            continue;
        }
        (void)printf("%-24s %-14s %10lld %9lld %7.2f%% %9.2f%% %12lld\n", o->words[i], e.network, (long long)e.kept,
                     (long long)e.unpruned, 100.0 * (double)e.kept / (double)e.weights, 100.0 * e.top1,
                     (long long)e.sparse_macs);
        (void)fflush(stdout);
    }
    return DASS_OK;
}
