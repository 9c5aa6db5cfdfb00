/* Text from outside: files, command lines, other libraries. What is shown or kept of it is one line of printable UTF-8.
 */
#ifndef DASS_TEXT_H
#define DASS_TEXT_H

#include <stddef.h>

/* Bytes of the UTF-8 character at s when it may stand on a line that people read: no control character of either block,
 * no line or paragraph separator, nothing malformed; else 0. Reads no further than a NUL. */
size_t dass_text_char(const char *s);
/* In place: line ends and tabs become a space each, every other character that may not stand there, or a piece of one,
 * a
 * '?'. */
void dass_text_clean(char *text);
/* The largest count of at most n bytes that cuts no character of text in two. text: more than n bytes long. */
size_t dass_text_fit(const char *text, size_t n);

#endif
