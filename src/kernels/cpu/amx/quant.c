/* SPDX-License-Identifier: Apache-2.0
 *
 * Many rows of x by quantized weights on AMX, over the AVX-512 tier.
 */
#include "kernels/cpu/amx/tile.h"

#include "kernels/cpu/amx/dots.h"
#include "kernels/cpu/quant_x_simd.h"

static void round_rows(struct ml_quant_x *x, const struct ml_quant_matrix *m, enum ml_quant_rows rows,
                       const float *rotated) {
    round_x(x, m, rows, rotated, MANY_BYTES);
}

void ml_quant_init_amx(struct ml_kernels *k) {
    k->quant.round = round_rows;
    k->quant.dots = tile_dots;
}
