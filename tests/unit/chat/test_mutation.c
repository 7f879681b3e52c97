/* SPDX-License-Identifier: Apache-2.0
 *
 * Templates with bytes changed, cut out and taken from others: each compiles and renders, or gives a named error, within
 * its limits and well within a second. The first argument is how many (20000 by default).
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "chat/jinja.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64, ROOM = 16384 };
static long rounds = 20000;
static char *source[MOST];
static size_t length[MOST];
static size_t n_sources;
static uint64_t seed = 0x9e3779b97f4a7c15u;

static uint64_t next(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static int is_template(const struct dirent *e) {
    return strstr(e->d_name, ".jinja") != NULL;
}

static void load(void) {
    static const char folder[] = MARLIN_SOURCE_DIR "/tests/unit/chat/templates";
    struct dirent **names = NULL;
    const int n = scandir(folder, &names, is_template, alphasort);
    for (int i = 0; i < n; i++) {
        char path[1024];
        (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        if (n_sources < MOST)
            assert_int_equal(ml_file_slurp(path, ROOM / 2, &source[n_sources], &length[n_sources], NULL),
                             MARLIN_OK);
        n_sources++;
        free(names[i]);
    }
    free(names);
    assert_true(n_sources >= 15 && n_sources < MOST);
}

static bool word_char(char c) {
    return (c >= 'a' && c <= 'z') || c == '_';
}

/* A stretch of a template: a whole word where there is one at `at`, otherwise up to `most` bytes. */
static void stretch(const char *t, size_t n, size_t most, size_t *begin, size_t *end) {
    *begin = *end = next() % n;
    while (*begin > 0 && word_char(t[*begin]) && word_char(t[*begin - 1]))
        --*begin;
    while (*end < n && word_char(t[*end]))
        ++*end;
    if (*begin == *end) *end = *begin + next() % most < n ? *begin + next() % most : n;
    if (*end > n) *end = n;
}

static size_t splice(char *t, size_t n, size_t begin, size_t end, const char *from, size_t add) {
    if (n - (end - begin) + add >= ROOM) return n;
    memmove(t + begin + add, t + end, n - end);
    memcpy(t + begin, from, add);
    return n - (end - begin) + add;
}

/* Mostly words for words, so that much of what comes out still parses; then stretches, signs and bytes. */
static size_t mutate(char *t) {
    static const char *const signs[] = {"{{",
                                        "}}",
                                        "{%",
                                        "%}",
                                        "-%}",
                                        "|",
                                        "(",
                                        ")",
                                        "[",
                                        "]",
                                        " loop.",
                                        "messages",
                                        " * ",
                                        "~",
                                        "99999",
                                        " in ",
                                        ":",
                                        ",",
                                        "'",
                                        "\\",
                                        "|list",
                                        "**",
                                        " is ",
                                        " if ",
                                        "|tojson",
                                        "\xc3",
                                        "{#",
                                        "not ",
                                        "|sort",
                                        "{% for i in range(99999) %}",
                                        "{% endfor %}",
                                        "{% endif %}"};
    const size_t which = next() % n_sources;
    size_t n = length[which];
    memcpy(t, source[which], n);
    for (uint64_t changes = 1 + next() % 3; changes > 0 && n > 0; changes--) {
        const size_t other = next() % n_sources;
        size_t begin, end, from, to;
        stretch(t, n, next() % 8 ? 2 : 100, &begin, &end);
        stretch(source[other], length[other], 60, &from, &to);
        const char *sign = signs[next() % (sizeof signs / sizeof *signs)];
        const bool words = word_char(t[begin]) ? next() % 8 != 0 : next() % 4 == 0;
        if (words && !word_char(source[other][from])) continue;
        n = words ? splice(t, n, begin, end, source[other] + from, to - from)
                  : splice(t, n, begin, end, sign, strlen(sign));
        if (n && next() % 32 == 0) t[next() % n] = (char)next();
    }
    return n;
}

static void mutated_templates_end_in_text_or_a_named_error(void **state) {
    static char text[ROOM];
    static const struct ml_template_limits limits = {
        .max_output = 4 << 20, .max_memory = 64 << 20, .max_steps = 1 << 20};
    struct ml_json_doc *doc = NULL;
    char path[1024], *data = NULL;
    size_t len = 0;
    long compiled = 0, rendered = 0;
    double worst = 0;
    (void)state;
    load();
    (void)snprintf(path, sizeof path, "%s/tests/unit/chat/templates/conversations.json", MARLIN_SOURCE_DIR);
    assert_int_equal(ml_file_slurp(path, 1 << 20, &data, &len, NULL), MARLIN_OK);
    assert_int_equal(ml_json_parse(data, len, NULL, &doc, NULL), MARLIN_OK);
    for (long i = 0; i < rounds; i++) {
        const size_t n = mutate(text);
        struct ml_template *t = NULL;
        struct marlin_error err = {0};
        struct ml_buf out;
        const uint64_t start = ml_clock_ns();
        marlin_status st = ml_template_compile("m", text, n, &t, &err);
        ml_buf_init(&out, 4 << 20);
        if (st == MARLIN_OK) {
            const struct ml_json *request = ml_json_first(ml_json_root(doc));
            for (uint64_t k = next() % ml_json_count(ml_json_root(doc)); k > 0; k--)
                request = ml_json_next(request);
            const struct ml_template_input in = {.request = request, .limits = &limits, .now = 1741529107};
            st = ml_template_render(t, &in, &out, &err);
            compiled++;
            rendered += st == MARLIN_OK;
        }
        if (st != MARLIN_OK &&
            (!err.text[0] || st == MARLIN_ERR_INTERNAL || st == MARLIN_ERR_MEMORY || out.len))
            fail_msg("round %ld: %s %s", i, marlin_status_name(st), err.text);
        const double seconds = (double)(ml_clock_ns() - start) * 1e-9;
        if (seconds > worst) worst = seconds;
        ml_buf_free(&out);
        ml_template_free(t);
    }
    print_message("%ld templates, %ld compiled, %ld rendered; the slowest took %.3f s\n", rounds, compiled,
                  rendered, worst);
    assert_true(compiled > rounds / 20 && rendered > rounds / 100);
    assert_true(worst < 5); /* a second, on a machine that does much else, too */
    ml_json_free(doc);
    ml_free(data);
    for (size_t i = 0; i < n_sources; i++)
        ml_free(source[i]);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(mutated_templates_end_in_text_or_a_named_error)};
    if (argc > 1) rounds = strtol(argv[1], NULL, 10);
    return cmocka_run_group_tests_name("mutation", tests, NULL, NULL);
}
