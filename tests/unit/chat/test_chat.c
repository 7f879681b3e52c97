/* SPDX-License-Identifier: Apache-2.0
 *
 * Chat templates of model families with conversations, as jinja2 renders them; where a directory keeps templates; what a
 * request may hold.
 */
#include "base/file.h"
#include "base/mem.h"
#include "chat/chat.h"
#include "chat/jinja.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "folders.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char folder[] = MARLIN_SOURCE_DIR "/tests/unit/chat/";
enum { NOW = 1741529107 };

static char *read_file(const char *name, size_t *len) {
    char path[1024], *data = NULL;
    (void)snprintf(path, sizeof path, "%s%s", folder, name);
    assert_int_equal(ml_file_slurp(path, 64 << 20, &data, len, NULL), MARLIN_OK);
    return data;
}

static struct ml_json_doc *parse(const char *text, size_t len) {
    struct ml_json_doc *doc = NULL;
    assert_int_equal(ml_json_parse(text, len, NULL, &doc, NULL), MARLIN_OK);
    return doc;
}

/* One family with one conversation. */
static int check_family(const struct ml_json *row, const struct ml_json *requests,
                        const struct ml_json *defaults) {
    const char *file = ml_json_string(ml_json_get(row, "f"), NULL),
               *name = ml_json_string(ml_json_get(row, "n"), NULL);
    const char *want = ml_json_string(ml_json_get(row, "o"), NULL);
    static const struct ml_template_var vars[] = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
    const struct ml_template_input in = {
        .request = ml_json_get(requests, name), .defaults = defaults, .vars = vars, .n_vars = 2, .now = NOW};
    struct ml_template *t = NULL;
    struct marlin_error err = {0};
    struct ml_buf out;
    char path[256];
    size_t len = 0;
    (void)snprintf(path, sizeof path, "templates/%s", file);
    char *text = read_file(path, &len);
    ml_buf_init(&out, 1 << 20);
    assert_int_equal(ml_template_compile(file, text, len, &t, &err), MARLIN_OK);
    const marlin_status st = ml_template_render(t, &in, &out, &err);
    const int ok = want ? st == MARLIN_OK && strcmp(out.data ? out.data : "", want) == 0 : st != MARLIN_OK;
    if (!ok)
        print_message("%s, %s\n  wanted: %s\n     got: %s %s\n", file, name, want ? want : "an error",
                      out.data ? out.data : "", err.text);
    ml_buf_free(&out);
    ml_template_free(t);
    ml_free(text);
    return ok;
}

static void families_equal_jinja2(void **state) {
    static const char text[] =
        "{\"messages\":null,\"tools\":null,\"documents\":null,\"add_generation_prompt\":false}";
    size_t len = 0, n_vectors = 0;
    int n = 0, bad = 0;
    (void)state;
    char *data = read_file("templates/conversations.json", &len),
         *rows = read_file("vectors/families.jsonl", &n_vectors);
    struct ml_json_doc *requests = parse(data, len), *defaults = parse(text, strlen(text));
    for (char *s = rows, *end; (end = strchr(s, '\n')); s = end + 1, n++) {
        struct ml_json_doc *row = parse(s, (size_t)(end - s));
        bad += !check_family(ml_json_root(row), ml_json_root(requests), ml_json_root(defaults));
        ml_json_free(row);
    }
    ml_json_free(requests);
    ml_json_free(defaults);
    ml_free(data);
    ml_free(rows);
    assert_true(n >= 15 * 15);
    assert_int_equal(bad, 0);
}

/* ---- directories */

static char dir[256];

static void put(const char *name, const char *text) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(ml_file_write_atomic(path, text, strlen(text), NULL), MARLIN_OK);
}

static int make_dir(void **state) {
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/marlin-chat-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int drop_dir(void **state) {
    (void)state;
    remove_tree(dir);
    return 0;
}

static void gives(const struct ml_chat *c, const char *request, const char *want) {
    struct ml_buf out;
    struct marlin_error err = {0};
    ml_buf_init(&out, 1 << 20);
    if (ml_chat_render(c, request, strlen(request), &out, &err) != MARLIN_OK)
        fail_msg("%s: %s", request, err.text);
    assert_string_equal(out.data ? out.data : "", want);
    ml_buf_free(&out);
}

static void refuses(const struct ml_chat *c, const char *request, marlin_status want, const char *says) {
    struct ml_buf out;
    struct marlin_error err = {0};
    ml_buf_init(&out, 1 << 20);
    assert_int_equal(ml_chat_render(c, request, strlen(request), &out, &err), want);
    if (!strstr(err.text, says)) fail_msg("%s: %s", request, err.text);
    assert_int_equal(out.len, 0);
    ml_buf_free(&out);
}

static struct ml_chat *open_dir(void) {
    struct ml_chat *c = NULL;
    struct marlin_error err = {0};
    if (ml_chat_open_dir(dir, &c, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return c;
}

static void a_directory_without_one_says_so(void **state) {
    struct ml_chat *c = NULL;
    struct marlin_error err = {0};
    (void)state;
    assert_int_equal(ml_chat_open_dir(dir, &c, &err), MARLIN_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "has no chat template"));
    put("tokenizer_config.json", "{\"chat_template\":null}");
    assert_int_equal(ml_chat_open_dir(dir, &c, &err), MARLIN_ERR_NOT_FOUND);
    put("tokenizer_config.json", "{\"chat_template\":3}");
    assert_int_equal(ml_chat_open_dir(dir, &c, &err), MARLIN_ERR_FORMAT);
    put("tokenizer_config.json", "{\"chat_template\":\"{{ (\"}");
    assert_int_equal(ml_chat_open_dir(dir, &c, &err), MARLIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "tokenizer_config.json, line 1, column"));
    assert_null(c);
}

static void a_string_with_its_tokens(void **state) {
    (void)state;
    put("tokenizer_config.json",
        "{\"chat_template\":\"{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ tools }}\","
        "\"bos_token\":{\"content\":\"<b>\",\"lstrip\":false},\"eos_token\":null}");
    put("special_tokens_map.json", "{\"bos_token\":\"<other>\",\"eos_token\":\"<e>\"}");
    struct ml_chat *c = open_dir();
    assert_string_equal(ml_chat_special(c, "bos_token"), "<b>");
    assert_null(ml_chat_special(c, "unk_token"));
    gives(c, "{\"messages\":[{\"content\":\"Hi\"}]}", "<b>Hi<e>None");
    gives(c, "{\"messages\":[{}],\"bos_token\":\"\",\"tools\":[1]}", "<e>[1]");
    ml_chat_free(c);
}

static void several_by_name_and_files_first(void **state) {
    char path[512];
    (void)state;
    put("tokenizer_config.json", "{\"chat_template\":[{\"name\":\"default\",\"template\":\"D\"},"
                                 "{\"name\":\"tool_use\",\"template\":\"T\"}]}");
    (void)snprintf(path, sizeof path, "%s/additional_chat_templates", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    put("additional_chat_templates/rag.jinja", "R{{ documents }}");
    struct ml_chat *c = open_dir();
    assert_int_equal(ml_chat_count(c), 3);
    gives(c, "{\"messages\":[]}", "D");
    gives(c, "{\"messages\":[],\"tools\":null}", "D");
    gives(c, "{\"messages\":[],\"tools\":[{}]}", "T");
    gives(c, "{\"messages\":[],\"tools\":[{}],\"chat_template\":\"rag\"}", "RNone");
    refuses(c, "{\"messages\":[],\"chat_template\":\"x\"}", MARLIN_ERR_NOT_FOUND, "no chat template \"x\"");
    ml_chat_free(c);
    put("chat_template.json", "{\"chat_template\":\"J\"}");
    c = open_dir();
    gives(c, "{\"messages\":[]}", "J");
    ml_chat_free(c);
    put("chat_template.jinja", "F\n");
    c = open_dir();
    gives(c, "{\"messages\":[]}", "F");
    ml_chat_free(c);
}

static void a_text_and_its_requests(void **state) {
    static const char text[] = "{{ bos_token }}{% for m in messages %}{{ m.role }}{% endfor %}"
                               "{% if add_generation_prompt %}>{% endif %}{{ eos_token is defined }}";
    struct ml_chat *c = NULL;
    (void)state;
    assert_int_equal(ml_chat_open_text("model.gguf", text, strlen(text), "<s>", NULL, &c, NULL), MARLIN_OK);
    gives(c, "{\"messages\":[{\"role\":\"a\"}],\"add_generation_prompt\":true}", "<s>a>False");
    gives(c, "{\"messages\":[]}", "<s>False");
    refuses(c, "[]", MARLIN_ERR_ARGUMENT, "is an object");
    refuses(c, "{}", MARLIN_ERR_ARGUMENT, "\"messages\"");
    refuses(c, "{\"messages\":{}}", MARLIN_ERR_ARGUMENT, "must be an array, not object");
    refuses(c, "{\"messages\":[}", MARLIN_ERR_FORMAT, "chat request");
    refuses(c, "{\"messages\":[],\"chat_template\":1}", MARLIN_ERR_ARGUMENT, "name of a template");
    ml_chat_free(c);
}

/* Templates of real models, where they are there: each takes a plain conversation. */
static void real_models_render(void **state) {
    static const char request[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Zq hello\"}],\"add_generation_prompt\":true}";
    static const char *const models[] = {"tokenizers/llama3.1", "tokenizers/phi-3-mini", "tokenizers/qwen3"};
    const char *shared = getenv("MARLIN_SHARED");
    int found = 0;
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        char path[1024];
        struct ml_chat *c = NULL;
        struct marlin_error err = {0};
        struct ml_buf out;
        (void)snprintf(path, sizeof path, "%s/data/%s", shared ? shared : "../shared", models[i]);
        const marlin_status st = ml_chat_open_dir(path, &c, &err);
        if (st == MARLIN_ERR_NOT_FOUND) continue;
        if (st != MARLIN_OK) fail_msg("%s", err.text);
        ml_buf_init(&out, 1 << 20);
        if (ml_chat_render(c, request, strlen(request), &out, &err) != MARLIN_OK)
            fail_msg("%s: %s", path, err.text);
        assert_non_null(strstr(out.data, "Zq hello"));
        ml_buf_free(&out);
        ml_chat_free(c);
        found++;
    }
    if (found == 0) {
        print_message("no tokenizer_config.json with a template below MARLIN_SHARED\n");
        skip();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_equal_jinja2),
        cmocka_unit_test_setup_teardown(a_directory_without_one_says_so, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(a_string_with_its_tokens, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(several_by_name_and_files_first, make_dir, drop_dir),
        cmocka_unit_test(a_text_and_its_requests),
        cmocka_unit_test(real_models_render),
    };
    setenv("TZ", "UTC", 1);
    return cmocka_run_group_tests_name("chat", tests, NULL, NULL);
}
