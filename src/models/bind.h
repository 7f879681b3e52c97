/* SPDX-License-Identifier: Apache-2.0
 *
 * From names to typed structs, for architectures. Every function names the tensor that is missing, has the
 * wrong shape or a type that cannot be used. Names are canonical ("model.layers.0.mlp.up_proj").
 */
#ifndef ML_MODELS_BIND_H
#define ML_MODELS_BIND_H

#include "models/store.h"

/* A linear layer in whatever form it is stored: "NAME.weight" [out, in], and "NAME.bias" [out] when bias, or
 * one of the quantized forms. */
marlin_status ml_bind_linear(struct ml_binder *b, const char *name, size_t out, size_t in, bool bias,
                             struct ml_linear *l, struct marlin_error *err) MARLIN_MUST_CHECK;

/* The same, plain: what is never quantized. */
marlin_status ml_bind_plain(struct ml_binder *b, const char *name, size_t out, size_t in, bool bias,
                            struct ml_linear *l, struct marlin_error *err) MARLIN_MUST_CHECK;

/* "NAME" in quantized or plain form is in the file. */
bool ml_bind_has_linear(const struct ml_binder *b, const char *name);

/* model.embed_tokens, plain or int8 rows. */
marlin_status ml_bind_embedding(struct ml_binder *b, struct marlin_error *err) MARLIN_MUST_CHECK;

/* One stored matrix as several linear layers, one below the other: parts[i] gets names[i] and rows[i]. */
struct ml_bind_part {
    const char *name;
    size_t rows;
    struct ml_linear *linear;
};
marlin_status ml_bind_rows(struct ml_binder *b, const char *name, size_t in, const struct ml_bind_part *parts,
                           size_t n_parts, struct marlin_error *err) MARLIN_MUST_CHECK;

/* "NAME.weight" [n] widened to float32. */
marlin_status ml_bind_norm(struct ml_binder *b, const char *name, size_t n, struct ml_norm *norm,
                           struct marlin_error *err) MARLIN_MUST_CHECK;
/* A norm that has no weights in the file. */
marlin_status ml_bind_weightless_norm(struct ml_binder *b, size_t n, struct ml_norm *norm,
                                      struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- blocks.c: what most architectures share; LAYER is "model.layers.N." ---- */

/* Appends `n` linears to the layer's sites (copied). The blocks below do so for theirs. */
marlin_status ml_bind_sites(struct ml_binder *b, struct ml_layer *l, const struct ml_site *sites, size_t n,
                            struct marlin_error *err) MARLIN_MUST_CHECK;

/* "LAYER<suffix>" into dst. */
void ml_layer_name(const struct ml_layer *l, const char *suffix, char dst[ML_BIND_NAME]);
marlin_status ml_bind_layer_norm(struct ml_binder *b, const struct ml_layer *l, const char *suffix, size_t n,
                                 struct ml_norm *norm, struct marlin_error *err) MARLIN_MUST_CHECK;
/* self_attn.{q,k,v,o}_proj, or a fused qkv_proj; scale, window, rope. */
marlin_status ml_bind_attention(struct ml_binder *b, struct ml_layer *l, bool qkv_bias, bool o_bias,
                                struct marlin_error *err) MARLIN_MUST_CHECK;
/* Latent attention: self_attn.{q_a,q_b}_proj or q_proj, kv_a_proj_with_mqa, kv_b_proj (never quantized), o_proj
 * (blocks_mla.c). */
marlin_status ml_bind_mla(struct ml_binder *b, struct ml_layer *l,
                          struct marlin_error *err) MARLIN_MUST_CHECK;
/* self_attn.gate_proj: what the heads gave is multiplied by its sigmoid. */
marlin_status ml_bind_attention_gate(struct ml_binder *b, struct ml_layer *l,
                                     struct marlin_error *err) MARLIN_MUST_CHECK;
/* self_attn.{q,k}_norm of these widths. */
marlin_status ml_bind_qk_norm(struct ml_binder *b, struct ml_layer *l, size_t q, size_t k,
                              struct marlin_error *err) MARLIN_MUST_CHECK;
/* mlp.{gate,up,down}_proj, or a fused gate_up_proj. */
marlin_status ml_bind_mlp(struct ml_binder *b, struct ml_layer *l, bool bias,
                          struct marlin_error *err) MARLIN_MUST_CHECK;

/* How a family names the parts of its experts. */
struct ml_moe_names {
    const char *block;  /* "mlp." */
    const char *router; /* NULL = "gate" */
    const char *gate, *up, *down;
    const char *bias;   /* what is added to scores for the choice, behind the block; NULL = none */
    const char *shared; /* the expert of every token, behind the block: "shared_experts."; NULL = none */
};
/* <block>gate and <block>experts.E.{gate,up,down}, or fused <block>experts.{gate_up,down}_proj. */
marlin_status ml_bind_moe(struct ml_binder *b, struct ml_layer *l, const struct ml_moe_names *names,
                          bool normalise, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Its parts, for families whose experts are stored in a way of their own: router, rules, and memory for the experts;
 * every expert's linears; the sites of all of them. */
marlin_status ml_bind_choice(struct ml_binder *b, struct ml_layer *l, const struct ml_moe_names *names,
                             bool normalise, struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_bind_experts(struct ml_binder *b, struct ml_layer *l, const struct ml_moe_names *names,
                              struct marlin_error *err) MARLIN_MUST_CHECK;
marlin_status ml_bind_moe_sites(struct ml_binder *b, struct ml_layer *l,
                                struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- place.c ---- */

/* Deals layers out over the model's devices and copies weights to those that are not the host. */
marlin_status ml_model_place(struct ml_model *m, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Releases the copies. */
void ml_model_displace(struct ml_model *m);

/* ---- loader.c ---- */

/* Binds embedding, layers, norm and head from the source. pool may be NULL. */
marlin_status ml_model_bind(struct ml_model *m, struct ml_source *source, struct ml_pool *pool,
                            struct marlin_error *err) MARLIN_MUST_CHECK;
/* Everything of a model that its config alone decides. config must outlive the model. */
marlin_status ml_model_new(const struct ml_config *config, const struct ml_model_options *options,
                           struct ml_model **out, struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
