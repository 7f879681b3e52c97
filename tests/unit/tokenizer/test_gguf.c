/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokenizers of GGUF files: the ids are those of the tokenizer.json that a file was made from, and a directory that
 * the tokenizer is written to gives the same again; every known pre-tokenizer loads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "converters/gguf.h"
#include "folders.h"
#include "tokenizer/tokenizer.h"

#define GGUF_IMAGE_BYTES (1 << 18)
#include "unit/converters/gguf_image.h"

#include <stdlib.h>

static char dir[256];

static int make_dir(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    (void)snprintf(dir, sizeof dir, "%s/marlin-gguf-XXXXXX", base ? base : "/tmp");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    remove_tree(dir);
    return 0;
}

static struct ml_tokenizer *load(const char *path) {
    struct marlin_error err = {0};
    struct ml_tokenizer *t = NULL;
    if (ml_tokenizer_load(path, 0, &t, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return t;
}

static void same_ids(const struct ml_tokenizer *a, const struct ml_tokenizer *b, const char *text,
                     size_t len) {
    static const unsigned flags[] = {0, ML_ENCODE_SPECIAL};
    struct marlin_error err = {0};
    for (size_t i = 0; i < 2; i++) {
        struct ml_ids x = {0}, y = {0};
        assert_int_equal(ml_tokenizer_encode(a, text, len, flags[i], &x, &err), MARLIN_OK);
        assert_int_equal(ml_tokenizer_encode(b, text, len, flags[i], &y, &err), MARLIN_OK);
        assert_int_equal(x.n, y.n);
        assert_memory_equal(x.id, y.id, x.n * sizeof *x.id);
        assert_true(x.n > 0);
        ml_ids_free(&x);
        ml_ids_free(&y);
    }
}

/* ---- made here ---- */

static const char *write_image(const struct gguf_image *m) {
    static char path[300];
    (void)snprintf(path, sizeof path, "%s/t.gguf", dir);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(m->bytes, 1, m->len, f), m->len);
    assert_int_equal(fclose(f), 0);
    return path;
}

static void put_strings(struct gguf_image *m, const char *key, const char *const *text, size_t n) {
    put_key_array(m, key, 8, n);
    for (size_t i = 0; i < n; i++)
        put_text(m, text[i]);
}

static void put_types(struct gguf_image *m, const uint32_t *type, size_t n) {
    put_key_array(m, "tokenizer.ggml.token_type", 5, n);
    for (size_t i = 0; i < n; i++)
        put_u32(m, type[i]);
}

static void put_flag(struct gguf_image *m, const char *key, bool v) {
    put_text(m, key);
    put_u32(m, 7);
    put_number(m, v, 1);
}

static void expect_ids(const struct ml_tokenizer *t, const char *text, const int32_t *want, size_t n) {
    struct marlin_error err = {0};
    struct ml_ids ids = {0};
    assert_int_equal(
        ml_tokenizer_encode(t, text, strlen(text), ML_ENCODE_SPECIAL | ML_ENCODE_BOS, &ids, &err), MARLIN_OK);
    assert_int_equal(ids.n, n);
    assert_memory_equal(ids.id, want, n * sizeof *want);
    ml_ids_free(&ids);
}

/* The embedded model's tokenizer.json, as a converter writes it. */
static const char *convert(const char *path) {
    static struct gguf_image m;
    static const char *text[8192];
    static uint32_t type[8192];
    struct marlin_error err = {0};
    struct ml_json_doc *doc = NULL;
    char *json = NULL;
    size_t len = 0, tokens = 0, merges = 0;
    int64_t id;
    assert_int_equal(ml_file_slurp(path, 1 << 24, &json, &len, &err), MARLIN_OK);
    assert_int_equal(ml_json_parse(json, len, NULL, &doc, &err), MARLIN_OK);
    const struct ml_json *root = ml_json_root(doc), *model = ml_json_get(root, "model");
    for (const struct ml_json *v = ml_json_first(ml_json_get(model, "vocab")); v; v = ml_json_next(v)) {
        assert_true(ml_json_i64(v, &id) && id >= 0 && id < 8192);
        text[id] = ml_json_key(v, NULL);
        type[id] = 1;
        tokens = (size_t)id + 1 > tokens ? (size_t)id + 1 : tokens;
    }
    for (const struct ml_json *v = ml_json_first(ml_json_get(root, "added_tokens")); v; v = ml_json_next(v)) {
        assert_true(ml_json_i64(ml_json_get(v, "id"), &id) && id >= 0 && id < 8192);
        text[id] = ml_json_string(ml_json_get(v, "content"), NULL);
        bool special = false;
        assert_true(ml_json_bool(ml_json_get(v, "special"), &special));
        type[id] = special ? 3 : 4; /* control, or user defined: a token wherever its text stands */
        tokens = (size_t)id + 1 > tokens ? (size_t)id + 1 : tokens;
    }
    put_head(&m, 3, 0, 6);
    put_key_string(&m, "general.architecture", "llama");
    put_key_string(&m, "tokenizer.ggml.model", "gpt2");
    put_key_string(&m, "tokenizer.ggml.pre", "qwen2");
    put_strings(&m, "tokenizer.ggml.tokens", text, tokens);
    put_types(&m, type, tokens);
    const struct ml_json *list = ml_json_get(model, "merges");
    for (const struct ml_json *v = ml_json_first(list); v; v = ml_json_next(v)) {
        const bool pair = ml_json_type(v) == ML_JSON_ARRAY;
        static char joined[8192][256];
        const char *a = ml_json_string(pair ? ml_json_first(v) : v, NULL);
        const char *b = pair ? ml_json_string(ml_json_next(ml_json_first(v)), NULL) : NULL;
        assert_true(merges < 8192);
        assert_true(snprintf(joined[merges], sizeof joined[0], "%s%s%s", a, b ? " " : "", b ? b : "") <
                    (int)sizeof joined[0]);
        text[merges] = joined[merges];
        merges++;
    }
    put_strings(&m, "tokenizer.ggml.merges", text, merges);
    ml_json_free(doc);
    ml_free(json);
    return write_image(&m);
}

/* Text of this project, and text that is awkward. */
static void byte_level(void **state) {
    static const char awkward[] =
        "<|im_start|>user\nIt's 12345 \xC3\xA9 e\xCC\x81 \xE4\xBD\xA0\xE5\xA5\xBD  \t\n\n x<|im_end|>\xFF!";
    struct marlin_error err = {0};
    const char *path = convert(MARLIN_SOURCE_DIR "/models/marlin-chat/tokenizer.json");
    struct ml_tokenizer *want = load(MARLIN_SOURCE_DIR "/models/marlin-chat");
    struct ml_tokenizer *got = load(path);
    char *text = NULL;
    size_t len = 0;
    (void)state;
    assert_int_equal(ml_file_slurp(MARLIN_SOURCE_DIR "/README.md", 1 << 20, &text, &len, &err), MARLIN_OK);
    same_ids(want, got, text, len);
    same_ids(want, got, awkward, sizeof awkward - 1);
    assert_int_equal(ml_tokenizer_size(want), ml_tokenizer_size(got));

    assert_int_equal(ml_gguf_tokenizer_write(path, dir, &err), MARLIN_OK);
    struct ml_tokenizer *again = load(dir);
    same_ids(want, again, text, len);
    same_ids(want, again, awkward, sizeof awkward - 1);
    ml_tokenizer_free(again);
    ml_tokenizer_free(got);
    ml_tokenizer_free(want);
    ml_free(text);
}

/* Scores decide; a token that fills the table up is left out; BOS comes without being asked for. */
static void sentencepiece(void **state) {
    static const char *const tokens[] = {"<unk>",
                                         "<s>",
                                         "</s>",
                                         "<0x0A>",
                                         "\xE2\x96\x81",
                                         "a",
                                         "b",
                                         "ab",
                                         ("\xE2\x96\x81"
                                          "ab"),
                                         "[PAD]"};
    static const uint32_t types[] = {2, 3, 3, 6, 1, 1, 1, 1, 1, 5};
    static const float scores[] = {0, 0, 0, 0, -9, -8, -7, -1, -2, 0};
    for (int explicit = 0; explicit < 3; explicit ++) {
        struct gguf_image m = {0};
        put_head(&m, 3, 0, explicit ? 8 : 6);
        put_key_string(&m, "general.architecture", "llama");
        put_key_string(&m, "tokenizer.ggml.model", "llama");
        put_strings(&m, "tokenizer.ggml.tokens", tokens, 10);
        put_types(&m, types, 10);
        put_key_array(&m, "tokenizer.ggml.scores", 6, 10);
        put(&m, scores, sizeof scores);
        put_key_u32(&m, "tokenizer.ggml.bos_token_id", 1);
        if (explicit) put_flag(&m, "tokenizer.ggml.add_bos_token", explicit == 1);
        if (explicit) put_flag(&m, "tokenizer.ggml.add_space_prefix", explicit == 1);
        struct ml_tokenizer *t = load(write_image(&m));
        if (explicit < 2)
            expect_ids(t, "ab ab\n", (const int32_t[]){1, 8, 8, 3}, 4);
        else
            expect_ids(t, "ab ab\n", (const int32_t[]){7, 8, 3}, 3);
        assert_int_equal(ml_tokenizer_size(t), 9);
        assert_true(ml_tokenizer_is_special(t, 2));
        ml_tokenizer_free(t);
    }
    (void)state;
}

/* A control token that a merge would make stays reachable for merges, and is written as a special one. */
static void added_tokens_in_merges(void **state) {
    static const char *const tokens[] = {"a", "b", "ab", "<x>", "c"};
    static const uint32_t types[] = {1, 1, 4, 3, 1};
    static const char *const merges[] = {"a b"};
    struct gguf_image m = {0};
    (void)state;
    put_head(&m, 3, 0, 8);
    put_key_string(&m, "general.architecture", "llama");
    put_key_string(&m, "tokenizer.ggml.model", "gpt2");
    put_key_string(&m, "tokenizer.ggml.pre", "llama-bpe");
    put_strings(&m, "tokenizer.ggml.tokens", tokens, 5);
    put_types(&m, types, 5);
    put_strings(&m, "tokenizer.ggml.merges", merges, 1);
    put_key_u32(&m, "tokenizer.ggml.bos_token_id", 3);
    put_key_string(&m, "tokenizer.chat_template", "{{ \"\xC3\xA9\" }}");
    struct ml_tokenizer *t = load(write_image(&m));
    expect_ids(t, "cab<x>", (const int32_t[]){3, 4, 2, 3}, 4);
    assert_true(ml_tokenizer_is_special(t, 3));
    assert_false(ml_tokenizer_is_special(t, 2));
    ml_tokenizer_free(t);
}

static void all_pre_tokenizers(void **state) {
    static const char *const names[] = {"default",          "llama-bpe",   "qwen2",     "smollm", "gpt-2",
                                        "deepseek-r1-qwen", "olmo",        "command-r", "phi-2",  "tekken",
                                        "gpt-4o",           "mpt",         "starcoder", "refact", "codeshell",
                                        "deepseek-coder",   "deepseek-v3", "stablelm2", "dbrx",   "smaug-bpe",
                                        "llama3",           "llama-v3",    "falcon3",   "megrez"};
    static const char *const tokens[] = {"a",
                                         "b",
                                         "1",
                                         "2",
                                         "\xC4\xA0",
                                         ("\xC4\xA0"
                                          "a")};
    static const char *const merges[] = {"\xC4\xA0 a"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct gguf_image m = {0};
        put_head(&m, 3, 0, 6);
        put_key_string(&m, "general.architecture", "llama");
        put_key_string(&m, "tokenizer.ggml.model", "gpt2");
        put_key_string(&m, "tokenizer.ggml.pre", names[i]);
        put_strings(&m, "tokenizer.ggml.tokens", tokens, 6);
        put_strings(&m, "tokenizer.ggml.merges", merges, 1);
        put_flag(&m, "tokenizer.ggml.add_bos_token", false);
        struct ml_tokenizer *t = load(write_image(&m));
        expect_ids(t, "ab a12", (const int32_t[]){0, 1, 5, 2, 3}, 5);
        ml_tokenizer_free(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level),
        cmocka_unit_test(sentencepiece),
        cmocka_unit_test(added_tokens_in_merges),
        cmocka_unit_test(all_pre_tokenizers),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
