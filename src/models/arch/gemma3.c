/* SPDX-License-Identifier: Apache-2.0
 *
 * Gemma 3 (text): Gemma 2's block without soft caps, with norms on the heads of q and k; sliding layers have
 * their own rotary base (config.rope_local).
 */
#include "models/arch/arch.h"

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    const size_t dim = (size_t)c->head_dim;
    marlin_status st;

    ML_TRY(ml_bind_sandwich_norms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, c->attention_bias, c->attention_bias, err));
    ML_TRY(ml_bind_qk_norm(b, l, dim, dim, err));
    ML_TRY(ml_bind_mlp(b, l, false, err));
out:
    return st;
}

const struct ml_arch ml_arch_gemma3_text = {
    .model_type = "gemma3_text",
    .bind = bind,
    .layer = ml_sandwich_layer,
    .norm_offset = 1.0f,
    .scale_embedding = true,
    .has_backward = true,
};
