/* SPDX-License-Identifier: Apache-2.0
 *
 * Contracts abort when they are switched on, and are not even evaluated when they are not.
 */
#undef MARLIN_ASSERT /* whatever the build says */
#define MARLIN_ASSERT 1
#include "base/assert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int evaluated;

static int note(int value) {
    evaluated++;
    return value;
}

static void a_kept_contract_goes_on(void **state) {
    (void)state;
    evaluated = 0;
    ML_ASSERT(note(1));
    assert_int_equal(evaluated, 1);
}

static void what_is_off_is_not_evaluated(void **state) {
    (void)state;
    evaluated = 0;
    ML_ASSERT_SLOW(note(0));
    ML_ASSERT_OFF(note(0));
    assert_int_equal(evaluated, 0);
}

/* The message names the file and the condition; the process ends by SIGABRT. */
static void a_broken_contract_aborts(void **state) {
    int fd[2], status = 0;
    char text[256] = {0};
    (void)state;
    assert_int_equal(pipe(fd), 0);
    const pid_t child = fork();
    if (child == 0) {
        (void)dup2(fd[1], 2);
        ML_ASSERT(note(0) == 7);
        _exit(0);
    }
    (void)close(fd[1]);
    assert_true(read(fd[0], text, sizeof text - 1) > 0);
    (void)close(fd[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_non_null(strstr(text, "test_assert.c:"));
    assert_non_null(strstr(text, "note(0) == 7"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kept_contract_goes_on),
        cmocka_unit_test(what_is_off_is_not_evaluated),
        cmocka_unit_test(a_broken_contract_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
