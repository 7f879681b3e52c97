/* SPDX-License-Identifier: Apache-2.0
 *
 * The messages of a conversation: what is added, cut and taken back, and their way through JSON.
 */
#include "engine/conversation.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"

static struct ml_conversation *make(void) {
    struct ml_conversation *c = NULL;
    assert_int_equal(ml_conversation_create(&c, NULL), MARLIN_OK);
    return c;
}

static void add(struct ml_conversation *c, const char *role, const char *text) {
    assert_int_equal(ml_conversation_add(c, role, text, strlen(text), NULL), MARLIN_OK);
}

static void expect(const struct ml_conversation *c, const char *more, const char *wanted) {
    struct ml_buf b;
    ml_buf_init(&b, 1 << 20);
    assert_int_equal(ml_conversation_request(c, more, &b, NULL), MARLIN_OK);
    assert_string_equal(b.data, wanted);
    ml_buf_free(&b);
}

static void messages_become_a_request(void **state) {
    (void)state;
    struct ml_conversation *c = make();
    expect(c, "", "{\"messages\":[],\"add_generation_prompt\":true}");
    add(c, "user", "Say \"hi\"\n");
    add(c, "assistant", "");
    expect(c, "\"enable_thinking\":false",
           "{\"messages\":[{\"role\":\"user\",\"content\":\"Say \\\"hi\\\"\\n\"},"
           "{\"role\":\"assistant\",\"content\":\"\"}],\"add_generation_prompt\":true,\"enable_thinking\":"
           "false}");
    ml_conversation_free(c);
}

static void the_system_message_stands_first(void **state) {
    (void)state;
    struct ml_conversation *c = make();
    add(c, "user", "a");
    assert_int_equal(ml_conversation_system(c, "be kind", 7, NULL), MARLIN_OK);
    assert_int_equal(ml_conversation_system(c, "be brief", 8, NULL), MARLIN_OK);
    assert_int_equal(ml_conversation_count(c), 2);
    assert_string_equal(ml_conversation_role(c, 0), "system");
    assert_string_equal(ml_conversation_text(c, 0, NULL), "be brief");
    assert_string_equal(ml_conversation_text(c, 1, NULL), "a");
    assert_int_equal(ml_conversation_system(c, "", 0, NULL), MARLIN_OK);
    assert_int_equal(ml_conversation_count(c), 1);
    assert_string_equal(ml_conversation_role(c, 0), "user");
    ml_conversation_free(c);
}

static void undo_takes_back_to_the_users_last_message(void **state) {
    (void)state;
    struct ml_conversation *c = make();
    assert_false(ml_conversation_undo(c));
    add(c, "system", "s");
    add(c, "user", "a");
    add(c, "assistant", "b");
    add(c, "user", "c");
    add(c, "tool", "d");
    add(c, "assistant", "e");
    assert_true(ml_conversation_undo(c));
    assert_int_equal(ml_conversation_count(c), 3);
    assert_true(ml_conversation_undo(c));
    assert_int_equal(ml_conversation_count(c), 1);
    assert_false(ml_conversation_undo(c));
    ml_conversation_free(c);
}

static void many_messages_go_through_json(void **state) {
    (void)state;
    struct ml_conversation *c = make(), *d = make();
    struct ml_buf b;
    ml_buf_init(&b, 1 << 20);
    for (int i = 0; i < 100; i++)
        add(c, i % 2 ? "assistant" : "user", i % 3 ? "text" : "\xc3\xa4\xf0\x9f\x91\x8d");
    assert_int_equal(ml_conversation_request(c, "", &b, NULL), MARLIN_OK);
    add(d, "user", "gone");
    assert_int_equal(ml_conversation_read(d, "file", b.data, b.len, NULL), MARLIN_OK);
    assert_int_equal(ml_conversation_count(d), 100);
    expect(d, "", b.data);
    ml_conversation_cut(d, 0);
    const char *array = "[{\"role\":\"user\",\"content\":\"x\"}]";
    assert_int_equal(ml_conversation_read(d, "file", array, strlen(array), NULL), MARLIN_OK);
    assert_int_equal(ml_conversation_count(d), 1);
    ml_buf_free(&b);
    ml_conversation_free(c);
    ml_conversation_free(d);
}

static void a_bad_file_leaves_the_conversation(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",
        "{\"messages\":",
        "{\"messages\":{}}",
        "{}",
        "7",
        "[{\"role\":\"user\"}]",
        "[{\"role\":\"user\",\"content\":\"x\"},{\"content\":\"x\"}]",
        "[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]",
    };
    struct ml_conversation *c = make();
    add(c, "user", "kept");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct marlin_error err = {0};
        assert_int_not_equal(ml_conversation_read(c, "notes.json", bad[i], strlen(bad[i]), &err), MARLIN_OK);
        assert_non_null(strstr(err.text, "notes.json"));
        assert_int_equal(ml_conversation_count(c), 1);
        assert_string_equal(ml_conversation_text(c, 0, NULL), "kept");
    }
    ml_conversation_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_become_a_request),
        cmocka_unit_test(the_system_message_stands_first),
        cmocka_unit_test(undo_takes_back_to_the_users_last_message),
        cmocka_unit_test(many_messages_go_through_json),
        cmocka_unit_test(a_bad_file_leaves_the_conversation),
    };
    return cmocka_run_group_tests(tests, NULL, guard_clean);
}
