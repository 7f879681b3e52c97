/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention, the specification: two passes over the keys (greatest score, then weights), everything in
 * double, the scores computed twice rather than kept.
 */
#include "kernels/reference/reference.h"

#include <math.h>

static double scale_at(const float *scales, size_t key) {
    return scales ? (double)scales[key] : 1;
}

static double score(enum ml_dtype t, const struct ml_attention_args *a, const float *q, size_t key) {
    double dot = 0;
    for (size_t d = 0; d < a->head_dim; d++)
        dot += (double)q[d] * ml_reference_at(t, a->k, key * a->kv_stride + d);
    dot *= scale_at(a->k_scales, key) * a->scale;
    return a->softcap > 0 ? a->softcap * tanh(dot / a->softcap) : dot;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static void attention_row(enum ml_dtype t, const struct ml_attention_args *a, size_t row) {
    const size_t token = row / a->group, head = row % a->group, pos = a->pos0 + token;
    const size_t seen = a->window && pos + 1 > a->window ? pos + 1 - a->window : 0;
    const size_t first = a->sums ? larger(seen, a->chunk * ML_ATTENTION_CHUNK) : seen;
    const size_t end = a->sums ? smaller(pos + 1, (a->chunk + 1) * ML_ATTENTION_CHUNK) : pos + 1;
    const bool sink = a->sink && !a->sums;
    const float *q = a->q + token * a->q_stride + head * a->head_dim;
    float *out = a->out + token * a->out_stride + head * a->head_dim;
    double sum[ML_ATTENTION_MAX_DIM] = {0};
    double top = sink ? a->sink[head] : -INFINITY;
    for (size_t j = first; j < end; j++)
        top = fmax(top, score(t, a, q, j));
    double weights = sink ? exp(a->sink[head] - top) : 0;
    for (size_t j = first; j < end; j++) {
        const double p = exp(score(t, a, q, j) - top);
        const double scaled = p * scale_at(a->v_scales, j);
        weights += p;
        for (size_t d = 0; d < a->head_dim; d++)
            sum[d] += scaled * ml_reference_at(t, a->v, j * a->kv_stride + d);
    }
    for (size_t d = 0; d < a->head_dim; d++)
        out[d] = (float)(a->sums ? sum[d] : sum[d] / weights);
    if (!a->sums) return;
    a->sums[2 * row] = (float)top;
    a->sums[2 * row + 1] = (float)weights;
}

static void attention_join(float *out, float *sums, const float *part, const float *part_sums,
                           size_t head_dim) {
    if (part_sums[1] == 0) return;
    const double top = fmax((double)sums[0], (double)part_sums[0]);
    const double old = exp((double)sums[0] - top), add = exp((double)part_sums[0] - top);
    for (size_t d = 0; d < head_dim; d++)
        out[d] = (float)(out[d] * old + part[d] * add);
    sums[0] = (float)top;
    sums[1] = (float)(sums[1] * old + part_sums[1] * add);
}

static void attention_f32(const struct ml_attention_args *a) {
    for (size_t i = 0; i < a->rows; i++)
        attention_row(ML_F32, a, i);
}

static void attention_f16(const struct ml_attention_args *a) {
    for (size_t i = 0; i < a->rows; i++)
        attention_row(ML_F16, a, i);
}

static void attention_i8(const struct ml_attention_args *a) {
    for (size_t i = 0; i < a->rows; i++)
        attention_row(ML_I8, a, i);
}

void ml_reference_attention(struct ml_kernels *k) {
    k->attention[ML_F32] = attention_f32;
    k->attention[ML_F16] = attention_f16;
    k->attention[ML_BF16] = NULL;
    k->attention_i8 = attention_i8;
    k->attention_join = attention_join;
}
