/* The command line: options, their nearest names, the order in which settings are layered, and the help that is made
 * from the same tables. Runs no command.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "dass/log.h"
#include "dass/run.h"
#include "dass/text.h"

typedef enum option_id {
    OPTION_CONFIG,
    OPTION_SET,
    OPTION_GENOTYPE,
    OPTION_NET,
    OPTION_DEVICE,
    OPTION_OUT,
    OPTION_JSON,
    OPTION_OPS,
    OPTION_STAGE,
    OPTION_NO_RECORD,
    OPTION_NO_MERGE,
    OPTION_SECONDS,
    OPTION_EXECUTION,
    OPTION_RESTART,
    OPTION_GUARD,
    OPTION_COVERAGE,
    OPTION_QUIET,
    OPTION_HELP,
    N_OPTIONS
} option_id;

/* Rows in the order of option_id. value: name of the argument, NULL for a switch. bit 0: every command takes it. */
static const struct {
    const char *name, *letter, *value;
    unsigned bit;
    const char *help;
} table[N_OPTIONS] = {
    {"--config", "-c", "FILE", DASS__OPT_CONFIG, "read settings from a YAML file; may be repeated, the last wins"},
    {"--set", NULL, "KEY=VALUE", DASS__OPT_CONFIG, "one setting, over any file; may be repeated"},
    {"--genotype", NULL, "FILE", DASS__OPT_CONFIG, "the same as --set net.genotype=FILE"},
    {"--net", NULL, "NAME", DASS__OPT_CONFIG, "the same as --set net.name=NAME"},
    {"--device", NULL, "NAME", DASS__OPT_CONFIG, "backend: host, ref, ref64, null, cuda[:NUMBER]"},
    {"--out", "-o", "DIR", DASS__OPT_OUT, "run folder for the results"},
    {"--json", NULL, NULL, DASS__OPT_JSON, "one JSON object a line on stdout"},
    {"--ops", NULL, NULL, DASS__OPT_OPS, "time per operation, against the machine's peaks"},
    {"--stage", NULL, "NAME", DASS__OPT_STAGE, "which step: dense (default), score or finetune"},
    {"--no-record", NULL, NULL, DASS__OPT_STAGE, "of step: a device is given every launch, and replays nothing"},
    {"--no-merge", NULL, NULL, DASS__OPT_STAGE, "of step: every node of the graph is a launch of its own"},
    {"--seconds", NULL, "N", DASS__OPT_STAGE, "of step: no more steps are timed after this long (15)"},
    {"--execution", NULL, "LIST", DASS__OPT_EXECUTION,
     "of latency: dense (default), library, sparse, block; dense is timed along"},
    {"--restart", NULL, NULL, DASS__OPT_RESTART, "remove the run that -o DIR holds; without it, that run goes on"},
    {"--guard", NULL, NULL, DASS__OPT_GUARD, "check every operation's output and memory; slow"},
    {"--coverage", NULL, NULL, DASS__OPT_COVERAGE, "run small graphs of all commands and operations"},
    {"--quiet", "-q", NULL, 0, "warnings and errors only"},
    {"--help", "-h", NULL, 0, "this text"},
};

/* ---- parsing -------------------------------------------------------------------------------------------------- */

static dass_status fail_unknown(const char *what, const char *word, const char *const *names, size_t n)
{
    const char *near = dass_nearest(word, names, n);
    if (near != NULL)
        return DASS_FAIL(DASS_ARG, "unknown %s '%s' (did you mean '%s'?)", what, word, near);
    return DASS_FAIL(DASS_ARG, "unknown %s '%s'; `dass help` lists them", what, word);
}

static dass_status find_command(const char *word, const dass__command *commands, const dass__command **out)
{
    const char *names[DASS__MAX_WORDS];
    size_t n = 0;
    for (const dass__command *c = commands; c->name != NULL; ++c) {
        if (strcmp(word, c->name) == 0) {
            *out = c;
            return DASS_OK;
        }
        names[n++] = c->name;
    }
    return fail_unknown("command", word, names, n);
}

/* Which option, and the value glued to it by '=' (NULL: none). */
static dass_status find_option(const char *word, option_id *out, const char **value)
{
    const char *names[N_OPTIONS];
    const char *equal = strchr(word, '=');
    const size_t n = equal != NULL ? (size_t)(equal - word) : strlen(word);
    *value = equal != NULL ? equal + 1 : NULL;
    for (int i = 0; i < N_OPTIONS; ++i) {
        names[i] = table[i].name;
        const char *letter = table[i].letter;
        const bool is_long = strlen(table[i].name) == n && strncmp(word, table[i].name, n) == 0;
        if (is_long || (letter != NULL && equal == NULL && strcmp(word, letter) == 0)) {
            *out = (option_id)i;
            return DASS_OK;
        }
    }
    dass_text bare;
    (void)snprintf(bare, sizeof bare, "%.*s", (int)(n < sizeof bare ? n : sizeof bare - 1), word);
    return fail_unknown("option", bare, names, N_OPTIONS);
}

static dass_status add_set(dass__opts *o, const char *key, const char *value)
{
    if (o->n_sets == DASS__MAX_WORDS)
        return DASS_FAIL(DASS_ARG, "more than %d settings on one line", DASS__MAX_WORDS);
    const int n = snprintf(o->set_text[o->n_sets], sizeof(dass_text), "%s%s", key, value);
    if (n < 0 || (size_t)n >= sizeof(dass_text))
        return DASS_FAIL(DASS_ARG, "setting too long: %.60s...", value);
    o->sets[o->n_sets] = o->set_text[o->n_sets];
    o->n_sets++;
    return DASS_OK;
}

static dass_status parse_seconds(const char *value, double *out)
{
    char *end = NULL;
    *out = strtod(value, &end);
    if (*end != '\0' || !(*out > 0.0 && *out <= 86400.0))
        return DASS_FAIL(DASS_ARG, "--seconds %.40s: not a number above 0 and up to 86400", value);
    return DASS_OK;
}

static dass_status apply_option(dass__opts *o, option_id id, const char *value)
{
    switch (id) {
    case OPTION_CONFIG:
        if (o->n_configs == DASS__MAX_WORDS)
            return DASS_FAIL(DASS_ARG, "-c more than %d times", DASS__MAX_WORDS);
        o->configs[o->n_configs++] = value;
        break;
    case OPTION_SET:
        DASS_TRY(add_set(o, "", value));
        break;
    case OPTION_GENOTYPE:
        DASS_TRY(add_set(o, "net.genotype=", value));
        break;
    case OPTION_NET:
        DASS_TRY(add_set(o, "net.name=", value));
        break;
    case OPTION_DEVICE:
        o->device = value;
        DASS_TRY(add_set(o, "run.device=", value));
        break;
    case OPTION_OUT:
        o->out_dir = value;
        break;
    case OPTION_JSON:
        o->json = true;
        break;
    case OPTION_OPS:
        o->ops = true;
        break;
    case OPTION_STAGE:
        o->stage = value;
        break;
    case OPTION_NO_RECORD:
        o->no_record = true;
        break;
    case OPTION_NO_MERGE:
        o->no_merge = true;
        break;
    case OPTION_SECONDS:
        return parse_seconds(value, &o->seconds);
    case OPTION_EXECUTION:
        o->execution = value;
        break;
    case OPTION_RESTART:
        o->restart = true;
        break;
    case OPTION_COVERAGE:
        o->coverage = true;
        break;
    case OPTION_GUARD:
        o->guard = true;
        break;
    case OPTION_QUIET:
        o->quiet = true;
        break;
    case OPTION_HELP:
        o->help = true;
        break;
    case N_OPTIONS:
        break;
    }
    return DASS_OK;
}

/* One option at argv[*i]; takes its value from the next word if it needs one. */
static dass_status parse_option(int argc, char **argv, int *i, dass__opts *o)
{
    option_id id = N_OPTIONS;
    const char *value = NULL;
    DASS_TRY(find_option(argv[*i], &id, &value));
    if (table[id].value == NULL && value != NULL)
        return DASS_FAIL(DASS_ARG, "%s takes no value", table[id].name);
    if (table[id].value != NULL && value == NULL) {
        if (*i + 1 >= argc)
            return DASS_FAIL(DASS_ARG, "%s needs %s", argv[*i], table[id].value);
        value = argv[++*i];
    }
    if (table[id].value != NULL && value[0] == '\0')
        return DASS_FAIL(DASS_ARG, "%s: empty", table[id].name);
    if (table[id].bit != 0 && o->command != NULL && !(o->command->options & table[id].bit))
        return DASS_FAIL(DASS_ARG, "dass %s takes no %s; `dass help %s` lists its options", o->command->name,
                         table[id].name, o->command->name);
    return apply_option(o, id, value);
}

static void keep_line(int argc, char **argv, dass__opts *o)
{
    size_t at = 0;
    for (int i = 0; i < argc && at + 1 < sizeof o->line; ++i) {
        const int n = snprintf(o->line + at, sizeof o->line - at, "%s%s", i > 0 ? " " : "", i > 0 ? argv[i] : "dass");
        if (n < 0)
            break;
        at += (size_t)n;
    }
    if (at >= sizeof o->line)
        o->line[dass_text_fit(o->line, sizeof o->line - 5)] = '\0'; /* a character has at most four bytes */
    dass_text_clean(o->line);                                       /* it becomes a comment of one line */
}

dass_status dass__opts_parse(int argc, char **argv, const dass__command *commands, dass__opts *o)
{
    memset(o, 0, sizeof *o);
    keep_line(argc, argv, o);
    bool only_words = false;
    for (int i = 1; i < argc; ++i) {
        const char *word = argv[i];
        if (!only_words && strcmp(word, "--") == 0) {
            only_words = true;
        } else if (!only_words && word[0] == '-' && word[1] != '\0') {
            DASS_TRY(parse_option(argc, argv, &i, o));
        } else if (o->command == NULL) {
            DASS_TRY(find_command(word, commands, &o->command));
        } else {
            if (o->n_words == o->command->max_words)
                return DASS_FAIL(DASS_ARG, "dass %s: '%s' is one argument too many; usage: dass %s %s",
                                 o->command->name, word, o->command->name, o->command->args);
            o->words[o->n_words++] = word;
        }
    }
    if (o->command == NULL || o->help)
        return DASS_OK;
    if (o->n_words < o->command->min_words)
        return DASS_FAIL(DASS_ARG, "dass %s: what? usage: dass %s %s", o->command->name, o->command->name,
                         o->command->args);
    return DASS_OK;
}

dass_status dass__opts_config(const dass__opts *o, const char *run_folder, dass_config *c)
{
    dass_config_defaults(c);
    if (run_folder != NULL) {
        bool found = false;
        DASS_TRY(dass_run_settings(run_folder, c, &found));
        if (!found)
            dass_log(DASS_LOG_WARN, "%s has no config.yaml: the defaults apply", run_folder);
    }
    for (int i = 0; i < o->n_configs; ++i)
        DASS_TRY(dass_config_read(c, o->configs[i]));
    for (int i = 0; i < o->n_sets; ++i)
        DASS_TRY(dass_config_set(c, o->sets[i], "command line"));
    return DASS_OK;
}

/* ---- what people read ----------------------------------------------------------------------------------------- */

void dass__opts_box(const dass__opts *o, const dass_config *c, const char *const *prefixes)
{
    if (o->quiet)
        return;
    static const char rule[] = "----------------------------------------------------------------";
    (void)fprintf(stderr, "dass %s | %s\n+%.27s+%.36s+%.30s+\n", o->command->name, dass__build_text(), rule, rule,
                  rule);
    for (dass_config_key k = 0; k < DASS_N_KEYS; ++k) {
        const char *name = dass_config_key_name(k);
        bool shown = false;
        for (size_t i = 0; prefixes[i] != NULL; ++i)
            shown |= strncmp(name, prefixes[i], strlen(prefixes[i])) == 0;
        if (!shown)
            continue;
        char value[2 * DASS_TEXT_MAX];
        dass_config_print(c, k, value, sizeof value);
        (void)fprintf(stderr, "| %-25s | %-34s | %-28s |\n", name, value, c->origin[k]);
    }
    (void)fprintf(stderr, "+%.27s+%.36s+%.30s+\n", rule, rule, rule);
}

static void print_option(int i)
{
    char left[48];
    (void)snprintf(left, sizeof left, "%s%s%s%s%s", table[i].letter != NULL ? table[i].letter : "",
                   table[i].letter != NULL ? ", " : "", table[i].name, table[i].value != NULL ? " " : "",
                   table[i].value != NULL ? table[i].value : "");
    (void)printf("  %-20s %s\n", left, table[i].help);
}

void dass__help(const dass__command *commands, const dass__command *one)
{
    if (one != NULL) {
        (void)printf("usage: dass %s %s%s[options]\n\n%s\n\noptions\n", one->name, one->args,
                     one->args[0] != '\0' ? " " : "", one->help);
        for (int i = 0; i < N_OPTIONS; ++i)
            if (table[i].bit == 0 || (table[i].bit & one->options))
                print_option(i);
        if (one->options & DASS__OPT_CONFIG)
            (void)printf("\n`dass help config` lists the settings.\n");
        return;
    }
    (void)printf("usage: dass <command> [options]\n\ncommands\n");
    for (const dass__command *c = commands; c->name != NULL; ++c) {
        char left[48];
        (void)snprintf(left, sizeof left, "%s %s", c->name, c->args);
        (void)printf("  %-24s %s\n", left, c->help);
    }
    (void)printf("\noptions (not every command takes all: dass help COMMAND)\n");
    for (int i = 0; i < N_OPTIONS; ++i)
        print_option(i);
    (void)printf(
        "\nRUN is a folder that search, train or prune made with -o. Results go to stdout, everything else to\n"
        "stderr. The exit code is the status: 0 success, 1 internal, 2 argument, 3 configuration, 4 input or\n"
        "output, 5 malformed file, 6 memory, 7 device, 8 not supported, 9 numerical, 10 communication; 75 and 130:\n"
        "stopped by a signal after a checkpoint, the same command goes on.\n");
}

void dass__help_config(void)
{
    for (dass_config_key k = 0; k < DASS_N_KEYS; ++k) {
        const char *def = dass_config_key_default(k);
        (void)printf("%-27s %s (default %s)\n", dass_config_key_name(k), dass_config_key_help(k),
                     def[0] != '\0' ? def : "''");
    }
}
