/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files of this folder: what each tier exports, and the sizes that gemm's scratch is made of.
 */
#ifndef ML_KERNELS_TIERS_H
#define ML_KERNELS_TIERS_H

#include "kernels/kernels.h"

struct ml_quant_scratch;

enum {
    ML_GEMM_BLOCK = 1024, /* columns of a panel */
    ML_GEMM_PANEL = 64,   /* rows of a panel */
    /* Rows of the panel are not a multiple of 4 KiB apart: they would fall into the same sets of L1. */
    ML_GEMM_PANEL_STRIDE = ML_GEMM_BLOCK + 16
};

/* Each overwrites the entries that the tier has. Only on a CPU that has the tier. */
void ml_kernels_init_reference(struct ml_kernels *k);
void ml_kernels_init_avx2(struct ml_kernels *k);
void ml_kernels_init_avx512(struct ml_kernels *k);
void ml_kernels_init_neon(struct ml_kernels *k);
void ml_quant_init_avx2(struct ml_kernels *k);
void ml_quant_init_avxvnni(struct ml_kernels *k);
void ml_quant_init_avx512(struct ml_kernels *k);
void ml_quant_init_amx(struct ml_kernels *k); /* over the one before */
void ml_quant_init_neon(struct ml_kernels *k);
void ml_quant_init_neondot(struct ml_kernels *k);
void ml_quant_init_neoni8mm(struct ml_kernels *k); /* over the one before */

/* Shared by the tiers' products with quantized matrices. */
enum { ML_QUANT_CONSTANTS = 1280 }; /* bytes that `a` of a row of x has behind its k bytes (TAP), at least */
#define ML_QUANT_BESIDE(k)                                                                                   \
    ((size_t)64 * (2 * (k) + 128)) /* bytes of the scratch of `dots` that panels have */
void ml_quant_factors(struct ml_quant_x *x, const struct ml_quant_matrix *m,
                      const float scale[ML_QUANT_RUNS]); /* f and base from scales and sums */
void ml_quant_round_reference(struct ml_quant_x *x, const struct ml_quant_matrix *m, enum ml_quant_rows rows,
                              const float *rotated);
/* An `arrange` that most tiers share. In a strip come groups of 8 tiles, one of each run of k / 8 columns,
 * and in a group the tiles are interleaved by 64-bit word, so that qword lane q of a vector always holds run
 * q:
 *
 *     strip: | group 0: t0w0 t1w0 .. t7w0  t0w1 t1w1 .. | group 1 .. | .. k / 128 groups |
 *                       tile g of run q is tile q (k / 128) + g of its row of tiles
 *
 * Words of TAP tiles are as in the file; those of EXL3 tiles hold their stream from the most significant bit
 * down (the two halves of the file's 64 bits change places). */
void ml_quant_interleave(const struct ml_quant_matrix *m, void *to, size_t begin, size_t end);
void ml_quant_scratch_free(struct ml_quant_scratch *q); /* NULL is fine */
void ml_quant_dot_reference(float *z, const struct ml_quant_matrix *m, size_t s, const struct ml_quant_x *x);
void ml_quant_few_reference(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s,
                            const struct ml_quant_x *x, size_t n, void *scratch);
void ml_quant_dots_reference(float *z, size_t ldz, const struct ml_quant_matrix *m, size_t s, size_t strips,
                             const struct ml_quant_x *x, size_t n, void *scratch);
/* `decode` in fast plain C. */
void ml_quant_decode(float *q, const struct ml_quant_matrix *m, size_t s);

/* Loads the first of 8 floats with the others masked off, which must not touch their memory: processors see
 * to that, emulators may not. */
float ml_probe_masked_load(const float *p);

/* Loops that do nothing but keep a unit busy. */
struct ml_peak_kernels {
    float (*read)(const float *p, size_t n);   /* reads n floats once, n a multiple of 256 */
    double (*f32)(size_t rounds, float *sink); /* returns the operations done: a multiply-add counts 2 */
    double (*bf16)(size_t rounds, float *sink);
    double (*int8)(size_t rounds, float *sink);
};
void ml_peak_init_reference(struct ml_peak_kernels *k);
void ml_peak_init_avx2(struct ml_peak_kernels *k);
void ml_peak_init_avx512(struct ml_peak_kernels *k);
void ml_peak_init_avx512bf16(struct ml_peak_kernels *k);
void ml_peak_init_amx(struct ml_peak_kernels *k);
void ml_peak_init_neon(struct ml_peak_kernels *k);

#endif
