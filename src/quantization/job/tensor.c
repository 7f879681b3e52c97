/* SPDX-License-Identifier: Apache-2.0
 *
 * One tensor of a job: its codec, its quantized form in a part, and what is remembered of it there.
 */
#include "quantization/job/job.h"

#include "base/checked.h"
#include "base/log.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const double sigma = 0.025;

marlin_status ml_job_codec(struct ml_job *job, int bits, const struct ml_codec **out,
                           struct marlin_error *err) {
    const struct ml_quantize_settings *s = job->settings;
    struct ml_codec *c = &job->codec[bits];
    const enum ml_cpu_tier tier = ml_kernels()->tier;
    const struct ml_effort *effort = ml_effort_of(s->effort);
    const int window = bits <= 4 ? effort->window : effort->wide_window;
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

marlin_status ml_job_remember(struct ml_part *part, const struct ml_quantize_tensor *t,
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
    ML_TRY(ml_job_remember(part, result, err));
    job->weights_done += ml_plan_weights(t);
    if (s->on_tensor)
        s->on_tensor(s->user, t->layer, job->plan.layers, job->weights_done, job->weights,
                     result->proxy_error);
    if (s->cancel && *s->cancel)
        st = ml_fail(err, MARLIN_ERR_CANCELLED, "interrupted in %s", t->linear->name);
out:
    return st;
}

/* ---- parts ---- */

marlin_status ml_job_write_part(struct ml_job *job, size_t layer, const struct ml_part *part,
                                struct marlin_error *err) {
    char path[PATH_MAX];
    const marlin_status st = ml_checkpoint_part(job, layer, path, err);
    return st != MARLIN_OK ? st : ml_part_write(part, path, err);
}

struct ml_tensors *ml_job_open_part(const struct ml_job *job, size_t layer) {
    char path[PATH_MAX];
    struct ml_tensors *t = NULL;
    struct marlin_error why = {0};
    if (ml_checkpoint_part(job, layer, path, &why) != MARLIN_OK) return NULL;
    const marlin_status st = ml_part_open(path, &t, &why);
    if (st != MARLIN_OK && st != MARLIN_ERR_NOT_FOUND) ml_log(ML_LOG_WARN, "%s: made again", why.text);
    return st == MARLIN_OK ? t : NULL;
}

void ml_job_recall(const struct ml_tensors *t, struct ml_arena *arena, struct ml_quantize_tensor *r) {
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
