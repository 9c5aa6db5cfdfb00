/* A plugin whose card is the processor, for what is around a device and not about it: the real path of gpu-check. It
 * hands out the program's own host backend under another name, so whoever loads it computes, and records nothing.
 *
 *     cc -std=gnu11 -shared -fPIC -Iinclude -o libdass_cuda.so tests/stub/stub_plugin.c
 */
#include <stdio.h>

#include "dass/plugin.h"

extern const dass_backend_ops dass_backend_host; /* the program exports it */

static dass_backend_ops ops;

static dass_status open_host(const dass_backend_options *opt, dass_backend **out)
{
    const dass_status st = dass_backend_host.open(opt, out);
    if (st == DASS_OK)
        (*out)->ops = &ops;
    return st;
}

static int probe(char *why, size_t n_why)
{
    (void)why;
    (void)n_why;
    return 1;
}

static void describe(char *text, size_t n_text)
{
    (void)snprintf(text, n_text, "cuda:0 the stub of a card");
}

static const char *kernel(uint32_t i, uint64_t *launches)
{
    (void)i;
    *launches = 0;
    return NULL;
}

const dass_plugin *dass_plugin_v1(void);

const dass_plugin *dass_plugin_v1(void)
{
    static const dass_plugin plugin = {DASS_PLUGIN_HEAD, .backend = &ops, .probe = probe, .describe = describe,
                                       .kernel = kernel};
    ops = dass_backend_host;
    ops.name = "cuda";
    ops.open = open_host;
    ops.precisions |= 1u << DASS_PRECISION_TF32;
    return &plugin;
}
