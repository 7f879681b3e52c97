/* SPDX-License-Identifier: Apache-2.0
 *
 * Rotation of x and z and rounding of x over the vocabulary of a tier (its qvec.h). Each float32 operation is
 * the reference's: lanes only change where it happens.
 *
 * Orders of the rounded x:
 *   one row, TAP    per group of 8 tiles, per half: 8 bytes of run 0, of run 1, ... (64 bytes)
 *   one row, EXL3   per group, per pair of columns 2 i, i < 4: of each run the columns 2 i, 2 i + 1, 2 i + 8,
 *                   2 i + 9, each byte twice or (EXL3_WIDE) widened to 16 bits (64 bytes)
 *   few rows        the same; EXL3 always widened
 *   many rows       MANY_AS_FEW   the same as few rows
 *                   MANY_WIDE     in the order of the columns; EXL3 widened to 16 bits
 *                   MANY_BYTES    bytes; TAP in the order of the columns; EXL3, of each 16 columns, in the
 *                                 order 0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15 in which a
 *                                 tier decodes them
 *   INT8            in the order of the columns, followed by zeros up to a multiple of 64
 */
#ifndef ML_KERNELS_CPU_QUANT_X_SIMD_H
#define ML_KERNELS_CPU_QUANT_X_SIMD_H

#include "kernels/cpu/round_simd.h"
#include "kernels/cpu/unroll_simd.h"
#include "kernels/tiers.h"

#include <math.h>
#include <string.h>

enum many_order { MANY_AS_FEW, MANY_WIDE, MANY_BYTES };

enum { HADAMARD_VECTORS = ML_QUANT_BLOCK / VL };

V_INLINE void hadamard(vf v[HADAMARD_VECTORS]) {
    UNROLL
    for (int step = 1; step < VL; step *= 2)
        for (int i = 0; i < HADAMARD_VECTORS; i++)
            v[i] = v_add(v_swap(v[i], step), v_flip(v[i], step));
    UNROLL
    for (int step = 1; step < HADAMARD_VECTORS; step *= 2) {
        for (int i = 0; i < HADAMARD_VECTORS; i++) {
            if (i & step) continue;
            const vf a = v[i], b = v[i + step];
            v[i] = v_add(a, b);
            v[i + step] = v_sub(a, b);
        }
    }
    for (int i = 0; i < HADAMARD_VECTORS; i++)
        v[i] = v_mul(v[i], v_set1(0.088388347648318447f));
}

static inline void rotate_block(float *out, const float *x, const float *su) {
    vf v[HADAMARD_VECTORS];
    for (int i = 0; i < HADAMARD_VECTORS; i++)
        v[i] = v_mul(v_load(su + i * VL), v_load(x + i * VL));
    hadamard(v);
    for (int i = 0; i < HADAMARD_VECTORS; i++)
        v_store(out + i * VL, v[i]);
}

static inline void quant_rotate(float *out, const float *x, const float *su, size_t cols, size_t k) {
    for (size_t i = 0; i < k; i += ML_QUANT_BLOCK) {
        float last[ML_QUANT_BLOCK] = {0};
        const float *from = x + i;
        if (i + ML_QUANT_BLOCK > cols) {
            if (i < cols) memcpy(last, x + i, (cols - i) * sizeof *last);
            from = last;
        }
        rotate_block(out + i, from, su + i);
    }
}

static inline void quant_unrotate(float *y, float *z, const float *sv, size_t rows) {
    vf v[HADAMARD_VECTORS];
    for (int i = 0; i < HADAMARD_VECTORS; i++)
        v[i] = v_load(z + i * VL);
    hadamard(v);
    if (rows == ML_QUANT_BLOCK) {
        for (int i = 0; i < HADAMARD_VECTORS; i++)
            v_store(y + i * VL, v_mul(v_load(sv + i * VL), v[i]));
        return;
    }
    for (int i = 0; i < HADAMARD_VECTORS; i++)
        v_store(z + i * VL, v[i]);
    for (size_t i = 0; i < rows; i++)
        y[i] = sv[i] * z[i];
}

/* Rounds n columns to `a`, which has room for n rounded up to VL; returns their sum. */
static int32_t round_columns(int8_t *a, const float *x, size_t n, float inverse) {
    vf sum = v_zero();
    for (size_t i = 0; i < n; i += VL) {
        const vf v = n - i < VL ? v_loadn(x + i, n - i) : v_load(x + i);
        const vf steps = v_rint(v_mul(v, v_set1(inverse)));
        v_store_bytes(a + i, steps);
        sum = v_add(sum, steps);
    }
    return (int32_t)v_sum(sum); /* below 2^24: exact */
}

static const uint8_t exl3_pairs[2][16] = {
    {0, 0, 1, 1, 8, 8, 9, 9, 2, 2, 3, 3, 10, 10, 11, 11},
    {4, 4, 5, 5, 12, 12, 13, 13, 6, 6, 7, 7, 14, 14, 15, 15},
};

/* 16 columns of run q, tile g, to their places. */
V_INLINE void spread(int8_t *to, const int8_t *a, enum ml_quant_format format, bool widen, size_t g,
                     size_t q) {
    if (format == ML_QUANT_TAP) {
        memcpy(to + g * 128 + q * 8, a, 8);
        memcpy(to + g * 128 + 64 + q * 8, a + 8, 8);
        return;
    }
    int8_t pairs[32];
    b16_store(pairs, b16_pick(b16_load(a), exl3_pairs[0]));
    b16_store(pairs + 16, b16_pick(b16_load(a), exl3_pairs[1]));
    for (size_t i = 0; i < 4; i++) {
        int16_t wide[4];
        for (size_t j = 0; j < 4; j++)
            wide[j] = (int16_t)pairs[8 * i + 2 * j];
        memcpy(to + g * 256 + i * 64 + q * 8, widen ? (const void *)wide : pairs + 8 * i, 8);
    }
}

static void round_spread(int8_t *to, int32_t *sum, const struct ml_quant_matrix *m, const float *x, size_t q,
                         float inverse, bool widen) {
    int8_t a[16];
    *sum = 0;
    for (size_t g = 0; g < m->k / 128; g++) {
        *sum += round_columns(a, x + 16 * g, 16, inverse);
        spread(to, a, m->format, widen, g, q);
    }
}

static void widen_bytes(int16_t *to, const int8_t *a, size_t n) {
    for (size_t i = n; i-- > 0;)
        to[i] = (int16_t)a[i];
}

static const uint8_t exl3_bytes[16] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};

/* Run after run. */
V_INLINE void round_plain(struct ml_quant_x *x, const struct ml_quant_matrix *m, const float *rotated,
                          size_t q, size_t n, float inverse, const enum many_order many) {
    if (m->format != ML_QUANT_EXL3) {
        x->sum[q] = round_columns(x->a + q * n, rotated, n, inverse);
        return;
    }
    int8_t a[64];
    x->sum[q] = 0;
    for (size_t i = 0; i < n; i += 16) {
        x->sum[q] += round_columns(a, rotated + i, 16, inverse);
        if (many == MANY_BYTES)
            b16_store(x->a + q * n + i, b16_pick(b16_load(a), exl3_bytes));
        else
            widen_bytes((int16_t *)x->a + q * n + i, a, 16);
    }
}

V_INLINE void round_x(struct ml_quant_x *x, const struct ml_quant_matrix *m, enum ml_quant_rows rows,
                      const float *rotated, const enum many_order many) {
    const size_t runs = m->format == ML_QUANT_INT8 ? 1 : ML_QUANT_RUNS, n = m->k / runs;
    float scale[ML_QUANT_RUNS] = {0};
    memset(x->sum, 0, sizeof x->sum);
    for (size_t q = 0; q < runs; q++) {
        const float *from = rotated + q * n, most = largest(from, n);
        const bool live = most >= 0x1p-100f;
        const float inverse = live ? 127.0f / most : 0;
        scale[q] = live || isnan(most) ? most / 127.0f : 0;
        if (isnan(most)) {
            memset(x->a, 0, ml_quant_x_bytes(m->k)); /* whatever the sums are: their factor is NaN */
        } else if ((rows != ML_QUANT_MANY || many == MANY_AS_FEW) && m->format != ML_QUANT_INT8) {
            round_spread(x->a, &x->sum[q], m, from, q, inverse, EXL3_WIDE || rows != ML_QUANT_ONE);
        } else {
            round_plain(x, m, from, q, n, inverse, many);
        }
    }
    if (m->format == ML_QUANT_INT8) memset(x->a + m->k, 0, ml_quant_x_bytes(m->k) - m->k);
    ml_quant_factors(x, m, scale);
}

#endif
