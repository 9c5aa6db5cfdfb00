/* `dass info`: what this build and machine can do, and why not where they cannot. The build's choices arrive as macros
 * of this one file, so that a new commit rebuilds nothing else.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include <jansson.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "dass/exec.h"
#include "dass/mem.h"

#ifndef DASS_VERSION
#define DASS_VERSION "unknown"
#endif
#ifndef DASS_BUILD_ID
#define DASS_BUILD_ID "unknown"
#endif
#ifndef DASS_BUILD_MODE
#define DASS_BUILD_MODE "unknown"
#endif
#ifndef DASS_HAVE_ONEDNN
#define DASS_HAVE_ONEDNN 0
#endif
#ifndef DASS_HAVE_MPI
#define DASS_HAVE_MPI 0
#endif
#ifndef DASS_HAVE_CUDA_TOOLKIT
#define DASS_HAVE_CUDA_TOOLKIT 0
#endif

const char *dass__build_text(void)
{
    return "dass " DASS_VERSION " (" DASS_BUILD_ID ", " DASS_BUILD_MODE ")";
}

/* Features that kernels of ours or of oneDNN ask for. */
static void cpu_features(char *buf, size_t n)
{
    buf[0] = '\0';
#if defined(__x86_64__)
#define ADD(feature)                                                              \
    do {                                                                          \
        if (__builtin_cpu_supports(feature)) {                                    \
            const size_t at = strlen(buf);                                        \
            (void)snprintf(buf + at, n - at, "%s%s", at > 0 ? " " : "", feature); \
        }                                                                         \
    } while (0)
    __builtin_cpu_init();
    ADD("sse4.2");
    ADD("avx");
    ADD("avx2");
    ADD("fma");
    ADD("avx512f");
    ADD("avx512bw");
    ADD("avx512vl");
    ADD("avx512dq");
    ADD("avx512vnni");
#undef ADD
#else
    (void)snprintf(buf, n, "not an x86-64 machine");
#endif
}

static void cpu_name(char *buf, size_t n)
{
    (void)snprintf(buf, n, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (f == NULL)
        return;
    char line[512];
    while (fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "model name", 10) != 0)
            continue;
        const char *colon = strchr(line, ':');
        if (colon != NULL)
            (void)snprintf(buf, n, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    (void)fclose(f);
}

static int cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* The vector code that the host backend runs, asked by preparing one node: the kernel's name ends with the set. */
static dass_status vector_set(char *buf, size_t n)
{
    dass_backend *be = NULL;
    dass_graph *g = NULL;
    dass_exec *e = NULL;
    const int32_t dim[4] = {1024, 1, 1, 1};
    dass_status st = dass_backend_open("host", NULL, &be);
    if (st != DASS_OK)
        return st;
    DASS_TRY_TO(dass_graph_make(DASS_F32, &g), st, out);
    const dass_val x = dass_ref(g, "x", 1, 0, DASS_LAYOUT_FLAT, 1, dim);
    dass_place(g, dass_norm2(g, &x, 1), 2, 0);
    DASS_TRY_TO(dass_graph_finish(g), st, out);
    DASS_TRY_TO(dass_exec_make(be, g, NULL, &e), st, out);
    const char *name = dass_exec_kernel_name(e, 1);
    const char *colon = strrchr(name, ':');
    (void)snprintf(buf, n, "%s", colon != NULL && strchr(name, ':') != colon ? colon + 1 : name);
out:
    dass_exec_free(e);
    dass_graph_free(g);
    dass_backend_close(be);
    return st;
}

/* One library: whether it is in this build, and if not, why. */
typedef struct library {
    const char *name;
    bool present;
    const char *text;
} library;

static const library libraries[] = {
    {"onednn", DASS_HAVE_ONEDNN,
     DASS_HAVE_ONEDNN ? "dense convolutions of the host backend"
                      : "not in this build (not found, or ONEDNN=0): convolutions use our "
                        "own code; `make setup` installs libdnnl-dev"},
    {"mpi", false,
     DASS_HAVE_MPI ? "found when building, but this version does not use it: one process only"
                   : "not found when building; this version does not use it: one process only"},
};

static json_t *to_json(const char *cpu, const char *features, const char *vec)
{
    json_t *root = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I}", "version", DASS_VERSION, "build",
                             DASS_BUILD_ID, "mode", DASS_BUILD_MODE, "compiler", __VERSION__, "cpu", cpu, "features",
                             features, "vector_set", vec, "threads", cores(), "memory_available_bytes",
                             (json_int_t)dass_mem_available(), "page_bytes", (json_int_t)sysconf(_SC_PAGESIZE));
    json_t *backends = json_object();
    for (size_t i = 0; dass_backend_name(i) != NULL; ++i) {
        const char *why = dass_backend_why_not(i);
        (void)json_object_set_new(backends, dass_backend_name(i),
                                  why == NULL ? json_pack("{s:b}", "available", 1)
                                              : json_pack("{s:b, s:s}", "available", 0, "why", why));
    }
    json_t *libs = json_object();
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; ++i)
        (void)json_object_set_new(libs, libraries[i].name,
                                  json_pack("{s:b, s:s}", "available", libraries[i].present, "why", libraries[i].text));
    (void)json_object_set_new(root, "backends", backends);
    (void)json_object_set_new(root, "libraries", libs);
    return root;
}

dass_status dass__cmd_info(dass__opts *o)
{
    char cpu[256];
    char features[256];
    char vec[128];
    if (o->coverage)
        return dass__print_coverage(o);
    cpu_name(cpu, sizeof cpu);
    cpu_features(features, sizeof features);
    if (vector_set(vec, sizeof vec) != DASS_OK)
        (void)snprintf(vec, sizeof vec, "none: %.100s", dass_error_text());
    if (o->json) {
        json_t *root = to_json(cpu, features, vec);
        const int bad = root == NULL || json_dumpf(root, stdout, JSON_COMPACT) != 0;
        json_decref(root);
        (void)printf("\n");
        return bad ? DASS_FAIL(DASS_IO, "info: cannot write the JSON object to stdout") : DASS_OK;
    }
    (void)printf("%s\n", dass__build_text());
    (void)printf("  %-10s gcc-compatible %s\n", "compiler", __VERSION__);
    (void)printf("  %-10s %s\n", "cpu", cpu);
    (void)printf("  %-10s %s\n", "features", features);
    (void)printf("  %-10s %s (DASS_CPU=avx512|avx2|portable forces one)\n", "vectors", vec);
    (void)printf("  %-10s %d\n", "threads", cores());
    (void)printf("  %-10s %.1f GiB available\n", "memory", (double)dass_mem_available() / (1024.0 * 1024.0 * 1024.0));
    for (size_t i = 0; dass_backend_name(i) != NULL; ++i) {
        const char *why = dass_backend_why_not(i);
        (void)printf("  %-10s %s%s%s\n", i == 0 ? "backends" : "", dass_backend_name(i),
                     why == NULL ? "" : ": not available: ", why == NULL ? "" : why);
    }
    char text[2048];
    dass_backend_describe("cuda", text, sizeof text);
    for (char *line = text, *end = NULL; line[0] != '\0'; line = end) {
        end = line + strcspn(line, "\n");
        const int n = (int)(end - line);
        end += *end == '\n';
        (void)printf("  %-10s %.*s\n", line == text ? "cuda" : "", n, line);
    }
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; ++i)
        (void)printf("  %-10s %s%s: %s\n", i == 0 ? "libraries" : "", libraries[i].name,
                     libraries[i].present ? "" : ": not used", libraries[i].text);
    return DASS_OK;
}
