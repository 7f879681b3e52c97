/* SPDX-License-Identifier: Apache-2.0
 *
 * Mixtral: Mistral's attention, every layer a mixture of experts whose chosen probabilities always sum to 1.
 * Files spell the block "block_sparse_moe" with w1, w3, w2, or "mlp" with gate, up and down projections.
 */
#include "models/arch/arch.h"

static const struct ml_moe_names classic = {"block_sparse_moe.", "w1", "w3", "w2"};
static const struct ml_moe_names unified = {"mlp.", "gate_proj", "up_proj", "down_proj"};

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    char router[ML_BIND_NAME];
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, false, false, err));
    ml_layer_name(l, "mlp.gate.weight", router);
    ML_TRY(ml_bind_moe(b, l, ml_bind_has(b, router) ? &unified : &classic, true, err));
out:
    return st;
}

const struct ml_arch ml_arch_mixtral = {.model_type = "mixtral", .bind = bind, .layer = ml_prenorm_layer};
