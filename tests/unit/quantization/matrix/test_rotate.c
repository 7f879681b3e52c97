/* SPDX-License-Identifier: Apache-2.0
 *
 * The rotation against the definition of the Hadamard matrix, and forth and back.
 */
#include "base/mem.h"
#include "base/rng.h"
#include "quantization/matrix/rotate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void fill_normal(float *x, size_t n, uint64_t seed) {
    struct ml_rng rng;
    ml_rng_seed(&rng, seed);
    for (size_t i = 0; i < n; i++) {
        x[i] = ml_rng_normal(&rng);
    }
}

static void rows_match_the_definition(void **state) {
    (void)state;
    float x[2 * ML_HADAMARD], y[2 * ML_HADAMARD];
    fill_normal(x, 2 * ML_HADAMARD, 1);
    memcpy(y, x, sizeof x);
    ml_hadamard_rows(y, 2);
    for (unsigned b = 0; b < 2; b++) {
        for (unsigned i = 0; i < ML_HADAMARD; i++) {
            double sum = 0;
            for (unsigned j = 0; j < ML_HADAMARD; j++) {
                sum += (__builtin_popcount(i & j) & 1 ? -1.0 : 1.0) * x[b * ML_HADAMARD + j];
            }
            assert_true(fabs(sum / sqrt(ML_HADAMARD) - y[b * ML_HADAMARD + i]) < 1e-5);
        }
    }
}

static void columns_are_rows_of_the_transpose(void **state) {
    (void)state;
    enum { N = 256, K = 3 };
    static float w[N * K], t[K * N];
    fill_normal(w, N * K, 2);
    for (int j = 0; j < N; j++) {
        for (int i = 0; i < K; i++) {
            t[i * N + j] = w[j * K + i];
        }
    }
    ml_hadamard_columns(w, N / ML_HADAMARD, K);
    ml_hadamard_rows(t, N * K / ML_HADAMARD);
    for (int j = 0; j < N; j++) {
        for (int i = 0; i < K; i++) {
            assert_true(fabsf(t[i * N + j] - w[j * K + i]) < 1e-5f);
        }
    }
}

static void fit_then_undo_gives_the_weights_back(void **state) {
    (void)state;
    enum { N = 128, K = 256 };
    static float w[N * K], q[N * K];
    fill_normal(w, N * K, 3);
    for (int i = 0; i < K; i++) {
        w[5 * K + i] = 0; /* an empty output */
    }
    for (int j = 0; j < N; j++) {
        w[j * K + 7] = 0;   /* an empty input */
        w[j * K + 9] *= 50; /* an outlier channel */
        w[j * K + 11] *= 1e-4f;
    }
    for (int i = 0; i < N * K; i++) {
        w[i] *= 0.02f;
    }
    memcpy(q, w, sizeof w);
    struct ml_rotation r;
    assert_int_equal(ml_rotation_create(&r, N, K, NULL), MARLIN_OK);
    ml_rotation_fit(&r, q, 1.0f, 4);
    double power = 0;
    for (int i = 0; i < N * K; i++) {
        power += (double)q[i] * q[i];
    }
    assert_true(fabs(power / (N * K) - 1) < 0.05);
    assert_true(r.sv[5] == 0.0f);
    ml_rotation_undo(&r, q);
    for (int i = 0; i < N * K; i++) {
        assert_true(fabsf(q[i] - w[i]) < 1e-5f);
    }
    ml_rotation_free(&r);
}

/* The Hessian of x' = Hk (su x) from samples, against the rotated Hessian of x. */
static void hessian_follows_the_inputs(void **state) {
    (void)state;
    enum { K = 128, T = 40 };
    static float x[T * K], h[K * K], expected[K * K], w[128 * K];
    struct ml_rotation r;
    fill_normal(x, T * K, 5);
    fill_normal(w, 128 * K, 6);
    assert_int_equal(ml_rotation_create(&r, 128, K, NULL), MARLIN_OK);
    ml_rotation_fit(&r, w, 1.0f, 7);
    memset(h, 0, sizeof h);
    memset(expected, 0, sizeof expected);
    for (int t = 0; t < T; t++) {
        float rotated[K];
        for (int i = 0; i < K; i++) {
            rotated[i] = x[t * K + i] * r.su[i];
        }
        ml_hadamard_rows(rotated, 1);
        for (int i = 0; i < K * K; i++) {
            h[i] += x[t * K + i / K] * x[t * K + i % K];
            expected[i] += rotated[i / K] * rotated[i % K];
        }
    }
    ml_rotation_hessian(&r, h);
    for (int i = 0; i < K * K; i++) {
        assert_true(fabsf(h[i] - expected[i]) < 2e-3f);
    }
    ml_rotation_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_match_the_definition),
        cmocka_unit_test(columns_are_rows_of_the_transpose),
        cmocka_unit_test(fit_then_undo_gives_the_weights_back),
        cmocka_unit_test(hessian_follows_the_inputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
