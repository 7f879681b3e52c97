/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized products over the vocabulary of a tier (its qvec.h) that has fewer than 8 lanes of 64 bits:
 * passes over LQ runs at a time. One row of x is multiplied as tiles are decoded; for many, a strip is
 * decoded once into scratch, in the order of lanes, and multiplied by blocks of 4 weight rows and 2 rows of
 * x.
 *
 *     panel of a strip   rows 0 .. 3: step 0: row 0 [8 runs][8 bytes], row 1 .. row 3 | step 1 .. ||
 *                        rows 4 .. 7: .. || ..     steps: half a group of 8 columns a run (TAP), or a quarter
 *                        of 4 columns of int16 (EXL3)
 */
#ifndef ML_KERNELS_CPU_QUANT_SIMD_H
#define ML_KERNELS_CPU_QUANT_SIMD_H

#include "kernels/cpu/quant_panel_simd.h"
#include "kernels/cpu/quant_x_simd.h"
#include "kernels/cpu/unroll_simd.h"

enum { ROW_BLOCK = 4, X_BLOCK = 2, X_AT_ONCE = 16, STEPS_AT_ONCE = 48, AHEAD = 8192 };

/* Rows of a block side by side, so that all steps of a block are one stretch: of rows 16 lines apart L1 keeps
 * a quarter. */
V_INLINE uint8_t *panel_line(uint8_t *panel, size_t steps, size_t step, int row) {
    const size_t block = (size_t)row / ROW_BLOCK, in_block = (size_t)row % ROW_BLOCK;
    return panel + ((block * steps + step) * ROW_BLOCK + in_block) * LINE;
}

V_INLINE void put_bytes(uint8_t *panel, size_t k, size_t lane, size_t half, int row, vq v) {
    q_store(panel_line(panel, k / 64, half, row) + lane, v);
}

V_INLINE void put_whole(uint8_t *panel, size_t k, size_t lane, size_t quarter, int row, vq v) {
    q_store(panel_line(panel, k / 32, quarter, row) + lane, v);
}

/* z[rows] from the sums of each row in each run, of weights + offset. */
V_INLINE void finish_sums(float *z, const int32_t (*sum)[8], size_t rows, const struct ml_quant_x *x,
                          const int offset) {
    for (size_t r = 0; r < rows; r++) {
        float total = x->base;
        for (int q = 0; q < ML_QUANT_RUNS; q++) {
            const float part = (float)(sum[r][q] - offset * x->sum[q]) * x->f[q];
            total = total + part;
        }
        z[r] = total;
    }
}

/* ---- TAP ---- */

/* Fetches the strip that follows: each pass over the lanes of one its share of it, group by group, so that it
 * comes as the one stream that it is. bytes: of a group. */
V_INLINE void fetch_next(const struct ml_quant_matrix *m, size_t s, size_t lane, size_t g, const int bytes) {
    const size_t groups = m->k / 128, share = (size_t)bytes * LANE_BYTES / LINE;
    const uint8_t *at = strip_at(m, s + 1) + (lane / LANE_BYTES * groups + g) * share;
    UNROLL
    for (size_t i = 0; i < share; i += LINE)
        __builtin_prefetch(at + i);
}

/* The sums of 16 rows of weights with a row of x. */
struct row_sums {
    vq v[STRIP];
};

/* Indices first, all 16 of a half, entries after that: the table fills half of the registers, so that nothing
 * else should have to stay in them. One row of x is multiplied by each entry at once. */
V_INLINE void rows_by_one(struct row_sums *sums, const vq index[STRIP], const struct lut *lut, const int k,
                          const int p, const bool mirrored, const int8_t *a) {
    const vin in = q_in(q_columns(q_load(a), k, p));
    NO_UNROLL
    for (int r = 0; r < STRIP; r++)
        sums->v[r] = q_dot_in(sums->v[r], entry_of(lut, index[r], p, mirrored), in);
}

V_INLINE void rows_by_few(struct row_sums *sums, const vq index[STRIP], const struct lut *lut, const int k,
                          const int p, const bool mirrored, const struct ml_quant_x *x, size_t n, size_t at) {
    vq w[STRIP];
    NO_UNROLL
    for (int r = 0; r < STRIP; r++)
        w[r] = entry_of(lut, index[r], p, mirrored);
    for (size_t t = 0; t < n; t++) {
        const vin in = q_in(q_columns(q_load(x[t].a + at), k, p));
        UNROLL
        for (int r = 0; r < STRIP; r++)
            sums[t].v[r] = q_dot_in(sums[t].v[r], w[r], in);
    }
}

V_INLINE void tap_dot_k(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                        const struct ml_quant_x *x, size_t n, const int k, const int p, const bool three,
                        const bool mirrored) {
    const struct taps taps = q_taps(m->code);
    const struct lut lut = table_of(m->code, p, mirrored);
    int32_t sum[ML_QUANT_FEW_ROWS][STRIP][8];
    for (size_t lane = 0; lane < LINE; lane += LANE_BYTES) {
        const uint8_t *w = strip_at(m, s) + lane;
        struct row_sums sums[ML_QUANT_FEW_ROWS];
        memset(sums, 0, n * sizeof *sums);
#define SINK(row, i) index[row] = i
#define MULTIPLY(at)                                                                                         \
    if (n == 1)                                                                                              \
        rows_by_one(sums, index, &lut, k, p, mirrored, x->a + (at));                                         \
    else                                                                                                     \
        rows_by_few(sums, index, &lut, k, p, mirrored, x, n, at)
        for (size_t g = 0; g < m->k / 128; g++, w += 256 * k) {
            const vq first = q_load(w);
            vq now = first, index[STRIP];
            fetch_next(m, s, lane, g, 256 * k);
            TAP_HALF(SINK, k, p, three, &taps, w, now, false, first);
            MULTIPLY(g * 2 * LINE + lane);
            TAP_HALF(SINK, k, p, three, &taps, w + 128 * k, now, true, first);
            MULTIPLY(g * 2 * LINE + LINE + lane);
        }
#undef MULTIPLY
#undef SINK
        for (size_t t = 0; t < n; t++)
            for (int i = 0; i < STRIP; i++)
                q_store_sums(&sum[t][i][lane / 8], sums[t].v[i]);
    }
    for (size_t t = 0; t < n; t++)
        finish_sums(z + t * ldz, sum[t], STRIP, &x[t], Q_OFFSET);
}

/* ---- EXL3 ---- */

V_INLINE void exl3_dot_k(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x,
                         const int K, const enum ml_exl3_codebook cb) {
    int32_t sum[16][8];
    for (size_t lane = 0; lane < LINE; lane += LANE_BYTES) {
        const uint8_t *w = strip_at(m, s) + lane;
        const int8_t *a = x->a + lane;
        vq acc[16];
        for (int i = 0; i < 16; i++)
            acc[i] = q_zero();
#define SINK(row, i, v) acc[row] = q_dot16(acc[row], v, q_load(a + LINE * (i)))
        for (size_t g = 0; g < m->k / 128; g++, a += 4 * LINE) {
            fetch_next(m, s, lane, g, 256 * K);
            EXL3_GROUP(SINK, K, cb, w, q_load(w + LINE * (4 * K - 1)));
        }
#undef SINK
        for (int i = 0; i < 16; i++)
            q_store_sums(&sum[i][lane / 8], acc[i]);
    }
    finish_sums(z, sum, 16, x, 0);
}

/* ---- INT8 ---- */

/* Row by row, so that the strip is read as the one stream that it is. */
V_INLINE float int8_row(const int8_t *w, size_t cols, const struct ml_quant_x *x) {
    vq acc[4] = {q_zero(), q_zero(), q_zero(), q_zero()};
    size_t c = 0;
    for (; c + 4 * LANE_BYTES <= cols; c += 4 * LANE_BYTES) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const size_t at = c + (size_t)i * LANE_BYTES;
            if (i * LANE_BYTES % LINE == 0) __builtin_prefetch(w + at + AHEAD, 0, 2);
            acc[i] = q_dot(acc[i], q_load(w + at), q_load(x->a + at));
        }
    }
    int32_t sum = q_sum(acc[0]) + q_sum(acc[1]) + q_sum(acc[2]) + q_sum(acc[3]);
    for (; c < cols; c++)
        sum += w[c] * x->a[c];
    const float part = (float)sum * x->f[0];
    return x->base + part;
}

static void int8_dot(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x) {
    const size_t end = m->n - s * STRIP < STRIP ? m->n - s * STRIP : STRIP;
    for (size_t r = 0; r < end; r++)
        z[r] = int8_row((const int8_t *)m->data + (s * STRIP + r) * m->k, m->k, x);
}

/* ---- versions: see quant_panel_simd.h ---- */

typedef void dot_fn(float *, const struct ml_quant_matrix *, size_t, const struct ml_quant_x *);
typedef void few_fn(float *, size_t, const struct ml_quant_matrix *, size_t, const struct ml_quant_x *,
                    size_t);

/* Whatever n is. */
#define TAP_DOT(name, k, p, mirrored)                                                                        \
    static void tap_dot_##name##_##k(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,        \
                                     const struct ml_quant_x *x, size_t n) {                                 \
        if (m->code->taps[2] || !m->code->taps[1])                                                           \
            tap_dot_k(z, ldz, m, s, x, n, k, p, true, mirrored);                                             \
        else                                                                                                 \
            tap_dot_k(z, ldz, m, s, x, n, k, p, false, mirrored);                                            \
    }
/* For one row: the library's codes have loops for that alone. */
#define TAP_DOT_ONE(name, k, p, mirrored)                                                                    \
    static void tap_one_##name##_##k(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,        \
                                     const struct ml_quant_x *x, size_t n) {                                 \
        (void)n;                                                                                             \
        if (m->code->taps[2] || !m->code->taps[1])                                                           \
            tap_dot_k(z, ldz, m, s, x, 1, k, p, true, mirrored);                                             \
        else                                                                                                 \
            tap_dot_k(z, ldz, m, s, x, 1, k, p, false, mirrored);                                            \
    }
NARROW_VERSIONS(TAP_DOT)
NARROW_VERSIONS(TAP_DOT_ONE)
WIDE_VERSIONS(TAP_DOT)

#define EXL3_VERSION(name, cb, K)                                                                            \
    static void exl3_dot_##name##_##K(float *z, const struct ml_quant_matrix *m, size_t s,                   \
                                      const struct ml_quant_x *x) {                                          \
        exl3_dot_k(z, m, s, x, K, cb);                                                                       \
    }
EXL3_VERSIONS(EXL3_VERSION, inst, ML_EXL3_3INST)
EXL3_VERSIONS(EXL3_VERSION, mcg, ML_EXL3_MCG)
EXL3_VERSIONS(EXL3_VERSION, mul, ML_EXL3_MUL1)

static void tap_dot(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                    const struct ml_quant_x *x, size_t n) {
    static few_fn *const one[] = TAP_LIST(one, narrow), *const narrow[] = TAP_LIST(dot, narrow);
    static few_fn *const wide[] = TAP_LIST(dot, wide);
    (!is_narrow(m) ? wide : n == 1 ? one : narrow)[m->bits - 2](z, ldz, m, s, x, n);
}

static void quant_dot(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x) {
    static dot_fn *const exl3[ML_EXL3_CODEBOOKS][8] = {EXL3_LIST(dot, inst), EXL3_LIST(dot, mcg),
                                                       EXL3_LIST(dot, mul)};
    if (m->format == ML_QUANT_INT8)
        int8_dot(z, m, s, x);
    else if (m->format == ML_QUANT_EXL3)
        exl3[m->codebook][m->bits - 1](z, m, s, x);
    else
        tap_dot(z, 0, m, s, x, 1);
}

/* ---- many rows of x ---- */

/* Adds to the sums of `tokens` rows of x: `steps` steps of w, from step `first` of x on. */
V_INLINE void panel_tile(int32_t (*sum)[8][ROW_BLOCK], const uint8_t *w, const struct ml_quant_x *x,
                         size_t lane, size_t first, size_t steps, const int tokens, const bool wide) {
    vq acc[X_BLOCK][ROW_BLOCK];
    UNROLL
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < ROW_BLOCK; r++)
            acc[t][r] = q_zero();
    for (size_t i = first; i < first + steps; i++, w += ROW_BLOCK * LINE) {
        vq in[X_BLOCK];
        vin bytes[X_BLOCK];
        UNROLL
        for (int t = 0; t < tokens; t++) {
            in[t] = q_load(x[t].a + i * LINE + lane);
            bytes[t] = q_in(in[t]);
        }
        UNROLL
        for (int r = 0; r < ROW_BLOCK; r++) {
            const vq row = q_load(w + r * LINE);
            UNROLL
            for (int t = 0; t < tokens; t++)
                acc[t][r] = wide ? q_dot16(acc[t][r], row, in[t]) : q_dot_in(acc[t][r], row, bytes[t]);
        }
    }
    UNROLL
    for (int t = 0; t < tokens; t++)
        q_add_sums(sum[t] + lane / 8, acc[t]);
}

/* z[ROW_BLOCK] from the sums in each run of each row: as finish_sums, all rows at once. */
V_INLINE void finish_block(float *z, const int32_t (*sum)[ROW_BLOCK], const struct ml_quant_x *x,
                           const int offset) {
    float total[ROW_BLOCK];
    for (int r = 0; r < ROW_BLOCK; r++)
        total[r] = x->base;
    for (int q = 0; q < ML_QUANT_RUNS; q++) {
        const int32_t over = offset * x->sum[q];
        UNROLL
        for (int r = 0; r < ROW_BLOCK; r++) {
            const float part = (float)(sum[q][r] - over) * x->f[q];
            total[r] = total[r] + part;
        }
    }
    memcpy(z, total, sizeof total);
}

/* ROW_BLOCK rows of the panel by n rows of x, X_AT_ONCE at most: a stretch of both that fits L1 at a time. */
V_INLINE void panel_block(float *z, size_t ldz, const uint8_t *panel, size_t r, const struct ml_quant_x *x,
                          size_t n, size_t steps, const bool wide) {
    int32_t sum[X_AT_ONCE][8][ROW_BLOCK];
    memset(sum, 0, n * sizeof *sum);
    for (size_t i = 0; i < steps; i += STEPS_AT_ONCE) {
        const uint8_t *w = panel + (r * steps + i * ROW_BLOCK) * LINE;
        const size_t some = steps - i < STEPS_AT_ONCE ? steps - i : STEPS_AT_ONCE;
        size_t t = 0;
        for (; t + X_BLOCK <= n; t += X_BLOCK)
            for (size_t lane = 0; lane < LINE; lane += LANE_BYTES)
                panel_tile(sum + t, w + lane, x + t, lane, i, some, X_BLOCK, wide);
        for (; t < n; t++)
            for (size_t lane = 0; lane < LINE; lane += LANE_BYTES)
                panel_tile(sum + t, w + lane, x + t, lane, i, some, 1, wide);
    }
    for (size_t t = 0; t < n; t++)
        finish_block(z + t * ldz + r, sum[t], &x[t], wide ? 0 : Q_OFFSET);
}

/* A few rows of x at a time go past the whole panel, and stay in L2 meanwhile. */
static void multiply(float *z, size_t ldz, const uint8_t *panel, const struct ml_quant_x *x, size_t n,
                     size_t steps, bool wide) {
    for (size_t t = 0; t < n; t += X_AT_ONCE) {
        const size_t rows = n - t < X_AT_ONCE ? n - t : X_AT_ONCE;
        for (size_t r = 0; r < STRIP; r += ROW_BLOCK) {
            if (wide)
                panel_block(z + t * ldz, ldz, panel, r, x + t, rows, steps, true);
            else
                panel_block(z + t * ldz, ldz, panel, r, x + t, rows, steps, false);
        }
    }
}

static void quant_dots(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s, size_t strips,
                       const struct ml_quant_x *x, size_t n, void *scratch) {
    const bool wide = m->format == ML_QUANT_EXL3;
    for (size_t i = 0; i < strips; i++) {
        for (size_t t = 0; m->format == ML_QUANT_INT8 && t < n; t++)
            int8_dot(z + t * ldz + i * STRIP, m, s + i, &x[t]);
        if (m->format == ML_QUANT_INT8) continue;
        make_panel(scratch, m, s + i);
        multiply(z + i * STRIP, ldz, scratch, x, n, m->k / (wide ? 32 : 64), wide);
    }
}

static void quant_few(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                      const struct ml_quant_x *x, size_t n, void *scratch) {
    if (m->format == ML_QUANT_TAP)
        tap_dot(z, ldz, m, s, x, n);
    else
        quant_dots(z, ldz, m, s, 1, x, n, scratch);
}

static void quant_round(struct ml_quant_x *x, const struct ml_quant_matrix *m, enum ml_quant_rows rows,
                        const float *rotated) {
    round_x(x, m, rows, rotated, MANY_AS_FEW);
}

static void quant_fill(struct ml_kernels *k) {
    k->quant.rotate = quant_rotate;
    k->quant.round = quant_round;
    k->quant.unrotate = quant_unrotate;
    k->quant.dot = quant_dot;
    k->quant.few = quant_few;
    k->quant.dots = quant_dots;
    k->quant.decode = ml_quant_decode;
    k->quant.arrange = ml_quant_interleave;
}

#endif
