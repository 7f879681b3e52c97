/* SPDX-License-Identifier: Apache-2.0
 *
 * Two to eight rows of x on AVX-512: each weight is decoded once and multiplied by every row of x while it is
 * in a register. There are registers for the sums of about sixteen pairs of a row of weights and a row of x,
 * so a chunk of columns is passed over several times, each time for other rows of weights: at most 8 of them
 * with 2 rows of x, 4 with 3 and 4, 2 with 5 to 8. Where a pass needs only some of the rows that a word
 * holds, the others are not decoded. The chunk and its part of x stay in L1; each pass fetches its share of
 * the next chunk ahead. Between chunks the sums wait in memory.
 *
 * Decoding into a buffer in L1 that is multiplied afterwards was slower: this processor does not reach two
 * accesses of 64 bytes a cycle, and then it is these that bound the products.
 */
#include "kernels/cpu/avx512/quant_few.h"
#include "kernels/cpu/unroll_simd.h"

#include <string.h>

enum { CHUNK = 10 }; /* groups of 128 columns: 10 KiB of 8 rows of x, as much of weights of 4 bits */

/* Chunks of equal size: what one fetches ahead is what the next one reads. */
static size_t chunk_of(size_t groups) {
    const size_t chunks = (groups + CHUNK - 1) / CHUNK;
    return (groups + chunks - 1) / chunks;
}

static void tiles_few(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                      const struct ml_quant_x *x, size_t n, struct row_sums *sums) {
    const bool exl3 = m->format == ML_QUANT_EXL3;
    const size_t groups = m->k / 128, chunk = chunk_of(groups);
    struct few_call c = {.m = m, .s = s, .sums = sums};
    for (size_t t = 0; t < ML_QUANT_FEW_ROWS; t++)
        c.a[t] = x[t < n ? t : n - 1].a;
    memset(sums, 0, ML_QUANT_FEW_ROWS * sizeof *sums);
    for (c.g = 0; c.g < groups; c.g += chunk) {
        c.count = groups - c.g < chunk ? groups - c.g : chunk;
        (exl3 ? ml_avx512_exl3_few : ml_avx512_tap_few)(&c, n <= 2 ? 0 : n <= 4 ? 1 : 2);
    }
    for (size_t t = 0; t < n; t++)
        finish_rows(z + t * ldz, sums[t].v, &x[t], exl3 ? 0 : Q_OFFSET);
}

/* ---- int8: rows of weights are read as they lie ---- */

V_INLINE void int8_block(struct row_sums *sums, size_t row, const uint8_t *w, size_t cols,
                         const struct ml_quant_x *x, const int rows, const int tokens) {
    vq acc[ML_QUANT_FEW_ROWS][4];
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

static void int8_finish(float *z, struct row_sums *sums, size_t rows, const struct ml_quant_x *x) {
    vq lanes[ML_QUANT_RUNS], sum = _mm512_set1_epi32(-Q_OFFSET * x->sum[0]);
    for (size_t r = rows; r < STRIP; r++)
        sums->v[r] = q_zero();
    sums_by_lane(lanes, sums->v);
    for (int q = 0; q < ML_QUANT_RUNS; q++)
        sum = _mm512_add_epi32(sum, lanes[q]);
    const vf part = v_mul(_mm512_cvtepi32_ps(sum), v_set1(x->f[0]));
    v_storen(z, v_add(v_set1(x->base), part), rows);
}

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
    for (size_t t = 0; t < n; t++)
        int8_finish(z + t * ldz, &sums[t], rows, &x[t]);
}

void ml_avx512_quant_few(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                         const struct ml_quant_x *x, size_t n, void *scratch) {
    (m->format == ML_QUANT_INT8 ? int8_few : tiles_few)(z, ldz, m, s, x, n, scratch);
}
