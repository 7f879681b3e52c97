/* SPDX-License-Identifier: Apache-2.0
 *
 * A Hugging Face config.json (+ generation_config.json) as one typed struct: both transformers-4
 * (rope_theta, rope_scaling, torch_dtype) and transformers-5 (rope_parameters, dtype) spellings, and text
 * configs nested in multimodal ones. Everything is range-checked here, so that no later code divides by a
 * zero from a file.
 */
#ifndef ML_CONVERTERS_HF_CONFIG_H
#define ML_CONVERTERS_HF_CONFIG_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ml_rope_kind {
    ML_ROPE_DEFAULT,
    ML_ROPE_LINEAR,
    ML_ROPE_LLAMA3,
    ML_ROPE_YARN,
    ML_ROPE_DYNAMIC,
    ML_ROPE_LONGROPE
};

struct ml_rope_config {
    enum ml_rope_kind kind;
    double theta;
    double factor; /* 1 when absent */
    bool has_factor;
    double partial;                                      /* partial_rotary_factor, 1 when absent */
    int64_t original_max;                                /* original_max_position_embeddings, 0 when absent */
    double low_freq_factor, high_freq_factor;            /* llama3 */
    double beta_fast, beta_slow, mscale, mscale_all_dim; /* yarn; mscale 0 when absent */
    double attention_factor;                             /* 0 when absent */
    bool truncate;                                       /* yarn, true by default */
    double
        temper; /* ministral3: q of position p grows by 1 + temper * ln(1 + floor(p / original_max)); 0 = not */
    double *short_factor, *long_factor; /* longrope, rotary_dim/2 each, in the config's arena */
    size_t n_short, n_long;
};

enum ml_layer_kind { ML_LAYER_FULL, ML_LAYER_SLIDING };
enum ml_activation { ML_ACT_SILU, ML_ACT_GELU_TANH };

/* How a router's logits become scores: softmax over all experts, or each by itself. */
enum ml_router_score { ML_SCORE_SOFTMAX, ML_SCORE_SIGMOID };

enum { ML_MAX_EOS = 256 };

struct ml_config {
    char model_type[64]; /* of the text model: "qwen3" */
    char architecture[128];
    int64_t vocab_size, hidden_size, intermediate_size, num_layers;
    int64_t num_heads, num_kv_heads, head_dim;
    /* latent attention, whose head_dim is that of the rotated part; kv_lora_rank 0 = none, q_lora_rank 0 = no low rank */
    int64_t kv_lora_rank, q_lora_rank, qk_nope_dim, v_head_dim;
    int64_t max_positions;
    double rms_eps;       /* of LayerNorm too where the family has it */
    double post_norm_eps; /* of the norms on a branch's output; equals rms_eps in most families */
    enum ml_activation activation;
    double glu_limit, glu_alpha; /* of a clamped gate (ops/weights.h); 0 = none */
    bool tie_embeddings;
    bool has_tie; /* the key was present */
    bool attention_bias, mlp_bias;
    bool qk_norm;                     /* glm4_moe: q and k have norms */
    bool attention_gate;              /* what the heads gave is gated */
    struct ml_rope_config rope;       /* of full-attention layers */
    struct ml_rope_config rope_local; /* of sliding layers (gemma3); equals rope elsewhere */
    int64_t sliding_window;           /* 0 = none */
    enum ml_layer_kind
        *layer_kind;  /* [num_layers]: from layer_types, sliding_window_pattern or the family's rule */
    bool *layer_rope; /* [num_layers]: false for NoPE layers (smollm3) */
    double query_pre_attn_scalar;       /* 0 when absent */
    double attn_softcap, final_softcap; /* 0 = none */
    double qk_factor;                   /* on scores, beside their usual scale; 1 = none */
    double output_multiplier;           /* on logits before the cap; 1 = none */
    /* mixture of experts; num_experts 0 = dense */
    int64_t num_experts, experts_per_token, moe_intermediate_size;
    bool norm_topk_prob;
    enum ml_router_score router_score;
    int64_t router_groups,
        router_top_groups; /* experts are chosen from the best groups alone; 1, 1 = from all */
    double routed_scale;   /* on the chosen weights; 1 = none */
    int64_t shared_width;  /* of the expert that every token goes through; 0 = none */
    bool *layer_moe;       /* [num_layers] */
    /* tokens */
    int64_t bos_id, pad_id; /* -1 when absent */
    int64_t eos_ids[ML_MAX_EOS];
    int n_eos;
    /* sampling defaults of generation_config.json; NaN / -1 when absent */
    double temperature, top_p, min_p, repetition_penalty;
    int64_t top_k;
    bool do_sample, has_do_sample;
    char dtype[16];          /* "bfloat16" or "" */
    char quant_method[32];   /* quantization_config.quant_method or "" */
    int64_t quant_version;   /* of method "marlin", at least 1; else 0 */
    char quant_codebook[32]; /* quantization_config.codebook (exl3) or "" */
    char *json;              /* the raw config.json text, for rewriting on export */
    size_t json_len;
    void *arena; /* owns the arrays above */
};

/* The model families, by model_type: the one list of them. Each has a row of what config.json may leave out
 * (hf_family.c) and an architecture (models/arch/). */
#define ML_FAMILIES(X)                                                                                       \
    X(llama)                                                                                                 \
    X(qwen2)                                                                                                 \
    X(qwen3)                                                                                                 \
    X(qwen3_moe)                                                                                             \
    X(mistral)                                                                                               \
    X(mixtral)                                                                                               \
    X(phi3)                                                                                                  \
    X(olmo2)                                                                                                 \
    X(smollm3)                                                                                               \
    X(gemma2)                                                                                                \
    X(gemma3_text)                                                                                           \
    X(ministral3)                                                                                            \
    X(olmo3)                                                                                                 \
    X(glm4)                                                                                                  \
    X(stablelm)                                                                                              \
    X(hunyuan_v1_dense)                                                                                      \
    X(muse_glimmer_text)                                                                                     \
    X(minimax_m2)                                                                                            \
    X(glm4_moe)                                                                                              \
    X(gpt_oss)                                                                                               \
    X(deepseek_v3)                                                                                           \
    X(glm4_moe_lite)

/* Their model_type values, NULL-terminated. */
const char *const *ml_config_supported(void);

/* Reads dir/config.json and, when present, dir/generation_config.json (whose values win for eos and
 * sampling; it is advice: what cannot be read of it is left aside with a warning); `dir` may be a GGUF file, whose metadata says the same (converters/gguf.h). Unknown model_type: MARLIN_ERR_UNSUPPORTED with the list of the supported ones. */
marlin_status ml_config_load(const char *dir, struct ml_config **out,
                             struct marlin_error *err) MARLIN_MUST_CHECK;

/* The same from memory; generation may be NULL. `where` names the source in messages. */
marlin_status ml_config_parse(const char *json, size_t len, const char *generation, size_t generation_len,
                              const char *where, struct ml_config **out,
                              struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_config_free(struct ml_config *c);

#endif
