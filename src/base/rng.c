/* SPDX-License-Identifier: Apache-2.0
 *
 * SplitMix64 and xoshiro256**.
 */
#include "base/rng.h"

#include <math.h>

static uint64_t split_mix(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void ml_rng_seed(struct ml_rng *r, uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        r->s[i] = split_mix(&seed);
    }
}

static uint64_t rotate_left(uint64_t x, int n) {
    return x << n | x >> (64 - n);
}

uint64_t ml_rng_u64(struct ml_rng *r) {
    uint64_t *s = r->s;
    const uint64_t result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

double ml_rng_double(struct ml_rng *r) {
    return (double)(ml_rng_u64(r) >> 11) * 0x1p-53;
}

float ml_rng_normal(struct ml_rng *r) {
    const double u = 1.0 - ml_rng_double(r); /* never 0 */
    const double v = ml_rng_double(r);
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}
