/* SPDX-License-Identifier: Apache-2.0
 *
 * Many sequences a token at a time against the same sequences one by one.
 */
#include "make_model.h"

#include <math.h>

enum { LANES = 3, STEPS = 9, VOCAB = 256 };

static int32_t id_of(size_t lane, size_t step) {
    return (int32_t)((lane * 97 + step * 31 + lane * step) % VOCAB);
}

static void one_by_one(const struct ml_model *m, size_t lane, float *logits) {
    struct ml_state *s = NULL;
    int32_t ids[STEPS];
    for (size_t i = 0; i < STEPS; i++) {
        ids[i] = id_of(lane, i);
    }
    assert_int_equal(ml_state_create(m, NULL, STEPS, STEPS, &s, NULL), MARLIN_OK);
    assert_int_equal(ml_model_forward(m, s, ids, STEPS, ML_LOGITS_ALL, logits, NULL), MARLIN_OK);
    ml_state_free(s);
}

static void check(const char *fixture, struct ml_pool *pool) {
    char dir[MAKE_PATH];
    static float expected[LANES][STEPS * VOCAB], logits[LANES * VOCAB];
    struct ml_state *s = NULL;
    (void)snprintf(dir, sizeof dir, "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, fixture);
    struct ml_model *m = make_load(dir);
    assert_int_equal(ml_model_config(m)->vocab_size, VOCAB);
    assert_int_equal(ml_state_create(m, pool, (size_t)LANES * STEPS, LANES, &s, NULL), MARLIN_OK);
    for (size_t l = 0; l < LANES; l++) {
        one_by_one(m, l, expected[l]);
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
        check(fixtures[i], i % 2 ? pool : NULL);
    }
    ml_pool_free(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(lanes_equal_single_sequences)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
