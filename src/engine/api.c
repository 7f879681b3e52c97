/* SPDX-License-Identifier: Apache-2.0
 *
 * The public interface, over runtime.h and feeder.h.
 */
#include "marlin/marlin.h"

#include "base/lock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/status.h"
#include "engine/feeder.h"
#include "engine/runtime.h"

#include <stdatomic.h>
#include <string.h>

enum { TEXT_LIMIT = 1 << 30 }; /* bytes of one text */

struct marlin_model {
    struct ml_runtime runtime;
    struct ml_lock gate; /* the pool serves one forward pass at a time */
};

struct marlin_session {
    marlin_model *model;
    struct ml_timeline *timeline;
    struct ml_feeder *feeder; /* of this session alone */
    atomic_bool cancel;
};

const char *marlin_version(void) {
    return MARLIN_VERSION;
}

/* ---- remarks ---- */

static marlin_log_fn *host_log;

_Static_assert((int)MARLIN_LOG_DEBUG == (int)ML_LOG_DEBUG && (int)MARLIN_LOG_INFO == (int)ML_LOG_INFO &&
                   (int)MARLIN_LOG_WARN == (int)ML_LOG_WARN,
               "levels have the same numbers inside and outside");

static void pass_on(void *user, enum ml_log_level level, const char *text) {
    host_log(user, (enum marlin_log_level)level, text);
}

void marlin_log_set(marlin_log_fn *fn, void *user, enum marlin_log_level least) {
    host_log = fn;
    ml_log_set(fn ? pass_on : NULL, user, (enum ml_log_level)least);
}

/* ---- models ---- */

void marlin_model_options_default(struct marlin_model_options *o) {
    *o = (struct marlin_model_options){0};
}

marlin_status marlin_model_open(const char *dir, const struct marlin_model_options *options,
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

void marlin_model_close(marlin_model *m) {
    if (!m) return;
    ml_runtime_close(&m->runtime);
    ml_lock_destroy(&m->gate);
    ml_free(m);
}

/* ---- text and tokens ---- */

static unsigned encode_flags(unsigned flags) {
    return (flags & MARLIN_SPECIAL ? ML_ENCODE_SPECIAL : 0u) | (flags & MARLIN_ADD_BOS ? ML_ENCODE_BOS : 0u);
}

marlin_status marlin_tokenize(const marlin_model *m, const char *text, size_t len, unsigned flags,
                              int32_t *ids, size_t capacity, size_t *n, struct marlin_error *err) {
    struct ml_ids found = {0};
    if (!m || !n || (len && !text) || (capacity && !ids))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_tokenize: an argument is NULL");
    if (flags & ~(unsigned)(MARLIN_SPECIAL | MARLIN_ADD_BOS))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_tokenize: flags 0x%x are not known", flags);
    marlin_status st =
        ml_tokenizer_encode(m->runtime.tokenizer, text ? text : "", len, encode_flags(flags), &found, err);
    if (st == MARLIN_OK) {
        *n = found.n;
        if (found.n > capacity)
            st = ml_fail(err, MARLIN_ERR_LIMIT, "marlin_tokenize: there are %zu ids and room for %zu",
                         found.n, capacity);
        else if (found.n)
            memcpy(ids, found.id, found.n * sizeof(*ids));
    }
    ml_ids_free(&found);
    return st;
}

marlin_status marlin_detokenize(const marlin_model *m, const int32_t *ids, size_t n, bool with_special,
                                char *text, size_t capacity, size_t *len, struct marlin_error *err) {
    struct ml_buf b;
    if (!m || !len || (n && !ids) || (capacity && !text))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_detokenize: an argument is NULL");
    ml_buf_init(&b, TEXT_LIMIT);
    marlin_status st = ml_tokenizer_decode(m->runtime.tokenizer, ids, n, !with_special, &b, err);
    if (st == MARLIN_OK) {
        *len = b.len;
        if (b.len > capacity)
            st = ml_fail(err, MARLIN_ERR_LIMIT, "marlin_detokenize: there are %zu bytes and room for %zu",
                         b.len, capacity);
        else if (b.len)
            memcpy(text, b.data, b.len);
    }
    ml_buf_free(&b);
    return st;
}

/* ---- sessions ---- */

void marlin_session_options_default(const marlin_model *m, struct marlin_session_options *o) {
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

static void read_sampling(const struct marlin_session_options *o, struct ml_sampling *s) {
    ml_sampling_default(s);
    s->temperature = o->temperature;
    s->top_k = o->top_k;
    s->top_p = o->top_p;
    s->min_p = o->min_p;
    s->repetition_penalty = o->repetition_penalty;
    s->presence_penalty = o->presence_penalty;
    s->frequency_penalty = o->frequency_penalty;
    s->seed = o->seed;
}

marlin_status marlin_session_open(marlin_model *m, const struct marlin_session_options *options,
                                  marlin_session **out, struct marlin_error *err) {
    struct marlin_session_options o;
    struct ml_timeline_options to = {0};
    marlin_status st;
    if (!m || !out) return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_session_open: model or out is NULL");
    if (options)
        o = *options;
    else
        marlin_session_options_default(m, &o);
    read_sampling(&o, &to.sampling);
    to.context = o.context;

    marlin_session *s = ml_calloc(1, sizeof(*s));
    if (!s) return ml_fail(err, MARLIN_ERR_MEMORY, "marlin_session_open: out of memory");
    s->model = m;
    atomic_init(&s->cancel, false);
    ML_TRY(ml_timeline_create(&m->runtime, &to, &s->timeline, err));
    const struct ml_feeder_options fo = {.context = ml_timeline_context(s->timeline), .gate = &m->gate};
    ML_TRY(ml_feeder_create(&m->runtime, &fo, &s->feeder, err));
    *out = s;
    s = NULL;
out:
    marlin_session_close(s);
    return st;
}

void marlin_session_close(marlin_session *s) {
    if (!s) return;
    ml_timeline_free(s->timeline);
    ml_feeder_free(s->feeder);
    ml_free(s);
}

size_t marlin_session_length(const marlin_session *s) {
    return ml_timeline_length(s->timeline);
}

size_t marlin_session_context(const marlin_session *s) {
    return ml_timeline_context(s->timeline);
}

/* ---- requests ---- */

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

/* The ids of a request that are new to the timeline: *o points into ids. A conversation takes the timeline back to
 * where the two part, once nothing but memory can keep the request from starting. */
static marlin_status take_prompt(marlin_session *s, const struct marlin_request *rq, struct ml_ids *ids,
                                 struct ml_request_options *o, struct marlin_error *err) {
    size_t known = 0;
    marlin_status st = MARLIN_OK;
    if (rq->conversation) {
        st = ml_runtime_chat_ids(&s->model->runtime, rq->conversation, strlen(rq->conversation), ids, err);
        if (st == MARLIN_OK && ids->n >= ml_timeline_context(s->timeline))
            st = ml_fail(err, MARLIN_ERR_LIMIT, "chat: the conversation has %zu tokens and the context %zu",
                         ids->n, ml_timeline_context(s->timeline));
        if (st == MARLIN_OK) known = ml_timeline_reuse(s->timeline, ids->id, ids->n);
    } else if (rq->prompt) {
        /* What the post-processor adds belongs to the beginning of a timeline only. */
        unsigned flags = ml_timeline_length(s->timeline) == 0 ? ML_ENCODE_BOS : 0u;
        if (rq->special) flags |= ML_ENCODE_SPECIAL;
        st =
            ml_tokenizer_encode(s->model->runtime.tokenizer, rq->prompt, strlen(rq->prompt), flags, ids, err);
    }
    if (st == MARLIN_OK && !rq->ids) {
        o->prompt = known ? ids->id + known : ids->id; /* NULL where there is nothing to append */
        o->n_prompt = ids->n - known;
    }
    return st;
}

/* Starts a request on the session's timeline. */
static marlin_status start(marlin_session *s, const struct marlin_request *rq, struct marlin_error *err) {
    struct ml_ids ids = {0};
    struct ml_request_options o = {.prompt = rq->ids,
                                   .n_prompt = rq->n_ids,
                                   .max_tokens = rq->max_tokens,
                                   .stop = rq->stop,
                                   .n_stop = rq->n_stop,
                                   .ignore_eos = rq->ignore_eos,
                                   .on_text = rq->on_text,
                                   .user = rq->user,
                                   .cancel = &s->cancel};
    marlin_status st;
    if ((rq->prompt != NULL) + (rq->ids != NULL) + (rq->conversation != NULL) > 1)
        return ml_fail(err, MARLIN_ERR_ARGUMENT,
                       "a request has several of prompt, ids and conversation: give one of them");
    if ((rq->n_ids && !rq->ids) || (rq->n_stop && !rq->stop))
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "a request counts ids or stop strings that are NULL");
    ML_TRY(take_prompt(s, rq, &ids, &o, err));
    st = ml_timeline_start(s->timeline, &o, err);
out:
    ml_ids_free(&ids);
    return st;
}

static marlin_status outcome(const marlin_session *s, struct marlin_usage *usage, struct marlin_error *err) {
    struct ml_outcome o;
    const marlin_status st = ml_timeline_outcome(s->timeline, &o, err);
    if (st == MARLIN_OK && usage)
        *usage = (struct marlin_usage){
            .finish = public_finish(o.finish),
            .prompt_tokens = o.prompt_tokens,
            .completion_tokens = o.n_tokens,
            .prompt_seconds = o.prompt_seconds,
            .completion_seconds = o.predicted_seconds,
            .tokens = o.tokens,
        };
    return st;
}

marlin_status marlin_run(marlin_session *s, const struct marlin_request *request, struct marlin_usage *usage,
                         struct marlin_error *err) {
    if (!s || !request) return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_run: session or request is NULL");
    const marlin_status st = start(s, request, err);
    if (st != MARLIN_OK) return st;
    while (ml_feeder_step(s->feeder, &s->timeline, 1) > 0)
        continue;
    return outcome(s, usage, err);
}

marlin_status marlin_generate(marlin_session *s, const char *prompt, size_t max_tokens, marlin_text_fn *fn,
                              void *user, struct marlin_usage *usage, struct marlin_error *err) {
    const struct marlin_request rq = {
        .prompt = prompt, .max_tokens = max_tokens, .on_text = fn, .user = user};
    if (!s || !prompt) return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_generate: session or prompt is NULL");
    return marlin_run(s, &rq, usage, err);
}

MARLIN_API marlin_status marlin_chat(marlin_session *s, const char *conversation, size_t max_tokens,
                                     marlin_text_fn *fn, void *user, struct marlin_usage *usage,
                                     struct marlin_error *err) {
    const struct marlin_request rq = {
        .conversation = conversation, .max_tokens = max_tokens, .on_text = fn, .user = user};
    if (!s || !conversation)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_chat: session or conversation is NULL");
    return marlin_run(s, &rq, usage, err);
}

static marlin_status check_jobs(const struct marlin_job *jobs, size_t n, struct marlin_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (!jobs[i].session)
            return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_run_many: the session of job %zu is NULL", i);
        if (jobs[i].session->model != jobs[0].session->model)
            return ml_fail(
                err, MARLIN_ERR_ARGUMENT,
                "marlin_run_many: the session of job %zu belongs to another model than that of job 0", i);
        for (size_t k = 0; k < i; k++)
            if (jobs[k].session == jobs[i].session)
                return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_run_many: jobs %zu and %zu have one session",
                               k, i);
    }
    return MARLIN_OK;
}

/* Every job ends with its usage or its error filled in. Returns the first error. */
static marlin_status run_jobs(struct ml_feeder *f, struct ml_timeline **t, struct marlin_job *jobs, size_t n,
                              struct marlin_error *err) {
    marlin_status first = MARLIN_OK;
    for (size_t i = 0; i < n; i++) {
        jobs[i].error.code = start(jobs[i].session, &jobs[i].request, &jobs[i].error);
        t[i] = jobs[i].session->timeline;
    }
    while (ml_feeder_step(f, t, n) > 0)
        continue;
    for (size_t i = 0; i < n; i++) {
        struct marlin_job *j = &jobs[i];
        if (j->error.code == MARLIN_OK) j->error.code = outcome(j->session, &j->usage, &j->error);
        if (j->error.code == MARLIN_OK || first != MARLIN_OK) continue;
        first = j->error.code;
        if (err) *err = j->error;
    }
    return first;
}

marlin_status marlin_run_many(struct marlin_job *jobs, size_t n, struct marlin_error *err) {
    struct ml_feeder *f = NULL;
    struct ml_timeline **t = NULL;
    marlin_status st;
    if (n == 0) return MARLIN_OK;
    if (!jobs) return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_run_many: jobs is NULL");
    for (size_t i = 0; i < n; i++) {
        jobs[i].usage = (struct marlin_usage){0};
        jobs[i].error = (struct marlin_error){0};
    }
    ML_TRY(check_jobs(jobs, n, err));
    marlin_model *m = jobs[0].session->model;
    struct ml_feeder_options o = {.timelines = n, .gate = &m->gate};
    for (size_t i = 0; i < n; i++) {
        const size_t context = ml_timeline_context(jobs[i].session->timeline);
        if (context > o.context) o.context = context;
    }
    ML_TRY(ml_feeder_create(&m->runtime, &o, &f, err));
    t = ml_calloc(n, sizeof(struct ml_timeline *));
    st = t ? run_jobs(f, t, jobs, n, err) : ml_fail(err, MARLIN_ERR_MEMORY, "marlin_run_many: out of memory");
out:
    ml_feeder_free(f);
    ml_free(t);
    return st;
}

void marlin_cancel(marlin_session *s, bool cancel) {
    atomic_store_explicit(&s->cancel, cancel, memory_order_relaxed);
}

marlin_status marlin_logits(marlin_session *s, const float **logits, size_t *n, struct marlin_error *err) {
    if (!s || !logits || !n)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "marlin_logits: session, logits or n is NULL");
    *n = (size_t)ml_model_config(s->model->runtime.model)->vocab_size;
    return ml_feeder_logits(s->feeder, s->timeline, logits, err);
}
