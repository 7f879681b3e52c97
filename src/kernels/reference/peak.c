/* SPDX-License-Identifier: Apache-2.0
 *
 * Peaks of portable C: what the compiler makes of eight independent chains.
 */
#include "kernels/tiers.h"

enum { CHAINS = 8 };

static float peak_read(const float *p, size_t n) {
    float acc[CHAINS] = {0};
    for (size_t i = 0; i < n; i += CHAINS) {
        for (size_t j = 0; j < CHAINS; j++)
            acc[j] += p[i + j];
    }
    float sum = 0;
    for (size_t j = 0; j < CHAINS; j++)
        sum += acc[j];
    return sum;
}

static double peak_f32(size_t rounds, float *sink) {
    float acc[CHAINS] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (size_t r = 0; r < rounds; r++) {
        for (size_t j = 0; j < CHAINS; j++)
            acc[j] = acc[j] * 0.5f + 0.25f;
    }
    *sink = 0;
    for (size_t j = 0; j < CHAINS; j++)
        *sink += acc[j];
    return 2.0 * CHAINS * (double)rounds;
}

void ml_peak_init_reference(struct ml_peak_kernels *k) {
    *k = (struct ml_peak_kernels){.read = peak_read, .f32 = peak_f32};
}
