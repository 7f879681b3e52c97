/* SPDX-License-Identifier: Apache-2.0
 *
 * The order of a job: what is done when. Layers depend on the calibration rows and on the unquantized model,
 * never on each other's quantized weights: measured, Hessians of the unquantized model are as good, and a
 * layer can be made again or made alone. A job that optimizes goes from the last layer to the first
 * (quantization/job/descent.c).
 */
#include "quantization/job/pipeline.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/mem.h"
#include "quantization/job/job.h"
#include "quantization/signal/backward.h"

#include <string.h>

static const double hidden_every = 30; /* seconds of work that a restart may have to repeat */

enum { TEXT_WIDTH = 1024, OWN_WIDTH = 512 };

/* ---- opening ---- */

/* Inputs of all layers are kept on disk: no more than 16 GiB of them for what exceeds the usual. */
static size_t optimize_tokens(const struct ml_job *job, size_t usual) {
    const uint64_t token = (uint64_t)job->model->config->hidden_size * sizeof(float) * (job->plan.layers + 1);
    const uint64_t room = ((uint64_t)16 << 30) / token, most = 4 * (uint64_t)usual;
    return room < usual ? usual : (size_t)(room < most ? room : most);
}

static void set_size(struct ml_job *job) {
    const struct ml_quantize_settings *s = job->settings;
    const size_t longest = (size_t)job->model->config->max_positions;
    const struct ml_effort *effort = ml_effort_of(s->effort);
    const size_t usual = s->calib ? effort->text_tokens : effort->own_tokens;
    job->tokens = s->calib_tokens ? s->calib_tokens : s->optimize ? optimize_tokens(job, usual) : usual;
    job->width = s->calib ? TEXT_WIDTH : OWN_WIDTH;
    if (longest && longest < job->width) job->width = longest;
    if (job->width > job->tokens) job->width = job->tokens;
    job->tokens = job->tokens / job->width * job->width;
    job->lanes = ml_job_lanes(job);
    for (size_t i = 0; i < job->plan.count; i++) {
        if (job->plan.tensors[i].bits != ML_BITS_PLAIN)
            job->weights += ml_plan_weights(&job->plan.tensors[i]);
    }
}

static void refresh_report(struct ml_job *job) {
    for (size_t i = 0; i < job->plan.count; i++) {
        job->report->tensors[i].bits = job->plan.tensors[i].bits;
    }
    job->report->bits_per_weight = ml_plan_bits(&job->plan);
}

static marlin_status create_report(struct ml_job *job, struct marlin_error *err) {
    struct ml_quantize_report *r = job->report;
    struct ml_arena *arena = ml_calloc(1, sizeof *arena);
    if (!arena) return ml_fail(err, MARLIN_ERR_MEMORY, "report: out of memory");
    ml_arena_init(arena, 0);
    r->arena = arena;
    r->tensors = ml_arena_array(arena, job->plan.count, sizeof *r->tensors);
    for (size_t i = 0; r->tensors && i < job->plan.count; i++) {
        const char *name = job->plan.tensors[i].linear->name;
        r->tensors[i] = (struct ml_quantize_tensor){.name = ml_arena_strndup(arena, name, strlen(name)),
                                                    .bits = job->plan.tensors[i].bits};
        if (!r->tensors[i].name) return ml_fail(err, MARLIN_ERR_MEMORY, "report: out of memory");
    }
    r->count = job->plan.count;
    if (r->tensors) refresh_report(job);
    return r->tensors ? MARLIN_OK : ml_fail(err, MARLIN_ERR_MEMORY, "report: out of memory");
}

void ml_quantize_report_free(struct ml_quantize_report *r) {
    if (r->arena) ml_arena_free(r->arena);
    ml_free(r->arena);
    memset(r, 0, sizeof *r);
}

static marlin_status check_source(const struct ml_job *job, struct marlin_error *err) {
    for (size_t i = 0; i < job->plan.count; i++) {
        if (job->plan.tensors[i].linear->kind != ML_LINEAR_PLAIN)
            return ml_fail(err, MARLIN_ERR_UNSUPPORTED,
                           "%s is quantized already (%s): start from the plain model", job->settings->source,
                           job->plan.tensors[i].linear->name);
    }
    return MARLIN_OK;
}

static marlin_status open_job(struct ml_job *job, struct marlin_error *err) {
    const struct ml_quantize_settings *s = job->settings;
    const struct ml_model_options mo = {.pool = s->pool, .kv_dtype = ML_F32};
    marlin_status st;
    ML_TRY(ml_model_load(s->source, &mo, &job->model, err));
    ML_TRY(ml_plan_create(job->model, &job->plan, err));
    ML_TRY(check_source(job, err));
    if (s->optimize) ML_TRY(ml_backward_check(job->model, err));
    ML_TRY(ml_job_allocate(job, NULL, err));
    set_size(job);
    ML_TRY(create_report(job, err));
    ML_TRY(ml_checkpoint_open(job, err));
    if (!job->report->complete_already) ML_TRY(ml_job_fit_memory(job, err));
out:
    return st;
}

static void close_job(struct ml_job *job) {
    ml_checkpoint_close(job);
    for (size_t b = 0; b < sizeof job->codec / sizeof *job->codec; b++) {
        ml_codec_free(&job->codec[b]);
    }
    ml_calibration_free(&job->calibration);
    ml_free(job->rows.x);
    if (job->plan.model) ml_plan_free(&job->plan);
    ml_model_free(job->model);
}

/* ---- calibration rows ---- */

/* The source is larger than memory may be: a layer's pages go when it is done, the next one's are fetched. */
static void pass_on(void *user, size_t layer) {
    const struct ml_job *job = user;
    ml_job_release(job, layer);
    ml_job_fetch(job, (layer + 1) % (job->plan.layers + 1));
}

static marlin_status make_rows(struct ml_job *job, struct marlin_error *err) {
    const struct ml_quantize_settings *s = job->settings;
    struct ml_tokenizer *t = NULL;
    marlin_status st;
    const struct ml_sample_job own = {.model = job->model,
                                      .pool = s->pool,
                                      .tokens = job->tokens,
                                      .width = job->width,
                                      .lanes = job->lanes,
                                      .seed = s->seed,
                                      .cancel = s->cancel,
                                      .on_token = s->on_sample,
                                      .user = s->user,
                                      .layer_done = job->streamed ? pass_on : NULL,
                                      .layer_user = job};
    if (!s->calib) {
        st = ml_calibration_sample(&own, &job->calibration, err);
        for (size_t l = 0; l <= job->plan.layers; l++)
            ml_job_release(job, l);
        return st;
    }
    ML_TRY(ml_tokenizer_load(s->source, (uint64_t)job->model->config->vocab_size, &t, err));
    ML_TRY(ml_calibration_from_file(s->calib, t, job->tokens, job->width, &job->calibration, err));
out:
    ml_tokenizer_free(t);
    return st;
}

static marlin_status get_rows(struct ml_job *job, struct marlin_error *err) {
    bool found = false;
    marlin_status st;
    ML_TRY(ml_checkpoint_load_rows(job, &found, err));
    if (!found) {
        ML_TRY(make_rows(job, err));
        ML_TRY(ml_checkpoint_save_rows(job, err));
    }
    job->report->calib_tokens = job->calibration.rows * job->calibration.width;
out:
    return st;
}

static marlin_status reserve_activations(struct ml_job *job, struct marlin_error *err) {
    const struct ml_calibration *c = &job->calibration;
    const size_t hidden = (size_t)job->model->config->hidden_size;
    size_t count = 0;
    job->rows = (struct ml_rows){.rows = c->rows, .width = c->width};
    if (ml_mul_size(c->rows * c->width, hidden, &count)) job->rows.x = ml_calloc(count, sizeof(float));
    if (job->rows.x) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY, "activations of %zu tokens: out of memory", c->rows * c->width);
}

/* ---- all layers ---- */

static void recall(struct ml_job *job, size_t layer, const struct ml_tensors *t) {
    for (size_t i = job->plan.first[layer]; i < job->plan.first[layer + 1]; i++) {
        ml_job_recall(t, job->report->arena, &job->report->tensors[i]);
        if (job->plan.tensors[i].bits != ML_BITS_PLAIN)
            job->weights_done += ml_plan_weights(&job->plan.tensors[i]);
    }
}

/* The layer that is made as number `step`; the head counts as the last one. */
static size_t layer_of_step(const struct ml_job *job, size_t step) {
    return job->settings->optimize ? job->plan.layers - step : step;
}

/* The number of layers that are done. */
static size_t count_done(struct ml_job *job) {
    size_t step = 0;
    for (; step <= job->plan.layers; step++) {
        const size_t layer = layer_of_step(job, step);
        struct ml_tensors *t = ml_job_open_part(job, layer);
        if (!t) break;
        recall(job, layer, t);
        ml_tensors_close(t);
    }
    return step;
}

/* Brings the activations to the input of `layer`. */
static marlin_status reach(struct ml_job *job, size_t layer, struct marlin_error *err) {
    size_t from = 0;
    bool found = false;
    marlin_status st;
    ML_TRY(ml_checkpoint_load_hidden(job, layer, &from, &found, err));
    if (!found) ML_TRY(ml_job_embed(job, err));
    for (; from < layer; from++) {
        ml_job_fetch(job, from + 1);
        ML_TRY(ml_rows_forward(job->model, from, &job->rows, NULL, job->settings->pool, job->settings->cancel,
                               err));
        ml_job_release(job, from);
    }
out:
    return st;
}

/* Measured bits: found by an earlier run, or now. */
static marlin_status optimize_bits(struct ml_job *job, struct marlin_error *err) {
    bool found = false;
    marlin_status st;
    ML_TRY(ml_checkpoint_load_bits(job, &found, err));
    if (!found) {
        ML_TRY(reserve_activations(job, err));
        ML_TRY(ml_job_embed(job, err));
        ML_TRY(ml_job_optimize(job, err));
        ML_TRY(ml_checkpoint_save_bits(job, err));
        ml_free(job->rows.x);
        job->rows.x = NULL;
    }
    refresh_report(job);
out:
    return st;
}

/* From the first layer to the last, the head after them. */
static marlin_status ascend(struct ml_job *job, size_t done, struct marlin_error *err) {
    double saved = ml_clock_seconds();
    marlin_status st;
    ML_TRY(reach(job, done, err));
    for (size_t l = done; l < job->plan.layers; l++) {
        ML_TRY(ml_job_quantize_layer(job, l, err));
        if (ml_clock_seconds() - saved < hidden_every) continue;
        ML_TRY(ml_checkpoint_save_hidden(job, l + 1, false, err));
        saved = ml_clock_seconds();
    }
    ML_TRY(ml_job_quantize_head(job, err));
out:
    return st;
}

static marlin_status do_layers(struct ml_job *job, struct marlin_error *err) {
    marlin_status st;
    ML_TRY(ml_job_quantize_embedding(job, err)); /* a number in it that is none ends the job early */
    ML_TRY(get_rows(job, err));
    if (job->settings->optimize) ML_TRY(optimize_bits(job, err));
    const size_t done = count_done(job);
    job->report->resumed_layers = done;
    if (done > job->plan.layers) goto out;
    ML_TRY(reserve_activations(job, err));
    ML_TRY(job->settings->optimize ? ml_job_descend(job, done, err) : ascend(job, done, err));
out:
    return st;
}

marlin_status ml_quantize_model(const struct ml_quantize_settings *settings,
                                struct ml_quantize_report *report, struct marlin_error *err) {
    struct ml_job *job = ml_calloc(1, sizeof *job);
    marlin_status st;
    memset(report, 0, sizeof *report);
    if (!job) return ml_fail(err, MARLIN_ERR_MEMORY, "quantizing: out of memory");
    job->settings = settings;
    job->report = report;
    job->lock = -1;
    ML_TRY(open_job(job, err));
    if (report->complete_already) goto out;
    ML_TRY(do_layers(job, err));
    ML_TRY(ml_job_export(job, err));
    ML_TRY(ml_checkpoint_remove(job, err));
out:;
    const bool kept = st != MARLIN_OK && ml_checkpoint_settle(job, st);
    close_job(job);
    ml_free(job);
    if (st != MARLIN_OK) ml_quantize_report_free(report);
    report->resumable = kept;
    return st;
}
