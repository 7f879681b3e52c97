/* SPDX-License-Identifier: Apache-2.0
 *
 * What rounding to int8 begins with, over the vocabulary of a tier.
 */
#ifndef ML_KERNELS_CPU_ROUND_SIMD_H
#define ML_KERNELS_CPU_ROUND_SIMD_H

#include <math.h>
#include <stddef.h>

/* max |x|, NaN when any x is not finite. */
static float largest(const float *x, size_t n) {
    vf most = v_zero(), bad = v_zero();
    for (size_t i = 0; i < n; i += VL) {
        const vf v = n - i < VL ? v_loadn(x + i, n - i) : v_load(x + i);
        most = v_max(most, v_abs(v));
        bad = v_add(bad, v_sub(v, v));
    }
    return v_sum(bad) == 0 ? v_hmax(most) : NAN;
}

#endif
