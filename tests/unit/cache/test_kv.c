/* SPDX-License-Identifier: Apache-2.0
 *
 * The key-value cache: what is stored is read back (in int8 within half a step), heads and layers do not
 * touch one another, truncation.
 */
#include "base/fp.h"
#include "base/mem.h"
#include "cache/kv.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

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

static float load_i8(const struct ml_kv *kv, const int8_t *rows, const float *scales, size_t head,
                     size_t position, size_t i) {
    const int q = rows[head * kv->head_stride + position * DIM + i];
    return scales[head * kv->scale_stride + position] * (float)q;
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

/* ---- int8 ---- */

/* Greatest magnitude of a head's row. */
static float most_of(const float *row) {
    float most = 0;
    for (size_t i = 0; i < DIM; i++)
        most = fmaxf(most, fabsf(row[i]));
    return most;
}

/* Rows with the magnitudes of a head, whose scale is the other heads' business in nothing. */
static void check_i8(const struct ml_kv *kv, size_t l, size_t p, bool is_v) {
    const int8_t *rows = is_v ? ml_kv_v(kv, l) : ml_kv_k(kv, l);
    const float *scales = is_v ? ml_kv_v_scales(kv, l) : ml_kv_k_scales(kv, l);
    float x[ROW];
    for (size_t i = 0; i < ROW; i++)
        x[i] = value(l, p, i, is_v);
    for (size_t i = 0; i < ROW; i++) {
        const float scale = scales[i / DIM * kv->scale_stride + p], most = most_of(x + i / DIM * DIM);
        const float got = load_i8(kv, rows, scales, i / DIM, p, i % DIM);
        assert_float_equal(scale, most / 127, most * 1e-7f);
        assert_true(fabsf(got - x[i]) <= scale * (0.5f + 0x1p-15f));
    }
}

static void int8_is_within_half_a_step(void **state) {
    const struct ml_kv_shape shape = {LAYERS, HEADS, DIM, POSITIONS, ML_I8};
    struct ml_kv kv;
    size_t bytes = 0;
    (void)state;
    assert_int_equal(ml_kv_bytes(&shape, &bytes, NULL), MARLIN_OK);
    assert_int_equal(ml_kv_create(&kv, &shape, device, NULL), MARLIN_OK);
    assert_int_equal(kv.buffer.bytes, bytes);
    assert_int_equal(ml_kv_row_bytes(&shape), DIM + sizeof(float));
    store_all(&kv);
    for (size_t l = 0; l < LAYERS; l++)
        for (size_t p = 0; p < POSITIONS; p++) {
            check_i8(&kv, l, p, false);
            check_i8(&kv, l, p, true);
        }
    ml_kv_free(&kv);
}

/* With padding, float32 keys of a usual head take close to four times as much, float16 ones to twice. */
static void int8_is_small(void **state) {
    struct ml_kv_shape shape = {LAYERS, HEADS, 128, 4096, ML_I8};
    size_t small = 0, large = 0, half = 0;
    (void)state;
    assert_int_equal(ml_kv_bytes(&shape, &small, NULL), MARLIN_OK);
    shape.dtype = ML_F32;
    assert_int_equal(ml_kv_bytes(&shape, &large, NULL), MARLIN_OK);
    shape.dtype = ML_F16;
    assert_int_equal(ml_kv_bytes(&shape, &half, NULL), MARLIN_OK);
    assert_int_equal(ml_kv_row_bytes(&shape), 256);
    assert_true(small >= (size_t)2 * LAYERS * HEADS * 4096 * 132);
    assert_true(small * 387 / 100 < large && small * 193 / 100 < half);
}

/* What narrow_i8 makes of a row: scale, and the bytes in q. */
static float narrow(int8_t q[DIM], const float x[DIM]) {
    memset(q, 0x55, DIM);
    return ml_kernels()->narrow_i8(q, x, DIM);
}

static void int8_extremes(void **state) {
    static const int8_t none[DIM] = {0};
    int8_t q[DIM];
    (void)state;
    const float zeros[DIM] = {0, -0.0f};
    assert_true(narrow(q, zeros) == 0);
    assert_memory_equal(q, none, DIM);

    const float greatest[DIM] = {FLT_MAX, -FLT_MAX, FLT_MAX / 4, 1, 0};
    const int8_t want[DIM] = {127, -127, 32, 0, 0};
    assert_true(narrow(q, greatest) == FLT_MAX / 127);
    assert_memory_equal(q, want, DIM);

    /* A scale below the least normal number would be too coarse a number for its steps. */
    const float least[DIM] = {127 * FLT_MIN, -FLT_MIN, 0};
    const int8_t steps[DIM] = {127, -1, 0};
    assert_true(narrow(q, least) == FLT_MIN);
    assert_memory_equal(q, steps, DIM);
    const float below[DIM] = {126 * FLT_MIN, -FLT_TRUE_MIN, FLT_TRUE_MIN};
    assert_true(narrow(q, below) == 0);
    assert_memory_equal(q, none, DIM);
}

/* A number that is none spoils its row, and says so. */
static void int8_not_finite(void **state) {
    static const int8_t none[DIM] = {0};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    int8_t q[DIM];
    (void)state;
    for (size_t i = 0; i < 3 * DIM; i++) {
        float x[DIM] = {1, 2, 3, 4, 5};
        x[i % DIM] = bad[i / DIM];
        assert_true(isnan(narrow(q, x)));
        assert_memory_equal(q, none, DIM);
    }
}

static void types_have_names(void **state) {
    enum ml_dtype t = ML_BF16;
    (void)state;
    assert_true(ml_kv_type_parse("f32", &t) && t == ML_F32);
    assert_true(ml_kv_type_parse("f16", &t) && t == ML_F16);
    assert_true(ml_kv_type_parse("int8", &t) && t == ML_I8);
    assert_false(ml_kv_type_parse("bf16", &t) || ml_kv_type_parse("", &t) || ml_kv_type_parse("int", &t));
    assert_int_equal(t, ML_I8);
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
    shape.dtype = ML_BF16;
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
        cmocka_unit_test(int8_is_within_half_a_step),
        cmocka_unit_test(int8_is_small),
        cmocka_unit_test(int8_extremes),
        cmocka_unit_test(int8_not_finite),
        cmocka_unit_test(types_have_names),
        cmocka_unit_test(truncation_only_shortens),
        cmocka_unit_test(impossible_shapes_are_named),
        cmocka_unit_test(no_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
