/* SPDX-License-Identifier: Apache-2.0
 *
 * The key-value cache: what is stored is read back, heads and layers do not touch one another, truncation.
 */
#include "base/fp.h"
#include "base/mem.h"
#include "cache/kv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { LAYERS = 3, HEADS = 2, DIM = 5, POSITIONS = 7, ROW = HEADS * DIM };

static struct ml_device *device;

static int open_device(void **state) {
    (void)state;
    return ml_device_open("cpu", &device, NULL) == MARLIN_OK ? 0 : -1;
}

static int close_device(void **state) {
    (void)state;
    device->ops->destroy(device);
    return 0;
}

/* Integers up to 2048 are exact in float16. */
static float value(size_t layer, size_t position, size_t i, bool is_v) {
    return (float)(((layer * POSITIONS + position) * ROW + i) * 2 + is_v);
}

static float load(const struct ml_kv *kv, const void *base, size_t head, size_t position, size_t i) {
    const size_t at = head * kv->head_stride + position * DIM + i;
    return kv->shape.dtype == ML_F32 ? ((const float *)base)[at]
                                     : ml_f16_to_f32(((const uint16_t *)base)[at]);
}

static void store_all(struct ml_kv *kv) {
    float k[ROW], v[ROW];
    for (size_t l = 0; l < LAYERS; l++) {
        for (size_t p = 0; p < POSITIONS; p++) {
            for (size_t i = 0; i < ROW; i++) {
                k[i] = value(l, p, i, false);
                v[i] = value(l, p, i, true);
            }
            ml_kv_store(kv, ml_kernels(), l, p, k, v);
        }
    }
}

static void check_position(const struct ml_kv *kv, size_t l, size_t p) {
    for (size_t i = 0; i < ROW; i++) {
        assert_true(load(kv, ml_kv_k(kv, l), i / DIM, p, i % DIM) == value(l, p, i, false));
        assert_true(load(kv, ml_kv_v(kv, l), i / DIM, p, i % DIM) == value(l, p, i, true));
    }
}

static void what_is_stored_is_there(void **state) {
    const enum ml_dtype types[] = {ML_F16, ML_F32};
    (void)state;
    for (int t = 0; t < 2; t++) {
        const struct ml_kv_shape shape = {LAYERS, HEADS, DIM, POSITIONS, types[t]};
        struct ml_kv kv;
        size_t bytes = 0;
        assert_int_equal(ml_kv_bytes(&shape, &bytes, NULL), MARLIN_OK);
        assert_int_equal(ml_kv_create(&kv, &shape, device, NULL), MARLIN_OK);
        assert_int_equal(kv.buffer.bytes, bytes);
        assert_true(kv.head_stride >= POSITIONS * DIM);
        store_all(&kv);
        for (size_t l = 0; l < LAYERS; l++) {
            for (size_t p = 0; p < POSITIONS; p++)
                check_position(&kv, l, p);
        }
        ml_kv_free(&kv);
    }
}

static void truncation_only_shortens(void **state) {
    const struct ml_kv_shape shape = {LAYERS, HEADS, DIM, POSITIONS, ML_F16};
    struct ml_kv kv;
    (void)state;
    assert_int_equal(ml_kv_create(&kv, &shape, device, NULL), MARLIN_OK);
    store_all(&kv);
    kv.length = POSITIONS;
    ml_kv_truncate(&kv, POSITIONS + 1);
    assert_int_equal(kv.length, POSITIONS);
    ml_kv_truncate(&kv, 4);
    assert_int_equal(kv.length, 4);
    for (size_t p = 0; p < 4; p++)
        check_position(&kv, 1, p);
    ml_kv_truncate(&kv, 0);
    assert_int_equal(kv.length, 0);
    ml_kv_free(&kv);
}

static void impossible_shapes_are_named(void **state) {
    struct ml_kv_shape shape = {LAYERS, HEADS, DIM, SIZE_MAX / 8, ML_F16};
    struct marlin_error err;
    struct ml_kv kv;
    size_t bytes;
    (void)state;
    assert_int_equal(ml_kv_bytes(&shape, &bytes, &err), MARLIN_ERR_LIMIT);
    shape.max_positions = SIZE_MAX / 4;
    assert_int_equal(ml_kv_create(&kv, &shape, device, &err), MARLIN_ERR_LIMIT);
    ml_kv_free(&kv);
    shape.max_positions = 0;
    assert_int_equal(ml_kv_bytes(&shape, &bytes, &err), MARLIN_ERR_ARGUMENT);
    shape.max_positions = 1;
    shape.dtype = ML_I8;
    assert_int_equal(ml_kv_bytes(&shape, &bytes, &err), MARLIN_ERR_UNSUPPORTED);
}

static void no_memory_is_an_error(void **state) {
    const struct ml_kv_shape shape = {LAYERS, HEADS, DIM, POSITIONS, ML_F16};
    struct marlin_error err;
    struct ml_kv kv;
    (void)state;
    ml_mem_fail_at(1);
    assert_int_equal(ml_kv_create(&kv, &shape, device, &err), MARLIN_ERR_MEMORY);
    ml_mem_fail_at(0);
    ml_kv_free(&kv);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_stored_is_there),
        cmocka_unit_test(truncation_only_shortens),
        cmocka_unit_test(impossible_shapes_are_named),
        cmocka_unit_test(no_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
