/* SPDX-License-Identifier: Apache-2.0
 *
 * Trellis search with 8 lanes of 16 bits (Advanced SIMD).
 */
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

typedef uint16x8_t vec;
enum { LANE_BITS = 3, LANES = 8 };

#define V_INLINE static inline __attribute__((always_inline))

#define v_load  vld1q_u16
#define v_store vst1q_u16
#define v_set1  vdupq_n_u16
#define v_add   vaddq_u16
#define v_sub   vsubq_u16
#define v_min   vminq_u16
#define v_mul   vmulq_u16
#define v_and   vandq_u16
#define v_or    vorrq_u16
#define v_least vminvq_u16

V_INLINE vec v_abs(vec v) {
    return vreinterpretq_u16_s16(vabsq_s16(vreinterpretq_s16_u16(v)));
}

V_INLINE vec v_shl(vec v, unsigned n) {
    return vshlq_u16(v, vdupq_n_s16((int16_t)n));
}

V_INLINE vec v_pick(vec better, vec *a, vec x, vec y) {
    const vec less = vcltq_u16(better, *a);
    *a = vminq_u16(better, *a);
    return vbslq_u16(less, x, y);
}

V_INLINE vec v_spread(unsigned bits) {
    return vdupq_n_u16((uint16_t)bits); /* not needed: the two cases below are single instructions */
}

V_INLINE vec v_expand(const uint16_t *p, const unsigned bits, vec spread) {
    (void)spread;
    if (bits == 1) {
        const uint16x4_t four = vld1_u16(p);
        return vcombine_u16(vzip1_u16(four, four), vzip2_u16(four, four));
    }
    return vcombine_u16(vld1_dup_u16(p), vld1_dup_u16(p + 1));
}

#include "kernels/cpu/viterbi_simd.h"

void ml_viterbi_search_neon(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                            uint8_t symbol[ML_VITERBI_STEPS], void *scratch) {
    search(c, level, symbol, scratch);
}
