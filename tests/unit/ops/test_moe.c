/* SPDX-License-Identifier: Apache-2.0
 *
 * Routing of tokens and the sorting of pairs by expert, against naive loops.
 */
#include "base/rng.h"
#include "kernels/kernels.h"
#include "ops/ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"
#include "stream.h"

enum { MAX_GROUPS = 8, MAX_TOKENS = 40, MAX_EXPERTS = 64, MAX_TOP = 8, MAX_PAIRS = MAX_TOKENS * MAX_TOP };

static int32_t expert[MAX_PAIRS], row[MAX_PAIRS], token[MAX_PAIRS];
static float weight[MAX_PAIRS];
static int32_t start[MAX_EXPERTS + 1];
static const struct ml_moe_plan plan = {expert, weight, row, token, start};
static struct ml_stream stream;

static int open_ops(void **state) {
    const struct ml_ops_sizes sizes = {
        .rows = MAX_TOKENS, .runs = 1, .positions = 1, .experts = MAX_EXPERTS, .top_k = MAX_TOP};
    (void)state;
    return open_cpu(&stream, NULL, &sizes);
}

static int close_ops(void **state) {
    close_cpu(&stream);
    return guard_clean(state);
}

/* Nothing of it may allocate. */
static void route(float *logits, size_t n, const struct ml_router *router) {
    ml_mem_guard_begin("route");
    ml_ops_cpu.route(&stream,
                     &(struct ml_route_op){.router = *router, .logits = logits, .n = n, .plan = plan});
    ml_mem_guard_end();
}

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

/* What decides of a token by DeepSeek's rules: the greatest of score and bias in the groups whose two greatest add up
 * to most. -INFINITY: in a group that is left out. */
static void naive_deciding(const float *logits, const struct ml_router *r, float *decides) {
    const size_t width = r->experts / r->groups;
    float sums[MAX_GROUPS];
    for (size_t e = 0; e < r->experts; e++)
        decides[e] = (float)(1 / (1 + exp(-(double)logits[e]))) + r->bias[e];
    for (size_t g = 0; g < r->groups; g++) {
        sums[g] = -INFINITY;
        for (size_t a = g * width; a < (g + 1) * width; a++)
            for (size_t b = a + 1; b < (g + 1) * width; b++)
                if (decides[a] + decides[b] > sums[g]) sums[g] = decides[a] + decides[b];
    }
    for (size_t left = r->groups; left > r->top_groups; left--) {
        size_t worst = r->groups;
        for (size_t g = 0; g < r->groups; g++) /* of equals the last one goes */
            if (sums[g] < INFINITY && (worst == r->groups || sums[g] <= sums[worst])) worst = g;
        for (size_t e = worst * width; e < (worst + 1) * width; e++)
            decides[e] = -INFINITY;
        sums[worst] = INFINITY;
    }
}

static void check_sigmoid_token(const float *logits, const struct ml_router *r, size_t t) {
    float decides[MAX_EXPERTS];
    double sum = 0;
    naive_deciding(logits, r, decides);
    for (size_t c = 0; c < r->top_k; c++) {
        size_t best = 0;
        for (size_t e = 1; e < r->experts; e++)
            if (decides[e] > decides[best]) best = e;
        assert_int_equal(expert[t * r->top_k + c], best);
        decides[best] = -INFINITY;
        sum += 1 / (1 + exp(-(double)logits[best]));
    }
    for (size_t c = 0; c < r->top_k; c++) {
        const double own = 1 / (1 + exp(-(double)logits[expert[t * r->top_k + c]]));
        const double want = own / (r->normalise ? sum : 1.0) * (double)r->scale;
        assert_true(fabs(weight[t * r->top_k + c] - want) < 1e-6 * (double)r->scale);
    }
}

/* Pairs sorted by expert, in the order of their tokens: every pair once. */
static void check_groups(size_t n, const struct ml_router *router) {
    const size_t pairs = n * router->top_k;
    int32_t at = 0;
    for (size_t e = 0; e < router->experts; e++) {
        assert_int_equal(start[e], at);
        for (size_t i = 0; i < pairs; i++) {
            if ((size_t)expert[i] != e) continue;
            assert_int_equal(row[i], at);
            assert_int_equal(token[at], i / router->top_k);
            at++;
        }
    }
    assert_int_equal(start[router->experts], pairs);
}

static void routes_equal_a_naive_loop(void **state) {
    (void)state;
    float logits[MAX_TOKENS * MAX_EXPERTS], before[MAX_TOKENS * MAX_EXPERTS];
    struct ml_rng rng;
    ml_rng_seed(&rng, 5);
    for (int round = 0; round < 200; round++) {
        const size_t n = 1 + ml_rng_u64(&rng) % MAX_TOKENS, experts = 1 + ml_rng_u64(&rng) % MAX_EXPERTS;
        const size_t most = experts < MAX_TOP ? experts : MAX_TOP, top_k = 1 + ml_rng_u64(&rng) % most;
        const struct ml_router router = {
            .experts = experts, .top_k = top_k, .normalise = ml_rng_u64(&rng) & 1};
        /* Multiples of 1/2, so that ties are common. */
        for (size_t i = 0; i < n * experts; i++)
            logits[i] = (float)(ml_rng_u64(&rng) % 9) * 0.5f;
        memcpy(before, logits, sizeof before);
        route(logits, n, &router);
        for (size_t t = 0; t < n; t++)
            check_token(before + t * experts, experts, top_k, router.normalise, t);
        check_groups(n, &router);
    }
}

static void sigmoid_routes_with_groups_equal_a_naive_loop(void **state) {
    (void)state;
    float logits[MAX_TOKENS * MAX_EXPERTS], before[MAX_TOKENS * MAX_EXPERTS], bias[MAX_EXPERTS];
    struct ml_rng rng;
    ml_rng_seed(&rng, 6);
    for (int round = 0; round < 400; round++) {
        const size_t n = 1 + ml_rng_u64(&rng) % 8, groups = 1 + ml_rng_u64(&rng) % MAX_GROUPS;
        const size_t width = 2 + ml_rng_u64(&rng) % (MAX_EXPERTS / MAX_GROUPS - 1);
        const size_t top_groups = 1 + ml_rng_u64(&rng) % groups, most = top_groups * width;
        const struct ml_router router = {.experts = groups * width,
                                         .top_k = 1 + ml_rng_u64(&rng) % (most < MAX_TOP ? most : MAX_TOP),
                                         .normalise = ml_rng_u64(&rng) & 1,
                                         .sigmoid = true,
                                         .bias = bias,
                                         .groups = groups,
                                         .top_groups = top_groups,
                                         .scale = 2.5f};
        /* Few values, so that ties are common. A bias below 0 makes what decides negative. */
        for (size_t e = 0; e < router.experts; e++)
            bias[e] = (float)(ml_rng_u64(&rng) % 5) * 0.5f - 1.5f;
        for (size_t i = 0; i < n * router.experts; i++)
            logits[i] = (float)(ml_rng_u64(&rng) % 9) - 4.0f;
        memcpy(before, logits, sizeof before);
        route(logits, n, &router);
        for (size_t t = 0; t < n; t++)
            check_sigmoid_token(before + t * router.experts, &router, t);
        check_groups(n, &router);
    }
}

static void numbers_stay_in_range_without_numbers(void **state) {
    (void)state;
    float logits[2 * 8];
    for (int i = 0; i < 16; i++)
        logits[i] = NAN;
    for (int i = 8; i < 16; i++)
        logits[i] = i == 11 ? INFINITY : -INFINITY;
    const struct ml_router router = {.experts = 8, .top_k = 8, .normalise = true};
    route(logits, 2, &router);
    check_groups(2, &router);
    for (int t = 0; t < 2; t++) {
        unsigned seen = 0;
        for (int c = 0; c < 8; c++) {
            assert_in_range(expert[t * 8 + c], 0, 7);
            seen |= 1u << expert[t * 8 + c];
        }
        assert_int_equal(seen, 255);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes_equal_a_naive_loop),
        cmocka_unit_test(sigmoid_routes_with_groups_equal_a_naive_loop),
        cmocka_unit_test(numbers_stay_in_range_without_numbers),
    };
    return cmocka_run_group_tests(tests, open_ops, close_ops);
}
