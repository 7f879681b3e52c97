/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the life of a model: config to architecture, tensors to layers, warnings about what was not used.
 */
#include "base/checked.h"
#include "base/fp.h"
#include "base/log.h"
#include "base/mem.h"
#include "models/arch/arch.h"
#include "models/bind.h"
#include "ops/fallback.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct ml_arch *const archs[] = {
#define ARCH(name) &ml_arch_##name,
    ML_FAMILIES(ARCH)
#undef ARCH
};

const struct ml_arch *ml_arch_find(const char *model_type) {
    for (size_t i = 0; i < sizeof(archs) / sizeof(archs[0]); i++) {
        if (strcmp(archs[i]->model_type, model_type) == 0) return archs[i];
    }
    return NULL;
}

/* ---- what the config decides ---- */

static marlin_status unknown_arch(const char *model_type, struct marlin_error *err) {
    char list[512] = "";
    size_t at = 0;
    for (const char *const *s = ml_config_supported(); *s; s++) {
        const int n = snprintf(list + at, sizeof(list) - at, "%s%s", at ? ", " : "", *s);
        if (n > 0 && (size_t)n < sizeof(list) - at) at += (size_t)n;
    }
    return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "model_type '%s' is not supported: supported are %s",
                   model_type, list);
}

static marlin_status new_ropes(struct ml_model *m, struct marlin_error *err) {
    const struct ml_config *c = m->config;
    const size_t dim = (size_t)c->head_dim, longest = (size_t)c->max_positions;
    const marlin_status st = ml_rope_init(&m->rope, &c->rope, dim, longest, &m->arena, err);
    if (st != MARLIN_OK) return st;
    return ml_rope_init(&m->rope_local, &c->rope_local, dim, longest, &m->arena, err);
}

/* Rounded to the type of the stored embedding (of int8 rows: that of the source, in config.json), in which
 * the models were trained: bfloat16 makes 55.4256 55.5. */
static float embedding_scale(const struct ml_model *m) {
    const float scale = (float)sqrt((double)m->config->hidden_size);
    const bool rows = m->embedding_rows != NULL;
    const enum ml_dtype plain = m->embedding.dtype;
    if (rows ? strcmp(m->config->dtype, "bfloat16") == 0 : plain == ML_BF16)
        return ml_bf16_to_f32(ml_f32_to_bf16(scale));
    if (rows ? strcmp(m->config->dtype, "float16") == 0 : plain == ML_F16)
        return ml_f16_to_f32(ml_f32_to_f16(scale));
    return scale;
}

/* An operation that a table has not even got from ops/fallback.h; NULL when it is whole. */
static const char *lacking(const struct ml_ops *ops) {
#define LACKS(name)                                                                                          \
    if (!ops->name) return #name;
    ML_OPS(LACKS)
#undef LACKS
    return NULL;
}

/* The operations of a device: all of them are there, and those that the CPU computes over copies are named. */
static marlin_status check_ops(const struct ml_device *device, const struct ml_ops **out,
                               struct marlin_error *err) {
    const struct ml_ops *ops = ml_ops_of(device);
    if (!ops || lacking(ops))
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED, "device %s lacks the operation '%s': see ml_ops_fill",
                       device->ops->name, ops ? lacking(ops) : "open");
    for (size_t i = 0; ml_ops_missing(ops, i); i++)
        ml_log(ML_LOG_WARN, "device %s: '%s' is computed by the CPU over copies", device->ops->name,
               ml_ops_missing(ops, i));
    *out = ops;
    return MARLIN_OK;
}

/* The devices that layers are dealt out over, and what computes on each. */
static marlin_status new_devices(struct ml_model *m, const struct ml_model_options *o,
                                 struct marlin_error *err) {
    const size_t n = o && o->devices ? o->n_devices : 1, layers = (size_t)m->config->num_layers;
    m->devices = ml_arena_array(&m->arena, n, sizeof(struct ml_device *));
    m->ops = ml_arena_array(&m->arena, n, sizeof(const struct ml_ops *));
    if (!m->devices || !m->ops) return ml_fail(err, MARLIN_ERR_MEMORY, "model: out of memory");
    if (n == 0 || n > layers)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "%zu layers cannot be dealt out over %zu devices", layers,
                       n);
    if (!o || !o->devices) {
        const marlin_status st = ml_device_open("cpu", &m->devices[0], err);
        if (st != MARLIN_OK) return st;
        m->owns_device = true;
    }
    for (size_t d = 0; d < n; d++) {
        if (!m->owns_device) m->devices[d] = o->devices[d];
        const marlin_status st = check_ops(m->devices[d], &m->ops[d], err);
        if (st != MARLIN_OK) return st;
    }
    m->n_devices = n;
    return MARLIN_OK;
}

static marlin_status count_groups(struct ml_model *m, struct marlin_error *err) {
    struct ml_memory_layout layout;
    const marlin_status st = ml_config_layout(m->config, 0, (size_t)m->config->num_layers, m->n_devices,
                                              ML_F32, &m->arena, &layout, err);
    m->n_groups = layout.n_groups;
    return st;
}

marlin_status ml_model_new(const struct ml_config *config, const struct ml_model_options *options,
                           struct ml_model **out, struct marlin_error *err) {
    marlin_status st;
    struct ml_model *m = ml_calloc(1, sizeof(*m));
    if (!m) return ml_fail(err, MARLIN_ERR_MEMORY, "model: out of memory");

    ml_arena_init(&m->arena, 0);
    m->config = config;
    m->kv_dtype = options ? options->kv_dtype : ML_KV_DEFAULT;
    m->mode = options && options->exact ? ML_QUANT_EXACT : ML_QUANT_FAST;
    m->headers_only = options && options->headers_only;
    m->arch = ml_arch_find(config->model_type);
    if (!m->arch) {
        st = unknown_arch(config->model_type, err);
        goto out;
    }
    ML_TRY(new_devices(m, options, err));
    ML_TRY(new_ropes(m, err));
out:
    if (st == MARLIN_OK)
        *out = m;
    else
        ml_model_free(m);
    return st;
}

void ml_model_free(struct ml_model *m) {
    if (!m) return;
    ml_model_disown(m, NULL);
    if (m->tensors) ml_tensors_close(m->tensors);
    if (m->owned_config) ml_config_free(m->owned_config);
    ml_model_displace(m);
    if (m->owns_device) m->devices[0]->ops->destroy(m->devices[0]);
    ml_arena_free(&m->arena);
    ml_free(m);
}

/* ---- binding ---- */

static marlin_status tie_head(struct ml_binder *b, struct marlin_error *err) {
    struct ml_model *m = b->m;
    struct ml_linear *head = &m->head;
    marlin_status st;

    head->in = (size_t)m->config->hidden_size;
    head->out = (size_t)m->config->vocab_size;
    ML_TRY(ml_bind_name(b, head, "lm_head", err));
    if (!m->embedding_rows) {
        head->kind = ML_LINEAR_PLAIN;
        head->u.plain = m->embedding;
        goto out;
    }
    head->kind = ML_LINEAR_QUANT;
    ML_TRY(ml_bind_pieces(b, head, 1, err));
    struct ml_quant_matrix *rows = &head->u.quant.pieces[0].m;
    *rows = *m->embedding_rows;
    m->weight_bytes += ml_model_copy_bytes(m, rows);
    ML_TRY(ml_bind_matrix_done(b, rows, NULL, err));
out:
    return st;
}

static bool same_bytes(const struct ml_matrix *a, const struct ml_matrix *b) {
    return a->dtype == b->dtype && memcmp(a->data, b->data, a->rows * a->cols * ml_dtype_size(a->dtype)) == 0;
}

/* A quantizer gives the head a matrix of its own; a plain lm_head.weight is what was trained. */
static void warn_of_other_head(const struct ml_model *m) {
    if (m->headers_only || m->head.kind != ML_LINEAR_PLAIN || m->embedding_rows) return;
    if (!same_bytes(&m->head.u.plain, &m->embedding)) {
        ml_log(ML_LOG_WARN, "tie_word_embeddings is set, but lm_head.weight differs from the embedding: "
                            "lm_head.weight is used");
    }
}

/* The file keeps the tied matrix under the head's name. */
static bool is_head_the_embedding(const struct ml_model *m) {
    char name[ML_BIND_NAME];
    ml_names_stored(&m->names, "lm_head.weight", name);
    return m->embedding_from && m->tensors && strcmp(m->embedding_from->name, name) == 0;
}

/* lm_head on disk wins even where the config says tied. */
static marlin_status bind_head(struct ml_binder *b, struct marlin_error *err) {
    struct ml_model *m = b->m;
    const size_t vocab = (size_t)m->config->vocab_size, hidden = (size_t)m->config->hidden_size;
    marlin_status st;

    if (m->config->tie_embeddings && (!ml_bind_has_linear(b, "lm_head") || is_head_the_embedding(m))) {
        st = tie_head(b, err);
        goto out;
    }
    ML_TRY(ml_bind_linear(b, "lm_head", vocab, hidden, false, &m->head, err));
    if (m->config->tie_embeddings) warn_of_other_head(m);
out:
    return st;
}

static marlin_status bind_layers(struct ml_binder *b, struct marlin_error *err) {
    struct ml_model *m = b->m;
    const size_t n = (size_t)m->config->num_layers;
    m->layers = ml_arena_array(&m->arena, n, sizeof(*m->layers));
    if (!m->layers) return ml_fail(err, MARLIN_ERR_MEMORY, "model of %zu layers: out of memory", n);
    for (size_t i = 0; i < n; i++) {
        m->layers[i].index = i;
        const marlin_status st = m->arch->bind(b, &m->layers[i], err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

/* A factor on logits is one on what the head reads. */
static marlin_status bind_last_norm(struct ml_binder *b, size_t hidden, struct marlin_error *err) {
    struct ml_norm *norm = &b->m->norm;
    const float by = (float)b->m->config->output_multiplier;
    const marlin_status st = ml_bind_norm(b, "model.norm", hidden, norm, err);
    if (st != MARLIN_OK) return st;
    if (b->m->arch->plain_last_norm) norm->offset = 0;
    float *w = (float *)(uintptr_t)norm->w; /* the model's own copy */
    for (size_t i = 0; by != 1 && !b->m->headers_only && i < hidden; i++)
        w[i] = (w[i] + norm->offset) * by - norm->offset;
    return MARLIN_OK;
}

marlin_status ml_model_bind(struct ml_model *m, struct ml_source *source, struct ml_pool *pool,
                            struct marlin_error *err) {
    struct ml_binder binder = {.m = m, .source = source, .pool = pool}, *b = &binder;
    const size_t hidden = (size_t)m->config->hidden_size;
    marlin_status st;

    ML_TRY(ml_bind_embedding(b, err));
    m->embedding_scale = embedding_scale(m);
    if (m->arch->norm_embedding) ML_TRY(ml_bind_weightless_norm(b, hidden, &m->embedding_norm, err));
    ML_TRY(bind_layers(b, err));
    ML_TRY(bind_last_norm(b, hidden, err));
    ML_TRY(bind_head(b, err));
    ml_bind_arrange(b);
    ML_TRY(count_groups(m, err));
    ML_TRY(ml_model_place(m, err));
    ml_model_count(m);
out:
    return st;
}

/* ---- loading ---- */

enum { QUANT_VERSION = 1 };

static bool is_one_of(const char *s, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(s, list[i]) == 0) return true;
    return false;
}

static marlin_status check_quantization(const struct ml_config *c, struct marlin_error *err) {
    static const char *const methods[] = {"", "fp8", "mxfp4", "marlin", "exl3"};
    enum ml_exl3_codebook codebook;
    if (!is_one_of(c->quant_method, methods, sizeof(methods) / sizeof(methods[0]))) {
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "config.json: quantization method '%s' is not supported: supported are marlin, exl3, "
                       "mxfp4 and fp8: use the unquantized model",
                       c->quant_method);
    }
    if (c->quant_version > QUANT_VERSION) {
        return ml_fail(
            err, MARLIN_ERR_UNSUPPORTED,
            "config.json: version %lld of the marlin format: this program reads version %d: update it",
            (long long)c->quant_version, QUANT_VERSION);
    }
    /* Files say by tensor which codebook they use; one that a later format adds would be taken for 3INST. */
    if (strcmp(c->quant_method, "exl3") == 0 && c->quant_codebook[0] &&
        !ml_exl3_codebook_find(c->quant_codebook, &codebook)) {
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "config.json: EXL3 codebook '%s' is not known: known are 3inst, mcg and mul1",
                       c->quant_codebook);
    }
    return MARLIN_OK;
}

static marlin_status bind_from(struct ml_model *m, struct ml_pool *pool, struct marlin_error *err) {
    struct ml_source *source = NULL;
    marlin_status st;

    ML_TRY(ml_names_find(m->tensors, m->config->tie_embeddings, &m->names, err));
    if (!m->headers_only) ML_TRY(ml_tensors_load(m->tensors, pool, err));
    ML_TRY(ml_source_file(m, &source, err));
    ML_TRY(ml_model_bind(m, source, pool, err));
    ML_TRY(ml_tensors_check(m->tensors, err));
    source->ops->warn_unused(source);
out:
    if (source) source->ops->close(source);
    return st;
}

marlin_status ml_model_load(const char *dir, const struct ml_model_options *options, struct ml_model **out,
                            struct marlin_error *err) {
    struct ml_config *config = NULL;
    struct ml_model *m = NULL;
    marlin_status st;

    ML_TRY(ml_config_load(dir, &config, err));
    ML_TRY(check_quantization(config, err));
    ML_TRY(ml_model_new(config, options, &m, err));
    m->owned_config = config;
    config = NULL;
    ML_TRY(ml_tensors_open_dir(dir, &m->tensors, err));
    st = bind_from(m, options ? options->pool : NULL, err);
    if (st != MARLIN_OK) st = ml_fail_in(err, st, "%s", dir);
out:
    if (st == MARLIN_OK) {
        *out = m;
    } else {
        ml_model_free(m);
        if (config) ml_config_free(config);
    }
    return st;
}
