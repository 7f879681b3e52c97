/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the bytes of one EXL3 tile: 16 x 16 weights, K = 1..8 bits each, and the three codebooks that turn a
 * 16-bit trellis state into a binary16 value. Tensors, scales and Hadamard blocks are not here.
 *
 * A tile is a ring of 256 K bits, stored as 16 K little-endian uint16. Read as uint32 words the stream runs
 * from the most significant bit down:
 *
 *     bit      0 ... 15 16 ... 31 32 ...
 *     element  [  e1  ][   e0   ][  e3  ] ...      (pairs of uint16 are swapped: B[i] is in e[(i / 16) ^ 1])
 *
 *     symbol   s0   s1   s2 ...                    K bits each, most significant bit first
 *     state[t] = the 16 bits that end with symbol t, cyclic, so that
 *     state[t] = (state[t - 1] << K | symbol[t]) & 0xffff, with state[-1] = state[255]
 *
 * The stream visits the tile in the order of a tensor-core fragment (ml_exl3_order). Rows are input channels,
 * columns output channels.
 */
#ifndef ML_PACKING_EXL3_H
#define ML_PACKING_EXL3_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ML_EXL3_TILE = 256,
    ML_EXL3_SIDE = 16,
    ML_EXL3_WINDOW = 16,
    ML_EXL3_MIN_BITS = 1,
    ML_EXL3_MAX_BITS = 8
};

enum ml_exl3_codebook { ML_EXL3_3INST, ML_EXL3_MCG, ML_EXL3_MUL1, ML_EXL3_CODEBOOKS };

/* What states are multiplied by, modulo 2^32; 3INST adds a number too. */
#define ML_EXL3_3INST_MULTIPLIER 89226354u
#define ML_EXL3_3INST_ADDEND     64248484u
#define ML_EXL3_MCG_MULTIPLIER   0xcbac1fedu
#define ML_EXL3_MUL1_MULTIPLIER  0x83dcd12du

/* "3inst", "mcg", "mul1": in config.json, and the suffix of the tensor that names a layer's codebook. */
const char *ml_exl3_codebook_name(enum ml_exl3_codebook cb);
/* The codebook of that name; false when there is none. */
bool ml_exl3_codebook_find(const char *name, enum ml_exl3_codebook *out);
/* The multiplier that files hold beside a layer ("P.mcg", "P.mul1"); 0: the codebook is the one that goes
 * without saying. */
uint32_t ml_exl3_stored_multiplier(enum ml_exl3_codebook cb);

/* Bytes of a tile, 32 K; 0 when K is outside 1..8. */
size_t ml_exl3_tile_bytes(unsigned bits);

/* The binary16 bits that a state stands for. Any thread. */
uint16_t ml_exl3_value(enum ml_exl3_codebook cb, uint16_t state);

/* Writes the whole codebook as float32 (exact), 65536 values by state. */
void ml_exl3_table(enum ml_exl3_codebook cb, float *out);

/* order[t] = 16 * row + column of the t-th weight of the stream; a permutation of 0..255. */
const uint8_t *ml_exl3_order(void);

/* Reads the 256 states of a tile in stream order. Every bit pattern is a tile. `tile` needs no alignment and
 * holds ml_exl3_tile_bytes(bits) bytes. MARLIN_ERR_ARGUMENT when K is outside 1..8. */
marlin_status ml_exl3_unpack(unsigned bits, const uint8_t *tile, uint16_t state[ML_EXL3_TILE],
                             struct marlin_error *err) MARLIN_MUST_CHECK;

/* True when each state follows from the one before, around the ring. */
bool ml_exl3_valid(unsigned bits, const uint16_t state[ML_EXL3_TILE]);

/* Writes a tile from 256 states in stream order. MARLIN_ERR_FORMAT, naming the weight, when the states do not
 * close into a ring; the tile is left alone then. */
marlin_status ml_exl3_pack(unsigned bits, const uint16_t state[ML_EXL3_TILE], uint8_t *tile,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* Decodes a tile to binary16 bits, row-major [16][16]. */
marlin_status ml_exl3_decode(unsigned bits, enum ml_exl3_codebook cb, const uint8_t *tile,
                             uint16_t out[ML_EXL3_TILE], struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
