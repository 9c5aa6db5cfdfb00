/* The picture of a search: for every edge of both cells the softmax weights of its operations over the epochs. Panels
 * stand as the edges do: a row per node, a column per source. Invariant: all panels share both scales.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "plot_private.h"

#define MARGIN 18.0
#define PANEL_W 148.0
#define PANEL_H 78.0
#define STEP_X (PANEL_W + 16.0)
#define STEP_Y (PANEL_H + 30.0)
#define AXIS_W 30.0     /* tick texts left of a row */
#define BLOCK_HEAD 46.0 /* title of a block, and of its first panels */
#define BLOCK_FOOT 26.0
#define MOST_POINTS 300 /* of a line: two a pixel */

/* One hue for a family, so that 3 x 3 and 5 x 5 are neighbours; from Okabe and Ito's and Tol's safe palettes. */
static const char *const colours[DASS_N_PRIMS] = {
    [DASS_PRIM_NONE] = "#9aa5b1",  [DASS_PRIM_MAX_POOL_3] = "#d55e00", [DASS_PRIM_AVG_POOL_3] = "#e69f00",
    [DASS_PRIM_SKIP] = "#111111",  [DASS_PRIM_SEP_3] = "#0072b2",      [DASS_PRIM_SEP_5] = "#56b4e9",
    [DASS_PRIM_DIL_3] = "#882255", [DASS_PRIM_DIL_5] = "#cc79a7",
};

typedef struct alphas {
    int n_nodes, n_edges; /* of one cell */
    dass__stages stages;
    float *weight; /* [epoch][cell][edge][op], after softmax */
    size_t bytes;
    double largest;
} alphas;

/* ---- reading -------------------------------------------------------------------------------------------------- */

static dass_status read_edge(const dass__lines *l, const json_t *row, const char *key, int edge, float *out)
{
    if (!json_is_array(row) || json_array_size(row) != DASS_N_PRIMS)
        return DASS_FAIL(DASS_FORMAT, "%s:%d: %s[%d] must be a list of %d numbers", l->name, l->number, key, edge,
                         DASS_N_PRIMS);
    double raw[DASS_N_PRIMS];
    double largest = -DASS__MAX_VALUE;
    double sum = 0.0;
    for (size_t k = 0; k < DASS_N_PRIMS; ++k) {
        const json_t *value = json_array_get(row, k);
        raw[k] = json_number_value(value);
        if (!json_is_number(value) || !(fabs(raw[k]) <= DASS__MAX_VALUE))
            return DASS_FAIL(DASS_FORMAT, "%s:%d: %s[%d][%zu] must be a number within %g of 0", l->name, l->number, key,
                             edge, k, DASS__MAX_VALUE);
        largest = fmax(largest, raw[k]);
    }
    for (int k = 0; k < DASS_N_PRIMS; ++k)
        sum += exp(raw[k] - largest);
    for (int k = 0; k < DASS_N_PRIMS; ++k)
        out[k] = (float)(exp(raw[k] - largest) / sum);
    return DASS_OK;
}

/* The first line says how many edges there are; a cell of n nodes has n (n + 3) / 2. */
static dass_status find_edges(alphas *a, const dass__lines *l, size_t n)
{
    for (int nodes = 1; nodes <= DASS_MAX_NODES; ++nodes) {
        if ((size_t)dass_n_edges(nodes) != n)
            continue;
        a->n_nodes = nodes;
        a->n_edges = dass_n_edges(nodes);
        return DASS_OK;
    }
    return DASS_FAIL(DASS_FORMAT, "%s:%d: %zu edges are no cell; 1 to %d nodes have 2, 5, 9, ... %d", l->name,
                     l->number, n, DASS_MAX_NODES, (int)dass_n_edges(DASS_MAX_NODES));
}

static dass_status read_cell(alphas *a, const dass__lines *l, const json_t *object, const char *key, float *out)
{
    const json_t *list = json_object_get(object, key);
    if (!json_is_array(list))
        return DASS_FAIL(DASS_FORMAT, "%s:%d: \"%s\" must be a list", l->name, l->number, key);
    if (json_array_size(list) != (size_t)a->n_edges)
        return DASS_FAIL(DASS_FORMAT, "%s:%d: \"%s\" has %zu edges, must have %d", l->name, l->number, key,
                         json_array_size(list), a->n_edges);
    for (int e = 0; e < a->n_edges; ++e)
        DASS_TRY(read_edge(l, json_array_get(list, (size_t)e), key, e, out + e * DASS_N_PRIMS));
    return DASS_OK;
}

static dass_status read_line(void *ctx, const dass__lines *l, const json_t *object)
{
    alphas *a = ctx;
    if (a->n_edges == 0) {
        const json_t *list = json_object_get(object, "normal");
        if (!json_is_array(list))
            return DASS_FAIL(DASS_FORMAT, "%s:%d: \"normal\" must be a list", l->name, l->number);
        DASS_TRY(find_edges(a, l, json_array_size(list)));
    }
    DASS_TRY(dass__stages_add(&a->stages, l, object));
    const size_t epoch = (size_t)(2 * a->n_edges * DASS_N_PRIMS);
    const size_t need = (size_t)a->stages.n_epochs * epoch * sizeof(float); /* below 1e7 * 704 * 4 */
    if (need > a->bytes) {
        void *block = a->weight;
        DASS_TRY(dass_mem_grow(a->bytes, 2 * need, "weights of alphas", &block));
        a->weight = block;
        a->bytes = 2 * need;
    }
    float *out = a->weight + (size_t)(a->stages.n_epochs - 1) * epoch;
    DASS_TRY(read_cell(a, l, object, "normal", out));
    DASS_TRY(read_cell(a, l, object, "reduce", out + a->n_edges * DASS_N_PRIMS));
    for (size_t i = 0; i < epoch; ++i)
        a->largest = fmax(a->largest, (double)out[i]);
    return DASS_OK;
}

/* ---- drawing -------------------------------------------------------------------------------------------------- */

/* Epoch 0.5 is the left side, so that a boundary lies between two epochs; one epoch lies in the middle. */
static double epoch_x(const alphas *a, double epoch)
{
    return PANEL_W * (epoch - 0.5) / a->stages.n_epochs;
}

static void draw_line(dass__svg *s, const alphas *a, const dass__axis *y, int cell, int edge, int op)
{
    const int n = dass__sample_count(a->stages.n_epochs, MOST_POINTS);
    const float *at = a->weight + (cell * a->n_edges + edge) * DASS_N_PRIMS + op;
    dass__svg_put(s, "<polyline stroke=\"%s\" stroke-dasharray=\"%s\" points=\"", colours[op],
                  op == DASS_PRIM_NONE ? "4 2" : "none");
    for (int i = 0; i < n; ++i) {
        const int epoch = dass__sample(a->stages.n_epochs, MOST_POINTS, i);
        const double w = (double)at[(size_t)epoch * (size_t)(2 * a->n_edges * DASS_N_PRIMS)];
        const double h = PANEL_H * (1.0 - (w - y->lo) / (y->hi - y->lo));
        dass__svg_put(s, "%f,%f ", epoch_x(a, epoch + 1), h);
        if (n == 1) /* a line of one point would not show */
            dass__svg_put(s, "%f,%f ", epoch_x(a, epoch + 1) + 4.0, h);
    }
    dass__svg_put(s, "\"/>\n");
}

static void draw_frame(dass__svg *s, const alphas *a, const dass__axis *y, bool y_texts, bool x_texts)
{
    char text[32];
    for (int i = 0; i < y->n; ++i) {
        const double h = PANEL_H * (1.0 - (double)i / (y->n - 1));
        dass__svg_put(s, "<path d=\"M0,%f H%f\" stroke=\"%s\"/>\n", h, PANEL_W, i == 0 ? DASS__RULE : DASS__GRID);
        dass__axis_text(y, i, text, sizeof text);
        if (y_texts)
            dass__svg_put(s, "<text x=\"-6\" y=\"%f\" text-anchor=\"end\" font-size=\"10\" fill=\"%s\">%s</text>\n",
                          h + 3.5, DASS__SOFT, text);
    }
    for (int i = 1; i < a->stages.n; ++i)
        dass__svg_put(s, "<path class=\"boundary\" d=\"M%f,0 V%f\" stroke=\"%s\" stroke-dasharray=\"2 2\"/>\n",
                      epoch_x(a, a->stages.stage[i].first + 0.5), PANEL_H, DASS__RULE);
    const int step = dass__epoch_step(a->stages.n_epochs, 4);
    for (int e = step; x_texts && e <= a->stages.n_epochs; e += step)
        dass__svg_put(s,
                      "<path d=\"M%f,%f v3\" stroke=\"%s\"/>\n"
                      "<text x=\"%f\" y=\"%f\" text-anchor=\"middle\" font-size=\"10\" fill=\"%s\">%d</text>\n",
                      epoch_x(a, e), PANEL_H, DASS__RULE, epoch_x(a, e), PANEL_H + 14.0, DASS__SOFT, e);
}

static void draw_block(dass__svg *s, const alphas *a, const dass__axis *y, int cell, double top)
{
    dass__svg_put(s, "<text x=\"%f\" y=\"%f\" font-size=\"14\" font-weight=\"bold\">%s</text>\n", MARGIN, top + 14.0,
                  cell == 0 ? "normal cell" : "reduction cell");
    int edge = 0;
    for (int node = 0; node < a->n_nodes; ++node) {
        for (int src = 0; src < node + 2; ++src, ++edge) {
            dass__svg_put(s,
                          "<g class=\"panel\" transform=\"translate(%f %f)\">\n"
                          "<text y=\"-6\" font-size=\"11\" fill=\"%s\">%d ← %d</text>\n",
                          MARGIN + AXIS_W + src * STEP_X, top + BLOCK_HEAD + node * STEP_Y, DASS__SOFT, node + 2, src);
            draw_frame(s, a, y, src == 0, node + 1 == a->n_nodes);
            dass__svg_put(s, "<g fill=\"none\" stroke-width=\"1.4\" stroke-linejoin=\"round\">\n");
            for (int op = 0; op < DASS_N_PRIMS; ++op)
                draw_line(s, a, y, cell, edge, op);
            dass__svg_put(s, "</g>\n</g>\n");
        }
    }
    dass__svg_put(s, "<text x=\"%f\" y=\"%f\" text-anchor=\"middle\" font-size=\"11\" fill=\"%s\">epoch</text>\n",
                  MARGIN + AXIS_W + 0.5 * PANEL_W, top + BLOCK_HEAD + a->n_nodes * STEP_Y, DASS__SOFT);
}

/* Entries from (x, y) on, in as many rows as the width asks for; draw false: only count. The rows are returned. */
static int draw_legend(dass__svg *s, double left, double y, double width, bool draw)
{
    double x = 0.0;
    int rows = 1;
    for (int op = 0; op < DASS_N_PRIMS; ++op) {
        const double w = 40.0 + dass__text_width(dass__op_word(op), 12.0);
        if (x > 0.0 && x + w > width) {
            x = 0.0;
            ++rows;
        }
        const double h = y + 18.0 * (rows - 1);
        if (draw)
            dass__svg_put(s,
                          "<path d=\"M%f,%f h18\" stroke=\"%s\" stroke-width=\"2.4\" stroke-dasharray=\"%s\"/>\n"
                          "<text x=\"%f\" y=\"%f\">%s</text>\n",
                          left + x, h - 4.0, colours[op], op == DASS_PRIM_NONE ? "4 2" : "none", left + x + 24.0, h,
                          dass__op_word(op));
        x += w;
    }
    return rows;
}

/* "stages: dense 1–20, score 21–28", the first few of many. */
static void draw_stages(dass__svg *s, const dass__stages *t, double x, double y)
{
    dass__svg_put(s, "<text x=\"%f\" y=\"%f\" font-size=\"11\" fill=\"%s\">stages (dotted lines):", x, y, DASS__SOFT);
    for (int i = 0; i < t->n && i < 4; ++i)
        dass__svg_put(s, "%s %s %d–%d", i > 0 ? "," : "", t->stage[i].name, t->stage[i].first + 1,
                      dass__stage_end(t, i));
    dass__svg_put(s, "%s</text>\n", t->n > 4 ? ", …" : "");
}

static const char note[] =
    "softmax of alpha; panel n ← m is the edge into state n from state m: 0 and 1 are the inputs, 2 is node 0";

static void draw(dass__svg *s, const alphas *a)
{
    const double least = dass__text_width(note, 11.0);
    const double inner = fmax(AXIS_W + (a->n_nodes + 1) * STEP_X, least);
    const int rows = draw_legend(s, 0.0, 0.0, inner, false);
    const double head = MARGIN + 16.0 + 18.0 + 18.0 + 10.0 + 18.0 * rows + 14.0;
    const double block = BLOCK_HEAD + a->n_nodes * STEP_Y + BLOCK_FOOT;
    const dass__axis y = dass__axis_make(0.0, a->largest, 4);
    dass__svg_begin(s, inner + 2.0 * MARGIN, head + 2.0 * block + MARGIN - 10.0, "weights of the operations");
    dass__svg_put(s,
                  "<text x=\"%f\" y=\"%f\" font-size=\"15\" font-weight=\"bold\">weights of the operations</text>\n"
                  "<text x=\"%f\" y=\"%f\" font-size=\"11\" fill=\"%s\">%s</text>\n",
                  MARGIN, MARGIN + 12.0, MARGIN, MARGIN + 32.0, DASS__SOFT, note);
    draw_stages(s, &a->stages, MARGIN, MARGIN + 49.0);
    (void)draw_legend(s, MARGIN, MARGIN + 76.0, inner, true);
    for (int cell = 0; cell < 2; ++cell)
        draw_block(s, a, &y, cell, head + cell * block);
}

dass_status dass_plot_alphas(const char *name, const char *text, size_t n_bytes, char **svg)
{
    alphas a = {0};
    dass__svg s;
    *svg = NULL;
    dass_status st = dass__lines_each(name, text, n_bytes, read_line, &a);
    if (st == DASS_OK && a.stages.n_epochs > 0) {
        draw(&s, &a);
        st = dass__svg_end(&s, svg);
    }
    dass_mem_free(a.weight);
    DASS_TRY(st);
    return DASS_OK;
}
