/* Private to src/train: buffers of a store as named tensors of a file, in both directions. What the parameter file and
 * the checkpoint have in common; neither knows the other. A buffer of group G is one tensor per parameter of G, named
 * PREFIX + the parameter's name; mask bits are U8, 0 or 1.
 */
#ifndef DASS_TRAIN_TENSORS_H
#define DASS_TRAIN_TENSORS_H

#include "dass/ckpt.h"

typedef struct dass__tensor_writer {
    dass_store *s;
    dass_arena *mem; /* holds names and values until close */
    dass_st_file file;
    size_t max_tensors;
} dass__tensor_writer;

#define DASS__MAX_META 16
#define DASS__CHECKPOINT_WORD "dass-checkpoint-1" /* metadata "format" of a checkpoint */

/* Path of the newest checkpoint of a run folder, in mem; *out NULL: it has none. (checkpoint.c) */
dass_status dass__checkpoint_newest(const char *folder, dass_arena *mem, char **out);

/* Room for n_groups buffers. On error nothing stays open. */
dass_status dass__writer_open(dass_store *s, size_t n_groups, dass__tensor_writer *w);
void dass__writer_close(dass__tensor_writer *w); /* all-zero is fine */
/* Both are borrowed until close. value NULL is DASS_NOMEM, so that a printed value may be passed on unchecked. */
dass_status dass__writer_meta(dass__tensor_writer *w, const char *key, const char *value);
/* Every parameter of `group` from buffer b, as F32, or F64 when exact and the store computes in double. A value that is
 * not finite in that type is DASS_NUMERIC, "NAME[element] is inf": such a state is no result and no place to go on
 * from. */
dass_status dass__writer_group(dass__tensor_writer *w, dass_group group, dass_buf b, const char *prefix, bool exact);
dass_status dass__writer_mask(dass__tensor_writer *w);
/* What the network is and what state it is in, as metadata. (params.c) */
dass_status dass__writer_info(dass__tensor_writer *w, const dass_params_info *info);
/* One tensor that is no parameter; name and data are borrowed until close. */
dass_status dass__writer_tensor(dass__tensor_writer *w, const dass_st_tensor *t);

/* What is read must have exactly the names and shapes of the store, and finite values; a file of another network is
 * DASS_FORMAT naming the tensor. path: for messages. out NULL: only checked. */
dass_status dass__tensors_values(const dass_st_file *f, const char *path, const dass_store *s, dass_group group,
                                 const char *prefix, bool exact, double *out);
/* The same into buffer b, which must be committed. */
dass_status dass__tensors_restore(const dass_st_file *f, const char *path, dass_store *s, dass_group group, dass_buf b,
                                  const char *prefix, bool exact);
/* Mask bits of group W into dass_store_buf_bytes(s, DASS_BUF_BITS) bytes (NULL: only checked); the second into
 * that buffer. */
dass_status dass__tensors_mask(const dass_st_file *f, const char *path, const dass_store *s, uint64_t *bits);
dass_status dass__tensors_restore_mask(const dass_st_file *f, const char *path, dass_store *s);

/* The buffer that holds a group's values. */
dass_buf dass__group_buf(dass_group g);

#endif
