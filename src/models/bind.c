/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear layers in whatever form they are stored, norms, and the embedding.
 */
#include "models/bind.h"

#include "models/forms/forms.h"

#include <string.h>

static ml_form_bind_fn *binder_of(const struct ml_form *f) {
    static ml_form_bind_fn *const quantized[ML_QUANT_FORMATS] = {[ML_QUANT_INT8] = ml_form_bind_int8,
                                                                 [ML_QUANT_TAP] = ml_form_bind_tap,
                                                                 [ML_QUANT_EXL3] = ml_form_bind_exl3};
    for (int i = 0; i < ML_QUANT_FORMATS; i++)
        if (f == ml_form_of((enum ml_quant_format)i)) return quantized[i];
    return ml_form_bind_plain;
}

/* ---- linear layers ---- */

static marlin_status bind_bias(struct ml_binder *b, struct ml_linear *l, struct marlin_error *err) {
    char tensor[ML_BIND_NAME];
    const struct ml_tensor *t = NULL;
    ml_names_join(l->name, "bias", tensor);
    const marlin_status st = ml_bind_vector(b, tensor, l->out, &l->bias, &t, err);
    return st != MARLIN_OK ? st : ml_bind_note(b, l, t, true, err);
}

static marlin_status bind_as(struct ml_binder *b, const struct ml_form *f, const char *name, size_t out,
                             size_t in, bool bias, struct ml_linear *l, struct marlin_error *err) {
    marlin_status st;
    *l = (struct ml_linear){.in = in, .out = out, .kind = ML_LINEAR_QUANT};
    ML_TRY(ml_bind_name(b, l, name, err));
    ML_TRY(binder_of(f)(b, l, err));
    if (bias && !l->bias) ML_TRY(bind_bias(b, l, err));
out:
    return st;
}

marlin_status ml_bind_plain(struct ml_binder *b, const char *name, size_t out, size_t in, bool bias,
                            struct ml_linear *l, struct marlin_error *err) {
    return bind_as(b, ml_form_plain(), name, out, in, bias, l, err);
}

marlin_status ml_bind_linear(struct ml_binder *b, const char *name, size_t out, size_t in, bool bias,
                             struct ml_linear *l, struct marlin_error *err) {
    const struct ml_form *f = NULL;
    const marlin_status st = b->source->ops->form(b->source, name, &f, err);
    return st != MARLIN_OK ? st : bind_as(b, f, name, out, in, bias, l, err);
}

bool ml_bind_has_linear(const struct ml_binder *b, const char *name) {
    char slice[ML_BIND_NAME];
    ml_names_join(name, "slice.0", slice);
    for (int i = 0; i < ML_QUANT_FORMATS; i++) {
        const struct ml_form *f = ml_form_of((enum ml_quant_format)i);
        if (ml_bind_has_part(b, name, f->weights.suffix)) return true;
        if (f->sliced && ml_bind_has_part(b, slice, f->weights.suffix)) return true;
    }
    return ml_bind_has_part(b, name, ml_form_plain()->weights.suffix);
}

marlin_status ml_bind_rows(struct ml_binder *b, const char *name, size_t in, const struct ml_bind_part *parts,
                           size_t n_parts, struct marlin_error *err) {
    char tensor[ML_BIND_NAME];
    const struct ml_tensor *t = NULL;
    struct ml_matrix whole;
    size_t rows = 0;
    marlin_status st;

    for (size_t i = 0; i < n_parts; i++)
        rows += parts[i].rows;
    ml_names_join(name, ml_form_plain()->weights.suffix, tensor);
    ML_TRY(ml_form_matrix(b, tensor, 0, rows, in, &whole, &t, err));
    const char *at = whole.data;
    for (size_t i = 0; i < n_parts; i++) {
        struct ml_linear *l = parts[i].linear;
        *l = (struct ml_linear){.in = in, .out = parts[i].rows, .kind = ML_LINEAR_PLAIN};
        ML_TRY(ml_bind_name(b, l, parts[i].name, err));
        ML_TRY(ml_bind_note(b, l, t, false, err));
        l->u.plain = whole;
        l->u.plain.rows = parts[i].rows;
        l->u.plain.data = at;
        at += parts[i].rows * whole.stride * ml_dtype_size(whole.dtype);
    }
out:
    return st;
}

/* ---- norms, embedding ---- */

marlin_status ml_bind_norm(struct ml_binder *b, const char *name, size_t n, struct ml_norm *norm,
                           struct marlin_error *err) {
    char tensor[ML_BIND_NAME];
    const struct ml_tensor *t = NULL;
    marlin_status st;
    ml_names_join(name, ml_form_plain()->weights.suffix, tensor);
    *norm = (struct ml_norm){.n = n, .offset = b->m->arch->norm_offset, .eps = (float)b->m->config->rms_eps};
    ML_TRY(ml_bind_vector(b, tensor, n, &norm->w, &t, err));
    if (!b->m->arch->layer_norm) goto out;
    ml_names_join(name, "bias", tensor);
    ML_TRY(ml_bind_vector(b, tensor, n, &norm->bias, &t, err));
out:
    return st;
}

marlin_status ml_bind_weightless_norm(struct ml_binder *b, size_t n, struct ml_norm *norm,
                                      struct marlin_error *err) {
    float *w = ml_arena_array(&b->m->arena, n, sizeof *w);
    if (!w) return ml_fail(err, MARLIN_ERR_MEMORY, "norm of %zu: out of memory", n);
    for (size_t i = 0; i < n; i++)
        w[i] = 1;
    *norm = (struct ml_norm){.w = w, .n = n, .eps = (float)b->m->config->rms_eps};
    return MARLIN_OK;
}

marlin_status ml_bind_embedding(struct ml_binder *b, struct marlin_error *err) {
    static const char name[] = "model.embed_tokens";
    struct ml_model *m = b->m;
    const size_t vocab = (size_t)m->config->vocab_size, hidden = (size_t)m->config->hidden_size;
    char tensor[ML_BIND_NAME];
    ml_names_join(name, ml_form_plain()->weights.suffix, tensor);
    if (!ml_bind_has_part(b, name, ml_form_of(ML_QUANT_INT8)->weights.suffix))
        return ml_form_matrix(b, tensor, 0, vocab, hidden, &m->embedding, &m->embedding_from, err);
    m->embedding_rows = ml_arena_alloc(&m->arena, sizeof(*m->embedding_rows));
    if (!m->embedding_rows) return ml_fail(err, MARLIN_ERR_MEMORY, "tensor '%s.int8': out of memory", name);
    const marlin_status st =
        ml_form_int8_rows(b, NULL, name, vocab, hidden, m->embedding_rows, &m->embedding_from, err);
    /* Rows are looked up in the file's order; a tied head is rearranged when it is bound. */
    if (st == MARLIN_OK) {
        m->parameters += (uint64_t)vocab * hidden;
        m->weight_bytes += (uint64_t)vocab * hidden + vocab * sizeof(float);
    }
    return st;
}
