/* SPDX-License-Identifier: Apache-2.0
 *
 * Tap-trellis tiles (docs/format.md, packing/tap.h).
 */
#include "models/forms/forms.h"

#include <stdio.h>

static marlin_status read_code(struct ml_binder *b, struct ml_linear *l, struct ml_tap_code *code,
                               struct marlin_error *err) {
    const struct ml_form_part *part = &ml_form_of(ML_QUANT_TAP)->code;
    struct ml_want want = {.dtype = part->dtype};
    const struct ml_tensor *t = NULL;
    marlin_status st;

    ML_TRY(ml_bind_tensor(b, l, l->name, part->suffix, &want, &t, err));
    if (t->rank != 1) {
        st = ml_bind_bad(t, "is not a list of bytes", err);
        goto out;
    }
    st = ml_tap_code_read(t->data, (size_t)t->bytes, code, err);
    if (st != MARLIN_OK) {
        st = ml_fail_in(err, st, "tensor '%s' (%s, offset %llu)", t->name, ml_file_path(t->file),
                        (unsigned long long)t->offset);
    }
out:
    return st;
}

/* The type, and a last size that is one of tiles; the others are checked when the code is known. */
static marlin_status read_tiles(struct ml_binder *b, struct ml_linear *l, const struct ml_tensor **out,
                                int *bits, struct marlin_error *err) {
    const struct ml_form *f = ml_form_of(ML_QUANT_TAP);
    struct ml_want want = {.dtype = f->weights.dtype, .rows = l->out, .cols = l->in};
    const marlin_status st = ml_bind_tensor(b, l, l->name, f->weights.suffix, &want, out, err);
    if (st != MARLIN_OK) return st;
    const struct ml_tensor *t = *out;
    *bits = ml_form_bits(f, t->dtype, t->rank, t->shape);
    return MARLIN_OK;
}

static marlin_status check_tiles(const struct ml_tensor *t, int bits, const struct ml_quant_matrix *m,
                                 struct marlin_error *err) {
    const struct ml_form *f = ml_form_of(ML_QUANT_TAP);
    uint64_t wanted[3];
    if (bits == 0) {
        char what[160], shape[128];
        (void)snprintf(what, sizeof(what), "has shape %s: its last size must be 32 times 2 to 6 bits",
                       ml_tensor_shape_text(t, shape));
        return ml_bind_bad(t, what, err);
    }
    const int rank = ml_form_shape(f, m->n, m->k, bits, wanted);
    const marlin_status st = ml_bind_check_shape(t, rank, wanted, err);
    if (st != MARLIN_OK || bits == m->bits) return st;
    return ml_fail(err, MARLIN_ERR_FORMAT,
                   "tensor '%s' has tiles of %d bits a weight, but its tap_code is for %d (%s, offset %llu)",
                   t->name, bits, m->bits, ml_file_path(t->file), (unsigned long long)t->offset);
}

marlin_status ml_form_bind_tap(struct ml_binder *b, struct ml_linear *l, struct marlin_error *err) {
    const struct ml_form *f = ml_form_of(ML_QUANT_TAP);
    const struct ml_tensor *t = NULL;
    struct ml_tap_code *code = ml_arena_alloc(&b->m->arena, sizeof(*code));
    float *su, *sv;
    int bits = 0;
    marlin_status st;

    if (!code) return ml_fail(err, MARLIN_ERR_MEMORY, "layer '%s': out of memory", l->name);
    ML_TRY(ml_bind_pieces(b, l, 1, err));
    struct ml_quant_matrix *m = &l->u.quant.pieces[0].m;
    *m = (struct ml_quant_matrix){.format = ML_QUANT_TAP, .rows = l->out, .cols = l->in};
    m->n = ml_form_padded(f, l->out);
    m->k = ml_form_padded(f, l->in);
    ML_TRY(read_tiles(b, l, &t, &bits, err));
    ML_TRY(read_code(b, l, code, err));
    ml_quant_set_code(m, code);
    m->bits = code->bits;
    m->data = t->data;
    ML_TRY(check_tiles(t, bits, m, err));
    ML_TRY(ml_bind_scale_memory(b, m->k, m->n, &su, &sv, err));
    ML_TRY(ml_bind_scales(b, l, l->name, &f->in_scales, 0, m->k, su, err));
    ML_TRY(ml_bind_scales(b, l, l->name, &f->out_scales, 0, m->n, sv, err));
    m->su = su;
    m->sv = sv;
    ml_bind_account(b->m, m);
    ML_TRY(ml_bind_matrix_done(b, m, t, err));
out:
    return st;
}
