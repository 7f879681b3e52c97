/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention, the specification: two passes over the keys (greatest score, then weights), everything in
 * double, the scores computed twice rather than kept.
 */
#include "kernels/reference/reference.h"

#include <math.h>

static const char *page_of(const struct ml_attention_args *a, size_t key) {
    return a->pages[key / ML_PAGE_KEYS];
}

/* The scale of an int8 key or value. */
static double scale_at(enum ml_dtype t, const struct ml_attention_args *a, size_t at, size_t key) {
    const float *scales = (const float *)(const void *)(page_of(a, key) + at);
    return t == ML_I8 ? (double)scales[key % ML_PAGE_KEYS] : 1;
}

static double score(enum ml_dtype t, const struct ml_attention_args *a, const float *q, size_t key) {
    const size_t row = key % ML_PAGE_KEYS * a->k_dim;
    double dot = 0;
    for (size_t d = 0; d < a->k_dim; d++)
        dot += (double)q[d] * ml_reference_at(t, page_of(a, key) + a->k_at, row + d);
    dot *= scale_at(t, a, a->k_scales_at, key) * a->scale;
    return a->softcap > 0 ? a->softcap * tanh(dot / a->softcap) : dot;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static void add_value(enum ml_dtype t, const struct ml_attention_args *a, double *sum, double p, size_t key) {
    const size_t row = key % ML_PAGE_KEYS * a->v_stride;
    const double scaled = p * scale_at(t, a, a->v_scales_at, key);
    for (size_t d = 0; d < a->v_dim; d++)
        sum[d] += scaled * ml_reference_at(t, page_of(a, key) + a->v_at, row + d);
}

static void attention_row(enum ml_dtype t, const struct ml_attention_args *a, size_t row) {
    const size_t token = row / a->group, head = row % a->group, own = a->slot0 + token;
    const size_t seen = ml_attention_first(a, token);
    const size_t first = a->sums ? larger(seen, a->chunk * ML_ATTENTION_CHUNK) : seen;
    const size_t end = a->sums ? smaller(own + 1, (a->chunk + 1) * ML_ATTENTION_CHUNK) : own + 1;
    const bool sink = a->sink && !a->sums;
    const float *q = a->q + token * a->q_stride + head * a->k_dim;
    float *out = a->out + token * a->out_stride + head * a->v_dim;
    double sum[ML_ATTENTION_MAX_DIM] = {0};
    double top = sink ? a->sink[head] : -INFINITY;
    for (size_t j = first; j < end; j++)
        if (ml_attention_sees(a, token, j)) top = fmax(top, score(t, a, q, j));
    double weights = sink ? exp(a->sink[head] - top) : 0;
    for (size_t j = first; j < end; j++) {
        if (!ml_attention_sees(a, token, j)) continue;
        const double p = exp(score(t, a, q, j) - top);
        weights += p;
        add_value(t, a, sum, p, j);
    }
    for (size_t d = 0; d < a->v_dim; d++)
        out[d] = (float)(a->sums ? sum[d] : sum[d] / weights);
    if (!a->sums) return;
    a->sums[2 * row] = (float)top;
    a->sums[2 * row + 1] = (float)weights;
}

static void attention_join(float *out, float *sums, const float *part, const float *part_sums, size_t v_dim) {
    if (part_sums[1] == 0) return;
    const double top = fmax((double)sums[0], (double)part_sums[0]);
    const double old = exp((double)sums[0] - top), add = exp((double)part_sums[0] - top);
    for (size_t d = 0; d < v_dim; d++)
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
