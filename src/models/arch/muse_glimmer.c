/* SPDX-License-Identifier: Apache-2.0
 *
 * Muse-Glimmer (text): Gemma's block with a gate on attention; embedding, q and k go through norms without
 * weights; full layers have no position.
 */
#include "models/arch/arch.h"

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    const size_t dim = (size_t)c->head_dim;
    struct ml_attention_weights *w = &l->mixer.attention;
    marlin_status st;

    ML_TRY(ml_bind_sandwich_norms(b, l, err));
    l->attn_out.eps = l->mlp_out.eps = (float)c->post_norm_eps;
    ML_TRY(ml_bind_attention(b, l, c->attention_bias, c->attention_bias, err));
    ML_TRY(ml_bind_attention_gate(b, l, err));
    ML_TRY(ml_bind_weightless_norm(b, dim, &w->q_norm, err));
    ML_TRY(ml_bind_weightless_norm(b, dim, &w->k_norm, err));
    ML_TRY(ml_bind_mlp(b, l, false, err));
out:
    return st;
}

const struct ml_arch ml_arch_muse_glimmer_text = {
    .model_type = "muse_glimmer_text",
    .bind = bind,
    .layer = ml_sandwich_layer,
    .norm_offset = 1.0f,
    .plain_last_norm = true,
    .norm_embedding = true,
};
