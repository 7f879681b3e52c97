/* SPDX-License-Identifier: Apache-2.0
 *
 * Many rows of x on AVX-512: 64 rows of weights are decoded once into a panel that stays in L2, then
 * multiplied by tiles of 6 rows of x, a run of columns at a time, so that a run's part of the panel stays in
 * L1. A lane is a row of weights; one 32-bit group of columns of x is broadcast to all.
 *
 *     panel   run 0: group 0 [64 rows][4 bytes], group 1 ...  | run 1 ...       groups: 4 columns of bytes,
 *             or 2 columns of int16 (EXL3)
 */
#include "kernels/cpu/avx512/quant.h"
#include "kernels/cpu/unroll_simd.h"

#include <string.h>

enum { TOKENS = 6 };

/* The sums of 64 rows with one row of x. Members, not an array: gcc leaves arrays in memory. */
struct sums {
    __m512i v0, v1, v2, v3;
};

V_INLINE struct sums sums_of(int32_t start) {
    const __m512i v = _mm512_set1_epi32(start);
    const struct sums s = {v, v, v, v};
    return s;
}

V_INLINE __m512i multiply_lanes(const bool wide, __m512i acc, __m512i w, __m512i in) {
    return wide ? q_dot16(acc, w, in) : q_dot(acc, w, in);
}

V_INLINE void add_sums(float *z, const struct sums *s, const struct ml_quant_x *x, int q, bool first) {
    add_vector(z, s->v0, x->f[q], x->base, first);
    add_vector(z + VL, s->v1, x->f[q], x->base, first);
    add_vector(z + 2 * VL, s->v2, x->f[q], x->base, first);
    add_vector(z + 3 * VL, s->v3, x->f[q], x->base, first);
}

#define EACH_TOKEN(f) f(0) f(1) f(2) f(3) f(4) f(5)

/* One run of `groups` groups: z[t][64] += f * (sums - offset * sum of x), beginning at base. */
V_INLINE void run_tile(const int tokens, const bool wide, float *const *z, const uint8_t *panel,
                       const int8_t *const *a, size_t groups, const struct ml_quant_x *x, int q, bool first) {
#define START(t)                                                                                             \
    struct sums s##t = sums_of(wide || tokens <= t ? 0 : -Q_OFFSET * x[t].sum[q]);                           \
    const int8_t *a##t = a[tokens > t ? t : tokens - 1];
    EACH_TOKEN(START)
    for (size_t i = 0; i < groups; i++, panel += PANEL_BYTES) {
        const __m512i w0 = q_load(panel), w1 = q_load(panel + 64);
        const __m512i w2 = q_load(panel + 128), w3 = q_load(panel + 192);
#define STEP(t)                                                                                              \
    if (t < tokens) {                                                                                        \
        int32_t group;                                                                                       \
        memcpy(&group, a##t + 4 * i, sizeof group);                                                          \
        const __m512i in = _mm512_set1_epi32(group);                                                         \
        s##t.v0 = multiply_lanes(wide, s##t.v0, w0, in);                                                     \
        s##t.v1 = multiply_lanes(wide, s##t.v1, w1, in);                                                     \
        s##t.v2 = multiply_lanes(wide, s##t.v2, w2, in);                                                     \
        s##t.v3 = multiply_lanes(wide, s##t.v3, w3, in);                                                     \
    }
        EACH_TOKEN(STEP)
    }
#define FINISH(t)                                                                                            \
    if (t < tokens) add_sums(z[t], &s##t, &x[t], q, first);
    EACH_TOKEN(FINISH)
#undef START
#undef STEP
#undef FINISH
}

static void run_tokens(size_t tokens, bool wide, float *const *z, const uint8_t *panel,
                       const int8_t *const *a, size_t groups, const struct ml_quant_x *x, int q) {
#define CALL(n)                                                                                              \
    if (wide)                                                                                                \
        run_tile(n, true, z, panel, a, groups, x, q, q == 0);                                                \
    else                                                                                                     \
        run_tile(n, false, z, panel, a, groups, x, q, q == 0)
    FOR_TOKENS(tokens, CALL)
#undef CALL
}

/* 16 rows of bytes, zeros past the matrix: rows and columns. */
static void int8_panel(uint8_t *panel, const struct ml_quant_matrix *m, size_t s, const uint8_t *ahead) {
    const size_t rows = m->n - s * STRIP < STRIP ? m->n - s * STRIP : STRIP;
    for (size_t c = 0; c < m->k; c += 64) {
        const size_t left = m->k - c;
        const __mmask64 mask = left < 64 ? ((__mmask64)1 << left) - 1 : ~(__mmask64)0;
        __m512i row[16], low[8], high[8];
        fetch_ahead(ahead + 8 * c, 512);
        for (size_t r = 0; r < 16; r++)
            row[r] =
                r < rows
                    ? _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, m->data + (s * STRIP + r) * m->k + c),
                                       q_set8(0x80))
                    : q_zero();
        transpose_rows(low, high, row);
        for (size_t i = 0; i < 8; i++) {
            q_store(panel + (c / 4 + 2 * i) * PANEL_BYTES, low[i]);
            q_store(panel + (c / 4 + 2 * i + 1) * PANEL_BYTES, high[i]);
        }
    }
}

void ml_avx512_byte_panel(uint8_t *panel, const struct ml_quant_matrix *m, size_t s, const uint8_t *ahead) {
    if (m->format == ML_QUANT_INT8)
        int8_panel(panel, m, s, ahead);
    else if (m->format == ML_QUANT_TAP)
        ml_avx512_tap_panel(panel, m, s, ahead);
    else
        ml_avx512_exl3_byte_panel(panel, m, s);
}

static void make_panel(uint8_t *panel, const struct ml_quant_matrix *m, size_t s, const uint8_t *ahead) {
    if (m->format == ML_QUANT_INT8)
        int8_panel(panel, m, s, ahead);
    else if (m->format == ML_QUANT_TAP)
        ml_avx512_tap_panel(panel, m, s, ahead);
    else
        ml_avx512_exl3_panel(panel, m, s);
}

/* Panel against every row of x, one run after the other, in each of which an equal share of `bytes` bytes is
 * fetched ahead. */
static void multiply(float *z, size_t ldz, const struct ml_quant_matrix *m, const uint8_t *panel,
                     const struct ml_quant_x *x, size_t n, const uint8_t *ahead, size_t bytes) {
    const bool wide = m->format == ML_QUANT_EXL3;
    const int runs = m->format == ML_QUANT_INT8 ? 1 : ML_QUANT_RUNS;
    const size_t run = runs == 1 ? (m->k + 63) / 64 * 64 : m->k / ML_QUANT_RUNS;
    const size_t groups = wide ? run / 2 : run / 4, tiles = (n + TOKENS - 1) / TOKENS;
    const size_t share = bytes / ((size_t)runs * tiles) / 64 * 64 + 64;
    for (int q = 0; q < runs; q++) {
        for (size_t t0 = 0; t0 < n; t0 += TOKENS, ahead += share) {
            fetch_ahead(ahead, share);
            const size_t tokens = n - t0 < TOKENS ? n - t0 : TOKENS;
            const int8_t *a[TOKENS];
            float *to[TOKENS];
            for (size_t t = 0; t < tokens; t++) {
                a[t] = x[t0 + t].a + (size_t)q * groups * 4;
                to[t] = z + (t0 + t) * ldz;
            }
            run_tokens(tokens, wide, to, panel + (size_t)q * groups * PANEL_BYTES, a, groups, x + t0, q);
        }
    }
}

void ml_avx512_quant_dots(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s, size_t strips,
                          const struct ml_quant_x *x, size_t n, void *scratch) {
    const size_t of_panel = PANEL_ROWS / STRIP, half = strip_bytes(m) / 2;
    uint8_t *panel = scratch;
    for (size_t i = 0; i < strips; i += of_panel) {
        const uint8_t *next = weights_at(m, s + i + of_panel);
        for (size_t j = i; j < strips && j < i + of_panel; j++)
            make_panel(panel + (j - i) * 64, m, s + j, next + (j - i) * half);
        multiply(z + i * STRIP, ldz, m, panel, x, n, next + of_panel * half, of_panel * half);
    }
}
