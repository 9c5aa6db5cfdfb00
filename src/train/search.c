/* Architecture search: the stages over a supernet, and deriving a genotype from what they leave. First order: alpha
 * takes the gradient of the validation loss at the present weights (DARTS with xi = 0), second order: at the weights
 * after one more step; evaluated on the masked network in the score and finetune stages (DASS). Invariant: the training
 * half moves weights and scores, the validation half moves alpha, and no image is in both.
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
                               .shuffle = true,
                               .prefetch = !s->resident};
    DASS_TRY_TO(dass_source_make(s->data, part, h->index, n_train, &opt, &h->train), st, fail);
    opt.name = "validation";
    DASS_TRY_TO(dass_source_make(s->data, part, h->index + n_train, part->n - n_train, &opt, &h->validation), st, fail);
    return DASS_OK;
fail:
    close_halves(h);
    return st;
}

static dass_status enter_score(dass__session *s, const dass__stage *stage)
{
    (void)stage;
    return dass__scores_start(s, s->cfg->search_allocation, s->cfg->search_density);
}

static dass_status enter_finetune(dass__session *s, const dass__stage *stage)
{
    (void)stage;
    return dass__mask_freeze(s);
}

static dass_status run_stages(dass__session *s, halves *h)
{
    const dass_config *c = s->cfg;
    const int64_t sparse_epochs = c->search_epochs_score + c->search_epochs_finetune;
    const bool masked = strcmp(c->search_method, "dass") == 0 && sparse_epochs > 0;
    const dass__stage common = {.lr_min = c->search_lr_min,
                                .alpha = true,
                                .second_order = c->search_order == 2,
                                .rate = DASS_KEY_search_lr};
    dass__stage stages[3] = {common, common, common};
    dass__stage *dense = &stages[0];
    dass__stage *score = &stages[1];
    dass__stage *finetune = &stages[2];
    dense->name = "dense";
    dense->stage = DASS_STAGE_DENSE;
    /* The control trains as long as the three stages together, in one cosine. */
    dense->epochs = c->search_epochs_pretrain + (masked ? 0 : sparse_epochs);
    dense->lr_weights = dense->lr_af = c->search_lr;
    score->name = "score";
    score->stage = DASS_STAGE_SCORE;
    score->epochs = c->search_epochs_score;
    score->lr_af = c->search_lr;
    score->lr_scores = c->search_lr_score;
    score->alpha = c->search_alpha_in_score;
    score->second_order = false; /* a perturbed score flips mask bits: the difference quotient is no derivative */
    score->rate = DASS_KEY_search_lr_score;
    score->enter = enter_score;
    finetune->name = "finetune";
    finetune->stage = DASS_STAGE_FINETUNE;
    finetune->epochs = c->search_epochs_finetune;
    finetune->lr_weights = finetune->lr_af = c->search_lr;
    finetune->enter = enter_finetune;
    DASS_TRY(dass__stages_run(s, stages, masked ? 3 : 1, h->train, h->validation));
    if (masked)
        DASS_TRY(dass__save_params(s, "supernet", c->search_density, c->search_allocation));
    else
        DASS_TRY(dass__save_params(s, "supernet", 1.0, ""));
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
    if (st == DASS_OK)
        dass__report_end(&s);
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
    DASS_TRY(dass__register_params(store, a, false));
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
    if (params.unfinished)
        dass_log(DASS_LOG_WARN, "%s: its run did not come to its end: this is the genotype of %s", from, params.path);
    dass_status st = dass_store_make(DASS_F32, &store);
    if (st == DASS_OK)
        st = derive(&params, store, out);
    dass_store_free(store);
    dass_params_close(&params);
    return st;
}
