/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests fed on the embedded model: reproducible, independent of threads, chunks and of what runs beside
 * them, bounded by the context, and without a trace where they fail.
 */
#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "engine/feeder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "folders.h"
#include "guard.h"

static const char model_dir[] = MARLIN_SOURCE_DIR "/models/marlin-chat";

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

static struct ml_timeline *make(const struct ml_runtime *r, const struct ml_timeline_options *o) {
    struct marlin_error err = {0};
    struct ml_timeline *t = NULL;
    if (ml_timeline_create(r, o, &t, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return t;
}

static struct ml_feeder *make_feeder(const struct ml_runtime *r, size_t timelines) {
    const struct ml_feeder_options o = {.timelines = timelines};
    struct ml_feeder *f = NULL;
    assert_int_equal(ml_feeder_create(r, &o, &f, NULL), MARLIN_OK);
    return f;
}

/* One request with a feeder of its own. */
static marlin_status run(const struct ml_runtime *r, struct ml_timeline *t,
                         const struct ml_request_options *rq, struct ml_outcome *out,
                         struct marlin_error *err) {
    struct ml_feeder *f = make_feeder(r, 1);
    const marlin_status st = ml_feeder_run(f, t, rq, out, err);
    ml_feeder_free(f);
    return st;
}

static void ask(const struct ml_runtime *r, const struct ml_timeline_options *o, const char *prompt,
                const char *const *stop, size_t n_stop, struct answer *a) {
    struct marlin_error err = {0};
    struct ml_ids ids = {0};
    struct ml_outcome out;
    ml_buf_init(&a->text, 1 << 20);
    encode(r, prompt, &ids);
    struct ml_timeline *t = make(r, o);
    const struct ml_request_options rq = {.prompt = ids.id,
                                          .n_prompt = ids.n,
                                          .max_tokens = MAX_TOKENS,
                                          .stop = stop,
                                          .n_stop = n_stop,
                                          .on_text = collect,
                                          .user = &a->text};
    if (run(r, t, &rq, &out, &err) != MARLIN_OK) fail_msg("%s", err.text);
    assert_in_range(out.n_tokens, 0, MAX_TOKENS);
    memcpy(a->ids, out.tokens, out.n_tokens * sizeof(*a->ids));
    a->n = out.n_tokens;
    a->finish = out.finish;
    a->prompt_tokens = out.prompt_tokens;
    assert_int_equal(out.prompt_tokens, ids.n);
    ml_timeline_free(t);
    ml_ids_free(&ids);
}

static struct ml_timeline_options options(float temperature, uint64_t seed) {
    struct ml_timeline_options o = {.context = 256};
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
    const struct ml_timeline_options o = options(0.9f, 11), other = options(0.9f, 12);
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
    const struct ml_timeline_options o = options(0.9f, 5);
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
    struct ml_timeline_options o = options(0, 0);
    ask(r, &o, prompt, NULL, 0, &a);
    o.chunk = 3;
    ask(r, &o, prompt, NULL, 0, &b);
    assert_same(&a, &b);
}

/* A stop string taken from the middle of the greedy answer, across a token boundary. */
static void stop_string_cuts_the_answer(void **state) {
    const struct ml_runtime *r = *state;
    struct answer a, b;
    const struct ml_timeline_options o = options(0, 0);
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
    struct ml_outcome out;
    int32_t ids[40] = {0};
    struct ml_timeline_options o = options(0, 0);
    o.context = 32;
    struct ml_timeline *t = make(r, &o);
    struct ml_request_options rq = {.prompt = ids, .n_prompt = 40, .max_tokens = 4};
    assert_int_equal(run(r, t, &rq, &out, &err), MARLIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, "40 tokens"));
    assert_non_null(strstr(err.text, "32"));
    rq.n_prompt = 32;
    assert_int_equal(run(r, t, &rq, &out, &err), MARLIN_ERR_LIMIT);
    assert_int_equal(ml_timeline_length(t), 0);
    rq.n_prompt = 0;
    assert_int_equal(run(r, t, &rq, &out, &err), MARLIN_ERR_ARGUMENT);
    ids[3] = 1 << 30;
    rq.n_prompt = 8;
    assert_int_equal(run(r, t, &rq, &out, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(ml_timeline_length(t), 0);
    ml_timeline_free(t);
}

static void a_full_context_ends_with_length(void **state) {
    const struct ml_runtime *r = *state;
    struct ml_outcome out;
    const int32_t ids[30] = {5, 6, 7};
    struct ml_timeline_options o = options(1, 3);
    o.context = 32;
    struct ml_timeline *t = make(r, &o);
    const struct ml_request_options rq = {
        .prompt = ids, .n_prompt = 30, .max_tokens = 100, .ignore_eos = true};
    assert_int_equal(run(r, t, &rq, &out, NULL), MARLIN_OK);
    assert_int_equal(out.n_tokens, 2);
    assert_int_equal(out.finish, ML_FINISH_LENGTH);
    assert_int_equal(ml_timeline_length(t), 32);
    ml_timeline_free(t);
}

static void cancelling_ends_between_tokens(void **state) {
    const struct ml_runtime *r = *state;
    struct ml_outcome out;
    const int32_t ids[4] = {300, 301, 302, 303};
    int calls = 0;
    const atomic_bool stop_now = true;
    const struct ml_timeline_options o = options(0, 0);
    struct ml_timeline *t = make(r, &o);
    struct ml_request_options rq = {.prompt = ids,
                                    .n_prompt = 4,
                                    .max_tokens = 50,
                                    .on_text = refuse,
                                    .user = &calls,
                                    .ignore_eos = true};
    assert_int_equal(run(r, t, &rq, &out, NULL), MARLIN_OK);
    assert_int_equal(out.finish, ML_FINISH_CANCELLED);
    assert_int_equal(calls, 1);
    rq.cancel = &stop_now;
    assert_int_equal(run(r, t, &rq, &out, NULL), MARLIN_OK);
    assert_int_equal(out.finish, ML_FINISH_CANCELLED);
    assert_int_equal(out.n_tokens, 0);
    ml_timeline_free(t);
}

/* Two requests on one timeline give what one request with everything gives. */
static void a_timeline_goes_on(void **state) {
    const struct ml_runtime *r = *state;
    struct ml_outcome out;
    int32_t first[4], all[8];
    const int32_t ids[5] = {300, 301, 302, 303, 304};
    const struct ml_timeline_options o = options(0, 0);
    struct ml_request_options rq = {.prompt = ids, .n_prompt = 5, .max_tokens = 8, .ignore_eos = true};
    struct ml_timeline *t = make(r, &o);
    assert_int_equal(run(r, t, &rq, &out, NULL), MARLIN_OK);
    memcpy(all, out.tokens, sizeof(all));
    ml_timeline_free(t);

    t = make(r, &o);
    rq.max_tokens = 4;
    assert_int_equal(run(r, t, &rq, &out, NULL), MARLIN_OK);
    memcpy(first, out.tokens, sizeof(first));
    assert_memory_equal(first, all, sizeof(first));
    rq.n_prompt = 0;
    assert_int_equal(run(r, t, &rq, &out, NULL), MARLIN_OK);
    assert_memory_equal(out.tokens, all + 4, sizeof(first));
    ml_timeline_free(t);
}

/* ---- a conversation given anew each turn ---- */

/* Greedy with penalties, so that what a sampler remembers of a timeline counts too. */
static struct ml_timeline_options with_penalties(void) {
    struct ml_timeline_options o = options(0, 1);
    o.sampling.repetition_penalty = 1.2f;
    o.sampling.frequency_penalty = 0.3f;
    return o;
}

static void answer_to(const struct ml_runtime *r, struct ml_timeline *t, const int32_t *ids, size_t n,
                      size_t known, struct answer *a) {
    struct marlin_error err = {0};
    struct ml_outcome out;
    ml_buf_init(&a->text, 1 << 20);
    const struct ml_request_options rq = {.prompt = ids + known,
                                          .n_prompt = n - known,
                                          .max_tokens = MAX_TOKENS,
                                          .on_text = collect,
                                          .user = &a->text};
    if (run(r, t, &rq, &out, &err) != MARLIN_OK) fail_msg("%s", err.text);
    memcpy(a->ids, out.tokens, out.n_tokens * sizeof(*a->ids));
    a->n = out.n_tokens;
}

/* What a timeline goes back to is what it was: the answer is that of a new one to all of the tokens. */
static void a_reused_beginning_changes_nothing(void **state) {
    const struct ml_runtime *r = *state;
    const struct ml_timeline_options o = with_penalties();
    struct ml_ids first = {0}, second = {0};
    encode(r, "Once upon a time there was a fox. The fox was red and liked the snow.", &first);
    encode(r, "Once upon a time there was a fox. The fox was old and lived by the sea.", &second);
    size_t same = 0;
    while (first.id[same] == second.id[same])
        same++;
    assert_in_range(same, 5, first.n - 2);

    struct ml_timeline *t = make(r, &o), *fresh = make(r, &o);
    struct answer a, b;
    assert_int_equal(ml_timeline_reuse(t, first.id, first.n), 0);
    answer_to(r, t, first.id, first.n, 0, &a);
    ml_buf_free(&a.text);
    assert_int_equal(ml_timeline_reuse(t, second.id, second.n), same);
    assert_int_equal(ml_timeline_length(t), same);
    answer_to(r, t, second.id, second.n, same, &a);
    answer_to(r, fresh, second.id, second.n, 0, &b);
    assert_same(&a, &b);
    /* The same tokens once more: all but the last one are known. */
    assert_int_equal(ml_timeline_reuse(t, second.id, second.n), second.n - 1);
    answer_to(r, t, second.id, second.n, second.n - 1, &a);
    ml_timeline_free(fresh);
    fresh = make(r, &o);
    answer_to(r, fresh, second.id, second.n, 0, &b);
    assert_same(&a, &b);
    ml_timeline_free(t);
    ml_timeline_free(fresh);
    ml_ids_free(&first);
    ml_ids_free(&second);
}

/* Other sampling on a timeline is that of a timeline made with it. */
static void sampling_may_change_between_requests(void **state) {
    const struct ml_runtime *r = *state;
    const struct ml_timeline_options plain = options(0, 1), o = with_penalties();
    struct ml_sampling bad = o.sampling;
    struct ml_ids ids = {0};
    struct marlin_error err = {0};
    struct answer a, b;
    encode(r, prompt, &ids);
    struct ml_timeline *t = make(r, &plain), *fresh = make(r, &o);
    answer_to(r, t, ids.id, ids.n, 0, &a);
    ml_buf_free(&a.text);
    assert_int_equal(ml_timeline_reuse(t, ids.id, ids.n), ids.n - 1);
    bad.temperature = -1;
    assert_int_equal(ml_timeline_set_sampling(t, &bad, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(ml_timeline_set_sampling(t, &o.sampling, &err), MARLIN_OK);
    answer_to(r, t, ids.id, ids.n, ids.n - 1, &a);
    answer_to(r, fresh, ids.id, ids.n, 0, &b);
    assert_same(&a, &b);
    ml_timeline_free(t);
    ml_timeline_free(fresh);
    ml_ids_free(&ids);
}

/* ---- several at once ---- */

enum { SEVERAL = 5, LONG_PROMPT = 90, ANSWER = 24 };

/* Requests of which no two are alike: prompts of several lengths, greedy and not, with penalties, in chunks.
 */
static struct several {
    struct ml_timeline_options options;
    int32_t prompt[LONG_PROMPT];
    size_t n_prompt;
    struct answer alone;
} several[SEVERAL];

static void prepare(size_t i) {
    struct several *v = &several[i];
    v->options = options(i == 0 ? 0 : 0.9f, 40 + i);
    v->options.chunk = i % 2 ? 7 : 0;
    if (i > 1) v->options.sampling.repetition_penalty = 1.2f;
    if (i > 2) v->options.sampling.frequency_penalty = 0.4f;
    v->n_prompt = i == 3 ? 1 : LONG_PROMPT - 20 * i;
    for (size_t k = 0; k < v->n_prompt; k++)
        v->prompt[k] = (int32_t)(300 + 37 * i + 11 * k % 1000);
}

static struct ml_request_options request_of(size_t i, struct ml_buf *text) {
    return (struct ml_request_options){.prompt = several[i].prompt,
                                       .n_prompt = several[i].n_prompt,
                                       .max_tokens = ANSWER - 3 * i,
                                       .on_text = text ? collect : NULL,
                                       .user = text,
                                       .ignore_eos = true};
}

static void keep_answer(const struct ml_outcome *out, struct answer *a) {
    memcpy(a->ids, out->tokens, out->n_tokens * sizeof(*a->ids));
    a->n = out->n_tokens;
    a->prompt_tokens = out->prompt_tokens;
    a->finish = out->finish;
}

static void run_alone(const struct ml_runtime *r, size_t i) {
    struct answer *a = &several[i].alone;
    struct ml_outcome out;
    ml_buf_init(&a->text, 1 << 16);
    struct ml_timeline *t = make(r, &several[i].options);
    const struct ml_request_options rq = request_of(i, &a->text);
    assert_int_equal(run(r, t, &rq, &out, NULL), MARLIN_OK);
    assert_int_equal(out.n_tokens, rq.max_tokens);
    keep_answer(&out, a);
    ml_timeline_free(t);
}

static void prepare_all(const struct ml_runtime *r) {
    for (size_t i = 0; i < SEVERAL; i++) {
        prepare(i);
        run_alone(r, i);
    }
}

static void release_all(void) {
    for (size_t i = 0; i < SEVERAL; i++)
        ml_buf_free(&several[i].alone.text);
}

static void check_against_alone(struct ml_timeline *t, size_t i, const struct ml_buf *text) {
    const struct answer *a = &several[i].alone;
    struct ml_outcome out;
    struct marlin_error err = {0};
    if (ml_timeline_outcome(t, &out, &err) != MARLIN_OK) fail_msg("request %zu: %s", i, err.text);
    assert_int_equal(out.n_tokens, a->n);
    assert_memory_equal(out.tokens, a->ids, a->n * sizeof(*a->ids));
    assert_int_equal(out.finish, a->finish);
    assert_int_equal(out.prompt_tokens, several[i].n_prompt);
    assert_int_equal(text->len, a->text.len);
    assert_memory_equal(text->data, a->text.data, text->len);
}

/* The i-th request joins the others before step 2 i: prompts are fed while others generate. */
static void requests_side_by_side_give_what_each_gives_alone(void **state) {
    const struct ml_runtime *r = *state;
    struct ml_timeline *t[SEVERAL];
    struct ml_buf text[SEVERAL];
    struct ml_feeder *f = make_feeder(r, SEVERAL);
    size_t running = 1;
    prepare_all(r);
    for (size_t i = 0; i < SEVERAL; i++) {
        t[i] = make(r, &several[i].options);
        ml_buf_init(&text[i], 1 << 16);
    }
    for (size_t step = 0; running > 0; step++) {
        if (step % 2 == 0 && step / 2 < SEVERAL) {
            const struct ml_request_options rq = request_of(step / 2, &text[step / 2]);
            assert_int_equal(ml_timeline_start(t[step / 2], &rq, NULL), MARLIN_OK);
        }
        running = ml_feeder_step(f, t, SEVERAL);
        assert_true(step < 100);
    }
    for (size_t i = 0; i < SEVERAL; i++) {
        check_against_alone(t[i], i, &text[i]);
        ml_timeline_free(t[i]);
        ml_buf_free(&text[i]);
    }
    ml_feeder_free(f);
    release_all();
}

/* One is cancelled while it generates, one before it was fed, one cannot start: the others do not notice. */
static void what_becomes_of_one_is_nothing_to_the_others(void **state) {
    const struct ml_runtime *r = *state;
    struct ml_timeline *t[SEVERAL];
    struct ml_buf text[SEVERAL];
    struct ml_outcome out;
    atomic_bool cancel[SEVERAL] = {false, false, false, true, false};
    struct ml_feeder *f = make_feeder(r, SEVERAL);
    prepare_all(r);
    for (size_t i = 0; i < SEVERAL; i++) {
        t[i] = make(r, &several[i].options);
        ml_buf_init(&text[i], 1 << 16);
        struct ml_request_options rq = request_of(i, &text[i]);
        rq.cancel = &cancel[i];
        if (i == 1) rq.n_prompt = 0;
        assert_int_equal(ml_timeline_start(t[i], &rq, NULL), i == 1 ? MARLIN_ERR_ARGUMENT : MARLIN_OK);
        assert_int_equal(ml_timeline_runs(t[i]), i != 1);
    }
    for (size_t step = 0; ml_feeder_step(f, t, SEVERAL) > 0; step++)
        if (step == 5) atomic_store(&cancel[2], true);
    check_against_alone(t[0], 0, &text[0]);
    check_against_alone(t[4], 4, &text[4]);
    assert_int_equal(ml_timeline_outcome(t[2], &out, NULL), MARLIN_OK);
    assert_int_equal(out.finish, ML_FINISH_CANCELLED);
    assert_in_range(out.n_tokens, 1, several[2].alone.n - 1);
    assert_memory_equal(out.tokens, several[2].alone.ids, out.n_tokens * sizeof(*out.tokens));
    assert_int_equal(ml_timeline_outcome(t[3], &out, NULL), MARLIN_OK);
    assert_int_equal(out.finish, ML_FINISH_CANCELLED);
    assert_int_equal(out.prompt_tokens, 0);
    assert_int_equal(ml_timeline_length(t[3]), 0);
    assert_int_equal(ml_timeline_outcome(t[1], &out, NULL), MARLIN_ERR_ARGUMENT);
    for (size_t i = 0; i < SEVERAL; i++) {
        ml_timeline_free(t[i]);
        ml_buf_free(&text[i]);
    }
    ml_feeder_free(f);
    release_all();
}

/* A prompt of more than one step's worth is fed in pieces while another generates a token each step. */
static void a_long_prompt_holds_nobody_up(void **state) {
    const struct ml_runtime *r = *state;
    enum { TOO_LONG = 1200 };
    static int32_t ids[TOO_LONG];
    struct ml_timeline *t[2];
    struct ml_feeder *f = make_feeder(r, 2);
    struct ml_timeline_options o = options(0, 0);
    t[0] = make(r, &o);
    o.context = TOO_LONG + 8;
    t[1] = make(r, &o);
    for (size_t i = 0; i < TOO_LONG; i++)
        ids[i] = (int32_t)(300 + i % 97);
    const struct ml_request_options chat = {.prompt = ids,
                                            .n_prompt = 2,
                                            .max_tokens = 9,
                                            .ignore_eos = true},
                                    book = {.prompt = ids, .n_prompt = TOO_LONG, .max_tokens = 1};
    assert_int_equal(ml_timeline_start(t[0], &chat, NULL), MARLIN_OK);
    (void)ml_feeder_step(f, t, 2);
    assert_int_equal(ml_timeline_start(t[1], &book, NULL), MARLIN_OK);
    for (size_t step = 1; step <= 3; step++) {
        const size_t before = ml_timeline_length(t[0]);
        (void)ml_feeder_step(f, t, 2);
        assert_int_equal(ml_timeline_length(t[0]), before + 1);
        assert_int_equal(ml_timeline_length(t[1]), step < 3 ? 512 * step : TOO_LONG + 1);
    }
    assert_false(ml_timeline_runs(t[1]));
    assert_true(ml_timeline_runs(t[0]));
    ml_timeline_free(t[0]);
    ml_timeline_free(t[1]);
    ml_feeder_free(f);
}

/* ---- going on, and logits ---- */

static void a_prompt_without_an_answer_can_be_answered_later(void **state) {
    const struct ml_runtime *r = *state;
    struct ml_outcome out;
    int32_t whole[8];
    const int32_t ids[5] = {300, 301, 302, 303, 304};
    const struct ml_timeline_options o = options(0.8f, 21);
    struct ml_request_options rq = {.prompt = ids, .n_prompt = 5, .max_tokens = 8, .ignore_eos = true};
    struct ml_timeline *t = make(r, &o);
    assert_int_equal(run(r, t, &rq, &out, NULL), MARLIN_OK);
    memcpy(whole, out.tokens, sizeof(whole));
    ml_timeline_free(t);

    t = make(r, &o);
    rq.max_tokens = 0;
    assert_int_equal(run(r, t, &rq, &out, NULL), MARLIN_OK);
    assert_int_equal(out.n_tokens, 0);
    assert_int_equal(out.finish, ML_FINISH_LENGTH);
    assert_int_equal(ml_timeline_length(t), 5);
    rq.n_prompt = 0;
    assert_int_equal(run(r, t, &rq, &out, NULL), MARLIN_OK); /* once more nothing */
    rq.max_tokens = 8;
    assert_int_equal(run(r, t, &rq, &out, NULL), MARLIN_OK);
    assert_memory_equal(out.tokens, whole, sizeof(whole));
    ml_timeline_free(t);
}

/* What was fed before a request was cancelled is a timeline like any other. */
static void a_prompt_cancelled_in_the_middle_can_be_gone_on_from(void **state) {
    const struct ml_runtime *r = *state;
    enum { FED = 21 };
    struct ml_timeline_options o = options(0, 0);
    struct ml_feeder *f = make_feeder(r, 1);
    struct ml_outcome out;
    int32_t ids[LONG_PROMPT], expected[6];
    atomic_bool cancel = false;
    for (size_t i = 0; i < LONG_PROMPT; i++)
        ids[i] = (int32_t)(300 + 7 * i);
    struct ml_request_options rq = {.prompt = ids, .n_prompt = FED, .max_tokens = 6, .ignore_eos = true};
    struct ml_timeline *t = make(r, &o);
    assert_int_equal(ml_feeder_run(f, t, &rq, &out, NULL), MARLIN_OK);
    memcpy(expected, out.tokens, sizeof(expected));
    ml_timeline_free(t);

    o.chunk = 7;
    t = make(r, &o);
    rq.n_prompt = LONG_PROMPT;
    rq.cancel = &cancel;
    assert_int_equal(ml_timeline_start(t, &rq, NULL), MARLIN_OK);
    for (int i = 0; i < FED / 7; i++)
        assert_int_equal(ml_feeder_step(f, &t, 1), 1);
    atomic_store(&cancel, true);
    assert_int_equal(ml_feeder_step(f, &t, 1), 0);
    assert_int_equal(ml_timeline_outcome(t, &out, NULL), MARLIN_OK);
    assert_int_equal(out.finish, ML_FINISH_CANCELLED);
    assert_int_equal(out.prompt_tokens, FED);
    assert_int_equal(ml_timeline_length(t), FED);
    rq.n_prompt = 0;
    rq.cancel = NULL;
    assert_int_equal(ml_feeder_run(f, t, &rq, &out, NULL), MARLIN_OK);
    assert_memory_equal(out.tokens, expected, sizeof(expected));
    ml_timeline_free(t);
    ml_feeder_free(f);
}

static int32_t best_of(const float *logits, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

static void logits_are_those_that_the_next_token_is_chosen_from(void **state) {
    const struct ml_runtime *r = *state;
    const size_t vocab = (size_t)ml_model_config(r->model)->vocab_size;
    struct ml_feeder *f = make_feeder(r, 1);
    struct ml_outcome out;
    struct marlin_error err = {0};
    const float *logits = NULL;
    const int32_t ids[4] = {300, 301, 302, 303};
    const struct ml_timeline_options o = options(0, 0);
    struct ml_request_options rq = {.prompt = ids, .n_prompt = 4, .max_tokens = 3, .ignore_eos = true};
    struct ml_timeline *t = make(r, &o);
    assert_int_equal(ml_feeder_logits(f, t, &logits, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "no tokens yet"));
    assert_int_equal(ml_feeder_run(f, t, &rq, &out, NULL), MARLIN_OK);
    rq.n_prompt = 0;
    rq.max_tokens = 1;
    for (int i = 0; i < 6; i++) {
        const size_t length = ml_timeline_length(t);
        assert_int_equal(ml_feeder_logits(f, t, &logits, &err), MARLIN_OK);
        const int32_t expected = best_of(logits, vocab);
        if (i % 2) assert_int_equal(ml_feeder_logits(f, t, &logits, &err), MARLIN_OK);
        assert_int_equal(best_of(logits, vocab), expected);
        assert_int_equal(ml_timeline_length(t), length);
        assert_int_equal(ml_feeder_run(f, t, &rq, &out, NULL), MARLIN_OK);
        assert_int_equal(out.tokens[0], expected);
    }
    ml_timeline_free(t);
    ml_feeder_free(f);
}

/* ---- requests that fail ---- */

static char copied[256], weights[512];

/* A copy of a model whose weights a test may cut. */
static void copy_model(const char *dir, bool with_tokenizer) {
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json",
                                        "tokenizer_config.json"};
    (void)snprintf(copied, sizeof(copied), "/tmp/marlin-feeder-%ld", (long)getpid());
    remove_tree(copied);
    assert_int_equal(mkdir(copied, 0700), 0);
    for (size_t i = 0; i < (with_tokenizer ? 4 : 2); i++) {
        char path[512], *data = NULL;
        size_t len = 0;
        (void)snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        assert_int_equal(ml_file_slurp(path, 1 << 28, &data, &len, NULL), MARLIN_OK);
        (void)snprintf(path, sizeof(path), "%s/%s", copied, names[i]);
        assert_int_equal(ml_file_write_atomic(path, data, len, NULL), MARLIN_OK);
        ml_free(data);
    }
    (void)snprintf(weights, sizeof(weights), "%s/model.safetensors", copied);
}

/* Cuts the last byte off the weights, which ends in an error as long as it is gone, and puts it back. */
struct cut {
    off_t size;
    char last;
    int calls, at; /* cut in the at-th call of the text callback */
};

static bool cut_weights(void *user, const char *text, size_t len) {
    struct cut *c = user;
    (void)text;
    (void)len;
    if (c->calls++ == c->at) assert_int_equal(truncate(weights, c->size - 1), 0);
    return true;
}

static void read_last(struct cut *c) {
    FILE *f = fopen(weights, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, -1, SEEK_END), 0);
    c->last = (char)fgetc(f);
    c->size = ftell(f);
    (void)fclose(f);
}

static void put_back(const struct cut *c) {
    FILE *f = fopen(weights, "ab");
    assert_non_null(f);
    assert_int_equal(fputc((unsigned char)c->last, f), (unsigned char)c->last);
    assert_int_equal(fclose(f), 0);
}

/* Three requests on one timeline, of which those with a bit in `failing` fail once before they succeed. */
static void three_requests(unsigned failing, int32_t answers[3][8]) {
    struct ml_runtime runtime;
    struct marlin_error err = {0};
    const struct ml_runtime *r = &runtime;
    struct ml_outcome out;
    struct ml_timeline_options o = options(0.9f, 3);
    struct cut cut = {.at = 2};
    const int32_t ids[6] = {300, 301, 302, 303, 304, 305};
    o.sampling.repetition_penalty = 1.3f;
    o.sampling.presence_penalty = 0.5f;
    if (ml_runtime_open(copied, NULL, &runtime, &err) != MARLIN_OK) fail_msg("%s", err.text);
    read_last(&cut);
    struct ml_timeline *t = make(r, &o);
    for (size_t i = 0; i < 3; i++) {
        /* the last goes on from the token that the second left to be fed */
        struct ml_request_options rq = {
            .prompt = ids + 2 * i, .n_prompt = i < 2 ? 3 : 0, .max_tokens = 8, .ignore_eos = true};
        const size_t length = ml_timeline_length(t);
        if (failing >> i & 1) {
            cut.calls = 0;
            rq.on_text = cut_weights;
            rq.user = &cut;
            assert_int_equal(run(r, t, &rq, &out, &err), MARLIN_ERR_IO);
            assert_non_null(strstr(err.text, weights));
            assert_true(cut.calls > cut.at);
            assert_int_equal(out.n_tokens, 0);
            assert_int_equal(ml_timeline_length(t), length);
            put_back(&cut);
            rq.on_text = NULL;
        }
        if (run(r, t, &rq, &out, &err) != MARLIN_OK) fail_msg("%s", err.text);
        assert_int_equal(out.n_tokens, 8);
        memcpy(answers[i], out.tokens, 8 * sizeof(*out.tokens));
    }
    ml_timeline_free(t);
    ml_runtime_close(&runtime);
}

/* The text, the penalties and the random numbers of later requests tell nothing of one that failed. */
static void a_failed_request_leaves_no_trace(void **state) {
    (void)state;
    int32_t answers[3][8], expected[3][8];
    copy_model(model_dir, true);
    three_requests(0, expected);
    for (unsigned failing = 1; failing < 8; failing += 2) {
        memset(answers, 0, sizeof(answers));
        three_requests(failing, answers);
        assert_memory_equal(answers, expected, sizeof(expected));
    }
    remove_tree(copied);
}

/* Fails after a prompt whose logits were asked for: they are to be had as before. */
static void a_failed_request_keeps_the_logits(void **state) {
    (void)state;
    struct ml_runtime runtime;
    struct ml_outcome out;
    struct cut cut = {.at = 0};
    const int32_t ids[3] = {300, 301, 302};
    const struct ml_timeline_options o = options(0, 0);
    struct ml_request_options rq = {.prompt = ids, .n_prompt = 3, .max_tokens = 0, .ignore_eos = true};
    const float *logits = NULL;
    copy_model(model_dir, true);
    assert_int_equal(ml_runtime_open(copied, NULL, &runtime, NULL), MARLIN_OK);
    read_last(&cut);
    struct ml_feeder *f = make_feeder(&runtime, 1);
    struct ml_timeline *t = make(&runtime, &o);
    assert_int_equal(ml_feeder_run(f, t, &rq, &out, NULL), MARLIN_OK);
    assert_int_equal(ml_feeder_logits(f, t, &logits, NULL), MARLIN_OK);
    const int32_t best = best_of(logits, (size_t)ml_model_config(runtime.model)->vocab_size);
    rq = (struct ml_request_options){
        .max_tokens = 5, .ignore_eos = true, .on_text = cut_weights, .user = &cut};
    assert_int_equal(ml_feeder_run(f, t, &rq, &out, NULL), MARLIN_ERR_IO);
    put_back(&cut);
    assert_int_equal(ml_timeline_length(t), 3);
    assert_int_equal(ml_feeder_logits(f, t, &logits, NULL), MARLIN_OK);
    assert_int_equal(best_of(logits, (size_t)ml_model_config(runtime.model)->vocab_size), best);
    rq.on_text = NULL;
    assert_int_equal(ml_feeder_run(f, t, &rq, &out, NULL), MARLIN_OK);
    assert_int_equal(out.tokens[0], best);
    ml_timeline_free(t);
    ml_feeder_free(f);
    ml_runtime_close(&runtime);
    remove_tree(copied);
}

/* A sliding window of 16 has moved on when a request of 300 tokens fails: the model's memory cannot be set back,
 * and what it has lost is fed again. */
static void a_failed_request_leaves_no_trace_in_a_sliding_window(void **state) {
    (void)state;
    struct ml_runtime runtime;
    struct ml_outcome out;
    struct marlin_error err = {0};
    struct cut cut;
    int32_t ids[300], expected[10];
    const struct ml_runtime_options ro = {.threads = 1, .no_tokenizer = true};
    struct ml_timeline_options o = options(0.7f, 6);
    o.context = 500;
    o.chunk = 50;
    o.sampling.frequency_penalty = 0.3f;
    copy_model(MARLIN_SOURCE_DIR "/tests/golden/fixtures/mistral_swa", false);
    if (ml_runtime_open(copied, &ro, &runtime, &err) != MARLIN_OK) fail_msg("%s", err.text);
    for (size_t i = 0; i < 300; i++)
        ids[i] = (int32_t)(i * 31 % 251);
    struct ml_feeder *f = make_feeder(&runtime, 1);
    const struct ml_request_options first = {
        .prompt = ids, .n_prompt = 120, .max_tokens = 3, .ignore_eos = true};
    struct ml_request_options rq = {.prompt = ids, .n_prompt = 300, .max_tokens = 10, .ignore_eos = true};
    read_last(&cut);
    for (int fails = 0; fails < 2; fails++) {
        struct ml_timeline *t = make(&runtime, &o);
        assert_int_equal(ml_feeder_run(f, t, &first, &out, NULL), MARLIN_OK);
        if (fails) {
            assert_int_equal(truncate(weights, cut.size - 1), 0);
            assert_int_equal(ml_feeder_run(f, t, &rq, &out, NULL), MARLIN_ERR_IO);
            put_back(&cut);
            assert_int_equal(ml_timeline_length(t), 123);
        }
        assert_int_equal(ml_feeder_run(f, t, &rq, &out, NULL), MARLIN_OK);
        assert_int_equal(out.prompt_tokens, 300);
        assert_int_equal(out.n_tokens, 10);
        if (!fails) memcpy(expected, out.tokens, sizeof(expected));
        assert_memory_equal(out.tokens, expected, sizeof(expected));
        ml_timeline_free(t);
    }
    ml_feeder_free(f);
    ml_runtime_close(&runtime);
    remove_tree(copied);
}

static int setup(void **state) {
    static struct ml_runtime runtime;
    open_runtime(&runtime, 1);
    *state = &runtime;
    return 0;
}

static int teardown(void **state) {
    ml_runtime_close(*state);
    return guard_clean(state);
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
        cmocka_unit_test(a_reused_beginning_changes_nothing),
        cmocka_unit_test(sampling_may_change_between_requests),
        cmocka_unit_test(requests_side_by_side_give_what_each_gives_alone),
        cmocka_unit_test(what_becomes_of_one_is_nothing_to_the_others),
        cmocka_unit_test(a_long_prompt_holds_nobody_up),
        cmocka_unit_test(a_prompt_without_an_answer_can_be_answered_later),
        cmocka_unit_test(a_prompt_cancelled_in_the_middle_can_be_gone_on_from),
        cmocka_unit_test(logits_are_those_that_the_next_token_is_chosen_from),
        cmocka_unit_test(a_failed_request_leaves_no_trace),
        cmocka_unit_test(a_failed_request_keeps_the_logits),
        cmocka_unit_test(a_failed_request_leaves_no_trace_in_a_sliding_window),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
