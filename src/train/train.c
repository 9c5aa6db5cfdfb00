/* Training and pruning of a fixed network: one dense stage; or the score and finetune stages over its parameters. No
 * search, no checkpoints. Invariant: the last epoch counts; test images choose nothing.
 */
#include <string.h>
#include <sys/stat.h>

#include "session.h"

static dass_status open_source(const dass__session *s, dass_source **out)
{
    const dass_source_options opt = {.batch = (int32_t)s->cfg->train_batch,
                                     .seed = s->block.seed,
                                     .name = "train",
                                     .shuffle = true};
    DASS_TRY(dass_source_make(s->data, &s->data->train, NULL, s->data->train.n, &opt, out));
    return DASS_OK;
}

static dass_status finish(dass__session *s, bool masked)
{
    double loss = 0.0;
    double top1 = 0.0;
    DASS_TRY(dass__session_eval(s, masked, &loss, &top1));
    DASS_TRY(dass__session_report(s, loss, top1));
    if (s->arch.kind == DASS_NET_CELLS)
        DASS_TRY(dass__save_genotype(s, &s->arch.genotype));
    if (masked)
        DASS_TRY(dass__save_params(s, "pruned", s->cfg->prune_density, s->cfg->prune_allocation));
    else
        DASS_TRY(dass__save_params(s, "dense", 1.0, ""));
    return DASS_OK;
}

/* ---- train ---------------------------------------------------------------------------------------------------- */

static dass_status train(dass__session *s)
{
    const dass_config *c = s->cfg;
    const dass__stage stage = {.name = "dense",
                               .stage = DASS_STAGE_DENSE,
                               .epochs = c->train_epochs,
                               .lr_weights = c->train_lr,
                               .lr_af = c->train_lr,
                               .lr_min = c->train_lr_min,
                               .label_smoothing = c->train_label_smoothing};
    dass_source *src = NULL;
    DASS_TRY(open_source(s, &src));
    const dass_status st = dass__stage_run(s, &stage, src, NULL);
    dass_source_free(src);
    DASS_TRY(st);
    DASS_TRY(finish(s, false));
    return DASS_OK;
}

dass_status dass_run_train(const dass_run_options *opt)
{
    dass_arch arch;
    DASS_TRY(dass_config_check(opt->config));
    DASS_TRY(dass_arch_from_config(opt->config, &arch));
    if (arch.kind == DASS_NET_SUPERNET)
        return DASS_FAIL(DASS_CONFIG,
                         "train: no network: give --genotype FILE (from `dass search` or configs/genotypes) "
                         "or --net NAME");
    dass__session s;
    DASS_TRY(dass__session_open(opt, "train", &arch, NULL, &s));
    const dass_status st = train(&s);
    dass__session_close(&s);
    return st;
}

/* ---- prune ---------------------------------------------------------------------------------------------------- */

static dass_status prune(dass__session *s)
{
    const dass_config *c = s->cfg;
    dass_source *src = NULL;
    dass_status st = DASS_OK;
    s->epochs_done = c->train_epochs; /* orders and crops go on where training stopped */
    DASS_TRY(dass__scores_start(s, c->prune_allocation, c->prune_density));
    DASS_TRY(open_source(s, &src));
    /* In the score stage batch norm keeps the rate at which the weights were trained. */
    dass__stage stage = {.name = "score",
                         .stage = DASS_STAGE_SCORE,
                         .epochs = c->prune_epochs_score,
                         .lr_af = c->train_lr,
                         .lr_scores = c->prune_lr_score,
                         .lr_min = c->train_lr_min,
                         .label_smoothing = c->train_label_smoothing};
    DASS_TRY_TO(dass__stage_run(s, &stage, src, NULL), st, out);
    DASS_TRY_TO(dass__mask_freeze(s), st, out);
    stage.name = "finetune";
    stage.stage = DASS_STAGE_FINETUNE;
    stage.epochs = c->prune_epochs_finetune;
    stage.lr_weights = c->prune_lr_finetune;
    stage.lr_af = c->prune_lr_finetune;
    stage.lr_scores = 0.0;
    DASS_TRY_TO(dass__stage_run(s, &stage, src, NULL), st, out);
    DASS_TRY_TO(finish(s, true), st, out);
out:
    dass_source_free(src);
    return st;
}

static dass_status prune_params(const dass_run_options *opt, const dass_params *params)
{
    if (params->info.arch.kind == DASS_NET_SUPERNET)
        return DASS_FAIL(DASS_UNSUPPORTED,
                         "%s: a supernet; train its genotype (`dass derive`, `dass train`), then prune "
                         "that",
                         params->path);
    dass__session s;
    DASS_TRY(dass__session_open(opt, "prune", &params->info.arch, params, &s));
    const dass_status st = prune(&s);
    dass__session_close(&s);
    return st;
}

/* Pruning into the folder it reads would lose the dense network. */
static dass_status check_folders(const dass_run_options *opt, const char *from)
{
    struct stat a;
    struct stat b;
    if (opt->out_dir == NULL || stat(opt->out_dir, &a) != 0 || stat(from, &b) != 0)
        return DASS_OK;
    if (a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return DASS_FAIL(DASS_ARG, "prune: -o %s is the folder of the dense network, which would be lost; name another",
                         opt->out_dir);
    return DASS_OK;
}

dass_status dass_run_prune(const dass_run_options *opt, const char *from)
{
    DASS_TRY(dass_config_check(opt->config));
    DASS_TRY(check_folders(opt, from));
    dass_params params;
    DASS_TRY(dass_params_open(from, &params));
    const dass_status st = prune_params(opt, &params);
    dass_params_close(&params);
    return st;
}

/* ---- adopting a network --------------------------------------------------------------------------------------- */

/* A value from the command line must agree; the others follow the file. */
static dass_status adopt(dass_config *c, dass_config_key key, const char *value, const dass_params *p)
{
    char now[2 * DASS_TEXT_MAX];
    char assignment[2 * DASS_TEXT_MAX];
    char origin[DASS_TEXT_MAX];
    dass_config_print(c, key, now, sizeof now);
    dass_config probe = *c;
    (void)snprintf(assignment, sizeof assignment, "%s=%s", dass_config_key_name(key), value);
    (void)snprintf(origin, sizeof origin, "%.*s", DASS_TEXT_MAX - 1, p->path);
    DASS_TRY(dass_config_set(&probe, assignment, origin));
    char want[2 * DASS_TEXT_MAX];
    dass_config_print(&probe, key, want, sizeof want);
    if (strcmp(now, want) == 0)
        return DASS_OK;
    if (strcmp(c->origin[key], "command line") == 0)
        return DASS_FAIL(DASS_CONFIG, "%s: %s=%s, but %s was made with %s", c->origin[key], dass_config_key_name(key),
                         now, p->path, want);
    *c = probe;
    return DASS_OK;
}

dass_status dass_run_adopt(dass_config *c, const dass_params *p)
{
    const dass_arch *a = &p->info.arch;
    const struct {
        dass_config_key key;
        int32_t value;
    } counts[] = {
        {DASS_KEY_net_channels, a->channels},
        {DASS_KEY_net_layers, a->layers},
        {DASS_KEY_net_nodes, a->nodes},
        {DASS_KEY_net_classes, a->classes},
        {DASS_KEY_net_in_channels, a->in_channels},
        {DASS_KEY_net_image, a->image},
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; ++i) {
        char text[16];
        (void)snprintf(text, sizeof text, "%d", counts[i].value);
        DASS_TRY(adopt(c, counts[i].key, text, p));
    }
    DASS_TRY(adopt(c, DASS_KEY_net_form, a->form == DASS_FORM_IMAGENET ? "imagenet" : "cifar", p));
    return DASS_OK;
}
