/* SPDX-License-Identifier: Apache-2.0
 *
 * The tap codes that the quantizer uses. The constants in tap_codes.c are made by tools/train_codes (fixed
 * seed), which also prints their distortion. Files carry their code in full, so these may be bettered at any
 * time without a change of format.
 */
#ifndef ML_PACKING_CODES_H
#define ML_PACKING_CODES_H

#include "packing/tap.h"

/* Windows that every bit width has a code for: the encoder's work doubles with each bit, the decoder's does
 * not change. */
enum { ML_TAP_WINDOW_NORMAL = 12, ML_TAP_WINDOW_MIDDLE = 14, ML_TAP_WINDOW_HIGH = 16 };

/* The code for k = 2..6 bits and a window of 12, 14 or 16; NULL for anything else. Static storage. */
const struct ml_tap_code *ml_tap_code_find(unsigned bits, unsigned window);

/* All codes in order of bits, then window. */
const struct ml_tap_code *ml_tap_codes(size_t *count);

#endif
