/* SPDX-License-Identifier: Apache-2.0
 *
 * MiniMax-M2: norms over the whole rows of q and k, part of each head rotates; every layer is a mixture of experts
 * chosen by sigmoids with a bias, in Mixtral's names.
 */
#include "models/arch/arch.h"

static const struct ml_moe_names names = {
    .block = "block_sparse_moe.", .gate = "w1", .up = "w3", .down = "w2", .bias = "e_score_correction_bias"};

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    const struct ml_config *c = b->m->config;
    const size_t dim = (size_t)c->head_dim;
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, false, false, err));
    ML_TRY(ml_bind_qk_norm(b, l, (size_t)c->num_heads * dim, (size_t)c->num_kv_heads * dim, err));
    ML_TRY(ml_bind_moe(b, l, &names, true, err));
out:
    return st;
}

const struct ml_arch ml_arch_minimax_m2 = {
    .model_type = "minimax_m2", .bind = bind, .layer = ml_prenorm_layer};
