/* Tests of the pictures: that they are XML, that they show what the sources say (arrows, labels, lines, ticks), that
 * nothing in a cell overlaps, and that no input breaks the reader.
 *
 * Not whether they are beautiful.
 */
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "check.h"
#include "dass/file.h"
#include "dass/mem.h"
#include "dass/plot.h"
#include "dass/rng.h"

/* ---- a small reader of XML ---- */

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == ':' ||
           c == '_';
}

/* One of the five entities, or a character by number: its length, 0 when it is none. */
static size_t entity(const char *p)
{
    static const char *const words[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&apos;"};
    for (size_t i = 0; i < N_OF(words); ++i)
        if (strncmp(p, words[i], strlen(words[i])) == 0)
            return strlen(words[i]);
    if (strncmp(p, "&#", 2) != 0)
        return 0;
    const size_t n = strspn(p + 2, "0123456789");
    return n > 0 && p[2 + n] == ';' ? n + 3 : 0;
}

/* Text up to `stop`: no '<', entities complete, no control characters. NULL when it is not so. */
static const char *text_until(const char *p, char stop)
{
    while (*p != '\0' && *p != stop) {
        const size_t n = *p == '&' ? entity(p) : 1;
        if (n == 0 || *p == '<' || ((unsigned char)*p < ' ' && *p != '\n'))
            return NULL;
        p += n;
    }
    return p;
}

/* Inside a tag, after its name: name="value" pairs. The end of the tag, NULL when malformed. */
static const char *attributes(const char *p, bool *closed)
{
    for (;;) {
        const size_t space = strspn(p, " \n");
        p += space;
        *closed = *p == '/';
        if (*p == '/' || *p == '>')
            return p[*closed] == '>' ? p + *closed + 1 : NULL;
        const char *name = p;
        while (is_name(*p))
            ++p;
        if (space == 0 || p == name || p[0] != '=' || p[1] != '"')
            return NULL;
        p = text_until(p + 2, '"');
        if (p == NULL || *p != '"')
            return NULL;
        ++p;
    }
}

/* One root, tags balanced by name, attributes quoted, text escaped. */
static bool is_xml(const char *p)
{
    const char *open[32];
    size_t length[32];
    size_t depth = 0;
    if (strncmp(p, "<?xml", 5) == 0) {
        p = strstr(p, "?>");
        if (p == NULL)
            return false;
        p += 2;
    }
    p += strspn(p, "\n");
    if (*p != '<')
        return false;
    do {
        const bool end = p[1] == '/';
        const char *name = p + 1 + end;
        size_t n = 0;
        while (is_name(name[n]))
            ++n;
        bool closed = false;
        p = end ? (name[n] == '>' ? name + n + 1 : NULL) : attributes(name + n, &closed);
        if (p == NULL || n == 0)
            return false;
        if (end) {
            if (depth == 0 || length[depth - 1] != n || memcmp(open[depth - 1], name, n) != 0)
                return false;
            --depth;
        } else if (!closed) {
            if (depth == N_OF(open))
                return false;
            open[depth] = name;
            length[depth++] = n;
        }
        if (depth == 0)
            break;
        p = text_until(p, '<');
    } while (p != NULL && *p == '<');
    return p != NULL && depth == 0 && p[strspn(p, "\n")] == '\0';
}

static void the_xml_reader_is_strict(void **state)
{
    (void)state;
    static const char *const good[] = {"<a/>", "<a>x</a>\n",
                                       "<?xml version=\"1.0\"?>\n<a b=\"1 &lt; 2\"><c/>&amp;</a>"};
    static const char *const bad[] = {"",
                                      "x",
                                      "<a>",
                                      "<a></b>",
                                      "<a><b></a></b>",
                                      "<a b=1/>",
                                      "<a b=\"</a>",
                                      "<a>&</a>",
                                      "<a>&foo;</a>",
                                      "<a b=\"<\"/>",
                                      "<a/><b/>",
                                      "<a>\x01</a>",
                                      "<a b=\"1\"c=\"2\"/>",
                                      "</a>",
                                      "<a>x</a>y"};
    for (size_t i = 0; i < N_OF(good); ++i)
        assert_true(is_xml(good[i]));
    for (size_t i = 0; i < N_OF(bad); ++i)
        if (is_xml(bad[i])) {
            print_error("taken for XML: %s\n", bad[i]);
            fail();
        }
}

static int count(const char *text, const char *word)
{
    int n = 0;
    for (const char *p = strstr(text, word); p != NULL; p = strstr(p + strlen(word), word))
        ++n;
    return n;
}

/* ---- cells ---- */

static const char *root_path(const char *file)
{
    static char path[4096];
    const char *root = getenv("DASS_TEST_ROOT");
    (void)snprintf(path, sizeof path, "%s/%s", root != NULL ? root : ".", file);
    return path;
}

typedef struct box {
    double x, y, w, h;
    bool chip;
    int n_edges; /* that run through it */
} box;

static int read_boxes(const char *svg, box *out, int most)
{
    int n = 0;
    for (const char *p = strstr(svg, "<rect class=\""); p != NULL; p = strstr(p + 1, "<rect class=\"")) {
        box b = {.chip = strncmp(p + 13, "chip", 4) == 0};
        assert_int_equal(sscanf(strstr(p, " x="), " x=\"%lf\" y=\"%lf\" width=\"%lf\" height=\"%lf\"", &b.x, &b.y, &b.w,
                                &b.h),
                         4);
        assert_true(n < most);
        out[n++] = b;
    }
    return n;
}

/* Which boxes a path of lines and cubic curves runs through, by many of its points. `inside` has n flags. */
static void trace(const char *d, const box *boxes, int n, bool *inside)
{
    double x = 0.0;
    double y = 0.0;
    while (*d != '"') {
        double c[6];
        double px = x;
        double py = y;
        int used = 0;
        const char kind = d[strspn(d, " ")];
        if (kind == 'C') {
            assert_int_equal(sscanf(d, " C%lf,%lf %lf,%lf %lf,%lf%n", c, c + 1, c + 2, c + 3, c + 4, c + 5, &used), 6);
        } else {
            assert_true(kind == 'M' || kind == 'L');
            assert_int_equal(sscanf(d + strspn(d, " ") + 1, "%lf,%lf%n", c + 4, c + 5, &used), 2);
            used += (int)strspn(d, " ") + 1;
            if (kind == 'M') {
                px = c[4];
                py = c[5];
            }
            c[0] = px;
            c[1] = py;
            c[2] = c[4];
            c[3] = c[5];
        }
        for (int k = 0; k <= 100; ++k) {
            const double t = k / 100.0;
            const double u = 1.0 - t;
            x = u * u * u * px + 3 * u * u * t * c[0] + 3 * u * t * t * c[2] + t * t * t * c[4];
            y = u * u * u * py + 3 * u * u * t * c[1] + 3 * u * t * t * c[3] + t * t * t * c[5];
            for (int i = 0; i < n; ++i) /* a hair inside: edges begin on the side of a node */
                inside[i] |= x > boxes[i].x + 0.1 && x < boxes[i].x + boxes[i].w - 0.1 && y > boxes[i].y + 0.1 &&
                             y < boxes[i].y + boxes[i].h - 0.1;
        }
        d += used;
    }
}

/* No box touches another; every operation's edge runs through one label, a label of its own, and through no node. */
static void check_geometry(const char *svg, int n_nodes)
{
    static box boxes[64];
    const int n = read_boxes(svg, boxes, (int)N_OF(boxes));
    assert_int_equal(n, 2 * n_nodes + n_nodes + 3);
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < i; ++k)
            assert_true(boxes[i].x + boxes[i].w < boxes[k].x || boxes[k].x + boxes[k].w < boxes[i].x ||
                        boxes[i].y + boxes[i].h < boxes[k].y || boxes[k].y + boxes[k].h < boxes[i].y);
    for (const char *p = strstr(svg, "<path class=\"edge"); p != NULL; p = strstr(p + 1, "<path class=\"edge")) {
        bool inside[N_OF(boxes)] = {false};
        const bool concat = strncmp(p, "<path class=\"edge concat", 24) == 0;
        trace(strstr(p, " d=\"") + 4, boxes, n, inside);
        int n_chips = 0;
        for (int i = 0; i < n; ++i) {
            assert_false(inside[i] && !boxes[i].chip);
            n_chips += inside[i];
            boxes[i].n_edges += inside[i];
        }
        assert_int_equal(n_chips, concat ? 0 : 1);
    }
    for (int i = 0; i < n; ++i)
        assert_int_equal(boxes[i].n_edges, boxes[i].chip ? 1 : 0);
}

/* The label that a gene must have, written apart from the program's table. */
static const char *label_of(const dass_gene *g, bool reduce)
{
    switch (g->op) {
    case DASS_PRIM_NONE:
        return "none";
    case DASS_PRIM_MAX_POOL_3:
        return "max pool 3×3";
    case DASS_PRIM_AVG_POOL_3:
        return "avg pool 3×3";
    case DASS_PRIM_SKIP:
        return reduce && g->src < 2 ? "skip /2" : "skip";
    case DASS_PRIM_SEP_3:
        return "sep 3×3";
    case DASS_PRIM_SEP_5:
        return "sep 5×5";
    case DASS_PRIM_DIL_3:
        return "dil 3×3";
    case DASS_PRIM_DIL_5:
        return "dil 5×5";
    case DASS_N_PRIMS:
        break;
    }
    return "";
}

static void check_cell(const dass_genotype *g, bool reduce)
{
    char *svg = NULL;
    char *again = NULL;
    check_ok(dass_plot_cell(g, reduce, &svg));
    assert_true(is_xml(svg));
    const dass_gene *genes = reduce ? g->reduce : g->normal;
    const int n_concat = reduce ? g->n_reduce_concat : g->n_normal_concat;
    assert_int_equal(count(svg, "class=\"arrow "), 2 * g->n_nodes + n_concat);
    assert_int_equal(count(svg, "class=\"arrow concat"), n_concat);
    assert_int_equal(count(svg, "class=\"op\""), 2 * g->n_nodes);
    assert_int_equal(count(svg, "class=\"node\""), g->n_nodes + 3);
    int n_free = 0;
    for (int i = 0; i < 2 * g->n_nodes; ++i) {
        char word[64];
        const char *label = label_of(&genes[i], reduce);
        int same = 0;
        for (int k = 0; k < 2 * g->n_nodes; ++k)
            same += strcmp(label_of(&genes[k], reduce), label) == 0;
        (void)snprintf(word, sizeof word, "\">%s</text>", label);
        assert_int_equal(count(svg, word), same);
        n_free += strstr(label, "pool") != NULL || strcmp(label, "skip") == 0;
    }
    assert_int_equal(count(svg, "class=\"edge free"), n_free);
    for (int v = 0; v < g->n_nodes; ++v) {
        char word[32];
        (void)snprintf(word, sizeof word, ">%d</text>", v);
        assert_int_equal(count(svg, word), 1);
    }
    check_geometry(svg, g->n_nodes);
    check_ok(dass_plot_cell(g, reduce, &again));
    assert_string_equal(svg, again);
    dass_mem_free(svg);
    dass_mem_free(again);
}

static void published_cells(void **state)
{
    (void)state;
    static const char *const files[] = {"dass_99.json", "dass_95.json", "dass_90.json", "darts_v2.json"};
    for (size_t i = 0; i < N_OF(files); ++i) {
        dass_genotype g;
        char path[128];
        (void)snprintf(path, sizeof path, "configs/genotypes/%s", files[i]);
        check_ok(dass_genotype_read(root_path(path), &g));
        check_cell(&g, false);
        check_cell(&g, true);
    }
}

static void random_cells(void **state)
{
    (void)state;
    const int seeds = getenv("DASS_TEST_SHORT") != NULL ? 2 : 12;
    for (int32_t n = 1; n <= DASS_MAX_NODES; ++n)
        for (int seed = 0; seed < seeds; ++seed) {
            dass_genotype g = dass_genotype_random((uint64_t)seed, n);
            if (seed % 3 == 1) { /* a node that nothing reads */
                g.n_normal_concat = 1;
                g.normal_concat[0] = n + 1;
            }
            check_cell(&g, false);
            check_cell(&g, true);
        }
}

/* A chain, each node from the one before, and everything from the inputs: the longest and the widest cell. */
static void extreme_cells(void **state)
{
    (void)state;
    dass_genotype g = {.n_nodes = DASS_MAX_NODES, .n_normal_concat = DASS_MAX_NODES, .n_reduce_concat = DASS_MAX_NODES};
    for (int v = 0; v < DASS_MAX_NODES; ++v) {
        g.normal[2 * v] = (dass_gene){DASS_PRIM_MAX_POOL_3, v + 1};
        g.normal[2 * v + 1] = (dass_gene){DASS_PRIM_SKIP, 0};
        g.reduce[2 * v] = (dass_gene){DASS_PRIM_MAX_POOL_3, 0};
        g.reduce[2 * v + 1] = (dass_gene){DASS_PRIM_SKIP, 1};
        g.normal_concat[v] = g.reduce_concat[v] = v + 2;
    }
    check_cell(&g, false);
    check_cell(&g, true);
}

/* ---- sources ---- */

typedef struct text {
    char *at;
    size_t n, cap;
} text;

static void add(text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(text *t, const char *fmt, ...)
{
    char line[512];
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    assert_true(n >= 0 && (size_t)n < sizeof line);
    if (t->n + (size_t)n >= t->cap) {
        const size_t cap = 2 * t->cap + 65536;
        void *block = t->at;
        check_ok(dass_mem_grow(t->cap, cap, "test", &block));
        t->at = block;
        t->cap = cap;
    }
    memcpy(t->at + t->n, line, (size_t)n + 1);
    t->n += (size_t)n;
}

typedef struct part {
    const char *stage;
    int epochs;
} part;

static void add_alphas(text *t, const part *parts, size_t n_parts, int n_edges)
{
    dass_rng rng = dass_rng_make(5, DASS_RNG_TEST, 0, 0);
    for (size_t p = 0; p < n_parts; ++p)
        for (int e = 1; e <= parts[p].epochs; ++e) {
            add(t, "{\"stage\":\"%s\",\"epoch\":%d", parts[p].stage, e);
            for (int cell = 0; cell < 2; ++cell) {
                add(t, ",\"%s\":[", cell == 0 ? "normal" : "reduce");
                for (int i = 0; i < n_edges; ++i)
                    for (int k = 0; k < DASS_N_PRIMS; ++k)
                        add(t, "%s%.4f%s", k == 0 ? (i > 0 ? ",[" : "[") : ",", dass_rng_normal(&rng),
                            k + 1 == DASS_N_PRIMS ? "]" : "");
                add(t, "]");
            }
            add(t, "}\n");
        }
}

static void add_epoch(text *t, const part *p, int e, double loss, double top1, bool val)
{
    add(t,
        "{\"command\":\"search\",\"stage\":\"%s\",\"epoch\":%d,\"epochs\":%d,\"steps\":10,\"train_loss\":%.9g,"
        "\"train_top1\":%.9g,\"lr\":0.025",
        p->stage, e, p->epochs, loss, top1);
    if (val)
        add(t, ",\"val_loss\":%.9g,\"val_top1\":%.9g", loss, top1);
    add(t, "}\n");
}

static void add_metrics(text *t, const part *parts, size_t n_parts)
{
    int number = 0;
    for (size_t p = 0; p < n_parts; ++p)
        for (int e = 1; e <= parts[p].epochs; ++e, ++number)
            add_epoch(t, &parts[p], e, 2.3 / (1 + number), 1.0 - 0.9 / (1 + number), true);
}

static const part three[] = {{"dense", 20}, {"score", 8}, {"finetune", 20}};

/* ---- alphas ---- */

static void alphas_of_every_size(void **state)
{
    (void)state;
    for (int n = 1; n <= DASS_MAX_NODES; ++n) {
        text t = {0};
        char *svg = NULL;
        const int edges = n * (n + 3) / 2;
        add_alphas(&t, three, N_OF(three), edges);
        check_ok(dass_plot_alphas("alphas.jsonl", t.at, t.n, &svg));
        assert_true(is_xml(svg));
        assert_int_equal(count(svg, "class=\"panel\""), 2 * edges);
        assert_int_equal(count(svg, "<polyline "), 2 * edges * 8);
        assert_int_equal(count(svg, "class=\"boundary\""), 2 * edges * 2);
        assert_int_equal(count(svg, "dense 1–20, score 21–28, finetune 29–48"), 1);
        const char *panel = strstr(svg, "class=\"panel\"");
        for (int i = 0; i < 2 * edges; ++i) { /* eight lines in each panel, not only in all */
            const char *next = strstr(panel + 1, "class=\"panel\"");
            int lines = 0;
            for (const char *p = strstr(panel, "<polyline "); p != NULL && (next == NULL || p < next);
                 p = strstr(p + 1, "<polyline "))
                ++lines;
            assert_int_equal(lines, 8);
            panel = next;
        }
        for (int v = 2; v < n + 2; ++v)
            for (int s = 0; s < v; ++s) {
                char title[64];
                (void)snprintf(title, sizeof title, ">%d ← %d</text>", v, s);
                assert_int_equal(count(svg, title), 2);
            }
        dass_mem_free(svg);
        dass_mem_free(t.at);
    }
}

/* The points of the first line of a colour: the i-th y. */
static double point_y(const char *svg, const char *colour, int i)
{
    char word[64];
    double x = 0.0;
    double y = 0.0;
    (void)snprintf(word, sizeof word, "<polyline stroke=\"%s\"", colour);
    const char *p = strstr(strstr(svg, word), "points=\"") + 8;
    for (int k = 0; k <= i; ++k) {
        int used = 0;
        assert_int_equal(sscanf(p, "%lf,%lf%n", &x, &y, &used), 2);
        p += used;
    }
    return y;
}

/* Logarithms of 0.6, 0.1, 0.05 ...: their softmax is known. The axis goes to 0.6 or beyond; its ends are in the ticks.
 */
static void alphas_are_softmax(void **state)
{
    (void)state;
    static const double w[8] = {0.05, 0.6, 0.05, 0.1, 0.05, 0.05, 0.05, 0.05};
    text t = {0};
    for (int e = 1; e <= 2; ++e) {
        add(&t, "{\"stage\":\"dense\",\"epoch\":%d", e);
        for (int cell = 0; cell < 2; ++cell) {
            add(&t, ",\"%s\":[", cell == 0 ? "normal" : "reduce");
            for (int i = 0; i < 2; ++i)
                for (int k = 0; k < 8; ++k) /* a constant changes nothing; the second epoch has the reverse order */
                    add(&t, "%s%.12f%s", k == 0 ? (i > 0 ? ",[" : "[") : ",", 700.0 + log(w[e == 1 ? k : 7 - k]),
                        k == 7 ? "]" : "");
            add(&t, "]");
        }
        add(&t, "}\n");
    }
    char *svg = NULL;
    check_ok(dass_plot_alphas("alphas.jsonl", t.at, t.n, &svg));
    double top = 0.0;
    const char *tick = svg;
    double zero_y = -1.0;
    double top_y = -1.0;
    const char *end = strstr(strstr(svg, "class=\"panel\""), "<polyline");
    for (tick = strstr(svg, "<path d=\"M0,"); tick != NULL && tick < end; tick = strstr(tick + 1, "<path d=\"M0,")) {
        double y = 0.0;
        double value = 0.0;
        assert_int_equal(sscanf(tick, "<path d=\"M0,%lf", &y), 1);
        const char *label = strstr(tick, "\">");
        assert_int_equal(sscanf(label, "\">%lf<", &value), 1);
        if (value == 0.0)
            zero_y = y;
        if (value > top) {
            top = value;
            top_y = y;
        }
    }
    assert_true(top >= 0.6 && zero_y > top_y);
    const double scale = (zero_y - top_y) / top;
    static const char *const colours[8] = {"#9aa5b1", "#d55e00", "#e69f00", "#111111",
                                           "#0072b2", "#56b4e9", "#882255", "#cc79a7"};
    for (int k = 0; k < 8; ++k)
        for (int e = 0; e < 2; ++e)
            assert_true(fabs((zero_y - point_y(svg, colours[k], e)) / scale - w[e == 0 ? k : 7 - k]) < 2e-4);
    dass_mem_free(svg);
    dass_mem_free(t.at);
}

/* ---- curves ---- */

/* Ends of the axis of panel 0 or 1, by its tick texts. */
static void axis_range(const char *svg, int panel, double *lo, double *hi)
{
    const char *p = strstr(svg, "<g class=\"panel\"");
    const char *next = strstr(p + 1, "<g class=\"panel\"");
    if (panel == 1) {
        p = next;
        next = p + strlen(p);
    }
    int n = 0;
    for (p = strstr(p, "class=\"tick\""); p != NULL && p < next; p = strstr(p + 1, "class=\"tick\"")) {
        double x = 0.0;
        assert_int_equal(sscanf(strchr(p, '>'), ">%lf<", &x), 1);
        assert_true(n == 0 || x > *hi); /* texts tell ticks apart */
        *lo = n == 0 ? x : *lo;
        *hi = x;
        ++n;
    }
    assert_in_range(n, 2, 12);
}

static void axes_contain_the_data(void **state)
{
    (void)state;
    static const struct {
        double loss[2], top1[2];
    } cases[] = {{{2.3, 0.1}, {0.1, 0.93}},       {{0.5, 0.5}, {0.5, 0.5}},         {{0.0, 0.0}, {0.0, 0.0}},
                 {{-3.7, 12.25}, {1.0, 0.0}},     {{1e50, 3e50}, {0.999, 0.9991}},  {{3.0000001, 3.0}, {1.0, 1.0}},
                 {{123456.0, 1.0}, {0.33, 0.34}}, {{1e-9, 2e-9}, {0.0, 1e-6}},      {{-1e100, 1e100}, {0.2, 0.3}},
                 {{17.0, 99.99}, {0.6, 0.8001}},  {{0.20001, 0.19999}, {0.5, 0.51}}};
    for (size_t i = 0; i < N_OF(cases); ++i) {
        const part p = {"dense", 2};
        text t = {0};
        char *svg = NULL;
        for (int e = 1; e <= 2; ++e)
            add_epoch(&t, &p, e, cases[i].loss[e - 1], cases[i].top1[e - 1], false);
        check_ok(dass_plot_curves("metrics.jsonl", t.at, t.n, &svg));
        assert_true(is_xml(svg));
        for (int k = 0; k < 2; ++k) {
            double lo = 0.0;
            double hi = 0.0;
            axis_range(svg, 0, &lo, &hi);
            assert_true(lo <= 100 * cases[i].top1[k] && 100 * cases[i].top1[k] <= hi);
            axis_range(svg, 1, &lo, &hi);
            const double slack = 1e-6 * fmax(fabs(lo), fabs(hi)); /* of the texts */
            assert_true(lo - slack <= cases[i].loss[k] && cases[i].loss[k] <= hi + slack);
        }
        for (const char *q = strstr(svg, "points=\""); q != NULL; q = strstr(q + 1, "points=\"")) {
            double y[2];
            assert_int_equal(sscanf(q, "points=\"%*f,%lf %*f,%lf", y, y + 1), 2);
            assert_true(y[0] >= 0.0 && y[0] <= 190.0 && y[1] >= 0.0 && y[1] <= 190.0);
        }
        dass_mem_free(svg);
        dass_mem_free(t.at);
    }
}

static void curves_of_three_stages(void **state)
{
    (void)state;
    text t = {0};
    char *svg = NULL;
    add_metrics(&t, three, N_OF(three));
    add(&t, "{\"command\":\"train\",\"stage\":\"test\",\"test_loss\":7.5,\"test_top1\":0.90424,\"images\":10000}\n");
    check_ok(dass_plot_curves("metrics.jsonl", t.at, t.n, &svg));
    assert_true(is_xml(svg));
    assert_int_equal(count(svg, "<polyline class=\"train\""), 2);
    assert_int_equal(count(svg, "<polyline class=\"validation\""), 2);
    assert_int_equal(count(svg, "class=\"boundary\""), 4);
    assert_int_equal(count(svg, "class=\"stage\""), 3);
    for (size_t i = 0; i < N_OF(three); ++i) {
        char word[64];
        (void)snprintf(word, sizeof word, ">%s</text>", three[i].stage);
        assert_int_equal(count(svg, word), 1);
    }
    assert_int_equal(count(svg, ">90.42 %</text>"), 1);
    assert_int_equal(count(svg, ">7.500</text>"), 1);
    assert_int_equal(count(svg, "class=\"test\""), 3); /* and one in the legend */
    double lo = 0.0;
    double hi = 0.0;
    axis_range(svg, 1, &lo, &hi);
    assert_true(hi >= 7.5); /* the test lies within, too */
    dass_mem_free(svg);
    dass_mem_free(t.at);
}

/* Validation in epochs 1, 2 and 4 of 4: a line and a dot. */
static void gaps_stay_gaps(void **state)
{
    (void)state;
    const part p = {"dense", 4};
    text t = {0};
    char *svg = NULL;
    for (int e = 1; e <= 4; ++e)
        add_epoch(&t, &p, e, 1.0 / e, 0.2 * e, e != 3);
    check_ok(dass_plot_curves("metrics.jsonl", t.at, t.n, &svg));
    assert_int_equal(count(svg, "<polyline class=\"validation\""), 2);
    assert_int_equal(count(svg, "<circle class=\"validation\""), 2);
    assert_int_equal(count(svg, "<circle class=\"train\""), 0);
    assert_int_equal(count(svg, ">test</text>"), 0);
    dass_mem_free(svg);
    dass_mem_free(t.at);
}

static int points_of(const char *line)
{
    const char *p = strstr(line, "points=\"") + 8;
    int n = 0;
    for (; *p != '"'; ++p)
        n += *p == ',';
    return n;
}

static void long_runs_are_thinned(void **state)
{
    (void)state;
    const part p = {"dense", 5000};
    text m = {0};
    text a = {0};
    char *svg = NULL;
    for (int e = 1; e <= p.epochs; ++e)
        add_epoch(&m, &p, e, e == 1 ? 8.0 : e == p.epochs ? 4.0 : 6.0, 0.5, true);
    check_ok(dass_plot_curves("metrics.jsonl", m.at, m.n, &svg));
    assert_true(is_xml(svg));
    int n_lines = 0;
    const char *last = NULL;
    for (const char *q = strstr(svg, "<polyline"); q != NULL; q = strstr(q + 1, "<polyline"), ++n_lines) {
        assert_in_range(points_of(q), 500, 1000);
        last = q;
    }
    assert_int_equal(n_lines, 4);
    double x = 0.0;
    double y = 0.0;
    assert_int_equal(sscanf(strstr(last, "points=\""), "points=\"%lf,%lf", &x, &y), 2);
    assert_true(x < 0.1 && y == 0.0); /* epoch 1, loss 8: the top of 4 ... 8 */
    const char *end = strstr(last, " \"/>");
    while (end[-1] != ' ')
        --end;
    assert_int_equal(sscanf(end, "%lf,%lf", &x, &y), 2);
    assert_true(x > 639.9 && y == 190.0); /* the last, loss 4 */
    dass_mem_free(svg);
    add_alphas(&a, &p, 1, 2);
    check_ok(dass_plot_alphas("alphas.jsonl", a.at, a.n, &svg));
    for (const char *q = strstr(svg, "<polyline"); q != NULL; q = strstr(q + 1, "<polyline"))
        assert_in_range(points_of(q), 200, 1000);
    dass_mem_free(svg);
    dass_mem_free(m.at);
    dass_mem_free(a.at);
}

static void names_are_escaped(void **state)
{
    (void)state;
    const part p = {"a<b>&'c\\\"\\u0001\\uffff", 1};
    text t = {0};
    char *svg = NULL;
    add_epoch(&t, &p, 1, 1.0, 0.5, false);
    check_ok(dass_plot_curves("metrics.jsonl", t.at, t.n, &svg));
    assert_true(is_xml(svg));
    assert_int_equal(count(svg, ">a&lt;b&gt;&amp;&#39;c&quot;??"
                                "</text>"),
                     1);
    dass_mem_free(svg);
    t.n = 0;
    add_alphas(&t, &p, 1, 2);
    check_ok(dass_plot_alphas("alphas.jsonl", t.at, t.n, &svg));
    assert_true(is_xml(svg));
    dass_mem_free(svg);
    dass_mem_free(t.at);
}

static void the_locale_changes_nothing(void **state)
{
    (void)state;
    text t = {0};
    char *plain = NULL;
    char *other = NULL;
    add_metrics(&t, three, N_OF(three));
    check_ok(dass_plot_curves("metrics.jsonl", t.at, t.n, &plain));
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "ps_AF.UTF-8"};
    size_t i = 0;
    while (i < N_OF(names) && setlocale(LC_ALL, names[i]) == NULL)
        ++i;
    if (i == N_OF(names)) {
        dass_mem_free(plain);
        dass_mem_free(t.at);
        print_message("no locale with a decimal comma is installed\n");
        skip();
    }
    const dass_status st = dass_plot_curves("metrics.jsonl", t.at, t.n, &other);
    (void)setlocale(LC_ALL, "C");
    check_ok(st);
    assert_string_equal(plain, other);
    dass_mem_free(plain);
    dass_mem_free(other);
    dass_mem_free(t.at);
}

/* ---- bad input ---- */

#define EIGHT "[0,0,0,0,0,0,0,0]"
#define CELL "[" EIGHT "," EIGHT "]"
#define GOOD_ALPHA "{\"stage\":\"dense\",\"epoch\":1,\"normal\":" CELL ",\"reduce\":" CELL "}\n"
#define ALPHA(stage, epoch, normal, reduce) \
    "{\"stage\":" stage ",\"epoch\":" epoch ",\"normal\":" normal ",\"reduce\":" reduce "}\n"
#define EPOCH(stage, epoch, epochs, loss, top1)                                                                       \
    "{\"stage\":" stage ",\"epoch\":" epoch ",\"epochs\":" epochs ",\"train_loss\":" loss ",\"train_top1\":" top1 "}" \
    "\n"

typedef struct bad {
    const char *text, *error;
} bad;

static void bad_alphas_are_refused(void **state)
{
    (void)state;
    static const bad cases[] = {
        {"{]\n", "a.jsonl:1:2: string or '}' expected near ']'"},
        {"[]\n", "a.jsonl:1: every line must be a JSON object"},
        {GOOD_ALPHA "\n", "a.jsonl:2:0: '[' or '{' expected near end of file"},
        {"{}\n", "a.jsonl:1: \"normal\" must be a list"},
        {ALPHA("1", "1", CELL, CELL), "a.jsonl:1: \"stage\" must be a name of 1 to 31 bytes"},
        {ALPHA("\"\"", "1", CELL, CELL), "a.jsonl:1: \"stage\" must be a name of 1 to 31 bytes"},
        {ALPHA("\"dense\"", "1.5", CELL, CELL), "a.jsonl:1: \"epoch\" must be an integer"},
        {ALPHA("\"dense\"", "0", CELL, CELL), "a.jsonl:1: \"epoch\" is 0, must be 1 to 10000000"},
        {ALPHA("\"dense\"", "2", CELL, CELL), "a.jsonl:1: epoch 2 of stage 'dense' where epoch 1 must stand"},
        {GOOD_ALPHA ALPHA("\"dense\"", "3", CELL, CELL),
         "a.jsonl:2: epoch 3 of stage 'dense' where epoch 2 must stand"},
        {GOOD_ALPHA ALPHA("\"score\"", "2", CELL, CELL),
         "a.jsonl:2: epoch 2 of stage 'score' where epoch 1 must stand"},
        {ALPHA("\"dense\"", "1", "[" EIGHT "]", CELL),
         "a.jsonl:1: 1 edges are no cell; 1 to 8 nodes have 2, 5, 9, ... 44"},
        {ALPHA("\"dense\"", "1", CELL, "[" EIGHT "]"), "a.jsonl:1: \"reduce\" has 1 edges, must have 2"},
        {GOOD_ALPHA ALPHA("\"dense\"", "2", "[" EIGHT "," EIGHT "," EIGHT "," EIGHT "," EIGHT "]", CELL),
         "a.jsonl:2: \"normal\" has 5 edges, must have 2"},
        {ALPHA("\"dense\"", "1", CELL, "[" EIGHT ",[0,0,0,0,0,0,0]]"),
         "a.jsonl:1: reduce[1] must be a list of 8 numbers"},
        {ALPHA("\"dense\"", "1", CELL, "[" EIGHT ",7]"), "a.jsonl:1: reduce[1] must be a list of 8 numbers"},
        {ALPHA("\"dense\"", "1", "[" EIGHT ",[0,0,0,\"1\",0,0,0,0]]", CELL),
         "a.jsonl:1: normal[1][3] must be a number within 1e+100 of 0"},
        {ALPHA("\"dense\"", "1", "[" EIGHT ",[0,0,0,1e101,0,0,0,0]]", CELL),
         "a.jsonl:1: normal[1][3] must be a number within 1e+100 of 0"},
        {ALPHA("\"dense\"", "1", "[" EIGHT ",[NaN,0,0,0,0,0,0,0]]", CELL), "a.jsonl:1:59: invalid token near 'NaN'"},
        {ALPHA("\"dense\"", "1", "[[1e999,0,0,0,0,0,0,0]]", CELL), "a.jsonl:1:43: real number overflow near '1e999'"},
        {ALPHA("\"dense\",\"epoch\":1", "1", CELL, CELL), "a.jsonl:1:34: duplicate object key near '\"epoch\"'"},
    };
    for (size_t i = 0; i < N_OF(cases); ++i) {
        char *svg = NULL;
        assert_fails(dass_plot_alphas("a.jsonl", cases[i].text, strlen(cases[i].text), &svg), DASS_FORMAT,
                     cases[i].error);
        assert_null(svg);
    }
}

static void bad_metrics_are_refused(void **state)
{
    (void)state;
#define ONE EPOCH("\"dense\"", "1", "3", "1.0", "0.5")
#define TEST "{\"stage\":\"test\",\"test_loss\":1,\"test_top1\":0.5}\n"
    static const bad cases[] = {
        {"null\n", "m.jsonl:1:4: '[' or '{' expected near 'null'"},
        {ONE "{\"stage\":\n" ONE, "m.jsonl:2:9: unexpected token near end of file"},
        {"{}\n", "m.jsonl:1: \"stage\" must be a name of 1 to 31 bytes"},
        {EPOCH("\"a234567890123456789012345678901234\"", "1", "3", "1.0", "0.5"),
         "m.jsonl:1: \"stage\" must be a name of 1 to 31 bytes"},
        {ONE EPOCH("\"dense\"", "2", "1", "1.0", "0.5"), "m.jsonl:2: \"epoch\" is 2, must be 1 to 1"},
        {ONE EPOCH("\"dense\"", "2", "\"3\"", "1.0", "0.5"), "m.jsonl:2: \"epochs\" must be an integer"},
        {ONE ONE EPOCH("\"dense\"", "3", "3", "1.0", "0.5"),
         "m.jsonl:3: epoch 3 of stage 'dense' where epoch 2 must stand"},
        {EPOCH("\"dense\"", "1", "3", "null", "0.5"), "m.jsonl:1: \"train_loss\" must be a number"},
        {EPOCH("\"dense\"", "1", "3", "1e300", "0.5"),
         "m.jsonl:1: \"train_loss\" is 1e+300, must be -1e+100 to 1e+100"},
        {EPOCH("\"dense\"", "1", "3", "1.0", "50.5"), "m.jsonl:1: \"train_top1\" is 50.5, must be 0 to 1"},
        {EPOCH("\"dense\"", "1", "3", "1.0", "0.5,\"val_loss\":1"), "m.jsonl:1: \"val_top1\" must be a number"},
        {EPOCH("\"dense\"", "1", "3", "1.0", "0.5,\"val_top1\":0.1,\"val_loss\":\"x\""),
         "m.jsonl:1: \"val_loss\" must be a number"},
        {ONE "{\"stage\":\"test\",\"test_loss\":1}\n", "m.jsonl:2: \"test_top1\" must be a number"},
        {ONE TEST ONE, "m.jsonl:3: a line after that of the test, which is the last of a run"},
        {ONE "{\"stage\":\"\xff\"}\n", "m.jsonl:2:10: unable to decode byte 0xff near '\"'"},
    };
    for (size_t i = 0; i < N_OF(cases); ++i) {
        char *svg = NULL;
        assert_fails(dass_plot_curves("m.jsonl", cases[i].text, strlen(cases[i].text), &svg), DASS_FORMAT,
                     cases[i].error);
        assert_null(svg);
    }
    text t = {0};
    char *svg = NULL;
    for (int i = 0; i < 65; ++i)
        add(&t, ONE);
    assert_fails(dass_plot_curves("m.jsonl", t.at, t.n, &svg), DASS_FORMAT, "m.jsonl:65: more than 64 stages");
    dass_mem_free(t.at);
}

typedef dass_status (*plot)(const char *name, const char *text, size_t n_bytes, char **svg);

/* A file cut anywhere is a run that is being written: the picture is that of its complete lines. */
static void check_prefixes(plot draw, const text *t)
{
    char *whole = NULL; /* of the lines complete so far */
    for (size_t n = 0; n <= t->n; ++n) {
        char *svg = NULL;
        check_ok(draw("run", t->at, n, &svg));
        const bool line_ends = n == t->n || t->at[n] == '\n'; /* complete without its newline, too */
        if (n == 0)
            assert_null(svg);
        else if (line_ends) {
            assert_non_null(svg);
            assert_true(whole == NULL || strcmp(whole, svg) != 0 || t->at[n - 1] == '\n');
            dass_mem_free(whole);
            whole = svg;
            svg = NULL;
        } else if (whole == NULL)
            assert_null(svg);
        else
            assert_string_equal(svg, whole);
        dass_mem_free(svg);
    }
    dass_mem_free(whole);
}

static void unfinished_lines_are_passed_over(void **state)
{
    (void)state;
    static const part two[] = {{"dense", 2}, {"score", 1}};
    text a = {0};
    text m = {0};
    add_alphas(&a, two, N_OF(two), 2);
    add_metrics(&m, two, N_OF(two));
    check_prefixes(dass_plot_alphas, &a);
    check_prefixes(dass_plot_curves, &m);
    dass_mem_free(a.at);
    dass_mem_free(m.at);
}

/* Bytes changed, removed and doubled at random: a picture or a named fault, nothing else. */
static void check_mutations(plot draw, const text *t, int rounds)
{
    static const char likely[] = "{}[]\",:0123456789.-+eE\n\\u truefalsn";
    dass_rng rng = dass_rng_make(11, DASS_RNG_TEST, 1, 0);
    void *block = NULL;
    int n_drawn = 0;
    int n_refused = 0;
    check_ok(dass_mem_alloc(2 * t->n, "test", &block));
    char *copy = block;
    for (int i = 0; i < rounds; ++i) {
        size_t n = t->n;
        memcpy(copy, t->at, n);
        for (uint32_t k = 0; k < 1 + dass_rng_below(&rng, 3); ++k) {
            const size_t at = dass_rng_below(&rng, (uint32_t)n);
            const size_t len = 1 + dass_rng_below(&rng, (uint32_t)(n - at < 40 ? n - at : 40));
            switch (dass_rng_below(&rng, 4)) {
            case 0:
                copy[at] = (char)dass_rng_u32(&rng);
                break;
            case 1:
                copy[at] = likely[dass_rng_below(&rng, sizeof likely - 1)];
                break;
            case 2:
                memmove(copy + at, copy + at + len, n - at - len);
                n -= len < n ? len : 0;
                break;
            default:
                if (n + len <= 2 * t->n) {
                    memmove(copy + at + len, copy + at, n - at);
                    n += len;
                }
            }
        }
        char *svg = NULL;
        const dass_status st = draw("run", copy, n, &svg);
        assert_true(st == DASS_OK || st == DASS_FORMAT);
        if (st == DASS_OK) {
            assert_true(svg == NULL || is_xml(svg));
            ++n_drawn;
        } else {
            assert_null(svg);
            assert_memory_equal(dass_error_text(), "run:", 4);
            ++n_refused;
        }
        dass_mem_free(svg);
    }
    assert_true(n_drawn > 0 && n_refused > 0);
    dass_mem_free(copy);
}

static void broken_files_break_nothing(void **state)
{
    (void)state;
    static const part two[] = {{"dense", 3}, {"score", 2}};
    const int rounds = getenv("DASS_TEST_SHORT") != NULL ? 1000 : 10000;
    text a = {0};
    text m = {0};
    add_alphas(&a, two, N_OF(two), 2);
    add_metrics(&m, two, N_OF(two));
    check_mutations(dass_plot_alphas, &a, rounds);
    check_mutations(dass_plot_curves, &m, rounds);
    dass_mem_free(a.at);
    dass_mem_free(m.at);
}

/* Every allocation in turn fails: the status says so and nothing is left. */
static void memory_runs_out_cleanly(void **state)
{
    (void)state;
    text t[2] = {{0}, {0}};
    add_alphas(&t[0], three, N_OF(three), 14);
    add_metrics(&t[1], three, N_OF(three));
    const dass_genotype g = dass_genotype_random(1, 4);
    for (int what = 0; what < 3; ++what) {
        const size_t live = dass_mem_get_stats().n_live;
        size_t k = 1;
        for (dass_status st = DASS_NOMEM; st != DASS_OK; ++k) {
            char *svg = NULL;
            dass_mem_fail_at(k);
            st = what == 0   ? dass_plot_alphas("a", t[0].at, t[0].n, &svg)
                 : what == 1 ? dass_plot_curves("m", t[1].at, t[1].n, &svg)
                             : dass_plot_cell(&g, false, &svg);
            dass_mem_fail_at(0);
            assert_true(st == DASS_OK || (st == DASS_NOMEM && svg == NULL));
            dass_mem_free(svg);
            assert_int_equal(dass_mem_get_stats().n_live, live);
        }
        assert_true(k > 2); /* something did fail */
    }
    dass_mem_free(t[0].at);
    dass_mem_free(t[1].at);
}

/* ---- folders ---- */

static char folder[64];

static const char *at(const char *name)
{
    static char path[4][256];
    static int next;
    next = (next + 1) % 4;
    (void)snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

static bool is_file(const char *name)
{
    struct stat sb;
    return stat(at(name), &sb) == 0 && S_ISREG(sb.st_mode);
}

static int make_folder(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/dass_test_plot.XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static void fails_with(dass_status st, dass_status want, const char *fmt, const char *a)
{
    char want_text[1024];
    (void)snprintf(want_text, sizeof want_text, "%s%s", a, fmt);
    assert_fails(st, want, want_text);
}

static void folders_are_drawn(void **state)
{
    (void)state;
    static dass_plot_files files;
    text a = {0};
    text m = {0};
    check_ok(dass_folder_make(at("run")));
    fails_with(dass_plot_run(at("run"), NULL, &files), DASS_IO,
               ": nothing to draw: it holds no genotype.json, alphas.jsonl or metrics.jsonl; name a run folder (-o of "
               "search, train or prune) or a genotype file",
               at("run"));
    fails_with(dass_plot_run(at("none"), NULL, &files), DASS_IO,
               ": No such file or directory; name a run folder (-o of search, train or prune) or a genotype file",
               at("none"));

    add_metrics(&m, three, N_OF(three));
    check_ok(dass_file_write(at("run/metrics.jsonl"), m.at, m.n));
    check_ok(dass_plot_run(at("run"), NULL, &files));
    assert_int_equal(files.n, 1);
    assert_string_equal(files.path[0], at("run/curves.svg"));
    assert_true(is_file("run/curves.svg"));

    const dass_genotype g = dass_genotype_random(2, 4);
    dass_arena *mem = NULL;
    check_ok(dass_arena_make("test", &mem));
    const char *json = dass_genotype_print(&g, mem);
    check_ok(dass_file_write(at("run/genotype.json"), json, strlen(json)));
    dass_arena_free(mem);
    add_alphas(&a, three, N_OF(three), 14);
    check_ok(dass_file_write(at("run/alphas.jsonl"), a.at, a.n));
    check_ok(dass_plot_run(at("run"), at("deep/er"), &files));
    assert_int_equal(files.n, 4);
    static const char *const names[] = {"cell_normal.svg", "cell_reduce.svg", "alphas.svg", "curves.svg"};
    for (size_t i = 0; i < N_OF(names); ++i) {
        char want[128];
        (void)snprintf(want, sizeof want, "deep/er/%s", names[i]);
        assert_string_equal(files.path[i], at(want));
        assert_true(is_file(want));
    }
    assert_false(is_file("run/alphas.svg")); /* they went elsewhere */

    fails_with(dass_plot_run(at("run/genotype.json"), NULL, &files), DASS_ARG,
               " is a file; say with -o DIR where its pictures go", at("run/genotype.json"));
    check_ok(dass_plot_run(at("run/genotype.json"), at("one"), &files));
    assert_int_equal(files.n, 2);
    assert_true(is_file("one/cell_reduce.svg") && !is_file("one/curves.svg"));
    dass_mem_free(a.at);
    dass_mem_free(m.at);
}

static void what_was_written_is_listed(void **state)
{
    (void)state;
    static dass_plot_files files;
    text m = {0};
    check_ok(dass_folder_make(at("half")));
    check_ok(dass_file_write(at("half/alphas.jsonl"), "", 0));
    check_ok(dass_plot_run(at("half"), NULL, &files)); /* warned of: no epoch yet */
    assert_int_equal(files.n, 0);
    check_ok(dass_file_write(at("half/alphas.jsonl"), GOOD_ALPHA, strlen(GOOD_ALPHA)));
    add_metrics(&m, three, N_OF(three));
    add(&m, "{}\n");
    check_ok(dass_file_write(at("half/metrics.jsonl"), m.at, m.n));
    fails_with(dass_plot_run(at("half"), NULL, &files), DASS_FORMAT,
               "/metrics.jsonl:49: \"stage\" must be a name of 1 to 31 bytes", at("half"));
    assert_int_equal(files.n, 1);
    assert_string_equal(files.path[0], at("half/alphas.svg"));
    assert_false(is_file("half/curves.svg"));
    assert_false(is_file("half/alphas.svg.tmp"));
    check_ok(dass_folder_make(at("odd/metrics.jsonl")));
    fails_with(dass_plot_run(at("odd"), NULL, &files), DASS_IO,
               "/metrics.jsonl: cannot read the source of a picture: Is a directory", at("odd"));
    dass_mem_free(m.at);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_xml_reader_is_strict),
        cmocka_unit_test(published_cells),
        cmocka_unit_test(random_cells),
        cmocka_unit_test(extreme_cells),
        cmocka_unit_test(alphas_of_every_size),
        cmocka_unit_test(alphas_are_softmax),
        cmocka_unit_test(axes_contain_the_data),
        cmocka_unit_test(curves_of_three_stages),
        cmocka_unit_test(gaps_stay_gaps),
        cmocka_unit_test(long_runs_are_thinned),
        cmocka_unit_test(names_are_escaped),
        cmocka_unit_test(the_locale_changes_nothing),
        cmocka_unit_test(bad_alphas_are_refused),
        cmocka_unit_test(bad_metrics_are_refused),
        cmocka_unit_test(unfinished_lines_are_passed_over),
        cmocka_unit_test(broken_files_break_nothing),
        cmocka_unit_test(memory_runs_out_cleanly),
        cmocka_unit_test(folders_are_drawn),
        cmocka_unit_test(what_was_written_is_listed),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
