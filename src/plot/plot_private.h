/* Private to src/plot: text of an SVG file, axes, lines of JSON, and the geometry of a layered graph. Invariant: what
 * comes from a file reaches the picture only through dass__svg_put, which escapes it.
 */
#ifndef DASS_PLOT_PRIVATE_H
#define DASS_PLOT_PRIVATE_H

#include <jansson.h>

#include "dass/mem.h"
#include "dass/plot.h"

/* Short name of an operation, by dass_primitive (cell.c). */
const char *dass__op_word(int op);

/* ---- svg.c ---------------------------------------------------------------------------------------------------- */

/* Colours that every picture shares: ink for text, grey for axes. */
#define DASS__INK "#1f2933"
#define DASS__SOFT "#5f6c78"
#define DASS__GRID "#e3e8ec"
#define DASS__RULE "#9aa5b1"

typedef struct dass__svg {
    char *text;
    size_t n, cap;
    dass_status st; /* the first error; later calls do nothing */
} dass__svg;

/* Width and height in pixels; opens the document, names it and paints a white background. */
void dass__svg_begin(dass__svg *s, double w, double h, const char *title);
/* Only %f (two decimals, a point in every locale), %s (escaped) and %d; the rest of fmt is markup. */
void dass__svg_put(dass__svg *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Closes the document; *out is the caller's. On error *out is NULL and nothing is left. */
dass_status dass__svg_end(dass__svg *s, char **out);
/* About how wide a text is in a common sans-serif face; rather too wide than too narrow. */
double dass__text_width(const char *text, double size);

/* ---- axis.c --------------------------------------------------------------------------------------------------- */

/* Ticks lo, lo + step, ... hi: n of them, the data within. */
typedef struct dass__axis {
    double lo, hi, step;
    int n;
} dass__axis;

#define DASS__MAX_VALUE 1e100 /* larger numbers are refused on reading: differences stay finite */

/* Round ticks around [lo, hi], about `want` of them. |lo|, |hi| <= DASS__MAX_VALUE. */
dass__axis dass__axis_make(double lo, double hi, int want);
/* Text of tick i, as short as tells the ticks apart. */
void dass__axis_text(const dass__axis *a, int i, char *buf, size_t n);
/* Step of whole epochs for about `want` ticks of n. */
int dass__epoch_step(int n, int want);

/* ---- jsonl.c -------------------------------------------------------------------------------------------------- */

/* The lines of a file in memory, each a JSON object. */
typedef struct dass__lines {
    const char *name;
    const char *at, *end;
    int number; /* of the line handed out last, from 1 */
} dass__lines;

/* Call line(ctx, position, object) for every object, until one fails. A last line without newline that is not JSON is
 * the end. */
dass_status dass__lines_each(const char *name, const char *text, size_t n_bytes,
                             dass_status (*line)(void *ctx, const dass__lines *l, const json_t *object), void *ctx);
/* Numbers within [lo, hi], finite by that; DASS_FORMAT naming file, line and key. */
dass_status dass__line_number(const dass__lines *l, const json_t *object, const char *key, double lo, double hi,
                              double *out);
dass_status dass__line_integer(const dass__lines *l, const json_t *object, const char *key, int lo, int hi, int *out);

#define DASS__MAX_STAGES 64
#define DASS__MAX_EPOCHS 10000000

/* The stages of a file in order; epochs are counted on through all of them. */
typedef struct dass__stages {
    int n, n_epochs;
    struct {
        char name[32];
        int first; /* running number of its first epoch, from 0 */
    } stage[DASS__MAX_STAGES];
} dass__stages;

/* "stage" and "epoch" of a line: the next epoch of the stage, or the first of a new one. */
dass_status dass__stages_add(dass__stages *t, const dass__lines *l, const json_t *object);
int dass__stage_end(const dass__stages *t, int i); /* one past its last epoch */

/* Points of n to draw so that there are at most `most`, the first and the last among them: the i-th. */
int dass__sample_count(int n, int most);
int dass__sample(int n, int most, int i);

/* ---- layout.c ------------------------------------------------------------------------------------------------- */

#define DASS__MAX_ITEMS 512
#define DASS__MAX_RANKS 24
#define DASS__MAX_PER_RANK 40

/* An item stands on a rank (a column); links join items of neighbouring ranks. A long edge is a chain of thin items. */
typedef struct dass__item {
    int rank;
    bool real;     /* a node; else a part of an edge, which wants to be straight */
    double height; /* pixels */
    double y;      /* centre, found by the layout */
} dass__item;

typedef struct dass__link {
    int from, to;              /* items; rank of to = rank of from + 1 */
    double from_port, to_port; /* offsets from the centres, found by the layout */
    double weight;             /* of its vertical step in the layout's sum */
} dass__link;

typedef struct dass__layout {
    int n_items, n_links, n_ranks;
    dass__item item[DASS__MAX_ITEMS];
    dass__link link[DASS__MAX_ITEMS];
    int n_on[DASS__MAX_RANKS];
    int order[DASS__MAX_RANKS][DASS__MAX_PER_RANK]; /* items of a rank from top to bottom */
} dass__layout;

int dass__layout_item(dass__layout *g, int rank, bool real, double height);
void dass__layout_link(dass__layout *g, int from, int to);
/* Order on every rank with few crossings, then positions with straight edges. `top` is an item of rank 0 that ends
 * above all others of it when that costs nothing, that is when there are two. port: distance of the links at a node. */
void dass__layout_run(dass__layout *g, int top, double port);
int dass__layout_crossings(const dass__layout *g);

#endif
