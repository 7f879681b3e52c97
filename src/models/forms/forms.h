/* SPDX-License-Identifier: Apache-2.0
 *
 * From the tensors of one form to a matrix. Each function names the tensor that is missing, has the wrong
 * shape or a type that cannot be used.
 */
#ifndef ML_MODELS_FORMS_FORMS_H
#define ML_MODELS_FORMS_FORMS_H

#include "models/store.h"

/* Fills l->u from "NAME.<suffix>" and what belongs to it; in, out and name of l are set. A form that stores
 * biases of its own (EXL3) sets l->bias too. */
typedef marlin_status ml_form_bind_fn(struct ml_binder *b, struct ml_linear *l, struct marlin_error *err);
ml_form_bind_fn ml_form_bind_plain, ml_form_bind_int8, ml_form_bind_tap, ml_form_bind_exl3;

/* A plain tensor whose full name is given: [rows, cols], or [depth, rows, cols] when depth is not 0, as depth *
 * rows rows of a matrix. */
marlin_status ml_form_matrix(struct ml_binder *b, const char *tensor, size_t depth, size_t rows, size_t cols,
                             struct ml_matrix *out, const struct ml_tensor **from,
                             struct marlin_error *err) MARLIN_MUST_CHECK;

/* A matrix [rows, cols] of int8 rows, neither counted nor rearranged yet; *from: the tensor of its data. l may
 * be NULL: it is no linear's. */
marlin_status ml_form_int8_rows(struct ml_binder *b, struct ml_linear *l, const char *name, size_t rows,
                                size_t cols, struct ml_quant_matrix *m, const struct ml_tensor **from,
                                struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
