/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the memory of weights, and the queue of those that wait to be rearranged.
 */
#include "models/store.h"

#include "base/checked.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Bytes of copies that wait: the originals are in memory for as long. */
enum { FLUSH_BYTES = 256 << 20, STRIPS_AT_ONCE = 8 };

/* ---- memory ---- */

struct ml_owned {
    struct ml_owned *next;
    void *data;
};

marlin_status ml_model_own(struct ml_model *m, size_t bytes, void **out, struct marlin_error *err) {
    struct ml_owned *o = ml_arena_alloc(&m->arena, sizeof(*o));
    void *data = o ? ml_alloc_aligned(bytes) : NULL;
    if (!data) return ml_fail(err, MARLIN_ERR_MEMORY, "weights: cannot allocate %zu bytes", bytes);
    o->data = data;
    o->next = m->owned;
    m->owned = o;
    *out = data;
    return MARLIN_OK;
}

void ml_model_disown(struct ml_model *m, const void *data) {
    struct ml_owned **at = &m->owned;
    while (*at) {
        struct ml_owned *o = *at;
        if (data && o->data != data) {
            at = &o->next;
            continue;
        }
        ml_free_aligned(o->data);
        *at = o->next;
        if (data) return;
    }
}

/* ---- tensors ---- */

bool ml_bind_has(const struct ml_binder *b, const char *tensor) {
    return b->source->ops->has(b->source, tensor);
}

bool ml_bind_has_part(const struct ml_binder *b, const char *name, const char *part) {
    char tensor[ML_BIND_NAME];
    ml_names_join(name, part, tensor);
    return ml_bind_has(b, tensor);
}

marlin_status ml_bind_bad(const struct ml_tensor *t, const char *what, struct marlin_error *err) {
    return ml_fail(err, MARLIN_ERR_FORMAT, "tensor '%s' %s (%s, offset %llu)", t->name, what,
                   ml_file_path(t->file), (unsigned long long)t->offset);
}

marlin_status ml_bind_check_shape(const struct ml_tensor *t, int rank, const uint64_t *shape,
                                  struct marlin_error *err) {
    char stored[128], expected[128] = "[";
    size_t at = 1;
    bool same = t->rank == rank;
    for (int i = 0; i < rank; i++) {
        if (same && t->shape[i] != shape[i]) same = false;
        const int n = snprintf(expected + at, sizeof(expected) - at, "%s%llu", i ? ", " : "",
                               (unsigned long long)shape[i]);
        if (n > 0) at += (size_t)n;
    }
    if (same) return MARLIN_OK;
    (void)snprintf(expected + at, sizeof(expected) - at, "]");
    return ml_fail(err, MARLIN_ERR_FORMAT,
                   "tensor '%s' has shape %s, config.json asks for %s (%s, offset %llu)", t->name,
                   ml_tensor_shape_text(t, stored), expected, ml_file_path(t->file),
                   (unsigned long long)t->offset);
}

marlin_status ml_bind_note(struct ml_binder *b, struct ml_linear *l, const struct ml_tensor *t, bool bias,
                           struct marlin_error *err) {
    struct ml_origin *o = t ? ml_arena_alloc(&b->m->arena, sizeof(*o)) : NULL;
    if (!t) return MARLIN_OK;
    if (!o) return ml_fail(err, MARLIN_ERR_MEMORY, "layer '%s': out of memory", l->name);
    *o = (struct ml_origin){.tensor = t, .bias = bias, .next = l->origin};
    l->origin = o;
    return MARLIN_OK;
}

marlin_status ml_bind_tensor(struct ml_binder *b, struct ml_linear *l, const char *name, const char *part,
                             struct ml_want *want, const struct ml_tensor **out, struct marlin_error *err) {
    char tensor[ML_BIND_NAME];
    ml_names_join(name, part, tensor);
    want->name = tensor;
    const marlin_status st = b->source->ops->tensor(b->source, want, out, err);
    want->name = NULL;
    return st != MARLIN_OK || !l ? st : ml_bind_note(b, l, *out, false, err);
}

static marlin_status check_finite(const struct ml_tensor *t, const float *v, size_t n,
                                  struct marlin_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (isfinite(v[i])) continue;
        return ml_fail(err, MARLIN_ERR_NUMERIC,
                       "tensor '%s': element %zu is NaN or infinite (%s, offset %llu)", t->name, i,
                       ml_file_path(t->file), (unsigned long long)t->offset);
    }
    return MARLIN_OK;
}

marlin_status ml_bind_scales(struct ml_binder *b, struct ml_linear *l, const char *name,
                             const struct ml_form_part *part, unsigned also, size_t n, float *to,
                             struct marlin_error *err) {
    char tensor[ML_BIND_NAME];
    const struct ml_want want = {.name = tensor, .dtype = part->dtype, .also = also, .rank = 1, .shape = {n}};
    const struct ml_tensor *t = NULL;
    marlin_status st;

    ml_names_join(name, part->suffix, tensor);
    ML_TRY(b->source->ops->floats(b->source, &want, to, &t, err));
    if (to && t) ML_TRY(check_finite(t, to, n, err));
    if (l) ML_TRY(ml_bind_note(b, l, t, false, err));
out:
    return st;
}

marlin_status ml_bind_vector(struct ml_binder *b, const char *tensor, size_t n, const float **out,
                             const struct ml_tensor **from, struct marlin_error *err) {
    const struct ml_want want = {
        .name = tensor, .dtype = ML_BF16, .also = ML_WANT_ANY, .rank = 1, .shape = {n}};
    float *v = ml_arena_array(&b->m->arena, n, sizeof(*v));
    if (!v) return ml_fail(err, MARLIN_ERR_MEMORY, "tensor '%s': out of memory", tensor);
    const marlin_status st = b->source->ops->floats(b->source, &want, v, from, err);
    if (st != MARLIN_OK) return st;
    b->m->parameters += n;
    b->m->weight_bytes += n * sizeof(*v);
    *out = v;
    return MARLIN_OK;
}

marlin_status ml_bind_name(struct ml_binder *b, struct ml_linear *l, const char *name,
                           struct marlin_error *err) {
    l->name = ml_arena_strndup(&b->m->arena, name, strlen(name));
    return l->name ? MARLIN_OK : ml_fail(err, MARLIN_ERR_MEMORY, "layer '%s': out of memory", name);
}

/* ---- quantized matrices ---- */

marlin_status ml_bind_pieces(struct ml_binder *b, struct ml_linear *l, size_t n, struct marlin_error *err) {
    l->u.quant.pieces = ml_arena_array(&b->m->arena, n, sizeof(*l->u.quant.pieces));
    if (!l->u.quant.pieces)
        return ml_fail(err, MARLIN_ERR_MEMORY, "layer '%s': no memory for %zu pieces", l->name, n);
    l->u.quant.n_pieces = n;
    return MARLIN_OK;
}

marlin_status ml_bind_scale_memory(struct ml_binder *b, size_t k, size_t n, float **su, float **sv,
                                   struct marlin_error *err) {
    void *data = NULL;
    size_t count, bytes;
    *su = *sv = NULL;
    if (b->m->headers_only) return MARLIN_OK;
    if (!ml_add_size(k, n, &count) || !ml_mul_size(count, sizeof(float), &bytes))
        return ml_fail(err, MARLIN_ERR_LIMIT, "scales of a %zu x %zu matrix pass the address space", n, k);
    const marlin_status st = ml_model_own(b->m, bytes, &data, err);
    if (st != MARLIN_OK) return st;
    *su = k ? data : NULL;
    *sv = (float *)data + k;
    return MARLIN_OK;
}

void ml_bind_account(struct ml_model *m, const struct ml_quant_matrix *q) {
    m->parameters += (uint64_t)q->rows * q->cols;
    m->weight_bytes += ml_model_held_bytes(m, q);
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
        if (w->from && b->source->ops->done(b->source, w->from)) w->m->data = NULL;
    }
    b->n_waiting = 0;
    b->waiting_bytes = 0;
}

marlin_status ml_bind_matrix_done(struct ml_binder *b, struct ml_quant_matrix *m,
                                  const struct ml_tensor *from, struct marlin_error *err) {
    const size_t bytes = ml_model_copy_bytes(b->m, m);
    void *to = NULL;
    marlin_status st = MARLIN_OK;

    if (m->n > b->m->quant_rows) b->m->quant_rows = m->n;
    if (m->k > b->m->quant_cols) b->m->quant_cols = m->k;
    if (b->m->headers_only) return st;
    if (from) b->source->ops->fetch(b->source, from);
    if (bytes == 0) return st;
    if (b->n_waiting == ML_BIND_WAITING || b->waiting_bytes > FLUSH_BYTES) ml_bind_arrange(b);
    ML_TRY(ml_model_own(b->m, bytes, &to, err));
    b->waiting[b->n_waiting++] = (struct ml_bind_waiting){m, from, to};
    b->waiting_bytes += bytes;
out:
    return st;
}
