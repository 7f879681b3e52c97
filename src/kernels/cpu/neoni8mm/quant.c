/* SPDX-License-Identifier: Apache-2.0
 *
 * Many rows of x on NEON with the int8 matrix product: one instruction multiplies 2 rows of weights by 2 rows
 * of x over 8 columns, 32 products. 64 rows of weights are decoded once into a panel; past it go 8 rows of x
 * at a time, put side by side first.
 *
 *     panel of a strip   run 0: step 0 [16 rows][8 columns], step 1 ..  | run 1 ..       INT8 is one run
 *     rows of x          step 0 [8 rows][8 columns], step 1 ..                           through all runs
 *
 * Whole numbers of EXL3 need 10 bits: w = 4 high + low, a panel of each, the low one after the high one.
 */
#include "kernels/cpu/neon/qvec.h"

#include "kernels/cpu/quant_panel_simd.h"
#include "kernels/cpu/quant_x_simd.h"

enum { ROWS = 8, PAIRS = ROWS / 2, TOKENS = 8, STEP = 8, PANEL_STRIPS = 4, STEP_BYTES = STRIP * STEP };

V_INLINE void put_bytes(uint8_t *panel, size_t k, size_t lane, size_t half, int row, vq v) {
    uint8_t *to = panel + lane / 8 * 2 * k + half * STEP_BYTES + (size_t)row * STEP;
    vst1_u8(to, vget_low_u8(v));
    vst1_u8(to + 2 * k, vget_high_u8(v));
}

/* Four columns of a run. */
V_INLINE void put_quarters(uint8_t *to, size_t k, uint8x8_t v) {
    vst1_lane_u32((void *)to, vreinterpret_u32_u8(v), 0);
    vst1_lane_u32((void *)(to + 2 * k), vreinterpret_u32_u8(v), 1);
}

V_INLINE void put_whole(uint8_t *panel, size_t k, size_t lane, size_t quarter, int row, vq v) {
    uint8_t *to = panel + lane / 8 * 2 * k + quarter / 2 * STEP_BYTES + (size_t)row * STEP + quarter % 2 * 4;
    put_quarters(to, k, vreinterpret_u8_s8(vshrn_n_s16(S16(v), 2)));
    put_quarters(to + STRIP * k, k, vand_u8(vmovn_u16(U16(v)), vdup_n_u8(3)));
}

static size_t steps_of(const struct ml_quant_matrix *m) {
    return (m->k + 15) / 16 * 2; /* INT8 may have any number of columns */
}

/* Zeros past the matrix: rows and columns. */
static void int8_panel(uint8_t *panel, const struct ml_quant_matrix *m, size_t s) {
    const size_t rows = m->n - s * STRIP < STRIP ? m->n - s * STRIP : STRIP;
    memset(panel, 0, steps_of(m) * STEP_BYTES);
    for (size_t r = 0; r < rows; r++) {
        const uint8_t *w = m->data + (s * STRIP + r) * m->k;
        uint8_t *to = panel + r * STEP;
        size_t c = 0;
        for (; c + STEP <= m->k; c += STEP, to += STEP_BYTES)
            memcpy(to, w + c, STEP);
        memcpy(to, w + c, m->k - c);
    }
}

/* ---- x ---- */

/* Rows of a block of x, each pair side by side: the last one stands in for those that are missing. */
static void lay_side_by_side(uint8_t *to, const struct ml_quant_x *x, size_t tokens, size_t columns) {
    for (size_t t = 0; t < tokens; t += 2, to += 2 * STEP) {
        const int8_t *a = x[t].a, *b = x[t + 1 < tokens ? t + 1 : t].a;
        for (size_t c = 0; c < columns; c += 16) {
            const uint64x2_t u = U64(q_load(a + c)), v = U64(q_load(b + c));
            q_store(to + c * TOKENS, vreinterpretq_u8_u64(vzip1q_u64(u, v)));
            q_store(to + (c + STEP) * TOKENS, vreinterpretq_u8_u64(vzip2q_u64(u, v)));
        }
    }
}

/* ---- products ---- */

/* Sums of 8 rows with 8 rows of x; a vector is rows r, r with x t, t + 1, rows r + 1, r + 1 with the same. */
struct sums {
    int32x4_t v[PAIRS][PAIRS];
};

V_INLINE void add_steps(struct sums *sums, const uint8_t *w, const uint8_t *x, size_t steps,
                        const int pairs) {
    for (size_t i = 0; i < steps; i++, w += STEP_BYTES, x += TOKENS * STEP) {
        vq in[PAIRS];
        UNROLL
        for (int t = 0; t < pairs; t++)
            in[t] = q_load(x + 16 * t);
        UNROLL
        for (int r = 0; r < PAIRS; r++) {
            const vq row = q_load(w + 16 * r);
            UNROLL
            for (int t = 0; t < pairs; t++)
                sums->v[r][t] = vmmlaq_s32(sums->v[r][t], S8(row), S8(in[t]));
        }
    }
}

/* One run: its sums, scaled, are added to z. */
V_INLINE void add_run(float32x4_t z[PAIRS][PAIRS], const uint8_t *w, size_t plane, const uint8_t *x,
                      size_t steps, const float32x4_t f[PAIRS], const int pairs) {
    struct sums sums;
    UNROLL
    for (int r = 0; r < PAIRS; r++) {
        UNROLL
        for (int t = 0; t < pairs; t++)
            sums.v[r][t] = vdupq_n_s32(0);
    }
    add_steps(&sums, w, x, steps, pairs);
    if (plane) {
        UNROLL
        for (int r = 0; r < PAIRS; r++) {
            UNROLL
            for (int t = 0; t < pairs; t++)
                sums.v[r][t] = vshlq_n_s32(sums.v[r][t], 2);
        }
        add_steps(&sums, w + plane, x, steps, pairs);
    }
    UNROLL
    for (int r = 0; r < PAIRS; r++) {
        UNROLL
        for (int t = 0; t < pairs; t++)
            z[r][t] = vaddq_f32(z[r][t], vmulq_f32(vcvtq_f32_s32(sums.v[r][t]), f[t]));
    }
}

/* a, b, a, b */
V_INLINE float32x4_t two_by_turns(float a, float b) {
    const float32x2_t v = vset_lane_f32(b, vdup_n_f32(a), 1);
    return vcombine_f32(v, v);
}

/* What is the same for all blocks of a call. */
struct shape {
    size_t runs, steps; /* steps of a run */
    size_t plane;       /* bytes from the high panel to the low one, 0 where there is one */
    size_t ldz;
};

/* z[t][0..7] of 8 rows, for `tokens` rows of x in `pairs` pairs. */
V_INLINE void block(float *z, const struct shape *s, const uint8_t *w, const uint8_t *side,
                    const struct ml_quant_x *x, size_t tokens, const int pairs) {
    float32x4_t total[PAIRS][PAIRS], f[PAIRS];
    const struct ml_quant_x *even[PAIRS], *odd[PAIRS];
    for (int t = 0; t < pairs; t++) {
        even[t] = &x[2 * t];
        odd[t] = &x[2 * (size_t)t + 1 < tokens ? 2 * t + 1 : 2 * t];
        for (int r = 0; r < PAIRS; r++)
            total[r][t] = two_by_turns(even[t]->base, odd[t]->base);
    }
    for (size_t q = 0; q < s->runs; q++) {
        for (int t = 0; t < pairs; t++)
            f[t] = two_by_turns(even[t]->f[q], odd[t]->f[q]);
        add_run(total, w + q * s->steps * STEP_BYTES, s->plane, side + q * s->steps * TOKENS * STEP, s->steps,
                f, pairs);
    }
    for (int t = 0; t < pairs; t++) {
        float *to = z + 2 * (size_t)t * s->ldz;
        vst1q_f32(to, vuzp1q_f32(total[0][t], total[1][t]));
        vst1q_f32(to + 4, vuzp1q_f32(total[2][t], total[3][t]));
        if (2 * (size_t)t + 1 == tokens) return;
        vst1q_f32(to + s->ldz, vuzp2q_f32(total[0][t], total[1][t]));
        vst1q_f32(to + s->ldz + 4, vuzp2q_f32(total[2][t], total[3][t]));
    }
}

static void rows_by_tokens(float *z, const struct shape *s, const uint8_t *w, const uint8_t *side,
                           const struct ml_quant_x *x, size_t tokens) {
    if (tokens > 6)
        block(z, s, w, side, x, tokens, 4);
    else if (tokens > 4)
        block(z, s, w, side, x, tokens, 3);
    else if (tokens > 2)
        block(z, s, w, side, x, tokens, 2);
    else
        block(z, s, w, side, x, tokens, 1);
}

static void dots(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s, size_t strips,
                 const struct ml_quant_x *x, size_t n, void *scratch) {
    const bool int8 = m->format == ML_QUANT_INT8, two = m->format == ML_QUANT_EXL3;
    const size_t steps = steps_of(m), strip = steps * STEP_BYTES, runs = int8 ? 1 : ML_QUANT_RUNS;
    const struct shape shape = {runs, steps / runs, two ? strip : 0, ldz};
    uint8_t *panel = scratch, *side = panel + ML_QUANT_BESIDE(m->k);
    for (size_t i = 0; i < strips; i += PANEL_STRIPS) {
        const size_t count = strips - i < PANEL_STRIPS ? strips - i : PANEL_STRIPS;
        for (size_t j = 0; j < count; j++)
            (int8 ? int8_panel : make_panel)(panel + j * (two ? 2 : 1) * strip, m, s + i + j);
        for (size_t t = 0; t < n; t += TOKENS) {
            const size_t tokens = n - t < TOKENS ? n - t : TOKENS;
            lay_side_by_side(side, x + t, tokens, steps * STEP);
            for (size_t r = 0; r < count * STRIP; r += ROWS)
                rows_by_tokens(z + t * ldz + i * STRIP + r, &shape,
                               panel + r / STRIP * (two ? 2 : 1) * strip + r % STRIP * STEP, side, x + t,
                               tokens);
        }
    }
}

static void round_rows(struct ml_quant_x *x, const struct ml_quant_matrix *m, enum ml_quant_rows rows,
                       const float *rotated) {
    round_x(x, m, rows, rotated, MANY_BYTES);
}

void ml_quant_init_neoni8mm(struct ml_kernels *k) {
    k->quant.round = round_rows;
    k->quant.dots = dots;
}
