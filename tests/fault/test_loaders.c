/* SPDX-License-Identifier: Apache-2.0
 *
 * Every allocation and every read of every loader fails once: the load ends in a named error, or does without
 * what it was refused; nothing leaks (which the sanitizer build sees) and the next load works.
 */
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "converters/hf_config.h"
#include "converters/safetensors.h"
#include "marlin/marlin.h"
#include "models/model.h"
#include "tokenizer/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "feed.h"
#include "guard.h"

/* One load with its release: what is wrong with the result ends the test. */
typedef marlin_status subject(struct marlin_error *err);

static char dir[512]; /* two shards with an index, and a SentencePiece tokenizer.model */

#define EMBEDDED MARLIN_SOURCE_DIR "/models/marlin-chat"
#define FIXTURE  MARLIN_SOURCE_DIR "/tests/golden/fixtures/"
#define VECTORS  MARLIN_SOURCE_DIR "/tests/golden/tokenizer/"

/* ---- the driver ---- */

static uint64_t allocations_of(subject *load) {
    struct marlin_error err = {0};
    const uint64_t before = ml_mem_count();
    if (load(&err) != MARLIN_OK) fail_msg("without a fault: %s", err.text);
    return ml_mem_count() - before;
}

static void check_error(marlin_status st, const struct marlin_error *err, marlin_status wanted,
                        const char *what, uint64_t n) {
    if (st != wanted || err->code != st || !err->text[0])
        fail_msg("%s %llu: %s: %s", what, (unsigned long long)n, marlin_status_name(st), err->text);
}

/* Allocation n of a load fails, for every n. Patterns are compiled to machine code where memory allows, and
 * interpreted with the same result otherwise; a load without patterns can do without nothing. */
static void fail_allocations(subject *load, bool patterns) {
    const uint64_t count = allocations_of(load);
    uint64_t survived = 0;
    assert_true(count > 0);
    for (uint64_t n = 1; n <= count; n++) {
        struct marlin_error err = {0};
        ml_mem_fail_at(n);
        const marlin_status st = load(&err);
        ml_mem_fail_at(0);
        survived += st == MARLIN_OK;
        if (st != MARLIN_OK) check_error(st, &err, MARLIN_ERR_MEMORY, "allocation", n);
    }
    (void)printf("%llu allocations, %llu of them optional\n", (unsigned long long)count,
                 (unsigned long long)survived);
    assert_true(patterns ? survived < count : survived == 0);
    assert_int_equal(allocations_of(load), count);
}

/* Read n fails with EIO, for every n; short and interrupted reads are made good. */
static void fail_reads(subject *load) {
    enum { SHORT = 1, BROKEN = 2, INTERRUPTED = 3 };
    uint64_t reads = 0;
    for (uint64_t n = 1;; n++) {
        struct marlin_error err = {0};
        ml_file_inject(n, BROKEN);
        const marlin_status st = load(&err);
        ml_file_inject(0, 0);
        if (st == MARLIN_OK) break;
        check_error(st, &err, MARLIN_ERR_IO, "read", n);
        if (!strstr(err.text, "cannot read: ") || err.text[0] != '/')
            fail_msg("no file is named: %s", err.text);
        reads++;
    }
    assert_true(reads > 0);
    for (uint64_t n = 1; n <= reads; n++) {
        for (int kind = SHORT; kind <= INTERRUPTED; kind += INTERRUPTED - SHORT) {
            struct marlin_error err = {0};
            ml_file_inject(n, kind);
            const marlin_status st = load(&err);
            ml_file_inject(0, 0);
            if (st != MARLIN_OK) fail_msg("read %llu, kind %d: %s", (unsigned long long)n, kind, err.text);
        }
    }
    (void)printf("%llu reads\n", (unsigned long long)reads);
}

/* ---- what is loaded ---- */

static marlin_status shards(struct marlin_error *err) {
    struct ml_tensors *t = NULL;
    const marlin_status st = ml_tensors_open_dir(dir, &t, err);
    if (st == MARLIN_OK) {
        assert_int_equal(ml_tensors_count(t), 2);
        assert_int_equal(ml_tensors_find(t, "b")->data[1], 'd');
    } else {
        assert_null(t);
    }
    ml_tensors_close(t);
    return st;
}

static marlin_status config(struct marlin_error *err) {
    struct ml_config *c = NULL;
    const marlin_status st = ml_config_load(EMBEDDED, &c, err);
    assert_true((st == MARLIN_OK) == (c != NULL));
    if (c) assert_string_equal(c->model_type, "qwen3");
    ml_config_free(c);
    return st;
}

/* Longrope has lists of its own. */
static marlin_status long_config(struct marlin_error *err) {
    struct ml_config *c = NULL;
    const marlin_status st = ml_config_load(FIXTURE "phi3", &c, err);
    assert_true((st == MARLIN_OK) == (c != NULL));
    ml_config_free(c);
    return st;
}

/* The ids of the first use, without a fault, are those of every later one. */
static struct ml_ids expected;

static marlin_status use_tokenizer(struct ml_tokenizer *t, struct marlin_error *err) {
    static const char text[] =
        "Once upon a time, e\xcc\x81 <|im_start|> \xff 1234  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    struct ml_ids ids = {0};
    struct ml_buf out;
    ml_buf_init(&out, 1 << 20);
    marlin_status st = ml_tokenizer_encode(t, text, sizeof text - 1, ML_ENCODE_BOS, &ids, err);
    if (st == MARLIN_OK) st = ml_tokenizer_decode(t, ids.id, ids.n, false, &out, err);
    if (st == MARLIN_OK) {
        assert_true(ids.n > 4 && out.len > 10);
        if (expected.n) {
            assert_int_equal(ids.n, expected.n);
            assert_memory_equal(ids.id, expected.id, ids.n * sizeof *ids.id);
        } else {
            expected = ids;
            ids = (struct ml_ids){0};
        }
    }
    ml_ids_free(&ids);
    ml_buf_free(&out);
    return st;
}

static marlin_status sentencepiece(struct marlin_error *err) {
    struct ml_tokenizer *t = NULL;
    marlin_status st = ml_tokenizer_load(dir, 0, &t, err);
    assert_true((st == MARLIN_OK) == (t != NULL));
    if (st == MARLIN_OK) st = use_tokenizer(t, err);
    ml_tokenizer_free(t);
    return st;
}

/* A tokenizer.json with every kind of part. */
static marlin_status parts(struct marlin_error *err) {
    static const char json[] =
        "{\"added_tokens\":[{\"id\":9,\"content\":\"<s>\",\"special\":true},{\"id\":10,\"content\":\"aaa\"}],"
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKD\"},{\"type\":\"Replace\","
        "\"pattern\":"
        "{\"Regex\":\"\\\\s+\"},\"content\":\" \"},{\"type\":\"Prepend\",\"prepend\":\" "
        "\"},{\"type\":\"Lowercase\"}]},"
        "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{"
        "\"Regex\":"
        "\"\\\\p{N}{1,3}\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\",\"add_prefix_space\":true}]},"
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"
        "{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"<s>\"}}],\"special_tokens\":{\"<s>\":{"
        "\"ids\":[9]}}},"
        "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"
        "\"a\"},"
        "\"content\":\"A\"},{\"type\":\"ByteLevel\"}]},"
        "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,\"a\":1,\"e\":2,\"t\":3,"
        "\"o\":4,\"1\":5,"
        "\"aa\":6,\"on\":7,\"n\":8},\"merges\":[[\"a\",\"a\"],[\"o\",\"n\"]]}}";
    struct ml_tokenizer *t = NULL;
    marlin_status st = ml_tokenizer_from_json(json, sizeof json - 1, 0, &t, err);
    assert_true((st == MARLIN_OK) == (t != NULL));
    if (st == MARLIN_OK) st = use_tokenizer(t, err);
    ml_tokenizer_free(t);
    return st;
}

static marlin_status tokenizer_files(struct marlin_error *err) {
    struct ml_tokenizer *t = NULL;
    marlin_status st = ml_tokenizer_load(EMBEDDED, 4096, &t, err);
    assert_true((st == MARLIN_OK) == (t != NULL));
    if (st == MARLIN_OK) st = use_tokenizer(t, err);
    ml_tokenizer_free(t);
    return st;
}

static marlin_status fork_of(const struct ml_sequence *s, struct marlin_error *err) {
    struct ml_sequence *fork = NULL;
    const marlin_status st = ml_sequence_fork(s, &fork, err);
    assert_true((st == MARLIN_OK) == (fork != NULL));
    ml_sequence_free(fork);
    return st;
}

/* A model with all that runs it. */
static marlin_status model_of(const char *path, struct marlin_error *err) {
    struct ml_model *m = NULL;
    struct feed f = {0}, typed = {0};
    marlin_status st = ml_model_load(path, NULL, &m, err);
    assert_true((st == MARLIN_OK) == (m != NULL));
    if (st == MARLIN_OK) st = feed_open(&f, m, NULL, 64, 16, err);
    if (st == MARLIN_OK) st = feed_open_as(&typed, m, NULL, 200, 16, ML_I8, err);
    if (st == MARLIN_OK) st = fork_of(typed.sequence, err);
    feed_close(&typed);
    feed_close(&f);
    ml_model_free(m);
    return st;
}

static marlin_status phi3(struct marlin_error *err) {
    return model_of(FIXTURE "phi3", err);
}

static marlin_status gemma3(struct marlin_error *err) {
    return model_of(FIXTURE "gemma3_text", err);
}

static marlin_status mixtral(struct marlin_error *err) {
    return model_of(FIXTURE "mixtral", err);
}

/* Everything at once, as a program has it: model, tokenizer, session, a few tokens. */
static marlin_status whole(struct marlin_error *err) {
    const struct marlin_model_options options = {.threads = 1};
    marlin_model *m = NULL;
    marlin_session *s = NULL;
    struct marlin_session_options session;
    marlin_status st = marlin_model_open(EMBEDDED, &options, &m, err);
    assert_true((st == MARLIN_OK) == (m != NULL));
    marlin_session_options_default(m, &session);
    session.context = 64;
    if (st == MARLIN_OK) st = marlin_session_open(m, &session, &s, err);
    if (st == MARLIN_OK) st = marlin_generate(s, "Once", 2, NULL, NULL, NULL, err);
    marlin_session_close(s);
    marlin_model_close(m);
    return st;
}

/* ---- tests ---- */

static void copy(const char *from, const char *name) {
    char path[600], *data = NULL;
    size_t len = 0;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(ml_file_slurp(from, 1 << 20, &data, &len, NULL), MARLIN_OK);
    assert_int_equal(ml_file_write_atomic(path, data, len, NULL), MARLIN_OK);
    ml_free(data);
}

static void write_shard(const char *name, const char *tensor) {
    const struct ml_tensor_decl decl = {.name = tensor, .dtype = ML_U8, .rank = 1, .shape = {4}};
    struct ml_tensors_writer *w = NULL;
    char path[600];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(ml_tensors_writer_open(path, &decl, 1, NULL, 0, &w, NULL), MARLIN_OK);
    assert_int_equal(ml_tensors_writer_put(w, tensor, "cdef", 4, NULL), MARLIN_OK);
    assert_int_equal(ml_tensors_writer_commit(w, NULL), MARLIN_OK);
}

static const char *const files[] = {"one.safetensors", "two.safetensors", "model.safetensors.index.json",
                                    "tokenizer.model"};

static int set_up(void **state) {
    static const char index[] = "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}";
    char path[600];
    const char *base = getenv("TMPDIR");
    (void)state;
    ml_log_set(NULL, NULL, ML_LOG_WARN);
    (void)snprintf(dir, sizeof dir, "%s/marlin-fault-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(dir)) return -1;
    write_shard("one.safetensors", "a");
    write_shard("two.safetensors", "b");
    copy(VECTORS "unigram-byte.model", "tokenizer.model");
    (void)snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    return ml_file_write_atomic(path, index, sizeof index - 1, NULL) == MARLIN_OK ? 0 : -1;
}

static int tear_down(void **state) {
    char path[600];
    (void)state;
    ml_ids_free(&expected);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        (void)unlink(path);
    }
    return rmdir(dir);
}

struct plan {
    const char *name;
    subject *load;
    bool patterns, reads;
};

static void run_plan(void **state) {
    const struct plan *p = *state;
    (void)printf("%s: ", p->name);
    ml_ids_free(&expected);
    fail_allocations(p->load, p->patterns);
    if (p->reads) fail_reads(p->load);
}

int main(void) {
    static struct plan plans[] = {
        {"safetensors directory", shards, false, true},
        {"config.json", config, false, true},
        {"config.json, longrope", long_config, false, true},
        {"tokenizer.json from memory", parts, true, false},
        {"tokenizer.json", tokenizer_files, true, true},
        {"tokenizer.model", sentencepiece, false, true},
        {"model phi3", phi3, false, true},
        {"model gemma3", gemma3, false, true},
        {"model mixtral", mixtral, false, true},
        {"whole program", whole, true, true},
    };
    enum { N = sizeof plans / sizeof *plans };
    struct CMUnitTest tests[N];
    for (size_t i = 0; i < N; i++) {
        tests[i] = (struct CMUnitTest)cmocka_unit_test_prestate(run_plan, &plans[i]);
        tests[i].name = plans[i].name;
    }
    return cmocka_run_group_tests(tests, set_up, tear_down) + guard_clean(NULL);
}
