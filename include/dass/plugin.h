/* The contract of a backend that comes as a shared library, opened when somebody asks for it: its libraries need not be
 * there to start the program. No code.
 *
 * The library exports one function, DASS_PLUGIN_ENTRY, of type dass_plugin_entry. It leaves the dass_* functions that
 * it uses undefined and takes the program's, so there is one error text, one allocator, one log. It must come from the
 * build that made the program; the sizes below refuse another one by name.
 */
#ifndef DASS_PLUGIN_H
#define DASS_PLUGIN_H

#include "dass/backend.h"

#define DASS_PLUGIN_ABI 1u
#define DASS_PLUGIN_ENTRY "dass_plugin_v1"

typedef struct dass_plugin {
    uint32_t size; /* of this struct */
    uint32_t abi, n_ops, ops_size, value_size, node_size, kernel_size, step_size;
    const dass_backend_ops *backend;
    /* Devices that can be opened; 0: `why` (NUL-ended) says what is missing. Opens nothing. */
    int (*probe)(char *why, size_t n_why);
    /* Versions of the libraries behind it and names of the devices, one line each; NUL-ended. */
    void (*describe)(char *text, size_t n_text);
    /* Kernel i of the plugin, then library i, with its launches since the plugin was loaded; NULL past the end. */
    const char *(*kernel)(uint32_t i, uint64_t *launches);
} dass_plugin;

#define DASS_PLUGIN_HEAD                                                                                            \
    .size = sizeof(dass_plugin), .abi = DASS_PLUGIN_ABI, .n_ops = DASS_N_OPS, .ops_size = sizeof(dass_backend_ops), \
    .value_size = sizeof(dass_value), .node_size = sizeof(dass_node_rec), .kernel_size = sizeof(dass_kernel),       \
    .step_size = sizeof(dass_step_block)

typedef const dass_plugin *(*dass_plugin_entry)(void);

#endif
