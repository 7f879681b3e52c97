/* SPDX-License-Identifier: Apache-2.0
 *
 * Both ends of a model: token ids to vectors, and vectors to logits.
 */
#include "models/layers/layers.h"

void ml_embed(const struct ml_model *m, struct ml_state *s, const int32_t *ids, size_t n, float *x) {
    const struct ml_matrix *e = &m->embedding;
    const size_t row_bytes = e->stride * ml_dtype_size(e->dtype);
    for (size_t t = 0; t < n; t++) {
        float *row = x + t * e->cols;
        s->exec.k->widen[e->dtype](row, (const char *)e->data + (size_t)ids[t] * row_bytes, e->cols);
        for (size_t i = 0; m->arch->scale_embedding && i < e->cols; i++)
            row[i] *= m->embedding_scale;
    }
}

void ml_head_forward(const struct ml_model *m, struct ml_state *s, float *x, size_t n, float *logits) {
    const struct ml_linear_job head = {&m->head, logits, m->head.out};
    const float cap = (float)m->config->final_softcap;
    ml_norm_forward(s, &m->norm, x, x, n);
    ml_linear_forward(s, &head, 1, x, m->head.in, n);
    for (size_t t = 0; cap > 0 && t < n; t++)
        s->exec.k->softcap(logits + t * m->head.out, cap, m->head.out);
}
