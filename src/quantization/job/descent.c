/* SPDX-License-Identifier: Apache-2.0
 *
 * Rounding against the loss at the end of the model. What a layer's weights mean for it comes from the
 * gradient, and that comes from above, so that layers are quantized from the last to the first:
 *
 *     forward    layer 0 ... layer L-1        inputs of every layer are kept on disk
 *     backward   head, L-1 ... 0              gradient of one layer -> curvature -> quantize -> next below
 *
 * An interrupted run makes the gradient of the layers that are done again, from their inputs on disk.
 */
#include "base/mem.h"
#include "quantization/job/job.h"
#include "quantization/signal/curvature.h"

#include <string.h>
#include <xxhash.h>

/* Squares of gradients of large models would come near the smallest float32. */
static const float gradient_scale = 1024;

struct descent {
    struct ml_job *job;
    struct ml_backward *b;
    float *g; /* [rows * width, H] */
    size_t hidden;
};

/* Rows of random tokens say nothing about text. */
static bool is_text(const struct ml_job *job, size_t row) {
    return job->settings->calib || !ml_calibration_is_random(row);
}

static marlin_status forward(struct ml_job *job, struct marlin_error *err) {
    const size_t layers = job->plan.layers;
    const struct ml_quantize_settings *s = job->settings;
    size_t layer = 0;
    bool found = false;
    marlin_status st;
    ML_TRY(ml_checkpoint_load_hidden(job, layers, &layer, &found, err));
    if (!found) {
        ML_TRY(ml_job_embed(job, err));
        ML_TRY(ml_checkpoint_save_hidden(job, 0, true, err));
    }
    for (; layer < layers; layer++) {
        ml_job_fetch(job, layer + 1);
        ML_TRY(ml_rows_forward(job->model, layer, &job->rows, NULL, s->pool, s->cancel, err));
        ML_TRY(ml_checkpoint_save_hidden(job, layer + 1, true, err));
        ml_job_release(job, layer);
        if (s->on_forward) s->on_forward(s->user, layer + 1, layers);
    }
out:
    return st;
}

static marlin_status head_gradient(struct descent *d, struct marlin_error *err) {
    const struct ml_rows *rows = &d->job->rows;
    const uint64_t seed = XXH3_64bits_withSeed("labels", 6, d->job->settings->seed);
    for (size_t r = 0; r < rows->rows; r++) {
        const size_t at = r * rows->width;
        if (!is_text(d->job, r)) continue;
        ml_backward_head(d->b, rows->x + at * d->hidden, rows->width, seed + at, gradient_scale,
                         d->g + at * d->hidden, NULL);
        if (d->job->settings->cancel && *d->job->settings->cancel)
            return ml_fail(err, MARLIN_ERR_CANCELLED, "interrupted in the head");
    }
    return MARLIN_OK;
}

/* Gradient of the layer's output -> of its input, over all rows; c may be NULL. */
static marlin_status backward(struct descent *d, size_t layer, struct ml_layer_curvature *c,
                              struct marlin_error *err) {
    struct ml_job *job = d->job;
    const struct ml_rows *rows = &job->rows;
    size_t from = 0;
    bool found = false;
    marlin_status st = ml_checkpoint_load_hidden(job, layer, &from, &found, err);
    if (st != MARLIN_OK) return st;
    if (!found || from != layer)
        return ml_fail(err, MARLIN_ERR_FORMAT, "%s: the inputs of layer %zu are missing", job->work, layer);
    for (size_t r = 0; r < rows->rows; r++) {
        const size_t at = r * rows->width * d->hidden;
        if (!is_text(job, r)) continue;
        st = ml_backward_layer(d->b, layer, rows->x + at, d->g + at, rows->width,
                               c ? ml_layer_curvature_add : NULL, c, err);
        if (st != MARLIN_OK) return st;
        if (job->settings->cancel && *job->settings->cancel)
            return ml_fail(err, MARLIN_ERR_CANCELLED, "interrupted in model.layers.%zu", layer);
    }
    return job->model->tensors ? ml_tensors_check(job->model->tensors, err) : MARLIN_OK;
}

static marlin_status quantize(struct descent *d, size_t layer, struct marlin_error *err) {
    struct ml_job *job = d->job;
    struct ml_layer_curvature c = {0};
    struct ml_part part = {0};
    marlin_status st;
    ML_TRY(
        ml_layer_curvature_create(&c, &job->model->layers[layer], job->rows.width, job->settings->pool, err));
    ML_TRY(backward(d, layer, &c, err));
    ml_layer_curvature_share(&c);
    for (size_t i = job->plan.first[layer]; i < job->plan.first[layer + 1]; i++) {
        const struct ml_curvature *k = ml_layer_curvature_of(&c, job->plan.tensors[i].linear);
        ML_TRY(ml_job_quantize_tensor(job, i, &k->in, &k->out, &part, err));
    }
    ML_TRY(ml_job_write_part(job, layer, &part, err));
out:
    ml_part_free(&part);
    ml_layer_curvature_free(&c);
    return st;
}

marlin_status ml_job_descend(struct ml_job *job, size_t done, struct marlin_error *err) {
    struct descent d = {.job = job, .hidden = (size_t)job->model->config->hidden_size};
    const size_t layers = job->plan.layers;
    marlin_status st;
    ML_TRY(forward(job, err));
    if (done == 0) ML_TRY(ml_job_quantize_head(job, err));
    ML_TRY(ml_backward_create(job->model, job->settings->pool, job->rows.width, &d.b, err));
    d.g = ml_calloc(job->rows.rows * job->rows.width, d.hidden * sizeof *d.g);
    if (!d.g) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "gradients of %zu rows: out of memory", job->rows.rows);
        goto out;
    }
    ML_TRY(head_gradient(&d, err));
    for (size_t l = layers; l-- > 0;) {
        if (l) ml_job_fetch(job, l - 1);
        ML_TRY(layers - l < done ? backward(&d, l, NULL, err) : quantize(&d, l, err));
        ml_job_release(job, l);
    }
out:
    ml_free(d.g);
    ml_backward_free(d.b);
    return st;
}
