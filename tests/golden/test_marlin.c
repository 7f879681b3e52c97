/* SPDX-License-Identifier: Apache-2.0
 *
 * The trained models against float32 logits by transformers: the embedded one, and its mixture-of-experts
 * sibling where the shared data is present.
 */
#include "golden.h"

#include <stdlib.h>

#include "guard.h"

static const double tolerance = 1e-3;

static void compare(const char *dir, const char *reference, enum ml_dtype kv) {
    const struct ml_model_options options = {.kv_dtype = kv};
    struct marlin_error err;
    struct ml_model *m = NULL;
    struct golden g;
    golden_ok(ml_model_load(dir, &options, &m, &err), &err);
    golden_open(&g, reference, false);
    assert_int_equal(g.vocab, ml_model_config(m)->vocab_size);
    const size_t chunks[] = {g.n, 50};
    for (int i = 0; i < 2; i++) {
        float *logits = golden_run(m, NULL, g.ids, g.n, chunks[i]);
        const double worst = golden_distance(logits, g.logits, g.n * g.vocab);
        print_message("%s by %zu, %s: max |difference| %.2e\n", dir, chunks[i], ml_dtype_name(kv), worst);
        assert_true(worst <= tolerance);
        ml_free(logits);
    }
    golden_close(&g);
    ml_model_free(m);
}

static void marlin_12m_equals_transformers(void **state) {
    (void)state;
    compare(MARLIN_SOURCE_DIR "/models/marlin-12m",
            MARLIN_SOURCE_DIR "/tests/golden/marlin-12m-logits.safetensors", ML_F32);
}

static void marlin_moe_12m_equals_transformers(void **state) {
    char dir[1024], reference[1088];
    const char *shared = getenv("MARLIN_SHARED");
    (void)state;
    (void)snprintf(dir, sizeof(dir), "%s/data/models/marlin-moe-12m", shared ? shared : "");
    (void)snprintf(reference, sizeof(reference), "%s/reference_logits256.safetensors", dir);
    if (!shared || !ml_path_exists(reference)) {
        print_message("skipped: there is no marlin-moe-12m below MARLIN_SHARED\n");
        skip();
    }
    compare(dir, reference, ML_F32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(marlin_12m_equals_transformers),
        cmocka_unit_test(marlin_moe_12m_equals_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
