/* SPDX-License-Identifier: Apache-2.0
 *
 * A growing byte buffer with a hard ceiling: a memory bomb becomes an error.
 */
#ifndef ML_BASE_BUF_H
#define ML_BASE_BUF_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct ml_buf {
    char *data; /* always NUL-terminated when not NULL; the NUL is not counted in len */
    size_t len, cap, limit;
};

void ml_buf_init(struct ml_buf *b, size_t limit); /* limit: most bytes it may hold, > 0 */
void ml_buf_free(struct ml_buf *b);
void ml_buf_clear(struct ml_buf *b); /* len = 0, keeps the memory */

/* Makes room for n more bytes: appending them allocates nothing. Errors as below. */
marlin_status ml_buf_reserve(struct ml_buf *b, size_t n) MARLIN_MUST_CHECK;

/* Append. MARLIN_ERR_LIMIT over the ceiling, MARLIN_ERR_MEMORY out of memory; unchanged on error. */
marlin_status ml_buf_add(struct ml_buf *b, const void *p, size_t n) MARLIN_MUST_CHECK;
marlin_status ml_buf_adds(struct ml_buf *b, const char *s) MARLIN_MUST_CHECK;
marlin_status ml_buf_addf(struct ml_buf *b, const char *fmt, ...) ML_PRINTF(2, 3) MARLIN_MUST_CHECK;

/* Appends s as a JSON string with quotes; bytes that are not UTF-8 become U+FFFD. */
marlin_status ml_buf_add_json(struct ml_buf *b, const char *s, size_t n) MARLIN_MUST_CHECK;

#endif
