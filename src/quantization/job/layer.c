/* SPDX-License-Identifier: Apache-2.0
 *
 * One layer of a job, with what stands at its ends: the embedding and the head.
 */
#include "quantization/job/job.h"

#include "base/mem.h"
#include "models/layers/layers.h"

/* The Hessian of an expert's down projection lives only as long as it is needed. */
static marlin_status quantize_expert_down(struct ml_job *job, size_t index, const struct ml_capture *c,
                                          struct ml_part *part, struct marlin_error *err) {
    const struct ml_plan_tensor *t = &job->plan.tensors[index];
    const struct ml_mlp *e = &c->layer->ffn.moe.experts[t->expert];
    struct ml_hessian h = {0};
    marlin_status st;
    ML_TRY(ml_hessian_create(&h, e->down.in, ml_pool_size(c->pool), err));
    ML_TRY(ml_capture_expert(c, job->model, job->rows.width, e, &h, err));
    ML_TRY(ml_job_quantize_tensor(job, index, &h, NULL, part, err));
out:
    ml_hessian_free(&h);
    return st;
}

static marlin_status quantize_layer(struct ml_job *job, size_t layer, const struct ml_capture *c,
                                    struct ml_part *part, struct marlin_error *err) {
    for (size_t i = job->plan.first[layer]; i < job->plan.first[layer + 1]; i++) {
        const struct ml_plan_tensor *t = &job->plan.tensors[i];
        const bool own = t->input == ML_INPUT_EXPERT_HIDDEN;
        const marlin_status st = own ? quantize_expert_down(job, i, c, part, err)
                                     : ml_job_quantize_tensor(job, i, &c->h[t->input], NULL, part, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

marlin_status ml_job_quantize_layer(struct ml_job *job, size_t layer, struct marlin_error *err) {
    struct ml_capture c = {0};
    struct ml_part part = {0};
    marlin_status st;
    ml_job_fetch(job, layer + 1);
    ML_TRY(ml_capture_create(&c, &job->model->layers[layer], job->rows.rows * job->rows.width,
                             job->settings->pool, err));
    ML_TRY(
        ml_rows_forward(job->model, layer, &job->rows, &c, job->settings->pool, job->settings->cancel, err));
    ML_TRY(quantize_layer(job, layer, &c, &part, err));
    ML_TRY(ml_job_write_part(job, layer, &part, err));
    ml_job_release(job, layer);
out:
    ml_part_free(&part);
    ml_capture_free(&c);
    return st;
}

/* The head's input is the normed output of the last layer. */
static marlin_status head_hessian(struct ml_job *job, struct ml_hessian *h, struct marlin_error *err) {
    const size_t hidden = (size_t)job->model->config->hidden_size, width = job->rows.width;
    const struct ml_work_sizes row = {.rows = width, .runs = 1, .positions = width};
    struct ml_work *w = NULL;
    const marlin_status st = ml_work_create(job->model, job->settings->pool, &row, &w, err);
    if (st != MARLIN_OK) return st;
    struct ml_step *s = ml_work_first(w);
    for (size_t r = 0; r < job->rows.rows; r++) {
        ml_norm_forward(s, &job->model->norm, job->rows.x + r * width * hidden, s->x, width);
        ml_hessian_add(h, ml_kernels(), job->settings->pool, s->x, hidden, width);
    }
    ml_work_free(w);
    return MARLIN_OK;
}

marlin_status ml_job_quantize_head(struct ml_job *job, struct marlin_error *err) {
    const size_t index = job->plan.first[job->plan.layers];
    struct ml_hessian h = {0};
    struct ml_part part = {0};
    marlin_status st;
    ML_TRY(ml_hessian_create(&h, job->model->head.in, ml_pool_size(job->settings->pool), err));
    ML_TRY(head_hessian(job, &h, err));
    ML_TRY(ml_job_quantize_tensor(job, index, &h, NULL, &part, err));
    ML_TRY(ml_job_write_part(job, job->plan.layers, &part, err));
out:
    ml_part_free(&part);
    ml_hessian_free(&h);
    return st;
}

/* ---- embedding ---- */

marlin_status ml_job_embed(struct ml_job *job, struct marlin_error *err) {
    const struct ml_calibration *c = &job->calibration;
    const size_t hidden = (size_t)job->model->config->hidden_size;
    const struct ml_work_sizes one = {.rows = 1, .runs = 1, .positions = 1};
    struct ml_work *w = NULL;
    const marlin_status st = ml_work_create(job->model, job->settings->pool, &one, &w, err);
    if (st != MARLIN_OK) return st;
    for (size_t r = 0; r < c->rows; r++) {
        ml_embed_ids(ml_work_first(w), c->ids + r * c->width, c->width, job->rows.x + r * c->width * hidden);
    }
    ml_work_free(w);
    ml_job_release(job, job->plan.layers);
    return MARLIN_OK;
}

marlin_status ml_job_quantize_embedding(struct ml_job *job, struct marlin_error *err) {
    struct ml_quantize_tensor *r = &job->report->embedding;
    struct ml_part part = {0};
    marlin_status st = MARLIN_OK;
    if (job->plan.embedding_bits == ML_BITS_PLAIN) return st;
    *r = (struct ml_quantize_tensor){.name = "model.embed_tokens", .bits = job->plan.embedding_bits};
    struct ml_tensors *done = ml_job_open_part(job, job->plan.layers + 1);
    if (done) {
        ml_job_recall(done, job->report->arena, r);
        goto out;
    }
    st = ml_part_add_int8(&part, job->plan.embedding, &job->model->embedding, &r->proxy_error, err);
    if (st != MARLIN_OK) {
        st = ml_fail_in(err, st, "%s", r->name);
        goto out;
    }
    ML_TRY(ml_job_remember(&part, r, err));
    ML_TRY(ml_job_write_part(job, job->plan.layers + 1, &part, err));
    ml_job_release(job, job->plan.layers);
out:
    ml_tensors_close(done);
    ml_part_free(&part);
    return st;
}
