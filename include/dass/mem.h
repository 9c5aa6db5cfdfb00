/* The only allocator. Long-lived metadata goes into arenas that are freed whole; big blocks are counted.
 *
 * Every allocation names what it is for, so that an out-of-memory error can say how much was asked, by what, and
 * how much there was. After dass_mem_seal(true) any allocation is an assertion: the training loop runs sealed.
 */
#ifndef DASS_MEM_H
#define DASS_MEM_H

#include "dass/status.h"

/* A block of `bytes` zeroed bytes, aligned to 64 (2 MiB, with huge pages asked for, from 4 MiB on). `what` is a
 * literal or outlives the call. Free with dass_mem_free. Errors: DASS_NOMEM, *out NULL. 0 bytes: a valid pointer. */
dass_status dass_mem_alloc(size_t bytes, const char *what, void **out);
/* Grow or make a block, contents kept, the new tail zeroed. On DASS_NOMEM *block is untouched. */
dass_status dass_mem_grow(size_t old_bytes, size_t new_bytes, const char *what, void **block);
void dass_mem_free(void *block); /* NULL is fine */

/* For libraries that allocate through us: malloc and free, seen by the test hook. NULL when memory is out. */
void *dass_mem_plain(size_t bytes);
void dass_mem_plain_free(void *block);

/* Checked sizes: DASS_NOMEM with `what` in the text when a product or sum overflows size_t. */
dass_status dass_mem_mul(size_t a, size_t b, const char *what, size_t *out);
dass_status dass_mem_add(size_t a, size_t b, const char *what, size_t *out);

/* Arenas: bump allocation in chunks, zeroed, 16-byte aligned, freed whole. */
typedef struct dass_arena dass_arena;
dass_status dass_arena_make(const char *what, dass_arena **out);
void dass_arena_free(dass_arena *a); /* NULL is fine */
/* NULL with the error recorded when memory is out. */
void *dass_arena_alloc(dass_arena *a, size_t bytes);
/* Copy of `text` (n bytes, NUL added) in the arena. */
char *dass_arena_text(dass_arena *a, const char *text, size_t n);
char *dass_arena_printf(dass_arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Counters and test hooks. */
typedef struct dass_mem_stats {
    size_t n_allocs; /* calls so far, in this process */
    size_t n_live;   /* blocks alive */
    size_t live_bytes;
    size_t peak_bytes;
} dass_mem_stats;
dass_mem_stats dass_mem_get_stats(void);
void dass_mem_seal(bool sealed);
/* Test hook: the k-th allocation from now on (1 = the next) fails; 0 switches it off. */
void dass_mem_fail_at(size_t k);
/* Bytes of memory the system says are available, and the process's peak resident set; 0 when unknown. */
size_t dass_mem_available(void);
size_t dass_mem_peak_rss(void);

#endif
