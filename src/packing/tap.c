/* SPDX-License-Identifier: Apache-2.0
 *
 * Packing and decoding of tap-code tiles. The drawing is in the header.
 */
#include "packing/tap.h"

#include "base/assert.h"

#include <math.h>
#include <string.h>

/* A patch is P rows x 8 columns, column by column; two halves of 8 columns, each 16 / P patches. */
#define ROW4(r, c)    16 * (r) + (c), 16 * (r) + (c) + 1, 16 * (r) + (c) + 2, 16 * (r) + (c) + 3
#define COLUMN2(r, c) 16 * (r) + (c), 16 * ((r) + 1) + (c)
#define COLUMN4(r, c) COLUMN2(r, c), COLUMN2((r) + 2, c)
#define PATCH1(r, c)  ROW4(r, c), ROW4(r, (c) + 4)
#define PATCH2(r, c)                                                                                         \
    COLUMN2(r, c), COLUMN2(r, (c) + 1), COLUMN2(r, (c) + 2), COLUMN2(r, (c) + 3), COLUMN2(r, (c) + 4),       \
        COLUMN2(r, (c) + 5), COLUMN2(r, (c) + 6), COLUMN2(r, (c) + 7)
#define PATCH4(r, c)                                                                                         \
    COLUMN4(r, c), COLUMN4(r, (c) + 1), COLUMN4(r, (c) + 2), COLUMN4(r, (c) + 3), COLUMN4(r, (c) + 4),       \
        COLUMN4(r, (c) + 5), COLUMN4(r, (c) + 6), COLUMN4(r, (c) + 7)
#define CHUNK1(r, c)   PATCH1(r, c), PATCH1((r) + 1, c), PATCH1((r) + 2, c), PATCH1((r) + 3, c)
#define CHUNK2(r, c)   PATCH2(r, c), PATCH2((r) + 2, c)
#define CHUNK4(r, c)   PATCH4(r, c)
#define HALF(chunk, c) chunk(0, c), chunk(4, c), chunk(8, c), chunk(12, c)

static const uint8_t order_by_row[ML_TAP_TILE] = {HALF(CHUNK1, 0), HALF(CHUNK1, 8)};
static const uint8_t order_by_2[ML_TAP_TILE] = {HALF(CHUNK2, 0), HALF(CHUNK2, 8)};
static const uint8_t order_by_4[ML_TAP_TILE] = {HALF(CHUNK4, 0), HALF(CHUNK4, 8)};

static bool bits_ok(unsigned bits) {
    return bits >= ML_TAP_MIN_BITS && bits <= ML_TAP_MAX_BITS;
}

static marlin_status bad_bits(unsigned bits, struct marlin_error *err) {
    return ml_fail(err, MARLIN_ERR_ARGUMENT, "tap tile: %u bits a weight, the format knows 2 to 6", bits);
}

size_t ml_tap_tile_bytes(unsigned bits) {
    return bits_ok(bits) ? (size_t)32 * bits : 0;
}

const uint8_t *ml_tap_order(unsigned bits) {
    if (!bits_ok(bits)) return NULL;
    return bits == 2 ? order_by_4 : bits == 4 ? order_by_2 : order_by_row;
}

static marlin_status check_taps(const struct ml_tap_code *c, struct marlin_error *err) {
    const unsigned most = (unsigned)c->window - c->bits;
    unsigned last = 0;
    bool ended = false;
    for (int i = 0; i < ML_TAP_MAX_TAPS; i++) {
        const unsigned tap = c->taps[i];
        if (tap == 0) {
            ended = true;
            continue;
        }
        if (ended || tap <= last || tap > most)
            return ml_fail(err, MARLIN_ERR_FORMAT,
                           "tap code: tap %d is %u: taps must increase and lie in 1..%u (window less bits)",
                           i, tap, most);
        last = tap;
    }
    if (last != most)
        return ml_fail(
            err, MARLIN_ERR_FORMAT,
            "tap code: the last tap is %u, must be %u (window less bits) so that it ends the window", last,
            most);
    return MARLIN_OK;
}

marlin_status ml_tap_check(const struct ml_tap_code *c, struct marlin_error *err) {
    if (!bits_ok(c->bits))
        return ml_fail(err, MARLIN_ERR_FORMAT, "tap code: %u bits a weight, the format knows 2 to 6",
                       c->bits);
    if (c->index_bits < c->bits || c->index_bits > ML_TAP_MAX_INDEX)
        return ml_fail(err, MARLIN_ERR_FORMAT, "tap code: an index of %u bits, must be %u..%u", c->index_bits,
                       c->bits, ML_TAP_MAX_INDEX);
    if (c->window < c->index_bits || c->window < 2 * c->bits || c->window > ML_TAP_MAX_WINDOW)
        return ml_fail(
            err, MARLIN_ERR_FORMAT,
            "tap code: a window of %u bits, must cover the index (%u) and two symbols (%u) within %u",
            c->window, c->index_bits, 2 * c->bits, ML_TAP_MAX_WINDOW);
    if (!isfinite(c->unit) || c->unit <= 0)
        return ml_fail(err, MARLIN_ERR_FORMAT, "tap code: unit %g, must be positive", (double)c->unit);
    for (unsigned i = 0; i < 1u << c->index_bits; i++)
        if (c->table[i] == INT8_MIN)
            return ml_fail(err, MARLIN_ERR_FORMAT, "tap code: table entry %u is -128, must be -127..127", i);
    return check_taps(c, err);
}

bool ml_tap_is_mirrored(const struct ml_tap_code *c) {
    const unsigned last = (1u << c->index_bits) - 1, highest = 1u << (c->bits - 1);
    for (unsigned i = 0; i <= last; i++)
        if ((i & highest) && (c->table[i] < 0 || c->table[last - i] != -c->table[i])) return false;
    return true;
}

unsigned ml_tap_lift_bits(const struct ml_tap_code *c) {
    return c->bits == 3 ? 0x1b : c->bits == 4 ? 0x17 : 0xfu << (c->bits - 5);
}

bool ml_tap_is_split(const struct ml_tap_code *c) {
    if (c->bits < 3 || c->index_bits < 7) return false;
    const unsigned half = 1u << (c->index_bits - 1), top = 1u << (c->bits - 1), on = ml_tap_lift_bits(c);
    for (unsigned i = 0; i < half; i++) {
        const unsigned first = top | (i & on); /* of those that agree with i */
        if ((i & top) && c->table[i + half] - c->table[i] != c->table[first + half] - c->table[first])
            return false;
    }
    return true;
}

marlin_status ml_tap_pack(unsigned bits, const uint8_t symbol[ML_TAP_TILE], uint8_t *tile,
                          struct marlin_error *err) {
    if (!bits_ok(bits)) return bad_bits(bits, err);
    for (unsigned t = 0; t < ML_TAP_TILE; t++)
        if (symbol[t] >> bits)
            return ml_fail(err, MARLIN_ERR_ARGUMENT, "tap tile: symbol %u of weight %u has more than %u bits",
                           symbol[t], t, bits);
    uint32_t pending = 0;
    unsigned held = 0;
    size_t out = 0;
    for (unsigned t = 0; t < ML_TAP_TILE; t++) {
        pending |= (uint32_t)symbol[t] << held;
        for (held += bits; held >= 8; held -= 8) {
            tile[out++] = (uint8_t)pending;
            pending >>= 8;
        }
    }
    return MARLIN_OK;
}

/* The ring followed by its first bytes, so that a 24-bit read at any weight stays inside. */
static void unroll(unsigned bits, const uint8_t *tile, uint8_t *ring) {
    const size_t n = ml_tap_tile_bytes(bits);
    memcpy(ring, tile, n);
    memcpy(ring + n, tile, 3);
}

static uint32_t bits_at(const uint8_t *ring, unsigned bit) {
    const uint8_t *b = ring + bit / 8;
    return ((uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16) >> bit % 8;
}

marlin_status ml_tap_unpack(unsigned bits, const uint8_t *tile, uint8_t symbol[ML_TAP_TILE],
                            struct marlin_error *err) {
    uint8_t ring[32 * ML_TAP_MAX_BITS + 3];
    if (!bits_ok(bits)) return bad_bits(bits, err);
    unroll(bits, tile, ring);
    for (unsigned t = 0; t < ML_TAP_TILE; t++)
        symbol[t] = (uint8_t)(bits_at(ring, t * bits) & ((1u << bits) - 1));
    return MARLIN_OK;
}

void ml_tap_decode(const struct ml_tap_code *c, const uint8_t *tile, int8_t out[ML_TAP_TILE]) {
    ML_ASSERT_SLOW(ml_tap_check(c, NULL) == MARLIN_OK);
    uint8_t ring[32 * ML_TAP_MAX_BITS + 3];
    const uint8_t *order = ml_tap_order(c->bits);
    unroll(c->bits, tile, ring);
    for (unsigned t = 0; t < ML_TAP_TILE; t++) {
        const uint32_t window = bits_at(ring, t * c->bits) & ((1u << c->window) - 1);
        out[order[t]] = c->table[ml_tap_index(c, window)];
    }
}
