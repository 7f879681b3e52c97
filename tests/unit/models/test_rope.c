/* SPDX-License-Identifier: Apache-2.0
 *
 * Rotary tables against those that transformers computes, cosines against their definition, refusals.
 */
#include "models/layers/rope.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "rope_vectors.h"

static double short_factors[] = {1.0, 1.05, 1.1, 1.2, 1.5, 1.75, 2.0, 2.5};
static double long_factors[] = {1.0, 1.5, 3.0, 6.0, 12.0, 20.0, 40.0, 64.0};

static const struct ml_rope_config plain = {
    .kind = ML_ROPE_DEFAULT, .theta = 10000, .factor = 1, .partial = 1, .truncate = true};

static struct ml_rope_config scaled(enum ml_rope_kind kind, double theta, double factor, int64_t original) {
    struct ml_rope_config c = plain;
    c.kind = kind;
    c.theta = theta;
    c.factor = factor;
    c.has_factor = true;
    c.original_max = original;
    return c;
}

static struct ml_rope_config llama3(double factor) {
    struct ml_rope_config c = scaled(ML_ROPE_LLAMA3, 500000, factor, 8192);
    c.low_freq_factor = 1;
    c.high_freq_factor = 4;
    return c;
}

static struct ml_rope_config longrope(void) {
    struct ml_rope_config c = scaled(ML_ROPE_LONGROPE, 10000, 32, 4096);
    c.short_factor = short_factors;
    c.long_factor = long_factors;
    c.n_short = c.n_long = 8;
    return c;
}

/* The reference computed its powers in float32: a few units in the last place. */
static void check(struct ml_rope_config c, size_t head_dim, size_t max_positions, size_t length,
                  const float *inv, size_t n, float scale) {
    struct ml_arena arena;
    struct ml_rope r;
    struct marlin_error err;
    float mine[256];
    ml_arena_init(&arena, 0);
    assert_int_equal(ml_rope_init(&r, &c, head_dim, max_positions, &arena, &err), MARLIN_OK);
    assert_int_equal(r.half, n);
    ml_rope_frequencies(&r, length, mine);
    for (size_t i = 0; i < n; i++)
        assert_true(fabsf(mine[i] - inv[i]) <= 1e-6f * inv[i]);
    assert_true(fabsf(r.scale - scale) <= 1e-6f * scale);
    ml_arena_free(&arena);
}

#define CHECK(config, head_dim, max_positions, length, name)                                                 \
    check(config, head_dim, max_positions, length, name##_inv, sizeof(name##_inv) / sizeof(float),           \
          name##_scale)

static void linear_and_llama3_equal_transformers(void **state) {
    (void)state;
    CHECK(scaled(ML_ROPE_LINEAR, 1e6, 8, 0), 64, 4096, 10, linear);
    CHECK(llama3(8), 128, 131072, 10, llama3_1);
    CHECK(llama3(32), 64, 131072, 10, llama3_2);
}

static void yarn_equals_transformers(void **state) {
    (void)state;
    struct ml_rope_config c = scaled(ML_ROPE_YARN, 1e6, 4, 32768);
    CHECK(c, 128, 131072, 10, yarn);
    c.has_factor = false; /* 131072 / 32768 is the same factor */
    CHECK(c, 128, 131072, 10, yarn);
    c = scaled(ML_ROPE_YARN, 10000, 40, 4096);
    c.beta_fast = 32;
    c.beta_slow = 1;
    c.mscale = 1;
    c.mscale_all_dim = 0.7;
    CHECK(c, 64, 163840, 10, yarn_mscale);
    c = scaled(ML_ROPE_YARN, 150000, 32, 4096);
    c.truncate = false;
    CHECK(c, 64, 131072, 10, yarn_no_truncate);
    c = scaled(ML_ROPE_YARN, 10000, 2, 4096);
    c.attention_factor = 0.75;
    CHECK(c, 64, 8192, 10, yarn_attention);
}

static void tables_that_depend_on_length_equal_transformers(void **state) {
    (void)state;
    CHECK(scaled(ML_ROPE_DYNAMIC, 10000, 2, 0), 64, 2048, 2048, dynamic_short);
    CHECK(scaled(ML_ROPE_DYNAMIC, 10000, 2, 0), 64, 2048, 5000, dynamic_long);
    CHECK(longrope(), 16, 131072, 4096, longrope_short);
    CHECK(longrope(), 16, 131072, 4097, longrope_long);
}

static void partial_rotation_equals_transformers(void **state) {
    (void)state;
    struct ml_rope_config c = llama3(8);
    c.partial = 0.75;
    CHECK(c, 64, 131072, 10, partial);
}

static void cosines_follow_their_definition(void **state) {
    (void)state;
    struct ml_arena arena;
    struct ml_rope r;
    float cosine[32], sine[32];
    ml_arena_init(&arena, 0);
    assert_int_equal(ml_rope_init(&r, &plain, 64, 4096, &arena, NULL), MARLIN_OK);
    for (size_t p = 0; p < 5000; p += 37) {
        ml_rope_angles(&r, r.inv_freq, p, cosine, sine);
        for (size_t i = 0; i < 32; i++) {
            const double angle = (double)p * pow(10000.0, -(double)i / 32.0);
            const double slack = 1e-6 + 1.2e-7 * angle; /* float32 frequency, then float32 product */
            assert_true(fabs(cos(angle) - cosine[i]) <= slack);
            assert_true(fabs(sin(angle) - sine[i]) <= slack);
        }
    }
    ml_arena_free(&arena);
}

static void refuses(struct ml_rope_config c, size_t head_dim, const char *what) {
    struct ml_arena arena;
    struct ml_rope r;
    struct marlin_error err;
    ml_arena_init(&arena, 0);
    assert_int_equal(ml_rope_init(&r, &c, head_dim, 4096, &arena, &err), MARLIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, what));
    ml_arena_free(&arena);
}

static void values_without_a_table_are_refused(void **state) {
    (void)state;
    struct ml_rope_config c = plain;
    refuses(c, 5, "rotary dimensions");
    c.partial = 0.01;
    refuses(c, 64, "rotary dimensions");
    c.partial = NAN;
    refuses(c, 64, "partial_rotary_factor");
    c.partial = 1.5;
    refuses(c, 64, "partial_rotary_factor");
    c = plain;
    c.theta = 1;
    refuses(c, 64, "rope_theta");
    c.theta = NAN;
    refuses(c, 64, "rope_theta");
    refuses(scaled(ML_ROPE_LINEAR, 10000, 0, 0), 64, "factor");
    refuses(scaled(ML_ROPE_LINEAR, 10000, -2, 0), 64, "factor");
    refuses(scaled(ML_ROPE_YARN, 10000, 4, 0), 64, "original_max_position_embeddings");
    refuses(longrope(), 64, "short_factor");
    refuses(scaled(ML_ROPE_DYNAMIC, 10000, 2, 0), 2, "dynamic");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_and_llama3_equal_transformers),
        cmocka_unit_test(yarn_equals_transformers),
        cmocka_unit_test(tables_that_depend_on_length_equal_transformers),
        cmocka_unit_test(partial_rotation_equals_transformers),
        cmocka_unit_test(cosines_follow_their_definition),
        cmocka_unit_test(values_without_a_table_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
