/* Reads settings files: YAML through libyaml.
 *
 * Not a YAML document model: libyaml's events are turned into key = value assignments one by one,
 * and whatever a settings file does not need (lists, anchors, aliases, tags, several documents) is
 * refused by name.
 * Invariant: each key and each section is given at most once per file; every message about the
 * text begins with FILE:LINE.
 */
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "config_private.h"
#include "dass/file.h"
#include "dass/mem.h"
#include "dass/text.h"

enum {
    FILE_BYTES_MAX = 1 << 20, /* a settings file is small; this bounds the work on a hostile one */
    DEPTH_MAX = 8,            /* nested mappings */
    ORIGIN_NAME_MAX = 440     /* of DASS_TEXT_MAX; the line number needs some too */
};

/* Where the reader stands: the open mappings, and the key whose value comes next. */
typedef struct reader {
    dass_config *c;
    const char *name;
    size_t depth;                    /* open mappings */
    bool has_key;                    /* a key was read, its value was not */
    char path[DASS__CONFIG_KEY_MAX]; /* dotted sections of the open mappings, then the key */
    size_t section_bytes[DEPTH_MAX]; /* length of path inside each open mapping, without the key */
    size_t section_line[DEPTH_MAX];
    size_t key_line;               /* line of the pending key */
    size_t seen_line[DASS_N_KEYS]; /* line each key was given on; 0 = not yet */
    /* line each section was opened on, by its first key and its depth in dots */
    size_t seen_section[DASS_N_KEYS][DEPTH_MAX];
    bool seen_document;
    char origin[DASS_TEXT_MAX];
} reader;

/* "FILE:LINE", kept in the reader. The end of a long file name says more than its start. */
static const char *at_line(reader *r, size_t line)
{
    const size_t n = strlen(r->name);
    const bool cut = n > ORIGIN_NAME_MAX;
    const size_t from = cut ? dass_text_fit(r->name, n - ORIGIN_NAME_MAX + 3) : 0;
    (void)snprintf(r->origin, sizeof r->origin, "%s%s:%zu", cut ? "..." : "", r->name + from, line);
    return r->origin;
}

/* The key of a mapping's next pair, joined to the sections around it. */
static dass_status read_key(reader *r, const char *key, size_t n, size_t line)
{
    dass__config_quote buf;
    const size_t base = r->section_bytes[r->depth - 1];
    const size_t dot = base > 0 ? 1 : 0;
    if (n == 0)
        return DASS_FAIL(DASS_CONFIG, "%s: empty key", at_line(r, line));
    if (base + dot + n >= DASS__CONFIG_KEY_MAX) {
        return DASS_FAIL(DASS_CONFIG, "%s: the key '%s' is too long", at_line(r, line),
                         dass__config_show(key, buf));
    }
    if (dot > 0)
        r->path[base] = '.';
    memcpy(r->path + base + dot, key, n);
    r->path[base + dot + n] = '\0';
    r->has_key = true;
    r->key_line = line;
    return DASS_OK;
}

static dass_status read_value(reader *r, const char *value, bool is_bare, size_t line)
{
    const size_t k = dass__config_find_key(r->path);
    if (k == DASS_N_KEYS) {
        const size_t below = dass__config_find_section(r->path);
        if (below == DASS_N_KEYS) {
            return dass__config_fail_unknown(at_line(r, r->key_line), r->path);
        }
        /* A section whose lines are all commented out reads as an empty value: nothing is set. */
        if (is_bare && value[0] == '\0')
            return DASS_OK;
        return DASS_FAIL(DASS_CONFIG,
                         "%s: '%s' is a section; it holds keys such as '%s', not a value",
                         at_line(r, r->key_line), r->path,
                         dass_config_key_name((dass_config_key)below));
    }
    if (r->seen_line[k] > 0) {
        return DASS_FAIL(DASS_CONFIG, "%s: key '%s' given twice, first on line %zu; remove one",
                         at_line(r, r->key_line), r->path, r->seen_line[k]);
    }
    r->seen_line[k] = r->key_line;
    return dass__config_assign(r->c, k, value, at_line(r, line));
}

static dass_status on_scalar(reader *r, const yaml_event_t *event, size_t line)
{
    const char *text = (const char *)event->data.scalar.value;
    const size_t n = event->data.scalar.length;
    const bool is_bare = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (strlen(text) != n)
        return DASS_FAIL(DASS_CONFIG, "%s: a text holds a NUL character", at_line(r, line));
    if (r->depth == 0) {
        if (is_bare && n == 0)
            return DASS_OK; /* an empty document sets nothing */
        return DASS_FAIL(DASS_CONFIG, "%s: expected 'key: value' lines", at_line(r, line));
    }
    if (!r->has_key)
        return read_key(r, text, n, line);
    DASS_TRY(read_value(r, text, is_bare, line));
    r->has_key = false;
    return DASS_OK;
}

static dass_status on_mapping_start(reader *r, size_t line)
{
    if (r->depth > 0 && !r->has_key) {
        return DASS_FAIL(DASS_CONFIG, "%s: a key must be a word, not a mapping", at_line(r, line));
    }
    if (r->depth == DEPTH_MAX) {
        return DASS_FAIL(DASS_CONFIG, "%s: mappings nested deeper than %d", at_line(r, line),
                         DEPTH_MAX);
    }
    size_t n = 0;
    if (r->has_key) {
        const size_t k = dass__config_find_key(r->path);
        if (k < DASS_N_KEYS) {
            return DASS_FAIL(DASS_CONFIG, "%s: key '%s' takes a value, not a mapping (%s)",
                             at_line(r, r->key_line), r->path,
                             dass_config_key_help((dass_config_key)k));
        }
        const size_t section = dass__config_find_section(r->path);
        if (section < DASS_N_KEYS) {
            size_t dots = 0;
            for (const char *p = r->path; *p != '\0'; p++)
                dots += *p == '.';
            DASS_ASSERT(dots < DEPTH_MAX);
            if (r->seen_section[section][dots] > 0) {
                return DASS_FAIL(DASS_CONFIG,
                                 "%s: section '%s' given twice, first on line %zu; join them",
                                 at_line(r, r->key_line), r->path, r->seen_section[section][dots]);
            }
            r->seen_section[section][dots] = r->key_line;
        }
        n = strlen(r->path);
        line = r->key_line;
    }
    r->section_bytes[r->depth] = n;
    r->section_line[r->depth] = line;
    r->depth++;
    r->has_key = false;
    return DASS_OK;
}

static dass_status on_mapping_end(reader *r)
{
    r->depth--;
    r->path[r->section_bytes[r->depth]] = '\0';
    r->has_key = false;
    /* An unknown section with keys has failed at the first of them; this one is empty. */
    if (r->depth > 0 && dass__config_find_section(r->path) == DASS_N_KEYS) {
        return dass__config_fail_unknown(at_line(r, r->section_line[r->depth]), r->path);
    }
    return DASS_OK;
}

static dass_status on_document(reader *r, size_t line)
{
    if (r->seen_document) {
        return DASS_FAIL(DASS_CONFIG, "%s: a second document begins; keep one per file",
                         at_line(r, line));
    }
    r->seen_document = true;
    return DASS_OK;
}

static dass_status fail_anchor(reader *r, size_t line)
{
    return DASS_FAIL(DASS_CONFIG,
                     "%s: anchors, aliases and tags are not supported; write the value out",
                     at_line(r, line));
}

static dass_status fail_list(reader *r, size_t line)
{
    dass__config_quote buf;
    if (r->has_key) {
        return DASS_FAIL(DASS_CONFIG, "%s: key '%s': lists are not supported; give one value",
                         at_line(r, line), dass__config_show(r->path, buf));
    }
    return DASS_FAIL(DASS_CONFIG, "%s: lists are not supported; expected 'key: value' lines",
                     at_line(r, line));
}

static dass_status on_event(reader *r, const yaml_event_t *event)
{
    const size_t line = event->start_mark.line + 1;
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        return on_document(r, line);
    case YAML_SCALAR_EVENT:
        if (event->data.scalar.anchor != NULL || event->data.scalar.tag != NULL)
            return fail_anchor(r, line);
        return on_scalar(r, event, line);
    case YAML_MAPPING_START_EVENT:
        if (event->data.mapping_start.anchor != NULL || event->data.mapping_start.tag != NULL) {
            return fail_anchor(r, line);
        }
        return on_mapping_start(r, line);
    case YAML_MAPPING_END_EVENT:
        return on_mapping_end(r);
    case YAML_ALIAS_EVENT:
        return fail_anchor(r, line);
    case YAML_SEQUENCE_START_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        return fail_list(r, line);
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_END_EVENT:
        break;
    }
    return DASS_OK;
}

/* The library's own complaint. Scanner and parser know the line, its reader only the byte. */
static dass_status fail_yaml(reader *r, const yaml_parser_t *parser, const char *text,
                             size_t n_bytes)
{
    if (parser->error == YAML_MEMORY_ERROR) {
        return DASS_FAIL(DASS_NOMEM, "%s: out of memory while reading the settings (%zu bytes)",
                         r->name, n_bytes);
    }
    size_t line = parser->problem_mark.line + 1;
    if (parser->error == YAML_READER_ERROR) {
        line = 1;
        for (size_t i = 0; i < n_bytes && i < parser->problem_offset; i++)
            line += text[i] == '\n';
    }
    return DASS_FAIL(DASS_CONFIG, "%s: not YAML: %s%s%s", at_line(r, line),
                     parser->problem ? parser->problem : "malformed text",
                     parser->context ? " " : "", parser->context ? parser->context : "");
}

static dass_status read_events(reader *r, yaml_parser_t *parser, const char *text, size_t n_bytes)
{
    bool more = true;
    while (more) {
        yaml_event_t event;
        if (yaml_parser_parse(parser, &event) == 0)
            return fail_yaml(r, parser, text, n_bytes);
        const dass_status st = on_event(r, &event);
        more = event.type != YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
        DASS_TRY(st);
    }
    return DASS_OK;
}

dass_status dass_config_parse(dass_config *c, const char *name, const char *text, size_t n_bytes)
{
    if (n_bytes > FILE_BYTES_MAX) {
        return DASS_FAIL(DASS_CONFIG, "%s: a settings file of %zu bytes; at most %d are read", name,
                         n_bytes, FILE_BYTES_MAX);
    }
    yaml_parser_t parser;
    if (yaml_parser_initialize(&parser) == 0) {
        return DASS_FAIL(DASS_NOMEM, "%s: out of memory while reading the settings (%zu bytes)",
                         name, n_bytes);
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n_bytes);
    reader r = {.c = c, .name = name};
    const dass_status st = read_events(&r, &parser, text, n_bytes);
    yaml_parser_delete(&parser);
    DASS_TRY(st);
    return DASS_OK;
}

dass_status dass_config_read(dass_config *c, const char *path)
{
    void *text = NULL;
    size_t n = 0;
    DASS_TRY(dass_file_read(path, FILE_BYTES_MAX, "settings file", &text, &n));
    const dass_status st = dass_config_parse(c, path, text, n);
    dass_mem_free(text);
    return st;
}
