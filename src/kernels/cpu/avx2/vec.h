/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector vocabulary of the AVX2 tier: 8 floats, 16 registers. 3 token columns by 4 rows make 12
 * accumulators; 3 inputs and 1 weight fill the rest.
 */
#ifndef ML_KERNELS_CPU_AVX2_VEC_H
#define ML_KERNELS_CPU_AVX2_VEC_H

#include "base/dtype.h"

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define V_INLINE static inline __attribute__((always_inline))

typedef __m256 vf;
typedef __m128 v4;
enum { VL = 8, TILE_TOKENS = 3 };

#define TIER_TABLE_INIT ml_kernels_init_avx2
#define TIER_PEAK_INIT  ml_peak_init_avx2

V_INLINE __m256i v_first(size_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

V_INLINE vf v_set1(float x) {
    return _mm256_set1_ps(x);
}
V_INLINE vf v_zero(void) {
    return _mm256_setzero_ps();
}
V_INLINE vf v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
V_INLINE void v_store(float *p, vf v) {
    _mm256_storeu_ps(p, v);
}
V_INLINE vf v_loadn(const float *p, size_t n) {
    return _mm256_maskload_ps(p, v_first(n));
}
V_INLINE void v_storen(float *p, vf v, size_t n) {
    _mm256_maskstore_ps(p, v_first(n), v);
}

V_INLINE vf v_from_half(const enum ml_dtype t, __m128i h) {
    if (t == ML_F16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

V_INLINE vf v_from_i8(__m128i b) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b));
}

/* VL elements of a type, widened. `i` counts elements. */
V_INLINE vf v_load_as(const enum ml_dtype t, const void *p, size_t i) {
    if (t == ML_F32) return v_load((const float *)p + i);
    if (t == ML_I8) return v_from_i8(_mm_loadl_epi64((const __m128i *)((const int8_t *)p + i)));
    return v_from_half(t, _mm_loadu_si128((const __m128i *)((const uint16_t *)p + i)));
}

/* The first n < VL of them, zeros behind; nothing past them is read. */
V_INLINE vf v_loadn_as(const enum ml_dtype t, const void *p, size_t i, size_t n) {
    if (t == ML_F32) return v_loadn((const float *)p + i, n);
    if (t == ML_I8) {
        int8_t b[VL] = {0};
        memcpy(b, (const int8_t *)p + i, n);
        return v_from_i8(_mm_loadl_epi64((const __m128i *)b));
    }
    uint16_t h[VL] = {0};
    memcpy(h, (const uint16_t *)p + i, n * sizeof *h);
    return v_from_half(t, _mm_loadu_si128((const __m128i *)h));
}

/* Round to nearest even; a NaN keeps its sign and upper bits and becomes quiet. */
V_INLINE __m128i v_to_bf16(vf v) {
    const __m256i u = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    const __m256i r = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}

/* Stores VL whole numbers of -127..127 as bytes. */
V_INLINE void v_store_bytes(int8_t *p, vf v) {
    const __m256i i = _mm256_cvtps_epi32(v);
    const __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(h, h));
}

V_INLINE void v_store_as(const enum ml_dtype t, void *p, size_t i, vf v, size_t n) {
    if (t == ML_F32) {
        v_storen((float *)p + i, v, n);
        return;
    }
    const __m128i h =
        t == ML_F16 ? _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) : v_to_bf16(v);
    memcpy((uint16_t *)p + i, &h, n * sizeof(uint16_t));
}

V_INLINE vf v_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}
V_INLINE vf v_fma(vf a, vf b, vf c) { /* a b + c */
    return _mm256_fmadd_ps(a, b, c);
}
V_INLINE vf v_nfma(vf a, vf b, vf c) { /* c - a b */
    return _mm256_fnmadd_ps(a, b, c);
}
/* x limited to [lo, hi]; NaN stays NaN (the instruction returns its second operand). */
V_INLINE vf v_clamp(vf x, float lo, float hi) {
    return _mm256_min_ps(v_set1(hi), _mm256_max_ps(v_set1(lo), x));
}
V_INLINE vf v_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
V_INLINE vf v_rint(vf x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
V_INLINE vf v_pow2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
/* x 2^n for whole n in [-151, 129]: two factors, so that neither leaves the range of normal numbers. */
V_INLINE vf v_scale2(vf x, vf n) {
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return v_mul(v_mul(x, v_pow2(half)), v_pow2(_mm256_sub_epi32(whole, half)));
}
V_INLINE vf v_abs(vf x) {
    return _mm256_andnot_ps(v_set1(-0.0f), x);
}
V_INLINE vf v_copysign(vf magnitude, vf sign) {
    return _mm256_or_ps(v_abs(magnitude), _mm256_and_ps(v_set1(-0.0f), sign));
}
V_INLINE float v_hmax(vf v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* The four sums of four vectors. Each sum is the same tree whatever its place. */
V_INLINE v4 v_sum4(vf a, vf b, vf c, vf d) {
    const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}
V_INLINE void v_sum4_pair(const vf a[4], const vf b[4], v4 *sum_a, v4 *sum_b) {
    *sum_a = v_sum4(a[0], a[1], a[2], a[3]);
    *sum_b = v_sum4(b[0], b[1], b[2], b[3]);
}
V_INLINE v4 v4_load(const float *p) {
    return _mm_loadu_ps(p);
}
V_INLINE __m128i v4_first(size_t n) {
    return _mm_cmpgt_epi32(_mm_set1_epi32((int)n), _mm_setr_epi32(0, 1, 2, 3));
}
V_INLINE v4 v4_loadn(const float *p, size_t n) {
    return _mm_maskload_ps(p, v4_first(n));
}
V_INLINE v4 v4_add(v4 a, v4 b) {
    return _mm_add_ps(a, b);
}
V_INLINE void v4_storen(float *p, v4 v, size_t n) { /* n <= 4 */
    _mm_maskstore_ps(p, v4_first(n), v);
}
V_INLINE float v_sum(vf v) {
    return _mm_cvtss_f32(v_sum4(v, v, v, v));
}

/* 2 VL floats split into those of even and odd index, and back. */
V_INLINE void v_load2(const float *p, vf *even, vf *odd) {
    const vf a = v_load(p), b = v_load(p + VL);
    const vf lo = _mm256_permute2f128_ps(a, b, 0x20), hi = _mm256_permute2f128_ps(a, b, 0x31);
    *even = _mm256_shuffle_ps(lo, hi, _MM_SHUFFLE(2, 0, 2, 0));
    *odd = _mm256_shuffle_ps(lo, hi, _MM_SHUFFLE(3, 1, 3, 1));
}
V_INLINE void v_store2(float *p, vf even, vf odd) {
    const vf lo = _mm256_unpacklo_ps(even, odd), hi = _mm256_unpackhi_ps(even, odd);
    v_store(p, _mm256_permute2f128_ps(lo, hi, 0x20));
    v_store(p + VL, _mm256_permute2f128_ps(lo, hi, 0x31));
}

#endif
