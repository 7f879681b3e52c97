/* SPDX-License-Identifier: Apache-2.0
 *
 * Progress in a log (no terminal): silent while fast or quiet, a line after ten seconds, no division by zero.
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
    assert_int_equal(strncmp(text, "work: 100/200, 0:11 left  tensor x\n", 35), 0);
    assert_null(strstr(text, "tensor y"));
    assert_non_null(strstr(text, "work: 101/200, "));
}

static void quiet_is_silent(void **state) {
    (void)state;
    capture(quiet);
    assert_string_equal(text, "");
}

static void zero_total(void **state) {
    (void)state;
    capture(nothing_to_do);
    assert_int_equal(strncmp(text, "work: 0/0, -:-- left\n", 21), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_is_silent),
        cmocka_unit_test(slow_shows_one_line_in_ten_seconds),
        cmocka_unit_test(quiet_is_silent),
        cmocka_unit_test(zero_total),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
