/* SPDX-License-Identifier: Apache-2.0
 *
 * Plain numbers, used in the mapping where the address allows it.
 */
#include "models/forms/forms.h"

#include "base/checked.h"
#include "base/fp.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

static const char block_scales[] = "_scale_inv";

static bool has_block_scales(const struct ml_binder *b, const char *tensor, char name[ML_BIND_NAME]) {
    const int n = snprintf(name, ML_BIND_NAME, "%s%s", tensor, block_scales);
    return n > 0 && n < ML_BIND_NAME && ml_bind_has(b, name);
}

/* Weights that need a scale of another kind from another tensor would be wrong without it. */
static marlin_status check_scales(const struct ml_binder *b, const char *tensor, const struct ml_tensor *t,
                                  struct marlin_error *err) {
    char name[ML_BIND_NAME];
    (void)snprintf(name, sizeof(name), "%s_scale", tensor);
    if (!ml_bind_has(b, name)) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                   "tensor '%s_scale' scales '%s': weights with such scales are not supported (%s): use the "
                   "bfloat16 model",
                   t->name, t->name, ml_file_path(t->file));
}

/* Numbers of a type that no kernel takes become `to`: every FP8 number is a bfloat16 number, and F64 is rounded to
 * F32, more than models are trained in. */
static marlin_status convert(struct ml_binder *b, const struct ml_tensor *t, struct ml_matrix *out,
                             enum ml_dtype to, struct marlin_error *err) {
    enum { PIECE = 1024 };
    float piece[PIECE];
    size_t bytes;
    void *data = NULL;
    if (!ml_mul_size((size_t)t->count, ml_dtype_size(to), &bytes)) {
        return ml_fail(err, MARLIN_ERR_LIMIT, "tensor '%s': too large", t->name);
    }
    out->dtype = to;
    if (b->m->headers_only) return MARLIN_OK;
    const marlin_status st = ml_model_own(b->m, bytes, &data, err);
    if (st != MARLIN_OK) return st;
    const size_t size = ml_dtype_size(t->dtype);
    float *wide = data;
    uint16_t *half = data;
    for (uint64_t i = 0; i < t->count; i += PIECE) {
        const size_t n = t->count - i < PIECE ? (size_t)(t->count - i) : (size_t)PIECE;
        if (to == ML_F32) {
            ml_dtype_to_f32(t->dtype, t->data + i * size, wide + i, n);
            continue;
        }
        ml_dtype_to_f32(t->dtype, t->data + i * size, piece, n);
        for (size_t j = 0; j < n; j++)
            half[i + j] = ml_f32_to_bf16(piece[j]);
    }
    out->data = data;
    return MARLIN_OK;
}

static marlin_status use_or_copy(struct ml_binder *b, const struct ml_tensor *t, struct ml_matrix *out,
                                 struct marlin_error *err) {
    void *copy = NULL;
    out->dtype = t->dtype;
    out->data = t->data;
    if (b->m->headers_only) return MARLIN_OK;
    if ((uintptr_t)t->data % ml_dtype_size(t->dtype) == 0) {
        b->source->ops->fetch(b->source, t);
        return MARLIN_OK;
    }
    const marlin_status st = ml_model_own(b->m, (size_t)t->bytes, &copy, err);
    if (st != MARLIN_OK) return st;
    memcpy(copy, t->data, (size_t)t->bytes);
    out->data = copy;
    return MARLIN_OK;
}

static marlin_status take(struct ml_binder *b, const struct ml_tensor *t, struct ml_matrix *out,
                          struct marlin_error *err) {
    switch (t->dtype) {
    case ML_F32:
    case ML_F16:
    case ML_BF16:
        return use_or_copy(b, t, out, err);
    case ML_F8_E4M3:
    case ML_F8_E5M2:
        return convert(b, t, out, ML_BF16, err);
    case ML_F64:
        return convert(b, t, out, ML_F32, err);
    default:
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "tensor '%s' has type %s: weights must be F64, F32, F16, BF16 or F8 (%s)", t->name,
                       ml_tensor_type_name(t), ml_file_path(t->file));
    }
}

/* FP8 in blocks of 128 x 128 with a scale each, the last ones of a row or column smaller (DeepSeek-V3, arXiv 2412.19437,
 * section 3.3): float32 numbers, since products of the two are none of bfloat16. */
enum { SCALE_BLOCK = 128 };

static void unscale_row(const struct ml_tensor *t, const float *scales, size_t r, size_t cols, float *to) {
    const size_t size = ml_dtype_size(t->dtype), blocks = (cols + SCALE_BLOCK - 1) / SCALE_BLOCK;
    ml_dtype_to_f32(t->dtype, t->data + r * cols * size, to, cols);
    for (size_t c = 0; c < cols; c++)
        to[c] *= scales[r / SCALE_BLOCK * blocks + c / SCALE_BLOCK];
}

static size_t scale_blocks(size_t n) {
    return n / SCALE_BLOCK + (n % SCALE_BLOCK > 0);
}

static marlin_status read_block_scales(struct ml_binder *b, const struct ml_tensor *from, const char *name,
                                       const struct ml_matrix *out, float *scales, struct marlin_error *err) {
    const struct ml_want want = {.name = name,
                                 .dtype = ML_F32,
                                 .also = 1u << ML_BF16 | 1u << ML_F16,
                                 .rank = 2,
                                 .shape = {scale_blocks(out->rows), scale_blocks(out->cols)}};
    const struct ml_tensor *t = NULL;
    if (from->dtype != ML_F8_E4M3 && from->dtype != ML_F8_E5M2)
        return ml_bind_bad(from, "has scales of blocks, but is no FP8", err);
    if (from->rank != 2) return ml_bind_bad(from, "has scales of blocks, but not two dimensions", err);
    const marlin_status st = b->source->ops->tensor(b->source, &want, &t, err);
    if (st != MARLIN_OK || b->m->headers_only) return st;
    return ml_tensor_to_f32(t, scales, t->count, err);
}

static marlin_status take_scaled(struct ml_binder *b, const struct ml_tensor *t, const char *name,
                                 struct ml_matrix *out, struct marlin_error *err) {
    const size_t blocks =
        scale_blocks(out->rows) * scale_blocks(out->cols); /* fewer than there are weights */
    float *scales = ml_calloc(blocks, sizeof *scales);
    size_t bytes;
    void *data = NULL;
    marlin_status st;
    out->dtype = ML_F32;
    if (!scales || !ml_mul_size((size_t)t->count, sizeof(float), &bytes)) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "tensor '%s': out of memory", t->name);
        goto out;
    }
    ML_TRY(read_block_scales(b, t, name, out, scales, err));
    if (b->m->headers_only) goto out;
    ML_TRY(ml_model_own(b->m, bytes, &data, err));
    for (size_t r = 0; r < out->rows; r++)
        unscale_row(t, scales, r, out->cols, (float *)data + r * out->cols);
    out->data = data;
out:
    ml_free(scales);
    return st;
}

static void account(struct ml_model *m, const struct ml_matrix *w) {
    const uint64_t count = (uint64_t)w->rows * w->cols;
    m->parameters += count;
    m->weight_bytes += count * ml_dtype_size(w->dtype);
}

marlin_status ml_form_matrix(struct ml_binder *b, const char *tensor, size_t depth, size_t rows, size_t cols,
                             struct ml_matrix *out, const struct ml_tensor **from, struct marlin_error *err) {
    struct ml_want want = {.name = tensor,
                           .dtype = ml_form_plain()->weights.dtype,
                           .also = ML_WANT_ANY,
                           .rank = 2,
                           .shape = {rows, cols},
                           .cols = cols};
    char scales[ML_BIND_NAME];
    size_t all_rows;
    marlin_status st;

    if (!ml_mul_size(depth ? depth : 1, rows, &all_rows))
        return ml_fail(err, MARLIN_ERR_LIMIT, "tensor '%s': too large", tensor);
    want.rows = all_rows;
    if (depth) {
        want.rank = 3;
        memcpy(want.shape, (const uint64_t[3]){depth, rows, cols}, 3 * sizeof(want.shape[0]));
    }
    *out = (struct ml_matrix){.rows = all_rows, .cols = cols, .stride = cols};
    ML_TRY(b->source->ops->tensor(b->source, &want, from, err));
    ML_TRY(check_scales(b, tensor, *from, err));
    if (has_block_scales(b, tensor, scales))
        ML_TRY(take_scaled(b, *from, scales, out, err));
    else
        ML_TRY(take(b, *from, out, err));
    account(b->m, out);
out:
    return st;
}

marlin_status ml_form_bind_plain(struct ml_binder *b, struct ml_linear *l, struct marlin_error *err) {
    char tensor[ML_BIND_NAME], scales[ML_BIND_NAME];
    const struct ml_tensor *t = NULL;
    marlin_status st;

    l->kind = ML_LINEAR_PLAIN;
    ml_names_join(l->name, ml_form_plain()->weights.suffix, tensor);
    ML_TRY(ml_form_matrix(b, tensor, 0, l->out, l->in, &l->u.plain, &t, err));
    ML_TRY(ml_bind_note(b, l, t, false, err));
    if (has_block_scales(b, tensor, scales)) {
        const struct ml_want want = {.name = scales, .dtype = ML_F32, .also = ML_WANT_ANY};
        ML_TRY(b->source->ops->tensor(b->source, &want, &t, err));
        ML_TRY(ml_bind_note(b, l, t, false, err));
    }
out:
    return st;
}
