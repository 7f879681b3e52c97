/* SPDX-License-Identifier: Apache-2.0
 *
 * Peaks of the AVX2 tier.
 */
#include "kernels/cpu/avx2/vec.h"

#include "kernels/cpu/peak_simd.h"

void TIER_PEAK_INIT(struct ml_peak_kernels *k) {
    k->read = peak_read;
    k->f32 = peak_f32;
}
