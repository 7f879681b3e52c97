/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns what happens between a row of logits and the next token: choice, text, stop strings, limits.
 */
#include "engine/request.h"

#include "base/buf.h"
#include "base/checked.h"
#include "base/mem.h"
#include "engine/stop.h"

#include <string.h>

enum { TEXT_LIMIT = 16 << 20 };

struct ml_request {
    struct ml_vocabulary vocabulary;
    struct ml_sampler *sampler;
    struct ml_sampler_mark before; /* of the sampler, when the request was created */
    const atomic_bool *cancel;
    ml_text_fn *on_text;
    void *user;
    bool ignore_eos;

    int32_t *prompt; /* [n_prompt], the first `fed` of which are in the timeline */
    size_t n_prompt, fed;
    int32_t *generated; /* [limit] */
    size_t n, limit;

    struct ml_text_stream stream;
    struct ml_stop stop;
    struct ml_buf text;  /* of one token */
    struct ml_buf shown; /* what of it, and of what was held back, goes to the callback */
    bool refused;        /* the callback wants no more */
    bool finished;
    enum ml_finish finish;
};

const char *ml_finish_name(enum ml_finish f) {
    static const char *const names[] = {"length", "stop", "cancelled"};
    return names[f];
}

/* ---- creation ---- */

static marlin_status check(const struct ml_vocabulary *v, const struct ml_request_options *o,
                           struct marlin_error *err) {
    if (o->n_prompt >= o->context || o->length >= o->context - o->n_prompt) {
        if (o->length == 0)
            return ml_fail(err, MARLIN_ERR_LIMIT,
                           "the prompt has %zu tokens and the context holds %zu, one of them for the answer: "
                           "shorten the prompt or ask for a longer context",
                           o->n_prompt, o->context);
        return ml_fail(err, MARLIN_ERR_LIMIT,
                       "the prompt has %zu tokens, the timeline %zu and the context holds %zu: "
                       "shorten the prompt or ask for a longer context",
                       o->n_prompt, o->length, o->context);
    }
    for (size_t i = 0; i < o->n_prompt; i++)
        if (o->prompt[i] < 0 || (size_t)o->prompt[i] >= v->size)
            return ml_fail(err, MARLIN_ERR_ARGUMENT, "prompt token %zu is %d, outside the vocabulary of %zu",
                           i, o->prompt[i], v->size);
    return MARLIN_OK;
}

static marlin_status reserve_ids(struct ml_request *r, struct marlin_error *err) {
    size_t prompt_bytes, answer_bytes;
    if (!ml_mul_size(r->n_prompt, sizeof(*r->prompt), &prompt_bytes) ||
        !ml_mul_size(r->limit, sizeof(*r->generated), &answer_bytes))
        return ml_fail(err, MARLIN_ERR_LIMIT, "request: %zu tokens of prompt and %zu of answer are too many",
                       r->n_prompt, r->limit);
    r->prompt = ml_alloc(prompt_bytes);
    r->generated = ml_alloc(answer_bytes);
    if (!r->prompt || !r->generated)
        return ml_fail(err, MARLIN_ERR_MEMORY,
                       "request: out of memory for %zu tokens of prompt and %zu of answer", r->n_prompt,
                       r->limit);
    return MARLIN_OK;
}

/* Room for the longest token of the vocabulary and what stop strings hold back. A token may be longer than
 * TEXT_LIMIT only in a vocabulary that was made to be: it then ends the request with MARLIN_ERR_LIMIT. */
static marlin_status reserve_text(struct ml_request *r, const struct ml_request_options *o,
                                  struct marlin_error *err) {
    const struct ml_tokenizer *t = r->vocabulary.tokenizer;
    size_t piece = t ? ml_stream_most(t) : 0;
    if (piece > TEXT_LIMIT) piece = TEXT_LIMIT;
    marlin_status st = ml_stop_init(&r->stop, o->stop, o->n_stop, piece, err);
    if (st != MARLIN_OK || !t) return st;
    st = ml_buf_reserve(&r->text, piece);
    if (st == MARLIN_OK) st = ml_buf_reserve(&r->shown, ml_stop_most(&r->stop, piece));
    return st == MARLIN_OK ? st : ml_fail(err, st, "request: out of memory for the text of one token");
}

marlin_status ml_request_create(const struct ml_vocabulary *v, struct ml_sampler *sampler,
                                const struct ml_request_options *o, struct ml_request **out,
                                struct marlin_error *err) {
    marlin_status st = check(v, o, err);
    if (st != MARLIN_OK) return st;
    struct ml_request *r = ml_calloc(1, sizeof(*r));
    if (!r) return ml_fail(err, MARLIN_ERR_MEMORY, "request: out of memory");
    const size_t room = o->context - o->length - o->n_prompt;
    r->vocabulary = *v;
    r->sampler = sampler;
    r->before = ml_sampler_mark(sampler);
    r->cancel = o->cancel;
    r->on_text = o->on_text;
    r->user = o->user;
    r->ignore_eos = o->ignore_eos;
    r->n_prompt = o->n_prompt;
    r->limit = o->max_tokens < room ? o->max_tokens : room;
    ml_buf_init(&r->text, TEXT_LIMIT);
    ml_buf_init(&r->shown, TEXT_LIMIT);
    ML_TRY(reserve_ids(r, err));
    if (o->n_prompt) memcpy(r->prompt, o->prompt, o->n_prompt * sizeof(*r->prompt));
    ML_TRY(reserve_text(r, o, err));
    *out = r;
    r = NULL;
out:
    ml_request_free(r);
    return st;
}

void ml_request_free(struct ml_request *r) {
    if (!r) return;
    ml_free(r->prompt);
    ml_free(r->generated);
    ml_stop_free(&r->stop);
    ml_buf_free(&r->text);
    ml_buf_free(&r->shown);
    ml_free(r);
}

/* ---- prompt ---- */

const int32_t *ml_request_prompt(const struct ml_request *r, size_t *n) {
    *n = r->n_prompt - r->fed;
    return r->prompt + r->fed;
}

void ml_request_fed(struct ml_request *r, size_t n) {
    for (size_t i = r->fed; i < r->fed + n; i++)
        ml_sampler_accept(r->sampler, r->prompt[i]);
    r->fed += n;
}

/* ---- text ---- */

static void show(struct ml_request *r) {
    if (r->shown.len && r->on_text && !r->refused)
        r->refused = !r->on_text(r->user, r->shown.data, r->shown.len);
    ml_buf_clear(&r->shown);
}

static marlin_status text_error(marlin_status st, struct marlin_error *err) {
    return st == MARLIN_OK ? st : ml_fail(err, st, "generation: out of room for the text of one token");
}

/* r->text passes the stop strings into r->shown. */
static marlin_status pass_text(struct ml_request *r, struct marlin_error *err) {
    return text_error(ml_stop_push(&r->stop, r->text.data, r->text.len, &r->shown), err);
}

static marlin_status emit(struct ml_request *r, int32_t id, struct marlin_error *err) {
    if (!r->vocabulary.tokenizer) return MARLIN_OK;
    ml_mem_guard_begin("the text of a token");
    ml_buf_clear(&r->text);
    marlin_status st = ml_stream_push(&r->stream, r->vocabulary.tokenizer, id, true, &r->text, err);
    if (st == MARLIN_OK) st = pass_text(r, err);
    ml_mem_guard_end();
    if (st == MARLIN_OK) show(r);
    return st;
}

/* The end of the text: half a character and the beginning of a stop string can no longer be completed. */
static marlin_status flush(struct ml_request *r, struct marlin_error *err) {
    if (!r->vocabulary.tokenizer || r->stop.found || r->refused) return MARLIN_OK;
    ml_mem_guard_begin("the end of a text");
    ml_buf_clear(&r->text);
    marlin_status st = text_error(ml_stream_finish(&r->stream, &r->text), err);
    if (st == MARLIN_OK) st = pass_text(r, err);
    if (st == MARLIN_OK) st = text_error(ml_stop_finish(&r->stop, &r->shown), err);
    ml_mem_guard_end();
    if (st == MARLIN_OK) show(r);
    return st;
}

/* ---- steps ---- */

static marlin_status finish(struct ml_request *r, enum ml_finish why, struct marlin_error *err) {
    r->finished = true;
    r->finish = why;
    return flush(r, err);
}

static bool is_eos(const struct ml_request *r, int32_t id) {
    for (size_t i = 0; i < r->vocabulary.n_eos; i++)
        if (r->vocabulary.eos[i] == id) return true;
    return false;
}

static marlin_status choose(struct ml_request *r, float *logits, int32_t *id, struct marlin_error *err) {
    ml_mem_guard_begin("sampling");
    const marlin_status st = ml_sampler_next(r->sampler, logits, id, err);
    if (st == MARLIN_OK) ml_sampler_accept(r->sampler, *id);
    ml_mem_guard_end();
    return st;
}

marlin_status ml_request_take(struct ml_request *r, float *logits, int32_t *next, struct marlin_error *err) {
    int32_t id = -1;
    *next = -1;
    if (ml_request_is_cancelled(r)) return finish(r, ML_FINISH_CANCELLED, err);
    if (r->limit == 0) return finish(r, ML_FINISH_LENGTH, err);

    marlin_status st = choose(r, logits, &id, err);
    if (st != MARLIN_OK) return st;
    *next = id;
    if (!r->ignore_eos && is_eos(r, id)) return finish(r, ML_FINISH_STOP, err);
    r->generated[r->n++] = id;
    st = emit(r, id, err);
    if (st != MARLIN_OK) return st;
    if (r->refused) return finish(r, ML_FINISH_CANCELLED, err);
    if (r->stop.found) return finish(r, ML_FINISH_STOP, err);
    return r->n == r->limit ? finish(r, ML_FINISH_LENGTH, err) : MARLIN_OK;
}

bool ml_request_is_cancelled(const struct ml_request *r) {
    return r->cancel && atomic_load_explicit(r->cancel, memory_order_relaxed);
}

const atomic_bool *ml_request_cancel_flag(const struct ml_request *r) {
    return r->cancel;
}

marlin_status ml_request_cancel(struct ml_request *r, struct marlin_error *err) {
    return finish(r, ML_FINISH_CANCELLED, err);
}

bool ml_request_finished(const struct ml_request *r) {
    return r->finished;
}

enum ml_finish ml_request_finish(const struct ml_request *r) {
    return r->finish;
}

const int32_t *ml_request_tokens(const struct ml_request *r, size_t *n) {
    *n = r->n;
    return r->generated;
}

size_t ml_request_prompt_fed(const struct ml_request *r) {
    return r->fed;
}

void ml_request_undo(struct ml_request *r) {
    ml_sampler_rewind(r->sampler, &r->before);
}
