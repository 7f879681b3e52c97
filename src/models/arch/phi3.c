/* SPDX-License-Identifier: Apache-2.0
 *
 * Phi-3 and Phi-4-mini: Llama's block with q, k, v stored as one matrix, and gate and up as another. RoPE may
 * be longrope and partial.
 */
#include "models/arch/arch.h"

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, false, false, err));
    ML_TRY(ml_bind_mlp(b, l, false, err));
out:
    return st;
}

const struct ml_arch ml_arch_phi3 = {
    .model_type = "phi3", .bind = bind, .layer = ml_prenorm_layer, .has_backward = true};
