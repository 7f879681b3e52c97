/* SPDX-License-Identifier: Apache-2.0
 *
 * The vocabulary of quantized products, AVX2 tier: 4 lanes of 64 bits. Weights are signed; a byte product of
 * two signed bytes is |w| times x with w's sign, which never saturates because neither is -128.
 */
#ifndef ML_KERNELS_CPU_AVX2_QVEC_H
#define ML_KERNELS_CPU_AVX2_QVEC_H

#include "kernels/cpu/avx2/vec.h"

typedef __m256i vq;
enum { LQ = 4, LUT_VECTORS = 16, EXL3_WIDE = 1, MANY_SPREAD = 1 };

V_INLINE vq q_load(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}
V_INLINE void q_store(void *p, vq v) {
    _mm256_storeu_si256((__m256i *)p, v);
}
V_INLINE vq q_zero(void) {
    return _mm256_setzero_si256();
}
V_INLINE vq q_set8(int v) {
    return _mm256_set1_epi8((char)v);
}
V_INLINE vq q_set64(uint64_t low, uint64_t high) { /* of each 128 bits */
    return _mm256_set_epi64x((long long)high, (long long)low, (long long)high, (long long)low);
}

typedef struct {
    __m128i right, left;
} vshift;
V_INLINE vshift q_shift(unsigned n) {
    const vshift s = {_mm_cvtsi32_si128((int)n), _mm_cvtsi32_si128((int)(64 - n))};
    return s;
}
V_INLINE vq q_funnel(vq low, vq next, vshift n) {
    return _mm256_or_si256(_mm256_srl_epi64(low, n.right), _mm256_sll_epi64(next, n.left));
}
#define Q_FUNNEL(low, next, n) _mm256_or_si256(_mm256_srli_epi64(low, n), _mm256_slli_epi64(next, 64 - (n)))

V_INLINE vq q_xor(vq a, vq b) {
    return _mm256_xor_si256(a, b);
}
V_INLINE vq q_xor3(vq a, vq b, vq c) {
    return q_xor(q_xor(a, b), c);
}
V_INLINE vq q_mux(vq mask, vq a, vq b) {
    return q_xor(b, _mm256_and_si256(mask, q_xor(a, b)));
}

/* Bytes j of each lane: bit base + k j to the top half of a 16-bit lane, even and odd j apart. */
V_INLINE vq q_bytes(vq v, const unsigned base, const unsigned k) {
    uint64_t pick[2] = {0, 0}, up[2] = {0, 0};
    for (unsigned j = 0; j < 8; j++) {
        const unsigned bit = base + k * j, at = bit / 8, next = at < 7 ? at + 1 : 0x80;
        pick[j & 1] |= (uint64_t)(at & 7) << (j / 2 * 16) | (uint64_t)next << (j / 2 * 16 + 8);
        up[j & 1] |= (uint64_t)(1u << (8 - bit % 8)) << (j / 2 * 16);
    }
    const uint64_t eight = 0x0808080808080808;
    const vq even =
        _mm256_mullo_epi16(_mm256_shuffle_epi8(v, q_set64(pick[0], pick[0] + eight)), q_set64(up[0], up[0]));
    const vq odd =
        _mm256_mullo_epi16(_mm256_shuffle_epi8(v, q_set64(pick[1], pick[1] + eight)), q_set64(up[1], up[1]));
    return q_mux(_mm256_set1_epi16(0xff), _mm256_srli_epi16(even, 8), odd);
}

/* 16 entries a register; each holds the exclusive or of its entries with those of the register before.
 * Looking up index - 16 i gives 0 from register i when the index lies below it (top bit), so that all that
 * are looked up cancel down to the one meant. Indices from 128 on have the top bit until it is flipped. */
struct lut {
    vq t[LUT_VECTORS];
};
V_INLINE struct lut q_lut(const int8_t *table, const int p) {
    struct lut l;
    for (int i = 0; i < 1 << (p - 4); i++) {
        __m128i v = _mm_loadu_si128((const __m128i *)(table + 16 * i));
        if (i % 8) v = _mm_xor_si128(v, _mm_loadu_si128((const __m128i *)(table + 16 * i - 16)));
        l.t[i] = _mm256_broadcastsi128_si256(v);
    }
    return l;
}
V_INLINE vq lookup_half(const vq *t, vq index, const int registers) {
    vq v = _mm256_shuffle_epi8(t[0], index);
    for (int i = 1; i < registers; i++) {
        index = _mm256_subs_epi8(index, q_set8(16));
        v = q_xor(v, _mm256_shuffle_epi8(t[i], index));
    }
    return v;
}
V_INLINE vq q_lookup(const struct lut *l, vq index, const int p) {
    if (p == 6) return lookup_half(l->t, _mm256_and_si256(index, q_set8(0x3f)), 4);
    if (p == 7) return lookup_half(l->t, _mm256_and_si256(index, q_set8(0x7f)), 8);
    return q_xor(lookup_half(l->t, index, 8), lookup_half(l->t + 8, q_xor(index, q_set8(0x80)), 8));
}

V_INLINE vq q_dot(vq acc, vq w, vq x) {
    const vq pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
V_INLINE vq q_dot16(vq acc, vq w, vq x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(w, x));
}
/* out[q] = the two 32-bit lanes of each qword. */
V_INLINE void q_store_sums(int32_t *out, vq acc) {
    const vq sum = _mm256_add_epi32(acc, _mm256_srli_epi64(acc, 32));
    const vq low = _mm256_permutevar8x32_epi32(sum, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(low));
}
V_INLINE int32_t q_sum(vq acc) {
    int32_t part[4];
    q_store_sums(part, acc);
    return part[0] + part[1] + part[2] + part[3];
}

/* ---- 16-bit lanes ---- */

/* Four 16-bit windows of each lane, at bits at + j K from the most significant one down. */
V_INLINE vq q_words(vq lane, const int at, const int K) {
    uint64_t high = 0, low = 0, up = 0;
    for (int j = 0; j < 4; j++) {
        const int bit = 48 - at - j * K, b = bit / 8;
        high |= (uint64_t)((b + 1) | (b + 2 < 8 ? b + 2 : 0x80) << 8) << (16 * j);
        low |= (uint64_t)(0x80 | b << 8) << (16 * j);
        up |= (uint64_t)(1u << (8 - bit % 8)) << (16 * j);
    }
    const uint64_t eight = 0x0808080808080808;
    const vq a = _mm256_shuffle_epi8(lane, q_set64(high, high + eight));
    const vq b = _mm256_shuffle_epi8(lane, q_set64(low, low + eight)), c = q_set64(up, up);
    return _mm256_or_si256(_mm256_mullo_epi16(a, c), _mm256_mulhi_epu16(b, c));
}
V_INLINE vq h_set(int v) {
    return _mm256_set1_epi16((short)v);
}
V_INLINE vq h_add(vq a, vq b) {
    return _mm256_add_epi16(a, b);
}
V_INLINE vq h_mullo(vq a, vq b) {
    return _mm256_mullo_epi16(a, b);
}
V_INLINE vq h_mulhi(vq a, vq b) {
    return _mm256_mulhi_epu16(a, b);
}
/* -1 where a <= b, unsigned */
V_INLINE vq h_at_most(vq a, vq b) {
    return _mm256_cmpeq_epi16(_mm256_min_epu16(a, b), a);
}
/* The sum of the two bytes of each lane. */
V_INLINE vq h_byte_sum(vq v) {
    return _mm256_maddubs_epi16(v, q_set8(1));
}
/* ml_quant_half of bits that are already exclusive-ored; 12 to 14 may be anything. */
V_INLINE vq h_half(vq x) {
    const vq mantissa = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(x, 4), h_set(0x3e)), h_set(65));
    const vq e = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(x, 10), h_set(3)), h_set((short)0x8000));
    const vq power = _mm256_shuffle_epi8(q_set64(0x08040201, 0), e);
    const vq whole = _mm256_srli_epi16(h_add(h_mullo(mantissa, power), h_set(2)), 2);
    return _mm256_sign_epi16(whole, _mm256_or_si256(x, h_set(1)));
}

/* ---- rotation and rounding ---- */

V_INLINE vf v_swap(vf v, const int step) {
    if (step == 4) return _mm256_permute2f128_ps(v, v, 1);
    return step == 1 ? _mm256_permute_ps(v, 0xb1) : _mm256_permute_ps(v, 0x4e);
}
V_INLINE vf v_flip(vf v, const int step) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(lane, _mm256_set1_epi32(step)), step == 1   ? 31
                                                                                            : step == 2 ? 30
                                                                                                        : 29);
    return _mm256_xor_ps(v, _mm256_castsi256_ps(sign));
}
V_INLINE void v_store_bytes(int8_t *p, vf v) {
    const __m256i i = _mm256_cvtps_epi32(v);
    const __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(h, h));
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
