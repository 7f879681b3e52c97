/* SPDX-License-Identifier: Apache-2.0
 *
 * The generation loop of one timeline of tokens: feeds prompts in chunks, samples, streams text, stops.
 */
#ifndef ML_ENGINE_GENERATE_H
#define ML_ENGINE_GENERATE_H

#include "base/lock.h"
#include "base/status.h"
#include "engine/runtime.h"
#include "sampling/sampler.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_generator;

struct ml_generator_options {
    struct ml_sampling sampling;
    size_t context; /* most tokens of the timeline; 0 = the model's own, at most 4096 */
    size_t chunk;   /* prompt tokens fed at a time; 0 = 512 */
    struct ml_lock
        *gate; /* held around each forward pass, where several timelines share a pool; may be NULL */
    struct ml_profile *profile; /* stages of every forward pass are booked here; NULL = off; outlives it */
};

/* A timeline on r, which must outlive it. One thread at a time. */
marlin_status ml_generator_create(const struct ml_runtime *r, const struct ml_generator_options *options,
                                  struct ml_generator **out, struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_generator_free(struct ml_generator *g); /* NULL is fine */

size_t ml_generator_length(const struct ml_generator *g); /* tokens of the timeline, fed or about to be */
size_t ml_generator_context(const struct ml_generator *g);

enum ml_finish {
    ML_FINISH_LENGTH,   /* max_tokens, or the context is full */
    ML_FINISH_STOP,     /* an end-of-sequence token or a stop string */
    ML_FINISH_CANCELLED /* `cancel`, or the text callback returned false */
};
const char *ml_finish_name(enum ml_finish f); /* "length", "stop", "cancelled" */

/* Pieces of text: whole UTF-8 sequences, not NUL-terminated, never empty; return false to stop. */
typedef bool ml_text_fn(void *user, const char *text, size_t len);

struct ml_request {
    const int32_t *prompt; /* ids appended to the timeline; may be empty if the timeline is not */
    size_t n_prompt;
    size_t max_tokens; /* most tokens to generate */
    const char *const *stop;
    size_t n_stop;
    bool ignore_eos;
    ml_text_fn *on_text; /* may be NULL */
    void *user;
    const volatile sig_atomic_t *cancel; /* looked at between tokens; may be NULL */
};

struct ml_outcome {
    enum ml_finish finish;
    const int32_t
        *tokens; /* generated ids without the end-of-sequence token; the generator's, until the next run */
    size_t n_tokens;
    size_t prompt_tokens; /* of this request that were fed: all but where cancelled */
    double prompt_seconds, predicted_seconds;
};

/* Runs one request. predicted_seconds begins with the prompt's logits. On failure the timeline is cut back to
 * what it was. MARLIN_ERR_LIMIT, with both numbers, when prompt and timeline leave no room for one token. */
marlin_status ml_generator_run(struct ml_generator *g, const struct ml_request *request,
                               struct ml_outcome *out, struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
