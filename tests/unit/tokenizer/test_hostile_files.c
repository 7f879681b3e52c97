/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokenizer files that are broken or mean harm: hostile inputs 18 to 22. Every one ends in an error that
 * names the entry, or in a tokenizer that does the right thing.
 */
#include "hostile.h"

#include "base/log.h"
#include "base/mem.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- 18: vocabulary ---- */

static void ids_out_of_range(void **state) {
    (void)state;
    refuse("{\"a\":-1}", "[]", "", "", MARLIN_ERR_FORMAT, "id -1 of \"a\" is outside 0..2^31-1");
    refuse("{\"a\":2147483648}", "[]", "", "", MARLIN_ERR_FORMAT, "id 2147483648 of \"a\" is outside");
    refuse("{\"a\":99999999999999999999}", "[]", "", "", MARLIN_ERR_FORMAT, "id of \"a\" must be an integer");
    refuse("{\"a\":1.0}", "[]", "", "", MARLIN_ERR_FORMAT, "id of \"a\" must be an integer");
    refuse("{\"a\":\"1\"}", "[]", "", "", MARLIN_ERR_FORMAT, "id of \"a\" must be an integer");
    refuse("{\"a\":2147483647}", "[]", "", "", MARLIN_ERR_LIMIT,
           "id 2147483647 of \"a\" is above the ceiling");
    refuse(letters, "[]", "", "\"added_tokens\":[{\"id\":4194304,\"content\":\"<x>\"}],", MARLIN_ERR_LIMIT,
           "id 4194304 of \"<x>\" is above the ceiling");
}

static void count_warnings(void *user, enum ml_log_level level, const char *text) {
    (void)level;
    assert_non_null(strstr(text, "have no row in the embedding table of 4 rows"));
    ++*(int *)user;
}

/* Added tokens behind the table's end are common and harmless; ordinary ones are a hint at another model's file. */
static void ids_without_a_row(void **state) {
    static const char *const vocabularies[] = {"{\"a\":0,\"b\":3}", "{\"a\":0,\"b\":4}"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        char *json = compose(vocabularies[i], "[]", "", "\"added_tokens\":[{\"id\":9,\"content\":\"<x>\"}],");
        struct ml_tokenizer *t = NULL;
        int warnings = 0;
        ml_log_set(count_warnings, &warnings, ML_LOG_WARN);
        assert_int_equal(ml_tokenizer_from_json(json, strlen(json), 4, &t, NULL), MARLIN_OK);
        ml_log_set(NULL, NULL, ML_LOG_WARN);
        assert_int_equal(warnings, i);
        assert_ids(t, "a<x>b", ML_ENCODE_SPECIAL, i ? "0 9 4" : "0 9 3");
        ml_tokenizer_free(t);
        free(json);
    }
}

static void ids_twice_and_holes(void **state) {
    (void)state;
    refuse("{\"a\":3,\"b\":3}", "[]", "", "", MARLIN_ERR_FORMAT, "id 3 belongs to both \"a\" and \"b\"");
    refuse("{\"a\":3,\"a\":4}", "[]", "", "", MARLIN_ERR_FORMAT, "duplicate key \"a\"");
    refuse("{}", "[]", "", "", MARLIN_ERR_FORMAT, "\"vocab\" must be an object with entries");
    refuse("[\"a\"]", "[]", "", "", MARLIN_ERR_FORMAT, "\"vocab\" must be an object with entries");
    struct ml_tokenizer *t = load("{\"a\":0,\"b\":5}", "[]", "", "");
    const int32_t hole[] = {0, 3, 5};
    assert_int_equal(ml_tokenizer_size(t), 6);
    assert_null(ml_tokenizer_piece(t, 3, NULL));
    assert_decodes(t, hole, 3, "a b");
    assert_ids(t, "ab", 0, "0 5");
    ml_tokenizer_free(t);
}

static void write_sparse(const char *dir, const char *name, off_t size, char path[512]) {
    (void)snprintf(path, 512, "%s/%s", dir, name);
    const int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    assert_int_equal(close(fd), 0);
}

/* The ceiling is looked at before anything is read: a sparse file shows it. */
static void half_a_gigabyte(void **state) {
    static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
    char dir[] = "/tmp/marlin-tok-XXXXXX", path[512];
    (void)state;
    assert_non_null(mkdtemp(dir));
    for (size_t i = 0; i < 2; i++) {
        struct ml_tokenizer *t = NULL;
        struct marlin_error err = {0};
        write_sparse(dir, names[i], (off_t)500 << 20, path);
        const double start = cpu_seconds();
        const marlin_status st = ml_tokenizer_load(dir, 0, &t, &err);
        assert_true(cpu_seconds() - start < 0.5);
        assert_error(st, &err, MARLIN_ERR_LIMIT, path);
        assert_int_equal(unlink(path), 0);
    }
    write_sparse(dir, "tokenizer.json", 0, path);
    struct ml_tokenizer *t = NULL;
    struct marlin_error err = {0};
    assert_error(ml_tokenizer_load(dir, 0, &t, &err), &err, MARLIN_ERR_FORMAT, path);
    assert_non_null(strstr(err.text, "(offset 0)"));
    assert_int_equal(unlink(path), 0);
    assert_error(ml_tokenizer_load(dir, 0, &t, &err), &err, MARLIN_ERR_NOT_FOUND, dir);
    assert_int_equal(rmdir(dir), 0);
}

/* ---- 19: merges ---- */

static void broken_merges(void **state) {
    (void)state;
    refuse(letters, "[[\"a\",\"x\"]]", "", "", MARLIN_ERR_FORMAT, "merge 0: \"x\" is not in the vocabulary");
    refuse(letters, "[[\"a\",\"a\"],[\"b\",\"a\"]]", "", "", MARLIN_ERR_FORMAT,
           "merge 1: the result \"ba\" is not in the vocabulary");
    refuse(letters, "[[\"a\",\"\"]]", "", "", MARLIN_ERR_FORMAT, "merge 0: a part is empty");
    refuse(letters, "[\" a\"]", "", "", MARLIN_ERR_FORMAT, "merge 0: a part is empty");
    refuse(letters, "[\"a\"]", "", "", MARLIN_ERR_FORMAT,
           "merge 0: must be two pieces with one space between");
    refuse(letters, "[\"a a a\"]", "", "", MARLIN_ERR_FORMAT, "merge 0: must be two pieces");
    refuse(letters, "[[\"a\"]]", "", "", MARLIN_ERR_FORMAT, "merge 0: must be a pair of strings");
    refuse(letters, "[[\"a\",\"a\",\"a\"]]", "", "", MARLIN_ERR_FORMAT, "merge 0: must be a pair of strings");
    refuse(letters, "[[1,2]]", "", "", MARLIN_ERR_FORMAT, "merge 0: must be a pair of strings");
    refuse(letters, "[null]", "", "", MARLIN_ERR_FORMAT, "merge 0: must be a pair of strings");
    refuse(letters, "{}", "", "", MARLIN_ERR_FORMAT, "\"merges\" must be an array");
}

/* Merges that lead to one piece by several ways, and through one another. */
static void merges_in_circles(void **state) {
    (void)state;
    struct ml_tokenizer *t = load("{\"a\":0,\"aa\":1,\"aaa\":2,\"aaaa\":3}",
                                  "[[\"aa\",\"a\"],[\"a\",\"aa\"],[\"aaa\",\"a\"],[\"a\",\"a\"],"
                                  "[\"aa\",\"aa\"],[\"a\",\"a\"],[\"aa\",\"a\"]]",
                                  "", "");
    assert_ids(t, "a", 0, "0");
    assert_ids(t, "aa", 0, "1");
    size_t len;
    char *text = repeat("a", 100000, &len);
    struct ml_ids ids = encode(t, text, len, 0);
    assert_true(ids.n <= len / 2);
    size_t letters_back = 0;
    for (size_t i = 0; i < ids.n; i++) {
        letters_back += (size_t)ids.id[i] + 1;
    }
    assert_int_equal(letters_back, len);
    ml_ids_free(&ids);
    free(text);
    ml_tokenizer_free(t);
}

/* Ten million merges pass the ceiling of values, long before they could use up the memory. */
static void ten_million_merges(void **state) {
    size_t len;
    char *list = repeat("\"a a\",", 60000000, &len);
    struct ml_tokenizer *t = NULL;
    struct marlin_error err = {0};
    (void)state;
    memcpy(list, "[0   ,", 6); /* in the place of the first and the last of ten million */
    memcpy(list + len - 6, "0    ]", 6);
    char *json = compose(letters, list, "", "");
    free(list);
    const double start = cpu_seconds();
    const marlin_status st = ml_tokenizer_from_json(json, strlen(json), 0, &t, &err);
    assert_true(cpu_seconds() - start < 20);
    free(json);
    assert_error(st, &err, MARLIN_ERR_LIMIT, "JSON: more than");
}

/* ---- 20: byte tokens ---- */

static void byte_tokens(void **state) {
    (void)state;
    struct ml_tokenizer *t = load(
        "{\"<unk>\":0,\"<0x-1>\":1,\"<0xZZ>\":2,\"<0x100>\":3,\"<0x4>\":4,\"<0x41>\":5,"
        "\"<0xC3>\":6,\"<0xc4>\":7}",
        "[]", "\"byte_fallback\":true,\"unk_token\":\"<unk>\",", "\"decoder\":{\"type\":\"ByteFallback\"},");
    const int32_t ids[] = {1, 2, 3, 4, 5, 6, 7};
    assert_decodes(t, ids, 7, "<0x-1><0xZZ><0x100><0x4>A\xc3\xc4");
    assert_ids(t, "A", 0, "5");
    assert_ids(t, "\xc3\xa9", 0, "0"); /* the byte A9 is missing: all of the character is unknown */
    assert_ids(t, "\xc4\x80", 0, "0"); /* lower-case digits are for decoding alone */
    ml_tokenizer_free(t);
}

/* ---- 21: regular expressions ---- */

static void refuse_pattern(const char *pattern, marlin_status code, const char *part) {
    char rest[12000];
    (void)snprintf(
        rest, sizeof rest,
        "\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"%s\"}},",
        pattern);
    refuse(letters, "[]", "", rest, code, part);
}

static void broken_patterns(void **state) {
    (void)state;
    refuse_pattern("a{1,1000000000}", MARLIN_ERR_FORMAT, "regular expression a{1,1000000000}");
    refuse_pattern("(?<=a*)b", MARLIN_ERR_FORMAT, "lookbehind");
    refuse_pattern("[z-a]", MARLIN_ERR_FORMAT, "range out of order");
    refuse_pattern("[a", MARLIN_ERR_FORMAT, "an unclosed class at offset 0");
    refuse_pattern("(a", MARLIN_ERR_FORMAT, "regular expression (a");
    refuse_pattern("*a", MARLIN_ERR_FORMAT, "regular expression *a");
    refuse_pattern("\\\\p{Nope}", MARLIN_ERR_FORMAT, "regular expression");
    refuse_pattern("\\\\p{L", MARLIN_ERR_UNSUPPORTED, "an unclosed property");
    refuse_pattern("a\\\\", MARLIN_ERR_UNSUPPORTED, "a backslash at the end");
    refuse_pattern("[a[b]", MARLIN_ERR_FORMAT, "an unclosed class at offset 0");
    refuse_pattern("[a-", MARLIN_ERR_FORMAT, "an unclosed class at offset 0");
    refuse_pattern("[&&a]", MARLIN_ERR_UNSUPPORTED, "an intersection with nothing at offset 1");
    refuse_pattern("[a&&]", MARLIN_ERR_UNSUPPORTED, "an intersection with nothing");
    refuse_pattern("[a-[b]]", MARLIN_ERR_UNSUPPORTED, "a range that ends in a class");
    refuse_pattern("[a-\\\\d]", MARLIN_ERR_UNSUPPORTED, "a range that ends in a class");
    refuse_pattern("[[:vowel:]]", MARLIN_ERR_UNSUPPORTED, "a POSIX bracket of this name at offset 1");
    refuse_pattern("a(?i)b|c", MARLIN_ERR_UNSUPPORTED,
                   "an option in the middle of an alternative at offset 1");
    refuse_pattern("(?W:a)", MARLIN_ERR_UNSUPPORTED, "a special group at offset 0");
    refuse_pattern("a{2}?", MARLIN_ERR_UNSUPPORTED, "an interval of one number followed by ? at offset 1");
    refuse_pattern("a(?R)b", MARLIN_ERR_UNSUPPORTED, "a special group at offset 1");
    refuse_pattern("(*FAIL)", MARLIN_ERR_UNSUPPORTED, "a special group at offset 0");
    refuse_pattern("a{,2}", MARLIN_ERR_UNSUPPORTED, "an interval without a lower bound at offset 1");
    refuse_pattern("a{1,2}+", MARLIN_ERR_UNSUPPORTED, "an interval followed by + at offset 1");
    refuse_pattern("a\\\\Kb", MARLIN_ERR_UNSUPPORTED, "\\K at offset 1");
    refuse_pattern("((a{1,1000}){1,1000}){1,1000}", MARLIN_ERR_FORMAT, "too large");
    size_t len;
    char *deep = repeat("(", 4000, &len), *close = repeat(")", 4000, &len), both[8001];
    (void)snprintf(both, sizeof both, "%s%s", deep, close);
    refuse_pattern(both, MARLIN_ERR_FORMAT, "regular expression");
    free(deep);
    free(close);
    char *lengthy = repeat("a", 9000, &len);
    refuse_pattern(lengthy, MARLIN_ERR_LIMIT, "regular expression of 9000 bytes");
    free(lengthy);
}

/* Patterns whose backtracking is exponential or cubic: an error or the right pieces, soon. */
static void catastrophic_patterns(void **state) {
    static const char *const patterns[] = {"(a+)+$",
                                           "(a|aa)+$",
                                           "(a*)*b",
                                           "(?:a?){30}a{30}c",
                                           "(?=(a+)+c)a|a",
                                           "a*b|a",
                                           "(?:a{0,15}){0,3}b|a",
                                           "(.*)*x\\\\d"};
    static const size_t lengths[] = {30, 1000, 100000};
    (void)state;
    for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
        char rest[512];
        (void)snprintf(rest, sizeof rest,
                       "\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":"
                       "{\"Regex\":\"%s\"}},",
                       patterns[p]);
        struct ml_tokenizer *t = load(letters, letter_merges, "", rest);
        for (size_t l = 0; l < 3; l++) {
            size_t len;
            char *text = repeat("a", lengths[l], &len);
            text[len - 1] = '!';
            struct ml_ids ids = {0};
            struct marlin_error err = {0};
            const double start = cpu_seconds();
            const marlin_status st = ml_tokenizer_encode(t, text, len, 0, &ids, &err);
            assert_true(cpu_seconds() - start < 10);
            if (st != MARLIN_OK) assert_error(st, &err, MARLIN_ERR_LIMIT, "backtracks too much on this text");
            ml_ids_free(&ids);
            free(text);
        }
        ml_tokenizer_free(t);
    }
}

/* ---- steps that multiply the text ---- */

static void refuse_text(const struct ml_tokenizer *t, size_t n, const char *part) {
    size_t len;
    char *text = repeat("\xc3\xa9", n, &len);
    struct ml_ids ids = {0};
    struct marlin_error err = {0};
    const double start = cpu_seconds();
    const marlin_status st = ml_tokenizer_encode(t, text, len, 0, &ids, &err);
    assert_true(cpu_seconds() - start < 10);
    assert_int_equal(ids.n, 0);
    free(text);
    assert_error(st, &err, MARLIN_ERR_LIMIT, part);
}

static void steps_that_multiply(void **state) {
    static const char bytes[] = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}";
    char rest[4096] = "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[";
    (void)state;
    for (int i = 0; i < 16; i++) {
        (void)snprintf(rest + strlen(rest), sizeof rest - strlen(rest), "%s%s", i ? "," : "", bytes);
    }
    (void)snprintf(rest + strlen(rest), sizeof rest - strlen(rest), "]},");
    struct ml_tokenizer *t = load(letters, letter_merges, "", rest);
    refuse_text(t, 100000, "make too much of this text");
    ml_tokenizer_free(t);
    t = load(letters, letter_merges, "",
             "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":["
             "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\".\"},\"content\":"
             "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"},"
             "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":"
             "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}"
             "]},");
    refuse_text(t, 100000, "normalized text passes the ceiling");
    ml_tokenizer_free(t);
}

/* A decoder that would make ten thousand tokens of a megabyte each. */
static void tokens_that_grow(void **state) {
    size_t len;
    char *piece = repeat("a", 1000, &len), *content = repeat("b", 1000, &len);
    char *vocab = malloc(12000000), *rest = malloc(4000);
    size_t at = 0;
    (void)state;
    assert_true(vocab && rest);
    for (int i = 0; i < 10000; i++) {
        at += (size_t)snprintf(vocab + at, 12000000 - at, "%s\"%s%d\":%d", i ? "," : "{", piece, i, i);
    }
    (void)snprintf(vocab + at, 12000000 - at, "}");
    (void)snprintf(rest, 4000,
                   "\"decoder\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"%s\"},",
                   content);
    refuse(vocab, "[]", "", rest, MARLIN_ERR_LIMIT, "decoder: the tokens become too long");
    free(piece);
    free(content);
    free(vocab);
    free(rest);
}

/* ---- 22: added tokens ---- */

static void refuse_added(const char *list, marlin_status code, const char *part) {
    char rest[512];
    (void)snprintf(rest, sizeof rest, "\"added_tokens\":%s,", list);
    refuse(letters, letter_merges, "", rest, code, part);
}

static void broken_added_tokens(void **state) {
    (void)state;
    refuse_added("[{\"id\":9,\"content\":\"\"}]", MARLIN_ERR_FORMAT, "added token 0: its content is empty");
    refuse_added("[{\"id\":9}]", MARLIN_ERR_FORMAT, "added token 0: \"id\" and \"content\" are needed");
    refuse_added("[7]", MARLIN_ERR_FORMAT, "added token 0: \"id\" and \"content\" are needed");
    refuse_added("7", MARLIN_ERR_FORMAT, "\"added_tokens\" must be an array");
    refuse_added("[{\"id\":-1,\"content\":\"x\"}]", MARLIN_ERR_FORMAT, "id -1 of \"x\" is outside");
    refuse_added("[{\"id\":9,\"content\":\"x\xffy\"}]", MARLIN_ERR_FORMAT, "invalid UTF-8");
    refuse_added("[{\"id\":9,\"content\":\"\\ud800\"}]", MARLIN_ERR_FORMAT, "lone surrogate");
    refuse_added("[{\"id\":9,\"content\":\"x\"},{\"id\":9,\"content\":\"y\"}]", MARLIN_ERR_FORMAT,
                 "id 9 belongs to both \"x\" and \"y\"");
    refuse_added("[{\"id\":9,\"content\":\"x\"},{\"id\":10,\"content\":\"x\"}]", MARLIN_ERR_FORMAT,
                 "added token \"x\" appears twice");
    refuse_added("[{\"id\":9,\"content\":\"a\"}]", MARLIN_ERR_FORMAT,
                 "added token \"a\" has id 9, the vocabulary says 1");
    refuse_added("[{\"id\":1,\"content\":\"x\"}]", MARLIN_ERR_FORMAT, "its id 1 is \"a\" in the vocabulary");
    refuse_added("[{\"id\":9,\"content\":\"x\",\"lstrip\":1}]", MARLIN_ERR_FORMAT,
                 "\"lstrip\" must be true or false");
    size_t len;
    char *lengthy = repeat("x", 65536, &len), *rest = malloc(70000);
    assert_non_null(rest);
    (void)snprintf(rest, 70000, "\"added_tokens\":[{\"id\":9,\"content\":\"%s\"}],", lengthy);
    refuse(letters, letter_merges, "", rest, MARLIN_ERR_LIMIT,
           "added token 0: 65536 bytes, the ceiling is 4096");
    free(lengthy);
    free(rest);
}

/* "a", "aa", ... "a" * 2000: the longest at each place, in time that does not multiply with their number. */
static void overlapping_added_tokens(void **state) {
    enum { N = 2000 };
    char *rest = malloc((size_t)N * (N + 40) + 100);
    size_t at, len;
    (void)state;
    assert_non_null(rest);
    at = (size_t)snprintf(rest, 64, "\"added_tokens\":[");
    for (int i = 1; i <= N; i++) {
        at += (size_t)snprintf(rest + at, 64, "%s{\"id\":%d,\"content\":\"", i > 1 ? "," : "", i + 10);
        memset(rest + at, 'x', (size_t)i);
        at += (size_t)i;
        at += (size_t)snprintf(rest + at, 64, "\"}");
    }
    (void)snprintf(rest + at, 64, "],");
    struct ml_tokenizer *t = load(letters, letter_merges, "", rest);
    free(rest);
    char *text = repeat("x", 1000000, &len);
    const double start = cpu_seconds();
    struct ml_ids ids = encode(t, text, len, 0);
    assert_true(cpu_seconds() - start < 5);
    assert_int_equal(ids.n, 1000000 / N);
    for (size_t i = 0; i < ids.n; i++) {
        assert_int_equal(ids.id[i], N + 10);
    }
    ml_ids_free(&ids);
    text[999] = 'y';
    ids = encode(t, text, 1500, 0);
    assert_int_equal(ids.n, 2); /* "y" is not in the vocabulary, and there is no unknown token */
    assert_int_equal(ids.id[0], 999 + 10);
    assert_int_equal(ids.id[1], 500 + 10);
    ml_ids_free(&ids);
    free(text);
    ml_tokenizer_free(t);
}

static void a_hundred_thousand_added_tokens(void **state) {
    enum { N = 100000 };
    char *rest = malloc((size_t)N * 64 + 100);
    size_t at = 0;
    (void)state;
    assert_non_null(rest);
    at += (size_t)snprintf(rest, 64, "\"normalizer\":{\"type\":\"NFKC\"},\"added_tokens\":[");
    for (int i = 0; i < N; i++) {
        at += (size_t)snprintf(rest + at, 64, "%s{\"id\":%d,\"content\":\"<%d>\",\"normalized\":%s}",
                               i ? "," : "", i + 10, i, i % 2 ? "true" : "false");
    }
    (void)snprintf(rest + at, 64, "],");
    const double start = cpu_seconds();
    struct ml_tokenizer *t = load(letters, letter_merges, "", rest);
    assert_true(cpu_seconds() - start < 10);
    assert_ids(t, "<0>a<99999><100000", 0, "10 1 100009");
    ml_tokenizer_free(t);
    free(rest);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_out_of_range),
        cmocka_unit_test(ids_without_a_row),
        cmocka_unit_test(ids_twice_and_holes),
        cmocka_unit_test(half_a_gigabyte),
        cmocka_unit_test(broken_merges),
        cmocka_unit_test(merges_in_circles),
        cmocka_unit_test(ten_million_merges),
        cmocka_unit_test(byte_tokens),
        cmocka_unit_test(broken_patterns),
        cmocka_unit_test(catastrophic_patterns),
        cmocka_unit_test(steps_that_multiply),
        cmocka_unit_test(tokens_that_grow),
        cmocka_unit_test(broken_added_tokens),
        cmocka_unit_test(overlapping_added_tokens),
        cmocka_unit_test(a_hundred_thousand_added_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
