/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized matrices apart from products: the order that kernels read, and the way back to a plain matrix.
 */
#include "kernels/quant.h"

#include "base/assert.h"
#include "base/mem.h"
#include "kernels/tiers.h"

#include <string.h>

enum { B = ML_QUANT_BLOCK };

size_t ml_quant_x_bytes(size_t k) {
    return ((k < ML_QUANT_CONSTANTS ? k + ML_QUANT_CONSTANTS : 2 * k) + 63) / 64 * 64 + 64;
}

/* 64 rows of 16-bit whole numbers, or bytes, whatever a tier makes of them; for a few rows of x their sums
 * too, 1 KiB each. After that, from ML_QUANT_BESIDE(k) on, 8 rows of x in bytes. */
size_t ml_quant_dots_scratch(size_t k) {
    return ML_QUANT_BESIDE(k) + 8 * (k + 256);
}

static size_t strip_bytes(const struct ml_quant_matrix *m) {
    return m->k / 16 * 32 * (size_t)m->bits;
}

/* What bind and the quantizer see to: sizes that formats are made of, pointers that they need. */
static bool is_whole(const struct ml_quant_matrix *m) {
    if (m->rows == 0 || m->cols == 0 || m->n < m->rows || m->k < m->cols || !m->sv) return false;
    if (m->format == ML_QUANT_INT8) return true;
    if (m->n % B || m->k % B || m->bits < 1 || m->bits > ML_EXL3_MAX_BITS || !m->su) return false;
    return m->format == ML_QUANT_EXL3 ? m->codebook < ML_EXL3_CODEBOOKS
                                      : m->code && (int)m->code->bits == m->bits;
}

size_t ml_quant_arranged_bytes(const struct ml_kernels *k, const struct ml_quant_matrix *m) {
    if (!k->quant.arrange || !ml_form_of(m->format)->tiled) return 0;
    return m->n / 16 * strip_bytes(m);
}

static void interleave_group(const struct ml_quant_matrix *m, size_t s, size_t g, uint64_t *to) {
    const size_t words = (size_t)4 * (size_t)m->bits, run = m->k / 128;
    for (size_t q = 0; q < ML_QUANT_RUNS; q++) {
        const uint8_t *tile = ml_form_tile_at(m, s, q * run + g);
        for (size_t w = 0; w < words; w++) {
            uint64_t v;
            memcpy(&v, tile + 8 * w, sizeof v);
            to[w * ML_QUANT_RUNS + q] = m->format == ML_QUANT_EXL3 ? v << 32 | v >> 32 : v;
        }
    }
}

void ml_quant_interleave(const struct ml_quant_matrix *m, void *to, size_t begin, size_t end) {
    const size_t group = (size_t)32 * (size_t)m->bits; /* words */
    ML_ASSERT(begin <= end && end <= m->n / 16);
    for (size_t s = begin; s < end; s++) {
        uint64_t *strip = (uint64_t *)((char *)to + s * strip_bytes(m));
        for (size_t g = 0; g < m->k / 128; g++)
            interleave_group(m, s, g, strip + g * group);
    }
}

void ml_quant_arrange(const struct ml_kernels *k, const struct ml_quant_matrix *m, void *to) {
    if (ml_quant_arranged_bytes(k, m)) k->quant.arrange(m, to, 0, m->n / 16);
}

/* ---- restoring: one Hadamard block of rows and columns at a time, in double ---- */

struct block {
    float tiles[B * B];
    double q[B * B];
};

static void hadamard(double *x, size_t stride) {
    for (size_t step = 1; step < B; step *= 2) {
        for (size_t i = 0; i < B; i++) {
            if (i & step) continue;
            const double a = x[i * stride], b = x[(i + step) * stride];
            x[i * stride] = a + b;
            x[(i + step) * stride] = a - b;
        }
    }
}

static void restore_block(const struct ml_quant_matrix *m, struct block *b, size_t row, size_t col,
                          float *w) {
    const struct ml_form *f = ml_form_of(m->format);
    for (size_t s = 0; s < 8; s++)
        for (size_t t = 0; t < 8; t++)
            f->tile(m, row / 16 + s, col / 16 + t, b->tiles + s * 16 * B + 16 * t, B);
    for (size_t i = 0; i < (size_t)B * B; i++)
        b->q[i] = b->tiles[i] / B; /* the norms of both sides */
    for (size_t i = 0; i < B; i++)
        hadamard(b->q + i * B, 1);
    for (size_t i = 0; i < B; i++)
        hadamard(b->q + i, B);
    for (size_t r = 0; r < B && row + r < m->rows; r++)
        for (size_t c = 0; c < B && col + c < m->cols; c++)
            w[(row + r) * m->cols + col + c] = (float)(b->q[r * B + c] * m->sv[row + r] * m->su[col + c]);
}

marlin_status ml_quant_restore(const struct ml_quant_matrix *m, float *w, struct marlin_error *err) {
    ML_ASSERT(is_whole(m) && m->data);
    if (!ml_form_of(m->format)->tiled) {
        for (size_t i = 0; i < m->rows * m->cols; i++)
            w[i] = m->sv[i / m->cols] * (float)(int8_t)m->data[i];
        return MARLIN_OK;
    }
    struct block *b = ml_alloc(sizeof *b);
    if (!b) return ml_fail(err, MARLIN_ERR_MEMORY, "restoring a quantized matrix: out of memory");
    for (size_t row = 0; row < m->n; row += B)
        for (size_t col = 0; col < m->k; col += B)
            restore_block(m, b, row, col, w);
    ml_free(b);
    return MARLIN_OK;
}
