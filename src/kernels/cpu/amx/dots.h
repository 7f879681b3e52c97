/* SPDX-License-Identifier: Apache-2.0
 *
 * Many rows of x with tiles (include a vocabulary of tiles first: amx/tile.h, or one in plain C). 64 rows of
 * weights are decoded into the panel of the AVX-512 tier, whose order is what tiles want: a group of 4
 * columns is a row of a tile, 16 rows of weights its 16 lanes. Blocks are 32 rows of x by 32 of weights, four
 * tiles of sums; steps are 64 columns, and a run of columns is a pass, after which its sums are scaled and
 * added to z as on AVX-512.
 *
 * x is read where it lies, if its rows are equally far apart, 16 are left or 32, and the run is whole steps;
 * else it is copied first, with zeros for columns that are missing. Then the last step of a run reads groups
 * of the next run (after the last one: whatever is in the scratch): they are multiplied by zeros. Rows that
 * are missing are whatever is in the scratch: their sums are not used.
 *
 * Whole numbers of EXL3 need 10 bits: w = 4 (high - 128) + low, a panel of each, the low one after the high
 * one.
 */
#ifndef ML_KERNELS_CPU_AMX_DOTS_H
#define ML_KERNELS_CPU_AMX_DOTS_H

#include "kernels/cpu/avx512/quant.h"

#include <string.h>

enum { TOKENS = 32, ROWS = 32, STEP = 64, STEP_BYTES = STEP / 4 * PANEL_BYTES, HALF = 16 };

/* int32 sums of a block: of the high panel, or the only one, and of the low one. */
struct block_sums {
    int32_t v[2][TOKENS][ROWS];
};

/* Rows of x of a block in one run. */
struct rows {
    const int8_t *a;
    size_t stride; /* bytes from row to row */
};

V_INLINE void block_product(int32_t (*sums)[ROWS], const uint8_t *panel, struct rows x, size_t steps,
                            const bool both) {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (size_t i = 0; i < steps; i++, panel += STEP_BYTES, x.a += STEP) {
        TILE_LOAD(6, panel, PANEL_BYTES);
        TILE_LOAD(4, x.a, x.stride);
        TILE_LOAD(7, panel + 4 * HALF, PANEL_BYTES);
        TILE_DOT(0, 4, 6);
        TILE_DOT(1, 4, 7);
        if (!both) continue;
        TILE_LOAD(5, x.a + HALF * x.stride, x.stride);
        TILE_DOT(2, 5, 6);
        TILE_DOT(3, 5, 7);
    }
    TILE_STORE(sums[0], sizeof *sums, 0);
    TILE_STORE(sums[0] + HALF, sizeof *sums, 1);
    if (!both) return;
    TILE_STORE(sums[HALF], sizeof *sums, 2);
    TILE_STORE(sums[HALF] + HALF, sizeof *sums, 3);
}

/* z[t][32] += f * sums of run q, beginning at base. */
V_INLINE void add_block(float *z, size_t ldz, const struct block_sums *s, const struct ml_quant_x *x,
                        size_t tokens, int q, const bool two) {
    for (size_t t = 0; t < tokens; t++, z += ldz) {
        const __m512i offset = _mm512_set1_epi32((two ? 4 * Q_OFFSET : Q_OFFSET) * x[t].sum[q]);
        for (int i = 0; i < ROWS; i += VL) {
            __m512i sum = q_load(s->v[0][t] + i);
            if (two) sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 2), q_load(s->v[1][t] + i));
            add_vector(z + i, _mm512_sub_epi32(sum, offset), x[t].f[q], x[t].base, q == 0);
        }
    }
}

/* What is the same for all blocks of a call. */
struct shape {
    size_t runs, run, steps; /* columns and steps of a run */
    size_t plane;            /* bytes from the high panel to the low one, 0 where there is one */
    size_t ldz;
    size_t share; /* bytes of the next panel's weights to fetch in each block */
    int8_t *copy; /* [32][steps of a run][64] */
};

static void multiply_block(float *z, const struct shape *s, const uint8_t *panel, struct rows rows,
                           const struct ml_quant_x *x, size_t tokens, int q) {
    struct block_sums sums;
    for (int p = 0; p < (s->plane ? 2 : 1); p++) {
        if (tokens > HALF)
            block_product(sums.v[p], panel + (size_t)p * s->plane, rows, s->steps, true);
        else
            block_product(sums.v[p], panel + (size_t)p * s->plane, rows, s->steps, false);
    }
    if (s->plane)
        add_block(z, s->ldz, &sums, x, tokens, q, true);
    else
        add_block(z, s->ldz, &sums, x, tokens, q, false);
}

static struct rows rows_of(const struct shape *s, const struct ml_quant_x *x, size_t tokens, int q) {
    const size_t at = (size_t)q * s->run, stride = s->steps * STEP;
    const ptrdiff_t apart = x[1 % tokens].a - x[0].a;
    bool even = (tokens == TOKENS || tokens == HALF) && s->run == stride;
    for (size_t t = 1; even && t < tokens; t++)
        even = x[t].a - x[t - 1].a == apart;
    if (even) return (struct rows){x[0].a + at, (size_t)apart};
    for (size_t t = 0; t < tokens; t++) {
        int8_t *to = s->copy + t * stride;
        memcpy(to, x[t].a + at, s->run);
        if (s->run < stride) memset(to + s->run, 0, stride - s->run);
    }
    return (struct rows){s->copy, stride};
}

/* Panel against every row of x, one run after the other; the next panel's weights are fetched by the first
 * blocks of rows of x. */
static void multiply(float *z, const struct shape *s, const uint8_t *panel, const struct ml_quant_x *x,
                     size_t n, const uint8_t *ahead) {
    for (int q = 0; q < (int)s->runs; q++) {
        const uint8_t *run = panel + (size_t)q * s->run / 4 * PANEL_BYTES;
        for (size_t t = 0; t < n; t += TOKENS) {
            const size_t tokens = n - t < TOKENS ? n - t : TOKENS;
            const struct rows rows = rows_of(s, x + t, tokens, q);
            for (size_t r = 0; r < PANEL_ROWS; r += ROWS) {
                if (t == 0) {
                    fetch_ahead(ahead, s->share);
                    ahead += s->share;
                }
                multiply_block(z + t * s->ldz + r, s, run + 4 * r, rows, x + t, tokens, q);
            }
        }
    }
}

static struct shape shape_of(const struct ml_quant_matrix *m, size_t ldz, uint8_t *scratch) {
    struct shape s = {.ldz = ldz};
    const bool int8 = m->format == ML_QUANT_INT8;
    const size_t whole = (m->k + STEP - 1) / STEP * STEP;
    s.runs = int8 ? 1 : ML_QUANT_RUNS;
    s.run = int8 ? whole : m->k / ML_QUANT_RUNS; /* INT8: zeros follow x, and int8_panel fills up steps */
    s.steps = (s.run + STEP - 1) / STEP;
    s.plane = m->format == ML_QUANT_EXL3 ? m->k * PANEL_ROWS : 0;
    s.share = PANEL_ROWS / STRIP * strip_bytes(m) / 2 / (s.runs * (PANEL_ROWS / ROWS)) / 64 * 64 + 64;
    s.copy = (int8_t *)scratch + (int8 ? whole * PANEL_ROWS : ML_QUANT_BESIDE(m->k));
    return s;
}

static void tile_dots(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s, size_t strips,
                      const struct ml_quant_x *x, size_t n, void *scratch) {
    const struct shape shape = shape_of(m, ldz, scratch);
    const size_t of_panel = PANEL_ROWS / STRIP, half = strip_bytes(m) / 2;
    uint8_t *panel = scratch;
    TILES_BEGIN();
    for (size_t i = 0; i < strips; i += of_panel) {
        const uint8_t *next = weights_at(m, s + i + of_panel);
        for (size_t j = i; j < strips && j < i + of_panel; j++)
            ml_avx512_byte_panel(panel + (j - i) * 64, m, s + j, next + (j - i) * half);
        multiply(z + i * STRIP, &shape, panel, x, n, next + of_panel * half);
    }
    TILES_END();
}

#endif
