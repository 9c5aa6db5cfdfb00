/* Fuzzes the YAML configuration: what is accepted prints as YAML that is accepted as the same settings, which is what a
 * run folder's config.yaml relies on. Not a test of messages (test_config.c is). Invariant: no input crashes or leaks.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dass/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static dass_config c, again; /* large */
    static char yaml[DASS_N_KEYS * (DASS_CONFIG_PRINT_MAX + 64)];
    char value[DASS_CONFIG_PRINT_MAX], same[DASS_CONFIG_PRINT_MAX];
    dass_config_defaults(&c);
    if (dass_config_parse(&c, "fuzz", (const char *)data, size) != DASS_OK || dass_config_check(&c) != DASS_OK)
        return 0;
    size_t at = 0;
    for (int k = 0; k < DASS_N_KEYS; ++k) {
        dass_config_print(&c, (dass_config_key)k, value, sizeof value);
        const char *key = dass_config_key_name((dass_config_key)k);
        at += (size_t)snprintf(yaml + at, sizeof yaml - at, "%s: %s\n", key, value);
    }
    dass_config_defaults(&again);
    if (dass_config_parse(&again, "again", yaml, at) != DASS_OK) {
        (void)fprintf(stderr, "%s\n%s", dass_error_text(), yaml);
        abort();
    }
    for (int k = 0; k < DASS_N_KEYS; ++k) {
        dass_config_print(&c, (dass_config_key)k, value, sizeof value);
        dass_config_print(&again, (dass_config_key)k, same, sizeof same);
        if (strcmp(value, same) == 0) continue;
        (void)fprintf(stderr, "%s: %s read back as %s\n", dass_config_key_name((dass_config_key)k), value, same);
        abort();
    }
    return 0;
}
