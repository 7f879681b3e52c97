/* SPDX-License-Identifier: Apache-2.0
 *
 * A chunk of columns by a few rows of x, and what its passes share (cpu/avx512/quant_few.c).
 */
#ifndef ML_KERNELS_CPU_AVX512_QUANT_FEW_H
#define ML_KERNELS_CPU_AVX512_QUANT_FEW_H

#include "kernels/cpu/avx512/quant.h"
#include "kernels/cpu/unroll_simd.h"

/* Of 16 rows of weights with one row of x. */
struct row_sums {
    vq v[STRIP];
};

struct few_call {
    const struct ml_quant_matrix *m;
    size_t s, g, count;                 /* strip; groups [g, g + count) */
    struct row_sums *sums;              /* [8], added to */
    const int8_t *a[ML_QUANT_FEW_ROWS]; /* whole rows of x; the last one again where there are fewer */
};

/* size 0: two rows of x, 1: four, 2: eight. */
void ml_avx512_tap_few(const struct few_call *c, int size);
void ml_avx512_exl3_few(const struct few_call *c, int size);

enum { MOST_ROWS = 8 }; /* rows of weights of a pass */

/* Sums of a pass: rows of weights row, row + 1 .. or, `apart` not being 1, row, row + apart, row + 1, row + 1
 * + apart ..; `tokens` rows of x. */
struct pass_sums {
    vq v[ML_QUANT_FEW_ROWS][MOST_ROWS];
};

V_INLINE size_t pass_row(size_t row, const size_t apart, const int r) {
    return apart == 1 ? row + (size_t)r : row + (size_t)(r / 2) + (size_t)(r % 2) * apart;
}

V_INLINE void pass_begin(struct pass_sums *p, const struct few_call *c, size_t row, const size_t apart,
                         const int rows, const int tokens) {
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int r = 0; r < rows; r++)
            p->v[t][r] = c->sums[t].v[pass_row(row, apart, r)];
    }
}

V_INLINE void pass_end(const struct pass_sums *p, const struct few_call *c, size_t row, const size_t apart,
                       const int rows, const int tokens) {
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int r = 0; r < rows; r++)
            c->sums[t].v[pass_row(row, apart, r)] = p->v[t][r];
    }
}

/* Weights of the rows of the pass by 64 bytes at `at` of every row of x. */
V_INLINE void pass_multiply(struct pass_sums *p, const vq *w, const struct few_call *c, size_t at,
                            const int rows, const int tokens, const bool wide) {
    UNROLL
    for (int t = 0; t < tokens; t++) {
        const vq in = q_load(c->a[t] + at);
        UNROLL
        for (int r = 0; r < rows; r++)
            p->v[t][r] = wide ? _mm512_dpwssd_epi32(p->v[t][r], w[r], in) : q_dot(p->v[t][r], w[r], in);
    }
}

/* Fetches the share of pass `pass` of `passes` in the lines of a group, ahead. */
V_INLINE void pass_prefetch(const uint8_t *ahead, const int lines, size_t pass, const int passes) {
    const int share = (lines + passes - 1) / passes;
    UNROLL
    for (int i = 0; i < share; i++)
        _mm_prefetch((const char *)ahead + 64 * (share * pass + (size_t)i), _MM_HINT_T0);
}

#endif
