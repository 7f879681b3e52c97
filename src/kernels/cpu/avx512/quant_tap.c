/* SPDX-License-Identifier: Apache-2.0
 *
 * Tap tiles on AVX-512: 64 weights of 8 tiles a lookup, 16 row accumulators. Port counts are in
 * bench/results/quant-kernels.md.
 */
#include "kernels/cpu/avx512/quant_few.h"
#include "kernels/cpu/quant_tap_simd.h"
#include "kernels/cpu/unroll_simd.h"

/* The table with 128 added, repeated to 2^p entries when the code has fewer. */
V_INLINE struct lut table_of(const struct ml_tap_code *code, const int p) {
    if (code->index_bits == p) {
        struct lut l = q_lut((const uint8_t *)code->table, p);
        for (int i = 0; i < 1 << (p - 6); i++)
            l.t[i] = q_xor(l.t[i], q_set8(0x80));
        return l;
    }
    uint8_t table[256];
    for (int i = 0; i < 1 << p; i++)
        table[i] = (uint8_t)(code->table[i & ((1 << code->index_bits) - 1)] + 128);
    return q_lut(table, p);
}

V_INLINE void dot_k(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x,
                    const int k, const int p, const bool three) {
    const uint8_t *w = strip_at(m, s);
    const int8_t *a = x->a;
    const struct taps taps = q_taps(m->code);
    const struct lut lut = table_of(m->code, p);
    vq acc[16] = ROWS_16(ROW_ZERO);
#define SINK(row, index) acc[row] = q_dot(acc[row], q_lookup(&lut, index, p), in)
    for (size_t g = 0; g < m->k / 128; g++, w += 256 * k, a += 128) {
        const vq first = q_load(w);
        vq now = first, in = q_load(a);
        UNROLL
        for (int i = 0; i < 4 * k; i++)
            _mm_prefetch((const char *)w + PREFETCH + 64 * i, _MM_HINT_T0);
        TAP_HALF(SINK, k, p, three, &taps, w, now, false, first);
        in = q_load(a + 64);
        TAP_HALF(SINK, k, p, three, &taps, w + 128 * k, now, true, first);
    }
#undef SINK
    const vq sums[16] = ROWS_16(ROW_OF);
    finish_rows(z, sums, x, Q_OFFSET);
}

/* `few` for part `part` of unit `unit` of each half of a tile: `rows` of its rows. */
V_INLINE void part_k(const struct few_call *c, const int k, const int p, const bool three, size_t unit,
                     const int part, const int rows, const int tokens) {
    const uint8_t *w = strip_at(c->m, c->s) + c->g * 256 * k;
    const struct taps taps = q_taps(c->m->code);
    const struct lut lut = table_of(c->m->code, p);
    const size_t half = 128 * (size_t)k, bytes = 64 * (size_t)TAP_UNIT_WORDS(k), own = unit * bytes;
    const size_t after = own + bytes, last = after == half ? 0 : half + after;
    const size_t row = unit * (size_t)TAP_UNIT_ROWS(k) + (size_t)(part * rows);
    struct pass_sums sums;
    pass_begin(&sums, c, row, 1, rows, tokens);
#define SINK(row, index)                                                                                     \
    if ((row) / rows == part) in[(row) % rows] = q_lookup(&lut, index, p)
    for (size_t i = 0, at = c->g * 128; i < c->count; i++, w += 2 * half, at += 128) {
        vq in[MOST_ROWS];
        pass_prefetch(w + c->count * 2 * half, 4 * k, row / (size_t)rows, STRIP / rows);
        TAP_UNIT(SINK, k, p, three, &taps, w + own, w + after);
        pass_multiply(&sums, in, c, at, rows, tokens, false);
        TAP_UNIT(SINK, k, p, three, &taps, w + half + own, w + last);
        pass_multiply(&sums, in, c, at + 64, rows, tokens, false);
    }
#undef SINK
    pass_end(&sums, c, row, 1, rows, tokens);
}

/* All rows of a unit, at most `most` at a time. */
V_INLINE void unit_k(const struct few_call *c, const int k, const int p, const bool three, size_t unit,
                     const int most, const int tokens) {
    const int all = TAP_UNIT_ROWS(k), rows = all < most ? all : most;
    part_k(c, k, p, three, unit, 0, rows, tokens);
    if (all > rows) part_k(c, k, p, three, unit, 1, rows, tokens);
    if (all > 2 * rows) part_k(c, k, p, three, unit, 2, rows, tokens);
    if (all > 2 * rows) part_k(c, k, p, three, unit, 3, rows, tokens);
}

/* Two rows of x go by 8 rows of weights, but at 3 bits by 4: 8 have more constants than
 * there are registers. */
V_INLINE void few_k(const struct few_call *c, const int size, const int k, const int p, const bool three) {
    for (size_t unit = 0; unit < (size_t)(STRIP / TAP_UNIT_ROWS(k)); unit++) {
        if (size == 0)
            unit_k(c, k, p, three, unit, k == 3 ? 4 : 8, 2);
        else if (size == 1)
            unit_k(c, k, p, three, unit, 4, 4);
        else
            unit_k(c, k, p, three, unit, 2, 8);
    }
}

V_INLINE void panel_half(uint8_t *panel, const vq rows[16], size_t run, size_t quad) {
    vq low[8], high[8];
    transpose_rows(low, high, rows);
    for (size_t q = 0; q < 8; q++) {
        uint8_t *to = panel + (q * run + quad) * PANEL_BYTES;
        q_store(to, low[q]);
        q_store(to + PANEL_BYTES, high[q]);
    }
}

V_INLINE void panel_k(uint8_t *panel, const struct ml_quant_matrix *m, size_t s, const uint8_t *ahead,
                      const int k, const int p, const bool three) {
    const uint8_t *w = strip_at(m, s);
    const size_t run = m->k / 32; /* quads */
    const struct taps taps = q_taps(m->code);
    const struct lut lut = table_of(m->code, p);
    vq rows[16];
#define SINK(row, index) rows[row] = q_lookup(&lut, index, p)
    for (size_t g = 0; g < m->k / 128; g++, w += 256 * k, ahead += 128 * k) {
        const vq first = q_load(w);
        vq now = first;
        UNROLL
        for (int i = 0; i < 2 * k; i++)
            _mm_prefetch((const char *)ahead + 64 * i, _MM_HINT_T1);
        TAP_HALF(SINK, k, p, three, &taps, w, now, false, first);
        panel_half(panel, rows, run, 4 * g);
        TAP_HALF(SINK, k, p, three, &taps, w + 128 * k, now, true, first);
        panel_half(panel, rows, run, 4 * g + 2);
    }
#undef SINK
}

/* Versions by bits, index bits and taps: 2 bits with an index of 6 (or less), 3 and 4 bits with 7 (or less),
 * 8 for the rest. A tap of 0 adds S once more: two of them cancel, so one tap is three and two are two. */
#define VERSION(k, p)                                                                                        \
    static void dot_##k##_##p(float *z, const struct ml_quant_matrix *m, size_t s,                           \
                              const struct ml_quant_x *x) {                                                  \
        if (m->code->taps[2] || !m->code->taps[1])                                                           \
            dot_k(z, m, s, x, k, p, true);                                                                   \
        else                                                                                                 \
            dot_k(z, m, s, x, k, p, false);                                                                  \
    }                                                                                                        \
    static void panel_##k##_##p(uint8_t *panel, const struct ml_quant_matrix *m, size_t s,                   \
                                const uint8_t *ahead) {                                                      \
        if (m->code->taps[2] || !m->code->taps[1])                                                           \
            panel_k(panel, m, s, ahead, k, p, true);                                                         \
        else                                                                                                 \
            panel_k(panel, m, s, ahead, k, p, false);                                                        \
    }                                                                                                        \
    static void few_##k##_##p(const struct few_call *c, int size) {                                          \
        if (c->m->code->taps[2] || !c->m->code->taps[1])                                                     \
            few_k(c, size, k, p, true);                                                                      \
        else                                                                                                 \
            few_k(c, size, k, p, false);                                                                     \
    }
VERSION(2, 6)
VERSION(2, 8)
VERSION(3, 7)
VERSION(3, 8)
VERSION(4, 7)
VERSION(4, 8)
VERSION(5, 8)
VERSION(6, 8)

typedef void dot_fn(float *, const struct ml_quant_matrix *, size_t, const struct ml_quant_x *);
typedef void panel_fn(uint8_t *, const struct ml_quant_matrix *, size_t, const uint8_t *);
typedef void few_fn(const struct few_call *, int);

void ml_avx512_tap_dot(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x) {
    static dot_fn *const small[] = {dot_2_6, dot_3_7, dot_4_7, dot_5_8, dot_6_8};
    static dot_fn *const wide[] = {dot_2_8, dot_3_8, dot_4_8, dot_5_8, dot_6_8};
    const bool is_small = m->code->index_bits <= (m->bits == 2 ? 6 : 7);
    (is_small ? small : wide)[m->bits - 2](z, m, s, x);
}

void ml_avx512_tap_panel(uint8_t *panel, const struct ml_quant_matrix *m, size_t s, const uint8_t *ahead) {
    static panel_fn *const small[] = {panel_2_6, panel_3_7, panel_4_7, panel_5_8, panel_6_8};
    static panel_fn *const wide[] = {panel_2_8, panel_3_8, panel_4_8, panel_5_8, panel_6_8};
    const bool is_small = m->code->index_bits <= (m->bits == 2 ? 6 : 7);
    (is_small ? small : wide)[m->bits - 2](panel, m, s, ahead);
}

void ml_avx512_tap_few(const struct few_call *c, int size) {
    static few_fn *const small[] = {few_2_6, few_3_7, few_4_7, few_5_8, few_6_8};
    static few_fn *const wide[] = {few_2_8, few_3_8, few_4_8, few_5_8, few_6_8};
    const bool is_small = c->m->code->index_bits <= (c->m->bits == 2 ? 6 : 7);
    (is_small ? small : wide)[c->m->bits - 2](c, size);
}
