/* SPDX-License-Identifier: Apache-2.0
 *
 * LDLQ: quantize input channels from the last to the first, feeding the error of what is done into what is
 * not yet done, weighted by the block-LDL factors of the Hessian (QuIP, arXiv 2307.13304; GPTQ is the same
 * update). With a Hessian of the outputs too, errors are fed back along both sides (YAQA, arXiv 2505.22988).
 */
#ifndef ML_QUANTIZATION_LDLQ_H
#define ML_QUANTIZATION_LDLQ_H

#include "base/pool.h"
#include "base/status.h"
#include "kernels/kernels.h"
#include "quantization/matrix/codec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Overwrites h [k, k] (positive definite, k a multiple of 16) by lt: lt[b][a] for a in later blocks than b
 * holds the feedback coefficients, i.e. the transpose of the unit block-lower-triangular factor L of h = L D
 * L', 16-wide blocks; all else is 0. MARLIN_ERR_NUMERIC when h is not positive definite (h is then
 * destroyed). */
marlin_status ml_ldl_factor(float *h, size_t k, const struct ml_kernels *kernels, struct ml_pool *pool,
                            struct marlin_error *err) MARLIN_MUST_CHECK;

struct ml_ldlq_job {
    const struct ml_codec *codec;
    const struct ml_kernels *kernels;
    struct ml_pool *pool;
    const float *w; /* targets [n, k]; n, k multiples of 16 */
    size_t n, k;
    const float *lt; /* [k, k] from ml_ldl_factor, or NULL: no feedback between inputs */
    const float *lo; /* [n, n] the same of a Hessian of the outputs, or NULL: no feedback between them */
    float *q;        /* out: decoded values [n, k] */
    uint8_t *bytes;  /* out: tiles [n/16][k/16][tile_bytes] */
};

/* Without lo, rows of 16 outputs are independent, so they are what threads share. With it a thread follows,
 * some columns behind, the one that has the rows below. Either way the result does not depend on how many
 * there are. */
marlin_status ml_ldlq(const struct ml_ldlq_job *job, struct marlin_error *err) MARLIN_MUST_CHECK;

/* Bytes of working memory a thread for k input channels, whatever the codec. */
size_t ml_ldlq_scratch(size_t k);

/* tr(E h E') / tr(W h W') with E = w - q: the proxy for the loss. h [k, k], symmetric, is the Hessian in the
 * basis of w [n, k]. MARLIN_ERR_MEMORY. Both this and ml_ldl_factor give the same result for any number of
 * threads. */
marlin_status ml_proxy_error(const float *w, const float *q, const float *h, size_t n, size_t k,
                             const struct ml_kernels *kernels, struct ml_pool *pool, double *error,
                             struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
