/* `dass plot`: pictures of runs; their paths on stdout. What is drawn is in src/plot.
 */
#include <stdio.h>

#include "cli.h"
#include "dass/plot.h"

dass_status dass__cmd_plot(dass__opts *o)
{
    static dass_plot_files files; /* large */
    if (o->out_dir != NULL && o->n_words > 1)
        return DASS_FAIL(DASS_ARG, "plot: the pictures of %d runs have the same names; with -o name one RUN",
                         o->n_words);
    for (int i = 0; i < o->n_words; ++i) {
        const dass_status st = dass_plot_run(o->words[i], o->out_dir, &files);
        for (int k = 0; k < files.n; ++k)
            (void)printf("%s\n", files.path[k]);
        DASS_TRY(st);
    }
    return DASS_OK;
}
