/* SPDX-License-Identifier: Apache-2.0
 *
 * Fork-join thread pool. The caller is worker 0.
 *
 * Between create and free there is no allocation and no lock, and no system call while jobs follow each other
 * closely. A thread that has waited for a tenth of a millisecond, a worker for a job or the caller for the
 * last worker, sleeps until it is woken: one system call on either side (base/park.h).
 *
 * Other programs may take any thread's processor away for milliseconds. A worker that is late for a job loses
 * its whole share of it: ml_pool_for and ml_pool_for_runs end when all pieces are done, whether or not
 * everybody came. What the caller has to wait for is a piece that was begun, so pieces should be small. Who
 * computes a piece is left to chance; a result must not depend on it.
 */
#ifndef ML_BASE_POOL_H
#define ML_BASE_POOL_H

#include "base/status.h"

#include <stddef.h>

struct ml_pool;

/* threads: workers including the caller; 0 = one per physical core this process may use. Workers of a pool
 * that has as many as there are cores are pinned, each to its own; the caller is left where it is. */
marlin_status ml_pool_create(int threads, struct ml_pool **out, struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_pool_free(struct ml_pool *p);      /* NULL is fine */
int ml_pool_size(const struct ml_pool *p); /* 1 for NULL */

/* Runs fn(arg, worker, n_workers) once on every worker and waits for all, the late ones too: for measuring,
 * not for work. Not reentrant; one caller at a time. p == NULL runs it on the caller alone. */
typedef void ml_pool_fn(void *arg, int worker, int workers);
void ml_pool_run(struct ml_pool *p, ml_pool_fn *fn, void *arg);

/* Calls fn(arg, begin, end, worker) over [0, count) in pieces of at most `grain`, handed out dynamically so
 * that a preempted core does not hold up the others. */
typedef void ml_range_fn(void *arg, size_t begin, size_t end, int worker);
void ml_pool_for(struct ml_pool *p, size_t count, size_t grain, ml_range_fn *fn, void *arg);

/* The same for streaming through memory, over parts (matrices) [first[i], first[i + 1]), first[0] = 0. Every
 * worker has a contiguous share of each part, so that what its prefetcher fetched ahead is its own; it
 * depends on the length of the part alone, so that memory which a job writes first lies near those who read
 * it in later jobs. Whoever is done with its shares takes pieces of the others'. No piece crosses parts. */
void ml_pool_for_runs(struct ml_pool *p, const size_t *first, size_t parts, size_t grain, ml_range_fn *fn,
                      void *arg);

#endif
