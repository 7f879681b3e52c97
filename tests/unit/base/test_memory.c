/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory door, its guard, arenas, buffers and messages.
 */
#include "base/arena.h"
#include "base/buf.h"
#include "base/lock.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void fails_the_nth_allocation_once(void **state) {
    (void)state;
    ml_mem_fail_at(2);
    void *a = ml_alloc(1), *b = ml_alloc(1), *c = ml_alloc(0);
    assert_true(a && !b && c);
    ml_free(a);
    ml_free(c);
    assert_null(ml_calloc(SIZE_MAX, 2));
    void *p = ml_alloc_aligned(3);
    assert_int_equal((uintptr_t)p % 64, 0);
    ml_free_aligned(p);
}

static void bytes_are_counted(void **state) {
    (void)state;
    const uint64_t count = ml_mem_count(), bytes = ml_mem_bytes();
    ml_free(ml_alloc(10));
    ml_free(ml_calloc(3, 7));
    ml_free_aligned(ml_alloc_aligned(65)); /* whole lines */
    assert_int_equal(ml_mem_count() - count, 3);
    assert_int_equal(ml_mem_bytes() - bytes, 10 + 21 + 128);
}

static void allocate(void) {
    ml_free(ml_alloc(1));
}

static void lock(void) {
    struct ml_lock l;
    ml_lock_init(&l);
    ml_lock_take(&l);
    ml_lock_release(&l);
    ml_lock_destroy(&l);
}

/* `deed` is seen between nested guards and not after them. Builds with assertions abort; the others count. */
static void expect_seen(void (*deed)(void)) {
    const pid_t child = fork();
    if (child == 0) {
        (void)close(2);
        ml_mem_guard_begin("outer");
        ml_mem_guard_begin("inner");
        ml_mem_guard_end();
        deed();
        ml_mem_guard_end();
        deed();
        _exit(ml_mem_guard_violations() == 1 ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
#ifdef MARLIN_MEM_GUARD
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
#else
    assert_true((WIFEXITED(status) && WEXITSTATUS(status) == 0) ||
                (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT));
#endif
}

static void guard_sees_an_allocation(void **state) {
    (void)state;
    expect_seen(allocate);
}

static void guard_sees_a_lock(void **state) {
    (void)state;
    expect_seen(lock);
}

/* Between pause and resume a thread is in no guard, and afterwards in as many as before. */
static void guard_pauses(void **state) {
    const uint64_t before = ml_mem_guard_violations();
    (void)state;
    ml_mem_guard_begin("outer");
    ml_mem_guard_begin("inner");
    const int paused = ml_mem_guard_pause();
    allocate();
    lock();
    ml_mem_guard_resume(paused);
    assert_int_equal(ml_mem_guard_violations(), before);
    assert_int_equal(paused, 2);
    assert_int_equal(ml_mem_guard_pause(), 2);
}

static void arena_keeps_its_limit(void **state) {
    (void)state;
    struct ml_arena a;
    ml_arena_init(&a, 100000);
    for (size_t n = 1; n < 300; n++) {
        unsigned char *p = ml_arena_alloc(&a, n);
        assert_true(p && (uintptr_t)p % 16 == 0);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(p[i], 0);
        }
        memset(p, 255, n);
    }
    assert_null(ml_arena_alloc(&a, 100000));
    assert_null(ml_arena_array(&a, SIZE_MAX, 2));
    ml_arena_free(&a);
    ml_mem_fail_at(1);
    assert_null(ml_arena_alloc(&a, 1));
    assert_string_equal(ml_arena_strndup(&a, "abc", 2), "ab");
    ml_arena_free(&a);
}

static void buffer_is_unchanged_on_error(void **state) {
    (void)state;
    struct ml_buf b;
    ml_buf_init(&b, 100);
    assert_int_equal(ml_buf_addf(&b, "%d-%s", 12, "x"), MARLIN_OK);
    char big[200] = {0};
    assert_int_equal(ml_buf_add(&b, big, 97), MARLIN_ERR_LIMIT);
    ml_mem_fail_at(1);
    assert_int_equal(ml_buf_add(&b, big, 90), MARLIN_ERR_MEMORY);
    assert_string_equal(b.data, "12-x");
    assert_int_equal(ml_buf_add(&b, big, 96), MARLIN_OK);
    ml_buf_clear(&b);
    assert_int_equal(ml_buf_add_json(&b, "a\"\n\x01\xff\xc3\xa9", 7), MARLIN_OK);
    assert_string_equal(b.data, "\"a\\\"\\n\\u0001\xef\xbf\xbd\xc3\xa9\"");
    ml_buf_free(&b);
}

static void messages_are_cut_between_characters(void **state) {
    (void)state;
    char text[600];
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'a', shift);
        for (size_t i = shift; i + 4 < sizeof text; i += 4) {
            memcpy(text + i, "\xf0\x9f\x98\x80", 5);
        }
        struct marlin_error err = {0};
        assert_int_equal(ml_fail(&err, MARLIN_ERR_IO, "%s", text), MARLIN_ERR_IO);
        assert_int_equal(strlen(err.text), shift + (511 - shift) / 4 * 4);
        assert_int_equal(ml_fail_in(&err, MARLIN_ERR_IO, "%s", "file"), MARLIN_ERR_IO);
        assert_memory_equal(err.text, "file: ", 6);
        assert_int_equal((strlen(err.text) - 6 - shift) % 4, 0);
    }
    assert_int_equal(ml_fail_in(NULL, MARLIN_ERR_FORMAT, "x"), MARLIN_ERR_FORMAT);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(fails_the_nth_allocation_once),
                                       cmocka_unit_test(bytes_are_counted),
                                       cmocka_unit_test(guard_sees_an_allocation),
                                       cmocka_unit_test(guard_sees_a_lock),
                                       cmocka_unit_test(guard_pauses),
                                       cmocka_unit_test(arena_keeps_its_limit),
                                       cmocka_unit_test(buffer_is_unchanged_on_error),
                                       cmocka_unit_test(messages_are_cut_between_characters)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
