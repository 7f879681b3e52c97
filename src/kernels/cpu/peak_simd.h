/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading and multiply-adding as fast as a tier can (include the tier's vec.h first). ACCUMULATORS chains
 * hide the latency of one FMA.
 */
#ifndef ML_KERNELS_CPU_PEAK_SIMD_H
#define ML_KERNELS_CPU_PEAK_SIMD_H

#include "kernels/tiers.h"

enum { ACCUMULATORS = 12 };

/* Without it gcc keeps the sums in memory. */
#if defined(__clang__)
#define UNROLL_ACCUMULATORS _Pragma("clang loop unroll(full)")
#else
#define UNROLL_ACCUMULATORS _Pragma("GCC unroll 12")
#endif

/* Eight streams side by side: one alone leaves a third of the bandwidth to the prefetcher's latency. */
static float peak_read(const float *p, size_t n) {
    const size_t part = n / 8;
    vf a = v_zero(), b = v_zero(), c = v_zero(), d = v_zero();
    for (size_t i = 0; i < part; i += VL) {
        a = v_add(a, v_load(p + i));
        b = v_add(b, v_load(p + part + i));
        c = v_add(c, v_load(p + 2 * part + i));
        d = v_add(d, v_load(p + 3 * part + i));
        a = v_add(a, v_load(p + 4 * part + i));
        b = v_add(b, v_load(p + 5 * part + i));
        c = v_add(c, v_load(p + 6 * part + i));
        d = v_add(d, v_load(p + 7 * part + i));
    }
    return v_sum(v_add(v_add(a, b), v_add(c, d)));
}

static double peak_f32(size_t rounds, float *sink) {
    vf acc[ACCUMULATORS], x = v_set1(0.5f), y = v_set1(0.25f);
    for (int i = 0; i < ACCUMULATORS; i++)
        acc[i] = v_set1((float)i);
    for (size_t r = 0; r < rounds; r++) {
        UNROLL_ACCUMULATORS
        for (int i = 0; i < ACCUMULATORS; i++)
            acc[i] = v_fma(acc[i], x, y);
    }
    vf sum = acc[0];
    for (int i = 1; i < ACCUMULATORS; i++)
        sum = v_add(sum, acc[i]);
    *sink = v_sum(sum);
    return 2.0 * VL * ACCUMULATORS * (double)rounds;
}

#endif
