/* The picture of a training: accuracy above, loss below, over the epochs of all stages; the test result as a marker at
 * the end. Invariant: every value lies within its axis, and a gap in the validation values is a gap in its line.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "plot_private.h"

#define MARGIN 18.0
#define PLOT_W 640.0
#define PLOT_H 190.0
#define LEFT (MARGIN + 62.0)
#define RIGHT 86.0 /* the value of the test */
#define HEAD 40.0  /* title and legend */
#define ROW_H 17.0 /* of stage names */
#define MAX_ROWS 3
#define BETWEEN 30.0
#define FOOT 42.0
#define MOST_POINTS 1000

enum { TRAIN, VAL, N_LINES };
enum { TOP1, LOSS, N_PANELS };
static const char *const words[N_LINES] = {"train", "validation"};
static const char *const colours[N_LINES] = {"#0072b2", "#d55e00"};
static const char *const test_colour = "#111111";
static const char *const titles[N_PANELS] = {"accuracy, %", "loss"};

typedef struct epoch {
    double value[N_PANELS][N_LINES]; /* NAN: none. Accuracy in percent. */
} epoch;

typedef struct curves {
    dass__stages stages;
    epoch *epochs;
    size_t bytes;
    bool has_val, has_test;
    double test[N_PANELS];
    int stage_row[DASS__MAX_STAGES], n_rows; /* where stage names stand; -1: no room */
} curves;

/* ---- reading -------------------------------------------------------------------------------------------------- */

static dass_status read_pair(const dass__lines *l, const json_t *object, const char *top1, const char *loss,
                             double *out_top1, double *out_loss)
{
    DASS_TRY(dass__line_number(l, object, top1, 0.0, 1.0, out_top1));
    DASS_TRY(dass__line_number(l, object, loss, -DASS__MAX_VALUE, DASS__MAX_VALUE, out_loss));
    *out_top1 *= 100.0;
    return DASS_OK;
}

static dass_status read_epoch(curves *c, const dass__lines *l, const json_t *object)
{
    int number = 0;
    int of = 0;
    DASS_TRY(dass__stages_add(&c->stages, l, object));
    DASS_TRY(dass__line_integer(l, object, "epochs", 1, DASS__MAX_EPOCHS, &of));
    DASS_TRY(dass__line_integer(l, object, "epoch", 1, of, &number));
    const size_t need = (size_t)c->stages.n_epochs * sizeof(epoch);
    if (need > c->bytes) {
        void *block = c->epochs;
        DASS_TRY(dass_mem_grow(c->bytes, 2 * need, "curves", &block));
        c->epochs = block;
        c->bytes = 2 * need;
    }
    epoch *e = &c->epochs[c->stages.n_epochs - 1];
    DASS_TRY(read_pair(l, object, "train_top1", "train_loss", &e->value[TOP1][TRAIN], &e->value[LOSS][TRAIN]));
    e->value[TOP1][VAL] = e->value[LOSS][VAL] = (double)NAN;
    if (json_object_get(object, "val_top1") != NULL || json_object_get(object, "val_loss") != NULL) {
        DASS_TRY(read_pair(l, object, "val_top1", "val_loss", &e->value[TOP1][VAL], &e->value[LOSS][VAL]));
        c->has_val = true;
    }
    return DASS_OK;
}

static dass_status read_line(void *ctx, const dass__lines *l, const json_t *object)
{
    curves *c = ctx;
    if (c->has_test)
        return DASS_FAIL(DASS_FORMAT, "%s:%d: a line after that of the test, which is the last of a run", l->name,
                         l->number);
    const char *stage = json_string_value(json_object_get(object, "stage"));
    if (stage == NULL || strcmp(stage, "test") != 0)
        return read_epoch(c, l, object);
    DASS_TRY(read_pair(l, object, "test_top1", "test_loss", &c->test[TOP1], &c->test[LOSS]));
    c->has_test = true;
    return DASS_OK;
}

/* ---- drawing -------------------------------------------------------------------------------------------------- */

static double epoch_x(const curves *c, double number)
{
    return PLOT_W * (number - 0.5) / c->stages.n_epochs;
}

static double value_y(const dass__axis *y, double value)
{
    return PLOT_H * (1.0 - (value - y->lo) / (y->hi - y->lo));
}

static dass__axis axis_of(const curves *c, int panel)
{
    double lo = c->epochs[0].value[panel][TRAIN];
    double hi = lo;
    for (int i = 0; i < c->stages.n_epochs; ++i)
        for (int k = 0; k < N_LINES; ++k) {
            lo = fmin(lo, c->epochs[i].value[panel][k]); /* fmin and fmax pass over NAN */
            hi = fmax(hi, c->epochs[i].value[panel][k]);
        }
    if (c->has_test) {
        lo = fmin(lo, c->test[panel]);
        hi = fmax(hi, c->test[panel]);
    }
    return dass__axis_make(lo, hi, 5);
}

/* A line, broken where a value is missing; a piece of one point is a dot. */
static void draw_line(dass__svg *s, const curves *c, const dass__axis *y, int panel, int line)
{
    const int n = dass__sample_count(c->stages.n_epochs, MOST_POINTS);
    for (int i = 0; i < n;) {
        int end = i;
        while (end < n && !isnan(c->epochs[dass__sample(c->stages.n_epochs, MOST_POINTS, end)].value[panel][line]))
            ++end;
        if (end - i > 1)
            dass__svg_put(s,
                          "<polyline class=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\" "
                          "stroke-linejoin=\"round\" points=\"",
                          words[line], colours[line]);
        for (int k = i; k < end; ++k) {
            const int e = dass__sample(c->stages.n_epochs, MOST_POINTS, k);
            const double px = epoch_x(c, e + 1);
            const double py = value_y(y, c->epochs[e].value[panel][line]);
            if (end - i > 1)
                dass__svg_put(s, "%f,%f ", px, py);
            else
                dass__svg_put(s, "<circle class=\"%s\" cx=\"%f\" cy=\"%f\" r=\"3\" fill=\"%s\"/>\n", words[line], px,
                              py, colours[line]);
        }
        if (end - i > 1)
            dass__svg_put(s, "\"/>\n");
        i = end > i ? end : i + 1;
    }
}

static void draw_axes(dass__svg *s, const curves *c, const dass__axis *y, int panel)
{
    char text[32];
    for (int i = 0; i < y->n; ++i) {
        const double h = value_y(y, y->lo + i * y->step);
        dass__axis_text(y, i, text, sizeof text);
        dass__svg_put(s,
                      "<path d=\"M0,%f H%f\" stroke=\"%s\"/>\n<text class=\"tick\" x=\"-8\" y=\"%f\" "
                      "text-anchor=\"end\" fill=\"%s\">%s</text>\n",
                      h, PLOT_W, i == 0 ? DASS__RULE : DASS__GRID, h + 4.0, DASS__SOFT, text);
    }
    for (int i = 1; i < c->stages.n; ++i)
        dass__svg_put(s, "<path class=\"boundary\" d=\"M%f,%f V%f\" stroke=\"%s\" stroke-dasharray=\"3 3\"/>\n",
                      epoch_x(c, c->stages.stage[i].first + 0.5), panel == 0 ? -6.0 : 0.0, PLOT_H, DASS__RULE);
    dass__svg_put(s, "<text transform=\"translate(%f %f) rotate(-90)\" text-anchor=\"middle\" fill=\"%s\">%s</text>\n",
                  -54.0, 0.5 * PLOT_H, DASS__SOFT, titles[panel]);
    const int step = dass__epoch_step(c->stages.n_epochs, 10);
    for (int e = step; e <= c->stages.n_epochs; e += step) {
        dass__svg_put(s, "<path d=\"M%f,%f v4\" stroke=\"%s\"/>\n", epoch_x(c, e), PLOT_H, DASS__RULE);
        if (panel + 1 == N_PANELS)
            dass__svg_put(s, "<text x=\"%f\" y=\"%f\" text-anchor=\"middle\" fill=\"%s\">%d</text>\n", epoch_x(c, e),
                          PLOT_H + 18.0, DASS__SOFT, e);
    }
}

static void draw_diamond(dass__svg *s, double x, double y)
{
    dass__svg_put(s, "<path class=\"test\" d=\"M%f,%f l5,5 l-5,5 l-5,-5 z\" fill=\"%s\" stroke=\"#ffffff\"/>\n", x,
                  y - 5.0, test_colour);
}

static void draw_test(dass__svg *s, const curves *c, const dass__axis *y, int panel)
{
    const double h = value_y(y, c->test[panel]);
    char text[32];
    const double size = fabs(c->test[panel]);
    const double shown = size < 1e5 ? (panel == TOP1 ? 0.01 : 0.001) : pow(10.0, floor(log10(size)) - 2.0);
    const dass__axis fine = {.lo = c->test[panel], .hi = c->test[panel], .step = shown, .n = 1};
    dass__axis_text(&fine, 0, text, sizeof text);
    dass__svg_put(s, "<path d=\"M%f,%f H%f\" stroke=\"%s\" stroke-dasharray=\"1 2\"/>\n",
                  epoch_x(c, c->stages.n_epochs), h, PLOT_W + 8.0, test_colour);
    draw_diamond(s, PLOT_W + 8.0, h);
    dass__svg_put(s, "<text x=\"%f\" y=\"%f\" font-weight=\"bold\" fill=\"%s\">%s%s</text>\n", PLOT_W + 17.0, h + 4.0,
                  test_colour, text, panel == TOP1 ? " %" : "");
}

/* Middle of a stage's name, moved so that it stays inside the plot. */
static double name_x(const curves *c, int i, double width)
{
    const double mid = epoch_x(c, 0.5 * (c->stages.stage[i].first + dass__stage_end(&c->stages, i)) + 0.5);
    return fmin(fmax(mid, 0.5 * width), PLOT_W - 0.5 * width);
}

/* Every name in the lowest row where it does not touch another. */
static void place_names(curves *c)
{
    double end[MAX_ROWS] = {-1e9, -1e9, -1e9};
    c->n_rows = 1;
    for (int i = 0; i < c->stages.n; ++i) {
        const double w = dass__text_width(c->stages.stage[i].name, 12.0) + 8.0;
        const double x = name_x(c, i, w) - 0.5 * w;
        c->stage_row[i] = -1;
        for (int row = 0; row < MAX_ROWS && c->stage_row[i] < 0; ++row) {
            if (end[row] > x)
                continue;
            end[row] = x + w;
            c->stage_row[i] = row;
            c->n_rows = row >= c->n_rows ? row + 1 : c->n_rows;
        }
    }
}

static void draw_names(dass__svg *s, const curves *c)
{
    for (int i = 0; i < c->stages.n; ++i) {
        const char *name = c->stages.stage[i].name;
        if (c->stage_row[i] >= 0)
            dass__svg_put(s, "<text class=\"stage\" x=\"%f\" y=\"%f\" text-anchor=\"middle\" fill=\"%s\">%s</text>\n",
                          name_x(c, i, dass__text_width(name, 12.0)), -10.0 - ROW_H * c->stage_row[i], DASS__INK, name);
    }
}

static void draw_legend(dass__svg *s, const curves *c)
{
    double x = LEFT + PLOT_W;
    const double y = MARGIN + 12.0;
    if (c->has_test) {
        x -= dass__text_width("test", 12.0);
        dass__svg_put(s, "<text x=\"%f\" y=\"%f\">test</text>\n", x, y);
        draw_diamond(s, x - 12.0, y - 4.0);
        x -= 44.0;
    }
    for (int k = N_LINES - 1; k >= 0; --k) {
        if (k == VAL && !c->has_val)
            continue;
        x -= dass__text_width(words[k], 12.0);
        dass__svg_put(
            s, "<path d=\"M%f,%f h20\" stroke=\"%s\" stroke-width=\"2.4\"/>\n<text x=\"%f\" y=\"%f\">%s</text>\n",
            x - 26.0, y - 4.0, colours[k], x, y, words[k]);
        x -= 48.0;
    }
}

static void draw(dass__svg *s, curves *c)
{
    place_names(c);
    const double top = MARGIN + HEAD + ROW_H * c->n_rows;
    dass__svg_begin(s, LEFT + PLOT_W + RIGHT, top + N_PANELS * PLOT_H + (N_PANELS - 1) * BETWEEN + FOOT + MARGIN - 10.0,
                    "accuracy and loss");
    dass__svg_put(s, "<text x=\"%f\" y=\"%f\" font-size=\"15\" font-weight=\"bold\">accuracy and loss</text>\n", MARGIN,
                  MARGIN + 12.0);
    draw_legend(s, c);
    for (int panel = 0; panel < N_PANELS; ++panel) {
        const dass__axis y = axis_of(c, panel);
        dass__svg_put(s, "<g class=\"panel\" transform=\"translate(%f %f)\">\n", LEFT,
                      top + panel * (PLOT_H + BETWEEN));
        draw_axes(s, c, &y, panel);
        if (panel == 0)
            draw_names(s, c);
        for (int line = 0; line < N_LINES; ++line)
            draw_line(s, c, &y, panel, line);
        if (c->has_test)
            draw_test(s, c, &y, panel);
        dass__svg_put(s, "</g>\n");
    }
    dass__svg_put(s, "<text x=\"%f\" y=\"%f\" text-anchor=\"middle\" fill=\"%s\">epoch</text>\n", LEFT + 0.5 * PLOT_W,
                  top + N_PANELS * PLOT_H + (N_PANELS - 1) * BETWEEN + 38.0, DASS__SOFT);
}

dass_status dass_plot_curves(const char *name, const char *text, size_t n_bytes, char **svg)
{
    curves c = {0};
    dass__svg s;
    *svg = NULL;
    dass_status st = dass__lines_each(name, text, n_bytes, read_line, &c);
    if (st == DASS_OK && c.stages.n_epochs > 0) {
        draw(&s, &c);
        st = dass__svg_end(&s, svg);
    }
    dass_mem_free(c.epochs);
    DASS_TRY(st);
    return DASS_OK;
}
