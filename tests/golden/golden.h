/* SPDX-License-Identifier: Apache-2.0
 *
 * What the golden tests share: reference files of a model, and ways to feed tokens.
 */
#ifndef MARLIN_TESTS_GOLDEN_H
#define MARLIN_TESTS_GOLDEN_H

#include "base/mem.h"
#include "converters/safetensors.h"
#include "models/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "feed.h"

/* input_ids [n], logits [n, vocab] and, in the fixtures, greedy_from_16 [n_greedy]. */
struct golden {
    struct ml_tensors *tensors;
    int32_t *ids, *greedy;
    float *logits;
    size_t n, vocab, n_greedy;
};

static inline void golden_ok(marlin_status st, const struct marlin_error *err) {
    if (st != MARLIN_OK) fail_msg("%s: %s", marlin_status_name(st), err->text);
}

static inline void *golden_copy(const struct golden *g, const char *name, enum ml_dtype dtype,
                                uint64_t *count) {
    const struct ml_tensor *t = ml_tensors_find(g->tensors, name);
    assert_non_null(t);
    assert_int_equal(t->dtype, dtype);
    void *copy = ml_alloc((size_t)t->bytes);
    assert_non_null(copy);
    memcpy(copy, t->data, (size_t)t->bytes);
    *count = t->count;
    return copy;
}

static inline void golden_open(struct golden *g, const char *path, bool greedy) {
    struct marlin_error err;
    uint64_t count = 0;
    *g = (struct golden){0};
    golden_ok(ml_tensors_open_file(path, &g->tensors, &err), &err);
    g->ids = golden_copy(g, "input_ids", ML_I32, &count);
    g->n = (size_t)count;
    g->logits = golden_copy(g, "logits", ML_F32, &count);
    g->vocab = (size_t)count / g->n;
    if (!greedy) return;
    g->greedy = golden_copy(g, "greedy_from_16", ML_I32, &count);
    g->n_greedy = (size_t)count;
}

static inline void golden_close(struct golden *g) {
    ml_free(g->ids);
    ml_free(g->greedy);
    ml_free(g->logits);
    ml_tensors_close(g->tensors);
}

/* Feeds ids `chunk` at a time into a fresh sequence; logits [n, vocab] is the caller's to ml_free. */
static inline float *golden_run(const struct ml_model *m, struct ml_pool *pool, const int32_t *ids, size_t n,
                                size_t chunk) {
    const size_t vocab = (size_t)ml_model_config(m)->vocab_size;
    struct marlin_error err;
    struct feed f;
    float *logits = ml_alloc(n * vocab * sizeof(float));
    assert_non_null(logits);
    golden_ok(feed_open(&f, m, pool, n, chunk, &err), &err);
    for (size_t at = 0; at < n; at += chunk) {
        const size_t k = n - at < chunk ? n - at : chunk;
        golden_ok(ml_feed(f.work, f.sequence, ids + at, k, ML_LOGITS_ALL, logits + at * vocab, &err), &err);
    }
    assert_int_equal(ml_sequence_length(f.sequence), n);
    feed_close(&f);
    return logits;
}

/* Infinite when anything is not a number. */
static inline double golden_distance(const float *a, const float *b, size_t n) {
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}

static inline size_t golden_argmax(const float *x, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        if (x[i] > x[best]) best = i;
    }
    return best;
}

#endif
