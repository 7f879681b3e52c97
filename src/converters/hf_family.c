/* SPDX-License-Identifier: Apache-2.0
 *
 * What each family assumes when its config.json is silent.
 */
#include "converters/hf_int.h"

#include <string.h>

enum {
#define FAMILY(name) FAMILY_##name,
    ML_FAMILIES(FAMILY)
#undef FAMILY
        FAMILIES
};

static const struct ml_hf_family families[FAMILIES] = {
    [FAMILY_llama] = {.max_positions = 2048,
                      .rms_eps = 1e-6,
                      .attention_bias = ML_HF_BIAS_KEY,
                      .mlp_bias = ML_HF_BIAS_KEY,
                      .theta = 1e4},
    [FAMILY_qwen2] = {.num_kv_heads = 32,
                      .max_positions = 32768,
                      .rms_eps = 1e-6,
                      .attention_bias = ML_HF_BIAS_YES,
                      .theta = 1e4,
                      .sliding = ML_HF_SLIDE_LATE,
                      .window = 4096,
                      .uses_layer_types = true},
    [FAMILY_qwen3] = {.num_kv_heads = 32,
                      .head_dim = 128,
                      .max_positions = 32768,
                      .rms_eps = 1e-6,
                      .attention_bias = ML_HF_BIAS_KEY,
                      .theta = 1e4,
                      .sliding = ML_HF_SLIDE_LATE,
                      .window = 4096,
                      .uses_layer_types = true},
    [FAMILY_qwen3_moe] = {.num_kv_heads = 4,
                          .max_positions = 32768,
                          .rms_eps = 1e-6,
                          .attention_bias = ML_HF_BIAS_KEY,
                          .theta = 1e4,
                          .sliding = ML_HF_SLIDE_SWITCH,
                          .window = 4096,
                          .moe = true,
                          .own_expert_width = true,
                          .experts = 128,
                          .top_k = 8,
                          .expert_width = 768},
    [FAMILY_mistral] = {.num_kv_heads = 8,
                        .max_positions = 131072,
                        .rms_eps = 1e-6,
                        .theta = 1e4,
                        .sliding = ML_HF_SLIDE_ALL,
                        .window = 4096},
    [FAMILY_mixtral] = {.num_kv_heads = 8,
                        .max_positions = 131072,
                        .rms_eps = 1e-5,
                        .theta = 1e6,
                        .sliding = ML_HF_SLIDE_ALL,
                        .moe = true,
                        .experts = 8,
                        .top_k = 2,
                        .norm_topk = true},
    [FAMILY_phi3] = {.max_positions = 4096,
                     .rms_eps = 1e-5,
                     .theta = 1e4,
                     .sliding = ML_HF_SLIDE_ALL,
                     .outer_original = true},
    [FAMILY_olmo2] = {.max_positions = 2048, .rms_eps = 1e-5, .attention_bias = ML_HF_BIAS_KEY, .theta = 1e4},
    [FAMILY_smollm3] = {.num_kv_heads = 4,
                        .max_positions = 32768,
                        .rms_eps = 1e-6,
                        .tie = true,
                        .attention_bias = ML_HF_BIAS_KEY,
                        .mlp_bias = ML_HF_BIAS_KEY,
                        .theta = 2e6,
                        .sliding = ML_HF_SLIDE_NOPE,
                        .uses_layer_types = true,
                        .nope = true},
    [FAMILY_gemma2] = {.vocab_size = 256000,
                       .num_heads = 8,
                       .num_kv_heads = 4,
                       .head_dim = 256,
                       .max_positions = 8192,
                       .rms_eps = 1e-6,
                       .activation = ML_ACT_GELU_TANH,
                       .tie = true,
                       .attention_bias = ML_HF_BIAS_KEY,
                       .theta = 1e4,
                       .sliding = ML_HF_SLIDE_ALTERNATE,
                       .window = 4096,
                       .uses_layer_types = true,
                       .query_scalar = 256,
                       .attn_softcap = 50,
                       .final_softcap = 30,
                       .softcaps = true},
    [FAMILY_gemma3_text] = {.vocab_size = 262208,
                            .num_heads = 8,
                            .num_kv_heads = 4,
                            .head_dim = 256,
                            .max_positions = 131072,
                            .rms_eps = 1e-6,
                            .activation = ML_ACT_GELU_TANH,
                            .tie = true,
                            .attention_bias = ML_HF_BIAS_KEY,
                            .theta = 1e6,
                            .theta_local = 1e4,
                            .sliding = ML_HF_SLIDE_PATTERN,
                            .window = 4096,
                            .uses_layer_types = true,
                            .query_scalar = 256,
                            .softcaps = true},
};

const char *const *ml_config_supported(void) {
    static const char *const names[] = {
#define FAMILY(name) #name,
        ML_FAMILIES(FAMILY)
#undef FAMILY
            NULL};
    return names;
}

const struct ml_hf_family *ml_hf_family(const char *model_type) {
    const char *const *names = ml_config_supported();
    for (size_t i = 0; i < FAMILIES; i++) {
        if (strcmp(names[i], model_type) == 0) return &families[i];
    }
    return NULL;
}

const char *ml_hf_family_name(const struct ml_hf_family *family) {
    return ml_config_supported()[family - families];
}
