/* SPDX-License-Identifier: Apache-2.0
 *
 * Peaks of the NEON tier.
 */
#include "kernels/cpu/neon/vec.h"

#include "kernels/cpu/peak_simd.h"

void TIER_PEAK_INIT(struct ml_peak_kernels *k) {
    k->read = peak_read;
    k->f32 = peak_f32;
}
