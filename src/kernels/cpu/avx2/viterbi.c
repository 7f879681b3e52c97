/* SPDX-License-Identifier: Apache-2.0
 *
 * Trellis search with 16 lanes of 16 bits (AVX2).
 */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m256i vec;
enum { LANE_BITS = 4, LANES = 16 };

#define V_INLINE static inline __attribute__((always_inline))

V_INLINE vec v_load(const uint16_t *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

V_INLINE void v_store(uint16_t *p, vec v) {
    _mm256_storeu_si256((__m256i *)p, v);
}

V_INLINE vec v_set1(uint16_t x) {
    return _mm256_set1_epi16((short)x);
}

#define v_add _mm256_add_epi16
#define v_sub _mm256_sub_epi16
#define v_abs _mm256_abs_epi16
#define v_min _mm256_min_epu16
#define v_mul _mm256_mullo_epi16
#define v_and _mm256_and_si256
#define v_or  _mm256_or_si256

V_INLINE vec v_shl(vec v, unsigned n) {
    return _mm256_slli_epi16(v, (int)n);
}

/* There is no unsigned compare: not less where the minimum is still a. */
V_INLINE vec v_pick(vec better, vec *a, vec x, vec y) {
    const vec least = _mm256_min_epu16(better, *a);
    const vec kept = _mm256_cmpeq_epi16(least, *a);
    *a = least;
    return _mm256_blendv_epi8(x, y, kept);
}

/* Byte indices that give lane i the element i >> bits of at most 8 that both halves hold. */
V_INLINE vec v_spread(unsigned bits) {
    const vec lane = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const vec from = _mm256_srl_epi16(lane, _mm_cvtsi32_si128((int)bits));
    return _mm256_or_si256(_mm256_mullo_epi16(from, v_set1(0x0202)), v_set1(0x0100));
}

V_INLINE vec v_expand(const uint16_t *p, const unsigned bits, vec spread) {
    uint64_t four;
    uint32_t two;
    if (bits == 1)
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p)), spread);
    if (bits == 2) {
        memcpy(&four, p, sizeof four);
        return _mm256_shuffle_epi8(_mm256_set1_epi64x((long long)four), spread);
    }
    memcpy(&two, p, sizeof two);
    return _mm256_shuffle_epi8(_mm256_set1_epi32((int)two), spread);
}

V_INLINE uint16_t v_least(vec v) {
    const __m128i q = _mm_min_epu16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return (uint16_t)_mm_extract_epi16(_mm_minpos_epu16(q), 0);
}

#include "kernels/cpu/viterbi_simd.h"

void ml_viterbi_search_avx2(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                            uint8_t symbol[ML_VITERBI_STEPS], void *scratch) {
    search(c, level, symbol, scratch);
}
