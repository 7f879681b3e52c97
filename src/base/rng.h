/* SPDX-License-Identifier: Apache-2.0
 *
 * Seeded random numbers, the same on every platform: SplitMix64 (Steele, Lea, Flood 2014) seeding
 * xoshiro256** (Blackman, Vigna 2018).
 */
#ifndef ML_BASE_RNG_H
#define ML_BASE_RNG_H

#include <stdint.h>

struct ml_rng {
    uint64_t s[4];
};

void ml_rng_seed(struct ml_rng *r, uint64_t seed);
uint64_t ml_rng_u64(struct ml_rng *r);
double ml_rng_double(struct ml_rng *r); /* uniform in [0, 1), 53 bits */
float ml_rng_normal(struct ml_rng *r);  /* N(0, 1), Box-Muller */

#endif
