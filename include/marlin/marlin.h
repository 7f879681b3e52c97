/* SPDX-License-Identifier: Apache-2.0
 *
 * Metal Marlin: run large language models, and make them small. Two nouns:
 *
 *   marlin_model    a loaded model and its tokenizer: immutable, may be shared by sessions on many threads
 *   marlin_session  one timeline of tokens on a model: one thread at a time
 *
 * Everything returned by an `open` is released by the matching `close`. Strings are UTF-8. A failed call says
 * why in its `struct marlin_error` and leaves the objects it was given as they were.
 *
 *     struct marlin_error err;
 *     marlin_model *model = NULL;
 *     marlin_session *session = NULL;
 *     if (marlin_model_open("models/marlin-12m", NULL, &model, &err) ||
 *         marlin_session_open(model, NULL, &session, &err) ||
 *         marlin_generate(session, "Once upon a time", 64, print_text, stdout, NULL, &err))
 *         fprintf(stderr, "%s\n", err.text);
 *     marlin_session_close(session);
 *     marlin_model_close(model);
 */
#ifndef MARLIN_MARLIN_H
#define MARLIN_MARLIN_H

#include "marlin/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct marlin_model marlin_model;
typedef struct marlin_session marlin_session;

struct marlin_model_options {
    int threads;            /* workers including the caller; 0 = one per core */
    const char *device;     /* "cpu"; NULL = the best there is */
    const char *cache_type; /* of sessions' keys and values: "f32", "f16", "int8"; NULL = "f16" */
};

/* Fills in the defaults. */
void marlin_model_options_default(struct marlin_model_options *o);

/* Loads a Hugging Face directory. options may be NULL. Any thread. */
marlin_status marlin_model_open(const char *dir, const struct marlin_model_options *options,
                                marlin_model **out, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Every session on it must be closed first. NULL is fine. */
void marlin_model_close(marlin_model *m);

struct marlin_session_options {
    size_t context;    /* most tokens of the timeline; 0 = the model's own, at most 4096 */
    float temperature; /* 0 = greedy */
    int top_k;         /* 0 = off */
    float top_p;       /* 1 = off */
    float min_p;       /* 0 = off */
    float repetition_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0 = off */
    uint64_t seed;
};

/* Fills in the model's own sampling defaults (generation_config.json); model may be NULL. */
void marlin_session_options_default(const marlin_model *m, struct marlin_session_options *o);
marlin_status marlin_session_open(marlin_model *m, const struct marlin_session_options *options,
                                  marlin_session **out, struct marlin_error *err) MARLIN_MUST_CHECK;
void marlin_session_close(marlin_session *s);

enum marlin_finish { MARLIN_FINISH_LENGTH, MARLIN_FINISH_STOP, MARLIN_FINISH_CANCELLED };

struct marlin_usage {
    enum marlin_finish finish;
    size_t prompt_tokens, completion_tokens;
    double prompt_seconds, completion_seconds;
};

/* Called with each piece of text (whole UTF-8 sequences, not NUL-terminated); return false to stop. */
typedef bool marlin_text_fn(void *user, const char *text, size_t len);

/* Appends prompt to the timeline and generates up to max_tokens tokens. usage may be NULL. */
marlin_status marlin_generate(marlin_session *s, const char *prompt, size_t max_tokens, marlin_text_fn *fn,
                              void *user, struct marlin_usage *usage,
                              struct marlin_error *err) MARLIN_MUST_CHECK;

/* "0.1.0" */
const char *marlin_version(void);

#ifdef __cplusplus
}
#endif
#endif
