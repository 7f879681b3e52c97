/* SPDX-License-Identifier: Apache-2.0
 *
 * Stop strings cut into many tokens: against a twin that looks at the whole text at once.
 */
#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/stop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Length of what may be shown: up to the stop string that is complete first, the longest of those that end
 * together. */
static size_t twin(const char *text, size_t len, const char *const *stop, size_t n, bool *found) {
    *found = false;
    for (size_t end = 1; end <= len; end++) {
        size_t longest = 0;
        for (size_t i = 0; i < n; i++) {
            const size_t m = strlen(stop[i]);
            if (m <= end && m > longest && strncmp(text + end - m, stop[i], m) == 0) longest = m;
        }
        if (longest) {
            *found = true;
            return end - longest;
        }
    }
    return len;
}

static void random_word(struct ml_rng *rng, char *dst, size_t least, size_t most) {
    const size_t n = least + (size_t)(ml_rng_u64(rng) % (most - least + 1));
    for (size_t i = 0; i < n; i++)
        dst[i] = (char)('a' + ml_rng_u64(rng) % 2);
    dst[n] = '\0';
}

static void check_text(struct ml_rng *rng, const char *text, const char *const *stop, size_t n) {
    struct ml_stop s;
    struct ml_buf out;
    bool found;
    const size_t len = strlen(text), want = twin(text, len, stop, n, &found);
    ml_buf_init(&out, 4096);
    assert_int_equal(ml_stop_init(&s, stop, n, 5, NULL), MARLIN_OK);
    assert_int_equal(ml_buf_reserve(&out, len), MARLIN_OK);
    const uint64_t before = ml_mem_count();
    for (size_t at = 0; at < len;) {
        size_t piece = 1 + (size_t)(ml_rng_u64(rng) % 5);
        if (piece > len - at) piece = len - at;
        const size_t was = out.len;
        assert_int_equal(ml_stop_push(&s, text + at, piece, &out), MARLIN_OK);
        assert_true(out.len - was <= ml_stop_most(&s, piece));
        at += piece;
    }
    assert_int_equal(ml_stop_finish(&s, &out), MARLIN_OK);
    assert_true(ml_mem_count() == before);
    assert_int_equal(s.found, found);
    assert_int_equal(out.len, want);
    if (want) assert_memory_equal(out.data, text, want);
    ml_buf_free(&out);
    ml_stop_free(&s);
}

static void equals_the_twin_on_random_texts(void **state) {
    (void)state;
    struct ml_rng rng;
    char text[64], words[3][16];
    const char *stop[3] = {words[0], words[1], words[2]};
    ml_rng_seed(&rng, 7);
    for (int round = 0; round < 20000; round++) {
        for (int i = 0; i < 3; i++)
            random_word(&rng, words[i], 2, 9);
        random_word(&rng, text, 1, 40);
        check_text(&rng, text, stop, (size_t)(ml_rng_u64(&rng) % 4));
    }
}

static void holds_back_only_what_may_become_a_stop_string(void **state) {
    (void)state;
    const char *const stop[] = {"\nUser:"};
    struct ml_stop s;
    struct ml_buf out;
    ml_buf_init(&out, 64);
    assert_int_equal(ml_stop_init(&s, stop, 1, 8, NULL), MARLIN_OK);
    assert_int_equal(ml_stop_push(&s, "hi\nUs", 5, &out), MARLIN_OK);
    assert_string_equal(out.data, "hi");
    assert_int_equal(ml_stop_push(&s, "ually", 5, &out), MARLIN_OK);
    assert_string_equal(out.data, "hi\nUsually");
    assert_int_equal(ml_stop_push(&s, "\nUser: x", 8, &out), MARLIN_OK);
    assert_true(s.found);
    assert_string_equal(out.data, "hi\nUsually");
    assert_int_equal(ml_stop_push(&s, "more", 4, &out), MARLIN_OK);
    assert_string_equal(out.data, "hi\nUsually");
    ml_buf_free(&out);
    ml_stop_free(&s);
}

static void empty_and_too_many_are_named(void **state) {
    (void)state;
    struct ml_stop s;
    struct marlin_error err;
    const char *const empty[] = {"a", ""};
    const char *many[ML_STOP_MAX + 1];
    for (size_t i = 0; i < ML_STOP_MAX + 1; i++)
        many[i] = "x";
    assert_int_equal(ml_stop_init(&s, empty, 2, 8, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "stop string 2"));
    assert_int_equal(ml_stop_init(&s, many, ML_STOP_MAX + 1, 8, &err), MARLIN_ERR_LIMIT);
    ml_stop_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_twin_on_random_texts),
        cmocka_unit_test(holds_back_only_what_may_become_a_stop_string),
        cmocka_unit_test(empty_and_too_many_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
