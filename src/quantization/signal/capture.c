/* SPDX-License-Identifier: Apache-2.0
 *
 * The observer that turns a forward pass into Hessians.
 */
#include "quantization/signal/capture.h"

#include "base/checked.h"
#include "base/mem.h"
#include "models/layers/layers.h"

#include <string.h>

/* The linear that stands for all which read input i; NULL when nothing is added up for it. */
static const struct ml_linear *first_reader(const struct ml_layer *l, enum ml_input i) {
    const bool none = i == ML_INPUT_EXPERT_HIDDEN || i == ML_INPUT_LATENT;
    const struct ml_site *site = none ? NULL : ml_layer_input(l, i);
    return site ? site->linear : NULL;
}

/* The linear whose inputs are kept for the experts; NULL in a dense layer. */
static const struct ml_linear *kept_reader(const struct ml_layer *l) {
    return ml_layer_input(l, ML_INPUT_EXPERT_HIDDEN) ? first_reader(l, ML_INPUT_FFN) : NULL;
}

size_t ml_capture_bytes(const struct ml_layer *l, size_t tokens, int workers) {
    const struct ml_linear *kept = kept_reader(l);
    size_t bytes = kept ? tokens * kept->in * sizeof(float) : 0;
    for (int i = 0; i < ML_INPUTS; i++) {
        const struct ml_linear *reader = first_reader(l, (enum ml_input)i);
        if (reader) bytes += ml_hessian_bytes(reader->in, workers);
    }
    return bytes;
}

size_t ml_capture_expert_bytes(const struct ml_layer *l, int workers) {
    const struct ml_site *own = ml_layer_input(l, ML_INPUT_EXPERT_HIDDEN);
    return own ? ml_hessian_bytes(own->linear->in, workers) : 0;
}

static marlin_status keep_inputs(struct ml_capture *c, size_t width, struct marlin_error *err) {
    size_t count = 0;
    c->block_in = ml_mul_size(c->tokens, width, &count) ? ml_calloc(count, sizeof *c->block_in) : NULL;
    if (c->block_in) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY, "inputs of the experts of layer %zu: out of memory",
                   c->layer->index);
}

marlin_status ml_capture_create(struct ml_capture *c, const struct ml_layer *l, size_t tokens,
                                struct ml_pool *pool, struct marlin_error *err) {
    marlin_status st = MARLIN_OK;
    *c = (struct ml_capture){.layer = l, .kernels = ml_kernels(), .pool = pool, .tokens = tokens};
    for (int i = 0; i < ML_INPUTS; i++) {
        c->reader[i] = first_reader(l, (enum ml_input)i);
        if (c->reader[i]) ML_TRY(ml_hessian_create(&c->h[i], c->reader[i]->in, ml_pool_size(pool), err));
    }
    c->kept = kept_reader(l);
    if (c->kept) ML_TRY(keep_inputs(c, c->kept->in, err));
out:
    if (st != MARLIN_OK) ml_capture_free(c);
    return st;
}

void ml_capture_free(struct ml_capture *c) {
    for (int i = 0; i < ML_INPUTS; i++) {
        ml_hessian_free(&c->h[i]);
    }
    ml_free(c->block_in);
    memset(c, 0, sizeof *c);
}

static void keep_block_input(struct ml_capture *c, const float *x, size_t ldx, size_t n, size_t width) {
    for (size_t t = 0; t < n && c->seen < c->tokens; t++) {
        memcpy(c->block_in + c->seen++ * width, x + t * ldx, width * sizeof *x);
    }
}

/* q stands for k and v, gate or the router for what else reads its input. */
static void observe(void *user, const struct ml_linear *linear, const float *x, size_t ldx, size_t n) {
    struct ml_capture *c = user;
    for (int i = 0; i < ML_INPUTS; i++)
        if (linear == c->reader[i]) ml_hessian_add(&c->h[i], c->kernels, c->pool, x, ldx, n);
    if (linear == c->kept) keep_block_input(c, x, ldx, n, linear->in);
}

marlin_status ml_rows_forward(const struct ml_model *m, size_t layer, struct ml_rows *rows,
                              struct ml_capture *capture, struct ml_pool *pool,
                              const volatile sig_atomic_t *cancel, struct marlin_error *err) {
    const size_t hidden = (size_t)m->config->hidden_size;
    const struct ml_work_sizes row = {.rows = rows->width, .runs = 1, .positions = rows->width};
    struct ml_sequence *s = NULL;
    struct ml_work *w = NULL;
    marlin_status st;
    ML_TRY(ml_work_create(m, pool, &row, &w, err));
    ML_TRY(ml_sequence_create_alone(m, rows->width, rows->width, &s, err));
    if (capture) ml_work_observe(w, observe, capture);
    for (size_t r = 0; r < rows->rows; r++) {
        float *x = rows->x + r * rows->width * hidden;
        ML_TRY(ml_layer_forward(w, s, layer, x, rows->width, 0, err));
        if (!cancel || !*cancel) continue;
        st = ml_fail(err, MARLIN_ERR_CANCELLED, "interrupted in model.layers.%zu", layer);
        goto out;
    }
out:
    ml_sequence_free(s);
    ml_work_free(w);
    if (st == MARLIN_OK && m->tensors) st = ml_tensors_check(m->tensors, err);
    return st;
}

/* One chunk of the block's inputs through an expert's gate and up. */
static void expert_inputs(struct ml_step *s, const struct ml_mlp *e, const float *x, size_t n) {
    const struct ml_linear_job jobs[] = {ml_linear_job(&e->gate, s->pair_gate, x, n),
                                         ml_linear_job(&e->up, s->pair_up, x, n)};
    ml_linear_forward(s, jobs, 2);
    ml_glu_forward(s, s->pair_gate, s->pair_up, n, e->gate.out);
}

marlin_status ml_capture_expert(const struct ml_capture *c, const struct ml_model *m, size_t width,
                                const struct ml_mlp *expert, struct ml_hessian *h, struct marlin_error *err) {
    const struct ml_work_sizes row = {.rows = width, .runs = 1, .positions = width};
    struct ml_work *w = NULL;
    const marlin_status st = ml_work_create(m, c->pool, &row, &w, err);
    if (st != MARLIN_OK) return st;
    struct ml_step *s = ml_work_first(w);
    for (size_t at = 0; at < c->seen; at += width) {
        const size_t n = c->seen - at < width ? c->seen - at : width;
        expert_inputs(s, expert, c->block_in + at * expert->gate.in, n);
        ml_hessian_add(h, c->kernels, c->pool, s->pair_gate, expert->down.in, n);
    }
    ml_work_free(w);
    return MARLIN_OK;
}
