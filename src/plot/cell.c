/* The picture of a cell: columns by longest path from the inputs, every operation in a label that stands in its own
 * edge, between two columns of nodes. Drawing only; positions come from layout.c.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "plot_private.h"

#define MARGIN 18.0
#define HEAD 40.0  /* above the graph: title and legend */
#define BEND 28.0  /* least width of a gap, where edges change their height */
#define STEEP 0.22 /* of the highest step in a gap is added to its width */
#define NODE_W 40.0
#define PORT 9.0
#define LABEL_H 22.0
#define LABEL_SIZE 12.5
#define THIN 4.0 /* height of an edge that passes a column */
#define ARROW 8.0
#define MAX_VERTICES (2 + DASS_MAX_NODES + 1)
#define MAX_EDGES (3 * DASS_MAX_NODES)

/* How an edge looks. */
typedef enum kind { KIND_WEIGHTS, KIND_FREE, KIND_CONCAT, N_KINDS } kind;
static const struct {
    const char *class, *line, *fill, *text, *dash, *help;
} looks[N_KINDS] = {
    [KIND_WEIGHTS] = {"weights", "#0072b2", "#e4f1f9", "#003f66", "none", "with weights"},
    [KIND_FREE] = {"free", "#d55e00", "#fdeee2", "#7a3500", "5 3", "without weights"},
    [KIND_CONCAT] = {"concat", "#8a97a3", "#ffffff", "#5f6c78", "none", "concatenation"},
};

static const char *const words[DASS_N_PRIMS] = {
    [DASS_PRIM_NONE] = "none",     [DASS_PRIM_MAX_POOL_3] = "max pool 3×3", [DASS_PRIM_AVG_POOL_3] = "avg pool 3×3",
    [DASS_PRIM_SKIP] = "skip",     [DASS_PRIM_SEP_3] = "sep 3×3",           [DASS_PRIM_SEP_5] = "sep 5×5",
    [DASS_PRIM_DIL_3] = "dil 3×3", [DASS_PRIM_DIL_5] = "dil 5×5",
};

typedef struct edge {
    int from, to; /* vertices: 0, 1 inputs, 2... nodes, the last is the output */
    kind kind;
    const char *label;                   /* NULL for concat */
    int chain[DASS__MAX_RANKS], n_chain; /* items from node to node */
    int n_label;                         /* which of the chain carries the label */
} edge;

typedef struct cell {
    const char *title, *note;
    int n_vertices, n_edges;
    int layer[MAX_VERTICES], item[MAX_VERTICES];
    edge edge[MAX_EDGES];
    int n_labels[DASS__MAX_RANKS];
    double left[DASS__MAX_RANKS], width[DASS__MAX_RANKS]; /* of columns; even ranks hold nodes, odd ones labels */
    dass__layout layout;
} cell;

const char *dass__op_word(int op)
{
    return words[op];
}

/* ---- the graph ------------------------------------------------------------------------------------------------ */

static void add_edge(cell *c, int from, int to, kind k, const char *label)
{
    DASS_ASSERT(c->n_edges < MAX_EDGES);
    c->edge[c->n_edges++] = (edge){.from = from, .to = to, .kind = k, .label = label};
}

/* A reduction cell halves its inputs: there a skip is a strided convolution, which has weights. */
static void add_gene(cell *c, const dass_gene *gene, int to, bool reduce)
{
    DASS_ASSERT(gene->src >= 0 && gene->src < to);
    const bool halves = reduce && gene->src < 2;
    const bool free =
        gene->op == DASS_PRIM_MAX_POOL_3 || gene->op == DASS_PRIM_AVG_POOL_3 || (gene->op == DASS_PRIM_SKIP && !halves);
    const char *label = gene->op == DASS_PRIM_SKIP && halves ? "skip /2" : words[gene->op];
    add_edge(c, gene->src, to, free ? KIND_FREE : KIND_WEIGHTS, label);
    if (c->layer[gene->src] >= c->layer[to])
        c->layer[to] = c->layer[gene->src] + 1;
}

static void add_all(cell *c, const dass_genotype *g, bool reduce)
{
    const dass_gene *genes = reduce ? g->reduce : g->normal;
    const int32_t *concat = reduce ? g->reduce_concat : g->normal_concat;
    const int n_concat = reduce ? g->n_reduce_concat : g->n_normal_concat;
    c->title = reduce ? "reduction cell" : "normal cell";
    c->note = reduce ? "edges from the inputs have stride 2" : "";
    c->n_vertices = g->n_nodes + 3;
    const int out = c->n_vertices - 1;
    for (int i = 0; i < 2 * g->n_nodes; ++i)
        add_gene(c, &genes[i], i / 2 + 2, reduce);
    for (int v = 2; v < out; ++v)
        if (c->layer[v] >= c->layer[out])
            c->layer[out] = c->layer[v] + 1;
    for (int i = 0; i < n_concat; ++i) {
        DASS_ASSERT(concat[i] >= 2 && concat[i] < out);
        add_edge(c, concat[i], out, KIND_CONCAT, NULL);
    }
}

/* ---- columns -------------------------------------------------------------------------------------------------- */

static double vertex_height(const cell *c, int v)
{
    int in = 0;
    int out = 0;
    for (int i = 0; i < c->n_edges; ++i) {
        in += c->edge[i].to == v;
        out += c->edge[i].from == v;
    }
    return fmax(34.0, PORT * fmax(in, out) + 12.0);
}

/* The least crowded of the label columns that an edge passes; of equals the one nearest to its middle. */
static int label_column(const cell *c, const edge *e)
{
    const int first = 2 * c->layer[e->from] + 1;
    const int last = 2 * c->layer[e->to] - 1;
    int best = first;
    for (int r = first; r <= last; r += 2) {
        const int more = c->n_labels[r] - c->n_labels[best];
        if (more < 0 || (more == 0 && abs(2 * r - first - last) < abs(2 * best - first - last)))
            best = r;
    }
    return best;
}

static void add_chain(cell *c, edge *e)
{
    const int first = 2 * c->layer[e->from];
    const int last = 2 * c->layer[e->to];
    const int labelled = e->label != NULL ? label_column(c, e) : -1;
    if (labelled >= 0) {
        c->n_labels[labelled]++;
        c->width[labelled] = fmax(c->width[labelled], dass__text_width(e->label, LABEL_SIZE) + 14.0);
    }
    e->chain[e->n_chain++] = c->item[e->from];
    for (int r = first + 1; r < last; ++r) {
        if (r == labelled)
            e->n_label = e->n_chain;
        e->chain[e->n_chain++] = dass__layout_item(&c->layout, r, false, r == labelled ? LABEL_H : THIN);
    }
    e->chain[e->n_chain++] = c->item[e->to];
    for (int i = 0; i + 1 < e->n_chain; ++i)
        dass__layout_link(&c->layout, e->chain[i], e->chain[i + 1]);
}

/* Short edges choose the column of their label first: they have no choice. */
static void add_chains(cell *c)
{
    for (int v = 0; v < c->n_vertices; ++v)
        c->item[v] = dass__layout_item(&c->layout, 2 * c->layer[v], true, vertex_height(c, v));
    for (int length = 1; length < MAX_VERTICES; ++length)
        for (int i = 0; i < c->n_edges; ++i)
            if (c->layer[c->edge[i].to] - c->layer[c->edge[i].from] == length)
                add_chain(c, &c->edge[i]);
}

/* Columns from left to right; the width of the graph is returned, and its height begins at 0. */
static double set_columns(cell *c, double *height)
{
    double x = 0.0;
    double steepest[DASS__MAX_RANKS] = {0};
    for (int k = 0; k < c->layout.n_links; ++k) {
        const dass__link *l = &c->layout.link[k];
        const int r = c->layout.item[l->from].rank;
        const double step = c->layout.item[l->to].y + l->to_port - c->layout.item[l->from].y - l->from_port;
        steepest[r] = fmax(steepest[r], fabs(step));
    }
    for (int r = 0; r < c->layout.n_ranks; ++r) {
        if (r % 2 == 0)
            c->width[r] = NODE_W;
        c->left[r] = x;
        x += c->width[r] + (r + 1 < c->layout.n_ranks ? BEND + STEEP * steepest[r] : 0.0);
    }
    double top = 0.0;
    double bottom = 0.0;
    for (int i = 0; i < c->layout.n_items; ++i) {
        const dass__item *t = &c->layout.item[i];
        top = i == 0 ? t->y - 0.5 * t->height : fmin(top, t->y - 0.5 * t->height);
        bottom = i == 0 ? t->y + 0.5 * t->height : fmax(bottom, t->y + 0.5 * t->height);
    }
    for (int i = 0; i < c->layout.n_items; ++i)
        c->layout.item[i].y -= top;
    *height = bottom - top;
    return x;
}

/* ---- drawing -------------------------------------------------------------------------------------------------- */

static const dass__link *find_link(const dass__layout *g, int from, int to)
{
    for (int k = 0; k < g->n_links; ++k)
        if (g->link[k].from == from && g->link[k].to == to)
            return &g->link[k];
    DASS_ASSERT(false);
    return NULL;
}

/* An edge runs level through the columns and bends between them. */
static void draw_edge(dass__svg *s, const cell *c, const edge *e)
{
    const dass__layout *g = &c->layout;
    double x = 0.0;
    double y = 0.0;
    dass__svg_put(
        s, "<path class=\"edge %s\" fill=\"none\" stroke=\"%s\" stroke-width=\"%s\" stroke-dasharray=\"%s\" d=\"",
        looks[e->kind].class, looks[e->kind].line, e->kind == KIND_CONCAT ? "1.30" : "1.70", looks[e->kind].dash);
    for (int i = 0; i + 1 < e->n_chain; ++i) {
        const dass__link *k = find_link(g, e->chain[i], e->chain[i + 1]);
        const dass__item *a = &g->item[k->from];
        const dass__item *b = &g->item[k->to];
        const bool ends = i + 2 == e->n_chain;
        const double x0 = c->left[a->rank] + c->width[a->rank];
        const double y0 = a->y + k->from_port;
        x = c->left[b->rank] - (ends ? ARROW - 1.0 : 0.0);
        y = b->y + k->to_port;
        const double mid = 0.5 * (x0 + x);
        dass__svg_put(s, "%s%f,%f C%f,%f %f,%f %f,%f", i == 0 ? "M" : " L", x0, y0, mid, y0, mid, y, x, y);
    }
    dass__svg_put(s, "\"/>\n<path class=\"arrow %s\" fill=\"%s\" d=\"M%f,%f l%f,-4 l0,8 z\"/>\n", looks[e->kind].class,
                  looks[e->kind].line, x + ARROW - 1.0, y, -ARROW);
}

static void draw_label(dass__svg *s, const cell *c, const edge *e)
{
    const dass__item *t = &c->layout.item[e->chain[e->n_label]];
    const double w = dass__text_width(e->label, LABEL_SIZE) + 14.0;
    const double x = c->left[t->rank] + 0.5 * c->width[t->rank];
    dass__svg_put(
        s,
        "<rect class=\"chip\" x=\"%f\" y=\"%f\" width=\"%f\" height=\"%f\" rx=\"6\" fill=\"%s\" stroke=\"%s\"/>\n"
        "<text class=\"op\" x=\"%f\" y=\"%f\" font-size=\"%f\" text-anchor=\"middle\" fill=\"%s\">%s</text>\n",
        x - 0.5 * w, t->y - 0.5 * LABEL_H, w, LABEL_H, looks[e->kind].fill, looks[e->kind].line, x,
        t->y + 0.35 * LABEL_SIZE, LABEL_SIZE, looks[e->kind].text, e->label);
}

static void draw_vertex(dass__svg *s, const cell *c, int v)
{
    const dass__item *t = &c->layout.item[c->item[v]];
    const double x = c->left[t->rank];
    const bool inner = v >= 2 && v + 1 < c->n_vertices;
    dass__svg_put(s,
                  "<rect class=\"node\" x=\"%f\" y=\"%f\" width=\"%f\" height=\"%f\" rx=\"7\" fill=\"%s\" "
                  "stroke=\"%s\" stroke-width=\"1.4\"/>\n<text x=\"%f\" y=\"%f\" font-size=\"15\" "
                  "text-anchor=\"middle\"",
                  x, t->y - 0.5 * t->height, NODE_W, t->height, inner ? "#ffffff" : "#e9eef2",
                  inner ? DASS__INK : "#8a97a3", x + 0.5 * NODE_W, t->y + 5.0);
    if (inner)
        dass__svg_put(s, ">%d</text>\n", v - 2);
    else
        dass__svg_put(s, "><tspan font-style=\"italic\">c</tspan><tspan font-size=\"10\" dy=\"4\">%s</tspan></text>\n",
                      v == 0   ? "k−2"
                      : v == 1 ? "k−1"
                               : "k");
}

static double legend_width(void)
{
    double w = 0.0;
    for (int k = 0; k < N_KINDS; ++k)
        w += 40.0 + dass__text_width(looks[k].help, 12.0);
    return w;
}

static void draw_legend(dass__svg *s, double right, double y)
{
    double x = right - legend_width();
    for (int k = 0; k < N_KINDS; ++k) {
        x += 40.0;
        dass__svg_put(s,
                      "<line x1=\"%f\" y1=\"%f\" x2=\"%f\" y2=\"%f\" stroke=\"%s\" stroke-width=\"1.7\" "
                      "stroke-dasharray=\"%s\"/>\n<text x=\"%f\" y=\"%f\" fill=\"%s\">%s</text>\n",
                      x - 30.0, y - 4.0, x - 6.0, y - 4.0, looks[k].line, looks[k].dash, x, y, DASS__SOFT,
                      looks[k].help);
        x += dass__text_width(looks[k].help, 12.0);
    }
}

static void draw(dass__svg *s, cell *c)
{
    double height = 0.0;
    const double width = set_columns(c, &height);
    const double head = 30.0 + dass__text_width(c->title, 15.0) + dass__text_width(c->note, 12.0);
    const bool two_rows = head + legend_width() > width; /* a narrow graph has its legend below */
    const double inner = fmax(width, two_rows ? fmax(head, legend_width()) : width);
    const double total = MARGIN + HEAD + height + (two_rows ? 34.0 : 0.0) + MARGIN;
    dass__svg_begin(s, inner + 2.0 * MARGIN, total, c->title);
    dass__svg_put(s,
                  "<text x=\"%f\" y=\"%f\" font-size=\"15\" font-weight=\"bold\">%s<tspan dx=\"12\" font-size=\"12\" "
                  "font-weight=\"normal\" fill=\"%s\">%s</tspan></text>\n",
                  MARGIN, MARGIN + 12.0, c->title, DASS__SOFT, c->note);
    draw_legend(s, two_rows ? MARGIN - 10.0 + legend_width() : MARGIN + inner,
                two_rows ? total - MARGIN : MARGIN + 12.0);
    dass__svg_put(s, "<g transform=\"translate(%f %f)\">\n", MARGIN + 0.5 * (inner - width), MARGIN + HEAD);
    for (int pass = 0; pass < 2; ++pass) /* the grey lines lie below */
        for (int i = 0; i < c->n_edges; ++i)
            if ((c->edge[i].kind == KIND_CONCAT) == (pass == 0))
                draw_edge(s, c, &c->edge[i]);
    for (int i = 0; i < c->n_edges; ++i)
        if (c->edge[i].label != NULL)
            draw_label(s, c, &c->edge[i]);
    for (int v = 0; v < c->n_vertices; ++v)
        draw_vertex(s, c, v);
    dass__svg_put(s, "</g>\n");
}

dass_status dass_plot_cell(const dass_genotype *g, bool reduce, char **svg)
{
    void *block = NULL;
    *svg = NULL;
    DASS_ASSERT(g->n_nodes >= 1 && g->n_nodes <= DASS_MAX_NODES);
    DASS_TRY(dass_mem_alloc(sizeof(cell), "picture of a cell", &block));
    cell *c = block;
    dass__svg s;
    add_all(c, g, reduce);
    add_chains(c);
    dass__layout_run(&c->layout, c->item[0], PORT);
    draw(&s, c);
    dass_mem_free(c);
    DASS_TRY(dass__svg_end(&s, svg));
    return DASS_OK;
}
