/* A store with the graphs of a step over it, for tests that run phases without the commands: what several files share.
 * Which network, phases and batch is each file's own.
 */
#ifndef DASS_TESTS_RIG_H
#define DASS_TESTS_RIG_H

#include <math.h>

#include "check.h"

#include "dass/step.h"

typedef struct rig {
    dass_backend *be;
    dass_store *s;
    dass_arena *mem; /* of tables and of what rig_read returns */
    dass_segment *segments;
    int64_t n_segments;
    dass_steps steps;
    dass_step_block block;
    int32_t image_bytes; /* of one image, where a file needs it */
} rig;

static inline void rig_close(rig *r)
{
    dass_steps_close(&r->steps);
    dass_store_free(r->s);
    dass_arena_free(r->mem);
    dass_backend_close(r->be);
}

/* Run graph i on the batch that is in the input buffers; its loss, which must be finite. */
static inline double rig_run(rig *r, uint32_t i)
{
    double loss = 0.0;
    check_ok(dass_steps_run(r->s, &r->steps, i, &r->block, &loss, NULL));
    assert_true(isfinite(loss));
    return loss;
}

/* A whole buffer as doubles, in the rig's arena. */
static inline double *rig_read(const rig *r, dass_buf b)
{
    const int64_t n = dass_store_buf_count(r->s, b);
    double *x = dass_arena_alloc(r->mem, (size_t)n * sizeof *x);
    assert_non_null(x);
    check_ok(dass_store_read_real(r->s, b, x, n));
    return x;
}

/* BITS from the present scores by the table of kept counts. */
static inline void rig_freeze(rig *r)
{
    dass_graph *g = NULL;
    dass_steps threshold;
    check_ok(dass_threshold_build(r->s, r->segments, r->n_segments, r->be->ops->real, &g));
    check_ok(dass_steps_wrap(g, r->be, NULL, &threshold));
    check_ok(dass_steps_bind(r->s, &threshold));
    check_ok(dass_steps_run(r->s, &threshold, 0, &r->block, NULL, NULL));
    dass_steps_close(&threshold);
}

#endif
