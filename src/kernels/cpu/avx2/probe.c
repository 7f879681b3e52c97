/* SPDX-License-Identifier: Apache-2.0
 *
 * The instruction whose behaviour the kernel check asks this processor about.
 */
#include "kernels/tiers.h"

#include <immintrin.h>

float ml_probe_masked_load(const float *p) {
    /* A mask that the compiler knew would become another instruction. */
    volatile int one = 1;
    const __m256i first =
        _mm256_cmpgt_epi32(_mm256_set1_epi32(one), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_cvtss_f32(_mm256_maskload_ps(p, first));
}
