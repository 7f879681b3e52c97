/* SPDX-License-Identifier: Apache-2.0
 *
 * The interpreter against jinja2: every vector of scripts/dev/template_vectors.py has the same text, or fails in both.
 */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "chat/jinja.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char folder[] = MARLIN_SOURCE_DIR "/tests/unit/chat/";
enum { NOW = 1741529107 }; /* 2025-03-09 14:05:07 UTC, as the script has it */

/* Reads a file of lines, each of them JSON. */
struct lines {
    char *data;
    size_t len, at;
};

static void open_lines(struct lines *l, const char *name) {
    char path[1024];
    (void)snprintf(path, sizeof path, "%svectors/%s", folder, name);
    *l = (struct lines){0};
    assert_int_equal(ml_file_slurp(path, 64 << 20, &l->data, &l->len, NULL), MARLIN_OK);
}

static struct ml_json_doc *next_line(struct lines *l) {
    struct ml_json_doc *doc = NULL;
    struct marlin_error err = {0};
    if (l->at >= l->len) return NULL;
    const char *s = l->data + l->at, *end = memchr(s, '\n', l->len - l->at);
    assert_non_null(end);
    l->at += (size_t)(end - s) + 1;
    if (ml_json_parse(s, (size_t)(end - s), NULL, &doc, &err) != MARLIN_OK)
        fail_msg("%s: %.*s", err.text, (int)(end - s), s);
    return doc;
}

static marlin_status render(const char *text, size_t len, const struct ml_template_input *in,
                            struct ml_buf *out, struct marlin_error *err) {
    struct ml_template *t = NULL;
    marlin_status st = ml_template_compile("t", text, len, &t, err);
    if (st == MARLIN_OK) st = ml_template_render(t, in, out, err);
    ml_template_free(t);
    return st;
}

/* Whether the vector holds; says so where it does not. */
static int check(const struct ml_json *row, const char *text, size_t len,
                 const struct ml_template_input *in) {
    struct ml_buf out;
    struct marlin_error err = {0};
    size_t want_len = 0;
    const char *want = ml_json_string(ml_json_get(row, "o"), &want_len);
    ml_buf_init(&out, 1 << 24);
    const marlin_status st = render(text, len, in, &out, &err);
    int ok;
    if (want)
        ok = st == MARLIN_OK && out.len == want_len && (!want_len || memcmp(out.data, want, want_len) == 0);
    else
        ok = st != MARLIN_OK && err.text[0];
    if (!ok)
        print_message("template: %.*s\n   wanted: %s\n      got: %s %s\n", (int)len, text,
                      want ? want : ml_json_string(ml_json_get(row, "e"), NULL),
                      st == MARLIN_OK ? (out.data ? out.data : "") : marlin_status_name(st),
                      st == MARLIN_OK ? "" : err.text);
    ml_buf_free(&out);
    return ok;
}

static void equals_jinja2_on_templates_of_a_grammar(void **state) {
    struct lines l;
    struct ml_json_doc *contexts, *doc;
    int n = 0, bad = 0;
    (void)state;
    open_lines(&l, "fuzz.jsonl");
    contexts = next_line(&l);
    const struct ml_json *list = ml_json_get(ml_json_root(contexts), "contexts");
    for (; (doc = next_line(&l)); n++) {
        const struct ml_json *row = ml_json_root(doc), *context = ml_json_first(list);
        int64_t which = 0;
        size_t len = 0;
        assert_true(ml_json_i64(ml_json_get(row, "c"), &which));
        for (; which > 0; which--)
            context = ml_json_next(context);
        const struct ml_template_input in = {.request = context, .now = NOW};
        const char *text = ml_json_string(ml_json_get(row, "t"), &len);
        bad += !check(row, text, len, &in);
        ml_json_free(doc);
    }
    ml_json_free(contexts);
    ml_free(l.data);
    print_message("%d vectors, %d differ\n", n, bad);
    assert_true(n > 2000);
    assert_int_equal(bad, 0);
}

static void equals_jinja2_on_each_feature(void **state) {
    struct lines l;
    struct ml_json_doc *doc;
    int n = 0, bad = 0;
    (void)state;
    open_lines(&l, "features.jsonl");
    for (; (doc = next_line(&l)); n++) {
        const struct ml_json *row = ml_json_root(doc);
        const struct ml_template_input in = {.request = ml_json_get(row, "c"), .now = NOW};
        size_t len = 0;
        const char *text = ml_json_string(ml_json_get(row, "t"), &len);
        bad += !check(row, text, len, &in);
        ml_json_free(doc);
    }
    ml_free(l.data);
    assert_true(n > 80);
    assert_int_equal(bad, 0);
}

static marlin_status run(const char *text, const struct ml_template_limits *limits, struct ml_buf *out,
                         struct marlin_error *err) {
    const struct ml_template_input in = {.now = NOW, .limits = limits};
    return render(text, strlen(text), &in, out, err);
}

static void fails_as(const char *text, const struct ml_template_limits *limits, marlin_status want,
                     const char *says) {
    struct ml_buf out;
    struct marlin_error err = {0};
    ml_buf_init(&out, 1 << 20);
    const marlin_status st = run(text, limits, &out, &err);
    if (st != want || !strstr(err.text, says) || out.len)
        fail_msg("%s\n   gives %s: %s", text, marlin_status_name(st), err.text);
    ml_buf_free(&out);
}

static void names_the_limit_that_is_passed(void **state) {
    (void)state;
    const struct ml_template_limits small = {.max_steps = 1000, .max_output = 100, .max_memory = 100000};
    fails_as("{% for i in range(9999) %}{% endfor %}", &small, MARLIN_ERR_LIMIT, "max_steps");
    fails_as("{{ 'x' * 101 }}", &small, MARLIN_ERR_LIMIT, "max_output");
    fails_as("{{ ('x' * 200000)|length }}", &small, MARLIN_ERR_LIMIT, "max_memory");
    fails_as("{{ 'x' * 99999999999 * 99 }}", NULL, MARLIN_ERR_LIMIT, "max_memory");
    fails_as("{{ [0] * 9000000000000000000 }}", NULL, MARLIN_ERR_LIMIT, "max_memory");
    fails_as("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", NULL, MARLIN_ERR_LIMIT, "max_depth");
    fails_as("{% set ns = namespace(a=[]) %}{% for i in range(9999) %}{% set ns.a = [ns.a] %}{% endfor %}{{ "
             "ns.a }}",
             NULL, MARLIN_ERR_LIMIT, "max_depth");
    fails_as("{% set ns = namespace(a=1) %}{% for i in range(99) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}"
             "{{ ns.a == ns.a|list }}",
             NULL, MARLIN_ERR_LIMIT, "max_steps");
    fails_as(
        "{% set ns = namespace(a='x') %}{% for i in range(99) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
        NULL, MARLIN_ERR_LIMIT, "max_");
    char deep[1000] = "{{ ";
    memset(deep + 3, '(', 400);
    fails_as(deep, NULL, MARLIN_ERR_LIMIT, "max_depth");
}

static void says_where_and_why(void **state) {
    (void)state;
    fails_as("a\n  {{ x.y.z }}", NULL, MARLIN_ERR_FORMAT, "t, line 2, column 7: 'x' is undefined");
    fails_as("{{ raise_exception('Only users!') }}", NULL, MARLIN_ERR_ARGUMENT,
             "refuses the messages: Only users!");
    fails_as("\n{% include 'f' %}", NULL, MARLIN_ERR_UNSUPPORTED, "line 2, column 4: the tag \"include\"");
    fails_as("{{ 'a'|wordcount }}", NULL, MARLIN_ERR_UNSUPPORTED, "wordcount");
    fails_as("{{ 'a'|frobnicate }}", NULL, MARLIN_ERR_FORMAT, "there is no filter \"frobnicate\"");
    fails_as("{{ 'a'.zfill(3) }}", NULL, MARLIN_ERR_UNSUPPORTED, "zfill");
    fails_as("{{ 9223372036854775807 + 1 }}", NULL, MARLIN_ERR_UNSUPPORTED, "64 bits");
    fails_as("{{ 99999999999999999999 }}", NULL, MARLIN_ERR_UNSUPPORTED, "64 bits");
    fails_as("{% for x in y recursive %}{% endfor %}", NULL, MARLIN_ERR_UNSUPPORTED, "recursive");
    fails_as("{% if x %}", NULL, MARLIN_ERR_FORMAT, "ends before");
    fails_as("\xff", NULL, MARLIN_ERR_FORMAT, "not UTF-8");
}

static void reports_every_failing_allocation(void **state) {
    static const char text[] =
        "{% macro m(a, b=2) %}{{ a ~ b }}{% endmacro %}{% set x %}q{% endset %}"
        "{% for k, v in {'a': [1, 'x'], 'b': 2}|dictsort %}{{ m(k) }}{{ [v]|tojson(indent=1) }}{% endfor %}"
        "{{ 'a b'.split()|map('upper')|join(x) }}{{ '%s' % 1 }}{{ 'q'|replace('q', 'w')|indent }}";
    uint64_t n = 1;
    (void)state;
    for (bool done = false; !done; n++) {
        struct ml_buf out;
        ml_buf_init(&out, 1 << 20);
        ml_mem_fail_at(n);
        struct marlin_error err = {0};
        const marlin_status st = run(text, NULL, &out, &err);
        ml_mem_fail_at(0);
        if (st != MARLIN_OK) {
            assert_int_equal(st, MARLIN_ERR_MEMORY);
            assert_true(err.text[0]);
            assert_int_equal(out.len, 0);
        }
        done = st == MARLIN_OK;
        ml_buf_free(&out);
    }
    assert_true(n > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_jinja2_on_templates_of_a_grammar),
        cmocka_unit_test(equals_jinja2_on_each_feature),
        cmocka_unit_test(names_the_limit_that_is_passed),
        cmocka_unit_test(says_where_and_why),
        cmocka_unit_test(reports_every_failing_allocation),
    };
    setenv("TZ", "UTC", 1);
    return cmocka_run_group_tests_name("jinja", tests, NULL, NULL);
}
