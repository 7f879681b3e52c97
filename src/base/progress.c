/* SPDX-License-Identifier: Apache-2.0
 *
 * Progress for people: a bar that is redrawn on a terminal, a line now and then in a log.
 */
#include "base/progress.h"

#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const uint64_t terminal_ns = 100u * 1000 * 1000, log_ns = 10ull * 1000 * 1000 * 1000;

void ml_progress_begin(struct ml_progress *p, const char *label, uint64_t total, bool quiet) {
    *p = (struct ml_progress){.total = total, .quiet = quiet};
    (void)snprintf(p->label, sizeof p->label, "%s", label);
    p->tty = isatty(STDERR_FILENO) == 1;
    p->start_ns = p->shown_ns = ml_clock_ns();
}

/* "1:02:03", or "-:--" while nothing is done. */
static void left_text(const struct ml_progress *p, uint64_t now, char dst[32]) {
    const double spent = (double)(now - p->start_ns) * 1e-9;
    const double left = p->done ? spent * ((double)p->total / (double)p->done - 1) : INFINITY;
    if (!(left < 1e6)) {
        (void)snprintf(dst, 32, "-:--");
        return;
    }
    const int s = (int)(left < 0 ? 0 : left + 0.5);
    if (s >= 3600)
        (void)snprintf(dst, 32, "%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60);
    else
        (void)snprintf(dst, 32, "%d:%02d", s / 60, s % 60);
}

static void show(struct ml_progress *p, uint64_t now, const char *note) {
    enum { WIDTH = 24 };
    char left[32], bar[WIDTH + 1];
    const double share = p->total ? (double)p->done / (double)p->total : 1;
    const int full = (int)(WIDTH * (share > 1 ? 1 : share));
    memset(bar, '-', WIDTH);
    memset(bar, '#', (size_t)full);
    bar[WIDTH] = '\0';
    left_text(p, now, left);
    const char *gap = note ? "  " : "";
    if (!note) note = "";
    const unsigned long long done = p->done, total = p->total;
    if (p->tty)
        (void)fprintf(stderr, "\r%s [%s] %llu/%llu  %s left%s%.40s\033[K", p->label, bar, done, total, left,
                      gap, note);
    else
        (void)fprintf(stderr, "%s: %llu/%llu, %s left%s%.40s\n", p->label, done, total, left, gap, note);
    (void)fflush(stderr);
    p->shown_ns = now;
}

void ml_progress_update(struct ml_progress *p, uint64_t done, const char *note) {
    p->done = done;
    if (p->quiet) return;
    const uint64_t now = ml_clock_ns();
    if (now - p->shown_ns >= (p->tty ? terminal_ns : log_ns)) show(p, now, note);
}

void ml_progress_end(struct ml_progress *p) {
    if (p->quiet) return;
    /* Clears the bar; a log gets a last line only where it had earlier ones. */
    if (p->tty)
        (void)fprintf(stderr, "\r\033[K");
    else if (p->shown_ns != p->start_ns)
        show(p, ml_clock_ns(), NULL);
    (void)fflush(stderr);
}
