/* SPDX-License-Identifier: Apache-2.0
 *
 * Made by tools/train_units; do not edit. Root mean square of Gaussian targets, in codebook units, with the
 * least distortion.
 */
#include "quantization/matrix/codec.h"

static const float unit[ML_EXL3_CODEBOOKS][ML_EXL3_MAX_BITS + 1] = {
    {0, 1.428f, 1.234f, 1.179f, 1.144f, 1.083f, 1.032f, 1.020f, 0.958f}, /* 3INST */
    {0, 1.423f, 1.234f, 1.181f, 1.139f, 1.087f, 1.033f, 0.976f, 0.958f}, /* MCG */
    {0, 1.120f, 0.992f, 0.944f, 0.922f, 0.891f, 0.870f, 0.870f, 0.870f}, /* MUL1 */
};

float ml_exl3_unit(int bits, enum ml_exl3_codebook codebook) {
    return unit[codebook][bits];
}
