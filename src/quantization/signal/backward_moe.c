/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradient of a mixture of experts: y = sum over a token's choices c of w_c expert_c(x), w from the router.
 * Rows are pairs of token and expert, sorted by expert (models/layers/moe.c).
 */
#include "quantization/signal/backward_int.h"

#include <string.h>

/* First row of an expert and how many it has. */
static size_t rows_of(const struct ml_moe_plan *p, size_t expert, size_t *n) {
    *n = (size_t)(p->start[expert + 1] - p->start[expert]);
    return (size_t)p->start[expert];
}

static void expert_forward(struct ml_backward *b, const struct ml_mlp *e, size_t row, size_t n) {
    const size_t hidden = e->gate.in, width = e->gate.out;
    float *gate = b->gate + row * width, *up = b->up + row * width, *act = b->act + row * width;
    const float *x = b->pair_x + row * hidden;
    const struct ml_linear_job in[] = {ml_linear_job(&e->gate, gate, x, n), ml_linear_job(&e->up, up, x, n)};
    const struct ml_linear_job out = ml_linear_job(&e->down, b->pair_y + row * hidden, act, n);
    ml_linear_forward(b->s, in, 2);
    memcpy(act, gate, n * width * sizeof *act);
    ml_glu_forward(b->s, act, up, n, width);
    ml_linear_forward(b->s, &out, 1);
}

void ml_backward_moe_forward(struct ml_backward *b, const struct ml_moe *moe) {
    struct ml_moe_plan *p = &b->s->plan;
    const size_t hidden = moe->router.in, experts = moe->choose.experts;
    const struct ml_linear_job router = ml_linear_job(&moe->router, b->router, b->mlp_in, b->n);
    ml_linear_forward(b->s, &router, 1);
    memcpy(b->s->router, b->router, b->n * experts * sizeof(float));
    ml_route_forward(b->s, &moe->choose, b->s->router, b->n);
    for (size_t r = 0; r < b->n * moe->choose.top_k; r++)
        memcpy(b->pair_x + r * hidden, b->mlp_in + (size_t)p->token[r] * hidden, hidden * sizeof(float));
    for (size_t e = 0; e < experts; e++) {
        size_t n;
        const size_t row = rows_of(p, e, &n);
        if (n) expert_forward(b, &moe->experts[e], row, n);
    }
    memset(b->mlp_y, 0, b->n * hidden * sizeof(float));
    for (size_t i = 0; i < b->n * moe->choose.top_k; i++)
        ml_kernels()->axpy(b->mlp_y + i / moe->choose.top_k * hidden, p->weight[i],
                           b->pair_y + (size_t)p->row[i] * hidden, hidden);
}

static double dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* dw [top_k] of one token -> gradient z [experts] of the router's logits. With normalised weights they are
 * the softmax of the chosen logits alone; else of all. */
static void router_row(const struct ml_moe *moe, const int32_t *expert, const float *weight, const float *dw,
                       float *p, float *z) {
    double along = 0;
    memset(z, 0, moe->choose.experts * sizeof *z);
    for (size_t c = 0; c < moe->choose.top_k; c++)
        along += (double)weight[c] * dw[c];
    if (!moe->choose.normalise) {
        ml_kernels()->softmax(p, p, moe->choose.experts);
        for (size_t e = 0; e < moe->choose.experts; e++)
            z[e] = -p[e] * (float)along;
    }
    for (size_t c = 0; c < moe->choose.top_k; c++)
        z[expert[c]] += weight[c] * (dw[c] - (moe->choose.normalise ? (float)along : 0));
}

/* g_pair = w g, and g_router from the products of g with what the experts gave. */
static void split(struct ml_backward *b, const struct ml_moe *moe, const float *g) {
    const struct ml_moe_plan *p = &b->s->plan;
    const size_t hidden = moe->router.in, top_k = moe->choose.top_k;
    float *dw = b->g_weight;
    for (size_t t = 0; t < b->n; t++) {
        for (size_t c = 0; c < top_k; c++) {
            const size_t row = (size_t)p->row[t * top_k + c] * hidden;
            dw[c] = (float)dot(g + t * hidden, b->pair_y + row, hidden);
            for (size_t i = 0; i < hidden; i++)
                b->g_pair[row + i] = p->weight[t * top_k + c] * g[t * hidden + i];
        }
        router_row(moe, p->expert + t * top_k, p->weight + t * top_k, dw, b->router + t * moe->choose.experts,
                   b->g_router + t * moe->choose.experts);
    }
}

static void expert_backward(struct ml_backward *b, const struct ml_mlp *e, size_t row, size_t n) {
    const size_t hidden = e->gate.in, width = e->gate.out;
    const float *x = b->pair_x + row * hidden;
    float *gate = b->gate + row * width, *up = b->up + row * width, *g = b->g_pair + row * hidden;
    float *g_act = b->g_act + row * width;
    ml_backward_through(b, &e->down, b->act + row * width, g, n, g_act, false);
    ml_backward_glu(b, gate, up, g_act, n, width);
    ml_backward_through(b, &e->gate, x, gate, n, g, false);
    ml_backward_through(b, &e->up, x, up, n, g, true);
}

void ml_backward_moe(struct ml_backward *b, const struct ml_moe *moe, const float *g, float *gx) {
    const struct ml_moe_plan *p = &b->s->plan;
    const size_t hidden = moe->router.in;
    split(b, moe, g);
    for (size_t e = 0; e < moe->choose.experts; e++) {
        size_t n;
        const size_t row = rows_of(p, e, &n);
        if (n) expert_backward(b, &moe->experts[e], row, n);
    }
    ml_backward_through(b, &moe->router, b->mlp_in, b->g_router, b->n, gx, false);
    for (size_t i = 0; i < b->n * moe->choose.top_k; i++)
        ml_kernels()->add(gx + i / moe->choose.top_k * hidden, b->g_pair + (size_t)p->row[i] * hidden,
                          hidden);
}
