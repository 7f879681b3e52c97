/* SPDX-License-Identifier: Apache-2.0
 *
 * Where calibration rows come from.
 */
#include "quantization/signal/calibration.h"

#include "base/checked.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/text.h"
#include "models/model_int.h"
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
    st = ml_text_check(data, len, err);
    if (st == MARLIN_OK && is_jsonl(path)) {
        st = read_jsonl(data, len, &text, err);
        if (st == MARLIN_OK) st = ml_tokenizer_encode(t, text.data ? text.data : "", text.len, 0, &ids, err);
    } else if (st == MARLIN_OK) {
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

/* One of the rows that are sampled side by side. */
struct lane {
    struct ml_rng rng;
    size_t lost; /* tokens that the model had no finite logits for */
};

/* Rows are sampled side by side, so that weights are read once for all of them. */
struct sampling {
    const struct ml_sample_job *job;
    struct ml_cache *cache;
    struct ml_work *work;
    struct ml_sequence *sequence[ML_CALIBRATION_LANES];
    struct ml_run runs[ML_CALIBRATION_LANES];
    struct lane *lane; /* [lanes] */
    float *logits;     /* [lanes, vocab] */
    int32_t *last;     /* [lanes] */
    size_t lanes, vocab, done, total, lost;
};

bool ml_calibration_is_random(size_t row) {
    return row % RANDOM_EVERY == RANDOM_EVERY - 1;
}

static uint64_t row_seed(const struct sampling *s, size_t row) {
    return s->job->seed + 0x9e3779b97f4a7c15u * (row + 1);
}

static void fill_random(const struct sampling *s, size_t row, int32_t *ids, size_t width) {
    struct ml_rng rng;
    ml_rng_seed(&rng, row_seed(s, row));
    for (size_t i = 0; i < width; i++) {
        ids[i] = (int32_t)(ml_rng_u64(&rng) % s->vocab);
    }
}

/* At temperature 1 there is nothing to sort or to cut: the first token at which the sum of probabilities
 * passes a random number. -1 when they are not numbers. */
static int32_t draw(struct ml_rng *rng, float *logits, size_t vocab) {
    double total = 0, sum = 0;
    ml_kernels()->softmax(logits, logits, vocab);
    for (size_t i = 0; i < vocab; i++)
        total += (double)logits[i];
    const double wanted = ml_rng_double(rng) * total;
    if (!(total > 0)) return -1;
    size_t i = 0;
    while (i + 1 < vocab && (sum += (double)logits[i]) <= wanted)
        i++;
    return (int32_t)i;
}

static void draw_lanes(void *arg, size_t begin, size_t end, int worker) {
    struct sampling *s = arg;
    (void)worker;
    for (size_t j = begin; j < end; j++) {
        struct lane *l = &s->lane[j];
        s->last[j] = draw(&l->rng, s->logits + j * s->vocab, s->vocab);
        if (s->last[j] >= 0) continue;
        s->last[j] = (int32_t)(ml_rng_u64(&l->rng) % s->vocab);
        l->lost++;
    }
}

/* A row starts with the model's first token, or a random one where it has none. An end of text is followed by
 * whatever the model makes of it, as in training. rows: numbers of n rows. */
static marlin_status sample_group(struct sampling *s, struct ml_calibration *c, const size_t *rows, size_t n,
                                  struct marlin_error *err) {
    const struct ml_sample_job *job = s->job;
    const int64_t bos = job->model->config->bos_id;
    for (size_t j = 0; j < n; j++) {
        int32_t *row = c->ids + rows[j] * c->width;
        fill_random(s, rows[j], row, 1);
        if (bos >= 0 && (size_t)bos < s->vocab) row[0] = (int32_t)bos;
        s->last[j] = row[0];
        (void)ml_sequence_rewind(s->sequence[j], 0);
        s->runs[j] =
            (struct ml_run){.sequence = s->sequence[j], .first = j, .n = 1, .logits = ML_LOGITS_LAST};
        ml_rng_seed(&s->lane[j].rng, ~row_seed(s, rows[j]));
    }
    for (size_t i = 1; i < c->width; i++) {
        struct ml_batch step = {.n = n, .ids = s->last, .runs = s->runs, .n_runs = n};
        const marlin_status st = ml_forward(s->work, &step, s->logits, err);
        if (st != MARLIN_OK) return st;
        ml_pool_for(job->pool, n, 1, draw_lanes, s);
        for (size_t j = 0; j < n; j++)
            c->ids[rows[j] * c->width + i] = s->last[j];
        s->done += n;
        if (job->on_token) job->on_token(job->user, s->done, s->total);
        if (job->cancel && *job->cancel)
            return ml_fail(err, MARLIN_ERR_CANCELLED, "interrupted while sampling text");
    }
    return MARLIN_OK;
}

static marlin_status sample_rows(struct sampling *s, struct ml_calibration *c, struct marlin_error *err) {
    size_t rows[ML_CALIBRATION_LANES], n = 0;
    for (size_t r = 0; r < c->rows; r++) {
        if (ml_calibration_is_random(r)) fill_random(s, r, c->ids + r * c->width, c->width);
        if (!ml_calibration_is_random(r)) rows[n++] = r;
        if (n < s->lanes && r + 1 < c->rows) continue;
        const marlin_status st = n ? sample_group(s, c, rows, n, err) : MARLIN_OK;
        if (st != MARLIN_OK) return st;
        n = 0;
    }
    for (size_t j = 0; j < s->lanes; j++)
        s->lost += s->lane[j].lost;
    if (s->lost)
        ml_log(ML_LOG_WARN, "the model's logits are not finite for %zu of %zu tokens: random ones instead",
               s->lost, s->total);
    return ml_model_check(s->job->model, err);
}

static marlin_status create_sequences(struct sampling *s, size_t width, struct marlin_error *err) {
    const struct ml_pages_sizes pages = {.sequences = s->lanes, .positions = width, .rows = 1};
    const struct ml_work_sizes sizes = {.rows = s->lanes, .runs = s->lanes, .positions = width};
    marlin_status st;
    ML_TRY(ml_cache_create(s->job->model, (enum ml_dtype)ML_CALIBRATION_KV, &pages, &s->cache, err));
    ML_TRY(ml_work_create(s->job->model, s->job->pool, &sizes, &s->work, err));
    ml_work_on_layer(s->work, s->job->layer_done, s->job->layer_user);
    for (size_t j = 0; j < s->lanes; j++)
        ML_TRY(ml_sequence_create(s->cache, width, &s->sequence[j], err));
out:
    return st;
}

static marlin_status create_sampling(struct sampling *s, size_t width, struct marlin_error *err) {
    const marlin_status st = create_sequences(s, width, err);
    if (st != MARLIN_OK) return st;
    s->lane = ml_calloc(s->lanes, sizeof *s->lane);
    s->last = ml_calloc(s->lanes, sizeof *s->last);
    s->logits = ml_alloc_aligned(s->lanes * s->vocab * sizeof *s->logits);
    if (s->lane && s->last && s->logits) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY, "sampling %zu rows of %zu tokens: out of memory", s->lanes, width);
}

static void free_sampling(struct sampling *s) {
    ml_free(s->lane);
    ml_free(s->last);
    ml_free_aligned(s->logits);
    for (size_t j = 0; j < s->lanes; j++)
        ml_sequence_free(s->sequence[j]);
    ml_work_free(s->work);
    ml_cache_free(s->cache);
}

/* Groups of about equal size: the last one costs as much time as the others. */
size_t ml_calibration_lanes(size_t rows, size_t most) {
    const size_t own = rows - rows / RANDOM_EVERY;
    if (most > ML_CALIBRATION_LANES) most = ML_CALIBRATION_LANES;
    const size_t groups = (own + most - 1) / most;
    return (own + groups - 1) / groups;
}

marlin_status ml_calibration_sample(const struct ml_sample_job *job, struct ml_calibration *out,
                                    struct marlin_error *err) {
    const size_t width = job->width, rows = job->tokens / width;
    struct sampling s = {.job = job, .vocab = (size_t)job->model->config->vocab_size};
    marlin_status st;
    ML_TRY(reserve(out, rows ? rows : 1, width, err));
    s.total = (out->rows - out->rows / RANDOM_EVERY) * (width - 1);
    s.lanes = ml_calibration_lanes(out->rows, job->lanes);
    ML_TRY(create_sampling(&s, width, err));
    ML_TRY(sample_rows(&s, out, err));
out:
    free_sampling(&s);
    if (st != MARLIN_OK) ml_calibration_free(out);
    return st;
}
