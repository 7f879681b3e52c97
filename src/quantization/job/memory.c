/* SPDX-License-Identifier: Apache-2.0
 *
 * How much memory a job takes at its peak, and keeping below a limit.
 */
#include "quantization/job/job.h"

#include "base/log.h"
#include "quantization/signal/curvature.h"

#include <string.h>

enum { LEAST_ROWS = 4 };
static const uint64_t program_bytes = (uint64_t)16 << 20; /* code, tokenizer, tables, names of tensors */

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* Bytes of the source's tensors that were made at load, which no release gives back: of block types in a GGUF
 * file. */
static uint64_t made_bytes(const struct ml_job *job) {
    uint64_t sum = 0;
    for (size_t i = 0; i < ml_tensors_count(job->model->tensors); i++) {
        const struct ml_tensor *t = ml_tensors_at(job->model->tensors, i);
        if (t->made) sum += t->bytes;
    }
    return sum;
}

/* Bytes of the source's other tensors of one layer; `layers` stands for all that belong to no layer. */
static uint64_t source_bytes(const struct ml_job *job, size_t layer) {
    uint64_t sum = 0;
    for (size_t i = 0; i < ml_tensors_count(job->model->tensors); i++) {
        const struct ml_tensor *t = ml_tensors_at(job->model->tensors, i);
        if (!t->made && ml_plan_layer_of(&job->plan, t->name) == layer) sum += t->bytes;
    }
    return sum;
}

static uint64_t state_bytes(const struct ml_job *job) {
    const struct ml_config *c = job->model->config;
    const struct ml_pages_sizes row = {.sequences = 1, .positions = job->width, .rows = job->width};
    const struct ml_work_sizes sizes = {.rows = job->width, .runs = 1, .positions = job->width};
    size_t kv = 0, work = 0;
    if (ml_config_cache_bytes(c, 0, 1, job->model->kv_dtype, &row, &kv, NULL) != MARLIN_OK ||
        ml_config_work_bytes(c, &sizes, &work, NULL) != MARLIN_OK)
        return UINT64_MAX / 8;
    return (uint64_t)kv + work + (uint64_t)ml_gemm_scratch() * (uint64_t)ml_pool_size(job->settings->pool);
}

static uint64_t cache_bytes(const struct ml_job *job) {
    const struct ml_config *c = job->model->config;
    const struct ml_pages_sizes row = {.sequences = 1, .positions = job->width, .rows = 1};
    size_t kv = 0;
    if (ml_config_cache_bytes(c, 0, (size_t)c->num_layers, (enum ml_dtype)ML_CALIBRATION_KV, &row, &kv,
                              NULL) != MARLIN_OK)
        return UINT64_MAX / 8;
    return (uint64_t)kv + (uint64_t)c->vocab_size * sizeof(float);
}

size_t ml_job_lanes(const struct ml_job *job) {
    const uint64_t limit = job->settings->max_memory / 4, usual = (uint64_t)1 << 30;
    const uint64_t room = limit && limit < usual ? limit : usual, lanes = room / cache_bytes(job);
    return lanes < 1 ? 1 : lanes < ML_CALIBRATION_LANES ? (size_t)lanes : ML_CALIBRATION_LANES;
}

/* The widest matrix of a layer in float32, the quantizer's own work on it, and what it becomes. */
static uint64_t matrix_bytes(const struct ml_job *job, size_t layer) {
    uint64_t most = 0, done = 0;
    for (size_t i = job->plan.first[layer]; i < job->plan.first[layer + 1]; i++) {
        const struct ml_plan_tensor *t = &job->plan.tensors[i];
        if (t->bits == ML_BITS_PLAIN) continue;
        const uint64_t weights = ml_plan_weights(t), bits = (uint64_t)(t->bits ? t->bits : 8);
        const uint64_t work = ml_quantize_linear_memory(t->linear->out, t->linear->in,
                                                        job->settings->optimize && layer < job->plan.layers,
                                                        ml_pool_size(job->settings->pool));
        const bool rows = bits == ML_BITS_INT8 && job->settings->format == ML_QUANTIZE_MARLIN;
        if (!rows) most = larger(most, weights * sizeof(float) + work);
        done += weights * bits / 8;
    }
    return most + 2 * done;
}

/* Before all else: the source's matrix and what it becomes. */
static void embedding_memory(const struct ml_job *job, struct ml_quantize_memory *out) {
    const struct ml_matrix *e = &job->model->embedding;
    memset(out, 0, sizeof *out);
    if (job->plan.embedding_bits == ML_BITS_PLAIN) return;
    out->weights = made_bytes(job);
    if (!job->model->embedding_from->made)
        out->weights += (uint64_t)e->rows * e->cols * ml_dtype_size(e->dtype);
    out->work = (uint64_t)e->rows * (e->cols + sizeof(float)) + program_bytes;
    out->total = out->weights + out->work;
}

static uint64_t hessian_bytes(const struct ml_job *job, size_t layer, size_t tokens) {
    const int workers = ml_pool_size(job->settings->pool);
    if (layer == job->plan.layers) return ml_hessian_bytes(job->model->head.in, workers);
    const struct ml_layer *l = &job->model->layers[layer];
    const uint64_t capture =
        (uint64_t)ml_capture_bytes(l, tokens, workers) + ml_capture_expert_bytes(l, workers);
    return job->settings->optimize ? larger(capture, ml_layer_curvature_bytes(l, job->width, workers))
                                   : capture;
}

/* What optimizing adds: first, measuring, a role's weights in float32, sample rows three times, logits; then
 * gradients. */
static uint64_t optimizing_bytes(const struct ml_job *job, size_t layer) {
    const size_t hidden = (size_t)job->model->config->hidden_size;
    uint64_t role[ML_ROLES] = {0}, most = 0;
    if (!job->settings->optimize) return 0;
    for (size_t i = job->plan.first[layer]; i < job->plan.first[layer + 1]; i++) {
        const struct ml_plan_tensor *t = &job->plan.tensors[i];
        role[t->role] += ml_plan_weights(t) * sizeof(float);
        most = larger(most, role[t->role]);
    }
    most += ((uint64_t)3 * ML_SAMPLE_TOKENS * hidden + (uint64_t)2 * ML_PROBE_ROWS * job->model->head.out) *
            sizeof(float);
    return larger(most, ml_backward_bytes(job->model, job->width, ml_pool_size(job->settings->pool)) +
                            (uint64_t)job->tokens * hidden * sizeof(float));
}

/* Sampling comes before all else. It reads all weights in turn: they are mapped at once, or two layers, the
 * embedding and the head. */
static void sampling_memory(const struct ml_job *job, size_t tokens, uint64_t state,
                            struct ml_quantize_memory *out) {
    const size_t layers = job->plan.layers, lanes = ml_calibration_lanes(tokens / job->width, job->lanes);
    uint64_t sum = 0, most = 0;
    for (size_t l = 0; l < layers; l++) {
        const uint64_t bytes = source_bytes(job, l);
        sum += bytes;
        most = larger(most, bytes + (l + 1 < layers ? source_bytes(job, l + 1) : 0));
    }
    memset(out, 0, sizeof *out);
    out->weights = made_bytes(job) + source_bytes(job, layers) + (job->streamed ? most : sum);
    out->work = lanes * cache_bytes(job) + state + program_bytes;
    out->total = out->weights + out->work;
}

void ml_job_memory(const struct ml_job *job, size_t tokens, struct ml_quantize_memory *out) {
    const size_t hidden = (size_t)job->model->config->hidden_size;
    const uint64_t state = state_bytes(job);
    memset(out, 0, sizeof *out);
    const uint64_t activations =
        (uint64_t)tokens * hidden * sizeof(float) + (uint64_t)tokens * sizeof(int32_t);
    for (size_t l = 0; l <= job->plan.layers; l++) {
        struct ml_quantize_memory m = {.activations = activations};
        m.weights =
            made_bytes(job) + source_bytes(job, l) + (l < job->plan.layers ? source_bytes(job, l + 1) : 0);
        m.hessians = hessian_bytes(job, l, tokens);
        m.work = larger(state, matrix_bytes(job, l)) + optimizing_bytes(job, l);
        m.total = m.weights + m.hessians + m.activations + m.work;
        m.work += program_bytes;
        m.total += program_bytes;
        if (m.total > out->total) *out = m;
    }
    struct ml_quantize_memory sampling, embedding;
    sampling_memory(job, tokens, state, &sampling);
    if (!job->settings->calib && sampling.total > out->total) *out = sampling;
    embedding_memory(job, &embedding);
    if (embedding.total > out->total) *out = embedding;
}

static double mib(uint64_t bytes) {
    return (double)bytes / (1 << 20);
}

marlin_status ml_job_fit_memory(struct ml_job *job, struct marlin_error *err) {
    const uint64_t limit = job->settings->max_memory;
    const size_t wanted = job->tokens;
    struct ml_quantize_memory m;
    ml_job_memory(job, job->tokens, &m);
    if (limit && m.total > limit && !job->settings->calib) {
        job->streamed = true;
        ml_job_memory(job, job->tokens, &m);
    }
    while (limit && m.total > limit && job->tokens > LEAST_ROWS * job->width) {
        job->tokens -= job->width;
        ml_job_memory(job, job->tokens, &m);
    }
    if (limit && m.total > limit)
        return ml_fail(
            err, MARLIN_ERR_MEMORY,
            "--max-memory: %.0f MiB are not enough: %.0f MiB are needed with as little as %zu calibration "
            "tokens (weights %.0f, Hessians %.0f, activations %.0f, work %.0f): allow more",
            mib(limit), mib(m.total), job->tokens, mib(m.weights), mib(m.hessians), mib(m.activations),
            mib(m.work));
    if (job->settings->on_memory)
        job->settings->on_memory(job->settings->user, &m, job->tokens, job->tokens < wanted ? wanted : 0);
    return MARLIN_OK;
}

static void advise(const struct ml_job *job, size_t layer,
                   void (*fn)(const struct ml_file *, uint64_t, uint64_t)) {
    for (size_t i = 0; i < ml_tensors_count(job->model->tensors); i++) {
        const struct ml_tensor *t = ml_tensors_at(job->model->tensors, i);
        if (ml_plan_layer_of(&job->plan, t->name) == layer) fn(t->file, t->offset, t->bytes);
    }
}

void ml_job_fetch(const struct ml_job *job, size_t layer) {
    advise(job, layer, ml_file_prefetch);
}

void ml_job_release(const struct ml_job *job, size_t layer) {
    advise(job, layer, ml_file_drop);
}
