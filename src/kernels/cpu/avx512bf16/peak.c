/* SPDX-License-Identifier: Apache-2.0
 *
 * Peak of AVX512-BF16's dot product.
 */
#include "kernels/cpu/avx512/vec.h"

#include "kernels/tiers.h"

enum { ACCUMULATORS = 12 };

static double peak_bf16(size_t rounds, float *sink) {
    vf acc[ACCUMULATORS];
    const __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f00), y = (__m512bh)_mm512_set1_epi16(0x3e00);
    for (int i = 0; i < ACCUMULATORS; i++)
        acc[i] = v_set1((float)i);
    for (size_t r = 0; r < rounds; r++) {
        for (int i = 0; i < ACCUMULATORS; i++)
            acc[i] = _mm512_dpbf16_ps(acc[i], x, y);
    }
    vf sum = acc[0];
    for (int i = 1; i < ACCUMULATORS; i++)
        sum = v_add(sum, acc[i]);
    *sink = v_sum(sum);
    return 2.0 * 2 * VL * ACCUMULATORS * (double)rounds;
}

void ml_peak_init_avx512bf16(struct ml_peak_kernels *k) {
    k->bf16 = peak_bf16;
}
