/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the way from a tensor's name to a matrix: looked up once, shape and type checked, used in the mapping
 * where the address allows it.
 */
#include "models/bind_int.h"

#include "base/checked.h"
#include "base/fp.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

static const char model_prefix[] = "model.";

/* ---- prefixes of wrappers ---- */

static const struct {
    const char *model, *head;
} prefixes[] = {
    {"model.", ""},
    {"model.language_model.", ""},
    {"language_model.model.", "language_model."},
    {"", ""},
};

static bool has_embedding(const struct ml_tensors *tensors, const char *prefix) {
    static const char *const forms[] = {"weight", "int8"};
    char name[ML_BIND_NAME];
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        (void)snprintf(name, sizeof(name), "%sembed_tokens.%s", prefix, forms[i]);
        if (ml_tensors_find(tensors, name)) return true;
    }
    return false;
}

marlin_status ml_binder_init(struct ml_binder *b, struct ml_model *m, const struct ml_tensors *tensors,
                             struct marlin_error *err) {
    *b = (struct ml_binder){.m = m, .tensors = tensors, .prefix = model_prefix, .head_prefix = ""};
    b->random.bits = 16;
    ml_map_init(&b->used);
    if (!tensors) return MARLIN_OK;
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        if (!has_embedding(tensors, prefixes[i].model)) continue;
        b->prefix = prefixes[i].model;
        b->head_prefix = prefixes[i].head;
        return MARLIN_OK;
    }
    return ml_fail(err, MARLIN_ERR_NOT_FOUND,
                   "tensor 'model.embed_tokens.weight' is missing: is this a language model's directory?");
}

void ml_binder_free(struct ml_binder *b) {
    ml_map_free(&b->used);
    ml_free(b->noise);
    ml_free(b->bytes);
    b->noise = NULL;
    b->bytes = NULL;
}

/* The name in the file. Names come from code and a layer number: they fit. */
static void stored_name(const struct ml_binder *b, const char *canonical, char dst[ML_BIND_NAME]) {
    const size_t skip = sizeof(model_prefix) - 1;
    if (strncmp(canonical, model_prefix, skip) == 0)
        (void)snprintf(dst, ML_BIND_NAME, "%s%s", b->prefix, canonical + skip);
    else
        (void)snprintf(dst, ML_BIND_NAME, "%s%s", b->head_prefix, canonical);
}

bool ml_bind_has(const struct ml_binder *b, const char *tensor) {
    char name[ML_BIND_NAME];
    if (!b->tensors) return false;
    stored_name(b, tensor, name);
    return ml_tensors_find(b->tensors, name) != NULL;
}

marlin_status ml_bind_tensor(struct ml_binder *b, const char *canonical, const struct ml_tensor **out,
                             struct marlin_error *err) {
    char name[ML_BIND_NAME];
    stored_name(b, canonical, name);
    const struct ml_tensor *t = ml_tensors_find(b->tensors, name);
    if (!t) {
        return ml_fail(err, MARLIN_ERR_NOT_FOUND,
                       "tensor '%s' is missing: the model needs it (is a shard missing?)", name);
    }
    if (ml_map_put(&b->used, t->name, strlen(t->name), 0, NULL) != MARLIN_OK) {
        return ml_fail(err, MARLIN_ERR_MEMORY, "tensor '%s': out of memory", name);
    }
    *out = t;
    return MARLIN_OK;
}

/* ---- checks ---- */

static marlin_status wrong_shape(const struct ml_tensor *t, const char *expected, struct marlin_error *err) {
    char shape[128];
    return ml_fail(err, MARLIN_ERR_FORMAT,
                   "tensor '%s' has shape %s, config.json asks for %s (%s, offset %llu)", t->name,
                   ml_tensor_shape_text(t, shape), expected, ml_file_path(t->file),
                   (unsigned long long)t->offset);
}

marlin_status ml_bind_check_shape(const struct ml_tensor *t, int rank, const uint64_t *shape,
                                  struct marlin_error *err) {
    char expected[128] = "[";
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
    return wrong_shape(t, expected, err);
}

marlin_status ml_bind_check_type(const struct ml_tensor *t, enum ml_dtype dtype, struct marlin_error *err) {
    if (t->dtype == dtype) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "tensor '%s' has type %s, must have %s (%s, offset %llu)",
                   t->name, ml_dtype_name(t->dtype), ml_dtype_name(dtype), ml_file_path(t->file),
                   (unsigned long long)t->offset);
}

marlin_status ml_bind_bad(const struct ml_tensor *t, const char *what, struct marlin_error *err) {
    return ml_fail(err, MARLIN_ERR_FORMAT, "tensor '%s' %s (%s, offset %llu)", t->name, what,
                   ml_file_path(t->file), (unsigned long long)t->offset);
}

/* Weights that need a scale from another tensor would be wrong without it. */
static marlin_status check_scales(const struct ml_binder *b, const struct ml_tensor *t,
                                  struct marlin_error *err) {
    static const char *const suffixes[] = {"_scale_inv", "_scale"};
    char name[ML_BIND_NAME];
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
        (void)snprintf(name, sizeof(name), "%s%s", t->name, suffixes[i]);
        if (!ml_tensors_find(b->tensors, name)) continue;
        return ml_fail(
            err, MARLIN_ERR_UNSUPPORTED,
            "tensor '%s' scales '%s': scaled weights are not supported (%s): use the bfloat16 model", name,
            t->name, ml_file_path(t->file));
    }
    return MARLIN_OK;
}

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

/* ---- matrices ---- */

/* Every FP8 number is a bfloat16 number. */
static marlin_status widen_fp8(struct ml_binder *b, const struct ml_tensor *t, struct ml_matrix *out,
                               struct marlin_error *err) {
    enum { PIECE = 1024 };
    float piece[PIECE];
    size_t bytes;
    void *data = NULL;
    if (!ml_mul_size((size_t)t->count, sizeof(uint16_t), &bytes)) {
        return ml_fail(err, MARLIN_ERR_LIMIT, "tensor '%s': too large", t->name);
    }
    out->dtype = ML_BF16;
    if (b->m->headers_only) return MARLIN_OK;
    const marlin_status st = ml_model_own(b->m, bytes, &data, err);
    if (st != MARLIN_OK) return st;
    uint16_t *to = data;
    for (uint64_t i = 0; i < t->count; i += PIECE) {
        const size_t n = t->count - i < PIECE ? (size_t)(t->count - i) : (size_t)PIECE;
        ml_dtype_to_f32(t->dtype, t->data + i, piece, n);
        for (size_t j = 0; j < n; j++)
            to[i + j] = ml_f32_to_bf16(piece[j]);
    }
    out->data = to;
    return MARLIN_OK;
}

static marlin_status use_or_copy(struct ml_binder *b, const struct ml_tensor *t, struct ml_matrix *out,
                                 struct marlin_error *err) {
    void *copy = NULL;
    out->dtype = t->dtype;
    out->data = t->data;
    if (b->m->headers_only) return MARLIN_OK;
    if ((uintptr_t)t->data % ml_dtype_size(t->dtype) == 0) {
        ml_file_prefetch(t->file, t->offset, t->bytes);
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
        return widen_fp8(b, t, out, err);
    default:
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "tensor '%s' has type %s: weights must be F32, F16, BF16 or F8 (%s)", t->name,
                       ml_dtype_name(t->dtype), ml_file_path(t->file));
    }
}

static void account(struct ml_model *m, const struct ml_matrix *w) {
    const uint64_t count = (uint64_t)w->rows * w->cols;
    m->parameters += count;
    m->weight_bytes += count * ml_dtype_size(w->dtype);
}

marlin_status ml_bind_matrix(struct ml_binder *b, const char *tensor, size_t depth, size_t rows, size_t cols,
                             struct ml_matrix *out, struct marlin_error *err) {
    const uint64_t shape[3] = {depth, rows, cols};
    const struct ml_tensor *t = NULL;
    size_t all_rows;
    marlin_status st;

    if (!ml_mul_size(depth ? depth : 1, rows, &all_rows)) {
        return ml_fail(err, MARLIN_ERR_LIMIT, "tensor '%s': too large", tensor);
    }
    *out = (struct ml_matrix){.rows = all_rows, .cols = cols, .stride = cols};
    if (!b->tensors) {
        ML_TRY(ml_random_matrix(b, all_rows, cols, out, err));
    } else {
        ML_TRY(ml_bind_tensor(b, tensor, &t, err));
        ML_TRY(ml_bind_check_shape(t, depth ? 3 : 2, depth ? shape : shape + 1, err));
        ML_TRY(check_scales(b, t, err));
        ML_TRY(take(b, t, out, err));
    }
    account(b->m, out);
out:
    return st;
}

/* ---- vectors, widened ---- */

static marlin_status bind_vector(struct ml_binder *b, const char *tensor, size_t n, float fill,
                                 const float **out, struct marlin_error *err) {
    const uint64_t shape = n;
    const struct ml_tensor *t = NULL;
    marlin_status st;

    float *v = ml_arena_array(&b->m->arena, n, sizeof(*v));
    if (!v) return ml_fail(err, MARLIN_ERR_MEMORY, "tensor '%s': out of memory", tensor);
    if (b->tensors) {
        ML_TRY(ml_bind_tensor(b, tensor, &t, err));
        ML_TRY(ml_bind_check_shape(t, 1, &shape, err));
        ML_TRY(ml_tensor_to_f32(t, v, n, err));
    } else {
        for (size_t i = 0; i < n; i++)
            v[i] = fill;
        st = MARLIN_OK;
    }
    b->m->parameters += n;
    b->m->weight_bytes += n * sizeof(*v);
    *out = v;
out:
    return st;
}

marlin_status ml_bind_norm(struct ml_binder *b, const char *name, size_t n, struct ml_norm *norm,
                           struct marlin_error *err) {
    char tensor[ML_BIND_NAME];
    const float offset = b->m->arch->norm_offset;
    (void)snprintf(tensor, sizeof(tensor), "%s.weight", name);
    *norm = (struct ml_norm){.n = n, .offset = offset, .eps = (float)b->m->config->rms_eps};
    return bind_vector(b, tensor, n, 1.0f - offset, &norm->w, err);
}

/* ---- linear layers ---- */

marlin_status ml_bind_name(struct ml_binder *b, struct ml_linear *l, const char *name,
                           struct marlin_error *err) {
    l->name = ml_arena_strndup(&b->m->arena, name, strlen(name));
    return l->name ? MARLIN_OK : ml_fail(err, MARLIN_ERR_MEMORY, "layer '%s': out of memory", name);
}

bool ml_bind_has_linear(const struct ml_binder *b, const char *name) {
    char tensor[ML_BIND_NAME];
    (void)snprintf(tensor, sizeof(tensor), "%s.weight", name);
    return ml_bind_has(b, tensor) || ml_bind_is_quant(b, name);
}

static marlin_status bind_bias(struct ml_binder *b, struct ml_linear *l, struct marlin_error *err) {
    char tensor[ML_BIND_NAME];
    (void)snprintf(tensor, sizeof(tensor), "%s.bias", l->name);
    return bind_vector(b, tensor, l->out, 0.0f, &l->bias, err);
}

marlin_status ml_bind_plain(struct ml_binder *b, const char *name, size_t out, size_t in, bool bias,
                            struct ml_linear *l, struct marlin_error *err) {
    char tensor[ML_BIND_NAME];
    marlin_status st;

    *l = (struct ml_linear){.in = in, .out = out, .kind = ML_LINEAR_PLAIN};
    ML_TRY(ml_bind_name(b, l, name, err));
    (void)snprintf(tensor, sizeof(tensor), "%s.weight", name);
    ML_TRY(ml_bind_matrix(b, tensor, 0, out, in, &l->u.plain, err));
    if (bias) ML_TRY(bind_bias(b, l, err));
out:
    return st;
}

marlin_status ml_bind_linear(struct ml_binder *b, const char *name, size_t out, size_t in, bool bias,
                             struct ml_linear *l, struct marlin_error *err) {
    const bool random = !b->tensors && b->random.bits < 16;
    marlin_status st;

    if (!random && !ml_bind_is_quant(b, name)) return ml_bind_plain(b, name, out, in, bias, l, err);
    *l = (struct ml_linear){.in = in, .out = out, .kind = ML_LINEAR_QUANT};
    ML_TRY(ml_bind_name(b, l, name, err));
    if (random)
        ML_TRY(ml_random_quant(b, l, err));
    else
        ML_TRY(ml_bind_quant(b, bias, l, err));
    const bool own_bias = l->u.quant.pieces[0].m.format == ML_QUANT_EXL3 && !random;
    if (bias && !own_bias) ML_TRY(bind_bias(b, l, err));
out:
    return st;
}

marlin_status ml_bind_embedding(struct ml_binder *b, struct marlin_error *err) {
    struct ml_model *m = b->m;
    const size_t vocab = (size_t)m->config->vocab_size, hidden = (size_t)m->config->hidden_size;
    const struct ml_tensor *t = NULL;
    if (!ml_bind_has(b, "model.embed_tokens.int8"))
        return ml_bind_matrix(b, "model.embed_tokens.weight", 0, vocab, hidden, &m->embedding, err);
    m->embedding_rows = ml_arena_alloc(&m->arena, sizeof(*m->embedding_rows));
    if (!m->embedding_rows)
        return ml_fail(err, MARLIN_ERR_MEMORY, "tensor 'model.embed_tokens.int8': out of memory");
    const marlin_status st = ml_bind_int8(b, "model.embed_tokens", vocab, hidden, m->embedding_rows, &t, err);
    /* Rows are looked up in the file's order; a tied head is rearranged when it is bound. */
    if (st == MARLIN_OK) {
        m->parameters += (uint64_t)vocab * hidden;
        m->weight_bytes += (uint64_t)vocab * hidden + vocab * sizeof(float);
    }
    return st;
}

marlin_status ml_bind_rows(struct ml_binder *b, const char *name, size_t in, const struct ml_bind_part *parts,
                           size_t n_parts, struct marlin_error *err) {
    char tensor[ML_BIND_NAME];
    struct ml_matrix whole;
    size_t rows = 0;
    marlin_status st;

    for (size_t i = 0; i < n_parts; i++)
        rows += parts[i].rows;
    (void)snprintf(tensor, sizeof(tensor), "%s.weight", name);
    ML_TRY(ml_bind_matrix(b, tensor, 0, rows, in, &whole, err));
    const char *at = whole.data;
    for (size_t i = 0; i < n_parts; i++) {
        struct ml_linear *l = parts[i].linear;
        *l = (struct ml_linear){.in = in, .out = parts[i].rows, .kind = ML_LINEAR_PLAIN};
        ML_TRY(ml_bind_name(b, l, parts[i].name, err));
        l->u.plain = whole;
        l->u.plain.rows = parts[i].rows;
        l->u.plain.data = at;
        at += parts[i].rows * whole.stride * ml_dtype_size(whole.dtype);
    }
out:
    return st;
}
