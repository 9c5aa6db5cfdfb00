/* Guard mode: catches the kernel that writes past its output or scratch, leaves part of an output unwritten, or makes a
 * number that is not finite, and names the node. Slow, for tests and `--guard`; goes through the backend's own
 * transfers, so it works for device memory too.
 */
#include "exec_private.h"

#include <math.h>

#include "dass/bf16.h"

#define PATTERN 0x7fff7fffu /* a quiet NaN as f32, as f64, and as bf16 in both halves */

static dass_status check_tail(dass_exec *e, dass_node n, const unsigned char *end, const char *what)
{
    uint32_t tail[DASS_PLAN_GUARD / 4];
    DASS_TRY(e->be->ops->read(e->be, tail, end, sizeof tail));
    for (size_t i = 0; i < DASS_PLAN_GUARD / 4; i++) {
        if (tail[i] == PATTERN)
            continue;
        char line[400];
        dass_node_print(e->g, n, line, sizeof line);
        return DASS_FAIL(DASS_INTERNAL, "guard: %s wrote %zu bytes past the end of %s at node %u: %s",
                         dass_exec_kernel_name(e, n), 4 * i, what, n, line);
    }
    return DASS_OK;
}

/* Bytes of the interval behind a value, up to the guard: values are rounded up to 4 bytes for the fill. */
static size_t fill_bytes(size_t bytes)
{
    return (bytes + 3) / 4 * 4;
}

static dass_status poison(dass_exec *e, dass_node n, unsigned char *arena)
{
    const dass_node_rec *r = &e->g->nodes[n];
    for (uint32_t i = 0; i < r->n_out; i++) {
        const dass_val v = dass_node_out(e->g, n)[i];
        if (!v || e->g->vals[v].buf)
            continue;
        bool taken = false; /* the input's data is still there */
        for (uint32_t j = 0; j < r->n_in; j++) {
            const dass_val u = dass_node_in(e->g, n)[j];
            taken = taken || (u && e->g->vals[u].buf == 0 && e->plan->val_offset[u] == e->plan->val_offset[v]);
        }
        const size_t bytes = fill_bytes(dass_value_bytes(&e->g->vals[v]));
        unsigned char *at = arena + e->plan->val_offset[v];
        if (!taken)
            DASS_TRY(e->be->ops->fill(e->be, at, PATTERN, bytes));
        DASS_TRY(e->be->ops->fill(e->be, at + bytes, PATTERN, DASS_PLAN_GUARD));
    }
    if (e->ws_bytes[n])
        DASS_TRY(e->be->ops->fill(e->be, arena + e->plan->ws_offset[n], PATTERN,
                                  fill_bytes(e->ws_bytes[n]) + DASS_PLAN_GUARD));
    return DASS_OK;
}

static double number_at(const void *block, dass_dtype t, int64_t i)
{
    const unsigned char *at = (const unsigned char *)block + (size_t)i * dass_dtype_bytes(t);
    double d = 0;
    float f = 0;
    uint16_t half = 0;
    if (t == DASS_F64) {
        memcpy(&d, at, sizeof d);
        return d;
    }
    if (t == DASS_BF16) {
        memcpy(&half, at, sizeof half);
        return (double)dass_bf16_float(half);
    }
    memcpy(&f, at, sizeof f);
    return (double)f;
}

static dass_status check_finite(dass_exec *e, dass_node n, dass_val v, const void *data)
{
    const dass_value *x = &e->g->vals[v];
    if (x->dtype != DASS_F32 && x->dtype != DASS_F64 && x->dtype != DASS_BF16)
        return DASS_OK;
    double block[512];
    const int64_t count = dass_value_count(x);
    const size_t size = dass_dtype_bytes(x->dtype);
    for (int64_t at = 0; at < count; at += 512) {
        const int64_t n_here = count - at < 512 ? count - at : 512;
        DASS_TRY(
            e->be->ops->read(e->be, block, (const unsigned char *)data + (size_t)at * size, (size_t)n_here * size));
        double number[512];
        for (int64_t i = 0; i < n_here; i++)
            number[i] = number_at(block, x->dtype, i);
        if (e->watch != NULL)
            e->watch(e->watch_ctx, n, v, at, number, n_here);
        for (int64_t i = 0; i < n_here; i++) {
            if (isfinite(number[i]))
                continue;
            char line[400];
            dass_node_print(e->g, n, line, sizeof line);
            return DASS_FAIL(DASS_NUMERIC,
                             "guard: element %lld of '%s' is not finite (or was never written) after node %u "
                             "(%s): %s",
                             (long long)(at + i), x->name, n, dass_exec_kernel_name(e, n), line);
        }
    }
    return DASS_OK;
}

dass_status dass__exec_run_guarded(dass_exec *e, unsigned char *arena, void *const *bufs)
{
    for (uint32_t k = 0; k + 1 < e->g->n_nodes; k++) {
        const dass_node n = e->plan->order->seq[k];
        DASS_TRY(poison(e, n, arena));
        DASS_TRY(e->kernels[n].run(e->be, e->kernels[n].impl));
        DASS_TRY(e->be->ops->sync(e->be));
        for (uint32_t i = 0; i < e->g->nodes[n].n_out; i++) {
            const dass_val v = dass_node_out(e->g, n)[i];
            if (!v)
                continue;
            unsigned char *at = dass__exec_pointer(e, v, arena, bufs);
            if (e->g->vals[v].buf == 0)
                DASS_TRY(check_tail(e, n, at + fill_bytes(dass_value_bytes(&e->g->vals[v])), e->g->vals[v].name));
            DASS_TRY(check_finite(e, n, v, at));
        }
        if (e->ws_bytes[n])
            DASS_TRY(check_tail(e, n, arena + e->plan->ws_offset[n] + fill_bytes(e->ws_bytes[n]), "its scratch"));
    }
    return DASS_OK;
}
