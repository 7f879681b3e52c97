/* SPDX-License-Identifier: Apache-2.0
 *
 * The vocabulary of tiles: eight registers of 16 rows of 64 bytes. Their numbers are parts of instructions,
 * hence macros with literal numbers. Tiles are state of a thread: TILES_BEGIN where it multiplies, TILES_END
 * when it has, after which a switch of threads need not save them.
 *
 *   TILE_DOT(c, a, b)   c[t][r] += sum over 4 i + j of a[t][4 i + j] * b[i][4 r + j]: int32, int8, uint8
 */
#ifndef ML_KERNELS_CPU_AMX_TILE_H
#define ML_KERNELS_CPU_AMX_TILE_H

#include <immintrin.h>
#include <stdint.h>

/* What ldtilecfg reads. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16]; /* of tile i */
    uint8_t rows[16];
};

/* A constant: gcc's intrinsic tells that it reads the first 8 bytes alone. */
static const struct tile_config all_tiles = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};
_Static_assert(sizeof all_tiles == 64, "what ldtilecfg reads");

/* Nor do its intrinsics of loads tell that they read memory: what was stored there must not be kept back. */
#define TILE_BARRIER() __asm__ volatile("" ::: "memory")

#define TILES_BEGIN() _tile_loadconfig(&all_tiles)
#define TILES_END()   _tile_release()
#define TILE_ZERO(t)  _tile_zero(t)
#define TILE_LOAD(t, from, stride)                                                                           \
    do {                                                                                                     \
        TILE_BARRIER();                                                                                      \
        _tile_loadd(t, from, stride);                                                                        \
    } while (0)
#define TILE_STORE(to, stride, t)                                                                            \
    do {                                                                                                     \
        _tile_stored(t, to, stride);                                                                         \
        TILE_BARRIER();                                                                                      \
    } while (0)
#define TILE_DOT(c, a, b) _tile_dpbsud(c, a, b)

#endif
