/* SPDX-License-Identifier: Apache-2.0
 *
 * Trellis search: a naive twin with unlimited costs, exact optima of tiny trellises, equality of all tiers,
 * rings that close whatever the targets are, and the way from targets to bytes and back for both codecs.
 */
#include "kernels/viterbi.h"

#include "base/mem.h"
#include "base/rng.h"
#include "packing/codes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = ML_VITERBI_STEPS };

static void *scratch_for(const struct ml_viterbi_code *c) {
    void *p = ml_alloc_aligned(ml_viterbi_scratch(c));
    assert_non_null(p);
    return p;
}

static void normal(struct ml_rng *rng, float *x, float scale) {
    for (int i = 0; i < N; i++)
        x[i] = scale * ml_rng_normal(rng);
}

static void assert_ring(const struct ml_viterbi_code *c, const uint16_t *state) {
    const unsigned kept = (1u << (c->window - c->bits)) - 1;
    for (int i = 0; i < N; i++) {
        assert_true(state[i] < 1u << c->window);
        assert_int_equal((unsigned)state[i] >> c->bits, state[(i + N - 1) % N] & kept);
    }
}

/* ---- the twin: the same way around with 64-bit costs, no tags, no subtraction, in the plainest loops */

struct twin {
    const struct ml_viterbi_code *c;
    unsigned nodes;
    int64_t *cost; /* [steps + 1][nodes] */
    unsigned *h;   /* [steps][nodes] */
};

/* h in the order of ties: h mod 2^e first. */
static unsigned nth_h(unsigned bits, unsigned n) {
    if (bits <= 4) return n;
    const unsigned high = bits - 4;
    return n >> high | (n & ((1u << high) - 1)) << 4;
}

static void twin_run(struct twin *t, const int *level, int first, int steps, int from) {
    const unsigned k = t->c->bits;
    for (unsigned j = 0; j < t->nodes; j++)
        t->cost[j] = from < 0 || (unsigned)from == j ? 0 : (int64_t)1 << 50;
    for (int i = 0; i < steps; i++)
        for (unsigned j = 0; j < t->nodes; j++) {
            int64_t best = INT64_MAX;
            for (unsigned n = 0; n < 1u << k; n++) {
                const unsigned h = nth_h(k, n), state = h << (t->c->window - k) | j;
                const int64_t d = level[(first + i) % N] - t->c->level[state];
                const int64_t cost = t->cost[(size_t)i * t->nodes + (state >> k)] + d * d;
                if (cost >= best) continue;
                best = cost;
                t->h[(size_t)i * t->nodes + j] = h;
            }
            t->cost[(size_t)(i + 1) * t->nodes + j] = best;
        }
}

static unsigned twin_before(const struct twin *t, int i, unsigned j) {
    return (t->h[(size_t)i * t->nodes + j] << (t->c->window - t->c->bits) | j) >> t->c->bits;
}

static unsigned twin_trace(const struct twin *t, unsigned j, int first, uint16_t *state) {
    for (int i = N - 1; i >= 0; i--) {
        state[i] = (uint16_t)(t->h[(size_t)(first + i) * t->nodes + j] << (t->c->window - t->c->bits) | j);
        j = twin_before(t, first + i, j);
    }
    return j;
}

static void twin_search(const struct ml_viterbi_code *c, const int *level, uint16_t *state) {
    struct twin t = {.c = c, .nodes = 1u << (c->window - c->bits)};
    const int overlap = (int)c->overlap;
    t.cost = ml_calloc((size_t)(overlap + N + 1) * t.nodes, sizeof *t.cost);
    t.h = ml_calloc((size_t)(overlap + N) * t.nodes, sizeof *t.h);
    assert_true(t.cost && t.h);
    twin_run(&t, level, N - overlap, overlap + N, -1);
    unsigned j = 0;
    const int64_t *end = t.cost + (size_t)(overlap + N) * t.nodes;
    for (unsigned n = 1; n < t.nodes; n++)
        if (end[n] < end[j]) j = n;
    bool closed = false;
    for (int i = 0; i < (int)c->tries && !closed; i++) {
        const unsigned from = twin_trace(&t, j, overlap, state);
        closed = from == j;
        j = from;
    }
    if (!closed) {
        twin_run(&t, level, 0, N, (int)j);
        assert_int_equal(twin_trace(&t, j, 0, state), j);
    }
    ml_free(t.cost);
    ml_free(t.h);
}

static struct ml_viterbi_code random_code(struct ml_rng *rng, unsigned bits, unsigned window) {
    struct ml_viterbi_code c;
    const size_t n = (size_t)1 << window;
    float *value = ml_alloc(n * sizeof *value);
    assert_non_null(value);
    for (size_t i = 0; i < n; i++)
        value[i] = ml_rng_normal(rng);
    assert_int_equal(ml_viterbi_code_table(&c, bits, window, value, NULL), MARLIN_OK);
    ml_free(value);
    return c;
}

/* Levels that are multiples of 4 have squares whose low bits are clear, so integer costs are exact as long as
 * nothing is clipped; targets within the range see to that. */
static void equals_the_twin_where_costs_are_exact(void **unused) {
    static const unsigned shapes[][2] = {{1, 5}, {2, 6}, {2, 9}, {3, 8}, {4, 9}, {5, 10}, {6, 12}};
    const struct ml_viterbi_kernels reference = {ML_CPU_GENERIC, ml_viterbi_search_reference,
                                                 ml_viterbi_search_wide};
    struct ml_rng rng;
    ml_rng_seed(&rng, 8);
    (void)unused;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int repeat = 0; repeat < 4; repeat++) {
            struct ml_viterbi_code c = random_code(&rng, shapes[s][0], shapes[s][1]);
            if (repeat % 2) c.tries = 0;
            uint16_t state[N], twin[N];
            float x[N];
            int level[N];
            for (size_t i = 0; i < (size_t)1 << c.window; i++) {
                c.level[i] = (int16_t)(c.level[i] % 92 / 4 * 4);
                c.value[i] = (float)c.level[i] / c.scale;
            }
            for (int i = 0; i < N; i++) {
                level[i] = 4 * (int)(ml_rng_u64(&rng) % 45) - 88;
                if (level[i] < c.lowest || level[i] > c.highest) level[i] = 0;
                x[i] = (float)level[i] / c.scale;
            }
            void *scratch = scratch_for(&c);
            ml_viterbi_ring(&reference, &c, x, state, scratch);
            twin_search(&c, level, twin);
            assert_memory_equal(state, twin, sizeof state);
            if (c.bits <= 4) { /* the order of ties is the same */
                const struct ml_viterbi_kernels wide = {ML_CPU_GENERIC, ml_viterbi_search_wide,
                                                        ml_viterbi_search_wide};
                ml_viterbi_ring(&wide, &c, x, state, scratch);
                assert_memory_equal(state, twin, sizeof state);
            }
            ml_free_aligned(scratch);
            ml_viterbi_code_free(&c);
        }
}

/* Many bits leave the tails of the table sparse: for runs of targets there 16-bit costs say nothing, and what
 * the kernel finds alone may be a hundred times as bad. */
static void rings_in_the_tail_are_not_lost(void **unused) {
    struct ml_viterbi_kernels kernels;
    struct ml_rng rng;
    ml_viterbi_kernels_init(&kernels, ml_cpu()->tier);
    ml_rng_seed(&rng, 16);
    (void)unused;
    for (unsigned bits = 6; bits <= 8; bits += 2) {
        const struct ml_viterbi_kernels wide = {ML_CPU_GENERIC, ml_viterbi_search_wide,
                                                ml_viterbi_search_wide};
        struct ml_viterbi_code c;
        uint16_t state[N];
        float x[N];
        assert_int_equal(ml_viterbi_code_exl3(&c, bits, ML_EXL3_MUL1, NULL), MARLIN_OK);
        void *scratch = scratch_for(&c);
        normal(&rng, x, 0.8f);
        for (int i = 100; i < 106; i++)
            x[i] = 2.9f + 0.1f * (float)(i % 3);
        const double found = ml_viterbi_ring(&kernels, &c, x, state, scratch);
        assert_ring(&c, state);
        assert_true(found <= 1.02 * ml_viterbi_ring(&wide, &c, x, state, scratch));
        ml_free_aligned(scratch);
        ml_viterbi_code_free(&c);
    }
}

/* Integers in any order: every version finds the same ring. */
static void wide_versions_agree(void **unused) {
    static const unsigned shapes[][2] = {{2, 9}, {3, 12}, {4, 10}, {6, 14}, {8, 16}};
    struct ml_viterbi_kernels kernels;
    struct ml_rng rng;
    ml_viterbi_kernels_init(&kernels, ml_cpu()->tier);
    ml_rng_seed(&rng, 17);
    (void)unused;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        struct ml_viterbi_code c = random_code(&rng, shapes[s][0], shapes[s][1]);
        uint8_t found[N], expected[N];
        int16_t level[N];
        void *scratch = scratch_for(&c);
        for (int i = 0; i < N; i++)
            level[i] = (int16_t)(ml_rng_u64(&rng) % 65401 - 32700);
        ml_viterbi_search_wide(&c, level, expected, scratch);
        kernels.wide(&c, level, found, scratch);
        assert_memory_equal(found, expected, N);
        ml_free_aligned(scratch);
        ml_viterbi_code_free(&c);
    }
}

/* The best ring of all: one forced search from every node. */
static double exact_optimum(const struct ml_viterbi_code *c, const float *x) {
    const unsigned nodes = 1u << (c->window - c->bits), k = c->bits;
    double best_ring = INFINITY;
    for (unsigned from = 0; from < nodes; from++) {
        double cost[64], next[64];
        for (unsigned j = 0; j < nodes; j++)
            cost[j] = j == from ? 0 : INFINITY;
        for (int i = 0; i < N; i++) {
            for (unsigned j = 0; j < nodes; j++) {
                next[j] = INFINITY;
                for (unsigned h = 0; h < 1u << k; h++) {
                    const unsigned state = h << (c->window - k) | j;
                    const double d = (double)x[i] - (double)c->value[state];
                    next[j] = fmin(next[j], cost[state >> k] + d * d);
                }
            }
            memcpy(cost, next, sizeof cost);
        }
        best_ring = fmin(best_ring, cost[from]);
    }
    return best_ring;
}

static void tiny_trellises_come_close_to_the_optimum(void **unused) {
    static const unsigned shapes[][2] = {{1, 2}, {1, 4}, {2, 4}, {2, 7}, {3, 6}, {4, 8}};
    const struct ml_viterbi_kernels reference = {ML_CPU_GENERIC, ml_viterbi_search_reference,
                                                 ml_viterbi_search_wide};
    struct ml_rng rng;
    ml_rng_seed(&rng, 9);
    (void)unused;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        double found = 0, optimum = 0;
        for (int repeat = 0; repeat < 6; repeat++) {
            struct ml_viterbi_code c = random_code(&rng, shapes[s][0], shapes[s][1]);
            uint16_t state[N];
            float x[N];
            normal(&rng, x, 1);
            void *scratch = scratch_for(&c);
            const double cost = ml_viterbi_ring(&reference, &c, x, state, scratch);
            const double least = exact_optimum(&c, x);
            assert_ring(&c, state);
            assert_true(cost >= least * (1 - 1e-9));
            found += cost;
            optimum += least;
            ml_free_aligned(scratch);
            ml_viterbi_code_free(&c);
        }
        assert_true(found <= optimum * 1.01);
    }
}

/* ---- tiers */

static unsigned tiers(enum ml_cpu_tier *out) {
    unsigned n = 0;
    for (int t = ML_CPU_GENERIC + 1; t < ML_CPU_TIERS; t++)
        if (ml_cpu_tier_has(ml_cpu()->tier, (enum ml_cpu_tier)t)) out[n++] = (enum ml_cpu_tier)t;
    return n;
}

/* Kinds of targets that a quantizer may meet: ordinary, far outside, constant, and none at all. */
static void targets(struct ml_rng *rng, int kind, float *x) {
    normal(rng, x, 1);
    if (kind == 1)
        for (int i = 0; i < N; i += 7)
            x[i] *= 1e6f;
    if (kind == 2)
        for (int i = 0; i < N; i++)
            x[i] = 0;
    if (kind == 3) {
        x[0] = NAN;
        x[100] = INFINITY;
        x[255] = -INFINITY;
    }
    if (kind == 4)
        for (int i = 0; i < N; i++)
            x[i] *= 4;
}

static void assert_tiers_agree(struct ml_viterbi_code *c, struct ml_rng *rng, int kinds) {
    enum ml_cpu_tier tier[ML_CPU_TIERS];
    const unsigned n = tiers(tier);
    const struct ml_viterbi_kernels reference = {ML_CPU_GENERIC, ml_viterbi_search_reference,
                                                 ml_viterbi_search_wide};
    void *scratch = scratch_for(c);
    for (int kind = 0; kind < kinds + (c->window < 16); kind++) {
        c->tries =
            kind < kinds ? ML_VITERBI_TRIES : 0; /* the last time all is left to the run from one node */
        uint16_t expected[N], state[N];
        float x[N];
        targets(rng, kind < kinds ? kind : 0, x);
        const double cost = ml_viterbi_ring(&reference, c, x, expected, scratch);
        assert_ring(c, expected);
        for (unsigned t = 0; t < n; t++) {
            struct ml_viterbi_kernels k;
            ml_viterbi_kernels_init(&k, tier[t]);
            const double same = ml_viterbi_ring(&k, c, x, state, scratch);
            assert_memory_equal(state, expected, sizeof state);
            assert_true(same == cost || isnan(cost));
        }
    }
    ml_free_aligned(scratch);
}

static void tiers_agree_on_tap_codes(void **unused) {
    size_t count;
    const struct ml_tap_code *codes = ml_tap_codes(&count);
    struct ml_rng rng;
    ml_rng_seed(&rng, 10);
    (void)unused;
    for (size_t i = 0; i < count; i++) {
        struct ml_viterbi_code c;
        if (codes[i].window == 16 && codes[i].bits != 2 && codes[i].bits != 5)
            continue; /* the reference is slow */
        assert_int_equal(ml_viterbi_code_tap(&c, &codes[i], NULL, NULL), MARLIN_OK);
        assert_tiers_agree(&c, &rng, codes[i].window == 12 ? 5 : 1);
        ml_viterbi_code_free(&c);
    }
}

static void tiers_agree_on_exl3(void **unused) {
    struct ml_rng rng;
    ml_rng_seed(&rng, 11);
    (void)unused;
    for (unsigned bits = 1; bits <= 8; bits += bits == 7 ? 1 : 3) {
        struct ml_viterbi_code c;
        const enum ml_exl3_codebook cb = (enum ml_exl3_codebook)(bits % 3);
        assert_int_equal(ml_viterbi_code_exl3(&c, bits, cb, NULL), MARLIN_OK);
        assert_tiers_agree(&c, &rng, 1);
        ml_viterbi_code_free(&c);
    }
}

/* Also the sizes at which the vector versions hand over to the reference. */
static void tiers_agree_on_any_table(void **unused) {
    struct ml_rng rng;
    ml_rng_seed(&rng, 12);
    (void)unused;
    for (unsigned bits = 1; bits <= 6; bits++)
        for (unsigned window = 2 * bits; window <= 12; window++) {
            struct ml_viterbi_code c = random_code(&rng, bits, window);
            assert_tiers_agree(&c, &rng, 2);
            ml_viterbi_code_free(&c);
        }
}

/* ---- the whole way */

static void tap_tiles_decode_to_the_states_values(void **unused) {
    struct ml_rng rng;
    struct ml_viterbi_kernels kernels;
    ml_viterbi_kernels_init(&kernels, ml_cpu()->tier);
    ml_rng_seed(&rng, 13);
    (void)unused;
    for (unsigned bits = 2; bits <= 6; bits++) {
        const struct ml_tap_code *tap = ml_tap_code_find(bits, 12);
        struct ml_viterbi_code c;
        assert_int_equal(ml_viterbi_code_tap(&c, tap, NULL, NULL), MARLIN_OK);
        const uint8_t *order = ml_tap_order(bits);
        uint16_t state[N];
        uint8_t symbol[N], tile[192];
        float weight[N], target[N];
        int8_t decoded[N];
        normal(&rng, weight, 1);
        for (int i = 0; i < N; i++)
            target[i] = weight[order[N - 1 - i]];
        void *scratch = scratch_for(&c);
        const double cost = ml_viterbi_ring(&kernels, &c, target, state, scratch);
        for (int i = 0; i < N; i++)
            symbol[N - 1 - i] = (uint8_t)(state[i] & ((1u << bits) - 1));
        assert_int_equal(ml_tap_pack(bits, symbol, tile, NULL), MARLIN_OK);
        ml_tap_decode(tap, tile, decoded);
        double again = 0;
        for (int i = 0; i < N; i++) {
            const double e = (double)weight[i] - (double)((float)decoded[i] * tap->unit);
            again += e * e;
        }
        assert_float_equal(again, cost, 1e-6 * cost);
        ml_free_aligned(scratch);
        ml_viterbi_code_free(&c);
    }
}

static void exl3_tiles_pack(void **unused) {
    struct ml_rng rng;
    struct ml_viterbi_kernels kernels;
    ml_viterbi_kernels_init(&kernels, ml_cpu()->tier);
    ml_rng_seed(&rng, 14);
    (void)unused;
    for (unsigned bits = 1; bits <= 8; bits++) {
        struct ml_viterbi_code c;
        uint16_t state[N], again[N];
        uint8_t tile[256];
        float x[N];
        assert_int_equal(ml_viterbi_code_exl3(&c, bits, ML_EXL3_MUL1, NULL), MARLIN_OK);
        void *scratch = scratch_for(&c);
        normal(&rng, x, 1);
        ml_viterbi_ring(&kernels, &c, x, state, scratch);
        assert_true(ml_exl3_valid(bits, state));
        assert_int_equal(ml_exl3_pack(bits, state, tile, NULL), MARLIN_OK);
        assert_int_equal(ml_exl3_unpack(bits, tile, again, NULL), MARLIN_OK);
        assert_memory_equal(state, again, sizeof state);
        ml_free_aligned(scratch);
        ml_viterbi_code_free(&c);
    }
}

/* The promise of the normal codes, on a fixed sample. */
static void distortion_of_normal_codes(void **unused) {
    static const double promise[] = {0.0705, 0.0180, 0.00475};
    struct ml_viterbi_kernels kernels;
    const int rings = 512;
    ml_viterbi_kernels_init(&kernels, ml_cpu()->tier);
    (void)unused;
    for (unsigned bits = 2; bits <= 4; bits++) {
        struct ml_rng rng;
        struct ml_viterbi_code c;
        uint16_t state[N];
        float x[N];
        double sum = 0;
        ml_rng_seed(&rng, 15);
        assert_int_equal(ml_viterbi_code_tap(&c, ml_tap_code_find(bits, 12), NULL, NULL), MARLIN_OK);
        void *scratch = scratch_for(&c);
        for (int r = 0; r < rings; r++) {
            normal(&rng, x, 1);
            sum += ml_viterbi_ring(&kernels, &c, x, state, scratch);
        }
        printf("%u bits: distortion %.5f\n", bits, sum / (rings * N));
        assert_true(sum / (rings * N) <= promise[bits - 2]);
        ml_free_aligned(scratch);
        ml_viterbi_code_free(&c);
    }
}

static void bad_codes_are_refused(void **unused) {
    static const float flat[64] = {0}, broken[64] = {[7] = NAN};
    struct ml_viterbi_code c;
    struct marlin_error err;
    (void)unused;
    assert_int_equal(ml_viterbi_code_table(&c, 3, 5, flat, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(ml_viterbi_code_table(&c, 0, 5, flat, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(ml_viterbi_code_table(&c, 2, 17, flat, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(ml_viterbi_code_table(&c, 2, 6, flat, &err), MARLIN_ERR_NUMERIC);
    assert_int_equal(ml_viterbi_code_table(&c, 2, 6, broken, &err), MARLIN_ERR_NUMERIC);
    assert_null(c.value);
    assert_int_equal(ml_viterbi_code_exl3(&c, 9, ML_EXL3_MCG, &err), MARLIN_ERR_ARGUMENT);
    ml_mem_fail_at(2);
    assert_int_equal(ml_viterbi_code_exl3(&c, 4, ML_EXL3_MCG, &err), MARLIN_ERR_MEMORY);
    ml_mem_fail_at(0);
    ml_viterbi_code_free(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_twin_where_costs_are_exact),
        cmocka_unit_test(rings_in_the_tail_are_not_lost),
        cmocka_unit_test(wide_versions_agree),
        cmocka_unit_test(tiny_trellises_come_close_to_the_optimum),
        cmocka_unit_test(tiers_agree_on_tap_codes),
        cmocka_unit_test(tiers_agree_on_exl3),
        cmocka_unit_test(tiers_agree_on_any_table),
        cmocka_unit_test(tap_tiles_decode_to_the_states_values),
        cmocka_unit_test(exl3_tiles_pack),
        cmocka_unit_test(distortion_of_normal_codes),
        cmocka_unit_test(bad_codes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
