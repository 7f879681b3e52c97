/* SPDX-License-Identifier: Apache-2.0
 *
 * Multiplication by quantized weights: y = W x for the three formats that linear layers are stored in
 * (struct ml_quant_matrix, packing/forms.h).
 *
 *   INT8  W[r][c] = sv[r] * q[r][c]
 *   TAP   W = diag(sv) . Hn . Q . Hk . diag(su)     Q from 16 x 16 tap-trellis tiles (packing/tap.h), its
 *                                                   entries table[index] * unit
 *   EXL3  the same with EXL3 tiles (packing/exl3.h)
 *
 * H: 128-wide Hadamard blocks / sqrt(128) (Sylvester order), along the padded sizes n and k. So
 *
 *   x' = Hk (su * x)   x extended by zeros to k        z = Q x'       y = sv * (Hn z), of which rows are kept
 *
 * Two modes. EXACT: x' and Q are float32: the specification; also what comparisons with other engines use.
 *
 * FAST: everything between x' and z is whole numbers. x' is rounded to a = rint(x' * (127 / m)), m = max
 * |x'|, with one float32 scale s = m / 127 for each of 8 equal runs of columns (INT8: one run), and z[r] is
 *
 *   z = base + f[0] S[0] + ... + f[7] S[7]   in this order, each product and sum rounded to float32
 *   S[q] = sum over the columns c of run q of w[r][c] a[c]       in int32, exact
 *   f[q] = s[q] * unit                       base: 0, but see MUL1
 *
 *                w                                                   unit            range of w
 *   INT8         q                                                   1               -127..127
 *   TAP          table[index]                                        code->unit      -127..127
 *   EXL3 MUL1    (sum of the four bytes of the product) - 510        0x1eee as half  -510..510
 *   EXL3 others  whole(low half) + whole(high half), see             1 / 128         -510..510
 *                ml_quant_half
 *
 * MUL1's values are not rounded to float16 here (the int8 path of exllamav3 does not round them either). A
 * weight is zero at a sum of bytes that is not exactly 510, so subtracting 510 shifts every weight by the same
 * small amount. The base takes this shift out again:
 *
 *   base = sum over q of s[q] * (sum of a in run q) * (510 * 0x1eee - 3.453125)
 *
 * Every tier computes FAST bit for bit as the reference does, for any number of threads and any n: a token's
 * result does not depend on its neighbours.
 *
 * Distance of FAST from EXACT, relative root mean square of y over random matrices and Gaussian x, k = 128 to
 * 4096: 1.5 % at most (tests/unit/kernels/test_quant.c holds it to that). It is noise of x (0.5 to 1.1 % in
 * most draws), unlike the error of the weights not the same for every token. Where a run of x' holds a NaN or
 * an infinity all of z is NaN; a run that stays below 2^-100 counts as zero.
 */
#ifndef ML_KERNELS_QUANT_H
#define ML_KERNELS_QUANT_H

#include "base/cpu.h"
#include "base/status.h"
#include "packing/forms.h"

#include <stdbool.h>

struct ml_kernels;

enum ml_quant_mode { ML_QUANT_FAST, ML_QUANT_EXACT };

enum {
    ML_QUANT_RUNS = 8,         /* runs of columns with a scale of their own */
    ML_QUANT_STRIP = 16,       /* rows that kernels take at a time: one row of tiles */
    ML_QUANT_BLOCK = 128,      /* a Hadamard block */
    ML_QUANT_FEW_ROWS = 8,     /* rows of x that are multiplied as tiles are decoded */
    ML_QUANT_MAX_COLS = 65536, /* of FAST: no int32 sum overflows. Wider matrices are multiplied exactly */
};

/* Bytes that ml_quant_arrange wants for m on this machine, 64-byte aligned; 0 when kernels read `data`. */
size_t ml_quant_arranged_bytes(const struct ml_kernels *k, const struct ml_quant_matrix *m);
/* Fills `to` (first touched here: call it from the pool's threads through `arrange` of the
 * table, or alone). */
void ml_quant_arrange(const struct ml_kernels *k, const struct ml_quant_matrix *m, void *to);

/* The slow twin: W [rows, cols] in float32, from `data`, in the basis of the model. MARLIN_ERR_MEMORY. */
marlin_status ml_quant_restore(const struct ml_quant_matrix *m, float *w,
                               struct marlin_error *err) MARLIN_MUST_CHECK;

/* FAST's whole number for one binary16 half of 3INST and MCG (bits after masking, exponent 12..15): 128 times
 * the middle of the 16 halves that share sign, exponent and the upper 6 bits of the mantissa, rounded to
 * nearest, to even from the middle: exponent 14 always lies there, so that one direction would scale a whole
 * octave by half a per cent. At most 255 in magnitude. */
static inline int ml_quant_half(unsigned half) {
    const unsigned eighths = (129 + 2 * (half >> 4 & 63)) << (half >> 10 & 3);
    const int whole = (int)((eighths + 3 + (eighths >> 3 & 1)) >> 3);
    return half & 0x8000 ? -whole : whole;
}
/* FAST's whole number for an EXL3 state. */
int ml_quant_exl3_whole(enum ml_exl3_codebook cb, uint16_t state);

/* ---- kernels: entries of the table. Single-threaded; nothing in them allocates. ---- */

/* One row of x of FAST. `a` belongs to the caller and has ml_quant_x_bytes(k) bytes, 64-byte aligned; its
 * order is the tier's own, and so is what it keeps behind it. */
struct ml_quant_x {
    int8_t *a;
    float f[ML_QUANT_RUNS];     /* as above */
    int32_t sum[ML_QUANT_RUNS]; /* of a */
    float base;
};
size_t ml_quant_x_bytes(size_t k);

/* Which order of `a` a product wants: one row of x (`dot`), up to ML_QUANT_FEW_ROWS (`few`)
 * or many (`dots`). */
enum ml_quant_rows { ML_QUANT_ONE, ML_QUANT_FEW, ML_QUANT_MANY };

struct ml_quant_kernels {
    /* out[k] = Hk (su * x), x[cols] extended by zeros. */
    void (*rotate)(float *out, const float *x, const float *su, size_t cols, size_t k);
    /* x from rotated[k]. */
    void (*round)(struct ml_quant_x *x, const struct ml_quant_matrix *m, enum ml_quant_rows rows,
                  const float *rotated);
    /* z[16] of strip s (fewer rows at the end of an INT8 matrix: the rest of z is left alone). */
    void (*dot)(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x);
    /* z[t * ldz + r], r < 16, for strip s (fewer rows as in `dot`) and rows x[t], t < n <= ML_QUANT_FEW_ROWS.
     * scratch: as for `dots`. */
    void (*few)(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x,
                size_t n, void *scratch);
    /* z[t * ldz + 16 i + r] for strips s + i, i < strips <= 8, and rows x[t], t < n; each row of z has room
     * for 128 whatever `strips` is. scratch: ml_quant_dots_scratch(k) bytes, 64-byte aligned. */
    void (*dots)(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s, size_t strips,
                 const struct ml_quant_x *x, size_t n, void *scratch);
    /* y[rows] = sv * (H z), one block; rows <= 128. z[128] is overwritten. */
    void (*unrotate)(float *y, float *z, const float *sv, size_t rows);
    /* EXACT: the 16 rows of strip s of Q as float32, row r at q + r * k, from `data`. */
    void (*decode)(float *q, const struct ml_quant_matrix *m, size_t s);
    /* Writes strips [begin, end) of n / 16 of a TAP or EXL3 matrix in the order that dot, few and dots read:
     * as many bytes as in the file, each strip contiguous. NULL when they read `data` itself. */
    void (*arrange)(const struct ml_quant_matrix *m, void *to, size_t begin, size_t end);
};
size_t ml_quant_dots_scratch(size_t k);

#endif
