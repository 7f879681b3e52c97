/* SPDX-License-Identifier: Apache-2.0
 *
 * The vocabulary of quantized products, AVX2 tier: 4 lanes of 64 bits. Weights are signed; a byte product of
 * two signed bytes is |w| times x with the sign of w (or the other way round), which never saturates because
 * neither is -128.
 */
#ifndef ML_KERNELS_CPU_AVX2_QVEC_H
#define ML_KERNELS_CPU_AVX2_QVEC_H

#include "kernels/cpu/avx2/vec.h"

typedef __m256i vq;
enum { LQ = 4, LUT_VECTORS = 16, EXL3_WIDE = 1 };

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

/* U without S: own bits are exclusive-ored into those of S. */
V_INLINE vq q_filtered(vq s, vq a, vq b) {
    (void)s;
    return q_xor(a, b);
}
V_INLINE vq q_own(vq mask, vq u, vq s) {
    return q_xor(s, _mm256_and_si256(mask, u));
}

/* The 8 windows of 8 bits of each lane from bit `at` on, k apart (cyclic in the lane), own bits from u. Even
 * and odd windows in 16-bit lanes, from bit b = 1 .. 8 of two bytes: a product moves the even ones to the
 * lower and the odd ones to the upper half. */
V_INLINE vq q_spread_each(vq s, vq u, const unsigned at, const unsigned k) {
    uint64_t pick[2] = {0, 0}, own[2] = {0, 0}, move[2] = {0, 0};
    for (unsigned j = 0; j < 8; j++) {
        const unsigned bit = at + k * j + 63, low = bit / 8 % 8, b = bit % 8 + 1, lane = j / 2 * 16;
        pick[j & 1] |= (uint64_t)low << lane | (uint64_t)((low + 1) % 8) << (lane + 8);
        own[j & 1] |= (uint64_t)(((1u << k) - 1) << b & 0xffff) << lane;
        move[j & 1] |= (uint64_t)(1u << (j & 1 ? 8 - b : 16 - b)) << lane;
    }
    const uint64_t eight = 0x0808080808080808;
    vq half[2];
    for (int odd = 0; odd < 2; odd++) {
        const vq from = q_set64(pick[odd], pick[odd] + eight);
        half[odd] =
            q_own(q_set64(own[odd], own[odd]), _mm256_shuffle_epi8(u, from), _mm256_shuffle_epi8(s, from));
    }
    const vq even = _mm256_mulhi_epu16(half[0], q_set64(move[0], move[0]));
    const vq odd = _mm256_mullo_epi16(half[1], q_set64(move[1], move[1]));
    return _mm256_blendv_epi8(even, odd, _mm256_set1_epi16((short)0xff00));
}

/* Windows of 7 bits, 3 apart, from a bit that begins a byte: an even one and the odd one after it lie in the
 * same two bytes, from bit b = 0, 2, 4 or 6. One shuffle takes both; the even one moves up and the odd one
 * down, so that each pair of columns changes places. */
V_INLINE vq q_spread_pairs(vq s, vq u, const unsigned at) {
    uint64_t pick = 0, own = 0, up = 0, down = 0;
    for (unsigned j = 0; j < 4; j++) {
        const unsigned bit = at + 6 * j, low = bit / 8 % 8, b = bit % 8, lane = 16 * j;
        pick |= (uint64_t)low << lane | (uint64_t)((low + 1) % 8) << (lane + 8);
        own |= (uint64_t)(7u << b) << lane;
        up |= (uint64_t)(1u << (8 - b)) << lane;
        down |= (uint64_t)(1u << (13 - b)) << lane;
    }
    const uint64_t eight = 0x0808080808080808;
    const vq from = q_set64(pick, pick + eight);
    const vq plain = _mm256_shuffle_epi8(s, from), filter = _mm256_shuffle_epi8(u, from);
    const vq even = _mm256_mullo_epi16(q_own(q_set64(own, own), filter, plain), q_set64(up, up));
    const vq odd = _mm256_mulhi_epu16(q_own(q_set64(own << 3, own << 3), filter, plain), q_set64(down, down));
    return _mm256_blendv_epi8(odd, even, _mm256_set1_epi16((short)0xff00));
}

#define Q_PAIRS(k, p)            ((k) == 3 && (p) <= 7)
#define Q_SPREAD(s, u, at, k, p) (Q_PAIRS(k, p) ? q_spread_pairs(s, u, at) : q_spread_each(s, u, at, k))
/* A row that begins at bit `at` of one word and ends in the next: its bytes keep their places, those of the
 * next word come where the row has none. */
#define Q_BOTH(low, next, at)                                                                                \
    _mm256_blend_epi16(next, low, (0xf << (at) / 16 & 0xf) | (0xf << (at) / 16 & 0xf) << 4)
#define Q_SPREAD2(s, s_next, u, u_next, at, k, p)                                                            \
    Q_SPREAD(Q_BOTH(s, s_next, at), Q_BOTH(u, u_next, at), at, k, p)
#define Q_SPREAD_LAST(s, s_next, u, at, k, p) Q_SPREAD(Q_BOTH(s, s_next, at), u, at, k, p)
#define Q_WITHIN(v, next, n, p)               ((n) + (p) <= 8 ? _mm256_srli_epi64(v, n) : Q_FUNNEL(v, next, n))

/* Columns in the order of Q_SPREAD, or back from it. */
V_INLINE vq q_columns(vq v, const int k, const int p) {
    if (!Q_PAIRS(k, p)) return v;
    return _mm256_shuffle_epi8(v, q_set64(0x0607040502030001, 0x0e0f0c0d0a0b0809));
}

/* 16 entries a register, LUT_VECTORS at most, in chains of four (64 entries) or two: each holds the exclusive
 * or of its entries with those of the register before in the chain. Looking up index - 16 i gives 0 from
 * register i when the index lies below it (top bit), so that all that are looked up cancel down to the one
 * meant. The bits above choose between chains.
 *
 * Chains of two save an instruction with 128 entries but cost two more blends. A blend is one operation on
 * AMD's processors, two or three on Intel's, and those that have AVX-VNNI without AVX-512 are Intel's. With
 * 256 entries they lose everywhere. */
struct lut {
    vq t[LUT_VECTORS];
};
V_INLINE int lut_chain(const int p) {
#if defined(__AVXVNNI__)
    return p == 5 ? 2 : 4;
#else
    return p == 5 || p == 7 ? 2 : 4;
#endif
}
V_INLINE struct lut q_lut(const int8_t *table, const int p) {
    struct lut l;
    for (int i = 0; i < 1 << (p - 4); i++) {
        __m128i v = _mm_loadu_si128((const __m128i *)(table + 16 * i));
        if (i % lut_chain(p)) v = _mm_xor_si128(v, _mm_loadu_si128((const __m128i *)(table + 16 * i - 16)));
        l.t[i] = _mm256_broadcastsi128_si256(v);
    }
    return l;
}
V_INLINE vq lookup_two(const vq *t, const vq index[2]) {
    return q_xor(_mm256_shuffle_epi8(t[0], index[0]), _mm256_shuffle_epi8(t[1], index[1]));
}
V_INLINE vq lookup_four(const vq *t, const vq index[4]) {
    return q_xor(lookup_two(t, index), lookup_two(t + 2, index + 2));
}
/* 32 or 128 entries. */
V_INLINE vq lookup_by_twos(const struct lut *l, vq index, const int p) {
    const vq first = p == 5 ? index : _mm256_and_si256(index, q_set8(0x1f));
    const vq i[2] = {first, _mm256_sub_epi8(first, q_set8(16))};
    if (p == 5) return lookup_two(l->t, i);
    const vq bit5 = _mm256_slli_epi16(index, 2), bit6 = _mm256_add_epi8(index, index);
    const vq low = _mm256_blendv_epi8(lookup_two(l->t, i), lookup_two(l->t + 2, i), bit5);
    const vq high = _mm256_blendv_epi8(lookup_two(l->t + 4, i), lookup_two(l->t + 6, i), bit5);
    return _mm256_blendv_epi8(low, high, bit6);
}
V_INLINE vq q_clean(vq index, const int p) {
    return p == 8 ? index : _mm256_and_si256(index, q_set8((1 << p) - 1));
}
/* Entry `index` of 2^p, p = 5 .. 8; nothing lies above the p bits. */
V_INLINE vq q_lookup(const struct lut *l, vq index, const int p) {
    if (lut_chain(p) == 2) return lookup_by_twos(l, index, p);
    vq i[4] = {p == 6 ? index : _mm256_and_si256(index, q_set8(0x3f))};
    for (int r = 1; r < 4; r++)
        i[r] = _mm256_sub_epi8(i[r - 1], q_set8(16));
    const vq first = lookup_four(l->t, i), bit6 = _mm256_add_epi8(index, index);
    if (p == 6) return first;
    const vq low = _mm256_blendv_epi8(first, lookup_four(l->t + 4, i), bit6);
    if (p == 7) return low;
    const vq high = _mm256_blendv_epi8(lookup_four(l->t + 8, i), lookup_four(l->t + 12, i), bit6);
    return _mm256_blendv_epi8(low, high, index);
}
/* Looks up a mirrored table (ml_tap_is_mirrored) of 2^p entries, p = 6 .. 8, of which l holds the lower half.
 * Bits of `index` above the lowest p are ignored.
 *
 * In a mirrored table an index and its complement hold the same value with opposite signs. So the smaller of
 * the two is looked up, and the value is negated where the index is the larger one. The sign is taken from
 * complement - index, which is odd and therefore never 0. With p = 8 this difference does not fit into a byte;
 * there the top bit of the index is the sign. A table may hold entries + 128: negating a byte maps 128, which
 * stands for 0, to itself, so that these are negated correctly as well. */
enum { MIRRORED_FROM = 6 }; /* index bits from which this beats q_lookup with the whole table */
V_INLINE vq q_lookup_mirrored(const struct lut *l, vq index, const int p) {
    const vq i = q_clean(index, p), other = q_xor(i, q_set8((1 << p) - 1));
    const vq sign = p == 8 ? _mm256_or_si256(i, q_set8(16)) : _mm256_sub_epi8(other, i);
    return _mm256_sign_epi8(q_lookup(l, _mm256_min_epu8(i, other), p - 1), sign);
}

/* acc + u s over groups of four bytes, u below 128 without a sign; and of two 16-bit numbers. */
#if defined(__AVXVNNI__)
/* gcc (12) copies the sum before and after these intrinsics, unless it is told no more than
 * that it changes. */
#if defined(__GNUC__) && !defined(__clang__)
#define Q_ACCUMULATE(name, intrinsic, acc, w, x)                                                             \
    __asm__("%{vex%} " name " %2, %1, %0" : "+x"(acc) : "x"(w), "x"(x))
#else
#define Q_ACCUMULATE(name, intrinsic, acc, w, x) acc = intrinsic(acc, w, x)
#endif
V_INLINE vq dot_bytes(vq acc, vq u, vq s) {
    Q_ACCUMULATE("vpdpbusd", _mm256_dpbusd_avx_epi32, acc, u, s);
    return acc;
}
V_INLINE vq q_dot16(vq acc, vq w, vq x) {
    Q_ACCUMULATE("vpdpwssd", _mm256_dpwssd_avx_epi32, acc, w, x);
    return acc;
}
#else
V_INLINE vq dot_bytes(vq acc, vq u, vq s) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}
V_INLINE vq q_dot16(vq acc, vq w, vq x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(w, x));
}
#endif
V_INLINE vq q_dot(vq acc, vq w, vq x) {
    return dot_bytes(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}
/* The same of weights that come from a table, with what several products share. With AVX-VNNI the table holds
 * entries + Q_OFFSET, which Q_OFFSET times the sum of x undoes; otherwise w with the sign of x times |x|. */
#if defined(__AVXVNNI__)
enum { Q_OFFSET = 128 };
typedef vq vin;
V_INLINE vin q_in(vq x) {
    return x;
}
V_INLINE vq q_dot_in(vq acc, vq w, vin x) {
    return dot_bytes(acc, w, x);
}
#else
enum { Q_OFFSET = 0 };
typedef struct {
    vq x, magnitude;
} vin;
V_INLINE vin q_in(vq x) {
    const vin in = {x, _mm256_abs_epi8(x)};
    return in;
}
V_INLINE vq q_dot_in(vq acc, vq w, vin in) {
    return dot_bytes(acc, in.magnitude, _mm256_sign_epi8(w, in.x));
}
#endif
/* out[q] = the two 32-bit lanes of each qword. */
V_INLINE void q_store_sums(int32_t *out, vq acc) {
    const vq sum = _mm256_add_epi32(acc, _mm256_srli_epi64(acc, 32));
    const vq low = _mm256_permutevar8x32_epi32(sum, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(low));
}
/* sum[q][i] += the two 32-bit lanes of qword q of acc[i]. */
V_INLINE void q_add_sums(int32_t (*sum)[4], const vq acc[4]) {
    const __m256 a = _mm256_castsi256_ps(_mm256_hadd_epi32(acc[0], acc[1]));
    const __m256 b = _mm256_castsi256_ps(_mm256_hadd_epi32(acc[2], acc[3]));
    const vq even = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)); /* q = 0 and 2 */
    const vq odd = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
    const vq first = _mm256_permute2x128_si256(even, odd, 0x20);
    const vq last = _mm256_permute2x128_si256(even, odd, 0x31);
    q_store(sum, _mm256_add_epi32(q_load(sum), first));
    q_store(sum + 2, _mm256_add_epi32(q_load(sum + 2), last));
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
    const vq mantissa = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(x, 3), h_set(0x7e)), h_set(129));
    const vq e = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(x, 10), h_set(3)), h_set((short)0x8000));
    const vq power = _mm256_shuffle_epi8(q_set64(0x08040201, 0), e);
    const vq eighths = h_mullo(mantissa, power);
    const vq up = h_add(_mm256_and_si256(_mm256_srli_epi16(eighths, 3), h_set(1)), h_set(3));
    const vq whole = _mm256_srli_epi16(h_add(eighths, up), 3);
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
