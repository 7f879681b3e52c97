/* SPDX-License-Identifier: Apache-2.0
 *
 * Random numbers for tests. Include after cmocka.h.
 */
#ifndef ML_TESTS_NORMALS_H
#define ML_TESTS_NORMALS_H

#include "base/rng.h"

#include <stdlib.h>

/* n numbers of N(0, 1); free() them. */
static inline float *normals(size_t n, uint64_t seed) {
    struct ml_rng rng;
    ml_rng_seed(&rng, seed);
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = ml_rng_normal(&rng);
    return x;
}

#endif
