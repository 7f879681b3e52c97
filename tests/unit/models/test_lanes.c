/* SPDX-License-Identifier: Apache-2.0
 *
 * Many sequences a token at a time against the same sequences one by one; a cache that was never fed.
 */
#include "make_model.h"

#include <math.h>

#include "guard.h"

enum { LANES = 3, STEPS = 9, VOCAB = 256 };

static int32_t id_of(size_t lane, size_t step) {
    return (int32_t)((lane * 97 + step * 31 + lane * step) % VOCAB);
}

static struct ml_state *state_as(const struct ml_model *m, struct ml_pool *pool, size_t ctx, size_t batch,
                                 enum ml_dtype kv) {
    struct ml_state *s = NULL;
    assert_int_equal(ml_state_create_as(m, pool, ctx, batch, kv, &s, NULL), MARLIN_OK);
    return s;
}

static void one_by_one(const struct ml_model *m, size_t lane, enum ml_dtype kv, float *logits) {
    int32_t ids[STEPS];
    for (size_t i = 0; i < STEPS; i++) {
        ids[i] = id_of(lane, i);
    }
    struct ml_state *s = state_as(m, NULL, STEPS, STEPS, kv);
    assert_int_equal(ml_model_forward(m, s, ids, STEPS, ML_LOGITS_ALL, logits, NULL), MARLIN_OK);
    ml_state_free(s);
}

/* What lanes left behind is in nobody's way. */
static void then_alone(const struct ml_model *m, struct ml_state *s, const float *expected) {
    float logits[VOCAB];
    for (size_t i = 0; i < STEPS; i++) {
        const int32_t id = id_of(1, i);
        assert_int_equal(ml_model_forward(m, s, &id, 1, ML_LOGITS_LAST, logits, NULL), MARLIN_OK);
        for (size_t v = 0; v < VOCAB; v++)
            assert_true(fabsf(logits[v] - expected[i * VOCAB + v]) < 1e-4f);
    }
}

static void check(const char *fixture, struct ml_pool *pool, enum ml_dtype kv) {
    char dir[MAKE_PATH];
    static float expected[LANES][STEPS * VOCAB], logits[LANES * VOCAB];
    (void)snprintf(dir, sizeof dir, "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, fixture);
    struct ml_model *m = make_load(dir);
    assert_int_equal(ml_model_config(m)->vocab_size, VOCAB);
    struct ml_state *s = state_as(m, pool, (size_t)LANES * STEPS, LANES, kv);
    for (size_t l = 0; l < LANES; l++) {
        one_by_one(m, l, kv, expected[l]);
    }
    for (size_t i = 0; i < STEPS; i++) {
        int32_t ids[LANES];
        for (size_t l = 0; l < LANES; l++) {
            ids[l] = id_of(l, i);
        }
        ml_lanes_forward(m, s, STEPS, ids, LANES, i, logits, NULL, NULL);
        for (size_t l = 0; l < LANES; l++) {
            for (size_t v = 0; v < VOCAB; v++) {
                assert_true(fabsf(logits[l * VOCAB + v] - expected[l][i * VOCAB + v]) < 1e-4f);
            }
        }
    }
    then_alone(m, s, expected[1]);
    ml_state_free(s);
    ml_model_free(m);
}

/* Grouped heads, sliding windows, tables that change with the length, experts. */
static void lanes_equal_single_sequences(void **state) {
    static const char *const fixtures[] = {"qwen3", "mistral_swa", "gemma3_text", "mixtral"};
    (void)state;
    struct ml_pool *pool = NULL;
    assert_int_equal(ml_pool_create(2, &pool, NULL), MARLIN_OK);
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        check(fixtures[i], i % 2 ? pool : NULL, ML_F32);
        check(fixtures[i], i % 2 ? NULL : pool, ML_I8);
    }
    ml_pool_free(pool);
}

/* Speed at a depth is measured on a cache with made-up contents: finite, everywhere, and not in the way
 * later. */
static void a_filled_cache_stands_for_a_prompt(void **state) {
    enum { DEPTH = 40 };
    static float clean[STEPS * VOCAB];
    float logits[LANES * VOCAB];
    const int32_t ids[LANES] = {1, 2, 3};
    struct ml_state *s = NULL;
    (void)state;
    struct ml_model *m = make_load(MARLIN_SOURCE_DIR "/tests/golden/fixtures/qwen3");
    one_by_one(m, 1, ML_F32, clean);
    assert_int_equal(ml_state_create(m, NULL, (size_t)LANES * (DEPTH + 1), LANES, &s, NULL), MARLIN_OK);
    ml_state_fill(s);
    assert_int_equal(ml_state_length(s), 0);
    ml_lanes_forward(m, s, DEPTH + 1, ids, LANES, DEPTH, logits, NULL, NULL);
    for (size_t i = 0; i < (size_t)LANES * VOCAB; i++)
        assert_true(isfinite(logits[i]));
    ml_state_assume(s, DEPTH);
    assert_int_equal(ml_model_forward(m, s, ids, 1, ML_LOGITS_LAST, logits, NULL), MARLIN_OK);
    assert_int_equal(ml_state_length(s), DEPTH + 1);
    for (size_t i = 0; i < VOCAB; i++)
        assert_true(isfinite(logits[i]));
    ml_state_assume(s, 0);
    then_alone(m, s, clean);
    ml_state_free(s);
    ml_model_free(m);
}

static void cache_bytes_are_those_that_are_seen(void **state) {
    static const struct {
        const char *fixture;
        size_t pos0, n, seen;
    } cases[] = {{"qwen3", 0, 1, 1},       {"qwen3", 99, 1, 100},      {"qwen3", 50, 20, 70},
                 {"mistral_swa", 4, 1, 5}, {"mistral_swa", 99, 1, 16}, {"mistral_swa", 50, 20, 35}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char dir[MAKE_PATH];
        (void)snprintf(dir, sizeof dir, "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, cases[i].fixture);
        struct ml_model *m = make_load(dir);
        const struct ml_config *c = ml_model_config(m);
        const uint64_t rows = (uint64_t)(2 * c->num_layers * c->num_kv_heads), dim = (uint64_t)c->head_dim;
        const struct {
            enum ml_dtype type;
            uint64_t bytes; /* of a row */
        } types[] = {{ML_F32, 4 * dim}, {ML_F16, 2 * dim}, {ML_I8, dim + 4}};
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            struct ml_state *s = state_as(m, NULL, 4, 1, types[t].type);
            assert_int_equal(ml_state_cache_bytes(s, cases[i].pos0, cases[i].n),
                             cases[i].seen * rows * types[t].bytes);
            ml_state_free(s);
        }
        ml_model_free(m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lanes_equal_single_sequences),
        cmocka_unit_test(a_filled_cache_stands_for_a_prompt),
        cmocka_unit_test(cache_bytes_are_those_that_are_seen),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
