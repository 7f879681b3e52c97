/* SPDX-License-Identifier: Apache-2.0
 *
 * Progress in a log (no terminal): silent while fast or quiet, a line after ten seconds, no division by zero.
 * On a terminal: never wider than it, percent and the time left of what is left.
 */
#include "base/clock.h"
#include "base/progress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char text[4096];

/* Runs fn with stderr in a file and leaves what it wrote in `text`. */
static void capture(void (*fn)(void)) {
    FILE *file = tmpfile();
    assert_non_null(file);
    (void)fflush(stderr);
    const int saved = dup(STDERR_FILENO);
    assert_true(saved >= 0);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    fn();
    (void)fflush(stderr);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    (void)close(saved);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    (void)fclose(file);
}

static void fast(void) {
    struct ml_progress p;
    ml_progress_begin(&p, "work", 100, false);
    for (uint64_t i = 0; i <= 100; i++) {
        ml_progress_update(&p, i, NULL);
    }
    ml_progress_end(&p);
}

static void slow(void) {
    struct ml_progress p;
    ml_progress_begin(&p, "work", 200, false);
    p.start_ns = p.shown_ns = ml_clock_ns() - 11ull * 1000 * 1000 * 1000;
    ml_progress_update(&p, 100, "tensor x");
    ml_progress_update(&p, 101, "tensor y");
    ml_progress_end(&p);
}

static void quiet(void) {
    struct ml_progress p;
    ml_progress_begin(&p, "work", 200, true);
    p.shown_ns = 0;
    ml_progress_update(&p, 100, NULL);
    ml_progress_end(&p);
}

static void nothing_to_do(void) {
    struct ml_progress p;
    ml_progress_begin(&p, "work", 0, false);
    p.shown_ns = 0;
    ml_progress_update(&p, 0, NULL);
    ml_progress_end(&p);
}

static void fast_is_silent(void **state) {
    (void)state;
    capture(fast);
    assert_string_equal(text, "");
}

static void slow_shows_one_line_in_ten_seconds(void **state) {
    (void)state;
    capture(slow);
    assert_int_equal(strncmp(text, "work: 50%, 0:11 left  tensor x\n", 31), 0);
    assert_null(strstr(text, "tensor y"));
    assert_non_null(strstr(text, "work: 50%, "));
}

static void quiet_is_silent(void **state) {
    (void)state;
    capture(quiet);
    assert_string_equal(text, "");
}

static void zero_total(void **state) {
    (void)state;
    capture(nothing_to_do);
    assert_string_equal(text, "work: 0\nwork: 0\n");
}

static const uint64_t second = 1000u * 1000 * 1000;

static void a_line_is_never_wider_than_the_terminal(void **state) {
    (void)state;
    static const char *const notes[] = {NULL, "", "layer 3 of 30, error 0.00270",
                                        "caf\xc3\xa9 caf\xc3\xa9 caf\xc3\xa9"};
    char line[ML_PROGRESS_LINE];
    for (uint64_t total = 0; total <= 134479872; total = total * 1000 + 7)
        for (size_t width = 0; width < 200; width++)
            for (size_t n = 0; n < sizeof notes / sizeof *notes; n++) {
                const struct ml_progress p = {.label = "quantizing", .total = total, .done = total / 3};
                ml_progress_line(&p, 3 * second, notes[n], width, line);
                size_t columns = 0;
                for (const char *c = line; *c; c++)
                    columns += ((unsigned char)*c & 0xc0) != 0x80;
                assert_true(width == 0 ? columns == 0 : columns < width);
                assert_true(line[0] == '\0' || line[0] == 'q');
            }
}

static void what_does_not_fit_goes_in_order(void **state) {
    (void)state;
    static const struct {
        size_t width;
        const char *line;
    } cases[] = {
        {120, "quantizing [########--------] 50%  0:10 left  layer 3 of 30"},
        {50, "quantizing [########--------] 50%  0:10 left  lay"},
        {40, "quantizing [#####------] 50%  0:10 left"},
        {31, "quantizing 50%  0:10 left  lay"},
        {27, "quantizing 50%  0:10 left"},
        {20, "quantizing 50%"},
        {8, "quantiz"},
    };
    const struct ml_progress p = {.label = "quantizing", .total = 200, .done = 100};
    char line[ML_PROGRESS_LINE];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ml_progress_line(&p, 10 * second, "layer 3 of 30", cases[i].width, line);
        assert_string_equal(line, cases[i].line);
    }
}

/* A job that goes on at 90 % has 10 of 100 left, of which it did 5 in ten seconds: ten more. */
static void time_left_is_judged_by_this_run(void **state) {
    (void)state;
    char line[ML_PROGRESS_LINE];
    struct ml_progress p = {.label = "job", .total = 100};
    ml_progress_skip(&p, 90);
    ml_progress_line(&p, 10 * second, NULL, 20, line);
    assert_string_equal(line, "job 90%  -:-- left");
    p.done = 95;
    ml_progress_line(&p, 10 * second, NULL, 20, line);
    assert_string_equal(line, "job 95%  0:10 left");
    p.done = 99;
    p.total = 100000;
    ml_progress_line(&p, 10 * second, NULL, 30, line);
    assert_non_null(strstr(line, " 0%"));
    p.done = 99999;
    ml_progress_line(&p, 10 * second, NULL, 30, line);
    assert_non_null(strstr(line, " 99%")); /* not 100 before the end */
}

static void one_that_never_began_or_has_ended(void) {
    struct ml_progress p = {0};
    ml_progress_update(&p, 5, "x");
    ml_progress_end(&p);
    ml_progress_begin(&p, "work", 10, false);
    ml_progress_end(&p);
    p.shown_ns = 0;
    ml_progress_update(&p, 5, "x");
    ml_progress_end(&p);
}

static void ended_is_silent(void **state) {
    (void)state;
    capture(one_that_never_began_or_has_ended);
    assert_string_equal(text, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_is_never_wider_than_the_terminal),
        cmocka_unit_test(what_does_not_fit_goes_in_order),
        cmocka_unit_test(time_left_is_judged_by_this_run),
        cmocka_unit_test(ended_is_silent),
        cmocka_unit_test(fast_is_silent),
        cmocka_unit_test(slow_shows_one_line_in_ten_seconds),
        cmocka_unit_test(quiet_is_silent),
        cmocka_unit_test(zero_total),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
