/* SPDX-License-Identifier: Apache-2.0
 *
 * What files in use hold and this program once refused or misread; right values are those of tokenizers 0.23 and
 * transformers 5.24.
 */
#include "hostile.h"

#include "base/log.h"

#include <unistd.h>

/* ---- a directory of its own ---- */

static char dir[] = "/tmp/marlin-field-XXXXXX";

static const char *in_dir(const char *name) {
    static char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put(const char *name, const char *text) {
    FILE *f = fopen(in_dir(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

static void clear(void) {
    static const char *const all[] = {"tokenizer.json", "tokenizer_config.json", "added_tokens.json",
                                      "special_tokens_map.json"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        (void)unlink(in_dir(all[i]));
}

static int make_dir(void **state) {
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    clear();
    return rmdir(dir);
}

/* letters, with <unk> (0) as its only added token */
static void put_letters(void) {
    clear();
    char *json = compose(letters, letter_merges, "",
                         "\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true}],");
    put("tokenizer.json", json);
    free(json);
}

static struct ml_tokenizer *open_dir(void) {
    struct ml_tokenizer *t = NULL;
    struct marlin_error err = {0};
    if (ml_tokenizer_load(dir, 0, &t, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return t;
}

static void expect_ids(const char *text, const char *wanted) {
    struct ml_tokenizer *t = open_dir();
    assert_ids(t, text, ML_ENCODE_SPECIAL, wanted);
    ml_tokenizer_free(t);
}

static void expect_refusal(marlin_status code, const char *part) {
    struct ml_tokenizer *t = NULL;
    struct marlin_error err = {0};
    assert_error(ml_tokenizer_load(dir, 0, &t, &err), &err, code, part);
}

/* ---- added tokens outside tokenizer.json ---- */

static void added_tokens_decoder(void **state) {
    (void)state;
    put_letters();
    put("tokenizer_config.json",
        "{\"eos_token\":\"<e>\",\"added_tokens_decoder\":{\"7\":{\"content\":\"<e>\",\"special\":true},"
        "\"8\":{\"content\":\"<p>\",\"lstrip\":true,\"rstrip\":true,\"special\":false,\"normalized\":false},"
        "\"9\":{\"content\":\"x\",\"single_word\":true,\"special\":true}}}");
    struct ml_tokenizer *t = open_dir();
    assert_ids(t, "a<e>b", ML_ENCODE_SPECIAL, "1 7 2");
    assert_ids(t, "a  <p> b", ML_ENCODE_SPECIAL, "1 8 2");
    assert_ids(t, "x ax x", ML_ENCODE_SPECIAL, "9 3 1 3 9"); /* x alone is no letter of the vocabulary */
    assert_ids(t, "a<e>b", 0, "6"); /* typed text is text, of which a and b are known */
    assert_ids(t, "a <p>", 0, "1 8");
    assert_true(ml_tokenizer_is_special(t, 7) && !ml_tokenizer_is_special(t, 8));
    assert_int_equal(ml_tokenizer_size(t), 10);
    assert_decodes(t, (const int32_t[]){1, 7, 8}, 3, "a <e> <p>");
    ml_tokenizer_free(t);
}

static void added_tokens_json(void **state) {
    (void)state;
    put_letters();
    put("added_tokens.json", "{\"<|im_end|>\":7,\"<|im_start|>\":8}");
    expect_ids("<|im_start|>a<|im_end|>", "8 1 7");
    struct ml_tokenizer *t = open_dir();
    assert_false(ml_tokenizer_is_special(t, 7));
    ml_tokenizer_free(t);
    put("special_tokens_map.json", "{\"eos_token\":{\"content\":\"<|im_end|>\"},\"pad_token\":\"<pad>\"}");
    t = open_dir();
    assert_true(ml_tokenizer_is_special(t, 7) && !ml_tokenizer_is_special(t, 8));
    assert_int_equal(ml_tokenizer_find(t, "<pad>"), 9); /* numbered nowhere: the next id */
    assert_ids(t, "a<pad>", ML_ENCODE_SPECIAL, "1 9");
    ml_tokenizer_free(t);
}

static void named_tokens(void **state) {
    (void)state;
    put_letters();
    put("tokenizer_config.json",
        "{\"unk_token\":\"<unk>\",\"bos_token\":null,\"pad_token\":\"ab\",\"sep_token\":{\"content\":\"<s>\","
        "\"rstrip\":true},"
        "\"additional_special_tokens\":[\"<x>\",{\"content\":\"<y>\",\"special\":true}],"
        "\"extra_special_tokens\":{\"image_token\":\"<z>\"}}");
    struct ml_tokenizer *t = open_dir();
    assert_int_equal(ml_tokenizer_size(t), 11);
    assert_ids(t, "<s> a<x><y><z>", ML_ENCODE_SPECIAL, "7 1 8 9 10");
    assert_ids(t, "aab", ML_ENCODE_SPECIAL,
               "1 6"); /* "ab" is a token of its own before merges are looked at */
    assert_ids(t, "aab", 0, "4 2");
    assert_true(ml_tokenizer_is_special(t, 6));
    ml_tokenizer_free(t);
}

static void count(void *user, enum ml_log_level level, const char *text) {
    (void)level;
    assert_non_null(strstr(text, "added token \"<e>\" is left out: its id 5 is \"aaaa\""));
    ++*(int *)user;
}

static void contradictions(void **state) {
    (void)state;
    int warnings = 0;
    put_letters();
    put("added_tokens.json", "{\"<e>\":5,\"a\":9}"); /* the vocabulary's id of "a" counts */
    ml_log_set(count, &warnings, ML_LOG_WARN);
    expect_ids("a<e>a", "1 1");
    ml_log_set(NULL, NULL, ML_LOG_WARN);
    assert_int_equal(warnings, 1);
    put("added_tokens.json", "{\"<e>\":-1}");
    expect_refusal(MARLIN_ERR_FORMAT, "added_tokens.json: id of \"<e>\" must be an integer");
    put("added_tokens.json", "{\"<e>\":4194304}");
    expect_refusal(MARLIN_ERR_LIMIT, "id 4194304 of \"<e>\" is above the ceiling");
    put("added_tokens.json", "{\"<e>\":7");
    expect_refusal(MARLIN_ERR_FORMAT, "added_tokens.json");
    clear();
    put_letters();
    put("tokenizer_config.json", "{\"added_tokens_decoder\":{\"7x\":{\"content\":\"<e>\"}}}");
    expect_refusal(MARLIN_ERR_FORMAT, "added_tokens_decoder: \"7x\" is no id");
    put("tokenizer_config.json", "{\"added_tokens_decoder\":{\"7\":{\"content\":\"<e>\",\"special\":1}}}");
    expect_refusal(MARLIN_ERR_FORMAT, "\"special\" must be true or false");
    put("tokenizer_config.json", "{\"pad_token\":\"\",\"eos_token\":7,\"extra_special_tokens\":[null]}");
    expect_ids("a", "1"); /* nothing is named */
}

/* ---- unigram in tokenizer.json ---- */

static struct ml_tokenizer *unigram(const char *vocab, const char *model, const char *rest) {
    char json[2048];
    struct ml_tokenizer *t = NULL;
    struct marlin_error err = {0};
    (void)snprintf(json, sizeof json, "{%s\"model\":{\"type\":\"Unigram\",%s\"vocab\":%s}}", rest, model,
                   vocab);
    if (ml_tokenizer_from_json(json, strlen(json), 0, &t, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return t;
}

static void refuse_unigram(const char *vocab, const char *model, marlin_status code, const char *part) {
    char json[1024];
    struct ml_tokenizer *t = NULL;
    struct marlin_error err = {0};
    (void)snprintf(json, sizeof json, "{\"model\":{\"type\":\"Unigram\",%s\"vocab\":%s}}", model, vocab);
    assert_error(ml_tokenizer_from_json(json, strlen(json), 0, &t, &err), &err, code, part);
}

static const char spaces[] =
    "\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true}],"
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\",\"prepend_scheme\":"
    "\"always\",\"split\":true},\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\","
    "\"prepend_scheme\":\"always\",\"split\":true},";
static const char scored[] =
    "[[\"<unk>\",0],[\"<s>\",0],[\"</s>\",0.0],[\"\\u2581\",-2],[\"a\",-3],[\"b\",-3.5],"
    "[\"\\u2581ab\",-4]]";

static void unigram_pieces(void **state) {
    (void)state;
    struct ml_tokenizer *t = unigram(scored, "\"unk_id\":0,", spaces);
    assert_ids(t, "ab b a", ML_ENCODE_SPECIAL, "6 3 5 3 4");
    assert_ids(t, "axyb zz", ML_ENCODE_SPECIAL,
               "3 4 0 5 3 0"); /* neighbours outside the vocabulary are one */
    assert_ids(t, "a<s>b", ML_ENCODE_SPECIAL, "3 4 1 3 5");
    assert_ids(t, "a<s>b", 0, "3 4 0 5"); /* text does not become a special token */
    assert_decodes(t, (const int32_t[]){6, 3, 5}, 3, "ab b");
    ml_tokenizer_free(t);
}

static void unigram_bytes(void **state) {
    (void)state;
    static const char bytes[] = "[[\"<unk>\",0],[\"a\",-1],[\"<0xC3>\",-9],[\"<0xA9>\",-9]]";
    struct ml_tokenizer *t = unigram(bytes, "\"unk_id\":0,\"byte_fallback\":true,", "");
    assert_ids(t,
               "a\xc3\xa9"
               "a\xc3\xa8",
               0, "1 2 3 1 0");
    ml_tokenizer_free(t);
}

static void unigram_without_unknown(void **state) {
    (void)state;
    struct ml_tokenizer *t = unigram("[[\"a\",-1]]", "\"unk_id\":null,", "");
    struct ml_ids ids = {0};
    struct marlin_error err = {0};
    assert_ids(t, "aa", 0, "0 0");
    assert_error(ml_tokenizer_encode(t, "ab", 2, 0, &ids, &err), &err, MARLIN_ERR_FORMAT,
                 "\"b\" is not in the vocabulary, and there is no unknown token");
    ml_ids_free(&ids);
    ml_tokenizer_free(t);
    refuse_unigram("{\"a\":1}", "", MARLIN_ERR_FORMAT, "\"vocab\" must be an array with entries");
    refuse_unigram("[]", "", MARLIN_ERR_FORMAT, "\"vocab\" must be an array with entries");
    refuse_unigram("[[\"a\"]]", "", MARLIN_ERR_FORMAT, "entry 0 must be a piece and its score");
    refuse_unigram("[[\"a\",NaN]]", "", MARLIN_ERR_FORMAT, "entry 0 must be a piece and its score");
    refuse_unigram("[[\"a\",-1],[\"a\",-2]]", "", MARLIN_ERR_FORMAT, "piece \"a\" appears twice");
    refuse_unigram("[[\"a\",-1]]", "\"unk_id\":1,", MARLIN_ERR_FORMAT, "\"unk_id\" is no id");
}

/* Doubles decide where floats tie. */
static void unigram_doubles(void **state) {
    (void)state;
    struct ml_tokenizer *t =
        unigram("[[\"<unk>\",-99],[\"a\",-1],[\"b\",-1],[\"ab\",-2.0000000001],[\"ba\",-1.9999999999]]",
                "\"unk_id\":0,", "");
    assert_ids(t, "ab", 0, "1 2");
    assert_ids(t, "ba", 0, "4");
    ml_tokenizer_free(t);
}

/* ---- parts of tokenizer.json ---- */

static void nul_in_a_vocabulary(void **state) {
    (void)state;
    struct ml_tokenizer *t =
        load("{\"a\":0,\"b\":1,\"\\u0000\":2,\"a\\u0000\":3}", "[[\"a\",\"\\u0000\"]]", "",
             "\"added_tokens\":[{\"id\":4,\"content\":\"<\\u0000>\",\"special\":true}],");
    struct ml_ids ids = encode(t, "b\0a\0<\0>", 7, ML_ENCODE_SPECIAL);
    const int32_t wanted[] = {1, 2, 3, 4};
    assert_int_equal(ids.n, 4);
    assert_memory_equal(ids.id, wanted, sizeof wanted);
    ml_ids_free(&ids);
    ml_tokenizer_free(t);
}

static void added_token_twice(void **state) {
    (void)state;
    struct ml_tokenizer *t = load(letters, letter_merges, "",
                                  "\"added_tokens\":[{\"id\":7,\"content\":\"<x>\",\"special\":false},"
                                  "{\"id\":7,\"content\":\"<x>\",\"special\":true,\"lstrip\":true}],");
    assert_ids(t, "a <x>b", 0, "1 3 7 2");      /* the first of them counts, */
    assert_true(ml_tokenizer_is_special(t, 7)); /* but in a text given out it is special */
    ml_tokenizer_free(t);
    refuse(letters, letter_merges, "",
           "\"added_tokens\":[{\"id\":7,\"content\":\"x\"},{\"id\":8,\"content\":\"x\"}],", MARLIN_ERR_FORMAT,
           "\"x\" appears twice");
}

static void cls_and_sep(void **state) {
    static const char *const types[] = {"RobertaProcessing", "BertProcessing"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        char rest[256];
        (void)snprintf(rest, sizeof rest,
                       "\"post_processor\":{\"type\":\"%s\",\"sep\":[\"b\",2],\"cls\":[\"<unk>\",0]},",
                       types[i]);
        struct ml_tokenizer *t = load(letters, letter_merges, "", rest);
        assert_ids(t, "a", ML_ENCODE_BOS, "0 1 2");
        assert_ids(t, "a", 0, "1");
        ml_tokenizer_free(t);
        (void)snprintf(rest, sizeof rest,
                       "\"post_processor\":{\"type\":\"%s\",\"sep\":[\"b\",2],\"cls\":[\"c\",9]},", types[i]);
        refuse(letters, letter_merges, "", rest, MARLIN_ERR_FORMAT, "\"cls\" must be a token with its id");
    }
}

static void unknown_token_that_is_nowhere(void **state) {
    (void)state;
    struct ml_tokenizer *t = load(letters, letter_merges, "\"unk_token\":\"<nope>\",", "");
    struct ml_ids ids = {0};
    struct marlin_error err = {0};
    assert_ids(t, "ab", 0, "6");
    assert_error(ml_tokenizer_encode(t, "a\xc3\xa9", 3, 0, &ids, &err), &err, MARLIN_ERR_FORMAT,
                 "\"\xc3\xa9\" is not in the vocabulary, and there is no unknown token <nope>");
    ml_ids_free(&ids);
    ml_tokenizer_free(t);
}

static void bytes_as_a_normalizer(void **state) {
    (void)state;
    struct ml_tokenizer *t =
        load("{\"a\":0,\"\\u0120\":1,\"\\u00c3\":2,\"\\u00a9\":3}", "[]", "",
             "\"normalizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"},");
    assert_ids(t, "a \xc3\xa9", 0, "0 1 2 3");
    assert_decodes(t, (const int32_t[]){0, 1, 2, 3}, 4, "a \xc3\xa9");
    ml_tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(added_tokens_decoder),
        cmocka_unit_test(added_tokens_json),
        cmocka_unit_test(named_tokens),
        cmocka_unit_test(contradictions),
        cmocka_unit_test(unigram_pieces),
        cmocka_unit_test(unigram_bytes),
        cmocka_unit_test(unigram_without_unknown),
        cmocka_unit_test(unigram_doubles),
        cmocka_unit_test(nul_in_a_vocabulary),
        cmocka_unit_test(added_token_twice),
        cmocka_unit_test(cls_and_sep),
        cmocka_unit_test(unknown_token_that_is_nowhere),
        cmocka_unit_test(bytes_as_a_normalizer),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
