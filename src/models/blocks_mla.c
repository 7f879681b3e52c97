/* SPDX-License-Identifier: Apache-2.0
 *
 * Binding of multi-head latent attention (layers/mla.c).
 */
#include "base/checked.h"
#include "models/bind.h"

#include <math.h>
#include <string.h>

static const float low_eps = 1e-6f; /* of the norms inside, whatever rms_norm_eps says */

static marlin_status linear(struct ml_binder *b, const struct ml_layer *l, const char *suffix, size_t out,
                            size_t in, bool bias, struct ml_linear *to, struct marlin_error *err) {
    char name[ML_BIND_NAME];
    ml_layer_name(l, suffix, name);
    return ml_bind_linear(b, name, out, in, bias, to, err);
}

static marlin_status bind_query(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    struct ml_mla_weights *w = &l->mixer.mla;
    const size_t hidden = (size_t)c->hidden_size, low = (size_t)c->q_lora_rank,
                 out = w->heads * (w->nope + w->rotary);
    marlin_status st;
    if (low == 0) {
        st = linear(b, l, "self_attn.q_proj", out, hidden, false, &w->q_b, err);
        goto out;
    }
    ML_TRY(linear(b, l, "self_attn.q_a_proj", low, hidden, c->attention_bias, &w->q_a, err));
    ML_TRY(ml_bind_layer_norm(b, l, "self_attn.q_a_layernorm", low, &w->q_norm, err));
    w->q_norm.eps = low_eps;
    ML_TRY(linear(b, l, "self_attn.q_b_proj", out, low, false, &w->q_b, err));
out:
    return st;
}

/* A head's rows of kv_b: nope of keys, whose transpose a query is multiplied by, then those of values. */
static void split_head(const struct ml_mla_weights *w, size_t h, char *keys) {
    const struct ml_matrix *all = &w->kv_b.u.plain;
    const size_t size = ml_dtype_size(all->dtype), row = all->stride * size;
    const char *from = all->data ? (const char *)all->data + h * (w->nope + w->v_dim) * row : NULL;
    struct ml_linear *key = &w->keys[h], *value = &w->values[h];
    char *to = keys ? keys + h * w->latent * w->nope * size : NULL;
    *key = (struct ml_linear){.name = w->kv_b.name, .in = w->nope, .out = w->latent, .kind = ML_LINEAR_PLAIN};
    key->u.plain = (struct ml_matrix){
        .dtype = all->dtype, .rows = w->latent, .cols = w->nope, .stride = w->nope, .data = to};
    *value =
        (struct ml_linear){.name = w->kv_b.name, .in = w->latent, .out = w->v_dim, .kind = ML_LINEAR_PLAIN};
    value->u.plain = *all;
    value->u.plain.rows = w->v_dim;
    value->u.plain.data = from ? from + w->nope * row : NULL;
    for (size_t i = 0; to && from && i < w->latent; i++)
        for (size_t k = 0; k < w->nope; k++)
            memcpy(to + (i * w->nope + k) * size, from + k * row + i * size, size);
}

static marlin_status bind_heads(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    struct ml_mla_weights *w = &l->mixer.mla;
    char name[ML_BIND_NAME];
    void *keys = NULL;
    size_t bytes;
    marlin_status st;
    ml_layer_name(l, "self_attn.kv_b_proj", name);
    ML_TRY(ml_bind_plain(b, name, w->heads * (w->nope + w->v_dim), w->latent, false, &w->kv_b, err));
    w->keys = ml_arena_array(&b->m->arena, w->heads, sizeof *w->keys);
    w->values = ml_arena_array(&b->m->arena, w->heads, sizeof *w->values);
    if (!w->keys || !w->values || !ml_mul_size(w->heads * w->nope, w->latent, &bytes) ||
        !ml_mul_size(bytes, ml_dtype_size(w->kv_b.u.plain.dtype), &bytes)) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "layer '%s': out of memory", name);
        goto out;
    }
    b->m->weight_bytes += bytes;
    if (!b->m->headers_only) ML_TRY(ml_model_own(b->m, bytes, &keys, err));
    for (size_t h = 0; h < w->heads; h++)
        split_head(w, h, keys);
out:
    return st;
}

static marlin_status bind_sites(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    struct ml_mla_weights *w = &l->mixer.mla;
    const bool low = w->q_a.out > 0;
    const struct ml_site sites[] = {
        {&w->q_a, ML_ROLE_Q_LOW, ML_INPUT_ATTENTION, ML_NO_EXPERT},
        {&w->q_b, ML_ROLE_Q, low ? ML_INPUT_QUERY_LOW : ML_INPUT_ATTENTION, ML_NO_EXPERT},
        {&w->kv_a, ML_ROLE_KV_LOW, ML_INPUT_ATTENTION, ML_NO_EXPERT},
        {&w->kv_b, ML_ROLE_KV, ML_INPUT_LATENT, ML_NO_EXPERT},
        {&w->o, ML_ROLE_O, ML_INPUT_ATTENTION_OUT, ML_NO_EXPERT},
    };
    return ml_bind_sites(b, l, low ? sites : sites + 1, low ? 5 : 4, err);
}

/* Yarn makes scores greater as well as cosines (mscale_all_dim). */
static float scale_of(const struct ml_config *c, size_t width) {
    const struct ml_rope_config *r = &c->rope;
    const bool grows = r->kind == ML_ROPE_YARN && r->mscale_all_dim > 0 && r->factor > 1;
    const double m = grows ? 0.1 * r->mscale_all_dim * log(r->factor) + 1 : 1;
    return (float)(m * m / sqrt((double)width));
}

marlin_status ml_bind_mla(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    struct ml_mla_weights *w = &l->mixer.mla;
    const size_t hidden = (size_t)c->hidden_size;
    marlin_status st;

    l->mixer.kind = ML_MIXER_MLA;
    w->heads = (size_t)c->num_heads;
    w->nope = (size_t)c->qk_nope_dim;
    w->rotary = (size_t)c->head_dim;
    w->latent = (size_t)c->kv_lora_rank;
    w->v_dim = (size_t)c->v_head_dim;
    w->scale = scale_of(c, w->nope + w->rotary);
    ML_TRY(bind_query(b, l, err));
    ML_TRY(linear(b, l, "self_attn.kv_a_proj_with_mqa", w->latent + w->rotary, hidden, c->attention_bias,
                  &w->kv_a, err));
    ML_TRY(ml_bind_layer_norm(b, l, "self_attn.kv_a_layernorm", w->latent, &w->kv_norm, err));
    w->kv_norm.eps = low_eps;
    ML_TRY(bind_heads(b, l, err));
    ML_TRY(linear(b, l, "self_attn.o_proj", hidden, w->heads * w->v_dim, c->attention_bias, &w->o, err));
    ML_TRY(bind_sites(b, l, err));
out:
    return st;
}
