/* SPDX-License-Identifier: Apache-2.0
 *
 * Mistral and Ministral 3: Llama's block without biases; all layers slide where config.json gives a window. Beyond the
 * length of first training, Ministral's queries grow with the logarithm of their position (rope.temper).
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

const struct ml_arch ml_arch_mistral = {
    .model_type = "mistral", .bind = bind, .layer = ml_prenorm_layer, .has_backward = true};
const struct ml_arch ml_arch_ministral3 = {
    .model_type = "ministral3", .bind = bind, .layer = ml_prenorm_layer};
