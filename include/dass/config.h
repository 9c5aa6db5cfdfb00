/* Settings: one typed table (config.def), filled from defaults, a YAML file and --set, each value remembering where
 * it came from. A wrong key or value names file, line and the nearest key.
 */
#ifndef DASS_CONFIG_H
#define DASS_CONFIG_H

#include "dass/status.h"

#define DASS_TEXT_MAX 512

/* Limits of networks and images that several layers keep to. */
#define DASS_MAX_NODES 8 /* intermediate nodes of a cell */
#define DASS_MAX_LAYERS 256
#define DASS_MAX_CHANNELS 4096 /* net.channels */
#define DASS_MAX_CLASSES 65536
#define DASS_MAX_IMAGE_CHANNELS 16
#define DASS_MAX_IMAGE 4096 /* height and width */
#define DASS_MIN_IMAGE 4

typedef char dass_text[DASS_TEXT_MAX];

#define DASS_CTYPE_INT int64_t
#define DASS_CTYPE_REAL double
#define DASS_CTYPE_BOOL bool
#define DASS_CTYPE_TEXT dass_text
#define DASS_CTYPE_ENUM dass_text

typedef enum dass_config_key {
#define X(type, key, field, def, help) DASS_KEY_##field,
#include "dass/config.def"
#undef X
    DASS_N_KEYS
} dass_config_key;

typedef struct dass_config {
#define X(type, key, field, def, help) DASS_CTYPE_##type field;
#include "dass/config.def"
#undef X
    dass_text origin[DASS_N_KEYS]; /* "default", "FILE:LINE" or "command line" */
} dass_config;

void dass_config_defaults(dass_config *c);
/* Read a YAML mapping (nested, or with dotted keys) over *c. Relative net.genotype paths stay relative to the working
 * folder. Errors: DASS_IO, DASS_CONFIG with "FILE:LINE: ..." and the nearest key; *c is then unspecified. */
dass_status dass_config_read(dass_config *c, const char *path);
/* The same from memory; `name` stands for the file in messages. The fuzz target. */
dass_status dass_config_parse(dass_config *c, const char *name, const char *text, size_t n_bytes);
/* "key=value" from the command line. */
dass_status dass_config_set(dass_config *c, const char *assignment, const char *origin);
/* Ranges and combinations (positive counts, densities in (0, 1], ...): DASS_CONFIG naming key, value and origin. */
dass_status dass_config_check(const dass_config *c);

/* Table access, for help, the settings box and the resolved file. */
const char *dass_config_key_name(dass_config_key k);
const char *dass_config_key_help(dass_config_key k);
const char *dass_config_key_default(dass_config_key k);
/* Value of a key as YAML text that reads back the same; buf of n bytes, NUL-ended. DASS_CONFIG_PRINT_MAX holds any. */
#define DASS_CONFIG_PRINT_MAX (2 * DASS_TEXT_MAX + 2)
void dass_config_print(const dass_config *c, dass_config_key k, char *buf, size_t n);
/* Levenshtein-nearest of n words (NULL when none is near): for "did you mean". */
const char *dass_nearest(const char *word, const char *const *words, size_t n);

#endif
