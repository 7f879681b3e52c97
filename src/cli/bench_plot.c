/* SPDX-License-Identifier: Apache-2.0
 *
 * The roofline picture as SVG.
 */
#include "cli/bench_plot.h"

#include <math.h>
#include <string.h>

enum {
    WIDTH = 800,
    HEIGHT = 520,
    LEFT = 76,
    RIGHT = 780,
    TOP = 56,
    BOTTOM = 460
};                                                           /* of the picture; of its frame */
enum { LETTER = 7, LINE = 14, MAX_BOXES = 512, TRIES = 96 }; /* of labels, in pixels */
static const double degrees = 57.29577951308232;

/* Ranges of the axes: whole powers of ten. */
struct axes {
    double x0, x1, y0, y1;
};

/* Labels that lie on the picture already. */
struct box {
    double x, y, w;
};

struct picture {
    const struct ml_plot *plot;
    struct ml_buf *out;
    struct axes axes;
    struct box boxes[MAX_BOXES];
    size_t n_boxes;
};

double ml_plot_scale(double v, double least, double most, double from, double to) {
    if (!(v > least)) return from;
    if (v >= most) return to;
    return from + (to - from) * log(v / least) / log(most / least);
}

static double at_x(const struct picture *p, double v) {
    return ml_plot_scale(v, p->axes.x0, p->axes.x1, LEFT, RIGHT);
}

static double at_y(const struct picture *p, double v) {
    return ml_plot_scale(v, p->axes.y0, p->axes.y1, BOTTOM, TOP);
}

static bool positive(double v) {
    return isfinite(v) && v > 0;
}

static bool drawable(const struct ml_plot_point *p) {
    return positive(p->x) && positive(p->y);
}

static void widen(double v, double *least, double *most) {
    if (v < *least) *least = v;
    if (v > *most) *most = v;
}

/* Both ends go to the power of ten outside of them; they are a decade apart at least. */
static void round_out(double *least, double *most) {
    *least = pow(10, floor(log10(*least)));
    *most = pow(10, ceil(log10(*most)));
    if (*most <= *least) *most = 10 * *least;
}

/* Everything is seen: the points, and the roof from a bit left of its corner to a bit right of it. */
static struct axes choose_axes(const struct ml_plot *p) {
    const double corner = positive(p->gops) ? p->gops / p->gbps : 1;
    const double roof = positive(p->gops) ? p->gops : p->gbps;
    struct axes a = {corner / 4, corner * 4, roof / 4, roof * 1.2};
    for (size_t i = 0; i < p->n; i++) {
        if (!drawable(&p->points[i])) continue;
        widen(p->points[i].x, &a.x0, &a.x1);
        widen(p->points[i].y, &a.y0, &a.y1);
    }
    round_out(&a.x0, &a.x1);
    round_out(&a.y0, &a.y1);
    return a;
}

/* XML text; what it cannot hold, and bytes beyond ASCII, become question marks. */
static marlin_status add_text(struct ml_buf *out, const char *s) {
    marlin_status st = MARLIN_OK;
    for (; *s; s++) {
        const unsigned char c = (unsigned char)*s;
        if (c == '&')
            ML_TRY(ml_buf_adds(out, "&amp;"));
        else if (c == '<')
            ML_TRY(ml_buf_adds(out, "&lt;"));
        else if (c == '>')
            ML_TRY(ml_buf_adds(out, "&gt;"));
        else
            ML_TRY(ml_buf_addf(out, "%c", c < 0x20 || c > 0x7e ? '?' : c));
    }
out:
    return st;
}

static marlin_status add_head(const struct picture *p) {
    struct ml_buf *out = p->out;
    marlin_status st;
    ML_TRY(ml_buf_addf(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
        "role=\"img\">\n<title>",
        WIDTH, HEIGHT, WIDTH, HEIGHT));
    ML_TRY(add_text(out, p->plot->title));
    /* A viewer that knows nothing of dark colours shows the light ones, on a ground of their own. */
    ML_TRY(ml_buf_adds(
        out, "</title>\n<style>\n"
             "text{font:12px sans-serif;fill:#222}.big{font-size:15px}.ground{fill:#fff}"
             ".grid{stroke:#ddd}.frame{stroke:#777;fill:none}.roof{stroke:#222;stroke-width:2;fill:none}"
             ".pp{fill:#b4431a}.tg{fill:#1a5fb4}.lead{stroke:#999}"
             "\n"
             "@media (prefers-color-scheme:dark){text{fill:#ddd}.ground{fill:#161616}.grid{stroke:#333}"
             ".frame{stroke:#888}.roof{stroke:#ddd}.pp{fill:#ff9a6b}.tg{fill:#7db4ff}.lead{stroke:#777}"
             "}\n</style>\n"));
    ML_TRY(ml_buf_addf(
        out, "<rect class=\"ground\" width=\"%d\" height=\"%d\"/>\n<text class=\"big\" x=\"%d\" y=\"32\">",
        WIDTH, HEIGHT, LEFT));
    ML_TRY(add_text(out, p->plot->title));
    ML_TRY(ml_buf_adds(out, "</text>\n"));
out:
    return st;
}

static marlin_status add_line(struct ml_buf *out, const char *kind, double x0, double y0, double x1,
                              double y1) {
    return ml_buf_addf(out, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", kind,
                       x0, y0, x1, y1);
}

static marlin_status add_grid_x(const struct picture *p, double v) {
    const double x = at_x(p, v);
    const marlin_status st = add_line(p->out, "grid", x, TOP, x, BOTTOM);
    if (st != MARLIN_OK) return st;
    return ml_buf_addf(p->out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", x, BOTTOM + 18,
                       v);
}

static marlin_status add_grid_y(const struct picture *p, double v) {
    const double y = at_y(p, v);
    const marlin_status st = add_line(p->out, "grid", LEFT, y, RIGHT, y);
    if (st != MARLIN_OK) return st;
    return ml_buf_addf(p->out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", LEFT - 6, y + 4,
                       v);
}

/* Lines at 1, 2 and 5 of each decade, or at 1 alone where decades are narrow. */
static marlin_status add_grid(const struct picture *p, double least, double most,
                              marlin_status (*add)(const struct picture *p, double v)) {
    static const double steps[] = {1, 2, 5};
    const int decades = (int)lround(log10(most / least)), n = decades > 4 ? 1 : 3;
    marlin_status st = MARLIN_OK;
    for (int d = 0; d < decades; d++)
        for (int i = 0; i < n; i++)
            ML_TRY(add(p, least * pow(10, d) * steps[i]));
    ML_TRY(add(p, most));
out:
    return st;
}

static marlin_status add_axes(const struct picture *p) {
    marlin_status st;
    ML_TRY(add_grid(p, p->axes.x0, p->axes.x1, add_grid_x));
    ML_TRY(add_grid(p, p->axes.y0, p->axes.y1, add_grid_y));
    ML_TRY(ml_buf_addf(p->out, "<rect class=\"frame\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n", LEFT,
                       TOP, RIGHT - LEFT, BOTTOM - TOP));
    ML_TRY(ml_buf_addf(p->out,
                       "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">operations a byte read</text>\n",
                       (LEFT + RIGHT) / 2, BOTTOM + 42));
    ML_TRY(ml_buf_addf(
        p->out, "<text transform=\"translate(20 %d) rotate(-90)\" text-anchor=\"middle\">Gop/s</text>\n",
        (TOP + BOTTOM) / 2));
out:
    return st;
}

/* The slope enters the frame at its left or lower side and ends at the ceiling, or at the
 * frame without one. */
static marlin_status add_roof(const struct picture *p) {
    const struct axes *a = &p->axes;
    const double gbps = p->plot->gbps, gops = positive(p->plot->gops) ? p->plot->gops : a->y1;
    const double start = fmax(a->x0, a->y0 / gbps), end = fmin(a->x1, gops / gbps);
    const double sx = at_x(p, start), sy = at_y(p, start * gbps), ex = at_x(p, end), ey = at_y(p, end * gbps);
    marlin_status st;
    ML_TRY(add_line(p->out, "roof", sx, sy, ex, ey));
    ML_TRY(ml_buf_addf(p->out,
                       "<text transform=\"translate(%.1f %.1f) rotate(%.1f)\" "
                       "text-anchor=\"middle\">%.1f GB/s</text>\n",
                       (sx + ex) / 2 - 6, (sy + ey) / 2 - 8, atan2(ey - sy, ex - sx) * degrees, gbps));
    if (!positive(p->plot->gops)) goto out;
    ML_TRY(add_line(p->out, "roof", ex, ey, RIGHT, ey));
    ML_TRY(ml_buf_addf(p->out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.0f Gop/s of ", RIGHT - 6,
                       ey - 8, gops));
    ML_TRY(add_text(p->out, p->plot->ceiling));
    ML_TRY(ml_buf_adds(p->out, "</text>\n"));
out:
    return st;
}

/* ---- runs ---- */

static bool is_free(const struct picture *p, const struct box *b) {
    if (b->x < LEFT || b->x + b->w > RIGHT || b->y - LINE < TOP || b->y > BOTTOM) return false;
    for (size_t i = 0; i < p->n_boxes; i++) {
        const struct box *o = &p->boxes[i];
        if (b->x < o->x + o->w && o->x < b->x + b->w && fabs(b->y - o->y) < LINE) return false;
    }
    return true;
}

static void take(struct picture *p, const struct box *b) {
    if (p->n_boxes < MAX_BOXES) p->boxes[p->n_boxes++] = *b;
}

/* Beside the mark, then on either side further and further up and down; over another label when
 * all is full. */
static struct box place(struct picture *p, double x, double y, double width) {
    struct box b;
    for (int i = 0; i < TRIES; i++) {
        const int level = i / 2, lines = (level + 1) / 2;
        b = (struct box){i % 2 ? x - 10 - width : x + 10, y + 4 + (level % 2 ? -lines : lines) * LINE, width};
        if (is_free(p, &b)) break;
    }
    take(p, &b);
    return b;
}

static marlin_status add_mark(struct picture *p, const struct ml_plot_point *q) {
    const double x = at_x(p, q->x), y = at_y(p, q->y);
    if (q->prompt)
        return ml_buf_addf(p->out, "<rect class=\"pp\" x=\"%.1f\" y=\"%.1f\" width=\"9\" height=\"9\"/>\n",
                           x - 4.5, y - 4.5);
    return ml_buf_addf(p->out, "<circle class=\"tg\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\"/>\n", x, y);
}

static marlin_status add_label(struct picture *p, const struct ml_plot_point *q) {
    const double x = at_x(p, q->x), y = at_y(p, q->y), width = (double)strlen(q->label) * LETTER;
    const struct box b = place(p, x, y, width);
    marlin_status st;
    if (fabs(b.y - 4 - y) > LINE) ML_TRY(add_line(p->out, "lead", x, y, b.x < x ? b.x + b.w : b.x, b.y - 4));
    ML_TRY(ml_buf_addf(p->out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", b.x < x ? b.x + b.w : b.x,
                       b.y, b.x < x ? "end" : "start"));
    ML_TRY(add_text(p->out, q->label));
    ML_TRY(ml_buf_adds(p->out, "</text>\n"));
out:
    return st;
}

/* The roof as a row of small boxes, so that labels keep off it. */
static void take_roof(struct picture *p) {
    const double gops = positive(p->plot->gops) ? p->plot->gops : INFINITY;
    for (int x = LEFT; x < RIGHT; x += LETTER) {
        const double share = (double)(x - LEFT) / (RIGHT - LEFT);
        const double v = p->axes.x0 * pow(p->axes.x1 / p->axes.x0, share);
        take(p, &(struct box){x, at_y(p, fmin(v * p->plot->gbps, gops)) + LINE / 2.0, LETTER});
    }
}

/* No label lies on a mark: all marks take their places before the first label. */
static marlin_status add_points(struct picture *p) {
    const struct ml_plot *plot = p->plot;
    marlin_status st = MARLIN_OK;
    take_roof(p);
    for (size_t i = 0; i < plot->n; i++)
        if (drawable(&plot->points[i]))
            take(p, &(struct box){at_x(p, plot->points[i].x) - 6, at_y(p, plot->points[i].y) + 4, 12});
    for (size_t i = 0; i < plot->n; i++)
        if (drawable(&plot->points[i])) ML_TRY(add_label(p, &plot->points[i]));
    for (size_t i = 0; i < plot->n; i++)
        if (drawable(&plot->points[i])) ML_TRY(add_mark(p, &plot->points[i]));
out:
    return st;
}

marlin_status ml_plot_svg(const struct ml_plot *plot, struct ml_buf *out) {
    struct picture p = {.plot = plot, .out = out};
    marlin_status st;
    if (!positive(plot->gbps)) return MARLIN_ERR_ARGUMENT;
    p.axes = choose_axes(plot);
    ML_TRY(add_head(&p));
    ML_TRY(add_axes(&p));
    ML_TRY(add_roof(&p));
    ML_TRY(add_points(&p));
    ML_TRY(ml_buf_adds(out, "</svg>\n"));
out:
    return st;
}
