/* SPDX-License-Identifier: Apache-2.0
 *
 * Progress on stderr: a bar on a terminal, never wider than it is; otherwise, and where TERM is dumb, a line
 * every 10 seconds.
 */
#ifndef ML_BASE_PROGRESS_H
#define ML_BASE_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_progress {
    char label[64];
    uint64_t total, done, skipped;
    uint64_t start_ns, shown_ns;
    bool tty, quiet;
};

/* total: units of work (tensors, tokens, bytes), 0 = not known. quiet switches all output off. One thread. */
void ml_progress_begin(struct ml_progress *p, const char *label, uint64_t total, bool quiet);
/* So much of the total was done before, in no time: the time left is judged by the rest. */
void ml_progress_skip(struct ml_progress *p, uint64_t done);
/* note: a few words shown behind the bar, may be NULL. */
void ml_progress_update(struct ml_progress *p, uint64_t done, const char *note);
/* Clears the bar, so that other text can be written. A progress that has not begun, or has ended, stays
 * so. */
void ml_progress_end(struct ml_progress *p);

/* The line of a terminal of `width` columns, of which the last stays free, into dst. What does not fit
 * goes in this order: the note's end, the bar, the time left, the label's end. */
enum { ML_PROGRESS_LINE = 512 };
void ml_progress_line(const struct ml_progress *p, uint64_t now_ns, const char *note, size_t width,
                      char dst[ML_PROGRESS_LINE]);

#endif
