/* SPDX-License-Identifier: Apache-2.0
 *
 * Multiplication by quantized weights: y = W x for the three formats that linear layers are stored in.
 *
 *   INT8  W[r][c] = sv[r] * q[r][c]
 *   TAP   W = diag(sv) . Hn . Q . Hk . diag(su)     Q from 16 x 16 tap-trellis tiles (packing/tap.h)
 *   EXL3  the same with EXL3 tiles (packing/exl3.h)
 *
 * H: 128-wide Hadamard blocks / sqrt(128) (Sylvester order), along the padded sizes n and k. So
 *
 *   x' = Hk (su * x)   x extended by zeros to k        z = Q x'       y = sv * (Hn z), of which rows are kept
 *
 * Two modes. EXACT: x' and Q are float32: the specification; also what comparisons with other engines use.
 * INT8: x' is rounded to int8 with one float32 scale for each of 8 equal runs of columns (k / 8 columns; one
 * scale a row of x for format INT8), products are summed in int32: the fast path.
 */
#ifndef ML_KERNELS_QUANT_H
#define ML_KERNELS_QUANT_H

#include "kernels/kernels.h"
#include "packing/exl3.h"
#include "packing/tap.h"

#include <stdbool.h>

enum ml_quant_format { ML_QUANT_INT8, ML_QUANT_TAP, ML_QUANT_EXL3 };
enum ml_quant_mode { ML_QUANT_FAST, ML_QUANT_EXACT };

/* A matrix as it is stored. Immutable after binding; any number of threads may multiply by it. Pointers
 * belong to the model. */
struct ml_quant_matrix {
    enum ml_quant_format format;
    int bits;                       /* TAP 2..6, EXL3 1..8, INT8 8 */
    size_t rows, cols;              /* out, in: what y and x have */
    size_t n, k;                    /* padded: multiples of 128 (TAP, EXL3); equal to rows, cols (INT8) */
    const uint8_t *data;            /* TAP tiles [n/16][k/16][32 bits]; EXL3 tiles [k/16][n/16][32 bits];
                                       INT8 rows [rows][cols] */
    const float *su;                /* [k]; NULL for INT8 */
    const float *sv;                /* [n] */
    const struct ml_tap_code *code; /* TAP; has passed ml_tap_check */
    enum ml_exl3_codebook codebook; /* EXL3 */
    const void *arranged;           /* data in the order that this machine's kernels read, made by
                                       ml_quant_arrange; NULL when they read `data` itself */
};

/* Bytes that ml_quant_arrange wants for m on this machine, 64-byte aligned; 0 when kernels read `data`. */
size_t ml_quant_arranged_bytes(const struct ml_kernels *k, const struct ml_quant_matrix *m);
/* Fills `to` (first touched here: call it from the pool's threads through ml_quant_arrange_all, or alone). */
void ml_quant_arrange(const struct ml_kernels *k, const struct ml_quant_matrix *m, void *to);

/* The slow twin: W [rows, cols] in float32, from `data`, in the basis of the model. MARLIN_ERR_MEMORY. */
marlin_status ml_quant_restore(const struct ml_quant_matrix *m, float *w,
                               struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
