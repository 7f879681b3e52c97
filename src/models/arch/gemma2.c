/* SPDX-License-Identifier: Apache-2.0
 *
 * Gemma 2: norms before and after each branch, with weights stored as w - 1; embedding scaled by sqrt(H);
 * scores and logits soft-capped; every other layer slides.
 *
 *   x += rmsnorm(attention(rmsnorm(x)))
 *   x += rmsnorm(mlp(rmsnorm(x)))        mlp with gelu(tanh)
 */
#include "models/arch/arch.h"

marlin_status ml_bind_sandwich_norms(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const size_t hidden = (size_t)b->m->config->hidden_size;
    marlin_status st;

    ML_TRY(ml_bind_layer_norm(b, l, "input_layernorm", hidden, &l->attn_in, err));
    ML_TRY(ml_bind_layer_norm(b, l, "post_attention_layernorm", hidden, &l->attn_out, err));
    ML_TRY(ml_bind_layer_norm(b, l, "pre_feedforward_layernorm", hidden, &l->mlp_in, err));
    ML_TRY(ml_bind_layer_norm(b, l, "post_feedforward_layernorm", hidden, &l->mlp_out, err));
out:
    return st;
}

void ml_sandwich_layer(struct ml_step *s, const struct ml_layer *l, float *x) {
    const size_t hidden = l->attn_in.n;

    ml_norm_forward(s, &l->attn_in, x, s->normed, s->n);
    ml_attention_forward(s, l, s->normed, s->branch);
    ml_norm_forward(s, &l->attn_out, s->branch, s->branch, s->n);
    ml_residual_add(s, x, s->branch, s->n, hidden);

    ml_norm_forward(s, &l->mlp_in, x, s->normed, s->n);
    ml_mlp_forward(s, &l->ffn.mlp, s->normed, s->branch);
    ml_norm_forward(s, &l->mlp_out, s->branch, s->branch, s->n);
    ml_residual_add(s, x, s->branch, s->n, hidden);
}

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    marlin_status st;

    ML_TRY(ml_bind_sandwich_norms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, c->attention_bias, c->attention_bias, err));
    ML_TRY(ml_bind_mlp(b, l, false, err));
out:
    return st;
}

const struct ml_arch ml_arch_gemma2 = {
    .model_type = "gemma2",
    .bind = bind,
    .layer = ml_sandwich_layer,
    .norm_offset = 1.0f,
    .scale_embedding = true,
    .has_backward = true,
};
