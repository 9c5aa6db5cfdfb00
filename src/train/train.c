/* Training and pruning of a fixed network: one dense stage; or two stages over its parameters, by one of three methods.
 * No search. Invariant: the last epoch counts; test images choose nothing.
 */
#include <string.h>
#include <sys/stat.h>

#include "session.h"

static dass_status open_source(const dass__session *s, dass_source **out)
{
    const dass_source_options opt = {.batch = (int32_t)s->cfg->train_batch,
                                     .seed = s->block.seed,
                                     .name = "train",
                                     .shuffle = true,
                                     .prefetch = !s->resident};
    DASS_TRY(dass_source_make(s->data, &s->data->train, NULL, s->data->train.n, &opt, out));
    return DASS_OK;
}

/* The averaged parameters become the network. */
static dass_status take_average(dass__session *s)
{
    static const dass_buf pairs[][2] = {{DASS_BUF_W_EMA, DASS_BUF_W},
                                        {DASS_BUF_AF_EMA, DASS_BUF_AF},
                                        {DASS_BUF_STAT_EMA, DASS_BUF_STAT}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; ++i) {
        const int64_t n = dass_store_buf_count(s->store, pairs[i][0]);
        void *values = NULL;
        if (n == 0 || dass_store_ptrs(s->store)[pairs[i][0]] == NULL)
            continue;
        DASS_TRY(dass_mem_alloc((size_t)n * sizeof(double), "averaged parameters", &values));
        dass_status st = dass_store_read_real(s->store, pairs[i][0], values, n);
        if (st == DASS_OK)
            st = dass_store_write_real(s->store, pairs[i][1], values, n);
        dass_mem_free(values);
        DASS_TRY(st);
    }
    return DASS_OK;
}

static dass_status finish(dass__session *s, bool masked)
{
    double loss = 0.0;
    double top1 = 0.0;
    if (s->cfg->train_ema > 0.0)
        DASS_TRY(take_average(s));
    DASS_TRY(dass__session_eval(s, masked, &loss, &top1));
    DASS_TRY(dass__report_test(s, loss, top1));
    if (s->arch.kind == DASS_NET_CELLS)
        DASS_TRY(dass__save_genotype(s, &s->arch.genotype));
    if (masked)
        DASS_TRY(dass__save_params(s, "pruned", s->cfg->prune_density, s->cfg->prune_allocation));
    else
        DASS_TRY(dass__save_params(s, "dense", 1.0, ""));
    dass__report_end(s);
    return DASS_OK;
}

/* What the stages of train and prune share. The auxiliary head and drop-path belong to cells. */
static dass__stage common_stage(const dass_config *c)
{
    return (dass__stage){.lr_min = c->train_lr_min,
                         .label_smoothing = c->train_label_smoothing,
                         .drop_path = c->train_drop_path,
                         .drop_path_epochs = c->train_epochs,
                         .auxiliary = c->train_auxiliary};
}

/* ---- train ---------------------------------------------------------------------------------------------------- */

static dass_status train(dass__session *s)
{
    const dass_config *c = s->cfg;
    dass__stage stage = common_stage(c);
    stage.name = "dense";
    stage.stage = DASS_STAGE_DENSE;
    stage.epochs = c->train_epochs;
    stage.warmup = c->train_warmup;
    stage.lr_weights = stage.lr_af = c->train_lr;
    stage.ema = c->train_ema;
    stage.rate = DASS_KEY_train_lr;
    dass_source *src = NULL;
    DASS_TRY(open_source(s, &src));
    const dass_status st = dass__stages_run(s, &stage, 1, src, NULL);
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

static dass_status enter_score(dass__session *s, const dass__stage *stage)
{
    (void)stage;
    return dass__scores_start(s, s->cfg->prune_allocation, s->cfg->prune_density);
}

/* learned and oneshot: the scores that there are by now. */
static dass_status enter_finetune(dass__session *s, const dass__stage *stage)
{
    (void)stage;
    return dass__mask_freeze(s);
}

static dass_status change_gradual(dass__session *s, const dass__stage *stage, int64_t done, int64_t total)
{
    (void)stage;
    const double density =
        dass__gradual_density(s->start_density, s->cfg->prune_density, (double)done / (double)total);
    return dass__mask_shrink(s, s->cfg->prune_allocation, density);
}

static dass_status enter_after_gradual(dass__session *s, const dass__stage *stage)
{
    (void)stage;
    return dass__mask_shrink(s, s->cfg->prune_allocation, s->cfg->prune_density);
}

/* learned:  scores trained, then the mask frozen and the kept weights trained
 * oneshot:  the mask of the scaled initial scores, by magnitude; then the same
 * gradual:  weights trained while the mask shrinks step by step, by magnitude; then the same */
static void list_stages(const dass_config *c, dass__stage stages[2])
{
    const bool gradual = strcmp(c->prune_method, "gradual") == 0;
    const bool learned = strcmp(c->prune_method, "learned") == 0;
    dass__stage *first = &stages[0];
    dass__stage *finetune = &stages[1];
    *first = *finetune = common_stage(c);
    first->name = gradual ? "gradual" : "score";
    first->stage = gradual ? DASS_STAGE_FINETUNE : DASS_STAGE_SCORE;
    first->epochs = learned || gradual ? c->prune_epochs_score : 0;
    /* In the score stage batch norm keeps the rate at which the weights were trained. */
    first->lr_af = gradual ? c->prune_lr_finetune : c->train_lr;
    first->lr_weights = gradual ? c->prune_lr_finetune : 0.0;
    first->lr_scores = gradual ? 0.0 : c->prune_lr_score;
    first->enter = gradual ? NULL : enter_score;
    first->change = gradual ? change_gradual : NULL;
    first->every = c->prune_every;
    first->rate = gradual ? DASS_KEY_prune_lr_finetune : DASS_KEY_prune_lr_score;
    finetune->name = "finetune";
    finetune->stage = DASS_STAGE_FINETUNE;
    finetune->epochs = c->prune_epochs_finetune;
    finetune->lr_weights = finetune->lr_af = c->prune_lr_finetune;
    finetune->ema = c->train_ema;
    finetune->rate = DASS_KEY_prune_lr_finetune;
    finetune->enter = gradual ? enter_after_gradual : enter_finetune;
}

static dass_status prune(dass__session *s)
{
    dass__stage stages[2];
    dass_source *src = NULL;
    dass_status st = DASS_OK;
    list_stages(s->cfg, stages);
    if (!s->resumed)
        s->at.epochs_done = s->cfg->train_epochs; /* orders and crops go on where training stopped */
    DASS_TRY(open_source(s, &src));
    DASS_TRY_TO(dass__stages_run(s, stages, 2, src, NULL), st, out);
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
    dass_status st = DASS_OK;
    if (strcmp(params->info.state, "pruned") == 0)
        st = dass__start_from_pruned(&s, params);
    if (st == DASS_OK)
        st = prune(&s);
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
    dass_status st = DASS_OK;
    if (params.unfinished)
        st = DASS_FAIL(DASS_ARG,
                       "prune: %s holds no params.safetensors: its run did not come to its end; let it, or name a "
                       "checkpoint of it, such as %s",
                       from, params.path);
    else
        st = prune_params(opt, &params);
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
