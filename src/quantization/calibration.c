/* SPDX-License-Identifier: Apache-2.0
 *
 * Where calibration rows come from.
 */
#include "quantization/calibration.h"

#include "base/checked.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "sampling/sampler.h"

#include <string.h>

enum { LEAST_ROW = 16, RANDOM_EVERY = 4 };
static const uint64_t text_limit = (uint64_t)1 << 30;

void ml_calibration_free(struct ml_calibration *c) {
    ml_free(c->ids);
    memset(c, 0, sizeof *c);
}

static marlin_status reserve(struct ml_calibration *c, size_t rows, size_t width, struct marlin_error *err) {
    size_t count;
    *c = (struct ml_calibration){.rows = rows, .width = width};
    c->ids = ml_mul_size(rows, width, &count) ? ml_calloc(count, sizeof *c->ids) : NULL;
    if (c->ids) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY, "calibration of %zu rows of %zu tokens: out of memory", rows,
                   width);
}

/* ---- text ---- */

static marlin_status add_json_line(const char *line, size_t len, size_t number, struct ml_buf *text,
                                   struct marlin_error *err) {
    struct ml_json_doc *doc = NULL;
    size_t n = 0;
    marlin_status st = ml_json_parse(line, len, NULL, &doc, err);
    if (st != MARLIN_OK) return ml_fail_in(err, st, "line %zu", number);
    const struct ml_json *root = ml_json_root(doc);
    const char *value = ml_json_string(root, &n);
    if (!value) value = ml_json_string(ml_json_get(root, "text"), &n);
    if (!value) value = ml_json_string(ml_json_get(root, "content"), &n);
    if (!value)
        st =
            ml_fail(err, MARLIN_ERR_FORMAT, "line %zu: neither a string nor an object with \"text\"", number);
    if (st == MARLIN_OK) st = ml_buf_add(text, value, n);
    if (st == MARLIN_OK) st = ml_buf_adds(text, "\n");
    ml_json_free(doc);
    return st;
}

static marlin_status read_jsonl(const char *data, size_t len, struct ml_buf *text, struct marlin_error *err) {
    size_t number = 1;
    for (size_t at = 0; at < len; number++) {
        const char *end = memchr(data + at, '\n', len - at);
        const size_t n = end ? (size_t)(end - (data + at)) : len - at;
        size_t blank = 0;
        while (blank < n && strchr(" \t\r", data[at + blank])) {
            blank++;
        }
        if (blank < n) {
            const marlin_status st = add_json_line(data + at, n, number, text, err);
            if (st != MARLIN_OK) return st;
        }
        at += n + 1;
    }
    return MARLIN_OK;
}

static bool is_jsonl(const char *path) {
    const size_t n = strlen(path);
    return n > 6 && strcmp(path + n - 6, ".jsonl") == 0;
}

/* Rows at equal distances, so that a small sample still sees the whole text. */
static marlin_status cut_rows(const struct ml_ids *ids, size_t tokens, size_t width,
                              struct ml_calibration *out, struct marlin_error *err) {
    if (ids->n < LEAST_ROW)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "%zu tokens are too few to calibrate on: give more text",
                       ids->n);
    if (width > ids->n) width = ids->n;
    const size_t there = ids->n / width, wanted = tokens / width ? tokens / width : 1;
    const size_t rows = wanted < there ? wanted : there;
    const marlin_status st = reserve(out, rows, width, err);
    if (st != MARLIN_OK) return st;
    for (size_t r = 0; r < rows; r++) {
        memcpy(out->ids + r * width, ids->id + r * there / rows * width, width * sizeof *out->ids);
    }
    return MARLIN_OK;
}

marlin_status ml_calibration_from_file(const char *path, const struct ml_tokenizer *t, size_t tokens,
                                       size_t width, struct ml_calibration *out, struct marlin_error *err) {
    char *data = NULL;
    size_t len = 0;
    struct ml_buf text;
    struct ml_ids ids = {0};
    marlin_status st;
    ml_buf_init(&text, (size_t)text_limit);
    ML_TRY(ml_file_slurp(path, text_limit, &data, &len, err));
    if (is_jsonl(path)) {
        st = read_jsonl(data, len, &text, err);
        if (st == MARLIN_OK) st = ml_tokenizer_encode(t, text.data ? text.data : "", text.len, 0, &ids, err);
    } else {
        st = ml_tokenizer_encode(t, data, len, 0, &ids, err);
    }
    if (st == MARLIN_OK) st = cut_rows(&ids, tokens, width, out, err);
    if (st != MARLIN_OK) st = ml_fail_in(err, st, "calibration text %s", path);
out:
    ml_ids_free(&ids);
    ml_buf_free(&text);
    ml_free(data);
    return st;
}

/* ---- the model's own text ---- */

struct sampling {
    const struct ml_model *model;
    struct ml_state *state;
    struct ml_sampler *sampler;
    struct ml_rng rng;
    float *logits;
    size_t vocab;
    const volatile sig_atomic_t *cancel;
    ml_calibration_fn *on_token;
    void *user;
    size_t done, total;
};

static int32_t random_token(struct sampling *s) {
    return (int32_t)(ml_rng_u64(&s->rng) % s->vocab);
}

/* A row starts with the model's first token, or a random one where it has none. An end of text is followed by
 * whatever the model makes of it, as in training. */
static marlin_status sample_row(struct sampling *s, int32_t *row, size_t width, struct marlin_error *err) {
    const int64_t bos = ml_model_config(s->model)->bos_id;
    row[0] = bos >= 0 && (size_t)bos < s->vocab ? (int32_t)bos : random_token(s);
    ml_state_truncate(s->state, 0);
    for (size_t i = 1; i < width; i++) {
        marlin_status st =
            ml_model_forward(s->model, s->state, &row[i - 1], 1, ML_LOGITS_LAST, s->logits, err);
        if (st == MARLIN_OK) st = ml_sampler_next(s->sampler, s->logits, &row[i], err);
        if (st != MARLIN_OK) return st;
        if (s->cancel && *s->cancel)
            return ml_fail(err, MARLIN_ERR_CANCELLED, "interrupted while sampling text");
        s->done++;
        if (s->on_token) s->on_token(s->user, s->done, s->total);
    }
    s->done++;
    return MARLIN_OK;
}

static marlin_status sample_rows(struct sampling *s, struct ml_calibration *c, struct marlin_error *err) {
    for (size_t r = 0; r < c->rows; r++) {
        int32_t *row = c->ids + r * c->width;
        if (r % RANDOM_EVERY == RANDOM_EVERY - 1) {
            for (size_t i = 0; i < c->width; i++) {
                row[i] = random_token(s);
            }
            s->done += c->width;
            continue;
        }
        const marlin_status st = sample_row(s, row, c->width, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

marlin_status ml_calibration_sample(const struct ml_model *m, struct ml_pool *pool, size_t tokens,
                                    size_t width, uint64_t seed, const volatile sig_atomic_t *cancel,
                                    ml_calibration_fn *on_token, void *user, struct ml_calibration *out,
                                    struct marlin_error *err) {
    struct sampling s = {.model = m,
                         .vocab = (size_t)ml_model_config(m)->vocab_size,
                         .cancel = cancel,
                         .on_token = on_token,
                         .user = user};
    struct ml_sampling settings;
    marlin_status st;
    ml_sampling_default(&settings);
    settings.seed = seed;
    ml_rng_seed(&s.rng, seed ^ 0x5ca1ab1e);
    ML_TRY(reserve(out, tokens / width ? tokens / width : 1, width, err));
    s.total = out->rows * width;
    ML_TRY(ml_state_create(m, pool, width, 1, &s.state, err));
    ML_TRY(ml_sampler_create(&settings, s.vocab, s.total, &s.sampler, err));
    s.logits = ml_alloc_aligned(s.vocab * sizeof *s.logits);
    if (!s.logits) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "logits of %zu tokens: out of memory", s.vocab);
        goto out;
    }
    ML_TRY(sample_rows(&s, out, err));
out:
    ml_free_aligned(s.logits);
    ml_sampler_free(s.sampler);
    ml_state_free(s.state);
    if (st != MARLIN_OK) ml_calibration_free(out);
    return st;
}
