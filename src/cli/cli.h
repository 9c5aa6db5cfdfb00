/* Private to src/cli: the parsed command line and the commands. */
#ifndef DASS_CLI_H
#define DASS_CLI_H

#include "dass/config.h"
#include "dass/run.h"

#define DASS__MAX_WORDS 32
#define DASS__COMMAND_LINE 2048

/* What options a command takes, as bits. */
enum {
    DASS__OPT_CONFIG = 1u << 0, /* -c, --set, --genotype, --net, --device */
    DASS__OPT_OUT = 1u << 1,    /* -o */
    DASS__OPT_JSON = 1u << 2,
    DASS__OPT_OPS = 1u << 3,
    DASS__OPT_GUARD = 1u << 4,
    DASS__OPT_STAGE = 1u << 5,
    DASS__OPT_RESTART = 1u << 6,
    DASS__OPT_COVERAGE = 1u << 7,
    DASS__OPT_EXECUTION = 1u << 8
};

struct dass__opts;
typedef struct dass__command {
    const char *name;
    const char *args; /* of the usage line */
    const char *help;
    unsigned options; /* DASS__OPT_* bits; --quiet and --help always */
    int min_words, max_words;
    dass_status (*run)(struct dass__opts *o);
} dass__command;

typedef struct dass__opts {
    const dass__command *command;
    const char *words[DASS__MAX_WORDS]; /* positional, after the command */
    int n_words;
    const char *configs[DASS__MAX_WORDS]; /* -c, in order */
    int n_configs;
    const char *sets[DASS__MAX_WORDS]; /* --set and the options that stand for one, in order */
    dass_text set_text[DASS__MAX_WORDS];
    int n_sets;
    const char *out_dir, *device, *stage, *execution;
    double seconds; /* 0: not given */
    bool json, ops, guard, coverage, quiet, restart, help, no_record, no_merge;
    char line[DASS__COMMAND_LINE]; /* the command as typed */
} dass__opts;

/* Parse argv. DASS_ARG, with the nearest word, for what is unknown. Commands: the NULL-ended table. */
dass_status dass__opts_parse(int argc, char **argv, const dass__command *commands, dass__opts *o);
/* Defaults, then those of a run folder (NULL: none), then -c files, then --set and its kind. */
dass_status dass__opts_config(const dass__opts *o, const char *run_folder, dass_config *c);
/* Every setting that the command reads, with its origin, on stderr. prefixes: NULL-ended list of "net." ... */
void dass__opts_box(const dass__opts *o, const dass_config *c, const char *const *prefixes);
void dass__help(const dass__command *commands, const dass__command *one);
void dass__help_config(void);

/* Settings of a run: its own resolved ones under those of the command line, and the network of its parameters; checked.
 * use->commands, who and dense_only are the caller's. */
dass_status dass__run_config(const dass__opts *o, const char *from, dass_use use, dass_config *c);
/* dass_config_check_use for a network of the configuration: what it describes is a search of a supernet, otherwise
 * `commands`. who: "dass train", or NULL. */
dass_status dass__check_use(dass_config *c, const char *who, unsigned commands);

/* Of `dass info --coverage`. (cmd_coverage.c) */
dass_status dass__print_coverage(const dass__opts *o);
/* Version, build id and mode, in one line. */
const char *dass__build_text(void);

dass_status dass__cmd_info(dass__opts *o);
dass_status dass__cmd_plan(dass__opts *o);
dass_status dass__cmd_search(dass__opts *o);
dass_status dass__cmd_derive(dass__opts *o);
dass_status dass__cmd_train(dass__opts *o);
dass_status dass__cmd_prune(dass__opts *o);
dass_status dass__cmd_eval(dass__opts *o);
dass_status dass__cmd_bench(dass__opts *o);
dass_status dass__cmd_plot(dass__opts *o);

#endif
