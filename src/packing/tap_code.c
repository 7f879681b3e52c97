/* SPDX-License-Identifier: Apache-2.0
 *
 * A tap code as bytes, and back. The drawing is in the header.
 */
#include "packing/tap.h"

#include <string.h>

size_t ml_tap_code_write(const struct ml_tap_code *c, uint8_t out[ML_TAP_CODE_MAX]) {
    const size_t entries = (size_t)1 << c->index_bits;
    uint32_t unit;
    memcpy(&unit, &c->unit, sizeof unit);
    memset(out, 0, ML_TAP_CODE_HEAD);
    out[0] = ML_TAP_CODE_VERSION;
    out[1] = c->bits;
    out[2] = c->window;
    out[3] = c->index_bits;
    memcpy(out + 4, c->taps, ML_TAP_MAX_TAPS);
    for (int i = 0; i < 4; i++)
        out[8 + i] = (uint8_t)(unit >> 8 * i);
    memcpy(out + ML_TAP_CODE_HEAD, c->table, entries);
    return ML_TAP_CODE_HEAD + entries;
}

static bool reserved_is_zero(const uint8_t *b) {
    return b[7] == 0 && b[12] == 0 && b[13] == 0 && b[14] == 0 && b[15] == 0;
}

marlin_status ml_tap_code_read(const uint8_t *bytes, size_t n, struct ml_tap_code *c,
                               struct marlin_error *err) {
    memset(c, 0, sizeof *c);
    if (n < ML_TAP_CODE_HEAD)
        return ml_fail(err, MARLIN_ERR_FORMAT, "tap code: %zu bytes, must be at least %d", n,
                       ML_TAP_CODE_HEAD);
    if (bytes[0] != ML_TAP_CODE_VERSION)
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "tap code: version %u; this program reads version %d: update it", bytes[0],
                       ML_TAP_CODE_VERSION);
    c->bits = bytes[1];
    c->window = bytes[2];
    c->index_bits = bytes[3];
    memcpy(c->taps, bytes + 4, ML_TAP_MAX_TAPS);
    uint32_t unit = 0;
    for (int i = 0; i < 4; i++)
        unit |= (uint32_t)bytes[8 + i] << 8 * i;
    memcpy(&c->unit, &unit, sizeof unit);
    if (!reserved_is_zero(bytes) || c->index_bits > ML_TAP_MAX_INDEX ||
        n != ML_TAP_CODE_HEAD + ((size_t)1 << c->index_bits))
        return ml_fail(err, MARLIN_ERR_FORMAT,
                       "tap code: %zu bytes for an index of %u bits, or noise in its "
                       "reserved bytes",
                       n, c->index_bits);
    memcpy(c->table, bytes + ML_TAP_CODE_HEAD, (size_t)1 << c->index_bits);
    return ml_tap_check(c, err);
}
