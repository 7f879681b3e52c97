/* SPDX-License-Identifier: Apache-2.0
 *
 * DeepSeek-V3 and GLM-4.7-Flash: latent attention; behind the first dense layers DeepSeek's mixture of experts.
 */
#include "models/arch/arch.h"

const struct ml_moe_names ml_deepseek_moe_names = {.block = "mlp.",
                                                   .gate = "gate_proj",
                                                   .up = "up_proj",
                                                   .down = "down_proj",
                                                   .bias = "gate.e_score_correction_bias",
                                                   .shared = "shared_experts."};

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_mla(b, l, err));
    if (c->layer_moe[l->index])
        st = ml_bind_moe(b, l, &ml_deepseek_moe_names, c->norm_topk_prob, err);
    else
        st = ml_bind_mlp(b, l, false, err);
out:
    return st;
}

const struct ml_arch ml_arch_deepseek_v3 = {
    .model_type = "deepseek_v3", .bind = bind, .layer = ml_prenorm_layer, .rope_interleaved = true};
const struct ml_arch ml_arch_glm4_moe_lite = {
    .model_type = "glm4_moe_lite", .bind = bind, .layer = ml_prenorm_layer, .rope_interleaved = true};
