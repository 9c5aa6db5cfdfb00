/* Files that are complete or absent: written beside their place, synchronised and renamed. Not a stream. */
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
/* A run folder with its parents, like mkdir -p. Errors: DASS_IO, DASS_ARG. */
dass_status dass_folder_make(const char *path);

#endif
