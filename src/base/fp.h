/* SPDX-License-Identifier: Apache-2.0
 *
 * Narrow float formats, bit-exact and portable: IEEE binary16, bfloat16, OCP FP8 E4M3 (no infinities,
 * S.1111.111 is NaN) and E5M2. To-narrow conversions round to nearest even; E4M3 saturates never: overflow
 * becomes NaN, as in the OCP 8-bit floating point specification (non-saturating mode).
 */
#ifndef ML_BASE_FP_H
#define ML_BASE_FP_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline float ml_f32_from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t ml_f32_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float ml_bf16_to_f32(uint16_t h) {
    return ml_f32_from_bits((uint32_t)h << 16);
}

uint16_t ml_f32_to_bf16(float f);
float ml_f16_to_f32(uint16_t h);
uint16_t ml_f32_to_f16(float f);
float ml_f8e4m3_to_f32(uint8_t v);
uint8_t ml_f32_to_f8e4m3(float f);
float ml_f8e5m2_to_f32(uint8_t v);
uint8_t ml_f32_to_f8e5m2(float f);

#endif
