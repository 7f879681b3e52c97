/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of forms.
 */
#include "packing/forms.h"

#include "base/checked.h"
#include "base/fp.h"

#include <string.h>

enum { SIDE = 16, TILE = SIDE * SIDE };

/* ---- tiles ---- */

const uint8_t *ml_form_tile_at(const struct ml_quant_matrix *m, size_t s, size_t t) {
    const size_t n = m->n / SIDE, k = m->k / SIDE;
    const size_t at = ml_form_of(m->format)->by_inputs ? t * n + s : s * k + t;
    return m->data + at * (TILE / 8) * (size_t)m->bits;
}

static void tap_tile(const struct ml_quant_matrix *m, size_t s, size_t t, float *q, size_t stride) {
    int8_t entry[ML_TAP_TILE];
    ml_tap_decode(m->code, ml_form_tile_at(m, s, t), entry);
    for (size_t i = 0; i < ML_TAP_TILE; i++)
        q[i / SIDE * stride + i % SIDE] = (float)entry[i] * m->code->unit;
}

static void exl3_tile(const struct ml_quant_matrix *m, size_t s, size_t t, float *q, size_t stride) {
    uint16_t half[ML_EXL3_TILE];
    if (ml_exl3_decode((unsigned)m->bits, m->codebook, ml_form_tile_at(m, s, t), half, NULL) != MARLIN_OK)
        return;
    for (size_t i = 0; i < ML_EXL3_TILE; i++)
        q[i % SIDE * stride + i / SIDE] = ml_f16_to_f32(half[i]);
}

/* ---- the table ---- */

static const struct ml_form forms[ML_QUANT_FORMATS] = {
    [ML_QUANT_INT8] = {.name = "int8",
                       .weights = {"int8", ML_I8},
                       .out_scales = {"row_scales", ML_F32},
                       .min_bits = 8,
                       .max_bits = 8,
                       .block = 1,
                       .books = 1,
                       .x = ML_X_INT8},
    [ML_QUANT_TAP] = {.name = "tap",
                      .weights = {"tap", ML_U8},
                      .in_scales = {"in_scales", ML_F16},
                      .out_scales = {"out_scales", ML_F16},
                      .code = {"tap_code", ML_U8},
                      .tiled = true,
                      .min_bits = ML_TAP_MIN_BITS,
                      .max_bits = ML_TAP_MAX_BITS,
                      .block = 128,
                      .books = 1,
                      .x = ML_X_INT8_ROTATED,
                      .tile = tap_tile},
    [ML_QUANT_EXL3] = {.name = "exl3",
                       .weights = {"trellis", ML_I16},
                       .in_scales = {"suh", ML_F16},
                       .out_scales = {"svh", ML_F16},
                       .tiled = true,
                       .by_inputs = true,
                       .sliced = true,
                       .min_bits = ML_EXL3_MIN_BITS,
                       .max_bits = ML_EXL3_MAX_BITS,
                       .block = 128,
                       .books = ML_EXL3_CODEBOOKS,
                       .x = ML_X_INT8_ROTATED,
                       .tile = exl3_tile},
};

const struct ml_form *ml_form_of(enum ml_quant_format f) {
    return &forms[f];
}

const struct ml_form *ml_form_plain(void) {
    static const struct ml_form plain = {
        .name = "plain", .weights = {"weight", ML_BF16}, .block = 1, .books = 1, .x = ML_X_F32};
    return &plain;
}

const struct ml_form *ml_form_of_tensor(const char *name) {
    const char *dot = strrchr(name, '.');
    for (int f = 0; dot && f < ML_QUANT_FORMATS; f++)
        if (strcmp(dot + 1, forms[f].weights.suffix) == 0) return &forms[f];
    return dot && strcmp(dot + 1, ml_form_plain()->weights.suffix) == 0 ? ml_form_plain() : NULL;
}

/* ---- sizes ---- */

size_t ml_form_padded(const struct ml_form *f, size_t n) {
    return (n + f->block - 1) / f->block * f->block;
}

/* Elements of a tile for each bit of a weight: 32 bytes, or 16 numbers of 16 bits. */
static uint64_t tile_step(const struct ml_form *f) {
    return TILE / 8 / ml_dtype_size(f->weights.dtype);
}

int ml_form_shape(const struct ml_form *f, size_t n, size_t k, int bits, uint64_t shape[3]) {
    shape[0] = f->tiled ? (f->by_inputs ? k : n) / SIDE : n;
    shape[1] = f->tiled ? (f->by_inputs ? n : k) / SIDE : k;
    shape[2] = f->tiled ? tile_step(f) * (uint64_t)bits : 0;
    return f->tiled ? 3 : 2;
}

int ml_form_bits(const struct ml_form *f, enum ml_dtype dtype, int rank, const uint64_t *shape) {
    if (!f->tiled) return rank >= 2 ? (int)(8 * ml_dtype_size(dtype)) : 0;
    if (rank != 3 || shape[2] % tile_step(f) != 0) return 0;
    const uint64_t bits = shape[2] / tile_step(f);
    return bits >= (uint64_t)f->min_bits && bits <= (uint64_t)f->max_bits ? (int)bits : 0;
}

bool ml_form_bytes(size_t n, size_t k, int bits, size_t *bytes) {
    return ml_mul_size(n, k, bytes) && ml_mul_size(*bytes / 8, (size_t)bits, bytes);
}

/* ---- decoding ---- */

void ml_form_decode(const struct ml_quant_matrix *m, size_t s, float *q) {
    const struct ml_form *f = ml_form_of(m->format);
    for (size_t t = 0; f->tile && t < m->k / SIDE; t++)
        f->tile(m, s, t, q + SIDE * t, m->k);
    if (f->tile) return;
    const size_t rows = m->n - SIDE * s < SIDE ? m->n - SIDE * s : SIDE;
    const int8_t *w = (const int8_t *)m->data + SIDE * s * m->k;
    for (size_t i = 0; i < rows * m->k; i++)
        q[i] = (float)w[i];
}
