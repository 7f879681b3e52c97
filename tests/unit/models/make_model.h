/* SPDX-License-Identifier: Apache-2.0
 *
 * Model directories for tests: a committed fixture, with tensors dropped, renamed, replaced or added.
 */
#ifndef MARLIN_TESTS_MAKE_MODEL_H
#define MARLIN_TESTS_MAKE_MODEL_H

#include "base/file.h"
#include "base/mem.h"
#include "converters/safetensors.h"
#include "models/model_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "feed.h"

enum { MAKE_TENSORS = 1024, MAKE_NAME = 200, MAKE_PATH = 1024 };

struct make {
    char fixture[MAKE_PATH], dir[MAKE_PATH];
    struct ml_tensors *source;
    struct ml_tensor_decl decls[MAKE_TENSORS];
    char names[MAKE_TENSORS][MAKE_NAME];
    const void *data[MAKE_TENSORS];
    uint64_t bytes[MAKE_TENSORS];
    size_t n;
};

static inline size_t make_add(struct make *k, const char *name, enum ml_dtype dtype, int rank,
                              const uint64_t *shape, const void *data) {
    const size_t i = k->n++;
    assert_true(i < MAKE_TENSORS);
    (void)snprintf(k->names[i], MAKE_NAME, "%s", name);
    k->decls[i] = (struct ml_tensor_decl){.name = k->names[i], .dtype = dtype, .rank = rank};
    k->bytes[i] = ml_dtype_size(dtype);
    for (int d = 0; d < rank; d++) {
        k->decls[i].shape[d] = shape[d];
        k->bytes[i] *= shape[d];
    }
    k->data[i] = data;
    return i;
}

/* Starts from a fixture of tests/golden/fixtures. */
static inline void make_begin(struct make *k, const char *fixture) {
    memset(k, 0, sizeof(*k));
    (void)snprintf(k->fixture, sizeof(k->fixture), "%s/tests/golden/fixtures/%s", MARLIN_SOURCE_DIR, fixture);
    (void)snprintf(k->dir, sizeof(k->dir), "/tmp/marlin-test-model-XXXXXX");
    assert_non_null(mkdtemp(k->dir));
    assert_int_equal(ml_tensors_open_dir(k->fixture, &k->source, NULL), MARLIN_OK);
    for (size_t i = 0; i < ml_tensors_count(k->source); i++) {
        const struct ml_tensor *t = ml_tensors_at(k->source, i);
        make_add(k, t->name, t->dtype, t->rank, t->shape, t->data);
    }
}

static inline size_t make_find(const struct make *k, const char *name) {
    for (size_t i = 0; i < k->n; i++) {
        if (strcmp(k->names[i], name) == 0) return i;
    }
    fail_msg("no tensor %s", name);
    return 0;
}

static inline void make_drop(struct make *k, const char *name) {
    const size_t i = make_find(k, name), last = --k->n;
    (void)memmove(k->names[i], k->names[last], MAKE_NAME);
    k->decls[i] = k->decls[last];
    k->decls[i].name = k->names[i];
    k->data[i] = k->data[last];
    k->bytes[i] = k->bytes[last];
}

/* Puts `to` in the place of a leading `from`. */
static inline void make_rename_prefix(struct make *k, const char *from, const char *to) {
    char rest[MAKE_NAME - 64]; /* room for the prefix */
    for (size_t i = 0; i < k->n; i++) {
        if (strncmp(k->names[i], from, strlen(from)) != 0) continue;
        (void)snprintf(rest, sizeof(rest), "%s", k->names[i] + strlen(from));
        (void)snprintf(k->names[i], MAKE_NAME, "%s%s", to, rest);
    }
}

static inline void make_copy(const struct make *k, const char *file) {
    char from[MAKE_PATH + 64], to[MAKE_PATH + 64], *text = NULL;
    size_t len = 0;
    (void)snprintf(from, sizeof(from), "%s/%s", k->fixture, file);
    (void)snprintf(to, sizeof(to), "%s/%s", k->dir, file);
    assert_int_equal(ml_file_slurp(from, 1 << 20, &text, &len, NULL), MARLIN_OK);
    assert_int_equal(ml_file_write_atomic(to, text, len, NULL), MARLIN_OK);
    ml_free(text);
}

/* Writes config.json and model.safetensors. */
static inline void make_write(struct make *k) {
    char path[MAKE_PATH + 64];
    struct ml_tensors_writer *w = NULL;
    struct marlin_error err = {0};
    make_copy(k, "config.json");
    (void)snprintf(path, sizeof(path), "%s/model.safetensors", k->dir);
    if (ml_tensors_writer_open(path, k->decls, k->n, NULL, 0, &w, &err) != MARLIN_OK)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < k->n; i++) {
        assert_int_equal(ml_tensors_writer_put(w, k->names[i], k->data[i], k->bytes[i], &err), MARLIN_OK);
    }
    assert_int_equal(ml_tensors_writer_commit(w, &err), MARLIN_OK);
}

static inline void make_end(struct make *k) {
    char path[MAKE_PATH + 64];
    (void)snprintf(path, sizeof(path), "%s/model.safetensors", k->dir);
    (void)unlink(path);
    (void)snprintf(path, sizeof(path), "%s/config.json", k->dir);
    (void)unlink(path);
    assert_int_equal(rmdir(k->dir), 0);
    ml_tensors_close(k->source);
}

static inline struct ml_model *make_load(const char *dir) {
    const struct ml_model_options options = {.kv_dtype = ML_F32};
    struct marlin_error err;
    struct ml_model *m = NULL;
    if (ml_model_load(dir, &options, &m, &err) != MARLIN_OK) fail_msg("%s", err.text);
    return m;
}

enum { MAKE_PROMPT = 12 };
static const int32_t make_prompt[MAKE_PROMPT] = {3, 200, 17, 17, 99, 0, 255, 42, 5, 131, 64, 7};

/* Logits of make_prompt, [MAKE_PROMPT, vocab]; ml_free. */
static inline float *make_logits(const struct ml_model *m) {
    struct marlin_error err;
    struct feed f;
    float *logits = ml_alloc(MAKE_PROMPT * (size_t)ml_model_config(m)->vocab_size * sizeof(float));
    assert_non_null(logits);
    assert_int_equal(feed_open(&f, m, NULL, MAKE_PROMPT, MAKE_PROMPT, &err), MARLIN_OK);
    assert_int_equal(ml_feed(f.work, f.sequence, make_prompt, MAKE_PROMPT, ML_LOGITS_ALL, logits, &err),
                     MARLIN_OK);
    feed_close(&f);
    return logits;
}

#endif
