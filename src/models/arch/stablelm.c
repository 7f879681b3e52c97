/* SPDX-License-Identifier: Apache-2.0
 *
 * StableLM 2: Llama's block with LayerNorms; part of each head rotates. Files with parallel branches or norms on
 * q and k are refused when config.json is read.
 */
#include "models/arch/arch.h"

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, b->m->config->attention_bias, false, err));
    ML_TRY(ml_bind_mlp(b, l, false, err));
out:
    return st;
}

const struct ml_arch ml_arch_stablelm = {
    .model_type = "stablelm", .bind = bind, .layer = ml_prenorm_layer, .layer_norm = true};
