/* SPDX-License-Identifier: Apache-2.0
 *
 * Binding of the blocks that most architectures share: attention, feed-forward, mixture of experts.
 */
#include "models/bind.h"
#include "models/forms/forms.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void ml_layer_name(const struct ml_layer *l, const char *suffix, char dst[ML_BIND_NAME]) {
    (void)snprintf(dst, ML_BIND_NAME, "model.layers.%zu.%s", l->index, suffix);
}

static marlin_status layer_linear(struct ml_binder *b, const struct ml_layer *l, const char *suffix,
                                  size_t out, size_t in, bool bias, struct ml_linear *linear,
                                  struct marlin_error *err) {
    char name[ML_BIND_NAME];
    ml_layer_name(l, suffix, name);
    return ml_bind_linear(b, name, out, in, bias, linear, err);
}

static bool layer_has(const struct ml_binder *b, const struct ml_layer *l, const char *suffix) {
    char name[ML_BIND_NAME];
    ml_layer_name(l, suffix, name);
    return ml_bind_has(b, name);
}

marlin_status ml_bind_layer_norm(struct ml_binder *b, const struct ml_layer *l, const char *suffix, size_t n,
                                 struct ml_norm *norm, struct marlin_error *err) {
    char name[ML_BIND_NAME];
    ml_layer_name(l, suffix, name);
    return ml_bind_norm(b, name, n, norm, err);
}

/* ---- sites ---- */

/* Room for n more sites, or NULL. Layers have few blocks: the list is made anew for each. */
static struct ml_site *more_sites(struct ml_binder *b, struct ml_layer *l, size_t n,
                                  struct marlin_error *err) {
    struct ml_site *all = ml_arena_array(&b->m->arena, l->n_sites + n, sizeof(*all));
    if (!all) {
        (void)ml_fail(err, MARLIN_ERR_MEMORY, "layer %zu: no memory for a list of %zu linears", l->index,
                      l->n_sites + n);
        return NULL;
    }
    if (l->n_sites) memcpy(all, l->sites, l->n_sites * sizeof(*all));
    l->sites = all;
    l->n_sites += n;
    return all + l->n_sites - n;
}

marlin_status ml_bind_sites(struct ml_binder *b, struct ml_layer *l, const struct ml_site *sites, size_t n,
                            struct marlin_error *err) {
    struct ml_site *to = more_sites(b, l, n, err);
    if (!to) return MARLIN_ERR_MEMORY;
    memcpy(to, sites, n * sizeof(*to));
    return MARLIN_OK;
}

/* gate, up and down read what they read in a dense layer, or in one of the experts. */
static void set_mlp_sites(struct ml_mlp *mlp, int expert, struct ml_site to[3]) {
    const enum ml_input hidden = expert == ML_NO_EXPERT ? ML_INPUT_HIDDEN : ML_INPUT_EXPERT_HIDDEN;
    to[0] = (struct ml_site){&mlp->gate, ML_ROLE_GATE, ML_INPUT_FFN, expert};
    to[1] = (struct ml_site){&mlp->up, ML_ROLE_UP, ML_INPUT_FFN, expert};
    to[2] = (struct ml_site){&mlp->down, ML_ROLE_DOWN, hidden, expert};
}

static marlin_status attention_sites(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    struct ml_attention_weights *w = &l->mixer.attention;
    const struct ml_site sites[] = {
        {&w->q, ML_ROLE_Q, ML_INPUT_ATTENTION, ML_NO_EXPERT},
        {&w->k, ML_ROLE_K, ML_INPUT_ATTENTION, ML_NO_EXPERT},
        {&w->v, ML_ROLE_V, ML_INPUT_ATTENTION, ML_NO_EXPERT},
        {&w->o, ML_ROLE_O, ML_INPUT_ATTENTION_OUT, ML_NO_EXPERT},
    };
    return ml_bind_sites(b, l, sites, sizeof(sites) / sizeof(sites[0]), err);
}

marlin_status ml_bind_moe_sites(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    struct ml_moe *moe = &l->ffn.moe;
    const size_t shared = moe->shared.gate.out ? 3 : 0;
    struct ml_site *to = more_sites(b, l, 1 + 3 * moe->choose.experts + shared, err);
    if (!to) return MARLIN_ERR_MEMORY;
    *to = (struct ml_site){&moe->router, ML_ROLE_ROUTER, ML_INPUT_FFN, ML_NO_EXPERT};
    for (size_t e = 0; e < moe->choose.experts; e++)
        set_mlp_sites(&moe->experts[e], (int)e, to + 1 + 3 * e);
    if (shared) set_mlp_sites(&moe->shared, ML_NO_EXPERT, to + 1 + 3 * moe->choose.experts);
    return MARLIN_OK;
}

/* ---- attention ---- */

static void set_attention(const struct ml_model *m, struct ml_layer *l) {
    const struct ml_config *c = m->config;
    struct ml_attention_weights *w = &l->mixer.attention;
    const bool sliding = c->layer_kind[l->index] == ML_LAYER_SLIDING;
    const double width = c->query_pre_attn_scalar > 0 ? c->query_pre_attn_scalar : (double)c->head_dim;
    l->mixer.kind = ML_MIXER_ATTENTION;
    w->scale = (float)(c->qk_factor / sqrt(width));
    w->softcap = (float)c->attn_softcap;
    w->window = sliding ? (size_t)c->sliding_window : 0;
    w->rope = !c->layer_rope[l->index] ? NULL : sliding ? &m->rope_local : &m->rope;
}

static marlin_status bind_fused_qkv(struct ml_binder *b, struct ml_layer *l, size_t q, size_t kv,
                                    struct marlin_error *err) {
    char name[ML_BIND_NAME], nq[ML_BIND_NAME], nk[ML_BIND_NAME], nv[ML_BIND_NAME];
    struct ml_attention_weights *w = &l->mixer.attention;
    ml_layer_name(l, "self_attn.qkv_proj", name);
    ml_layer_name(l, "self_attn.q_proj", nq);
    ml_layer_name(l, "self_attn.k_proj", nk);
    ml_layer_name(l, "self_attn.v_proj", nv);
    const struct ml_bind_part parts[] = {{nq, q, &w->q}, {nk, kv, &w->k}, {nv, kv, &w->v}};
    return ml_bind_rows(b, name, (size_t)b->m->config->hidden_size, parts, 3, err);
}

marlin_status ml_bind_attention(struct ml_binder *b, struct ml_layer *l, bool qkv_bias, bool o_bias,
                                struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    const size_t hidden = (size_t)c->hidden_size, dim = (size_t)c->head_dim;
    const size_t q = (size_t)c->num_heads * dim, kv = (size_t)c->num_kv_heads * dim;
    struct ml_attention_weights *w = &l->mixer.attention;
    marlin_status st;

    set_attention(b->m, l);
    if (!qkv_bias && layer_has(b, l, "self_attn.qkv_proj.weight")) {
        ML_TRY(bind_fused_qkv(b, l, q, kv, err));
    } else {
        ML_TRY(layer_linear(b, l, "self_attn.q_proj", q, hidden, qkv_bias, &w->q, err));
        ML_TRY(layer_linear(b, l, "self_attn.k_proj", kv, hidden, qkv_bias, &w->k, err));
        ML_TRY(layer_linear(b, l, "self_attn.v_proj", kv, hidden, qkv_bias, &w->v, err));
    }
    ML_TRY(layer_linear(b, l, "self_attn.o_proj", hidden, q, o_bias, &w->o, err));
    ML_TRY(attention_sites(b, l, err));
out:
    return st;
}

marlin_status ml_bind_qk_norm(struct ml_binder *b, struct ml_layer *l, size_t q, size_t k,
                              struct marlin_error *err) {
    struct ml_attention_weights *w = &l->mixer.attention;
    const marlin_status st = ml_bind_layer_norm(b, l, "self_attn.q_norm", q, &w->q_norm, err);
    return st != MARLIN_OK ? st : ml_bind_layer_norm(b, l, "self_attn.k_norm", k, &w->k_norm, err);
}

marlin_status ml_bind_attention_gate(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    struct ml_attention_weights *w = &l->mixer.attention;
    const struct ml_site site = {&w->gate, ML_ROLE_ATTENTION_GATE, ML_INPUT_ATTENTION, ML_NO_EXPERT};
    const marlin_status st =
        layer_linear(b, l, "self_attn.gate_proj", w->q.out, w->q.in, false, &w->gate, err);
    return st != MARLIN_OK ? st : ml_bind_sites(b, l, &site, 1, err);
}

/* ---- feed-forward ---- */

static marlin_status bind_fused_gate_up(struct ml_binder *b, struct ml_layer *l, size_t ff,
                                        struct marlin_error *err) {
    char name[ML_BIND_NAME], gate[ML_BIND_NAME], up[ML_BIND_NAME];
    ml_layer_name(l, "mlp.gate_up_proj", name);
    ml_layer_name(l, "mlp.gate_proj", gate);
    ml_layer_name(l, "mlp.up_proj", up);
    const struct ml_bind_part parts[] = {{gate, ff, &l->ffn.mlp.gate}, {up, ff, &l->ffn.mlp.up}};
    return ml_bind_rows(b, name, (size_t)b->m->config->hidden_size, parts, 2, err);
}

marlin_status ml_bind_mlp(struct ml_binder *b, struct ml_layer *l, bool bias, struct marlin_error *err) {
    const size_t hidden = (size_t)b->m->config->hidden_size, ff = (size_t)b->m->config->intermediate_size;
    struct ml_mlp *mlp = &l->ffn.mlp;
    struct ml_site sites[3];
    marlin_status st;

    l->ffn.kind = ML_FFN_MLP;
    if (!bias && layer_has(b, l, "mlp.gate_up_proj.weight")) {
        ML_TRY(bind_fused_gate_up(b, l, ff, err));
    } else {
        ML_TRY(layer_linear(b, l, "mlp.gate_proj", ff, hidden, bias, &mlp->gate, err));
        ML_TRY(layer_linear(b, l, "mlp.up_proj", ff, hidden, bias, &mlp->up, err));
    }
    ML_TRY(layer_linear(b, l, "mlp.down_proj", hidden, ff, bias, &mlp->down, err));
    set_mlp_sites(mlp, ML_NO_EXPERT, sites);
    ML_TRY(ml_bind_sites(b, l, sites, 3, err));
out:
    return st;
}

/* ---- mixture of experts ---- */

/* Sizes of one layer's experts. */
struct moe_shape {
    size_t experts, hidden, ff;
};

static marlin_status bind_expert(struct ml_binder *b, const struct ml_layer *l,
                                 const struct ml_moe_names *names, const struct moe_shape *s, size_t e,
                                 struct marlin_error *err) {
    char suffix[128];
    struct ml_mlp *x = &l->ffn.moe.experts[e];
    marlin_status st;

    (void)snprintf(suffix, sizeof(suffix), "%sexperts.%zu.%s", names->block, e, names->gate);
    ML_TRY(layer_linear(b, l, suffix, s->ff, s->hidden, false, &x->gate, err));
    (void)snprintf(suffix, sizeof(suffix), "%sexperts.%zu.%s", names->block, e, names->up);
    ML_TRY(layer_linear(b, l, suffix, s->ff, s->hidden, false, &x->up, err));
    (void)snprintf(suffix, sizeof(suffix), "%sexperts.%zu.%s", names->block, e, names->down);
    ML_TRY(layer_linear(b, l, suffix, s->hidden, s->ff, false, &x->down, err));
out:
    return st;
}

/* A matrix of all experts. */
struct whole {
    struct ml_matrix w;
    const struct ml_tensor *from;
};

/* Rows [row, row + rows) of `whole` as a linear layer of expert e. */
static marlin_status expert_view(struct ml_binder *b, const struct ml_layer *l,
                                 const struct ml_moe_names *names, size_t e, const char *part,
                                 const struct whole *whole, size_t row, size_t rows, struct ml_linear *out,
                                 struct marlin_error *err) {
    char suffix[128], name[ML_BIND_NAME];
    (void)snprintf(suffix, sizeof(suffix), "%sexperts.%zu.%s", names->block, e, part);
    ml_layer_name(l, suffix, name);
    const struct ml_matrix *w = &whole->w;
    *out = (struct ml_linear){.in = w->cols, .out = rows, .kind = ML_LINEAR_PLAIN, .u.plain = *w};
    out->u.plain.rows = rows;
    out->u.plain.data = (const char *)w->data + row * w->stride * ml_dtype_size(w->dtype);
    const marlin_status st = ml_bind_name(b, out, name, err);
    return st != MARLIN_OK ? st : ml_bind_note(b, out, whole->from, false, err);
}

/* gate_up_proj [E, 2I, H]: rows 0..I-1 of an expert are its gate; down_proj [E, H, I]. */
static marlin_status bind_fused_experts(struct ml_binder *b, const struct ml_layer *l,
                                        const struct ml_moe_names *names, const struct moe_shape *s,
                                        struct marlin_error *err) {
    char suffix[128], name[ML_BIND_NAME];
    struct whole gate_up, down;
    marlin_status st;

    (void)snprintf(suffix, sizeof(suffix), "%sexperts.gate_up_proj", names->block);
    ml_layer_name(l, suffix, name);
    ML_TRY(ml_form_matrix(b, name, s->experts, 2 * s->ff, s->hidden, &gate_up.w, &gate_up.from, err));
    (void)snprintf(suffix, sizeof(suffix), "%sexperts.down_proj", names->block);
    ml_layer_name(l, suffix, name);
    ML_TRY(ml_form_matrix(b, name, s->experts, s->hidden, s->ff, &down.w, &down.from, err));
    for (size_t e = 0; e < s->experts; e++) {
        struct ml_mlp *x = &l->ffn.moe.experts[e];
        const size_t row = 2 * e * s->ff;
        ML_TRY(expert_view(b, l, names, e, names->gate, &gate_up, row, s->ff, &x->gate, err));
        ML_TRY(expert_view(b, l, names, e, names->up, &gate_up, row + s->ff, s->ff, &x->up, err));
        ML_TRY(expert_view(b, l, names, e, names->down, &down, e * s->hidden, s->hidden, &x->down, err));
    }
out:
    return st;
}

/* Shape of the router, and memory for the experts. The router's shape vouches for the number of experts
 * before memory is taken for them. */
static marlin_status bind_router(struct ml_binder *b, struct ml_layer *l, const struct ml_moe_names *names,
                                 const struct moe_shape *s, struct marlin_error *err) {
    char suffix[128], name[ML_BIND_NAME];
    struct ml_moe *moe = &l->ffn.moe;

    (void)snprintf(suffix, sizeof(suffix), "%s%s", names->block, names->router ? names->router : "gate");
    ml_layer_name(l, suffix, name);
    const marlin_status st =
        ml_bind_plain(b, name, s->experts, s->hidden, names->router != NULL, &moe->router, err);
    if (st != MARLIN_OK) return st;
    moe->choose.experts = s->experts;
    moe->experts = ml_arena_array(&b->m->arena, s->experts, sizeof(*moe->experts));
    if (moe->experts) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY, "layer %zu: no memory for %zu experts", l->index, s->experts);
}

static marlin_status bind_shared(struct ml_binder *b, struct ml_layer *l, const struct ml_moe_names *names,
                                 struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    const size_t hidden = (size_t)c->hidden_size, ff = (size_t)c->shared_width;
    struct ml_mlp *x = &l->ffn.moe.shared;
    char suffix[128];
    marlin_status st;
    (void)snprintf(suffix, sizeof(suffix), "%s%s%s", names->block, names->shared, names->gate);
    ML_TRY(layer_linear(b, l, suffix, ff, hidden, false, &x->gate, err));
    (void)snprintf(suffix, sizeof(suffix), "%s%s%s", names->block, names->shared, names->up);
    ML_TRY(layer_linear(b, l, suffix, ff, hidden, false, &x->up, err));
    (void)snprintf(suffix, sizeof(suffix), "%s%s%s", names->block, names->shared, names->down);
    ML_TRY(layer_linear(b, l, suffix, hidden, ff, false, &x->down, err));
out:
    return st;
}

static struct moe_shape moe_shape(const struct ml_config *c) {
    return (struct moe_shape){(size_t)c->num_experts, (size_t)c->hidden_size,
                              (size_t)c->moe_intermediate_size};
}

marlin_status ml_bind_choice(struct ml_binder *b, struct ml_layer *l, const struct ml_moe_names *names,
                             bool normalise, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    const struct moe_shape shape = moe_shape(c);
    struct ml_router *r = &l->ffn.moe.choose;
    const struct ml_tensor *t = NULL;
    char suffix[128], name[ML_BIND_NAME];
    l->ffn.kind = ML_FFN_MOE;
    const marlin_status st = bind_router(b, l, names, &shape, err);
    if (st != MARLIN_OK) return st;
    r->top_k = (size_t)c->experts_per_token;
    r->normalise = normalise;
    r->sigmoid = c->router_score == ML_SCORE_SIGMOID;
    r->groups = (size_t)c->router_groups;
    r->top_groups = (size_t)c->router_top_groups;
    r->scale = (float)c->routed_scale;
    if (!names->bias) return MARLIN_OK;
    (void)snprintf(suffix, sizeof(suffix), "%s%s", names->block, names->bias);
    ml_layer_name(l, suffix, name);
    return ml_bind_vector(b, name, r->experts, &r->bias, &t, err);
}

marlin_status ml_bind_experts(struct ml_binder *b, struct ml_layer *l, const struct ml_moe_names *names,
                              struct marlin_error *err) {
    const struct moe_shape shape = moe_shape(b->m->config);
    char suffix[128];
    marlin_status st = MARLIN_OK;
    (void)snprintf(suffix, sizeof(suffix), "%sexperts.gate_up_proj", names->block);
    if (layer_has(b, l, suffix)) return bind_fused_experts(b, l, names, &shape, err);
    for (size_t e = 0; e < shape.experts && st == MARLIN_OK; e++)
        st = bind_expert(b, l, names, &shape, e, err);
    return st;
}

marlin_status ml_bind_moe(struct ml_binder *b, struct ml_layer *l, const struct ml_moe_names *names,
                          bool normalise, struct marlin_error *err) {
    marlin_status st;
    ML_TRY(ml_bind_choice(b, l, names, normalise, err));
    ML_TRY(ml_bind_experts(b, l, names, err));
    if (names->shared && b->m->config->shared_width > 0) ML_TRY(bind_shared(b, l, names, err));
    ML_TRY(ml_bind_moe_sites(b, l, err));
out:
    return st;
}
