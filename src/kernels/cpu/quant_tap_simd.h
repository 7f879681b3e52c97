/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoding of arranged tap tiles over the vocabulary of a tier (its qvec.h), LQ of the 8 runs at a time. A
 * vector holds 64 bits of the rings of LQ tiles. S is the present word of each ring, N the next, U the
 * filtered bits: bit i of U belongs to the window that starts there. The index of a weight takes its own k
 * bits from U and the bits above from S. (Where exclusive or is cheaper than choosing bits, the tier's U
 * lacks S itself: q_filtered and q_own go together.)
 *
 *   k = 2, 4      byte j of a word is column j: its 8 / k weights are 8 / k rows. q_own(mask of row r, U, S)
 *                 puts own and plain bits together for all columns of one row; a funnel shift by k r brings
 *                 them down. Bits that come down from the next column's byte are its symbols: plain bits.
 *   k = 3, 5, 6   rows follow each other every 8 k bits, k words hold 8 rows: Q_SPREAD takes the 8 columns
 *                 of a row from S and from U, Q_SPREAD2 those of a row that lies in two words.
 *
 * With an index of p bits, what lies above them in a byte may be anything: Q_WITHIN is a funnel shift that
 * may leave out the next word when the windows need none of it.
 *
 * Each macro user gets `index` vectors row by row through SINK(row, index), for one half of 8 columns.
 */
#ifndef ML_KERNELS_CPU_QUANT_TAP_SIMD_H
#define ML_KERNELS_CPU_QUANT_TAP_SIMD_H

#include "kernels/tiers.h"

struct taps {
    vshift a, b, c;
};

V_INLINE struct taps q_taps(const struct ml_tap_code *code) {
    struct taps t = {q_shift(code->taps[0]), q_shift(code->taps[1]), q_shift(code->taps[2])};
    return t;
}

/* Three taps serve one as well: the two unused ones shift by 0 and cancel. */
V_INLINE vq filtered(vq s, vq n, const struct taps *t, const bool three) {
    const vq u = q_filtered(s, q_funnel(s, n, t->a), q_funnel(s, n, t->b));
    return three ? q_xor(u, q_funnel(s, n, t->c)) : u;
}

/* ---- the words of one half tile, w words apart by 64 bytes; `wrap` follows the last ---- */

#define ROWS_2(SINK, p, s, n, u, row)                                                                        \
    do {                                                                                                     \
        SINK((row), q_own(q_set8(0x03), u, s));                                                              \
        SINK((row) + 1, Q_WITHIN(q_own(q_set8(0x0c), u, s), n, 2, p));                                       \
        SINK((row) + 2, Q_FUNNEL(q_own(q_set8(0x30), u, s), n, 4));                                          \
        SINK((row) + 3, Q_FUNNEL(q_own(q_set8(0xc0), u, s), n, 6));                                          \
    } while (0)

#define ROWS_4(SINK, p, s, n, u, row)                                                                        \
    do {                                                                                                     \
        SINK((row), q_own(q_set8(0x0f), u, s));                                                              \
        SINK((row) + 1, Q_FUNNEL(q_own(q_set8(0xf0), u, s), n, 4));                                          \
    } while (0)

/* 3 words, 8 rows: row r begins at bit 24 r. */
#define ROWS_3(SINK, p, s0, s1, s2, n, u0, u1, u2, row)                                                      \
    do {                                                                                                     \
        SINK((row), Q_SPREAD(s0, u0, 0, 3, p));                                                              \
        SINK((row) + 1, Q_SPREAD(s0, u0, 24, 3, p));                                                         \
        SINK((row) + 2, Q_SPREAD2(s0, s1, u0, u1, 48, 3, p));                                                \
        SINK((row) + 3, Q_SPREAD(s1, u1, 8, 3, p));                                                          \
        SINK((row) + 4, Q_SPREAD(s1, u1, 32, 3, p));                                                         \
        SINK((row) + 5, Q_SPREAD2(s1, s2, u1, u2, 56, 3, p));                                                \
        SINK((row) + 6, Q_SPREAD(s2, u2, 16, 3, p));                                                         \
        SINK((row) + 7, Q_SPREAD_LAST(s2, n, u2, 40, 3, p));                                                 \
    } while (0)

/* 5 words, 8 rows of 40 bits. The last window of a row ends at its bit 43. */
#define ROWS_5(SINK, s0, s1, s2, s3, s4, n, u0, u1, u2, u3, u4, row)                                         \
    do {                                                                                                     \
        SINK((row), Q_SPREAD(s0, u0, 0, 5, 8));                                                              \
        SINK((row) + 1, Q_SPREAD2(s0, s1, u0, u1, 40, 5, 8));                                                \
        SINK((row) + 2, Q_SPREAD(s1, u1, 16, 5, 8));                                                         \
        SINK((row) + 3, Q_SPREAD2(s1, s2, u1, u2, 56, 5, 8));                                                \
        SINK((row) + 4, Q_SPREAD2(s2, s3, u2, u3, 32, 5, 8));                                                \
        SINK((row) + 5, Q_SPREAD(s3, u3, 8, 5, 8));                                                          \
        SINK((row) + 6, Q_SPREAD2(s3, s4, u3, u4, 48, 5, 8));                                                \
        SINK((row) + 7, Q_SPREAD_LAST(s4, n, u4, 24, 5, 8));                                                 \
    } while (0)

/* 3 words, 4 rows of 48 bits. */
#define ROWS_6(SINK, p, s0, s1, s2, n, u0, u1, u2, row)                                                      \
    do {                                                                                                     \
        SINK((row), Q_SPREAD(s0, u0, 0, 6, 8));                                                              \
        SINK((row) + 1, Q_SPREAD2(s0, s1, u0, u1, 48, 6, 8));                                                \
        SINK((row) + 2, Q_SPREAD2(s1, s2, u1, u2, 32, 6, 8));                                                \
        SINK((row) + 3, Q_SPREAD_LAST(s2, n, u2, 16, 6, 8));                                                 \
    } while (0)

/* Word i of a half, and the one after it: that is `wrap` after the last word of a group. */
#define TAP_NEXT(k, w, i, last, wrap) ((last) && (i) == 2 * (k) ? (wrap) : q_load((w) + 64 * (i)))

#define TAP_WORD(SINK, ROWS, k, p, three, taps, w, s, last, wrap, i)                                         \
    do {                                                                                                     \
        const vq n_ = TAP_NEXT(k, w, (i) + 1, last, wrap);                                                   \
        const vq u_ = filtered(s, n_, taps, three);                                                          \
        ROWS(SINK, p, s, n_, u_, (i) * (8 / (k)));                                                           \
        s = n_;                                                                                              \
    } while (0)

#define TAP_THREE(SINK, ROWS, k, p, three, taps, w, s, last, wrap, i, row)                                   \
    do {                                                                                                     \
        const vq s1_ = q_load((w) + 64 * ((i) + 1)), s2_ = q_load((w) + 64 * ((i) + 2));                     \
        const vq n_ = TAP_NEXT(k, w, (i) + 3, last, wrap);                                                   \
        const vq u0_ = filtered(s, s1_, taps, three), u1_ = filtered(s1_, s2_, taps, three);                 \
        const vq u2_ = filtered(s2_, n_, taps, three);                                                       \
        ROWS(SINK, p, s, s1_, s2_, n_, u0_, u1_, u2_, row);                                                  \
        s = n_;                                                                                              \
    } while (0)

#define TAP_FIVE(SINK, three, taps, w, s, last, wrap, i, row)                                                \
    do {                                                                                                     \
        const vq s1_ = q_load((w) + 64 * ((i) + 1)), s2_ = q_load((w) + 64 * ((i) + 2));                     \
        const vq s3_ = q_load((w) + 64 * ((i) + 3)), s4_ = q_load((w) + 64 * ((i) + 4));                     \
        const vq n_ = TAP_NEXT(5, w, (i) + 5, last, wrap);                                                   \
        const vq u0_ = filtered(s, s1_, taps, three), u1_ = filtered(s1_, s2_, taps, three);                 \
        const vq u2_ = filtered(s2_, s3_, taps, three), u3_ = filtered(s3_, s4_, taps, three);               \
        const vq u4_ = filtered(s4_, n_, taps, three);                                                       \
        ROWS_5(SINK, s, s1_, s2_, s3_, s4_, n_, u0_, u1_, u2_, u3_, u4_, row);                               \
        s = n_;                                                                                              \
    } while (0)

/* One half of a group: words at w, `s` is the first of them on entry and the one after the last on return;
 * that is `wrap` when `last`. Written out word by word: gcc keeps the accumulators in registers only when no
 * index of theirs was ever a variable. */
#define TAP_HALF(SINK, k, p, three, taps, w, s, last, wrap)                                                  \
    do {                                                                                                     \
        if ((k) == 2) {                                                                                      \
            TAP_WORD(SINK, ROWS_2, 2, p, three, taps, w, s, last, wrap, 0);                                  \
            TAP_WORD(SINK, ROWS_2, 2, p, three, taps, w, s, last, wrap, 1);                                  \
            TAP_WORD(SINK, ROWS_2, 2, p, three, taps, w, s, last, wrap, 2);                                  \
            TAP_WORD(SINK, ROWS_2, 2, p, three, taps, w, s, last, wrap, 3);                                  \
        } else if ((k) == 4) {                                                                               \
            TAP_WORD(SINK, ROWS_4, 4, p, three, taps, w, s, last, wrap, 0);                                  \
            TAP_WORD(SINK, ROWS_4, 4, p, three, taps, w, s, last, wrap, 1);                                  \
            TAP_WORD(SINK, ROWS_4, 4, p, three, taps, w, s, last, wrap, 2);                                  \
            TAP_WORD(SINK, ROWS_4, 4, p, three, taps, w, s, last, wrap, 3);                                  \
            TAP_WORD(SINK, ROWS_4, 4, p, three, taps, w, s, last, wrap, 4);                                  \
            TAP_WORD(SINK, ROWS_4, 4, p, three, taps, w, s, last, wrap, 5);                                  \
            TAP_WORD(SINK, ROWS_4, 4, p, three, taps, w, s, last, wrap, 6);                                  \
            TAP_WORD(SINK, ROWS_4, 4, p, three, taps, w, s, last, wrap, 7);                                  \
        } else if ((k) == 3) {                                                                               \
            TAP_THREE(SINK, ROWS_3, 3, p, three, taps, w, s, last, wrap, 0, 0);                              \
            TAP_THREE(SINK, ROWS_3, 3, p, three, taps, w, s, last, wrap, 3, 8);                              \
        } else if ((k) == 5) {                                                                               \
            TAP_FIVE(SINK, three, taps, w, s, last, wrap, 0, 0);                                             \
            TAP_FIVE(SINK, three, taps, w, s, last, wrap, 5, 8);                                             \
        } else {                                                                                             \
            TAP_THREE(SINK, ROWS_6, 6, p, three, taps, w, s, last, wrap, 0, 0);                              \
            TAP_THREE(SINK, ROWS_6, 6, p, three, taps, w, s, last, wrap, 3, 4);                              \
            TAP_THREE(SINK, ROWS_6, 6, p, three, taps, w, s, last, wrap, 6, 8);                              \
            TAP_THREE(SINK, ROWS_6, 6, p, three, taps, w, s, last, wrap, 9, 12);                             \
        }                                                                                                    \
    } while (0)

/* The smallest run of whole words that holds whole rows, by itself: words at w, the one that follows them at
 * `after`. SINK gets rows from 0 on; those that it does not use are not computed. */
#define TAP_UNIT_WORDS(k) ((k) == 2 || (k) == 4 ? 1 : (k) == 5 ? 5 : 3)
#define TAP_UNIT_ROWS(k)  (8 * TAP_UNIT_WORDS(k) / (k))
#define TAP_UNIT(SINK, k, p, three, taps, w, after)                                                          \
    do {                                                                                                     \
        const vq s0_ = q_load(w), n_ = q_load(after);                                                        \
        if ((k) == 2 || (k) == 4) {                                                                          \
            const vq u0_ = filtered(s0_, n_, taps, three);                                                   \
            if ((k) == 2)                                                                                    \
                ROWS_2(SINK, p, s0_, n_, u0_, 0);                                                            \
            else                                                                                             \
                ROWS_4(SINK, p, s0_, n_, u0_, 0);                                                            \
            break;                                                                                           \
        }                                                                                                    \
        const vq s1_ = q_load((w) + 64), s2_ = q_load((w) + 128);                                            \
        const vq u0_ = filtered(s0_, s1_, taps, three), u1_ = filtered(s1_, s2_, taps, three);               \
        if ((k) != 5) {                                                                                      \
            const vq u2_ = filtered(s2_, n_, taps, three);                                                   \
            if ((k) == 3)                                                                                    \
                ROWS_3(SINK, p, s0_, s1_, s2_, n_, u0_, u1_, u2_, 0);                                        \
            else                                                                                             \
                ROWS_6(SINK, p, s0_, s1_, s2_, n_, u0_, u1_, u2_, 0);                                        \
            break;                                                                                           \
        }                                                                                                    \
        const vq s3_ = q_load((w) + 192), s4_ = q_load((w) + 256);                                           \
        const vq u2_ = filtered(s2_, s3_, taps, three), u3_ = filtered(s3_, s4_, taps, three);               \
        const vq u4_ = filtered(s4_, n_, taps, three);                                                       \
        ROWS_5(SINK, s0_, s1_, s2_, s3_, s4_, n_, u0_, u1_, u2_, u3_, u4_, 0);                               \
    } while (0)

/* 16 of something, for accumulators without a loop. */
#define ROWS_16(f)                                                                                           \
    { f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15) }
#define ROW_ZERO(i) q_zero()
#define ROW_OF(i)   acc[i]

#endif
