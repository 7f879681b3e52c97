/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.model files trained by the sentencepiece library give the library's own ids and texts.
 */
#include "vectors.h"

static void check(const char *name) {
    char path[4096];
    struct ml_tokenizer *t = NULL;
    struct marlin_error err;
    (void)snprintf(path, sizeof path, "%s/tests/golden/tokenizer/%s.model", MARLIN_SOURCE_DIR, name);
    const struct bytes model = read_all(path);
    assert_non_null(model.data);
    if (ml_tokenizer_from_sentencepiece(model.data, model.len, 0, &t, &err) != MARLIN_OK)
        fail_msg("%s", err.text);
    free(model.data); /* the tokenizer keeps nothing of it */
    (void)snprintf(path, sizeof path, "%s/tests/golden/tokenizer/%s.vec", MARLIN_SOURCE_DIR, name);
    assert_int_equal(check_vectors(t, path, 0, CHECK_DECODE), 700);
    ml_tokenizer_free(t);
}

static void bpe_with_byte_fallback(void **state) {
    (void)state;
    check("bpe");
}

static void bpe_with_unknown_characters(void **state) {
    (void)state;
    check("bpe-unk");
}

static void unigram(void **state) {
    (void)state;
    check("unigram");
}

static void unigram_with_nfkc_map_and_byte_fallback(void **state) {
    (void)state;
    check("unigram-byte");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bpe_with_byte_fallback),
        cmocka_unit_test(bpe_with_unknown_characters),
        cmocka_unit_test(unigram),
        cmocka_unit_test(unigram_with_nfkc_map_and_byte_fallback),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
