/* SPDX-License-Identifier: Apache-2.0
 *
 * Llama 2 and 3: the pre-norm decoder block. RoPE plain or llama3, biases where config.json says so.
 *
 *   x += attention(rmsnorm(x))
 *   x += down(silu(gate rmsnorm(x)) * up rmsnorm(x))
 */
#include "models/arch/arch.h"

marlin_status ml_bind_prenorms(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const size_t hidden = (size_t)b->m->config->hidden_size;
    const marlin_status st = ml_bind_layer_norm(b, l, "input_layernorm", hidden, &l->attn_in, err);
    if (st != MARLIN_OK) return st;
    return ml_bind_layer_norm(b, l, "post_attention_layernorm", hidden, &l->mlp_in, err);
}

void ml_prenorm_layer(struct ml_step *s, const struct ml_layer *l, float *x) {
    const size_t hidden = l->attn_in.n;

    ml_norm_forward(s, &l->attn_in, x, s->normed, s->n);
    if (l->mixer.kind == ML_MIXER_MLA)
        ml_mla_forward(s, l, s->normed, s->branch);
    else
        ml_attention_forward(s, l, s->normed, s->branch);
    ml_residual_add(s, x, s->branch, s->n, hidden);

    ml_norm_forward(s, &l->mlp_in, x, s->normed, s->n);
    if (l->ffn.kind == ML_FFN_MOE)
        ml_moe_forward(s, &l->ffn.moe, s->normed, s->branch);
    else
        ml_mlp_forward(s, &l->ffn.mlp, s->normed, s->branch);
    ml_residual_add(s, x, s->branch, s->n, hidden);
}

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, c->attention_bias, c->attention_bias, err));
    ML_TRY(ml_bind_mlp(b, l, c->mlp_bias, err));
out:
    return st;
}

const struct ml_arch ml_arch_llama = {
    .model_type = "llama", .bind = bind, .layer = ml_prenorm_layer, .has_backward = true};
