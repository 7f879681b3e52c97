/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns timelines and the step that takes many of them forward at once. Everything that a step needs is
 * allocated when timeline, request and feeder are made.
 */
#include "engine/feeder.h"

#include "base/assert.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/mem.h"

#include <string.h>

/* A step feeds at most so many tokens of prompts, however many timelines take part. */
enum { PROMPT_ROWS = 512 };

/* What a timeline is set back to when its request fails. */
struct before {
    size_t n, fed;
    bool fresh;
};

struct ml_timeline {
    const struct ml_runtime *runtime;
    struct ml_vocabulary vocabulary;
    struct ml_sequence *sequence; /* the model's memory of the first ml_sequence_length(sequence) tokens */
    struct ml_sampler *sampler;
    int32_t *ids; /* [context], the first n of which are the timeline */
    size_t n, context, chunk;
    float *logits; /* [vocabulary], of the token that would come next, while fresh */
    bool fresh;    /* nothing was chosen from them yet */

    struct ml_request *request; /* the one that runs, else the last one; NULL at first */
    bool runs;
    struct before before;
    double start, predicting, end; /* seconds of the clock; 0 = not there yet */
    marlin_status status;          /* of the last request */
    struct marlin_error error;
};

/* What one timeline has in a step. */
struct share {
    struct ml_timeline *timeline;
    struct ml_run *run; /* NULL: nothing to feed, its logits are at hand */
    size_t prompt;      /* rows of the run, the last ones, that are of the request's prompt */
    float *row;         /* for the logits of the last token; NULL = not wanted */
};

struct ml_feeder {
    const struct ml_runtime *runtime;
    struct ml_work *work;
    struct ml_lock *gate;
    size_t vocabulary, timelines, max_prompt;
    struct share *shares; /* [timelines] */
    struct ml_run *runs;  /* [timelines] */
    int32_t *ids;         /* [max_prompt + timelines], of the rows of the runs */
    float *logits; /* [timelines, vocabulary]: first the rows of the runs that want them, in the order of
                             the runs; rows that are at hand from the end */
    size_t n_shares, n_runs, n_rows, n_wanted, n_at_hand;
};

/* ---- timelines ---- */

static marlin_status reserve_timeline(struct ml_timeline *t, const struct ml_timeline_options *o,
                                      struct marlin_error *err) {
    size_t ids_bytes, logits_bytes;
    marlin_status st = ml_sampling_check(&o->sampling, t->vocabulary.size, err);
    if (st != MARLIN_OK) return st;
    if (!ml_mul_size(t->vocabulary.size, sizeof(float), &logits_bytes) ||
        !ml_mul_size(t->context, sizeof(*t->ids), &ids_bytes))
        return ml_fail(err, MARLIN_ERR_LIMIT, "generation: a context of %zu tokens is too long", t->context);
    t->logits = ml_alloc_aligned(logits_bytes);
    t->ids = ml_alloc(ids_bytes);
    if (!t->logits || !t->ids)
        return ml_fail(err, MARLIN_ERR_MEMORY, "generation: out of memory for %zu logits and %zu ids",
                       t->vocabulary.size, t->context);
    st = ml_sampler_create(&o->sampling, t->vocabulary.size, t->context, &t->sampler, err);
    if (st != MARLIN_OK) return st;
    return ml_sequence_create_alone(t->runtime->model, t->context, t->chunk, &t->sequence, err);
}

marlin_status ml_timeline_create(const struct ml_runtime *r, const struct ml_timeline_options *o,
                                 struct ml_timeline **out, struct marlin_error *err) {
    const struct ml_config *c = ml_model_config(r->model);
    struct ml_timeline *t = ml_calloc(1, sizeof(*t));
    if (!t) return ml_fail(err, MARLIN_ERR_MEMORY, "generation: out of memory");
    t->runtime = r;
    t->vocabulary = (struct ml_vocabulary){
        .size = (size_t)c->vocab_size, .eos = r->eos, .n_eos = r->n_eos, .tokenizer = r->tokenizer};
    t->context = ml_runtime_context(r->model, o->context);
    t->chunk = o->chunk && o->chunk < PROMPT_ROWS ? o->chunk : PROMPT_ROWS;
    if (t->chunk > t->context) t->chunk = t->context;
    const marlin_status st = reserve_timeline(t, o, err);
    if (st == MARLIN_OK)
        *out = t;
    else
        ml_timeline_free(t);
    return st;
}

void ml_timeline_free(struct ml_timeline *t) {
    if (!t) return;
    ml_request_free(t->request);
    ml_sequence_free(t->sequence);
    ml_sampler_free(t->sampler);
    ml_free_aligned(t->logits);
    ml_free(t->ids);
    ml_free(t);
}

size_t ml_timeline_length(const struct ml_timeline *t) {
    return t->n;
}

size_t ml_timeline_context(const struct ml_timeline *t) {
    return t->context;
}

bool ml_timeline_runs(const struct ml_timeline *t) {
    return t->runs;
}

/* Tokens of the timeline that the model has still to be fed. */
static size_t backlog(const struct ml_timeline *t) {
    return t->n - ml_sequence_length(t->sequence);
}

/* Sees to it that there is a token to feed where the next logits are not at hand. */
static void go_on(struct ml_timeline *t) {
    if (!t->fresh && backlog(t) == 0) (void)ml_sequence_rewind(t->sequence, t->n - 1);
}

size_t ml_timeline_reuse(struct ml_timeline *t, const int32_t *ids, size_t n) {
    const size_t fed = ml_sequence_length(t->sequence), old = t->n;
    size_t same = 0;
    ML_ASSERT(!t->runs);
    while (same < fed && same + 1 < n && t->ids[same] == ids[same])
        same++;
    t->n = same < fed ? ml_sequence_rewind(t->sequence, same) : fed;
    if (t->n == old) return old;
    t->fresh = false;
    struct ml_sampler_mark mark = ml_sampler_mark(t->sampler);
    mark.accepted = t->n;
    ml_sampler_rewind(t->sampler, &mark);
    return t->n;
}

marlin_status ml_timeline_set_sampling(struct ml_timeline *t, const struct ml_sampling *sampling,
                                       struct marlin_error *err) {
    struct ml_sampler *sampler = NULL;
    ML_ASSERT(!t->runs);
    marlin_status st = ml_sampling_check(sampling, t->vocabulary.size, err);
    if (st == MARLIN_OK) st = ml_sampler_create(sampling, t->vocabulary.size, t->context, &sampler, err);
    if (st != MARLIN_OK) return st;
    for (size_t i = 0; i < t->n; i++)
        ml_sampler_accept(sampler, t->ids[i]);
    /* The last request has the old one's marks, which nobody asks it for any more. */
    ml_request_free(t->request);
    t->request = NULL;
    ml_sampler_free(t->sampler);
    t->sampler = sampler;
    return MARLIN_OK;
}

/* ---- requests on a timeline ---- */

/* The timeline may become so long by the request: where that wants other rotary tables than its keys were rotated
 * by, all of them are computed anew. */
static void expect(struct ml_timeline *t, const struct ml_request_options *o) {
    const size_t room = t->context - o->length, more = o->max_tokens < room ? o->max_tokens : room;
    const size_t wanted = o->n_prompt < room - more ? o->length + o->n_prompt + more : t->context;
    if (ml_sequence_length(t->sequence) > 0 && wanted <= ml_sequence_holds(t->sequence)) return;
    if (ml_sequence_expect(t->sequence, wanted)) return;
    (void)ml_sequence_rewind(t->sequence, 0);
    (void)ml_sequence_expect(t->sequence, wanted);
}

marlin_status ml_timeline_start(struct ml_timeline *t, const struct ml_request_options *options,
                                struct marlin_error *err) {
    struct ml_request *request = NULL;
    struct ml_request_options o = *options;
    if (t->runs) return ml_fail(err, MARLIN_ERR_ARGUMENT, "a request already runs on this timeline");
    if (o.n_prompt == 0 && t->n == 0)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "the prompt has no tokens: give at least one");
    o.length = t->n;
    o.context = t->context;
    const marlin_status st = ml_request_create(&t->vocabulary, t->sampler, &o, &request, err);
    if (st != MARLIN_OK) return st;
    ml_request_free(t->request);
    t->request = request;
    t->before = (struct before){t->n, ml_sequence_length(t->sequence), t->fresh};
    expect(t, &o);
    if (o.n_prompt == 0) go_on(t);
    t->start = t->predicting = t->end = 0;
    t->status = MARLIN_OK;
    t->runs = true;
    return MARLIN_OK;
}

marlin_status ml_timeline_outcome(const struct ml_timeline *t, struct ml_outcome *out,
                                  struct marlin_error *err) {
    memset(out, 0, sizeof(*out));
    if (!t->request || t->runs)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "no request has ended on this timeline");
    if (t->status != MARLIN_OK) {
        if (err) *err = t->error;
        return t->status;
    }
    out->finish = ml_request_finish(t->request);
    out->tokens = ml_request_tokens(t->request, &out->n_tokens);
    out->prompt_tokens = ml_request_prompt_fed(t->request);
    out->prompt_seconds = t->predicting - t->start;
    out->predicted_seconds = t->end - t->predicting;
    return MARLIN_OK;
}

/* The model's memory may be set back further than was asked for, where a sliding window has moved on: what is
 * missing is then fed again by the next request. */
static void fail(struct ml_timeline *t, marlin_status st) {
    (void)ml_sequence_rewind(t->sequence, t->before.fed);
    t->n = t->before.n;
    t->fresh = t->before.fresh;
    ml_request_undo(t->request);
    t->status = st;
    t->runs = false;
}

/* The request has finished, or failed with st and t->error. row: its last logits, from which nothing was
 * chosen, else NULL. */
static void end(struct ml_timeline *t, marlin_status st, const float *row) {
    t->end = ml_clock_seconds();
    if (t->predicting == 0) t->predicting = t->end;
    if (st == MARLIN_OK) st = ml_model_check(t->runtime->model, &t->error);
    if (st != MARLIN_OK) {
        fail(t, st);
        return;
    }
    if (row) memcpy(t->logits, row, t->vocabulary.size * sizeof(*row));
    t->fresh = t->fresh || row;
    t->runs = false;
}

static void cancel(struct ml_timeline *t) {
    end(t, ml_request_cancel(t->request, &t->error), NULL);
}

/* ---- feeders ---- */

static marlin_status reserve_feeder(struct ml_feeder *f, struct marlin_error *err) {
    size_t count, bytes;
    if (ml_mul_size(f->timelines, f->vocabulary, &count) && ml_mul_size(count, sizeof(float), &bytes)) {
        f->shares = ml_calloc(f->timelines, sizeof(*f->shares));
        f->runs = ml_calloc(f->timelines, sizeof(*f->runs));
        f->ids = ml_calloc(f->max_prompt + f->timelines, sizeof(*f->ids));
        f->logits = ml_alloc_aligned(bytes);
    }
    if (f->shares && f->runs && f->ids && f->logits) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY, "generation: out of memory for the logits of %zu timelines",
                   f->timelines);
}

marlin_status ml_feeder_create(const struct ml_runtime *r, const struct ml_feeder_options *o,
                               struct ml_feeder **out, struct marlin_error *err) {
    struct ml_feeder *f = ml_calloc(1, sizeof(*f));
    if (!f) return ml_fail(err, MARLIN_ERR_MEMORY, "generation: out of memory");
    f->runtime = r;
    f->gate = o->gate;
    f->vocabulary = (size_t)ml_model_config(r->model)->vocab_size;
    f->timelines = o->timelines ? o->timelines : 1;
    const size_t positions = ml_runtime_context(r->model, o->context);
    f->max_prompt = positions < PROMPT_ROWS ? positions : PROMPT_ROWS;
    /* One timeline has either a piece of a prompt or a token in a step. */
    const struct ml_work_sizes sizes = {
        .rows = f->max_prompt + f->timelines - 1, .runs = f->timelines, .positions = positions};
    marlin_status st = reserve_feeder(f, err);
    if (st == MARLIN_OK) st = ml_work_create(r->model, r->pool, &sizes, &f->work, err);
    if (st != MARLIN_OK) {
        ml_feeder_free(f);
        return st;
    }
    ml_work_profile(f->work, o->profile);
    *out = f;
    return MARLIN_OK;
}

void ml_feeder_free(struct ml_feeder *f) {
    if (!f) return;
    ml_work_free(f->work);
    ml_free(f->shares);
    ml_free(f->runs);
    ml_free(f->ids);
    ml_free_aligned(f->logits);
    ml_free(f);
}

/* ---- one step: what is wanted ---- */

static void begin_step(struct ml_feeder *f) {
    f->n_shares = f->n_runs = f->n_rows = f->n_wanted = f->n_at_hand = 0;
}

/* The next n rows of a timeline: what it has still to be fed, then n_prompt ids of a prompt. */
static void add_rows(struct ml_feeder *f, struct ml_timeline *t, size_t n, const int32_t *prompt,
                     size_t n_prompt, const atomic_bool *cancel) {
    const size_t fed = ml_sequence_length(t->sequence), old = backlog(t) < n ? backlog(t) : n;
    const bool last = n == backlog(t) + n_prompt;
    int32_t *ids = f->ids + f->n_rows;
    memcpy(ids, t->ids + fed, old * sizeof(*ids));
    if (n > old && prompt) memcpy(ids + old, prompt, (n - old) * sizeof(*ids));

    struct ml_run *run = &f->runs[f->n_runs++];
    *run = (struct ml_run){.sequence = t->sequence,
                           .first = f->n_rows,
                           .n = n,
                           .logits = last ? ML_LOGITS_LAST : ML_LOGITS_NONE,
                           .cancel = cancel,
                           .error = &t->error};
    f->shares[f->n_shares++] = (struct share){.timeline = t,
                                              .run = run,
                                              .prompt = n - old,
                                              .row = last ? f->logits + f->n_wanted * f->vocabulary : NULL};
    f->n_rows += n;
    f->n_wanted += last;
}

static void add_request(struct ml_feeder *f, struct ml_timeline *t, size_t n) {
    size_t n_prompt;
    const int32_t *prompt = ml_request_prompt(t->request, &n_prompt);
    add_rows(f, t, n, prompt, n_prompt, ml_request_cancel_flag(t->request));
}

/* A row to choose from that is at hand; a copy, since choosing changes it and the request may fail. */
static void add_row_at_hand(struct ml_feeder *f, struct ml_timeline *t) {
    float *row = f->logits + (f->timelines - ++f->n_at_hand) * f->vocabulary;
    memcpy(row, t->logits, f->vocabulary * sizeof(*row));
    f->shares[f->n_shares++] = (struct share){.timeline = t, .row = row};
}

/* Tokens that it wants fed before it can choose. */
static size_t wanted(const struct ml_timeline *t) {
    size_t prompt;
    ml_request_prompt(t->request, &prompt);
    return prompt == 0 && t->fresh ? 0 : backlog(t) + prompt;
}

/* Those that choose in this step come first: a long prompt does not hold them up. */
static void gather(struct ml_feeder *f, struct ml_timeline *const *t, size_t n) {
    const double now = ml_clock_seconds();
    size_t room = f->max_prompt;
    begin_step(f);
    for (size_t i = 0; i < n; i++) {
        if (!t[i]->runs) continue;
        if (t[i]->start == 0) t[i]->start = now;
        if (ml_request_is_cancelled(t[i]->request))
            cancel(t[i]);
        else if (wanted(t[i]) == 0)
            add_row_at_hand(f, t[i]);
        else if (wanted(t[i]) == 1)
            add_request(f, t[i], 1);
    }
    for (size_t i = 0; i < n; i++) {
        size_t rows = t[i]->runs ? wanted(t[i]) : 0;
        if (rows <= 1) continue;
        if (rows > t[i]->chunk) rows = t[i]->chunk;
        if (rows > room) rows = room;
        if (rows > 0) add_request(f, t[i], rows);
        room -= rows;
    }
}

/* ---- one step: feeding and taking ---- */

/* The one place that computes. Each run then has its status. */
static void forward(struct ml_feeder *f) {
    struct ml_batch batch = {.n = f->n_rows, .ids = f->ids, .runs = f->runs, .n_runs = f->n_runs};
    if (f->n_runs == 0) return;
    if (f->gate) ml_lock_take(f->gate);
    ml_mem_guard_begin("the forward pass");
    (void)!ml_forward(f->work, &batch, f->logits, NULL);
    ml_mem_guard_end();
    if (f->gate) ml_lock_release(f->gate);
}

static void append(struct ml_timeline *t, const int32_t *ids, size_t n) {
    memcpy(t->ids + t->n, ids, n * sizeof(*ids));
    t->n += n;
    t->fresh = false;
}

static void take(struct ml_timeline *t, float *row) {
    int32_t next;
    if (t->predicting == 0) t->predicting = ml_clock_seconds();
    const marlin_status st = ml_request_take(t->request, row, &next, &t->error);
    if (next >= 0) append(t, &next, 1);
    if (st == MARLIN_OK && !ml_request_finished(t->request)) return;
    end(t, st, next < 0 ? row : NULL);
}

static void follow(struct ml_feeder *f, const struct share *s) {
    struct ml_timeline *t = s->timeline;
    if (s->run && s->run->status == MARLIN_ERR_CANCELLED) {
        cancel(t);
        return;
    }
    if (s->run && s->run->status != MARLIN_OK) {
        end(t, s->run->status, NULL); /* t->error says why */
        return;
    }
    if (s->run && s->prompt > 0) {
        append(t, f->ids + s->run->first + s->run->n - s->prompt, s->prompt);
        ml_request_fed(t->request, s->prompt);
    }
    if (s->row) take(t, s->row);
}

size_t ml_feeder_step(struct ml_feeder *f, struct ml_timeline *const *t, size_t n) {
    size_t running = 0;
    gather(f, t, n);
    forward(f);
    for (size_t i = 0; i < f->n_shares; i++)
        follow(f, &f->shares[i]);
    for (size_t i = 0; i < n; i++)
        running += t[i]->runs;
    return running;
}

marlin_status ml_feeder_run(struct ml_feeder *f, struct ml_timeline *t,
                            const struct ml_request_options *options, struct ml_outcome *out,
                            struct marlin_error *err) {
    memset(out, 0, sizeof(*out));
    const marlin_status st = ml_timeline_start(t, options, err);
    if (st != MARLIN_OK) return st;
    while (ml_feeder_step(f, &t, 1) > 0)
        continue;
    return ml_timeline_outcome(t, out, err);
}

/* Feeds what the model has not seen of a timeline on which nothing runs; its logits are fresh then. */
static marlin_status catch_up(struct ml_feeder *f, struct ml_timeline *t, struct marlin_error *err) {
    go_on(t);
    while (!t->fresh) {
        const struct share *s = &f->shares[0];
        size_t n = backlog(t) < t->chunk ? backlog(t) : t->chunk;
        if (n > f->max_prompt) n = f->max_prompt;
        begin_step(f);
        add_rows(f, t, n, NULL, 0, NULL);
        forward(f);
        if (s->run->status != MARLIN_OK) {
            if (err) *err = t->error;
            return s->run->status;
        }
        if (s->row) memcpy(t->logits, s->row, f->vocabulary * sizeof(*s->row));
        t->fresh = s->row != NULL;
    }
    return MARLIN_OK;
}

marlin_status ml_feeder_logits(struct ml_feeder *f, struct ml_timeline *t, const float **logits,
                               struct marlin_error *err) {
    if (t->n == 0 || t->runs)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "logits: %s",
                       t->runs ? "a request runs on this timeline" : "the timeline has no tokens yet");
    const marlin_status st = catch_up(f, t, err);
    if (st == MARLIN_OK) *logits = t->logits;
    return st;
}
