/* SPDX-License-Identifier: Apache-2.0
 *
 * From metadata to the text of config.json, which the one reader of configs checks and exports keep. What would
 * change the model and cannot be said there is refused by the name of its key.
 */
#include "base/mem.h"
#include "converters/gguf_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NEEDED = -1, MAX_EOS = 16 };

struct build {
    const struct ml_gguf *g;
    const struct ml_gguf_arch *arch;
    struct ml_buf *out;
    struct marlin_error *err;
    int64_t heads, kv_heads, head_dim, hidden, layers, context;
};

static bool is(const struct build *b, const char *model_type) {
    return strcmp(b->arch->model_type, model_type) == 0;
}

/* "llama.attention.head_count" */
static const struct ml_gguf_value *value(const struct build *b, const char *key) {
    char full[128];
    (void)snprintf(full, sizeof full, "%s.%s", b->arch->name, key);
    return ml_gguf_find(b->g, full);
}

static marlin_status missing(const struct build *b, const char *key) {
    return ml_fail(b->err, MARLIN_ERR_FORMAT, "%s: \"%s.%s\" is missing", b->g->path, b->arch->name, key);
}

static marlin_status unsupported(const struct build *b, const char *key, const char *what) {
    return ml_fail(b->err, MARLIN_ERR_UNSUPPORTED, "%s: \"%s.%s\": %s", b->g->path, b->arch->name, key, what);
}

/* A dimension. Some files have an array with one for each layer, which must be equal. */
static marlin_status whole(const struct build *b, const char *key, int64_t absent, int64_t *out) {
    const struct ml_gguf_value *v = value(b, key);
    int64_t other = 0;
    *out = absent;
    if (!v) return absent == NEEDED ? missing(b, key) : MARLIN_OK;
    marlin_status st = ml_gguf_int(b->g, v, 0, out, b->err);
    for (uint64_t i = 1; i < v->count && st == MARLIN_OK; i++) {
        st = ml_gguf_int(b->g, v, i, &other, b->err);
        if (st == MARLIN_OK && other != *out) return unsupported(b, key, "differs from layer to layer");
    }
    return st;
}

static marlin_status real(const struct build *b, const char *key, double absent, double *out) {
    const struct ml_gguf_value *v = value(b, key);
    *out = absent;
    return v ? ml_gguf_real(b->g, v, 0, out, b->err) : MARLIN_OK;
}

static marlin_status put_int(const struct build *b, const char *name, int64_t v) {
    return ml_buf_addf(b->out, ",\n  \"%s\": %lld", name, (long long)v);
}

static marlin_status put_real(const struct build *b, const char *name, double v) {
    return ml_buf_addf(b->out, ",\n  \"%s\": %.17g", name, v);
}

static marlin_status put_bool(const struct build *b, const char *name, bool v) {
    return ml_buf_addf(b->out, ",\n  \"%s\": %s", name, v ? "true" : "false");
}

/* ---- dimensions ---- */

static marlin_status read_head_dim(struct build *b) {
    int64_t values = 0;
    marlin_status st;
    ML_TRY(whole(b, "attention.key_length", 0, &b->head_dim));
    if (b->head_dim == 0) {
        if (b->heads < 1 || b->hidden % b->heads)
            return unsupported(b, "attention.head_count",
                               "does not divide embedding_length, and there is no key_length");
        b->head_dim = b->hidden / b->heads;
    }
    ML_TRY(whole(b, "attention.value_length", b->head_dim, &values));
    if (values != b->head_dim) st = unsupported(b, "attention.value_length", "is not key_length");
out:
    return st;
}

static marlin_status put_dimensions(struct build *b) {
    const struct ml_gguf_tensor *embedding = ml_gguf_tensor(b->g, "token_embd.weight");
    int64_t inner = 0;
    marlin_status st;
    if (!embedding || embedding->rank != 2)
        return ml_fail(b->err, MARLIN_ERR_NOT_FOUND,
                       "%s: tensor \"token_embd.weight\" [vocabulary, width] is missing", b->g->path);
    ML_TRY(whole(b, "embedding_length", NEEDED, &b->hidden));
    ML_TRY(whole(b, "attention.head_count", NEEDED, &b->heads));
    ML_TRY(whole(b, "attention.head_count_kv", b->heads, &b->kv_heads));
    ML_TRY(whole(b, "block_count", NEEDED, &b->layers));
    ML_TRY(whole(b, "context_length", NEEDED, &b->context));
    ML_TRY(whole(b, "feed_forward_length", NEEDED, &inner));
    ML_TRY(read_head_dim(b));
    ML_TRY(put_int(b, "vocab_size", (int64_t)embedding->ne[1]));
    ML_TRY(put_int(b, "hidden_size", b->hidden));
    ML_TRY(put_int(b, "intermediate_size", inner));
    ML_TRY(put_int(b, "num_hidden_layers", b->layers));
    ML_TRY(put_int(b, "num_attention_heads", b->heads));
    ML_TRY(put_int(b, "num_key_value_heads", b->kv_heads));
    ML_TRY(put_int(b, "head_dim", b->head_dim));
    st = put_int(b, "max_position_embeddings", b->context);
out:
    return st;
}

static const char *number_type(const struct ml_gguf_tensor *t) {
    return t->type->widen || t->type->plain == ML_F32 ? "float32"
           : t->type->plain == ML_F16                 ? "float16"
                                                      : "bfloat16";
}

static marlin_status put_switches(const struct build *b) {
    const bool gemma = b->arch->norm_plus;
    double eps = 0;
    marlin_status st;
    if (!value(b, "attention.layer_norm_rms_epsilon")) return missing(b, "attention.layer_norm_rms_epsilon");
    ML_TRY(real(b, "attention.layer_norm_rms_epsilon", 0, &eps));
    ML_TRY(put_real(b, "rms_norm_eps", eps));
    ML_TRY(put_bool(b, "tie_word_embeddings", !ml_gguf_tensor(b->g, "output.weight")));
    ML_TRY(put_bool(b, "attention_bias", ml_gguf_tensor(b->g, "blk.0.attn_q.bias")));
    ML_TRY(put_bool(b, "mlp_bias", ml_gguf_tensor(b->g, "blk.0.ffn_gate.bias")));
    ML_TRY(ml_buf_addf(b->out, ",\n  \"%s\": \"%s\"", gemma ? "hidden_activation" : "hidden_act",
                       gemma ? "gelu_pytorch_tanh" : "silu"));
    st = ml_buf_addf(b->out, ",\n  \"torch_dtype\": \"%s\"",
                     number_type(ml_gguf_tensor(b->g, "token_embd.weight")));
out:
    return st;
}

/* ---- attention ---- */

/* The larger models of the Gemma families scale queries by hidden_size / heads, which files do not say: ggml knows
 * them by their number of layers. */
static double usual_scalar(const struct build *b) {
    const bool large = (is(b, "gemma2") && b->layers == 46) || (is(b, "gemma3_text") && b->layers == 62);
    return large ? (double)b->hidden / (double)b->heads : (double)b->head_dim;
}

static marlin_status put_scales(const struct build *b) {
    double scale = 0, cap = 0;
    marlin_status st;
    ML_TRY(real(b, "attention.scale", 0, &scale));
    if (scale != 0 && !b->arch->norm_plus && fabs(scale * sqrt((double)b->head_dim) - 1) > 1e-5)
        return unsupported(b, "attention.scale", "is not 1 / sqrt(key_length)");
    if (!b->arch->norm_plus) return MARLIN_OK;
    ML_TRY(put_real(b, "query_pre_attn_scalar", scale > 0 ? 1 / (scale * scale) : usual_scalar(b)));
    ML_TRY(real(b, "attn_logit_softcapping", is(b, "gemma2") ? 50 : 0, &cap));
    ML_TRY(cap > 0 ? put_real(b, "attn_logit_softcapping", cap)
                   : ml_buf_adds(b->out, ",\n  \"attn_logit_softcapping\": null"));
    ML_TRY(real(b, "final_logit_softcapping", is(b, "gemma2") ? 30 : 0, &cap));
    st = cap > 0 ? put_real(b, "final_logit_softcapping", cap)
                 : ml_buf_adds(b->out, ",\n  \"final_logit_softcapping\": null");
out:
    return st;
}

/* One boolean a layer: true slides. */
static marlin_status put_layer_types(const struct build *b, const struct ml_gguf_value *v) {
    int64_t slides = 0;
    marlin_status st = ml_buf_adds(b->out, ",\n  \"layer_types\": [");
    for (uint64_t i = 0; i < v->count && st == MARLIN_OK; i++) {
        ML_TRY(ml_gguf_int(b->g, v, i, &slides, b->err));
        st = ml_buf_addf(b->out, "%s\"%s\"", i ? ", " : "", slides ? "sliding_attention" : "full_attention");
    }
    ML_TRY(st);
    st = ml_buf_adds(b->out, "]");
out:
    return st;
}

static marlin_status put_window(const struct build *b) {
    static const char key[] = "attention.sliding_window", pattern[] = "attention.sliding_window_pattern";
    const bool slides = is(b, "mistral") || is(b, "mixtral") || is(b, "phi3") || b->arch->norm_plus;
    const struct ml_gguf_value *layers = value(b, pattern);
    int64_t window = 0, every = 0;
    marlin_status st;
    ML_TRY(whole(b, key, 0, &window));
    if (window > 0 && !slides) return unsupported(b, key, "windows are not known to this architecture");
    if (window <= 0) return ml_buf_adds(b->out, ",\n  \"sliding_window\": null");
    ML_TRY(put_int(b, "sliding_window", window));
    if (!is(b, "gemma3_text")) return st;
    if (layers && layers->array) return put_layer_types(b, layers);
    ML_TRY(whole(b, pattern, 6, &every));
    st = put_int(b, "sliding_window_pattern", every);
out:
    return st;
}

/* ---- rotary position ---- */

/* The numbers of a float32 tensor that divides frequencies. */
static marlin_status put_factors(const struct build *b, const char *name, const struct ml_gguf_tensor *t) {
    const uint64_t half = (uint64_t)b->head_dim / 2;
    float *v = NULL;
    marlin_status st = MARLIN_OK;
    if (t->type->widen || t->type->plain != ML_F32 || t->count > half || t->count == 0)
        return ml_fail(b->err, MARLIN_ERR_FORMAT,
                       "%s: tensor \"%.60s\" is not float32 with at most %llu numbers (offset %llu)",
                       ml_file_path(t->file), t->name, (unsigned long long)half,
                       (unsigned long long)t->offset);
    if (!(v = ml_alloc((size_t)t->bytes))) return MARLIN_ERR_MEMORY;
    ML_TRY(ml_file_read(t->file, t->offset, v, (size_t)t->bytes, b->err));
    ML_TRY(ml_buf_addf(b->out, ", \"%s\": [", name));
    for (uint64_t i = 0; i < t->count; i++) {
        if (!isfinite(v[i]))
            ML_TRY(ml_fail(b->err, MARLIN_ERR_NUMERIC,
                           "%s: tensor \"%.60s\": element %llu is NaN or infinite (offset %llu)",
                           ml_file_path(t->file), t->name, (unsigned long long)i,
                           (unsigned long long)t->offset));
        ML_TRY(ml_buf_addf(b->out, "%s%.9g", i ? ", " : "", (double)v[i]));
    }
    ML_TRY(ml_buf_adds(b->out, "]"));
out:
    ml_free(v);
    return st;
}

/* Factors by which each frequency is divided: longrope says just that, also of Llama 3's, which files carry in this
 * form alone. */
static marlin_status put_longrope(const struct build *b, const struct ml_gguf_tensor *near,
                                  const struct ml_gguf_tensor *far) {
    double attention = 1;
    int64_t original = 0;
    marlin_status st;
    ML_TRY(real(b, "rope.scaling.attn_factor", 1, &attention));
    ML_TRY(whole(b, "rope.scaling.original_context_length", b->context, &original));
    ML_TRY(ml_buf_addf(b->out,
                       ",\n  \"rope_scaling\": {\"rope_type\": \"longrope\", \"attention_factor\": %.17g, "
                       "\"original_max_position_embeddings\": %lld",
                       attention, (long long)original));
    ML_TRY(put_factors(b, "short_factor", near));
    ML_TRY(put_factors(b, "long_factor", far));
    st = ml_buf_adds(b->out, "}");
out:
    return st;
}

static marlin_status put_yarn(const struct build *b, double factor) {
    static const char *const betas[][2] = {{"rope.scaling.yarn_beta_fast", "beta_fast"},
                                           {"rope.scaling.yarn_beta_slow", "beta_slow"}};
    double attention = 1, beta = 0;
    int64_t original = 0;
    marlin_status st;
    ML_TRY(real(b, "rope.scaling.attn_factor", 1, &attention));
    ML_TRY(real(b, "rope.scaling.yarn_attn_factor", attention, &attention));
    ML_TRY(whole(b, "rope.scaling.original_context_length", b->context, &original));
    ML_TRY(ml_buf_addf(b->out,
                       ",\n  \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": %.17g, "
                       "\"original_max_position_embeddings\": %lld",
                       factor, (long long)original));
    if (attention != 1)
        ML_TRY(ml_buf_addf(b->out, ", \"attention_factor\": %.17g",
                           attention * (factor > 1 ? 0.1 * log(factor) + 1 : 1)));
    for (size_t i = 0; i < 2; i++) {
        ML_TRY(real(b, betas[i][0], 0, &beta));
        if (beta > 0) ML_TRY(ml_buf_addf(b->out, ", \"%s\": %.17g", betas[i][1], beta));
    }
    st = ml_buf_adds(b->out, "}");
out:
    return st;
}

static marlin_status put_scaling(const struct build *b) {
    char key[96];
    const struct ml_gguf_tensor *freqs = ml_gguf_tensor(b->g, "rope_freqs.weight");
    const struct ml_gguf_tensor *near = ml_gguf_tensor(b->g, "rope_factors_short.weight");
    const struct ml_gguf_tensor *far = ml_gguf_tensor(b->g, "rope_factors_long.weight");
    double factor = 1;
    marlin_status st;
    (void)snprintf(key, sizeof key, "%s.rope.scaling.type", b->arch->name);
    const char *type = ml_gguf_string(b->g, key);
    ML_TRY(real(b, "rope.scale_linear", 1, &factor)); /* of older files */
    if (!type && factor != 1) type = "linear";
    ML_TRY(real(b, "rope.scaling.factor", factor, &factor));
    if (freqs) return put_longrope(b, freqs, freqs);
    if (near && far) return put_longrope(b, near, far);
    if (!type || strcmp(type, "none") == 0 || (strcmp(type, "linear") == 0 && factor == 1)) return MARLIN_OK;
    if (strcmp(type, "yarn") == 0) return put_yarn(b, factor);
    if (strcmp(type, "linear") == 0)
        return ml_buf_addf(b->out, ",\n  \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": %.17g}",
                           factor);
    st = unsupported(b, "rope.scaling.type",
                     strcmp(type, "longrope") == 0 ? "is longrope, but the tensors of its factors are missing"
                                                   : "is none of none, linear, yarn, longrope");
out:
    return st;
}

static marlin_status put_rope(const struct build *b) {
    double theta = 0, local = 0;
    int64_t rotary = 0;
    marlin_status st;
    ML_TRY(real(b, "rope.freq_base", 1e4, &theta));
    ML_TRY(put_real(b, "rope_theta", theta));
    ML_TRY(real(b, "rope.freq_base_swa", 1e4, &local));
    if (is(b, "gemma3_text")) ML_TRY(put_real(b, "rope_local_base_freq", local));
    ML_TRY(whole(b, "rope.dimension_count", b->head_dim, &rotary));
    if (rotary != b->head_dim && b->arch->paired)
        return unsupported(b, "rope.dimension_count", "is not key_length");
    if (rotary != b->head_dim)
        ML_TRY(put_real(b, "partial_rotary_factor", (double)rotary / (double)b->head_dim));
    st = put_scaling(b);
out:
    return st;
}

/* ---- experts ---- */

static marlin_status put_experts(const struct build *b) {
    int64_t count = 0, used = 0, width = 0, shared = 0, gating = 0, norm = 0;
    marlin_status st;
    ML_TRY(whole(b, "expert_count", 0, &count));
    if (count == 0) return MARLIN_OK;
    if (!is(b, "mixtral") && !is(b, "qwen3_moe"))
        return unsupported(b, "expert_count", "experts are not known to this architecture");
    ML_TRY(whole(b, "expert_used_count", NEEDED, &used));
    ML_TRY(whole(b, "expert_shared_count", 0, &shared));
    ML_TRY(whole(b, "expert_gating_func", 1, &gating));
    ML_TRY(whole(b, "expert_weights_norm", 1, &norm));
    if (shared != 0) return unsupported(b, "expert_shared_count", "shared experts are not supported");
    if (gating > 1) return unsupported(b, "expert_gating_func", "is not softmax");
    ML_TRY(put_int(b, is(b, "mixtral") ? "num_local_experts" : "num_experts", count));
    ML_TRY(put_int(b, "num_experts_per_tok", used));
    if (is(b, "mixtral")) return MARLIN_OK;
    ML_TRY(whole(b, "expert_feed_forward_length", NEEDED, &width));
    ML_TRY(put_int(b, "moe_intermediate_size", width));
    st = put_bool(b, "norm_topk_prob", norm != 0);
out:
    return st;
}

/* ---- tokens ---- */

struct eos {
    int64_t id[MAX_EOS];
    int n;
};

static void add_eos(struct eos *e, int64_t id) {
    for (int i = 0; i < e->n; i++)
        if (e->id[i] == id) return;
    if (e->n < MAX_EOS) e->id[e->n++] = id;
}

/* Files name one end; chat models have others, known by their text. */
static marlin_status scan_ends(const struct build *b, struct eos *e) {
    static const char *const ends[] = {"<|im_end|>",      "<|eot_id|>", "<|eom_id|>",
                                       "<end_of_turn>",   "<|end|>",    "<|endoftext|>",
                                       "<|end_of_text|>", "<|eot|>",    "<EOT>"};
    const struct ml_gguf_value *tokens = ml_gguf_find(b->g, "tokenizer.ggml.tokens");
    const struct ml_gguf_value *types = ml_gguf_find(b->g, "tokenizer.ggml.token_type");
    const char *text;
    size_t len;
    int64_t type = 0;
    marlin_status st = MARLIN_OK;
    if (!tokens || !types || !tokens->array || tokens->kind != ML_GGUF_STRING ||
        types->count != tokens->count)
        return st;
    const uint8_t *at = tokens->at;
    for (uint64_t i = 0; ml_gguf_next(tokens, &at, &text, &len); i++) {
        for (size_t k = 0; k < sizeof ends / sizeof *ends; k++) {
            if (strlen(ends[k]) != len || memcmp(ends[k], text, len) != 0) continue;
            ML_TRY(ml_gguf_int(b->g, types, i, &type, b->err));
            if (type == 3) add_eos(e, (int64_t)i); /* a control token */
        }
    }
out:
    return st;
}

static marlin_status token(const struct build *b, const char *key, int64_t *id) {
    const struct ml_gguf_value *v = ml_gguf_find(b->g, key);
    *id = -1;
    return v ? ml_gguf_int(b->g, v, 0, id, b->err) : MARLIN_OK;
}

static marlin_status put_tokens(const struct build *b) {
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    struct eos e = {0};
    int64_t id = 0;
    marlin_status st;
    ML_TRY(token(b, "tokenizer.ggml.bos_token_id", &id));
    if (id >= 0) ML_TRY(put_int(b, "bos_token_id", id));
    ML_TRY(token(b, "tokenizer.ggml.padding_token_id", &id));
    if (id >= 0) ML_TRY(put_int(b, "pad_token_id", id));
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        ML_TRY(token(b, ends[i], &id));
        if (id >= 0) add_eos(&e, id);
    }
    ML_TRY(scan_ends(b, &e));
    for (int i = 0; i < e.n; i++)
        ML_TRY(ml_buf_addf(b->out, "%s%lld", i ? ", " : ",\n  \"eos_token_id\": [", (long long)e.id[i]));
    if (e.n) ML_TRY(ml_buf_adds(b->out, "]"));
out:
    return st;
}

/* ---- all of it ---- */

static marlin_status put_all(struct build *b) {
    int64_t causal = 1;
    marlin_status st;
    ML_TRY(ml_gguf_arch(b->g, &b->arch, b->err));
    ML_TRY(whole(b, "attention.causal", 1, &causal));
    if (!causal) return unsupported(b, "attention.causal", "is false: only causal models are supported");
    ML_TRY(ml_buf_addf(b->out, "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\"",
                       b->arch->class_name, b->arch->model_type));
    ML_TRY(put_dimensions(b));
    ML_TRY(put_switches(b));
    ML_TRY(put_scales(b));
    ML_TRY(put_window(b));
    ML_TRY(put_rope(b));
    ML_TRY(put_experts(b));
    ML_TRY(put_tokens(b));
    st = ml_buf_adds(b->out, "\n}\n");
out:
    return st;
}

marlin_status ml_gguf_config(const struct ml_gguf *g, struct ml_buf *out, struct marlin_error *err) {
    struct marlin_error inner = {0};
    struct build b = {.g = g, .out = out, .err = &inner};
    const marlin_status st = put_all(&b);
    if (st == MARLIN_OK) return st;
    return ml_fail(err, st, "%s", inner.code == st ? inner.text : "config of a GGUF file: out of memory");
}
