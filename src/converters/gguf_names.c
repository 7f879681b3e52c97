/* SPDX-License-Identifier: Apache-2.0
 *
 * Architectures and names of tensors, from those of ggml to those of Hugging Face.
 */
#include "converters/gguf_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- architectures ---- */

enum { LLAMA, MISTRAL, MIXTRAL, FIRST_OTHER };

/* ggml calls three families llama; the first of them stands for a file that is neither of the others. */
static const struct ml_gguf_arch archs[] = {
    [LLAMA] = {.name = "llama", .model_type = "llama", .class_name = "LlamaForCausalLM", .paired = true},
    [MISTRAL] = {.name = "llama",
                 .model_type = "mistral",
                 .class_name = "MistralForCausalLM",
                 .paired = true},
    [MIXTRAL] = {.name = "llama",
                 .model_type = "mixtral",
                 .class_name = "MixtralForCausalLM",
                 .paired = true},
    {.name = "qwen2", .model_type = "qwen2", .class_name = "Qwen2ForCausalLM"},
    {.name = "qwen3", .model_type = "qwen3", .class_name = "Qwen3ForCausalLM"},
    {.name = "qwen3moe", .model_type = "qwen3_moe", .class_name = "Qwen3MoeForCausalLM"},
    {.name = "phi3", .model_type = "phi3", .class_name = "Phi3ForCausalLM", .fused = true},
    {.name = "olmo2", .model_type = "olmo2", .class_name = "Olmo2ForCausalLM"},
    {.name = "smollm3", .model_type = "smollm3", .class_name = "SmolLM3ForCausalLM", .paired = true},
    {.name = "gemma2",
     .model_type = "gemma2",
     .class_name = "Gemma2ForCausalLM",
     .norm_plus = true,
     .post_norm_is_second = true},
    {.name = "gemma3",
     .model_type = "gemma3_text",
     .class_name = "Gemma3ForCausalLM",
     .norm_plus = true,
     .post_norm_is_second = true},
};

static marlin_status unknown(const struct ml_gguf *g, const char *name, struct marlin_error *err) {
    char list[256] = "llama";
    for (size_t i = FIRST_OTHER; i < sizeof archs / sizeof *archs; i++) {
        const size_t at = strlen(list);
        (void)snprintf(list + at, sizeof list - at, ", %s", archs[i].name);
    }
    return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                   "%s: architecture \"%.60s\" is not supported: supported are %s", g->path, name, list);
}

static marlin_status count_of(const struct ml_gguf *g, const char *key, int64_t *out,
                              struct marlin_error *err) {
    const struct ml_gguf_value *v = ml_gguf_find(g, key);
    *out = 0;
    return v ? ml_gguf_int(g, v, 0, out, err) : MARLIN_OK;
}

marlin_status ml_gguf_arch(const struct ml_gguf *g, const struct ml_gguf_arch **out,
                           struct marlin_error *err) {
    const char *name = ml_gguf_string(g, "general.architecture"), *type = ml_gguf_string(g, "general.type");
    int64_t experts = 0, window = 0;
    marlin_status st = MARLIN_OK;
    if (!name)
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s: \"general.architecture\" is missing or no string",
                       g->path);
    if (type && strcmp(type, "model") != 0)
        return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                       "%s: holds no language model but something of kind \"%.40s\"", g->path, type);
    *out = NULL;
    for (size_t i = 0; i < sizeof archs / sizeof *archs && !*out; i++)
        if (strcmp(archs[i].name, name) == 0) *out = &archs[i];
    if (!*out) return unknown(g, name, err);
    if (*out != &archs[LLAMA]) return MARLIN_OK;
    ML_TRY(count_of(g, "llama.expert_count", &experts, err));
    ML_TRY(count_of(g, "llama.attention.sliding_window", &window, err));
    *out = &archs[experts > 0 ? MIXTRAL : window > 0 ? MISTRAL : LLAMA];
out:
    return st;
}

/* ---- tensors of the whole model ---- */

struct pair {
    const char *stored, *name;
};

static bool whole_name(const char *stored, struct ml_gguf_name *out) {
    static const struct pair known[] = {
        {"token_embd.weight", "model.embed_tokens.weight"},
        {"output_norm.weight", "model.norm.weight"},
        {"output.weight", "lm_head.weight"},
        {"rope_freqs.weight", ""},
        {"rope_factors_long.weight", ""},
        {"rope_factors_short.weight", ""},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].stored, stored) != 0) continue;
        (void)snprintf(out->text, sizeof out->text, "%s", known[i].name);
        out->norm = strcmp(stored, "output_norm.weight") == 0;
        return true;
    }
    return false;
}

/* ---- tensors of a layer ---- */

static const struct pair layer_names[] = {
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_qkv", "self_attn.qkv_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"post_attention_norm", "post_attention_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_exps", "gate_proj"},
    {"ffn_up_exps", "up_proj"},
    {"ffn_down_exps", "down_proj"},
};

static const struct pair mixtral_names[] = {{"ffn_gate_inp", "block_sparse_moe.gate"},
                                            {"ffn_gate_exps", "w1"},
                                            {"ffn_down_exps", "w2"},
                                            {"ffn_up_exps", "w3"}};

static const char *find(const struct pair *list, size_t n, const char *stem) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i].stored, stem) == 0) return list[i].name;
    return NULL;
}

static const char *layer_name(const struct ml_gguf_arch *arch, const char *stem) {
    const char *name = NULL;
    if (arch == &archs[MIXTRAL])
        name = find(mixtral_names, sizeof mixtral_names / sizeof *mixtral_names, stem);
    if (arch->post_norm_is_second && strcmp(stem, "ffn_norm") == 0) name = "pre_feedforward_layernorm";
    if (arch->fused && strcmp(stem, "ffn_up") == 0) name = "mlp.gate_up_proj";
    return name ? name : find(layer_names, sizeof layer_names / sizeof *layer_names, stem);
}

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* "blk.12.attn_q.weight" */
static bool block_name(const struct ml_gguf_arch *arch, const char *stored, struct ml_gguf_name *out) {
    char stem[64], *end = NULL;
    if (strncmp(stored, "blk.", 4) != 0 || stored[4] < '0' || stored[4] > '9') return false;
    const unsigned long long layer = strtoull(stored + 4, &end, 10);
    const char *dot = strrchr(stored, '.');
    if (*end != '.' || dot <= end || (size_t)(dot - end) > sizeof stem) return false;
    (void)snprintf(stem, sizeof stem, "%.*s", (int)(dot - end - 1), end + 1);
    const char *name = layer_name(arch, stem);
    if (!name || (strcmp(dot, ".weight") != 0 && strcmp(dot, ".bias") != 0)) return false;
    out->experts = ends_with(stem, "_exps");
    out->keys = strcmp(stem, "attn_k") == 0;
    out->rotated = out->keys || strcmp(stem, "attn_q") == 0;
    out->norm = ends_with(stem, "_norm");
    if (out->experts) {
        const char *block = arch == &archs[MIXTRAL] ? "block_sparse_moe" : "mlp";
        (void)snprintf(out->text, sizeof out->text, "model.layers.%llu.%s.experts.", layer, block);
        (void)snprintf(out->suffix, sizeof out->suffix, ".%s%s", name, dot);
    } else {
        (void)snprintf(out->text, sizeof out->text, "model.layers.%llu.%s%s", layer, name, dot);
    }
    return true;
}

void ml_gguf_name(const struct ml_gguf_arch *arch, const char *stored, struct ml_gguf_name *out) {
    memset(out, 0, sizeof *out);
    if (whole_name(stored, out) || block_name(arch, stored, out)) return;
    /* Nobody will ask for it, and it will be named as not used. */
    (void)snprintf(out->text, sizeof out->text, "%s", stored);
}
