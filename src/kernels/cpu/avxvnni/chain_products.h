/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with chains (chain.h): of one row of x, of a few, and panels for many.
 *
 * One or two passes over a strip, so that sums and tables stay in registers: at 2 bits one for all rows, else
 * one for rows 0 .. 7 and one for 8 .. 15. Sums of a pass:
 *
 *     k = 2         acc[i], i < 4     qword p: row 4 p + i        both halves of the tiles
 *     k = 4         acc[i], i < 2     qword p: row 2 p + i        units `pass` and `pass` + 2
 *     k = 3, 5, 6   acc[0] + acc[1]   dword p: row p              unit `pass`
 */
#ifndef ML_KERNELS_CPU_AVXVNNI_CHAIN_PRODUCTS_H
#define ML_KERNELS_CPU_AVXVNNI_CHAIN_PRODUCTS_H

#include "kernels/cpu/avxvnni/chain.h"

enum { CHAIN_ACCS = 4, CHAIN_VECTORS = 8 };

#define CHAIN_PASSES(k)     ((k) == 2 ? 1 : 2)
#define CHAIN_OF_PASS(k)    (CHAIN_UNITS(k) / CHAIN_PASSES(k)) /* units */
#define CHAIN_UNIT(k, p, i) ((k) == 2 ? (i) : (p) + 2 * (i))   /* the i-th of pass p */
#define CHAIN_TIMES(k)      ((k) == 4 ? 2 : 1)                 /* tiles of a turn that has 8 vectors */
#define CHAIN_ACC(k, step)  (CHAIN_COLUMNS(k) ? (step) : (step) % 2)

/* Fetches the next strip, each pass its share of it as the one stream that it is: what follows turn i. */
V_INLINE void chain_fetch(const uint8_t *next, size_t i, const int k, const int times) {
    const int share = CHAIN_BYTES(k) / CHAIN_PASSES(k), bytes = times * share;
    UNROLL
    for (int at = 0; at < bytes; at += LINE)
        __builtin_prefetch(next + i * (size_t)share + at);
}

/* ---- z of a pass ----
 *
 * Rows 0 .. 7 in z[0]; at 2 bits rows 4 p, 4 p + 1 in z[0] and 4 p + 2, 4 p + 3 in z[1]. */

struct chain_z {
    __m256 z[2];
};

/* The sums of both dwords of each qword, of a in the lower one, of b in the upper one. */
V_INLINE vq paired_sums(vq a, vq b) {
    const vq low = _mm256_add_epi32(a, _mm256_srli_epi64(a, 32));
    const vq high = _mm256_add_epi32(b, _mm256_slli_epi64(b, 32));
    return _mm256_blend_epi32(low, high, 0xaa);
}

V_INLINE __m256 add_run(__m256 z, vq sum, const struct ml_quant_x *x, size_t q, const int offset) {
    const vq whole = _mm256_sub_epi32(sum, _mm256_set1_epi32(offset * x->sum[q]));
    return _mm256_add_ps(z, _mm256_mul_ps(_mm256_cvtepi32_ps(whole), _mm256_set1_ps(x->f[q])));
}

V_INLINE void chain_add(struct chain_z *z, const vq *acc, const struct ml_quant_x *x, size_t q,
                        const int offset, const int k) {
    const vq first = CHAIN_COLUMNS(k) ? paired_sums(acc[0], acc[1]) : _mm256_add_epi32(acc[0], acc[1]);
    z->z[0] = add_run(z->z[0], first, x, q, offset);
    if (k == 2) z->z[1] = add_run(z->z[1], paired_sums(acc[2], acc[3]), x, q, offset);
}

V_INLINE void chain_store(float *out, const struct chain_z *z, const int k, const int pass) {
    if (k != 2) {
        _mm256_storeu_ps(out + 8 * pass, z->z[0]);
        return;
    }
    const __m256d a = _mm256_castps_pd(z->z[0]), b = _mm256_castps_pd(z->z[1]);
    const __m256 even = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b)); /* p = 0 and 2 */
    const __m256 odd = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
    _mm256_storeu_ps(out, _mm256_permute2f128_ps(even, odd, 0x20));
    _mm256_storeu_ps(out + 8, _mm256_permute2f128_ps(even, odd, 0x31));
}

V_INLINE struct chain_z chain_base(const struct ml_quant_x *x) {
    const struct chain_z z = {{_mm256_set1_ps(x->base), _mm256_set1_ps(x->base)}};
    return z;
}

/* ---- one row of x: magnitudes by x with the sign of the value ---- */

/* Indices of all steps come first and then the lookups, at least 8 of them: so indices are ready when they
 * are wanted, and little has to wait in the processor's queues. Compilers would mix both again but for the
 * empty assembly. `times` tiles (pairs of them where lanes are rows). */
V_INLINE void chain_turn(vq *acc, const struct chain *c, const uint8_t *w, const int8_t *a, const int k,
                         const int pass, const int window, const int times) {
    const int units = CHAIN_OF_PASS(k), all = times * units;
    const int steps = CHAIN_STEPS_OF(k), vectors = all * steps;
    vq folded[CHAIN_VECTORS];
    UNROLL
    for (int v = 0; v < all; v++) {
        const uint8_t *tile = w + v / units * CHAIN_BYTES(k);
        const struct unit u = load_unit(tile, k, CHAIN_UNIT(k, pass, v % units));
        UNROLL
        for (int i = 0; i < steps; i++) {
            folded[v * steps + i] = folded_index(c, &u, k, i, window);
            __asm__ volatile("" : "+x"(folded[v * steps + i]));
        }
    }
    UNROLL
    for (int i = 0; i < vectors; i++) {
        const int step = i % steps, v = CHAIN_UNIT(k, pass, i / steps % units);
        const int8_t *columns = a + i / steps / units * 16 * CHAIN_TILES(k);
        const vq in = with_sign(chain_in(columns, k, v, step), folded[i], k);
        acc[CHAIN_ACC(k, step)] = dot_bytes(acc[CHAIN_ACC(k, step)], magnitude(c, folded[i], k), in);
    }
}

V_INLINE void chain_dot_pass(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x,
                             const int k, const int pass, const int window) {
    const struct chain *c = constants_of(x, m->k);
    const size_t turns = m->k / 128 / CHAIN_TILES(k);
    const uint8_t *w = strip_at(m, s);
    const uint8_t *next = strip_at(m, s + 1) + (size_t)pass * (m->k * (size_t)k);
    const int8_t *a = x->a;
    struct chain_z sum = chain_base(x);
    for (size_t q = 0; q < ML_QUANT_RUNS; q++) {
        vq acc[CHAIN_ACCS] = {q_zero(), q_zero(), q_zero(), q_zero()};
        size_t t = k == 4 ? turns % 2 : 0;
        if (t) chain_turn(acc, c, w, a, k, pass, window, 1);
        for (; t < turns; t += CHAIN_TIMES(k)) {
            chain_fetch(next, q * turns + t, k, CHAIN_TIMES(k));
            chain_turn(acc, c, w + t * CHAIN_BYTES(k), a + t * 16 * CHAIN_TILES(k), k, pass, window,
                       CHAIN_TIMES(k));
        }
        w += turns * CHAIN_BYTES(k);
        a += turns * 16 * CHAIN_TILES(k);
        chain_add(&sum, acc, x, q, 0, k);
    }
    chain_store(z, &sum, k, pass);
}

V_INLINE void chain_dot_k(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x,
                          const int k, const int window) {
    chain_dot_pass(z, m, s, x, k, 0, window);
    if (CHAIN_PASSES(k) == 2) chain_dot_pass(z, m, s, x, k, 1, window);
}

/* ---- more rows of x: values + Q_OFFSET, for all of them ---- */

V_INLINE void chain_values(vq *to, const struct chain *c, const uint8_t *w, const int k, const int v,
                           const int window) {
    const struct unit u = load_unit(w, k, v);
    const int steps = CHAIN_STEPS_OF(k);
    UNROLL
    for (int i = 0; i < steps; i++) {
        const vq folded = folded_index(c, &u, k, i, window);
        to[i] = q_xor(with_sign(magnitude(c, folded, k), folded, k), q_set8(Q_OFFSET));
    }
}

V_INLINE void chain_multiply(vq *acc, const vq *w, const int8_t *a, const int k, const int v) {
    const int steps = CHAIN_STEPS_OF(k);
    UNROLL
    for (int i = 0; i < steps; i++)
        acc[CHAIN_ACC(k, i)] = dot_bytes(acc[CHAIN_ACC(k, i)], w[i], chain_in(a, k, v, i));
}

V_INLINE void chain_few_pass(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                             const struct ml_quant_x *x, size_t n, const int k, const int pass,
                             const int window) {
    const struct chain *c = constants_of(x, m->k);
    const size_t turns = m->k / 128 / CHAIN_TILES(k);
    const uint8_t *w = strip_at(m, s);
    const uint8_t *next = strip_at(m, s + 1) + (size_t)pass * (m->k * (size_t)k);
    const int units = CHAIN_OF_PASS(k), steps = CHAIN_STEPS_OF(k);
    struct chain_z sum[ML_QUANT_FEW_ROWS];
    size_t at = 0;
    for (size_t j = 0; j < n; j++)
        sum[j] = chain_base(&x[j]);
    for (size_t q = 0; q < ML_QUANT_RUNS; q++) {
        vq acc[ML_QUANT_FEW_ROWS][CHAIN_ACCS], value[CHAIN_VECTORS];
        memset(acc, 0, sizeof acc);
        for (size_t t = 0; t < turns; t++, w += CHAIN_BYTES(k), at += 16 * CHAIN_TILES(k)) {
            chain_fetch(next, q * turns + t, k, 1);
            UNROLL
            for (int i = 0; i < units; i++)
                chain_values(value + i * steps, c, w, k, CHAIN_UNIT(k, pass, i), window);
            for (size_t j = 0; j < n; j++) {
                UNROLL
                for (int i = 0; i < units; i++)
                    chain_multiply(acc[j], value + i * steps, x[j].a + at, k, CHAIN_UNIT(k, pass, i));
            }
        }
        for (size_t j = 0; j < n; j++)
            chain_add(&sum[j], acc[j], &x[j], q, Q_OFFSET, k);
    }
    for (size_t j = 0; j < n; j++)
        chain_store(z + j * ldz, &sum[j], k, pass);
}

V_INLINE void chain_few_k(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                          const struct ml_quant_x *x, size_t n, const int k, const int window) {
    chain_few_pass(z, ldz, m, s, x, n, k, 0, window);
    if (CHAIN_PASSES(k) == 2) chain_few_pass(z, ldz, m, s, x, n, k, 1, window);
}

/* ---- panels, in the order of put_bytes ---- */

V_INLINE void panel_columns(uint8_t *panel, size_t halves, const vq *value, size_t q, size_t tile,
                            const int k, const int v) {
    const size_t half = 2 * tile + (size_t)(k == 2 ? v : v / 2);
    for (int i = 0; i < CHAIN_STEPS_OF(k); i++) {
        uint64_t qword[4];
        q_store(qword, value[i]);
        for (int p = 0; p < 4; p++)
            memcpy(panel_line(panel, halves, half, k == 2 ? 4 * p + i : v % 2 * 8 + 2 * p + i) + 8 * q,
                   &qword[p], 8);
    }
}

/* 8 columns of 8 rows of 4 halves, from [column][row][half] to [half, row][column]. */
V_INLINE void panel_rows(uint8_t *panel, size_t halves, const vq *value, size_t q, size_t tile, const int v) {
    vq two[8], four[8];
    for (int i = 0; i < 4; i++) { /* columns 2 i, 2 i + 1 of rows 0, 1, 4, 5 and of 2, 3, 6, 7 */
        two[i] = _mm256_unpacklo_epi8(value[2 * i], value[2 * i + 1]);
        two[4 + i] = _mm256_unpackhi_epi8(value[2 * i], value[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 2) { /* columns 0 .. 3, then 4 .. 7 of rows i / 2, i / 2 + 4 */
        const vq *from = two + i / 4 * 4;
        for (int j = 0; j < 2; j++)
            four[i + j] = i % 4 ? _mm256_unpackhi_epi16(from[2 * j], from[2 * j + 1])
                                : _mm256_unpacklo_epi16(from[2 * j], from[2 * j + 1]);
    }
    for (int i = 0; i < 4; i++) {
        uint64_t half[2][4];
        q_store(half[0], _mm256_unpacklo_epi32(four[2 * i], four[2 * i + 1]));
        q_store(half[1], _mm256_unpackhi_epi32(four[2 * i], four[2 * i + 1]));
        for (size_t j = 0; j < 4; j++) {
            uint8_t *to = panel_line(panel, halves, 2 * tile + j, 8 * v + i) + 8 * q;
            memcpy(to, &half[j / 2][j % 2], 8);
            to = panel_line(panel, halves, 2 * tile + j, 8 * v + i + 4) + 8 * q;
            memcpy(to, &half[j / 2][2 + j % 2], 8);
        }
    }
}

V_INLINE void chain_panel_k(uint8_t *panel, const struct ml_quant_matrix *m, size_t s, const int k,
                            const int window) {
    struct chain c;
    chain_constants(&c, m->code);
    const uint8_t *w = strip_at(m, s);
    const int units = CHAIN_UNITS(k);
    for (size_t q = 0; q < ML_QUANT_RUNS; q++) {
        for (size_t t = 0; t < m->k / 128; t += CHAIN_TILES(k), w += CHAIN_BYTES(k)) {
            UNROLL
            for (int v = 0; v < units; v++) {
                vq value[CHAIN_VECTORS];
                chain_values(value, &c, w, k, v, window);
                if (CHAIN_COLUMNS(k))
                    panel_columns(panel, m->k / 64, value, q, t, k, v);
                else
                    panel_rows(panel, m->k / 64, value, q, t, v);
            }
        }
    }
}

/* ---- versions: windows of up to 12 bits take fewer products than those of up to 16 ---- */

#define CHAIN_VERSION(k, window)                                                                             \
    static void chain_dot_##k##_##window(float *z, const struct ml_quant_matrix *m, size_t s,                \
                                         const struct ml_quant_x *x) {                                       \
        chain_dot_k(z, m, s, x, k, window);                                                                  \
    }                                                                                                        \
    static void chain_few_##k##_##window(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,    \
                                         const struct ml_quant_x *x, size_t n) {                             \
        chain_few_k(z, ldz, m, s, x, n, k, window);                                                          \
    }                                                                                                        \
    static void chain_panel_##k##_##window(uint8_t *panel, const struct ml_quant_matrix *m, size_t s) {      \
        chain_panel_k(panel, m, s, k, window);                                                               \
    }
#define CHAIN_VERSIONS(window)                                                                               \
    CHAIN_VERSION(2, window)                                                                                 \
    CHAIN_VERSION(3, window)                                                                                 \
    CHAIN_VERSION(4, window)                                                                                 \
    CHAIN_VERSION(5, window)                                                                                 \
    CHAIN_VERSION(6, window)
CHAIN_VERSIONS(12)
CHAIN_VERSIONS(16)

#define CHAIN_LIST(entry, window)                                                                            \
    {                                                                                                        \
        chain_##entry##_2_##window, chain_##entry##_3_##window, chain_##entry##_4_##window,                  \
            chain_##entry##_5_##window, chain_##entry##_6_##window                                           \
    }

static void chain_dot(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x) {
    static dot_fn *const version[2][5] = {CHAIN_LIST(dot, 12), CHAIN_LIST(dot, 16)};
    version[m->code->window > 12][m->bits - 2](z, m, s, x);
}

static void chain_few(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                      const struct ml_quant_x *x, size_t n) {
    static few_fn *const version[2][5] = {CHAIN_LIST(few, 12), CHAIN_LIST(few, 16)};
    version[m->code->window > 12][m->bits - 2](z, ldz, m, s, x, n);
}

static void chain_panel(uint8_t *panel, const struct ml_quant_matrix *m, size_t s) {
    static panel_fn *const version[2][5] = {CHAIN_LIST(panel, 12), CHAIN_LIST(panel, 16)};
    version[m->code->window > 12][m->bits - 2](panel, m, s);
}

#endif
