/* SPDX-License-Identifier: Apache-2.0
 *
 * Qwen3: Llama's block with an RMSNorm over each head of q and k between projection and rotation.
 */
#include "models/arch/arch.h"

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    const size_t dim = (size_t)c->head_dim;
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, c->attention_bias, c->attention_bias, err));
    ML_TRY(ml_bind_qk_norm(b, l, dim, dim, err));
    ML_TRY(ml_bind_mlp(b, l, false, err));
out:
    return st;
}

const struct ml_arch ml_arch_qwen3 = {
    .model_type = "qwen3", .bind = bind, .layer = ml_prenorm_layer, .has_backward = true};
