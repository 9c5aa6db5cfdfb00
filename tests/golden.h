/* Golden files, which tools/golden makes: opening one, and members that must be there. What they mean is each test's
 * own.
 */
#ifndef DASS_TESTS_GOLDEN_H
#define DASS_TESTS_GOLDEN_H

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "check.h"

static inline const char *path_of(const char *below)
{
    static char path[4096];
    const char *root = getenv("DASS_TEST_ROOT");
    (void)snprintf(path, sizeof path, "%s/%s", root ? root : ".", below);
    return path;
}

static inline json_t *load(const char *name)
{
    char file[128];
    json_error_t error;
    (void)snprintf(file, sizeof file, "tests/golden/%s.json", name);
    json_t *root = json_load_file(path_of(file), JSON_REJECT_DUPLICATES, &error);
    if (!root)
        fail_msg(
            "%s, line %d: %s. The golden files are part of the repository; `make golden` makes them anew and needs "
            "PyTorch",
            path_of(file), error.line, error.text);
    return root;
}

static inline const json_t *member(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    if (!v)
        fail_msg("golden file: \"%s\" is missing", key);
    return v;
}

static inline double number(const json_t *object, const char *key)
{
    const json_t *v = member(object, key);
    if (!json_is_number(v))
        fail_msg("golden file: \"%s\" is not a number", key);
    return json_number_value(v);
}

static inline int32_t whole(const json_t *object, const char *key)
{
    const double v = number(object, key);
    assert_true(v >= 0 && v < 1 << 20 && v == floor(v));
    return (int32_t)v;
}

static inline const char *text(const json_t *object, const char *key)
{
    const char *s = json_string_value(member(object, key));
    if (!s)
        fail_msg("golden file: \"%s\" is not a text", key);
    return s;
}

static inline double entry(const json_t *list, size_t i)
{
    const json_t *v = json_array_get(list, i);
    if (!json_is_number(v))
        fail_msg("golden file: entry %zu of a list is not a number", i);
    return json_number_value(v);
}

#endif
