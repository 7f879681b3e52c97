/* SPDX-License-Identifier: Apache-2.0
 *
 * Element types by name and size, and the plain widening loop.
 */
#include "base/dtype.h"

#include "base/fp.h"

#include <string.h>

static const struct {
    const char *name;
    size_t size;
    bool is_float;
} types[ML_DTYPE_COUNT] = {
    [ML_F32] = {"F32", 4, true},         [ML_F16] = {"F16", 2, true},         [ML_BF16] = {"BF16", 2, true},
    [ML_F8_E4M3] = {"F8_E4M3", 1, true}, [ML_F8_E5M2] = {"F8_E5M2", 1, true}, [ML_I8] = {"I8", 1, false},
    [ML_U8] = {"U8", 1, false},          [ML_I16] = {"I16", 2, false},        [ML_I32] = {"I32", 4, false},
    [ML_I64] = {"I64", 8, false},        [ML_BOOL] = {"BOOL", 1, false},      [ML_F64] = {"F64", 8, true},
    [ML_U16] = {"U16", 2, false},        [ML_U32] = {"U32", 4, false},        [ML_U64] = {"U64", 8, false},
    [ML_FOREIGN] = {"?", 0, false},
};

size_t ml_dtype_size(enum ml_dtype t) {
    return types[t].size;
}

const char *ml_dtype_name(enum ml_dtype t) {
    return types[t].name;
}

bool ml_dtype_is_float(enum ml_dtype t) {
    return types[t].is_float;
}

bool ml_dtype_parse(const char *name, size_t len, enum ml_dtype *out) {
    for (int t = 0; t < ML_FOREIGN; t++) {
        if (strlen(types[t].name) != len || memcmp(types[t].name, name, len) != 0) continue;
        *out = (enum ml_dtype)t;
        return true;
    }
    return false;
}

static float widen_one(enum ml_dtype t, const unsigned char *src) {
    uint16_t half;
    float value;
    double wide;
    switch (t) {
    case ML_F32:
        memcpy(&value, src, sizeof value);
        return value;
    case ML_F16:
        memcpy(&half, src, sizeof half);
        return ml_f16_to_f32(half);
    case ML_BF16:
        memcpy(&half, src, sizeof half);
        return ml_bf16_to_f32(half);
    case ML_F64:
        memcpy(&wide, src, sizeof wide);
        return (float)wide;
    case ML_F8_E4M3:
        return ml_f8e4m3_to_f32(*src);
    default:
        return ml_f8e5m2_to_f32(*src);
    }
}

void ml_dtype_to_f32(enum ml_dtype t, const void *src, float *dst, size_t n) {
    const unsigned char *p = src;
    const size_t size = types[t].size;
    for (size_t i = 0; i < n; i++) {
        dst[i] = widen_one(t, p + i * size);
    }
}
