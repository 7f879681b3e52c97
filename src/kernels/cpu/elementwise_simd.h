/* SPDX-License-Identifier: Apache-2.0
 *
 * Norm, rope, activations, softmax and conversions over the vector vocabulary of a tier. Bound by memory: one
 * vector at a time, the last one masked.
 */
#ifndef ML_KERNELS_CPU_ELEMENTWISE_SIMD_H
#define ML_KERNELS_CPU_ELEMENTWISE_SIMD_H

#include "kernels/cpu/math_simd.h"
#include "kernels/cpu/round_simd.h"

#include <float.h>
#include <math.h>
#include <string.h>

V_INLINE size_t v_left(size_t i, size_t n) {
    return n - i < VL ? n - i : VL;
}

static void rmsnorm(float *y, const float *x, const float *w, float offset, float eps, size_t n) {
    vf sum = v_zero();
    size_t i = 0;
    for (; i + VL <= n; i += VL)
        sum = v_fma(v_load(x + i), v_load(x + i), sum);
    if (i < n) {
        const vf v = v_loadn(x + i, n - i);
        sum = v_fma(v, v, sum);
    }
    const vf scale = v_set1(1.0f / sqrtf(v_sum(sum) / (float)n + eps));
    for (i = 0; i < n; i += VL) {
        const size_t left = v_left(i, n);
        vf v = v_mul(v_loadn(x + i, left), scale);
        if (w) v = v_mul(v, v_add(v_loadn(w + i, left), v_set1(offset)));
        v_storen(y + i, v, left);
    }
}

/* (a, b) turned by (cos, sin). */
V_INLINE void rotate(vf *a, vf *b, vf cos, vf sin) {
    const vf old = *a;
    *a = v_nfma(*b, sin, v_mul(old, cos));
    *b = v_fma(old, sin, v_mul(*b, cos));
}

static void rope_half(float *x, size_t heads, size_t stride, size_t rotary, const float *cos,
                      const float *sin) {
    const size_t half = rotary / 2;
    for (size_t h = 0; h < heads; h++) {
        float *lo = x + h * stride, *hi = lo + half;
        for (size_t i = 0; i < half; i += VL) {
            const size_t left = v_left(i, half);
            vf a = v_loadn(lo + i, left), b = v_loadn(hi + i, left);
            rotate(&a, &b, v_loadn(cos + i, left), v_loadn(sin + i, left));
            v_storen(lo + i, a, left);
            v_storen(hi + i, b, left);
        }
    }
}

static void rope_interleaved(float *x, size_t heads, size_t stride, size_t rotary, const float *cos,
                             const float *sin) {
    const size_t half = rotary / 2;
    for (size_t h = 0; h < heads; h++) {
        float *p = x + h * stride;
        size_t i = 0;
        for (; i + VL <= half; i += VL) {
            vf a, b;
            v_load2(p + 2 * i, &a, &b);
            rotate(&a, &b, v_load(cos + i), v_load(sin + i));
            v_store2(p + 2 * i, a, b);
        }
        for (; i < half; i++) {
            const float a = p[2 * i], b = p[2 * i + 1];
            p[2 * i] = a * cos[i] - b * sin[i];
            p[2 * i + 1] = b * cos[i] + a * sin[i];
        }
    }
}

/* x / (1 + exp(-z)) */
V_INLINE vf v_gated(vf x, vf z) {
    return v_div(x, v_add(v_set1(1), v_exp(v_sub(v_zero(), z))));
}

static void silu_glu(float *y, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i += VL) {
        const size_t left = v_left(i, n);
        const vf g = v_loadn(gate + i, left);
        v_storen(y + i, v_mul(v_gated(g, g), v_loadn(up + i, left)), left);
    }
}

/* 0.5 g (1 + tanh u) = g / (1 + exp(-2 u)): exact where the left form cancels. */
static void gelu_glu(float *y, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i += VL) {
        const size_t left = v_left(i, n);
        const vf g = v_loadn(gate + i, left);
        const vf cubic = v_fma(v_mul(g, g), v_set1(0.044715f), v_set1(1));
        const vf z = v_mul(v_mul(g, v_set1(1.59576912160573071f)), cubic);
        v_storen(y + i, v_mul(v_gated(g, z), v_loadn(up + i, left)), left);
    }
}

static void sigmoid_glu(float *y, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i += VL) {
        const size_t left = v_left(i, n);
        v_storen(y + i, v_gated(v_loadn(up + i, left), v_loadn(gate + i, left)), left);
    }
}

static void add(float *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += VL) {
        const size_t left = v_left(i, n);
        v_storen(y + i, v_add(v_loadn(y + i, left), v_loadn(x + i, left)), left);
    }
}

static void axpy(float *y, float a, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += VL) {
        const size_t left = v_left(i, n);
        v_storen(y + i, v_fma(v_set1(a), v_loadn(x + i, left), v_loadn(y + i, left)), left);
    }
}

static void softcap(float *y, float cap, size_t n) {
    for (size_t i = 0; i < n; i += VL) {
        const size_t left = v_left(i, n);
        const vf v = v_div(v_loadn(y + i, left), v_set1(cap));
        v_storen(y + i, v_mul(v_set1(cap), v_tanh(v)), left);
    }
}

static void softmax(float *y, const float *x, size_t n) {
    float top = x[0];
    vf tops = v_set1(top);
    size_t i = 0;
    for (; i + VL <= n; i += VL)
        tops = v_max(tops, v_load(x + i));
    top = v_hmax(tops);
    for (; i < n; i++)
        top = x[i] > top ? x[i] : top;

    vf sum = v_zero();
    for (i = 0; i < n; i += VL) {
        const size_t left = v_left(i, n);
        v_storen(y + i, v_exp(v_sub(v_loadn(x + i, left), v_set1(top))), left);
        sum = v_add(sum, v_loadn(y + i, left));
    }
    const vf total = v_set1(v_sum(sum));
    for (i = 0; i < n; i += VL) {
        const size_t left = v_left(i, n);
        v_storen(y + i, v_div(v_loadn(y + i, left), total), left);
    }
}

#define DEFINE_CONVERT(name, type)                                                                           \
    static void widen_##name(float *dst, const void *src, size_t n) {                                        \
        size_t i = 0;                                                                                        \
        for (; i + VL <= n; i += VL)                                                                         \
            v_store(dst + i, v_load_as(type, src, i));                                                       \
        if (i < n) v_storen(dst + i, v_loadn_as(type, src, i, n - i), n - i);                                \
    }                                                                                                        \
    static void narrow_##name(void *dst, const float *src, size_t n) {                                       \
        for (size_t i = 0; i < n; i += VL) {                                                                 \
            const size_t left = v_left(i, n);                                                                \
            v_store_as(type, dst, i, v_loadn(src + i, left), left);                                          \
        }                                                                                                    \
    }

/* The division and the product are the reference's: so are the bytes. */
static float narrow_i8(int8_t *q, const float *x, size_t n) {
    const float scale = largest(x, n) / 127;
    if (!(scale >= FLT_MIN)) {
        memset(q, 0, n);
        return scale < FLT_MIN ? 0 : scale;
    }
    const vf inverse = v_set1(1.0f / scale);
    size_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store_bytes(q + i, v_rint(v_mul(v_load(x + i), inverse)));
    if (i < n) {
        int8_t last[VL];
        v_store_bytes(last, v_rint(v_mul(v_loadn(x + i, n - i), inverse)));
        memcpy(q + i, last, n - i);
    }
    return scale;
}

DEFINE_CONVERT(f32, ML_F32)
DEFINE_CONVERT(f16, ML_F16)
DEFINE_CONVERT(bf16, ML_BF16)

#endif
