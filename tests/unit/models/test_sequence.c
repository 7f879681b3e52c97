/* SPDX-License-Identifier: Apache-2.0
 *
 * One sequence: going back forgets, forks share their past and nothing else, errors change nothing, and how
 * tokens are fed does not change what an int8 cache holds.
 */
#include "make_model.h"

#include "guard.h"
#include "models/sequence.h"

enum { VOCAB = 256 };

static struct ml_model *model;

static int load(void **state) {
    (void)state;
    model = make_load(MARLIN_SOURCE_DIR "/tests/golden/fixtures/qwen3_moe");
    return 0;
}

static int unload(void **state) {
    (void)state;
    ml_model_free(model);
    return 0;
}

static struct feed open_feed(size_t positions, size_t rows) {
    struct feed f;
    struct marlin_error err;
    if (feed_open(&f, model, NULL, positions, rows, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return f;
}

static void feed_to(struct ml_work *w, struct ml_sequence *s, const int32_t *ids, size_t n, float *logits) {
    struct marlin_error err;
    const enum ml_logits which = logits ? ML_LOGITS_LAST : ML_LOGITS_NONE;
    if (ml_feed(w, s, ids, n, which, logits, &err) != MARLIN_OK) fail_msg("%s", err.text);
}

static void feed(const struct feed *f, const int32_t *ids, size_t n, float *logits) {
    feed_to(f->work, f->sequence, ids, n, logits);
}

static void going_back_forgets(void **state) {
    static const int32_t wrong[] = {9, 9, 9, 9};
    float clean[VOCAB], again[VOCAB];
    (void)state;
    struct feed a = open_feed(32, 8), b = open_feed(32, 8);
    feed(&a, make_prompt, 5, NULL);
    feed(&a, make_prompt + 5, 7, clean);

    feed(&b, make_prompt, 5, NULL);
    feed(&b, wrong, 4, NULL);
    assert_int_equal(ml_sequence_rewind(b.sequence, 10), 9);
    assert_int_equal(ml_sequence_rewind(b.sequence, 5), 5);
    assert_int_equal(ml_sequence_length(b.sequence), 5);
    feed(&b, make_prompt + 5, 7, again);
    assert_memory_equal(clean, again, sizeof(clean));

    assert_int_equal(ml_sequence_rewind(b.sequence, 0), 0);
    assert_int_equal(ml_sequence_length(b.sequence), 0);
    feed(&b, make_prompt, 5, NULL);
    feed(&b, make_prompt + 5, 7, again);
    assert_memory_equal(clean, again, sizeof(clean));
    feed_close(&a);
    feed_close(&b);
}

/* ---- forks ---- */

static void forks_share_the_past_alone(void **state) {
    static const int32_t other[] = {9, 8, 7};
    const struct ml_pages_sizes sizes = {.sequences = 1, .positions = 32, .rows = 8, .spares = 1};
    float clean[VOCAB], again[VOCAB], branch[VOCAB];
    struct ml_cache *cache = NULL;
    struct ml_sequence *s = NULL, *fork = NULL;
    (void)state;
    struct feed a = open_feed(32, 8);
    feed(&a, make_prompt, 5, NULL);
    feed(&a, make_prompt + 5, 7, clean);

    assert_int_equal(ml_cache_create(model, ML_F32, &sizes, &cache, NULL), MARLIN_OK);
    assert_int_equal(ml_sequence_create(cache, 32, &s, NULL), MARLIN_OK);
    feed_to(a.work, s, make_prompt, 5, NULL);
    assert_int_equal(ml_sequence_fork(s, &fork, NULL), MARLIN_OK);
    assert_true(ml_sequence_length(fork) == 5 && ml_sequence_capacity(fork) == 32);
    feed_to(a.work, fork, other, 3, branch);
    feed_to(a.work, s, make_prompt + 5, 7, again);
    assert_memory_equal(clean, again, sizeof(clean));

    ml_sequence_restore(s, fork); /* s goes on where the fork is */
    assert_int_equal(ml_sequence_length(s), 8);
    assert_int_equal(ml_sequence_rewind(s, 5), 5);
    feed_to(a.work, s, other, 3, again);
    assert_memory_equal(branch, again, sizeof(branch));
    ml_sequence_free(s); /* the fork keeps what it shares */
    assert_int_equal(ml_sequence_rewind(fork, 5), 5);
    feed_to(a.work, fork, make_prompt + 5, 7, again);
    assert_memory_equal(clean, again, sizeof(clean));
    ml_sequence_free(fork);
    assert_int_equal(ml_pages_left(ml_cache_pages(cache), 0), ml_pages_total(ml_cache_pages(cache), 0));
    ml_cache_free(cache);
    feed_close(&a);
}

/* ---- int8 ---- */

static const char *slot(const struct ml_sequence *s, size_t group, size_t at, size_t position, size_t bytes) {
    size_t n;
    const char *const *table = ml_memory_table(s->memory, group, &n);
    assert_true(position / ML_PAGE_KEYS < n);
    return table[position / ML_PAGE_KEYS] + at + position % ML_PAGE_KEYS * bytes;
}

static void same_slot(const struct ml_sequence *a, const struct ml_sequence *b, size_t group, size_t at,
                      size_t position, size_t bytes) {
    assert_memory_equal(slot(a, group, at, position, bytes), slot(b, group, at, position, bytes), bytes);
}

static float scale_of(const struct ml_sequence *s, size_t group, size_t at, size_t position) {
    float scale;
    memcpy(&scale, slot(s, group, at, position, sizeof scale), sizeof scale);
    return scale;
}

/* Rows and scales of the first n positions. */
static void same_cache(const struct ml_sequence *a, const struct ml_sequence *b, size_t n) {
    const struct ml_memory_layout *all = &a->cache->layout;
    for (size_t i = 0; i < all->n_layers; i++) {
        const struct ml_kv_layout *l = &all->layers[i].layout;
        const size_t g = all->layers[i].group;
        assert_int_equal(l->dtype, ML_I8);
        for (size_t h = 0; h < l->kv_heads; h++)
            for (size_t p = 0; p < n; p++) {
                const size_t at = h * l->head_bytes;
                same_slot(a, b, g, at + l->k_at, p, l->k_dim);
                same_slot(a, b, g, at + l->v_at, p, l->v_dim);
                same_slot(a, b, g, at + l->k_scales_at, p, sizeof(float));
                same_slot(a, b, g, at + l->v_scales_at, p, sizeof(float));
                assert_true(scale_of(a, g, at + l->k_scales_at, p) > 0);
                assert_true(scale_of(a, g, at + l->v_scales_at, p) > 0);
            }
    }
}

static struct feed open_i8(struct ml_pool *pool) {
    struct feed f;
    assert_int_equal(feed_open_as(&f, model, pool, MAKE_PROMPT, MAKE_PROMPT, ML_I8, NULL), MARLIN_OK);
    return f;
}

static void int8_is_the_same_however_fed(void **state) {
    static const size_t steps[] = {1, 5, 7};
    float whole[VOCAB], pieces[VOCAB];
    struct ml_pool *pool = NULL;
    (void)state;
    assert_int_equal(ml_pool_create(3, &pool, NULL), MARLIN_OK);
    struct feed a = open_i8(NULL);
    feed(&a, make_prompt, MAKE_PROMPT, whole);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct feed b = open_i8(i ? pool : NULL);
        for (size_t at = 0; at < MAKE_PROMPT; at += steps[i])
            feed(&b, make_prompt + at, MAKE_PROMPT - at < steps[i] ? MAKE_PROMPT - at : steps[i], pieces);
        same_cache(a.sequence, b.sequence, MAKE_PROMPT);
        assert_memory_equal(whole, pieces, sizeof whole);
        feed_close(&b);
    }
    feed_close(&a);
    ml_pool_free(pool);
}

/* ---- errors ---- */

static void refuse(const struct feed *f, const int32_t *ids, size_t n, marlin_status status,
                   const char *what) {
    struct marlin_error err;
    const size_t before = ml_sequence_length(f->sequence);
    assert_int_equal(ml_feed(f->work, f->sequence, ids, n, ML_LOGITS_NONE, NULL, &err), status);
    if (!strstr(err.text, what)) fail_msg("%s is not in: %s", what, err.text);
    assert_int_equal(ml_sequence_length(f->sequence), before);
}

static void errors_leave_the_sequence_as_it_was(void **state) {
    static const int32_t below[] = {1, 2, -1}, above[] = {1, 2, VOCAB};
    float clean[VOCAB], after[VOCAB];
    (void)state;
    struct feed a = open_feed(12, 8), b = open_feed(12, 8);
    assert_int_equal(ml_sequence_capacity(b.sequence), 12);
    assert_int_equal(ml_work_rows(b.work), 8);
    feed(&a, make_prompt, 6, NULL);
    feed(&a, make_prompt + 6, 6, clean);

    feed(&b, make_prompt, 6, NULL);
    refuse(&b, make_prompt, 7, MARLIN_ERR_LIMIT, "context is full");
    refuse(&b, make_prompt, 9, MARLIN_ERR_ARGUMENT, "9 tokens");
    refuse(&b, make_prompt, 0, MARLIN_ERR_ARGUMENT, "0 tokens");
    refuse(&b, below, 3, MARLIN_ERR_ARGUMENT, "id -1");
    refuse(&b, above, 3, MARLIN_ERR_ARGUMENT, "id 256");
    feed(&b, make_prompt + 6, 6, after);
    assert_memory_equal(clean, after, sizeof(clean));
    refuse(&b, make_prompt, 1, MARLIN_ERR_LIMIT, "context is full");
    feed_close(&a);
    feed_close(&b);
}

static void a_sequence_has_room_for_a_token(void **state) {
    struct ml_sequence *s = NULL;
    struct marlin_error err;
    (void)state;
    assert_int_equal(ml_sequence_create_alone(model, 0, 1, &s, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(ml_sequence_create_alone(model, SIZE_MAX / 2, 1, &s, &err), MARLIN_ERR_LIMIT);
    assert_null(s);
}

static void the_last_logits_are_the_last_of_all(void **state) {
    float last[VOCAB], *all = make_logits(model);
    (void)state;
    struct feed f = open_feed(MAKE_PROMPT, MAKE_PROMPT);
    feed(&f, make_prompt, MAKE_PROMPT, last);
    for (size_t i = 0; i < VOCAB; i++) {
        const float d = last[i] - all[(MAKE_PROMPT - 1) * VOCAB + i];
        assert_true(d < 1e-5f && d > -1e-5f);
    }
    ml_free(all);
    feed_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(going_back_forgets),
        cmocka_unit_test(forks_share_the_past_alone),
        cmocka_unit_test(int8_is_the_same_however_fed),
        cmocka_unit_test(errors_leave_the_sequence_as_it_was),
        cmocka_unit_test(a_sequence_has_room_for_a_token),
        cmocka_unit_test(the_last_logits_are_the_last_of_all),
    };
    return cmocka_run_group_tests(tests, load, unload) + guard_clean(NULL);
}
