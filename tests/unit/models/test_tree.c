/* SPDX-License-Identifier: Apache-2.0
 *
 * Draft trees against decoding one token after the other: each node of a tree against a sequence of its own that
 * was fed the path to it.
 *
 * A chain is a run: the same bits. In other trees a node stands in another slot than its position, so that float
 * sums over keys are taken in another order: results are equal but for that.
 */
#include "make_batch.h"

#include "guard.h"

enum { NODES = ML_TREE_NODES, ON = 70, TYPES = 3 };

static const enum ml_dtype types[TYPES] = {ML_F32, ML_F16, ML_I8};

/* Of the spread of a row of logits. A sum in another order moves a key by a few 1e-7; where a key lies on the
 * edge between two numbers of its type, it then comes out as the other one. Products with quantized weights round
 * their inputs to int8, with edges of the same kind: trees that are not chains are compared in float32. */
static const double tolerances[TYPES] = {1e-4, 1e-3, 1e-2};

enum shape { CHAIN, STAR, BUSH, ANY, SHAPES };

struct tree {
    size_t n;
    int32_t parent[NODES], ids[NODES];
    float logits[NODES * MB_VOCAB];
};

/* A model, a type of cache and a past; each node of a tree as a sequence of its own. */
struct ground {
    struct ml_model *model;
    struct ml_cache *cache;
    struct ml_work *work;
    double tolerance;
    struct ml_sequence *past, *node[NODES];
    float logits[NODES * MB_VOCAB];
};

static void open_ground(struct ground *g, const struct mb_spec *spec, size_t type, bool exact) {
    memset(g, 0, sizeof *g);
    g->model = mb_model_as(spec, exact);
    g->cache = mb_cache(g->model, types[type], 2, NODES + 4, NODES);
    g->work = mb_work(g->model, NULL, NODES, 1);
    g->tolerance = tolerances[type];
}

static void close_ground(struct ground *g) {
    ml_work_free(g->work);
    ml_cache_free(g->cache);
    ml_model_free(g->model);
}

/* Random tokens; those of a long past are made up. */
static struct ml_sequence *make_past(struct ml_work *w, struct ml_cache *cache, struct ml_rng *rng,
                                     size_t n) {
    int32_t ids[NODES];
    struct marlin_error err = {0};
    struct ml_sequence *s = mb_sequence(cache);
    const size_t filled = n > NODES ? n - NODES / 2 : 0;
    mb_ok(ml_sequence_fill(w, s, filled, &err), &err);
    for (size_t at = filled; at < n; at += n - at < NODES ? n - at : NODES) {
        const size_t piece = n - at < NODES ? n - at : NODES;
        mb_ids(rng, ids, piece);
        mb_feed(w, s, ids, piece, NULL);
    }
    return s;
}

static void make_tree(struct tree *t, struct ml_rng *rng, enum shape shape, size_t n) {
    t->n = n;
    mb_ids(rng, t->ids, n);
    for (size_t i = 0; i < n; i++) {
        const size_t back = shape == BUSH ? i / 2 + 1 : mb_below(rng, i + 1) + 1;
        t->parent[i] = shape == CHAIN ? (int32_t)i - 1 : shape == STAR ? -1 : (int32_t)i - (int32_t)back;
    }
}

static struct ml_run tree_run(struct ml_sequence *s, const struct tree *t, size_t first) {
    return (struct ml_run){
        .sequence = s, .first = first, .n = t->n, .parent = t->parent, .logits = ML_LOGITS_ALL};
}

static void feed_tree(struct ml_work *w, struct ml_sequence *s, struct tree *t) {
    struct marlin_error err = {0};
    const size_t length = ml_sequence_length(s);
    struct ml_run run = tree_run(s, t, 0);
    struct ml_batch b = {.n = t->n, .ids = t->ids, .runs = &run, .n_runs = 1};
    mb_ok(ml_forward(w, &b, t->logits, &err), &err);
    assert_int_equal(ml_sequence_length(s), length); /* none of them counts yet */
}

/* ---- one by one ---- */

static void plant(struct ground *g, const struct tree *t) {
    for (size_t i = 0; i < t->n; i++) {
        g->node[i] = mb_fork(t->parent[i] < 0 ? g->past : g->node[t->parent[i]]);
        mb_feed(g->work, g->node[i], &t->ids[i], 1, g->logits + i * MB_VOCAB);
    }
}

static void clear(struct ground *g, const struct tree *t) {
    for (size_t i = 0; i < t->n; i++)
        ml_sequence_free(g->node[i]);
}

static size_t argmax(const float *x) {
    size_t best = 0;
    for (size_t i = 1; i < MB_VOCAB; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* Rows of logits, equal but for the order of sums. */
static void nearly(const struct ground *g, const float *a, const float *b, size_t rows) {
    for (size_t r = 0; r < rows; r++, a += MB_VOCAB, b += MB_VOCAB) {
        double low = b[0], high = b[0], worst = 0;
        for (size_t v = 0; v < MB_VOCAB; v++) {
            low = fmin(low, b[v]);
            high = fmax(high, b[v]);
            worst = fmax(worst, fabs((double)a[v] - b[v]));
            assert_true(isfinite(a[v]) && isfinite(b[v]));
        }
        if (!(worst <= g->tolerance * (high - low)))
            fail_msg("row %zu: %.2e of the spread", r, worst / (high - low));
        assert_int_equal(argmax(a), argmax(b));
    }
}

/* ---- which nodes stay ---- */

static size_t path_to(const struct tree *t, size_t node, size_t *path) {
    size_t n = 0;
    for (int32_t i = (int32_t)node; i >= 0; i = t->parent[i])
        n++;
    for (int32_t i = (int32_t)node, at = (int32_t)n; i >= 0; i = t->parent[i])
        path[--at] = (size_t)i;
    return n;
}

/* Both go on with the same tokens, `s` in two pieces and the other one by one: beyond windows and, with ON of
 * them, over the end of a page. */
static void go_on(const struct ground *g, struct ml_sequence *s, struct ml_sequence *plain,
                  struct ml_rng *rng, size_t n, bool same_bits) {
    static float a[ON * MB_VOCAB], b[ON * MB_VOCAB];
    int32_t ids[ON];
    mb_ids(rng, ids, n);
    mb_feed(g->work, s, ids, n / 2, a);
    mb_feed(g->work, s, ids + n / 2, n - n / 2, a + n / 2 * MB_VOCAB);
    mb_feed_slowly(g->work, plain, ids, n, b);
    assert_int_equal(ml_sequence_length(s), ml_sequence_length(plain));
    if (same_bits)
        assert_memory_equal(a, b, n * MB_VOCAB * sizeof *a);
    else
        nearly(g, a, b, n);
}

/* The tree on a fork, of which the path to `node` stays (SIZE_MAX: nothing does). */
static void keep_path(struct ground *g, struct tree *t, size_t node, struct ml_rng *rng, bool same_bits) {
    size_t path[NODES];
    const size_t n = node == SIZE_MAX ? 0 : path_to(t, node, path), length = ml_sequence_length(g->past);
    struct ml_sequence *s = mb_fork(g->past);
    struct ml_sequence *plain = mb_fork(n ? g->node[node] : g->past);
    feed_tree(g->work, s, t);
    ml_sequence_keep(g->work, s, path, n);
    assert_int_equal(ml_sequence_length(s), length + n);
    if (same_bits) assert_true(length + n == 0 || mb_same_memory(s, plain, length + n) > 0);
    go_on(g, s, plain, rng, n ? ON : MB_WINDOW, same_bits);
    ml_sequence_free(s);
    ml_sequence_free(plain);
}

/* ---- tests ---- */

static size_t most_nodes(const struct mb_spec *spec) {
    return strstr(spec->json, "sliding_window") ? MB_WINDOW : NODES;
}

static void check_tree(struct ground *g, enum shape shape, size_t nodes, struct ml_rng *rng) {
    static struct tree t;
    struct ml_sequence *s = mb_fork(g->past);
    make_tree(&t, rng, shape, nodes);
    plant(g, &t);
    feed_tree(g->work, s, &t);
    ml_sequence_free(s);
    if (shape == CHAIN)
        assert_memory_equal(t.logits, g->logits, t.n * MB_VOCAB * sizeof(float));
    else
        nearly(g, t.logits, g->logits, t.n);
    keep_path(g, &t, shape == CHAIN ? nodes - 1 : mb_below(rng, nodes), rng, shape == CHAIN);
    if (shape == CHAIN) keep_path(g, &t, SIZE_MAX, rng, true);
    clear(g, &t);
}

/* Of every shape and size (portable C: a third of them), after nothing, across pages, at the point where a window gives a page back, and
 * after more keys than go in one chunk. */
static void nodes_equal_their_paths_one_by_one(void **state) {
    static const size_t pasts[] = {0, 60, 64 + MB_WINDOW - 4, 508, 200};
    struct ml_rng rng;
    (void)state;
    const bool is_slow = ml_cpu()->tier == ML_CPU_GENERIC;
    ml_rng_seed(&rng, 17);
    for (size_t i = 0; i < MB_SPECS; i++)
        for (size_t k = 0; k < TYPES; k++) {
            struct ground g;
            const size_t most = most_nodes(&mb_specs[i]);
            for (size_t shape = 0; shape < SHAPES; shape++) {
                if ((shape == STAR || is_slow) && (i + shape) % TYPES != k) continue;
                open_ground(&g, &mb_specs[i], k, shape != CHAIN);
                g.past = make_past(g.work, g.cache, &rng, pasts[(i + 2 * k + shape) % 5]);
                check_tree(&g, (enum shape)shape, shape == BUSH ? most : 1 + mb_below(&rng, most), &rng);
                ml_sequence_free(g.past);
                close_ground(&g);
            }
        }
}

/* ---- trees beside other runs ---- */

/* Two trees, a piece of a prompt and a single token in one pass; alone each got `alone`, in this order. */
static void check_mixed(struct ground *g, struct tree t[2], const int32_t *ids, const float *alone,
                        int threads) {
    static float logits[(2 * MB_WINDOW + 6) * MB_VOCAB];
    struct ml_pool *pool = mb_pool(threads);
    struct ml_work *w = mb_work(g->model, pool, 2 * MB_WINDOW + 6, 4);
    struct ml_sequence *s[4];
    struct marlin_error err = {0};
    int32_t all[2 * MB_WINDOW + 6];
    size_t n = 0;
    for (size_t i = 0; i < 4; i++)
        s[i] = mb_fork(g->past);
    struct ml_run runs[] = {
        tree_run(s[0], &t[0], 0),
        {.sequence = s[1], .first = t[0].n, .n = 5, .logits = ML_LOGITS_ALL},
        tree_run(s[2], &t[1], t[0].n + 5),
        {.sequence = s[3], .first = t[0].n + 5 + t[1].n, .n = 1, .logits = ML_LOGITS_ALL}};
    const int32_t *from[] = {t[0].ids, ids, t[1].ids, ids};
    for (size_t i = 0; i < 4; n += runs[i++].n)
        memcpy(all + n, from[i], runs[i].n * sizeof *all);
    struct ml_batch b = {.n = n, .ids = all, .runs = runs, .n_runs = 4};
    mb_ok(ml_forward(w, &b, logits, &err), &err);
    assert_memory_equal(logits, alone, n * MB_VOCAB * sizeof *logits);
    assert_int_equal(ml_sequence_length(s[0]), ml_sequence_length(g->past));
    assert_int_equal(ml_sequence_length(s[1]), ml_sequence_length(g->past) + 5);
    for (size_t i = 0; i < 4; i++)
        ml_sequence_free(s[i]);
    ml_work_free(w);
    ml_pool_free(pool);
}

static void trees_and_runs_in_one_pass(void **state) {
    static float alone[(2 * MB_WINDOW + 6) * MB_VOCAB];
    static struct tree t[2];
    struct ml_rng rng;
    (void)state;
    ml_rng_seed(&rng, 19);
    for (size_t k = 0; k < TYPES; k++) {
        struct ground g;
        int32_t ids[5];
        float *at = alone;
        open_ground(&g, &mb_specs[1], k, false);
        g.past = make_past(g.work, g.cache, &rng, 530);
        mb_ids(&rng, ids, 5);
        for (size_t i = 0; i < 2; i++) {
            struct ml_sequence *s = mb_fork(g.past);
            make_tree(&t[i], &rng, i ? ANY : BUSH, MB_WINDOW - i * 9);
            feed_tree(g.work, s, &t[i]);
            memcpy(at, t[i].logits, t[i].n * MB_VOCAB * sizeof *at);
            at += t[i].n * MB_VOCAB;
            ml_sequence_restore(s, g.past);
            mb_feed_slowly(g.work, s, ids, i ? 1 : 5, at);
            at += (i ? 1 : 5) * MB_VOCAB;
            ml_sequence_free(s);
        }
        check_mixed(&g, t, ids, alone, 1);
        check_mixed(&g, t, ids, alone, 3);
        ml_sequence_free(g.past);
        close_ground(&g);
    }
}

/* ---- memory ---- */

/* Drafts that were not kept hold no page of a fork that is made afterwards, and disturb nobody. */
static void what_is_not_kept_is_nowhere(void **state) {
    struct ml_rng rng;
    struct ground g;
    static struct tree t;
    size_t path[NODES];
    (void)state;
    ml_rng_seed(&rng, 23);
    open_ground(&g, &mb_specs[0], 0, false);
    struct ml_pages *pages = ml_cache_pages(g.cache);
    g.past = make_past(g.work, g.cache, &rng, 60);
    struct ml_sequence *s = mb_fork(g.past), *plain = mb_fork(g.past);
    make_tree(&t, &rng, STAR, NODES); /* into the next page */
    feed_tree(g.work, s, &t);
    path[0] = 40;
    ml_sequence_keep(g.work, s, path, 1);
    const size_t left = ml_pages_left(pages, 0);
    struct ml_sequence *later = mb_fork(s);
    mb_feed(g.work, later, t.ids, 1, NULL);
    assert_int_equal(ml_pages_left(pages, 0), left - 1);
    mb_feed(g.work, plain, &t.ids[40], 1, NULL);
    go_on(&g, s, plain, &rng, ON, false);
    ml_sequence_free(later);
    ml_sequence_free(s);
    ml_sequence_free(plain);
    ml_sequence_free(g.past);
    assert_int_equal(ml_pages_left(pages, 0), ml_pages_total(pages, 0));
    close_ground(&g);
}

/* ---- trees that cannot be ---- */

static void trees_that_cannot_be_are_refused(void **state) {
    static const struct {
        size_t spec, n;
        int32_t parent; /* of node 3 */
        marlin_status status;
        const char *text;
    } cases[] = {{0, 65, 0, MARLIN_ERR_LIMIT, "a draft tree of 65 tokens: at most 64"},
                 {1, MB_WINDOW + 1, 0, MARLIN_ERR_LIMIT, "no more than a sliding window has"},
                 {0, 5, 3, MARLIN_ERR_ARGUMENT, "node 3 of a draft tree follows node 3"},
                 {0, 5, 4, MARLIN_ERR_ARGUMENT, "node 3 of a draft tree follows node 4"},
                 {0, 5, -2, MARLIN_ERR_ARGUMENT, "node 3 of a draft tree follows node -2"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct marlin_error err = {0};
        struct ml_model *m = mb_model(&mb_specs[cases[i].spec]);
        struct ml_cache *c = mb_cache(m, ML_F32, 1, 0, NODES + 1);
        struct ml_work *w = mb_work(m, NULL, NODES + 1, 1);
        struct ml_sequence *s = mb_sequence(c);
        int32_t parent[NODES + 1] = {-1}, ids[NODES + 1] = {0};
        parent[3] = cases[i].parent;
        struct ml_run run = {.sequence = s, .n = cases[i].n, .parent = parent};
        struct ml_batch b = {.n = cases[i].n, .ids = ids, .runs = &run, .n_runs = 1};
        assert_int_equal(ml_forward(w, &b, NULL, &err), cases[i].status);
        assert_int_equal(run.status, cases[i].status);
        if (!strstr(err.text, cases[i].text)) fail_msg("'%s' does not say '%s'", err.text, cases[i].text);
        assert_int_equal(ml_sequence_length(s), 0);
        ml_sequence_free(s);
        ml_work_free(w);
        ml_cache_free(c);
        ml_model_free(m);
    }
}

static int every_test(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_equal_their_paths_one_by_one),
        cmocka_unit_test(trees_and_runs_in_one_pass),
        cmocka_unit_test(what_is_not_kept_is_nowhere),
        cmocka_unit_test(trees_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}

int main(void) {
    return mb_every_tier(every_test);
}
