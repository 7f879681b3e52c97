/* SPDX-License-Identifier: Apache-2.0
 *
 * gemv and gemm over the vector vocabulary of a tier.
 *
 * The tile is 4 rows of W by TILE_TOKENS rows of x, vectors along the columns: rows and inputs are both
 * contiguous there, so nothing is transposed, and each step of VL columns costs 4 + TILE_TOKENS loads for 4
 * TILE_TOKENS FMAs. The sums over lanes are taken four rows at a time, once every BLOCK columns.
 *
 * One order of summation for everything: lane c mod VL, c rising, in blocks of BLOCK columns whose sums are
 * added in rising order. So y[t, r] depends on W[r] and x[t] alone: not on n, the place in the matrix or the
 * threads.
 *
 * gemm widens PANEL rows of a block of columns into scratch (256 KiB, stays in L2) and takes every token past
 * it; a block of TILE_TOKENS inputs (24 KiB) stays in L1. Up to TILE_TOKENS tokens go past W itself: one read
 * of W.
 */
#ifndef ML_KERNELS_CPU_MATMUL_SIMD_H
#define ML_KERNELS_CPU_MATMUL_SIMD_H

#include "kernels/cpu/unroll_simd.h"
#include "kernels/tiers.h"

#include <stdbool.h>

enum { TILE_ROWS = 4, BLOCK = ML_GEMM_BLOCK, PANEL = ML_GEMM_PANEL };

V_INLINE size_t element_size(const enum ml_dtype t) {
    return t == ML_F32 ? 4 : t == ML_I8 ? 1 : 2;
}

/* Whether vector i of a run of vectors, fetched ahead in turn, begins a cache line. */
V_INLINE bool new_line(const enum ml_dtype t, const int i) {
    return (size_t)i * VL * element_size(t) % 64 == 0;
}

/* sums[i] = the four row sums of token i over columns [c0, c0 + cols). row[] point at column c0.
 *
 * If `fetch`, `ahead` is fetched meanwhile, as much as the rows have, as the one stream that it is in
 * memory, which the processor's own prefetcher follows best. */
V_INLINE void dot_tile(const enum ml_dtype t, const int tokens, const void *const row[TILE_ROWS],
                       const float *const *x, size_t c0, size_t cols, const bool fetch, const char *ahead,
                       v4 *sums) {
    const size_t size = element_size(t);
    vf acc[TILE_TOKENS][TILE_ROWS];
    UNROLL
    for (int i = 0; i < tokens; i++) {
        UNROLL
        for (int r = 0; r < TILE_ROWS; r++)
            acc[i][r] = v_zero();
    }
    size_t c = 0;
#if defined(V_HALVES)
    if (tokens == 1 && fetch && size == 2) {
        c = cols / VL * VL;
        dot_halves(t, acc[0], row, x[0] + c0, c, ahead);
    }
#endif
    for (; c + VL <= cols; c += VL) {
        vf in[TILE_TOKENS];
        UNROLL
        for (int i = 0; i < tokens; i++)
            in[i] = v_load(x[i] + c0 + c);
        UNROLL
        for (int r = 0; r < TILE_ROWS; r++) {
            const vf w = v_load_as(t, row[r], c);
            if (fetch && new_line(t, r))
                __builtin_prefetch(ahead + ((size_t)TILE_ROWS * c + (size_t)r * VL) * size);
            UNROLL
            for (int i = 0; i < tokens; i++)
                acc[i][r] = v_fma(w, in[i], acc[i][r]);
        }
    }
    if (c < cols) {
        UNROLL
        for (int r = 0; r < TILE_ROWS; r++) {
            const vf w = v_loadn_as(t, row[r], c, cols - c);
            UNROLL
            for (int i = 0; i < tokens; i++)
                acc[i][r] = v_fma(w, v_loadn(x[i] + c0 + c, cols - c), acc[i][r]);
        }
    }
    UNROLL
    for (int i = 0; i + 1 < tokens; i += 2)
        v_sum4_pair(acc[i], acc[i + 1], &sums[i], &sums[i + 1]);
    if (tokens % 2) {
        const int i = tokens - 1;
        sums[i] = v_sum4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
    }
}

/* Four row pointers from row r on at column c0; rows past the end repeat the last one and are not stored. */
V_INLINE void tile_rows(const enum ml_dtype t, const void *w, size_t stride, size_t r, size_t rows, size_t c0,
                        const void *row[TILE_ROWS]) {
    const size_t size = element_size(t);
    for (size_t i = 0; i < TILE_ROWS; i++) {
        const size_t at = r + i < rows ? r + i : rows - 1;
        row[i] = (const char *)w + (at * stride + c0) * size;
    }
}

/* y[i][r] = W[r] . x[i], for a constant number of tokens, straight from W. `ahead`: as many bytes as W has,
 * to be fetched while W is read, or NULL. */
V_INLINE void direct(const enum ml_dtype t, const int tokens, float *const *y, const void *w, size_t stride,
                     const float *const *x, size_t rows, size_t cols, const bool fetch, const char *ahead) {
    const size_t size = element_size(t);
    for (size_t r = 0; r < rows; r += TILE_ROWS) {
        const size_t n = rows - r < TILE_ROWS ? rows - r : TILE_ROWS;
        const void *row[TILE_ROWS];
        v4 total[TILE_TOKENS], sums[TILE_TOKENS];
        size_t c = 0;
        do { /* at least once: `total` is set by the first block */
            tile_rows(t, w, stride, r, rows, c, row);
            dot_tile(t, tokens, row, x, c, cols - c < BLOCK ? cols - c : BLOCK, fetch,
                     fetch ? ahead + (r * stride + TILE_ROWS * c) * size : NULL, sums);
            for (int i = 0; i < tokens; i++)
                total[i] = c == 0 ? sums[i] : v4_add(total[i], sums[i]);
            c += BLOCK;
        } while (c < cols);
        for (int i = 0; i < tokens; i++)
            v4_storen(y[i] + r, total[i], n);
    }
}

/* What is read after the first rows of W. */
V_INLINE const char *next_tile(const enum ml_dtype t, const void *w, size_t stride) {
    return (const char *)w + TILE_ROWS * stride * element_size(t);
}

/* One block of columns of a panel in scratch against `tokens` inputs; adds to y unless it is
 * the first block. */
V_INLINE void panel_tile(const int tokens, float *const *y, const float *panel, const float *const *x,
                         size_t rows, size_t c0, size_t cols) {
    for (size_t r = 0; r < rows; r += TILE_ROWS) {
        const size_t n = rows - r < TILE_ROWS ? rows - r : TILE_ROWS;
        const void *row[TILE_ROWS];
        v4 sums[TILE_TOKENS];
        tile_rows(ML_F32, panel, ML_GEMM_PANEL_STRIDE, r, rows, 0, row);
        dot_tile(ML_F32, tokens, row, x, c0, cols, false, NULL, sums);
        for (int i = 0; i < tokens; i++)
            v4_storen(y[i] + r, c0 == 0 ? sums[i] : v4_add(v4_loadn(y[i] + r, n), sums[i]), n);
    }
}

V_INLINE void direct_tokens(const enum ml_dtype t, size_t tokens, float *const *y, const void *w,
                            size_t stride, const float *const *x, size_t rows, size_t cols, const bool fetch,
                            const char *ahead) {
#define CALL(n) direct(t, n, y, w, stride, x, rows, cols, fetch, ahead)
    FOR_TOKENS(tokens, CALL)
#undef CALL
}

static void panel_tokens(size_t tokens, float *const *y, const float *panel, const float *const *x,
                         size_t rows, size_t c0, size_t cols){
#define CALL(n) panel_tile(n, y, panel, x, rows, c0, cols)
    FOR_TOKENS(tokens, CALL)
#undef CALL
}

V_INLINE void widen_row(const enum ml_dtype t, float *dst, const void *src, size_t n) {
    size_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(dst + i, v_load_as(t, src, i));
    if (i < n) v_storen(dst + i, v_loadn_as(t, src, i, n - i), n - i);
}

/* Rows of x and y of up to TILE_TOKENS tokens from token t0 on; returns how many. */
V_INLINE size_t token_rows(const float **xs, float **ys, const float *x, size_t ldx, float *y, size_t ldy,
                           size_t t0, size_t n) {
    const size_t tokens = n - t0 < TILE_TOKENS ? n - t0 : TILE_TOKENS;
    for (size_t i = 0; i < tokens; i++) {
        xs[i] = x + (t0 + i) * ldx;
        ys[i] = y + (t0 + i) * ldy;
    }
    return tokens;
}

V_INLINE void gemm_panel(const enum ml_dtype t, float *y, size_t ldy, const void *w, size_t stride,
                         const float *x, size_t ldx, size_t n, size_t rows, size_t cols, float *panel) {
    const float *xs[TILE_TOKENS];
    float *ys[TILE_TOKENS];
    for (size_t c = 0; c < cols; c += BLOCK) {
        const size_t width = cols - c < BLOCK ? cols - c : BLOCK;
        for (size_t r = 0; r < rows; r++)
            widen_row(t, panel + r * ML_GEMM_PANEL_STRIDE,
                      (const char *)w + (r * stride + c) * element_size(t), width);
        for (size_t t0 = 0; t0 < n; t0 += TILE_TOKENS) {
            const size_t tokens = token_rows(xs, ys, x, ldx, y, ldy, t0, n);
            panel_tokens(tokens, ys, panel, xs, rows, c, width);
        }
    }
}

V_INLINE void gemm(const enum ml_dtype t, float *y, size_t ldy, const void *w, size_t stride, const float *x,
                   size_t ldx, size_t n, size_t rows, size_t cols, void *scratch) {
    if (n <= TILE_TOKENS) {
        const float *xs[TILE_TOKENS];
        float *ys[TILE_TOKENS];
        token_rows(xs, ys, x, ldx, y, ldy, 0, n);
        direct_tokens(t, n, ys, w, stride, xs, rows, cols, true, next_tile(t, w, stride));
        return;
    }
    for (size_t r = 0; r < rows; r += PANEL) {
        const void *from = (const char *)w + r * stride * element_size(t);
        gemm_panel(t, y + r, ldy, from, stride, x, ldx, n, rows - r < PANEL ? rows - r : PANEL, cols,
                   scratch);
    }
}

#define DEFINE_MATMUL(name, type)                                                                            \
    static void gemv_##name(float *y, const void *w, size_t stride, const float *x, size_t rows,             \
                            size_t cols) {                                                                   \
        direct(type, 1, &y, w, stride, &x, rows, cols, true, next_tile(type, w, stride));                    \
    }                                                                                                        \
    static void gemm_##name(float *y, size_t ldy, const void *w, size_t stride, const float *x, size_t ldx,  \
                            size_t n, size_t rows, size_t cols, void *scratch) {                             \
        gemm(type, y, ldy, w, stride, x, ldx, n, rows, cols, scratch);                                       \
    }

DEFINE_MATMUL(f32, ML_F32)
DEFINE_MATMUL(f16, ML_F16)
DEFINE_MATMUL(bf16, ML_BF16)

#endif
