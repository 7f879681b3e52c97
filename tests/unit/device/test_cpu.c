/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU device: copies arrive, ranges are checked, unknown devices are refused by name.
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

static void bytes_come_back(void **state) {
    struct ml_device *d = *state;
    struct ml_buffer a, b;
    char text[] = "0123456789", back[11] = "";
    assert_int_equal(d->ops->alloc(d, 11, &a, NULL), MARLIN_OK);
    assert_int_equal(d->ops->alloc(d, 22, &b, NULL), MARLIN_OK);
    assert_int_equal((uintptr_t)a.host % 64, 0);
    assert_int_equal(d->ops->upload(d, &a, 0, text, 11, NULL), MARLIN_OK);
    assert_int_equal(d->ops->copy(d, &b, 11, &a, 0, 11, NULL), MARLIN_OK);
    assert_int_equal(d->ops->sync(d, NULL), MARLIN_OK);
    assert_int_equal(d->ops->download(d, back, &b, 11, 11, NULL), MARLIN_OK);
    assert_string_equal(back, text);
    d->ops->free(d, &a);
    d->ops->free(d, &b);
    assert_null(a.host);
}

static void ranges_outside_are_refused(void **state) {
    struct ml_device *d = *state;
    struct ml_buffer a;
    struct marlin_error err;
    char bytes[16] = {0};
    assert_int_equal(d->ops->alloc(d, 16, &a, NULL), MARLIN_OK);
    assert_int_equal(d->ops->upload(d, &a, 1, bytes, 16, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(d->ops->download(d, bytes, &a, 17, 0, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(d->ops->copy(d, &a, 8, &a, SIZE_MAX, 2, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(d->ops->copy(d, &a, 16, &a, 0, 1, &err), MARLIN_ERR_ARGUMENT);
    d->ops->free(d, &a);
}

static void wrapped_memory_stays_its_owners(void **state) {
    struct ml_device *d = *state;
    struct ml_buffer w;
    char mine[4] = "abc";
    assert_int_equal(d->ops->wrap(d, mine, 4, &w, NULL), MARLIN_OK);
    assert_true(w.borrowed);
    assert_ptr_equal(w.host, mine);
    d->ops->free(d, &w);
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
    ml_mem_fail_at(1);
    assert_int_equal(d->ops->alloc(d, 64, &b, &err), MARLIN_ERR_MEMORY);
    ml_mem_fail_at(1);
    assert_int_equal(ml_device_open("cpu", &other, &err), MARLIN_ERR_MEMORY);
    ml_mem_fail_at(0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_come_back),
        cmocka_unit_test(ranges_outside_are_refused),
        cmocka_unit_test(wrapped_memory_stays_its_owners),
        cmocka_unit_test(memory_is_reported),
        cmocka_unit_test(failures_are_named),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
