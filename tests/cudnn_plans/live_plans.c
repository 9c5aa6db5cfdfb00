/* What only a card can tell of cuDNN's plans: its own description, and whether plans made for a described card are
 * those made for it, run on it, and give the same numbers.
 *
 *     live_plans DESCRIBED.json [--card CARD.json] < LINES
 *
 * A line is what dass__dnn_conv_text prints. Each convolution is planned twice: for the card at hand (whose description
 * cuDNN gives; --card puts a file in its place, for the double), and for DESCRIBED.json, the latter written to a cache
 * and read back. Both run on the same random numbers and are timed. Prints one JSON object; exits 1 when a convolution
 * had no plan, failed to run, or differs by more than 1e-5 of its largest element (a unit of 8 bits where it is stored
 * in bf16), 2 when there is no card.
 */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_dnn.h"
#include "dass/clock.h"
#include "read_conv.h"

#define N_RUNS 32

static void fatal(const char *what, const char *text)
{
    fprintf(stderr, "live_plans: %s: %s\n", what, text);
    exit(2);
}

static void cuda_must(cudaError_t e, const char *what)
{
    if (e != cudaSuccess)
        fatal(what, cudaGetErrorString(e));
}

static char *read_text(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        fatal(path, "cannot be opened");
    char *text = calloc(1, 1 << 16);
    if (text == NULL || fread(text, 1, (1 << 16) - 1, f) == 0)
        fatal(path, "cannot be read");
    fclose(f);
    return text;
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

typedef struct tensors {
    cudaStream_t stream;
    size_t in_count[2], out_count;
    size_t out_bytes;                      /* of an element: 2 is bf16 */
    void *in[2], *out[2], *bias, *host[2]; /* host: out[0], out[1] */
} tensors;

static size_t out_of(int32_t in, int32_t k, const dass__dnn_conv *c)
{
    return (size_t)((in + 2 * c->pad - c->dil * (k - 1) - 1) / c->stride + 1);
}

/* n random numbers, as floats or (2 bytes) their upper halves, which are bf16. */
static void *device(tensors *t, size_t n, size_t bytes)
{
    void *p = NULL;
    cuda_must(cudaMalloc(&p, n * bytes), "cudaMalloc");
    unsigned char *x = malloc(n * bytes);
    if (x == NULL)
        fatal("host memory", "none left");
    uint32_t state = 1;
    for (size_t i = 0; i < n; ++i) {
        state = state * 1664525u + 1013904223u;
        const float f = (float)(state >> 8) * 0x1p-24f - 0.5f;
        memcpy(x + i * bytes, (const unsigned char *)&f + (sizeof f - bytes), bytes);
    }
    cuda_must(cudaMemcpyAsync(p, x, n * bytes, cudaMemcpyHostToDevice, t->stream), "copy");
    cuda_must(cudaStreamSynchronize(t->stream), "copy");
    free(x);
    return p;
}

static void open_tensors(tensors *t, const dass__dnn_conv *c)
{
    const size_t x = (size_t)c->n * (size_t)c->ih * (size_t)c->iw * (size_t)c->ic;
    const size_t y = (size_t)c->n * out_of(c->ih, c->kh, c) * out_of(c->iw, c->kw, c) * (size_t)c->oc;
    const size_t w = (size_t)c->oc * (size_t)(c->ic / c->groups) * (size_t)c->kh * (size_t)c->kw;
    const size_t of[DASS__DNN_KINDS][3] = {{x, w, y}, {y, w, x}, {x, y, w}};
    const size_t in_bytes = c->precision == DASS_PRECISION_BF16 ? 2 : sizeof(float);
    t->in_count[0] = of[c->kind][0];
    t->in_count[1] = of[c->kind][1];
    t->out_count = of[c->kind][2];
    t->out_bytes = c->kind == DASS__DNN_WEIGHTS ? sizeof(float) : in_bytes;
    t->bias = c->bias ? device(t, (size_t)c->oc, sizeof(float)) : NULL;
    for (int i = 0; i < 2; ++i) {
        t->in[i] = device(t, t->in_count[i], in_bytes);
        t->out[i] = device(t, t->out_count, t->out_bytes);
        t->host[i] = malloc(t->out_count * t->out_bytes);
        if (t->host[i] == NULL)
            fatal("host memory", "none left");
    }
}

static void close_tensors(tensors *t)
{
    for (int i = 0; i < 2; ++i) {
        (void)cudaFree(t->in[i]);
        (void)cudaFree(t->out[i]);
        free(t->host[i]);
    }
    if (t->bias != NULL)
        (void)cudaFree(t->bias);
}

/* ---- one convolution ------------------------------------------------------------------------------------------- */

typedef struct side {
    char name[128], error[400];
    bool cached;
    size_t ws;
    double plan_ms, us;
} side;

static dass_status run_plan(dass__dnn *dnn, dass__dnn_plan *plan, tensors *t, int i, side *s)
{
    void *ws = NULL;
    s->ws = dass__dnn_plan_ws(plan);
    if (s->ws > 0)
        cuda_must(cudaMalloc(&ws, s->ws), "workspace");
    dass_status st = dass__dnn_plan_bind(plan, t->in[0], t->in[1], t->bias, t->out[i], ws);
    for (int warm = 0; st == DASS_OK && warm < 2; ++warm)
        st = dass__dnn_run(dnn, plan);
    if (st == DASS_OK)
        cuda_must(cudaStreamSynchronize(t->stream), s->name);
    const double began = dass_now_sec();
    for (int k = 0; st == DASS_OK && k < N_RUNS; ++k)
        st = dass__dnn_run(dnn, plan);
    cuda_must(cudaStreamSynchronize(t->stream), s->name);
    s->us = 1e6 * (dass_now_sec() - began) / N_RUNS;
    if (ws != NULL)
        (void)cudaFree(ws);
    return st;
}

/* Plan, once more when that comes from a cache, and run into out[i]. */
static bool try_side(dass__dnn *dnn, const dass__dnn_conv *c, tensors *t, int i, side *s)
{
    dass__dnn_plan *plan = NULL;
    const double began = dass_now_sec();
    dass_status st = dass__dnn_plan_make(dnn, c, &plan);
    s->plan_ms = 1e3 * (dass_now_sec() - began);
    if (st == DASS_OK && i == 1) {
        dass__dnn_plan_free(plan);
        plan = NULL;
        st = dass__dnn_plan_make(dnn, c, &plan);
        s->cached = st == DASS_OK && dass__dnn_plan_cached(plan);
    }
    if (st == DASS_OK) {
        (void)snprintf(s->name, sizeof s->name, "%s", dass__dnn_plan_name(plan));
        st = run_plan(dnn, plan, t, i, s);
    }
    if (st != DASS_OK)
        (void)snprintf(s->error, sizeof s->error, "%s", dass_error_text());
    for (char *q = s->error; *q != '\0'; ++q) /* it stands between quotes */
        if (*q == '"' || *q == '\\' || (unsigned char)*q < ' ')
            *q = '\'';
    dass__dnn_plan_free(plan);
    return st == DASS_OK;
}

static double element(const tensors *t, int i, size_t k)
{
    float f = 0.0f;
    memcpy((unsigned char *)&f + (sizeof f - t->out_bytes), (const unsigned char *)t->host[i] + k * t->out_bytes,
           t->out_bytes);
    return (double)f;
}

static double difference(tensors *t)
{
    double worst = 0.0;
    double scale = 1e-30;
    for (int i = 0; i < 2; ++i)
        cuda_must(cudaMemcpyAsync(t->host[i], t->out[i], t->out_count * t->out_bytes, cudaMemcpyDeviceToHost,
                                  t->stream),
                  "copy");
    cuda_must(cudaStreamSynchronize(t->stream), "copy");
    for (size_t k = 0; k < t->out_count; ++k) {
        const double a = element(t, 0, k);
        const double d = fabs(a - element(t, 1, k));
        worst = d <= worst ? worst : d; /* NaN stays */
        scale = fabs(a) > scale ? fabs(a) : scale;
    }
    return worst / scale;
}

static void print_side(const char *key, const side *s)
{
    printf("\"%s\":{\"plan\":\"%s\",\"cached\":%s,\"workspace\":%zu,\"plan_ms\":%.2f,\"us\":%.2f,\"error\":\"%s\"}",
           key, s->name, s->cached ? "true" : "false", s->ws, s->plan_ms, s->us, s->error);
}

static bool try_conv(dass__dnn *dnn[2], const dass__dnn_conv *c, tensors *t, bool first)
{
    side s[2] = {{.cached = false}, {.cached = false}};
    char text[DASS__DNN_TEXT];
    open_tensors(t, c);
    bool good = true;
    for (int i = 0; i < 2; ++i)
        good = try_side(dnn[i], c, t, i, &s[i]) && good;
    const double d = good ? difference(t) : -1.0;
    good = good && s[1].cached && d <= (t->out_bytes == 2 ? 1.0 / 128 : 1e-5);
    close_tensors(t);
    printf("%s\n{\"conv\":\"%s\",\"ok\":%s,\"difference\":%.3g,", first ? "" : ",",
           dass__dnn_conv_text(c, text, sizeof text), good ? "true" : "false", d);
    print_side("card", &s[0]);
    printf(",");
    print_side("described", &s[1]);
    printf("}");
    return good;
}

/* ---- all ------------------------------------------------------------------------------------------------------- */

static bool try_all(dass__dnn *dnn[2], tensors *t)
{
    char line[512];
    bool good = true;
    bool first = true;
    while (fgets(line, sizeof line, stdin) != NULL) {
        dass__dnn_conv c;
        if (line[strspn(line, " \t\n")] == '\0' || line[0] == '#')
            continue;
        if (!read_conv(line, &c))
            fatal("not a description", line);
        good = try_conv(dnn, &c, t, first) && good;
        first = false;
        fflush(stdout);
    }
    return good;
}

static void remove_folder(const char *folder)
{
    char command[64];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0)
        fprintf(stderr, "live_plans: %s is left\n", folder);
}

int main(int argc, char **argv)
{
    const bool card = argc == 4 && strcmp(argv[2], "--card") == 0;
    if (argc != 2 && !card)
        fatal("usage", "live_plans DESCRIBED.json [--card CARD.json] < LINES");
    char *described = read_text(argv[1]);
    char *of_card = card ? read_text(argv[3]) : NULL;
    char folder[] = "/tmp/live_plans.XXXXXX";
    if (mkdtemp(folder) == NULL)
        fatal(folder, "cannot be made");
    const dass__dnn_options opt[2] = {{.deterministic = true, .device_json = of_card},
                                      {.deterministic = true, .device_json = described, .cache_dir = folder}};
    tensors t = {0};
    int n = 0;
    cuda_must(cudaGetDeviceCount(&n), "cudaGetDeviceCount");
    cuda_must(cudaSetDevice(0), "cudaSetDevice");
    cuda_must(cudaStreamCreateWithFlags(&t.stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    dass__dnn *dnn[2] = {NULL, NULL};
    for (int i = 0; i < 2; ++i)
        if (dass__dnn_open(0, t.stream, &opt[i], &dnn[i]) != DASS_OK)
            fatal("cuDNN", dass_error_text());
    printf("{\"card\":%s,\n\"described\":%s,\n\"convolutions\":[", dass__dnn_device_json(dnn[0]),
           dass__dnn_device_json(dnn[1]));
    const bool good = try_all(dnn, &t);
    printf("]}\n");
    for (int i = 0; i < 2; ++i)
        dass__dnn_close(dnn[i]);
    (void)cudaStreamDestroy(t.stream);
    remove_folder(folder);
    free(described);
    free(of_card);
    return good ? 0 : 1;
}
