/* Loads a backend that lies in a shared library, once, and remembers why when it cannot. Where it is looked for:
 * $DASS_CUDA_PLUGIN, else beside the program, else one folder up (test programs lie in a folder of the build), else in
 * ../lib of the program's folder. Never in the working folder, whose files are anybody's. Nothing is loaded before
 * somebody asks.
 */
#include "dass/plugin.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exec_private.h"

/* One plugin is known; the struct is all the state. Loading is asked from the main thread only. */
static struct {
    bool tried;
    const dass_plugin *plugin;
    char why[1024];
} cuda;

/* 0, or the errno that says why it is not known. */
static int program_folder(char *buf, size_t n)
{
    const ssize_t got = readlink("/proc/self/exe", buf, n - 1);
    if (got < 0)
        return errno;
    buf[got] = '\0';
    char *slash = strrchr(buf, '/');
    if (slash == NULL || (size_t)got == n - 1)
        return ENAMETOOLONG;
    *slash = '\0';
    return 0;
}

static void *open_at(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        (void)snprintf(cuda.why, sizeof cuda.why, "the plugin does not load: %.900s", dlerror());
    return library;
}

/* NULL: cuda.why says why. */
static void *open_library(char *path, size_t n_path)
{
    static const char *const at[] = {"/libdass_cuda.so", "/../libdass_cuda.so", "/../lib/libdass_cuda.so"};
    const char *env = getenv("DASS_CUDA_PLUGIN");
    char folder[PATH_MAX];
    if (env != NULL && env[0] != '\0') {
        (void)snprintf(path, n_path, "%s", env);
        if (access(path, F_OK) == 0)
            return open_at(path);
        (void)snprintf(cuda.why, sizeof cuda.why, "no plugin at %.400s, which DASS_CUDA_PLUGIN names", path);
        return NULL;
    }
    const int error = program_folder(folder, sizeof folder);
    if (error != 0) {
        (void)snprintf(cuda.why, sizeof cuda.why,
                       "the program's folder is not known, so the plugin is not looked for (/proc/self/exe: %s); set "
                       "DASS_CUDA_PLUGIN to the path of libdass_cuda.so",
                       strerror(error));
        return NULL;
    }
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        (void)snprintf(path, n_path, "%s%s", folder, at[i]);
        if (access(path, F_OK) == 0)
            return open_at(path);
    }
    (void)snprintf(cuda.why, sizeof cuda.why,
                   "no plugin at %.400s%s; build with `make CUDA=1` on a machine with the CUDA toolkit", folder, at[0]);
    return NULL;
}

/* Is it of this build? Each size that differs moves some field that both sides read. */
static bool matches(const dass_plugin *p)
{
    const dass_plugin want = {DASS_PLUGIN_HEAD};
    return p->size == want.size && p->abi == want.abi && p->n_ops == want.n_ops && p->ops_size == want.ops_size &&
           p->value_size == want.value_size && p->node_size == want.node_size && p->kernel_size == want.kernel_size &&
           p->step_size == want.step_size;
}

static void load(void)
{
    char path[PATH_MAX + 64];
    cuda.tried = true;
    void *library = open_library(path, sizeof path);
    if (library == NULL)
        return;
    dass_plugin_entry entry = NULL;
    *(void **)&entry = dlsym(library, DASS_PLUGIN_ENTRY);
    if (entry == NULL) {
        (void)snprintf(cuda.why, sizeof cuda.why, "%.400s exports no %s", path, DASS_PLUGIN_ENTRY);
        return;
    }
    const dass_plugin *p = entry();
    if (p == NULL || !matches(p)) {
        (void)snprintf(cuda.why, sizeof cuda.why,
                       "%.400s is of another build (abi %u, here %u; %u operations, here %u); build both together",
                       path, p ? p->abi : 0, DASS_PLUGIN_ABI, p ? p->n_ops : 0, (unsigned)DASS_N_OPS);
        return;
    }
    cuda.plugin = p;
    if (p->probe(cuda.why, sizeof cuda.why) > 0)
        cuda.why[0] = '\0';
}

const dass_plugin *dass__plugin_cuda(const char **why)
{
    if (!cuda.tried)
        load();
    *why = cuda.why[0] != '\0' ? cuda.why : NULL;
    return cuda.plugin;
}
