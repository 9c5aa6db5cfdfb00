/* Lines of JSON from a file that may still be growing, and the epochs in them. Invariant: every number handed out lies
 * within the bounds asked for, and every error names file and line.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "plot_private.h"

/* The next object, the caller's to release; NULL at the end. */
static dass_status next_line(dass__lines *l, json_t **out)
{
    *out = NULL;
    if (l->at == l->end)
        return DASS_OK;
    const char *newline = memchr(l->at, '\n', (size_t)(l->end - l->at));
    const size_t n = (size_t)((newline != NULL ? newline : l->end) - l->at);
    json_error_t error;
    json_t *object = json_loadb(l->at, n, JSON_REJECT_DUPLICATES, &error);
    l->number++;
    l->at = newline != NULL ? newline + 1 : l->end;
    if (object == NULL && newline == NULL) /* the writer is not done: no beginning of an object is JSON */
        return DASS_OK;
    if (object == NULL)
        return DASS_FAIL(DASS_FORMAT, "%s:%d:%d: %s", l->name, l->number, error.column, error.text);
    if (!json_is_object(object)) {
        json_decref(object);
        return DASS_FAIL(DASS_FORMAT, "%s:%d: every line must be a JSON object", l->name, l->number);
    }
    *out = object;
    return DASS_OK;
}

dass_status dass__lines_each(const char *name, const char *text, size_t n_bytes,
                             dass_status (*line)(void *ctx, const dass__lines *l, const json_t *object), void *ctx)
{
    dass__lines l = {.name = name, .at = text, .end = text + n_bytes};
    for (;;) {
        json_t *object = NULL;
        DASS_TRY(next_line(&l, &object));
        if (object == NULL)
            return DASS_OK;
        const dass_status st = line(ctx, &l, object);
        json_decref(object);
        DASS_TRY(st);
    }
}

dass_status dass__line_number(const dass__lines *l, const json_t *object, const char *key, double lo, double hi,
                              double *out)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value))
        return DASS_FAIL(DASS_FORMAT, "%s:%d: \"%s\" must be a number", l->name, l->number, key);
    const double x = json_number_value(value);
    if (!(x >= lo && x <= hi))
        return DASS_FAIL(DASS_FORMAT, "%s:%d: \"%s\" is %g, must be %g to %g", l->name, l->number, key, x, lo, hi);
    *out = x;
    return DASS_OK;
}

dass_status dass__line_integer(const dass__lines *l, const json_t *object, const char *key, int lo, int hi, int *out)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value))
        return DASS_FAIL(DASS_FORMAT, "%s:%d: \"%s\" must be an integer", l->name, l->number, key);
    const json_int_t x = json_integer_value(value);
    if (x < lo || x > hi)
        return DASS_FAIL(DASS_FORMAT, "%s:%d: \"%s\" is %lld, must be %d to %d", l->name, l->number, key, (long long)x,
                         lo, hi);
    *out = (int)x;
    return DASS_OK;
}

dass_status dass__stages_add(dass__stages *t, const dass__lines *l, const json_t *object)
{
    const char *name = json_string_value(json_object_get(object, "stage"));
    int epoch = 0;
    if (name == NULL || name[0] == '\0' || strlen(name) >= sizeof t->stage[0].name)
        return DASS_FAIL(DASS_FORMAT, "%s:%d: \"stage\" must be a name of 1 to %zu bytes", l->name, l->number,
                         sizeof t->stage[0].name - 1);
    DASS_TRY(dass__line_integer(l, object, "epoch", 1, DASS__MAX_EPOCHS, &epoch));
    if (t->n_epochs == DASS__MAX_EPOCHS)
        return DASS_FAIL(DASS_FORMAT, "%s:%d: more than %d epochs", l->name, l->number, DASS__MAX_EPOCHS);
    const bool same = t->n > 0 && strcmp(t->stage[t->n - 1].name, name) == 0;
    const int done = same ? t->n_epochs - t->stage[t->n - 1].first : 0; /* epochs of this stage so far */
    if (epoch != 1 && epoch != done + 1)
        return DASS_FAIL(DASS_FORMAT, "%s:%d: epoch %d of stage '%s' where epoch %d must stand", l->name, l->number,
                         epoch, name, done + 1);
    if (epoch == 1) {
        if (t->n == DASS__MAX_STAGES)
            return DASS_FAIL(DASS_FORMAT, "%s:%d: more than %d stages", l->name, l->number, DASS__MAX_STAGES);
        (void)snprintf(t->stage[t->n].name, sizeof t->stage[0].name, "%s", name);
        t->stage[t->n].first = t->n_epochs;
        t->n++;
    }
    t->n_epochs++;
    return DASS_OK;
}

int dass__stage_end(const dass__stages *t, int i)
{
    return i + 1 < t->n ? t->stage[i + 1].first : t->n_epochs;
}

int dass__sample_count(int n, int most)
{
    return n < most ? n : most;
}

int dass__sample(int n, int most, int i)
{
    return n <= most ? i : (int)((long long)i * (n - 1) / (most - 1));
}
