/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of cmocka that the tests of the core folders use, for cross builds: distributions carry cmocka for
 * their own architecture only. Messages name file and line; a failure ends its test, not the program.
 */
#ifndef MARLIN_TESTS_CROSS_CMOCKA_H
#define MARLIN_TESTS_CROSS_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void (*CMUnitTestFunction)(void **state);
typedef int (*CMFixtureFunction)(void **state);

struct CMUnitTest {
    const char *name;
    CMUnitTestFunction test_func;
    CMFixtureFunction setup_func, teardown_func;
    void *initial_state;
};

#define cmocka_unit_test(f)                                                                                  \
    { #f, f, NULL, NULL, NULL }
#define cmocka_unit_test_setup(f, setup)                                                                     \
    { #f, f, setup, NULL, NULL }
#define cmocka_unit_test_teardown(f, teardown)                                                               \
    { #f, f, NULL, teardown, NULL }
#define cmocka_unit_test_setup_teardown(f, s, t)                                                             \
    { #f, f, s, t, NULL }
#define cmocka_unit_test_prestate(f, state)                                                                  \
    { #f, f, NULL, NULL, state }
#define cmocka_run_group_tests(tests, setup, end)                                                            \
    cross_run(tests, sizeof(tests) / sizeof(*(tests)), setup, end)

enum { CROSS_FAILED = 1, CROSS_SKIPPED = 2 };
static jmp_buf cross_end;

__attribute__((noreturn)) static inline void cross_leave(int how) {
    longjmp(cross_end, how);
}

__attribute__((noreturn, format(printf, 3, 4))) static inline void cross_fail(const char *file, int line,
                                                                              const char *fmt, ...) {
    va_list list;
    va_start(list, fmt);
    (void)printf("%s:%d: ", file, line);
    (void)vprintf(fmt, list);
    (void)printf("\n");
    va_end(list);
    cross_leave(CROSS_FAILED);
}

static inline const char *cross_text(const char *s) {
    return s ? s : "(null)";
}

#define print_message(...) ((void)printf(__VA_ARGS__))
#define print_error(...)   ((void)printf(__VA_ARGS__))
#define skip()             cross_leave(CROSS_SKIPPED)
#define fail_msg(...)      cross_fail(__FILE__, __LINE__, __VA_ARGS__)
#define fail()             fail_msg("failed")

#define CROSS_REQUIRE(ok, ...)                                                                               \
    do {                                                                                                     \
        if (!(ok)) cross_fail(__FILE__, __LINE__, __VA_ARGS__);                                              \
    } while (0)

#define assert_true(c)     CROSS_REQUIRE(c, "not true: %s", #c)
#define assert_false(c)    CROSS_REQUIRE(!(c), "not false: %s", #c)
#define assert_null(p)     CROSS_REQUIRE((p) == NULL, "not NULL: %s", #p)
#define assert_non_null(p) CROSS_REQUIRE((p) != NULL, "NULL: %s", #p)
#define assert_int_equal(a, b)                                                                               \
    do {                                                                                                     \
        const uintmax_t va_ = (uintmax_t)(a), vb_ = (uintmax_t)(b);                                          \
        CROSS_REQUIRE(va_ == vb_, "%s = %jd, not %jd", #a, (intmax_t)va_, (intmax_t)vb_);                    \
    } while (0)
#define assert_int_not_equal(a, b) CROSS_REQUIRE((uintmax_t)(a) != (uintmax_t)(b), "%s == %s", #a, #b)
#define assert_in_range(v, lo, hi)                                                                           \
    CROSS_REQUIRE((uintmax_t)(v) >= (uintmax_t)(lo) && (uintmax_t)(v) <= (uintmax_t)(hi), "%s = %jd", #v,    \
                  (intmax_t)(v))
#define assert_ptr_equal(a, b) CROSS_REQUIRE((const void *)(a) == (const void *)(b), "%s != %s", #a, #b)
#define assert_float_equal(a, b, e)                                                                          \
    do {                                                                                                     \
        const double da_ = (a), db_ = (b);                                                                   \
        CROSS_REQUIRE(da_ - db_ <= (e) && db_ - da_ <= (e), "%s = %g, not %g", #a, da_, db_);                \
    } while (0)
#define assert_string_equal(a, b)                                                                            \
    do {                                                                                                     \
        const char *const sa_ = (a), *const sb_ = (b);                                                       \
        CROSS_REQUIRE(sa_ &&sb_ &&strcmp(sa_, sb_) == 0, "\"%s\", not \"%s\"", cross_text(sa_),              \
                      cross_text(sb_));                                                                      \
    } while (0)
#define assert_string_not_equal(a, b) CROSS_REQUIRE(strcmp(a, b) != 0, "%s and %s are equal", #a, #b)
#define assert_ptr_not_equal(a, b)                                                                           \
    CROSS_REQUIRE((const void *)(a) != (const void *)(b), "%s and %s are equal", #a, #b)
#define assert_memory_equal(a, b, n)     CROSS_REQUIRE(memcmp(a, b, n) == 0, "%s and %s differ", #a, #b)
#define assert_memory_not_equal(a, b, n) CROSS_REQUIRE(memcmp(a, b, n) != 0, "%s and %s are equal", #a, #b)

/* 0 passed, else how it ended. */
static inline int cross_one(const struct CMUnitTest *t, void *group_state) {
    void *state = t->initial_state ? t->initial_state : group_state;
    const int how = setjmp(cross_end);
    if (how) return how;
    if (t->setup_func && t->setup_func(&state) != 0) return CROSS_FAILED;
    t->test_func(&state);
    return t->teardown_func && t->teardown_func(&state) != 0 ? CROSS_FAILED : 0;
}

static inline int cross_run(const struct CMUnitTest *tests, size_t n, CMFixtureFunction begin,
                            CMFixtureFunction end) {
    static const char *const verdict[] = {"ok", "FAILED", "skipped"};
    int failed = 0;
    void *state = NULL;
    if (begin && begin(&state) != 0) return 1;
    for (size_t i = 0; i < n; i++) {
        if (!tests[i].test_func) continue;
        const int how = cross_one(&tests[i], state);
        (void)printf("%s: %s\n", verdict[how], tests[i].name);
        failed += how == CROSS_FAILED;
    }
    if (end) failed += end(&state) != 0;
    return failed;
}

#endif
