/* Which bytes may be shown, and where a text may be cut. Knows no locale. Invariant: a cleaned text is valid UTF-8
 * without control characters, no longer than it was, and cleaning it again changes nothing.
 */
#include "dass/text.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Bytes that the first one of a character promises; 1 for a byte that begins none. */
static size_t promised(unsigned char first)
{
    if (first < 0xc2 || first > 0xf4)
        return 1;
    return first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
}

/* Those of them that are there. */
static size_t present(const unsigned char *p)
{
    const size_t n = promised(p[0]);
    size_t i = 1;
    while (i < n && (p[i] & 0xc0) == 0x80)
        i++;
    return i;
}

size_t dass_text_char(const char *s)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *p = (const unsigned char *)s;
    const size_t n = promised(p[0]);
    if (p[0] < 0x80)
        return p[0] >= 0x20 && p[0] != 0x7f ? 1 : 0;
    if (n == 1 || present(p) < n)
        return 0;
    uint32_t code = p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++)
        code = code << 6 | (p[i] & 0x3fu);
    const bool good = code >= least[n] && code >= 0xa0 && code <= 0x10ffff && code != 0x2028 && code != 0x2029 &&
                      !(code >= 0xd800 && code <= 0xdfff) && code != 0xfeff && code != 0xfffe && code != 0xffff;
    return good ? n : 0;
}

void dass_text_clean(char *text)
{
    char *to = text;
    for (const char *p = text; *p != '\0';) {
        size_t n = dass_text_char(p);
        if (n == 0) {
            const char *next = p + present((const unsigned char *)p); /* before it is overwritten */
            *to++ = strchr("\n\r\t", *p) != NULL ? ' ' : '?';
            p = next;
            continue;
        }
        for (; n > 0; n--)
            *to++ = *p++;
    }
    *to = '\0';
}

size_t dass_text_fit(const char *text, size_t n)
{
    while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
        n--;
    return n;
}
