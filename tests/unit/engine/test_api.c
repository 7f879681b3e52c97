/* SPDX-License-Identifier: Apache-2.0
 *
 * The public header alone: its usage example as it stands there, every call of it, and its named errors.
 */
#include "marlin/marlin.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "guard.h"

static const char model_dir[] = MARLIN_SOURCE_DIR "/models/marlin-chat";

static bool print_text(void *user, const char *text, size_t len) {
    return fwrite(text, 1, len, user) == len;
}

static void the_example_of_the_header_works(void **state) {
    (void)state;
    char *text = NULL;
    size_t len = 0;
    FILE *stream = open_memstream(&text, &len);
    struct marlin_error err = {0};
    struct marlin_usage usage = {0};
    marlin_model *model = NULL;
    marlin_session *session = NULL;
    if (marlin_model_open(model_dir, NULL, &model, &err) ||
        marlin_session_open(model, NULL, &session, &err) ||
        marlin_generate(session, "Once upon a time", 16, print_text, stream, &usage, &err))
        fail_msg("%s", err.text);
    marlin_session_close(session);
    marlin_model_close(model);
    fclose(stream);
    assert_true(len > 0);
    assert_true(usage.completion_tokens > 0 && usage.completion_tokens <= 16);
    assert_true(usage.prompt_tokens > 0 && usage.prompt_seconds > 0);
    free(text);
}

static void errors_are_named(void **state) {
    (void)state;
    struct marlin_error err = {0};
    marlin_model *model = NULL;
    marlin_session *session = NULL;
    const struct marlin_model_options gpu = {.device = "abacus"}, small = {.cache_type = "int4"};
    assert_int_not_equal(marlin_model_open("/nonexistent/model", NULL, &model, &err), MARLIN_OK);
    assert_non_null(strstr(err.text, "/nonexistent/model"));
    assert_null(model);
    assert_int_not_equal(marlin_model_open(model_dir, &gpu, &model, &err), MARLIN_OK);
    assert_non_null(strstr(err.text, "abacus"));
    assert_int_equal(marlin_model_open(model_dir, &small, &model, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "'int4'"));
    assert_non_null(strstr(err.text, "int8"));
    assert_null(model);

    assert_int_equal(marlin_model_open(model_dir, NULL, &model, &err), MARLIN_OK);
    struct marlin_session_options o;
    marlin_session_options_default(model, &o);
    o.top_p = 7;
    assert_int_equal(marlin_session_open(model, &o, &session, &err), MARLIN_ERR_ARGUMENT);
    assert_null(session);
    o.top_p = 1;
    o.context = 4;
    assert_int_equal(marlin_session_open(model, &o, &session, &err), MARLIN_OK);
    assert_int_equal(
        marlin_generate(session, "one two three four five six seven eight", 4, NULL, NULL, NULL, &err),
        MARLIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, "context holds 4"));
    marlin_session_close(session);
    marlin_model_close(model);
    marlin_session_close(NULL);
    marlin_model_close(NULL);
}

struct job {
    marlin_model *model;
    char *text;
    size_t len;
    marlin_status status;
};

static void *greedy_session(void *arg) {
    struct job *j = arg;
    struct marlin_session_options o;
    marlin_session *session = NULL;
    FILE *stream = open_memstream(&j->text, &j->len);
    marlin_session_options_default(j->model, &o);
    o.temperature = 0;
    o.context = 128;
    j->status = marlin_session_open(j->model, &o, &session, NULL);
    if (j->status == MARLIN_OK)
        j->status = marlin_generate(session, "The sea", 12, print_text, stream, NULL, NULL);
    marlin_session_close(session);
    fclose(stream);
    return NULL;
}

static void sessions_share_a_model_between_threads(void **state) {
    (void)state;
    marlin_model *model = NULL;
    pthread_t thread[3];
    struct job job[3];
    const struct marlin_model_options two = {.threads = 2};
    assert_int_equal(marlin_model_open(model_dir, &two, &model, NULL), MARLIN_OK);
    for (int i = 0; i < 3; i++) {
        job[i] = (struct job){.model = model};
        assert_int_equal(pthread_create(&thread[i], NULL, greedy_session, &job[i]), 0);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_join(thread[i], NULL), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(job[i].status, MARLIN_OK);
        assert_true(job[i].len > 0);
        assert_string_equal(job[i].text, job[0].text);
    }
    for (int i = 0; i < 3; i++)
        free(job[i].text);
    marlin_model_close(model);
}

/* ---- text and tokens ---- */

static marlin_model *open_model(void) {
    marlin_model *model = NULL;
    struct marlin_error err = {0};
    const struct marlin_model_options one = {.threads = 1};
    if (marlin_model_open(model_dir, &one, &model, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return model;
}

static marlin_session *open_session(marlin_model *model, float temperature, uint64_t seed) {
    struct marlin_session_options o;
    struct marlin_error err = {0};
    marlin_session *s = NULL;
    marlin_session_options_default(model, &o);
    o.temperature = temperature;
    o.seed = seed;
    o.context = 256;
    if (temperature > 0) o.repetition_penalty = 1.2f;
    if (marlin_session_open(model, &o, &s, &err) != MARLIN_OK) fail_msg("%s", err.text);
    assert_int_equal(marlin_session_context(s), 256);
    assert_int_equal(marlin_session_length(s), 0);
    return s;
}

static size_t tokenize(const marlin_model *m, const char *text, unsigned flags, int32_t *ids, size_t room) {
    size_t n = 0;
    struct marlin_error err = {0};
    if (marlin_tokenize(m, text, strlen(text), flags, ids, room, &n, &err) != MARLIN_OK)
        fail_msg("%s", err.text);
    return n;
}

static void text_becomes_ids_and_text_again(void **state) {
    (void)state;
    static const char text[] = "One, two <|im_end|> three";
    marlin_model *m = open_model();
    struct marlin_error err = {0};
    int32_t plain[64], special[64], untouched[2] = {-5, -5};
    char back[64];
    size_t n = 0, len = 0;
    const size_t n_plain = tokenize(m, text, 0, plain, 64);
    const size_t n_special = tokenize(m, text, MARLIN_SPECIAL, special, 64);
    assert_true(n_special < n_plain);

    assert_int_equal(marlin_detokenize(m, plain, n_plain, false, back, sizeof(back), &len, &err), MARLIN_OK);
    assert_int_equal(len, strlen(text));
    assert_memory_equal(back, text, len);
    assert_int_equal(marlin_detokenize(m, special, n_special, true, back, sizeof(back), &len, &err),
                     MARLIN_OK);
    assert_memory_equal(back, text, strlen(text));
    assert_int_equal(marlin_detokenize(m, special, n_special, false, back, sizeof(back), &len, &err),
                     MARLIN_OK);
    assert_int_equal(len, strlen(text) - strlen("<|im_end|>"));

    assert_int_equal(marlin_tokenize(m, text, strlen(text), 0, NULL, 0, &n, NULL), MARLIN_ERR_LIMIT);
    assert_int_equal(n, n_plain);
    n = 0;
    assert_int_equal(marlin_tokenize(m, text, strlen(text), 0, untouched, 2, &n, &err), MARLIN_ERR_LIMIT);
    assert_int_equal(n, n_plain);
    assert_int_equal(untouched[0], -5);
    assert_int_equal(marlin_detokenize(m, plain, n_plain, false, back, 3, &len, &err), MARLIN_ERR_LIMIT);
    assert_int_equal(len, strlen(text));
    assert_int_equal(marlin_tokenize(m, NULL, 0, MARLIN_ADD_BOS, NULL, 0, &n, &err), MARLIN_OK);
    assert_int_equal(n, 0); /* this model has no BOS */
    assert_int_equal(marlin_tokenize(m, text, 4, 128, plain, 64, &n, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "flags 0x80"));
    plain[0] = 1 << 30; /* no spelling */
    assert_int_equal(marlin_detokenize(m, plain, 1, false, back, 64, &len, &err), MARLIN_OK);
    assert_int_equal(len, 0);
    plain[0] = -1;
    assert_int_equal(marlin_detokenize(m, plain, 1, false, back, 64, &len, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(marlin_detokenize(m, NULL, 1, false, back, 64, &len, &err), MARLIN_ERR_ARGUMENT);
    marlin_model_close(m);
}

/* ---- requests ---- */

static bool append(void *user, const char *text, size_t len) {
    char *to = user;
    const size_t have = strlen(to);
    assert_true(have + len < 4096);
    memcpy(to + have, text, len);
    to[have + len] = '\0';
    return true;
}

static void run(marlin_session *s, const struct marlin_request *rq, struct marlin_usage *usage) {
    struct marlin_error err = {0};
    if (marlin_run(s, rq, usage, &err) != MARLIN_OK) fail_msg("%s", err.text);
}

/* The same prompt as text and as ids; the answer's ids are the text that was shown. */
static void ids_in_and_out(void **state) {
    (void)state;
    static char by_text[4096], by_ids[4096], decoded[4096];
    marlin_model *m = open_model();
    marlin_session *a = open_session(m, 0.8f, 4), *b = open_session(m, 0.8f, 4);
    struct marlin_usage ua, ub;
    int32_t ids[64];
    size_t len = 0;
    const struct marlin_request text = {
        .prompt = "The sea was", .max_tokens = 20, .on_text = append, .user = by_text};
    struct marlin_request numbers = {.ids = ids, .max_tokens = 20, .on_text = append, .user = by_ids};
    numbers.n_ids = tokenize(m, text.prompt, MARLIN_ADD_BOS, ids, 64);
    run(a, &text, &ua);
    run(b, &numbers, &ub);
    assert_int_equal(ua.prompt_tokens, numbers.n_ids);
    assert_true(ua.completion_tokens > 0);
    assert_int_equal(ua.completion_tokens, ub.completion_tokens);
    assert_memory_equal(ua.tokens, ub.tokens, ua.completion_tokens * sizeof(*ua.tokens));
    assert_string_equal(by_text, by_ids);
    assert_int_equal(
        marlin_detokenize(m, ua.tokens, ua.completion_tokens, false, decoded, sizeof(decoded), &len, NULL),
        MARLIN_OK);
    assert_int_equal(len, strlen(by_text));
    assert_memory_equal(decoded, by_text, len);
    marlin_session_close(a);
    marlin_session_close(b);
    marlin_model_close(m);
}

static void special_tokens_are_read_where_asked_for(void **state) {
    (void)state;
    marlin_model *m = open_model();
    marlin_session *a = open_session(m, 0, 0), *b = open_session(m, 0, 0);
    struct marlin_usage plain, special;
    struct marlin_request rq = {.prompt = "<|im_start|>hello<|im_end|>", .max_tokens = 0};
    int32_t ids[64];
    run(a, &rq, &plain);
    rq.special = true;
    run(b, &rq, &special);
    assert_int_equal(special.prompt_tokens, tokenize(m, rq.prompt, MARLIN_SPECIAL, ids, 64));
    assert_int_equal(plain.prompt_tokens, tokenize(m, rq.prompt, 0, ids, 64));
    assert_true(special.prompt_tokens < plain.prompt_tokens);
    assert_int_equal(marlin_session_length(b), special.prompt_tokens);
    marlin_session_close(a);
    marlin_session_close(b);
    marlin_model_close(m);
}

static void a_stop_string_ends_the_answer(void **state) {
    (void)state;
    static char whole[4096], cut[4096], word[9];
    marlin_model *m = open_model();
    marlin_session *a = open_session(m, 0, 0), *b = open_session(m, 0, 0);
    const char *const stop[] = {"not to be found", word};
    struct marlin_usage usage;
    struct marlin_request rq = {
        .prompt = "Once upon a time", .max_tokens = 24, .on_text = append, .user = whole};
    struct marlin_error err = {0};
    run(a, &rq, &usage);
    assert_true(strlen(whole) > 30);
    memcpy(word, whole + 15, 8);
    rq.user = cut;
    rq.stop = stop;
    rq.n_stop = 2;
    run(b, &rq, &usage);
    assert_int_equal(usage.finish, MARLIN_FINISH_STOP);
    assert_int_equal(strlen(cut), strstr(whole, word) - whole);
    assert_memory_equal(cut, whole, strlen(cut));
    rq.n_stop = 65;
    assert_int_equal(marlin_run(b, &rq, &usage, &err), MARLIN_ERR_LIMIT);
    rq.n_stop = 1;
    rq.stop = NULL;
    assert_int_equal(marlin_run(b, &rq, &usage, &err), MARLIN_ERR_ARGUMENT);
    marlin_session_close(a);
    marlin_session_close(b);
    marlin_model_close(m);
}

static void requests_that_contradict_themselves_are_refused(void **state) {
    (void)state;
    marlin_model *m = open_model();
    marlin_session *s = open_session(m, 0, 0);
    struct marlin_error err = {0};
    const int32_t ids[2] = {300, 1 << 30};
    struct marlin_request rq = {.prompt = "a", .ids = ids, .n_ids = 1, .max_tokens = 1};
    assert_int_equal(marlin_run(s, &rq, NULL, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "give one of them"));
    rq = (struct marlin_request){.n_ids = 3, .max_tokens = 1};
    assert_int_equal(marlin_run(s, &rq, NULL, &err), MARLIN_ERR_ARGUMENT);
    rq = (struct marlin_request){.max_tokens = 1};
    assert_int_equal(marlin_run(s, &rq, NULL, &err), MARLIN_ERR_ARGUMENT); /* nothing to go on from */
    rq = (struct marlin_request){.ids = ids, .n_ids = 2, .max_tokens = 1};
    assert_int_equal(marlin_run(s, &rq, NULL, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "token 1 is 1073741824"));
    assert_int_equal(marlin_run(NULL, &rq, NULL, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(marlin_session_length(s), 0);
    rq.n_ids = 1;
    run(s, &rq, NULL);
    assert_int_equal(marlin_session_length(s), 2);
    marlin_session_close(s);
    marlin_model_close(m);
}

/* ---- logits ---- */

static void logits_say_what_comes_next(void **state) {
    (void)state;
    marlin_model *m = open_model();
    marlin_session *s = open_session(m, 0, 0);
    struct marlin_error err = {0};
    struct marlin_usage usage;
    const float *logits = NULL;
    size_t n = 0, best;
    assert_int_equal(marlin_logits(s, &logits, &n, &err), MARLIN_ERR_ARGUMENT);
    const struct marlin_request prompt = {.prompt = "The sea was", .max_tokens = 0},
                                more = {.max_tokens = 1, .ignore_eos = true};
    run(s, &prompt, &usage);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(marlin_logits(s, &logits, &n, &err), MARLIN_OK);
        assert_true(n > 1000);
        best = 0;
        for (size_t k = 1; k < n; k++)
            if (logits[k] > logits[best]) best = k;
        run(s, &more, &usage);
        assert_int_equal(usage.completion_tokens, 1);
        assert_int_equal(usage.tokens[0], best);
    }
    marlin_session_close(s);
    marlin_model_close(m);
}

/* ---- several sessions at once ---- */

enum { JOBS = 4 };

static struct marlin_request job_request(size_t i, char *text) {
    static const char *const prompts[JOBS] = {"The sea was", "Once upon a time there was a fox who", "Two",
                                              "A"};
    return (struct marlin_request){
        .prompt = prompts[i], .max_tokens = 16 - 4 * i, .ignore_eos = true, .on_text = append, .user = text};
}

static void many_sessions_give_what_each_gives_alone(void **state) {
    (void)state;
    static char alone[JOBS][4096], together[JOBS][4096];
    marlin_model *m = open_model();
    struct marlin_job jobs[JOBS];
    struct marlin_error err = {0};
    for (size_t i = 0; i < JOBS; i++) {
        marlin_session *s = open_session(m, i ? 0.9f : 0, i);
        const struct marlin_request rq = job_request(i, alone[i]);
        run(s, &rq, NULL);
        marlin_session_close(s);
        jobs[i] = (struct marlin_job){.session = open_session(m, i ? 0.9f : 0, i),
                                      .request = job_request(i, together[i])};
    }
    jobs[2].request.prompt = NULL; /* fails: there is nothing to go on from */
    assert_int_equal(marlin_run_many(jobs, JOBS, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(jobs[2].error.code, MARLIN_ERR_ARGUMENT);
    assert_string_equal(err.text, jobs[2].error.text);
    jobs[2].request = job_request(2, together[2]);
    assert_int_equal(marlin_run_many(&jobs[2], 1, &err), MARLIN_OK);
    for (size_t i = 0; i < JOBS; i++) {
        assert_int_equal(jobs[i].error.code, MARLIN_OK);
        assert_int_equal(jobs[i].usage.completion_tokens, 16 - 4 * i);
        assert_string_equal(together[i], alone[i]);
        marlin_session_close(jobs[i].session);
    }
    marlin_model_close(m);
}

static void jobs_have_sessions_of_their_own(void **state) {
    (void)state;
    static char text[4096];
    marlin_model *m = open_model(), *other = open_model();
    marlin_session *a = open_session(m, 0, 0), *b = open_session(other, 0, 0);
    struct marlin_error err = {0};
    struct marlin_job jobs[2] = {{.session = a, .request = job_request(0, text)},
                                 {.session = a, .request = job_request(1, text)}};
    assert_int_equal(marlin_run_many(jobs, 2, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "jobs 0 and 1 have one session"));
    jobs[1].session = b;
    assert_int_equal(marlin_run_many(jobs, 2, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "job 1 belongs to another model"));
    jobs[1].session = NULL;
    assert_int_equal(marlin_run_many(jobs, 2, &err), MARLIN_ERR_ARGUMENT);
    assert_int_equal(marlin_session_length(a), 0);
    assert_string_equal(text, "");
    assert_int_equal(marlin_run_many(NULL, 0, &err), MARLIN_OK);
    marlin_session_close(a);
    marlin_session_close(b);
    marlin_model_close(other);
    marlin_model_close(m);
}

/* ---- cancelling ---- */

/* A session that generates on a thread of its own until another thread cancels it. */
struct endless {
    marlin_session *session;
    pthread_mutex_t mutex;
    pthread_cond_t spoke;
    bool has_spoken;
    struct marlin_usage usage;
    marlin_status status;
};

static bool tell(void *user, const char *text, size_t len) {
    struct endless *e = user;
    (void)text;
    (void)len;
    pthread_mutex_lock(&e->mutex);
    e->has_spoken = true;
    pthread_cond_signal(&e->spoke);
    pthread_mutex_unlock(&e->mutex);
    return true;
}

static void *speak(void *arg) {
    struct endless *e = arg;
    const struct marlin_request rq = {
        .prompt = "The sea", .max_tokens = 4000, .ignore_eos = true, .on_text = tell, .user = e};
    e->status = marlin_run(e->session, &rq, &e->usage, NULL);
    return NULL;
}

static void another_thread_cancels(void **state) {
    (void)state;
    marlin_model *m = open_model();
    struct marlin_session_options o;
    struct endless e = {.has_spoken = false};
    struct marlin_usage usage;
    pthread_t thread;
    marlin_session_options_default(m, &o);
    o.context = 4096;
    assert_int_equal(marlin_session_open(m, &o, &e.session, NULL), MARLIN_OK);
    pthread_mutex_init(&e.mutex, NULL);
    pthread_cond_init(&e.spoke, NULL);
    assert_int_equal(pthread_create(&thread, NULL, speak, &e), 0);
    pthread_mutex_lock(&e.mutex);
    while (!e.has_spoken)
        pthread_cond_wait(&e.spoke, &e.mutex);
    pthread_mutex_unlock(&e.mutex);
    marlin_cancel(e.session, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(e.status, MARLIN_OK);
    assert_int_equal(e.usage.finish, MARLIN_FINISH_CANCELLED);
    assert_in_range(e.usage.completion_tokens, 1, 3999);

    /* It stays cancelled until that is taken back, and then goes on. */
    const size_t length = marlin_session_length(e.session);
    const struct marlin_request more = {.prompt = " and", .max_tokens = 2, .ignore_eos = true};
    run(e.session, &more, &usage);
    assert_int_equal(usage.finish, MARLIN_FINISH_CANCELLED);
    assert_int_equal(usage.completion_tokens, 0);
    assert_int_equal(marlin_session_length(e.session), length);
    marlin_cancel(e.session, false);
    run(e.session, &more, &usage);
    assert_int_equal(usage.finish, MARLIN_FINISH_LENGTH);
    assert_int_equal(usage.completion_tokens, 2);
    marlin_session_close(e.session);
    pthread_cond_destroy(&e.spoke);
    pthread_mutex_destroy(&e.mutex);
    marlin_model_close(m);
}

static bool cancel_other(void *user, const char *text, size_t len) {
    (void)text;
    (void)len;
    marlin_cancel(user, true);
    return true;
}

/* The callback of one job cancels the session of another. */
static void one_of_many_is_cancelled(void **state) {
    (void)state;
    static char text[4096];
    marlin_model *m = open_model();
    struct marlin_job jobs[2] = {{.session = open_session(m, 0, 0)}, {.session = open_session(m, 0, 0)}};
    jobs[0].request = job_request(0, text);
    jobs[0].request.on_text = cancel_other;
    jobs[0].request.user = jobs[1].session;
    jobs[1].request = job_request(0, text);
    jobs[1].request.max_tokens = 200;
    assert_int_equal(marlin_run_many(jobs, 2, NULL), MARLIN_OK);
    assert_int_equal(jobs[0].usage.finish, MARLIN_FINISH_LENGTH);
    assert_int_equal(jobs[0].usage.completion_tokens, 16);
    assert_int_equal(jobs[1].usage.finish, MARLIN_FINISH_CANCELLED);
    assert_in_range(jobs[1].usage.completion_tokens, 0, 16);
    marlin_session_close(jobs[0].session);
    marlin_session_close(jobs[1].session);
    marlin_model_close(m);
}

/* ---- remarks, and a model that is cut ---- */

static char dir[64];

static void path_in(char *path, size_t room, const char *folder, const char *name) {
    assert_in_range(snprintf(path, room, "%s/%s", folder, name), 1, room - 1);
}

static void copy_file(const char *name) {
    char path[512];
    static char block[1 << 16];
    path_in(path, sizeof(path), model_dir, name);
    FILE *from = fopen(path, "rb");
    path_in(path, sizeof(path), dir, name);
    FILE *to = fopen(path, "wb");
    assert_non_null(from);
    assert_non_null(to);
    for (size_t n; (n = fread(block, 1, sizeof(block), from)) > 0;)
        assert_int_equal(fwrite(block, 1, n, to), n);
    (void)fclose(from);
    assert_int_equal(fclose(to), 0);
}

static const char *const files[] = {"config.json", "generation_config.json", "tokenizer.json",
                                    "tokenizer_config.json", "model.safetensors"};

static void copy_model(void) {
    (void)snprintf(dir, sizeof(dir), "/tmp/marlin-api-XXXXXX");
    assert_non_null(mkdtemp(dir));
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
        copy_file(files[i]);
}

static void remove_copy(void) {
    char path[512];
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        path_in(path, sizeof(path), dir, files[i]);
        (void)unlink(path);
    }
    path_in(path, sizeof(path), dir, "stray.safetensors");
    (void)unlink(path);
    assert_int_equal(rmdir(dir), 0);
}

static void remember(void *user, enum marlin_log_level level, const char *text) {
    assert_int_equal(level, MARLIN_LOG_INFO);
    assert_null(strchr(text, '\n'));
    append(user, text, strlen(text));
}

static void remarks_go_to_the_host(void **state) {
    (void)state;
    static char said[4096];
    static const char stray[] = "\x40\0\0\0\0\0\0\0"
                                "{\"stray\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}      "
                                "\0\0\0";
    char path[512];
    marlin_model *m = NULL;
    copy_model();
    path_in(path, sizeof(path), dir, "stray.safetensors");
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(sizeof(stray), 8 + 0x40 + 4);
    assert_int_equal(fwrite(stray, 1, sizeof(stray), f), sizeof(stray));
    assert_int_equal(fclose(f), 0);

    marlin_log_set(remember, said, MARLIN_LOG_INFO);
    assert_int_equal(marlin_model_open(dir, NULL, &m, NULL), MARLIN_OK);
    marlin_model_close(m);
    assert_non_null(strstr(said, "stray.safetensors is not used"));
    said[0] = '\0';
    marlin_log_set(NULL, NULL, MARLIN_LOG_DEBUG);
    assert_int_equal(marlin_model_open(dir, NULL, &m, NULL), MARLIN_OK);
    marlin_model_close(m);
    assert_string_equal(said, "");
    remove_copy();
}

struct cutter {
    char path[512];
    off_t size;
};

static bool cut_file(void *user, const char *text, size_t len) {
    struct cutter *c = user;
    (void)text;
    (void)len;
    assert_int_equal(truncate(c->path, c->size - 1), 0);
    return true;
}

/* A request fails because a file was cut; once the file is whole again, the same request gives what it would
 * have given. */
static void a_request_that_failed_can_be_tried_again(void **state) {
    (void)state;
    static char expected[4096], text[4096];
    marlin_model *m = NULL;
    struct marlin_error err = {0};
    struct marlin_usage usage = {.completion_tokens = 77};
    const struct marlin_model_options one = {.threads = 1};
    struct cutter c;
    struct stat info;
    copy_model();
    assert_int_equal(marlin_model_open(dir, &one, &m, NULL), MARLIN_OK);
    marlin_session *never = open_session(m, 0.9f, 8), *once = open_session(m, 0.9f, 8);
    struct marlin_request rq = {
        .prompt = "The sea", .max_tokens = 12, .ignore_eos = true, .on_text = append, .user = expected};
    run(never, &rq, NULL);
    rq.user = text;
    run(once, &rq, NULL);
    text[0] = expected[0] = '\0';
    rq.user = expected;
    run(never, &rq, NULL);

    path_in(c.path, sizeof(c.path), dir, "model.safetensors");
    assert_int_equal(stat(c.path, &info), 0);
    c.size = info.st_size;
    FILE *f = fopen(c.path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, -1, SEEK_END), 0);
    const int last = fgetc(f);
    (void)fclose(f);
    rq.on_text = cut_file;
    rq.user = &c;
    const size_t length = marlin_session_length(once);
    assert_int_equal(marlin_run(once, &rq, &usage, &err), MARLIN_ERR_IO);
    assert_non_null(strstr(err.text, "model.safetensors"));
    assert_int_equal(usage.completion_tokens, 77);
    assert_int_equal(marlin_session_length(once), length);
    f = fopen(c.path, "ab");
    assert_non_null(f);
    assert_int_equal(fputc(last, f), last);
    assert_int_equal(fclose(f), 0);

    rq.on_text = append;
    rq.user = text;
    run(once, &rq, NULL);
    assert_string_equal(text, expected);
    marlin_session_close(never);
    marlin_session_close(once);
    marlin_model_close(m);
    remove_copy();
}

static void version_is_a_version(void **state) {
    (void)state;
    int a, b, c;
    assert_int_equal(sscanf(marlin_version(), "%d.%d.%d", &a, &b, &c), 3);
}

/* ---- conversations ---- */

#define TURN(role, text) "{\"role\":\"" role "\",\"content\":\"" text "\"}"
#define ASKING(turns)    "{\"messages\":[" turns "],\"add_generation_prompt\":true}"

static bool keep(void *user, const char *text, size_t len) {
    char *to = user;
    const size_t n = strlen(to);
    assert_true(n + len < 256);
    memcpy(to + n, text, len);
    to[n + len] = '\0';
    return true;
}

static void turn(marlin_session *s, const char *conversation, const char *wanted,
                 struct marlin_usage *usage) {
    char text[256] = "";
    struct marlin_error err = {0};
    if (marlin_chat(s, conversation, 64, keep, text, usage, &err) != MARLIN_OK) fail_msg("%s", err.text);
    assert_string_equal(text, wanted);
    assert_int_equal(usage->finish, MARLIN_FINISH_STOP);
}

static void a_conversation_is_answered_turn_by_turn(void **state) {
    (void)state;
    struct marlin_error err = {0};
    struct marlin_usage first, second, whole;
    struct marlin_session_options o;
    marlin_model *model = NULL;
    marlin_session *s = NULL, *fresh = NULL;
    const char *both = ASKING(TURN("user", "What is the capital of Portugal?") "," TURN(
        "assistant", "The capital of Portugal is Lisbon.") "," TURN("user", "What is 47 + 38?"));
    assert_int_equal(marlin_model_open(model_dir, NULL, &model, &err), MARLIN_OK);
    marlin_session_options_default(model, &o);
    o.temperature = 0;
    assert_int_equal(marlin_session_open(model, &o, &s, &err), MARLIN_OK);
    assert_int_equal(marlin_session_open(model, &o, &fresh, &err), MARLIN_OK);
    turn(s, ASKING(TURN("user", "What is the capital of Portugal?")), "The capital of Portugal is Lisbon.",
         &first);
    turn(s, both, "47 + 38 = 85", &second);
    turn(fresh, both, "47 + 38 = 85", &whole);
    /* Only what is new in the second turn is fed. */
    assert_true(second.prompt_tokens < whole.prompt_tokens - first.prompt_tokens);
    marlin_session_close(s);
    marlin_session_close(fresh);
    marlin_model_close(model);
}

static void conversations_that_cannot_be_answered(void **state) {
    (void)state;
    struct marlin_error err = {0};
    const struct marlin_session_options small = {.context = 12, .top_p = 1, .repetition_penalty = 1};
    marlin_model *model = NULL;
    marlin_session *s = NULL;
    assert_int_equal(marlin_model_open(model_dir, NULL, &model, &err), MARLIN_OK);
    assert_int_equal(marlin_session_open(model, &small, &s, &err), MARLIN_OK);
    assert_int_equal(marlin_chat(s, NULL, 4, NULL, NULL, NULL, &err), MARLIN_ERR_ARGUMENT);
    assert_int_not_equal(marlin_chat(s, "{\"messages\":", 4, NULL, NULL, NULL, &err), MARLIN_OK);
    assert_int_equal(marlin_chat(s, "{}", 4, NULL, NULL, NULL, &err), MARLIN_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "messages"));
    assert_int_equal(marlin_chat(s, ASKING(TURN("user", "What is the capital of Portugal and of Spain?")), 4,
                                 NULL, NULL, NULL, &err),
                     MARLIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, "12"));
    const struct marlin_request twice = {.conversation = ASKING(TURN("user", "x")), .prompt = "x"};
    assert_int_equal(marlin_run(s, &twice, NULL, &err), MARLIN_ERR_ARGUMENT);
    marlin_session_close(s);
    marlin_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_example_of_the_header_works),
        cmocka_unit_test(errors_are_named),
        cmocka_unit_test(sessions_share_a_model_between_threads),
        cmocka_unit_test(text_becomes_ids_and_text_again),
        cmocka_unit_test(ids_in_and_out),
        cmocka_unit_test(special_tokens_are_read_where_asked_for),
        cmocka_unit_test(a_stop_string_ends_the_answer),
        cmocka_unit_test(requests_that_contradict_themselves_are_refused),
        cmocka_unit_test(logits_say_what_comes_next),
        cmocka_unit_test(many_sessions_give_what_each_gives_alone),
        cmocka_unit_test(jobs_have_sessions_of_their_own),
        cmocka_unit_test(another_thread_cancels),
        cmocka_unit_test(one_of_many_is_cancelled),
        cmocka_unit_test(remarks_go_to_the_host),
        cmocka_unit_test(a_request_that_failed_can_be_tried_again),
        cmocka_unit_test(version_is_a_version),
        cmocka_unit_test(a_conversation_is_answered_turn_by_turn),
        cmocka_unit_test(conversations_that_cannot_be_answered),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
