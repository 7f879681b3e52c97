/* SPDX-License-Identifier: Apache-2.0
 *
 * Constructs that Oniguruma and PCRE2 read differently: matches as tokenizers 0.23 has them.
 */
#include "hostile.h"

#include "tokenizer/tokenizer_int.h"

/* Marks the matches of a pattern: "a<bc>d". */
static void assert_matches(const char *pattern, const char *text, const char *wanted) {
    struct ml_regex *r = NULL;
    struct ml_regex_run *run = NULL;
    struct marlin_error err = {0};
    struct ml_buf out;
    const size_t len = strlen(text);
    size_t done = 0, from = 0, start, end;
    bool found = true;
    ml_buf_init(&out, 1 << 16);
    if (ml_regex_compile(pattern, strlen(pattern), &r, &err) != MARLIN_OK) fail_msg("%s", err.text);
    assert_int_equal(ml_regex_run_create(len, &run), MARLIN_OK);
    while (from <= len) {
        assert_int_equal(ml_regex_find(r, run, text, len, from, &start, &end, &found, &err), MARLIN_OK);
        if (!found) break;
        assert_int_equal(ml_buf_addf(&out, "%.*s<%.*s>", (int)(start - done), text + done, (int)(end - start),
                                     text + start),
                         MARLIN_OK);
        done = end;
        from = end;
        if (start == end) { /* empty: the next may start behind the next character */
            if (end == len) break;
            uint32_t cp;
            from += ml_utf8_get(text + end, &cp);
        }
    }
    assert_int_equal(ml_buf_adds(&out, text + done), MARLIN_OK);
    if (strcmp(out.data, wanted) != 0) fail_msg("%s on \"%s\": %s, not %s", pattern, text, out.data, wanted);
    ml_buf_free(&out);
    ml_regex_run_free(run);
    ml_regex_free(r);
}

/* The numbers of Latin-1 are words alone and none in a class; joiners are neither, marks are both. */
static void words(void **state) {
    (void)state;
    assert_matches("\\w+", "a\xc2\xbd_ \xc2\xb2", "<a\xc2\xbd_> <\xc2\xb2>");
    assert_matches("[\\w]+", "a\xc2\xbd_ \xc2\xb2", "<a>\xc2\xbd<_> \xc2\xb2");
    assert_matches("\\W+", "a\xc2\xbd \xe2\x80\x8d_", "a\xc2\xbd< \xe2\x80\x8d>_");
    assert_matches("\\w+", "e\xcc\x81\xe2\x80\x8dx", "<e\xcc\x81>\xe2\x80\x8d<x>");
    assert_matches("[^\\w]", "\xc2\xb3", "<\xc2\xb3>");
}

static void boundaries(void **state) {
    (void)state;
    assert_matches("\\b", "ab\xc2\xbd \xc3\xa9\xcc\x81x", "<>ab\xc2\xbd<> <>\xc3\xa9\xcc\x81x<>");
    assert_matches("a\\b", "a\xc2\xbd a a\xcc\x81", "a\xc2\xbd <a> a\xcc\x81");
    assert_matches("\\B", "ab\xc2\xbd \xc3\xa9", "a<>b<>\xc2\xbd \xc3\xa9");
    assert_matches("[\\b]", "a\bb", "a<\b>b");
}

static void spaces_and_lines(void **state) {
    (void)state;
    assert_matches("\\s", "a\xe1\xa0\x8e\xe2\x80\x80\xc2\x85", "a\xe1\xa0\x8e<\xe2\x80\x80><\xc2\x85>");
    assert_matches("[^\\S]", "a b", "a< >b");
    assert_matches("^a$", "b\na\nc", "b\n<a>\nc");
    assert_matches(".", "a\n", "<a>\n");
    assert_matches("\\p{Greek}", "\xce\xb1\xcd\x82",
                   "<\xce\xb1>\xcd\x82"); /* the script, not its extensions */
    assert_matches("a{2}b{1,}", "aabb", "<aabb>");
    assert_matches("a++b?+", "aab", "<aab>");
}

/* Letters behind a backslash that mean nothing to Oniguruma are themselves; PCRE2 knows \pL. */
static void letters_that_are_themselves(void **state) {
    (void)state;
    assert_matches("\\pL+", "Hello pLLx", "Hello <pLL>x");
    assert_matches("[\\pL]+", "HepLlo", "He<pL>lo");
    assert_matches("\\PL", "aPL", "a<PL>");
    assert_matches("\\i\\l", "ilx", "<il>x");
    assert_matches("\\x{41}+\\x42", "AAB", "<AAB>");
    assert_matches("[\\u0041-\\x{43}]+", "ABCD", "<ABC>D");
}

/* A class inside a class is joined to it, && binds least, and ^ in front is for all of it. */
static void classes_in_classes(void **state) {
    (void)state;
    assert_matches(" ?[^(\\s|[.,!?])]+", "ab, c (2)!", "<ab>,< c> (<2>)!");
    assert_matches("[a[^b]]+", "abc", "<a>b<c>");
    assert_matches("[^[^a]]+", "aab", "<aa>b");
    assert_matches("[[^a]b]+", "abc", "a<bc>");
    assert_matches("[a-c&&[b-d]]+", "abcd", "a<bc>d");
    assert_matches("[^a-c&&[b-d]]+", "abcd", "<a>bc<d>");
    assert_matches("[a-f&&[^c]&&\\w]+", "abcdefg", "<ab>c<def>g");
    assert_matches("[^a[^b]]+", "abc", "a<b>c");
    assert_matches("[]a]+", "a]b", "<a]>b");
    assert_matches("[a[]b]]+", "a]b[", "<a]b>[");
    assert_matches("[a-c-e]+", "abc-e!", "<abc-e>!");
    assert_matches("[[a]-z]+", "a-bz", "<a->b<z>");
    assert_matches("[a^&-]+", "a^&-b", "<a^&->b");
    assert_matches("[^\\W\\d]+", "a1b!", "<a>1<b>!");
    assert_matches("[\\W]+", "a!\xc2\xbd", "a<!\xc2\xbd>");
    assert_matches("[[:]a]+", "a:b", "<a:>b");
}

static void names_of_sets(void **state) {
    (void)state;
    assert_matches("[[:alpha:]]+", "Hello, x1", "<Hello>, <x>1");
    assert_matches("\\p{Alpha}", "\xcd\xa3\xcc\x81",
                   "<\xcd\xa3>\xcc\x81");                            /* U+0363, alphabetic since Unicode 16 */
    assert_matches("[[:lower:]]", "\xe1\x83\xbc", "<\xe1\x83\xbc>"); /* U+10FC */
    assert_matches("[^[:alpha:][:space:]]+", "a1 !b", "a<1> <!>b");
    assert_matches("[[:^alpha:]]+", "a1!b", "a<1!>b");
    assert_matches("[[:punct:]]+", "a$!b", "a<$!>b"); /* with symbols in brackets, */
    assert_matches("\\p{Punct}+", "a$!b", "a$<!>b");  /* without them as a property */
    assert_matches("\\p{Letter}+|\\p{Decimal_Number}", "ab1", "<ab><1>");
    assert_matches("\\p{lowercase letter}+", "abA", "<ab>A");
    assert_matches("\\p{^Alpha}", "a1", "a<1>");
    assert_matches("\\P{^Alpha}", "a1", "<a>1");
    assert_matches("[\\P{Upper}]", "aA", "<a>A");
    assert_matches("\\p{Emoji}+", "a1\xf0\x9f\x98\x80", "a<1\xf0\x9f\x98\x80>");
    assert_matches("\\p{word}[\\p{word}]", "\xc2\xbd\xc2\xbd\xc2\xbd_", "\xc2\xbd\xc2\xbd<\xc2\xbd_>");
    assert_matches("\\H+[\\H]", "agha", "a<gh>a");
}

/* m is what PCRE2 calls s. */
static void options(void **state) {
    (void)state;
    assert_matches("(?m:a.)b", "a\nb", "<a\nb>");
    assert_matches("(?im:a.B)", "A\nb", "<A\nb>");
    assert_matches("(?i-m:a.)", "A\nAb", "A\n<Ab>");
    assert_matches("c|(?i)a|b", "ABC", "<A><B>C");
    assert_matches("(?:(?i)ab|c)+", "aBCx", "<aBC>x");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words),
        cmocka_unit_test(boundaries),
        cmocka_unit_test(spaces_and_lines),
        cmocka_unit_test(letters_that_are_themselves),
        cmocka_unit_test(classes_in_classes),
        cmocka_unit_test(names_of_sets),
        cmocka_unit_test(options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
