/* SPDX-License-Identifier: Apache-2.0
 *
 * The embedded model's tokenizer gives the ids and texts of Hugging Face tokenizers on 6000 random strings
 * over all scripts, emoji, controls and broken UTF-8.
 */
#include "vectors.h"

static void same_ids_and_text(void **state) {
    struct ml_tokenizer *t = NULL;
    struct marlin_error err;
    (void)state;
    if (ml_tokenizer_load(MARLIN_SOURCE_DIR "/models/marlin-chat", 4096, &t, &err) != MARLIN_OK)
        fail_msg("%s", err.text);
    assert_int_equal(
        check_vectors(t, MARLIN_SOURCE_DIR "/tests/golden/tokenizer/marlin-chat.vec", 0, CHECK_DECODE), 6000);
    ml_tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_ids_and_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
