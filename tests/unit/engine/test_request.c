/* SPDX-License-Identifier: Apache-2.0
 *
 * The request as a stepper over rows of logits that the test makes up: no model takes part, only the embedded
 * one's tokenizer.
 */
#include "base/mem.h"
#include "base/rng.h"
#include "engine/request.h"
#include "engine/stop.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"

static const char model_dir[] = MARLIN_SOURCE_DIR "/models/marlin-chat";

enum { VOCAB = 16, EOS = 3, CONTEXT = 64, PROMPT = 5, MAX_VOCAB = 8192 };

static const int64_t eos[] = {EOS};
static const struct ml_vocabulary numbers = {.size = VOCAB, .eos = eos, .n_eos = 1};
static const int32_t prompt[PROMPT] = {4, 5, 4, 9, 11};

static struct ml_sampler *make_sampler(float temperature, size_t vocab) {
    struct ml_sampler *s = NULL;
    struct ml_sampling o;
    ml_sampling_default(&o);
    o.temperature = temperature;
    o.seed = 5;
    if (temperature > 0) o.presence_penalty = o.frequency_penalty = 0.7f;
    o.penalty_window = 9;
    assert_int_equal(ml_sampler_create(&o, vocab, 1 << 16, &s, NULL), MARLIN_OK);
    return s;
}

static struct ml_request_options ask(size_t max_tokens) {
    return (struct ml_request_options){
        .prompt = prompt, .n_prompt = PROMPT, .max_tokens = max_tokens, .context = CONTEXT};
}

static struct ml_request *make(const struct ml_vocabulary *v, struct ml_sampler *s,
                               const struct ml_request_options *o) {
    struct ml_request *r = NULL;
    struct marlin_error err = {0};
    if (ml_request_create(v, s, o, &r, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return r;
}

static void feed_prompt(struct ml_request *r) {
    size_t n;
    const int32_t *ids = ml_request_prompt(r, &n);
    assert_int_equal(n, PROMPT);
    assert_memory_equal(ids, prompt, sizeof(prompt));
    ml_request_fed(r, 2);
    ids = ml_request_prompt(r, &n);
    assert_int_equal(n, PROMPT - 2);
    assert_memory_equal(ids, prompt + 2, n * sizeof(*ids));
    ml_request_fed(r, n);
    ml_request_prompt(r, &n);
    assert_int_equal(n, 0);
    assert_int_equal(ml_request_prompt_fed(r), PROMPT);
}

/* The row for step i: the same for every request that asks. */
static void make_row(size_t i, float *row) {
    struct ml_rng rng;
    ml_rng_seed(&rng, 1000 + i);
    for (size_t k = 0; k < VOCAB; k++)
        row[k] = k == EOS ? -50 : 2 * ml_rng_normal(&rng);
}

/* A row in which one id is by far the likeliest. */
static void point_at(float *row, size_t n, int32_t id) {
    memset(row, 0, n * sizeof(*row));
    row[id] = 40;
}

static void ends_at_max_tokens(void **state) {
    (void)state;
    struct ml_sampler *s = make_sampler(0.8f, VOCAB);
    const struct ml_request_options o = ask(7);
    struct ml_request *r = make(&numbers, s, &o);
    int32_t taken[8], next;
    size_t n = 0, n_tokens;
    float row[VOCAB];
    feed_prompt(r);
    while (!ml_request_finished(r)) {
        make_row(n, row);
        assert_int_equal(ml_request_take(r, row, &next, NULL), MARLIN_OK);
        assert_in_range(next, 0, VOCAB - 1);
        taken[n++] = next;
    }
    const int32_t *tokens = ml_request_tokens(r, &n_tokens);
    assert_int_equal(n, 7);
    assert_int_equal(n_tokens, 7);
    assert_memory_equal(tokens, taken, 7 * sizeof(*taken));
    assert_int_equal(ml_request_finish(r), ML_FINISH_LENGTH);
    ml_request_free(r);
    ml_sampler_free(s);
}

static void eos_ends_and_is_no_part_of_the_answer(void **state) {
    (void)state;
    struct ml_sampler *s = make_sampler(0, VOCAB);
    struct ml_request_options o = ask(7);
    for (int ignore = 0; ignore < 2; ignore++) {
        int32_t next;
        size_t n;
        float row[VOCAB];
        o.ignore_eos = ignore;
        struct ml_request *r = make(&numbers, s, &o);
        feed_prompt(r);
        point_at(row, VOCAB, 8);
        assert_int_equal(ml_request_take(r, row, &next, NULL), MARLIN_OK);
        assert_int_equal(next, 8);
        point_at(row, VOCAB, EOS);
        assert_int_equal(ml_request_take(r, row, &next, NULL), MARLIN_OK);
        assert_int_equal(next, EOS); /* the timeline has it, although the answer does not */
        assert_int_equal(ml_request_finished(r), !ignore);
        const int32_t *tokens = ml_request_tokens(r, &n);
        assert_int_equal(n, ignore ? 2 : 1);
        assert_int_equal(tokens[0], 8);
        if (!ignore) assert_int_equal(ml_request_finish(r), ML_FINISH_STOP);
        ml_request_free(r);
    }
    ml_sampler_free(s);
}

static void a_row_is_left_alone_when_nothing_is_chosen(void **state) {
    (void)state;
    struct ml_sampler *s = make_sampler(0.8f, VOCAB);
    atomic_bool cancel = false;
    struct ml_request_options o = ask(7);
    float row[VOCAB], same[VOCAB];
    int32_t next = 0;
    size_t n;
    make_row(0, row);
    memcpy(same, row, sizeof(row));

    o.cancel = &cancel;
    struct ml_request *r = make(&numbers, s, &o);
    feed_prompt(r);
    assert_ptr_equal(ml_request_cancel_flag(r), &cancel);
    assert_false(ml_request_is_cancelled(r));
    atomic_store(&cancel, true);
    assert_true(ml_request_is_cancelled(r));
    assert_int_equal(ml_request_take(r, row, &next, NULL), MARLIN_OK);
    assert_int_equal(next, -1);
    assert_true(ml_request_finished(r));
    assert_int_equal(ml_request_finish(r), ML_FINISH_CANCELLED);
    assert_memory_equal(row, same, sizeof(row));
    ml_request_free(r);

    o = ask(0);
    r = make(&numbers, s, &o);
    feed_prompt(r);
    assert_int_equal(ml_request_take(r, row, &next, NULL), MARLIN_OK);
    assert_int_equal(next, -1);
    assert_int_equal(ml_request_finish(r), ML_FINISH_LENGTH);
    ml_request_tokens(r, &n);
    assert_int_equal(n, 0);
    assert_memory_equal(row, same, sizeof(row));
    ml_request_free(r);
    ml_sampler_free(s);
}

/* Runs a request to its end, or until the row of step `bad` has no number in it. */
static marlin_status run(struct ml_sampler *s, size_t bad, int32_t *tokens) {
    const struct ml_request_options o = ask(20);
    struct ml_request *r = make(&numbers, s, &o);
    marlin_status st = MARLIN_OK;
    int32_t next;
    size_t n = 0;
    feed_prompt(r);
    for (size_t i = 0; st == MARLIN_OK && !ml_request_finished(r); i++) {
        float row[VOCAB];
        make_row(i, row);
        if (i == bad) row[VOCAB - 1] = NAN;
        st = ml_request_take(r, row, &next, NULL);
    }
    const int32_t *got = ml_request_tokens(r, &n);
    if (st == MARLIN_OK) memcpy(tokens, got, n * sizeof(*got));
    if (st != MARLIN_OK) ml_request_undo(r);
    ml_request_free(r);
    return st;
}

/* Penalties and random numbers after a request that failed are what they were before it. */
static void a_failed_request_leaves_the_sampler_as_it_was(void **state) {
    (void)state;
    int32_t first[20], second[20], again[20];
    struct ml_sampler *s = make_sampler(0.9f, VOCAB);
    assert_int_equal(run(s, SIZE_MAX, first), MARLIN_OK);
    assert_int_equal(run(s, SIZE_MAX, second), MARLIN_OK);
    assert_memory_not_equal(first, second, sizeof(first)); /* what came before matters */
    ml_sampler_free(s);

    for (size_t bad = 0; bad < 20; bad += 6) {
        s = make_sampler(0.9f, VOCAB);
        assert_int_equal(run(s, bad, again), MARLIN_ERR_NUMERIC);
        assert_int_equal(run(s, SIZE_MAX, again), MARLIN_OK);
        assert_memory_equal(again, first, sizeof(first));
        assert_int_equal(run(s, 19 - bad, again), MARLIN_ERR_NUMERIC);
        assert_int_equal(run(s, SIZE_MAX, again), MARLIN_OK);
        assert_memory_equal(again, second, sizeof(second));
        ml_sampler_free(s);
    }
}

static void limits_are_named(void **state) {
    (void)state;
    struct ml_sampler *s = make_sampler(0, VOCAB);
    struct marlin_error err = {0};
    struct ml_request *r = NULL;
    int32_t outside[PROMPT] = {0, 1, VOCAB, 3, 4}, next;
    float row[VOCAB];
    struct ml_request_options o = ask(100);
    o.context = PROMPT;
    assert_int_equal(ml_request_create(&numbers, s, &o, &r, &err), MARLIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, "prompt has 5 tokens and the context holds 5"));
    o.context = 40;
    o.length = 35;
    assert_int_equal(ml_request_create(&numbers, s, &o, &r, &err), MARLIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, "prompt has 5 tokens, the timeline 35 and the context holds 40"));
    o.prompt = outside;
    o.length = 0;
    assert_int_equal(ml_request_create(&numbers, s, &o, &r, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "token 2 is 16"));
    assert_null(r);

    o = ask(100);
    o.length = CONTEXT - PROMPT - 2;
    r = make(&numbers, s, &o);
    feed_prompt(r);
    for (int i = 0; i < 2; i++) {
        assert_false(ml_request_finished(r));
        make_row((size_t)i, row);
        assert_int_equal(ml_request_take(r, row, &next, NULL), MARLIN_OK);
    }
    assert_true(ml_request_finished(r));
    assert_int_equal(ml_request_finish(r), ML_FINISH_LENGTH);
    ml_request_free(r);
    ml_sampler_free(s);
}

/* ---- with text ---- */

struct heard {
    struct ml_buf text;
    int calls, refuse_at; /* -1 = never */
};

static bool hear(void *user, const char *text, size_t len) {
    struct heard *h = user;
    assert_true(len > 0);
    assert_int_equal(ml_buf_add(&h->text, text, len), MARLIN_OK);
    return h->calls++ != h->refuse_at;
}

static void open_words(struct ml_tokenizer **t, struct ml_vocabulary *v) {
    struct marlin_error err = {0};
    if (ml_tokenizer_load(model_dir, 0, t, &err) != MARLIN_OK) fail_msg("%s", err.text);
    *v = (struct ml_vocabulary){.size = ml_tokenizer_size(*t), .tokenizer = *t};
    assert_in_range(v->size, 1, MAX_VOCAB);
}

static int32_t token_of(const struct ml_tokenizer *t, const char *text) {
    struct ml_ids ids = {0};
    assert_int_equal(ml_tokenizer_encode(t, text, strlen(text), 0, &ids, NULL), MARLIN_OK);
    assert_int_equal(ids.n, 1);
    const int32_t id = ids.id[0];
    ml_ids_free(&ids);
    return id;
}

/* Every token of a vocabulary in one answer: the text is the decoder's, and taking allocates nothing. */
static void taking_allocates_nothing_whatever_the_token(void **state) {
    (void)state;
    static float row[MAX_VOCAB];
    static int32_t ids[MAX_VOCAB];
    const char *const stop[] = {"is not to be found", "neither is this one"};
    struct ml_tokenizer *t = NULL;
    struct ml_vocabulary v;
    struct heard h = {.refuse_at = -1};
    struct ml_buf whole;
    int32_t next;
    open_words(&t, &v);
    ml_buf_init(&h.text, 1 << 20);
    ml_buf_init(&whole, 1 << 20);
    assert_int_equal(ml_buf_reserve(&h.text, 1 << 19), MARLIN_OK);
    struct ml_sampler *s = make_sampler(0, v.size);
    struct ml_request_options o = ask(v.size);
    o.context = v.size + CONTEXT;
    o.stop = stop;
    o.n_stop = 2;
    o.on_text = hear;
    o.user = &h;
    struct ml_request *r = make(&v, s, &o);
    feed_prompt(r);
    const uint64_t before = ml_mem_count();
    for (size_t i = 0; i < v.size; i++) {
        ids[i] = (int32_t)i;
        point_at(row, v.size, ids[i]);
        assert_int_equal(ml_request_take(r, row, &next, NULL), MARLIN_OK);
        assert_int_equal(next, ids[i]);
    }
    assert_true(ml_mem_count() == before);
    assert_true(ml_request_finished(r));
    assert_int_equal(ml_request_finish(r), ML_FINISH_LENGTH);

    struct ml_text_stream stream = {0};
    for (size_t i = 0; i < v.size; i++)
        assert_int_equal(ml_stream_push(&stream, t, ids[i], true, &whole, NULL), MARLIN_OK);
    assert_int_equal(ml_stream_finish(&stream, &whole), MARLIN_OK);
    assert_int_equal(h.text.len, whole.len);
    assert_memory_equal(h.text.data, whole.data, whole.len);
    ml_buf_free(&h.text);
    ml_buf_free(&whole);
    ml_request_free(r);
    ml_sampler_free(s);
    ml_tokenizer_free(t);
}

/* Says the words one after the other until the request has finished, and for all of them that it has not. */
static void say(struct ml_request *r, const struct ml_vocabulary *v, const char *const *words, size_t n) {
    static float row[MAX_VOCAB];
    int32_t next;
    for (size_t i = 0; i < n; i++) {
        assert_false(ml_request_finished(r));
        point_at(row, v->size, token_of(v->tokenizer, words[i]));
        assert_int_equal(ml_request_take(r, row, &next, NULL), MARLIN_OK);
    }
}

static void what_is_held_back_is_given_out_at_the_end_or_never(void **state) {
    (void)state;
    const char *const words[] = {" the", " a", " in"}, *const stop[] = {" a in the"};
    const struct {
        int refuse_at;
        size_t said; /* words after which it has finished */
        const char *text;
        enum ml_finish finish;
    } cases[] = {{-1, 3, " the a in", ML_FINISH_LENGTH}, {0, 1, " the", ML_FINISH_CANCELLED}};
    struct ml_tokenizer *t = NULL;
    struct ml_vocabulary v;
    open_words(&t, &v);
    struct ml_sampler *s = make_sampler(0, v.size);
    for (size_t i = 0; i < 2; i++) {
        struct heard h = {.refuse_at = cases[i].refuse_at};
        struct ml_request_options o = ask(3);
        ml_buf_init(&h.text, 1 << 10);
        o.stop = stop;
        o.n_stop = 1;
        o.on_text = hear;
        o.user = &h;
        struct ml_request *r = make(&v, s, &o);
        feed_prompt(r);
        say(r, &v, words, cases[i].said);
        assert_true(ml_request_finished(r));
        assert_int_equal(ml_request_finish(r), cases[i].finish);
        assert_string_equal(h.text.data, cases[i].text);
        assert_int_equal(h.calls, i == 0 ? 2 : 1);
        ml_buf_free(&h.text);
        ml_request_free(r);
    }
    ml_sampler_free(s);
    ml_tokenizer_free(t);
}

static void cancelling_gives_out_what_was_held_back(void **state) {
    (void)state;
    const char *const words[] = {" the", " a"}, *const stop[] = {" a in the"};
    struct heard h = {.refuse_at = -1};
    struct ml_tokenizer *t = NULL;
    struct ml_vocabulary v;
    open_words(&t, &v);
    struct ml_sampler *s = make_sampler(0, v.size);
    struct ml_request_options o = ask(9);
    ml_buf_init(&h.text, 1 << 10);
    o.stop = stop;
    o.n_stop = 1;
    o.on_text = hear;
    o.user = &h;
    struct ml_request *r = make(&v, s, &o);
    feed_prompt(r);
    say(r, &v, words, 2);
    assert_string_equal(h.text.data, " the");
    assert_int_equal(ml_request_cancel(r, NULL), MARLIN_OK);
    assert_string_equal(h.text.data, " the a");
    assert_int_equal(ml_request_finish(r), ML_FINISH_CANCELLED);
    ml_buf_free(&h.text);
    ml_request_free(r);
    ml_sampler_free(s);
    ml_tokenizer_free(t);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    const char *const stop[] = {"one", "two"};
    struct ml_tokenizer *t = NULL;
    struct ml_vocabulary v;
    open_words(&t, &v);
    struct ml_sampler *s = make_sampler(0, v.size);
    struct ml_request_options o = ask(9);
    o.stop = stop;
    o.n_stop = 2;
    struct ml_request *r = NULL;
    uint64_t n = 1;
    for (;; n++) {
        struct marlin_error err = {0};
        ml_mem_fail_at(n);
        const marlin_status st = ml_request_create(&v, s, &o, &r, &err);
        ml_mem_fail_at(0);
        if (st == MARLIN_OK) break;
        assert_int_equal(st, MARLIN_ERR_MEMORY);
        assert_non_null(strstr(err.text, "out of memory"));
        assert_null(r);
    }
    assert_true(n > 6);
    ml_request_free(r);
    ml_request_free(NULL);
    ml_sampler_free(s);
    ml_tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_at_max_tokens),
        cmocka_unit_test(eos_ends_and_is_no_part_of_the_answer),
        cmocka_unit_test(a_row_is_left_alone_when_nothing_is_chosen),
        cmocka_unit_test(a_failed_request_leaves_the_sampler_as_it_was),
        cmocka_unit_test(limits_are_named),
        cmocka_unit_test(taking_allocates_nothing_whatever_the_token),
        cmocka_unit_test(what_is_held_back_is_given_out_at_the_end_or_never),
        cmocka_unit_test(cancelling_gives_out_what_was_held_back),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
