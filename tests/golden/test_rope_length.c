/* SPDX-License-Identifier: Apache-2.0
 *
 * Rotary tables that depend on the length of the whole sequence (longrope, dynamic NTK), below, beyond and
 * across the length at which they change, against transformers: however the tokens are fed.
 */
#include "golden.h"

#include <stdlib.h>

#include "guard.h"

enum { PROMPT = 16, KNOWN = 40 };

static const double reference_tolerance = 1e-3;

/* switch_at: most tokens of the first table. */
static const struct fixture {
    const char *name;
    size_t switch_at;
    bool greedy; /* one table from the prompt to the last token */
} fixtures[] = {{"phi3_longrope", 12, true},
                {"phi3_longrope_short", 64, true},
                {"phi3_partial", 12, true},
                {"phi3_longrope_cross", 24, false},
                {"llama_dynamic", 24, false}};
enum { FIXTURES = sizeof fixtures / sizeof *fixtures };

struct opened {
    const struct fixture *fixture;
    struct golden golden;
    struct ml_model *model;
};

static void open_fixture(struct opened *o, const struct fixture *f) {
    const struct ml_model_options options = {.kv_dtype = ML_F32};
    struct marlin_error err;
    char path[1024];
    o->fixture = f;
    (void)snprintf(path, sizeof path, "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, f->name);
    golden_ok(ml_model_load(path, &options, &o->model, &err), &err);
    (void)snprintf(path, sizeof path, "%s/tests/golden/fixtures/%s/reference.safetensors", MARLIN_SOURCE_DIR,
                   f->name);
    golden_open(&o->golden, path, true);
}

static void close_fixture(struct opened *o) {
    golden_close(&o->golden);
    ml_model_free(o->model);
}

static struct feed new_feed(const struct ml_model *m, size_t positions) {
    struct marlin_error err;
    struct feed f;
    golden_ok(feed_open(&f, m, NULL, positions, positions, &err), &err);
    return f;
}

static void feed(const struct feed *f, const int32_t *ids, size_t n, float *logits) {
    struct marlin_error err;
    golden_ok(ml_feed(f->work, f->sequence, ids, n, ML_LOGITS_LAST, logits, &err), &err);
}

/* ---- the whole sequence ---- */

static void logits_equal_transformers_in_any_pieces(void **state) {
    static const size_t chunks[] = {48, 7, 1};
    (void)state;
    for (size_t i = 0; i < FIXTURES; i++) {
        struct opened o;
        open_fixture(&o, &fixtures[i]);
        const struct golden *g = &o.golden;
        float *whole = NULL;
        for (size_t c = 0; c < 3; c++) {
            float *logits = golden_run(o.model, NULL, g->ids, g->n, chunks[c]);
            const double worst = golden_distance(logits, g->logits, g->n * g->vocab);
            print_message("%s, %zu at a time: max |difference| %.2e\n", o.fixture->name, chunks[c], worst);
            assert_true(worst <= reference_tolerance);
            if (whole) assert_memory_equal(logits, whole, g->n * g->vocab * sizeof *logits);
            if (whole)
                ml_free(logits);
            else
                whole = logits;
        }
        ml_free(whole);
        close_fixture(&o);
    }
}

/* ---- one token after the other ---- */

/* transformers' tokens come from a forward pass over everything so far, with the tables for that length. */
static void each_prefix_gives_the_token_of_transformers(void **state) {
    (void)state;
    for (size_t i = 0; i < FIXTURES; i++) {
        struct opened o;
        float logits[256];
        int32_t ids[64];
        open_fixture(&o, &fixtures[i]);
        memcpy(ids, o.golden.ids, PROMPT * sizeof *ids);
        assert_true(o.golden.vocab <= 256 && PROMPT + o.golden.n_greedy <= 64);
        for (size_t k = 0; k < o.golden.n_greedy; k++) {
            struct feed f = new_feed(o.model, PROMPT + k);
            feed(&f, ids, PROMPT + k, logits);
            ids[PROMPT + k] = (int32_t)golden_argmax(logits, o.golden.vocab);
            assert_int_equal(ids[PROMPT + k], o.golden.greedy[k]);
            feed_close(&f);
        }
        close_fixture(&o);
    }
}

/* Feeds the prompt and then the best token again and again, up to KNOWN tokens: ids and the last logits. */
static void generate(const struct feed *f, size_t vocab, int32_t *ids, size_t n, float *logits) {
    feed(f, ids, n, logits);
    for (; n < KNOWN; n++) {
        ids[n] = (int32_t)golden_argmax(logits, vocab);
        feed(f, ids + n, 1, logits);
    }
}

static void generating_within_one_table_equals_transformers(void **state) {
    (void)state;
    for (size_t i = 0; i < FIXTURES; i++) {
        struct opened o;
        float logits[256];
        int32_t ids[KNOWN];
        if (!fixtures[i].greedy) continue;
        open_fixture(&o, &fixtures[i]);
        memcpy(ids, o.golden.ids, PROMPT * sizeof *ids);
        struct feed f = new_feed(o.model, KNOWN);
        generate(&f, o.golden.vocab, ids, PROMPT, logits);
        assert_int_equal(o.golden.n_greedy, KNOWN - PROMPT);
        assert_memory_equal(ids + PROMPT, o.golden.greedy, (KNOWN - PROMPT) * sizeof *ids);
        feed_close(&f);
        close_fixture(&o);
    }
}

/* A sequence that was meant to stay short goes on: other tables are refused while it has keys by the old ones,
 * and fed anew it becomes what it would have been, had its length been known. */
static void grow(const struct opened *o, const int32_t *known, const float *known_logits) {
    struct marlin_error err;
    float logits[256];
    int32_t ids[KNOWN];
    const size_t at = o->fixture->switch_at, vocab = o->golden.vocab;
    struct feed f = new_feed(o->model, KNOWN);
    memcpy(ids, known, sizeof ids);
    assert_true(ml_sequence_expect(f.sequence, at - 2));
    assert_int_equal(ml_sequence_holds(f.sequence), at);
    feed(&f, ids, at, logits);
    assert_int_equal(ml_feed(f.work, f.sequence, ids + at, 1, ML_LOGITS_LAST, logits, &err),
                     MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "its rotary tables hold for 24"));
    assert_false(ml_sequence_expect(f.sequence, KNOWN));
    assert_int_equal(ml_sequence_length(f.sequence), at);
    assert_int_equal(ml_sequence_rewind(f.sequence, 0), 0);
    assert_true(ml_sequence_expect(f.sequence, KNOWN));
    memset(ids + at, 0, (KNOWN - at) * sizeof *ids);
    generate(&f, vocab, ids, at, logits);
    assert_memory_equal(ids, known, sizeof ids);
    assert_memory_equal(logits, known_logits, vocab * sizeof *logits);
    feed_close(&f);
}

static void generating_across_equals_a_run_that_knew_its_length(void **state) {
    (void)state;
    for (size_t i = 0; i < FIXTURES; i++) {
        struct opened o;
        float known_logits[256];
        int32_t known[KNOWN];
        if (fixtures[i].greedy) continue;
        open_fixture(&o, &fixtures[i]);
        memcpy(known, o.golden.ids, PROMPT * sizeof *known);
        struct feed f = new_feed(o.model, KNOWN);
        generate(&f, o.golden.vocab, known, PROMPT, known_logits);
        feed_close(&f);
        grow(&o, known, known_logits);
        close_fixture(&o);
    }
}

/* ---- a longer model: 600 tokens, of which 700 are fed ---- */

enum { LONG_VOCAB = 128, LONG_PROMPT = 595, LONG = 700 };

/* NULL, and the reason is printed, when the shared data is not there. */
static const char *shared_folder(void) {
    static char path[1024];
    const char *shared = getenv("MARLIN_SHARED");
    (void)snprintf(path, sizeof path, "%s/field/02-longrope-beyond-original-length", shared ? shared : "");
    FILE *f = NULL;
    char file[1100];
    (void)snprintf(file, sizeof file, "%s/ids.safetensors", path);
    if (shared) f = fopen(file, "rb");
    if (f) (void)fclose(f);
    if (!f) print_message("skipped: %s is not there (MARLIN_SHARED names the folder)\n", file);
    return f ? path : NULL;
}

static struct ml_model *open_long(const char *folder, int32_t *ids, float *last) {
    const struct ml_model_options options = {.kv_dtype = ML_F32};
    struct ml_tensors *t = NULL;
    struct ml_model *m = NULL;
    struct marlin_error err;
    char path[1100];
    (void)snprintf(path, sizeof path, "%s/ids.safetensors", folder);
    golden_ok(ml_tensors_open_file(path, &t, &err), &err);
    const struct ml_tensor *in = ml_tensors_find(t, "input_ids");
    assert_true(in && in->dtype == ML_I64 && in->count == LONG);
    for (size_t i = 0; i < LONG; i++) {
        int64_t id;
        memcpy(&id, in->data + i * sizeof id, sizeof id);
        ids[i] = (int32_t)id;
    }
    ml_tensors_close(t);
    (void)snprintf(path, sizeof path, "%s/hf-last-token.safetensors", folder);
    golden_ok(ml_tensors_open_file(path, &t, &err), &err);
    const struct ml_tensor *logits = ml_tensors_find(t, "logits");
    assert_true(logits && logits->dtype == ML_F32 && logits->count == LONG_VOCAB);
    memcpy(last, logits->data, LONG_VOCAB * sizeof *last);
    ml_tensors_close(t);
    (void)snprintf(path, sizeof path, "%s/model", folder);
    golden_ok(ml_model_load(path, &options, &m, &err), &err);
    return m;
}

static void a_long_prompt_in_any_pieces(void **state) {
    static const size_t chunks[] = {700, 512, 64, 7};
    int32_t ids[LONG];
    float last[LONG_VOCAB];
    (void)state;
    const char *folder = shared_folder();
    if (!folder) skip();
    struct ml_model *m = open_long(folder, ids, last);
    for (size_t i = 0; i < 4; i++) {
        float *logits = golden_run(m, NULL, ids, LONG, chunks[i]);
        const double worst = golden_distance(logits + (size_t)(LONG - 1) * LONG_VOCAB, last, LONG_VOCAB);
        print_message("700 tokens, %zu at a time: max |difference| of the last %.2e\n", chunks[i], worst);
        assert_true(worst <= reference_tolerance);
        ml_free(logits);
    }
    ml_model_free(m);
}

/* What transformers generates after 595 of the tokens: up to 600 by one table, then by the other. */
static void a_long_generation_equals_transformers(void **state) {
    static const int32_t greedy[] = {32, 94, 99, 32, 116, 80, 99, 7,  27, 32,
                                     35, 72, 99, 70, 28,  99, 50, 82, 64, 6};
    static const size_t steps[] = {0, 4, 5, 6, 7, 13, 19};
    int32_t ids[LONG];
    float logits[LONG_VOCAB];
    (void)state;
    const char *folder = shared_folder();
    if (!folder) skip();
    struct ml_model *m = open_long(folder, ids, logits);
    memcpy(ids + LONG_PROMPT, greedy, sizeof greedy);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct feed f = new_feed(m, LONG_PROMPT + steps[i]);
        feed(&f, ids, LONG_PROMPT + steps[i], logits);
        assert_int_equal(golden_argmax(logits, LONG_VOCAB), greedy[steps[i]]);
        feed_close(&f);
    }
    ml_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_equal_transformers_in_any_pieces),
        cmocka_unit_test(each_prefix_gives_the_token_of_transformers),
        cmocka_unit_test(generating_within_one_table_equals_transformers),
        cmocka_unit_test(generating_across_equals_a_run_that_knew_its_length),
        cmocka_unit_test(a_long_prompt_in_any_pieces),
        cmocka_unit_test(a_long_generation_equals_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
