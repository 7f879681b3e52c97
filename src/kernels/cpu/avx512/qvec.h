/* SPDX-License-Identifier: Apache-2.0
 *
 * The vocabulary of quantized products, AVX-512 tier: 8 lanes of 64 bits, one of each run of columns.
 */
#ifndef ML_KERNELS_CPU_AVX512_QVEC_H
#define ML_KERNELS_CPU_AVX512_QVEC_H

#include "kernels/cpu/avx512/vec.h"

typedef __m512i vq;
enum { LQ = 8, LUT_VECTORS = 4, EXL3_WIDE = 0 };

V_INLINE vq q_load(const void *p) {
    return _mm512_loadu_si512(p);
}
V_INLINE void q_store(void *p, vq v) {
    _mm512_storeu_si512(p, v);
}
V_INLINE vq q_zero(void) {
    return _mm512_setzero_si512();
}
V_INLINE vq q_set8(int v) {
    return _mm512_set1_epi8((char)v);
}

/* Per qword lane: the 64 bits that start at bit n of next:low. */
typedef __m512i vshift;
V_INLINE vshift q_shift(unsigned n) {
    return _mm512_set1_epi64(n);
}
V_INLINE vq q_funnel(vq low, vq next, vshift n) {
    return _mm512_shrdv_epi64(low, next, n);
}
#define Q_FUNNEL(low, next, n) _mm512_shrdi_epi64(low, next, n)

V_INLINE vq q_xor3(vq a, vq b, vq c) {
    return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}
V_INLINE vq q_xor(vq a, vq b) {
    return _mm512_xor_si512(a, b);
}
/* mask ? a : b, bit by bit. a comes first: gcc writes the result there, and of the three it is the one that
 * is needed least often afterwards. */
V_INLINE vq q_mux(vq mask, vq a, vq b) {
    return _mm512_ternarylogic_epi64(a, mask, b, 0xe2);
}

/* Byte j of each lane: the 8 bits of v's lane from bit `base` + k j on (cyclic in the lane). */
V_INLINE vq q_bytes(vq v, const unsigned base, const unsigned k) {
    uint64_t control = 0;
    for (unsigned j = 0; j < 8; j++)
        control |= (uint64_t)((base + k * j) & 63) << (8 * j);
    return _mm512_multishift_epi64_epi8(_mm512_set1_epi64((long long)control), v);
}

#include "kernels/cpu/quant_mux_simd.h"

/* A table of 2^p bytes, p = 6, 7 or 8, in registers. Bits of the index above p are ignored. */
struct lut {
    vq t[LUT_VECTORS];
};
V_INLINE struct lut q_lut(const uint8_t *table, const int p) {
    struct lut l;
    for (int i = 0; i < 1 << (p - 6); i++)
        l.t[i] = q_load(table + 64 * i);
    return l;
}
V_INLINE vq q_lookup(const struct lut *l, vq index, const int p) {
    if (p == 6) return _mm512_permutexvar_epi8(index, l->t[0]);
    const vq low = _mm512_permutex2var_epi8(l->t[0], index, l->t[1]);
    if (p == 7) return low;
    const vq high = _mm512_permutex2var_epi8(l->t[2], index, l->t[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
}

/* gcc (12) copies the sum before and after each of these instructions, so that 24 sums take 48 registers and
 * half of them go through memory. It does not when it is told no more than that the sum changes. */
#if defined(__GNUC__) && !defined(__clang__)
#define Q_ACCUMULATE(name, intrinsic, acc, w, x)                                                             \
    __extension__({                                                                                          \
        vq sum_ = acc;                                                                                       \
        __asm__(name " %2, %1, %0" : "+v"(sum_) : "v"(w), "v"(x));                                           \
        sum_;                                                                                                \
    })
#else
#define Q_ACCUMULATE(name, intrinsic, acc, w, x) intrinsic(acc, w, x)
#endif

/* The table holds entries plus 128; sums of products with signed bytes, four to a 32-bit lane. */
enum { Q_OFFSET = 128 };
V_INLINE vq q_dot(vq acc, vq w, vq x) {
    return Q_ACCUMULATE("vpdpbusd", _mm512_dpbusd_epi32, acc, w, x);
}

/* Two products of int16 to a 32-bit lane. */
V_INLINE vq q_dot16(vq acc, vq w, vq x) {
    return Q_ACCUMULATE("vpdpwssd", _mm512_dpwssd_epi32, acc, w, x);
}

/* Sums of one row: out[q] = the two 32-bit lanes of run q. */
V_INLINE void q_store_sums(int32_t *out, vq acc) {
    const vq sum = _mm512_add_epi32(acc, _mm512_srli_epi64(acc, 32));
    _mm256_storeu_si256((__m256i *)out, _mm512_cvtepi64_epi32(sum));
}

/* ---- rotation and rounding ---- */

/* Lane i gets lane i ^ step; step 1, 2 .. VL / 2. */
V_INLINE vf v_swap(vf v, const int step) {
    if (step == 1) return _mm512_permute_ps(v, 0xb1);
    if (step == 2) return _mm512_permute_ps(v, 0x4e);
    return step == 4 ? _mm512_shuffle_f32x4(v, v, 0xb1) : _mm512_shuffle_f32x4(v, v, 0x4e);
}
/* Changes the sign of the lanes whose number has the bit `step`. */
V_INLINE vf v_flip(vf v, const int step) {
    const __mmask16 lanes = (__mmask16)(step == 1   ? 0xaaaa
                                        : step == 2 ? 0xcccc
                                        : step == 4 ? 0xf0f0
                                                    : 0xff00);
    return _mm512_mask_xor_ps(v, lanes, v, _mm512_set1_ps(-0.0f));
}
V_INLINE __m128i b16_load(const void *p) {
    return _mm_loadu_si128((const __m128i *)p);
}
V_INLINE void b16_store(void *p, __m128i v) {
    _mm_storeu_si128((__m128i *)p, v);
}
V_INLINE __m128i b16_pick(__m128i v, const uint8_t *index) {
    return _mm_shuffle_epi8(v, b16_load(index));
}

#endif
