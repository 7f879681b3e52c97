/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU device: copies arrive in order, ranges may overlap, wrapped memory stays its owner's, unknown devices
 * are refused by name.
 */
#include "base/mem.h"
#include "device/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static int open_device(void **state) {
    return ml_device_open("cpu", (struct ml_device **)state, NULL) == MARLIN_OK ? 0 : -1;
}

static int close_device(void **state) {
    struct ml_device *d = *state;
    d->ops->destroy(d);
    return 0;
}

static struct ml_stream open_stream(struct ml_device *d) {
    struct ml_stream s = {0};
    assert_int_equal(d->ops->stream_open(d, &s, NULL), MARLIN_OK);
    assert_ptr_equal(s.device, d);
    return s;
}

static void it_is_the_host(void **state) {
    const struct ml_device *d = *state;
    assert_string_equal(d->ops->name, "cpu");
    assert_true(d->is_host);
}

static void bytes_come_back(void **state) {
    struct ml_device *d = *state;
    struct ml_buffer a, b;
    char text[] = "0123456789", back[11] = "";
    struct ml_stream s = open_stream(d);
    assert_int_equal(d->ops->alloc(d, 11, &a, NULL), MARLIN_OK);
    assert_int_equal(d->ops->alloc(d, 22, &b, NULL), MARLIN_OK);
    assert_int_equal((uintptr_t)a.address % 64, 0);
    assert_true(a.bytes == 11 && !a.borrowed);
    d->ops->upload(&s, a.address, text, 11);
    d->ops->copy(&s, (char *)b.address + 11, a.address, 11);
    d->ops->download(&s, back, (char *)b.address + 11, 11);
    assert_int_equal(d->ops->stream_sync(&s, NULL), MARLIN_OK);
    assert_string_equal(back, text);
    d->ops->free(d, &a);
    d->ops->free(d, &b);
    assert_null(a.address);
    assert_int_equal(a.bytes, 0);
    d->ops->stream_close(&s);
}

static void copies_may_overlap_and_be_empty(void **state) {
    struct ml_device *d = *state;
    struct ml_buffer a;
    char back[10];
    struct ml_stream s = open_stream(d);
    assert_int_equal(d->ops->alloc(d, 10, &a, NULL), MARLIN_OK);
    char *at = a.address;
    d->ops->upload(&s, at, "0123456789", 10);
    d->ops->copy(&s, at + 2, at, 8);
    d->ops->copy(&s, at, at + 1, 5);
    d->ops->copy(&s, at, at + 9, 0);
    d->ops->upload(&s, at, NULL, 0);
    d->ops->download(&s, back, at, 10);
    assert_int_equal(d->ops->stream_sync(&s, NULL), MARLIN_OK);
    assert_memory_equal(back, "1012334567", 10);
    d->ops->free(d, &a);
    d->ops->stream_close(&s);
}

static void streams_wait_for_one_another(void **state) {
    struct ml_device *d = *state;
    struct ml_stream a = open_stream(d), b = open_stream(d);
    struct ml_buffer memory;
    struct ml_event e;
    char back[4] = "";
    assert_int_equal(d->ops->alloc(d, 4, &memory, NULL), MARLIN_OK);
    assert_int_equal(d->ops->event_create(d, &e, NULL), MARLIN_OK);
    assert_ptr_equal(e.device, d);
    d->ops->upload(&a, memory.address, "abc", 4);
    d->ops->event_record(&e, &a);
    d->ops->event_wait(&e, &b);
    d->ops->download(&b, back, memory.address, 4);
    assert_int_equal(d->ops->stream_sync(&b, NULL), MARLIN_OK);
    assert_string_equal(back, "abc");
    d->ops->event_free(&e);
    d->ops->free(d, &memory);
    d->ops->stream_close(&a);
    d->ops->stream_close(&b);
    assert_null(a.device);
}

static void wrapped_memory_stays_its_owners(void **state) {
    struct ml_device *d = *state;
    struct ml_buffer w;
    char mine[4] = "abc";
    assert_int_equal(d->ops->wrap(d, mine, 4, &w, NULL), MARLIN_OK);
    assert_true(w.borrowed);
    assert_ptr_equal(w.address, mine);
    assert_int_equal(w.bytes, 4);
    d->ops->free(d, &w);
    assert_null(w.address);
    assert_string_equal(mine, "abc");
}

static void memory_is_reported(void **state) {
    struct ml_device *d = *state;
    uint64_t free_bytes = 0, total = 0;
    d->ops->memory(d, &free_bytes, &total);
    assert_true(total > 0);
    assert_true(free_bytes <= total);
}

static void failures_are_named(void **state) {
    struct ml_device *d = *state, *other = NULL;
    struct ml_buffer b;
    struct marlin_error err;
    assert_int_equal(ml_device_open("abacus", &other, &err), MARLIN_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "abacus"));
    assert_non_null(strstr(err.text, "cpu"));
    ml_mem_fail_at(1);
    assert_int_equal(d->ops->alloc(d, 64, &b, &err), MARLIN_ERR_MEMORY);
    assert_non_null(strstr(err.text, "64 bytes"));
    ml_mem_fail_at(1);
    assert_int_equal(ml_device_open("cpu", &other, &err), MARLIN_ERR_MEMORY);
    ml_mem_fail_at(0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_the_host),
        cmocka_unit_test(bytes_come_back),
        cmocka_unit_test(copies_may_overlap_and_be_empty),
        cmocka_unit_test(streams_wait_for_one_another),
        cmocka_unit_test(wrapped_memory_stays_its_owners),
        cmocka_unit_test(memory_is_reported),
        cmocka_unit_test(failures_are_named),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
