/* SPDX-License-Identifier: Apache-2.0
 *
 * One sequence: truncation forgets, errors change nothing, layers can be run alone and watched, and how
 * tokens are fed does not change what an int8 cache holds.
 */
#include "make_model.h"

#include "guard.h"

enum { VOCAB = 256 };

static struct ml_model *model;

static int load(void **state) {
    (void)state;
    model = make_load(MARLIN_SOURCE_DIR "/tests/golden/fixtures/qwen3_moe");
    return 0;
}

static int unload(void **state) {
    (void)state;
    ml_model_free(model);
    return 0;
}

static struct ml_state *new_state(size_t ctx, size_t batch) {
    struct ml_state *s = NULL;
    assert_int_equal(ml_state_create(model, NULL, ctx, batch, &s, NULL), MARLIN_OK);
    return s;
}

static void feed(struct ml_state *s, const int32_t *ids, size_t n, float *logits) {
    struct marlin_error err;
    const enum ml_logits which = logits ? ML_LOGITS_LAST : ML_LOGITS_NONE;
    if (ml_model_forward(model, s, ids, n, which, logits, &err) != MARLIN_OK) fail_msg("%s", err.text);
}

static void truncation_forgets(void **state) {
    static const int32_t wrong[] = {9, 9, 9, 9};
    float clean[VOCAB], again[VOCAB];
    (void)state;
    struct ml_state *a = new_state(32, 8), *b = new_state(32, 8);
    feed(a, make_prompt, 5, NULL);
    feed(a, make_prompt + 5, 7, clean);

    feed(b, make_prompt, 5, NULL);
    feed(b, wrong, 4, NULL);
    ml_state_truncate(b, 5);
    assert_int_equal(ml_state_length(b), 5);
    feed(b, make_prompt + 5, 7, again);
    assert_memory_equal(clean, again, sizeof(clean));

    ml_state_truncate(b, 0);
    feed(b, make_prompt, 5, NULL);
    feed(b, make_prompt + 5, 7, again);
    assert_memory_equal(clean, again, sizeof(clean));
    ml_state_free(a);
    ml_state_free(b);
}

/* Rows and scales of the first n positions. */
static void same_cache(const struct ml_kv *a, const struct ml_kv *b, size_t n) {
    const size_t dim = a->shape.head_dim;
    for (size_t l = 0; l < a->shape.layers; l++)
        for (size_t h = 0; h < a->shape.kv_heads; h++) {
            const size_t at = h * a->head_stride, scale = h * a->scale_stride;
            assert_memory_equal((int8_t *)ml_kv_k(a, l) + at, (int8_t *)ml_kv_k(b, l) + at, n * dim);
            assert_memory_equal((int8_t *)ml_kv_v(a, l) + at, (int8_t *)ml_kv_v(b, l) + at, n * dim);
            assert_memory_equal(ml_kv_k_scales(a, l) + scale, ml_kv_k_scales(b, l) + scale, n * 4);
            assert_memory_equal(ml_kv_v_scales(a, l) + scale, ml_kv_v_scales(b, l) + scale, n * 4);
            for (size_t p = 0; p < n; p++)
                assert_true(ml_kv_k_scales(a, l)[scale + p] > 0 && ml_kv_v_scales(a, l)[scale + p] > 0);
        }
}

static struct ml_state *new_i8(struct ml_pool *pool) {
    struct ml_state *s = NULL;
    assert_int_equal(ml_state_create_as(model, pool, MAKE_PROMPT, MAKE_PROMPT, ML_I8, &s, NULL), MARLIN_OK);
    return s;
}

static void int8_is_the_same_however_fed(void **state) {
    static const size_t steps[] = {1, 5, 7};
    float whole[VOCAB], pieces[VOCAB];
    struct ml_pool *pool = NULL;
    (void)state;
    assert_int_equal(ml_pool_create(3, &pool, NULL), MARLIN_OK);
    struct ml_state *a = new_i8(NULL);
    feed(a, make_prompt, MAKE_PROMPT, whole);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct ml_state *b = new_i8(i ? pool : NULL);
        for (size_t at = 0; at < MAKE_PROMPT; at += steps[i])
            feed(b, make_prompt + at, MAKE_PROMPT - at < steps[i] ? MAKE_PROMPT - at : steps[i], pieces);
        same_cache(&a->kv, &b->kv, MAKE_PROMPT);
        assert_memory_equal(whole, pieces, sizeof whole);
        ml_state_free(b);
    }
    ml_state_free(a);
    ml_pool_free(pool);
}

static void refuse(struct ml_state *s, const int32_t *ids, size_t n, marlin_status status, const char *what) {
    struct marlin_error err;
    const size_t before = ml_state_length(s);
    assert_int_equal(ml_model_forward(model, s, ids, n, ML_LOGITS_NONE, NULL, &err), status);
    assert_non_null(strstr(err.text, what));
    assert_int_equal(ml_state_length(s), before);
}

static void errors_leave_the_state_as_it_was(void **state) {
    static const int32_t below[] = {1, 2, -1}, above[] = {1, 2, VOCAB};
    float clean[VOCAB], after[VOCAB];
    (void)state;
    struct ml_state *a = new_state(12, 8), *b = new_state(12, 8);
    assert_int_equal(ml_state_capacity(b), 12);
    feed(a, make_prompt, 6, NULL);
    feed(a, make_prompt + 6, 6, clean);

    feed(b, make_prompt, 6, NULL);
    refuse(b, make_prompt, 7, MARLIN_ERR_LIMIT, "context is full");
    refuse(b, make_prompt, 9, MARLIN_ERR_ARGUMENT, "9 tokens");
    refuse(b, make_prompt, 0, MARLIN_ERR_ARGUMENT, "0 tokens");
    refuse(b, below, 3, MARLIN_ERR_ARGUMENT, "id -1");
    refuse(b, above, 3, MARLIN_ERR_ARGUMENT, "id 256");
    feed(b, make_prompt + 6, 6, after);
    assert_memory_equal(clean, after, sizeof(clean));
    refuse(b, make_prompt, 1, MARLIN_ERR_LIMIT, "context is full");
    ml_state_free(a);
    ml_state_free(b);
}

static void the_last_logits_are_the_last_of_all(void **state) {
    float last[VOCAB], *all = make_logits(model);
    (void)state;
    struct ml_state *s = new_state(MAKE_PROMPT, MAKE_PROMPT);
    feed(s, make_prompt, MAKE_PROMPT, last);
    for (size_t i = 0; i < VOCAB; i++) {
        const float d = last[i] - all[(MAKE_PROMPT - 1) * VOCAB + i];
        assert_true(d < 1e-5f && d > -1e-5f);
    }
    ml_free(all);
    ml_state_free(s);
}

static void layers_run_alone(void **state) {
    const size_t hidden = (size_t)model->config->hidden_size;
    float *x = ml_alloc(MAKE_PROMPT * hidden * sizeof(float));
    (void)state;
    assert_non_null(x);
    struct ml_state *whole = new_state(MAKE_PROMPT, MAKE_PROMPT), *parts = new_state(MAKE_PROMPT, 4);
    feed(whole, make_prompt, MAKE_PROMPT, NULL); /* its x holds the hidden rows now */

    ml_embed(model, parts, make_prompt, MAKE_PROMPT, x);
    for (size_t l = 0; l < (size_t)model->config->num_layers; l++) {
        for (size_t at = 0; at < MAKE_PROMPT; at += 4) {
            ml_layer_forward(model, parts, l, x + at * hidden, 4, at);
        }
    }
    assert_int_equal(ml_state_length(parts), 0);
    for (size_t i = 0; i < MAKE_PROMPT * hidden; i++) {
        const float d = x[i] - whole->x[i];
        assert_true(d < 1e-4f && d > -1e-4f);
    }
    ml_free(x);
    ml_state_free(whole);
    ml_state_free(parts);
}

/* ---- the observer ---- */

struct seen {
    size_t calls, rows_of_experts, q, head;
};

static void observe(void *user, const struct ml_linear *l, const float *x, size_t ldx, size_t n) {
    struct seen *s = user;
    s->calls++;
    assert_int_equal(ldx, l->in);
    for (size_t i = 0; i < n * ldx; i++)
        assert_true(x[i] - x[i] == 0); /* finite */
    if (strstr(l->name, ".experts.") && strstr(l->name, ".down_proj")) s->rows_of_experts += n;
    if (strcmp(l->name, "model.layers.0.self_attn.q_proj") == 0) s->q += n;
    if (strcmp(l->name, "lm_head") == 0) s->head += n;
}

static void linears_are_watched_by_name(void **state) {
    struct seen seen = {0};
    size_t linears = 0;
    float logits[VOCAB];
    (void)state;
    struct ml_state *s = new_state(MAKE_PROMPT, MAKE_PROMPT);
    s->observe = observe;
    s->observe_user = &seen;
    feed(s, make_prompt, MAKE_PROMPT, logits);
    /* Layer 0 is dense, layer 1 sends each token to 4 experts. */
    assert_int_equal(seen.rows_of_experts, 4 * MAKE_PROMPT);
    assert_int_equal(seen.q, MAKE_PROMPT);
    assert_int_equal(seen.head, 1);
    for (size_t i = 0; i < 2; i++)
        linears += model->layers[i].n_sites;
    assert_true(seen.calls <= linears + 1);
    ml_state_free(s);
}

/* ---- figures ---- */

static void estimates_cover_what_is_allocated(void **state) {
    struct ml_memory_estimate e;
    size_t kv = 0, scratch = 0;
    (void)state;
    struct ml_state *s = new_state(100, 16);
    assert_int_equal(ml_kv_bytes(&s->kv.shape, &kv, NULL), MARLIN_OK);
    assert_int_equal(ml_scratch_layout(model->config, 16, 100, NULL, &scratch, NULL), MARLIN_OK);
    assert_int_equal(ml_model_estimate(model->config, 1000, 100, 16, ML_F32, &e, NULL), MARLIN_OK);
    assert_int_equal(e.weights, 1000);
    assert_int_equal(e.kv, kv);
    assert_true(e.scratch >= scratch);
    assert_int_equal(e.total, e.weights + e.kv + e.state + e.scratch);
    ml_state_free(s);

    s = new_i8(NULL);
    assert_int_equal(ml_model_estimate(model->config, 1000, MAKE_PROMPT, 16, ML_I8, &e, NULL), MARLIN_OK);
    assert_int_equal(e.kv, s->kv.buffer.bytes);
    ml_state_free(s);

    struct marlin_error err;
    assert_int_equal(ml_model_estimate(model->config, 0, SIZE_MAX / 2, 16, ML_F16, &e, &err),
                     MARLIN_ERR_LIMIT);
    assert_int_equal(ml_model_estimate(model->config, UINT64_MAX, 100, 16, ML_F16, &e, &err),
                     MARLIN_ERR_LIMIT);
}

static void sizes_are_those_of_the_tensors(void **state) {
    const uint64_t h = 128, attention = 128 * h * 2 + 64 * h * 2, dense = 3 * 256 * h, expert = 3 * 128 * h;
    const uint64_t norms = 2 * (2 * h + 2 * 32) + h, router = 8 * h, head = 256 * h;
    (void)state;
    assert_int_equal(ml_model_parameters(model),
                     2 * head + 2 * attention + dense + router + 8 * expert + norms);
    assert_int_equal(ml_model_bytes_per_token(model),
                     2 * (head + 2 * attention + dense + router + 4 * expert));
    assert_int_equal(ml_model_weight_bytes(model), 2 * (ml_model_parameters(model) - norms) + 4 * norms);
}

static void random_models_have_the_shape_and_repeat(void **state) {
    const struct ml_model_options options = {.kv_dtype = ML_F32};
    const struct ml_random_format plain = {.bits = 16}, seven = {.bits = 7};
    struct ml_model *m[3];
    float *logits[3];
    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ml_model_random(model->config, &plain, i < 2 ? 1 : 2, &options, &m[i], NULL),
                         MARLIN_OK);
        logits[i] = make_logits(m[i]);
    }
    assert_int_equal(ml_model_parameters(m[0]), ml_model_parameters(model));
    assert_int_equal(ml_model_bytes_per_token(m[0]), ml_model_bytes_per_token(model));
    assert_memory_equal(logits[0], logits[1], MAKE_PROMPT * VOCAB * sizeof(float));
    assert_memory_not_equal(logits[0], logits[2], MAKE_PROMPT * VOCAB * sizeof(float));
    for (size_t i = 0; i < MAKE_PROMPT * VOCAB; i++)
        assert_true(logits[0][i] - logits[0][i] == 0);
    for (int i = 0; i < 3; i++) {
        ml_free(logits[i]);
        ml_model_free(m[i]);
    }
    struct marlin_error err;
    assert_int_equal(ml_model_random(model->config, &seven, 1, &options, &m[0], &err),
                     MARLIN_ERR_UNSUPPORTED);
    struct ml_config huge = *model->config;
    huge.vocab_size = (int64_t)1 << 40;
    assert_int_equal(ml_model_random(&huge, &plain, 1, &options, &m[0], &err), MARLIN_ERR_MEMORY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(truncation_forgets),
        cmocka_unit_test(int8_is_the_same_however_fed),
        cmocka_unit_test(errors_leave_the_state_as_it_was),
        cmocka_unit_test(the_last_logits_are_the_last_of_all),
        cmocka_unit_test(layers_run_alone),
        cmocka_unit_test(linears_are_watched_by_name),
        cmocka_unit_test(estimates_cover_what_is_allocated),
        cmocka_unit_test(sizes_are_those_of_the_tensors),
        cmocka_unit_test(random_models_have_the_shape_and_repeat),
    };
    return cmocka_run_group_tests(tests, load, unload) + guard_clean(NULL);
}
