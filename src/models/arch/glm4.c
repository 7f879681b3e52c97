/* SPDX-License-Identifier: Apache-2.0
 *
 * GLM-4 (dense): Gemma's places of norms under other names, weights as they are; half of each head rotates, in
 * neighbouring pairs; gate and up are one matrix.
 */
#include "models/arch/arch.h"

static marlin_status bind_norms(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const size_t hidden = (size_t)b->m->config->hidden_size;
    marlin_status st;

    ML_TRY(ml_bind_layer_norm(b, l, "input_layernorm", hidden, &l->attn_in, err));
    ML_TRY(ml_bind_layer_norm(b, l, "post_self_attn_layernorm", hidden, &l->attn_out, err));
    ML_TRY(ml_bind_layer_norm(b, l, "post_attention_layernorm", hidden, &l->mlp_in, err));
    ML_TRY(ml_bind_layer_norm(b, l, "post_mlp_layernorm", hidden, &l->mlp_out, err));
out:
    return st;
}

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    marlin_status st;

    ML_TRY(bind_norms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, b->m->config->attention_bias, false, err));
    ML_TRY(ml_bind_mlp(b, l, false, err));
out:
    return st;
}

const struct ml_arch ml_arch_glm4 = {
    .model_type = "glm4", .bind = bind, .layer = ml_sandwich_layer, .rope_interleaved = true};
