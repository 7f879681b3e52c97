/* SPDX-License-Identifier: Apache-2.0
 *
 * Progress for people: a bar that is redrawn on a terminal, a line now and then in a log. The terminal's
 * width is asked anew for each drawing, so that a window that changes its size needs no signal handler, which
 * a program has only one of.
 */
#include "base/progress.h"

#include "base/clock.h"
#include "base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const uint64_t terminal_ns = 100u * 1000 * 1000, log_ns = 10ull * 1000 * 1000 * 1000;

enum { USUAL_WIDTH = 80, BAR_LEAST = 6, BAR_MOST = 16 };

static size_t terminal_width(void) {
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : USUAL_WIDTH;
}

/* A terminal that can go back to the beginning of a line and clear it. */
static bool can_redraw(void) {
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) == 1 && term && *term && strcmp(term, "dumb") != 0;
}

/* "1:02:03", or "-:--" while nothing is done. */
static void left_text(const struct ml_progress *p, uint64_t now, char dst[32]) {
    const double spent = (double)(now - p->start_ns) * 1e-9;
    const double done = p->done > p->skipped ? (double)(p->done - p->skipped) : 0;
    const double left =
        done > 0 ? spent * (double)(p->total > p->done ? p->total - p->done : 0) / done : INFINITY;
    if (!(left < 1e6)) {
        (void)snprintf(dst, 32, "-:--");
        return;
    }
    const int s = (int)(left + 0.5);
    if (s >= 3600)
        (void)snprintf(dst, 32, "%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60);
    else
        (void)snprintf(dst, 32, "%d:%02d", s / 60, s % 60);
}

/* Not 100 before the end. */
static unsigned percent(const struct ml_progress *p) {
    return p->done >= p->total ? 100 : (unsigned)((double)p->done / (double)p->total * 100);
}

/* ---- a line that fits ---- */

struct line {
    char *dst;
    size_t at, columns, width; /* bytes, and columns of those and in all */
};

/* As much of text as there is room for, by whole characters, each taken for one column wide. */
static void put(struct line *l, const char *text) {
    for (size_t n; *text && l->columns < l->width; text += n, l->columns++) {
        n = ml_utf8_length((const unsigned char *)text, strlen(text));
        if (n == 0 || l->at + n >= ML_PROGRESS_LINE) return;
        memcpy(l->dst + l->at, text, n);
        l->at += n;
    }
}

static void put_bar(struct line *l, const struct ml_progress *p, size_t cells) {
    const size_t full = p->total ? (size_t)((double)cells * percent(p) / 100) : 0;
    put(l, " [");
    for (size_t i = 0; i < cells; i++)
        put(l, i < full ? "#" : "-");
    put(l, "]");
}

void ml_progress_line(const struct ml_progress *p, uint64_t now_ns, const char *note, size_t width,
                      char dst[ML_PROGRESS_LINE]) {
    char share[32], left[32] = "", left_long[48] = "";
    struct line l = {.dst = dst, .width = width > 1 ? width - 1 : 0};
    if (p->total) {
        (void)snprintf(share, sizeof share, " %u%%", percent(p));
        left_text(p, now_ns, left);
        (void)snprintf(left_long, sizeof left_long, "  %s left", left);
    } else {
        (void)snprintf(share, sizeof share, " %llu", (unsigned long long)p->done);
    }
    const size_t label = strlen(p->label), least = label + strlen(share);
    const size_t with_time = least + strlen(left_long), frame = strlen(" []");
    const size_t room = l.width > with_time + frame ? l.width - with_time - frame : 0;
    put(&l, p->label);
    if (p->total && room >= BAR_LEAST) put_bar(&l, p, room < BAR_MOST ? room : BAR_MOST);
    put(&l, share);
    if (with_time <= l.width) put(&l, left_long);
    if (note && with_time <= l.width && l.columns + 4 < l.width) {
        put(&l, "  ");
        put(&l, note);
    }
    dst[l.at] = '\0';
}

static void show(struct ml_progress *p, uint64_t now, const char *note) {
    char line[ML_PROGRESS_LINE], left[32];
    if (p->tty) {
        ml_progress_line(p, now, note, terminal_width(), line);
        (void)fprintf(stderr, "\r%s\033[K", line);
    } else if (p->total) {
        left_text(p, now, left);
        (void)fprintf(stderr, "%s: %u%%, %s left%s%.80s\n", p->label, percent(p), left, note ? "  " : "",
                      note ? note : "");
    } else {
        (void)fprintf(stderr, "%s: %llu%s%.80s\n", p->label, (unsigned long long)p->done, note ? "  " : "",
                      note ? note : "");
    }
    (void)fflush(stderr);
    p->shown_ns = now;
}

void ml_progress_begin(struct ml_progress *p, const char *label, uint64_t total, bool quiet) {
    *p = (struct ml_progress){.total = total, .quiet = quiet};
    (void)snprintf(p->label, sizeof p->label, "%s", label);
    p->tty = can_redraw();
    p->start_ns = p->shown_ns = ml_clock_ns();
}

void ml_progress_skip(struct ml_progress *p, uint64_t done) {
    p->skipped = p->done = done;
}

void ml_progress_update(struct ml_progress *p, uint64_t done, const char *note) {
    p->done = done;
    if (p->quiet || !p->label[0]) return;
    const uint64_t now = ml_clock_ns();
    if (now - p->shown_ns >= (p->tty ? terminal_ns : log_ns)) show(p, now, note);
}

void ml_progress_end(struct ml_progress *p) {
    if (p->quiet || !p->label[0]) return;
    /* Clears the bar; a log gets a last line only where it had earlier ones. */
    if (p->tty && p->shown_ns != p->start_ns)
        (void)fprintf(stderr, "\r\033[K");
    else if (!p->tty && p->shown_ns != p->start_ns)
        show(p, ml_clock_ns(), NULL);
    (void)fflush(stderr);
    p->label[0] = '\0';
}
