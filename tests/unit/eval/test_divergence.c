/* SPDX-License-Identifier: Apache-2.0
 *
 * Divergence, likelihood and percentiles against naive double arithmetic.
 */
#include "base/rng.h"
#include "eval/divergence.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { VOCAB = 5003 };

static double naive_p(const float *logits, size_t n, size_t i) {
    double sum = 0;
    for (size_t k = 0; k < n; k++)
        sum += exp((double)logits[k] - (double)logits[i]);
    return 1 / sum;
}

static double naive_kl(const float *ref, const float *model, size_t n) {
    double sum = 0, zr = 0, zm = 0;
    for (size_t i = 0; i < n; i++) {
        zr += exp((double)ref[i]);
        zm += exp((double)model[i]);
    }
    for (size_t i = 0; i < n; i++)
        sum += exp((double)ref[i]) / zr * log((exp((double)ref[i]) / zr) / (exp((double)model[i]) / zm));
    return sum;
}

static void fill(struct ml_rng *rng, float *v, size_t n, float scale) {
    for (size_t i = 0; i < n; i++)
        v[i] = scale * ml_rng_normal(rng);
}

static void equals_naive_double(void **state) {
    (void)state;
    static float ref[VOCAB], model[VOCAB];
    struct ml_rng rng;
    ml_rng_seed(&rng, 3);
    for (int round = 0; round < 20; round++) {
        const size_t n = 1 + (size_t)(ml_rng_u64(&rng) % VOCAB);
        fill(&rng, ref, n, 4);
        fill(&rng, model, n, 0.1f);
        for (size_t i = 0; i < n; i++)
            model[i] += ref[i];
        const double want = naive_kl(ref, model, n);
        assert_true(fabs(ml_kl_divergence(ref, model, n) - want) <= 1e-6);
        const size_t id = (size_t)(ml_rng_u64(&rng) % n);
        const double nll = -log(naive_p(model, n, id));
        assert_true(fabs(ml_nll(model, n, (int32_t)id) - nll) <= 1e-6 * (1 + nll));
    }
}

static void is_zero_for_equal_and_shifted_logits(void **state) {
    (void)state;
    static float a[VOCAB], b[VOCAB];
    struct ml_rng rng;
    ml_rng_seed(&rng, 4);
    fill(&rng, a, VOCAB, 3);
    for (size_t i = 0; i < VOCAB; i++)
        b[i] = a[i] + 8;
    assert_true(fabs(ml_kl_divergence(a, a, VOCAB)) <= 1e-12);
    assert_true(fabs(ml_kl_divergence(a, b, VOCAB)) <= 1e-6);
}

static void large_logits_do_not_overflow(void **state) {
    (void)state;
    const float a[3] = {3e4f, 0, -3e4f}, b[3] = {0, 0, 0};
    assert_true(fabs(ml_kl_divergence(a, b, 3) - log(3)) <= 1e-9);
    assert_true(ml_nll(a, 3, 0) == 0);
}

static void percentiles_interpolate(void **state) {
    (void)state;
    const double v[4] = {1, 2, 4, 8};
    assert_true(ml_percentile(v, 4, 0) == 1);
    assert_true(ml_percentile(v, 4, 50) == 3);
    assert_true(fabs(ml_percentile(v, 4, 99) - 7.88) <= 1e-12);
    assert_true(ml_percentile(v, 4, 100) == 8);
    assert_true(ml_percentile(v, 1, 99) == 1);
}

static void gathers_the_figures(void **state) {
    (void)state;
    struct ml_divergence d;
    struct ml_divergence_result r;
    struct marlin_error err;
    assert_int_equal(ml_divergence_init(&d, 4, &err), MARLIN_OK);
    assert_int_equal(ml_divergence_result(&d, &r, &err), MARLIN_ERR_ARGUMENT);
    const double kl[4] = {8, 1, 4, 2};
    memcpy(d.kl, kl, sizeof(kl));
    d.n = 4;
    d.agree = 3;
    assert_int_equal(ml_divergence_result(&d, &r, &err), MARLIN_OK);
    assert_true(r.kld_mean == 3.75 && r.kld_median == 3 && r.top1_agreement == 0.75);
    d.kl[2] = (double)NAN;
    assert_int_equal(ml_divergence_result(&d, &r, &err), MARLIN_ERR_NUMERIC);
    assert_non_null(strstr(err.text, "position 2"));
    ml_divergence_free(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_naive_double),
        cmocka_unit_test(is_zero_for_equal_and_shifted_logits),
        cmocka_unit_test(large_logits_do_not_overflow),
        cmocka_unit_test(percentiles_interpolate),
        cmocka_unit_test(gathers_the_figures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
