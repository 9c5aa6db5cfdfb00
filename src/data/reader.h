/* Private to src/data: sequential reading of a plain, gzip or xz file, or of such bytes, through one interface. */
#ifndef DASS_DATA_READER_H
#define DASS_DATA_READER_H

#include "dass/data.h"

#define DASS__PATH_MAX 4096

typedef struct dass__reader dass__reader;
/* Open the first of folder/"name", "name.gz", "name.xz" that exists; the format is told by the file's first bytes.
 * `hint` ends the message when none exists. */
dass_status dass__reader_open(const char *folder, const char *name, const char *hint, dass__reader **out);
/* The same from memory, which is borrowed. */
dass_status dass__reader_bytes(dass_bytes bytes, dass__reader **out);
void dass__reader_close(dass__reader *r);
const char *dass__reader_path(const dass__reader *r);
int64_t dass__reader_offset(const dass__reader *r);     /* of the decompressed stream */
int64_t dass__reader_file_bytes(const dass__reader *r); /* as stored, compressed or not */
/* Up to `bytes` into dst; *got is less only at the end of the file. Errors: DASS_IO, DASS_FORMAT (damaged stream). */
dass_status dass__reader_some(dass__reader *r, void *dst, size_t bytes, size_t *got);
/* Exactly `bytes`; DASS_FORMAT "what ends early at byte N" otherwise. */
dass_status dass__reader_exact(dass__reader *r, void *dst, size_t bytes, const char *what);
/* DASS_FORMAT unless the file ends here; `why` it should ends the message. */
dass_status dass__reader_end(dass__reader *r, const char *why);

#endif
