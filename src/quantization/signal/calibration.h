/* SPDX-License-Identifier: Apache-2.0
 *
 * Token rows that a model is calibrated on: from a text, or made by the model itself.
 */
#ifndef ML_QUANTIZATION_CALIBRATION_H
#define ML_QUANTIZATION_CALIBRATION_H

#include "base/pool.h"
#include "base/status.h"
#include "models/model_int.h"
#include "tokenizer/tokenizer.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ml_calibration {
    int32_t *ids; /* [rows, width] */
    size_t rows, width;
};
void ml_calibration_free(struct ml_calibration *c);

/* Rows of `width` tokens of a text file, at most `tokens` in all, taken at equal distances over the whole
 * text. A name that ends in ".jsonl" has one JSON value a line: a string, or an object with a string "text"
 * (or "content"), each ending with a line feed. Special tokens written in the text are plain text. A text
 * shorter than a row makes one shorter row of at least 16 tokens; MARLIN_ERR_ARGUMENT below. */
marlin_status ml_calibration_from_file(const char *path, const struct ml_tokenizer *t, size_t tokens,
                                       size_t width, struct ml_calibration *out,
                                       struct marlin_error *err) MARLIN_MUST_CHECK;

/* Rows sampled at once at most, and the type of their keys and values: a step reads all of them, and half
 * precision halves what it reads. */
enum { ML_CALIBRATION_LANES = 64, ML_CALIBRATION_KV = ML_F16 };

/* How many of `rows` rows are sampled at once when there is room for `most` >= 1. */
size_t ml_calibration_lanes(size_t rows, size_t most);

typedef void ml_calibration_fn(void *user, size_t done, size_t total);

struct ml_sample_job {
    const struct ml_model *model;
    struct ml_pool *pool;
    size_t tokens, width, lanes; /* lanes: rows made at once at most; they need a cache of so many rows */
    uint64_t seed;
    const volatile sig_atomic_t *cancel;
    /* All that follow may be NULL. on_token is told how many tokens are sampled. */
    ml_calibration_fn *on_token;
    void *user;
    ml_layer_done_fn *layer_done;
    void *layer_user;
};

/* Whether a row of the model's own text is one of random tokens. */
bool ml_calibration_is_random(size_t row);

/* Text sampled from the model at temperature 1 plus, every fourth row, random tokens. Where logits are not
 * finite a random token is taken, and a warning logged. Deterministic for a seed whatever the number of
 * threads and lanes. */
marlin_status ml_calibration_sample(const struct ml_sample_job *job, struct ml_calibration *out,
                                    struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
