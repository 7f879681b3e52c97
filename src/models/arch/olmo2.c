/* SPDX-License-Identifier: Apache-2.0
 *
 * OLMo 2 and 3: norms after the branches instead of before, and on the whole rows of q and k before rotation. In
 * OLMo 3 most layers slide, and only full ones have a scaled rotation (config.rope_local).
 *
 *   x += rmsnorm(attention(x))
 *   x += rmsnorm(mlp(x))
 */
#include "models/arch/arch.h"

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    const size_t hidden = (size_t)c->hidden_size, dim = (size_t)c->head_dim;
    marlin_status st;

    ML_TRY(ml_bind_layer_norm(b, l, "post_attention_layernorm", hidden, &l->attn_out, err));
    ML_TRY(ml_bind_layer_norm(b, l, "post_feedforward_layernorm", hidden, &l->mlp_out, err));
    ML_TRY(ml_bind_attention(b, l, c->attention_bias, c->attention_bias, err));
    ML_TRY(ml_bind_qk_norm(b, l, (size_t)c->num_heads * dim, (size_t)c->num_kv_heads * dim, err));
    ML_TRY(ml_bind_mlp(b, l, false, err));
out:
    return st;
}

static void layer(struct ml_step *s, const struct ml_layer *l, float *x) {
    const size_t hidden = l->attn_out.n;

    ml_attention_forward(s, l, x, s->branch);
    ml_norm_forward(s, &l->attn_out, s->branch, s->branch, s->n);
    ml_residual_add(s, x, s->branch, s->n, hidden);

    ml_mlp_forward(s, &l->ffn.mlp, x, s->branch);
    ml_norm_forward(s, &l->mlp_out, s->branch, s->branch, s->n);
    ml_residual_add(s, x, s->branch, s->n, hidden);
}

const struct ml_arch ml_arch_olmo2 = {
    .model_type = "olmo2", .bind = bind, .layer = layer, .has_backward = true};
const struct ml_arch ml_arch_olmo3 = {
    .model_type = "olmo3", .bind = bind, .layer = layer, .has_backward = true};
