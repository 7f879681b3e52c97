/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradient of causal grouped-query attention, one KV head a piece of work:
 *
 *     S = scale Q K'   P = softmax(cap(S))   A = P V
 *     dV = P' dA       dP = dA V'            dS = P (dP - rowsum(P dP)) slope scale
 *     dQ = dS K        dK = dS' Q
 *
 * Scores are [T, T]: sequences of calibration are short, so that they are made whole.
 */
#include "quantization/signal/backward_int.h"

#include <math.h>
#include <string.h>

/* One worker's memory. */
struct scores {
    float *p, *dp, *slope, *flip; /* [n, n] */
    float *narrow, *narrow2;      /* [head_dim, n] */
    float *sum;                   /* [n, head_dim] */
    void *gemm;
};

struct heads {
    struct ml_backward *b;
    const struct ml_attention_weights *w;
};

/* to [cols, rows] = from [rows, cols]' */
static void flip(const float *from, size_t stride, size_t rows, size_t cols, float *to) {
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            to[c * rows + r] = from[r * stride + c];
}

/* Scores of a query -> probabilities; slope: of the soft cap, times scale. */
static void softmax_row(const struct ml_attention_weights *w, size_t t, size_t n, float *p, float *slope) {
    const size_t from = w->window && t + 1 > w->window ? t + 1 - w->window : 0;
    const float cap = w->softcap;
    for (size_t j = from; j <= t; j++) {
        p[j] *= w->scale;
        slope[j] = w->scale;
        if (cap <= 0) continue;
        const float y = tanhf(p[j] / cap);
        p[j] = cap * y;
        slope[j] *= 1 - y * y;
    }
    ml_kernels()->softmax(p + from, p + from, t + 1 - from);
    memset(p, 0, from * sizeof *p);
    memset(p + t + 1, 0, (n - t - 1) * sizeof *p);
}

/* dp -> ds in place; 0 where p is 0. */
static void score_gradient(const float *p, const float *slope, float *dp, size_t n) {
    double along = 0;
    for (size_t j = 0; j < n; j++)
        along += (double)p[j] * dp[j];
    for (size_t j = 0; j < n; j++)
        dp[j] = p[j] > 0 ? p[j] * (dp[j] - (float)along) * slope[j] : 0;
}

/* y [n, dim] (stride ldy) += x [n, n] . m [n, dim] (stride ldm) */
static void add_product(const struct scores *s, const float *x, const float *m, size_t ldm, size_t n,
                        size_t dim, float *y, size_t ldy) {
    const struct ml_kernels *k = ml_kernels();
    flip(m, ldm, n, dim, s->narrow);
    k->gemm[ML_F32](s->sum, dim, s->narrow, n, x, n, n, dim, n, s->gemm);
    for (size_t t = 0; t < n; t++)
        k->add(y + t * ldy, s->sum + t * dim, dim);
}

static void query_head(const struct heads *h, const struct scores *s, size_t head, size_t kv_head) {
    struct ml_backward *b = h->b;
    const struct ml_kernels *k = ml_kernels();
    const size_t n = b->n, dim = (size_t)b->model->config->head_dim, ldq = h->w->q.out, ldk = h->w->k.out;
    const float *q = b->s->q + head * dim, *da = b->g_attn + head * dim;
    const float *key = b->s->k + kv_head * dim, *value = b->s->v + kv_head * dim;
    k->gemm[ML_F32](s->p, n, key, ldk, q, ldq, n, n, dim, s->gemm);
    k->gemm[ML_F32](s->dp, n, value, ldk, da, ldq, n, n, dim, s->gemm);
    for (size_t t = 0; t < n; t++)
        softmax_row(h->w, t, n, s->p + t * n, s->slope + t * n);
    flip(s->p, n, n, n, s->flip);
    add_product(s, s->flip, da, ldq, n, dim, b->g_v + kv_head * dim, ldk);
    for (size_t t = 0; t < n; t++)
        score_gradient(s->p + t * n, s->slope + t * n, s->dp + t * n, n);
    add_product(s, s->dp, key, ldk, n, dim, b->g_q + head * dim, ldq);
    flip(s->dp, n, n, n, s->flip);
    add_product(s, s->flip, q, ldq, n, dim, b->g_k + kv_head * dim, ldk);
}

static void kv_heads(void *arg, size_t begin, size_t end, int worker) {
    const struct heads *h = arg;
    struct ml_backward *b = h->b;
    const size_t n = b->n, dim = (size_t)b->model->config->head_dim, group = h->w->q.out / h->w->k.out;
    float *at = b->scores + (size_t)worker * b->scores_stride;
    const struct scores s = {.p = at,
                             .dp = at + n * n,
                             .slope = at + 2 * n * n,
                             .flip = at + 3 * n * n,
                             .narrow = at + 4 * n * n,
                             .sum = at + 4 * n * n + dim * n,
                             .gemm = (char *)b->exec.scratch + (size_t)worker * b->exec.scratch_stride};
    for (size_t kv = begin; kv < end; kv++)
        for (size_t i = 0; i < group; i++)
            query_head(h, &s, kv * group + i, kv);
}

/* ---- rotation ---- */

struct rotation {
    struct ml_backward *b;
    const struct ml_attention_weights *w;
    const float *cos;
};

/* The transpose of a rotation turns the other way. */
static void turn_back(void *arg, size_t begin, size_t end, int worker) {
    const struct rotation *a = arg;
    const struct ml_rope *r = a->w->rope;
    const size_t dim = (size_t)a->b->model->config->head_dim;
    (void)worker;
    for (size_t t = begin; t < end; t++) {
        const float *cos = a->cos + t * r->half, *sin = a->b->minus_sin + t * r->half;
        ml_kernels()->rope_half(a->b->g_q + t * a->w->q.out, a->w->q.out / dim, dim, r->rotary, cos, sin);
        ml_kernels()->rope_half(a->b->g_k + t * a->w->k.out, a->w->k.out / dim, dim, r->rotary, cos, sin);
    }
}

static void unrotate(struct ml_backward *b, const struct ml_attention_weights *w) {
    const bool local = w->rope == &b->model->rope_local;
    const struct ml_angles *angles = local ? &b->s->local : &b->s->global;
    struct rotation a = {b, w, angles->cos};
    if (!w->rope) return;
    for (size_t i = 0; i < b->n * w->rope->half; i++)
        b->minus_sin[i] = -angles->sin[i];
    ml_pool_for(b->pool, b->n, 8, turn_back, &a);
}

void ml_backward_attention(struct ml_backward *b, const struct ml_layer *l) {
    struct heads h = {b, &l->mixer.attention};
    memset(b->g_q, 0, b->n * l->mixer.attention.q.out * sizeof *b->g_q);
    memset(b->g_k, 0, b->n * l->mixer.attention.k.out * sizeof *b->g_k);
    memset(b->g_v, 0, b->n * l->mixer.attention.v.out * sizeof *b->g_v);
    ml_pool_for(b->pool, (size_t)b->model->config->num_kv_heads, 1, kv_heads, &h);
    unrotate(b, &l->mixer.attention);
}
