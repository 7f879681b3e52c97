/* SPDX-License-Identifier: Apache-2.0
 *
 * The trained models against float32 logits by transformers: the embedded ones, and others where the shared
 * data is present.
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

static void marlin_chat_equals_transformers(void **state) {
    (void)state;
    compare(MARLIN_SOURCE_DIR "/models/marlin-chat",
            MARLIN_SOURCE_DIR "/tests/golden/marlin-chat-logits.safetensors", ML_F32);
}

static void marlin_draft_equals_transformers(void **state) {
    (void)state;
    compare(MARLIN_SOURCE_DIR "/models/marlin-draft",
            MARLIN_SOURCE_DIR "/tests/golden/marlin-draft-logits.safetensors", ML_F32);
}

/* Longer references of trained models, which are not part of the repository. */
static void compare_shared(const char *name) {
    char dir[1024], reference[1088];
    const char *shared = getenv("MARLIN_SHARED");
    (void)snprintf(dir, sizeof(dir), "%s/data/models/%s", shared ? shared : "", name);
    (void)snprintf(reference, sizeof(reference), "%s/reference_logits256.safetensors", dir);
    if (!shared || !ml_path_exists(reference)) {
        print_message("skipped: there is no %s below MARLIN_SHARED\n", name);
        skip();
    }
    compare(dir, reference, ML_F32);
}

static void shared_chat(void **state) {
    (void)state;
    compare_shared("marlin-chat");
}

static void shared_dense(void **state) {
    (void)state;
    compare_shared("marlin-12m");
}

static void shared_moe(void **state) {
    (void)state;
    compare_shared("marlin-moe-12m");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(marlin_chat_equals_transformers),
        cmocka_unit_test(marlin_draft_equals_transformers),
        cmocka_unit_test(shared_chat),
        cmocka_unit_test(shared_dense),
        cmocka_unit_test(shared_moe),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
