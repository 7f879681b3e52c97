/* SPDX-License-Identifier: Apache-2.0
 *
 * Both ends of a model: token ids to vectors, and vectors to logits.
 */
#include "models/layers/layers.h"
#include "packing/int8.h"

static void plain_row(const struct ml_model *m, const struct ml_kernels *k, size_t id, float *row) {
    const struct ml_matrix *e = &m->embedding;
    k->widen[e->dtype](row, (const char *)e->data + id * e->stride * ml_dtype_size(e->dtype), e->cols);
}

void ml_embed(const struct ml_model *m, struct ml_state *s, const int32_t *ids, size_t n, float *x) {
    const struct ml_quant_matrix *q = m->embedding_rows;
    const size_t hidden = (size_t)m->config->hidden_size;
    for (size_t t = 0; t < n; t++) {
        const size_t id = (size_t)ids[t];
        float *row = x + t * hidden;
        if (q)
            ml_int8_unpack((const int8_t *)q->data + id * hidden, hidden, q->sv[id], row);
        else
            plain_row(m, s->exec.k, id, row);
        for (size_t i = 0; m->arch->scale_embedding && i < hidden; i++)
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
    ml_stage_linears(s, ML_STAGE_HEAD, &head, 1);
}
