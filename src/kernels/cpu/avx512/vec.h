/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector vocabulary of the AVX-512 tier: 16 floats, 32 registers. 6 token columns by 4 rows make 24
 * accumulators, which leaves 8 registers for the operands.
 */
#ifndef ML_KERNELS_CPU_AVX512_VEC_H
#define ML_KERNELS_CPU_AVX512_VEC_H

#include "base/dtype.h"

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define V_INLINE static inline __attribute__((always_inline))

typedef __m512 vf;
typedef __m128 v4;
enum { VL = 16, TILE_TOKENS = 6 };

#define TIER_TABLE_INIT ml_kernels_init_avx512
#define TIER_PEAK_INIT  ml_peak_init_avx512

V_INLINE __mmask16 v_first(size_t n) {
    return (__mmask16)((1u << n) - 1);
}

V_INLINE vf v_set1(float x) {
    return _mm512_set1_ps(x);
}
V_INLINE vf v_zero(void) {
    return _mm512_setzero_ps();
}
V_INLINE vf v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
V_INLINE void v_store(float *p, vf v) {
    _mm512_storeu_ps(p, v);
}
V_INLINE vf v_loadn(const float *p, size_t n) {
    return _mm512_maskz_loadu_ps(v_first(n), p);
}
V_INLINE void v_storen(float *p, vf v, size_t n) {
    _mm512_mask_storeu_ps(p, v_first(n), v);
}

V_INLINE vf v_from_bf16(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

V_INLINE vf v_from_i8(__m128i b) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b));
}

/* VL elements of a type, widened. `i` counts elements. */
V_INLINE vf v_load_as(const enum ml_dtype t, const void *p, size_t i) {
    if (t == ML_F32) return v_load((const float *)p + i);
    if (t == ML_I8) return v_from_i8(_mm_loadu_si128((const __m128i *)((const int8_t *)p + i)));
    const __m256i h = _mm256_loadu_si256((const __m256i *)((const uint16_t *)p + i));
    return t == ML_F16 ? _mm512_cvtph_ps(h) : v_from_bf16(h);
}

/* The first n < VL of them, zeros behind; nothing past them is read. */
V_INLINE vf v_loadn_as(const enum ml_dtype t, const void *p, size_t i, size_t n) {
    if (t == ML_F32) return v_loadn((const float *)p + i, n);
    if (t == ML_I8) return v_from_i8(_mm_maskz_loadu_epi8(v_first(n), (const int8_t *)p + i));
    const __m256i h = _mm256_maskz_loadu_epi16(v_first(n), (const uint16_t *)p + i);
    return t == ML_F16 ? _mm512_cvtph_ps(h) : v_from_bf16(h);
}

/* Round to nearest even; a NaN keeps its sign and upper bits and becomes quiet. */
V_INLINE __m256i v_to_bf16(vf v) {
    const __m512i u = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i r = _mm512_mask_or_epi32(up, nan, u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}

/* Stores VL whole numbers of -127..127 as bytes. */
V_INLINE void v_store_bytes(int8_t *p, vf v) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}

V_INLINE void v_store_as(const enum ml_dtype t, void *p, size_t i, vf v, size_t n) {
    if (t == ML_F32) {
        v_storen((float *)p + i, v, n);
        return;
    }
    const __m256i h =
        t == ML_F16 ? _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) : v_to_bf16(v);
    _mm256_mask_storeu_epi16((uint16_t *)p + i, v_first(n), h);
}

V_INLINE vf v_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}
V_INLINE vf v_fma(vf a, vf b, vf c) { /* a b + c */
    return _mm512_fmadd_ps(a, b, c);
}
V_INLINE vf v_nfma(vf a, vf b, vf c) { /* c - a b */
    return _mm512_fnmadd_ps(a, b, c);
}
/* x limited to [lo, hi]; NaN stays NaN (the instruction returns its second operand). */
V_INLINE vf v_clamp(vf x, float lo, float hi) {
    return _mm512_min_ps(v_set1(hi), _mm512_max_ps(v_set1(lo), x));
}
V_INLINE vf v_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
V_INLINE vf v_rint(vf x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* x 2^n for whole n in [-151, 129], rounded once. */
V_INLINE vf v_scale2(vf x, vf n) {
    return _mm512_scalef_ps(x, n);
}
V_INLINE vf v_abs(vf x) {
    return _mm512_abs_ps(x);
}
V_INLINE vf v_copysign(vf magnitude, vf sign) {
    const __m512i bit = _mm512_set1_epi32((int)0x80000000u);
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(bit, _mm512_castps_si512(sign), _mm512_castps_si512(magnitude), 0xca));
}
V_INLINE float v_hmax(vf v) {
    return _mm512_reduce_max_ps(v);
}

V_INLINE __m256 v_half_sum(vf v) {
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

/* The four sums of four vectors. Each sum is the same tree whatever its place. */
V_INLINE v4 v_sum4(vf a, vf b, vf c, vf d) {
    const __m256 ab = _mm256_hadd_ps(v_half_sum(a), v_half_sum(b));
    const __m256 cd = _mm256_hadd_ps(v_half_sum(c), v_half_sum(d));
    const __m256 s = _mm256_hadd_ps(ab, cd);
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}
/* v_sum4 of two sets of vectors at once, the same trees: each step takes one half of each of two vectors by a
 * blend and the other halves by one shuffle, so that their sum has both. */
V_INLINE void v_sum4_pair(const vf a[4], const vf b[4], v4 *sum_a, v4 *sum_b) {
    const __m512i odd = _mm512_setr_epi32(1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
    vf half[4], two[2];
    for (int r = 0; r < 4; r++)
        half[r] = _mm512_add_ps(_mm512_mask_blend_ps(0xff00, a[r], b[r]),
                                _mm512_shuffle_f32x4(a[r], b[r], _MM_SHUFFLE(1, 0, 3, 2)));
    for (int r = 0; r < 2; r++)
        two[r] = _mm512_add_ps(_mm512_mask_blend_ps(0xaaaa, half[2 * r], half[2 * r + 1]),
                               _mm512_permutex2var_ps(half[2 * r], odd, half[2 * r + 1]));
    const vf quarter = _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, two[0], two[1]),
                                     _mm512_shuffle_ps(two[0], two[1], _MM_SHUFFLE(1, 0, 3, 2)));
    const vf sum = _mm512_add_ps(quarter, _mm512_shuffle_f32x4(quarter, quarter, _MM_SHUFFLE(2, 3, 0, 1)));
    *sum_a = _mm512_castps512_ps128(sum);
    *sum_b = _mm512_extractf32x4_ps(sum, 2);
}
V_INLINE v4 v4_load(const float *p) {
    return _mm_loadu_ps(p);
}
V_INLINE v4 v4_loadn(const float *p, size_t n) {
    return _mm_maskz_loadu_ps((__mmask8)((1u << n) - 1), p);
}
V_INLINE v4 v4_add(v4 a, v4 b) {
    return _mm_add_ps(a, b);
}
V_INLINE void v4_storen(float *p, v4 v, size_t n) { /* n <= 4 */
    _mm_mask_storeu_ps(p, (__mmask8)((1u << n) - 1), v);
}
V_INLINE float v_sum(vf v) {
    return _mm_cvtss_f32(v_sum4(v, v, v, v));
}

/* 2 VL floats split into those of even and odd index, and back. */
V_INLINE void v_load2(const float *p, vf *even, vf *odd) {
    const vf a = v_load(p), b = v_load(p + VL);
    const __m512i e = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *even = _mm512_permutex2var_ps(a, e, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(e, _mm512_set1_epi32(1)), b);
}
V_INLINE void v_store2(float *p, vf even, vf odd) {
    const __m512i lo = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    v_store(p, _mm512_permutex2var_ps(even, lo, odd));
    v_store(p + VL, _mm512_permutex2var_ps(even, _mm512_add_epi32(lo, _mm512_set1_epi32(8)), odd));
}

#endif
