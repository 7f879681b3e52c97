/* SPDX-License-Identifier: Apache-2.0
 *
 * The public header alone: its usage example as it stands there, and its named errors.
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

#include <cmocka.h>

#include "guard.h"

static const char model_dir[] = MARLIN_SOURCE_DIR "/models/marlin-12m";

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

static void version_is_a_version(void **state) {
    (void)state;
    int a, b, c;
    assert_int_equal(sscanf(marlin_version(), "%d.%d.%d", &a, &b, &c), 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_example_of_the_header_works),
        cmocka_unit_test(errors_are_named),
        cmocka_unit_test(sessions_share_a_model_between_threads),
        cmocka_unit_test(version_is_a_version),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
