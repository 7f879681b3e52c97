/* SPDX-License-Identifier: Apache-2.0
 *
 * What a model says of itself, and models of random weights.
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
        cmocka_unit_test(sizes_are_those_of_the_tensors),
        cmocka_unit_test(random_models_have_the_shape_and_repeat),
    };
    return cmocka_run_group_tests(tests, load, unload) + guard_clean(NULL);
}
