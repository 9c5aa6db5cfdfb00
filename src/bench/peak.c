/* The machine's ceilings: multiply-adds from registers, and memory read and copied. Compiled for the plain machine; the
 * vector loops carry their instruction set as a function attribute and are chosen at run time. Invariant: the numbers
 * are the best of several short runs, so that what shares the machine disturbs them least.
 */
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "dass/bench.h"
#include "dass/clock.h"
#include "dass/mem.h"

#define N_RUNS 16
#define N_CHAINS 12                      /* independent sums: latency 4 x 2 units, and some */
#define FMA_STEPS 3000000                /* about ten milliseconds */
#define MEMORY_BYTES ((size_t)192 << 20) /* larger than any cache of one socket */

/* One loop per vector type: N_CHAINS sums of x * a + b that stay near 1. Returns a value that depends on all of them.
 */
#define FMA_LOOP(NAME, LANES, TARGET)                                                            \
    TARGET static double NAME(int64_t steps)                                                     \
    {                                                                                            \
        typedef float vector __attribute__((vector_size((LANES)*4)));                            \
        vector sum[N_CHAINS];                                                                    \
        const vector a = (vector){0} + 0.999999f;                                                \
        const vector b = (vector){0} + 0.000001f;                                                \
        for (int i = 0; i < N_CHAINS; ++i)                                                       \
            sum[i] = (vector){0} + (float)(i + 1);                                               \
        for (int64_t s = 0; s < steps; ++s)                                                      \
            _Pragma("GCC unroll 12") for (int i = 0; i < N_CHAINS; ++i) sum[i] = sum[i] * a + b; \
        double total = 0.0;                                                                      \
        for (int i = 0; i < N_CHAINS; ++i)                                                       \
            for (int l = 0; l < (LANES); ++l)                                                    \
                total += (double)sum[i][l];                                                      \
        return total;                                                                            \
    }

FMA_LOOP(fma_baseline, 4, )
#if defined(__x86_64__)
FMA_LOOP(fma_avx2, 8, __attribute__((target("avx2,fma"))))
FMA_LOOP(fma_avx512, 16, __attribute__((target("avx512f,prefer-vector-width=512"))))
#endif

typedef struct fma_choice {
    const char *isa;
    int lanes;
    double (*run)(int64_t steps);
} fma_choice;

static fma_choice choose_fma(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        return (fma_choice){"avx512", 16, fma_avx512};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (fma_choice){"avx2", 8, fma_avx2};
    return (fma_choice){"sse2", 4, fma_baseline};
#else
    return (fma_choice){"baseline", 4, fma_baseline};
#endif
}

static int count_threads(int wanted)
{
#ifdef _OPENMP
    return wanted > 0 ? wanted : omp_get_num_procs();
#else
    (void)wanted;
    return 1;
#endif
}

/* Results that nobody reads would let the compiler drop the loops. */
static volatile double sink;

static double run_fma(const fma_choice *f, int threads)
{
    double total = 0.0;
    const double began = dass_now_sec();
#pragma omp parallel for num_threads(threads) reduction(+ : total)
    for (int t = 0; t < threads; ++t)
        total += f->run(FMA_STEPS);
    const double sec = dass_now_sec() - began;
    sink = total;
    return 2.0 * f->lanes * N_CHAINS * (double)FMA_STEPS * threads / sec / 1e9;
}

/* Sum of whole words, in eight chains. */
static uint64_t sum_words(const uint64_t *p, size_t n)
{
    uint64_t sum[8] = {0};
    for (size_t i = 0; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; ++k)
            sum[k] += p[i + (size_t)k];
    uint64_t total = 0;
    for (int k = 0; k < 8; ++k)
        total += sum[k];
    return total;
}

static double run_read(const uint8_t *p, int threads)
{
    const size_t part = MEMORY_BYTES / (size_t)threads & ~(size_t)4095;
    uint64_t total = 0;
    const double began = dass_now_sec();
#pragma omp parallel for num_threads(threads) reduction(+ : total)
    for (int t = 0; t < threads; ++t)
        total += sum_words((const uint64_t *)(const void *)(p + (size_t)t * part), part / 8);
    const double sec = dass_now_sec() - began;
    sink = (double)total;
    return (double)part * threads / sec / 1e9;
}

static double run_copy(uint8_t *dst, const uint8_t *src, int threads)
{
    const size_t part = MEMORY_BYTES / (size_t)threads & ~(size_t)4095;
    const double began = dass_now_sec();
#pragma omp parallel for num_threads(threads)
    for (int t = 0; t < threads; ++t)
        memcpy(dst + (size_t)t * part, src + (size_t)t * part, part);
    const double sec = dass_now_sec() - began;
    sink = (double)dst[part / 2];
    return 2.0 * (double)part * threads / sec / 1e9;
}

dass_status dass_peak_measure(int threads, dass_peak *out)
{
    const fma_choice f = choose_fma();
    const int n = count_threads(threads);
    *out = (dass_peak){.threads = n, .isa = f.isa};
    void *src = NULL;
    void *dst = NULL;
    DASS_TRY(dass_mem_alloc(MEMORY_BYTES, "bandwidth source", &src));
    dass_status st = dass_mem_alloc(MEMORY_BYTES, "bandwidth destination", &dst);
    if (st == DASS_OK) {
        memset(src, 1, MEMORY_BYTES); /* pages of one's own, not the shared page of zeros */
        memset(dst, 2, MEMORY_BYTES);
        for (int i = 0; i < N_RUNS; ++i) {
            const double flops = run_fma(&f, n);
            const double read = i < N_RUNS / 2 ? run_read(src, n) : 0.0;
            const double copy = i < N_RUNS / 2 ? run_copy(dst, src, n) : 0.0;
            if (flops > out->gflops)
                out->gflops = flops;
            if (read > out->read_gbs)
                out->read_gbs = read;
            if (copy > out->copy_gbs)
                out->copy_gbs = copy;
        }
    }
    dass_mem_free(dst);
    dass_mem_free(src);
    return st;
}
