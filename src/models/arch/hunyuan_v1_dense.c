/* SPDX-License-Identifier: Apache-2.0
 *
 * Hunyuan (dense): Llama's block with norms on the heads of q and k behind the rotation.
 */
#include "models/arch/arch.h"

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    const size_t dim = (size_t)c->head_dim;
    struct ml_attention_weights *w = &l->mixer.attention;
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, c->attention_bias, c->attention_bias, err));
    ML_TRY(ml_bind_layer_norm(b, l, "self_attn.query_layernorm", dim, &w->q_norm, err));
    ML_TRY(ml_bind_layer_norm(b, l, "self_attn.key_layernorm", dim, &w->k_norm, err));
    w->norm_last = true;
    ML_TRY(ml_bind_mlp(b, l, false, err));
out:
    return st;
}

const struct ml_arch ml_arch_hunyuan_v1_dense = {
    .model_type = "hunyuan_v1_dense", .bind = bind, .layer = ml_prenorm_layer};
