/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tools share: N(0, 1) samples in rings of 256 and the distortion of a trellis on them.
 */
#ifndef TOOLS_RINGS_H
#define TOOLS_RINGS_H

#include "kernels/viterbi.h"

#include <stdint.h>

/* Prints "tool: what" to stderr and ends the program. */
_Noreturn void rings_fail(const char *what);

/* 256 * rings samples; owned by the caller (ml_free). The same seed gives the same samples everywhere. */
float *rings_samples(uint64_t seed, unsigned rings);

struct rings_distortion {
    double mean;  /* squared error of a sample, for samples of variance 1 */
    double error; /* standard error of that mean; rings are independent */
};

/* Encodes x * scale with a trellis; the errors are those of x. */
struct rings_distortion rings_measure(const struct ml_viterbi_kernels *k, const struct ml_viterbi_code *c,
                                      float scale, const float *x, unsigned rings, void *scratch);

/* Million weights a second of one core: the best of `repeats` runs over the same `rings` rings, so that what
 * else the machine does counts least. */
double rings_speed(const struct ml_viterbi_kernels *k, const struct ml_viterbi_code *c, const float *x,
                   unsigned rings, unsigned repeats, void *scratch);

#endif
