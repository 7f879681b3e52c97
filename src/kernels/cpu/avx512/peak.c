/* SPDX-License-Identifier: Apache-2.0
 *
 * Peaks of the AVX-512 tier, bytes by VNNI.
 */
#include "kernels/cpu/avx512/qvec.h"

#include "kernels/cpu/peak_simd.h"

static double peak_int8(size_t rounds, float *sink) {
    __m512i acc[ACCUMULATORS];
    const __m512i x = _mm512_set1_epi8((char)rounds), y = _mm512_set1_epi8(3);
    for (int i = 0; i < ACCUMULATORS; i++)
        acc[i] = _mm512_set1_epi32(i);
    for (size_t r = 0; r < rounds; r++) {
        UNROLL_ACCUMULATORS
        for (int i = 0; i < ACCUMULATORS; i++)
            acc[i] = q_dot(acc[i], x, y);
    }
    __m512i sum = acc[0];
    for (int i = 1; i < ACCUMULATORS; i++)
        sum = _mm512_add_epi32(sum, acc[i]);
    *sink = (float)_mm512_reduce_add_epi32(sum);
    return 2.0 * 4 * VL * ACCUMULATORS * (double)rounds;
}

void TIER_PEAK_INIT(struct ml_peak_kernels *k) {
    k->read = peak_read;
    k->f32 = peak_f32;
    k->int8 = peak_int8;
}
