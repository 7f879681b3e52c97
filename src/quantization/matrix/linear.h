/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantizing one linear layer: rotate, factor the Hessian, LDLQ with a trellis codec.
 */
#ifndef ML_QUANTIZATION_LINEAR_H
#define ML_QUANTIZATION_LINEAR_H

#include "base/pool.h"
#include "base/status.h"
#include "quantization/matrix/codec.h"
#include "quantization/matrix/hessian.h"
#include "quantization/matrix/rotate.h"

#include <stdbool.h>

struct ml_quantize_options {
    const struct ml_codec *codec;
    const struct ml_kernels *kernels;
    struct ml_pool *pool;
    double sigma;                     /* ridge on the Hessian, relative to its mean diagonal; 0.025 */
    uint64_t seed;                    /* of the signs */
    const struct ml_hessian *outputs; /* of the gradient of the outputs; NULL: all outputs count the same */
};

struct ml_quantized_linear {
    struct ml_rotation rotation; /* n, k padded to 128 */
    size_t n, k;                 /* true sizes */
    uint8_t *bytes;              /* tiles [n_pad/16][k_pad/16][tile_bytes] */
    size_t n_bytes;
    double proxy_error;   /* relative, in the rotated basis; without a Hessian the relative squared error */
    const char *fallback; /* NULL, or why no feedback was used (static text) */
};

/* w: [n, k] float32, finite (MARLIN_ERR_NUMERIC otherwise). hessian may be NULL: no feedback. A Hessian that
 * cannot be factored never fails the job: the ridge grows, then feedback is left out and `fallback` says why.
 * Deterministic for a seed whatever the number of threads. */
marlin_status ml_quantize_linear(const float *w, size_t n, size_t k, const struct ml_hessian *hessian,
                                 const struct ml_quantize_options *options, struct ml_quantized_linear *out,
                                 struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_quantized_linear_free(struct ml_quantized_linear *q);

/* The weights that the runtime will see, w [n, k]: the slow reference. */
marlin_status ml_quantized_linear_restore(const struct ml_quantized_linear *q, const struct ml_codec *codec,
                                          float *w, struct marlin_error *err) MARLIN_MUST_CHECK;

/* Bytes of working memory that ml_quantize_linear allocates for n x k, with or without a Hessian of the
 * outputs, with so many threads, at most: for the estimate printed beforehand. */
size_t ml_quantize_linear_memory(size_t n, size_t k, bool outputs, int workers);

#endif
