/* Runs a program and does it harm at one chosen call.
 *
 *     fault_call_list calls = {0};
 *     fault_run(&job, &(fault){.kind = FAULT_NONE}, &calls, &end);        what it calls
 *     fault_run(&job, &(fault){.kind = FAULT_ERRNO, .at = 7, .error = EIO}, NULL, &end);
 *
 * System calls are watched with ptrace, not by a preloaded library: stdio, opendir and the libraries that parse files
 * reach the kernel without a symbol that could be replaced, and killing inside a write needs the half of it done. Once
 * the harm is done the process is let go, so that what follows runs at its own speed and the address sanitizer, whose
 * search for leaks needs ptrace itself, works. Allocations are no system calls: failing_alloc.c.
 */
#ifndef FAULT_TRACER_H
#define FAULT_TRACER_H

#include <stdbool.h>
#include <stddef.h>

typedef enum fault_kind {
    FAULT_NONE,
    FAULT_KILL,   /* SIGKILL before the call */
    FAULT_TORN,   /* half of a write, then SIGKILL */
    FAULT_SHORT,  /* half of a read or write */
    FAULT_ERRNO,  /* the call is not done, and fails; a close is done */
    FAULT_SIGNAL, /* SIGTERM before the call */
    FAULT_ALLOC,  /* an allocation fails */
    FAULT_BLOCK   /* the same, of the blocks that the program itself asks for: most others are of JSON */
} fault_kind;
#define FAULT_LAST FAULT_BLOCK

typedef struct fault {
    fault_kind kind;
    long at; /* 1 = the first call that counts */
    int error;
} fault;

/* A system call on files that counts: those of the loader and on the system's own folders do not. */
typedef struct fault_call {
    const char *name;
    char path[112]; /* below the job's root, or "stdout", or absolute */
    int fd;         /* -1: by path */
    bool halves;    /* it moves two bytes or more */
    bool writes;    /* bytes */
} fault_call;

typedef struct fault_call_list {
    fault_call *call;
    long n, room;
} fault_call_list;

typedef struct fault_job {
    const char *root; /* absolute; holds the folder, and gets stdout, stderr and alloc.page */
    const char *folder;
    const char *const *argv;
    const char *preload; /* libfailing_alloc.so */
    int seconds;         /* before it counts as hanging */
} fault_job;

typedef struct fault_end {
    bool hit;   /* the harm was done */
    bool hung;  /* and the process was killed for it */
    int status; /* exit status, when signal is 0 */
    int signal;
    long n; /* calls or allocations that were counted */
    char what[512];
} fault_end;

/* Errors that a call can be made to fail with; n of them. */
const int *fault_errors(const char *call, size_t *n);
/* False when the process could not be started or watched; `what` says why. Nothing is printed. */
bool fault_run(const fault_job *job, const fault *f, fault_call_list *list, fault_end *end);

#endif
