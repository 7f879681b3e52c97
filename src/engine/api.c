/* SPDX-License-Identifier: Apache-2.0
 *
 * The public interface, over runtime.h and generate.h.
 */
#include "marlin/marlin.h"

#include "base/lock.h"
#include "base/mem.h"
#include "base/status.h"
#include "engine/generate.h"
#include "engine/runtime.h"

#include <string.h>

#if defined(__GNUC__)
#define API __attribute__((visibility("default")))
#else
#define API
#endif

struct marlin_model {
    struct ml_runtime runtime;
    struct ml_lock gate; /* the pool serves one forward pass at a time */
};

struct marlin_session {
    marlin_model *model;
    struct ml_generator *generator;
};

API const char *marlin_version(void) {
    return MARLIN_VERSION;
}

API void marlin_model_options_default(struct marlin_model_options *o) {
    *o = (struct marlin_model_options){0};
}

API marlin_status marlin_model_open(const char *dir, const struct marlin_model_options *options,
                                    marlin_model **out, struct marlin_error *err) {
    struct ml_runtime_options ro = {0};
    if (!dir || !out) return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_model_open: dir or out is NULL");
    if (options)
        ro = (struct ml_runtime_options){
            .device = options->device, .threads = options->threads, .cache_type = options->cache_type};
    if (ro.threads < 0)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_model_open: threads is %d, must not be negative",
                       ro.threads);
    marlin_model *m = ml_calloc(1, sizeof(*m));
    if (!m) return ml_fail(err, MARLIN_ERR_MEMORY, "marlin_model_open: out of memory");
    const marlin_status st = ml_runtime_open(dir, &ro, &m->runtime, err);
    if (st != MARLIN_OK) {
        ml_free(m);
        return st;
    }
    ml_lock_init(&m->gate);
    *out = m;
    return MARLIN_OK;
}

API void marlin_model_close(marlin_model *m) {
    if (!m) return;
    ml_runtime_close(&m->runtime);
    ml_lock_destroy(&m->gate);
    ml_free(m);
}

API void marlin_session_options_default(const marlin_model *m, struct marlin_session_options *o) {
    struct ml_sampling s;
    ml_sampling_default(&s);
    if (m) ml_sampling_from_config(ml_model_config(m->runtime.model), &s);
    *o = (struct marlin_session_options){
        .temperature = s.temperature,
        .top_k = s.top_k,
        .top_p = s.top_p,
        .min_p = s.min_p,
        .repetition_penalty = s.repetition_penalty,
        .presence_penalty = s.presence_penalty,
        .frequency_penalty = s.frequency_penalty,
        .seed = s.seed,
    };
}

API marlin_status marlin_session_open(marlin_model *m, const struct marlin_session_options *options,
                                      marlin_session **out, struct marlin_error *err) {
    struct marlin_session_options o;
    struct ml_generator_options go = {0};
    if (!m || !out) return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_session_open: model or out is NULL");
    if (options)
        o = *options;
    else
        marlin_session_options_default(m, &o);

    ml_sampling_default(&go.sampling);
    go.sampling.temperature = o.temperature;
    go.sampling.top_k = o.top_k;
    go.sampling.top_p = o.top_p;
    go.sampling.min_p = o.min_p;
    go.sampling.repetition_penalty = o.repetition_penalty;
    go.sampling.presence_penalty = o.presence_penalty;
    go.sampling.frequency_penalty = o.frequency_penalty;
    go.sampling.seed = o.seed;
    go.context = o.context;
    go.gate = &m->gate;

    marlin_session *s = ml_calloc(1, sizeof(*s));
    if (!s) return ml_fail(err, MARLIN_ERR_MEMORY, "marlin_session_open: out of memory");
    s->model = m;
    const marlin_status st = ml_generator_create(&m->runtime, &go, &s->generator, err);
    if (st != MARLIN_OK) {
        ml_free(s);
        return st;
    }
    *out = s;
    return MARLIN_OK;
}

API void marlin_session_close(marlin_session *s) {
    if (!s) return;
    ml_generator_free(s->generator);
    ml_free(s);
}

static enum marlin_finish public_finish(enum ml_finish f) {
    switch (f) {
    case ML_FINISH_STOP:
        return MARLIN_FINISH_STOP;
    case ML_FINISH_CANCELLED:
        return MARLIN_FINISH_CANCELLED;
    default:
        return MARLIN_FINISH_LENGTH;
    }
}

API marlin_status marlin_generate(marlin_session *s, const char *prompt, size_t max_tokens,
                                  marlin_text_fn *fn, void *user, struct marlin_usage *usage,
                                  struct marlin_error *err) {
    struct ml_ids ids = {0};
    struct ml_outcome outcome;
    marlin_status st;

    if (!s || !prompt) return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_generate: session or prompt is NULL");
    /* What the post-processor adds belongs to the beginning of a timeline only. */
    const unsigned flags = ml_generator_length(s->generator) == 0 ? ML_ENCODE_BOS : 0;
    ML_TRY(ml_tokenizer_encode(s->model->runtime.tokenizer, prompt, strlen(prompt), flags, &ids, err));
    const struct ml_request rq = {
        .prompt = ids.id, .n_prompt = ids.n, .max_tokens = max_tokens, .on_text = fn, .user = user};
    ML_TRY(ml_generator_run(s->generator, &rq, &outcome, err));
    if (usage)
        *usage = (struct marlin_usage){
            .finish = public_finish(outcome.finish),
            .prompt_tokens = outcome.prompt_tokens,
            .completion_tokens = outcome.n_tokens,
            .prompt_seconds = outcome.prompt_seconds,
            .completion_seconds = outcome.predicted_seconds,
        };
out:
    ml_ids_free(&ids);
    return st;
}
