/* SPDX-License-Identifier: Apache-2.0
 *
 * Perplexity over rows of tokens, and the divergence from a reference model on the same rows.
 *
 * A row is `ctx` consecutive tokens; rows do not overlap; every token but a row's first is scored; a last
 * short row is dropped. Logits live for one chunk of a row only.
 */
#ifndef ML_EVAL_PERPLEXITY_H
#define ML_EVAL_PERPLEXITY_H

#include "base/pool.h"
#include "base/status.h"
#include "eval/divergence.h"
#include "models/model.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Called after each row; return false to stop with MARLIN_ERR_CANCELLED. perplexity: of the rows so far. */
typedef bool ml_eval_row_fn(void *user, size_t row, size_t rows, double perplexity);

struct ml_perplexity_options {
    size_t ctx;             /* tokens a row, at least 2 */
    size_t max_tokens;      /* use only the first so many ids; 0 = all */
    ml_eval_row_fn *on_row; /* may be NULL */
    void *user;
};

struct ml_perplexity {
    double perplexity, nll; /* nll: mean, in nats a token; perplexity = exp(nll) */
    size_t tokens, rows;    /* scored tokens, rows */
    bool compared;          /* a reference was given: the rest is filled in */
    double reference_perplexity;
    struct ml_divergence_result divergence; /* of the model from the reference */
};

/* reference may be NULL; both models must have the same vocabulary size. pool: see ml_work_create.
 * MARLIN_ERR_ARGUMENT with both numbers when ids do not fill one row. */
marlin_status ml_perplexity_run(const struct ml_model *model, const struct ml_model *reference,
                                struct ml_pool *pool, const int32_t *ids, size_t n,
                                const struct ml_perplexity_options *options, struct ml_perplexity *out,
                                struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
