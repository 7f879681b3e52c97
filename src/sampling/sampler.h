/* SPDX-License-Identifier: Apache-2.0
 *
 * From logits to a token: penalties, logit bias, temperature, top-k, top-p, min-p, seeded choice.
 */
#ifndef ML_SAMPLING_SAMPLER_H
#define ML_SAMPLING_SAMPLER_H

#include "base/rng.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct ml_bias {
    int32_t id;
    float bias;
};

struct ml_sampling {
    float temperature;        /* 0 = greedy */
    int32_t top_k;            /* 0 = off */
    float top_p;              /* 1 = off; 0 keeps the most likely token */
    float min_p;              /* 0 = off */
    float repetition_penalty; /* 1 = off; divides positive, multiplies negative logits of seen tokens (CTRL,
                                 2019) */
    float presence_penalty, frequency_penalty; /* 0 = off; as in the OpenAI API */
    int32_t penalty_window;                    /* last tokens that penalties look at; 0 = all */
    uint64_t seed;
    const struct ml_bias *bias;
    size_t n_bias;
};

void ml_sampling_default(struct ml_sampling *s); /* everything off, temperature 1 */
/* Ranges: temperature >= 0, top_k >= 0, 0 < top_p <= 1, 0 <= min_p <= 1, repetition_penalty > 0, penalties
 * finite, ids inside vocab, a bias finite or -infinity (never chosen). */
marlin_status ml_sampling_check(const struct ml_sampling *s, size_t vocab,
                                struct marlin_error *err) MARLIN_MUST_CHECK;

struct ml_sampler;

/* Copies the settings. vocab: logits a call. max_tokens: most tokens that will be accepted and not rewound
 * (the history is preallocated; what is told beyond it is ignored). One thread at a time per sampler. */
marlin_status ml_sampler_create(const struct ml_sampling *s, size_t vocab, size_t max_tokens,
                                struct ml_sampler **out, struct marlin_error *err) MARLIN_MUST_CHECK;
void ml_sampler_free(struct ml_sampler *s);

/* Tells the sampler about a token of the prompt or the output (for penalties). Never allocates. */
void ml_sampler_accept(struct ml_sampler *s, int32_t id);

/* How far a sampler had come: the state of its choice, and the number of tokens it had been told of. */
struct ml_sampler_mark {
    struct ml_rng rng;
    size_t accepted;
};
struct ml_sampler_mark ml_sampler_mark(const struct ml_sampler *s);
/* Back to a mark of this sampler: it forgets the tokens accepted since, and chooses as it would have chosen
 * then. A mark that lies behind the one of an earlier rewind is void. Takes time in proportion to the tokens
 * that are forgotten; never allocates. */
void ml_sampler_rewind(struct ml_sampler *s, const struct ml_sampler_mark *mark);

/* Chooses a token; logits are clobbered. MARLIN_ERR_NUMERIC when a logit is NaN or +infinity, or all are
 * -infinity. Ties go to the lowest id. Same seed, same logits: same tokens on every machine. Never allocates.
 */
marlin_status ml_sampler_next(struct ml_sampler *s, float *logits, int32_t *id,
                              struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
