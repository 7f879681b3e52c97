/* SPDX-License-Identifier: Apache-2.0
 *
 * The generation loop on the embedded model: reproducible, independent of threads and chunks, bounded by the
 * context.
 */
#include "base/buf.h"
#include "engine/generate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"

static const char model_dir[] = MARLIN_SOURCE_DIR "/models/marlin-12m";

enum { MAX_TOKENS = 24 };

struct answer {
    int32_t ids[64];
    size_t n, prompt_tokens;
    enum ml_finish finish;
    struct ml_buf text;
};

static bool collect(void *user, const char *text, size_t len) {
    assert_true(len > 0);
    assert_int_equal(ml_buf_add(user, text, len), MARLIN_OK);
    return true;
}

static bool refuse(void *user, const char *text, size_t len) {
    (void)text;
    (void)len;
    ++*(int *)user;
    return false;
}

static void open_runtime(struct ml_runtime *r, int threads) {
    struct marlin_error err = {0};
    const struct ml_runtime_options o = {.threads = threads};
    if (ml_runtime_open(model_dir, &o, r, &err) != MARLIN_OK) fail_msg("%s", err.text);
}

static void encode(const struct ml_runtime *r, const char *prompt, struct ml_ids *ids) {
    assert_int_equal(ml_tokenizer_encode(r->tokenizer, prompt, strlen(prompt), ML_ENCODE_BOS, ids, NULL),
                     MARLIN_OK);
}

static void ask(const struct ml_runtime *r, const struct ml_generator_options *o, const char *prompt,
                const char *const *stop, size_t n_stop, struct answer *a) {
    struct marlin_error err = {0};
    struct ml_generator *g = NULL;
    struct ml_ids ids = {0};
    struct ml_outcome out;
    ml_buf_init(&a->text, 1 << 20);
    encode(r, prompt, &ids);
    assert_int_equal(ml_generator_create(r, o, &g, &err), MARLIN_OK);
    const struct ml_request rq = {.prompt = ids.id,
                                  .n_prompt = ids.n,
                                  .max_tokens = MAX_TOKENS,
                                  .stop = stop,
                                  .n_stop = n_stop,
                                  .on_text = collect,
                                  .user = &a->text};
    if (ml_generator_run(g, &rq, &out, &err) != MARLIN_OK) fail_msg("%s", err.text);
    assert_in_range(out.n_tokens, 0, MAX_TOKENS);
    memcpy(a->ids, out.tokens, out.n_tokens * sizeof(*a->ids));
    a->n = out.n_tokens;
    a->finish = out.finish;
    a->prompt_tokens = out.prompt_tokens;
    assert_int_equal(out.prompt_tokens, ids.n);
    ml_generator_free(g);
    ml_ids_free(&ids);
}

static struct ml_generator_options options(float temperature, uint64_t seed) {
    struct ml_generator_options o = {.context = 256};
    ml_sampling_default(&o.sampling);
    o.sampling.temperature = temperature;
    o.sampling.seed = seed;
    return o;
}

static void assert_same(struct answer *a, struct answer *b) {
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->ids, b->ids, a->n * sizeof(*a->ids));
    assert_int_equal(a->text.len, b->text.len);
    if (a->text.len) assert_memory_equal(a->text.data, b->text.data, a->text.len);
    ml_buf_free(&a->text);
    ml_buf_free(&b->text);
}

static const char prompt[] = "Once upon a time there was a little fish who";

static void same_seed_same_tokens(void **state) {
    const struct ml_runtime *r = *state;
    struct answer a, b, c;
    const struct ml_generator_options o = options(0.9f, 11), other = options(0.9f, 12);
    ask(r, &o, prompt, NULL, 0, &a);
    ask(r, &o, prompt, NULL, 0, &b);
    ask(r, &other, prompt, NULL, 0, &c);
    assert_int_equal(a.n, MAX_TOKENS);
    assert_int_equal(a.finish, ML_FINISH_LENGTH);
    assert_true(c.n != a.n || memcmp(a.ids, c.ids, a.n * sizeof(*a.ids)) != 0);
    ml_buf_free(&c.text);
    assert_same(&a, &b);
}

static void one_and_two_threads_agree(void **state) {
    (void)state;
    struct ml_runtime r1, r2;
    struct answer a, b;
    const struct ml_generator_options o = options(0.9f, 5);
    open_runtime(&r1, 1);
    open_runtime(&r2, 2);
    ask(&r1, &o, prompt, NULL, 0, &a);
    ask(&r2, &o, prompt, NULL, 0, &b);
    assert_same(&a, &b);
    ml_runtime_close(&r1);
    ml_runtime_close(&r2);
}

static void greedy_does_not_depend_on_chunks(void **state) {
    const struct ml_runtime *r = *state;
    struct answer a, b;
    struct ml_generator_options o = options(0, 0);
    ask(r, &o, prompt, NULL, 0, &a);
    o.chunk = 3;
    ask(r, &o, prompt, NULL, 0, &b);
    assert_same(&a, &b);
}

/* A stop string taken from the middle of the greedy answer, across a token boundary. */
static void stop_string_cuts_the_answer(void **state) {
    const struct ml_runtime *r = *state;
    struct answer a, b;
    const struct ml_generator_options o = options(0, 0);
    char word[9];
    ask(r, &o, prompt, NULL, 0, &a);
    assert_true(a.text.len > 24);
    memcpy(word, a.text.data + 12, 8);
    word[8] = '\0';
    const char *const stop[] = {"never seen anywhere", word};
    ask(r, &o, prompt, stop, 2, &b);
    assert_int_equal(b.finish, ML_FINISH_STOP);
    assert_int_equal(b.text.len, (size_t)(strstr(a.text.data, word) - a.text.data));
    assert_memory_equal(b.text.data, a.text.data, b.text.len);
    assert_true(b.n < a.n);
    ml_buf_free(&a.text);
    ml_buf_free(&b.text);
}

static void prompt_longer_than_the_context_names_both(void **state) {
    const struct ml_runtime *r = *state;
    struct marlin_error err = {0};
    struct ml_generator *g = NULL;
    struct ml_outcome out;
    int32_t ids[40] = {0};
    struct ml_generator_options o = options(0, 0);
    o.context = 32;
    assert_int_equal(ml_generator_create(r, &o, &g, &err), MARLIN_OK);
    struct ml_request rq = {.prompt = ids, .n_prompt = 40, .max_tokens = 4};
    assert_int_equal(ml_generator_run(g, &rq, &out, &err), MARLIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, "40 tokens"));
    assert_non_null(strstr(err.text, "32"));
    rq.n_prompt = 32;
    assert_int_equal(ml_generator_run(g, &rq, &out, &err), MARLIN_ERR_LIMIT);
    assert_int_equal(ml_generator_length(g), 0);
    rq.n_prompt = 0;
    assert_int_equal(ml_generator_run(g, &rq, &out, &err), MARLIN_ERR_ARGUMENT);
    ids[3] = 1 << 30;
    rq.n_prompt = 8;
    assert_int_equal(ml_generator_run(g, &rq, &out, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(ml_generator_length(g), 0);
    ml_generator_free(g);
}

static void a_full_context_ends_with_length(void **state) {
    const struct ml_runtime *r = *state;
    struct ml_generator *g = NULL;
    struct ml_outcome out;
    const int32_t ids[30] = {5, 6, 7};
    struct ml_generator_options o = options(1, 3);
    o.context = 32;
    assert_int_equal(ml_generator_create(r, &o, &g, NULL), MARLIN_OK);
    const struct ml_request rq = {.prompt = ids, .n_prompt = 30, .max_tokens = 100, .ignore_eos = true};
    assert_int_equal(ml_generator_run(g, &rq, &out, NULL), MARLIN_OK);
    assert_int_equal(out.n_tokens, 2);
    assert_int_equal(out.finish, ML_FINISH_LENGTH);
    assert_int_equal(ml_generator_length(g), 32);
    ml_generator_free(g);
}

static void cancelling_ends_between_tokens(void **state) {
    const struct ml_runtime *r = *state;
    struct ml_generator *g = NULL;
    struct ml_outcome out;
    const int32_t ids[4] = {300, 301, 302, 303};
    int calls = 0;
    const volatile sig_atomic_t stop_now = 1;
    const struct ml_generator_options o = options(0, 0);
    assert_int_equal(ml_generator_create(r, &o, &g, NULL), MARLIN_OK);
    struct ml_request rq = {.prompt = ids,
                            .n_prompt = 4,
                            .max_tokens = 50,
                            .on_text = refuse,
                            .user = &calls,
                            .ignore_eos = true};
    assert_int_equal(ml_generator_run(g, &rq, &out, NULL), MARLIN_OK);
    assert_int_equal(out.finish, ML_FINISH_CANCELLED);
    assert_int_equal(calls, 1);
    rq.cancel = &stop_now;
    assert_int_equal(ml_generator_run(g, &rq, &out, NULL), MARLIN_OK);
    assert_int_equal(out.finish, ML_FINISH_CANCELLED);
    assert_int_equal(out.n_tokens, 0);
    ml_generator_free(g);
}

/* Two requests on one timeline give what one request with everything gives. */
static void a_timeline_goes_on(void **state) {
    const struct ml_runtime *r = *state;
    struct ml_generator *g = NULL;
    struct ml_outcome out;
    int32_t first[4], all[8];
    const int32_t ids[5] = {300, 301, 302, 303, 304};
    const struct ml_generator_options o = options(0, 0);
    struct ml_request rq = {.prompt = ids, .n_prompt = 5, .max_tokens = 8, .ignore_eos = true};
    assert_int_equal(ml_generator_create(r, &o, &g, NULL), MARLIN_OK);
    assert_int_equal(ml_generator_run(g, &rq, &out, NULL), MARLIN_OK);
    memcpy(all, out.tokens, sizeof(all));
    ml_generator_free(g);

    assert_int_equal(ml_generator_create(r, &o, &g, NULL), MARLIN_OK);
    rq.max_tokens = 4;
    assert_int_equal(ml_generator_run(g, &rq, &out, NULL), MARLIN_OK);
    memcpy(first, out.tokens, sizeof(first));
    assert_memory_equal(first, all, sizeof(first));
    rq.n_prompt = 0;
    assert_int_equal(ml_generator_run(g, &rq, &out, NULL), MARLIN_OK);
    assert_memory_equal(out.tokens, all + 4, sizeof(first));
    ml_generator_free(g);
}

static int setup(void **state) {
    static struct ml_runtime runtime;
    open_runtime(&runtime, 2);
    *state = &runtime;
    return 0;
}

static int teardown(void **state) {
    ml_runtime_close(*state);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_seed_same_tokens),
        cmocka_unit_test(one_and_two_threads_agree),
        cmocka_unit_test(greedy_does_not_depend_on_chunks),
        cmocka_unit_test(stop_string_cuts_the_answer),
        cmocka_unit_test(prompt_longer_than_the_context_names_both),
        cmocka_unit_test(a_full_context_ends_with_length),
        cmocka_unit_test(cancelling_ends_between_tokens),
        cmocka_unit_test(a_timeline_goes_on),
    };
    return cmocka_run_group_tests(tests, setup, teardown) + guard_clean(NULL);
}
