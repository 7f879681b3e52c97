/* SPDX-License-Identifier: Apache-2.0
 *
 * Strict JSON: what is refused and where, exact integers, members, limits, failing allocations.
 */
#include "base/json.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

static marlin_status parse(const char *text, struct ml_json_doc **doc, struct marlin_error *err) {
    return ml_json_parse(text, strlen(text), NULL, doc, err);
}

static void refuses_malformed_text(void **state) {
    (void)state;
    static const char *const texts[] = {"",
                                        " ",
                                        "01",
                                        "-",
                                        "1.",
                                        ".5",
                                        "1e",
                                        "+1",
                                        "Nan",
                                        "Inf",
                                        "+Infinity",
                                        "--Infinity",
                                        "-NaN",
                                        "tru",
                                        "[1,]",
                                        "[1 2]",
                                        "{\"a\":1,}",
                                        "{a:1}",
                                        "{\"a\" 1}",
                                        "1 2",
                                        "\"a",
                                        "\"\\x\"",
                                        "\"\\u12\"",
                                        "\"\\ud800\"",
                                        "\"\\udc00\"",
                                        "\"\t\"",
                                        "\"\x80\"",
                                        "\"\xc0\xaf\"",
                                        "\"\xed\xa0\x80\"",
                                        "\"\xf4\x90\x80\x80\"",
                                        "\xef\xbb\xbf 1",
                                        "{\"a\":1,\"a\":2}",
                                        "{\"a\":1,\"\\u0061\":2}",
                                        "\"\\ud800\\u0041\"",
                                        "[",
                                        "{"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct ml_json_doc *doc = NULL;
        struct marlin_error err = {0};
        assert_int_equal(parse(texts[i], &doc, &err), MARLIN_ERR_FORMAT);
        assert_null(doc);
        assert_non_null(strstr(err.text, "offset"));
    }
}

static void says_the_offset(void **state) {
    (void)state;
    struct ml_json_doc *doc = NULL;
    struct marlin_error err = {0};
    assert_int_equal(parse("[1, x]", &doc, &err), MARLIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "offset 4"));
}

/* NUL is a character; who asks for no length cannot be given such a string cut short. */
static void strings_may_hold_nul(void **state) {
    (void)state;
    struct ml_json_doc *doc = NULL;
    size_t len = 0;
    assert_int_equal(parse("{\"a\\u0000b\":\"c\\u0000d\",\"a\":\"e\"}", &doc, NULL), MARLIN_OK);
    const struct ml_json *root = ml_json_root(doc), *v = ml_json_first(root);
    assert_memory_equal(ml_json_key(v, &len), "a\0b", 4);
    assert_int_equal(len, 3);
    assert_memory_equal(ml_json_string(v, &len), "c\0d", 4);
    assert_int_equal(len, 3);
    assert_null(ml_json_string(v, NULL));
    assert_string_equal(ml_json_string(ml_json_get(root, "a"), NULL), "e");
    ml_json_free(doc);
}

/* What Python's json writes and reads: there, but no number for whoever asks. */
static void no_numbers(void **state) {
    (void)state;
    struct ml_json_doc *doc = NULL;
    assert_int_equal(parse("[NaN, Infinity ,-Infinity]", &doc, NULL), MARLIN_OK);
    assert_int_equal(ml_json_count(ml_json_root(doc)), 3);
    for (const struct ml_json *v = ml_json_first(ml_json_root(doc)); v; v = ml_json_next(v)) {
        int64_t i;
        uint64_t u;
        double d;
        assert_int_equal(ml_json_type(v), ML_JSON_NUMBER);
        assert_false(ml_json_i64(v, &i) || ml_json_u64(v, &u) || ml_json_double(v, &d));
    }
    ml_json_free(doc);
}

static void keeps_integers_exact(void **state) {
    (void)state;
    struct ml_json_doc *doc = NULL;
    assert_int_equal(parse("[9007199254740993,18446744073709551615,18446744073709551616,"
                           "-9223372036854775808,-9223372036854775809,-0,1.0,1e2,1e999]",
                           &doc, NULL),
                     MARLIN_OK);
    const struct ml_json *v[9], *c = ml_json_first(ml_json_root(doc));
    for (int i = 0; i < 9; i++, c = ml_json_next(c)) {
        v[i] = c;
    }
    assert_null(c);
    int64_t i;
    uint64_t u;
    double d;
    assert_true(ml_json_i64(v[0], &i) && i == 9007199254740993);
    assert_true(ml_json_u64(v[1], &u) && u == UINT64_MAX);
    assert_false(ml_json_i64(v[1], &i));
    assert_false(ml_json_u64(v[2], &u));
    assert_true(ml_json_i64(v[3], &i) && i == INT64_MIN);
    assert_false(ml_json_u64(v[3], &u));
    for (int k = 4; k < 9; k++) {
        assert_false(ml_json_i64(v[k], &i));
    }
    assert_true(ml_json_double(v[7], &d) && d == 100.0);
    assert_false(ml_json_double(v[8], &d));
    ml_json_free(doc);
}

static void decodes_strings(void **state) {
    (void)state;
    struct ml_json_doc *doc = NULL;
    size_t len = 0;
    assert_int_equal(parse(" \"\\u00e9\\ud83d\\ude00\\n\\/\\\"\" ", &doc, NULL), MARLIN_OK);
    const char *s = ml_json_string(ml_json_root(doc), &len);
    assert_int_equal(len, 9);
    assert_memory_equal(s, "\xc3\xa9\xf0\x9f\x98\x80\n/\"", 9);
    ml_json_free(doc);
}

/* Both sides of the size from which an object is indexed. */
static void finds_members(void **state) {
    (void)state;
    for (int n = 0; n < 40; n++) {
        char text[1024] = "{", key[16];
        size_t at = 1;
        for (int i = 0; i < n; i++) {
            at += (size_t)snprintf(text + at, sizeof text - at, "%s\"k%d\":%d", i ? "," : "", i, i * 3);
        }
        (void)snprintf(text + at, sizeof text - at, "}");
        struct ml_json_doc *doc = NULL;
        assert_int_equal(parse(text, &doc, NULL), MARLIN_OK);
        assert_int_equal(ml_json_count(ml_json_root(doc)), n);
        for (int i = 0; i < n; i++) {
            int64_t v = -1;
            (void)snprintf(key, sizeof key, "k%d", i);
            assert_true(ml_json_i64(ml_json_get(ml_json_root(doc), key), &v) && v == i * 3);
        }
        assert_null(ml_json_get(ml_json_root(doc), "k"));
        ml_json_free(doc);
        if (n == 0) continue;
        (void)snprintf(text + at, sizeof text - at, ",\"k%d\":0}", n - 1);
        assert_int_equal(parse(text, &doc, NULL), MARLIN_ERR_FORMAT);
    }
}

static void enforces_limits(void **state) {
    (void)state;
    const struct ml_json_limits limits = {.max_bytes = 12, .max_depth = 3, .max_values = 4};
    struct ml_json_doc *doc = NULL;
    assert_int_equal(ml_json_parse("[[1]]", 5, &limits, &doc, NULL), MARLIN_OK);
    ml_json_free(doc);
    assert_int_equal(ml_json_parse("[[[1]]]", 7, &limits, &doc, NULL), MARLIN_ERR_LIMIT);
    assert_int_equal(ml_json_parse("[1,1,1]", 7, &limits, &doc, NULL), MARLIN_OK);
    ml_json_free(doc);
    assert_int_equal(ml_json_parse("[1,1,1,1]", 9, &limits, &doc, NULL), MARLIN_ERR_LIMIT);
    assert_int_equal(ml_json_parse("1            ", 13, &limits, &doc, NULL), MARLIN_ERR_LIMIT);
}

static void survives_failing_allocations(void **state) {
    (void)state;
    const char *text = "{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,\"f\":6,\"g\":7,\"h\":8,\"i\":9,"
                       "\"j\":10,\"k\":11,\"l\":12,\"m\":[\"x\",null]}";
    marlin_status st = MARLIN_ERR_MEMORY;
    uint64_t n = 1;
    for (; st != MARLIN_OK && n < 100; n++) {
        struct ml_json_doc *doc = NULL;
        ml_mem_fail_at(n);
        st = parse(text, &doc, NULL);
        ml_mem_fail_at(0);
        assert_true(st == MARLIN_OK ? doc != NULL : st == MARLIN_ERR_MEMORY && !doc);
        ml_json_free(doc);
    }
    assert_int_equal(st, MARLIN_OK);
    assert_true(n > 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(refuses_malformed_text),
                                       cmocka_unit_test(says_the_offset),
                                       cmocka_unit_test(keeps_integers_exact),
                                       cmocka_unit_test(strings_may_hold_nul),
                                       cmocka_unit_test(no_numbers),
                                       cmocka_unit_test(decodes_strings),
                                       cmocka_unit_test(finds_members),
                                       cmocka_unit_test(enforces_limits),
                                       cmocka_unit_test(survives_failing_allocations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
