/* SPDX-License-Identifier: Apache-2.0
 *
 * Entries of quantized products of the AVX-512 tier: choice by format, and int8 rows.
 */
#include "kernels/cpu/avx512/quant.h"

#include "kernels/cpu/quant_x_simd.h"

/* Bytes plus 128 as unsigned; one run. Row by row, so that the strip is read as the one stream that it is. */
V_INLINE float int8_row(const uint8_t *w, size_t cols, const struct ml_quant_x *x) {
    vq acc[4] = {q_zero(), q_zero(), q_zero(), q_zero()};
    size_t c = 0;
    for (; c + 256 <= cols; c += 256) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const uint8_t *at = w + c + 64 * i;
            _mm_prefetch((const char *)at + PREFETCH, _MM_HINT_T1);
            acc[i] = q_dot(acc[i], q_xor(q_load(at), q_set8(0x80)), q_load(x->a + c + 64 * i));
        }
    }
    for (; c < cols; c += 64) {
        const __mmask64 mask = cols - c < 64 ? ((__mmask64)1 << (cols - c)) - 1 : ~(__mmask64)0;
        const vq v = q_xor(_mm512_maskz_loadu_epi8(mask, w + c), q_set8(0x80));
        acc[0] = q_dot(acc[0], v, _mm512_maskz_loadu_epi8(mask, x->a + c));
    }
    const vq sum = _mm512_add_epi32(_mm512_add_epi32(acc[0], acc[1]), _mm512_add_epi32(acc[2], acc[3]));
    const float part = (float)(_mm512_reduce_add_epi32(sum) - Q_OFFSET * x->sum[0]) * x->f[0];
    return x->base + part;
}

static void int8_dot(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x) {
    const size_t end = m->n - s * STRIP < STRIP ? m->n - s * STRIP : STRIP;
    for (size_t r = 0; r < end; r++)
        z[r] = int8_row(m->data + (s * STRIP + r) * m->k, m->k, x);
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
    k->quant.arrange = ml_quant_interleave;
}
