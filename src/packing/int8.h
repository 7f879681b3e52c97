/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns plain int8 rows: n signed bytes in -127..127 and one float32 scale a row, kept outside the bytes.
 *
 *     weight[i] = scale * q[i]
 *
 *     bytes of a row   +----+----+-- ... --+------+        scale = max |weight| / 127 (0 for a row of zeros)
 *                      | q0 | q1 |         | qn-1 |
 *                      +----+----+-- ... --+------+
 */
#ifndef ML_PACKING_INT8_H
#define ML_PACKING_INT8_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/* Rounds n floats to the nearest step (ties to even) and writes the scale. MARLIN_ERR_NUMERIC, naming the
 * element, when one is NaN or infinite; q and scale are left alone then. n may be 0 (scale 0). Any thread. */
marlin_status ml_int8_pack(const float *x, size_t n, int8_t *q, float *scale,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* out[i] = scale * q[i]. */
void ml_int8_unpack(const int8_t *q, size_t n, float scale, float *out);

#endif
