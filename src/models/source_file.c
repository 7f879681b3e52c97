/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors of a model directory: found by name, checked, and remembered as used.
 */
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "models/store.h"

#include <stdio.h>
#include <string.h>

struct file_source {
    struct ml_source base;
    const struct ml_model *m;
    struct ml_map used; /* stored names that were asked for */
};

static const struct file_source *of_const(const struct ml_source *s) {
    return (const struct file_source *)s;
}

static struct file_source *of(struct ml_source *s) {
    return (struct file_source *)s;
}

static const struct ml_tensor *find(const struct file_source *s, const char *canonical,
                                    char name[ML_BIND_NAME]) {
    ml_names_stored(&s->m->names, canonical, name);
    const struct ml_tensor *t = ml_tensors_find(s->m->tensors, name);
    if (t || !s->m->config->tie_embeddings || strcmp(canonical, "model.embed_tokens.weight") != 0) return t;
    /* One matrix of two names, of which a file may keep the other. */
    ml_names_stored(&s->m->names, "lm_head.weight", name);
    return ml_tensors_find(s->m->tensors, name);
}

static bool has(const struct ml_source *s, const char *tensor) {
    char name[ML_BIND_NAME];
    return find(of_const(s), tensor, name) != NULL;
}

static bool has_part(const struct ml_source *s, const char *name, const char *part) {
    char tensor[ML_BIND_NAME];
    ml_names_join(name, part, tensor);
    return has(s, tensor);
}

static bool is_stored_as(const struct ml_source *s, const char *name, const struct ml_form *f) {
    char slice[ML_BIND_NAME];
    ml_names_join(name, "slice.0", slice);
    return has_part(s, name, f->weights.suffix) || (f->sliced && has_part(s, slice, f->weights.suffix));
}

static marlin_status form(const struct ml_source *s, const char *name, const struct ml_form **out,
                          struct marlin_error *err) {
    char found[128] = "";
    size_t at = 0, forms = 0;
    *out = ml_form_plain();
    for (int i = 0; i < ML_QUANT_FORMATS; i++) {
        const struct ml_form *f = ml_form_of((enum ml_quant_format)i);
        if (!is_stored_as(s, name, f)) continue;
        const int n = snprintf(found + at, sizeof(found) - at, " .%s", f->weights.suffix);
        if (n > 0 && (size_t)n < sizeof(found) - at) at += (size_t)n;
        *out = f;
        forms++;
    }
    if (forms <= 1) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_FORMAT, "layer '%s' is stored twice: as%s", name, found);
}

/* ---- checks ---- */

static marlin_status check_type(const struct ml_tensor *t, const struct ml_want *want,
                                struct marlin_error *err) {
    if (t->dtype == want->dtype || want->also >> t->dtype & 1) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "tensor '%s' has type %s, must have %s (%s, offset %llu)",
                   t->name, ml_tensor_type_name(t), ml_dtype_name(want->dtype), ml_file_path(t->file),
                   (unsigned long long)t->offset);
}

static bool is_open(const struct ml_want *want) {
    for (int i = 0; i < want->rank; i++)
        if (want->shape[i] == 0) return true;
    return want->rank == 0;
}

static marlin_status tensor(struct ml_source *s, const struct ml_want *want, const struct ml_tensor **out,
                            struct marlin_error *err) {
    char name[ML_BIND_NAME];
    const struct ml_tensor *t = find(of(s), want->name, name);
    if (!t) {
        return ml_fail(err, MARLIN_ERR_NOT_FOUND,
                       "tensor '%s' is missing: the model needs it (is a shard missing?)",
                       name[0] ? name : want->name);
    }
    if (ml_map_put(&of(s)->used, t->name, strlen(t->name), 0, NULL) != MARLIN_OK)
        return ml_fail(err, MARLIN_ERR_MEMORY, "tensor '%s': out of memory", name);
    *out = t;
    const marlin_status st = check_type(t, want, err);
    return st != MARLIN_OK || is_open(want) ? st : ml_bind_check_shape(t, want->rank, want->shape, err);
}

static marlin_status floats(struct ml_source *s, const struct ml_want *want, float *to,
                            const struct ml_tensor **out, struct marlin_error *err) {
    const marlin_status st = tensor(s, want, out, err);
    if (st != MARLIN_OK || !to) return st;
    /* Where headers are all that is read, nobody looks at numbers that would have to be made first. */
    if (of(s)->m->headers_only && !(*out)->data) return MARLIN_OK;
    return ml_tensor_to_f32(*out, to, want->shape[0], err);
}

static void fetch(struct ml_source *s, const struct ml_tensor *t) {
    (void)s;
    ml_file_prefetch(t->file, t->offset, t->bytes);
}

static bool done(struct ml_source *s, const struct ml_tensor *t) {
    (void)s;
    ml_file_drop(t->file, t->offset, t->bytes);
    return false;
}

/* ---- tensors that nobody asked for ---- */

static bool ends_with(const char *s, const char *suffix) {
    const size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

/* Layers beyond num_layers hold heads for multi-token prediction. */
static bool is_extra_layer(const struct ml_model *m, const char *name) {
    unsigned long long layer = 0;
    return ml_names_layer(&m->names, name, &layer) && layer >= (unsigned long long)m->config->num_layers;
}

/* Of a multimodal model only the text part is loaded. */
static bool is_other_modality(const char *name) {
    static const char *const parts[] = {"model.visual.",          "visual.",
                                        "vision_tower.",          "model.vision_tower.",
                                        "vision_model.",          "model.vision_model.",
                                        "multi_modal_projector.", "model.multi_modal_projector."};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (strncmp(name, parts[i], strlen(parts[i])) == 0) return true;
    }
    return false;
}

static bool is_ignorable(const struct ml_model *m, const char *name) {
    return ends_with(name, "rotary_emb.inv_freq") || ends_with(name, "rotary_emb.original_inv_freq") ||
           strncmp(name, "mtp.", 4) == 0 || strncmp(name, "model.mtp.", 10) == 0 || is_extra_layer(m, name) ||
           is_other_modality(name);
}

static void warn_unused(const struct ml_source *source) {
    enum { NAMED = 8 };
    const struct file_source *s = of_const(source);
    size_t unused = 0;
    for (size_t i = 0; i < ml_tensors_count(s->m->tensors); i++) {
        const struct ml_tensor *t = ml_tensors_at(s->m->tensors, i);
        uint64_t value;
        if (ml_map_get(&s->used, t->name, strlen(t->name), &value) || is_ignorable(s->m, t->name)) continue;
        if (++unused > NAMED) continue;
        ml_log(ML_LOG_WARN, "tensor '%s' is not known to architecture %s and is not used (%s)", t->name,
               s->m->arch->model_type, ml_file_path(t->file));
    }
    if (unused > NAMED) ml_log(ML_LOG_WARN, "and %zu more tensors that are not used", unused - NAMED);
}

/* ---- its life ---- */

static void close_source(struct ml_source *s) {
    ml_map_free(&of(s)->used);
    ml_free(s);
}

marlin_status ml_source_file(const struct ml_model *m, struct ml_source **out, struct marlin_error *err) {
    static const struct ml_source_ops ops = {.has = has,
                                             .form = form,
                                             .tensor = tensor,
                                             .floats = floats,
                                             .fetch = fetch,
                                             .done = done,
                                             .warn_unused = warn_unused,
                                             .close = close_source};
    struct file_source *s = ml_calloc(1, sizeof(*s));
    if (!s) return ml_fail(err, MARLIN_ERR_MEMORY, "model: out of memory");
    s->base.ops = &ops;
    s->m = m;
    ml_map_init(&s->used);
    *out = &s->base;
    return MARLIN_OK;
}
