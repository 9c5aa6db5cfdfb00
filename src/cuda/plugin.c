/* The one exported function of libdass_cuda.so, and what `dass info` asks of it. */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

#include "cuda.h"
#include "dass/plugin.h"

static int probe(char *why, size_t n_why)
{
    int n = 0;
    int driver = 0;
    const cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaSuccess && n > 0)
        return n;
    (void)cudaGetLastError();
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
        (void)snprintf(why, n_why, "the CUDA libraries are here, but no NVIDIA driver (libcuda.so.1) answers");
    else if (e != cudaSuccess)
        (void)snprintf(why, n_why, "the driver (CUDA %d.%d) answers: %s", driver / 1000, driver % 1000 / 10,
                       cudaGetErrorString(e));
    else
        (void)snprintf(why, n_why, "the driver (CUDA %d.%d) finds no GPU", driver / 1000, driver % 1000 / 10);
    return 0;
}

static void add(char *text, size_t n_text, const char *line)
{
    const size_t at = strlen(text);
    (void)snprintf(text + at, n_text - at, "%s%s", at > 0 ? "\n" : "", line);
}

static void describe(char *text, size_t n_text)
{
    char line[256];
    int runtime = 0;
    int n = 0;
    text[0] = '\0';
    (void)cudaRuntimeGetVersion(&runtime);
    (void)snprintf(line, sizeof line, "CUDA runtime %d.%d", runtime / 1000, runtime % 1000 / 10);
    add(text, n_text, line);
    const size_t blas = cublasLtGetVersion(); /* 130100 is 13.1.0 */
    (void)snprintf(line, sizeof line, "cuBLASLt %zu.%zu.%zu", blas / 10000, blas / 100 % 100, blas % 100);
    add(text, n_text, line);
    const int sparse = dass__sparse_version();
    (void)snprintf(line, sizeof line, "cuSPARSE %d.%d.%d", sparse / 1000, sparse % 1000 / 100, sparse % 100);
    add(text, n_text, line);
    if (cudaGetDeviceCount(&n) != cudaSuccess)
        (void)cudaGetLastError();
    for (int i = 0; i < n; i++) {
        struct cudaDeviceProp p;
        if (cudaGetDeviceProperties(&p, i) != cudaSuccess)
            continue;
        (void)snprintf(line, sizeof line, "cuda:%d %.100s, sm_%d%d, %d multiprocessors, %.1f GiB", i, p.name, p.major,
                       p.minor, p.multiProcessorCount, (double)p.totalGlobalMem / (1024.0 * 1024.0 * 1024.0));
        add(text, n_text, line);
    }
}

static const char *kernel(uint32_t i, uint64_t *launches)
{
    uint64_t unused = 0;
    uint32_t n = 0;
    while (n <= i && dass_k_launcher_name(n, &unused) != NULL)
        n++;
    return i < n ? dass_k_launcher_name(i, launches) : dass__cuda_library_name(i - n, launches);
}

static const dass_plugin plugin = {
    DASS_PLUGIN_HEAD, .backend = &dass_backend_cuda, .probe = probe, .describe = describe, .kernel = kernel,
};

__attribute__((visibility("default"))) const dass_plugin *dass_plugin_v1(void);

const dass_plugin *dass_plugin_v1(void)
{
    return &plugin;
}
