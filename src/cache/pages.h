/* SPDX-License-Identifier: Apache-2.0
 *
 * A pool of pages that sequences share: reference counted, one fixed block of device memory for each group of
 * layers, from which pages are taken without allocating. Not thread-safe: one thread at a time.
 */
#ifndef ML_CACHE_PAGES_H
#define ML_CACHE_PAGES_H

#include "cache/layout.h"

struct ml_pages;

/* How much a pool holds. */
struct ml_pages_sizes {
    size_t sequences; /* of `positions` each */
    size_t positions;
    size_t rows; /* most rows of a sequence in one pass: a window keeps so many more */
    size_t
        spares; /* copies of a sequence's memory (checkpoints, forks) that are held beside it: they share the
                      pages of all positions and have their own of windows and states */
};

/* Pages of a group that one sequence takes. */
size_t ml_pages_of(const struct ml_memory_group *g, size_t positions, size_t rows);

/* Bytes that a pool takes; MARLIN_ERR_LIMIT on overflow. */
marlin_status ml_pages_bytes(const struct ml_memory_layout *layout, const struct ml_pages_sizes *sizes,
                             size_t *bytes, struct marlin_error *err) MARLIN_MUST_CHECK;

/* devices: the model's list. layout and devices must outlive the pool. */
marlin_status ml_pages_create(const struct ml_memory_layout *layout, struct ml_device *const *devices,
                              const struct ml_pages_sizes *sizes, struct ml_pages **out,
                              struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_pages_free(struct ml_pages *p); /* NULL is fine; no sequence may be left on it */

const struct ml_memory_layout *ml_pages_layout(const struct ml_pages *p);
size_t ml_pages_left(const struct ml_pages *p, size_t group); /* pages that nobody has */
size_t ml_pages_total(const struct ml_pages *p, size_t group);

/* A page of the group with one reference; -1 when none is left. */
int32_t ml_pages_take(struct ml_pages *p, size_t group);
void ml_pages_keep(struct ml_pages *p, size_t group, int32_t page); /* one reference more */
void ml_pages_drop(struct ml_pages *p, size_t group, int32_t page); /* one less; the last gives it back */
bool ml_pages_shared(const struct ml_pages *p, size_t group, int32_t page);
char *ml_pages_address(const struct ml_pages *p, size_t group, int32_t page); /* on the group's device */

#endif
