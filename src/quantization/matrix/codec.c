/* SPDX-License-Identifier: Apache-2.0
 *
 * The two codecs over the one trellis search. They differ in direction and in orientation: a tap tile's
 * window looks at the next symbols and its rows are outputs; an EXL3 tile's looks at the previous ones and
 * its rows are inputs.
 */
#include "quantization/matrix/codec.h"

#include "base/assert.h"
#include "base/fp.h"
#include "packing/codes.h"

#include <string.h>

marlin_status ml_codec_tap(struct ml_codec *c, int bits, int window, enum ml_cpu_tier tier,
                           struct marlin_error *err) {
    memset(c, 0, sizeof *c);
    c->tap = bits > 0 && window > 0 ? ml_tap_code_find((unsigned)bits, (unsigned)window) : NULL;
    if (!c->tap)
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "marlin trellis: no code for %d bits with a window of %d",
                       bits, window);
    c->kind = ML_CODEC_TAP;
    c->bits = bits;
    c->tile_bytes = ml_tap_tile_bytes((unsigned)bits);
    c->unit = 1.0f;
    const uint8_t *order = ml_tap_order((unsigned)bits);
    for (int i = 0; i < ML_TILE_WEIGHTS; i++) {
        c->order[i] = order[ML_TILE_WEIGHTS - 1 - i];
    }
    ml_viterbi_kernels_init(&c->search, tier);
    return ml_viterbi_code_tap(&c->viterbi, c->tap, NULL, err);
}

marlin_status ml_codec_exl3(struct ml_codec *c, int bits, enum ml_exl3_codebook codebook,
                            enum ml_cpu_tier tier, struct marlin_error *err) {
    memset(c, 0, sizeof *c);
    if (bits < ML_EXL3_MIN_BITS || bits > ML_EXL3_MAX_BITS)
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "EXL3: %d bits; 1 to 8 are possible", bits);
    c->kind = ML_CODEC_EXL3;
    c->bits = bits;
    c->codebook = codebook;
    c->tile_bytes = ml_exl3_tile_bytes((unsigned)bits);
    c->unit = ml_exl3_unit(bits, codebook);
    const uint8_t *order = ml_exl3_order();
    for (int i = 0; i < ML_TILE_WEIGHTS; i++) {
        c->order[i] = (uint8_t)((order[i] & 15) << 4 | order[i] >> 4);
    }
    ml_viterbi_kernels_init(&c->search, tier);
    return ml_viterbi_code_exl3(&c->viterbi, (unsigned)bits, codebook, err);
}

void ml_codec_free(struct ml_codec *c) {
    ml_viterbi_code_free(&c->viterbi);
}

static void pack(const struct ml_codec *c, const uint16_t *state, uint8_t *bytes) {
    marlin_status st;
    if (c->kind == ML_CODEC_TAP) {
        uint8_t symbol[ML_TILE_WEIGHTS];
        const unsigned mask = (1u << c->bits) - 1;
        for (int i = 0; i < ML_TILE_WEIGHTS; i++) {
            symbol[ML_TILE_WEIGHTS - 1 - i] = (uint8_t)(state[i] & mask);
        }
        st = ml_tap_pack((unsigned)c->bits, symbol, bytes, NULL);
    } else {
        st = ml_exl3_pack((unsigned)c->bits, state, bytes, NULL);
    }
    if (st != MARLIN_OK)
        memset(bytes, 0, c->tile_bytes); /* impossible: symbols are masked and rings are closed */
}

void ml_codec_quantize(const struct ml_codec *c, void *scratch, const float *in, size_t stride,
                       float values[ML_TILE_WEIGHTS], uint8_t *bytes) {
    ML_ASSERT(stride >= ML_TILE && (uintptr_t)scratch % 64 == 0);
    float target[ML_TILE_WEIGHTS];
    uint16_t state[ML_TILE_WEIGHTS];
    for (int i = 0; i < ML_TILE_WEIGHTS; i++) {
        target[i] = in[(size_t)(c->order[i] >> 4) * stride + (c->order[i] & 15)];
    }
    (void)ml_viterbi_ring(&c->search, &c->viterbi, target, state, scratch);
    for (int i = 0; i < ML_TILE_WEIGHTS; i++) {
        values[c->order[i]] = c->viterbi.value[state[i]];
    }
    pack(c, state, bytes);
}

void ml_codec_decode(const struct ml_codec *c, const uint8_t *bytes, float values[ML_TILE_WEIGHTS]) {
    if (c->kind == ML_CODEC_TAP) {
        int8_t entry[ML_TILE_WEIGHTS];
        ml_tap_decode(c->tap, bytes, entry);
        for (int i = 0; i < ML_TILE_WEIGHTS; i++) {
            values[i] = (float)entry[i] * c->tap->unit;
        }
        return;
    }
    uint16_t half[ML_TILE_WEIGHTS];
    if (ml_exl3_decode((unsigned)c->bits, c->codebook, bytes, half, NULL) != MARLIN_OK)
        memset(half, 0, sizeof half);
    for (int i = 0; i < ML_TILE_WEIGHTS; i++) {
        values[(i & 15) << 4 | i >> 4] = ml_f16_to_f32(half[i]);
    }
}
