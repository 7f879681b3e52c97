/* SPDX-License-Identifier: Apache-2.0
 *
 * Block LDL of a Hessian from its Cholesky factor.
 */
#include "quantization/ldlq.h"

#include <math.h>

static float dot(const float *a, const float *b, size_t n) {
    float sum[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t j = 0; j < 8; j++)
            sum[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        sum[0] += a[i] * b[i];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* Row by row, h = C C' in the lower triangle: every sum is over a contiguous run of two rows. */
static marlin_status cholesky(float *h, size_t k, struct marlin_error *err) {
    for (size_t i = 0; i < k; i++) {
        float *row = h + i * k;
        for (size_t j = 0; j < i; j++)
            row[j] = (row[j] - dot(row, h + j * k, j)) / h[j * k + j];
        const float pivot = row[i] - dot(row, row, i);
        if (!(pivot > 0) || !isfinite(pivot))
            return ml_fail(err, MARLIN_ERR_NUMERIC,
                           "Hessian of %zu channels is not positive definite (pivot %zu is %g)", k, i,
                           (double)pivot);
        row[i] = sqrtf(pivot);
    }
    return MARLIN_OK;
}

/* Column block b of C times the inverse of its own diagonal block: L = C blockdiag(C_bb)^-1, for the rows
 * below it. x C_bb = p is solved from the last channel to the first. */
static void divide_block(float *c, size_t k, size_t b) {
    const float *diagonal = c + b * k + b;
    for (size_t r = b + ML_TILE; r < k; r++) {
        float *x = c + r * k + b;
        for (size_t j = ML_TILE; j-- > 0;) {
            float sum = x[j];
            for (size_t i = j + 1; i < ML_TILE; i++)
                sum -= x[i] * diagonal[i * k + j];
            x[j] = sum / diagonal[j * k + j];
        }
    }
}

static void transpose_to_upper(float *l, size_t k) {
    for (size_t i = 0; i < k; i++) {
        for (size_t j = 0; j < i; j++) {
            const bool same_block = i / ML_TILE == j / ML_TILE;
            l[j * k + i] = same_block ? 0.0f : l[i * k + j];
            l[i * k + j] = 0.0f;
        }
        l[i * k + i] = 0.0f;
    }
}

marlin_status ml_ldl_factor(float *h, size_t k, struct marlin_error *err) {
    if (k == 0 || k % ML_TILE || k > 1u << 17)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "Hessian of %zu channels: not a multiple of %d", k, ML_TILE);
    const marlin_status st = cholesky(h, k, err);
    if (st != MARLIN_OK) return st;
    for (size_t b = 0; b < k; b += ML_TILE) {
        divide_block(h, k, b);
    }
    transpose_to_upper(h, k);
    return MARLIN_OK;
}
