/* Architecture search: the stages over a supernet, and deriving a genotype from what they leave. First order: alpha
 * takes the gradient of the validation loss at the present weights (DARTS with xi = 0), evaluated on the masked network
 * in the score and finetune stages (DASS). Invariant: the training half moves weights and scores, the validation half
 * moves alpha, and no image is in both.
 */
#include <string.h>

#include "session.h"

/* Data of a search: one split, two sources. */
typedef struct halves {
    int32_t *index;
    dass_source *train, *validation;
} halves;

static void close_halves(halves *h)
{
    dass_source_free(h->train);
    dass_source_free(h->validation);
    dass_mem_free(h->index);
}

static dass_status open_halves(const dass__session *s, halves *h)
{
    memset(h, 0, sizeof *h);
    const dass_config *c = s->cfg;
    const dass_part *part = &s->data->train;
    int64_t n_train = 0;
    dass_status st = DASS_OK;
    DASS_TRY_TO(dass_data_split(part->n, c->search_train_part, s->block.seed, &h->index, &n_train), st, fail);
    dass_source_options opt = {.batch = (int32_t)c->train_batch,
                               .seed = s->block.seed,
                               .name = "train",
                               .shuffle = true};
    DASS_TRY_TO(dass_source_make(s->data, part, h->index, n_train, &opt, &h->train), st, fail);
    opt.name = "validation";
    DASS_TRY_TO(dass_source_make(s->data, part, h->index + n_train, part->n - n_train, &opt, &h->validation), st, fail);
    return DASS_OK;
fail:
    close_halves(h);
    return st;
}

static dass_status run_stages(dass__session *s, halves *h)
{
    const dass_config *c = s->cfg;
    const bool masked = strcmp(c->search_method, "dass") == 0;
    const int64_t sparse_epochs = c->search_epochs_score + c->search_epochs_finetune;
    dass__stage stage = {.name = "dense",
                         .stage = DASS_STAGE_DENSE,
                         .lr_weights = c->search_lr,
                         .lr_af = c->search_lr,
                         .lr_min = c->search_lr_min,
                         .alpha = true};
    /* The control trains as long as the three stages together, in one cosine. */
    stage.epochs = c->search_epochs_pretrain + (masked ? 0 : sparse_epochs);
    DASS_TRY(dass__stage_run(s, &stage, h->train, h->validation));
    if (!masked || sparse_epochs == 0) {
        DASS_TRY(dass__save_params(s, "supernet", 1.0, ""));
        return DASS_OK;
    }
    DASS_TRY(dass__scores_start(s, c->search_allocation, c->search_density));
    stage.name = "score";
    stage.stage = DASS_STAGE_SCORE;
    stage.epochs = c->search_epochs_score;
    stage.lr_weights = 0.0;
    stage.lr_scores = c->search_lr_score;
    stage.alpha = c->search_alpha_in_score;
    DASS_TRY(dass__stage_run(s, &stage, h->train, h->validation));
    DASS_TRY(dass__mask_freeze(s));
    stage.name = "finetune";
    stage.stage = DASS_STAGE_FINETUNE;
    stage.epochs = c->search_epochs_finetune;
    stage.lr_weights = c->search_lr;
    stage.lr_scores = 0.0;
    stage.alpha = true;
    DASS_TRY(dass__stage_run(s, &stage, h->train, h->validation));
    DASS_TRY(dass__save_params(s, "supernet", c->search_density, c->search_allocation));
    return DASS_OK;
}

static dass_status search(dass__session *s, dass_genotype *out)
{
    halves h;
    dass_status st = DASS_OK;
    if (strcmp(s->cfg->search_method, "random") == 0) {
        *out = dass_genotype_random(s->block.seed, s->arch.nodes);
        return DASS_OK;
    }
    DASS_TRY(open_halves(s, &h));
    DASS_TRY_TO(run_stages(s, &h), st, out);
    const int64_t n = dass_store_count(s->store, DASS_GROUP_ALPHA);
    DASS_TRY_TO(dass_store_read_real(s->store, DASS_BUF_ALPHA, s->alpha, n), st, out);
    DASS_TRY_TO(dass_genotype_derive(s->alpha, s->alpha + n / 2, s->arch.nodes, out), st, out);
out:
    close_halves(&h);
    return st;
}

dass_status dass_run_search(const dass_run_options *opt, dass_genotype *out)
{
    const dass_config *c = opt->config;
    dass_arch arch;
    DASS_TRY(dass_config_check(c));
    if (c->search_order != 1)
        return DASS_FAIL(DASS_UNSUPPORTED,
                         "%s: search.order: %lld: this version searches in first order only; set "
                         "search.order=1",
                         c->origin[DASS_KEY_search_order], (long long)c->search_order);
    DASS_TRY(dass_arch_from_config(c, &arch));
    if (arch.kind != DASS_NET_SUPERNET)
        return DASS_FAIL(DASS_CONFIG,
                         "search: net.genotype '%s' or net.name '%s' fixes the network; clear both to search",
                         c->net_genotype, c->net_name);
    dass__session s;
    DASS_TRY(dass__session_open(opt, "search", &arch, NULL, &s));
    dass_status st = search(&s, out);
    if (st == DASS_OK)
        st = dass__save_genotype(&s, out);
    dass__session_close(&s);
    return st;
}

/* ---- derive --------------------------------------------------------------------------------------------------- */

static dass_status derive(const dass_params *params, dass_store *store, dass_genotype *out)
{
    const dass_arch *a = &params->info.arch;
    if (a->kind != DASS_NET_SUPERNET)
        return DASS_FAIL(DASS_ARG, "%s holds %s, which has no alphas; derive reads what search left", params->path,
                         params->info.state);
    DASS_TRY(dass__register_params(store, a));
    const int64_t n = dass_store_count(store, DASS_GROUP_ALPHA);
    void *alpha = NULL;
    DASS_TRY(dass_mem_alloc((size_t)n * sizeof(double), "alpha", &alpha));
    dass_status st = dass_params_group(params, store, DASS_GROUP_ALPHA, alpha);
    if (st == DASS_OK)
        st = dass_genotype_derive(alpha, (double *)alpha + n / 2, a->nodes, out);
    dass_mem_free(alpha);
    return st;
}

dass_status dass_run_derive(const char *from, dass_genotype *out)
{
    dass_params params;
    dass_store *store = NULL;
    DASS_TRY(dass_params_open(from, &params));
    dass_status st = dass_store_make(DASS_F32, &store);
    if (st == DASS_OK)
        st = derive(&params, store, out);
    dass_store_free(store);
    dass_params_close(&params);
    return st;
}
