/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized products of the AVX2 tier with AVX-VNNI (Alder Lake, Zen 5 and later).
 */
#include "kernels/cpu/avx2/qvec.h"

#include "kernels/cpu/quant_simd.h"

void ml_quant_init_avxvnni(struct ml_kernels *k) {
    quant_fill(k);
}
