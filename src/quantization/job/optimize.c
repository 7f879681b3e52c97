/* SPDX-License-Identifier: Apache-2.0
 *
 * Measured bit allocation. One group (a role of one layer) at a time is quantized to PROBE bits while all
 * else stays exact, and the divergence of the model's output is measured on a few calibration rows:
 *
 *     rows at layer l -> layer l with one group quantized -> layers l+1 ... -> logits -> KL against exact ones
 *
 * Losses of groups add up and grow with the squared error, so one measurement predicts a group's loss at all
 * bits.
 */
#include "quantization/job/job.h"

#include "base/mem.h"
#include "eval/divergence.h"
#include "kernels/exec.h"
#include "models/layers/layers.h"

#include <math.h>
#include <string.h>

enum { PROBE = 3 }; /* bits */

struct probe {
    struct ml_job *job;
    struct ml_rows at;    /* sample rows at the input of the current layer */
    struct ml_rows moved; /* the same, on their way to the end */
    float *exact;         /* [tokens, H] output of the last layer of the exact model */
    float *logits[2];     /* [ML_PROBE_ROWS, vocab] exact, probed */
    float *normed;        /* [ML_PROBE_ROWS, H] */
    double *kl;           /* [ML_PROBE_ROWS] */
    size_t hidden, vocab, tokens;
    double *loss;            /* [layers][ML_ROLES] */
    size_t groups, measured; /* of all layers */
};

/* ---- divergence ---- */

static void kl_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct probe *p = arg;
    (void)worker;
    for (size_t t = begin; t < end; t++)
        p->kl[t] = ml_kl_divergence(p->logits[0] + t * p->vocab, p->logits[1] + t * p->vocab, p->vocab);
}

/* Mean over the sample of the divergence of moved.x from exact. */
static marlin_status divergence(struct probe *p, double *mean, struct marlin_error *err) {
    const struct ml_model *m = p->job->model;
    const struct ml_work_sizes rows = {.rows = ML_PROBE_ROWS, .runs = 1, .positions = ML_PROBE_ROWS};
    struct ml_work *w = NULL;
    double sum = 0;
    const marlin_status st = ml_work_create(m, p->job->settings->pool, &rows, &w, err);
    if (st != MARLIN_OK) return st;
    for (size_t at = 0; at < p->tokens; at += ML_PROBE_ROWS) {
        const size_t n = p->tokens - at < ML_PROBE_ROWS ? p->tokens - at : ML_PROBE_ROWS;
        const float *from[2] = {p->exact, p->moved.x};
        for (size_t i = 0; i < 2; i++) {
            memcpy(p->normed, from[i] + at * p->hidden, n * p->hidden * sizeof(float));
            ml_head_forward(ml_work_first(w), p->normed, n, p->logits[i]);
        }
        ml_pool_for(p->job->settings->pool, n, 1, kl_rows, p);
        for (size_t t = 0; t < n; t++) {
            sum += p->kl[t];
        }
    }
    ml_work_free(w);
    *mean = sum / (double)p->tokens;
    return MARLIN_OK;
}

/* ---- one group ---- */

/* A linear layer of the model that has other weights for the time being. */
struct swap {
    struct ml_linear *linear;
    struct ml_matrix was;
    float *w;
};

/* The plan only looks at the model. The job owns it, and so may write to it. */
static struct ml_linear *own_linear(const struct ml_job *job, const struct ml_plan_tensor *t) {
    const struct ml_layer *layer = &job->model->layers[t->layer];
    size_t i = 0;
    while (layer->sites[i].linear != t->linear)
        i++;
    return layer->sites[i].linear;
}

static marlin_status swap_in(struct probe *p, struct swap *s, const struct ml_plan_tensor *t,
                             const struct ml_hessian *h, struct marlin_error *err) {
    struct ml_linear *l = own_linear(p->job, t);
    struct ml_quantized_linear q = {0};
    const struct ml_codec *codec = NULL;
    marlin_status st;
    ML_TRY(ml_job_codec(p->job, PROBE, &codec, err));
    ML_TRY(ml_job_quantize(p->job, t, PROBE, h, NULL, &q, err));
    s->w = ml_calloc(l->out, l->in * sizeof(float));
    if (!s->w) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "%s: out of memory", l->name);
        goto out;
    }
    ML_TRY(ml_quantized_linear_restore(&q, codec, s->w, err));
    s->linear = l;
    s->was = l->u.plain;
    l->u.plain =
        (struct ml_matrix){.dtype = ML_F32, .rows = l->out, .cols = l->in, .stride = l->in, .data = s->w};
out:
    ml_quantized_linear_free(&q);
    return st;
}

static void swap_out(struct swap *s) {
    if (s->linear) s->linear->u.plain = s->was;
    ml_free(s->w);
}

static marlin_status swap_tensor(struct probe *p, struct swap *s, const struct ml_plan_tensor *t,
                                 const struct ml_capture *c, struct marlin_error *err) {
    struct ml_hessian own = {0};
    marlin_status st;
    if (t->input != ML_INPUT_EXPERT_HIDDEN) return swap_in(p, s, t, &c->h[t->input], err);
    const struct ml_mlp *e = &c->layer->ffn.moe.experts[t->expert];
    ML_TRY(ml_hessian_create(&own, e->down.in, ml_pool_size(c->pool), err));
    ML_TRY(ml_capture_expert(c, p->job->model, p->job->rows.width, e, &own, err));
    ML_TRY(swap_in(p, s, t, &own, err));
out:
    ml_hessian_free(&own);
    return st;
}

static marlin_status run_to_end(struct probe *p, size_t layer, struct marlin_error *err) {
    const struct ml_quantize_settings *s = p->job->settings;
    memcpy(p->moved.x, p->at.x, p->tokens * p->hidden * sizeof(float));
    for (size_t l = layer; l < p->job->plan.layers; l++) {
        const marlin_status st = ml_rows_forward(p->job->model, l, &p->moved, NULL, s->pool, s->cancel, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static marlin_status measure_group(struct probe *p, size_t layer, enum ml_role role,
                                   const struct ml_capture *c, struct marlin_error *err) {
    const struct ml_plan *plan = &p->job->plan;
    const size_t first = plan->first[layer], n = plan->first[layer + 1] - first;
    double kl = 0;
    marlin_status st = MARLIN_OK;
    struct swap *swaps = ml_calloc(n, sizeof *swaps);
    if (!swaps) return ml_fail(err, MARLIN_ERR_MEMORY, "measuring layer %zu: out of memory", layer);
    for (size_t i = 0; i < n; i++) {
        if (plan->tensors[first + i].role == role)
            ML_TRY(swap_tensor(p, &swaps[i], &plan->tensors[first + i], c, err));
    }
    ML_TRY(run_to_end(p, layer, err));
    ML_TRY(divergence(p, &kl, err));
    p->loss[layer * ML_ROLES + (size_t)role] = isfinite(kl) && kl > 0 ? kl : 0;
out:
    for (size_t i = 0; i < n; i++) {
        swap_out(&swaps[i]);
    }
    ml_free(swaps);
    return st;
}

/* ---- all groups ---- */

/* Every so many-th row, never one of random tokens. */
static size_t row_of(const struct probe *p, size_t i) {
    const size_t step = p->job->rows.rows / p->at.rows;
    const size_t row = i * step;
    return p->job->settings->calib || !ml_calibration_is_random(row) ? row : row - 1;
}

static void take_sample(struct probe *p) {
    const size_t row = p->at.width * p->hidden;
    for (size_t i = 0; i < p->at.rows; i++) {
        memcpy(p->at.x + i * row, p->job->rows.x + row_of(p, i) * row, row * sizeof(float));
    }
}

static bool has_role(const struct ml_plan *p, size_t layer, enum ml_role role) {
    for (size_t i = p->first[layer]; i < p->first[layer + 1]; i++)
        if (p->tensors[i].role == role) return true;
    return false;
}

static size_t count_groups(const struct ml_plan *p, size_t layers) {
    size_t n = 0;
    for (size_t l = 0; l < layers; l++)
        for (int role = 0; role < ML_ROLES; role++)
            n += has_role(p, l, (enum ml_role)role);
    return n;
}

static marlin_status measure_layer(struct probe *p, size_t layer, struct marlin_error *err) {
    const struct ml_quantize_settings *s = p->job->settings;
    struct ml_capture c = {0};
    marlin_status st;
    take_sample(p);
    ML_TRY(ml_capture_create(&c, &p->job->model->layers[layer], p->job->rows.rows * p->job->rows.width,
                             s->pool, err));
    ML_TRY(ml_rows_forward(p->job->model, layer, &p->job->rows, &c, s->pool, s->cancel, err));
    for (int role = 0; role < ML_ROLES; role++) {
        if (!has_role(&p->job->plan, layer, (enum ml_role)role)) continue;
        ML_TRY(measure_group(p, layer, (enum ml_role)role, &c, err));
        p->measured++;
        if (s->on_measure) s->on_measure(s->user, p->measured, p->groups);
    }
out:
    ml_capture_free(&c);
    return st;
}

static marlin_status create_probe(struct probe *p, struct marlin_error *err) {
    const struct ml_rows *all = &p->job->rows;
    size_t rows = ML_SAMPLE_TOKENS / all->width;
    rows = rows < 1 ? 1 : rows > all->rows ? all->rows : rows;
    p->groups = count_groups(&p->job->plan, p->job->plan.layers);
    p->hidden = (size_t)p->job->model->config->hidden_size;
    p->vocab = p->job->model->head.out;
    p->tokens = rows * all->width;
    p->at = (struct ml_rows){.rows = rows, .width = all->width};
    p->moved = p->at;
    p->at.x = ml_calloc(p->tokens, p->hidden * sizeof(float));
    p->moved.x = ml_calloc(p->tokens, p->hidden * sizeof(float));
    p->exact = ml_calloc(p->tokens, p->hidden * sizeof(float));
    p->logits[0] = ml_calloc(ML_PROBE_ROWS, p->vocab * sizeof(float));
    p->logits[1] = ml_calloc(ML_PROBE_ROWS, p->vocab * sizeof(float));
    p->normed = ml_calloc(ML_PROBE_ROWS, p->hidden * sizeof(float));
    p->kl = ml_calloc(ML_PROBE_ROWS, sizeof *p->kl);
    p->loss = ml_calloc(p->job->plan.layers * ML_ROLES, sizeof *p->loss);
    if (p->at.x && p->moved.x && p->exact && p->logits[0] && p->logits[1] && p->normed && p->kl && p->loss)
        return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY, "measuring on %zu tokens: out of memory", p->tokens);
}

static void free_probe(struct probe *p) {
    ml_free(p->at.x);
    ml_free(p->moved.x);
    ml_free(p->exact);
    ml_free(p->logits[0]);
    ml_free(p->logits[1]);
    ml_free(p->normed);
    ml_free(p->kl);
    ml_free(p->loss);
}

/* Layers that an earlier run has measured are only passed. *done: how many. */
static marlin_status pass_measured(struct probe *p, size_t *done, struct marlin_error *err) {
    const struct ml_quantize_settings *s = p->job->settings;
    marlin_status st;
    ML_TRY(ml_checkpoint_load_losses(p->job, p->loss, done, err));
    for (size_t l = 0; l < *done; l++)
        ML_TRY(ml_rows_forward(p->job->model, l, &p->job->rows, NULL, s->pool, s->cancel, err));
    p->measured = count_groups(&p->job->plan, *done);
out:
    return st;
}

marlin_status ml_job_optimize(struct ml_job *job, struct marlin_error *err) {
    struct probe p = {.job = job};
    size_t done = 0;
    marlin_status st;
    ML_TRY(create_probe(&p, err));
    take_sample(&p);
    ML_TRY(run_to_end(&p, 0, err));
    memcpy(p.exact, p.moved.x, p.tokens * p.hidden * sizeof(float));
    ML_TRY(pass_measured(&p, &done, err));
    for (size_t l = done; l < job->plan.layers; l++) {
        ML_TRY(measure_layer(&p, l, err));
        ML_TRY(ml_checkpoint_save_losses(job, p.loss, l + 1, err));
    }
    ML_TRY(ml_job_allocate(job, p.loss, err));
out:
    free_probe(&p);
    return st;
}
