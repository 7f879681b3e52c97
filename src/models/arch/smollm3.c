/* SPDX-License-Identifier: Apache-2.0
 *
 * SmolLM3: Llama's block; every fourth layer has no rotary position (config.layer_rope).
 */
#include "models/arch/arch.h"

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, c->attention_bias, c->attention_bias, err));
    ML_TRY(ml_bind_mlp(b, l, c->mlp_bias, err));
out:
    return st;
}

const struct ml_arch ml_arch_smollm3 = {
    .model_type = "smollm3", .bind = bind, .layer = ml_prenorm_layer, .has_backward = true};
