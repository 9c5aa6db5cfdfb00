/* A growing SVG text. Escapes what it is given, prints numbers the same way in every locale, and keeps the first error.
 * Knows nothing of pictures.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "plot_private.h"

static void append(dass__svg *s, const char *text, size_t n)
{
    if (s->st != DASS_OK)
        return;
    if (s->cap - s->n <= n) { /* one byte stays for the NUL */
        size_t cap = s->cap != 0 ? s->cap : 16384;
        while (cap - s->n <= n && s->st == DASS_OK)
            s->st = dass_mem_mul(cap, 2, "picture", &cap);
        void *block = s->text;
        if (s->st == DASS_OK)
            s->st = dass_mem_grow(s->cap, cap, "picture", &block);
        if (s->st != DASS_OK)
            return;
        s->text = block;
        s->cap = cap;
    }
    memcpy(s->text + s->n, text, n);
    s->n += n;
    s->text[s->n] = '\0';
}

/* What XML cannot hold even escaped (control characters, U+FFFE, U+FFFF) becomes '?'. */
static void append_escaped(dass__svg *s, const char *text)
{
    for (const char *p = text; *p != '\0'; ++p) {
        const unsigned char c = (unsigned char)*p;
        if (c == '&')
            append(s, "&amp;", 5);
        else if (c == '<')
            append(s, "&lt;", 4);
        else if (c == '>')
            append(s, "&gt;", 4);
        else if (c == '"')
            append(s, "&quot;", 6);
        else if (c == '\'')
            append(s, "&#39;", 5);
        else if (c < ' ' || c == 0x7f)
            append(s, "?", 1);
        else if (strncmp(p, "\xef\xbf\xbe", 3) == 0 || strncmp(p, "\xef\xbf\xbf", 3) == 0) {
            append(s, "?", 1);
            p += 2;
        } else
            append(s, p, 1);
    }
}

/* %.2f with a point, and no minus before a zero. Coordinates are of the order of a picture. */
static void append_number(dass__svg *s, double x)
{
    DASS_ASSERT(fabs(x) < 1e12);
    char buf[32];
    const long long n = llround(100.0 * fabs(x));
    const int len = snprintf(buf, sizeof buf, "%s%lld.%02lld", x < 0.0 && n != 0 ? "-" : "", n / 100, n % 100);
    append(s, buf, (size_t)len);
}

void dass__svg_put(dass__svg *s, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    for (const char *p = fmt; *p != '\0';) {
        const size_t plain = strcspn(p, "%");
        append(s, p, plain);
        p += plain;
        if (*p == '\0')
            break;
        char buf[16];
        switch (p[1]) {
        case 'f':
            append_number(s, va_arg(args, double));
            break;
        case 's':
            append_escaped(s, va_arg(args, const char *));
            break;
        case 'd':
            append(s, buf, (size_t)snprintf(buf, sizeof buf, "%d", va_arg(args, int)));
            break;
        default:
            DASS_ASSERT(p[1] == '%');
            append(s, "%", 1);
        }
        p += 2;
    }
    va_end(args);
}

void dass__svg_begin(dass__svg *s, double w, double h, const char *title)
{
    memset(s, 0, sizeof *s);
    dass__svg_put(s,
                  "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%f\" height=\"%f\" viewBox=\"0 0 %f %f\" "
                  "font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"%s\">\n"
                  "<title>%s</title>\n"
                  "<rect width=\"%f\" height=\"%f\" fill=\"#ffffff\"/>\n",
                  w, h, w, h, DASS__INK, title, w, h);
}

dass_status dass__svg_end(dass__svg *s, char **out)
{
    dass__svg_put(s, "</svg>\n");
    if (s->st != DASS_OK) {
        dass_mem_free(s->text);
        s->text = NULL;
    }
    *out = s->text;
    s->text = NULL;
    return s->st;
}

double dass__text_width(const char *text, double size)
{
    double em = 0.0;
    for (const char *p = text; *p != '\0'; ++p) {
        const unsigned char c = (unsigned char)*p;
        if ((c & 0xc0) == 0x80) /* the rest of a character of several bytes */
            continue;
        em += c >= 0x80 ? 0.84 : strchr("mwMW%", c) != NULL ? 0.95 : strchr("ijlrtf .,:|'()-", c) != NULL ? 0.38 : 0.62;
    }
    return em * size;
}
