/* SPDX-License-Identifier: Apache-2.0
 *
 * The gated feed-forward block.
 */
#include "models/layers/layers.h"

struct ml_activation_rule ml_model_glu(const struct ml_model *m) {
    const struct ml_config *c = m->config;
    return (struct ml_activation_rule){.kind =
                                           c->activation == ML_ACT_GELU_TANH ? ML_GLU_GELU_TANH : ML_GLU_SILU,
                                       .limit = (float)c->glu_limit,
                                       .alpha = (float)c->glu_alpha};
}

void ml_glu_forward(struct ml_step *s, float *gate, const float *up, size_t n, size_t width) {
    s->ops->glu(
        &s->stream,
        &(struct ml_glu_op){.act = ml_model_glu(s->model), .gate = gate, .up = up, .n = n, .width = width});
}

void ml_mlp_forward(struct ml_step *s, const struct ml_mlp *mlp, const float *x, float *y) {
    const size_t width = mlp->gate.out;
    const struct ml_linear_job in[] = {ml_linear_job(&mlp->gate, s->gate, x, s->n),
                                       ml_linear_job(&mlp->up, s->up, x, s->n)};
    const struct ml_linear_job out = ml_linear_job(&mlp->down, y, s->gate, s->n);
    ml_linear_forward(s, in, 2);
    ml_stage_linears(s, ML_STAGE_UP, in, 2);
    ml_glu_forward(s, s->gate, s->up, s->n, width);
    ml_linear_forward(s, &out, 1);
    ml_stage_linears(s, ML_STAGE_DOWN, &out, 1);
}
