/* SPDX-License-Identifier: Apache-2.0
 *
 * What runs passes: layers can be run alone and watched, and takes the memory that estimates say.
 */
#include "base/cpu.h"
#include "make_model.h"

#include "guard.h"
#include "models/work.h"

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

static struct feed open_feed(size_t rows) {
    struct feed f;
    struct marlin_error err;
    if (feed_open(&f, model, NULL, MAKE_PROMPT, rows, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return f;
}

static void feed_prompt(const struct feed *f, enum ml_logits which, float *logits) {
    struct marlin_error err;
    if (ml_feed(f->work, f->sequence, make_prompt, MAKE_PROMPT, which, logits, &err) != MARLIN_OK)
        fail_msg("%s", err.text);
}

static void layers_run_alone(void **state) {
    const size_t hidden = (size_t)model->config->hidden_size;
    float *x = ml_alloc(MAKE_PROMPT * hidden * sizeof(float));
    (void)state;
    assert_non_null(x);
    struct feed whole = open_feed(MAKE_PROMPT), parts = open_feed(4);
    feed_prompt(&whole, ML_LOGITS_NONE, NULL);
    const float *want = ml_work_first(whole.work)->x; /* the hidden rows after all layers */

    ml_embed_ids(ml_work_first(parts.work), make_prompt, MAKE_PROMPT, x);
    for (size_t l = 0; l < (size_t)model->config->num_layers; l++)
        for (size_t at = 0; at < MAKE_PROMPT; at += 4)
            assert_int_equal(ml_layer_forward(parts.work, parts.sequence, l, x + at * hidden, 4, at, NULL),
                             MARLIN_OK);
    assert_int_equal(ml_sequence_length(parts.sequence), 0);
    for (size_t i = 0; i < MAKE_PROMPT * hidden; i++) {
        const float d = x[i] - want[i];
        assert_true(d < 1e-4f && d > -1e-4f);
    }
    struct marlin_error err;
    assert_int_equal(ml_layer_forward(parts.work, parts.sequence, 0, x, 4, MAKE_PROMPT - 3, &err),
                     MARLIN_ERR_LIMIT);
    ml_free(x);
    feed_close(&whole);
    feed_close(&parts);
}

/* ---- who watches ---- */

struct seen {
    size_t calls, rows_of_experts, q, head;
};

static void observe(void *user, const struct ml_linear *l, const float *x, size_t ldx, size_t n) {
    struct seen *s = user;
    s->calls++;
    assert_int_equal(ldx, l->in);
    for (size_t i = 0; i < n * ldx; i++)
        assert_true(x[i] - x[i] == 0); /* finite */
    if (strstr(l->name, ".experts.") && strstr(l->name, ".down_proj")) s->rows_of_experts += n;
    if (strcmp(l->name, "model.layers.0.self_attn.q_proj") == 0) s->q += n;
    if (strcmp(l->name, "lm_head") == 0) s->head += n;
}

static void linears_are_watched_by_name(void **state) {
    struct seen seen = {0};
    size_t linears = 0;
    float logits[VOCAB];
    (void)state;
    struct feed f = open_feed(MAKE_PROMPT);
    ml_work_observe(f.work, observe, &seen);
    feed_prompt(&f, ML_LOGITS_LAST, logits);
    /* Layer 0 is dense, layer 1 sends each token to 4 experts. */
    assert_int_equal(seen.rows_of_experts, 4 * MAKE_PROMPT);
    assert_int_equal(seen.q, MAKE_PROMPT);
    assert_int_equal(seen.head, 1);
    for (size_t i = 0; i < 2; i++)
        linears += model->layers[i].n_sites;
    assert_true(seen.calls <= linears + 1);

    const struct seen before = seen;
    ml_work_observe(f.work, NULL, NULL);
    assert_int_equal(ml_sequence_rewind(f.sequence, 0), 0);
    feed_prompt(&f, ML_LOGITS_LAST, logits);
    assert_int_equal(seen.calls, before.calls);
    feed_close(&f);
}

/* Inputs of the last linear of experts, summed: by those who watch a prompt, and its tokens one by one. */
struct sum {
    double of[64];
    size_t rows;
};

static void sum_experts(void *user, const struct ml_linear *l, const float *x, size_t ldx, size_t n) {
    struct sum *s = user;
    const char *name = strstr(l->name, ".experts.");
    if (!name) return;
    const size_t expert = strtoul(name + strlen(".experts."), NULL, 10), part = strstr(name, "down") ? 1 : 0;
    assert_true(expert < 32);
    s->rows += n;
    for (size_t i = 0; i < n * ldx; i++)
        s->of[2 * expert + part] += (double)x[i] * x[i];
}

/* A prompt's rows are gathered by expert, a token's are not: who watches sees the same. */
static void experts_are_watched_however_fed(void **state) {
    struct sum whole = {0}, pieces = {0};
    (void)state;
    struct feed f = open_feed(MAKE_PROMPT);
    ml_work_observe(f.work, sum_experts, &whole);
    feed_prompt(&f, ML_LOGITS_NONE, NULL);
    assert_int_equal(ml_sequence_rewind(f.sequence, 0), 0);
    ml_work_observe(f.work, sum_experts, &pieces);
    for (size_t i = 0; i < MAKE_PROMPT; i++)
        assert_int_equal(ml_feed(f.work, f.sequence, make_prompt + i, 1, ML_LOGITS_NONE, NULL, NULL),
                         MARLIN_OK);
    assert_int_equal(whole.rows, 3 * 4 * MAKE_PROMPT);
    assert_int_equal(pieces.rows, whole.rows);
    for (size_t i = 0; i < sizeof whole.of / sizeof *whole.of; i++)
        assert_true(whole.of[i] - pieces.of[i] <= 1e-5 * whole.of[i] &&
                    pieces.of[i] - whole.of[i] <= 1e-5 * whole.of[i]);
    feed_close(&f);
}

static void layer_done(void *user, size_t layer) {
    size_t *next = user;
    assert_int_equal(layer, *next);
    ++*next;
}

static void layers_are_done_in_order(void **state) {
    size_t next = 0;
    (void)state;
    struct feed f = open_feed(MAKE_PROMPT);
    ml_work_on_layer(f.work, layer_done, &next);
    feed_prompt(&f, ML_LOGITS_NONE, NULL);
    assert_int_equal(next, model->config->num_layers + 1); /* and the two ends of the model */
    ml_work_on_layer(f.work, NULL, NULL);
    assert_int_equal(ml_sequence_rewind(f.sequence, 0), 0);
    feed_prompt(&f, ML_LOGITS_NONE, NULL);
    assert_int_equal(next, model->config->num_layers + 1);
    feed_close(&f);
}

/* ---- figures ---- */

enum { LISTS = 4096 }; /* bytes: of numbers of pages, rows and devices, which estimates leave out */

/* The pages of keys and values are exactly what the estimate says. */
static void check_kv(const struct ml_model *m, size_t positions, size_t rows, enum ml_dtype type,
                     uint64_t kv) {
    const struct ml_pages_sizes sizes = {.sequences = 1, .positions = positions, .rows = rows};
    struct ml_cache *c = NULL;
    uint64_t sum = 0;
    const uint64_t before = ml_mem_bytes();
    assert_int_equal(ml_cache_create(m, type, &sizes, &c, NULL), MARLIN_OK);
    const uint64_t taken = ml_mem_bytes() - before;
    for (size_t g = 0; g < c->layout.n_groups; g++)
        sum += ml_pages_total(c->pages, g) * c->layout.groups[g].page_bytes;
    assert_int_equal(sum, kv);
    assert_in_range(taken, kv, kv + 4 * LISTS); /* an arena's block among it */
    ml_cache_free(c);
}

/* What a work allocates on as many threads as there are processors. */
static void check_scratch(const struct ml_model *m, size_t positions, size_t rows,
                          const struct ml_memory_estimate *e) {
    const struct ml_work_sizes sizes = {.rows = rows, .runs = 1, .positions = positions};
    struct ml_pool *pool = NULL;
    struct ml_work *w = NULL;
    assert_int_equal(ml_pool_create(ml_cpu()->cores, &pool, NULL), MARLIN_OK);
    const uint64_t before = ml_mem_bytes();
    assert_int_equal(ml_work_create(m, pool, &sizes, &w, NULL), MARLIN_OK);
    const uint64_t taken = ml_mem_bytes() - before;
    size_t work = 0;
    assert_int_equal(ml_config_work_bytes(m->config, &sizes, &work, NULL), MARLIN_OK);
    assert_int_equal(w->steps[0].memory_block.bytes, work);
    assert_in_range(taken, e->scratch, e->scratch + e->state + LISTS);
    ml_work_free(w);
    ml_pool_free(pool);
}

static void check_estimate(const struct ml_model *m, size_t positions, size_t rows, enum ml_dtype type) {
    struct ml_memory_estimate e;
    assert_int_equal(ml_model_estimate(m->config, 1000, positions, rows, type, &e, NULL), MARLIN_OK);
    assert_int_equal(e.weights, 1000);
    assert_int_equal(e.total, e.weights + e.kv + e.state + e.scratch);
    check_kv(m, positions, rows, type, e.kv);
    check_scratch(m, positions, rows, &e);
}

static void estimates_are_what_is_allocated(void **state) {
    struct ml_memory_estimate e, full;
    (void)state;
    check_estimate(model, 100, 16, ML_F32);
    check_estimate(model, 700, 64, ML_F16); /* so long that contexts are shared out */
    check_estimate(model, MAKE_PROMPT, MAKE_PROMPT, ML_I8);

    /* A sliding window does not keep the whole context. */
    struct ml_model *slides = make_load(MARLIN_SOURCE_DIR "/tests/golden/fixtures/mistral_swa");
    check_estimate(slides, 1000, 16, ML_F32);
    assert_int_equal(ml_model_estimate(slides->config, 0, 1000, 16, ML_F32, &e, NULL), MARLIN_OK);
    assert_int_equal(ml_model_estimate(slides->config, 0, 1000, 1000, ML_F32, &full, NULL), MARLIN_OK);
    assert_int_equal(e.kv * 8, full.kv); /* 2 of 16 pages */
    ml_model_free(slides);
}

static void estimates_of_quantized_models_are_too(void **state) {
    const struct ml_random_format four = {.bits = 4};
    const struct ml_model_options options = {.kv_dtype = ML_F16};
    struct ml_memory_estimate e;
    struct ml_model *m = NULL;
    (void)state;
    assert_int_equal(ml_model_random(model->config, &four, 1, &options, &m, NULL), MARLIN_OK);
    assert_int_equal(ml_model_estimate_of(m, 700, 32, &e, NULL), MARLIN_OK);
    assert_int_equal(e.weights, ml_model_weight_bytes(m));
    assert_int_equal(e.total, e.weights + e.kv + e.state + e.scratch);
    check_kv(m, 700, 32, ML_F16, e.kv);
    check_scratch(m, 700, 32, &e);
    ml_model_free(m);
}

static void impossible_sizes_are_named(void **state) {
    struct ml_memory_estimate e;
    struct marlin_error err;
    struct feed f = {0};
    (void)state;
    assert_int_equal(ml_model_estimate(model->config, 0, SIZE_MAX / 2, 16, ML_F16, &e, &err),
                     MARLIN_ERR_LIMIT);
    assert_int_equal(ml_model_estimate(model->config, UINT64_MAX, 100, 16, ML_F16, &e, &err),
                     MARLIN_ERR_LIMIT);
    assert_int_equal(feed_open_work(&f, model, NULL, 16, 0, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(feed_open_work(&f, model, NULL, 0, 16, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(feed_open_work(&f, model, NULL, 16, SIZE_MAX / 16, &err), MARLIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, "rows a pass"));
    assert_null(f.work);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_run_alone),
        cmocka_unit_test(linears_are_watched_by_name),
        cmocka_unit_test(experts_are_watched_however_fed),
        cmocka_unit_test(layers_are_done_in_order),
        cmocka_unit_test(estimates_are_what_is_allocated),
        cmocka_unit_test(estimates_of_quantized_models_are_too),
        cmocka_unit_test(impossible_sizes_are_named),
    };
    return cmocka_run_group_tests(tests, load, unload) + guard_clean(NULL);
}
