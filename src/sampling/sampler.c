/* SPDX-License-Identifier: Apache-2.0
 *
 * One draw, in this order: logit bias, penalties, temperature, top-k, top-p, min-p, choice.
 *
 *   top-k  keeps the k largest logits (ties: lowest ids)
 *   top-p  keeps the shortest run of most probable tokens, among those that top-k left, whose probabilities,
 *          renormalised over them, reach p
 *   min-p  keeps tokens at least min_p times as probable as the most probable one
 *
 * The vocabulary is never sorted whole: top-k keeps a heap of k, top-p drops what cannot be in the nucleus
 * and takes the rest from a heap until the sum is reached. Weights are exp((logit - max) / T) in double
 * precision with an exp of our own, so that the same seed gives the same tokens with every C library.
 */
#include "sampling/sampler.h"

#include "base/assert.h"
#include "base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

struct candidate {
    double weight;
    float logit;
    int32_t id;
};

/* An id that penalties look at. */
struct seen {
    int32_t id;
    uint32_t count;
};

struct ml_sampler {
    struct ml_sampling settings;
    struct ml_bias *bias;
    size_t vocab;
    struct ml_rng rng;
    struct candidate *candidates; /* [vocab] */
    size_t n;                     /* candidates in play */
    struct seen *seen;            /* [n_seen], in no order */
    size_t n_seen;
    int32_t *where;   /* [vocab]: index into seen, or -1; NULL without penalties */
    int32_t *history; /* [max_tokens]: accepted ids, the first `accepted` of which count */
    size_t max_tokens, accepted;
    size_t window; /* penalties look at so many of the last ids; max_tokens = at all of them */
};

void ml_sampling_default(struct ml_sampling *s) {
    *s = (struct ml_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
}

static marlin_status bad(struct marlin_error *err, const char *name, double v, const char *range) {
    return ml_fail(err, MARLIN_ERR_ARGUMENT, "sampling: %s %g: must be %s", name, v, range);
}

marlin_status ml_sampling_check(const struct ml_sampling *s, size_t vocab, struct marlin_error *err) {
    if (vocab == 0 || vocab > INT32_MAX)
        return ml_fail(err, MARLIN_ERR_ARGUMENT, "sampling: vocabulary of %zu ids", vocab);
    if (!(isfinite(s->temperature) && s->temperature >= 0))
        return bad(err, "temperature", s->temperature, "a finite number, 0 or more");
    if (s->top_k < 0) return bad(err, "top_k", s->top_k, "0 or more");
    if (!(s->top_p >= 0 && s->top_p <= 1)) return bad(err, "top_p", s->top_p, "0 to 1");
    if (!(s->min_p >= 0 && s->min_p <= 1)) return bad(err, "min_p", s->min_p, "0 to 1");
    if (!(isfinite(s->repetition_penalty) && s->repetition_penalty > 0))
        return bad(err, "repetition_penalty", s->repetition_penalty, "a finite number above 0");
    if (!isfinite(s->presence_penalty)) return bad(err, "presence_penalty", s->presence_penalty, "finite");
    if (!isfinite(s->frequency_penalty)) return bad(err, "frequency_penalty", s->frequency_penalty, "finite");
    if (s->penalty_window < 0) return bad(err, "penalty_window", s->penalty_window, "0 or more");
    for (size_t i = 0; i < s->n_bias; i++) {
        const struct ml_bias *b = &s->bias[i];
        if (b->id < 0 || (size_t)b->id >= vocab)
            return ml_fail(err, MARLIN_ERR_ARGUMENT,
                           "sampling: bias for id %d, outside the vocabulary of %zu", b->id, vocab);
        if (isnan(b->bias) || b->bias == INFINITY)
            return bad(err, "bias", b->bias, "a number, or -infinity to forbid");
    }
    return MARLIN_OK;
}

static bool has_penalties(const struct ml_sampling *s) {
    return s->repetition_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
}

static marlin_status allocate(struct ml_sampler *s, size_t max_tokens, struct marlin_error *err) {
    const struct ml_sampling *set = &s->settings;
    if (set->temperature > 0) s->candidates = ml_calloc(s->vocab, sizeof *s->candidates);
    if (set->temperature > 0 && !s->candidates) goto memory;
    if (set->n_bias > 0) {
        s->bias = ml_calloc(set->n_bias, sizeof *s->bias);
        if (!s->bias) goto memory;
        memcpy(s->bias, set->bias, set->n_bias * sizeof *s->bias);
    }
    s->settings.bias = s->bias;
    if (!has_penalties(set)) return MARLIN_OK;
    s->where = ml_calloc(s->vocab, sizeof *s->where);
    s->seen = ml_calloc(s->vocab, sizeof *s->seen);
    if (!s->where || !s->seen) goto memory;
    memset(s->where, 0xff, s->vocab * sizeof *s->where);
    s->max_tokens = max_tokens;
    s->window = set->penalty_window > 0 ? (size_t)set->penalty_window : max_tokens;
    s->history = ml_calloc(max_tokens, sizeof *s->history);
    if (s->history) return MARLIN_OK;
memory:
    return ml_fail(err, MARLIN_ERR_MEMORY, "sampling: out of memory for a vocabulary of %zu ids", s->vocab);
}

marlin_status ml_sampler_create(const struct ml_sampling *settings, size_t vocab, size_t max_tokens,
                                struct ml_sampler **out, struct marlin_error *err) {
    ML_ASSERT(vocab > 0);
    marlin_status st = ml_sampling_check(settings, vocab, err);
    if (st != MARLIN_OK) return st;
    struct ml_sampler *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail(err, MARLIN_ERR_MEMORY, "sampling: out of memory");
    s->settings = *settings;
    s->vocab = vocab;
    ml_rng_seed(&s->rng, settings->seed);
    st = allocate(s, max_tokens, err);
    if (st == MARLIN_OK)
        *out = s;
    else
        ml_sampler_free(s);
    return st;
}

void ml_sampler_free(struct ml_sampler *s) {
    if (!s) return;
    ml_free(s->candidates);
    ml_free(s->bias);
    ml_free(s->where);
    ml_free(s->seen);
    ml_free(s->history);
    ml_free(s);
}

/* ---- history ---- */

static void count_up(struct ml_sampler *s, int32_t id) {
    if (s->where[id] < 0) {
        s->where[id] = (int32_t)s->n_seen;
        s->seen[s->n_seen++] = (struct seen){.id = id};
    }
    s->seen[s->where[id]].count++;
}

static void count_down(struct ml_sampler *s, int32_t id) {
    const int32_t at = s->where[id];
    if (--s->seen[at].count > 0) return;
    const struct seen last = s->seen[--s->n_seen];
    s->seen[at] = last;
    s->where[last.id] = at;
    s->where[id] = -1;
}

void ml_sampler_accept(struct ml_sampler *s, int32_t id) {
    if (!s->where || id < 0 || (size_t)id >= s->vocab || s->accepted == s->max_tokens) return;
    const size_t n = s->accepted++;
    s->history[n] = id;
    if (n >= s->window) count_down(s, s->history[n - s->window]);
    count_up(s, id);
}

/* Undoes the last ml_sampler_accept. */
static void forget(struct ml_sampler *s) {
    const size_t n = --s->accepted;
    count_down(s, s->history[n]);
    if (n >= s->window) count_up(s, s->history[n - s->window]);
}

struct ml_sampler_mark ml_sampler_mark(const struct ml_sampler *s) {
    return (struct ml_sampler_mark){.rng = s->rng, .accepted = s->accepted};
}

void ml_sampler_rewind(struct ml_sampler *s, const struct ml_sampler_mark *mark) {
    while (s->accepted > mark->accepted)
        forget(s);
    s->rng = mark->rng;
}

/* ---- logits ---- */

static void adjust(const struct ml_sampler *s, float *logits) {
    const struct ml_sampling *set = &s->settings;
    for (size_t i = 0; i < set->n_bias; i++) {
        logits[s->bias[i].id] += s->bias[i].bias;
    }
    for (size_t i = 0; i < s->n_seen; i++) {
        float *l = &logits[s->seen[i].id];
        *l = *l > 0 ? *l / set->repetition_penalty : *l * set->repetition_penalty;
        const float falling = set->frequency_penalty * (float)s->seen[i].count;
        *l -= set->presence_penalty + falling;
    }
}

/* Index of the largest logit, the first of equals. */
static marlin_status largest(const float *logits, size_t n, size_t *at, struct marlin_error *err) {
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY)
            return ml_fail(err, MARLIN_ERR_NUMERIC, "sampling: the logit of id %zu is %s", i,
                           isnan(logits[i]) ? "NaN" : "infinite");
        if (logits[i] > logits[best]) best = i;
    }
    if (logits[best] == -INFINITY)
        return ml_fail(err, MARLIN_ERR_NUMERIC,
                       "sampling: every token is forbidden: all logits are -infinity");
    *at = best;
    return MARLIN_OK;
}

/* exp(x) for x <= 0, relative error below 1e-15: 2^n times the Taylor series of the rest, which is at most
 * ln(2) / 2. Products and sums stand in statements of their own, so that no compiler fuses them and every
 * machine gets the same bits. */
static double exp_negative(double x) {
    static const double inverse_factorial[] = {1.0 / 6227020800,
                                               1.0 / 479001600,
                                               1.0 / 39916800,
                                               1.0 / 3628800,
                                               1.0 / 362880,
                                               1.0 / 40320,
                                               1.0 / 5040,
                                               1.0 / 720,
                                               1.0 / 120,
                                               1.0 / 24,
                                               1.0 / 6,
                                               0.5,
                                               1,
                                               1};
    if (!(x >= -708)) return 0;
    const double scaled = x * 1.4426950408889634;
    const int64_t n = (int64_t)(scaled - 0.5); /* to the nearest, as x is not positive */
    const double high = (double)n * 6.93147180369123816490e-01, low = (double)n * 1.90821492927058770002e-10;
    double r = x - high;
    r -= low;
    double sum = inverse_factorial[0];
    for (size_t k = 1; k < sizeof inverse_factorial / sizeof *inverse_factorial; k++) {
        sum *= r;
        sum += inverse_factorial[k];
    }
    const uint64_t bits = (uint64_t)(n + 1023) << 52; /* n >= -1022: a normal number */
    double power;
    memcpy(&power, &bits, sizeof power);
    return sum * power;
}

/* ---- heap of candidates ---- */

static bool more_likely(const struct candidate *a, const struct candidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

/* Restores the heap below i. likely_first: the most likely is on top, else the least likely. */
static void sift(struct candidate *c, size_t n, size_t i, bool likely_first) {
    const struct candidate moved = c[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && more_likely(&c[child + 1], &c[child]) == likely_first) child++;
        if (more_likely(&c[child], &moved) != likely_first) break;
        c[i] = c[child];
        i = child;
    }
    c[i] = moved;
}

static void heapify(struct candidate *c, size_t n, bool likely_first) {
    for (size_t i = n / 2; i-- > 0;) {
        sift(c, n, i, likely_first);
    }
}

/* Fills the candidates with the k largest logits, most likely first. */
static void take_top_k(struct ml_sampler *s, const float *logits, size_t k) {
    struct candidate *c = s->candidates;
    for (size_t i = 0; i < k; i++) {
        c[i] = (struct candidate){.logit = logits[i], .id = (int32_t)i};
    }
    heapify(c, k, false);
    for (size_t i = k; i < s->vocab; i++) {
        /* Ids rise, so that an equal logit is never the better one. */
        if (logits[i] <= c[0].logit) continue;
        c[0] = (struct candidate){.logit = logits[i], .id = (int32_t)i};
        sift(c, k, 0, false);
    }
    for (size_t n = k; n-- > 1;) {
        const struct candidate least = c[0];
        c[0] = c[n];
        c[n] = least;
        sift(c, n, 0, false);
    }
    s->n = k;
}

static void take_all(struct ml_sampler *s, const float *logits) {
    for (size_t i = 0; i < s->vocab; i++) {
        s->candidates[i] = (struct candidate){.logit = logits[i], .id = (int32_t)i};
    }
    s->n = s->vocab;
}

static double weigh(struct ml_sampler *s, float top) {
    const double temperature = s->settings.temperature;
    double total = 0;
    for (size_t i = 0; i < s->n; i++) {
        struct candidate *c = &s->candidates[i];
        c->weight = exp_negative(((double)c->logit - (double)top) / temperature);
        total += c->weight;
    }
    return total;
}

/* Most likely first: keeps the shortest run that reaches `wanted`. */
static void cut_sorted(struct ml_sampler *s, double wanted) {
    double sum = 0;
    size_t n = 0;
    while (n < s->n && sum < wanted) {
        sum += s->candidates[n++].weight;
    }
    s->n = n ? n : 1;
}

/* In id order: all candidates lighter than (1 - p) total / n together weigh less than what the nucleus may
 * leave out, so they are not in it. The others go through a heap; the taken ones gather at the end, then move
 * to the front. */
static void cut_unsorted(struct ml_sampler *s, double p, double total) {
    struct candidate *c = s->candidates;
    const double least = (1 - p) * total / (double)s->n;
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (c[i].weight >= least) c[n++] = c[i];
    }
    heapify(c, n, true);
    double sum = 0;
    size_t left = n;
    while (left > 0 && (sum < p * total || left == n)) {
        const struct candidate top = c[0];
        c[0] = c[--left];
        sift(c, left, 0, true);
        c[left] = top;
        sum += top.weight;
    }
    s->n = n - left;
    for (size_t i = 0, j = n - 1; i < j; i++, j--) {
        const struct candidate swap = c[i];
        c[i] = c[j];
        c[j] = swap;
    }
}

static void apply_min_p(struct ml_sampler *s) {
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->candidates[i].weight >= (double)s->settings.min_p) s->candidates[n++] = s->candidates[i];
    }
    s->n = n; /* the most likely weighs 1, so it stays */
}

static int32_t draw(struct ml_sampler *s) {
    double total = 0, sum = 0;
    for (size_t i = 0; i < s->n; i++) {
        total += s->candidates[i].weight;
    }
    const double target = ml_rng_double(&s->rng) * total;
    int32_t id = s->candidates[0].id;
    for (size_t i = 0; i < s->n; i++) {
        if (s->candidates[i].weight <= 0) continue;
        id = s->candidates[i].id;
        sum += s->candidates[i].weight;
        if (sum > target) break;
    }
    return id;
}

marlin_status ml_sampler_next(struct ml_sampler *s, float *logits, int32_t *id, struct marlin_error *err) {
    const struct ml_sampling *set = &s->settings;
    size_t best = 0;
    adjust(s, logits);
    marlin_status st = largest(logits, s->vocab, &best, err);
    if (st != MARLIN_OK) return st;
    if (set->temperature == 0) {
        *id = (int32_t)best;
        return MARLIN_OK;
    }
    const bool sorted = set->top_k > 0 && (size_t)set->top_k < s->vocab;
    if (sorted)
        take_top_k(s, logits, (size_t)set->top_k);
    else
        take_all(s, logits);
    const double total = weigh(s, logits[best]);
    if (set->top_p < 1) {
        if (sorted)
            cut_sorted(s, (double)set->top_p * total);
        else
            cut_unsorted(s, (double)set->top_p, total);
    }
    if (set->min_p > 0) apply_min_p(s);
    *id = draw(s);
    return MARLIN_OK;
}
