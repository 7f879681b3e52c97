/* SPDX-License-Identifier: Apache-2.0 */
#include "rings.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { RING = ML_VITERBI_STEPS };

void rings_fail(const char *what) {
    fprintf(stderr, "tool: %s\n", what);
    exit(1);
}

float *rings_samples(uint64_t seed, unsigned rings) {
    struct ml_rng rng;
    float *x = ml_alloc((size_t)rings * RING * sizeof *x);
    if (!x) rings_fail("no memory for samples");
    ml_rng_seed(&rng, seed);
    for (size_t i = 0; i < (size_t)rings * RING; i++)
        x[i] = ml_rng_normal(&rng);
    return x;
}

struct rings_distortion rings_measure(const struct ml_viterbi_kernels *k, const struct ml_viterbi_code *c,
                                      float scale, const float *x, unsigned rings, void *scratch) {
    double sum = 0, square = 0;
    for (unsigned r = 0; r < rings; r++, x += RING) {
        float target[RING];
        uint16_t state[RING];
        for (int i = 0; i < RING; i++)
            target[i] = x[i] * scale;
        const double mse = ml_viterbi_ring(k, c, target, state, scratch) / ((double)scale * scale * RING);
        sum += mse;
        square += mse * mse;
    }
    const double mean = sum / rings;
    return (struct rings_distortion){mean, sqrt((square / rings - mean * mean) / rings)};
}

double rings_speed(const struct ml_viterbi_kernels *k, const struct ml_viterbi_code *c, const float *x,
                   unsigned rings, unsigned repeats, void *scratch) {
    double least = INFINITY;
    uint16_t state[RING];
    for (unsigned i = 0; i < repeats; i++) {
        const double start = ml_clock_seconds();
        for (unsigned r = 0; r < rings; r++)
            (void)ml_viterbi_ring(k, c, x + (size_t)r * RING, state, scratch);
        least = fmin(least, ml_clock_seconds() - start);
    }
    return (double)rings * RING / least / 1e6;
}
