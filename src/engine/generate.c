/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the token loop. Everything it needs is allocated when the generator is made; between two tokens only
 * the text buffers may grow.
 */
#include "engine/generate.h"

#include "base/buf.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/stop.h"

#include <string.h>

enum { DEFAULT_CHUNK = 512, TEXT_LIMIT = 16 << 20 };

struct ml_generator {
    const struct ml_runtime *runtime;
    const struct ml_config *config;
    struct ml_sequence *sequence;
    struct ml_work *work;
    struct ml_sampler *sampler;
    struct ml_lock *gate;
    size_t context, chunk, vocab;
    float *logits;      /* [vocab], of the last token fed */
    int32_t *generated; /* [context] */
    size_t accepted;    /* tokens the sampler was told of, at most context + 1 */
    int32_t pending;    /* sampled but not yet fed, -1 = none */
    struct ml_buf text, shown;
};

/* Changing parts of one run. */
struct loop {
    struct ml_generator *g;
    const struct ml_request *rq;
    struct ml_outcome *out;
    struct ml_text_stream stream;
    struct ml_stop stop;
    bool ended; /* the text is over: out->finish says why */
};

marlin_status ml_generator_create(const struct ml_runtime *r, const struct ml_generator_options *options,
                                  struct ml_generator **out, struct marlin_error *err) {
    marlin_status st;
    size_t logits_bytes, ids_bytes;
    struct ml_generator *g = ml_calloc(1, sizeof(*g));
    if (!g) return ml_fail(err, MARLIN_ERR_MEMORY, "generation: out of memory");

    g->runtime = r;
    g->config = ml_model_config(r->model);
    g->vocab = (size_t)g->config->vocab_size;
    g->context = ml_runtime_context(r->model, options->context);
    g->chunk = options->chunk ? options->chunk : DEFAULT_CHUNK;
    if (g->chunk > g->context) g->chunk = g->context;
    g->gate = options->gate;
    g->pending = -1;
    ml_buf_init(&g->text, TEXT_LIMIT);
    ml_buf_init(&g->shown, TEXT_LIMIT);

    ML_TRY(ml_sampling_check(&options->sampling, g->vocab, err));
    if (!ml_mul_size(g->vocab, sizeof(float), &logits_bytes) ||
        !ml_mul_size(g->context, sizeof(int32_t), &ids_bytes)) {
        st = ml_fail(err, MARLIN_ERR_LIMIT, "generation: a context of %zu tokens is too long", g->context);
        goto out;
    }
    g->logits = ml_alloc_aligned(logits_bytes);
    g->generated = ml_alloc(ids_bytes);
    if (!g->logits || !g->generated) {
        st = ml_fail(err, MARLIN_ERR_MEMORY, "generation: out of memory for %zu logits and %zu ids", g->vocab,
                     g->context);
        goto out;
    }
    ML_TRY(ml_sampler_create(&options->sampling, g->vocab, g->context + 1, &g->sampler, err));
    const struct ml_work_sizes sizes = {.rows = g->chunk, .runs = 1, .positions = g->context};
    ML_TRY(ml_work_create(r->model, r->pool, &sizes, &g->work, err));
    ml_work_profile(g->work, options->profile);
    ML_TRY(ml_sequence_create_alone(r->model, g->context, g->chunk, &g->sequence, err));
    *out = g;
    g = NULL;
out:
    ml_generator_free(g);
    return st;
}

void ml_generator_free(struct ml_generator *g) {
    if (!g) return;
    ml_sequence_free(g->sequence);
    ml_work_free(g->work);
    if (g->sampler) ml_sampler_free(g->sampler);
    ml_free_aligned(g->logits);
    ml_free(g->generated);
    ml_buf_free(&g->text);
    ml_buf_free(&g->shown);
    ml_free(g);
}

size_t ml_generator_length(const struct ml_generator *g) {
    return ml_sequence_length(g->sequence) + (g->pending >= 0 ? 1 : 0);
}

size_t ml_generator_context(const struct ml_generator *g) {
    return g->context;
}

const char *ml_finish_name(enum ml_finish f) {
    static const char *const names[] = {"length", "stop", "cancelled"};
    return names[f];
}

static bool cancelled(const struct loop *l) {
    return l->rq->cancel && *l->rq->cancel;
}

static bool is_eos(const struct ml_generator *g, int32_t id) {
    for (int i = 0; i < g->config->n_eos; i++)
        if (g->config->eos_ids[i] == id) return true;
    return false;
}

/* A request that failed after its prompt leaves its tokens in the history, which has room for one context. */
static void accept(struct ml_generator *g, int32_t id) {
    if (g->accepted > g->context) return;
    ml_sampler_accept(g->sampler, id);
    g->accepted++;
}

static void end(struct loop *l, enum ml_finish why) {
    l->ended = true;
    l->out->finish = why;
}

static marlin_status feed(struct ml_generator *g, const int32_t *ids, size_t n, bool last,
                          struct marlin_error *err) {
    if (g->gate) ml_lock_take(g->gate);
    ml_mem_guard_begin("the forward pass");
    const marlin_status st =
        ml_feed(g->work, g->sequence, ids, n, last ? ML_LOGITS_LAST : ML_LOGITS_NONE,
                         last ? g->logits : NULL, err);
    ml_mem_guard_end();
    if (g->gate) ml_lock_release(g->gate);
    return st;
}

static marlin_status check_request(const struct ml_generator *g, const struct ml_request *rq,
                                   struct marlin_error *err) {
    const size_t length = ml_generator_length(g);
    if (rq->n_prompt == 0 && g->pending < 0)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "the prompt has no tokens: give at least one");
    if (rq->n_prompt >= g->context || length >= g->context - rq->n_prompt) {
        if (length == 0)
            return ml_fail(err, MARLIN_ERR_LIMIT,
                           "the prompt has %zu tokens and the context holds %zu, one of them for the answer: "
                           "shorten the prompt or ask for a longer context",
                           rq->n_prompt, g->context);
        return ml_fail(err, MARLIN_ERR_LIMIT,
                       "the prompt has %zu tokens, the timeline %zu and the context holds %zu: "
                       "shorten the prompt or ask for a longer context",
                       rq->n_prompt, length, g->context);
    }
    for (size_t i = 0; i < rq->n_prompt; i++)
        if (rq->prompt[i] < 0 || (size_t)rq->prompt[i] >= g->vocab)
            return ml_fail(err, MARLIN_ERR_ARGUMENT, "prompt token %zu is %d, outside the vocabulary of %zu",
                           i, rq->prompt[i], g->vocab);
    return MARLIN_OK;
}

/* Feeds the pending token and the prompt; the logits of the last one stay in g->logits. */
static marlin_status feed_prompt(struct loop *l, struct marlin_error *err) {
    struct ml_generator *g = l->g;
    const struct ml_request *rq = l->rq;
    if (g->pending >= 0) {
        const int32_t id = g->pending;
        const marlin_status st = feed(g, &id, 1, rq->n_prompt == 0, err);
        if (st != MARLIN_OK) return st;
        g->pending = -1;
    }
    for (size_t i = 0; i < rq->n_prompt;) {
        const size_t left = rq->n_prompt - i, n = left < g->chunk ? left : g->chunk;
        const marlin_status st = feed(g, rq->prompt + i, n, n == left, err);
        if (st != MARLIN_OK) return st;
        for (size_t k = i; k < i + n; k++)
            accept(g, rq->prompt[k]);
        i += n;
        l->out->prompt_tokens = i;
        if (cancelled(l) && i < rq->n_prompt) {
            end(l, ML_FINISH_CANCELLED);
            break;
        }
    }
    return MARLIN_OK;
}

static void show(struct loop *l) {
    struct ml_buf *shown = &l->g->shown;
    if (shown->len && l->rq->on_text && !l->rq->on_text(l->rq->user, shown->data, shown->len))
        end(l, ML_FINISH_CANCELLED);
    ml_buf_clear(shown);
}

static marlin_status text_error(marlin_status st, struct marlin_error *err) {
    return st == MARLIN_OK ? st : ml_fail(err, st, "generation: out of room for the text of one token");
}

static marlin_status emit(struct loop *l, int32_t id, struct marlin_error *err) {
    struct ml_generator *g = l->g;
    if (!g->runtime->tokenizer) return MARLIN_OK;
    ml_buf_clear(&g->text);
    marlin_status st = ml_stream_push(&l->stream, g->runtime->tokenizer, id, true, &g->text, err);
    if (st != MARLIN_OK) return st;
    st = text_error(ml_stop_push(&l->stop, g->text.data, g->text.len, &g->shown), err);
    if (st != MARLIN_OK) return st;
    show(l);
    if (l->stop.found && !l->ended) end(l, ML_FINISH_STOP);
    return MARLIN_OK;
}

/* The end of the text: half a character and the beginning of a stop string can no longer be completed. */
static marlin_status flush(struct loop *l, struct marlin_error *err) {
    struct ml_generator *g = l->g;
    const enum ml_finish why = l->out->finish;
    if (!g->runtime->tokenizer || l->stop.found) return MARLIN_OK;
    ml_buf_clear(&g->text);
    marlin_status st = text_error(ml_stream_finish(&l->stream, &g->text), err);
    if (st != MARLIN_OK) return st;
    st = text_error(ml_stop_push(&l->stop, g->text.data, g->text.len, &g->shown), err);
    if (st != MARLIN_OK) return st;
    st = text_error(ml_stop_finish(&l->stop, &g->shown), err);
    show(l);
    l->out->finish = why;
    return st;
}

static marlin_status one_token(struct loop *l, struct marlin_error *err) {
    struct ml_generator *g = l->g;
    int32_t id;
    ml_mem_guard_begin("sampling");
    marlin_status st = ml_sampler_next(g->sampler, g->logits, &id, err);
    ml_mem_guard_end();
    if (st != MARLIN_OK) return st;

    g->pending = id;
    accept(g, id);
    if (!l->rq->ignore_eos && is_eos(g, id)) {
        end(l, ML_FINISH_STOP);
        return MARLIN_OK;
    }
    g->generated[l->out->n_tokens++] = id;
    st = emit(l, id, err);
    if (st != MARLIN_OK || l->ended) return st;
    if (l->out->n_tokens >= l->rq->max_tokens || ml_generator_length(g) >= g->context) {
        end(l, ML_FINISH_LENGTH);
        return MARLIN_OK;
    }
    st = feed(g, &id, 1, true, err);
    if (st == MARLIN_OK) g->pending = -1;
    return st;
}

static marlin_status generate(struct loop *l, struct marlin_error *err) {
    const double start = ml_clock_seconds();
    marlin_status st = MARLIN_OK;
    if (!l->ended && l->rq->max_tokens == 0) end(l, ML_FINISH_LENGTH);
    while (st == MARLIN_OK && !l->ended) {
        if (cancelled(l))
            end(l, ML_FINISH_CANCELLED);
        else
            st = one_token(l, err);
    }
    if (st == MARLIN_OK) st = flush(l, err);
    l->out->predicted_seconds = ml_clock_seconds() - start;
    return st;
}

marlin_status ml_generator_run(struct ml_generator *g, const struct ml_request *request,
                               struct ml_outcome *out, struct marlin_error *err) {
    struct loop l = {.g = g, .rq = request, .out = out};
    const int32_t pending = g->pending;
    const size_t length = ml_sequence_length(g->sequence);
    marlin_status st;

    memset(out, 0, sizeof(*out));
    st = check_request(g, request, err);
    if (st != MARLIN_OK) return st;
    st = ml_stop_init(&l.stop, request->stop, request->n_stop, err);
    if (st != MARLIN_OK) return st;
    const double start = ml_clock_seconds();
    ML_TRY(feed_prompt(&l, err));
    out->prompt_seconds = ml_clock_seconds() - start;
    ML_TRY(generate(&l, err));
    ML_TRY(ml_model_check(g->runtime->model, err));
    out->tokens = g->generated;
out:
    if (st != MARLIN_OK) {
        (void)ml_sequence_rewind(g->sequence, length);
        g->pending = pending;
    }
    ml_buf_clear(&g->shown);
    ml_stop_free(&l.stop);
    return st;
}
