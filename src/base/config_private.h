/* What the two halves of the settings share: config.c owns the table and the values, config_yaml.c
 * reads files.
 *
 * Not for other layers.
 * Invariant: a value enters a dass_config only through dass__config_assign.
 */
#ifndef DASS_CONFIG_PRIVATE_H
#define DASS_CONFIG_PRIVATE_H

#include "dass/config.h"

/* Room for a dotted key, its NUL included. */
enum { DASS__CONFIG_KEY_MAX = 128 };

/* Index of a key; DASS_N_KEYS when there is none. */
size_t dass__config_find_key(const char *path);
/* Index of the first key below a section ("search.epochs"); DASS_N_KEYS when there is none. */
size_t dass__config_find_section(const char *path);
/* Check a value's text against the type of key k, store it and note its origin. DASS_CONFIG. */
dass_status dass__config_assign(dass_config *c, size_t k, const char *value, const char *origin);
/* DASS_CONFIG: "ORIGIN: unknown key 'PATH'" with the nearest key. */
dass_status dass__config_fail_unknown(const char *origin, const char *path);

/* A piece of input as it may stand in a message: control bytes as '?', long ones cut. Returns buf.
 */
typedef char dass__config_quote[68];
const char *dass__config_show(const char *value, dass__config_quote buf);

#endif
