/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files of the reference: one function a family fills its part of the table.
 */
#ifndef ML_KERNELS_REFERENCE_REFERENCE_H
#define ML_KERNELS_REFERENCE_REFERENCE_H

#include "base/fp.h"
#include "kernels/tiers.h"

/* Element i of an array of F32, F16, BF16 or I8. */
float ml_reference_at(enum ml_dtype t, const void *p, size_t i);

void ml_reference_matmul(struct ml_kernels *k);
void ml_reference_attention(struct ml_kernels *k);
void ml_reference_elementwise(struct ml_kernels *k);
void ml_reference_convert(struct ml_kernels *k);
void ml_reference_quant(struct ml_kernels *k);

#endif
