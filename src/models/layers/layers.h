/* SPDX-License-Identifier: Apache-2.0
 *
 * The pieces that architectures are written with. Each puts operations for the rows of the running pass onto the
 * step's stream; activations are token-major float32 rows in device memory. None allocates or fails.
 */
#ifndef ML_MODELS_LAYERS_LAYERS_H
#define ML_MODELS_LAYERS_LAYERS_H

#include "models/model_int.h"
#include "models/step.h"

/* ---- linear.c: the one door to weights ---- */

/* y [n, out] = l(x [n, in]), rows without padding. */
struct ml_linear_job ml_linear_job(const struct ml_linear *l, float *y, const float *x, size_t n);

/* Several layers, at most ML_LINEAR_JOBS; those over the same x stand next to each other and go in one fork-join
 * where their kind allows it. The observer sees each. */
void ml_linear_forward(struct ml_step *s, const struct ml_linear_job *jobs, size_t n_jobs);

/* ---- marks for the profile; nothing when it is off ---- */

static inline void ml_stage_done(struct ml_step *s, enum ml_stage stage) {
    if (s->profile) ml_profile_mark(s->profile, stage, 0);
}
/* The same for a stage that ends with these products. */
void ml_stage_linears(struct ml_step *s, enum ml_stage stage, const struct ml_linear_job *jobs,
                      size_t n_jobs);

/* ---- norm.c ---- */

/* y[t] = norm(x[t]) for n rows of norm->n floats; y may be x. */
void ml_norm_forward(struct ml_step *s, const struct ml_norm *norm, const float *x, float *y, size_t n);
/* x[t] += y[t] for n rows of `width`. */
void ml_residual_add(struct ml_step *s, float *x, const float *y, size_t n, size_t width);

/* Where the layer finds its memory in the sequences of the pass. */
static inline const struct ml_memory_place *ml_place_of(const struct ml_step *s, const struct ml_layer *l) {
    return &s->memory->layers[l->index];
}

/* ---- attention.c ---- */

/* y [n, H] = o_proj(attention(q_proj x, k_proj x, v_proj x)); keys and values go to the pages. */
void ml_attention_forward(struct ml_step *s, const struct ml_layer *l, const float *x, float *y);
/* Bytes of the keys and values that n tokens at positions pos0... of one sequence see, each counted once. */
uint64_t ml_attention_bytes(const struct ml_kv_layout *layout, size_t window, size_t pos0, size_t n);

/* ---- mla.c ---- */

/* y [n, H] = the same by latent attention. */
void ml_mla_forward(struct ml_step *s, const struct ml_layer *l, const float *x, float *y);

/* ---- mlp.c ---- */

/* y [n, H] = down(act(gate x) * up x). */
void ml_mlp_forward(struct ml_step *s, const struct ml_mlp *mlp, const float *x, float *y);
/* act(gate) * up over n rows of `width`, into gate. */
void ml_glu_forward(struct ml_step *s, float *gate, const float *up, size_t n, size_t width);
/* The activation of the model's feed-forward blocks. */
struct ml_activation_rule ml_model_glu(const struct ml_model *m);

/* ---- moe.c ---- */

/* y [n, H] = sum over a token's experts of weight * expert(x), plus the shared one's. */
void ml_moe_forward(struct ml_step *s, const struct ml_moe *moe, const float *x, float *y);
/* Fills s->plan for n rows from logits [n, experts], which become probabilities. */
void ml_route_forward(struct ml_step *s, const struct ml_router *router, float *logits, size_t n);

/* ---- head.c ---- */

/* The embeddings of the pass's tokens into s->x. */
void ml_embed(struct ml_step *s);
/* logits [n, vocab] of hidden rows x [n, H], which are overwritten. */
void ml_head_forward(struct ml_step *s, float *x, size_t n, float *logits);

#endif
