/* SPDX-License-Identifier: Apache-2.0
 *
 * Progress on stderr: a bar on a terminal, otherwise a line every 10 seconds.
 */
#ifndef ML_BASE_PROGRESS_H
#define ML_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct ml_progress {
    char label[64];
    uint64_t total, done;
    uint64_t start_ns, shown_ns;
    bool tty, quiet;
};

/* total: units of work (tensors, tokens, bytes). quiet switches all output off. One thread. */
void ml_progress_begin(struct ml_progress *p, const char *label, uint64_t total, bool quiet);
/* note: a few words shown behind the bar, may be NULL. */
void ml_progress_update(struct ml_progress *p, uint64_t done, const char *note);
void ml_progress_end(struct ml_progress *p);

#endif
