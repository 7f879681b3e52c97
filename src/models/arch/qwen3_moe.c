/* SPDX-License-Identifier: Apache-2.0
 *
 * Qwen3-MoE: Qwen3's attention; layers are mixtures of experts except those that config.json calls dense. The
 * chosen probabilities are divided by their sum when norm_topk_prob says so.
 */
#include "models/arch/arch.h"

static const struct ml_moe_names names = {
    .block = "mlp.", .gate = "gate_proj", .up = "up_proj", .down = "down_proj"};

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    const size_t dim = (size_t)c->head_dim;
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, c->attention_bias, c->attention_bias, err));
    ML_TRY(ml_bind_qk_norm(b, l, dim, dim, err));
    if (c->layer_moe[l->index])
        st = ml_bind_moe(b, l, &names, c->norm_topk_prob, err);
    else
        st = ml_bind_mlp(b, l, false, err);
out:
    return st;
}

const struct ml_arch ml_arch_qwen3_moe = {
    .model_type = "qwen3_moe", .bind = bind, .layer = ml_prenorm_layer, .has_backward = true};
