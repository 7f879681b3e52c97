/* SPDX-License-Identifier: Apache-2.0
 *
 * Two to eight rows of x on AVX-512. Tiles are decoded once, in the order of lanes (nothing is transposed), a
 * few groups at a time into a buffer that stays in L1, and multiplied there by every row of x. Sums of a row
 * of weights and a row of x are what one row of x alone would have; between chunks they wait in memory.
 *
 *     buffer   step 0: row 0 [8 runs][8 bytes], row 1 .. row 15 | step 1 ..     steps: half a group of 8
 *              columns a run (TAP), or a quarter of 4 columns of int16 (EXL3)
 */
#include "kernels/cpu/avx512/quant.h"
#include "kernels/cpu/unroll_simd.h"

enum {
    CHUNK = 4, /* groups: 8 KiB of buffer, 16 for EXL3 */
    MOST = ML_QUANT_FEW_ROWS
};

/* Sums of 16 rows with one row of x. */
struct row_sums {
    vq v[STRIP];
};

/* ---- tokens rows of x by rows rows of the buffer; `at` is where the chunk begins in x ---- */

V_INLINE void multiply_block(struct row_sums *sums, int row, const uint8_t *w, const struct ml_quant_x *x,
                             size_t at, size_t steps, const int rows, const int tokens, const bool wide) {
    vq acc[MOST][8];
    const int8_t *a[MOST];
    UNROLL
    for (int t = 0; t < tokens; t++) {
        a[t] = x[t].a + at;
        UNROLL
        for (int r = 0; r < rows; r++)
            acc[t][r] = sums[t].v[row + r];
    }
    w += 64 * row;
    for (size_t i = 0; i < 64 * steps; i += 64, w += 64 * STRIP) {
        vq in[8];
        UNROLL
        for (int r = 0; r < rows; r++)
            in[r] = q_load(w + 64 * r);
        UNROLL
        for (int t = 0; t < tokens; t++) {
            const vq with = q_load(a[t] + i);
            UNROLL
            for (int r = 0; r < rows; r++)
                acc[t][r] =
                    wide ? _mm512_dpwssd_epi32(acc[t][r], in[r], with) : q_dot(acc[t][r], in[r], with);
        }
    }
    UNROLL
    for (int t = 0; t < tokens; t++)
        UNROLL
    for (int r = 0; r < rows; r++)
        sums[t].v[row + r] = acc[t][r];
}

/* So many rows of the buffer at a time that there are sums enough to hide the latency of a product, and not
 * more than registers. */
#define ROWS_FOR(tokens) ((tokens) <= 2 ? 8 : (tokens) <= 6 ? 4 : 2)

#define MULTIPLY(tokens, wide)                                                                               \
    case 2 * (tokens) + (wide):                                                                              \
        for (int row = 0; row < STRIP; row += ROWS_FOR(tokens))                                              \
            multiply_block(sums, row, w, x, at, steps, ROWS_FOR(tokens), tokens, wide);                      \
        break;
#define MULTIPLY_BOTH(tokens) MULTIPLY(tokens, 0) MULTIPLY(tokens, 1)

static void multiply(struct row_sums *sums, const uint8_t *w, const struct ml_quant_x *x, size_t n, size_t at,
                     size_t steps, bool wide) {
    switch (2 * n + wide) {
        MULTIPLY_BOTH(1)
        MULTIPLY_BOTH(2)
        MULTIPLY_BOTH(3)
        MULTIPLY_BOTH(4)
        MULTIPLY_BOTH(5)
        MULTIPLY_BOTH(6)
        MULTIPLY_BOTH(7)
        MULTIPLY_BOTH(8)
    }
}

static void tiles_few(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                      const struct ml_quant_x *x, size_t n, struct row_sums *sums) {
    const bool wide = m->format == ML_QUANT_EXL3;
    const size_t groups = m->k / 128, steps = wide ? 4 : 2;
    uint8_t *const buffer = (uint8_t *)(sums + n);
    for (size_t t = 0; t < n; t++)
        for (int r = 0; r < STRIP; r++)
            sums[t].v[r] = q_zero();
    for (size_t g = 0; g < groups; g += CHUNK) {
        const size_t count = groups - g < CHUNK ? groups - g : CHUNK;
        if (wide)
            ml_avx512_exl3_spread(buffer, m, s, g, count);
        else
            ml_avx512_tap_spread(buffer, m, s, g, count);
        multiply(sums, buffer, x, n, g * steps * 64, count * steps, wide);
    }
    for (size_t t = 0; t < n; t++)
        finish_rows(z + t * ldz, sums[t].v, &x[t], wide ? 0 : Q_OFFSET);
}

/* ---- int8: rows of weights are read as they lie ---- */

V_INLINE void int8_block(struct row_sums *sums, size_t row, const uint8_t *w, size_t cols,
                         const struct ml_quant_x *x, const int rows, const int tokens) {
    vq acc[MOST][4];
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int r = 0; r < rows; r++)
            acc[t][r] = q_zero();
    }
    for (size_t c = 0; c < cols; c += 64) {
        const __mmask64 mask = cols - c < 64 ? ((__mmask64)1 << (cols - c)) - 1 : ~(__mmask64)0;
        vq in[4];
        UNROLL
        for (int r = 0; r < rows; r++) {
            const uint8_t *from = w + (size_t)r * cols + c;
            _mm_prefetch((const char *)from + PREFETCH, _MM_HINT_T0);
            in[r] = q_xor(_mm512_maskz_loadu_epi8(mask, from), q_set8(0x80));
        }
        UNROLL
        for (int t = 0; t < tokens; t++) {
            const vq with = q_load(x[t].a + c); /* zeros past the last column */
            UNROLL
            for (int r = 0; r < rows; r++)
                acc[t][r] = q_dot(acc[t][r], in[r], with);
        }
    }
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int r = 0; r < rows; r++)
            sums[t].v[row + (size_t)r] = acc[t][r];
    }
}

#define INT8_ROWS(tokens) ((tokens) <= 4 ? 4 : 2)
#define INT8(tokens)                                                                                         \
    case tokens:                                                                                             \
        for (; row + INT8_ROWS(tokens) <= rows; row += INT8_ROWS(tokens))                                    \
            int8_block(sums, row, w + row * m->k, m->k, x, INT8_ROWS(tokens), tokens);                       \
        for (; row < rows; row++)                                                                            \
            int8_block(sums, row, w + row * m->k, m->k, x, 1, tokens);                                       \
        break;

static void int8_few(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                     const struct ml_quant_x *x, size_t n, struct row_sums *sums) {
    const size_t rows = m->n - s * STRIP < STRIP ? m->n - s * STRIP : STRIP;
    const uint8_t *w = m->data + s * STRIP * m->k;
    size_t row = 0;
    switch (n) {
        INT8(1)
        INT8(2)
        INT8(3)
        INT8(4)
        INT8(5)
        INT8(6)
        INT8(7)
        INT8(8)
    }
    for (size_t t = 0; t < n; t++) {
        vq lanes[ML_QUANT_RUNS];
        for (size_t r = rows; r < STRIP; r++)
            sums[t].v[r] = q_zero();
        sums_by_lane(lanes, sums[t].v);
        vq sum = _mm512_set1_epi32(-Q_OFFSET * x[t].sum[0]);
        for (int q = 0; q < ML_QUANT_RUNS; q++)
            sum = _mm512_add_epi32(sum, lanes[q]);
        const vf part = v_mul(_mm512_cvtepi32_ps(sum), v_set1(x[t].f[0]));
        v_storen(z + t * ldz, v_add(v_set1(x[t].base), part), rows);
    }
}

void ml_avx512_quant_few(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                         const struct ml_quant_x *x, size_t n, void *scratch) {
    (m->format == ML_QUANT_INT8 ? int8_few : tiles_few)(z, ldz, m, s, x, n, scratch);
}
