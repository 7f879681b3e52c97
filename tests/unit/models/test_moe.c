/* SPDX-License-Identifier: Apache-2.0
 *
 * Routing and grouping of experts against a naive loop over tokens.
 */
#include "base/rng.h"
#include "models/layers/layers.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"

enum { MAX_TOKENS = 40, MAX_EXPERTS = 64, MAX_TOP = 8, MAX_PAIRS = MAX_TOKENS * MAX_TOP };

static int32_t expert[MAX_PAIRS], row[MAX_PAIRS], token[MAX_PAIRS];
static float weight[MAX_PAIRS];
static size_t start[MAX_EXPERTS + 1];
static struct ml_moe_plan plan = {expert, weight, row, token, start};

/* The k-th choice: the largest probability not yet taken, the lowest number among equals. */
static size_t naive_choice(const double *p, const bool *taken, size_t experts) {
    size_t best = experts;
    for (size_t e = experts; e-- > 0;) {
        if (!taken[e] && (best == experts || p[e] >= p[best])) best = e;
    }
    return best;
}

static void check_token(const float *logits, size_t experts, size_t top_k, bool normalise, size_t t) {
    double p[MAX_EXPERTS], sum = 0, chosen = 0;
    bool taken[MAX_EXPERTS] = {false};
    for (size_t e = 0; e < experts; e++)
        sum += p[e] = exp((double)logits[e]);
    for (size_t e = 0; e < experts; e++)
        p[e] /= sum;
    for (size_t c = 0; c < top_k; c++) {
        const size_t e = naive_choice(p, taken, experts);
        taken[e] = true;
        chosen += p[e];
        assert_int_equal(expert[t * top_k + c], e);
    }
    for (size_t c = 0; c < top_k; c++) {
        const double want = p[expert[t * top_k + c]] / (normalise ? chosen : 1.0);
        assert_true(fabs(weight[t * top_k + c] - want) < 1e-6);
    }
}

static void routes_equal_a_naive_loop(void **state) {
    (void)state;
    float logits[MAX_TOKENS * MAX_EXPERTS], before[MAX_TOKENS * MAX_EXPERTS];
    struct ml_rng rng;
    ml_rng_seed(&rng, 5);
    for (int round = 0; round < 200; round++) {
        const size_t n = 1 + ml_rng_u64(&rng) % MAX_TOKENS, experts = 1 + ml_rng_u64(&rng) % MAX_EXPERTS;
        const size_t most = experts < MAX_TOP ? experts : MAX_TOP, top_k = 1 + ml_rng_u64(&rng) % most;
        const bool normalise = ml_rng_u64(&rng) & 1;
        /* Multiples of 1/2, so that ties are common. */
        for (size_t i = 0; i < n * experts; i++)
            logits[i] = (float)(ml_rng_u64(&rng) % 9) * 0.5f;
        memcpy(before, logits, sizeof before);
        ml_moe_route(ml_kernels(), logits, n, experts, top_k, normalise, &plan);
        for (size_t t = 0; t < n; t++)
            check_token(before + t * experts, experts, top_k, normalise, t);
    }
}

static void numbers_stay_in_range_without_numbers(void **state) {
    (void)state;
    float logits[2 * 8];
    for (int i = 0; i < 16; i++)
        logits[i] = NAN;
    for (int i = 8; i < 16; i++)
        logits[i] = i == 11 ? INFINITY : -INFINITY;
    ml_moe_route(ml_kernels(), logits, 2, 8, 8, true, &plan);
    for (int t = 0; t < 2; t++) {
        unsigned seen = 0;
        for (int c = 0; c < 8; c++) {
            assert_in_range(expert[t * 8 + c], 0, 7);
            seen |= 1u << expert[t * 8 + c];
        }
        assert_int_equal(seen, 255);
    }
}

static void groups_hold_every_pair_once_in_token_order(void **state) {
    (void)state;
    struct ml_rng rng;
    ml_rng_seed(&rng, 6);
    for (int round = 0; round < 200; round++) {
        const size_t n = 1 + ml_rng_u64(&rng) % MAX_TOKENS, experts = 1 + ml_rng_u64(&rng) % MAX_EXPERTS;
        const size_t top_k = 1 + ml_rng_u64(&rng) % MAX_TOP, pairs = n * top_k;
        size_t at = 0;
        for (size_t i = 0; i < pairs; i++)
            expert[i] = (int32_t)(ml_rng_u64(&rng) % experts);
        ml_moe_group(n, experts, top_k, &plan);
        for (size_t e = 0; e < experts; e++) {
            assert_int_equal(start[e], at);
            for (size_t i = 0; i < pairs; i++) {
                if ((size_t)expert[i] != e) continue;
                assert_int_equal(row[i], at);
                assert_int_equal(token[at], i / top_k);
                at++;
            }
        }
        assert_int_equal(start[experts], pairs);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes_equal_a_naive_loop),
        cmocka_unit_test(numbers_stay_in_range_without_numbers),
        cmocka_unit_test(groups_hold_every_pair_once_in_token_order),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
