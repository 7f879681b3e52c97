/* SPDX-License-Identifier: Apache-2.0
 *
 * The pieces that architectures are written with. All work on the n tokens of the state's running call
 * (ml_step_begin), token-major float32 rows, and neither allocate nor fail.
 */
#ifndef ML_MODELS_LAYERS_LAYERS_H
#define ML_MODELS_LAYERS_LAYERS_H

#include "models/model_int.h"

/* ---- linear.c: the one door to weights ---- */

struct ml_linear_job {
    const struct ml_linear *linear;
    float *y; /* [n, linear->out] */
    size_t ldy;
};

/* Several layers over the same x [n, in]: one fork-join where their kind allows it. The observer sees each.
 */
void ml_linear_forward(struct ml_state *s, const struct ml_linear_job *jobs, size_t n_jobs, const float *x,
                       size_t ldx, size_t n);

/* ---- marks for the profile; nothing when it is off ---- */

static inline void ml_stage_done(struct ml_state *s, enum ml_stage stage) {
    if (s->profile) ml_profile_mark(s->profile, stage, 0);
}
/* The same for a stage that ends with these products. */
void ml_stage_linears(struct ml_state *s, enum ml_stage stage, const struct ml_linear_job *jobs,
                      size_t n_jobs);

/* ---- norm.c ---- */

/* y[t] = norm(x[t]) for n rows of norm->n floats; y may be x. */
void ml_norm_forward(struct ml_state *s, const struct ml_norm *norm, const float *x, float *y, size_t n);
/* The same over each run of norm->n floats of one row of `width`. */
void ml_norm_row(const struct ml_kernels *k, const struct ml_norm *norm, float *x, size_t width);
/* x[t] += y[t] for n rows of `width`. */
void ml_residual_add(struct ml_state *s, float *x, const float *y, size_t n, size_t width);

/* ---- attention.c ---- */

/* y [n, H] = o_proj(attention(q_proj x, k_proj x, v_proj x)); keys and values go to the cache. */
void ml_attention_forward(struct ml_state *s, const struct ml_layer *l, const float *x, float *y);
/* Keys and values that n tokens at positions pos0... of one sequence see, each counted once. */
uint64_t ml_attention_bytes(const struct ml_state *s, const struct ml_attention_weights *w, size_t pos0,
                            size_t n);

/* ---- mlp.c ---- */

/* y [n, H] = down(act(gate x) * up x). */
void ml_mlp_forward(struct ml_state *s, const struct ml_mlp *mlp, const float *x, float *y);
/* act(gate) * up over n rows of `width`, into gate. */
void ml_glu_forward(struct ml_state *s, float *gate, const float *up, size_t n, size_t width);

/* ---- moe.c ---- */

/* y [n, H] = sum over a token's experts of weight * expert(x). */
void ml_moe_forward(struct ml_state *s, const struct ml_moe *moe, const float *x, float *y);
/* Softmax over each row of logits [n, experts] in place, then the top_k by probability, ties to the lowest
 * number, into plan->expert and plan->weight; a NaN never wins. */
void ml_moe_route(const struct ml_kernels *k, float *logits, size_t n, size_t experts, size_t top_k,
                  bool normalise, struct ml_moe_plan *plan);
/* Sorts pairs by expert (counting sort, stable): fills row, token and start from expert. */
void ml_moe_group(size_t n, size_t experts, size_t top_k, struct ml_moe_plan *plan);

/* ---- head.c ---- */

/* logits [n, vocab] of hidden rows x [n, H], which are overwritten. */
void ml_head_forward(const struct ml_model *m, struct ml_state *s, float *x, size_t n, float *logits);

#endif
