/* SPDX-License-Identifier: Apache-2.0
 *
 * One request as a stepper: it is told which tokens of its prompt were fed, is given a row of logits, and
 * says which token comes next or that it has finished. It owns the prompt, the generated tokens, the text and
 * the stop strings, and knows nothing of a forward pass: whoever feeds (engine/feeder.h) may do so one
 * request after the other or many in one batch.
 *
 *     create -> feed all of ml_request_prompt, telling ml_request_fed -> take -> feed *next -> take -> ...
 *
 * Everything is allocated by create; the other calls allocate nothing (the callback for text may). One thread
 * at a time per request.
 */
#ifndef ML_ENGINE_REQUEST_H
#define ML_ENGINE_REQUEST_H

#include "base/status.h"
#include "sampling/sampler.h"
#include "tokenizer/tokenizer.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_request;

/* What a request has to know about a model. Outlives the request. */
struct ml_vocabulary {
    size_t size;        /* logits of a row */
    const int64_t *eos; /* [n_eos] ids that end an answer, as a configuration has them */
    size_t n_eos;
    const struct ml_tokenizer *tokenizer; /* NULL: no text, so no stop strings either */
};

enum ml_finish {
    ML_FINISH_LENGTH,   /* max_tokens, or the context is full */
    ML_FINISH_STOP,     /* an end-of-sequence token or a stop string */
    ML_FINISH_CANCELLED /* `cancel`, or the text callback returned false */
};
const char *ml_finish_name(enum ml_finish f); /* "length", "stop", "cancelled" */

/* Pieces of text: whole UTF-8 sequences, not NUL-terminated, never empty; return false to stop. It is not
 * called again after that. */
typedef bool ml_text_fn(void *user, const char *text, size_t len);

struct ml_request_options {
    const int32_t *prompt; /* [n_prompt] ids, copied */
    size_t n_prompt;
    size_t max_tokens; /* most tokens to generate */
    size_t length;     /* tokens that the timeline has already */
    size_t context;    /* tokens that it may have in all, the answer's included */
    const char *const *stop;
    size_t n_stop; /* copied */
    bool ignore_eos;
    ml_text_fn *on_text; /* may be NULL */
    void *user;
    const atomic_bool *cancel; /* any thread may set it at any time; may be NULL */
};

/* sampler: the one of the timeline, which has been told of its tokens; borrowed until the request is freed.
 * MARLIN_ERR_LIMIT, with both numbers, when prompt and timeline leave no room for one token of an answer;
 * MARLIN_ERR_ARGUMENT for an id outside the vocabulary. */
marlin_status ml_request_create(const struct ml_vocabulary *v, struct ml_sampler *sampler,
                                const struct ml_request_options *options, struct ml_request **out,
                                struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_request_free(struct ml_request *r); /* NULL is fine */

/* The ids of the prompt that have not been fed yet: *n of them. */
const int32_t *ml_request_prompt(const struct ml_request *r, size_t *n);
/* The next n ids of the prompt are part of the timeline now. */
void ml_request_fed(struct ml_request *r, size_t n);

/* Takes the logits [vocabulary] of the timeline's last token, once the prompt is fed, and chooses. *next: the
 * chosen id, which the timeline goes on with, whether or not the request has finished by it; -1 when none was
 * chosen (cancelled, or max_tokens is 0), and only then is the row left as it was. MARLIN_ERR_NUMERIC for a
 * row that is no numbers. A request that failed can only be undone and freed. */
marlin_status ml_request_take(struct ml_request *r, float *logits, int32_t *next,
                              struct marlin_error *err) MARLIN_MUST_CHECK;

/* Somebody set `cancel`. */
bool ml_request_is_cancelled(const struct ml_request *r);
/* For longer work on this request's behalf: the flag itself, or NULL. */
const atomic_bool *ml_request_cancel_flag(const struct ml_request *r);
/* Finishes it as cancelled, wherever it stands: what was held back of the text is given out. */
marlin_status ml_request_cancel(struct ml_request *r, struct marlin_error *err) MARLIN_MUST_CHECK;

bool ml_request_finished(const struct ml_request *r);
enum ml_finish ml_request_finish(const struct ml_request *r); /* of a finished one */

/* Generated ids so far, without an end-of-sequence token; the request's. */
const int32_t *ml_request_tokens(const struct ml_request *r, size_t *n);
size_t ml_request_prompt_fed(const struct ml_request *r); /* ids of the prompt that were fed */

/* Sets the sampler back to where it was when the request was created. Text that was given out stays so. */
void ml_request_undo(struct ml_request *r);

#endif
