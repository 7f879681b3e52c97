/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized products of the NEON tier with the dot product extension.
 */
#include "kernels/cpu/neon/qvec.h"

#include "kernels/cpu/quant_simd.h"

void ml_quant_init_neondot(struct ml_kernels *k) {
    quant_fill(k);
}
