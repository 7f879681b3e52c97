/* SPDX-License-Identifier: Apache-2.0
 *
 * The vocabulary of quantized products, NEON tier: 2 lanes of 64 bits. Weights are signed. With the dot
 * product extension (cpu/neondot) q_dot is one instruction, without it five.
 */
#ifndef ML_KERNELS_CPU_NEON_QVEC_H
#define ML_KERNELS_CPU_NEON_QVEC_H

#include "kernels/cpu/neon/vec.h"

typedef uint8x16_t vq;
enum { LQ = 2, LUT_VECTORS = 16, EXL3_WIDE = 1 };

#define U16(v) vreinterpretq_u16_u8(v)
#define S16(v) vreinterpretq_s16_u8(v)
#define U32(v) vreinterpretq_u32_u8(v)
#define S32(v) vreinterpretq_s32_u8(v)
#define U64(v) vreinterpretq_u64_u8(v)
#define S8(v)  vreinterpretq_s8_u8(v)

V_INLINE vq q_load(const void *p) {
    return vld1q_u8(p);
}
V_INLINE void q_store(void *p, vq v) {
    vst1q_u8(p, v);
}
V_INLINE vq q_zero(void) {
    return vdupq_n_u8(0);
}
V_INLINE vq q_set8(int v) {
    return vdupq_n_u8((uint8_t)v);
}
V_INLINE vq q_set64(uint64_t low, uint64_t high) {
    return vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(low), vcreate_u64(high)));
}

typedef struct {
    int64x2_t right, left;
} vshift;
V_INLINE vshift q_shift(unsigned n) {
    const vshift s = {vdupq_n_s64(-(int64_t)n), vdupq_n_s64(64 - (int64_t)n)};
    return s;
}
V_INLINE vq q_funnel(vq low, vq next, vshift n) {
    return vreinterpretq_u8_u64(vorrq_u64(vshlq_u64(U64(low), n.right), vshlq_u64(U64(next), n.left)));
}
#define Q_FUNNEL(low, next, n)                                                                               \
    vreinterpretq_u8_u64(vsliq_n_u64(vshrq_n_u64(U64(low), n), U64(next), 64 - (n)))

V_INLINE vq q_xor(vq a, vq b) {
    return veorq_u8(a, b);
}
V_INLINE vq q_xor3(vq a, vq b, vq c) {
    return q_xor(q_xor(a, b), c);
}
V_INLINE vq q_mux(vq mask, vq a, vq b) {
    return vbslq_u8(mask, a, b);
}

/* Byte j of each lane: bits base + k j .. of it, even and odd j in 16-bit lanes. */
V_INLINE vq q_bytes(vq v, const unsigned base, const unsigned k) {
    uint64_t pick[2] = {0, 0}, down[2] = {0, 0};
    for (unsigned j = 0; j < 8; j++) {
        const unsigned bit = base + k * j, at = bit / 8, next = at < 7 ? at + 1 : 0x80;
        pick[j & 1] |= (uint64_t)(at & 7) << (j / 2 * 16) | (uint64_t)next << (j / 2 * 16 + 8);
        down[j & 1] |= (uint64_t)(uint16_t)((j & 1 ? 8 : 0) - (int)(bit % 8)) << (j / 2 * 16);
    }
    const uint64_t eight = 0x0808080808080808;
    const uint16x8_t even = U16(vqtbl1q_u8(v, q_set64(pick[0], pick[0] + eight)));
    const uint16x8_t odd = U16(vqtbl1q_u8(v, q_set64(pick[1], pick[1] + eight)));
    const uint16x8_t low = vshlq_u16(even, S16(q_set64(down[0], down[0])));
    const uint16x8_t high = vshlq_u16(odd, S16(q_set64(down[1], down[1])));
    return vbslq_u8(vreinterpretq_u8_u16(vdupq_n_u16(0xff)), vreinterpretq_u8_u16(low),
                    vreinterpretq_u8_u16(high));
}

#include "kernels/cpu/quant_mux_simd.h"

/* 64 entries an instruction; an index beyond them gives 0 from the first and is left alone by the others. */
struct lut {
    vq t[LUT_VECTORS];
};
V_INLINE struct lut q_lut(const int8_t *table, const int p) {
    struct lut l;
    for (int i = 0; i < 1 << (p - 4); i++)
        l.t[i] = q_load(table + 16 * i);
    return l;
}
V_INLINE uint8x16x4_t lut_64(const struct lut *l, int i) {
    const uint8x16x4_t four = {{l->t[4 * i], l->t[4 * i + 1], l->t[4 * i + 2], l->t[4 * i + 3]}};
    return four;
}
V_INLINE vq q_clean(vq index, const int p) {
    return p == 8 ? index : vandq_u8(index, q_set8((1 << p) - 1));
}
/* Entry `index` of 2^p, p = 6 .. 8; nothing lies above the p bits. */
V_INLINE vq q_lookup(const struct lut *l, vq index, const int p) {
    vq v = vqtbl4q_u8(lut_64(l, 0), index);
    for (int i = 1; i < 1 << (p - 6); i++)
        v = vqtbx4q_u8(v, lut_64(l, i), vsubq_u8(index, q_set8(64 * i)));
    return v;
}
/* The same of a mirrored table (ml_tap_is_mirrored) of which l has the lower half, p = 8: an index with its
 * top bit set is looked up as its complement, and the entry negated. That is as many instructions as without,
 * but half of the lookups and of the registers. With fewer bits it would be more instructions. */
enum { MIRRORED_FROM = 8 }; /* index bits from which this beats q_lookup with the whole table */
V_INLINE vq q_lookup_mirrored(const struct lut *l, vq index, const int p) {
    const vq upper = vcltzq_s8(S8(index));
    return vsubq_u8(q_xor(q_lookup(l, q_xor(index, upper), p - 1), upper), upper);
}

/* gcc (12) copies the sum before and after these instructions, unless it is told no more than that it
 * changes. */
#if defined(__GNUC__) && !defined(__clang__)
#define Q_ADD_PAIRS(acc, v)  __asm__("sadalp %0.4s, %1.8h" : "+w"(acc) : "w"(v))
#define Q_ADD_DOT(acc, w, x) __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(w), "w"(x))
#else
#define Q_ADD_PAIRS(acc, v)  acc = vreinterpretq_u8_s32(vpadalq_s16(S32(acc), v))
#define Q_ADD_DOT(acc, w, x) acc = vreinterpretq_u8_s32(vdotq_s32(S32(acc), S8(w), S8(x)))
#endif

V_INLINE vq q_dot(vq acc, vq w, vq x) {
#if defined(__ARM_FEATURE_DOTPROD)
    Q_ADD_DOT(acc, w, x);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(S8(w)), vget_low_s8(S8(x)));
    const int16x8_t high = vmull_high_s8(S8(w), S8(x));
    Q_ADD_PAIRS(acc, vpaddq_s16(low, high));
#endif
    return acc;
}
enum { Q_OFFSET = 0 }; /* of the entries of tables */
typedef vq vin;
V_INLINE vin q_in(vq x) {
    return x;
}
V_INLINE vq q_dot_in(vq acc, vq w, vin x) {
    return q_dot(acc, w, x);
}
V_INLINE vq q_dot16(vq acc, vq w, vq x) {
    const int32x4_t low = vmull_s16(vget_low_s16(S16(w)), vget_low_s16(S16(x)));
    const int32x4_t high = vmull_high_s16(S16(w), S16(x));
    return vreinterpretq_u8_s32(vaddq_s32(S32(acc), vpaddq_s32(low, high)));
}
/* out[q] = the two 32-bit lanes of each qword. */
V_INLINE void q_store_sums(int32_t *out, vq acc) {
    vst1_s32(out, vpadd_s32(vget_low_s32(S32(acc)), vget_high_s32(S32(acc))));
}
/* sum[q][i] += the two 32-bit lanes of qword q of acc[i]. */
V_INLINE void q_add_sums(int32_t (*sum)[4], const vq acc[4]) {
    const int32x4_t a = vpaddq_s32(S32(acc[0]), S32(acc[1])), b = vpaddq_s32(S32(acc[2]), S32(acc[3]));
    vst1q_s32(sum[0], vaddq_s32(vld1q_s32(sum[0]), vuzp1q_s32(a, b)));
    vst1q_s32(sum[1], vaddq_s32(vld1q_s32(sum[1]), vuzp2q_s32(a, b)));
}
V_INLINE int32_t q_sum(vq acc) {
    return vaddvq_s32(S32(acc));
}

/* ---- 16-bit lanes ---- */

/* Four 16-bit windows of each lane, at bits at + j K from the most significant one down: the upper 16 of 24
 * bits moved up, and what comes in from the byte below. */
V_INLINE vq q_words(vq lane, const int at, const int K) {
    uint64_t high = 0, low = 0, up = 0, down = 0;
    for (int j = 0; j < 4; j++) {
        const int bit = 48 - at - j * K, b = bit / 8;
        high |= (uint64_t)((b + 1) | (b + 2 < 8 ? b + 2 : 0x80) << 8) << (16 * j);
        low |= (uint64_t)(b | 0x80 << 8) << (16 * j);
        up |= (uint64_t)(uint16_t)(8 - bit % 8) << (16 * j);
        down |= (uint64_t)(uint16_t)(-(bit % 8)) << (16 * j);
    }
    const uint64_t eight = 0x0808080808080808;
    const uint16x8_t a = U16(vqtbl1q_u8(lane, q_set64(high, high + eight)));
    const uint16x8_t b = U16(vqtbl1q_u8(lane, q_set64(low, low + eight)));
    return vreinterpretq_u8_u16(
        vorrq_u16(vshlq_u16(a, S16(q_set64(up, up))), vshlq_u16(b, S16(q_set64(down, down)))));
}
V_INLINE vq h_set(int v) {
    return vreinterpretq_u8_u16(vdupq_n_u16((uint16_t)v));
}
V_INLINE vq h_add(vq a, vq b) {
    return vreinterpretq_u8_u16(vaddq_u16(U16(a), U16(b)));
}
V_INLINE vq h_mullo(vq a, vq b) {
    return vreinterpretq_u8_u16(vmulq_u16(U16(a), U16(b)));
}
V_INLINE vq h_mulhi(vq a, vq b) {
    const uint32x4_t low = vmull_u16(vget_low_u16(U16(a)), vget_low_u16(U16(b)));
    const uint32x4_t high = vmull_high_u16(U16(a), U16(b));
    return vreinterpretq_u8_u16(vuzp2q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high)));
}
V_INLINE vq h_at_most(vq a, vq b) {
    return vreinterpretq_u8_u16(vcleq_u16(U16(a), U16(b)));
}
V_INLINE vq h_byte_sum(vq v) {
    return vreinterpretq_u8_u16(vpaddlq_u8(v));
}
V_INLINE vq h_half(vq x) {
    const uint16x8_t u = U16(x);
    const uint16x8_t mantissa = vorrq_u16(vandq_u16(vshrq_n_u16(u, 3), vdupq_n_u16(0x7e)), vdupq_n_u16(129));
    const int16x8_t e = vreinterpretq_s16_u16(vandq_u16(vshrq_n_u16(u, 10), vdupq_n_u16(3)));
    const uint16x8_t eighths = vshlq_u16(mantissa, e);
    const uint16x8_t up = vaddq_u16(vandq_u16(vshrq_n_u16(eighths, 3), vdupq_n_u16(1)), vdupq_n_u16(3));
    const uint16x8_t whole = vshrq_n_u16(vaddq_u16(eighths, up), 3);
    const uint16x8_t sign = vreinterpretq_u16_s16(vshrq_n_s16(S16(x), 15));
    return vreinterpretq_u8_u16(vsubq_u16(veorq_u16(whole, sign), sign));
}

/* ---- rotation and rounding ---- */

V_INLINE vf v_swap(vf v, const int step) {
    return step == 1 ? vrev64q_f32(v) : vextq_f32(v, v, 2);
}
V_INLINE vf v_flip(vf v, const int step) {
    const uint64_t minus = 0x8000000000000000;
    const uint64x2_t sign =
        step == 1 ? vdupq_n_u64(minus) : vcombine_u64(vcreate_u64(0), vcreate_u64(minus | minus >> 32));
    return vreinterpretq_f32_u64(veorq_u64(vreinterpretq_u64_f32(v), sign));
}
V_INLINE vq b16_load(const void *p) {
    return q_load(p);
}
V_INLINE void b16_store(void *p, vq v) {
    q_store(p, v);
}
V_INLINE vq b16_pick(vq v, const uint8_t *index) {
    return vqtbl1q_u8(v, q_load(index));
}

#endif
