/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with quantized matrices, the specification: tiles are decoded one by one from the bytes of the
 * file, FAST in whole numbers, with each float32 step of kernels/quant.h in its own statement.
 */
#include "kernels/reference/reference.h"

#include <math.h>
#include <string.h>

int ml_quant_exl3_whole(enum ml_exl3_codebook cb, uint16_t state) {
    uint32_t x;
    if (cb == ML_EXL3_MUL1) {
        x = state * ML_EXL3_MUL1_MULTIPLIER;
        return (int)((x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24)) - 510;
    }
    x = cb == ML_EXL3_3INST ? state * ML_EXL3_3INST_MULTIPLIER + ML_EXL3_3INST_ADDEND
                            : state * ML_EXL3_MCG_MULTIPLIER;
    x = (x & 0x8fff8fffu) ^ 0x3b603b60u;
    return ml_quant_half(x & 0xffff) + ml_quant_half(x >> 16);
}

static const float hadamard_norm = 0.088388347648318447f; /* 1 / sqrt(128) */
static const float mul1_unit = 0.00676727294921875f;
static const float mul1_zero = -0.0018157958984375f; /* value of the whole number 0 */

/* Natural (Sylvester) order, strides 1, 2 ... 64; the norm comes last. */
static void hadamard(float x[ML_QUANT_BLOCK]) {
    for (size_t step = 1; step < ML_QUANT_BLOCK; step *= 2) {
        for (size_t i = 0; i < ML_QUANT_BLOCK; i++) {
            if (i & step) continue;
            const float a = x[i], b = x[i + step];
            x[i] = a + b;
            x[i + step] = a - b;
        }
    }
    for (size_t i = 0; i < ML_QUANT_BLOCK; i++)
        x[i] *= hadamard_norm;
}

static void rotate(float *out, const float *x, const float *su, size_t cols, size_t k) {
    for (size_t i = 0; i < k; i++)
        out[i] = i < cols ? su[i] * x[i] : 0;
    for (size_t i = 0; i < k; i += ML_QUANT_BLOCK)
        hadamard(out + i);
}

static void unrotate(float *y, float *z, const float *sv, size_t rows) {
    hadamard(z);
    for (size_t i = 0; i < rows; i++)
        y[i] = sv[i] * z[i];
}

static float largest(const float *x, size_t n) {
    float most = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return NAN;
        most = fmaxf(most, fabsf(x[i]));
    }
    return most;
}

/* One run: returns its scale. */
static float round_run(int8_t *a, int32_t *sum, const float *x, size_t n) {
    const float most = largest(x, n), inverse = most >= 0x1p-100f ? 127.0f / most : 0;
    *sum = 0;
    for (size_t i = 0; i < n; i++) {
        const float steps = x[i] * inverse;
        a[i] = (int8_t)(inverse > 0 ? rintf(steps) : 0);
        *sum += a[i];
    }
    return most >= 0x1p-100f || isnan(most) ? most / 127.0f : 0;
}

static float unit_of(const struct ml_quant_matrix *m) {
    if (m->format == ML_QUANT_INT8) return 1;
    if (m->format == ML_QUANT_TAP) return m->code->unit;
    return m->codebook == ML_EXL3_MUL1 ? mul1_unit : 1.0f / 128;
}

void ml_quant_factors(struct ml_quant_x *x, const struct ml_quant_matrix *m,
                      const float scale[ML_QUANT_RUNS]) {
    const float unit = unit_of(m);
    x->base = 0;
    for (int q = 0; q < ML_QUANT_RUNS; q++) {
        x->f[q] = scale[q] * unit;
        if (m->format != ML_QUANT_EXL3 || m->codebook != ML_EXL3_MUL1) continue;
        const float zero = scale[q] * mul1_zero;
        const float shift = zero * (float)x->sum[q];
        x->base = x->base + shift;
    }
}

void ml_quant_round_reference(struct ml_quant_x *x, const struct ml_quant_matrix *m, enum ml_quant_rows rows,
                              const float *rotated) {
    const size_t runs = ml_form_of(m->format)->x == ML_X_INT8 ? 1 : ML_QUANT_RUNS, n = m->k / runs;
    float scale[ML_QUANT_RUNS] = {0};
    (void)rows;
    memset(x->sum, 0, sizeof x->sum);
    for (size_t q = 0; q < runs; q++)
        scale[q] = round_run(x->a + q * n, &x->sum[q], rotated + q * n, n);
    ml_quant_factors(x, m, scale);
}

/* Tile (s, t), row r of outputs and column c of inputs at w[16 r + c]. */
static void whole_tile(const struct ml_quant_matrix *m, size_t s, size_t t, int16_t w[256]) {
    const uint8_t *tile = ml_form_tile_at(m, s, t);
    if (m->format == ML_QUANT_TAP) {
        int8_t entry[ML_TAP_TILE];
        ml_tap_decode(m->code, tile, entry);
        for (int i = 0; i < ML_TAP_TILE; i++)
            w[i] = (int16_t)entry[i];
        return;
    }
    uint16_t state[ML_EXL3_TILE];
    const uint8_t *order = ml_exl3_order();
    if (ml_exl3_unpack((unsigned)m->bits, tile, state, NULL) != MARLIN_OK) return; /* bits were checked */
    for (int i = 0; i < ML_EXL3_TILE; i++)
        w[(order[i] & 15) << 4 | order[i] >> 4] = (int16_t)ml_quant_exl3_whole(m->codebook, state[i]);
}

static void add_run(float *z, int32_t sum, float f) {
    const float part = (float)sum * f;
    *z = *z + part;
}

static void dot_int8(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x) {
    const size_t rows = m->n - 16 * s < 16 ? m->n - 16 * s : 16;
    for (size_t r = 0; r < rows; r++) {
        const int8_t *w = (const int8_t *)m->data + (16 * s + r) * m->k;
        int32_t sum = 0;
        for (size_t c = 0; c < m->k; c++)
            sum += w[c] * x->a[c];
        z[r] = x->base;
        add_run(&z[r], sum, x->f[0]);
    }
}

/* Sums of tile t into those of its run. */
static void add_tile(int32_t sum[16], const int16_t w[256], const int8_t *a) {
    for (size_t i = 0; i < 256; i++)
        sum[i / 16] += w[i] * a[i % 16];
}

/* `dot` with tiles from `whole`, [k / 16][256], or decoded one by one when that is NULL. */
static void dot_tiles(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x,
                      const int16_t *whole) {
    for (size_t r = 0; r < 16; r++)
        z[r] = x->base;
    const size_t tiles = m->k / 128; /* of a run */
    for (size_t q = 0; q < ML_QUANT_RUNS; q++) {
        int32_t sum[16] = {0};
        for (size_t t = q * tiles; t < (q + 1) * tiles; t++) {
            int16_t w[256];
            if (!whole) whole_tile(m, s, t, w);
            add_tile(sum, whole ? whole + 256 * t : w, x->a + 16 * t);
        }
        for (size_t r = 0; r < 16; r++)
            add_run(&z[r], sum[r], x->f[q]);
    }
}

void ml_quant_dot_reference(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x) {
    if (m->format == ML_QUANT_INT8)
        dot_int8(z, m, s, x);
    else
        dot_tiles(z, m, s, x, NULL);
}

void ml_quant_dots_reference(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s, size_t strips,
                             const struct ml_quant_x *x, size_t n, void *scratch) {
    int16_t *whole = scratch;
    for (size_t i = 0; i < strips; i++) {
        for (size_t t = 0; m->format != ML_QUANT_INT8 && t < m->k / 16; t++)
            whole_tile(m, s + i, t, whole + 256 * t);
        for (size_t t = 0; t < n; t++) {
            if (m->format == ML_QUANT_INT8)
                dot_int8(z + t * ldz + 16 * i, m, s + i, &x[t]);
            else
                dot_tiles(z + t * ldz + 16 * i, m, s + i, &x[t], whole);
        }
    }
}

void ml_quant_few_reference(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                            const struct ml_quant_x *x, size_t n, void *scratch) {
    ml_quant_dots_reference(z, ldz, m, s, 1, x, n, scratch);
}

static void decode(float *q, const struct ml_quant_matrix *m, size_t s) {
    ml_form_decode(m, s, q);
}

void ml_reference_quant(struct ml_kernels *k) {
    k->quant = (struct ml_quant_kernels){
        .rotate = rotate,
        .round = ml_quant_round_reference,
        .dot = ml_quant_dot_reference,
        .few = ml_quant_few_reference,
        .dots = ml_quant_dots_reference,
        .unrotate = unrotate,
        .decode = decode,
    };
}
