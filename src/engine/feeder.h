/* SPDX-License-Identifier: Apache-2.0
 *
 * Timelines, and the feeder that takes requests on them forward. A timeline is one sequence of tokens: the
 * model's memory of it, the sampler that has seen it, and its last token where that was chosen but not fed
 * yet. At most one request at a time runs on a timeline.
 *
 * A step of the feeder asks every running request which rows it wants fed next (a piece of its prompt, or its
 * one new token), feeds all of them in one pass, and hands each request that wanted logits its row. A scheduler is a loop
 * around ml_feeder_step that adds timelines and takes them away between two steps. What a request generates
 * does not depend on the others that run beside it.
 */
#ifndef ML_ENGINE_FEEDER_H
#define ML_ENGINE_FEEDER_H

#include "base/lock.h"
#include "base/status.h"
#include "engine/request.h"
#include "engine/runtime.h"
#include "sampling/sampler.h"

#include <stdbool.h>
#include <stddef.h>

struct ml_timeline;
struct ml_feeder;

struct ml_timeline_options {
    struct ml_sampling sampling;
    size_t context; /* most tokens of the timeline; 0 = the model's own, at most 4096 */
    size_t chunk;   /* most prompt tokens fed in one step; 0 = 512, which is the ceiling */
};

/* A timeline on r, which must outlive it. One thread at a time, as for every function that takes it. */
marlin_status ml_timeline_create(const struct ml_runtime *r, const struct ml_timeline_options *options,
                                 struct ml_timeline **out, struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_timeline_free(struct ml_timeline *t); /* NULL is fine */

size_t ml_timeline_length(const struct ml_timeline *t); /* tokens, fed or about to be */
size_t ml_timeline_context(const struct ml_timeline *t);

/* Makes the timeline the longest beginning of ids[n] that it shares with it and the model still remembers, but not
 * all n of them: there is always one left to feed. Returns how many it has then. Random numbers go on where they
 * are. For a conversation whose whole text is given anew each turn. Not while a request runs on it. */
size_t ml_timeline_reuse(struct ml_timeline *t, const int32_t *ids, size_t n);

/* Chooses by these from the next request on; random numbers begin anew from the seed. Not while a request runs
 * on it. On failure the timeline is as it was. */
marlin_status ml_timeline_set_sampling(struct ml_timeline *t, const struct ml_sampling *sampling,
                                       struct marlin_error *err) MARLIN_MUST_CHECK;

/* Starts a request, which the next steps of a feeder run; length and context of options are filled in here.
 * The prompt may be empty where the timeline is not. MARLIN_ERR_ARGUMENT while another request
 * runs on it; other errors as of ml_request_create. On failure the timeline is as it was. */
marlin_status ml_timeline_start(struct ml_timeline *t, const struct ml_request_options *options,
                                struct marlin_error *err) MARLIN_MUST_CHECK;
bool ml_timeline_runs(const struct ml_timeline *t);

struct ml_outcome {
    enum ml_finish finish;
    const int32_t *tokens; /* generated ids without the end-of-sequence token; the timeline's, until its next
                              request */
    size_t n_tokens;
    size_t prompt_tokens;                     /* of this request that were fed: all but where cancelled */
    double prompt_seconds, predicted_seconds; /* of the clock on the wall; the second begin with the logits of
                                                 the prompt */
};

/* How the last request on t ended. Where it failed, why: the timeline then is what it was before the request
 * in every respect (tokens, the one not fed yet, what penalties look at, random numbers), so that the request
 * may be tried again. */
marlin_status ml_timeline_outcome(const struct ml_timeline *t, struct ml_outcome *out,
                                  struct marlin_error *err) MARLIN_MUST_CHECK;

struct ml_feeder_options {
    size_t timelines;           /* most that take part in one step; 0 = 1 */
    size_t context;             /* the longest of them; 0 = the model's own, at most 4096 */
    struct ml_lock *gate;       /* held around each pass, where several feeders share a pool; may be NULL */
    struct ml_profile *profile; /* stages of every pass are booked here; NULL = off; outlives it */
};

/* A feeder for timelines on r, which must outlive it. One thread at a time. */
marlin_status ml_feeder_create(const struct ml_runtime *r, const struct ml_feeder_options *options,
                               struct ml_feeder **out, struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_feeder_free(struct ml_feeder *f); /* NULL is fine */

/* One step of all n timelines, in whose order prompts are served; those on which nothing runs are passed
 * over. Returns how many still run. Errors are each request's own: see ml_timeline_outcome. n is at most what
 * the feeder was made for, and no timeline occurs twice. */
size_t ml_feeder_step(struct ml_feeder *f, struct ml_timeline *const *t, size_t n);

/* Starts one request and runs it to its end. */
marlin_status ml_feeder_run(struct ml_feeder *f, struct ml_timeline *t,
                            const struct ml_request_options *options, struct ml_outcome *out,
                            struct marlin_error *err) MARLIN_MUST_CHECK;

/* The logits of the token that would come after the timeline, before bias, penalties and temperature:
 * [vocabulary] numbers, the timeline's, until its next request. Feeds what has not been fed yet. MARLIN_ERR_ARGUMENT
 * while a request runs and for an empty timeline. */
marlin_status ml_feeder_logits(struct ml_feeder *f, struct ml_timeline *t, const float **logits,
                               struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
