/* SPDX-License-Identifier: Apache-2.0
 *
 * Operands of a kernel check: memory between pages that cannot be touched, and calls that survive touching
 * them.
 *
 *     | no access |  pattern  | data | no access |      at the end of its pages
 *     | no access | data |  pattern  | no access |      at their beginning
 */
#ifndef ML_KERNELS_CHECK_GUARD_H
#define ML_KERNELS_CHECK_GUARD_H

#include <stdbool.h>
#include <stddef.h>

enum { ML_GUARD_PATTERN = 0xa5 };

struct ml_guard {
    char *map, *pages, *data;
    size_t map_bytes, page_bytes, bytes;
};

/* `bytes` of memory in pages of their own, at their end or their beginning, `align` (a power of two)
 * permitting; at least `slack` more bytes behind them may be read unnoticed. False when there is none. */
bool ml_guard_make(struct ml_guard *g, size_t bytes, bool at_end, size_t align, size_t slack);
void ml_guard_free(struct ml_guard *g);

/* From now on writing is caught as well. */
void ml_guard_protect(struct ml_guard *g);

/* True when the pattern around the data is whole. */
bool ml_guard_intact(const struct ml_guard *g);

/* Calls fn(arg). 0, or the signal that ended it: SIGSEGV, SIGBUS, SIGILL or SIGFPE. One thread at a time. */
int ml_guard_call(void (*fn)(void *arg), void *arg);

#endif
