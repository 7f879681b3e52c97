/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers with a sliding window keep no more than their window: the estimate shows it, the pool that is made has
 * that size, and it is enough for the whole context, however it is fed, and for checkpoints beside it.
 */
#include "make_batch.h"

#include "guard.h"
#include "models/work.h"

enum { CONTEXT = 32768, PASS = 128, WINDOW = 512, LAYERS = 6, HEADS = 2, DIM = 32 };

#define SIX(first)                                                                                           \
    "{\"model_type\":\"" first "\",\"vocab_size\":96,\"hidden_size\":64,\"intermediate_size\":96,"           \
    "\"num_hidden_layers\":6,\"head_dim\":32,\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-6,"       \
    "\"num_attention_heads\":2,\"num_key_value_heads\":2,"
#define GLOBAL "\"rope_parameters\":{\"rope_theta\":10000.0,\"rope_type\":\"default\"}"

static const char five_of_six[] =
    SIX("gemma3_text") "\"query_pre_attn_scalar\":32,\"sliding_window\":512,\"_sliding_window_pattern\":6,"
                       "\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1000000.0,"
                       "\"rope_type\":\"default\"},\"sliding_attention\":{\"rope_theta\":10000.0,"
                       "\"rope_type\":\"default\"}}}";
static const char all_of_them[] =
    SIX("mistral") "\"sliding_window\":512,\"tie_word_embeddings\":false," GLOBAL "}";
static const char none[] = SIX("llama") "\"tie_word_embeddings\":false," GLOBAL "}";

/* How many of the layers slide. */
static const struct {
    const char *json;
    size_t slide;
} models[] = {{five_of_six, 5}, {all_of_them, LAYERS}, {none, 0}};
enum { MODELS = sizeof models / sizeof *models };

static const struct {
    enum ml_dtype type;
    size_t row; /* bytes of a key or a value */
} types[] = {{ML_F32, 4 * DIM}, {ML_F16, 2 * DIM}, {ML_I8, DIM + 4}};

/* Of n slots of a layer: whole pages, of which each head has a cache line more. */
static size_t bytes_of(size_t pages, size_t row) {
    return pages * HEADS * (2 * ML_PAGE_KEYS * row + 64);
}

static void the_estimate_is_of_windows(void **state) {
    (void)state;
    for (size_t i = 0; i < MODELS; i++)
        for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
            struct ml_memory_estimate e;
            struct marlin_error err = {0};
            struct ml_config *c = mb_config(models[i].json);
            mb_ok(ml_model_estimate(c, 0, CONTEXT, PASS, types[k].type, &e, &err), &err);
            const size_t full = bytes_of(CONTEXT / ML_PAGE_KEYS, types[k].row);
            /* The window, a pass, and what stands before the window in its first page. */
            const size_t window = bytes_of((WINDOW + PASS) / ML_PAGE_KEYS + 1, types[k].row);
            assert_int_equal(e.kv, models[i].slide * window + (LAYERS - models[i].slide) * full);
            if (models[i].slide == 5) assert_true(5 * e.kv < LAYERS * full); /* 19 % */
            ml_config_free(c);
        }
}

static struct ml_model *make_model(size_t i) {
    const struct mb_spec spec = {"window", models[i].json, {16, false}};
    return mb_model(&spec);
}

static size_t pool_bytes(const struct ml_pages *p) {
    const struct ml_memory_layout *l = ml_pages_layout(p);
    size_t sum = 0;
    for (size_t g = 0; g < l->n_groups; g++)
        sum += ml_pages_total(p, g) * l->groups[g].page_bytes;
    return sum;
}

/* Passes of any size, not all of whose rows count (drafts), to the last position. */
static void run_through(struct ml_memory *m, struct ml_stream *const *streams, struct ml_rng *rng) {
    struct marlin_error err = {0};
    while (ml_memory_length(m) < CONTEXT) {
        const size_t left = CONTEXT - ml_memory_length(m), most = left < PASS ? left : PASS;
        const size_t n = mb_below(rng, 2) ? most : 1 + mb_below(rng, most);
        mb_ok(ml_memory_reserve(m, n, streams, &err), &err);
        ml_memory_commit(m, mb_below(rng, 2) ? n : 1 + mb_below(rng, n));
    }
    assert_int_equal(ml_memory_reserve(m, 1, streams, &err), MARLIN_ERR_LIMIT);
}

static void a_pool_of_that_size_is_enough(void **state) {
    struct ml_rng rng;
    (void)state;
    ml_rng_seed(&rng, 31);
    for (size_t i = 0; i < MODELS; i++) {
        const struct ml_pages_sizes sizes = {.sequences = 1, .positions = CONTEXT, .rows = PASS};
        struct marlin_error err = {0};
        struct ml_memory_estimate e;
        struct ml_cache *cache = NULL;
        struct ml_memory *m = NULL;
        struct ml_model *model = make_model(i);
        struct ml_work *w = mb_work(model, NULL, 1, 1);
        mb_ok(ml_model_estimate(model->config, 0, CONTEXT, PASS, ML_I8, &e, &err), &err);
        mb_ok(ml_cache_create(model, ML_I8, &sizes, &cache, &err), &err);
        assert_int_equal(pool_bytes(ml_cache_pages(cache)), e.kv);
        mb_ok(ml_memory_create(ml_cache_pages(cache), CONTEXT, &m, &err), &err);
        for (size_t round = 0; round < 3; round++) {
            run_through(m, w->streams, &rng);
            assert_int_equal(ml_memory_rewind(m, 0), 0);
        }
        ml_memory_free(m);
        ml_cache_free(cache);
        ml_work_free(w);
        ml_model_free(model);
    }
}

/* A checkpoint is taken and gone back to at any time, and what came after it is taken back in part: it was counted
 * as a spare. */
static void a_spare_is_enough_for_a_checkpoint(void **state) {
    enum { SHORT = 2048, ROUNDS = 3000 };
    struct ml_rng rng;
    (void)state;
    ml_rng_seed(&rng, 37);
    for (size_t i = 0; i < MODELS; i++) {
        const struct ml_pages_sizes sizes = {.sequences = 1, .positions = SHORT, .rows = PASS, .spares = 1};
        struct marlin_error err = {0};
        struct ml_cache *cache = NULL;
        struct ml_memory *m = NULL, *aside = NULL;
        struct ml_model *model = make_model(i);
        struct ml_work *w = mb_work(model, NULL, 1, 1);
        mb_ok(ml_cache_create(model, ML_I8, &sizes, &cache, &err), &err);
        mb_ok(ml_memory_create(ml_cache_pages(cache), SHORT, &m, &err), &err);
        mb_ok(ml_memory_create(ml_cache_pages(cache), SHORT, &aside, &err), &err);
        for (size_t round = 0; round < ROUNDS; round++) {
            const size_t left = SHORT - ml_memory_length(m),
                         n = mb_below(&rng, (left < PASS ? left : PASS) + 1);
            const size_t what = mb_below(&rng, 10);
            mb_ok(ml_memory_reserve(m, n, w->streams, &err), &err);
            ml_memory_commit(m, mb_below(&rng, n + 1));
            if (what == 0) ml_memory_restore(aside, m);
            if (what == 1) ml_memory_restore(m, aside);
            const size_t since = ml_memory_length(m) - ml_memory_length(aside);
            if (what == 2) (void)ml_memory_rewind(m, ml_memory_length(m) - mb_below(&rng, since + 1));
        }
        ml_memory_free(m);
        ml_memory_free(aside);
        const size_t groups = ml_pages_layout(ml_cache_pages(cache))->n_groups;
        for (size_t g = 0; g < groups; g++)
            assert_int_equal(ml_pages_left(ml_cache_pages(cache), g),
                             ml_pages_total(ml_cache_pages(cache), g));
        ml_cache_free(cache);
        ml_work_free(w);
        ml_model_free(model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_estimate_is_of_windows),
        cmocka_unit_test(a_pool_of_that_size_is_enough),
        cmocka_unit_test(a_spare_is_enough_for_a_checkpoint),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
