/* SPDX-License-Identifier: Apache-2.0
 *
 * Many sequences a token at a time against the same sequences one by one; a cache that was never fed.
 */
#include "make_model.h"

#include <math.h>

#include "guard.h"

enum { MANY = 3, STEPS = 9, VOCAB = 256 };

/* Sequences on one cache, and the work that runs them together. */
struct many {
    struct ml_cache *cache;
    struct ml_sequence *sequence[MANY];
    struct ml_work *work;
};

static int32_t id_of(size_t sequence, size_t step) {
    return (int32_t)((sequence * 97 + step * 31 + sequence * step) % VOCAB);
}

static struct many open_many(const struct ml_model *m, struct ml_pool *pool, size_t positions,
                             enum ml_dtype kv) {
    const struct ml_pages_sizes pages = {.sequences = MANY, .positions = positions, .rows = MANY};
    const struct ml_work_sizes sizes = {.rows = MANY, .runs = MANY, .positions = positions};
    struct many s = {0};
    assert_int_equal(ml_cache_create(m, kv, &pages, &s.cache, NULL), MARLIN_OK);
    for (size_t i = 0; i < MANY; i++)
        assert_int_equal(ml_sequence_create(s.cache, positions, &s.sequence[i], NULL), MARLIN_OK);
    assert_int_equal(ml_work_create(m, pool, &sizes, &s.work, NULL), MARLIN_OK);
    return s;
}

static void close_many(struct many *s) {
    ml_work_free(s->work);
    for (size_t i = 0; i < MANY; i++)
        ml_sequence_free(s->sequence[i]);
    ml_cache_free(s->cache);
}

/* One token of each sequence; logits [MANY, VOCAB]. */
static void feed_all(const struct many *s, const int32_t ids[MANY], float *logits) {
    struct ml_run runs[MANY];
    struct ml_batch batch = {.n = MANY, .ids = ids, .runs = runs, .n_runs = MANY};
    struct marlin_error err;
    for (size_t i = 0; i < MANY; i++)
        runs[i] = (struct ml_run){.sequence = s->sequence[i],
                                  .first = i,
                                  .n = 1,
                                  .logits = ML_LOGITS_LAST,
                                  .status = MARLIN_ERR_IO};
    if (ml_forward(s->work, &batch, logits, &err) != MARLIN_OK) fail_msg("%s", err.text);
    for (size_t i = 0; i < MANY; i++)
        assert_int_equal(runs[i].status, MARLIN_OK);
}

static void feed_one(const struct many *s, size_t i, int32_t id, float logits[VOCAB]) {
    assert_int_equal(ml_feed(s->work, s->sequence[i], &id, 1, ML_LOGITS_LAST, logits, NULL), MARLIN_OK);
}

static void one_by_one(const struct ml_model *m, size_t sequence, enum ml_dtype kv, float *logits) {
    int32_t ids[STEPS];
    struct feed f;
    for (size_t i = 0; i < STEPS; i++)
        ids[i] = id_of(sequence, i);
    assert_int_equal(feed_open_as(&f, m, NULL, STEPS, STEPS, kv, NULL), MARLIN_OK);
    assert_int_equal(ml_feed(f.work, f.sequence, ids, STEPS, ML_LOGITS_ALL, logits, NULL), MARLIN_OK);
    feed_close(&f);
}

static void check_logits(const float *logits, const float *expected) {
    for (size_t v = 0; v < VOCAB; v++)
        assert_true(fabsf(logits[v] - expected[v]) < 1e-4f);
}

/* What the others left behind is in nobody's way. */
static void then_alone(const struct many *s, const float *expected) {
    float logits[VOCAB];
    assert_int_equal(ml_sequence_rewind(s->sequence[1], 0), 0);
    for (size_t i = 0; i < STEPS; i++) {
        feed_one(s, 1, id_of(1, i), logits);
        check_logits(logits, expected + i * VOCAB);
    }
}

/* `apart`: sequence i has i tokens before the others begin, so that no two are at the same position. */
static void check(const char *fixture, struct ml_pool *pool, enum ml_dtype kv, size_t apart) {
    char dir[MAKE_PATH];
    static float expected[MANY][STEPS * VOCAB], logits[MANY * VOCAB];
    (void)snprintf(dir, sizeof dir, "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, fixture);
    struct ml_model *m = make_load(dir);
    assert_int_equal(ml_model_config(m)->vocab_size, VOCAB);
    struct many s = open_many(m, pool, STEPS, kv);
    for (size_t l = 0; l < MANY; l++) {
        one_by_one(m, l, kv, expected[l]);
        for (size_t i = 0; i < l * apart; i++) {
            feed_one(&s, l, id_of(l, i), logits);
            check_logits(logits, expected[l] + i * VOCAB);
        }
    }
    for (size_t i = 0; i + (MANY - 1) * apart < STEPS; i++) {
        int32_t ids[MANY];
        for (size_t l = 0; l < MANY; l++)
            ids[l] = id_of(l, i + l * apart);
        feed_all(&s, ids, logits);
        for (size_t l = 0; l < MANY; l++)
            check_logits(logits + l * VOCAB, expected[l] + (i + l * apart) * VOCAB);
    }
    then_alone(&s, expected[1]);
    close_many(&s);
    ml_model_free(m);
}

/* Grouped heads, sliding windows, tables that change with the length, experts. */
static void many_equal_single_sequences(void **state) {
    static const char *const fixtures[] = {"qwen3", "mistral_swa", "gemma3_text", "mixtral"};
    (void)state;
    struct ml_pool *pool = NULL;
    assert_int_equal(ml_pool_create(2, &pool, NULL), MARLIN_OK);
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++)
        for (size_t apart = 0; apart < 3; apart++) {
            check(fixtures[i], i % 2 ? pool : NULL, ML_F32, apart);
            check(fixtures[i], i % 2 ? NULL : pool, ML_I8, apart);
        }
    ml_pool_free(pool);
}

/* Speed at a depth is measured on a cache with made-up contents: finite, everywhere, and not in the way
 * later. */
static void a_filled_cache_stands_for_a_prompt(void **state) {
    static const char *const fixtures[] = {"qwen3", "mistral_swa"};
    static const enum ml_dtype types[] = {ML_F32, ML_F16, ML_I8};
    enum { DEPTH = 140 }; /* pages of a window have been given back by then */
    static float clean[STEPS * VOCAB];
    float logits[MANY * VOCAB];
    const int32_t ids[MANY] = {1, 2, 3};
    (void)state;
    for (size_t k = 0; k < 6; k++) {
        char dir[MAKE_PATH];
        (void)snprintf(dir, sizeof dir, "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, fixtures[k / 3]);
        struct ml_model *m = make_load(dir);
        one_by_one(m, 1, types[k % 3], clean);
        struct many s = open_many(m, NULL, DEPTH + 2, types[k % 3]);
        for (size_t i = 0; i < MANY; i++) {
            assert_int_equal(ml_sequence_fill(s.work, s.sequence[i], DEPTH, NULL), MARLIN_OK);
            assert_int_equal(ml_sequence_length(s.sequence[i]), DEPTH);
        }
        feed_all(&s, ids, logits);
        for (size_t i = 0; i < (size_t)MANY * VOCAB; i++)
            assert_true(isfinite(logits[i]));
        feed_one(&s, 1, ids[0], logits);
        assert_int_equal(ml_sequence_length(s.sequence[0]), DEPTH + 1);
        assert_int_equal(ml_sequence_length(s.sequence[1]), DEPTH + 2);
        for (size_t i = 0; i < VOCAB; i++)
            assert_true(isfinite(logits[i]));
        then_alone(&s, clean);
        close_many(&s);
        ml_model_free(m);
    }
}

static void cache_bytes_are_those_that_are_seen(void **state) {
    static const struct {
        const char *fixture;
        size_t pos0, n, seen;
    } cases[] = {{"qwen3", 0, 1, 1},       {"qwen3", 99, 1, 100},      {"qwen3", 50, 20, 70},
                 {"mistral_swa", 4, 1, 5}, {"mistral_swa", 99, 1, 16}, {"mistral_swa", 50, 20, 35}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char dir[MAKE_PATH];
        (void)snprintf(dir, sizeof dir, "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, cases[i].fixture);
        struct ml_model *m = make_load(dir);
        const struct ml_config *c = ml_model_config(m);
        const uint64_t rows = (uint64_t)(2 * c->num_layers * c->num_kv_heads), dim = (uint64_t)c->head_dim;
        const struct {
            enum ml_dtype type;
            uint64_t bytes; /* of a row */
        } types[] = {{ML_F32, 4 * dim}, {ML_F16, 2 * dim}, {ML_I8, dim + 4}};
        for (size_t t = 0; t < sizeof types / sizeof *types; t++)
            assert_int_equal(ml_model_cache_bytes(m, types[t].type, cases[i].pos0, cases[i].n),
                             cases[i].seen * rows * types[t].bytes);
        ml_model_free(m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_equal_single_sequences),
        cmocka_unit_test(a_filled_cache_stands_for_a_prompt),
        cmocka_unit_test(cache_bytes_are_those_that_are_seen),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
