/* SPDX-License-Identifier: Apache-2.0
 *
 * Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) in its absorbed form. A position keeps one
 * row for all heads, | latent c | rotated key r |. With head h's parts K_h and V_h of kv_b,
 *
 *   score = (K_h c) q_nope + r q_rope  =  c (K_h^T q_nope) + r q_rope       value = sum p V_h c  =  V_h (sum p c)
 *
 * so that attention has one KV head, whose keys are these rows and whose values are their beginnings.
 *
 *   q_heads [n][heads]: | nope | rope |   ->   q [n][heads]: | K_h^T nope | rotated rope |
 */
#include "models/layers/layers.h"

/* The same columns of every head: x and y of head 0, one matrix a head. Not seen by observers. */
static void each_head(struct ml_step *s, const struct ml_mla_weights *w, const struct ml_linear *matrices,
                      float *y, size_t y_step, const float *x, size_t x_step) {
    struct ml_linear_job jobs[ML_LINEAR_JOBS];
    for (size_t h = 0; h < w->heads; h += ML_LINEAR_JOBS) {
        size_t n = 0;
        for (; n < ML_LINEAR_JOBS && h + n < w->heads; n++)
            jobs[n] = (struct ml_linear_job){.linear = &matrices[h + n],
                                             .y = y + (h + n) * y_step,
                                             .ldy = w->heads * y_step,
                                             .x = x + (h + n) * x_step,
                                             .ldx = w->heads * x_step,
                                             .n = s->n};
        s->ops->linear(&s->stream, &(struct ml_linear_op){.jobs = jobs, .n_jobs = n, .mode = s->model->mode});
    }
}

/* q_heads and the latent rows of x. */
static void project(struct ml_step *s, const struct ml_mla_weights *w, const float *x) {
    const bool low = w->q_a.out > 0;
    const struct ml_linear_job first[] = {
        ml_linear_job(low ? &w->q_a : &w->q_b, low ? s->q_low : s->q_heads, x, s->n),
        ml_linear_job(&w->kv_a, s->k, x, s->n)};
    const struct ml_linear_job second = ml_linear_job(&w->q_b, s->q_heads, s->q_low, s->n);
    ml_linear_forward(s, first, 2);
    ml_stage_linears(s, ML_STAGE_QKV, first, 2);
    if (!low) return;
    ml_norm_forward(s, &w->q_norm, s->q_low, s->q_low, s->n);
    ml_linear_forward(s, &second, 1);
    ml_stage_linears(s, ML_STAGE_QKV, &second, 1);
}

static void absorb(struct ml_step *s, const struct ml_mla_weights *w) {
    const size_t width = w->nope + w->rotary, wide = w->latent + w->rotary;
    each_head(s, w, w->keys, s->q, wide, s->q_heads, width);
    s->ops->copy(&s->stream, &(struct ml_copy_op){.x = s->q_heads + w->nope,
                                                  .x_step = width,
                                                  .y = s->q + w->latent,
                                                  .y_step = wide,
                                                  .n = s->n * w->heads,
                                                  .width = w->rotary});
}

static void store(struct ml_step *s, const struct ml_layer *l) {
    const struct ml_mla_weights *w = &l->mixer.mla;
    const struct ml_memory_place *place = ml_place_of(s, l);
    static const struct ml_norm none;
    s->ops->rope_store(&s->stream,
                       &(struct ml_rope_store_op){.pass = &s->pass,
                                                  .pages = s->pages[place->group],
                                                  .layout = place->layout,
                                                  .q = s->q,
                                                  .k = s->k,
                                                  .q_width = w->heads * place->layout.k_dim,
                                                  .q_norm = &none,
                                                  .k_norm = &w->kv_norm,
                                                  .cos = s->global.cos,
                                                  .sin = s->global.sin,
                                                  .rotary = w->rotary,
                                                  .rotary_at = w->latent,
                                                  .norm_leading = true,
                                                  .interleaved = s->model->arch->rope_interleaved});
}

static void attend(struct ml_step *s, const struct ml_layer *l) {
    const struct ml_memory_place *place = ml_place_of(s, l);
    s->ops->attention(&s->stream, &(struct ml_attention_op){.pass = &s->pass,
                                                            .pages = s->pages[place->group],
                                                            .layout = place->layout,
                                                            .q = s->q,
                                                            .out = s->attn,
                                                            .heads = l->mixer.mla.heads,
                                                            .scale = l->mixer.mla.scale});
}

void ml_mla_forward(struct ml_step *s, const struct ml_layer *l, const float *x, float *y) {
    const struct ml_mla_weights *w = &l->mixer.mla;
    const struct ml_linear_job out = ml_linear_job(&w->o, y, s->values, s->n);
    project(s, w, x);
    absorb(s, w);
    store(s, l);
    ml_stage_done(s, ML_STAGE_ROPE);
    attend(s, l);
    each_head(s, w, w->values, s->values, w->v_dim, s->attn, w->latent);
    ml_stage_done(s, ML_STAGE_ATTENTION);
    ml_linear_forward(s, &out, 1);
    ml_stage_linears(s, ML_STAGE_OUT, &out, 1);
}
