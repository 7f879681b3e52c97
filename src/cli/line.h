/* SPDX-License-Identifier: Apache-2.0
 *
 * Lines that a person types. On a terminal, and where libedit was there when the program was built, with its
 * editing keys and a history of this session; elsewhere plainly.
 */
#ifndef ML_CLI_LINE_H
#define ML_CLI_LINE_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>

struct ml_line;

enum ml_line_end {
    ML_LINE_READ,
    ML_LINE_INTERRUPTED, /* a signal came: what was typed so far is dropped */
    ML_LINE_CLOSED       /* end of the input, Ctrl-D */
};

/* edit: standard input is a terminal. One at a time per process. */
marlin_status ml_line_open(bool edit, struct ml_line **out, struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_line_close(struct ml_line *l); /* NULL is fine; the terminal is as it was */

/* Replaces the contents of `text` by the next line, without its newline. The prompt is shown on a terminal
 * alone. Signals that are handled without SA_RESTART end it. */
enum ml_line_end ml_line_read(struct ml_line *l, const char *prompt, struct ml_buf *text);

/* Keeps a text for the arrow keys. */
void ml_line_remember(struct ml_line *l, const char *text);

#endif
