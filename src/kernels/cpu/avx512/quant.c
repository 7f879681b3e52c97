/* SPDX-License-Identifier: Apache-2.0
 *
 * Entries of quantized products of the AVX-512 tier: choice by format, and int8 rows.
 */
#include "kernels/cpu/avx512/quant.h"

#include "kernels/cpu/quant_x_simd.h"

/* Four rows at a time: bytes plus 128 as unsigned. One run. The next rows are fetched as the one stream that
 * they are in memory. */
V_INLINE void int8_rows(float *z, const uint8_t *w, size_t cols, const struct ml_quant_x *x, const int rows) {
    vq acc[4] = {q_zero(), q_zero(), q_zero(), q_zero()};
    size_t c = 0;
    for (; c + 64 <= cols; c += 64) {
        const vq in = q_load(x->a + c);
        UNROLL
        for (int r = 0; r < rows; r++) {
            const uint8_t *row = w + (size_t)r * cols + c;
            _mm_prefetch((const char *)w + (size_t)rows * (cols + c) + 64 * (size_t)r, _MM_HINT_T0);
            acc[r] = q_dot(acc[r], q_xor(q_load(row), q_set8(0x80)), in);
        }
    }
    if (c < cols) {
        const __mmask64 mask = ((__mmask64)1 << (cols - c)) - 1;
        const vq in = _mm512_maskz_loadu_epi8(mask, x->a + c);
        UNROLL
        for (int r = 0; r < rows; r++) {
            const vq v = _mm512_maskz_loadu_epi8(mask, w + (size_t)r * cols + c);
            acc[r] = q_dot(acc[r], q_xor(v, q_set8(0x80)), in);
        }
    }
    for (int r = 0; r < rows; r++) {
        const int32_t sum = _mm512_reduce_add_epi32(acc[r]) - Q_OFFSET * x->sum[0];
        const float part = (float)sum * x->f[0];
        z[r] = x->base + part;
    }
}

static void int8_dot(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x) {
    const size_t end = m->n - s * STRIP < STRIP ? m->n - s * STRIP : STRIP;
    size_t r = 0;
    for (; r + 4 <= end; r += 4)
        int8_rows(z + r, m->data + (s * STRIP + r) * m->k, m->k, x, 4);
    for (; r < end; r++)
        int8_rows(z + r, m->data + (s * STRIP + r) * m->k, m->k, x, 1);
}

static void quant_dot(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x) {
    if (m->format == ML_QUANT_INT8)
        int8_dot(z, m, s, x);
    else if (m->format == ML_QUANT_TAP)
        ml_avx512_tap_dot(z, m, s, x);
    else
        ml_avx512_exl3_dot(z, m, s, x);
}

static void quant_round(struct ml_quant_x *x, const struct ml_quant_matrix *m, enum ml_quant_rows rows,
                        const float *rotated) {
    round_x(x, m, rows, rotated, MANY_WIDE);
}

void ml_quant_init_avx512(struct ml_kernels *k) {
    k->quant.rotate = quant_rotate;
    k->quant.round = quant_round;
    k->quant.unrotate = quant_unrotate;
    k->quant.dot = quant_dot;
    k->quant.few = ml_avx512_quant_few;
    k->quant.dots = ml_avx512_quant_dots;
    k->quant.decode = ml_quant_decode;
    k->quant.arranged = true;
}
