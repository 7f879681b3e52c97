/* SPDX-License-Identifier: Apache-2.0
 *
 * Incoherence processing: the change of basis in which a weight matrix looks Gaussian.
 *
 *   W = diag(sv) . Hn . Q . Hk . diag(su)      W, Q    [n, k] = [out, in]
 *                                              Hn, Hk  128-wide Hadamard blocks / sqrt(128)
 *
 * so that y = W x is computed as  x' = Hk (su * x),  z = Q x',  y = sv * (Hn z).
 * Source: exllamav3's EXL3 format (QTIP, arXiv 2406.11235, and QuIP#, arXiv 2402.04396, before it).
 */
#ifndef ML_QUANTIZATION_ROTATE_H
#define ML_QUANTIZATION_ROTATE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum { ML_HADAMARD = 128 };

/* Scales and signs of one matrix. Values are exactly representable in fp16: what is stored is
 * what was used. */
struct ml_rotation {
    size_t n, k; /* padded to multiples of 128 */
    float *su;   /* [k] */
    float *sv;   /* [n]; 0 for an all-zero output row */
};

marlin_status ml_rotation_create(struct ml_rotation *r, size_t n, size_t k,
                                 struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_rotation_free(struct ml_rotation *r);

/* x[blocks][128] in place, orthonormal: applying it twice gives x back. */
void ml_hadamard_rows(float *x, size_t blocks);

/* The same along the first index of w[128 * blocks][k]: each column in blocks of 128 rows. */
void ml_hadamard_columns(float *w, size_t blocks, size_t k);

/* Chooses random signs (from seed), output scales and input scales for w [n, k] and overwrites w by the
 * target for Q, whose entries have a root mean square of about `unit` (what the codec was trained for).
 * All-zero rows and columns are allowed. sv has mean magnitude 1; su carries the magnitude of the weights. */
void ml_rotation_fit(struct ml_rotation *r, float *w, float unit, uint64_t seed);

/* h [k, k] symmetric, the second moment of x, becomes that of x' = Hk (su * x). */
void ml_rotation_hessian(const struct ml_rotation *r, float *h);

/* h [n, n] symmetric, the second moment of the gradient of y, becomes that of the gradient of z: Hn
 * (sv * g). */
void ml_rotation_out_hessian(const struct ml_rotation *r, float *h);

/* Turns q [n, k] back into w: the slow reference of what the runtime does. In place. */
void ml_rotation_undo(const struct ml_rotation *r, float *q);

#endif
