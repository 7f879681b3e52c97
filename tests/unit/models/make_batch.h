/* SPDX-License-Identifier: Apache-2.0
 *
 * Small random models, sequences with a past, and batches of them: for tests that compare what a sequence gets
 * in one pass with what it gets in another.
 */
#ifndef MARLIN_TESTS_MAKE_BATCH_H
#define MARLIN_TESTS_MAKE_BATCH_H

#include "base/fp.h"
#include "base/mem.h"
#include "base/rng.h"
#include "models/model_int.h"
#include "models/sequence.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { MB_VOCAB = 96, MB_WINDOW = 24, MB_POSITIONS = 700 };

#define MB_COMMON                                                                                            \
    "\"vocab_size\":96,\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2,"                 \
    "\"head_dim\":32,\"max_position_embeddings\":2048,\"rms_norm_eps\":1e-6,"
#define MB_ROPE "\"rope_parameters\":{\"rope_theta\":10000.0,\"rope_type\":\"default\"},"

struct mb_spec {
    const char *name, *json;
    struct ml_random_format format;
};

/* Plain and every form of quantized weights; full layers, windows, both; one and two KV heads; experts. */
static const struct mb_spec mb_specs[] = {
    {"full layers, 16 bits",
     "{\"model_type\":\"qwen3\"," MB_COMMON MB_ROPE
     "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"tie_word_embeddings\":true}",
     {16, false}},
    {"window and full layers, tap of 4 bits",
     "{\"model_type\":\"gemma3_text\"," MB_COMMON
     "\"num_attention_heads\":3,\"num_key_value_heads\":1,\"query_pre_attn_scalar\":32,"
     "\"layer_types\":[\"sliding_attention\",\"full_attention\"],\"sliding_window\":24,"
     "\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1000000.0,\"rope_type\":\"default\"},"
     "\"sliding_attention\":{\"rope_theta\":10000.0,\"rope_type\":\"default\"}}}",
     {4, false}},
    {"window layers, int8",
     "{\"model_type\":\"mistral\"," MB_COMMON MB_ROPE
     "\"num_attention_heads\":2,\"num_key_value_heads\":2,\"sliding_window\":24,"
     "\"tie_word_embeddings\":false}",
     {8, false}},
    {"full layers, exl3 of 3 bits",
     "{\"model_type\":\"llama\"," MB_COMMON MB_ROPE
     "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"tie_word_embeddings\":false}",
     {3, true}},
    {"experts, tap of 3 bits",
     "{\"model_type\":\"qwen3_moe\"," MB_COMMON MB_ROPE
     "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"num_local_experts\":6,\"num_experts_per_tok\":2,"
     "\"moe_intermediate_size\":48,\"mlp_only_layers\":[0],\"decoder_sparse_step\":1,"
     "\"norm_topk_prob\":true,\"tie_word_embeddings\":false}",
     {3, false}},
};
enum { MB_SPECS = sizeof mb_specs / sizeof *mb_specs };

static inline void mb_ok(marlin_status st, const struct marlin_error *err) {
    if (st != MARLIN_OK) fail_msg("%s: %s", marlin_status_name(st), err->text);
}

static inline struct ml_config *mb_config(const char *json) {
    struct marlin_error err = {0};
    struct ml_config *c = NULL;
    mb_ok(ml_config_parse(json, strlen(json), NULL, 0, "test", &c, &err), &err);
    return c;
}

static inline struct ml_model *mb_model_as(const struct mb_spec *spec, bool exact) {
    struct marlin_error err = {0};
    const struct ml_model_options options = {.kv_dtype = ML_F32, .exact = exact};
    struct ml_config *c = mb_config(spec->json);
    struct ml_model *m = NULL;
    mb_ok(ml_model_random(c, &spec->format, 7, &options, &m, &err), &err);
    ml_config_free(c);
    return m;
}

static inline struct ml_model *mb_model(const struct mb_spec *spec) {
    return mb_model_as(spec, false);
}

static inline struct ml_cache *mb_cache(const struct ml_model *m, enum ml_dtype type, size_t sequences,
                                        size_t spares, size_t rows) {
    const struct ml_pages_sizes sizes = {
        .sequences = sequences, .positions = MB_POSITIONS, .rows = rows, .spares = spares};
    struct marlin_error err = {0};
    struct ml_cache *c = NULL;
    mb_ok(ml_cache_create(m, type, &sizes, &c, &err), &err);
    return c;
}

static inline struct ml_work *mb_work(const struct ml_model *m, struct ml_pool *pool, size_t rows,
                                      size_t runs) {
    const struct ml_work_sizes sizes = {.rows = rows, .runs = runs, .positions = MB_POSITIONS};
    struct marlin_error err = {0};
    struct ml_work *w = NULL;
    mb_ok(ml_work_create(m, pool, &sizes, &w, &err), &err);
    return w;
}

static inline struct ml_pool *mb_pool(int threads) {
    struct ml_pool *p = NULL;
    if (threads > 1) assert_int_equal(ml_pool_create(threads, &p, NULL), MARLIN_OK);
    return p;
}

static inline struct ml_sequence *mb_sequence(struct ml_cache *c) {
    struct marlin_error err = {0};
    struct ml_sequence *s = NULL;
    mb_ok(ml_sequence_create(c, MB_POSITIONS, &s, &err), &err);
    return s;
}

static inline struct ml_sequence *mb_fork(const struct ml_sequence *from) {
    struct marlin_error err = {0};
    struct ml_sequence *s = NULL;
    mb_ok(ml_sequence_fork(from, &s, &err), &err);
    return s;
}

/* logits NULL: none are wanted. */
static inline void mb_feed(struct ml_work *w, struct ml_sequence *s, const int32_t *ids, size_t n,
                           float *logits) {
    struct marlin_error err = {0};
    mb_ok(ml_feed(w, s, ids, n, logits ? ML_LOGITS_ALL : ML_LOGITS_NONE, logits, &err), &err);
}

/* One token after the other: the slow way that every other way has to equal. */
static inline void mb_feed_slowly(struct ml_work *w, struct ml_sequence *s, const int32_t *ids, size_t n,
                                  float *logits) {
    for (size_t i = 0; i < n; i++)
        mb_feed(w, s, ids + i, 1, logits ? logits + i * MB_VOCAB : NULL);
}

static inline void mb_ids(struct ml_rng *rng, int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(ml_rng_u64(rng) % MB_VOCAB);
}

static inline size_t mb_below(struct ml_rng *rng, size_t n) {
    return (size_t)(ml_rng_u64(rng) % n);
}

/* ---- what sequences hold ---- */

static inline void mb_same_rows(const struct ml_kv_layout *l, const char *a, const char *b, size_t slot) {
    const size_t size = ml_dtype_size(l->dtype), k = l->k_dim * size, v = l->v_dim * size;
    for (size_t h = 0; h < l->kv_heads; h++) {
        const size_t at = h * l->head_bytes;
        assert_memory_equal(a + l->k_at + at + slot * k, b + l->k_at + at + slot * k, k);
        assert_memory_equal(a + l->v_at + at + slot * v, b + l->v_at + at + slot * v, v);
        if (l->dtype != ML_I8) continue;
        assert_memory_equal(a + l->k_scales_at + at + slot * 4, b + l->k_scales_at + at + slot * 4, 4);
        assert_memory_equal(a + l->v_scales_at + at + slot * 4, b + l->v_scales_at + at + slot * 4, 4);
    }
}

/* Keys and values of the first n positions are the same bits wherever both sequences still have them. How many
 * positions of layers were compared. */
static inline size_t mb_same_memory(const struct ml_sequence *a, const struct ml_sequence *b, size_t n) {
    const struct ml_memory_layout *l = &a->cache->layout;
    size_t compared = 0;
    for (size_t i = 0; i < l->n_layers; i++) {
        size_t ends[2];
        const size_t g = l->layers[i].group;
        const char *const *x = ml_memory_table(a->memory, g, &ends[0]);
        const char *const *y = ml_memory_table(b->memory, g, &ends[1]);
        for (size_t slot = 0; slot < n; slot++) {
            const size_t page = slot / ML_PAGE_KEYS;
            if (page >= ends[0] || page >= ends[1] || !x[page] || !y[page]) continue;
            mb_same_rows(&l->layers[i].layout, x[page], y[page], slot % ML_PAGE_KEYS);
            compared++;
        }
    }
    return compared;
}

/* ---- tiers ---- */

/* Runs `tests` once for every tier that this processor has, in a process of its own: what models hold is in the
 * order of one tier's kernels. How many failed. */
static inline int mb_every_tier(int (*tests)(void)) {
    int failed = 0;
    for (int t = 0; t < ML_CPU_TIERS; t++) {
        int status = 0;
        if (!ml_cpu_tier_has(ml_cpu()->tier, (enum ml_cpu_tier)t)) continue;
        (void)printf("tier %s\n", ml_cpu_tier_name((enum ml_cpu_tier)t));
        (void)fflush(NULL);
        const pid_t child = fork();
        if (child == 0) exit(ml_cpu_set_mask(ml_cpu_tier_name((enum ml_cpu_tier)t)) ? tests() : 1);
        if (child < 0 || waitpid(child, &status, 0) != child) return failed + 1;
        failed += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    }
    return failed;
}

#endif
