/* SPDX-License-Identifier: Apache-2.0
 *
 * Tiles as the manual defines them. What a program must not do ends the test: use tiles that are not
 * configured, or leave them so.
 */
#include "amx_emulated.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct tile {
    uint8_t row[16][64];
};

static _Thread_local struct tile tiles[8];
static _Thread_local bool configured;

static void configure(bool wanted) {
    if (configured == wanted) abort();
    configured = wanted;
    memset(tiles, 0, sizeof tiles);
}

static struct tile *tile(int t) {
    if (!configured) abort();
    return &tiles[t];
}

static void zero(int t) {
    memset(tile(t), 0, sizeof *tiles);
}

static void load(int t, const void *from, size_t stride) {
    for (size_t i = 0; i < 16; i++)
        memcpy(tile(t)->row[i], (const uint8_t *)from + i * stride, 64);
}

static void store(void *to, size_t stride, int t) {
    for (size_t i = 0; i < 16; i++)
        memcpy((uint8_t *)to + i * stride, tile(t)->row[i], 64);
}

static void dot(int c, int a, int b) {
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            uint32_t sum;
            memcpy(&sum, tile(c)->row[m] + 4 * n, sizeof sum);
            for (int k = 0; k < 64; k++)
                sum += (uint32_t)((int8_t)tile(a)->row[m][k] * tile(b)->row[k / 4][4 * n + k % 4]);
            memcpy(tile(c)->row[m] + 4 * n, &sum, sizeof sum);
        }
}

#define TILES_BEGIN()              configure(true)
#define TILES_END()                configure(false)
#define TILE_ZERO(t)               zero(t)
#define TILE_LOAD(t, from, stride) load(t, from, stride)
#define TILE_STORE(to, stride, t)  store(to, stride, t)
#define TILE_DOT(c, a, b)          dot(c, a, b)

#include "kernels/cpu/amx/dots.h"
#include "kernels/cpu/quant_x_simd.h"

static void round_rows(struct ml_quant_x *x, const struct ml_quant_matrix *m, enum ml_quant_rows rows,
                       const float *rotated) {
    round_x(x, m, rows, rotated, MANY_BYTES);
}

void amx_emulated_init(struct ml_kernels *k) {
    k->quant.round = round_rows;
    k->quant.dots = tile_dots;
}

bool amx_emulated_busy(void) {
    return configured;
}
