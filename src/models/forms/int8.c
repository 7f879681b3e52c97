/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of int8 with a scale each (docs/format.md).
 */
#include "models/forms/forms.h"

marlin_status ml_form_int8_rows(struct ml_binder *b, struct ml_linear *l, const char *name, size_t rows,
                                size_t cols, struct ml_quant_matrix *m, const struct ml_tensor **from,
                                struct marlin_error *err) {
    const struct ml_form *f = ml_form_of(ML_QUANT_INT8);
    struct ml_want want = {.dtype = f->weights.dtype, .rows = rows, .cols = cols};
    float *none, *sv;
    marlin_status st;

    *m = (struct ml_quant_matrix){
        .format = ML_QUANT_INT8, .bits = f->max_bits, .rows = rows, .cols = cols, .n = rows, .k = cols};
    want.rank = ml_form_shape(f, rows, cols, m->bits, want.shape);
    ML_TRY(ml_bind_tensor(b, l, name, f->weights.suffix, &want, from, err));
    m->data = (*from)->data;
    ML_TRY(ml_bind_scale_memory(b, 0, rows, &none, &sv, err));
    ML_TRY(ml_bind_scales(b, l, name, &f->out_scales, 0, rows, sv, err));
    m->sv = sv;
out:
    return st;
}

marlin_status ml_form_bind_int8(struct ml_binder *b, struct ml_linear *l, struct marlin_error *err) {
    const struct ml_tensor *t = NULL;
    marlin_status st;

    ML_TRY(ml_bind_pieces(b, l, 1, err));
    struct ml_quant_matrix *m = &l->u.quant.pieces[0].m;
    ML_TRY(ml_form_int8_rows(b, l, l->name, l->out, l->in, m, &t, err));
    ml_bind_account(b->m, m);
    ML_TRY(ml_bind_matrix_done(b, m, t, err));
out:
    return st;
}
