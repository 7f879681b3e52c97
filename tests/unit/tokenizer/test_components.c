/* SPDX-License-Identifier: Apache-2.0
 *
 * Every normalizer, pre-tokenizer and decoder that is supported, with added tokens of every kind, against
 * Hugging Face tokenizers: components.txt has one configuration a line, components-N.vec its strings.
 */
#include "vectors.h"

static void every_component(void **state) {
    (void)state;
    const char *dir = MARLIN_SOURCE_DIR "/tests/golden/tokenizer";
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/components.model", dir);
    const struct bytes model = read_all(path);
    (void)snprintf(path, sizeof path, "%s/components.txt", dir);
    const struct bytes lines = read_all(path);
    assert_non_null(model.data);
    assert_non_null(lines.data);
    size_t n = 0;
    for (char *line = lines.data; *line; n++) {
        char *end = strchr(line, '\n');
        assert_non_null(end);
        *end = '\0';
        const size_t cap = model.len + strlen(line) + 8;
        char *json = malloc(cap);
        (void)snprintf(json, cap, "{%s,%s}", model.data, line);
        (void)printf("%s\n", line);
        struct ml_tokenizer *t = NULL;
        struct marlin_error err;
        if (ml_tokenizer_from_json(json, strlen(json), 0, &t, &err) != MARLIN_OK) fail_msg("%s", err.text);
        (void)snprintf(path, sizeof path, "%s/components-%zu.vec", dir, n);
        /* Under a normalizer the reference decodes an added token in its normalized form; here it stays as
         * written. */
        assert_int_equal(check_vectors(t, path, 0, strstr(line, "\"normalizer\":null") ? CHECK_DECODE : 0),
                         60);
        ml_tokenizer_free(t);
        free(json);
        line = end + 1;
    }
    assert_true(n >= 40);
    free(model.data);
    free(lines.data);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_component)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
