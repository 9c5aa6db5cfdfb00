/* Watches system calls with ptrace; see tracer.h. x86-64 only, as the program. */
#define _GNU_SOURCE
#include "tracer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "failing_alloc.h"

#define PATH_BYTES 4096
#define MAX_TASKS 64

/* ---- which calls ---------------------------------------------------------------------------------------------- */

typedef enum where { AT_PATH, AT_FD, AT_DIR_PATH, AT_MAP, NOWHERE } where;

typedef struct rule {
    long nr;
    const char *name;
    where where;
    bool moves; /* bytes; the third argument counts them, or the pieces of memory they are in */
    bool writes;
    int error[6]; /* it may fail with; 0 ends the list */
} rule;

static const rule rules[] = {
    {SYS_open, "open", AT_PATH, false, false, {EIO, EMFILE, EACCES, ENOSPC, ENOMEM}},
    {SYS_openat, "open", AT_DIR_PATH, false, false, {EIO, EMFILE, EACCES, ENOSPC, ENOMEM}},
    {SYS_read, "read", AT_FD, true, false, {EIO, EINTR}},
    {SYS_pread64, "read", AT_FD, true, false, {EIO, EINTR}},
    {SYS_write, "write", AT_FD, true, true, {EIO, ENOSPC, EINTR}},
    {SYS_pwrite64, "write", AT_FD, true, true, {EIO, ENOSPC, EINTR}},
    {SYS_readv, "read", AT_FD, true, false, {EIO, EINTR}},
    {SYS_writev, "write", AT_FD, true, true, {EIO, ENOSPC, EINTR}},
    {SYS_close, "close", AT_FD, false, false, {EIO}},
    {SYS_stat, "stat", AT_PATH, false, false, {EIO, EACCES, ENOMEM}},
    {SYS_lstat, "stat", AT_PATH, false, false, {EIO, EACCES, ENOMEM}},
    {SYS_fstat, "stat", AT_FD, false, false, {EIO}},
    {SYS_newfstatat, "stat", AT_DIR_PATH, false, false, {EIO, EACCES, ENOMEM}},
    {SYS_statx, "stat", AT_DIR_PATH, false, false, {EIO, EACCES, ENOMEM}},
    {SYS_access, "access", AT_PATH, false, false, {EIO, EACCES}},
    {SYS_faccessat, "access", AT_DIR_PATH, false, false, {EIO, EACCES}},
    {SYS_rename, "rename", AT_PATH, false, false, {EIO, ENOSPC, EACCES}},
    {SYS_renameat, "rename", AT_DIR_PATH, false, false, {EIO, ENOSPC, EACCES}},
    {SYS_renameat2, "rename", AT_DIR_PATH, false, false, {EIO, ENOSPC, EACCES}},
    {SYS_unlink, "unlink", AT_PATH, false, false, {EIO, EACCES}},
    {SYS_unlinkat, "unlink", AT_DIR_PATH, false, false, {EIO, EACCES}},
    {SYS_rmdir, "rmdir", AT_PATH, false, false, {EIO, EACCES}},
    {SYS_mkdir, "mkdir", AT_PATH, false, false, {EIO, ENOSPC, EACCES}},
    {SYS_mkdirat, "mkdir", AT_DIR_PATH, false, false, {EIO, ENOSPC, EACCES}},
    {SYS_fsync, "fsync", AT_FD, false, false, {EIO, ENOSPC}},
    {SYS_fdatasync, "fdatasync", AT_FD, false, false, {EIO, ENOSPC}},
    {SYS_ftruncate, "ftruncate", AT_FD, false, false, {EIO, EINTR}},
    {SYS_truncate, "truncate", AT_PATH, false, false, {EIO, EINTR}},
    {SYS_getdents64, "getdents", AT_FD, false, false, {EIO}},
    {SYS_flock, "flock", AT_FD, false, false, {EINTR, ENOLCK}},
    {SYS_fcntl, "fcntl", AT_FD, false, false, {EIO}},
    {SYS_lseek, "lseek", AT_FD, false, false, {EIO}},
    {SYS_readlink, "readlink", AT_PATH, false, false, {EIO, EACCES}},
    {SYS_readlinkat, "readlink", AT_DIR_PATH, false, false, {EIO, EACCES}},
    {SYS_mmap, "mmap", AT_MAP, false, false, {ENOMEM, EACCES}},
    {SYS_clone, "clone", NOWHERE, false, false, {EAGAIN}},
    {SYS_clone3, "clone", NOWHERE, false, false, {EAGAIN}},
};
#define N_RULES (sizeof rules / sizeof *rules)

static const rule *rule_of(uint64_t nr)
{
    for (size_t i = 0; i < N_RULES; ++i)
        if ((uint64_t)rules[i].nr == nr)
            return &rules[i];
    return NULL;
}

const int *fault_errors(const char *call, size_t *n)
{
    for (size_t i = 0; i < N_RULES; ++i) {
        if (strcmp(rules[i].name, call) != 0)
            continue;
        *n = 0;
        while (rules[i].error[*n] != 0)
            ++*n;
        return rules[i].error;
    }
    *n = 0;
    return NULL;
}

/* Below the root, whose name is cut away, or one of the few files of the system that the program itself reads. The
 * libraries that are opened late, and what they look for, do not count. */
static bool counts(const fault_job *job, char *path)
{
    static const char *const also[] = {"/proc/meminfo", "/proc/self/statm", "/proc/self/exe", "/dev/null",
                                       "/dev/urandom"};
    const size_t n = strlen(job->root);
    if (path[0] != '/')
        return true;
    if (strncmp(path, job->root, n) == 0 && (path[n] == '/' || path[n] == '\0')) {
        const size_t m = strlen(job->folder);
        const char *rest = path + n + (path[n] == '/');
        if (strncmp(rest, job->folder, m) == 0 && rest[m] == '/')
            rest += m + 1;
        memmove(path, rest, strlen(rest) + 1);
        return true;
    }
    for (size_t i = 0; i < sizeof also / sizeof *also; ++i)
        if (strcmp(path, also[i]) == 0)
            return true;
    return false;
}

static bool read_text(pid_t pid, uint64_t address, char *out, size_t n)
{
    struct iovec to = {out, n - 1};
    struct iovec from = {(void *)(uintptr_t)address, n - 1};
    ssize_t got = process_vm_readv(pid, &to, 1, &from, 1, 0);
    if (got <= 0) { /* the text ends near the end of a mapping */
        from.iov_len = to.iov_len = 4096 - (size_t)(address % 4096) < n - 1 ? 4096 - (size_t)(address % 4096) : n - 1;
        got = process_vm_readv(pid, &to, 1, &from, 1, 0);
    }
    if (got <= 0)
        return false;
    out[got] = '\0';
    return true;
}

static bool fd_path(pid_t pid, int fd, char *out, size_t n)
{
    char link[64];
    (void)snprintf(link, sizeof link, "/proc/%d/fd/%d", (int)pid, fd);
    const ssize_t got = readlink(link, out, n - 1);
    out[got > 0 ? got : 0] = '\0';
    return got > 0;
}

#define MAX_PIECES 1024 /* the kernel's own limit */

static bool is_in_pieces(const rule *r)
{
    return r->nr == SYS_readv || r->nr == SYS_writev;
}

/* The pieces of memory of a call; 0 when they cannot be read. */
static size_t read_pieces(pid_t pid, const uint64_t *arg, struct iovec *out)
{
    const size_t n = arg[2] < MAX_PIECES ? (size_t)arg[2] : MAX_PIECES;
    const struct iovec to = {out, n * sizeof *out};
    const struct iovec from = {(void *)(uintptr_t)arg[1], n * sizeof *out};
    return process_vm_readv(pid, &to, 1, &from, 1, 0) == (ssize_t)(n * sizeof *out) ? n : 0;
}

static size_t bytes_of(pid_t pid, const rule *r, const uint64_t *arg)
{
    struct iovec piece[MAX_PIECES];
    size_t sum = 0;
    if (!r->moves || !is_in_pieces(r))
        return r->moves ? (size_t)arg[2] : 0;
    for (size_t n = read_pieces(pid, arg, piece), i = 0; i < n; ++i)
        sum += piece[i].iov_len;
    return sum;
}

/* Whether the call that is about to be made counts, and what it is. */
static bool describe(const fault_job *job, pid_t pid, const rule *r, const uint64_t *arg, fault_call *out)
{
    char path[PATH_BYTES] = "";
    *out = (fault_call){.name = r->name, .fd = -1, .writes = r->writes};
    switch (r->where) {
    case AT_PATH:
        if (!read_text(pid, arg[0], path, sizeof path))
            return false;
        break;
    case AT_FD:
        out->fd = (int)arg[0];
        if (!fd_path(pid, out->fd, path, sizeof path))
            return false;
        break;
    case AT_DIR_PATH:
        if (!read_text(pid, arg[1], path, sizeof path))
            return false;
        if (path[0] == '\0') {
            out->fd = (int)arg[0];
            if (!fd_path(pid, out->fd, path, sizeof path))
                return false;
        }
        break;
    case AT_MAP: /* of a file; oneDNN maps memory too, and dies where it gets none */
        out->fd = (int)arg[4];
        if (out->fd < 0 || !fd_path(pid, out->fd, path, sizeof path))
            return false;
        break;
    case NOWHERE:
        (void)snprintf(path, sizeof path, "a thread");
        break;
    }
    if (!counts(job, path))
        return false;
    out->halves = bytes_of(pid, r, arg) >= 2;
    (void)snprintf(out->path, sizeof out->path, "%.*s", (int)sizeof out->path - 1, path);
    return true;
}

/* ---- the process ---------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t is_late;

static void ring(int number)
{
    (void)number;
    is_late = 1;
}

static void open_as(const char *root, const char *name, int flags, int fd)
{
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof path, "%s/%s", root, name);
    const int opened = open(path, flags, 0666);
    if (opened < 0 || dup2(opened, fd) < 0)
        _exit(98);
    if (opened != fd)
        (void)close(opened);
}

/* In the child: waits for the word, then becomes the program. */
static void become(const fault_job *job, const fault *f, const int *word)
{
    char c = 0;
    char text[PATH_BYTES];
    (void)close(word[1]);
    while (read(word[0], &c, 1) < 0 && errno == EINTR) {
    }
    (void)close(word[0]);
    const int null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, 0) < 0)
        _exit(98);
    if (null != 0)
        (void)close(null);
    open_as(job->root, "stdout", O_WRONLY | O_CREAT | O_TRUNC, 1);
    open_as(job->root, "stderr", O_WRONLY | O_CREAT | O_TRUNC, 2);
    if (f->kind == FAULT_NONE) { /* it stays watched to its end, where looking for leaks would need ptrace too */
        const char *given = getenv("ASAN_OPTIONS");
        (void)snprintf(text, sizeof text, "%.2000s:detect_leaks=0", given != NULL ? given : "");
        (void)setenv("ASAN_OPTIONS", text, 1);
    }
    if (f->kind == FAULT_ALLOC || f->kind == FAULT_BLOCK) {
        (void)snprintf(text, sizeof text, "%s/alloc.page", job->root);
        (void)setenv("FAULT_ALLOC_FILE", text, 1);
        (void)setenv("LD_PRELOAD", job->preload, 1);
    }
    (void)snprintf(text, sizeof text, "%s/%s", job->root, job->folder);
    if (chdir(text) != 0)
        _exit(98);
    (void)execv(job->argv[0], (char *const *)(uintptr_t)job->argv);
    _exit(97);
}

static pid_t start(const fault_job *job, const fault *f, int *word)
{
    if (pipe(word) != 0)
        return -1;
    (void)fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0)
        become(job, f, word);
    (void)close(word[0]);
    return pid;
}

static void ended(int status, fault_end *end)
{
    end->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    end->status = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    end->hung = is_late != 0;
}

static void watch_clock(const fault_job *job)
{
    const struct sigaction rings = {.sa_handler = ring}; /* no SA_RESTART: waiting ends */
    is_late = 0;
    (void)sigaction(SIGALRM, &rings, NULL);
    (void)alarm((unsigned)job->seconds);
}

/* ---- one failing allocation ----------------------------------------------------------------------------------- */

static bool run_alloc(const fault_job *job, const fault *f, fault_end *end)
{
    char path[PATH_BYTES];
    int word[2];
    int status = 0;
    (void)snprintf(path, sizeof path, "%s/alloc.page", job->root);
    const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    fault_alloc_page *page = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, (off_t)sizeof *page) == 0)
        page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        (void)close(fd);
    if (page == MAP_FAILED) {
        (void)snprintf(end->what, sizeof end->what, "alloc.page: %s", strerror(errno));
        return false;
    }
    page->fail_at = f->at;
    page->blocks = f->kind == FAULT_BLOCK;
    const pid_t pid = start(job, f, word);
    (void)close(word[1]);
    watch_clock(job);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        (void)kill(pid, SIGKILL);
    (void)alarm(0);
    ended(status, end);
    end->n = page->n;
    end->hit = page->what[0] != '\0';
    (void)snprintf(end->what, sizeof end->what, "%s", page->what);
    (void)munmap(page, sizeof *page);
    return pid > 0;
}

/* ---- one system call ------------------------------------------------------------------------------------------ */

typedef struct task {
    pid_t tid;
    bool harmed;  /* in the call that was chosen */
    bool restore; /* its third argument, and the length of the piece that was cut */
    unsigned long long third;
    uint64_t cut_at; /* where that length is; 0 = nowhere */
    size_t cut_length;
} task;

typedef struct trace {
    const fault_job *job;
    const fault *f;
    fault_call_list *list;
    fault_end *end;
    pid_t pid;
    task tasks[MAX_TASKS];
    int n_tasks;
    bool let_go;
} trace;

static task *task_of(trace *t, pid_t tid)
{
    for (int i = 0; i < t->n_tasks; ++i)
        if (t->tasks[i].tid == tid)
            return &t->tasks[i];
    if (t->n_tasks == MAX_TASKS)
        return &t->tasks[MAX_TASKS - 1];
    t->tasks[t->n_tasks] = (task){.tid = tid};
    return &t->tasks[t->n_tasks++];
}

static void forget_task(trace *t, pid_t tid)
{
    for (int i = 0; i < t->n_tasks; ++i)
        if (t->tasks[i].tid == tid)
            t->tasks[i] = t->tasks[--t->n_tasks];
}

/* The other threads stop at once, and are let go one by one as they do. */
static void let_go(trace *t, pid_t here)
{
    t->let_go = true;
    for (int i = 0; i < t->n_tasks; ++i)
        if (t->tasks[i].tid != here)
            (void)ptrace(PTRACE_INTERRUPT, t->tasks[i].tid, NULL, NULL);
}

static void keep(fault_call_list *list, const fault_call *call)
{
    if (list == NULL)
        return;
    if (list->n == list->room) {
        list->room = list->room > 0 ? 2 * list->room : 256;
        list->call = realloc(list->call, (size_t)list->room * sizeof *call);
        if (list->call == NULL)
            abort();
    }
    list->call[list->n++] = *call;
}

static void poke_length(pid_t pid, uint64_t at, size_t length)
{
    const struct iovec from = {&length, sizeof length};
    const struct iovec to = {(void *)(uintptr_t)at, sizeof length};
    (void)process_vm_writev(pid, &from, 1, &to, 1, 0);
}

/* Half of the bytes: fewer of them, or fewer pieces with the last one cut. */
static void halve(trace *t, task *k, const rule *r, const uint64_t *arg)
{
    struct user_regs_struct regs;
    struct iovec piece[MAX_PIECES];
    size_t left = bytes_of(t->pid, r, arg) / 2;
    (void)ptrace(PTRACE_GETREGS, k->tid, NULL, &regs);
    k->restore = true;
    k->third = regs.rdx;
    k->cut_at = 0;
    regs.rdx = left;
    if (is_in_pieces(r)) {
        const size_t n = read_pieces(t->pid, arg, piece);
        size_t i = 0;
        while (i < n && piece[i].iov_len < left)
            left -= piece[i++].iov_len;
        k->cut_at = arg[1] + i * sizeof *piece + offsetof(struct iovec, iov_len);
        k->cut_length = piece[i].iov_len;
        poke_length(t->pid, k->cut_at, left);
        regs.rdx = i + 1;
    }
    (void)ptrace(PTRACE_SETREGS, k->tid, NULL, &regs);
}

/* What the harm does on the way in. True when the process is to be let go already. */
static bool harm(trace *t, task *k, const rule *r, const uint64_t *arg)
{
    struct user_regs_struct regs;
    switch (t->f->kind) {
    case FAULT_KILL:
        (void)kill(t->pid, SIGKILL);
        return false;
    case FAULT_SIGNAL:
        (void)kill(t->pid, SIGTERM);
        return true;
    case FAULT_ERRNO:
        k->harmed = true;
        if (r->nr == SYS_close) /* the kernel always frees the descriptor */
            return false;
        (void)ptrace(PTRACE_GETREGS, k->tid, NULL, &regs);
        regs.orig_rax = (unsigned long long)-1;
        (void)ptrace(PTRACE_SETREGS, k->tid, NULL, &regs);
        return false;
    case FAULT_SHORT:
    case FAULT_TORN:
        k->harmed = true;
        halve(t, k, r, arg);
        return false;
    case FAULT_NONE:
    case FAULT_ALLOC:
    case FAULT_BLOCK:
        break;
    }
    return false;
}

/* True when the process is to be let go. */
static bool on_entry(trace *t, task *k, uint64_t nr, const uint64_t *arg)
{
    fault_call call;
    const rule *r = rule_of(nr);
    if (r == NULL || t->end->hit || !describe(t->job, t->pid, r, arg, &call))
        return false;
    t->end->n++;
    keep(t->list, &call);
    if (t->f->kind == FAULT_NONE || t->end->n != t->f->at)
        return false;
    const bool halved = t->f->kind == FAULT_SHORT || t->f->kind == FAULT_TORN;
    if (halved && !call.halves)
        return true;
    t->end->hit = true;
    (void)snprintf(t->end->what, sizeof t->end->what, "%s %s", call.name, call.path);
    return harm(t, k, r, arg);
}

static bool on_exit_of(trace *t, task *k)
{
    struct user_regs_struct regs;
    if (!k->harmed)
        return false;
    k->harmed = false;
    if (t->f->kind == FAULT_TORN) {
        (void)kill(t->pid, SIGKILL);
        return false;
    }
    (void)ptrace(PTRACE_GETREGS, k->tid, NULL, &regs);
    if (k->cut_at != 0)
        poke_length(t->pid, k->cut_at, k->cut_length);
    if (k->restore)
        regs.rdx = k->third;
    else
        regs.rax = (unsigned long long)-(long long)t->f->error;
    (void)ptrace(PTRACE_SETREGS, k->tid, NULL, &regs);
    return true;
}

/* One stop of one thread; it is sent on its way before this returns. */
static void on_stop(trace *t, pid_t tid, int status)
{
    const int event = status >> 16;
    int number = WSTOPSIG(status);
    task *k = task_of(t, tid);
    bool done = false;
    if (number == (SIGTRAP | 0x80)) {
        struct __ptrace_syscall_info info;
        number = 0;
        if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) > 0) {
            if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
                done = on_entry(t, k, info.entry.nr, (const uint64_t *)(const void *)info.entry.args);
            else if (info.op == PTRACE_SYSCALL_INFO_EXIT)
                done = on_exit_of(t, k);
        }
    } else if (event != 0) {
        number = 0;
    }
    if (done && !t->let_go)
        let_go(t, tid);
    if (t->let_go)
        (void)ptrace(PTRACE_DETACH, tid, NULL, (void *)(intptr_t)number);
    else
        (void)ptrace(PTRACE_SYSCALL, tid, NULL, (void *)(intptr_t)number);
}

static bool run_traced(const fault_job *job, const fault *f, fault_call_list *list, fault_end *end)
{
    const intptr_t options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                             PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
    int word[2];
    trace t = {.job = job, .f = f, .list = list, .end = end};
    t.pid = start(job, f, word);
    if (t.pid > 0 && ptrace(PTRACE_SEIZE, t.pid, NULL, (void *)options) != 0) {
        (void)snprintf(end->what, sizeof end->what, "ptrace is not allowed here: %s", strerror(errno));
        (void)kill(t.pid, SIGKILL);
        (void)waitpid(t.pid, NULL, 0);
        (void)close(word[1]);
        return false;
    }
    (void)close(word[1]); /* the word */
    watch_clock(job);
    for (;;) {
        int status = 0;
        const pid_t tid = waitpid(-1, &status, __WALL);
        if (tid < 0) {
            if (errno != EINTR)
                break;
            (void)kill(t.pid, SIGKILL);
            continue;
        }
        if (WIFSTOPPED(status)) {
            on_stop(&t, tid, status);
            continue;
        }
        forget_task(&t, tid);
        if (tid == t.pid) {
            ended(status, end);
            break;
        }
    }
    (void)alarm(0);
    return t.pid > 0;
}

bool fault_run(const fault_job *job, const fault *f, fault_call_list *list, fault_end *end)
{
    *end = (fault_end){0};
    const bool memory = f->kind == FAULT_ALLOC || f->kind == FAULT_BLOCK;
    return memory ? run_alloc(job, f, end) : run_traced(job, f, list, end);
}
