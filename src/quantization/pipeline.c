/* SPDX-License-Identifier: Apache-2.0
 *
 * The order of a job. Layers depend on the calibration rows and on the unquantized model, never on each
 * other's quantized weights: measured, Hessians of the unquantized model are as good, and a layer can be made
 * again or made alone. A job that optimizes goes from the last layer to the first (quantization/descent.c).
 */
#include "quantization/pipeline.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "models/layers/layers.h"
#include "quantization/allocate.h"
#include "quantization/job.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const double sigma = 0.025;
static const double hidden_every = 30; /* seconds of work that a restart may have to repeat */

enum { TEXT_WIDTH = 1024, OWN_WIDTH = 512 };

/* What each effort buys: the trellis window up to 4 bits and beyond (there 12 loses 4 to 9 % against 14), and
 * calibration tokens. To optimize takes up to four times as many: gradients are noisier than activations. */
static const struct {
    const char *name;
    int window, wide_window;
    size_t text_tokens, own_tokens;
} efforts[ML_EFFORTS] = {
    [ML_EFFORT_LOW] = {"low", 12, 12, 16384, 8192},
    [ML_EFFORT_NORMAL] = {"normal", 12, 14, 65536, 32768},
    [ML_EFFORT_HIGH] = {"high", 16, 16, 131072, 65536},
};

const char *ml_effort_name(enum ml_quantize_effort e) {
    return efforts[e].name;
}

/* ---- opening ---- */

static marlin_status check_head_bits(const struct ml_quantize_settings *s, struct marlin_error *err) {
    const int b = s->head_bits;
    const bool exl3 = s->format == ML_QUANTIZE_EXL3;
    const bool fits = exl3 ? b >= 1 && b <= 8 : (b >= 2 && b <= 6) || b == ML_BITS_INT8;
    if (fits || b == ML_BITS_PLAIN) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_ARGUMENT, "--head-bits %d: the format has %s and 16 (unquantized)", b,
                   exl3 ? "1 to 8" : "2 to 6, 8 (int8 rows)");
}

marlin_status ml_job_allocate(struct ml_job *job, const double *loss, struct marlin_error *err) {
    const struct ml_quantize_settings *s = job->settings;
    const bool exl3 = s->format == ML_QUANTIZE_EXL3;
    const int least = exl3 ? ML_EXL3_MIN_BITS : ML_TAP_MIN_BITS;
    const struct ml_allocation a = {.bits = s->bits,
                                    .least = least,
                                    .most = exl3 ? ML_EXL3_MAX_BITS : ML_TAP_MAX_BITS,
                                    .int8_rows = !exl3,
                                    .lowest = loss ? least : (int)floor(s->bits),
                                    .head_bits = s->head_bits,
                                    .recipe = s->recipe,
                                    .loss = loss};
    const marlin_status st = check_head_bits(s, err);
    return st != MARLIN_OK ? st : ml_allocate(&job->plan, &a, err);
}

/* Inputs of all layers are kept on disk: no more than 16 GiB of them for what exceeds the usual. */
static size_t optimize_tokens(const struct ml_job *job, size_t usual) {
    const uint64_t token = (uint64_t)job->model->config->hidden_size * sizeof(float) * (job->plan.layers + 1);
    const uint64_t room = ((uint64_t)16 << 30) / token, most = 4 * (uint64_t)usual;
    return room < usual ? usual : (size_t)(room < most ? room : most);
}

static void set_size(struct ml_job *job) {
    const struct ml_quantize_settings *s = job->settings;
    const size_t longest = (size_t)job->model->config->max_positions;
    const size_t usual = s->calib ? efforts[s->effort].text_tokens : efforts[s->effort].own_tokens;
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

marlin_status ml_job_embed(struct ml_job *job, struct marlin_error *err) {
    const struct ml_calibration *c = &job->calibration;
    const size_t hidden = (size_t)job->model->config->hidden_size;
    struct ml_state *s = NULL;
    const marlin_status st = ml_state_create(job->model, job->settings->pool, 1, 1, &s, err);
    if (st != MARLIN_OK) return st;
    for (size_t r = 0; r < c->rows; r++) {
        ml_embed(job->model, s, c->ids + r * c->width, c->width, job->rows.x + r * c->width * hidden);
    }
    ml_state_free(s);
    ml_job_release(job, job->plan.layers);
    return MARLIN_OK;
}

/* ---- one tensor ---- */

marlin_status ml_job_codec(struct ml_job *job, int bits, const struct ml_codec **out,
                           struct marlin_error *err) {
    const struct ml_quantize_settings *s = job->settings;
    struct ml_codec *c = &job->codec[bits];
    const enum ml_cpu_tier tier = ml_kernels()->tier;
    const int window = bits <= 4 ? efforts[s->effort].window : efforts[s->effort].wide_window;
    *out = c;
    if (c->bits) return MARLIN_OK;
    return s->format == ML_QUANTIZE_EXL3 ? ml_codec_exl3(c, bits, s->codebook, tier, err)
                                         : ml_codec_tap(c, bits, window, tier, err);
}

struct widen {
    const struct ml_matrix *w;
    float *to;
};

static void widen_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct widen *a = arg;
    (void)worker;
    for (size_t r = begin; r < end; r++) {
        const char *row = (const char *)a->w->data + r * a->w->stride * ml_dtype_size(a->w->dtype);
        ml_kernels()->widen[a->w->dtype](a->to + r * a->w->cols, row, a->w->cols);
    }
}

static marlin_status load_weights(const struct ml_job *job, const struct ml_linear *l, float **out,
                                  struct marlin_error *err) {
    size_t count;
    *out = ml_mul_size(l->in, l->out, &count) ? ml_alloc(count * sizeof **out) : NULL;
    if (!*out)
        return ml_fail(err, MARLIN_ERR_MEMORY, "%s: no memory for %zu x %zu weights", l->name, l->out, l->in);
    struct widen a = {&l->u.plain, *out};
    ml_pool_for(job->settings->pool, l->out, 64, widen_rows, &a);
    return MARLIN_OK;
}

static marlin_status remember(struct ml_part *part, const struct ml_quantize_tensor *t,
                              struct marlin_error *err) {
    char key[512], value[64];
    (void)snprintf(key, sizeof key, "proxy %.480s", t->name);
    (void)snprintf(value, sizeof value, "%.17g", t->proxy_error);
    marlin_status st;
    ML_TRY(ml_part_note(part, key, value, err));
    (void)snprintf(key, sizeof key, "dropped %.480s", t->name);
    (void)snprintf(value, sizeof value, "%llu", (unsigned long long)t->dropped);
    if (t->dropped) ML_TRY(ml_part_note(part, key, value, err));
    (void)snprintf(key, sizeof key, "fallback %.480s", t->name);
    if (t->fallback) ML_TRY(ml_part_note(part, key, t->fallback, err));
out:
    return st;
}

marlin_status ml_job_quantize(struct ml_job *job, const struct ml_plan_tensor *t, int bits,
                              const struct ml_hessian *h, const struct ml_hessian *outputs,
                              struct ml_quantized_linear *q, struct marlin_error *err) {
    const struct ml_linear *l = t->linear;
    const struct ml_codec *codec = NULL;
    float *w = NULL;
    marlin_status st;
    ML_TRY(ml_job_codec(job, bits, &codec, err));
    ML_TRY(load_weights(job, l, &w, err));
    const struct ml_quantize_options o = {
        .codec = codec,
        .kernels = ml_kernels(),
        .pool = job->settings->pool,
        .sigma = sigma,
        .outputs = outputs,
        .seed = XXH3_64bits_withSeed(l->name, strlen(l->name), job->settings->seed)};
    ML_TRY(ml_quantize_linear(w, l->out, l->in, h, &o, q, err));
out:
    ml_free(w);
    return st;
}

static marlin_status quantize_trellis(struct ml_job *job, const struct ml_plan_tensor *t,
                                      const struct ml_hessian *h, const struct ml_hessian *outputs,
                                      struct ml_part *part, struct ml_quantize_tensor *result,
                                      struct marlin_error *err) {
    struct ml_quantized_linear q = {0};
    marlin_status st;
    ML_TRY(ml_job_quantize(job, t, t->bits, h, outputs, &q, err));
    result->proxy_error = q.proxy_error;
    result->fallback = q.fallback;
    result->dropped = h ? h->dropped : 0;
    ML_TRY(ml_part_add_linear(part, t->stored, &q, &job->codec[t->bits], err));
out:
    ml_quantized_linear_free(&q);
    return st;
}

marlin_status ml_job_quantize_tensor(struct ml_job *job, size_t index, const struct ml_hessian *h,
                                     const struct ml_hessian *outputs, struct ml_part *part,
                                     struct marlin_error *err) {
    const struct ml_quantize_settings *s = job->settings;
    const struct ml_plan_tensor *t = &job->plan.tensors[index];
    struct ml_quantize_tensor *result = &job->report->tensors[index];
    if (t->bits == ML_BITS_PLAIN) return MARLIN_OK;
    marlin_status st = t->bits == ML_BITS_INT8 && s->format == ML_QUANTIZE_MARLIN
                           ? ml_part_add_int8(part, t->stored, &t->linear->u.plain, &result->proxy_error, err)
                           : quantize_trellis(job, t, h, outputs, part, result, err);
    if (st != MARLIN_OK) {
        st = ml_fail_in(err, st, "%s", t->linear->name);
        goto out;
    }
    if (result->fallback)
        ml_log(ML_LOG_WARN, "%s: quantized without feedback: %s", t->linear->name, result->fallback);
    else if (result->dropped)
        ml_log(ML_LOG_WARN, "%s: %llu calibration tokens left out: their inputs are not finite",
               t->linear->name, (unsigned long long)result->dropped);
    ML_TRY(remember(part, result, err));
    job->weights_done += ml_plan_weights(t);
    if (s->on_tensor)
        s->on_tensor(s->user, t->layer, job->plan.layers, job->weights_done, job->weights,
                     result->proxy_error);
    if (s->cancel && *s->cancel)
        st = ml_fail(err, MARLIN_ERR_CANCELLED, "interrupted in %s", t->linear->name);
out:
    return st;
}

/* ---- one layer ---- */

/* The Hessian of an expert's down projection lives only as long as it is needed. */
static marlin_status quantize_expert_down(struct ml_job *job, size_t index, const struct ml_capture *c,
                                          struct ml_part *part, struct marlin_error *err) {
    const struct ml_plan_tensor *t = &job->plan.tensors[index];
    const struct ml_mlp *e = &c->layer->moe.experts[t->expert];
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
        const bool own = t->expert != ML_NO_EXPERT && t->role == ML_ROLE_DOWN;
        const marlin_status st =
            own ? quantize_expert_down(job, i, c, part, err)
                : ml_job_quantize_tensor(job, i, &c->h[ml_role_input(t->role)], NULL, part, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

marlin_status ml_job_write_part(struct ml_job *job, size_t layer, const struct ml_part *part,
                                struct marlin_error *err) {
    char path[PATH_MAX];
    const marlin_status st = ml_checkpoint_part(job, layer, path, err);
    return st != MARLIN_OK ? st : ml_part_write(part, path, err);
}

static marlin_status do_layer(struct ml_job *job, size_t layer, struct marlin_error *err) {
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
    struct ml_state *s = NULL;
    const marlin_status st = ml_state_create(job->model, job->settings->pool, width, width, &s, err);
    if (st != MARLIN_OK) return st;
    for (size_t r = 0; r < job->rows.rows; r++) {
        ml_norm_forward(s, &job->model->norm, job->rows.x + r * width * hidden, s->x, width);
        ml_hessian_add(h, ml_kernels(), job->settings->pool, s->x, hidden, width);
    }
    ml_state_free(s);
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

/* ---- all layers ---- */

/* Takes what an earlier run found out about a tensor. The text must outlive the part's file. */
static void recall_tensor(const struct ml_tensors *t, struct ml_arena *arena, struct ml_quantize_tensor *r) {
    char key[512];
    (void)snprintf(key, sizeof key, "proxy %.480s", r->name);
    const char *proxy = ml_tensors_metadata(t, key);
    r->proxy_error = proxy ? strtod(proxy, NULL) : NAN;
    (void)snprintf(key, sizeof key, "dropped %.480s", r->name);
    const char *dropped = ml_tensors_metadata(t, key);
    r->dropped = dropped ? strtoull(dropped, NULL, 10) : 0;
    (void)snprintf(key, sizeof key, "fallback %.480s", r->name);
    const char *why = ml_tensors_metadata(t, key);
    r->fallback = why ? ml_arena_strndup(arena, why, strlen(why)) : NULL;
}

static void recall(struct ml_job *job, size_t layer, const struct ml_tensors *t) {
    for (size_t i = job->plan.first[layer]; i < job->plan.first[layer + 1]; i++) {
        recall_tensor(t, job->report->arena, &job->report->tensors[i]);
        if (job->plan.tensors[i].bits != ML_BITS_PLAIN)
            job->weights_done += ml_plan_weights(&job->plan.tensors[i]);
    }
}

/* The layer that is made as number `step`; the head counts as the last one. */
static size_t layer_of_step(const struct ml_job *job, size_t step) {
    return job->settings->optimize ? job->plan.layers - step : step;
}

/* The part of an earlier run, or NULL: a part that is damaged is made again. */
static struct ml_tensors *open_done(const struct ml_job *job, size_t layer) {
    char path[PATH_MAX];
    struct ml_tensors *t = NULL;
    struct marlin_error why = {0};
    if (ml_checkpoint_part(job, layer, path, &why) != MARLIN_OK) return NULL;
    const marlin_status st = ml_part_open(path, &t, &why);
    if (st != MARLIN_OK && st != MARLIN_ERR_NOT_FOUND) ml_log(ML_LOG_WARN, "%s: made again", why.text);
    return st == MARLIN_OK ? t : NULL;
}

/* The number of layers that are done. */
static size_t count_done(struct ml_job *job) {
    size_t step = 0;
    for (; step <= job->plan.layers; step++) {
        const size_t layer = layer_of_step(job, step);
        struct ml_tensors *t = open_done(job, layer);
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
        ML_TRY(do_layer(job, l, err));
        if (ml_clock_seconds() - saved < hidden_every) continue;
        ML_TRY(ml_checkpoint_save_hidden(job, l + 1, false, err));
        saved = ml_clock_seconds();
    }
    ML_TRY(ml_job_quantize_head(job, err));
out:
    return st;
}

/* It comes first: a number in it that is none ends the job before hours of work. */
static marlin_status do_embedding(struct ml_job *job, struct marlin_error *err) {
    struct ml_quantize_tensor *r = &job->report->embedding;
    struct ml_part part = {0};
    marlin_status st = MARLIN_OK;
    if (job->plan.embedding_bits == ML_BITS_PLAIN) return st;
    *r = (struct ml_quantize_tensor){.name = "model.embed_tokens", .bits = job->plan.embedding_bits};
    struct ml_tensors *done = open_done(job, job->plan.layers + 1);
    if (done) {
        recall_tensor(done, job->report->arena, r);
        goto out;
    }
    st = ml_part_add_int8(&part, job->plan.embedding, &job->model->embedding, &r->proxy_error, err);
    if (st != MARLIN_OK) {
        st = ml_fail_in(err, st, "%s", r->name);
        goto out;
    }
    ML_TRY(remember(&part, r, err));
    ML_TRY(ml_job_write_part(job, job->plan.layers + 1, &part, err));
    ml_job_release(job, job->plan.layers);
out:
    ml_tensors_close(done);
    ml_part_free(&part);
    return st;
}

static marlin_status do_layers(struct ml_job *job, struct marlin_error *err) {
    marlin_status st;
    ML_TRY(do_embedding(job, err));
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
out:
    close_job(job);
    ml_free(job);
    if (st != MARLIN_OK) ml_quantize_report_free(report);
    return st;
}
