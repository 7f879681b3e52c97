/* SPDX-License-Identifier: Apache-2.0
 *
 * The architectures of this build, and the layer that most of them share.
 */
#ifndef ML_MODELS_ARCH_ARCH_H
#define ML_MODELS_ARCH_ARCH_H

#include "models/bind.h"
#include "models/layers/layers.h"

/* ml_arch_llama and so on, one for each family of converters/hf_config.h. */
#define ML_ARCH(name) extern const struct ml_arch ml_arch_##name;
ML_FAMILIES(ML_ARCH)
#undef ML_ARCH

/* The pre-norm block (llama.c):  x += attention(norm x);  x += mlp(norm x). */
void ml_prenorm_layer(struct ml_step *s, const struct ml_layer *l, float *x);
/* Its two norms: input_layernorm and post_attention_layernorm. */
marlin_status ml_bind_prenorms(struct ml_binder *b, struct ml_layer *l,
                               struct marlin_error *err) MARLIN_MUST_CHECK;

/* The block of Gemma 2 and 3, with norms on both sides (gemma2.c). */
void ml_sandwich_layer(struct ml_step *s, const struct ml_layer *l, float *x);
marlin_status ml_bind_sandwich_norms(struct ml_binder *b, struct ml_layer *l,
                                     struct marlin_error *err) MARLIN_MUST_CHECK;

/* How DeepSeek-V3, and those that have its mixture of experts, spell it (deepseek_v3.c). */
extern const struct ml_moe_names ml_deepseek_moe_names;

#endif
