/* SPDX-License-Identifier: Apache-2.0
 *
 * What a backend's table lacks, computed by the CPU over copies: wait for the stream, download what the
 * operation reads, compute, upload what it wrote. Results are those of ml_ops_cpu, bit for bit.
 *
 * It is right, not fast: weights are downloaded each time. Host memory for the copies grows until the largest
 * operation has been seen, so an operation that falls back may allocate, in the token loop too; one that cannot get memory, and all
 * that follow it, do nothing, and `flush` reports MARLIN_ERR_MEMORY.
 *
 * A stream with operations that fall back is used by one thread at a time, as any stream; operations that
 * fall back wait for the stream, and compute on the calling thread and the pool that `open` was given.
 */
#ifndef ML_OPS_FALLBACK_H
#define ML_OPS_FALLBACK_H

#include "ops/ops.h"

struct ml_ops_filled {
    struct ml_ops ops;        /* first: whoever has the table has this */
    const struct ml_ops *own; /* the backend's */
};

/* Makes the whole table of what `own` has and the CPU computes for the rest. `own` may be NULL or lack any
 * entry, open, close, flush and bytes as well: flush is then stream_sync. It must stay as long as `out`.
 * Devices must have &out->ops as their `compute` when operations are opened on their streams. */
void ml_ops_fill(struct ml_ops_filled *out, const struct ml_ops *own);

/* Names the i-th operation that a table lacks or leaves to the CPU, filled or not; NULL when there are not so
 * many. Any thread. */
const char *ml_ops_missing(const struct ml_ops *ops, size_t i);

#endif
