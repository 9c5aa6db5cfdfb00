/* Harm at the Nth call of every command, and what becomes of the run.
 *
 *     fault                                   a sample of N's, the same every time; prints TAP
 *     DASS_TEST_LONG=1 fault [CASE...]        every N; hours for all of them. FAULT_KINDS="kill error" takes these
 *                                             kinds alone, FAULT_EVERY=10 each tenth allocation
 *     DASS_TEST_SHORT=1 fault                 a smaller sample, for sanitizers
 *     fault CASE                              a list of its calls
 *     fault CASE KIND N [ERRNO]               one trial, shown, its folder kept: what a failure's last words say
 *
 * Kinds: kill, torn (a write half done, then killed), short (half a read or write), error (the call fails with one of
 * the errors it may have), signal (SIGTERM), memory (an allocation fails), block (one of
 * the program's own does, without those of libraries and of JSON). After each,
 *  - the exit status is one the program documents, never 1, and a message says why; no sanitizer says anything;
 *  - status 0 is right only with the results of a run that nothing happened to;
 *  - the same command again ends in status 0 and in those results: same files, same bytes (times.jsonl holds times),
 *    same stdout, and nothing half-written is left;
 *  - a short read or write is no error at all, and an error of the disk or of memory is called one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tracer.h"
#include "tree.h"

#define PATH_BYTES 2048
#define MAX_WORDS 16
#define MAX_SHOWN 40 /* failures of one kind of one case that are shown */

/* ---- cases ---------------------------------------------------------------------------------------------------- */

/* What interrupts a run to make the folder that a case begins from: harm at the nth call of this name on a path that
 * contains this text. */
typedef struct interruption {
    fault_kind kind;
    const char *call, *path;
    int nth;
} interruption;

typedef struct fault_case {
    const char *name;
    const char *needs[4];       /* of what `prepare` made */
    const interruption *before; /* by which the same command was stopped before */
    const char *words[MAX_WORDS];
    const char *before_words[MAX_WORDS]; /* the interrupted command, where it is another */
    bool goes_on;                        /* it must say that it takes up the run */
    bool prints_ms;                      /* stdout holds times */
    bool keeps;                          /* it leaves files behind */
    bool trains;                         /* and checkpoints, and stops by itself when it gets a signal */
} fault_case;

#define RUN_SEARCH "search", "-c", "tiny.yaml", "-o", "out"
#define RUN_TRAIN "train", "-c", "tiny.yaml", "--genotype", "cell/genotype.json", "-o", "out"
#define RUN_PRUNE "prune", "dense", "-o", "out"
/* Stopped inside an epoch, then killed where the next checkpoint is written but not yet in its place; or only that. */
static const interruption twice[] = {{FAULT_SIGNAL, "rename", "checkpoint/epoch-", 1},
                                     {FAULT_KILL, "fsync", "checkpoint/epoch-", 1},
                                     {0}};
static const interruption once[] = {{FAULT_KILL, "fsync", "checkpoint/epoch-", 2}, {0}};

static const fault_case cases[] = {
    {.name = "search", .needs = {"tiny.yaml"}, .words = {RUN_SEARCH, "-q"}, .keeps = true, .trains = true},
    {.name = "search goes on",
     .needs = {"tiny.yaml"},
     .before = twice,
     .words = {RUN_SEARCH},
     .goes_on = true,
     .keeps = true,
     .trains = true},
    {.name = "search --restart",
     .needs = {"tiny.yaml"},
     .before = twice,
     .before_words = {RUN_SEARCH, "-q"},
     .words = {RUN_SEARCH, "-q", "--restart"},
     .keeps = true,
     .trains = true},
    {.name = "train", .needs = {"tiny.yaml", "cell"}, .words = {RUN_TRAIN, "-q"}, .keeps = true, .trains = true},
    {.name = "train goes on",
     .needs = {"tiny.yaml", "cell"},
     .before = twice,
     .words = {RUN_TRAIN},
     .goes_on = true,
     .keeps = true,
     .trains = true},
    {.name = "train on files",
     .needs = {"files.yaml", "images", "cell"},
     .words = {"train", "-c", "files.yaml", "--genotype", "cell/genotype.json", "-o", "out", "-q"},
     .keeps = true,
     .trains = true},
    {.name = "prune", .needs = {"dense"}, .words = {RUN_PRUNE, "-q"}, .keeps = true, .trains = true},
    {.name = "prune goes on",
     .needs = {"dense"},
     .before = once,
     .words = {RUN_PRUNE},
     .goes_on = true,
     .keeps = true,
     .trains = true},
    {.name = "a complete run again",
     .needs = {"pruned", "dense"},
     .words = {"prune", "dense", "-o", "pruned", "-q"},
     .keeps = true,
     .trains = true},
    {.name = "derive", .needs = {"cell"}, .words = {"derive", "cell"}},
    {.name = "eval", .needs = {"dense", "pruned"}, .words = {"eval", "dense", "pruned", "--json", "-q"}},
    {.name = "plot", .needs = {"cell"}, .words = {"plot", "cell"}, .keeps = true},
    {.name = "plan", .needs = {"tiny.yaml"}, .words = {"plan", "-c", "tiny.yaml", "--json"}},
    {.name = "bench latency",
     .needs = {"dense"},
     .words = {"bench", "latency", "dense", "--json", "-q"},
     .prints_ms = true},
};
#define N_CASES (sizeof cases / sizeof *cases)

static const char *const kind_names[] = {
    [FAULT_KILL] = "kill",     [FAULT_TORN] = "torn",    [FAULT_SHORT] = "short", [FAULT_ERRNO] = "error",
    [FAULT_SIGNAL] = "signal", [FAULT_ALLOC] = "memory", [FAULT_BLOCK] = "block",
};
static const char *const kind_sentences[] = {
    [FAULT_KILL] = "killed before a call",      [FAULT_TORN] = "killed inside a write",
    [FAULT_SHORT] = "half a read or write",     [FAULT_ERRNO] = "a call fails",
    [FAULT_SIGNAL] = "SIGTERM before a call",   [FAULT_ALLOC] = "an allocation fails",
    [FAULT_BLOCK] = "a block of its own fails",
};
/* Trials of the sample: of a command that keeps files, of one that only reads; in the short tier. */
static const int sample[][4] = {
    [FAULT_KILL] = {4, 1, 1, 0},  [FAULT_TORN] = {2, 0, 1, 0},   [FAULT_SHORT] = {2, 1, 1, 1},
    [FAULT_ERRNO] = {6, 3, 2, 1}, [FAULT_SIGNAL] = {1, 0, 1, 0}, [FAULT_ALLOC] = {3, 2, 1, 1},
    [FAULT_BLOCK] = {4, 3, 3, 2},
};

static const char tiny_yaml[] = "net: {channels: 2, layers: 3, nodes: 1, classes: 3, in_channels: 1, image: 8}\n"
                                "data: {name: random, limit: 16, test_limit: 4, pad: 1}\n"
                                "search: {density: 0.3, epochs: {pretrain: 1, score: 1, finetune: 1}}\n"
                                "train: {batch: 4, epochs: 2}\n"
                                "prune: {density: 0.25, epochs: {score: 1, finetune: 1}}\n"
                                "run: {threads: 1, eval_batch: 4}\n";
static const char files_yaml[] = "net: {channels: 2, layers: 3, nodes: 1, in_channels: 1, image: 28}\n"
                                 "data: {name: fashion_mnist, path: images, pad: 1}\n"
                                 "train: {batch: 4, epochs: 1}\n"
                                 "run: {threads: 1, eval_batch: 4}\n";

/* ---- one trial ------------------------------------------------------------------------------------------------ */

typedef struct setting {
    const char *dass, *preload;
    char work[PATH_BYTES];
    bool shown;
    int jobs;
} setting;

/* Of a case: where it begins, where it ends undisturbed, and the calls on the way. */
typedef struct plan {
    const fault_case *c;
    char start[PATH_BYTES], name[64];
    tree begins, ends;
    char *printed;
    fault_call_list calls;
    long allocations[2]; /* all; its own blocks */
} plan;

static const char *join(char *buf, size_t n, const char *folder, const char *name)
{
    (void)snprintf(buf, n, "%.1900s/%.120s", folder, name);
    return buf;
}

static void run(const setting *s, const char *root, const char *const *words, const fault *f, fault_call_list *list,
                fault_end *end)
{
    const char *argv[MAX_WORDS + 2] = {s->dass};
    for (int i = 0; i < MAX_WORDS && words[i] != NULL; ++i)
        argv[i + 1] = words[i];
    const fault_job job = {.root = root, .folder = "t", .argv = argv, .preload = s->preload, .seconds = 60};
    if (!fault_run(&job, f, list, end)) {
        (void)printf("1..1\nok 1 # SKIP %s\n", end->what);
        (void)fflush(stdout);
        tree_remove(s->work);
        _exit(0);
    }
}

static void fresh(const char *root, const char *start)
{
    char path[PATH_BYTES];
    tree_remove(join(path, sizeof path, root, "t"));
    tree_copy(start, path);
}

/* Without the digits when it holds times, which then still has to have the same form. */
static char *printed(const fault_case *c, const char *root)
{
    char path[PATH_BYTES];
    char *text = tree_text(join(path, sizeof path, root, "stdout"));
    char *to = text;
    for (const char *from = text; c->prints_ms && *from != '\0'; ++from)
        if (strchr("0123456789.e-+", *from) == NULL)
            *to++ = *from;
    if (c->prints_ms)
        *to = '\0';
    return text;
}

/* The run's files and stdout against those of an undisturbed run. */
static bool same_results(const plan *p, const char *root, char *why, size_t n)
{
    char path[PATH_BYTES];
    char text[300];
    tree now;
    tree_read(join(path, sizeof path, root, "t"), &now);
    char *out = printed(p->c, root);
    const char *half = tree_half_written(&now);
    const char *other = tree_differs(&p->ends, &now, text, sizeof text);
    if (half != NULL)
        (void)snprintf(why, n, "leaves %s", half);
    else if (other != NULL)
        (void)snprintf(why, n, "%s", other);
    else if (strcmp(out, p->printed) != 0)
        (void)snprintf(why, n, "prints something else");
    const bool same = half == NULL && other == NULL && strcmp(out, p->printed) == 0;
    tree_free(&now);
    free(out);
    return same;
}

/* The last line that the program said, without its newline. */
static void last_words(const char *said, char *buf, size_t n)
{
    size_t end = strlen(said);
    while (end > 0 && said[end - 1] == '\n')
        --end;
    size_t begin = end;
    while (begin > 0 && said[begin - 1] != '\n')
        --begin;
    (void)snprintf(buf, n, "%.*s", (int)(end - begin), said + begin);
}

/* Whether a disturbed run that was not killed ended as it may. What trains stops by itself when a signal comes, once
 * it has touched its folder; the other commands are ended by it. */
static bool check_end(const plan *p, const fault *f, const fault_end *end, bool untouched, const char *said, char *why,
                      size_t n)
{
    static const int documented[] = {0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 75, 130};
    char last[400];
    bool known = false;
    last_words(said, last, sizeof last);
    for (size_t i = 0; i < sizeof documented / sizeof *documented; ++i)
        known = known || end->status == documented[i];
    const int st = end->status;
    const bool ended_by_it = f->kind == FAULT_SIGNAL && end->signal == SIGTERM;
    const bool deaf = f->kind == FAULT_ERRNO && strcmp(end->what + strcspn(end->what, " "), " stderr") == 0;
    if (strstr(said, "Sanitizer") != NULL || strstr(said, "runtime error:") != NULL)
        (void)snprintf(why, n, "a sanitizer speaks");
    else if (end->hung)
        (void)snprintf(why, n, "hangs");
    else if (end->signal != 0 && !(ended_by_it && (untouched || !p->c->trains)))
        (void)snprintf(why, n, "dies of signal %d: %s", end->signal, last);
    else if (!known)
        (void)snprintf(why, n, "status %d: %s", st, last);
    else if (st != 0 && strstr(said, "dass: ") == NULL && !deaf)
        (void)snprintf(why, n, "status %d without a word", st);
    else if (f->kind == FAULT_SHORT && st != 0)
        (void)snprintf(why, n, "status %d: %s", st, last);
    else if (f->kind == FAULT_SIGNAL && st != 0 && st != 75)
        (void)snprintf(why, n, "status %d: %s", st, last);
    else if ((f->kind == FAULT_ALLOC || f->kind == FAULT_BLOCK) && st != 0 && st != 6 &&
             strstr(last, strerror(ENOMEM)) == NULL) /* a folder that cannot be opened for want of memory is status 4 */
        (void)snprintf(why, n, "status %d for want of memory: %s", st, last);
    else if (f->kind == FAULT_ERRNO && st != 0 && st != 4 && st != 6)
        (void)snprintf(why, n, "status %d for an error of the system: %s", st, last);
    else if (st == 0 && end->signal == 0 && p->c->goes_on && strstr(said, "going on in") == NULL && !deaf)
        (void)snprintf(why, n, "begins anew without a word");
    else
        return true;
    return false;
}

/* States after the harm from which the run was seen to end well: many faults leave the same folder. */
typedef struct seen {
    uint64_t hash[4096];
    size_t n;
} seen;

static bool is_seen(seen *known, uint64_t hash)
{
    for (size_t i = 0; i < known->n; ++i)
        if (known->hash[i] == hash)
            return true;
    return false;
}

/* The same command again, undisturbed. */
static bool ends_well(const setting *s, const plan *p, const char *root, uint64_t hash, seen *known, char *why,
                      size_t n)
{
    char path[PATH_BYTES];
    char text[600];
    fault_end end;
    if (is_seen(known, hash))
        return true;
    run(s, root, p->c->words, &(fault){.kind = FAULT_ALLOC, .at = 0}, NULL, &end);
    if (end.status != 0 || end.signal != 0) {
        char *said = tree_text(join(path, sizeof path, root, "stderr"));
        last_words(said, text, sizeof text);
        free(said);
        (void)snprintf(why, n, "the same command again ends in status %d: %s", end.status, text);
        return false;
    }
    if (!same_results(p, root, text, sizeof text)) {
        (void)snprintf(why, n, "the same command again ends in other results: %s", text);
        return false;
    }
    if (known->n < sizeof known->hash / sizeof *known->hash)
        known->hash[known->n++] = hash;
    return true;
}

/* An old checkpoint that could not be removed stays, which is said, and changes no result: it is removed here. */
static void remove_what_stayed(const fault_end *end, const char *root, const char *said)
{
    char path[PATH_BYTES];
    char file[PATH_BYTES + 8];
    if (strncmp(end->what, "unlink ", 7) != 0 || strstr(end->what, "checkpoint/") == NULL ||
        strstr(said, "warning: ") == NULL)
        return;
    (void)snprintf(file, sizeof file, "t/%.110s", end->what + 7);
    (void)unlink(join(path, sizeof path, root, file));
}

typedef enum verdict { GOOD, BAD, NOT_APPLICABLE } verdict;

static verdict try_fault(const setting *s, const plan *p, const char *root, const fault *f, seen *known, fault_end *end,
                         char *why, size_t n)
{
    char path[PATH_BYTES];
    fresh(root, p->start);
    run(s, root, p->c->words, f, NULL, end);
    if (!end->hit)
        return NOT_APPLICABLE;
    const bool killed = f->kind == FAULT_KILL || f->kind == FAULT_TORN;
    tree now;
    tree_read(join(path, sizeof path, root, "t"), &now);
    const uint64_t hash = tree_hash(&now);
    const bool untouched = hash == tree_hash(&p->begins);
    tree_free(&now);
    char *said = tree_text(join(path, sizeof path, root, "stderr"));
    bool good = killed ? end->signal == SIGKILL : check_end(p, f, end, untouched, said, why, n);
    if (good && f->kind == FAULT_ERRNO)
        remove_what_stayed(end, root, said);
    if (s->shown)
        (void)printf("# %s\n# status %d, signal %d\n%s", end->what, end->status, end->signal, said);
    free(said);
    if (good && !killed && end->status == 0 && end->signal == 0) {
        char text[400];
        good = same_results(p, root, text, sizeof text);
        if (!good)
            (void)snprintf(why, n, "status 0, but %s", text);
        return good ? GOOD : BAD;
    }
    return good && (untouched || ends_well(s, p, root, hash, known, why, n)) ? GOOD : BAD;
}

/* ---- many trials ---------------------------------------------------------------------------------------------- */

typedef struct trials {
    fault *fault;
    size_t n, room;
} trials;

static void add_trial(trials *t, fault f)
{
    if (t->n == t->room) {
        t->room = t->room > 0 ? 2 * t->room : 256;
        t->fault = realloc(t->fault, t->room * sizeof *t->fault);
        if (t->fault == NULL)
            tree_fail("no memory for", "trials");
    }
    t->fault[t->n++] = f;
}

static bool applies(const fault_call *c, fault_kind kind)
{
    switch (kind) {
    case FAULT_TORN:
        return c->halves && c->writes && c->fd > 2;
    case FAULT_SHORT:
        return c->halves;
    case FAULT_NONE:
    case FAULT_KILL:
    case FAULT_ERRNO:
    case FAULT_SIGNAL:
    case FAULT_ALLOC:
    case FAULT_BLOCK:
        break;
    }
    return true;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Calls of one name on one file, its number aside, are a group; *id says which. */
static void group_calls(const fault_call_list *list, long *id)
{
    for (long i = 0; i < list->n; ++i) {
        id[i] = i;
        for (long k = 0; k < i && id[i] == i; ++k) {
            const char *a = list->call[i].path;
            const char *b = list->call[k].path;
            while (*a != '\0' && (*a == *b || (*a >= '0' && *a <= '9' && *b >= '0' && *b <= '9')))
                ++a, ++b;
            if (*a == *b && strcmp(list->call[i].name, list->call[k].name) == 0)
                id[i] = id[k];
        }
    }
}

/* One call of each of n groups, chosen by chance, the same every time; again from the first when there are fewer. */
static void sample_calls(const fault_call_list *list, fault_kind kind, int n, uint64_t seed, trials *out)
{
    long *id = calloc((size_t)list->n + 1, sizeof *id);
    bool *used = calloc((size_t)list->n + 1, sizeof *used);
    if (id == NULL || used == NULL)
        tree_fail("no memory for", "a sample");
    group_calls(list, id);
    for (int taken = 0, missed = 0; taken < n && missed < 200;) {
        const long i = (long)(next_random(&seed) % (uint64_t)list->n);
        if (used[id[i]] || !applies(&list->call[i], kind)) {
            ++missed;
            continue;
        }
        used[id[i]] = true;
        size_t n_errors = 0;
        const int *error = fault_errors(list->call[i].name, &n_errors);
        add_trial(out, (fault){kind, i + 1, kind == FAULT_ERRNO ? error[next_random(&seed) % n_errors] : 0});
        ++taken;
    }
    free(id);
    free(used);
}

static void list_trials(const plan *p, fault_kind kind, bool all, bool small, trials *out)
{
    const char *every = getenv("FAULT_EVERY");
    const char *kinds = getenv("FAULT_KINDS");
    const long stride = every != NULL && atol(every) > 0 ? atol(every) : 1;
    const int n = sample[kind][2 * small + !p->c->keeps];
    uint64_t seed = (uint64_t)kind * 1000003u + (uint64_t)(p->c - cases);
    if (kinds != NULL && strstr(kinds, kind_names[kind]) == NULL)
        return;
    if (kind == FAULT_ALLOC || kind == FAULT_BLOCK) {
        const long last = p->allocations[kind == FAULT_BLOCK];
        const long step = all || n == 0 ? stride : (last + n - 1) / n;
        for (long at = 1; at <= last && (all || n > 0); at += step)
            add_trial(out, (fault){kind, all ? at : at + (long)(next_random(&seed) % (uint64_t)step), 0});
        return;
    }
    if (!all) {
        sample_calls(&p->calls, kind, n, seed, out);
        return;
    }
    for (long i = 0; i < p->calls.n; ++i) {
        size_t n_errors = 1;
        const int *error = kind == FAULT_ERRNO ? fault_errors(p->calls.call[i].name, &n_errors) : NULL;
        for (size_t k = 0; k < n_errors && applies(&p->calls.call[i], kind); ++k)
            add_trial(out, (fault){kind, i + 1, error != NULL ? error[k] : 0});
    }
}

static const char *error_name(int error)
{
    const char *name = error != 0 ? strerrorname_np(error) : NULL;
    return name != NULL ? name : "";
}

/* A worker's share; one line each to the parent: the verdict, and for a bad one what and why. */
static void work(const setting *s, const plan *p, const trials *t, int me, int fd)
{
    char root[PATH_BYTES];
    char name[64];
    static seen known;
    (void)snprintf(name, sizeof name, "%.31s.w%d", p->name, me);
    join(root, sizeof root, s->work, name);
    (void)mkdir(root, 0777);
    for (size_t i = (size_t)me; i < t->n; i += (size_t)s->jobs) {
        const fault *f = &t->fault[i];
        char why[1200] = "";
        char line[2000];
        fault_end end;
        const verdict v = try_fault(s, p, root, f, &known, &end, why, sizeof why);
        for (char *c = why; *c != '\0'; ++c)
            if (*c == '\n')
                *c = ' ';
        int n = snprintf(line, sizeof line, "%c", "PFN"[v]);
        if (v == BAD)
            n += snprintf(line + n, sizeof line - (size_t)n, "'%s' %s %ld%s%s (%.300s): %s", p->c->name,
                          kind_names[f->kind], f->at, f->error != 0 ? " " : "", error_name(f->error), end.what, why);
        line[n++] = '\n';
        if (write(fd, line, (size_t)n) != n)
            _exit(95);
    }
}

typedef struct tally {
    long n[3];
    long lost; /* workers that died */
} tally;

static tally run_trials(const setting *s, const plan *p, const trials *t, char *shown, size_t room)
{
    int pipes[2];
    tally sum = {0};
    size_t used = 0;
    if (pipe(pipes) != 0)
        tree_fail("cannot make", "a pipe");
    (void)fflush(NULL);
    for (int me = 0; me < s->jobs; ++me) {
        if (fork() != 0)
            continue;
        (void)close(pipes[0]);
        work(s, p, t, me, pipes[1]);
        _exit(0);
    }
    (void)close(pipes[1]);
    FILE *lines = fdopen(pipes[0], "r");
    char line[2100];
    shown[0] = '\0';
    while (lines != NULL && fgets(line, sizeof line, lines) != NULL) {
        const verdict v = line[0] == 'P' ? GOOD : line[0] == 'F' ? BAD : NOT_APPLICABLE;
        sum.n[v]++;
        if (v == BAD && sum.n[BAD] <= MAX_SHOWN && used + strlen(line) + 4 < room)
            used += (size_t)snprintf(shown + used, room - used, "# %s", line + 1);
    }
    if (lines != NULL)
        (void)fclose(lines);
    for (int i = 0, status = 0; i < s->jobs && wait(&status) > 0; ++i)
        sum.lost += status != 0;
    return sum;
}

/* ---- preparing ------------------------------------------------------------------------------------------------ */

static void write_in(const char *folder, const char *name, const void *data, size_t n)
{
    char path[PATH_BYTES];
    tree_write(join(path, sizeof path, folder, name), data, n);
}

/* Four images and labels in each part of a data set in MNIST's format. */
static void write_images(const char *folder)
{
    enum { N = 4, SIDE = 28 };
    static const char *const parts[] = {"train", "t10k"};
    uint64_t seed = 7;
    if (mkdir(folder, 0777) != 0)
        tree_fail("cannot make", folder);
    for (size_t i = 0; i < 2; ++i) {
        unsigned char images[16 + N * SIDE * SIDE] = {0, 0, 8, 3, 0, 0, 0, N, 0, 0, 0, SIDE, 0, 0, 0, SIDE};
        const unsigned char labels[8 + N] = {0, 0, 8, 1, 0, 0, 0, N, 3, 1, 4, 1};
        char name[64];
        for (size_t k = 16; k < sizeof images; ++k)
            images[k] = (unsigned char)next_random(&seed);
        (void)snprintf(name, sizeof name, "%s-images-idx3-ubyte", parts[i]);
        write_in(folder, name, images, sizeof images);
        (void)snprintf(name, sizeof name, "%s-labels-idx1-ubyte", parts[i]);
        write_in(folder, name, labels, sizeof labels);
    }
}

static void must_run(const setting *s, const char *root, const char *const *words)
{
    char path[PATH_BYTES];
    fault_end end;
    run(s, root, words, &(fault){.kind = FAULT_ALLOC, .at = 0}, NULL, &end);
    if (end.status == 0 && end.signal == 0)
        return;
    char *said = tree_text(join(path, sizeof path, root, "stderr"));
    (void)printf("1..1\nnot ok 1 - %s undisturbed\n# status %d, signal %d: %s\n", words[0], end.status, end.signal,
                 said);
    exit(1);
}

/* The runs that the cases begin from, in `base/t`. */
static void prepare(const setting *s)
{
    char root[PATH_BYTES];
    char folder[PATH_BYTES];
    char path[PATH_BYTES];
    join(root, sizeof root, s->work, "base");
    if (mkdir(root, 0777) != 0 || mkdir(join(folder, sizeof folder, root, "t"), 0777) != 0)
        tree_fail("cannot make", root);
    write_in(folder, "tiny.yaml", tiny_yaml, sizeof tiny_yaml - 1);
    write_in(folder, "files.yaml", files_yaml, sizeof files_yaml - 1);
    write_images(join(path, sizeof path, folder, "images"));
    must_run(s, root, (const char *[]){"search", "-c", "tiny.yaml", "-o", "cell", "-q", NULL});
    must_run(s, root,
             (const char *[]){"train", "-c", "tiny.yaml", "--genotype", "cell/genotype.json", "-o", "dense", "-q",
                              NULL});
    must_run(s, root, (const char *[]){"prune", "dense", "-o", "pruned", "-q", NULL});
    fault_end end; /* where watching is not allowed, that is found here, before anything is counted */
    run(s, root, (const char *[]){"derive", "cell", NULL}, &(fault){.kind = FAULT_NONE}, NULL, &end);
}

static void interrupt_run(const setting *s, const plan *p, const char *root, const interruption *i)
{
    char path[PATH_BYTES];
    char as_is[PATH_BYTES];
    const char *const *words = p->c->before_words[0] != NULL ? p->c->before_words : p->c->words;
    fault_call_list calls = {0};
    fault_end end;
    long at = 0;
    int left = i->nth;
    tree_remove(join(as_is, sizeof as_is, root, "as_is"));
    tree_copy(join(path, sizeof path, root, "t"), as_is);
    run(s, root, words, &(fault){.kind = FAULT_NONE}, &calls, &end);
    for (long k = 0; k < calls.n && at == 0; ++k)
        if (strcmp(calls.call[k].name, i->call) == 0 && strstr(calls.call[k].path, i->path) != NULL && --left == 0)
            at = k + 1;
    free(calls.call);
    fresh(root, as_is);
    run(s, root, words, &(fault){.kind = i->kind, .at = at}, NULL, &end);
    if (at == 0 || !end.hit) {
        (void)printf("1..1\nnot ok 1 - '%s' makes no call %s %s number %d\n", p->c->name, i->call, i->path, i->nth);
        exit(1);
    }
}

static void prepare_case(const setting *s, const fault_case *c, plan *p)
{
    char root[PATH_BYTES];
    char from[PATH_BYTES];
    char path[PATH_BYTES];
    char base[PATH_BYTES];
    fault_end end;
    *p = (plan){.c = c};
    (void)snprintf(p->name, sizeof p->name, "case%d", (int)(c - cases));
    join(root, sizeof root, s->work, p->name);
    join(path, sizeof path, root, "t");
    if (mkdir(root, 0777) != 0 || mkdir(path, 0777) != 0)
        tree_fail("cannot make", root);
    join(base, sizeof base, s->work, "base/t");
    for (size_t i = 0; i < 4 && c->needs[i] != NULL; ++i) {
        char to[PATH_BYTES];
        struct stat sb;
        join(from, sizeof from, base, c->needs[i]);
        join(to, sizeof to, path, c->needs[i]);
        if (stat(from, &sb) == 0 && S_ISDIR(sb.st_mode)) {
            tree_copy(from, to);
        } else {
            char *text = tree_text(from);
            tree_write(to, text, strlen(text));
            free(text);
        }
    }
    for (const interruption *i = c->before; i != NULL && i->call != NULL; ++i)
        interrupt_run(s, p, root, i);
    tree_copy(path, join(p->start, sizeof p->start, root, "start"));
    tree_read(p->start, &p->begins);
    run(s, root, c->words, &(fault){.kind = FAULT_NONE}, &p->calls, &end);
    fresh(root, p->start);
    must_run(s, root, c->words);
    tree_read(path, &p->ends);
    p->printed = printed(c, root);
    if (p->calls.n == 0)
        tree_fail("no calls of", c->name);
    for (int i = 0; i < 2; ++i) {
        fresh(root, p->start);
        run(s, root, c->words, &(fault){.kind = i == 0 ? FAULT_ALLOC : FAULT_BLOCK, .at = 0}, NULL, &end);
        p->allocations[i] = end.n;
    }
}

/* ---- what is asked -------------------------------------------------------------------------------------------- */

static const fault_case *find_case(const char *name)
{
    for (size_t i = 0; i < N_CASES; ++i)
        if (strcmp(cases[i].name, name) == 0)
            return &cases[i];
    (void)fprintf(stderr, "fault: no case '%s'; there are:", name);
    for (size_t i = 0; i < N_CASES; ++i)
        (void)fprintf(stderr, " '%s'", cases[i].name);
    (void)fprintf(stderr, "\n");
    exit(2);
}

static int wait_for_one(void)
{
    int status = 0;
    return wait(&status) < 0 || status != 0;
}

/* Prints the tests of one case from `number` on; returns how many failed. */
static int test_case(const setting *s, const fault_case *c, bool all, bool small, int number)
{
    static char shown[1 << 17];
    plan p;
    int n_bad = 0;
    prepare_case(s, c, &p);
    for (fault_kind kind = FAULT_KILL; kind <= FAULT_LAST; ++kind) {
        trials t = {0};
        list_trials(&p, kind, all, small, &t);
        const tally sum = t.n > 0 ? run_trials(s, &p, &t, shown, sizeof shown) : (tally){0};
        const bool bad = sum.n[BAD] > 0 || sum.lost > 0;
        (void)printf("%s %d - %s, %s: %ld times, of %ld\n", bad ? "not ok" : "ok", number + (int)kind - 1, c->name,
                     kind_sentences[kind], sum.n[GOOD] + sum.n[BAD],
                     kind >= FAULT_ALLOC ? p.allocations[kind - FAULT_ALLOC] : p.calls.n);
        if (bad)
            (void)printf("# %ld of them end badly\n%s", sum.n[BAD], shown);
        if (sum.lost > 0)
            (void)printf("# %ld workers died\n", sum.lost);
        (void)fflush(stdout);
        n_bad += bad;
        free(t.fault);
    }
    tree_free(&p.begins);
    tree_free(&p.ends);
    free(p.printed);
    free(p.calls.call);
    return n_bad;
}

/* Every case on one core, several at a time: a sample takes longer to prepare than to try. What they print is kept
 * until it is their turn. */
static int test_samples(const setting *s, bool small)
{
    char path[PATH_BYTES];
    char name[64];
    int n_bad = 0;
    int running = 0;
    setting one = *s;
    one.jobs = 1;
    for (size_t i = 0; i < N_CASES; ++i) {
        for (; running >= s->jobs; --running)
            n_bad += wait_for_one();
        (void)snprintf(name, sizeof name, "out%d", (int)i);
        (void)fflush(NULL);
        const pid_t pid = fork();
        running += pid > 0;
        if (pid != 0)
            continue;
        if (freopen(join(path, sizeof path, s->work, name), "w", stdout) == NULL)
            tree_fail("cannot write", path);
        const int bad = test_case(&one, &cases[i], false, small, (int)(i * FAULT_LAST) + 1);
        (void)fflush(stdout);
        _exit(bad > 0);
    }
    for (; running > 0; --running)
        n_bad += wait_for_one();
    for (size_t i = 0; i < N_CASES; ++i) {
        (void)snprintf(name, sizeof name, "out%d", (int)i);
        char *text = tree_text(join(path, sizeof path, s->work, name));
        (void)printf("%s", text);
        free(text);
    }
    return n_bad;
}

static int show_calls(const setting *s, const fault_case *c)
{
    plan p;
    prepare_case(s, c, &p);
    for (long i = 0; i < p.calls.n; ++i)
        (void)printf("%5ld %-8s %s\n", i + 1, p.calls.call[i].name, p.calls.call[i].path);
    (void)printf("and %ld allocations, %ld of them blocks of its own\n", p.allocations[0], p.allocations[1]);
    return 0;
}

static int show_trial(setting *s, const fault_case *c, const char *kind, const char *at, const char *error)
{
    fault f = {.at = atol(at)};
    char why[1200] = "";
    char root[PATH_BYTES];
    static seen known;
    static plan p;
    fault_end end;
    for (fault_kind k = FAULT_KILL; k <= FAULT_LAST; ++k)
        if (strcmp(kind_names[k], kind) == 0)
            f.kind = k;
    for (int e = 1; error != NULL && e < 134; ++e)
        if (strcmp(error_name(e), error) == 0)
            f.error = e;
    if (f.kind == FAULT_NONE || f.at < 1 || (f.kind == FAULT_ERRNO) != (f.error != 0)) {
        (void)fprintf(stderr, "fault: CASE kill|torn|short|error|signal|memory|block N [ERRNO, for error]\n");
        return 2;
    }
    prepare_case(s, c, &p);
    s->shown = true;
    join(root, sizeof root, s->work, "w0");
    (void)mkdir(root, 0777);
    const verdict v = try_fault(s, &p, root, &f, &known, &end, why, sizeof why);
    (void)printf("# %s %s; the folder is %s/t\n", v == GOOD ? "good" : v == BAD ? "bad:" : "not applicable", why, root);
    return v == BAD;
}

/* Memory is the place for folders that are synchronised a thousand times, where it can be had. */
static void make_work(setting *s)
{
    const char *tmp = getenv("TMPDIR");
    const char *const places[] = {"/dev/shm", tmp != NULL ? tmp : "/tmp", "/tmp"};
    for (size_t i = 0; i < sizeof places / sizeof *places; ++i) {
        (void)snprintf(s->work, sizeof s->work, "%.1000s/dass-fault-XXXXXX", places[i]);
        if (mkdtemp(s->work) != NULL)
            return;
    }
    tree_fail("cannot make", s->work);
}

static void set_environment(void)
{
    static const char *const cleared[] = {"DASS_LOG", "DASS_CUDA_PLUGIN", "LD_PRELOAD", "FAULT_ALLOC_FILE"};
    for (size_t i = 0; i < sizeof cleared / sizeof *cleared; ++i)
        (void)unsetenv(cleared[i]);
    (void)setenv("GOMP_SPINCOUNT", "5000", 0);  /* or the program starts itself once more */
    const char *given = getenv("ASAN_OPTIONS"); /* the preloaded library comes before the sanitizer's, and calls it */
    char text[PATH_BYTES];
    (void)snprintf(text, sizeof text, "%.1000s:verify_asan_link_order=0", given != NULL ? given : "");
    (void)setenv("ASAN_OPTIONS", text, 1);
}

/* The library beside this program; the program to test by an absolute name. */
static void find_programs(setting *s)
{
    static char dass[PATH_BYTES];
    static char preload[PATH_BYTES];
    const char *name = getenv("DASS");
    char self[1024];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || realpath(name != NULL ? name : "build/dass", dass) == NULL)
        tree_fail("cannot find", name != NULL ? name : "build/dass");
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    (void)snprintf(preload, sizeof preload, "%s/libfailing_alloc.so", self);
    if (access(preload, R_OK) != 0)
        tree_fail("cannot find", preload);
    s->dass = dass;
    s->preload = preload;
}

int main(int argc, char **argv)
{
    setting s = {0};
    const char *jobs = getenv("FAULT_JOBS");
    const bool all = getenv("DASS_TEST_LONG") != NULL;
    const bool small = getenv("DASS_TEST_SHORT") != NULL;
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    s.jobs = jobs != NULL ? atoi(jobs) : cores > 8 ? 8 : (int)cores;
    s.jobs = s.jobs < 1 ? 1 : s.jobs;
    find_programs(&s);
    set_environment();
    make_work(&s);
    prepare(&s);
    int status = 0;
    if (argc > 1 && !all) {
        const fault_case *c = find_case(argv[1]);
        status = argc > 3 ? show_trial(&s, c, argv[2], argv[3], argv[4]) : show_calls(&s, c);
        if (argc > 3)
            return status; /* the folder stays */
    } else if (!all) {
        (void)printf("1..%d\n", (int)N_CASES * (int)FAULT_LAST);
        status = test_samples(&s, small);
    } else {
        int number = 1;
        (void)printf("1..%d\n", (argc > 1 ? argc - 1 : (int)N_CASES) * (int)FAULT_LAST);
        for (size_t i = 0; i < (argc > 1 ? (size_t)argc - 1 : N_CASES); ++i, number += FAULT_LAST)
            status += test_case(&s, argc > 1 ? find_case(argv[i + 1]) : &cases[i], true, small, number);
    }
    tree_remove(s.work);
    return status != 0;
}
