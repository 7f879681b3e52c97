/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the walk over rows and chunks.
 */
#include "eval/perplexity.h"

#include "base/checked.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

/* Logits of one chunk: at most 64 MiB a model, and no more rows than pay off in the matrix products. */
enum { CHUNK_LOGITS = 16 << 20, CHUNK_TOKENS = 256 };

/* One of the two models. */
struct side {
    const struct ml_model *model;
    struct ml_sequence *sequence;
    struct ml_work *work;
    float *logits; /* [chunk, vocab] */
    double *nll;   /* [chunk] */
    double sum;    /* over all scored tokens */
};

struct walk {
    struct side side[2]; /* the model, the reference */
    int sides;
    struct ml_pool *pool;
    size_t vocab, chunk, ctx;
    const int32_t *next; /* ids that the chunk's positions are scored against */
    size_t scored;       /* positions of the chunk that have such an id */
    bool *agree;         /* [chunk] */
    struct ml_divergence divergence;
};

static marlin_status side_init(struct side *s, const struct walk *w, const struct ml_model *model,
                               struct marlin_error *err) {
    size_t count, bytes;
    s->model = model;
    if (!ml_mul_size(w->chunk, w->vocab, &count) || !ml_mul_size(count, sizeof(float), &bytes))
        return ml_fail(err, MARLIN_ERR_LIMIT, "perplexity: a vocabulary of %zu is too large", w->vocab);
    s->logits = ml_alloc_aligned(bytes);
    s->nll = ml_calloc(w->chunk, sizeof(*s->nll));
    if (!s->logits || !s->nll)
        return ml_fail(err, MARLIN_ERR_MEMORY, "perplexity: out of memory for logits [%zu, %zu]", w->chunk,
                       w->vocab);
    const struct ml_work_sizes sizes = {.rows = w->chunk, .runs = 1, .positions = w->ctx};
    const marlin_status st = ml_work_create(model, w->pool, &sizes, &s->work, err);
    return st == MARLIN_OK ? ml_sequence_create_alone(model, w->ctx, w->chunk, &s->sequence, err) : st;
}

static void side_free(struct side *s) {
    ml_sequence_free(s->sequence);
    ml_work_free(s->work);
    ml_free_aligned(s->logits);
    ml_free(s->nll);
}

static void score_range(void *arg, size_t begin, size_t end, int worker) {
    struct walk *w = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const float *row = w->side[0].logits + i * w->vocab;
        w->side[0].nll[i] = ml_nll(row, w->vocab, w->next[i]);
        if (w->sides == 1) continue;
        const float *ref = w->side[1].logits + i * w->vocab;
        w->side[1].nll[i] = ml_nll(ref, w->vocab, w->next[i]);
        w->divergence.kl[w->divergence.n + i] = ml_kl_divergence(ref, row, w->vocab);
        w->agree[i] = ml_argmax(ref, w->vocab) == ml_argmax(row, w->vocab);
    }
}

static void gather(struct walk *w) {
    ml_pool_for(w->pool, w->scored, 4, score_range, w);
    for (size_t i = 0; i < w->scored; i++) {
        for (int k = 0; k < w->sides; k++)
            w->side[k].sum += w->side[k].nll[i];
        if (w->sides == 2 && w->agree[i]) w->divergence.agree++;
    }
    if (w->sides == 2) w->divergence.n += w->scored;
}

static marlin_status walk_row(struct walk *w, const int32_t *row, struct marlin_error *err) {
    for (int k = 0; k < w->sides; k++)
        (void)ml_sequence_rewind(w->side[k].sequence, 0);
    for (size_t at = 0; at + 1 < w->ctx; at += w->chunk) {
        /* The row's last token predicts nothing inside the row, so it need not be fed. */
        const size_t left = w->ctx - 1 - at;
        w->scored = left < w->chunk ? left : w->chunk;
        w->next = row + at + 1;
        for (int k = 0; k < w->sides; k++) {
            struct side *s = &w->side[k];
            const marlin_status st =
                ml_feed(s->work, s->sequence, row + at, w->scored, ML_LOGITS_ALL, s->logits, err);
            if (st != MARLIN_OK) return st;
        }
        gather(w);
    }
    for (int k = 0; k < w->sides; k++) {
        const marlin_status st = ml_model_check(w->side[k].model, err);
        if (st != MARLIN_OK) return st;
    }
    return MARLIN_OK;
}

static marlin_status check(const struct ml_model *model, const struct ml_model *reference, const int32_t *ids,
                           size_t n, size_t ctx, struct marlin_error *err) {
    const int64_t vocab = ml_model_config(model)->vocab_size;
    if (ctx < 2)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "perplexity: a row of %zu tokens scores nothing", ctx);
    if (n < ctx)
        return ml_fail(err, MARLIN_ERR_ARGUMENT,
                       "perplexity: the text has %zu tokens, fewer than one row of %zu: give more text or a "
                       "smaller --ctx",
                       n, ctx);
    if (reference && ml_model_config(reference)->vocab_size != vocab)
        return ml_fail(
            err, MARLIN_ERR_ARGUMENT,
            "perplexity: the model has %lld logits and the reference %lld: they cannot be compared",
            (long long)vocab, (long long)ml_model_config(reference)->vocab_size);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return ml_fail(err, MARLIN_ERR_ARGUMENT,
                           "perplexity: token %zu is %d, outside the vocabulary of %lld", i, ids[i],
                           (long long)vocab);
    return MARLIN_OK;
}

static marlin_status walk_init(struct walk *w, const struct ml_model *model, const struct ml_model *reference,
                               size_t rows, struct marlin_error *err) {
    size_t positions;
    w->vocab = (size_t)ml_model_config(model)->vocab_size;
    w->chunk = CHUNK_LOGITS / w->vocab;
    if (w->chunk < 1) w->chunk = 1;
    if (w->chunk > CHUNK_TOKENS) w->chunk = CHUNK_TOKENS;
    if (w->chunk > w->ctx) w->chunk = w->ctx;
    w->sides = reference ? 2 : 1;

    marlin_status st = side_init(&w->side[0], w, model, err);
    if (st != MARLIN_OK || !reference) return st;
    st = side_init(&w->side[1], w, reference, err);
    if (st != MARLIN_OK) return st;
    w->agree = ml_calloc(w->chunk, sizeof(*w->agree));
    if (!w->agree) return ml_fail(err, MARLIN_ERR_MEMORY, "perplexity: out of memory");
    if (!ml_mul_size(rows, w->ctx - 1, &positions))
        return ml_fail(err, MARLIN_ERR_LIMIT, "perplexity: %zu rows are too many", rows);
    return ml_divergence_init(&w->divergence, positions, err);
}

static void walk_free(struct walk *w) {
    side_free(&w->side[0]);
    side_free(&w->side[1]);
    ml_free(w->agree);
    ml_divergence_free(&w->divergence);
}

static marlin_status finish(struct walk *w, size_t rows, struct ml_perplexity *out,
                            struct marlin_error *err) {
    memset(out, 0, sizeof(*out));
    out->rows = rows;
    out->tokens = rows * (w->ctx - 1);
    out->nll = w->side[0].sum / (double)out->tokens;
    out->perplexity = exp(out->nll);
    if (!isfinite(out->nll))
        return ml_fail(err, MARLIN_ERR_NUMERIC, "perplexity: the model's logits are not finite numbers");
    if (w->sides == 1) return MARLIN_OK;
    out->compared = true;
    out->reference_perplexity = exp(w->side[1].sum / (double)out->tokens);
    return ml_divergence_result(&w->divergence, &out->divergence, err);
}

marlin_status ml_perplexity_run(const struct ml_model *model, const struct ml_model *reference,
                                struct ml_pool *pool, const int32_t *ids, size_t n,
                                const struct ml_perplexity_options *options, struct ml_perplexity *out,
                                struct marlin_error *err) {
    struct walk w = {.pool = pool, .ctx = options->ctx};
    marlin_status st;
    if (options->max_tokens && options->max_tokens < n) n = options->max_tokens;
    ML_TRY(check(model, reference, ids, n, options->ctx, err));
    const size_t rows = n / w.ctx;
    ML_TRY(walk_init(&w, model, reference, rows, err));
    for (size_t r = 0; r < rows; r++) {
        ML_TRY(walk_row(&w, ids + r * w.ctx, err));
        const double so_far = exp(w.side[0].sum / (double)((r + 1) * (w.ctx - 1)));
        if (options->on_row && !options->on_row(options->user, r + 1, rows, so_far)) {
            st = ml_fail(err, MARLIN_ERR_CANCELLED, "perplexity: stopped after %zu of %zu rows", r + 1, rows);
            goto out;
        }
    }
    st = finish(&w, rows, out, err);
out:
    walk_free(&w);
    return st;
}
