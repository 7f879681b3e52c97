/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory of one sequence: for each group of layers a table of pages, which other sequences may share. A
 * page that somebody else has too is copied before it is written to.
 *
 *     reserve(n)   room for the next n positions, the only call that can run out of pages
 *     commit(n)    they were computed; pages that have left their window are given back
 *     fork         another timeline with the same past
 *     rewind(n)    back to position n, as far as windows and states allow
 *     restore      back to what a fork was
 *
 * One thread at a time, which is also that of the pool.
 */
#ifndef ML_CACHE_MEMORY_H
#define ML_CACHE_MEMORY_H

#include "cache/pages.h"

struct ml_memory;

/* An empty sequence of at most `positions`. The pool must outlive it. */
marlin_status ml_memory_create(struct ml_pages *pool, size_t positions, struct ml_memory **out,
                               struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_memory_free(struct ml_memory *m); /* gives all pages back; NULL is fine */

size_t ml_memory_length(const struct ml_memory *m); /* positions that were committed */
size_t ml_memory_capacity(const struct ml_memory *m);

/* Makes the next n positions writable: takes pages, copies shared ones on the streams, one a device. When the
 * pool has not enough, MARLIN_ERR_MEMORY, and everything is as it was. MARLIN_ERR_LIMIT when n passes the
 * capacity. Never allocates. */
marlin_status ml_memory_reserve(struct ml_memory *m, size_t n, struct ml_stream *const *streams,
                                struct marlin_error *err) MARLIN_MUST_CHECK;
/* The next n <= reserved positions count. */
void ml_memory_commit(struct ml_memory *m, size_t n);

/* Back to position n <= length, or, where a window has lost what n would see or a state has gone on, to 0. The
 * position that was reached. */
size_t ml_memory_rewind(struct ml_memory *m, size_t n);
/* The least position from which rewind goes where it is told: below it, to 0. */
size_t ml_memory_rewindable(const struct ml_memory *m);

/* A second sequence on the same pool with the same past, whose pages it shares. */
marlin_status ml_memory_fork(const struct ml_memory *m, struct ml_memory **out,
                             struct marlin_error *err) MARLIN_MUST_CHECK;
/* Becomes what `from` is, which shares its pool and has at most m's capacity. Never allocates. */
void ml_memory_restore(struct ml_memory *m, const struct ml_memory *from);

/* The table of a group: device addresses of pages by slot / ML_PAGE_KEYS; of recurrent groups one. Entries of
 * pages that were given back are NULL. *n: how many entries there are. */
const char *const *ml_memory_table(const struct ml_memory *m, size_t group, size_t *n);

/* Of the positions that were reserved and computed, but not committed, keeps only those numbered by keep[n]
 * (rising, relative to the length), moves them together and commits them: the accepted path of a draft tree. No
 * layer may be recurrent. */
void ml_memory_keep(struct ml_memory *m, const size_t *keep, size_t n, struct ml_stream *const *streams);

/* Copies one page's worth of bytes to every page of the group that the sequence holds: for benchmarks. */
void ml_memory_fill(struct ml_memory *m, size_t group, const void *bytes, struct ml_stream *stream);

#endif
