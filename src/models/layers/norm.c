/* SPDX-License-Identifier: Apache-2.0
 *
 * Row-wise norms and residual sums.
 */
#include "models/layers/layers.h"

void ml_norm_forward(struct ml_step *s, const struct ml_norm *norm, const float *x, float *y, size_t n) {
    s->ops->norm(&s->stream, &(struct ml_norm_op){.norm = norm, .x = x, .y = y, .n = n});
}

void ml_residual_add(struct ml_step *s, float *x, const float *y, size_t n, size_t width) {
    s->ops->add(&s->stream, &(struct ml_add_op){.x = x, .y = y, .n = n, .width = width});
    ml_stage_done(s, ML_STAGE_RESIDUAL);
}
