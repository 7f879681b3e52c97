/* SPDX-License-Identifier: Apache-2.0
 *
 * Both ends of a model: token ids to vectors, and vectors to logits.
 */
#include "models/layers/layers.h"

void ml_embed(struct ml_step *s) {
    s->ops->embed(&s->stream, &(struct ml_embed_op){.embedding = &s->model->embed,
                                                    .pass = &s->pass,
                                                    .x = s->x,
                                                    .width = (size_t)s->model->config->hidden_size});
}

void ml_embed_ids(struct ml_step *s, const int32_t *ids, size_t n, float *x) {
    const struct ml_pass pass = {.n = n, .ids = ids};
    s->ops->embed(&s->stream, &(struct ml_embed_op){.embedding = &s->model->embed,
                                                    .pass = &pass,
                                                    .x = x,
                                                    .width = (size_t)s->model->config->hidden_size});
}

void ml_head_forward(struct ml_step *s, float *x, size_t n, float *logits) {
    const struct ml_model *m = s->model;
    const struct ml_linear_job head = ml_linear_job(&m->head, logits, x, n);
    const float cap = (float)m->config->final_softcap;
    ml_norm_forward(s, &m->norm, x, x, n);
    ml_linear_forward(s, &head, 1);
    if (cap > 0)
        s->ops->softcap(&s->stream, &(struct ml_softcap_op){.x = logits, .n = n * m->head.out, .cap = cap});
    ml_stage_linears(s, ML_STAGE_HEAD, &head, 1);
}
