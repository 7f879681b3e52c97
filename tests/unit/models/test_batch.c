/* SPDX-License-Identifier: Apache-2.0
 *
 * What a sequence gets does not depend on what else is in the pass: batches of pieces of prompts and single
 * tokens against each sequence alone, a token at a time, on one thread. Same bits, in every tier.
 */
#include "make_batch.h"

#include "guard.h"

enum { RUNS = 9, ROWS = 5 + 17 + 64 + 6, MORE = 2, SHARED = 70, DEEP = 520, TYPES = 3 };

/* How many rows each run of the batch has, and which past it goes on from. */
enum past { EMPTY, PREFIX, EARLIER, LONGER, FAR, FARTHER };
static const struct {
    size_t n;
    enum past past;
} runs_of_batch[RUNS] = {{1, PREFIX}, {5, PREFIX}, {1, FAR},     {17, EARLIER}, {1, EMPTY},
                         {1, LONGER}, {64, EMPTY}, {1, FARTHER}, {1, EARLIER}};

/* A model, a type of cache, and what every run gets alone. */
struct scene {
    const struct mb_spec *spec;
    enum ml_dtype type;
    struct ml_model *model;
    struct ml_cache *cache;
    struct ml_work *alone;
    struct ml_sequence *past[RUNS]; /* before the batch */
    struct ml_sequence *ref[RUNS];  /* after it and one token more */
    size_t first[RUNS + 1];
    int32_t ids[ROWS], more[MORE][RUNS];
    float logits[ROWS * MB_VOCAB], more_logits[MORE][RUNS * MB_VOCAB];
};

static void make_pasts(struct scene *s, struct ml_rng *rng) {
    int32_t ids[SHARED + 4];
    struct marlin_error err = {0};
    struct ml_sequence *prefix = mb_sequence(s->cache), *far = mb_sequence(s->cache);
    mb_ids(rng, ids, SHARED + 4);
    mb_feed(s->alone, prefix, ids, SHARED, NULL);
    mb_ok(ml_sequence_fill(s->alone, far, DEEP, &err), &err);
    mb_feed(s->alone, far, ids, 2, NULL);
    for (size_t r = 0; r < RUNS; r++) {
        const enum past past = runs_of_batch[r].past;
        s->past[r] = past == EMPTY ? mb_sequence(s->cache) : mb_fork(past >= FAR ? far : prefix);
        if (past == EARLIER) assert_int_equal(ml_sequence_rewind(s->past[r], SHARED - 10), SHARED - 10);
        if (past == LONGER) mb_feed(s->alone, s->past[r], ids + SHARED, 1, NULL);
        if (past == FARTHER) mb_feed(s->alone, s->past[r], ids + SHARED, 3, NULL);
    }
    ml_sequence_free(prefix);
    ml_sequence_free(far);
}

static void run_alone(struct scene *s) {
    for (size_t r = 0; r < RUNS; r++) {
        const size_t first = s->first[r];
        s->ref[r] = mb_fork(s->past[r]);
        mb_feed_slowly(s->alone, s->ref[r], s->ids + first, runs_of_batch[r].n, s->logits + first * MB_VOCAB);
        for (size_t i = 0; i < MORE; i++)
            mb_feed(s->alone, s->ref[r], &s->more[i][r], 1, s->more_logits[i] + r * MB_VOCAB);
    }
}

static struct scene *open_scene(const struct mb_spec *spec, enum ml_dtype type) {
    struct ml_rng rng;
    struct scene *s = ml_calloc(1, sizeof *s);
    assert_non_null(s);
    ml_rng_seed(&rng, 11);
    s->spec = spec;
    s->type = type;
    s->model = mb_model(spec);
    s->cache = mb_cache(s->model, type, 4, 3 * RUNS, ROWS);
    s->alone = mb_work(s->model, NULL, SHARED, 1);
    for (size_t r = 0; r < RUNS; r++)
        s->first[r + 1] = s->first[r] + runs_of_batch[r].n;
    mb_ids(&rng, s->ids, ROWS);
    for (size_t i = 0; i < MORE; i++)
        mb_ids(&rng, s->more[i], RUNS);
    make_pasts(s, &rng);
    run_alone(s);
    return s;
}

static void close_scene(struct scene *s) {
    for (size_t r = 0; r < RUNS; r++) {
        ml_sequence_free(s->past[r]);
        ml_sequence_free(s->ref[r]);
    }
    ml_work_free(s->alone);
    ml_cache_free(s->cache);
    ml_model_free(s->model);
    ml_free(s);
}

/* ---- a batch of the scene's runs in some order ---- */

struct made {
    struct ml_batch batch;
    struct ml_run runs[RUNS];
    size_t which[RUNS]; /* of the scene's runs */
    size_t row[ROWS];   /* of the scene's rows */
    int32_t ids[ROWS];
    int32_t position[ROWS][3];
    bool wants[ROWS];
    float embeddings[ROWS * 64];
    float logits[ROWS * MB_VOCAB];
};

static void shuffle(struct ml_rng *rng, size_t *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] = i;
    for (size_t i = n; i > 1; i--) {
        const size_t j = mb_below(rng, i), other = x[j];
        x[j] = x[i - 1];
        x[i - 1] = other;
    }
}

/* Forks of the pasts, so that a scene can be run again. by_row: the rows say which logits are wanted. */
static void make(struct made *b, const struct scene *s, struct ml_rng *rng, bool by_row) {
    size_t row = 0;
    memset(b, 0, sizeof *b);
    shuffle(rng, b->which, RUNS);
    for (size_t i = 0; i < RUNS; i++) {
        const size_t r = b->which[i], n = runs_of_batch[r].n;
        b->runs[i] = (struct ml_run){.sequence = mb_fork(s->past[r]),
                                     .first = row,
                                     .n = n,
                                     .logits = (enum ml_logits)mb_below(rng, 3)};
        for (size_t t = 0; t < n; t++, row++) {
            b->row[row] = s->first[r] + t;
            b->ids[row] = s->ids[b->row[row]];
            b->position[row][0] = (int32_t)(ml_sequence_length(s->past[r]) + t);
            const enum ml_logits which = b->runs[i].logits;
            b->wants[row] = by_row ? mb_below(rng, 2) != 0
                                   : which == ML_LOGITS_ALL || (which == ML_LOGITS_LAST && t + 1 == n);
        }
    }
    b->batch = (struct ml_batch){
        .n = ROWS, .ids = b->ids, .wants_logits = by_row ? b->wants : NULL, .runs = b->runs, .n_runs = RUNS};
}

static void unmake(struct made *b) {
    for (size_t i = 0; i < RUNS; i++)
        ml_sequence_free(b->runs[i].sequence);
}

/* Logits of the rows that wanted them, of runs that were done; how many were compared. */
static size_t same_logits(const struct made *b, const struct scene *s) {
    size_t at = 0, compared = 0;
    for (size_t i = 0; i < RUNS; i++)
        for (size_t row = b->runs[i].first; row < b->runs[i].first + b->runs[i].n; row++) {
            if (!b->wants[row]) continue;
            if (b->runs[i].status == MARLIN_OK) {
                assert_memory_equal(b->logits + at * MB_VOCAB, s->logits + b->row[row] * MB_VOCAB,
                                    MB_VOCAB * sizeof(float));
                compared++;
            }
            at++;
        }
    return compared;
}

static void same_memories(const struct made *b, const struct scene *s) {
    for (size_t i = 0; i < RUNS; i++) {
        const size_t r = b->which[i], length = ml_sequence_length(s->past[r]) + runs_of_batch[r].n;
        if (b->runs[i].status != MARLIN_OK) continue;
        assert_int_equal(ml_sequence_length(b->runs[i].sequence), length);
        assert_true(mb_same_memory(b->runs[i].sequence, s->ref[r], length) > 0);
    }
}

/* A token more for each run that was done. */
static void go_on(struct made *b, const struct scene *s, struct ml_work *w) {
    float logits[RUNS * MB_VOCAB];
    for (size_t i = 0; i < MORE; i++) {
        struct marlin_error err = {0};
        struct ml_run runs[RUNS];
        int32_t ids[RUNS];
        size_t n = 0;
        for (size_t k = 0; k < RUNS; k++) {
            if (b->runs[k].status != MARLIN_OK) continue;
            ids[n] = s->more[i][b->which[k]];
            runs[n] =
                (struct ml_run){.sequence = b->runs[k].sequence, .first = n, .n = 1, .logits = ML_LOGITS_ALL};
            n++;
        }
        struct ml_batch batch = {.n = n, .ids = ids, .runs = runs, .n_runs = n};
        mb_ok(ml_forward(w, &batch, logits, &err), &err);
        for (size_t k = 0, at = 0; k < RUNS; k++)
            if (b->runs[k].status == MARLIN_OK)
                assert_memory_equal(logits + MB_VOCAB * at++, s->more_logits[i] + b->which[k] * MB_VOCAB,
                                    MB_VOCAB * sizeof(float));
    }
}

/* ---- tests ---- */

static const enum ml_dtype types[TYPES] = {ML_F32, ML_F16, ML_I8};
static const int thread_counts[] = {1, 2, 3, 5};
enum { THREAD_COUNTS = sizeof thread_counts / sizeof *thread_counts };

static void check_scene(const struct mb_spec *spec, enum ml_dtype type, struct ml_rng *rng) {
    struct scene *s = open_scene(spec, type);
    struct made *b = ml_alloc(sizeof *b);
    size_t compared = 0;
    assert_non_null(b);
    for (size_t t = 0; t < THREAD_COUNTS; t++) {
        struct marlin_error err = {0};
        struct ml_pool *pool = mb_pool(thread_counts[t]);
        struct ml_work *w = mb_work(s->model, pool, ROWS, RUNS);
        make(b, s, rng, t % 2 != 0);
        mb_ok(ml_forward(w, &b->batch, b->logits, &err), &err);
        compared += same_logits(b, s);
        same_memories(b, s);
        go_on(b, s, w);
        unmake(b);
        ml_work_free(w);
        ml_pool_free(pool);
    }
    assert_true(compared > THREAD_COUNTS * RUNS);
    ml_free(b);
    close_scene(s);
}

static void batches_equal_each_sequence_alone(void **state) {
    struct ml_rng rng;
    (void)state;
    ml_rng_seed(&rng, 3);
    for (size_t i = 0; i < MB_SPECS; i++)
        for (size_t k = 0; k < TYPES; k++)
            check_scene(&mb_specs[i], types[k], &rng);
}

/* ---- a run that fails ---- */

enum { UNTOUCHED = 0x5a };

static struct scene *open_small(void) {
    return open_scene(&mb_specs[1], ML_F16);
}

static struct made *make_one(const struct scene *s, uint64_t seed) {
    struct ml_rng rng;
    struct made *b = ml_alloc(sizeof *b);
    assert_non_null(b);
    ml_rng_seed(&rng, seed);
    make(b, s, &rng, true);
    memset(b->logits, UNTOUCHED, sizeof b->logits);
    return b;
}

/* The place in the batch of one of the scene's runs. */
static struct ml_run *find_run(struct made *b, size_t which) {
    for (size_t i = 0; i < RUNS; i++)
        if (b->which[i] == which) return &b->runs[i];
    fail_msg("no run %zu", which);
    return NULL;
}

/* The runs that failed are as they were before: sequences and rows of logits. How many did. */
static size_t failed_unchanged(const struct made *b, const struct scene *s) {
    size_t at = 0, failed = 0;
    for (size_t i = 0; i < RUNS; i++) {
        const struct ml_sequence *past = s->past[b->which[i]], *now = b->runs[i].sequence;
        const bool ok = b->runs[i].status == MARLIN_OK;
        for (size_t row = b->runs[i].first; row < b->runs[i].first + b->runs[i].n; row++)
            for (size_t v = 0; b->wants[row] && v < MB_VOCAB * sizeof(float) + 1; v++)
                if (v == MB_VOCAB * sizeof(float))
                    at++;
                else if (!ok)
                    assert_int_equal(((const unsigned char *)(b->logits + at * MB_VOCAB))[v], UNTOUCHED);
        if (ok) continue;
        assert_int_equal(ml_sequence_length(now), ml_sequence_length(past));
        (void)mb_same_memory(now, past, ml_sequence_length(past));
        failed++;
    }
    return failed;
}

/* Feeds b, of which exactly the run *bad must fail so, and looks at the others. */
static void check_one_fails(struct made *b, const struct scene *s, const struct ml_run *bad, marlin_status st,
                            const char *text) {
    struct marlin_error err = {0};
    struct ml_work *w = mb_work(s->model, NULL, ROWS, RUNS);
    assert_int_equal(ml_forward(w, &b->batch, b->logits, &err), st);
    assert_int_equal(bad->status, st);
    if (!strstr(err.text, text)) fail_msg("'%s' does not say '%s'", err.text, text);
    assert_true(same_logits(b, s) > 0);
    same_memories(b, s);
    assert_int_equal(failed_unchanged(b, s), 1);
    go_on(b, s, w);
    ml_work_free(w);
}

static void an_unknown_id_ends_its_run_alone(void **state) {
    static const int32_t wrong[] = {MB_VOCAB, -1, INT32_MIN, INT32_MAX};
    static const size_t which[] = {1, 6, 4, 3};
    (void)state;
    struct scene *s = open_small();
    for (size_t i = 0; i < 4; i++) {
        struct made *b = make_one(s, 20 + i);
        const struct ml_run *bad = find_run(b, which[i]);
        b->ids[bad->first + bad->n / 2] = wrong[i];
        check_one_fails(b, s, bad, MARLIN_ERR_ARGUMENT, "the model knows 0 to 95");
        unmake(b);
        ml_free(b);
    }
    close_scene(s);
}

static void a_full_context_ends_its_run_alone(void **state) {
    (void)state;
    struct scene *s = open_small();
    struct made *b = make_one(s, 30);
    struct ml_run *bad = find_run(b, 6); /* 64 rows from nothing */
    ml_sequence_free(bad->sequence);
    assert_int_equal(ml_sequence_create(s->cache, 63, &bad->sequence, NULL), MARLIN_OK);
    check_one_fails(b, s, bad, MARLIN_ERR_LIMIT, "the context is full: 64 tokens after 0 of 63");
    unmake(b);
    ml_free(b);
    close_scene(s);
}

static void a_cancelled_run_ends_alone(void **state) {
    const atomic_bool cancel = true, go = false;
    (void)state;
    struct scene *s = open_small();
    struct made *b = make_one(s, 40);
    for (size_t i = 0; i < RUNS; i++)
        b->runs[i].cancel = i == 4 ? &cancel : i % 2 ? &go : NULL;
    check_one_fails(b, s, &b->runs[4], MARLIN_ERR_CANCELLED, "cancelled");
    unmake(b);
    ml_free(b);
    close_scene(s);
}

/* ---- a cache without enough pages ---- */

enum { HOGGED = 256 };
struct hog {
    int32_t page[2][HOGGED];
    size_t n[2];
};

static void hog_all_but(struct hog *h, struct ml_pages *p, size_t left) {
    for (size_t g = 0; g < 2; g++)
        for (h->n[g] = 0; ml_pages_left(p, g) > left; h->n[g]++) {
            assert_true(h->n[g] < HOGGED);
            h->page[g][h->n[g]] = ml_pages_take(p, g);
        }
}

static void release(const struct hog *h, struct ml_pages *p) {
    for (size_t g = 0; g < 2; g++)
        for (size_t i = 0; i < h->n[g]; i++)
            ml_pages_drop(p, g, h->page[g][i]);
}

/* What failed for want of pages, fed again. */
static void feed_failed(struct made *b, const struct scene *s) {
    float logits[64 * MB_VOCAB];
    for (size_t i = 0; i < RUNS; i++) {
        struct ml_run *run = &b->runs[i];
        if (run->status == MARLIN_OK) continue;
        mb_feed(s->alone, run->sequence, b->ids + run->first, run->n, logits);
        assert_memory_equal(logits, s->logits + b->row[run->first] * MB_VOCAB,
                            run->n * MB_VOCAB * sizeof(float));
        run->status = MARLIN_OK;
    }
}

static void a_full_cache_ends_the_runs_that_it_has_no_room_for(void **state) {
    (void)state;
    struct scene *s = open_small();
    struct ml_pages *pages = ml_cache_pages(s->cache);
    struct ml_work *w = mb_work(s->model, NULL, ROWS, RUNS);
    const size_t free_pages = ml_pages_left(pages, 0);
    size_t before = RUNS + 1, failed = RUNS;
    assert_int_equal(ml_pages_layout(pages)->n_groups, 2);
    for (size_t left = 0; failed > 0; left++) {
        struct marlin_error err = {0};
        struct hog hog;
        struct made *b = make_one(s, 50);
        hog_all_but(&hog, pages, left);
        const marlin_status st = ml_forward(w, &b->batch, b->logits, &err);
        release(&hog, pages);
        (void)same_logits(b, s);
        same_memories(b, s);
        failed = failed_unchanged(b, s);
        assert_int_equal(st, failed ? MARLIN_ERR_MEMORY : MARLIN_OK);
        if (failed) assert_non_null(strstr(err.text, "the cache is full"));
        assert_true(failed <= before);
        if (left == 0) assert_int_equal(failed, RUNS);
        before = failed;
        feed_failed(b, s);
        same_memories(b, s);
        unmake(b);
        ml_free(b);
        assert_int_equal(ml_pages_left(pages, 0), free_pages);
    }
    ml_work_free(w);
    close_scene(s);
}

/* ---- all runs cancelled ---- */

struct cancelling {
    atomic_bool flag;
    size_t after, layers;
};

static void cancel_after(void *user, size_t layer) {
    struct cancelling *c = user;
    c->layers++;
    if (layer == c->after) atomic_store(&c->flag, true);
}

static void cancelled_everywhere_nothing_counts(void **state) {
    (void)state;
    struct scene *s = open_small();
    struct ml_work *w = mb_work(s->model, NULL, ROWS, RUNS);
    for (size_t when = 0; when < 2; when++) {
        struct cancelling c = {.after = 0};
        struct marlin_error err = {0};
        struct made *b = make_one(s, 60);
        atomic_init(&c.flag, when == 0);
        ml_work_on_layer(w, cancel_after, &c);
        for (size_t i = 0; i < RUNS; i++)
            b->runs[i].cancel = &c.flag;
        assert_int_equal(ml_forward(w, &b->batch, b->logits, &err), MARLIN_ERR_CANCELLED);
        assert_string_equal(err.text, "cancelled");
        for (size_t i = 0; i < RUNS; i++)
            assert_int_equal(b->runs[i].status, MARLIN_ERR_CANCELLED);
        assert_int_equal(failed_unchanged(b, s), RUNS);
        assert_int_equal(c.layers, when == 0 ? 0 : 2); /* the first, and what comes after the last */
        ml_work_on_layer(w, NULL, NULL);
        feed_failed(b, s);
        unmake(b);
        ml_free(b);
    }
    ml_work_free(w);
    close_scene(s);
}

/* A pass goes on for those who still want it. */
static void cancelled_halfway_by_some_it_goes_on(void **state) {
    struct cancelling c = {.after = 0};
    struct marlin_error err = {0};
    (void)state;
    struct scene *s = open_small();
    struct ml_work *w = mb_work(s->model, NULL, ROWS, RUNS);
    struct made *b = make_one(s, 61);
    atomic_init(&c.flag, false);
    ml_work_on_layer(w, cancel_after, &c);
    for (size_t i = 0; i + 1 < RUNS; i++)
        b->runs[i].cancel = &c.flag;
    mb_ok(ml_forward(w, &b->batch, b->logits, &err), &err);
    assert_true(same_logits(b, s) > 0);
    same_memories(b, s);
    unmake(b);
    ml_free(b);
    ml_work_free(w);
    close_scene(s);
}

/* ---- other rows ---- */

static void embed(const struct ml_model *m, int32_t id, float *row) {
    const size_t hidden = (size_t)m->config->hidden_size;
    const uint16_t *from = (const uint16_t *)m->embedding.data + (size_t)id * m->embedding.stride;
    assert_int_equal(m->embedding.dtype, ML_BF16);
    for (size_t i = 0; i < hidden; i++)
        row[i] = ml_bf16_to_f32(from[i]) * m->embed.scale;
}

/* Two rows in three are given as embeddings. */
static void embeddings_equal_tokens(void **state) {
    struct marlin_error err = {0};
    (void)state;
    for (size_t i = 0; i < 2; i++) { /* an embedding that is scaled, and one that is not */
        struct scene *s = open_scene(&mb_specs[i], ML_F32);
        struct ml_work *w = mb_work(s->model, NULL, ROWS, RUNS);
        struct made *b = make_one(s, 70);
        for (size_t row = 0; row < ROWS; row++) {
            if (row % 3 == 0) continue;
            embed(s->model, b->ids[row], b->embeddings + row * 64);
            b->ids[row] = ML_ROW_EMBEDDING;
        }
        b->batch.embeddings = b->embeddings;
        mb_ok(ml_forward(w, &b->batch, b->logits, &err), &err);
        assert_true(same_logits(b, s) > RUNS);
        same_memories(b, s);
        unmake(b);
        ml_free(b);
        ml_work_free(w);
        close_scene(s);
    }
}

/* Positions that are those that rows have anyway; and others, which are something else. */
static void positions_can_be_given(void **state) {
    (void)state;
    struct scene *s = open_small();
    struct ml_work *w = mb_work(s->model, NULL, ROWS, RUNS);
    for (size_t shift = 0; shift < 2; shift++) {
        struct marlin_error err = {0};
        struct made *b = make_one(s, 80);
        for (size_t row = 0; row < ROWS; row++)
            b->position[row][0] += (int32_t)(shift * row);
        b->batch.position = (const int32_t(*)[3])b->position;
        b->batch.wants_logits = NULL;
        for (size_t row = 0; row < ROWS; row++)
            b->wants[row] = true;
        for (size_t i = 0; i < RUNS; i++)
            b->runs[i].logits = ML_LOGITS_ALL;
        mb_ok(ml_forward(w, &b->batch, b->logits, &err), &err);
        if (shift == 0)
            assert_int_equal(same_logits(b, s), ROWS);
        else /* the last row of the last run of several stands far away */
            assert_memory_not_equal(b->logits + (find_run(b, 6)->first + 63) * MB_VOCAB,
                                    s->logits + (s->first[6] + 63) * MB_VOCAB, MB_VOCAB * sizeof(float));
        unmake(b);
        ml_free(b);
    }
    ml_work_free(w);
    close_scene(s);
}

/* ---- batches that cannot be ---- */

static void refused(const struct scene *s, struct made *b, float *logits, const char *text) {
    struct marlin_error err = {0};
    struct ml_work *w = mb_work(s->model, NULL, ROWS, RUNS);
    assert_int_equal(ml_forward(w, &b->batch, logits, &err), MARLIN_ERR_ARGUMENT);
    if (!strstr(err.text, text)) fail_msg("'%s' does not say '%s'", err.text, text);
    for (size_t i = 0; i < b->batch.n_runs; i++)
        assert_int_equal(b->runs[i].status, MARLIN_ERR_ARGUMENT);
    ml_work_free(w);
}

static void batches_that_cannot_be_are_refused(void **state) {
    enum { CASES = 10 };
    static const char *const texts[CASES] = {
        "run 1 does not follow", "run 8 does not follow",           "between 1 and",
        "run 3 is a second one", "of another model or type",        "of another model or type",
        "no room for them",      "1 of 92 tokens belong to no run", "93 tokens, between 1 and 92",
        "run 2 does not follow"};
    (void)state;
    struct scene *s = open_small(), *other = open_scene(&mb_specs[3], ML_F16),
                 *type = open_scene(&mb_specs[1], ML_I8);
    for (size_t i = 0; i < CASES; i++) {
        struct made *b = make_one(s, 90);
        struct ml_sequence *own = b->runs[3].sequence;
        if (i == 0) b->runs[1].first++;
        if (i == 1) b->batch.n--;
        if (i == 2) b->batch.n_runs = b->batch.n = 0;
        if (i == 3) b->runs[3].sequence = b->runs[0].sequence;
        if (i == 7) b->runs[RUNS - 1].n--;
        if (i == 8) b->batch.n++;
        if (i == 9) b->runs[2].n = 0;
        if (i == 4) b->runs[3].sequence = other->past[0];
        if (i == 5) b->runs[3].sequence = type->past[0];
        refused(s, b, i == 6 ? NULL : b->logits, texts[i]);
        b->runs[3].sequence = own;
        for (size_t k = 0; k < RUNS; k++)
            assert_int_equal(ml_sequence_length(b->runs[k].sequence),
                             ml_sequence_length(s->past[b->which[k]]));
        unmake(b);
        ml_free(b);
    }
    close_scene(s);
    close_scene(other);
    close_scene(type);
}

static int every_test(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_equal_each_sequence_alone),
        cmocka_unit_test(an_unknown_id_ends_its_run_alone),
        cmocka_unit_test(a_full_context_ends_its_run_alone),
        cmocka_unit_test(a_cancelled_run_ends_alone),
        cmocka_unit_test(a_full_cache_ends_the_runs_that_it_has_no_room_for),
        cmocka_unit_test(cancelled_everywhere_nothing_counts),
        cmocka_unit_test(cancelled_halfway_by_some_it_goes_on),
        cmocka_unit_test(embeddings_equal_tokens),
        cmocka_unit_test(positions_can_be_given),
        cmocka_unit_test(batches_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}

int main(void) {
    return mb_every_tier(every_test);
}
