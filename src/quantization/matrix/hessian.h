/* SPDX-License-Identifier: Apache-2.0
 *
 * Second moments of a linear layer's input: H = sum over tokens of x x', streamed in chunks.
 */
#ifndef ML_QUANTIZATION_HESSIAN_H
#define ML_QUANTIZATION_HESSIAN_H

#include "base/pool.h"
#include "base/status.h"
#include "kernels/kernels.h"

#include <stddef.h>
#include <stdint.h>

struct ml_hessian {
    size_t k;         /* channels, padded to a multiple of 128; padding stays zero */
    size_t channels;  /* true channels */
    float *h;         /* [k, k]; only the lower triangle is kept up to date until ml_hessian_finish */
    uint64_t count;   /* tokens in it */
    uint64_t dropped; /* tokens left out because they held NaN or infinity */
    void *scratch;
    size_t stride; /* bytes a worker */
    int workers;
};

/* Bytes that one takes, scratch included. */
size_t ml_hessian_bytes(size_t channels, int workers);
marlin_status ml_hessian_create(struct ml_hessian *h, size_t channels, int workers,
                                struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_hessian_free(struct ml_hessian *h);

/* Adds n tokens x[n, ldx]. The sum is the same for any number of threads. Never allocates. One caller at a
 * time. */
void ml_hessian_add(struct ml_hessian *h, const struct ml_kernels *kernels, struct ml_pool *pool,
                    const float *x, size_t ldx, size_t n);

/* NULL, or why nothing can be learnt from it (static text): no tokens, all zero, not finite. */
const char *ml_hessian_useless(const struct ml_hessian *h);

/* h becomes the Hessian of its own tokens and of those of `other`, of the same size. */
void ml_hessian_sum(struct ml_hessian *h, const struct ml_hessian *other);

/* Mean over tokens plus sigma times the mean of the diagonal on the diagonal, both triangles, into out [k,
 * k]. MARLIN_ERR_NUMERIC when it is useless: the caller falls back. h keeps its sums. */
marlin_status ml_hessian_finish(const struct ml_hessian *h, double sigma, float *out,
                                struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
