/* SPDX-License-Identifier: Apache-2.0
 *
 * Narrow floats by integer arithmetic on their fields.
 */
#include "base/fp.h"

#include <math.h>

/* A binary format with `exp` exponent and `man` mantissa bits. */
struct format {
    int exp, man;
    int has_inf; /* E4M3 has none: the top exponent holds numbers, all ones is NaN */
};

static float widen(uint32_t bits, struct format f) {
    const uint32_t man_mask = (1u << f.man) - 1, exp_mask = (1u << f.exp) - 1;
    const uint32_t man = bits & man_mask, exp = bits >> f.man & exp_mask, sign = bits >> (f.man + f.exp);
    const int bias = (1 << (f.exp - 1)) - 1;
    float value;
    if (exp == exp_mask && f.has_inf)
        value = man ? ml_f32_from_bits(0x7fc00000u | man << (23 - f.man)) : INFINITY;
    else if (exp == exp_mask && man == man_mask)
        value = ml_f32_from_bits(0x7fc00000u);
    else if (exp == 0)
        value = ldexpf((float)man, 1 - bias - f.man);
    else
        value = ml_f32_from_bits((exp + 127 - (uint32_t)bias) << 23 | man << (23 - f.man));
    return sign ? ml_f32_from_bits(ml_f32_bits(value) | 0x80000000u) : value;
}

/* Shifts right with round to nearest even. */
static uint32_t shift_round(uint32_t v, int n) {
    if (n <= 0) return v << -n;
    if (n > 31) return 0;
    const uint32_t half = 1u << (n - 1), rest = v & ((1u << n) - 1), q = v >> n;
    return q + (rest > half || (rest == half && (q & 1)));
}

static uint32_t narrow(float value, struct format f) {
    const uint32_t u = ml_f32_bits(value), sign = u >> 31 << (f.exp + f.man), mag = u & 0x7fffffffu;
    const uint32_t exp_mask = (1u << f.exp) - 1, inf = exp_mask << f.man;
    const int bias = (1 << (f.exp - 1)) - 1;
    const uint32_t nan = f.has_inf ? inf | 1u << (f.man - 1) : inf | ((1u << f.man) - 1);
    if (mag > 0x7f800000u) return sign | nan;
    const int exp = (int)(mag >> 23) - 127 + bias;
    uint32_t r;
    if (exp >= 1) {
        if (exp > (int)exp_mask) return sign | (f.has_inf ? inf : nan);
        r = shift_round(((uint32_t)exp << 23) | (mag & 0x7fffffu), 23 - f.man);
    } else {
        r = shift_round((mag & 0x7fffffu) | 0x800000u, 23 - f.man + 1 - exp);
    }
    if (f.has_inf) return sign | (r > inf ? inf : r);
    return sign | (r > nan ? nan : r);
}

static const struct format binary16 = {5, 10, 1}, e4m3 = {4, 3, 0}, e5m2 = {5, 2, 1};

float ml_f16_to_f32(uint16_t h) {
    return widen(h, binary16);
}

uint16_t ml_f32_to_f16(float f) {
    return (uint16_t)narrow(f, binary16);
}

float ml_f8e4m3_to_f32(uint8_t v) {
    return widen(v, e4m3);
}

uint8_t ml_f32_to_f8e4m3(float f) {
    return (uint8_t)narrow(f, e4m3);
}

float ml_f8e5m2_to_f32(uint8_t v) {
    return widen(v, e5m2);
}

uint8_t ml_f32_to_f8e5m2(float f) {
    return (uint8_t)narrow(f, e5m2);
}

uint16_t ml_f32_to_bf16(float f) {
    const uint32_t u = ml_f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}
