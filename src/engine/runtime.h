/* SPDX-License-Identifier: Apache-2.0
 *
 * What a run stands on: device, thread pool, model, tokenizer and chat template, opened and closed together.
 */
#ifndef ML_ENGINE_RUNTIME_H
#define ML_ENGINE_RUNTIME_H

#include "base/pool.h"
#include "base/status.h"
#include "chat/chat.h"
#include "converters/hf_config.h"
#include "device/device.h"
#include "models/model.h"
#include "sampling/sampler.h"
#include "tokenizer/tokenizer.h"

#include <stdbool.h>

struct ml_runtime_options {
    const char *device;     /* "cpu"; NULL = the best there is */
    int threads;            /* workers including the caller; 0 = one per physical core */
    const char *cache_type; /* of keys and values: "f32", "f16", "int8"; NULL = "f16" */
    bool exact;             /* multiply by quantized weights in float32 instead of int8 */
    bool no_tokenizer;      /* leave .tokenizer NULL, for work on ids alone */
};

struct ml_runtime {
    struct ml_device *device;
    struct ml_pool *pool;
    struct ml_model *model;
    struct ml_tokenizer *tokenizer;
    struct ml_chat *chat;           /* NULL: no_tokenizer, none there, or one that cannot be read */
    struct marlin_error chat_error; /* why there is none */
    int64_t eos[ML_MAX_EOS + 1];    /* tokens that end an answer: the configuration's, and the one that the
                                       tokenizer's configuration calls eos_token */
    size_t n_eos;
    double load_seconds;
};

/* Opens the model directory `dir`; options may be NULL. On failure *out is all zero. */
marlin_status ml_runtime_open(const char *dir, const struct ml_runtime_options *options,
                              struct ml_runtime *out, struct marlin_error *err) MARLIN_MUST_CHECK;
/* A random model of config's shape (see ml_model_random) and no tokenizer, for benchmarks. */
marlin_status ml_runtime_random(const struct ml_config *config, const struct ml_random_format *format,
                                uint64_t seed, const struct ml_runtime_options *options,
                                struct ml_runtime *out, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Zeroes it; a zeroed one is fine. */
void ml_runtime_close(struct ml_runtime *r);

/* The ids of a conversation by the model's chat template. request: a JSON object of "messages" and other
 * variables of the template (chat/chat.h). Fails with the reason where the model has no
 * template; there is at least one id where it does not. */
marlin_status ml_runtime_chat_ids(const struct ml_runtime *r, const char *request, size_t len,
                                  struct ml_ids *ids, struct marlin_error *err) MARLIN_MUST_CHECK;

/* Context length for a run: `wanted`, or with 0 the model's own up to 4096. */
size_t ml_runtime_context(const struct ml_model *m, size_t wanted);

/* The sampling that generation_config.json asks for; where it says nothing at all, temperature 0.8.
 * do_sample = false means greedy. */
void ml_sampling_from_config(const struct ml_config *c, struct ml_sampling *out);

#endif
