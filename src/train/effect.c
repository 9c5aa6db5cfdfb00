/* Which settings a command reads. A setting that somebody typed and that nothing reads is a mistake: the run would not
 * be the one they asked for. No value is judged here; ranges are in config.c. Invariant: every key has a row.
 */
#include <string.h>

#include "dass/log.h"
#include "dass/run.h"

#define RUNS (DASS_USE_SEARCH | DASS_USE_TRAIN | DASS_USE_PRUNE)
#define TRAINS (DASS_USE_TRAIN | DASS_USE_PRUNE)
#define ALL (RUNS | DASS_USE_EVAL | DASS_USE_LATENCY)
#define TESTS (TRAINS | DASS_USE_EVAL)

/* Why a setting has no effect although the command reads its key: what it would have to be otherwise, NULL: it has. */
typedef const char *reason(const dass_config *c, const dass_use *use);

static const char *network_word(dass_net_kind kind)
{
    switch (kind) {
    case DASS_NET_SUPERNET:
        return "a supernet";
    case DASS_NET_CELLS:
        return "a genotype's network";
    case DASS_NET_MOBILENET_V2:
        return "mobilenet_v2";
    case DASS_NET_RESNET18:
        return "resnet18";
    }
    return "this network";
}

static const char *of_cells(const dass_config *c, const dass_use *use)
{
    (void)c;
    return use->kind == DASS_NET_SUPERNET || use->kind == DASS_NET_CELLS ? NULL : network_word(use->kind);
}

static const char *of_derived_cells(const dass_config *c, const dass_use *use)
{
    (void)c;
    return use->kind == DASS_NET_CELLS ? NULL : network_word(use->kind);
}

/* Of a command that takes its network from a RUN. */
static const char *without_run(const dass_config *c, const dass_use *use)
{
    (void)c;
    return use->of_run ? "the network of a run" : NULL;
}

static const char *of_trained_search(const dass_config *c, const dass_use *use)
{
    (void)use;
    return (use->commands & DASS_USE_SEARCH) && strcmp(c->search_method, "random") == 0 ? "search.method = random"
                                                                                        : NULL;
}

static const char *of_masked_search(const dass_config *c, const dass_use *use)
{
    (void)use;
    if (strcmp(c->search_method, "random") == 0)
        return "search.method = random";
    if (strcmp(c->search_method, "darts") == 0)
        return "search.method = darts";
    return c->search_epochs_score + c->search_epochs_finetune == 0 ? "a search without score and finetune epochs"
                                                                   : NULL;
}

static bool prunes_by(const dass_config *c, const char *method)
{
    return strcmp(c->prune_method, method) == 0;
}

static const char *prune_word(const dass_config *c)
{
    return prunes_by(c, "gradual")   ? "prune.method = gradual"
           : prunes_by(c, "oneshot") ? "prune.method = oneshot"
                                     : "prune.method = learned";
}

static const char *of_learned(const dass_config *c, const dass_use *use)
{
    (void)use;
    return prunes_by(c, "learned") ? NULL : prune_word(c);
}

static const char *of_gradual(const dass_config *c, const dass_use *use)
{
    (void)use;
    return prunes_by(c, "gradual") ? NULL : prune_word(c);
}

static const char *of_two_stages(const dass_config *c, const dass_use *use)
{
    (void)use;
    return prunes_by(c, "oneshot") ? prune_word(c) : NULL;
}

/* Scores are trained with batch norm at the rate of training; nothing else in pruning is. */
static const char *of_training_or_learned(const dass_config *c, const dass_use *use)
{
    return use->commands & DASS_USE_TRAIN ? NULL : of_learned(c, use);
}

static const char *of_pruning_or_random(const dass_config *c, const dass_use *use)
{
    (void)c;
    if (use->commands & DASS_USE_PRUNE)
        return NULL;
    if (use->of_run)
        return "the mask of a run";
    return use->dense_only ? "a dense execution (--execution names others)" : NULL;
}

static const char *of_files(const dass_config *c, const dass_use *use)
{
    (void)use;
    return strcmp(c->data_name, "random") == 0 ? "data.name = random" : NULL;
}

static const struct {
    unsigned commands; /* that read the key */
    reason *why_not;   /* NULL: always read */
    const char *off;   /* what it is set to where it has no effect but would be refused further on; NULL: left */
} effects[DASS_N_KEYS] = {
    [DASS_KEY_net_name] = {ALL, without_run},
    [DASS_KEY_net_form] = {ALL, NULL},
    [DASS_KEY_net_channels] = {ALL, of_cells},
    [DASS_KEY_net_layers] = {ALL, of_cells},
    [DASS_KEY_net_nodes] = {ALL, of_cells},
    [DASS_KEY_net_classes] = {ALL, NULL},
    [DASS_KEY_net_in_channels] = {ALL, NULL},
    [DASS_KEY_net_image] = {ALL, NULL},
    [DASS_KEY_net_genotype] = {ALL, without_run},
    [DASS_KEY_search_method] = {DASS_USE_SEARCH, NULL},
    [DASS_KEY_search_density] = {DASS_USE_SEARCH, of_masked_search},
    [DASS_KEY_search_allocation] = {DASS_USE_SEARCH, of_masked_search},
    [DASS_KEY_search_order] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_search_epochs_pretrain] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_search_epochs_score] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_search_epochs_finetune] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_search_lr] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_search_lr_score] = {DASS_USE_SEARCH, of_masked_search},
    [DASS_KEY_search_lr_min] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_search_momentum] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_search_weight_decay] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_search_clip] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_search_alpha_lr] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_search_alpha_beta1] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_search_alpha_beta2] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_search_alpha_weight_decay] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_search_alpha_in_score] = {DASS_USE_SEARCH, of_masked_search},
    [DASS_KEY_search_train_part] = {DASS_USE_SEARCH, of_trained_search},
    [DASS_KEY_train_epochs] = {TRAINS, NULL}, /* pruning goes on with the orders after them */
    [DASS_KEY_train_batch] = {RUNS, of_trained_search},
    [DASS_KEY_train_lr] = {TRAINS, of_training_or_learned},
    [DASS_KEY_train_lr_min] = {TRAINS, NULL},
    [DASS_KEY_train_momentum] = {TRAINS, NULL},
    [DASS_KEY_train_weight_decay] = {TRAINS, NULL},
    [DASS_KEY_train_clip] = {TRAINS, NULL},
    [DASS_KEY_train_warmup] = {DASS_USE_TRAIN, NULL},
    [DASS_KEY_train_drop_path] = {TRAINS, of_derived_cells, "0"},
    [DASS_KEY_train_auxiliary] = {TRAINS, of_derived_cells, "0"},
    [DASS_KEY_train_ema] = {TRAINS, NULL},
    [DASS_KEY_train_label_smoothing] = {TRAINS, NULL},
    [DASS_KEY_prune_method] = {DASS_USE_PRUNE, NULL},
    [DASS_KEY_prune_density] = {DASS_USE_PRUNE | DASS_USE_LATENCY, of_pruning_or_random},
    [DASS_KEY_prune_allocation] = {DASS_USE_PRUNE | DASS_USE_LATENCY, of_pruning_or_random},
    [DASS_KEY_prune_every] = {DASS_USE_PRUNE, of_gradual},
    [DASS_KEY_prune_epochs_score] = {DASS_USE_PRUNE, of_two_stages},
    [DASS_KEY_prune_epochs_finetune] = {DASS_USE_PRUNE, NULL},
    [DASS_KEY_prune_lr_score] = {DASS_USE_PRUNE, of_learned},
    [DASS_KEY_prune_lr_finetune] = {DASS_USE_PRUNE, NULL},
    [DASS_KEY_data_name] = {RUNS | DASS_USE_EVAL, NULL},
    [DASS_KEY_data_path] = {RUNS | DASS_USE_EVAL, of_files},
    [DASS_KEY_data_limit] = {RUNS | DASS_USE_EVAL, NULL}, /* of eval too: mean and deviation are the training images' */
    [DASS_KEY_data_test_limit] = {RUNS | DASS_USE_EVAL, NULL},
    [DASS_KEY_data_normalize] = {RUNS | DASS_USE_EVAL, NULL},
    [DASS_KEY_data_pad] = {RUNS, of_trained_search},
    [DASS_KEY_data_flip] = {RUNS, of_trained_search},
    [DASS_KEY_data_cutout] = {RUNS, of_trained_search},
    [DASS_KEY_data_resident] = {RUNS, of_trained_search},
    [DASS_KEY_run_threads] = {ALL, NULL},
    [DASS_KEY_run_seed] = {ALL, NULL},
    [DASS_KEY_run_device] = {ALL, NULL},
    [DASS_KEY_run_precision] = {ALL, NULL},
    [DASS_KEY_run_eval_batch] = {TESTS, NULL},
    [DASS_KEY_run_checkpoint_minutes] = {RUNS, of_trained_search},
    [DASS_KEY_run_keep] = {RUNS, of_trained_search},
    [DASS_KEY_bench_batch] = {DASS_USE_LATENCY, NULL},
};

/* The value that switches a thing off asks for nothing. */
static bool is_neutral(const dass_config *c, dass_config_key k)
{
    static const char *const words[] = {"0", "false", "off", "auto", "''"};
    char value[DASS_CONFIG_PRINT_MAX];
    dass_config_print(c, k, value, sizeof value);
    for (size_t i = 0; i < sizeof words / sizeof *words; ++i)
        if (strcmp(value, words[i]) == 0)
            return true;
    return false;
}

/* From a file, among settings of its kind: "net.channels, net.layers and 3 more". */
typedef struct listing {
    char names[256];
    int n, n_shown;
    const char *why;
    dass_text origin;
} listing;

static void add_name(listing *l, const char *name, const char *why, const char *origin)
{
    const size_t used = strlen(l->names);
    l->n++;
    if (l->n_shown == 6 || (l->why != NULL && strcmp(l->why, why) != 0))
        return; /* counted, and one reason is enough */
    if (l->n == 1)
        (void)snprintf(l->origin, sizeof l->origin, "%s", origin);
    l->why = why;
    l->n_shown++;
    (void)snprintf(l->names + used, sizeof l->names - used, "%s%s", used > 0 ? ", " : "", name);
}

static void say_notice(const listing *l)
{
    const char *colon = strrchr(l->origin, ':'); /* FILE:LINE */
    const int n_file = colon != NULL ? (int)(colon - l->origin) : (int)strlen(l->origin);
    char more[32] = "";
    if (l->n > l->n_shown)
        (void)snprintf(more, sizeof more, " and %d more", l->n - l->n_shown);
    dass_log(DASS_LOG_INFO, "%.*s: %s%s: no effect on %s", n_file, l->origin, l->names, more, l->why);
}

static dass_status switch_off(dass_config *c, dass_config_key k, const char *why)
{
    char assignment[128];
    dass_text origin;
    (void)snprintf(assignment, sizeof assignment, "%s=%s", dass_config_key_name(k), effects[k].off);
    (void)snprintf(origin, sizeof origin, "no effect on %s", why);
    return dass_config_set(c, assignment, origin);
}

dass_status dass_config_check_use(dass_config *c, const dass_use *use)
{
    listing notice = {0};
    for (dass_config_key k = 0; k < DASS_N_KEYS; ++k) {
        const char *origin = c->origin[k];
        const bool typed = strcmp(origin, "command line") == 0;
        const size_t n_quiet = use->quiet_file != NULL ? strlen(use->quiet_file) : 0;
        const bool quiet = n_quiet > 0 && strncmp(origin, use->quiet_file, n_quiet) == 0 && origin[n_quiet] == ':';
        DASS_ASSERT(effects[k].commands != 0);
        if (strcmp(origin, "default") == 0 || quiet || is_neutral(c, k))
            continue;
        const bool read = (effects[k].commands & use->commands) != 0;
        const char *why = read && effects[k].why_not != NULL ? effects[k].why_not(c, use) : NULL;
        if (typed && (!read || why != NULL)) {
            char value[DASS_CONFIG_PRINT_MAX];
            dass_config_print(c, k, value, sizeof value);
            return DASS_FAIL(DASS_CONFIG, "%s: %s = %s: %s has no effect on %s; leave it out", origin,
                             dass_config_key_name(k), value, dass_config_key_name(k),
                             why != NULL        ? why
                             : use->who != NULL ? use->who
                                                : network_word(use->kind));
        }
        if (why == NULL) /* a file's other sections are for other commands */
            continue;
        add_name(&notice, dass_config_key_name(k), why, origin);
        if (effects[k].off != NULL)
            DASS_TRY(switch_off(c, k, why));
    }
    if (notice.n > 0)
        say_notice(&notice);
    return DASS_OK;
}
