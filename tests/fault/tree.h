/* Folders as a whole: copied, removed, compared by content. Everything here ends the program when it fails: it is the
 * test's own house-keeping. */
#ifndef FAULT_TREE_H
#define FAULT_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tree_file {
    char path[232];
    uint64_t hash; /* of the content; 0 for a folder, and for times.jsonl, which holds wall times */
    bool folder;
} tree_file;

typedef struct tree {
    tree_file *file; /* sorted by path */
    size_t n, room;
} tree;

void tree_read(const char *root, tree *out);
void tree_free(tree *t);
uint64_t tree_hash(const tree *t);
/* The first difference as text, or NULL. */
const char *tree_differs(const tree *wanted, const tree *t, char *buf, size_t n);
/* A file left behind by an unfinished write, or NULL. */
const char *tree_half_written(const tree *t);

void tree_copy(const char *from, const char *to);
void tree_remove(const char *root);
void tree_write(const char *path, const void *data, size_t n);
/* The whole file, NUL-ended, at most 1 MiB; to be freed. Empty when it is not there. */
char *tree_text(const char *path);
_Noreturn void tree_fail(const char *what, const char *path);

#endif
