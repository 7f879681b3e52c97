/* SPDX-License-Identifier: Apache-2.0
 *
 * Trellis search with 32-bit costs, for any machine.
 */
#include "kernels/viterbi_wide.h"

void ml_viterbi_search_wide(const struct ml_viterbi_code *c, const int16_t level[ML_VITERBI_STEPS],
                            uint8_t symbol[ML_VITERBI_STEPS], void *scratch) {
    search_wide(c, level, symbol, scratch);
}
