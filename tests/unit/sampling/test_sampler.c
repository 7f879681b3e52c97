/* SPDX-License-Identifier: Apache-2.0
 *
 * The sampler against an obvious twin (full sort, long double), and the properties that a user relies on.
 */
#include "base/mem.h"
#include "sampling/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_VOCAB = 600, MAX_HISTORY = 100 };

static struct ml_sampler *make(const struct ml_sampling *s, size_t vocab, size_t max_tokens) {
    struct ml_sampler *out = NULL;
    struct marlin_error err = {0};
    if (ml_sampler_create(s, vocab, max_tokens, &out, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return out;
}

static int32_t next(struct ml_sampler *s, const float *logits, size_t vocab) {
    float copy[MAX_VOCAB];
    int32_t id = -1;
    struct marlin_error err = {0};
    memcpy(copy, logits, vocab * sizeof *copy);
    if (ml_sampler_next(s, copy, &id, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return id;
}

/* ---- the twin ---- */

struct entry {
    float logit;
    int32_t id;
    long double weight;
};

static int by_likelihood(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void twin_adjust(const struct ml_sampling *s, const int32_t *history, size_t n, float *logits,
                        size_t vocab) {
    const size_t window = s->penalty_window && (size_t)s->penalty_window < n ? (size_t)s->penalty_window : n;
    for (size_t i = 0; i < s->n_bias; i++) {
        logits[s->bias[i].id] += s->bias[i].bias;
    }
    for (size_t id = 0; id < vocab; id++) {
        int count = 0;
        for (size_t i = n - window; i < n; i++) {
            count += history[i] == (int32_t)id;
        }
        if (count == 0) continue;
        logits[id] = logits[id] > 0 ? logits[id] / s->repetition_penalty : logits[id] * s->repetition_penalty;
        const float falling = s->frequency_penalty * (float)count;
        logits[id] -= s->presence_penalty + falling;
    }
}

/* Narrows e to what may be chosen and returns how many. *close is set where rounding decides. */
static size_t twin_keep(const struct ml_sampling *s, struct entry *e, size_t n, bool *close) {
    if (s->top_k > 0 && (size_t)s->top_k < n) n = (size_t)s->top_k;
    long double total = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        total += e[i].weight;
    }
    if (s->top_p < 1) {
        size_t kept = 0;
        while (kept < n && sum < (long double)s->top_p * total) {
            sum += e[kept++].weight;
            if (fabsl(sum - (long double)s->top_p * total) < 1e-9L * total) *close = true;
        }
        n = kept ? kept : 1;
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (fabsl(e[i].weight - (long double)s->min_p) < 1e-9L && i > 0) *close = true;
        if (e[i].weight >= (long double)s->min_p) e[kept++] = e[i];
    }
    return kept;
}

/* Ids that may be chosen, most likely first; 1 when greedy. */
static size_t twin(const struct ml_sampling *s, const int32_t *history, size_t n_history, const float *logits,
                   size_t vocab, struct entry *e, bool *close) {
    float copy[MAX_VOCAB];
    memcpy(copy, logits, vocab * sizeof *copy);
    twin_adjust(s, history, n_history, copy, vocab);
    for (size_t i = 0; i < vocab; i++) {
        e[i] = (struct entry){.logit = copy[i], .id = (int32_t)i};
    }
    qsort(e, vocab, sizeof *e, by_likelihood);
    if (s->temperature == 0) return 1;
    for (size_t i = 0; i < vocab; i++) {
        e[i].weight = expl(((long double)e[i].logit - (long double)e[0].logit) / (long double)s->temperature);
    }
    return twin_keep(s, e, vocab, close);
}

/* ---- random cases ---- */

static size_t below(struct ml_rng *r, size_t n) {
    return (size_t)(ml_rng_double(r) * (double)n);
}

static void random_settings(struct ml_rng *r, struct ml_sampling *s, struct ml_bias *bias, size_t vocab) {
    ml_sampling_default(s);
    s->seed = ml_rng_u64(r);
    s->temperature = below(r, 5) == 0 ? 0 : 0.1f + (float)ml_rng_double(r) * 2;
    if (below(r, 2)) s->top_k = (int32_t)below(r, vocab + 5);
    if (below(r, 2)) s->top_p = 0.01f + 0.99f * (float)ml_rng_double(r);
    if (below(r, 3) == 0) s->min_p = (float)ml_rng_double(r) * 0.5f;
    if (below(r, 2)) s->repetition_penalty = 0.5f + (float)ml_rng_double(r);
    if (below(r, 2)) s->presence_penalty = (float)ml_rng_double(r) - 0.5f;
    if (below(r, 2)) s->frequency_penalty = (float)ml_rng_double(r) - 0.5f;
    if (below(r, 2)) s->penalty_window = (int32_t)below(r, 20);
    s->n_bias = below(r, 4);
    s->bias = bias;
    for (size_t i = 0; i < s->n_bias; i++) {
        bias[i].id = (int32_t)below(r, vocab);
        bias[i].bias = below(r, 3) == 0 && vocab > 3 ? -INFINITY : (float)ml_rng_double(r) * 4 - 2;
    }
}

/* Coarse values, so that ties happen. */
static void random_logits(struct ml_rng *r, float *logits, size_t n) {
    const float grain = below(r, 2) ? 0.25f : 1e-4f;
    for (size_t i = 0; i < n; i++) {
        logits[i] = grain * roundf(ml_rng_normal(r) * 3 / grain);
    }
}

static void agrees_with_the_twin(void **state) {
    (void)state;
    static struct entry e[MAX_VOCAB];
    struct ml_rng r;
    int compared = 0;
    ml_rng_seed(&r, 20240601);
    for (int round = 0; round < 1500; round++) {
        struct ml_bias bias[4];
        struct ml_sampling s;
        float logits[MAX_VOCAB];
        int32_t history[MAX_HISTORY];
        const size_t vocab = 4 + below(&r, MAX_VOCAB - 4), n_history = below(&r, MAX_HISTORY);
        random_settings(&r, &s, bias, vocab);
        random_logits(&r, logits, vocab);
        struct ml_sampler *sampler = make(&s, vocab, MAX_HISTORY);
        for (size_t i = 0; i < n_history; i++) {
            history[i] = (int32_t)below(&r, below(&r, 2) ? vocab : 4);
            ml_sampler_accept(sampler, history[i]);
        }
        bool close = false;
        const size_t n = twin(&s, history, n_history, logits, vocab, e, &close);
        bool seen[MAX_VOCAB] = {false};
        for (int draw = 0; draw < 8; draw++) {
            seen[next(sampler, logits, vocab)] = true;
        }
        for (size_t i = 0; i < n; i++) {
            seen[e[i].id] = false;
        }
        for (size_t id = 0; id < vocab && !close; id++) {
            if (seen[id])
                fail_msg("round %d: id %zu was chosen, which is not among the %zu kept", round, id, n);
        }
        if (s.temperature == 0) assert_int_equal(next(sampler, logits, vocab), e[0].id);
        compared += !close;
        ml_sampler_free(sampler);
    }
    assert_true(compared > 1200);
}

/* Pearson's test over what the twin keeps: every kept id appears as often as its weight says. */
static void check_frequencies(const struct ml_sampling *s, const float *logits, size_t vocab) {
    enum { DRAWS = 20000 };
    static struct entry e[MAX_VOCAB];
    int count[MAX_VOCAB] = {0};
    bool close = false;
    const size_t n = twin(s, NULL, 0, logits, vocab, e, &close);
    assert_false(close);
    struct ml_sampler *sampler = make(s, vocab, 1);
    for (int i = 0; i < DRAWS; i++) {
        count[next(sampler, logits, vocab)]++;
    }
    ml_sampler_free(sampler);
    long double total = 0;
    for (size_t i = 0; i < n; i++) {
        total += e[i].weight;
    }
    double chi = 0;
    int cells = 0, left = DRAWS;
    for (size_t i = 0; i < n; i++) {
        const double expected = (double)(e[i].weight / total) * DRAWS;
        left -= count[e[i].id];
        if (expected < 5) continue;
        chi += (count[e[i].id] - expected) * (count[e[i].id] - expected) / expected;
        cells++;
    }
    assert_int_equal(left, 0);
    /* Mean cells - 1, standard deviation sqrt(2 (cells - 1)): five of them is one in millions, and seeds are
     * fixed. */
    const double freedom = cells > 1 ? cells - 1 : 1;
    if (chi > freedom + 5 * sqrt(2 * freedom)) fail_msg("chi-square %g over %d cells", chi, cells);
}

static void frequencies(void **state) {
    (void)state;
    struct ml_rng r;
    ml_rng_seed(&r, 7);
    float logits[50];
    for (size_t i = 0; i < 50; i++) {
        logits[i] = ml_rng_normal(&r) * 2;
    }
    struct ml_sampling s;
    ml_sampling_default(&s);
    s.seed = 1;
    check_frequencies(&s, logits, 50);
    s.temperature = 0.5f;
    s.seed = 2;
    check_frequencies(&s, logits, 50);
    s.top_k = 7;
    check_frequencies(&s, logits, 50);
    s.top_p = 0.83f;
    check_frequencies(&s, logits, 50);
    s.top_k = 0;
    check_frequencies(&s, logits, 50);
    s.min_p = 0.07f;
    check_frequencies(&s, logits, 50);
    s.top_p = 1;
    check_frequencies(&s, logits, 50);
    /* Equally likely tokens: nothing may be dropped before the sum is reached. */
    s.min_p = 0;
    s.top_p = 0.51f;
    memset(logits, 0, sizeof logits);
    check_frequencies(&s, logits, 50);
}

static void greedy_ties(void **state) {
    (void)state;
    struct ml_sampling s;
    ml_sampling_default(&s);
    s.temperature = 0;
    struct ml_sampler *sampler = make(&s, 6, 1);
    assert_int_equal(next(sampler, (const float[]){1, 3, 2, 3, 3, -1}, 6), 1);
    assert_int_equal(next(sampler, (const float[]){0, 0, 0, 0, 0, 0}, 6), 0);
    assert_int_equal(next(sampler, (const float[]){-INFINITY, -INFINITY, -5, -INFINITY, -9, -5}, 6), 2);
    ml_sampler_free(sampler);
    s.temperature = 1;
    s.top_k = 1;
    sampler = make(&s, 6, 1);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(next(sampler, (const float[]){1, 3, 2, 3, 3, -1}, 6), 1);
    }
    ml_sampler_free(sampler);
}

static void same_seed_same_tokens(void **state) {
    (void)state;
    float logits[MAX_VOCAB];
    struct ml_rng r;
    ml_rng_seed(&r, 5);
    random_logits(&r, logits, MAX_VOCAB);
    struct ml_sampling s;
    ml_sampling_default(&s);
    s.seed = 42;
    s.top_p = 0.95f;
    struct ml_sampler *a = make(&s, MAX_VOCAB, 1), *b = make(&s, MAX_VOCAB, 1);
    s.seed = 43;
    struct ml_sampler *c = make(&s, MAX_VOCAB, 1);
    int differ = 0;
    for (int i = 0; i < 300; i++) {
        const int32_t id = next(a, logits, MAX_VOCAB);
        assert_int_equal(next(b, logits, MAX_VOCAB), id);
        differ += next(c, logits, MAX_VOCAB) != id;
    }
    assert_true(differ > 100);
    ml_sampler_free(a);
    ml_sampler_free(b);
    ml_sampler_free(c);
}

static marlin_status next_status(const struct ml_sampling *s, const float *logits, size_t vocab,
                                 struct marlin_error *err) {
    float copy[MAX_VOCAB];
    int32_t id = -1;
    struct ml_sampler *sampler = make(s, vocab, 1);
    memcpy(copy, logits, vocab * sizeof *copy);
    const marlin_status st = ml_sampler_next(sampler, copy, &id, err);
    ml_sampler_free(sampler);
    if (st != MARLIN_OK) assert_int_equal(id, -1);
    return st;
}

static void no_number_no_token(void **state) {
    (void)state;
    struct ml_sampling s;
    struct marlin_error err = {0};
    ml_sampling_default(&s);
    for (int greedy = 0; greedy < 2; greedy++) {
        s.temperature = greedy ? 0 : 1;
        assert_int_equal(next_status(&s, (const float[]){1, 2, NAN}, 3, &err), MARLIN_ERR_NUMERIC);
        assert_non_null(strstr(err.text, "id 2 is NaN"));
        assert_int_equal(next_status(&s, (const float[]){NAN, 2, 1}, 3, &err), MARLIN_ERR_NUMERIC);
        assert_int_equal(next_status(&s, (const float[]){1, INFINITY, 1}, 3, &err), MARLIN_ERR_NUMERIC);
        assert_non_null(strstr(err.text, "id 1 is infinite"));
        const float none[] = {-INFINITY, -INFINITY};
        assert_int_equal(next_status(&s, none, 2, &err), MARLIN_ERR_NUMERIC);
        assert_non_null(strstr(err.text, "forbidden"));
        assert_int_equal(next_status(&s, (const float[]){-3e38f, 3e38f}, 2, &err), MARLIN_OK);
    }
}

static void forbidden_is_never_chosen(void **state) {
    (void)state;
    const struct ml_bias bias[] = {{0, -INFINITY}, {2, -INFINITY}};
    struct ml_sampling s;
    ml_sampling_default(&s);
    s.bias = bias;
    s.n_bias = 2;
    s.temperature = 50;
    struct ml_sampler *sampler = make(&s, 4, 1);
    int count[4] = {0};
    for (int i = 0; i < 400; i++) {
        count[next(sampler, (const float[]){9, 1, 9, 1}, 4)]++;
    }
    assert_int_equal(count[0], 0);
    assert_int_equal(count[2], 0);
    assert_true(count[1] > 100 && count[3] > 100);
    ml_sampler_free(sampler);
}

static void penalty_window_forgets(void **state) {
    (void)state;
    struct ml_sampling s;
    ml_sampling_default(&s);
    s.temperature = 0;
    s.presence_penalty = 5;
    s.penalty_window = 2;
    struct ml_sampler *sampler = make(&s, 3, 100);
    const float logits[] = {3, 2, 1};
    assert_int_equal(next(sampler, logits, 3), 0);
    ml_sampler_accept(sampler, 0);
    assert_int_equal(next(sampler, logits, 3), 1);
    ml_sampler_accept(sampler, 1);
    assert_int_equal(next(sampler, logits, 3), 2);
    ml_sampler_accept(sampler, 2);
    assert_int_equal(next(sampler, logits, 3), 0);
    ml_sampler_accept(sampler, 2);
    ml_sampler_accept(sampler, -7); /* not of this vocabulary: no effect */
    ml_sampler_accept(sampler, 3);
    assert_int_equal(next(sampler, logits, 3), 0);
    ml_sampler_free(sampler);
}

/* As in transformers: the one most likely token always stays. */
static void a_nucleus_of_nothing_is_the_most_likely_token(void **state) {
    enum { N = 40 };
    (void)state;
    for (int top_k = 0; top_k <= 20; top_k += 10) {
        for (int equal = 0; equal < 2; equal++) {
            struct ml_sampling s;
            struct ml_sampler *sampler = NULL;
            struct marlin_error err = {0};
            ml_sampling_default(&s);
            s.top_p = 0;
            s.top_k = top_k;
            assert_int_equal(ml_sampler_create(&s, N, 64, &sampler, &err), MARLIN_OK);
            for (int draw = 0; draw < 50; draw++) {
                float logits[N];
                int32_t id = -1;
                for (int i = 0; i < N; i++)
                    logits[i] = equal ? 1.0f : (float)((i * 7 + 3) % N) / 8;
                assert_int_equal(ml_sampler_next(sampler, logits, &id, &err), MARLIN_OK);
                assert_true(equal ? id >= 0 && id < N : (id * 7 + 3) % N == N - 1);
            }
            ml_sampler_free(sampler);
        }
    }
}

static void settings_are_checked(void **state) {
    (void)state;
    struct ml_sampling good;
    struct marlin_error err = {0};
    ml_sampling_default(&good);
    assert_int_equal(ml_sampling_check(&good, 10, &err), MARLIN_OK);
    assert_int_equal(ml_sampling_check(&good, 0, &err), MARLIN_ERR_ARGUMENT);
    const struct ml_bias outside = {10, 1}, negative = {-1, 1}, nan = {1, NAN}, inf = {1, INFINITY};
    struct ml_sampling bad[16];
    size_t n = 0;
    bad[n] = good, bad[n++].temperature = -0.1f;
    bad[n] = good, bad[n++].temperature = NAN;
    bad[n] = good, bad[n++].temperature = INFINITY;
    bad[n] = good, bad[n++].top_k = -1;
    bad[n] = good, bad[n++].top_p = -0.1f;
    bad[n] = good, bad[n++].top_p = 1.1f;
    bad[n] = good, bad[n++].min_p = -0.1f;
    bad[n] = good, bad[n++].min_p = NAN;
    bad[n] = good, bad[n++].repetition_penalty = 0;
    bad[n] = good, bad[n++].presence_penalty = NAN;
    bad[n] = good, bad[n++].frequency_penalty = INFINITY;
    bad[n] = good, bad[n++].penalty_window = -1;
    const struct ml_bias *const biases[] = {&outside, &negative, &nan, &inf};
    for (size_t i = 0; i < 4; i++) {
        bad[n] = good, bad[n].bias = biases[i], bad[n++].n_bias = 1;
    }
    for (size_t i = 0; i < n; i++) {
        struct ml_sampler *s = NULL;
        err.text[0] = '\0';
        if (ml_sampling_check(&bad[i], 10, &err) != MARLIN_ERR_ARGUMENT) fail_msg("case %zu was accepted", i);
        assert_int_equal(strncmp(err.text, "sampling: ", 10), 0);
        assert_int_equal(ml_sampler_create(&bad[i], 10, 10, &s, &err), MARLIN_ERR_ARGUMENT);
        assert_null(s);
    }
}

/* Draws and accepts n tokens, the ids of which go to `out`. */
static void go_on(struct ml_sampler *s, const float *logits, size_t vocab, size_t n, int32_t *out) {
    for (size_t i = 0; i < n; i++) {
        out[i] = next(s, logits, vocab);
        ml_sampler_accept(s, out[i]);
    }
}

/* What was chosen and accepted after a mark leaves no trace: against a sampler that never saw it. */
static void a_rewound_sampler_is_as_it_was(void **state) {
    (void)state;
    enum { VOCAB = 12, BEFORE = 30, BETWEEN = 25, AFTER = 40 };
    struct ml_rng r;
    int windows = 0;
    ml_rng_seed(&r, 99);
    for (int round = 0; round < 300; round++) {
        struct ml_bias bias[4];
        struct ml_sampling s;
        float logits[VOCAB];
        int32_t lost[BETWEEN], a[AFTER], b[AFTER];
        random_settings(&r, &s, bias, VOCAB);
        random_logits(&r, logits, VOCAB);
        windows += s.penalty_window > 0;
        struct ml_sampler *rewound = make(&s, VOCAB, BEFORE + AFTER), *twin = make(&s, VOCAB, BEFORE + AFTER);
        const size_t before = below(&r, BEFORE), between = below(&r, BETWEEN);
        for (size_t i = 0; i < before; i++) {
            const int32_t id = (int32_t)below(&r, VOCAB);
            ml_sampler_accept(rewound, id);
            ml_sampler_accept(twin, id);
        }
        const struct ml_sampler_mark mark = ml_sampler_mark(rewound);
        go_on(rewound, logits, VOCAB, between, lost);
        ml_sampler_rewind(rewound, &mark);
        go_on(rewound, logits, VOCAB, AFTER, a);
        go_on(twin, logits, VOCAB, AFTER, b);
        assert_memory_equal(a, b, sizeof(a));
        ml_sampler_free(rewound);
        ml_sampler_free(twin);
    }
    assert_true(windows > 50);
}

static void memory(void **state) {
    (void)state;
    const struct ml_bias bias = {1, 1};
    struct ml_sampling s;
    ml_sampling_default(&s);
    s.bias = &bias;
    s.n_bias = 1;
    s.presence_penalty = 1;
    s.penalty_window = 3;
    s.top_p = 0.9f;
    struct marlin_error err = {0};
    struct ml_sampler *sampler = NULL;
    uint64_t n = 1;
    for (;; n++) {
        ml_mem_fail_at(n);
        const marlin_status st = ml_sampler_create(&s, 100, 50, &sampler, &err);
        ml_mem_fail_at(0);
        if (st == MARLIN_OK) break;
        assert_int_equal(st, MARLIN_ERR_MEMORY);
        assert_null(sampler);
    }
    assert_true(n > 4);
    float logits[100] = {0};
    const uint64_t before = ml_mem_count();
    for (int i = 0; i < 20; i++) {
        int32_t id;
        assert_int_equal(ml_sampler_next(sampler, logits, &id, &err), MARLIN_OK);
        ml_sampler_accept(sampler, id);
    }
    const struct ml_sampler_mark mark = {.rng = {{1, 2, 3, 4}}, .accepted = 5};
    ml_sampler_rewind(sampler, &mark);
    assert_true(ml_mem_count() == before);
    ml_sampler_free(sampler);
    ml_sampler_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_twin),
        cmocka_unit_test(frequencies),
        cmocka_unit_test(greedy_ties),
        cmocka_unit_test(same_seed_same_tokens),
        cmocka_unit_test(no_number_no_token),
        cmocka_unit_test(forbidden_is_never_chosen),
        cmocka_unit_test(penalty_window_forgets),
        cmocka_unit_test(a_nucleus_of_nothing_is_the_most_likely_token),
        cmocka_unit_test(settings_are_checked),
        cmocka_unit_test(a_rewound_sampler_is_as_it_was),
        cmocka_unit_test(memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
