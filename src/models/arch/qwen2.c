/* SPDX-License-Identifier: Apache-2.0
 *
 * Qwen2 and Qwen2.5: Llama's block with biases on q, k and v, never on o.
 */
#include "models/arch/arch.h"

static marlin_status bind(struct ml_binder *b, struct ml_layer *l, struct marlin_error *err) {
    marlin_status st;

    ML_TRY(ml_bind_prenorms(b, l, err));
    ML_TRY(ml_bind_attention(b, l, true, false, err));
    ML_TRY(ml_bind_mlp(b, l, false, err));
out:
    return st;
}

const struct ml_arch ml_arch_qwen2 = {
    .model_type = "qwen2", .bind = bind, .layer = ml_prenorm_layer, .has_backward = true};
