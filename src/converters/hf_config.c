/* SPDX-License-Identifier: Apache-2.0
 *
 * From config.json to struct ml_config: finds the text model and its family, and reads dimensions. Layers,
 * rotary position, experts and tokens have files of their own.
 */
#include "converters/hf_config.h"

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "converters/gguf.h"
#include "converters/hf_int.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

/* --- which model ---------------------------------------------------------------------------------------- */

static marlin_status unsupported(const struct ml_hf *h, const char *name) {
    char list[512] = "";
    size_t at = 0;
    for (const char *const *s = ml_config_supported(); *s && at < sizeof list; s++) {
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", at ? ", " : "", *s);
    }
    return ml_fail(h->err, MARLIN_ERR_UNSUPPORTED,
                   "%s: model_type \"%.64s\" is not supported: supported are %s", h->where, name, list);
}

/* The file's own model_type, or the text model inside a multimodal file. */
static marlin_status find_family(struct ml_hf *h, const struct ml_json *root) {
    const char *name = ml_json_string(ml_json_get(root, "model_type"), NULL);
    if (ml_json_type(root) != ML_JSON_OBJECT) return ml_hf_bad(h, "the root", "is not an object");
    if (!name) return ml_hf_bad(h, "model_type", "is missing or not a string");
    h->outer = h->text = root;
    h->family = ml_hf_family(name);
    if (h->family) return MARLIN_OK;
    const struct ml_json *text = ml_hf_get(root, "text_config");
    const char *inner = ml_json_string(ml_json_get(text, "model_type"), NULL);
    h->family = inner ? ml_hf_family(inner) : NULL;
    if (!h->family) {
        (void)unsupported(h, name);
        return MARLIN_ERR_UNSUPPORTED;
    }
    h->text = text;
    return MARLIN_OK;
}

/* MLX writes no quant_method, but "quantization" and a copy of it. */
static bool is_mlx(const struct ml_json *quant) {
    return quant && !ml_hf_get(quant, "quant_method") && ml_hf_get(quant, "group_size") &&
           ml_hf_get(quant, "bits");
}

static marlin_status read_quantization(struct ml_hf *h) {
    struct ml_config *c = h->out;
    const struct ml_json *quant = ml_hf_any(h, "quantization_config");
    marlin_status st = MARLIN_OK;
    if (is_mlx(ml_hf_any(h, "quantization")) || is_mlx(quant))
        return ml_fail(
            h->err, MARLIN_ERR_UNSUPPORTED,
            "%s: the model was quantized by MLX, which is not read: use the unquantized model it was "
            "made from",
            h->where);
    if (!quant) return st;
    if (!ml_hf_get(quant, "quant_method")) return ml_hf_bad(h, "quantization_config", "has no quant_method");
    ML_TRY(ml_hf_text(h, ml_hf_get(quant, "quant_method"), "quant_method", c->quant_method,
                      sizeof c->quant_method));
    ML_TRY(
        ml_hf_text(h, ml_hf_get(quant, "codebook"), "codebook", c->quant_codebook, sizeof c->quant_codebook));
    /* Elsewhere "version" may be anything: EXL3 has a text there. */
    if (strcmp(c->quant_method, "marlin") == 0)
        ML_TRY(ml_hf_int(h, quant, "version", 1, INT64_MAX, 0, &c->quant_version));
out:
    return st;
}

static marlin_status read_names(struct ml_hf *h) {
    struct ml_config *c = h->out;
    const struct ml_json *dtype = ml_hf_any(h, "dtype");
    marlin_status st;
    (void)snprintf(c->model_type, sizeof c->model_type, "%s", ml_hf_family_name(h->family));
    ML_TRY(ml_hf_text(h, ml_json_first(ml_hf_get(h->outer, "architectures")), "architectures",
                      c->architecture, sizeof c->architecture));
    ML_TRY(ml_hf_text(h, dtype ? dtype : ml_hf_any(h, "torch_dtype"), "dtype", c->dtype, sizeof c->dtype));
    st = read_quantization(h);
out:
    return st;
}

/* --- dimensions ----------------------------------------------------------------------------------------- */

static marlin_status read_heads(struct ml_hf *h) {
    struct ml_config *c = h->out;
    const struct ml_hf_family *f = h->family;
    marlin_status st;
    ML_TRY(ml_hf_int(h, h->text, "num_attention_heads", 1, ML_HF_MAX_HEADS, f->num_heads, &c->num_heads));
    /* null means one for each head, absent what the family says. */
    const bool null = ml_json_get(h->text, "num_key_value_heads") != NULL;
    const int64_t kv = null || f->num_kv_heads == 0 ? c->num_heads : f->num_kv_heads;
    ML_TRY(ml_hf_int(h, h->text, "num_key_value_heads", 1, ML_HF_MAX_HEADS, kv, &c->num_kv_heads));
    if (c->num_heads % c->num_kv_heads) {
        st = ml_fail(h->err, MARLIN_ERR_FORMAT,
                     "%s: num_key_value_heads: %lld does not divide num_attention_heads %lld", h->where,
                     (long long)c->num_kv_heads, (long long)c->num_heads);
        goto out;
    }
    const int64_t dim = f->head_dim ? f->head_dim : c->hidden_size / c->num_heads;
    if (!ml_hf_get(h->text, "head_dim") && !f->head_dim && c->hidden_size % c->num_heads) {
        st = ml_fail(
            h->err, MARLIN_ERR_FORMAT,
            "%s: num_attention_heads: %lld does not divide hidden_size %lld, and there is no head_dim",
            h->where, (long long)c->num_heads, (long long)c->hidden_size);
        goto out;
    }
    st = ml_hf_int(h, h->text, "head_dim", 1, ML_HF_MAX_HEAD_DIM, dim, &c->head_dim);
out:
    return st;
}

/* null means that queries have no low rank. */
static marlin_status read_latent(struct ml_hf *h) {
    struct ml_config *c = h->out;
    const struct ml_hf_family *f = h->family;
    const struct ml_json *interleave = ml_hf_get(h->text, "rope_interleave");
    const bool null = ml_json_get(h->text, "q_lora_rank") != NULL;
    bool pairs;
    marlin_status st;
    ML_TRY(ml_hf_int(h, h->text, "num_attention_heads", 1, ML_HF_MAX_HEADS, f->num_heads, &c->num_heads));
    c->num_kv_heads = c->num_heads;
    ML_TRY(ml_hf_int(h, h->text, "kv_lora_rank", 1, ML_HF_MAX_WIDTH, f->kv_lora, &c->kv_lora_rank));
    c->q_lora_rank = 0;
    if (ml_hf_get(h->text, "q_lora_rank") || !null)
        ML_TRY(ml_hf_int(h, h->text, "q_lora_rank", 1, ML_HF_MAX_WIDTH, f->q_lora, &c->q_lora_rank));
    ML_TRY(ml_hf_int(h, h->text, "qk_nope_head_dim", 1, ML_HF_MAX_HEAD_DIM, f->nope_dim, &c->qk_nope_dim));
    ML_TRY(ml_hf_int(h, h->text, "qk_rope_head_dim", 2, ML_HF_MAX_HEAD_DIM, f->rotated, &c->head_dim));
    ML_TRY(ml_hf_int(h, h->text, "v_head_dim", 1, ML_HF_MAX_HEAD_DIM, f->v_dim, &c->v_head_dim));
    ML_TRY(ml_hf_bool(h, interleave, "rope_interleave", true, &pairs));
    if (!pairs)
        st = ml_fail(h->err, MARLIN_ERR_UNSUPPORTED, "%s: rope_interleave: only true is supported", h->where);
out:
    return st;
}

static marlin_status read_activation(struct ml_hf *h) {
    static const struct {
        const char *name;
        enum ml_activation activation;
    } known[] = {{"silu", ML_ACT_SILU},
                 {"swish", ML_ACT_SILU},
                 {"gelu_pytorch_tanh", ML_ACT_GELU_TANH},
                 {"gelu_new", ML_ACT_GELU_TANH}};
    const struct ml_json *v = ml_hf_get(h->text, "hidden_activation");
    if (!v) v = ml_hf_get(h->text, "hidden_act");
    h->out->activation = h->family->activation;
    if (!v) return MARLIN_OK;
    const char *name = ml_json_string(v, NULL);
    for (size_t i = 0; name && i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, name) == 0) {
            h->out->activation = known[i].activation;
            return MARLIN_OK;
        }
    }
    return ml_fail(h->err, MARLIN_ERR_UNSUPPORTED,
                   "%s: activation \"%.40s\" is not supported: supported are silu, gelu_pytorch_tanh",
                   h->where, name ? name : ml_json_type_name(v));
}

static marlin_status read_bias(const struct ml_hf *h, enum ml_hf_bias rule, const char *key, bool *out) {
    *out = rule == ML_HF_BIAS_YES;
    return rule == ML_HF_BIAS_KEY ? ml_hf_bool(h, ml_hf_get(h->text, key), key, false, out) : MARLIN_OK;
}

/* null switches a cap off, absence means the family's. */
static marlin_status read_cap(const struct ml_hf *h, const char *key, double absent, double *out) {
    const bool null = ml_json_get(h->text, key) != NULL;
    return ml_hf_real(h, h->text, key, 0, null ? 0 : absent, out);
}

static marlin_status read_softcaps(struct ml_hf *h) {
    struct ml_config *c = h->out;
    const struct ml_hf_family *f = h->family;
    bool both_ways;
    marlin_status st = MARLIN_OK;
    if (!f->softcaps) return MARLIN_OK;
    ML_TRY(ml_hf_real(h, h->text, "query_pre_attn_scalar", 0, f->query_scalar, &c->query_pre_attn_scalar));
    ML_TRY(read_cap(h, "attn_logit_softcapping", f->attn_softcap, &c->attn_softcap));
    ML_TRY(read_cap(h, "final_logit_softcapping", f->final_softcap, &c->final_softcap));
    ML_TRY(ml_hf_bool(h, ml_hf_get(h->text, "use_bidirectional_attention"), "use_bidirectional_attention",
                      false, &both_ways));
    if (both_ways)
        st = ml_fail(h->err, MARLIN_ERR_UNSUPPORTED,
                     "%s: use_bidirectional_attention: is not supported: only causal models are", h->where);
out:
    return st;
}

/* A switch that this program has no code for. */
static marlin_status must_be_off(const struct ml_hf *h, const char *key) {
    bool on;
    const marlin_status st = ml_hf_bool(h, ml_hf_get(h->text, key), key, false, &on);
    if (st != MARLIN_OK || !on) return st;
    return ml_fail(h->err, MARLIN_ERR_UNSUPPORTED, "%s: %s: is not supported for %s: only false is", h->where,
                   key, ml_hf_family_name(h->family));
}

/* Keys that few families have. */
static marlin_status read_particular(struct ml_hf *h) {
    struct ml_config *c = h->out;
    const struct ml_hf_family *f = h->family;
    marlin_status st = MARLIN_OK;
    c->qk_factor = c->output_multiplier = 1;
    c->post_norm_eps = c->rms_eps;
    c->attention_gate = f->attention_gate;
    if (f->post_norm_eps > 0)
        ML_TRY(ml_hf_real(h, h->text, "post_norm_eps", 0, f->post_norm_eps, &c->post_norm_eps));
    if (f->qk_factor > 0) ML_TRY(ml_hf_real(h, h->text, "qk_scale_factor", 0, f->qk_factor, &c->qk_factor));
    if (f->output_multiplier > 0)
        ML_TRY(ml_hf_real(h, h->text, "output_multiplier", 0, f->output_multiplier, &c->output_multiplier));
    if (f->glu_limit > 0) ML_TRY(ml_hf_real(h, h->text, "swiglu_limit", 0, f->glu_limit, &c->glu_limit));
    if (f->glu_alpha > 0) ML_TRY(ml_hf_real(h, h->text, "swiglu_alpha", 0, f->glu_alpha, &c->glu_alpha));
    if (f->qk_norm_key)
        ML_TRY(ml_hf_bool(h, ml_hf_get(h->text, "use_qk_norm"), "use_qk_norm", false, &c->qk_norm));
    if (f->sequential_only) ML_TRY(must_be_off(h, "use_parallel_residual"));
    if (f->sequential_only) ML_TRY(must_be_off(h, "qk_layernorm"));
out:
    return st;
}

static marlin_status read_dimensions(struct ml_hf *h) {
    struct ml_config *c = h->out;
    const struct ml_hf_family *f = h->family;
    const struct ml_json *t = h->text, *tie = ml_hf_any(h, "tie_word_embeddings");
    marlin_status st;
    ML_TRY(ml_hf_int(h, t, "vocab_size", 1, ML_HF_MAX_VOCAB, f->vocab_size, &c->vocab_size));
    ML_TRY(ml_hf_int(h, t, "hidden_size", 1, ML_HF_MAX_WIDTH, 0, &c->hidden_size));
    ML_TRY(ml_hf_int(h, t, "intermediate_size", 1, ML_HF_MAX_INNER, 0, &c->intermediate_size));
    ML_TRY(ml_hf_int(h, t, "num_hidden_layers", 1, ML_HF_MAX_LAYERS, 0, &c->num_layers));
    ML_TRY(ml_hf_int(h, t, "max_position_embeddings", 1, INT32_MAX, f->max_positions, &c->max_positions));
    ML_TRY(ml_hf_real(h, t, f->eps_key ? f->eps_key : "rms_norm_eps", 0, f->rms_eps, &c->rms_eps));
    ML_TRY(f->kv_lora ? read_latent(h) : read_heads(h));
    ML_TRY(read_activation(h));
    ML_TRY(ml_hf_bool(h, tie, "tie_word_embeddings", f->tie, &c->tie_embeddings));
    c->has_tie = tie != NULL;
    ML_TRY(read_bias(h, f->attention_bias, f->qkv_bias_key ? f->qkv_bias_key : "attention_bias",
                     &c->attention_bias));
    ML_TRY(read_bias(h, f->mlp_bias, "mlp_bias", &c->mlp_bias));
    ML_TRY(read_softcaps(h));
    st = read_particular(h);
out:
    return st;
}

/* --- files ---------------------------------------------------------------------------------------------- */

static marlin_status parse_json(const char *text, size_t len, const char *where, struct ml_json_doc **doc,
                                struct marlin_error *err) {
    const struct ml_json_limits limits = {
        .max_bytes = ML_HF_MAX_BYTES, .max_depth = ML_HF_MAX_DEPTH, .max_values = ML_HF_MAX_VALUES};
    const marlin_status st = ml_json_parse(text, len, &limits, doc, err);
    return st == MARLIN_OK ? st : ml_fail_in(err, st, "%s", where);
}

static marlin_status read_config(struct ml_hf *h, const struct ml_json *root) {
    marlin_status st;
    ML_TRY(find_family(h, root));
    ML_TRY(read_names(h));
    ML_TRY(read_dimensions(h));
    ML_TRY(ml_hf_layers(h));
    ML_TRY(ml_hf_rope(h));
    ML_TRY(ml_hf_experts(h));
    st = ml_hf_tokens(h);
out:
    return st;
}

static marlin_status new_config(const char *json, size_t len, const char *where, struct ml_config **out,
                                struct marlin_error *err) {
    struct ml_config *c = ml_calloc(1, sizeof *c);
    if (c && !(c->arena = ml_calloc(1, sizeof(struct ml_arena)))) {
        ml_free(c);
        c = NULL;
    }
    if (!c) return ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", where);
    ml_arena_init(c->arena, 0);
    *out = c;
    c->json = ml_arena_strndup(c->arena, json, len);
    c->json_len = len;
    return c->json ? MARLIN_OK : ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", where);
}

struct source {
    const char *text, *where;
    size_t len;
};

/* generation_config.json, as far as it is JSON; *doc stays NULL where it is not. */
static marlin_status parse_advice(const struct source *generation, struct ml_json_doc **doc,
                                  struct marlin_error *err) {
    const marlin_status st = parse_json(generation->text, generation->len, generation->where, doc, err);
    if (st == MARLIN_OK || st == MARLIN_ERR_MEMORY) return st;
    ml_log(ML_LOG_WARN, "%s: the file is left aside", err->text);
    return MARLIN_OK;
}

static marlin_status parse(const struct source *config, const struct source *generation,
                           struct ml_config **out, struct marlin_error *err) {
    struct ml_json_doc *doc = NULL, *generation_doc = NULL;
    struct ml_config *c = NULL;
    struct ml_hf h = {.where = config->where, .err = err};
    marlin_status st;
    ML_TRY(parse_json(config->text, config->len, config->where, &doc, err));
    ML_TRY(new_config(config->text, config->len, config->where, &c, err));
    h.out = c;
    h.arena = c->arena;
    ML_TRY(read_config(&h, ml_json_root(doc)));
    if (generation->text) {
        h.where = generation->where;
        ML_TRY(parse_advice(generation, &generation_doc, err));
        if (generation_doc) ml_hf_generation(&h, ml_json_root(generation_doc));
    }
out:
    ml_json_free(generation_doc);
    ml_json_free(doc);
    if (st == MARLIN_OK)
        *out = c;
    else
        ml_config_free(c);
    return st;
}

marlin_status ml_config_parse(const char *json, size_t len, const char *generation, size_t generation_len,
                              const char *where, struct ml_config **out, struct marlin_error *err) {
    char generation_where[PATH_MAX];
    (void)snprintf(generation_where, sizeof generation_where, "%.4000s (generation config)", where);
    const struct source config = {json, where, len};
    const struct source gen = {generation, generation_where, generation_len};
    return parse(&config, &gen, out, err);
}

static marlin_status load_gguf(const char *path, struct ml_config **out, struct marlin_error *err) {
    struct source config = {.where = path}, none = {.where = path};
    struct ml_gguf *g = NULL;
    struct ml_buf text;
    marlin_status st;
    ml_buf_init(&text, ML_HF_MAX_BYTES);
    ML_TRY(ml_gguf_open(path, &g, err));
    ML_TRY(ml_gguf_config(g, &text, err));
    config.text = text.data;
    config.len = text.len;
    st = parse(&config, &none, out, err);
out:
    ml_buf_free(&text);
    ml_gguf_close(g);
    return st;
}

marlin_status ml_config_load(const char *dir, struct ml_config **out, struct marlin_error *err) {
    char path[PATH_MAX], generation_path[PATH_MAX];
    char *text = NULL, *generation = NULL;
    struct source config = {.where = path}, gen = {.where = generation_path};
    marlin_status st;
    if (ml_gguf_is(dir)) return load_gguf(dir, out, err);
    ML_TRY(ml_path_join(path, sizeof path, dir, "config.json", err));
    ML_TRY(ml_path_join(generation_path, sizeof generation_path, dir, "generation_config.json", err));
    ML_TRY(ml_file_slurp(path, ML_HF_MAX_BYTES, &text, &config.len, err));
    if (ml_path_exists(generation_path))
        ML_TRY(ml_file_slurp(generation_path, ML_HF_MAX_BYTES, &generation, &gen.len, err));
    config.text = text;
    gen.text = generation;
    st = parse(&config, &gen, out, err);
out:
    ml_free(text);
    ml_free(generation);
    return st;
}

void ml_config_free(struct ml_config *c) {
    if (!c) return;
    ml_arena_free(c->arena);
    ml_free(c->arena);
    ml_free(c);
}
