/* SPDX-License-Identifier: Apache-2.0
 *
 * Order of the backward pass through a block. Architectures that have this block, some without one norm or
 * the other, say so in their row (has_backward):
 *
 *     mid = x   + norm(o(attention(norm(x))))
 *     out = mid + norm(mlp(norm(mid)))
 */
#include "quantization/signal/backward_int.h"

#include "base/checked.h"
#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

/* ---- memory ---- */

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

struct layout {
    float *base; /* NULL: sizes are only added up */
    size_t used; /* floats */
    bool overflow;
};

static float *section(struct layout *l, size_t rows, size_t width) {
    float *at = l->base ? l->base + l->used : NULL;
    size_t count, end;
    if (!ml_mul_size(rows, width, &count) || !ml_align_up(count, 16, &count) ||
        !ml_add_size(l->used, count, &end)) {
        l->overflow = true;
        return NULL;
    }
    l->used = end;
    return at;
}

static void lay_out_experts(struct layout *l, struct ml_backward *b, const struct ml_config *c,
                            size_t pairs) {
    const size_t hidden = (size_t)c->hidden_size;
    b->router = section(l, b->width, (size_t)c->num_experts);
    b->g_router = section(l, b->width, (size_t)c->num_experts);
    b->pair_x = section(l, pairs, hidden);
    b->pair_y = section(l, pairs, hidden);
    b->g_pair = section(l, pairs, hidden);
    b->g_weight = section(l, 1, (size_t)c->experts_per_token);
}

static size_t lay_out(struct ml_backward *b, const struct ml_model *m, int workers, float *base) {
    const struct ml_config *c = m->config;
    const size_t t = b->width, hidden = (size_t)c->hidden_size, dim = (size_t)c->head_dim;
    const size_t q = (size_t)c->num_heads * dim, kv = (size_t)c->num_kv_heads * dim;
    const size_t ff = larger((size_t)c->intermediate_size, (size_t)c->moe_intermediate_size);
    const size_t pairs = c->num_experts ? t * (size_t)c->experts_per_token : 0, rows = larger(t, pairs);
    const size_t widest = ml_config_max_cols(c);
    struct layout l = {.base = base};
    float **const hidden_rows[] = {&b->attn_in, &b->attn_y,   &b->mid, &b->mlp_in,
                                   &b->mlp_y,   &b->g_branch, &b->g_in};
    float **const wide_rows[] = {&b->gate, &b->up, &b->act, &b->g_act};
    for (size_t i = 0; i < sizeof hidden_rows / sizeof *hidden_rows; i++)
        *hidden_rows[i] = section(&l, t, hidden);
    for (size_t i = 0; i < sizeof wide_rows / sizeof *wide_rows; i++)
        *wide_rows[i] = section(&l, rows, ff);
    b->q_raw = section(&l, t, q);
    b->g_q = section(&l, t, q);
    b->g_attn = section(&l, t, q);
    b->k_raw = section(&l, t, kv);
    b->g_k = section(&l, t, kv);
    b->g_v = section(&l, t, kv);
    lay_out_experts(&l, b, c, pairs);
    b->transposed = section(&l, widest, ML_BACKWARD_ROWS);
    b->product = section(&l, rows, widest);
    b->minus_sin = section(&l, t, dim / 2);
    b->logits = section(&l, ML_BACKWARD_LOGITS, m->head.out);
    b->scores_stride = 4 * t * t + 3 * dim * t;
    b->scores = section(&l, (size_t)workers, b->scores_stride);
    return l.overflow ? 0 : l.used;
}

uint64_t ml_backward_bytes(const struct ml_model *m, size_t width, int workers) {
    struct ml_backward b = {.width = width};
    return (uint64_t)lay_out(&b, m, workers, NULL) * sizeof(float);
}

marlin_status ml_backward_check(const struct ml_model *m, struct marlin_error *err) {
    if (m->arch->has_backward) return MARLIN_OK;
    return ml_fail(
        err, MARLIN_ERR_UNSUPPORTED,
        "--optimize: '%s' has no backward pass, from which optimizing learns what each weight means "
        "for the loss: quantize without --optimize",
        m->arch->model_type);
}

marlin_status ml_backward_create(const struct ml_model *m, struct ml_pool *pool, size_t width,
                                 struct ml_backward **out, struct marlin_error *err) {
    struct ml_backward *b = ml_calloc(1, sizeof *b);
    marlin_status st;
    if (!b) return ml_fail(err, MARLIN_ERR_MEMORY, "backward pass: out of memory");
    *b = (struct ml_backward){.model = m, .pool = pool, .width = width};
    ML_TRY(ml_backward_check(m, err));
    const size_t floats = lay_out(b, m, ml_pool_size(pool), NULL);
    size_t bytes;
    if (!floats || !ml_mul_size(floats, sizeof(float), &bytes) || !(b->memory = ml_alloc_aligned(bytes))) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "backward pass of %zu tokens: out of memory", width);
        goto out;
    }
    lay_out(b, m, ml_pool_size(pool), b->memory);
    const struct ml_work_sizes sizes = {.rows = width, .runs = 1, .positions = width};
    ML_TRY(ml_work_create(m, pool, &sizes, &b->work, err));
    ML_TRY(ml_sequence_create_alone(m, width, width, &b->sequence, err));
    b->s = ml_work_first(b->work);
    ML_TRY(ml_exec_create(&b->exec, ml_kernels(), pool, err));
out:
    if (st == MARLIN_OK)
        *out = b;
    else
        ml_backward_free(b);
    return st;
}

void ml_backward_free(struct ml_backward *b) {
    if (!b) return;
    ml_sequence_free(b->sequence);
    ml_work_free(b->work);
    ml_exec_free(&b->exec);
    ml_free_aligned(b->memory);
    ml_free(b);
}

/* ---- a layer ---- */

/* to = norm(x), or x where there is no norm. */
static void normed(struct ml_backward *b, const struct ml_norm *norm, const float *x, float *to,
                   size_t width) {
    if (norm->w)
        ml_norm_forward(b->s, norm, x, to, b->n);
    else
        memcpy(to, x, b->n * width * sizeof *x);
}

/* to = x + norm(y) */
static void residual(struct ml_backward *b, const struct ml_norm *norm, const float *x, const float *y,
                     float *to, size_t width) {
    normed(b, norm, y, to, width);
    ml_residual_add(b->s, to, x, b->n, width);
}

static void forward_attention(struct ml_backward *b, const struct ml_layer *l, const float *x,
                              size_t hidden) {
    const struct ml_attention_weights *w = &l->mixer.attention;
    const struct ml_linear_job raw[] = {ml_linear_job(&w->q, b->q_raw, b->attn_in, b->n),
                                        ml_linear_job(&w->k, b->k_raw, b->attn_in, b->n)};
    normed(b, &l->attn_in, x, b->attn_in, hidden);
    if (w->q_norm.w || w->k_norm.w) ml_linear_forward(b->s, raw, 2);
    ml_attention_forward(b->s, l, b->attn_in, b->attn_y);
    residual(b, &l->attn_out, x, b->attn_y, b->mid, hidden);
    normed(b, &l->mlp_in, b->mid, b->mlp_in, hidden);
}

static void forward_mlp(struct ml_backward *b, const struct ml_mlp *mlp) {
    const size_t width = mlp->gate.out;
    const struct ml_linear_job in[] = {ml_linear_job(&mlp->gate, b->gate, b->mlp_in, b->n),
                                       ml_linear_job(&mlp->up, b->up, b->mlp_in, b->n)};
    const struct ml_linear_job out = ml_linear_job(&mlp->down, b->mlp_y, b->act, b->n);
    ml_linear_forward(b->s, in, 2);
    memcpy(b->act, b->gate, b->n * width * sizeof *b->act);
    ml_glu_forward(b->s, b->act, b->up, b->n, width);
    ml_linear_forward(b->s, &out, 1);
}

static void backward_mlp(struct ml_backward *b, const struct ml_mlp *mlp, const float *g, float *gx) {
    ml_backward_through(b, &mlp->down, b->act, g, b->n, b->g_act, false);
    ml_backward_glu(b, b->gate, b->up, b->g_act, b->n, mlp->gate.out);
    ml_backward_through(b, &mlp->gate, b->mlp_in, b->gate, b->n, gx, false);
    ml_backward_through(b, &mlp->up, b->mlp_in, b->up, b->n, gx, true);
}

static void backward_attention(struct ml_backward *b, const struct ml_layer *l, const float *g, float *gx) {
    const struct ml_attention_weights *w = &l->mixer.attention;
    ml_backward_through(b, &w->o, b->s->attn, g, b->n, b->g_attn, false);
    ml_backward_attention(b, l);
    ml_backward_norm(b, &w->q_norm, b->q_raw, b->g_q, b->n, w->q.out);
    ml_backward_norm(b, &w->k_norm, b->k_raw, b->g_k, b->n, w->k.out);
    ml_backward_through(b, &w->q, b->attn_in, b->g_q, b->n, gx, false);
    ml_backward_through(b, &w->k, b->attn_in, b->g_k, b->n, gx, true);
    ml_backward_through(b, &w->v, b->attn_in, b->g_v, b->n, gx, true);
}

marlin_status ml_backward_layer(struct ml_backward *b, size_t layer, const float *x, float *g, size_t n,
                                ml_gradient_fn *fn, void *user, struct marlin_error *err) {
    const struct ml_layer *l = &b->model->layers[layer];
    const size_t hidden = (size_t)b->model->config->hidden_size;
    b->fn = fn;
    b->user = user;
    b->n = n;
    const marlin_status st = ml_step_begin(b->work, b->sequence, n, 0, err);
    if (st != MARLIN_OK) return st;
    forward_attention(b, l, x, hidden);
    if (l->ffn.kind == ML_FFN_MOE)
        ml_backward_moe_forward(b, &l->ffn.moe);
    else
        forward_mlp(b, &l->ffn.mlp);

    memcpy(b->g_branch, g, n * hidden * sizeof *g);
    ml_backward_norm(b, &l->mlp_out, b->mlp_y, b->g_branch, n, hidden);
    if (l->ffn.kind == ML_FFN_MOE)
        ml_backward_moe(b, &l->ffn.moe, b->g_branch, b->g_in);
    else
        backward_mlp(b, &l->ffn.mlp, b->g_branch, b->g_in);
    ml_backward_norm(b, &l->mlp_in, b->mid, b->g_in, n, hidden);
    ml_residual_add(b->s, g, b->g_in, n, hidden);

    memcpy(b->g_branch, g, n * hidden * sizeof *g);
    ml_backward_norm(b, &l->attn_out, b->attn_y, b->g_branch, n, hidden);
    backward_attention(b, l, b->g_branch, b->g_in);
    ml_backward_norm(b, &l->attn_in, x, b->g_in, n, hidden);
    ml_residual_add(b->s, g, b->g_in, n, hidden);
    return MARLIN_OK;
}

/* ---- the head ---- */

struct draw {
    struct ml_backward *b;
    uint64_t seed;
    size_t first; /* token */
    float scale;
    int32_t *labels;
};

/* Logits of a token -> scale * (p - label), and the slope of a soft cap: cap tanh(z / cap) has slope 1 - (y /
 * cap)^2. */
static void draw_row(const struct draw *d, float *y, size_t t) {
    const size_t vocab = d->b->model->head.out;
    const float cap = (float)d->b->model->config->final_softcap;
    struct ml_rng rng;
    double sum = 0, at;
    size_t label = vocab - 1;
    float top = y[0];
    for (size_t i = 1; i < vocab; i++)
        top = y[i] > top ? y[i] : top;
    for (size_t i = 0; i < vocab; i++)
        sum += (double)expf(y[i] - top);
    ml_rng_seed(&rng, d->seed + t);
    at = ml_rng_double(&rng) * sum;
    for (size_t i = 0; i < vocab; i++) {
        const float p = expf(y[i] - top), slope = cap > 0 ? 1 - y[i] / cap * (y[i] / cap) : 1;
        if (at >= 0 && at < (double)p) label = i;
        at -= (double)p;
        y[i] = d->scale * slope * (float)((double)p / sum);
        if (i == label) y[i] -= d->scale * slope;
    }
    if (d->labels) d->labels[t] = (int32_t)label;
}

static void draw_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct draw *d = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        draw_row(d, d->b->logits + i * d->b->model->head.out, d->first + i);
}

void ml_backward_head(struct ml_backward *b, const float *x, size_t n, uint64_t seed, float scale, float *g,
                      int32_t *labels) {
    const size_t hidden = (size_t)b->model->config->hidden_size;
    struct draw d = {.b = b, .seed = seed, .scale = scale, .labels = labels};
    for (; d.first < n; d.first += ML_BACKWARD_LOGITS) {
        const size_t at = d.first, rows = n - at < ML_BACKWARD_LOGITS ? n - at : ML_BACKWARD_LOGITS;
        memcpy(b->attn_in, x + at * hidden, rows * hidden * sizeof *x);
        ml_head_forward(b->s, b->attn_in, rows, b->logits);
        ml_pool_for(b->pool, rows, 1, draw_rows, &d);
        ml_backward_linear(b, &b->model->head, b->logits, rows, g + at * hidden, false);
    }
    ml_backward_norm(b, &b->model->norm, x, g, n, hidden);
}
