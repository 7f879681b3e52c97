/* SPDX-License-Identifier: Apache-2.0
 *
 * Plain int8 rows.
 */
#include "packing/int8.h"

#include <math.h>

marlin_status ml_int8_pack(const float *x, size_t n, int8_t *q, float *scale, struct marlin_error *err) {
    float most = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i]))
            return ml_fail(err, MARLIN_ERR_NUMERIC, "int8 row: element %zu is %s", i,
                           isnan(x[i]) ? "not a number" : "infinite");
        most = fmaxf(most, fabsf(x[i]));
    }
    const float unit = most / 127;
    *scale = unit;
    for (size_t i = 0; i < n; i++) {
        /* A division, because the reciprocal of a subnormal unit overflows; clamped, because a subnormal unit
         * is coarse enough for the quotient to pass 127. */
        const float steps = unit > 0 ? rintf(x[i] / unit) : 0;
        q[i] = (int8_t)fmaxf(-127, fminf(127, steps));
    }
    return MARLIN_OK;
}

void ml_int8_unpack(const int8_t *q, size_t n, float scale, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = scale * (float)q[i];
}
