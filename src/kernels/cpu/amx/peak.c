/* SPDX-License-Identifier: Apache-2.0
 *
 * Peak of AMX's product of bytes.
 */
#include "kernels/cpu/amx/tile.h"

#include "kernels/tiers.h"

#include <string.h>

static double peak_int8(size_t rounds, float *sink) {
    enum { SUMS = 6 };
    const size_t turns = (rounds + 15) / 16; /* a round of the other loops is less work */
    int32_t sum[16][16];
    memset(sum, 1, sizeof sum);
    TILES_BEGIN();
    TILE_LOAD(6, sum, sizeof *sum);
    TILE_LOAD(7, sum, sizeof *sum);
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    TILE_ZERO(4);
    TILE_ZERO(5);
    for (size_t i = 0; i < turns; i++) {
        TILE_DOT(0, 6, 7);
        TILE_DOT(1, 6, 7);
        TILE_DOT(2, 6, 7);
        TILE_DOT(3, 6, 7);
        TILE_DOT(4, 6, 7);
        TILE_DOT(5, 6, 7);
    }
    TILE_STORE(sum, sizeof *sum, 0);
    TILES_END();
    *sink = (float)sum[0][0];
    return 2.0 * 16 * 16 * 64 * SUMS * (double)turns;
}

void ml_peak_init_amx(struct ml_peak_kernels *k) {
    k->int8 = peak_int8;
}
