/* SPDX-License-Identifier: Apache-2.0
 *
 * A roofline picture: what a machine can do at most at a number of operations for each byte it reads, and
 * where runs lie below that. Knows nothing of models; text in, SVG out.
 *
 *     Gop/s |          ______________  gops
 *           |        /    o pp512
 *           |      /
 *           |    /  o tg64
 *           |  /  slope: gbps
 *           +--------------------------
 *              operations a byte read          both axes logarithmic
 */
#ifndef ML_CLI_BENCH_PLOT_H
#define ML_CLI_BENCH_PLOT_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

struct ml_plot_point {
    const char *label;
    bool prompt; /* drawn as a square instead of a circle */
    double x;    /* operations for each byte read */
    double y;    /* 10^9 operations a second */
};

struct ml_plot {
    const char *title;
    double gbps;         /* 10^9 bytes a second; the slope */
    double gops;         /* 10^9 operations a second; the ceiling; NaN = not known, no ceiling */
    const char *ceiling; /* what computes there: "int8" */
    const struct ml_plot_point *points;
    size_t n;
};

/* Where v lies between from (v == least) and to (v == most) on a logarithmic scale; 0 < least < most. A v
 * that is out of range, or no number, is taken to the nearer end (no number: to from). */
double ml_plot_scale(double v, double least, double most, double from, double to);

/* Appends a whole SVG document without scripts, links or fonts of its own; text may hold any bytes. Points
 * that are not positive numbers are left out. gbps must be a positive number. */
marlin_status ml_plot_svg(const struct ml_plot *p, struct ml_buf *out) MARLIN_MUST_CHECK;

#endif
