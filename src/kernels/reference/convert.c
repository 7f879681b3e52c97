/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversions, the specification: base/fp.h element by element.
 */
#include "kernels/reference/reference.h"

#include <float.h>
#include <math.h>
#include <string.h>

static void widen_f32(float *dst, const void *src, size_t n) {
    memcpy(dst, src, n * sizeof *dst);
}

static void widen_f16(float *dst, const void *src, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = ml_reference_at(ML_F16, src, i);
}

static void widen_bf16(float *dst, const void *src, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = ml_reference_at(ML_BF16, src, i);
}

static void narrow_f32(void *dst, const float *src, size_t n) {
    memcpy(dst, src, n * sizeof *src);
}

static void narrow_f16(void *dst, const float *src, size_t n) {
    for (size_t i = 0; i < n; i++)
        ((uint16_t *)dst)[i] = ml_f32_to_f16(src[i]);
}

static void narrow_bf16(void *dst, const float *src, size_t n) {
    for (size_t i = 0; i < n; i++)
        ((uint16_t *)dst)[i] = ml_f32_to_bf16(src[i]);
}

static float narrow_i8(int8_t *q, const float *x, size_t n) {
    float most = 0;
    for (size_t i = 0; i < n && isfinite(most); i++)
        most = isfinite(x[i]) ? fmaxf(most, fabsf(x[i])) : NAN;
    const float scale = most / 127, inverse = 1.0f / scale;
    for (size_t i = 0; i < n; i++)
        q[i] = scale >= FLT_MIN ? (int8_t)rintf(x[i] * inverse) : 0;
    return scale < FLT_MIN ? 0 : scale;
}

void ml_reference_convert(struct ml_kernels *k) {
    k->widen[ML_F32] = widen_f32;
    k->widen[ML_F16] = widen_f16;
    k->widen[ML_BF16] = widen_bf16;
    k->narrow[ML_F32] = narrow_f32;
    k->narrow[ML_F16] = narrow_f16;
    k->narrow[ML_BF16] = narrow_bf16;
    k->narrow_i8 = narrow_i8;
}

void ml_kernels_init_reference(struct ml_kernels *k) {
    ml_reference_matmul(k);
    ml_reference_attention(k);
    ml_reference_elementwise(k);
    ml_reference_convert(k);
    ml_reference_quant(k);
}
