/* SPDX-License-Identifier: Apache-2.0
 *
 * Trellis search with 32-bit costs, in the vectors that the compiler makes of AVX-512.
 */
#include "kernels/viterbi_wide.h"

void ml_viterbi_wide_avx512(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                            uint8_t symbol[ML_VITERBI_STEPS], void *scratch) {
    search_wide(c, level, symbol, scratch);
}
