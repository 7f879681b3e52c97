/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoding of mirrored tap tiles on processors with GFNI. One affine instruction multiplies each byte of a
 * vector by an 8 x 8 matrix over GF(2), and the index of a weight is linear in its window. So the index is a
 * sum of as many products as the window has bytes, with taps, shift and mask all in the matrices, if the
 * windows of all bytes begin at the same bit of a byte. Every lane of 8 bits therefore follows the ring
 * through a chain of its own, from one row or one column to the next:
 *
 *   k = 2        a half of a tile, as in the file: byte 8 p + j is column j of rows 4 p .. 4 p + 3. Step i
 *                gives row 4 p + i of each qword p. The bytes that follow in a window are those at + 1, + 2.
 *   k = 4        a quarter of a tile, as in the file: byte 8 p + j is column j of rows 2 p and 2 p + 1.
 *   k = 3, 5, 6  two tiles that follow each other in a run, arranged: the k bytes of a row of 8 columns, each
 *                as [16 rows][left and right half of the first tile, of the second]. Step i gives column i of
 *                the four halves, a dword for each row. After the last byte comes the first of the next row,
 *                after row 15 comes row 0 of the other half. For k = 3:
 *
 *                   A      | B      | C      | A of the next row
 *                   000111222333444555666777 0001..       windows begin at bits 0, 3, 6, 9 ..
 *
 * The matrices also fold the index: the table is mirrored, so all other bits are complemented where the top
 * own bit says that the value is negative, and half of the table is looked up. Beyond 2 bits the table is
 * split as well: a quarter of it is looked up, and a lift added for those of the upper half. A folded index
 * of p bits:
 *
 *     bit 7: negative | p - 2: lower half (k > 2) | below: which entry | bit 6, where it is free: 1, so that
 *                                                                        no byte is 0
 *
 * Constants of a code stand behind the rounded x, so that they are computed once for a product.
 */
#ifndef ML_KERNELS_CPU_AVXVNNI_CHAIN_H
#define ML_KERNELS_CPU_AVXVNNI_CHAIN_H

#include "kernels/cpu/quant_simd.h"

enum { CHAIN_STEPS = 8 };

struct chain {
    vq matrix[CHAIN_STEPS][3]; /* of each step, for the first byte of the window and those after it */
    vq table[4];               /* magnitudes: see struct lut */
    vq lift_index, lift;       /* from a folded index to that of a lift, whose top bit is set for none */
    vq sixteen;                /* a compiler that knew it would keep 32 and 48 in registers as well */
};
_Static_assert(sizeof(struct chain) + 63 <= ML_QUANT_CONSTANTS, "constants fit behind x");

#define CHAIN_COLUMNS(k)  ((k) == 2 || (k) == 4)     /* lanes are columns, as in the file; else rows */
#define CHAIN_TILES(k)    (CHAIN_COLUMNS(k) ? 1 : 2) /* taken together, of a run */
#define CHAIN_BYTES(k)    (32 * (k)*CHAIN_TILES(k))
#define CHAIN_UNITS(k)    ((k) == 4 ? 4 : 2)                /* vectors of windows in them */
#define CHAIN_STEPS_OF(k) (CHAIN_COLUMNS(k) ? 8 / (k) : 8)  /* of each unit */
#define CHAIN_INDEX(k)    ((k) == 2 ? 6 : (k) <= 4 ? 7 : 8) /* p: at 2 bits at most */
#define CHAIN_LOOKUP(k)   ((k) <= 4 ? 5 : 6)                /* bits of an index that choose an entry */
/* Bytes of a window from bit `at` of its unit on. */
#define CHAIN_BYTES_OF(at, window) (((at) % 8 + (window) + 7) / 8)

static bool is_chained(const struct ml_quant_matrix *m) {
    if (m->format != ML_QUANT_TAP || m->k / 128 % (size_t)CHAIN_TILES(m->bits)) return false;
    return m->bits == 2 ? m->mirrored && m->code->index_bits <= CHAIN_INDEX(2)
                        : m->split && m->code->index_bits == CHAIN_INDEX(m->bits);
}

/* ---- constants ---- */

/* The bits of the window whose sum is bit i of the index. */
static uint32_t index_bit(const struct ml_tap_code *code, unsigned i) {
    uint32_t bits = 1u << i;
    for (int t = 0; i < code->bits && t < ML_TAP_MAX_TAPS; t++)
        if (code->taps[t]) bits ^= 1u << (i + code->taps[t]);
    return bits;
}

static void chain_matrices(struct chain *c, const struct ml_tap_code *code) {
    const unsigned k = code->bits, top = k - 1;
    uint32_t sum[8] = {[7] = index_bit(code, top)};
    for (unsigned i = 0; i < code->index_bits - 1u; i++)
        sum[i] = index_bit(code, i < top ? i : i + 1) ^ sum[7];
    for (unsigned step = 0; step < (unsigned)CHAIN_STEPS_OF(k); step++) {
        for (unsigned byte = 0; byte < 3; byte++) {
            uint64_t rows = 0; /* bit 0 of the product is the last byte's */
            for (unsigned i = 0; i < 8; i++)
                rows |= (uint64_t)(sum[i] << k * step % 8 >> 8 * byte & 0xff) << 8 * (7 - i);
            c->matrix[step][byte] = q_set64(rows, rows);
        }
    }
}

/* Folded bits are complements of those of an index whose value is not negative. */
static unsigned unfolded(const struct ml_tap_code *code, unsigned folded) {
    const unsigned top = code->bits - 1u, bits = ~folded & ((1u << (code->index_bits - 1)) - 1);
    return (bits >> top) << code->bits | 1u << top | (bits & ((1u << top) - 1));
}

static void chain_table(struct chain *c, const struct ml_tap_code *code) {
    const int p = CHAIN_LOOKUP(code->bits);
    const unsigned lower = code->bits > 2 ? 1u << p : 0;
    int8_t table[64] = {0};
    for (unsigned i = 0; i < 1u << p && i < 1u << (code->index_bits - 1); i++)
        table[i] = code->table[unfolded(code, lower | i)];
    const struct lut lut = q_lut(table, p);
    memcpy(c->table, lut.t, sizeof *lut.t << (p - 4));
}

static void chain_lift(struct chain *c, const struct ml_tap_code *code) {
    const unsigned top = code->bits - 1u, last = code->index_bits - 2u, on = ml_tap_lift_bits(code);
    uint64_t rows = (uint64_t)1 << last; /* of bit 7 */
    unsigned bit[4], n = 0;
    for (unsigned i = 0; i < last; i++)
        if (on >> (i < top ? i : i + 1) & 1) bit[n++] = i;
    for (unsigned i = 0; i < n; i++)
        rows |= (uint64_t)1 << bit[i] << 8 * (7 - i);
    c->lift_index = q_set64(rows, rows);
    int8_t lift[16];
    for (unsigned i = 0; i < 16; i++) {
        unsigned folded = 0;
        for (unsigned j = 0; j < n; j++)
            folded |= (i >> j & 1) << bit[j];
        lift[i] =
            (int8_t)(code->table[unfolded(code, folded)] - code->table[unfolded(code, 1u << last | folded)]);
    }
    c->lift = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)lift));
}

static void chain_constants(struct chain *c, const struct ml_tap_code *code) {
    chain_matrices(c, code);
    chain_table(c, code);
    if (code->bits > 2) chain_lift(c, code);
    c->sixteen = q_set8(16);
}

V_INLINE struct chain *constants_of(const struct ml_quant_x *x, size_t k) {
    return (struct chain *)(void *)(x->a + (k + 63) / 64 * 64);
}

/* Columns in their order; where lanes are rows, of each 32 in a run column 8 h + i at 4 i + h. */
static void chain_round(struct ml_quant_x *x, const struct ml_quant_matrix *m, const float *rotated) {
    round_x(x, m, ML_QUANT_MANY, rotated, MANY_WIDE);
    for (size_t at = 0; !CHAIN_COLUMNS(m->bits) && at < m->k; at += 32) {
        int8_t a[32];
        memcpy(a, x->a + at, sizeof a);
        for (size_t i = 0; i < sizeof a; i++)
            x->a[at + i] = a[8 * (i % 4) + i / 4];
    }
    chain_constants(constants_of(x, m->k), m->code);
}

/* ---- arrangement ---- */

static void chain_strip(const struct ml_quant_matrix *m, size_t s, uint8_t *to) {
    const size_t k = (size_t)m->bits, bytes = m->k * 2 * k;
    const uint8_t *from = m->data + s * bytes;
    if (CHAIN_COLUMNS(k)) {
        memcpy(to, from, bytes);
        return;
    }
    for (size_t pair = 0; pair < bytes; pair += 64 * k)
        for (size_t half = 0; half < 4; half++)
            for (size_t i = 0; i < 16 * k; i++)
                to[pair + i % k * 64 + i / k * 4 + half] = from[pair + 16 * k * half + i];
}

static void chain_arrange(const struct ml_quant_matrix *m, void *to, size_t begin, size_t end) {
    for (size_t s = begin; s < end; s++)
        chain_strip(m, s, (uint8_t *)to + s * m->k * 2 * (size_t)m->bits);
}

/* ---- decoding ---- */

/* The bytes of one vector of windows: first ones, then those after each. */
struct unit {
    vq byte[8];
};

/* The bytes n further than those of v; after its last ones come those of `next`. */
#define CHAIN_AFTER(v, next, n) _mm256_alignr_epi8(_mm256_permute2x128_si256(v, next, 0x21), v, n)

V_INLINE struct unit load_columns(const uint8_t *w, const int k, const int v) {
    struct unit u;
    u.byte[0] = q_load(w + 32 * v);
    if (v < k - 1) {
        u.byte[1] = q_load(w + 32 * v + 1);
        u.byte[2] = q_load(w + 32 * v + 2);
    } else {
        const vq first = q_load(w);
        u.byte[1] = CHAIN_AFTER(u.byte[0], first, 1);
        u.byte[2] = CHAIN_AFTER(u.byte[0], first, 2);
    }
    return u;
}

V_INLINE struct unit load_rows(const uint8_t *w, const int k, const int v) {
    struct unit u;
    UNROLL
    for (int i = 0; i < k; i++)
        u.byte[i] = q_load(w + 64 * i + 32 * v);
    UNROLL
    for (int i = 0; i < 2; i++) {
        const vq other = _mm256_shuffle_epi8(q_load(w + 64 * i), _mm256_set1_epi32(0x02030001));
        u.byte[k + i] = v ? CHAIN_AFTER(u.byte[i], other, 4) : q_load(w + 64 * i + 4);
    }
    return u;
}

V_INLINE struct unit load_unit(const uint8_t *w, const int k, const int v) {
    return CHAIN_COLUMNS(k) ? load_columns(w, k, v) : load_rows(w, k, v);
}

#define CHAIN_AFFINE(v, matrix, add) _mm256_gf2p8affine_epi64_epi8(v, matrix, add)

/* Folded indices of a step, windows of up to `window` bits. */
V_INLINE vq folded_index(const struct chain *c, const struct unit *u, const int k, const int step,
                         const int window) {
    const int at = k * step, bytes = CHAIN_BYTES_OF(at, window);
    const vq *byte = u->byte + at / 8;
    vq sum = CHAIN_INDEX(k) < 8 ? CHAIN_AFFINE(byte[0], c->matrix[step][0], 0xc0)
                                : CHAIN_AFFINE(byte[0], c->matrix[step][0], 0x80);
    sum = q_xor(sum, CHAIN_AFFINE(byte[1], c->matrix[step][1], 0));
    return bytes == 2 ? sum : q_xor(sum, CHAIN_AFFINE(byte[2], c->matrix[step][2], 0));
}

/* The sign of x where the values are positive or negative. */
V_INLINE vq with_sign(vq x, vq folded, const int k) {
    return _mm256_sign_epi8(x, CHAIN_INDEX(k) < 8 ? folded : _mm256_or_si256(folded, q_set8(1)));
}

V_INLINE vq magnitude(const struct chain *c, vq folded, const int k) {
    vq i[4] = {_mm256_and_si256(folded, q_set8(CHAIN_LOOKUP(k) == 5 ? 0x1f : 0x3f))}, v;
    if (CHAIN_LOOKUP(k) == 5) {
        i[1] = _mm256_sub_epi8(i[0], q_set8(16));
        v = lookup_two(c->table, i);
    } else {
        for (int r = 1; r < 4; r++)
            i[r] = _mm256_sub_epi8(i[r - 1], c->sixteen);
        v = lookup_four(c->table, i);
    }
    if (k == 2) return v;
    return _mm256_add_epi8(v, _mm256_shuffle_epi8(c->lift, CHAIN_AFFINE(folded, c->lift_index, 0)));
}

/* The columns of x that a step multiplies: one qword (dword) for all rows. */
V_INLINE vq chain_in(const int8_t *a, const int k, const int v, const int step) {
    int64_t columns;
    int32_t halves;
    if (!CHAIN_COLUMNS(k)) {
        memcpy(&halves, a + 4 * step, sizeof halves);
        return _mm256_set1_epi32(halves);
    }
    memcpy(&columns, a + 8 * (k == 2 ? v : v / 2), sizeof columns);
    return _mm256_set1_epi64x(columns);
}

#endif
