/* The only allocator: counted blocks, arenas on top of them, and what the system says about memory.
 *
 *     heap block    | header (64) | bytes ...          posix_memalign, 64-byte aligned, zeroed here
 *     mapped block  .... | header | bytes ...          mmap, on a 2 MiB boundary, zero by itself
 *
 * Not a pool: blocks go back to the system when freed. The header stands right before the bytes and
 * keeps the size, so that freeing needs no size and the counters are exact.
 * Invariant: every byte handed out for the first time is zero; live_bytes is the sum of the sizes
 * of live blocks.
 */
#include "dass/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)

#define BLOCK_ALIGN ((size_t)64)
#define HUGE_ALIGN  (2 * MIB)
#define HUGE_BYTES  (4 * MIB)  /* from here on a block is mapped by itself, in huge pages */
#define GRAIN       (64 * KIB) /* of mappings: a multiple of every page size in use */
#define MAGIC       0x6461737362c0deull

/* Under the address sanitizer all blocks come from the heap: only there it watches their ends and
 * follows the pointers stored in them. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MAP_BLOCKS false
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define MAP_BLOCKS false
#endif
#ifndef MAP_BLOCKS
#define MAP_BLOCKS true
#endif

typedef struct header {
    size_t bytes;     /* as asked */
    void *base;       /* what to give back: start of the heap block or of the mapping */
    size_t map_bytes; /* 0 = heap block */
    unsigned long long magic;
} header;
_Static_assert(sizeof(header) <= BLOCK_ALIGN, "the header fits before a block");

static atomic_size_t n_allocs;
static atomic_size_t n_live;
static atomic_size_t live_bytes;
static atomic_size_t peak_bytes;
static atomic_size_t fail_in; /* 0 = off; 1 = the next allocation fails */
static atomic_bool is_sealed;

/* ---- what the system says ---- */

/* First bytes of a system file, NUL-ended; 0 on any fault. No stdio: it would allocate. */
static size_t read_small(const char *path, char *buf, size_t n)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    size_t used = 0;
    while (used + 1 < n) {
        const ssize_t got = read(fd, buf + used, n - 1 - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    (void)close(fd);
    buf[used] = '\0';
    return used;
}

/* Value in bytes of a "Word:  123 kB" line of /proc/meminfo; 0 when it is not there. */
static size_t meminfo_bytes(const char *text, const char *word)
{
    const size_t n = strlen(word);
    for (const char *line = text; line != NULL && *line != '\0';) {
        if (strncmp(line, word, n) == 0 && line[n] == ':') {
            return (size_t)strtoull(line + n + 1, NULL, 10) * KIB;
        }
        line = strchr(line, '\n');
        if (line != NULL)
            line++;
    }
    return 0;
}

size_t dass_mem_available(void)
{
    char text[4096];
    if (read_small("/proc/meminfo", text, sizeof text) == 0)
        return 0;
    return meminfo_bytes(text, "MemAvailable");
}

size_t dass_mem_peak_rss(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return (size_t)usage.ru_maxrss * KIB;
}

/* ---- failing ---- */

/* "1.50 GiB" into buf. */
static void print_bytes(size_t bytes, char *buf, size_t n)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < KIB) {
        (void)snprintf(buf, n, "%zu bytes", bytes);
        return;
    }
    double x = (double)bytes / 1024.0;
    size_t unit = 0;
    while (x >= 1023.995 && unit + 1 < sizeof units / sizeof units[0]) {
        x /= 1024.0;
        unit++;
    }
    (void)snprintf(buf, n, "%.2f %s", x, units[unit]);
}

static dass_status fail_nomem(size_t bytes, const char *what, const char *why)
{
    char asked[32];
    char there[32];
    print_bytes(bytes, asked, sizeof asked);
    const size_t available = dass_mem_available();
    if (available > 0) {
        print_bytes(available, there, sizeof there);
    } else {
        (void)snprintf(there, sizeof there, "an unknown amount");
    }
    return DASS_FAIL(DASS_NOMEM,
                     "out of memory: %s asked for %s (%zu bytes), %s available%s; "
                     "use a smaller batch, image or network, or free memory",
                     what, asked, bytes, there, why);
}

/* Bytes of our live blocks that surely were not touched yet: what exceeds the resident set. The
 * system still counts them as available. */
static size_t promised_bytes(void)
{
    char text[256];
    if (read_small("/proc/self/statm", text, sizeof text) == 0)
        return 0;
    const char *second = strchr(text, ' ');
    if (second == NULL)
        return 0;
    const size_t resident = (size_t)strtoull(second, NULL, 10) * (size_t)sysconf(_SC_PAGESIZE);
    const size_t live = atomic_load(&live_bytes);
    return resident > 0 && live > resident ? live - resident : 0;
}

/* Refuse a block the system could not back once it is written. An overcommitting system maps more
 * than it has, and its out-of-memory killer ends the process later, at some first touch, without a
 * word; asking before turns that into an error that says what to do. Where the system does not
 * tell, nothing is refused. */
static dass_status check_backing(size_t bytes, const char *what)
{
    char text[4096];
    if (read_small("/proc/meminfo", text, sizeof text) == 0)
        return DASS_OK;
    const size_t available = meminfo_bytes(text, "MemAvailable");
    if (available == 0)
        return DASS_OK;
    const size_t total = available + meminfo_bytes(text, "SwapFree");
    const size_t promised = promised_bytes();
    if (promised <= total && bytes <= total - promised)
        return DASS_OK;
    if (promised == 0)
        return fail_nomem(bytes, what, "");
    char amount[32];
    char why[96];
    print_bytes(promised, amount, sizeof amount);
    (void)snprintf(why, sizeof why, " (%s of it promised to blocks not used yet)", amount);
    return fail_nomem(bytes, what, why);
}

/* In the training loop an allocation is our own bug: say who it was. */
static void check_seal(size_t bytes, const char *what)
{
    if (!atomic_load_explicit(&is_sealed, memory_order_relaxed))
        return;
    char text[256];
    (void)snprintf(text, sizeof text,
                   "no allocation while memory is sealed, but %s asked for %zu bytes", what, bytes);
    dass__assert_fail(text, __FILE__, __LINE__);
}

/* True for the one allocation the test hook chose. */
static bool must_fail(void)
{
    size_t k = atomic_load_explicit(&fail_in, memory_order_relaxed);
    while (k > 0 && !atomic_compare_exchange_weak(&fail_in, &k, k - 1)) {
    }
    return k == 1;
}

/* ---- blocks ---- */

static header *header_of(void *block)
{
    header *h = (header *)(void *)((char *)block - BLOCK_ALIGN);
    DASS_ASSERT(h->magic == MAGIC);
    return h;
}

static void *heap_block(size_t bytes, size_t align)
{
    void *base = NULL;
    if (posix_memalign(&base, align, align + bytes) != 0)
        return NULL;
    char *block = (char *)base + align;
    memset(block, 0, bytes);
    header *h = (header *)(void *)(block - BLOCK_ALIGN);
    *h = (header){.bytes = bytes, .base = base, .map_bytes = 0, .magic = MAGIC};
    return block;
}

/* Reserves 2 MiB more than asked, then gives back what lies before the header's grain and after the
 * last byte. */
static void *mapped_block(size_t bytes)
{
    const size_t body = (bytes + GRAIN - 1) / GRAIN * GRAIN;
    const size_t total = body + HUGE_ALIGN + GRAIN;
    char *start = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    const uintptr_t first = (uintptr_t)start + GRAIN;
    const size_t skip = (size_t)((HUGE_ALIGN - first % HUGE_ALIGN) % HUGE_ALIGN);
    char *block = start + GRAIN + skip;
    const size_t tail = HUGE_ALIGN - skip;
    if (skip > 0)
        (void)munmap(start, skip);
    (void)munmap(block + body, tail);
    /* Only advice: where huge pages are off the block works all the same. */
    (void)madvise(block, body, MADV_HUGEPAGE);
    header *h = (header *)(void *)(block - BLOCK_ALIGN);
    *h = (header){.bytes = bytes, .base = block - GRAIN, .map_bytes = body + GRAIN, .magic = MAGIC};
    return block;
}

static void count_block(size_t bytes)
{
    atomic_fetch_add(&n_live, 1);
    const size_t live = atomic_fetch_add(&live_bytes, bytes) + bytes;
    size_t peak = atomic_load(&peak_bytes);
    while (live > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, live)) {
    }
}

dass_status dass_mem_alloc(size_t bytes, const char *what, void **out)
{
    *out = NULL;
    check_seal(bytes, what);
    atomic_fetch_add(&n_allocs, 1);
    if (must_fail())
        return fail_nomem(bytes, what, " (failure injected by a test)");
    if (bytes > (size_t)PTRDIFF_MAX - 2 * HUGE_ALIGN) {
        return fail_nomem(bytes, what, ", more than an address can reach");
    }
    void *block = NULL;
    if (bytes < HUGE_BYTES) {
        block = heap_block(bytes, BLOCK_ALIGN);
    } else {
        DASS_TRY(check_backing(bytes, what));
        block = MAP_BLOCKS ? mapped_block(bytes) : heap_block(bytes, HUGE_ALIGN);
    }
    if (block == NULL)
        return fail_nomem(bytes, what, ", refused by the system");
    count_block(bytes);
    *out = block;
    return DASS_OK;
}

dass_status dass_mem_grow(size_t old_bytes, size_t new_bytes, const char *what, void **block)
{
    if (*block != NULL) {
        const size_t have = header_of(*block)->bytes;
        DASS_ASSERT(old_bytes <= have);
        if (new_bytes <= have) {
            if (new_bytes > old_bytes)
                memset((char *)*block + old_bytes, 0, new_bytes - old_bytes);
            return DASS_OK;
        }
    }
    void *grown = NULL;
    DASS_TRY(dass_mem_alloc(new_bytes, what, &grown));
    if (*block != NULL) {
        memcpy(grown, *block, old_bytes);
        dass_mem_free(*block);
    }
    *block = grown;
    return DASS_OK;
}

void dass_mem_free(void *block)
{
    if (block == NULL)
        return;
    header *h = header_of(block);
    void *base = h->base;
    const size_t map_bytes = h->map_bytes;
    atomic_fetch_sub(&n_live, 1);
    atomic_fetch_sub(&live_bytes, h->bytes);
    h->magic = 0; /* a second free of a heap block is then likely to be noticed */
    if (map_bytes > 0) {
        (void)munmap(base, map_bytes);
    } else {
        free(base);
    }
}

void *dass_mem_plain(size_t bytes)
{
    return must_fail() ? NULL : malloc(bytes);
}

void dass_mem_plain_free(void *block)
{
    free(block);
}

dass_status dass_mem_mul(size_t a, size_t b, const char *what, size_t *out)
{
    if (__builtin_mul_overflow(a, b, out)) {
        *out = 0;
        return DASS_FAIL(DASS_NOMEM, "size of %s: %zu x %zu is more than an address can reach",
                         what, a, b);
    }
    return DASS_OK;
}

dass_status dass_mem_add(size_t a, size_t b, const char *what, size_t *out)
{
    if (__builtin_add_overflow(a, b, out)) {
        *out = 0;
        return DASS_FAIL(DASS_NOMEM, "size of %s: %zu + %zu is more than an address can reach",
                         what, a, b);
    }
    return DASS_OK;
}

/* ---- arenas ---- */

/*     arena -> newest chunk -> older chunk -> ... -> first chunk, which also holds the arena
 *              | chunk | used ... | free    |
 */
#define ARENA_ALIGN   ((size_t)16)
#define CHUNK_FIRST   (4 * KIB - BLOCK_ALIGN)
#define CHUNK_LARGEST (16 * MIB - BLOCK_ALIGN)

typedef struct chunk {
    alignas(16) struct chunk *older;
    size_t used; /* of bytes, header included */
    size_t bytes;
} chunk;

struct dass_arena {
    alignas(16) const char *what;
    chunk *newest;
    size_t next_bytes; /* size of the next chunk: twice the last, up to CHUNK_LARGEST */
};

dass_status dass_arena_make(const char *what, dass_arena **out)
{
    *out = NULL;
    void *block = NULL;
    DASS_TRY(dass_mem_alloc(CHUNK_FIRST, what, &block));
    chunk *first = block;
    dass_arena *a = (dass_arena *)(void *)((char *)block + sizeof(chunk));
    *first =
        (chunk){.older = NULL, .used = sizeof(chunk) + sizeof(dass_arena), .bytes = CHUNK_FIRST};
    *a = (dass_arena){.what = what,
                      .newest = first,
                      .next_bytes = 2 * (CHUNK_FIRST + BLOCK_ALIGN) - BLOCK_ALIGN};
    *out = a;
    return DASS_OK;
}

void dass_arena_free(dass_arena *a)
{
    if (a == NULL)
        return;
    for (chunk *c = a->newest; c != NULL;) {
        chunk *older = c->older;
        dass_mem_free(c);
        c = older;
    }
}

/* A chunk with room for `bytes`; NULL with the error recorded. One larger than the chunk due is
 * made to measure and put behind the newest, whose free end stays in use. */
static chunk *add_chunk(dass_arena *a, size_t bytes)
{
    const size_t need = bytes + sizeof(chunk);
    const bool to_measure = need > a->next_bytes;
    const size_t size = to_measure ? need : a->next_bytes;
    void *block = NULL;
    if (dass_mem_alloc(size, a->what, &block) != DASS_OK)
        return NULL;
    chunk *c = block;
    *c = (chunk){.older = NULL, .used = sizeof(chunk), .bytes = size};
    if (to_measure) {
        c->older = a->newest->older;
        a->newest->older = c;
        return c;
    }
    c->older = a->newest;
    a->newest = c;
    const size_t twice = 2 * (size + BLOCK_ALIGN) - BLOCK_ALIGN;
    a->next_bytes = twice < CHUNK_LARGEST ? twice : CHUNK_LARGEST;
    return c;
}

void *dass_arena_alloc(dass_arena *a, size_t bytes)
{
    check_seal(bytes, a->what);
    if (bytes > (size_t)PTRDIFF_MAX - 2 * HUGE_ALIGN) {
        (void)fail_nomem(bytes, a->what, ", more than an address can reach");
        return NULL;
    }
    const size_t rounded =
        bytes == 0 ? ARENA_ALIGN : (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    chunk *c = a->newest;
    if (rounded > c->bytes - c->used) {
        c = add_chunk(a, rounded);
        if (c == NULL)
            return NULL;
    }
    void *block = (char *)c + c->used;
    c->used += rounded;
    return block;
}

char *dass_arena_text(dass_arena *a, const char *text, size_t n)
{
    char *copy = dass_arena_alloc(a, n < SIZE_MAX ? n + 1 : n);
    if (copy == NULL)
        return NULL;
    if (n > 0)
        memcpy(copy, text, n);
    return copy; /* arena memory is zeroed: the NUL is there */
}

char *dass_arena_printf(dass_arena *a, const char *fmt, ...)
{
    va_list args;
    va_list again;
    va_start(args, fmt);
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *text = NULL;
    if (n < 0) {
        (void)DASS_FAIL(DASS_INTERNAL, "text for %s could not be formatted", a->what);
    } else {
        text = dass_arena_alloc(a, (size_t)n + 1);
        if (text != NULL)
            (void)vsnprintf(text, (size_t)n + 1, fmt, again);
    }
    va_end(again);
    return text;
}

/* ---- counters and hooks ---- */

dass_mem_stats dass_mem_get_stats(void)
{
    return (dass_mem_stats){
        .n_allocs = atomic_load(&n_allocs),
        .n_live = atomic_load(&n_live),
        .live_bytes = atomic_load(&live_bytes),
        .peak_bytes = atomic_load(&peak_bytes),
    };
}

void dass_mem_seal(bool sealed)
{
    atomic_store(&is_sealed, sealed);
}

void dass_mem_fail_at(size_t k)
{
    atomic_store(&fail_in, k);
}
