/* SPDX-License-Identifier: Apache-2.0
 *
 * One row of x by four rows of 16-bit weights in loads of 16 bytes. Sums are those of vectors of 16 lanes,
 * held as two halves that take turns. Memory is the limit, and it is read faster so: processors prefetch by
 * what single instructions do, and these move on by 16 bytes each time as those of the AVX2 tier do. Zen 5,
 * two threads, of read bandwidth: loads of 32 bytes 82 %, these 90 (bench/results/quant-kernels.md).
 */
#ifndef ML_KERNELS_CPU_AVX512_HALVES_H
#define ML_KERNELS_CPU_AVX512_HALVES_H

#include "kernels/cpu/avx512/vec.h"
#include "kernels/cpu/unroll_simd.h"

#define V_HALVES 1

V_INLINE __m256 half_load_as(const enum ml_dtype t, const void *p, size_t i) {
    const __m128i h = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)p + i));
    if (t == ML_F16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

/* acc[4] = lanes of the sums of n columns, a multiple of VL; 8 n bytes are fetched from `ahead` on. */
V_INLINE void dot_halves(const enum ml_dtype t, vf acc[4], const void *const row[4], const float *x, size_t n,
                         const char *ahead) {
    __m256 now[4], next[4]; /* of lanes 0 .. 7 and 8 .. 15 in turn */
    UNROLL
    for (int r = 0; r < 4; r++)
        now[r] = next[r] = _mm256_setzero_ps();
    NO_UNROLL
    for (size_t c = 0; c < n; c += 8) {
        const __m256 in = _mm256_loadu_ps(x + c);
        __builtin_prefetch(ahead + 8 * c);
        UNROLL
        for (int r = 0; r < 4; r++) {
            const __m256 sum = _mm256_fmadd_ps(half_load_as(t, row[r], c), in, now[r]);
            now[r] = next[r];
            next[r] = sum;
        }
    }
    UNROLL
    for (int r = 0; r < 4; r++)
        acc[r] = _mm512_insertf32x8(_mm512_castps256_ps512(now[r]), next[r], 1);
}

#endif
