/* SPDX-License-Identifier: Apache-2.0
 *
 * The forward pass: arguments are checked, then nothing can fail, allocate or lock.
 */
#include "base/mem.h"
#include "models/layers/layers.h"

#include <string.h>

enum { ROW_GRAIN = 16 };

/* ---- cosines of a call's positions ---- */

struct angles {
    const struct ml_rope *rope;
    const float *inv;
    float *cos, *sin;
    size_t pos0, step; /* step 0: every row is at pos0 */
};

static void angle_rows(void *arg, size_t begin, size_t end, int worker) {
    const struct angles *a = arg;
    const size_t half = a->rope->half;
    (void)worker;
    for (size_t t = begin; t < end; t++) {
        ml_rope_angles(a->rope, a->inv, a->pos0 + t * a->step, a->cos + t * half, a->sin + t * half);
    }
}

static void compute_angles(struct ml_state *s, const struct ml_rope *rope, float *cos, float *sin) {
    struct angles a = {rope, s->inv_freq, cos, sin, s->pos0, s->lane ? 0 : 1};
    ml_rope_frequencies(rope, s->pos0 + (s->lane ? 1 : s->n), s->inv_freq);
    if (s->n <= ROW_GRAIN)
        angle_rows(&a, 0, s->n, 0);
    else
        ml_pool_for(s->exec.pool, s->n, ROW_GRAIN, angle_rows, &a);
}

void ml_step_begin(struct ml_state *s, size_t n, size_t pos0) {
    s->n = n;
    s->pos0 = pos0;
    compute_angles(s, &s->model->rope, s->cos, s->sin);
    compute_angles(s, &s->model->rope_local, s->cos_local, s->sin_local);
}

void ml_layer_forward(const struct ml_model *m, struct ml_state *s, size_t layer, float *hidden, size_t n,
                      size_t pos0) {
    ml_mem_guard_begin("layer forward");
    ml_step_begin(s, n, pos0);
    m->arch->layer(s, &m->layers[layer], hidden);
    ml_mem_guard_end();
}

/* ---- the whole model ---- */

static marlin_status check_call(const struct ml_model *m, const struct ml_state *s, const int32_t *ids,
                                size_t n, enum ml_logits which, const float *logits,
                                struct marlin_error *err) {
    const size_t room = ml_state_capacity(s) - ml_state_length(s);
    if (s->model != m || n == 0 || n > s->max_batch || (which != ML_LOGITS_NONE && !logits)) {
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "forward: %zu tokens, between 1 and %zu are possible", n,
                       s->max_batch);
    }
    if (n > room) {
        return ml_fail(err, MARLIN_ERR_LIMIT,
                       "the context is full: %zu tokens after %zu of %zu: ask for a longer context", n,
                       ml_state_length(s), ml_state_capacity(s));
    }
    for (size_t t = 0; t < n; t++) {
        if (ids[t] >= 0 && (int64_t)ids[t] < m->config->vocab_size) continue;
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "token %zu has id %ld, the model knows 0 to %lld", t,
                       (long)ids[t], (long long)m->config->vocab_size - 1);
    }
    return MARLIN_OK;
}

static void run(const struct ml_model *m, struct ml_state *s, const int32_t *ids, size_t n,
                enum ml_logits which, float *logits) {
    const size_t hidden = (size_t)m->config->hidden_size;
    if (s->profile) ml_profile_begin(s->profile, n);
    ml_step_begin(s, n, s->kv.length);
    ml_embed(m, s, ids, n, s->x);
    ml_stage_done(s, ML_STAGE_EMBED);
    for (size_t i = 0; i < (size_t)m->config->num_layers; i++) {
        if (s->profile) s->profile->layer = (int)i;
        m->arch->layer(s, &m->layers[i], s->x);
    }
    if (s->profile) s->profile->layer = -1;
    if (which == ML_LOGITS_ALL) ml_head_forward(m, s, s->x, n, logits);
    if (which == ML_LOGITS_LAST) ml_head_forward(m, s, s->x + (n - 1) * hidden, 1, logits);
    if (s->profile) ml_profile_end(s->profile);
}

marlin_status ml_model_forward(const struct ml_model *m, struct ml_state *s, const int32_t *ids, size_t n,
                               enum ml_logits which, float *logits, struct marlin_error *err) {
    marlin_status st = check_call(m, s, ids, n, which, logits, err);
    if (st != MARLIN_OK) return st;
    ml_mem_guard_begin("model forward");
    run(m, s, ids, n, which, logits);
    ml_mem_guard_end();
    /* A file that was cut meanwhile gave zeros instead of weights. */
    if (m->tensors && !ml_tensors_intact(m->tensors)) st = ml_tensors_check(m->tensors, err);
    if (st == MARLIN_OK) s->kv.length += n;
    return st;
}

void ml_lanes_forward(const struct ml_model *m, struct ml_state *s, size_t lane, const int32_t *ids, size_t n,
                      size_t pos, float *logits, ml_layer_done_fn *done, void *user) {
    const size_t layers = (size_t)m->config->num_layers;
    ml_mem_guard_begin("lanes forward");
    s->lane = lane;
    ml_step_begin(s, n, pos);
    ml_embed(m, s, ids, n, s->x);
    for (size_t i = 0; i < layers; i++) {
        m->arch->layer(s, &m->layers[i], s->x);
        if (done) done(user, i);
    }
    ml_head_forward(m, s, s->x, n, logits);
    if (done) done(user, layers);
    s->lane = 0;
    ml_mem_guard_end();
}
