/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns timelines and the step that takes many of them forward at once. Everything that a step needs is
 * allocated when timeline, request and feeder are made.
 */
#include "engine/feeder.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/mem.h"

#include <string.h>

/* A step feeds at most so many tokens of prompts, however many timelines take part. */
enum { PROMPT_ROWS = 512 };

/* What a timeline is set back to when its request fails. */
struct before {
    size_t n_ids;
    int32_t pending;
    bool fresh;
};

struct ml_timeline {
    const struct ml_runtime *runtime;
    struct ml_vocabulary vocabulary;
    struct ml_sequence *sequence; /* the model's memory of the first of them */
    struct ml_profile *profile;
    struct ml_sampler *sampler;
    size_t context, chunk;
    int32_t *ids; /* [context] the tokens, without the pending one */
    size_t n_ids;
    int32_t pending; /* chosen but not yet fed, -1 = none */
    float *logits;   /* [vocabulary], of the last token fed, while fresh */
    bool fresh;      /* nothing was chosen from them yet */

    struct ml_request *request; /* the one that runs, else the last one; NULL at first */
    bool runs;
    struct before before;
    double start, predicting, end; /* seconds of the clock; 0 = not there yet */
    marlin_status status;          /* of the last request */
    struct marlin_error error;
};

enum kind { AGAIN, PENDING, PROMPT };

/* Rows of one timeline in a batch. */
struct run {
    struct ml_timeline *timeline;
    enum kind kind;     /* tokens that the timeline has already; the one not fed yet; of the prompt */
    const int32_t *ids; /* [n]; none where the timeline's own logits are fresh */
    size_t n;
    bool wants_logits;
    float *logits;             /* row for the logits of the last token; NULL = not wanted */
    const atomic_bool *cancel; /* may be set while the batch is computed; may be NULL */
    marlin_status status;      /* MARLIN_ERR_CANCELLED: the rows were not fed, because of `cancel` */
    struct marlin_error error;
};

struct ml_feeder {
    const struct ml_runtime *runtime;
    struct ml_lock *gate;
    struct ml_work *work;
    size_t vocabulary;
    size_t timelines, rows;
    struct run *runs; /* [timelines], the first n of which are the batch of this step */
    size_t n;
    struct ml_run *fed; /* [timelines] those of them that have rows, as the model is given them */
    int32_t *ids;       /* [rows] */
    float *logits;      /* [timelines, vocabulary]: first those of the runs that are fed, in their order */
};

/* ---- timelines ---- */

static marlin_status reserve_timeline(struct ml_timeline *t, const struct ml_timeline_options *o,
                                      struct marlin_error *err) {
    const struct ml_runtime *r = t->runtime;
    size_t bytes;
    marlin_status st = ml_sampling_check(&o->sampling, t->vocabulary.size, err);
    if (st != MARLIN_OK) return st;
    if (!ml_mul_size(t->vocabulary.size, sizeof(float), &bytes))
        return ml_fail(err, MARLIN_ERR_LIMIT, "generation: %zu logits are too many", t->vocabulary.size);
    t->logits = ml_alloc_aligned(bytes);
    t->ids = ml_calloc(t->context, sizeof *t->ids);
    if (!t->ids)
        return ml_fail(err, MARLIN_ERR_MEMORY, "generation: out of memory for %zu tokens", t->context);
    if (!t->logits)
        return ml_fail(err, MARLIN_ERR_MEMORY, "generation: out of memory for %zu logits",
                       t->vocabulary.size);
    st = ml_sampler_create(&o->sampling, t->vocabulary.size, t->context, &t->sampler, err);
    if (st != MARLIN_OK) return st;
    t->profile = o->profile;
    return ml_sequence_create_alone(r->model, t->context, t->chunk, &t->sequence, err);
}

marlin_status ml_timeline_create(const struct ml_runtime *r, const struct ml_timeline_options *o,
                                 struct ml_timeline **out, struct marlin_error *err) {
    const struct ml_config *c = ml_model_config(r->model);
    struct ml_timeline *t = ml_calloc(1, sizeof(*t));
    if (!t) return ml_fail(err, MARLIN_ERR_MEMORY, "generation: out of memory");
    t->runtime = r;
    t->vocabulary = (struct ml_vocabulary){.size = (size_t)c->vocab_size,
                                           .eos = c->eos_ids,
                                           .n_eos = (size_t)c->n_eos,
                                           .tokenizer = r->tokenizer};
    t->context = ml_runtime_context(r->model, o->context);
    t->chunk = o->chunk && o->chunk < PROMPT_ROWS ? o->chunk : PROMPT_ROWS;
    if (t->chunk > t->context) t->chunk = t->context;
    t->pending = -1;
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
    return t->n_ids + (t->pending >= 0 ? 1 : 0);
}

size_t ml_timeline_context(const struct ml_timeline *t) {
    return t->context;
}

bool ml_timeline_runs(const struct ml_timeline *t) {
    return t->runs;
}

/* ---- requests on a timeline ---- */

/* Tokens of the timeline that the model has to be fed again. */
static size_t missing(const struct ml_timeline *t) {
    return t->n_ids - ml_sequence_length(t->sequence);
}

/* The timeline may become so long by the request: where that wants other rotary tables than its keys were rotated
 * by, they are computed anew. */
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
    if (o.n_prompt == 0 && t->pending < 0 && !t->fresh)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "the prompt has no tokens: give at least one");
    o.length = ml_timeline_length(t);
    o.context = t->context;
    const marlin_status st = ml_request_create(&t->vocabulary, t->sampler, &o, &request, err);
    if (st != MARLIN_OK) return st;
    ml_request_free(t->request);
    t->request = request;
    t->before = (struct before){t->n_ids, t->pending, t->fresh};
    expect(t, &o);
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

static void fail(struct ml_timeline *t, marlin_status st) {
    t->n_ids = t->before.n_ids;
    if (ml_sequence_length(t->sequence) > t->n_ids) (void)ml_sequence_rewind(t->sequence, t->n_ids);
    t->pending = t->before.pending;
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
    if (ml_mul_size(f->timelines, f->vocabulary, &count) && ml_mul_size(count, sizeof(float), &bytes))
        f->logits = ml_alloc_aligned(bytes);
    f->runs = ml_calloc(f->timelines, sizeof(*f->runs));
    f->fed = ml_calloc(f->timelines, sizeof(*f->fed));
    f->ids = ml_calloc(f->rows, sizeof(*f->ids));
    if (f->runs && f->fed && f->ids && f->logits) return MARLIN_OK;
    return ml_fail(err, MARLIN_ERR_MEMORY, "generation: out of memory for the logits of %zu timelines",
                   f->timelines);
}

marlin_status ml_feeder_create(const struct ml_runtime *r, const struct ml_feeder_options *o,
                               struct ml_feeder **out, struct marlin_error *err) {
    const size_t context = ml_runtime_context(r->model, o->context);
    marlin_status st;
    struct ml_feeder *f = ml_calloc(1, sizeof(*f));
    if (!f) return ml_fail(err, MARLIN_ERR_MEMORY, "generation: out of memory");
    f->runtime = r;
    f->gate = o->gate;
    f->vocabulary = (size_t)ml_model_config(r->model)->vocab_size;
    f->timelines = o->timelines ? o->timelines : 1;
    /* Every timeline has a row beside the prompts' but one: it is in its prompt itself. */
    f->rows = (context < PROMPT_ROWS ? context : (size_t)PROMPT_ROWS) + f->timelines - 1;
    const struct ml_work_sizes sizes = {.rows = f->rows, .runs = f->timelines, .positions = context};
    ML_TRY(reserve_feeder(f, err));
    ML_TRY(ml_work_create(r->model, r->pool, &sizes, &f->work, err));
out:
    if (st == MARLIN_OK)
        *out = f;
    else
        ml_feeder_free(f);
    return st;
}

void ml_feeder_free(struct ml_feeder *f) {
    if (!f) return;
    ml_work_free(f->work);
    ml_free(f->runs);
    ml_free(f->fed);
    ml_free(f->ids);
    ml_free_aligned(f->logits);
    ml_free(f);
}

/* ---- one step: what is wanted ---- */

static struct run *add_run(struct ml_feeder *f, struct ml_timeline *t, enum kind kind, const int32_t *ids,
                           size_t n) {
    struct run *run = &f->runs[f->n++];
    *run = (struct run){.timeline = t,
                        .kind = kind,
                        .ids = ids,
                        .n = n,
                        .cancel = ml_request_cancel_flag(t->request)};
    return run;
}

/* A timeline that goes on from one token, or from logits that it has. Logits are wanted once nothing of the
 * prompt is left. */
static void gather_token(struct ml_feeder *f, struct ml_timeline *t) {
    size_t prompt;
    ml_request_prompt(t->request, &prompt);
    if (missing(t) > 0 || (t->pending < 0 && prompt > 0)) return;
    struct run *run = add_run(f, t, PENDING, &t->pending, t->pending >= 0 ? 1 : 0);
    run->wants_logits = prompt == 0;
}

static size_t piece(const struct ml_timeline *t, size_t left, size_t *room) {
    size_t n = left < t->chunk ? left : t->chunk;
    if (n > *room) n = *room;
    *room -= n;
    return n;
}

/* A piece of its prompt, or of what has to be fed again before, as far as *room allows. */
static void gather_prompt(struct ml_feeder *f, struct ml_timeline *t, size_t *room) {
    size_t left;
    const int32_t *ids = ml_request_prompt(t->request, &left);
    if (missing(t) > 0) {
        const size_t n = piece(t, missing(t), room);
        if (n > 0) add_run(f, t, AGAIN, t->ids + ml_sequence_length(t->sequence), n);
        return;
    }
    if (t->pending >= 0 || left == 0) return;
    const size_t n = piece(t, left, room);
    if (n > 0) add_run(f, t, PROMPT, ids, n)->wants_logits = n == left;
}

/* Those that generate come first: a long prompt does not hold them up. */
static void gather(struct ml_feeder *f, struct ml_timeline *const *t, size_t n) {
    const double now = ml_clock_seconds();
    size_t room = f->rows - (f->timelines - 1);
    f->n = 0;
    for (size_t i = 0; i < n; i++) {
        if (!t[i]->runs) continue;
        if (t[i]->start == 0) t[i]->start = now;
        if (ml_request_is_cancelled(t[i]->request))
            cancel(t[i]);
        else
            gather_token(f, t[i]);
    }
    for (size_t i = 0; i < n; i++)
        if (t[i]->runs) gather_prompt(f, t[i], &room);
}

/* ---- one step: feeding and taking ---- */

/* The batch of all runs that have rows. Those without want the logits that their timelines have. */
static struct ml_batch make_batch(struct ml_feeder *f) {
    struct ml_batch b = {.ids = f->ids, .runs = f->fed};
    float *row = f->logits;
    for (size_t i = 0; i < f->n; i++) {
        struct run *run = &f->runs[i];
        if (run->n == 0) continue;
        memcpy(f->ids + b.n, run->ids, run->n * sizeof(*f->ids));
        f->fed[b.n_runs++] = (struct ml_run){.sequence = run->timeline->sequence,
                                             .first = b.n,
                                             .n = run->n,
                                             .logits = run->wants_logits ? ML_LOGITS_LAST : ML_LOGITS_NONE,
                                             .cancel = run->cancel,
                                             .error = &run->error};
        b.n += run->n;
        if (run->wants_logits) run->logits = row, row += f->vocabulary;
    }
    for (size_t i = 0; i < f->n; i++) {
        struct run *run = &f->runs[i];
        if (run->n > 0 || !run->wants_logits) continue;
        memcpy(row, run->timeline->logits, f->vocabulary * sizeof(*row));
        run->logits = row;
        row += f->vocabulary;
    }
    return b;
}

/* The one place that computes: all runs of a step. */
static void forward(struct ml_feeder *f) {
    struct ml_batch b = make_batch(f);
    if (b.n_runs == 0) return;
    ml_work_profile(f->work, f->runs[0].timeline->profile);
    if (f->gate) ml_lock_take(f->gate);
    ml_mem_guard_begin("the forward pass");
    (void)!ml_forward(f->work, &b, f->logits, NULL); /* each run has a status of its own */
    ml_mem_guard_end();
    if (f->gate) ml_lock_release(f->gate);
    for (size_t i = 0, k = 0; i < f->n; i++) {
        if (f->runs[i].n == 0) continue;
        f->runs[i].status = f->fed[k++].status;
    }
}

static void take(struct ml_timeline *t, float *row) {
    if (t->predicting == 0) t->predicting = ml_clock_seconds();
    const marlin_status st = ml_request_take(t->request, row, &t->pending, &t->error);
    if (st == MARLIN_OK && !ml_request_finished(t->request)) return;
    end(t, st, t->pending < 0 ? row : NULL);
}

/* What was fed belongs to the timeline now. */
static void follow(struct run *run) {
    struct ml_timeline *t = run->timeline;
    if (run->status == MARLIN_OK && run->kind != AGAIN) {
        memcpy(t->ids + t->n_ids, run->ids, run->n * sizeof(*t->ids));
        t->n_ids += run->n;
    }
    if (run->status == MARLIN_ERR_CANCELLED) {
        cancel(t);
    } else if (run->status != MARLIN_OK) {
        t->error = run->error;
        end(t, run->status, NULL);
    } else {
        if (run->kind != AGAIN) t->fresh = false;
        if (run->kind == PENDING && run->n > 0) t->pending = -1;
        if (run->kind == PROMPT) ml_request_fed(t->request, run->n);
        if (run->logits) take(t, run->logits);
    }
}

size_t ml_feeder_step(struct ml_feeder *f, struct ml_timeline *const *t, size_t n) {
    size_t running = 0;
    gather(f, t, n);
    forward(f);
    for (size_t i = 0; i < f->n; i++)
        follow(&f->runs[i]);
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

/* One run alone. */
static marlin_status feed_alone(struct ml_feeder *f, const struct run *run, struct marlin_error *err) {
    f->n = 1;
    f->runs[0] = *run;
    forward(f);
    if (err && f->runs[0].status != MARLIN_OK) *err = f->runs[0].error;
    return f->runs[0].status;
}

/* Feeds what the model has to be fed again, and the pending token. */
static marlin_status catch_up(struct ml_feeder *f, struct ml_timeline *t, struct marlin_error *err) {
    marlin_status st;
    while (missing(t) > 0) {
        const size_t n = missing(t) < t->chunk ? missing(t) : t->chunk;
        const struct run again = {
            .timeline = t, .kind = AGAIN, .ids = t->ids + ml_sequence_length(t->sequence), .n = n};
        ML_TRY(feed_alone(f, &again, err));
    }
    const struct run last = {
        .timeline = t, .kind = PENDING, .ids = &t->pending, .n = 1, .wants_logits = true};
    ML_TRY(feed_alone(f, &last, err));
    memcpy(t->logits, f->logits, f->vocabulary * sizeof(*t->logits));
    t->ids[t->n_ids++] = t->pending;
    t->pending = -1;
    t->fresh = true;
out:
    return st;
}

marlin_status ml_feeder_logits(struct ml_feeder *f, struct ml_timeline *t, const float **logits,
                               struct marlin_error *err) {
    if (t->runs) return ml_fail(err, MARLIN_ERR_ARGUMENT, "logits: a request runs on this timeline");
    if (!t->fresh && t->pending < 0)
        return ml_fail(err, MARLIN_ERR_ARGUMENT,
                       ml_timeline_length(t) == 0
                           ? "logits: the timeline has no tokens yet"
                           : "logits: the last request was cancelled in the middle of its prompt");
    const marlin_status st = t->fresh ? MARLIN_OK : catch_up(f, t, err);
    if (st == MARLIN_OK) *logits = t->logits;
    return st;
}
