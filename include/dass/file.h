/* Files read whole, and files that are complete or absent: written beside their place, synchronised and renamed. Not a
 * stream. Only regular files are read or written, and what is written is never behind a link.
 */
#ifndef DASS_FILE_H
#define DASS_FILE_H

#include "dass/status.h"

typedef struct dass_file_part {
    const void *data;
    size_t bytes;
} dass_file_part;

/* Bytes into a file, atomically: path.tmp, fsync, rename, fsync of the folder. A file that was there stays as it was
 * until the rename. Errors: DASS_IO, DASS_ARG when the path is too long. */
dass_status dass_file_write(const char *path, const void *data, size_t n_bytes);
/* The same of n pieces, one after the other. */
dass_status dass_file_write_parts(const char *path, const dass_file_part *parts, size_t n);
/* Open a file for writing, made if absent; flags: O_TRUNC or O_APPEND. DASS_IO, also for a symbolic link, a pipe or a
 * device of that name. */
dass_status dass_file_create(const char *path, int flags, int *fd);
/* Open a file for reading, with its size. what: "genotype file", a literal, for messages. DASS_IO; then *fd is -1. A
 * pipe is refused without waiting for its writer. */
dass_status dass_file_open(const char *path, const char *what, int *fd, int64_t *n_bytes);
/* At most n_bytes from there on; fewer at the end of the file. DASS_IO. */
dass_status dass_file_get(int fd, const char *path, const char *what, void *to, size_t n_bytes, size_t *got);
/* A small file whole, *block for dass_mem_free, a zero byte after it; *n_bytes of max_bytes + 1: it is longer than
 * max_bytes. DASS_IO, DASS_NOMEM; then *block is NULL. */
dass_status dass_file_read(const char *path, size_t max_bytes, const char *what, void **block, size_t *n_bytes);
/* Whether something of this name is there, be it a link to nothing. Any error but its absence is DASS_IO: it may be
 * there, and nothing may be decided. */
dass_status dass_file_there(const char *path, bool *there);
/* A run folder with its parents, like mkdir -p. Errors: DASS_IO, DASS_ARG. */
dass_status dass_folder_make(const char *path);

#endif
