/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector vocabulary of the NEON tier (AArch64): 4 floats, 32 registers, hence the tile of the AVX-512
 * tier. Only baseline ARMv8.0 instructions.
 */
#ifndef ML_KERNELS_CPU_NEON_VEC_H
#define ML_KERNELS_CPU_NEON_VEC_H

#include "base/dtype.h"

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define V_INLINE static inline __attribute__((always_inline))

typedef float32x4_t vf;
typedef float32x4_t v4;
enum { VL = 4, TILE_TOKENS = 6 };

#define TIER_TABLE_INIT ml_kernels_init_neon
#define TIER_PEAK_INIT  ml_peak_init_neon

V_INLINE vf v_set1(float x) {
    return vdupq_n_f32(x);
}
V_INLINE vf v_zero(void) {
    return vdupq_n_f32(0);
}
V_INLINE vf v_load(const float *p) {
    return vld1q_f32(p);
}
V_INLINE void v_store(float *p, vf v) {
    vst1q_f32(p, v);
}
V_INLINE vf v_loadn(const float *p, size_t n) {
    float t[VL] = {0};
    memcpy(t, p, n * sizeof *t);
    return v_load(t);
}
V_INLINE void v_storen(float *p, vf v, size_t n) {
    float t[VL];
    v_store(t, v);
    memcpy(p, t, n * sizeof *t);
}

V_INLINE vf v_from_half(const enum ml_dtype t, uint16x4_t h) {
    if (t == ML_F16) return vcvt_f32_f16(vreinterpret_f16_u16(h));
    return vreinterpretq_f32_u32(vshll_n_u16(h, 16));
}

V_INLINE vf v_from_i8(const int8_t *p, size_t n) {
    uint32_t four = 0;
    memcpy(&four, p, n);
    const int8x8_t b = vreinterpret_s8_u32(vdup_n_u32(four));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(b))));
}

/* VL elements of a type, widened. `i` counts elements. */
V_INLINE vf v_load_as(const enum ml_dtype t, const void *p, size_t i) {
    if (t == ML_F32) return v_load((const float *)p + i);
    if (t == ML_I8) return v_from_i8((const int8_t *)p + i, VL);
    return v_from_half(t, vld1_u16((const uint16_t *)p + i));
}

/* The first n < VL of them, zeros behind; nothing past them is read. */
V_INLINE vf v_loadn_as(const enum ml_dtype t, const void *p, size_t i, size_t n) {
    if (t == ML_F32) return v_loadn((const float *)p + i, n);
    if (t == ML_I8) return v_from_i8((const int8_t *)p + i, n);
    uint16_t h[VL] = {0};
    memcpy(h, (const uint16_t *)p + i, n * sizeof *h);
    return v_from_half(t, vld1_u16(h));
}

/* Round to nearest even; a NaN keeps its sign and upper bits and becomes quiet. */
V_INLINE uint16x4_t v_to_bf16(vf v) {
    const uint32x4_t u = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    const uint32x4_t up = vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(u, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), up, quiet), 16);
}

/* Stores VL whole numbers of -127..127 as bytes. */
V_INLINE void v_store_bytes(int8_t *p, vf v) {
    const int16x4_t h = vmovn_s32(vcvtq_s32_f32(v));
    const int8x8_t b = vmovn_s16(vcombine_s16(h, h));
    const uint32_t four = vget_lane_u32(vreinterpret_u32_s8(b), 0);
    memcpy(p, &four, sizeof four);
}

V_INLINE void v_store_as(const enum ml_dtype t, void *p, size_t i, vf v, size_t n) {
    if (t == ML_F32) {
        v_storen((float *)p + i, v, n);
        return;
    }
    uint16_t h[VL];
    vst1_u16(h, t == ML_F16 ? vreinterpret_u16_f16(vcvt_f16_f32(v)) : v_to_bf16(v));
    memcpy((uint16_t *)p + i, h, n * sizeof *h);
}

V_INLINE vf v_add(vf a, vf b) {
    return vaddq_f32(a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return vsubq_f32(a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return vmulq_f32(a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return vdivq_f32(a, b);
}
V_INLINE vf v_fma(vf a, vf b, vf c) { /* a b + c */
    return vfmaq_f32(c, a, b);
}
V_INLINE vf v_nfma(vf a, vf b, vf c) { /* c - a b */
    return vfmsq_f32(c, a, b);
}
V_INLINE vf v_clamp(vf x, float lo, float hi) { /* NaN stays NaN */
    return vminq_f32(vmaxq_f32(x, v_set1(lo)), v_set1(hi));
}
V_INLINE vf v_max(vf a, vf b) {
    return vmaxq_f32(a, b);
}
V_INLINE vf v_rint(vf x) {
    return vrndnq_f32(x);
}
V_INLINE vf v_pow2(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
/* x 2^n for whole n in [-151, 129]: two factors, so that neither leaves the range of normal numbers. */
V_INLINE vf v_scale2(vf x, vf n) {
    const int32x4_t whole = vcvtq_s32_f32(n), half = vshrq_n_s32(whole, 1);
    return v_mul(v_mul(x, v_pow2(half)), v_pow2(vsubq_s32(whole, half)));
}
V_INLINE vf v_abs(vf x) {
    return vabsq_f32(x);
}
V_INLINE vf v_copysign(vf magnitude, vf sign) {
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude);
}
V_INLINE float v_hmax(vf v) {
    return vmaxvq_f32(v);
}

/* The four sums of four vectors. Each sum is the same tree whatever its place. */
V_INLINE v4 v_sum4(vf a, vf b, vf c, vf d) {
    return vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
}
V_INLINE void v_sum4_pair(const vf a[4], const vf b[4], v4 *sum_a, v4 *sum_b) {
    *sum_a = v_sum4(a[0], a[1], a[2], a[3]);
    *sum_b = v_sum4(b[0], b[1], b[2], b[3]);
}
V_INLINE v4 v4_load(const float *p) {
    return v_load(p);
}
V_INLINE v4 v4_loadn(const float *p, size_t n) {
    return v_loadn(p, n);
}
V_INLINE v4 v4_add(v4 a, v4 b) {
    return v_add(a, b);
}
V_INLINE void v4_storen(float *p, v4 v, size_t n) { /* n <= 4 */
    if (n == VL)
        v_store(p, v);
    else
        v_storen(p, v, n);
}
V_INLINE float v_sum(vf v) {
    return vgetq_lane_f32(v_sum4(v, v, v, v), 0);
}

/* 2 VL floats split into those of even and odd index, and back. */
V_INLINE void v_load2(const float *p, vf *even, vf *odd) {
    const float32x4x2_t v = vld2q_f32(p);
    *even = v.val[0];
    *odd = v.val[1];
}
V_INLINE void v_store2(float *p, vf even, vf odd) {
    const float32x4x2_t v = {{even, odd}};
    vst2q_f32(p, v);
}

#endif
