/* SPDX-License-Identifier: Apache-2.0
 *
 * What this machine can do at most, measured now: the denominators of every speed that is reported. Each
 * figure is the best of several short runs (about 0.2 s a call), since a shared machine can only be slowed
 * down, never sped up.
 */
#ifndef ML_KERNELS_PEAK_H
#define ML_KERNELS_PEAK_H

#include "base/pool.h"
#include "base/status.h"

enum ml_peak_kind {
    ML_PEAK_F32,  /* float32 multiply-adds */
    ML_PEAK_BF16, /* products of bf16 pairs summed in float32 */
    ML_PEAK_INT8, /* products of bytes summed in int32 */
    ML_PEAK_KINDS
};

/* Reads memory: a buffer of 768 MiB, which no cache holds. One thread of control at a time. */
struct ml_peak_reader;

/* The buffer is written once by the workers of the pool (NULL: the caller alone). MARLIN_ERR_MEMORY. */
marlin_status ml_peak_reader_create(struct ml_pool *pool, struct ml_peak_reader **out,
                                    struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_peak_reader_free(struct ml_peak_reader *r); /* NULL is fine */

/* GB/s (10^9 bytes) of one pass over the buffer with every worker of the pool (NULL: the caller alone), or
 * the best of `passes`. */
double ml_peak_reader_gbps(struct ml_peak_reader *r, struct ml_pool *pool, int passes);

/* The same for who measures once: the best of five passes. MARLIN_ERR_MEMORY. */
marlin_status ml_peak_read_gbps(struct ml_pool *pool, double *gbps) MARLIN_MUST_CHECK;

/* 10^9 operations a second on registers, all workers together; a multiply-add is two operations.
 * MARLIN_ERR_UNSUPPORTED when no instruction of this CPU (or of its mask) does the kind. */
marlin_status ml_peak_gflops(struct ml_pool *pool, enum ml_peak_kind kind, double *gflops) MARLIN_MUST_CHECK;

#endif
