/* SPDX-License-Identifier: Apache-2.0
 *
 * Multiplication by weights, whatever they are stored as.
 */
#include "models/layers/layers.h"

struct ml_linear_job ml_linear_job(const struct ml_linear *l, float *y, const float *x, size_t n) {
    return (struct ml_linear_job){.linear = l, .y = y, .ldy = l->out, .x = x, .ldx = l->in, .n = n};
}

void ml_linear_forward(struct ml_step *s, const struct ml_linear_job *jobs, size_t n_jobs) {
    for (size_t i = 0; s->observe && i < n_jobs; i++)
        s->observe(s->observe_user, jobs[i].linear, jobs[i].x, jobs[i].ldx, jobs[i].n);
    s->ops->linear(&s->stream,
                   &(struct ml_linear_op){.jobs = jobs, .n_jobs = n_jobs, .mode = s->model->mode});
}

void ml_stage_linears(struct ml_step *s, enum ml_stage stage, const struct ml_linear_job *jobs,
                      size_t n_jobs) {
    uint64_t bytes = 0;
    if (!s->profile) return;
    for (size_t i = 0; i < n_jobs; i++)
        bytes += ml_linear_bytes(s->model, jobs[i].linear);
    ml_profile_mark(s->profile, stage, bytes);
}
