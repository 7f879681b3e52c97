/* SPDX-License-Identifier: Apache-2.0
 *
 * Plain int8 rows: error bound, extremes, and numbers that are none.
 */
#include "packing/int8.h"

#include "base/rng.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void error_is_at_most_half_a_step(void **unused) {
    struct ml_rng rng;
    float x[1000], back[1000], scale;
    int8_t q[1000];
    ml_rng_seed(&rng, 7);
    (void)unused;
    for (int i = 0; i < 1000; i++)
        x[i] = 0.02f * ml_rng_normal(&rng);
    assert_int_equal(ml_int8_pack(x, 1000, q, &scale, NULL), MARLIN_OK);
    ml_int8_unpack(q, 1000, scale, back);
    int most = 0;
    for (int i = 0; i < 1000; i++) {
        assert_true(fabsf(x[i] - back[i]) <= 0.5001f * scale);
        if (q[i] > most) most = q[i];
        if (-q[i] > most) most = -q[i];
    }
    assert_int_equal(most, 127);
}

static void extremes(void **unused) {
    const float zero[3] = {0, -0.0f, 0}, tiny[2] = {FLT_TRUE_MIN, -FLT_TRUE_MIN},
                huge[2] = {FLT_MAX, -FLT_MAX};
    float scale = 1, back[3];
    int8_t q[3];
    (void)unused;
    assert_int_equal(ml_int8_pack(zero, 3, q, &scale, NULL), MARLIN_OK);
    assert_true(scale == 0 && q[0] == 0 && q[1] == 0 && q[2] == 0);
    assert_int_equal(ml_int8_pack(tiny, 2, q, &scale, NULL), MARLIN_OK);
    assert_true(q[0] >= 0 && q[1] <= 0);
    assert_int_equal(ml_int8_pack(huge, 2, q, &scale, NULL), MARLIN_OK);
    assert_true(q[0] == 127 && q[1] == -127);
    ml_int8_unpack(q, 2, scale, back);
    assert_true(isfinite(scale) && back[0] > 0.99f * FLT_MAX);
    assert_int_equal(ml_int8_pack(NULL, 0, q, &scale, NULL), MARLIN_OK);
}

static void not_numbers_are_named(void **unused) {
    struct marlin_error err;
    float x[4] = {1, 2, NAN, 4}, scale = 9;
    int8_t q[4] = {5, 5, 5, 5};
    (void)unused;
    assert_int_equal(ml_int8_pack(x, 4, q, &scale, &err), MARLIN_ERR_NUMERIC);
    assert_non_null(strstr(err.text, "element 2"));
    x[2] = -INFINITY;
    assert_int_equal(ml_int8_pack(x, 4, q, &scale, &err), MARLIN_ERR_NUMERIC);
    assert_true(scale == 9 && q[0] == 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(error_is_at_most_half_a_step),
                                       cmocka_unit_test(extremes), cmocka_unit_test(not_numbers_are_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
