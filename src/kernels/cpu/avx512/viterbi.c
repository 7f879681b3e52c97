/* SPDX-License-Identifier: Apache-2.0
 *
 * Trellis search with 32 lanes of 16 bits (AVX-512 BW and VBMI).
 */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m512i vec;
enum { LANE_BITS = 5, LANES = 32 };

#define V_INLINE static inline __attribute__((always_inline))

V_INLINE vec v_load(const uint16_t *p) {
    return _mm512_loadu_si512(p);
}

V_INLINE void v_store(uint16_t *p, vec v) {
    _mm512_storeu_si512(p, v);
}

V_INLINE vec v_set1(uint16_t x) {
    return _mm512_set1_epi16((short)x);
}

#define v_add _mm512_add_epi16
#define v_sub _mm512_sub_epi16
#define v_abs _mm512_abs_epi16
#define v_min _mm512_min_epu16
#define v_mul _mm512_mullo_epi16
#define v_and _mm512_and_si512
#define v_or  _mm512_or_si512

V_INLINE vec v_shl(vec v, unsigned n) {
    return _mm512_slli_epi16(v, n);
}

V_INLINE vec v_pick(vec better, vec *a, vec x, vec y) {
    const __mmask32 less = _mm512_cmplt_epu16_mask(better, *a);
    *a = _mm512_min_epu16(better, *a);
    return _mm512_mask_mov_epi16(y, less, x);
}

/* Byte indices for vpermb, which is half the price of vpermw. Compilers that see their value choose vpermw,
 * so it is hidden. */
V_INLINE vec byte_indices(vec lane) {
    vec index =
        _mm512_or_si512(_mm512_mullo_epi16(lane, _mm512_set1_epi16(0x0202)), _mm512_set1_epi16(0x0100));
    __asm__("" : "+v"(index));
    return index;
}

V_INLINE vec lane_numbers(void) {
    return _mm512_set_epi64(0x001f001e001d001c, 0x001b001a00190018, 0x0017001600150014, 0x0013001200110010,
                            0x000f000e000d000c, 0x000b000a00090008, 0x0007000600050004, 0x0003000200010000);
}

V_INLINE vec v_spread(unsigned bits) {
    return byte_indices(_mm512_srli_epi16(lane_numbers(), bits));
}

V_INLINE vec v_swap(unsigned difference) {
    return byte_indices(_mm512_xor_si512(lane_numbers(), v_set1((uint16_t)difference)));
}

#define v_permute(v, control) _mm512_permutexvar_epi8(control, v)

V_INLINE vec v_expand(const uint16_t *p, const unsigned bits, vec spread) {
    uint64_t four;
    uint32_t two;
    if (bits == 1) return v_permute(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p)), spread);
    if (bits == 2) return v_permute(_mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p)), spread);
    if (bits == 3) {
        memcpy(&four, p, sizeof four);
        return v_permute(_mm512_castsi128_si512(_mm_cvtsi64_si128((long long)four)), spread);
    }
    memcpy(&two, p, sizeof two);
    return v_permute(_mm512_castsi128_si512(_mm_cvtsi32_si128((int)two)), spread);
}

V_INLINE uint16_t v_least(vec v) {
    const __m256i h = _mm256_min_epu16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    const __m128i q = _mm_min_epu16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    return (uint16_t)_mm_extract_epi16(_mm_minpos_epu16(q), 0);
}

#define V_HAS_PERMUTE
#include "kernels/cpu/viterbi_simd.h"

void ml_viterbi_search_avx512(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                              uint8_t symbol[ML_VITERBI_STEPS], void *scratch) {
    search(c, level, symbol, scratch);
}
