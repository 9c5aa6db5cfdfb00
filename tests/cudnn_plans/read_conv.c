/* A convolution from its text; see read_conv.h. */
#include "read_conv.h"

#include <stdlib.h>
#include <string.h>

static int word_of(const char *word, const char *const *words, int n)
{
    for (int i = 0; i < n; ++i)
        if (strcmp(word, words[i]) == 0)
            return i;
    return -1;
}

static const char *const kinds[] = {"forward", "data", "weights"};
static const char *const acts[] = {"none", "relu", "relu6"};
static const char *const precisions[] = {"fp32", "tf32", "bf16"};

/* One "name=value". Returns the bit of the name, 0 when it is not known or the value is bad. */
static unsigned read_field(dass__dnn_conv *c, const char *name, const char *value)
{
    int32_t bias = 0;
    const struct {
        const char *name;
        int32_t *to;
    } fields[] = {{"n", &c->n},     {"ic", &c->ic},   {"ih", &c->ih},         {"iw", &c->iw},
                  {"oc", &c->oc},   {"kh", &c->kh},   {"kw", &c->kw},         {"stride", &c->stride},
                  {"pad", &c->pad}, {"dil", &c->dil}, {"groups", &c->groups}, {"bias", &bias}};
    const unsigned n = sizeof fields / sizeof *fields;
    if (strcmp(name, "act") == 0 || strcmp(name, "precision") == 0) {
        const bool act = name[0] == 'a';
        const int i = word_of(value, act ? acts : precisions, 3);
        if (i < 0)
            return 0;
        if (act)
            c->act = (dass_act)i;
        else
            c->precision = (dass_precision)i;
        return 1u << (n + !act);
    }
    for (unsigned i = 0; i < n; ++i) {
        if (strcmp(name, fields[i].name) != 0)
            continue;
        char *end = NULL;
        const long long v = strtoll(value, &end, 10);
        if (end == value || *end != '\0' || v < 0 || v > INT32_MAX)
            return 0;
        *fields[i].to = (int32_t)v;
        c->bias = fields[i].to == &bias ? v != 0 : c->bias;
        return 1u << i;
    }
    return 0;
}

bool read_conv(char *line, dass__dnn_conv *c)
{
    unsigned seen = 0;
    char *save = NULL;
    const char *const kind = strtok_r(line, " \t\n", &save);
    const int k = kind != NULL ? word_of(kind, kinds, 3) : -1;
    if (k < 0)
        return false;
    *c = (dass__dnn_conv){.kind = (dass__dnn_kind)k};
    for (char *field; (field = strtok_r(NULL, " \t\n", &save)) != NULL;) {
        char *const eq = strchr(field, '=');
        if (eq == NULL)
            return false;
        *eq = '\0';
        const unsigned bit = read_field(c, field, eq + 1);
        if (bit == 0 || (seen & bit))
            return false;
        seen |= bit;
    }
    return seen == (1u << 14) - 1;
}
