/* SPDX-License-Identifier: Apache-2.0
 *
 * Texts and ids that mean harm, on sound tokenizers: hostile inputs 23, 24 and 27. Times are bounds that
 * quadratic work would pass a thousandfold.
 */
#include "hostile.h"

#include "vectors.h"

static struct ml_tokenizer *embedded(void) {
    struct ml_tokenizer *t = NULL;
    struct marlin_error err = {0};
    if (ml_tokenizer_load(MARLIN_SOURCE_DIR "/models/marlin-chat", 0, &t, &err) != MARLIN_OK)
        fail_msg("%s", err.text);
    return t;
}

static struct ml_tokenizer *sentencepiece(const char *name) {
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/tests/golden/tokenizer/%s.model", MARLIN_SOURCE_DIR, name);
    const struct bytes file = read_all(path);
    struct ml_tokenizer *t = NULL;
    struct marlin_error err = {0};
    assert_non_null(file.data);
    if (ml_tokenizer_from_sentencepiece(file.data, file.len, 0, &t, &err) != MARLIN_OK)
        fail_msg("%s", err.text);
    free(file.data);
    return t;
}

/* Llama 2's shape: no pre-tokenizer, so that a whole text is one word. */
static struct ml_tokenizer *one_word(void) {
    return load(
        letters, letter_merges, "\"unk_token\":\"<unk>\",\"fuse_unk\":true,",
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\" \"},"
        "{\"type\":\"NFKC\"}]},");
}

struct family {
    const char *name;
    struct ml_tokenizer *t;
};

static struct family families[5];

static int make_families(void **state) {
    (void)state;
    families[0] = (struct family){"marlin-chat", embedded()};
    families[1] = (struct family){"bpe", sentencepiece("bpe")};
    families[2] = (struct family){"unigram", sentencepiece("unigram")};
    families[3] = (struct family){"unigram-byte", sentencepiece("unigram-byte")};
    families[4] = (struct family){"one word", one_word()};
    return 0;
}

static int free_families(void **state) {
    (void)state;
    for (size_t i = 0; i < 5; i++) {
        ml_tokenizer_free(families[i].t);
    }
    return 0;
}

/* Encodes and decodes; every family, in seconds of CPU time at most. */
static void in_time(const char *unit, size_t bytes, double seconds) {
    size_t len;
    char *text = repeat(unit, bytes, &len);
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const struct ml_tokenizer *t = families[i].t;
        struct ml_buf out;
        ml_buf_init(&out, (size_t)1 << 30);
        const double start = cpu_seconds();
        struct ml_ids ids = encode(t, text, len, 0);
        assert_int_equal(ml_tokenizer_decode(t, ids.id, ids.n, false, &out, NULL), MARLIN_OK);
        const double took = cpu_seconds() - start;
        if (took > seconds)
            fail_msg("%s: %zu bytes of \"%s\" took %.1f s", families[i].name, len, unit, took);
        ml_buf_free(&out);
        ml_ids_free(&ids);
    }
    free(text);
}

static void ten_million_letters(void **state) {
    size_t len;
    char *text = repeat("a", 10000000, &len);
    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const size_t n = i ? len / 10 : len;
        const double start = cpu_seconds();
        struct ml_ids ids = encode(families[i].t, text, n, 0);
        const double took = cpu_seconds() - start;
        if (took > 60) fail_msg("%s: took %.1f s", families[i].name, took);
        assert_true(ids.n > 0);
        ml_ids_free(&ids);
    }
    free(text);
}

static void monotonous_texts(void **state) {
    (void)state;
    in_time(" ", 1000000, 10);
    in_time("\n", 100000, 5);
    in_time("\t \r\n", 100000, 5);
    in_time("ab", 100000, 5);
    in_time("1", 100000, 5);
    in_time("!", 100000, 5);
    in_time("\xe6\x97\xa5", 100000, 5);
    in_time("<|im_start|", 100000, 5); /* nearly a special token, over and over */
    in_time("<0x0A>", 100000, 5);
}

/* Marks in an order that normalization must undo, joiners, directions, and the longest decomposition of
 * Unicode. */
static void combining_storms(void **state) {
    (void)state;
    in_time("\xcc\x81\xcc\xa3\xcc\x87", 100000, 5);
    in_time("\xe2\x80\x8d", 100000, 5);
    in_time("\xf0\x9f\x91\xa8\xe2\x80\x8d", 100000, 5);
    in_time("\xe2\x80\xae\xe2\x81\xa6", 100000, 5);
    in_time("\xef\xb7\xba", 100000, 5);
    in_time("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", 100000, 5);
    in_time("e\xcc\x81", 100000, 5);
}

/* Marks of falling classes: sorted by NFC as by a slow, obvious sort. */
static void a_run_of_marks_is_sorted(void **state) {
    enum { N = 3000 };
    static const char *const marks[] = {"\xcd\x85" /* 240 */, "\xcc\x81" /* 230 */, "\xcc\xa3" /* 220 */,
                                        "\xcc\xb4" /* 1 */};
    struct ml_tokenizer *t = families[0].t;
    char *mixed = malloc(2 * N + 2), *sorted = malloc(2 * N + 2);
    (void)state;
    assert_true(mixed && sorted);
    mixed[0] = sorted[0] = 'q';
    for (int i = 0; i < N; i++) {
        memcpy(mixed + 1 + 2 * i, marks[i % 4], 2);
        memcpy(sorted + 1 + 2 * i, marks[3 - i / (N / 4)], 2);
    }
    struct ml_ids a = encode(t, mixed, 2 * N + 1, 0), b = encode(t, sorted, 2 * N + 1, 0);
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.id, b.id, a.n * sizeof *a.id);
    ml_ids_free(&a);
    ml_ids_free(&b);
    free(mixed);
    free(sorted);
}

/* Any bytes come back as Python's errors="replace" has them; NUL is a character like others. */
static void broken_utf8(void **state) {
    static const char *const units[] = {"\xff",
                                        "\x80",
                                        "\xc0\xaf",
                                        "\xc1\xbf",
                                        "\xe0\x80\xaf",
                                        "\xe2\x82",
                                        "\xed\xa0\x80",
                                        "\xed\xbf\xbf",
                                        "\xf0\x80\x80\xaf",
                                        "\xf0\x9f\x91",
                                        "\xf4\x90\x80\x80",
                                        "\xf5\x80\x80\x80",
                                        "\xfe\xff",
                                        "a\xcc",
                                        "\xe6\x97 \xe6",
                                        "\xf0\x9f\x91\x8d\x80"};
    const struct ml_tokenizer *t = families[0].t;
    (void)state;
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        for (size_t n = 1; n <= 64; n *= 4) {
            size_t len;
            char *text = repeat(units[u], n * strlen(units[u]), &len), *wanted = malloc(3 * len + 1);
            struct ml_ids ids = encode(t, text, len, 0);
            struct ml_buf out;
            ml_buf_init(&out, 1 << 20);
            assert_int_equal(ml_tokenizer_decode(t, ids.id, ids.n, false, &out, NULL), MARLIN_OK);
            const size_t k = lossy(text, len, wanted);
            assert_int_equal(out.len, k);
            assert_memory_equal(out.data, wanted, k);
            ml_buf_free(&out);
            ml_ids_free(&ids);
            free(wanted);
            free(text);
        }
    }
    struct ml_ids ids = encode(t, "a\0b\0", 4, 0);
    struct ml_buf out;
    ml_buf_init(&out, 1 << 20);
    assert_int_equal(ml_tokenizer_decode(t, ids.id, ids.n, false, &out, NULL), MARLIN_OK);
    assert_int_equal(out.len, 4);
    assert_memory_equal(out.data, "a\0b\0", 4);
    ml_buf_free(&out);
    ml_ids_free(&ids);
    in_time("\xff\xc0\xaf\xe2\x82", 100000, 5);
}

/* ---- 24: special tokens that a user types ---- */

static bool any_special(const struct ml_tokenizer *t, const struct ml_ids *ids) {
    for (size_t i = 0; i < ids->n; i++) {
        if (ml_tokenizer_is_special(t, ids->id[i])) return true;
    }
    return false;
}

/* Every special token of t, alone and among text: text unless asked for, and the text comes back. */
static void check_specials(const struct ml_tokenizer *t) {
    size_t n = 0;
    for (int32_t id = 0; (size_t)id < ml_tokenizer_size(t); id++) {
        size_t len;
        const char *piece = ml_tokenizer_piece(t, id, &len);
        if (!piece || !ml_tokenizer_is_special(t, id)) continue;
        char text[512];
        struct ml_buf out;
        (void)snprintf(text, sizeof text, "x %s%s y %s", piece, piece, piece);
        struct ml_ids plain = encode(t, text, strlen(text), 0);
        if (any_special(t, &plain)) fail_msg("\"%s\" typed into a text is a special token", piece);
        ml_buf_init(&out, 1 << 20);
        assert_int_equal(ml_tokenizer_decode(t, plain.id, plain.n, true, &out, NULL), MARLIN_OK);
        assert_string_equal(out.data, text);
        struct ml_ids special = encode(t, piece, len, ML_ENCODE_SPECIAL);
        assert_int_equal(special.n, 1);
        assert_int_equal(special.id[0], id);
        ml_buf_free(&out);
        ml_ids_free(&plain);
        ml_ids_free(&special);
        n++;
    }
    assert_true(n > 0);
}

static void typed_special_tokens(void **state) {
    static const char *const typed[] = {
        "<|im_start|>",  "<|im_end|>", "<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>",
        "<|endoftext|>", "<s>",        "</s>"};
    (void)state;
    check_specials(families[0].t);
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        for (size_t k = 0; k < sizeof typed / sizeof *typed; k++) {
            struct ml_ids ids = encode(families[i].t, typed[k], strlen(typed[k]), 0);
            assert_false(any_special(families[i].t, &ids));
            ml_ids_free(&ids);
        }
    }
}

static void typed_special_tokens_of_known_models(void **state) {
    static const char *const names[] = {"qwen3", "llama3.1"};
    const char *shared = getenv("MARLIN_SHARED");
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char dir[4096];
        struct ml_tokenizer *t = NULL;
        struct marlin_error err = {0};
        (void)snprintf(dir, sizeof dir, "%s/data/tokenizers/%s", shared ? shared : "../shared", names[i]);
        const marlin_status st = ml_tokenizer_load(dir, 0, &t, &err);
        if (st == MARLIN_ERR_NOT_FOUND) {
            (void)printf("skipped: %s\n", err.text);
            skip();
        }
        if (st != MARLIN_OK) fail_msg("%s", err.text);
        check_specials(t);
        ml_tokenizer_free(t);
    }
}

/* ---- 27: ids ---- */

static void ids_outside_the_vocabulary(void **state) {
    const int32_t size = (int32_t)ml_tokenizer_size(families[0].t);
    const int32_t bad[] = {-1, INT32_MIN}, beyond[] = {INT32_MAX, size};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const int32_t ids[] = {10, bad[i], 11};
        char named[64];
        struct ml_buf out;
        struct ml_text_stream s = {0};
        struct marlin_error err = {0};
        ml_buf_init(&out, 1 << 20);
        (void)snprintf(named, sizeof named, "id %d is no token", (int)bad[i]);
        assert_int_equal(ml_buf_adds(&out, "before"), MARLIN_OK);
        assert_error(ml_tokenizer_decode(families[0].t, ids, 3, false, &out, &err), &err, MARLIN_ERR_ARGUMENT,
                     named);
        assert_string_equal(out.data, "before");
        assert_error(ml_stream_push(&s, families[0].t, bad[i], false, &out, &err), &err, MARLIN_ERR_ARGUMENT,
                     named);
        assert_null(ml_tokenizer_piece(families[0].t, bad[i], NULL));
        assert_false(ml_tokenizer_is_special(families[0].t, bad[i]));
        ml_buf_free(&out);
    }
    /* Rows behind the vocabulary's end are padding of the model: no text. */
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        const int32_t ids[] = {10, 11, beyond[i], 12};
        struct ml_buf with, without;
        struct ml_text_stream s = {0};
        ml_buf_init(&with, 1 << 20);
        ml_buf_init(&without, 1 << 20);
        assert_int_equal(ml_tokenizer_decode(families[0].t, ids, 4, false, &with, NULL), MARLIN_OK);
        assert_int_equal(
            ml_tokenizer_decode(families[0].t, (const int32_t[]){10, 11, 12}, 3, false, &without, NULL),
            MARLIN_OK);
        assert_string_equal(with.data, without.data);
        const size_t len = with.len;
        assert_int_equal(ml_stream_push(&s, families[0].t, beyond[i], false, &with, NULL), MARLIN_OK);
        assert_int_equal(with.len, len);
        assert_null(ml_tokenizer_piece(families[0].t, beyond[i], NULL));
        assert_false(ml_tokenizer_is_special(families[0].t, beyond[i]));
        ml_buf_free(&with);
        ml_buf_free(&without);
    }
}

static int32_t byte_token(const struct ml_tokenizer *t, unsigned char byte) {
    const char text[] = {(char)byte, '\0'};
    for (int32_t id = 0; (size_t)id < ml_tokenizer_size(t); id++) {
        struct ml_buf out;
        ml_buf_init(&out, 1 << 16);
        const bool hit = ml_tokenizer_decode(t, &id, 1, false, &out, NULL) == MARLIN_OK && out.len == 1 &&
                         out.data[0] == text[0];
        ml_buf_free(&out);
        if (hit) return id;
    }
    fail_msg("no token for byte %02x", byte);
    return -1;
}

/* Streams bytes as tokens; what is out is UTF-8 at every moment and, at the end, what a repair of all would
 * be. */
static void stream_bytes(const struct ml_tokenizer *t, const char *bytes, size_t n) {
    int32_t *ids = malloc(n * sizeof *ids);
    assert_non_null(ids);
    for (size_t i = 0; i < n; i++) {
        ids[i] = byte_token(t, (unsigned char)bytes[i]);
    }
    check_stream(t, ids, n, false);
    free(ids);
}

static void partial_utf8(void **state) {
    static const char *const cases[] = {"\xf0\x9f\x91",
                                        "\xe6\x97",
                                        "\xc3",
                                        "\xff\xff\xff\xff",
                                        "\xf0\x9f\xf0\x9f",
                                        "a\xe6\x97\xe6\x97 a",
                                        "\x80\x80\x80",
                                        "\xf0\x9f\x91\x8d\xf0"};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        stream_bytes(families[0].t, cases[i], strlen(cases[i]));
        stream_bytes(families[1].t, cases[i], strlen(cases[i]));
    }
}

/* A hundred thousand tokens of which no two make a character: nothing is held back for ever, nothing piles
 * up. */
static void a_stream_that_is_never_utf8(void **state) {
    static const unsigned char bytes[] = {0xF0, 0x9F, 0xFF, 0xE6, 0x80};
    const struct ml_tokenizer *t = families[0].t;
    enum { N = 100000 };
    (void)state;
    int32_t ids[sizeof bytes];
    for (size_t b = 0; b < sizeof bytes; b++) {
        ids[b] = byte_token(t, bytes[b]);
    }
    struct ml_text_stream s = {0};
    struct ml_buf out;
    ml_buf_init(&out, 16u << 20);
    for (size_t i = 0; i < N; i++) {
        const size_t was = out.len;
        assert_int_equal(ml_stream_push(&s, t, ids[i % sizeof bytes], false, &out, NULL), MARLIN_OK);
        assert_true(s.n_pending <= 3);
        assert_true(out.len - was <= 4 * 3);
    }
    assert_int_equal(ml_stream_finish(&s, &out), MARLIN_OK);
    assert_int_equal(out.len, N / 5 * 3 * 3); /* F0 9F | FF | E6 80, of which E6 80 is one replacement */
    ml_buf_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_million_letters),
        cmocka_unit_test(monotonous_texts),
        cmocka_unit_test(combining_storms),
        cmocka_unit_test(a_run_of_marks_is_sorted),
        cmocka_unit_test(broken_utf8),
        cmocka_unit_test(typed_special_tokens),
        cmocka_unit_test(typed_special_tokens_of_known_models),
        cmocka_unit_test(ids_outside_the_vocabulary),
        cmocka_unit_test(partial_utf8),
        cmocka_unit_test(a_stream_that_is_never_utf8),
    };
    return cmocka_run_group_tests(tests, make_families, free_families);
}
