/* SPDX-License-Identifier: Apache-2.0
 *
 * A tiny model of each architecture as a GGUF file against the logits of the Hugging Face directory that it was made
 * from (scripts/dev/gguf_fixtures.py): names, order of rows, norms, experts, windows and rotary position.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "feed.h"
#include "models/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { TOKENS = 24, VOCAB = 48 };

static void compare(const char *name) {
    char path[512];
    struct marlin_error err = {0};
    struct ml_model *m = NULL;
    struct feed f;
    int32_t ids[TOKENS];
    static float logits[TOKENS * VOCAB];
    char *want = NULL;
    size_t len = 0;
    double worst = 0;
    for (int i = 0; i < TOKENS; i++)
        ids[i] = (7 * i + 3) % VOCAB;
    (void)snprintf(path, sizeof path, "%s/tests/golden/gguf/%s.f32", MARLIN_SOURCE_DIR, name);
    assert_int_equal(ml_file_slurp(path, 1 << 20, &want, &len, &err), MARLIN_OK);
    assert_int_equal(len, sizeof logits);
    (void)snprintf(path, sizeof path, "%s/tests/golden/gguf/%s.gguf", MARLIN_SOURCE_DIR, name);
    if (ml_model_load(path, NULL, &m, &err) != MARLIN_OK) fail_msg("%s: %s", name, err.text);
    assert_int_equal(feed_open_as(&f, m, NULL, TOKENS, TOKENS, ML_F32, &err), MARLIN_OK);
    assert_int_equal(ml_feed(f.work, f.sequence, ids, TOKENS, ML_LOGITS_ALL, logits, &err), MARLIN_OK);
    for (size_t i = 0; i < TOKENS * VOCAB; i++) {
        float w;
        memcpy(&w, want + i * sizeof w, sizeof w);
        worst = fmax(worst, fabs((double)w - (double)logits[i]));
    }
    printf("%s: %.2e\n", name, worst);
    if (!(worst < 1e-4)) fail_msg("%s: logits differ by %g", name, worst);
    feed_close(&f);
    ml_model_free(m);
    ml_free(want);
}

static void all_architectures(void **state) {
    static const char *const names[] = {"llama",     "llama_bias", "mistral", "mixtral", "qwen2",  "qwen3",
                                        "qwen3_moe", "phi3",       "olmo2",   "smollm3", "gemma2", "gemma3"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        compare(names[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_architectures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
