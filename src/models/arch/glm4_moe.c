/* SPDX-License-Identifier: Apache-2.0
 *
 * GLM-4.5 to 4.7: Llama's attention, half of each head rotates, norms on q and k where config.json says so; behind
 * the first dense layers, DeepSeek's mixture of experts with one that every token goes through.
 */
#include "models/arch/arch.h"

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    const size_t dim = (size_t)c->head_dim;
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, c->attention_bias, false, err));
    if (c->qk_norm) ML_TRY(ml_bind_qk_norm(b, l, dim, dim, err));
    if (c->layer_moe[l->index])
        st = ml_bind_moe(b, l, &ml_deepseek_moe_names, c->norm_topk_prob, err);
    else
        st = ml_bind_mlp(b, l, false, err);
out:
    return st;
}

const struct ml_arch ml_arch_glm4_moe = {.model_type = "glm4_moe", .bind = bind, .layer = ml_prenorm_layer};
