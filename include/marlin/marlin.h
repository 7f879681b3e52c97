/* SPDX-License-Identifier: Apache-2.0
 *
 * Metal Marlin: run large language models, and make them small. Three nouns:
 *
 *   marlin_model    a loaded model and its tokenizer: immutable, may be shared by sessions on many threads
 *   marlin_session  one timeline of tokens on a model: one thread at a time, except for marlin_cancel
 *   marlin_linear   one matrix of weights by itself, plain or quantized: any thread
 *
 * Everything returned by an `open` is released by the matching `close`. Strings are UTF-8. A failed call says
 * why in its `struct marlin_error` and leaves the objects it was given as they were: after a failed request a
 * session has the tokens, the penalties' history and the random numbers that it had before, so that the same
 * request may be tried again.
 *
 *     struct marlin_error err;
 *     marlin_model *model = NULL;
 *     marlin_session *session = NULL;
 *     if (marlin_model_open("models/marlin-chat", NULL, &model, &err) ||
 *         marlin_session_open(model, NULL, &session, &err) ||
 *         marlin_generate(session, "Once upon a time", 64, print_text, stdout, NULL, &err))
 *         fprintf(stderr, "%s\n", err.text);
 *     marlin_session_close(session);
 *     marlin_model_close(model);
 */
#ifndef MARLIN_MARLIN_H
#define MARLIN_MARLIN_H

#include "marlin/status.h"
#include "marlin/version.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct marlin_model marlin_model;
typedef struct marlin_session marlin_session;

/* "0.1.0"; static text. Any thread. */
MARLIN_API const char *marlin_version(void);

/* ---- remarks of the library ---- */

enum marlin_log_level { MARLIN_LOG_DEBUG, MARLIN_LOG_INFO, MARLIN_LOG_WARN };

/* One line without a newline, valid during the call; on whichever thread had something to say. */
typedef void marlin_log_fn(void *user, enum marlin_log_level level, const char *text);

/* Where remarks of level `least` and above go, for the whole process; fn NULL = nowhere, as at the start.
 * Only while no other call of the library runs. The library itself never prints. */
MARLIN_API void marlin_log_set(marlin_log_fn *fn, void *user, enum marlin_log_level least);

/* ---- models ---- */

struct marlin_model_options {
    int threads;            /* workers including the caller; 0 = one per core */
    const char *device;     /* "cpu"; NULL = the best there is */
    const char *cache_type; /* of sessions' keys and values: "f32", "f16", "int8"; NULL = "f16" */
};

/* Fills in the defaults. */
MARLIN_API void marlin_model_options_default(struct marlin_model_options *o);

/* Loads a directory in Hugging Face layout, or a GGUF file. options may be NULL. Any thread. */
MARLIN_API marlin_status marlin_model_open(const char *dir, const struct marlin_model_options *options,
                                           marlin_model **out, struct marlin_error *err) MARLIN_MUST_CHECK;
/* Every session on it must be closed first. NULL is fine. */
MARLIN_API void marlin_model_close(marlin_model *m);

/* ---- text and tokens; any thread ---- */

enum marlin_tokenize_flags {
    MARLIN_SPECIAL = 1, /* special tokens that are written out in the text ("<|im_end|>") are those tokens, as
                           in a chat template. Without it they are plain text: right for what users type */
    MARLIN_ADD_BOS = 2  /* add what the model puts around the beginning of a timeline (BOS) */
};

/* The ids of a text of len bytes. *n: how many there are, also where `capacity` of them do not suffice, which
 * is MARLIN_ERR_LIMIT and leaves ids as it was (capacity 0 asks for the number: ids may be NULL then). */
MARLIN_API marlin_status marlin_tokenize(const marlin_model *m, const char *text, size_t len, unsigned flags,
                                         int32_t *ids, size_t capacity, size_t *n,
                                         struct marlin_error *err) MARLIN_MUST_CHECK;

/* The text of n ids, special tokens left out or spelled out (with_special). *len: its bytes, also where
 * `capacity` of them do not suffice, which is MARLIN_ERR_LIMIT and leaves text as it was. No NUL is added;
 * the bytes may be invalid UTF-8 when the ids are. Ids without a spelling, as the padding of a model's matrices has
 * them, are no text; MARLIN_ERR_ARGUMENT for a negative one. */
MARLIN_API marlin_status marlin_detokenize(const marlin_model *m, const int32_t *ids, size_t n,
                                           bool with_special, char *text, size_t capacity, size_t *len,
                                           struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- sessions ---- */

struct marlin_session_options {
    size_t context;    /* most tokens of the timeline; 0 = the model's own, at most 4096 */
    float temperature; /* 0 = greedy */
    int top_k;         /* 0 = off */
    float top_p;       /* 1 = off; 0 keeps the most likely token */
    float min_p;       /* 0 = off */
    float repetition_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0 = off */
    uint64_t seed;
};

/* Fills in the model's own sampling defaults (generation_config.json); model may be NULL. */
MARLIN_API void marlin_session_options_default(const marlin_model *m, struct marlin_session_options *o);
MARLIN_API marlin_status marlin_session_open(marlin_model *m, const struct marlin_session_options *options,
                                             marlin_session **out,
                                             struct marlin_error *err) MARLIN_MUST_CHECK;
/* Not while a call with the session runs. NULL is fine. */
MARLIN_API void marlin_session_close(marlin_session *s);

/* Tokens that the timeline has, and the most that it can have, those of answers included. */
MARLIN_API size_t marlin_session_length(const marlin_session *s);
MARLIN_API size_t marlin_session_context(const marlin_session *s);

/* ---- requests ---- */

enum marlin_finish {
    MARLIN_FINISH_LENGTH,   /* max_tokens, or the context is full */
    MARLIN_FINISH_STOP,     /* an end-of-sequence token or a stop string */
    MARLIN_FINISH_CANCELLED /* marlin_cancel, or the callback returned false */
};

struct marlin_usage {
    enum marlin_finish finish;
    size_t prompt_tokens, completion_tokens;
    double prompt_seconds, completion_seconds;
    const int32_t *tokens; /* [completion_tokens] ids of the answer, without the end-of-sequence token: the
                              session's, until its next request or close */
};

/* Called with each piece of text (whole UTF-8 sequences, not NUL-terminated) on the thread that generates;
 * return false to stop. May call marlin_cancel, but nothing else with a session that takes part. */
typedef bool marlin_text_fn(void *user, const char *text, size_t len);

/* Appends prompt to the timeline and generates up to max_tokens tokens. Special tokens written in it are
 * plain text; the beginning of a timeline gets the model's BOS. fn and usage may be NULL. */
MARLIN_API marlin_status marlin_generate(marlin_session *s, const char *prompt, size_t max_tokens,
                                         marlin_text_fn *fn, void *user, struct marlin_usage *usage,
                                         struct marlin_error *err) MARLIN_MUST_CHECK;

/* The same with everything that can be said. Only read during the call. A zeroed one, but for max_tokens,
 * goes on from the end of the timeline. */
struct marlin_request {
    /* What is appended first: a text, or n_ids ids that are taken as they are; not both. A text gets the
     * model's BOS where the timeline is empty, and with `special` set the special tokens that are written in
     * it are those tokens (MARLIN_SPECIAL). */
    const char *prompt;
    bool special;
    const int32_t *ids;
    size_t n_ids;
    /* Or, in place of both, a whole conversation as a JSON object: "messages", an array of objects with "role"
     * and "content"; and whatever else the model's chat template asks for ("tools", "enable_thinking", ...),
     * "add_generation_prompt": true above all, which asks for an answer. The timeline becomes what the template
     * makes of it: a beginning that the two share is kept and not computed again, so each turn of a conversation
     * costs what is new in it. A conversation whose request fails may leave the timeline shorter, never
     * different. */
    const char *conversation;

    size_t max_tokens; /* 0 only appends */
    /* At most 64 strings of 1 to 1024 bytes, each of which ends the answer and is not shown. */
    const char *const *stop;
    size_t n_stop;
    bool ignore_eos; /* go on after an end-of-sequence token, which then is part of the answer */

    marlin_text_fn *on_text; /* may be NULL */
    void *user;
};

/* Runs one request. MARLIN_ERR_LIMIT, with both numbers, when prompt and timeline leave no room in the
 * context for one token: nothing is ever dropped. usage may be NULL. */
MARLIN_API marlin_status marlin_run(marlin_session *s, const struct marlin_request *request,
                                    struct marlin_usage *usage, struct marlin_error *err) MARLIN_MUST_CHECK;

/* Answers a conversation as struct marlin_request has it:
 *
 *     marlin_chat(session, "{\"messages\":[{\"role\":\"user\",\"content\":\"What is 47 + 38?\"}],"
 *                          "\"add_generation_prompt\":true}", 64, print_text, stdout, NULL, &err)
 *
 * The caller keeps the messages: the answer is not added to them. MARLIN_ERR_NOT_FOUND where the model has no
 * chat template. */
MARLIN_API marlin_status marlin_chat(marlin_session *s, const char *conversation, size_t max_tokens,
                                     marlin_text_fn *fn, void *user, struct marlin_usage *usage,
                                     struct marlin_error *err) MARLIN_MUST_CHECK;

struct marlin_job {
    marlin_session *session;
    struct marlin_request request;
    struct marlin_usage usage; /* filled in */
    struct marlin_error error; /* filled in; its code is MARLIN_OK where the request ended well */
};

/* Runs n requests on n different sessions of one model side by side: every step of the model serves all of
 * them. Each gives what marlin_run would give. A request that fails leaves the others alone. Returns
 * MARLIN_OK when all ended well, else the first error in the order of jobs; MARLIN_ERR_ARGUMENT, with nothing
 * run, for sessions of several models or one that occurs twice. Callbacks of all jobs come on the calling
 * thread. */
MARLIN_API marlin_status marlin_run_many(struct marlin_job *jobs, size_t n,
                                         struct marlin_error *err) MARLIN_MUST_CHECK;

/* Any thread, also in a signal handler. true: the request that runs on the session ends as soon as it can,
 * with MARLIN_FINISH_CANCELLED and what it has so far; so does every later one, until false takes it back.
 * The timeline stays usable. */
MARLIN_API void marlin_cancel(marlin_session *s, bool cancel);

/* The logits of the token that would follow the timeline, before penalties and temperature: *n numbers, one
 * for each id of the vocabulary; the session's, until its next request or close. Runs the model where its
 * last token was chosen but not fed yet. MARLIN_ERR_ARGUMENT when the timeline is empty. */
MARLIN_API marlin_status marlin_logits(marlin_session *s, const float **logits, size_t *n,
                                       struct marlin_error *err) MARLIN_MUST_CHECK;

/* ---- one linear: y = x W^T + bias ----
 *
 * W is [out, in] as in a checkpoint: a row of weights for each output. x is [n, in] and y [n, out], n rows that
 * follow each other without gaps. Plain and quantized weights are one noun: what they are stored as shows only
 * in marlin_linear_describe.
 *
 *     const struct marlin_quantization four = {.bits = 4};
 *     if (marlin_linear_quantize(w, out, in, &four, NULL, &linear, &err) ||
 *         marlin_linear_multiply(linear, x, n, y, &err))
 *         fprintf(stderr, "%s\n", err.text);
 *     marlin_linear_close(linear);
 */

typedef struct marlin_linear marlin_linear;

struct marlin_linear_options {
    int threads; /* workers including the caller, a pool for each linear; 0 = one per core */
    bool exact;  /* multiply by quantized weights in float32. Else x is rounded to int8 first, which is faster
                    and costs about a per cent (root mean square of y) */
};

/* A linear of a Hugging Face directory by its name ("model.layers.0.mlp.up_proj", with or without ".weight";
 * 'marlin inspect -v' lists them), in whatever form it is stored, with its bias. Of the other tensors only
 * headers are read. The files must stay as they are until it is closed. MARLIN_ERR_NOT_FOUND for a name that no
 * linear has. options may be NULL. Any thread. */
MARLIN_API marlin_status marlin_linear_open(const char *dir, const char *name,
                                            const struct marlin_linear_options *options, marlin_linear **l,
                                            struct marlin_error *err) MARLIN_MUST_CHECK;

/* Plain weights w [out, in] of the caller, which are read in place: they must stay, unchanged, until the
 * linear is closed. No bias. options may be NULL. Any thread. */
MARLIN_API marlin_status marlin_linear_wrap(const float *w, size_t out, size_t in,
                                            const struct marlin_linear_options *options, marlin_linear **l,
                                            struct marlin_error *err) MARLIN_MUST_CHECK;

struct marlin_quantization {
    int bits; /* 2 to 6: this project's trellis (docs/format.md); 8: int8 rows, each weight rounded to nearest */
    /* [in, in] second moments of the inputs, the sum or mean of x x' over calibration rows, of which the lower
     * triangle is read: errors of the weights are then weighed by what they do to y. NULL: all inputs count the
     * same. Not with 8 bits. */
    const float *hessian;
    uint64_t seed; /* of the random signs; the same seed gives the same bits for any number of threads */
};

/* Quantizes w [out, in], which is only read during the call. MARLIN_ERR_NUMERIC for weights that are not finite
 * and for a Hessian that nothing can be learnt from; MARLIN_ERR_UNSUPPORTED for other numbers of bits.
 * options may be NULL. Any thread. */
MARLIN_API marlin_status marlin_linear_quantize(const float *w, size_t out, size_t in,
                                                const struct marlin_quantization *q,
                                                const struct marlin_linear_options *options,
                                                marlin_linear **l,
                                                struct marlin_error *err) MARLIN_MUST_CHECK;

/* Not while a call with it runs. NULL is fine. */
MARLIN_API void marlin_linear_close(marlin_linear *l);

struct marlin_linear_info {
    size_t out, in;
    bool quantized, bias;
    double bits;    /* of a weight as stored, without scales: 32, 16, 8, 4 ... */
    uint64_t bytes; /* of the weights as stored, with scales and padding to multiples of 128 */
    /* Of marlin_linear_quantize, relative: the squared error of the weights, or with a Hessian that of y, over
     * what is without error; of tiles as they are quantized, so with padding. 0 for others. */
    double error;
};
MARLIN_API void marlin_linear_describe(const marlin_linear *l, struct marlin_linear_info *info);

/* y [n, out] = x [n, in] W^T + bias. n may be 0. x and y must not overlap. A row of y is the same whatever the
 * other rows are and for any number of threads. Any thread; calls with one linear take turns. MARLIN_ERR_IO when
 * a file has been cut meanwhile. */
MARLIN_API marlin_status marlin_linear_multiply(marlin_linear *l, const float *x, size_t n, float *y,
                                                struct marlin_error *err) MARLIN_MUST_CHECK;

/* The weights as numbers, w [out, in], without the bias: of quantized ones those that they stand for. Any
 * thread. */
MARLIN_API marlin_status marlin_linear_weights(const marlin_linear *l, float *w,
                                               struct marlin_error *err) MARLIN_MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
