/* SPDX-License-Identifier: Apache-2.0
 *
 * EXACT's decoder of every tier but the reference: plain C, some ten times as fast. Values of EXL3 states
 * come from a table of 65536 floats for each codebook, made when it is first wanted; indices of tap windows
 * are computed for a whole tile in loops that compilers turn into vectors.
 */
#include "kernels/tiers.h"

#include <pthread.h>
#include <string.h>

static float exl3_values[ML_EXL3_CODEBOOKS][65536];

static void make_3inst(void) {
    ml_exl3_table(ML_EXL3_3INST, exl3_values[ML_EXL3_3INST]);
}

static void make_mcg(void) {
    ml_exl3_table(ML_EXL3_MCG, exl3_values[ML_EXL3_MCG]);
}

static void make_mul1(void) {
    ml_exl3_table(ML_EXL3_MUL1, exl3_values[ML_EXL3_MUL1]);
}

static const float *values_of(enum ml_exl3_codebook cb) {
    static pthread_once_t made[ML_EXL3_CODEBOOKS] = {PTHREAD_ONCE_INIT, PTHREAD_ONCE_INIT, PTHREAD_ONCE_INIT};
    static void (*const make[ML_EXL3_CODEBOOKS])(void) = {make_3inst, make_mcg, make_mul1};
    (void)pthread_once(&made[cb], make[cb]);
    return exl3_values[cb];
}

/* 32-bit words of the stream with the last one in front: the window of weight t ends at bit (t + 1)
 * K + 32. */
static void exl3_tile(const struct ml_quant_matrix *m, const uint8_t *tile, float *q) {
    const unsigned K = (unsigned)m->bits;
    const float *value = values_of(m->codebook);
    const uint8_t *order = ml_exl3_order();
    uint32_t word[8 * ML_EXL3_MAX_BITS + 2];
    memcpy(word + 1, tile, (size_t)32 * K);
    word[0] = word[8 * K];
    word[8 * K + 1] = 0;
    for (unsigned t = 0; t < ML_EXL3_TILE; t++) {
        const unsigned first = (t + 1) * K + 16;
        const uint64_t two = (uint64_t)word[first / 32] << 32 | word[first / 32 + 1];
        const unsigned at = order[t];
        q[(at & 15) * m->k + (at >> 4)] = value[two >> (48 - first % 32) & 0xffff];
    }
}

static void tap_windows(uint16_t *window, const uint8_t *tile, unsigned k) {
    uint8_t ring[32 * ML_TAP_MAX_BITS + 8];
    memcpy(ring, tile, (size_t)32 * k);
    memcpy(ring + (size_t)32 * k, tile, 8);
    for (unsigned t = 0; t < ML_TAP_TILE; t++) {
        uint32_t bits;
        memcpy(&bits, ring + t * k / 8, sizeof bits);
        window[t] = (uint16_t)(bits >> t * k % 8);
    }
}

static void tap_tile(const struct ml_quant_matrix *m, const float *value, const uint8_t *tile, float *q) {
    const struct ml_tap_code *c = m->code;
    const uint8_t *order = ml_tap_order(c->bits);
    const unsigned all = (1u << c->index_bits) - 1, own = (1u << c->bits) - 1;
    const unsigned a = c->taps[0], b = c->taps[1] ? c->taps[1] : 16, d = c->taps[2] ? c->taps[2] : 16;
    uint16_t window[ML_TAP_TILE];
    uint8_t index[ML_TAP_TILE];
    tap_windows(window, tile, c->bits);
    for (int t = 0; t < ML_TAP_TILE; t++) {
        const unsigned w = window[t], u = w ^ w >> a ^ w >> b ^ w >> d;
        index[t] = (uint8_t)((u & own) | (w & all & ~own));
    }
    for (int t = 0; t < ML_TAP_TILE; t++)
        q[(size_t)(order[t] >> 4) * m->k + (order[t] & 15)] = value[index[t]];
}

void ml_quant_decode(float *q, const struct ml_quant_matrix *m, size_t s) {
    const size_t bytes = (size_t)32 * (size_t)m->bits;
    if (m->format == ML_QUANT_INT8) {
        const size_t rows = m->n - 16 * s < 16 ? m->n - 16 * s : 16;
        const int8_t *w = (const int8_t *)m->data + 16 * s * m->k;
        for (size_t i = 0; i < rows * m->k; i++)
            q[i] = (float)w[i];
    } else if (m->format == ML_QUANT_EXL3) {
        for (size_t t = 0; t < m->k / 16; t++)
            exl3_tile(m, m->data + (t * (m->n / 16) + s) * bytes, q + 16 * t);
    } else {
        float value[1 << ML_TAP_MAX_INDEX];
        for (int i = 0; i < 1 << m->code->index_bits; i++)
            value[i] = (float)m->code->table[i] * m->code->unit;
        for (size_t t = 0; t < m->k / 16; t++)
            tap_tile(m, value, m->data + (s * (m->k / 16) + t) * bytes, q + 16 * t);
    }
}
