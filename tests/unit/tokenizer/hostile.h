/* SPDX-License-Identifier: Apache-2.0
 *
 * Small tokenizer.json texts for the tests of hostile input, and what an error must say.
 */
#ifndef TESTS_TOKENIZER_HOSTILE_H
#define TESTS_TOKENIZER_HOSTILE_H

/* cmocka.h wants these four before it */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "tokenizer/tokenizer.h"

/* Of this process: other programs on the machine do not count. */
static inline double cpu_seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline void assert_error(marlin_status st, const struct marlin_error *err, marlin_status code,
                                const char *part) {
    if (st != code || err->code != code || !strstr(err->text, part))
        fail_msg("status %s, wanted %s with \"%s\"; message: %s", marlin_status_name(st),
                 marlin_status_name(code), part, err->text);
}

static const char letters[] = "{\"<unk>\":0,\"a\":1,\"b\":2,\" \":3,\"aa\":4,\"aaaa\":5,\"ab\":6}";
static const char letter_merges[] = "[[\"a\",\"a\"],[\"aa\",\"aa\"],[\"a\",\"b\"]]";

/* A tokenizer.json; `model` and `rest` are members that end in a comma, or "". */
static inline char *compose(const char *vocab, const char *merges, const char *model, const char *rest) {
    static const char frame[] = "{%s\"model\":{\"type\":\"BPE\",%s\"vocab\":%s,\"merges\":%s}}";
    const size_t cap = sizeof frame + strlen(vocab) + strlen(merges) + strlen(model) + strlen(rest);
    char *json = malloc(cap);
    assert_non_null(json);
    (void)snprintf(json, cap, frame, rest, model, vocab, merges);
    return json;
}

static inline void refuse(const char *vocab, const char *merges, const char *model, const char *rest,
                          marlin_status code, const char *part) {
    char *json = compose(vocab, merges, model, rest);
    struct ml_tokenizer *t = NULL;
    struct marlin_error err = {0};
    const marlin_status st = ml_tokenizer_from_json(json, strlen(json), 0, &t, &err);
    free(json);
    ml_tokenizer_free(t);
    assert_error(st, &err, code, part);
}

static inline struct ml_tokenizer *load(const char *vocab, const char *merges, const char *model,
                                        const char *rest) {
    char *json = compose(vocab, merges, model, rest);
    struct ml_tokenizer *t = NULL;
    struct marlin_error err = {0};
    if (ml_tokenizer_from_json(json, strlen(json), 0, &t, &err) != MARLIN_OK) fail_msg("%s", err.text);
    free(json);
    return t;
}

static inline struct ml_ids encode(const struct ml_tokenizer *t, const char *text, size_t len,
                                   unsigned flags) {
    struct ml_ids ids = {0};
    struct marlin_error err = {0};
    if (ml_tokenizer_encode(t, text, len, flags, &ids, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return ids;
}

/* The ids of a text as "1 2 3". */
static inline void assert_ids(const struct ml_tokenizer *t, const char *text, unsigned flags,
                              const char *wanted) {
    struct ml_ids ids = encode(t, text, strlen(text), flags);
    char got[1024] = "";
    size_t at = 0;
    for (size_t i = 0; i < ids.n && at < sizeof got; i++) {
        at += (size_t)snprintf(got + at, sizeof got - at, "%s%d", i ? " " : "", (int)ids.id[i]);
    }
    ml_ids_free(&ids);
    assert_string_equal(got, wanted);
}

static inline void assert_decodes(const struct ml_tokenizer *t, const int32_t *ids, size_t n,
                                  const char *wanted) {
    struct ml_buf out;
    ml_buf_init(&out, 1 << 20);
    assert_int_equal(ml_tokenizer_decode(t, ids, n, false, &out, NULL), MARLIN_OK);
    assert_string_equal(out.data ? out.data : "", wanted);
    ml_buf_free(&out);
}

/* n bytes of repeated `unit` (whole units only, *len of them). */
static inline char *repeat(const char *unit, size_t n, size_t *len) {
    const size_t k = strlen(unit);
    char *text = malloc(n + 1);
    assert_non_null(text);
    for (*len = 0; *len + k <= n; *len += k) {
        memcpy(text + *len, unit, k);
    }
    text[*len] = '\0';
    return text;
}

#endif
