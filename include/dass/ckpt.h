/* Parameters on disk: the safetensors container, and the file that search, train and prune leave and that derive, prune
 * and eval read. A file is complete or absent: it is written beside its place, synchronised and renamed. It does not
 * hold momenta, Adam's moments or the place in the data: it is a result, not a resumable state.
 */
#ifndef DASS_CKPT_H
#define DASS_CKPT_H

#include "dass/file.h"
#include "dass/net.h"

/* ---- container ------------------------------------------------------------------------------------------------ */

typedef enum dass_st_type {
    DASS_ST_F32,
    DASS_ST_U8,
    DASS_ST_I32,
    DASS_ST_I64,
    DASS_ST_F64,
    DASS_N_ST_TYPES
} dass_st_type;

#define DASS_ST_MAX_RANK 8

typedef struct dass_st_tensor {
    const char *name;
    dass_st_type type;
    int32_t rank;
    int64_t dim[DASS_ST_MAX_RANK];
    size_t bytes;
    const void *data; /* little-endian elements, row major */
} dass_st_tensor;

typedef struct dass_st_meta {
    const char *key, *value;
} dass_st_meta;

typedef struct dass_st_file {
    dass_st_tensor *tensors;
    size_t n_tensors;
    dass_st_meta *meta;
    size_t n_meta;
    const dass_st_tensor **by_name; /* for dass_st_find; of read files only */
} dass_st_file;

/* Read and check a whole file: JSON header of known types, shapes whose product is the tensor's bytes, offsets that
 * cover the data exactly once, and the hash of its content where the metadata has one. Errors: DASS_IO, DASS_FORMAT
 * naming file and tensor or offset. Free with dass_st_free. */
dass_status dass_st_read(const char *path, dass_st_file **out);
/* The same from memory, for tests and fuzzing; data is borrowed and must outlive *out. */
dass_status dass_st_parse(const char *name, const void *data, size_t n_bytes, dass_st_file **out);
void dass_st_free(dass_st_file *f); /* only of read and parse; NULL is fine */
/* Atomically, as dass_file_write. Tensors keep their order; a hash of the content ("xxh64")
 * is added to the metadata. Errors: DASS_IO. */
dass_status dass_st_write(const char *path, const dass_st_file *f);
const dass_st_tensor *dass_st_find(const dass_st_file *f, const char *name); /* of a read file; NULL when absent */
const char *dass_st_get(const dass_st_file *f, const char *key);             /* NULL when absent */

/* ---- parameters ----------------------------------------------------------------------------------------------- */

/* What the metadata says. */
typedef struct dass_params_info {
    dass_arch arch;
    char state[16];      /* "supernet", "dense", "pruned" */
    double density;      /* 1 without a mask */
    char allocation[16]; /* "" without a mask */
} dass_params_info;

/* Names: parameters as in the store; "score.NAME" when SCORE is committed and scores is set; "mask.NAME" (U8, 0 or 1)
 * when info->state has a mask. Weights are stored as trained: multiply by the mask. */
dass_status dass_params_save(const char *path, dass_store *s, const dass_params_info *info, bool scores, bool mask);

typedef struct dass_params {
    dass_st_file *file;
    dass_params_info info;
    char *path;
    bool checkpoint; /* a state in the middle of a run; what is not needed of it is left alone */
    bool unfinished; /* it was chosen: the folder has no params.safetensors yet, this is its newest checkpoint */
    bool averaged;   /* of a checkpoint: the averages are the network, as they are when its run ends */
    dass_arena *mem;
} dass_params;
/* path: a parameter file, a checkpoint, or a run folder. Metadata is parsed, tensors stay in the file's block. */
dass_status dass_params_open(const char *path, dass_params *out);
void dass_params_close(dass_params *p); /* all-zero is fine */
/* Write every parameter of the store from the file; exact names and shapes, nothing missing. Buffers W, AF, ALPHA and
 * STAT must be committed. DASS_FORMAT otherwise. */
dass_status dass_params_restore(const dass_params *p, dass_store *s);
/* Write BITS from the masks of the file. DASS_FORMAT when it has none. */
dass_status dass_params_restore_mask(const dass_params *p, dass_store *s);
/* The same bits without a device, into dass_store_buf_bytes(s, DASS_BUF_BITS) bytes. */
dass_status dass_params_mask(const dass_params *p, const dass_store *s, uint64_t *bits);
/* Values of one group in store order, without a device: out has dass_store_count(s, group) entries. */
dass_status dass_params_group(const dass_params *p, const dass_store *s, dass_group group, double *out);

#endif
