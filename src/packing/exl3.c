/* SPDX-License-Identifier: Apache-2.0
 *
 * Packing and decoding of EXL3 tiles. The drawing is in the header.
 */
#include "packing/exl3.h"

#include "base/assert.h"
#include "base/fp.h"

#include <string.h>

/* lane = t / 8 of a warp, j = t % 8: row 2 (lane % 4) + (j & 1) + 8 (j >> 1 & 1), column lane / 4 + 8 (j /
 * 4). One row of the macro is one group of four lanes, which shares its two columns c and c + 8. */
#define LANE(r, c)                                                                                           \
    16 * (r) + (c), 16 * ((r) + 1) + (c), 16 * ((r) + 8) + (c), 16 * ((r) + 9) + (c), 16 * (r) + (c) + 8,    \
        16 * ((r) + 1) + (c) + 8, 16 * ((r) + 8) + (c) + 8, 16 * ((r) + 9) + (c) + 8
#define LANES(c) LANE(0, c), LANE(2, c), LANE(4, c), LANE(6, c)
static const uint8_t order[ML_EXL3_TILE] = {LANES(0), LANES(1), LANES(2), LANES(3),
                                            LANES(4), LANES(5), LANES(6), LANES(7)};

const uint8_t *ml_exl3_order(void) {
    return order;
}

static bool bits_ok(unsigned bits) {
    return bits >= ML_EXL3_MIN_BITS && bits <= ML_EXL3_MAX_BITS;
}

static marlin_status bad_bits(unsigned bits, struct marlin_error *err) {
    return ml_fail(err, MARLIN_ERR_ARGUMENT, "EXL3 tile: %u bits a weight, the format knows 1 to 8", bits);
}

const char *ml_exl3_codebook_name(enum ml_exl3_codebook cb) {
    static const char *const names[ML_EXL3_CODEBOOKS] = {
        [ML_EXL3_3INST] = "3inst", [ML_EXL3_MCG] = "mcg", [ML_EXL3_MUL1] = "mul1"};
    return names[cb];
}

bool ml_exl3_codebook_find(const char *name, enum ml_exl3_codebook *out) {
    for (int cb = 0; cb < ML_EXL3_CODEBOOKS; cb++) {
        if (strcmp(name, ml_exl3_codebook_name((enum ml_exl3_codebook)cb)) != 0) continue;
        *out = (enum ml_exl3_codebook)cb;
        return true;
    }
    return false;
}

uint32_t ml_exl3_stored_multiplier(enum ml_exl3_codebook cb) {
    static const uint32_t multiplier[ML_EXL3_CODEBOOKS] = {
        [ML_EXL3_MCG] = ML_EXL3_MCG_MULTIPLIER, [ML_EXL3_MUL1] = ML_EXL3_MUL1_MULTIPLIER};
    return multiplier[cb];
}

size_t ml_exl3_tile_bytes(unsigned bits) {
    return bits_ok(bits) ? (size_t)32 * bits : 0;
}

/* Both halves have exponents that make their float32 sum exact, so the conversion is the only rounding. */
static uint16_t sum_of_halves(uint32_t x) {
    x = (x & 0x8fff8fffu) ^ 0x3b603b60u;
    return ml_f32_to_f16(ml_f16_to_f32((uint16_t)x) + ml_f16_to_f32((uint16_t)(x >> 16)));
}

uint16_t ml_exl3_value(enum ml_exl3_codebook cb, uint16_t state) {
    ML_ASSERT(cb < ML_EXL3_CODEBOOKS);
    switch (cb) {
    case ML_EXL3_3INST:
        return sum_of_halves(state * ML_EXL3_3INST_MULTIPLIER + ML_EXL3_3INST_ADDEND);
    case ML_EXL3_MCG:
        return sum_of_halves(state * ML_EXL3_MCG_MULTIPLIER);
    default:
        break;
    }
    const uint32_t x = state * ML_EXL3_MUL1_MULTIPLIER;
    const uint32_t sum = (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24);
    /* 0x1eee and 0xc931 as binary16; the product has 22 bits and the difference no more, so float32 is exact
     * and the result is what one fused half-precision operation gives. */
    const float product = (float)(1024 + sum) * 0.00676727294921875f;
    return ml_f32_to_f16(product - 10.3828125f);
}

void ml_exl3_table(enum ml_exl3_codebook cb, float *out) {
    ML_ASSERT(cb < ML_EXL3_CODEBOOKS);
    for (uint32_t s = 0; s < 65536; s++)
        out[s] = ml_f16_to_f32(ml_exl3_value(cb, (uint16_t)s));
}

/* The ring as bytes in stream order (most significant bit first), with the last two bytes in front so that
 * the window of any weight is contiguous: stream bit i is bit i + 16 of `ring`. */
static void to_stream(unsigned bits, const uint8_t *tile, uint8_t *ring) {
    const size_t n = (size_t)32 * bits;
    for (size_t i = 0; i < n; i++)
        ring[2 + i] = tile[i ^ 3];
    ring[0] = ring[n];
    ring[1] = ring[n + 1];
    ring[n + 2] = 0;
}

marlin_status ml_exl3_unpack(unsigned bits, const uint8_t *tile, uint16_t state[ML_EXL3_TILE],
                             struct marlin_error *err) {
    uint8_t ring[32 * ML_EXL3_MAX_BITS + 3] = {0};
    if (!bits_ok(bits)) return bad_bits(bits, err);
    to_stream(bits, tile, ring);
    for (unsigned t = 0; t < ML_EXL3_TILE; t++) {
        const unsigned first = (t + 1) * bits; /* of the window, in bits of `ring` */
        const uint8_t *b = ring + first / 8;
        const uint32_t word = (uint32_t)b[0] << 16 | (uint32_t)b[1] << 8 | b[2];
        state[t] = (uint16_t)(word >> (8 - first % 8));
    }
    return MARLIN_OK;
}

static unsigned first_break(unsigned bits, const uint16_t state[ML_EXL3_TILE]) {
    const unsigned kept = (1u << (ML_EXL3_WINDOW - bits)) - 1;
    for (unsigned t = 0; t < ML_EXL3_TILE; t++)
        if ((unsigned)state[t] >> bits != (state[(t + ML_EXL3_TILE - 1) % ML_EXL3_TILE] & kept)) return t;
    return ML_EXL3_TILE;
}

bool ml_exl3_valid(unsigned bits, const uint16_t state[ML_EXL3_TILE]) {
    return bits_ok(bits) && first_break(bits, state) == ML_EXL3_TILE;
}

marlin_status ml_exl3_pack(unsigned bits, const uint16_t state[ML_EXL3_TILE], uint8_t *tile,
                           struct marlin_error *err) {
    if (!bits_ok(bits)) return bad_bits(bits, err);
    const unsigned broken = first_break(bits, state);
    if (broken < ML_EXL3_TILE)
        return ml_fail(err, MARLIN_ERR_FORMAT,
                       "EXL3 tile: state 0x%04x of weight %u does not follow from the one before, 0x%04x",
                       state[broken], broken, state[(broken + ML_EXL3_TILE - 1) % ML_EXL3_TILE]);
    uint32_t pending = 0;
    unsigned held = 0;
    size_t out = 0;
    for (unsigned t = 0; t < ML_EXL3_TILE; t++) {
        pending = pending << bits | (state[t] & ((1u << bits) - 1));
        for (held += bits; held >= 8; held -= 8)
            tile[out++ ^ 3] = (uint8_t)(pending >> (held - 8));
    }
    return MARLIN_OK;
}

marlin_status ml_exl3_decode(unsigned bits, enum ml_exl3_codebook cb, const uint8_t *tile,
                             uint16_t out[ML_EXL3_TILE], struct marlin_error *err) {
    uint16_t state[ML_EXL3_TILE];
    if ((unsigned)cb >= ML_EXL3_CODEBOOKS)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "EXL3 tile: codebook %d is unknown", (int)cb);
    const marlin_status st = ml_exl3_unpack(bits, tile, state, err);
    if (st != MARLIN_OK) return st;
    for (unsigned t = 0; t < ML_EXL3_TILE; t++)
        out[order[t]] = ml_exl3_value(cb, state[t]);
    return MARLIN_OK;
}
