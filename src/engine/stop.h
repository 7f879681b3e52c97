/* SPDX-License-Identifier: Apache-2.0
 *
 * Stop strings over streamed text. Text that may be the beginning of a stop string is held back until it is
 * known not to be one, so that a stop string cut into many tokens never shows. What comes out does not depend
 * on how the text was cut into pieces: the stop string that is complete first ends the text, and of several
 * complete at the same byte the longest.
 */
#ifndef ML_ENGINE_STOP_H
#define ML_ENGINE_STOP_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

enum { ML_STOP_MAX = 64, ML_STOP_MAX_BYTES = 1024 }; /* strings, bytes of one string */

struct ml_stop {
    char *strings[ML_STOP_MAX];
    size_t len[ML_STOP_MAX];
    size_t n;
    size_t longest;
    struct ml_buf held; /* not yet given out */
    bool found;
};

/* Copies n strings. piece: most bytes of one push for which room is made here: such pushes allocate nothing
 * as long as `out` has room for ml_stop_most(s, piece) bytes. MARLIN_ERR_ARGUMENT for an empty string,
 * MARLIN_ERR_LIMIT over the ceilings above. On failure s is empty and ml_stop_free is harmless. */
marlin_status ml_stop_init(struct ml_stop *s, const char *const *strings, size_t n, size_t piece,
                           struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_stop_free(struct ml_stop *s);

/* Most bytes that one push of `piece` bytes, or the finish, gives out: they, and what was held back before.
 */
size_t ml_stop_most(const struct ml_stop *s, size_t piece);

/* Takes a piece of text and appends to out what can no longer be part of a stop string. Sets s->found once
 * one is complete: the text before it has then been given out, and later pushes do nothing. */
marlin_status ml_stop_push(struct ml_stop *s, const char *text, size_t len,
                           struct ml_buf *out) MARLIN_MUST_CHECK;
/* The text has ended: appends what was held back, nothing after a stop string. */
marlin_status ml_stop_finish(struct ml_stop *s, struct ml_buf *out) MARLIN_MUST_CHECK;

#endif
