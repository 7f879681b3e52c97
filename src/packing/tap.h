/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the bytes of one tile of the tap code, this project's trellis format: 16 x 16 weights of k = 2..6
 * bits.
 *
 * A tile is a ring of 256 k bits, 32 k bytes, least significant bit of byte 0 first. Weight t of the stream
 * has the symbol in bits [k t, k t + k) and sees the window of the L bits that start there:
 *
 *     bit    k t         k t + k               k t + p               k t + L
 *      ... ---+-------------+---------------------+---------------------+--- ...
 *             | own symbol  | plain bits: of the  | only through        |       cyclic: after bit
 *             |             | next symbols        | the taps            |       256 k - 1 comes 0
 *             +-------------+---------------------+---------------------+
 *
 *     W      = those L bits, the own symbol lowest
 *     U      = W ^ (W >> a) ^ (W >> b) ^ ...            the taps a, b, ..., each 1..L - k
 *     index  = (U & (2^k - 1)) | (W & (2^p - 2^k))      p bits: filtered own symbol, then plain bits
 *     weight = table[index]                             int8; one scale outside the tile
 *
 * The decoder's cost depends on p and on the number of taps, not on L.
 *
 * Order of the stream (rows are output channels, columns input channels; byte j of a 64-bit word always
 * belongs to column j of its 8 columns, so that a byte-wise dot product needs no shuffle of x):
 *
 *     columns  0 .. 7   8 .. 15        a patch, k = 2:       k = 4:          k = 3, 5, 6:
 *     rows    +-------+-------+        t  0  4  8 .. 28      0 2 4 .. 14     0 1 2 .. 7
 *      0..3   |chunk 0|chunk 4|           1  5  9    29      1 3 5    15
 *      4..7   |   1   |   5   |           2  6 10    30
 *      8..11  |   2   |   6   |           3  7 11    31
 *     12..15  |   3   |   7   |        4 x 8, 8 bytes        2 x 8, 8 bytes  1 x 8, k bytes
 *             +-------+-------+
 *
 * Whatever k is, 32 consecutive symbols, a chunk of 4 k bytes, are 4 rows x 8 columns. In a file each tile is
 * contiguous. A kernel may reorder when it loads: the AVX-512 one interleaves 8 tiles of 8 column blocks by
 * 64-bit word, that for AVX-VNNI takes 3, 5 and 6 bits apart by byte, a GPU permutes chunks. All are moves of
 * whole bytes, no bit changes place inside one, and the byte after the last is the first (the ring).
 */
#ifndef ML_PACKING_TAP_H
#define ML_PACKING_TAP_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ML_TAP_TILE = 256,
    ML_TAP_SIDE = 16,
    ML_TAP_MIN_BITS = 2,
    ML_TAP_MAX_BITS = 6,
    ML_TAP_MAX_WINDOW = 16,
    ML_TAP_MAX_INDEX = 8,
    ML_TAP_MAX_TAPS = 3
};

struct ml_tap_code {
    uint8_t bits;                  /* k: 2..6 */
    uint8_t window;                /* L: p..16, at least 2 k */
    uint8_t index_bits;            /* p: k..8 */
    uint8_t taps[ML_TAP_MAX_TAPS]; /* shifts, 1..L-k, increasing; unused ones are 0 and last */
    float unit; /* weight of unit variance = table entry * unit: what the table was made for */
    int8_t table[1 << ML_TAP_MAX_INDEX]; /* 2^p entries, the rest 0; never -128 */
};

/* Checks every field of a code, which may come from a file. MARLIN_ERR_FORMAT names the field. */
marlin_status ml_tap_check(const struct ml_tap_code *c, struct marlin_error *err) MARLIN_MUST_CHECK;

/* Whether complementing an index negates its entry, table[2^p - 1 - i] = -table[i], and entries whose highest
 * own bit (k - 1) is set are not negative. A kernel then looks up half of the table and applies the sign. All
 * codes of this library are mirrored; one from a file may not be. */
bool ml_tap_is_mirrored(const struct ml_tap_code *c);

/* Whether the upper half of the table is the lower one lifted: table[i + 2^(p - 1)] - table[i] is the same
 * for all i < 2^(p - 1) that have the own bit k - 1 and agree in the bits ml_tap_lift_bits; only for k >= 3
 * and p = 7 or 8. Of a table that is mirrored as well a kernel looks up a quarter, and a lift among 16. Those
 * of this library are split but for 2 bits. */
bool ml_tap_is_split(const struct ml_tap_code *c);

/* The four bits of an index that decide the lift: own bits below k - 1 from the highest on, then plain bits
 * from the lowest on. k >= 3. */
unsigned ml_tap_lift_bits(const struct ml_tap_code *c);

/* Bytes of a tile, 32 k; 0 when k is outside 2..6. */
size_t ml_tap_tile_bytes(unsigned bits);

/* order[t] = 16 * row + column of the t-th weight of the stream; NULL when k is outside 2..6. */
const uint8_t *ml_tap_order(unsigned bits);

/* Index of a window (its low L bits) into the table: linear over GF(2), index(v ^ w) =
 * index(v) ^ index(w). */
static inline unsigned ml_tap_index(const struct ml_tap_code *c, unsigned window) {
    const unsigned own = (1u << c->bits) - 1, all = (1u << c->index_bits) - 1;
    unsigned u = window;
    for (int i = 0; i < ML_TAP_MAX_TAPS; i++)
        if (c->taps[i]) u ^= window >> c->taps[i];
    return (u & own) | (window & all & ~own);
}

/* Writes a tile from 256 symbols in stream order. MARLIN_ERR_ARGUMENT, naming the weight, when a symbol has
 * more than k bits; the tile is left alone then. */
marlin_status ml_tap_pack(unsigned bits, const uint8_t symbol[ML_TAP_TILE], uint8_t *tile,
                          struct marlin_error *err) MARLIN_MUST_CHECK;

/* Reads the symbols back; every bit pattern is a tile. */
marlin_status ml_tap_unpack(unsigned bits, const uint8_t *tile, uint8_t symbol[ML_TAP_TILE],
                            struct marlin_error *err) MARLIN_MUST_CHECK;

/* Decodes a tile to table entries, row-major [16][16]. The code must have passed ml_tap_check. Any thread. */
void ml_tap_decode(const struct ml_tap_code *c, const uint8_t *tile, int8_t out[ML_TAP_TILE]);

/* A code as bytes, as files carry it beside the tiles (16 + 2^p bytes, little-endian):
 *
 *     0 version 1 | 1 k | 2 L | 3 p | 4..6 taps | 7 zero | 8..11 unit, float32 | 12..15 zero | 16.. table */
enum { ML_TAP_CODE_VERSION = 1, ML_TAP_CODE_HEAD = 16, ML_TAP_CODE_MAX = 16 + (1 << ML_TAP_MAX_INDEX) };

/* Writes the code, returns its length. The code must have passed ml_tap_check. */
size_t ml_tap_code_write(const struct ml_tap_code *c, uint8_t out[ML_TAP_CODE_MAX]);

/* Reads and checks one. MARLIN_ERR_UNSUPPORTED for a later version, MARLIN_ERR_FORMAT for anything else. */
marlin_status ml_tap_code_read(const uint8_t *bytes, size_t n, struct ml_tap_code *c,
                               struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
