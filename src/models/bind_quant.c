/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized matrices: this project's two formats, and what all formats share: scales, memory, and the order
 * in which kernels want the bytes.
 */
#include "models/bind_int.h"

#include "base/checked.h"
#include "base/fp.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Bytes of copies that wait: the originals are in memory for as long. */
enum { FLUSH_BYTES = 256 << 20, STRIPS_AT_ONCE = 8 };

static bool has_part(const struct ml_binder *b, const char *name, const char *part) {
    char tensor[ML_BIND_NAME];
    (void)snprintf(tensor, sizeof(tensor), "%s.%s", name, part);
    return ml_bind_has(b, tensor);
}

static marlin_status part_tensor(struct ml_binder *b, const char *name, const char *part,
                                 const struct ml_tensor **out, struct marlin_error *err) {
    char tensor[ML_BIND_NAME];
    (void)snprintf(tensor, sizeof(tensor), "%s.%s", name, part);
    return ml_bind_tensor(b, tensor, out, err);
}

bool ml_bind_is_quant(const struct ml_binder *b, const char *name) {
    return has_part(b, name, "tap") || has_part(b, name, "int8") || ml_bind_is_exl3(b, name);
}

/* ---- memory ---- */

marlin_status ml_bind_pieces(struct ml_binder *b, struct ml_linear *l, size_t n, struct marlin_error *err) {
    l->u.quant.pieces = ml_arena_array(&b->m->arena, n, sizeof(*l->u.quant.pieces));
    if (!l->u.quant.pieces)
        return ml_fail(err, MARLIN_ERR_MEMORY, "layer '%s': no memory for %zu pieces", l->name, n);
    l->u.quant.n_pieces = n;
    return MARLIN_OK;
}

marlin_status ml_bind_scales(struct ml_binder *b, size_t k, size_t n, float **su, float **sv,
                             struct marlin_error *err) {
    void *data = NULL;
    size_t count, bytes;
    if (b->m->headers_only) return MARLIN_OK;
    if (!ml_add_size(k, n, &count) || !ml_mul_size(count, sizeof(float), &bytes))
        return ml_fail(err, MARLIN_ERR_LIMIT, "scales of a %zu x %zu matrix pass the address space", n, k);
    const marlin_status st = ml_model_own(b->m, bytes, &data, err);
    if (st != MARLIN_OK) return st;
    *su = data;
    *sv = *su + k;
    return MARLIN_OK;
}

/* ---- the order in which kernels read ---- */

struct arrangement {
    const struct ml_bind_waiting *waiting;
    size_t first[ML_BIND_WAITING + 1]; /* strips of 16 rows before each matrix */
};

static void arrange_range(void *arg, size_t begin, size_t end, int worker) {
    const struct arrangement *a = arg;
    size_t i = 0;
    (void)worker;
    while (begin >= a->first[i + 1])
        i++;
    ml_kernels()->quant.arrange(a->waiting[i].m, a->waiting[i].to, begin - a->first[i], end - a->first[i]);
}

void ml_bind_arrange(struct ml_binder *b) {
    struct arrangement a = {.waiting = b->waiting};
    for (size_t i = 0; i < b->n_waiting; i++)
        a.first[i + 1] = a.first[i] + b->waiting[i].m->n / ML_QUANT_STRIP;
    /* Shared out as products share it out later: a worker's part of the copy lies in its own memory. */
    ml_pool_for_runs(b->pool, a.first, b->n_waiting, STRIPS_AT_ONCE, arrange_range, &a);
    for (size_t i = 0; i < b->n_waiting; i++) {
        const struct ml_bind_waiting *w = &b->waiting[i];
        w->m->arranged = w->to;
        if (w->from) ml_file_drop(w->from->file, w->from->offset, w->from->bytes);
        if (!w->own) continue;
        w->m->data = NULL;
        ml_model_disown(b->m, w->own);
    }
    b->n_waiting = 0;
    b->waiting_bytes = 0;
}

void ml_bind_account(struct ml_model *m, const struct ml_quant_matrix *q) {
    m->parameters += (uint64_t)q->rows * q->cols;
    m->weight_bytes += ml_model_held_bytes(m, q);
}

marlin_status ml_bind_matrix_done(struct ml_binder *b, struct ml_quant_matrix *m,
                                  const struct ml_tensor *from, void *own, struct marlin_error *err) {
    const size_t bytes = ml_model_copy_bytes(b->m, m);
    void *to = NULL;
    marlin_status st = MARLIN_OK;

    if (m->n > b->m->quant_rows) b->m->quant_rows = m->n;
    if (m->k > b->m->quant_cols) b->m->quant_cols = m->k;
    if (b->m->headers_only) return st;
    if (bytes == 0) {
        if (from) ml_file_prefetch(from->file, from->offset, from->bytes);
        return st;
    }
    if (b->n_waiting == ML_BIND_WAITING || b->waiting_bytes > FLUSH_BYTES) ml_bind_arrange(b);
    ML_TRY(ml_model_own(b->m, bytes, &to, err));
    if (from) ml_file_prefetch(from->file, from->offset, from->bytes);
    b->waiting[b->n_waiting++] = (struct ml_bind_waiting){m, from, own, to};
    b->waiting_bytes += bytes;
out:
    return st;
}

/* ---- this project's formats (docs/format.md) ---- */

marlin_status ml_bind_finite(const struct ml_tensor *t, const float *v, size_t n, struct marlin_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (isfinite(v[i])) continue;
        return ml_fail(err, MARLIN_ERR_NUMERIC,
                       "tensor '%s': element %zu is NaN or infinite (%s, offset %llu)", t->name, i,
                       ml_file_path(t->file), (unsigned long long)t->offset);
    }
    return MARLIN_OK;
}

static marlin_status read_scales(struct ml_binder *b, const char *name, const char *part, enum ml_dtype dtype,
                                 size_t n, float *to, struct marlin_error *err) {
    const struct ml_tensor *t = NULL;
    const uint64_t shape = n;
    marlin_status st;

    ML_TRY(part_tensor(b, name, part, &t, err));
    ML_TRY(ml_bind_check_type(t, dtype, err));
    ML_TRY(ml_bind_check_shape(t, 1, &shape, err));
    if (!to) goto out;
    ML_TRY(ml_tensor_to_f32(t, to, n, err));
    st = ml_bind_finite(t, to, n, err);
out:
    return st;
}

static marlin_status read_code(struct ml_binder *b, const char *name, struct ml_tap_code *code,
                               struct marlin_error *err) {
    const struct ml_tensor *t = NULL;
    marlin_status st;

    ML_TRY(part_tensor(b, name, "tap_code", &t, err));
    ML_TRY(ml_bind_check_type(t, ML_U8, err));
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

static marlin_status check_tap_tiles(const struct ml_tensor *t, const struct ml_quant_matrix *m,
                                     unsigned bits, struct marlin_error *err) {
    const size_t tile = t->rank == 3 ? (size_t)t->shape[2] : 0;
    if (tile % 32 != 0 || tile / 32 < ML_TAP_MIN_BITS || tile / 32 > ML_TAP_MAX_BITS) {
        char what[160], shape[128];
        (void)snprintf(what, sizeof(what), "has shape %s: its last size must be 32 times 2 to 6 bits",
                       ml_tensor_shape_text(t, shape));
        return ml_bind_bad(t, what, err);
    }
    const uint64_t wanted[3] = {m->n / ML_TAP_SIDE, m->k / ML_TAP_SIDE, tile};
    const marlin_status st = ml_bind_check_shape(t, 3, wanted, err);
    if (st != MARLIN_OK) return st;
    if (bits == tile / 32) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_FORMAT,
                   "tensor '%s' has tiles of %zu bits a weight, but its tap_code is for %u (%s, offset %llu)",
                   t->name, tile / 32, bits, ml_file_path(t->file), (unsigned long long)t->offset);
}

static marlin_status bind_tap(struct ml_binder *b, struct ml_linear *l, struct marlin_error *err) {
    const struct ml_tensor *t = NULL;
    struct ml_tap_code *code = ml_arena_alloc(&b->m->arena, sizeof(*code));
    float *su = NULL, *sv = NULL;
    marlin_status st;

    if (!code) return ml_fail(err, MARLIN_ERR_MEMORY, "layer '%s': out of memory", l->name);
    ML_TRY(ml_bind_pieces(b, l, 1, err));
    struct ml_quant_matrix *m = &l->u.quant.pieces[0].m;
    *m = (struct ml_quant_matrix){.format = ML_QUANT_TAP, .rows = l->out, .cols = l->in};
    m->n = ml_quant_padded(l->out);
    m->k = ml_quant_padded(l->in);
    ML_TRY(part_tensor(b, l->name, "tap", &t, err));
    ML_TRY(ml_bind_check_type(t, ML_U8, err));
    ML_TRY(read_code(b, l->name, code, err));
    ML_TRY(check_tap_tiles(t, m, code->bits, err));
    ml_quant_set_code(m, code);
    m->bits = code->bits;
    m->data = t->data;
    ML_TRY(ml_bind_scales(b, m->k, m->n, &su, &sv, err));
    ML_TRY(read_scales(b, l->name, "in_scales", ML_F16, m->k, su, err));
    ML_TRY(read_scales(b, l->name, "out_scales", ML_F16, m->n, sv, err));
    m->su = su;
    m->sv = sv;
    ml_bind_account(b->m, m);
    ML_TRY(ml_bind_matrix_done(b, m, t, NULL, err));
out:
    return st;
}

marlin_status ml_bind_int8(struct ml_binder *b, const char *name, size_t rows, size_t cols,
                           struct ml_quant_matrix *m, const struct ml_tensor **from,
                           struct marlin_error *err) {
    const uint64_t shape[2] = {rows, cols};
    const struct ml_tensor *t = NULL;
    float *none = NULL, *sv = NULL;
    marlin_status st;

    *m = (struct ml_quant_matrix){
        .format = ML_QUANT_INT8, .bits = 8, .rows = rows, .cols = cols, .n = rows, .k = cols};
    ML_TRY(part_tensor(b, name, "int8", &t, err));
    ML_TRY(ml_bind_check_type(t, ML_I8, err));
    ML_TRY(ml_bind_check_shape(t, 2, shape, err));
    m->data = t->data;
    ML_TRY(ml_bind_scales(b, 0, rows, &none, &sv, err));
    ML_TRY(read_scales(b, name, "row_scales", ML_F32, rows, sv, err));
    m->sv = sv;
    *from = t;
out:
    return st;
}

static marlin_status bind_int8(struct ml_binder *b, struct ml_linear *l, struct marlin_error *err) {
    const struct ml_tensor *t = NULL;
    marlin_status st;

    ML_TRY(ml_bind_pieces(b, l, 1, err));
    struct ml_quant_matrix *m = &l->u.quant.pieces[0].m;
    ML_TRY(ml_bind_int8(b, l->name, l->out, l->in, m, &t, err));
    ml_bind_account(b->m, m);
    ML_TRY(ml_bind_matrix_done(b, m, t, NULL, err));
out:
    return st;
}

marlin_status ml_bind_quant(struct ml_binder *b, bool bias, struct ml_linear *l, struct marlin_error *err) {
    const bool tap = has_part(b, l->name, "tap"), int8 = has_part(b, l->name, "int8");
    const bool exl3 = ml_bind_is_exl3(b, l->name);
    if (tap + int8 + exl3 > 1)
        return ml_fail(err, MARLIN_ERR_FORMAT, "layer '%s' is stored twice: as%s%s%s", l->name,
                       tap ? " .tap" : "", int8 ? " .int8" : "", exl3 ? " .trellis" : "");
    if (exl3) return ml_bind_exl3(b, bias, l, err);
    return tap ? bind_tap(b, l, err) : bind_int8(b, l, err);
}
