/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoding a strip of 16 rows once for many rows of x, over the vocabulary of a tier (its qvec.h) that has
 * fewer than 8 lanes of 64 bits: passes over LQ runs at a time. In which order whole numbers lie is for the
 * includer to define: put_bytes and put_whole.
 */
#ifndef ML_KERNELS_CPU_QUANT_PANEL_SIMD_H
#define ML_KERNELS_CPU_QUANT_PANEL_SIMD_H

#include "kernels/cpu/quant_tap_simd.h"
#include "kernels/cpu/unroll_simd.h"

enum { LANE_BYTES = 8 * LQ, STRIP = ML_QUANT_STRIP, LINE = 64 };

/* Columns 8 half .. 8 half + 7 of a row in LQ runs, from run lane / 8 on: a byte each (TAP). */
V_INLINE void put_bytes(uint8_t *panel, size_t k, size_t lane, size_t half, int row, vq v);
/* Quarter i of tile g = quarter / 4 of a row in LQ runs, from run lane / 8 on: columns 16 g + 2 i, 2 i + 1,
 * 2 i + 8, 2 i + 9 as int16 (EXL3). */
V_INLINE void put_whole(uint8_t *panel, size_t k, size_t lane, size_t quarter, int row, vq v);

V_INLINE const uint8_t *strip_at(const struct ml_quant_matrix *m, size_t s) {
    return (const uint8_t *)m->arranged + s * m->k * 2 * (size_t)m->bits;
}

/* ---- TAP ---- */

/* The entries that `entry_of` looks up by an index of p bits: all, or the lower half of a mirrored table. A
 * table of fewer entries repeats, and stays mirrored. */
V_INLINE struct lut table_of(const struct ml_tap_code *code, const int p, const bool mirrored) {
    const int bits = mirrored ? p - 1 : p;
    int8_t table[256];
    for (int i = 0; i < 1 << bits; i++)
        table[i] = (int8_t)(code->table[i & ((1 << code->index_bits) - 1)] + Q_OFFSET);
    return q_lut(table, bits);
}

/* Entries of indices from TAP_HALF, with whatever lies above their p bits. */
V_INLINE vq entry_of(const struct lut *lut, vq index, const int p, const bool mirrored) {
    return mirrored ? q_lookup_mirrored(lut, index, p) : q_lookup(lut, q_clean(index, p), p);
}

V_INLINE void tap_panel_k(uint8_t *panel, const struct ml_quant_matrix *m, size_t s, const int k, const int p,
                          const bool three, const bool mirrored) {
    const struct taps taps = q_taps(m->code);
    const struct lut lut = table_of(m->code, p, mirrored);
    for (size_t lane = 0; lane < LINE; lane += LANE_BYTES) {
        const uint8_t *w = strip_at(m, s) + lane;
#define SINK(row, index)                                                                                     \
    put_bytes(panel, m->k, lane, half, row, q_columns(entry_of(&lut, index, p, mirrored), k, p))
        for (size_t g = 0; g < m->k / 128; g++, w += 256 * k) {
            const vq first = q_load(w);
            vq now = first;
            size_t half = 2 * g;
            TAP_HALF(SINK, k, p, three, &taps, w, now, false, first);
            half++;
            TAP_HALF(SINK, k, p, three, &taps, w + 128 * k, now, true, first);
        }
#undef SINK
    }
}

/* ---- EXL3: see cpu/avx512/quant_exl3.c for what a vector of states holds ---- */

V_INLINE vq exl3_states(const vq *w, const int K, const int l, const int half) {
    const int start = 64 + (8 * l + 4 * half + 1) * K - 16, at = start % 64;
    if (at + 3 * K + 16 <= 64) return q_words(w[start / 64], at, K);
    const vshift down = q_shift(64 - (unsigned)at);
    return q_words(q_funnel(w[start / 64 + 1], w[start / 64], down), 0, K);
}

/* Whole numbers of 4 LQ states as int16. */
V_INLINE vq exl3_whole(const enum ml_exl3_codebook cb, vq s) {
    const uint32_t m = cb == ML_EXL3_MUL1  ? ML_EXL3_MUL1_MULTIPLIER
                       : cb == ML_EXL3_MCG ? ML_EXL3_MCG_MULTIPLIER
                                           : ML_EXL3_3INST_MULTIPLIER;
    vq lo = h_mullo(s, h_set((short)m));
    vq hi = h_add(h_mulhi(s, h_set((short)m)), h_mullo(s, h_set((short)(m >> 16))));
    if (cb == ML_EXL3_MUL1) return h_add(h_add(h_byte_sum(lo), h_byte_sum(hi)), h_set(-510));
    if (cb == ML_EXL3_3INST) {
        const uint32_t add = ML_EXL3_3INST_ADDEND;
        const vq whole = h_at_most(lo, h_set((short)(0xffff - (add & 0xffff)))); /* -1: nothing to carry */
        hi = h_add(h_add(hi, h_set((short)((add >> 16) + 1))), whole);
        lo = h_add(lo, h_set((short)add));
    }
    return h_add(h_half(q_xor(lo, h_set(0x3b60))), h_half(q_xor(hi, h_set(0x3b60))));
}

/* Calls SINK(row, i, whole numbers) for the 16 x 4 vectors of a group at w; `before` is its last word. */
#define EXL3_GROUP(SINK, K, cb, w, before)                                                                   \
    do {                                                                                                     \
        vq word_[9];                                                                                         \
        word_[0] = before;                                                                                   \
        for (int p_ = 0; p_ < 4; p_++, (w) += LINE * (K)) {                                                  \
            UNROLL                                                                                           \
            for (int i_ = 0; i_ < (K); i_++)                                                                 \
                word_[1 + i_] = q_load((w) + LINE * i_);                                                     \
            UNROLL                                                                                           \
            for (int l_ = 0; l_ < 8; l_++) {                                                                 \
                SINK(2 * p_ + l_ / 4, l_ % 4, exl3_whole(cb, exl3_states(word_, K, l_, 0)));                 \
                SINK(2 * p_ + l_ / 4 + 8, l_ % 4, exl3_whole(cb, exl3_states(word_, K, l_, 1)));             \
            }                                                                                                \
            word_[0] = word_[K];                                                                             \
        }                                                                                                    \
    } while (0)

V_INLINE void exl3_panel_k(uint8_t *panel, const struct ml_quant_matrix *m, size_t s, const int K,
                           const enum ml_exl3_codebook cb) {
    for (size_t lane = 0; lane < LINE; lane += LANE_BYTES) {
        const uint8_t *w = strip_at(m, s) + lane;
#define SINK(row, i, v) put_whole(panel, m->k, lane, 4 * g + (size_t)(i), row, v)
        for (size_t g = 0; g < m->k / 128; g++)
            EXL3_GROUP(SINK, K, cb, w, q_load(w + LINE * (4 * K - 1)));
#undef SINK
    }
}

/* ---- versions: a narrow one of each width for codes like the library's, of 6 (2 bits), 7 (3, 4 bits) or 8
 * index bits at most and, from MIRRORED_FROM on, with a mirrored table; a wide one for any code. A tap of 0
 * adds S once more: two of them cancel, so one tap is three and two are two. */

#define NARROW_VERSIONS(VERSION)                                                                             \
    VERSION(narrow, 2, 6, 6 >= MIRRORED_FROM)                                                                \
    VERSION(narrow, 3, 7, 7 >= MIRRORED_FROM)                                                                \
    VERSION(narrow, 4, 7, 7 >= MIRRORED_FROM)                                                                \
    VERSION(narrow, 5, 8, 8 >= MIRRORED_FROM)                                                                \
    VERSION(narrow, 6, 8, 8 >= MIRRORED_FROM)
#define WIDE_VERSIONS(VERSION)                                                                               \
    VERSION(wide, 2, 8, false)                                                                               \
    VERSION(wide, 3, 8, false)                                                                               \
    VERSION(wide, 4, 8, false)                                                                               \
    VERSION(wide, 5, 8, false)                                                                               \
    VERSION(wide, 6, 8, false)

#define TAP_LIST(kind, name)                                                                                 \
    {                                                                                                        \
        tap_##kind##_##name##_2, tap_##kind##_##name##_3, tap_##kind##_##name##_4, tap_##kind##_##name##_5,  \
            tap_##kind##_##name##_6                                                                          \
    }

V_INLINE bool is_narrow(const struct ml_quant_matrix *m) {
    const int p = m->bits == 2 ? 6 : m->bits <= 4 ? 7 : 8;
    return m->code->index_bits <= p && (m->mirrored || p < MIRRORED_FROM);
}

typedef void panel_fn(uint8_t *, const struct ml_quant_matrix *, size_t);

#define TAP_PANEL(name, k, p, mirrored)                                                                      \
    static void tap_panel_##name##_##k(uint8_t *panel, const struct ml_quant_matrix *m, size_t s) {          \
        if (m->code->taps[2] || !m->code->taps[1])                                                           \
            tap_panel_k(panel, m, s, k, p, true, mirrored);                                                  \
        else                                                                                                 \
            tap_panel_k(panel, m, s, k, p, false, mirrored);                                                 \
    }
NARROW_VERSIONS(TAP_PANEL)
WIDE_VERSIONS(TAP_PANEL)

#define EXL3_VERSIONS(VERSION, name, cb)                                                                     \
    VERSION(name, cb, 1)                                                                                     \
    VERSION(name, cb, 2)                                                                                     \
    VERSION(name, cb, 3)                                                                                     \
    VERSION(name, cb, 4)                                                                                     \
    VERSION(name, cb, 5)                                                                                     \
    VERSION(name, cb, 6)                                                                                     \
    VERSION(name, cb, 7)                                                                                     \
    VERSION(name, cb, 8)

#define EXL3_PANEL(name, cb, K)                                                                              \
    static void exl3_panel_##name##_##K(uint8_t *panel, const struct ml_quant_matrix *m, size_t s) {         \
        exl3_panel_k(panel, m, s, K, cb);                                                                    \
    }
EXL3_VERSIONS(EXL3_PANEL, inst, ML_EXL3_3INST)
EXL3_VERSIONS(EXL3_PANEL, mcg, ML_EXL3_MCG)
EXL3_VERSIONS(EXL3_PANEL, mul, ML_EXL3_MUL1)

#define EXL3_LIST(kind, name)                                                                                \
    {                                                                                                        \
        exl3_##kind##_##name##_1, exl3_##kind##_##name##_2, exl3_##kind##_##name##_3,                        \
            exl3_##kind##_##name##_4, exl3_##kind##_##name##_5, exl3_##kind##_##name##_6,                    \
            exl3_##kind##_##name##_7, exl3_##kind##_##name##_8                                               \
    }

static void make_panel(uint8_t *panel, const struct ml_quant_matrix *m, size_t s) {
    static panel_fn *const narrow[] = TAP_LIST(panel, narrow), *const wide[] = TAP_LIST(panel, wide);
    static panel_fn *const exl3[ML_EXL3_CODEBOOKS][8] = {EXL3_LIST(panel, inst), EXL3_LIST(panel, mcg),
                                                         EXL3_LIST(panel, mul)};
    if (m->format == ML_QUANT_EXL3)
        exl3[m->codebook][m->bits - 1](panel, m, s);
    else
        (is_narrow(m) ? narrow : wide)[m->bits - 2](panel, m, s);
}

#endif
