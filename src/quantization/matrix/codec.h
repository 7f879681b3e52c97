/* SPDX-License-Identifier: Apache-2.0
 *
 * A codec quantizes 16 x 16 tiles of rotated weights: the `marlin` tap trellis or one of the EXL3 codebooks.
 * One driver (quantization/matrix/linear.h) serves both. The codec knows the order of symbols in a tile,
 * which side of a tile is which, and its bytes.
 */
#ifndef ML_QUANTIZATION_CODEC_H
#define ML_QUANTIZATION_CODEC_H

#include "base/status.h"
#include "kernels/viterbi.h"
#include "packing/exl3.h"
#include "packing/tap.h"

#include <stddef.h>
#include <stdint.h>

enum { ML_TILE = 16, ML_TILE_WEIGHTS = 256 };

enum ml_codec_kind { ML_CODEC_TAP, ML_CODEC_EXL3 };

/* Immutable once made; any number of threads may share it. */
struct ml_codec {
    enum ml_codec_kind kind;
    int bits;
    size_t tile_bytes;              /* 32 * bits */
    float unit;                     /* root mean square that Gaussian targets should have */
    const struct ml_tap_code *tap;  /* ML_CODEC_TAP */
    enum ml_exl3_codebook codebook; /* ML_CODEC_EXL3 */
    struct ml_viterbi_code viterbi;
    struct ml_viterbi_kernels search;
    uint8_t order[ML_TILE_WEIGHTS]; /* step of the search -> 16 * output + input inside the tile */
};

/* "marlin": bits 2..6, window 12, 14 or 16. MARLIN_ERR_UNSUPPORTED for others. Release with ml_codec_free. */
marlin_status ml_codec_tap(struct ml_codec *c, int bits, int window, enum ml_cpu_tier tier,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* "exl3": bits 1..8. */
marlin_status ml_codec_exl3(struct ml_codec *c, int bits, enum ml_exl3_codebook codebook,
                            enum ml_cpu_tier tier, struct marlin_error *err) MARLIN_MUST_CHECK;

void ml_codec_free(struct ml_codec *c);

/* The unit of an EXL3 codebook with 1..8 bits; made by tools/train_units. A tap code's is 1: its table was
 * trained for that. */
float ml_exl3_unit(int bits, enum ml_exl3_codebook codebook);

/* Quantizes one tile. in: [16 outputs][16 inputs], row `stride` floats apart. values: [16][16], what the
 * decoder will produce. bytes: tile_bytes. scratch: ml_viterbi_scratch(&c->viterbi) bytes, 64-byte aligned,
 * one a thread. */
void ml_codec_quantize(const struct ml_codec *c, void *scratch, const float *in, size_t stride,
                       float values[ML_TILE_WEIGHTS], uint8_t *bytes);

/* Tile bytes to values [16 outputs][16 inputs]. */
void ml_codec_decode(const struct ml_codec *c, const uint8_t *bytes, float values[ML_TILE_WEIGHTS]);

#endif
