/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes told apart: UTF-8, text, and files that are mistaken for text or for one another.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/text.h"

#include <string.h>

static void utf8_is_told_from_what_is_none(void **state) {
    static const struct {
        const char *bytes;
        size_t n, length;
    } cases[] = {
        {"a", 1, 1},
        {"\xc3\xa9", 2, 2},
        {"\xe2\x82\xac", 3, 3},
        {"\xf0\x9f\x90\x9f", 4, 4},
        {"\xc3", 1, 0},             /* cut */
        {"\xf0\x9f\x90", 3, 0},     /* cut */
        {"\xc0\x80", 2, 0},         /* longer than needed */
        {"\xe0\x80\x80", 3, 0},     /* longer than needed */
        {"\xed\xa0\x80", 3, 0},     /* a surrogate */
        {"\xf4\x90\x80\x80", 4, 0}, /* beyond U+10FFFF */
        {"\xff", 1, 0},
        {"\x80", 1, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(ml_utf8_length((const unsigned char *)cases[i].bytes, cases[i].n), cases[i].length);
}

static void other_files_are_named(void **state) {
    static const struct {
        const char *bytes, *said;
        size_t n;
    } cases[] = {
#define CASE(bytes, said) {bytes, said, sizeof(bytes) - 1}
        CASE("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
        CASE("GGUF\3\0\0\0", "GGUF"),
        CASE("PAR1\x15\4", "Parquet"),
        CASE("\x1f\x8b\x08\0", "gzip"),
        CASE("\xff\xfeh\0i\0", "UTF-16"),
        CASE("PK\3\4\0\0", "zip"),
        CASE("\n  <!DOCTYPE html><html>401</html>", "web page"),
        CASE("<HTML>", "web page"),
        CASE("\x40\1\0\0\0\0\0\0{\"__meta", "safetensors"),
#undef CASE
    };
    (void)state;
    struct marlin_error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ml_json_doc *doc = NULL;
        const char *said = ml_sniff(cases[i].bytes, cases[i].n);
        assert_non_null(said);
        assert_non_null(strstr(said, cases[i].said));
        assert_int_equal(ml_text_check(cases[i].bytes, cases[i].n, &err), MARLIN_ERR_FORMAT);
        assert_non_null(strstr(err.text, "not a text, but "));
        assert_non_null(strstr(err.text, cases[i].said));
        /* The reader of JSON says so too, whatever file it reads. */
        assert_int_equal(ml_json_parse(cases[i].bytes, cases[i].n, NULL, &doc, &err), MARLIN_ERR_FORMAT);
        assert_non_null(strstr(err.text, cases[i].said));
    }
    assert_null(ml_sniff("Once upon a time", 16));
    assert_null(ml_sniff("{\"a\": 1}", 8));
    assert_null(ml_sniff("", 0));
    assert_null(ml_sniff("<p>", 3));
}

static void text_is_let_through(void **state) {
    static const char text[] = "Fish: \xf0\x9f\x90\x9f\r\n\tand more \xc3\xa9";
    (void)state;
    struct marlin_error err;
    assert_int_equal(ml_text_check(text, sizeof text - 1, &err), MARLIN_OK);
    assert_int_equal(ml_text_check("", 0, &err), MARLIN_OK);
    assert_int_equal(ml_text_check("ab\0c", 4, &err), MARLIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "byte 2 is NUL"));
    assert_int_equal(ml_text_check("caf\xe9s", 5, &err), MARLIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "not UTF-8 from byte 3"));
    assert_int_equal(ml_text_check("caf\xc3", 4, &err), MARLIN_ERR_FORMAT);
}

static void what_is_no_json_is_shown_by_its_beginning(void **state) {
    struct ml_json_doc *doc = NULL;
    struct marlin_error err;
    (void)state;
    assert_int_equal(ml_json_parse("  # Metal Marlin\n", 17, NULL, &doc, &err), MARLIN_ERR_FORMAT);
    assert_string_equal(err.text, "not JSON: begins with '# Metal Marlin' (offset 2)");
    char shown[ML_BEGINNING];
    ml_beginning("0123456789012345678901\xc3\xa9", 24, shown);
    assert_string_equal(shown, "0123456789012345678901"); /* no half of a character */
    ml_beginning("\1\2", 2, shown);
    assert_string_equal(shown, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_is_told_from_what_is_none),
        cmocka_unit_test(other_files_are_named),
        cmocka_unit_test(text_is_let_through),
        cmocka_unit_test(what_is_no_json_is_shown_by_its_beginning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
