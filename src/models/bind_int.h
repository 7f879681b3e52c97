/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the files that bind matrices: looking tensors up, saying what is wrong with them, and the quantized
 * formats.
 */
#ifndef ML_MODELS_BIND_INT_H
#define ML_MODELS_BIND_INT_H

#include "models/bind.h"

/* ---- bind.c ---- */

/* The tensor of a canonical name; it counts as used from then on. MARLIN_ERR_NOT_FOUND names it. */
marlin_status ml_bind_tensor(struct ml_binder *b, const char *canonical, const struct ml_tensor **out,
                             struct marlin_error *err) MARLIN_MUST_CHECK;
/* MARLIN_ERR_FORMAT with both shapes. */
marlin_status ml_bind_check_shape(const struct ml_tensor *t, int rank, const uint64_t *shape,
                                  struct marlin_error *err) MARLIN_MUST_CHECK;
/* MARLIN_ERR_UNSUPPORTED with both types. */
marlin_status ml_bind_check_type(const struct ml_tensor *t, enum ml_dtype dtype,
                                 struct marlin_error *err) MARLIN_MUST_CHECK;
/* MARLIN_ERR_FORMAT "tensor NAME WHAT (file, offset)". */
marlin_status ml_bind_bad(const struct ml_tensor *t, const char *what,
                          struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- bind_quant.c ---- */

/* MARLIN_ERR_NUMERIC when one of the n values read from t is NaN or infinite. */
marlin_status ml_bind_finite(const struct ml_tensor *t, const float *v, size_t n,
                             struct marlin_error *err) MARLIN_MUST_CHECK;

/* Whether NAME is stored as .tap, .int8, .trellis or .slice.0.trellis. */
bool ml_bind_is_quant(const struct ml_binder *b, const char *name);

/* Fills l->u.quant and, where the layer must have one (bias) or EXL3 gives it one, l->bias. in, out and name
 * of l are set. */
marlin_status ml_bind_quant(struct ml_binder *b, bool bias, struct ml_linear *l,
                            struct marlin_error *err) MARLIN_MUST_CHECK;

/* A matrix [rows, cols] of int8 rows, neither counted nor rearranged yet; *from: the tensor of its data. */
marlin_status ml_bind_int8(struct ml_binder *b, const char *name, size_t rows, size_t cols,
                           struct ml_quant_matrix *m, const struct ml_tensor **from,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* Memory for a layer's pieces; MARLIN_ERR_MEMORY names the layer. */
marlin_status ml_bind_pieces(struct ml_binder *b, struct ml_linear *l, size_t n,
                             struct marlin_error *err) MARLIN_MUST_CHECK;

/* su [k] and sv [n] as one owned block, to be filled; k may be 0. Both are left alone when headers are all
 * that is read. */
marlin_status ml_bind_scales(struct ml_binder *b, size_t k, size_t n, float **su, float **sv,
                             struct marlin_error *err) MARLIN_MUST_CHECK;

/* A matrix of products is complete: it is rearranged for this machine's kernels sooner or later
 * (ml_bind_arrange). `from`: where its data lies, or NULL; `own`: a block of ml_model_own that holds its data
 * and is no longer needed once it is rearranged, or NULL. */
marlin_status ml_bind_matrix_done(struct ml_binder *b, struct ml_quant_matrix *m,
                                  const struct ml_tensor *from, void *own,
                                  struct marlin_error *err) MARLIN_MUST_CHECK;

/* Counts the parameters and the bytes of a matrix. */
void ml_bind_account(struct ml_model *m, const struct ml_quant_matrix *q);

/* Rearranges what is still waiting, spread over the pool. Call when the last matrix is bound. */
void ml_bind_arrange(struct ml_binder *b);

/* ---- bind_exl3.c ---- */

bool ml_bind_is_exl3(const struct ml_binder *b, const char *name);
marlin_status ml_bind_exl3(struct ml_binder *b, bool bias, struct ml_linear *l,
                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- random.c ---- */

/* MARLIN_ERR_MEMORY when the weights so far and `bytes` more pass the memory of the machine. */
marlin_status ml_random_fits(const struct ml_model *m, uint64_t bytes,
                             struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- random_quant.c ---- */

/* l->u.quant with random tiles of b->random; in, out and name of l are set. */
marlin_status ml_random_quant(struct ml_binder *b, struct ml_linear *l,
                              struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
